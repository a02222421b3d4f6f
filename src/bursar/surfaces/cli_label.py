"""`bursar label`: names for past rows, shown before they are booked; and without names, which programs are worth one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..domain.money import plain
from ..rules.naming import NoName, readable
from ..stores.reader import Reader
from . import naming, periods, tables
from .cli_common import Common, common, filters
from .cli_spend import scope

SHOWN = 8  # values that rows had, for people


@click.command()
@click.argument("names", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="say what would be named, and name nothing")
@click.option("--replace", is_flag=True, help="also rows that say something else under that name")
@click.option("--all", "everything", is_flag=True, help="every row of the ledger, where no --where and no time narrows it")
@common("as_json", "ledger", "since", "until", "where")
def label(common: Common, names: tuple[str, ...], dry_run: bool, replace: bool, everything: bool) -> None:
    """Names past rows: `bursar label --where prefix_hash=… feature=triage`. Rows are never edited: each is taken back under its
    old labels and booked under the new ones, so every total stays as it was. Without a name: the programs (by system prompt and
    tools) among the calls that have no feature, dearest first."""
    period, where = common.period(), filters(common.where)
    if not names:
        if dry_run or replace or everything:
            raise click.UsageError("nothing to name: write NAME=VALUE, such as feature=triage")
        _propose(common, where, period)
        return
    said = _said(names)
    if not (where or period.since or period.until or everything):
        raise click.UsageError("that names every row of the ledger: narrow it with --where or --since, or say --all")
    folder = common.existing()
    with Reader(folder) as reader:
        try:
            found = naming.preview(naming.rows(reader, where, period), said)
        except NoName as bad:
            raise click.UsageError(str(bad)) from None
        if not replace and (why := naming.overlap(found, naming.pinned(common.where))):
            raise click.UsageError(f"{why}, or overrule them with --replace")
        done = 0
        if found.rows and not dry_run:
            done = _book(folder, reader, naming.rows(reader, where, period), said, found.rows + found.already)
    if common.json:
        tables.document(**naming.record(found, said, dry_run, done))
        return
    _print(found, said, dry_run, scope(period, common.where))


def _said(names: tuple[str, ...]) -> dict[str, str]:
    said: dict[str, str] = {}
    for text in names:
        name, equals, new = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{text!r} is not NAME=VALUE")
        if name in said:
            raise click.UsageError(f"{name} is named twice; a row has one value of a name")
        said[name] = new
    try:
        return readable(said)
    except NoName as bad:
        raise click.UsageError(str(bad)) from None


def _book(folder: Any, reader: Reader, rows: Any, said: dict[str, str], total: int) -> int:
    columns = (TextColumn("naming"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("naming", total=total)
        return naming.book(folder, reader, rows, said, lambda more: bar.advance(task, more))


def _print(found: naming.Preview, said: dict[str, str], dry_run: bool, where: str) -> None:
    out = tables.console()
    names = " ".join(f"{tables.safe(name)}={tables.safe(new)}" for name, new in said.items())
    if not found.rows:
        already = f"all {found.already:,} rows say so already" if found.already else "no row is meant"
        tables.line(out, f"Nothing to name: {already}.")
        tables.line(out, where, "dim")
        return
    done = "would be" if dry_run else "are now"
    tables.line(out, f"{found.tries:,} tries, {tables.money(found.cost)}, {done} {names}", "bold")
    tables.line(out, where, "dim")
    out.print()
    rows = [[had.name, tables.label(had.value), f"{had.rows:,}", tables.money(had.cost)] for had in found.had[:SHOWN]]
    if len(found.had) > SHOWN:
        rest = found.had[SHOWN:]
        rows.append([tables.OTHER, "", f"{sum(had.rows for had in rest):,}", tables.money(sum(had.cost for had in rest))])
    before = "name", "is now" if dry_run else "was before"
    out.print(tables.table([*map(tables.Column, before), tables.number("rows"), tables.number("cost")], rows))
    if found.already:
        tables.line(out, f"{found.already:,} more rows say so already", "dim")
    tables.line(
        out, "nothing was booked; leave out --dry-run to do it" if dry_run else "every total is as before, to the digit", "dim"
    )


def _propose(common: Common, where: Any, period: periods.Period) -> None:
    with Reader(common.existing()) as reader:
        found, whole = naming.programs(reader, where, period)
        others = naming.shapeless(reader, where, period)
    if common.json:
        tables.document(
            [
                {**one._asdict(), "cost": plain(one.cost), "first_us": None, "last_us": None, "first": periods.iso(one.first_us),
                 "last": periods.iso(one.last_us)} for one in found
            ],
            shapeless=[{"operation": name, "calls": calls, "cost": plain(cost)} for name, calls, cost in others],
            unattributed=plain(whole), currency="USD",
        )  # fmt: skip
        return
    out = tables.console()
    if not found:
        tables.line(out, f"No program without a feature{f'; {tables.money(whole)} cannot be told apart by prompt' if whole else ''}.")
        tables.line(out, scope(period, common.where), "dim")
        _others(out, others, whole)
        return
    tables.line(out, f"{tables.money(whole)} without a feature; by the system prompt and tools that the calls begin with:", "bold")
    tables.line(out, scope(period, common.where), "dim")
    out.print()
    rows = [
        [
            one.prefix_hash,
            tables.safe(one.models),
            f"{one.tenants:,}",
            f"{one.calls:,}",
            tables.money(one.cost),
            tables.share(one.cost, whole),
        ]
        for one in found
    ]
    names = map(tables.number, ("tenants", "calls", "cost", "share"))
    out.print(tables.table([tables.Column("prefix_hash", keep=True), tables.Column("models"), *names], rows))
    tables.line(out, "see one: bursar calls --where prefix_hash=… ; name it:", "dim")
    tables.line(out, f"bursar label --where prefix_hash={found[0].prefix_hash} --where feature= feature=NAME")
    _others(out, others, whole)


def _others(out: Console, others: Sequence[tuple[str, int, int]], whole: int) -> None:
    """What has no prompt to be told by, and how to name it."""
    for operation, calls, cost in others:
        tables.line(out)
        part = f"{tables.money(cost)} ({tables.share(cost, whole)}), {calls:,} calls"
        tables.line(out, f"{part}, begin with neither: operation {operation}", "dim")
        tables.line(out, f"bursar label --where operation={operation} --where prefix_hash= --where feature= feature=NAME")
