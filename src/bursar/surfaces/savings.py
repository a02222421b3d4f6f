"""What the controls saved, from the ledger's rows: per control and day, gross, own cost and net, beside the bill. Plain records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

from ..rules import reuse, route, saving
from ..rules.saving import Saving
from ..stores.query import Filter, Plan, Query, compile_filter
from ..stores.reader import Reader
from . import gate, periods
from .cli_common import pico
from .gate import Gate

COLUMNS = (
    "ts", "cost", "saved", "saved_by", "operation", "evidence", "status", "tenant", "key", "request_hash", "finish", "call", "dialect",
    "conversation", "attempt_kind", "flow", "feature", "labels", "flags", "route_reason",
)  # fmt: skip
REPEATS_MAX = 500_000  # rows of questions asked more than once that are looked at


class Day(NamedTuple):
    """One control's day. Pico-dollars; `net` is `gross - own`, and lies between `low` and `high`."""

    day: str
    control: str
    calls: int
    gross: int
    own: int
    low: int
    high: int

    @property
    def net(self) -> int:
        return self.gross - self.own


class Control(NamedTuple):
    """One control over the whole time. `versus`: the course of events it is compared with; `sure`: exact, computed, estimated."""

    control: str
    calls: int
    gross: int
    own: int
    low: int
    high: int
    versus: str
    sure: str

    @property
    def net(self) -> int:
        return self.gross - self.own


class Repeats(NamedTuple):
    """What a reply cache that keeps for `ttl_us` would have had, where none answered: of `calls` looked at, `hits` asked what had
    been asked before, and cost `pico`. A lower bound: a question counts as the same only where its bytes are."""

    ttl_us: int
    calls: int
    hits: int
    pico: int


class Judged(NamedTuple):
    """Near-duplicates of one tenant's flow whose reply the true one was compared with; `wrong` said another thing."""

    tenant: str
    flow: str
    n: int
    wrong: int


class Off(NamedTuple):
    """A router or classifier that has turned itself off for a feature, and so many calls since."""

    feature: str
    what: str
    calls: int


class Savings(NamedTuple):
    """`spent` is the bill, controls' own calls included; `without` what it would have been."""

    since: int | None
    until: int | None
    spent: int
    controls: tuple[Control, ...]
    days: tuple[Day, ...]
    shadow: tuple[Control, ...]  # would have saved; in no sum
    repeats: Repeats | None
    judged: tuple[Judged, ...] = ()
    off: tuple[Off, ...] = ()
    outcomes: tuple[Gate, ...] = ()

    @property
    def net(self) -> int:
        return sum(one.net for one in self.controls)

    @property
    def without(self) -> int:
        return self.spent + self.net


def savings(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, ttl_us: int = reuse.HOUR_US,
    resolved: Sequence[str] = ("resolved",),
) -> Savings:  # fmt: skip
    """The statement of a time. What rows say they saved, less the calls that the controls made for themselves. `resolved`: outcomes
    that count as solved, where shorter histories are compared with whole ones."""
    condition = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    reader.totals(dict.fromkeys((*COLUMNS, *condition.columns)), period.since, period.until)
    ask = reader.duck.execute
    spent = ask(f"SELECT sum(cost) FROM calls WHERE {condition.sql}", condition.values).fetchone()
    alike = ask(
        f"""SELECT CAST(ts AS DATE), saved_by, count(*), sum(saved) FROM calls WHERE ({condition.sql}) AND saved_by <> ''
            AND operation <> 'control' AND NOT contains(evidence, '"saved"') GROUP BY ALL""",
        condition.values,
    ).fetchall()
    own = ask(
        f"""SELECT CAST(ts AS DATE), saved_by, sum(cost) FROM calls WHERE ({condition.sql}) AND saved_by <> ''
            AND operation = 'control' GROUP BY ALL""",
        condition.values,
    ).fetchall()
    told = ask(
        f"""SELECT CAST(ts AS DATE), evidence FROM calls WHERE ({condition.sql})
            AND (contains(evidence, '"saved"') OR contains(evidence, '"would"'))""",
        condition.values,
    )
    days: dict[tuple[date, str], Saving] = {}
    shadow: dict[str, Saving] = {}
    for day, by, calls, amount in alike:
        kept = pico(amount) if amount is not None else 0  # calls of unknown price alone: nothing that could be claimed
        _add(days, (day, by), Saving(by, kept, 0, kept, kept, calls))
    for day, by, cost in own:
        paid = pico(cost) if cost is not None else 0
        _add(days, (day, by), Saving(by, 0, paid, -paid, -paid, 0))
    while rows := told.fetchmany(10_000):
        for day, evidence in rows:
            for one in saving.read(None, "", evidence).values():
                _add(days, (day, one.control), one)
            for one in saving.read(None, "", evidence, "would").values():
                shadow[one.control] = saving.added([shadow[one.control], one])[one.control] if one.control in shadow else one
    totals = saving.added(days.values())
    return Savings(
        period.since, period.until, pico(spent[0]) if spent and spent[0] is not None else 0,
        tuple(_control(one) for one in totals.values()),
        tuple(Day(day.isoformat(), by, s.calls, s.gross, s.own, s.low, s.high) for (day, by), s in sorted(days.items())),
        tuple(_control(shadow[name]) for name in saving.CONTROLS if name in shadow),
        _repeats(reader, condition.sql, condition.values, ttl_us), _judged(reader, condition), _off(reader, condition),
        tuple(gate.gates(reader, condition, resolved)) if "compaction" in totals or "compaction" in shadow else (),
    )  # fmt: skip


