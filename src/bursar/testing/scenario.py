"""A simulated company as data: who its customers are, what its agents, evals, corpora and jobs do, and what is planted in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from random import Random
from typing import Any

from .invoice import PRICES, Change
from .prose import prose
from .shapes import TOOL_TURNS
from .talk import ANTHROPIC, CHAT, GEMINI, RESPONSES, Setup, Tool

SECOND = 1_000_000  # all times are microseconds since the epoch, UTC
DAY = 86_400 * SECOND

FIRST_DAY = date(2026, 9, 7)  # a Monday
WEEKS = 8  # two months of four weeks: the same number of Mondays in both

# What each dialect's users would pick, out of the invoice's price list.
CHEAP = {CHAT: "gpt-5-nano", RESPONSES: "gpt-5-nano", ANTHROPIC: "claude-haiku-4-5", GEMINI: "gemini-2.5-flash-lite"}
USUAL = {CHAT: "gpt-5", RESPONSES: "gpt-5", ANTHROPIC: "claude-haiku-4-5", GEMINI: "gemini-2.5-flash"}
DEAR = {CHAT: "gpt-5.5", RESPONSES: "gpt-5.5", ANTHROPIC: "claude-opus-4-1", GEMINI: "gemini-2.5-pro"}


# What can go wrong with an agent's calls. `rate` is a share: of a tool's results, or of replies.


@dataclass(frozen=True, slots=True)
class Flaky:
    """A tool that fails, and an agent that asks again. `shape`: how a failure looks in the messages."""

    tool: str
    shape: str  # flag | exception | body | empty | malformed
    rate: float


@dataclass(frozen=True, slots=True)
class Spoils:
    """Replies that do not parse. `then`: the gateway asks `to`; or the client does; or it asks the same model to repair it."""

    rate: float
    then: str  # gateway | client | repair
    to: str = ""
    dialect: str = ""  # of the client's second choice


@dataclass(frozen=True, slots=True)
class Errors:
    """429, 500 and their like. `then`: the SDK tries again by itself, unseen; or the client asks another model. `timeout`:
    the client has waited long enough, and what it does not wait for is billed all the same."""

    rate: float
    then: str  # sdk | client
    to: str = ""
    dialect: str = ""
    timeout: bool = False


@dataclass(frozen=True, slots=True)
class Cuts:
    """Answers that never end: the client sends the same request once more."""

    rate: float
    how: str  # cut (by the provider) | leaves (the client's own timeout) | silence (no answer at all)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A feature whose work is conversations."""

    feature: str
    flow: str
    dialect: str
    model: str
    setup: Setup
    per_weekday: float  # conversations; fewer at weekends
    depth: float = 1.0  # x the recorded number of model calls in a conversation
    context: float = 1.0  # x the recorded growth of what is sent, per turn
    output: float = 1.0  # x the recorded length of replies
    acts: float = TOOL_TURNS  # share of replies that call a tool
    stream: bool = False
    caches: bool = False  # the provider's prompt cache is in use
    stamped: bool = False  # the time of the call stands in the system prompt: no cache can hold
    dated: bool = False  # the date does
    history: str = "whole"  # how much is sent again: whole | sliding | pinned | summary | kept (by the provider)
    keep: int = 0
    openings: int = 0  # conversations begin with one of so many texts; 0: each with its own
    helpers: int = 0  # sub-agents that work side by side for each conversation
    polls: bool = False  # asks for the state of something several times, which is no loop
    release: str = "r41"
    flaky: Flaky | None = None
    spoils: Spoils | None = None
    errors: Errors | None = None
    cuts: Cuts | None = None

    @property
    def reasons(self) -> bool:
        return self.dialect != ANTHROPIC  # the other families' models here think before they answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """An eval suite. A judge reads the same transcripts at each run; or, with `agent`, that feature is run on set tasks."""

    name: str
    trigger: str  # pr (twice each weekday) | nightly | weekly (Sundays)
    cases: int
    dialect: str
    model: str
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What the nightly job embeds: all its documents, whether or not they changed. A document's text in the request is an
    excerpt; the provider counts `tokens_each`."""

    name: str
    documents: int
    grows: float  # documents a night
    changes: float  # share of them whose text is another one the next night
    tokens_each: int
    batch: int = 16
    model: str = "text-embedding-3-large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Background work of single calls at night."""

    feature: str
    flow: str
    dialect: str
    model: str
    per_day: float
    tokens: int  # of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A conversation that runs away at night. `shape`: the same call with the same result; two in turn; or ever other calls
    that fail with the same error."""

    feature: str
    shape: str  # same | two | error
    steps: int
    every_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """The whole of it, as it is on one day."""

    tenants: tuple[tuple[str, int], ...]  # with their weights
    agents: tuple[Agent, ...]
    suites: tuple[Suite, ...]
    corpora: tuple[Corpus, ...]
    jobs: tuple[Job, ...]
    extra: tuple[tuple[str, float], ...] = ()  # a tenant, and its conversations beyond the base, as a share of all
    loops: tuple[Loop, ...] = ()  # that begin on this day

    def agent(self, feature: str) -> Agent:
        return next(agent for agent in self.agents if agent.feature == feature)

    def with_agent(self, feature: str, **changed: Any) -> Company:
        return replace(self, agents=tuple(replace(a, **changed) if a.feature == feature else a for a in self.agents))


class Cause:
    """Something planted. `driver` is the word for what it moves in a bill, others that are true as well stand behind it."""

    drivers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        raise NotImplementedError

    def on(self, company: Company, begins: bool) -> Company:
        """The company with it. `begins`: this is the first day."""
        raise NotImplementedError

    def changes(self, from_us: int) -> tuple[Change, ...]:
        """What becomes of the provider's prices."""
        return ()


