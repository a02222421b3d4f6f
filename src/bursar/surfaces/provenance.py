"""Where the rows of a statement come from: what was measured here, what other tools told, and what is in no sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..stores.query import Filter, Query, compile_filter, table
from ..stores.reader import Reader
from . import periods, tables
from .cli_common import pico

IMPORTED = "imported:"


class Part(NamedTuple):
    """Rows of one source. `counted`: they are in the statement's sums; a bucket of a provider's report is only where its source was
    asked for."""

    source: str
    rows: int
    cost: int  # pico-dollars
    counted: bool = True


def parts(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> list[Part]:
    """The imported rows of a statement by their source, the dearest first; none where all were measured here."""
    condition = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    reader.totals(dict.fromkeys(("source", "cost", *condition.columns)), period.since, period.until)
    found = reader.duck.execute(
        f"""SELECT source, attempt_kind = 'aggregate' AS bucket, count(*), sum(cost) FROM entries
            WHERE ({condition.sql}) AND starts_with(source, '{IMPORTED}') GROUP BY ALL""",
        condition.values,
    ).fetchall()
    asked = table(where) == "entries"
    made = [Part(source, rows, 0 if cost is None else pico(cost), asked or not bucket) for source, bucket, rows, cost in found]
    return sorted(made, key=lambda part: (not part.counted, -part.cost, part.source))


def lines(found: Sequence[Part]) -> list[str]:
    """What a statement says below its total; nothing for a ledger that only measured."""
    inside, outside = [part for part in found if part.counted], [part for part in found if not part.counted]
    told: list[str] = []
    if inside:
        told.append("of it imported: " + ", ".join(f"{tables.money(p.cost)} {_name(p)} ({p.rows:,} rows)" for p in inside))
    if outside:
        told.append("in no sum: " + ", ".join(f"{tables.money(p.cost)} {_name(p)} ({p.rows:,} buckets)" for p in outside))
    return told


def _name(part: Part) -> str:
    return tables.safe(part.source.removeprefix(IMPORTED))
