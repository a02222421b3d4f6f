"""Which conversation a request belongs to, from its messages alone, and how far that one has come.

An explicit id wins. Else a request belongs to the conversation whose messages it extends: the chain of everything said but the
system's is looked up where each of its messages ends, the newest first; with the reply that was relayed, so that openings that
are the same part at their second turn. Else (the front or the middle was dropped) by windows of three messages, by the opening,
by a text that a summary or a sub-agent was given. Never across scopes: the tenant is part of every key.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from ..domain.history import BASE, MODULUS, START, Failed, History, Pairs, long_lines, paired, without_tools
from ..domain.history import Mark as End
from ..domain.shape import Shape, replace
from ..domain.thread import (
    CHAIN,
    CUT,
    FAILED,
    GOOD,
    LINE,
    MALFORMED,
    NAMED,
    NO_ANSWER,
    OPEN,
    PROMPT,
    RESPONSE,
    WINDOW,
    Again,
    Ask,
    Failing,
    Found,
    Head,
    Heard,
    Index,
    Landmark,
    Placed,
    Thread,
    begun,
)

LOOK = 32  # ends of messages, newest first, at which an earlier request is looked for
WINDOW_OF = 3  # messages by which a history is found whose front or middle was dropped
LANDMARK_OF = 6  # … for other processes, where a window that two conversations have is of no use
TAIL_OF = 12  # digests by which conversations with the same window are told apart
LANDMARKS = 16  # windows that are looked up in the shared index, and marked for it, at once
SAMPLE = 4  # one window in so many is marked for other processes: both sides choose the same ones by their digest
AGAIN_WITHIN = 3  # calls after a tool's failure in which calling it again is a retry
FREE = 12  # tool results after a person let a conversation go on, before a loop is a loop again
STALE_US = 600_000_000  # a request that is still open after ten minutes has failed without our knowing


@lru_cache(maxsize=4096)
def scope_of(scope: str) -> int:
    """The high half of every key of a scope, 128 bits."""
    return (
        int.from_bytes(blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=16, person=b"bursar scope").digest(), "big") << 129
    )


def key_of(scope: int, kind: int, value: int) -> int:
    return scope | value << 2 | kind


@lru_cache(maxsize=4096)
def named(scope: int, kind: int, text: str) -> int:
    """The key of an id that somebody gave."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest()
    return key_of(scope, kind, int.from_bytes(digest, "big"))


def stored(key: int) -> bytes:
    """A key as the shared index has it."""
    return key.to_bytes(33, "big")


class _Match(Shape, frozen=True, gc=False):
    """A conversation, and the head of it that a request carries on, which stands at `at` in the request's history."""

    by: str = "new"
    thread: Thread | None = None
    head: Head | None = None
    at: End | None = None
    ambiguous: bool = False


_NONE = _Match()


