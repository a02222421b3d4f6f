"""Conversations asked of a ledger: their distribution, what each turn costs, the dearest, and one of them call by call. Records
for the terminal, JSON, the dashboard and notebooks; money in pico-dollars."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from ..rules.conversations import Turn, knee, not_worth
from ..rules.drivers import phrase
from ..stores.columns import LABEL, label_column
from ..stores.query import Filter, Query, compile_filter
from ..stores.reader import Reader
from . import periods, settings, wiring
from .cli_common import EXACT, pico

TURNS_MAX = 500  # later turns are counted as this one
TAILS = (1, 5)  # per cent of the conversations, the dearest first
OUTCOME = "outcome"  # the free label that says how a conversation ended; its latest value counts
RESOLVED = ("resolved",)
RESOLVED_AS = "resolved_values"
TOKENS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
READ = " + ".join(f"coalesce({name}, 0)" for name in TOKENS[:4])
WRITTEN = "coalesce(output, 0) + coalesce(reasoning, 0)"
WHO = ("tenant", "feature", "flow")
SPLIT = ("cost_new", "cost_history", "cost_tools", "cost_system")


class Spread(NamedTuple):
    """A distribution over conversations, in the unit of what is counted."""

    p50: int
    p95: int
    max: int


class Tail(NamedTuple):
    """The dearest conversations: how many they are, and what they cost."""

    per_cent: int
    conversations: int
    cost: int


class Curve(NamedTuple):
    """A turn by its number: how many conversations got there, what it cost all of them, and of that what was new, sent again,
    tool results, system prompt and schemas, and written. `first`: what the first turns of the same conversations cost;
    `so_far`: all their turns up to this one's end."""

    turn: int
    reached: int
    calls: int
    cost: int
    new: int
    history: int
    tools: int
    system: int
    output: int
    first: int
    so_far: int


class Outcome(NamedTuple):
    """What conversations with one outcome came to; an empty name: nobody said."""

    name: str
    conversations: int
    cost: int
    resolved: bool


class Talk(NamedTuple):
    """One conversation within the period."""

    conversation: str
    tenant: str
    feature: str
    flow: str
    turns: int
    calls: int
    tokens: int
    cost: int
    first_us: int
    last_us: int
    outcome: str = ""


class Overview(NamedTuple):
    """All conversations of a period. `outside`: what calls that are part of no conversation cost. `per_resolved`: what all
    conversations with an outcome cost, for each resolved one. `not_worth`: see rules/conversations.py; None too where no human
    cost is known."""

    conversations: int
    calls: int
    cost: int
    outside: int
    outside_calls: int
    turns: Spread
    depth: Spread
    per_calls: Spread
    tokens: Spread
    per_cost: Spread
    tails: tuple[Tail, ...]
    curve: tuple[Curve, ...]
    knee: int | None
    outcomes: tuple[Outcome, ...]
    per_resolved: int | None
    human_cost: int | None
    not_worth: int | None
    dearest: tuple[Talk, ...]


def overview(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, *, top: int = 5, human_cost: int | None = None,
    resolved: Sequence[str] = RESOLVED,
) -> Overview | None:  # fmt: skip
    """The conversations with calls in the period, or None where there are none. Calls before and after it are not seen."""
    _stage(reader, where, period, resolved)
    (row,) = _ask(reader, f"""
        SELECT count(*) AS conversations, sum(calls) AS calls, sum(cost) AS cost,
               {", ".join(f"quantile_disc({of}, [0.5, 0.95, 1.0]) AS {of}_" for of in ("turns", "depth", "calls", "tokens", "cost"))}
        FROM talks WHERE conversation <> ''""")  # fmt: skip
    if not row["conversations"]:
        return None
    (outside,) = _ask(reader, "SELECT coalesce(sum(calls), 0) AS calls, sum(cost) AS cost FROM talks WHERE conversation = ''")
    curve, turns = _curve(reader)
    outcomes = tuple(
        Outcome(found["outcome"], found["talks"], _pico(found["cost"]), found["resolved"])
        for found in _ask(reader, """
            SELECT outcome, resolved, count(*) AS talks, sum(cost) AS cost FROM talks WHERE conversation <> ''
            GROUP BY ALL ORDER BY cost DESC, outcome""")
    )  # fmt: skip
    known, solved = [one for one in outcomes if one.name], sum(one.conversations for one in outcomes if one.resolved)
    return Overview(
        row["conversations"], int(row["calls"]), _pico(row["cost"]), _pico(outside["cost"]), int(outside["calls"]),
        *[Spread(*map(int, row[f"{of}_"])) for of in ("turns", "depth", "calls", "tokens")], Spread(*map(_pico, row["cost_"])),
        _tails(reader, row["conversations"]), curve, knee(turns), outcomes if known else (),
        sum(one.cost for one in known) // solved if solved else None, human_cost,
        not_worth(turns, human_cost) if human_cost is not None and known else None, tuple(dearest(reader, top)),
    )  # fmt: skip


