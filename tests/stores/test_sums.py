"""Sums beside segments: whatever is asked, the answer is that of the rows; wrong ones are found, missing ones are no harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger_rows
from bursar.stores import segments, sums
from bursar.stores.check import check
from bursar.stores.columns import literal
from bursar.stores.measures import ADDITIVE
from bursar.stores.query import Filter, Query
from bursar.stores.reader import Reader
from bursar.surfaces import naming
from bursar.surfaces.periods import Period
from ledger_rows import DAY, END, HOUR

LATER = END + 3 * DAY
TOKENS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three weeks in a segment a day, each with its sums but one, and rows named afterwards; some rows are still in the tail."""
    folder = tmp_path_factory.mktemp("summed") / "ledger"
    rows = ledger_rows.month(count=900)
    rows = [row._replace(labels=json.dumps({**json.loads(row.labels), "suite": f"s{n % 3}"})) if n % 7 == 0 else row for n, row in enumerate(rows)]
    rows[5] = rows[5]._replace(attempt_kind="aggregate", source="imported:report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "ROWS_MIN", 1)
        patch.setattr(sums, "FEWER", 1)
        ledger_rows.write(folder, rows[:800])
        with Reader(folder) as before:
            found = naming.rows(before, (Filter("tenant", ("acme",)),), Period())
            naming.book(folder, before, found, {"feature": "named", "flow": ""}, lambda _: None)
        segments.compact(folder, everything=True, clock_us=lambda: LATER)
        ledger_rows.write(folder, rows[800:])
    sorted((folder / "segments").glob("*.sums"))[3].unlink()
    yield folder


def rows_only(folder: Path, query: Query) -> list[dict[str, Any]]:
    with Reader(folder) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "fits", lambda *_: False)
        return reader.query(query)


dims = st.sampled_from([
    "operation", "purpose", "cause", "tenant", "feature", "model_served", "provider", "source", "status", "attempt_kind", "price_status",
    "try", "label:suite", "label:corpus",
])  # fmt: skip
filters = st.lists(
    st.one_of(
        st.builds(Filter, st.just("tenant"), st.lists(st.sampled_from([*ledger_rows.TENANTS]), max_size=3).map(tuple), st.booleans()),
        st.builds(Filter, st.just("label:suite"), st.sampled_from([("s1",), ("",)]), st.booleans()),
        st.builds(Filter, st.just("status"), st.sampled_from([("ok",), ("refused", "error")]), st.booleans()),
    ),
    max_size=2,
).map(tuple)
spans = st.one_of(
    st.tuples(st.integers(0, 22), st.integers(0, 22)).map(lambda n: (END - max(n) * DAY, END - min(n) * DAY)),
    st.tuples(st.integers(END - 22 * DAY, END), st.integers(1, 22 * 24)).map(lambda n: (n[0], n[0] + n[1] * HOUR)),
    st.just((None, None)),
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.lists(dims, max_size=3, unique=True), st.sets(st.sampled_from(sorted(ADDITIVE)), min_size=1, max_size=5), filters, spans, st.booleans())
def test_an_answer_from_sums_is_the_rows_answer(
    summed: Path, by: list[str], measures: set[str], where: tuple, span: tuple, whole: bool
) -> None:
    query = Query(tuple(sorted(measures)), tuple(by), where, *span, whole=whole)
    with Reader(summed) as reader:
        assert reader.query(query) == rows_only(summed, query)


@quick
@given(st.lists(dims, min_size=1, max_size=3, unique=True), spans)
def test_what_is_gathered_from_sums_answers_as_what_is_gathered_from_rows(summed: Path, by: list[str], span: tuple) -> None:
    ask = Query(("cost", "calls", "tries", "tokens", "unpriced"), tuple(by), (), *span, keep=((by[0], ("acme", "ok", "first")),) if by[0] != "try" else ())
    with Reader(summed) as reader, Reader(summed) as other, pytest.MonkeyPatch.context() as patch:
        reader.gather(ask, "kept")
        patch.setattr(sums, "fits", lambda *_: False)
        other.gather(ask, "kept")
        again = Query(ask.measures, tuple(by[:1]))
        assert reader.ask(again, "kept") == other.ask(again, "kept")


