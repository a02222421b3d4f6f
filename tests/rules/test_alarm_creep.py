"""Slow creep: three months of a few per cent a week, split into what grew; a launch and a bad day are not creep."""

from __future__ import annotations

from random import Random

from bursar.rules.alarm_creep import Creep, creep

from .why_made import Rates, side

KEY = ("acme", "support")
DOLLAR = 10**12


def week(seed: int = 1, **more: float):
    made = side({KEY: Rates(**more)}, Random(seed), noise=0.01)
    cost = sum(one.cost for one in made.leaves.values())
    return made, tuple(cost // 7 for _ in range(7))


def told(now: tuple, then: dict[int, tuple], least: int = DOLLAR // 100) -> list[Creep]:
    return creep(*now, then, least)


def test_five_per_cent_a_week_is_heard_after_three_months_with_what_grew() -> None:
    """A learned normal follows it; against twelve weeks ago it is 1.8 times the conversations and 1.3 times the input."""
    (found,) = told(week(talks=360.0, context=8000.0), {4: week(talks=300.0, context=7400.0), 12: week(talks=200.0, context=5500.0)})
    assert found.weeks == 12 and 2.0 <= found.times < 3.5
    assert sum(found.parts.values()) == found.now - found.then
    assert found.parts["volume"] > found.parts["size"] > 0
    assert abs(found.parts["price"]) + abs(found.parts["model"]) < found.parts["size"] / 5


def test_half_as_much_again_in_four_weeks_is_heard_at_once() -> None:
    found = told(week(talks=330.0), {4: week(talks=200.0), 12: week(talks=195.0)})
    assert [one.weeks for one in found] == [4]


def test_a_dearer_price_and_a_dearer_model_are_called_by_their_names() -> None:
    (price,) = told(week(price=2.0), {4: week()})
    assert max(price.parts, key=price.parts.__getitem__) == "price"
    (model,) = told(week(dear=0.9), {4: week(dear=0.2)})
    assert max(model.parts, key=model.parts.__getitem__) == "model"


def test_one_bad_day_is_another_alarms_business() -> None:
    now, days = week(talks=400.0)
    flat = week(talks=200.0)
    spiky = (flat[1][0] * 6, *[flat[1][0] - 1] * 6)
    assert told((now, days), {4: flat}) != []
    assert told((now, spiky), {4: flat}) == []


def test_what_is_new_and_what_is_small_does_not_creep() -> None:
    from bursar.rules.why import Side

    assert told(week(talks=400.0), {4: (Side({}, {}), (0,) * 7)}) == []
    assert told(week(talks=400.0), {4: week(talks=200.0)}, least=10**6 * DOLLAR) == []
    assert told(week(talks=400.0), {}) == []
