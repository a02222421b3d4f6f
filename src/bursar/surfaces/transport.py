"""The wrapper's HTTP transports: a client's own transport with the pipeline around it, for httpx and httpx2, sync and async."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uuid_utils

from .. import drive
from ..domain.call import Answer, Ended, Fault, Headers, Incoming, Lines
from ..drive import BROKEN
from ..effects import Finish, Gather, Relay, Reply
from .books import ORIGINS_MAX, Books, plain_resolve
from .calls import EDGE, AsyncCall, Call, SyncCall, origin_of, refusal, running_loop
from .direct import Origin, Plain

BODY_MAX = 20 << 20  # bytes of a request body read into memory when the client streams it; a longer upload passes unread


class Kit:
    """The classes of the HTTP library a client belongs to: httpx and httpx2 do not take each other's."""

    def __init__(self, module: Any) -> None:
        self.Request, self.Response, self.Headers, self.ByteStream = (
            module.Request, module.Response, module.Headers, module.ByteStream,
        )  # fmt: skip
        self.Client, self.AsyncClient, self.TransportError = module.Client, module.AsyncClient, module.TransportError
        self.ConnectTimeout, self.ReadTimeout, self.WriteTimeout, self.PoolTimeout = (
            module.ConnectTimeout, module.ReadTimeout, module.WriteTimeout, module.PoolTimeout,
        )  # fmt: skip
        self.ConnectError, self.ReadError, self.RemoteProtocolError = module.ConnectError, module.ReadError, module.RemoteProtocolError
        self._module = module
        self.Coming: Any = None  # made when they are wanted, with the rooms they are in
        self.AsyncComing: Any = None
        self.Body = type("Body", (SyncBody, module.SyncByteStream), {})
        self.AsyncBody = type("AsyncBody", (AsyncBody, module.AsyncByteStream), {})

    def lines(self, inner: Any) -> Any:
        """Connections of our own in place of a sync client's transport; None where it must be that."""
        plain = Plain(inner, self._module.__name__, "HTTPTransport", "ConnectionPool", "handle_request")
        if plain.terms is None:
            return None
        from . import direct_sync

        if self.Coming is None:
            self.Coming = type("Coming", (direct_sync.Coming, self._module.SyncByteStream), {})
        return direct_sync.Lines(plain, plain.terms, self)

    def async_lines(self, inner: Any) -> Any:
        """The same for an async client."""
        plain = Plain(inner, self._module.__name__, "AsyncHTTPTransport", "AsyncConnectionPool", "handle_async_request")
        if plain.terms is None:
            return None
        from . import direct_async

        if self.AsyncComing is None:
            self.AsyncComing = type("AsyncComing", (direct_async.AsyncComing, self._module.AsyncByteStream), {})
        return direct_async.Lines(plain, plain.terms, self)


_kits: dict[str, Kit] = {}


def kit_of(client_class: type) -> Kit | None:
    """The kit of an httpx or httpx2 client class, None for any other."""
    for base in client_class.__mro__:
        name = base.__module__.partition(".")[0]
        if name in ("httpx", "httpx2"):
            if name not in _kits:
                _kits[name] = Kit(importlib.import_module(name))
            return _kits[name]
    return None


class Streamed:
    """A body on its way to the caller, whose own iteration drives it. Booked when it has ended, or when it is left."""

    def __init__(self, call: Call, reader: Any, inner: Any, begun: Any) -> None:
        self._call, self._reader, self._inner, self._begun = call, reader, inner, begun
        self._over = self._closed = False
        self._first_us = self._relayed = 0
        self._orders = call.place.desk.orders.number
        self._look = max(call.most, EDGE)  # a stream is longer than the text in it

    def _feed(self, chunk: bytes) -> bytes:
        if not self._first_us:
            self._first_us = self._call.first_us or self._call.since(self._call.sent_ns)
        out = drive.shielded(self._reader.feed, chunk)
        if out is BROKEN:
            return chunk
        self._relayed += len(out)
        return out

    def _ended(self, how: str, fault: Fault | None = None) -> Ended:
        self._over = True
        call = self._call
        if how != "client_gone":
            call.books.streamed(call.journey)
        edges = call.edges.ends if call.edges else (b"", b"")
        # A body too large to gather was given away, whatever its length: the pipeline must not answer once more.
        relayed = self._relayed or (1 if call.edges else 0)
        return Ended(how, b"", False, fault, self._first_us, call.since(call.sent_ns), relayed, edges)

    def _stopped(self) -> str:
        """Why the stream is to end here: somebody has ordered it (within a second of the next piece), or it has outgrown its hold."""
        call = self._call
        if call.most and self._relayed > self._look:
            self._look = self._relayed + EDGE
            reading = drive.shielded(self._reader.reading)
            if reading is not BROKEN and reading.output_bytes > call.most:
                return "outgrown"
        orders = call.place.desk.orders
        call.shop.watch.look(call.place.desk)
        if orders.number == self._orders:
            return ""
        self._orders = orders.number
        return "stopped" if call.ordered is not None and drive.shielded(call.ordered) is True else ""

    def _kept(self, finish: Any) -> bytes:
        return self._reader.kept if finish is BROKEN else finish.kept if isinstance(finish, Finish) else b""

    def _leave(self) -> None:
        if not self._over:
            drive.shielded(self._reader.finish)
            self._call.books.leave(self._call.journey, self._ended("client_gone"))

    def __del__(self) -> None:
        self._leave()


