"""What bounds the money: questions three and six of the audit, conversations and guards. Pure; units as in rules/audit.py."""

from __future__ import annotations

from typing import NamedTuple

from ..domain.money import show
from ..domain.policy import Budget, Guard, Policy
from .audit import (
    ACT,
    DAY_US,
    GOOD,
    QUESTIONS,
    WATCH,
    Answer,
    Figure,
    Limits,
    Line,
    Scale,
    against,
    dollars,
    per_cent,
    quote,
    round_up,
    share,
    worst,
)  # fmt: skip

PROPOSED_MOST = 4  # flows that get lines to paste; the dearest
CONVERSATIONS_LEAST = 20  # of a flow, before its p99 is worth a limit
ROOM = (3, 2)  # a proposed limit is p99 times this: it should stop a runaway, not the hundredth customer


class Bounds(NamedTuple):
    """What a policy already limits. Names of flows, "" is all of them."""

    dollars: frozenset[str]  # flows whose conversations stop at an amount of dollars or tokens
    depth: frozenset[str]  # … at a number of tool calls
    tables: frozenset[str]  # flows that have a [guard.flow.NAME] of their own
    hard: tuple[str, ...]  # budgets that refuse
    soft: int
    loops: bool
    names: frozenset[str] = frozenset()  # of all budgets


def bounds(policy: Policy) -> Bounds:
    guard = policy.guard
    flows = {"": guard, **guard.flow}
    stops = {name: (one.mode or guard.mode) not in ("warn", "off") for name, one in flows.items()}
    money = {name for name, one in flows.items() if stops[name] and (one.cost_max or one.tokens_max)}
    depth = {name for name, one in flows.items() if stops[name] and (one.tool_calls_max or (one.mode or guard.mode) == "on")}
    hard: list[str] = []
    for number, budget in enumerate(policy.budget):
        if budget.hard:
            hard.append(budget.name or f"budget {number + 1}")
            if _of_conversations(budget):
                money.add(_flow(budget))
    loops = stops[""] and bool(guard.repeats_max or guard.mode == "on")
    soft = sum(not budget.hard for budget in policy.budget)
    names = frozenset(budget.name for budget in policy.budget)
    return Bounds(frozenset(money), frozenset(depth), frozenset(guard.flow), tuple(hard), soft, loops, names)


def _of_conversations(budget: Budget) -> bool:
    scope = budget.scope
    return budget.window == "conversation" or scope == "conversation" or (isinstance(scope, dict) and scope.get("conversation") == "*")


def _flow(budget: Budget) -> str:
    """Which flow's conversations a budget bounds; of one with other conditions nobody can say, and it counts for none."""
    if isinstance(budget.scope, str):
        return ""
    rest = {name: value for name, value in budget.scope.items() if value != "*"}
    return "" if not rest else rest["flow"] if set(rest) == {"flow"} else "\0other"


# -- 3: growth ---------------------------------------------------------------------------------------------------------


class Flow(NamedTuple):
    """The conversations of one flow. `name` is the label `flow`, empty where nobody said. Percentiles by the nearest rank;
    `over`: conversations beyond the proposed limit, and the dollars they spent beyond it."""

    name: str
    feature: str
    conversations: int
    cost: int
    p99_cost: int
    p99_turns: int
    p99_depth: int
    limit: int
    over: int
    beyond: int
    shorter: int = 0  # dollars that shorter histories would have kept, net; 0: nothing to gain
    why: str = ""  # … in words


class Talks(NamedTuple):
    """All conversations together. `tail`: cost of the dearest hundredth, `history`: dollars for history sent again."""

    conversations: int
    turns: tuple[int, int, int]  # p50, p95, most
    tokens: tuple[int, int, int]
    cost: tuple[int, int, int]
    total: int
    tail: int
    tail_count: int
    history: int
    spent: int  # of all calls of the period
    flows: tuple[Flow, ...]


