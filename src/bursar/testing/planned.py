"""One request as a simulated company plans it: what is sent, what the provider will say, and the truth about its money."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import blake2s
from typing import Any

from .invoice import NOTHING, PRICES, Buckets, cost
from .script import Say
from .talk import Body, Use, path_of

Key = tuple[str, str]  # a cause of spending: its kind, and which one of that kind

TOOL, FALLBACK, SDK_RETRY, REASK, REPAIR, LOOP = "tool", "fallback", "sdk_retry", "reask", "repair", "loop"
SWITCH = "switch"  # a tool failed, and the agent did something else about it than to call it again
DAY_US = 86_400_000_000
AFTER_US = 10 * 60_000_000  # after midnight, when the day's last try has long ended
RETRIES = (TOOL, SDK_RETRY, REASK, REPAIR)


class Midnights:
    """Ten minutes past each midnight of a company's time, the one before its first call included: when its clockwork goes round, and
    judges every minute of the day that ended. Microseconds."""

    def __init__(self, first_us: int) -> None:
        self._next_us = first_us // DAY_US * DAY_US - DAY_US + AFTER_US

    def until(self, us: int) -> Iterator[int]:
        """Those before then that were not given yet."""
        while self._next_us < us:
            yield self._next_us
            self._next_us += DAY_US


def pair(dear_from: str, to: str) -> Key:
    """The cause of a fallback."""
    return (FALLBACK, f"{dear_from} -> {to}")


def failed(tool: str, again: bool) -> tuple[Key, ...]:
    """The cause of a call that brings a tool's failure. Where it is not called `again`, it may be said of the call as well that
    the agent gave it up."""
    return ((TOOL, tool),) if again else ((TOOL, tool), (SWITCH, tool))


@dataclass(frozen=True, slots=True)
class Fact:
    """The truth about one try, whether or not anybody says it in a header. Dollars are the plan's own, from the provider's
    price list; what was really billed is on the invoice's line of the same `ref`."""

    ref: str  # the call's name, on the invoice and (through the player) in the ledger's column `call`
    ts_us: int
    tenant: str
    feature: str
    flow: str
    user: str
    conversation: str  # what a person would call one conversation
    thread: str  # whose message history it is: a sub-agent has one of its own
    turn: int  # human messages so far
    step: int  # tries so far in the thread, from 1
    purpose: str  # primary | eval | embedding | background
    model: str
    used: Buckets
    dollars: Decimal
    keys: tuple[Key, ...] = ()  # true causes, the foremost first; none: an ordinary call
    suite: str = ""  # of an eval
    trigger: str = ""  # pr | nightly | weekly
    corpus: str = ""  # of an embedding
    reembedded: tuple[int, int] = (0, 0)  # documents of it that had been embedded before, unchanged; of so many

    @property
    def operation(self) -> str:
        """What the try should be booked as."""
        kind = self.keys[0][0] if self.keys else ""
        return "fallback" if kind == FALLBACK else "retry" if kind in RETRIES else self.purpose


@dataclass(frozen=True, slots=True)
class Planned:
    """One request to the gateway. `facts` has the truth of each try that should come of it, in order: the second is a fallback
    of the gateway's own, for which `others` says what that model answers."""

    path: str  # of the provider's own API, with its query
    body: Body
    labels: Mapping[str, str]  # headers with who pays: empty where nobody says it
    say: Say
    facts: tuple[Fact, ...]
    others: Mapping[str, Say] = field(default_factory=dict[str, Say])
    retry: int | None = None  # x-stainless-retry-count, as SDKs number their hidden retries; None: the header is not sent
    leaves_after: int = 0  # the client goes away after so many pieces of the answer, or before the last; 0: it stays

    @property
    def first(self) -> Fact:
        return self.facts[0]

    @property
    def ts_us(self) -> int:
        return self.facts[0].ts_us

    @property
    def ref(self) -> str:
        return self.facts[0].ref

    @property
    def dollars(self) -> Decimal:
        """Of all tries."""
        return sum((fact.dollars for fact in self.facts), Decimal(0))

    def told(self, model: str) -> Say:
        """What is answered when this model is asked."""
        return self.others.get(model, self.say)

    def headers(self, script: bool = True) -> dict[str, str]:
        """Everything but the credential. `script`: with the header that a provider in another process is told by."""
        headers = dict(self.labels)
        if script:
            told = _differs(self.say, Say())
            if self.others:
                told["models"] = {model: _differs(say, self.say) for model, say in self.others.items()}
            headers["x-script"] = json.dumps(told, separators=(",", ":"))
        if self.retry is not None:
            headers["x-stainless-retry-count"] = str(self.retry)
        return headers


