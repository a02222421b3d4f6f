"""`bursar spend --full`, `--close` and `--closed`: one number per customer, and months that are closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..domain.money import plain
from ..domain.policy import SpendPolicy
from ..rules.full import Key, Own
from ..stores import closed as closed_months
from ..stores.query import Filter
from ..stores.reader import Reader
from . import full, periods, settings, tables, wiring
from .cli_common import Common

NAMED = 4  # kinds of shared cost that are named


def policy() -> SpendPolicy:
    """What the policy says of spend; its defaults where there is no policy."""
    return settings.load(settings.find(None))[0].spend


def look(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, key: str | None, said: SpendPolicy
) -> full.Full | full.Month:
    """Every customer's full cost; a closed month's beside what it was closed at. A usage error where that was divided by another
    key."""
    closed = next((one for one in reader.closed() if not where and full.covers(one, period.since, period.until)), None)
    if closed is None:
        return full.full(reader, where, period.since, period.until, _key(key or said.shared_by), said.overhead)
    if key is not None and key != closed.key:
        raise click.UsageError(f"{closed.month} was closed with shared cost divided by {closed.key}; leave --key out")
    return full.adjusted(reader, closed)


def record(found: full.Full | full.Month, period: periods.Period) -> dict[str, Any]:
    """The answer for programs."""
    if isinstance(found, full.Month):
        return _month_record(found)
    rows = [
        {"tenant": one.tenant, "direct": plain(one.direct), "shared": plain(one.shared), "cost": plain(one.full),
         "share": tables.fraction(one.full, found.total), "calls": one.calls, "tokens": one.tokens}
        for one in found.lines
    ]  # fmt: skip
    return dict(
        rows=rows, total=plain(found.total), key=found.key, unpriced=found.unpriced,
        divided=[{"tenant": one.tenant or None, "cost": plain(one.cost), "calls": one.calls} for one in found.shared],
        since=None if period.since is None else periods.iso(period.since),
        until=None if period.until is None else periods.iso(period.until),
        currency="USD",
    )  # fmt: skip


def report(
    common: Common, reader: Reader, where: tuple[Filter, ...], period: periods.Period, key: str | None, top: int | None, scope: str
) -> None:
    """What `look` finds, told."""
    found = look(reader, where, period, key, policy())
    if common.json:
        tables.document(**record(found, period))
        return
    if isinstance(found, full.Month):
        _month(common, found)
        return
    out = tables.console()
    unpriced = f" + {found.unpriced:,} unpriced tries" if found.unpriced else ""
    tables.line(out, f"{tables.money(found.total)}{unpriced}, {len(found.lines):,} customers", "bold")
    tables.line(out, scope, "dim")
    if not found.lines:
        tables.line(out, "No tenant has calls that answer its users: nothing can be divided. Label calls with a tenant.", "yellow")
        return
    _lines(out, found, top)
    tables.line(out, f"shared, divided by the customers' own {found.key}: {_shared(found.shared)}", "dim")


def _lines(out: Console, found: full.Full, top: int | None) -> None:
    columns = [tables.Column("tenant"), *map(tables.number, ("direct", "shared", "full cost", "share", "calls", "tokens"))]
    lines = found.lines[:top] if top else found.lines

    def cells(name: str, some: Sequence[Any]) -> list[str]:
        direct, shared = sum(one.direct for one in some), sum(one.shared for one in some)
        return [
            name, *map(tables.money, (direct, shared, direct + shared)), tables.share(direct + shared, found.total),
            tables.count(sum(one.calls for one in some)), tables.brief(sum(one.tokens for one in some)),
        ]  # fmt: skip

    rows = [cells(tables.label(one.tenant), [one]) for one in lines]
    if len(lines) < len(found.lines):
        rows.append(cells(tables.OTHER, found.lines[len(lines) :]))
    out.print()
    out.print(tables.table(columns, rows, total=cells(tables.TOTAL, found.lines)))


def _shared(shared: Sequence[Own]) -> str:
    named = [f"{tables.label(one.tenant)} {tables.money(one.cost)}" for one in shared[:NAMED]]
    rest = sum(one.cost for one in shared[NAMED:])
    return ", ".join([*named, *([f"others {tables.money(rest)}"] if rest else [])]) or "nothing"


def close(common: Common, folder: Path, month: str, key: str | None) -> None:
    """Close a month: from now on what changes in it is an adjustment."""
    said, now = policy(), wiring.now_us()
    try:
        with Reader(folder) as reader:
            one = full.close(reader, month, now, _key(key or said.shared_by), said.overhead)
    except ValueError as bad:
        raise click.UsageError(f"--close: {bad}") from None
    closed_months.add(folder, one)
    with Reader(folder) as reader:
        _month(common, full.adjusted(reader, one))


def listed(common: Common, reader: Reader) -> None:
    """All closed months, each beside what it comes to now."""
    found = [full.adjusted(reader, one) for one in reader.closed()]
    if common.json:
        tables.document([_about(one) for one in found], currency="USD")
        return
    out = tables.console()
    if not found:
        tables.line(out, "No month is closed. Close one: bursar spend --close 2026-10")
        return
    rows = [
        [one.month, periods.shown(one.at_us)[:10], tables.money(one.closed), _signed(one.now - one.closed), tables.money(one.now)]
        for one in found
    ]
    sums = sum(one.closed for one in found), sum(one.now for one in found)
    total = [tables.TOTAL, "", tables.money(sums[0]), _signed(sums[1] - sums[0]), tables.money(sums[1])]
    names = map(tables.number, ("closed at", "adjustments", "now"))
    out.print(tables.table([tables.Column("month"), tables.Column("closed on"), *names], rows, total=total))


def _month_record(one: full.Month) -> dict[str, Any]:
    rows = [
        {
            "tenant": line.tenant or None,
            "closed": plain(line.closed),
            "adjustment": plain(line.now - line.closed),
            "cost": plain(line.now),
        }
        for line in one.lines
    ]
    return dict(rows=rows, **_about(one), currency="USD")


def _month(common: Common, one: full.Month) -> None:
    if common.json:
        tables.document(**_month_record(one))
        return
    out = tables.console()
    unpriced = f" + {one.unpriced:,} unpriced tries" if one.unpriced else ""
    tables.line(out, f"{one.month} was closed on {periods.shown(one.at_us)[:10]} at {tables.money(one.closed)}{unpriced}", "bold")
    tables.line(out, f"shared cost divided by the customers' own {one.key}; what changed since is an adjustment", "dim")
    out.print()
    rows = [
        [tables.label(line.tenant), tables.money(line.closed), _signed(line.now - line.closed), tables.money(line.now)]
        for line in one.lines
    ]
    total = [tables.TOTAL, tables.money(one.closed), _signed(one.now - one.closed), tables.money(one.now)]
    names = map(tables.number, ("closed at", "adjustment", "now"))
    out.print(tables.table([tables.Column("tenant"), *names], rows, total=total))


def _about(one: full.Month) -> dict[str, Any]:
    return {
        "month": one.month, "closed_on": periods.iso(one.at_us), "key": one.key, "unpriced": one.unpriced,
        "closed": plain(one.closed), "adjustment": plain(one.now - one.closed), "total": plain(one.now),
    }  # fmt: skip


def _signed(pico: int) -> str:
    return "" if not pico else f"+{tables.money(pico)}" if pico > 0 else tables.money(pico)


def _key(text: str) -> Key:
    assert text in ("cost", "calls", "tokens")
    return text
