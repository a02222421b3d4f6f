"""`[cache]`, `[tiers]`, `[[route]]` and `[compact]` made ready for calls, and which model of a tier a call can reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..domain.policy import Policy
from ..domain.price import Price
from ..domain.shape import Shape
from ..rules import compact, reuse, route


class Prices(Protocol):
    """What controls need of a price book."""

    def find(self, provider: str, model: str, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None: ...


class Provider(Protocol):
    """A provider as the pipeline sees it."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def prices(self) -> str: ...


class Controls(Shape, frozen=True, gc=False):
    """`[cache]`, `[tiers]`, `[[route]]` and `[compact]` made ready."""

    cache: reuse.Setting | None = None
    salt: bytes = b""  # what else decides an answer: another routing is another question
    tiers: Mapping[str, tuple[tuple[str, str], ...]] = {}  # tier -> (provider or empty, model), one for each dialect
    rules: tuple[route.Rule, ...] = ()
    classifier: tuple[tuple[str, str], ...] = ()  # a cheap model that says which tier, one for each dialect
    within_s: float = 2.0  # … and how long it may take
    mode: str = "off"  # of compaction
    flows: Mapping[str, str] = {}
    setting: compact.Setting = compact.Setting()
    summariser: tuple[str, str] = ("", "")
    holdout: int = 0  # of 65,536 conversations


def compiled(policy: Policy) -> Controls | None:
    """The controls of a policy; None where it has none. ValueError says what is wrong."""
    given = {"cheap": policy.tiers.cheap, "standard": policy.tiers.standard, "premium": policy.tiers.premium}
    tiers = {tier: tuple(_named(name) for name in _listed(names)) for tier, names in given.items() if names}
    for line in policy.route:
        if line.tier != "auto" and line.tier not in tiers:
            raise ValueError(f'tier {line.tier!r} has no model; write [tiers] {line.tier} = "MODEL"')
    classifier = tuple(_named(name) for name in _listed(policy.tiers.classifier)) if policy.tiers.classifier else ()
    if classifier and len(tiers) < 2:
        raise ValueError("a classifier chooses between tiers, and there are not two of them; write cheap and standard in [tiers]")
    if not 0 < policy.tiers.classifier_within_s <= 60:
        raise ValueError(f"classifier_within_s is {policy.tiers.classifier_within_s:g}; write seconds, above 0 and at most 60")
    rules = tuple(route.Rule(tuple(sorted(line.when.items())), line.tier, line.mode) for line in policy.route)
    its = policy.compact
    if its.summarise_every and not its.model:
        raise ValueError('summarise_every needs a model that writes the summaries; write model = "MODEL" in [compact]')
    setting = compact.Setting(its.keep_turns, its.keep_calls, summarise_every=its.summarise_every)
    rung = any(budget.ladder.compact for budget in policy.budget)
    off = its.mode == "off" and all(mode == "off" for mode in its.flow.values()) and not rung
    cache = reuse.compiled(policy.cache)
    if cache is None and not tiers and off:
        return None
    salt = repr((tiers, rules, *classifier)).encode() if rules or tiers else b""
    return Controls(
        cache, salt, tiers, rules, classifier, policy.tiers.classifier_within_s, its.mode, its.flow, setting, _named(its.model),
        _holdout(its.holdout),
    )  # fmt: skip


def _holdout(text: str) -> int:
    found = re.fullmatch(r"(\d{1,2})%", text.strip())
    if found is None or int(found[1]) > 50:
        raise ValueError(f'holdout is {text!r}; write "10%", at most "50%"')
    return int(found[1]) * 65_536 // 100


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _named(name: str) -> tuple[str, str]:
    """Provider and model of `provider/model`; a name whose first part is none of ours is a model's, see `reach`."""
    before, slash, after = name.partition("/")
    return (before, after) if slash else ("", name)


def reach(
    names: tuple[tuple[str, str], ...], providers: Mapping[str, Any], provider: Provider,
    price_of: Callable[[str, str], Price | None],
) -> tuple[str, str] | None:  # fmt: skip
    """(provider, model) of a tier for a call to that provider: one that speaks its dialect. Where a name says no provider, the
    model that is sold where the call goes; else one of the same family; else the only one there is."""
    best: tuple[str, str] | None = None
    for before, model in names:
        its = providers.get(before) if before else None
        if its is not None:
            if its.family == provider.family:
                return its.name, model
            continue
        here = provider.name, f"{before}/{model}" if before else model
        known = price_of(*here)
        if known is not None and not known.estimated:
            return here
        sold = providers.get(known.provider) if known is not None else None
        if len(names) == 1 or (best is None and sold is not None and sold.family == provider.family):
            best = here
    return best
