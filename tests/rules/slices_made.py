"""Made cases of one total that moved in a few places, after the description of the sets S and L in arXiv 2205.10004, with the truth.

A full product of dimensions; Weibull amounts, a share of them zero; forecasts off by a relative Gaussian error, to either side;
one to three (L: five) anomalies, each with one to three (L: one) elements of one set of dimensions, whose amounts fall by a
common share. Written anew: no code of that paper is here, and seeds give other cases than theirs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import log
from random import Random
from typing import NamedTuple

Element = tuple[tuple[str, str], ...]


class Shape(NamedTuple):
    """What a set of cases is made of; ranges are uniform."""

    sizes: tuple[int, ...]
    noise: tuple[float, float]
    severity: tuple[float, float]
    deviation: tuple[float, float]
    anomalies: tuple[int, int]
    elements: tuple[int, int]
    deepest: bool  # anomalies are single leaves only
    zero: tuple[float, float] = (0.0, 0.25)
    weibull: tuple[float, float] = (0.5, 1.0)


S = Shape((10, 12, 10, 8, 5), (0.0, 0.25), (0.2, 1.0), (0.0, 0.1), (1, 3), (1, 3), False)
L = Shape((10, 24, 10, 15), (0.0, 0.1), (0.5, 1.0), (0.0, 0.0), (1, 5), (1, 1), True)


class Case(NamedTuple):
    """Leaves as values per dimension, (forecast, real) per leaf, and the elements that were changed."""

    dims: tuple[str, ...]
    leaves: list[tuple[str, ...]]
    pairs: list[tuple[float, float]]
    truth: set[Element]


def cases(shape: Shape, seed: int, count: int) -> Iterator[Case]:
    chance = Random(f"{shape.sizes}/{seed}")
    for _ in range(count):
        yield _case(shape, chance)


def _case(shape: Shape, chance: Random) -> Case:
    dims = tuple("abcdefgh"[: len(shape.sizes)])
    leaves = list(product(*[[f"{d}{n}" for n in range(1, size + 1)] for d, size in zip(dims, shape.sizes, strict=True)]))
    alpha, zero, noise = (chance.uniform(*bounds) for bounds in (shape.weibull, shape.zero, shape.noise))
    real: list[float] = []
    forecast: list[float] = []
    for _ in leaves:
        amount = 100 * (-log(1.0 - chance.random())) ** (1 / alpha) if chance.random() > zero else 0.0
        other = amount + amount * chance.gauss(0.0, noise)
        told, was = (amount, other) if chance.random() < 0.5 else (other, amount)
        real.append(told)
        forecast.append(max(was, 0.0))
    anomalies: list[list[Element]] = []
    changes: list[tuple[float, float]] = []
    for _ in range(chance.randint(*shape.anomalies)):
        depth = len(dims) if shape.deepest else chance.randint(1, len(dims))
        wanted = chance.randint(*shape.elements)
        changes.append((chance.uniform(*shape.severity) + noise, chance.uniform(*shape.deviation)))
        anomalies.append(_elements(chance, dims, shape.sizes, depth, wanted, anomalies, leaves, real))
    rising = sum(real) > sum(forecast)
    for elements, (severity, deviation) in zip(anomalies, changes, strict=True):
        for n, leaf in enumerate(leaves):
            named = dict(zip(dims, leaf, strict=True))
            if any(all(named[d] == value for d, value in element) for element in elements):
                base = real[n] if rising else forecast[n]
                less = max(base * (1 - chance.gauss(severity, deviation)), 0.0)
                forecast[n], real[n] = (less, base) if rising else (base, less)
    return Case(dims, leaves, list(zip(forecast, real, strict=True)), {element for one in anomalies for element in one})


def _elements(
    chance: Random, dims: tuple[str, ...], sizes: tuple[int, ...], depth: int, wanted: int, before: list[list[Element]],
    leaves: list[tuple[str, ...]], real: list[float],
) -> list[Element]:  # fmt: skip
    """Distinct elements over one new set of dimensions, none sharing a value with an earlier anomaly's in a dimension of both."""
    amounts = dict(zip(leaves, real, strict=True))
    while True:
        chosen = sorted(chance.sample(dims, depth))
        if depth < len(dims) and any([d for d, _ in one[0]] == chosen for one in before):
            continue
        used = {(d, value) for one in before for element in one for d, value in element}
        free = {d: [f"{d}{n}" for n in range(1, sizes[dims.index(d)] + 1) if (d, f"{d}{n}") not in used] for d in chosen}
        if not all(free.values()):
            continue
        made = {tuple((d, chance.choice(free[d])) for d in chosen) for _ in range(wanted)}
        if len(made) < wanted or (depth == len(dims) and any(not amounts[tuple(value for _, value in one)] for one in made)):
            continue
        return sorted(made)
