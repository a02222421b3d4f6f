"""The short way of a wrapped client to its provider, on a connection of our own: whose transport may take it, what goes out on it, and
what came back. httpx's own way, over httpcore and h11, costs three times the CPU. No socket here."""

from __future__ import annotations

import logging
import os
import re
import ssl
import sys
from collections.abc import Sequence
from types import FunctionType
from typing import Any, NamedTuple

from ..domain.call import Headers
from .http_framing import Framing

OFF = "BURSAR_SDK_FAST"  # set to 0: the client's own transport, always
HEADER_BYTES = 100 << 10  # of a response, as in httpcore
READ_BYTES = 64 << 10
SPLIT_BYTES = 16 << 10  # from here on, a second write is cheaper than a copy
SHAPES_MAX = 256

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
# Whoever sends one of these wants something of the connection that we do not give.
_ASIDE = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings", b"proxy-authorization"))
_METHODS = frozenset(("POST", "GET"))


class Origin(NamedTuple):
    """Whom a connection leads to."""

    secure: bool
    host: str
    port: int


class Terms(NamedTuple):
    """What a client's own connections would keep to, and ours do."""

    context: ssl.SSLContext | None
    most: int
    most_idle: int
    expiry_s: float | None
    options: tuple[Any, ...]  # of the socket


class Deadlines(NamedTuple):
    """Seconds; None: as long as it takes."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None


NO_DEADLINES = Deadlines(None, None, None, None)


def deadlines(extensions: Any) -> Deadlines:
    found = extensions.get("timeout")
    return Deadlines(found.get("connect"), found.get("read"), found.get("write"), found.get("pool")) if found else NO_DEADLINES


class Plain:
    """Whether a client's transport is its library's own and has no wishes beyond those in Terms. Asked for every call, as somebody
    may have put himself into the library since (a tracer, a test's stand-in): then he has it."""

    def __init__(self, inner: Any, library: str, face: str, pool_name: str, way: str) -> None:
        self.terms: Terms | None = None
        self._way = way
        self._inner, self._pool = inner, getattr(inner, "_pool", None)
        self._asked: tuple[type, ...] = (type(inner), type(self._pool))
        self._loggers: tuple[logging.Logger, ...] = ()
        core = library.replace("httpx", "httpcore")
        transports, pools = sys.modules.get(f"{library}._transports.default"), sys.modules.get(core)
        if os.environ.get(OFF) == "0" or transports is None or pools is None or self._pool is None:
            return
        own, kept = getattr(transports, face, None), getattr(pools, pool_name, None)
        backends = ("SyncBackend", "AutoBackend")
        pool = self._pool
        if self._asked != (own, kept) or type(getattr(pool, "_network_backend", None)).__name__ not in backends:
            return
        wishes = [getattr(pool, name, "?") for name in ("_proxy", "_http1", "_http2", "_retries", "_local_address", "_uds")]
        known = [getattr(pool, name, "?") for name in ("_ssl_context", "_max_connections", "_max_keepalive_connections")]
        if wishes != [None, True, False, 0, None, None] or "?" in known or not hasattr(pool, "_keepalive_expiry"):
            return
        context = known[0]
        if face.startswith("Async") and context is not None and type(context) is not ssl.SSLContext:
            return  # one that may wait when it is asked (truststore)
        self._functions = [getattr(kind, way, None) for kind in self._asked]
        rooms = f"{library}._transports.default", f"{core}.{'_async' if 'async' in way else '_sync'}.connection_pool"
        if not all(
            type(one) is FunctionType and one.__globals__ is getattr(sys.modules.get(room), "__dict__", None)
            for one, room in zip(self._functions, rooms)
        ):
            return
        self._loggers = tuple(logging.getLogger(f"{core}.{name}") for name in ("connection", "http11"))
        options = getattr(pool, "_socket_options", None)
        self.terms = Terms(context, known[1], known[2], pool._keepalive_expiry, tuple(options or ()))

    def __call__(self, request: Any) -> bool:
        if self.terms is None:
            return False
        way = self._way
        transport, pool = self._asked
        if [getattr(transport, way), getattr(pool, way)] != self._functions or way in vars(self._inner) or way in vars(self._pool):
            return False
        for logger in self._loggers:
            if logger.isEnabledFor(logging.DEBUG):
                return False  # somebody reads what httpcore says of each step
        extensions = request.extensions
        return not extensions or (len(extensions) == 1 and "timeout" in extensions)


class Names(NamedTuple):
    """What the names of a request's headers say: where its length and its `Connection` stand, if they do."""

    length: int | None
    connection: int | None


_shapes: dict[tuple[bytes, ...], Names | None] = {}  # names as clients spell them, in their order; None: not for this way


def _shape(names: tuple[bytes, ...]) -> Names | None:
    low = [name.lower() for name in names]
    once = [b"host", b"content-length", b"connection"]
    if low.count(b"host") != 1 or any(low.count(name) > 1 for name in once) or not _ASIDE.isdisjoint(low):
        return None
    if not all(_NAME.fullmatch(name) for name in names):
        return None
    return Names(*[low.index(name) if name in low else None for name in once[1:]])


def head(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], size: int) -> bytes | None:
    """Request line and headers as they were made, or None for what is not to go this way: the client's own transport refuses it,
    or knows how."""
    if method not in _METHODS or not _TARGET.fullmatch(target):
        return None
    names = tuple([name for name, _ in headers])
    try:
        shape = _shapes[names]
    except KeyError:
        if len(_shapes) >= SHAPES_MAX:
            _shapes.clear()
        shape = _shapes[names] = _shape(names)
    if shape is None or (shape.connection is not None and headers[shape.connection][1] != b"keep-alive"):
        return None
    if (shape.length is None and size) or (shape.length is not None and headers[shape.length][1] != b"%d" % size):
        return None
    text = b"\r\n".join(map(b": ".join, headers))
    # More CR, LF and NUL than we put there, or blanks around a value?
    if len(text) - len(text.translate(None, b"\r\n\0")) != 2 * len(headers) - 2:
        return None
    if b":  " in text or b": \t" in text or b"\t\r" in text or text[-1:] in (b" ", b"\t"):
        return None
    if b" \r" in text and b" \r" in text.replace(b": \r", b":\r"):
        return None
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method.encode(), target, text)


