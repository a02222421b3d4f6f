"""Where the rows of a statement come from: what was measured here, what other tools told, and what is in no sum."""

from __future__ import annotations

from typing import NamedTuple

from ..stores.query import Filter, Query
from ..stores.reader import Reader
from . import periods, tables
from .cli_common import pico
from .imports import reports

IMPORTED = "imported:"
AGGREGATE = Filter("attempt_kind", ("aggregate",))


class Part(NamedTuple):
    """Rows of one source. `counted`: they are in the statement's sums; a bucket of a provider's report never is."""

    source: str
    rows: int
    cost: int  # pico-dollars
    counted: bool = True


def parts(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> list[Part]:
    """The statement's rows by their source, the dearest first; nothing where all were measured here."""
    ask = Query(("rows", "cost"), ("source",), where, period.since, period.until)
    found = [_part(row, True) for row in reader.query(ask)]
    if not any(one.name == "source" for one in where):
        # Seen only by who asks for a source, so this asks for all of theirs.
        found += [_part(row, False) for row in reader.query(ask._replace(where=(*where, Filter("source", reports.ALL), AGGREGATE)))]
    imported = [part for part in found if part.source.startswith(IMPORTED)]
    return sorted(imported, key=lambda part: (not part.counted, -part.cost, part.source))


def _part(row: dict[str, object], counted: bool) -> Part:
    cost = row["cost"]
    return Part(str(row["source"]), int(str(row["rows"])), 0 if cost is None else pico(cost), counted)  # type: ignore[arg-type]


def lines(found: list[Part]) -> list[str]:
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
