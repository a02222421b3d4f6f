"""The demo's story: two months of a simulated company's calls as plain data, seeded, and the truth about where their money goes."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, repeat
from random import Random
from typing import Any

from . import agents
from .agents import FALLBACK_FROM, FALLBACK_TO, SECOND
from .planned import FALLBACK, TOOL, Fact, Planned, Who

FIRST_DAY = date(2026, 9, 1)  # the quiet month is September, the dear one October 2026

CUSTOMER_X = "halcyon-freight"
FLOWS = {
    "support": "chat", "orders": "status", "research": "report", "assistant": "ask", "digest": "daily", "triage": "",
}  # fmt: skip
TENANTS = ("bluebird-retail", "corvid-labs", "duneside-hotels", "estuary-bank", "fennel-foods")
WEIGHTS = (30, 25, 20, 15, 10)

# The policy the gateway runs under. It does fall back on malformed replies, and it says nothing when it does.
POLICY = f"""\
[[fallback]]
from = "{FALLBACK_FROM}"
to = "{FALLBACK_TO}"
on = ["malformed"]

[[budget]]
name = "tenants"
scope = "tenant"
limit = "$2500"
window = "month"
hard = false
"""


class Month:
    """One month's days, and how a sum is spread over them."""

    def __init__(self, first: date) -> None:
        self.first = first
        self.days = [first + timedelta(days=i) for i in range(calendar.monthrange(first.year, first.month)[1])]
        # The dear week: the second Monday to Sunday that lies wholly in the month.
        monday = next(day for day in self.days if day.weekday() == 0) + timedelta(days=7)
        self.week = [monday + timedelta(days=i) for i in range(7)]
        self.after = [day for day in self.days if day > self.week[-1]]  # the provider's update comes after that week

    def spread(self, dollars: str, days: list[date], weight: Callable[[date], Decimal] = lambda day: Decimal(1)) -> Plan:
        parts = {day: weight(day) for day in days}
        whole = sum(parts.values(), Decimal(0))
        return {day: Decimal(dollars) * part / whole for day, part in parts.items() if part}

    def outside_week(self) -> list[date]:
        return [day for day in self.days if day not in self.week]


Plan = dict[date, Decimal]  # dollars to be spent, per day
Make = Callable[[Random, Who], Iterator[Planned]]


def plan(seed: int = 0, first_day: date = FIRST_DAY) -> list[Planned]:
    """Two months of calls in the order of time, the same for the same seed. `first_day` is the first of the quiet month.
    Calls of one conversation must be sent one after another; different conversations may overlap."""
    rng = Random(f"bursar/{seed}")
    quiet = Month(first_day.replace(day=1))
    dear = Month(quiet.days[-1] + timedelta(days=1))
    calls = [*_quiet(rng, quiet), *_dear(rng, dear)]
    return sorted(calls, key=lambda call: (call.ts_us, call.first.conversation))


def _quiet(rng: Random, month: Month) -> Iterator[Planned]:
    """About $400."""
    days = month.days
    company = _Company(rng, month)
    yield from company.fill("support", month.spread("20", days), lambda r, w: agents.support(r, w, repeat(False)))
    yield from company.fill("orders", month.spread("110", days), lambda r, w: agents.orders(r, w, flaky=False))
    yield from company.fill("research", month.spread("102", days), agents.research)
    for flow, dollars, weight in (("pr", "35", _weekday), ("nightly", "30", _any_day), ("weekly", "25", _sunday)):
        yield from company.evals(flow, month.spread(dollars, days, weight))
    yield from company.nights({day: Decimal("1.2") + Decimal("0.02") * i for i, day in enumerate(days)}, batches=2)
    yield from company.fill("assistant", month.spread("15", days), agents.assistant)
    yield from company.fill("digest", month.spread("15", days), agents.digest, hours=(22, 24))
    yield from company.fill("triage", month.spread("0.02", days), agents.triage)


