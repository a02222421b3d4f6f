"""What goes into the row of a try: drafted before the hold, completed when the try has ended. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..domain.call import Asked, Ended, Fault, Head, Headers, Incoming, Reading
from ..domain.entry import BLANK, COLUMNS, OUTCOME, Entry, Hold, Settlement, made_entry
from ..domain.history import History, Use
from ..domain.labels import Labels
from ..domain.money import plain
from ..domain.price import Price, Priced
from ..domain.shape import Shape, replace
from ..domain.thread import CUT, FAILED, GOOD, MALFORMED, Placed
from ..domain.usage import ALL_TEXT, TEXT, TOKEN_BUCKETS, Estimated, Known, Tokens, Usage
from ..domain.verdict import Refusal, refuse
from . import budget, estimate, saving
from .cause import Cause
from .guard import Verdict
from .loop import Finding
from .price import NO_PARTS, UNPRICED, bill, legs_json
from .saving import Saving
from .share import Shares, shares

EMPTY = Tokens()
CALLED_MAX = 16  # calls of a reply whose tools are named in its row
READ_ONLY = frozenset(("GET", "HEAD", "OPTIONS", "DELETE"))
NOT_SENT = "rule:not-sent"
NOT_BILLED = "rule:no-answer-no-bill"
NO_CHARGE = "rule:request-without-charge"
KEPT = "rule:reply-was-kept"


class Story(Shape, frozen=True, gc=False):
    """What is known of a call beside its request: its conversation, why it was made, a loop that it is part of."""

    placed: Placed | None
    cause: Cause
    loop: Finding | None = None
    stop: bool = False  # the loop is one that should be stopped, not only watched
    verdict: Verdict | None = None  # what the guard thinks of it


def opened(
    call: Incoming, key: str, dialect: str, asked: Asked, labels: Labels, story: Story, request_hash: str, policy_hash: str,
    node: str, *, provider: str, hold: int,
) -> Entry:  # fmt: skip
    """The first try's row before its outcome is story. Later tries are this row with another try's columns."""
    cause, placed = story.cause, story.placed
    return made_entry((
        call.call_id + ".1", call.ts_us, call.call_id, 1, key, cause.kind, cause.operation, cause.purpose, cause.cause,
        labels.tenant, labels.feature, labels.flow, labels.user, labels.conversation,
        (placed.turns if placed is not None else asked.human_turns) or None,
        placed.depth if placed is not None else asked.tool_depth if asked.messages else None,
        _json_of_pairs(labels.extra) if labels.extra else "{}", _json_of_pairs(labels.sources) if labels.sources else "{}",
        provider, dialect, asked.model, "", "", 1 if asked.stream else 0, hold, None, "", request_hash, asked.print, policy_hash,
        "measured", "", node, asked.model, asked.service_tier, *BLANK,
    ))  # fmt: skip


@lru_cache(maxsize=2048)
def _json_of_pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    """Remembered: a process sees the same sources, and mostly the same free labels, call after call."""
    return json.dumps(dict(pairs))


class Weighed(Shape, frozen=True, gc=False):
    """A try's usage and bill, with how sure we are."""

    tokens: Tokens | None
    source: str  # provider | estimated | unknown
    priced: Priced
    raw: str = ""
    flag: str = ""


def weigh(
    usage: Usage,
    *,
    method: str,
    dialect: str,
    status: int,
    asked: Asked,
    price: Price | None,
    ratio: estimate.Ratio,
    request_bytes: int,
    output_bytes: int,
) -> Weighed:
    """Tokens and dollars of an answered try.

    A known usage is priced as it is. Otherwise: an error answer is not billed by any provider we know; a good answer is
    estimated from the bytes that passed; what no dialect can read is unpriced. Never zero for not knowing."""
    if isinstance(usage, Known):
        flag = "contradiction" if usage.contradiction else ""
        return Weighed(usage.tokens, "provider", bill(usage.tokens, price), usage.raw.decode("utf-8", "replace") if flag else "", flag)
    tokens, raw = (usage.tokens, usage.raw) if isinstance(usage, Estimated) else (EMPTY, b"")
    if status >= 400:
        return Weighed(None, "provider", Priced("priced", 0, (), NOT_BILLED))
    if dialect == "passthrough":
        if method in READ_ONLY:
            return Weighed(None, "provider", Priced("free", 0, (), NO_CHARGE))
        return Weighed(None, "unknown", UNPRICED)
    tokens = tokens._replace(
        input=tokens.input if tokens.input_total else estimate.input_tokens(request_bytes, ratio),
        output=max(tokens.output, 0 if asked.embedding else estimate.output_tokens(output_bytes, ratio) - tokens.reasoning),
    )
    priced = bill(tokens, price)
    if priced.status == "priced":
        priced = replace(priced, status="estimated")
    return Weighed(tokens, "estimated", priced, raw.decode("utf-8", "replace"), "")