def test_most_of_a_long_time_is_read_from_sums(summed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would pass without any."""
    read: list[str] = []
    monkeypatch.setattr(Reader, "_reads", _counted(read))
    with Reader(summed) as reader:
        reader.query(Query(("cost", "calls"), ("tenant",), (), END - 20 * DAY - HOUR, END))
    assert 1 <= len(read) <= 3 < len(list((summed / "segments").glob("*.sums")))


def _counted(read: list[str]) -> Any:
    reads = Reader._reads

    def counting(self: Reader, some: Any) -> Any:
        read.extend(one.name for one in some)
        return reads(self, some)

    return counting


def test_check_finds_sums_that_are_not_the_rows_and_the_compactor_makes_them_again(summed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(summed, lambda: LATER).findings == ()
    file = sorted((summed / "segments").glob("*.sums"))[0]
    good = file.read_bytes()
    told = literal(json.dumps({"rows": 1, "columns": []}))
    columns, rows = f"SELECT * REPLACE (number + 1 AS number) FROM read_parquet({literal(str(file))})", tmp_path / "x"
    (kept,) = duckdb.sql(f"SELECT decode(value) FROM parquet_kv_metadata({literal(str(file))}) WHERE key = 'bursar_sums'::BLOB").fetchall()[0]
    for text, said in ((kept, "not what the segment's rows come to"), (json.loads(told.strip("'")), "rows in it")):
        text = text if isinstance(text, str) else json.dumps(text)
        duckdb.sql(f"COPY ({columns}) TO {literal(str(rows))} (FORMAT parquet, KV_METADATA {{bursar_sums: {literal(text)}}})")
        file.write_bytes(rows.read_bytes())
        (finding,) = check(summed, lambda: LATER).findings
        assert finding.code == "sums_wrong" and said in finding.reason
    file.write_bytes(good[:100])
    assert [one.code for one in check(summed, lambda: LATER).findings] == ["sums_wrong"]
    file.unlink()
    assert check(summed, lambda: LATER).findings == ()
    monkeypatch.setattr(sums, "ROWS_MIN", 1)
    monkeypatch.setattr(sums, "FEWER", 1)
    segments.compact(summed, clock_us=lambda: LATER)
    with Reader(summed) as reader:
        assert all(sums.beside(reader.place.segments / one.name).exists() for one in reader.segments if one.max_ts < LATER - DAY)
    assert check(summed, lambda: LATER).findings == ()


def test_sums_go_with_their_segment_and_are_kept_only_where_they_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "ROWS_MIN", 1)
    rows = ledger_rows.month(count=300)
    ledger_rows.write(tmp_path, rows[:200])
    segments.compact(tmp_path, everything=True, clock_us=lambda: LATER)
    folder = tmp_path / "segments"
    files = sorted(folder.glob("*.sums"))
    with Reader(tmp_path) as reader:
        told = sums.told(reader.duck, [str(file) for file in files])
    assert files and all(columns == frozenset() for _, columns in told.values())  # a day has as many combinations as rows
    (folder / "2020-01-01-x.parquet.sums").write_bytes(b"of nobody")
    (folder / "2020-01-01-x.parquet.sums.tmp").write_bytes(b"half of it")
    ledger_rows.write(tmp_path, rows[200:])
    segments.compact(tmp_path, everything=True, clock_us=lambda: LATER)
    segments.compact(tmp_path, everything=True, clock_us=lambda: LATER + segments.GRACE_US + 1)
    listed = {path.name for path in folder.glob("*.parquet")}
    assert {path.name.removesuffix(".sums") for path in folder.iterdir()} == listed
    assert check(tmp_path, lambda: LATER).findings == ()
