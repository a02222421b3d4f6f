"""Budgets and limits that can never trip: found when a policy is read, so that nobody trusts one that watches nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from ..domain.labels import NAME_CHARS_MAX, OPERATIONS, clean
from ..domain.policy import SCOPES, Key, Policy
from ..domain.price import Price
from . import price as pricing
from .budget import CHEAPER, BudgetRule

KNOWN = frozenset(SCOPES)
LATER = {
    "purpose": "operation", "cause": "", "status": "", "turn": "", "tier": "model", "model_served": "model",
    "model_requested": "model", "attempt_kind": "operation", "dialect": "provider",
}  # fmt: skip
AMOUNT_MAX = 2**62  # what a counter may come to, in its grain
ALIKE = 0.8  # of two names, from which on one is taken for the other misspelt
SAMPLE = 1_000  # tokens in and out, at which prices are compared

Lookup = Callable[[str, str], "Price | None"]  # provider (empty: any), model
Why = tuple[str, str]  # reason, remedy


def of_text(policy: Policy, rules: Sequence[BudgetRule], providers: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(number of the budget, reason and remedy) for what the file alone tells."""
    keys = {key.name: key for key in policy.key}
    for number, rule in enumerate(rules):
        wants = dict(rule.wants)
        found = (
            _labels(wants) or _values(wants, providers) or _kinds(rule, wants) or _shadowed(number, rules)
            or _ladder(policy, rule, wants) or _key(wants, keys)
        )  # fmt: skip
        if found is not None:
            yield number, _said(rule, found)


