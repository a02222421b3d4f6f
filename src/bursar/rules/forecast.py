"""What a period will come to: a level, a rhythm, and intervals as wide as past forecasts were wrong. Pure, and judged by itself.

Point: what there is, plus level x rhythm over the time that is left. The level is an exponentially weighted mean (half-life one
season) of the amounts with their rhythm taken out; the rhythm is each phase's share of the last eight seasons, drawn to 1 by
three pseudo-days. Interval: the forecast is repeated at every past moment with the same time left, and the quantiles of what
came over what was forecast are put on today's (conformal prediction); their level is adapted by how often they missed (adaptive
conformal inference, Gibbs and Candes 2021). A series with less than forty such errors borrows those of the others."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from math import ceil, exp, log
from typing import NamedTuple

SEASONS = 8  # of history that make the rhythm
PSEUDO = 3  # days of factor 1 that a phase starts with
HISTORY_MAX = 400  # past amounts that count
ERRORS_MAX = 365
ERRORS_HALF_LIFE = 180  # units of time until an error counts half
ERRORS_ENOUGH = 40  # below it the others' errors fill up
ERRORS_LEAST = 12  # below it, with all that can be borrowed, there is no interval
SMALL = 0.02  # of a mean amount: what makes the ratio of nothing to nothing one
STEP = 0.02  # of adaptive conformal inference
LEVELS = (0.8, 0.95)


class Interval(NamedTuple):
    """Between `low` and `high` with probability `level`, in the series' unit. `hits` of `trials` past intervals held what came."""

    level: float
    low: float
    high: float
    hits: int
    trials: int


class Outlook(NamedTuple):
    """What is still to come: `point`, intervals (none where too little is known), and the errors they are made of: what came over
    what was forecast, as logarithms with weights, smallest first. `small` is added to both sides of a ratio."""

    point: float
    path: tuple[float, ...]  # per unit of time left; sums to `point`
    intervals: tuple[Interval, ...]
    errors: tuple[tuple[float, float], ...]
    small: float

    def times(self, factor: float) -> Outlook:
        """The same with everything that is still to come so many times as much: a step that is known ahead."""
        intervals = [one._replace(low=one.low * factor, high=one.high * factor) for one in self.intervals]
        return Outlook(
            self.point * factor, tuple(part * factor for part in self.path), tuple(intervals), self.errors, self.small * factor
        )

    def over(self, room: float) -> float | None:
        """The probability that more than `room` is still to come."""
        if not self.errors:
            return None
        if room < 0:
            return 1.0
        least = log((room + self.small) / (self.point + self.small))
        whole = sum(weight for _, weight in self.errors)
        above = sum(weight for error, weight in self.errors if error > least)
        return min(max((above + 0.5) / (whole + 1.0), 0.0), 1.0)

    def crossing(self, room: float, share: float = 0.5) -> int | None:
        """The unit of time left, from 0, in which `room` is used up in at least `share` of the ways it may go; None when it is not
        within the period."""
        if room < 0:
            return 0
        days: list[tuple[int, float]] = []
        for error, weight in self.errors:
            times = exp(error)
            run = 0.0
            for n, amount in enumerate(self.path):
                run += amount * times
                if run > room:
                    days.append((n, weight))
                    break
        whole, run = sum(weight for _, weight in self.errors), 0.0
        for n, weight in sorted(days):
            run += weight
            if run >= share * whole:
                return n
        return None


def outlooks(series: Mapping[str, Sequence[float]], phase: int, left: Sequence[float], season: int = 7) -> dict[str, Outlook]:
    """What is still to come of each series. All have the same units of time behind them, oldest first, the first of them at
    `phase` of the season; `left` is the part of each unit ahead that still counts (1, or less for a unit that has begun)."""
    length = max((len(values) for values in series.values()), default=0)
    if any(len(values) != length for values in series.values()):
        raise ValueError("series of different lengths")
    skip = max(0, length - HISTORY_MAX)
    tracks = {name: _Track(values[skip:], (phase + skip) % season, season) for name, values in series.items()}
    horizon = max(1, ceil(sum(left) - 1e-9)) if left else 1
    made = _intervals(tracks, horizon)
    found: dict[str, Outlook] = {}
    for name, track in tracks.items():
        path = tuple(track.at(len(track.values), n) * part for n, part in enumerate(left))
        point = sum(path)
        errors, intervals = made[name]
        small = track.small * max(sum(left), 1e-9)
        whole = [
            Interval(level, max(0.0, (point + small) * exp(low) - small), max(0.0, (point + small) * exp(high) - small), hits, trials)
            for level, low, high, hits, trials in intervals
        ]
        found[name] = Outlook(point, path, tuple(whole), errors, small)
    return found


