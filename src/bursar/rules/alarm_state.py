"""An alarm from its first sign to its end: pending, firing, acknowledged, resolved; when something is told of it, and when not.

Pure: what was seen comes in with its time, and the same looks give the same standings and the same ids, live and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from ..domain.alarm import ACKNOWLEDGED, FIRING, PENDING, RESOLVED, Silence, Standing

REPEAT_MOST_US = 86_400_000_000  # reminders come each time twice as late, but at least once a day
WORSE = 2  # times what was last told: said at once, also of what was acknowledged


class Manner(NamedTuple):
    """How one alarm behaves. `after_us`: how long it must last before it fires; `quiet_us`: how long it must be gone before it
    is resolved, so that what flickers is one alarm; `repeat_us`: 0 never; `every_us`: how often there is a look at all."""

    after_us: int
    quiet_us: int
    repeat_us: int
    every_us: int = 60_000_000


class Look(NamedTuple):
    """What was measured of one scope at one moment. `opens`: it may begin an alarm (a learned one says so once a day)."""

    at_us: int
    over: bool
    opens: bool
    value: int
    normal: int = -1
    threshold: int = 0
    score: float = 1.0
    level: str = "page"
    since_us: int = 0  # when it began, where that is known


class About(NamedTuple):
    """What all alarms of one rule have in common."""

    rule: str
    metric: str
    unit: str
    window_us: int
    below: bool = False


def scope_text(scope: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(scope.items())), separators=(",", ":"), ensure_ascii=True)


def incident_id(rule: str, scope: str, at_us: int) -> str:
    """Short enough to be typed, and the same wherever the same is found."""
    return blake2b(f"{rule}\n{scope}\n{at_us}".encode(), digest_size=5).hexdigest()


def step(now: Standing | None, look: Look, about: About, scope: str, manner: Manner, silent: bool) -> tuple[Standing | None, str]:
    """What the alarm is after this look, and what is to be told: firing, worse, reminder, resolved, or nothing."""
    if now is None:
        if not (look.over and look.opens):
            return None, ""
        now = Standing(
            incident_id(about.rule, scope, look.at_us), about.rule, scope, about.metric, about.unit, PENDING, look.level,
            about.window_us, look.since_us or look.at_us, 0, look.at_us, 0, look.value, look.value, look.normal, look.threshold,
            look.score, 0, 0, 0,
        )  # fmt: skip
    if look.at_us < now.seen:
        return now, ""  # a look from before: the clock went back
    if not look.over:
        return _gone(now, look, manner, silent)
    further = min if about.below else max
    # The score is that of its worst: judged noise, it must be worse than that to fire again.
    now = now._replace(seen=look.at_us, value=look.value, peak=further(now.peak, look.value), score=max(now.score, look.score))
    if now.state == PENDING and look.at_us - now.since >= manner.after_us:
        now = now._replace(state=FIRING, fired=look.at_us, level=look.level, normal=look.normal, threshold=look.threshold)
    if now.state == PENDING or silent:
        return now, ""
    kind = _due(now, look, about, manner)
    return (_told(now, look), kind) if kind else (now, "")


def _due(now: Standing, look: Look, about: About, manner: Manner) -> str:
    if not now.said:
        return "firing"
    worse = WORSE * look.value <= now.said_value if about.below else look.value >= WORSE * now.said_value > 0
    if worse:
        return "worse"
    if now.state == ACKNOWLEDGED or not manner.repeat_us:
        return ""
    wait = min(manner.repeat_us * 2 ** min(now.notices - 1, 20), max(REPEAT_MOST_US, manner.repeat_us))
    return "reminder" if look.at_us - now.said >= wait else ""


def _gone(now: Standing, look: Look, manner: Manner, silent: bool) -> tuple[Standing | None, str]:
    if now.state == PENDING:
        return (None, "") if look.at_us - now.seen >= manner.every_us else (now, "")
    if look.at_us - now.seen < manner.quiet_us:
        return now, ""
    now = now._replace(state=RESOLVED, resolved=look.at_us)
    # Who was told that it began is told that it is over.
    return (_told(now, look), "resolved") if now.said and not silent else (now, "")


def _told(now: Standing, look: Look) -> Standing:
    return now._replace(said=look.at_us, said_value=look.value, notices=now.notices + 1)


def calm(at_us: int) -> Look:
    """The look at a scope of which nothing is over."""
    return Look(at_us, False, False, 0)


def silenced(silences: Sequence[Silence], rule: str, scope: Mapping[str, str], at_us: int) -> bool:
    """Whether somebody wants to hear nothing of this just now."""
    known = {**scope, "alarm": rule}
    return any(one.since <= at_us < one.until and all(known.get(name) == value for name, value in one.match) for one in silences)
