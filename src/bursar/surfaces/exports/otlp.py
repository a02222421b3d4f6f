"""Rows as OpenTelemetry GenAI spans, OTLP as JSON: one request of some hundred spans a line, or sent to an endpoint. Names are
those of open-telemetry/semantic-conventions-genai as of August 2026; the cost attributes are its proposal #443."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import IO, Any

import click
import msgspec

from ...stores.reader import Reader
from . import rows
from .rows import COLUMNS, Asked, Written

BATCH = 500
TIMEOUT_S = 30.0
TRIES = 4
WAIT_MAX_S = 30.0
OPERATIONS = {"openai_embeddings": "embeddings", "gemini_generate": "generate_content"}
# column -> attribute, where it is said as it stands
PLAIN = {"provider": "gen_ai.provider.name", "model_requested": "gen_ai.request.model", "model_served": "gen_ai.response.model",
         "response_id": "gen_ai.response.id", "conversation": "gen_ai.conversation.id", "user": "user.id", "cost": "bursar.cost",
         "tenant": "bursar.tenant", "feature": "bursar.feature", "flow": "bursar.flow", "operation": "bursar.operation",
         "cause": "bursar.cause",
         "attempt_kind": "bursar.attempt_kind", "price_status": "bursar.price_status", "price_id": "bursar.price_id",
         "source": "bursar.source",
         "key": "bursar.key"}  # fmt: skip


def write(reader: Reader, asked: Asked, out: IO[bytes]) -> Written:
    """The tries that reached a provider. One line is one ExportTraceServiceRequest."""
    return put(_requests(reader, asked), out)


def send(reader: Reader, asked: Asked, endpoint: str, headers: dict[str, str]) -> Written:
    """The same to an OTLP/HTTP endpoint. What it rejects is told; what it cannot take now is sent again a few times."""
    count, cost, rejected, why = sent(_requests(reader, asked), endpoint, headers, "rejectedSpans")
    return Written(count - rejected, cost, rejected, f"the endpoint rejected them: {why}" if rejected else "")


Requests = Iterable[tuple[bytes, int, int]]  # a body, the tries in it, their pico-dollars


def put(requests: Requests, out: IO[bytes]) -> Written:
    """Each as a line."""
    count = cost = 0
    for request, tries, pico in requests:
        out.write(request + b"\n")
        count, cost = count + tries, cost + pico
    return Written(count, cost)


def sent(requests: Requests, endpoint: str, headers: dict[str, str], refused: str) -> tuple[int, int, int, str]:
    """(tries, pico-dollars, what the endpoint says under `refused`, and why) once all have been sent."""
    count = cost = rejected = 0
    why = ""
    for request, tries, pico in requests:
        partial = post(endpoint, headers, request).get("partialSuccess") or {}
        rejected, why = rejected + int(partial.get(refused) or 0), why or str(partial.get("errorMessage") or "")
        count, cost = count + tries, cost + pico
    return count, cost, rejected, why


def post(endpoint: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """One request; what the endpoint cannot take now is sent again a few times."""
    if not endpoint.startswith(("http://", "https://")):
        raise click.UsageError(f"--endpoint {endpoint!r} is not an http:// or https:// address")
    request = urllib.request.Request(endpoint, body, {"Content-Type": "application/json", **headers}, method="POST")
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                said = reply.read(1 << 20)
            return _object.decode(said) if said else {}
        except urllib.error.HTTPError as bad:
            told = bad.read(500).decode("utf-8", "replace")
            if bad.code not in (429, 502, 503, 504) or not left:
                raise _stopped(f"{endpoint}: {bad.code} {bad.reason}: {told}") from None
            after = bad.headers.get("Retry-After", "")
            time.sleep(min(float(after) if after.isdigit() else 2.0 ** (TRIES - left), WAIT_MAX_S))
        except (OSError, msgspec.DecodeError) as bad:
            if not left:
                raise _stopped(f"{endpoint}: {bad}") from None
            time.sleep(2.0 ** (TRIES - left) / 4)
    raise AssertionError("the last try returns or raises")


def _stopped(what: str) -> click.ClickException:
    told = click.ClickException(f"{what}; what was sent before this stays there; spans are known again by their ids")
    told.exit_code = 2
    return told


_object = msgspec.json.Decoder(dict[str, Any])


def _requests(reader: Reader, asked: Asked) -> Iterator[tuple[bytes, int, int]]:
    """(a request's body, its spans, their pico-dollars)."""
    select = ", ".join(rows.texts(column) if column != "ts" else "epoch_us(ts) AS ts" for column in COLUMNS)
    waiting: list[dict[str, Any]] = []
    pico = 0
    for chunk in rows.chunks(reader, asked, select):
        for values in chunk:
            row = dict(zip(COLUMNS, values, strict=True))
            if row["attempt_kind"] in ("correction", "aggregate", "tool") or row["status"] == "refused":
                continue  # no request to a provider stands behind these
            waiting.append(span(row))
            pico += rows.money([row["cost"]])
            if len(waiting) == BATCH:
                yield _body(waiting), BATCH, pico
                waiting, pico = [], 0
    if waiting:
        yield _body(waiting), len(waiting), pico


def _body(spans: list[dict[str, Any]]) -> bytes:
    resource = {"attributes": [pair("service.name", "bursar")]}
    return msgspec.json.encode(
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "bursar"}, "spans": spans}]}]}
    )


