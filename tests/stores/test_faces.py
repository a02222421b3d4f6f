"""Threads, event loops, forks and exits: one ledger, whoever asks and however it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bursar.domain.entry import Held, Short
from bursar.stores import keeper, writer
from bursar.stores.fault import LedgerFault
from bursar.stores.segments import compact
from bursar.stores.writer import Ledger

from .books import charge, hold, opened, settle

SRC = Path(__file__).resolve().parents[2] / "src"
TESTS = Path(__file__).resolve().parents[1]


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Another process with the ledger's tests at hand."""
    environment = dict(os.environ, PYTHONPATH=f"{SRC}{os.pathsep}{TESTS}")
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, text=True, **options)


def test_many_threads_share_one_ledger_and_the_limit_is_exact(ledger):
    """Sixteen threads, fifty tries each, room for three hundred: three hundred are granted."""
    granted: list[str] = []

    def work(thread):
        for number in range(50):
            held = hold(f"{thread}-{number}.1", [charge("day", 1, 300)])
            if not isinstance(ledger.hold(held), Short):
                ledger.book(settle(held, [1]))
                granted.append(held.id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 300
    assert sorted(granted) == sorted(row.id for row in ledger.rows())
    assert (ledger.counters()["day"].spent, ledger.counters()["day"].held) == (300, 0)


def test_threads_that_come_together_share_commits(ledger):
    """Grouping needs no timer: who waits for the lock is written by who has it."""

    def work(thread):
        for number in range(30):
            ledger.book(settle(hold(f"{thread}-{number}.1")))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.stats()["rows"] == 480
    assert ledger.stats()["batches"] < 400


def test_many_rows_at_once_are_few_commits_and_may_be_booked_again(ledger):
    rows = [settle(hold(f"{n}.1", [charge("day", 1)]), [1]) for n in range(1100)]
    before = ledger.stats()["batches"]
    ledger.book_all(rows)
    assert ledger.stats()["batches"] - before == 3
    ledger.book_all([*rows[:600], settle(hold("new.1", [charge("day", 1)]), [1])])
    ledger.book_all([])
    assert (len(ledger.rows()), ledger.counters()["day"].spent) == (1101, 1101)


def test_one_bad_row_among_many_is_told_and_the_rest_are_there(ledger):
    with pytest.raises(LedgerFault, match="unstorable"):
        ledger.book_all([settle(hold(f"{n}.1"), turn=2**70 if n == 3 else 1) for n in range(9)])
    assert len(ledger.rows()) == 8


def test_a_row_is_on_the_disk_before_its_caller_hears_of_it_and_a_hold_is_only_written(ledger, monkeypatch):
    """The row must survive a power cut before its caller hears of it; a hold need only survive a killed process."""
    seen = []
    real = ledger._tail.sync

    def sync():
        seen.append([row.id for row in ledger.rows()])  # committed before the disk is waited for
        real()

    monkeypatch.setattr(ledger._tail, "sync", sync)
    held = hold("a.1")
    ledger.hold(held)
    assert seen == []
    ledger.book(settle(held))
    assert seen == [["a.1"]]
    ledger.hold(hold("b.1"))
    assert seen == [["a.1"]]


def test_on_a_loop_a_row_is_not_told_while_the_disk_is_at_work_and_holds_pass_by(ledger, monkeypatch):
    """Holds are granted while the disk is waited for; rows that come meanwhile share the next sync."""

    async def main():
        loop = asyncio.get_running_loop()
        await ledger.book_soon(settle(hold("warm.1")), loop)
        may, syncs = threading.Event(), []
        real = ledger._tail.sync

        def sync():
            syncs.append(len(ledger.rows()))
            assert may.wait(10)
            real()

        monkeypatch.setattr(ledger._tail, "sync", sync)
        first = ledger.book_soon(settle(hold("a.1")), loop)
        while not syncs:
            await asyncio.sleep(0.001)
        later = [ledger.book_soon(settle(hold(f"{n}.1")), loop) for n in range(20)]
        assert await ledger.hold_soon(hold("h.1"), loop) is None
        assert not any(future.done() for future in (first, *later))
        may.set()
        await asyncio.gather(first, *later)
        assert len(syncs) == 2

    asyncio.run(main())


@pytest.mark.parametrize("busy", [True, False])
def test_rows_of_a_loop_that_is_busy_share_a_sync_and_a_lone_row_waits_for_nobody(ledger, monkeypatch, busy):
    """Each turn of the loop brings one more; the disk is asked for when a turn has brought none, or when the time is over."""
    monkeypatch.setattr(writer, "GATHER_S", 30.0)
    monkeypatch.setattr(keeper, "GATHER_S", 30.0)

    async def main():
        loop = asyncio.get_running_loop()
        await ledger.book_soon(settle(hold("warm.1")), loop)
        syncs, real = [], ledger._tail.sync

        def sync():
            syncs.append(len(ledger.rows()))
            real()

        monkeypatch.setattr(ledger._tail, "sync", sync)
        rows = []
        for number in range(6):
            rows.append(ledger.book_soon(settle(hold(f"{number}.1")), loop))
            if busy:
                await asyncio.sleep(0)
            else:
                await asyncio.wait_for(rows[-1], 10)
        await asyncio.wait_for(asyncio.gather(*rows), 10)
        assert syncs == ([7] if busy else [2, 3, 4, 5, 6, 7])

    asyncio.run(main())


def test_a_loop_that_is_never_quiet_does_not_keep_rows_from_the_disk(ledger, monkeypatch):
    """Also where it would go on for ever: rows wait a few milliseconds for others, and no longer."""

    async def main():
        loop = asyncio.get_running_loop()
        await ledger.book_soon(settle(hold("warm.1")), loop)
        first, number = ledger.book_soon(settle(hold("a.1")), loop), 0
        while not first.done():
            number += 1
            ledger.hold_soon(hold(f"h{number}.1"), loop)
            await asyncio.sleep(0)
        assert 0 < number < 10_000

    asyncio.run(main())


def test_rows_of_a_loop_that_ended_before_it_rang_are_on_the_disk_with_the_next(ledger):
    """Nobody waits for them any more, and nothing else depends on that loop."""

    async def main():
        ledger.book_soon(settle(hold("a.1")), asyncio.get_running_loop())
        while not ledger._written:
            await asyncio.sleep(0)

    ledger.book(settle(hold("warm.1")))
    asyncio.run(main())
    ledger.book(settle(hold("b.1")))
    assert not ledger._written and [row.id for row in ledger.rows()] == ["warm.1", "a.1", "b.1"]


def test_a_sync_that_fails_acknowledges_nothing_and_the_row_lands_once(tmp_path, clocks):
    """The row is committed and may not be on the disk: its caller is told only when it is."""
    with opened(tmp_path, clocks, ack_s=0.05) as ledger:
        tail = ledger._tail

        def broken():
            raise OSError(5, "Input/output error")

        tail.sync = broken
        held = hold("a.1", [charge("day", 40)])
        ledger.hold(held)
        try:
            ledger.book(settle(held, [25]))
        except LedgerFault as fault:
            assert fault.code in ("late", "io_error")
        else:
            assert ledger._tail is not tail, "acknowledged by the connection whose sync failed"
        for _ in range(1000):
            if ledger.fault() is None:
                break
            time.sleep(0.01)
        assert [row.id for row in ledger.rows()] == ["a.1"]
        assert (ledger.counters()["day"].spent, ledger.counters()["day"].held) == (25, 0)


def test_an_event_loop_gets_batches_and_exact_answers(ledger):
    async def call(number, loop):
        held = hold(f"{number}.1", [charge("day", 1, 150), charge(f"conversation|{number % 7}", 1)])
        answer = await ledger.hold_soon(held, loop)
        if isinstance(answer, Short):
            return False
        await ledger.book_soon(settle(held, [1, 1]), loop)
        return True

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(call(n, loop) for n in range(200)))

    granted = asyncio.run(main())
    assert sum(granted) == 150
    assert len(ledger.rows()) == 150
    assert ledger.stats()["batches"] < 50


