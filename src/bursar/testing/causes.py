"""What can be planted in a company, one class a cause: plain data, and what it makes of the company from its day on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar

from .invoice import PRICES, Change
from .scenario import Cause, Company, Cuts, Errors, Flaky, Loop, Spoils


@dataclass(frozen=True)
class FlakyTool(Cause):
    """A tool whose results fail, and an agent that asks again."""

    feature: str
    tool: str
    shape: str
    rate: float
    drivers: ClassVar = ("retry",)

    @property
    def name(self) -> str:
        return f"flaky {self.tool} ({self.shape})"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, flaky=Flaky(self.tool, self.shape, self.rate))


@dataclass(frozen=True)
class GatewayFallback(Cause):
    """Replies that do not parse, and a gateway that asks a dear model instead and says nothing."""

    feature: str
    to: str
    rate: float
    drivers: ClassVar = ("fallback",)

    @property
    def name(self) -> str:
        return f"the gateway's fallback to {self.to}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, spoils=Spoils(self.rate, "gateway", self.to))


@dataclass(frozen=True)
class ClientFallback(Cause):
    """The client itself asks another model for the same: after an error, or after a reply it cannot parse."""

    feature: str
    after: str  # error | unparseable
    to: str
    dialect: str
    rate: float
    drivers: ClassVar = ("fallback",)

    @property
    def name(self) -> str:
        return f"the client's fallback to {self.to} ({self.after})"

    def on(self, company: Company, begins: bool) -> Company:
        if self.after == "error":
            return company.with_agent(self.feature, errors=Errors(self.rate, "client", self.to, self.dialect))
        return company.with_agent(self.feature, spoils=Spoils(self.rate, "client", self.to, self.dialect))


@dataclass(frozen=True)
class SdkRetries(Cause):
    """Errors that the SDK hides by trying again: free ones, or answers that it did not wait for, which are billed."""

    feature: str
    rate: float
    timeout: bool
    drivers: ClassVar = ("retry",)

    @property
    def name(self) -> str:
        return f"the SDK's retries in {self.feature} ({'timeouts' if self.timeout else 'errors'})"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, errors=Errors(self.rate, "sdk", timeout=self.timeout))


@dataclass(frozen=True)
class Reasks(Cause):
    """Answers that never end, and a client that sends the same request again."""

    feature: str
    how: str
    rate: float
    drivers: ClassVar = ("retry",)

    @property
    def name(self) -> str:
        return f"asking {self.feature} again ({self.how})"

    def on(self, company: Company, begins: bool) -> Company:
        stream = {"stream": True} if self.how != "silence" else {}
        return company.with_agent(self.feature, cuts=Cuts(self.rate, self.how), **stream)


@dataclass(frozen=True)
class Repairs(Cause):
    """Replies that do not parse, and a client that asks the same model to repair them."""

    feature: str
    rate: float
    drivers: ClassVar = ("retry",)

    @property
    def name(self) -> str:
        return f"repairing replies in {self.feature}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, spoils=Spoils(self.rate, "repair"))


@dataclass(frozen=True)
class Runaway(Cause):
    """One conversation that nobody stops."""

    feature: str
    shape: str
    steps: int
    every_s: int = 60

    @property
    def drivers(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("retry", "depth") if self.shape == "error" else ("depth", "retry")

    @property
    def name(self) -> str:
        return f"a runaway loop in {self.feature} ({self.shape})"

    def on(self, company: Company, begins: bool) -> Company:
        loop = Loop(feature=self.feature, shape=self.shape, steps=self.steps, every_s=self.every_s)
        return replace(company, loops=(*company.loops, loop)) if begins else company


@dataclass(frozen=True)
class EvalGrowth(Cause):
    """A suite with more cases."""

    suite: str
    factor: float
    drivers: ClassVar = ("eval",)

    @property
    def name(self) -> str:
        return f"more cases in suite {self.suite}"

    def on(self, company: Company, begins: bool) -> Company:
        suites = (replace(s, cases=round(s.cases * self.factor)) if s.name == self.suite else s for s in company.suites)
        return replace(company, suites=tuple(suites))


@dataclass(frozen=True)
class CorpusGrowth(Cause):
    """A corpus with more documents."""

    corpus: str
    factor: float
    drivers: ClassVar = ("embedding",)

    @property
    def name(self) -> str:
        return f"more documents in {self.corpus}"

    def on(self, company: Company, begins: bool) -> Company:
        corpora = (replace(c, documents=round(c.documents * self.factor)) if c.name == self.corpus else c for c in company.corpora)
        return replace(company, corpora=tuple(corpora))


@dataclass(frozen=True)
class BackgroundGrowth(Cause):
    """A background job that runs more often."""

    feature: str
    factor: float
    drivers: ClassVar = ("background",)

    @property
    def name(self) -> str:
        return f"more runs of {self.feature}"

    def on(self, company: Company, begins: bool) -> Company:
        jobs = (replace(j, per_day=j.per_day * self.factor) if j.feature == self.feature else j for j in company.jobs)
        return replace(company, jobs=tuple(jobs))


@dataclass(frozen=True)
class CustomerGrowth(Cause):
    """A customer who comes, or grows: conversations beyond the base, as a share of all."""

    tenant: str
    share: float
    drivers: ClassVar = ("volume",)

    @property
    def name(self) -> str:
        return f"growth of {self.tenant}"

    def on(self, company: Company, begins: bool) -> Company:
        return replace(company, extra=(*company.extra, (self.tenant, self.share)))


@dataclass(frozen=True)
class DeeperAgents(Cause):
    """A release that makes an agent take more steps in a conversation."""

    feature: str
    factor: float
    drivers: ClassVar = ("depth",)

    @property
    def name(self) -> str:
        return f"deeper conversations in {self.feature}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, depth=company.agent(self.feature).depth * self.factor, release="r42")


@dataclass(frozen=True)
class ContextGrowth(Cause):
    """Tools that answer at greater length, people who paste more: each call carries more."""

    feature: str
    factor: float
    drivers: ClassVar = ("context",)

    @property
    def name(self) -> str:
        return f"longer contexts in {self.feature}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, context=company.agent(self.feature).context * self.factor)


@dataclass(frozen=True)
class OutputGrowth(Cause):
    """Replies that become longer."""

    feature: str
    factor: float
    drivers: ClassVar = ("output",)

    @property
    def name(self) -> str:
        return f"longer replies in {self.feature}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, output=company.agent(self.feature).output * self.factor)


@dataclass(frozen=True)
class CacheDrop(Cause):
    """Somebody puts the time into the system prompt, and the provider's prompt cache never hits again."""

    feature: str
    drivers: ClassVar = ("cache hits",)

    @property
    def name(self) -> str:
        return f"the prompt cache of {self.feature} broken"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, stamped=True)


@dataclass(frozen=True)
class ModelSwitch(Cause):
    """A feature moves to another model of its family."""

    feature: str
    to: str
    drivers: ClassVar = ("model mix",)

    @property
    def name(self) -> str:
        return f"{self.feature} on {self.to}"

    def on(self, company: Company, begins: bool) -> Company:
        return company.with_agent(self.feature, model=self.to)


@dataclass(frozen=True)
class PriceChange(Cause):
    """The provider asks more for a model."""

    model: str
    factor: str  # decimal text: prices stay exact
    drivers: ClassVar = ("price",)

    @property
    def name(self) -> str:
        return f"a new price of {self.model}"

    def on(self, company: Company, begins: bool) -> Company:
        return company

    def changes(self, from_us: int) -> tuple[Change, ...]:
        dearer = {bucket: format(Decimal(dollars) * Decimal(self.factor), "f") for bucket, dollars in PRICES[self.model].items()}
        return (Change(from_us, self.model, dearer),)
