"""When an amount is not normal: for that series (a tenant, a tool, a feature …), at that hour, against its own last seven days.

A series is fed amounts with their times and asked, every ten minutes of that time, whether the last hour stands out. It sees
no clock and keeps a fixed number of sums, so the same rows give the same alarms live and replayed, in whatever portions they
come. What is measured (pico- or nano-dollars, calls, tokens) is the caller's business: amounts are whole numbers.

Score = sqrt(x / (q + f) * min(x / (h + f), 2)), where x is the last hour, q the 99% quantile of the hours of the last seven
days, h the highest hour at this time of day (an hour either way) on those days, and f a floor, so that little is no pattern."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from heapq import nlargest
from math import sqrt
from typing import NamedTuple

TICK_US = 600_000_000  # ten minutes
HOUR = 6  # ticks
DAY = 144
WEEK = 7 * DAY
SIZE = WEEK + HOUR  # the hours of seven days, and the ticks of the last hour, which are not its own normal
SHARE = 100  # one of so many hours is above the quantile
HIGHEST = 2.0  # times the hour's own record that count: beyond it only the quantile speaks
FLOOR_SHARE = 50  # the floor is at least one part in so many of the highest hour
MOST = 2**62  # of one tick's amounts; a sum of six still fits 64 bits when it is cut here
MONTH = 28 * DAY
PEAKS_MAX = 32


class Rule(NamedTuple):
    """What one alarm wants. Amounts are in the unit of the series, per hour.

    On 164 clients of a model host with ten times their usual load put on top, `page` finds 90% within the hour at 0.25 false
    alarms a client and week, `ticket` 95% at 0.5 (docs/explanation/alarm.md)."""

    floor: int  # what is added to every normal: the least that can be a pattern
    least: int = 0  # an hour must be above its normal by so much: the dollar floor
    line: int = 0  # an hour at or above this is always an alarm, also of a new series; 0: no such line
    page: float = 2.0
    ticket: float = 1.47
    pages_a_month: int = 1  # by design, over four weeks of a series: its threshold rises above what would have fired oftener
    tickets_a_month: int = 2
    young: int = WEEK  # ticks of history before a normal is known
    cooldown: int = DAY  # ticks until the same is said again, unless it has doubled or became worse


class Signal(NamedTuple):
    """One alarm. `value` is the last hour, `normal` what it is held against (0: a line), both in the series' unit."""

    at_us: int  # the end of that hour
    level: str  # ticket | page | line
    value: int
    normal: int
    score: float  # times the threshold's own scale; for a line the value in lines
    threshold: float


class Peak(NamedTuple):
    """The highest score of one incident: of ticks no more than a day apart."""

    tick: int
    score: float
    last: int


