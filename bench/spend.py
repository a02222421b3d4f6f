"""`spend` and `conversations` on ten million rows: what each answer about one week takes, opening the ledger included.

`python -m bench.spend [ROWS] [FOLDER]` makes the ledger of `bench.explain` in FOLDER unless one is there (a new folder is removed
afterwards). Each answer in a process of its own: `first` is its first ask, `warm` the ones after it in the same process (median and best
of nine), with the files in the system's cache. CPU is of all threads, the least of the nine. No answer is kept from one ask to the next."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
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
BESIDE = WEEK._replace(before=(END_US - 21 * DAY_US, END_US - 14 * DAY_US))
WARM = 9


def by(*names: str, grain: str = "", period: Period = WEEK, every: bool = False) -> Callable[[Reader], object]:
    def act(reader: Reader) -> object:
        made = cli_spend.statement(reader, names, (), period, grain=grain, top=None if every else cli_spend.LINES)
        return made, provenance.parts(reader, (), period)

    return act


def plain(period: Period = WEEK) -> Callable[[Reader], object]:
    def act(reader: Reader) -> object:
        now, before = drivers.look(reader, (), period)
        parts = [cli_spend.part(name, now, before, cli_spend.OVERVIEW_TOP) for name in cli_spend.OVERVIEW]
        return drivers.tell(now, before), parts, provenance.parts(reader, (), period)

    return act


ACTS: dict[str, Callable[[Reader], object]] = {
    "spend --by tenant": by("tenant"),
    "spend --by tenant,feature": by("tenant", "feature"),
    "spend --by label:team": by("team"),
    "spend --by label:team,label:region": by("team", "region"),
    "spend --by conversation": by("conversation"),
    "spend --by conversation --json (all lines)": by("conversation", every=True),
    "spend --by conversation, the week before too": by("conversation", period=BESIDE),
    "spend --by operation --grain day": by("operation", grain="day"),
    "spend --by tenant --grain hour": by("tenant", grain="hour"),
    "spend --by tenant --full": lambda reader: full.full(reader, (), WEEK.since, WEEK.until, "cost"),
    "spend": plain(),
    "spend --by tenant, the week before too": by("tenant", period=BESIDE),
    "spend, the week before too": plain(BESIDE),
    "conversations": lambda reader: conversations.overview(reader, (), WEEK),
}


def timed(folder: Path, act: Callable[[Reader], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    with Reader(folder) as reader:
        act(reader)
    return time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--one"]:
        print(json.dumps([timed(Path(arguments[2]), ACTS[arguments[1]]) for _ in range(WARM + 1)]))
        return 0
    count = int(arguments[0]) if arguments else ROWS
    given = Path(arguments[1]) if len(arguments) > 1 else None
    folder = given or Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    try:
        if not (folder / "ledger.db").exists():
            make(folder, count)
        print(f"{f'a week (load {os.getloadavg()[0]:.1f})':<46}{'first ms':>10}{'warm ms':>10}{'best':>8}{'CPU':>8}")
        for name in ACTS:
            told = subprocess.check_output([sys.executable, "-m", "bench.spend", "--one", name, str(folder)])
            first, *warm = json.loads(told.splitlines()[-1])
            middle, best, cpu = statistics.median(w for w, _ in warm), min(w for w, _ in warm), min(c for _, c in warm)
            print(f"{name:<46}{first[0] * 1000:>10.0f}{middle * 1000:>10.0f}{best * 1000:>8.0f}{cpu * 1000:>8.0f}", flush=True)
    finally:
        if given is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
