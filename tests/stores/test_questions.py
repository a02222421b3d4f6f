"""Questions to the ledger: sums that foot, labels that attack, hours that come twice, money past every integer."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.stores import engine
from bursar.stores.fault import LedgerFault
from bursar.stores.measures import MEASURES
from bursar.stores.query import Filter, Query, compile_query
from bursar.stores.reader import Reader
from bursar.stores.segments import compact

from .books import NANO, T0, Clocks, die, hold, opened, settle

HOUR = 3_600_000_000


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def company(tmp_path_factory):
    """Three hundred rows of three tenants over two days, two thirds in segments; and what they must come to."""
    path, clocks = tmp_path_factory.mktemp("company"), Clocks()
    rows = []
    for n in range(300):
        kind = "retry" if n % 10 == 9 else "first"
        held = hold(f"{n}.{2 if kind == 'retry' else 1}", ts=T0 + n * 600_000_000)
        rows.append(
            settle(
                held, tenant=("acme", "globex", "")[n % 3], feature=("support", "search")[n % 2], attempt_kind=kind, operation="primary",
                try_no=2 if kind == "retry" else 1, cost=(n + 1) * NANO, conversation=f"c{n % 20}", latency_ms=n,
                status="error" if n % 50 == 0 else "ok", labels=json.dumps({"team": f"t{n % 4}"} if n % 5 else {}),
            )
        )  # fmt: skip
    with opened(path, clocks) as ledger:
        ledger.book_all(rows[:200])
        compact(path, everything=True, clock_us=clocks.wall)
        ledger.book_all(rows[200:])
    return path, [s.entry for s in rows]


def nano(n):
    return Decimal(n).scaleb(-9)


def test_a_bill_cut_any_way_comes_to_the_same_sum(company):
    path, rows = company
    with Reader(path) as reader:
        whole = reader.query(Query())
        assert whole == [{"cost": nano(45150), "calls": 270}]
        for by in ("tenant", "feature", "label:team", "conversation", "status", "attempt_kind", "try", "model"):
            parts = reader.query(Query(by=(by,)))
            assert sum(p["cost"] for p in parts) == nano(45150), by
            assert sum(p["calls"] for p in parts) == 270, by


def test_two_dimensions_and_a_label_group_as_a_loop_over_the_rows_does(company):
    path, rows = company
    expected: dict = defaultdict(lambda: [0, 0])
    for row in rows:
        group = expected[(row.tenant, json.loads(row.labels).get("team", ""))]
        group[0] += row.cost
        group[1] += 1
    with Reader(path) as reader:
        found = reader.query(Query(measures=("cost", "rows"), by=("tenant", "label:team")))
    assert {(f["tenant"], f["label:team"]): [int(f["cost"].scaleb(12)), f["rows"]] for f in found} == expected
    assert [f["cost"] for f in found] == sorted((f["cost"] for f in found), reverse=True)


def test_filters_of_every_kind(company):
    path, rows = company
    with Reader(path) as reader:
        def count(*where, **more):
            return reader.query(Query(measures=("rows",), where=where, **more))[0]["rows"]

        assert count(Filter("tenant", ("acme",))) == 100
        assert count(Filter("tenant", ("acme", "globex"))) == 200
        assert count(Filter("tenant", ("acme",), negate=True)) == 200
        assert count(Filter("tenant", ())) == 0
        assert count(Filter("tenant", (), negate=True)) == 300
        assert count(Filter("label:team", ("t1",))) == sum(json.loads(r.labels).get("team") == "t1" for r in rows)
        assert count(Filter("label:team", ("t1",), negate=True)) == 300 - count(Filter("label:team", ("t1",)))
        assert count(Filter("try", (2,))) == 30
        assert count(since_us=T0 + 600_000_000, until_us=T0 + 3 * 600_000_000) == 2


def test_times_prune_segments_and_change_no_answer(company):
    path, rows = company
    since = T0 + 250 * 600_000_000
    with Reader(path) as reader:
        reader.query(Query(since_us=since))
        assert "read_parquet" not in reader.duck.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'calls'").fetchall()[0][0]
        assert reader.query(Query(measures=("rows",), since_us=since)) == [{"rows": 50}]
        assert reader.query(Query(measures=("rows",))) == [{"rows": 300}]


def test_percentiles_counts_and_token_sums(company):
    path, _ = company
    asked = ("p50:latency_ms", "p95:latency_ms", "max:latency_ms", "conversations", "errors", "retries", "tries", "tokens", "input")
    with Reader(path) as reader:
        (row,) = reader.query(Query(measures=asked))
    assert [row[name] for name in asked] == [149, 284, 299, 20, 6, 30, 300, 300 * 14, 3000]


def test_every_measure_and_grain_can_be_asked(company):
    path, _ = company
    with Reader(path) as reader:
        (row,) = reader.query(Query(measures=tuple(sorted(MEASURES))))
        assert set(row) == MEASURES
        for grain in ("hour", "day", "week", "month"):
            found = reader.query(Query(grain=grain, zone="America/Sao_Paulo"))
            assert sum(f["cost"] for f in found) == nano(45150)
            assert [f["period"] for f in found] == sorted(f["period"] for f in found)


def test_top_is_the_largest_and_the_same_each_time(company):
    path, _ = company
    with Reader(path) as reader:
        question = Query(measures=("calls", "cost"), by=("conversation",), order="cost", top=3)
        assert [r["conversation"] for r in reader.query(question)] == ["c19", "c18", "c17"]
        ties = Query(measures=("conversations",), by=("conversation",), top=5)
        assert reader.query(ties) == reader.query(ties)


def test_days_are_local_and_an_hour_that_comes_twice_is_two_rows(tmp_path, clocks):
    """Berlin, 25 October 2026: 02:30 comes twice, an hour apart, and both belong to the 25th, which has 25 hours."""
    times = ["2026-10-24T21:59:59+00:00", "2026-10-24T22:00:00+00:00", "2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00",
             "2026-10-25T22:59:59+00:00", "2026-10-25T23:00:00+00:00"]  # fmt: skip
    with opened(tmp_path, clocks) as ledger:
        ledger.book_all([settle(hold(f"{n}.1", ts=us(t))) for n, t in enumerate(times)])
    with Reader(tmp_path) as reader:
        days = reader.query(Query(measures=("rows",), grain="day", zone="Europe/Berlin"))
        hours = reader.query(Query(measures=("rows",), grain="hour", zone="Europe/Berlin"))
        india = reader.query(Query(measures=("rows",), grain="hour", zone="Asia/Kolkata"))
    assert days == [{"period": "2026-10-24", "rows": 1}, {"period": "2026-10-25", "rows": 4}, {"period": "2026-10-26", "rows": 1}]
    assert [h["period"] for h in hours][2:4] == ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"]
    assert india[0]["period"] == "2026-10-24T21:30:00Z", "an Indian hour begins at half past"


def test_sums_of_money_do_not_end_at_nine_million_dollars(tmp_path, clocks):
    """Three rows of $9,000,000 each: 2.7e19 pico-dollars, three times what an int64 holds; in the tail and in segments."""
    cost = 9_000_000 * 10**12
    with opened(tmp_path, clocks) as ledger:
        ledger.book_all([settle(hold(f"{n}.1"), cost=cost) for n in range(3)])
    with Reader(tmp_path) as reader:
        assert reader.query(Query(measures=("cost",))) == [{"cost": Decimal(27_000_000)}]
    compact(tmp_path, everything=True, clock_us=clocks.wall)
    with Reader(tmp_path) as reader:
        assert reader.query(Query(measures=("cost", "cost_input"))) == [{"cost": Decimal(27_000_000), "cost_input": Decimal(27_000_000)}]


def test_money_that_nobody_knows_is_no_zero(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        ledger.book_all([settle(hold("a.1"), cost=None)])
    with Reader(tmp_path) as reader:
        assert reader.query(Query(measures=("cost", "unpriced"))) == [{"cost": None, "unpriced": 1}]


def test_corrections_count_toward_sums_and_are_no_calls(tmp_path, clocks):
    ledger = opened(tmp_path, clocks)
    held = hold("a.1")
    ledger.hold(held)
    die(ledger)
    clocks.lapse()
    with opened(tmp_path, clocks) as again:
        again.book(settle(held, cost=5_000 * NANO))
    asked = ("cost", "calls", "tries", "rows", "corrections", "input", "errors")
    with Reader(tmp_path) as reader:
        (row,) = reader.query(Query(measures=asked))
    assert [row[name] for name in asked] == [nano(5000), 1, 1, 2, 1, 10, 1]


def test_open_holds_are_a_view(tmp_path, clocks):
    with opened(tmp_path, clocks) as ledger:
        ledger.hold(hold("a.1", tenant="acme"))
        with Reader(tmp_path) as reader:
            assert reader.sql("SELECT id, tenant, hold FROM holds") == [{"id": "a.1", "tenant": "acme", "hold": nano(9000)}]
            assert reader.sql("SELECT count(*) AS n FROM incidents") == [{"n": 0}]
            assert reader.sql("SELECT id FROM holds WHERE tenant = $who", {"who": "acme"}) == [{"id": "a.1"}]


def test_one_reader_sees_one_moment(tmp_path, clocks):
    """What is written after it was opened is the next reader's, or two figures on one page would not foot."""
    with opened(tmp_path, clocks) as ledger:
        ledger.book_all([settle(hold("a.1"))])
        with Reader(tmp_path) as reader:
            assert reader.query(Query(measures=("rows",))) == [{"rows": 1}]
            ledger.book_all([settle(hold("b.1"))])
            compact(tmp_path, everything=True, clock_us=clocks.wall)
            assert reader.query(Query(measures=("rows", "cost"))) == [{"rows": 1, "cost": nano(5000)}]
            assert reader.known_ids(["a.1", "b.1"]) == {"a.1"}
        with Reader(tmp_path) as reader:
            assert reader.known_ids(["a.1", "b.1", "x'.1"]) == {"a.1", "b.1"}


