"""The compactor: at whatever step it dies, every row is in exactly one place for every reader, and the next run finishes."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal

import duckdb
import pytest

from bursar.stores.check import check
from bursar.stores.fault import LedgerFault
from bursar.stores.reader import Reader
from bursar.stores.schema import IN_TAIL, Place, connect
from bursar.stores.segments import CLOSED_US, DAY_US, GRACE_US, compact

from .books import NANO, T0, charge, hold, opened, settle
from .test_faces import python


def fill(ledger, first, count, *, ts=T0, **columns):
    """Rows a minute apart, some across midnight."""
    held = [hold(f"{n}.1", [charge("day", 9)], ts=ts + n * 60_000_000) for n in range(first, first + count)]
    ledger.book_all([settle(h, [7], cost=(n + 1) * NANO, **columns) for n, h in enumerate(held, first)])


def totals(path):
    with Reader(path) as reader:
        (row,) = reader.sql("SELECT count(*) AS rows, count(DISTINCT id) AS ids, sum(cost) AS cost FROM calls")
        return (row["rows"], row["ids"], row["cost"])


def nano(n):
    return Decimal(n).scaleb(-9)


@pytest.fixture
def filled(tmp_path, clocks):
    """Rows of two days: some in segments, some in the tail."""
    with opened(tmp_path, clocks) as ledger:
        fill(ledger, 0, 900)
        compact(tmp_path, everything=True, clock_us=clocks.wall)
        fill(ledger, 900, 100)
    return tmp_path


TOTAL = (1000, 1000, nano(500500))


def test_rows_are_the_same_in_the_tail_and_in_segments(tmp_path, clocks):
    """Every column, through Parquet and back: text with quotes and snowmen, labels, absent numbers, both signs."""
    odd = {"error": "it's \u2603 \\ \"q\"\n", "labels": json.dumps({"a'b": 'c"d', "é": "\u2603"}), "turn": None, "saved": -3}
    with opened(tmp_path, clocks) as ledger:
        fill(ledger, 0, 3, **odd)
        ledger.book(settle(hold("u.1"), cost=None, price_status="unpriced"))
    with Reader(tmp_path) as reader:
        before = reader.sql("SELECT * FROM calls ORDER BY id")
    assert compact(tmp_path, everything=True, clock_us=clocks.wall).rows == 4
    with Reader(tmp_path) as reader:
        after = reader.sql("SELECT * FROM calls ORDER BY id")
        assert reader.sqlite.execute(f"SELECT count(*) FROM tail WHERE {IN_TAIL}").get == 0
    assert after == before
    assert before[0]["labels"] == {"a'b": 'c"d', "é": "\u2603"}
    assert (before[0]["saved"], before[0]["try"]) == (Decimal("-0.000000000003"), 1)


def test_segments_are_plain_parquet_that_any_tool_reads(filled):
    files = sorted(str(path) for path in (filled / "segments").iterdir())
    rows = duckdb.sql(f"SELECT sum(cost), typeof(sum(cost)), typeof(any_value(ts)) FROM read_parquet({files})").fetchall()
    assert rows == [(nano(405450), "DECIMAL(38,12)", "TIMESTAMP WITH TIME ZONE")]


def test_young_rows_stay_and_old_ones_go(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        fill(ledger, 0, 1)
        clocks.wall_us = T0 + 59_000_000
        assert compact(tmp_path, clock_us=clocks.wall).rows == 0
        clocks.wall_us = T0 + 61_000_000
        assert compact(tmp_path, clock_us=clocks.wall).rows == 1


def test_a_segment_lies_within_one_day_and_a_closed_day_becomes_one_file(filled, clocks):
    with Reader(filled) as reader:
        assert all(s.min_ts // DAY_US == s.max_ts // DAY_US for s in reader.segments)
    clocks.wall_us = T0 + 3 * DAY_US + CLOSED_US
    done = compact(filled, clock_us=clocks.wall)
    assert (done.rows, done.merged) == (100, 2)
    with Reader(filled) as reader:
        assert len(reader.segments) == 2
    assert totals(filled) == TOTAL
    assert check(filled, clocks.wall).findings == ()


def test_replaced_files_stay_for_readers_that_are_at_them_and_then_go(filled, clocks):
    clocks.wall_us = T0 + 3 * DAY_US
    with Reader(filled) as early:
        early.totals(("cost",))
        compact(filled, everything=True, clock_us=clocks.wall)
        assert early.sql("SELECT count(*) AS n FROM calls") == [{"n": 1000}]
    before = len(list((filled / "segments").iterdir()))
    clocks.wall_us += GRACE_US + 1
    assert compact(filled, clock_us=clocks.wall).swept > 0
    assert len(list((filled / "segments").iterdir())) < before
    assert totals(filled) == TOTAL


STEPS = (
    "swept", "loaded", "copied", "renamed", "written", "inside", "handed over", "removed", "merged", "inside merge",
    "merge handed over",
)  # fmt: skip
DIE = """
import os, sys
from bursar.stores.segments import compact
path, at, now = sys.argv[1], sys.argv[2], int(sys.argv[3])
compact(path, everything=True, clock_us=lambda: now, step=lambda name: os._exit(7) if name == at else None)
"""


def test_killed_at_any_step_it_loses_nothing_doubles_nothing_and_the_next_run_finishes(tmp_path, clocks):
    """One ledger, a kill at each step in turn, so that later steps start from what earlier deaths left behind."""
    now = T0 + 9 * DAY_US
    with opened(tmp_path, clocks) as ledger:
        fill(ledger, 0, 900)
        compact(tmp_path, everything=True, clock_us=clocks.wall)
    for number, step in enumerate(STEPS):
        with opened(tmp_path, clocks) as ledger:
            fill(ledger, 900 + number * 10, 10)
        expected = 900 + (number + 1) * 10
        process = python(DIE, tmp_path, step, now + number * 1_000_000)
        assert process.wait(timeout=60) == 7, step
        assert totals(tmp_path) == (expected, expected, nano(expected * (expected + 1) // 2)), step
    clocks.wall_us = now + DAY_US
    done = compact(tmp_path, everything=True, clock_us=clocks.wall)
    assert not done.busy, "a dead compactor's lease must not stop the next"
    assert totals(tmp_path)[0] == 900 + 10 * len(STEPS)
    with Reader(tmp_path) as reader:
        listed = {s.name for s in reader.segments}
        retired = {name for (name,) in reader.sqlite.execute("SELECT name FROM retired")}
    assert {path.name for path in (tmp_path / "segments").iterdir()} == listed | retired, "an orphan was left"
    assert check(tmp_path, clocks.wall).findings == ()


def test_the_last_row_that_left_keeps_its_number_from_being_given_again(tmp_path, clocks):
    """Rows are numbered from the highest that is there; were all of them removed, the next would pass for one handed over."""
    with opened(tmp_path, clocks) as ledger:
        for round in range(3):
            fill(ledger, round * 10, 10)
            assert compact(tmp_path, everything=True, clock_us=clocks.wall).rows == 10
        fill(ledger, 30, 5)
        assert len(ledger.rows()) == 5
    assert totals(tmp_path)[:2] == (35, 35)


def test_two_compactors_do_not_work_at_once(filled, clocks):
    seen = []

    def meanwhile(step):
        if step == "loaded":
            seen.append(compact(filled, everything=True, clock_us=clocks.wall).busy)

    assert not compact(filled, everything=True, clock_us=clocks.wall, step=meanwhile).busy
    assert seen == [True]
    assert totals(filled) == TOTAL


def test_a_compactor_that_lost_its_lease_hands_nothing_over(filled, clocks):
    """It hung, another took over: its own hand-over must fail, or rows would be there twice."""

    def robbed(step):
        if step == "written":
            other = connect(Place.at(filled), busy_ms=1000)
            other.execute("UPDATE compactor SET owner = 'another'")
            other.close()

    assert compact(filled, everything=True, clock_us=clocks.wall, step=robbed).busy
    with Reader(filled) as reader:
        assert reader.sqlite.execute(f"SELECT count(*) FROM tail WHERE {IN_TAIL}").get == 100
    assert totals(filled) == TOTAL


def test_rows_written_while_the_compactor_works_are_counted_once(tmp_path, clocks):
    """A writer goes on, a reader looks at every step: what was acknowledged is always all there."""
    with opened(tmp_path, clocks) as ledger:
        fill(ledger, 0, 50)
        count = [50]

        def meanwhile(step):
            if step == "inside":  # the compactor has the write lock now; readers do not mind
                assert totals(tmp_path)[:2] == (count[0], count[0])
                return
            fill(ledger, count[0], 5)
            count[0] += 5
            assert totals(tmp_path)[:2] == (count[0], count[0]), step

        for _ in range(3):
            compact(tmp_path, everything=True, clock_us=clocks.wall, step=meanwhile)
    assert totals(tmp_path)[:2] == (count[0], count[0])


def test_a_row_booked_again_after_it_left_the_tail_is_still_known(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        settlement = settle(hold("a.1", [charge("day", 9)]), [7])
        ledger.book(settlement)
        compact(tmp_path, everything=True, clock_us=clocks.wall)
        ledger.book(settlement)
        assert ledger.stats()["duplicates"] == 1
        assert ledger.counters()["day"].spent == 7
    assert totals(tmp_path)[0] == 1


def test_a_missing_segment_is_named_and_the_rest_can_be_read_on_request(filled):
    with Reader(filled) as reader:
        lost = reader.segments[0]
    (filled / "segments" / lost.name).unlink()
    with pytest.raises(LedgerFault) as fault:
        totals(filled)
    assert fault.value.code == "segment_missing"
    assert lost.name in fault.value.reason
    with Reader(filled, skip_damaged=True) as reader:
        assert reader.skipped == [lost.name]
        assert reader.sql("SELECT count(*) AS n FROM calls") == [{"n": 1000 - lost.rows}]


@pytest.mark.parametrize("where", ["header", "middle", "footer"])
def test_a_segment_with_broken_bytes_is_named_by_check(filled, clocks, where):
    with Reader(filled) as reader:
        broken = reader.segments[-1]
    path = filled / "segments" / broken.name
    data = bytearray(path.read_bytes())
    at = {"header": 0, "middle": len(data) // 2, "footer": len(data) - 6}[where]
    data[at : at + 4] = bytes(b ^ 0xFF for b in data[at : at + 4])
    path.write_bytes(data)
    checked = check(filled, clocks.wall)
    (finding,) = [f for f in checked.findings if f.code == "segment_corrupt"]
    assert broken.name in finding.reason
    assert checked.rows == 1000 - broken.rows
    if where == "footer":  # DuckDB itself notices no other
        with pytest.raises(LedgerFault) as fault:
            totals(filled)
        assert fault.value.code == "segment_corrupt"
        assert broken.name in fault.value.reason


def test_a_truncated_segment_is_seen_before_it_is_read(filled):
    with Reader(filled) as reader:
        broken = reader.segments[0]
    path = filled / "segments" / broken.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LedgerFault, match="segment_corrupt"):
        totals(filled)


def test_it_runs_as_a_program(filled):
    process = python("import sys; from bursar.stores.segments import main; sys.exit(main(sys.argv[1:]))", filled, "--all",
                     stdout=subprocess.PIPE)  # fmt: skip
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, "100 rows into" in out) == (0, True)
    nowhere = python("import sys; from bursar.stores.segments import main; sys.exit(main(sys.argv[1:]))", filled / "no",
                     stderr=subprocess.PIPE)  # fmt: skip
    assert "cannot_open" in nowhere.communicate(timeout=60)[1]
    assert nowhere.returncode == 1
