"""When a tool is called far more often than it ever was: minute by minute, by how unlikely the count is. Nothing but counts.

Calls of one tool by one tenant come in bursts, so their number in a window is taken as negative binomial, with the mean and
spread of the series' own hours over the last seven days. An alarm needs three things: the tail is under one in a billion, the
count is twice any of the last week's in a window of that length, and it is large enough to matter."""

from __future__ import annotations

from array import array
from math import lgamma, log, log1p
from typing import NamedTuple

MINUTE_US = 60_000_000
HOUR = 60
DAY = 24
WEEK = 7 * DAY
WINDOWS = (1, 15)  # minutes
PENDING_MAX = 2 * WEEK * HOUR


class Pace(NamedTuple):
    """What one alarm on tool calls wants."""

    least: int = 30  # calls in the window
    tail: float = 1e-9
    times: float = 2.0  # the week's own record for a window of that length
    line: int = 0  # calls an hour that are always an alarm, also of a new tool; 0: none
    young: int = WEEK  # hours of history before a normal is known
    cooldown: int = DAY * HOUR  # minutes until the same is said again, unless it has doubled


class Surge(NamedTuple):
    """One alarm: `calls` in `minutes`, where `expected` was usual; `tail` is the natural logarithm of its chance."""

    at_us: int
    minutes: int
    calls: int
    expected: float
    tail: float


class Calls:
    """One tool of one tenant: some 5 KB. `add` calls with their times, `advance` time; see `rules.alarm.Series` for what makes
    live and replayed time the same."""

    __slots__ = ("_born", "_hours", "_minutes", "_now", "_pending", "_records", "_said", "missed", "over", "pace")

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._minutes = [0] * HOUR  # by minute modulo HOUR
        self._hours = array("q", bytes(8 * WEEK))  # whole clock hours, by hour modulo WEEK
        self._records = [array("q", bytes(8 * WEEK)) for _ in WINDOWS]  # each hour's highest count in a window of each length
        self._pending: dict[int, int] = {}
        self._now = self._born = -1  # minutes
        self._said: tuple[int, float] | None = None  # minute and calls a minute
        self.missed = 0
        self.over: Surge | None = None  # whether the last closed minute is one of a surge, said or not

    def add(self, ts_us: int, calls: int = 1) -> None:
        minute = ts_us // MINUTE_US
        if minute <= self._now or (len(self._pending) >= PENDING_MAX and minute not in self._pending):
            self.missed += 1
        else:
            self._pending[minute] = self._pending.get(minute, 0) + calls

    def advance(self, now_us: int) -> list[Surge]:
        """Close every minute that ended by then; gives the alarms they raise, in order."""
        until = now_us // MINUTE_US - 1
        found: list[Surge] = []
        for minute in sorted(minute for minute in self._pending if minute <= until):
            self._silence(minute - 1)
            if self._born < 0:
                self._born, self._now = minute, minute - 1
            self._push(minute, self._pending.pop(minute))
            self.over = self._judge(minute)
            found += [] if self.over is None else self._say(self.over)
        self._silence(until)
        return found

    def _silence(self, until: int) -> None:
        if self._born < 0:
            return
        if until - self._now > (WEEK + 1) * HOUR:
            self._minutes = [0] * HOUR
            self._hours = array("q", bytes(8 * WEEK))
            self._records = [array("q", bytes(8 * WEEK)) for _ in WINDOWS]
            self._now, self.over = until, None
        while self._now < until:
            self._push(self._now + 1, 0)

    def _push(self, minute: int, calls: int) -> None:
        self._now, self.over = minute, None
        self._minutes[minute % HOUR] = calls
        hour = minute // HOUR % WEEK
        if minute % HOUR == 0:
            self._hours[hour] = 0
            for record in self._records:
                record[hour] = 0
        self._hours[hour] += calls
        for length, record in zip(WINDOWS, self._records):
            if calls:  # a window is highest when something has just come
                record[hour] = max(record[hour], self._count(minute, length))

    def _count(self, minute: int, length: int) -> int:
        return sum(self._minutes[(minute - back) % HOUR] for back in range(length))

    def _judge(self, minute: int) -> Surge | None:
        pace = self.pace
        hour = sum(self._minutes)
        if pace.line and hour >= pace.line:
            return Surge((minute + 1) * MINUTE_US, HOUR, hour, 0.0, 0.0)
        if minute - self._born < pace.young * HOUR:
            return None
        for length, record in zip(WINDOWS, self._records):
            calls = self._count(minute, length)
            if calls < pace.least or calls <= pace.times * self._record(record, minute):
                continue
            mean, size = self._normal(minute)
            expected = mean * length / HOUR
            tail = log_tail(calls, expected, size)
            if tail < log(pace.tail):
                return Surge((minute + 1) * MINUTE_US, length, calls, expected, tail)
        return None

    def began_us(self) -> int:
        """When the surge began: the first of its minutes in a row with more than twice a usual one's calls."""
        usual = 2 * self._normal(self._now)[0] / HOUR
        minute, first = self._now, max(self._born, self._now - HOUR + 1)
        while minute > first and self._minutes[(minute - 1) % HOUR] > usual:
            minute -= 1
        return minute * MINUTE_US

    def _past(self, minute: int) -> list[int]:
        """Places of the hours that are history: neither this one nor the one before, which a surge may have begun in."""
        now = minute // HOUR
        return [(now - back) % WEEK for back in range(2, WEEK)]

    def _normal(self, minute: int) -> tuple[float, float]:
        """Calls an hour, and how they are spread: the size of a negative binomial, infinite for a Poisson."""
        hours = [self._hours[n] for n in self._past(minute)]
        mean = (sum(hours) + 1) / len(hours)
        spread = sum((n - mean) ** 2 for n in hours) / len(hours)
        return mean, mean * mean / (spread - mean) if spread > mean else float("inf")

    def _record(self, record: array[int], minute: int) -> int:
        return max(record[n] for n in self._past(minute))

    def _say(self, surge: Surge) -> list[Surge]:
        minute, rate = surge.at_us // MINUTE_US, surge.calls / surge.minutes
        if self._said is not None and minute - self._said[0] < self.pace.cooldown and rate < 2 * self._said[1]:
            return []
        self._said = (minute, rate)
        return [surge]


def log_tail(count: int, mean: float, size: float) -> float:
    """An upper bound, and nearly the value, of ln P(X >= count) for X negative binomial with this mean and size (Poisson for an
    infinite size), where count is above the mean; 0 where it is not."""
    if count <= mean:
        return 0.0
    if size == float("inf"):
        first = count * log(mean) - mean - lgamma(count + 1)
        ratio = mean / (count + 1)
    else:
        chance = mean / (mean + size)
        first = lgamma(count + size) - lgamma(size) - lgamma(count + 1) + size * log1p(-chance) + count * log(chance)
        ratio = chance * max(1.0, (count + size) / (count + 1))
    # Terms fall by at least this ratio from each to the next, so the rest is less than a geometric series.
    return min(0.0, first - log1p(-ratio)) if ratio < 1 else 0.0

