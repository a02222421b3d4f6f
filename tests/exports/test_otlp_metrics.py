"""GenAI metrics of the ledger are what OpenTelemetry's own SDK makes of the same tries, and what its own library reads."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.export import Metric as SdkMetric

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.money import PICO
from bursar.stores import segments
from bursar.surfaces.exports import otlp_metrics
from commands import Run
from ledger_rows import HOUR

# As the conventions advise.
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]


@pytest.fixture(scope="module")
def past() -> list[Entry]:
    """A month of every kind of trouble, in which a try may have taken exactly as long as a bound, or have no tokens at all."""
    rows = ledger_rows.month(count=400)
    times = (None, 0, 10, 11, 640, 641, 100_000)
    return [row._replace(latency_ms=times[n % len(times)]) for n, row in enumerate(rows)]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, past: list[Entry]) -> Path:
    folder = tmp_path_factory.mktemp("metrics") / "ledger"
    ledger_rows.write(folder, past[:200])
    segments.compact(folder, everything=True)
    ledger_rows.write(folder, past[200:])
    return folder


def sent(past: list[Entry]) -> list[Entry]:
    return [row for row in past if row.attempt_kind not in ("correction", "aggregate", "tool") and row.status != "refused"]


def exported(run: Run, book: Path, *words: object) -> list[ExportMetricsServiceRequest]:
    """Read by OpenTelemetry's own library, which refuses fields it does not know."""
    lines = run("export", "otlp-metrics", "--ledger", book, *words).stdout.splitlines()
    return [json_format.Parse(line, ExportMetricsServiceRequest()) for line in lines]


Told = dict[tuple[str, frozenset[tuple[str, Any]]], tuple[Any, ...]]


def told(request: ExportMetricsServiceRequest) -> Told:
    found: Told = {}
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        assert data.aggregation_temporality == 1
        for point in data.data_points:
            named = frozenset((a.key, getattr(a.value, a.value.WhichOneof("value"))) for a in point.attributes)
            if kind == "sum":
                assert data.is_monotonic
                found[metric.name, named] = (pytest.approx(point.as_double, rel=1e-12),)
            else:
                amounts = (point.sum, point.min, point.max)
                found[metric.name, named] = (point.count, [*point.bucket_counts], [*point.explicit_bounds], *map(_near, amounts))
    return found


def _near(value: float) -> Any:
    return pytest.approx(value, rel=1e-12)


