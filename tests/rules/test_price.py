"""Bills foot, the worst case is one, and a correction brings a row exactly to its new price."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.domain.entry import Entry
from bursar.domain.price import Leg, Price, Rate
from bursar.domain.shape import replace
from bursar.domain.usage import TOKEN_BUCKETS, Tokens
from bursar.rules import price as pricing
from bursar.rules.rerate import rerate, tokens_of

M = 10**9  # femto-dollars a token that make one dollar per million tokens
SONNET = Price(
    "book/anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5",
    {"input": Rate(3 * M, ((200_000, 6 * M),)), "cache_read": Rate(3 * M // 10, ((200_000, 6 * M // 10),)),
     "cache_write": Rate(375 * M // 100, ((200_000, 75 * M // 10),)), "cache_write_1h": Rate(6 * M, ((200_000, 12 * M),)),
     "output": Rate(15 * M, ((200_000, 225 * M // 10),)), "web_search": Rate(10**13)},
)  # fmt: skip
PLAIN = Price("book/x/y", "x", "y", {"input": Rate(2 * M), "output": Rate(8 * M)})

rates = st.builds(
    lambda base, tiers: Rate(base, tuple(sorted(dict(tiers).items()))),
    st.integers(0, 10**12),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**12)), max_size=2),
)
prices = st.dictionaries(st.sampled_from([*TOKEN_BUCKETS, "web_search", "request"]), rates).map(
    lambda known: Price("p", "x", "y", known)
)
counts = st.one_of(st.just(0), st.integers(0, 2000), st.integers(0, 2**40))
usages = st.builds(
    lambda buckets, other: Tokens(*buckets, other=other),
    st.lists(counts, min_size=len(TOKEN_BUCKETS), max_size=len(TOKEN_BUCKETS)),
    st.sampled_from([(), (("web_search", 3),), (("code_session", 1),), (("web_search", 0),)]),
)


@given(usages, prices)
def test_legs_sum_to_the_total_the_columns_sum_to_it_and_it_recomputes(tokens: Tokens, price: Price) -> None:
    """The one invariant of a row: cost is the sum of its legs, of its five parts, and of count x rate counted anew."""
    priced = pricing.bill(tokens, price)
    row = pricing.columns(priced)
    assert row["cost"] == priced.pico
    assert pricing.recompute(row["legs"]) == sum(leg.pico for leg in priced.legs) == (priced.pico or 0)
    if priced.pico is None:
        assert [row[name] for name in pricing.SPLIT] == [None] * 5
    else:
        assert sum(row[name] for name in pricing.SPLIT) == priced.pico
        assert all(row[name] >= 0 for name in pricing.SPLIT)


@given(usages, prices)
def test_no_used_unit_is_left_out_without_being_named(tokens: Tokens, price: Price) -> None:
    """Every used unit has a leg or stands in `missing`; what was not charged makes the bill unpriced, never smaller in
    silence. A zero leg only comes from a rate of zero."""
    priced = pricing.bill(tokens, price)
    charged = {leg.unit for leg in priced.legs}
    for unit, count in pricing.used(tokens):
        assert count
        assert unit in charged or unit in priced.missing
        if unit not in charged:
            assert priced.status == "unpriced"
    for leg in priced.legs:
        assert leg.count > 0
        found = pricing.rate_of(price, leg.unit)
        assert found is not None
        assert leg.pico or leg.femto * leg.count < 500
    if priced.missing:
        assert priced.status in ("estimated", "unpriced")
    if priced.pico is None:
        assert not priced.legs


@given(usages, usages, prices)
def test_splitting_a_usage_over_two_rows_changes_the_bill_by_rounding_only(a: Tokens, b: Tokens, price: Price) -> None:
    """At flat rates two bills are the bill of the sum, to a pico-dollar for each leg that was rounded."""
    flat = replace(price, rates={unit: Rate(rate.base) for unit, rate in price.rates.items() if unit != "request"})
    other = tuple((unit, dict(a.other).get(unit, 0) + dict(b.other).get(unit, 0)) for unit in {**dict(a.other), **dict(b.other)})
    both = Tokens(*[x + y for x, y in zip(a[:-1], b[:-1], strict=True)], other=other)
    apart = [pricing.bill(a, flat), pricing.bill(b, flat)]
    difference = (pricing.bill(both, flat).pico or 0) - sum(priced.pico or 0 for priced in apart)
    assert abs(difference) <= 2 * max(len(apart[0].legs) + len(apart[1].legs), 1)


@given(usages.map(lambda t: t._replace(other=())), prices)
def test_the_worst_case_is_never_exceeded(tokens: Tokens, price: Price) -> None:
    """A hold at `worst` covers any bill for as many tokens, whatever their mix, in one choice or several."""
    billed = pricing.bill(tokens, price).pico or 0
    assert billed <= pricing.worst(price, tokens.input_total, tokens.output_total)
    third = -(-tokens.output_total // 3)
    assert billed <= pricing.worst(price, tokens.input_total, third, 3)


@example(Price("p", "x", "y", {"input": Rate(10 * M, ((1000, M),))}), 900, 200, 0, 0, 1)
@given(prices, st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5))
def test_the_worst_case_rises_with_each_argument(price: Price, size: int, more: int, cap: int, wider: int, n: int) -> None:
    """A larger bound never needs a smaller hold, also where a tier is cheaper than the one below it."""
    least = pricing.worst(price, size, cap, n)
    assert pricing.worst(price, size + more, cap, n) >= least
    assert pricing.worst(price, size, cap + wider, n) >= least
    assert pricing.worst(price, size, cap, n + 1) >= least
    assert pricing.worst(price, size, cap, n, cache_1h=False, media=False) <= least


flat = st.integers(0, 10**12).map(Rate)
flat_prices = st.one_of(
    st.dictionaries(st.sampled_from([*TOKEN_BUCKETS, "web_search", "request"]), flat),
    st.fixed_dictionaries({unit: flat for unit in TOKEN_BUCKETS}),
)
texts = st.lists(counts, min_size=6, max_size=6).map(lambda buckets: Tokens(*buckets, other=()))


def never_flat(price: Price) -> Price:
    """The same price, for which nothing quicker than the long way is right: tiers that begin beyond any count."""
    return replace(price, rates={unit: Rate(rate.base, ((1 << 61, rate.base),)) for unit, rate in price.rates.items()})


@given(st.one_of(texts, usages), flat_prices, st.booleans(), st.booleans())
def test_flat_rates_are_billed_as_any_others(tokens: Tokens, known: dict[str, Rate], free: bool, estimated: bool) -> None:
    """Text at flat rates has a way of its own: same legs, parts, status and missing units as on the long way."""
    price = Price("p", "x", "y", known, free=free, estimated=estimated)
    assert pricing.bill(tokens, price) == pricing.bill(tokens, never_flat(price))


@given(
    st.one_of(prices, flat_prices.map(lambda known: Price("p", "x", "y", known))),
    st.lists(st.tuples(st.integers(-1, 10**7), st.integers(-1, 10**6), st.integers(0, 3), st.booleans(), st.booleans()), max_size=6),
)
def test_a_ceiling_that_is_kept_is_the_one_worked_out(price: Price, asked: list[tuple[int, int, int, bool, bool]]) -> None:
    """Whatever was asked of a price before: what one request may hold is no other one's."""
    for size, cap, n, hour, media in asked:
        anew = replace(never_flat(price) if not any(rate.tiers for rate in price.rates.values()) else price)
        assert pricing.worst(price, size, cap, n, cache_1h=hour, media=media) == pricing.worst(anew, size, cap, n, cache_1h=hour, media=media)


