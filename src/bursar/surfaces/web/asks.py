"""What a URL asks for: filters, period, zone and grouping, read and checked; and the URLs of the rows behind a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from ...stores.query import DIMENSIONS, LABEL, Filter
from ...stores.schema import INT_COLUMNS
from .. import periods

WORDS = ("since", "until", "zone", "by", "sort", "page", "of", "table", "id", "this", "versus", "name", "value", "q", "then")
FILTERS_MAX = 64
TEXT_MAX = 1_000
ALL = "all"

Pairs = Sequence[tuple[str, str]]


class BadAsk(ValueError):
    """The URL asks for something that is not there. The message says what would be."""


class Ask(NamedTuple):
    """One question. `where` is what the URL says, `bound` what the viewer's account may see: both hold. Times are fixed when the
    page is made, so that the links on it are about the same rows."""

    page: str
    where: tuple[Filter, ...] = ()
    bound: tuple[Filter, ...] = ()
    period: periods.Period = periods.Period()
    zone: str = "UTC"
    now_us: int = 0
    given: tuple[tuple[str, str], ...] = ()  # the URL's own pairs, the filters left out
    said: str = ""  # the period in words

    @property
    def filters(self) -> tuple[Filter, ...]:
        return (*self.where, *self.bound)

    def word(self, name: str, other: str = "") -> str:
        """The last value given for one of WORDS."""
        return next((value for key, value in reversed(self.given) if key == name), other)

    def number(self, name: str, other: int, most: int) -> int:
        text = self.word(name, str(other))
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise BadAsk(f"{name}={text!r} is not a whole number")
        return min(int(text), most)

    # -- URLs ---------------------------------------------------------------------------------------------------------

    def rows(
        self, *more: Filter, since: int | None = None, until: int | None = None, of: str = "", sort: str = "", page: str = "calls"
    ) -> str:
        """The rows behind a number: this question's, narrowed, within fixed times (microseconds)."""
        first = self.period.since if since is None else since
        last = self.period.until if until is None else until
        pairs = [*_pairs(narrow(self.where, more)), ("since", ALL if first is None else periods.iso(first))]
        if last is not None:
            pairs.append(("until", periods.iso(last)))
        pairs += [(name, value) for name, value in (("of", of), ("sort", sort), ("zone", self.word("zone"))) if value]
        return link(page, pairs)

    def again(self, page: str = "", **changed: str) -> str:
        """The same question with some words changed, for another page where one is named; an empty word is left out."""
        kept = [(k, v) for k, v in self.given if k not in changed and (not page or k in ("since", "until", "zone"))]
        return link(page or self.page, [*_pairs(self.where), *kept, *[(k, v) for k, v in changed.items() if v]])

    def without(self, gone: Filter) -> str:
        return link(self.page, [*_pairs(f for f in self.where if f != gone), *[(k, v) for k, v in self.given if k != "page"]])

    def twin(self, ending: str, **changed: str) -> str:
        """This page as `json` or `csv`."""
        kept = [(k, v) for k, v in self.given if k not in changed]
        return link(f"{self.page}.{ending}", [*_pairs(self.where), *kept, *changed.items()])

    def local(self, us: int) -> datetime:
        return (periods.EPOCH + timedelta(microseconds=us)).astimezone(ZoneInfo(self.zone))

    def shown(self, us: int, seconds: bool = False) -> str:
        """A moment in the viewer's zone."""
        return self.local(us).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def link(page: str, pairs: Iterable[tuple[str, str]]) -> str:
    query = urlencode(list(pairs))
    return f"/{page}" + (f"?{query}" if query else "")


def _pairs(where: Iterable[Filter]) -> list[tuple[str, str]]:
    return [(("!" if f.negate else "") + f.name, str(value)) for f in where for value in f.values]


def narrow(where: Sequence[Filter], more: Sequence[Filter]) -> tuple[Filter, ...]:
    """Both conditions as one that a URL can say: a name stands once, with what both allow or neither does."""
    made: dict[tuple[str, bool], tuple[str | int, ...]] = {}
    for one in (*where, *more):
        key = (one.name, one.negate)
        had = made.get(key)
        if had is None:
            made[key] = one.values
        elif one.negate:
            made[key] = (*had, *[v for v in one.values if v not in had])
        else:
            made[key] = tuple(v for v in had if v in one.values)
    return tuple(Filter(name, values, negate) for (name, negate), values in made.items())


