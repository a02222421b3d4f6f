"""When a conversation has had enough: tool calls, turns, dollars, tokens, loops, and what people ordered. Judges, stops nobody itself.

Counts are the larger of what the request shows and what was booked (domain/thread.py). Where nobody can tell whose conversation it
is, only what the request itself shows counts. Limits of dollars and tokens that somebody wrote are budgets, exact in all processes;
those that nobody wrote only warn, from what this process has booked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC

from ..domain.history import Pairs
from ..domain.incident import Incident, Order
from ..domain.labels import Labels
from ..domain.money import show
from ..domain.policy import FlowGuard, Guard
from ..domain.shape import Shape, replace
from ..domain.thread import Placed
from ..domain.verdict import Refusal, refuse
from . import loop
from .budget import WARN, WIND_DOWN, BudgetRule, Window, parse_limit

# What nobody limited warns from here on. Of 226 solved recorded runs (customer service, single coding agents) none had more than 26
# tool calls after one human message or 14 human messages, and none cost more than $1.85. Teams of coding agents go far beyond (341
# tool calls at their 99th percentile): such flows need limits of their own.
TOOL_CALLS, TURNS, TOKENS, COST = 26, 20, 5_000_000, 5 * 10**9  # nano-dollars

STOPPED, WARNED = "stopped", "warned"
WIND_DOWN_TEXT = (
    "[The limit of this conversation is reached and no tool can be called any more. Say in a few sentences what was done, what is "
    "still open, and that a person will go on from here.]"
)
REPLIES_MAX = 2  # stopped replies in one conversation; the next stop is an error, for this client does not read them


class Bounds(Shape, frozen=True, gc=False):
    """The limits of one flow. `stops`: names of those that stop; the others warn."""

    judged: bool
    tool_calls: int
    turns: int
    loops: loop.Limits
    stops: frozenset[str]
    totals: bool  # dollars and tokens are nobody's budget, and warn


class Verdict(Shape, frozen=True, gc=False):
    """What a guard thinks of a call: `stopped` or `warned`, why, and what the incident says."""

    act: str
    refusal: Refusal
    limit: str  # which: tool_calls_max, turns_max, repeats_max, tokens_max, cost_max, order
    spent: int = 0
    most: int = 0
    unit: str = ""
    evidence: Mapping[str, object] = {}


class Guards:
    """The `[guard]` table made ready."""

    def __init__(self, table: Guard | None = None) -> None:
        table = table or Guard()
        self.wind_down, self.reply, self.text = table.wind_down, table.stop == "reply", table.reply
        self._own = _bounds(table, table.mode)
        self._flows = {name: _bounds(_over(table, flow), flow.mode or table.mode) for name, flow in table.flow.items()}

    def of(self, flow: str) -> Bounds:
        return self._flows.get(flow, self._own)


def _over(table: Guard, flow: FlowGuard) -> Guard:
    """A flow's own limits over those of all flows."""
    return replace(
        table, tool_calls_max=flow.tool_calls_max or table.tool_calls_max, turns_max=flow.turns_max or table.turns_max,
        tokens_max=flow.tokens_max or table.tokens_max, cost_max=flow.cost_max or table.cost_max,
        repeats_max=flow.repeats_max or table.repeats_max,
    )  # fmt: skip


