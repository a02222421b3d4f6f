"""The messages of a request, told once: each message is looked into when it is new, and an opening sent again is known by its bytes.

What is remembered changes only how fast an answer comes, never which. It is bounded in bytes, the least used goes first.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from ..domain.history import (
    ASSISTANT,
    DIGESTS,
    EMPTY,
    HUMAN,
    JSON,
    MODULUS,
    NO_PAIRS,
    START,
    SYSTEM,
    TAIL,
    TEXT,
    TOOL,
    Failed,
    History,
    Mark,
    Message,
    Pairs,
    Result,
    Use,
    paired,
    without_tools,
)
from ..domain.shape import Shape, replace
from .failure import Sign
from .frame import Frames
from .opening import Begun, Ends, Opening

LOOK = 12  # messages at the end among which a cache marker is looked for
MARKS = 33  # ends of messages, the newest, that are kept with an opening: what rules/thread_search.py looks at
RUNS = 32  # messages at the end whose place among the cached tokens is worked out one by one
OPEN_MAX = 64  # unanswered calls, and results of calls that are not there, that are kept
# What remembering takes, as measured (tests/wire/test_history.py): a message with no calls or results, each of those; an opening,
# the last pairs of call and result that it alone has, the end of each message that is new in it.
MESSAGE_BYTES, MORE_BYTES = 620, 380
OPENING_BYTES, PAIRS_BYTES, MARK_BYTES = 1050, 300, 130
SAID_MAX = 24 << 20
OPENINGS_MAX = 64 << 20
PREFACES_MAX = 4 << 20

LOW = 0xFFFFFFFFFFFFFFFF  # 64 bits of a digest

T = TypeVar("T")


class Kept(Generic[T]):
    """What was worked out before, up to so many bytes, the lately used half of it for certain: when the young ones fill half
    of the room, they become the old ones, and the old that nobody asked for meanwhile are gone."""

    __slots__ = ("_most", "_old", "_old_bytes", "_young", "_young_bytes")

    def __init__(self, most: int) -> None:
        self._most = most // 2
        self._young: dict[int, T] = {}
        self._old: dict[int, T] = {}
        self._young_bytes = self._old_bytes = 0

    def get(self, key: int) -> T | None:
        found = self._young.get(key)
        if found is None and self._old and (found := self._old.pop(key, None)) is not None:
            # Its size is not remembered apart: the mean of its generation stands for it.
            size = self._old_bytes // (len(self._old) + 1)
            self._old_bytes -= size
            self.put(key, found, size)
        return found

    def put(self, key: int, value: T, size: int) -> None:
        if key not in self._young:
            self._young_bytes += size
        self._young[key] = value
        if self._young_bytes > self._most:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0

    @property
    def bytes(self) -> int:
        return self._young_bytes + self._old_bytes

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Preface(Shape, frozen=True, gc=False):
    """What stands before the messages: system prompt and tools."""

    weight: int = 0
    print: int = 0
    tools: int = 0
    hosted: bool = False
    hour: bool = False


NO_PREFACE = Preface()


class _State(msgspec.Struct, gc=False):
    """Where a telling stands after so many messages. Openings keep one each, as it is: of one conversation they share most."""

    chain: int = 0
    turns: int = 0
    depth: int = 0
    calls: int = 0
    count: int = 0  # messages that said something
    root: int = 0
    kind: int = SYSTEM  # of the last of them
    replied: bool = False
    reply_at: int = 0
    digests: array[int] = array("Q")
    pairs: Pairs = NO_PAIRS
    open: dict[str, Use] = {}  # calls without an answer, by id
    habits: tuple[str, ...] = ()  # tools that have answered JSON
    said: int = 0  # digest of the assistant's last message, 64 bits
    said_uses: bool = False
    said_shape: int = EMPTY
    talk: int = 0  # bytes: up to the last reply, people's since, tools', the system's
    people: int = 0
    tools: int = 0
    system: int = 0
    runs: array[int] = array("Q")
    remote: str = ""
    hour: bool = False
    print: int = 0
    # since the last reply
    fresh_pairs: int = 0
    fresh_human: int = 0
    fresh_results: int = 0
    failed: tuple[Failed, ...] = ()
    loose: tuple[Result, ...] = ()
    preview: str = ""
    text: int = 0
    lines: tuple[int, ...] = ()
    repair: bool = False
    marks: tuple[Mark, ...] = ()  # oldest first; only where it is left with an opening


def _left(state: _State, marks: Sequence[Mark]) -> _State:
    """A state as it may be left with an opening, and taken up by any number of requests: what is changed in place is its own."""
    return replace(state, open=dict(islice(state.open.items(), OPEN_MAX)) if state.open else {}, marks=tuple(marks[-MARKS:]))


def _size(state: _State, new: int) -> int:
    """What an opening takes in which `new` messages are; what was told before is shared with the opening that it carries on."""
    columns = len(state.digests) + len(state.runs) + len(state.marks)
    return OPENING_BYTES + 8 * columns + (PAIRS_BYTES + 40 * len(state.pairs.names) if state.pairs.names else 0) + MARK_BYTES * new


_SILENT = Message(SYSTEM)  # for a system prompt that is not there
_OPENED = History(
    START, (), array("Q"), 0, False, 0, NO_PAIRS, 0, "", (), 1, 0, 0, (), EMPTY, False, (0, 0, 0, 0), array("Q"), (), "", False, 0,
)  # fmt: skip


class Teller:
    """One dialect's messages. `read` looks into one message; what it raises means the body is malformed."""

    def __init__(self, read: Callable[[bytes, Sequence[Sign]], Message], signs: Sequence[Sign] = ()) -> None:
        self._read, self._signs = read, signs
        self.said: Kept[Message] = Kept(SAID_MAX)
        self.openings: Kept[Opening | Ends] = Kept(OPENINGS_MAX)
        self.frames: Frames[Any] = Frames()

    def tell(self, raws: Sequence[Raw], preface: Preface = NO_PREFACE, begun: Begun | None = None, place: bytes = b"") -> History:
        """The history in `raws`, one message each; where the beginning of it is known, the first stands for that, and `place` is
        the name of their array. The built-in hash of bytes is keyed anew in each process; nothing of it is stored or leaves
        this object."""
        known = begun.known if begun is not None else None
        if known is None and 0 < len(raws) <= 2 and (opening := self._opened(raws, preface)) is not None:
            return opening
        if known is not None:
            before: _State = known.state
            state, marks, raws = replace(before, open=before.open.copy()), list(before.marks), raws[1:]
        else:
            state, marks = _State(), list[Mark]()
        # Where the opening to be remembered ends: cache markers move on, and from there the bytes will differ.
        keep = number = len(raws)
        messages: list[Message] = []
        said = self.said.get
        for at, raw in enumerate(raws):
            plain = bytes(raw)
            key = hash(plain)
            message = said(key) or self._new(plain, key)
            if message.marked and keep == number and number - at < LOOK:
                keep = at
            messages.append(message)
        _fold(state, messages[:keep], marks)
        if begun is not None and keep:
            left = _left(state, marks)
            begun.remember(self.openings, place, raws[:keep], left, _size(left, keep))
        if keep < number:
            _fold(state, messages[keep:], marks)
        end = marks.pop() if marks else START
        marks.reverse()
        s = state
        return History(
            end, tuple(marks), s.digests, s.root, s.replied, s.reply_at, s.pairs, s.fresh_pairs, s.preview, s.failed, s.fresh_human,
            s.fresh_results, s.text, () if s.replied else s.lines, s.said_shape, s.repair,
            (s.people, s.talk, s.tools, s.system + preface.weight), s.runs, s.loose, s.remote, s.hour, s.print,
        )  # fmt: skip

    def _new(self, raw: bytes, key: int) -> Message:
        message = self._read(raw, self._signs)
        self.said.put(key, message, MESSAGE_BYTES + (len(message.uses) + len(message.results)) * MORE_BYTES)
        return message

    def _opened(self, raws: Sequence[Raw], preface: Preface) -> History | None:
        """A person's one message, behind a system prompt or without: as conversations begin, and many calls are. The general way
        gives the same and takes a third longer. None: it is something else."""
        plain = bytes(raws[0])
        key = hash(plain)
        said, ordered = self.said.get(key) or self._new(plain, key), _SILENT
        runs = (said.weight << 2 | said.kind,)
        if len(raws) == 2:
            plain = bytes(raws[1])
            key = hash(plain)
            said, ordered = self.said.get(key) or self._new(plain, key), said
            runs = (*runs, said.weight << 2 | said.kind)
        if said.kind != HUMAN or said.power == 1 or ordered.kind != SYSTEM:
            return None
        digest = said.digest
        return replace(
            _OPENED, end=Mark(digest, 1, 0, 0, 1), digests=array("Q", (digest & LOW,)), human_text=said.text, human_lines=said.lines,
            repair=said.repair, weights=(said.weight, 0, 0, preface.weight + ordered.weight), runs=array("Q", runs),
            remote=ordered.remote or said.remote, hour=said.hour or ordered.hour, print=ordered.print,
        )  # fmt: skip


