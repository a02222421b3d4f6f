"""The six questions asked of a ledger: sums and percentiles by DuckDB, verdicts by rules/audit.py. `take` is the whole of it."""

from __future__ import annotations

import os

from ..domain.policy import Compact, Policy
from ..rules import audit as rules
from ..rules import audit_control, audit_guard, audit_money
from ..rules.audit import Audit
from ..rules.audit_guard import Stops, Talks
from ..stores.query import Query
from ..stores.reader import Reader
from . import audit_control as control
from . import audit_guard as guard
from . import audit_money as money
from . import periods
from .audit_asker import Asker

USUAL_US = 30 * rules.DAY_US  # without a period: so much, up to the last row
SLACK = 10  # a period is whole when its first and last row are within a tenth of it from its ends
MEMORY = "350MB"
NOBODY = Talks(0, (0, 0, 0), (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, 0, ())


def open_reader(folder: str | os.PathLike[str], *, skip_damaged: bool = False) -> Reader:
    """A reader with no more memory than an audit needs: 10 M rows in under 600 MB."""
    return Reader(os.fspath(folder), skip_damaged=skip_damaged, memory=MEMORY)


def take(reader: Reader, policy: Policy, period: periods.Period, now: int) -> Audit:
    """The audit of a period; without one, of the thirty days up to the ledger's last row. `now` in microseconds."""
    limits, held, drill = rules.limits(policy.audit), audit_guard.bounds(policy), guard.last_drill(reader)
    span = _span(reader, period)
    if span is None:
        per = rules.scale(0, 0)
        unasked = [rules.empty(key, number) for number, key in enumerate(rules.QUESTIONS, 1)][:-1]
        sixth = audit_guard.guard(held, Stops(0, 0, 0, 0), drill, NOBODY, now, limits, per, policy.guard)
        return Audit(period.since, period.until, 0, 0, 0, 0, False, 0, (*unasked, sixth))
    per = rules.scale(*span)
    ask = Asker(reader, policy, *span)
    again = money.embedded(ask)
    spent, talks = money.spent(ask, again), guard.talks(ask)
    loops = sum(line.cost for line in spent.multipliers if line.kind == "loop")
    alarmed = any(one.metric.startswith("fallback") for one in policy.alarm)
    stops = guard.stops(ask, loops, sum(flow.beyond for flow in talks.flows))
    answers = (
        audit_money.attribution(spent, limits, per, bool(policy.labels)),
        audit_money.fallback(money.falls(ask), ask.cost, ask.calls, limits, per, alarmed),
        audit_guard.growth(talks, held, limits, per, policy.compact == Compact()),
        audit_control.tiers(control.used(ask), limits, per),
        audit_control.cache(control.cached(ask, again), ask.cost, limits, per, policy.cache),
        audit_guard.guard(held, stops, drill, talks, now, limits, per, policy.guard),
    )
    return Audit(*span, per.days, ask.calls, ask.cost, per.month(ask.cost), per.times != per.over, spent.unpriced, answers)


def _span(reader: Reader, period: periods.Period) -> tuple[int, int] | None:
    """[since, until) of what is judged, None where there is no row: the period where traffic reaches to its ends, so that its whole
    length counts, else from the first to the last row in it."""
    since, until = period.since, period.until
    (seen,) = reader.query(Query(("rows", "first", "last"), (), (), since, until))
    if not seen["rows"]:
        return None
    first, last = seen["first"], seen["last"]
    if since is None:
        since = first if until is not None else max(first, last - USUAL_US)
        first = max(first, since)
    end = last + 1 if until is None else until
    slack = max(end - since, 0) // SLACK
    return since if first - since <= slack else first, end if end - last <= slack else last + 1
