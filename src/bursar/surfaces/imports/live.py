"""OTLP/HTTP as it comes in: one request's spans become rows before it is answered. Blocking; the gateway's own API calls it from a
thread. Loads no query engine before there are segments of that time to ask; nothing on the way of a model call loads this.

`Ingest.take(content_type, content_encoding, body)` gives the whole answer. What OTLP says of one is in
https://opentelemetry.io/docs/specs/otlp/#otlphttp-response: 200 with a partial success names what was rejected and is not sent
again; 400 is not sent again; 429 and 503 are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ...domain.entry import Entry, Settlement
from ...domain.shape import replace
from ...stores.fault import OF_DISK, LedgerFault
from ...stores.schema import connect
from ...stores.writer import Ledger
from ...wire import encoding
from . import genai, otlp, otlp_protobuf
from .entries import Given, Maker, Prices
from .record import APART_US, DAY_US, RESPONSE_ID_MIN, Bad, NotMine, Outcome, Passed, Piece, Record, Repeat
from .traces import Traces

BODY_MAX = 16 << 20  # bytes, plain: an exporter's batch of 512 spans with their prompts is a tenth of it
SPANS_MAX = 10_000
LOOK_BACK = 200_000  # newest rows of the tail among which a call is looked for that was measured here too: more than it ever holds
WAIT_S = 5.0  # for the request before, and then the exporter is told to come again
TYPES = {"application/x-protobuf": "protobuf", "application/json": "json"}
SOURCE = "imported:otlp"
NOWHERE = Piece(b"", 0, 0, 0)
MEASURED = "measured here already"
BEFORE = "an aggregate of calls told before this process began"

_json = msgspec.json.Decoder()


class Report(NamedTuple):
    """The answer to send, and what became of the spans. `retry_after_s` goes into `Retry-After` where it is not 0."""

    status: int
    content_type: str
    body: bytes
    rows: int = 0
    repeated: int = 0
    passed: int = 0
    rejected: int = 0
    reason: str = ""
    retry_after_s: int = 0


class Ingest:
    """Takes spans for one ledger. Remembers which spans of recent traces are counted, so that a trace told in several requests is
    counted once; one request at a time."""

    def __init__(self, ledger: Ledger, prices: Prices, clock_us: Callable[[], int]) -> None:
        self._ledger, self.prices, self._clock = ledger, prices, clock_us
        self._traces = Traces(SPANS_MAX)
        self._began_us = clock_us()
        self._lock = threading.Lock()
        self._read = connect(ledger.place, busy_ms=5_000, read_only=True)

    def close(self) -> None:
        with self._lock:
            self._read.close(True)

    def take(
        self, content_type: str, content_encoding: str, body: bytes, bound: Mapping[str, str] | None = None, key: str = ""
    ) -> Report:
        """One POST to /v1/traces. `bound`: labels that the caller's key binds, which nobody may overrule; `key`: its name."""
        kind = TYPES.get(content_type.partition(";")[0].strip().lower(), "")
        if not kind:
            return _refused("json", 415, f"content type {content_type[:80]!r}; send application/x-protobuf or application/json")
        if content_encoding and content_encoding.strip().lower() != "identity":
            plain = encoding.decode(body, content_encoding, BODY_MAX)
            if not isinstance(plain, bytes):
                return _refused(kind, 413 if "bytes" in str(plain) else 400, str(plain))
            body = plain
        if len(body) > BODY_MAX:
            return _refused(kind, 413, f"{len(body):,} bytes; at most {BODY_MAX:,}")
        try:
            spans = _spans(kind, body)
        except (NotMine, otlp_protobuf.Malformed) as bad:
            return _refused(kind, 400, str(bad))
        if len(spans) > SPANS_MAX:
            return _refused(kind, 413, f"{len(spans):,} spans in one request; at most {SPANS_MAX:,}")
        if not self._lock.acquire(timeout=WAIT_S):
            return _refused(kind, 503, "the requests before this one are still being written", retry_after_s=int(WAIT_S))
        try:
            return self._taken(kind, spans, Maker("otlp", self.prices, Given(bound or {})), key)
        except LedgerFault as fault:
            return _refused(kind, 503, str(fault), retry_after_s=int(WAIT_S))
        finally:
            self._lock.release()

    def _taken(self, kind: str, spans: Sequence[genai.Span], maker: Maker, key: str) -> Report:
        rows: dict[str, Entry] = {}
        repeated = passed = 0
        bad: list[str] = []
        latest = self._clock() + DAY_US
        for outcome in self._outcomes(spans):
            match outcome:
                case Record():
                    row = maker.row(replace(outcome, key=key) if key else outcome)
                    if row.ts > latest:
                        bad.append("a span's time is in the future")
                    else:
                        rows[row.id] = row
                case Repeat():
                    repeated += 1
                case Passed():
                    passed += 1
                case Bad(reason):
                    bad.append(reason)
                case _:
                    raise AssertionError("spans are records, not rows")
        known = self._known(rows)
        fresh = [row for row in rows.values() if row.id not in known]
        self._ledger.book_all([Settlement(row.id, row, ()) for row in fresh])
        message = f"{len(bad)} spans cannot be used: {bad[0]}"[:500] if bad else ""
        return Report(200, _type(kind), _answer(kind, len(bad), message), len(fresh), repeated + len(known), passed, len(bad), message)

    def _outcomes(self, spans: Sequence[genai.Span]) -> Iterator[Outcome]:
        touched: dict[str, None] = {}
        for span in spans:
            touched[span.trace] = None
            try:
                record, why = genai.reading(span)
            except NotMine as bad:
                record, why = None, ""
                yield Bad(f"span {span.name[:60]!r}: {bad}", NOWHERE)
            if record is not None and record.ts < self._began_us and genai.is_call(span) is False:
                record, why = None, BEFORE  # whether the calls below it were counted is not known any more
            if why:
                yield Passed(why)
            yield from self._traces.add(span.trace, span.span, span.parent, record, NOWHERE)
        for trace in touched:
            yield from self._traces.settle(trace)

    def _known(self, rows: Mapping[str, Entry]) -> set[str]:
        """Ids of rows that are in the ledger (an exporter that got no answer sends again), or whose call the gateway has measured."""
        if not rows:
            return set()
        asked = msgspec.json.encode(list(rows)).decode()
        answers = {row.response_id: row.ts for row in rows.values() if len(row.response_id) >= RESPONSE_ID_MIN}
        elsewhere: set[str] = set()  # response ids
        try:
            found = {id for (id,) in self._read.execute(
                "SELECT id FROM tail WHERE id IN (SELECT value FROM json_each(?1)) "
                "UNION ALL SELECT id FROM landed WHERE id IN (SELECT value FROM json_each(?1))", (asked,))}  # fmt: skip
            if answers:
                for (id,) in self._read.execute(
                    "SELECT response_id FROM tail WHERE seq > (SELECT coalesce(max(seq), 0) FROM tail) - ? "
                    "AND source NOT IN (?, 'correction') AND response_id IN (SELECT value FROM json_each(?))",
                    (LOOK_BACK, SOURCE, msgspec.json.encode(list(answers)).decode()),
                ):
                    elsewhere.add(id)
            left = {id: ts for id, ts in answers.items() if id not in elsewhere}
            if left:
                elsewhere |= self._moved(left)
        except OF_DISK as error:
            raise LedgerFault("cannot_open", str(error), "the exporter sends again") from error
        return found | {row.id for row in rows.values() if row.response_id in elsewhere}

    def _moved(self, times: Mapping[str, int]) -> set[str]:
        """Of these response ids, those of calls whose rows have left the tail. Asked after the tail: a row is in one of both."""
        first, last = min(times.values()) - APART_US, max(times.values()) + APART_US
        listed = "SELECT name FROM segments WHERE max_ts >= ? AND min_ts <= ? AND rows > 0"
        names = self._read.execute(listed, (first, last)).fetchall()
        if not names:
            return set()
        from .known import told

        return told([str(self._ledger.place.segments / name) for (name,) in names], times, SOURCE)


def _spans(kind: str, body: bytes) -> list[genai.Span]:
    if kind == "protobuf":
        return otlp_protobuf.spans(body)
    try:
        found: Any = _json.decode(body) if body else {}
    except (msgspec.DecodeError, RecursionError) as bad:
        raise NotMine(f"not JSON: {bad}") from None
    if not isinstance(found, dict) or not isinstance(found.get("resourceSpans", []), list):
        raise NotMine("no resourceSpans: not an ExportTraceServiceRequest")
    return list(otlp.in_json(found))


def _type(kind: str) -> str:
    return "application/x-protobuf" if kind == "protobuf" else "application/json"


def _answer(kind: str, rejected: int, message: str) -> bytes:
    if kind == "protobuf":
        return otlp_protobuf.answer(rejected, message)
    # In OTLP's JSON 64-bit numbers are texts.
    return msgspec.json.encode({"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}} if rejected else {})


def _refused(kind: str, status: int, reason: str, retry_after_s: int = 0) -> Report:
    body = otlp_protobuf.status(reason[:500]) if kind == "protobuf" else msgspec.json.encode({"code": 3, "message": reason[:500]})
    return Report(status, _type(kind), body, reason=reason, retry_after_s=retry_after_s)
