"""What a fire drill works with: the live policy made harmless, a gateway on a ledger of its own for each trial, synthetic callers."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..domain.entry import Charge, Entry, Settlement
from ..domain.labels import CHARGEABLE
from ..domain.policy import Channel, Key, LedgerPolicy, Policy, Provider, Server, Watch
from ..rules import budget
from ..rules.budget import BudgetRule
from ..stores import incidents
from ..stores.incidents import Logged
from ..stores.schema import opened
from ..testing.script import Say, Seen, by_header
from . import gateway, keys, wiring

TOOL = "lookup_order"
PATIENCE_S = 1.5  # to the head of a reply: what the drill says for a provider that times out
CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
MODELS = {"openai": "gpt-5", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
DRILL_CHANNEL = "drill"


def heeding(seen: Seen) -> Say:
    """The scripted provider's answer, as one that heeds the request's cap: what the drill asks for may be cut by a guard."""
    say = by_header(seen)
    body = seen.body if isinstance(seen.body, dict) else {}
    caps = [body[name] for name in CAPS if isinstance(body.get(name), int)]
    caps += [cap for cap in [(body.get("generationConfig") or {}).get("maxOutputTokens")] if isinstance(cap, int)]
    if say.usage is None or not caps or say.usage.output <= min(caps):
        return say
    return replace(say, usage=replace(say.usage, output=min(caps)))


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stand_in() -> Iterator[str]:
    """An address that takes what a person would get."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Post)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/drill"
    finally:
        server.shutdown()
        server.server_close()


def rehearsed(policy: Policy, provider: str, person: str, send: bool) -> Policy:
    """The live policy with the scripted provider behind every name; its channels lead to `person` unless they are to be tried too."""
    names = {"openai", "anthropic", "gemini", *policy.providers}
    places = {
        name: msgspec.structs.replace(
            policy.providers.get(name, Provider()), base_url=provider, key="sk-drill", timeout_s=PATIENCE_S, retries=0
        )
        for name in names
    }
    handed, channels = policy.guard.handoff, dict(policy.channels)
    if not send:
        there = Channel(url=person, kind="webhook", private=True, timeout_s=5.0)
        channels = dict.fromkeys(channels, there)
        if handed:
            channels[DRILL_CHANNEL], handed = there, DRILL_CHANNEL
    return msgspec.structs.replace(
        policy, providers=places, channels=channels, key=[], guard=msgspec.structs.replace(policy.guard, handoff=handed),
        ledger=LedgerPolicy(compact_every_s=0), server=Server(), watch=Watch(every_s=0), alarm=[], owners={},
    )  # fmt: skip


class Answer(NamedTuple):
    status: int
    verdict: str
    text: str

    @property
    def stopped(self) -> bool:
        return self.status == 402 or self.verdict.startswith("stopped:")

    @property
    def acted(self) -> bool:
        """Stopped, or told to end."""
        return self.stopped or self.verdict == "wind_down"

    @property
    def shown(self) -> str:
        return self.text if self.status == 200 else f"{self.status}: {self.text}"


class Stop(NamedTuple):
    call: int
    shown: str


