"""`spend` and `conversations` on ten million rows: what each answer about one week takes, opening the ledger included.

`python -m bench.spend [ROWS] [FOLDER]` makes the ledger of `bench.explain` in FOLDER unless one is there (a new folder is removed
afterwards). Medians of five; CPU is of all threads."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bursar.stores.reader import Reader
from bursar.surfaces import cli_spend, conversations, drivers, full, provenance
from bursar.surfaces.periods import Period

from .explain import DAY_US, END_US, ROWS, make

WEEK = Period(END_US - 14 * DAY_US, END_US - 7 * DAY_US)


def by(*names: str, grain: str = "") -> Callable[[Reader], object]:
    def act(reader: Reader) -> object:
        made = cli_spend.statement(reader, names, (), WEEK, grain=grain)
        return made, provenance.parts(reader, (), WEEK)

    return act


def plain(reader: Reader) -> object:
    now, before = drivers.look(reader, (), WEEK)
    parts = [cli_spend.part(name, now, before, cli_spend.OVERVIEW_TOP) for name in cli_spend.OVERVIEW]
    return drivers.tell(now, before), parts, provenance.parts(reader, (), WEEK)


ACTS: dict[str, Callable[[Reader], object]] = {
    "spend --by tenant": by("tenant"),
    "spend --by tenant,feature": by("tenant", "feature"),
    "spend --by label:team": by("team"),
    "spend --by operation --grain day": by("operation", grain="day"),
    "spend --by tenant --full": lambda reader: full.full(reader, (), WEEK.since, WEEK.until, "cost"),
    "spend": plain,
    "conversations": lambda reader: conversations.overview(reader, (), WEEK),
}


def timed(folder: Path, act: Callable[[Reader], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    with Reader(folder) as reader:
        act(reader)
    return time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else ROWS
    given = Path(arguments[1]) if len(arguments) > 1 else None
    folder = given or Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    try:
        if not (folder / "ledger.db").exists():
            make(folder, count)
        print(f"{'a week':<36}{'wall ms':>10}{'CPU ms':>10}")
        for name, act in ACTS.items():
            runs = [timed(folder, act) for _ in range(5)]
            wall, cpu = (statistics.median(run[n] for run in runs) * 1000 for n in (0, 1))
            print(f"{name:<36}{wall:>10.0f}{cpu:>10.0f}")
    finally:
        if given is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
