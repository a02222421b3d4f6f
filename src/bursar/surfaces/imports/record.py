"""What an import speaks of: a piece of a file, and what it turns out to be: a record, a repetition, no call, or bad. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Protocol

import msgspec

from ...domain.entry import Entry
from ...domain.money import PICO
from ...domain.shape import Shape
from ...domain.usage import Tokens

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
# Model calls are younger than this, and a day is a file of the ledger: a clock that never was set must not make thousands.
EARLIEST_US = 1_546_300_800_000_000  # 2019-01-01
_exact = msgspec.json.Decoder(float_hook=Decimal)  # amounts are read as the decimals that were written
# Two sources that tell of one call differ by their clocks and by whether they mean its begin or its end. Small model servers number
# their replies (chatcmpl-881): a short id, or the same id at another time, is another call.
APART_US = 600_000_000
RESPONSE_ID_MIN = 16
AGGREGATE = "aggregate"  # the attempt_kind of a bucket of a provider's report: no call, and in no sum over calls
NO_LABELS: Mapping[str, str] = {}


class Piece(Shape, frozen=True, gc=False):
    """One record of a file as JSON bytes. `line` counts from 1 (in a document: the element, from 1); `offset` is where it
    begins in the file's plain bytes, and `end` where the next may."""

    raw: bytes
    line: int
    offset: int
    end: int


class Record(Shape, frozen=True, gc=False):
    """One model call as its source tells it, in our words. Money in pico-dollars, times in microseconds since the epoch (UTC).

    `tokens` None: the source does not know. `stated`: what the source says it cost. `billed`: that amount is the provider's
    own bill, not somebody's arithmetic. `labels`: ours by name, all others free."""

    id: str  # unique within its format for ever: a second import of it adds nothing
    ts: int
    provider: str = ""
    model: str = ""  # what answered and was billed
    requested: str = ""  # what was asked for, where that is known to differ
    tokens: Tokens | None = None
    estimated: bool = False  # the source counted the tokens itself
    contradiction: str = ""  # what does not add up in the source's counts
    stated: int | None = None
    billed: bool = False
    labels: Mapping[str, str] = NO_LABELS
    status: str = "ok"  # ok | error
    http_status: int | None = None
    error: str = ""
    finish: str = ""
    dialect: str = ""
    stream: bool = False
    latency_ms: int | None = None
    ttft_ms: int | None = None
    service_tier: str = ""
    batch: bool = False
    embedding: bool = False
    key: str = ""
    response_id: str = ""
    call: str = ""  # where several tries are one call
    try_no: int = 1
    attempt_kind: str = "first"
    cause: str = ""
    digest: str = ""  # of a bucket's figures: the same bucket with other figures is another report
    source: str = ""  # where it is not just the format
    flags: str = ""


class Repeat(Shape, frozen=True, gc=False):
    """A record whose usage another record of the same source already counts."""

    reason: str


class Passed(Shape, frozen=True, gc=False):
    """A record that is no model call, or one that cost nothing by its nature."""

    reason: str


class Bad(Shape, frozen=True, gc=False):
    """A record that cannot be used, with why; it is put aside as it stands."""

    reason: str
    piece: Piece


Outcome = Record | Entry | Repeat | Passed | Bad  # an Entry: a row that is one already


class Mapper(Protocol):
    """One format's reading of one file. Each record of the file becomes exactly one outcome, sooner or later."""

    def take(self, piece: Piece) -> Iterable[Outcome]:
        """What this piece settles. NotMine: the piece is whole, but not of this format."""
        ...

    def finish(self, growing: bool) -> Iterable[Outcome]:
        """The file has ended: what was still waiting. `growing`: somebody may still be writing it."""
        ...

    @property
    def waiting(self) -> Piece | None:
        """The first piece that is not settled yet, None when nothing waits: where an interrupted import must begin again."""
        ...


class NotMine(ValueError):
    """This piece is no record of the format. The message says what was missed."""


