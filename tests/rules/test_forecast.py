"""The forecast: intervals that hold as often as they say, on real clients; budgets; and what little history can and cannot say."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules.forecast import LEVELS, outlooks

from .alarm_made import Client, clients

HOURS = 336


def hourly(one: Client) -> list[float]:
    return [float(sum(one.calls[hour * 6 : hour * 6 + 6])) for hour in range(HOURS)]


def held(series: dict[str, list[float]], horizon: int) -> tuple[list[float], int]:
    """Share of past intervals that held what came, per level, and how many there were."""
    made = outlooks(series, 0, [1.0] * horizon, season=24).values()
    trials = sum(one.intervals[0].trials for one in made if one.intervals)
    return [sum(one.intervals[n].hits for one in made if one.intervals) / trials for n in range(len(LEVELS))], trials


@pytest.mark.fuzz
@pytest.mark.parametrize("horizon", [6, 12, 24])
def test_intervals_hold_within_three_points_on_real_clients(data_dir: Path, horizon: int) -> None:
    """Clients with traffic in both weeks, hour by hour, with a day as the season. Measured: 80.2, 81.1 and 78.3% for 80, 94.7,
    95.0 and 93.4% for 95; two days ahead, which two weeks hold seven times, 74 and 93%."""
    series = {one.name: hourly(one) for one in clients(data_dir)}
    shares, trials = held({name: hours for name, hours in series.items() if sum(hours[HOURS // 2 :])}, horizon)
    assert trials > 20_000
    for share, level in zip(shares, LEVELS, strict=True):
        assert abs(share - level) <= 0.03


def test_intervals_hold_on_a_sample_of_real_clients(data_dir: Path) -> None:
    series = {one.name: hourly(one) for one in clients(data_dir)[::5]}
    shares, _ = held({name: hours for name, hours in series.items() if sum(hours[HOURS // 2 :])}, 12)
    assert abs(shares[0] - 0.8) <= 0.06 and abs(shares[1] - 0.95) <= 0.04


def weekly(days: int, level: float = 100.0, noise: float = 0.1, seed: int = 1, growth: float = 0.0) -> list[float]:
    chance = Random(seed)
    shape = (1.2, 1.3, 1.25, 1.2, 1.1, 0.5, 0.45)
    return [level * (1 + growth) ** n * shape[n % 7] * chance.lognormvariate(0, noise) for n in range(days)]


def test_the_rhythm_of_the_week_is_learned() -> None:
    """A weekend ahead is not five workdays: the point knows which days are left."""
    days = weekly(56, noise=0.02)
    weekend = outlooks({"a": days}, 0, [0, 0, 0, 0, 0, 1.0, 1.0])["a"]
    workdays = outlooks({"a": days}, 0, [1.0, 1.0])["a"]
    assert weekend.point < 0.55 * workdays.point  # 0.38 in truth: three pseudo-days draw it to 1
    assert workdays.point == pytest.approx(235, rel=0.1)


def test_a_new_level_is_followed() -> None:
    """Half of the new in a week."""
    jumped = [100.0] * 30 + [300.0] * 7
    assert outlooks({"a": jumped}, 0, [1.0])["a"].point == pytest.approx(200, rel=0.1)


def test_a_part_of_a_day_counts_as_a_part() -> None:
    days = [100.0] * 40
    assert outlooks({"a": days}, 0, [0.25, 1.0])["a"].point == pytest.approx(125)


def test_calm_days_make_narrow_intervals_and_wild_ones_wide() -> None:
    made = outlooks({"calm": weekly(120, noise=0.02), "wild": weekly(120, noise=0.6, seed=2)}, 0, [1.0] * 3)
    width = {name: (one.intervals[0].high - one.intervals[0].low) / one.point for name, one in made.items()}
    assert width["wild"] > 4 * width["calm"]
    for one in made.values():
        eighty, most = one.intervals
        assert most.low <= eighty.low <= eighty.high <= most.high


def test_too_little_history_has_a_point_and_no_interval() -> None:
    made = outlooks({"a": [5.0] * 9}, 0, [1.0] * 3)["a"]
    assert made.point == pytest.approx(15) and made.intervals == () and made.over(10.0) is None and made.crossing(10.0) is None


def test_a_new_series_borrows_what_the_others_got_wrong() -> None:
    old = {f"o{n}": weekly(60, noise=0.2, seed=n) for n in range(5)}
    young = {"new": [0.0] * 50 + weekly(10, seed=9)}
    assert outlooks(young, 0, [1.0] * 2)["new"].intervals == ()
    assert len(outlooks({**old, **young}, 0, [1.0] * 2)["new"].intervals) == 2


def test_nothing_comes_of_nothing() -> None:
    made = outlooks({"a": [0.0] * 60}, 0, [1.0] * 5)["a"]
    assert made.point == 0 and all(one.low == one.high == 0 for one in made.intervals)
    assert outlooks({}, 0, [1.0]) == {}
    assert outlooks({"a": []}, 0, [1.0])["a"].point == 0


def test_the_chance_of_passing_falls_with_the_room_and_the_day_comes_later() -> None:
    made = outlooks({"a": weekly(200, noise=0.3)}, 0, [1.0] * 20)["a"]
    rooms = [made.point * part for part in (0.2, 0.6, 0.9, 1.1, 1.5, 4.0)]
    chances = [made.over(room) for room in rooms]
    assert all(a is not None and b is not None and a >= b for a, b in zip(chances, chances[1:], strict=False))
    assert chances[0] is not None and chances[0] > 0.98 and chances[-1] is not None and chances[-1] < 0.02
    days = [made.crossing(room) for room in rooms[:3]]
    assert all(day is not None for day in days) and days == sorted(day for day in days if day is not None) and made.crossing(rooms[-1]) is None
    assert made.over(-1.0) == 1.0 and made.crossing(-1.0) == 0


def test_what_is_assumed_is_put_on_what_is_still_to_come() -> None:
    made = outlooks({"a": weekly(100)}, 0, [1.0] * 4)["a"]
    twice = made.times(2.0)
    assert twice.point == 2 * made.point and sum(twice.path) == pytest.approx(twice.point)
    assert [one.high for one in twice.intervals] == [2 * one.high for one in made.intervals]
    assert twice.over(2 * made.point) == made.over(made.point)


def test_only_what_was_known_then_is_used_to_judge_the_past() -> None:
    """A past interval does not change with what came after its horizon: the hits of a prefix are among those of the whole."""
    days = weekly(140, noise=0.4)
    early = outlooks({"a": days[:100]}, 0, [1.0] * 5)["a"].intervals[0]
    changed = outlooks({"a": [*days[:100], *[1e6] * 40]}, 0, [1.0] * 5)["a"].intervals[0]
    same = outlooks({"a": [*days[:100], *[0.0] * 40]}, 0, [1.0] * 5)["a"].intervals[0]
    assert early.trials < changed.trials == same.trials
    assert changed.hits >= early.hits and same.hits >= early.hits


def test_past_forecasts_are_made_with_what_was_known_then() -> None:
    """A jump in the last days makes the forecasts of the flat months before it no worse."""
    errors = [error for error, _ in outlooks({"a": [100.0] * 90 + [900.0] * 5}, 0, [1.0] * 2)["a"].errors]
    assert sum(abs(error) < 1e-9 for error in errors) >= 75


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e15), min_size=0, max_size=60), st.lists(st.floats(0, 1), max_size=31), st.integers(0, 6))
def test_any_history_gives_finite_figures(days: list[float], left: list[float], phase: int) -> None:
    made = outlooks({"a": days}, phase, left)["a"]
    assert math.isfinite(made.point) and made.point >= 0
    for one in made.intervals:
        assert 0 <= one.low <= one.high and math.isfinite(one.high)


def test_series_of_different_lengths_are_a_callers_bug() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        outlooks({"a": [1.0], "b": [1.0, 2.0]}, 0, [1.0])
