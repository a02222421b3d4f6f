"""One call of a wrapped client: what was asked, the try under way, and its effects performed by the client's own transport, or by
connections of our own in its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ..desk import Caller
from ..domain.call import Answer, Ended, Fault, Head, Headers, Incoming, Lines
from ..domain.entry import Held, Short
from ..domain.entry import Hold as HoldRecord
from ..drive import Journey
from ..effects import Book, Gather, Hold, Relay, Send
from ..pipeline import way
from ..stores.writer import LedgerFault
from ..wire import headers as lines
from . import context, langgraph, tool
from .books import Books, Place
from .direct import Came, Origin
from .wiring import Shop

T = TypeVar("T")

EDGE = 64 << 10  # bytes kept from both ends of a body too large to gather: usage stands near one of them

# Exception names of httpx and httpx2 (and of transports that raise theirs) -> (our word, may the provider have seen it).
FAULTS: dict[str, tuple[str, bool]] = {
    "ConnectTimeout": ("connect_timeout", False),
    "PoolTimeout": ("pool_timeout", False),
    "ReadTimeout": ("read_timeout", True),
    "WriteTimeout": ("write_timeout", True),
    "TimeoutException": ("timeout", True),
    "ConnectError": ("connect", False),
    "ProxyError": ("proxy", False),
    "UnsupportedProtocol": ("protocol", False),
    "LocalProtocolError": ("protocol", False),
    "RemoteProtocolError": ("protocol", True),
    "ReadError": ("reset", True),
    "WriteError": ("reset", True),
    "CloseError": ("reset", True),
}


class Library(Protocol):
    """The classes of the HTTP library that a client is of."""

    Request: Any
    Response: Any
    Headers: Any
    ByteStream: Any
    TransportError: Any


class Call:
    """The world of one call: what was asked, the try under way, and how its effects are performed."""

    __slots__ = (
        "_plain", "away", "body", "books", "edges", "error", "first_us", "gathered", "held", "incoming", "inner", "journey", "kit",
        "lines", "most", "ordered", "origin", "own", "pieces", "place", "raw", "request", "response", "sent_ns", "shop", "started_ns",
        "target",
    )  # fmt: skip

    def __init__(
        self, books: Books, shop: Shop, place: Place, kit: Library, inner: Any, request: Any, incoming: Incoming, target: str,
        started_ns: int,
    ) -> None:  # fmt: skip
        self.books, self.shop, self.place, self.kit, self.inner = books, shop, place, kit, inner
        self.request, self.incoming, self.target = request, incoming, target
        self.lines: Any = None  # connections of our own, used in place of the transport's where it is a plain one
        self.origin: Origin | None = None
        self.body = incoming.body
        self._plain: Headers | None = None
        self.started_ns = self.sent_ns = started_ns
        self.first_us = 0
        self.away = False  # the thread is in the caller's own transport: what fails there is not ours
        self.held: HoldRecord | None = None
        self.response: Any = None
        self.raw: Headers = []
        self.gathered: bytes | None = None
        self.pieces: Any = None
        self.edges: Edges | None = None
        self.error: Exception | None = None
        self.own = False  # what is being sent is a call of our own
        self.most = 0  # bytes of text beyond which it must end
        self.ordered: Callable[[], bool] | None = None  # asks whether the stream under way is to end
        said = context.current()
        found = {**shop.built, **langgraph.labels()} if shop.built else langgraph.labels()
        failed, kept = tool.told()
        caller = Caller(
            context={**found, **said} if found else said, ci=shop.ci, tools=tool.costs, failed=failed, kept=kept, proxy=False
        )
        self.journey = Journey(way(incoming, caller, place.desk), shop.memory)

    def outside(self) -> bool:
        return self.away

    def since(self, then_ns: int) -> int:
        return (time.monotonic_ns() - then_ns) // 1000

    # -- sending -------------------------------------------------------------------------------------------------------

    def begin(self, effect: Send) -> None:
        self.sent_ns = time.monotonic_ns()
        self.response = self.gathered = self.error = None
        self.first_us = 0
        self.own = effect.within_s > 0

    def goes_out(self, effect: Send) -> tuple[Any, Any] | None:
        """What goes out on a connection of our own, if it may go there, and the request for the client's own transport, if one had to
        be made. None: this provider cannot be reached."""
        self.begin(effect)
        asked = self.direct(effect, None)
        if asked is not None:
            return asked, None
        request = self.outgoing(effect)
        return None if request is None else (self.direct(effect, request), request)

    def direct(self, effect: Send, request: Any) -> tuple[Origin, Any, str, bytes, Headers, bytes] | None:
        """What goes out on a connection of our own; None where there is none. Without a `request`: what needs none to be made."""
        if self.lines is None or self.origin is None or type(self.request.stream) is not self.kit.ByteStream:
            return None
        if request is not None:
            if type(request.stream) is not self.kit.ByteStream:
                return None
            return origin_of(request.url), request, effect.method, request.url.raw_path, request.headers.raw, effect.body
        request = self.request
        if effect.provider != self.place.provider or self.own or effect.target != self.target:
            return None
        if not self._as_they_came(effect.headers):
            return None
        headers = request.headers.raw
        if effect.body is not self.body:
            length = b"%d" % len(effect.body)
            for at in range(len(headers) - 1, -1, -1):  # a list of our own: the library makes one each time, and puts it at the end
                name = headers[at][0]
                if len(name) == 14 and name.lower() == b"content-length":
                    headers[at] = name, length
                    break
        return self.origin, request, effect.method, self.target.encode("ascii"), headers, effect.body

    def outgoing(self, effect: Send) -> Any:
        """The request to send: the caller's own where nothing in it was changed. None: this provider cannot be reached."""
        request = self.request
        if effect.provider != self.place.provider:
            return self._elsewhere(effect)
        url = request.url
        if effect.target != self.target:
            url = url.copy_with(raw_path=effect.target.encode("ascii"))
        elif effect.body is self.body and self._as_they_came(effect.headers):
            return request
        # The hop is the caller's own: its framing lines stay, and so do the spelling and order of all others.
        headers = self.kit.Headers(request.headers)
        if not self._as_they_came(effect.headers):
            came, kept = set(self.incoming.headers), set(effect.headers)
            for name in {name for name, value in came - kept if name not in lines.HOP_BY_HOP}:
                del headers[name.decode("latin-1")]
            for name, value in kept - came:
                headers[name.decode("latin-1")] = value.decode("latin-1")
        return self._request(url, effect, headers)

    def _as_they_came(self, headers: Headers) -> bool:
        if self._plain is None:
            came = self.incoming.headers
            if isinstance(came, Lines):
                self._plain = came.made.get(Call)
            if self._plain is None:
                self._plain = [line for line in came if line[0] not in lines.HOP_BY_HOP]
                if isinstance(came, Lines):
                    came.made[Call] = self._plain
        return headers == self._plain

    def _elsewhere(self, effect: Send) -> Any:
        """A fallback to another provider: its address, its credentials, none of the caller's."""
        door = self.books.credentials(effect.provider)
        if door is None:
            return None
        base, auth = door
        url = type(self.request.url)(base + effect.target.removeprefix(self.place.prefix))
        out = [line for line in effect.headers if line[0] not in lines.AUTH and line[0] not in lines.ACCOUNT and line[0] != b"cookie"]
        return self._request(url, effect, self.kit.Headers([(b"Host", url.netloc), *out, *auth]))

    def _request(self, url: Any, effect: Send, headers: Any) -> Any:
        if effect.body is self.body and not self.body:
            stream = self.request.stream
        else:
            stream = self.kit.ByteStream(effect.body)
            headers["Content-Length"] = str(len(effect.body))
            if "transfer-encoding" in headers:
                del headers["transfer-encoding"]
        extensions = self.request.extensions
        if effect.within_s:
            extensions = {**extensions, "timeout": dict.fromkeys(("connect", "read", "write", "pool"), effect.within_s)}
        return self.kit.Request(effect.method, url, headers=headers, stream=stream, extensions=extensions)

    def head(self, response: Any) -> Head:
        self.response = response
        sent = self.sent_ns
        if type(response) is Came:
            self.raw, headers = response.raw, response.headers
        else:
            self.raw = raw = response.headers.raw
            headers = [(name.lower(), value) for name, value in raw]
        return Head(response.status_code, headers, (sent - self.started_ns) // 1000, self.since(sent))

    def fault(self, error: Exception, sent: bool = True) -> Fault:
        """The caller gets this very exception when the pipeline has nothing better; the row gets its kind."""
        self.error = error
        kind = "transport"
        for base in type(error).__mro__:
            if base.__name__ in FAULTS:
                kind, sent = FAULTS[base.__name__]
                break
        since = (self.sent_ns - self.started_ns) // 1000
        return Fault(kind, f"{type(error).__name__}: {error}"[:200], sent, since, self.since(self.sent_ns))

    def no_door(self, effect: Send) -> Fault:
        detail = f"no key is configured for provider {effect.provider!r}; write providers.{effect.provider}.key in the policy"
        return Fault("no_key", detail, False, (self.sent_ns - self.started_ns) // 1000)

    # -- the answer ----------------------------------------------------------------------------------------------------

    def answer(self, answer: Answer) -> Any:
        """The answer as the client's own library has it. Raises what its transport raised, where that is the answer."""
        response = self.response
        if response is not None and answer.body is self.gathered:
            ours = [line for line in answer.headers if line[0].startswith(b"x-bursar-")]
            return self.given([*self.raw, *ours], self.kit.ByteStream(answer.body))
        if self.error is not None and answer.status in (502, 504):
            raise self.error
        return refusal(self.kit, answer)

    def relayed(self, effect: Relay | Gather, body_class: Any) -> Any:
        """The provider's response with our stream in it."""
        self.books.stream(self.journey)
        response = self.response
        ours = [line for line in effect.out_headers if line[0].startswith(b"x-bursar-")]
        drop = {b"content-length"}
        if isinstance(effect, Relay):
            reader: Any = effect.reader
            self.ordered, self.most = effect.ordered, effect.most
            if not lines.get(effect.out_headers, b"content-encoding"):
                drop.add(b"content-encoding")  # the reader gives plain bytes
        else:
            drop.clear()
            reader = self.edges
        headers = [*[line for line in self.raw if line[0].lower() not in drop], *ours]
        return self.given(headers, body_class(self, reader, response.stream, self.pieces))

    def given(self, headers: Headers, stream: Any) -> Any:
        """The provider's response as the client's own library has it, with these in it."""
        response = self.response
        if type(response) is Came:
            made = self.kit.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)
            if b"".join([value for _, value in headers]).isascii():
                made.headers.encoding = "ascii"  # what it would find out by decoding each of them
            return made
        response.headers, response.stream = self.kit.Headers(headers), stream
        return response

    def left(self) -> None:
        """The caller went away while its own transport was at work (cancelled, interrupted, or a failure we do not know)."""
        if not self.away:
            return
        self.away = False
        self.books.stream(self.journey)
        value: Fault | Ended
        if self.response is None:
            value = Fault("cancelled", "the caller left before the answer", True, 0, self.since(self.sent_ns))
        else:
            value = Ended("client_gone", elapsed_us=self.since(self.sent_ns))
        self.books.leave(self.journey, value)

    def whole(self, chunks: list[bytes]) -> Ended:
        self.gathered = body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Ended("complete", body, True, None, self.first_us, self.since(self.sent_ns))

    def forgotten(self, came: T) -> T:
        """What came of a call of our own. The caller gets nothing of it, whatever happens next."""
        self.response = self.gathered = self.error = None
        return came

    def broken(self, error: Exception) -> Ended:
        return Ended("fault", fault=self.fault(error), first_byte_us=self.first_us, elapsed_us=self.since(self.sent_ns))

    def too_large(self, chunks: list[bytes], pieces: Any) -> None:
        self.edges, self.pieces = Edges(), (chunks, pieces)

    def learn(self, effect: Book) -> None:
        self.held = None
        if effect.sample is not None:
            self.shop.memory.ratios.learn(effect.sample)


def _ledger_fault(fault: LedgerFault) -> Fault:
    return Fault(fault.code, f"{fault.reason}; {fault.remedy}", False)


class SyncCall(Call):
    """Effects performed by the calling thread."""

    __slots__ = ()

    def hold(self, effect: Hold) -> Short | Held | Fault | None:
        try:
            short = self.shop.ledger.hold(effect.hold)
        except LedgerFault as fault:
            return _ledger_fault(fault)
        if not isinstance(short, Short):
            self.held = effect.hold
        return short

    def send(self, effect: Send) -> Head | Fault:
        out = self.goes_out(effect)
        if out is None:
            return self.no_door(effect)
        asked, request = out
        self.away = True
        try:
            response = self.lines.send(*asked) if asked is not None else None
            if response is None:
                response = self.inner.handle_request(request or self.outgoing(effect))
        except self.kit.TransportError as error:
            self.away = False
            fault = self.fault(error)
            return self.forgotten(fault) if effect.within_s else fault
        self.away = False
        return self.head(response)

    def gather(self, effect: Gather) -> Ended | None:
        chunks: list[bytes] = []
        size = 0
        stream = self.response.stream
        self.away = True
        try:
            pieces = iter(stream)
            for chunk in pieces:
                if not size:
                    self.first_us = self.since(self.sent_ns)
                chunks.append(chunk)
                size += len(chunk)
                if size > effect.limit:
                    if effect.own:
                        break
                    self.away = False
                    return self.too_large(chunks, pieces)
            stream.close()
        except self.kit.TransportError as error:
            stream.close()
            self.away = False
            return self.forgotten(self.broken(error)) if effect.own else self.broken(error)
        self.away = False
        return self.forgotten(self.whole(chunks)) if effect.own else self.whole(chunks)

    def book(self, effect: Book) -> Fault | None:
        self.learn(effect)
        try:
            self.shop.ledger.book(effect.settlement)
        except LedgerFault as fault:
            return _ledger_fault(fault)
        return None

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return True


class AsyncCall(Call):
    """The same on an event loop. Without asyncio's (trio's, say) the ledger is asked directly: some 30 us and a sync."""

    __slots__ = ()

    async def hold(self, effect: Hold) -> Short | Held | Fault | None:
        ledger = self.shop.ledger
        try:
            loop = running_loop()
            short = await ledger.hold_soon(effect.hold, loop) if loop else ledger.hold(effect.hold)
        except LedgerFault as fault:
            return _ledger_fault(fault)
        if not isinstance(short, Short):
            self.held = effect.hold
        return short

    async def send(self, effect: Send) -> Head | Fault:
        out = self.goes_out(effect)
        if out is None:
            return self.no_door(effect)
        asked, request = out
        self.away = True
        try:
            response = await self.lines.send(*asked) if asked is not None and running_loop() else None
            if response is None:
                response = await self.inner.handle_async_request(request or self.outgoing(effect))
        except self.kit.TransportError as error:
            self.away = False
            fault = self.fault(error)
            return self.forgotten(fault) if effect.within_s else fault
        self.away = False
        return self.head(response)

    async def gather(self, effect: Gather) -> Ended | None:
        chunks: list[bytes] = []
        size = 0
        stream = self.response.stream
        self.away = True
        try:
            pieces = stream.__aiter__()
            async for chunk in pieces:
                if not size:
                    self.first_us = self.since(self.sent_ns)
                chunks.append(chunk)
                size += len(chunk)
                if size > effect.limit:
                    if effect.own:
                        break
                    self.away = False
                    return self.too_large(chunks, pieces)
            await stream.aclose()
        except self.kit.TransportError as error:
            await stream.aclose()
            self.away = False
            return self.forgotten(self.broken(error)) if effect.own else self.broken(error)
        self.away = False
        return self.forgotten(self.whole(chunks)) if effect.own else self.whole(chunks)

    async def book(self, effect: Book) -> Fault | None:
        self.learn(effect)
        ledger = self.shop.ledger
        try:
            loop = running_loop()
            if loop:
                await ledger.book_soon(effect.settlement, loop)
            else:
                ledger.book(effect.settlement)
        except LedgerFault as fault:
            return _ledger_fault(fault)
        return None

    async def wait(self, seconds: float) -> bool:
        import anyio  # what httpx itself sleeps with, on any loop

        await anyio.sleep(seconds)
        return True


def origin_of(url: Any) -> Origin:
    secure = url.scheme == "https"
    return Origin(secure, url.raw_host.decode("ascii"), url.port or (443 if secure else 80))


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Edges:
    """A reader for bodies too large to hold back: lets everything through, remembers both ends."""

    def __init__(self) -> None:
        self.ends = (b"", b"")
        self.kept, self.done = b"", False

    def feed(self, chunk: bytes) -> bytes:
        head, tail = self.ends
        self.ends = (head + chunk[: EDGE - len(head)] if len(head) < EDGE else head, (tail + chunk)[-EDGE:])
        return chunk

    def finish(self) -> None: ...


def refusal(kit: Library, answer: Answer) -> Any:
    """An answer of our own, in the client's own library."""
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return kit.Response(answer.status, headers=headers, stream=kit.ByteStream(answer.body))
