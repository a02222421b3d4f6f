"""The log line of a try: which names it has in which order, and that a slow stderr costs lines and no memory."""

from __future__ import annotations

import json

import pytest

from bursar.domain.entry import Entry
from bursar.surfaces import try_log
from bursar.surfaces.counters import Counters
from bursar.surfaces.try_log import TryLog

BARE = Entry("c1.1", 1_790_000_000_000_000, "c1", 1, model_requested="gpt-5-mini")
FULL = BARE._replace(
    attempt_kind="retry", operation="retry", tenant='a"b', feature="é", provider="openai", model_served="gpt-5-mini-2025", status="ok",
    http_status=200, ended="complete", error="x", input=12, output=0, cost=2_068_750_000, price_status="priced", latency_ms=31,
)  # fmt: skip


def test_a_line_has_the_same_names_in_the_same_order_for_every_try(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What is not known is null, the model is the one that served or else the one asked for, money is text."""
    log = TryLog(Counters())
    log.add(FULL)
    log.add(BARE)
    assert capfdbinary.readouterr().err == b""
    log.flush()
    log.flush()
    full, bare, rest = capfdbinary.readouterr().err.split(b"\n")
    assert rest == b""
    assert full.decode() == (
        '{"ts":1790000000000000,"event":"try","call":"c1","try":1,"kind":"retry","operation":"retry","tenant":"a\\"b","feature":"é",'
        '"provider":"openai","model":"gpt-5-mini-2025","status":"ok","http":200,"ended":"complete","error":"x","input":12,"output":0,'
        '"cost":"0.00206875","price":"priced","ms":31}'
    )
    assert bare.decode() == (
        '{"ts":1790000000000000,"event":"try","call":"c1","try":1,"kind":"first","operation":"primary","tenant":"","feature":"",'
        '"provider":"","model":"gpt-5-mini","status":"","http":null,"ended":"","error":"","input":null,"output":null,"cost":null,'
        '"price":"unpriced","ms":null}'
    )


def test_lines_that_nobody_takes_are_dropped_and_counted(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a bound waits; after a flush there is room again."""
    monkeypatch.setattr(try_log, "LINES_MAX", 3)
    counters = Counters()
    log = TryLog(counters)
    for _ in range(5):
        log.add(BARE)
    log.flush()
    assert counters.log_lines_dropped == 2 and len(capfdbinary.readouterr().err.splitlines()) == 3
    log.add(FULL)
    log.flush()
    assert json.loads(capfdbinary.readouterr().err)["ms"] == 31
