"""Spans as they come in over HTTP: rows before the answer, nothing twice, bounded, and answers that exporters understand."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ledger_rows
from bursar.domain.entry import Settlement
from bursar.domain.usage import Tokens
from bursar.stores import segments
from bursar.stores.fault import LedgerFault
from bursar.stores.pricebook import PriceBook
from bursar.stores.writer import Ledger
from bursar.surfaces.imports import live, otlp, otlp_protobuf
from bursar.surfaces.imports.live import Ingest, Report

from . import samples
from .rig import NOW
from .test_protobuf import message

JSON, PROTOBUF = "application/json", "application/x-protobuf"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger", clock_us=lambda: NOW) as opened:
        yield opened


@pytest.fixture
def ingest(ledger: Ledger, prices: PriceBook) -> Iterator[Ingest]:
    made = Ingest(ledger, prices, lambda: NOW)
    made._began_us = 0
    yield made
    made.close()


def post(ingest: Ingest, *spans: dict, **more: object) -> Report:
    return ingest.take(JSON, "", json.dumps(samples.request(*spans)).encode(), **more)  # type: ignore[arg-type]


def test_a_request_is_rows_on_the_disk_when_it_is_answered(ingest: Ingest, ledger: Ledger) -> None:
    report = post(ingest, samples.span(samples.GENAI), samples.span({"gen_ai.operation.name": "execute_tool"}, id="c" * 16))
    assert (report.status, report.body, report.rows, report.passed) == (200, b"{}", 1, 1)
    (row,) = ledger.rows()
    assert (row.source, row.cost, row.conversation) == ("imported:otlp", 560_000_000, "conv-1")


def test_protobuf_json_and_gzip_say_the_same(ledger: Ledger, prices: PriceBook, tmp_path: Path) -> None:
    text = samples.request(samples.span(samples.GENAI))
    (span,) = otlp.in_json(text)
    bodies = [(JSON, "", json.dumps(text).encode()), (PROTOBUF, "", message(span)), (PROTOBUF, "gzip", gzip.compress(message(span)))]
    seen = []
    for number, (kind, coding, body) in enumerate(bodies):
        with Ledger.open(tmp_path / str(number), clock_us=lambda: NOW) as other:
            ingest = Ingest(other, prices, lambda: NOW)
            assert ingest.take(kind, coding, body).rows == 1
            seen += other.rows()
            ingest.close()
    assert seen[0] == seen[1] == seen[2]


def test_an_exporter_that_sends_again_adds_nothing(ingest: Ingest, ledger: Ledger) -> None:
    for wanted in (1, 0, 0):
        report = post(ingest, samples.span(samples.GENAI))
        assert (report.status, report.rows) == (200, wanted)
    assert len(ledger.rows()) == 1


def test_a_call_that_went_through_this_gateway_is_not_counted_again(ingest: Ingest, ledger: Ledger) -> None:
    """The application tells of its call, the gateway has measured it: the provider's id is the same."""
    row = ledger_rows.entry(1, NOW - 1000, Tokens(input=5))._replace(response_id="chatcmpl-abcdefghijkl")
    ledger.book(Settlement(row.id, row, ()))
    report = post(ingest, samples.span(samples.GENAI))
    assert (report.rows, report.repeated) == (0, 1)


def test_a_trace_in_several_requests_counts_its_calls_once(ingest: Ingest, ledger: Ledger) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 2000, "gen_ai.usage.output_tokens": 400}
    assert post(ingest, samples.span(samples.GENAI, id="1" * 16, parent="f" * 16)).rows == 1
    assert (
        post(
            ingest, samples.span(samples.GENAI | {"gen_ai.response.id": "chatcmpl-otherotherother"}, id="2" * 16, parent="f" * 16)
        ).rows
        == 1
    )
    assert post(ingest, samples.span(agent, id="f" * 16)).rows == 0
    assert len(ledger.rows()) == 2


def test_an_aggregate_from_before_this_process_is_passed_over(ingest: Ingest) -> None:
    ingest._began_us = NOW
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 2000}
    report = post(ingest, samples.span(agent))
    assert (report.rows, report.passed) == (0, 1)