def follow(index: Index, ask: Ask) -> Placed:
    """Place a request, and remember that it is under way."""
    history = ask.history
    end = history.end
    scope = scope_of(ask.scope)
    own = _own(scope, ask)
    before = index.latest(own) if end.messages else None
    again = _again(ask, before) if before is not None else None
    parent: Thread | None = None
    if ask.explicit:
        match = _explicit(index, scope, ask)
        if before is not None and before.thread is not match.thread:
            again = None
    elif ask.previous:
        match = _by_response(index, scope, ask)
        if match.thread is None and before is not None:
            match = _Match("again", before.thread, before, end)
        elif before is not None and before.thread is not match.thread:
            again = None
    elif not end.messages:
        match = _NONE
    else:
        match = _by_chain(index, scope, ask, before, again)
        if match.by != "again":
            again = None
        if match.thread is None and history.replied:
            match = _by_parts(index, scope, ask)
        elif match.thread is None:
            match, parent = _begun(index, scope, history)
    thread = match.thread or begun(ask.explicit or ask.call, scope, ask.at_us, parent)
    once_more = again is not None and (again.outcome not in (GOOD, OPEN) or again.body or not history.replied)
    if match.head is not None and match.at is not None and (again is None or once_more):
        turns, depth, calls = _counted(match.head, match.at, end)
    else:
        # Nothing says where the earlier requests ended: what was booked, and what is new since the last reply. A loop whose
        # front was dropped sends the same messages again and again, but not the same bytes: they have other ids.
        turns, depth, calls = thread.turns, thread.depth, thread.calls
        if match.thread is not None and not once_more:
            turns, calls = turns + history.fresh_human, calls + history.fresh_results
            depth = 0 if history.fresh_human else depth + history.fresh_results
    trimmed = calls > end.calls
    if turns < end.turns:
        turns = end.turns
    if depth < end.depth:
        depth = end.depth
    if not trimmed:
        calls = end.calls
    if not trimmed and thread.pairs is None and not history.loose:
        pairs, fresh = history.pairs, history.fresh_pairs
    else:
        pairs, fresh = _paired(thread, history, trimmed and not once_more)
    if thread.turns < turns:
        thread.turns = turns
    thread.depth = depth
    if thread.calls < calls:
        thread.calls = calls
    if match.ambiguous:
        thread.ambiguous = True
    failed = _less_doubt(index, scope, history.failed) if history.failed else ()
    if not once_more and (thread.failing or failed):
        thread.failing = _failing(thread.failing, history, failed)
    thread.seen_us = ask.at_us
    head = Head(thread, ask.call, ask.model, ask.body, ask.at_us, turns, depth, calls)
    if end.messages:
        index.put(own, head)
    if ask.explicit and match.thread is None:
        index.put(named(scope, NAMED, ask.explicit), head, root=True)
    index.use(thread)
    after = match.head if again is None else None
    return Placed(
        thread.id, match.by, turns, depth, calls, thread.ambiguous, thread.parent, pairs, fresh, again,
        _as_again(after, after.outcome, False, ask) if after is not None else None, failed, thread.failing,
        match.at.messages if match.at is not None else 0, head, ask, thread.top, thread.tokens, thread.cost, thread.stops,
        calls < thread.free_until,
    )  # fmt: skip


def _own(scope: int, ask: Ask) -> int:
    """Where a request stands: at the end of its messages, which where the provider keeps the others come after the response named."""
    chain = ask.history.end.chain
    if ask.previous:
        chain = (named(0, RESPONSE, ask.previous) * BASE + chain) % MODULUS
    return key_of(scope, CHAIN, chain)


def _again(ask: Ask, head: Head) -> Again:
    outcome = FAILED if head.outcome == OPEN and ask.at_us - head.at_us > STALE_US else head.outcome
    return _as_again(head, outcome, head.body == ask.body, ask)


def _as_again(head: Head, outcome: int, body: bool, ask: Ask) -> Again:
    return Again(head.call, outcome, head.why, head.model, body, ask.at_us - head.at_us)


def _explicit(index: Index, scope: int, ask: Ask) -> _Match:
    """Somebody says which: what is left to find is how far it had come."""
    found = index.latest(named(scope, NAMED, ask.explicit))
    if found is None:
        return _Match("explicit")
    thread = found.thread
    for mark in ask.history.marks[:LOOK]:
        head = index.of(scope | mark.chain << 2 | CHAIN, thread)
        if head is not None:
            return _Match("explicit", thread, head, mark)
    return _Match("explicit", thread)


def _by_response(index: Index, scope: int, ask: Ask) -> _Match:
    """The provider keeps the history, and the request names the response that it carries on."""
    key = named(scope, RESPONSE, ask.previous)
    head = index.latest(key)
    if head is not None:
        return _Match("response", head.thread, head, START)
    found = index.look_up([key]).get(key) if index.shared else None
    if found is None or not found.conversation:
        return _NONE
    thread = _revived(index, scope, ask, found)
    return _Match("shared", thread, _there(thread, ask, found), START)


