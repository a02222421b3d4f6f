"""Real tenants to judge alarms on: clients of a model host, and loops put on top of their traffic."""

from __future__ import annotations

import copy
import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from bursar.rules.alarm import DAY, TICK_US, WEEK, Rule, Series, Signal

TICKS = 2 * WEEK
RULE = Rule(floor=20)  # calls
LOOP = 6  # ticks within which a loop must be found: the hour
CASES = 3  # loops per client


class Client(NamedTuple):
    """Calls in each ten minutes of two weeks, and the mean of those with any in the first week."""

    name: str
    calls: list[int]
    usual: float


@cache
def clients(data: Path) -> list[Client]:
    """Those with at least twenty active windows in the first four days, as in the research the targets come from. Clients that
    fall silent after that are clients too."""
    found: dict[str, list[int]] = defaultdict(lambda: [0] * TICKS)
    with gzip.open(data / "traffic-servegen" / "client_windows.csv.gz", "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            tick = int(float(row["t_s"])) // 600
            if tick < TICKS:
                found[f"{row['model_pool']}/{row['client']}"][tick] += round(float(row["requests_10min"]))
    made: list[Client] = []
    for name, calls in sorted(found.items()):
        active = [n for n in calls[:WEEK] if n]
        if sum(n > 0 for n in calls[: 4 * DAY]) >= 20:
            made.append(Client(name, calls, sum(active) / len(active)))
    return made


class Trial(NamedTuple):
    """What one client's two weeks came to: its own alarms, the ticks a normal was known for, and per loop and size the first
    level within the hour and how many ticks that took."""

    alarms: list[Signal]
    ticks: int
    loops: list[tuple[int, dict[str, int]]]  # (size, level -> ticks until it was reached)


def trial(client: Client, rule: Rule = RULE, sizes: tuple[int, ...] = (10,), cases: int = CASES) -> Trial:
    """Replay a client; at random ticks a copy of the series also gets a loop of `size` times its usual calls, for an hour."""
    chance = Random(client.name)
    born = next(n for n, calls in enumerate(client.calls) if calls)
    first = born + rule.young
    starts = sorted(chance.randrange(first, TICKS - 2 * LOOP) for _ in range(cases)) if first < TICKS - 2 * LOOP else []
    series = Series(rule)
    alarms: list[Signal] = []
    loops: list[tuple[int, dict[str, int]]] = []
    for tick, calls in enumerate(client.calls):
        while starts and starts[0] == tick:
            starts.pop(0)
            loops += [(size, _loop(series, client, tick, size)) for size in sizes]
        if calls:
            series.add(tick * TICK_US, calls)
        alarms += series.advance((tick + 1) * TICK_US)
    return Trial(alarms, max(0, TICKS - first), loops)


def _loop(series: Series, client: Client, start: int, size: int) -> dict[str, int]:
    copied = copy.deepcopy(series)
    found: dict[str, int] = {}
    for tick in range(start, start + LOOP):
        copied.add(tick * TICK_US, client.calls[tick] + round(size * client.usual))
        score, _ = _scored(copied, tick)
        for level in ("page", "ticket"):
            if score > copied.threshold(level):
                found.setdefault(level, tick - start + 1)
    return found


def _scored(series: Series, tick: int) -> tuple[float, int]:
    """The score whether or not something was said in the last day: a cooldown is no miss."""
    series.advance((tick + 1) * TICK_US)
    return series.score(tick)


def streams(client: Client) -> Iterator[tuple[int, int]]:
    """A client's calls as (microsecond, number), spread within their windows."""
    chance = Random(client.name)
    for tick, calls in enumerate(client.calls):
        left = calls
        while left:
            part = min(left, chance.randrange(1, calls + 1))
            yield tick * TICK_US + chance.randrange(TICK_US), part
            left -= part
