"""What a period will come to: a level, a rhythm, and intervals as wide as past forecasts were wrong. Pure, and judged by itself.

Point: what there is, plus level x rhythm over the time that is left. The level is an exponentially weighted mean (half-life one
season) of the amounts with their rhythm taken out; the rhythm is each phase's share of the last eight seasons, drawn to 1 by
three pseudo-days. Interval: the forecast is repeated at every past moment with the same time left, and the quantiles of what
came over what was forecast are put on today's (conformal prediction); their level is adapted by how often they missed (adaptive
conformal inference, Gibbs and Candes 2021). Horizons that overlap are nearly one: as many units as a horizon has are one error in
whatever counts errors (weight, the step of the adapting, the room left for the error to come). A series with less than forty such
errors borrows those of the others: of those as calm or as wild as itself, where there are enough."""

from __future__ import annotations

from bisect import insort
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
COMMON = 0.05  # of what makes an error is in the errors of all series of that time
SMALL = 0.02  # of a mean amount: what makes the ratio of nothing to nothing one
STEP = 0.02  # of adaptive conformal inference, for a whole horizon
ALPHA_LEAST = 0.005  # what it may come down to: no history says more
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
        if not self.point + self.small:
            return 0.0  # nothing ever came
        least = log((room + self.small) / (self.point + self.small)) if room + self.small else float("-inf")
        whole = sum(weight for _, weight in self.errors)
        above = sum(weight for error, weight in self.errors if error > least)
        chance = (above + 0.5) / (whole + 1.0)
        (lowest, under), (highest, beyond) = _ends(self.errors, whole)
        if least > highest and beyond:
            return chance * exp((highest - least) / beyond)
        if least < lowest and under:
            return 1.0 - (1.0 - chance) * exp((least - lowest) / -under)
        return chance

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
    # A total of one part is that part: its errors are not to count twice.
    same: dict[tuple[float, ...], str] = {}
    first = {name: same.setdefault(tuple(values[skip:]), name) for name, values in series.items()}
    tracks = {name: _Track(values, (phase + skip) % season, season) for values, name in same.items()}
    horizon = max(1, ceil(sum(left) - 1e-9)) if left else 1
    made = _intervals(tracks, horizon)
    found: dict[str, Outlook] = {}
    for name in series:
        track = tracks[first[name]]
        path = tuple(track.at(len(track.values), n) * part for n, part in enumerate(left))
        point = sum(path)
        errors, intervals = made[first[name]]
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
    pools = _Pools()
    for origin in range(length + 1):
        _halve(tracks, states, origin)
        closed = origin - horizon
        if closed >= 0:
            before = len(pools.all)
            for name, track in tracks.items():
                if closed >= track.first + track.season:
                    error = track.error(closed, horizon)
                    states[name].close(closed, error)
                    insort(pools.all, error)
                    insort(pools.wild if states[name].wild[closed] else pools.calm, error)
            pools.origins += len(pools.all) > before
        for name, track in tracks.items():
            if track.first + track.season <= origin <= length - horizon:
                states[name].open(origin, pools)
    return {name: state.end(length, pools) for name, state in states.items()}


