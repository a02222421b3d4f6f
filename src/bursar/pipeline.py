"""The way of one call, as a generator: the only file that knows the order of the stages. No I/O, no clock: it yields effects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from .controls import Again, Aid, Controls, Summing
from .domain.call import (
    Answer,
    Asked,
    AskUsage,
    CapOutput,
    Edit,
    Ended,
    Fault,
    Head,
    Headers,
    Incoming,
    Malformed,
    Reading,
    UseModel,
    WindDown,
)
from .domain.entry import Charge, Entry, Passed, Settlement, Short
from .domain.entry import Hold as HoldRecord
from .domain.incident import Incident, Order
from .domain.labels import Labels
from .domain.policy import Fallback
from .domain.price import Price
from .domain.shape import Shape, replace
from .domain.thread import Ask, Heard, Placed
from .domain.usage import Known, Tokens
from .domain.verdict import Refusal, refuse
from .effects import Book, Effect, Finish, Follow, Gather, Hold, Recall, Relay, Reply, Sample, Send, Wait
from .rules import budget, cause, estimate, guard, record, retry, tools
from .rules import price as pricing
from .rules import thread as threads
from .rules.attribute import attribute
from .rules.budget import Budgets
from .rules.guard import Guards, Verdict
from .rules.order import Orders
from .rules.tools import ToolPrices
from .wire import Dialect, Route, encoding, wind_down
from .wire import headers as lines
from .wire.history import BUILT_IN, Signs
from .wire.opening import request_hash
from .wire.recording import Recording


class Prices(Protocol):
    """What the pipeline needs of a price book."""

    def find(self, provider: str, model: str, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None: ...
    def dearest(self, provider: str, model: str = "") -> Price | None: ...


class ProviderRule(Shape, frozen=True, gc=False):
    """A provider as the pipeline sees it: no address and no secret, those stay at the edge."""

    name: str
    family: str  # openai | anthropic | gemini | ""
    prices: str  # whose prices apply
    retries: int = 0
    own_key: bool = False  # the edge puts the operator's key on; the caller's is not sent


class Caller(Shape, frozen=True, gc=False):
    """Who asks, as the edge has established it."""

    key: str = ""
    bound: Mapping[str, str] = {}
    models: tuple[str, ...] = ()
    context: Mapping[str, str] = {}
    ci: str = ""  # the build service whose environment the caller's process runs in
    tools: Mapping[str, int] = {}  # what its own tools cost, pico-dollars a call
    failed: tuple[str, ...] = ()  # … those that have failed since its last call
    kept: tuple[str, ...] = ()  # … and one for each result it had kept
    proxy: bool = True  # a gateway drops cookies and forwarding headers; inside the caller's process nothing is foreign


class Desk(Shape, frozen=True, gc=False):
    """What lies ready when a call comes in: an immutable snapshot, swapped whole on reload."""

    providers: Mapping[str, ProviderRule]
    defaults: Mapping[str, str]  # family -> provider for paths that name none
    budgets: Budgets
    fallbacks: tuple[Fallback, ...]
    labels: Mapping[str, str]
    prices: Prices
    resolve: Callable[[str, str], Route]
    output_cap: int
    output_assumed: int
    gather_max: int
    policy_hash: str
    node: str
    signs: Signs = BUILT_IN  # of failures, the operator's own among them
    tiers: tuple[str, ...] = ()  # models of [tiers]
    controls: Controls | None = None  # reply cache, tiers, compaction
    polls: Mapping[str, int] = {}  # tools that are polled -> how often one may say the same in a row
    tools: ToolPrices = tools.NONE
    guards: Guards = Guards()
    orders: Orders = Orders()  # changed in place, when somebody orders something


Way = Generator[Effect, Any, None]

# Tokens assumed for input that bytes cannot bound, where the book does not know the model's window.
CONTEXT_WINDOW = 200_000


class _Trial(Shape, frozen=True, gc=False):
    """The next try: whom to ask for which model, and why it is not the first."""

    provider: ProviderRule
    model: str
    kind: str = "first"
    cause: str = ""
    retries: int = 0
    seen: tuple[tuple[str, str], ...] = ()
    line: str = ""  # the model that this is the fallback from
    failed: Answer | None = None  # what the client gets when this try would pass its ceiling


class _Plan(Shape, frozen=True, gc=False):
    worst: int  # pico-dollars
    charges: tuple[Charge, ...]
    price: Price | None
    edits: tuple[Edit, ...]
    ratio: estimate.Ratio
    scopes: budget.Scopes  # in the order of the charges
    tool_calls: int = 0  # new results of tools
    wound: int = 0  # 1: the agent is told to end
    compact: bool = False  # a ladder asks for a shorter history
    incidents: tuple[Incident, ...] = ()


def way(call: Incoming, caller: Caller, desk: Desk) -> Way:
    """One call from its bytes to its rows. Ends with Reply, or with Finish where bytes were relayed."""
    route = desk.resolve(call.method, call.path)
    dialect = route.dialect
    provider = desk.providers.get(call.provider or route.provider or desk.defaults.get(route.family, ""))
    if provider is None:
        known = ", ".join(sorted(desk.providers))
        refusal = refuse("unknown_provider", f"no provider for {call.method} {call.path}", f"begin the path with one of: {known}")
        yield Reply(_no(dialect, call, refusal))
        return
    asked = dialect.read(route.path, call.body, desk.signs)
    if isinstance(asked, Malformed):
        yield Reply(_no(dialect, call, refuse("malformed_json", asked.reason, "send the JSON body that this path documents")))
        return

    labels = attribute(call.headers, asked, caller.bound, caller.context, desk.labels)
    fingerprint = asked.hash or request_hash(call.body)
    story, labels = yield from _know(call, desk, caller, asked, labels, fingerprint, provider.name)
    trial: _Trial | None = _Trial(provider, asked.model)
    aid: Aid | None = None
    if desk.controls is not None:
        aid = Aid(
            desk.controls, call, caller.key, caller.models, dialect, route.path, desk.providers, provider, desk.prices, asked, labels,
            story.placed,
        )  # fmt: skip
        if story.verdict is None or story.verdict.act != guard.STOPPED:
            again = yield from aid.look()
            if again is not None:
                opened = record.opened(
                    call, caller.key, dialect.name, asked, labels, story, fingerprint, desk.policy_hash, desk.node,
                    provider=provider.name, hold=0,
                )  # fmt: skip
                yield from _tools(desk, caller, story, opened, budget.NO_SCOPES)
                yield from _again(opened, again, story)
                return
            call = call if aid.body is call.body else replace(call, body=aid.body)
        name, model = yield from aid.route()
        trial = _Trial(desk.providers[name], model)
    first: Entry | None = None
    answer = Answer(500, [], b"")
    tries = elapsed_us = 0
    while trial is not None:
        tries += 1
        plan = yield from _plan(call, desk, caller, dialect, asked, labels, story, trial, call.ts_us + elapsed_us)
        worst = 0 if isinstance(plan, Refusal) else plan.worst
        if first is None:
            first = entry = record.opened(
                call, caller.key, dialect.name, asked, labels, story, fingerprint, desk.policy_hash, desk.node,
                provider=trial.provider.name, hold=worst,
            )  # fmt: skip
            yield from _tools(desk, caller, story, entry, budget.NO_SCOPES if isinstance(plan, Refusal) else plan.scopes)
            if aid is not None and aid.why:
                first = entry = entry._replace(tier=aid.tier, route_reason=aid.why, model_served=trial.model)
        else:
            entry = first._replace(
                id=f"{call.call_id}.{tries}", ts=call.ts_us + elapsed_us, try_no=tries, attempt_kind=trial.kind,
                operation=trial.kind, cause=trial.cause, provider=trial.provider.name, model_served=trial.model, hold=worst,
            )  # fmt: skip
        if isinstance(plan, Refusal):
            yield from _refuse(dialect, call, entry, plan, story)
            return
        admitted = yield from _admit(call, desk, caller, dialect, asked, labels, story, trial, plan, entry)
        if admitted is None:
            return
        trial, plan, hold, verdict = admitted

        body = call.body
        if aid is not None:
            body = yield from aid.shorten(plan.price, plan.compact)
        path, body = dialect.edit(route.path, body, asked, plan.edits)
        target = f"{path}?{call.query}" if call.query else path
        head: Head | Fault = yield Send(
            hold.id, trial.provider.name, call.method, target,
            lines.upstream(call.headers, caller.proxy, trial.provider.own_key, asked.stream), body,
        )  # fmt: skip
        if isinstance(head, Fault):
            lost = replace(record.no_answer(hold, head, record.evidence(story, story.cause)), incidents=plan.incidents)
            yield Book(lost, None, _heard(story, lost, None))
            elapsed_us = head.sent_us + head.elapsed_us
            answer = _no(dialect, call, record.fault_refusal(trial.provider.name, head))
            trial, pause = _next(trial, retry.fault_failure(head.kind, head.sent), desk)
        else:
            reply_headers = lines.downstream(head.headers, caller.proxy) + record.stamp(hold.entry, tries) + verdict
            if aid is not None:
                reply_headers = record.cached(reply_headers, aid.cache)
            if head.status < 400 and lines.streams(head.headers, asked.stream, dialect.name):
                ordered = _Ordered(call, desk, caller, labels, story, trial)
                yield from _relay(call, desk, dialect, asked, story, trial, plan, hold, head, reply_headers, len(body), ordered, aid)
                if aid is not None and (summing := aid.summing()) is not None:
                    yield from _summarise(call, caller, desk, labels, aid, summing)
                return
            ended: Ended = yield Gather(head, desk.gather_max, reply_headers)
            reading = _read_whole(dialect, asked, head, ended, desk.gather_max)
            failure = (
                retry.fault_failure(ended.fault.kind, True) if ended.fault
                else retry.classify(head.status, head.headers, reading, (call.ts_us + head.sent_us) / 1_000_000)
            )  # fmt: skip
            if ended.fault is not None and not ended.relayed:
                fault = replace(ended.fault, elapsed_us=ended.elapsed_us)
                lost = record.no_answer(hold, fault, record.evidence(story, story.cause))
                settled, sample = replace(lost, incidents=plan.incidents), None
            else:
                settled, sample = _settle(
                    call, desk, asked, story, trial, plan, hold, head, ended, reading, len(body), dialect.name, aid
                )  # fmt: skip
            if failure is not None and failure.kind == "malformed":
                settled = replace(settled, entry=settled.entry._replace(status="error", error="malformed_output"))
            yield Book(settled, sample, _heard(story, settled, reading))
            merged: bytes | None = None
            if aid is not None:
                merged = yield from aid.keep(
                    settled, head.status, _plain(head, ended, desk.gather_max), False, reading, _own_reply(trial, plan, hold)
                )
                yield from aid.note(settled.entry, _tokens(settled.entry))
            if ended.relayed or ended.how == "client_gone":
                yield Finish(b"", ended.how == "complete")
                return
            elapsed_us = head.sent_us + ended.elapsed_us
            if ended.fault is not None:
                answer = _no(dialect, call, record.fault_refusal(trial.provider.name, ended.fault))
            elif aid is not None and aid.partial and head.status == 200 and merged is None:
                lost = Fault("protocol", "the answer does not hold the vectors that were asked for", True)
                answer = _no(dialect, call, record.fault_refusal(trial.provider.name, lost))
            elif merged is not None:
                kept = [line for line in reply_headers if line[0] != b"content-encoding"]
                answer = Answer(head.status, kept + record.price_tag(settled.entry), merged)
            else:
                answer = Answer(head.status, reply_headers + record.price_tag(settled.entry), ended.body)
            trial, pause = _next(trial, failure, desk) if failure is not None else (None, 0.0)
        if trial is not None and trial.line:
            trial = replace(trial, failed=answer)
        if pause:
            if not (yield Wait(pause)):
                return
            elapsed_us += int(pause * 1_000_000)
    yield Reply(answer)
    if aid is not None and (summing := aid.summing()) is not None:
        yield from _summarise(call, caller, desk, labels, aid, summing)


def _again(entry: Entry, again: Again, story: record.Story) -> Way:
    """A reply that was given before: a row that cost nothing and says what was saved, and the reply."""
    settled = record.again(entry, again.model, again.saved, again.reading, record.evidence(story, story.cause))
    yield Book(settled, None, _heard(story, settled, again.reading))
    stamped = record.cached(record.stamp(settled.entry, 0), b"hit")
    yield Reply(Answer(200, again.headers + stamped + record.price_tag(settled.entry), again.body))


def _summarise(call: Incoming, caller: Caller, desk: Desk, labels: Labels, aid: Aid, summing: Summing) -> Way:
    """A call of our own, after the client has its answer: held, priced and booked like any other, as `control`."""
    own = Incoming(
        f"{call.call_id}-summary", call.ts_us, "POST", summing.path, "", call.headers, summing.body, summing.provider, call.peer
    )
    bound = {name: labels.get(name) for name in ("tenant", "feature", "flow", "conversation", "user") if labels.get(name)}
    inner = way(own, replace(caller, bound={**bound, "operation": "control"}, models=()), replace(desk, controls=None))
    answer, paid, value = Answer(500, [], b""), 0, None
    while True:
        try:
            effect = inner.send(value)
        except StopIteration:
            break
        value = None
        if isinstance(effect, Reply):
            answer = effect.answer
        else:
            if isinstance(effect, Book):
                row = effect.settlement.entry._replace(saved_by="compaction")
                effect = replace(effect, settlement=replace(effect.settlement, entry=row))
                paid += row.cost or 0
            value = yield effect
    yield from aid.summarised(answer, paid)


def _own_reply(trial: _Trial, plan: _Plan, hold: HoldRecord) -> bool:
    """Whether the reply is the one that was asked for: not a fallback's, nor one that a guard has cut short or made cheaper."""
    return trial.kind != "fallback" and not plan.wound and not plan.compact and not hold.entry.route_reason.startswith("guard:")


