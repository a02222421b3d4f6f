"""The proofs find what is planted, and nothing in a sound ledger."""

from __future__ import annotations

import json

import apsw
import pytest

from bursar.domain.shape import replace
from bursar.stores.check import check, drift, rebuild
from bursar.stores.segments import COUNTER_KEEP_US, compact
from bursar.stores.writer import Ledger

from .books import NANO, T0, charge, die, entry, hold, opened, settle


@pytest.fixture
def sound(tmp_path, clocks):
    """Rows in tail and segments, one under way, one given up and corrected, one unpriced."""
    ledger = opened(tmp_path, clocks)
    lost = hold("lost.1", [charge("day", 9)])
    ledger.hold(lost)
    die(ledger)
    clocks.lapse()
    ledger = Ledger.open(tmp_path, clock_us=clocks.wall)  # leases by the real clock, as a reader judges them
    ledger.book(settle(lost, [5]))
    ledger.book_all([settle(hold(f"{n}.1", [charge("day", 9), charge(f"conversation|{n % 3}", 9)]), [7, 7]) for n in range(20)])
    compact(tmp_path, everything=True, clock_us=clocks.wall)
    ledger.book_all([settle(hold(f"{n}.1", [charge("day", 9)]), [7]) for n in range(20, 30)])
    ledger.book_all([settle(hold("x.1"), cost=None)])
    ledger.hold(hold("open.1", [charge("day", 9)]))
    yield tmp_path
    ledger.close()


def tamper(path, statement):
    connection = apsw.Connection(str(path / "ledger.db"))
    connection.execute(statement)
    connection.close()


def codes(path, clocks):
    return {finding.code for finding in check(path, clocks.wall).findings}


def test_a_sound_ledger_has_no_findings(sound, clocks):
    checked = check(sound, clocks.wall)
    assert checked.findings == ()
    assert (checked.rows, checked.holds, checked.segments) == (33, 1, 1)
    assert drift(sound) == []


@pytest.mark.parametrize(("code", "statement"), [
    ("legs_do_not_foot", "UPDATE tail SET cost = cost + 1, cost_input = cost_input + 1 WHERE id = '25.1'"),
    ("columns_do_not_foot", "UPDATE tail SET cost_output = 5 WHERE id = '25.1'"),
    ("legs_wrong", """UPDATE tail SET legs = '[["input",2,5000000000,5000000]]' WHERE id = '25.1'"""),
    ("context_does_not_foot", "UPDATE tail SET cost_new = 1 WHERE id = '25.1'"),
    ("unknown_as_zero", "UPDATE tail SET cost = 0 WHERE id = 'x.1'"),
    ("row_doubled", "UPDATE tail SET id = '3.1' WHERE id = '25.1'"),
    ("counter_drift", "UPDATE counters SET spent = spent - 1 WHERE counter = 'day'"),
    ("counter_drift", "UPDATE counters SET held = held + 1 WHERE counter = 'day'"),
    ("counter_drift", "DELETE FROM counters WHERE counter = 'day'"),
    ("counter_drift", "DELETE FROM tail WHERE id = '25.1'"),
    ("counter_drift", "DELETE FROM holds"),
    ("segment_corrupt", "UPDATE segments SET rows = rows + 1"),
])  # fmt: skip
def test_a_planted_defect_is_found(sound, clocks, code, statement):
    tamper(sound, statement)
    assert codes(sound, clocks) == {code}


def test_a_hold_whose_process_is_gone_is_told_with_its_age(sound, clocks):
    tamper(sound, "DELETE FROM owners")
    clocks.wall_us = T0 + 90_000_000
    (finding,) = check(sound, clocks.wall).findings
    assert finding.code == "hold_open"
    assert "open.1 has held 0.000009 dollars for 90 s; its process is gone" in finding.reason


def test_a_broken_database_page_is_found(sound, clocks):
    tamper(sound, "PRAGMA wal_checkpoint(TRUNCATE)")
    connection = apsw.Connection(str(sound / "ledger.db"))
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tail_id'").get
    size = connection.pragma("page_size")
    connection.close()
    with (sound / "ledger.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\x7f" * 200)
    assert "corrupt" in codes(sound, clocks)


def test_rebuilt_counters_are_what_the_rows_say_also_beside_a_running_gateway(sound, clocks):
    tamper(sound, "UPDATE counters SET spent = 999, held = 0 WHERE counter = 'day'")
    tamper(sound, "DELETE FROM counters WHERE counter LIKE 'conversation%'")
    with Ledger.open(sound, clock_us=clocks.wall, mode="wrapper") as gateway:
        before = hold("g.1", [charge("day", 9)])
        gateway.hold(before)
        changed = rebuild(sound)
        assert {d.counter for d in changed} == {"day", "conversation|0", "conversation|1", "conversation|2"}
        gateway.book(settle(before, [7]))
        assert gateway.counters()["day"].spent == 5 + 20 * 7 + 10 * 7 + 7
    assert drift(sound) == []


def test_imported_rows_may_come_without_legs(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        row = entry("i.1", cost=5 * NANO, legs="[]", source="imported:jsonl")
        ledger.book(replace(settle(hold("i.1")), entry=row))
    assert check(tmp_path, clocks.wall).findings == ()
    assert json.loads(row.legs) == []


@pytest.mark.drift
def test_a_gateway_sets_counters_right_when_it_opens_and_tells_of_drift_later(sound, clocks, caplog):
    """At the start they are caches to be filled; while it runs a difference is a bug, told and kept as evidence."""
    tamper(sound, "UPDATE counters SET spent = 999 WHERE counter = 'day'")
    with Ledger.open(sound, clock_us=clocks.wall) as gateway:
        assert gateway.counters()["day"].spent == 5 + 20 * 7 + 10 * 7
        assert "day says 999 spent" in caplog.text and "set right" in caplog.text
        assert gateway.stats()["drift"] == 0
        tamper(sound, "UPDATE counters SET spent = spent + 1 WHERE counter = 'day'")
        gateway._keeper.compare(mend=False)
        assert gateway.stats()["drift"] == 1
    assert codes(sound, clocks) == {"counter_drift"}


def test_what_segments_took_is_counted_anew_from_the_files(sound, clocks):
    """The sums kept beside the segments are a cache too."""
    tamper(sound, "UPDATE charged SET spent = spent + 3")
    assert codes(sound, clocks) == {"counter_drift"}
    assert rebuild(sound) == []
    assert codes(sound, clocks) == set()


def test_a_counter_long_over_is_forgotten_with_what_its_rows_took(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        old, new = (replace(charge(name, 9), resets_us=T0 + 1) for name in ("old", "new"))
        ledger.book_all([settle(hold("a.1", [old]), [7]), settle(hold("b.1", [new]), [7])])
        compact(tmp_path, everything=True, clock_us=clocks.wall)
        clocks.wall_us = T0 + COUNTER_KEEP_US + 10
        ledger.book(settle(hold("c.1", [new], ts=clocks.wall_us), [7]))  # a late row of a window that is over keeps its counter
        compact(tmp_path, clock_us=clocks.wall)
        assert set(ledger.counters()) == {"new"}
        compact(tmp_path, everything=True, clock_us=clocks.wall)
        compact(tmp_path, clock_us=clocks.wall)
        assert set(ledger.counters()) == set()
    assert drift(tmp_path) == [] and codes(tmp_path, clocks) == set()
