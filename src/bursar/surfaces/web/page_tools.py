"""Tools and models: per tool what its failures cost, per model and tier its share, and which model another one stood in for."""

from __future__ import annotations

from ...stores.query import Filter, Query
from ...stores.reader import Reader
from .. import tables
from . import blocks, shelf
from .asks import Ask
from .blocks import Block, Cell, Column, Note, Page, Table, Tile, Tiles
from .shelf import Shelf, dollars

TOP = 25
FALLBACK = Filter("operation", ("fallback",))
RATE_BAD = 20  # one in so many calls that fall back is more than anybody should not notice


def page(ask: Ask, reader: Reader, _: Shelf) -> Page:
    span = (ask.period.since, ask.period.until)
    (total,) = reader.query(Query(("cost", "calls", "tries"), (), ask.filters, *span))
    if not total["tries"]:
        return Page(
            "tools", "Tools and models", [Note("empty", "No call in this period", ["Choose a longer period, or take a filter away."])]
        )
    cost = dollars(total["cost"])
    tools, wasted = _tools(ask, reader, cost)
    pairs, fell, extra = _pairs(ask, reader, cost)
    models = _models(ask, reader, cost)
    made: list[Block] = [
        Tiles(
            "figures",
            (
                Tile(
                    "tools",
                    "Asking again after tools failed",
                    tables.money(wasted),
                    blocks.plain(wasted),
                    "",
                    f"{tables.share(wasted, cost)} of the bill",
                    "bad" if wasted * RATE_BAD > cost > 0 else "",
                ),
                Tile(
                    "fallbacks",
                    "Fallbacks",
                    tables.money(extra),
                    blocks.plain(extra),
                    ask.rows(FALLBACK),
                    f"{fell:,} calls, {tables.share(fell, total['calls'])} of all",
                    "bad" if fell * RATE_BAD > total["calls"] else "",
                ),
                Tile(
                    "models",
                    "Models",
                    tables.count(len(models.rows)),
                    len(models.rows),
                    "",
                    f"{models.rows[0][0].text} takes {models.rows[0][2].text}" if models.rows else "",
                ),
            ),
        ),
        tools,
        pairs,
        models,
        _tiers(ask, reader, cost),
    ]
    lead = f"{tables.money(wasted)} went into asking again after a tool failed, {tables.money(extra)} into {fell:,} fallbacks."
    return Page("tools", "Tools and models", made, lead, main="tools")


def _tools(ask: Ask, reader: Reader, whole: int) -> tuple[Table, int]:
    """Per tool: calls that replies asked for (where the evidence says so), retries its failures made, and what those cost."""
    span = (ask.period.since, ask.period.until)
    again = shelf.ask(
        reader,
        ("cause", "cost", "conversation"),
        """SELECT cause, count(*) AS n, sum(cost) AS cost, count(DISTINCT conversation) FILTER (conversation <> '') AS talks
           FROM {rows}
           AND starts_with(cause, 'tool:') GROUP BY 1 ORDER BY cost DESC LIMIT 100""",
        ask.filters,
        *span,
    )
    called = {
        row["tool"]: row["n"]
        for row in shelf.ask(
            reader,
            ("evidence",),
            """SELECT tool, count(*) AS n FROM (
                 SELECT unnest(CAST(json_extract_string(evidence, '$.called[*]') AS VARCHAR[])) AS tool FROM {rows}
               AND contains(evidence, '"called"')) GROUP BY 1 ORDER BY n DESC LIMIT 200""",
            ask.filters,
            *span,
        )
    }
    most = max((dollars(row["cost"]) for row in again), default=0)
    rows: list[list[Cell]] = []
    wasted = 0
    for row in again:
        tool, cost = row["cause"].removeprefix("tool:"), dollars(row["cost"])
        wasted += cost
        href = ask.rows(Filter("cause", (row["cause"],)))
        calls = called.pop(tool, None)
        rows.append(
            [
                Cell(tool, tool, href),
                blocks.count(calls) if calls is not None else Cell("", None),
                blocks.count(row["n"]),
                blocks.count(row["talks"]),
                blocks.money(cost, href, bar=blocks.ratio(cost, most)),
                blocks.share(cost, whole),
            ]
        )
    for tool, calls in called.items():
        rows.append([Cell(tool, tool), blocks.count(calls), Cell("0", 0), Cell("0", 0), blocks.money(0), Cell("", None)])
    heads = (
        Column("Tool", "tool"),
        Column("Called", "called", True),
        Column("Asked again after it failed", "retries", True),
        Column("Conversations", "conversations", True),
        Column("Cost of asking again", "cost", True),
        Column("Share", "share", True),
    )
    empty = "No tool's failure made an agent ask again in this period."
    return Table(
        "tools",
        "Tools",
        heads,
        rows[:TOP],
        empty=empty,
        note="A row appears where a reply asked for a tool, or an agent asked again because it failed." if rows else "",
    ), wasted


