"""Whether a try may go out: its price and worst case, guards, orders and budgets, the ladder, and the stop. Pure like the pipeline."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from .desk import CONTEXT_WINDOW, Caller, Desk, Left, Plan, Trial, Way
from .domain.call import (
    Answer,
    Asked,
    AskUsage,
    CapOutput,
    Edit,
    Fault,
    Headers,
    Incoming,
    Reading,
    UseModel,
    WindDown,
)
from .domain.entry import COLUMNS, Entry, Held, Settlement, Short
from .domain.entry import Hold as HoldRecord
from .domain.incident import Incident, Order
from .domain.labels import Labels
from .domain.price import Price
from .domain.shape import replace
from .domain.thread import Heard
from .domain.verdict import Refusal, refuse
from .effects import Book, Effect, Hold, Reply
from .rules import budget, estimate, guard, record
from .rules import price as pricing
from .rules.guard import Verdict
from .wire import Dialect, wind_down


def ordered_stop(
    call: Incoming, desk: Desk, caller: Caller, labels: Labels, story: record.Story, model: str, provider: str = ""
) -> Order | None:
    """The order that stops this call."""
    placed = story.placed

    def fact(name: str) -> str:
        match name:
            case "key":
                return caller.key
            case "model":
                return model
            case "provider":
                return provider or call.provider
            case "tool":
                return "\n".join(placed.pairs.names[-placed.fresh_pairs :]) if placed is not None and placed.fresh_pairs else ""
            case "conversation":
                return f"{labels.conversation}\n{placed.top}" if placed is not None else labels.conversation
            case _:
                return labels.get(name)

    return desk.orders.stop(fact, call.ts_us)


class Ordered:
    """Whether a stream under way is to end."""

    __slots__ = ("_what",)

    def __init__(self, *what: Any) -> None:
        self._what = what

    def __call__(self) -> bool:
        call, desk, caller, labels, story, trial = self._what
        return ordered_stop(call, desk, caller, labels, story, trial.model, trial.provider.name) is not None


# The columns of a row that count its tokens, input first and reasoning last.
USED = slice(COLUMNS.index("input"), COLUMNS.index("reasoning") + 1)


def heard(story: record.Story, settled: Settlement, reading: Reading | None, stopped: bool = False) -> Heard | None:
    """What became of the request, for the conversation that it belongs to."""
    placed = story.placed
    if placed is None:
        return None
    entry = settled.entry
    outcome, why = record.outcome(entry, reading)
    reply = reading.reply if reading is not None else None
    return Heard(
        placed, outcome, why, reply, entry.response_id, entry.dialect == "openai_responses", entry.ts, sum(filter(None, entry[USED])),
        (entry.cost or 0) // 1000, stopped,
    )  # fmt: skip


def _scopes(desk: Desk, caller: Caller, labels: Labels, story: record.Story, trial: Trial, model: str) -> budget.Scopes:
    """The budgets of a try that is billed on that model."""
    budgets, placed = desk.budgets, story.placed
    if not budgets.rules:
        return budget.NO_SCOPES
    if budgets.of_labels is not None:
        scopes = budgets.of(budgets.of_labels(labels))
    else:
        own = {"key": caller.key, "model": model, "provider": trial.provider.name, "fallback": trial.line}
        if labels.conversation:
            top = placed.top if placed is not None else labels.conversation
            own["conversation"] = budget.whose(labels.tenant, caller.key, top)
        scopes = budgets.of(tuple([own[name] if name in own else labels.get(name) for name in budgets.names]))
    return budget.unsure(scopes) if placed is not None and placed.ambiguous else scopes


def plan_of(
    call: Incoming, desk: Desk, caller: Caller, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, trial: Trial,
    ts_us: int, ratio: estimate.Ratio,
) -> Plan | Refusal | Verdict:  # fmt: skip
    """The price of the model that will really be billed, the worst this try can cost, and what it must fit under. A Verdict: it is
    too large by itself."""
    provider, model = trial.provider, trial.model
    if caller.models and model and model not in caller.models:
        return refuse("model_not_allowed", f"key {caller.key!r} may not use {model!r}", f"use one of {', '.join(caller.models)}")

    if model.startswith("bursar/"):  # no tier has taken the name's place: no provider has such a model
        return refuse(
            "unknown_tier", f"{model!r} names a tier, and no model of [tiers] answers to it at {provider.name}",
            'write [tiers] with cheap, standard and premium, each a model (or a list with one for each dialect); "bursar/auto" is '
            "answered by standard unless a rule, a router or a classifier says otherwise",
        )  # fmt: skip

    placed = story.placed
    scopes = _scopes(desk, caller, labels, story, trial, model)
    history = asked.history
    fresh = history.fresh_results if history is not None and trial.kind == "first" and (placed is None or placed.again is None) else 0
    if dialect.name == "passthrough" and not model:
        return Plan(0, budget.charges(scopes, ts_us, 0, 0, 0), None, (), estimate.START, scopes)

    price = desk.prices.find(provider.prices, model, ts_us, asked.service_tier, asked.batch)
    if price is None:
        if scopes.hard_money:
            return refuse(
                "unpriced_model", f"no price is known for {provider.prices}/{model}, and budget {scopes.hard_money!r} is a hard one",
                f'add [[price]] model = "{model}" with input and output in dollars per million tokens, or free rates of "0"',
            )  # fmt: skip
        price = desk.prices.dearest(provider.prices, model)
    edits: list[Edit] = []
    if model != asked.model:
        edits.append(UseModel(model))
    if asked.stream and not asked.usage_asked and dialect.name == "openai_chat":
        edits.append(AskUsage())
    cap = 0 if asked.embedding else asked.output_cap
    if cap is None:
        known = price.output_max if price else 0
        if scopes.capped and dialect.name != "passthrough":
            cap = known or desk.output_cap
            edits.append(CapOutput(cap))
        else:
            cap = known or desk.output_assumed
    bound = estimate.bound(len(call.body)) if scopes.hard else estimate.input_tokens(len(call.body), ratio)
    if asked.unbounded_input:
        bound = max((price.context_window if price else 0) or CONTEXT_WINDOW, bound)
    worst = pricing.worst(price, bound, cap, asked.choices, cache_1h=asked.cache_1h) if price else 0
    tokens = bound + cap * asked.choices
    large = budget.too_large(scopes, worst, tokens, fresh)
    if large is not None:
        rule, amount = large
        return Verdict(guard.STOPPED, budget.alone(rule, amount), rule.name, amount, rule.limit.amount, rule.limit.unit)
    taken = budget.charges(scopes, ts_us, worst, tokens, fresh)
    most = cap * asked.choices * estimate.MOST if scopes.capped else 0
    return Plan(worst, taken, price, tuple(edits), ratio, scopes, fresh, 0, most)


def admit(
    call: Incoming, desk: Desk, caller: Caller, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, trial: Trial,
    plan: Plan, entry: Entry,
) -> Generator[Effect, Any, tuple[Trial, Plan, HoldRecord, Headers, Left] | None]:  # fmt: skip
    """Guards and budgets: the try as it may go out, with its hold and the header that says what a guard did; None when the client
    has its answer already."""
    guards, verdict, placed = desk.guards, story.verdict if trial.kind == "first" else None, story.placed
    scopes, charges = plan.scopes, plan.charges
    closes = guards.wind_down or scopes.winds_down
    whose, can_end = "", False
    if closes or verdict is not None:
        whose = budget.whose(labels.tenant, caller.key, placed.top if placed is not None else labels.conversation)
        can_end = bool(closes and whose and dialect.name in wind_down.DIALECTS and not wind_down.demands_tool(dialect.name, call.body))
    if can_end:
        charges = (*charges, budget.wound_down(whose, desk.orders.lives.get(placed.top, 1) if placed is not None else 1, entry.ts))
    stops = verdict is not None and verdict.act == guard.STOPPED
    if verdict is not None and stops and not (can_end and guards.wind_down and verdict.limit != "order"):
        yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, whose, plan.worst)
        return None

    hold = HoldRecord(entry.id, entry.ts, plan.worst, charges, entry)
    held = yield Hold(hold)
    left = held.left if isinstance(held, Held) else None
    if verdict is None and (held is None or (isinstance(held, Held) and not held.at)):
        return trial, plan, hold, [], left
    whose = whose or budget.whose(labels.tenant, caller.key, placed.top if placed is not None else labels.conversation)
    ends = False
    if isinstance(held, Short):
        scope = next(scope for scope in scopes.all if scope.counter == held.charge.counter)
        small = _smaller(asked, plan, call, entry.ts) if can_end and budget.WIND_DOWN in dict(scope.rule.ladder) else None
        if small is not None:
            # What is left of the budget may do for a turn in which the agent only says where it stands.
            plan, short = small, held
            hold = HoldRecord(entry.id, entry.ts, plan.worst, (*plan.charges, charges[-1]), entry._replace(hold=plan.worst))
            held = yield Hold(hold)
            if isinstance(held, Short) or (isinstance(held, Held) and any(at == len(scopes.all) for at, _ in held.at)):
                if not isinstance(held, Short):
                    hold = replace(hold, entry=entry)
                    yield from _short(call, desk, dialect, asked, labels, story, entry, short, scope, whose, plan.worst, hold)
                    return None
            else:
                ends = True
        if isinstance(held, Short) and scope.rule.code == budget.CEILING and trial.failed is not None:
            refused = record.refused(entry, budget.short(held, budget.CEILING), record.evidence(story, story.cause))
            yield Book(refused, None, heard(story, refused, None))
            yield Reply(trial.failed)
            return None
        if isinstance(held, Short):
            yield from _short(call, desk, dialect, asked, labels, story, entry, held, scope, whose, plan.worst, None)
            return None
    if isinstance(held, Fault):
        if scopes.closed or held.kind == "spool_full":
            yield Reply(no(dialect, call, _unverifiable(held, scopes.closed)))
            return None
        hold = replace(hold, entry=hold.entry._replace(flags="fault_open"))
        held = None

    left = held.left if isinstance(held, Held) else None  # of the hold that stands now
    if verdict is None and (held is None or not held.at):
        return trial, plan, hold, [], left
    log = _Log(call, labels, whose, entry)
    header: bytes = b""
    had_last = isinstance(held, Held) and any(at == len(scopes.all) for at, _ in held.at)
    if isinstance(held, Held):
        for at, standing in held.at:
            if at < len(scopes.all):
                scope = scopes.all[at]
                rungs = scope.rungs(standing)
                if budget.WIND_DOWN in rungs and can_end and not ends:
                    if had_last:
                        refusal = budget.passed(scope, standing)
                        over = Verdict(guard.STOPPED, refusal, scope.rule.name, standing, scope.limit, scope.rule.limit.unit)
                        yield from _stop(call, desk, dialect, asked, labels, story, entry, over, whose, plan.worst, hold, scope)
                        return None
                    ends = True
                took = guard.WARNED
                if budget.CHEAPER in rungs:
                    before = trial
                    trial, plan, hold = _cheaper(desk, caller, labels, story, trial, plan, hold, asked)
                    took = budget.CHEAPER if trial is not before else took
                if budget.COMPACT in rungs:
                    plan, took = replace(plan, compact=True), "compacted"
                if budget.WIND_DOWN in rungs and ends:
                    took = "wound_down"
                if rungs:
                    log.rung(took, scope, standing)
                    header = b"warned:" + scope.rule.code.encode()
    if verdict is not None and stops and not ends:
        if had_last:
            yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, whose, plan.worst, hold)
            return None
        ends = True
    if verdict is not None:
        log.judged(verdict, "wound_down" if stops else guard.WARNED)
        header = b"warned:" + verdict.refusal.code.encode()
    if ends:
        edit = WindDown(guard.WIND_DOWN_TEXT)
        plan = replace(plan, edits=(*plan.edits, edit), wound=1)
        hold = replace(hold, entry=hold.entry._replace(flags=f"{hold.entry.flags} wind_down".strip()))
        header = b"wind_down"
    if log.incidents:
        plan = replace(plan, incidents=tuple(log.incidents))
    return trial, plan, hold, [(b"x-bursar-verdict", header)] if header else [], left


class _Log:
    """The incidents of one try."""

    def __init__(self, call: Incoming, labels: Labels, whose: str, entry: Entry) -> None:
        self.incidents: list[Incident] = []
        self._what = {"ts_us": call.ts_us, "call": call.call_id, "model": entry.model_served, "whose": whose}
        self._labels = labels

    def rung(self, act: str, scope: budget.Scope, standing: int) -> None:
        """What was done about a budget that stands so high."""
        rule = scope.rule
        unit = rule.limit.unit
        reason = f"budget {rule.name!r} stands at {budget.told(unit, standing)} of {budget.told(unit, scope.limit)}"
        refusal = refuse(rule.code, reason, "")
        self.incidents.append(
            guard.incident(act, refusal, self._labels, limit=rule.name, spent=standing, most=scope.limit, unit=unit,
                           counter=scope.counter, **self._what)  # pyright: ignore[reportArgumentType]
        )  # fmt: skip

    def judged(self, verdict: Verdict, act: str) -> None:
        self.incidents.append(
            guard.incident(act, verdict.refusal, self._labels, limit=verdict.limit, spent=verdict.spent, most=verdict.most,
                           unit=verdict.unit, evidence=verdict.evidence, **self._what)  # pyright: ignore[reportArgumentType]
        )  # fmt: skip


WIND_DOWN_CAP = 600  # output tokens of a turn in which the agent says where it stands


def _smaller(asked: Asked, plan: Plan, call: Incoming, ts_us: int) -> Plan | None:
    """The same try with a small answer; None where its answer was small already."""
    if (asked.output_cap is not None and asked.output_cap <= WIND_DOWN_CAP) or asked.unbounded_input:
        return None
    bound = estimate.bound(len(call.body))
    worst = pricing.worst(plan.price, bound, WIND_DOWN_CAP, asked.choices, cache_1h=asked.cache_1h) if plan.price else 0
    edits = (*[edit for edit in plan.edits if not isinstance(edit, CapOutput)], CapOutput(WIND_DOWN_CAP))
    taken = budget.charges(plan.scopes, ts_us, worst, bound + WIND_DOWN_CAP * asked.choices, plan.tool_calls)
    return replace(plan, worst=worst, charges=taken, edits=edits)


def _cheaper(
    desk: Desk, caller: Caller, labels: Labels, story: record.Story, trial: Trial, plan: Plan, hold: HoldRecord, asked: Asked
) -> tuple[Trial, Plan, HoldRecord]:  # fmt: skip
    """The try on the dearest model of [tiers] that is cheaper than the one asked for. The hold stays: it is more than enough. So it
    must be the hold that this model needs: one with budgets of its own, which hold nothing yet, is passed over."""
    if plan.price is None:
        return trial, plan, hold
    now = pricing.worst(plan.price, 1_000, 1_000, 1)
    best: tuple[int, str, Price] | None = None
    held = [scope.counter for scope in plan.scopes.all]
    for model in desk.tiers:
        scopes = _scopes(desk, caller, labels, story, trial, model)
        if (caller.models and model not in caller.models) or scopes.alone != plan.scopes.alone:
            continue
        if [scope.at(hold.ts).counter for scope in scopes.all] != held:
            continue
        price = desk.prices.find(trial.provider.prices, model, hold.ts, asked.service_tier, asked.batch)
        cost = pricing.worst(price, 1_000, 1_000, 1) if price is not None else now
        if price is not None and cost < now and (best is None or cost > best[0]):
            best = (cost, model, price)
    if best is None:
        return trial, plan, hold
    _, model, price = best
    edits = (*[edit for edit in plan.edits if not isinstance(edit, UseModel)], UseModel(model))
    entry = hold.entry._replace(model_served=model, route_reason="guard:cheaper")
    return replace(trial, model=model), replace(plan, price=price, edits=edits), replace(hold, entry=entry)


def refuse_call(dialect: Dialect, call: Incoming, entry: Entry, refusal: Refusal, story: record.Story) -> Way:
    """A refusal leaves a row, so that what was refused can be counted."""
    stopped = record.refused(entry, refusal, record.evidence(story, story.cause))
    yield Book(stopped, None, heard(story, stopped, None))
    yield Reply(no(dialect, call, refusal))


def _short(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, entry: Entry, held: Short,
    scope: budget.Scope, whose: str, worst: int, hold: HoldRecord | None,
) -> Way:  # fmt: skip
    charge, code = held.charge, scope.rule.code
    verdict = Verdict(guard.STOPPED, budget.short(held, code), charge.budget, held.spent, charge.limit or 0, charge.unit)
    yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, whose, worst, hold, scope)


def refuse_large(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, entry: Entry, verdict: Verdict
) -> Way:  # fmt: skip
    """A call that is too large by itself: always an error, for the next one may be smaller."""
    yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, labels.tenant, 0, error=True)


def _stop(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, entry: Entry, verdict: Verdict,
    whose: str, worst: int, hold: HoldRecord | None = None, scope: budget.Scope | None = None, error: bool = False,
) -> Way:  # fmt: skip
    """The end: a reply in the client's own dialect, or an error where a reply would feed the loop or break the client; the row
    and the incident. `hold`: was taken already, and is given back."""
    placed, refusal = story.placed, verdict.refusal
    wanted = scope.rule.reply if scope is not None else desk.guards.reply
    reply = (
        wanted and not error and placed is not None and placed.stops < guard.REPLIES_MAX and dialect.name in wind_down.DIALECTS
        and not asked.json_demanded and not wind_down.demands_tool(dialect.name, call.body)
    )  # fmt: skip
    stopped = record.refused(entry, refusal, record.evidence(story, story.cause))
    reading = None
    if reply:
        stopped = replace(stopped, entry=stopped.entry._replace(http_status=200, flags="reply"))
        reading = dialect.whole(200, dialect.say(desk.guards.text, replace(asked, stream=False), asked.model, call.call_id)[1])
    if hold is not None:
        stopped = replace(stopped, charges=hold.charges, actual=(0,) * len(hold.charges))
    incident = guard.incident(
        guard.STOPPED if reply else "refused", refusal, labels, ts_us=call.ts_us, call=call.call_id, model=entry.model_served,
        whose=whose, limit=verdict.limit, spent=verdict.spent, most=verdict.most, unit=verdict.unit, kept=worst,
        evidence=verdict.evidence, counter=scope.counter if scope is not None else "",
    )  # fmt: skip
    if desk.content_us and incident.state:
        from .wire import transcript  # loaded where it is wanted

        said = json.dumps(transcript.last(dialect.name, call.body), ensure_ascii=False)
        incident = replace(incident, said=said, said_until=call.ts_us + desk.content_us)
    stopped = replace(stopped, incidents=(incident,))
    yield Book(stopped, None, heard(story, stopped, reading, reply))
    yield Reply(_said(dialect, call, asked, desk, refusal) if reply else no(dialect, call, refusal))


def _said(dialect: Dialect, call: Incoming, asked: Asked, desk: Desk, refusal: Refusal) -> Answer:
    """A stop as a reply: what the model would have said, in the form the client asked for."""
    array = dialect.name == "gemini_generate" and asked.stream and "alt=sse" not in call.query
    headers, body = dialect.say(desk.guards.text, replace(asked, stream=False) if array else asked, asked.model, call.call_id)
    if array:
        body = b"[" + body + b"]"
    stamped = [*headers, (b"x-bursar-call", call.call_id.encode()), (b"x-bursar-verdict", b"stopped:" + refusal.code.encode())]
    return Answer(200, stamped, body)


def _unverifiable(fault: Fault, closed: str) -> Refusal:
    if closed:
        return refuse(
            "budget_unverifiable", f"the ledger cannot say whether budget {closed!r} has room: {fault.detail}",
            'repair the ledger (`bursar doctor`); on_fault = "open" on the budget lets calls through meanwhile', 5,
        )  # fmt: skip
    return refuse("ledger_unavailable", f"the ledger takes no more rows: {fault.detail}", "repair the ledger (`bursar doctor`)", 5)


def no(dialect: Dialect, call: Incoming, refusal: Refusal) -> Answer:
    """A refusal in the provider's own shape."""
    headers, body = dialect.refuse(refusal)
    stamped = [
        *headers,
        (b"x-bursar-call", call.call_id.encode()),
        (b"x-bursar-verdict", b"refused:" + refusal.code.encode()),
    ]
    return Answer(refusal.status, stamped, body)