class _Track:
    """A series with its level and rhythm as they were at every past moment."""

    def __init__(self, values: Sequence[float], phase: int, season: int) -> None:
        self.values, self.phase, self.season = values, phase, season
        self.first = next((n for n, value in enumerate(values) if value), len(values))  # before it there was no such series
        self.levels: list[float] = []
        self.rhythms: list[tuple[float, ...]] = []
        keep = 0.5 ** (1 / season)
        sums, counts = [0.0] * season, [0] * season
        level, mean, seen = 0.0, 0.0, 0
        for n in range(len(values) + 1):
            total, count = sum(sums), sum(counts)
            each = total / count if count else 0.0
            self.rhythms.append(tuple(
                (part / each + PSEUDO) / (number + PSEUDO) if each > 0 else 1.0 for part, number in zip(sums, counts)
            ))  # fmt: skip
            self.levels.append(max(level, 0.0))
            if n == len(values):
                break
            if n < self.first:
                continue
            now = (phase + n) % season
            value = max(float(values[n]), 0.0)
            factor = self.rhythms[-1][now]
            plain = value / factor if factor > 0 else value
            seen += 1
            mean += (plain - mean) / seen
            # A mean while there is less than a season, then the weights take over.
            level = mean if seen <= season else level * keep + plain * (1 - keep)
            sums[now] += value
            counts[now] += 1
            old = n - SEASONS * season
            if old >= self.first:
                sums[(phase + old) % season] -= max(float(values[old]), 0.0)
                counts[(phase + old) % season] -= 1
        self.small = SMALL * sum(max(float(v), 0.0) for v in values) / max(1, len(values) - self.first)

    def at(self, origin: int, ahead: int) -> float:
        """The forecast, made before unit `origin`, of the unit so many ahead of it."""
        return self.levels[origin] * self.rhythms[origin][(self.phase + origin + ahead) % self.season]

    def error(self, origin: int, horizon: int) -> float:
        """ln of what came over what was forecast for the next `horizon` units."""
        small = self.small * horizon
        told = sum(self.at(origin, n) for n in range(horizon))
        came = sum(max(float(v), 0.0) for v in self.values[origin : origin + horizon])
        return log((came + small) / (told + small)) if small > 0 else 0.0


Errors = tuple[tuple[float, float], ...]


def _intervals(tracks: Mapping[str, _Track], horizon: int) -> dict[str, tuple[Errors, list[tuple[float, float, float, int, int]]]]:
    """For each series its weighted errors at the end, and per level (level, low, high, hits, trials) in logarithms. All series
    are walked through together, so that at every past moment only errors that were known by then are used, also the others'."""
    length = max((len(track.values) for track in tracks.values()), default=0)
    states = {name: _State(horizon) for name in tracks}
    pool: list[float] = []
    for origin in range(length + 1):
        closed = origin - horizon
        if closed >= 0:
            for name, track in tracks.items():
                if closed >= track.first + track.season:
                    error = track.error(closed, horizon)
                    states[name].close(closed, error)
                    insort(pool, error)
        for name, track in tracks.items():
            if track.first + track.season <= origin <= length - horizon:
                states[name].open(origin, pool)
    return {name: state.end(length, pool) for name, state in states.items()}


class _State:
    """One series' errors so far, its adapted levels, and how its past intervals did."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.errors: list[tuple[float, int]] = []  # (error, origin), smallest error first
        self.alpha = [1 - level for level in LEVELS]
        self.given: dict[int, list[tuple[float, float]]] = {}
        self.hits = [0] * len(LEVELS)
        self.trials = 0

    def close(self, origin: int, error: float) -> None:
        """A horizon is over: was it in its intervals, and what does that say of their level?"""
        insort(self.errors, (error, origin))
        if len(self.errors) > ERRORS_MAX:
            self.errors.remove(min(self.errors, key=lambda one: one[1]))
        for n, (low, high) in enumerate(self.given.pop(origin, [])):
            hit = low <= error <= high
            self.hits[n] += hit
            self.trials += n == 0
            wanted = 1 - LEVELS[n]
            self.alpha[n] = min(max(self.alpha[n] + STEP * (wanted - (not hit)), 0.0), 1.0)

    def weighted(self, now: int, pool: Sequence[float]) -> Errors:
        own = [(error, 0.5 ** ((now - origin) / ERRORS_HALF_LIFE)) for error, origin in self.errors]
        # Errors of horizons that overlap are nearly one: so many units of time are worth one independent error.
        sure = len(own) / self.horizon
        if sure >= ERRORS_ENOUGH or not pool:
            return tuple(own)
        # A hundred quantiles of the others stand for all of them, and weigh as much as is missing.
        few = [pool[min(len(pool) - 1, (2 * n + 1) * len(pool) // 200)] for n in range(100)] if len(pool) > 100 else pool
        weight = (ERRORS_ENOUGH - sure) / len(few)
        return tuple(sorted([*[(error, part / self.horizon) for error, part in own], *[(error, weight) for error in few]]))

    def open(self, origin: int, pool: Sequence[float]) -> None:
        """Give the intervals that would have been given then."""
        if len(self.errors) + len(pool) >= ERRORS_LEAST:
            errors = self.weighted(origin, pool)
            self.given[origin] = [_quantiles(errors, alpha) for alpha in self.alpha]

    def end(self, now: int, pool: Sequence[float]) -> tuple[Errors, list[tuple[float, float, float, int, int]]]:
        if len(self.errors) + len(pool) < ERRORS_LEAST:
            return (), []
        errors = self.weighted(now, pool)
        made = [_quantiles(errors, alpha) for alpha in self.alpha]
        return errors, [(level, low, high, hits, self.trials) for level, (low, high), hits in zip(LEVELS, made, self.hits)]


def _quantiles(errors: Errors, alpha: float) -> tuple[float, float]:
    """The errors that alpha/2 of the weight is below and above, with one unit of weight for the error to come, which nobody
    has seen: at the ends the range is drawn out by as much as its last tenth is wide."""
    whole = sum(weight for _, weight in errors)
    runs: list[float] = []
    run = 0.0
    for _, weight in errors:
        run += weight
        runs.append(run)
    part = alpha / 2 * (whole + 1.0)

    def up(target: float) -> float:
        return errors[min(len(errors) - 1, bisect_left(runs, target))][0]

    low, high = up(part), up(whole + 1.0 - part)
    if part < 1.0:
        low -= (1.0 - part) * (up(0.1 * whole) - errors[0][0])
        high += (1.0 - part) * (errors[-1][0] - up(0.9 * whole))
    return low, high
