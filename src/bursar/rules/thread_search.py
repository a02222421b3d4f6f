"""Where the conversation of a request is found: by an id, by the chain of its messages, by windows of them, by texts given on.

The keys of the index are made here too, each below a scope: what was said in one scope is never found from another.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from ..domain.history import BASE, MODULUS, START, History
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
    OPEN,
    PROMPT,
    RESPONSE,
    WINDOW,
    Again,
    Ask,
    Found,
    Head,
    Index,
    Thread,
    begun,
)

LOOK = 32  # ends of messages, newest first, at which an earlier request is looked for
WINDOW_OF = 3  # messages by which a history is found whose front or middle was dropped
LANDMARK_OF = 6  # … for other processes, where a window that two conversations have is of no use
LANDMARKS = 16  # windows that are looked up in the shared index, and marked for it, at once
SAMPLE = 4  # one window in so many is marked for other processes: both sides choose the same ones by their digest
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


class Match(Shape, frozen=True, gc=False):
    """A conversation, and the head of it that a request carries on, which stands at `at` in the request's history."""

    by: str = "new"
    thread: Thread | None = None
    head: Head | None = None
    at: End | None = None
    ambiguous: bool = False


NONE = Match()


def search(index: Index, scope: int, ask: Ask, own: int) -> tuple[Match, Again | None, Thread | None]:
    """The conversation that a request carries on; what it asks again, if it does; and the one that gave a new one its task."""
    history = ask.history
    end = history.end
    before = index.latest(own) if end.messages else None
    again: Again | None = None
    if before is not None:
        outcome = FAILED if before.outcome == OPEN and ask.at_us - before.at_us > STALE_US else before.outcome
        again = Again(before.call, outcome, before.why, before.model, before.body == ask.body, ask.at_us - before.at_us)
    parent: Thread | None = None
    if ask.explicit:
        match = _explicit(index, scope, ask)
        if before is not None and before.thread is not match.thread:
            again = None
    elif ask.previous:
        match = _by_response(index, scope, ask)
        if match.thread is None and before is not None:
            match = Match("again", before.thread, before, end)
        elif before is not None and before.thread is not match.thread:
            again = None
    elif not end.messages:
        match = NONE
    else:
        match = _by_chain(index, scope, ask, before, again)
        if match.by != "again":
            again = None
        if match.thread is None and history.replied:
            match = _by_parts(index, scope, ask)
        elif match.thread is None:
            match, parent = _begun(index, scope, history)
    return match, again, parent


def behind(previous: str, chain: int) -> int:
    """The chain of a request whose messages come after a response that it names, and the provider keeps what was before."""
    return (named(0, RESPONSE, previous) * BASE + chain) % MODULUS


def _explicit(index: Index, scope: int, ask: Ask) -> Match:
    """Somebody says which: what is left to find is how far it had come."""
    found = index.latest(named(scope, NAMED, ask.explicit))
    if found is None:
        return Match("explicit")
    thread, marks = found.thread, ask.history.marks
    if marks:
        of = index.of
        for mark in marks[:LOOK]:
            head = of(scope | mark.chain << 2 | CHAIN, thread)
            if head is not None:
                return Match("explicit", thread, head, mark)
    return Match("explicit", thread)


def _by_response(index: Index, scope: int, ask: Ask) -> Match:
    """The provider keeps the history, and the request names the response that it carries on."""
    key = named(scope, RESPONSE, ask.previous)
    head = index.latest(key)
    if head is not None:
        return Match("response", head.thread, head, START)
    found = index.look_up([key]).get(key) if index.shared else None
    if found is None or not found.conversation:
        return NONE
    thread = _revived(index, scope, ask, found)
    return Match("shared", thread, _there(thread, ask, found), START)


