"""OTLP's protobuf, as much as spans need: bytes in, spans out. Bounded, total: what is malformed is said, nothing is guessed. Pure.

Field numbers are those of opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto, which never change."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from .genai import Span, wanted

NESTING_MAX = 8
LIST_MAX = 64  # of an attribute's values: finish reasons and tags are few


class Malformed(ValueError):
    """Not a message of OTLP. Says where it breaks."""


def spans(raw: bytes) -> list[Span]:
    """All spans of a TracesData or ExportTraceServiceRequest (they are the same on the wire)."""
    found: list[Span] = []
    view = memoryview(raw)
    for number, value in _fields(view):
        if number == 1:
            found.extend(_resource_spans(_bytes(value)))
    return found


def _resource_spans(view: memoryview) -> Iterator[Span]:
    resource: dict[str, Any] = {}
    scopes: list[memoryview] = []
    for number, value in _fields(view):
        if number == 1:
            for inner, attribute in _fields(_bytes(value)):
                if inner == 1:
                    _pair(_bytes(attribute), resource)
        elif number in (2, 1000):  # 1000: the deprecated name of the same
            scopes.append(_bytes(value))
    for scope in scopes:
        for number, value in _fields(scope):
            if number == 2:
                yield _span(_bytes(value), resource)


def _span(view: memoryview, resource: dict[str, Any]) -> Span:
    trace = span = parent = name = message = ""
    start = end = code = 0
    attributes: dict[str, Any] = {}
    for number, value in _fields(view):
        match number:
            case 1:
                trace = _bytes(value).hex()
            case 2:
                span = _bytes(value).hex()
            case 4:
                parent = _bytes(value).hex()
            case 5:
                name = _text(value)
            case 7:
                start = _int(value)
            case 8:
                end = _int(value)
            case 9:
                _pair(_bytes(value), attributes)
            case 15:
                for inner, part in _fields(_bytes(value)):
                    if inner == 2:
                        message = _text(part)
                    elif inner == 3:
                        code = _int(part)
            case _:
                pass
    return Span(trace, span, parent, name, start, end, attributes, resource, code == 2, message)


def _pair(view: memoryview, into: dict[str, Any]) -> None:
    """One attribute, read only if it can tell us something: prompts stay undecoded."""
    name = ""
    value: memoryview | None = None
    for number, part in _fields(view):
        if number == 1:
            name = _text(part)
        elif number == 2:
            value = _bytes(part)
    if name and value is not None and wanted(name):
        into[name] = _value(value, 0)


def _value(view: memoryview, depth: int) -> Any:
    found: Any = None
    for number, value in _fields(view):
        match number:
            case 1:
                found = _text(value)
            case 2:
                found = bool(_int(value))
            case 3:
                found = _signed(_int(value))
            case 4:
                found = struct.unpack("<d", _int(value).to_bytes(8, "little"))[0]
            case 5 if depth < NESTING_MAX:
                found = [_value(_bytes(part), depth + 1) for inner, part in _fields(_bytes(value)) if inner == 1][:LIST_MAX]
            case _:
                found = None  # a map, or bytes: nothing we read is one
    return found


def _signed(n: int) -> int:
    return n - (1 << 64) if n >= 1 << 63 else n


def _text(value: memoryview | int) -> str:
    return str(_bytes(value), "utf-8", "replace")


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise Malformed("a number stands where a message or text must be")
    return value


def _int(value: memoryview | int) -> int:
    if not isinstance(value, int):
        raise Malformed("a text stands where a number must be")
    return value


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value): a number for varints and fixed ones, a view for what has a length."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"field number 0 at byte {at} of {end}")
        if wire == 2:
            length, at = _varint(view, at, end)
            if at + length > end:
                raise Malformed(f"a field of {length} bytes begins at byte {at} of {end}")
            yield number, view[at : at + length]
            at += length
        elif wire == 0:
            value, at = _varint(view, at, end)
            yield number, value
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if at + size > end:
                raise Malformed(f"a number of {size} bytes begins at byte {at} of {end}")
            yield number, int.from_bytes(view[at : at + size], "little")
            at += size
        else:
            raise Malformed(f"wire type {wire} at byte {at} of {end}")


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise Malformed(f"a number of more than ten bytes ends at byte {at} of {end}")
    raise Malformed(f"the message ends inside a number, at byte {at}")


# -- what is answered --------------------------------------------------------------------------------------------------------


def answer(rejected: int, message: str) -> bytes:
    """An ExportTraceServiceResponse. Empty when everything was taken."""
    if not rejected and not message:
        return b""
    said = message.encode()
    partial = (b"\x08" + _packed(rejected) if rejected else b"") + (b"\x12" + _packed(len(said)) + said if said else b"")
    return b"\x0a" + _packed(len(partial)) + partial


def status(message: str, code: int = 3) -> bytes:
    """A google.rpc.Status, which OTLP answers a failed request with. 3: invalid argument."""
    said = message.encode()
    return b"\x08" + _packed(code) + b"\x12" + _packed(len(said)) + said


def _packed(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)
