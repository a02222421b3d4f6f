"""The loop rules on recorded runs: `python bench/loops.py` (needs BURSAR_DATA or ../shared/data). What a stop would have saved on
runs that failed, and which solved runs it would have hit, from impatient limits to patient ones, beside the plain rule that counts
one call with one result.

A stop comes before the next paid call; saved is only what the run spent from that call on. A step's dollars follow its tokens where
they were recorded, else the characters it sent and received, at the model's list price (tests/recorded_agents.py). Calls are matched
to the results that answered them; what the harness did by itself is no call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import recorded_agents  # noqa: E402
from bursar.rules.loop import STOP  # noqa: E402
from loop_replay import Rule, Told, measure, ours, plain, told  # noqa: E402

SETS = (("agent-swe", recorded_agents.swe), ("agent-vorflux", recorded_agents.vorflux), ("agent-tau", recorded_agents.tau))


def row(label: str, sets: list[list[Told]], make: Callable[[], Rule]) -> None:
    print(f"{label:22}", end="")
    for runs in sets:
        found = measure(runs, make)
        print(f" {found.doomed:5} {found.saved:8.2f} {found.solved:6} {found.lost:8.2f}", end="")
    print(flush=True)


def main() -> int:
    data = Path(os.environ.get("BURSAR_DATA") or ROOT.parent / "shared" / "data")
    if not data.is_dir():
        print(f"recorded runs not found at {data}; set BURSAR_DATA")
        return 0
    sets = [told(load(data)) for _, load in SETS]
    print(" " * 22 + "".join(f" {name:^30}" for name, _ in SETS))
    outcomes = [(sum(not one.run.solved for one in runs), sum(one.run.solved for one in runs)) for runs in sets]
    print(" " * 22 + "".join(f" {f'{failed} failed, {solved} solved':^30}" for failed, solved in outcomes))
    print(" " * 22 + f" {'doomed':>6} {'saved $':>7} {'solved':>6} {'lost $':>8}" * len(SETS))
    for times in (3, 4, 5, 6, 8):
        row(f"plain, {times} times", sets, plain(times))
    for per_cent in (50, 60, 70, 80, 90, 100, 110, 125, 150, 200):
        row(f"ours, limits x {per_cent / 100:.2f}", sets, ours(STOP.scaled(per_cent)))
    best = measure(sets[0], ours())
    print(f"\nwhich rule stops in agent-swe: {dict(best.rules)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