def by_the_sdk(rows: list[Entry]) -> Told:
    """The same tries, as an instrumentation records them."""
    delta = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
    reader = InMemoryMetricReader(preferred_temporality=delta)  # type: ignore[arg-type]
    meter = MeterProvider([reader]).get_meter("bursar")
    usage = meter.create_histogram("gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=TOKENS)
    duration = meter.create_histogram("gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=SECONDS)
    cost = meter.create_counter("bursar.cost", "{USD}")
    for row in rows:
        kind = "embeddings" if row.purpose == "embedding" or row.dialect == "openai_embeddings" else "chat"
        kind = "generate_content" if row.dialect == "gemini_generate" else kind
        who = {"gen_ai.operation.name": kind, "gen_ai.provider.name": row.provider, "gen_ai.request.model": row.model_requested,
               "gen_ai.response.model": row.model_served}  # fmt: skip
        who = {name: value for name, value in who.items() if value}
        if row.input is not None:
            read = row.input + (row.cache_read or 0) + (row.cache_write or 0) + (row.cache_write_1h or 0)
            usage.record(read, {**who, "gen_ai.token.type": "input"})
        if row.input is not None or row.output is not None:
            usage.record((row.output or 0) + (row.reasoning or 0), {**who, "gen_ai.token.type": "output"})
        if row.latency_ms is not None:
            failed = {"error.type": row.error or row.status} if row.status in ("error", "unknown") else {}
            duration.record(row.latency_ms / 1000, {**who, **failed})
        if row.cost is not None:
            names = {"gen_ai.provider.name": row.provider, "gen_ai.response.model": row.model_served, "bursar.operation": row.operation,
                     "bursar.feature": row.feature}  # fmt: skip
            cost.add(row.cost / PICO, {name: value for name, value in names.items() if value})
    found: Told = {}
    data = reader.get_metrics_data()
    metrics: list[SdkMetric] = [] if data is None else [*data.resource_metrics[0].scope_metrics[0].metrics]
    for metric in metrics:
        for point in metric.data.data_points:
            named = frozenset((point.attributes or {}).items())
            if metric.name == "bursar.cost":
                found[metric.name, named] = (point.value,)  # type: ignore[union-attr]
            else:
                found[metric.name, named] = (point.count, [*point.bucket_counts], [*point.explicit_bounds], point.sum, point.min, point.max)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("grain", ["hour", "day"])
def test_an_hour_is_what_the_sdk_makes_of_its_tries(run: Run, book: Path, past: list[Entry], grain: str) -> None:
    length = HOUR if grain == "hour" else 24 * HOUR
    periods: dict[int, list[Entry]] = defaultdict(list)
    for row in sent(past):
        periods[row.ts // length * length].append(row)
    requests = exported(run, book, "--grain", grain)
    assert len(requests) == len(periods) > 10
    for (start, rows), request in zip(sorted(periods.items()), requests):
        points = [p for m in request.resource_metrics[0].scope_metrics[0].metrics for p in getattr(m, m.WhichOneof("data")).data_points]  # type: ignore[arg-type]
        assert {(p.start_time_unix_nano, p.time_unix_nano) for p in points} == {(start * 1000, (start + length) * 1000)}
        assert told(request) == by_the_sdk(rows)


def test_money_is_exact_in_what_is_written(run: Run, book: Path, past: list[Entry]) -> None:
    total = Decimal(0)
    for line in run("export", "otlp-metrics", "--ledger", book).stdout.splitlines():
        for metric in json.loads(line, parse_float=Decimal, parse_int=Decimal)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]:
            total += sum((Decimal(p["asDouble"]) for p in metric["sum"]["dataPoints"]) if metric["name"] == "bursar.cost" else ())
    assert total * PICO == sum(row.cost or 0 for row in sent(past))


def test_what_strangers_name_makes_no_more_series_than_so_many(run: Run, book: Path, past: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    every = [told(request) for request in exported(run, book, "--grain", "day")]
    monkeypatch.setattr(otlp_metrics, "SERIES_MAX", 3)
    few = [told(request) for request in exported(run, book, "--grain", "day")]
    for before, after in zip(every, few):
        names = {name for name, _ in before}
        assert {name for name, _ in after} == names
        for name in names - {"bursar.cost"}:
            assert sum(v[0] for (n, _), v in before.items() if n == name) == sum(v[0] for (n, _), v in after.items() if n == name)
    series = {key for after in few for key in after}
    overflow = frozenset({("otel.metric.overflow", True)})
    for name in ("gen_ai.client.token.usage", "gen_ai.client.operation.duration", "bursar.cost"):
        assert len({named for n, named in series if n == name} - {overflow}) == 3 and (name, overflow) in series


def test_an_endpoint_gets_the_metrics_and_what_it_rejects_is_told(run: Run, book: Path) -> None:
    got: list[tuple[str, int]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, len(json_format.Parse(body, ExportMetricsServiceRequest()).resource_metrics)))
            said = b'{"partialSuccess": {"rejectedDataPoints": "1", "errorMessage": "too old"}}'
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ran = run("export", "otlp-metrics", "--ledger", book, "--grain", "day", "--endpoint", f"http://127.0.0.1:{server.server_port}/v1/metrics")
        server.shutdown()
    assert got and set(got) == {("/v1/metrics", 1)}
    assert f"{len(got)} left out: data points that the endpoint rejected: too old" in ran.stderr
    assert "is not an http" in run("export", "otlp-metrics", "--ledger", book, "--endpoint", "ftp://x", code=2).stderr
