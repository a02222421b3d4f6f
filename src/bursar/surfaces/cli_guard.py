"""`bursar guard`: budgets and how they stand, incidents, and what a person orders: stop, resume, raise, take, end."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..domain.money import plain
from ..rules.budget import BudgetRule, parse_limit, told
from ..stores import incidents
from ..stores.glance import Glance
from ..stores.incidents import Logged
from ..stores.reader import Reader
from ..stores.schema import Place
from ..stores.tail import Standing
from . import orders, settings, tables, wiring
from .cli_common import Common, common
from .handoff import quoted
from .periods import iso, shown
from .reached import reached

CONFIG = click.option("--config", type=click.Path(path_type=Path), help="the policy file (default: the one in force)")
FOR = click.option("--for", "span", metavar="2h", help="only so long: 30m, 2h, 7d")
REASON = click.option("--reason", default="", metavar="TEXT", help="is shown with the order and the refusal")
MOST = 200


def _who() -> str:
    try:
        return os.environ.get("BURSAR_USER") or getpass.getuser()
    except (KeyError, OSError):
        return ""


def _until(span: str | None) -> int:
    try:
        return orders.until(span or "", wiring.now_us())
    except ValueError as bad:
        raise click.UsageError(f"--for: {bad}") from None


def _done(common: Common, act: Callable[[], orders.Done]) -> None:
    try:
        done = act()
    except ValueError as bad:
        raise click.UsageError(str(bad)) from None
    if common.json:
        tables.document([], done=done.text, orders=list(done.orders))
    else:
        click.echo(done.text)


@click.group(invoke_without_command=True)
@CONFIG
@common("as_json", "ledger")
@click.pass_context
def guard(context: click.Context, common: Common, config: Path | None) -> None:
    """Budgets with their standing, what is held, open incidents, and the orders in force.

    An agent is looping? `bursar guard stop CONVERSATION`, or `bursar guard stop --where feature=NAME`; and `resume` the same way."""
    context.obj = (common, config)
    if context.invoked_subcommand is not None:
        return
    policy, _ = settings.load(settings.find(config))
    glance = Glance(Place.at(common.existing()))
    now = wiring.now_us()
    standing = glance.ask(standings, [])
    raised = {o.budget: o.limit for o in glance.ask(lambda c: incidents.in_force(c, now), []) if o.kind == "raise"}
    in_force = glance.ask(lambda c: incidents.in_force(c, now), [])
    opened = glance.ask(lambda c: incidents.listed(c, states=("open", "taken"), most=MOST), [])
    glance.close()
    rules = wiring.budget_rules(policy)
    rows = budget_rows(rules, standing, raised, now)
    with Reader(common.existing()) as reader:
        day = reached(reader, rules, now)
    if common.json:
        found = [{**one._asdict(), "cost": plain(one.cost)} for one in day]
        tables.document(rows, last_day=found, incidents=[incident_record(i) for i in opened], orders=[ordered(o) for o in in_force])
        return
    out = tables.console()
    if not rows:
        tables.line(out, "No budgets, and nothing stops a conversation: see [[budget]] and [guard] in the policy, or `bursar audit`.")
    else:
        cells = [[r["budget"], r["scope"], r["spent_shown"], r["limit_shown"], r["share"] or "", r["held_shown"]] for r in rows[:40]]
        columns = [tables.Column("budget"), tables.Column("of"), *map(tables.number, ("spent", "limit", "share", "held"))]
        out.print(tables.table(columns, cells))
        if len(rows) > 40:
            tables.line(out, f"{len(rows) - 40} more standings: --json", "dim")
    if day:
        tables.line(out, "\nReached in the last day", "bold")
        cells = [[o.budget, f"{o.tries:,}", tables.money(o.cost), f"{o.scopes:,}" if o.tries else "none"] for o in day[:40]]
        out.print(tables.table([tables.Column("budget"), *map(tables.number, ("tries", "cost", "of so many"))], cells))
    if in_force:
        tables.line(out, "\nOrders in force", "bold")
        for o in in_force:
            what = f"{o.budget} to {o.limit}" if o.kind == "raise" else orders.said(o.match)
            told_by = (f" by {o.by}" if o.by else "") + (f", until {shown(o.until)}" if o.until else "")
            tables.line(out, f"  {o.kind} {what} · {shown(o.at)}{told_by}{': ' + o.reason if o.reason else ''}")
    more = ": bursar guard incidents" if opened else ""
    tables.line(out, f"\n{len(opened)} open incident{'' if len(opened) == 1 else 's'}{more}")


def standings(connection: Any) -> list[Standing]:
    rows = connection.execute(
        """SELECT counter, budget, unit, spent, held, resets FROM counters WHERE unit <> 'wind_down'
           ORDER BY held + spent DESC LIMIT ?""", (10_000,)
    )  # fmt: skip
    return [Standing(*row) for row in rows]


def budget_rows(found: list[BudgetRule], standing: list[Standing], raised: dict[str, str], now: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rule in found:
        limit = parse_limit(raised[rule.name]).amount if rule.name in raised else rule.limit.amount
        mine = [s for s in standing if s.budget == rule.name and (s.resets_us <= 0 or s.resets_us > now)]
        for s in mine or [Standing("", rule.name, rule.limit.unit, 0, 0, 0)]:
            scope = s.counter.partition("|")[2].rpartition("@")[0].replace("|", " ")
            unit = rule.limit.unit
            rows.append({
                "budget": rule.name, "scope": scope or ("" if s.counter else "nothing yet"), "window": rule.window.text, "unit": unit,
                "hard": rule.hard, "spent": s.spent, "held": s.held, "limit": limit, "raised": rule.name in raised,
                "resets": iso(s.resets_us) if s.resets_us > 0 else None, "spent_shown": told(unit, s.spent),
                "held_shown": told(unit, s.held) if s.held else "", "limit_shown": told(unit, limit) + ("" if rule.hard else " soft"),
                "share": tables.share(s.spent + s.held, limit) if limit else None,
            })  # fmt: skip
    return sorted(rows, key=lambda r: -(r["spent"] + r["held"]) / r["limit"] if r["limit"] else 0)


@guard.command("incidents")
@click.argument("number", type=int, required=False)
@click.option("--state", type=click.Choice(["open", "taken", "resumed", "ended", "all"]), default="all")
@common("as_json", "ledger", "since", "where")
def listed(common: Common, number: int | None, state: str) -> None:
    """What guards did, newest first; with a NUMBER: all of one."""
    glance = Glance(Place.at(common.existing()))
    states = () if state == "all" else (state,)
    since = common.period().since if common.since else 0
    where = [*common.where, *([("n", str(number))] if number is not None else [])]
    found = glance.ask(lambda c: incidents.listed(c, since_us=since or 0, states=states, where=where, most=MOST), [])
    whole = number is None and not where and state == "all"
    before = glance.ask(lambda c: incidents.summed(c, since or 0), []) if whole else []
    chosen = [*((name, (value,), False) for name, value in where), *([("state", states, False)] if states else [])]
    all_ = glance.ask(lambda c: incidents.total(c, since_us=since or 0, where=chosen), incidents.Total(0, 0, 0, False))
    said = [] if number is None or not found else glance.ask(lambda c: incidents.said(c, found[0], wiring.now_us()), [])
    glance.close()
    if number is not None and not found:
        raise click.UsageError(f"there is no incident {number}; see bursar guard incidents")
    if common.json:
        rows = [{**incident_record(one), **({"messages": said} if said else {})} for one in found]
        tables.document(rows, summed=day_records(before))
        return
    out = tables.console()
    if number is not None:
        for name, value in incident_record(found[0]).items():
            if value not in ("", None, {}):
                tables.line(out, f"{name:13} {tables.safe(json.dumps(value) if isinstance(value, dict) else value)}")
        for line in quoted(said, len(said)):
            tables.line(out, f"{'said':13} {tables.safe(line)}")
        return
    if before:
        number_of, calls, kept = (sum(one[at] for one in before) for at in (4, 5, 6))
        text = f"older, summed by day: {number_of:,} incidents, {calls:,} calls, at most {tables.money(kept)} stopped"
        tables.line(out, f"{text} · --json has the days", "dim")
    if not found:
        tables.line(out, "No incidents.")
        return
    cells = [
        [str(i.n), shown(i.last_ts)[5:], i.act, WORDS.get(i.code, i.code), _where(i), f"{i.calls:,}", tables.money(i.kept), i.state]
        for i in found
    ]
    columns = [tables.number("n"), tables.Column("last", True, True), tables.Column("act"), tables.Column("why"), tables.Column("who"),
               tables.number("calls"), tables.number("stopped"), tables.Column("state")]  # fmt: skip
    out.print(tables.table(columns, cells))
    if all_.incidents > len(found):
        more = f"in all {all_.calls:,} calls, at most {tables.money(all_.kept)} stopped"
        tables.line(out, f"\nThe newest {len(found):,} of {all_.incidents:,}; {more}", "dim")
    tables.line(out, "\nAll of one: bursar guard incidents N · go on: bursar guard resume N · take it: bursar guard take N", "dim")


WORDS = {
    "budget_exceeded": "budget", "conversation_budget_exceeded": "limit", "tool_depth_exceeded": "tool calls", "runaway_loop": "loop",
    "stopped_by_order": "order",
}  # fmt: skip
ID_CHARS = 10  # of a conversation's id in a table; the whole of it is in `incidents N` and in --json


def _where(i: Logged) -> str:
    conversation = i.conversation if len(i.conversation) <= ID_CHARS + 2 else i.conversation[:ID_CHARS] + "…"
    return " ".join(part for part in (i.tenant, i.feature, conversation) if part)


def day_records(days: Sequence[incidents.Day]) -> list[dict[str, Any]]:
    """Sums of incidents that no longer stand one by one, for programs."""
    return [one._asdict() | {"day": shown(one.day * incidents.DAY_US)[:10], "kept": plain(one.kept)} for one in days]


def incident_record(i: Logged) -> dict[str, Any]:
    return {
        "n": i.n, "first": iso(i.ts), "last": iso(i.last_ts), "calls": i.calls, "act": i.act, "code": i.code, "reason": i.reason,
        "limit": i.budget, "spent": told(i.unit, i.spent) if i.unit else "", "of": told(i.unit, i.limit) if i.unit else "",
        "stopped": tables.money(i.kept), "tenant": i.tenant, "feature": i.feature, "flow": i.flow, "user": i.user,
        "conversation": i.conversation, "call": i.call, "model": i.model, "evidence": json.loads(i.evidence), "state": i.state,
        "by": i.by, "note": i.note,
    }  # fmt: skip


def ordered(o: Any) -> dict[str, Any]:
    return {"n": o.n, "at": iso(o.at), "by": o.by, "kind": o.kind, "match": dict(o.match), "budget": o.budget, "limit": o.limit,
            "reason": o.reason, "until": iso(o.until) if o.until else None}  # fmt: skip


def _match(common: Common, conversation: str | None) -> list[tuple[str, str]]:
    match = list(common.where)
    if conversation:
        match.append(("conversation", conversation))
    return match


def _by_number(place: Place, given: str | None) -> str | None:
    """The conversation of an incident, where its number was given."""
    if not given or not given.isdigit():
        return given
    glance = Glance(place)
    found = glance.ask(lambda c: incidents.listed(c, where=[("n", given)]), [])
    glance.close()
    return found[0].conversation or given if found else given


@guard.command("stop")
@click.argument("conversation", required=False)
@FOR
@REASON
@common("as_json", "ledger", "where")
def stop(common: Common, conversation: str | None, span: str | None, reason: str) -> None:
    """Stop a CONVERSATION (or an incident's, by its number), or all that --where fits: running streams end, new calls are refused.
    Sub-agents too."""
    place, until = Place.at(common.existing()), _until(span)
    conversation = _by_number(place, conversation)
    _done(common, lambda: orders.stop(place, _match(common, conversation), _who(), wiring.now_us(), reason=reason, until_us=until))


@guard.command("resume")
@click.argument("conversation", required=False)
@REASON
@common("as_json", "ledger", "where")
def resume(common: Common, conversation: str | None, reason: str) -> None:
    """Let a CONVERSATION (or an incident, by its number) go on with its limits once more; or take a `stop --where` back."""
    place = Place.at(common.existing())
    conversation = _by_number(place, conversation)
    _done(common, lambda: orders.resume(place, _match(common, conversation), _who(), wiring.now_us(), reason=reason))


@guard.command("raise")
@click.argument("budget")
@click.argument("amount", required=False, default="")
@FOR
@CONFIG
@common("as_json", "ledger")
def raise_(common: Common, budget: str, amount: str, span: str | None, config: Path | None) -> None:
    """Give a BUDGET another limit, such as $80 or "3M tokens"; without AMOUNT the policy's own again."""
    policy, _ = settings.load(settings.find(config))
    place, until = Place.at(common.existing()), _until(span)
    names = [rule.name for rule in wiring.budget_rules(policy)]
    _done(common, lambda: orders.raise_(place, names, budget, amount, _who(), wiring.now_us(), until))


@guard.command("take")
@click.argument("number", type=int)
@REASON
@common("as_json", "ledger")
def take(common: Common, number: int, reason: str) -> None:
    """Take a hand-off: others see that somebody is on it."""
    _moved(common, orders.move(Place.at(common.existing()), number, "taken", _who(), reason))


@guard.command("end")
@click.argument("number", type=int)
@REASON
@common("as_json", "ledger")
def end(common: Common, number: int, reason: str) -> None:
    """End a hand-off. The conversation stays stopped."""
    _moved(common, orders.move(Place.at(common.existing()), number, "ended", _who(), reason))


def _moved(common: Common, one: Logged) -> None:
    if common.json:
        tables.document([incident_record(one)])
    else:
        click.echo(f"Incident {one.n} ({one.code}, {_where(one)}) is {one.state} by {one.by}.")
