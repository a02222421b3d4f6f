"""Our slice search beside Adtributor and RiskLoc: `python -m bench.rootcause [CASES]` (real cases need BURSAR_DATA or ../shared/data).

The two are written anew here from their papers (Bhagwat et al., NSDI 2014; Kalander, arXiv 2205.10004), to be measured with and
for nothing else, with those papers' settings. They are given the same leaves in the same run: the made sets S and L of the second
paper (`tests/rules/slices_made.py`) and the real cases of a video network. CASES bounds the made cases of each set (40 of S, 30
of L)."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
DATA = Path(os.environ.get("BURSAR_DATA") or ROOT.parent / "shared" / "data")

Element = tuple[tuple[str, str], ...]


class Leaves(NamedTuple):
    """What a search is given. `told` and `came` are what is compared leaf by leaf (amounts, or rates); `power` is each leaf's share
    of the whole change; `sums` are the additive amounts behind it, (told, came) per leaf: one for an amount, two for a rate."""

    dims: Sequence[str]
    values: Sequence[tuple[str, ...]]
    told: list[float]
    came: list[float]
    power: list[float]
    sums: list[list[tuple[float, float]]]


def amounts(dims: Sequence[str], values: Sequence[tuple[str, ...]], pairs: Sequence[tuple[float, float]]) -> Leaves:
    change = sum(came - told for told, came in pairs)
    power = [(came - told) / change if change else 0.0 for told, came in pairs]
    return Leaves(dims, values, [told for told, _ in pairs], [came for _, came in pairs], power, [list(pairs)])


def rates(
    dims: Sequence[str], values: Sequence[tuple[str, ...]], top: list[tuple[float, float]], bottom: list[tuple[float, float]],
    told: list[float],
) -> Leaves:  # fmt: skip
    """One amount over another; a leaf's power as Adtributor has it for rates: the partial derivative, made to sum to one."""
    whole, base = sum(was for was, _ in top), sum(was for was, _ in bottom)
    power = [
        ((now - was) * base - (now_b - was_b) * whole) / (base * (base + now_b - was_b))
        for (was, now), (was_b, now_b) in zip(top, bottom, strict=True)
    ]
    total = sum(power)
    came = [now / now_b if now_b else 0.0 for (_, now), (_, now_b) in zip(top, bottom, strict=True)]
    return Leaves(dims, values, told, came, [one / total if total else 0.0 for one in power], [top, bottom])


# -- Adtributor ------------------------------------------------------------------------------------------------------------


def adtributor(leaves: Leaves, enough: float, each: float = 0.1, most: int = 3) -> list[Element]:
    """Per dimension the values of the greatest surprise (Jensen-Shannon, of the shares of all) that each have `each` of the
    change, until they have `enough` of it; the dimensions with the greatest surprise. One dimension at a time, by design."""
    found: list[tuple[float, list[Element]]] = []
    for place, dim in enumerate(leaves.dims):
        groups: dict[str, list[int]] = {}
        for n, values in enumerate(leaves.values):
            groups.setdefault(values[place], []).append(n)
        surprise = {value: sum(_surprise(pairs, group) for pairs in leaves.sums) for value, group in groups.items()}
        power = {value: sum(leaves.power[n] for n in group) for value, group in groups.items()}
        taken: list[Element] = []
        run = sure = 0.0
        for value in sorted(groups, key=lambda value: -surprise[value]):
            if power[value] > each:
                taken.append(((dim, value),))
                run, sure = run + power[value], sure + surprise[value]
                if run > enough:
                    found.append((sure, taken))
                    break
    found.sort(key=lambda one: -one[0])
    return [element for _, taken in found[:most] for element in taken]


def _surprise(pairs: list[tuple[float, float]], group: list[int]) -> float:
    told, came = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    p = sum(pairs[n][0] for n in group) / told if told else 0.0
    q = sum(pairs[n][1] for n in group) / came if came else 0.0
    return 0.5 * ((p * log(2 * p / (p + q)) if p > 0 else 0.0) + (q * log(2 * q / (p + q)) if q > 0 else 0.0))


# -- RiskLoc ---------------------------------------------------------------------------------------------------------------

RISK_LEAST, POWER_LEAST, OUTLIERS = 0.5, 0.02, 5


