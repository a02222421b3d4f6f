"""The log line of each try, as a gateway writes it to stderr: JSON, no content, no secret, money as text."""

from __future__ import annotations

import contextlib
import sys
from operator import itemgetter

import msgspec

from ..domain.entry import COLUMNS, Entry
from ..domain.money import plain
from .counters import Counters

LINES_MAX = 50_000  # waiting for stderr; beyond it lines are dropped and counted, rows never are


class _Line(msgspec.Struct, gc=False, rename={"try_no": "try"}):
    """Its names and their order are the log's."""

    ts: int
    event: str
    call: str
    try_no: int
    kind: str
    operation: str
    tenant: str
    feature: str
    provider: str
    model: str
    status: str
    http: int | None
    ended: str
    error: str
    input: int | None
    output: int | None
    cost: int | str | None
    price: str
    ms: int | None


_at = COLUMNS.index
_AFTER_EVENT = itemgetter(*map(_at, (
    "call", "try_no", "attempt_kind", "operation", "tenant", "feature", "provider", "model_served", "status", "http_status", "ended",
    "error", "input", "output", "cost", "price_status", "latency_ms",
)))  # fmt: skip
_TS = _at("ts")


class TryLog:
    """Lines that wait to be written. Made at once, as bytes: to keep the rows until then would keep a thousand of them in memory,
    and each would be read again when the cache has long forgotten it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._text = bytearray()
        self._lines = 0
        self._encode = msgspec.json.Encoder().encode_into

    def add(self, entry: Entry) -> None:
        if self._lines >= LINES_MAX:
            self._counters.log_lines_dropped += 1
            return
        line = _Line(entry[_TS], "try", *_AFTER_EVENT(entry))
        if not line.model:
            line.model = entry.model_requested
        cost = line.cost
        if cost is not None:
            line.cost = plain(cost)  # pyright: ignore[reportArgumentType]
        self._encode(line, self._text, -1)
        self._text += b"\n"
        self._lines += 1

    def flush(self) -> None:
        """Written in lots: a system call per try would cost more than the try's parsing."""
        if not self._lines:
            return
        text, self._text, self._lines = self._text, bytearray(), 0
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()
