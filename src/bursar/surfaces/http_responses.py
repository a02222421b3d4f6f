"""One connection to a provider and the response that comes on it: framing, buffering, back-pressure, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from .http_common import Headers, Sweep
from .http_framing import FaultKind, Framing
from .http_origin import Timeouts

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
        "_line", "_pieces", "_size", "_want", "bodyless", "complete", "content_length", "fault", "headers", "on_news",
        "started", "status", "timeouts", "waiter",
    )  # fmt: skip

    def __init__(self, line: Line, bodyless: bool, timeouts: Timeouts) -> None:
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
            await self.news()

    async def news(self) -> None:
        """Wait until something comes: bytes, the end, a fault. To be called only when nothing is there."""
        self.waiter = waiter = self._line.loop.create_future()
        await waiter

    async def chunk(self) -> bytes:
        """The next bytes of the body, all that have arrived; b"" at its clean end."""
        while True:
            data = self.chunk_nowait()
            if data is not None:
                return data
            await self.news()

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

    def whole(self, most: int) -> bytes | None:
        """The rest of the body, where all of it has come and is not more than that."""
        if not self.complete or self._size > most:
            return None
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        return data

    async def read(self, limit: int) -> bytes:
        """The whole body. Over `limit` the connection is closed and the fault is `too_large`."""
        if self.content_length is not None and self.content_length > limit and not self.bodyless:
            self._too_large(limit)
        self._want = max(BUFFER_BYTES, limit)
        if self._line.paused and not self.complete:
            self._line.resume()
        while not self.complete and self.fault is None and self._size <= limit:
            await self.news()
        if self._size > limit:
            self._too_large(limit)
        if self.fault is not None:
            raise self.fault
        data = self.whole(limit)
        assert data is not None
        return data

    def abandon(self) -> None:
        """Close the connection now, which tells the provider to stop. Whoever waits for a chunk gets a `reset`."""
        if not self.complete and self.fault is None:
            self._line.break_off(UpstreamFault("reset", "abandoned by us", True))

    # -- the line's side -----------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size = size = self._size + len(data)
        if size > self._want:
            self._line.pause()
        waiter = self.waiter
        # read() waits for all of it, and is not woken for each piece.
        if waiter is not None and (self._want == BUFFER_BYTES or size > self._want):
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
        if self.waiter is not None:
            self.wake()

    def fail(self, fault: UpstreamFault) -> None:
        if not self.complete and self.fault is None:
            self.fault = fault
            self.wake()
            self.tell()

    def tell(self) -> None:
        if self.on_news is not None:
            self.on_news()

    def _too_large(self, limit: int) -> None:
        fault = UpstreamFault("too_large", f"the response's body is over {limit} bytes", True)
        self._pieces.clear()
        self._size = 0
        self._line.break_off(fault)
        raise fault


class Lines(Protocol):
    """Whose connections they are. `place` is the owner's own, given back as it was given."""

    sweep: Sweep | None

    def opened(self, line: Line, place: Any) -> None: ...
    def free(self, line: Line, place: Any) -> None: ...
    def gone(self, line: Line, place: Any) -> None: ...


class Line(Framing, asyncio.Protocol):
    """One connection. Carries one request at a time; `response` is None between them."""

    __slots__ = ("_place", "_pool", "_sweep", "began", "loop", "paused", "since", "transport", "unsent")
    response: UpstreamResponse | None

    def __init__(self, pool: Lines, place: Any, header_bytes: int) -> None:
        Framing.__init__(self, header_bytes)
        self._pool = pool
        self._place = place
        self.paused = False
        assert pool.sweep is not None
        self._sweep = pool.sweep
        self.began = self.since = self._sweep.now  # last sign of life, or of progress in sending
        self.unsent = 0
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._pool.opened(self, self._place)

    def ask(self, method: str, head: bytes, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        """The response that is to come."""
        response = UpstreamResponse(self, method == "HEAD", timeouts)
        self.await_response(response)
        self.began = self.since = self._sweep.now
        self.unsent = 0
        if len(body) < SPLIT_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        return response

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
        garbled = self.feed(response, data)
        if garbled is not None:
            self._clean = False
            self.break_off(UpstreamFault(garbled.kind, str(garbled), True))
        if response.complete:
            self._let_go()
        if response.fault is None and response.on_news is not None:  # who is told of a fault is told where it is found
            response.on_news()

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


def _why(exc: Exception | None) -> str:
    return f": {exc}" if exc is not None else ""