def _by_chain(index: Index, scope: int, ask: Ask, before: Head | None, again: Again | None) -> _Match:
    """The same messages again; else the newest end of a message where an earlier request or reply ended; else by windows."""
    history = ask.history
    same = _Match("again", before.thread, before, history.end) if before is not None else _NONE
    if again is not None:
        if ask.retried or again.outcome in (FAILED, CUT, MALFORMED):
            return same
        if not history.replied:
            return _NONE  # an opening that somebody else has used too: a conversation of its own
    found = _NONE
    for mark in history.marks[:LOOK]:
        key = key_of(scope, CHAIN, mark.chain)
        head = index.waiting(key) if mark.messages else None
        if head is not None:
            if again is None or not head.claimed:
                found = _Match("chain", head.thread, head, mark, index.several(key))
            break
    if history.replied and (again is None or not again.body) and (found.at is None or found.at.messages < history.reply_at):
        # More than one reply since: it was given by another process, or the middle of the history was dropped.
        window = _by_window(index, scope, history, found.at)
        found = window if window.thread is not None else found
    if found.thread is None or found.head is None:
        return same
    index.claim(key_of(scope, CHAIN, found.at.chain if found.at is not None else 0), found.head)
    return found


def _by_window(index: Index, scope: int, history: History, chained: End | None) -> _Match:
    """The newest end of a message, after the one that the chain has found, where the last messages are those of an earlier
    request's end: the conversation with which most of them agree. Not the window at the very end: a loop's messages are the
    same again and again, and each time they are new."""
    best, match = (False, 0, False), _NONE
    opening = key_of(scope, CHAIN, chained.chain) if chained is not None else 0
    for mark in history.marks[:LOOK]:
        if chained is not None and mark.messages <= chained.messages:
            break
        upto = _upto(history, mark)
        for head in index.all(key_of(scope, WINDOW, _window(upto, WINDOW_OF))) if len(upto) >= WINDOW_OF else ():
            alike = (bool(opening) and index.of(opening, head.thread) is not None, _overlap(upto, head.tail), not head.claimed)
            if alike > best:
                best, match = alike, _Match("window", head.thread, head, mark)
            elif alike == best and head.thread is not match.thread:
                match = replace(match, ambiguous=True)
        if match.thread is not None:
            break
    return match


def _by_parts(index: Index, scope: int, ask: Ask) -> _Match:
    """A history that was dropped or changed but for its opening; or one that only other processes know."""
    history = ask.history
    head = index.latest(key_of(scope, CHAIN, history.root)) if history.root else None
    if head is not None:
        return _Match("root", head.thread, ambiguous=True)
    return _by_landmark(index, scope, ask) if index.shared else _NONE


def _by_landmark(index: Index, scope: int, ask: Ask) -> _Match:
    history = ask.history
    wanted = dict(_landmarks(scope, history, history.marks))
    root = key_of(scope, CHAIN, history.root) if history.root else 0
    known = index.look_up([*wanted, root] if root else list(wanted))
    for key, mark in wanted.items():
        found = known.get(key)
        if found is not None and found.conversation:
            thread = _revived(index, scope, ask, found)
            return _Match("shared", thread, _there(thread, ask, found), mark)
    found = known.get(root)
    if found is not None and found.conversation:
        return _Match("shared", _revived(index, scope, ask, found))
    return _Match(ambiguous=found is not None)


def _upto(history: History, mark: End) -> array[int]:
    """The digests of the messages up to a mark."""
    return history.digests[: len(history.digests) - (history.end.messages - mark.messages)]


def _window(digests: array[int], width: int) -> int:
    """The key of the last `width` messages alone."""
    value = 0
    for digest in digests[-width:]:
        value = (value * BASE + digest) % MODULUS
    return value


