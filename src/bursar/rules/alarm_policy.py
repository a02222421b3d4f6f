"""`[[alarm]]` made ready: which metric, of what, over which window, and when it is too much. No clock, no store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from ..domain.money import usd
from ..domain.policy import SCALE, SCOPES, Alarm, Owner
from .alarm_state import About, Manner

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
WINDOW_MOST = 35 * DAY
LENGTHS = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
TOOL = "tool"
LABELS_MAX = 4


class Metric(NamedTuple):
    """`kind`: sum (adds up over the window), share (two sums), talks (95th percentile of conversations), state (as it is now),
    creep. `floor`: the least that matters, in `floor_unit`. `below`: too little is what is alarmed of."""

    name: str
    unit: str
    kind: str
    window: str
    floor_unit: str
    floor: str
    learnable: bool
    about: str
    below: bool = False
    per: str = ""


METRICS: dict[str, Metric] = {m.name: m for m in (
    Metric("cost", "usd", "sum", "1h", "usd", "$1", True, "dollars"),
    Metric("calls", "calls", "sum", "1h", "calls", "20", True, "calls"),
    Metric("tokens", "tokens", "sum", "1h", "tokens", "200k", True, "tokens of all kinds"),
    Metric("errors", "calls", "sum", "1h", "calls", "20", True, "tries that failed or whose end nobody knows"),
    Metric("error_rate", "share", "share", "1h", "calls", "20", False, "their share of all tries"),
    Metric("fallback_rate", "share", "share", "24h", "calls", "20", False, "tries that are fallbacks, of all tries"),
    Metric("fallback_cost", "usd", "sum", "24h", "usd", "$1", True, "dollars of fallbacks"),
    Metric("retry_cost", "usd", "sum", "24h", "usd", "$1", True, "dollars of retries; `per = \"tool\"`: by the tool that failed"),
    Metric("loop_cost", "usd", "sum", "1h", "usd", "$1", True, "dollars of calls that go round in circles"),
    Metric("tool_calls", "calls", "sum", "1h", "calls", "30", True, "answers of tools", per=TOOL),
    Metric("cache_hit_rate", "share", "share", "24h", "tokens", "100k", False, "input tokens from the prompt cache", below=True),
    Metric("unattributed_share", "share", "share", "24h", "usd", "$1", False, "dollars with neither tenant nor feature, of all"),
    Metric("unpriced_share", "share", "share", "24h", "calls", "20", False, "tries whose price nobody knows, of all"),
    Metric("conversation_tokens", "tokens", "talks", "24h", "conversations", "1", False, "tokens of a conversation, 95th percentile"),
    Metric("conversation_turns", "turns", "talks", "24h", "conversations", "1", False, "turns of a conversation, 95th percentile"),
    Metric("budget", "share", "state", "", "", "", False, "what is spent and held of a budget, each of its counters"),
    Metric("creep", "usd", "creep", "7d", "usd", "$10", True, "a week against the one 4 and 12 weeks ago"),
    Metric("drift", "counters", "state", "", "", "", False, "counters that are not what the rows say"),
    Metric("drill_days", "days", "state", "", "", "", False, "days since the last drill that was passed"),
)}  # fmt: skip


class AlarmRule(NamedTuple):
    """An alarm made ready. `wants`: labels with the value they must have, or None for each of its values alone."""

    name: str
    metric: Metric
    wants: tuple[tuple[str, str | None], ...]
    threshold: int  # in the metric's unit; 0 of a learned alarm: no line
    learned: bool
    level: str
    window_us: int
    floor: int
    manner: Manner
    channels: tuple[str, ...]
    owner: str

    @property
    def about(self) -> About:
        return About(self.name, self.metric.name, self.metric.unit, self.window_us, self.metric.below)

    @property
    def keys(self) -> tuple[str, ...]:
        """The labels whose every value is judged alone."""
        return tuple(label for label, value in self.wants if value is None)

    @property
    def fixed(self) -> tuple[tuple[str, str], ...]:
        return tuple((label, value) for label, value in self.wants if value is not None)

    def scope(self, key: Sequence[str]) -> dict[str, str]:
        return {**dict(self.fixed), **dict(zip(self.keys, key, strict=True))}


def amount(unit: str, text: str | int, what: str) -> int:
    """`"$50"`, `"5%"`, `"2M"`, `500` in the unit's grain. ValueError says what was expected."""
    if unit == "usd":
        found = usd(text)
    elif unit == "share":
        match = re.fullmatch(r"\s*([0-9]{1,6}(?:\.[0-9]{1,4})?)\s*%\s*", str(text))
        if match is None:
            raise ValueError(f'{what} {text!r} is no share; write it as "5%"')
        found = int(Decimal(match[1]) * 10_000)
    else:
        match = re.fullmatch(r"\s*([0-9][0-9_,.]*)\s*([kKMB]?)\s*([a-z_ ]*)", str(text))
        try:
            exact = Decimal(match[1].replace("_", "").replace(",", "")) * SCALE[match[2]] if match else None
        except InvalidOperation:
            exact = None
        if exact is None or exact != int(exact) or (match and match[3] and match[3] not in (unit, unit.removesuffix("s"))):
            raise ValueError(f'{what} {text!r} is no number of {unit}; write 500, "20k" or "2M"')
        found = int(exact)
    if found < 0:
        raise ValueError(f"{what} {text!r} is below zero")
    return found