def riskloc(leaves: Leaves) -> list[Element]:
    """Leaves are split where the ordinary ones end; elements are tried layer by layer, by their share of the change, and the first
    whose weighted part of odd leaves, less how unlike their changes are to one another, is half is a cause. Its leaves go; again."""
    odd = [2 * (told - came) / (told + came) if told + came else 0.0 for told, came in zip(leaves.told, leaves.came, strict=True)]
    sides = sorted(set(odd))
    cut = -min(sides[min(OUTLIERS, len(sides) - 1)], sides[max(-OUTLIERS - 1, -len(sides))], key=abs)
    beyond = [one > cut if cut >= 0 else one < cut for one in odd]
    weight = [
        min(abs(one) if out else 0.0 if not (told or came) else abs(cut - one), 1.0)
        for one, out, told, came in zip(odd, beyond, leaves.told, leaves.came, strict=True)
    ]
    power = leaves.power
    left = sum(part for part, out in zip(power, beyond, strict=True) if out)
    if left < 0:
        power, left = [-part for part in power], -left
    least = left * POWER_LEAST
    search = _Search(leaves, odd, beyond, weight, power, least)
    found: list[Element] = []
    while sum(power[n] for n in search.free if beyond[n]) >= least:
        cause = search.next()
        if cause is None:
            break
        cuboid, key = cause
        found.append(tuple((leaves.dims[d], value) for d, value in zip(cuboid, key, strict=True)))
        search.free = [n for n in search.free if tuple([leaves.values[n][d] for d in cuboid]) != key]
    return found


class _Search:
    """One case's leaves that no cause has taken, and the values (of one dimension) that are out of the question."""

    def __init__(
        self, leaves: Leaves, odd: list[float], beyond: list[bool], weight: list[float], power: list[float], least: float
    ) -> None:  # fmt: skip
        self.leaves, self.odd, self.beyond, self.weight, self.power, self.least = leaves, odd, beyond, weight, power, least
        self.free = list(range(len(odd)))
        self.pruned: dict[int, set[str]] = {d: set() for d in range(len(leaves.dims))}

    def next(self) -> tuple[tuple[int, ...], tuple[str, ...]] | None:
        for layer in range(1, len(self.leaves.dims) + 1):
            best: tuple[tuple[int, ...], tuple[str, ...]] | None = None
            least = self.least
            for cuboid in combinations(range(len(self.leaves.dims)), layer):
                groups = self._groups(cuboid)
                if layer == 1:
                    self.pruned[cuboid[0]] |= {key[0] for key, group in groups.items() if not self._worth(group)}
                sums = {key: sum(self.power[n] for n in group) for key, group in groups.items() if any(self.beyond[n] for n in group)}
                for key in sorted((key for key, part in sums.items() if part > least), key=lambda key: -sums[key]):
                    if self._risk(groups[key]) >= RISK_LEAST:
                        best, least = (cuboid, key), sums[key]
                        break
            if best is not None:
                return best
        return None

    def _groups(self, cuboid: tuple[int, ...]) -> dict[tuple[str, ...], list[int]]:
        groups: dict[tuple[str, ...], list[int]] = {}
        pruned = [(d, self.pruned[d]) for d in cuboid if self.pruned[d]]
        for n in self.free:
            values = self.leaves.values[n]
            if not any(values[d] in out for d, out in pruned):
                groups.setdefault(tuple([values[d] for d in cuboid]), []).append(n)
        return groups

    def _worth(self, group: list[int]) -> bool:
        return sum(max(self.power[n], 0.0) for n in group) >= self.least and any(self.beyond[n] for n in group)

    def _risk(self, group: list[int]) -> float:
        high = sum(self.weight[n] for n in group if self.beyond[n])
        ordinary = sum(self.weight[n] for n in group if not self.beyond[n]) + 1
        pairs = [(self.leaves.told[n], self.leaves.came[n], self.odd[n]) for n in group if self.leaves.told[n] and self.leaves.came[n]]
        low = 0.0
        if pairs:
            like = sum(came for _, came, _ in pairs) / sum(told for told, _, _ in pairs)
            apart = sum(abs(2 * (told * like - came) / (told * like + came)) for told, came, _ in pairs)
            whole = sum(abs(one) for _, _, one in pairs)
            low = apart / whole if whole else 0.0
        return high / (high + ordinary) - low


# -- the sets --------------------------------------------------------------------------------------------------------------


