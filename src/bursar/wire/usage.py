"""Counts out of a provider's usage object: absent, null, zero and n stay four cases. No provider's rules live here."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, cast

import msgspec

from ..domain.money import PICO

Object = dict[str, Any]

# Prices stated by providers are read as the decimal they wrote, never as a float.
_DECODER = msgspec.json.Decoder(float_hook=Decimal)

COUNT_MAX = 2**48  # far above any bill; a larger count is a broken provider, and must not reach the sums


class Unreadable(ValueError):
    """A usage object that is there but cannot be counted: a count that is negative, a text, or absurd."""


def read(raw: bytes | msgspec.Raw) -> Object | None:
    """The usage object, None when there is none (absent or null). Unreadable when it is something else."""
    if not bytes(raw) or bytes(raw) == b"null":
        return None
    try:
        value = _DECODER.decode(raw)
    except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
        raise Unreadable(f"usage cannot be read: {bad}") from bad
    if not isinstance(value, dict):
        raise Unreadable(f"usage is not an object but {bytes(raw)[:80]!r}")
    return cast(Object, value)


def part(usage: Object, name: str) -> Object:
    """The nested object of that name; empty when absent or null."""
    value = usage.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unreadable(f"{name} is not an object but {value!r:.80}")
    return cast(Object, value)


def parts(usage: Object, name: str) -> list[Object]:
    """The nested list of objects of that name; empty when absent or null."""
    value = usage.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable(f"{name} is not a list but {value!r:.80}")
    items = cast(list[Any], value)
    if not all(isinstance(item, dict) for item in items):
        raise Unreadable(f"{name} holds something that is not an object")
    return cast(list[Object], items)


def count(usage: Object, name: str) -> int | None:
    """The count of that name, None when absent or null. Unreadable when it is no whole number from 0 up."""
    value = usage.get(name)
    if value is None or (value.__class__ is int and 0 <= value <= COUNT_MAX):
        return value
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise Unreadable(f"{name} is not a count but {value!r:.80}")
    return value


def dollars(value: object) -> int | None:
    """Pico-dollars of a price as the provider wrote it, rounded half up where it is finer; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    if not amount.is_finite() or not 0 <= amount < 10**9:  # a single call that costs a billion is a broken provider
        return None
    return int((amount * PICO).to_integral_value(rounding=ROUND_HALF_UP))


def merge(known: Object, later: Object, zeros: bool = False) -> Object:
    """Two usage objects of one stream as one, per count: the later stands (Gemini has been seen to correct its prompt count
    downwards), they are never added; absent, null and, unless `zeros`, zero never take back what was said before."""
    out = dict(known)
    for name, value in later.items():
        before = out.get(name)
        if value is None or (value == 0 and before and not zeros):
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            out[name] = merge(cast(Object, before), cast(Object, value), zeros)
        else:
            out[name] = value
    return out
