"""What all dialects' outlines share: gathering messages and pieces, telling records, errors and names by their bytes."""

from __future__ import annotations

import re
from hashlib import blake2b

from ..domain.outline import Message, Outline, Piece
from . import places

LEAST = 400  # bytes of the shortest string that is worth a line; a setting may ask for more, never for less

_ERROR = re.compile(rb'"\s*(?:\{\s*\\"error\\"|(?:[Ee]rror|ERROR|Traceback|Exception)\b)')
# The prompt cache's marks move from message to message; a message is the same without them. Text cannot look like one: its
# quotes are escaped.
_MARK = re.compile(rb',?\s*(?<!\\)"cache_control"\s*:\s*(?:\{[^{}]*\}|null)')

Place = tuple[int, int]


class Builder:
    """Gathers messages and pieces in order."""

    def __init__(self, body: bytes, keyed: bool) -> None:
        self.body, self.keyed = body, keyed
        self.messages: list[Message] = []
        self.pieces: list[Piece] = []
        self.tools: dict[bytes, str] = {}  # call id -> the tool's name

    def message(self, role: str, place: Place, signed: bool = False) -> None:
        key = ""
        if self.keyed:
            raw = self.body[place[0] : place[1]]
            if b'"cache_control"' in raw:
                raw = _MARK.sub(b"", raw)
            key = blake2b(raw, digest_size=12).hexdigest()
        self.messages.append(Message(role, *place, key, signed))

    def piece(self, kind: str, tool: str, failed: bool, place: Place) -> None:
        """A string of the message that comes next, if it is long enough."""
        start, end = place
        if end - start < LEAST:
            return
        key = blake2b(self.body[start:end], digest_size=12, key=tool.encode()[:64]).hexdigest()
        self.pieces.append(Piece(kind, key, len(self.messages), tool, failed, start, end))

    def result(self, tool: str, failed: bool, place: Place) -> None:
        """The text of a tool's result: one string, or the texts of a list of parts. What is no text stays."""
        body, (start, end) = self.body, place
        if body[start : start + 1] == b'"':
            self.piece(shape(body, start), tool, failed or error(body, start), place)
            return
        for part in places.elements(body, start, end) if end - start >= LEAST else ():
            text = places.named(body, *part).get(b"text")
            if text is not None and body[text[0] : text[0] + 1] == b'"':
                self.piece(shape(body, text[0]), tool, failed or error(body, text[0]), text)

    def argument_text(self, tool: str, place: Place) -> None:
        """Long values in arguments that are written as JSON in a string."""
        if place[1] - place[0] >= LEAST:
            for inner in places.inner_strings(self.body, *place, LEAST):
                self.piece("argument", tool, False, inner)

    def argument(self, tool: str, place: Place) -> None:
        """Long values in arguments that are an object."""
        if place[1] - place[0] >= LEAST:
            for value in places.strings(self.body, *place, LEAST):
                self.piece("argument", tool, False, value)

    def done(self) -> Outline:
        return Outline(tuple(self.messages), tuple(self.pieces))


def shape(body: bytes, start: int) -> str:
    """record where the string holds JSON, else text."""
    at = start + 1
    while body[at : at + 1] in (b" ", b"\n", b"\t"):
        at += 1
    return "record" if body[at : at + 1] in (b"{", b"[") else "text"


def error(body: bytes, start: int) -> bool:
    """Whether a result's text begins like an error."""
    return _ERROR.match(body, start) is not None


def text(body: bytes, place: Place | None) -> bytes:
    """The bytes of a short string without its quotes, empty where there is none."""
    return body[place[0] + 1 : place[1] - 1] if place and body[place[0]] == 0x22 else b""


def name(body: bytes, place: Place | None) -> str:
    return text(body, place).decode("utf-8", "replace")[:64]