class Trial:
    """One gateway on one empty ledger, so that what acted in it was provoked in it."""

    def __init__(self, handle: gateway.Handle, tokens: Mapping[str, str]) -> None:
        self.handle = handle
        self.ledger = handle.gateway.shop.ledger
        self._tokens = tokens

    @property
    def file(self) -> Path:
        return self.ledger.place.file

    def rows(self) -> list[Entry]:
        return self.ledger.rows()

    def incidents(self) -> list[Logged]:
        with opened(self.file, read_only=True) as connection:
            return incidents.listed(connection, most=1_000)

    def stopped_by(self) -> list[str]:
        """Names of the limits that stopped something, as the ledger's incidents have them."""
        return self.acting("stopped", "refused")

    def acting(self, *acts: str) -> list[str]:
        return sorted({one.budget for one in self.incidents() if one.act in acts})

    def ask(self, body: Mapping[str, Any], labels: Mapping[str, str], say: Mapping[str, Any] | None = None, path: str = "") -> Answer:
        """One call, whose labels may be any, also `key`."""
        headers = {"content-type": "application/json"}
        free: dict[str, str] = {}
        for name, value in labels.items():
            if name == "key":
                headers["x-bursar-key"] = self._tokens[value]
            elif name in CHARGEABLE:
                headers[f"x-bursar-{name}"] = value
            elif name not in ("model", "provider", "call"):
                free[name] = value
        if free:
            headers["x-bursar-labels"] = json.dumps(free)
        if say is not None:
            headers["x-script"] = json.dumps(say)
        connection = http.client.HTTPConnection("127.0.0.1", self.handle.port, timeout=60)
        try:
            connection.request("POST", path or "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            text = _text(answer.read())
        finally:
            connection.close()
        return Answer(answer.status, answer.getheader("x-bursar-verdict") or "", text)

    def nearly(self, rule: BudgetRule, labels: Mapping[str, str], spent: int) -> None:
        """Book the past of a budget, in its own grain: what would take too many calls to provoke."""
        budgets = self.handle.gateway.desk.budgets
        now = wiring.now_us()
        facts = dict(labels)
        if labels.get("conversation"):
            facts["conversation"] = budget.whose(labels.get("tenant", ""), labels.get("key", ""), labels["conversation"])
        scopes = budgets.of(tuple([facts.get(name, "") for name in budgets.names]))
        its = next(scope for scope in scopes.all if scope.rule.name == rule.name).at(now)
        charge = Charge(its.counter, its.name, its.unit, 0, its.limit, its.hard, its.resets_us, its.steps)
        entry = Entry("drill-past.1", now, "drill-past", 1, status="ok", ended="complete", cost=0, price_status="priced", node="drill")
        self.ledger.book(Settlement(entry.id, entry, (spent,), (charge,)))


def _text(raw: bytes) -> str:
    """What a person would read of an answer, in any dialect."""
    try:
        data: Any = json.loads(raw or b"{}")
        if isinstance(data, list):
            data = data[0]
        if "error" in data:
            return str(data["error"].get("message", ""))
        if "choices" in data:
            return data["choices"][0]["message"].get("content") or ""
        if "candidates" in data:
            return "".join(part.get("text", "") for part in data["candidates"][0]["content"]["parts"])
        return "".join(part.get("text", "") for part in data.get("content", ()))
    except (ValueError, LookupError, AttributeError, TypeError):
        return ""


class Agent:
    """An agent with a tool, and no label but those given."""

    def __init__(self, trial: Trial, task: str, labels: Mapping[str, str] = {}) -> None:
        self._trial, self._labels = trial, labels
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
        self._steps = 0

    def step(self, arguments: str, result: str, output: int = 0) -> Answer:
        """The model asks for the tool, and gets that result. `output`: tokens that it writes, else as many as that takes."""
        tools = [{"type": "function", "function": {"name": TOOL, "parameters": {}}}]
        body = {"model": "gpt-5-mini", "messages": self._messages, "tools": tools, "max_tokens": output or 200}
        say: dict[str, Any] = {"text": "", "tools": [[TOOL, arguments]]}
        answer = self._trial.ask(body, self._labels, {**say, "usage": {"input": 500, "output": output}} if output else say)
        self._steps += 1
        call = {"id": f"call_{self._steps}", "type": "function", "function": {"name": TOOL, "arguments": arguments}}
        self._messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{self._steps}", "content": result},
        ]
        return answer

    def turn(self, text: str) -> Answer:
        """A person says something more."""
        body = {"model": "gpt-5-mini", "messages": self._messages, "max_tokens": 200}
        answer = self._trial.ask(body, self._labels, {"text": "Done."})
        self._messages += [{"role": "assistant", "content": "Done."}, {"role": "user", "content": text}]
        return answer

    def until(self, most: int, act: Callable[[int], Answer]) -> Stop | None:
        """Act until it is stopped."""
        for n in range(most):
            answer = act(n)
            if answer.stopped:
                return Stop(n + 1, answer.shown)
        return None


class Room:
    """Where trials are held: a folder, a provider and the keys that scopes need."""

    def __init__(self, folder: Path, policy: Policy, declared: Sequence[Key], created: Sequence[keys.Record]) -> None:
        self._folder, self.policy, self._number = folder, policy, 0
        self.keys: dict[str, tuple[str, dict[str, str], list[str]]] = {}  # name -> tenant, labels, models
        self.keys |= {key.name: (key.tenant, dict(key.labels), list(key.models)) for key in declared}
        self.keys |= {key.name: (key.tenant, dict(key.labels), list(key.models)) for key in created if not key.revoked}

    @contextmanager
    def trial(self, *needed: str) -> Iterator[Trial]:
        """A trial with these virtual keys, which open nothing but it."""
        self._number += 1
        folder = self._folder / f"trial-{self._number}"
        folder.mkdir()
        made = {}
        every = {*needed, *(dict(rule.wants).get("key") or "" for rule in wiring.budget_rules(self.policy))} - {""}
        for name in every:
            tenant, labels, models = self.keys.get(name, ("", {}, []))
            made[name], _ = keys.create(folder, name, tenant=tenant, labels=labels, models=models, now_us=wiring.now_us())
        handle = gateway.serve_in_thread(ledger=folder, policy=self.policy)
        try:
            yield Trial(handle, made)
        finally:
            handle.stop()


def settled(trial: Trial) -> bool:
    """Whether nothing stays held, within a moment."""
    due = time.monotonic() + 5
    while any(standing.held for standing in trial.ledger.counters().values()):
        if time.monotonic() > due:
            return False
        time.sleep(0.02)
    return True
