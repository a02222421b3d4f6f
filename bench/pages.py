"""The dashboard on a large ledger: the first view of Bill, its size and the process's memory; and what ten viewers cost a gateway.

`python -m bench.pages [ROWS] [FOLDER]` prints a table. The ledger is made by DuckDB from a few thousand rows written as a gateway
writes them, copied over thirty days with other ids, labels and amounts; an existing one in FOLDER is used again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import apsw
import duckdb
import psutil
from bench import gateway
from bench import ledger as one

from bursar.stores import segments
from bursar.stores.schema import Place

SEED_ROWS = 20_000
PER_SEGMENT = 400_000
DAY_US = one.DAY_US


def build(folder: Path, rows: int) -> None:
    """A ledger of so many rows over thirty days."""
    place = Place.at(folder)
    if place.file.exists():
        return
    one.ROWS = SEED_ROWS
    with one.fresh(folder.parent, folder.name) as ledger:
        ledger.book_all([settlement for _, settlement in one.samples(0, SEED_ROWS)])
    segments.compact(folder, everything=True)
    seeds = sorted(place.segments.glob("*.parquet"))
    duck = duckdb.connect(config={"memory_limit": "1500MB", "threads": 2})
    listed = ", ".join(f"'{path}'" for path in seeds)
    copies = -(-rows // SEED_ROWS)
    connection = apsw.Connection(str(place.file))
    made = []
    first = (one.END_US - one.DAYS * DAY_US) // DAY_US
    for day in range(first, first + one.DAYS):
        out = place.segments / f"bench-{day}.parquet"
        segments.copy(
            duck,
            f"""SELECT s.* REPLACE (s.id || '-' || c AS id, s.call || '-' || c AS call, s.conversation || '-' || c AS conversation,
                CAST(s.cost * (1 + c % 7) AS DECIMAL(18,12)) AS cost, s.ts + INTERVAL (c * 37) MILLISECOND AS ts)
                FROM (SELECT COLUMNS(lambda c: NOT regexp_full_match(c, 'label_[0-9a-f]{{16}}'))
                      FROM read_parquet([{listed}], union_by_name = true)) s, range({copies}) r(c)
                WHERE epoch_us(s.ts) // {DAY_US} = {day} AND epoch_us(s.ts + INTERVAL (c * 37) MILLISECOND) // {DAY_US} = {day}
                ORDER BY ts""",
            out,
        )
        ((low, high, count),) = duck.execute(f"SELECT epoch_us(min(ts)), epoch_us(max(ts)), count(*) FROM '{out}'").fetchall()
        if count:
            made.append((out.name, day, low, high, count, out.stat().st_size, hashlib.sha256(out.read_bytes()).hexdigest(), 0))
    with connection:
        connection.execute("DELETE FROM segments")
        connection.executemany("INSERT INTO segments VALUES (?,?,?,?,?,?,?,?)", made)
    connection.close()
    for path in seeds:
        path.unlink()


def view(folder: Path, paths: list[str]) -> tuple[list[tuple[str, float, float, int]], float]:
    """Each path's first answer in a process of its own: seconds, seconds of CPU, bytes; and the process's largest memory in MB."""
    port = 8700 + os.getpid() % 90
    server = subprocess.Popen(
        [sys.executable, "-m", "bursar", "dashboard", "--ledger", str(folder), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found: list[tuple[str, float, float, int]] = []
    process = psutil.Process(server.pid)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/login", timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        for path in paths:
            started, used = time.perf_counter(), sum(process.cpu_times()[:2])
            try:
                body = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120).read()
            except urllib.error.HTTPError as refused:
                body, path = refused.read(), f"{path}: {refused.code}"
            found.append((path, time.perf_counter() - started, sum(process.cpu_times()[:2]) - used, len(body)))
        memory = process.memory_info()
        status = Path(f"/proc/{server.pid}/status")
        peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024 if status.exists() else memory.rss / 2**20
    finally:
        server.terminate()
        server.wait(20)
    return found, peak


VIEWERS = 10


async def watched(repeats: int = 4, seconds: float = 4.0) -> tuple[list[float], list[float]]:
    """Microseconds of a gateway's CPU per call, alone and with ten viewers of pages on its ledger, in turns: each viewer asks for
    Bill or Guards, again two seconds after its answer, as an open page does."""
    mock = await asyncio.get_running_loop().create_server(gateway.Mock, "127.0.0.1", 0, backlog=512)
    with tempfile.TemporaryDirectory(prefix="bursar-viewed-") as made:
        subject = gateway.Subject("bursar", Path(made), mock.sockets[0].getsockname()[1])
        subject.start()
        port = 8700 + os.getpid() % 90
        pages = subprocess.Popen(
            [sys.executable, "-m", "bursar", "dashboard", "--ledger", f"{made}/ledger", "--port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        looking, ended = threading.Event(), threading.Event()

        def look(number: int) -> None:
            while not ended.is_set():
                if looking.wait(0.1):
                    with contextlib.suppress(OSError):
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/{('bill', 'guards')[number % 2]}", timeout=60).read()
                    ended.wait(2.0)

        viewers = [threading.Thread(target=look, args=(number,)) for number in range(VIEWERS)]
        alone: list[float] = []
        seen: list[float] = []
        try:
            for one in viewers:
                one.start()
            await gateway.load(subject.port, "small", 16, 2.0)
            for turn in range(2 * repeats):
                (looking.set if turn % 2 else looking.clear)()
                await asyncio.sleep(2.5)
                before = gateway.cpu(subject.process.pid)
                calls = await gateway.load(subject.port, "small", 16, seconds)
                (seen if turn % 2 else alone).append((gateway.cpu(subject.process.pid) - before) / calls * 1e6)
        finally:
            ended.set()
            pages.terminate()
            subject.stop()
            for one in viewers:
                one.join(60)
    return alone, seen


def main(arguments: list[str]) -> int:
    rows = int(arguments[0]) if arguments else 1_000_000
    folder = Path(arguments[1] if len(arguments) > 1 else tempfile.mkdtemp(prefix="bursar-pages-")) / f"ledger-{rows}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    build(folder, rows)
    found, peak = view(folder, ["/bill?since=30d", "/bill?since=30d&by=tenant", "/bill?since=all&by=label:team", "/calls?since=30d", "/tools?since=30d", "/conversations?since=30d", "/savings?since=30d",
                                "/why?since=30d", "/audit?since=30d", "/guards"])
    for path, seconds, cpu, size in found:
        print(f"{rows:>10,} rows  {path:<32} {seconds:6.2f} s  {cpu:6.2f} s CPU  {size / 1000:7.0f} kB")
    print(f"{rows:>10,} rows  largest memory {peak:.0f} MB, load {os.getloadavg()[0]:.1f}")
    alone, seen = asyncio.run(watched())
    print(f"the gateway's CPU per 1 KB call: {statistics.median(alone):.0f} us alone, {statistics.median(seen):.0f} us with {VIEWERS} viewers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
