"""Rows as one Parquet file with the ledger's own types: DECIMAL(38,12) dollars, UTC timestamps, labels as a map."""

from __future__ import annotations

from pathlib import Path

from ...domain.entry import MONEY_COLUMNS
from ...stores.columns import MONEY, literal
from ...stores.query import compile_filter, table
from ...stores.reader import Reader
from ...stores.schema import STORED
from .rows import COLUMNS, Asked, Written


def write(reader: Reader, asked: Asked, path: Path) -> Written:
    """The calls. DuckDB writes the file itself, in its own bounded memory."""
    condition = compile_filter(asked.query)
    reader.totals((*STORED, *condition.columns), asked.query.since_us, asked.query.until_us)
    # The ledger's own files may hold money in fewer bytes; whoever gets several of ours gets them all alike.
    names = ", ".join(f'CAST("{c}" AS {MONEY}) AS "{c}"' if c in MONEY_COLUMNS else f'"{c}"' for c in COLUMNS)
    source = f"SELECT {names} FROM {table(asked.query.where)} WHERE {condition.sql}"
    reader.duck.execute(
        f"COPY ({source}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)", condition.values
    )
    count, cost = reader.duck.execute(f"SELECT count(*), coalesce(sum(cost), 0) FROM read_parquet({literal(str(path))})").fetchall()[0]
    return Written(count, int(cost.scaleb(12)))