class SyncBody(Streamed):
    """For sync clients."""

    def __iter__(self) -> Iterator[bytes]:
        call, reader, feed = self._call, self._reader, self._feed
        chunks, pieces = self._begun or ((), iter(self._inner))
        try:
            for chunk in chunks:
                yield feed(chunk)
            for chunk in pieces:
                out = feed(chunk)
                if out:
                    yield out
                if reader.done:
                    break
                if how := self._stopped():
                    kept = self._book(self._ended(how))
                    self.close()
                    yield kept
                    return
            else:
                drive.shielded(reader.finish)
        except call.kit.TransportError as error:
            drive.shielded(reader.finish)
            kept = self._book(self._ended("fault", call.fault(error)))
            if kept:
                yield kept
            raise
        kept = self._book(self._ended("complete"))
        if kept:
            yield kept
        # What little follows a terminal event belongs to the framing: read on, and the connection can be used again.
        yield from pieces

    def _book(self, ended: Ended) -> bytes:
        return self._kept(drive.shielded(self._call.journey.advance, self._call, ended))

    def close(self) -> None:
        self._leave()
        if not self._closed:
            self._closed = True
            self._inner.close()


class AsyncBody(Streamed):
    """For async clients."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        call, reader, feed = self._call, self._reader, self._feed
        chunks, pieces = self._begun or ((), self._inner.__aiter__())
        try:
            for chunk in chunks:
                yield feed(chunk)
            async for chunk in pieces:
                out = feed(chunk)
                if out:
                    yield out
                if reader.done:
                    break
                if how := self._stopped():
                    kept = await self._book(self._ended(how))
                    await self.aclose()
                    yield kept
                    return
            else:
                drive.shielded(reader.finish)
        except call.kit.TransportError as error:
            drive.shielded(reader.finish)
            kept = await self._book(self._ended("fault", call.fault(error)))
            if kept:
                yield kept
            raise
        kept = await self._book(self._ended("complete"))
        if kept:
            yield kept
        async for chunk in pieces:
            yield chunk

    async def _book(self, ended: Ended) -> bytes:
        return self._kept(await drive.shielded_async(self._call.journey.advance_async(self._call, ended)))

    async def aclose(self) -> None:
        self._leave()
        if not self._closed:
            self._closed = True
            await self._inner.aclose()


def _origin(url: Any) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


class Wrapped:
    """What both transports share: the transport inside, the connections used in its place, and how a call begins."""

    def __init__(self, inner: Any, books: Books, kit: Kit, only_known: bool, lines: Any = None) -> None:
        self._inner, self._books, self._kit, self._only_known, self._lines = inner, books, kit, only_known, lines
        self._gateway = os.environ.get("BURSAR_GATEWAY", "")
        self._origins: dict[str, Origin] = {}
        # Of the last request: where its length stands, under which name; its other headers, as they came and in lower case.
        self._head: tuple[int, bytes, Headers, Lines] = (0, b"", [], Lines([]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _passes(self, request: Any) -> bool:
        """Whether this request is none of our business: another host's, or one that our own gateway will book."""
        if not self._only_known and not self._gateway:
            return False
        origin = _origin(request.url)
        return origin == self._gateway or (self._only_known and not self._books.known(origin, request.url))

    def _unread(self, request: Any) -> bool:
        """Whether the body is still to be read from somewhere, and is to be."""
        if isinstance(request.stream, self._kit.ByteStream):
            return False
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) <= BODY_MAX:
            return True
        # A longer upload goes through as it comes; only a call that we must read to price is worth its memory.
        return plain_resolve(request.method, request.url.path).dialect.name != "passthrough"

    def _begin(self, request: Any, call_class: type[Call]) -> Call | Answer | None:
        url = request.url
        target = url.raw_path.decode("ascii")
        path, _, query = target.partition("?")
        shop = self._books.shop()
        if shop is None:
            return self._books.closed(request.method, path)
        started_ns = time.monotonic_ns()  # opening the books, once, is not what a call costs
        origin = _origin(url)
        place = self._books.place(shop, origin, url, request.method, path)
        shop.watch.look(place.desk)
        headers = self._said(request.headers.raw)
        body = request.read() if isinstance(request.stream, self._kit.ByteStream) else b""
        incoming = Incoming(
            uuid_utils.uuid7().hex, shop.clock_us(), request.method, path, query, headers, body, place.provider
        )
        call = call_class(self._books, shop, place, self._kit, self._inner, request, incoming, target, started_ns)
        if self._lines is not None:
            call.lines, call.origin = self._lines, self._origins.get(origin) or self._look_at(origin, url)
        return call

    def _said(self, raw: Headers) -> Headers:
        """The request's headers with their names in lower case, one object for all requests of this client that say the same. But for
        their length: that belongs to the framing, and differs from call to call."""
        at, name, others, known = self._head
        if len(raw) > at and raw[at][0] == name and raw[:at] + raw[at + 1 :] == others:
            return known
        low = [(name.lower(), value) for name, value in raw]
        for at, (name, _) in enumerate(low):
            if name == b"content-length":
                known = Lines(low[:at] + low[at + 1 :])
                self._head = at, raw[at][0], raw[:at] + raw[at + 1 :], known
                return known
        return low

    def _look_at(self, origin: str, url: Any) -> Origin:
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        found = self._origins[origin] = origin_of(url)
        return found

    def _untold(self, call: object) -> None:
        """The row of a call that we could not even begin to read."""
        shop = self._books.shop() if call is BROKEN else None
        if shop is not None:
            drive.shielded(lambda: self._books.trace(shop, uuid_utils.uuid7().hex, shop.clock_us(), "", None, None))

    def _after(self, call: Call) -> Any:
        """After a fault of ours: the answer that is here already, or None to go straight on. Leaves a row."""
        response = call.response if not call.own else None
        status = response.status_code if response is not None else None
        drive.shielded(
            call.books.trace, call.shop, call.incoming.call_id, call.incoming.ts_us, call.place.provider, call.held, status
        )
        if call.error is not None:
            raise call.error
        if response is None:
            return None
        return call.given(call.raw, response.stream if call.gathered is None else self._kit.ByteStream(call.gathered))


