"""Which causes are planted, and how strongly, by seed: companies with several at once, and companies with exactly one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random

from .causes import (
    BackgroundGrowth,
    CacheDrop,
    ClientFallback,
    ContextGrowth,
    CorpusGrowth,
    CustomerGrowth,
    DeeperAgents,
    EvalGrowth,
    FlakyTool,
    GatewayFallback,
    ModelSwitch,
    OutputGrowth,
    PriceChange,
    Reasks,
    Repairs,
    Runaway,
    SdkRetries,
)
from .failures import SAID, SHAPES
from .invoice import PRICES
from .scenario import DEAR, NEWCOMER, TENANTS, WEEKS, Agent, Cause, Company, Planted, Scenario, base
from .talk import DIALECTS, FAMILIES, GEMINI
from .traffic import calls

LABELLED = ("full", "some", "none")

Make = Callable[[Random, Company, float], Cause | None]  # `strength` scales what the cause does; None: this company cannot have it

TOOLS = {"support": ("lookup_order", "search_handbook"), "orders": ("lookup_order",), "research": ("search_filings",)}


def _flaky(rng: Random, company: Company, strength: float) -> Cause:
    feature = _pick(rng, company, strength, "support", "orders", "research")
    tool = TOOLS[feature][0] if strength > 1 else rng.choice(TOOLS[feature])
    shapes = SHAPES if tool == "lookup_order" else SAID
    return FlakyTool(feature, tool, rng.choice(shapes), min(0.9, rng.uniform(0.15, 0.4) * strength))


def _gateway_fallback(rng: Random, company: Company, strength: float) -> Cause | None:
    features = [name for name in ("support", "orders") if company.agent(name).dialect != GEMINI]  # whose replies no reader checks
    if not features:
        return None
    feature = _pick(rng, company, strength, *features)
    return GatewayFallback(feature, DEAR[company.agent(feature).dialect], min(0.9, rng.uniform(0.08, 0.2) * strength))


def _client_fallback(rng: Random, company: Company, strength: float) -> Cause:
    feature, after = _pick(rng, company, strength, "support", "orders"), rng.choice(("error", "unparseable"))
    agent = company.agent(feature)
    dearer = [there for there in DIALECTS if _output(DEAR[there]) >= 2 * _output(agent.model)]
    there = rng.choice((agent.dialect, *dearer))
    return ClientFallback(feature, after, DEAR[there], there, min(0.9, rng.uniform(0.05, 0.15) * strength))


def _sdk_retries(rng: Random, company: Company, strength: float) -> Cause | None:
    features = [a.feature for a in company.agents if FAMILIES[a.dialect] != "gemini" and a.feature != "triage"]
    if not features:
        return None
    rate = min(0.9, rng.uniform(0.03, 0.1) * strength)
    return SdkRetries(_pick(rng, company, strength, *features), rate, strength > 1 or rng.random() < 0.3)


def _reasks(rng: Random, company: Company, strength: float) -> Cause:
    feature = _pick(rng, company, strength, "support", "orders", "research", "assistant")
    return Reasks(feature, rng.choice(("cut", "leaves", "silence")), min(0.9, rng.uniform(0.03, 0.1) * strength))


def _repairs(rng: Random, company: Company, strength: float) -> Cause:
    return Repairs(_pick(rng, company, strength, "support", "orders"), min(0.9, rng.uniform(0.05, 0.15) * strength))


def _runaway(rng: Random, company: Company, strength: float) -> Cause:
    feature = _pick(rng, company, strength, "support", "orders", "research", "engineering")
    return Runaway(feature, rng.choice(("same", "two", "error")), round(rng.randint(120, 240) * strength))


def _eval_growth(rng: Random, company: Company, strength: float) -> Cause:
    return EvalGrowth(rng.choice(company.suites).name, rng.uniform(2, 3) * strength)


def _corpus_growth(rng: Random, company: Company, strength: float) -> Cause:
    return CorpusGrowth(rng.choice(company.corpora).name, rng.uniform(1.5, 3) * strength)


def _background(rng: Random, company: Company, strength: float) -> Cause:
    return BackgroundGrowth("digest", rng.uniform(3, 6) * strength)


def _customers(rng: Random, company: Company, strength: float) -> Cause:
    return CustomerGrowth(rng.choice((NEWCOMER, TENANTS[0][0], TENANTS[3][0])), rng.uniform(0.2, 0.5) * strength)


def _deeper(rng: Random, company: Company, strength: float) -> Cause:
    return DeeperAgents(_pick(rng, company, strength, "support", "orders", "research"), 1 + rng.uniform(0.4, 0.8) * strength)


def _context(rng: Random, company: Company, strength: float) -> Cause:
    return ContextGrowth(_pick(rng, company, strength, "support", "orders", "engineering"), rng.uniform(3, 6) * strength)


def _replies(rng: Random, company: Company, strength: float) -> Cause:
    return OutputGrowth(_pick(rng, company, strength, "support", "orders", "research", "assistant"), rng.uniform(2, 4) * strength)


def _cache(rng: Random, company: Company, strength: float) -> Cause:
    return CacheDrop(_pick(rng, company, 2.0, *[agent.feature for agent in company.agents if agent.caches]))


def _switch(rng: Random, company: Company, strength: float) -> Cause:
    feature = _pick(rng, company, strength, "support", "orders", "research", "assistant")
    return ModelSwitch(feature, DEAR[company.agent(feature).dialect])


def _price(rng: Random, company: Company, strength: float) -> Cause:
    feature = _pick(rng, company, strength, "support", "orders", "research")
    return PriceChange(company.agent(feature).model, rng.choice(("1.5", "2", "3")))


def _pick(rng: Random, company: Company, strength: float, *features: str) -> str:
    """One of these features; where the cause is to be seen in the whole bill, the one that costs most."""
    if strength <= 1:
        return rng.choice(features)
    return max(features, key=lambda name: _weight(company.agent(name)))


def _output(model: str) -> Decimal:
    """Dollars per million tokens that it writes."""
    return Decimal(PRICES[model]["output"])


def _weight(agent: Agent) -> Decimal:
    """About what a feature costs in a week, for comparison."""
    calls = agent.per_weekday * 6 * max(agent.depth, 0.1) * 10
    sent = len(agent.setup.system) / 4 * (0.3 if agent.caches else 1) + 1_000 * agent.context
    price = {bucket: Decimal(dollars) for bucket, dollars in PRICES[agent.model].items()}
    return Decimal(round(calls)) * (price["input"] * round(sent) + price["output"] * 300)


MAKERS: Mapping[str, Make] = {
    "flaky tool": _flaky, "gateway fallback": _gateway_fallback, "client fallback": _client_fallback, "sdk retries": _sdk_retries,
    "re-asks": _reasks, "repairs": _repairs, "runaway loop": _runaway, "eval growth": _eval_growth, "corpus growth": _corpus_growth,
    "background growth": _background, "customer growth": _customers, "deeper agents": _deeper, "context growth": _context,
    "output growth": _replies, "cache drop": _cache, "model switch": _switch, "price change": _price,
}  # fmt: skip
KINDS = tuple(MAKERS)


def variant(seed: int, *, labels: str = "", scale: float = 1.0, weeks: int = WEEKS) -> Scenario:
    """The demo's company another way: three to seven causes, each from some day of the first three weeks on, some of them
    for a while only. Without `labels`, two companies in three are labelled in full, every sixth in part, every sixth not."""
    rng = Random(f"bursar/variant/{seed}")
    company = base(seed)
    labels = labels or ("full", "full", "full", "full", "some", "none")[seed % 6]
    planted: list[Planted] = []
    for kind in rng.sample(KINDS, rng.randint(3, 7)):
        cause = MAKERS[kind](rng, company, 1.0)
        since = rng.randrange(min(21, weeks * 7))
        until = since + rng.randint(10, 35) if rng.random() < 0.3 else 10**6
        if cause is not None and not any(_clash(company, cause, other.cause) for other in planted):
            planted.append(Planted(cause, since, until))
    return Scenario(seed, company, tuple(planted), labels, scale, weeks)


# How much stronger than in a variant a single cause is planted: so that it moves the bill of its month by a tenth at least.
STRENGTH = {
    "flaky tool": 9.0, "sdk retries": 20.0, "re-asks": 20.0, "repairs": 12.0, "runaway loop": 3.0, "eval growth": 6.0,
    "gateway fallback": 2.0, "client fallback": 2.0, "background growth": 3.0, "corpus growth": 2.5, "output growth": 2.5,
    "context growth": 2.5, "deeper agents": 2.5,
}  # fmt: skip


def single(seed: int, kind: str = "", *, labels: str = "full", scale: float = 1.0) -> Scenario:
    """A quiet month, and one with exactly one cause from its first day on: the kinds in turn, unless one is named."""
    rng = Random(f"bursar/single/{seed}")
    company = base(seed)
    for offset in range(len(KINDS)):
        chosen = kind or KINDS[(seed + offset) % len(KINDS)]
        cause = MAKERS[chosen](rng, company, STRENGTH.get(chosen, 1.5))
        if cause is not None:
            return Scenario(seed, company, (Planted(cause, WEEKS * 7 // 2),), labels, scale)
        assert not kind, f"company {seed} cannot have {kind}"
    raise AssertionError("every company can have some cause")


def effect(scene: Scenario, name: str) -> Decimal:
    """Dollars that one cause adds to the bill: the plan with it less the plan without it, by the provider's price list. Exact
    for what happens beside the other calls (retries, fallbacks, evals, …); what changes how a conversation goes is compared
    with how it would have gone."""
    return _planned(scene) - _planned(scene.without(name))


def _planned(scene: Scenario) -> Decimal:
    return sum((planned.dollars for planned in calls(scene)), Decimal(0))


def _clash(company: Company, one: Cause, other: Cause) -> bool:
    """Whether two causes would be one another's."""
    if type(one) is type(other) and getattr(one, "feature", None) == getattr(other, "feature", 0):
        return True
    first, second = one.on(company, True), other.on(company, True)
    for name in ("flaky", "spoils", "errors", "cuts"):  # the same part of the same agent
        if _with(first, name) & _with(second, name):
            return True
    for a, b in ((first, second), (second, first)):
        if _with(a, "spoils") & _with(b, "cuts"):  # which may make the agent stream, and nobody parses a stream before it is out
            return True
    kinds = {type(one), type(other)}
    if ModelSwitch in kinds and kinds & {GatewayFallback, ClientFallback}:  # it may be to the model that is fallen back to
        return True
    # The gateway falls back for a model, whoever uses it: replies of one model must not be spoilt for two reasons.
    spoilt = [{a.model for a in c.agents if a.spoils is not None} for c in (first, second)]
    return GatewayFallback in kinds and bool(spoilt[0] & spoilt[1])


def _with(company: Company, trouble: str) -> set[str]:
    return {agent.feature for agent in company.agents if getattr(agent, trouble) is not None}
