"""Partitions foot: for any label set and any window, the parts by anything come to the whole to the digit, in DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger_rows
from bursar.stores import segments
from bursar.stores.query import DIMENSIONS, GRAINS, Filter, Query
from bursar.stores.reader import Reader
from bursar.surfaces import cli_spend, naming
from bursar.surfaces.periods import Period
from bursar.surfaces.statement import state
from ledger_rows import DAY, END, HOUR

MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "estimated_cost", "errors", "rows")
COMPONENTS = ("cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other")
SHARES = ("cost_new", "cost_history", "cost_tools", "cost_system")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Three weeks, half in segments, half in the tail, some of it named afterwards."""
    folder = tmp_path_factory.mktemp("partitions") / "ledger"
    rows = ledger_rows.month(count=600)
    # The split of the input, uneven and never the same.
    rows = [row if row.cost_input is None else row._replace(**_shares(row)) for row in rows]
    ledger_rows.write(folder, rows[:400])
    segments.compact(folder, everything=True)
    ledger_rows.write(folder, rows[400:])
    with Reader(folder) as before:
        naming.book(
            folder,
            before,
            naming.rows(before, (Filter("tenant", ("acme",)),), Period()),
            {"team": "named", "flow": ""},
            lambda _: None,
        )
    with Reader(folder) as found:
        yield found


def _shares(row: Any) -> dict[str, int]:
    whole = (row.cost_input or 0) + (row.cost_cache_read or 0) + (row.cost_cache_write or 0)
    new, tools = whole // 7, whole // 3
    return {"cost_new": new, "cost_history": whole - new - tools - whole // 5, "cost_tools": tools, "cost_system": whole // 5}


moments = st.one_of(st.none(), st.integers(END - 25 * DAY, END + DAY), st.integers(0, 25).map(lambda n: END - n * DAY))
names = st.sampled_from([*sorted(set(DIMENSIONS) - {"id", "call", "corrects"}), "label:team", "label:pr", "label:nobody"])
filters = st.lists(
    st.one_of(
        st.builds(Filter, st.just("tenant"), st.lists(st.sampled_from([*ledger_rows.TENANTS]), max_size=3).map(tuple), st.booleans()),
        st.builds(Filter, st.just("label:team"), st.sampled_from([("red",), ("named", "blue"), ("",)]), st.booleans()),
        st.builds(Filter, st.just("operation"), st.sampled_from([("eval",), ("primary", "retry")]), st.booleans()),
    ),
    max_size=2,
).map(tuple)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def summed(rows: list[dict[str, Any]], name: str) -> Any:
    return sum((row[name] for row in rows if row[name] is not None), Decimal(0))


@quick
@given(st.lists(names, min_size=1, max_size=3, unique=True), filters, moments, moments, st.sampled_from(["", *GRAINS]))
def test_parts_by_anything_are_the_whole(
    reader: Reader, by: list[str], where: tuple, since: int | None, until: int | None, grain: str
) -> None:
    if len({DIMENSIONS.get(name, name) for name in by}) < len(by):
        return
    parts = reader.query(Query(MEASURES, tuple(by), where, since, until, grain))
    (whole,) = reader.query(Query(MEASURES, (), where, since, until))
    for name in MEASURES:
        assert summed(parts, name) == (whole[name] or 0), name
    told, *lines = reader.query(Query(MEASURES, tuple(by), where, since, until, grain, whole=True))
    assert {name: told[name] or 0 for name in MEASURES} == {name: whole[name] or 0 for name in MEASURES}
    assert [{name: line[name] for name in (*by, *MEASURES)} for line in lines] == [
        {name: part[name] for name in (*by, *MEASURES)} for part in parts
    ]


@quick
@given(filters, moments, moments)
def test_components_are_the_cost_and_shares_are_the_input(reader: Reader, where: tuple, since: int | None, until: int | None) -> None:
    (row,) = reader.query(Query(("cost", *COMPONENTS, *SHARES), (), where, since, until))
    assert summed([{"all": row[name]} for name in COMPONENTS], "all") == (row["cost"] or 0)
    assert summed([{"all": row[name]} for name in SHARES], "all") == summed([{"all": row[name]} for name in COMPONENTS[:3]], "all")


@quick
@given(st.lists(names, max_size=2, unique=True), filters, moments, moments)
def test_sums_in_two_steps_are_those_in_one(reader: Reader, by: list[str], where: tuple, since: int | None, until: int | None) -> None:
    """A measure that cannot be added up twice makes the engine judge every row by itself."""
    if len({DIMENSIONS.get(name, name) for name in by}) < len(by):
        return
    twice = reader.query(Query(MEASURES, tuple(by), where, since, until))
    once = reader.query(Query((*MEASURES, "users"), tuple(by), where, since, until))
    keys = (*by, *MEASURES)
    assert [{name: row[name] or 0 for name in keys} for row in twice] == [{name: row[name] or 0 for name in keys} for row in once]


@quick
@given(st.integers(END - 22 * DAY, END), st.integers(1, 22 * DAY // HOUR))
def test_a_window_has_the_rows_of_its_time_and_no_others(reader: Reader, since: int, hours: int) -> None:
    """Segments are taken whole where they lie within it."""
    until = since + hours * HOUR
    (row,) = reader.query(Query(("cost", "rows"), (), (), since, until))
    (own,) = reader.sql(
        "SELECT sum(cost) AS cost, count(*) AS n FROM calls WHERE epoch_us(ts) >= ? AND epoch_us(ts) < ?", [since, until]
    )
    assert (row["cost"], row["rows"]) == (own["cost"], own["n"])


spans = st.tuples(st.integers(0, 25), st.integers(0, 25)).map(lambda n: (END - max(n) * DAY, END - min(n) * DAY))


@quick
@given(
    st.lists(names, min_size=1, max_size=3, unique=True), filters, spans, st.none() | spans, st.integers(1, 40), st.sampled_from(["", *GRAINS])
)
def test_lines_that_the_engine_picks_are_those_of_all_lines(
    reader: Reader, by: list[str], where: tuple, now: tuple[int, int], before: tuple[int, int] | None, top: int, grain: str
) -> None:
    """Whatever is asked, the dearest lines and the sum of the others are what comes of reading every line."""
    if len({DIMENSIONS.get(name, name) for name in by}) < len(by):
        return
    period = Period(*now, before)
    picked = cli_spend.statement(reader, by, where, period, grain=grain, top=top)
    lines, total = cli_spend.groups(reader, by, where, *now, grain)
    earlier, earlier_total = (None, None) if before is None or grain else cli_spend.groups(reader, by, where, *before)
    named = [*(["period"] if grain else []), *by]
    read = state(named, lines, total, top=top, earlier=earlier, earlier_total=earlier_total, in_time=bool(grain))
    assert picked == read
