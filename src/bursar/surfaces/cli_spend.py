"""`bursar spend`: what cost us that. Questions to the ledger, and their answers as statements that foot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from rich.console import Console

from ..domain.money import plain
from ..rules.full import KEYS
from ..stores.dearest import Line as Dear
from ..stores.dearest import dearest
from ..stores.query import GRAINS, LABEL, TOP_MAX, Filter, Query
from ..stores.reader import Reader
from . import drivers, periods, provenance, tables
from .cli_common import Common, common, dimension, filters, pico
from .statement import Key, Line, Statement, Sum, footed, state

OVERVIEW = ("feature", "tenant", "operation", "cause")
OVERVIEW_TOP = 10
DIMENSIONS_MAX = 6
LINES = 1_000  # of a table: more are summed as (other)
MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "estimated_cost")


def groups(
    reader: Reader, by: Sequence[str], where: tuple[Filter, ...], since: int | None, until: int | None, grain: str = ""
) -> tuple[list[tuple[Key, Sum]], Sum]:
    """Sums per combination of dimensions (after the period, with a grain), and the sum of all. UsageError when they are too many
    to add up."""
    ask = Query(MEASURES, tuple(by), where, since, until, grain, top=TOP_MAX if by or grain else 0, whole=True)
    total, *rows = reader.query(ask)
    if len(rows) >= TOP_MAX:
        raise click.UsageError(f"that makes {TOP_MAX:,} lines or more; ask by less, for a shorter time, or with --where")
    names = [*(["period"] if grain else []), *by]
    return [(_key(row, names), summed(row)) for row in rows], summed(total)


def summed(row: dict[str, Any]) -> Sum:
    """MEASURES as they come, with money in pico-dollars."""
    return _sum([row[name] for name in MEASURES])


def _sum(amounts: Sequence[Any]) -> Sum:
    cost, *counts, estimated_cost = amounts
    return Sum(_pico(cost), *[int(count or 0) for count in counts], _pico(estimated_cost))


def _key(row: dict[str, Any], names: Sequence[str]) -> Key:
    return tuple(None if row[n] in (None, "") else str(row[n]) for n in names)


def _pico(dollars: Any) -> int:
    """A sum over no priced rows is nothing, and is not shown as a price: `unpriced` counts them."""
    return 0 if dollars is None else pico(dollars)


def statement(
    reader: Reader, by: Sequence[str], where: tuple[Filter, ...], period: periods.Period, *, grain: str = "", top: int | None = None
) -> Statement:
    """The statement of one period, beside the one before it where there is one. DoesNotFoot where the lines are not the
    ledger's own total."""
    dimensions = [dimension(name) for name in by]
    names = [*(["period"] if grain else []), *by]
    if top is not None and names:
        return _dearest(reader, names, Query(MEASURES, tuple(dimensions), where, period.since, period.until, grain), period, top)
    earlier = earlier_total = None
    if period.before is not None and not grain:
        earlier, earlier_total = groups(reader, dimensions, where, *period.before)
    now, total = groups(reader, dimensions, where, period.since, period.until, grain)
    return state(names, now, total, top=top, earlier=earlier, earlier_total=earlier_total, in_time=bool(grain))


def _dearest(reader: Reader, names: Sequence[str], ask: Query, period: periods.Period, top: int) -> Statement:
    """The statement with `top` lines and the sum of the others, which are never read one by one."""
    found = dearest(reader, ask, top, None if ask.grain else period.before)
    compared = bool(found.total.before)

    def line(one: Dear, other: bool = False) -> Line:
        return Line(tuple(name or None for name in one.key), _sum(one.now), _sum(one.before) if compared else None, other)

    lines = [line(one) for one in found.lines]
    if found.others:
        lines.append(line(found.rest, other=True))
    earlier_total = _sum(found.total.before) if compared else None
    return footed(names, lines, _sum(found.total.now), earlier_total, others=found.others, in_time=bool(ask.grain))