def test_spans_that_cannot_be_used_are_a_partial_success_in_both_encodings(ingest: Ingest) -> None:
    timeless = samples.span(samples.GENAI, id="e" * 16, start=0, ms=0)
    report = post(ingest, samples.span(samples.GENAI), timeless)
    assert (report.status, report.rows, report.rejected) == (200, 1, 1)
    assert json.loads(report.body)["partialSuccess"]["rejectedSpans"] == "1"
    spans = list(otlp.in_json(samples.request(timeless)))
    report = ingest.take(PROTOBUF, "", message(*spans))
    assert report.body == otlp_protobuf.answer(1, report.reason) and report.content_type == PROTOBUF and "no time" in report.reason


def test_the_keys_labels_overrule_what_spans_say(ingest: Ingest, ledger: Ledger) -> None:
    post(ingest, samples.span(samples.GENAI | {"bursar.tenant": "globex"}), bound={"tenant": "acme"}, key="backend")
    (row,) = ledger.rows()
    assert (row.tenant, row.key) == ("acme", "backend")


@pytest.mark.parametrize(("kind", "coding", "body", "status"), [
    ("text/plain", "", b"{}", 415), (JSON, "", b"{", 400), (JSON, "", b"[]", 400), (JSON, "", b'{"resourceSpans": 7}', 400),
    (PROTOBUF, "", b"\xff\xff", 400), (JSON, "gzip", b"not gzip", 400), (JSON, "snappy", b"{}", 400), (JSON, "", b'{"a":' * 100_000, 400),
    (JSON, "", b" " * (live.BODY_MAX + 1), 413), (JSON, "gzip", gzip.compress(b"[" * (live.BODY_MAX + 1)), 413),
])  # fmt: skip
def test_what_is_no_request_is_refused_and_not_sent_again(ingest: Ingest, kind: str, coding: str, body: bytes, status: int) -> None:
    report = ingest.take(kind, coding, body)
    assert report.status == status and report.reason and report.rows == 0 and report.retry_after_s == 0


def test_too_many_spans_are_refused_whole(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SPANS_MAX", 3)
    assert post(ingest, *[samples.span(samples.GENAI, id=f"{n:016x}") for n in range(4)]).status == 413


def test_a_ledger_in_trouble_asks_the_exporter_to_come_again(ingest: Ingest, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_settlements: object) -> None:
        raise LedgerFault("disk_full", "no space", "make some")

    monkeypatch.setattr(ledger, "book_all", full)
    report = post(ingest, samples.span(samples.GENAI))
    assert report.status == 503 and report.retry_after_s > 0
    monkeypatch.undo()
    assert post(ingest, samples.span(samples.GENAI)).rows == 1  # and then they land


def test_one_request_at_a_time_and_the_others_are_told(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WAIT_S", 0.05)
    with ingest._lock:
        assert post(ingest, samples.span(samples.GENAI)).status == 503


def test_it_loads_no_query_engine() -> None:
    """The gateway calls it: what only offline commands need must not come with it."""
    code = (
        "import sys, bursar.surfaces.imports.live; heavy = {'duckdb', 'sqlglot', 'rich', 'genai_prices', 'click'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_measured_call_that_the_compactor_has_moved_is_not_counted_again_either(ingest: Ingest, ledger: Ledger) -> None:
    """An exporter's batch comes seconds after the call, the compactor each minute: both orders happen."""
    row = ledger_rows.entry(1, 1_793_000_000_000_000, Tokens(input=5))._replace(response_id="chatcmpl-abcdefghijkl")
    after = ledger_rows.entry(2, 1_793_000_000_000_001, Tokens(input=5))
    ledger.book_all([Settlement(one.id, one, ()) for one in (row, after)])  # the last row of all stays in the file
    segments.compact(ledger.place.file, clock_us=lambda: NOW)
    assert not ledger.rows()  # it is in no tail any more
    report = post(ingest, samples.span(samples.GENAI), samples.span(samples.GENAI | {"gen_ai.response.id": "chatcmpl-otherotherother"}, id="2" * 16))
    assert (report.rows, report.repeated) == (1, 1)
