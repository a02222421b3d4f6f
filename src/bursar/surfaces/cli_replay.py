"""`bursar replay`: policies on recorded calls, side by side: dollars with an interval, who is stopped, what each figure rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..domain.money import plain
from ..rules.replay import Outcome, Part
from ..stores.reader import Reader
from . import periods, tables
from . import replay as playing
from .cli_common import Common, common, filters

NAMES = {
    "guard": "stopped by [guard]", "budgets": "stopped by budgets", "cache": "reply cache", "tiers": "tiers",
    "compaction": "compaction",
}  # fmt: skip
SHOWN = 8


@click.command()
@click.argument(
    "policies", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="POLICY.toml…"
)
@common("as_json", "ledger", "since", "until", "where")
def replay(common: Common, policies: tuple[Path, ...]) -> None:
    """What policies would have made of the recorded calls. No model is called; lines in shadow are played as if they were on."""
    period, where = common.period(), filters(common.where)
    folder = common.existing()
    made = playing.read(policies, folder.parent if folder.suffix == ".db" else folder)
    with Reader(folder) as reader:
        total = playing.count(reader, where, period)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("calls played"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            outcomes = playing.play(reader, made, where, period, lambda done: bar.update(task, completed=done))
    if common.json:
        tables.document(
            [_row(name, one) for name, one in outcomes.items()], currency="USD",
            since=None if period.since is None else periods.iso(period.since),
            until=None if period.until is None else periods.iso(period.until),
        )  # fmt: skip
        return
    _tell(tables.console(), outcomes)


def _row(name: str, one: Outcome) -> dict[str, Any]:
    return {
        "policy": name, "calls": one.calls, "recorded": plain(one.recorded), "spent": plain(one.spent), "low": plain(one.low),
        "high": plain(one.high),
        "parts": [
            {"name": p.name, "calls": p.calls, "saved": plain(p.pico), "low": plain(p.low), "high": plain(p.high), "rests_on": p.rests}
            for p in one.parts
        ],
        "stopped": [
            {"limit": s.limit, "whose": s.whose, "since": periods.iso(s.since_us), "calls": s.calls, "cost": plain(s.pico)}
            for s in one.stopped
        ],
        "stopped_beyond": one.kept_back,
    }  # fmt: skip


def _tell(out: Console, outcomes: dict[str, Outcome]) -> None:
    any_one = next(iter(outcomes.values()))
    tables.line(out, f"{any_one.calls:,} calls played, {tables.money(any_one.recorded)} without any control", "bold")
    columns = [tables.Column(""), *[tables.number(tables.safe(name)) for name in outcomes]]
    parts = {name: {part.name: part for part in one.parts} for name, one in outcomes.items()}
    seen = [name for name in NAMES if any(name in its for its in parts.values())]
    rows = [[NAMES[name], *[_saved(parts[policy].get(name)) for policy in outcomes]] for name in seen]
    rows.append(["between", *[f"{tables.money(one.low)} … {tables.money(one.high)}" for one in outcomes.values()]])
    bills = [f"{tables.money(one.spent)}\n{_less(one)}" for one in outcomes.values()]
    out.print(tables.table(columns, [["without controls", *[tables.money(one.recorded) for one in outcomes.values()]], *rows[:-1],
                                     ["the bill", *bills], rows[-1]]))  # fmt: skip
    for name, one in outcomes.items():
        if one.stopped:
            _who(out, name, one, len(outcomes) > 1)
        elif not one.parts:
            tables.line(out, f"\n{tables.safe(name)} would have changed nothing.", "dim")
    rests = {part.name: part.rests for one in outcomes.values() for part in one.parts}
    if rests:
        tables.line(out, "\nWhat these figures rest on", "bold")
        columns = [tables.Column("figure"), tables.Column("rests on")]
        out.print(tables.table(columns, [[NAMES[name], rests[name]] for name in NAMES if name in rests]))


def _saved(part: Part | None) -> str:
    return f"{tables.money(-part.pico)}\n{part.calls:,} calls" if part is not None else ""


def _less(one: Outcome) -> str:
    return tables.change(one.spent, one.recorded) if one.recorded else ""


def _who(out: Console, name: str, one: Outcome, several: bool) -> None:
    tables.line(out, f"\nStopped{' by ' + tables.safe(name) if several else ''}", "bold")
    columns = [tables.Column("limit"), tables.Column("whose"), tables.Column("since (UTC)", False, True), tables.number("calls"),
               tables.number("cost")]  # fmt: skip
    rows = [[tables.safe(s.limit), tables.safe(s.whose), periods.shown(s.since_us), tables.count(s.calls), tables.money(s.pico)]
            for s in one.stopped[:SHOWN]]  # fmt: skip
    out.print(tables.table(columns, rows))
    more = len(one.stopped) - SHOWN + one.kept_back
    if more > 0:
        tables.line(out, f"and {more:,} more (--json has them)", "dim")