class _Pools:
    """The errors of all series, smallest first, and those of the calmer and of the wilder half."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self.calm: list[float] = []
        self.wild: list[float] = []
        self.origins = 0  # moments that they are of


def _halve(tracks: Mapping[str, _Track], states: Mapping[str, _State], origin: int) -> None:
    """Which half of the series each is in at this moment, by how wrong forecasts of the next unit have been so far: those are
    known long before the first horizon is over. A series that has none yet counts as wild."""
    for name, track in tracks.items():
        if track.first + track.season < origin:
            states[name].step(abs(track.error(origin - 1, 1)))
    known = [state for state in states.values() if state.steps]
    mean = sum(state.wrong for state in known) / sum(state.steps for state in known) if known else 0.0
    known.sort(key=lambda state: (state.wrong + mean) / (state.steps + 1))
    calm = {id(state) for state in known[: (len(known) + 1) // 2]}
    for state in states.values():
        state.wild.append(id(state) not in calm)


class _State:
    """One series' errors so far, its adapted levels, and how its past intervals did."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.errors: list[tuple[float, int]] = []  # (error, origin), smallest error first
        self.alpha = [1 - level for level in LEVELS]
        self.given: dict[int, list[tuple[float, float]]] = {}
        self.hits = [0] * len(LEVELS)
        self.trials = 0
        self.wrong, self.steps = 0.0, 0  # of the forecasts of one unit
        self.wild: list[bool] = []  # by origin

    def step(self, wrong: float) -> None:
        self.wrong += wrong
        self.steps += 1

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
            self.alpha[n] = min(max(self.alpha[n] + STEP / self.horizon * (wanted - (not hit)), ALPHA_LEAST), 1.0)

    def weighted(self, now: int, pools: _Pools) -> Errors:
        """The errors to go by, of a weight that is as many as they would be if none overlapped; nothing where they are too few."""
        own = [(error, 0.5 ** ((now - origin) / ERRORS_HALF_LIFE) / self.horizon) for error, origin in self.errors]
        sure = len(own) / self.horizon
        if sure >= ERRORS_ENOUGH:
            return tuple(own)
        half = pools.wild if self.wild[now] else pools.calm
        pool = half if len(half) >= max(ERRORS_ENOUGH * self.horizon, ERRORS_LEAST) else pools.all
        # What all have in common at a time does not become less by counting it in each of them.
        windows = pools.origins / self.horizon
        each = len(pool) / max(1, pools.origins)
        apart = windows * each / (1 + max(0.0, each - 1) * COMMON)
        if len(pool) < ERRORS_LEAST:
            return ()
        # A hundred quantiles of the others stand for all of them, and weigh as much as is missing.
        few = [pool[min(len(pool) - 1, (2 * n + 1) * len(pool) // 200)] for n in range(100)] if len(pool) > 100 else pool
        both = sorted([*own, *[(error, (ERRORS_ENOUGH - sure) / len(few)) for error in few]])
        scale = apart / sum(weight for _, weight in both)
        return tuple([(error, weight * scale) for error, weight in both])

    def open(self, origin: int, pools: _Pools) -> None:
        """Give the intervals that would have been given then."""
        errors = self.weighted(origin, pools)
        if errors:
            self.given[origin] = [_quantiles(errors, alpha) for alpha in self.alpha]

    def end(self, now: int, pools: _Pools) -> tuple[Errors, list[tuple[float, float, float, int, int]]]:
        errors = self.weighted(now, pools)
        made = [_quantiles(errors, alpha) for alpha in self.alpha] if errors else []
        return errors, [(level, low, high, hits, self.trials) for level, (low, high), hits in zip(LEVELS, made, self.hits)]


def _quantiles(errors: Errors, alpha: float) -> tuple[float, float]:
    """The errors that alpha/2 is below and above, with one unit of weight for the error to come, which nobody has seen: half of it
    may be beyond them all, at either end."""
    whole = sum(weight for _, weight in errors)
    part = alpha / 2 * (whole + 1.0)
    if part >= 0.5:
        return _reach(errors[::-1], whole + 0.5 - part), _reach(errors, whole + 0.5 - part)
    (lowest, under), (highest, beyond) = _ends(errors, whole)
    more = log(0.5 / part)
    return lowest + under * more, highest + beyond * more


def _ends(errors: Errors, whole: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The lowest and the highest error, each with how much farther out an error is that is e times as rare. Beyond the ends the
    tail goes on as it went from the middle to them (exponentially): few errors make a wide range."""
    middle, grown = _reach(errors, whole / 2), log(whole + 1.0)
    lowest, highest = errors[0][0], errors[-1][0]
    return (lowest, (lowest - middle) / grown), (highest, (highest - middle) / grown)


def _reach(errors: Sequence[tuple[float, float]], target: float) -> float:
    """The first error with which so much weight is reached; the last when there is less."""
    run = 0.0
    for error, weight in errors:
        run += weight
        if run >= target - 1e-9:
            return error
    return errors[-1][0]
