"""Bytes to requests: llhttp's parser (httptools) and the strictness it lacks. No socket, no clock but the arrival stamp.

llhttp itself refuses bare LF, bare CR, folded headers, bad chunk sizes, `Content-Length` twice or beside
`Transfer-Encoding`. It does not look at Host, at HTTP/1.0 with chunks, at codings before `chunked`, and bounds nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from ..domain.shape import Shape
from .http_common import HOP_BY_HOP, Headers, Lines
from .http_heads import Head, Heads, Said, look, may_be_kept


@dataclass(slots=True, frozen=True)
class ServerLimits:
    """What a client may take of us. Bytes, counts and seconds."""

    body_bytes: int = 20 << 20
    header_bytes: int = 32 << 10
    header_count: int = 100
    target_bytes: int = 8 << 10
    header_s: float = 10  # from a request's first byte (or the connection's start) to the end of its headers
    body_idle_s: float = 10  # in each such span a body must make progress, at 1 KiB/s at least
    idle_s: float = 75
    write_stall_s: float = 60
    connections: int = 10_000
    body_total_bytes: int = 512 << 20  # all buffered request bodies together; 503 over it


class BodyMemory:
    """What the buffered bodies of all connections take together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Refused(Exception):
    """This request is answered by us, and its connection closed."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Incoming(Shape, frozen=True, gc=False):
    """A whole request. `headers` as received, without Content-Length, which the body itself says; not to be changed: requests
    with the same head share one list. `index` has the last of each name."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    peer: tuple[object, ...] | None
    http_minor: int
    received_ns: int
    tls: bool
    index: dict[bytes, bytes]
    keep_alive: bool = True

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of that (lower-case) name."""
        if name not in self.index:
            return None
        for found, value in self.headers:
            if found == name:
                return value
        return None


# A piece fed at once while we cannot know where the message ends: bounds what is parsed ahead of a limit's check.
SLICE = 16 << 10
PIPELINED = 100  # requests taken from one slice; more is nobody's client
CHUNK_OVERHEAD = 8 << 10  # extensions and trailers of a body together; nobody sends any
CHUNK_LINE = 16  # size in hex, CRLF, and the CRLF after the data

SLASH = ord("/")
METHODS = {m.encode(): m for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Narrower than RFC 3986's reg-name: no percent-encoding, no sub-delims. Nobody's host has any, and a comma in it is the
# trace of two headers merged on the way.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_SINGLE = (b"host", b"content-length", b"transfer-encoding", b"expect")


def _full() -> Refused:
    return Refused(503, "body_memory", "too many request bodies are being read at once; try again in a moment")


def _bad(code: str, message: str) -> Refused:
    return Refused(400, code, message)


class RequestReader(asyncio.Protocol):
    """Parser callbacks and the state of the request being read. Whole ones wait in `queue`.

    A base class of the connection and not a part of it, because llhttp's callbacks are bound methods: one object less on
    every header.
    """

    __slots__ = (
        "_again", "_begun", "_body", "_chunked", "_chunks", "_expected", "_head_size", "_headers", "_headers_kept", "_heads", "_index",
        "_keep_alive", "_last", "_limits", "_memory", "_method", "_minor", "_parser", "_raw", "_said", "_size", "_upgrade", "_url",
        "_wait", "in_body", "peer", "queue", "tls",
    )  # fmt: skip

    def __init__(self, limits: ServerLimits, memory: BodyMemory, heads: Heads) -> None:
        self._limits = limits
        self._memory = memory
        self._heads = heads
        self._parser = HttpRequestParser(self)
        self.queue: list[Incoming] = []
        self.peer: tuple[object, ...] | None = None
        self.tls = False
        self._method = ""
        self._minor = 1
        self._index: dict[bytes, bytes] = {}
        self._headers_kept: Headers = []
        self._keep_alive = True
        self._last: Head | None = None  # of the request before
        self._expected = self._head_size = self._chunks = 0
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._size = 0  # of the body so far
        self._raw = 0  # bytes of this message so far, framing included
        self.in_body = self._begun = self._chunked = self._wait = self._upgrade = False
        self._said: Said | None = None  # the head of the request being read, where it came in one piece
        self._again: Head | None = None  # that head, where it came before: llhttp does not see this request

    @property
    def mid_request(self) -> bool:
        """Bytes of a request have come that is not whole yet."""
        return self._begun or self._raw > 0

    def wants_continue(self) -> bool:
        """Once per request: it said `Expect: 100-continue` and now waits for our word."""
        wait = self._wait and self.in_body and self._size == 0
        self._wait = False
        return wait

    def feed(self, data: bytes) -> bytes:
        """Parse until a request is whole; what was not looked at yet comes back. Raises `Refused`."""
        if self._again is not None:
            return self._feed_again(data, 0)
        if not self._begun and not self._raw:
            head = self._last
            found = head.again(data) if head is not None else None
            if found is None:
                head, found = self._look(data)
            if head is not None and found is not None:
                length, at = found
                end = at + length
                memory = self._memory
                if end > len(data) or length > self._limits.body_bytes or memory.used + length > memory.limit:
                    return self._begin_again(head, length, at, data)
                memory.used += length  # as nearly always: all of it has come, and there is room
                self._whole(head, data[at:end], 1, True)
                return data[end:]
        size = len(data)
        if size <= SLICE:
            self._feed(data)
            return b""
        view = memoryview(data)
        at = 0
        while at < size:
            if self.queue:
                return bytes(view[at:])
            # A declared length says where the message ends: all of it at once, and not a byte of the next one.
            step = self._expected - self._size if self.in_body and not self._chunked else SLICE
            self._feed(view[at : at + step])
            at += step
        return b""

    def _look(self, data: bytes) -> tuple[Head | None, tuple[int, int] | None]:
        """The head at the start of these bytes, where it came before on whichever connection, its length and where its body begins."""
        self._said = said = look(data)
        self._last = head = self._heads.get(said) if said is not None else None
        return head, (said.length, said.body_at) if said is not None else None

    def _begin_again(self, head: Head, length: int, at: int, data: bytes) -> bytes:
        if length > self._limits.body_bytes:
            raise self._too_large()
        self._again, self._expected = head, length
        self._raw = at
        self.in_body = True
        return self._feed_again(data, at)

    def _feed_again(self, data: bytes, at: int) -> bytes:
        """The body of a request whose head came before; what follows it comes back."""
        end = at + self._expected - self._size
        piece = data[at:end] if at or end < len(data) else data
        if piece:
            self._raw += len(piece)
            self.on_body(piece)
        if self._size < self._expected:
            return b""
        head = self._again
        assert head is not None
        self._queue(head, 1, True)
        return data[end:]

    def _feed(self, piece: bytes | memoryview) -> None:
        self._raw += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            self._stay_http1(bytes(piece[upgrade.args[0] :]))
            return
        except HttpParserCallbackError as wrapped:
            # One of the callbacks below raised: our refusal, or else our own bug, which must not pass for the client's.
            raise (wrapped.__context__ or wrapped) from None
        except HttpParserError as error:
            if self.queue and not self.queue[-1].keep_alive:
                return  # what follows the last request of a connection is nobody's business
            raise _bad("bad_request", f"not a well-formed request: {error}") from None
        if self.in_body:
            if self._chunked:
                overhead = self._raw - self._head_size - self._size - self._chunks * CHUNK_LINE
                if overhead > CHUNK_OVERHEAD:
                    raise _bad("chunk_overhead", f"more than {CHUNK_OVERHEAD} bytes of chunk extensions and trailers")
        elif self._raw:
            self._check_open_head()

    def _check_open_head(self) -> None:
        limits = self._limits
        if len(self._headers) > limits.header_count:
            raise Refused(431, "too_many_headers", f"more than {limits.header_count} headers")
        if self._raw - len(self._url) > limits.header_bytes + 32:
            if not self._url:
                raise _bad("bad_request", "no request line in all that was sent")
            raise Refused(431, "headers_too_large", f"the headers are over {limits.header_bytes} bytes")

    def _stay_http1(self, rest: bytes) -> None:
        """`Upgrade` may be ignored (RFC 9110 section 7.8), and has to be: Java's own client asks for h2c on its every
        first request. llhttp takes the body of such a request for the other protocol, so it is fed again without the ask.
        """
        connection = self._index.get(b"connection", b"").lower()
        lines = [b"%b %b HTTP/1.%d" % (self._method.encode(), self._url, self._minor)]
        lines += [b"%b: %b" % header for header in self._headers_kept if header[0] not in _NOT_UPGRADING]
        if b"close" in connection:
            lines.append(b"connection: close")
        elif b"keep-alive" in connection:
            lines.append(b"connection: keep-alive")
        self._reset()
        self._parser = HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # -- llhttp's callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # Also in the middle of a piece, behind the request before: what comes next is then no message's start.
        self._begun = True

    def on_url(self, url: bytes) -> None:
        if self._url:
            url = self._url + url
        self._url = url
        if len(url) > self._limits.target_bytes:
            raise Refused(414, "target_too_long", f"the target is over {self._limits.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves the blanks after a value. Trailers come here too, into a list that is thrown away.
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        headers = self._headers
        limits = self._limits
        parser = self._parser
        self._index = index = dict(headers)
        if len(headers) > limits.header_count:
            raise Refused(431, "too_many_headers", f"more than {limits.header_count} headers")
        if self._raw > limits.header_bytes and _size_of(headers) > limits.header_bytes:
            raise Refused(431, "headers_too_large", f"the headers are over {limits.header_bytes} bytes")
        if len(index) != len(headers):
            names = [name for name, _ in headers]
            for single in _SINGLE:
                if names.count(single) > 1:
                    raise _bad("duplicate_header", f"more than one {single.decode()} header")
        self._keep_alive = keep_alive = parser.should_keep_alive()
        if keep_alive and b"connection" not in index:
            self._minor = 1  # by llhttp's rule only 1.1 is kept alive without being asked; saves making a string
        else:
            version = parser.get_http_version()
            if version == "1.1":
                self._minor = 1
            elif version == "1.0":
                self._minor = 0
            else:
                raise Refused(505, "http_version", f"HTTP {version} is not spoken here, use 1.1")
        method = METHODS.get(parser.get_method())
        if method is None:
            raise Refused(501, "method_not_supported", "this method is not served here")
        self._method = method
        host = index.get(b"host")
        if host is None:
            if self._minor:
                raise _bad("no_host", "the Host header is missing")
        elif host not in _HOSTS_SEEN:
            if not _HOST.fullmatch(host):
                raise _bad("bad_host", "the Host header is not a host name with an optional port")
            if len(_HOSTS_SEEN) < 64:
                _HOSTS_SEEN.add(host)
        url = self._url
        if url[0] != SLASH and not (url == b"*" and method == "OPTIONS"):
            raise _bad("bad_target", "the target must be a path; this is no forward proxy")
        if b"#" in url:
            raise _bad("bad_target", "the target holds a fragment")
        length = index.get(b"content-length")
        if length is not None:
            # llhttp has refused whatever is not digits, and a second length.
            self._expected = int(length)
            if self._expected > limits.body_bytes:
                raise self._too_large()
        else:
            self._expected = 0
        coding = index.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                raise _bad("ambiguous_length", "Content-Length and Transfer-Encoding in one request")
            if self._minor == 0:
                raise _bad("ambiguous_length", "Transfer-Encoding in an HTTP/1.0 request")
            if coding.lower() != b"chunked":
                raise _bad("transfer_coding", "the only transfer coding known here is chunked")
            self._chunked = True
            self._chunks = 0
            self._head_size = _size_of(headers) + len(self._url)
        expect = index.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise Refused(417, "expectation_failed", "the only expectation known here is 100-continue")
            self._wait = self._minor == 1
        self._upgrade = parser.should_upgrade()
        self._headers_kept, self._headers = headers, []
        self.in_body = True

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, data: bytes) -> None:
        size = len(data)
        self._body.append(data)
        self._size += size
        memory = self._memory
        memory.used += size
        if self._size > self._limits.body_bytes:
            raise self._too_large()
        if memory.used > memory.limit:
            raise _full()

    def _too_large(self) -> Refused:
        return Refused(413, "body_too_large", f"the body is over {self._limits.body_bytes} bytes")

    def on_message_complete(self) -> None:
        if self._upgrade:
            return  # feed_data raises HttpParserUpgrade next, and _stay_http1 reads it again
        path, _, query = self._url.decode("ascii").partition("?")
        headers = self._headers_kept
        if b"content-length" in self._index:
            headers = [line for line in headers if line[0] != b"content-length"]
        said = self._said
        kept = said is not None and self._minor and self._keep_alive and may_be_kept(self._index, said, len(self._headers_kept))
        self._last = head = Head(self._method, path, query, Lines(headers), self._index, said if kept else None)
        if head.said is not None:
            self._heads.keep(head.said, head)
        self._queue(head, self._minor, self._keep_alive)

    def _queue(self, head: Head, minor: int, keep_alive: bool) -> None:
        body = self._body
        self._whole(head, body[0] if len(body) == 1 else b"".join(body), minor, keep_alive)
        self._reset()
        if len(self.queue) > PIPELINED:
            raise _bad("too_many_pipelined", f"more than {PIPELINED} requests sent ahead")

    def _whole(self, head: Head, body: bytes, minor: int, keep_alive: bool) -> None:
        self.queue.append(Incoming(
            head.method, head.path, head.query, head.headers, body, self.peer, minor, time.monotonic_ns(), self.tls, head.index,
            keep_alive,
        ))  # fmt: skip

    def forget(self) -> None:
        """The connection is lost: give back what its unhandled bodies took."""
        self._memory.used -= self._size + sum(len(incoming.body) for incoming in self.queue)
        self._reset()
        self.queue.clear()


_NOT_UPGRADING = HOP_BY_HOP - {b"transfer-encoding", b"proxy-authorization", b"te", b"trailer"}
_HOSTS_SEEN: set[bytes] = set()


def _size_of(headers: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)
