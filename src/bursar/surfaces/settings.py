"""The policy file: TOML to typed policy, checked whole, with file, line and remedy for whatever is wrong in it."""

from __future__ import annotations

import os
import re
import tomllib
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from blake3 import blake3

from ..domain.policy import Policy
from ..rules import audit, guard, reach, reuse
from ..rules.alarm_policy import compile_alarm, length
from ..rules.budget import ceilings, compile_budget, compile_budgets
from ..stores.price_override import compile_override, compile_tool
from ..wire import failure
from . import fragments
from .policy_text import BadPolicy, Source, Where, decode

PLACES = ("bursar.toml",)


# Providers that need no table.
WELL_KNOWN = ("openai", "anthropic", "gemini", "openrouter", "groq", "mistral", "deepseek", "xai")


def find(explicit: str | os.PathLike[str] | None = None) -> Path | None:
    """The policy file in force: the one given, BURSAR_CONFIG, or bursar.toml in the working folder. None: defaults."""
    named = explicit or os.environ.get("BURSAR_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise BadPolicy(
                f"{path}: no such policy file; give --config an existing file, or leave it out for the defaults"
            )
        return path
    return next((Path(name) for name in PLACES if Path(name).is_file()), None)


def load(path: Path | None) -> tuple[Policy, str]:
    """(policy with its fragments, hash of what the files say). BadPolicy when any of it is wrong: nothing of a bad file is used."""
    if path is None:
        return Policy(), "default"
    main = Source.read(path)
    policy = decode(main, Policy)
    parts = [] if not policy.include else fragments.found(main, policy.include)
    _check(policy, main.at)  # by itself: what a fragment may not loosen must be right
    if parts:
        policy, where = fragments.merged(policy, main, parts)
        _check(policy, where)
    said = [main.text, *[text for part in parts for text in (part.source.name, part.source.text)]]
    return policy, blake3("\0".join(said).encode()).hexdigest(8)


def stamp(path: Path) -> tuple[object, ...]:
    """What changes when the file or a fragment of it does. OSError where the file is not there."""
    stat = path.stat()
    try:
        named = tomllib.loads(path.read_text("utf-8")).get("include", [])
        parts = fragments.files(path, [one for one in named if isinstance(one, str)] if isinstance(named, list) else [])
    except (OSError, ValueError):
        parts = []
    stats = [(str(part), part.stat()) for part in parts]
    return (stat.st_mtime_ns, stat.st_size, *[(name, one.st_mtime_ns, one.st_size) for name, one in stats])


def line_of(path: Path | None, number: int) -> str:
    """Where a budget stands, for messages about what only prices or keys can tell."""
    if path is None:
        return "the policy"
    try:
        main = Source.read(path)
        policy = decode(main, Policy)
        parts = fragments.found(main, policy.include)
        where = fragments.merged(policy, main, parts)[1] if parts else main.at
        return where(["budget", number])
    except BadPolicy:
        return str(path)


def parse(text: str, name: str = "bursar.toml") -> Policy:
    """A policy from TOML text, without fragments. `name` stands in messages."""
    source = Source(name, text)
    policy = decode(source, Policy)
    _check(policy, source.at)
    return policy


