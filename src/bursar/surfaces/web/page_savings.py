"""Savings: what each control kept, less what it took, against which other course of events; and what is not taken yet."""

from __future__ import annotations

from ...domain.money import plain
from ...rules.saving import CONTROLS, COUNTERFACTUAL, SURE
from ...stores.query import Filter, Query
from ...stores.reader import Reader
from .. import audit, periods, tables
from . import blocks
from .asks import Ask
from .blocks import Block, Card, Cards, Cell, Column, Page, Table, Tile, Tiles
from .shelf import Shelf, dollars

KNOWN = {
    "cache": "Reply cache",
    "near": "Reply cache, near",
    "embeddings": "Embeddings kept",
    "tiers": "Cheaper tiers",
    "compaction": "Compaction",
}
CHANCES = ("tiers", "cache", "growth", "fallback", "attribution")


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    span = (ask.period.since, ask.period.until)
    found = {row["saved_by"]: row for row in reader.query(Query(("saved", "tries", "cost"), ("saved_by",), ask.filters, *span))}
    (own,) = reader.query(Query(("cost", "tries"), (), (*ask.filters, Filter("operation", ("control",))), *span))
    (whole,) = reader.query(Query(("cost", "saved", "refused"), (), ask.filters, *span))
    gross, took = dollars(whole["saved"]), dollars(own["cost"])
    rows: list[list[Cell]] = []
    for name in [*CONTROLS, *[other for other in found if other and other not in CONTROLS]]:
        row = found.get(name)
        if row is None:
            continue
        saved = dollars(row["saved"])
        href = ask.rows(Filter("saved_by", (name,)), of="saved")
        rows.append(
            [
                Cell(KNOWN.get(name, name), name, href),
                blocks.count(row["tries"]),
                blocks.money(saved, href),
                blocks.share(saved, gross),
                Cell(COUNTERFACTUAL.get(name, "as the row says"), COUNTERFACTUAL.get(name, ""), note=SURE.get(name, ""), tone="wide"),
            ]
        )
    if took or rows:
        href = ask.rows(Filter("operation", ("control",)))
        rows.append(
            [
                Cell("Bursar's own calls", "own", href),
                blocks.count(own["tries"]),
                blocks.money(-took, href),
                Cell("", None),
                Cell("what the controls asked models for", ""),
            ]
        )
    heads = (
        Column("Control", "control"),
        Column("Calls", "calls", True),
        Column("Saved", "saved", True),
        Column("Share", "share", True),
        Column("Against", "counterfactual"),
    )
    empty = "No control saved anything in this period: reply cache, tiers and compaction are off, or in shadow. What they would save is below."
    table = Table(
        "savings",
        "Net of each control",
        heads,
        rows,
        [Cell("Net", None), Cell("", None), blocks.money(gross - took), Cell("", None), Cell("", None)] if rows else None,
        empty=empty,
    )
    figures = Tiles(
        "figures",
        (
            Tile(
                "net",
                "Net saved",
                tables.money(gross - took),
                plain(gross - took),
                "",
                f"{tables.share(gross - took, dollars(whole['cost']) + gross)} of what it would have cost" if gross else "nothing yet",
                "good" if gross > took else "bad" if took > gross else "",
            ),
            Tile("gross", "Saved", tables.money(gross), plain(gross), ask.rows(of="saved") if gross else "", "before what it took"),
            Tile(
                "own",
                "It took",
                tables.money(took),
                plain(took),
                ask.rows(Filter("operation", ("control",))) if took else "",
                "Bursar's own calls",
            ),
        ),
    )
    made: list[Block] = [figures, table]
    lead = f"Controls kept {tables.money(gross - took)} net in this period."
    if not ask.bound:
        chances, most = _chances(ask, reader, shelf)
        made.append(chances)
        if most:
            lead += f" The largest chance not taken is worth {tables.money(most, 0)} a month."
    return Page("savings", "Savings", made, lead, main="savings")


def _chances(ask: Ask, reader: Reader, shelf: Shelf) -> tuple[Cards, int]:
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
    return Cards("chances", "Not taken yet", cards, "The audit knows of none in this period."), max(
        (a.stake or 0 for a in open_), default=0
    )
