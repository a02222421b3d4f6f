"""Disks that are full, locked, read-only or broken: nothing acknowledged that is not there, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import pytest

import bursar.stores.tail as tail_module
from bursar.stores import keeper, writer
from bursar.stores.check import check
from bursar.stores.fault import LedgerFault
from bursar.stores.schema import Place

from .books import charge, die, hold, opened, settle

LIMIT = 10**9


def until(true, seconds=10.0):
    """Wait for something that another thread brings about; the bound only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def ids(ledger):
    return [row.id for row in ledger.rows()]


@contextmanager
def other_process_writes(path) -> Iterator[None]:
    """Someone else keeps the write lock."""
    other = apsw.Connection(str(Place.at(path).file))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_locked_file_fails_holds_with_a_reason_and_keeps_rows_until_they_land(tmp_path, clocks):
    with opened(tmp_path, clocks, busy_ms=30, ack_s=0.2) as ledger:
        held = hold("a.1", [charge("day", 40, LIMIT)])
        ledger.hold(held)
        with other_process_writes(tmp_path):
            with pytest.raises(LedgerFault) as refused:
                ledger.hold(hold("b.1"))
            assert (refused.value.code, bool(refused.value.remedy)) == ("locked", True)
            with pytest.raises(LedgerFault) as late:
                ledger.book(settle(held, [25]))
            assert late.value.code == "late"
            assert ledger.fault().code == "locked"
            assert ledger.stats()["spooled"] == 1
        until(lambda: ledger.fault() is None)
        assert ids(ledger) == ["a.1"]
        assert (ledger.counters()["day"].spent, ledger.counters()["day"].held) == (25, 0)
        assert ledger.hold(hold("c.1")) is None


def test_a_row_that_lands_within_its_time_is_acknowledged_though_the_ledger_was_in_trouble(tmp_path, clocks):
    async def main():
        loop = asyncio.get_running_loop()
        with opened(tmp_path, clocks, busy_ms=30) as ledger:
            with other_process_writes(tmp_path):
                future = ledger.book_soon(settle(hold("a.1")), loop)
                while ledger.fault() is None:
                    await asyncio.sleep(0.005)
                assert not future.done()
            await future
            assert ids(ledger) == ["a.1"]

    asyncio.run(main())


def test_a_late_row_fails_its_future_once_and_still_lands(tmp_path, clocks):
    async def main():
        loop = asyncio.get_running_loop()
        with opened(tmp_path, clocks, busy_ms=30, ack_s=0.05) as ledger:
            with other_process_writes(tmp_path):
                with pytest.raises(LedgerFault, match="late"):
                    await ledger.book_soon(settle(hold("a.1")), loop)
            await asyncio.to_thread(until, lambda: ledger.fault() is None)
            assert ids(ledger) == ["a.1"]

    asyncio.run(main())


