"""What becomes of a hold that nobody settled: the row that charges it, and the correction when the settle comes after all."""

from __future__ import annotations

import msgspec

from ..domain.entry import Entry, Settlement

# The same word as for a try that went out and brought no answer: both are charged at their hold.
CHARGED_AT_HOLD = "rule:charged-at-hold"
LATE = ":late"  # what a correction's id adds to the id it corrects

_decoder = msgspec.json.Decoder(list[tuple[str, int, int, int]])


def held_leg(pico: int, count: int = 1) -> list[tuple[str, int, int, int]]:
    """`count` units at the held amount, so that the row still recomputes from its legs."""
    return [("hold", count, pico * 1000, count * pico)]


def charged(entry: Entry, amount: int) -> Entry:
    """The row of a try whose owner is gone: unknown, charged at its hold. A hold without a price stays without one."""
    common = entry._replace(
        status="unknown", ended="failed", error="owner_gone", usage_source="unknown", hold=amount, price_id=CHARGED_AT_HOLD,
        flags=f"{entry.flags} lapsed".strip(),
    )  # fmt: skip
    if not amount:
        return common._replace(cost=None, legs="[]", price_id="", price_status="unpriced")
    return common._replace(
        cost=amount, cost_input=0, cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=amount,
        legs=msgspec.json.encode(held_leg(amount)).decode(), price_status="estimated",
    )  # fmt: skip


def late(settlement: Settlement, amount: int) -> Entry:
    """The correction that turns a charged hold into what the try really cost. `amount`: what its row was charged.

    When the real cost is not known either, the charge stands and only the counts are added."""
    entry = settlement.entry
    row = entry._replace(
        id=settlement.id + LATE, corrects=settlement.id, attempt_kind="correction", status="correction", source="correction",
        flags=f"{entry.flags} late".strip(), hold=0,
    )  # fmt: skip
    if entry.cost is None:
        return row._replace(cost=0 if amount else None, cost_other=0 if amount else None, legs="[]")
    if not amount:
        return row
    legs = [*_decoder.decode(entry.legs), *held_leg(amount, -1)]
    return row._replace(cost=entry.cost - amount, cost_other=(entry.cost_other or 0) - amount, legs=msgspec.json.encode(legs).decode())
