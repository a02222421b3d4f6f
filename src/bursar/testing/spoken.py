"""What all dialects' answers are made of: pieces of a body with what had been made by then, and how JSON and events are written."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

from .invoice import Buckets

CREATED = 1_790_000_000  # a fixed date in bodies: the same script gives the same bytes


class Piece(NamedTuple):
    """Some bytes of a body, and how many output tokens have been made once they are out."""

    data: bytes
    made: int


class Speech(NamedTuple):
    """An answer ready to be sent: one piece for a whole body, many for a stream, the last its terminal event."""

    status: int
    content_type: str
    pieces: list[Piece]
    used: Buckets
    error_event: bytes = b""  # what this dialect sends in a stream that fails


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def as_json(value: Any) -> bytes:
    return _encoder.encode(value).encode()


def cut(text: str, count: int) -> list[str]:
    """`count` parts of nearly the same length, none empty (fewer when the text is shorter)."""
    count = max(1, min(count, len(text)))
    edges = [len(text) * i // count for i in range(count + 1)]
    return [text[a:b] for a, b in pairwise(edges) if b > a]


def spread(events: list[bytes], used: Buckets) -> list[Piece]:
    """Output tokens come evenly with the events; the last one has them all."""
    total = used.output + used.reasoning
    return [Piece(event, total * (i + 1) // len(events)) for i, event in enumerate(events)]


def data(value: Any) -> bytes:
    return b"data: " + as_json(value) + b"\n\n"


def event(value: dict[str, Any]) -> bytes:
    return b"event: " + value["type"].encode() + b"\n" + data(value)
