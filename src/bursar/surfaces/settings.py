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
from ..rules.budget import BudgetRule, ceilings, compile_budget
from ..stores.price_override import compile_override, compile_tool
from ..wire import failure

PLACES = ("bursar.toml",)


# Providers that need no table.
WELL_KNOWN = ("openai", "anthropic", "gemini", "openrouter", "groq", "mistral", "deepseek", "xai")


class BadPolicy(ValueError):
    """A policy that cannot be used. The message has file, line, what is wrong and what would be right."""

    code = "bad_policy"


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
    """(policy, hash of what the file says). BadPolicy when any of it is wrong: nothing of a bad file is used."""
    if path is None:
        return Policy(), "default"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise BadPolicy(f"{path}: cannot be read: {bad}; make it a readable UTF-8 file") from bad
    return parse(text, str(path)), blake3(text.encode()).hexdigest(8)


def line_of(path: Path | None, number: int) -> str:
    """Where a budget stands, for messages about what only prices or keys can tell."""
    if path is None:
        return "the policy"
    try:
        return f"{path}:{_line(path.read_text('utf-8'), ['budget', number])}"
    except (OSError, UnicodeDecodeError):
        return str(path)


def parse(text: str, name: str = "bursar.toml") -> Policy:
    """A policy from TOML text. `name` stands in messages."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise BadPolicy(f"{name}: not TOML: {bad}") from None
    _no_floats(raw, "", text, name)
    try:
        policy = msgspec.convert(raw, Policy)
    except msgspec.ValidationError as bad:
        raise BadPolicy(_explain(str(bad), text, name)) from None
    budgets: list[BudgetRule] = []
    for number, budget in enumerate(policy.budget):
        try:
            budgets.append(compile_budget(budget, number, ZoneInfo))
        except ValueError as bad:
            raise BadPolicy(f"{name}:{_line(text, ['budget', number])}: [[budget]]: {bad}") from None
    try:
        guard.budgets(policy.guard)
    except ValueError as bad:
        raise BadPolicy(f"{name}:{_line(text, ['guard'])}: [guard]: {bad}") from None
    for number, why in reach.of_text(policy, budgets, frozenset((*WELL_KNOWN, *policy.providers))):
        raise BadPolicy(f"{name}:{_line(text, ['budget', number])}: [[budget]]: {why}")
    for key, why in reach.of_guard(policy):
        raise BadPolicy(f"{name}:{_line(text, list(key.split('.')))}: {key} {why}")
    try:
        reuse.compiled(policy.cache)
    except ValueError as bad:
        raise BadPolicy(f"{name}:{_line(text, ['cache'])}: [cache]: {bad}") from None
    try:
        if policy.controlled:
            from ..controls import compiled  # loaded where it is wanted

            compiled(policy)
    except ValueError as bad:
        raise BadPolicy(f"{name}: [tiers], [[route]], [compact]: {bad}") from None
    try:
        ceilings(policy.fallback, UTC)
    except ValueError as bad:
        raise BadPolicy(f"{name}:{_line(text, ['fallback'])}: [[fallback]]: {bad}") from None
    for number, line in enumerate(policy.fallback):
        targets = [line.to] if isinstance(line.to, str) else line.to
        if line.from_ in targets:
            raise BadPolicy(
                f"{name}:{_line(text, ['fallback', number])}: [[fallback]]: {line.from_!r} falls back to itself; name another model"
            )
    for provider, table in policy.providers.items():
        if table.base_url and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", table.base_url):
            raise BadPolicy(
                f"{name}:{_line(text, ['providers', provider])}: providers.{provider}.base_url is {table.base_url!r}; "
                'write an origin such as "https://api.openai.com", without credentials, query or fragment'
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", provider):
            raise BadPolicy(
                f"{name}: provider name {provider!r}: use small letters, digits, - and _; it becomes a path"
            )
    for number, override in enumerate(policy.price):
        try:
            (compile_tool if override.tool and not override.model else compile_override)(override, number)
        except ValueError as bad:
            raise BadPolicy(f"{name}:{_line(text, ['price', number])}: [[price]]: {bad}") from None
    for number, tool in enumerate(policy.tool):
        try:
            for pattern in tool.failed:
                failure.sign(tool.name, tool.name, pattern)
        except ValueError as bad:
            raise BadPolicy(f"{name}:{_line(text, ['tool', number])}: [[tool]]: failed: {bad}") from None
        if tool.polls < 0:
            raise BadPolicy(f"{name}:{_line(text, ['tool', number])}: [[tool]]: polls is {tool.polls}; write how often, from 1 up")
    _check_alarms(policy, text, name)
    try:
        audit.limits(policy.audit)
    except ValueError as bad:
        raise BadPolicy(f"{name}:{_line(text, ['audit'])}: [audit]: {bad}") from None
    names = [b.name for b in policy.budget if b.name]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise BadPolicy(f"{name}: two budgets are named {twice!r}; their counters would mix, rename one")
    return policy


def _check_alarms(policy: Policy, text: str, name: str) -> None:
    """Alarms, and where they are told: everything named must be there."""
    known = ", ".join(policy.channels) or "none"

    def channels(names: list[str], where: list[str | int], what: str) -> None:
        missing = next((one for one in names if one not in policy.channels), None)
        if missing is not None:
            raise BadPolicy(f"{name}:{_line(text, where)}: {what}: there is no channel {missing!r}; [channels] has {known}")

    place = policy.guard.handoff
    if place and not re.match(r"https?://", place):
        channels([place], ["guard", "handoff"], "guard.handoff")
    seen: set[str] = set()
    for number, alarm in enumerate(policy.alarm):
        line = _line(text, ["alarm", number])
        try:
            rule = compile_alarm(alarm, number)
        except ValueError as bad:
            raise BadPolicy(f"{name}:{line}: [[alarm]]: {bad}") from None
        if rule.name in seen:
            raise BadPolicy(f"{name}:{line}: [[alarm]]: two alarms are named {rule.name!r}; rename one")
        seen.add(rule.name)
        channels(alarm.channels, ["alarm", number], "[[alarm]]")
        if alarm.owner and alarm.owner not in policy.owners:
            raise BadPolicy(f"{name}:{line}: [[alarm]]: there is no owner {alarm.owner!r}; write [owners.{alarm.owner}]")
    for one, owner in policy.owners.items():
        if not owner.channels:
            raise BadPolicy(f"{name}:{_line(text, ['owners', one])}: owners.{one}: no channels; name one of {known}")
        channels(owner.channels, ["owners", one], f"owners.{one}")
    for one, channel in policy.channels.items():
        if not channel.url:
            line = _line(text, ["channels", one])
            raise BadPolicy(f'{name}:{line}: channels.{one}: url is empty; write url = "env:NAME" or an address')
        if not 0 < channel.timeout_s <= 60:
            line = _line(text, ["channels", one])
            raise BadPolicy(f"{name}:{line}: channels.{one}: timeout_s is {channel.timeout_s:g}; write more than 0, at most 60")
    try:
        length(policy.watch.link_ttl, "link_ttl")
    except ValueError as bad:
        raise BadPolicy(f"{name}:{_line(text, ['watch', 'link_ttl'])}: [watch]: {bad}") from None
    if policy.watch.url and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", policy.watch.url):
        raise BadPolicy(f'{name}:{_line(text, ["watch", "url"])}: [watch]: url is {policy.watch.url!r}; write "https://host"')


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


def _no_floats(value: object, where: str, text: str, name: str) -> None:
    """Amounts written as TOML floats would already have lost digits before anyone could see them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, float) and where.startswith("price"):
                raise BadPolicy(
                    f'{name}:{_line_of_key(text, key)}: {where}.{key} = {inner} is a float; write it as a string: {key} = "{inner}"'
                )
            _no_floats(inner, f"{where}.{key}" if where else key, text, name)
    elif isinstance(value, list):
        for inner in value:
            _no_floats(inner, where, text, name)


