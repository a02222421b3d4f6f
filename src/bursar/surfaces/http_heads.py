"""Heads that came before: a client says the same request line and headers again and again, so they are parsed once.

Only the digits of Content-Length may differ. What llhttp and the checks of `http_requests` made of these very bytes is what they
would make of them again; anything else goes the long way."""

from __future__ import annotations

import re

from .http_common import Headers

HEAD_MAX = 4 << 10  # a longer one is parsed each time
HEADS_MAX = 512  # so at most 2 MB, and the lists made of them; strangers choose heads
DIGITS_MAX = 9  # of a length
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,%d})(?=\r\n)" % DIGITS_MAX, re.IGNORECASE)


class Said:
    """A head found at a message's start: its bytes before and behind the digits of its length, the length (0: none was given, and
    all of the head stands before), where its body begins."""

    __slots__ = ("before", "behind", "body_at", "length")

    def __init__(self, before: bytes, behind: bytes, length: int, body_at: int) -> None:
        self.before, self.behind, self.length, self.body_at = before, behind, length, body_at


class Head:
    """What a head says. The same object, and the same list of headers, for every request that says the same."""

    __slots__ = ("headers", "index", "method", "path", "query", "said")

    def __init__(
        self, method: str, path: str, query: str, headers: Headers, index: dict[bytes, bytes], said: Said | None = None
    ) -> None:  # fmt: skip
        self.method, self.path, self.query, self.headers, self.index, self.said = method, path, query, headers, index, said

    def again(self, data: bytes) -> tuple[int, int] | None:
        """The length, and where the body begins, where these bytes begin with this head and any length: what `look` would find. A
        client's next request nearly always does, and to see that takes a quarter of the time."""
        said = self.said
        if said is None or not data.startswith(said.before):
            return None
        behind = said.behind
        if not behind:
            return 0, said.body_at
        at = len(said.before)
        end = data.find(b"\r", at, at + DIGITS_MAX + 1)
        digits = data[at:end]
        if not digits.isdigit() or not data.startswith(behind, end):
            return None
        return int(digits), end + len(behind)


def look(data: bytes) -> Said | None:
    """The head at the start of these bytes, when all of it is there and it is not too long."""
    if data[:1] in b"\r\n":  # empty lines may stand before a request: then the first blank line is not where its head ends
        return None
    end = data.find(_END, 0, HEAD_MAX)
    if end < 0:
        return None
    found = _LENGTH.search(data, 0, end + 2)
    if found is None:
        return Said(data[: end + 4], b"", 0, end + 4)
    return Said(data[: found.start(1)], data[found.end() : end + 4], int(found[1]), end + 4)


_NOT_PLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"connection"))


def may_be_kept(index: dict[bytes, bytes], said: Said, count: int) -> bool:
    """Whether a request with these headers may be read without llhttp when it comes again: nothing in them changes the framing,
    no name stands twice, and the one length is the one that was found."""
    return (
        len(index) == count
        and (_NOT_PLAIN.isdisjoint(index) or (index.get(b"connection") == b"keep-alive" and len(_NOT_PLAIN & index.keys()) == 1))
        and index.get(b"content-length", b"0") == b"%d" % said.length
        and (b"content-length" in index or not said.length)
    )


class Heads:
    """The heads of one server, by their bytes."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Head] = {}

    def get(self, said: Said) -> Head | None:
        return self._known.get((said.before, said.behind))

    def keep(self, said: Said, head: Head) -> None:
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[said.before, said.behind] = head
