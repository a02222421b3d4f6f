"""Which conversation a request belongs to, from its messages alone, and how far that one has come.

An explicit id wins. Else a request belongs to the conversation whose messages it extends: the chain of everything said but the
system's is looked up where each of its messages ends, the newest first; with the reply that was relayed, so that openings that
are the same part at their second turn. Else (the front or the middle was dropped) by windows of three messages, by the opening,
by a text that a summary or a sub-agent was given (rules/thread_search.py). Never across scopes: the tenant is part of every key.
"""

from __future__ import annotations

from array import array

from ..domain.history import MODULUS, Failed, History, Pairs, long_lines, paired, without_tools
from ..domain.shape import replace
from ..domain.thread import (
    CHAIN,
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
    Head,
    Heard,
    Index,
    Landmark,
    Placed,
    Thread,
    begun,
)
from .thread_search import (
    LANDMARK_OF,
    SAMPLE,
    WINDOW_OF,
    behind,
    carried,
    key_of,
    landmarks,
    named,
    scope_of,
    search,
    stored,
    window_of,
)

TAIL_OF = 12  # digests by which conversations with the same window are told apart
AGAIN_WITHIN = 3  # calls after a tool's failure in which calling it again is a retry
FREE = 12  # tool results after a person let a conversation go on, before a loop is a loop again


def follow(index: Index, ask: Ask) -> Placed:
    """Place a request, and remember that it is under way."""
    history, at_us = ask.history, ask.at_us
    end = history.end
    scope = scope_of(ask.scope)
    own = scope | (behind(ask.previous, end.chain) if ask.previous else end.chain) << 2 | CHAIN
    match, again, parent = search(index, scope, ask, own)
    found, before, at = match.thread, match.head, match.at
    thread = begun(ask.explicit or ask.call, scope, at_us, parent) if found is None else found
    once_more = again is not None and (again.body or again.outcome not in (GOOD, OPEN) or not history.replied)
    if before is not None and at is not None and (again is None or once_more):
        # What was booked at the head, and what has come since.
        turns, calls = before.turns + end.turns - at.turns, before.calls + end.calls - at.calls
        depth = end.depth if end.turns > at.turns else before.depth + end.depth - at.depth
    else:
        # Nothing says where the earlier requests ended: what was booked, and what is new since the last reply. A loop whose
        # front was dropped sends the same messages again and again, but not the same bytes: they have other ids.
        turns, depth, calls = thread.turns, thread.depth, thread.calls
        if found is not None and not once_more:
            human, results = history.fresh_human, history.fresh_results
            turns, depth, calls = turns + human, 0 if human else depth + results, calls + results
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
    thread.seen_us = at_us
    head = Head(thread, ask.call, ask.model, ask.body, at_us, turns, depth, calls)
    if end.messages:
        index.put(own, head)
    if found is None and ask.explicit:
        index.put(named(scope, NAMED, ask.explicit), head, root=True)
    index.use(thread)
    after: Again | None = None
    if before is not None and again is None:
        after = Again(before.call, before.outcome, before.why, before.model, False, at_us - before.at_us)
    return Placed(
        thread.id, match.by, turns, depth, calls, thread.ambiguous, thread.parent, pairs, fresh, again, after, failed, thread.failing,
        at.messages if at is not None else 0, head, ask, thread.top, thread.tokens, thread.cost, thread.stops,
        calls < thread.free_until,
    )  # fmt: skip


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
    placed, reply, outcome = told.placed, told.reply, told.outcome
    ask, head = placed.ask, placed.head
    thread, history = head.thread, ask.history
    end, scope = history.end, thread.scope
    head.outcome, head.why = outcome, told.why
    thread.tokens += told.tokens
    thread.cost += told.cost
    if told.stopped:
        thread.stops += 1
    marks: list[Landmark] = []
    digests, replied = history.digests, history.replied
    shared = not ask.explicit and index.shared  # who names his conversations is known by that name
    answered = outcome in (GOOD, MALFORMED)
    if answered and reply is not None:
        if end.messages and not ask.previous and reply.power != 1:
            chain = (end.chain * reply.power + reply.digest) % MODULUS
            answer = Head(thread, ask.call, ask.model, ask.body, told.at_us, head.turns, head.depth, head.calls, outcome)
            key = scope | chain << 2 | CHAIN
            index.put(key, answer, not replied)
            if replied:
                digests = digests + array("Q", [part & 0xFFFFFFFFFFFFFFFF for part in reply.parts])
            elif shared:
                marks.append(_mark(key, placed, told.at_us))
        for prompt in reply.prompts:
            index.carry(carried(scope, PROMPT, prompt), thread)
        if reply.text and end.messages > 3:
            for line in long_lines(reply.text):
                index.carry(carried(scope, LINE, line), thread)
        for one in history.failed:
            if one.doubt and any([use.digest == one.doubt for use in reply.uses]):
                index.carry(_no_answer(scope, one), thread)
        thread.uses = reply.uses if told.keep_uses else ()
    if replied and len(digests) >= WINDOW_OF:
        head.tail = digests[-TAIL_OF:]
        index.put(key_of(scope, WINDOW, window_of(digests, WINDOW_OF)), head)
    if told.keep_uses and told.response_id and answered:
        key = named(scope, RESPONSE, told.response_id)
        index.put(key, head)
        if index.shared:
            marks.append(_mark(key, placed, told.at_us))
    if shared:
        if len(digests) >= LANDMARK_OF and digests[-1] % SAMPLE == 0:
            marks.append(_mark(key_of(scope, WINDOW, window_of(digests, LANDMARK_OF)), placed, told.at_us))
        new = [mark for mark in (end, *history.marks) if mark.messages > placed.seen]
        for key, mark in landmarks(scope, history, new):
            turns, calls = placed.turns - end.turns + mark.turns, placed.calls - end.calls + mark.calls
            depth = mark.depth if mark.turns < end.turns else placed.depth - end.depth + mark.depth
            marks.append(Landmark(stored(key), placed.conversation, turns, depth, calls, told.at_us))
    return tuple(marks) if marks else ()


def resume(placed: Placed, lives: int) -> Placed:
    """A person has let the conversation go on, `lives` times in all: it has its limits once more, and what it did is no loop."""
    thread = placed.head.thread
    if lives > thread.lives:
        thread.lives, thread.free_until, thread.stops = lives, placed.calls + FREE, 0
    return replace(placed, stops=thread.stops, free=placed.calls < thread.free_until)


def _mark(key: int, placed: Placed, at_us: int) -> Landmark:
    return Landmark(stored(key), placed.conversation, placed.turns, placed.depth, placed.calls, at_us)