def length(text: str, what: str) -> int:
    """`"10m"`, `"4h"`, `"7d"` in microseconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if match is None:
        raise ValueError(f'{what} {text!r} is no length of time; write "10m", "4h", "7d"')
    return int(match[1]) * LENGTHS[match[2]]


def compile_alarm(alarm: Alarm, number: int) -> AlarmRule:
    """ValueError with what is wrong and what would be right."""
    metric = METRICS.get(alarm.metric)
    if metric is None:
        raise ValueError(f"metric {alarm.metric!r} is none; known are {', '.join(METRICS)}")
    wants = _wants(alarm, metric)
    learned = alarm.learned or metric.kind == "creep"
    if learned and not metric.learnable:
        raise ValueError(f'{metric.name} cannot be learned; give it a threshold, such as "{"5%" if metric.unit == "share" else "10"}"')
    if not learned and alarm.threshold == "":
        hint = " or learned = true" if metric.learnable else ""
        raise ValueError(f"{metric.name} has no threshold; write threshold = …{hint}")
    threshold = amount(metric.unit, alarm.threshold, "threshold") if alarm.threshold != "" else 0
    window = length(alarm.window or metric.window, "window") if metric.window else 0
    if alarm.window and metric.kind in ("state", "creep"):
        raise ValueError(f"{metric.name} has no window of its own; leave window out")
    if window > WINDOW_MOST:
        raise ValueError(f'window "{alarm.window}" is too long; at most 35d')
    if learned and metric.kind == "sum" and window != HOUR:
        if alarm.window:
            raise ValueError("what is normal is learned by the hour; leave window out, or give a threshold instead of learned")
        window = HOUR
    if alarm.floor != "" and not metric.floor_unit:
        raise ValueError(f"{metric.name} has no floor; leave it out")
    floor = amount(metric.floor_unit, alarm.floor or metric.floor, "floor") if metric.floor_unit else 0
    # What lies near its line crosses it often: it is over when it was below for a twelfth of the window.
    quiet = HOUR if learned else max(10 * MINUTE, window // 12)
    if learned and metric.name == "tool_calls":
        quiet = 15 * MINUTE
    if metric.kind == "creep":
        quiet = 2 * DAY
    after = length(alarm.after, "after") if alarm.after else 0
    every = MINUTE if not learned or metric.name == "tool_calls" else DAY if metric.kind == "creep" else 10 * MINUTE
    repeat = 0 if alarm.repeat in ("", "never") else length(alarm.repeat, "repeat")
    manner = Manner(after, quiet, max(repeat, 7 * DAY) if repeat and metric.kind == "creep" else repeat, every)
    shown = ",".join(f"{k}={v or '*'}" for k, v in wants)
    name = alarm.name or f"{metric.name}{f'/{shown}' if shown else ''}" + (f"#{number + 1}" if number else "")
    return AlarmRule(name, metric, wants, threshold, learned, alarm.level, window, floor, manner, tuple(alarm.channels), alarm.owner)


def _wants(alarm: Alarm, metric: Metric) -> tuple[tuple[str, str | None], ...]:
    if alarm.per and metric.kind == "state":
        raise ValueError(f"{metric.name} is judged as a whole; leave per out")
    per = alarm.per or metric.per
    table: dict[str, str | None] = {per: None} if isinstance(per, str) and per else {}
    if not isinstance(per, str):
        table = {label: None if value == "*" else value for label, value in per.items()}
    known = (SCOPES | {"operation", "purpose"}) - {"call"}
    if isinstance(per, str) and per and per not in known | {TOOL}:
        raise ValueError(f'per {per!r} is not one of {", ".join(sorted(known))}; for a free label write per = {{"{per}" = "*"}}')
    if TOOL in table and metric.name not in ("tool_calls", "retry_cost"):
        raise ValueError(f"{metric.name} is not known per tool; tool_calls and retry_cost are")
    if len(table) > LABELS_MAX:
        raise ValueError(f"per has {len(table)} labels; at most {LABELS_MAX}")
    return tuple(sorted(table.items()))


# Where a policy has no [[alarm]], everything is watched all the same; `bursar alarms` shows what was found.
DEFAULTS: tuple[Alarm, ...] = (
    Alarm(name="cost of a tenant", metric="cost", per="tenant", learned=True),
    Alarm(name="cost of a feature", metric="cost", per="feature", learned=True),
    Alarm(name="calls of a tool", metric="tool_calls", per="tool", learned=True),
    Alarm(name="agents in a loop", metric="loop_cost", per="tenant", threshold="$5"),
    Alarm(name="fallbacks", metric="fallback_rate", threshold="5%"),
    Alarm(name="unpriced calls", metric="unpriced_share", threshold="2%"),
    Alarm(name="unattributed spend", metric="unattributed_share", threshold="20%"),
    Alarm(name="budget nearly used up", metric="budget", threshold="90%"),
    Alarm(name="slow growth of a feature", metric="creep", per="feature"),
    Alarm(name="counters that drift", metric="drift", threshold=1),
)


def compile_alarms(alarms: Sequence[Alarm]) -> list[AlarmRule]:
    return [compile_alarm(alarm, n) for n, alarm in enumerate(alarms or DEFAULTS)]


def channels_of(rule: AlarmRule, scope: dict[str, str], owners: dict[str, Owner], channels: Sequence[str]) -> tuple[str, ...]:
    """Where an alarm is told: the channels it names, those of the owner it names, and of every owner whose scope it is about. All
    there are when that is nowhere: better heard twice than by nobody."""
    found = list(rule.channels)
    for name, owner in owners.items():
        about = bool(owner.scope) and all(scope.get(label) == value for label, value in owner.scope.items())
        if name == rule.owner or about:
            found += owner.channels
    return tuple(dict.fromkeys(found or channels))


def owner_of(rule: AlarmRule, scope: dict[str, str], owners: dict[str, Owner]) -> str:
    """Whose it is: the owner the alarm names, else the first whose scope it is about."""
    about = (n for n, o in owners.items() if o.scope and all(scope.get(k) == v for k, v in o.scope.items()))
    return rule.owner or next(about, "")
