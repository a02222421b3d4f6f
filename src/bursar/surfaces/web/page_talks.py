"""Conversations: their distribution, what a turn costs, the tail that costs most; and one conversation try by try."""

from __future__ import annotations

from itertools import pairwise

from ...stores.query import Filter, Query
from ...stores.reader import Reader
from .. import conversations, periods, tables
from . import blocks, plots
from .asks import Ask, link
from .blocks import Block, Card, Cards, Cell, Column, Mark, Note, Page, Plot, Table, Tile, Tiles
from .plots import HEIGHT, WIDTH
from .shelf import Shelf, dollars

TOP = 20
TURNS_SHOWN = 60
STEPS_SHOWN = 400
THREADED = Filter("conversation", ("",), True)
SPLIT = ("New this turn", "History sent again", "Tool results", "System prompt and schemas", "Written")
# Upper bounds of what conversations cost, in pico-dollars.
CLASSES = (10**10, 10**11, 10**12, 10**13, 10**14)


def page(question: Ask, reader: Reader, shelf: Shelf) -> Page:
    policy, _ = shelf.policy()
    span = periods.Period(question.period.since, question.period.until)
    found = conversations.overview(reader, question.filters, span, top=TOP, resolved=policy.spend.resolved)
    if found is None:
        return Page(
            "conversations",
            "Conversations",
            [
                Note(
                    "empty",
                    "No conversation in this period",
                    [
                        "A conversation is one that a label names, or that the gateway recognises by its messages. "
                        "Choose a longer period, or take a filter away."
                    ],
                )
            ],
        )
    worst = found.tails[0]
    figures = Tiles(
        "figures",
        (
            Tile(
                "conversations", "Conversations", tables.count(found.conversations), found.conversations, "", f"{found.calls:,} calls"
            ),
            Tile(
                "cost",
                "They cost",
                tables.money(found.cost),
                blocks.plain(found.cost),
                question.rows(THREADED),
                f"{tables.money(found.outside)} more in no conversation" if found.outside else "all calls are in one",
            ),
            Tile(
                "turns",
                "Turns",
                tables.count(found.turns.p95),
                list(found.turns),
                "",
                f"95% have no more; half {found.turns.p50}, the most {found.turns.max}",
            ),
            Tile(
                "tokens",
                "Tokens each",
                tables.brief(found.tokens.p95),
                list(found.tokens),
                "",
                f"95% have no more; half {tables.brief(found.tokens.p50)}, the most {tables.brief(found.tokens.max)}",
            ),
            Tile(
                "each",
                "Cost each",
                tables.money(found.per_cost.p95),
                [blocks.plain(one) for one in found.per_cost],
                "",
                f"95% have no more; half {tables.money(found.per_cost.p50)}, the most {tables.money(found.per_cost.max)}",
            ),
            Tile(
                "tail",
                f"The dearest {worst.per_cent}%",
                tables.share(worst.cost, found.cost),
                tables.fraction(worst.cost, found.cost),
                "",
                f"{worst.conversations} conversations, {tables.money(worst.cost)}",
                "bad" if worst.cost * 5 > found.cost else "",
            ),
        ),
    )
    made: list[Block] = [figures, _curve(question, reader, found), _spread(reader, found), _dearest(question, found)]
    if found.outcomes:
        made.insert(3, _outcomes(found))
    lead = (
        f"Half of {found.conversations:,} conversations cost at most {tables.money(found.per_cost.p50)}; "
        f"the dearest {worst.per_cent}% cost {tables.money(worst.cost)}, {tables.share(worst.cost, found.cost)} of all."
    )
    if found.knee is not None and found.knee > 1:
        lead += f" From turn {found.knee} on a turn costs noticeably more."
    return Page("conversations", "Conversations", made, lead, main="dearest")


