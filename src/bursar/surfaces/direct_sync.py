"""Connections of our own for a sync client: blocking sockets, shared by its threads, within the limits of its own pool."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from ..domain.call import Headers
from .direct import (
    ENDED_EARLY,
    NO_ANSWER,
    READ_BYTES,
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


class Line(Told):
    """One connection. `quiet_until`: when it is closed if nobody has used it."""

    __slots__ = ("_kit", "_lines", "_poll", "_seconds", "_socket", "origin", "quiet_until")

    def __init__(self, lines: Lines, origin: Origin, connection: socket.socket) -> None:
        Told.__init__(self)
        self._lines, self._kit, self.origin, self._socket = lines, lines.kit, origin, connection
        self._seconds = connection.gettimeout()
        self._poll: Any = None
        self.quiet_until: float | None = None

    def stale(self, now: float) -> bool:
        """Nothing may come on a connection where nothing was asked: what comes is its end."""
        if self.quiet_until is not None and now > self.quiet_until:
            return True
        if self._poll is None:
            if hasattr(select, "poll"):
                self._poll = select.poll()
                self._poll.register(self._socket, select.POLLIN)
            else:  # pragma: no cover
                return bool(select.select([self._socket], [], [], 0)[0])
        return bool(self._poll.poll(0))

    def _within(self, seconds: float | None) -> None:
        if seconds != self._seconds:  # each change is a system call
            self._socket.settimeout(seconds)
            self._seconds = seconds

    def ask(self, first: bytes, body: bytes, until: Deadlines) -> Came:
        """One request; its response once the headers are in."""
        response = Arrived()
        self.await_response(response)
        try:
            if len(body) < SPLIT_BYTES:
                self._send(first + body, until)
            else:
                self._send(first, until)
                self._send(body, until)
        except OSError:
            self.usable = False  # a server may answer before it has read all, and close: the answer may be there
        while not response.started:
            self.hear(response, until)
        if response.complete:
            self.let_go()
            return response.given(self._kit.ByteStream(response.taken()))
        return response.given(self._kit.Coming(self, response, until))

    def _send(self, data: bytes, until: Deadlines) -> None:
        self._within(until.write)
        try:
            sent = self._socket.send(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:  # each piece has its time, as in httpcore
                    rest = rest[self._socket.send(rest) :]
        except TimeoutError as error:
            raise self._kit.WriteTimeout(str(error)) from error

    def hear(self, response: Arrived, until: Deadlines) -> None:
        """Wait for what comes next, and take it to the response."""
        self._within(until.read)
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError as error:
            raise self._kit.ReadTimeout(str(error)) from error
        except OSError as error:
            raise self._kit.ReadError(str(error)) from error
        if not data:
            self.usable = False
            if not response.started:
                raise self._kit.RemoteProtocolError(NO_ANSWER)
            if not self._by_eof:
                raise self._kit.RemoteProtocolError(ENDED_EARLY)
            response.finish()
            return
        garbled = self.feed(response, data)
        if garbled is not None:
            self._clean = False
            if not response.complete:
                raise self._kit.RemoteProtocolError(str(garbled))

    def let_go(self) -> None:
        """The response is whole: the connection is kept only if nothing at all is left over on it."""
        if self.response is None:
            return
        self.response = None
        self._lines.free(self, self._clean and self.usable)

    def end(self) -> None:
        """Close it, whatever is under way."""
        self.usable = False
        if self.response is not None:
            self.response = None
            self._lines.free(self, False)

    def close(self) -> None:
        self._socket.close()

    def wake(self) -> None:
        """Whoever reads from it finds its end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed already

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "socket":
                return self._socket
            case "client_addr":
                return self._socket.getsockname()
            case "server_addr":
                return self._socket.getpeername()
            case "ssl_object":
                return getattr(self._socket, "_sslobj", None)
            case "is_readable":
                return self.stale(0.0)
            case _:
                return None


class Coming:
    """The body of a response on its way; made one of the library's own streams by its kit."""

    def __init__(self, line: Line, response: Arrived, until: Deadlines) -> None:
        self._line, self._response, self._until = line, response, until

    def __iter__(self) -> Iterator[bytes]:
        line, response, until = self._line, self._response, self._until
        try:
            while True:
                if response.pieces:
                    yield response.taken()
                elif response.complete:
                    return
                elif line.response is not response:
                    raise line._kit.ReadError("the connection was closed")
                else:
                    line.hear(response, until)
                    if response.complete:
                        line.let_go()
        finally:
            if not response.complete:
                self.close()

    def close(self) -> None:
        if self._line.response is self._response:
            self._line.end()

    def __del__(self) -> None:
        self.close()


