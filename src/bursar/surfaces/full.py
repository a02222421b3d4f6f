"""What each customer cost in full, and what a closed month came to since: asked of a ledger, as records that foot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ..rules.full import Key, Loaded, Own, load
from ..stores.closed import Closed, Line
from ..stores.query import TOP_MAX, Filter, Query
from ..stores.reader import Reader
from . import periods
from .cli_common import pico
from .statement import DoesNotFoot


class Full(NamedTuple):
    """Customers by full cost. `shared`: the lines that were divided among them. `total` is the bill: the customers' full cost, or,
    without any customer, all of the shared."""

    key: Key
    lines: tuple[Loaded, ...]
    shared: tuple[Own, ...]
    total: int
    unpriced: int


class Adjusted(NamedTuple):
    """A customer of a closed month: what it was closed at, and what it would come to now."""

    tenant: str
    closed: int
    now: int


class Month(NamedTuple):
    """A closed month beside what its rows come to now. The lines add up to both totals."""

    month: str
    at_us: int
    closed: int
    now: int
    key: str
    unpriced: int  # when it was closed
    lines: tuple[Adjusted, ...]


def full(
    reader: Reader, where: tuple[Filter, ...], since: int | None, until: int | None, key: Key, overhead: Sequence[str] = ()
) -> Full:
    """The full cost of every customer. DoesNotFoot when the lines are not the total that was asked for apart."""
    measures = ("cost", "calls", "tokens")
    rows = reader.query(Query(measures, ("tenant", "purpose"), where, since, until, top=TOP_MAX))
    owns: dict[str, Own] = {}
    for row in rows:
        had, cost = owns.get(row["tenant"], Own(row["tenant"], 0, 0, 0, 0)), _pico(row["cost"])
        primary = cost if row["purpose"] == "primary" else 0
        owns[row["tenant"]] = Own(
            row["tenant"], had.cost + cost, had.primary + primary, had.calls + row["calls"], had.tokens + int(row["tokens"] or 0)
        )
    lines, shared = load(list(owns.values()), key, overhead)
    (whole,) = reader.query(Query(("cost", "unpriced"), (), where, since, until))
    total, found = _pico(whole["cost"]), sum(line.full for line in lines) if lines else sum(one.cost for one in shared)
    if found != total:
        raise DoesNotFoot(f"the customers come to {found} pico-dollars, the bill to {total}; run `bursar check` and report this")
    return Full(key, tuple(lines), tuple(sorted(shared, key=lambda one: (-one.cost, one.tenant))), total, whole["unpriced"])


def month_of(text: str, now_us: int) -> tuple[int, int]:
    """The month `2026-10` as [since, until). ValueError for one that is none, or is not over."""
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=periods.EPOCH.tzinfo)
    except ValueError:
        raise ValueError(f"{text!r} is no month; write it as 2026-10") from None
    since = (start - periods.EPOCH) // timedelta(microseconds=1)
    until = ((start + timedelta(days=32)).replace(day=1) - periods.EPOCH) // timedelta(microseconds=1)
    if until > now_us:
        raise ValueError(f"{text} is not over before {periods.iso(until)}; close it then")
    return since, until


def close(reader: Reader, text: str, now_us: int, key: Key, overhead: Sequence[str]) -> Closed:
    """What a month would be closed at. ValueError for a month that is none, or is not over."""
    since, until = month_of(text, now_us)
    found = full(reader, (), since, until, key, overhead)
    lines = [Line(line.tenant, line.direct, line.shared) for line in found.lines]
    return Closed(text, now_us, found.total, key, found.unpriced, tuple(lines), tuple(overhead))


def adjusted(reader: Reader, one: Closed) -> Month:
    """A closed month beside what it comes to now, divided as it was then."""
    since, until = month_of(one.month, one.at)
    found = full(reader, (), since, until, _key(one.key), one.overhead)
    then, now = {line.tenant: line.direct + line.shared for line in one.lines}, {line.tenant: line.full for line in found.lines}
    if not then:
        then[""] = one.total
    if not now:
        now[""] = found.total
    lines = [Adjusted(tenant, then.get(tenant, 0), now.get(tenant, 0)) for tenant in {**then, **now}]
    lines.sort(key=lambda line: (-line.now, line.tenant))
    return Month(one.month, one.at, one.total, found.total, one.key, one.unpriced, tuple(lines))


def covers(one: Closed, since: int | None, until: int | None) -> bool:
    """Whether a period is exactly that month."""
    return (since, until) == month_of(one.month, one.at)


def _key(text: str) -> Key:
    assert text in ("cost", "calls", "tokens")
    return text


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)