def _tokens(entry: Entry) -> Tokens | None:
    """The usage of a row, where it has one."""
    if entry.input is None:
        return None
    return Tokens(
        entry.input, entry.cache_read or 0, entry.cache_write or 0, entry.cache_write_1h or 0, entry.output or 0, entry.reasoning or 0
    )


def _plain(head: Head, ended: Ended, limit: int) -> bytes | None:
    """A gathered body, decoded; None where there is none."""
    coding = lines.get(head.headers, b"content-encoding")
    if not ended.gathered or not coding:
        return ended.body if ended.gathered else None
    plain = encoding.decode(ended.body, coding.decode("ascii", "replace"), limit)
    return plain if isinstance(plain, bytes) else None


def _tools(desk: Desk, caller: Caller, story: record.Story, entry: Entry, scopes: budget.Scopes) -> Way:
    """What the tools cost whose results are new, booked before the model is asked: it was spent whatever becomes of the call."""
    for one in tools.used(desk.tools, caller.tools, story.placed, entry.ts, caller.kept):
        assert story.placed is not None
        made = tools.row(entry, one, story.placed)
        charges = tuple([c for c in budget.charges(scopes, entry.ts, made.cost or 0, 0, 0) if c.unit == "usd"])
        yield Book(Settlement(made.id, made, budget.actual(charges, made.cost or 0, 0, 0), charges))


