"""What stands around the messages of a request: one program sends the same bytes there call after call, so they are read once.

A body is a head, the array of its messages, and a tail. Where the bytes of a known head and tail stand around bytes that are an
array, the body is that object with that array, and what was made of the rest holds for it too: JSON leaves no other way to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw

from ..domain.call import Malformed
from ..domain.shape import Shape
from . import opening
from .opening import MARK, Begun

FRAMES = 8  # at one key (where the array's name stands, and the bytes behind the last bracket): programs with other tools
FRAME_MAX = 128 << 10  # bytes of a head and its tail
BYTES_MAX = 8 << 20
FRAME_BYTES = 1_200  # what one takes beside its bytes
TRIES = 32  # frames that are kept for one key, all in all: what differs with every call (a user's name, a seed) is no frame
TRIED_MAX = 4_096
_SPACE, _BETWEEN = b" \t\r\n", b", \t\r\n"

T = TypeVar("T")
S = TypeVar("S")


class Frame(Shape, Generic[T], frozen=True, gc=False):
    """The bytes up to the array and behind it, and what was made of them."""

    head: bytes
    tail: bytes
    told: T


class Frames(Generic[T]):
    """The frames of one dialect. Bounded: when they are too many it begins anew."""

    __slots__ = ("_tries", "bytes", "known")

    def __init__(self) -> None:
        self.known: dict[tuple[int, bytes], tuple[Frame[T], ...]] = {}
        self._tries: dict[int, int] = {}
        self.bytes = 0

    def keep(self, key: tuple[int, bytes], body: bytes, place: bytes, raws: Sequence[Raw], begun: Begun | None, told: T) -> None:
        """Keep the frame of a body that was read, when its like has come before; not for ever, where that never helps."""
        tries = self._tries.get(hash(key), 0)
        if len(self._tries) >= TRIED_MAX:
            self._tries.clear()
        self._tries[hash(key)] = tries + 1
        if not 0 < tries <= TRIES:
            return
        cut = _cut(body, place, raws, begun)
        if cut is None:
            return
        head, tail = cut
        self.bytes += len(head) + len(tail) + FRAME_BYTES
        if self.bytes > BYTES_MAX:
            self.known.clear()
            self.bytes = len(head) + len(tail) + FRAME_BYTES
        self.known[key] = (Frame(head, tail, told), *self.known.get(key, ())[: FRAMES - 1])


def _cut(body: bytes, place: bytes, raws: Sequence[Raw], begun: Begun | None) -> tuple[bytes, bytes] | None:
    """The bytes around the array; None where another member could be meant by its name."""
    at = body.find(place)
    start = body.find(b"[", at)
    end = start + 1
    known = begun.known if begun is not None else None
    if known is not None:
        if known.array != end:
            return None
        end, raws = known.end, raws[1:]
    for raw in raws:
        while body[end] in _BETWEEN:
            end += 1
        if not body.startswith(bytes(raw), end):
            return None
        end += len(memoryview(raw))
    while body[end] in _SPACE:
        end += 1
    head, tail = body[:start], body[end + 1 :]
    if body[end] != 0x5D or len(head) + len(tail) > FRAME_MAX:
        return None
    # The name may stand once, and not be hidden in an escape: it is then the member's, and this its array.
    if head.count(place) + tail.count(place) != 1 or b"\\u" in head or b"\\u" in tail:
        return None
    return head, tail


_raws = msgspec.json.Decoder(list[Raw])


def read(
    body: bytes, shape: type[S], place: bytes, messages: Callable[[S], Sequence[Raw] | None], openings: opening.Shelf,
    frames: Frames[T], make: Callable[[S, tuple[str, ...]], T | Malformed],
) -> tuple[T, Sequence[Raw], Begun | None] | Malformed:  # fmt: skip
    """What was made of a body but for its messages, and those that are not known; the first of them stands for those that are.
    `place` is their array's name, in quotes."""
    at = body.find(place, 0, FRAME_MAX)
    key = at, body[body.rfind(b"]") :]
    frame, stop = None, len(body)
    for one in frames.known.get(key, ()):
        if body.endswith(one.tail) and body.startswith(one.head):
            frame, stop = one, stop - len(one.tail)
            break
    begun = opening.look(body, openings, stop) if len(body) >= opening.LARGE else None
    if frame is not None:
        raws = _between(body, len(frame.head), stop, begun)
        if raws is not None:
            return frame.told, raws, begun
    found = opening.read(body, shape, messages, begun)
    if isinstance(found, Malformed):
        return found
    given, members, begun = found
    told = make(given, members)
    if isinstance(told, Malformed):
        return told
    raws = messages(given)
    if raws is None:
        return told, (), begun
    if frame is None:
        frames.keep(key, body, place, raws, begun, told)
    return told, raws, begun


def _between(body: bytes, start: int, stop: int, begun: Begun | None) -> list[Raw] | None:
    """The array, if that is what stands there."""
    known = begun.known if begun is not None else None
    if known is None:
        inner = body[start:stop]
    elif known.array == start + 1:
        inner = b"[" + MARK + body[known.end : stop]
    else:
        return None
    try:
        if not inner.isascii():
            inner.decode()  # msgspec does not look at the bytes of what it skips
        return _raws.decode(inner)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
