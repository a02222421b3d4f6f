"""The HTTP/1.1 server of the data path: connections, answers, back-pressure, deadlines, shutdown. Knows no LLMs.

One connection serves its requests in order. While one is answered, what the client sends ahead is held unparsed, up to
`HELD_BYTES`; then its socket is not read. Until that point the socket *is* read, so that a client who leaves is noticed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl as tls
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from .http_common import Headers, Sweep, header_block, status_line
from .http_heads import Heads
from .http_requests import BodyMemory, Incoming, Refused, RequestReader, ServerLimits

__all__ = ["Handler", "Headers", "Incoming", "Responder", "Server", "ServerLimits"]

HELD_BYTES = 64 << 10
LINGER_S = 2.0  # after a refusal: read on (and drop) so that the answer is not lost to a reset
SPLIT_BYTES = 16 << 10  # from here on, a second buffer is cheaper than a copy
FRESH = -1  # no request yet: such a connection gets the headers' deadline, not the idle one
OK_LINE = status_line(200)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# An `async def`, which becomes a task; or a plain function that sees to it that `Server.done` is called, for a request whose
# answer comes by callbacks.
Handler = Callable[[Incoming, "Responder"], Coroutine[Any, Any, None] | None]
ErrorReply = Callable[[int, str, str], tuple[Headers, bytes]]


def plain_error(status: int, code: str, message: str) -> tuple[Headers, bytes]:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}
    return [(b"content-type", b"application/json")], json.dumps(body).encode()


class Responder:
    """The answer to one request. Writing to a client who has gone is not an error: it is dropped."""

    __slots__ = (
        "_bodyless", "_chunked", "_closes", "_connection", "_left", "_transport", "ended", "gone", "incoming", "on_gone", "on_stop",
        "started", "writable",
    )  # fmt: skip

    def __init__(self, connection: Connection, transport: asyncio.Transport, incoming: Incoming, closing: bool) -> None:
        self._connection = connection
        self._transport = transport
        self.incoming = incoming
        self._closes = closing or not incoming.keep_alive
        self._chunked = self._bodyless = self.ended = self.started = self.gone = False
        self._left: int | None = None  # bytes still owed of a declared length
        self.on_gone: Callable[[], None] | None = None
        self.on_stop: Callable[[], object] | None = None  # the server ends, and waits no longer
        self.writable = connection.flowing

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer in one write."""
        size = len(body)
        incoming = self.incoming
        if (
            status == 200 and incoming.http_minor and incoming.method != "HEAD"
            and not (self._closes or self.started or self._connection.server.closing)
        ):  # fmt: skip
            head = header_block(OK_LINE, headers, b"content-length: %d\r\n" % size)  # as nearly always
        else:
            head = self._head(status, headers, size)
        self.started = self.ended = True
        if self.gone:
            return
        if self._bodyless:
            self._transport.write(head)
        elif size < SPLIT_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        self._connection.answered(self._closes)

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        """Without a length the body is chunked, or for HTTP/1.0 ends with the connection."""
        head = self._head(status, headers, length)
        self.started = True
        if not self.gone:
            self._transport.write(head)

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        if not self.started or self.ended:
            raise RuntimeError("write() belongs between start() and end()")
        size = len(data)
        if not size or self._bodyless:
            return
        if self._chunked:
            if size < SPLIT_BYTES:
                self._transport.write(b"%x\r\n%b\r\n" % (size, data))
            else:
                self._transport.writelines((b"%x\r\n" % size, data, b"\r\n"))
            return
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                self.abort()
                raise RuntimeError("more was written than the declared length")
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written, or is gone."""
        while not self.writable and not self.gone:
            await self._connection.flow()

    def end(self) -> None:
        if self.gone:
            self.ended = True
            return
        if not self.started or self.ended:
            raise RuntimeError("end() belongs after start(), once")
        if self._left and not self._bodyless:
            self.abort()
            raise RuntimeError("less was written than the declared length")
        self.ended = True
        if self._chunked and not self._bodyless:
            self._transport.write(b"0\r\n\r\n")
        self._connection.answered(self._closes)

    def abort(self) -> None:
        """Break off, so that the client sees a truncated message. What was written before is still delivered."""
        if self.gone or self.ended:
            return
        self.gone = self.ended = True
        self._connection.break_off(by_reset=not self.started or (self._left is None and not self._chunked))

    def lost(self) -> None:
        """The connection's word that the client has left."""
        if self.gone or self.ended:
            return
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def _head(self, status: int, headers: Headers, length: int | None) -> bytes:
        if self.started:
            raise RuntimeError("the answer was started already")
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of an answer")
        if self._connection.server.closing:
            self._closes = True
        incoming = self.incoming
        if incoming.method == "HEAD":
            self._bodyless = True
        if status == 204 or status == 304:
            self._bodyless = True
            framing = b""
        elif length is not None:
            self._left = length
            framing = b"content-length: %d\r\n" % length
        elif incoming.http_minor:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self._closes = True
            framing = b""
        if self._closes:
            framing += b"connection: close\r\n"
        elif not incoming.http_minor:
            framing += b"connection: keep-alive\r\n"
        return header_block(status_line(status), headers, framing)


