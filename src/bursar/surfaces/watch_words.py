"""An alarm in words: what, how much against normal, since when, what explains it, and what to do. Measured, never guessed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from ..domain.alarm import Standing, decimal
from ..domain.message import Item, Link, Message
from ..domain.money import show
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from . import links, periods, tables
from .cli_common import dimension, pico
from .why import LABELS, Span, report

LISTED = 20  # alarms that a digest has words for
HOUR, DAY = 3_600_000_000, 86_400_000_000
EXPLAINED = {"cost", "calls", "tokens", "errors", "fallback_cost", "fallback_rate", "retry_cost", "loop_cost", "error_rate"}
STOPPABLE = {"tenant", "feature", "flow", "user", "conversation", "key", "model", "provider", "tool"}
OWN = {"fallback_cost": "fallback", "fallback_rate": "fallback", "retry_cost": "retry"}  # the driver an alarm is about
WHAT = {
    "cost": "spent", "calls": "calls", "tokens": "tokens", "errors": "failed tries", "error_rate": "of tries failed",
    "fallback_rate": "of tries are fallbacks", "fallback_cost": "spent on fallbacks", "retry_cost": "spent on retries",
    "loop_cost": "spent in a loop", "tool_calls": "tool answers", "cache_hit_rate": "of input from the prompt cache",
    "unattributed_share": "of spend unattributed",
    "unpriced_share": "of tries without a price", "conversation_tokens": "tokens in a long conversation (p95)",
    "conversation_turns": "turns in a long conversation (p95)", "budget": "of the budget used", "creep": "a week",
    "drift": "counters differ from the rows", "drill_days": "days since a drill was passed",
}  # fmt: skip


class Reason(NamedTuple):
    """What the ledger says beside an alarm: sentences, what was spent since it began (pico-dollars; -1: not asked), the dearest
    conversation, and the command that shows more."""

    sentences: tuple[str, ...] = ()
    spent: int = -1
    conversation: str = ""
    conversation_cost: int = 0
    command: str = ""


def subject(standing: Standing) -> str:
    """Whom it is about: the scope's values, and the whole ledger where there is no scope."""
    scope = scope_of(standing)
    if standing.metric == "budget":
        return f"budget {tables.safe(scope.get('budget', ''))}"
    names = [f"tool {tables.safe(value)}" if label == "tool" else tables.label(value) for label, value in scope.items()]
    return " · ".join(names) or "everything"


def scope_of(standing: Standing) -> dict[str, str]:
    return msgspec.json.decode(standing.scope, type=dict[str, str])


def amount(unit: str, value: int) -> str:
    """For people: $52.10, 7.1%, 3,120 calls."""
    if unit == "usd":
        return show(value)
    if unit == "share":
        return f"{Decimal(value) / 10_000:.1f}%"
    return f"{value:,}"


def span(us: int) -> str:
    for length, name in ((DAY, "day"), (HOUR, "hour"), (60_000_000, "minute")):
        if us >= length and us % length == 0:
            return f"{'an' if name == 'hour' else 'a'} {name}" if us == length else f"{us // length} {name}s"
    return ""


def headline(standing: Standing, kind: str = "firing") -> str:
    """One line: who, how much, over which time, against what."""
    unit = standing.unit
    value = standing.peak if kind == "resolved" else standing.value
    who = f"{subject(standing)}: " if scope_of(standing) else ""
    text = f"{who}{amount(unit, value)} {WHAT.get(standing.metric, standing.metric)}"
    if standing.metric == "creep":
        text += f", {Decimal(value) / max(1, standing.normal):.1f} times the week to {minute(standing.since)[:10]}"
    elif standing.window_us:
        text += f" in {span(standing.window_us)}"
    if kind == "resolved":
        return f"Over: {text} at most, now back to normal"
    if standing.metric != "creep":
        text += against(standing)
    return {"worse": "Worse: ", "reminder": "Still: ", "test": "Test: "}.get(kind, "") + text


def against(standing: Standing) -> str:
    """What it is held against, as the end of a sentence."""
    if standing.level == "line" or standing.normal < 0:
        way = "under" if standing.threshold and standing.value < standing.threshold else "the line is"
        return f"; {way} {amount(standing.unit, standing.threshold)}" if standing.threshold else ""
    if not standing.normal:
        return "; next to nothing is usual"
    times = Decimal(standing.value) / standing.normal
    return f", {times:.1f} times the usual" if times < 10 else f", {times:.0f} times the usual"


