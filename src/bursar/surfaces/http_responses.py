"""One connection to a provider and the response that comes on it: framing, buffering, back-pressure, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from .http_common import Headers, Sweep
from .http_origin import Origin, Timeouts

FaultKind = Literal[
    "connect", "connect_timeout", "tls", "dns", "reset", "headers_timeout", "idle_timeout", "total_timeout", "write_timeout",
    "protocol", "too_large", "pool_full",
]  # fmt: skip

# Body bytes that wait for a reader before the provider is not read any more. One read of uvloop's is up to 256 KiB, so
# this and one such read bound what a stalled client costs.
BUFFER_BYTES = 128 << 10
SPLIT_BYTES = 16 << 10  # from here on, a second buffer is cheaper than a copy


class UpstreamFault(Exception):
    """The provider could not be asked, or its answer is not whole. `sent`: it may have seen the request."""

    def __init__(self, kind: FaultKind, detail: str, sent: bool) -> None:
        super().__init__(kind, detail, sent)
        self.kind: FaultKind = kind
        self.detail = detail
        self.sent = sent

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class UpstreamResponse:
    """A response whose headers are in. `complete`: all of it has arrived, cleanly; some may still wait to be read."""

    __slots__ = (
        "_line", "_pieces", "_size", "_want", "bodyless", "complete", "content_length", "fault", "headers", "on_news", "origin",
        "started", "status", "timeouts", "waiter",
    )  # fmt: skip

    def __init__(self, line: Line, origin: Origin, bodyless: bool, timeouts: Timeouts) -> None:
        self.origin = origin
        self.status = 0
        self.headers: Headers = []
        self.content_length: int | None = None
        self.complete = False
        self.bodyless = bodyless
        self.started = False
        self.timeouts = timeouts
        self._line = line
        self._pieces: list[bytes] = []
        self._size = 0
        self._want = BUFFER_BYTES  # how much may wait before the provider is paused
        self.fault: UpstreamFault | None = None
        self.waiter: asyncio.Future[None] | None = None
        # Called (never from inside the parser) when something has come: the headers, bytes, the end, a fault.
        self.on_news: Callable[[], None] | None = None

    async def headed(self) -> None:
        """Wait for the headers, or for a fault."""
        if not self.started and self.fault is None:
            await self._wait()

    async def chunk(self) -> bytes:
        """The next bytes of the body, all that have arrived; b"" at its clean end."""
        while True:
            data = self.chunk_nowait()
            if data is not None:
                return data
            await self._wait()

    def chunk_nowait(self) -> bytes | None:
        """As `chunk`, but None when nothing is there yet."""
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._size = 0
            if self._line.paused and not self.complete:
                self._line.resume()
            return data
        if self.complete:
            return b""
        if self.fault is not None:
            raise self.fault
        return None

    async def read(self, limit: int) -> bytes:
        """The whole body. Over `limit` the connection is closed and the fault is `too_large`."""
        if self.content_length is not None and self.content_length > limit and not self.bodyless:
            self._too_large(limit)
        self._want = max(BUFFER_BYTES, limit)
        if self._line.paused and not self.complete:
            self._line.resume()
        while not self.complete and self.fault is None and self._size <= limit:
            await self._wait()
        if self._size > limit:
            self._too_large(limit)
        if self.fault is not None:
            raise self.fault
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        return data

    def abandon(self) -> None:
        """Close the connection now, which tells the provider to stop. Whoever waits for a chunk gets a `reset`."""
        if not self.complete and self.fault is None:
            self._line.break_off(UpstreamFault("reset", "abandoned by us", True))

    # -- the line's side -----------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._want:
            self._line.pause()
        waiter = self.waiter
        # read() waits for all of it, and is not woken for each piece.
        if waiter is not None and (self._want == BUFFER_BYTES or self._size > self._want):
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        self.complete = True
        self.wake()

    def fail(self, fault: UpstreamFault) -> None:
        if not self.complete and self.fault is None:
            self.fault = fault
            self.wake()
            self.tell()

    def tell(self) -> None:
        if self.on_news is not None:
            self.on_news()

    async def _wait(self) -> None:
        self.waiter = waiter = self._line.loop.create_future()
        await waiter

    def _too_large(self, limit: int) -> None:
        fault = UpstreamFault("too_large", f"the response's body is over {limit} bytes", True)
        self._pieces.clear()
        self._size = 0
        self._line.break_off(fault)
        raise fault


class _Garbled(Exception):
    """Raised in a parser callback: the response breaks the framing's rules, or our bounds."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FaultKind = kind


class Lines(Protocol):
    """Whose connections they are. `place` is the owner's own, given back as it was given."""

    sweep: Sweep | None

    def opened(self, line: Line, place: Any) -> None: ...
    def free(self, line: Line, place: Any) -> None: ...
    def gone(self, line: Line, place: Any) -> None: ...


