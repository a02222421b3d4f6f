"""Bill: what is visible, what multiplies it and what control did, as one picture; over time, by any label, against the time before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...stores.query import DIMENSIONS, LABEL, Filter, Query, compile_filter
from ...stores.reader import Reader
from .. import periods, tables
from ..statement import Key, Sum, state
from . import blocks, plots
from .asks import Ask, cell_span, cells, dimension, grain_for
from .blocks import Block, Cell, Choice, Column, Lane, Mark, Page, Strip, Table, Tile, Tiles
from .shelf import Shelf, dollars

LABELS = ("feature", "tenant", "flow", "operation", "model", "cause", "user", "provider", "tier", "key")
TOP = 12
VALUES_MAX = 5_000  # of a label that are added up one by one
REST = "\x00rest"  # all that are beyond them: no label can be it
NUMERIC = ("turn", "try", "tool_depth", "http_status", "stream")
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
    """Pico-dollars of each part, all of it together, and what stands beside it."""

    parts: dict[str, int]
    all: Sum
    saved: int
    refused: int


LAYERS = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "cost_history", "saved", "refused")


def gather(ask: Ask, reader: Reader, name: str, since: int | None, until: int | None, table: str) -> str:
    """One look at a period's rows: all that the page says of it, but when."""
    keep = {"operation": (), "cause": ("loop",), "feature": ("",)}
    also = [one for one in keep if DIMENSIONS[one] != DIMENSIONS.get(name)]
    folded = tuple((one, keep[one]) for one in also if keep[one])
    reader.gather(Query(LAYERS, (name, *also), ask.filters, since, until, keep=folded), table)
    return table


def layers(reader: Reader, table: str) -> Layers:
    found = reader.ask(Query(LAYERS, ("operation", "cause"), keep=(("cause", ("loop",)),)), table)
    parts = dict.fromkeys((part.id for part in PARTS), 0)
    total, saved, refused = Sum(), 0, 0
    for row in found:
        cost, history = dollars(row["cost"]), dollars(row["cost_history"])
        total, saved, refused = total.plus(_sum(row)), saved + dollars(row["saved"]), refused + row["refused"]
        if row["operation"] != "primary":
            name = row["operation"] if row["operation"] in parts else "visible"
            parts[name] += cost
        elif row["cause"] == "loop":
            parts["loop"] += cost
        else:
            parts["history"] += history
            parts["visible"] += cost - history
    return Layers(parts, total, saved, refused)


def _sum(row: Mapping[str, Any]) -> Sum:
    return Sum(dollars(row["cost"]), row["calls"], row["tries"], int(row["tokens"] or 0), row["unpriced"], row["estimated"])


class Lines(NamedTuple):
    """The bill by one label. `whole`: every value is in it; else the dearest, and the rest can only be told as the rest."""

    groups: list[tuple[Key, Sum]]
    earlier: list[tuple[Key, Sum]] | None
    whole: bool


def page(ask: Ask, reader: Reader, _: Shelf) -> Page:
    by = ask.word("by", "feature")
    name = dimension(by)
    span = ask.period
    # All that is asked for below, read once.
    condition = compile_filter(Query(where=ask.filters))
    columns = dict.fromkeys((*READ, DIMENSIONS.get(name, name), *condition.columns))
    reader.totals(columns, span.before[0] if span.before else span.since, span.until)
    gathered = gather(ask, reader, name, span.since, span.until, "bill")
    earlier = gather(ask, reader, name, *span.before, "bill_before") if span.before else ""
    now, before = layers(reader, gathered), layers(reader, earlier) if earlier else None
    if not now.all.tries and not now.refused and not now.all.cost and not (before and before.all.cost):
        return Page("bill", "Bill", [_nothing(ask)], choices=(_by(by),), live=True)
    lines = _groups(reader, name, gathered, earlier)
    made: list[Block] = [
        _tiles(ask, now, before, _unattributed(reader, gathered)),
        _strip(ask, now, before),
        _over_time(ask, reader, name, lines),
        _lines(ask, by, name, lines, now.all, before.all if before else None),
    ]
    return Page("bill", "Bill", made, _lead(now, before), (_by(by),), live=True, main="by", raw={"by": by})


READ = (
    "ts", "cost", "cost_history", "saved", "operation", "cause", "feature", "try_no", "attempt_kind", "status", "price_status",
    "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
)  # fmt: skip