def compose(standing: Standing, kind: str, at_us: int, reason: Reason, base: str = "", key: bytes = b"", ttl_us: int = DAY) -> Message:
    """The message of a notice. With `base`, signed links to Bursar's own pages."""
    unit = standing.unit
    facts = [("Alarm", standing.rule)]
    if kind == "resolved":
        facts += [("Lasted", f"{minute(standing.since)} to {minute(standing.resolved)} UTC"), ("At most", amount(unit, standing.peak))]
    else:
        normal = amount(unit, standing.normal) if standing.normal >= 0 and standing.level != "line" else ""
        creeps = standing.metric == "creep"
        usual = f"Week to {minute(standing.since)[:10]}" if creeps else "Usual"
        facts += [("Now", amount(unit, standing.value))] + ([(usual, normal)] if normal else [])
        facts += [("Line", amount(unit, standing.threshold))] if standing.threshold else []
        facts += [] if creeps else [("Since", f"{minute(standing.since)} UTC")]
    facts += [(label.capitalize(), tables.label(value)) for label, value in scope_of(standing).items()]
    facts += [("Owner", standing.owner)] if standing.owner else []
    if reason.conversation:
        facts.append(("Dearest conversation", f"{tables.safe(reason.conversation)}, {show(reason.conversation_cost)}"))
    sentences = tuple(map(tables.safe, reason.sentences))
    command = reason.command or f"bursar alarms --id {standing.id}"
    spent = (standing.peak if kind == "resolved" else standing.value) if unit == "usd" else reason.spent
    data: dict[str, object] = {
        "alarm": standing.id, "rule": standing.rule, "metric": standing.metric, "unit": unit, "scope": scope_of(standing),
        "state": standing.state, "level": standing.level, "value": plain(unit, standing.value), "peak": plain(unit, standing.peak),
        "normal": plain(unit, standing.normal) if standing.normal >= 0 else None,
        "threshold": plain(unit, standing.threshold) if standing.threshold else None,
        "since": periods.iso(standing.since), "fired": periods.iso(standing.fired),
        "resolved": periods.iso(standing.resolved) if standing.resolved else None, "owner": standing.owner,
        "dollars": plain("usd", spent) if spent >= 0 else None,
    }  # fmt: skip
    made = _links(standing, kind, at_us, reason, base, key, ttl_us) if base else ()
    return Message(
        f"{standing.id}.{standing.notices}", kind, at_us, headline(standing, kind), sentences, tuple(facts), command, made, data
    )


def _links(standing: Standing, kind: str, at_us: int, reason: Reason, base: str, key: bytes, ttl_us: int) -> tuple[Link, ...]:
    def link(text: str, action: str, about: str, style: str = "") -> Link:
        return Link(text, links.make(base, key, action, about, at_us + ttl_us), style)

    judge = (link("Useful", "useful", standing.id), link("Noise", "noise", standing.id))
    if kind == "resolved":
        return judge
    scope = {label: value for label, value in scope_of(standing).items() if label in STOPPABLE and value}
    text = f"Stop {subject(standing)} …"
    if reason.conversation:
        scope, text = {"conversation": reason.conversation}, "Stop the dearest conversation …"
    # What grows over months needs no stop at once.
    stop = (link(text, "stop", msgspec.json.encode(scope).decode(), "danger"),) if scope and standing.metric != "creep" else ()
    return (*stop, link("I have it", "ack", standing.id, "primary"), *judge)


_message = msgspec.json.Decoder(Message)


def message_of(text: str) -> Message:
    """A message as it lies in the outbox."""
    return _message.decode(text)


KINDS = {"firing": "new", "worse": "worse", "reminder": "going on", "resolved": "over"}  # what a digest gathers, and its words


def digest(messages: Sequence[Message], channel: str, at_us: int) -> Message:
    """Several notices as one message: each alarm once, as it was said last; what goes on first, by dollars. Its id is made of
    theirs."""
    latest: dict[str, Message] = {}
    for one in messages:
        name = str(one.data.get("alarm") or one.id)
        if name in latest and latest[name].kind == "firing" and one.kind != "resolved":  # nobody has heard of it yet
            one = one._replace(kind="firing", title=one.title.removeprefix("Worse: ").removeprefix("Still: "))
        latest[name] = one
    listed = sorted(latest.values(), key=lambda one: (one.kind == "resolved", -_dollars(one), one.at_us))
    counts = [(word, sum(one.kind == kind for one in listed)) for kind, word in KINDS.items()]
    title = f"{len(listed)} alarm{'s' * (len(listed) != 1)}: {', '.join(f'{count} {word}' for word, count in counts if count)}"
    if listed[0].kind != "resolved" and _dollars(listed[0]) >= 0:
        title += f"; dearest: {listed[0].title}"
    told = [one.id for one in messages]
    id = "digest." + blake2b("\n".join((channel, *sorted(told))).encode(), digest_size=5).hexdigest()
    fields = ("alarm", "rule", "scope", "state", "level", "value", "unit", "dollars")
    each = [{"id": one.id, "kind": one.kind, "title": one.title} | {name: one.data.get(name) for name in fields} for one in listed]
    text = (f"The dearest {LISTED} of them:",) if len(listed) > LISTED else ()
    items = tuple(map(_item, listed[:LISTED]))
    return Message(id, "digest", at_us, title, text, (), "bursar alarms", (), {"notices": told, "alarms": each}, items)


