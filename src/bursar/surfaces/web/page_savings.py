"""Savings: what each control kept, less what it took, against which other course of events; and what is not taken yet."""

from __future__ import annotations

from ...domain.money import plain
from ...stores.reader import Reader
from .. import audit, periods, savings, tables
from . import blocks, plots
from .asks import Ask
from .blocks import Block, Card, Cards, Cell, Column, Page, Table, Tile, Tiles
from .shelf import Shelf

KNOWN = {
    "cache": "Reply cache",
    "near": "Reply cache, near",
    "embeddings": "Embeddings kept",
    "tiers": "Cheaper tiers",
    "compaction": "Compaction",
}
CHANCES = ("tiers", "cache", "growth", "fallback", "attribution")


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    span = periods.Period(ask.period.since, ask.period.until)
    found = savings.savings(reader, ask.filters, span)
    gross, took = sum(one.gross for one in found.controls), sum(one.own for one in found.controls)
    kept = tables.share(found.net, found.without) if found.net else ""
    figures = Tiles(
        "figures",
        (
            Tile(
                "net", "Net saved", tables.money(found.net), plain(found.net), "",
                f"{kept} of what it would have cost" if kept else "nothing yet",
                "good" if found.net > 0 else "bad" if found.net < 0 else "",
            ),
            Tile("gross", "Saved", tables.money(gross), plain(gross), "", "before what it took"),
            Tile("own", "It took", tables.money(took), plain(took), "", "lookups, summaries, cold and broken prompt caches"),
            Tile(
                "spent", "The bill", tables.money(found.spent), plain(found.spent), ask.rows(),
                f"without controls {tables.money(found.without)}",
            ),
        ),
    )  # fmt: skip
    made: list[Block] = [figures, _controls(ask, found)]
    if found.days:
        made.append(_days(ask, found))
    lead = f"Controls kept {tables.money(found.net)} net in this period."
    if not ask.bound:
        chances, most = _chances(ask, reader, shelf, found)
        made.append(chances)
        if most:
            lead += f" The largest chance not taken is worth {tables.money(most, 0)} a month."
    return Page("savings", "Savings", made, lead, main="savings")


def _controls(ask: Ask, found: savings.Savings) -> Table:
    most = max((one.net for one in found.controls), default=0)
    rows = [
        [
            Cell(KNOWN.get(one.control, one.control), one.control), blocks.count(one.calls), blocks.money(one.gross),
            blocks.money(-one.own),
            blocks.money(one.net, bar=blocks.ratio(one.net, most), tone="bad" if one.net < 0 else ""),
            Cell(f"{tables.money(one.low)} to {tables.money(one.high)}", [plain(one.low), plain(one.high)]),
            Cell(one.versus, one.versus, note=one.sure, tone="wide"),
        ]
        for one in found.controls
    ]  # fmt: skip
    heads = (
        Column("Control", "control"), Column("Calls", "calls", True), Column("Saved", "gross", True), Column("It took", "own", True),
        Column("Net", "net", True), Column("Between", "bounds", True), Column("Against", "counterfactual"),
    )  # fmt: skip
    gross, took = sum(one.gross for one in found.controls), sum(one.own for one in found.controls)
    empty = "No control saved anything in this period: they are off, or in shadow. What they would save is below."
    nothing = Cell("", None)
    total = [Cell("Net", None), nothing, blocks.money(gross), blocks.money(-took), blocks.money(found.net), nothing, nothing]
    return Table("savings", "Net of each control", heads, rows, total if rows else None, empty=empty)


def _days(ask: Ask, found: savings.Savings) -> blocks.Plot:
    """Days are UTC's: a control's own calls and what they saved are counted on the same one."""
    controls = [one.control for one in found.controls]
    cost: dict[tuple[str, str | None], int] = {(day.day, day.control): day.net for day in found.days}
    days = sorted({day.day for day in found.days})
    return plots.stacked(
        "days", "Net saved by day (UTC)", days, controls, cost, lambda *_: "", lambda name: KNOWN.get(name or "", name or ""),
        lambda day: day[5:], "day", lambda _: "",
    )  # fmt: skip


def _chances(ask: Ask, reader: Reader, shelf: Shelf, known: savings.Savings) -> tuple[Cards, int]:
    policy, _ = shelf.policy()
    found = audit.take(reader, policy, periods.Period(ask.period.since, ask.period.until), ask.now_us)
    open_ = sorted((a for a in found.answers if a.key in CHANCES and a.stake), key=lambda a: -(a.stake or 0))
    cards = [
        Card(
            one.action[:1].upper() + one.action[1:],
            [one.sentence],
            "",
            "warn",
            f"{tables.money(one.stake or 0, 0)} a month",
            href=ask.again("audit"),
            raw={"key": one.key, "stake": plain(one.stake or 0), "how": one.how},
            todo=f"How it is worked out: {one.how}.",
        )
        for one in open_
    ]
    for one in known.shadow:
        text = f"In shadow it would have saved {tables.money(one.net)} net of what it takes, against {one.versus}."
        title = f"{KNOWN.get(one.control, one.control)}: switch it on"
        cards.append(Card(title, [text], "in shadow", "warn", f"{tables.money(one.net)} in this period"))
    return Cards("chances", "Not taken yet", cards, "The audit knows of none in this period."), max(
        (a.stake or 0 for a in open_), default=0
    )
