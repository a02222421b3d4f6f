"""Hand-offs: open incidents become messages in the outbox, for the channel or the address that `guard.handoff` names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import apsw
import msgspec

from ..domain.alarm import Notice
from ..domain.message import Message
from ..domain.money import plain, show
from ..domain.policy import Channel, Policy
from ..rules.budget import told
from ..stores import alarms, incidents
from ..stores.incidents import Logged
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from ..stores.schema import transaction
from .cli_common import pico

ALARM = "handoff"  # what the outbox knows them by


def is_address(place: str) -> bool:
    """Whether `guard.handoff` is an address of its own and not a channel's name."""
    return place.startswith(("https://", "http://"))


def channel(policy: Policy, name: str) -> Channel | None:
    """A channel by its name; the hand-off's own address is a webhook."""
    found = policy.channels.get(name)
    if found is None and name == policy.guard.handoff and is_address(name):
        return Channel(url=name, kind="webhook")
    return found


def hand_off(connection: apsw.Connection, policy: Policy, now_us: int, reader: Callable[[], Reader], *, drill: bool = False) -> int:
    """Put what nobody was told of yet into the outbox; how many. Incident and notice are one transaction: told at least once, under
    one id. `drill`: the message says that it is one, and names no command."""
    place = policy.guard.handoff
    found = incidents.untold(connection) if place else []
    if not found:
        return 0
    with reader() as rows:
        messages = [message(one, *cost(rows, one), incidents.said(connection, one, now_us)) for one in found]
    if drill:
        messages = [
            made._replace(
                id=f"drill-{now_us}-{made.id}", title=f"Drill. {made.title}", command="", data={**made.data, "drill": True},
                text=("This is a drill: nobody was stopped.", *made.text),
            )
            for made in messages
        ]  # fmt: skip
    with transaction(connection):
        for one, made in zip(found, messages, strict=True):
            alarms.put(connection, Notice(made.id, ALARM, ALARM, now_us, msgspec.json.encode(made).decode(), (place,)), now_us)
            incidents.told(connection, one.n, now_us)
    return len(found)


def cost(reader: Reader, one: Logged) -> tuple[int, int]:
    """What the conversation cost so far, in pico-dollars, and its tries; of another incident's scope nothing is asked."""
    if not one.conversation:
        return 0, 0
    where = (Filter("conversation", (one.conversation,)), *([Filter("tenant", (one.tenant,))] if one.tenant else []))
    (row,) = reader.query(Query(("cost", "tries"), (), where))
    return (pico(row["cost"]) if row["cost"] else 0), row["tries"]


LAST = {"human": "the user", "model": "the agent", "result": "a tool"}
SHOWN = 2  # messages in the text of a hand-off; all that are kept are in its data
SHOWN_CHARS = 280


def quoted(said: Sequence[Mapping[str, str]], most: int = SHOWN) -> list[str]:
    """Who said what last, one line each, oldest first."""
    return [f"{LAST.get(one['role'], one['role'])}: “{_cut(' '.join(one['text'].split()))}”" for one in said[-most:]]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def message(one: Logged, spent_pico: int, tries: int, said: Sequence[Mapping[str, str]] = ()) -> Message:
    """What a person must know to take it over."""
    who = one.conversation or one.tenant or one.feature or one.budget
    sentences = [one.reason[:1].upper() + one.reason[1:] + "."]
    if one.conversation:
        sentences.append(f"The conversation has cost {show(spent_pico)} in {tries:,} tries; its user was told that a person goes on.")
    sentences += [f"Last, {line}" for line in quoted(said)]
    facts = [("conversation", one.conversation), ("tenant", one.tenant), ("feature", one.feature), ("flow", one.flow),
             ("user", one.user), ("model", one.model), ("limit", one.budget)]  # fmt: skip
    if one.unit:
        facts.append(("stands at", f"{told(one.unit, one.spent)} of {told(one.unit, one.limit)}"))
    facts.append(("refused calls could have cost", show(one.kept)))
    data: dict[str, object] = {
        "incident": one.n, "code": one.code, "act": one.act, "reason": one.reason, "conversation": one.conversation,
        "tenant": one.tenant, "feature": one.feature, "flow": one.flow, "user": one.user, "call": one.call, "model": one.model,
        "limit": one.budget,
        "cost": plain(spent_pico), "stopped": plain(one.kept), "calls": one.calls, "evidence": json.loads(one.evidence),
        **({"messages": list(said)} if said else {}),
    }  # fmt: skip
    return Message(
        f"incident-{one.n}-{one.last_ts}", ALARM, one.last_ts, f"Stopped: {who} ({one.code.replace('_', ' ')})", tuple(sentences),
        tuple((name, value) for name, value in facts if value), f"bursar guard take {one.n}", (), data,
    )  # fmt: skip
