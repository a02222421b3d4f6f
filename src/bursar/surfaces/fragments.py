"""Policy fragments: files that `include` names, which add limits and alarms within a scope of their own and loosen nothing."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..domain.policy import FlowGuard, Fragment, Guard, Policy
from ..rules.budget import parse_limit
from .policy_text import BadPolicy, Source, Where, decode

FRAGMENTS_MAX = 500  # files; more is a pattern that caught what it should not
LIMITS = ("tool_calls_max", "turns_max", "repeats_max", "tokens_max", "cost_max")


class Part(NamedTuple):
    source: Source
    fragment: Fragment


def files(main: Path, include: Sequence[str]) -> list[Path]:
    """The files that the patterns mean, seen from the policy's folder, each once, in the order of pattern and name."""
    found = [Path(name) for pattern in include for name in sorted(glob.glob(str(main.parent / pattern), recursive=True))]
    return [path for path in dict.fromkeys(found) if path.is_file() and path.resolve() != main.resolve()]


def found(main: Source, include: Sequence[str]) -> list[Part]:
    """The fragments of a policy. BadPolicy where one is not right, or a file that is named is not there."""
    path = Path(main.name)
    for pattern in include:
        if not glob.has_magic(pattern) and not (path.parent / pattern).is_file():
            raise BadPolicy(f"{main.at(['include'])}: include: there is no file {pattern!r} beside {path.name}; write where it is")
    paths = files(path, include)
    if len(paths) > FRAGMENTS_MAX:
        raise BadPolicy(f"{main.at(['include'])}: include: {len(paths)} files match, and at most {FRAGMENTS_MAX} are read")
    sources = [Source.read(one) for one in paths]
    return [Part(source, decode(source, Fragment)) for source in sources]


def merged(policy: Policy, main: Source, parts: Sequence[Part]) -> tuple[Policy, Where]:
    """The policy with what its fragments add, and where each of its tables stands. BadPolicy where a fragment reaches beyond its
    scope or loosens something."""
    budgets, alarms, guard = list(policy.budget), list(policy.alarm), policy.guard
    places: dict[tuple[str, int], tuple[Source, int]] = {}
    flows: dict[str, Source] = {}
    for source, part in parts:
        if not part.scope:
            raise BadPolicy(f'{source.at(["scope"])}: scope is empty; say what this file speaks of: scope = {{feature = "support"}}')
        starred = next((name for name, value in part.scope.items() if not value or "*" in value), None)
        if starred is not None:
            raise BadPolicy(f"{source.at(['scope'])}: scope.{starred} is {part.scope[starred]!r}; a fragment speaks of one value")
        for number, budget in enumerate(part.budget):
            places["budget", len(budgets)] = source, number
            budgets.append(msgspec.structs.replace(budget, scope=_within(part.scope, budget.scope, source, "budget", number)))
        for number, alarm in enumerate(part.alarm):
            places["alarm", len(alarms)] = source, number
            alarms.append(msgspec.structs.replace(alarm, per=_within(part.scope, alarm.per or "all", source, "alarm", number)))
        if part.guard != FlowGuard():
            if set(part.scope) != {"flow"}:
                raise BadPolicy(f'{source.at(["guard"])}: [guard] is of a flow; give this file scope = {{flow = "…"}} alone')
            flow = part.scope["flow"]
            guard = msgspec.structs.replace(guard, flow={**guard.flow, flow: _tighter(guard, flow, part.guard, source)})
            flows[flow] = source

    def where(path: list[str | int]) -> str:
        head, number = str(path[0]) if path else "", path[1] if len(path) > 1 else 0
        if isinstance(number, int) and (head, number) in places:
            source, own = places[head, number]
            return source.at([head, own, *path[2:]])
        if path[:2] == ["guard", "flow"] and len(path) > 2 and path[2] in flows:
            return flows[str(path[2])].at(["guard", *path[3:]])
        return main.at(path)

    return msgspec.structs.replace(policy, budget=budgets, alarm=alarms, guard=guard), where


def _within(own: Mapping[str, str], scope: str | Mapping[str, str], source: Source, table: str, number: int) -> dict[str, str]:
    """A scope with the fragment's own; `"*"` of a label that the fragment names is its one value."""
    asked = dict(scope) if not isinstance(scope, str) else {} if scope == "all" else {scope: "*"}
    for name, value in own.items():
        said = asked.get(name, "*")
        if said not in ("*", value):
            raise BadPolicy(
                f"{source.at([table, number])}: [[{table}]]: {name} = {said!r} is outside this file's scope ({name} = {value!r}); "
                "only the policy itself may speak of others"
            )
    return {**asked, **own}


def _tighter(guard: Guard, flow: str, wanted: FlowGuard, source: Source) -> FlowGuard:
    """The limits of a flow with a fragment's. BadPolicy where one of its own is larger than what holds already."""
    now = guard.flow.get(flow, FlowGuard())
    if wanted.mode not in ("", "on"):
        raise BadPolicy(f'{source.at(["guard", "mode"])}: guard.mode is {wanted.mode!r}; a fragment can only switch limits "on"')
    added: dict[str, str | int] = {}
    for name in LIMITS:
        value: str | int = getattr(wanted, name)
        if not value:
            continue
        holds: str | int = getattr(now, name) or getattr(guard, name)
        try:
            looser = bool(holds) and _amount(value, name) > _amount(holds, name)
        except ValueError as bad:
            raise BadPolicy(f"{source.at(['guard', name])}: guard.{name}: {bad}") from None
        if looser:
            line = source.at(["guard", name])
            raise BadPolicy(f"{line}: guard.{name} = {value!r} is more than the {holds!r} that holds; a fragment can only lower it")
        added[name] = value
    return msgspec.structs.replace(now, mode=wanted.mode or now.mode, **added)


def _amount(value: str | int, name: str) -> int:
    if isinstance(value, int):
        return value
    bare = not value.startswith("$") and " " not in value.strip()
    return parse_limit(f"{value} {name.removesuffix('_max')}" if bare else value).amount
