"""Which few label slices a change is in: elements such as tenant=acme & operation=eval whose leaves moved alike, found greedily.

Every leaf's change is known exactly; what is searched is the short description. An element is a choice of values in up to three
dimensions. What speaks for it is how much better its leaves' changes are told by their own median than by "as all others",
in nats against the noise of the others, less the cost of saying which element it is (a minimum description length)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import log
from typing import NamedTuple

DEPTH = 3  # dimensions in one element: more than that nobody reads
NOISE_SHARE = 0.6827  # of the leaves are within one standard deviation
NOISE_MIN = 0.01  # of a leaf's mean: below it everything is signal
NOISE_MAX = 1.2  # … and above it nothing is: leaves are too few or too wild, and `scan` must do
PURE = 0.75  # of an element's leaves must be nearer to its median than to no change
GAIN_MIN = 12.0  # nats: one chance in 160,000 that noise looks like this
GAIN_SHARE = 0.02  # of the first element's gain
MOST = 24

Values = tuple[str, ...]


class Slice(NamedTuple):
    """An element and the leaves it accounts for that no earlier one does. `gain` in nats says how sure it is that they moved
    together; 0 where it was chosen by its dollars alone."""

    element: tuple[tuple[str, str], ...]  # (dimension, value), in the dimensions' order
    leaves: tuple[int, ...]  # positions in the leaves given
    gain: float


class _Cuboid(NamedTuple):
    dims: tuple[int, ...]
    cost: float  # nats to say which element of which cuboid
    groups: dict[Values, list[int]]  # leaves, in the order of their change


def ripple(dims: Sequence[str], leaves: Sequence[Values], pairs: Sequence[tuple[float, float]], depth: int = DEPTH) -> list[Slice]:
    """Elements in the order they were found, the surest first; their leaves are disjoint. `pairs` is (before, now) of each leaf."""
    change = [2 * (now - was) / (abs(now) + abs(was)) if now or was else 0.0 for was, now in pairs]
    # A leaf that is nothing in both periods says nothing about noise, and nothing against an element it is in.
    order = sorted((n for n, pair in enumerate(pairs) if pair != (0, 0)), key=change.__getitem__)
    if not order:
        return []
    # What nearly all of them did is no slice: then what is looked for is what differs from it.
    middle = change[order[len(order) // 2]]
    if _nearer([change[n] for n in order], middle) >= PURE * len(order):
        change = [one - middle for one in change]
    sizes = sorted(abs(change[n]) for n in order)
    noise = max(sizes[min(len(sizes) - 1, int(NOISE_SHARE * len(sizes)))], NOISE_MIN)
    if noise > NOISE_MAX:
        return []
    cuboids = [_cuboid(dims, leaves, order, chosen) for chosen in _choices(len(dims), depth)]
    cost = log(len(cuboids)) + 1
    gains: list[dict[Values, float]] = [{} for _ in cuboids]
    stale: list[set[Values]] = [set(cuboid.groups) for cuboid in cuboids]
    found: list[Slice] = []
    while len(found) < MOST:
        best, where, which = 0.0, -1, ()
        for n, cuboid in enumerate(cuboids):
            own = gains[n]
            for key in stale[n]:
                own[key] = _gain([change[leaf] for leaf in cuboid.groups[key]], noise) - cuboid.cost - cost
            for key, gain in own.items():
                if gain > best:
                    best, where, which = gain, n, key
            stale[n] = set()
        if best < GAIN_MIN or (found and best < GAIN_SHARE * found[0].gain):
            break
        taken = cuboids[where].groups[which]
        found.append(Slice(_plainest(dims, cuboids[: where + 1], leaves, taken), tuple(taken), best))
        _take(cuboids, leaves, taken, stale)
    return found


def _choices(dims: int, depth: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, min(dims, depth) + 1):
        yield from combinations(range(dims), size)


def _cuboid(dims: Sequence[str], leaves: Sequence[Values], order: Sequence[int], chosen: tuple[int, ...]) -> _Cuboid:
    groups: dict[Values, list[int]] = {}
    for leaf in order:
        values = leaves[leaf]
        groups.setdefault(tuple([values[d] for d in chosen]), []).append(leaf)
    return _Cuboid(chosen, log(len(groups)), groups)


def _plainest(
    dims: Sequence[str], cuboids: Sequence[_Cuboid], leaves: Sequence[Values], taken: Sequence[int]
) -> tuple[tuple[str, str], ...]:
    """The first element that has these very leaves: what is all one feature is also all one model, and the label says more."""
    for cuboid in cuboids:
        key = tuple([leaves[taken[0]][d] for d in cuboid.dims])
        if len(cuboid.groups[key]) == len(taken) and set(cuboid.groups[key]) == set(taken):
            return tuple((dims[d], value) for d, value in zip(cuboid.dims, key))
    raise AssertionError("the last cuboid has them")


def _take(cuboids: Sequence[_Cuboid], leaves: Sequence[Values], taken: Sequence[int], stale: Sequence[set[Values]]) -> None:
    """Remove what is explained from every group it is in."""
    gone = set(taken)
    for n, cuboid in enumerate(cuboids):
        touched = {tuple([leaves[leaf][d] for d in cuboid.dims]) for leaf in taken}
        for key in touched:
            cuboid.groups[key] = [leaf for leaf in cuboid.groups[key] if leaf not in gone]
        stale[n].update(touched)


def _gain(change: Sequence[float], noise: float) -> float:
    """Nats that an element's own median saves over "no change"; `change` ascending. Minus infinity where its leaves do not agree."""
    count = len(change)
    if not count:
        return float("-inf")
    middle = (change[(count - 1) // 2] + change[count // 2]) / 2
    if _nearer(change, middle) < PURE * count:
        return float("-inf")
    return (2 * middle * sum(change) - count * middle * middle) / (2 * noise * noise)


def _nearer(change: Sequence[float], middle: float) -> int:
    """How many of them, ascending, are nearer to `middle` than to 0."""
    return len(change) - bisect_right(change, middle / 2) if middle > 0 else bisect_left(change, middle / 2)


# -- by amounts ------------------------------------------------------------------------------------------------------------


def scan(
    dims: Sequence[str], leaves: Sequence[Values], pairs: Sequence[tuple[float, float]], unit: float,
    free: Sequence[int] | None = None, *, ways: Sequence[int] = (1,), depth: int = DEPTH, most: int = 3, least: float = 0.0,
) -> list[Slice]:  # fmt: skip
    """Elements whose amount rose (way 1) or fell (way -1) most against all the rest, one after another (Kulldorff's scan
    statistic), one way after the other: for when leaves are few, or all of them moved. `unit` is what one event is worth, so
    that `gain` is in nats of a Poisson count. Elements whose own change is below `least` are passed over."""
    left = set(range(len(leaves)) if free is None else free)
    if not left:
        return []
    order = sorted(left)
    cuboids = [_cuboid(dims, leaves, order, chosen) for chosen in _choices(len(dims), depth)]
    sums = [
        {key: (sum(pairs[n][0] for n in of), sum(pairs[n][1] for n in of)) for key, of in cuboid.groups.items()} for cuboid in cuboids
    ]
    found: list[Slice] = []
    for way in ways:
        while left and len(found) < most:
            was, now = sum(pairs[n][0] for n in left), sum(pairs[n][1] for n in left)
            best, where, which = 0.0, -1, ()
            for n, cuboid in enumerate(cuboids):
                for key, (before, after) in sums[n].items():
                    if way * (after - before) <= least or not cuboid.groups[key]:
                        continue
                    gain = _unlike(before, after, was - before, now - after, unit, way) - cuboid.cost - len(cuboid.dims)
                    if gain > best:
                        best, where, which = gain, n, key
            if where < 0:
                break
            taken = cuboids[where].groups[which]
            found.append(Slice(_plainest(dims, cuboids[: where + 1], leaves, taken), tuple(taken), best))
            left -= set(taken)
            stale: list[set[Values]] = [set() for _ in cuboids]
            _take(cuboids, leaves, taken, stale)
            for n, keys in enumerate(stale):
                for key in keys:
                    of = cuboids[n].groups[key]
                    sums[n][key] = (sum(pairs[m][0] for m in of), sum(pairs[m][1] for m in of))
    return found


def _unlike(before: float, after: float, rest_before: float, rest_after: float, unit: float, way: int) -> float:
    """Nats by which an element's amount is above (below) what it would be if it had moved like the rest."""
    like = rest_after / rest_before if rest_before > 0 and rest_after > 0 else 1.0
    expected = max(before, unit / 2) * like
    if way * (after - expected) <= 0:
        return 0.0
    if after <= 0:
        return expected / unit
    return (after * log(after / expected) - (after - expected)) / unit
