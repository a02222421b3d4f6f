"""Why a bill changed: nothing is left over, the parts are Shapley's, and each thing that can change is called by its name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from math import factorial, prod
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules.why import DRIVERS, NOTHING, Leaf, Side, Sums, Talk, explain, shapley

from .why_made import CAUSES, all_planted, planted, random_side

ACME = ("acme", "support")


def nothing_left_over(before: Side, now: Side) -> None:
    found = explain(before, now)
    change = sum(s.cost for s in now.leaves.values()) - sum(s.cost for s in before.leaves.values())
    assert sum(found.drivers.values()) == change == found.now - found.before
    assert set(found.drivers) == set(DRIVERS)
    by_driver = dict.fromkeys(DRIVERS, 0)
    for leaf in {**before.leaves, **now.leaves}:
        cell = found.cells.get(leaf, {})
        assert sum(cell.values()) == now.leaves.get(leaf, NOTHING).cost - before.leaves.get(leaf, NOTHING).cost
        for driver, pico in cell.items():
            by_driver[driver] += pico
    assert by_driver == found.drivers


def test_nothing_is_left_over_in_any_ledger_to_the_pico_dollar() -> None:
    """In total, per driver and per leaf, also where usage, prices and labels are missing and sums pass 64 bits."""
    chance = Random(1)
    for _ in range(3000):
        nothing_left_over(random_side(chance), random_side(chance))


@pytest.mark.fuzz
def test_nothing_is_left_over_in_a_hundred_thousand_ledgers() -> None:
    chance = Random(2)
    for _ in range(100_000):
        nothing_left_over(random_side(chance), random_side(chance))


def value_of(worth: Callable[[frozenset[int]], Fraction], players: int) -> list[Fraction]:
    """Shapley's value as it is defined: over all coalitions, in exact fractions."""
    known = {frozenset(c): worth(frozenset(c)) for size in range(players + 1) for c in combinations(range(players), size)}
    parts = [Fraction(0)] * players
    for coalition, without in known.items():
        weight = Fraction(factorial(len(coalition)) * factorial(players - len(coalition) - 1), factorial(players)) if len(coalition) < players else None
        for n in range(players):
            if n not in coalition and weight is not None:
                parts[n] += weight * (known[coalition | {n}] - without)
    return parts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=7))
def test_the_parts_of_a_product_are_shapleys_values(pairs: list[tuple[int, int]]) -> None:
    """Four Gauss points are exact for up to seven factors."""
    exact = value_of(lambda moved: Fraction(prod(pair[n in moved] for n, pair in enumerate(pairs))), len(pairs))
    found = shapley([(str(n), float(was), float(is_)) for n, (was, is_) in enumerate(pairs)])
    size = max(1.0, *[float(abs(part)) for part in exact])
    assert found == pytest.approx([float(part) for part in exact], rel=1e-11, abs=1e-11 * size)