def _groups(reader: Reader, name: str, gathered: str, before: str) -> Lines:
    def one(table: str) -> list[tuple[Key, Sum]]:
        rows = reader.ask(Query(LAYERS[:6], (name,), top=VALUES_MAX), table)
        return [((None if row[name] in (None, "") else str(row[name]),), _sum(row)) for row in rows]

    now, earlier = one(gathered), one(before) if before else None
    whole = len(now) < VALUES_MAX and (earlier is None or len(earlier) < VALUES_MAX)
    return Lines(now, earlier if whole else None, whole)


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


def _unattributed(reader: Reader, gathered: str) -> int:
    """Pico-dollars of rows without a feature."""
    (row,) = reader.ask(Query(("cost",), (), (Filter("feature", ("",)),)), gathered)
    return dollars(row["cost"])


def _lead(now: Layers, before: Layers | None) -> str:
    hidden = sum(now.parts[part.id] for part in PARTS if part.layer == 2)
    told = f"{tables.money(now.all.cost)} spent"
    if before is not None and before.all.cost > 0:
        told += f", {tables.change(now.all.cost, before.all.cost)} against {tables.money(before.all.cost)} the period before"
    if now.all.cost > 0 and hidden > 0:
        most = max((part for part in PARTS if part.layer == 2), key=lambda part: now.parts[part.id])
        told += (
            f". {tables.share(hidden, now.all.cost)} of it is not what people think they pay for, most of all "
            f"{most.name.lower()}: {tables.money(now.parts[most.id])}"
        )
    return told + "."