def part(name: str, now: drivers.Looked, before: drivers.Looked | None, top: int) -> Statement:
    """The overview's part by one dimension, of the one look at the ledger."""
    earlier = (None, None) if before is None else (before.by(name), before.total)
    return state((name,), now.by(name), now.total, top=top, earlier=earlier[0], earlier_total=earlier[1])


class Spent(NamedTuple):
    """The answer: one statement, or the overview's parts with the drivers before them. `origin`: what of it was imported."""

    made: Sequence[Statement]
    said: drivers.Answer | None
    skipped: Sequence[str]
    origin: Sequence[provenance.Part]


def names_of(by: str | None) -> list[str]:
    """The names in `--by`. A usage error where there are none, too many, or one twice."""
    names = [name.strip() for name in (by or "").split(",") if name.strip()]
    if by is not None and not names:
        raise click.UsageError("--by names nothing: write --by tenant, --by tenant,operation or --by label:team")
    if len(names) > DIMENSIONS_MAX or len({dimension(name) for name in names}) < len(names):
        raise click.UsageError(f"--by {by}: at most {DIMENSIONS_MAX} names, each once")
    return names


def ask(
    reader: Reader, names: Sequence[str], where: tuple[Filter, ...], period: periods.Period, *, grain: str = "", top: int | None = None
) -> Spent:
    """What cost us that, by these names; without any, and without a grain, the overview."""
    said: drivers.Answer | None = None
    if names or grain:
        made = [statement(reader, names, where, period, grain=grain, top=top)]
    else:
        now, before = drivers.look(reader, where, period, top)
        said = drivers.tell(now, before, top)
        made = [part(name, now, before, top or OVERVIEW_TOP) for name in OVERVIEW]
    origin = provenance.parts(reader, where, period)
    return Spent(made, said, list(reader.skipped), origin)


@click.command()
@click.option("--by", metavar="A,B", help="columns or labels: tenant,operation, model, label:team …")
@click.option("--grain", type=click.Choice(GRAINS), help="a line per hour, day, week or month (UTC) as well")
@click.option(
    "--top", type=click.IntRange(1, 10_000), help=f"the dearest N lines, the rest summed as (other) (default: {LINES:,}; --json: all)"
)
@click.option("--full", "loaded", is_flag=True, help="one number per customer: its own cost and its share of what is nobody's")
@click.option("--key", type=click.Choice(KEYS), help="how --full divides shared cost (default: the policy's, else cost)")
@click.option("--close", metavar="MONTH", help="close a month, 2026-10: later changes are shown as its adjustments")
@click.option("--closed", is_flag=True, help="the closed months, each beside what it comes to now")
@click.option("--skip-damaged", is_flag=True, help="read on without segments that are missing or damaged, and name them")
@common("as_json", "ledger", "since", "until", "where")
def spend(
    common: Common, by: str | None, grain: str | None, top: int | None, loaded: bool, key: str | None, close: str | None, closed: bool,
    skip_damaged: bool,
) -> None:  # fmt: skip
    """What cost us that. Without --by: the few things that say most of it, then by feature, tenant, operation and cause. Lines
    always add up, and those of the first table do not overlap."""
    period, where = common.period(), filters(common.where)
    names = names_of(by)
    if loaded or close or closed or key:
        _customers(common, names, grain, top, loaded, key, close, closed, skip_damaged)
        return
    with Reader(common.existing(), skip_damaged=skip_damaged) as reader:
        most = top or (LINES if (names or grain) and not common.json else None)
        found = ask(reader, names, where, period, grain=grain or "", top=most)
    if common.json:
        tables.document(**record(found, period))
        return
    made, said, skipped, origin = found
    out = tables.console()
    for name in skipped:
        tables.line(out, f"without segment {name}, which is missing or damaged", "bold red")
    tables.line(out, f"{amount(made[0].total)}, {_many(made[0].total.calls, 'call')}", "bold")
    tables.line(out, scope(period, common.where), "dim")
    for told in provenance.lines(origin):
        tables.line(out, told, "yellow")
    if said is not None and len(said.rows) > 1:
        out.print()
        driver_table(out, said)
    for one in made:
        if not names and not grain and not any(line.key != (None,) for line in one.lines):
            nothing = {"operation": "No call has an operation.", "cause": "No retry and no fallback."}
            tables.line(out, "\n" + nothing.get(one.by[0], f"No call has a {one.by[0]}."), "dim")
            continue
        out.print()
        _table(out, one)
        if one.others and not top:
            tables.line(out, f"the dearest {LINES:,} of {one.others + LINES:,} lines; --json gives them all", "dim")
    for name in names:
        at, label = made[0].by.index(name), dimension(name)
        named = [line for line in made[0].lines if not line.other]
        if label.startswith(LABEL) and named and all(line.key[at] is None for line in named):
            tables.line(out, f"no call has a label named {tables.safe(label.removeprefix(LABEL))}", "yellow")


