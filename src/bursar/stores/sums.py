"""What a segment's rows come to per combination of the columns that most questions are about: a file beside the segment, made by the
compactor when the day is over. Derived and never needed: where it is not, the rows are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb

from . import engine
from .columns import LABEL, MONEY, label_column, literal, of_map, shown
from .measures import ADDITIVE, MONEY_SUMS, TOKEN_SUMS
from .query import Query, table
from .schema import quoted

SUFFIX = ".sums"
TOLD = "bursar_sums"  # in the file's own metadata: {"rows": of the segment, "columns": told apart}; no columns: not worth it
FEWER = 4  # a file has at most a quarter of the segment's rows, or none
ROWS_MIN = 10_000  # a smaller segment is read as quickly
KEPT = (
    "try_no", "attempt_kind", "flags", "status", "price_status", "operation", "purpose", "cause", "tenant", "feature", "model_served",
    "provider", "source", "label:suite", "label:corpus",
)  # fmt: skip
AMOUNTS = (*MONEY_SUMS, *TOKEN_SUMS)
TOKENS = f"({' + '.join(f'coalesce({name}, 0)' for name in TOKEN_SUMS)})"
# Of the flags only what counts look at: others are as many as there are rows.
FLAGS = "CASE WHEN flags IN ('named', 'named-refused') OR flags LIKE 'unnamed%' THEN flags ELSE '' END"

REMEDY = "remove it: rows are read instead, and the compactor makes it again"


def beside(segment: Path) -> Path:
    return segment.with_name(segment.name + SUFFIX)


def fits(query: Query, columns: Iterable[str]) -> bool:
    """Whether a question with these stored columns can be answered from sums."""
    additive = not query.grain and ADDITIVE.issuperset(query.measures) and table(query.where) == "calls"
    return additive and set(columns) <= {*KEPT, *AMOUNTS}


def name(column: str) -> str:
    """A column that is told apart, as it is called in rows and sums."""
    return label_column(column.removeprefix(LABEL)) if column.startswith(LABEL) else quoted(shown(column))


def added(columns: Sequence[str]) -> list[str]:
    """Amounts among these stored columns, and `tokens` with all that it is made of."""
    found = [c for c in AMOUNTS if c in columns]
    return [*found, "tokens"] if set(TOKEN_SUMS) <= set(found) else found


def of_sums(columns: Sequence[str]) -> str:
    """What to select from such files."""
    money = {*MONEY_SUMS}
    amounts = [quoted(f"sum {c}") if c in money else f'CAST("sum {c}" AS HUGEINT) AS "sum {c}"' for c in added(columns)]
    return ", ".join([*[name(c) for c in columns if c in KEPT], "number", *amounts])


def of_rows(columns: Sequence[str]) -> str:
    """The same of rows, each a sum of one."""
    amounts = [f'{TOKENS if c == "tokens" else quoted(c)} AS "sum {c}"' for c in added(columns)]
    return ", ".join([*[name(c) for c in columns if c in KEPT], "1::BIGINT AS number", *amounts])


def select(path: Path) -> str:
    """The sums of a segment, from its rows."""

    def told(column: str) -> str:
        if column.startswith(LABEL):
            return f"{of_map(column.removeprefix(LABEL))} AS {name(column)}"
        return f"{FLAGS} AS flags" if column == "flags" else name(column)

    # A sum of whole numbers may pass 64 bits, and Parquet has nothing longer but decimals.
    money = [f'CAST(sum({quoted(c)}) AS {MONEY}) AS "sum {c}"' for c in MONEY_SUMS]
    tokens = [f'CAST(sum({quoted(c)}) AS DECIMAL(38,0)) AS "sum {c}"' for c in TOKEN_SUMS]
    whole = f'CAST(sum({TOKENS}) AS DECIMAL(38,0)) AS "sum tokens"'
    columns = ", ".join([*map(told, KEPT), "count(*) AS number", *money, *tokens, whole])
    rows = f"read_parquet({literal(str(path))}) WHERE attempt_kind IS DISTINCT FROM 'aggregate'"
    return f"SELECT {columns} FROM {rows} GROUP BY ALL"


def make(path: Path, rows: int) -> None:
    """The file of one segment, whole and on the disk when it has its name."""
    temporary = path.with_name(f"{path.name}{SUFFIX}.tmp")
    with engine.connect("1GB", 2) as work:
        work.execute("SET enable_progress_bar = false")
        work.execute(f"CREATE TEMP TABLE sums AS {select(path)}")
        worth = work.execute("SELECT count(*) FROM sums").fetchall()[0][0] * FEWER <= rows
        told = literal(json.dumps({"rows": rows, "columns": KEPT if worth else []}))
        only = "" if worth else " LIMIT 0"
        how = f"FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION V2, KV_METADATA {{{TOLD}: {told}}}"
        work.execute(f"COPY (SELECT * FROM sums ORDER BY ALL{only}) TO {literal(str(temporary))} ({how})")
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.rename(beside(path))


def told(duck: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> dict[str, tuple[int, frozenset[str]]]:
    """Of each of these files that is one: how many rows the segment has, and which columns are told apart."""
    listed = ", ".join(map(literal, paths))
    text = f"SELECT file_name, value FROM parquet_kv_metadata([{listed}]) WHERE key = '{TOLD}'::BLOB"
    try:
        found = {file: json.loads(value) for file, value in duck.execute(text).fetchall()}
    except duckdb.Error:
        return {}  # one of them is no Parquet any more: `check` says which
    return {file: (value["rows"], frozenset(value["columns"])) for file, value in found.items()}