class Connection(RequestReader):
    """One client's connection."""

    __slots__ = (
        "_active", "_closing_by", "_flow", "_held", "_held_size", "_progress", "_refusal", "_since", "_sweep", "_transport", "flowing",
        "server",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        super().__init__(server.limits, server.memory, server.heads)
        self.server = server
        self.flowing = True
        self._active: Responder | None = None
        self._refusal: Refused | None = None
        self._closing_by = 0.0  # when not zero: nothing is read any more, and this is the last moment to be shut
        self._held: list[bytes] = []
        self._held_size = 0
        self._flow: asyncio.Future[None] | None = None
        self._since = 0.0  # start of the present span: idle, headers, body window, or write stall
        self._progress = 0  # bytes at its start
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)

    # -- the loop's callbacks ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        assert server.sweep is not None
        self._sweep = server.sweep
        self._transport = cast(asyncio.Transport, transport)
        self.peer = transport.get_extra_info("peername")
        self.tls = transport.get_extra_info("sslcontext") is not None
        self._since = self._sweep.now
        self._progress = FRESH
        server.open.add(self)
        if len(server.open) > self._limits.connections:
            self._refuse(Refused(503, "too_many_connections", "this server has all the connections it takes"))
            self._close()
        elif server.closing:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self)
        self._leave()
        self.forget()

    def eof_received(self) -> None:
        """A client that has shut its side has left: to tell it from a half-closed one would take a write."""
        if self._active is None and self.mid_request and not self._closing_by:
            self._refuse(Refused(400, "incomplete_request", "the connection was closed in the middle of the request"))
        self._closing_by = self._closing_by or self._sweep.now + LINGER_S
        self._leave()

    def pause_writing(self) -> None:
        self.flowing = False
        self._since = self._sweep.now
        self._progress = self._transport.get_write_buffer_size()
        if self._active is not None:
            self._active.writable = False

    def resume_writing(self) -> None:
        self.flowing = True
        self._since = self._sweep.now
        self._progress = self._raw
        if self._active is not None:
            self._active.writable = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._active is not None:
            self._hold(data)
        elif not self._closing_by:
            self._take(data)

    # -- requests in ---------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > HELD_BYTES:
            self._transport.pause_reading()

    def _take(self, data: bytes) -> None:
        started = not self.mid_request
        was_body = self.in_body
        try:
            rest = self.feed(data)
            if rest:
                self._hold(rest)
        except Refused as refusal:
            self._refusal = refusal
        if self.queue:
            self._serve_next()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            if started or was_body != self.in_body:
                self._since = self._sweep.now
                self._progress = self._raw
            if self._wait and self.wants_continue():
                self._transport.write(CONTINUE)

    def _serve_next(self) -> None:
        incoming = self.queue.pop(0)
        server = self.server
        self._active = responder = Responder(self, self._transport, incoming, server.closing)
        server.answering.add(responder)
        work = server.handler(incoming, responder)
        if work is not None:
            task = server.loop.create_task(work)
            responder.on_stop = task.cancel
            task.add_done_callback(partial(server.handled, responder))

    def answered(self, closes: bool) -> None:
        """The answer is written; on to the next request, or wait for it."""
        self._active = None
        if closes:
            self._close()
        elif self.queue:
            self._serve_next()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif self._held:
            data = b"".join(self._held)
            paused = self._held_size > HELD_BYTES
            self._held.clear()
            self._held_size = 0
            self._take(data)
            if paused and self._held_size <= HELD_BYTES and not self._transport.is_closing():
                self._transport.resume_reading()
        elif self.flowing:
            self._since = self._sweep.now
            self._progress = 0

    def _refuse(self, refusal: Refused) -> None:
        """Answer, close our side, and listen a little longer: a reset would overtake the answer."""
        self.forget()
        headers, body = self.server.error_reply(refusal.status, refusal.code, refusal.message)
        last = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        self._transport.write(header_block(status_line(refusal.status), headers, last) + body)
        self._closing_by = self._sweep.now + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self._active is not None:
            self._active.lost()
        self._wake()

    def _wake(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None and not flow.done():
            flow.set_result(None)

    async def flow(self) -> None:
        if self._flow is None:
            self._flow = self.server.loop.create_future()
        await asyncio.shield(self._flow)

    def _close(self) -> None:
        self._closing_by = self._sweep.now + self._limits.write_stall_s
        self._transport.close()

    def break_off(self, by_reset: bool) -> None:
        """Without a length and without chunks only a reset tells the client that this was not the end."""
        self._active = None
        self._wake()
        if by_reset:
            raw = self._transport.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._transport.abort()
        else:
            self._close()

    def kill(self) -> None:
        self._leave()
        self._transport.abort()

    def close_if_idle(self) -> None:
        if self._active is None and not self.mid_request:
            self._close()

    def judge(self, now: float) -> None:
        """The deadlines. `slack` because stamps are the last sweep's."""
        limits = self._limits
        waited = now - self._since - self.server.slack
        if not self.flowing:
            left = self._transport.get_write_buffer_size()
            if left < self._progress:
                self._since, self._progress = now, left
            elif waited > limits.write_stall_s:
                self.kill()
        elif self._closing_by:
            if now > self._closing_by:
                self._transport.abort()
        elif self._active is not None:
            return
        elif self.in_body:
            if waited > limits.body_idle_s:
                if self._raw - self._progress < 1024 * limits.body_idle_s:
                    self._refuse(Refused(408, "body_timeout", "the body came too slowly"))
                else:
                    self._since, self._progress = now, self._raw
        elif self.mid_request:
            if waited > limits.header_s:
                self._refuse(Refused(408, "header_timeout", "the headers came too slowly"))
        elif waited > limits.idle_s or (self._progress == FRESH and waited > limits.header_s):
            self._close()


class Server:
    """Listens, hands whole requests to `handler`, keeps the deadlines.

    on_fault: told of what a handler raised (the client gets a 500, or a broken-off message). Tests raise it again.
    """

    def __init__(
        self,
        handler: Handler,
        limits: ServerLimits | None = None,
        *,
        on_error_reply: ErrorReply | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or ServerLimits()
        self.memory = BodyMemory(self.limits.body_total_bytes)
        self.heads = Heads()
        self.error_reply = on_error_reply or plain_error
        self.on_fault = on_fault
        self.open: set[Connection] = set()
        self.answering: set[Responder] = set()
        self.closing = False
        self.slack = 0.0
        self.loop: asyncio.AbstractEventLoop = cast(asyncio.AbstractEventLoop, None)
        self.sweep: Sweep | None = None
        self._listeners: list[asyncio.Server] = []

    @property
    def connections(self) -> int:
        return len(self.open)

    @property
    def in_flight(self) -> int:
        return len(self.answering)

    @property
    def port(self) -> int:
        """Of the first listener, as the system gave it."""
        return self._listeners[0].sockets[0].getsockname()[1]

    async def listen(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        ssl: tls.SSLContext | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool = False,
    ) -> None:
        """May be called again for a second address. With `sock`, host and port are not used."""
        self.loop = asyncio.get_running_loop()
        if self.sweep is None:
            limits = self.limits
            shortest = min(limits.header_s, limits.body_idle_s, limits.idle_s, limits.write_stall_s)
            self.slack = min(0.5, shortest / 4)
            self.sweep = Sweep(self.loop, self.slack, self._judge)

        def connect() -> Connection:
            return Connection(self)

        if sock is not None:
            made = await self.loop.create_server(connect, sock=sock, ssl=ssl, backlog=2048)
        else:
            made = await self.loop.create_server(
                connect, host, port, ssl=ssl, backlog=2048, reuse_port=reuse_port or None
            )
        self._listeners.append(made)

    async def shutdown(self, grace_s: float) -> None:
        """Accept no more, let what is in flight finish (its answers say `connection: close`), after grace break it off."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self.open):
            connection.close_if_idle()
        await self._wait_for_quiet(grace_s)
        for connection in tuple(self.open):
            connection.kill()
        # Handlers have been told; what they do on the way out (book what was abandoned) gets a moment.
        await self._wait_for_quiet(1.0)
        for responder in tuple(self.answering):
            if responder.on_stop is not None:
                responder.on_stop()
        await self._wait_for_quiet(1.0)
        if self.sweep is not None:
            self.sweep.stop()

    async def _wait_for_quiet(self, seconds: float) -> None:
        until = self.loop.time() + seconds if self.sweep is not None else 0.0
        while (self.open or self.answering) and self.loop.time() < until:
            await asyncio.sleep(0.01)

    def _judge(self, now: float) -> None:
        for connection in tuple(self.open):
            connection.judge(now)

    def handled(self, responder: Responder, task: asyncio.Task[None]) -> None:
        """A handler's task is through. Whatever it raised becomes a 500 here (or a broken-off message), as a task's result and
        not by an `except`."""
        if task.cancelled():
            self.done(responder, asyncio.CancelledError() if not responder.ended else None)
        else:
            self.done(responder, task.exception())

    def done(self, responder: Responder, fault: BaseException | None = None) -> None:
        """This request is through: its answer was given, or it has failed and gets a 500. Called once for each."""
        if responder not in self.answering:
            return
        self.answering.discard(responder)
        responder.on_stop = None  # it knows the request's work, which knows the responder
        self.memory.used -= len(responder.incoming.body)
        if fault is None:
            if responder.ended or responder.gone:
                return
            fault = RuntimeError("the handler returned before it ended its answer")
        if responder.started:
            responder.abort()
        else:
            responder.respond(*self._internal_error())
        if self.on_fault is not None and not isinstance(fault, asyncio.CancelledError):
            self.on_fault(fault)

    def _internal_error(self) -> tuple[int, Headers, bytes]:
        return 500, *self.error_reply(500, "internal_fault", "this server failed on the request; it is not the client's fault")