def _know(
    call: Incoming, desk: Desk, caller: Caller, asked: Asked, labels: Labels, fingerprint: str, provider: str
) -> Generator[Effect, Any, tuple[record.Story, Labels]]:
    """What the messages tell: the conversation, why the call is made, and whether it goes round in circles."""
    placed: Placed | None = None
    verdict, finding, stop = None, None, False
    history = asked.history
    orders = desk.orders
    retries = lines.index(call.headers).get(b"x-stainless-retry-count", b"0")  # the SDKs number their hidden retries
    if history is not None and labels.operation != "control" and (history.end.messages or asked.previous or labels.conversation):
        scope = f"tenant {labels.tenant}" if labels.tenant else f"key {caller.key}"
        placed = yield Follow(
            Ask(
                scope, call.call_id, call.ts_us, history, labels.conversation, asked.previous, asked.model,
                int(fingerprint[:15] or "0", 16), retries != b"0",
            )
        )  # fmt: skip
        if not labels.conversation:
            labels = labels.inferred(placed.conversation)
        lives = orders.lives.get(placed.top, 1) if orders.lives else 1
        if lives > 1:
            placed = threads.resume(placed, lives)
        verdict, finding, stop = guard.judge(desk.guards, labels, placed, lives, desk.polls)
    why = cause.infer(retries, asked, labels, placed, caller.key, caller.ci, caller.failed)
    if stop and finding is not None and placed is not None:
        why = cause.looped(why, finding, placed.pairs)
    story = record.Story(placed, why, finding, stop, verdict)
    if orders.stops:
        order = _order(call, desk, caller, labels, story, asked.model, provider)
        if order is not None:
            story = replace(story, verdict=guard.ordered(order))
    return story, labels


