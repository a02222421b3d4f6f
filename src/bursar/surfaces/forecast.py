"""What the month will cost, asked of a ledger: days per label, what is left of the month, budgets, and plans before a launch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from ..domain.money import usd
from ..domain.policy import SCALE, Policy
from ..rules.budget import FOREVER_US, BudgetRule, compile_budgets
from ..rules.forecast import LEVELS, Outlook, outlooks
from ..rules.price import spread
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from .cli_common import dimension, pico

DAY = 86_400_000_000
HISTORY_DAYS = 400
RECENT_DAYS = 56  # by whose cost the lines are chosen
SCOPES_MOST = 20  # of an each-of budget: those that have spent most
OTHER = "\x00other"
TOTAL = "\x00total"
FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class Line(NamedTuple):
    """One label value's month, in pico-dollars: what it came to so far, and what is still to come. `name`: OTHER, TOTAL, or a
    value (empty: nobody said)."""

    name: str
    done: int
    left: int  # the point forecast of what is still to come; the lines' sum is the total's
    outlook: Outlook
    before: int  # the month before, whole


class Passing(NamedTuple):
    """One budget and scope. `limit` and `spent` in the budget's unit (pico-dollars, tokens, calls). `chance` None: nothing is
    known; `when` the first microsecond of the day on which the limit is more likely passed than not."""

    budget: str
    scope: tuple[tuple[str, str], ...]
    unit: str
    limit: int
    spent: int
    ends_us: int
    expected: int
    chance: float | None
    when: int | None


class Ahead(NamedTuple):
    """The month of a moment: its bounds, and the parts of days that are left of it."""

    now: int
    since: int
    until: int
    left: tuple[float, ...]


def month_of(now: int) -> Ahead:
    moment = FIRST + timedelta(microseconds=now)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    return Ahead(now, _us(first), _us(after), _parts(now, _us(after)))


def _us(moment: datetime) -> int:
    return (moment - FIRST) // timedelta(microseconds=1)


def _parts(now: int, until: int) -> tuple[float, ...]:
    """What is left of each day from now on, until then, UTC days: the first and the last may be parts."""
    parts: list[float] = []
    at = now
    while at < until:
        end = min((at // DAY + 1) * DAY, until)
        parts.append((end - at) / DAY)
        at = end
    return tuple(parts)


class Asker:
    """Asks one ledger about one month."""

    def __init__(self, reader: Reader, where: Sequence[Filter], ahead: Ahead, since: int | None) -> None:
        self.reader, self.where, self.ahead = reader, tuple(where), ahead
        (row,) = reader.query(Query(("first",), (), self.where, since, ahead.now))
        self.empty = row["first"] is None
        begun = ahead.now if self.empty else max(row["first"], since or 0)
        today = ahead.now // DAY
        self.first = max(begun // DAY, today - HISTORY_DAYS)
        self.days = today - self.first
        # A first day that is not whole would look like a quiet one.
        self.skip = min(self.days, int(begun > self.first * DAY))

    def _told(self, series: Mapping[str, Sequence[int]], left: Sequence[float]) -> dict[str, Outlook]:
        """From whole days only: neither the ledger's first nor what there is of today, unless they are."""
        whole = {name: [float(day) for day in days[self.skip : -1]] for name, days in series.items()}
        return outlooks(whole, (self.first + self.skip + 3) % 7, left)

    def month(self, label: str | None, loaded: bool, top: int, factor: float) -> list[Line]:
        """The lines of the month, dearest first, the total last. Lines sum to it, what there is and what is to come."""
        series = self._loaded() if loaded else self._daily(label)
        names = sorted(series, key=lambda name: (-sum(series[name][-RECENT_DAYS:]), name))
        kept, rest = names[:top], names[top:]
        table = {name: series[name] for name in kept}
        if rest:
            table[OTHER] = [sum(day) for day in zip(*[series[name] for name in rest], strict=True)]
        width = self.days + 1
        whole = [sum(day) for day in zip(*table.values(), strict=True)] if table else [0] * width
        start = self.ahead.since // DAY - self.first
        before = (FIRST + timedelta(microseconds=self.ahead.since) - timedelta(days=1)).day
        told = self._told({TOTAL: whole, **table}, self.ahead.left)
        told = {name: one.times(factor) for name, one in told.items()}
        total = round(told[TOTAL].point)
        lefts = spread(total, [round(told[name].point) for name in table]) if table else []
        made = [
            Line(name, sum(days[max(0, start) :]), left, told[name], sum(days[max(0, start - before) : max(0, start)]))
            for (name, days), left in zip(table.items(), lefts, strict=True)
        ]
        return [*made, Line(TOTAL, sum(line.done for line in made), total, told[TOTAL], sum(line.before for line in made))]

    def _daily(self, label: str | None) -> dict[str, list[int]]:
        """Per value of a label (one series named by nothing without one) its days: whole ones, then what there is of today."""
        by = () if label is None else (label,)
        return {"".join(values): days for values, days in self._days("cost", by, self.where).items()}

    def _days(self, measure: str, by: tuple[str, ...], where: Sequence[Filter]) -> dict[tuple[str, ...], list[int]]:
        rows = self.reader.query(Query((measure,), by, tuple(where), self.first * DAY, self.ahead.now, "day"))
        found: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            values = tuple(str(row[name]) for name in by)
            found.setdefault(values, [0] * (self.days + 1))[self._day(row)] += _whole(row[measure])
        return found

    def _day(self, row: Mapping[str, Any]) -> int:
        return (datetime.fromisoformat(row["period"]).replace(tzinfo=UTC) - FIRST).days - self.first

    def _loaded(self) -> dict[str, list[int]]:
        """Per tenant its own primary calls, and its share of all else (evals, embeddings, background, what nobody labelled) in
        the proportion of each day's own, or of the month's where a day has none."""
        rows = self.reader.query(Query(("cost",), ("tenant", "purpose"), self.where, self.first * DAY, self.ahead.now, "day"))
        own: dict[str, list[int]] = {}
        shared = [0] * (self.days + 1)
        for row in rows:
            day = self._day(row)
            if row["tenant"] and row["purpose"] == "primary":
                own.setdefault(row["tenant"], [0] * (self.days + 1))[day] += _whole(row["cost"])
            else:
                shared[day] += _whole(row["cost"])
        names = sorted(own)
        if not names:
            return {"": shared}
        sums = [max(0, sum(own[name])) for name in names]
        made = {name: list(days) for name, days in own.items()}
        for day, amount in enumerate(shared):
            weights = [max(0, own[name][day]) for name in names]
            for name, part in zip(names, spread(amount, weights if any(weights) else sums), strict=True):
                made[name][day] += part
        return made

    # -- budgets -----------------------------------------------------------------------------------------------------------

    def budgets(self, policy: Policy, zone: Any, volume: float, price: float) -> tuple[list[Passing], list[str]]:
        """How likely each budget is passed before its window ends, and why some cannot be told."""
        made: list[Passing] = []
        notes: list[str] = []
        for rule in compile_budgets(policy.budget, zone):
            if rule.window.text == "conversation" or "conversation" in dict(rule.wants) or "call" in dict(rule.wants):
                notes.append(f"{rule.name}: a limit on one conversation or call has no month-end")
            elif rule.limit.unit == "tool_calls":
                notes.append(f"{rule.name}: tool calls have no price")
            else:
                made += self._budget(rule, volume * price if rule.limit.unit == "usd" else volume)
        return sorted(made, key=lambda one: (-(one.chance or 0.0), one.budget, one.scope)), notes

    def _budget(self, rule: BudgetRule, factor: float) -> list[Passing]:
        measure = {"usd": "cost", "tokens": "tokens", "calls": "tries"}[rule.limit.unit]
        start, end = rule.window.bounds(self.ahead.now)
        end = self.ahead.until if end == FOREVER_US else end
        each = [name for name, value in rule.wants if value is None]
        fixed = tuple(Filter(_scope(name), (value,)) for name, value in rule.wants if value is not None)
        by = tuple(_scope(name) for name in each)
        ask = Query((measure,), by, (*self.where, *fixed), start, self.ahead.now, top=SCOPES_MOST if by else 0)
        spent: dict[tuple[str, ...], int] = {}
        for row in self.reader.query(ask):
            values = tuple(str(row[name]) for name in by)
            if all(values) and row[measure] is not None:
                spent[values] = _whole(row[measure])
        inner = tuple(Filter(name, tuple({values[n] for values in spent})) for n, name in enumerate(by))
        days = self._days(measure, by, (*self.where, *fixed, *inner)) if spent else {}
        series = {"|".join(values): days.get(values, [0] * (self.days + 1)) for values in spent}
        told = self._told(series, _parts(self.ahead.now, end))
        limit = rule.limit.amount * 1000 if rule.limit.unit == "usd" else rule.limit.amount
        named = tuple((label, value) for label, value in rule.wants if value is not None)
        made: list[Passing] = []
        for values, done in spent.items():
            outlook = told["|".join(values)].times(factor)
            room = limit - done
            day = None if room < 0 else outlook.crossing(room)
            when = None if day is None else max(self.ahead.now, (self.ahead.now // DAY + day) * DAY)
            chance = 1.0 if room < 0 else outlook.over(room)
            scope = named + tuple(zip(each, values, strict=True))
            made.append(Passing(rule.name, scope, rule.limit.unit, limit, done, end, done + round(outlook.point), chance, when))
        return made

    # -- before a launch ---------------------------------------------------------------------------------------------------

    def measured(self, unit: str) -> list[tuple[int, int]]:
        """(tokens, conversations or calls) of each day of the last eight weeks that had any: what a plan is filled with."""
        primary = (*self.where, Filter("purpose", ("primary",)))
        rows = self.reader.query(
            Query(("tokens", "conversations", "calls"), (), primary, self.ahead.now - RECENT_DAYS * DAY, self.ahead.now, "day")
        )
        return [(int(row["tokens"] or 0), row[unit]) for row in rows if row[unit] and row["tokens"]]


def _whole(value: Any) -> int:
    if value is None:
        return 0
    return pico(value) if isinstance(value, Decimal) else int(value)


def _scope(name: str) -> str:
    return dimension("model_served" if name == "model" else name)


# -- what people write -----------------------------------------------------------------------------------------------------


def assumed(texts: Sequence[str]) -> dict[str, float]:
    """`volume=2x`, `price=0.8x`, `volume=+20%`. ValueError says what was expected."""
    found = {"volume": 1.0, "price": 1.0}
    for text in texts:
        name, equals, value = text.partition("=")
        times = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)x", value.strip())
        percent = re.fullmatch(r"([+-][0-9]+(?:\.[0-9]+)?)%", value.strip())
        if not equals or name.strip() not in found or not (times or percent):
            raise ValueError(f"{text!r} is no assumption: write volume=2x, price=0.8x or volume=+20%")
        factor = float(times[1]) if times else 1 + float(percent[1]) / 100 if percent else 1.0
        if not 0 <= factor <= 1000:
            raise ValueError(f"{text!r}: a factor is between 0x and 1000x")
        found[name.strip()] *= factor
    return found


class Plan(NamedTuple):
    """`1,000 conversations a day at $3 per million tokens, 20k tokens each`. `price` in pico-dollars a million tokens."""

    count: int
    unit: str  # conversations | calls
    per: str
    price: int
    tokens: int | None  # each; None: as measured


PLAN = "1,000 conversations a day at $3 per million tokens, 20k tokens each"
PER_DAY = {"hour": (24, 1), "day": (1, 1), "week": (1, 7), "month": (1, 30)}
_PLAN = re.compile(
    r"(?P<count>[0-9][0-9,_.]*\s?[kM]?) (?P<unit>conversations?|calls?) (?:a|an|per) (?P<per>hour|day|week|month)"
    r" at (?P<price>\$[0-9][0-9,.]*) (?:a|per) (?P<many>million|thousand) tokens"
    r"(?:,? (?:with )?(?P<tokens>[0-9][0-9,_.]*\s?[kM]?) tokens (?:each|a conversation|a call))?",
    re.ASCII,
)


def planned(text: str) -> Plan:
    """The plan in a sentence. ValueError with a sentence that would do."""
    found = _PLAN.fullmatch(" ".join(text.split()))
    if not found:
        raise ValueError(f"{text!r} is no plan; write it like: {PLAN}")
    unit = found["unit"].rstrip("s") + "s"
    price = usd(found["price"]) * (1 if found["many"] == "million" else 1000)
    return Plan(_number(found["count"]), unit, found["per"], price, _number(found["tokens"]) if found["tokens"] else None)


def _number(text: str) -> int:
    text = text.replace(",", "").replace("_", "").replace(" ", "")
    scale = SCALE[text[-1]] if text[-1] in "kM" else 1
    number = Decimal(text.rstrip("kM")) * scale
    if number != int(number) or number < 1:
        raise ValueError(f"{text!r} is not a whole number; write it like: {PLAN}")
    return int(number)


class Launch(NamedTuple):
    """What a plan comes to: tokens each, pico-dollars a day and in thirty, and the same on the calmest and wildest days that were
    measured, as (level, low, high) a month."""

    tokens: int
    a_day: int
    a_month: int
    between: tuple[tuple[float, int, int], ...]
    days: int


def launch(plan: Plan, measured: Sequence[tuple[int, int]]) -> Launch | None:
    """None when nobody says how many tokens each takes: the plan does not, and the ledger has none."""
    tokens = plan.tokens
    if tokens is None:
        units = sum(number for _, number in measured)
        if not units:
            return None
        tokens = -(-sum(used for used, _ in measured) // units)
    times, by = PER_DAY[plan.per]

    def cost(each: int, days: int) -> int:
        return plan.count * times * days * each * plan.price // (by * 1_000_000)

    between: list[tuple[float, int, int]] = []
    if plan.tokens is None:
        each = sorted(used // number for used, number in measured)
        for level in LEVELS:
            # Of nine days and one to come, one in ten is beyond either end: fewer say nothing of 80%, and fewer than 39 of 95.
            cut = int(round((1 - level) / 2 * (len(each) + 1), 9))
            if cut:
                between.append((level, cost(each[cut - 1], 30), cost(each[-cut], 30)))
    return Launch(tokens, cost(tokens, 1), cost(tokens, 30), tuple(between), len(measured))
