"""Periods as people write them (`7d`, `month`, `last week`, `2026-11-01`), read against a given now. No clock here."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

SECOND = 1_000_000
LENGTHS = {"m": 60 * SECOND, "h": 3600 * SECOND, "d": 86_400 * SECOND, "w": 7 * 86_400 * SECOND}
NAMED = ("day", "week", "month", "year")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_YEAR = 9998  # a period ends within the following year, and datetime ends with 9999

EXPECTED = (
    "write a length before now (30m, 24h, 7d, 2w), a period (today, yesterday, day, week, month, year, 'last week'), "
    "a date (2026-11-01), a month (2026-11) or a time (2026-11-01T09:30Z)"
)


class Period(NamedTuple):
    """Half-open [since, until) in microseconds since the epoch, UTC; None is open. `before` is what to compare with."""

    since: int | None = None
    until: int | None = None
    before: tuple[int, int] | None = None


class _Span(NamedTuple):
    """What one text means: a start, the end of what it names (None: it names a moment), and the period before it."""

    start: int
    end: int | None = None
    earlier: int | None = None
    length: int = 0


def period(since: str | None, until: str | None, now_us: int) -> Period:
    """The period meant by `--since` and `--until`. A named period in `since` brings its own end.

    `before` is set when `since` is relative to now: the same length before it, or for a calendar period the one before,
    cut at the same point when the present one is still running. ValueError says what was expected."""
    first = _read(since, now_us) if since else None
    last = _read(until, now_us).start if until else None
    if first is None:
        return Period(None, last)
    end = last
    if end is None and first.end is not None:
        end = first.end if first.end <= now_us else None
    if last is not None and last <= first.start:
        raise ValueError(f"--until {until!r} ({iso(last)}) is not after --since {since!r} ({iso(first.start)}); swap them")
    before = None
    stop = now_us if end is None else end
    if first.earlier is not None:
        before = (first.earlier, min(first.earlier + stop - first.start, first.start))
        if first.end is not None and end == first.end:
            before = (first.earlier, first.start)
    elif first.length:
        length = stop - first.start
        before = (first.start - length, first.start)
    if before is not None and (before[0] >= before[1] or before[0] < 0):
        before = None
    return Period(first.start, end, before)


def span(text: str, now_us: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """A whole period by one text, and the one before it: `7d`, `month`, `2026-10`, `2026-10-12`, or `FROM..TO`. Before a month
    is the month before, before a day the day before; else as much time. ValueError says what was expected."""
    if ".." in text:
        first, _, last = text.partition("..")
        found = period(first.strip() or None, last.strip() or None, now_us)
    else:
        found = period(text, None, now_us)
    if found.since is None:
        raise ValueError(f"{text!r} has no beginning; {EXPECTED}, or FROM..TO")
    stop = now_us if found.until is None else found.until
    if min(now_us, stop) <= found.since:
        raise ValueError(f"{text!r} is in the future; {EXPECTED}")
    if ".." not in text and found.before is None and re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", text.strip()):
        unit = "month" if len(text.strip()) == 7 else "day"
        start = EPOCH + timedelta(microseconds=found.since)
        earlier = us(_floor(start - timedelta(days=1), unit))
        whole = us(_next(start, unit))
        stop = min(whole, now_us)
        return (found.since, stop), (earlier, found.since if stop == whole else min(earlier + stop - found.since, found.since))
    return (found.since, stop), found.before or (max(0, 2 * found.since - stop), found.since)


def _read(text: str, now_us: int) -> _Span:
    word = " ".join(text.strip().lower().split())
    now = EPOCH + timedelta(microseconds=now_us)
    length = re.fullmatch(r"(?:last )?(\d{1,6}) ?(m|min|minutes?|h|hours?|d|days?|w|weeks?)", word)
    if length:
        back = int(length[1]) * LENGTHS[length[2][0]]
        if not 0 < back <= now_us:
            raise ValueError(f"{text!r} reaches before 1970 or is empty; {EXPECTED}")
        return _Span(now_us - back, None, None, back)
    if word == "now":
        return _Span(now_us)
    alias = {"today": "day", "yesterday": "last day"}.get(word, word)
    last = alias.startswith("last ")
    unit = alias.removeprefix("last ").removeprefix("this ")
    if unit in NAMED:
        start = _floor(now, unit)
        if last:
            start = _floor(start - timedelta(days=1), unit)
        return _Span(us(start), us(_next(start, unit)), us(_floor(start - timedelta(days=1), unit)))
    month = re.fullmatch(r"(\d{4})-(\d{2})", word)
    try:
        if month:
            start = datetime(int(month[1]), int(month[2]), 1, tzinfo=UTC)
            _within(start)
            return _Span(us(start), us(_next(start, "month")))
        if not re.match(r"\d{4}-\d{2}-\d{2}", word):
            raise ValueError(text)
        moment = datetime.fromisoformat(text.strip().upper())
        _within(moment)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; {EXPECTED}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return _Span(us(moment.astimezone(UTC)))


def _within(moment: datetime) -> None:
    if not 1970 <= moment.year <= LATEST_YEAR:
        raise ValueError(moment.year)


def _floor(moment: datetime, unit: str) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "week":
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if unit == "year" else day


def _next(start: datetime, unit: str) -> datetime:
    return _floor(start + timedelta(days={"day": 1, "week": 7, "month": 32, "year": 366}[unit]), unit)


def us(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def iso(us: int) -> str:
    """ISO 8601 in UTC with `Z`, as short as exactness allows: `2026-11-01T00:00:00Z`, `…00.250000Z`."""
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def shown(us: int) -> str:
    """For people: `2026-11-01 09:30`, and the day alone at midnight."""
    text = (EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%d %H:%M")
    return text.removesuffix(" 00:00")