def _curve(question: Ask, reader: Reader, found: conversations.Overview) -> Plot:
    turns = found.curve[:TURNS_SHOWN]
    each = [tuple(part // turn.reached for part in (turn.new, turn.history, turn.tools, turn.system, turn.output)) for turn in turns]
    top, steps = plots.scale(max((sum(max(0, p) for p in parts) for parts in each), default=0))
    place = WIDTH / len(turns)
    marks: list[Mark] = []
    rows: list[list[Cell]] = []
    for n, (turn, parts) in enumerate(zip(turns, each)):
        href = _turn(question, reader, turn)
        y = HEIGHT
        for colour, pico in enumerate(parts):
            if pico > 0:
                height = HEIGHT * pico / top
                y -= height
                tip = (
                    f"Turn {turn.turn}, {SPLIT[colour].lower()}: {tables.money(pico, 4)} "
                    f"of {tables.money(sum(parts), 4)} in the mean; "
                    f"{turn.reached:,} conversations got there, which cost {tables.money(turn.cost)}"
                )
                marks.append(Mark(n * place + 0.1 * place, y, place * 0.8, height, colour, tip, href))
        rows.append(
            [
                Cell(str(turn.turn), turn.turn),
                blocks.count(turn.reached),
                blocks.count(turn.calls),
                blocks.money(turn.cost, href),
                blocks.money(turn.cost // turn.reached, "", 4),
                *[blocks.money(pico, "", 4) for pico in parts],
            ]
        )
    heads = (
        Column("Turn", "turn"),
        Column("Got there", "reached", True),
        Column("Calls", "calls", True),
        Column("Cost of all", "cost", True),
        Column("Mean", "mean", True),
        *[Column(name, name, True) for name in SPLIT],
    )
    legend = [(name, n, "") for n, name in enumerate(SPLIT)]
    table = Table("curve", "What a turn costs", heads, rows, folded=True)
    return Plot(
        "curve",
        "What a turn costs, by its number (mean of those that got there)",
        marks,
        (),
        plots.axis(top, steps),
        plots.along([str(turn.turn) for turn in turns]),
        legend,
        table,
    )


def _turn(question: Ask, reader: Reader, turn: conversations.Curve) -> str:
    """The rows of a turn, where its number alone says which they are: rows that know no turn count as the first."""
    where = (THREADED, Filter("turn", (turn.turn,)))
    if turn.turn in (1, conversations.TURNS_MAX):
        (row,) = reader.query(Query(("cost",), (), (*question.filters, *where), question.period.since, question.period.until))
        if dollars(row["cost"]) != turn.cost:
            return ""
    return question.rows(*where)


def _spread(reader: Reader, found: conversations.Overview) -> Table:
    """Conversations by what they cost, from the table that the overview left in the reader."""
    bounds = [blocks.plain(bound) for bound in CLASSES]
    case = " ".join(f"WHEN cost < {bound} THEN {n}" for n, bound in enumerate(bounds))
    rows_ = reader.duck.execute(
        f"SELECT CASE {case} ELSE {len(bounds)} END AS class, count(*), sum(cost) FROM talks GROUP BY 1 ORDER BY 1"
    ).fetchall()
    names = [
        f"under {tables.money(CLASSES[0])}",
        *[f"{tables.money(a)} to {tables.money(b)}" for a, b in pairwise(CLASSES)],
        f"{tables.money(CLASSES[-1])} and more",
    ]
    most = max((number for _, number, _ in rows_), default=0)
    dear = max((dollars(cost) for _, _, cost in rows_), default=0)
    rows = [
        [
            Cell(names[n], names[n]),
            blocks.count(number, bar=blocks.ratio(number, most)),
            blocks.share(number, found.conversations),
            blocks.money(dollars(cost), bar=blocks.ratio(dollars(cost), dear)),
            blocks.share(dollars(cost), found.cost),
        ]
        for n, number, cost in rows_
    ]
    heads = (
        Column("A conversation that cost", "class"),
        Column("Conversations", "conversations", True),
        Column("of all", "share", True),
        Column("Together", "cost", True),
        Column("of all", "cost_share", True),
    )
    total = [Cell("Total", None), blocks.count(found.conversations), blocks.share(1, 1), blocks.money(found.cost), blocks.share(1, 1)]
    return Table("spread", "How they are distributed", heads, rows, total)


def _outcomes(found: conversations.Overview) -> Table:
    rows = [
        [
            blocks.label(one.name, nobody="(nobody said)"),
            blocks.count(one.conversations),
            blocks.money(one.cost),
            blocks.money(one.cost // one.conversations if one.conversations else None),
            Cell("yes" if one.resolved else "no", one.resolved),
        ]
        for one in found.outcomes
    ]
    heads = (
        Column("Outcome", "outcome"),
        Column("Conversations", "conversations", True),
        Column("Cost", "cost", True),
        Column("Mean", "mean", True),
        Column("Resolved", "resolved"),
    )
    note = f"A resolved conversation costs {tables.money(found.per_resolved)}." if found.per_resolved is not None else ""
    return Table("outcomes", "How they ended", heads, rows, note=note)


def _dearest(question: Ask, found: conversations.Overview) -> Table:
    most = max((one.cost for one in found.dearest), default=0)
    zone = [("zone", question.word("zone"))] if question.word("zone") else []
    rows: list[list[Cell]] = []
    for one in found.dearest:
        who = Filter("conversation", (one.conversation,))
        rows.append(
            [
                Cell(one.conversation, one.conversation, link("conversation", [("id", one.conversation), *zone])),
                blocks.label(one.feature),
                blocks.label(one.tenant),
                blocks.count(one.turns),
                blocks.count(one.calls),
                Cell(tables.brief(one.tokens), one.tokens),
                Cell(question.shown(one.first_us), periods.iso(one.first_us), tone="nowrap"),
                blocks.money(one.cost, question.rows(who), bar=blocks.ratio(one.cost, most)),
            ]
        )
    heads = (
        Column("Conversation", "conversation"),
        Column("Feature", "feature"),
        Column("Tenant", "tenant"),
        Column("Turns", "turns", True),
        Column("Calls", "calls", True),
        Column("Tokens", "tokens", True),
        Column(f"Began ({question.zone})", "first"),
        Column("Cost", "cost", True),
    )
    return Table("dearest", "The dearest", heads, rows)


# -- one conversation ------------------------------------------------------------------------------------------------------


def one(question: Ask, reader: Reader, shelf: Shelf) -> Page | None:
    """The conversation with that id; None when there is none, or not all of it is for this viewer."""
    id = question.word("id")
    if question.bound and not conversations.whole(reader, id, question.bound):
        return None
    found = conversations.timeline(reader, id)
    if found is None:
        return None
    again = sum(step.history for step in found.steps)
    first, last = found.steps[0].ts_us, found.steps[-1].ts_us
    who = [one for one in (found.feature, found.flow, found.tenant) if one]
    everything = link("calls", [("conversation", id), ("since", "all")])
    figures = Tiles(
        "figures",
        (
            Tile(
                "cost",
                "Cost",
                tables.money(found.cost, 4),
                blocks.plain(found.cost),
                everything,
                " · ".join(who) or "nobody said for whom",
            ),
            Tile("turns", "Turns", tables.count(found.turns), found.turns, "", f"{found.calls:,} calls, {len(found.steps):,} tries"),
            Tile(
                "again",
                "History sent again",
                tables.money(again, 4),
                blocks.plain(again),
                link("calls", [("conversation", id), ("since", "all"), ("of", "cost_history")]),
                f"{tables.share(again, found.cost)} of it" if found.cost > 0 else "",
            ),
            Tile("tokens", "Tokens", tables.brief(found.tokens), found.tokens, "", "read and written"),
            Tile(
                "when",
                "Lasted",
                _length(last - first),
                (last - first) // 1_000_000,
                "",
                f"from {question.shown(first)} ({question.zone})",
            ),
        ),
    )
    made: list[Block] = [figures, _course(found), _steps(question, found)]
    if found.incidents:
        cards = [
            Card(one.code, [one.reason], "", "warn", question.shown(one.ts_us), raw={"ts": periods.iso(one.ts_us)})
            for one in found.incidents
        ]
        made.insert(1, Cards("incidents", "Where a guard acted", cards))
    lead = f"{found.calls:,} calls in {found.turns:,} turn{'s' if found.turns > 1 else ''} came to {tables.money(found.cost, 4)}"
    lead += f", {tables.share(again, found.cost)} of it for history sent again." if found.cost > 0 else "."
    if found.outcome:
        lead += f" It ended {found.outcome}."
    return Page(
        "conversation", f"Conversation {id}", made, lead, timed=False, main="steps", raw={"conversation": id, "outcome": found.outcome}
    )


def _length(us: int) -> str:
    seconds = us // 1_000_000
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return (
        f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} days"
    )


def _course(found: conversations.Timeline) -> Plot:
    steps = found.steps[:STEPS_SHOWN]
    parts = [(max(0, s.new), max(0, s.history), max(0, s.tools), max(0, s.system), max(0, s.output)) for s in steps]
    top, marks_up = plots.scale(max((sum(p) for p in parts), default=0))
    place = WIDTH / len(steps)
    marks: list[Mark] = []
    total = max(1, found.cost)
    points: list[str] = []
    for n, (step, split) in enumerate(zip(steps, parts)):
        y = HEIGHT
        for colour, pico in enumerate(split):
            if pico > 0:
                height = HEIGHT * pico / top
                y -= height
                told = f" ({step.told})" if step.told else ""
                tip = (
                    f"Try {n + 1}, turn {step.turn or 1}{told}: {SPLIT[colour].lower()} {tables.money(pico, 4)} "
                    f"of {tables.money(step.cost or 0, 4)}; so far {tables.money(step.so_far, 4)}"
                )
                marks.append(Mark(n * place + 0.08 * place, y, place * 0.84, height, colour, tip, _step(step)))
        points.append(f"{n * place + place / 2:.1f},{HEIGHT - HEIGHT * max(0, step.so_far) / total:.1f}")
    legend = [*[(name, n, "") for n, name in enumerate(SPLIT)], (f"so far, up to {tables.money(found.cost)}", 10, "")]
    heads = (Column("Try", "n"), *[Column(name, name, True) for name in SPLIT], Column("So far", "so_far", True))
    rows = [
        [Cell(str(n + 1), n + 1), *[blocks.money(p, "", 4) for p in split], blocks.money(step.so_far, "", 4)]
        for n, (step, split) in enumerate(zip(steps, parts))
    ]
    table = Table("course", "Its course", heads, rows, folded=True)
    return Plot(
        "course",
        "What each try cost, and the sum so far",
        marks,
        ((" ".join(points), 10),),
        plots.axis(top, marks_up),
        plots.along([str(n + 1) for n in range(len(steps))]),
        legend,
        table,
    )


def _step(step: conversations.Step) -> str:
    return link("calls", [("call", step.call), ("try", str(step.try_no)), ("since", "all")])


def _steps(question: Ask, found: conversations.Timeline) -> Table:
    rows: list[list[Cell]] = []
    for step in found.steps[:STEPS_SHOWN]:
        failed = step.status in ("error", "refused", "unknown")
        what = step.told or ("the person's turn" if not step.depth else f"tool result {step.depth}")
        rows.append(
            [
                Cell(question.shown(step.ts_us, seconds=True), periods.iso(step.ts_us), tone="nowrap"),
                blocks.count(step.turn),
                Cell(what, what, note=", ".join(step.called)),
                Cell(step.model, step.model, tone="wide"),
                Cell(step.error or step.status, step.status, tone="bad" if failed else "dim"),
                Cell(tables.brief(step.read), step.read),
                Cell(tables.brief(step.written), step.written),
                blocks.money(step.history, "", 4),
                blocks.money(step.cost, _step(step), 4),
                blocks.money(step.so_far, "", 4),
            ]
        )
    heads = (
        Column(f"Time ({question.zone})", "ts"),
        Column("Turn", "turn", True),
        Column("What it was", "told"),
        Column("Model", "model"),
        Column("Ended", "status"),
        Column("Read", "read", True),
        Column("Written", "written", True),
        Column("Sent again", "cost_history", True),
        Column("Cost", "cost", True),
        Column("So far", "so_far", True),
    )
    note = (
        f"The first {STEPS_SHOWN} of {len(found.steps):,}; all of them are rows of the conversation."
        if len(found.steps) > STEPS_SHOWN
        else ""
    )
    return Table("steps", "Try by try", heads, rows, note=note)