def _tiles(ask: Ask, now: Layers, before: Layers | None, nobody: int) -> Tiles:
    hidden = sum(now.parts[part.id] for part in PARTS if part.layer == 2)
    made = [
        Tile(
            "total",
            "Spent",
            tables.money(now.all.cost),
            blocks.plain(now.all.cost),
            ask.rows(),
            f"{tables.change(now.all.cost, before.all.cost)} against {tables.money(before.all.cost)} before" if before else "",
            "bad" if before and now.all.cost > before.all.cost else "",
        ),
        Tile(
            "hidden",
            "Hidden multipliers",
            tables.money(hidden),
            blocks.plain(hidden),
            "",
            f"{tables.share(hidden, now.all.cost)} of the bill" if now.all.cost > 0 else "",
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
            tables.count(now.all.calls),
            now.all.calls,
            ask.rows(),
            f"{tables.money(now.all.cost // now.all.calls, 4)} each" if now.all.calls and now.all.cost > 0 else "",
        ),
        Tile(
            "unattributed",
            "Without a feature",
            tables.share(nobody, now.all.cost) or "0.0%",
            tables.fraction(nobody, now.all.cost),
            ask.rows(Filter("feature", ("",))) if nobody else "",
            tables.money(nobody) if nobody else "every dollar has a feature",
            "bad" if nobody * 20 > now.all.cost > 0 else "",
        ),
    ]
    if now.all.unpriced or now.all.estimated:
        made.append(
            Tile(
                "unsure",
                "Not certain",
                f"{now.all.unpriced + now.all.estimated:,} tries",
                now.all.unpriced + now.all.estimated,
                ask.rows(Filter("price_status", ("unpriced", "estimated"))),
                f"{now.all.unpriced:,} without a price, {now.all.estimated:,} estimated",
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
    scale = max(1, now.all.cost + now.saved)

    def lane(parts: Sequence[Part], start: int) -> list[Mark]:
        marks: list[Mark] = []
        at = start
        for part in parts:
            cost = now.parts[part.id]
            if cost > 0:
                tip = f"{part.name}: {tables.money(cost)}, {tables.share(cost, now.all.cost)} of the bill; {part.told}"
                marks.append(Mark(1000 * at / scale, 0, 1000 * cost / scale, 1, COLOURS[part.id], tip, _href(ask, part)))
                at += cost
        return marks

    multiplied = sum(now.parts[part.id] for part in hidden)
    third = lane([PARTS[-1]], visible + multiplied)
    if now.saved > 0:
        tip = f"Saved: {tables.money(now.saved)} that was not spent"
        third.append(Mark(1000 * now.all.cost / scale, 0, 1000 * now.saved / scale, 1, 8, tip, ask.again("savings"), hatched=True))
    lanes = (
        Lane(
            "Visible",
            tables.money(visible),
            tables.share(visible, now.all.cost),
            lane(PARTS[:1], 0),
            "first tries, what is new in them",
        ),
        Lane(
            "Multipliers",
            tables.money(multiplied),
            tables.share(multiplied, now.all.cost),
            lane(hidden, visible),
            "sent again, tried again, or nobody's question",
        ),
        Lane(
            "Control",
            f"{tables.money(now.saved)} saved",
            tables.share(control, now.all.cost),
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
            blocks.share(cost, now.all.cost),
        ]
        if before is not None:
            row += [blocks.money(was), blocks.change(cost, was)]
        rows.append(row)
    columns = [Column("Part", "part"), Column("What it is", "told"), Column("Cost", "cost", True), Column("Share", "share", True)]
    total = [
        Cell("Total", "total"),
        Cell("", None),
        blocks.money(now.all.cost, ask.rows(), live="layers/total"),
        blocks.share(now.all.cost, now.all.cost),
    ]
    if before is not None:
        columns += [Column("Before", "before", True), Column("Change", "change", True)]
        total += [blocks.money(before.all.cost), blocks.change(now.all.cost, before.all.cost)]
    table = Table("layers", "The parts of the bill", tuple(columns), rows, total, folded=False)
    return Strip("strip", "Where the money goes", lanes, table)


# -- over time, by label ---------------------------------------------------------------------------------------------------


def _over_time(ask: Ask, reader: Reader, name: str, lines: Lines) -> blocks.Plot:
    since, until = _bounds(ask, reader)
    grain = ask.word("grain") or grain_for(since, until)
    numeric = name in NUMERIC
    values = tuple(key[0] or "" for key, _ in lines.groups[:OVER_TIME_TOP] if not (numeric and key[0] is None))
    series: list[str | None] = [*values]
    keep = () if numeric else ((name, values),)
    found = reader.query(
        Query(("cost", "rows"), (name,), ask.filters, ask.period.since, ask.period.until, grain, ask.zone, keep=keep)
    )
    cost: dict[tuple[str, str | None], int] = {}
    for row in found:
        value = None if row[name] is None or str(row[name]) not in values else str(row[name])
        cost[row["period"], value] = cost.get((row["period"], value), 0) + dollars(row["cost"])
    if any(value is None and pico for (_, value), pico in cost.items()):
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


def _lines(ask: Ask, by: str, name: str, lines: Lines, all_now: Sum, all_before: Sum | None) -> Table:
    groups = lines.groups
    if not lines.whole:
        rest = Sum(*(whole - sum(part) for whole, part in zip(all_now, zip(*(one for _, one in groups)))))
        groups = [*groups, ((REST,), rest)]
    was = all_before if lines.earlier is not None else None
    made = state((name,), groups, all_now, top=TOP, earlier=lines.earlier, earlier_total=was)
    most = max((line.now.cost for line in made.lines), default=0)
    kept = tuple(line.key[0] or "" for line in made.lines if not line.other)
    rows: list[list[Cell]] = []
    for line in made.lines:
        value = line.key[0]
        numeric = name in NUMERIC
        if line.other or value == REST:
            where: tuple[Filter, ...] | None = None if numeric or REST in kept else (Filter(name, kept, True),)
            first = Cell("everything else", None, tone="dim")
        else:
            where = None if numeric and value is None else (Filter(name, (value or "",)),)
            first = blocks.label(value, nobody="first tries" if name == "cause" else UNSAID)
        href = ask.rows(*where) if where is not None else ""
        key = "(other)" if line.other or value == REST else value
        rows.append([first._replace(href=href), *_figures(line.now, line.before, made.total, href, most, key)])
    heads = [Column(by.removeprefix(LABEL), by), Column("Cost", "cost", True), Column("Share", "share", True)]
    if made.before is not None:
        heads += [Column("Before", "before", True), Column("Change", "change", True)]
    heads += [Column("Calls", "calls", True), Column("Tries", "tries", True), Column("Tokens", "tokens", True)]
    total = [Cell("Total", None), *_figures(made.total, made.before, made.total, ask.rows(), 0, "total")]
    if made.total.unpriced:
        heads.append(Column("Unpriced", "unpriced", True))
    width = len(heads)
    return Table("by", f"By {by.removeprefix(LABEL)}", tuple(heads), [row[:width] for row in rows], total[:width])


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