def talks(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, *, top: int, resolved: Sequence[str] = RESOLVED
) -> list[Talk]:
    """The dearest conversations of a period."""
    _stage(reader, where, period, resolved)
    return dearest(reader, top)


def dearest(reader: Reader, top: int) -> list[Talk]:
    rows = _ask(reader, f"SELECT * FROM talks WHERE conversation <> '' ORDER BY cost DESC, conversation LIMIT {int(top)}")
    return [
        Talk(
            row["conversation"], row["tenant"] or "", row["feature"] or "", row["flow"] or "", row["turns"], int(row["calls"]),
            int(row["tokens"]), _pico(row["cost"]), row["first_us"], row["last_us"], row["outcome"],
        )
        for row in rows
    ]  # fmt: skip


# Tries as the ledger counts them: those that were named afterwards under their new labels.
CALLS = """count(*) FILTER ("try" = 1 AND (attempt_kind <> 'correction' OR flags IN ('named', 'named-refused')))
           - count(*) FILTER ("try" = 1 AND flags IN ('unnamed', 'unnamed-refused')) AS calls"""
TURN = f"least(coalesce(turn, 1), {TURNS_MAX})"
THERE = "HAVING calls <> 0 OR coalesce(sum(cost), 0) <> 0"  # what was named away is there no more


# Conversations with the same turns can be added up turn by turn: everything that is asked of turns is a sum over them. Their turns are
# a number, a bit for each; a conversation with a later turn, with corrections or with credits is looked at by itself.
BITS = 60
PLAIN = f"max(coalesce(turn, 1)) <= {BITS} AND min(coalesce(turn, 1)) >= 1 AND coalesce(min(cost), 0) >= 0"
THERE_BIT = f"""bit_or(CASE WHEN ("try" = 1 OR cost > 0) AND coalesce(turn, 1) BETWEEN 1 AND {BITS}
                THEN 1::BIGINT << (coalesce(turn, 1) - 1) ELSE 0 END)"""


def _stage(reader: Reader, where: tuple[Filter, ...], period: periods.Period, resolved: Sequence[str]) -> None:
    """Tables `talks` (a line a conversation), `shapes` (one for all conversations with the same turns and the same end) and `steps`
    (one a turn of a shape, with what was spent on what). Each turn of each conversation would be as many lines as there are rows."""
    only = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    columns = ("conversation", "turn", "tool_depth", "try_no", LABEL + OUTCOME, "flags", "cost", "cost_output", *WHO, *SPLIT, *TOKENS)
    reader.totals(dict.fromkeys((*columns, *only.columns)), period.since, period.until)
    said = label_column(OUTCOME)
    judged, corrected = [
        reader.duck.execute(f"SELECT 1 FROM calls WHERE ({only.sql}) AND {there} LIMIT 1", only.values).fetchall()
        for there in (f"{said} <> ''", "attempt_kind = 'correction'")
    ]
    outcome = "''"
    if judged:
        # A row named afterwards stands at the time of the one it names, and says more.
        at = "epoch_us(ts) * 2 + starts_with(flags, 'named')::BIGINT"
        outcome = f"coalesce(arg_max({said}, {at}) FILTER ({said} <> '' AND NOT starts_with(flags, 'unnamed')), '')"
    who, calls, alike = [f"any_value({name}) AS {name}" for name in WHO], 'count(*) FILTER ("try" = 1) AS calls', PLAIN
    if corrected:
        who = [f"coalesce(max({name}) FILTER (starts_with(flags, 'named')), any_value({name})) AS {name}" for name in WHO]
        calls, alike = CALLS, f"{PLAIN} AND NOT bool_or(attempt_kind = 'correction')"
    reader.duck.execute(
        f"""CREATE OR REPLACE TEMP TABLE talks AS
            SELECT * EXCLUDE (alike, mask),
                   CASE WHEN alike THEN mask * 4 + (outcome <> '')::BIGINT * 2 + resolved::BIGINT
                        ELSE -row_number() OVER () END AS shape
            FROM (SELECT *, list_contains(${RESOLVED_AS}::VARCHAR[], outcome) AS resolved FROM (
                SELECT conversation, {", ".join(who)}, max(coalesce(turn, 1)) AS turns, max(coalesce(tool_depth, 0)) AS depth, {calls},
                       sum({READ} + {WRITTEN}) AS tokens, coalesce(sum(cost), 0) AS cost, epoch_us(min(ts)) AS first_us,
                       epoch_us(max(ts)) AS last_us, {outcome} AS outcome, {alike} AS alike, {THERE_BIT} AS mask
                FROM calls WHERE {only.sql} GROUP BY conversation {THERE}))""",
        {**only.values, RESOLVED_AS: list(resolved)},
    )
    reader.duck.execute(
        """CREATE OR REPLACE TEMP TABLE shapes AS
           SELECT shape, count(*) AS talks, any_value(outcome) <> '' AS known, any_value(resolved) AS resolved
           FROM talks WHERE conversation <> '' GROUP BY shape"""
    )
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in ("cost", *SPLIT, "cost_output"))
    reader.duck.execute(
        f"""CREATE OR REPLACE TEMP TABLE steps AS
            SELECT shape, {TURN} AS turn, {sums}, {calls}
            FROM (SELECT * FROM calls WHERE ({only.sql}) AND conversation <> '')
                 JOIN (SELECT conversation, shape FROM talks) USING (conversation)
            GROUP BY shape, {TURN} {THERE}""",
        only.values,
    )