def complete(
    hold: Hold, head: Head, ended: Ended, reading: Reading, weighed: Weighed, story: Story, cause: Cause, history: History | None,
    seen_tokens: int = 0, tool_calls: int = 0, wound: int = 0,
) -> Settlement:  # fmt: skip
    """The row of a try that got an answer, and what it used of its charges. `cause` as it is known now; `seen_tokens`: see
    `share.shares`; `tool_calls` and `wound`: see `budget.actual`."""
    entry, tokens, priced, reply, charges = hold.entry, weighed.tokens, weighed.priced, reading.reply, hold.charges
    pico, status, how, error = priced.pico, head.status, ended.how, reading.error
    good = status < 400 and not error
    if how == "client_gone":
        how = "abandoned"
    elif not good or how == "fault":
        how = "failed"
    else:
        how = "complete" if reading.complete else "incomplete"
    flags = entry.flags
    if weighed.flag or priced.missing:
        missing = f"missing:{','.join(priced.missing)}" if priced.missing else ""
        flags = " ".join(filter(None, (flags, weighed.flag, missing)))
    if not error and ended.fault is not None:
        error = ended.fault.kind
    split = shares(history, tokens, priced.parts[:3], seen_tokens) if tokens is not None and pico is not None else None
    # What is known before stands in front, the outcome behind: a row is the one and the other, and not 66 look-ups by name.
    draft = entry[:OUTCOME]
    if cause is not story.cause:  # the reply says why, or it is another try
        draft = (*entry[:OPERATION], cause.operation, entry.purpose, cause.cause, *entry[OPERATION + 3 : OUTCOME])
    row = made_entry((
        *draft, reading.model_served or entry.model_served, reading.service_tier or entry.service_tier,
        "ok" if good and how != "incomplete" and how != "failed" else "error", status, error[:200], reading.finish, how,
        *(_usage(tokens) if tokens is not None else NO_USAGE), weighed.source, weighed.raw,
        pico, *(priced.parts if pico is not None else NO_PARTS), *(split.cost if split is not None else NO_SHARES),
        legs_json(priced.legs), priced.price_id, priced.status, (ended.elapsed_us or head.elapsed_us) // 1000,
        (ended.first_byte_us or head.elapsed_us) // 1000, head.sent_us, reading.response_id, flags,
        evidence(story, cause, split, reply.uses if reply is not None else ()),
    ))  # fmt: skip
    # What has no price may have cost as much as was held: a budget counts that, and the row says only what is known.
    cost = max(hold.amount, pico or 0) if pico is None or priced.status == "unpriced" else pico
    return Settlement(hold.id, row, budget.actual(charges, cost, tokens, tool_calls, wound), charges)


OPERATION = COLUMNS.index("operation")  # followed by purpose and cause
NO_SHARES = (None, None, None, None)
USAGE = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "other_units")
NO_USAGE: tuple[int | str | None, ...] = (None,) * 6 + ("{}",)


def _usage(tokens: Tokens) -> tuple[int | str, ...]:
    """The usage in the order of USAGE's columns: the six with a name of their own, the rest as JSON."""
    if tokens[TEXT:] == ALL_TEXT:
        return (*tokens[:TEXT], "{}")
    named = {name: count for name, count in zip(TOKEN_BUCKETS[TEXT:], tokens[TEXT:-1], strict=True) if count}
    return (*tokens[:TEXT], json.dumps({**named, **dict(tokens.other)}))


