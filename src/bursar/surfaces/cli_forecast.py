"""`bursar forecast`: what the month will cost per label, with intervals and how often they were right; budgets; plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from ..domain.money import plain
from ..rules.forecast import Interval
from ..stores.query import LABEL
from ..stores.reader import Reader
from . import forecast as asking
from . import periods, settings, tables, wiring
from .cli_common import Common, common, dimension, filters, rows_are
from .forecast import OTHER, TOTAL, Ahead, Asker, Launch, Line, Passing, Plan

TOP = 10
BUDGETS_SHOWN = 10


@click.command()
@click.argument("plan", required=False)
@click.option("--by", metavar="LABEL", help="a line per value of this column or label (default: tenant)")
@click.option("--loaded", is_flag=True, help="each tenant with its share of evals, embeddings, background and unattributed spend")
@click.option("--assume", multiple=True, metavar="WHAT=FACTOR", help="volume=2x, price=0.8x, volume=+20%; repeat for more")
@click.option("--top", type=click.IntRange(1, 100), default=TOP, show_default=True, help="the dearest N values, the rest summed")
@click.option("--config", metavar="FILE", help="the policy file whose budgets are looked at")
@common("as_json", "ledger", "since", "until", "where")
def forecast(
    common: Common, plan: str | None, by: str | None, loaded: bool, assume: tuple[str, ...], top: int, config: str | None
) -> None:
    """What this month will cost, with honest intervals, and which budgets it passes. --until: as it stood then.

    With PLAN what a launch would cost: "1,000 conversations a day at $3 per million tokens"."""
    if loaded and by not in (None, "tenant"):
        raise click.UsageError("--loaded spreads shared spend over tenants; leave --by out")
    period = common.period()
    now = wiring.now_us() if period.until is None else min(period.until, wiring.now_us())
    if period.since is not None and period.since >= now:
        raise click.UsageError(f"--since {common.since!r} is not before now")
    try:
        factors = asking.assumed(assume)
        planned = asking.planned(plan) if plan is not None else None
    except ValueError as bad:
        raise click.UsageError(str(bad)) from None
    ahead = asking.month_of(now)
    if planned is not None:
        _plan(common, planned, ahead, period.since, factors)
        return
    policy, _ = settings.load(settings.find(config))
    label = dimension(by or "tenant")
    with Reader(common.existing()) as reader:
        hint, _, after = rows_are(reader)
        ask = Asker(reader, filters(common.where), ahead, period.since)
        lines = ask.month(label, loaded, top, factors["volume"] * factors["price"])
        budgets, notes = ask.budgets(policy, ZoneInfo, factors["volume"], factors["price"])
    if common.json:
        _as_document(label, loaded, lines, budgets, notes, ahead, factors)
        return
    out = tables.console()
    if ask.empty:
        tables.line(out, "Nothing to go by: no row before " + periods.shown(now), "bold")
        return
    _as_tables(out, label, lines, budgets, notes, ahead, ask, factors, common.where)
    if not lines[-1].done:
        tables.line(out, f"{hint}: bursar forecast --until {after}", "yellow")


# -- for people ------------------------------------------------------------------------------------------------------------


def _between(line: Line, one: Interval) -> tuple[int, int]:
    """The interval of the whole month: what there is, and the part to come drawn to the line's own share of it."""
    scale = line.left / line.outlook.point if line.outlook.point else 1.0
    return line.done + round(one.low * scale), line.done + round(one.high * scale)