def test_a_tier_is_a_cliff_on_everything_that_was_read() -> None:
    """At 200,000 tokens in, cached ones included, all is at the base; one more and all of it is dear."""
    at = pricing.bill(Tokens(input=100_000, cache_read=100_000, output=1000), SONNET)
    above = pricing.bill(Tokens(input=100_001, cache_read=100_000, output=1000), SONNET)
    assert at.pico == (300_000 + 30_000 + 15_000) * 10**6
    assert above.pico == (600_006 + 60_000 + 22_500) * 10**6


def test_reasoning_is_charged_as_output_and_an_image_as_input_where_the_book_says_nothing_else() -> None:
    """Both are published rules, so the bill is priced, and its legs still say how much was what."""
    priced = pricing.bill(Tokens(input=10, input_image=5, output=3, reasoning=7), PLAIN)
    assert priced.status == "priced"
    assert [(leg.unit, leg.femto) for leg in priced.legs] == [
        ("input", 2 * M), ("output", 8 * M), ("reasoning", 8 * M), ("input_image", 2 * M)]  # fmt: skip
    own = replace(PLAIN, rates={**PLAIN.rates, "reasoning": Rate(3 * M)})
    assert pricing.bill(Tokens(reasoning=7), own).pico == 21 * 10**6


def test_a_one_hour_write_without_a_rate_is_not_sold_as_a_five_minute_one() -> None:
    """It is charged at twice the input, the multiple that is published, and the bill says estimated and why."""
    lacking = replace(SONNET, rates={u: r for u, r in SONNET.rates.items() if u != "cache_write_1h"})
    priced = pricing.bill(Tokens(cache_write_1h=1000), lacking)
    assert (priced.status, priced.missing) == ("estimated", ("cache_write_1h",))
    assert priced.legs == (Leg("cache_write_1h", 1000, 6 * M, 6000 * 10**6),)


