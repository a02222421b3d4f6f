"""Slow creep: what a week costs against the same week four and twelve weeks ago, split into volume, model, size and price.

A normal that is learned from the last week takes growth for normal, a few per cent at a time. This looks back further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .why import Side, explain

WEEKS = {4: 1.5, 12: 2.0}  # weeks back, and times as much that are too much
DAYS_UP = 5  # of the week's seven must be above those of the week then: one bad day is another alarm's business
GROUPS: dict[str, str] = {
    "volume": "volume", "depth": "volume", "eval": "volume", "embedding": "volume", "background": "volume", "control": "volume",
    "retry": "volume", "fallback": "volume", "model_mix": "model", "context": "size", "cache": "size", "output": "size",
    "price": "price", "fees": "price", "corrections": "price",
}  # fmt: skip


class Creep(NamedTuple):
    """A scope costs `times` as much as so many weeks ago. Pico-dollars a week; `parts` (volume, model, size, price) add up to
    now - then."""

    weeks: int
    then: int
    now: int
    times: float
    parts: dict[str, int]


def creep(week: Side, days: tuple[int, ...], then: Mapping[int, tuple[Side, tuple[int, ...]]], least: int) -> list[Creep]:
    """The look-backs that went too far, the shortest first. `days` are the week's seven sums; `then` has, by weeks back, that
    week and its days. `least` is what a week must cost more for it to matter. A scope that was nothing then is not creeping:
    it is new."""
    found: list[Creep] = []
    for weeks, most in WEEKS.items():
        if weeks not in then:
            continue
        side, days_then = then[weeks]
        told = explain(side, week)
        up = sum(now > was for now, was in zip(days, days_then, strict=True))
        if told.before <= 0 or told.now < most * told.before or told.now - told.before < least or up < DAYS_UP:
            continue
        parts: dict[str, int] = dict.fromkeys(("volume", "model", "size", "price"), 0)
        for driver, pico in told.drivers.items():
            parts[GROUPS[driver]] += pico
        found.append(Creep(weeks, told.before, told.now, told.now / told.before, parts))
    return found
