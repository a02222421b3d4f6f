"""Guards: budgets with their standing, holds in flight, hand-offs to take, what was stopped, what people ordered, the last drill."""

from __future__ import annotations

from typing import Any

from ...domain.incident import Order
from ...domain.money import show
from ...rules.budget import BudgetRule
from ...stores import drills, incidents
from ...stores.incidents import Logged
from ...stores.query import LABEL
from ...stores.reader import Reader
from .. import bounds, periods, tables, wiring
from ..handoff import quoted
from . import blocks
from .asks import Ask, link
from .blocks import Act, Block, Card, Cards, Cell, Column, Meter, Meters, Note, Page, Table, Tile, Tiles
from .shelf import Shelf

SHOWN = 12  # scopes of one budget
LISTED = 25
LOOKED_AT = 1_000  # incidents, the newest, for the table; what they come to is asked of all
ACTED = ("stopped", "refused")


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    policy, policy_hash = shelf.policy()
    rules = wiring.budget_rules(policy)
    orders = incidents.in_force(reader.sqlite, ask.now_us)
    raised = {o.budget: o.limit for o in orders if o.kind == "raise"}
    budgets = _budgets(ask, reader, rules, raised)
    held = [(hold, alive) for hold, alive in reader.holds() if bounds.mine(ask.filters, hold.entry)]
    since = ask.period.since or 0
    logged = [
        one
        for one in incidents.listed(reader.sqlite, since_us=since, most=LOOKED_AT)
        if bounds.mine(ask.filters, one) and one.ts < (ask.period.until or 2**62)
    ]
    until, where = ask.period.until or 2**62, bounds.columns(ask.filters)
    all_ = incidents.total(reader.sqlite, ACTED, since_us=since, until_us=until, where=where)
    seen = len(logged)
    if seen > LISTED:
        seen = incidents.total(reader.sqlite, since_us=since, until_us=until, where=where).incidents
    open_ = [one for one in incidents.listed(reader.sqlite, states=("open", "taken"), most=100) if bounds.mine(ask.filters, one)]
    stopped, kept = all_.calls, all_.kept
    saved = f"could have cost up to {tables.money(kept)}" if kept else "in this period"
    tight = [m for m in budgets.meters if m.share >= 0.8]
    figures = Tiles(
        "figures",
        (
            Tile(
                "budgets",
                "Near their limit",
                tables.count(len(tight)),
                len(tight),
                "",
                f"of {len(budgets.meters)} standings shown",
                "bad" if tight else "",
            ),
            Tile(
                "held",
                "Held at this moment",
                tables.money(sum(h.amount for h, _ in held)),
                blocks.plain(sum(h.amount for h, _ in held)),
                "",
                f"{len(held)} tries under way",
            ),
            Tile(
                "stopped",
                "Calls stopped",
                tables.count(stopped),
                stopped,
                "",
                f"{saved}; without older ones, which are sums by day" if all_.blind else saved,
            ),
            Tile("open", "Waiting for a person", tables.count(len(open_)), len(open_), "", "hand-offs", "bad" if open_ else ""),
        ),
    )
    made: list[Block] = [
        figures,
        _handoffs(ask, reader, open_),
        budgets,
        _holds(ask, held),
        _incidents(ask, logged, seen),
        _orders(ask, orders),
        _stop(),
        _drill(ask, reader, policy_hash),
    ]
    near = "1 budget is near its limit" if len(tight) == 1 else f"{len(tight)} budgets are near their limits"
    waiting = "1 conversation waits" if len(open_) == 1 else f"{len(open_)} conversations wait"
    lead = f"{stopped:,} call{' was' if stopped == 1 else 's were'} stopped; {near}; {waiting} for a person."
    return Page("guards", "Guards", made, lead, live=True, main="incidents")


def _amount(value: int, unit: str) -> str:
    return show(value * 1000, 2) if unit == "usd" else f"{tables.brief(value)} {unit.replace('_', ' ')}"


