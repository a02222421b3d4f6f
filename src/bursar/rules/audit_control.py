"""What bounds the money and what makes it less: questions three to six of the audit. Pure; units as in rules/audit.py."""

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
    return Bounds(frozenset(money), frozenset(depth), frozenset(guard.flow), tuple(hard), sum(not b.hard for b in policy.budget), loops)


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


def growth(talks: Talks, held: Bounds, rules: Limits, per: Scale) -> Answer:
    question = QUESTIONS["growth"]
    how = ("a conversation is what the gateway threaded or a label named; percentiles by the nearest rank, over conversations of the "
           "period; limits are 1.5 times the p99 of each flow")  # fmt: skip
    if not talks.conversations:
        return Answer(3, "growth", question, GOOD, "No call in this period belongs to a conversation.", (), (), 0, how, "nothing to do")
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
        Figure("turns_p50", p50, "count", "turns, p50"), Figure("turns_p95", p95, "count", "turns, p95"),
        Figure("turns_max", most, "count", "turns, most"),
        Figure("tokens_p50", talks.tokens[0], "tokens", "tokens, p50"), Figure("tokens_p95", talks.tokens[1], "tokens", "tokens, p95"),
        Figure("tokens_max", talks.tokens[2], "tokens", "tokens, most"),
        Figure("cost_p50", talks.cost[0], "usd", "dollars, p50"), Figure("cost_p95", talks.cost[1], "usd", "dollars, p95"),
        Figure("cost_max", talks.cost[2], "usd", "dollars, most"),
        Figure("tail", tail, "share", "of it in the dearest hundredth"),
        Figure("history", history, "share", "of all dollars are history sent again"),
    )  # fmt: skip
    lines = tuple(
        Line("flow", flow.name or flow.feature, flow.cost, flow.conversations, _told(flow, flow not in unbounded)) for flow in talks.flows
    )
    beyond = sum(flow.beyond for flow in unbounded)
    shorter = sum(flow.shorter for flow in talks.flows)
    paste = "\n\n".join(_budget(flow) for flow in unbounded[:PROPOSED_MOST] if flow.conversations >= CONVERSATIONS_LEAST)
    action = "nothing to do: every flow has its limit"
    if paste:
        action = "give conversations a limit of dollars, from your own p99; it warns until you say hard = true"
    elif unbounded:
        action = f"wait for {CONVERSATIONS_LEAST} conversations of a flow: then its p99 makes a limit"
    return Answer(3, "growth", question, verdict, sentence, figures, lines, per.month(beyond + shorter), how, action, paste,
                  ("bursar conversations",) if talks.conversations else ())  # fmt: skip


def _told(flow: Flow, held: bool) -> str:
    said = "has a limit" if held else f"{flow.over:,} over {show(flow.limit)}"
    return f"p99 {show(flow.p99_cost)}, {flow.p99_turns:,} turns; {said}{'; ' + flow.why if flow.why else ''}"


def _budget(flow: Flow) -> str:
    where = f'{{flow = {quote(flow.name)}, conversation = "*"}}' if flow.name else (
        f'{{feature = {quote(flow.feature)}, conversation = "*"}}' if flow.feature else '"conversation"')  # fmt: skip
    return (f"[[budget]]  # p99 {show(flow.p99_cost)}; {flow.over:,} of {flow.conversations:,} would have passed it\n"
            f'name = {quote((flow.name or flow.feature or "any") + " conversation")}\nscope = {where}\nwindow = "conversation"\n'
            f'limit = "{dollars(flow.limit)}"\nhard = false')  # fmt: skip


