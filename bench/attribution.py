"""How well the ledger says where the money went: seeded companies with planted causes, each through the real pipeline, scored
against the truth that the scripted provider's invoice keeps.

`python -m bench.attribution --variants 200` prints a line for each kind of multiplier; `--show 4` one company in full; `--demo`
the demo's own story. Exit code 1 when a multiplier is off by more than 2% or money is attributed to what was not planted."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from bursar.testing import company, score, traffic, variants
from bursar.testing.planned import Planned
from bursar.testing.player import Simulated, simulate

WITHIN = Decimal("0.02")


class Asked(NamedTuple):
    """One company to play."""

    seed: int
    labels: str
    scale: float
    single: bool
    demo: bool


class Played(NamedTuple):
    """What came of it, small enough to come back from another process."""

    asked: Asked
    labels: str
    planted: tuple[str, ...]
    calls: int
    seconds: float
    score: score.Score


def play(asked: Asked) -> Played:
    """Play one company in a ledger of its own and score it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bursar-attribution-") as folder:
        labels, planted, made = _made(asked, Path(folder) / "ledger")
        scored = score.score(made.ledger, made.truth, said=labels != "none")
    return Played(asked, labels, planted, made.calls, time.perf_counter() - began, scored)


def _made(asked: Asked, ledger: Path) -> tuple[str, tuple[str, ...], Simulated]:
    calls: Iterable[Planned]
    if asked.demo:
        calls = company.plan(asked.seed)
        return "full", ("the demo's story",), simulate(calls, ledger, policy=company.POLICY)
    make = variants.single if asked.single else variants.variant
    scene = make(asked.seed, labels=asked.labels, scale=asked.scale) if asked.labels else make(asked.seed, scale=asked.scale)
    made = simulate(traffic.calls(scene), ledger, policy=scene.policy(), changes=scene.changes)
    return scene.labels, tuple(planted.cause.name for planted in scene.planted), made


def report(played: list[Played]) -> Iterator[str]:
    """A line for each kind of multiplier, over all companies."""
    found: dict[str, list[tuple[score.Scored, int]]] = defaultdict(list)
    strays: dict[str, list[tuple[score.Stray, int]]] = defaultdict(list)
    for one in played:
        for multiplier in one.score.multipliers:
            found[multiplier.key[0]].append((multiplier, one.asked.seed))
        for stray in one.score.strays:
            strays[stray.key[0]].append((stray, one.asked.seed))
    yield f"{'multiplier':<12}{'planted':>9}{'dollars':>11}{'within 2%':>11}{'median':>9}{'worst':>9}{'seed':>7}{'strays':>11}"
    for kind in sorted({*found, *strays}):
        some = sorted(found[kind], key=lambda pair: pair[0].error)
        lost = sum((stray.dollars for stray, _ in strays[kind]), Decimal(0))
        good = sum(1 for multiplier, _ in some if multiplier.error <= WITHIN)
        dollars = sum((multiplier.truth for multiplier, _ in some), Decimal(0))
        worst, seed = (f"{some[-1][0].error:.1%}", str(some[-1][1])) if some else ("", str(strays[kind][0][1]))
        median = f"{statistics.median(multiplier.error for multiplier, _ in some):.1%}" if some else ""
        yield f"{kind:<12}{len(some):>9}{dollars:>11.2f}{good:>11}{median:>9}{worst:>9}{seed:>7}{lost:>11.2f}"
    for labels in variants.LABELLED:
        those = [one.score.threading for one in played if one.labels == labels]
        if calls := sum(t.calls for t in those):
            right = sum(max(t.right, t.right_whole) for t in those)
            merged, alike = sum(t.merged for t in those), sum(t.alike for t in those)
            yield f"{len(those)} companies, labels {labels}: {right / calls:.2%} of {calls} calls in the right conversation,"
            yield f"  {merged} merged across tenants, {alike} more that nobody could tell apart"
    missing, surplus = sum(one.score.missing for one in played), sum(one.score.surplus for one in played)
    unsure = sum((one.score.unsure for one in played), Decimal(0))
    off = sum((abs(one.score.ledger - one.score.invoice - one.score.unsure) for one in played), Decimal(0))
    yield f"{missing} tries without a row, {surplus} rows without a try"
    yield f"ledgers are off their invoices by ${off:.6f}, and by ${unsure:.6f} on estimates"
    calls, seconds = sum(one.calls for one in played), sum(one.seconds for one in played)
    yield f"{len(played)} companies, {calls:,} calls, {seconds / len(played):.1f} s each"


def misses(played: Played) -> bool:
    """Whether something is off by more than it may be, or attributed to what was not planted."""
    return played.score.worst() > WITHIN or bool(played.score.strays)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attribution", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variants", type=int, default=20, metavar="N", help="how many companies (20)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one's seed (0)")
    parser.add_argument("--labels", choices=variants.LABELLED, default="", help="how much calls say; else as the seed has it")
    parser.add_argument("--scale", type=float, default=1.0, help="x the number of conversations (1: some 9,000 calls)")
    parser.add_argument("--single", action="store_true", help="companies with exactly one cause")
    parser.add_argument("--demo", action="store_true", help="the demo's story, by seed")
    parser.add_argument("--show", type=int, metavar="SEED", help="one company, in full")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    asked = parser.parse_args(arguments)
    seeds = [asked.show] if asked.show is not None else range(asked.first, asked.first + asked.variants)
    work = [Asked(seed, asked.labels, asked.scale, asked.single, asked.demo) for seed in seeds]
    played: list[Played] = []
    with ProcessPoolExecutor(max_workers=asked.jobs) as pool:
        for one in map(play, work) if asked.jobs == 1 else pool.map(play, work):
            played.append(one)
            print(f"\r{len(played)} of {len(work)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if asked.show is not None:
        (one,) = played
        print(f"company {one.asked.seed}, labels {one.labels}, {one.calls:,} calls in {one.seconds:.1f} s; planted:")
        print("\n".join([f"  {name}" for name in one.planted] + list(score.lines(one.score))))
    else:
        print("\n".join(report(played)))
    return int(any(map(misses, played)))


if __name__ == "__main__":
    sys.exit(main())
