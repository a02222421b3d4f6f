"""Near-duplicates by the vectors of an embedding model: the same questions and answers as `near.Index`, another likeness."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from math import sqrt
from typing import NamedTuple

from .near import HEAD, TEXT_MAX, TEXTS_MAX, Match, Setting, differs

SETTING = Setting(least=0.9, margin=0.02)  # cosines of embeddings lie close together; whether that is enough the certificate says
COMPARED = 24  # vectors that are compared in full: those whose signs are most like the new one's
DIMENSIONS_MAX = 4_096


class _Held(NamedTuple):
    text: str
    unit: array[float]  # of length one
    signs: int


class Vectors:
    """Questions behind one wall and in one frame, each with its vector. Signs of the dimensions, a bit each, find the candidates:
    five thousand of them are compared in a millisecond."""

    def __init__(self, most: int = TEXTS_MAX) -> None:
        self._most = most
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self.chars = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, name: bytes, text: str, vector: array[float]) -> None:
        self.drop(name)
        unit = _unit(vector)
        if unit is None or not text or len(text) > TEXT_MAX:
            return
        while len(self._held) >= self._most:
            self.drop(next(iter(self._held)))
        self._held[name] = _Held(text, unit, _signs(unit))
        self.chars += _weight(text, unit)

    def drop(self, name: bytes) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self.chars -= _weight(held.text, held.unit)

    def oldest(self) -> bytes | None:
        return next(iter(self._held), None)

    def find(self, text: str, vector: array[float]) -> Match | None:
        """The kept question most like this one; None when there is none of as many dimensions."""
        unit = _unit(vector)
        if unit is None or not self._held or len(text) > TEXT_MAX:
            return None
        signs = _signs(unit)
        apart = sorted([((held.signs ^ signs).bit_count(), name) for name, held in self._held.items() if len(held.unit) == len(unit)])
        scored = sorted(
            [(sum(map(float.__mul__, unit, self._held[name].unit)), name) for _, name in apart[:COMPARED]], reverse=True
        )  # fmt: skip
        if not scored:
            return None
        best, name = scored[0]
        second = scored[1][0] if len(scored) > 1 else 0.0
        self._held.move_to_end(name)
        return Match(name, best, best - second, differs(text, self._held[name].text))


def _unit(vector: array[float]) -> array[float] | None:
    length = sqrt(sum(value * value for value in vector))
    if not length or len(vector) > DIMENSIONS_MAX:
        return None
    return array("f", [value / length for value in vector])


def _signs(unit: array[float]) -> int:
    return int("".join(["1" if value > 0 else "0" for value in unit]), 2)


def _weight(text: str, unit: array[float]) -> int:
    """In characters of a text that is indexed by its words, which take some 260 bytes each."""
    return len(text) + HEAD + len(unit) // 50
