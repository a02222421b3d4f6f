"""Alarms: what fires now, what fired, how the messages got to their channels, and the rules."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ...domain.alarm import Standing
from ...domain.money import show
from ...stores import alarms
from ...stores.reader import Reader
from .. import periods, tables
from ..cli_alarms import headline_of
from ..watch_words import headline
from .asks import Ask
from .blocks import Act, Block, Card, Cards, Cell, Column, Note, Page, Table, Tile, Tiles, count
from .shelf import Shelf

LISTED = 100
LOOKED_AT = 1_000
OPEN = ("firing", "acknowledged")
LEVELS = {"page": "bad", "ticket": "warn", "line": ""}


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    policy, _ = shelf.policy()
    rules = list(policy.alarm)
    standings = alarms.history(reader.sqlite, most=LOOKED_AT)
    beat = alarms.beat(reader.sqlite)
    if not beat.beat and not standings:
        return Page("alarms", "Alarms", [_none(), _rules(rules)], "No clockwork has run on this ledger yet.")
    found = [one for one in (standing._asdict() for standing in standings) if _mine(ask, one)]
    open_ = [one for one in found if one["state"] in OPEN]
    until = ask.period.until or 2**62
    past = [one for one in found if (ask.period.since or 0) <= one["fired"] < until]
    figures = Tiles(
        "figures",
        (
            Tile(
                "firing",
                "Firing",
                tables.count(sum(o["state"] == "firing" for o in open_)),
                len(open_),
                "",
                "now",
                "bad" if open_ else "",
            ),
            Tile(
                "fired",
                "Fired in this period",
                tables.count(len(past)),
                len(past),
                "",
                f"{sum(o['judged'] == 'noise' for o in past)} judged noise",
            ),
            Tile("rules", "Rules", tables.count(len(rules)), len(rules), "", "in the policy, beside the built-in ones"),
        ),
    )
    made: list[Block] = [figures, _open(ask, open_), _history(ask, past), _deliveries(ask, reader), _rules(rules)]
    return Page("alarms", "Alarms", made, f"{len(open_)} alarms are open; {len(past)} fired in this period.", main="history")


def _none() -> Note:
    return Note(
        "none",
        "No clockwork has run here",
        ["Alarms are judged by the clockwork beside the ledger; nothing has to be written to switch on the built-in ones."],
        "bursar watch",
    )


def _mine(ask: Ask, one: dict[str, Any]) -> bool:
    scope = json.loads(one["scope"])
    return all(scope.get(f.name.removeprefix("label:"), "") in f.values for f in ask.bound)


def _amount(unit: str, value: int) -> str:
    if unit == "usd":
        return show(value)
    if unit in ("share", "times"):
        return f"{value / 10_000:.1f}%" if unit == "share" else f"{value / 1_000_000:.3g}x"
    return f"{tables.brief(value)} {unit}"


def _scope(one: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in json.loads(one["scope"]).items()) or "everything"


def _open(ask: Ask, open_: list[dict[str, Any]]) -> Cards:
    cards = [
        Card(
            headline(Standing(**one)),
            [f"{one['rule']} · {one['id']}"],
            one["state"],
            LEVELS.get(one["level"], ""),
            _amount(one["unit"], one["peak"]),
            [("since", ask.shown(one["since"])), ("told", f"{one['notices']} times"), ("in hand", one["by"] or "nobody's")],
            acts=(Act("Acknowledge", "/act/acknowledge", (("id", one["id"]),)),) if one["state"] == "firing" else (),
            raw={"id": one["id"], "rule": one["rule"], "since": periods.iso(one["since"])},
        )
        for one in open_
    ]
    return Cards("open", "Open", cards, "Nothing fires.")


def _history(ask: Ask, past: list[dict[str, Any]]) -> Table:
    rows = [
        [
            Cell(ask.shown(one["fired"]), periods.iso(one["fired"]), tone="nowrap"),
            Cell(one["rule"], one["rule"]),
            Cell(headline_of(Standing(**one)), _scope(one), tone="wide"),
            Cell(_amount(one["unit"], one["peak"]), str(one["peak"])),
            Cell(_amount(one["unit"], one["threshold"]) if one["threshold"] else "learned", str(one["threshold"])),
            Cell(one["state"], one["state"], note=one["by"]),
            Cell(one["judged"], one["judged"]),
        ]
        for one in past[:LISTED]
    ]
    heads = (
        Column(f"Fired ({ask.zone})", "fired"),
        Column("Rule", "rule"),
        Column("What", "scope"),
        Column("At most", "peak", True),
        Column("Limit", "threshold", True),
        Column("State", "state"),
        Column("Judged", "judged"),
    )
    return Table("history", "What fired", heads, rows, empty="No alarm fired in this period.")


def _deliveries(ask: Ask, reader: Reader) -> Table:
    found = (
        reader.sqlite.execute(
            """SELECT channel, state, count(*), max(at), max(attempts) FROM deliveries
               GROUP BY channel, state ORDER BY channel, state"""
        ).fetchall()
        if not ask.bound
        else []
    )
    rows = [
        [
            Cell(channel, channel),
            Cell(state.replace("_", " "), state, tone="bad" if state == "given_up" else ""),
            count(number),
            Cell(ask.shown(at) if at else "", periods.iso(at) if at else None),
            count(tries),
        ]
        for channel, state, number, at, tries in found
    ]
    heads = (
        Column("Channel", "channel"),
        Column("State", "state"),
        Column("Messages", "messages", True),
        Column("Last", "last"),
        Column("Most attempts", "attempts", True),
    )
    return Table(
        "deliveries",
        "How messages got there",
        heads,
        rows,
        empty="No message went to a channel. [channels] in the policy names them; `bursar alarms test` tries them.",
    )


def _rules(rules: list[Any]) -> Table:
    rows: list[list[Cell]] = []
    for rule in rules:
        raw = {k: v for k, v in msgspec.to_builtins(rule).items() if v not in ("", [], {}, None, False, 0)}
        name = str(raw.pop("name", "") or raw.get("metric", ""))
        told = ", ".join(f"{k} = {v}" for k, v in raw.items())
        rows.append([Cell(name, name), Cell(told, raw)])
    return Table(
        "rules",
        "Rules of the policy",
        (Column("Rule", "name"), Column("What it says", "rule")),
        rows,
        empty="The policy has no [[alarm]]: the built-in rules hold.",
    )
