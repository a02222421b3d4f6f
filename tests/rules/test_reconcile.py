"""The bill against the ledger: every dollar between them in one class, each class by an example, nothing hidden."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.money import PICO, amount
from bursar.rules.price import recompute
from bursar.rules.reconcile import CLASSES, DAY_US, HOUR_US, UNITS, Bill, Booked, Reconciled, Usage, reconcile
from bursar.rules.reconcile_book import CORRECTABLE, corrections

D = 20_000 * DAY_US
MODEL = "gpt-5-mini"
FEMTO = {"input": 250_000_000, "cache_read": 25_000_000, "output": 2_000_000_000}


def rate(_provider: str, model: str, unit: str, _moment: int) -> int | None:
    return FEMTO.get(unit) if model.startswith("gpt") else None


def bill(dollars: str | int, day: int = 0, **more: object) -> Bill:
    from bursar.domain.money import usd

    pico = dollars if isinstance(dollars, int) else usd(dollars)
    return Bill(D + day * DAY_US, D + (day + 1) * DAY_US, "openai", pico)._replace(**more)  # type: ignore[arg-type]


def used(day: int = 0, model: str = MODEL, tier: str = "", **tokens: int) -> Usage:
    return Usage(D + day * DAY_US, D + (day + 1) * DAY_US, "openai", model, tuple(tokens.items()), tier=tier)


def rows(day: int = 0, model: str = MODEL, hour: int = 12, guessed: bool = False, **tokens: int) -> list[Booked]:
    at = D + day * DAY_US + hour * HOUR_US
    return [Booked(at, "openai", model, unit, n, amount(n, FEMTO[unit]), guessed) for unit, n in tokens.items()]


def cost(**tokens: int) -> int:
    return sum(amount(n, FEMTO[unit]) for unit, n in tokens.items())


def told(made: Reconciled) -> dict[str, int]:
    assert made.billed - made.booked == sum(made.residuals().values())
    return {name: pico for name, pico in made.residuals().items() if pico}


def test_a_day_that_prices_exactly_has_no_residual() -> None:
    tokens = {"input": 80_992, "output": 274_770}
    made = reconcile([bill("0.569788")], [used(**tokens)], rows(**tokens), rate)
    assert told(made) == {} and made.gap() == 0 and made.billed == made.booked == cost(**tokens)


def test_calls_that_never_came_by_are_counted_by_model_and_class() -> None:
    made = reconcile([bill(cost(input=1000, output=500))], [used(input=1000, output=500)], rows(input=400, output=500), rate)
    assert told(made) == {"bypassed": cost(input=600)}
    (cell,) = [cell for cell in made.cells if cell.residual]
    assert (cell.model, cell.unit, cell.tokens, cell.tokens_booked) == (MODEL, "input", 1000, 400)


def test_a_model_the_ledger_never_saw_bypassed_it_whole_also_without_any_price() -> None:
    made = reconcile([bill("7", model="in-house", unit="input")], [used(model="in-house", input=9)], [], rate)
    assert told(made) == {"bypassed": 7 * PICO}
    assert told(reconcile([bill("7", model="in-house")], [], [], rate)) == {"bypassed": 7 * PICO}


def test_streams_that_were_cut_are_told_by_rows_that_were_guessed() -> None:
    """The estimate was too high: 900 output tokens booked, 700 counted. And a try that nobody answered stands at its hold."""
    mine = [*rows(input=1000, output=200), *rows(output=700, guessed=True), Booked(D, "openai", MODEL, "other", 0, 5 * PICO, True)]
    made = reconcile([bill(cost(input=1000, output=700))], [used(input=1000, output=700)], mine, rate)
    assert told(made) == {"dropped": -cost(output=200) - 5 * PICO}
    low = reconcile([bill(cost(output=300))], [used(output=300)], [*rows(output=150), *rows(output=100, guessed=True)], rate)
    assert told(low) == {"dropped": cost(output=50)}


def test_what_the_provider_does_not_ask_for_is_said_so() -> None:
    mine = rows(input=1000, output=500)
    assert told(reconcile([bill(cost(input=600, output=500))], [used(input=600, output=500)], mine, rate)) == {"not_billed": -cost(input=400)}
    assert told(reconcile([bill(0)], [], mine, rate)) == {"not_billed": -cost(input=1000, output=500)}


def test_other_prices_are_told_by_class_where_the_bill_has_classes() -> None:
    tokens = {"input": 1_000_000, "output": 10_000}
    lines = [bill("0.30", model=MODEL, unit="input"), bill("0.02", model=MODEL, unit="output")]
    made = reconcile(lines, [used(**tokens)], rows(**tokens), rate)
    assert told(made) == {"price": 50_000_000_000}
    (cell,) = [cell for cell in made.cells if cell.residual]
    assert (cell.unit, cell.billed, cell.booked) == ("input", 300_000_000_000, 250_000_000_000)
    assert told(reconcile([bill("0.32", model=MODEL)], [used(**tokens)], rows(**tokens), rate)) == {"price": 50_000_000_000}


def test_a_batch_is_half_the_price_whether_or_not_somebody_says_so() -> None:
    tokens = {"input": 1_000_000, "output": 50_000}
    half = cost(**tokens) // 2
    assert told(reconcile([bill(half, model=MODEL)], [used(**tokens, tier="batch")], rows(**tokens), rate)) == {"tier": half - cost(**tokens)}
    assert told(reconcile([bill(half)], [used(**tokens)], rows(**tokens), rate)) == {"tier": half - cost(**tokens)}
    flex = cost(**tokens) * 3 // 5
    assert told(reconcile([bill(flex, model=MODEL)], [used(**tokens, tier="flex")], rows(**tokens), rate)) == {"tier": flex - cost(**tokens)}


def test_a_day_billed_without_usage_says_so() -> None:
    nothing = Usage(D, D + DAY_US, "openai")
    assert told(reconcile([bill("0.5455665")], [nothing], [], rate)) == {"no_usage": 545_566_500_000}
    made = told(reconcile([bill("0.50")], [nothing], rows(input=1000), rate))
    assert made == {"no_usage": PICO // 2, "not_billed": -cost(input=1000)}


def test_a_day_total_that_the_usage_does_not_explain_is_unexplained() -> None:
    """A bill that names no model may hold anything: it is not called a price."""
    made = reconcile([bill("0.895874")], [used(input=53_440, output=10_646)], rows(input=53_440, output=10_646), rate)
    assert told(made) == {"unexplained": 895_874_000_000 - cost(input=53_440, output=10_646)}
    assert [cell.model for cell in made.cells if cell.residual] == [MODEL]


def test_less_than_the_last_digit_is_rounding_and_no_gap() -> None:
    tokens = {"input": 333, "output": 1}
    made = reconcile([bill("0.0001", grain=10**8)], [used(**tokens)], rows(**tokens), rate)
    assert set(told(made)) == {"rounding"} and made.gap() == 0
    assert "rounding" not in told(reconcile([bill("0.0001", grain=10**7)], [used(**tokens)], rows(**tokens), rate))


def test_days_that_begin_at_another_hour_are_found_and_are_no_gap() -> None:
    """A bill in Pacific time names its days without a zone: seven hours later than UTC's."""
    mine = [row for day in range(4) for hour in range(24) for row in rows(day=day, hour=hour, input=1000 + 7919 * ((day * 24 + hour) * 31 % 17))]
    lines = []
    for day in range(1, 3):
        there = [row for row in mine if D + day * DAY_US <= row.hour - 7 * HOUR_US < D + (day + 1) * DAY_US]
        lines.append(bill(sum(row.cost for row in there), day=day, naive=True))
    made = reconcile(lines, [], mine, rate)
    assert made.offset_hours == -7 and set(told(made)) == {"time_zone"} and made.gap() == 0
    assert made.booked == sum(row.cost for row in mine if D + DAY_US <= row.hour < D + 3 * DAY_US)
    exact = [one._replace(naive=False) for one in lines]
    assert "time_zone" not in told(reconcile(exact, [], mine, rate))