def _judged(reader: Reader, condition: Plan) -> tuple[Judged, ...]:
    rows = reader.duck.execute(
        f"""SELECT tenant, flow, count(*), count(*) FILTER (contains(evidence, '"judged":0')) FROM calls
            WHERE ({condition.sql}) AND contains(evidence, '"judged":') GROUP BY ALL ORDER BY 3 DESC, 1, 2""",
        condition.values,
    ).fetchall()
    return tuple([Judged(*row) for row in rows])


def _off(reader: Reader, condition: Plan) -> tuple[Off, ...]:
    rows = reader.duck.execute(
        f"""SELECT feature, CASE WHEN contains(route_reason, 'classifier:') THEN 'classifier' ELSE 'router' END, count(*) FROM calls
            WHERE ({condition.sql}) AND contains(route_reason, '{route.OFF}') GROUP BY ALL ORDER BY 3 DESC, 1""",
        condition.values,
    ).fetchall()
    return tuple([Off(*row) for row in rows])


def _add(days: dict[tuple[date, str], Saving], at: tuple[date, str], one: Saving) -> None:
    days[at] = saving.added([days[at], one])[one.control] if at in days else one


def _control(one: Saving) -> Control:
    return Control(
        one.control, one.calls, one.gross, one.own, one.low, one.high, saving.COUNTERFACTUAL[one.control], saving.SURE[one.control]
    )


def _repeats(reader: Reader, condition: str, values: dict[str, object], ttl_us: int) -> Repeats | None:
    """From the hashes of requests. What calls tools is left out; so is what is nobody's. Of many, the first whole hours."""
    question = "hash(CASE WHEN tenant <> '' THEN 'tenant ' || tenant ELSE 'key ' || key END, request_hash)"
    asked = f"""calls WHERE ({condition}) AND NOT starts_with(saved_by, 'cache') AND saved_by <> 'near'
                AND operation <> 'control' AND attempt_kind = 'first' AND status = 'ok' AND request_hash <> ''
                AND (tenant <> '' OR key <> '')
                AND finish NOT IN ('tool_calls', 'tool_use', 'function_call')"""
    duck, hour = reader.duck, f"epoch_us(ts) // {reuse.HOUR_US}"
    duck.execute(
        f"""CREATE OR REPLACE TEMP TABLE asked_again AS
            SELECT {question} AS question FROM {asked} GROUP BY 1 HAVING count(*) > 1""",
        values,
    )
    again = f"{question} IN (SELECT question FROM asked_again)"
    hours = duck.execute(f"SELECT {hour}, count(*), count(*) FILTER ({again}) FROM {asked} GROUP BY 1 ORDER BY 1", values).fetchall()
    calls = repeated = until = 0
    for number, all_asked, twice in hours:
        if repeated and repeated + twice > REPEATS_MAX:
            break
        calls, repeated, until = calls + all_asked, repeated + twice, (number + 1) * reuse.HOUR_US
    if not repeated:
        return None
    found = duck.execute(
        f"SELECT epoch_us(ts) AS asked_us, {question}, cost FROM {asked} AND epoch_us(ts) < $until AND {again} ORDER BY asked_us",
        {**values, "until": until},
    )

    def past() -> Iterator[reuse.Past]:
        while rows := found.fetchmany(10_000):  # a page has no memory for half a million rows
            for at, what, cost in rows:
                yield reuse.Past(at, "", what, pico(cost) if cost is not None else 0)

    have = reuse.would_have(past(), ttl_us)
    return Repeats(ttl_us, calls, have.hits, have.pico) if have.hits else None


def by_period(days: Iterable[Day], grain: str) -> list[Day]:
    """Days added up to weeks (from Monday) or months."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)
    for one in days:
        sums[(_start(one.day, grain), one.control)] = [
            a + b for a, b in zip(sums[(_start(one.day, grain), one.control)], one[2:], strict=True)
        ]
    return [Day(day, control, *five) for (day, control), five in sums.items()]


def _start(day: str, grain: str) -> str:
    if grain == "month":
        return day[:8] + "01"
    if grain == "week":
        whole = date.fromisoformat(day)
        return date.fromordinal(whole.toordinal() - whole.weekday()).isoformat()
    return day