class Pool:
    """What the connections of one client's transport share, whichever way they wait."""

    def __init__(self, plain: Plain, terms: Terms, kit: Any) -> None:
        self.plain, self.kit, self._terms = plain, kit, terms

    def _first(self, origin: Origin, request: Any, method: str, target: bytes, headers: Headers, size: int) -> bytes | None:
        """What a request begins with; None: it is not for this way."""
        if not self.plain(request) or (origin.secure and self._terms.context is None):
            return None
        return head(method, target, headers, size)


class Came(NamedTuple):
    """A response of a connection of our own, in place of the library's until all is known that will stand in it."""

    status_code: int
    raw: Headers  # as they were sent
    headers: Headers  # with their names in lower case
    extensions: dict[str, Any]
    stream: Any


class Arrived:
    """What has come of a response. Its connection refers to it, so it must not refer to whoever reads it: he may be forgotten."""

    __slots__ = ("bodyless", "complete", "content_length", "extensions", "headers", "pieces", "raw", "size", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.raw: Headers = []
        self.content_length: int | None = None
        self.complete = self.started = self.bodyless = False
        self.pieces: list[bytes] = []
        self.size = 0
        self.extensions: dict[str, Any] = {}

    def put(self, data: bytes) -> None:
        self.pieces.append(data)
        self.size += len(data)

    def finish(self) -> None:
        self.complete = True

    def wake(self) -> None: ...

    def given(self, stream: Any) -> Came:
        return Came(self.status, self.raw, self.headers, self.extensions, stream)

    def taken(self) -> bytes:
        """What has come of the body and was not taken yet."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        return data


class Told(Framing):
    """A connection's responses with their headers as they were spelled."""

    __slots__ = ("_raw", "_reason")
    response: Arrived | None

    def __init__(self) -> None:
        Framing.__init__(self, HEADER_BYTES)
        self._raw: Headers = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        value = value.rstrip()
        self._raw.append((name, value))
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        raw, self._raw = self._raw, []
        reason, self._reason = self._reason, b""
        response = self.response
        if response is None or response.started:
            return
        Framing.on_headers_complete(self)
        if response.started:
            response.raw = raw
            version = b"HTTP/" + self._parser.get_http_version().encode()
            response.extensions = {"http_version": version, "reason_phrase": reason, "network_stream": self}

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's network stream, for those who look for the address or the certificate in a response's extensions."""
        raise NotImplementedError


ENDED_EARLY = "peer closed connection without sending complete message body"
NO_ANSWER = "Server disconnected without sending a response."