def _customers(
    common: Common, names: Sequence[str], grain: str | None, top: int | None, loaded: bool, key: str | None, close: str | None,
    closed: bool, skip_damaged: bool,
) -> None:  # fmt: skip
    """What goes by customer and by month. Usage errors for what does not go together."""
    from . import cli_full

    if loaded + bool(close) + closed != 1 or grain or (names and names != ["tenant"]) or (key and closed):
        raise click.UsageError("write --by tenant --full [--key cost|calls|tokens], --close MONTH or --closed, each by itself")
    folder = common.existing()
    if close:
        if common.since or common.until or common.where or top:
            raise click.UsageError(f"--close {close} closes the whole month; leave --since, --until, --where and --top out")
        cli_full.close(common, folder, close, key)
        return
    period, where = common.period(), filters(common.where)
    with Reader(folder, skip_damaged=skip_damaged) as reader:
        if closed:
            cli_full.listed(common, reader)
        else:
            cli_full.report(common, reader, where, period, key, top, scope(period, common.where))


def scope(period: periods.Period, where: Sequence[tuple[str, str]]) -> str:
    """What a statement is about, as a line below its total."""
    since = periods.shown(period.since) if period.since is not None else "the beginning"
    until = periods.shown(period.until) if period.until is not None else "now"
    only = "".join(f" · {tables.safe(name)}={tables.safe(value) or tables.UNATTRIBUTED}" for name, value in where)
    return f"{since} to {until} (UTC){only}"


def amount(total: Sum) -> str:
    """Dollars, and beside them what is not certain: `$12.30 + 3 unpriced calls, of it $0.40 estimated (2 calls)`."""
    told = tables.money(total.cost)
    if total.unpriced:
        told += f" + {_many(total.unpriced, 'unpriced call')}"
    if total.estimated:
        told += f", of it {tables.money(total.estimated_cost)} estimated ({_many(total.estimated, 'call')})"
    return told


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _table(out: Console, one: Statement) -> None:
    compared = one.before is not None
    unsure = bool(one.total.unpriced)
    columns = [tables.Column(tables.safe(name.removeprefix(LABEL))) for name in one.by]
    columns += [tables.number("cost"), tables.number("share")]
    columns += [tables.number("before"), tables.number("change")] if compared else []
    columns += [tables.number("calls"), *([] if compared else [tables.number("tries")]), tables.number("tokens")]
    columns += [tables.number("unpriced")] if unsure else []

    def figures(now: Sum, before: Sum | None) -> list[str]:
        was = before or Sum()
        return [
            tables.money(now.cost),
            tables.share(now.cost, one.total.cost),
            *([tables.money(was.cost), tables.change(now.cost, was.cost)] if compared else []),
            tables.count(now.calls),
            *([] if compared else [tables.count(now.tries)]),
            tables.brief(now.tokens),
            *([tables.count(now.unpriced) if now.unpriced else ""] if unsure else []),
        ]

    rows = [[*_names(line, one.by), *figures(line.now, line.before)] for line in one.lines]
    last = [tables.TOTAL, *[""] * (len(one.by) - 1), *figures(one.total, one.before)]
    out.print(tables.table(columns, rows, total=last))