@dataclass(frozen=True)
class Planted:
    """A cause, and when: days since the first, `until` exclusive."""

    cause: Cause
    since: int
    until: int = 10**6


@dataclass(frozen=True)
class Scenario:
    """A company, a seed, and what is planted. `labels`: whether calls say who pays: full, some (no conversation, no user), none.
    `scale` multiplies the number of conversations and jobs."""

    seed: int
    company: Company
    planted: tuple[Planted, ...] = ()
    labels: str = "full"
    scale: float = 1.0
    weeks: int = WEEKS
    first_day: date = FIRST_DAY
    _companies: dict[tuple[int, ...], Company] = field(default_factory=dict[tuple[int, ...], Company], repr=False, compare=False)

    def at(self, day: int, hour: int = 0) -> int:
        """Microseconds of a full hour."""
        return self._begins_us + day * DAY + hour * 3600 * SECOND

    @cached_property
    def _begins_us(self) -> int:
        first = self.first_day
        return int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()) * SECOND

    @property
    def days(self) -> int:
        return self.weeks * 7

    @property
    def months(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The two halves, [since, until) each."""
        middle = self.at(self.days // 2)
        return (self.at(0), middle), (middle, self.at(self.days))

    def company_on(self, day: int) -> Company:
        inforce = tuple(n for n, p in enumerate(self.planted) if p.since <= day < p.until)
        key = (*inforce, *(-1 - n for n in inforce if self.planted[n].since == day))
        if key not in self._companies:
            company = self.company
            for n in inforce:
                company = self.planted[n].cause.on(company, self.planted[n].since == day)
            self._companies[key] = company
        return self._companies[key]

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Of the provider's prices."""
        return tuple(change for p in self.planted for change in p.cause.changes(self.at(p.since)))

    def prices_at(self, ts_us: int) -> Mapping[str, Mapping[str, str]]:
        begun = {change.model: change.prices for change in self.changes if change.from_us <= ts_us}
        return {**PRICES, **begun} if begun else PRICES

    def without(self, name: str) -> Scenario:
        """The same company, seed and all, but for one cause."""
        return replace(self, planted=tuple(p for p in self.planted if p.cause.name != name), _companies={})

    def policy(self) -> str:
        """The policy file the gateway runs under: its fallbacks, and the prices that the operator knows to have changed."""
        agents = {agent: None for day in range(self.days) for agent in self.company_on(day).agents}
        falls = {(a.model, a.spoils.to): None for a in agents if a.spoils is not None and a.spoils.then == "gateway"}
        lines = [f'[[fallback]]\nfrom = "{model}"\nto = "{to}"\non = ["malformed"]\n' for model, to in falls]
        for change in self.changes:
            since = datetime.fromtimestamp(change.from_us // SECOND, UTC)
            rates = "".join(f'{bucket} = "{dollars}"\n' for bucket, dollars in change.prices.items())
            lines.append(f'[[price]]\nmodel = "{change.model}"\nfrom = "{since:%Y-%m-%dT%H:%M:%SZ}"\n{rates}')
        lines.append('[[budget]]\nname = "tenants"\nscope = "tenant"\nlimit = "$1000"\nwindow = "month"\nhard = false\n')
        return "\n".join(lines)


# The base company


def _setup(seed: int, feature: str, tools: tuple[tuple[str, tuple[str, ...]], ...], size: int, **more: bool) -> Setup:
    """A system prompt and tools of some `size` characters in all, this company's own."""
    rng = Random(f"bursar/setup/{seed}/{feature}")
    each = size // 3 // max(1, len(tools))
    system = f"You are the {feature} agent of company {seed}. " + prose(rng, size * 2 // 3)
    return Setup(system, tuple(Tool(name, prose(rng, each), fields) for name, fields in tools), **more)


TENANTS = (("bluebird-retail", 30), ("corvid-labs", 25), ("duneside-hotels", 20), ("estuary-bank", 15), ("fennel-foods", 10))
NEWCOMER = "halcyon-freight"
DIALECTS = (CHAT, RESPONSES, ANTHROPIC, GEMINI)


def base(seed: int) -> Company:
    """The company before anything is planted. The seed decides which agent speaks which dialect, how its history is cut and
    whether it uses the prompt cache: over a few seeds everything meets everything."""
    rng = Random(f"bursar/base/{seed}")
    spoken = [*DIALECTS, *rng.sample(DIALECTS, 2)]
    rng.shuffle(spoken)
    of = dict(zip(("support", "orders", "research", "assistant", "engineering", "triage"), spoken, strict=True))

    def agent(feature: str, flow: str, per_weekday: float, setup: Setup, models: Mapping[str, str] = USUAL, **more: Any) -> Agent:
        dialect = of[feature]
        if dialect == ANTHROPIC and more.get("caches"):
            setup = replace(setup, marks_cache=True)
        return Agent(
            feature=feature, flow=flow, dialect=dialect, model=models[dialect], setup=setup, per_weekday=per_weekday,
            **more,
        )  # fmt: skip

    cut = rng.choice((("pinned", 8), ("sliding", 8), ("summary", 6)))
    lookup = (("lookup_order", ("order",)), ("track_parcel", ("parcel",)), ("search_handbook", ("query",)))
    agents = (
        agent("support", "chat", 5, _setup(seed, "support", (*lookup, ("issue_refund", ("order", "amount"))), 11_000,
              json_demanded=True), openings=6, caches=True),
        agent("orders", "status", 5, _setup(seed, "orders", lookup, 9_000, json_demanded=True), depth=0.6, polls=True,
              dated=rng.random() < 0.5),
        agent("research", "report", 1, _setup(seed, "research", (("search_filings", ("query",)), ("read_page", ("url",))), 6_000),
              depth=1.6, context=8.0, history=cut[0], keep=cut[1], stream=rng.random() < 0.5),
        agent("assistant", "ask", 4, _setup(seed, "assistant", (), 3_000), depth=0.4, stream=True,
              history="kept" if of["assistant"] == RESPONSES else "whole", caches=rng.random() < 0.5),
        agent("engineering", "fix", 0.8, _setup(seed, "engineering", (("delegate", ("task",)), ("run_tests", ("path",)),
              ("read_file", ("path",))), 8_000), depth=0.8, context=3.0, helpers=2, stream=rng.random() < 0.5, caches=True),
        agent("triage", "", 10, _setup(seed, "triage", (), 700), CHEAP, depth=0.0, openings=7),
    )  # fmt: skip
    judges = rng.sample(DIALECTS, 3)
    names = rng.sample(("regression", "tone", "safety", "grounding", "routing"), 3)
    return Company(
        tenants=TENANTS,
        agents=agents,
        suites=(
            Suite(name=names[0], trigger="pr", cases=4, dialect=judges[0], model=USUAL[judges[0]]),
            Suite(name=names[1], trigger="nightly", cases=8, dialect=judges[1], model=USUAL[judges[1]]),
            Suite(name=names[2], trigger="weekly", cases=8, dialect=judges[2], model=USUAL[judges[2]], agent="support"),
        ),
        corpora=(
            Corpus(name="catalogue", documents=72, grows=0.1, changes=0.05, tokens_each=20_000),
            Corpus(name="tickets", documents=40, grows=0.1, changes=0.02, tokens_each=12_000),
        ),
        jobs=(Job(feature="digest", flow="daily", dialect=GEMINI, model="gemini-2.5-flash", per_day=4, tokens=12_000),),
    )
