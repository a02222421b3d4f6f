"""The pooled HTTP/1.1 client of the data path: one `send` is at most one request to the provider. Knows no LLMs.

Nothing is read from the environment: no proxy, no netrc, no key log. (OpenSSL itself honours SSL_CERT_FILE for the
system's trust store.) No redirect is followed, nothing is resent, no cookie is kept.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from functools import partial
from typing import NamedTuple

from .http_common import Headers, Sweep, header_block
from .http_origin import Origin, Timeouts
from .http_responses import FaultKind, Line, UpstreamFault, UpstreamResponse

__all__ = ["FaultKind", "Headers", "Origin", "Pool", "Timeouts", "Unsent", "UpstreamFault", "UpstreamResponse"]


def verified_context() -> ssl.SSLContext:
    """Not `create_default_context`: that one writes session keys where SSLKEYLOGFILE says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    return context


_TARGET = re.compile(r"/[\x21-\x7e]*")
_METHOD = re.compile(r"[A-Z]{1,16}")


class _Place:
    """The connections to one origin."""

    __slots__ = ("_host_line", "first", "idle", "making", "open")

    def __init__(self, origin: Origin) -> None:
        self._host_line = b" HTTP/1.1\r\nhost: %b\r\n" % origin.authority.encode("ascii")
        self.idle: list[Line] = []  # the last used is used next, so that the others grow old and are closed
        self.open = 0
        self.making = 0
        self.first: dict[tuple[str, str], bytes] = {}  # request line and Host, made and checked once per target

    def first_lines(self, method: str, target: str) -> bytes:
        if not _TARGET.fullmatch(target) or not _METHOD.fullmatch(method):
            raise ValueError("not a method and a target that can be sent")
        first = method.encode() + b" " + target.encode() + self._host_line
        if len(self.first) >= 256:  # targets with a model or an id in them
            self.first.clear()
        self.first[method, target] = first
        return first


class Unsent(NamedTuple):
    """A request that waits for a connection."""

    origin: Origin
    place: _Place
    method: str
    head: bytes
    body: bytes
    timeouts: Timeouts


# A request without a body goes without a length, but for these a provider may insist on one.
_BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))