def test_a_whole_leaf_comes_out_as_its_factors_written_down_by_hand_do() -> None:
    """One slice, retries and two token classes: the drivers are Shapley's values of the cost as a function of its rates."""
    before = Side(
        {Leaf(ACME, "primary", "primary", "", "m"): Sums(1000, 600_000, 200_000, 0, 50_000, 600_000_000, 20_000_000, 0, 100_000_000),
         Leaf(ACME, "primary", "retry", "5xx", "m"): Sums(10, 6_000, 2_000, 0, 500, 6_000_000, 200_000, 0, 1_000_000)},
        {ACME: Talk(200)},
    )  # fmt: skip
    now = Side(
        {Leaf(ACME, "primary", "primary", "", "m"): Sums(1800, 900_000, 900_000, 0, 180_000, 990_000_000, 99_000_000, 0, 396_000_000),
         Leaf(ACME, "primary", "retry", "5xx", "m"): Sums(90, 60_000, 30_000, 0, 9_000, 66_000_000, 3_300_000, 0, 19_800_000)},
        {ACME: Talk(300)},
    )  # fmt: skip
    names = ("volume", "depth", "retry", "context", "cache", "output", "price")

    def cost(rates: dict[str, dict[str, Fraction]]) -> Fraction:
        whole = Fraction(0)
        for kind in ("primary", "retry"):
            calls = rates["volume"]["n"] * rates["depth"]["d"] * (rates["retry"]["r"] if kind == "retry" else 1)
            for bucket in ("fresh", "cached"):
                whole += calls * rates["context"][kind] * rates["cache"][kind + bucket] * rates["price"][kind + bucket]
            whole += calls * rates["output"][kind] * rates["price"][kind + "out"]
        return whole

    def rates(side: Side) -> dict[str, dict[str, Fraction]]:
        made: dict[str, dict[str, Fraction]] = {name: {} for name in names}
        first, again = side.leaves.values()
        made["volume"]["n"] = Fraction(side.talks[ACME].conversations)
        made["depth"]["d"] = first.tries / made["volume"]["n"]
        made["retry"]["r"] = Fraction(again.tries, first.tries)
        for kind, one in (("primary", first), ("retry", again)):
            made["context"][kind] = Fraction(one.read, one.tries)
            made["output"][kind] = Fraction(one.output, one.tries)
            made["cache"][kind + "fresh"], made["cache"][kind + "cached"] = Fraction(one.input, one.read), Fraction(one.cache_read, one.read)
            made["price"][kind + "fresh"] = Fraction(one.cost_input, one.input)
            made["price"][kind + "cached"] = Fraction(one.cost_cache_read, one.cache_read)
            made["price"][kind + "out"] = Fraction(one.cost_output, one.output)
        return made

    was, is_ = rates(before), rates(now)
    worth = lambda moved: cost({name: (is_ if n in moved else was)[name] for n, name in enumerate(names)})  # noqa: E731
    exact = dict(zip(names, value_of(worth, len(names)), strict=True))
    found = explain(before, now)
    assert sum(exact.values()) == found.now - found.before
    for name in names:
        assert found.drivers[name] == pytest.approx(float(exact[name]), abs=4)  # rounding: half a pico-dollar per class and kind


@pytest.mark.parametrize("driver", list(CAUSES))
def test_the_driver_that_was_changed_comes_first(driver: str) -> None:
    """Ten ledgers each, everything else five per cent off."""
    for seed in range(10):
        case = planted(seed, driver)
        drivers = explain(case.before, case.now).drivers
        assert max(drivers, key=lambda name: abs(drivers[name])) == driver


def test_a_surge_of_retries_does_not_look_like_fewer_calls() -> None:
    """Each kind has a rate of its own: with shares of all calls, volume would seem to fall."""
    first, again = Leaf(ACME, "primary", "primary", "", "m"), Leaf(ACME, "primary", "retry", "tool:x", "m")
    each = Sums(100, 1000, 0, 0, 0, 1_000_000)
    before = Side({first: each, again: Sums(1, 10, 0, 0, 0, 10_000)}, {})
    now = Side({first: each, again: Sums(400, 4000, 0, 0, 0, 4_000_000)}, {})
    drivers = explain(before, now).drivers
    assert drivers["retry"] == 3_990_000
    assert all(not pico for driver, pico in drivers.items() if driver != "retry")


def test_calls_in_a_loop_are_more_calls_a_conversation_and_no_other_model() -> None:
    """A cause of first tries is a kind of its own: what comes on top is depth, not a shift from one cause to another."""
    plain, loop = (Leaf(ACME, "primary", "primary", cause, "m") for cause in ("", "loop"))
    before = Side({plain: Sums(100, 1000, 0, 0, 0, 1_000_000)}, {ACME: Talk(50)})
    now = Side({plain: Sums(100, 1000, 0, 0, 0, 1_000_000), loop: Sums(300, 3000, 0, 0, 0, 3_000_000)}, {ACME: Talk(50)})
    assert {name: pico for name, pico in explain(before, now).drivers.items() if pico} == {"depth": 3_000_000}


