"""What alarms are judged by, asked of a ledger: sums by the minute in which tries ended, and standings as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import apsw

from ..domain.policy import Budget
from ..rules.alarm_creep import WEEKS, Creep, creep
from ..rules.alarm_judge import MINUTE_US, Fed, Key
from ..rules.alarm_policy import TOOL, AlarmRule
from ..rules.alarm_state import Look
from ..rules.budget import compile_budgets
from ..rules.why import Leaf, Side, Sums, Talk
from ..stores import drills
from ..stores.columns import shown
from ..stores.query import DIMENSIONS, LABEL, Filter, Query
from ..stores.reader import Reader
from ..stores.schema import quoted
from ..stores.standing import drift
from .cli_common import dimension, pico
from .why import _Asker

DAY = 86_400_000_000
LONGEST_US = 3_600_000_000  # a try that took longer is not seen
SCOPES_MAX = 200  # values of a label that are looked at for slow growth, the dearest

TRIED = "status <> 'refused'"
TOKENS = " + ".join(f"coalesce({c}, 0)" for c in ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"))
READ = " + ".join(f"coalesce({c}, 0)" for c in ("input", "cache_read", "cache_write", "cache_write_1h"))
FALLBACK = "(operation = 'fallback' OR attempt_kind = 'fallback')"
RETRY = "(operation = 'retry' OR attempt_kind = 'retry')"
BROUGHT = "CAST(json_extract(evidence, '$.answered') AS MAP(VARCHAR, BIGINT))"


class Sum(NamedTuple):
    """A metric in SQL: the two sums, which rows count, and the columns that takes."""

    part: str
    whole: str = "0"
    where: str = "TRUE"
    columns: tuple[str, ...] = ()


SUMS: dict[str, Sum] = {
    "cost": Sum("sum(cost)", columns=("cost",)),
    "calls": Sum("count(*)", where='"try" = 1', columns=("try_no",)),
    "tokens": Sum(f"sum({TOKENS})"),
    "errors": Sum("count(*)", where="status IN ('error', 'unknown')"),
    "error_rate": Sum("count(*) FILTER (status IN ('error', 'unknown'))", "count(*)", TRIED),
    "fallback_rate": Sum(f"count(*) FILTER ({FALLBACK})", "count(*)", TRIED),
    "fallback_cost": Sum("sum(cost)", where=FALLBACK, columns=("cost",)),
    "retry_cost": Sum("sum(cost)", where=RETRY, columns=("cost", "cause")),
    "loop_cost": Sum("sum(cost)", where="cause = 'loop'", columns=("cost", "cause")),
    "tool_calls": Sum("sum(tool_calls)", where='"try" = 1 AND contains(evidence, \'"answered":\')', columns=("try_no", "evidence")),
    "cache_hit_rate": Sum("sum(coalesce(cache_read, 0))", f"sum({READ})"),
    "unattributed_share": Sum("sum(cost) FILTER (tenant = '' AND feature = '')", "sum(cost)", columns=("cost", "tenant", "feature")),
    "unpriced_share": Sum("count(*) FILTER (price_status = 'unpriced')", "count(*)", TRIED, ("price_status",)),
    "conversation_tokens": Sum(f"sum({TOKENS})", where="conversation <> ''", columns=("conversation",)),
    "conversation_turns": Sum("max(coalesce(turn, 0))", where="conversation <> ''", columns=("conversation", "turn")),
}
ALWAYS = (
    "status", "operation", "attempt_kind", "latency_ms", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
)  # fmt: skip


def needed(rule: AlarmRule) -> set[str]:
    """The stored columns that its rows are made of."""
    named = [dimension(label) for label in (*rule.keys, *dict(rule.fixed)) if label != TOOL]
    stored = ["labels" if name.startswith(LABEL) else DIMENSIONS[name] for name in named]
    return {*ALWAYS, *SUMS[rule.metric.name].columns, *stored}


def rows(reader: Reader, rule: AlarmRule, grain: int, since: int, until: int) -> Iterator[Fed]:
    """What happened to each scope in minutes [since, until) since the epoch, summed over `grain` of them, in order. A row counts
    in the minute its try ended, which is when the ledger has it: so live and replayed time see the same."""
    asked = SUMS[rule.metric.name]
    values: dict[str, object] = {"low": since, "high": until}

    def sql(label: str) -> str:
        if label == TOOL:
            return TOOL
        name = dimension(label)
        if name.startswith(LABEL):
            bound = f"l{len(values)}"
            values[bound] = name.removeprefix(LABEL)
            return f"coalesce(map_extract_value(labels, ${bound}), '')"
        return f"CAST({quoted(shown(DIMENSIONS[name]))} AS VARCHAR)"

    keys = [f"{sql(label)} AS k{n}" for n, label in enumerate(rule.keys)]
    conditions = ["attempt_kind <> 'correction'", asked.where, "closing >= $low AND closing < $high"]
    for label, value in rule.fixed:
        bound = f"f{len(values)}"
        values[bound] = value
        conditions.append(f"{sql(label)} = ${bound}")
    source = "calls"
    if rule.metric.name == "tool_calls":
        each = f"unnest(map_keys({BROUGHT})) AS tool, unnest(map_values({BROUGHT})) AS tool_calls"
        source = f"(SELECT *, {each} FROM calls WHERE {asked.where})"
    elif TOOL in (*rule.keys, *dict(rule.fixed)):
        source = "(SELECT *, substr(cause, 6) AS tool FROM calls WHERE starts_with(cause, 'tool:'))"
    talk = "conversation" if rule.metric.kind == "talks" else "''"
    # A try is looked for by when it began, which is what files are told apart by.
    reader.totals(needed(rule), (since * MINUTE_US) - LONGEST_US, until * MINUTE_US)
    text = f"""
        WITH timed AS (SELECT *, CAST(epoch_us(ts) + 1000 * coalesce(latency_ms, 0) AS BIGINT) // {MINUTE_US} AS closing FROM {source}
                       WHERE ts >= make_timestamptz($begin) AND ts < make_timestamptz($end))
        SELECT CAST(closing // {grain} * {grain} AS BIGINT) AS minute, {talk} AS talk, {asked.part} AS part, {asked.whole} AS whole
               {"".join(", " + key for key in keys)}
        FROM timed WHERE {" AND ".join(conditions)} GROUP BY ALL ORDER BY ALL"""
    values |= {"begin": since * MINUTE_US - LONGEST_US, "end": until * MINUTE_US}
    for minute, told, part, whole, *key in reader.duck.execute(text, values).fetchall():
        yield Fed(minute, tuple(map(str, key)), _whole(part), _whole(whole), told)


def _whole(value: object) -> int:
    """Dollars as pico-dollars, counts as they are."""
    if value is None:
        return 0
    return pico(value) if isinstance(value, Decimal) and value.as_tuple().exponent != 0 else int(value)  # type: ignore[call-overload]


# -- as it is now ----------------------------------------------------------------------------------------------------------


Found = list[tuple[dict[str, str], Look]]


def standing_looks(connection: apsw.Connection, rule: AlarmRule, budgets: Sequence[Budget], at_us: int) -> Found:
    """What stands in the ledger at this moment, by scope: only those over their threshold."""
    if rule.metric.name == "budget":
        return _budgets(connection, rule, budgets, at_us)
    value = len(drift(connection)) if rule.metric.name == "drift" else _undrilled(connection, at_us)
    return [({}, _look(at_us, value, rule))] if value >= rule.threshold else []


def _undrilled(connection: apsw.Connection, at_us: int) -> int:
    """Days since a drill was passed; where none ever was, since the first row."""
    last = drills.last_passed(connection)
    if last is None:
        firsts = "SELECT min(ts) AS ts FROM tail UNION ALL SELECT min(min_ts) FROM segments"
        ((last,),) = connection.execute(f"SELECT min(ts) FROM ({firsts})").fetchall()
    return 0 if last is None else max(0, at_us - int(last)) // DAY


def _look(at_us: int, value: int, rule: AlarmRule) -> Look:
    return Look(at_us, True, True, value, -1, rule.threshold, value / max(1, rule.threshold))


def _budgets(connection: apsw.Connection, rule: AlarmRule, budgets: Sequence[Budget], at_us: int) -> Found:
    limits = {rule.name: rule.limit.amount for rule in compile_budgets(budgets, ZoneInfo)}
    raised = dict(connection.execute("SELECT budget, \"limit\" FROM orders WHERE kind = 'raise' AND withdrawn = 0").fetchall())
    found: Found = []
    counters = connection.execute("SELECT counter, budget, spent + held FROM counters WHERE resets <= 0 OR resets > ?", (at_us,))
    for counter, budget, used in counters:
        limit = limits.get(budget)
        if raised.get(budget):
            limit = _limit(raised[budget], limit)
        if limit and used * 1_000_000 // limit >= rule.threshold:
            found.append(({"budget": budget, "counter": counter}, _look(at_us, used * 1_000_000 // limit, rule)))
    return found


def _limit(text: str, otherwise: int | None) -> int | None:
    from ..rules.budget import parse_limit

    try:
        return parse_limit(text).amount
    except ValueError:
        return otherwise


# -- slow growth -----------------------------------------------------------------------------------------------------------


def creeping(reader: Reader, rule: AlarmRule, at_us: int) -> list[tuple[Key, Creep]]:
    """The scopes that grew too much, against the same week four and twelve weeks ago: the shortest look-back that says so."""
    labels = tuple(dimension(label) for label in rule.keys)
    where = tuple(Filter(dimension(label), (value,)) for label, value in rule.fixed)
    ask = _Asker(reader, labels, where)
    end = at_us // DAY * DAY
    spans = {weeks: (end - (7 * weeks + 7) * DAY, end - 7 * weeks * DAY) for weeks in (0, *WEEKS)}
    sides = {weeks: _split(ask.side(span, ()), len(labels)) for weeks, span in spans.items()}
    days = {weeks: _days(reader, labels, where, span) for weeks, span in spans.items()}
    known = sorted(sides[0], key=lambda key: -sum(days[0].get(key, ())))[:SCOPES_MAX]
    none = (0,) * 7
    found: list[tuple[Key, Creep]] = []
    for key in known:
        then = {weeks: (sides[weeks].get(key, Side({}, {})), days[weeks].get(key, none)) for weeks in WEEKS}
        grown = creep(sides[0][key], days[0].get(key, none), then, rule.floor)
        found += [(key, grown[0])] if grown else []
    return found


def _split(side: Side, labels: int) -> dict[Key, Side]:
    leaves: dict[Key, dict[Leaf, Sums]] = {}
    talks: dict[Key, dict[Key, Talk]] = {}
    for leaf, sums in side.leaves.items():
        leaves.setdefault(leaf.labels[:labels], {})[leaf] = sums
    for key, talk in side.talks.items():
        talks.setdefault(key[:labels], {})[key] = talk
    return {key: Side(found, talks.get(key, {})) for key, found in leaves.items()}


def _days(reader: Reader, labels: Sequence[str], where: Sequence[Filter], span: tuple[int, int]) -> Mapping[Key, tuple[int, ...]]:
    from .periods import EPOCH, timedelta

    names = [(EPOCH + timedelta(microseconds=span[0] + n * DAY)).strftime("%Y-%m-%d") for n in range(7)]
    found: dict[Key, list[int]] = {}
    for row in reader.query(Query(("cost",), tuple(labels), tuple(where), *span, grain="day")):
        week = found.setdefault(tuple(str(row[label]) for label in labels), [0] * 7)
        week[names.index(row["period"])] += _cost(row)
    return {key: tuple(week) for key, week in found.items()}


def _cost(row: Mapping[str, Any]) -> int:
    return 0 if row["cost"] is None else pico(row["cost"])
