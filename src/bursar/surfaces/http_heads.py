"""Heads that came before: a client says the same request line and headers again and again, so they are parsed once.

Only the digits of Content-Length may differ. What llhttp and the checks of `http_requests` made of these very bytes is what they
would make of them again; anything else goes the long way."""

from __future__ import annotations

import re

from .http_common import Headers

HEAD_MAX = 4 << 10  # a longer one is parsed each time
HEADS_MAX = 512  # so at most 2 MB, and the lists made of them; strangers choose heads
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})(?=\r\n)", re.IGNORECASE)


class Head:
    """What a head says. The same object, and the same list of headers, for every request that says the same."""

    __slots__ = ("headers", "index", "method", "path", "query")

    def __init__(self, method: str, path: str, query: str, headers: Headers, index: dict[bytes, bytes]) -> None:
        self.method, self.path, self.query, self.headers, self.index = method, path, query, headers, index


class Said:
    """A head found at a message's start: its bytes without the length, the length (0: none was given), where its body begins."""

    __slots__ = ("body_at", "length", "text")

    def __init__(self, text: bytes, length: int, body_at: int) -> None:
        self.text, self.length, self.body_at = text, length, body_at


def look(data: bytes) -> Said | None:
    """The head at the start of these bytes, when all of it is there and it is not too long."""
    if data[:1] in b"\r\n":  # empty lines may stand before a request: then the first blank line is not where its head ends
        return None
    end = data.find(_END, 0, HEAD_MAX)
    if end < 0:
        return None
    found = _LENGTH.search(data, 0, end + 2)
    if found is None:
        return Said(data[:end], 0, end + 4)
    return Said(data[: found.start()] + data[found.end() : end], int(found[1]), end + 4)


class Heads:
    """The heads of one server, by their bytes."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def get(self, text: bytes) -> Head | None:
        return self._known.get(text)

    def keep(self, text: bytes, head: Head) -> None:
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[text] = head