def test_audio_on_a_model_without_an_audio_rate_is_unpriced_and_the_rest_is_a_floor() -> None:
    """Audio costs three to fifty times as much as text: no rate of the same model can stand in for it."""
    priced = pricing.bill(Tokens(input=1000, input_audio=500, output=10), PLAIN)
    assert (priced.status, priced.missing, priced.pico) == ("unpriced", ("input_audio",), 2080 * 10**6)
    assert pricing.bill(Tokens(input_audio=500), PLAIN).pico is None


def test_a_search_without_a_rate_is_unpriced_and_one_with_a_rate_is_a_leg() -> None:
    """The library this book comes from prices five searches on gpt-3.5-turbo at $0."""
    searched = Tokens(input=10, other=(("web_search", 5),))
    assert pricing.bill(searched, PLAIN).status == "unpriced"
    assert pricing.columns(pricing.bill(searched, SONNET))["cost_other"] == 50_000_000_000


def test_a_fee_per_request_is_charged_once_however_it_is_counted() -> None:
    """Some models charge for the call itself: a provider that reports it is not charged twice."""
    price = replace(PLAIN, rates={**PLAIN.rates, "request": Rate(5 * 10**12)})
    assert pricing.bill(Tokens(input=1), price).pico == 5 * 10**9 + 2 * 10**6
    assert pricing.bill(Tokens(input=1, other=(("request", 2),)), price).pico == 10**10 + 2 * 10**6


def test_unknown_is_never_zero_zero_is_never_unknown_and_free_is_only_what_somebody_said() -> None:
    """The three that other books mix up."""
    assert pricing.bill(Tokens(input=5), None).pico is None
    assert pricing.columns(pricing.bill(Tokens(input=5), None))["cost"] is None
    assert (pricing.bill(Tokens(), PLAIN).status, pricing.bill(Tokens(), PLAIN).pico) == ("priced", 0)
    free = Price("policy:1", "x", "own", {"input": Rate(0), "output": Rate(0)}, free=True)
    assert (pricing.bill(Tokens(input=5, cache_read=5), free).status, pricing.bill(Tokens(input=5), free).pico) == ("free", 0)
    assert pricing.bill(Tokens(other=(("web_search", 1),)), free).status == "unpriced"


def test_a_borrowed_price_says_so_in_every_bill() -> None:
    """A family's or a sibling's rate is an estimate, however plausible."""
    assert pricing.bill(Tokens(input=1), replace(PLAIN, estimated=True)).status == "estimated"


@pytest.mark.parametrize("unit", TOKEN_BUCKETS)
def test_a_negative_count_of_any_unit_is_refused(unit: str) -> None:
    price = Price("p", "x", "y", {known: Rate(M) for known in TOKEN_BUCKETS})
    with pytest.raises(ValueError, match="counts are never negative"):
        pricing.bill(Tokens(input=5)._replace(**{unit: -1}), price)


def test_negative_counts_are_refused() -> None:
    """More cached than prompt tokens is a contradiction to flag, not a refund."""
    with pytest.raises(ValueError, match="-3 input"):
        pricing.bill(Tokens(input=-3), PLAIN)


@pytest.mark.parametrize(
    "text", ["", "{}", "[[1]]", '[["input", 1, 1000, 2]]', '[["input", "1", 1000, 1]]', '[["input", 1.0, 1000, 1]]', "[null]"]
)
def test_legs_that_do_not_say_what_they_come_to_are_found_out(text: str) -> None:
    """`check` recomputes every row: a changed digit anywhere in a leg is an error with the leg's name."""
    with pytest.raises(ValueError, match=r"leg|legs"):
        pricing.recompute(text)


