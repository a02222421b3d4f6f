"""What both ends of the HTTP/1.1 data path share: header blocks, what may not be forwarded, and the deadline sweep.

Nothing here knows of LLMs, money or policies.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable

from ..domain.call import Headers, Lines

__all__ = ["FRAMING", "HOP_BY_HOP", "BadHeader", "Headers", "Lines", "Sweep", "end_to_end", "header_block", "status_line"]

# RFC 9110 section 7.6.1: meant for one connection, so never forwarded. `proxy-authenticate` and `proxy-authorization`
# are not in that list any more but belong to the hop all the same.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade http2-settings".split()
)


# Whoever composes a message sets these itself; the same name from a caller is dropped. Lower case is the rule for
# `Headers`; the other usual spellings are here because a slip would break the framing.
FRAMING = frozenset(
    spelling for name in (*HOP_BY_HOP, b"content-length", b"host", b"expect") for spelling in (name, name.title(), name.upper())
)


class BadHeader(ValueError):
    """A header we were asked to send holds CR, LF or NUL: whoever wrote it could write a second message."""


def end_to_end(headers: Headers) -> Headers:
    """The headers that may be forwarded: without the hop-by-hop ones and those that `Connection` names."""
    index = dict(headers)
    if HOP_BY_HOP.isdisjoint(index):
        return headers
    kept = [header for header in headers if header[0] not in HOP_BY_HOP]
    if len(index) == len(headers) and index.get(b"connection", b"close").lower() in (b"keep-alive", b"close"):
        return kept
    named = {token.strip() for name, value in headers if name == b"connection" for token in value.lower().split(b",")}
    return [header for header in kept if header[0] not in named]


def header_block(first: bytes, headers: Headers, last: bytes) -> bytes:
    """`first` and `last` are whole lines of our own, each with its CRLF; FRAMING names in `headers` are dropped."""
    if isinstance(headers, Lines):
        text = headers.made.get("block")
        if text is None:
            text = headers.made["block"] = _block(headers)
    else:
        text = _block(headers)
    return b"%b%b%b\r\n" % (first, text, last)


def _block(headers: Headers) -> bytes:
    if not FRAMING.isdisjoint(dict(headers)):
        headers = [header for header in headers if header[0] not in FRAMING]
    if not headers:
        return b""
    text = b"\r\n".join(map(b": ".join, headers))
    # One pass over the whole block (0.25 µs) and not a look at each value: more CR, LF and NUL than we put there?
    if len(text) - len(text.translate(None, b"\r\n\0")) != 2 * len(headers) - 2:
        raise BadHeader("a header to be sent holds CR, LF or NUL")
    return text + b"\r\n"


def _status_lines() -> dict[int, bytes]:
    return {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in http.HTTPStatus}


_STATUS_LINES = _status_lines()


def status_line(status: int) -> bytes:
    """With its CRLF; a status that has no registered phrase (529) goes without one."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Sweep:
    """One timer for the deadlines of all connections, instead of one per request (a `call_later` costs about 1 µs).

    `now` is the time of the last sweep: stamps taken from it are old by up to `period`, so a deadline may fire up to
    two periods late and never early.
    """

    __slots__ = ("_handle", "_judge", "_loop", "now", "period")

    def __init__(self, loop: asyncio.AbstractEventLoop, period: float, judge: Callable[[float], None]) -> None:
        self._loop = loop
        self._judge = judge
        self.period = period
        self.now = loop.time()
        self._handle: asyncio.TimerHandle | None = loop.call_later(period, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self.now > 2 * self.period
        self.now = now
        if late:
            # The loop was held up (a long computation, SIGSTOP). Timers run before sockets are read, so everybody
            # would be judged on bytes that have long arrived: read first, judge in the next sweep.
            self._handle = self._loop.call_later(min(self.period, 0.05), self._tick)
            return
        self._handle = self._loop.call_later(self.period, self._tick)
        self._judge(now)

    def hurry(self, period: float) -> None:
        """Sweep at least this often from now on."""
        if period < self.period and self._handle is not None:
            self._handle.cancel()
            self.period = period
            self.now = self._loop.time()
            self._handle = self._loop.call_later(period, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