def test_a_hold_whose_caller_left_before_the_answer_is_given_back(ledger):
    async def main():
        loop = asyncio.get_running_loop()
        await ledger.hold_soon(hold("warm.1"), loop)  # the writer's thread runs
        with ledger._lock:  # and cannot answer yet
            future = ledger.hold_soon(hold("a.1", [charge("day", 40, 100)]), loop)
            future.cancel()
        for _ in range(200):
            if ledger.stats()["released"]:
                break
            await asyncio.sleep(0.01)
        while ledger.stats()["queue_depth"]:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert ledger.stats()["released"] == 1
    assert ledger.counters()["day"].held == 0


def test_a_closed_ledger_says_so_and_writes_nothing(tmp_path, clocks):
    ledger = opened(tmp_path, clocks)
    ledger.close()
    for act in (lambda: ledger.hold(hold("a.1")), lambda: ledger.book(settle(hold("a.1"))), ledger.rows):
        with pytest.raises(LedgerFault, match="closed"):
            act()

    async def main():
        loop = asyncio.get_running_loop()
        for future in (ledger.hold_soon(hold("a.1"), loop), ledger.book_soon(settle(hold("a.1")), loop)):
            with pytest.raises(LedgerFault, match="closed"):
                await future

    asyncio.run(main())
    ledger.close()


