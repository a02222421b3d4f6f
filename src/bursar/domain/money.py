"""Money as whole numbers: pico-dollars in rows, nano-dollars in counters, femto-dollars a unit in prices. No float."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation

PICO = 10**12
NANO = 10**9
FEMTO = 10**15

_EXACT = Context(prec=100)  # 60 digits and twelve places: nothing that is accepted is ever rounded

# Why pico: real prices reach $0.01875 per million tokens, which is 18,750 pico-dollars a token; a batch halves it.
# Why femto for unit prices: a negotiated multiplier on such a price still comes out whole.


_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", re.ASCII)


def usd(text: str | int | Decimal) -> int:
    """Pico-dollars from `"$50"`, `"1,250.75"`, `3` or a Decimal. ValueError on anything else, on floats, on NaN, and on
    anything finer than a pico-dollar. A comma may only group thousands: `"1,5"` is one and a half to half the world."""
    given = text
    if isinstance(text, str):
        text = text.strip().removeprefix("$").replace("_", "")
        text = text.replace(",", "") if _GROUPED.fullmatch(text) else text
    elif isinstance(text, bool) or not isinstance(text, int | Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"not an amount of dollars: {given!r} (write it as a string)")
    try:
        amount = Decimal(text)
    except InvalidOperation as bad:
        raise ValueError(f"not an amount of dollars: {given!r}") from bad
    if not amount.is_finite():
        raise ValueError(f"not an amount of dollars: {given!r}")
    _, digits, exponent = amount.as_tuple()
    if len(digits) + abs(int(exponent)) > 60:
        raise ValueError(f"not a plausible amount of dollars: {given!r}")
    pico = amount.scaleb(12, _EXACT)
    if pico != pico.to_integral_value():
        raise ValueError(f"{given!r} is finer than a pico-dollar (12 decimal places)")
    return int(pico)


def plain(pico: int) -> str:
    """The exact amount as a decimal string, no exponent and no trailing zeros: `"0.00206875"`, `"0"`, `"-1.5"`."""
    if pico < 0:
        return "-" + plain(-pico)
    return ("%d.%012d" % divmod(pico, PICO)).rstrip("0").rstrip(".")  # noqa: UP031 a third quicker than format, three times a call


def show(pico: int, places: int = 2) -> str:
    """For people: `"$1,234.50"`, rounded half up; amounts that would show as zero keep two significant digits."""
    sign, pico = ("-", -pico) if pico < 0 else ("", pico)
    while pico and places < 12 and pico * 10**places * 2 < PICO * 20 and pico < PICO // 100:
        places += 1
    step = 10 ** (12 - places)
    rounded = (pico + step // 2) // step
    whole, rest = divmod(rounded, 10**places)
    return f"{sign}${whole:,}" + (f".{rest:0{places}d}" if places else "")


def nano_up(pico: int) -> int:
    """Counter units from row units, rounded up: a counter may overstate a call by under a nano-dollar, never under."""
    return -(-pico // 1000)


def amount(count: int, femto: int) -> int:
    """Pico-dollars of `count` units at `femto` femto-dollars each, rounded half away from zero; the one rounding a leg
    ever sees. Half *up* would take back a pico-dollar less than it gave: a correction negates the count."""
    return (count * femto + 500) // 1000 if count >= 0 else -((-count * femto + 500) // 1000)


def femto_per_unit(price: Decimal, units: int) -> int:
    """Femto-dollars a unit from a published price per `units` (a million tokens, a thousand searches), half up."""
    return int((price * FEMTO / units + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))