def booked(tokens: Tokens, price: Price | None, **more: Any) -> Entry:
    bill = pricing.bill(tokens, price)
    row = pricing.columns(bill)
    other = {name: getattr(tokens, name) for name in TOKEN_BUCKETS[6:] if getattr(tokens, name)} | dict(tokens.other)
    return Entry(
        "t1", 1, "c1", 1, tenant="acme", input=tokens.input, cache_read=tokens.cache_read, cache_write=tokens.cache_write,
        cache_write_1h=tokens.cache_write_1h, output=tokens.output, reasoning=tokens.reasoning,
        other_units=json.dumps(other), usage_source="provider", **row, **more,
    )  # fmt: skip


@given(usages, prices, prices)
def test_row_and_correction_together_are_the_bill_at_the_new_price(tokens: Tokens, old: Price, new: Price) -> None:
    """To the pico-dollar, per column and in total; rating it again to the same price changes nothing."""
    entry = booked(tokens, old)
    assert tokens_of(entry) == tokens._replace(other=tuple(dict(tokens.other).items()))
    new = replace(new, id="q")
    target = pricing.bill(tokens, new)
    correction = rerate(entry, new)
    if target.pico is None or target.status == "unpriced":
        assert correction is None
        return
    if correction is None:
        assert (entry.cost or 0) == target.pico
        return
    for name, want in pricing.split(target.legs).items():
        assert (getattr(entry, name) or 0) + getattr(correction, name) == want
    assert (entry.cost or 0) + (correction.cost or 0) == target.pico
    assert pricing.recompute(correction.legs) == correction.cost
    assert rerate(entry, new, [correction]) is None


def test_a_correction_is_a_row_of_its_own_that_counts_no_token_twice() -> None:
    """It carries the labels, points at the row, and has an id that booking twice cannot double."""
    entry = booked(Tokens(input=1000, output=100), PLAIN, cost_new=1500 * 10**6, cost_history=500 * 10**6, cost_tools=0,
                   cost_system=0)  # fmt: skip
    cheap = replace(PLAIN, id="book/x/y@2026-12-01", rates={"input": Rate(M), "output": Rate(8 * M)})
    correction = rerate(entry, cheap)
    assert correction is not None
    assert (correction.source, correction.attempt_kind, correction.corrects, correction.tenant) == (
        "correction", "correction", "t1", "acme")  # fmt: skip
    assert (correction.cost, correction.cost_input, correction.cost_output) == (-1000 * 10**6, -1000 * 10**6, 0)
    assert (correction.cost_new, correction.cost_history) == (-750 * 10**6, -250 * 10**6)
    assert pricing.read_legs(correction.legs) == (Leg("input", -1000, 2 * M, -2000 * 10**6), Leg("input", 1000, M, 10**9))
    assert (correction.input, correction.output, correction.hold) == (None, None, 0)
    assert correction == rerate(entry, cheap)
    assert entry.cost == 2800 * 10**6


def test_a_row_that_was_unpriced_is_completed_by_its_correction() -> None:
    """The price came later: the whole bill is the difference."""
    entry = booked(Tokens(input=1000), None)
    correction = rerate(entry, PLAIN)
    assert correction is not None
    assert (correction.cost, correction.price_status) == (2000 * 10**6, "priced")


def test_a_row_that_does_not_foot_is_not_corrected_on_top() -> None:
    """A difference to a wrong figure would be wrong too: `check` comes first."""
    with pytest.raises(ValueError, match="bursar check"):
        rerate(booked(Tokens(input=1000), PLAIN)._replace(cost=1), PLAIN)


def test_rows_without_usage_and_corrections_themselves_are_not_rerated() -> None:
    """There is nothing to rate in a row charged at its hold."""
    assert rerate(Entry("t", 1, "c", 1), PLAIN) is None
    assert rerate(booked(Tokens(input=1), PLAIN)._replace(source="correction"), PLAIN) is None


@given(st.integers(-(10**20), 10**20), st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_spreading_an_amount_loses_nothing(total: int, weights: list[int]) -> None:
    """The parts sum to the whole and stay within a unit of their share."""
    parts = pricing.spread(total, weights)
    assert sum(parts) == total
    if sum(weights):
        assert all(abs(part * sum(weights) - total * weight) <= sum(weights) for part, weight in zip(parts, weights, strict=True))


def test_totals_past_nine_million_dollars_do_not_wrap() -> None:
    """int64 pico-dollars end at $9,223,372.04."""
    priced = pricing.bill(Tokens(output=2**40), Price("p", "x", "y", {"output": Rate(600 * M)}))
    assert priced.pico == 2**40 * 600 * 10**6
    assert pricing.recompute(pricing.legs_json(priced.legs)) == priced.pico