def dimension(name: str) -> str:
    """A name that may be grouped or filtered by. BadAsk says what may."""
    if name in DIMENSIONS or (name.startswith(LABEL) and len(name) > len(LABEL)):
        return name
    raise BadAsk(f"{name!r} is neither a column of the ledger nor label:NAME")


def read(page: str, pairs: Pairs, now_us: int, *, newest_us: int | None, zone: str = "", bound: tuple[Filter, ...] = ()) -> Ask:
    """The question of a URL. Without a period it is this month, or the month of the ledger's newest row where this one has none."""
    found: dict[tuple[str, bool], list[str | int]] = {}
    given: list[tuple[str, str]] = []
    if len(pairs) > FILTERS_MAX:
        raise BadAsk(f"{len(pairs)} parameters; at most {FILTERS_MAX}")
    for name, value in pairs:
        if len(name) > TEXT_MAX or len(value) > TEXT_MAX:
            raise BadAsk(f"a parameter is longer than {TEXT_MAX} characters")
        if name in WORDS:
            given.append((name, value))
            continue
        negate = name.startswith("!")
        plain = dimension(name.removeprefix("!"))
        found.setdefault((plain, negate), []).append(_typed(plain, value))
    where = tuple(Filter(name, tuple(dict.fromkeys(values)), negate) for (name, negate), values in found.items())
    words = dict(given)
    zone = checked_zone(words.get("zone") or zone or "UTC")
    since, until = words.get("since", "").strip(), words.get("until", "").strip()
    said = since
    if not since and not until:
        since = said = "month"
        this = local_period("month", "", now_us, zone)
        if newest_us is not None and this.since is not None and newest_us < this.since:
            since = said = _wall(newest_us, zone).strftime("%Y-%m")
    span = local_period("" if since == ALL else since, until, now_us, zone)
    if not until and re.fullmatch(r"\d{4}-\d{2}-\d{2}", since):
        assert span.since is not None
        after = (datetime.fromisoformat(since) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone))
        span = span._replace(until=min(_us(after.astimezone(UTC)), now_us + 1))
    if span.before is None and not until and re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", since):
        span = span._replace(before=_earlier(since, span, zone))
    if span.until is None:
        # One microsecond on: a row written at this very moment counts.
        span = span._replace(until=now_us + 1)
    return Ask(page, where, bound, span, zone, now_us, tuple(given), said)