class Pool:
    """Connections to providers, at most `per_origin` each: over it `send` fails at once with `pool_full`."""

    def __init__(
        self,
        *,
        per_origin: int = 512,
        idle_s: float = 15.0,
        header_bytes: int = 64 << 10,
        ssl_context: ssl.SSLContext | None = None,
        allow_http: bool = True,
    ) -> None:
        if ssl_context is not None and (ssl_context.verify_mode != ssl.CERT_REQUIRED or not ssl_context.check_hostname):
            raise ValueError("the TLS context must verify certificates and host names")
        self._per_origin = per_origin
        self._idle_s = idle_s
        self._header_bytes = header_bytes
        self._context = ssl_context
        self._allow_http = allow_http
        self._places: dict[Origin, _Place] = {}
        self.lines: set[Line] = set()
        self.sweep: Sweep | None = None
        self._paced: dict[int, Timeouts] = {}  # by identity: there is one per provider, and hashing one costs 1 µs
        self._closed = False

    @property
    def connections(self) -> int:
        return len(self.lines)

    @property
    def idle(self) -> int:
        return sum(len(place.idle) for place in self._places.values())

    async def send(
        self, origin: Origin, method: str, target: str, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> UpstreamResponse:
        """One request; the response once its headers are in. Host, length and connection headers are ours.

        Whoever gets a response reads it to its end or abandons it: the connection is kept for it until then.
        """
        response = self.begin(origin, method, target, headers, body, timeouts)
        if isinstance(response, Unsent):
            response = await self.begin_new(response)
        try:
            await response.headed()
        except asyncio.CancelledError:
            response.abandon()
            raise
        if response.fault is not None:
            raise response.fault
        return response

    def begin(
        self, origin: Origin, method: str, target: str, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> UpstreamResponse | Unsent:
        """One request on a connection that lies idle: the response that is to come. Where none does, one must be made first: by
        `begin_new`. ValueError for what cannot be sent."""
        place = self._places.get(origin)
        if place is None:
            place = self._places[origin] = _Place(origin)
        first = place.first.get((method, target)) or place.first_lines(method, target)
        length = b"content-length: %d\r\n" % len(body) if body or method in _BODY_METHODS else b""
        head = header_block(first, headers, length)
        if id(timeouts) not in self._paced:
            self._pace(timeouts)
        idle = place.idle
        while idle:
            line = idle.pop()
            if line.usable:
                return line.ask(method, head, body, timeouts)
        return Unsent(origin, place, method, head, body, timeouts)

    async def begin_new(self, unsent: Unsent) -> UpstreamResponse:
        """The request on a new connection. UpstreamFault when that cannot be made."""
        line = await self._connect(unsent.origin, unsent.place, unsent.timeouts)
        return line.ask(unsent.method, unsent.head, unsent.body, unsent.timeouts)

    def _pace(self, timeouts: Timeouts) -> None:
        """The sweep must be finer than the shortest deadline; figured out when the deadlines change, not per request."""
        if self._closed:
            raise UpstreamFault("connect", "the pool is closed", False)
        shortest = min(timeouts.headers_s, timeouts.idle_s, timeouts.total_s, timeouts.write_s, self._idle_s)
        period = max(0.01, min(0.5, shortest / 4))
        if self.sweep is None:
            self.sweep = Sweep(asyncio.get_running_loop(), period, self._judge)
        else:
            self.sweep.hurry(period)
        if len(self._paced) >= 256:
            self._paced.clear()
        self._paced[id(timeouts)] = timeouts

    async def _connect(self, origin: Origin, place: _Place, timeouts: Timeouts) -> Line:
        if self._closed:
            raise UpstreamFault("connect", "the pool is closed", False)
        if place.open + place.making >= self._per_origin:
            raise UpstreamFault("pool_full", f"{self._per_origin} requests to {origin.host} are under way already", False)
        secure = origin.scheme == "https"
        if secure:
            if self._context is None:
                self._context = verified_context()
        elif not self._allow_http and origin.scheme == "http":
            raise UpstreamFault("tls", "plain http is not allowed", False)
        loop = asyncio.get_running_loop()
        place.making += 1
        try:
            async with asyncio.timeout(timeouts.connect_s):
                made = partial(Line, self, place, self._header_bytes)
                if origin.scheme == "unix":
                    _, line = await loop.create_unix_connection(made, origin.host)
                    return line
                _, line = await loop.create_connection(
                    made,
                    origin.host,
                    origin.port,
                    ssl=self._context if secure else None,
                    server_hostname=origin.host if secure else None,
                )
        except TimeoutError:
            # Also what the system itself reports (ETIMEDOUT).
            raise UpstreamFault("connect_timeout", f"no connection to {origin.authority} in {timeouts.connect_s} s", False) from None
        except socket.gaierror as error:
            raise UpstreamFault("dns", f"{origin.host}: {error.strerror or error}", False) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise UpstreamFault("tls", f"{origin.authority}: {reason}", False) from None
        except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
            kind: FaultKind = "tls" if secure else "connect"
            raise UpstreamFault(kind, f"{origin.authority} closed the connection: {error.strerror or error}", False) from None
        except OSError as error:
            raise UpstreamFault("connect", f"{origin.authority}: {error.strerror or error}", False) from None
        except UnicodeError as error:
            raise UpstreamFault("dns", f"{origin.host}: {error}", False) from None
        finally:
            place.making -= 1
        if self._closed:
            line.transport.abort()
            raise UpstreamFault("connect", "the pool is closed", False)
        return line

    # -- what a line tells ---------------------------------------------------------------------------------------------

    def opened(self, line: Line, place: _Place) -> None:
        self.lines.add(line)
        place.open += 1

    def free(self, line: Line, place: _Place) -> None:
        """Clean after a whole response: may carry the next request."""
        if self._closed:
            line.transport.abort()
            return
        place.idle.append(line)

    def gone(self, line: Line, place: _Place) -> None:
        if line in self.lines:
            self.lines.discard(line)
            place.open -= 1
        if line in place.idle:
            place.idle.remove(line)

    def _judge(self, now: float) -> None:
        assert self.sweep is not None
        slack = self.sweep.period
        for line in tuple(self.lines):
            if line.response is not None:
                line.judge(now - slack)
            elif now - line.since > self._idle_s:
                line.usable = False
                line.transport.close()

    async def close(self) -> None:
        """Break off what is under way, close what is idle."""
        self._closed = True
        self._paced.clear()
        for line in tuple(self.lines):
            line.break_off(UpstreamFault("reset", "the pool was closed", True))
        for _ in range(100):
            if not self.lines:
                break
            await asyncio.sleep(0.01)
        if self.sweep is not None:
            self.sweep.stop()