class Transport(Wrapped):
    """A sync client's transport, with the pipeline around it."""

    def handle_request(self, request: Any) -> Any:
        if self._passes(request):
            return self._inner.handle_request(request)
        if drive.shielded(self._unread, request) is True:
            request.read()
        call = drive.shielded(self._begin, request, SyncCall)
        if isinstance(call, Answer):
            return refusal(self._kit, call)
        if not isinstance(call, SyncCall):
            self._untold(call)
            return self._inner.handle_request(request)
        try:
            effect = drive.shielded(call.journey.advance, call, outside=call.outside)
        except BaseException:
            call.left()
            raise
        if isinstance(effect, Reply):
            return call.answer(effect.answer)
        if isinstance(effect, Relay | Gather):
            return call.relayed(effect, self._kit.Body)
        return self._after(call) or self._inner.handle_request(request)

    def __enter__(self) -> Transport:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._lines is not None:
            self._lines.close()
        self._inner.__exit__(*error)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._inner.close()


class AsyncTransport(Wrapped):
    """An async client's transport, with the pipeline around it."""

    async def handle_async_request(self, request: Any) -> Any:
        if self._passes(request):
            return await self._inner.handle_async_request(request)
        if not self._books.opened and (loop := running_loop()):
            await loop.run_in_executor(None, drive.shielded, self._books.shop)
        if drive.shielded(self._unread, request) is True:
            await request.aread()
        call = drive.shielded(self._begin, request, AsyncCall)
        if isinstance(call, Answer):
            return refusal(self._kit, call)
        if not isinstance(call, AsyncCall):
            self._untold(call)
            return await self._inner.handle_async_request(request)
        try:
            effect = await drive.shielded_async(call.journey.advance_async(call), call.outside)
        except BaseException:
            call.left()
            raise
        if isinstance(effect, Reply):
            return call.answer(effect.answer)
        if isinstance(effect, Relay | Gather):
            return call.relayed(effect, self._kit.AsyncBody)
        return self._after(call) or await self._inner.handle_async_request(request)

    async def __aenter__(self) -> AsyncTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._lines is not None:
            self._lines.close()
        await self._inner.__aexit__(*error)

    async def aclose(self) -> None:
        if self._lines is not None:
            self._lines.close()
        await self._inner.aclose()