def _budgets(ask: Ask, reader: Reader, rules: list[BudgetRule], raised: dict[str, str]) -> Meters:
    from ...rules.budget import parse_limit

    found = reader.sqlite.execute("SELECT counter, budget, unit, spent, held, resets FROM counters").fetchall()
    by_budget: dict[str, list[tuple[str, int, int, int]]] = {}
    for counter, budget, _, spent, held, resets in found:
        by_budget.setdefault(budget, []).append((counter, spent, held, resets))
    made: list[Meter] = []
    for rule in rules:
        if not bounds.of_budget(rule, ask.bound):
            continue
        limit = rule.limit
        if rule.name in raised:
            limit = parse_limit(raised[rule.name])
        standing = [one for one in by_budget.get(rule.name, []) if bounds.of_standing(rule, one[0], ask.bound)]
        newest = max((_window(counter) for counter, *_ in standing), default=0)
        now = [one for one in standing if one[3] > ask.now_us or one[3] <= 0]
        over = not now and bool(standing)
        shown = sorted(now or [one for one in standing if _window(one[0]) == newest], key=lambda one: -(one[1] + one[2]))
        acts = (Act("Raise", "/act/raise", (("budget", rule.name),), (("limit", "new limit"), ("reason", "why"))),)
        for counter, spent, held, resets in shown[:SHOWN]:
            share = spent / limit.amount if limit.amount else 0.0
            part = (spent + held) / limit.amount if limit.amount else 0.0
            values = bounds.values(counter)
            name = f"{rule.name}: {', '.join(values)}" if values else rule.name
            left = "" if resets <= 0 else f"window ended {ask.shown(resets)}" if over else f"begins anew {ask.shown(resets)}"
            kind = "stops at its limit" if rule.hard else "only warns"
            told = f"{_amount(spent, limit.unit)} of {_amount(limit.amount, limit.unit)}"
            note = " · ".join(
                part_
                for part_ in (
                    kind,
                    left,
                    f"{_amount(held, limit.unit)} held" if held else "",
                    "raised by order" if rule.name in raised else "",
                )
                if part_
            )
            tone = "bad" if part >= 1 else "warn" if part >= 0.8 else ""
            made.append(
                Meter(
                    name,
                    told,
                    share,
                    note,
                    tone,
                    _rows(ask, rule, values, counter, resets),
                    max(0.0, min(1.0, part) - min(1.0, share)),
                    counter,
                    acts,
                )
            )
        if not shown:
            made.append(
                Meter(rule.name, f"0 of {_amount(limit.amount, limit.unit)}", 0.0, "nothing counted yet in this window", acts=acts)
            )
    made.sort(key=lambda m: -m.share)
    empty = "No budget: nothing limits what is spent. Four lines of the policy file make one: [[budget]] with scope, limit and window."
    return Meters("budgets", "Budgets", made, empty)


def _window(counter: str) -> int:
    text = counter.rpartition("@")[2]
    return int(text) if text.isdigit() else 0


def _rows(ask: Ask, rule: BudgetRule, values: list[str], counter: str, resets: int) -> str:
    """The rows that the counter counted, for budgets in dollars by labels that rows have as columns."""
    open_ = iter(values)
    pairs = [(name, value if value is not None else next(open_, "")) for name, value in rule.wants]
    if rule.limit.unit != "usd" or any(name in ("call", "model") for name, _ in pairs):
        return ""
    start = _window(counter)
    times = [("since", periods.iso(start * 1_000_000) if start else "all"), *([("until", periods.iso(resets))] if resets > 0 else [])]
    known = {"tenant", "feature", "flow", "user", "conversation", "operation", "key", "provider"}
    return link("calls", [*[(name if name in known else LABEL + name, value) for name, value in pairs], *times])