def _overlap(here: array[int], there: array[int] | None) -> int:
    """How many messages from the end on are the same."""
    if there is None:
        return 0
    number = 0
    for one, other in zip(reversed(here), reversed(there)):
        if one != other:
            break
        number += 1
    return number


def _landmarks(scope: int, history: History, marks: Sequence[End]) -> list[tuple[int, End]]:
    """Keys of windows that a process which never saw this request would look up too: both choose the same ones by their digest."""
    found: list[tuple[int, End]] = []
    for mark in marks[:LANDMARKS]:
        upto = _upto(history, mark)
        if len(upto) >= LANDMARK_OF and upto[-1] % SAMPLE == 0:
            found.append((key_of(scope, WINDOW, _window(upto, LANDMARK_OF)), mark))
    return found


def _revived(index: Index, scope: int, ask: Ask, found: Found) -> Thread:
    """A conversation that another process began, or this one forgot."""
    key = named(scope, NAMED, found.conversation)
    head = index.latest(key)
    if head is not None:
        return head.thread
    thread = begun(found.conversation, scope, ask.at_us)
    thread.turns, thread.depth, thread.calls = found.turns, found.depth, found.calls
    index.put(key, _there(thread, ask, found), root=True)
    return thread


def _there(thread: Thread, ask: Ask, found: Found) -> Head:
    """A head of which only the counts are known."""
    head = Head(thread, "", "", 0, ask.at_us, found.turns, found.depth, found.calls)
    head.outcome = GOOD
    return head


def _begun(index: Index, scope: int, history: History) -> tuple[_Match, Thread | None]:
    """A request without a history: whose summary it begins with, or the conversation that gave it its task."""
    for line in history.human_lines:
        thread = index.carrier(carried(scope, LINE, line))
        if thread is not None:
            return _Match("summary", thread), None
    return _NONE, index.carrier(carried(scope, PROMPT, history.human_text)) if history.human_text else None


def carried(scope: int, kind: int, text: int) -> int:
    """The key of a text by its hash in this process."""
    return scope | (text & MODULUS) << 2 | kind


def _counted(head: Head, at: End, end: End) -> tuple[int, int, int]:
    """Turns, depth and tool results: what was booked at the head, and what has come since."""
    depth = end.depth if end.turns > at.turns else head.depth + end.depth - at.depth
    return head.turns + end.turns - at.turns, depth, head.calls + end.calls - at.calls


def _paired(thread: Thread, history: History, trimmed: bool) -> tuple[Pairs, int]:
    """The last calls and their results. Where the history has lost some, those that were booked are carried on."""
    fresh = history.fresh_pairs
    booked = thread.pairs
    if booked is None or not trimmed:
        booked, fresh = history.pairs, history.fresh_pairs
    else:
        if history.fresh_human:
            booked = without_tools(booked)
        new = history.pairs
        for at in range(len(new.names) - fresh, len(new.names)):
            booked = paired(booked, new.names[at], new.calls[at], new.results[at], new.errors[at])
    for result in history.loose:
        use = next((use for use in thread.uses if use.id == result.id), None)
        if use is not None:
            booked = paired(booked, use.name, use.digest, result.digest, result.error)
            fresh += 1
    thread.pairs = booked
    return booked, fresh


def _less_doubt(index: Index, scope: int, failed: tuple[Failed, ...]) -> tuple[Failed, ...]:
    """The same answer of the same tool has made somebody here ask again in the same words: it was no answer then, and is none now."""
    if not any([one.doubt for one in failed]):
        return failed
    return tuple([replace(one, doubt=0) if one.doubt and index.carrier(_no_answer(scope, one)) is not None else one for one in failed])


def _no_answer(scope: int, one: Failed) -> int:
    return carried(scope, NO_ANSWER, hash((one.tool, one.why, one.said)))


