"""One conversation of a simulated company's agent, call by call, with what goes wrong in it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from .agents import ASKS_AGAIN, labels, pause
from .failures import failure
from .invoice import Buckets
from .planned import LOOP, REASK, REPAIR, SDK_RETRY, TOOL, Key, Planned, Thread, Who, failed, pair
from .prose import prose
from .scenario import SECOND, Agent, Loop, Scenario
from .shapes import GROWTH, PARALLEL, REPLY, TURNS, draw, value
from .speech import SPOILT
from .talk import ANTHROPIC, BYTES_A_TOKEN, CHAT, FAMILIES, RESPONSES, Body, Result, Says, Setup, Talk, Use

CACHE_TTL_US = 300 * SECOND
LEAST_CACHED = 1024  # tokens; below, no provider caches

OPENINGS = ("Where is my parcel?", "I was charged twice.", "Please change my address.", "How do I return this?",
            "I get Error 500 when I log in.", "Can I have an invoice?", "It arrived broken.")  # fmt: skip
SUB = Setup("You are a helper. Do the task you are given and report what you found, briefly.")


class Meter:
    """The provider's tokenizer and prompt cache, for the requests of one thread."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._prior = self._at_us = 0
        self._kept = 0  # tokens of a history that the provider keeps

    def count(self, body: Body, ts_us: int, output: int, reasoning: int, stays: bool) -> Buckets:
        """What a request uses. `stays`: its answer is the one that the thread goes on from."""
        agent = self._agent
        tokens = body.size // BYTES_A_TOKEN + 1
        if agent.history == "kept":
            tokens += self._kept
        read = write = 0
        if agent.caches:
            live = not agent.stamped and ts_us - self._at_us < CACHE_TTL_US
            if live and agent.history in ("whole", "kept"):
                read = min(self._prior, tokens)
            if agent.dialect in (CHAT, RESPONSES):
                read = read // 128 * 128
            read = read if read >= LEAST_CACHED else 0
            if agent.dialect == ANTHROPIC and tokens >= LEAST_CACHED:
                write = tokens - read
        if stays:
            self._prior, self._at_us, self._kept = tokens, ts_us, tokens + output
        return Buckets(tokens - read - write, read, write, output=output, reasoning=reasoning)