def _order(
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


class _Ordered:
    """Whether a stream under way is to end."""

    __slots__ = ("_what",)

    def __init__(self, *what: Any) -> None:
        self._what = what

    def __call__(self) -> bool:
        call, desk, caller, labels, story, trial = self._what
        return _order(call, desk, caller, labels, story, trial.model, trial.provider.name) is not None


def _heard(story: record.Story, settled: Settlement, reading: Reading | None, stopped: bool = False) -> Heard | None:
    """What became of the request, for the conversation that it belongs to."""
    placed = story.placed
    if placed is None:
        return None
    entry = settled.entry
    outcome, why = record.outcome(entry, reading)
    reply = reading.reply if reading is not None else None
    tokens = (entry.input or 0) + (entry.cache_read or 0) + (entry.cache_write or 0) + (entry.output or 0) + (entry.reasoning or 0)
    return Heard(
        placed, outcome, why, reply, entry.response_id, entry.dialect == "openai_responses", entry.ts, tokens,
        (entry.cost or 0) // 1000, stopped,
    )  # fmt: skip


def _plan(
    call: Incoming, desk: Desk, caller: Caller, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, trial: _Trial,
    ts_us: int,
) -> Generator[Effect, Any, _Plan | Refusal]:
    """The price of the model that will really be billed, the worst this try can cost, and what it must fit under."""
    provider, model = trial.provider, trial.model
    if caller.models and model and model not in caller.models:
        return refuse("model_not_allowed", f"key {caller.key!r} may not use {model!r}", f"use one of {', '.join(caller.models)}")

    budgets, placed = desk.budgets, story.placed
    scopes = budget.NO_SCOPES
    if budgets.names or budgets.rules:
        own = {"key": caller.key, "model": model, "provider": provider.name, "fallback": trial.line}
        if labels.conversation:
            top = placed.top if placed is not None else labels.conversation
            own["conversation"] = budget.whose(labels.tenant, caller.key, top)
        scopes = budgets.of(tuple([own[name] if name in own else labels.get(name) for name in budgets.names]))
        if placed is not None and placed.ambiguous:
            scopes = budget.unsure(scopes)
    history = asked.history
    fresh = history.fresh_results if history is not None and trial.kind == "first" and (placed is None or placed.again is None) else 0
    if dialect.name == "passthrough" and not model:
        return _Plan(0, budget.charges(scopes, ts_us, 0, 0, 0), None, (), estimate.START, scopes)

    price = desk.prices.find(provider.prices, model, ts_us, asked.service_tier, asked.batch)
    if price is None:
        if scopes.hard_money:
            return refuse(
                "unpriced_model", f"no price is known for {provider.prices}/{model}, and budget {scopes.hard_money!r} is a hard one",
                f'add [[price]] model = "{model}" with input and output in dollars per million tokens, or free rates of "0"',
            )  # fmt: skip
        price = desk.prices.dearest(provider.prices, model)
    ratio: estimate.Ratio = yield Recall(provider.name, model)
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
        return budget.alone(*large)
    taken = budget.charges(scopes, ts_us, worst, tokens, fresh)
    return _Plan(worst, taken, price, tuple(edits), ratio, scopes, fresh)


def _admit(
    call: Incoming, desk: Desk, caller: Caller, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, trial: _Trial,
    plan: _Plan, entry: Entry,
) -> Generator[Effect, Any, tuple[_Trial, _Plan, HoldRecord, Headers] | None]:  # fmt: skip
    """Guards and budgets: the try as it may go out, with its hold and the header that says what a guard did; None when the client
    has its answer already."""
    guards, verdict, placed = desk.guards, story.verdict if trial.kind == "first" else None, story.placed
    whose = budget.whose(labels.tenant, caller.key, placed.top if placed is not None else labels.conversation)
    scopes, charges = plan.scopes, plan.charges
    closes = guards.wind_down or scopes.winds_down
    can_end = bool(closes and whose and dialect.name in wind_down.DIALECTS and not wind_down.demands_tool(dialect.name, call.body))
    if can_end:
        charges = (*charges, budget.wound_down(whose, desk.orders.lives.get(placed.top, 1) if placed is not None else 1, entry.ts))
    stops = verdict is not None and verdict.act == guard.STOPPED
    if verdict is not None and stops and not (can_end and guards.wind_down and verdict.limit != "order"):
        yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, whose, plan.worst)
        return None

    hold = HoldRecord(entry.id, entry.ts, plan.worst, charges, entry)
    held = yield Hold(hold)
    ends = False
    if isinstance(held, Short):
        scope = next(scope for scope in scopes.all if scope.counter == held.charge.counter)
        small = _smaller(asked, plan, call, entry.ts) if can_end and budget.WIND_DOWN in dict(scope.rule.ladder) else None
        if small is not None:
            # What is left of the budget may do for a turn in which the agent only says where it stands.
            plan, short = small, held
            hold = HoldRecord(entry.id, entry.ts, plan.worst, (*plan.charges, charges[-1]), entry._replace(hold=plan.worst))
            held = yield Hold(hold)
            if isinstance(held, Short) or (isinstance(held, Passed) and any(at == len(scopes.all) for at, _ in held.at)):
                if not isinstance(held, Short):
                    hold = replace(hold, entry=entry)
                    yield from _short(call, desk, dialect, asked, labels, story, entry, short, scope, whose, plan.worst, hold)
                    return None
            else:
                ends = True
        if isinstance(held, Short) and scope.rule.code == budget.CEILING and trial.failed is not None:
            refused = record.refused(entry, budget.short(held, budget.CEILING), record.evidence(story, story.cause))
            yield Book(refused, None, _heard(story, refused, None))
            yield Reply(trial.failed)
            return None
        if isinstance(held, Short):
            yield from _short(call, desk, dialect, asked, labels, story, entry, held, scope, whose, plan.worst, None)
            return None
    if isinstance(held, Fault):
        if scopes.closed or held.kind == "spool_full":
            yield Reply(_no(dialect, call, _unverifiable(held, scopes.closed)))
            return None
        hold = replace(hold, entry=hold.entry._replace(flags="fault_open"))
        held = None

    if held is None and verdict is None:
        return trial, plan, hold, []
    log = _Log(call, labels, whose, entry)
    header: bytes = b""
    had_last = isinstance(held, Passed) and any(at == len(scopes.all) for at, _ in held.at)
    if isinstance(held, Passed):
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
                for rung in rungs:
                    log.rung(rung, scope, standing)
                    header = b"warned:" + scope.rule.code.encode()
                if budget.COMPACT in rungs:
                    plan = replace(plan, compact=True)
                if budget.CHEAPER in rungs:
                    trial, plan, hold = _cheaper(call, desk, trial, plan, hold, asked)
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
    return trial, plan, hold, [(b"x-bursar-verdict", header)] if header else []