def test_the_holds_of_a_living_sibling_are_left_alone(tmp_path, clocks):
    """Two ledgers on one file, as two workers are: opening the second must not charge what the first has under way."""
    with opened(tmp_path, clocks) as first:
        held = hold("a.1", [charge("day", 40, 100)])
        first.hold(held)
        with opened(tmp_path, clocks) as second:
            assert second.recover() == []
            assert second.counters()["day"].held == 40
        first.book(settle(held, [25]))
        assert first.counters()["day"].spent == 25


def test_a_sibling_may_settle_what_another_held(tmp_path, clocks):
    with opened(tmp_path, clocks) as first, opened(tmp_path, clocks) as second:
        held = hold("a.1", [charge("day", 40, 100)])
        first.hold(held)
        second.book(settle(held, [25]))
        assert first.hold(hold("b.1", [charge("day", 75, 100)])) == Held(left=(0, 0))
        assert isinstance(first.hold(hold("c.1", [charge("day", 1, 100)])), Short)


def test_a_process_given_up_while_it_slept_books_a_correction(tmp_path, clocks):
    """Its lease lapsed, a sibling charged its hold; it wakes up and settles: the difference is put right, once."""
    first = opened(tmp_path, clocks)
    held = hold("a.1", [charge("day", 40, 100)])
    first.hold(held)
    first._keeper._keep = lambda: None
    first._lease_due = 10**18  # it sleeps: nothing renews its lease
    clocks.lapse()
    with opened(tmp_path, clocks) as second:
        assert [row.status for row in second.rows()] == ["unknown"]
        compact(tmp_path, everything=True, clock_us=clocks.wall)
        first.book(settle(held, [25]))
        assert [row.status for row in second.rows()] == ["correction"]
        assert (second.counters()["day"].spent, second.counters()["day"].held) == (25, 0)
    first.close()


