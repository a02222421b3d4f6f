"""The Numenta Anomaly Benchmark's published way to score: windows, a sigmoid for how early, one threshold for all series a profile.

Of detections in a window the first counts, the earlier the more; each outside costs, the further from the last window the more; a
window without any costs a whole one. 0 is a detector that never says anything, 100 one that says each window at its first point."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import exp
from pathlib import Path
from typing import NamedTuple

from bursar.rules.alarm import TICK_US, WEEK, Rule, Series

PROFILES = {"standard": (1.0, 0.11, 1.0), "few false alarms": (1.0, 0.22, 1.0), "few missed": (1.0, 0.11, 2.0)}  # hit, false, missed
SCALE = 10**6  # values have fractions, amounts none


class Line(NamedTuple):
    """One of the benchmark's series: windows as the indexes of their first and last point."""

    name: str
    times: list[int]
    values: list[float]
    windows: list[tuple[int, int]]


def series(data: Path) -> Iterator[Line]:
    with gzip.open(data / "anomaly-nab" / "series.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            made = json.loads(line)
            times = [_us(text) for text in made["timestamps"]]
            windows = [
                (next(n for n, at in enumerate(times) if at >= _us(first)), max(n for n, at in enumerate(times) if at <= _us(last)))
                for first, last in made["windows"]
            ]
            yield Line(made["series"], times, made["values"], windows)


def _us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


def early(relative: float) -> float:
    """1 at a window's first point, about 0 at its last, towards -1 behind it."""
    return -1.0 if relative > 3 else 2 / (1 + exp(5 * relative)) - 1


def score(lines: Sequence[tuple[Line, Sequence[float]]], profile: tuple[float, float, float]) -> tuple[float, float]:
    """The best score (0 to 100) that any one threshold reaches over all series, and that threshold."""
    hit, false, missed = profile
    events: list[tuple[float, float, tuple[int, int] | None]] = []
    count = 0
    for number, (line, said) in enumerate(lines):
        count += len(line.windows)
        probation = min(int(0.15 * len(said)), 750)
        for n in range(probation, len(said)):
            inside = next(((number, at) for at, (first, last) in enumerate(line.windows) if first <= n <= last), None)
            if inside is not None:
                first, last = line.windows[inside[1]]
                events.append((said[n], hit * early(-(last - n + 1) / (last - first + 1)) / early(-1.0), inside))
                continue
            before = [window for window in line.windows if window[1] < n]
            gone = (n - before[-1][1]) / max(1, before[-1][1] - before[-1][0]) if before else None
            events.append((said[n], false * (-1.0 if gone is None else early(gone)), None))
    events.sort(key=lambda one: -one[0])
    best: dict[tuple[int, int], float] = {}
    cost, top, at = 0.0, -missed * count, float("inf")
    for n, (value, worth, window) in enumerate(events):
        if window is None:
            cost += worth
        else:
            best[window] = max(best.get(window, -1.0), worth)
        if n + 1 == len(events) or events[n + 1][0] < value:
            total = cost + sum(best.values()) - missed * (count - len(best))
            if total > top:
                top, at = total, value
    return 100 * (top + missed * count) / (hit * count + missed * count), at


def ours(line: Line, young: int = WEEK) -> list[float]:
    """Our score of each point, as if its value were an amount: made for sums that must not jump up, it hears nothing of a fall."""
    judge = Series(Rule(floor=0, young=young))
    found: list[float] = []
    begun = line.times[0] // TICK_US
    for at, value in zip(line.times, line.values, strict=True):
        judge.add(at, max(0, round(value * SCALE)))
        judge.advance(at)
        tick = at // TICK_US - 1
        hour = tick - begun >= young and judge._hours[tick % len(judge._hours)]
        found.append(judge.score(tick)[0] if hour else 0.0)
    return found