def of_world(
    rules: Sequence[BudgetRule], find: Lookup, sold: Callable[[str, str], bool], keys: frozenset[str], tiers: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """The same for what needs prices and the keys that were created."""
    for number, rule in enumerate(rules):
        wants = dict(rule.wants)
        found = _priced(rule, wants, find, sold, tiers)
        key = wants.get("key")
        if found is None and key and key not in keys:
            near = get_close_matches(key, keys, 1, ALIKE)
            found = f"no virtual key is called {key!r}", f"write {near[0]!r}" if near else f"bursar keys create {key}"
        if found is not None:
            yield number, _said(rule, found)


def of_guard(policy: Policy) -> Iterator[tuple[str, str]]:
    """(key, reason and remedy) for limits of `[guard]` that nothing judges."""
    names = ("tool_calls_max", "turns_max", "tokens_max", "cost_max", "repeats_max")
    tables = [("guard", policy.guard, policy.guard.mode)]
    tables += [(f"guard.flow.{flow}", limits, limits.mode or policy.guard.mode) for flow, limits in policy.guard.flow.items()]  # type: ignore[misc]
    for where, table, mode in tables:
        for name in names:
            value = getattr(table, name)
            if isinstance(value, int) and value < 0:
                yield f"{where}.{name}", f"is {value}: write how many, from 1 up"
            if value and mode == "off":
                yield f"{where}.{name}", 'can never trip: mode is "off" there; leave mode out, or the limit'


def _said(rule: BudgetRule, why: Why) -> str:
    return f"budget {rule.name!r} can never trip: {why[0]}; {why[1]}"


def _labels(wants: Mapping[str, str | None]) -> Why | None:
    for name in wants:
        if name in LATER:
            other = LATER[name]
            return f"{name} is known only after a call", f"use {other}" if other else "count it with an [[alarm]]"
        near = get_close_matches(name, KNOWN, 1, ALIKE) if name not in KNOWN else ()
        if near:
            return f"no call has a label {name!r}", f"write {near[0]!r}, or give your own label a name less like it"
        if len(name) > NAME_CHARS_MAX:
            return f"a label's name has at most {NAME_CHARS_MAX} characters, {name[:20]!r}… has {len(name)}", "shorten it"
    return None


def _values(wants: Mapping[str, str | None], providers: frozenset[str]) -> Why | None:
    for name, value in wants.items():
        if value is None:
            continue
        if not value:
            return f"{name} is empty, and a call without it has no {name}", f'write a value, or {name} = "*" for each'
        if clean(value) != value:
            return f"no call can have {name} = {value[:30]!r}", "values are one line of at most 256 printable characters"
        if "*" in value and name in ("model", "provider", "key"):  # anybody's own labels may have one
            return f"{value!r} is compared as it stands", f'write one {name}, or {name} = "*" for each of them'
    operation = wants.get("operation")
    if operation and operation not in OPERATIONS:
        return f"no call has the operation {operation!r}", f"write one of {', '.join(OPERATIONS)}"
    provider, model = wants.get("provider"), wants.get("model")
    if provider and provider not in providers:
        near = get_close_matches(provider, providers, 1, ALIKE)
        return f"no provider is called {provider!r}", f"write {near[0]!r}" if near else f"add [providers.{provider}]"
    before = model.partition("/")[0] if model and "/" in model else ""
    if model and before in providers and not provider:
        after = model.partition("/")[2]
        return f"calls to {before} name the model {after!r}", f'write {{provider = "{before}", model = "{after}"}}'
    return None


def _kinds(rule: BudgetRule, wants: Mapping[str, str | None]) -> Why | None:
    unit, amount = rule.limit.unit, rule.limit.amount
    if amount > AMOUNT_MAX:
        return "its limit is more than any counter comes to", "write a smaller one"
    if wants.get("operation") == "embedding":
        if unit == "tool_calls":
            return "embeddings call no tools", "count calls, tokens or dollars"
        if "conversation" in wants:
            return "embeddings belong to no conversation", "choose a window such as day"
    if "call" in wants:
        if unit == "calls":
            return "one call is one call", "limit its dollars or tokens"
        if not rule.hard:
            return "a soft limit of each call by itself does nothing", "hard = true"
        if len(rule.ladder):
            return "a call by itself has no way to its limit, and its ladder no rungs", "leave the ladder out"
    return None


def _shadowed(number: int, rules: Sequence[BudgetRule]) -> Why | None:
    """Another that is hard and as wide stops before this one does anything: it is smaller, or as large and written first."""
    rule = rules[number]
    first = min((rule.limit.amount * share // 100 for _, share in rule.ladder), default=rule.limit.amount)
    for at, other in enumerate(rules):
        alike = (other.wants, other.limit.unit, other.window.text, other.window.zone) == (
            rule.wants, rule.limit.unit, rule.window.text, rule.window.zone,
        )  # fmt: skip
        sooner = other.limit.amount < first or (other.limit.amount == first and at < number)
        if at != number and alike and other.hard and sooner:
            return f"{other.name!r} has the same scope and window and stops sooner", "keep one of the two"
    return None


def _ladder(policy: Policy, rule: BudgetRule, wants: Mapping[str, str | None]) -> Why | None:
    rungs = dict(rule.ladder)
    tiers = policy.tiers.cheap or policy.tiers.standard or policy.tiers.premium
    if CHEAPER in rungs and not tiers:
        return "its rung cheaper has no model to go to", 'write [tiers] cheap = "MODEL"'
    if "wind_down" in rungs and wants.get("operation") == "embedding":
        return "an embedding cannot be told to end", "leave wind_down out"
    return None


def _key(wants: Mapping[str, str | None], keys: Mapping[str, Key]) -> Why | None:
    key = keys.get(wants.get("key") or "")
    if key is None:
        return None
    bound = {**key.labels, **({"tenant": key.tenant} if key.tenant else {})}
    for name, value in wants.items():
        if value is not None and bound.get(name, value) != value:
            return f"key {wants['key']!r} binds {name} to {bound[name]!r}", f'write {name} = "{bound[name]}", or leave it out'
    model = wants.get("model")
    if model and key.models and model not in key.models:
        return f"key {wants['key']!r} may not use {model!r}", f"it may use {', '.join(key.models)}"
    return None


def _priced(
    rule: BudgetRule, wants: Mapping[str, str | None], find: Lookup, sold: Callable[[str, str], bool], tiers: Sequence[str]
) -> Why | None:
    model, provider = wants.get("model"), wants.get("provider") or ""
    if not model:
        return None
    price = find(provider, model)
    dollars = rule.limit.unit == "usd"
    if provider and price is None and sold("", model):
        return f"{provider} does not sell {model!r}", "name the provider that does, or leave provider out"
    if dollars and price is None:
        return f"no price is known for {model!r}, so its calls are refused before any budget", f'add [[price]] model = "{model}"'
    if dollars and price is not None and price.free:
        return f"{model!r} is free, and no call of it takes a cent", "count calls or tokens"
    if CHEAPER in dict(rule.ladder) and price is not None:
        others = [found for tier in tiers if (found := find(price.provider, tier)) is not None]
        if not any(_cost(other) < _cost(price) for other in others):
            return f"no model of [tiers] is cheaper than {model!r}", "name one, or leave the rung cheaper out"
    return None


def _cost(price: Price) -> int:
    return pricing.worst(price, SAMPLE, SAMPLE)