def _fold(state: _State, messages: Sequence[Message], marks: list[Mark]) -> None:
    """Carry a telling on over these messages. Running sums are locals: this is on the way of every call."""
    chain, turns, depth, calls, count = state.chain, state.turns, state.depth, state.calls, state.count
    kind, root, pairs, unanswered = state.kind, state.root, state.pairs, state.open
    talk, people, tools, system = state.talk, state.people, state.tools, state.system
    runs: list[int] = []
    spoken: list[int] = []
    for message in messages:
        mine, weight = message.kind, message.weight
        if message.remote and not state.remote:
            state.remote = message.remote
        if message.hour:
            state.hour = True
        if mine == SYSTEM or message.power == 1:  # reasoning and empty texts say nothing either
            if mine == SYSTEM:
                system += weight
                state.print = state.print or message.print
                runs.append(weight << 2 | SYSTEM)
            else:
                talk += weight
                runs.append(weight << 2 | ASSISTANT)
            continue
        runs.append(weight << 2 | mine)
        digest = message.digest & 0xFFFFFFFFFFFFFFFF
        if mine == ASSISTANT:
            talk += people + weight
            people = 0
            first = kind != ASSISTANT  # what the API sends as several items is one reply: its text and its calls belong together
            if first:
                _reply_begins(state)
                unanswered = dict[str, Use]()
                state.replied = state.replied or count > 0 or bool(message.uses)  # a greeting that comes first is no reply
                state.reply_at = count
            if first or message.shape != EMPTY:
                state.said, state.said_uses, state.said_shape = digest, bool(message.uses), message.shape
            for use in message.uses:
                unanswered[use.id or use.name] = use
        else:
            if kind == ASSISTANT and turns and not root:
                root = chain
            if mine == TOOL:
                tools += weight
                number = len(message.results)
                calls, depth = calls + number, depth + number
                state.replied = True
                state.fresh_results += number
                pairs = _answered(state, message.results, unanswered, pairs)
            else:
                people += weight
                turns, depth = turns + 1, 0
                pairs = _told(state, message, digest, kind == ASSISTANT, pairs)
                unanswered = dict[str, Use]()
        chain = (chain * message.power + message.digest) % MODULUS
        count += 1
        kind = mine
        spoken.append(digest)
        marks.append(Mark(chain, turns, depth, calls, count))
    state.chain, state.turns, state.depth, state.calls, state.count = chain, turns, depth, calls, count
    state.kind, state.root, state.pairs, state.open = kind, root, pairs, unanswered
    state.talk, state.people, state.tools, state.system = talk, people, tools, system
    state.runs = (state.runs + array("Q", runs))[-RUNS:]
    state.digests = (state.digests + array("Q", spoken))[-DIGESTS:]