def _earlier(named: str, span: periods.Period, zone: str) -> tuple[int, int] | None:
    """The month before a month, the day before a day; as much of it as the present one has where that still runs."""
    assert span.since is not None
    first = datetime.fromisoformat(named + "-01" if len(named) == 7 else named) - timedelta(days=1)
    start = _us((first.replace(day=1) if len(named) == 7 else first).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
    if start < 0:
        return None
    return start, span.since


def period_name(text: str) -> str:
    """A period of the URL as people say it."""
    found = re.fullmatch(r"(\d{4})-(\d{2})", text)
    if found and 1 <= int(found[2]) <= 12:
        return datetime(int(found[1]), int(found[2]), 1).strftime("%B %Y")
    return dict(words()).get(text, text)


def _typed(name: str, value: str) -> str | int:
    if DIMENSIONS.get(name) not in INT_COLUMNS:
        return value
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise BadAsk(f"{name}={value!r}: that column holds whole numbers")
    return int(value)


def checked_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise BadAsk(f"{zone!r} is not a time zone; use an IANA name, such as Europe/Berlin") from None
    return zone


# -- periods in a zone -----------------------------------------------------------------------------------------------------


def local_period(since: str, until: str, now_us: int, zone: str) -> periods.Period:
    """A period as `--since` and `--until` take it, where days, weeks and months begin at the zone's own midnight.

    Calendar words are read against the wall clock and brought back; lengths (`24h`) and times with an offset are moments."""
    tz = ZoneInfo(zone)
    wall = _us(_wall(now_us, zone).replace(tzinfo=UTC))
    try:
        if zone == "UTC" or (_moment(since) and (not until or _moment(until))):
            return periods.period(since or None, until or None, now_us)
        first = _bound(since, now_us, wall, tz)
        last = _bound("", 0, 0, tz) if not until else _bound(until, now_us, wall, tz)
    except ValueError as bad:
        raise BadAsk(str(bad).replace("--since", "since").replace("--until", "until")) from None
    end = last.since if until else first.until
    if first.since is not None and end is not None and end <= first.since:
        raise BadAsk(f"until {until!r} is not after since {since!r}")
    before = first.before
    if before is not None and first.since is not None and until and end is not None:
        before = (before[0], min(before[0] + end - first.since, first.since))
    return periods.Period(first.since, end, before)


def _bound(text: str, now_us: int, wall_us: int, tz: ZoneInfo) -> periods.Period:
    if not text:
        return periods.Period()
    if _moment(text):
        return periods.period(text, None, now_us)
    at_wall = periods.period(text, None, wall_us)

    def back(us: int | None) -> int | None:
        if us is None:
            return None
        naive = (periods.EPOCH + timedelta(microseconds=us)).replace(tzinfo=None)
        return _us(naive.replace(tzinfo=tz).astimezone(UTC))

    before = None
    if at_wall.before is not None:
        first, last = back(at_wall.before[0]), back(at_wall.before[1])
        assert first is not None and last is not None
        before = (first, last)
    return periods.Period(back(at_wall.since), back(at_wall.until), before)


def _moment(text: str) -> bool:
    """Whether a text means a moment or a length whatever the zone."""
    word = text.strip().lower()
    return not word or bool(re.fullmatch(r"(last )?\d+ ?(m|min|minutes?|h|hours?)|now|.*\d(z|[+-]\d\d:?\d\d)", word))


def _wall(us: int, zone: str) -> datetime:
    return (periods.EPOCH + timedelta(microseconds=us)).astimezone(ZoneInfo(zone))


def _us(moment: datetime) -> int:
    return (moment - periods.EPOCH) // timedelta(microseconds=1)


def cell_span(period: str, grain: str, zone: str) -> tuple[int, int]:
    """Microseconds [start, end) of a line in time, as the query names it: an instant for an hour, else a local date."""
    if grain == "hour":
        start = _us(datetime.fromisoformat(period.replace("Z", "+00:00")))
        return start, start + periods.LENGTHS["h"]
    first = datetime.fromisoformat(period)
    days = {"day": 1, "week": 7}.get(grain)
    after = first + timedelta(days=days) if days else (first + timedelta(days=32)).replace(day=1)
    tz = ZoneInfo(zone)
    return _us(first.replace(tzinfo=tz).astimezone(UTC)), _us(after.replace(tzinfo=tz).astimezone(UTC))


def cells(since: int, until: int, grain: str, zone: str) -> list[str]:
    """Every line in time between two moments, the empty ones too, as the query names them."""
    if grain == "hour":
        step = periods.LENGTHS["h"]
        first = since // step * step
        return [periods.iso(at) for at in range(first, until, step)]
    day = _wall(since, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if grain == "week":
        day -= timedelta(days=day.weekday())
    elif grain == "month":
        day = day.replace(day=1)
    last = _wall(until - 1, zone).replace(tzinfo=None)
    made: list[str] = []
    while day <= last:
        made.append(day.strftime("%Y-%m-%d"))
        day = (
            day + timedelta(days={"day": 1, "week": 7}.get(grain, 0))
            if grain != "month"
            else (day + timedelta(days=32)).replace(day=1)
        )
    return made


def grain_for(since: int, until: int) -> str:
    """Between a handful and some sixty lines."""
    days = (until - since) / periods.LENGTHS["d"]
    return "hour" if days <= 2 else "day" if days <= 62 else "week" if days <= 420 else "month"


def words() -> tuple[tuple[str, str], ...]:
    """Periods to choose from: (as in the URL, as people say)."""
    return (
        ("today", "Today"),
        ("24h", "Last 24 hours"),
        ("7d", "Last 7 days"),
        ("30d", "Last 30 days"),
        ("month", "This month"),
        ("last month", "Last month"),
        ("year", "This year"),
        (ALL, "Everything"),
    )