class Conversation:
    """The state of one conversation. Chance is drawn from a source per purpose, so that what is planted changes nothing else."""

    def __init__(
        self, scene: Scenario, agent: Agent, who: Who, *, purpose: str = "primary", thread: str = "", opening: str = "",
        length: float | None = None, **facts: Any,
    ) -> None:  # fmt: skip
        """`length`: the share of all conversations that are at most as long as this one; None: by chance. The other `facts` are
        those of each call."""
        self.scene, self.agent, self.who, self.facts = scene, agent, who, facts
        self._seed = f"bursar/{scene.seed}/{thread or who.conversation}"
        self.rng = Random(self._seed)
        self.talk = Talk(agent.setup)
        self.meter = Meter(agent)
        free = {name: facts[name] for name in ("suite", "trigger") if facts.get(name)} | {"release": agent.release}
        self.thread = Thread(
            who, purpose=purpose, thread=thread, labels=said(scene.labels, who, purpose if purpose != "primary" else "", **free)
        )
        self.ts_us = who.ts_us
        self.length = self.rng.random() if length is None else length
        self.previous = ""
        self._chances: dict[str, Random] = {}
        self.opening = opening or self._opening()

    def _opening(self) -> str:
        if self.agent.openings:
            return OPENINGS[self.rng.randrange(min(self.agent.openings, len(OPENINGS)))]
        return self.human_text()

    def chance(self, what: str) -> Random:
        if what not in self._chances:
            self._chances[what] = Random(f"{self._seed}/{what}")
        return self._chances[what]

    def hits(self, what: str, rate: float) -> bool:
        return self.chance(what).random() < rate

    # -- what is said --------------------------------------------------------------------------------------------------

    def human_text(self) -> str:
        return prose(self.rng, round(draw(self.rng, GROWTH) * self.agent.context) * BYTES_A_TOKEN // 2 + 20)

    def reply_text(self) -> str:
        text = prose(self.rng, round(draw(self.rng, REPLY) * self.agent.output) * BYTES_A_TOKEN)
        return json.dumps({"reply": text}, ensure_ascii=False) if self.agent.setup.json_demanded else text

    def result_text(self, use: Use) -> str:
        size = round(draw(self.rng, GROWTH) * self.agent.context) * BYTES_A_TOKEN
        if use.name in ("lookup_order", "track_parcel", "issue_refund"):
            state = {"id": next(iter(use.arguments.values())), "state": "shipped", "error": None, "note": prose(self.rng, size)}
            return json.dumps(state, ensure_ascii=False)
        if use.name == "search_handbook" and self.rng.random() < 0.1:
            return self.rng.choice(('{"results": []}', "[]", "no results"))  # which is an answer, and no failure
        return f"Section {self.rng.randrange(1, 99)}: " + prose(self.rng, size)

    def uses(self, turn: int) -> list[Use]:
        """The tool calls of a reply."""
        tools = [tool for tool in self.agent.setup.tools if tool.name != "delegate"]
        if self.agent.polls and turn in (1, 2, 3):
            return [Use("track_parcel", {"parcel": "P-7"})]  # still under way? three times is no loop
        # Half of the calls go to the first tool: the one that may be flaky is also the one in use.
        chosen = [tools[0] if self.rng.random() < 0.5 else self.rng.choice(tools)]
        if self.rng.random() < PARALLEL and len(tools) > 1:
            chosen.append(self.rng.choice([tool for tool in tools if tool != chosen[0]]))
        return [Use(tool.name, {name: f"{name[0].upper()}-{self.rng.randrange(10_000)}" for name in tool.fields}) for tool in chosen]

    # -- one call, and what becomes of it ------------------------------------------------------------------------------

    def _body(self, dialect: str, model: str) -> Body:
        agent = self.agent
        moment = datetime.fromtimestamp(self.ts_us // SECOND, UTC)
        note = f"The time is {moment:%Y-%m-%dT%H:%M:%SZ}." if agent.stamped else ""
        if agent.dated:
            note = f"Today is {moment:%A, %d %B %Y}. {note}"
        kept = agent.history == "kept"
        return self.talk.body(
            dialect, model, agent.stream, history="whole" if kept else agent.history, keep=agent.keep, note=note,
            previous=self.previous if kept else "",
        )  # fmt: skip

    def _plan(
        self, text: str, uses: Sequence[Use], keys: tuple[Key, ...] = (), *, dialect: str = "", model: str = "",
        body: Body | None = None, second: str = "", retry: int = 0, stays: bool = True, **more: Any,
    ) -> Planned:  # fmt: skip
        """The request as it stands, now."""
        agent = self.agent
        elsewhere = bool(model)
        dialect, model = dialect or agent.dialect, model or agent.model
        body = body or self._body(dialect, model)
        output = sum(len(json.dumps(use.arguments)) for use in uses) // BYTES_A_TOKEN + 20 if uses else len(text) // BYTES_A_TOKEN + 1
        thinks = draw(self.chance("thoughts"), REPLY) if agent.reasons and dialect != ANTHROPIC else 0
        used = self.meter.count(body, self.ts_us, output, thinks, stays and not elsewhere)
        fresh = Buckets(used.input + used.cache_read + used.cache_write, output=output, reasoning=thinks)
        if elsewhere:
            used = fresh  # another model's cache has nothing of this
        if second:
            more["second"] = (second, fresh)
        return self.thread.plan(
            self.ts_us, dialect, model, body, used, turn=self.talk.humans, text=text, uses=uses, keys=keys, stream=agent.stream,
            retry=None if FAMILIES[dialect] == "gemini" else retry, prices=self.scene.prices_at(self.ts_us), **self.facts, **more,
        )  # fmt: skip

    def ask(self, text: str, uses: Sequence[Use], keys: tuple[Key, ...] = ()) -> Generator[Planned, None, str]:
        """One step that the agent means to take. Gives what the ids of its answer are made of. Nothing else goes wrong with a
        step that is a failed tool's already: each call has one cause."""
        agent = self.agent
        ident = self.thread.ident
        if agent.errors and not keys and self.hits("errors", agent.errors.rate):
            chance = self.chance("errors")
            if agent.errors.timeout:  # the client hangs up; the answer is on its way, and on the bill
                yield self._plan(text, uses, stays=False)
                self.ts_us += 30 * SECOND
            else:
                yield self._plan(text, uses, stays=False, say={"status": chance.choice((429, 500, 503))})
                self.ts_us += chance.randint(SECOND // 2, 3 * SECOND)
            ident = self.thread.ident
            if agent.errors.then == "sdk":
                yield self._plan(text, uses, ((SDK_RETRY, ""),), retry=1)
            else:
                yield from self._elsewhere(text, uses, agent.errors.to, agent.errors.dialect)
        elif agent.cuts and not keys and self.hits("cuts", agent.cuts.rate):
            how = agent.cuts.how
            body = self._body(agent.dialect, agent.model)
            broken: dict[str, Any] = {"leaves_after": 1} if how == "leaves" else {"say": {"fault": how}}
            yield self._plan(text, uses, body=body, stays=False, **broken)
            self.ts_us += self.chance("cuts").randint(2 * SECOND, 90 * SECOND)
            ident = self.thread.ident
            yield self._plan(text, uses, ((REASK, ""),), body=body)
        elif agent.spoils and not keys and self.hits("spoils", agent.spoils.rate):
            ident = yield from self._spoilt(text, uses)
        else:
            yield self._plan(text, uses, keys)
        self.previous = f"resp_{ident}"
        return ident

    def _spoilt(self, text: str, uses: Sequence[Use]) -> Generator[Planned, None, str]:
        spoils = self.agent.spoils
        assert spoils is not None
        if spoils.then == "gateway":
            ident = self.thread.ident
            yield self._plan(text, uses, say={"fault": "malformed"}, second=spoils.to)
            return ident
        yield self._plan(text, (), stays=False, say={"fault": "malformed"})
        self.ts_us += self.chance("spoils").randint(SECOND // 5, 3 * SECOND)
        ident = self.thread.ident
        if spoils.then == "client":
            yield from self._elsewhere(text, uses, spoils.to, spoils.dialect)
        else:
            # As the usual libraries do: what was said stays in the history, with a message about what is wrong with it.
            self.talk.says(SPOILT)
            self.talk.human("Your reply could not be parsed: Unterminated string. Answer again with valid JSON only.")
            yield self._plan(text, uses, ((REPAIR, ""),))
        return ident

    def _elsewhere(self, text: str, uses: Sequence[Use], to: str, dialect: str) -> Iterator[Planned]:
        """The same messages to another model, perhaps in another dialect."""
        yield self._plan(text, uses, (pair(self.agent.model, to),), dialect=dialect, model=to)

    def tools_answer(self, ident: str, uses: list[Use]) -> Generator[Planned, None, bool]:
        """The tools' results go into the history; a flaky one's failures and what they lead to. Whether the agent goes on with
        results (rather than having given up on them in words)."""
        flaky = self.agent.flaky
        results = [Result(self.result_text(use)) for use in uses]
        broken = next((n for n, use in enumerate(uses) if flaky and use.name == flaky.tool), None)
        if flaky and broken is not None and self.hits("flaky", flaky.rate):
            chance = self.chance("flaky")
            times, weights = zip(*ASKS_AGAIN, strict=True)
            again, recovers = chance.choices(times, weights)[0], chance.random() < 0.5
            for attempt in range(again):
                bad = failure(chance, flaky.shape, flaky.tool)
                self.talk.acts(ident, uses, [bad if n == broken else result for n, result in enumerate(results)])
                self.ts_us += pause(chance, human=False)
                goes_on = attempt < again - 1 or recovers
                uses, results, broken = [uses[broken]], [results[broken]], 0
                text = "" if goes_on else self.reply_text()
                ident = yield from self.ask(text, uses if goes_on else (), failed(flaky.tool, goes_on))
                if not goes_on:
                    self.talk.says(text)
                    return False
        self.talk.acts(ident, uses, results)
        return True

    # -- whole conversations -------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Planned]:
        """Turn by turn until the customer has what they came for."""
        agent, rng, talk = self.agent, self.rng, self.talk
        talk.human(self.opening)
        turns = max(1, round(value(TURNS, self.length) * agent.depth))
        for turn in range(turns):
            last = turn == turns - 1
            if agent.helpers and turn == 1 and not last:
                yield from self._delegate()
                continue
            acts = bool(agent.setup.tools) and not last and rng.random() < agent.acts
            uses = self.uses(turn) if acts else []
            text = "" if acts else self.reply_text()
            ident = yield from self.ask(text, uses)
            goes_on = acts and (yield from self.tools_answer(ident, uses))
            if not acts:
                talk.says(text)
            if not goes_on and not last:
                talk.human(self.human_text())
            self.ts_us += pause(rng, human=not goes_on)

    def _delegate(self) -> Iterator[Planned]:
        """Sub-agents side by side, each with a message history of its own; then their reports come back."""
        tasks = [f"Task {n}: " + self.human_text() for n in range(self.agent.helpers)]
        uses = [Use("delegate", {"task": task}) for task in tasks]
        ident = yield from self.ask("", uses)
        planned: list[Planned] = []
        reports: list[Result] = []
        for n, task in enumerate(tasks):
            who = replace(self.who, ts_us=self.ts_us + SECOND)
            setup = replace(SUB, tools=self.agent.setup.tools[1:], marks_cache=self.agent.setup.marks_cache)
            worker = replace(self.agent, setup=setup, helpers=0, depth=0.5, flaky=None, spoils=None, errors=None, cuts=None)
            sub = Conversation(self.scene, worker, who, thread=f"{who.conversation}h{n}", opening=task)
            planned += sub.run()
            report = sub.talk.entries[-1]
            assert isinstance(report, Says)
            reports.append(Result(report.text))
            self.ts_us = max(self.ts_us, sub.ts_us)
        yield from sorted(planned, key=lambda call: call.ts_us)
        self.talk.acts(ident, uses, reports)

    def runaway(self, loop: Loop) -> Iterator[Planned]:
        """The same again and again; what is sent is cut short, or it would end by itself at the model's window."""
        self.agent = replace(self.agent, history="pinned", keep=40, flaky=None, spoils=None, errors=None, cuts=None)
        self.talk.human("Find the annual report of 2019.")
        tools = [tool for tool in self.agent.setup.tools if tool.name != "delegate"]
        period = 2 if loop.shape == "two" else 1
        results = [Result(f"No report of 2019. What there is ({n}): " + prose(self.rng, 3_000)) for n in range(period)]
        if loop.shape == "error":
            results = [Result(failure(self.rng, "exception", tools[0].name).text + "\n" + prose(self.rng, 3_000))]
        for step in range(loop.steps):
            tool = tools[step % period % len(tools)]
            argument = f"try {step}" if loop.shape == "error" else "annual report 2019"
            uses = [Use(tool.name, {name: argument for name in tool.fields})]
            keys: tuple[Key, ...] = ()
            if step >= period:
                keys = ((LOOP, ""), (TOOL, tool.name)) if loop.shape == "error" else ((LOOP, ""),)
            ident = yield from self.ask("", uses, keys)
            self.talk.acts(ident, uses, [results[step % period]])
            self.ts_us = self.who.ts_us + (step + 1) * loop.every_s * SECOND


def said(how: str, who: Who, operation: str = "", **free: str) -> Mapping[str, str]:
    """The headers in a company where everything is labelled, some things are, or nothing is."""
    if how == "none":
        return {}
    if how == "some":
        free.pop("release", None)
        return labels(replace(who, flow="", user="", conversation=""), operation, **free)
    return labels(who, operation, **free)


__all__ = ["Conversation", "Meter", "said"]