def _reply_begins(state: _State) -> None:
    """What came before is not new any more."""
    state.fresh_pairs = state.fresh_human = state.fresh_results = 0
    state.failed, state.loose, state.preview, state.repair = (), (), "", False


def _answered(state: _State, results: Sequence[Result], unanswered: dict[str, Use], pairs: Pairs) -> Pairs:
    """Results of tools find the calls that they answer."""
    for result in results:
        use = unanswered.pop(result.id or result.name, None)
        name = use.name if use is not None else result.name
        why = result.failed
        for tool, own in result.own:
            if not tool or tool == name:
                why = own
        doubt = 0
        if not why:
            if result.shape == JSON and not result.code:
                if name not in state.habits:
                    state.habits = (*state.habits[-15:], name)
            elif result.shape != TEXT:
                why = "exit_code" if result.code else "empty" if result.shape == EMPTY else "malformed"
                if result.code or name not in state.habits:
                    doubt = _doubt(use, result, pairs)
                    why = why if use is not None else ""
        if why and len(state.failed) < OPEN_MAX:
            said = result.digest if doubt and result.code else 0
            state.failed = (*state.failed, Failed(name or "unknown", why, result.weight, doubt, said))
        if doubt:
            why = ""
        if use is None:
            if len(state.loose) < OPEN_MAX:
                state.loose = (*state.loose, result)
            continue
        state.preview = use.preview
        fresh = state.fresh_pairs
        if fresh and (use.digest, result.digest) in zip(pairs.calls[-fresh:], pairs.results[-fresh:]):
            continue  # the same twice in one paid reply is one step, and no loop
        pairs = paired(pairs, name, use.digest, result.digest, result.error or (result.digest if why else 0))
        state.fresh_pairs = min(fresh + 1, TAIL)
    return pairs