def _curve(reader: Reader) -> tuple[tuple[Curve, ...], list[Turn]]:
    sums = ", ".join(f"sum({name}) AS {name}" for name in ("calls", "cost_output", *SPLIT))
    rows = _ask(reader, f"""
        WITH placed AS (
            SELECT steps.*, talks, known, resolved, first_value(cost) OVER earlier AS first_cost,
                   sum(cost) OVER earlier - cost AS before, (row_number() OVER earlier - 1) * talks AS turns_before,
                   sum(cost) OVER whole AS all_cost, count(*) OVER whole * talks AS all_turns
            FROM steps JOIN shapes USING (shape)
            WINDOW whole AS (PARTITION BY shape),
                   earlier AS (PARTITION BY shape ORDER BY turn ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
        )
        SELECT turn, sum(talks) AS reached, sum(cost) AS cost, sum(before) AS before, sum(first_cost) AS first,
               sum(all_cost - before) AS after, sum(all_turns - turns_before) AS turns_after,
               coalesce(sum(talks) FILTER (known), 0) AS known, coalesce(sum(talks) FILTER (resolved), 0) AS resolved,
               sum(all_cost - before) FILTER (known) AS known_after, {sums}
        FROM placed GROUP BY turn ORDER BY turn""")
    turns = [
        Turn(row["turn"], int(row["reached"]), _pico(row["cost"]), _pico(row["first"]), _pico(row["after"]), int(row["turns_after"]),
             int(row["known"]), int(row["resolved"]), _pico(row["known_after"]))
        for row in rows
    ]  # fmt: skip
    curve = [
        Curve(turn.n, turn.reached, int(row["calls"]), turn.cost, *[_pico(row[name]) for name in SPLIT], _pico(row["cost_output"]),
              turn.first, _pico(row["before"]) + turn.cost)
        for turn, row in zip(turns, rows)
    ]  # fmt: skip
    return tuple(curve), turns


