"""How rows look in DuckDB and Parquet: types by column, and the loading of stored rows into a DuckDB table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import apsw
import duckdb

from ..domain.entry import MONEY_COLUMNS
from .schema import IN_TAIL, INT_COLUMNS, STORED, quoted

CHUNK = 10_000  # rows handed over at once: bounds memory on both sides

# Names that people see where they differ from ours, which Python reserves.
SHOWN = {"try_no": "try"}
MONEY = "DECIMAL(38,12)"  # one row beyond $999,999 must still fit; where none is, NARROW is half as long and read twice as fast
NARROW = "DECIMAL(18,12)"
MAP = "CAST(CAST(labels AS JSON) AS MAP(VARCHAR, VARCHAR))"
NARROW_END = 10**18  # pico-dollars that do not fit any more

LABEL = "label:"
LABELS_TOLD = "bursar_labels"  # in a file's own metadata: which free labels have a column there, and whether there are others
LABELS_MAX = 64  # that get one, the most frequent ones


def shown(column: str) -> str:
    return SHOWN.get(column, column)


def raw_type(column: str) -> str:
    return "BIGINT" if column in INT_COLUMNS else "VARCHAR"


def label_column(name: str) -> str:
    """The column that a free label has by itself beside the map. A stranger's name is no identifier: capitals and quotes differ."""
    return f"label_{sha256(name.encode()).hexdigest()[:16]}"


def of_map(name: str, labels: str = "labels") -> str:
    """A free label out of the map; absent is empty, as with the chargeable labels."""
    return f"coalesce(map_extract_value({labels}, {literal(name)}), '')"


def shape(column: str, money: str = MONEY) -> str:
    """A stored column (or `label:NAME`) as the reader's SQL expression: dollars, a moment in UTC, a map. No float on the way."""
    if column.startswith(LABEL):
        name = column.removeprefix(LABEL)
        return f"{of_map(name, MAP)} AS {label_column(name)}"
    name = quoted(column)
    if column in MONEY_COLUMNS:
        return f"CAST(CAST({name} AS DECIMAL(19,0)) * 0.000000000001::DECIMAL(12,12) AS {money}) AS {quoted(shown(column))}"
    if column == "ts":
        return "make_timestamptz(ts) AS ts"
    if column == "labels":
        return f"{MAP} AS labels"
    return f"{name} AS {quoted(shown(column))}"


def money_of(target: duckdb.DuckDBPyConnection, table: str, columns: Iterable[str]) -> str:
    """The type that all money of stored rows fits in."""
    ends = ", ".join(f"max({quoted(c)}), -min({quoted(c)})" for c in columns if c in MONEY_COLUMNS)
    largest = target.execute(f"SELECT greatest(0, {ends}) FROM {table}").fetchall()[0][0] if ends else 0
    return NARROW if largest < NARROW_END else MONEY


def load(
    source: apsw.Connection, target: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], until: int | None = None
) -> int:  # fmt: skip
    """Copy columns of the tail's rows into a new DuckDB table, as stored; `until`: only up to that number. Gives their number."""
    target.execute(f"CREATE OR REPLACE TEMP TABLE {table} ({', '.join(f'{quoted(c)} {raw_type(c)}' for c in columns)})")
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