def _doubt(use: Use | None, result: Result, pairs: Pairs) -> int:
    """The digest of a call whose result may be meant so; 0 where the same was asked before, with the same result."""
    if use is None or (use.digest, result.digest) in zip(pairs.calls, pairs.results):
        return 0
    return use.digest


def _told(state: _State, message: Message, digest: int, after_reply: bool, pairs: Pairs) -> Pairs:
    """A person says something, or a program that has no tools answers the model in words."""
    state.fresh_human += 1
    state.text, state.repair = message.text, message.repair
    if not state.replied:
        state.lines = message.lines
    # An agent without tools: a step is its text, and what came of it is the text it is told next.
    answers = after_reply and not state.said_uses
    if not (answers and digest in pairs.results):
        left = without_tools(pairs)
        if left is not pairs:
            pairs, state.fresh_pairs = left, 0
    if not answers:
        return pairs
    state.preview = ""
    state.fresh_pairs += 1
    return paired(pairs, "", state.said, digest, 0)


class Signs:
    """The operator's patterns, and the tellers that know them. A policy is read into new ones."""

    __slots__ = ("own", "prefaces", "tellers")

    def __init__(self, own: Sequence[Sign] = ()) -> None:
        self.own = tuple(own)
        self.tellers: dict[str, Teller] = {}
        self.prefaces: Kept[Preface] = Kept(PREFACES_MAX)

    def teller(self, dialect: str, read: Callable[[bytes, Sequence[Sign]], Message]) -> Teller:
        found = self.tellers.get(dialect)
        if found is None:
            found = self.tellers[dialect] = Teller(read, self.own)
        return found

    def preface(self, raw: bytes, read: Callable[[bytes], Preface]) -> Preface:
        """A system prompt or a list of tools, looked into once."""
        key = hash(raw)
        found = self.prefaces.get(key)
        if found is None:
            found = read(raw)
            self.prefaces.put(key, found, 300)
        return found

    @property
    def bytes(self) -> int:
        """What is remembered of what requests said, each part of it bounded."""
        tellers = list(self.tellers.values())
        return self.prefaces.bytes + sum([one.said.bytes + one.openings.bytes + one.frames.bytes for one in tellers])


BUILT_IN = Signs()


def printed(system: int, tools: int) -> str:
    """The fingerprint of system prompt and tools, 16 hex digits."""
    return f"{(system * 0x9E3779B97F4A7C15 + tools) & 0xFFFFFFFFFFFFFFFF:016x}" if system or tools else ""
