"""OpenTelemetry spans out of files: OTLP as JSON or protobuf (the collector's file exporter, a saved request), and the SDKs' own
printed spans. Shapes only; what attributes mean is genai.py's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from . import otlp_protobuf
from .genai import Span, reading, wanted
from .record import Bad, NotMine, Outcome, Passed, Piece, moment
from .traces import Traces

NESTED = ("otlp", "span", "spans", "trace", "traces", "resource_spans", "batches")  # wrappers that exporters put around
_json = msgspec.json.Decoder()


class Reading:
    """Spans as they come; each is settled with its trace."""

    def __init__(self) -> None:
        self._traces = Traces()

    @property
    def waiting(self) -> Piece | None:
        return self._traces.waiting

    def take(self, piece: Piece) -> Iterable[Outcome]:
        if piece.raw[:1] == b"\x0a":
            try:
                spans: Iterable[Span] = otlp_protobuf.spans(piece.raw)
            except otlp_protobuf.Malformed as bad:
                raise NotMine(str(bad)) from None
        else:
            try:
                found = _json.decode(piece.raw)
            except (msgspec.DecodeError, RecursionError) as bad:
                raise NotMine(f"not JSON: {bad}") from None
            spans = list(in_json(found))
            if not spans and not _is_empty_request(found):
                raise NotMine("neither OTLP nor a span")
        return self._taken(spans, piece)

    def _taken(self, spans: Iterable[Span], piece: Piece) -> Iterator[Outcome]:
        for span in spans:
            yield from take_span(span, self._traces, piece)

    def finish(self, growing: bool) -> Iterable[Outcome]:
        return self._traces.rest()


def take_span(span: Span, traces: Traces, piece: Piece) -> Iterator[Outcome]:
    """One span to its trace: what it became, and what became certain by it."""
    try:
        record, why = reading(span)
    except NotMine as bad:
        record, why = None, ""
        yield Bad(f"span {span.name[:60]!r}: {bad}", piece)
    if why:
        yield Passed(why)
    yield from traces.add(span.trace, span.span, span.parent, record, piece)


# -- JSON ------------------------------------------------------------------------------------------------------------------


def in_json(found: Any, depth: int = 0) -> Iterator[Span]:
    """Every span in a decoded JSON value: a request of OTLP, its parts, a span by itself, or one in a wrapper."""
    if isinstance(found, list):
        for part in found:
            yield from in_json(part, depth + 1)
    elif isinstance(found, dict) and depth < 8:
        scopes = found.get("scopeSpans") or found.get("scope_spans") or found.get("instrumentationLibrarySpans")
        if isinstance(scopes, list):
            resource = _attributes((found.get("resource") or {}).get("attributes")) if isinstance(found.get("resource"), dict) else {}
            for scope in scopes:
                for span in (scope.get("spans") or ()) if isinstance(scope, dict) else ():
                    if isinstance(span, dict):
                        yield _span(span, resource)
        elif isinstance(found.get("resourceSpans"), list):
            yield from in_json(found["resourceSpans"], depth + 1)
        elif "attributes" in found and "name" in found:
            yield _span(found, {})
        else:
            for name in NESTED:
                if isinstance(found.get(name), dict | list):
                    yield from in_json(found[name], depth + 1)


def _is_empty_request(found: Any) -> bool:
    return (isinstance(found, dict) and isinstance(found.get("resourceSpans"), list)) or found == []


def _span(said: dict[str, Any], resource: dict[str, Any]) -> Span:
    """A span of OTLP, or as an SDK prints it: ids in a context of their own, attributes as an object, other names for times."""
    context = said.get("spanContext") or said.get("context") or {}
    if not isinstance(context, dict):
        context = {}
    trace = _id(said.get("traceId") or context.get("traceId") or context.get("trace_id") or said.get("trace_id"))
    span = _id(said.get("spanId") or context.get("spanId") or context.get("span_id") or said.get("span_id"))
    parent = (
        said.get("parentSpanId")
        or said.get("parent_id")
        or said.get("parent_span_id")
        or (said.get("parentSpanContext") or {}).get("spanId")
    )
    attributes = _attributes(said.get("attributes"))
    status = said.get("status") if isinstance(said.get("status"), dict) else {}
    assert isinstance(status, dict)
    code = status.get("code", status.get("status_code"))
    if not resource and isinstance(said.get("resource"), dict):
        resource = _attributes(said["resource"].get("attributes"))
    if not span:
        # Some exporters drop the ids. The same content again is then the same span.
        span = blake2b(msgspec.json.encode(said, order="sorted"), digest_size=8).hexdigest()
    return Span(
        trace, span, _id(parent), str(said.get("name", "")), _ns(said, "startTimeUnixNano", "startTime", "start_time"),
        _ns(said, "endTimeUnixNano", "endTime", "end_time"), attributes, resource,
        code in (2, "STATUS_CODE_ERROR", "ERROR", "StatusCode.ERROR"), str(status.get("message") or status.get("description") or ""),
    )  # fmt: skip


def _id(said: Any) -> str:
    """Hex in small letters, as protobuf's bytes are shown; Python's SDK prints 0x in front."""
    return str(said).lower().removeprefix("0x")[:64] if said else ""


def _attributes(said: Any) -> dict[str, Any]:
    """Attributes as plain values, only those that can tell us something."""
    if isinstance(said, dict):
        return {name: value for name, value in said.items() if wanted(name)}
    found: dict[str, Any] = {}
    for pair in said if isinstance(said, list) else ():
        if isinstance(pair, dict) and isinstance(name := pair.get("key"), str) and wanted(name):
            found[name] = _value(pair.get("value"))
    return found


def _value(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    for kind, value in said.items():
        match kind:
            case "intValue":
                return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value
            case "stringValue" | "boolValue" | "doubleValue":
                return value
            case "arrayValue":
                return [_value(v) for v in (value or {}).get("values", ())] if isinstance(value, dict) else None
    return None


def _ns(said: dict[str, Any], *names: str) -> int:
    """Nanoseconds: a number or digits of them in OTLP, [seconds, nanoseconds] of JavaScript, ISO text of Python."""
    for name in names:
        value = said.get(name)
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
            return value[0] * 1_000_000_000 + value[1]
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 10**17:
            return value
        if value:
            try:
                return moment(value) * 1000
            except NotMine:
                return 0
    return 0