class _Log:
    """The incidents of one try."""

    def __init__(self, call: Incoming, labels: Labels, whose: str, entry: Entry) -> None:
        self.incidents: list[Incident] = []
        self._what = {"ts_us": call.ts_us, "call": call.call_id, "model": entry.model_served, "whose": whose}
        self._labels = labels

    def rung(self, rung: str, scope: budget.Scope, standing: int) -> None:
        act = {budget.WARN: guard.WARNED, budget.COMPACT: "compacted", budget.WIND_DOWN: "wound_down"}.get(rung, rung)
        rule = scope.rule
        unit = rule.limit.unit
        reason = f"budget {rule.name!r} stands at {budget.told(unit, standing)} of {budget.told(unit, scope.limit)}"
        refusal = refuse(rule.code, reason, "")
        self.incidents = [i for i in self.incidents if i.budget != rule.name]
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


def _smaller(asked: Asked, plan: _Plan, call: Incoming, ts_us: int) -> _Plan | None:
    """The same try with a small answer; None where its answer was small already."""
    if (asked.output_cap is not None and asked.output_cap <= WIND_DOWN_CAP) or asked.unbounded_input:
        return None
    bound = estimate.bound(len(call.body))
    worst = pricing.worst(plan.price, bound, WIND_DOWN_CAP, asked.choices, cache_1h=asked.cache_1h) if plan.price else 0
    edits = (*[edit for edit in plan.edits if not isinstance(edit, CapOutput)], CapOutput(WIND_DOWN_CAP))
    taken = budget.charges(plan.scopes, ts_us, worst, bound + WIND_DOWN_CAP * asked.choices, plan.tool_calls)
    return replace(plan, worst=worst, charges=taken, edits=edits)