def _brief(count: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            tenths = count * 10 // size
            return f"{tenths // 10}{f'.{tenths % 10}' if tenths < 1000 else ''}{unit}"
    return str(count)


# -- 4: tiers ----------------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """Work that looks like a cheaper tier's: what it cost, and what the same tokens cost at that tier's model."""

    feature: str
    model: str
    to: str
    tier: str
    calls: int
    cost: int
    then: int
    why: str


class Used(NamedTuple):
    """Dollars by model, the dearest first, and what could move."""

    models: tuple[Line, ...]
    cost: int
    moves: tuple[Move, ...]
    routed: bool  # the policy decides tiers


def tiers(used: Used, rules: Limits, per: Scale) -> Answer:
    saved = sum(move.cost - move.then for move in used.moves)
    top = used.models[0] if used.models else Line("model", "", 0, 0)
    verdict = against(share(saved, used.cost), rules.tiers)
    if verdict == GOOD and not used.routed and share(top.cost, used.cost) > 900_000:
        verdict = WATCH
    sentence = f"{top.name} took {per_cent(share(top.cost, used.cost))} of the dollars, of {len(used.models)} models."
    sentence += f" {len(used.moves)} kind{'s' if len(used.moves) != 1 else ''} of work look{'s' if len(used.moves) == 1 else ''} cheaper than its model." if used.moves else ""
    figures = (
        Figure("models", len(used.models), "count", "models"), Figure("dearest", share(top.cost, used.cost), "share", f"of it on {top.name}"),
        Figure("saved", saved, "usd", "less, if all of this work moved"), Figure("saved_share", share(saved, used.cost), "share", "of the bill"),
    )  # fmt: skip
    lines = used.models[:5] + tuple(
        Line("move", f"{one.feature or '(unnamed)'}: {one.model} -> {one.to}", one.cost, one.calls, f"{show(one.then)} there; {one.why}")
        for one in used.moves
    )
    action, commands = "nothing to do: work is where it belongs by its shape", ()
    if used.moves:
        best = max(used.moves, key=lambda one: one.cost - one.then)
        action = f"grade a sample of {best.feature or 'that work'} on {best.to} before you move it; half of such promises hold"
        commands = ("bursar route train --help",)
    how = ("the shape of each feature's calls (length of answers, tools, depth, failures) says which tier it looks like; the same tokens "
           "at that tier's price, all of them: an upper bound, since published routers save a quarter of what is possible")  # fmt: skip
    return Answer(4, "tiers", QUESTIONS["tiers"], verdict, sentence, figures, lines, per.month(saved), how, action, "", commands)


# -- 5: caches ---------------------------------------------------------------------------------------------------------


class Cached(NamedTuple):
    """What caches did and would have done. Dollars of the period; `sampled`: one in so many requests was looked at for this."""

    calls: int
    answered: int  # calls that our reply cache answered
    kept: int  # dollars it kept
    read_share: int  # of input tokens that the provider's prompt cache gave
    repeats: tuple[Line, ...]  # asked and answered before, byte for byte, within the day
    prompts: tuple[Line, ...]  # what marking prompts for the provider's cache would have kept, net, by feature
    sampled: int


def cache(cached: Cached, cost: int, rules: Limits, per: Scale, live: bool) -> Answer:
    again, marked = sum(line.cost for line in cached.repeats), sum(line.cost for line in cached.prompts)
    verdict = against(share(again + marked, cost), rules.cache)
    reply = f"answers {per_cent(share(cached.answered, cached.calls))} of the calls" if live or cached.answered else "is off"
    sentence = f"The reply cache {reply}; {per_cent(cached.read_share)} of input tokens came from the providers' prompt caches."
    if again or marked:
        sentence += f" {show(again)} was asked twice, {show(marked)} was read anew that had just been read."
    figures = (
        Figure("answered", share(cached.answered, cached.calls), "share", "of calls answered by the reply cache"),
        Figure("kept", cached.kept, "usd", "that it kept"),
        Figure("prompt_cache", cached.read_share, "share", "of input tokens from the providers' prompt caches"),
        Figure("repeats", again, "usd", "for the same request again within a day"),
        Figure("prompts", marked, "usd", "that marked prompts would have kept, net of writing them"),
    )  # fmt: skip
    action, commands = "nothing to do: what repeats is cached", ()
    if marked > again and marked:
        best = max(cached.prompts, key=lambda line: line.cost)
        action = f"mark the prompts of {best.name} for the provider's cache (cache_control): {show(per.month(best.cost))} a month"
        commands = (f"bursar spend --by model --where feature={best.name}",)
    elif again:
        best = max(cached.repeats, key=lambda line: line.cost)
        action = f"let the reply cache answer what {best.name} asks again: {show(per.month(best.cost))} a month"
        commands = (f"bursar spend --by request_hash --top 10 --where feature={best.name}",)
    how = ("repeats: the same bytes of the same tenant to the same model, answered well less than a day before. Prompts: calls of a "
           "conversation within five minutes of the one before, whose beginning could have been read at the cache's price, less what "
           "writing it costs")  # fmt: skip
    if cached.sampled > 1:
        how += f"; from one in {cached.sampled} of them, by hash"
    return Answer(5, "cache", QUESTIONS["cache"], verdict, sentence, figures, (*cached.repeats, *cached.prompts), per.month(again + marked),
                  how, action, "", commands)  # fmt: skip


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


def guard(held: Bounds, stops: Stops, drill: Drill | None, talks: Talks, now: int, rules: Limits, per: Scale, table: Guard) -> Answer:
    age = None if drill is None else max(now - drill.ts, 0) // DAY_US
    fresh = drill is not None and drill.passed and age is not None and age <= rules.drill_days
    limited = bool(held.dollars) and bool(held.depth or held.loops)
    if not held.hard and not held.dollars:
        verdict = ACT
    elif not limited or not fresh:
        verdict = WATCH
    else:
        verdict = GOOD
    there = [f"{len(held.hard)} budget{'s' if len(held.hard) != 1 else ''} that stop{'' if len(held.hard) != 1 else 's'}" if held.hard else "no budget stops anything"]
    there.append("conversations have a limit" if held.dollars else "conversations have none")
    there.append("tool depth has one" if held.depth else "tool depth has none")
    said = f"The last drill {'passed' if drill.passed else 'failed'} {age} days ago." if drill is not None else "No drill was ever held."
    sentence = f"{'; '.join(there)[:1].upper()}{'; '.join(there)[1:]}. {said}"
    figures = (
        Figure("budgets_hard", len(held.hard), "count", "budgets that stop"), Figure("budgets_soft", held.soft, "count", "that only warn"),
        Figure("stopped", stops.stopped, "count", "incidents that stopped something"),
        Figure("warned", stops.warned, "count", "that warned"),
        Figure("loops", stops.loops, "usd", "went into loops"), Figure("beyond", stops.beyond, "usd", "went beyond 1.5 times a flow's p99"),
        Figure("drill_age", age, "days", "since the last drill"),
    )  # fmt: skip
    paste, action, commands = "", "nothing to do: look again when the drill is a month old", ()
    lines = [_limits(flow) for flow in talks.flows[: 2 * PROPOSED_MOST]
             if flow.name and flow.name not in held.tables and flow.conversations >= CONVERSATIONS_LEAST and not {flow.name, ""} & held.depth]  # fmt: skip
    if not limited:
        action = "limit tool calls and repeats per flow, from your own p99; then hold a drill"
        paste = "\n\n".join(lines[:PROPOSED_MOST])
        if not paste and not held.tables and table == Guard():
            paste = '[guard]\nmode = "warn"\ntool_calls_max = 25\nrepeats_max = 6'
        commands = ("bursar drill",)
    elif not fresh:
        action, commands = "hold a drill: a limit that was never seen to trip is a hope", ("bursar drill",)
    how = "limits and budgets as the policy has them; incidents and drills as the ledger has them"
    return Answer(6, "guard", QUESTIONS["guard"], verdict, sentence, figures, (), per.month(max(stops.loops, stops.beyond)), how, action,
                  paste, commands)  # fmt: skip


def _limits(flow: Flow) -> str:
    depth = max(flow.p99_depth * ROOM[0] // ROOM[1] + 1, 5)
    return (f'[guard.flow.{quote(flow.name)}]  # p99: {flow.p99_depth:,} tool calls in a turn\nmode = "warn"\n'
            f"tool_calls_max = {depth}\nrepeats_max = 6")  # fmt: skip
