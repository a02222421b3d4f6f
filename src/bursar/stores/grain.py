"""Time in pieces of a zone: which hour, day, week or month a row is in, as a whole number that one division gives, and its name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from sqlglot import exp

GRAINS = ("hour", "day", "week", "month")
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHIFTS_MAX = 8  # of a zone within the time asked for; beyond them, and …
MONTHS_MAX = 30  # … beyond these, every row's time is told by the engine's calendar

Span = tuple[int, int]  # microseconds [since, until)


def number(ts: exp.Expression, grain: str, zone: str, within: Span) -> exp.Expression | None:
    """The piece that a moment is in: of an hour the microsecond it begins, else the day (since 1970) that it begins. None where the
    time is too long to know all of the zone's shifts in it."""
    if within[0] < 2 * DAY:
        return None
    shifts = _shifts(zone, within[0] // HOUR * HOUR, within[1])
    if shifts is None:
        return None
    moment = exp.Anonymous(this="epoch_us", expressions=[ts])
    offset: exp.Expression = _whole(shifts[0][1])
    if len(shifts) > 1:
        offset = exp.Case(default=_whole(shifts[-1][1]))
        for (_, east), (until, _) in pairwise(shifts):
            offset = offset.when(exp.LT(this=moment.copy(), expression=_whole(until)), _whole(east))
    local = exp.Paren(this=exp.Add(this=moment, expression=offset))
    if grain == "hour":
        return exp.Sub(this=moment.copy(), expression=exp.Mod(this=local, expression=_whole(HOUR)))
    day = exp.Paren(this=exp.IntDiv(this=local, expression=_whole(DAY)))
    if grain == "week":
        # 1970 began on a Thursday
        into = exp.Mod(this=exp.Paren(this=exp.Add(this=day.copy(), expression=_whole(3))), expression=_whole(7))
        return exp.Sub(this=day, expression=into)
    if grain == "day":
        return day
    starts = _months(within[0] + min(east for _, east in shifts), within[1] + max(east for _, east in shifts))
    if len(starts) > MONTHS_MAX:
        return None
    month = exp.Case(default=_whole(starts[-1]))
    for start, after in pairwise(starts):
        month = month.when(exp.LT(this=day.copy(), expression=_whole(after)), _whole(start))
    return month if len(starts) > 1 else exp.Add(this=_whole(starts[0]), expression=exp.Mul(this=day, expression=_whole(0)))


def name(piece: exp.Expression, grain: str) -> exp.Expression:
    """What people call such a number: `2026-11-01`, of an hour `2026-11-01T09:00:00Z`."""
    if grain == "hour":
        moment = exp.Anonymous(this="make_timestamp", expressions=[piece])
        return exp.Anonymous(this="strftime", expressions=[moment, exp.Literal.string("%Y-%m-%dT%H:%M:%SZ")])
    first = exp.cast(exp.Literal.string("1970-01-01"), "date")
    day = exp.Add(this=first, expression=exp.cast(piece, "int"))
    return exp.Anonymous(this="strftime", expressions=[day, exp.Literal.string("%Y-%m-%d")])


def _whole(value: int) -> exp.Expression:
    return exp.Literal.number(value) if value >= 0 else exp.Neg(this=exp.Literal.number(-value))


@lru_cache(maxsize=256)
def _shifts(zone: str, since: int, until: int) -> Sequence[tuple[int, int]] | None:
    """(from when on, microseconds east of Greenwich) of a zone, the first from `since` on; None when they are too many."""
    tz = ZoneInfo(zone)

    def east(us: int) -> int:
        shift = (EPOCH + timedelta(microseconds=us)).astimezone(tz).utcoffset()
        assert shift is not None
        return shift // timedelta(microseconds=1)

    found = [(since, east(since))]
    at = since
    while at < until:
        after = min(at + DAY, until)
        if east(after) != found[-1][1]:
            low, high = at, after  # the second in which it shifts lies in (low, high]
            while high - low > SECOND:
                middle = (low + high) // (2 * SECOND) * SECOND
                low, high = (middle, high) if east(middle) == found[-1][1] else (low, middle)
            found.append((high, east(high)))
            if len(found) > SHIFTS_MAX:
                return None
            after = high
        at = after
    return found


def _months(since: int, until: int) -> list[int]:
    """The first days of all months between two local times, as days since 1970."""
    first = (EPOCH + timedelta(microseconds=since)).date().replace(day=1)
    found: list[int] = []
    while (day := (first - date(1970, 1, 1)).days) * DAY <= until and len(found) <= MONTHS_MAX:
        found.append(day)
        first = (first + timedelta(days=32)).replace(day=1)
    return found
