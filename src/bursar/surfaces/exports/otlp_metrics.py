"""Rows as OpenTelemetry GenAI client metrics, OTLP as JSON: one request an hour (or day) a line, or sent to an endpoint. Two
histograms and a counter, as deltas: what the tries of that time came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, NamedTuple

import msgspec

from ...domain.money import plain
from ...stores.query import compile_filter, table
from ...stores.reader import Reader
from . import otlp
from .rows import Asked, Written

SERIES_MAX = 512  # combinations of attributes of each metric, those with most tries; the others are one, as the SDKs have it
OVERFLOW = (("otel.metric.overflow", True),)
Attributes = tuple[tuple[str, str | bool], ...]
Point = tuple[Attributes, list[Any]]
AT_ONCE = 24  # hours or days
DELTA = 1
LENGTHS = {"hour": 3_600_000_000, "day": 86_400_000_000}
TOKENS = tuple(4**n for n in range(14))
SECONDS = tuple(Decimal(2**n) / 100 for n in range(14))
READ = "input + coalesce(cache_read, 0) + coalesce(cache_write, 0) + coalesce(cache_write_1h, 0)"
WRITTEN = "CASE WHEN input IS NOT NULL OR output IS NOT NULL THEN coalesce(output, 0) + coalesce(reasoning, 0) END"
COLUMNS = (
    "provider", "dialect", "purpose", "model_requested", "model_served", "status", "error", "operation", "feature", "cost",
    "latency_ms", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
)  # fmt: skip
KIND = f"""CASE {" ".join(f"WHEN dialect = '{dialect}' THEN '{name}'" for dialect, name in otlp.OPERATIONS.items())}
           WHEN purpose = 'embedding' THEN 'embeddings' ELSE 'chat' END"""
FAILED = "CASE WHEN status IN ('error', 'unknown') THEN CASE WHEN error <> '' THEN error ELSE status END ELSE '' END"
WHO = {"gen_ai.operation.name": KIND, "gen_ai.provider.name": "provider", "gen_ai.request.model": "model_requested",
       "gen_ai.response.model": "model_served"}  # fmt: skip


class _Metric(NamedTuple):
    """One metric: how it is told, by which attributes, and the number of each try; a histogram counts those up to each bound."""

    name: str
    unit: str
    about: str
    attributes: dict[str, str]
    value: str
    bounds: Sequence[int | Decimal] = ()


METRICS = (
    _Metric("gen_ai.client.token.usage", "{token}", "Tokens of a try, read or written",
            {**WHO, "gen_ai.token.type": "type"}, "tokens", TOKENS),
    _Metric("gen_ai.client.operation.duration", "s", "How long a try took", {**WHO, "error.type": FAILED}, "latency_ms", SECONDS),
    _Metric("bursar.cost", "{USD}", "Dollars of priced tries (a float here; exact in the ledger)",
            {"gen_ai.provider.name": "provider", "gen_ai.response.model": "model_served", "bursar.operation": "operation",
             "bursar.feature": "feature"}, "cost"),
)  # fmt: skip


def write(reader: Reader, asked: Asked, out: IO[bytes]) -> Written:
    """The tries that reached a provider. One line is one ExportMetricsServiceRequest."""
    return otlp.put(_requests(reader, asked), out)


def send(reader: Reader, asked: Asked, endpoint: str, headers: dict[str, str]) -> Written:
    """The same to an OTLP/HTTP endpoint. What it rejects is told."""
    tries, cost, rejected, why = otlp.sent(_requests(reader, asked), endpoint, headers, "rejectedDataPoints")
    return Written(tries, cost, rejected, f"data points that the endpoint rejected: {why}" if rejected else "")


def _requests(reader: Reader, asked: Asked) -> Iterator[tuple[bytes, int, int]]:
    """(a request's body, its tries, their pico-dollars), oldest first."""
    condition = compile_filter(asked.query)
    reader.totals((*COLUMNS, *condition.columns), asked.query.since_us, asked.query.until_us)
    length = LENGTHS[asked.grain]
    told = f"""(SELECT epoch_us(ts) // {length} * {length} AS period, * FROM {table(asked.query.where)}
                WHERE ({condition.sql}) AND attempt_kind NOT IN ('correction', 'aggregate', 'tool') AND status <> 'refused')"""
    for number, metric in enumerate(METRICS):
        _gather(reader, metric, f"points_{number}", told, condition.values)
    whole = f"SELECT period, count(*), coalesce(sum(cost), 0) FROM {told} GROUP BY 1 ORDER BY 1"
    periods = reader.duck.execute(whole, condition.values).fetchall()
    done = 0
    for at in range(0, len(periods), AT_ONCE):
        some = periods[at : at + AT_ONCE]
        points = [_points(reader, metric, f"points_{number}", some[0][0], some[-1][0]) for number, metric in enumerate(METRICS)]
        for period, tries, cost in some:
            done += tries
            asked.step(done)
            yield _body(period, length, [of.get(period, []) for of in points]), tries, int(cost.scaleb(12))


def _body(period: int, length: int, points: Sequence[Sequence[Point]]) -> bytes:
    metrics: list[dict[str, Any]] = []
    for metric, found in zip(METRICS, points):
        data: dict[str, Any] = {"aggregationTemporality": DELTA, "dataPoints": [_point(metric, *one, period, length) for one in found]}
        if not metric.bounds:
            data["isMonotonic"] = True
        if found:
            kind = "histogram" if metric.bounds else "sum"
            metrics.append({"name": metric.name, "description": metric.about, "unit": metric.unit, kind: data})
    resource = {"attributes": [otlp.pair("service.name", "bursar")]}
    return msgspec.json.encode(
        {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {"name": "bursar"}, "metrics": metrics}]}]}
    )