def test_a_file_size_limit_hit_in_mid_write_loses_no_row(tmp_path, clocks):
    """A real write that the kernel refuses (RLIMIT_FSIZE), as a full disk does."""
    ledger = opened(tmp_path, clocks, ack_s=0.1)
    acknowledged, unsure = [], []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = tmp_path / "ledger.db-wal"
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 60_000, before[1]))
    try:
        for number in range(40):
            settlement = settle(hold(f"{number}.1", [charge("day", 2)]), [1], labels='{"pad":"' + "x" * 2000 + '"}')
            try:
                ledger.book(settlement)
                acknowledged.append(settlement.id)
            except LedgerFault as fault:
                unsure.append(settlement.id)
                assert fault.code in ("late", "disk_full", "io_error")
        assert acknowledged and unsure
        with pytest.raises(LedgerFault):
            ledger.hold(hold("x.1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    until(lambda: ledger.fault() is None)
    assert sorted(ids(ledger)) == sorted(acknowledged + unsure)
    assert ledger.counters()["day"].spent == 40
    ledger.close()
    assert check(tmp_path, clocks.wall).findings == ()


def test_a_full_database_is_told_as_a_full_disk(tmp_path, clocks):
    ledger = opened(tmp_path, clocks, ack_s=0.05)
    ledger.book(settle(hold("a.1")))
    pages = ledger._tail.connection.pragma("page_count")
    ledger._tail.connection.pragma("max_page_count", pages)
    with pytest.raises(LedgerFault) as full:
        for number in range(200):
            ledger.hold(hold(f"h{number}.1", labels='{"pad":"' + "x" * 3000 + '"}'))
    assert full.value.code == "disk_full"
    ledger._tail.connection.pragma("max_page_count", 1 << 30)
    until(lambda: ledger.fault() is None)
    assert ledger.hold(hold("z.1")) is None
    ledger.close()


def test_a_read_only_database_fails_holds_and_keeps_rows(tmp_path, clocks):
    ledger = opened(tmp_path, clocks)
    ledger._tail.connection.pragma("query_only", True)
    with pytest.raises(LedgerFault) as refused:
        ledger.hold(hold("a.1"))
    assert refused.value.code == "read_only"
    ledger.book(settle(hold("b.1")))  # taken in hand, and there once the file has been opened again
    assert ledger.fault() is None
    assert ids(ledger) == ["b.1"]
    ledger.close()


def test_over_the_bound_of_rows_in_hand_no_call_is_let_out(tmp_path, clocks, monkeypatch):
    monkeypatch.setattr(writer, "SPOOL_MAX", 3)
    ledger = opened(tmp_path, clocks, busy_ms=20, ack_s=0.0)
    with other_process_writes(tmp_path):
        for number in range(4):
            with pytest.raises(LedgerFault):
                ledger.book(settle(hold(f"{number}.1")))
        with pytest.raises(LedgerFault) as refused:
            ledger.hold(hold("x.1"))
        assert refused.value.code == "spool_full"
    until(lambda: ledger.fault() is None)
    assert sorted(ids(ledger)) == ["0.1", "1.1", "2.1", "3.1"]
    ledger.close()


def test_closing_with_rows_in_hand_says_how_many(tmp_path, clocks):
    ledger = opened(tmp_path, clocks, busy_ms=20, ack_s=0.0)
    held = hold("a.1", [charge("day", 40)])
    ledger.hold(held)
    with other_process_writes(tmp_path):
        with pytest.raises(LedgerFault):
            ledger.book(settle(held))
        with pytest.raises(LedgerFault, match="1 rows could not be written"):
            ledger.close()
    clocks.lapse()
    with opened(tmp_path, clocks) as again:  # the hold was in the file: it is charged, not lost
        assert [(row.id, row.status) for row in again.rows()] == [("a.1", "unknown")]


def test_a_corrupt_file_is_named_with_a_remedy(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        ledger.book(settle(hold("a.1")))
    file = tmp_path / "ledger.db"
    file.write_bytes(b"this is no database, and never was one" * 200)
    with pytest.raises(LedgerFault) as fault:
        opened(tmp_path, clocks)
    assert fault.value.code == "corrupt"
    assert str(file) in fault.value.reason


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        ledger._tail.connection.pragma("user_version", 99)
    with pytest.raises(LedgerFault, match="newer_schema"):
        opened(tmp_path, clocks)


def test_a_place_that_cannot_be_is_told(tmp_path, clocks):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerFault) as fault:
        opened(tmp_path / "file" / "ledger", clocks)
    assert fault.value.code in ("cannot_open", "io_error", "read_only")


def test_one_row_that_cannot_be_stored_does_not_take_its_batch_along(ledger):
    """A number no column can hold is that row's fault alone."""

    async def main():
        loop = asyncio.get_running_loop()
        futures = [ledger.book_soon(settle(hold(f"{n}.1"), latency_ms=2**70 if n == 1 else 5), loop) for n in range(3)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert results[0] is None and results[2] is None
        assert isinstance(results[1], LedgerFault) and results[1].code == "unstorable"

    asyncio.run(main())
    assert sorted(ids(ledger)) == ["0.1", "2.1"]


class Failing:
    """A connection whose n-th statement fails: before it ran, or after it ran but with an error told all the same."""

    def __init__(self, connection, plan):
        self._connection, self._plan = connection, plan

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, *arguments, **options):
        self._plan["left"] -= 1
        if self._plan["left"] != 0:
            return self._connection.execute(*arguments, **options)
        if self._plan["after"]:
            self._connection.execute(*arguments, **options)
        raise apsw.IOError("the n-th operation failed")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_whichever_operation_fails_every_row_is_there_once_and_counters_are_exact(tmp_path, clocks, monkeypatch, after):
    """n = 1, 2, 3 … until the work no longer reaches the n-th operation."""
    monkeypatch.setattr(keeper, "RETRY_S", 0.002)
    plan = {"left": 0, "after": after}
    real = tail_module.connect
    monkeypatch.setattr(tail_module, "connect", lambda *a, **k: Failing(real(*a, **k), plan))
    for n in range(1, 60):
        folder = tmp_path / str(n)
        ledger = opened(folder, clocks)
        plan["left"] = n
        booked = 0
        for number in range(3):
            held = hold(f"{number}.1", [charge("day", 40, LIMIT), charge(f"c{number}", 1)])
            try:
                ledger.hold(held)
            except LedgerFault as fault:
                assert fault.code == "io_error"
                until(lambda ledger=ledger: ledger.fault() is None)
                continue
            ledger.book(settle(held, [25, 1]))
            booked += 1
        reached = plan["left"] <= 0
        plan["left"] = 0
        assert len(ids(ledger)) == len(set(ids(ledger))) == booked
        day = ledger.counters().get("day")
        assert day is None or day.spent == 25 * booked, n
        die(ledger)
        clocks.lapse()
        with opened(folder, clocks) as again:  # a hold that was told as failed may stand: then it is charged, once
            leftover = [row for row in again.rows() if row.status == "unknown"]
            assert again.counters()["day"].held == 0
            assert again.counters()["day"].spent == 25 * booked + 40 * len(leftover)
        if n % 5 == 0:  # a check takes longer than all the rest
            assert check(folder, clocks.wall).findings == ()
        if not reached:
            return
    pytest.fail("the work never got shorter than the fault")
