"""All kept questions that near-duplicates are found among: an index for each wall and frame, bounded. Not safe for threads."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TypeAlias

from .near import Index, Match
from .near_vectors import Vectors

CHARS_MAX = 400_000  # of questions, all walls together: some 260 bytes each, so a hundred megabytes
WALL_MAX = 100_000  # behind one wall: nobody pushes all others out

Vector: TypeAlias = "array[float]"  # which Python 3.11 cannot subscript


class _Wall:
    """One wall's indexes by frame, used longest ago first, and the characters in them."""

    __slots__ = ("chars", "frames")

    def __init__(self) -> None:
        self.frames: OrderedDict[bytes, Index | Vectors] = OrderedDict()
        self.chars = 0


class Walls:
    """What was asked lately. What was used longest ago makes room: within its wall first, then of the wall used longest ago."""

    def __init__(self, chars_max: int = CHARS_MAX, wall_max: int = WALL_MAX) -> None:
        self._max, self._wall_max = chars_max, wall_max
        self._walls: OrderedDict[str, _Wall] = OrderedDict()
        self.chars = self.evicted = 0

    def __len__(self) -> int:
        return sum(len(index) for wall in self._walls.values() for index in wall.frames.values())

    def find(self, wall: str, frame: bytes, text: str, vector: Vector | None) -> Match | None:
        """The most like kept question of the same frame behind the same wall. `vector`: where likeness is an embedding's."""
        its = self._walls.get(wall)
        index = its.frames.get(frame) if its is not None else None
        if its is None or index is None:
            return None
        self._walls.move_to_end(wall)
        its.frames.move_to_end(frame)
        if isinstance(index, Vectors):
            return index.find(text, vector) if vector is not None else None
        return index.find(text) if vector is None else None

    def add(self, wall: str, frame: bytes, name: bytes, text: str, vector: Vector | None) -> None:
        """The question whose reply is kept under `name`."""
        its = self._walls.get(wall)
        if its is None:
            its = self._walls[wall] = _Wall()
        self._walls.move_to_end(wall)
        index = its.frames.get(frame)
        if index is not None and isinstance(index, Vectors) is (vector is None):  # the policy finds them another way now
            self._count(its, -index.chars)
            index = None
        if index is None:
            index = its.frames[frame] = Index() if vector is None else Vectors()
        its.frames.move_to_end(frame)
        before = index.chars
        if isinstance(index, Vectors):
            assert vector is not None, "its kind was looked at above"
            index.add(name, text, vector)
        else:
            index.add(name, text)
        self._count(its, index.chars - before)
        while its.chars > self._wall_max:
            self._shorten(its)
        while self.chars > self._max:
            oldest = next(iter(self._walls))
            self._shorten(self._walls[oldest])
            if not self._walls[oldest].frames:
                del self._walls[oldest]

    def drop(self, wall: str, frame: bytes, name: bytes) -> None:
        """Its reply is gone."""
        its = self._walls.get(wall)
        if its is not None and frame in its.frames:
            self._drop(its, frame, name)
            if not its.frames:
                del self._walls[wall]

    def _shorten(self, its: _Wall) -> None:
        frame, index = next(iter(its.frames.items()))
        self._drop(its, frame, index.oldest() or b"")
        self.evicted += 1

    def _drop(self, its: _Wall, frame: bytes, name: bytes) -> None:
        index = its.frames[frame]
        before = index.chars
        index.drop(name)
        self._count(its, index.chars - before)
        if not len(index):
            del its.frames[frame]

    def _count(self, its: _Wall, more: int) -> None:
        its.chars += more
        self.chars += more