class Score:
    """What one method found over a set."""

    def __init__(self) -> None:
        self.hit = self.false = self.missed = self.first = self.three = self.cases = 0
        self.took: list[float] = []

    def add(self, find: Callable[[], Sequence[Element]], truth: set[frozenset[tuple[str, str]]]) -> None:
        start = time.perf_counter()
        named = [frozenset(one) for one in find()]
        self.took.append(time.perf_counter() - start)
        right = len(set(named) & truth)
        self.hit, self.false, self.missed = self.hit + right, self.false + len(set(named)) - right, self.missed + len(truth) - right
        self.first += bool(named and named[0] in truth)
        self.three += any(one in truth for one in named[:3])
        self.cases += 1

    def line(self) -> str:
        f1 = 2 * self.hit / max(1, 2 * self.hit + self.false + self.missed)
        counts = f"{self.hit:>3} right {self.false:>3} wrong {self.missed:>3} missed"
        return f"F1 {f1:.2f}  {counts}  first {self.first:>2}, of three {self.three:>2} of {self.cases}  {1e3 * median(self.took):>6.0f} ms"


def made(set_: str, count: int) -> None:
    from bursar.rules.why_slices import ripple
    from rules.slices_made import L, S, cases

    shape, seed = (S, 121) if set_ == "S" else (L, 122)
    scores = {name: Score() for name in ("bursar", "RiskLoc", "Adtributor, 0.1", "Adtributor, 0.67")}
    for case in cases(shape, seed, count):
        truth = {frozenset(one) for one in case.truth}
        leaves = amounts(case.dims, case.leaves, case.pairs)
        scores["bursar"].add(lambda case=case: [one.element for one in ripple(case.dims, case.leaves, case.pairs, len(case.dims))], truth)
        _peers(scores, "", leaves, truth)
    _say(f"set {set_}", scores)


def _peers(scores: dict[str, Score], how: str, leaves: Leaves, truth: set[frozenset[tuple[str, str]]]) -> None:
    scores[f"RiskLoc{how}"].add(lambda: riskloc(leaves), truth)
    scores[f"Adtributor, 0.1{how}"].add(lambda: adtributor(leaves, 0.1), truth)
    scores[f"Adtributor, 0.67{how}"].add(lambda: adtributor(leaves, 0.67), truth)


def observed() -> None:
    """Real cases. We and, once, the others are given bad events per leaf as amounts; the others also the rate of good ones, with the
    mean of four minutes as what was to come, as their authors have it."""
    from rules.test_why_slices import as_bursar_does
    from rules.test_why_slices import observed as real

    hows = ("", ", rates")
    peers = [f"{name}{how}" for how in hows for name in ("RiskLoc", "Adtributor, 0.1", "Adtributor, 0.67")]
    scores = {name: Score() for name in ["bursar", *peers]}
    for (dims, values, pairs, truth), raw in zip(real(DATA), _raw(), strict=True):
        scores["bursar"].add(lambda args=(dims, values, pairs): [one.element for one in as_bursar_does(*args)], truth)
        _peers(scores, "", amounts(dims, values, pairs), truth)
        _peers(scores, ", rates", _rates_of(dims, raw), truth)
    _say("real cases", scores)


def _raw() -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / "rootcause-rs" / "cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _rates_of(dims: list[str], case: dict[str, Any]) -> Leaves:
    """Good events over all, per leaf of the anomalous minute, and the means of what it had in the four minutes before."""
    minute = int(case["anomaly_minute"])
    now: dict[tuple[str, ...], tuple[float, float]] = {}
    before: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for values in case["rows"]:
        row = dict(zip(case["columns"], values, strict=True))
        leaf, count = tuple(row[d] for d in dims), float(row["cnt"])
        good, at = count - float(row["value"]), int(row["min"])
        if at == minute:
            now[leaf] = (good, count)
        elif minute - 240 <= at < minute:
            before.setdefault(leaf, []).append((good, count))
    top: list[tuple[float, float]] = []
    bottom: list[tuple[float, float]] = []
    told: list[float] = []
    for leaf, (good, count) in now.items():
        past = before.get(leaf, [])
        top.append((sum(one for one, _ in past) / max(1, len(past)), good))
        bottom.append((sum(one for _, one in past) / max(1, len(past)), count))
        told.append(sum(one / of if of else 0.0 for one, of in past) / max(1, len(past)))
    return rates(dims, list(now), top, bottom, told)


def _say(set_: str, scores: dict[str, Score]) -> None:
    for name, score in scores.items():
        print(f"{set_:<11} {name:<24} {score.line()}", flush=True)


def main(words: list[str]) -> int:
    most = int(words[0]) if words else 10**6
    made("S", min(most, 40))
    made("L", min(most, 30))
    if DATA.is_dir():
        observed()
    else:
        print(f"recorded material not found at {DATA}; set BURSAR_DATA")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
