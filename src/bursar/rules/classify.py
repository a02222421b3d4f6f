"""How much better the dearer model would do on a request: ridge regression on hashed words and a few counts. No third-party weights.

Trained on the user's own graded traffic; the target is what the dearer model got right less what the cheaper one did, because
that difference is what money buys (predicting where the cheap model fails is worse: some questions no model gets right)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log, log1p, sqrt
from typing import NamedTuple
from zlib import crc32

BUCKETS = 1 << 18
HEAD, TAIL = 3_000, 1_000  # characters that are looked at of a long text: what a millisecond can afford
WORDS_MAX = 300  # and words, two thirds of them from its beginning
ALPHA = 200.0  # ridge; with tf-idf rows of length one this is strong, and was best on recorded graded traffic of any size
STEPS = 60  # conjugate gradients; 30 come within a per mille of the solution on the recorded sets

_DIGITS, _CAPITALS, _HIGH = b"0123456789", bytes(range(65, 91)), bytes(range(128, 256))
_WORD = re.compile(r"\w+")
_CODE = re.compile(r"```|[{};]\s*$|\bdef |\bclass |\bSELECT |\bimport |=>|==", re.MULTILINE)
_OPERATORS = re.compile(r"[+*/=<>^%√∑∫]|(?<=\d)-(?=\d)")
_CHOICES = re.compile(r"^\(?[A-E][.)]", re.MULTILINE)
_HARD = frozenset((
    "why", "how", "explain", "prove", "derive", "compare", "analyze", "analyse", "design", "evaluate", "optimize", "debug",
))  # fmt: skip
_STEPS = frozenset((
    "then", "after", "before", "each", "every", "total", "remaining", "twice", "half", "per", "if", "when", "except", "not",
))  # fmt: skip
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PARTS = re.compile(r"\d\.\d|%|\d/\d")
_JOINED = frozenset(("and", "or", "but"))
_COMPARED = frozenset(("more", "less", "fewer", "than", "times", "as"))
# What is counted beside the words, logarithms of most. On recorded traffic these alone come within a hundredth of the whole.
NUMERIC = (
    "characters", "words", "word_length", "digits", "capitals", "other_scripts", "lines", "questions", "operators", "numbers",
    "choices", "code", "hard_words", "step_words", "distinct_words", "fractions", "largest_number", "commas", "joined", "compared",
    "distinct_numbers",
)  # fmt: skip


class Row(NamedTuple):
    """Features of a text: bucket -> times, and the counts in the order of NUMERIC."""

    buckets: dict[int, int]
    numbers: tuple[float, ...]


def row(text: str) -> Row:
    """The features of a request's text."""
    looked = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} {text[-TAIL:]}"
    plain = _WORD.findall(looked.lower())
    total = len(plain)
    if total > WORDS_MAX:
        plain = [*plain[: WORDS_MAX * 2 // 3], *plain[-WORDS_MAX // 3 :]]
    buckets: dict[int, int] = {}
    for word in plain:
        at = crc32(word.encode()) % BUCKETS
        buckets[at] = buckets.get(at, 0) + 1
    for a, b in pairwise(plain):
        at = crc32(f"{a} {b}".encode()) % BUCKETS
        buckets[at] = buckets.get(at, 0) + 1
    found = _NUMBER.findall(looked)
    raw = looked.encode("utf-8", "replace")
    numbers = (
        log1p(len(text)), log1p(total), sum(map(len, plain)) / max(len(plain), 1), _of(raw, _DIGITS), _of(raw, _CAPITALS),
        _of(raw, _HIGH),
        log1p(looked.count("\n")), log1p(looked.count("?")), log1p(len(_OPERATORS.findall(looked))),
        log1p(sum(map(str.isdigit, plain))), log1p(len(_CHOICES.findall(looked))), log1p(len(_CODE.findall(looked))),
        log1p(sum(word in _HARD for word in plain)), log1p(sum(word in _STEPS for word in plain)),
        len(set(plain)) / max(len(plain), 1), log1p(len(_PARTS.findall(looked))),
        log1p(max((float(one.replace(",", "")[:15]) for one in found), default=0.0)), log1p(looked.count(",")),
        log1p(sum(word in _JOINED for word in plain)), log1p(sum(word in _COMPARED for word in plain)), log1p(len(set(found))),
    )  # fmt: skip
    return Row(buckets, numbers)


def _of(raw: bytes, kind: bytes) -> float:
    """The share of these bytes."""
    return (len(raw) - len(raw.translate(None, kind))) / max(len(raw), 1)


class Model(NamedTuple):
    """Everything a score needs. `rare` is 0 for a bucket that training never saw."""

    weights: array[float]  # by bucket, of tf-idf rows of length one
    rare: array[float]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    numeric: tuple[float, ...]
    bias: float
    rows: int

    def score(self, of: Row) -> float:
        """The expected uplift."""
        dot = norm = 0.0
        rare, weights = self.rare, self.weights
        for at, count in of.buckets.items():
            its = rare[at]
            if its:
                value = count * its
                norm += value * value
                dot += value * weights[at]
        found = self.bias + (dot / sqrt(norm) if norm else 0.0)
        for number, mean, spread, weight in zip(of.numbers, self.means, self.spreads, self.numeric, strict=True):
            found += (number - mean) / spread * weight
        return found

    def novelty(self, of: Row) -> float:
        """The share of a text's words and pairs that training never saw."""
        if not of.buckets:
            return 1.0
        return sum(not self.rare[at] for at in of.buckets) / len(of.buckets)


def train(rows: Sequence[Row], uplift: Sequence[float], progress: Callable[[int], None] | None = None) -> Model:
    """A model from graded rows. Pure Python: 5,000 rows take some ten seconds. `progress` is told each step's number."""
    assert rows and len(rows) == len(uplift), "one grade a row"
    seen: dict[int, int] = {}
    for one in rows:
        for at in one.buckets:
            seen[at] = seen.get(at, 0) + 1
    columns = {at: n for n, at in enumerate(seen)}
    rare = [log((1 + len(rows)) / (1 + count)) + 1 for count in seen.values()]
    indices: list[list[int]] = []
    values: list[list[float]] = []
    for one in rows:
        index = [columns[at] for at in one.buckets]
        value = [count * rare[n] for n, count in zip(index, one.buckets.values(), strict=True)]
        norm = sqrt(sum(v * v for v in value)) or 1.0
        indices.append(index)
        values.append([v / norm for v in value])
    means = tuple(sum(column) / len(rows) for column in zip(*(one.numbers for one in rows), strict=True))
    spreads = tuple(
        sqrt(sum((number - mean) ** 2 for number in column) / len(rows)) or 1.0
        for mean, column in zip(means, zip(*(one.numbers for one in rows), strict=True), strict=True)
    )
    first = len(columns)
    for one, index, value in zip(rows, indices, values, strict=True):
        index.extend(range(first, first + len(means)))
        value.extend((number - mean) / spread for number, mean, spread in zip(one.numbers, means, spreads, strict=True))
    bias = sum(uplift) / len(uplift)
    weights = _solve(indices, values, [y - bias for y in uplift], first + len(means), progress)
    by_bucket, by_rarity = array("f", bytes(4 * BUCKETS)), array("f", bytes(4 * BUCKETS))
    for at, n in columns.items():
        by_bucket[at], by_rarity[at] = weights[n], rare[n]
    return Model(by_bucket, by_rarity, means, spreads, tuple(weights[first:]), bias, len(rows))


def _solve(
    indices: list[list[int]], values: list[list[float]], target: list[float], width: int, progress: Callable[[int], None] | None
) -> list[float]:
    """min |Xw - y|^2 + ALPHA |w|^2 by conjugate gradients on (X X' + ALPHA) a = y, w = X' a: as many unknowns as rows."""

    def transposed(a: list[float]) -> list[float]:
        out = [0.0] * width
        for index, value, scale in zip(indices, values, a, strict=True):
            if scale:
                for n, v in zip(index, value, strict=True):
                    out[n] += scale * v
        return out

    def applied(a: list[float]) -> list[float]:
        w = transposed(a)
        return [sum(map(float.__mul__, value, map(w.__getitem__, index))) + ALPHA * scale
                for index, value, scale in zip(indices, values, a, strict=True)]  # fmt: skip

    solution = [0.0] * len(target)
    rest, direction = list(target), list(target)
    size = sum(r * r for r in rest)
    goal = size * 1e-6
    for step in range(STEPS):
        if size <= goal:
            break
        image = applied(direction)
        length = size / sum(map(float.__mul__, direction, image))
        solution = [a + length * d for a, d in zip(solution, direction, strict=True)]
        rest = [r - length * i for r, i in zip(rest, image, strict=True)]
        after = sum(r * r for r in rest)
        direction = [r + after / size * d for r, d in zip(rest, direction, strict=True)]
        size = after
        if progress is not None:
            progress(step)
    return transposed(solution)
