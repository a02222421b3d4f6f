"""Putting lines and summaries where a decision wants them. Bytes that are not replaced stay as they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ..domain.outline import Outline, Piece
from . import places
from .dialect import encode

_string = msgspec.json.Decoder(str)


class Summary(NamedTuple):
    """One message for `span` messages from number `first` on."""

    first: int
    span: int
    text: str


def text(body: bytes, piece: Piece) -> str:
    """What a line will stand for."""
    raw = body[piece.start : piece.end]
    if raw[:1] == b"{":  # a result that is an object; SDKs wrap a text as {"result": "…"}
        members = list(places.named(raw, 0, len(raw)).values())
        if len(members) != 1 or raw[members[0][0] : members[0][0] + 1] != b'"':
            return raw.decode()
        raw = raw[slice(*members[0])]
    if raw[:1] == b"\\":  # a string inside of an argument text
        raw = _string.decode(b'"' + raw + b'"').encode()
    return _string.decode(raw)


def line(body: bytes, piece: Piece, said: str) -> bytes:
    """The bytes that take the piece's place: a string where one was, an object where one was."""
    first = body[piece.start : piece.start + 1]
    string = encode(said)
    if first == b"{":
        return b'{"elided":' + string + b"}"
    if first == b"\\":
        return encode(string.decode())[1:-1]
    return string


def elide(dialect: str, body: bytes, outline: Outline, lines: Mapping[int, str], summary: Summary | None = None) -> bytes:
    """The body with a line for each of these pieces, and one message for those that a summary stands for. Nothing to do: the
    same object."""
    changes: list[tuple[int, int, bytes]] = []
    hidden = range(0)
    if summary is not None:
        hidden = range(summary.first, summary.first + summary.span)
        start, end = outline.messages[hidden.start].start, outline.messages[hidden.stop - 1].end
        changes.append((start, end, message(dialect, summary.text)))
    for at, said in lines.items():
        piece = outline.pieces[at]
        if piece.message not in hidden:
            changes.append((piece.start, piece.end, line(body, piece, said)))
    if not changes:
        return body
    changes.sort()
    out: list[bytes] = []
    at = 0
    for start, end, put in changes:
        out += (body[at:start], put)
        at = end
    out.append(body[at:])
    return b"".join(out)


def message(dialect: str, said: str) -> bytes:
    """A user's message with this text."""
    if dialect == "gemini_generate":
        return encode({"role": "user", "parts": [{"text": said}]})
    return encode({"role": "user", "content": said})