class Series:
    """One series: some 8 KB, whatever comes. `add` what happened, `advance` time; alarms come from `advance` alone.

    `add` takes amounts of ticks that are not closed yet, of two weeks at once at most; what comes later, or is further ahead,
    is left out and counted in `missed`. The caller advances time only so far that the rows of closed ticks have arrived (a row
    arrives when its call ends: take that as its time)."""

    __slots__ = ("_born", "_buckets", "_hours", "_lift", "_now", "_peaks", "_pending", "_said", "missed", "over", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._hours = array("q", bytes(8 * SIZE))  # the hour that ended with each tick, by tick modulo SIZE
        self._buckets = [0] * HOUR  # amounts of the last six ticks, by tick modulo HOUR
        self._pending: dict[int, int] = {}  # ticks that are not closed
        self._now = -1  # the last closed tick
        self._born = -1  # the first tick with anything in it
        self._said: tuple[int, str, float] | None = None  # tick, level and score of the last alarm
        self._peaks: list[Peak] = []
        self._lift = (0, 1.0)  # the tick of the last judgement, and what judgements made of the thresholds by then
        self.missed = 0
        self.over: Signal | None = None  # whether the last closed tick stands out, said or not

    def add(self, ts_us: int, amount: int) -> None:
        """Something happened. Amounts may be negative (a correction), sums below nothing count as nothing."""
        tick = ts_us // TICK_US
        if tick <= self._now or (len(self._pending) >= 2 * WEEK and tick not in self._pending):
            self.missed += 1
        else:
            self._pending[tick] = self._pending.get(tick, 0) + amount

    def advance(self, now_us: int) -> list[Signal]:
        """Close every tick that ended by then; gives the alarms they raise, in order."""
        until = now_us // TICK_US - 1
        found: list[Signal] = []
        for tick in sorted(tick for tick in self._pending if tick <= until):
            self._silence(tick - 1)
            found += self._close(tick, min(max(self._pending.pop(tick), 0), MOST // HOUR))
        self._silence(until)
        return found

    def _silence(self, until: int) -> None:
        """Close ticks in which nothing happened. An hour without anything raises no alarm, and may fall out of a week at once."""
        if self._born < 0:
            return
        if until - self._now > SIZE + HOUR:
            self._hours, self._buckets = array("q", bytes(8 * SIZE)), [0] * HOUR
            self._now, self.over = until, None
        while self._now < until:
            self._push(self._now + 1, 0)

    def _push(self, tick: int, amount: int) -> int:
        self._buckets[tick % HOUR] = amount
        hour = sum(self._buckets)
        self._hours[tick % SIZE] = hour
        self._now, self.over = tick, None
        return hour

    def _close(self, tick: int, amount: int) -> list[Signal]:
        if self._born < 0:
            self._born, self._now = tick, tick - 1
        hour = self._push(tick, amount)
        self.over = self._judge(tick, hour)
        return [] if self.over is None else self._say(self.over, tick)

    def _judge(self, tick: int, hour: int) -> Signal | None:
        rule = self.rule
        if rule.line and hour >= rule.line:
            return Signal((tick + 1) * TICK_US, "line", hour, 0, hour / rule.line, 1.0)
        if tick - self._born < rule.young or hour <= rule.floor:
            return None
        score, normal = self.score(tick)
        if score >= rule.ticket:
            self._remember(tick, score)
        if hour - normal < rule.least:
            return None
        for level in ("page", "ticket"):
            threshold = self.threshold(level)
            if score > threshold:
                return Signal((tick + 1) * TICK_US, level, hour, normal, score, threshold)
        return None

    def began_us(self) -> int:
        """When the hour that stands out began to: the first of its ticks in a row with more than a normal one's share. A normal
        of 0 is that of a line."""
        usual = (self.over.normal if self.over else 0) // HOUR
        tick, first = self._now, max(self._born, self._now - HOUR + 1)
        while tick > first and self._buckets[(tick - 1) % HOUR] > usual:
            tick -= 1
        return tick * TICK_US

    def score(self, tick: int) -> tuple[float, int]:
        """How the hour that ended with the last closed tick compares, and the normal it is held against."""
        hour = self._hours[tick % SIZE]
        past = self._hours[:]
        for back in range(HOUR):  # the last hour is not its own normal
            past[(tick - back) % SIZE] = 0
        top = nlargest(WEEK // SHARE + 1, past)
        floor = max(self.rule.floor, top[0] // FLOOR_SHARE)
        quantile = top[-1]
        same = 0
        for day in range(DAY, WEEK + 1, DAY):
            for near in range(-HOUR, HOUR + 1):
                same = max(same, past[(tick - day + near) % SIZE])
        return sqrt(hour / (quantile + floor) * min(hour / (same + floor), HIGHEST)), quantile

    # -- not too often -----------------------------------------------------------------------------------------------------

    def threshold(self, level: str) -> float:
        """The rule's, raised by judgements, and so far that the series' own last four weeks would not have fired oftener than
        the rule allows. The incident that is under way is not among them."""
        rule = self.rule
        base, most = (rule.page, rule.pages_a_month) if level == "page" else (rule.ticket, rule.tickets_a_month)
        past = sorted((peak.score for peak in self._peaks if peak.last < self._now - rule.cooldown), reverse=True)
        return max(base * self.lift, past[most] if len(past) > most else 0.0)

    @property
    def lift(self) -> float:
        """The factor that judgements of this series put on its thresholds; half of what is above 1 is forgotten in four weeks."""
        return self._lift_at(self._now)

    def _lift_at(self, tick: int) -> float:
        when, lift = self._lift
        return 1.0 + (lift - 1.0) * 0.5 ** (max(0, tick - when) / MONTH)

    def _remember(self, tick: int, score: float) -> None:
        self._peaks = [peak for peak in self._peaks if peak.tick > tick - MONTH][-PEAKS_MAX:]
        if self._peaks and tick - self._peaks[-1].last <= DAY:
            last = self._peaks[-1]
            self._peaks[-1] = Peak(tick, score, tick) if score > last.score else last._replace(last=tick)
        else:
            self._peaks.append(Peak(tick, score, tick))

    def _say(self, signal: Signal, tick: int) -> list[Signal]:
        """The alarm, unless it was said: again after the cooldown, when it is worse, or when its score has doubled."""
        rank = {"ticket": 0, "page": 1, "line": 2}
        if self._said is not None:
            when, level, score = self._said
            worse = rank[signal.level] > rank[level] or (signal.level == level and signal.score >= 2 * score)
            if tick - when < self.rule.cooldown and not worse:
                return []
        self._said = (tick, signal.level, signal.score)
        return [signal]

    # -- judgements --------------------------------------------------------------------------------------------------------

    def judge(self, signal: Signal, useful: bool, at_us: int | None = None, then: Rule | None = None) -> None:
        """Somebody said what an alarm of this series was worth: at that time and under that rule, else now. Noise: it takes a tenth
        more than that to fire again. Useful: it does not count as a false alarm of the series' month, and half of what noise had
        added is taken back. Lines stay."""
        if signal.level == "line":
            return
        tick = signal.at_us // TICK_US - 1
        when, rule = self._now if at_us is None else at_us // TICK_US, then or self.rule
        lift = self._lift_at(when)
        if useful:
            self._peaks = [peak for peak in self._peaks if not tick - DAY <= peak.last <= tick + DAY]
            lift = 1.0 + (lift - 1.0) / 2
        else:
            base = rule.page if signal.level == "page" else rule.ticket
            lift = min(max(lift, signal.score / base * 1.1), LIFT_MAX)
        self._lift = (when, lift)


LIFT_MAX = 4.0  # judged noise may raise a threshold so far and no further: what is ten times the usual must still be heard


class Judged(NamedTuple):
    """An alarm of any series of a rule, judged: its score in the rule's own thresholds (1.0 is just enough)."""

    times: float
    useful: bool


USEFUL_WORTH = 5  # noises that one missed useful alarm is worth


def lift_of(judged: Sequence[Judged]) -> float:
    """What all judgements of a rule make of its threshold, for series that nobody judged yet: the lowest factor from 1 up at
    which the noise that remains and the useful alarms that are lost cost least."""
    noises = sorted(one.times for one in judged if not one.useful)
    useful = sorted(one.times for one in judged if one.useful)
    best, cost = 1.0, float(len(noises))
    for factor in [times * 1.001 for times in noises if 1.0 <= times < LIFT_MAX]:
        noise = len(noises) - bisect_right(noises, factor)
        lost = bisect_right(useful, factor)
        if noise + USEFUL_WORTH * lost < cost:
            best, cost = factor, float(noise + USEFUL_WORTH * lost)
    return best
