"""Money stays whole: reading, showing and multiplying it, to both ends of what anybody can spend."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.domain import money

EDGES = [0, 1, 999, 1000, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 10**30]


@pytest.mark.parametrize(
    ("text", "pico"),
    [("$50", 50 * 10**12), ("0.25", 25 * 10**10), (3, 3 * 10**12), ("1,250.75", 125075 * 10**10), ("$1_000", 10**15),
     (Decimal("0.000000000001"), 1), ("-1.5", -15 * 10**11), ("1e-12", 1), ("$12,345,678", 12345678 * 10**12)],
)  # fmt: skip
def test_amounts_are_read_as_people_write_them(text: str | int | Decimal, pico: int) -> None:
    """Dollar sign, thousands, exponents: exactly, or not at all."""
    assert money.usd(text) == pico


@pytest.mark.parametrize("text", ["", "five", "nan", "inf", "1,5", "1,50", "0.0000000000001", "1e999999", "--1", 0.5, True])
def test_what_is_no_amount_is_refused_with_the_text_in_the_message(text: object) -> None:
    """`1,5` is one and a half to half the world and fifteen to a program that strips commas; a float has lost digits."""
    with pytest.raises(ValueError, match=r"dollars|finer") as error:
        money.usd(text)  # type: ignore[arg-type]
    assert repr(text) in str(error.value)


@given(st.integers(-(10**40), 10**40))
def test_plain_and_usd_are_each_other_s_inverse(pico: int) -> None:
    """What is written into JSON comes back as the same amount, past 2^63 as well."""
    assert money.usd(money.plain(pico)) == pico
    assert "e" not in money.plain(pico).lower()


@pytest.mark.parametrize("pico", EDGES)
def test_numeric_edges_neither_wrap_nor_round(pico: int) -> None:
    """int64 pico-dollars end at $9.2 M, doubles at 2^53: nothing here knows of either."""
    assert money.usd(money.plain(pico)) == pico
    assert money.nano_up(pico) == -(-pico // 1000)
    assert money.nano_up(pico) * 1000 >= pico


@given(st.integers(0, 10**12), st.integers(0, 10**15))
@example(1, 500)
@example(3, 1_833_500)
def test_what_a_correction_takes_back_is_what_the_bill_gave(count: int, femto: int) -> None:
    """Rounding is symmetric; half up would leave a pico-dollar behind on every second odd leg."""
    assert money.amount(-count, femto) == -money.amount(count, femto)
    assert abs(money.amount(count, femto) * 1000 - count * femto) <= 500


@pytest.mark.parametrize(
    ("pico", "shown"),
    [(1234500000000000, "$1,234.50"), (0, "$0.00"), (5 * 10**9, "$0.0050"), (1, "$0.000000000001"), (-(10**12), "-$1.00"),
     (10**12 - 1, "$1.00")],
)  # fmt: skip
def test_small_amounts_never_show_as_zero(pico: int, shown: str) -> None:
    """A null drawn as $0.0000 hid a $45 key in another product."""
    assert money.show(pico) == shown


@pytest.mark.parametrize(
    ("price", "units", "femto"),
    [("3", 10**6, 3 * 10**9), ("0.01875", 10**6, 18_750_000), ("10", 1000, 10**13), ("0.111", 3600, 30_833_333_333)],
)
def test_published_prices_become_femto_dollars_a_unit(price: str, units: int, femto: int) -> None:
    """Per million tokens, per thousand searches, per hour of audio."""
    assert money.femto_per_unit(Decimal(price), units) == femto