def _by_chain(index: Index, scope: int, ask: Ask, before: Head | None, again: Again | None) -> Match:
    """The same messages again; else the newest end of a message where an earlier request or reply ended; else by windows."""
    history = ask.history
    same = Match("again", before.thread, before, history.end) if before is not None else NONE
    if again is not None:
        if ask.retried or again.outcome in (FAILED, CUT, MALFORMED):
            return same
        if not history.replied:
            return NONE  # an opening that somebody else has used too: a conversation of its own
    found = NONE
    for mark in history.marks[:LOOK]:
        key = key_of(scope, CHAIN, mark.chain)
        head = index.waiting(key) if mark.messages else None
        if head is not None:
            if again is None or not head.claimed:
                found = Match("chain", head.thread, head, mark, index.several(key))
            break
    if history.replied and (again is None or not again.body) and (found.at is None or found.at.messages < history.reply_at):
        # More than one reply since: it was given by another process, or the middle of the history was dropped.
        window = _by_window(index, scope, history, found.at)
        found = window if window.thread is not None else found
    if found.thread is None or found.head is None:
        return same
    index.claim(key_of(scope, CHAIN, found.at.chain if found.at is not None else 0), found.head)
    return found


def _by_window(index: Index, scope: int, history: History, chained: End | None) -> Match:
    """The newest end of a message, after the one that the chain has found, where the last messages are those of an earlier
    request's end: the conversation with which most of them agree. Not the window at the very end: a loop's messages are the
    same again and again, and each time they are new."""
    best, match = (False, 0, False), NONE
    opening = key_of(scope, CHAIN, chained.chain) if chained is not None else 0
    for mark in history.marks[:LOOK]:
        if chained is not None and mark.messages <= chained.messages:
            break
        upto = _upto(history, mark)
        for head in index.all(key_of(scope, WINDOW, window_of(upto, WINDOW_OF))) if len(upto) >= WINDOW_OF else ():
            alike = (bool(opening) and index.of(opening, head.thread) is not None, _overlap(upto, head.tail), not head.claimed)
            if alike > best:
                best, match = alike, Match("window", head.thread, head, mark)
            elif alike == best and head.thread is not match.thread:
                match = replace(match, ambiguous=True)
        if match.thread is not None:
            break
    return match


def _by_parts(index: Index, scope: int, ask: Ask) -> Match:
    """A history that was dropped or changed but for its opening; or one that only other processes know."""
    history = ask.history
    head = index.latest(key_of(scope, CHAIN, history.root)) if history.root else None
    if head is not None:
        return Match("root", head.thread, ambiguous=True)
    return _by_landmark(index, scope, ask) if index.shared else NONE


def _by_landmark(index: Index, scope: int, ask: Ask) -> Match:
    history = ask.history
    wanted = dict(landmarks(scope, history, history.marks))
    root = key_of(scope, CHAIN, history.root) if history.root else 0
    known = index.look_up([*wanted, root] if root else list(wanted))
    for key, mark in wanted.items():
        found = known.get(key)
        if found is not None and found.conversation:
            thread = _revived(index, scope, ask, found)
            return Match("shared", thread, _there(thread, ask, found), mark)
    found = known.get(root)
    if found is not None and found.conversation:
        return Match("shared", _revived(index, scope, ask, found))
    return Match(ambiguous=found is not None)


def _upto(history: History, mark: End) -> array[int]:
    """The digests of the messages up to a mark."""
    return history.digests[: len(history.digests) - (history.end.messages - mark.messages)]


def window_of(digests: array[int], width: int) -> int:
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


def landmarks(scope: int, history: History, marks: Sequence[End]) -> list[tuple[int, End]]:
    """Keys of windows that a process which never saw this request would look up too: both choose the same ones by their digest."""
    found: list[tuple[int, End]] = []
    for mark in marks[:LANDMARKS]:
        upto = _upto(history, mark)
        if len(upto) >= LANDMARK_OF and upto[-1] % SAMPLE == 0:
            found.append((key_of(scope, WINDOW, window_of(upto, LANDMARK_OF)), mark))
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


def _begun(index: Index, scope: int, history: History) -> tuple[Match, Thread | None]:
    """A request without a history: whose summary it begins with, or the conversation that gave it its task."""
    for line in history.human_lines:
        thread = index.carrier(carried(scope, LINE, line))
        if thread is not None:
            return Match("summary", thread), None
    return NONE, index.carrier(carried(scope, PROMPT, history.human_text)) if history.human_text else None


def carried(scope: int, kind: int, text: int) -> int:
    """The key of a text by its hash in this process."""
    return scope | (text & MODULUS) << 2 | kind
