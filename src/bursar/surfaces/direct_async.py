"""Connections of our own for an async client on asyncio's loops, within the limits of its own pool."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain, zip_longest
from typing import Any, cast

from ..domain.call import Headers
from .direct import (
    ENDED_EARLY,
    NO_ANSWER,
    SPLIT_BYTES,
    Arrived,
    Came,
    Deadlines,
    Origin,
    Plain,
    Pool,
    Terms,
    Told,
    deadlines,
)

BUFFER_BYTES = 128 << 10  # of a body that wait for their reader before the provider is not read any more
STAGGER_S = 0.25  # between two attempts at a name's addresses, as in anyio


class Line(Told, asyncio.Protocol):
    """One connection. `quiet_until`: when it is closed if nobody has used it."""

    __slots__ = ("_error", "_lines", "_paused", "_poll", "_waiter", "_writing", "loop", "origin", "quiet_until", "transport")

    def __init__(self, lines: Lines, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        Told.__init__(self)
        self._lines, self.origin, self.loop = lines, origin, loop
        self._error: Exception | None = None  # of the library's kind
        self._waiter: asyncio.Future[None] | None = None
        self._poll: Any = None
        self._paused = self._writing = False
        self.quiet_until: float | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)

    async def ask(self, first: bytes, body: bytes, until: Deadlines) -> Came:
        """One request; its response once the headers are in."""
        kit = self._lines.kit
        response = Arrived()
        self.await_response(response)
        self._error = None
        if len(body) < SPLIT_BYTES:
            self.transport.write(first + body)
        else:
            self.transport.writelines((first, body))
            while self._writing and self._error is None and not response.started:
                await self._wait(until.write, kit.WriteTimeout)
        while not response.started:
            if self._error is not None:
                raise self._error
            await self._wait(until.read, kit.ReadTimeout)
        if response.complete:
            return response.given(kit.ByteStream(response.taken()))
        return response.given(kit.AsyncComing(self, response, until))

    async def hear(self, response: Arrived, until: Deadlines) -> None:
        """Wait for what comes next."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self._error is not None:
            raise self._error
        await self._wait(until.read, self._lines.kit.ReadTimeout)

    async def _wait(self, seconds: float | None, late: type[Exception]) -> None:
        self._waiter = waiter = self.loop.create_future()
        if seconds is None:
            await waiter
            return
        timer = self.loop.call_later(seconds, _late, waiter, late)
        try:
            await waiter
        finally:
            timer.cancel()

    def _tell(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- asyncio's callbacks ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            self.end()  # nobody asked: the next request's response would start with this
            return
        garbled = self.feed(response, data)
        if garbled is not None:
            self._clean = False
            if not response.complete:
                self._error = self._lines.kit.RemoteProtocolError(str(garbled))
                self.usable = False
                self.transport.abort()
        if response.complete:
            self.let_go()
        elif response.size > BUFFER_BYTES and not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        """The transport closes itself next, and `connection_lost` judges what is missing."""
        self.usable = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        response = self.response
        if response is not None and self._error is None:
            kit = self._lines.kit
            if exc is not None:
                self._error = kit.ReadError(str(exc))
            elif not response.started:
                self._error = kit.RemoteProtocolError(NO_ANSWER)
            elif self._by_eof:
                response.finish()
            else:
                self._error = kit.RemoteProtocolError(ENDED_EARLY)
        self.response = None
        self._lines.gone(self)
        self._tell()

    def pause_writing(self) -> None:
        self._writing = True

    def resume_writing(self) -> None:
        self._writing = False
        self._tell()

    # -- its end ---------------------------------------------------------------------------------------------------------

    def stale(self, now: float) -> bool:
        """Nothing may come on a connection where nothing was asked: what comes is its end, and the loop may not have seen it yet."""
        if not self.usable or self.transport.is_closing() or (self.quiet_until is not None and now > self.quiet_until):
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def leave(self, response: Arrived) -> None:
        """Nobody wants the rest of a response."""
        if self.response is response:
            self.end()

    def let_go(self) -> None:
        """The response is whole: the connection is kept only if nothing at all is left over on it, in either direction."""
        self.response = None
        transport = self.transport
        if self._paused:
            self._paused = False
            if not transport.is_closing():
                transport.resume_reading()
        if self._clean and self.usable and not transport.get_write_buffer_size() and not transport.is_closing():
            self._lines.free(self)
        else:
            self.end()

    def end(self) -> None:
        """Close it, whatever is under way."""
        self.usable = False
        if self.response is not None:
            self.response = None
            self._error = self._error or self._lines.kit.ReadError("the connection was closed")
        self._lines.gone(self)
        if not self.loop.is_closed():
            self.transport.abort()
        self._tell()

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self.transport.get_extra_info(names.get(info, info))


def _late(waiter: asyncio.Future[None], late: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(late(""))


class AsyncComing:
    """The body of a response on its way; made one of the library's own streams by its kit."""

    def __init__(self, line: Line, response: Arrived, until: Deadlines) -> None:
        self._line, self._response, self._until = line, response, until

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line, response, until = self._line, self._response, self._until
        try:
            while True:
                if response.pieces:
                    yield response.taken()
                elif response.complete:
                    return
                else:
                    await line.hear(response, until)
        finally:
            line.leave(response)

    async def aclose(self) -> None:
        self._line.leave(self._response)

    def __del__(self) -> None:
        line = self._line
        if line.response is self._response and not line.loop.is_closed():
            line.loop.call_soon_threadsafe(line.leave, self._response)  # a garbage collection may run in any thread


class Lines(Pool):
    """The connections of one client's transport. Those of a loop are used by it alone."""

    def __init__(self, plain: Plain, terms: Terms, kit: Any) -> None:
        Pool.__init__(self, plain, terms, kit)
        self._fresh()
        _live.add(self)

    def _fresh(self) -> None:
        self._idle: dict[Origin, list[Line]] = {}  # the last used is used next, so that the others grow old
        self._all: set[Line] = set()
        self._making = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def send(self, origin: Origin, request: Any, method: str, target: bytes, headers: Headers, body: bytes) -> Came | None:
        """The response to a request; None: it is not for this way, and nothing was sent."""
        first = self._first(origin, request, method, target, headers, len(body))
        if first is None:
            return None
        until = deadlines(request.extensions)
        loop = asyncio.get_running_loop()
        line = self._idle_line(origin, loop)
        if line is None:
            line = await self._line(origin, until, loop)
        try:
            return await line.ask(first, body, until)
        except BaseException:
            line.end()
            raise

    # -- the pool ------------------------------------------------------------------------------------------------------

    def _idle_line(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> Line | None:
        idle, now = self._idle.get(origin, ()), time.monotonic()
        for line in [*idle][::-1]:
            if line.loop is loop or line.loop.is_closed():
                self._idle[origin].remove(line)
                if line.loop is loop and not line.stale(now):
                    return line
                line.end()
        return None

    async def _line(self, origin: Origin, until: Deadlines, loop: asyncio.AbstractEventLoop) -> Line:
        due: float | None = None
        while len(self._all) + self._making >= self._terms.most:
            other = next((lines for lines in self._idle.values() if lines), None)
            if other:
                other.pop(0).end()
                continue
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiter)
            timer = None
            if until.pool is not None:
                due = loop.time() + until.pool if due is None else due
                timer = loop.call_at(due, _late, waiter, self.kit.PoolTimeout)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._next()  # it was this one's turn, and this one has left
                raise
            finally:
                if timer is not None:
                    timer.cancel()
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
            line = self._idle_line(origin, loop)
            if line is not None:
                return line
        self._making += 1
        try:
            return await self._made(origin, until.connect, loop)
        finally:
            self._making -= 1
            if len(self._all) + self._making < self._terms.most:
                self._next()

    def _next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                if waiter.get_loop().is_closed():
                    continue
                waiter.set_result(None)
                return

    def free(self, line: Line) -> None:
        """Nothing is under way on it any more, and it may carry the next request."""
        if line not in self._all:  # its client was closed, or it was inherited by a forked child
            line.end()
            return
        if sum(map(len, self._idle.values())) >= self._terms.most_idle:
            line.end()
            return
        now, expiry = time.monotonic(), self._terms.expiry_s
        line.quiet_until = None if expiry is None else now + expiry
        idle = self._idle.setdefault(line.origin, [])
        while idle and idle[0].quiet_until is not None and idle[0].quiet_until < now:
            idle.pop(0).end()
        idle.append(line)
        self._next()

    def gone(self, line: Line) -> None:
        if line in self._all:
            self._all.discard(line)
            idle = self._idle.get(line.origin)
            if idle and line in idle:
                idle.remove(line)
            self._next()

    async def _made(self, origin: Origin, seconds: float | None, loop: asyncio.AbstractEventLoop) -> Line:
        kit, connection = self.kit, None
        try:
            async with asyncio.timeout(seconds):
                connection = await _connected(origin, loop)
            for option in self._terms.options:
                connection.setsockopt(*option)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._terms.context if origin.secure else None
            if context is not None:
                context.set_alpn_protocols(["http/1.1"])
            async with asyncio.timeout(seconds):
                _, line = await loop.create_connection(
                    partial(Line, self, origin, loop), sock=connection, ssl=context,
                    server_hostname=origin.host if context is not None else None,
                )  # fmt: skip
            connection = None
        except TimeoutError as error:
            raise kit.ConnectTimeout(str(error)) from error
        except (OSError, ssl.SSLError) as error:
            raise kit.ConnectError(str(error)) from error
        finally:
            if connection is not None:
                connection.close()
        self._all.add(line)
        return line

    def close(self) -> None:
        """The client was closed: so are its connections, also those under way."""
        for line in list(self._all):
            line.end()

    def after_fork(self) -> None:
        """In the child: the connections are its parent's, and so is their loop. They are kept as they are: to let go of one would
        be to close it."""
        self._inherited = self._all
        self._fresh()


async def _connected(origin: Origin, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A socket connected to the first of a name's addresses that answers; the next is tried when one takes its time."""
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    first = [one for one in found if one[0] == found[0][0]]
    rest = [one for one in found if one[0] != found[0][0]]
    addresses = [one for one in chain.from_iterable(zip_longest(first, rest)) if one is not None]
    if len(addresses) == 1:
        return await _reached(addresses[0], loop)
    from asyncio.staggered import staggered_race

    made, _, errors = await staggered_race([partial(_reached, one, loop) for one in addresses], STAGGER_S, loop=loop)
    if made is None:
        raise next((error for error in errors if isinstance(error, OSError)), OSError("All connection attempts failed"))
    return made


async def _reached(address: Any, loop: asyncio.AbstractEventLoop) -> socket.socket:
    family, kind, protocol, _, place = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        await loop.sock_connect(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


_live: weakref.WeakSet[Lines] = weakref.WeakSet()


def _after_fork() -> None:
    for lines in list(_live):
        lines.after_fork()


os.register_at_fork(after_in_child=_after_fork)
