"""Made ledgers, as the sums that `why` works on: random ones of every kind, and calm ones with one planted cause."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from bursar.rules.why import NOTHING, Leaf, Side, Sums, Talk

TENANTS = ("acme", "globex", "initech", "")
MODELS = ("gpt-5-mini", "gpt-5", "claude-opus-4-1")


def random_side(chance: Random) -> Side:
    """Anything that a ledger can come to: no usage, no price, no label, corrections, sums beyond 64 bits."""
    leaves: dict[Leaf, Sums] = {}
    talks: dict[tuple[str, ...], Talk] = {}
    for _ in range(chance.randrange(0, 7)):
        purpose = chance.choice(("primary", "primary", "primary", "eval", "embedding", "background", "control"))
        operation = chance.choice((purpose, purpose, "retry", "fallback", "primary"))
        cause = chance.choice(("tool:search", "5xx")) if operation in ("retry", "fallback") else ""
        labels = (chance.choice(TENANTS), chance.choice(("support", "")))
        scale = chance.choice((1, 1000, 10**9, 10**13))
        tokens = [chance.choice((0, chance.randrange(1, 200_000))) for _ in range(4)]
        dollars = [chance.choice((0, chance.randrange(-3, 10**6))) * scale for _ in range(5)]
        leaves[Leaf(labels, purpose, operation, cause, chance.choice(MODELS))] = Sums(chance.randrange(0, 400), *tokens, *dollars)
        talks[labels] = Talk(chance.randrange(0, 50), chance.choice((0, 0, 4)))
    return Side(leaves, talks)


class Rates(NamedTuple):
    """How one tenant's use of one feature goes in a month."""

    talks: float = 200
    depth: float = 5
    retry: float = 0.04  # per first try, after one tool
    fallback: float = 0.01
    other: float = 300  # eval, embedding or background calls, where the feature is such a one
    dear: float = 0.2  # share of calls on the dear model
    context: float = 6000
    cached: float = 0.5
    output: float = 400
    price: float = 1.0


FEATURES = {"support": "primary", "orders": "primary", "research": "primary", "evals": "eval", "index": "embedding", "digest": "background"}
PRICES = {"gpt-5-mini": (250_000, 25_000, 2_000_000), "gpt-5": (1_250_000, 125_000, 10_000_000),
          "claude-opus-4-1": (15_000_000, 1_500_000, 75_000_000)}  # pico-dollars a token  # fmt: skip
TOOLS = {"support": "tool:search", "orders": "tool:lookup_order", "research": "tool:fetch"}
Key = tuple[str, str]  # tenant, feature


def side(rates: dict[Key, Rates], chance: Random, noise: float = 0.05) -> Side:
    """A month as it comes out, every rate a few per cent off."""
    leaves: dict[Leaf, Sums] = {}
    talks: dict[tuple[str, ...], Talk] = {}

    def about(value: float) -> float:
        return value * max(0.0, chance.gauss(1.0, noise))

    def add(labels: Key, purpose: str, operation: str, cause: str, model: str, tries: int, one: Rates) -> None:
        if tries <= 0:
            return
        read = round(tries * about(one.context))
        cached, written = round(read * one.cached), round(tries * about(one.output))
        fresh, again, out = (round(price * one.price) for price in PRICES[model])
        leaf = Leaf(labels, purpose, operation, cause, model)
        made = Sums(tries, read - cached, cached, 0, written, (read - cached) * fresh, cached * again, 0, written * out, 0)
        leaves[leaf] = leaves.get(leaf, NOTHING).plus(made)

    for labels, one in rates.items():
        purpose = FEATURES[labels[1]]
        if purpose == "primary":
            conversations = round(about(one.talks))
            firsts = round(conversations * about(one.depth))
            talks[labels] = Talk(conversations)
        else:
            firsts = round(about(one.other))
        dear = round(firsts * one.dear)
        add(labels, purpose, purpose, "", "gpt-5-mini", firsts - dear, one)
        add(labels, purpose, purpose, "", "gpt-5", dear, one)
        if purpose == "primary":
            add(labels, purpose, "retry", TOOLS[labels[1]], "gpt-5-mini", round(firsts * about(one.retry)), one)
            add(labels, purpose, "fallback", "5xx", "claude-opus-4-1", round(firsts * about(one.fallback)), one)
    return Side(leaves, talks)


class Planted(NamedTuple):
    """Two months, and the one thing that is different in the second: its driver, and a label that it is in."""

    before: Side
    now: Side
    driver: str
    where: tuple[str, str]  # a tool says more than its feature


def _calm(chance: Random) -> dict[Key, Rates]:
    made: dict[Key, Rates] = {}
    for tenant in TENANTS[:3]:
        for feature, purpose in FEATURES.items():
            if purpose != "primary":
                continue
            made[tenant, feature] = Rates(talks=chance.uniform(100, 400), depth=chance.uniform(3, 8), context=chance.uniform(2000, 9000))
    for feature, purpose in FEATURES.items():
        if purpose != "primary":
            made["internal", feature] = Rates(other=chance.uniform(200, 600), dear=0.0, context=chance.uniform(2000, 9000))
    return made


CAUSES = {
    "volume": {"talks": 6.0}, "depth": {"depth": 6.0}, "retry": {"retry": 80.0}, "fallback": {"fallback": 20.0},
    "eval": {"other": 12.0}, "embedding": {"other": 12.0}, "background": {"other": 12.0}, "model_mix": {"dear": 5.0},
    "context": {"context": 6.0}, "cache": {"cached": 0.0}, "output": {"output": 12.0}, "price": {"price": 4.0},
}  # fmt: skip
OF_A_FEATURE = {"eval": "evals", "embedding": "index", "background": "digest"}


def planted(seed: int, driver: str) -> Planted:
    """One thing changed in one feature, for all its tenants or (volume, depth) for one of them; all else is 5% off."""
    chance = Random(f"{seed}/{driver}")
    rates = _calm(chance)
    feature = OF_A_FEATURE.get(driver) or chance.choice(("support", "orders", "research"))
    tenant = chance.choice(TENANTS[:3]) if driver in ("volume", "depth") else ""
    (field, times), *_ = CAUSES[driver].items()
    if driver == "cache":
        rates = {key: one._replace(cached=0.9, context=20_000.0) if key[1] == feature else one for key, one in rates.items()}
    then = dict(rates)
    for key, one in rates.items():
        if key[1] == feature and tenant in ("", key[0]):
            then[key] = one._replace(**{field: getattr(one, field) * times})
    where = ("tenant", tenant) if tenant else ("cause", TOOLS[feature]) if driver == "retry" else ("feature", feature)
    return Planted(side(rates, chance), side(then, chance), driver, where)


def all_planted(seeds: int) -> Iterator[Planted]:
    for seed in range(seeds):
        for driver in CAUSES:
            yield planted(seed, driver)
