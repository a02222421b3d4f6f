"""The ledger's facts: the entry (an immutable row, one per try), the hold (money set aside before it), and charges on counters."""

from __future__ import annotations

from typing import NamedTuple

from .incident import Incident
from .shape import Shape, maker
from .thread import Landmark

SCHEMA_VERSION = 1


class Entry(NamedTuple):
    """One try, or one correction. Field order is column order: first what is known before the try (its draft), from
    `model_served` on its outcome. Money in pico-dollars, tokens as disjoint counts, times in microseconds since the epoch
    (UTC), durations in the unit the name ends with. None means unknown or not applicable."""

    id: str  # the try: unique for ever
    ts: int
    call: str
    try_no: int
    key: str = ""
    attempt_kind: str = "first"  # first | retry | fallback | correction | tool | aggregate
    operation: str = "primary"
    purpose: str = "primary"
    cause: str = ""
    tenant: str = ""
    feature: str = ""
    flow: str = ""
    user: str = ""
    conversation: str = ""
    turn: int | None = None
    tool_depth: int | None = None
    labels: str = "{}"  # JSON object of the free labels
    label_sources: str = "{}"
    provider: str = ""
    dialect: str = ""
    model_requested: str = ""
    tier: str = ""
    route_reason: str = ""
    stream: int = 0
    hold: int = 0  # pico-dollars set aside for this try
    saved: int | None = None
    saved_by: str = ""
    request_hash: str = ""
    prefix_hash: str = ""
    policy_hash: str = ""
    source: str = "measured"  # measured | imported:FORMAT | correction
    corrects: str = ""  # the entry this one corrects
    node: str = ""
    # the outcome; the draft has the first two as they were asked for
    model_served: str = ""
    service_tier: str = ""
    status: str = ""  # ok | error | refused | unknown | correction
    http_status: int | None = None
    error: str = ""
    finish: str = ""
    ended: str = ""  # complete | incomplete | abandoned | failed | refused
    input: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    output: int | None = None
    reasoning: int | None = None
    other_units: str = "{}"  # JSON: audio, image tokens and non-token units
    usage_source: str = "unknown"  # provider | estimated | unknown
    usage_raw: str = ""  # kept where the provider contradicted itself
    cost: int | None = None
    cost_input: int | None = None
    cost_cache_read: int | None = None
    cost_cache_write: int | None = None
    cost_output: int | None = None
    cost_other: int | None = None
    cost_new: int | None = None
    cost_history: int | None = None
    cost_tools: int | None = None
    cost_system: int | None = None
    legs: str = "[]"  # JSON: [bucket, count, femto-dollars each, pico-dollars] per leg; the total is their sum
    price_id: str = ""
    price_status: str = "unpriced"  # priced | free | estimated | unpriced
    latency_ms: int | None = None
    ttft_ms: int | None = None
    overhead_us: int | None = None
    response_id: str = ""
    flags: str = ""  # space-separated words: fault_open, contradiction, late, …
    evidence: str = "{}"  # JSON: how conversation and cause were inferred, how sure, tokens by class, a loop


made_entry = maker(Entry)
COLUMNS: tuple[str, ...] = Entry._fields
OUTCOME = COLUMNS.index("model_served")  # where the outcome begins
DRAFT = OUTCOME + 2
BLANK: tuple[object, ...] = tuple(Entry._field_defaults[name] for name in COLUMNS[DRAFT:])  # of an outcome not known yet
MONEY_COLUMNS = tuple(c for c in COLUMNS if c.startswith("cost") or c in ("hold", "saved"))

UNITS = ("usd", "tokens", "calls", "tool_calls")


class Charge(Shape, frozen=True, gc=False):
    """One counter that a try must fit under. `counter` names budget, scope value and window; amounts and limit are in the
    unit's own grain: nano-dollars (rounded up), tokens, calls. No limit: the counter only counts."""

    counter: str
    budget: str
    unit: str
    amount: int
    limit: int | None
    hard: bool
    resets_us: int = 0  # when the window ends; 0: never; below 0: a conversation's, counted since then
    steps: tuple[int, ...] = ()  # standings from which on the holder wants to hear of it, ascending


class Hold(Shape, frozen=True, gc=False):
    """Money set aside for one try, written before the provider sees a byte. If nobody settles it, `entry` is the row it becomes."""

    id: str  # = the try's entry id
    ts: int
    amount: int  # pico-dollars, worst case
    charges: tuple[Charge, ...]
    entry: Entry


class Short(Shape, frozen=True, gc=False):
    """A hold that did not fit: nothing was held anywhere."""

    charge: Charge
    spent: int
    held: int


class Held(Shape, frozen=True, gc=False):
    """A hold that has something to tell. `at`: the counters that stood at one of their steps already (which charge, its standing
    before this hold); `left`: of the hard limit with the least share left (which charge, what is left after this hold)."""

    at: tuple[tuple[int, int], ...] = ()
    left: tuple[int, int] | None = None


class Settlement(Shape, frozen=True, gc=False):
    """What a try really used, per charge of its hold and in the same order and grain."""

    id: str
    entry: Entry
    actual: tuple[int, ...]
    charges: tuple[Charge, ...] = ()
    landmarks: tuple[Landmark, ...] = ()  # of the conversation, for other processes
    incidents: tuple[Incident, ...] = ()  # what guards did to the call