def _explain(message: str, text: str, name: str) -> str:
    """msgspec's message with a line, and for an unknown key the keys that are known there."""
    told, _, at = message.partition(" - at `$")
    path = [
        int(p[1:-1]) if p.startswith("[") else p.lstrip(".")
        for p in re.findall(r"\[\d+\]|\.?[^.\[\]]+", at.rstrip("`"))
    ]
    path = [p for p in path if p != "..."]
    unknown = re.search(r"unknown field `([^`]+)`", told)
    if not unknown:
        return f"{name}:{_line(text, path)}: {'.'.join(str(p) for p in path) or 'the file'}: {told}"
    record: object = Policy
    for step in path:
        if isinstance(step, str) and isinstance(record, type) and issubclass(record, msgspec.Struct):
            field = next((f for f in msgspec.structs.fields(record) if f.encode_name == step), None)
            record = _inner(field.type) if field else None
    known = ""
    if isinstance(record, type) and issubclass(record, msgspec.Struct):
        known = "; known here: " + ", ".join(f.encode_name for f in msgspec.structs.fields(record))
    where = ".".join(str(p) for p in path) or "the top level"
    return f"{name}:{_line_of_key(text, unknown[1])}: unknown key {unknown[1]!r} at {where}{known}"


def _inner(kind: object) -> object:
    for inner in getattr(kind, "__args__", ()):
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return inner
    return kind


def _line(text: str, path: list[str | int]) -> int:
    """The line of a table or key. A scan for headers, good enough to point at: TOML parsers here keep no positions."""
    if not path:
        return 1
    lines = text.splitlines()
    head = str(path[0])
    wanted = path[1] if len(path) > 1 and isinstance(path[1], int) else 0
    seen = -1
    for number, line in enumerate(lines, 1):
        if re.match(rf"\s*\[\[\s*{re.escape(head)}\s*\]\]", line):
            seen += 1
            if seen == wanted:
                keys = [p for p in path[2:] if isinstance(p, str)]
                return _line_of_key(text, keys[0], number) if keys else number
        elif re.match(rf"\s*\[\s*{re.escape(head)}(\.|\s*\])", line) and (
            len(path) < 2
            or not isinstance(path[1], str)
            or path[1] in line
            or re.match(rf"\s*\[\s*{re.escape(head)}\s*\]", line)
        ):
            return _line_of_key(text, str(path[-1]), number) if len(path) > 1 else number
        elif re.match(rf"\s*{re.escape(head)}\s*=", line):
            return number
    return 1


def _line_of_key(text: str, key: str, start: int = 1) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if number >= start and re.match(rf'\s*(\[+\s*[\w.-]*\.?)?"?{re.escape(key)}"?\s*[=\].]', line):
            return number
    return start