def driver_table(out: Console, said: drivers.Answer) -> None:
    """The lines that do not overlap, everything else last, as a table that adds up."""
    compared = said.before is not None
    columns = [tables.Column("what"), tables.number("cost"), tables.number("share")]
    columns += [tables.number("before"), tables.number("change")] if compared else []
    columns += [tables.number("calls"), tables.number("tokens")]

    def figures(now: Sum, before: Sum | None) -> list[str]:
        was = [tables.money(before.cost), tables.change(now.cost, before.cost)] if before is not None else []
        share = tables.share(now.cost, said.total.cost)
        return [tables.money(now.cost), share, *was, tables.count(now.calls), tables.brief(now.tokens)]

    rows = [[_told(row), *figures(row.now, row.before)] for row in said.rows]
    out.print(tables.table(columns, rows, total=[tables.TOTAL, *figures(said.total, said.before)]))


def _told(row: drivers.Row) -> str:
    aside = ", ".join(f"{tables.safe(told)} {tables.money(cost)}" for told, cost in row.parts)
    return tables.safe(row.told) + (f"\nof it {aside}" if aside else "")


def _names(line: Line, by: Sequence[str]) -> list[str]:
    if line.other:
        return [tables.OTHER, *[""] * (len(by) - 1)]
    shown: list[str] = []
    for name, value in zip(by, line.key, strict=True):
        if value is None and name == "cause":
            shown.append("first tries")
        else:
            shown.append(tables.label(value))
    return shown


def record(found: Spent, period: periods.Period) -> dict[str, Any]:
    """The answer for programs. Rows carry one field per dimension; the overview's carry `by` and `value`, since each of its parts adds
    up by itself."""
    made, said, skipped, origin = found
    overview = said is not None
    rows: list[dict[str, Any]] = []
    for one in made:
        for line in one.lines:
            named = {"by": one.by[0], "value": line.key[0]} if overview else dict(zip(one.by, line.key, strict=True))
            rows.append({**named, "other": line.other, "share": tables.fraction(line.now.cost, one.total.cost), **_figures(line.now)})
            if line.before is not None:
                rows[-1]["before"] = _figures(line.before)
    before = made[0].before
    return dict(
        rows=rows,
        total=_figures(made[0].total),
        before=None if before is None or period.before is None else {
            **_figures(before), "since": periods.iso(period.before[0]), "until": periods.iso(period.before[1]),
        },
        **({} if said is None else {"drivers": [driver_record(row, said.total) for row in said.rows]}),
        by=[list(one.by) for one in made] if overview else list(made[0].by),
        since=None if period.since is None else periods.iso(period.since),
        until=None if period.until is None else periods.iso(period.until),
        currency="USD",
        imported=[{**part._asdict(), "cost": plain(part.cost)} for part in origin],
        skipped_segments=list(skipped),
    )  # fmt: skip


def _figures(of: Sum) -> dict[str, Any]:
    return {**of._asdict(), "cost": plain(of.cost), "estimated_cost": plain(of.estimated_cost)}


def driver_record(row: drivers.Row, total: Sum) -> dict[str, Any]:
    """A driver for programs: `where` are the `--where` conditions that select its rows."""
    made = {"told": row.told, "by": row.name or None, "value": row.value or None, "where": list(row.where), **_figures(row.now)}
    made["share"] = tables.fraction(row.now.cost, total.cost)
    if row.before is not None:
        made["before"] = _figures(row.before)
    if row.parts:
        made["parts"] = [{"told": told, "cost": plain(cost)} for told, cost in row.parts]
    return made