def _dear(rng: Random, month: Month) -> Iterator[Planned]:
    """About $5,200."""
    company = _Company(rng, month)
    days, week, outside = month.days, month.week, month.outside_week()
    before = [day for day in days if day not in month.after]

    # The provider's update: from the Monday after the dear week a tenth of the replies is malformed.
    yield from company.fill("support", month.spread("92", before), lambda r, w: agents.support(r, w, repeat(False)))
    # More customers too: some 160 dollars of Haiku, and the gateway puts the Opus on top.
    spoils = agents.malformed(rng)
    yield from company.fill("support", month.spread("162", month.after), lambda r, w: agents.support(r, w, spoils))

    # The order agent's tool is flaky from three days before the dear week until three days after it.
    around = [day for day in days if week[0] - timedelta(days=3) <= day <= week[-1] + timedelta(days=3) and day not in week]
    calm = [day for day in outside if day not in around]
    yield from company.fill("orders", month.spread("120", calm), lambda r, w: agents.orders(r, w, flaky=False))
    for dollars, when in (("200", week), ("115", around)):
        yield from company.fill(
            "orders", month.spread(dollars, when), lambda r, w: agents.orders(r, w, flaky=True), counts=_is_tool_retry
        )

    # Customer X is let in, and researches.
    yield from company.fill("research", month.spread("400", week), agents.research, tenant=CUSTOMER_X)
    yield from company.fill("research", month.spread("260", month.after), agents.research, tenant=CUSTOMER_X)
    yield from company.fill("research", month.spread("432", outside), agents.research)
    yield from company.loop(month.after[len(month.after) // 2])

    # Evals per pull request, nightly and weekly: 40% of the bill. In the dear week there is a freeze, and few pull requests.
    for flow, dollars, weight in (("pr", "890", _weekday), ("nightly", "530", _any_day), ("weekly", "360", _sunday)):
        yield from company.evals(flow, month.spread(dollars, outside, weight))
    for flow, dollars, weight in (("pr", "30", _weekday), ("nightly", "150", _any_day), ("weekly", "120", _sunday)):
        yield from company.evals(flow, month.spread(dollars, week, weight))

    # The re-embedding grows to $30 a night, where it stays for the last third of the month.
    nights = {day: min(Decimal(30), Decimal(12) + Decimal("0.9") * i) for i, day in enumerate(days)}
    yield from company.nights(nights, batches=12)

    yield from company.fill("assistant", month.spread("40", days), agents.assistant)
    yield from company.fill("digest", month.spread("26", days), agents.digest, hours=(22, 24))
    yield from company.fill("triage", month.spread("0.05", days), agents.triage)


def _any_day(day: date) -> Decimal:
    return Decimal(1)


def _weekday(day: date) -> Decimal:
    return Decimal(int(day.weekday() < 5))


def _sunday(day: date) -> Decimal:
    return Decimal(int(day.weekday() == 6))


def _is_tool_retry(call: Planned) -> bool:
    return any(kind == TOOL for kind, _ in call.first.keys)


class _Company:
    """Lets agents work until a day's money is spent."""

    def __init__(self, rng: Random, month: Month) -> None:
        self.rng, self.month, self.numbers = rng, month, count(1)

    def fill(
        self,
        name: str,
        spend: Plan,
        make: Make,
        *,
        tenant: str = "",
        flow: str = "",
        hours: tuple[int, int] = (7, 19),
        counts: Callable[[Planned], bool] = lambda call: True,
    ) -> Iterator[Planned]:
        """Conversations until their first tries (those that count) have cost what the days say. What one day overspends, the
        next one has less: the sum is off by half a conversation, whatever the seed."""
        owed = Decimal(0)
        for day, dollars in spend.items():
            owed += dollars
            while owed > 0:
                calls = list(make(self.rng, self._who(name, flow or FLOWS[name], day, tenant, hours)))
                spent = sum((call.first.dollars for call in calls if counts(call)), Decimal(0))
                if spent > 2 * owed and self.rng.random() > owed / spent:
                    break  # more than is left: by chance, in proportion, so that small sums come out right on the whole
                owed -= spent
                yield from calls

    def evals(self, flow: str, spend: Plan) -> Iterator[Planned]:
        hours = {"pr": (8, 18), "nightly": (3, 4), "weekly": (5, 7)}[flow]
        yield from self.fill("evals", spend, agents.judge, tenant="internal", hours=hours, flow=flow)

    def nights(self, spend: Plan, batches: int) -> Iterator[Planned]:
        for day, dollars in spend.items():
            for batch in range(batches):
                share = dollars / batches * Decimal(self.rng.randint(97, 103)) / 100
                who = Who(_at(day, 2) + batch * 150 * SECOND, "internal", "", "", "search", "reindex")
                yield from agents.reindex(self.rng, who, share)

    def loop(self, day: date) -> Iterator[Planned]:
        who = replace(self._who("runaway", FLOWS["research"], day, "corvid-labs", (1, 1)), feature="research")
        yield from agents.runaway(self.rng, who)

    def _who(self, name: str, flow: str, day: date, tenant: str, hours: tuple[int, int]) -> Who:
        number = next(self.numbers)
        tenant = tenant or self.rng.choices(TENANTS, WEIGHTS)[0]
        ts = _at(day, hours[0]) + self.rng.randint(0, max(0, (hours[1] - hours[0]) * 3600 - 1)) * SECOND
        user = f"user-{self.rng.randrange(60):02d}"
        known = f"eval-{flow}" if name == "evals" else name
        return Who(ts, tenant, user, f"{known}-{self.month.first:%y%m}-{number:05d}", name, flow)


def _at(day: date, hour: int) -> int:
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp()) * SECOND


def truth(seed: int = 0, first_day: date = FIRST_DAY, calls: list[Planned] | None = None) -> dict[str, Any]:
    """Where the money goes, by the provider's prices: what the audit of the ledger should find. Dollars are Decimal and
    exact; `fallback` assumes that the gateway runs under POLICY. Pass `calls` to save making the plan again."""
    calls = plan(seed, first_day) if calls is None else calls
    quiet = Month(first_day.replace(day=1))
    dear = Month(quiet.days[-1] + timedelta(days=1))
    facts = [fact for call in calls for fact in call.facts]
    month = [fact for fact in facts if fact.ts_us >= _at(dear.first, 0)]
    week = [fact for fact in month if _at(dear.week[0], 0) <= fact.ts_us < _at(dear.week[-1] + timedelta(days=1), 0)]
    updated = [c for c in calls if c.first.feature == "support" and c.ts_us >= _at(dear.after[0], 0)]
    total = _sum(month)
    evals = _sum(month, lambda f: f.purpose == "eval")
    return {
        "calls": len(calls),
        "tries": len(facts),
        "first_day": quiet.first,
        "second_month": dear.first,
        "week": (dear.week[0], dear.week[-1]),
        "update": dear.after[0],
        "total": _sum(facts),
        "quiet_month": _sum(f for f in facts if f.ts_us < _at(dear.first, 0)),
        "dear_month": total,
        "evals": evals,
        "evals_share": evals / total,
        "embedding": _sum(month, lambda f: f.purpose == "embedding"),
        "embedding_last_night": _sum(month, lambda f: f.purpose == "embedding" and f.ts_us >= _at(dear.days[-1], 0)),
        "fallback": _sum(month, _of(FALLBACK)),
        "fallback_share_of_replies": Decimal(sum(1 for c in updated if len(c.facts) > 1)) / len(updated),
        "fallback_first_tries": sum((c.first.dollars for c in calls if len(c.facts) > 1), Decimal(0)),
        "tool_retries": _sum(month, _of(TOOL)),
        "runaway": _sum(month, lambda f: f.conversation.startswith("runaway")),
        "week_total": _sum(week),
        "week_customer_x": _sum(week, lambda f: f.tenant == CUSTOMER_X),
        "week_evals": _sum(week, lambda f: f.purpose == "eval"),
        "week_tool_retries": _sum(week, _of(TOOL)),
        "by_feature": _group(month, lambda f: f.feature),
        "by_tenant": _group(month, lambda f: f.tenant),
        "by_operation": _group(month, lambda f: f.operation),
        "by_cause": _group(month, lambda f: ":".join(filter(None, f.keys[0])) if f.keys else ""),
        "by_model": _group(month, lambda f: f.model),
    }


def _of(kind: str) -> Callable[[Fact], bool]:
    return lambda fact: bool(fact.keys) and fact.keys[0][0] == kind


def _sum(facts: Iterable[Fact], wanted: Callable[[Fact], bool] = lambda fact: True) -> Decimal:
    return sum((fact.dollars for fact in facts if wanted(fact)), Decimal(0))


def _group(facts: list[Fact], key: Callable[[Fact], str]) -> dict[str, Decimal]:
    """Dollars by key, the largest first."""
    sums: dict[str, Decimal] = {}
    for fact in facts:
        sums[key(fact)] = sums.get(key(fact), Decimal(0)) + fact.dollars
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
