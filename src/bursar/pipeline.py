"""The way of one call, as a generator: the only file that knows the order of the stages. No I/O, no clock: it yields effects."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from .admission import Ordered, admit, heard, no, ordered_stop, plan_of, refuse_call, refuse_large
from .desk import Caller, Desk, Plan, Trial, Way
from .domain.call import (
    Answer,
    Asked,
    AskUsage,
    Ended,
    Fault,
    Head,
    Headers,
    Incoming,
    Malformed,
    Reading,
)
from .domain.entry import Entry, Settlement
from .domain.entry import Hold as HoldRecord
from .domain.labels import Labels
from .domain.shape import replace
from .domain.thread import Ask, Placed
from .domain.usage import Known, Tokens
from .domain.verdict import Refusal, refuse
from .effects import Book, Effect, Finish, Follow, Gather, Recall, Relay, Reply, Sample, Send, Wait
from .rules import budget, cause, estimate, guard, record, retry, tools
from .rules import price as pricing
from .rules import thread as threads
from .rules.attribute import attribute
from .wire import Dialect, encoding
from .wire import headers as lines
from .wire.opening import request_hash
from .wire.recording import Recording

if TYPE_CHECKING:
    from .controls import Again, Aid, Own


def way(call: Incoming, caller: Caller, desk: Desk) -> Way:
    """One call from its bytes to its rows. Ends with Reply, or with Finish where bytes were relayed."""
    route = desk.resolve(call.method, call.path)
    dialect = route.dialect
    provider = desk.providers.get(call.provider or route.provider or desk.defaults.get(route.family, ""))
    if provider is None:
        known = ", ".join(sorted(desk.providers))
        refusal = refuse("unknown_provider", f"no provider for {call.method} {call.path}", f"begin the path with one of: {known}")
        yield Reply(no(dialect, call, refusal))
        return
    asked = dialect.read(route.path, call.body, desk.signs)
    if isinstance(asked, Malformed):
        yield Reply(no(dialect, call, refuse("malformed_json", asked.reason, "send the JSON body that this path documents")))
        return

    labels = attribute(call.headers, asked, caller.bound, caller.context, desk.labels)
    fingerprint = asked.hash or request_hash(call.body)
    retries = lines.index(call.headers).get(b"x-stainless-retry-count", b"0")  # the SDKs number their hidden retries
    asking = _asking(call, caller, asked, labels, fingerprint, retries)
    placed: Placed | None = (yield Follow(asking)) if asking is not None else None
    story, labels = _known(call, desk, caller, asked, labels, retries, placed, provider.name)
    trial: Trial | None = Trial(provider, asked.model)
    aid: Aid | None = None
    if desk.controls is not None:
        from .controls import Aid

        aid = Aid(
            desk.controls, call, caller.key, caller.models, dialect, route.path, desk.providers, provider, desk.prices, asked, labels,
            story.placed, partial(_for_control, call, caller, desk, labels), desk.orders.whole,
        )  # fmt: skip
        stopped = story.verdict is not None and story.verdict.act == guard.STOPPED
        if not stopped:
            again = yield from aid.look()
            if again is not None:
                opened = record.opened(
                    call, caller.key, dialect.name, asked, labels, story, fingerprint, desk.policy_hash, desk.node,
                    provider=provider.name, hold=0,
                )  # fmt: skip
                yield from _tools(desk, caller, story, opened, budget.NO_SCOPES)
                yield from _again(opened, again, story, aid.cache)
                return
            call = call if aid.body is call.body else replace(call, body=aid.body)
        name, model = yield from aid.route(stopped)
        trial = Trial(desk.providers[name], model)
    first: Entry | None = None
    answer: Answer | None = None
    tries = elapsed_us = 0
    while trial is not None:
        tries += 1
        ratio: estimate.Ratio = (yield Recall(trial.provider.name, trial.model)) if trial.model else estimate.START
        plan = plan_of(call, desk, caller, dialect, asked, labels, story, trial, call.ts_us + elapsed_us, ratio)
        planned = isinstance(plan, Plan)
        worst = plan.worst if planned else 0
        if first is None:
            first = entry = record.opened(
                call, caller.key, dialect.name, asked, labels, story, fingerprint, desk.policy_hash, desk.node,
                provider=trial.provider.name, hold=worst,
            )  # fmt: skip
            if placed is not None and placed.fresh_pairs:
                yield from _tools(desk, caller, story, entry, plan.scopes if planned else budget.NO_SCOPES)
            if aid is not None and aid.why:
                first = entry = entry._replace(tier=aid.tier, route_reason=aid.why, model_served=trial.model)
        else:
            entry = first._replace(
                id=f"{call.call_id}.{tries}", ts=call.ts_us + elapsed_us, try_no=tries, attempt_kind=trial.kind,
                operation=trial.kind, cause=trial.cause, provider=trial.provider.name, model_served=trial.model, hold=worst,
            )  # fmt: skip
        if not planned:
            if isinstance(plan, Refusal):
                yield from refuse_call(dialect, call, entry, plan, story)
            else:
                yield from refuse_large(call, desk, dialect, asked, labels, story, entry, plan)
            return
        admitted = yield from admit(call, desk, caller, dialect, asked, labels, story, trial, plan, entry)
        if admitted is None:
            return
        trial, plan, hold, verdict, left = admitted

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
            yield Book(lost, None, heard(story, lost, None))
            elapsed_us = head.sent_us + head.elapsed_us
            answer = no(dialect, call, record.fault_refusal(trial.provider.name, head))
            trial, pause = _next(trial, retry.fault_failure(head.kind, head.sent), desk)
        else:
            reply_headers = lines.downstream(head.headers, caller.proxy) + record.stamp(hold.entry, tries) + verdict
            if aid is not None:
                reply_headers = record.cached(reply_headers, aid.cache)
            if head.status < 400 and lines.streams(head.headers, asked.stream, dialect.name):
                ordered = Ordered(call, desk, caller, labels, story, trial)
                reply_headers += record.remaining(hold, left)
                yield from _relay(call, desk, dialect, asked, story, trial, plan, hold, head, reply_headers, len(body), ordered, aid)
                if aid is not None and (summing := aid.summing()) is not None:
                    yield from aid.summarised(*(yield from _for_control(call, caller, desk, labels, summing)))
                return
            ended: Ended = yield Gather(head, desk.gather_max, reply_headers, partial(record.remaining, hold, left))
            reading = _read_whole(dialect, asked, head, ended, desk.gather_max)
            if aid is not None:
                plain = _plain(head, ended, desk.gather_max)
                aid.came(head.status, plain, False, reading, _own_reply(trial, plan, hold))
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
            yield Book(settled, sample, heard(story, settled, reading))
            merged: bytes | None = None
            if aid is not None:
                merged = yield from aid.keep(settled, head.status, plain, False, reading, _own_reply(trial, plan, hold))
                yield from aid.note(settled.entry, _tokens(settled.entry))
            if ended.relayed or ended.how == "client_gone":
                yield Finish(b"", ended.how == "complete")
                return
            elapsed_us = head.sent_us + ended.elapsed_us
            if ended.fault is not None:
                answer = no(dialect, call, record.fault_refusal(trial.provider.name, ended.fault))
            elif aid is not None and aid.partial and head.status == 200 and merged is None:
                lost = Fault("protocol", "the answer does not hold the vectors that were asked for", True)
                answer = no(dialect, call, record.fault_refusal(trial.provider.name, lost))
            elif merged is not None:
                kept = [line for line in reply_headers if line[0] != b"content-encoding"]
                tag = record.price_tag(settled.entry) + record.remaining(hold, left, settled.actual)
                answer = Answer(head.status, kept + tag, merged)
            else:
                tag = record.price_tag(settled.entry) + record.remaining(hold, left, settled.actual)
                answer = Answer(head.status, reply_headers + tag, ended.body)
            trial, pause = _next(trial, failure, desk) if failure is not None else (None, 0.0)
        if trial is not None and trial.line:
            trial = replace(trial, failed=answer)
        if pause:
            if not (yield Wait(pause)):
                return
            elapsed_us += int(pause * 1_000_000)
    assert answer is not None, "a try that is not the last leaves an answer"
    yield Reply(answer)
    if aid is not None and (summing := aid.summing()) is not None:
        yield from aid.summarised(*(yield from _for_control(call, caller, desk, labels, summing)))


def _again(entry: Entry, again: Again, story: record.Story, found: bytes) -> Way:
    """A reply that was given before: a row that cost nothing and says what was saved, and the reply."""
    settled = record.again(entry, again.model, again.saved, again.reading, record.evidence(story, story.cause))
    yield Book(settled, None, heard(story, settled, again.reading))
    stamped = record.cached(record.stamp(settled.entry, 0), found)
    yield Reply(Answer(200, again.headers + stamped + record.price_tag(settled.entry), again.body))


def _for_control(
    call: Incoming, caller: Caller, desk: Desk, labels: Labels, own: Own
) -> Generator[Effect, Any, tuple[bytes | None, int]]:
    """A call of a control's own: through this pipeline, with the client's labels, in no conversation, under no control, tried once."""
    from .controls.own import perform

    asked = Incoming(f"{call.call_id}-{own.name}", call.ts_us, "POST", own.path, "", call.headers, own.body, own.provider, call.peer)
    bound = {name: labels.get(name) for name in ("tenant", "feature", "flow", "conversation", "user") if labels.get(name)}
    once = {name: replace(provider, retries=0) for name, provider in desk.providers.items()}
    inner = way(
        asked, replace(caller, bound={**bound, "operation": "control"}, models=()),
        replace(desk, controls=None, fallbacks=(), providers=once),
    )  # fmt: skip
    return (yield from perform(inner, own))


def _own_reply(trial: Trial, plan: Plan, hold: HoldRecord) -> bool:
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
        yield Book(Settlement(made.id, made, budget.actual(charges, made.cost or 0, None, 0), charges))


def _asking(call: Incoming, caller: Caller, asked: Asked, labels: Labels, fingerprint: str, retries: bytes) -> Ask | None:
    """Which conversation is asked for; None where there is none to belong to."""
    history = asked.history
    if history is None or labels.operation == "control" or not (history.end.messages or asked.previous or labels.conversation):
        return None
    return Ask(
        f"tenant {labels.tenant}" if labels.tenant else f"key {caller.key}", call.call_id, call.ts_us, history, labels.conversation,
        asked.previous, asked.model, int(fingerprint[:15] or "0", 16), retries != b"0",
    )  # fmt: skip


def _known(
    call: Incoming, desk: Desk, caller: Caller, asked: Asked, labels: Labels, retries: bytes, placed: Placed | None, provider: str
) -> tuple[record.Story, Labels]:
    """What the messages tell: the conversation, why the call is made, and whether it goes round in circles."""
    verdict, finding, stop = None, None, False
    orders = desk.orders
    if placed is not None:
        if not labels.conversation:
            labels = labels.inferred(placed.conversation)
        lives = orders.lives.get(placed.top, 1) if orders.lives else 1
        if lives > 1:
            placed = threads.resume(placed, lives)
        verdict, finding, stop = guard.judge(desk.guards, labels, placed, lives, desk.polls)
    why = cause.infer(retries, asked, labels, placed, caller.key, caller.ci, caller.failed)
    if finding is not None and placed is not None:
        why = cause.looped(why, finding, placed.pairs, stop)
    story = record.Story(placed, why, finding, stop, verdict)
    if orders.stops:
        order = ordered_stop(call, desk, caller, labels, story, asked.model, provider)
        if order is not None:
            story = replace(story, verdict=guard.ordered(order))
    return story, labels


def _relay(
    call: Incoming, desk: Desk, dialect: Dialect, asked: Asked, story: record.Story, trial: Trial, plan: Plan, hold: HoldRecord,
    head: Head, reply_headers: Headers, sent_bytes: int, ordered: Ordered, aid: Aid | None,
) -> Way:  # fmt: skip
    """Bytes through, usage read on the side; the terminal event waits until the row is written."""
    reader = recorder = dialect.reader(asked, AskUsage() in plan.edits)
    if aid is not None:
        reader = recorder = aid.recording(reader)
    coding = lines.get(head.headers, b"content-encoding").decode("ascii", "replace").lower()
    if coding and coding != "identity":
        reader = encoding.Decoding(reader, coding, desk.gather_max)
        reply_headers = [line for line in reply_headers if line[0] != b"content-encoding"]
    ended: Ended = yield Relay(head, reader, reply_headers, ordered, plan.most)
    reading = reader.reading()
    recorded: bytes | None = None
    if aid is not None:
        recorded = recorder.recorded() if isinstance(recorder, Recording) and ended.how == "complete" else None
        aid.came(head.status, recorded, True, reading, _own_reply(trial, plan, hold))
    settled, sample = _settle(call, desk, asked, story, trial, plan, hold, head, ended, reading, sent_bytes, dialect.name, aid)
    kept = reader.kept
    if ended.how in ("stopped", "outgrown"):
        why = "stopped_by_order" if ended.how == "stopped" else "outgrew_hold"
        kept = reader.close_early(why)
        entry = settled.entry
        settled = replace(settled, entry=entry._replace(ended="incomplete", flags=f"{entry.flags} {why}".strip()))
    yield Book(settled, sample, heard(story, settled, reading))
    if aid is not None:
        yield from aid.keep(settled, head.status, recorded, True, reading, _own_reply(trial, plan, hold))
        yield from aid.note(settled.entry, _tokens(settled.entry))
    yield Finish(kept, ended.how in ("complete", "stopped", "outgrown"))


def _read_whole(dialect: Dialect, asked: Asked, head: Head, ended: Ended, limit: int) -> Reading:
    if not ended.gathered:
        return dialect.edges(*ended.edges) if ended.how == "complete" else Reading(complete=False)
    plain: bytes | encoding.Bad = ended.body
    coding = lines.get(head.headers, b"content-encoding")
    if coding:
        plain = encoding.decode(ended.body, coding.decode("ascii", "replace"), limit)
    return dialect.whole(head.status, plain, asked.json_demanded) if isinstance(plain, bytes) else Reading(error_message=str(plain))


def _settle(
    call: Incoming, desk: Desk, asked: Asked, story: record.Story, trial: Trial, plan: Plan, hold: HoldRecord, head: Head,
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


def _own(base: cause.Cause, trial: Trial) -> cause.Cause:
    """The cause of our own retry or fallback."""
    return cause.Cause(trial.kind, trial.kind, base.purpose, trial.cause, 100, (("by", "bursar"),))


def _dearer(desk: Desk, why: cause.Cause, trial: Trial, placed: Placed | None, weighed: record.Weighed, ts_us: int) -> cause.Cause:
    """With how much dearer the model is that was fallen back to, for the same tokens."""
    model = trial.seen[-1][1] if trial.seen else placed.again.model if placed is not None and placed.again is not None else ""
    before = desk.prices.find(trial.provider.prices, model, ts_us) if model else None
    cost = weighed.priced.pico
    if before is None or weighed.tokens is None or not cost:
        return why
    was = pricing.bill(weighed.tokens, before).pico
    return replace(why, evidence=(*why.evidence, ("ratio_per_cent", cost * 100 // was))) if was else why


def _next(trial: Trial, failure: retry.Failure, desk: Desk) -> tuple[Trial | None, float]:
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
                return Trial(provider, model, "fallback", f"{failure.kind}:{trial.model}", 0, seen, line.from_), 0.0
    return None, 0.0