def test_an_empty_ledger_answers_with_nothing(tmp_path, clocks):
    opened(tmp_path, clocks).close()
    with Reader(tmp_path) as reader:
        assert reader.query(Query(measures=("cost", "rows"))) == [{"cost": None, "rows": 0}]
        assert reader.query(Query(by=("tenant",), grain="day")) == []


def test_there_is_no_ledger_where_there_is_none(tmp_path):
    with pytest.raises(LedgerFault) as fault:
        Reader(tmp_path)
    assert fault.value.code == "cannot_open"
    assert list(tmp_path.iterdir()) == [], "reading must not make one"


@pytest.mark.parametrize("question", [
    Query(measures=()), Query(measures=("cash",)), Query(measures=("cost", "cost")), Query(by=("colour",)), Query(by=("label:",)),
    Query(measures=("m_calls",)), Query(measures=("p95:tenant",)), Query(measures=("p42:latency_ms",)), Query(grain="minute"),
    Query(grain="day", zone="Mars/Base"), Query(grain="day", zone="../etc/passwd"), Query(order="calls", measures=("cost",)),
    Query(top=-1), Query(top=10**9), Query(where=(Filter("ts; DROP", ("x",)),)), Query(by=('tenant" FROM calls --',)),
])  # fmt: skip
def test_what_is_not_known_is_refused_with_what_is(question):
    with pytest.raises(LedgerFault) as fault:
        compile_query(question)
    assert fault.value.code == "query"
    assert fault.value.remedy


