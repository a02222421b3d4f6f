"""`bursar calls`: the tries themselves, newest first. For people the columns that fit, for programs all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click

from ..domain.money import plain
from ..stores.columns import shown
from ..stores.query import Filter, Query, compile_filter, table
from ..stores.reader import Reader
from ..stores.schema import STORED
from . import periods, tables
from .cli_common import Common, common, filters, pico

LIMIT_MAX = 100_000
WIDE = 165  # columns of a terminal from which everything fits in one line

COLUMNS = tuple(shown(c) for c in STORED if c != "charges")
# Free text in JSON columns: given to programs as what it is.
PARSED = ("other_units", "label_sources", "legs", "evidence")


def newest(
    reader: Reader, period: periods.Period, asked: tuple[Filter, ...], limit: int, below: tuple[int, str] | None = None
) -> list[dict[str, Any]]:
    """At most `limit` rows, newest first, every column. `below`: time and id of the row they come after."""
    only = compile_filter(Query(where=asked, since_us=period.since, until_us=period.until))
    columns = ", ".join(f'"{c}"' for c in COLUMNS)
    values: dict[str, Any] = {**only.values, "most": limit}
    further = ""
    if below is not None:
        further = ' AND (ts < make_timestamptz($below_ts) OR (ts = make_timestamptz($below_ts) AND "id" < $below_id))'
        values |= {"below_ts": below[0], "below_id": below[1]}
    ask = f'SELECT {columns} FROM {table(asked)} WHERE ({only.sql}){further} ORDER BY ts DESC, "id" DESC LIMIT $most'
    return reader.sql(ask, values, only.columns)


def program_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: money as decimal strings, times as ISO 8601 UTC, labels as an object, unknown as null."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        match value:
            case Decimal():
                made[name] = plain(pico(value))
            case datetime():
                made[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            case str() if name in PARSED:
                made[name] = json.loads(value)
            case _:
                made[name] = value
    return made


def _cells(row: dict[str, Any]) -> list[str]:
    """What is shown of a row, in the order of SHOWN."""
    read = [row[c] for c in ("input", "cache_read", "cache_write", "cache_write_1h") if row[c] is not None]
    written = [row[c] for c in ("output", "reasoning") if row[c] is not None]
    mark = {"estimated": "~", "unpriced": "?"}.get(row["price_status"], "")
    refused_or_broken = row["status"] in ("error", "refused") and row["error"]
    return [
        row["ts"].astimezone(UTC).strftime("%m-%d %H:%M:%S"),
        tables.safe(refused_or_broken or row["status"]),
        tables.safe(row["operation"]),
        tables.safe(row["cause"]),
        tables.safe(row["tenant"]),
        tables.safe(row["feature"]),
        tables.safe(row["model_served"] or row["model_requested"]),
        tables.safe(row["call"]),
        tables.brief(sum(read) if read else None),
        tables.brief(sum(written) if written else None),
        "unpriced" if row["cost"] is None else mark + tables.money(pico(row["cost"]), 4),
        "" if row["latency_ms"] is None else tables.count(row["latency_ms"]),
    ]


SHOWN = (
    tables.Column("time (UTC)", keep=True),
    tables.Column("status"),
    tables.Column("operation"),
    tables.Column("cause"),
    tables.Column("tenant"),
    tables.Column("feature"),
    tables.Column("model", keep=True),
    tables.Column("call", keep=True),
    tables.number("in"),
    tables.number("out"),
    tables.number("cost"),
    tables.number("ms"),
)

STACKED = (
    tables.Column("time (UTC)\nstatus", keep=True),
    tables.Column("model · operation · cause\ntenant · feature\ncall"),
    tables.number("in\nout"),
    tables.number("cost\nms"),
)


def _stacked(row: Sequence[str]) -> list[str]:
    """The same in four columns, three lines a try: fits into 80 with whole ids."""
    time, status, operation, cause, tenant, feature, model, call, read, written, cost, ms = row
    what = " · ".join(part for part in (model, operation, cause) if part)
    who = " · ".join(part for part in (tenant, feature) if part) or tables.UNATTRIBUTED
    return [f"{time}\n{status}", f"{what}\n{who}\n{call}", f"{read}\n{written}", f"{cost}\n{ms}"]


@click.command()
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=20, show_default=True, help="at most so many tries")
@click.option("--skip-damaged", is_flag=True, help="read on without segments that are missing or damaged, and name them")
@common("as_json", "ledger", "since", "until", "where")
def calls(common: Common, limit: int, skip_damaged: bool) -> None:
    """The tries themselves, newest first: what was asked of whom, for whom, what it cost and how it ended."""
    period = common.period()
    with Reader(common.existing(), skip_damaged=skip_damaged) as reader:
        rows = newest(reader, period, filters(common.where), limit)
        skipped = list(reader.skipped)
    if common.json:
        tables.document([program_row(r) for r in rows], limit=limit, skipped_segments=skipped)
        return
    out = tables.console()
    for name in skipped:
        tables.line(out, f"without segment {name}, which is missing or damaged", "bold red")
    if not rows:
        tables.line(out, "No calls match." if common.where or period.since or period.until else "No calls yet.")
        return
    columns, cells = list(SHOWN), [_cells(r) for r in rows]
    if out.width < WIDE:
        columns, cells = list(STACKED), [_stacked(row) for row in cells]
    out.print(tables.table(columns, cells))
    if len(rows) == limit:
        tables.line(out, f"the newest {limit}; more with --limit, all columns with --json", "dim")
