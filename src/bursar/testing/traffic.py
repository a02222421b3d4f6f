"""All calls of a scenario in the order of time: conversations, evals, corpora and jobs of each day, merged as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import heappop, heappush
from random import Random

from .conversing import Conversation, said
from .invoice import Buckets
from .planned import Planned, Thread, Who
from .prose import prose
from .scenario import SECOND, Agent, Company, Corpus, Job, Scenario, Suite
from .shapes import GOLDEN, REPLY, draw
from .talk import BYTES_A_TOKEN, EMBEDDINGS, FAMILIES, Body, Setup, Talk

INTERNAL = "internal"  # whose evals, corpora and jobs are
WEEKEND = 0.4  # of a weekday's conversations
GRADE = Setup("You grade transcripts of agents. Answer with a grade from 1 to 5 and one sentence of reason.")


def calls(scene: Scenario) -> Iterator[Planned]:
    """Every call, in the order of time; calls of one thread one after another. Only what is under way is in memory."""
    traffic = _Traffic(scene)
    waiting: list[tuple[int, str, Planned, Iterator[Planned]]] = []
    for day in range(scene.days):
        for one in traffic.of(day):
            _push(waiting, one)
        while waiting and waiting[0][0] < scene.at(day + 1):
            _, _, planned, rest = heappop(waiting)
            yield planned
            _push(waiting, rest)
    while waiting:
        _, _, planned, rest = heappop(waiting)
        yield planned
        _push(waiting, rest)


def _push(waiting: list[tuple[int, str, Planned, Iterator[Planned]]], one: Iterator[Planned]) -> None:
    planned = next(one, None)
    if planned is not None:
        heappush(waiting, (planned.ts_us, planned.ref, planned, one))


class _Traffic:
    """What begins on a day."""

    def __init__(self, scene: Scenario) -> None:
        self.scene = scene
        self._texts: dict[str, list[str]] = {}  # corpus -> its documents as they were embedded last

    def of(self, day: int) -> Iterator[Iterator[Planned]]:
        company = self.scene.company_on(day)
        for agent in company.agents:
            yield from self._conversations(company, agent, day)
        for loop in company.loops:
            agent = company.agent(loop.feature)
            name = f"runaway-{day:02d}-{loop.feature}"
            who = Who(self.scene.at(day, 1), company.tenants[1][0], "user-07", name, agent.feature, agent.flow)
            yield Conversation(self.scene, agent, who).runaway(loop)
        for suite in company.suites:
            yield from self._suite(company, suite, day)
        for corpus in company.corpora:
            yield self._corpus(corpus, day)
        for job in company.jobs:
            for n in range(self._count(job.per_day, day, weekends=True)):
                yield self._job(job, day, n)

    def _count(self, per_day: float, day: int, weekends: bool = False) -> int:
        """How many begin on a day."""
        return self._until(per_day, day + 1, weekends) - self._until(per_day, day, weekends)

    def _until(self, per_day: float, day: int, weekends: bool = False) -> int:
        """How many began before a day: fractions add up over the days, so that no month has more of them by chance."""
        weeks, rest = divmod(day, 7)
        worth = day if weekends else weeks * (5 + 2 * WEEKEND) + min(rest, 5) + WEEKEND * max(0, rest - 5)
        return int(per_day * self.scene.scale * worth)

    # -- conversations -------------------------------------------------------------------------------------------------

    def _conversations(self, company: Company, agent: Agent, day: int) -> Iterator[Iterator[Planned]]:
        names, weights = zip(*company.tenants, strict=True)
        for n in range(self._count(agent.per_weekday, day)):
            rng = Random(f"bursar/{self.scene.seed}/who/{agent.feature}/{day}/{n}")
            length = (self._until(agent.per_weekday, day) + n + 1) * GOLDEN % 1  # evenly: months differ by what is planted
            yield self._begin(agent, day, f"{n:03d}", rng, rng.choices(names, weights)[0], length)
        for tenant, share in company.extra:
            for n in range(self._count(agent.per_weekday * share, day)):
                rng = Random(f"bursar/{self.scene.seed}/who/{agent.feature}/{day}/{tenant}/{n}")
                yield self._begin(agent, day, f"{tenant[:2]}{n:02d}", rng, tenant, rng.random())

    def _begin(self, agent: Agent, day: int, number: str, rng: Random, tenant: str, length: float) -> Iterator[Planned]:
        ts_us = self.scene.at(day, 7) + rng.randrange(12 * 3600) * SECOND + rng.randrange(SECOND)
        who = Who(
            ts_us, tenant, f"user-{rng.randrange(60):02d}", f"{agent.feature}-{day:02d}-{number}", agent.feature, agent.flow
        )
        return Conversation(self.scene, agent, who, length=length).run()

    # -- evals ---------------------------------------------------------------------------------------------------------

    def _suite(self, company: Company, suite: Suite, day: int) -> Iterator[Iterator[Planned]]:
        weekday = day % 7
        hours = {"pr": (10, 15) if weekday < 5 else (), "nightly": (3,), "weekly": (5,) if weekday == 6 else ()}[suite.trigger]
        for hour in hours:
            for case in range(max(1, round(suite.cases * self.scene.scale))):
                ts_us = self.scene.at(day, hour) + case * 20 * SECOND
                name = f"eval-{suite.name}-{day:02d}-{hour:02d}-{case:03d}"
                who = Who(ts_us, INTERNAL, "", name, "evals", suite.trigger)
                if suite.agent:
                    yield self._trial(company.agent(suite.agent), suite, case, who)
                else:
                    yield self._grade(suite, case, who)

    def _trial(self, agent: Agent, suite: Suite, case: int, who: Who) -> Iterator[Planned]:
        """An agent is set a task, on the suite's model."""
        agent = replace(
            agent, dialect=suite.dialect, model=suite.model, flaky=None, spoils=None, errors=None, cuts=None, caches=False, depth=0.4
        )
        task = f"Task {case}: {_case(suite, case, 300)}"
        facts = {"suite": suite.name, "trigger": suite.trigger}
        return Conversation(self.scene, agent, who, purpose="eval", opening=task, **facts).run()

    def _grade(self, suite: Suite, case: int, who: Who) -> Iterator[Planned]:
        """A judge reads a transcript: the same for this case at each run, so the same request."""
        talk = Talk(GRADE)
        talk.human(f"Transcript {case}:\n" + _case(suite, case, 24_000))
        rng = Random(f"bursar/{self.scene.seed}/{who.conversation}")
        free = {"suite": suite.name, "trigger": suite.trigger}
        yield self._single(who, "eval", talk, suite.dialect, suite.model, rng, free, suite=suite.name, trigger=suite.trigger)

    def _single(
        self, who: Who, purpose: str, talk: Talk, dialect: str, model: str, rng: Random, free: dict[str, str], **facts: str
    ) -> Planned:
        body = talk.body(dialect, model)
        text = prose(rng, draw(rng, REPLY) * BYTES_A_TOKEN)
        used = Buckets(body.size // BYTES_A_TOKEN + 1, output=len(text) // BYTES_A_TOKEN + 1)
        thread = Thread(who, purpose=purpose, labels=said(self.scene.labels, who, purpose, **free))
        return thread.plan(
            who.ts_us, dialect, model, body, used, turn=1, text=text, retry=None if FAMILIES[dialect] == "gemini" else 0,
            prices=self.scene.prices_at(who.ts_us), **facts,
        )  # fmt: skip

    # -- embeddings ----------------------------------------------------------------------------------------------------

    def _corpus(self, corpus: Corpus, day: int) -> Iterator[Planned]:
        """The night's batches. A document's text changes on some nights; what did not change is embedded again all the same."""
        texts = self._texts.setdefault(corpus.name, [])
        count = max(1, round((corpus.documents + corpus.grows * day) * self.scene.scale))
        rng = Random(f"bursar/{self.scene.seed}/{corpus.name}/{day}")
        again: list[bool] = []
        for number in range(count):
            changed = rng.random() < corpus.changes
            again.append(number < len(texts) and not changed)
            if not again[-1]:
                texts[number : number + 1] = [f"{corpus.name} document {number} as of day {day}: {prose(rng, 240)}"]
        who = Who(self.scene.at(day, 2), INTERNAL, "", "", "search", "reindex")
        thread = Thread(
            who, purpose="embedding", name=f"embed-{corpus.name}-{day:02d}", labels=said(self.scene.labels, who, corpus=corpus.name)
        )
        ts_us = who.ts_us
        for start in range(0, count, corpus.batch):
            numbers = range(start, min(count, start + corpus.batch))
            body = Body.of({
                "model": corpus.model, "encoding_format": "base64",
                "input": [texts[number] for number in numbers],
            })  # fmt: skip
            yield thread.plan(
                ts_us, EMBEDDINGS, corpus.model, body, Buckets(input=corpus.tokens_each * len(numbers)), retry=0, corpus=corpus.name,
                reembedded=(sum(again[number] for number in numbers), len(numbers)), prices=self.scene.prices_at(ts_us),
            )  # fmt: skip
            ts_us += 20 * SECOND

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _job(self, job: Job, day: int, number: int) -> Iterator[Planned]:
        ts_us = self.scene.at(day, 22) + number * 40 * SECOND
        who = Who(ts_us, INTERNAL, "", f"{job.feature}-{day:02d}-{number:03d}", job.feature, job.flow)
        rng = Random(f"bursar/{self.scene.seed}/{who.conversation}")
        talk = Talk(Setup("You write digests."))
        talk.human(f"Digest of day {day}, part {number}: " + prose(rng, job.tokens * BYTES_A_TOKEN))
        yield self._single(who, "background", talk, job.dialect, job.model, rng, {})


def _case(suite: Suite, case: int, size: int) -> str:
    return prose(Random(f"bursar/{suite.name}/{case}"), size)


__all__ = ["calls"]
