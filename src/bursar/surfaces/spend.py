"""`bursar.spend`: what the ledger's calls came to, as rows for a program or a data frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..stores.query import DIMENSIONS, LABEL, Filter, Query
from ..stores.reader import Reader
from . import periods, settings, wiring

MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated")


def spend(
    by: Sequence[str] | str = (),
    *,
    since: str | None = None,
    until: str | None = None,
    where: Mapping[str, str | int] | None = None,
    grain: str = "",
    top: int = 0,
    config: str | os.PathLike[str] | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Rows, dearest first: a key for each name in `by`, then `cost` (dollars, Decimal, exact), `calls`, `tries`, `tokens`,
    and how many tries are `unpriced` (not in `cost`) or `estimated` (in it). Without `by` one row, the total.

    `by` and `where` take columns of the ledger and names of your own labels; empty text is a label nobody set. `since` and
    `until` as on the command line: `7d`, `24h`, `2026-11-01`, `month`, `last week`. With `grain` (hour, day, week, month)
    rows have a `period` too, and come in its order. Finds the ledger as `wrap` does.

    LedgerFault when it cannot be read or a name is not known, ValueError for a period that is none."""
    policy, _ = settings.load(settings.find(config))
    names = [by] if isinstance(by, str) else list(by)
    span = periods.period(since, until, wiring.now_us())
    query = Query(
        MEASURES,
        tuple(_dimension(name) for name in names),
        filters(where),
        span.since,
        span.until,
        grain,
        top=top,
    )
    with Reader(wiring.ledger_folder(policy, ledger)) as reader:
        rows = reader.query(query)
    return [{name.removeprefix(LABEL): value for name, value in row.items()} for row in rows]


def _dimension(name: str) -> str:
    return name if name in DIMENSIONS or name.startswith(LABEL) else LABEL + name


def filters(where: Mapping[str, str | int] | None) -> tuple[Filter, ...]:
    """What a program's `where` asks for."""
    return tuple(Filter(_dimension(name), (value,)) for name, value in (where or {}).items())