def _pairs(ask: Ask, reader: Reader, whole: int) -> tuple[Table, int, int]:
    span = (ask.period.since, ask.period.until)
    found = reader.query(
        Query(("cost", "tries", "conversations"), ("model_requested", "model_served"), (*ask.filters, FALLBACK), *span, top=TOP)
    )
    asked = {row["model_requested"]: row["calls"] for row in reader.query(Query(("calls",), ("model_requested",), ask.filters, *span))}
    rows: list[list[Cell]] = []
    fell = extra = 0
    for row in found:
        asked_for, served, cost = row["model_requested"], row["model_served"], dollars(row["cost"])
        fell, extra = fell + row["tries"], extra + cost
        href = ask.rows(FALLBACK, Filter("model_requested", (asked_for,)), Filter("model_served", (served,)))
        calls = asked.get(asked_for, 0)
        rows.append(
            [
                Cell(asked_for, asked_for, href),
                Cell(served, served),
                blocks.count(row["tries"]),
                blocks.share(row["tries"], calls, tone="bad" if row["tries"] * RATE_BAD > calls else ""),
                blocks.money(cost, href),
                blocks.share(cost, whole),
            ]
        )
    heads = (
        Column("Asked for", "model_requested"),
        Column("Answered by", "model_served"),
        Column("Tries", "tries", True),
        Column("of calls to the first", "rate", True),
        Column("Cost", "cost", True),
        Column("Share", "share", True),
    )
    return Table("fallbacks", "Fallbacks", heads, rows, empty="No call fell back to another model in this period."), fell, extra


def _models(ask: Ask, reader: Reader, whole: int) -> Table:
    span = (ask.period.since, ask.period.until)
    found = reader.query(Query(("cost", "tries", "errors", "tokens"), ("model_served",), ask.filters, *span, top=TOP))
    waits = shelf.percentiles(reader, "model_served", "latency_ms", (50, 95), ask.filters, *span)
    most = max((dollars(row["cost"]) for row in found), default=0)
    rows: list[list[Cell]] = []
    for row in found:
        cost, one = dollars(row["cost"]), Filter("model_served", (row["model_served"],))
        errors = ask.rows(one, Filter("status", ("error", "unknown"))) if row["errors"] else ""
        rows.append(
            [
                blocks.label(row["model_served"], ask.rows(one), nobody="(no model)"),
                blocks.money(cost, ask.rows(one), bar=blocks.ratio(cost, most)),
                blocks.share(cost, whole),
                blocks.count(row["tries"]),
                Cell(tables.brief(int(row["tokens"] or 0)), int(row["tokens"] or 0)),
                Cell(
                    tables.count(row["errors"]), row["errors"], errors, tone="bad" if row["errors"] * RATE_BAD > row["tries"] else ""
                ),
                *[blocks.count(ms) for ms in waits.get(row["model_served"], (None, None))],
            ]
        )
    heads = (
        Column("Model", "model"),
        Column("Cost", "cost", True),
        Column("Share", "share", True),
        Column("Tries", "tries", True),
        Column("Tokens", "tokens", True),
        Column("Errors", "errors", True),
        Column("ms, half", "p50_ms", True),
        Column("ms, 95%", "p95_ms", True),
    )
    return Table("models", "Models", heads, rows)


def _tiers(ask: Ask, reader: Reader, whole: int) -> Table:
    found = reader.query(Query(("cost", "tries"), ("tier",), ask.filters, ask.period.since, ask.period.until, top=TOP))
    rows = [
        [
            blocks.label(row["tier"], ask.rows(Filter("tier", (row["tier"],))), nobody="(no tier)"),
            blocks.money(dollars(row["cost"]), ask.rows(Filter("tier", (row["tier"],)))),
            blocks.share(dollars(row["cost"]), whole),
            blocks.count(row["tries"]),
        ]
        for row in found
    ]
    if all(row["tier"] == "" for row in found):
        rows = []
    heads = (Column("Tier", "tier"), Column("Cost", "cost", True), Column("Share", "share", True), Column("Tries", "tries", True))
    return Table(
        "tiers",
        "Tiers",
        heads,
        rows,
        empty="No call went by tier. [tiers] and [[route]] in the policy name them; the audit says what they would save.",
    )