def _tails(reader: Reader, conversations: int) -> tuple[Tail, ...]:
    made: list[Tail] = []
    for per_cent in TAILS:
        number = -(-conversations * per_cent // 100)
        found = f"SELECT cost FROM talks WHERE conversation <> '' ORDER BY cost DESC LIMIT {number}"
        (row,) = _ask(reader, f"SELECT sum(cost) AS cost FROM ({found})")
        made.append(Tail(per_cent, number, _pico(row["cost"])))
    return tuple(made)


# -- one of them -------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One try (or correction) of a conversation, as it went. `told`: why it was made, in words, empty for ordinary work;
    `called`: tools that its reply asked for; `failed`: tools whose failure it answers. Costs None where nobody knows."""

    ts_us: int
    call: str
    try_no: int
    turn: int | None
    depth: int | None
    kind: str
    operation: str
    cause: str
    told: str
    confidence: int | None
    model: str
    status: str
    error: str
    called: tuple[str, ...]
    failed: tuple[str, ...]
    read: int | None
    written: int | None
    cost: int | None
    new: int
    history: int
    tools: int
    system: int
    output: int
    so_far: int


class Incident(NamedTuple):
    """A stop, or a warning, that was logged for the conversation."""

    ts_us: int
    code: str
    reason: str


class Timeline(NamedTuple):
    """A whole conversation, oldest first."""

    conversation: str
    tenant: str
    feature: str
    flow: str
    outcome: str
    turns: int
    calls: int
    cost: int
    tokens: int
    steps: tuple[Step, ...]
    incidents: tuple[Incident, ...]


def named(reader: Reader, text: str, most: int = 6) -> list[str]:
    """The conversation of that name; without one, those whose names begin so, at most `most`."""
    reader.totals(("conversation",))
    found = _ask(reader, "SELECT 1 FROM calls WHERE conversation = $text LIMIT 1", {"text": text})
    if found or not text:
        return [text] if found else []
    ask = "SELECT DISTINCT conversation FROM calls WHERE starts_with(conversation, $text) ORDER BY 1 LIMIT $most"
    return [row["conversation"] for row in _ask(reader, ask, {"text": text, "most": most})]


def whole(reader: Reader, conversation: str, bound: tuple[Filter, ...]) -> bool:
    """Whether all rows of a conversation are within these conditions."""
    own = Filter("conversation", (conversation,))
    (every,), (mine,) = (reader.query(Query(("rows",), (), (own, *more))) for more in ((), bound))
    return bool(every["rows"] == mine["rows"])


def timeline(reader: Reader, conversation: str) -> Timeline | None:
    """One conversation with every try and correction, or None where there is none of that name."""
    rows = reader.sql(
        f"""SELECT epoch_us(ts) AS ts_us, id, call, "try", turn, tool_depth, attempt_kind, operation, cause, tenant, feature, flow,
                   model_served, model_requested, status, error, evidence, flags, cost, cost_output, {", ".join(SPLIT)}, labels,
                   {", ".join(TOKENS)}
            FROM calls WHERE conversation = $conversation ORDER BY ts, "try", id""",
        {"conversation": conversation},
    )  # fmt: skip
    if not rows or not conversation:
        return None
    steps: list[Step] = []
    outcome, so_far, tokens = "", 0, 0
    who = rows[0]
    for row in rows:
        if row["flags"].startswith("unnamed"):
            continue
        outcome = (row["labels"] or {}).get(OUTCOME, "") or outcome
        if row["flags"].startswith("named"):
            who = row
            continue  # the same try under other labels: it was there before, and costs nothing more
        so_far += _pico(row["cost"])
        step = _step(row, so_far)
        steps.append(step)
        tokens += (step.read or 0) + (step.written or 0)
    stops = reader.sql(
        "SELECT epoch_us(ts) AS ts_us, code, reason FROM incidents WHERE conversation = $c ORDER BY ts", {"c": conversation}
    )
    return Timeline(
        conversation, who["tenant"], who["feature"], who["flow"], outcome, max([step.turn or 1 for step in steps]),
        sum(step.try_no == 1 and step.kind != "correction" for step in steps), so_far, tokens, tuple(steps),
        tuple(Incident(row["ts_us"], row["code"], row["reason"]) for row in stops),
    )  # fmt: skip


def _step(row: Mapping[str, Any], so_far: int) -> Step:
    evidence = json.loads(row["evidence"] or "{}")
    why = evidence.get("cause", {})
    cause = row["cause"]
    word, _, tool = cause.partition(":")
    read = [row[name] for name in TOKENS[:4] if row[name] is not None]
    written = [row[name] for name in TOKENS[4:] if row[name] is not None]
    return Step(
        row["ts_us"], row["call"], row["try"], row["turn"], row["tool_depth"], row["attempt_kind"], row["operation"], cause,
        _told(row["attempt_kind"], row["operation"], cause), why.get("confidence"), row["model_served"] or row["model_requested"],
        row["status"], row["error"], tuple(evidence.get("called", ())), (tool,) if word in ("tool", "switch") and tool else (),
        sum(read) if read else None, sum(written) if written else None, None if row["cost"] is None else pico(row["cost"]),
        *[_pico(row[name]) for name in SPLIT], _pico(row["cost_output"]), so_far,
    )  # fmt: skip


def _told(kind: str, operation: str, cause: str) -> str:
    if kind == "correction":
        return "correction"
    if cause:
        return phrase("cause", cause)
    return "" if operation == "primary" else operation


def _ask(reader: Reader, text: str, values: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
    result = reader.duck.execute(text, values)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)


# -- for programs ------------------------------------------------------------------------------------------------------


def conversations(
    *,
    since: str | None = None,
    until: str | None = None,
    where: Mapping[str, str | int] | None = None,
    top: int = 1000,
    config: str | os.PathLike[str] | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """The dearest conversations, one row each: `conversation`, `tenant`, `feature`, `flow`, `turns` (of people), `calls`,
    `tokens`, `cost` (dollars, Decimal, exact), `first` and `last` (datetimes, UTC) and `outcome` (the label of that name).
    Periods, `where` and the ledger as for `bursar.spend`.

    LedgerFault when the ledger cannot be read or a name is not known, ValueError for a period that is none."""
    from .spend import filters

    policy, _ = settings.load(settings.find(config))
    span = periods.period(since, until, wiring.now_us())
    with Reader(wiring.ledger_folder(policy, ledger)) as reader:
        found = talks(reader, filters(where), span, top=top)
    made: list[dict[str, Any]] = []
    for one in found:
        row = one._asdict()
        row["cost"] = Decimal(one.cost).scaleb(-12, EXACT)
        row["first"], row["last"] = (periods.EPOCH + timedelta(microseconds=row.pop(name)) for name in ("first_us", "last_us"))
        made.append(row)
    return made
