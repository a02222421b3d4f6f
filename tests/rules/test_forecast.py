"""The forecast: intervals that hold as often as they say, on real clients; budgets; and what little history can and cannot say."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from statistics import median

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


def real(data: Path) -> dict[str, list[float]]:
    """Clients with traffic in both weeks, hour by hour."""
    series = {one.name: hourly(one) for one in clients(data)}
    return {name: hours for name, hours in series.items() if sum(hours[HOURS // 2 :])}


def other_half(series: dict[str, list[float]]) -> dict[str, list[float]]:
    """Of which nothing was looked at when the method and its figures were chosen: that was done on the first, third, fifth …"""
    return {name: series[name] for name in sorted(series)[1::2]}


def widths(series: dict[str, list[float]], horizon: int) -> list[float]:
    """Per level the median width of the ranges given at the end, in point forecasts."""
    made = [one for one in outlooks(series, 0, [1.0] * horizon, season=24).values() if one.intervals and one.point]
    return [median((one.intervals[n].high - one.intervals[n].low) / one.point for one in made) for n in range(len(LEVELS))]


@pytest.mark.fuzz
@pytest.mark.parametrize("half", [False, True], ids=["all", "the half that nothing was chosen on"])
@pytest.mark.parametrize("horizon", [6, 12, 24, 48, 72])
def test_intervals_hold_within_three_points_on_real_clients(data_dir: Path, horizon: int, half: bool) -> None:
    """A day is the season. No range is so wide that it says nothing. Two weeks hold four windows of 72 hours."""
    series = real(data_dir)
    shares, trials = held(other_half(series) if half else series, horizon)
    assert trials > (9_000 if half else 18_000)
    for share, level in zip(shares, LEVELS, strict=True):
        assert abs(share - level) <= (0.03 if horizon <= 48 else 0.04)
    assert widths(series, horizon)[0] < 2.5


def test_intervals_hold_on_a_sample_of_real_clients(data_dir: Path) -> None:
    series = {one.name: hourly(one) for one in clients(data_dir)[::5]}
    shares, _ = held({name: hours for name, hours in series.items() if sum(hours[HOURS // 2 :])}, 12)
    assert abs(shares[0] - 0.8) <= 0.06 and abs(shares[1] - 0.95) <= 0.04


@pytest.mark.parametrize(("days", "horizon"), [(60, 7), (90, 14), (150, 28)])
def test_intervals_of_one_short_series_hold(days: int, horizon: int) -> None:
    """Nothing to borrow, and some five horizons that do not overlap: months as a new ledger has them, with a level that drifts."""
    trials, hits = 0, [0, 0]
    for seed in range(80):
        chance, level, series = Random(f"{days}/{seed}"), 100.0, list[float]()
        for shape in weekly(days, level=1.0, noise=0.15, seed=seed):
            level *= chance.lognormvariate(0, 0.03)
            series.append(level * shape)
        made = outlooks({"a": series}, 0, [1.0] * horizon)["a"].intervals
        trials += made[0].trials
        hits = [was + one.hits for was, one in zip(hits, made, strict=True)]
    assert trials > 1_000
    assert abs(hits[0] / trials - 0.8) < 0.08 and abs(hits[1] / trials - 0.95) < 0.05


def test_a_chance_of_passing_is_as_often_right_as_it_says() -> None:
    """Limits around the forecast, ten days ahead, and what then came."""
    said: list[tuple[float, bool]] = []
    for seed in range(400):
        chance, level, series = Random(f"{seed}"), 100.0, list[float]()
        for shape in weekly(110, level=1.0, noise=0.15, seed=seed):
            level *= chance.lognormvariate(0, 0.03)
            series.append(level * shape)
        made = outlooks({"a": series[:100]}, 0, [1.0] * 10)["a"]
        room = made.point * chance.uniform(0.75, 1.3)
        found = made.over(room)
        assert found is not None
        said.append((found, sum(series[100:]) > room))
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        some = [one for one in said if low <= one[0] < high]
        assert len(some) > 30
        assert abs(sum(one for one, _ in some) / len(some) - sum(came for _, came in some) / len(some)) < 0.12


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


def test_a_total_of_one_part_is_no_second_opinion() -> None:
    """The same series under two names knows no more than under one."""
    days = weekly(90, noise=0.3)
    once, twice = outlooks({"a": days}, 0, [1.0] * 14), outlooks({"total": days, "a": days}, 0, [1.0] * 14)
    assert twice["total"] == twice["a"] == once["a"]


def test_few_errors_make_a_wide_range() -> None:
    """The same days, four weeks ahead, of which a quarter of a year holds two and a year eleven."""
    days = weekly(400, noise=0.3)
    ranges = [outlooks({"a": days[-length:]}, 0, [1.0] * 28)["a"].intervals[1] for length in (90, 400)]
    assert ranges[0].high - ranges[0].low > 1.5 * (ranges[1].high - ranges[1].low)


def test_a_series_borrows_from_those_like_itself() -> None:
    """A calm one among many: its range is the calm ones', not a mean of theirs and of the wild ones'."""
    calm = {f"c{n}": weekly(150, noise=0.05, seed=n) for n in range(20)}
    wild = {f"w{n}": weekly(150, noise=1.0, seed=100 + n) for n in range(20)}
    made = outlooks({**calm, **wild}, 0, [1.0] * 14)
    width = {name: (one.intervals[0].high - one.intervals[0].low) / one.point for name, one in made.items()}
    assert max(width[name] for name in calm) < 0.3 < min(width[name] for name in wild)


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
