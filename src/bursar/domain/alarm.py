"""What an alarm is while it lasts and after: its standing, what was said of it, and what people made of it. Facts, no decisions."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

PENDING, FIRING, ACKNOWLEDGED, RESOLVED = "pending", "firing", "acknowledged", "resolved"
OPEN = (PENDING, FIRING, ACKNOWLEDGED)
USEFUL, NOISE = "useful", "noise"

# What a whole number of each unit is in the picos that amounts are stored in: dollars in pico-dollars, shares in millionths.
SCALE = {"usd": 1, "share": 10**6, "times": 10**6}
WHOLE = 10**12


def decimal(unit: str, amount: int) -> Decimal:
    """An amount of a unit as an exact decimal: dollars, a fraction, or a count."""
    return Decimal(amount * SCALE.get(unit, WHOLE)).scaleb(-12)


class Standing(NamedTuple):
    """One alarm about one scope, from its beginning to its end. Times in microseconds, UTC, 0: not yet. Amounts in the unit's own
    grain: pico-dollars, millionths of a share, counts."""

    id: str
    rule: str
    scope: str  # JSON object of label and value, sorted; {} is everything
    metric: str
    unit: str  # usd | tokens | calls | share | turns | days | times | counters
    state: str
    level: str  # page | ticket | line
    window_us: int
    since: int  # when what is alarmed of began
    fired: int
    seen: int  # the last look at which it was over its threshold
    resolved: int
    value: int
    peak: int
    normal: int  # what it was held against; -1: a fixed threshold
    threshold: int
    score: float  # times what would just have been enough
    said: int  # when it was last told
    said_value: int
    notices: int
    owner: str = ""
    by: str = ""  # who acknowledged it
    acknowledged: int = 0
    judged: str = ""  # useful | noise
    judged_at: int = 0
    judged_by: str = ""


class Notice(NamedTuple):
    """One thing to be told: a message for some channels. The id is made of the alarm's and a number, so that the same notice has
    the same id also after a crash."""

    id: str
    alarm: str
    kind: str  # firing | worse | reminder | resolved | digest | test | handoff
    at: int
    message: str  # JSON of domain.message.Message
    channels: tuple[str, ...]


class Delivery(NamedTuple):
    """A notice on its way to one channel. `state`: waiting, gathered (it goes with a digest), delivered, given_up."""

    notice: str
    kind: str
    channel: str
    message: str
    attempts: int
    created: int


class Silence(NamedTuple):
    """Nothing is told of alarms that match, until then. `match`: `alarm` and labels, all of which must be as said."""

    n: int
    match: tuple[tuple[str, str], ...]
    since: int
    until: int
    by: str
    note: str
