"""Stops and what people order: the incident that is logged when a guard acts, and the order that a person gives."""

from __future__ import annotations

from .shape import Shape

# What a guard did. `refused`: an error; `stopped`: a reply in the client's dialect; the others let the call go on.
ACTS = ("warned", "cheaper", "compacted", "wound_down", "stopped", "refused")
# Where an incident stands that asks for a person: open until somebody takes it, then resumed or ended. Empty: it asks for nobody.
STATES = ("", "open", "taken", "resumed", "ended")


class Incident(Shape, frozen=True, gc=False):
    """One guard acting on one scope. Calls it acts on again count into the same incident (`key`), so that a client which
    ignores its stop makes one incident and not a thousand. Money in pico-dollars, times in microseconds since the epoch."""

    key: str
    ts: int
    act: str
    code: str  # the refusal's code, also where nothing was refused yet
    reason: str
    budget: str = ""  # which budget or limit
    tenant: str = ""
    feature: str = ""
    flow: str = ""
    user: str = ""
    conversation: str = ""
    call: str = ""
    model: str = ""
    spent: int = 0  # in the unit's own grain, when it acted
    limit: int = 0
    unit: str = ""
    kept: int = 0  # pico-dollars that the refused calls could have cost at most
    evidence: str = "{}"  # JSON
    state: str = ""
    said: str = ""  # the last messages, as JSON, where the policy keeps them
    said_until: int = 0


STOP, RESUME, RAISE, KEEP = "stop", "resume", "raise", "keep"


class Order(Shape, frozen=True, gc=False):
    """What a person (or, for `keep`, the clockwork) has ordered, in force until it is withdrawn or `until` (0: for ever).

    stop: no call that `match` fits goes out, and running streams end. resume: this conversation has its limits once more.
    keep: histories of this flow are sent whole. raise: `budget` has `limit` (as in the policy file) in place of its own."""

    n: int
    at: int
    by: str
    kind: str
    match: tuple[tuple[str, str], ...] = ()  # label and value, all of which must fit; also conversation, key, model, provider, tool
    budget: str = ""
    limit: str = ""
    reason: str = ""
    until: int = 0
