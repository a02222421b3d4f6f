"""Calls: the rows themselves, filtered and sorted, with the sum they come to; and one row with its legs, labels and evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...domain.money import show
from ...stores.query import Filter, Query, compile_filter
from ...stores.reader import Reader
from .. import tables
from ..cli_calls import COLUMNS as ALL_COLUMNS
from ..cli_calls import program_row
from ..cli_common import pico
from . import blocks, shelf
from .asks import Ask, BadAsk, link
from .blocks import Block, Cell, Column, Facts, Note, Page, Table, Tile, Tiles
from .shelf import Shelf, dollars

EACH = 50
PAGES_MAX = 2_000
READ = "coalesce(input, 0) + coalesce(cache_read, 0) + coalesce(cache_write, 0) + coalesce(cache_write_1h, 0)"
WRITTEN = "coalesce(output, 0) + coalesce(reasoning, 0)"

# What a link may have summed: the whole cost, or a part of it (`cost_visible`: without the history that was sent again).
SUMS = {
    "cost": "cost",
    "cost_visible": "coalesce(cost, 0) - coalesce(cost_history, 0)",
    "cost_history": "cost_history",
    "cost_new": "cost_new",
    "cost_tools": "cost_tools",
    "cost_system": "cost_system",
    "cost_input": "cost_input",
    "cost_cache_read": "cost_cache_read",
    "cost_cache_write": "cost_cache_write",
    "cost_output": "cost_output",
    "cost_other": "cost_other",
    "saved": "saved",
    "hold": "hold",
}
NAMES = {
    "cost": "Cost",
    "cost_visible": "Cost without history sent again",
    "cost_history": "Cost of history sent again",
    "cost_new": "Cost of what is new",
    "cost_tools": "Cost of tool results",
    "cost_system": "Cost of system prompt and schemas",
    "cost_input": "Cost of input",
    "cost_cache_read": "Cost of cache reads",
    "cost_cache_write": "Cost of cache writes",
    "cost_output": "Cost of output",
    "cost_other": "Cost of other units",
    "saved": "Saved",
    "hold": "Held",
}
SORTS = {
    "ts": "ts",
    "read": f"({READ})",
    "written": f"({WRITTEN})",
    "cost": "",
    "latency_ms": "latency_ms",
    "feature": "feature",
    "model": "model_served",
    "operation": "operation",
    "status": "status",
}
SHOWN = (
    "id",
    "ts",
    "call",
    "try_no",
    "operation",
    "cause",
    "tenant",
    "feature",
    "conversation",
    "model_served",
    "model_requested",
    "status",
    "error",
    "price_status",
    "latency_ms",
    "attempt_kind",
)
NEEDED = (*SHOWN, "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "cost")


def sums_of(ask: Ask, reader: Reader) -> dict[str, Any]:
    """What the rows of a question come to: `n` tries of `calls`, `money` in dollars (of the column that the URL names), `unpriced`."""
    of = ask.word("of", "cost")
    if of not in SUMS:
        raise BadAsk(f"of={of!r} is no sum of money; it is one of {', '.join(SUMS)}")
    (sums,) = shelf.ask(
        reader,
        ("call", "price_status", *_columns(of)),
        f"""SELECT count(*) AS n, sum({SUMS[of]}) AS money, count(DISTINCT call) AS calls,
            count(*) FILTER (price_status = 'unpriced') AS unpriced FROM {{rows}}""",
        ask.filters,
        ask.period.since,
        ask.period.until,
    )
    return sums


def _columns(of: str) -> tuple[str, ...]:
    return ("cost", "cost_history") if of == "cost_visible" else (of,)


def page(ask: Ask, reader: Reader, _: Shelf) -> Page:
    of = ask.word("of", "cost")
    sums = sums_of(ask, reader)
    sort = ask.word("sort", "-ts")
    order = SORTS.get(sort.removeprefix("-"))
    if order is None:
        raise BadAsk(f"sort={sort!r}; sort by {', '.join(SORTS)}, with - for the largest first")
    number = max(1, ask.number("page", 1, PAGES_MAX))
    money = SUMS[of]
    columns = (*NEEDED, *_columns(of))
    span = (ask.period.since, ask.period.until)
    found = shelf.ask(
        reader,
        columns,
        f"""SELECT {", ".join(f'"{"try" if c == "try_no" else c}"' for c in SHOWN)}, {READ} AS read,
            {WRITTEN} AS written, {money} AS money FROM {{rows}}
            ORDER BY {order or money} {"DESC" if sort.startswith("-") else "ASC"} NULLS LAST, id
            LIMIT {EACH} OFFSET {(number - 1) * EACH}""",
        ask.filters,
        *span,
    )
    total = dollars(sums["money"])
    figures = Tiles(
        "figures",
        (
            Tile(
                "total",
                NAMES[of],
                tables.money(total, 4 if total < 10**13 else 2),
                blocks.plain(total),
                "",
                f"exactly ${blocks.plain(total)}" if total else "",
            ),
            Tile("rows", "Tries", tables.count(sums["n"]), sums["n"], "", f"of {sums['calls']:,} calls"),
            *(
                [
                    Tile(
                        "unpriced",
                        "Unpriced",
                        tables.count(sums["unpriced"]),
                        sums["unpriced"],
                        ask.rows(Filter("price_status", ("unpriced",))),
                        "not in the sum",
                        "bad",
                    )
                ]
                if sums["unpriced"]
                else []
            ),
        ),
    )

    def head(name: str, key: str, right: bool = False, by: str = "") -> Column:
        word = by or key
        down = sort == f"-{word}"
        state = "" if sort.removeprefix("-") != word else "descending" if down else "ascending"
        return Column(name, key, right, ask.again(sort=word if down else f"-{word}", page=""), state)

    heads = (
        head(f"Time ({ask.zone})", "ts"),
        head("Feature", "feature"),
        Column("Tenant", "tenant"),
        head("Operation", "operation"),
        head("Model", "model"),
        head("Read", "read", True),
        head("Written", "written", True),
        head(NAMES[of], of, True, "cost"),
        head("ms", "latency_ms", True),
        head("Ended", "status"),
    )
    rows = [_row(ask, row, of) for row in found]
    last = number * EACH < sums["n"]
    table = Table(
        "calls",
        "Tries" if sort == "-ts" else "Tries, sorted",
        heads,
        rows,
        note=f"{(number - 1) * EACH + 1:,} to {(number - 1) * EACH + len(rows):,} of {sums['n']:,}" if rows else "",
        empty="No call fits. Take a filter away above, or choose a longer period.",
        more=ask.again(page=str(number + 1)) if last and number < PAGES_MAX else "",
    )
    lead = f"{sums['n']:,} tries come to {tables.money(total, 4 if total < 10**13 else 2)}."
    return Page("calls", "Calls", (figures, table), lead, raw={"of": of, "sum": blocks.plain(total), "count": sums["n"]})


def _row(ask: Ask, row: Mapping[str, Any], of: str) -> list[Cell]:
    one = _one(ask, row["id"])
    moment = int(row["ts"].timestamp()) * 1_000_000 + row["ts"].microsecond
    unsure = {"estimated": "estimated", "unpriced": "unpriced"}.get(row["price_status"], "")
    broken = row["status"] in ("error", "refused", "unknown")
    money = row["money"]
    return [
        Cell(ask.shown(moment, seconds=True), program_row({"ts": row["ts"]})["ts"], one, tone="nowrap"),
        blocks.label(row["feature"]),
        blocks.label(row["tenant"]),
        Cell(row["operation"], row["operation"], note=row["cause"]),
        Cell(row["model_served"] or row["model_requested"], row["model_served"] or row["model_requested"], tone="wide"),
        Cell(tables.brief(row["read"]), int(row["read"])),
        Cell(tables.brief(row["written"]), int(row["written"])),
        blocks.money(None if money is None else pico(money), one, 4, note=unsure),
        blocks.count(row["latency_ms"]) if row["latency_ms"] is not None else Cell("", None),
        Cell(row["status"], row["status"], note=row["error"], tone="bad" if broken else "dim"),
    ]


def _one(ask: Ask, id: str) -> str:
    return link("call", [("id", id), *[(k, v) for k, v in ask.given if k == "zone"]])


# -- one row ---------------------------------------------------------------------------------------------------------------

WHAT = (
    "call",
    "try",
    "attempt_kind",
    "operation",
    "purpose",
    "cause",
    "provider",
    "dialect",
    "model_requested",
    "model_served",
    "tier",
    "route_reason",
    "service_tier",
    "stream",
    "status",
    "http_status",
    "error",
    "ended",
    "finish",
)
WHO = ("key", "tenant", "feature", "flow", "user", "conversation", "turn", "tool_depth")
COSTS = ("cost", "cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other")
SHARES = (
    ("cost_new", "New this turn"),
    ("cost_history", "History sent again"),
    ("cost_tools", "Tool results"),
    ("cost_system", "System prompt and schemas"),
)
HOW = (
    "usage_source",
    "price_id",
    "price_status",
    "hold",
    "saved",
    "saved_by",
    "latency_ms",
    "ttft_ms",
    "overhead_us",
    "request_hash",
    "prefix_hash",
    "response_id",
    "policy_hash",
    "node",
    "source",
    "corrects",
    "flags",
    "id",
)


def one(ask: Ask, reader: Reader, _: Shelf) -> Page | None:
    """The row with that id; None when there is none, or it is not for this viewer."""
    columns = ", ".join(f'"{c}"' for c in ALL_COLUMNS)
    id = ask.word("id")
    only = compile_filter(Query(where=(Filter("id", (id,)), *ask.bound)))
    found = reader.sql(f"SELECT {columns} FROM entries WHERE {only.sql}", only.values, only.columns)
    if not found:
        return None
    raw = found[0]
    row = program_row(raw)
    moment = int(raw["ts"].timestamp()) * 1_000_000 + raw["ts"].microsecond
    others = reader.sql(
        "SELECT id, try, operation, cause, model_served, status, error, cost FROM entries WHERE call = $call ORDER BY try, id",
        {"call": raw["call"]},
    )
    cost = None if raw["cost"] is None else pico(raw["cost"])
    made: list[Block] = [
        Tiles(
            "figures",
            (
                Tile(
                    "cost",
                    "Cost",
                    "?" if cost is None else tables.money(cost, 4),
                    row["cost"],
                    "",
                    f"${row['cost']}" if cost else row["price_status"],
                ),
                Tile(
                    "status",
                    "Ended",
                    row["status"],
                    row["status"],
                    "",
                    row["error"] or row["ended"],
                    "bad" if row["status"] != "ok" else "",
                ),
                Tile(
                    "model",
                    "Model",
                    row["model_served"] or row["model_requested"],
                    row["model_served"],
                    "",
                    f"asked for {row['model_requested']}"
                    if row["model_requested"] not in ("", row["model_served"])
                    else row["provider"],
                ),
                Tile("time", "When", ask.shown(moment, seconds=True), row["ts"], "", ask.zone),
            ),
        ),
        _legs(row, cost),
        _share(ask, raw, row),
    ]
    talk = {"conversation": ask.again("conversation", id=row["conversation"], since="", until="")} if row["conversation"] else {}
    made += [
        Facts("what", "What was asked", _facts(row, WHAT, {"call": ask_call(ask, row["call"])})),
        Facts("who", "For whom", [*_facts(row, WHO, talk), *_labels(row)]),
        Facts("how", "How it is known", _facts(row, HOW)),
    ]
    if row["evidence"]:
        made.append(
            Note(
                "evidence",
                "Evidence",
                ["How conversation, cause and context share were inferred, as the row keeps it."],
                json.dumps(row["evidence"], indent=2, ensure_ascii=False),
            )
        )
    if len(others) > 1:
        made.append(_tries(ask, others, id))
    return Page("call", f"Try {row['try']} of call {row['call']}", made, timed=False, main="legs", raw={"row": row})


def ask_call(ask: Ask, call: str) -> str:
    return link("calls", [("call", call), ("since", "all"), *[(k, v) for k, v in ask.given if k == "zone"]])


def _facts(row: Mapping[str, Any], names: tuple[str, ...], hrefs: Mapping[str, str] | None = None) -> list[tuple[str, Cell]]:
    made: list[tuple[str, Cell]] = []
    for name in names:
        value = row[name]
        if value in ("", None):
            continue
        made.append((name, Cell(str(value), value, (hrefs or {}).get(name, ""))))
    return made


def _labels(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    sources = row["label_sources"] or {}
    found = [(name, Cell(value, value)) for name, value in (row["labels"] or {}).items()]
    if sources:
        told = ", ".join(f"{name} by {source}" for name, source in sources.items())
        found.append(("labels were said", Cell(told, sources, tone="dim")))
    return found


def _legs(row: Mapping[str, Any], cost: int | None) -> Table:
    rows: list[list[Cell]] = []
    for bucket, count, each, amount in row["legs"]:
        rows.append(
            [
                Cell(str(bucket), bucket),
                blocks.count(int(count)),
                Cell(show(int(each) * 1000, 2), int(each)),
                blocks.money(int(amount), "", 6),
            ]
        )
    heads = (
        Column("Leg", "leg"),
        Column("Count", "count", True),
        Column("Price of a million", "femto_dollars_each", True),
        Column("Amount", "amount", True),
    )
    total = [Cell("Total", None), Cell("", None), Cell("", None), blocks.money(cost, "", 6)]
    return Table("legs", "Legs: count by price", heads, rows, total, empty="No leg: nothing of it was priced.")


def _share(ask: Ask, raw: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    found = [(name, told, pico(raw[name])) for name, told in SHARES if raw[name] is not None]
    whole = sum(amount for _, _, amount in found)
    rows = [
        [Cell(told, name, colour=n), blocks.money(amount, "", 6, bar=blocks.ratio(amount, whole)), blocks.share(amount, whole)]
        for n, (name, told, amount) in enumerate(found)
    ]
    heads = (Column("What the input was", "part"), Column("Cost", "cost", True), Column("Share", "share", True))
    return Table("context", "Context share of the input", heads, rows, empty="Nothing is known of what the input consisted of.")


def _tries(ask: Ask, others: list[dict[str, Any]], id: str) -> Table:
    rows = [
        [
            Cell(str(o["try"]), o["try"], _one(ask, o["id"]) if o["id"] != id else ""),
            Cell(o["operation"], o["operation"], note=o["cause"]),
            Cell(o["model_served"], o["model_served"]),
            Cell(o["status"], o["status"], note=o["error"]),
            blocks.money(None if o["cost"] is None else pico(o["cost"]), "", 4),
        ]
        for o in others
    ]
    heads = (
        Column("Try", "try"),
        Column("Operation", "operation"),
        Column("Model", "model"),
        Column("Ended", "status"),
        Column("Cost", "cost", True),
    )
    return Table("tries", "All tries of this call", heads, rows)
