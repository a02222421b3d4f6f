"""`bursar conversations` and `bursar conversation ID`: how conversations are distributed, what a turn costs, and one call by call."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from ..domain.money import PICO, plain, usd
from ..stores.reader import Reader
from . import cli_full, periods, tables
from . import conversations as talk
from .cli_common import Common, common, filters
from .cli_spend import scope

TURNS = 12  # lines of the curve for people; later turns are one line
LINES = 60  # of a conversation for people: half of them from either end


@click.command()
@click.option("--top", type=click.IntRange(0, 10_000), default=5, show_default=True, help="the dearest N, one line each")
@click.option("--human-cost", metavar="DOLLARS", help="what a person costs who does one instead (default: the policy's)")
@click.option("--resolved", metavar="VALUE", multiple=True, help="of the label `outcome`: what counts as resolved; repeat for more")
@click.option("--skip-damaged", is_flag=True, help="read on without segments that are missing or damaged, and name them")
@common("as_json", "ledger", "since", "until", "where")
def conversations(common: Common, top: int, human_cost: str | None, resolved: tuple[str, ...], skip_damaged: bool) -> None:
    """How long conversations are and what they cost: the middle, the long tail, each turn, and with a label `outcome` what a
    resolved one costs."""
    period, where, said = common.period(), filters(common.where), cli_full.policy()
    try:
        person = usd(human_cost or said.human_cost) if human_cost or said.human_cost else None
    except ValueError as bad:
        raise click.UsageError(f"--human-cost: {bad}") from None
    with Reader(common.existing(), skip_damaged=skip_damaged) as reader:
        found = talk.overview(reader, where, period, top=top, human_cost=person, resolved=resolved or tuple(said.resolved))
        skipped = list(reader.skipped)
    if common.json:
        tables.document(**document(found, period, skipped))
        return
    out = tables.console()
    for name in skipped:
        tables.line(out, f"without segment {name}, which is missing or damaged", "bold red")
    if found is None:
        tables.line(out, "No call is part of a conversation" + (" there." if common.where or period.since or period.until else "."))
        tables.line(out, scope(period, common.where), "dim")
        return
    _print(out, found, scope(period, common.where))


def _print(out: Console, found: talk.Overview, where: str) -> None:
    money = tables.money
    tables.line(out, f"{found.conversations:,} conversations, {money(found.cost)}, {found.calls:,} calls", "bold")
    tables.line(out, where, "dim")
    if found.outside_calls:
        tables.line(out, f"outside of conversations: {money(found.outside)}, {found.outside_calls:,} calls", "dim")
    out.print()
    spreads = [
        ("turns of people", found.turns, tables.count), ("calls", found.per_calls, tables.count),
        ("tool calls in a row", found.depth, tables.count), ("tokens", found.tokens, tables.brief), ("cost", found.per_cost, money),
    ]  # fmt: skip
    rows = [[name, *[shown(value) for value in spread]] for name, spread, shown in spreads]
    out.print(tables.table([tables.Column("of a conversation"), *map(tables.number, ("half up to", "95% up to", "most"))], rows))
    out.print()
    rows = [
        [f"the dearest {tail.per_cent}%", f"{tail.conversations:,}", money(tail.cost), tables.share(tail.cost, found.cost)]
        for tail in found.tails
    ]
    out.print(tables.table([tables.Column("the long tail"), *map(tables.number, ("conversations", "cost", "share"))], rows))
    if len(found.curve) > 1:
        tables.line(out, "\nThe mean turn by its number: its cost, the first turn's of the same")
        tables.line(out, "conversations, what share went for what, and what all turns so far cost.")
        out.print()
        out.print(_curve(found.curve))
        tables.line(out, _knee(found), "dim" if found.knee is None else "yellow")
    if found.outcomes:
        out.print()
        _outcomes(out, found)
    if found.dearest:
        out.print()
        rows = [
            [
                tables.safe(one.conversation),
                tables.label(one.tenant),
                str(one.turns),
                f"{one.calls:,}",
                tables.brief(one.tokens),
                money(one.cost),
            ]
            for one in found.dearest
        ]
        names = map(tables.number, ("turns", "calls", "tokens", "cost"))
        out.print(tables.table([tables.Column("the dearest"), tables.Column("tenant"), *names], rows))
        tables.line(out, f"one of them call by call: bursar conversation {tables.safe(found.dearest[0].conversation)}", "dim")


def _curve(curve: Sequence[talk.Curve]) -> Any:
    """What the average turn costs by its number, and what that is spent on."""

    def cells(name: str, some: Sequence[talk.Curve]) -> list[str]:
        reached, cost = sum(one.reached for one in some), sum(one.cost for one in some)
        again = sum(one.history + one.tools for one in some)
        new, system, output = (sum(getattr(one, part) for one in some) for part in ("new", "system", "output"))
        return [
            name, f"{some[0].reached:,}", tables.money(cost // reached), tables.money(sum(one.first for one in some) // reached),
            *[tables.share(part, cost) for part in (new, system, output)],
            tables.share(again, cost), tables.money(some[0].so_far // some[0].reached) if len(some) == 1 else "",
        ]  # fmt: skip

    rows = [cells(str(one.turn), [one]) for one in curve[:TURNS]]
    if len(curve) > TURNS:
        rows.append(cells(f"{curve[TURNS].turn}-{curve[-1].turn}", curve[TURNS:]))
    return tables.table(
        [tables.number(name) for name in ("turn", "reached", "cost", "first", "new", "system", "output", "again", "so far")],
        rows,
    )


def _knee(found: talk.Overview) -> str:
    if found.knee is None:
        return "No turn costs twice the first one of the same conversations: they do not grow dear."
    turn = next(one for one in found.curve if one.turn == found.knee)
    cost, first = tables.money(turn.cost // turn.reached), tables.money(turn.first // turn.reached)
    return f"From turn {turn.turn} on a turn costs twice the first one or more: {cost}, where those conversations began at {first}."


def _outcomes(out: Console, found: talk.Overview) -> None:
    rows = [
        [tables.label(one.name) if one.name else "(nobody said)", "yes" if one.resolved else "", f"{one.conversations:,}",
         tables.money(one.cost), tables.money(one.cost // one.conversations)]
        for one in found.outcomes
    ]  # fmt: skip
    names = map(tables.number, ("conversations", "cost", "each"))
    out.print(tables.table([tables.Column("outcome"), tables.Column("resolved"), *names], rows))
    if found.per_resolved is None:
        tables.line(out, "None counts as resolved: say which outcome does, --resolved VALUE", "yellow")
        return
    line = f"A resolved conversation costs {tables.money(found.per_resolved)}, the failed ones paid with it"
    if found.human_cost is not None:
        line += f"; a person costs {tables.money(found.human_cost)}"
    tables.line(out, line + ".", "bold")
    if found.not_worth is not None:
        text = f"From turn {found.not_worth} on, going on cost more than a person would have for those that were then resolved."
        tables.line(out, text, "yellow")
    elif found.human_cost is not None:
        tables.line(out, "Going on was worth it at every turn that ten conversations or more got to.", "dim")


def document(found: talk.Overview | None, period: periods.Period, skipped: Sequence[str]) -> dict[str, Any]:
    """The answer for programs."""
    about = {} if found is None else record(found)
    rows = [] if found is None else [talk_record(one) for one in found.dearest]
    return dict(rows=rows, **about, since=_iso(period.since), until=_iso(period.until), currency="USD", skipped_segments=list(skipped))


def record(found: talk.Overview) -> dict[str, Any]:
    """The overview for programs, without its rows."""

    def spread(of: talk.Spread, shown: Any = int) -> dict[str, Any]:
        return {name: shown(value) for name, value in of._asdict().items()}

    return {
        "conversations": found.conversations, "calls": found.calls, "cost": plain(found.cost),
        "outside": {"calls": found.outside_calls, "cost": plain(found.outside)},
        "turns": spread(found.turns), "tool_depth": spread(found.depth), "calls_each": spread(found.per_calls),
        "tokens": spread(found.tokens), "cost_each": spread(found.per_cost, plain),
        "tails": [
            {**tail._asdict(), "cost": plain(tail.cost), "share": tables.fraction(tail.cost, found.cost)} for tail in found.tails
        ],
        "curve": [
            {name: value if name in ("turn", "reached", "calls") else plain(value) for name, value in one._asdict().items()}
            for one in found.curve
        ],
        "knee": found.knee,
        "outcomes": [{**one._asdict(), "cost": plain(one.cost)} for one in found.outcomes],
        "cost_per_resolved": None if found.per_resolved is None else plain(found.per_resolved),
        "human_cost": None if found.human_cost is None else plain(found.human_cost),
        "not_worth_from_turn": found.not_worth,
    }  # fmt: skip


def talk_record(one: talk.Talk) -> dict[str, Any]:
    made = one._asdict()
    first, last = made.pop("first_us"), made.pop("last_us")
    return {**made, "cost": plain(one.cost), "first": periods.iso(first), "last": periods.iso(last)}


# -- one ---------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("id")
@click.option("--all", "everything", is_flag=True, help="every call by itself: else calls that are alike are one line")
@common("as_json", "ledger")
def conversation(common: Common, id: str, everything: bool) -> None:
    """One conversation call by call: why each was made, what it was spent on, and what all had cost by then. The beginning of an
    id is enough where it names one."""
    with Reader(common.existing()) as reader:
        names = talk.named(reader, id)
        found = talk.timeline(reader, names[0]) if len(names) == 1 else None
    if found is None:
        several = f"; its beginning fits {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}" if names else ""
        raise click.UsageError(f"no conversation {id!r}{several}; `bursar conversations` lists the dearest")
    if common.json:
        tables.document([step_record(step) for step in found.steps], **timeline_record(found), currency="USD")
        return
    out = tables.console()
    who = " · ".join(tables.safe(part) for part in (found.tenant, found.feature, found.flow) if part) or tables.UNATTRIBUTED
    counted = f"{_many(found.turns, 'turn')}, {_many(found.calls, 'call')}, {tables.brief(found.tokens)} tokens"
    tables.line(out, f"{tables.safe(found.conversation)}: {tables.money(found.cost)}, {counted}", "bold")
    first, last = found.steps[0].ts_us, found.steps[-1].ts_us
    ended = f" · {talk.OUTCOME}: {tables.safe(found.outcome)}" if found.outcome else ""
    tables.line(out, f"{who} · {periods.shown(first)} to {periods.shown(last)} (UTC){ended}", "dim")
    out.print()
    _steps(out, found, everything)
    for one in found.incidents:
        told = f"{periods.shown(one.ts_us)}  {tables.safe(one.code)}: {tables.safe(one.reason)}"
        for row in textwrap.wrap(told, out.width, subsequent_indent="  "):
            tables.line(out, row, "bold red")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


COLUMNS = (
    tables.Column("time\nturn", keep=True),
    tables.Column("calls and why"),
    tables.number("new"),
    tables.number("history"),
    tables.number("tools"),
    tables.number("system"),
    tables.number("output"),
    tables.number("cost\nso far"),
)
PARTS = ("new", "history", "tools", "system", "output")


def _steps(out: Console, found: talk.Timeline, everything: bool) -> None:
    """Calls in a row that are alike are one line, and the lines add up."""
    many = len({step.model for step in found.steps}) > 1
    runs: list[list[talk.Step]] = []
    for step in found.steps:
        if runs and not everything and _alike(runs[-1][-1], step):
            runs[-1].append(step)
        else:
            runs.append([step])
    half = LINES // 2
    if len(runs) > LINES and not everything:
        between = [step for run in runs[half:-half] for step in run]
        told = f"… {_many(len(between), 'call')}\n--all shows each"
        rows = [
            *[_cells(run, many) for run in runs[:half]],
            ["…", told, *_figures(between)],
            *[_cells(run, many) for run in runs[-half:]],
        ]
    else:
        rows = [_cells(run, many) for run in runs]
    if not many:
        tables.line(out, f"all by {tables.safe(found.steps[0].model)}", "dim")
    out.print(tables.table(COLUMNS, rows, total=[tables.TOTAL, "", *_figures(found.steps)[:-1], tables.money(found.cost)]))


def _alike(one: talk.Step, other: talk.Step) -> bool:
    return _kind(one) == _kind(other)


def _kind(step: talk.Step) -> tuple[object, ...]:
    return (step.turn, step.told, step.model, step.status, step.error, step.called, step.cost is None)


def _cells(run: Sequence[talk.Step], models: bool) -> list[str]:
    step = run[0]
    why = [step.told] if step.told else []
    if step.status not in ("ok", "correction"):
        why.append(step.error or step.status)
    if set(step.called) - set(step.failed):
        why.append("calls " + ", ".join(step.called))
    what = _many(len(run), "call") if step.kind != "correction" else "correction"
    if models:
        what += f", {tables.safe(step.model)}"
    moment = periods.shown(step.ts_us)
    return [
        f"{moment[11:] or '00:00'}\n{step.turn or '?'}",
        what + (f"\n{tables.safe('; '.join(why))}" if why else ""),
        *_figures(run),
    ]


def _figures(run: Sequence[talk.Step]) -> list[str]:
    parts = [_cents(sum(getattr(step, name) for step in run)) for name in PARTS]
    unpriced = all(step.cost is None for step in run)
    cost = "unpriced" if unpriced else tables.money(sum(step.cost or 0 for step in run))
    return [*parts, f"{cost}\n{tables.money(run[-1].so_far)}"]


def _cents(pico: int) -> str:
    """Dollars of a part; below a cent it is only said that there is some."""
    return "" if not pico else tables.money(pico) if abs(pico) >= PICO // 100 else "<$0.01"


def step_record(step: talk.Step) -> dict[str, Any]:
    """A call of a timeline for programs."""
    made = step._asdict()
    ts = made.pop("ts_us")
    for name in ("cost", "new", "history", "tools", "system", "output", "so_far"):
        made[name] = None if made[name] is None else plain(made[name])
    return {"ts": periods.iso(ts), **made}


def timeline_record(found: talk.Timeline) -> dict[str, Any]:
    """A timeline for programs, without its calls."""
    made = found._asdict()
    made.pop("steps")
    made["incidents"] = [{"ts": periods.iso(one.ts_us), "code": one.code, "reason": one.reason} for one in found.incidents]
    return {**made, "cost": plain(found.cost)}


def _iso(us: int | None) -> str | None:
    return None if us is None else periods.iso(us)
