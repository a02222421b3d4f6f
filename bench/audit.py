"""`audit` on ten million rows: `python -m bench.audit [ROWS] [FOLDER]`. Seconds and memory of a process of its own, opening included.

The ledger of `bench.explain` is made in FOLDER unless one is there (a new folder is removed afterwards). The median of three, over
all rows; exit code 1 above the limits."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .explain import ROWS, make

SECONDS, MEGABYTES = 6.0, 600
RUN = """
import json, resource, sys, time
began = time.perf_counter()
from bursar.domain.policy import Policy
from bursar.surfaces import audit, periods
with audit.open_reader(sys.argv[1]) as reader:
    made = audit.take(reader, Policy(), periods.Period(0), 1_795_392_000_000_000)
took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([took, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024, made.calls]))
"""


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else ROWS
    given = Path(arguments[1]) if len(arguments) > 1 else None
    folder = given or Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    try:
        if not (folder / "ledger.db").exists():
            make(folder, count)
        runs = [json.loads(subprocess.check_output([sys.executable, "-c", RUN, str(folder)])) for _ in range(3)]
    finally:
        if given is None:
            shutil.rmtree(folder)
    wall, cpu, memory = (statistics.median(run[n] for run in runs) for n in range(3))
    print(f"audit of {runs[0][3]:,} calls: {wall:.1f} s, {cpu:.1f} s CPU, {memory:.0f} MB (limits {SECONDS:.0f} s, {MEGABYTES} MB)")
    return int(wall > SECONDS or memory > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