def test_bad_sql_of_a_user_is_an_error_with_the_reason(company):
    path, _ = company
    with Reader(path) as reader:
        with pytest.raises(LedgerFault, match="nowhere"):
            reader.sql("SELECT * FROM nowhere")
        with pytest.raises(LedgerFault):
            reader.sql("SELEC 1")


hostile = st.one_of(
    st.text(min_size=1, max_size=30).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)),
    st.sampled_from(["'; DROP TABLE raw_tail; --", '" OR 1=1 --', "$v0", "?", "{{x}}", "\\'", "a]b[", "/* */", "x\x00y", "'||(select 1)||'"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=hostile, value=hostile, other=hostile)
def test_a_label_is_data_whatever_it_says(company, name, value, other):
    """As a name, as a value, grouped by and filtered by: never SQL, never an error, and no other row's label."""
    path, _ = company
    with Reader(path) as reader:
        reader.totals(("labels", "tenant", "cost"))
        labels = json.dumps({name: value})
        reader.duck.execute("DELETE FROM raw_tail")
        reader.duck.execute("INSERT INTO raw_tail (ts, labels, tenant, cost) VALUES (?, ?, ?, 1)", [T0 + 400 * HOUR, labels, value])
        grouped = reader.query(Query(measures=("cost",), by=(f"label:{name}", "tenant"), since_us=T0 + 300 * HOUR))
        assert grouped == [{f"label:{name}": value, "tenant": value, "cost": Decimal("0.000000000001")}]
        where = Filter(f"label:{name}", (value,)), Filter("tenant", (value, other))
        assert len(reader.query(Query(measures=("cost",), by=("tenant",), where=where, since_us=T0 + 300 * HOUR))) == 1
        if other != value:
            none = (Filter(f"label:{name}", (other,)),)
            assert reader.query(Query(measures=("rows",), where=none, since_us=T0 + 300 * HOUR)) == [{"rows": 0}]


def test_a_question_that_needs_more_memory_than_it_may_take_says_so(company, tmp_path, monkeypatch):
    """Not a crash of the engine, and what did not fit was never put beside whoever asked."""
    path, _ = company
    monkeypatch.chdir(tmp_path)
    many = "SELECT count(*) FROM (SELECT list(i) AS l FROM range(60000000) t(i)) WHERE len(l) > 0"
    with pytest.raises(LedgerFault, match="more memory than it may take") as told, Reader(path, memory="50MB") as reader:
        reader.sql(many)
    assert "shorter time" in told.value.remedy
    with pytest.raises(LedgerFault, match="more memory than it may take"), Reader(path, memory="50MB") as reader:
        reader.duck.execute(many)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_into_memory_goes_where_nobody_else_can_look(company, tmp_path, monkeypatch):
    """A sort that is larger than its memory is answered by way of the disk; a folder that somebody else prepared is not used."""
    path, _ = company
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Reader(path, memory="60MB", threads=1) as reader:
        (row,) = reader.sql("SELECT sum(i) AS s FROM (SELECT i, row_number() OVER (ORDER BY md5(i::VARCHAR)) AS n FROM range(4000000) t(i)) WHERE n > 0")
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.iterdir()), "it did fit"
    assert row["s"] == 3_999_999 * 2_000_000
    folder.chmod(0o777)
    assert engine._folder() == ""
    folder.chmod(0o700)
    (folder / "1-0").mkdir()
    os.utime(folder / "1-0", (1, 1))
    (folder / "2-0").mkdir()
    assert engine._folder().startswith(str(folder))
    assert [left.name for left in folder.iterdir() if left.name in ("1-0", "2-0")] == ["2-0"], "a killed process's leavings stay for ever"
