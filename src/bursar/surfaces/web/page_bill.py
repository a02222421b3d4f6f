"""Bill: what is visible, what multiplies it and what control did, as one picture; over time, by any label, against the time before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...stores.query import LABEL, Filter, Query
from ...stores.reader import Reader
from .. import cli_spend, periods, tables
from ..statement import Sum
from . import blocks, plots
from .asks import Ask, cell_span, cells, dimension, grain_for
from .blocks import Block, Cell, Choice, Column, Lane, Mark, Page, Strip, Table, Tile, Tiles
from .shelf import Shelf, dollars

LABELS = ("feature", "tenant", "flow", "operation", "model", "cause", "user", "provider", "tier", "key")
TOP = 12
OVER_TIME_TOP = 7
UNSAID = "(unattributed)"
VISIBLE = "cost_visible"
NOT_LOOP = Filter("cause", ("loop",), True)
PRIMARY = Filter("operation", ("primary",))


class Part(NamedTuple):
    """A part of the bill: every dollar is in exactly one. `of` is the money column that adds up to it over the rows behind it."""

    id: str
    name: str
    layer: int
    where: tuple[Filter, ...]
    of: str
    told: str


PARTS = (
    Part("visible", "First tries, what is new", 1, (PRIMARY, NOT_LOOP), VISIBLE, "what people think they pay for"),
    Part("history", "Long context", 2, (PRIMARY, NOT_LOOP), "cost_history", "history sent again with every turn"),
    Part("retry", "Retries", 2, (Filter("operation", ("retry",)),), "", "asked again after a tool, a provider or an SDK failed"),
    Part("fallback", "Fallbacks", 2, (Filter("operation", ("fallback",)),), "", "another model, mostly a dearer one"),
    Part("loop", "Loops", 2, (PRIMARY, Filter("cause", ("loop",))), "", "agents going round in circles"),
    Part("eval", "Evals", 2, (Filter("operation", ("eval",)),), "", "test runs, nightly or per change"),
    Part("embedding", "Embeddings", 2, (Filter("operation", ("embedding",)),), "", "indexing and searching"),
    Part("background", "Background work", 2, (Filter("operation", ("background",)),), "", "digests, summaries, jobs"),
    Part("control", "Bursar's own calls", 3, (Filter("operation", ("control",)),), "", "routing and summarising"),
)
COLOURS = {part.id: n for n, part in enumerate(PARTS)}


class Layers(NamedTuple):
    """Pico-dollars of each part, and what stands beside them."""

    parts: dict[str, int]
    total: int
    calls: int
    saved: int
    refused: int
    unpriced: int
    estimated: int


def layers(reader: Reader, where: tuple[Filter, ...], since: int | None, until: int | None) -> Layers:
    measures = ("cost", "cost_history", "calls", "saved", "refused", "unpriced", "estimated")
    found = reader.query(Query(measures, ("operation", "cause"), where, since, until, keep=(("cause", ("loop",)),)))
    parts = dict.fromkeys((part.id for part in PARTS), 0)
    total = calls = saved = refused = unpriced = estimated = 0
    for row in found:
        cost, history = dollars(row["cost"]), dollars(row["cost_history"])
        total, calls, saved = total + cost, calls + row["calls"], saved + dollars(row["saved"])
        refused, unpriced, estimated = refused + row["refused"], unpriced + row["unpriced"], estimated + row["estimated"]
        if row["operation"] != "primary":
            name = row["operation"] if row["operation"] in parts else "visible"
            parts[name] += cost
        elif row["cause"] == "loop":
            parts["loop"] += cost
        else:
            parts["history"] += history
            parts["visible"] += cost - history
    return Layers(parts, total, calls, saved, refused, unpriced, estimated)


def page(ask: Ask, reader: Reader, _: Shelf) -> Page:
    by = ask.word("by", "feature")
    name = dimension(by)
    span = ask.period
    now = layers(reader, ask.filters, span.since, span.until)
    before = layers(reader, ask.filters, *span.before) if span.before else None
    if not now.calls and not now.total and not (before and before.total):
        return Page("bill", "Bill", [_nothing(ask)], choices=(_by(by),), live=True)
    unattributed = _unattributed(reader, ask)
    made: list[Block] = [
        _tiles(ask, now, before, unattributed),
        _strip(ask, now, before),
        _over_time(ask, reader, name),
        _lines(ask, reader, by, name),
    ]
    return Page("bill", "Bill", made, _lead(now, before), (_by(by),), live=True, main="by", raw={"by": by})


def _by(now: str) -> Choice:
    return Choice("by", "Split by", tuple((name, name) for name in LABELS), now, free=True)


def _nothing(ask: Ask) -> blocks.Note:
    if ask.where:
        return blocks.Note(
            "empty", "No call fits", ["No call in this period fits these filters. Take one away, or choose a longer period above."]
        )
    return blocks.Note(
        "empty",
        "No calls in this period",
        ["Choose a longer period above, or send the first call: point an SDK's base URL at the gateway."],
        "bursar serve\nexport OPENAI_BASE_URL=http://127.0.0.1:8787/v1\nexport ANTHROPIC_BASE_URL=http://127.0.0.1:8787",
    )


def _unattributed(reader: Reader, ask: Ask) -> tuple[int, int]:
    """Pico-dollars of rows without a feature, and without a tenant."""
    nobody = [Filter("feature", ("",)), Filter("tenant", ("",))]
    found = [reader.query(Query(("cost",), (), (*ask.filters, one), ask.period.since, ask.period.until)) for one in nobody]
    return dollars(found[0][0]["cost"]), dollars(found[1][0]["cost"])


def _lead(now: Layers, before: Layers | None) -> str:
    hidden = sum(now.parts[part.id] for part in PARTS if part.layer == 2)
    told = f"{tables.money(now.total)} spent"
    if before is not None and before.total > 0:
        told += f", {tables.change(now.total, before.total)} against {tables.money(before.total)} the period before"
    if now.total > 0 and hidden > 0:
        most = max((part for part in PARTS if part.layer == 2), key=lambda part: now.parts[part.id])
        told += (
            f". {tables.share(hidden, now.total)} of it is not what people think they pay for, most of all "
            f"{most.name.lower()}: {tables.money(now.parts[most.id])}"
        )
    return told + "."


def _tiles(ask: Ask, now: Layers, before: Layers | None, unattributed: tuple[int, int]) -> Tiles:
    hidden = sum(now.parts[part.id] for part in PARTS if part.layer == 2)
    nobody = unattributed[0]
    made = [
        Tile(
            "total",
            "Spent",
            tables.money(now.total),
            blocks.plain(now.total),
            ask.rows(),
            f"{tables.change(now.total, before.total)} against {tables.money(before.total)} before" if before else "",
            "bad" if before and now.total > before.total else "",
        ),
        Tile(
            "hidden",
            "Hidden multipliers",
            tables.money(hidden),
            blocks.plain(hidden),
            "",
            f"{tables.share(hidden, now.total)} of the bill" if now.total > 0 else "",
        ),
        Tile(
            "saved",
            "Saved by control",
            tables.money(now.saved),
            blocks.plain(now.saved),
            ask.again("savings"),
            f"{now.refused:,} calls refused" if now.refused else "nothing was refused",
        ),
        Tile(
            "calls",
            "Calls",
            tables.count(now.calls),
            now.calls,
            ask.rows(),
            f"{tables.money(now.total // now.calls, 4)} each" if now.calls and now.total > 0 else "",
        ),
        Tile(
            "unattributed",
            "Without a feature",
            tables.share(nobody, now.total) or "0.0%",
            tables.fraction(nobody, now.total),
            ask.rows(Filter("feature", ("",))) if nobody else "",
            tables.money(nobody) if nobody else "every dollar has a feature",
            "bad" if nobody * 20 > now.total > 0 else "",
        ),
    ]
    if now.unpriced or now.estimated:
        made.append(
            Tile(
                "unsure",
                "Not certain",
                f"{now.unpriced + now.estimated:,} tries",
                now.unpriced + now.estimated,
                ask.rows(Filter("price_status", ("unpriced", "estimated"))),
                f"{now.unpriced:,} without a price, {now.estimated:,} estimated",
                "warn",
            )
        )
    return Tiles("figures", made)


# -- the three layers ------------------------------------------------------------------------------------------------------


def _href(ask: Ask, part: Part) -> str:
    return ask.rows(*part.where, of=part.of)


def _strip(ask: Ask, now: Layers, before: Layers | None) -> Strip:
    visible, control = now.parts["visible"], now.parts["control"]
    hidden = [part for part in PARTS if part.layer == 2]
    scale = max(1, now.total + now.saved)

    def lane(parts: Sequence[Part], start: int) -> list[Mark]:
        marks: list[Mark] = []
        at = start
        for part in parts:
            cost = now.parts[part.id]
            if cost > 0:
                tip = f"{part.name}: {tables.money(cost)}, {tables.share(cost, now.total)} of the bill; {part.told}"
                marks.append(Mark(1000 * at / scale, 0, 1000 * cost / scale, 1, COLOURS[part.id], tip, _href(ask, part)))
                at += cost
        return marks

    multiplied = sum(now.parts[part.id] for part in hidden)
    third = lane([PARTS[-1]], visible + multiplied)
    if now.saved > 0:
        tip = f"Saved: {tables.money(now.saved)} that was not spent"
        third.append(Mark(1000 * now.total / scale, 0, 1000 * now.saved / scale, 1, 8, tip, ask.again("savings"), hatched=True))
    lanes = (
        Lane(
            "Visible", tables.money(visible), tables.share(visible, now.total), lane(PARTS[:1], 0), "first tries, what is new in them"
        ),
        Lane(
            "Multipliers",
            tables.money(multiplied),
            tables.share(multiplied, now.total),
            lane(hidden, visible),
            "sent again, tried again, or nobody's question",
        ),
        Lane(
            "Control",
            f"{tables.money(now.saved)} saved",
            tables.share(control, now.total),
            third,
            f"its own calls cost {tables.money(control)}"
            if control
            else ("reply cache, tiers, compaction" if now.saved else "no control saved anything in this period"),
            ask.again("savings"),
        ),
    )
    rows: list[list[Cell]] = []
    for part in PARTS:
        cost, was = now.parts[part.id], before.parts[part.id] if before else 0
        if not cost and not was:
            continue
        row = [
            Cell(part.name, part.id, _href(ask, part), colour=COLOURS[part.id]),
            Cell(part.told, part.told, tone="dim wide"),
            blocks.money(cost, _href(ask, part), live=f"layers/{part.id}"),
            blocks.share(cost, now.total),
        ]
        if before is not None:
            row += [blocks.money(was), blocks.change(cost, was)]
        rows.append(row)
    columns = [Column("Part", "part"), Column("What it is", "told"), Column("Cost", "cost", True), Column("Share", "share", True)]
    total = [
        Cell("Total", "total"),
        Cell("", None),
        blocks.money(now.total, ask.rows(), live="layers/total"),
        blocks.share(now.total, now.total),
    ]
    if before is not None:
        columns += [Column("Before", "before", True), Column("Change", "change", True)]
        total += [blocks.money(before.total), blocks.change(now.total, before.total)]
    table = Table("layers", "The parts of the bill", tuple(columns), rows, total, folded=False)
    return Strip("strip", "Where the money goes", lanes, table)


# -- over time, by label ---------------------------------------------------------------------------------------------------


def _over_time(ask: Ask, reader: Reader, name: str) -> blocks.Plot:
    since, until = _bounds(ask, reader)
    grain = ask.word("grain") or grain_for(since, until)
    top = reader.query(Query(("cost",), (name,), ask.filters, ask.period.since, ask.period.until, top=OVER_TIME_TOP))
    values = tuple(str(row[name]) for row in top if row[name] is not None)
    series: list[str | None] = [*values]
    keep = ((name, values),) if isinstance(top[0][name] if top else "", str) else ()
    found = reader.query(Query(("cost", "rows"), (name,), ask.filters, ask.period.since, ask.period.until, grain, ask.zone, keep=keep))
    cost: dict[tuple[str, str | None], int] = {}
    for row in found:
        value = None if row[name] is None or str(row[name]) not in values else str(row[name])
        cost[row["period"], value] = cost.get((row["period"], value), 0) + dollars(row["cost"])
    if any(value is None for _, value in cost):
        series.append(None)

    def href(period: str, value: str | None) -> str:
        start, end = cell_span(period, grain, ask.zone)
        return ask.rows(*_of(name, value, values), since=max(start, since), until=min(end, until))

    along = [period for period in cells(since, until, grain, ask.zone)]
    return plots.stacked(
        "time",
        f"By {grain}, split by {name.removeprefix(LABEL)}",
        along,
        series,
        cost,
        href,
        lambda value: "everything else" if value is None else value or UNSAID,
        lambda period: _named(ask, period, grain),
        grain,
        lambda value: ask.rows(*_of(name, value, values)),
    )


def _of(name: str, value: str | None, values: Sequence[str]) -> tuple[Filter, ...]:
    return (Filter(name, (value,)),) if value is not None else (Filter(name, tuple(values), True),)


def _bounds(ask: Ask, reader: Reader) -> tuple[int, int]:
    """The period's own bounds, an open one where the rows begin."""
    since, until = ask.period.since, ask.period.until
    assert until is not None
    if since is None:
        (row,) = reader.query(Query(("first",), (), ask.filters, None, until))
        since = min(row["first"] if row["first"] is not None else until - periods.LENGTHS["d"], until - 1)
    return since, until