def _gather(reader: Reader, metric: _Metric, name: str, told: str, values: dict[str, Any]) -> None:
    """The data points of a metric as a table: the period, attributes, and amounts: tries, sum, and of a histogram least, most, and how
    many are up to each bound."""
    if metric.value == "tokens":
        told = f"(SELECT *, 'input' AS type, {READ} AS tokens FROM {told} UNION ALL SELECT *, 'output', {WRITTEN} FROM {told})"
    names = [f"a{n}" for n in range(len(metric.attributes))]
    keys = ", ".join(f"{value} AS {name}" for name, value in zip(names, metric.attributes.values()))
    amounts = ["count(*)", f"sum({metric.value})"]
    if metric.bounds:
        scaled = [int(bound * 1000) if metric.value == "latency_ms" else bound for bound in metric.bounds]
        amounts += [f"min({metric.value})", f"max({metric.value})"]
        amounts += [f"count(*) FILTER ({metric.value} <= {bound})" for bound in scaled]
    there = f"FROM {told} WHERE {metric.value} IS NOT NULL"
    most = f"SELECT {keys} {there} GROUP BY ALL ORDER BY count(*) DESC, {', '.join(names)} LIMIT {SERIES_MAX}"
    reader.duck.execute(f"CREATE OR REPLACE TEMP TABLE series AS {most}", values)
    same = " AND ".join(f"series.{name} = one.{name}" for name in names)
    shown = ", ".join(f"series.{name} AS {name}" for name in names)
    reader.duck.execute(
        f"""CREATE OR REPLACE TEMP TABLE {name} AS
            SELECT period, {shown}, {", ".join(f"{amount} AS m{n}" for n, amount in enumerate(amounts))}
            FROM (SELECT period, {keys}, {metric.value} {there}) AS one LEFT JOIN series ON {same} GROUP BY ALL
            ORDER BY period, {", ".join(names)}""",
        values,
    )


def _points(reader: Reader, metric: _Metric, name: str, first: int, last: int) -> dict[int, list[Point]]:
    found: dict[int, list[Point]] = {}
    for period, *row in reader.duck.execute(f"SELECT * FROM {name} WHERE period BETWEEN {first} AND {last}").fetchall():
        values = row[: len(metric.attributes)]
        said = tuple((name, value) for name, value in zip(metric.attributes, values) if value)
        found.setdefault(period, []).append((OVERFLOW if values[0] is None else said, row[len(values) :]))
    return found


def _point(metric: _Metric, attributes: Attributes, amounts: list[Any], period: int, length: int) -> dict[str, Any]:
    tries, total, *more = amounts
    point = {"attributes": [otlp.pair(name, value) for name, value in attributes],
             "startTimeUnixNano": str(period * 1000), "timeUnixNano": str((period + length) * 1000)}  # fmt: skip
    if not metric.bounds:
        return {**point, "asDouble": _number(total)}
    least, largest, *up_to = more
    thousand = 1000 if metric.value == "latency_ms" else 1
    counts = [now - before for before, now in zip([0, *up_to], [*up_to, tries])]
    told = {"sum": total, "min": least, "max": largest}
    return {
        **point, "count": str(tries), "bucketCounts": [str(count) for count in counts],
        "explicitBounds": [_number(Decimal(bound)) for bound in metric.bounds],
        **{name: _number(Decimal(value) / thousand) for name, value in told.items()},
    }  # fmt: skip


def _number(value: Decimal) -> msgspec.Raw:
    """A JSON number with all its digits."""
    return msgspec.Raw(plain(int(value.scaleb(12))).encode())

