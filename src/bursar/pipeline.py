"""The way of one call, as a generator: the only file that knows the order of the stages. No I/O, no clock: it yields effects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from blake3 import blake3

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
)
from .domain.entry import Charge, Entry, Settlement, Short
from .domain.entry import Hold as HoldRecord
from .domain.labels import Labels
from .domain.policy import Fallback
from .domain.price import Price
from .domain.shape import Shape, replace
from .domain.thread import Ask, Heard, Placed
from .domain.usage import Known
from .domain.verdict import Refusal, refuse
from .effects import Book, Effect, Finish, Follow, Gather, Hold, Recall, Relay, Reply, Sample, Send, Wait
from .rules import budget, cause, estimate, loop, record, retry
from .rules import price as pricing
from .rules.attribute import attribute
from .rules.budget import Budgets
from .wire import Dialect, Route, encoding
from .wire import headers as lines
from .wire.history import BUILT_IN, Signs


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
    polls: Mapping[str, int] = {}  # tools that are polled -> how often one may say the same in a row


Way = Generator[Effect, Any, None]

# Keyed so that a hash in the ledger cannot be matched with one somebody computed from a guessed prompt elsewhere.
HASH_KEY = b"bursar request hash, version 1\0\0"

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


class _Plan(Shape, frozen=True, gc=False):
    worst: int  # pico-dollars
    charges: tuple[Charge, ...]
    price: Price | None
    edits: tuple[Edit, ...]
    ratio: estimate.Ratio
    closed: str  # the first budget that must not be passed while the ledger cannot say


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
    fingerprint = blake3(call.body, key=HASH_KEY).hexdigest(16) if call.body else ""
    story, labels = yield from _know(call, desk, caller, asked, labels, fingerprint)
    trial: _Trial | None = _Trial(provider, asked.model)
    first: Entry | None = None
    answer = Answer(500, [], b"")
    tries = elapsed_us = 0
    while trial is not None:
        tries += 1
        plan = yield from _plan(call, desk, caller, dialect, asked, labels, story, trial, call.ts_us + elapsed_us)
        if first is None:
            first = entry = record.opened(
                call, caller.key, dialect.name, asked, labels, story, fingerprint, desk.policy_hash, desk.node,
                provider=provider.name, hold=0 if isinstance(plan, Refusal) else plan.worst,
            )  # fmt: skip
        else:
            entry = first._replace(
                id=f"{call.call_id}.{tries}", ts=call.ts_us + elapsed_us, try_no=tries, attempt_kind=trial.kind,
                operation=trial.kind, cause=trial.cause, provider=trial.provider.name, model_served=trial.model,
                hold=0 if isinstance(plan, Refusal) else plan.worst,
            )  # fmt: skip
        if isinstance(plan, Refusal):
            yield from _refuse(dialect, call, entry, plan, story)
            return
        hold = HoldRecord(entry.id, entry.ts, plan.worst, plan.charges, entry)
        held = yield Hold(hold)
        if isinstance(held, Short):
            yield from _refuse(dialect, call, entry, budget.short(held, labels.conversation), story)
            return
        if isinstance(held, Fault):
            if plan.closed or held.kind == "spool_full":
                yield Reply(_no(dialect, call, _unverifiable(held, plan.closed)))
                return
            hold = replace(hold, entry=entry._replace(flags="fault_open"))

        path, body = dialect.edit(route.path, call.body, asked, plan.edits)
        target = f"{path}?{call.query}" if call.query else path
        head: Head | Fault = yield Send(
            hold.id, trial.provider.name, call.method, target,
            lines.upstream(call.headers, caller.proxy, trial.provider.own_key, asked.stream), body,
        )  # fmt: skip
        if isinstance(head, Fault):
            lost = record.no_answer(hold, head, record.evidence(story, story.cause))
            yield Book(lost, None, _heard(story, lost, None))
            elapsed_us = head.sent_us + head.elapsed_us
            answer = _no(dialect, call, record.fault_refusal(trial.provider.name, head))
            trial, pause = _next(trial, retry.fault_failure(head.kind, head.sent), desk)
        else:
            reply_headers = lines.downstream(head.headers, caller.proxy) + record.stamp(entry, tries)
            if head.status < 400 and lines.streams(head.headers, asked.stream, dialect.name):
                yield from _relay(call, desk, dialect, asked, story, trial, plan, hold, head, reply_headers, len(body))
                return
            ended: Ended = yield Gather(head, desk.gather_max, reply_headers)
            reading = _read_whole(dialect, asked, head, ended, desk.gather_max)
            failure = (
                retry.fault_failure(ended.fault.kind, True) if ended.fault
                else retry.classify(head.status, head.headers, reading, (call.ts_us + head.sent_us) / 1_000_000)
            )  # fmt: skip
            if ended.fault is not None and not ended.relayed:
                fault = replace(ended.fault, elapsed_us=ended.elapsed_us)
                settled, sample = record.no_answer(hold, fault, record.evidence(story, story.cause)), None
            else:
                settled, sample = _settle(call, desk, asked, story, trial, plan, hold, head, ended, reading, len(body), dialect.name)
            if failure is not None and failure.kind == "malformed":
                settled = replace(settled, entry=settled.entry._replace(status="error", error="malformed_output"))
            yield Book(settled, sample, _heard(story, settled, reading))
            if ended.relayed or ended.how == "client_gone":
                yield Finish(b"", ended.how == "complete")
                return
            elapsed_us = head.sent_us + ended.elapsed_us
            if ended.fault is not None:
                answer = _no(dialect, call, record.fault_refusal(trial.provider.name, ended.fault))
            else:
                answer = Answer(head.status, reply_headers + record.price_tag(settled.entry), ended.body)
            trial, pause = _next(trial, failure, desk) if failure is not None else (None, 0.0)
        if pause:
            if not (yield Wait(pause)):
                return
            elapsed_us += int(pause * 1_000_000)
    yield Reply(answer)


def _know(
    call: Incoming, desk: Desk, caller: Caller, asked: Asked, labels: Labels, fingerprint: str
) -> Generator[Effect, Any, tuple[record.Story, Labels]]:
    """What the messages tell: the conversation, why the call is made, and whether it goes round in circles."""
    placed: Placed | None = None
    finding, stop = None, False
    history = asked.history
    retries = dict(call.headers).get(b"x-stainless-retry-count", b"0")  # the SDKs number their hidden retries
    if history is not None and (history.end.messages or asked.previous or labels.conversation):
        scope = f"tenant {labels.tenant}" if labels.tenant else f"key {caller.key}"
        placed = yield Follow(
            Ask(
                scope, call.call_id, call.ts_us, history, labels.conversation, asked.previous, asked.model,
                int(fingerprint[:15] or "0", 16), retries != b"0",
            )
        )  # fmt: skip
        if placed.fresh_pairs:
            finding = loop.look(placed.pairs, placed.fresh_pairs, loop.STOP, desk.polls)
            stop = finding is not None
            finding = finding or loop.look(placed.pairs, placed.fresh_pairs, loop.WARN, desk.polls)
        if not labels.conversation:
            labels = labels._replace(conversation=placed.conversation, sources=(*labels.sources, ("conversation", "inferred")))
    why = cause.infer(retries, asked, labels, placed, caller.key, caller.ci)
    if stop and not why.cause:
        why = replace(why, cause="loop", confidence=90)
    return record.Story(placed, why, finding, stop), labels


def _heard(story: record.Story, settled: Settlement, reading: Reading | None) -> Heard | None:
    """What became of the request, for the conversation that it belongs to."""
    placed = story.placed
    if placed is None:
        return None
    entry = settled.entry
    outcome, why = record.outcome(entry, reading)
    reply = reading.reply if reading is not None else None
    return Heard(placed, outcome, why, reply, entry.response_id, entry.dialect == "openai_responses", entry.ts)


def _plan(
    call: Incoming, desk: Desk, caller: Caller, dialect: Dialect, asked: Asked, labels: Labels, story: record.Story, trial: _Trial,
    ts_us: int,
) -> Generator[Effect, Any, _Plan | Refusal]:
    """The price of the model that will really be billed, the worst this try can cost, and what it must fit under."""
    provider, model = trial.provider, trial.model
    if caller.models and model and model not in caller.models:
        return refuse("model_not_allowed", f"key {caller.key!r} may not use {model!r}", f"use one of {', '.join(caller.models)}")

    budgets = desk.budgets
    scopes = budget.NO_SCOPES
    if budgets.names or budgets.rules:
        own = {"key": caller.key, "model": model, "provider": provider.name, "call": call.call_id}
        scopes = budgets.of(tuple([own[name] if name in own else labels.get(name) for name in budgets.names]))
        if story.placed is not None and story.placed.ambiguous:
            scopes = budget.unsure(scopes)
    if dialect.name == "passthrough" and not model:
        return _Plan(0, budget.charges(scopes, ts_us, 0, 0, 0), None, (), estimate.START, scopes.closed)

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
        if scopes.hard_money and dialect.name != "passthrough":
            cap = known or desk.output_cap
            edits.append(CapOutput(cap))
        else:
            cap = known or desk.output_assumed
    bound = estimate.bound(len(call.body)) if scopes.hard else estimate.input_tokens(len(call.body), ratio)
    if asked.unbounded_input:
        bound = max((price.context_window if price else 0) or CONTEXT_WINDOW, bound)
    worst = pricing.worst(price, bound, cap, asked.choices, cache_1h=asked.cache_1h) if price else 0
    taken = budget.charges(scopes, ts_us, worst, bound + cap * asked.choices, 0)
    return _Plan(worst, taken, price, tuple(edits), ratio, scopes.closed)


def _relay(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, story: record.Story, trial: _Trial, plan: _Plan, hold: HoldRecord,
    head: Head, reply_headers: Headers, sent_bytes: int,
) -> Way:  # fmt: skip
    """Bytes through, usage read on the side; the terminal event waits until the row is written."""
    reader = dialect.reader(asked, AskUsage() in plan.edits)
    coding = lines.get(head.headers, b"content-encoding").decode("ascii", "replace").lower()
    if coding and coding != "identity":
        reader = encoding.Decoding(reader, coding, desk.gather_max)
        reply_headers = [line for line in reply_headers if line[0] != b"content-encoding"]
    ended: Ended = yield Relay(head, reader, reply_headers)
    reading = reader.reading()
    settled, sample = _settle(call, desk, asked, story, trial, plan, hold, head, ended, reading, sent_bytes, dialect.name)
    yield Book(settled, sample, _heard(story, settled, reading))
    yield Finish(reader.kept, ended.how == "complete")


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
    ended: Ended, reading: Reading, sent_bytes: int, dialect: str,
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
    return record.complete(hold, head, ended, reading, weighed, story, why, asked.history, sent_tokens), sample


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
                return _Trial(provider, model, "fallback", f"{failure.kind}:{trial.model}", 0, seen), 0.0
    return None, 0.0


def _refuse(dialect: Dialect, call: Incoming, entry: Entry, refusal: Refusal, story: record.Story) -> Way:
    """A stop leaves a row, so that what was stopped can be counted."""
    stopped = record.refused(entry, refusal, record.evidence(story, story.cause))
    yield Book(stopped, None, _heard(story, stopped, None))
    yield Reply(_no(dialect, call, refusal))


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