def add_usage(found: dict[str, Any], tokens: Tokens) -> None:
    """The usage as columns by name."""
    found |= zip(USAGE, _usage(tokens))


def evidence(story: Story, cause: Cause, split: Shares | None = None, uses: Sequence[Use] = ()) -> str:
    """How conversation and cause were inferred, and which tools the reply calls, as JSON: short, for it stands in every row. Words
    of ours need no quoting."""
    placed, loop = story.placed, story.loop
    if (
        placed is not None and not placed.ambiguous and not placed.parent and not placed.fresh_pairs
        and not cause.cause and not cause.evidence and loop is None
    ):  # fmt: skip
        if split is None:
            return f'{{"by":"{placed.by}"}}'
        new, history, tools, system = split.tokens
        called = "," + _called(tuple([use.name for use in uses[:CALLED_MAX]])) if uses else ""
        return f'{{"by":"{placed.by}","tokens":[{new},{history},{tools},{system}]{called}}}'
    parts: list[str] = []
    if placed is not None:
        parts.append(f'"by":"{placed.by}"')
        if placed.ambiguous:
            parts.append('"ambiguous":true')
        if placed.parent:
            parts.append(f'"parent":{_json(placed.parent)}')
    if cause.cause or cause.evidence:
        why = {"confidence": cause.confidence, **dict(cause.evidence)}
        parts.append(f'"cause":{_json(why)}')
    if split is not None:
        new, history, tools, system = split.tokens
        parts.append(f'"tokens":[{new},{history},{tools},{system}]')
    if uses:
        parts.append(_called(tuple([use.name for use in uses[:CALLED_MAX]])))
    if placed is not None and placed.fresh_pairs:
        tools = [name for name in placed.pairs.names[-placed.fresh_pairs :] if name]
        if tools:
            parts.append(f'"answered":{_json({name: tools.count(name) for name in dict.fromkeys(tools)})}')
    if loop is not None and placed is not None:
        told: dict[str, Any] = {"rule": loop.rule, "tools": loop.tools, "times": loop.times, "stop": story.stop}
        told["last"] = placed.ask.history.preview
        parts.append(f'"loop":{_json(told)}')
    return "{" + ",".join(parts) + "}" if parts else "{}"


@lru_cache(maxsize=2048)
def _called(names: tuple[str, ...]) -> str:
    """Remembered: a program's agents call the same tools again and again."""
    return f'"called":{_json([name[:64] for name in dict.fromkeys(names)])}'


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def outcome(entry: Entry, reading: Reading | None) -> tuple[int, str]:
    """What became of a request, for its conversation: (outcome, why it failed in a word)."""
    if reading is not None and reading.malformed:
        return MALFORMED, "malformed"
    status, ended = entry.status, entry.ended
    if status == "ok" and ended == "complete":
        return GOOD, ""
    match status, ended:
        case ("error" | "unknown" | "refused"), ("failed" | "refused" | "complete"):
            return FAILED, _in_a_word(entry)
        case _:
            return CUT, "cut"


def _in_a_word(entry: Entry) -> str:
    status = entry.http_status
    if entry.status == "refused":
        return "refused"
    if status is None or status < 400:
        return "timeout" if "timeout" in entry.error else entry.error or "error"
    return "429" if status in (429, 529) else "5xx" if status >= 500 else "client"


def no_answer(hold: Hold, fault: Fault, evidence: str = "{}") -> Settlement:
    """The row of a try that brought no status line. Not sent: nothing to bill. Sent: nobody knows, so it stays at its hold."""
    row = hold.entry._replace(
        status="error" if not fault.sent else "unknown", error=fault.kind, ended="failed",
        latency_ms=fault.elapsed_us // 1000, overhead_us=fault.sent_us,
        cost=hold.amount if fault.sent else 0, cost_other=hold.amount if fault.sent else 0,
        cost_input=0, cost_cache_read=0, cost_cache_write=0, cost_output=0,
        legs=held_leg(hold.amount) if fault.sent else "[]",
        price_status="estimated" if fault.sent else "priced", price_id="rule:charged-at-hold" if fault.sent else NOT_SENT,
        usage_source="unknown" if fault.sent else "provider", evidence=evidence,
    )  # fmt: skip
    used = tuple([c.amount if fault.sent else 0 for c in hold.charges])
    return Settlement(hold.id, row, used, hold.charges)


