"""The fire drill: synthetic trouble through the live policy, a real gateway and a scripted provider, on a ledger of its own. What
tripped, at which call, how far it overshot, what the user would see, and how long a person waits to hear of it."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from blake3 import blake3

from ..domain.labels import OPERATIONS
from ..domain.money import plain
from ..domain.policy import Channel, Guard, LedgerPolicy, Policy, Provider, Server, Watch
from ..rules import guard as guards
from ..rules.budget import BudgetRule, compile_budget, told
from ..stores import incidents
from ..stores.glance import Glance
from ..stores.schema import Place, connect
from ..testing.provider import Provider as Scripted
from . import bell, gateway, handoff, wiring
from .watch import Watch as Clockwork

STEPS = 60  # calls that a runaway makes before the drill gives up on the guard
CALLS = 400  # … and that a budget is given to trip
CALLERS = 16  # at once
PARTS = 12  # calls that a budget of dollars or tokens is spread over
TOOL = "lookup_order"
TRIPPED, MISSING, FAILED, UNTRIED = "tripped", "missing", "failed", "not tried"
MUST = ("runaway", "spending")  # what a policy must stop for the drill to pass

_PASTE = {
    "runaway": '[guard]\nrepeats_max = 6\ntool_calls_max = 25\nwind_down = true\n',
    "spending": '[[budget]]\nname = "each tenant\'s day"\nscope = "tenant"\nlimit = "$50"\nwindow = "day"\n',
    "hand-off": '[guard]\nhandoff = "https://hooks.example.com/bursar"\n',
}


class Line(NamedTuple):
    """What became of one guard. `call`: the call at which it acted, from 1; `spent`, `limit`, `over` in words."""

    what: str  # runaway | depth | ignoring | spending | flaky tool | fallback | hand-off | channel
    name: str
    verdict: str
    call: int = 0
    spent: str = ""
    limit: str = ""
    over: str = ""
    shown: str = ""
    seconds: float = 0.0
    note: str = ""
    paste: str = ""


class Report(NamedTuple):
    ts: int
    policy: str
    passed: bool
    lines: tuple[Line, ...]
    seconds: float


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.heard.append(time.monotonic())  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _receiver() -> Iterator[tuple[str, list[float]]]:
    """An address that stands in for a person's: its URL, and the moments at which something came."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Post)
    server.heard = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/drill", server.heard  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def rehearsed(policy: Policy, provider: str, person: str, send: bool) -> Policy:
    """The live policy, with the scripted provider behind every name; its channels lead to `person` unless they are to be tried too."""
    names = {"openai", "anthropic", "gemini", *policy.providers}
    places = {
        name: msgspec.structs.replace(policy.providers.get(name, Provider()), base_url=provider, key="sk-drill") for name in names
    }
    handed = policy.guard.handoff
    channels = dict(policy.channels)
    if not send:
        stand_in = Channel(url=person, kind="webhook", private=True, timeout_s=5.0)
        channels = {name: stand_in for name in channels}
        if handed:
            channels["drill"], handed = stand_in, "drill"
    return msgspec.structs.replace(
        policy, providers=places, channels=channels, key=[], guard=msgspec.structs.replace(policy.guard, handoff=handed),
        ledger=LedgerPolicy(compact_every_s=0), server=Server(), watch=Watch(every_s=0), alarm=[],
    )  # fmt: skip