class Lines(Pool):
    """The connections of one client's transport."""

    def __init__(self, plain: Plain, terms: Terms, kit: Any) -> None:
        Pool.__init__(self, plain, terms, kit)
        self._fresh()
        _live.add(self)

    def _fresh(self) -> None:
        self._room = threading.Condition()  # one that its own thread may enter again: a garbage collection may close a line
        self._idle: dict[Origin, list[Line]] = {}  # the last used is used next, so that the others grow old
        self._all: set[Line] = set()
        self._open = 0  # with those that are being made
        self._resting = 0

    def send(self, origin: Origin, request: Any, method: str, target: bytes, headers: Headers, body: bytes) -> Came | None:
        """The response to a request; None: it is not for this way, and nothing was sent."""
        first = self._first(origin, request, method, target, headers, len(body))
        if first is None:
            return None
        until = deadlines(request.extensions)
        line = self._take(origin, until.pool) or self._made(origin, until.connect)
        try:
            return line.ask(first, body, until)
        except BaseException:
            line.end()
            raise

    # -- the pool ------------------------------------------------------------------------------------------------------

    def _take(self, origin: Origin, seconds: float | None) -> Line | None:
        """A connection that lies idle; None: there is room for a new one, and it is counted."""
        gone: list[Line] = []
        due: float | None = None
        now = time.monotonic()
        with self._room:
            try:
                while True:
                    idle = self._idle.get(origin)
                    while idle:
                        line = idle.pop()
                        self._resting -= 1
                        if not line.stale(now):
                            return line
                        gone.append(self._out(line))
                    if self._open < self._terms.most:
                        self._open += 1
                        return None
                    if self._resting:
                        other = next(lines for lines in self._idle.values() if lines)
                        self._resting -= 1
                        gone.append(self._out(other.pop(0)))
                        continue
                    if seconds is not None:
                        due = now + seconds if due is None else due
                        if (left := due - time.monotonic()) <= 0:
                            raise self.kit.PoolTimeout("")
                        self._room.wait(left)
                    else:
                        self._room.wait()
            finally:
                for line in gone:
                    line.close()

    def _out(self, line: Line) -> Line:
        self._all.discard(line)
        self._open -= 1
        return line

    def free(self, line: Line, clean: bool) -> None:
        """Nothing is under way on it any more; clean: it may carry the next request."""
        gone = [line]
        with self._room:
            if line in self._all:  # not one that a forked child inherited, or that was closed with its client
                if clean and self._resting < self._terms.most_idle:
                    now, expiry = time.monotonic(), self._terms.expiry_s
                    line.quiet_until = None if expiry is None else now + expiry
                    idle = self._idle.setdefault(line.origin, [])
                    gone = [self._out(old) for old in idle if old.quiet_until is not None and old.quiet_until < now]
                    if gone:
                        idle[:] = idle[len(gone) :]
                        self._resting -= len(gone)
                    idle.append(line)
                    self._resting += 1
                else:
                    self._out(line)
            self._room.notify()
        for old in gone:
            old.close()

    def _made(self, origin: Origin, seconds: float | None) -> Line:
        connection: socket.socket | None = None
        try:
            try:
                connection = socket.create_connection((origin.host, origin.port), seconds)
                for option in self._terms.options:
                    connection.setsockopt(*option)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if origin.secure:
                    context = self._terms.context
                    assert context is not None
                    context.set_alpn_protocols(["http/1.1"])
                    connection = context.wrap_socket(connection, server_hostname=origin.host)
            except TimeoutError as error:
                raise self.kit.ConnectTimeout(str(error)) from error
            except OSError as error:
                raise self.kit.ConnectError(str(error)) from error
        except BaseException:
            if connection is not None:
                connection.close()
            with self._room:
                self._open -= 1
                self._room.notify()
            raise
        line = Line(self, origin, connection)
        with self._room:
            self._all.add(line)
        return line

    def close(self) -> None:
        """The client was closed: so are its connections, also those under way."""
        with self._room:
            idle = [line for lines in self._idle.values() for line in lines]
            busy = self._all.difference(idle)
            self._open -= len(self._all)
            self._all, self._idle, self._resting = set(), {}, 0
            self._room.notify_all()
        for line in idle:
            line.close()
        for line in busy:
            line.wake()

    def after_fork(self) -> None:
        """In the child: the connections are its parent's."""
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._fresh()


_live: weakref.WeakSet[Lines] = weakref.WeakSet()


def _after_fork() -> None:
    for lines in list(_live):
        lines.after_fork()


os.register_at_fork(after_in_child=_after_fork)
