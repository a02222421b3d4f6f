"""The ledger by itself: durable rows a second, CPU a call on both faces, and questions on a million rows.

`python -m bench.ledger [ROWS] [FOLDER]` prints a table. Figures are medians of three; CPU is the whole process's."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bursar.domain.entry import Charge, Entry, Hold, Settlement
from bursar.stores.writer import Ledger

ROWS = 1_000_000
DAYS = 30
END_US = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z
DAY_US = 86_400_000_000


def sample(number: int, chance: random.Random) -> tuple[Hold, Settlement]:
    """A try as the gateway makes it: five labels, two free ones, three budget scopes, prices of a cheap and a dear model."""
    tenant, conversation = f"tenant-{int(chance.paretovariate(1.1)) % 200}", f"conversation-{number // 12}"
    ts = END_US - DAYS * DAY_US + number * (DAYS * DAY_US // ROWS)
    charges = (
        Charge(f"tenant/month|{tenant}@1793491200", "tenant/month", "usd", 9_000_000, 10**15, True, 0),
        Charge(f"conversation|{conversation}@0", "conversation", "usd", 9_000_000, 10**15, True, 0),
        Charge("all/day@1795305600", "all/day", "usd", 9_000_000, 10**15, True, 0),
    )
    draft = Entry(
        id=f"0199c0de{number:012x}.1", ts=ts, call=f"0199c0de{number:012x}", try_no=1, key="key-1", tenant=tenant,
        feature=f"feature-{chance.randrange(12)}", flow=f"flow-{chance.randrange(5)}", conversation=conversation, turn=number % 12 + 1,
        tool_depth=2, labels=json.dumps({"team": f"team-{number % 9}", "env": "prod"}),
        label_sources='{"tenant":"key","feature":"header","flow":"header"}', provider="openai", dialect="openai_chat",
        model_requested="gpt-5-mini", hold=9_000_000_000, request_hash=f"{chance.getrandbits(128):032x}",
        prefix_hash=f"{chance.getrandbits(128):032x}", policy_hash="0123456789abcdef", node="node-1",
    )  # fmt: skip
    tokens, out = chance.randrange(200, 9000), chance.randrange(20, 900)
    bill = [("input", tokens, 250_000_000, tokens * 250_000), ("output", out, 2_000_000_000, out * 2_000_000)]
    cost = sum(leg[3] for leg in bill)
    row = draft._replace(
        model_served="gpt-5-mini-2026-08-07", status="ok", http_status=200, finish="stop", ended="complete", input=tokens, cache_read=0,
        cache_write=0, cache_write_1h=0, output=out, reasoning=0, usage_source="provider", cost=cost, cost_input=bill[0][3],
        cost_cache_read=0, cost_cache_write=0, cost_output=bill[1][3], cost_other=0, legs=json.dumps(bill),
        price_id="genai-prices/openai/gpt-5-mini@2025-08-07", price_status="priced", latency_ms=chance.randrange(200, 4000), ttft_ms=180,
        overhead_us=90, response_id="chatcmpl-" + "a" * 29,
    )  # fmt: skip
    used = -(-cost // 1000)
    return Hold(draft.id, ts, 9_000_000_000, charges, draft), Settlement(draft.id, row, (used,) * 3, charges)


def samples(first: int, count: int) -> list[tuple[Hold, Settlement]]:
    chance = random.Random(first)
    return [sample(n, chance) for n in range(first, first + count)]


def fresh(folder: Path, name: str) -> Ledger:
    return Ledger.open(folder / name, clock_us=lambda: time.time_ns() // 1000)


def ingest(folder: Path, rows: int) -> tuple[float, float]:
    """Rows a second and CPU microseconds a row, each on the disk when `book_all` returns."""
    wall = cpu = 0.0
    with fresh(folder, "ledger") as ledger:
        for first in range(0, rows, 20_480):
            made = [settlement for _, settlement in samples(first, min(20_480, rows - first))]
            started, used = time.perf_counter(), time.process_time()
            ledger.book_all(made)
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - used
    return rows / wall, cpu / rows * 1e6


def sync_calls(folder: Path, calls: int) -> tuple[float, float]:
    """CPU microseconds of hold + book by one thread, and what a bare fsynced append of a row's length takes of it."""
    made = samples(0, calls)
    with fresh(folder, "sync") as ledger:
        used = time.process_time()
        for hold, settlement in made:
            ledger.hold(hold)
            ledger.book(settlement)
        cpu = (time.process_time() - used) / calls * 1e6
    handle = os.open(folder / "floor", os.O_CREAT | os.O_RDWR)
    page = bytes(8192)
    for at in range(256):
        os.pwrite(handle, page, at * 8192)
    os.fsync(handle)
    used = time.process_time()
    for n in range(calls):
        os.pwrite(handle, page, n % 256 * 8192)
        os.fdatasync(handle)
    floor = (time.process_time() - used) / calls * 1e6
    os.close(handle)
    return cpu, floor