class Drill:
    """One drill. `step` is told what is tried next."""

    def __init__(self, policy: Policy, policy_hash: str, *, send: bool = False, step: Callable[[str], None] = lambda _: None) -> None:
        self.policy, self.hash, self.send, self._step = policy, policy_hash, send, step
        self.lines: list[Line] = []

    def run(self, now_us: int) -> Report:
        """Everything, in some seconds."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bursar-drill-") as folder, Scripted() as provider, _receiver() as (person, heard):
            live = rehearsed(self.policy, provider.url, person, self.send)
            handle = gateway.serve_in_thread(ledger=Path(folder, "ledger"), policy=live)
            try:
                self._try(handle, live, provider, heard)
            finally:
                handle.stop()
        bad = [line for line in self.lines if line.verdict == FAILED or (line.verdict == MISSING and line.what in MUST)]
        return Report(now_us, self.hash, not bad, tuple(self.lines), round(time.monotonic() - began, 1))

    def _try(self, handle: gateway.Handle, live: Policy, provider: Scripted, heard: list[float]) -> None:
        self._step("a runaway that calls one tool again and again")
        self._runaway(handle, live)
        self._step("an agent that never ends")
        self._depth(handle)
        rules = [compile_budget(b, n, ZoneInfo) for n, b in enumerate(live.budget)]
        for rule in rules:
            self._step(f"budget {rule.name}")
            self._spend(handle, rule)
        if not any(rule.hard for rule in rules):
            self.lines.append(Line("spending", "budgets", MISSING, note="no hard budget: nothing bounds what a tenant spends",
                                   paste=_PASTE["spending"]))  # fmt: skip
        self._step("a tool that fails")
        self._flaky(handle)
        for n, line in enumerate(live.fallback):
            self._step(f"fallback from {line.from_}")
            self._fallback(handle, provider, line, n)
        self._step("the hand-off")
        self._handoff(handle, live, heard)
        for name in self.policy.channels:
            self._step(f"channel {name}")
            self._channel(name, live)

    # -- what is tried -----------------------------------------------------------------------------------------------------

    def _runaway(self, handle: gateway.Handle, live: Policy) -> None:
        agent = _Agent(handle, "drill: find my order", tenant="drill-runaway")
        stop = agent.until(STEPS, lambda n: ('{"id":1}', "still not ready"))
        if stop is None:
            note = "the same call with the same result, 60 times, and nothing stopped it"
            verdict = FAILED if live.guard.repeats_max or live.guard.mode == "on" else MISSING
            self.lines.append(Line("runaway", "loop", verdict, note=note, paste=_PASTE["runaway"]))
            return
        self.lines.append(Line("runaway", "loop", TRIPPED, stop.call, shown=stop.shown, note=stop.code))
        more = [agent.step('{"id":1}', "still not ready") for _ in range(4)]
        fed = [answer for answer in more if answer.status == 200]
        bad = len(fed) > guards.REPLIES_MAX or any(not answer.stopped for answer in more)
        self.lines.append(Line("ignoring", "a client that goes on all the same", FAILED if bad else TRIPPED,
                               shown=more[-1].shown, note=f"{len(fed)} more replies, then the error"))  # fmt: skip

    def _depth(self, handle: gateway.Handle) -> None:
        table: Guard = self.policy.guard
        agent = _Agent(handle, "drill: read every page", tenant="drill-depth")
        stop = agent.until(STEPS, lambda n: (json.dumps({"page": n}), f"page {n}: {blake3(str(n).encode()).hexdigest()}"))
        if stop is not None:
            self.lines.append(Line("depth", "tool calls", TRIPPED, stop.call, shown=stop.shown, note=stop.code))
        elif table.tool_calls_max and table.tool_calls_max < STEPS - 1 and table.mode in ("", "on"):
            self.lines.append(Line("depth", "tool calls", FAILED, note=f"{STEPS} tool calls, the limit is {table.tool_calls_max}"))
        else:
            self.lines.append(Line("depth", "tool calls", MISSING, note=f"{STEPS} tool calls with new arguments, nothing stopped it",
                                   paste="[guard]\ntool_calls_max = 25\n"))  # fmt: skip

    def _spend(self, handle: gateway.Handle, rule: BudgetRule) -> None:
        """Many callers at once, until the budget is short; it must never have been passed."""
        name, limit = rule.name, rule.limit
        if not rule.hard:
            whole = told(limit.unit, limit.amount)
            self.lines.append(Line("spending", name, UNTRIED, limit=whole, note="a soft budget: it stops nobody"))
            return
        wants = {label: value or f"drill-{label}" for label, value in rule.wants}
        model = wants.pop("model", "") or "gpt-5"
        wants.pop("provider", "")
        if any(label == "key" for label in wants) or wants.get("operation", "primary") not in OPERATIONS:
            self.lines.append(Line("spending", name, UNTRIED, limit=told(limit.unit, limit.amount), note="needs one of your keys"))
            return
        calls, tokens = CALLS, 1_000
        if limit.unit == "usd":
            price = handle.gateway.desk.prices.find("openai", model, wiring.now_us())
            each = price.rates["output"].base if price is not None and "output" in price.rates else 0
            if not each:
                self.lines.append(Line("spending", name, UNTRIED, limit=told("usd", limit.amount), note=f"{model} has no price"))
                return
            tokens, calls = max(limit.amount * 10**6 // PARTS // each, 1), PARTS * 3
        elif limit.unit == "tokens":
            tokens, calls = max(limit.amount // PARTS, 1), PARTS * 3
        elif limit.amount >= CALLS:
            self.lines.append(Line("spending", name, UNTRIED, limit=told(limit.unit, limit.amount), note=f"more than {CALLS} calls"))
            return
        said = json.dumps({"usage": {"input": 50, "output": tokens}})
        headers = {f"x-bursar-{label}": value for label, value in wants.items() if label in _HEADERS}
        free = {label: value for label, value in wants.items() if label not in _HEADERS and label != "call"}
        if free:
            headers["x-bursar-labels"] = json.dumps(free)
        if limit.unit == "tool_calls":
            agent = _Agent(handle, f"drill: {name}", **headers)
            stop = agent.until(min(limit.amount + 5, CALLS), lambda n: (json.dumps({"n": n}), f"result {n}"))
            first = stop.call if stop is not None else 0
            shown = stop.shown if stop is not None else ""
        else:
            body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": f"drill: {name}"}]}
            with ThreadPoolExecutor(CALLERS) as pool:
                answers = list(pool.map(lambda _: _ask(handle, body, {**headers, "x-script": said}), range(calls)))
            refused = [n for n, answer in enumerate(answers, 1) if answer.stopped]
            first, shown = (refused[0], answers[refused[0] - 1].shown) if refused else (0, "")
        standings = [s for s in handle.gateway.shop.ledger.counters().values() if s.budget == name]
        spent = max((s.spent for s in standings), default=0)
        held = sum(s.held for s in standings)
        over = max(spent - limit.amount, 0)
        verdict = FAILED if not first or over or held else TRIPPED
        note = f"{CALLERS} callers at once" + (", holds were left" if held else "")
        in_words = told(limit.unit, spent), told(limit.unit, limit.amount), told(limit.unit, over)
        self.lines.append(Line("spending", name, verdict, first, *in_words, shown, note=note))

    def _flaky(self, handle: gateway.Handle) -> None:
        agent = _Agent(handle, "drill: a flaky tool", tenant="drill-flaky")
        for _ in range(3):
            agent.step('{"id":7}', "Error: connection reset by peer")
        rows = [row for row in handle.gateway.shop.ledger.rows() if row.tenant == "drill-flaky" and row.cause == f"tool:{TOOL}"]
        spent = sum(row.cost or 0 for row in rows)
        self.lines.append(Line("flaky tool", TOOL, TRIPPED if rows else FAILED, spent=f"${plain(spent)}" if rows else "",
                               note=f"{len(rows)} calls are charged to it"))  # fmt: skip

    def _fallback(self, handle: gateway.Handle, provider: Scripted, line: Any, number: int) -> None:
        model = line.from_.rpartition("/")[2]
        bad = {"status": 500} if "5xx" in line.on else {"status": 429} if "429" in line.on else {"text": "{", "tools": [[TOOL, "{"]]}
        to = line.to if isinstance(line.to, str) else line.to[0]
        said = json.dumps({"models": {model: bad}, "text": "Done."})
        family = handle.gateway.desk.prices.find("anthropic", model, wiring.now_us())
        anthropic = family is not None and model.startswith("claude")
        path = "/v1/messages" if anthropic else "/v1/chat/completions"
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": f"drill: fallback {number}"}]}
        answer = _ask(handle, body, {"x-script": said, "x-bursar-tenant": f"drill-fallback-{number}"}, path)
        rows = [row for row in handle.gateway.shop.ledger.rows() if row.tenant == f"drill-fallback-{number}"]
        fell = [row for row in rows if row.attempt_kind == "fallback"]
        ratio = ""
        if fell and rows[0].hold and fell[0].hold:
            ratio = f", a hold {fell[0].hold / rows[0].hold:.1f} times as large"
        bound = f"ceiling {line.ceiling}" if line.ceiling else "no ceiling bounds it"
        verdict = TRIPPED if fell and answer.status == 200 else UNTRIED
        note = f"booked with its reason{ratio}; {bound}" if fell else f"could not be provoked ({answer.status})"
        self.lines.append(Line("fallback", f"{line.from_} to {to}", verdict, note=note))

    def _handoff(self, handle: gateway.Handle, live: Policy, heard: list[float]) -> None:
        if not live.guard.handoff:
            self.lines.append(Line("hand-off", "to a person", MISSING, note="nobody is told that a conversation was stopped",
                                   paste=_PASTE["hand-off"]))  # fmt: skip
            return
        glance = Glance(handle.gateway.shop.ledger.place)
        waiting = glance.ask(lambda c: incidents.untold(c), [])
        glance.close()
        if not waiting:
            self.lines.append(Line("hand-off", live.guard.handoff, UNTRIED, note="nothing was stopped"))
            return
        began, before = time.monotonic(), len(heard)
        work = Clockwork(handle.gateway.shop.ledger.place.file, policy=live)
        try:
            work.cycle()
        finally:
            work.close()
        took = time.monotonic() - began
        came = len(heard) - before if not self.send else len(waiting)
        note = f"{came} of {len(waiting)} incidents" + ("" if self.send else ", to a stand-in (--send: to yours)")
        verdict = TRIPPED if came >= len(waiting) else FAILED
        self.lines.append(Line("hand-off", "to a person", verdict, seconds=round(took, 2), note=note))

    def _channel(self, name: str, live: Policy) -> None:
        found = handoff.channel(live, name)
        assert found is not None
        message = bell.Message(f"drill-{name}-{time.time_ns()}", "test", wiring.now_us(), "Bursar: a fire drill",
                               ("This is a drill. Nothing was spent, nothing is stopped.",))  # fmt: skip
        began = time.monotonic()
        got = bell.deliver(bell.address(name, found), message)
        good = isinstance(got, bell.Delivered)
        note = "" if self.send else "to a stand-in (--send: to yours)"
        self.lines.append(Line("channel", name, TRIPPED if good else FAILED, seconds=round(time.monotonic() - began, 2),
                               note=note if good else f"{got.code}: {got.reason}"))  # type: ignore[union-attr]  # fmt: skip


_HEADERS = ("tenant", "feature", "flow", "operation", "conversation", "user")


class _Answer(NamedTuple):
    status: int
    verdict: str
    text: str

    @property
    def stopped(self) -> bool:
        return self.status == 402 or self.verdict.startswith("stopped:")

    @property
    def shown(self) -> str:
        return self.text if self.status == 200 else f"{self.status}: {self.text}"


class _Stop(NamedTuple):
    call: int
    code: str
    shown: str


def _ask(handle: gateway.Handle, body: Mapping[str, Any], headers: Mapping[str, str], path: str = "/v1/chat/completions") -> _Answer:
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        data = json.loads(answer.read() or b"{}")
    finally:
        connection.close()
    if answer.status == 200 and "choices" in data:
        text = data["choices"][0]["message"].get("content") or ""
    else:
        text = (data.get("error") or {}).get("message", "") if isinstance(data, dict) else ""
    return _Answer(answer.status, answer.getheader("x-bursar-verdict") or "", text)


class _Agent:
    """An agent with a tool and no header but those given."""

    def __init__(self, handle: gateway.Handle, task: str, **headers: str) -> None:
        self._handle = handle
        self._headers = {name if name.startswith("x-") else f"x-bursar-{name}": value for name, value in headers.items()}
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
        self._steps = 0

    def step(self, arguments: str, result: str) -> _Answer:
        tools = [{"type": "function", "function": {"name": TOOL, "parameters": {}}}]
        body = {"model": "gpt-5-mini", "messages": self._messages, "tools": tools, "max_tokens": 200}
        script = json.dumps({"text": "", "tools": [[TOOL, arguments]]})
        answer = _ask(self._handle, body, {**self._headers, "x-script": script})
        self._steps += 1
        call = {"id": f"call_{self._steps}", "type": "function", "function": {"name": TOOL, "arguments": arguments}}
        self._messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{self._steps}", "content": result},
        ]
        return answer

    def until(self, most: int, says: Callable[[int], tuple[str, str]]) -> _Stop | None:
        """Step until it is stopped."""
        for n in range(most):
            answer = self.step(*says(n))
            if answer.stopped:
                return _Stop(n + 1, answer.verdict.partition(":")[2], answer.shown)
        return None


# -- signed and kept -------------------------------------------------------------------------------------------------------


def document(report: Report) -> str:
    """The report as canonical JSON: what is signed."""
    lines = [line._asdict() for line in report.lines]
    return json.dumps({**report._asdict(), "lines": lines}, sort_keys=True, separators=(",", ":"))


def secret(folder: Path) -> bytes:
    """What signs the drills of a ledger; made when it is missing, readable by its owner alone."""
    path = folder / "drill.key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = os.urandom(32)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
        return made


def signature(key: bytes, text: str) -> str:
    return blake3(text.encode(), key=key).hexdigest()


def keep(place: Place, folder: Path, report: Report) -> str:
    """Put the report into the live ledger; its signature."""
    text = document(report)
    signed = signature(secret(folder), text)
    connection = connect(place, busy_ms=5_000)
    try:
        connection.execute(
            "INSERT INTO drills (ts, policy, passed, report, signature) VALUES (?,?,?,?,?)",
            (report.ts, report.policy, int(report.passed), text, signed),
        )
    finally:
        connection.close(True)
    return signed


class Kept(NamedTuple):
    """A drill that was kept: whether its signature is good."""

    report: Report
    signature: str
    good: bool


def last(place: Place, folder: Path) -> Kept | None:
    glance = Glance(place)
    found = glance.ask(lambda c: c.execute("SELECT report, signature FROM drills ORDER BY n DESC LIMIT 1").fetchall(), [])
    glance.close()
    if not found:
        return None
    text, signed = found[0]
    raw = json.loads(text)
    report = Report(**{**raw, "lines": tuple(Line(**line) for line in raw["lines"])})
    return Kept(report, signed, signature(secret(folder), text) == signed)