def _named(ask: Ask, period: str, grain: str) -> str:
    if grain == "hour":
        return ask.local(cell_span(period, grain, ask.zone)[0]).strftime("%d %b %H:%M")
    start = cell_span(period, grain, ask.zone)[0]
    moment = ask.local(start)
    return moment.strftime({"month": "%b %Y"}.get(grain, "%d %b"))


def _lines(ask: Ask, reader: Reader, by: str, name: str) -> Table:
    made = cli_spend.statement(reader, (name,), ask.filters, ask.period, top=TOP)
    most = max((line.now.cost for line in made.lines), default=0)
    kept = tuple(line.key[0] or "" for line in made.lines if not line.other)
    rows: list[list[Cell]] = []
    for line in made.lines:
        value = line.key[0]
        numeric = name in ("turn", "try", "tool_depth", "http_status", "stream")
        if line.other:
            where: tuple[Filter, ...] | None = None if numeric else (Filter(name, kept, True),)
            first = Cell("everything else", None, tone="dim")
        else:
            where = None if numeric and value is None else (Filter(name, (int(value) if numeric and value else value or "",)),)
            first = blocks.label(value, nobody="first tries" if name == "cause" else UNSAID)
        href = ask.rows(*where) if where is not None else ""
        rows.append(
            [
                first._replace(href=href),
                *_figures(line.now, line.before, made.total, href, most, value if not line.other else "(other)"),
            ]
        )
    heads = [Column(by.removeprefix(LABEL), by), Column("Cost", "cost", True), Column("Share", "share", True)]
    if made.before is not None:
        heads += [Column("Before", "before", True), Column("Change", "change", True)]
    heads += [
        Column("Calls", "calls", True),
        Column("Tries", "tries", True),
        Column("Tokens", "tokens", True),
        Column("Unpriced", "unpriced", True),
    ]
    total = [Cell("Total", None), *_figures(made.total, made.before, made.total, ask.rows(), 0, "total")]
    return Table("by", f"By {by.removeprefix(LABEL)}", tuple(heads), rows, total)


def _figures(now: Sum, before: Sum | None, total: Sum, href: str, most: int, key: str | None) -> list[Cell]:
    bar = blocks.ratio(now.cost, most) if most else None
    made = [blocks.money(now.cost, href, bar=bar, live=f"by/{key or ''}"), blocks.share(now.cost, total.cost)]
    if before is not None:
        made += [blocks.money(before.cost), blocks.change(now.cost, before.cost)]
    return [
        *made,
        blocks.count(now.calls),
        blocks.count(now.tries),
        Cell(tables.brief(now.tokens), now.tokens),
        Cell(tables.count(now.unpriced) if now.unpriced else "", now.unpriced, tone="bad"),
    ]