def _cheaper(
    call: Incoming, desk: Desk, trial: _Trial, plan: _Plan, hold: HoldRecord, asked: Asked
) -> tuple[_Trial, _Plan, HoldRecord]:  # fmt: skip
    """The try on the dearest model of [tiers] that is cheaper than the one asked for. The hold stays: it is more than enough."""
    if plan.price is None:
        return trial, plan, hold
    now = pricing.worst(plan.price, 1_000, 1_000, 1)
    best: tuple[int, str, Price] | None = None
    for model in desk.tiers:
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


def _relay(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, story: record.Story, trial: _Trial, plan: _Plan, hold: HoldRecord,
    head: Head, reply_headers: Headers, sent_bytes: int, ordered: _Ordered, aid: Aid | None,
) -> Way:  # fmt: skip
    """Bytes through, usage read on the side; the terminal event waits until the row is written."""
    reader = recorder = dialect.reader(asked, AskUsage() in plan.edits)
    if aid is not None:
        reader = recorder = aid.recording(reader)
    coding = lines.get(head.headers, b"content-encoding").decode("ascii", "replace").lower()
    if coding and coding != "identity":
        reader = encoding.Decoding(reader, coding, desk.gather_max)
        reply_headers = [line for line in reply_headers if line[0] != b"content-encoding"]
    ended: Ended = yield Relay(head, reader, reply_headers, ordered)
    reading = reader.reading()
    settled, sample = _settle(call, desk, asked, story, trial, plan, hold, head, ended, reading, sent_bytes, dialect.name, aid)
    kept = reader.kept
    if ended.how == "stopped":
        kept = reader.close_early("stopped_by_order")
        entry = settled.entry
        settled = replace(settled, entry=entry._replace(ended="incomplete", flags=f"{entry.flags} stopped_by_order".strip()))
    yield Book(settled, sample, _heard(story, settled, reading))
    if aid is not None:
        recorded = recorder.recorded() if isinstance(recorder, Recording) and ended.how == "complete" else None
        yield from aid.keep(settled, head.status, recorded, True, reading, _own_reply(trial, plan, hold))
        yield from aid.note(settled.entry, _tokens(settled.entry))
    yield Finish(kept, ended.how in ("complete", "stopped"))