def _bounds(table: Guard, mode: str) -> Bounds:
    written = {name for name in ("tool_calls_max", "turns_max", "repeats_max") if getattr(table, name)}
    if mode == "on":
        written = {"tool_calls_max", "turns_max", "repeats_max"}
    loops = loop.STOP
    if table.repeats_max:
        loops = loop.STOP.scaled(max(table.repeats_max * 100 // loop.STOP.same, 34))
        loops = replace(loops, same=table.repeats_max)
    return Bounds(
        mode != "off", table.tool_calls_max or TOOL_CALLS, table.turns_max or TURNS, loops,
        frozenset(() if mode == "warn" else written), not (table.tokens_max or table.cost_max),
    )  # fmt: skip


def budgets(table: Guard) -> list[BudgetRule]:
    """The limits of dollars and tokens per conversation as budgets. ValueError where one is no limit."""
    found: list[BudgetRule] = []
    for name in ("tokens_max", "cost_max"):
        own = tuple([flow for flow, limits in table.flow.items() if getattr(limits, name) or limits.mode == "off"])
        lines = [(f"guard.{name}", getattr(table, name), table.mode, (), own)]
        lines += [
            (f"guard.flow.{flow}.{name}", getattr(limits, name), limits.mode or table.mode, (("flow", flow),), ())
            for flow, limits in table.flow.items()
        ]  # fmt: skip
        for label, text, mode, wants, flows_not in lines:
            if text and mode != "off":
                found.append(_budget(table, label, text, mode, wants, flows_not))
    return found


def _budget(
    table: Guard, name: str, text: str, mode: str, wants: tuple[tuple[str, str | None], ...], flows_not: tuple[str, ...]
) -> BudgetRule:  # fmt: skip
    unit = "usd" if name.endswith("cost_max") else "tokens"
    try:
        limit = parse_limit(text if text.startswith("$") or " " in text.strip() else f"{text} {unit}")
        if limit.unit != unit:
            raise ValueError(f"{text!r} is not in {unit}")
    except ValueError as bad:
        raise ValueError(f"{name}: {bad}") from None
    hard = mode != "warn"
    ladder = ((WARN, 80), (WIND_DOWN, 95)) if table.wind_down and hard else ((WARN, 80 if hard else 100),)
    return BudgetRule(
        name, (("conversation", None), *wants), limit, Window("conversation", UTC), hard, False, ladder,
        table.stop == "reply", "conversation_budget_exceeded", flows_not,
    )  # fmt: skip


def judge(
    guards: Guards, labels: Labels, placed: Placed, lives: int, polls: Mapping[str, int]
) -> tuple[Verdict | None, loop.Finding | None, bool]:
    """What to do about a call, the loop it is part of (if only for the row), and whether that loop is one that should be stopped."""
    bounds = guards.of(labels.flow)
    turns, depth, fresh, doubt = placed.turns, placed.depth, placed.fresh_pairs, placed.ambiguous
    if doubt:
        history = placed.ask.history
        turns, depth, fresh = history.end.turns, history.end.depth, history.fresh_pairs
    finding, stop = None, False
    if fresh:
        finding, stop = _loop(placed.ask.history.pairs if doubt else placed.pairs, fresh, bounds.loops, polls)
    if not bounds.judged:
        return None, finding, stop
    most = bounds.tool_calls * lives
    if depth > most:
        spent = (depth, most, "tool_calls")
        return _verdict(bounds, "tool_calls_max", "tool_depth_exceeded", f"{depth} tool calls since the last human message, of {most}",
                        spent), finding, stop  # fmt: skip
    most = bounds.turns * lives
    if turns > most:
        return _verdict(bounds, "turns_max", "conversation_budget_exceeded", f"{turns} human turns, of {most}",
                        (turns, most, "turns")), finding, stop  # fmt: skip
    if finding is not None and stop and not placed.free:
        seen = {"rule": finding.rule, "tools": finding.tools, "times": finding.times, "last": placed.ask.history.preview}
        verdict = _verdict(bounds, "repeats_max", "runaway_loop", finding.words(), (finding.times, bounds.loops.same, "repeats"))
        return replace(verdict, evidence=seen), finding, stop
    if bounds.totals and not doubt:
        if placed.cost > COST * lives:
            return _verdict(bounds, "cost_max", "conversation_budget_exceeded", f"{show(placed.cost * 1000)} in this conversation",
                            (placed.cost, COST * lives, "usd")), finding, stop  # fmt: skip
        if placed.tokens > TOKENS * lives:
            return _verdict(bounds, "tokens_max", "conversation_budget_exceeded", f"{placed.tokens:,} tokens in this conversation",
                            (placed.tokens, TOKENS * lives, "tokens")), finding, stop  # fmt: skip
    return None, finding, stop


def _loop(pairs: Pairs, fresh: int, limits: loop.Limits, polls: Mapping[str, int]) -> tuple[loop.Finding | None, bool]:
    finding = loop.look(pairs, fresh, limits, polls)
    return (finding, True) if finding is not None else (loop.look(pairs, fresh, loop.WARN, polls), False)


def _verdict(bounds: Bounds, limit: str, code: str, reason: str, spent: tuple[int, int, str]) -> Verdict:
    remedy = "a person can let it go on with `bursar guard resume`; the limit is guard." + limit + " in the policy file"
    return Verdict(STOPPED if limit in bounds.stops else WARNED, refuse(code, reason, remedy), limit, *spent)


def ordered(order: Order) -> Verdict:
    """A stop that a person ordered."""
    by = f" by {order.by}" if order.by else ""
    what = ", ".join(f"{name}={value}" for name, value in order.match)
    reason = f"{what} was stopped{by}{': ' + order.reason if order.reason else ''}"
    refusal = refuse("stopped_by_order", reason, "`bursar guard resume` lets it go on")
    return Verdict(STOPPED, refusal, "order", evidence={"order": order.n})


def incident(
    act: str, refusal: Refusal, labels: Labels, *, ts_us: int, call: str, model: str, whose: str, limit: str = "", spent: int = 0,
    most: int = 0, unit: str = "", kept: int = 0, evidence: Mapping[str, object] | None = None, counter: str = "",
) -> Incident:  # fmt: skip
    """What is logged of a guard's act. One per limit and conversation (or per counter, which has its window in its name)."""
    return Incident(
        "|".join((refusal.code, limit, counter or whose)), ts_us, act, refusal.code, refusal.reason, limit, labels.tenant,
        labels.feature, labels.flow, labels.user, labels.conversation, call, model, spent, most, unit, kept,
        json.dumps(evidence or {}, separators=(",", ":")), "open" if act in (STOPPED, "refused") else "",
    )  # fmt: skip
