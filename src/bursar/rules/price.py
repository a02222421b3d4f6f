"""What a try costs: the bill in legs, the worst case, the columns of its row, and re-rating. Pure, integers only.

A used unit is charged, in this order:

1. at its own rate: `priced`;
2. by a rule that providers publish: reasoning and citations at the output rate, images at the input rate: `priced`;
3. at a rate of the same model that it can hardly exceed (STAND_IN), named in `missing`: `estimated`;
4. not at all, named in `missing`: `unpriced`, and the sum is a floor. Never a leg of zero for want of a rate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import compress
from typing import Any, cast

import msgspec

from ..domain.entry import Entry
from ..domain.money import amount
from ..domain.price import Leg, Price, Priced, Rate, made_leg
from ..domain.shape import replace
from ..domain.usage import TOKEN_BUCKETS, Tokens

# Providers publish these: thinking is output, an image is input, unless the model has a rate of its own for them.
SAME_AS: dict[str, str] = {
    "reasoning": "output",
    "output_citation": "output",
    "input_image": "input",
    "input_video": "input",
    "cache_read_image": "cache_read",
}
# unit -> (unit whose rate stands in, times, divided by), the dearest of them taken. Reading a cache does not cost more
# than reading afresh; writing one costs 1.25 times the input for five minutes (272 of the 288 cache-write rates in
# genai-prices 0.2.3) and twice for an hour (79 of 79).
STAND_IN: dict[str, tuple[tuple[str, int, int], ...]] = {
    "cache_read": (("input", 1, 1),),
    "cache_write": (("input", 5, 4),),
    "cache_write_1h": (("input", 2, 1), ("cache_write", 1, 1)),
    "cache_read_image": (("input", 1, 1),),
    "cache_read_audio": (("input_audio", 1, 1),),
}
COLUMN: dict[str, str] = {
    "input": "cost_input",
    "input_audio": "cost_input",
    "input_image": "cost_input",
    "cache_read": "cost_cache_read",
    "cache_read_audio": "cost_cache_read",
    "cache_write": "cost_cache_write",
    "cache_write_1h": "cost_cache_write",
    "output": "cost_output",
    "reasoning": "cost_output",
    "output_audio": "cost_output",
    "output_image": "cost_output",
}
SHARES = ("cost_new", "cost_history", "cost_tools", "cost_system")  # of the input side, see the ledger's columns
INPUT_SIDE = ("cost_input", "cost_cache_read", "cost_cache_write")
SPLIT = (*INPUT_SIDE, "cost_output", "cost_other")
SLOT = {unit: SPLIT.index(column) for unit, column in COLUMN.items()}
SLOTS = tuple([SLOT[unit] for unit in TOKEN_BUCKETS])
OTHER = SPLIT.index("cost_other")
TEXT_IN = ("input", "cache_read", "cache_write")
MEDIA_IN = ("input_audio", "cache_read_audio", "input_image")
TEXT_OUT = ("output", "reasoning")
MEDIA_OUT = ("output_audio", "output_image")
BELOW_ALL = -(1 << 62)  # a tier start that any count of tokens is above
# What may be read, by whether (one-hour cache writes, media) are asked for; what may be written, by whether media are.
ENTERING: dict[tuple[bool, bool], tuple[str, ...]] = {
    (hour, media): (*TEXT_IN, *(("cache_write_1h",) if hour else ()), *(MEDIA_IN if media else ()))
    for hour in (False, True)
    for media in (False, True)
}
LEAVING: dict[bool, tuple[str, ...]] = {False: TEXT_OUT, True: (*TEXT_OUT, *MEDIA_OUT)}
REQUEST = ("request",)


def femto_at(rate: Rate, input_total: int) -> int:
    """The rate in force at this much input: all tokens at the highest tier that it exceeds."""
    for above, femto in reversed(rate.tiers):
        if input_total > above:
            return femto
    return rate.base


UNPRICED = Priced("unpriced", None, (), "")


class _Card:
    """A price with what is asked of it on every call, worked out once: rates by unit; the flat ones (its own, without tiers)
    as femto-dollars in the order of the token buckets, -1 for any other; and the dearest rates of a group of units as (input
    tokens above which, femto-dollars), rising in both."""

    __slots__ = ("dearest", "flat", "price", "rates")

    def __init__(self, price: Price) -> None:
        self.price = price
        self.rates: dict[str, tuple[Rate, bool] | None] = {unit: _rate_of(price, unit) for unit in TOKEN_BUCKETS}
        found = [self.rates[unit] for unit in TOKEN_BUCKETS] if "request" not in price.rates else []
        self.flat = tuple([pair[0].base if pair and not pair[1] and not pair[0].tiers else -1 for pair in found])
        self.dearest: dict[tuple[str, ...], tuple[tuple[int, int], ...]] = {}


CARDS_MAX = 1024  # prices kept ready; a price book hands out the same object for a name again and again
_cards: dict[int, _Card] = {}  # by identity (the card keeps its price alive): a price holds a dict, so it has no hash


def _card(price: Price) -> _Card:
    card = _cards.get(id(price))
    if card is None or card.price is not price:
        if len(_cards) >= CARDS_MAX:
            _cards.clear()
        card = _cards[id(price)] = _Card(price)
    return card


def rate_of(price: Price, unit: str) -> tuple[Rate, bool] | None:
    """(rate, whether it only stands in) for a unit, or None when this price cannot say."""
    rates = _card(price).rates
    if unit in rates:
        return rates[unit]
    found = _rate_of(price, unit)
    # Units that are not tokens are named by providers; only the names we know are worth keeping.
    if unit in COLUMN or unit == "request":
        rates[unit] = found
    return found


def _rate_of(price: Price, unit: str) -> tuple[Rate, bool] | None:
    rate = price.rates.get(unit)
    if rate is not None:
        return rate, False
    same = SAME_AS.get(unit)
    if same is not None and same in price.rates:
        return price.rates[same], False
    stands = [_times(price.rates[base], times, by) for base, times, by in STAND_IN.get(unit, ()) if base in price.rates]
    return (max(stands, key=lambda rate: rate.base), True) if stands else None


def _times(rate: Rate, times: int, by: int) -> Rate:
    return Rate(-(-rate.base * times // by), tuple([(above, -(-femto * times // by)) for above, femto in rate.tiers]))


def used(tokens: Tokens) -> list[tuple[str, int]]:
    """The units that were used, as (unit, count), in column order."""
    found = [pair for pair in zip(TOKEN_BUCKETS, tokens[:-1]) if pair[1]]
    if tokens.other:
        found.extend([pair for pair in tokens.other if pair[1]])
    return found


def bill(tokens: Tokens, price: Price | None) -> Priced:
    """The bill for one try. Negative counts are a caller's bug and raise ValueError: a provider's contradiction is
    flagged before it comes here, never billed backwards."""
    if price is None:
        return UNPRICED
    card = _card(price)
    if not tokens[-1] and card.flat and min(tokens[:-1]) >= 0:
        quick = _flat(tokens, card.flat, price)
        if quick is not None:
            return quick
    units = used(tokens)
    if "request" in price.rates and not any([unit == "request" for unit, _ in units]):
        units.append(("request", 1))
    rates = card.rates
    legs: list[Leg] = []
    parts = [0] * len(SPLIT)
    missing: list[str] = []
    left_out = False
    for unit, count in units:
        if count < 0:
            raise ValueError(f"a bill for {count} {unit}: counts are never negative")
        found = rates.get(unit) or rate_of(price, unit)
        if found is None:
            missing.append(unit)
            left_out = True
            continue
        rate, stands_in = found
        if stands_in and not price.free:
            missing.append(unit)
        femto = femto_at(rate, tokens.input_total) if rate.tiers else rate.base
        pico = (count * femto + 500) // 1000  # money.amount, of a count that is not negative
        parts[SLOT.get(unit, OTHER)] += pico
        legs.append(Leg(unit, count, femto, pico))
    if left_out:
        status = "unpriced"
    elif price.free:
        status = "free"
    else:
        status = "estimated" if missing or price.estimated else "priced"
    return Priced(status, sum(parts) if legs or not left_out else None, tuple(legs), price.id, tuple(parts), tuple(missing))


def _flat(tokens: Tokens, rates: tuple[int, ...], price: Price) -> Priced | None:
    """The bill where each unit used has a flat rate of its own, as nearly always; None where the long way is needed."""
    legs: list[Leg] = []
    parts = [0, 0, 0, 0, 0]  # one per column in SPLIT
    for unit, slot, count, femto in compress(zip(TOKEN_BUCKETS, SLOTS, tokens[:-1], rates), tokens):
        if femto < 0:
            return None
        pico = (count * femto + 500) // 1000
        parts[slot] += pico
        legs.append(made_leg((unit, count, femto, pico)))
    status = "free" if price.free else "estimated" if price.estimated else "priced"
    return Priced(status, sum(parts), tuple(legs), price.id, tuple(parts))


def worst(price: Price, input_tokens: int, output_cap: int, choices: int = 1, *, cache_1h: bool = True, media: bool = True) -> int:
    """Pico-dollars that no bill can exceed for at most `input_tokens` read and `choices` x `output_cap` written, in any
    mix of units that the price can rate. Rises with each argument. `cache_1h=False` and `media=False` say that the
    request asks for no one-hour cache writes, and for no audio or images either way: the bound is then for the rest.
    Tool fees (searches, sessions) are not tokens and not in it."""
    card = _card(price)
    total = amount(input_tokens, _dearest(card, ENTERING[cache_1h, media], input_tokens)) if input_tokens > 0 else 0
    if output_cap > 0:
        total += amount(output_cap * choices if choices > 1 else output_cap, _dearest(card, LEAVING[media], input_tokens))
    if "request" in price.rates:
        total += amount(1, _dearest(card, REQUEST, input_tokens))
    return total


def _dearest(card: _Card, units: tuple[str, ...], input_total: int) -> int:
    steps = card.dearest.get(units)
    if steps is None:
        steps = card.dearest[units] = _steps([found[0] for unit in units if (found := rate_of(card.price, unit)) is not None])
    most = 0
    for above, femto in steps:
        if input_total <= above:
            break
        most = femto
    return most


def _steps(rates: Sequence[Rate]) -> tuple[tuple[int, int], ...]:
    """The dearest of these rates from each tier's start on; a tier that is cheaper than what stood before it does not count."""
    steps: list[tuple[int, int]] = []
    for start in sorted({BELOW_ALL, *[above for rate in rates for above, _ in rate.tiers]}):
        most = max([0, *[rate.base for rate in rates], *[femto for rate in rates for above, femto in rate.tiers if above <= start]])
        # Up to a whole pico-dollar: a bill of many legs rounds each of them, and may not add up to more than this.
        steps.append((start, -(-most // 1000) * 1000))
    return tuple(steps)


def columns(priced: Priced) -> dict[str, Any]:
    """The bill as columns of its row: `cost`, its five parts that sum to it exactly, `legs` as JSON, `price_id` and
    `price_status`. All costs are None where no part of the bill is known."""
    parts: dict[str, Any] = dict(zip(("cost", *SPLIT), money(priced)))
    parts["legs"], parts["price_id"], parts["price_status"] = legs_json(priced.legs), priced.price_id, priced.status
    return parts


Money = tuple[int | None, int | None, int | None, int | None, int | None, int | None]
NOTHING_KNOWN: Money = (None, None, None, None, None, None)


def money(priced: Priced) -> Money:
    """`cost` and its five parts, in the order of the columns."""
    if priced.pico is None:
        return NOTHING_KNOWN
    return (priced.pico, *priced.parts)  # pyright: ignore[reportReturnType]


def split(legs: Sequence[Leg]) -> dict[str, int]:
    """Pico-dollars per cost column; what is neither input nor output is other."""
    sums: dict[str, int] = dict.fromkeys(SPLIT, 0)
    for leg in legs:
        sums[COLUMN.get(leg.unit, "cost_other")] += leg.pico
    return sums


def legs_json(legs: Sequence[Leg]) -> str:
    """Legs as they stand in the row: [[unit, count, femto-dollars each, pico-dollars], …]."""
    return msgspec.json.encode(legs).decode()


def read_legs(text: str) -> tuple[Leg, ...]:
    """Legs of a row. ValueError says which one is not a leg."""
    try:
        rows: object = json.loads(text)
    except json.JSONDecodeError as bad:
        raise ValueError(f"legs are not JSON: {bad}") from bad
    if not isinstance(rows, list):
        raise ValueError("legs are not a JSON array")
    legs: list[Leg] = []
    for row in cast("list[object]", rows):
        match row:
            case [str() as unit, int() as count, int() as femto, int() as pico]:
                legs.append(Leg(unit, count, femto, pico))
            case _:
                raise ValueError(f"not a leg [unit, count, femto, pico]: {row!r}")
    return tuple(legs)


def recompute(text: str) -> int:
    """Pico-dollars of a row's legs, counted anew from count x rate. ValueError when a leg says something else."""
    total = 0
    for leg in read_legs(text):
        pico = amount(leg.count, leg.femto)
        if pico != leg.pico:
            raise ValueError(f"leg {leg.unit}: {leg.count} x {leg.femto} femto-dollars is {pico}, not {leg.pico} pico")
        total += pico
    return total


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


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`, summing to it exactly. All weights 0: the first takes all."""
    whole = sum(weights)
    if not weights or min(weights) < 0:
        raise ValueError(f"cannot spread over {weights!r}")
    if not whole:
        return [total, *[0] * (len(weights) - 1)]
    parts: list[int] = []
    run = done = 0
    for weight in weights:
        run += weight
        parts.append(total * run // whole - done)
        done += parts[-1]
    return parts