def _read_whole(dialect: Dialect, asked: Asked, head: Head, ended: Ended, limit: int) -> Reading:
    if not ended.gathered:
        return dialect.edges(*ended.edges) if ended.how == "complete" else Reading(complete=False)
    plain: bytes | encoding.Bad = ended.body
    coding = lines.get(head.headers, b"content-encoding")
    if coding:
        plain = encoding.decode(ended.body, coding.decode("ascii", "replace"), limit)
    return dialect.whole(head.status, plain, asked.json_demanded) if isinstance(plain, bytes) else Reading(error_message=str(plain))


def _settle(
    call: Incoming, desk: Desk, asked: Asked, story: record.Story, trial: _Trial, plan: _Plan, hold: HoldRecord, head: Head,
    ended: Ended, reading: Reading, sent_bytes: int, dialect: str, aid: Aid | None,
) -> tuple[Settlement, Sample | None]:  # fmt: skip
    """The bill of an answered try: on the model that served it, at the tier it was served at, where those can be priced."""
    price = plan.price
    model = reading.model_served
    if (model and model != trial.model) or (reading.service_tier and reading.service_tier != asked.service_tier):
        tier = reading.service_tier or asked.service_tier
        served = desk.prices.find(trial.provider.prices, model or trial.model, hold.ts, tier, asked.batch)
        if served is None and tier:
            served = desk.prices.find(trial.provider.prices, trial.model, hold.ts, tier, asked.batch)
        if served is not None:
            price = served
    weighed = record.weigh(
        reading.usage, method=call.method, dialect=dialect, status=head.status, asked=asked, price=price,
        ratio=plan.ratio, request_bytes=sent_bytes, output_bytes=reading.output_bytes,
    )  # fmt: skip
    sample = None
    if (
        isinstance(reading.usage, Known) and ended.how == "complete" and not reading.usage.contradiction
        and not asked.unbounded_input and estimate.teaches(plan.ratio, hold.ts)
    ):  # fmt: skip
        tokens = reading.usage.tokens
        sample = Sample(
            trial.provider.name, trial.model, sent_bytes, tokens.input_total, reading.output_bytes,
            tokens.output + tokens.reasoning,
        )  # fmt: skip
    kept_there = asked.previous or (asked.conversation and asked.unbounded_input)
    sent_tokens = estimate.input_tokens(sent_bytes, plan.ratio) if kept_there else 0
    why = cause.settled(story.cause, story.placed, reading.reply) if trial.kind == "first" else _own(story.cause, trial)
    if why.kind == "fallback" and weighed.tokens is not None and price is not None:
        why = _dearer(desk, why, trial, story.placed, weighed, hold.ts)
    settled = record.complete(
        hold, head, ended, reading, weighed, story, why, asked.history, sent_tokens, plan.tool_calls, plan.wound
    )  # fmt: skip
    if aid is not None:
        settled = aid.account(settled, weighed.tokens, price, bool(reading.malformed))
    return replace(settled, incidents=plan.incidents) if plan.incidents else settled, sample


