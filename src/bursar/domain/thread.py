"""Conversations as they are remembered: where one stood when a request or a reply ended, and the index that finds it again."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Protocol

from .history import Failed, History, Pairs, Reply, Use
from .shape import Changing, Shape

OPEN, GOOD, FAILED, CUT, MALFORMED = range(5)  # what became of a request; CUT: it was answered in part, or nobody can say
OUTCOMES = ("open", "good", "failed", "cut", "malformed")
CHAIN, WINDOW, NAMED, RESPONSE = range(4)  # what a head's key is made of
PROMPT, LINE, NO_ANSWER = range(3)  # what a carried text's key is made of


class Failing(Shape, frozen=True, gc=False):
    """A tool that failed in this turn and has not answered since."""

    tool: str
    why: str
    calls: int  # since then


class Thread(Changing, eq=False, gc=False):
    """One conversation. Changed in place, by rules/thread.py alone."""

    id: str
    scope: int
    seen_us: int
    parent: str
    top: str  # who began it all: limits of a conversation count there
    tokens: int = 0  # booked by this process
    cost: int = 0  # nano-dollars, likewise
    stops: int = 0  # replies that told it to stop
    lives: int = 1  # a person let it go on
    free_until: int = 0  # … until so many tool results nothing is called a loop
    ambiguous: bool = False  # somebody else's could not be told from it
    turns: int = 0  # these three as booked
    depth: int = 0
    calls: int = 0
    pairs: Pairs | None = None  # booked, where the history no longer shows them
    failing: tuple[Failing, ...] = ()
    uses: tuple[Use, ...] = ()  # calls of the last reply, where the provider keeps the history
    root: int = 0  # key of its opening, kept while it lives
    keys: list[int] = []  # of its latest heads, oldest first


def begun(ident: str, scope: int, seen_us: int, parent: Thread | None = None) -> Thread:
    """A new conversation; `parent` gave it its task."""
    if parent is None:
        return Thread(ident, scope, seen_us, "", ident)
    return Thread(ident, scope, seen_us, parent.id, parent.top)


class Head(Changing, eq=False, gc=False):
    """The end of a request or of a reply: what a later request may extend."""

    thread: Thread
    call: str
    model: str
    body: int
    at_us: int
    turns: int
    depth: int
    calls: int
    outcome: int = OPEN
    why: str = ""  # it failed, in a word: 5xx, 429, timeout, …
    claimed: bool = False  # a request has extended it
    tail: array[int] | None = None  # digests of the last messages, of a head that is found by a window


class Found(Shape, frozen=True, gc=False):
    """What another process has written of a conversation. Empty: more than one has this key."""

    conversation: str
    turns: int
    depth: int
    calls: int


class Landmark(Shape, frozen=True, gc=False):
    """A line for the index that processes share, written with a call's row."""

    key: bytes
    conversation: str
    turns: int
    depth: int
    calls: int
    at_us: int


class Index(Protocol):
    """Where heads are found by key. Bounded: what was not used for long is forgotten, whole conversations at a time."""

    @property
    def shared(self) -> bool:
        """Whether other processes see what is marked."""
        ...

    def latest(self, key: int) -> Head | None:
        """The newest head at a key."""
        ...

    def waiting(self, key: int) -> Head | None:
        """The oldest head at a key that nobody has claimed; when all are, the one that was claimed last."""
        ...

    def all(self, key: int) -> Sequence[Head]:
        """Some heads at a key, the newest among them: what can be looked through on the way of a call."""
        ...

    def of(self, key: int, thread: Thread) -> Head | None:
        """This conversation's head at a key."""
        ...

    def several(self, key: int) -> bool:
        """Whether heads of more than one conversation stand at a key: nothing there tells them apart."""
        ...

    def claim(self, key: int, head: Head) -> None:
        """A request extends the head: another one that extends the same messages gets another head, if there is one."""
        ...

    def put(self, key: int, head: Head, root: bool = False) -> None:
        """`root`: kept as long as the conversation is; others go when there are newer ones."""
        ...

    def use(self, thread: Thread) -> None:
        """It lives: it is forgotten last."""
        ...

    def carry(self, key: int, thread: Thread) -> None:
        """A text that another conversation may begin with; an answer that was once no answer."""
        ...

    def carrier(self, key: int) -> Thread | None: ...
    def look_up(self, keys: Sequence[int]) -> Mapping[int, Found]:
        """What other processes have written. May read a file: only for requests whose history nobody here knows."""
        ...


class Ask(Shape, frozen=True, gc=False):
    """A request whose conversation is asked for."""

    scope: str  # tenant, else key: nothing is ever found across scopes
    call: str  # names the conversation that begins with it
    at_us: int
    history: History
    explicit: str = ""  # said by header, body or label
    previous: str = ""  # id of the response that it carries on
    model: str = ""
    body: int = 0  # 64 bits of the request's hash
    retried: bool = False  # the SDK says so


class Again(Shape, frozen=True, gc=False):
    """The same messages were sent before."""

    call: str
    outcome: int
    why: str  # it failed, in a word
    model: str
    body: bool  # the very same bytes
    gap_us: int


class Placed(Shape, frozen=True, gc=False):
    """Where a request belongs."""

    conversation: str
    by: str  # explicit | response | chain | window | root | summary | shared | again | new
    turns: int  # the larger of what the history shows and what was booked
    depth: int
    calls: int
    ambiguous: bool
    parent: str
    pairs: Pairs
    fresh_pairs: int
    again: Again | None
    after: Again | None  # the request it carries on
    failed: tuple[Failed, ...]  # new results that are failures; fewer in doubt than the messages alone leave
    failing: tuple[Failing, ...]
    seen: int  # messages up to where that one, or its reply, ended
    head: Head  # its own
    ask: Ask
    top: str  # the conversation that began it all
    tokens: int  # booked so far, as far as this process knows
    cost: int  # nano-dollars, likewise
    stops: int  # replies that told it to stop
    free: bool = False  # a person has just let it go on


class Heard(Shape, frozen=True, gc=False):
    """What became of a placed request."""

    placed: Placed
    outcome: int
    why: str
    reply: Reply | None
    response_id: str
    keep_uses: bool  # the provider keeps the history: a later request may name the response and not say what was called
    at_us: int
    tokens: int = 0
    cost: int = 0  # nano-dollars
    stopped: bool = False  # it was told to stop, in a reply