def _failing(before: tuple[Failing, ...], history: History, failures: tuple[Failed, ...]) -> tuple[Failing, ...]:
    """Tools that have failed lately in this turn, and not answered since."""
    if history.fresh_human:
        return ()
    certain = [one for one in failures if not one.doubt]
    pairs, failed = history.pairs, {one.tool for one in certain}
    answered = set(pairs.names[-history.fresh_pairs :]) if history.fresh_pairs else set[str]()
    kept = [replace(one, calls=one.calls + 1) for one in before if one.tool not in answered | failed and one.calls < AGAIN_WITHIN]
    return (*kept, *[Failing(one.tool, one.why, 0) for one in certain])[-8:]


def heard(index: Index, told: Heard) -> tuple[Landmark, ...]:
    """Remember what became of a request; gives the lines that other processes need, to be written with the call's row."""
    placed, reply = told.placed, told.reply
    ask, head = placed.ask, placed.head
    thread, history = head.thread, ask.history
    end, scope = history.end, thread.scope
    head.outcome, head.why = told.outcome, told.why
    thread.tokens += told.tokens
    thread.cost += told.cost
    thread.stops += told.stopped
    marks: list[Landmark] = []
    digests, replied = history.digests, history.replied
    shared = index.shared and not ask.explicit  # who names his conversations is known by that name
    answered = told.outcome == GOOD or told.outcome == MALFORMED
    if answered and reply is not None:
        if end.messages and not ask.previous and reply.power != 1:
            chain = (end.chain * reply.power + reply.digest) % MODULUS
            answer = Head(thread, ask.call, ask.model, ask.body, told.at_us, head.turns, head.depth, head.calls, told.outcome)
            key = scope | chain << 2 | CHAIN
            index.put(key, answer, not replied)
            if replied:
                digests = digests + array("Q", [part & 0xFFFFFFFFFFFFFFFF for part in reply.parts])
            elif shared:
                marks.append(_mark(key, placed, told.at_us))
        for prompt in reply.prompts:
            index.carry(carried(scope, PROMPT, prompt), thread)
        for line in long_lines(reply.text) if end.messages > 3 and reply.text else ():
            index.carry(carried(scope, LINE, line), thread)
        for one in history.failed:
            if one.doubt and any([use.digest == one.doubt for use in reply.uses]):
                index.carry(_no_answer(scope, one), thread)
        thread.uses = reply.uses if told.keep_uses else ()
    if replied and len(digests) >= WINDOW_OF:
        head.tail = digests[-TAIL_OF:]
        index.put(key_of(scope, WINDOW, _window(digests, WINDOW_OF)), head)
    if told.keep_uses and told.response_id and answered:
        key = named(scope, RESPONSE, told.response_id)
        index.put(key, head)
        if index.shared:
            marks.append(_mark(key, placed, told.at_us))
    if shared:
        if len(digests) >= LANDMARK_OF and digests[-1] % SAMPLE == 0:
            marks.append(_mark(key_of(scope, WINDOW, _window(digests, LANDMARK_OF)), placed, told.at_us))
        new = [mark for mark in (end, *history.marks) if mark.messages > placed.seen]
        for key, mark in _landmarks(scope, history, new):
            turns, calls = placed.turns - end.turns + mark.turns, placed.calls - end.calls + mark.calls
            depth = mark.depth if mark.turns < end.turns else placed.depth - end.depth + mark.depth
            marks.append(Landmark(stored(key), placed.conversation, turns, depth, calls, told.at_us))
    return tuple(marks)


def resume(placed: Placed, lives: int) -> Placed:
    """A person has let the conversation go on, `lives` times in all: it has its limits once more, and what it did is no loop."""
    thread = placed.head.thread
    if lives > thread.lives:
        thread.lives, thread.free_until, thread.stops = lives, placed.calls + FREE, 0
    return replace(placed, stops=thread.stops, free=placed.calls < thread.free_until)


def _mark(key: int, placed: Placed, at_us: int) -> Landmark:
    return Landmark(stored(key), placed.conversation, placed.turns, placed.depth, placed.calls, at_us)
