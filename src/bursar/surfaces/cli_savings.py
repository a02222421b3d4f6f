"""`bursar savings`: what the controls saved, net, as a statement that sums with the ledger."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from ..domain.money import plain
from ..rules import reuse
from ..stores.reader import Reader
from . import cli_full, periods, tables
from . import savings as books
from .cli_common import Common, common, filters
from .gate import Gate

SHOWN = 20  # lines of each table

NAMES = {
    "cache": "reply cache", "near": "near-duplicates", "embeddings": "embeddings kept", "tiers": "tiers", "compaction": "compaction",
}  # fmt: skip


@click.command()
@click.option("--grain", type=click.Choice(("day", "week", "month")), help="a line per control and day, week or month (UTC) as well")
@click.option("--ttl", default="1h", show_default=True, help="how long a reply cache would keep, where what is off is looked at")
@common("as_json", "ledger", "since", "until", "where")
def savings(common: Common, grain: str | None, ttl: str) -> None:
    """What the controls saved, less what they took: against which course of events, and how sure that is."""
    period, where = common.period(), filters(common.where)
    try:
        ttl_us = reuse.span_us(ttl)
    except ValueError as bad:
        raise click.UsageError(f"--ttl: {bad}") from None
    with Reader(common.existing()) as reader:
        found = books.savings(reader, where, period, ttl_us, cli_full.policy().resolved)
    days = books.by_period(found.days, grain or "day")
    if common.json:
        tables.document(
            [_figures(one) for one in days],
            controls=[{**_figures(one), "versus": one.versus, "sure": one.sure} for one in found.controls],
            shadow=[{**_figures(one), "versus": one.versus, "sure": one.sure} for one in found.shadow],
            repeats=None if found.repeats is None else {
                "ttl": ttl, "calls": found.repeats.calls, "hits": found.repeats.hits, "cost": plain(found.repeats.pico),
            },
            near=[one._asdict() for one in found.judged], off=[one._asdict() for one in found.off],
            outcomes=[_outcome(one) for one in found.outcomes],
            spent=plain(found.spent), net=plain(found.net), without=plain(found.without),
            since=None if period.since is None else periods.iso(period.since),
            until=None if period.until is None else periods.iso(period.until), currency="USD",
        )  # fmt: skip
        return
    out = tables.console()
    _statement(out, found)
    if found.controls:
        _versus(out, found)
    if grain and days:
        _days(out, days, grain)
    _could(out, found, ttl)
    _beside(out, found)


def _outcome(one: Gate) -> dict[str, Any]:
    arms = {"shorter": one.shorter, "whole": one.whole}
    return {"flow": one.flow, "worse": one.worse, **{name: {"conversations": a.n, "solved": a.solved} for name, a in arms.items()}}


def _beside(out: Console, found: books.Savings) -> None:
    """What stands beside the dollars: whether answers and outcomes stayed what they were, and what has turned itself off."""
    if found.judged:
        tables.line(out, "\nNear-duplicates, compared with the true reply", "bold")
        columns = [tables.Column("tenant"), tables.Column("flow"), *map(tables.number, ("judged", "said another thing"))]
        cells = [[tables.label(o.tenant), tables.label(o.flow), f"{o.n:,}", f"{o.wrong:,}"] for o in found.judged[:SHOWN]]
        out.print(tables.table(columns, cells))
        tables.line(out, "299 with none wrong certify a flow; of those served one in twenty is still compared", "dim")
    if found.outcomes:
        tables.line(out, "\nSolved with shorter histories, and with whole ones", "bold")
        columns = [tables.Column("flow"), *map(tables.number, ("shorter", "solved", "whole", "solved")), tables.Column("")]
        cells = [
            [tables.label(o.flow), f"{o.shorter.n:,}", f"{o.shorter.share:.0%}", f"{o.whole.n:,}", f"{o.whole.share:.0%}",
             "worse: sent whole" if o.worse else ""] for o in found.outcomes[:SHOWN]
        ]  # fmt: skip
        out.print(tables.table(columns, cells))
    for one in found.off[:SHOWN]:
        whose = tables.safe(one.feature) or "no feature"
        text = f"\nThe {one.what} of {whose} has turned itself off, because it lost money: {one.calls:,} calls since."
        tables.line(out, text, "yellow")


def _figures(one: books.Day | books.Control) -> dict[str, Any]:
    named = {"day": one.day} if isinstance(one, books.Day) else {}
    money = {"gross": one.gross, "own": one.own, "net": one.net, "low": one.low, "high": one.high}
    return {**named, "control": one.control, "calls": one.calls, **{name: plain(value) for name, value in money.items()}}


def _statement(out: Console, found: books.Savings) -> None:
    since = periods.shown(found.since) if found.since is not None else "the beginning"
    until = periods.shown(found.until) if found.until is not None else "now"
    if not found.controls:
        tables.line(out, f"{tables.money(found.spent)} spent, and no control has saved any of it.", "bold")
        tables.line(out, f"{since} to {until} (UTC)", "dim")
        return
    part = tables.share(found.net, found.without)
    told = f"{tables.money(found.net)} saved, net: {part} of the bill" if found.net >= 0 else f"{tables.money(-found.net)} lost, net"
    tables.line(out, told, "bold" if found.net >= 0 else "bold red")
    tables.line(out, f"{since} to {until} (UTC)\n", "dim")
    columns = [tables.Column(""), tables.number("calls"), tables.number("gross"), tables.number("own cost"), tables.number("net"),
               tables.number("of the bill")]  # fmt: skip
    rows = [["without controls", "", "", "", tables.money(found.without), "100.0%"]]
    for one in found.controls:
        rows.append([
            NAMES[one.control], tables.count(one.calls), tables.money(one.gross), tables.money(one.own) if one.own else "",
            tables.money(-one.net), tables.share(-one.net, found.without),
        ])  # fmt: skip
    out.print(
        tables.table(
            columns, rows, total=["the bill", "", "", "", tables.money(found.spent), tables.share(found.spent, found.without)]
        )
    )


def _versus(out: Console, found: books.Savings) -> None:
    tables.line(out, "\nCompared with", "bold")
    columns = [
        tables.Column("control"),
        tables.Column("what would have been"),
        tables.Column("sure"),
        tables.Column("net between", True, True),
    ]
    rows = [[NAMES[one.control], one.versus, one.sure, _between(one)] for one in found.controls]
    out.print(tables.table(columns, rows))


def _between(one: books.Control | books.Day) -> str:
    return tables.money(one.net) if one.low == one.high else f"{tables.money(one.low)} … {tables.money(one.high)}"


def _days(out: Console, days: list[books.Day], grain: str) -> None:
    tables.line(out, f"\nBy {grain}", "bold")
    columns = [tables.Column(grain, False, True), tables.Column("control"), tables.number("calls"), tables.number("gross"),
               tables.number("own cost"), tables.number("net")]  # fmt: skip
    rows = [
        [d.day, NAMES[d.control], tables.count(d.calls), tables.money(d.gross), tables.money(d.own), tables.money(d.net)] for d in days
    ]
    out.print(tables.table(columns, rows))


def _could(out: Console, found: books.Savings, ttl: str) -> None:
    """What is not saved yet: controls in shadow, and questions asked again where no cache answers."""
    if found.shadow:
        tables.line(out, "\nIn shadow: nothing was changed, this is what would have been saved", "bold")
        columns = [
            tables.Column("control"),
            tables.number("calls"),
            tables.number("net"),
            tables.Column("between", True, True),
            tables.Column("sure"),
        ]
        rows = [[NAMES[o.control], tables.count(o.calls), tables.money(o.net), _between(o), o.sure] for o in found.shadow]
        out.print(tables.table(columns, rows))
    its = found.repeats
    if its is not None:
        tables.line(
            out, f"\nAsked again within {ttl}, word for word, and paid again: {its.hits:,} of {its.calls:,} calls, "
            f"{tables.money(its.pico)}.", "bold",
        )  # fmt: skip
        tables.line(out, "A reply cache answers those (temperature permitting): [cache] exact = true", "dim")
