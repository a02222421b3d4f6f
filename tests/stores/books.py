"""Rows, holds and settlements for the ledger's tests, and ledgers that die as processes do. Legs and columns foot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bursar.domain.entry import Charge, Entry, Hold, Settlement
from bursar.stores.writer import Ledger

T0 = 1_790_000_000_000_000  # 2026-09-21T14:13:20Z
NANO = 1_000  # pico-dollars in a nano-dollar


def charge(counter: str, amount: int, limit: int | None = None, *, unit: str = "usd", hard: bool = True) -> Charge:
    return Charge(counter, counter.partition("|")[0], unit, amount, limit, hard)


def entry(id: str, *, cost: int | None = 5_000 * NANO, ts: int = T0, **columns: object) -> Entry:
    """A complete row whose cost is all input; other columns by name."""
    row = Entry(
        id=id, ts=ts, call=id.partition(".")[0], try_no=1, provider="openai", dialect="openai_chat", model_requested="m",
        model_served="m-1", status="ok", http_status=200, ended="complete", input=10, cache_read=0, cache_write=0,
        cache_write_1h=0, output=4, reasoning=0, usage_source="provider", cost=cost, hold=9_000 * NANO, latency_ms=120,
    )  # fmt: skip
    if cost is not None:
        row = row._replace(
            cost_input=cost, cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=0, price_status="priced",
            price_id="test/m", legs=json.dumps([["input", 1, cost * 1000, cost]]),
        )  # fmt: skip
    return row._replace(**columns)


def hold(id: str, charges: Iterable[Charge] = (), *, amount: int = 9_000 * NANO, ts: int = T0, **columns: object) -> Hold:
    draft = Entry(id=id, ts=ts, call=id.partition(".")[0], try_no=1, provider="openai", model_requested="m", hold=amount)
    return Hold(id, ts, amount, tuple(charges), draft._replace(**columns))


def settle(held: Hold, actual: Sequence[int] | None = None, **columns: object) -> Settlement:
    """The settlement of a hold; every charge takes half of what was held unless said otherwise."""
    used = tuple(actual) if actual is not None else tuple(c.amount // 2 for c in held.charges)
    return Settlement(held.id, entry(held.id, ts=held.ts, **columns), used, held.charges)


class Clocks:
    """The wall clock of rows and the monotonic one of leases; a test moves them."""

    def __init__(self) -> None:
        self.wall_us = T0
        self.ticks_us = 1_000_000_000

    def wall(self) -> int:
        return self.wall_us

    def ticks(self) -> int:
        return self.ticks_us

    def lapse(self) -> None:
        """Longer than any lease."""
        self.ticks_us += 45_000_000
        self.wall_us += 45_000_000


def opened(path: Path, clocks: Clocks, *, busy_ms: int = 2_000, ack_s: float = 5.0) -> Ledger:
    return Ledger.open(path, clock_us=clocks.wall, ticks=clocks.ticks, busy_ms=busy_ms, ack_s=ack_s)


def die(ledger: Ledger) -> None:
    """What is left of a ledger whose process was killed: its lease, its holds, and nothing that would be tidied up."""
    with ledger._lock:
        ledger._drop_tail()
        ledger._closed = True
    ledger._keeper.ring()
