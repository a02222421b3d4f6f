"""Audit: the six questions with a verdict, figures, dollars and the next action each, as a page that can be printed."""

from __future__ import annotations

from typing import Any

from ...domain.money import plain
from ...stores.query import LABEL
from ...stores.reader import Reader
from .. import audit, periods, tables
from .asks import Ask
from .blocks import Block, Card, Cards, Note, Page, Tile, Tiles
from .shelf import Shelf

TONES = {"good": "good", "watch": "warn", "act": "bad"}
WORDS = {"good": "fine", "watch": "watch", "act": "act"}


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    if ask.bound:
        own = ", ".join(f"{f.name.removeprefix(LABEL)}={f.values[0]}" for f in ask.bound)
        return Page(
            "audit",
            "Audit",
            [
                Note(
                    "bound",
                    "The audit is of the whole ledger",
                    [f"Your account sees {own} alone. Ask somebody whose account is not bounded."],
                )
            ],
        )
    policy, _ = shelf.policy()
    found = audit.take(reader, policy, periods.Period(ask.period.since, ask.period.until), ask.now_us)
    worst = [a for a in found.answers if a.verdict == "act"]
    figures = Tiles(
        "figures",
        (
            Tile(
                "verdict",
                "Verdict",
                WORDS[found.verdict],
                found.verdict,
                "",
                f"{len(worst)} of 6 ask for action",
                TONES[found.verdict],
            ),
            Tile(
                "cost",
                "The period cost",
                tables.money(found.cost),
                plain(found.cost),
                ask.rows() if not ask.where else "",
                f"{found.calls:,} calls",
            ),
            Tile(
                "month",
                "A month of it",
                tables.money(found.month),
                plain(found.month),
                "",
                "as if it went on like this" if found.scaled else "as it was",
            ),
        ),
    )
    cards: list[Card] = []
    notes: list[Block] = []
    for one in found.answers:
        facts = [(f.told, _figure(f.value, f.unit)) for f in one.figures[:6]]
        lines = "; ".join(f"{line.name} {tables.money(line.cost)}" for line in one.lines[:4])
        text = [one.sentence[:1].upper() + one.sentence[1:]]
        if lines:
            text.append(f"Most of it: {lines}.")
        cards.append(
            Card(
                f"{one.number}. {one.question}",
                text,
                WORDS[one.verdict],
                TONES[one.verdict],
                f"{tables.money(one.stake, 0)} a month" if one.stake else "",
                facts,
                f"Next: {one.action}." + (f" {one.commands[0]}" if one.commands else ""),
                raw={
                    "key": one.key,
                    "verdict": one.verdict,
                    "sentence": one.sentence,
                    "stake": None if one.stake is None else plain(one.stake),
                    "how": one.how,
                    "action": one.action,
                    "paste": one.paste,
                    "commands": list(one.commands),
                    "figures": {f.name: _raw(f.value, f.unit) for f in one.figures},
                    "lines": [
                        {"kind": line.kind, "name": line.name, "cost": plain(line.cost), "calls": line.calls, "note": line.note}
                        for line in one.lines
                    ],
                },
            )
        )
        if one.paste:
            notes.append(Note(f"paste-{one.key}", f"For question {one.number}, into the policy file", (), one.paste))
    lead = f"{len(worst)} of the six questions ask for action." if worst else "None of the six questions asks for action."
    if ask.where:
        lead += " It is about all calls of the period: filters are not applied to it."
    top = max(found.answers, key=lambda a: a.stake or 0, default=None)
    if top is not None and top.stake:
        lead += f" Most is at stake in question {top.number}: {tables.money(top.stake, 0)} a month."
    return Page(
        "audit",
        "Audit",
        [figures, Cards("questions", "The six questions", cards), *notes],
        lead,
        main="questions",
        raw={"verdict": found.verdict},
    )


def _figure(value: int | None, unit: str) -> str:
    if value is None:
        return "?"
    if unit == "usd":
        return tables.money(value)
    if unit == "share":
        return f"{value / 10_000:.1f}%"
    if unit == "ratio":
        return f"{value / 1_000_000:.3g}x"
    return tables.brief(value) if unit == "tokens" else tables.count(value)


def _raw(value: int | None, unit: str) -> Any:
    return plain(value) if unit == "usd" and value is not None else value