def async_calls(folder: Path, calls: int, flight: int) -> tuple[float, float]:
    """CPU microseconds of hold + book through a loop with `flight` calls under way, and calls a second."""
    import uvloop

    made = samples(0, calls)

    async def main(ledger: Ledger) -> None:
        loop = asyncio.get_running_loop()
        queue = iter(made)

        async def caller() -> None:
            for hold, settlement in queue:
                await ledger.hold_soon(hold, loop)
                await ledger.book_soon(settlement, loop)

        await asyncio.gather(*[caller() for _ in range(flight)])

    with fresh(folder, f"async-{flight}") as ledger:
        started, used = time.perf_counter(), time.process_time()
        uvloop.run(main(ledger))
        return (time.process_time() - used) / calls * 1e6, calls / (time.perf_counter() - started)


def median(of: Callable[[], float]) -> float:
    return statistics.median(of() for _ in range(3))


def questions(folder: Path) -> list[tuple[str, float]]:
    """Milliseconds warm, each with opening the ledger: what a command or a page waits for."""
    from bursar.stores.query import Filter, Query
    from bursar.stores.reader import Reader
    from bursar.stores.segments import compact

    path = folder / "ledger"
    started = time.perf_counter()
    compact(path, everything=True)
    took = time.perf_counter() - started
    week = END_US - 7 * DAY_US
    asked = {
        "a week by two labels": Query(by=("tenant", "feature"), since_us=week, until_us=END_US),
        "a week by a free label": Query(by=("label:team", "operation"), since_us=week, until_us=END_US),
        "30 days by day and feature": Query(by=("feature",), grain="day", zone="Europe/Berlin"),
        "30 days, one tenant, p95": Query(measures=("cost", "p95:latency_ms"), where=(Filter("tenant", ("tenant-1",)),)),
    }

    def ask(query: Query) -> float:
        begun = time.perf_counter()
        with Reader(path) as reader:
            reader.query(query)
        return (time.perf_counter() - begun) * 1000

    for query in asked.values():
        ask(query)
    return [("compaction of all rows, s", took), *[(name + ", ms", median(lambda query=query: ask(query))) for name, query in asked.items()]]


def main(arguments: list[str]) -> int:
    """Everything, as a table."""
    rows = int(arguments[0]) if arguments else ROWS
    given = Path(arguments[1]) if len(arguments) > 1 else None
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-", dir=given))
    try:
        speed, cpu = ingest(folder, rows)
        lines = [(f"{rows:,} rows, durable, rows/s", speed), ("  CPU a row, µs", cpu)]
        cpu, floor = sync_calls(folder, 3000)
        lines += [("hold + book, one thread, CPU µs", cpu), ("  of which a bare fsynced 8 KB write takes", floor)]
        for flight in (8, 32, 128):
            cpu, speed = async_calls(folder, 20_000, flight)
            lines += [(f"hold + book, {flight} in flight, CPU µs", cpu), ("  calls/s", speed)]
        lines += questions(folder)
    finally:
        shutil.rmtree(folder)
    for name, figure in lines:
        print(f"{name:<44}{figure:>14,.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