def held_leg(pico: int) -> str:
    """A leg for money charged at the hold: one unit at the held amount, so that the row still recomputes."""
    return json.dumps([["hold", 1, pico * 1000, pico]]) if pico else "[]"


def refused(entry: Entry, refusal: Refusal, evidence: str = "{}") -> Settlement:
    """The row of a call that was stopped before a provider saw it."""
    row = entry._replace(
        status="refused", ended="refused", http_status=refusal.status, error=refusal.code, cost=0, cost_input=0,
        cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=0, price_status="priced", price_id=NOT_SENT,
        usage_source="provider", evidence=evidence,
    )  # fmt: skip
    return Settlement(entry.id, row, (), ())


def fault_refusal(provider: str, fault: Fault) -> Refusal:
    """What the client is told when the provider brought no answer."""
    if "timeout" in fault.kind:
        return refuse(
            "provider_timeout",
            f"{provider}: {fault.kind} ({fault.detail})",
            f"try again, or raise providers.{provider}.timeout_s",
        )
    if not fault.sent:
        return refuse(
            "provider_unreachable",
            f"{provider}: {fault.kind} ({fault.detail})",
            f"check providers.{provider}.base_url and the network (`bursar doctor`)",
        )
    return refuse("provider_broken", f"{provider}: {fault.kind} ({fault.detail})", "try again; the row is kept at its hold")


def again(entry: Entry, model: str, saved: Mapping[str, Saving], reading: Reading, evidence: str) -> Settlement:
    """The row of a call that a kept reply answered: nothing was sent."""
    row = entry._replace(
        model_served=model, status="ok", ended="complete", http_status=200, finish=reading.finish, cost=0, cost_input=0,
        cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=0, price_status="priced", price_id=KEPT,
        usage_source="provider", response_id=reading.response_id, evidence=evidence,
    )  # fmt: skip
    return Settlement(entry.id, saving.into(row, saved), (), ())


def cached(headers: Headers, verdict: bytes) -> Headers:
    """The headers with what the reply cache did: hit, miss or off."""
    return [(name, verdict if name == b"x-bursar-cache" else value) for name, value in headers]


def stamp(entry: Entry, tries: int) -> Headers:
    """Response headers that are known before the answer is."""
    out = [(b"x-bursar-call", entry.call.encode()), (b"x-bursar-tries", b"%d" % tries), (b"x-bursar-cache", b"off")]
    if conversation := entry.conversation:
        out.append((b"x-bursar-conversation", _safe(conversation)))
    if tier := entry.tier:
        out.append((b"x-bursar-tier", tier.encode()))
    return out


def price_tag(entry: Entry) -> Headers:
    """Response headers that need the bill: on replies that were gathered whole."""
    out: Headers = [(b"x-bursar-cost-source", entry.usage_source.encode())]
    if (cost := entry.cost) is not None:
        out.append((b"x-bursar-cost", plain(cost).encode()))
    if model := entry.model_served:
        out.append((b"x-bursar-model", _safe(model)))
    return out


def remaining(hold: Hold, left: tuple[int, int] | None, used: Sequence[int] = ()) -> Headers:
    """What is left of the hard budget with the least share left: as held, or with what was `used` where the bill is known."""
    if left is None:
        return []
    at, rest = left
    charge = hold.charges[at]
    if used:
        rest += charge.amount - used[at]
    if rest < 0:
        rest = 0
    return [(b"x-bursar-remaining", plain(rest * 1000).encode() if charge.unit == "usd" else f"{rest} {charge.unit}".encode())]


def _safe(text: str) -> bytes:
    """Header bytes from text that a stranger chose: what is not printable ASCII becomes `?`."""
    if text.isascii() and text.isprintable():  # nearly all are, and then 1 µs is saved on each
        return text.encode()
    return bytes([b if 0x20 <= b < 0x7F else 0x3F for b in text.encode("utf-8", "replace")])
