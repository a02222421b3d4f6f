"""What a bill was spent on in a few lines of mixed kind that do not overlap: which slices say most. Pure, whole numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..domain.shape import Shape

# What a slice is of, and how sharp that is: a conversation or a cause says more than a purpose, that more than who, that more
# than with which model. The order is also that of names for the same rows: who before which feature.
SHARPNESS: Mapping[str, int] = {
    "conversation": 0, "cause": 0, "label:suite": 1, "label:corpus": 1, "purpose": 1, "operation": 1, "tenant": 2, "feature": 2,
    "model_served": 3,
}  # fmt: skip
ORDER: Mapping[str, int] = {name: n for n, name in enumerate(SHARPNESS)}
# What every bill consists of, which is no driver of one.
ORDINARY: Mapping[str, frozenset[str]] = {"purpose": frozenset(("primary",)), "operation": frozenset(("primary",))}

MOST = 6  # lines that a person still reads as one answer
SAID = (7, 10)  # of the bill: then it is answered, and the rest may be the rest
LEAST = (1, 20)  # of the bill: less is not worth a line
INSIDE = (9, 10)  # of a slice in another one: it is a part of that
MOSTLY = (1, 2)  # of a slice that is one sharper thing: it is told as that thing

Values = tuple[str | None, ...]
Pair = tuple[str, str]
Slice = tuple[int, str]  # which dimension, which value


class Driver(Shape, frozen=True):
    """One line. `name` is `value`, and none of the pairs in `without` is: those lines claimed their rows before."""

    name: str
    value: str
    cost: int  # pico-dollars
    without: tuple[Pair, ...] = ()


class Cell(NamedTuple):
    """Rows that are alike in all dimensions. None: a value that was not looked at."""

    values: Values
    cost: int


def choose(dims: Sequence[str], cells: Sequence[Cell], most: int | None = None) -> list[Driver]:
    """The lines that say most of what these cells cost, in the order in which they claim their rows; what is left is
    everything else. The largest slice comes first, unless half of it or more is one sharper thing: then that, and so on.
    `most`: so many lines wherever there are as many; else until most of the bill is said.

    Deterministic: the same cells in any order give the same lines. A slice that takes part in no choice (a dimension in
    which all has one value, an unlabelled row, what is ordinary) is never a line."""
    return told(dims, cells, most, 0)[0]


def told(dims: Sequence[str], cells: Sequence[Cell], most: int | None, more: int) -> tuple[list[Driver], list[Driver]]:
    """The lines as `choose` has them, and so many that would come next."""
    total = sum(cell.cost for cell in cells)
    chosen: list[Driver] = []
    following: list[Driver] = []
    if total <= 0:
        return chosen, following
    said = 0
    enough = False
    for one in _slices(dims, cells):
        answered = _reaches(said, total, SAID) or not _reaches(one.cost, total, LEAST)
        enough = enough or len(chosen) >= (most or MOST) or (not most and answered)
        if enough and len(following) >= more:
            break
        (following if enough else chosen).append(one)
        said += one.cost
    return chosen, following


def _reaches(part: int, whole: int, share: tuple[int, int]) -> bool:
    return part * share[1] >= whole * share[0]


def _slices(dims: Sequence[str], cells: Sequence[Cell]) -> Iterator[Driver]:
    """All lines that there could be, one after the other."""
    rest = [cell for cell in cells if cell.cost]
    telling = [at for at in range(len(dims)) if len({cell.values[at] for cell in rest}) > 1]
    sums = _sums(telling, rest)
    without: tuple[Pair, ...] = ()
    while (found := _next(dims, telling, rest, sums)) is not None:
        at, value = found
        name = dims[at]
        mine = [cell for cell in rest if cell.values[at] == value]
        yield Driver(name, value, sums[found], without)
        without = (*without, (name, value))
        rest = [cell for cell in rest if cell.values[at] != value]
        for one, cost in _sums(telling, mine).items():  # what is left is known without another look at all of it
            sums[one] -= cost


def _next(dims: Sequence[str], telling: Sequence[int], rest: Sequence[Cell], sums: Mapping[Slice, int]) -> Slice | None:
    """The slice that the next line is of."""

    def rank(one: Slice) -> tuple[int, int, str]:
        return (-sums[one], ORDER[dims[one[0]]], one[1])

    best = min((one for one, cost in sums.items() if _tells(dims, one, cost)), key=rank, default=None)
    while best is not None:
        at, value = best
        inside = _sums(telling, [cell for cell in rest if cell.values[at] == value])
        # A slice that corrections took below zero elsewhere is in no sum: it is no name for anything.
        better = [
            one
            for one, cost in inside.items()
            if _tells(dims, one, cost) and sums[one] > 0
            and _names_better(dims[one[0]], dims[at], cost, sums[best]) and _reaches(cost, sums[one], INSIDE)
        ]  # fmt: skip
        if not better:
            return best
        best = min(better, key=lambda one: (SHARPNESS[dims[one[0]]] != SHARPNESS[dims[at]], rank(one)))
    return None


def _names_better(name: str, than: str, cost: int, whole: int) -> bool:
    """Whether a slice inside another one is the better name for it: half of it when it is sharper, nearly all when it is as
    sharp and comes before."""
    if SHARPNESS[name] < SHARPNESS[than]:
        return _reaches(cost, whole, MOSTLY)
    return SHARPNESS[name] == SHARPNESS[than] and ORDER[name] < ORDER[than] and _reaches(cost, whole, INSIDE)


def _sums(telling: Sequence[int], cells: Sequence[Cell]) -> dict[Slice, int]:
    sums: dict[Slice, int] = {}
    for at in telling:
        for values, cost in cells:
            if value := values[at]:
                key = at, value
                sums[key] = sums.get(key, 0) + cost
    return sums


def _tells(dims: Sequence[str], one: Slice, cost: int) -> bool:
    return cost > 0 and one[1] not in ORDINARY.get(dims[one[0]], ())


def phrase(name: str, value: str) -> str:
    """A slice in the words of its trade. The value is a stranger's text, and stays as it is."""
    if name == "cause":
        return _cause(value)
    said = {("purpose", "eval"): "evals", ("purpose", "embedding"): "embeddings", ("purpose", "background"): "background work",
            ("purpose", "control"): "Bursar's own calls", ("operation", "retry"): "asking again, whatever for",
            ("operation", "fallback"): "falling back to other models", ("operation", "eval"): "evals",
            ("operation", "embedding"): "embeddings", ("operation", "background"): "background work",
            ("operation", "control"): "Bursar's own calls"}.get((name, value))  # fmt: skip
    if said is not None:
        return said
    nouns = {"tenant": "customer", "model_served": "model", "label:suite": "eval suite", "label:corpus": "embedding corpus"}
    return f"{nouns.get(name, name.removeprefix('label:'))} {value}"


CAUSES = {
    "sdk_retry": "the SDK's own retries", "reask": "clients asking the same again", "repair": "asking again for usable output",
    "loop": "agents going round in circles", "label": "retries, as labelled",
}  # fmt: skip


def _cause(value: str) -> str:
    word, colon, of = value.partition(":")
    if value in CAUSES:
        return CAUSES[value]
    if word == "tool" and of:
        return f"asking again after {of} failed"
    if word == "switch" and of:
        return f"going elsewhere after {of} failed"
    if colon and of:
        return f"falling back from {of} ({word})"
    return f"retries after {value}"