def limit_of(p99: int) -> int:
    """The limit proposed for conversations whose p99 is this, in pico-dollars: whole cents, two significant digits."""
    return max(round_up(p99 * ROOM[0] // ROOM[1]), 10**10)


def growth(talks: Talks, held: Bounds, rules: Limits, per: Scale, unshortened: bool = False) -> Answer:
    """`unshortened`: the policy has no [compact]."""
    question = QUESTIONS["growth"]
    how = (
        "a conversation is what the gateway threaded or a label named; percentiles by the nearest rank, over the period's "
        "conversations; limits are 1.5 times the p99 of each flow"
    )
    if not talks.conversations:
        nobody = "No call in this period belongs to a conversation."
        return Answer(3, "growth", question, GOOD, nobody, (), (), 0, how, "nothing to do")
    unbounded = [flow for flow in talks.flows if not {flow.name, ""} & held.dollars]
    tail, history = share(talks.tail, talks.total), share(talks.history, talks.spent)
    large = worst((against(tail, rules.tail), against(history, rules.history)))
    verdict = (ACT if large == ACT else WATCH) if unbounded else (WATCH if large == ACT else GOOD)
    p50, p95, most = talks.turns
    sentence = (
        f"p95 is {p95:,} turns, {_brief(talks.tokens[1])} tokens and {show(talks.cost[1])}; the dearest {talks.tail_count:,} of "
        f"{talks.conversations:,} cost {per_cent(tail)} of them all, the dearest one {show(talks.cost[2])}."
    )
    figures = (
        Figure("conversations", talks.conversations, "count", "conversations"),
        Figure("turns_p50", p50, "count", "turns at p50"), Figure("turns_p95", p95, "count", "turns at p95"),
        Figure("turns_max", most, "count", "turns at most"),
        Figure("tokens_p50", talks.tokens[0], "tokens", "tokens at p50"),
        Figure("tokens_p95", talks.tokens[1], "tokens", "tokens at p95"),
        Figure("tokens_max", talks.tokens[2], "tokens", "tokens at most"),
        Figure("cost_p50", talks.cost[0], "usd", "at p50"), Figure("cost_p95", talks.cost[1], "usd", "at p95"),
        Figure("cost_max", talks.cost[2], "usd", "at most"),
        Figure("tail", tail, "share", "of it in the dearest hundredth"),
        Figure("history", history, "share", "of all dollars are history sent again"),
    )  # fmt: skip
    lines = tuple(
        Line("flow", flow.name or flow.feature or "(unnamed)", flow.cost, flow.conversations, _told(flow, flow not in unbounded))
        for flow in talks.flows
    )
    beyond = sum(flow.beyond for flow in unbounded)
    shorter = sum(flow.shorter for flow in talks.flows)
    worth = [flow for flow in unbounded[:PROPOSED_MOST] if _worth(flow, talks)]
    paste = "\n\n".join(_budget(flow) for flow in worth if _name(flow) not in held.names)
    action = "nothing to do: every flow has its limit"
    if paste:
        action = "give conversations a limit of dollars, from your own p99; it warns until you say hard = true"
    elif worth:
        action = f"say hard = true in budget {_name(worth[0])!r}, when its warnings look right"
    elif unbounded:
        action = f"wait for {CONVERSATIONS_LEAST} conversations of a flow: then its p99 makes a limit"
    if shorter and unshortened:
        paste = "\n\n".join(filter(None, (paste, '[compact]\nmode = "shadow"')))
    stake = per.month(beyond + shorter)
    return Answer(3, "growth", question, verdict, sentence, figures, lines, stake, how, action, paste, ("bursar conversations",))


def _worth(flow: Flow, talks: Talks) -> bool:
    """Whether a flow is worth lines to paste: it has enough conversations to know it by, and a hundredth of their dollars."""
    return flow.conversations >= CONVERSATIONS_LEAST and flow.cost * 100 >= talks.total


def _told(flow: Flow, held: bool) -> str:
    said = "has a limit" if held else f"{flow.over:,} over {show(flow.limit)}"
    return f"p99 {show(flow.p99_cost)}, {flow.p99_turns:,} turns; {said}{'; ' + flow.why if flow.why else ''}"


def _name(flow: Flow) -> str:
    return (flow.name or flow.feature or "any") + " conversation"


def _budget(flow: Flow) -> str:
    where = f'{{flow = {quote(flow.name)}, conversation = "*"}}' if flow.name else (
        f'{{feature = {quote(flow.feature)}, conversation = "*"}}' if flow.feature else '"conversation"')  # fmt: skip
    passed = f"{flow.over:,} of {flow.conversations:,} would have passed it"
    return (f"[[budget]]  # p99 {show(flow.p99_cost)}; {passed}\n"
            f'name = {quote(_name(flow))}\nscope = {where}\nwindow = "conversation"\n'
            f'limit = "{dollars(flow.limit)}"\nhard = false')  # fmt: skip


def _brief(count: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            tenths = count * 10 // size
            return f"{tenths // 10}{f'.{tenths % 10}' if tenths < 1000 else ''}{unit}"
    return str(count)


# -- 6: guards ---------------------------------------------------------------------------------------------------------


class Drill(NamedTuple):
    """A fire drill that was held: when, under which policy, and whether everything tripped."""

    ts: int
    policy: str
    passed: bool


class Stops(NamedTuple):
    """What guards did in the period. `loops`: dollars of calls in a loop; `beyond`: dollars beyond the proposed limits."""

    stopped: int
    warned: int
    loops: int
    beyond: int


def guard(
    held: Bounds, stops: Stops, drill: Drill | None, talks: Talks, now: int, rules: Limits, per: Scale, table: Guard
) -> Answer:
    age = None if drill is None else max(now - drill.ts, 0) // DAY_US
    fresh = drill is not None and drill.passed and age is not None and age <= rules.drill_days
    limited = bool(held.dollars) and bool(held.depth or held.loops)
    if not held.hard and not held.dollars:
        verdict = ACT
    elif not limited or not fresh:
        verdict = WATCH
    else:
        verdict = GOOD
    stop = f"{len(held.hard)} budget{' stops' if len(held.hard) == 1 else 's stop'}" if held.hard else "No budget stops anything"
    talk = "conversations have a limit of dollars" if held.dollars else "conversations have no limit"
    depth = "tool calls have one" if held.depth else "tool calls have none"
    said = "No drill was ever held."
    if drill is not None:
        said = f"The last drill {'passed' if drill.passed else 'failed'} {age} day{'' if age == 1 else 's'} ago."
    sentence = f"{stop}; {talk}; {depth}. {said}"
    figures = (
        Figure("budgets_hard", len(held.hard), "count", "budgets stop"),
        Figure("budgets_soft", held.soft, "count", "budgets only warn"),
        Figure("stopped", stops.stopped, "count", "incidents stopped something"),
        Figure("warned", stops.warned, "count", "incidents warned"),
        Figure("loops", stops.loops, "usd", "went into loops"),
        Figure("beyond", stops.beyond, "usd", "went beyond 1.5 times a flow's p99"),
        Figure("drill_age", age, "days", "days since the last drill"),
    )  # fmt: skip
    paste, action, commands = "", "nothing to do: look again when the drill is a month old", ()
    open_ = [flow for flow in talks.flows if flow.name and flow.name not in held.tables and not {flow.name, ""} & held.depth]
    lines = [_limits(flow) for flow in open_ if _worth(flow, talks)]
    if not limited:
        action = "limit tool calls and repeats per flow, from your own p99; then hold a drill"
        paste = "\n\n".join(lines[:PROPOSED_MOST])
        if not paste and not held.tables and table == Guard():
            paste = '[guard]\nmode = "warn"\ntool_calls_max = 25\nrepeats_max = 6'
        commands = ("bursar drill",)
    elif not fresh:
        action, commands = "hold a drill: a limit that was never seen to trip is a hope", ("bursar drill",)
    how = "limits and budgets as the policy has them; incidents and drills as the ledger has them"
    stake = per.month(max(stops.loops, stops.beyond))
    return Answer(6, "guard", QUESTIONS["guard"], verdict, sentence, figures, (), stake, how, action, paste, commands)


def _limits(flow: Flow) -> str:
    depth = max(flow.p99_depth * ROOM[0] // ROOM[1] + 1, 5)
    return (f'[guard.flow.{quote(flow.name)}]  # p99: {flow.p99_depth:,} tool calls in a turn\nmode = "warn"\n'
            f"tool_calls_max = {depth}\nrepeats_max = 6")  # fmt: skip
