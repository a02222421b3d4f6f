"""A ledger with a known past, for tests of what reads ledgers: about two thousand tries of a company with every kind of trouble."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path

from bursar.domain.entry import Entry, Settlement
from bursar.domain.price import Price, Rate
from bursar.domain.usage import Tokens
from bursar.rules import price as pricing
from bursar.rules.record import add_usage
from bursar.stores.writer import Ledger

HOUR = 3_600_000_000
DAY = 24 * HOUR
END = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z, a Monday
START = END - 21 * DAY

PRICES = {
    "gpt-5-mini": Price("test/openai/gpt-5-mini", "openai", "gpt-5-mini", {
        "input": Rate(250_000_000), "cache_read": Rate(25_000_000), "output": Rate(2_000_000_000)}),
    "gpt-5": Price("test/openai/gpt-5", "openai", "gpt-5", {
        "input": Rate(1_250_000_000), "cache_read": Rate(125_000_000), "output": Rate(10_000_000_000)}),
    "claude-sonnet-4-5": Price("test/anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5", {
        "input": Rate(3_000_000_000), "cache_read": Rate(300_000_000), "cache_write": Rate(3_750_000_000),
        "output": Rate(15_000_000_000)}),
}  # fmt: skip
TENANTS = ("acme", "globex", "initech", "umbrella", "")
FEATURES = ("support", "search", "reports", "")
HOSTILE = "\x1b[31mred\x1b[0m\u202e[bold]x[/bold]\r"


def entry(number: int, ts: int, tokens: Tokens, model: str | None = "gpt-5-mini", **more: object) -> Entry:
    """A settled row of one try; no model: nobody knows its price. `more` overrules any column."""
    price = PRICES.get(model or "")
    priced = pricing.bill(tokens, price)
    used: dict[str, object] = {}
    add_usage(used, tokens)
    row = Entry(
        id=f"c{number:06d}.1", ts=ts, call=f"c{number:06d}", try_no=1, provider=price.provider if price else "openai",
        dialect="openai_chat", model_requested=model or "mystery", model_served=model or "mystery", status="ok",
        http_status=200, ended="complete", usage_source="provider", price_id=priced.price_id, price_status=priced.status,
        latency_ms=400 + number % 700, ttft_ms=120, overhead_us=300, node="test", request_hash=f"{number % 50:032x}",
    )._replace(**used, **pricing.columns(priced))  # fmt: skip
    return row._replace(**more)  # type: ignore[arg-type]


def month(seed: int = 1, count: int = 2000, huge: bool = True) -> list[Entry]:
    """Rows over the three weeks before END, oldest first: first tries, retries, fallbacks, evals, refused, unpriced, estimated,
    corrected, one of them huge; labels present, absent and hostile."""
    chance = random.Random(seed)
    rows: list[Entry] = []
    for number in range(count):
        ts = START + number * (21 * DAY // count)
        tokens = Tokens(
            input=chance.randrange(50, 9000), cache_read=chance.choice((0, 0, 2048)), output=chance.randrange(5, 900),
            reasoning=chance.choice((0, 0, 256)),
        )  # fmt: skip
        model = chance.choice(("gpt-5-mini",) * 6 + ("gpt-5",) * 2 + ("claude-sonnet-4-5",))
        labels = {"tenant": chance.choice(TENANTS), "feature": chance.choice(FEATURES), "flow": chance.choice(("refund", ""))}
        row = entry(number, ts, tokens, model, conversation=f"conv-{number // 8}", turn=number % 8, **labels)
        if chance.random() < 0.3:
            row = row._replace(labels=json.dumps({"team": chance.choice(("red", "blue", HOSTILE)), "pr": str(number % 7)}))
        kind = chance.random()
        if kind < 0.05:
            row = row._replace(
                id=f"{row.call}.2", try_no=2, attempt_kind="retry", operation="retry", cause=chance.choice(("5xx", "timeout"))
            )
        elif kind < 0.08:
            row = row._replace(attempt_kind="fallback", operation="fallback", cause="malformed")
        elif kind < 0.2:
            row = row._replace(operation="eval", purpose="eval")
        elif kind < 0.22:
            row = entry(number, ts, tokens, None, **labels)
        elif kind < 0.24:
            row = row._replace(usage_source="estimated", price_status="estimated", ended="abandoned")
        elif kind < 0.26:
            none = dict.fromkeys(("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"))
            row = entry(number, ts, Tokens(), model, status="refused", ended="refused", http_status=402,
                        error="budget_exceeded", cost=0, **labels, **none)  # fmt: skip
        rows.append(row)
    much = Tokens(input=3_000_000_000_000)  # $9 M in one row: two of them pass what 64 bits of pico-dollars hold
    for extra in range(2 if huge else 0):
        rows.append(entry(count + extra, END - 2 * DAY + extra, much, "claude-sonnet-4-5", tenant="acme", feature="reports"))
    first = rows[0]
    rows.append(first._replace(
        id=f"{first.id}.fix", ts=END - DAY, attempt_kind="correction", status="correction", source="correction",
        corrects=first.id, cost=-1000, cost_input=-1000, cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=0,
        legs=json.dumps([["input", -1, 1_000_000, -1000]]), input=None, cache_read=None, cache_write=None, cache_write_1h=None, output=None,
        reasoning=None,
    ))  # fmt: skip
    return rows


def write(path: Path, rows: Iterable[Entry]) -> None:
    """A ledger at `path` with these rows, written as the gateway writes them."""

    async def book(ledger: Ledger) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*[ledger.book_soon(Settlement(row.id, row, (), ()), loop) for row in rows])

    with Ledger.open(path, node="test", clock_us=lambda: END) as ledger:
        asyncio.run(book(ledger))
