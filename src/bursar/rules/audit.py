"""The six questions: verdicts from figures and thresholds, and the shape of an audit that every surface renders. Pure.

Money in pico-dollars, shares in millionths, times in microseconds since the epoch. What is at stake is a month's: of a period of 28
to 31 days as it was, of any other as if 30 days went on like it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from ..domain.policy import AuditPolicy

GOOD, WATCH, ACT = "good", "watch", "act"
WORSE = {GOOD: 0, WATCH: 1, ACT: 2}
QUESTIONS = {
    "attribution": "Is cost attributed per feature, tenant, flow and operation?",
    "fallback": "How often does a fallback to a dearer model fire?",
    "growth": "Do conversations grow without bound?",
    "tiers": "Is one model used for everything?",
    "cache": "Is caching live?",
    "guard": "Are there budgets and limits, and do they trip when tested?",
}
DAY_US = 86_400_000_000
MILLION = 1_000_000


class Figure(NamedTuple):
    """One figure of an answer. `unit`: usd (pico-dollars), share (millionths), count, tokens, ratio (millionths), days; None: nobody
    knows."""

    name: str
    value: int | None
    unit: str
    told: str  # what it is, for people


class Line(NamedTuple):
    """A part of the bill that an answer names. Lines of one `kind` do not overlap, and kinds may. `cost` in the period."""

    kind: str
    name: str
    cost: int
    calls: int
    note: str = ""


class Answer(NamedTuple):
    """One question answered. `paste` are lines for the policy file, `commands` for a shell; both may be empty. `stake`: dollars of a
    month that the action could keep, None where nobody can say. Stakes of different questions overlap."""

    number: int
    key: str
    question: str
    verdict: str
    sentence: str
    figures: tuple[Figure, ...]
    lines: tuple[Line, ...]
    stake: int | None
    how: str
    action: str
    paste: str = ""
    commands: tuple[str, ...] = ()


class Audit(NamedTuple):
    """All six of one period. `month`: what a month costs; `scaled`: it is not simply what the period came to."""

    since: int | None
    until: int | None
    days: int  # thousandths
    calls: int
    cost: int
    month: int
    scaled: bool
    unpriced: int
    answers: tuple[Answer, ...]

    @property
    def verdict(self) -> str:
        return max((one.verdict for one in self.answers), key=lambda word: WORSE[word], default=GOOD)


class Limits(NamedTuple):
    """The thresholds of `[audit]` as millionths: from half of one on a verdict is `watch`, above it `act`."""

    unattributed: int
    waste: int
    fallback: int
    tail: int
    history: int
    tiers: int
    cache: int
    drill_days: int


def limits(table: AuditPolicy) -> Limits:
    """ValueError names a threshold that is no share."""
    return Limits(
        *(_share("unattributed", table.unattributed), _share("waste", table.waste), _share("fallback", table.fallback)),
        *(_share("tail", table.tail), _share("history", table.history), _share("tiers", table.tiers), _share("cache", table.cache)),
        table.drill_days,
    )


def _share(name: str, text: str) -> int:
    found = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,4})?)\s*%\s*", text)
    if not found or Decimal(found[1]) > 100:
        raise ValueError(f'{name} is {text!r}; write a share from "0%" to "100%"')
    return int(Decimal(found[1]) * 10_000)


class Scale(NamedTuple):
    """How a period becomes a month: dollars times `times` over `over`."""

    days: int  # thousandths
    times: int
    over: int

    def month(self, pico: int) -> int:
        return pico * self.times // self.over


def scale(since: int, until: int) -> Scale:
    """A period of 28 to 31 days is a month as it is; less than an hour counts as one."""
    length = max(until - since, 3_600_000_000)
    days = length * 1000 // DAY_US
    if 28 * DAY_US <= length <= 31 * DAY_US + 3_600_000_000:
        return Scale(days, 1, 1)
    return Scale(days, 30 * DAY_US, length)


def share(part: int, whole: int) -> int:
    """Millionths; of nothing, none."""
    return part * MILLION // whole if whole > 0 else 0


def per_cent(millionths: int) -> str:
    """One decimal; what is there is never shown as nothing."""
    tenths = (millionths + 500) // 1000
    return "under 0.1%" if millionths > 0 and not tenths else f"{tenths // 10}.{tenths % 10}%"


def against(value: int, limit: int) -> str:
    """The verdict of a share against its threshold."""
    return ACT if value > limit else WATCH if value * 2 > limit else GOOD


def worst(words: Iterable[str]) -> str:
    return max(words, key=lambda word: WORSE[word], default=GOOD)


def times(millionths: int) -> str:
    """A factor: 15x, 1.7x."""
    tenths = (millionths + 50_000) // 100_000
    return f"{tenths // 10}x" if tenths >= 100 or tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}x"


def round_up(value: int, digits: int = 2) -> int:
    """To so many significant digits, upwards: a proposed limit is a number that somebody could have thought of."""
    step = 10 ** max(len(str(value)) - digits, 0)
    return -(-value // step) * step


def quote(text: str) -> str:
    """A text of strangers as a TOML string or key."""

    def safe(c: str) -> str:
        if c.isprintable() and c not in '"\\':
            return c
        return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"

    return f'"{"".join(map(safe, text))}"'


def dollars(pico: int) -> str:
    """An amount as the policy file takes it, in cents rounded up."""
    cents = -(-pico // 10**10)
    return f"${cents // 100}.{cents % 100:02d}"


NOTHING = "No calls in this period: nothing to judge yet."
BEGIN = "send some traffic through the gateway, then ask again"


def empty(key: str, number: int) -> Answer:
    """A question about calls where there are none."""
    return Answer(number, key, QUESTIONS[key], WATCH, NOTHING, (), (), None, "counted over the calls of the period", BEGIN,
                  "", ("bursar serve", "bursar doctor"))  # fmt: skip
