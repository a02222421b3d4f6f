"""Each way that answers faster gives what the plain way gives, to the digit: hours and days by a division, sums gathered once, labels
in columns of their own, money in eight bytes, one engine for all readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger_rows
from bursar.domain.entry import Settlement
from bursar.stores import columns, segments
from bursar.stores.fault import LedgerFault
from bursar.stores.query import GRAINS, Filter, Query, compile_query
from bursar.stores.reader import Reader
from ledger_rows import DAY, END, HOUR

from .books import T0, entry, opened

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ZONES = (
    "UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "America/Asuncion",
    "Africa/Casablanca", "Pacific/Apia", "Africa/Monrovia", "America/New_York", "Pacific/Kiritimati",
)  # fmt: skip
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine():
    with duckdb.connect() as made:
        made.execute("SET TimeZone = 'UTC'")
        yield made


@quick
@given(
    st.sampled_from(ZONES), st.sampled_from(GRAINS), st.integers(3, 24_000), st.integers(1, 800),
    st.lists(st.integers(0, 10**18), min_size=1, max_size=40),
)  # fmt: skip
def test_the_piece_of_time_that_a_division_gives_is_the_calendars(engine, zone, grain, first, days, moments):
    """For any zone and time: half-hour shifts, shifts at midnight, a minute after it, a day that was left out; and the moments around
    each local midnight there is."""
    since, until = first * DAY, (first + days) * DAY
    midnights = [(EPOCH + timedelta(days=first + n)).replace(tzinfo=ZoneInfo(zone)) for n in range(0, days, max(1, days // 40))]
    near = [(midnight - EPOCH) // timedelta(microseconds=1) + by for midnight in midnights for by in (-1, 0, 59_999_999, HOUR)]
    found = [at for at in (*[since + n % (until - since) for n in moments], *near) if since <= at < until]
    engine.execute("CREATE OR REPLACE TABLE calls AS SELECT make_timestamptz(unnest(?::BIGINT[])) AS ts", [found])
    ask = Query(("rows",), (), grain=grain, zone=zone)
    divided = compile_query(ask, within=(since, until))
    if "numbered" not in divided.sql:  # the engine's own way
        assert days >= 300
        return
    told: dict[str, int] = {}
    for at in found:
        name = called(at, grain, zone)
        told[name] = told.get(name, 0) + 1
    assert engine.execute(divided.sql, divided.values).fetchall() == sorted(told.items())


def called(at: int, grain: str, zone: str) -> str:
    """The piece of time by Python's calendar, which also reads periods and makes links. (The engine has rules of its own, and they may be
    older.)"""
    local = (EPOCH + timedelta(microseconds=at)).astimezone(ZoneInfo(zone))
    if grain == "hour":
        east = (local.utcoffset() or timedelta()) // timedelta(microseconds=1)
        return (EPOCH + timedelta(microseconds=at - (at + east) % HOUR)).strftime("%Y-%m-%dT%H:%M:%SZ")
    day = local.date()
    day = day - timedelta(days=day.weekday()) if grain == "week" else day.replace(day=1) if grain == "month" else day
    return day.isoformat()


def test_a_time_with_too_many_shifts_is_told_by_the_calendar(engine):
    ask = Query(("rows",), (), grain="month", zone="Europe/Berlin")
    assert compile_query(ask, within=(0, 20_000 * DAY)).sql == compile_query(ask).sql
    assert compile_query(ask, within=(3 * DAY, 20_000 * DAY)).sql == compile_query(ask).sql


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("gathered") / "ledger"
    rows = ledger_rows.month(count=400)
    ledger_rows.write(folder, rows[:300])
    segments.compact(folder, everything=True)
    ledger_rows.write(folder, rows[300:])
    with Reader(folder) as found:
        yield found


DIMS = ("tenant", "operation", "purpose", "cause", "model", "label:team", "label:nobody")
MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "estimated_cost", "rows", "cost_input", "refused")


@quick
@given(
    st.lists(st.sampled_from(DIMS), max_size=4, unique=True), st.integers(0, 4),
    st.lists(st.sampled_from(MEASURES), min_size=1, unique=True), st.sampled_from([None, END - 9 * DAY]),
    st.sampled_from([(), ("acme",), ("acme", "globex", "")]), st.booleans(), st.sampled_from([0, 2]),
)  # fmt: skip
def test_what_was_gathered_answers_as_the_rows_do(reader, by, more, measures, since, kept, whole, top):
    gathered = tuple(dict.fromkeys((*by, *DIMS[:more], "operation")))
    reader.gather(Query(MEASURES, gathered, (), since), "kept so far")
    only = (Filter("operation", ("primary", "retry")),)
    keep = (("tenant", kept),) if "tenant" in by else ()
    ask = Query(tuple(measures), tuple(by), only, top=top, keep=keep, whole=whole)
    assert reader.ask(ask, "kept so far") == reader.query(ask._replace(since_us=since))


@pytest.mark.parametrize("ask", [Query(("users",)), Query(grain="day"), Query(("cost",), ("feature",))])
def test_what_was_not_gathered_is_no_answer(reader, ask):
    reader.gather(Query(("cost",), ("tenant",)), "little")
    with pytest.raises(LedgerFault):
        reader.ask(ask, "little")


def write(folder: Path, clocks, labels: list[dict[str, str]], first: int = 0) -> None:
    with opened(folder, clocks) as ledger:
        rows = [entry(f"{first + n}.1", ts=T0 + (first + n) * 1_000_000, labels=json.dumps(one)) for n, one in enumerate(labels)]
        ledger.book_all([Settlement(row.id, row, ()) for row in rows])


def by_label(folder: Path, *names: str) -> list[tuple]:
    with Reader(folder) as reader:
        rows = reader.query(Query(("rows", "cost"), tuple(f"label:{name}" for name in names)))
        said = reader.sql("SELECT labels, cost FROM calls")
    plain: dict[tuple, list] = {}
    for row in said:
        plain.setdefault(tuple(row["labels"].get(name, "") for name in names), []).append(row["cost"])
    found = {tuple(row[f"label:{name}"] for name in names): (row["rows"], row["cost"]) for row in rows}
    assert found == {key: (len(costs), sum(costs)) for key, costs in plain.items()}
    return sorted(found)


def test_a_label_is_the_same_from_its_column_the_map_and_the_tail(tmp_path, clocks, monkeypatch):
    """Names that differ in capitals alone, one with a quote, one that only some files have, one beyond those that get a column, and a
    file as it was before there were such columns."""
    monkeypatch.setattr(segments, "LABELS_MAX", 4)
    often = {"team": "a", "Team": "b", "it's \"x\"": "c", "é": "d"}
    write(tmp_path, clocks, [often, often, {**often, "rare": "r"}, {}])
    segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    with monkeypatch.context() as old:
        old.setattr(segments, "_labels", lambda *_: ([], False))
        write(tmp_path, clocks, [{"team": "old"}, {"late": "1"}], 10)
        segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    write(tmp_path, clocks, [{"late": "2"}, {"team": ""}], 20)
    segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    write(tmp_path, clocks, [{"team": "tail", "late": "3"}], 30)
    assert by_label(tmp_path, "team") == [("",), ("a",), ("old",), ("tail",)]
    assert by_label(tmp_path, "Team") == [("",), ("b",)]
    with pytest.raises(LedgerFault, match="asked for twice"):
        by_label(tmp_path, "Team", "team")
    assert by_label(tmp_path, "it's \"x\"") == [("",), ("c",)]
    assert by_label(tmp_path, "rare") == [("",), ("r",)]
    assert by_label(tmp_path, "late", "nobody") == [("", ""), ("1", ""), ("2", ""), ("3", "")]
    for path in (tmp_path / "segments").iterdir():
        told = duckdb.sql(f"SELECT value FROM parquet_kv_metadata('{path}') WHERE key = '{columns.LABELS_TOLD}'::BLOB").fetchall()
        assert set(json.loads(told[0][0])) == {"names", "all"}


def test_a_label_that_has_a_column_is_not_read_from_the_map(tmp_path, clocks):
    write(tmp_path, clocks, [{"team": "a"}, {"team": "b"}])
    segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    with Reader(tmp_path) as reader:
        reader.query(Query(("cost",), ("label:team", "label:nobody")))
        ((sql,),) = reader.duck.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'entries'").fetchall()
    assert "map_extract" not in sql.partition("UNION ALL")[0]


def test_a_days_files_become_one_with_the_columns_of_all_their_labels(tmp_path, clocks):
    write(tmp_path, clocks, [{"team": "a"}])
    segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    write(tmp_path, clocks, [{"env": "b"}], 1)
    segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    clocks.wall_us += 2 * segments.DAY_US
    assert segments.compact(tmp_path, clock_us=clocks.wall).merged == 2
    assert by_label(tmp_path, "team", "env") == [("", "b"), ("a", "")]
    (path,) = (p for p in (tmp_path / "segments").iterdir() if columns.label_column("team") in p.read_bytes().decode("latin1")
               and columns.label_column("env") in p.read_bytes().decode("latin1"))  # fmt: skip
    names = [name for name, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("dear", ["first", "second", "tail", "nobody"])
def test_money_beyond_a_million_dollars_in_one_row_stands_beside_ordinary_money(tmp_path, clocks, dear):
    """In a file, in another one, in the tail: eight bytes hold $999,999.99, and what holds more has sixteen."""
    huge = 2_345_678_901_234_567_891
    with opened(tmp_path, clocks) as ledger:
        for n, place in enumerate(("first", "second", "tail")):
            row = entry(f"{n}.1", ts=T0 + n, cost=huge if place == dear else 7 + n)
            ledger.book_all([Settlement(row.id, row, ())])
            if place != "tail":
                segments.compact(tmp_path, everything=True, clock_us=clocks.wall)
    with Reader(tmp_path) as reader:
        (row,) = reader.query(Query(("cost",)))
        costs = [one["cost"] for one in reader.sql("SELECT cost FROM calls ORDER BY ts")]
    wanted = [huge if place == dear else 7 + n for n, place in enumerate(("first", "second", "tail"))]
    assert costs == [Decimal(one).scaleb(-12) for one in wanted]
    assert row["cost"] == Decimal(sum(wanted)).scaleb(-12)


def test_readers_of_one_process_do_not_see_each_others_rows(tmp_path, clocks):
    write(tmp_path / "a", clocks, [{"team": "a"}])
    write(tmp_path / "b", clocks, [{"team": "b"}, {"team": "c"}])
    with Reader(tmp_path / "a") as one, Reader(tmp_path / "b") as other:
        asks = [reader.query(Query(("rows",), ("label:team",))) for reader in (one, other, one)]
        assert [[row["label:team"] for row in found] for found in asks] == [["a"], ["b", "c"], ["a"]]
        assert (one.sql("SELECT count(*) AS n FROM calls"), other.sql("SELECT count(*) AS n FROM calls")) == ([{"n": 1}], [{"n": 2}])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_asks_and_ends(tmp_path, clocks):
    """The engine has threads, and a child has none of them: it would wait for them where it let go of one that its parent made."""
    write(tmp_path, clocks, [{"team": "a"}])
    said = """
import os, sys
from bursar.stores.reader import Query, Reader
def ask():
    with Reader(sys.argv[1]) as reader:
        assert reader.query(Query(("rows",))) == [{"rows": 1}]
    return reader
kept = ask()
child = os.fork()
kept = None
ask()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", said, str(tmp_path)], timeout=60).returncode == 0