def _check(policy: Policy, where: Where) -> None:
    """BadPolicy for whatever is wrong beyond its types."""
    for number, budget in enumerate(policy.budget):
        try:
            compile_budget(budget, ZoneInfo)
        except ValueError as bad:
            raise BadPolicy(f"{where(['budget', number])}: [[budget]]: {bad}") from None
    budgets = compile_budgets(policy.budget, ZoneInfo)
    try:
        guard.budgets(policy.guard)
    except ValueError as bad:
        raise BadPolicy(f"{where(['guard'])}: [guard]: {bad}") from None
    for number, why in reach.of_text(policy, budgets, frozenset((*WELL_KNOWN, *policy.providers))):
        raise BadPolicy(f"{where(['budget', number])}: [[budget]]: {why}")
    for key, why in reach.of_guard(policy):
        raise BadPolicy(f"{where(list(key.split('.')))}: {key} {why}")
    try:
        reuse.compiled(policy.cache)
    except ValueError as bad:
        raise BadPolicy(f"{where(['cache'])}: [cache]: {bad}") from None
    try:
        if policy.controlled:
            from ..controls import compiled  # loaded where it is wanted

            compiled(policy)
    except ValueError as bad:
        raise BadPolicy(f"{where(['tiers'])}: [tiers], [[route]], [compact]: {bad}") from None
    try:
        ceilings(policy.fallback, UTC)
    except ValueError as bad:
        raise BadPolicy(f"{where(['fallback'])}: [[fallback]]: {bad}") from None
    for number, line in enumerate(policy.fallback):
        targets = [line.to] if isinstance(line.to, str) else line.to
        if line.from_ in targets:
            raise BadPolicy(
                f"{where(['fallback', number])}: [[fallback]]: {line.from_!r} falls back to itself; name another model"
            )
    for provider, table in policy.providers.items():
        if table.base_url and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", table.base_url):
            raise BadPolicy(
                f"{where(['providers', provider])}: providers.{provider}.base_url is {table.base_url!r}; "
                'write an origin such as "https://api.openai.com", without credentials, query or fragment'
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", provider):
            raise BadPolicy(
                f"{where(['providers', provider])}: provider name {provider!r}: use small letters, digits, - and _; it becomes a path"
            )
        if provider == "bursar":
            raise BadPolicy(f"{where(['providers', provider])}: provider name 'bursar': /bursar/ is the gateway's own; take another")
    for number, override in enumerate(policy.price):
        try:
            (compile_tool if override.tool and not override.model else compile_override)(override, number)
        except ValueError as bad:
            raise BadPolicy(f"{where(['price', number])}: [[price]]: {bad}") from None
    for number, tool in enumerate(policy.tool):
        try:
            for pattern in tool.failed:
                failure.sign(tool.name, tool.name, pattern)
        except ValueError as bad:
            raise BadPolicy(f"{where(['tool', number])}: [[tool]]: failed: {bad}") from None
        if tool.polls < 0:
            raise BadPolicy(f"{where(['tool', number])}: [[tool]]: polls is {tool.polls}; write how often, from 1 up")
    _check_alarms(policy, where)
    try:
        audit.limits(policy.audit)
    except ValueError as bad:
        raise BadPolicy(f"{where(['audit'])}: [audit]: {bad}") from None
    names = [budget.name for budget in policy.budget]
    for number, named in enumerate(names):
        if named and named in names[:number]:
            raise BadPolicy(f"{where(['budget', number])}: two budgets are named {named!r}; their counters would mix, rename one")


def _check_alarms(policy: Policy, where: Where) -> None:
    """Alarms, and where they are told: everything named must be there."""
    known = ", ".join(policy.channels) or "none"

    def channels(names: list[str], at: list[str | int], what: str) -> None:
        missing = next((one for one in names if one not in policy.channels), None)
        if missing is not None:
            raise BadPolicy(f"{where(at)}: {what}: there is no channel {missing!r}; [channels] has {known}")

    place = policy.guard.handoff
    if place and not re.match(r"https?://", place):
        channels([place], ["guard", "handoff"], "guard.handoff")
    seen: set[str] = set()
    for number, alarm in enumerate(policy.alarm):
        line = where(["alarm", number])
        try:
            rule = compile_alarm(alarm, number)
        except ValueError as bad:
            raise BadPolicy(f"{line}: [[alarm]]: {bad}") from None
        if rule.name in seen:
            raise BadPolicy(f"{line}: [[alarm]]: two alarms are named {rule.name!r}; rename one")
        seen.add(rule.name)
        channels(alarm.channels, ["alarm", number], "[[alarm]]")
        if alarm.owner and alarm.owner not in policy.owners:
            raise BadPolicy(f"{line}: [[alarm]]: there is no owner {alarm.owner!r}; write [owners.{alarm.owner}]")
    for one, owner in policy.owners.items():
        if not owner.channels:
            raise BadPolicy(f"{where(['owners', one])}: owners.{one}: no channels; name one of {known}")
        channels(owner.channels, ["owners", one], f"owners.{one}")
    for one, channel in policy.channels.items():
        if not channel.url:
            line = where(["channels", one])
            raise BadPolicy(f'{line}: channels.{one}: url is empty; write url = "env:NAME" or an address')
        if not 0 < channel.timeout_s <= 60:
            line = where(["channels", one])
            raise BadPolicy(f"{line}: channels.{one}: timeout_s is {channel.timeout_s:g}; write more than 0, at most 60")
    for one in ("content", "incidents", "alarms"):
        text = getattr(policy.retention, one)
        try:
            kept = length(text, one) if text or one != "content" else 0
        except ValueError as bad:
            raise BadPolicy(f"{where(['retention', one])}: [retention]: {bad}") from None
        if one == "alarms" and kept < length("35d", one):
            line = where(["retention", one])
            raise BadPolicy(f'{line}: [retention]: alarms is {text!r}: what is learned looks back five weeks; write "35d" or more')
    try:
        length(policy.watch.link_ttl, "link_ttl")
    except ValueError as bad:
        raise BadPolicy(f"{where(['watch', 'link_ttl'])}: [watch]: {bad}") from None
    if policy.watch.url and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", policy.watch.url):
        raise BadPolicy(f'{where(["watch", "url"])}: [watch]: url is {policy.watch.url!r}; write "https://host"')


def schema() -> bytes:
    """The JSON schema of the policy file, for editors."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Policy)), indent=2) + b"\n"


def secret(text: str, what: str) -> str:
    """A secret as `env:NAME`, `file:PATH` or literally. BadPolicy names what it was for, never the secret."""
    if text.startswith("env:"):
        value = os.environ.get(text[4:], "")
        if not value:
            raise BadPolicy(f"{what}: environment variable {text[4:]} is not set; set it, or use file:PATH")
        return value
    if text.startswith("file:"):
        try:
            return Path(text[5:]).read_text("utf-8").strip()
        except OSError as bad:
            raise BadPolicy(f"{what}: {text[5:]} cannot be read: {bad.strerror}") from None
    return text


__all__ = ["BadPolicy", "find", "line_of", "load", "parse", "schema", "secret", "stamp"]