class Line(asyncio.Protocol):
    """One connection. Carries one request at a time; `response` is None between them."""

    __slots__ = (
        "_by_eof", "_clean", "_header_bytes", "_headers", "_interim", "_parser", "_place", "_pool", "_quiet", "_sweep", "began",
        "loop", "paused", "response", "since", "transport", "unsent", "usable",
    )  # fmt: skip

    def __init__(self, pool: Lines, place: Any, header_bytes: int) -> None:
        self._pool = pool
        self._place = place
        self._header_bytes = header_bytes
        self._parser = HttpResponseParser(self)
        self._headers: Headers = []
        self._interim = self._by_eof = self._clean = False
        self._quiet = 0  # bytes since the last body byte: headers, chunk extensions, trailers
        self.usable = True
        self.paused = False
        self.response: UpstreamResponse | None = None
        assert pool.sweep is not None
        self._sweep = pool.sweep
        self.began = self.since = self._sweep.now  # last sign of life, or of progress in sending
        self.unsent = 0
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._pool.opened(self, self._place)

    def begin(self, response: UpstreamResponse) -> None:
        self.response = response
        self.began = self.since = self._sweep.now
        self.unsent = 0
        self._quiet = 0
        self._clean = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._pool.gone(self, self._place)
        response = self.response
        if response is None:
            return
        self.response = None
        if self._by_eof and exc is None:
            response.finish()
            response.tell()
        elif response.started:
            response.fail(UpstreamFault("reset", f"the connection broke in the middle of the body{_why(exc)}", True))
        else:
            response.fail(UpstreamFault("reset", f"the connection broke before the response's headers{_why(exc)}", True))

    def eof_received(self) -> None:
        """The transport closes itself next, and `connection_lost` judges what is missing."""
        self.usable = False

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            # Nobody asked. The next request's response would start with this.
            self.usable = False
            self.transport.abort()
            return
        self.since = self._sweep.now
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._garbled("protocol", "the provider switched protocols unasked")
        except HttpParserCallbackError as wrapped:
            found = wrapped.__context__
            if not isinstance(found, _Garbled):
                raise (found or wrapped) from None  # our own bug, not the provider's
            self._garbled(found.kind, str(found))
        except HttpParserError as error:
            self._garbled("protocol", f"not a well-formed HTTP/1.1 response: {error}")
        else:
            if self._quiet > self._header_bytes and not response.complete:
                self._garbled("too_large", f"more than {self._header_bytes} bytes of headers, chunk extensions or trailers")
        if response.complete:
            self._let_go()
        if response.fault is None:  # who is told of a fault is told where it is found
            response.tell()

    def _let_go(self) -> None:
        """The response is whole. Keep the connection only if nothing at all is left over on it, in either direction."""
        if self.response is None:
            return
        self.response = None
        if self.paused:
            self.resume()
        transport = self.transport
        if self._clean and self.usable and not transport.get_write_buffer_size() and not transport.is_closing():
            self._pool.free(self, self._place)
        else:
            self.usable = False
            transport.abort()

    def _garbled(self, kind: FaultKind, detail: str) -> None:
        self._clean = False
        self.break_off(UpstreamFault(kind, detail, True))

    def break_off(self, fault: UpstreamFault) -> None:
        self.usable = False
        if self.response is not None and not self.response.complete:
            self.response.fail(fault)
            self.response = None
        self.transport.abort()

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        self.paused = False
        self.since = self._sweep.now
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def judge(self, now: float) -> None:
        """The deadlines; `now` is a sweep ago, so that none fires early."""
        response = self.response
        assert response is not None
        timeouts = response.timeouts
        if now - self.began > timeouts.total_s:
            self.break_off(UpstreamFault("total_timeout", f"not through in {timeouts.total_s} s", True))
            return
        waited = now - self.since
        if response.started:
            if not self.paused and waited > timeouts.idle_s:
                self.break_off(UpstreamFault("idle_timeout", f"no byte of the body in {timeouts.idle_s} s", True))
            return
        if now - self.began > timeouts.headers_s:
            self.break_off(UpstreamFault("headers_timeout", f"no headers in {timeouts.headers_s} s", True))
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self.unsent:
            if waited > timeouts.write_s:
                self.break_off(UpstreamFault("write_timeout", f"no byte of the request taken in {timeouts.write_s} s", True))
        elif unsent:
            self.unsent = unsent
            self.since = self._sweep.now

    # -- llhttp's callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # A second message without a second request: what follows on this connection is not to be trusted.
        self._clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, into a list that is thrown away.
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        response = self.response
        if response is None or response.started:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        index = dict(headers)
        if self._quiet > self._header_bytes and sum(len(n) + len(v) + 4 for n, v in headers) > self._header_bytes:
            raise _Garbled("too_large", f"the response's headers are over {self._header_bytes} bytes")
        length = index.get(b"content-length")
        coding = index.get(b"transfer-encoding")
        if coding is not None and (
            length is not None
            or coding.lower() != b"chunked"
            or parser.get_http_version() != "1.1"
            or (len(index) != len(headers) and sum(name == b"transfer-encoding" for name, _ in headers) > 1)
        ):
            raise _Garbled("protocol", "the response's length is ambiguous")
        ends_here = response.bodyless
        if length is not None:
            response.content_length = int(length)
        if status == 204 or status == 304:
            # llhttp believes the length of a 304, and of HEAD's response (it was not told who asked), and would wait for
            # a body. Both are rare: the response ends here, and the connection is given up.
            ends_here = ends_here or length is not None or coding is not None
            response.bodyless = True
        elif coding is None and length is None and not ends_here:
            self._by_eof = True
        response.status = status
        response.headers = headers
        response.started = True
        self._quiet = 0
        if ends_here:
            self.usable = False
            response.finish()
        else:
            response.wake()

    def on_body(self, data: bytes) -> None:
        self._quiet = 0
        response = self.response
        if response is not None and not response.complete:
            response.put(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        response = self.response
        if response is None or response.complete:
            return
        self._clean = self._parser.should_keep_alive()
        response.finish()


def _why(exc: Exception | None) -> str:
    return f": {exc}" if exc is not None else ""
