"""The operator's own prices: `[[price]]` lines compiled once, and laid over the book's price at a lookup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import NamedTuple

from ..domain.money import femto_per_unit
from ..domain.policy import PriceOverride
from ..domain.price import Price, Rate, ToolPrice

MILLION = 1_000_000
TOKEN_KEYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
EVER = 1 << 62
DEAREST = Decimal(1_000_000)  # dollars per million tokens, or each: beyond it somebody has mistaken the unit
LARGEST = Decimal(100)  # as a multiplier


class Override(NamedTuple):
    """One `[[price]]` line, ready to be laid over a price. `rank` sorts weakest first: less specific, then earlier."""

    id: str  # a digest of what it says: an edited line is another price
    model: str
    provider: str
    since_us: int
    until_us: int
    rates: dict[str, Rate]
    multiplier: Decimal | None
    rank: tuple[bool, bool, int, int]


def compile_override(line: PriceOverride, number: int) -> Override:
    """An Override from a policy line. ValueError names line, key, what is wrong and what would be right."""
    where = f"price[{number}] ({line.model!r})"
    if not line.model:
        raise ValueError(f"price[{number}] is of nothing; give model, or tool and call")
    if line.tool or line.call is not None:
        raise ValueError(f"{where} is of a model: tool and call belong into a [[price]] of their own")
    rates: dict[str, Rate] = {}
    for key in TOKEN_KEYS:
        value = getattr(line, key)
        if value is not None:
            rates[key] = Rate(femto_per_unit(_number(value, f"{where}.{key}", DEAREST), MILLION))
    for unit, value in line.units.items():
        rates[unit] = Rate(femto_per_unit(_number(value, f"{where}.units.{unit}", DEAREST), 1))
    multiplier = None if line.multiplier is None else _number(line.multiplier, f"{where}.multiplier", LARGEST)
    if not rates and multiplier is None:
        raise ValueError(f"{where} states no price; give input and output in dollars per million tokens, or multiplier")
    since, until = _moment(line.from_, f"{where}.from", 0), _moment(line.until, f"{where}.until", EVER)
    if since >= until:
        raise ValueError(f"{where}: from {line.from_!r} is not before until {line.until!r}, so it never holds")
    model, provider = line.model.lower(), line.provider.lower()
    said = f"{model} {provider} {since} {until} {multiplier} {sorted(rates.items())}"
    return Override(
        id=blake2b(said.encode(), digest_size=4).hexdigest(),
        model=model.replace("[", "[[]").replace("?", "[?]"),  # only * is a wildcard
        provider=provider,
        since_us=since,
        until_us=until,
        rates=rates,
        multiplier=multiplier,
        rank=("*" not in model, bool(provider), len(model.replace("*", "")), number),
    )


def compile_tool(line: PriceOverride, number: int) -> ToolPrice:
    """A tool's price from a policy line. ValueError names line, key, what is wrong and what would be right."""
    where = f"price[{number}] (tool {line.tool!r})"
    said = [key for key in ("model", "provider", "multiplier", "units", *TOKEN_KEYS) if getattr(line, key)]
    if said:
        raise ValueError(f"{where}: a tool has no {', '.join(said)}; write what one call of it costs: call")
    if line.call is None:
        raise ValueError(f'{where} states no price; write what one call costs: call = "0.01"')
    pico = _number(line.call, f"{where}.call", DEAREST).scaleb(12)
    if pico != pico.to_integral_value():
        raise ValueError(f"{where}.call = {line.call!r} is finer than a pico-dollar (12 decimal places)")
    since, until = _moment(line.from_, f"{where}.from", 0), _moment(line.until, f"{where}.until", EVER)
    if since >= until:
        raise ValueError(f"{where}: from {line.from_!r} is not before until {line.until!r}, so it never holds")
    digest = blake2b(f"{line.tool} {int(pico)} {since} {until}".encode(), digest_size=4).hexdigest()
    return ToolPrice(f"policy:{digest}", line.tool, int(pico), since, until)


def overlay(
    overrides: Sequence[Override],
    base: Price | None,
    provider: str,
    book_provider: str,
    model: str,
    book_model: str,
    ts_us: int,
    tiered: bool,
) -> tuple[Price | None, int, int]:
    """(price, since, until): the book's price with every override that applies laid over it, the strongest last, and
    for how long it stays so. `overrides` are sorted by rank. A rate that is named replaces the book's, a multiplier
    scales what lies below it, units that nobody names keep the book's rate. `tiered`: the call is at a tier that no
    override can name; token rates that come from one are then an estimate of it."""
    since, until = 0, EVER
    names = (model.lower(), book_model.lower())
    applied: list[Override] = []
    for override in overrides:
        if override.provider and override.provider not in (provider.lower(), book_provider):
            continue
        if not any(name and fnmatchcase(name, override.model) for name in names):
            continue
        for edge in (override.since_us, override.until_us):
            if edge <= ts_us:
                since = max(since, edge)
            else:
                until = min(until, edge)
        if override.since_us <= ts_us < override.until_us:
            applied.append(override)
    if not applied:
        return base, since, until
    rates = dict(base.rates) if base else {}
    stated: set[str] = set()
    for override in applied:
        if override.multiplier is not None:
            rates = {unit: _scaled(rate, override.multiplier) for unit, rate in rates.items()}
        rates.update(override.rates)
        stated.update(override.rates)
    if not rates:
        return base, since, until
    whole = stated.issuperset(("input", "output"))
    free = whole and all(rate.base == 0 and not any(f for _, f in rate.tiers) for rate in rates.values())
    below = f"<{base.id}" if base else f"/{provider}/{model}"
    price = Price(
        id="policy:" + "+".join(o.id for o in applied) + below,
        provider=base.provider if base else provider,
        model=base.model if base else model,
        rates=rates,
        free=free,
        context_window=base.context_window if base else 0,
        output_max=base.output_max if base else 0,
        estimated=not free and ((tiered and bool(stated)) or (base is not None and base.estimated and not whole)),
    )
    return price, since, until


def _scaled(rate: Rate, by: Decimal) -> Rate:
    return Rate(femto(rate.base, by), tuple([(above, femto(f, by)) for above, f in rate.tiers]))


def femto(rate: int, by: Decimal) -> int:
    """Femto-dollars times a multiplier, rounded half up."""
    return int((rate * by + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))


def _number(value: str | int, where: str, most: Decimal) -> Decimal:
    try:
        number = Decimal(value.strip().removeprefix("$")) if isinstance(value, str) else Decimal(value)
    except InvalidOperation:
        raise ValueError(f'{where} = {value!r} is not a number; write it like "2.50"') from None
    if not number.is_finite() or not 0 <= number <= most:
        raise ValueError(f"{where} = {value!r} is not between 0 and {most:,}; tokens are priced in dollars per million")
    return number


def _moment(text: str, where: str, default: int) -> int:
    """Microseconds since the epoch of an ISO date or time; without a zone it is UTC."""
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)  # a bare date is its midnight
    except ValueError:
        raise ValueError(f'{where} = {text!r} is not a date; write "2026-12-01" or "2026-12-01T08:00:00Z"') from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * MILLION + whole.microseconds
