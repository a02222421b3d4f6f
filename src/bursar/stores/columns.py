"""How rows look in DuckDB and Parquet: types by column, and the loading of stored rows into a DuckDB table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import duckdb

from ..domain.entry import MONEY_COLUMNS
from .schema import IN_TAIL, INT_COLUMNS, STORED, quoted

CHUNK = 10_000  # rows handed over at once: bounds memory on both sides

# Names that people see where they differ from ours, which Python reserves.
SHOWN = {"try_no": "try"}
MONEY = "DECIMAL(38,12)"  # one row beyond $999,999 must still fit


def shown(column: str) -> str:
    return SHOWN.get(column, column)


def raw_type(column: str) -> str:
    return "BIGINT" if column in INT_COLUMNS else "VARCHAR"


def shape(column: str) -> str:
    """A stored column as the reader's SQL expression: dollars, a moment in UTC, a map. No float on the way."""
    name = quoted(column)
    if column in MONEY_COLUMNS:
        return f"CAST(CAST({name} AS DECIMAL(19,0)) * 0.000000000001::DECIMAL(12,12) AS {MONEY}) AS {quoted(shown(column))}"
    if column == "ts":
        return "make_timestamptz(ts) AS ts"
    if column == "labels":
        return "CAST(CAST(labels AS JSON) AS MAP(VARCHAR, VARCHAR)) AS labels"
    return f"{name} AS {quoted(shown(column))}"


def load(
    source: apsw.Connection, target: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], until: int | None = None
) -> int:  # fmt: skip
    """Copy columns of the tail's rows into a new DuckDB table, as stored; `until`: only up to that number. Gives their number."""
    target.execute(f"CREATE OR REPLACE TABLE {table} ({', '.join(f'{quoted(c)} {raw_type(c)}' for c in columns)})")
    rows = source.execute(f"SELECT {', '.join(map(quoted, columns))} FROM tail WHERE {IN_TAIL} AND seq <= coalesce(?, seq)", (until,))
    return append(target, table, rows)


def append(target: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Sequence[object]]) -> int:
    """Append rows in chunks; gives their number."""
    appender = target.appender(table)
    chunk: list[Sequence[object]] = []
    total = 0
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            appender.append_rows(chunk)
            total += CHUNK
            chunk = []
    appender.append_rows(chunk)
    appender.flush()
    return total + len(chunk)


def literal(text: str) -> str:
    """A text of ours (a file's path) as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


ALL = tuple(STORED)