def test_a_forked_child_opens_its_own_and_leaves_its_parents_holds_alone(tmp_path):
    """The parent holds, forks, and both go on. No connection, thread or pending work crosses the fork."""
    code = """
import os, sys, time
from stores.books import *
from bursar.domain.entry import Held, Short
ledger = Ledger.open(sys.argv[1], clock_us=lambda: time.time_ns() // 1000)
mine = hold("parent.1", [charge("day", 40, 100)])
assert ledger.hold(mine) == Held(left=(0, 60))
pid = os.fork()
if pid == 0:
    if os.path.isdir("/proc/self/fd"):
        files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [f for f in files if "ledger.db" in f], "a connection was carried across"
    theirs = hold("child.1", [charge("day", 50, 100)])
    assert ledger.hold(theirs) == Held(left=(0, 10)), "60 are left"
    assert isinstance(ledger.hold(hold("child.2", [charge("day", 20, 100)])), Short), "10 are left"
    ledger.book(settle(theirs, [50]))
    ledger.close()
    os._exit(0)
assert ledger._tail is None, "the connection was open while the process forked"
_, status = os.waitpid(pid, 0)
assert status == 0, status
ledger.book(settle(mine, [40]))
print(sorted((r.id, r.status) for r in ledger.rows()), ledger.counters()["day"].spent, ledger.counters()["day"].held)
"""
    process = python(code, tmp_path, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.strip() == "[('child.1', 'ok'), ('parent.1', 'ok')] 90 0"


def test_forking_while_threads_write_harms_neither_side(tmp_path):
    code = """
import os, sys, threading, time
from stores.books import *
from bursar.domain.entry import Held, Short
ledger = Ledger.open(sys.argv[1], clock_us=lambda: time.time_ns() // 1000)
def work(name):
    for n in range(40):
        held = hold(f"{name}-{n}.1", [charge("day", 1)])
        ledger.hold(held); ledger.book(settle(held, [1]))
threads = [threading.Thread(target=work, args=(f"p{t}",)) for t in range(4)]
for t in threads: t.start()
children = []
for c in range(4):
    pid = os.fork()
    if pid == 0:
        work(f"c{c}"); ledger.close(); os._exit(0)
    children.append(pid)
for t in threads: t.join()
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
print(len(ledger.rows()), ledger.counters()["day"].spent, ledger.counters()["day"].held)
"""
    process = python(code, tmp_path, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.strip() == "320 320 0"


def test_a_script_that_just_ends_leaves_its_rows_and_no_lease(tmp_path, clocks):
    code = """
import sys, time
from stores.books import *
from bursar.domain.entry import Held, Short
ledger = Ledger.open(sys.argv[1], clock_us=lambda: time.time_ns() // 1000)
held = hold("a.1")
ledger.hold(held); ledger.book(settle(held)); ledger.hold(hold("left.1"))
"""
    process = python(code, tmp_path)
    assert process.wait(timeout=30) == 0
    with Ledger.open(tmp_path, clock_us=clocks.wall) as ledger:
        assert [(row.id, row.status) for row in ledger.rows()] == [("a.1", "ok"), ("left.1", "unknown")]


RACE = """
import sys, time
from stores.books import *
from bursar.domain.entry import Held, Short
path, name, limit, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
ledger = Ledger.open(path, clock_us=lambda: time.time_ns() // 1000)
granted = 0
time.sleep(max(0, start - time.time()))
for n in range(limit):
    held = hold(f"{name}-{n}.1", [charge("day", 1, limit), charge("calls", 1, None, unit="calls")])
    if not isinstance(ledger.hold(held), Short):
        granted += 1
        if n % 3:
            ledger.book(settle(held, [1, 1]))
print(granted)
ledger.close()
"""


def test_processes_racing_for_a_limit_get_exactly_the_limit(tmp_path, clocks):
    """Four workers, each of which alone could use it up: not one grant more, not one less."""
    limit = 200
    opened(tmp_path, clocks).close()
    start = time.time() + 1.0
    workers = [python(RACE, tmp_path, f"w{n}", limit, start, stdout=subprocess.PIPE) for n in range(4)]
    granted = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(granted) == limit
    with Ledger.open(tmp_path, clock_us=clocks.wall) as ledger:
        assert (ledger.counters()["day"].spent, ledger.counters()["day"].held) == (limit, 0)
        assert len(ledger.rows()) == limit