@pytest.mark.parametrize("gone", [False, True])
def test_what_is_new_or_gone_is_all_volume(gone: bool) -> None:
    """Rates that one period does not have are those of the other: a new customer is not a longer context."""
    leaves = {
        Leaf(ACME, "primary", "primary", "", "m"): Sums(100, 5000, 0, 0, 10, 700_000, 0, 0, 20_000),
        Leaf(ACME, "eval", "eval", "", "m"): Sums(7, 70, 0, 0, 0, 90_001),
        Leaf(ACME, "background", "background", "", "m"): Sums(3, 30, 0, 0, 0, 12_345, cost_other=5),
    }
    there, empty = Side(leaves, {ACME: Talk(20)}), Side({}, {})
    drivers = explain(there, empty).drivers if gone else explain(empty, there).drivers
    sign = -1 if gone else 1
    assert {name: pico for name, pico in drivers.items() if pico} == {
        "volume": sign * 720_000, "eval": sign * 90_001, "background": sign * 12_350,
    }  # fmt: skip


def test_conversation_ids_that_were_switched_on_are_no_change_of_depth() -> None:
    leaf = Leaf(ACME, "primary", "primary", "", "m")
    before = Side({leaf: Sums(100, 100, 0, 0, 0, 1000)}, {ACME: Talk(0, alone=100)})
    now = Side({leaf: Sums(200, 200, 0, 0, 0, 2000)}, {ACME: Talk(10)})
    drivers = explain(before, now).drivers
    assert drivers["volume"] == 1000 and drivers["depth"] == 0
    assert explain(before, now).talks == ({ACME: 100}, {ACME: 200})


def test_a_call_in_no_conversation_is_one_of_its_own() -> None:
    leaf = Leaf(ACME, "primary", "primary", "", "m")
    before = Side({leaf: Sums(100, 100, 0, 0, 0, 1000)}, {ACME: Talk(10, alone=10)})
    now = Side({leaf: Sums(200, 200, 0, 0, 0, 2000)}, {ACME: Talk(30, alone=10)})
    assert explain(before, now).talks == ({ACME: 20}, {ACME: 40})


def test_dollars_without_a_try_are_corrections_and_dollars_without_a_token_are_fees() -> None:
    leaf, other = Leaf(ACME, "primary", "primary", "", "m"), Leaf(ACME, "eval", "eval", "", "m")
    before = Side({leaf: Sums(10, 100, 0, 0, 0, 1000)}, {})
    now = Side({leaf: Sums(10, 100, 0, 0, 0, 1000, 0, 0, 77), other: Sums(0, cost_input=-5)}, {})
    assert {name: pico for name, pico in explain(before, now).drivers.items() if pico} == {"fees": 77, "corrections": -5}


def test_a_dearer_rate_is_the_price_and_a_dearer_model_is_the_mix() -> None:
    cheap, dear = Leaf(ACME, "primary", "primary", "", "cheap"), Leaf(ACME, "primary", "primary", "", "dear")
    before = Side({cheap: Sums(100, 100, 0, 0, 0, 100)}, {})
    drivers = explain(before, Side({cheap: Sums(100, 100, 0, 0, 0, 300)}, {})).drivers
    assert drivers["price"] == 200 == sum(drivers.values())
    moved = Side({cheap: Sums(50, 50, 0, 0, 0, 50), dear: Sums(50, 50, 0, 0, 0, 500)}, {})
    drivers = explain(before, moved).drivers
    assert drivers["model_mix"] == 450 == sum(drivers.values())


def test_every_planted_cause_is_among_the_drivers_names() -> None:
    assert {case.driver for case in all_planted(1)} <= set(DRIVERS)