class Stateless:
    """A format whose every record stands for itself."""

    def finish(self, growing: bool) -> Iterable[Outcome]:
        return ()

    @property
    def waiting(self) -> Piece | None:
        return None


# -- values as sources write them --------------------------------------------------------------------------------------------


def moment(value: object) -> int:
    """Microseconds since the epoch from ISO 8601 text (no zone: UTC) or from a number of seconds, milli-, micro- or
    nanoseconds, told apart by size. NotMine when it is no time, or none that a model call can have."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            if not value.replace(".", "", 1).isdigit():
                raise NotMine(f"{value[:40]!r} is not a time") from None
            return moment(Decimal(value))
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        since = when - EPOCH
        us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        scale = next((s for limit, s in ((10**11, 10**6), (10**14, 10**3), (10**17, 1)) if value < limit), None)
        us = int(Decimal(str(value)) * scale) if scale else int(value) // 1000
    else:
        raise NotMine("it has no time")
    if not EARLIEST_US <= us < 4_102_444_800_000_000:  # 2100
        raise NotMine(f"its time is {value!r:.40}, outside 2019 to 2100")
    return us


def between_ms(start_us: int, end: object) -> int | None:
    """Milliseconds from a start to an end as the source writes it; None where it says nothing usable."""
    if end is None or end == "":
        return None
    try:
        return max(0, (moment(end) - start_us) // 1000)
    except NotMine:
        return None


def dollars(value: object) -> int | None:
    """Pico-dollars of an amount of dollars as the source writes it, rounded half up; None when it says none. NotMine when what it
    says is no amount."""
    if value is None or value == "":
        return None
    if value.__class__ is str:
        whole, _, part = value.partition(".")  # type: ignore[union-attr]
        if len(whole) < 10 and len(part) <= 12 and (whole + part).isdecimal() and value.isascii():  # type: ignore[union-attr]
            return int(whole + part.ljust(12, "0"))  # as nearly all are, at a third of the time
    try:
        amount = Decimal(value if isinstance(value, str | int | Decimal) else repr(value))
    except (InvalidOperation, ValueError, TypeError):
        raise NotMine(f"{value!r:.40} is not an amount of dollars") from None
    if isinstance(value, bool) or not amount.is_finite() or not 0 <= amount < 10**9:
        raise NotMine(f"{value!r:.40} is not an amount of dollars from 0 to a billion")
    return int((amount * PICO).to_integral_value(rounding=ROUND_HALF_UP))


def whole(value: object) -> int | None:
    """A count as the source writes it; None when it says none. NotMine when it is no whole number from 0 up."""
    if value is None or value == "":
        return None
    if value.__class__ is int and 0 <= value < 2**48:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or number != number.to_integral_value() or not 0 <= number < 2**48:
        raise NotMine(f"{value!r:.40} is not a count")
    return int(number)


def text(value: object) -> str:
    """A name or id as text; empty for nothing, and for what is no single value."""
    if value.__class__ is str:
        return value  # type: ignore[return-value]
    return "" if value is None or isinstance(value, dict | list | float) else str(value)


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Single values of an object as labels; what is nested, long or empty is left out: it is content, not a label."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        for name, inner in value.items():
            if (
                inner.__class__ in (str, int, bool)
                and 0 < len(said := str(inner).lower() if inner.__class__ is bool else str(inner)) <= 256
            ):
                found[prefix + str(name)] = said
    return found


def tags(value: object) -> dict[str, str]:
    """A list of tags as labels: `team:red` is team=red, a bare word tag.word=true."""
    found: dict[str, str] = {}
    for tag in value if isinstance(value, list) else ():
        if isinstance(tag, str) and tag:
            name, colon, said = tag.partition(":")
            found.update({name.strip(): said.strip()} if colon and said and " " not in name else {f"tag.{tag}": "true"})
    return found


def inside(value: object) -> dict[str, Any]:
    """An object, also where the source wrote it as JSON text; empty when it is none."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = _exact.decode(value)
        except (msgspec.DecodeError, RecursionError, InvalidOperation):
            return {}
    return value if isinstance(value, dict) else {}