def test_a_bill_in_euros_is_compared_at_the_rate_that_is_given() -> None:
    tokens = {"input": 40_000_000}  # ten dollars
    line, mine = bill("8", currency="EUR", model=MODEL), rows(**tokens)
    made = reconcile([line], [used(**tokens)], mine, rate)
    assert made.foreign == [("EUR", 8 * PICO, 10 * PICO)] and made.cells == []
    assert told(reconcile([line], [used(**tokens)], mine, rate, {"EUR": PICO * 5 // 4})) == {}
    assert told(reconcile([line], [used(**tokens)], mine, rate, {"EUR": PICO * 6 // 5})) == {"currency": -2 * PICO * 2 // 10}


def test_prices_that_differ_from_model_to_model_are_not_the_exchange_rate() -> None:
    lines = [bill("8", currency="EUR", model=MODEL), bill("9", currency="EUR", model="gpt-5")]
    usage = [used(input=40_000_000), used(model="gpt-5", input=40_000_000)]
    made = reconcile(lines, usage, [*rows(input=40_000_000), *rows(model="gpt-5", input=40_000_000)], rate, {"EUR": PICO})
    assert set(told(made)) == {"price"}


def test_a_day_without_a_line_between_days_with_one_is_looked_at_too() -> None:
    made = reconcile([bill("0"), bill("0", day=2)], [], rows(day=1, input=1_000_000), rate)
    assert told(made) == {"not_billed": -cost(input=1_000_000)}


def test_a_dated_name_and_a_plain_one_are_the_same_model() -> None:
    for name in ("gpt-5-mini-2025-08-07", "gpt-5-mini-20250807", "GPT-5-mini", "openai/gpt-5-mini", "gpt-5-mini-latest"):
        assert told(reconcile([bill(cost(input=5))], [used(model=name, input=5)], rows(input=5), rate)) == {}
    two = [*rows(model="gpt-4o-2024-05-13", input=5), *rows(model="gpt-4o-2024-08-06", input=5)]
    assert set(told(reconcile([bill(0)], [used(model="gpt-4o", input=5)], two, rate))) >= {"bypassed", "not_billed"}  # which, nobody knows


def test_usage_that_does_not_tell_models_apart_is_compared_as_a_whole() -> None:
    mine = [*rows(input=5000), *rows(model="gpt-5", input=3000)]
    assert told(reconcile([bill(cost(input=8000))], [used(model="", input=8000)], mine, rate)) == {}


def test_usage_alone_is_compared_in_tokens_at_the_ledgers_prices() -> None:
    made = reconcile([], [used(input=1000, output=10)], rows(input=600, output=10), rate)
    assert told(made) == {"bypassed": cost(input=400)}


def test_another_providers_rows_are_left_alone() -> None:
    mine = [*rows(input=5), Booked(D, "anthropic", "claude", "input", 10**6, PICO)]
    made = reconcile([bill(cost(input=5))], [], mine, rate)
    assert told(made) == {} and made.booked == cost(input=5)
    anybody = bill(PICO + cost(input=5), provider="")
    assert reconcile([anybody], [], mine, rate).booked == PICO + cost(input=5)


def test_projects_are_compared_one_by_one_where_lines_name_them() -> None:
    lines = [bill("1", project="a"), bill("2", project="b")]
    mine = [Booked(D, "openai", MODEL, "input", 4_000_000, PICO, False, project) for project in ("a", "b", "c")]
    made = reconcile(lines, [], mine, rate)
    assert {(cell.project, cell.billed) for cell in made.cells if cell.billed is not None} == {("a", PICO), ("b", 2 * PICO)}
    assert made.booked == 2 * PICO


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="no bill"):
        reconcile([], [], [], rate)


MODELS = st.sampled_from(["", "gpt-5-mini", "gpt-5", "gpt-5-2025-08-07", "claude", "?"])
LINES = st.builds(
    lambda day, days, model, unit, dollars, tier, tokens, naive, grain, currency: Bill(
        D + day * DAY_US, D + (day + days) * DAY_US, "openai", dollars, model, unit if model else "", "", currency, tokens if unit else None,
        tier, grain, naive,
    ),
    st.integers(0, 4), st.integers(1, 2), MODELS, st.sampled_from(["", *UNITS]), st.integers(-10**6, 10**15), st.sampled_from(["", "batch"]),
    st.none() | st.integers(0, 10**9), st.booleans(), st.sampled_from([1, 10**6, 10**10]), st.sampled_from(["USD", "USD", "EUR", "GBP"]),
)  # fmt: skip
USES = st.builds(
    lambda day, model, tokens, tier: Usage(D + day * DAY_US, D + (day + 1) * DAY_US, "openai", model, tuple(tokens.items()), "", tier),
    st.integers(0, 4), MODELS, st.dictionaries(st.sampled_from(UNITS[:4]), st.integers(0, 10**9), max_size=4), st.sampled_from(["", "flex"]),
)  # fmt: skip
OURS = st.builds(
    lambda hour, model, unit, tokens, dollars, guessed: Booked(D + hour * HOUR_US, "openai", model, unit, tokens, dollars, guessed),
    st.integers(-20, 140), MODELS, st.sampled_from(UNITS), st.integers(-5, 10**9), st.integers(-5, 10**15), st.booleans(),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=8), st.lists(USES, max_size=6), st.lists(OURS, max_size=12))
def test_every_billed_dollar_is_booked_or_in_exactly_one_class(lines: list[Bill], usage: list[Usage], mine: list[Booked]) -> None:
    """Whatever the files and the ledger say: per stretch of time and in total, to the pico-dollar, and no line is lost."""
    if not lines and not usage:
        return
    made = reconcile(lines, usage, mine, rate, {"EUR": PICO * 11 // 10})
    assert made.billed - made.booked == sum(made.residuals().values())
    assert set(made.residuals()) == set(CLASSES)
    for cell in made.cells:
        assert len({name for name, _ in cell.residual}) == len(cell.residual)
    if lines and not made.foreign:
        assert made.billed == sum(one.amount if one.currency == "USD" else one.amount * (PICO * 11 // 10) // PICO for one in lines)


# -- corrections -----------------------------------------------------------------------------------------------------------


def test_corrections_bring_the_ledger_to_the_bill_and_are_the_same_every_time() -> None:
    lines, usage = [bill("1.5")], [used(input=1_000_000, output=100_000)]
    mine = rows(input=400_000, output=100_000)
    made = reconcile(lines, usage, mine, rate)
    booked = corrections(made.cells, CORRECTABLE)
    assert booked == corrections(reconcile(lines, usage, mine, rate).cells, CORRECTABLE)
    assert sum(row.cost or 0 for row in booked) == made.billed - made.booked
    for row in booked:
        parts = (row.cost_input, row.cost_cache_read, row.cost_cache_write, row.cost_output, row.cost_other)
        assert sum(part or 0 for part in parts) == row.cost == recompute(row.legs)
        assert row.attempt_kind == row.source == "correction" and row.tenant == ""
    again = [*mine]
    for row in booked:
        again += [Booked(row.ts, "openai", row.model_served, unit, getattr(row, unit) or 0, getattr(row, f"cost_{unit}") or 0)
                  for unit in ("input", "output") if getattr(row, unit) or getattr(row, f"cost_{unit}")]  # fmt: skip
        again += [Booked(row.ts, "openai", row.model_served, "other", 0, row.cost_other)] if row.cost_other else []
    assert told(reconcile(lines, usage, again, rate)) == {}


def test_only_the_classes_that_were_asked_for_are_booked() -> None:
    made = reconcile([bill("1.5")], [used(input=1_000_000)], rows(input=400_000), rate)
    assert {row.cause for row in corrections(made.cells, ["bypassed"])} == {"reconcile:bypassed"}
    assert corrections(made.cells, []) == []
    assert "time_zone" not in CORRECTABLE


def test_tokens_of_one_gap_are_corrected_once_and_another_gap_is_another_row() -> None:
    """Thousand booked, three hundred of them by guess, five hundred counted: two classes, and five hundred tokens too many."""
    mine = [*rows(input=700), *rows(input=300, guessed=True)]
    booked = corrections(reconcile([bill(cost(input=500))], [used(input=500)], mine, rate).cells, CORRECTABLE)
    assert {row.cause for row in booked} == {"reconcile:dropped", "reconcile:not_billed"}
    assert sum(row.input or 0 for row in booked) == -500
    later = corrections(reconcile([bill(cost(input=400))], [used(input=400)], mine, rate).cells, CORRECTABLE)
    assert not {row.id for row in booked} & {row.id for row in later}