def _holds(ask: Ask, held: list[tuple[Any, bool]]) -> Table:
    rows = [
        [
            Cell(ask.shown(hold.ts, seconds=True), periods.iso(hold.ts)),
            blocks.label(hold.entry.feature),
            blocks.label(hold.entry.tenant),
            Cell(hold.entry.model_requested, hold.entry.model_requested),
            Cell(f"{max(0, ask.now_us - hold.ts) // 1_000_000:,} s", max(0, ask.now_us - hold.ts) // 1_000_000),
            Cell("yes" if alive else "no: it becomes a row at its hold", alive, tone="" if alive else "bad"),
            blocks.money(hold.amount, "", 4),
        ]
        for hold, alive in held[:LISTED]
    ]
    heads = (
        Column(f"Since ({ask.zone})", "ts"),
        Column("Feature", "feature"),
        Column("Tenant", "tenant"),
        Column("Model", "model"),
        Column("Age", "age_s", True),
        Column("Its process lives", "alive"),
        Column("Held", "held", True),
    )
    return Table("holds", "Holds in flight", heads, rows, empty="No try is under way at this moment.")


def _who(one: Logged) -> str:
    return " · ".join(part for part in (one.feature, one.tenant, one.conversation) if part) or tables.UNATTRIBUTED


def _incidents(ask: Ask, logged: list[Logged], seen: int) -> Table:
    rows = [
        [
            Cell(ask.shown(one.last_ts), periods.iso(one.last_ts), tone="nowrap"),
            Cell(one.act.replace("_", " "), one.act, tone="bad" if one.act in ACTED else "warn"),
            Cell(one.reason, one.reason, note=one.code, tone="wide"),
            Cell(_who(one), one.conversation, _talk(ask, one)),
            blocks.count(one.calls),
            blocks.money(one.kept) if one.kept else Cell("", "0"),
            Cell(one.state, one.state, note=one.by),
        ]
        for one in logged[:LISTED]
    ]
    heads = (
        Column(f"Last ({ask.zone})", "last_ts"),
        Column("What", "act"),
        Column("Why", "reason"),
        Column("Whose", "conversation"),
        Column("Calls", "calls", True),
        Column("Kept", "kept", True),
        Column("State", "state"),
    )
    note = f"the newest {len(rows)} of {seen:,}" if seen > len(rows) else ""
    return Table(
        "incidents",
        "Incidents",
        heads,
        rows,
        note=note,
        empty="No guard acted in this period. A drill (`bursar drill`) proves that they would.",
    )


def _talk(ask: Ask, one: Logged) -> str:
    return link("conversation", [("id", one.conversation)]) if one.conversation else ""


def _handoffs(ask: Ask, reader: Reader, open_: list[Logged]) -> Cards:
    cards = [
        Card(
            _who(one),
            [one.reason, *quoted(incidents.said(reader.sqlite, one, ask.now_us))],
            one.state,
            "warn" if one.state == "taken" else "bad",
            f"{one.calls:,} calls" if one.calls > 1 else "",
            [("stopped", ask.shown(one.ts)), ("limit", one.budget or one.code), *([("taken by", one.by)] if one.by else [])],
            href=_talk(ask, one),
            raw={"n": one.n, "conversation": one.conversation, "ts": periods.iso(one.ts)},
            acts=(
                *([Act("Take", "/act/take", (("n", str(one.n)),))] if one.state == "open" else []),
                Act("Let it go on", "/act/resume", (("n", str(one.n)), ("conversation", one.conversation))),
                Act("End it", "/act/end", (("n", str(one.n)),)),
            ),
        )
        for one in open_
    ]
    return Cards("handoffs", "Hand-offs to take", cards, "Nobody waits for a person.")


def _orders(ask: Ask, orders: list[Order]) -> Cards:
    cards: list[Card] = []
    for one in orders:
        if not bounds.within(dict(one.match), ask.bound):
            continue
        what = ", ".join(f"{name}={value}" for name, value in one.match) or one.budget
        until = ask.shown(one.until) if one.until else "withdrawn"
        cards.append(
            Card(
                f"{one.kind} {what}" + (f" to {one.limit}" if one.limit else ""),
                [one.reason] if one.reason else (),
                tone="warn",
                facts=[("by", one.by), ("given", ask.shown(one.at)), ("until", until)],
                acts=(Act("Withdraw", "/act/withdraw", (("n", str(one.n)),)),),
                raw={"n": one.n, "kind": one.kind, "match": dict(one.match), "budget": one.budget, "limit": one.limit, "by": one.by},
            )
        )
    return Cards("orders", "Orders in force", cards, "Nobody ordered a stop, a resumption or a raise that is still in force.")


def _stop() -> Note:
    told = "No call with this label and value goes out any more, and running streams end. It holds until it is withdrawn."
    act = Act("Stop", "/act/stop", (), (("name", "label"), ("value", "value"), ("reason", "why")))
    return Note(
        "stop", "Stop something", [told, "Log in as an operator to do it here, or: bursar guard stop --where tenant=acme"], acts=(act,)
    )


def _drill(ask: Ask, reader: Reader, policy_hash: str) -> Note:
    found = drills.newest(reader.sqlite)
    if not found:
        return Note("drill", "Last drill", ["None was ever held: nothing proves yet that the guards trip."], "bursar drill", "warn")
    (kept,) = found
    policy, passed = kept.policy, kept.passed
    told = [f"{'Passed' if passed else 'Failed'} on {ask.shown(kept.ts)}."]
    if not kept.good:
        told.append("Its record was changed since, or its secret is gone: it proves nothing.")
    if policy != policy_hash:
        told.append("The policy has changed since then; hold it again.")
    return Note("drill", "Last drill", told, "" if passed and policy == policy_hash else "bursar drill", "" if passed else "warn")
