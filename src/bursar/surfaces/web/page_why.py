"""Why: what changed since the period before, as drivers and slices that add up to the cent, the biggest first, in a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from ...domain.money import plain
from ...rules.why_findings import OTHERS, Finding, Place
from ...stores.query import LABEL, Filter, Query
from ...stores.reader import Reader
from .. import cli_why, periods, tables, why
from . import blocks
from .asks import Ask, dimension, local_period
from .blocks import Block, Cell, Column, Lane, Mark, Note, Page, Strip, Table, Tile, Tiles
from .shelf import Shelf, dollars

EVENTS_MAX = 12
DEARER, CHEAPER = 3, 2  # colours: of a driver that added, of one that took away


def page(ask: Ask, reader: Reader, _: Shelf) -> Page:
    this, versus = _spans(ask, reader)
    labels = tuple(dimension(name.strip()) for name in (ask.word("by") or ",".join(why.LABELS)).split(",") if name.strip())[:5]
    made = why.report(reader, labels, ask.filters, this, versus)
    to = cli_why._Rounding(made)
    found = made.explained
    if not made.told.findings:
        told = "Nothing changed." if found.now else "Nothing was spent in either period. Choose another one above."
        return Page("why", "Why", [Note("empty", "Nothing to explain", [told])], told)
    change = found.now - found.before
    first = made.told.findings[0]
    figures = Tiles(
        "figures",
        (
            Tile("now", "This period", to.show(to.now), plain(found.now), _rows(ask, (), this), _between(ask, this)),
            Tile(
                "before", "The period before", to.show(to.before), plain(found.before), _rows(ask, (), versus), _between(ask, versus)
            ),
            Tile(
                "change",
                "Change",
                to.show(to.change, plus=True),
                plain(change),
                "",
                tables.change(found.now, found.before),
                "bad" if change > 0 else "good",
            ),
        ),
    )
    blocks_: list[Block] = [figures, _drivers(made, to, change), _places(ask, reader, made, to, this, versus)]
    notes = cli_why._notes(made)
    if notes:
        blocks_.insert(1, Note("notes", "Before believing it", [note[0].upper() + note[1:] + "." for note in notes], tone="warn"))
    if made.events:
        rows = [
            [Cell(ask.shown(e.ts), periods.iso(e.ts)), Cell(e.kind, e.kind), Cell(e.text, e.text)] for e in made.events[-EVENTS_MAX:]
        ]
        heads = (Column(f"Time ({ask.zone})", "ts"), Column("Kind", "kind"), Column("What was first seen then", "text"))
        blocks_.append(
            Table("events", "At the same time", heads, rows, note="Beside the change in time; nobody says that it made it.")
        )
    lead = f"{cli_why._headline(made)}. The biggest: {first.sentence}"
    return Page(
        "why",
        "Why",
        blocks_,
        lead,
        main="drivers",
        raw={
            "change": plain(change),
            "this": [periods.iso(at) for at in this],
            "versus": [periods.iso(at) for at in versus],
        },
    )


def _spans(ask: Ask, reader: Reader) -> tuple[why.Span, why.Span]:
    since, until = ask.period.since, ask.period.until
    assert until is not None
    if since is None:
        (row,) = reader.query(Query(("first",), (), ask.filters, None, until))
        since = until - periods.LENGTHS["w"] if row["first"] is None else (row["first"] + until) // 2
    given = ask.word("versus")
    if given:
        other = local_period(given, "", ask.now_us, ask.zone)
        if other.since is not None:
            return (since, until), (other.since, other.until or since)
    return (since, until), ask.period.before or (max(0, 2 * since - until), since)


def _between(ask: Ask, span: why.Span) -> str:
    return f"{ask.shown(span[0])} to {ask.shown(span[1])}"


def _rows(ask: Ask, where: Sequence[Filter], span: why.Span) -> str:
    return ask.rows(*where, since=span[0], until=span[1])


def _drivers(made: why.Report, to: cli_why._Rounding, change: int) -> Strip:
    big, rest = cli_why._shown(made)
    exact = [one.change for one in big] + ([rest] if to.one(rest) else [])
    rounded = to.parts(exact, to.change)
    scale = max(1, max(abs(one.change) for one in big))
    lanes: list[Lane] = []
    rows: list[list[Cell]] = []
    for one, shown in zip(big, rounded):
        told = one.told + cli_why._part(one)
        mark = Mark(0, 0, 1000 * abs(one.change) / scale, 1, DEARER if one.change > 0 else CHEAPER, told)
        lanes.append(
            Lane(
                cli_why.DRIVER.get(one.driver, one.driver), to.show(shown, plus=True), cli_why._share(one.change, change), [mark], told
            )
        )
        rows.append(_driver(one, to, shown, change, told))
    if to.one(rest):
        rows.append([Cell("all else", ""), Cell(to.show(rounded[-1], plus=True), plain(rest)), Cell("", None), Cell("", None)])
    heads = (
        Column("Driver", "driver"),
        Column("Change", "change", True),
        Column("Share", "share", True),
        Column("What was counted", "sentence"),
    )
    total = [Cell("Total", None), Cell(to.show(to.change, plus=True), plain(change)), Cell("", None), Cell("", None)]
    return Strip(
        "drivers-picture", "What changed", lanes, Table("drivers", "The drivers add up to the change", heads, rows, total, folded=True)
    )


def _driver(one: Finding, to: cli_why._Rounding, shown: int, change: int, told: str) -> list[Cell]:
    return [
        Cell(cli_why.DRIVER.get(one.driver, one.driver), one.driver),
        Cell(to.show(shown, plus=True), plain(one.change)),
        Cell(cli_why._share(one.change, change), tables.fraction(one.change, change)),
        Cell(told, one.sentence),
    ]


def _places(ask: Ask, reader: Reader, made: why.Report, to: cli_why._Rounding, this: why.Span, versus: why.Span) -> Table:
    places = made.told.places
    befores = to.parts([place.before for place in places], to.before)
    nows = to.parts([place.now for place in places], to.now)
    most = max((abs(p.now - p.before) for p in places), default=0)
    rows: list[list[Cell]] = []
    for place, before, now in zip(places, befores, nows, strict=True):
        links = ["", ""]
        for where in _candidates(place, places):
            if _sum(reader, ask, where, this) == place.now and _sum(reader, ask, where, versus) == place.before:
                links = [_rows(ask, where, versus), _rows(ask, where, this)]
                break
        leading = next(iter(place.drivers), "")
        name = cli_why._name(place)
        rows.append(
            [
                Cell(
                    name, dict(place.where) if place.where else place.how, note=f"mostly {cli_why.DRIVER[leading]}" if leading else ""
                ),
                Cell(to.show(before), plain(place.before), links[0]),
                Cell(to.show(now), plain(place.now), links[1]),
                Cell(
                    to.show(now - before, plus=True),
                    plain(place.now - place.before),
                    bar=blocks.ratio(abs(place.now - place.before), most),
                    tone="bad" if now > before else "good",
                ),
                Cell(cli_why._share(place.now - place.before, made.explained.now - made.explained.before), None),
            ]
        )
    heads = (
        Column("Where", "where"),
        Column("Before", "before", True),
        Column("Now", "now", True),
        Column("Change", "change", True),
        Column("Share", "share", True),
    )
    total = [
        Cell("Total", None),
        Cell(to.show(to.before), plain(made.explained.before), _rows(ask, (), versus)),
        Cell(to.show(to.now), plain(made.explained.now), _rows(ask, (), this)),
        Cell(to.show(to.change, plus=True), plain(made.explained.now - made.explained.before)),
        Cell("", None),
    ]
    return Table("slices", "Where it changed", heads, rows, total, note="Slices do not overlap and add up to the change.")


def _candidates(place: Place, places: Sequence[Place]) -> list[tuple[Filter, ...]]:
    """Conditions that may be a slice's rows: its own, or its own without the rows that other slices took before."""
    own = _filters(place)
    if own is None and place.where:
        return []
    others = [
        f._replace(negate=True) for other in places if other is not place for f in (_filters(other) or ()) if len(other.where) == 1
    ]
    own = own or ()
    free = tuple(f for f in others if (f.name, f.values) not in [(mine.name, mine.values) for mine in own])
    earlier = places[: places.index(place)]
    before = tuple(f for f in free if any((f.name, f.values) == (g.name, g.values) for p in earlier for g in (_filters(p) or ())))
    return [own, (*own, *free), (*own, *before)] if own else [free]


def _filters(place: Place) -> tuple[Filter, ...] | None:
    """The rows of a slice, where a URL can say which they are."""
    if not place.where or any(value == OTHERS for _, value in place.where):
        return None
    known = {"model": "model_served"}
    names = [known.get(name, name) for name, _ in place.where]
    try:
        return tuple(
            Filter(dimension(name) if ":" in name else _dimension(name), (value,)) for name, (_, value) in zip(names, place.where)
        )
    except ValueError:
        return None


def _dimension(name: str) -> str:
    try:
        return dimension(name)
    except ValueError:
        return LABEL + name


def _sum(reader: Reader, ask: Ask, where: Sequence[Filter], span: why.Span) -> int:
    (row,) = reader.query(Query(("cost",), (), (*ask.filters, *where), *span))
    return dollars(row["cost"])