def _own(base: cause.Cause, trial: _Trial) -> cause.Cause:
    """The cause of our own retry or fallback."""
    return cause.Cause(trial.kind, trial.kind, base.purpose, trial.cause, 100, (("by", "bursar"),))


def _dearer(desk: Desk, why: cause.Cause, trial: _Trial, placed: Placed | None, weighed: record.Weighed, ts_us: int) -> cause.Cause:
    """With how much dearer the model is that was fallen back to, for the same tokens."""
    model = trial.seen[-1][1] if trial.seen else placed.again.model if placed is not None and placed.again is not None else ""
    before = desk.prices.find(trial.provider.prices, model, ts_us) if model else None
    cost = weighed.priced.pico
    if before is None or weighed.tokens is None or not cost:
        return why
    was = pricing.bill(weighed.tokens, before).pico
    return replace(why, evidence=(*why.evidence, ("ratio_per_cent", cost * 100 // was))) if was else why


def _next(trial: _Trial, failure: retry.Failure, desk: Desk) -> tuple[_Trial | None, float]:
    """The try after this failure, and the seconds to wait before it; none when the client should have the failure."""
    pause = retry.wait_before_retry(failure, trial.retries, trial.provider.retries)
    if pause is not None:
        return replace(trial, kind="retry", cause=failure.kind, retries=trial.retries + 1), pause
    seen = (*trial.seen, (trial.provider.name, trial.model))
    for line in desk.fallbacks:
        if line.from_ not in (trial.model, f"{trial.provider.name}/{trial.model}") or not retry.falls_back(failure, tuple(line.on)):
            continue
        for name in [line.to] if isinstance(line.to, str) else line.to:
            before, slash, after = name.partition("/")
            provider, model = (desk.providers[before], after) if slash and before in desk.providers else (trial.provider, name)
            if provider.family == trial.provider.family and (provider.name, model) not in seen:
                return _Trial(provider, model, "fallback", f"{failure.kind}:{trial.model}", 0, seen, line.from_), 0.0
    return None, 0.0


def _refuse(dialect: Dialect, call: Incoming, entry: Entry, refusal: Refusal, story: record.Story) -> Way:
    """A refusal leaves a row, so that what was refused can be counted."""
    stopped = record.refused(entry, refusal, record.evidence(story, story.cause))
    yield Book(stopped, None, _heard(story, stopped, None))
    yield Reply(_no(dialect, call, refusal))


def _short(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, entry: Entry, held: Short,
    scope: budget.Scope, whose: str, worst: int, hold: HoldRecord | None,
) -> Way:  # fmt: skip
    charge, code = held.charge, scope.rule.code
    verdict = Verdict(guard.STOPPED, budget.short(held, code), charge.budget, held.spent, charge.limit or 0, charge.unit)
    yield from _stop(call, desk, dialect, asked, labels, story, entry, verdict, whose, worst, hold, scope)


def _stop(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, entry: Entry, verdict: Verdict,
    whose: str, worst: int, hold: HoldRecord | None = None, scope: budget.Scope | None = None,
) -> Way:  # fmt: skip
    """The end: a reply in the client's own dialect, or an error where a reply would feed the loop or break the client; the row
    and the incident. `hold`: was taken already, and is given back."""
    placed, refusal = story.placed, verdict.refusal
    wanted = scope.rule.reply if scope is not None else desk.guards.reply
    reply = (
        wanted and placed is not None and placed.stops < guard.REPLIES_MAX and dialect.name in wind_down.DIALECTS
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
    stopped = replace(stopped, incidents=(incident,))
    yield Book(stopped, None, _heard(story, stopped, reading, reply))
    yield Reply(_said(dialect, call, asked, desk, refusal) if reply else _no(dialect, call, refusal))


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


def _no(dialect: Dialect, call: Incoming, refusal: Refusal) -> Answer:
    """A refusal in the provider's own shape."""
    headers, body = dialect.refuse(refusal)
    stamped = [
        *headers,
        (b"x-bursar-call", call.call_id.encode()),
        (b"x-bursar-verdict", b"refused:" + refusal.code.encode()),
    ]
    return Answer(refusal.status, stamped, body)
