"""The rows of an export out of the ledger: under one snapshot, in flat memory, oldest first as far as the files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...domain.entry import MONEY_COLUMNS
from ...stores.columns import shown
from ...stores.query import Query, compile_filter, table
from ...stores.reader import Reader
from ...stores.schema import STORED

CHUNK = 5_000
COLUMNS = tuple(shown(column) for column in STORED if column != "charges")
ISO = "strftime(ts, '%Y-%m-%dT%H:%M:%S.%fZ')"


class Asked(NamedTuple):
    """What is exported: filters and times of a question, and what a format may be told beside."""

    query: Query
    grain: str = "day"
    tags: tuple[str, ...] = ()
    account: str = ""
    step: Callable[[int], None] = lambda _rows: None


class Written(NamedTuple):
    """What went out: rows as the format counts them, and their dollars in pico-dollars. `left_out`: rows that the format has no way
    to say, with why."""

    rows: int
    cost: int
    left_out: int = 0
    why: str = ""


def texts(column: str) -> str:
    """A column as SQL that gives what is written: money as exact decimal text without idle zeros, times as ISO 8601, maps as JSON."""
    name = f'"{column}"'
    if column in MONEY_COLUMNS:
        return f"rtrim(rtrim(CAST({name} AS VARCHAR), '0'), '.') AS {name}"
    if column == "ts":
        return f"{ISO} AS ts"
    if column == "labels":
        return "CAST(to_json(labels) AS VARCHAR) AS labels"
    return name


def chunks(reader: Reader, asked: Asked, select: str, view: str = "") -> Iterator[list[tuple[Any, ...]]]:
    """The rows of `SELECT select FROM calls` under the filters of the question, some thousands at a time."""
    condition = compile_filter(asked.query)
    reader.totals((*STORED, *condition.columns), asked.query.since_us, asked.query.until_us)
    found = reader.duck.execute(f"SELECT {select} FROM {view or table(asked.query.where)} WHERE {condition.sql}", condition.values)
    done = 0
    while chunk := found.fetchmany(CHUNK):
        yield chunk
        done += len(chunk)
        asked.step(done)


def money(values: Sequence[str | None]) -> int:
    """Pico-dollars of amounts written as text."""
    total = 0
    for value in values:
        if value:
            whole, _, part = value.removeprefix("-").partition(".")
            pico = int(whole + part.ljust(12, "0"))
            total += -pico if value[0] == "-" else pico
    return total