def _differs(say: Say, other: Say) -> dict[str, Any]:
    """The fields in which one Say differs from another, as plain data."""
    told = {name: value for name in Say.__slots__ if (value := getattr(say, name)) != getattr(other, name)}
    if isinstance(used := told.get("usage"), Buckets):
        told["usage"] = {name: count for name in Buckets.__slots__ if (count := getattr(used, name))}
    return told


def owed(model: str, used: Buckets, prices: Mapping[str, Mapping[str, str]] = PRICES) -> Decimal:
    """Dollars by the provider's price list. A model that is not on it is a mistake in the plan."""
    dollars = cost(prices, model, used)
    assert dollars is not None, f"{model} has no price for {used}"
    return dollars


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a conversation is for, and when it starts."""

    ts_us: int
    tenant: str
    user: str
    conversation: str
    feature: str
    flow: str


class Thread:
    """Plans the requests of one message history, one after another, and numbers them."""

    def __init__(
        self, who: Who, *, purpose: str = "primary", thread: str = "", name: str = "", labels: Mapping[str, str] | None = None
    ) -> None:
        """`name` is what the calls' refs begin with, where the conversation has no id. `labels`: headers that say who pays."""
        self.who, self.purpose, self.labels = who, purpose, labels or {}
        self.thread = thread or who.conversation
        self.step = 0
        self._name = name or self.thread

    @property
    def ident(self) -> str:
        """What the next answer's ids will be made of."""
        return blake2s(f"{self._name}/{self.step + 1}".encode(), digest_size=6).hexdigest()

    def plan(
        self, ts_us: int, dialect: str, model: str, body: Body, used: Buckets, *, turn: int = 0, text: str = "",
        uses: Sequence[Use] = (), keys: tuple[Key, ...] = (), stream: bool = False, say: Mapping[str, Any] | None = None,
        second: tuple[str, Buckets] | None = None, retry: int | None = None, leaves_after: int = 0,
        prices: Mapping[str, Mapping[str, str]] = PRICES, **more: Any,
    ) -> Planned:  # fmt: skip
        """The next request. `say` has further fields of the answer (a fault, a status); `second`: the model that the gateway
        falls back to, which answers as this one should have, and what it uses; `more` are further fields of the fact."""
        ident = self.ident
        self.step += 1
        who, ref = self.who, f"{self._name}-{self.step}"
        failed = say is not None and int(say.get("status", 200)) >= 400
        used = NOTHING if failed else used
        tools = tuple((use.name, json.dumps(use.arguments)) for use in uses)
        said = Say(
            **{
                "text": text or "Done.", "tools": tools, "usage": None if failed else used, "pieces": 3, "at_us": ts_us, "ref": ref,
                "ident": ident, **(say or {}),
            }
        )  # fmt: skip
        fact = Fact(
            ref, ts_us, who.tenant, who.feature, who.flow, who.user, who.conversation, self.thread, turn, self.step, self.purpose,
            model, used, owed(model, used, prices), keys, **more,
        )  # fmt: skip
        facts, others = (fact,), dict[str, Say]()
        if second is not None:
            to, needed = second
            others[to] = replace(said, fault="", usage=needed, tools=tools)
            facts = (fact, replace(fact, model=to, used=needed, dollars=owed(to, needed, prices), keys=(pair(model, to),)))
            if said.fault == "malformed":
                said = replace(said, tools=())  # it is the demanded text that is spoilt: the tool call is the second model's
        return Planned(path_of(dialect, model, stream), body, self.labels, said, facts, others, retry, leaves_after)
