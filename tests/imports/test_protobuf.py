"""OTLP's protobuf, read without a library: what an encoder wrote is what is read, and no bytes make it fail in another way than it says."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.surfaces.imports import otlp_protobuf as proto
from bursar.surfaces.imports.genai import Span

from . import samples

# -- an encoder of our own, by the published field numbers ------------------------------------------------------------------


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def any_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"\x10" + varint(value)
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    if isinstance(value, list):
        return field(5, b"".join(field(1, any_value(v)) for v in value))
    return field(1, value.encode())


def attribute(name: str, value: Any) -> bytes:
    return field(1, name.encode()) + field(2, any_value(value))


def encoded(span: Span) -> bytes:
    body = (
        field(1, bytes.fromhex(span.trace))
        + field(2, bytes.fromhex(span.span))
        + (field(4, bytes.fromhex(span.parent)) if span.parent else b"")
    )
    body += (
        field(5, span.name.encode())
        + b"\x30\x03"
        + b"\x39"
        + struct.pack("<Q", span.start_ns)
        + b"\x41"
        + struct.pack("<Q", span.end_ns)
    )
    body += b"".join(field(9, attribute(k, v)) for k, v in span.attributes.items())
    body += (
        field(15, field(2, span.message.encode()) + b"\x18" + varint(2 if span.error else 0)) + b"\x85\x01" + struct.pack("<I", 0x101)
    )
    return body


def message(*spans: Span) -> bytes:
    resource = field(1, b"".join(field(1, attribute(k, v)) for k, v in spans[0].resource.items()))
    return field(1, resource + field(2, field(1, field(1, b"scope")) + b"".join(field(2, encoded(s)) for s in spans)))


HEX16 = st.binary(min_size=8, max_size=8).map(bytes.hex)
SPANS = st.builds(
    Span, st.binary(min_size=16, max_size=16).map(bytes.hex), HEX16, st.just("") | HEX16, st.text(max_size=20), st.integers(0, 2**63), st.integers(0, 2**63),
    st.dictionaries(
        st.sampled_from(["gen_ai.request.model", "gen_ai.usage.input_tokens", "gen_ai.response.finish_reasons", "llm.is_streaming", "bursar.team"]),
        st.text(max_size=30) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False) | st.lists(st.text(max_size=5), max_size=3),
    ),
    st.just({"service.name": "shop"}), st.booleans(), st.text(max_size=20),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=4))
def test_what_was_encoded_is_what_is_read(spans: list[Span]) -> None:
    assert proto.spans(message(*spans)) == spans


def test_attributes_that_tell_us_nothing_are_not_kept() -> None:
    span = Span(
        "a" * 32, "b" * 16, "", "x", 1, 2, {"gen_ai.input.messages": "secret", "gen_ai.request.model": "m"}, {"host.name": "h"}
    )
    (found,) = proto.spans(message(span))
    assert found.attributes == {"gen_ai.request.model": "m"} and found.resource == {}


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.lists(SPANS, min_size=1, max_size=2).map(lambda s: message(*s)).flatmap(
    lambda m: st.tuples(st.just(m), st.integers(0, len(m)), st.binary(max_size=3)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + len(t[2]) :])
))  # fmt: skip
def test_no_bytes_do_worse_than_being_malformed(raw: bytes) -> None:
    try:
        assert isinstance(proto.spans(raw), list)
    except proto.Malformed as bad:
        assert str(bad)


def test_nesting_has_an_end() -> None:
    value: Any = "x"
    for _ in range(150):
        value = [value]
    span = Span("a" * 32, "b" * 16, "", "x", 1, 2, {"gen_ai.response.finish_reasons": value}, {})
    assert len(proto.spans(message(span))) == 1


def test_the_answer_is_empty_or_a_partial_success() -> None:
    assert proto.answer(0, "") == b""
    assert proto.answer(3, "why") == bytes.fromhex("0a0708031203776879")
    assert proto.status("no", 3) == bytes.fromhex("080312026e6f")


def test_it_agrees_with_the_official_library() -> None:
    """Where opentelemetry-proto is installed, its messages are read, and ours are its."""
    service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="opentelemetry-proto is not installed"
    )
    from google.protobuf import json_format

    text = samples.request(samples.span(samples.GENAI | {"gen_ai.usage.cost.amount": 0.25}, parent="00f067aa0ba902b7"))
    import base64

    for span in text["resourceSpans"][0]["scopeSpans"][0]["spans"]:  # json_format wants base64 where OTLP has hex
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    official = json_format.ParseDict(text, service.ExportTraceServiceRequest())
    (found,) = proto.spans(official.SerializeToString())
    assert found.attributes["gen_ai.usage.input_tokens"] == 1000 and found.attributes["gen_ai.usage.cost.amount"] == 0.25
    assert (found.trace, found.parent) == ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7")
    assert service.ExportTraceServiceResponse.FromString(proto.answer(3, "why")).partial_success.rejected_spans == 3