def span(row: dict[str, Any]) -> dict[str, Any]:
    """One try as a span. Its ids follow from the row's: sent twice it is one. Tries of a call share a trace."""
    operation = OPERATIONS.get(row["dialect"], "embeddings" if row["purpose"] == "embedding" else "chat")
    attributes = [pair("gen_ai.operation.name", operation)]
    attributes += [pair(name, row[column]) for column, name in PLAIN.items() if row[column]]
    if row["input"] is not None:
        read = [row[name] or 0 for name in ("input", "cache_read", "cache_write", "cache_write_1h")]
        attributes += [
            pair("gen_ai.usage.input_tokens", sum(read)), pair("gen_ai.usage.cache_read.input_tokens", read[1]),
            pair("gen_ai.usage.cache_write.input_tokens", read[2] + read[3]),
            pair("gen_ai.usage.output_tokens", (row["output"] or 0) + (row["reasoning"] or 0)),
            pair("gen_ai.usage.reasoning.output_tokens", row["reasoning"] or 0),
        ]  # fmt: skip
        if read[3]:
            attributes.append(pair("gen_ai.usage.cache_creation.ephemeral_1h_input_tokens", read[3]))
    if row["cost"]:
        # A double is what the convention has; the exact amount is in bursar.cost.
        attributes += [
            {"key": "gen_ai.usage.cost.amount", "value": {"doubleValue": msgspec.Raw(row["cost"].encode())}},
            pair("gen_ai.usage.cost.currency", "USD"), pair("gen_ai.usage.cost.source", "local"),
        ]  # fmt: skip
    if row["finish"]:
        attributes.append(
            {"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": [{"stringValue": row["finish"]}]}}}
        )
    if row["http_status"]:
        attributes.append(pair("http.response.status_code", row["http_status"]))
    failed = row["status"] in ("error", "unknown")
    if failed:
        attributes.append(pair("error.type", row["error"] or row["status"]))
    for name, value in msgspec.json.decode(row["labels"]).items():
        attributes.append(pair(f"bursar.{name}", value))
    start = row["ts"] * 1000
    return {
        "traceId": _id(row["call"], 16), "spanId": _id(row["id"], 8), "parentSpanId": "",
        "name": f"{operation} {row['model_served'] or row['model_requested']}",
        "kind": 3, "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + (row["latency_ms"] or 0) * 1_000_000),
        "attributes": attributes, "status": {"code": 2, "message": row["error"]} if failed else {},
    }  # fmt: skip


def pair(name: str, value: str | int | bool) -> dict[str, Any]:
    """An attribute."""
    kind = "boolValue" if isinstance(value, bool) else "intValue" if isinstance(value, int) else "stringValue"
    return {"key": name, "value": {kind: str(value) if kind == "intValue" else value}}


def _id(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()
