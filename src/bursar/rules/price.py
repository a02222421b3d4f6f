"""What a try costs: the bill in legs, the worst case, and the columns of its row. Pure, integers only.

A used unit is charged, in this order:

1. at its own rate: `priced`;
2. by a rule that providers publish: reasoning and citations at the output rate, images at the input rate: `priced`;
3. at a rate of the same model that it can hardly exceed (STAND_IN), named in `missing`: `estimated`;
4. not at all, named in `missing`: `unpriced`, and the sum is a floor. Never a leg of zero for want of a rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ..domain.money import amount
from ..domain.price import Leg, Price, Priced, Rate, made_leg
from ..domain.usage import ALL_TEXT, TEXT, TOKEN_BUCKETS, Tokens

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
    """A price with what is asked of it on every call, worked out once: rates by unit; the flat ones of text (its own, without
    tiers) as femto-dollars in the order of the token buckets, -1 for any other, none where each request costs; the dearest rates of
    a group of units as (input tokens above which, femto-dollars), rising in both; and ceilings where there is no such rise."""

    __slots__ = ("ceilings", "dearest", "price", "rates", "status", "text")

    def __init__(self, price: Price) -> None:
        self.price = price
        self.rates: dict[str, tuple[Rate, bool] | None] = {unit: _rate_of(price, unit) for unit in TOKEN_BUCKETS}
        found = [self.rates[unit] for unit in TOKEN_BUCKETS[:TEXT]] if "request" not in price.rates else []
        self.text = tuple([pair[0].base if pair and not pair[1] and not pair[0].tiers else -1 for pair in found])
        self.status = "free" if price.free else "estimated" if price.estimated else "priced"
        self.dearest: dict[tuple[str, ...], tuple[tuple[int, int], ...]] = {}
        self.ceilings: dict[tuple[bool, bool], Ceiling] = {}


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
    if card.text and tokens[TEXT:] == ALL_TEXT:
        quick = _text(tokens, card, price)
        if quick is not None:
            return quick
    return _long(tokens, card, price)


def _text(tokens: Tokens, card: _Card, price: Price) -> Priced | None:
    """The bill of text where each unit used has a flat rate of its own, as nearly always; None where the long way is needed. Bucket
    by bucket: a loop over the six, most of them empty, takes half as long again."""
    read, cached, written, hour, wrote, thought = tokens[:TEXT]
    at_read, at_cached, at_written, at_hour, at_wrote, at_thought = card.text
    legs: list[Leg] = []
    input = cache_read = cache_write = output = 0  # pico-dollars: money.amount, of counts that are not negative
    if read:
        if read < 0 or at_read < 0:
            return None
        input = (read * at_read + 500) // 1000
        legs.append(made_leg(("input", read, at_read, input)))
    if cached:
        if cached < 0 or at_cached < 0:
            return None
        cache_read = (cached * at_cached + 500) // 1000
        legs.append(made_leg(("cache_read", cached, at_cached, cache_read)))
    if written:
        if written < 0 or at_written < 0:
            return None
        cache_write = (written * at_written + 500) // 1000
        legs.append(made_leg(("cache_write", written, at_written, cache_write)))
    if hour:
        if hour < 0 or at_hour < 0:
            return None
        pico = (hour * at_hour + 500) // 1000
        cache_write += pico
        legs.append(made_leg(("cache_write_1h", hour, at_hour, pico)))
    if wrote:
        if wrote < 0 or at_wrote < 0:
            return None
        output = (wrote * at_wrote + 500) // 1000
        legs.append(made_leg(("output", wrote, at_wrote, output)))
    if thought:
        if thought < 0 or at_thought < 0:
            return None
        pico = (thought * at_thought + 500) // 1000
        output += pico
        legs.append(made_leg(("reasoning", thought, at_thought, pico)))
    parts = (input, cache_read, cache_write, output, 0)  # one per column in SPLIT
    return Priced(card.status, input + cache_read + cache_write + output, tuple(legs), price.id, parts)


def _long(tokens: Tokens, card: _Card, price: Price) -> Priced:
    """The bill of any usage at any price."""
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
    status = "unpriced" if left_out else "estimated" if missing and card.status == "priced" else card.status
    return Priced(status, sum(parts) if legs or not left_out else None, tuple(legs), price.id, tuple(parts), tuple(missing))


def worst(price: Price, input_tokens: int, output_cap: int, choices: int = 1, *, cache_1h: bool = True, media: bool = True) -> int:
    """Pico-dollars that no bill can exceed for at most `input_tokens` read and `choices` x `output_cap` written, in any
    mix of units that the price can rate. Rises with each argument. `cache_1h=False` and `media=False` say that the
    request asks for no one-hour cache writes, and for no audio or images either way: the bound is then for the rest.
    Tool fees (searches, sessions) are not tokens and not in it."""
    card = _card(price)
    reading, writing, total = card.ceilings.get((cache_1h, media)) or _ceiling(card, cache_1h, media, input_tokens)
    if input_tokens > 0:
        total += (input_tokens * reading + 500) // 1000
    if output_cap > 0:
        total += ((output_cap * choices if choices > 1 else output_cap) * writing + 500) // 1000
    return total


Ceiling = tuple[int, int, int]  # femto-dollars of what is read and written, pico-dollars of the request itself


def _ceiling(card: _Card, cache_1h: bool, media: bool, input_total: int) -> Ceiling:
    """The dearest rates at this much input; kept where it is the same at any."""
    groups = ENTERING[cache_1h, media], LEAVING[media], REQUEST
    reading, writing, request = [_dearest(card, units, input_total) for units in groups]
    found = reading, writing, amount(1, request)
    if all([len(card.dearest[units]) == 1 for units in groups]):
        card.ceilings[cache_1h, media] = found
    return found


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
    parts: dict[str, Any] = dict(zip(("cost", *SPLIT), (priced.pico, *(NO_PARTS if priced.pico is None else priced.parts))))
    parts["legs"], parts["price_id"], parts["price_status"] = legs_json(priced.legs), priced.price_id, priced.status
    return parts


NO_PARTS = (None, None, None, None, None)


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
