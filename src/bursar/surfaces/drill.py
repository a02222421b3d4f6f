"""The fire drill: synthetic trouble through the live policy, a real gateway and a scripted provider. What tripped, at which call, how
far it overshot, what the user would see, and how long a person waits to hear of it. A guard has tripped only where the ledger's
incident names it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from ..domain.labels import OPERATIONS
from ..domain.money import plain, usd
from ..domain.policy import Policy
from ..rules.budget import CEILING, BudgetRule, told
from ..rules.guard import REPLIES_MAX, Bounds, Guards
from ..stores import alarms
from ..stores.reader import Reader
from ..stores.schema import opened
from ..testing.provider import Provider as Scripted
from . import bell, handoff, keys, settings, wiring
from .drill_trial import MODELS, TOOL, Agent, Answer, Room, Trial, heeding, rehearsed, settled, stand_in
from .watch import SEND_S
from .watch import Watch as Clockwork

STEPS = 40  # calls that a runaway makes where the policy says no limit
STEPS_MAX = 400  # … and where it does
CALLERS = 16  # at once
PARTS = 12  # calls that a budget of dollars or tokens is spread over
DEAR = 200_000  # tokens written in each call of a runaway that no limit of calls has stopped: 40 cents
LAST = 20  # calls that a budget of calls is given; what is above was before
TRIPPED, MISSING, FAILED, UNTRIED = "tripped", "missing", "failed", "not tried"
RUNAWAY, SPENDING = "runaway", "spending"  # what a policy must stop for the drill to pass

_PASTE_GUARD = '[guard]\nmode = "on"\nrepeats_max = 6\ntool_calls_max = 26\nwind_down = true\n'
_PASTE_BUDGET = '[[budget]]\nname = "each tenant\'s day"\nscope = "tenant"\nlimit = "$50"\nwindow = "day"\n'
_PASTE_HANDOFF = '[guard]\nhandoff = "https://hooks.example.com/bursar"\n'


# What a provider is told to do so that a fallback fires.
FAILURES: dict[str, dict[str, Any]] = {
    "5xx": {"status": 500}, "429": {"status": 429}, "reset": {"fault": "reset"}, "timeout": {"fault": "silence"},
    "malformed": {"text": "{", "tools": [[TOOL, "{"]]},
}  # fmt: skip


class Line(NamedTuple):
    """What became of one guard. `call`: the call at which it acted, from 1; `spent`, `limit`, `over` in words."""

    what: str  # runaway | ignoring | depth | turns | spending | flaky tool | fallback | hand-off | channel
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

    def document(self) -> str:
        """As canonical JSON: what is signed."""
        lines = [line._asdict() for line in self.lines]
        return json.dumps({**self._asdict(), "lines": lines}, sort_keys=True, separators=(",", ":"))


def read(document: str) -> Report:
    raw = json.loads(document)
    return Report(**{**raw, "lines": tuple(Line(**line) for line in raw["lines"])})


class Drill:
    """One drill. `folder`: where the live ledger and its keys lie; `step` is told what is tried next."""

    def __init__(
        self, policy: Policy, policy_hash: str, *, folder: Path | None = None, send: bool = False,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.policy, self.hash, self.send, self._step = policy, policy_hash, send, step
        self._created = keys.listed(folder) if folder is not None and folder.is_dir() else []
        self.lines: list[Line] = []

    def run(self, now_us: int) -> Report:
        """Everything, in some seconds."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bursar-drill-") as folder, Scripted(heeding) as provider, stand_in() as person:
            live = rehearsed(self.policy, provider.url, person, self.send)
            self._room = Room(Path(folder), live, self.policy.key, self._created)
            self._conversations(live)
            self._budgets(live)
            self._step("a tool that fails")
            self._flaky()
            for line in live.fallback:
                self._step(f"fallback from {line.from_}")
                self._fallback(line)
            for name in self.policy.channels:
                self._step(f"channel {name}")
                self._channel(name, live)
        must = [line for line in self.lines if line.what in (RUNAWAY, SPENDING)]
        bad = any(line.verdict == FAILED for line in self.lines) or any(line.verdict == MISSING for line in must)
        return Report(now_us, self.hash, not bad, tuple(self.lines), round(time.monotonic() - began, 1))

    # -- conversations -------------------------------------------------------------------------------------------------------

    def _conversations(self, live: Policy) -> None:
        judged = Guards(live.guard)
        for flow in ("", *live.guard.flow):
            of = f" in flow {flow}" if flow else ""
            bounds, labels = judged.of(flow), {"flow": flow} if flow else {}
            self._step(f"a runaway that calls one tool again and again{of}")
            self._runaway(flow, bounds, labels, live)
            self._step(f"an agent that never ends{of}")
            self._depth(flow, bounds, labels)
            if "turns_max" in bounds.stops:
                self._step(f"a conversation without an end{of}")
                self._turns(flow, bounds, labels)

    def _runaway(self, flow: str, bounds: Bounds, labels: dict[str, str], live: Policy) -> None:
        name = flow or "loop"
        with self._room.trial() as trial:
            agent = Agent(trial, "drill: find my order", labels)
            output = 0
            stop = agent.until(min(bounds.loops.same + STEPS, STEPS_MAX), lambda n: agent.step('{"id":1}', "still not ready"))
            if stop is None and "repeats_max" not in bounds.stops:
                output = DEAR
                # Limits of dollars and tokens end it too, once it is dear.
                stop = agent.until(STEPS_MAX, lambda n: agent.step('{"id":1}', "still not ready", output=DEAR))
            if stop is None:
                note = "one call with one result again and again, and nothing stopped it"
                self._lacking(RUNAWAY, name, "repeats_max" in bounds.stops, note)
                if not flow:
                    self._handoff(trial, live)
                return
            by = ", ".join(trial.stopped_by())
            if "repeats_max" in bounds.stops and by != "repeats_max":
                note = f"{by} stopped it first" if by else "stopped, and no incident says by what"
                self.lines.append(Line(RUNAWAY, name, TRIPPED if by else FAILED, stop.call, shown=stop.shown, note=note))
            else:
                self.lines.append(Line(RUNAWAY, name, TRIPPED if by else FAILED, stop.call, shown=stop.shown, note=by))
            more = [agent.step('{"id":1}', "still not ready", output=output) for _ in range(4)]
            replies = [answer for answer in more if answer.status == 200]
            bad = len(replies) > REPLIES_MAX or any(not answer.stopped for answer in more)
            note = f"{len(replies)} more replies, then the error"
            self.lines.append(Line("ignoring", "a client that goes on", FAILED if bad else TRIPPED, shown=more[-1].shown, note=note))
            if not flow:
                self._handoff(trial, live)

    def _depth(self, flow: str, bounds: Bounds, labels: dict[str, str]) -> None:
        stops = "tool_calls_max" in bounds.stops
        self._long("depth", flow or "tool calls", "tool_calls_max", stops, bounds.tool_calls, labels, lambda agent, n: agent.step(
            json.dumps({"page": n}), f"page {n}: {blake3(str(n).encode()).hexdigest()}"
        ))  # fmt: skip

    def _turns(self, flow: str, bounds: Bounds, labels: dict[str, str]) -> None:
        name = flow or "human turns"
        self._long("turns", name, "turns_max", True, bounds.turns, labels, lambda agent, n: agent.turn(f"and number {n}?"))

    def _long(
        self, what: str, name: str, limit: str, stops: bool, most: int, labels: dict[str, str], act: Callable[[Agent, int], Answer]
    ) -> None:  # fmt: skip
        """Until it is stopped, and by that limit; one above STEPS_MAX is not tried."""
        if stops and most + 3 > STEPS_MAX:
            self.lines.append(Line(what, name, UNTRIED, limit=f"{most:,}", note=f"more than {STEPS_MAX} calls"))
            return
        steps = most + 4 if stops else STEPS
        with self._room.trial() as trial:
            agent = Agent(trial, f"drill: {what}", labels)
            stop = agent.until(steps, lambda n: act(agent, n))
            by = trial.stopped_by()
        if stop is None:
            self._lacking(what, name, stops, f"{steps} calls, and nothing stopped it")
        elif by == [limit] or not stops:
            limited = f"{most:,}" if stops else ""
            self.lines.append(Line(what, name, TRIPPED, stop.call, limit=limited, shown=stop.shown, note=", ".join(by)))
        else:
            first = ", ".join(by)
            verdict = UNTRIED if by else FAILED
            self.lines.append(Line(what, name, verdict, stop.call, limit=f"{most:,}", note=f"{first or 'nobody'} stops first"))

    def _lacking(self, what: str, name: str, has: bool, note: str) -> None:
        verdict = FAILED if has else MISSING
        self.lines.append(Line(what, name, verdict, note=note, paste="" if has else _PASTE_GUARD))

    # -- budgets -------------------------------------------------------------------------------------------------------------

    def _budgets(self, live: Policy) -> None:
        own = len(live.budget)
        tripped = False
        for number, rule in enumerate(wiring.budget_rules(live)):
            self._step(f"budget {rule.name}")
            before = len(self.lines)
            self._alone(rule) if any(name == "call" for name, _ in rule.wants) else self._spend(rule)
            counts = number < own and any(name == "call" for name, _ in rule.wants) is False
            tripped = tripped or (counts and any(line.verdict == TRIPPED for line in self.lines[before:]))
        if not tripped:
            hard = any(budget.hard and budget.scope != "call" for budget in live.budget)
            note = "no hard budget could be tried" if hard else "no hard budget: nothing bounds what a tenant spends"
            self.lines.append(Line(SPENDING, "budgets", MISSING, note=note, paste=_PASTE_BUDGET))

    def _spend(self, rule: BudgetRule) -> None:
        """Many callers at once, until the budget is short. Neither it nor any other may ever be passed."""
        name, limit = rule.name, rule.limit
        whole = told(limit.unit, limit.amount)
        if not rule.hard:
            self.lines.append(Line(SPENDING, name, UNTRIED, limit=whole, note="a soft budget: it stops nobody"))
            return
        labels = {label: value or f"drill-{label}" for label, value in rule.wants}
        if labels.get("operation", "primary") not in OPERATIONS:
            labels["operation"] = "primary"
        if "conversation" in labels and limit.unit == "tool_calls":
            del labels["conversation"]  # the agent's own messages say which it is
        with self._room.trial(labels.get("key", "")) as trial:
            bound = self._room.keys.get(labels.get("key", ""), ("", {}, []))
            held = {**bound[1], **({"tenant": bound[0]} if bound[0] else {}), **labels}
            provider, model = self._whom(trial, labels, bound[2])
            facts = {**held, "model": model, "provider": provider}
            price = trial.handle.gateway.desk.prices.find(self._prices(trial, provider), model, wiring.now_us())
            each = price.rates["output"].base if price is not None and "output" in price.rates else 0
            if limit.unit == "usd" and not each:
                self.lines.append(Line(SPENDING, name, UNTRIED, limit=whole, note=f"{model} has no price"))
                return
            tokens = _tokens(trial, each)
            said = {"usage": {"input": 50, "output": tokens}}
            # What one call takes, and what was before: so that this budget is reached while all others still have room.
            takes = {"usd": tokens * each // 10**6, "tokens": tokens}.get(limit.unit, 1)
            before = max(limit.amount - PARTS * max(takes, 1), 0)
            if limit.unit not in ("usd", "tokens"):
                before = limit.amount - LAST // 4 if limit.amount > LAST else 0
            if before and "conversation" in dict(rule.wants) and "conversation" not in labels:
                self.lines.append(Line(SPENDING, name, UNTRIED, limit=whole, note=f"more than {LAST} in one conversation"))
                return
            if before:
                trial.nearly(rule, facts, before)
            if limit.unit == "tool_calls":
                agent = Agent(trial, f"drill: {name}", labels)
                answers = [agent.step(json.dumps({"n": n}), f"result {n}") for n in range(limit.amount - before + 5)]
            else:

                def call(n: int) -> Answer:
                    body, path = _request(trial, provider, model, tokens, f"drill: {name}, {n}")
                    return trial.ask(body, labels, said, path)

                answers = []
                calls = PARTS * 2 if limit.unit in ("usd", "tokens") else limit.amount - before + LAST
                with ThreadPoolExecutor(CALLERS) as pool:
                    # A rung of its ladder may make calls cheaper: then it takes more of them.
                    while not any(answer.acted for answer in answers) and len(answers) < STEPS_MAX:
                        answers += pool.map(call, range(len(answers), len(answers) + calls))
            self._spent(trial, rule, answers, before)

    def _spent(self, trial: Trial, rule: BudgetRule, answers: Sequence[Answer], before: int) -> None:
        name, unit = rule.name, rule.limit.unit
        at_rest = settled(trial)
        by, ended = trial.stopped_by(), trial.acting("wound_down")
        limits = {one.name: one for one in trial.handle.gateway.desk.budgets.rules if one.hard}
        standings = [s for s in trial.ledger.counters().values() if s.budget in limits]
        passed = {s.budget: s.spent - limits[s.budget].limit.amount for s in standings if s.spent > limits[s.budget].limit.amount}
        spent = max((s.spent for s in standings if s.budget == name), default=0)
        stopped = [n for n, answer in enumerate(answers, 1) if answer.acted]
        own = [n for n in stopped if repr(name) in answers[n - 1].text]
        first = own[0] if own else stopped[0] if stopped else 0
        shown = answers[first - 1].shown if first else ""
        notes = [f"{CALLERS} callers at once"] if unit != "tool_calls" else []
        notes += [f"from {told(unit, before)} on"] if before else []
        if not at_rest:
            notes.append("holds were left")
        if passed:
            notes.append("passed: " + ", ".join(f"{who} by {told(limits[who].limit.unit, over)}" for who, over in passed.items()))
        if passed or not at_rest:
            verdict = FAILED
        elif name in by:
            verdict = TRIPPED
        elif name in ended:
            verdict = TRIPPED
            notes.append("agents are told to end")
        elif by:
            verdict, first, shown = UNTRIED, 0, ""
            notes = [f"{', '.join(by)} stops first"]
        else:
            verdict = FAILED
            notes.append("nothing stopped it")
        words = told(unit, spent), told(unit, rule.limit.amount), told(unit, passed.get(name, 0))
        self.lines.append(Line(SPENDING, name, verdict, first, *words, shown, note=", ".join(notes)))

    def _alone(self, rule: BudgetRule) -> None:
        """A limit of each call by itself: a small one passes, a large one does not."""
        name, limit = rule.name, rule.limit
        whole = told(limit.unit, limit.amount)
        labels = {label: value or f"drill-{label}" for label, value in rule.wants if label != "call"}
        with self._room.trial(labels.get("key", "")) as trial:
            provider, model = self._whom(trial, labels, self._room.keys.get(labels.get("key", ""), ("", {}, []))[2])
            price = trial.handle.gateway.desk.prices.find(self._prices(trial, provider), model, wiring.now_us())
            each = price.rates["output"].base if price is not None and "output" in price.rates else 0
            if limit.unit not in ("usd", "tokens") or (limit.unit == "usd" and not each):
                self.lines.append(Line(SPENDING, name, UNTRIED, limit=whole, note="neither dollars nor tokens of a priced model"))
                return
            large = limit.amount * 2 * 10**6 // each if limit.unit == "usd" else limit.amount * 2
            small = trial.ask(*self._sized(trial, provider, model, 1, labels))
            answer = trial.ask(*self._sized(trial, provider, model, max(large, 2), labels))
            by = trial.stopped_by()
        good = not small.stopped and answer.stopped and name in by
        note = "a small call passes, one of twice the limit does not"
        self.lines.append(Line(SPENDING, name, TRIPPED if good else FAILED, 2, limit=whole, shown=answer.shown, note=note))

    def _sized(self, trial: Trial, provider: str, model: str, tokens: int, labels: dict[str, str]) -> tuple[Any, Any, Any, str]:
        body, path = _request(trial, provider, model, tokens, "drill: one call")
        return body, labels, {"text": "Done."}, path

    def _whom(self, trial: Trial, labels: dict[str, str], models: Sequence[str]) -> tuple[str, str]:
        """Provider and model of a scope; what it leaves open is chosen."""
        model = labels.get("model", "")
        model = "" if model.startswith("drill-") else model or (models[0] if models else "")
        provider = labels.get("provider", "")
        provider = "" if provider.startswith("drill-") else provider
        if not provider:
            provider = "anthropic" if model.startswith("claude") else "gemini" if model.startswith("gemini") else "openai"
        family = trial.handle.gateway.desk.providers[provider].family
        return provider, model or MODELS.get(family, MODELS["openai"])

    def _prices(self, trial: Trial, provider: str) -> str:
        return trial.handle.gateway.desk.providers[provider].prices

    # -- the rest ------------------------------------------------------------------------------------------------------------

    def _flaky(self) -> None:
        with self._room.trial() as trial:
            agent = Agent(trial, "drill: a flaky tool")
            for _ in range(3):
                agent.step('{"id":7}', "Error: connection reset by peer")
            rows = [row for row in trial.rows() if row.cause == f"tool:{TOOL}"]
        spent = sum(row.cost or 0 for row in rows)
        note = f"{len(rows)} calls are charged to it"
        self.lines.append(Line("flaky tool", TOOL, TRIPPED if rows else FAILED, spent=f"${plain(spent)}" if rows else "", note=note))

    def _fallback(self, line: Any) -> None:
        """The first model fails; what is asked then is booked with its reason, and a ceiling holds."""
        to = line.to if isinstance(line.to, str) else line.to[0]
        before, slash, after = line.from_.partition("/")
        bad = next((say for word, say in FAILURES.items() if word in line.on), FAILURES["malformed"])
        name = f"{line.from_} to {to}"
        with self._room.trial() as trial:
            known = trial.handle.gateway.desk.providers
            named = {"provider": before, "model": after} if slash and before in known else {"model": line.from_}
            provider, model = self._whom(trial, named, ())
            target = to.partition("/")[2] if to.partition("/")[0] in known else to
            price = trial.handle.gateway.desk.prices.find(self._prices(trial, provider), target, wiring.now_us())
            each = price.rates["output"].base if price is not None and "output" in price.rates else 0
            output = usd(line.ceiling) // 1000 * 10**6 * 6 // 10 // each if line.ceiling and each else 100
            usage = {"input": 50, "output": max(output, 1)}
            said = {"models": {model: bad}, "text": "Done.", "usage": usage}
            body, path = _request(trial, provider, model, usage["output"], "drill: fallback")
            answers = [trial.ask(body, {}, said, path) for _ in range(3 if line.ceiling else 1)]
            rows = trial.rows()
        fell = [row for row in rows if row.attempt_kind == "fallback" and row.status == "ok"]
        first = next((row for row in rows if row.attempt_kind == "first"), None)
        if not fell or answers[0].status != 200 or first is None:
            self.lines.append(Line("fallback", name, UNTRIED, note=f"could not be provoked ({answers[0].status})"))
            return
        times = f", a hold {fell[0].hold / first.hold:.1f} times as large" if first.hold else ""
        held = any(row.error == CEILING for row in rows)
        bound = "no ceiling bounds it"
        if line.ceiling:
            bound = f"ceiling {line.ceiling} held at call {len(fell) + 1}" if held else f"ceiling {line.ceiling} did NOT hold"
        note = f"booked as {fell[0].cause}{times}; {bound}"
        self.lines.append(Line("fallback", name, FAILED if line.ceiling and not held else TRIPPED, note=note))

    def _handoff(self, trial: Trial, live: Policy) -> None:
        """Of the runaway's own trial: what the clockwork delivers, and the channel says it took."""
        if not live.guard.handoff:
            note = "nobody is told that a conversation was stopped"
            self.lines.append(Line("hand-off", "to a person", MISSING, note=note, paste=_PASTE_HANDOFF))
            return
        began = time.monotonic()
        work = Clockwork(trial.file, policy=live)
        try:
            with opened(trial.file) as connection:
                asked = handoff.hand_off(connection, live, wiring.now_us(), lambda: Reader(trial.file), drill=True)
            work.cycle()
            with opened(trial.file, read_only=True) as connection:
                sent = alarms.sent(connection, handoff.ALARM)
        finally:
            work.close()
        took = round(time.monotonic() - began, 2)
        if not asked:
            self.lines.append(Line("hand-off", "to a person", UNTRIED, note="nothing was stopped"))
            return
        came = [one for one in sent if one.state == "delivered"]
        lost = next((one.detail for one in sent if one.state != "delivered"), "")
        note = f"{len(came)} of {asked} delivered" + (f": {lost}" if lost else "") + f", after at most {SEND_S:g} s of waiting"
        note += "" if self.send else "; to a stand-in (--send: to yours)"
        verdict = TRIPPED if len(came) == asked else FAILED
        self.lines.append(Line("hand-off", "to a person", verdict, seconds=took, note=note))

    def _channel(self, name: str, live: Policy) -> None:
        found = handoff.channel(live, name)
        assert found is not None
        text = ("This is a drill. Nothing was spent, nothing is stopped.",)
        message = bell.Message(f"drill-{name}-{time.time_ns()}", "test", wiring.now_us(), "Bursar: a fire drill", text)
        began = time.monotonic()
        try:
            got = bell.deliver(bell.address(name, found), message)
        except settings.BadPolicy as bad:
            got = bell.Failed("bad_channel", str(bad), "mend the channel")
        note = "" if self.send else "to a stand-in (--send: to yours)"
        if isinstance(got, bell.Failed):
            note = f"{got.code}: {got.reason}"
        verdict = FAILED if isinstance(got, bell.Failed) else TRIPPED
        self.lines.append(Line("channel", name, verdict, seconds=round(time.monotonic() - began, 2), note=note))


def _tokens(trial: Trial, each: int) -> int:
    """Tokens that a call of a trial writes: twice PARTS of them fit into every hard limit of dollars or tokens there is."""
    hard = [rule.limit for rule in trial.handle.gateway.desk.budgets.rules if rule.hard]
    most = [limit.amount for limit in hard if limit.unit == "tokens"]
    most += [limit.amount * 10**6 // each for limit in hard if limit.unit == "usd" and each]
    return max(min(most, default=1_000 * 2 * PARTS) // (2 * PARTS), 1)


def _request(trial: Trial, provider: str, model: str, cap: int, text: str) -> tuple[dict[str, Any], str]:
    """Body and path of a call in the provider's own dialect."""
    match trial.handle.gateway.desk.providers[provider].family:
        case "anthropic":
            messages = [{"role": "user", "content": text}]
            return {"model": model, "max_tokens": cap, "messages": messages}, f"/{provider}/v1/messages"
        case "gemini":
            contents = [{"role": "user", "parts": [{"text": text}]}]
            body = {"contents": contents, "generationConfig": {"maxOutputTokens": cap}}
            return body, f"/{provider}/v1beta/models/{model}:generateContent"
        case _:
            messages = [{"role": "user", "content": text}]
            return {"model": model, "max_tokens": cap, "messages": messages}, f"/{provider}/v1/chat/completions"
