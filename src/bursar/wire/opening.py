"""The beginning of a request that came before, byte for byte: an agent sends its history again and again, and only its end is new.

What is remembered of a beginning is where it ends, a strong hash of it, and what its messages told. A body that begins with the same
bytes is decoded without them, and the hash goes on from there: it is the request's own in the end. Found by samples, trusted for the
hash alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from blake3 import blake3
from msgspec import Raw

from ..domain.call import Malformed
from ..domain.shape import Shape
from . import body as gate

LARGE = 4 << 10  # a smaller body is read whole in less time than it takes to look
ENDS = 8  # of beginnings with the same samples
ENDS_BYTES = 550  # what remembering so many takes, as measured
WIDE = 32  # bytes looked at before the last sample
SPOTS = 512  # bytes at equal distances by which a beginning is looked up, beside its last ones: one slice takes them
TRIES = 7  # steps of an eighth of an octave: a request may be some 70% longer than the one that it carries on

# Keyed so that a hash in the ledger cannot be matched with one somebody computed from a guessed prompt elsewhere.
HASH_KEY = b"bursar request hash, version 1\0\0"

# Stands for the messages that are known, as the first of those that are not. Another one in each process.
MARK = b"%d" % hash(b"the messages before")
_BETWEEN = b", \t\r\n"

T = TypeVar("T")


def request_hash(body: bytes) -> str:
    """A request's hash as its row has it."""
    return blake3(body, key=HASH_KEY).hexdigest(16) if body else ""


class Opening(Shape, frozen=True, gc=False):
    """A beginning: the first `end` bytes, up to behind a message; those begin at `array`. `state` is theirs to read who kept it.
    Kept by its hash."""

    end: int
    array: int
    count: int  # messages
    digest: bytes
    state: Any


class Ends(Shape, frozen=True, gc=False):
    """Where beginnings end that the samples do not tell apart, the newest last. Kept by the samples. Agents with one long prompt and
    other ids in it come alternately, and none is to drive out the others."""

    all: tuple[int, ...]


class Shelf(Protocol):
    def get(self, key: int) -> Opening | Ends | None: ...
    def put(self, key: int, value: Opening | Ends, size: int) -> None: ...


class Begun:
    """A body being read: what is known of its beginning, and its hash when all of it has been read."""

    __slots__ = ("_at", "_body", "_hasher", "known")

    def __init__(self, body: bytes, known: Opening | None = None, hasher: Any = None) -> None:
        self._body, self.known = body, known
        self._at = known.end if known is not None else 0
        self._hasher = blake3(key=HASH_KEY) if hasher is None else hasher

    def remember(self, openings: Shelf, place: bytes, raws: Sequence[Raw], state: Any, size: int) -> None:
        """Keep the beginning up to behind `raws`, the first messages that were not known; `size` is what keeping takes."""
        body, known = self._body, self.known
        at = array = known.array if known is not None else body.find(b"[", body.find(place)) + 1
        if known is not None:
            at = known.end
        for raw in raws:
            while body[at] in _BETWEEN:
                at += 1
            if not body.startswith(bytes(raw), at):
                return  # `place` was not the array's: a member of the same name stands before it
            at += len(memoryview(raw))
        if at < LARGE:
            return
        self._take(at)
        count = len(raws) + (known.count if known is not None else 0)
        digest, key = self._hasher.digest(), _key(body, _base(at)[0])
        ends = openings.get(key)
        before = ends.all if isinstance(ends, Ends) else ()
        if at not in before:
            openings.put(key, Ends((*before[1 - ENDS :], at)), ENDS_BYTES)
        openings.put(hash(digest), Opening(at, array, count, digest, state), size)

    def _take(self, end: int) -> None:
        self._hasher.update(memoryview(self._body)[self._at : end])
        self._at = end

    def hash(self) -> str:
        """`request_hash` of the whole body."""
        self._take(len(self._body))
        return self._hasher.hexdigest(16)


def read(
    body: bytes, shape: type[T], messages: Callable[[T], object], begun: Begun | None
) -> tuple[T, tuple[str, ...], Begun | None] | Malformed:  # fmt: skip
    """`body.read`; of a body whose beginning is known, `messages` gives MARK and those that are not. `begun`: what `look` says."""
    if begun is not None and (known := begun.known) is not None:
        if body.find(MARK, known.end) < 0:
            found = gate.read(body[: known.array] + MARK + body[known.end :], shape)
            if not isinstance(found, Malformed):
                said = messages(found[0])
                if isinstance(said, list) and said and bytes(said[0]) == MARK:  # pyright: ignore[reportUnknownArgumentType]
                    return (*found, begun)
        begun = Begun(body)  # the array is given twice, or what follows is wrong: it is told of the whole
    found = gate.read(body, shape)
    return found if isinstance(found, Malformed) else (*found, begun)


def counted(messages: Sequence[object], begun: Begun | None) -> int:
    """How many messages a body has, of which these were read."""
    return len(messages) + (begun.known.count - 1 if begun is not None and begun.known is not None else 0)


def look(body: bytes, openings: Shelf, upto: int) -> Begun | None:
    """A body with what is known of its beginning, if anything is; None of a small one. `upto`: where its messages end, if that is
    known, else its own end: behind short talks stand long tools."""
    size = len(body)
    if size < LARGE:
        return None
    if upto < LARGE:
        return Begun(body)
    base, step = _base(upto)
    for _ in range(TRIES):
        if base + step <= LARGE:
            break
        ends = openings.get(_key(body, base))
        if isinstance(ends, Ends) and (begun := _longest(body, sorted([end for end in ends.all if end < size]), openings)) is not None:
            return begun
        if base == 8 * step:
            step //= 2
        base -= step
    return Begun(body)


def _longest(body: bytes, ends: list[int], openings: Shelf) -> Begun | None:
    """The longest of the beginnings up to these ends that is known: nearly always the last, else one pass over the body tells."""
    for some in (ends[-1:], ends[:-1]):
        hasher, at, found = blake3(key=HASH_KEY), 0, None
        for end in some:
            hasher.update(memoryview(body)[at:end])
            at, digest = end, hasher.digest()
            known = openings.get(hash(digest))
            if isinstance(known, Opening) and known.digest == digest:
                found = known, hasher if end == some[-1] else hasher.copy()
        if found is not None:
            return Begun(body, *found)
    return None


def _base(end: int) -> tuple[int, int]:
    """The four highest bits of a length, and the step between such."""
    shift = end.bit_length() - 4
    return end >> shift << shift, 1 << shift


def _key(body: bytes, base: int) -> int:
    """By samples of the first `base` bytes. The built-in hash is keyed anew in each process."""
    return hash((body[: base : base // SPOTS or 1], body[base - WIDE : base]))
