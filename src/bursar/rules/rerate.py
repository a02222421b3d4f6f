"""Re-rating: the correction that brings a row to another price. Pure, integers only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import cast

from ..domain.entry import Entry
from ..domain.price import Leg, Price
from ..domain.shape import replace
from ..domain.usage import TOKEN_BUCKETS, Tokens
from .price import INPUT_SIDE, SHARES, bill, legs_json, read_legs, recompute, split, spread


def tokens_of(entry: Entry) -> Tokens | None:
    """The usage that a row's columns state, or None when the row knows none."""
    if entry.input is None or entry.output is None:
        return None
    named: dict[str, int] = {}
    other: list[tuple[str, int]] = []
    extra = cast("dict[str, int]", json.loads(entry.other_units or "{}"))
    for unit, count in extra.items():
        if unit in TOKEN_BUCKETS:
            named[unit] = count
        else:
            other.append((unit, count))
    return Tokens(
        input=entry.input, cache_read=entry.cache_read or 0, cache_write=entry.cache_write or 0,
        cache_write_1h=entry.cache_write_1h or 0, output=entry.output, reasoning=entry.reasoning or 0,
        other=tuple(other), **named,
    )  # fmt: skip


def rerate(entry: Entry, price: Price, corrections: Sequence[Entry] = ()) -> Entry | None:
    """The correction that brings a row to another price, or None when it changes nothing, when the row has no usage, or
    when the new price cannot complete the bill. ValueError where the row's cost is not what its legs make.

    `corrections` are those the row already has: the difference is to what is booked now. The correction stands at the
    row's own time and labels, so that every partition of the bill foots; its tokens are None, so that no usage counts
    twice. Its id follows from row, bill and price: booking it twice is one booking. Its legs are the old ones taken
    back and the new ones, so it recomputes like any row."""
    tokens = tokens_of(entry)
    if tokens is None or entry.source == "correction":
        return None
    booked = [entry, *corrections]
    for row in booked:
        made = recompute(row.legs)
        if made != (row.cost or 0):
            raise ValueError(f"row {row.id} says cost {row.cost}, its legs make {made}: run `bursar check`")
    new = bill(tokens, price)
    if new.pico is None or new.status == "unpriced":
        return None
    if entry.usage_source == "estimated" and new.status == "priced":
        new = replace(new, status="estimated")
    legs = net([leg for row in booked for leg in read_legs(row.legs)], new.legs)
    if not legs and booked[-1].price_status == new.status:
        return None
    sums = split(legs)
    digest = blake2b(f"{price.id} {len(corrections)} {legs_json(new.legs)}".encode(), digest_size=6).hexdigest()
    return entry._replace(
        id=f"{entry.id}~{digest}", attempt_kind="correction", status="correction", source="correction",
        corrects=entry.id, input=None, cache_read=None, cache_write=None, cache_write_1h=None, output=None,
        reasoning=None, other_units="{}", usage_raw="", cost=sum(sums.values()), legs=legs_json(legs),
        price_id=price.id, price_status=new.status, hold=0, saved=None, saved_by="", latency_ms=None, ttft_ms=None,
        overhead_us=None, flags="rerated", **sums, **_shares(entry, booked, sums),
    )  # fmt: skip


def net(old: Sequence[Leg], new: Sequence[Leg]) -> tuple[Leg, ...]:
    """What turns the old legs into the new ones: old counts taken back, new ones added, equal ones left out."""
    counts: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for sign, legs in ((-1, old), (1, new)):
        for leg in legs:
            # Rounding is per leg, so counts of two legs may not be merged; only exact opposites cancel.
            pile = counts.setdefault((leg.unit, leg.femto), [])
            signed = (sign * leg.count, sign * leg.pico)
            opposite = (-signed[0], -signed[1])
            if opposite in pile:
                pile.remove(opposite)
            else:
                pile.append(signed)
    return tuple(Leg(unit, count, femto, pico) for (unit, femto), pile in counts.items() for count, pico in pile)


def _shares(entry: Entry, booked: Sequence[Entry], sums: Mapping[str, int]) -> dict[str, int | None]:
    """The input side's difference over what the input was, in the proportion the row had it."""
    weights = [getattr(entry, name) for name in SHARES]
    if any(weight is None for weight in weights):
        return dict.fromkeys(SHARES)
    was = [sum(getattr(row, name) or 0 for row in booked) for name in SHARES]
    target = sum(was) + sum(sums[name] for name in INPUT_SIDE)
    return {name: part - before for name, part, before in zip(SHARES, spread(target, weights), was, strict=True)}