def _dollars(one: Message) -> Decimal:
    return Decimal(str(one.data.get("dollars") or -1))


def _item(one: Message) -> Item:
    beside = f" ({show(pico(_dollars(one)))} spent meanwhile)" if _dollars(one) >= 0 and one.data.get("unit") != "usd" else ""
    have = next((link for link in one.links if "/ack?" in link.url), None)
    return Item(f"{one.title}{beside} · {one.data.get('alarm')}", have)


def plain(unit: str, value: int) -> str:
    """For programs: an exact decimal."""
    text = f"{decimal(unit, value):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def minute(us: int) -> str:
    return periods.iso(us // 60_000_000 * 60_000_000)[:16].replace("T", " ")


# -- what explains it ------------------------------------------------------------------------------------------------------


def reason(reader: Reader, standing: Standing, at_us: int) -> Reason:
    """The window against the same one a week before (or, in a ledger's first week, the one just before it): the driver and the
    slice that most of the change is in, and the conversation that cost most. Slow growth: the week against the one it outgrew."""
    creeps = standing.metric == "creep"
    if (standing.metric not in EXPLAINED and not creeps) or not standing.window_us:
        return Reason()
    scope = {label: value for label, value in scope_of(standing).items() if label != "tool"}
    where = tuple(Filter(dimension(label), (value,)) for label, value in scope.items())
    if creeps:
        this, versus = (at_us // DAY * DAY - 7 * DAY, at_us // DAY * DAY), (standing.since - 7 * DAY, standing.since)
        time, basis = (f"in the week to {minute(until)[:10]}" for until in (this[1], versus[1]))
    else:
        this = (min(standing.since, at_us - standing.window_us), at_us)
        versus, basis = (this[0] - 7 * DAY, this[1] - 7 * DAY), "at the same time a week before"
        time = f"since {minute(this[0])} UTC"
        (early,) = reader.query(Query(("first",), (), (), None, versus[1]))
        if early["first"] is None or early["first"] > versus[0]:
            versus, basis = (2 * this[0] - this[1], this[0]), "in as long a time just before"
    spans = ["..".join(minute(us).replace(" ", "T") + "Z" for us in span) for span in (this, versus)]
    shown = " ".join(f"--where {shlex.quote(f'{label}={value}')}" for label, value in scope.items())
    command = f"bursar why --this {spans[0]} --versus {spans[1]} {shown}".strip()
    name, cost = ("", 0) if creeps else _dearest(reader, where, this)
    sentences, before, now = _told(reader, where, this, versus, standing.metric)
    lead = f"{show(now)} {time}, {show(before)} {basis}."
    return Reason((lead, *sentences), now, name, cost, command)


def _told(reader: Reader, where: Sequence[Filter], this: Span, versus: Span, metric: str) -> tuple[tuple[str, ...], int, int]:
    """In sentences the finding that the alarm is about, else the largest that goes the way of the change, and the slice most of it
    is in; and what was spent before and now."""
    labels = tuple(label for label in LABELS if label not in {one.name for one in where}) or ("flow",)
    made = report(reader, labels, where, this, versus)
    before, now = made.explained.before, made.explained.now
    own = [one for one in made.told.findings if one.driver == OWN.get(metric)]
    along = [one for one in made.told.findings if one.change > 0] if now > before else []
    places = [
        one for one in made.told.places
        if one.how in ("alike", "amount") and one.now > one.before and any(value or name != "cause" for name, value in one.where)
    ] if now > before else []  # fmt: skip
    return tuple([one.sentence for one in (own or along)[:1]] + [place.sentence for place in places[:1]]), before, now


def _dearest(reader: Reader, where: Sequence[Filter], this: Span) -> tuple[str, int]:
    named = (*where, Filter("conversation", ("",), True))
    rows = reader.query(Query(("cost",), ("conversation",), named, *this, top=1))
    if not rows or rows[0]["cost"] is None:
        return "", 0
    return rows[0]["conversation"], pico(rows[0]["cost"])
