"""Tool calls by the minute: what a surge is, how fast it is heard, and that ordinary bursts are none."""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from random import Random

import pytest

from bursar.rules.alarm_rate import DAY, HOUR, MINUTE_US, WEEK, Calls, Pace, Surge, log_tail


def poisson(chance: Random, mean: float) -> int:
    """A Poisson number, by counting exponential gaps."""
    count, run = 0, chance.expovariate(1.0)
    while run < mean:
        count, run = count + 1, run + chance.expovariate(1.0)
    return count


def ordinary(days: int, a_day: float, seed: int = 1) -> list[int]:
    """Calls a minute: nine tenths of them in office hours, and hours that are busier than others."""
    chance = Random(seed)
    made: list[int] = []
    for hour in range(days * DAY):
        share = 0.09 if 8 <= hour % DAY < 18 else 0.1 / 14
        mean = a_day * share * chance.gammavariate(1.5, 1 / 1.5) / HOUR
        made += [poisson(chance, mean) for _ in range(HOUR)]
    return made


def run(minutes: list[int], pace: Pace = Pace(), calls: Calls | None = None, start: int = 0) -> tuple[Calls, list[Surge]]:
    calls = calls or Calls(pace)
    found: list[Surge] = []
    for minute, count in enumerate(minutes, start):
        if count:
            calls.add(minute * MINUTE_US, count)
        found += calls.advance((minute + 1) * MINUTE_US)
    return calls, found


@pytest.mark.parametrize("seed", range(5))
def test_a_tool_from_200_a_day_to_2000_an_hour_is_heard_within_15_minutes(seed: int) -> None:
    """In fact within three: a minute of 33 calls, where 0.14 are expected, has no other explanation."""
    week = ordinary(9, 200, seed)
    calls, before = run(week)
    assert before == []
    chance = Random(seed)
    _, alarms = run([poisson(chance, 2000 / 60) for _ in range(15)], calls=calls, start=len(week))
    assert alarms and alarms[0].at_us <= (len(week) + 3) * MINUTE_US
    assert alarms[0].calls >= 30 and alarms[0].tail < log(1e-9)


def test_ordinary_bursts_are_no_surge() -> None:
    """Sixteen tools for two weeks in which a normal is known, from ten to five thousand calls a day."""
    for seed in range(16):
        assert run(ordinary(21, (10, 200, 2000, 5000)[seed % 4], seed))[1] == []


def test_a_tool_in_its_first_week_is_heard_only_above_its_line() -> None:
    assert run([0] * 60 + [500] * 10)[1] == []
    _, alarms = run([0] * 60 + [500] * 10, Pace(line=2000))
    assert [(alarm.minutes, alarm.calls) for alarm in alarms] == [(60, 2000), (60, 4000)]


def test_a_batch_that_comes_every_night_is_normal() -> None:
    night = [0] * (3 * HOUR) + [400] * 5 + [0] * (21 * HOUR - 5)
    assert run(night * 12)[1][1:] == []


def test_what_every_hour_does_in_one_minute_is_normal() -> None:
    """Forty calls at the full hour, every hour: no Poisson would do that, and no operator wants to hear of it."""
    assert run(([40] + [0] * 59) * (10 * DAY))[1] == []


def test_what_doubles_is_said_again_and_what_goes_on_is_not() -> None:
    week = ordinary(8, 200)
    calls, _ = run(week)
    _, alarms = run([40] * 60 + [90] * 60, calls=calls, start=len(week))
    assert len(alarms) == 2


def test_live_and_replayed_time_give_the_same_alarms() -> None:
    minutes = [*ordinary(8, 200), *[40] * 30, *[0] * 90, *[200] * 5]
    _, expected = run(minutes)
    calls = Calls(Pace())
    found: list[Surge] = []
    for minute, count in enumerate(minutes):
        for _ in range(count):
            calls.add(minute * MINUTE_US + 7)
        if minute % 977 == 0:
            found += calls.advance(minute * MINUTE_US)
    assert found + calls.advance(len(minutes) * MINUTE_US) == expected != []


def test_it_keeps_a_fixed_number_of_counts() -> None:
    calls = Calls(Pace())
    for minute in range(0, 60 * WEEK * HOUR, 11):
        calls.add(minute * MINUTE_US)
    assert calls.missed and len(calls._pending) == 2 * WEEK * HOUR
    calls.advance(100 * WEEK * HOUR * MINUTE_US)
    assert not calls._pending and sum(calls._hours) == 0
    calls.add(0)
    assert calls.missed


@pytest.mark.parametrize(("mean", "size"), [(2.0, float("inf")), (0.14, 0.8), (12.0, 3.0), (50.0, 200.0)])
def test_the_tail_is_bounded_and_nearly_met(mean: float, size: float) -> None:
    """Against the sum of all its terms."""

    def term(n: int) -> float:
        if size == float("inf"):
            return exp(n * log(mean) - mean - lgamma(n + 1))
        p = mean / (mean + size)
        return exp(lgamma(n + size) - lgamma(size) - lgamma(n + 1) + size * log1p(-p) + n * log(p))

    for count in (int(mean) + 3, int(3 * mean) + 10, int(8 * mean) + 30):
        exact = log(sum(term(n) for n in range(count, count + 4000)))
        assert exact - 1e-9 <= log_tail(count, mean, size) <= exact + 1.5
    assert log_tail(0, mean, size) == 0.0