def _as_tables(
    out: Console, label: str, lines: Sequence[Line], budgets: Sequence[Passing], notes: Sequence[str], ahead: Ahead, ask: Asker,
    factors: dict[str, float], where: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    total = lines[-1]
    month = periods.shown(ahead.since)[:7]
    tables.line(out, f"{month} will come to about {tables.money(total.done + total.left)}", "bold")
    only = "".join(f" · {tables.safe(name)}={tables.safe(value) or tables.UNATTRIBUTED}" for name, value in where)
    told = f"{tables.money(total.done)} until {_minute(ahead.now)} (UTC), {sum(ahead.left):.3g} days to go{only}"
    tables.line(out, told, "dim")
    assumed = ", ".join(f"{name} {factor:g}x" for name, factor in factors.items() if factor != 1)
    if assumed:
        tables.line(out, f"assumed from now on: {assumed}", "yellow")
    for one in total.outlook.intervals:
        low, high = _between(total, one)
        tables.line(out, f"{one.level:.0%} likely between {tables.money(low)} and {tables.money(high)}{_record(one)}")
    if not total.outlook.intervals:
        tables.line(out, f"no interval: {ask.days} whole days are too few to say how wrong such forecasts are", "yellow")
    out.print()
    columns = [tables.Column(tables.safe(label.removeprefix(LABEL))), tables.number("so far"), tables.number("month"),
               tables.number("80% from"), tables.number("to"), tables.number("last month")]  # fmt: skip
    rows = [_row(line) for line in lines if line.name != TOTAL]
    out.print(tables.table(columns, rows, total=_row(total)))
    _budgets(out, budgets, ahead)
    for note in notes:
        tables.line(out, f"not in this list: {tables.safe(note)}", "dim")


def _record(one: Interval) -> str:
    """How the same interval did before."""
    if not one.trials:
        return ""
    return f" (held in {one.hits:,} of {one.trials:,} past ones: {one.hits / one.trials:.0%})"


def _row(line: Line) -> list[str]:
    name = tables.OTHER if line.name == OTHER else tables.TOTAL if line.name == TOTAL else tables.label(line.name)
    likely = next((one for one in line.outlook.intervals if one.level == 0.8), None)
    low, high = ("", "") if likely is None else map(tables.money, _between(line, likely))
    return [name, tables.money(line.done), tables.money(line.done + line.left), low, high, tables.money(line.before)]


def _budgets(out: Console, budgets: Sequence[Passing], ahead: Ahead) -> None:
    if not budgets:
        return
    rows = [
        [
            tables.safe(one.budget),
            tables.safe(", ".join(value for _, value in one.scope)) or "all",
            _amount(one.limit, one.unit),
            _amount(one.spent, one.unit),
            "?" if one.chance is None else _chance(one.chance),
            "passed" if one.spent > one.limit else "" if one.when is None else periods.shown(one.when)[5:10],
        ]
        for one in budgets[:BUDGETS_SHOWN]
    ]
    columns = [tables.Column("budget"), tables.Column("of"), tables.number("limit"), tables.number("spent"), tables.number("passes"),
               tables.Column("on", keep=True)]  # fmt: skip
    out.print()
    out.print(tables.table(columns, rows))
    if len(budgets) > BUDGETS_SHOWN:
        tables.line(out, f"and {len(budgets) - BUDGETS_SHOWN} less likely ones (--json has all)", "dim")


def _chance(chance: float) -> str:
    """Nothing that is only likely is certain."""
    if chance < 0.01:
        return "<1%"
    return "100%" if chance == 1.0 else f"{min(round(chance * 100), 99)}%"


def _amount(value: int, unit: str) -> str:
    return tables.money(value) if unit == "usd" else f"{tables.brief(value)} {unit}"


def _minute(us: int) -> str:
    return periods.shown(us - us % 60_000_000)


# -- for programs ----------------------------------------------------------------------------------------------------------


def _as_document(
    label: str, loaded: bool, lines: Sequence[Line], budgets: Sequence[Passing], notes: Sequence[str], ahead: Ahead,
    factors: dict[str, float],
) -> None:  # fmt: skip
    def figures(line: Line) -> dict[str, Any]:
        return {
            "spent": plain(line.done), "expected": plain(line.done + line.left), "before": plain(line.before),
            "intervals": [
                {"level": one.level, "low": plain(low), "high": plain(high), "held": one.hits, "of": one.trials}
                for one in line.outlook.intervals for low, high in [_between(line, one)]
            ],
        }  # fmt: skip

    name = label.removeprefix(LABEL)
    tables.document(
        [{name: None if line.name in ("", OTHER) else line.name, "other": line.name == OTHER, **figures(line)} for line in lines[:-1]],
        total=figures(lines[-1]),
        budgets=[
            {"budget": one.budget, "scope": dict(one.scope), "unit": one.unit,
             "limit": plain(one.limit) if one.unit == "usd" else one.limit,
             "spent": plain(one.spent) if one.unit == "usd" else one.spent,
             "expected": plain(one.expected) if one.unit == "usd" else one.expected,
             "chance": None if one.chance is None else round(one.chance, 4), "ends": periods.iso(one.ends_us),
             "likely_passed": None if one.when is None else periods.iso(one.when)}
            for one in budgets
        ],
        notes=list(notes),
        by=name, loaded=loaded, assumed=factors, now=periods.iso(ahead.now), since=periods.iso(ahead.since),
        until=periods.iso(ahead.until), currency="USD",
    )  # fmt: skip


# -- before a launch -------------------------------------------------------------------------------------------------------


def _plan(common: Common, plan: Plan, ahead: Ahead, since: int | None, factors: dict[str, float]) -> None:
    measured: list[tuple[int, int]] = []
    if plan.tokens is None:
        with Reader(common.existing()) as reader:
            measured = Asker(reader, filters(common.where), ahead, since).measured(plan.unit)
    made = asking.launch(plan, measured)
    if made is None:
        raise click.UsageError(f"no day of this ledger says how many tokens {plan.unit} take; say it: {asking.PLAN}")
    factor = factors["volume"] * factors["price"]
    made = made._replace(
        a_day=round(made.a_day * factor), a_month=round(made.a_month * factor),
        between=tuple((level, round(low * factor), round(high * factor)) for level, low, high in made.between),
    )  # fmt: skip
    if common.json:
        row = {
            "unit": plan.unit, "count": plan.count, "per": plan.per, "usd_per_million_tokens": plain(plan.price),
            "tokens_each": made.tokens, "tokens_source": "given" if plan.tokens is not None else "measured",
            "days_measured": made.days, "a_day": plain(made.a_day), "a_month": plain(made.a_month),
            "intervals": [{"level": level, "low": plain(low), "high": plain(high)} for level, low, high in made.between],
        }  # fmt: skip
        tables.document([row], assumed=factors, currency="USD")
        return
    _tell(tables.console(), plan, made)


def _tell(out: Console, plan: Plan, made: Launch) -> None:
    one = plan.unit.rstrip("s")
    tables.line(out, f"{tables.money(made.a_day)} a day, {tables.money(made.a_month)} in thirty days", "bold")
    source = "as you say" if plan.tokens is not None else f"as measured on {made.days} days here"
    each = made.tokens * plan.price // 1_000_000
    tables.line(out, f"{made.tokens:,} tokens a {one} ({source}), {tables.money(each)} each", "dim")
    for level, low, high in made.between:
        share = f"{(1 - level) / 2:.1%}".replace(".0%", "%")
        tables.line(
            out, f"if every day were like the {share} lightest or heaviest of them: {tables.money(low)} or {tables.money(high)}"
        )
    if plan.tokens is None and not made.between:
        tables.line(out, f"no range: {made.days} measured days are too few", "yellow")
