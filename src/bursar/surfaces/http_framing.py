"""The responses of one connection as llhttp tells them apart: their framing, and what of it is refused. No socket, no clock."""

from __future__ import annotations

from typing import Literal, Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from ..domain.call import Headers

FaultKind = Literal[
    "connect", "connect_timeout", "tls", "dns", "reset", "headers_timeout", "idle_timeout", "total_timeout", "write_timeout",
    "protocol", "too_large", "pool_full",
]  # fmt: skip


class Garbled(Exception):
    """The response breaks the framing's rules, or our bounds."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FaultKind = kind


class Response(Protocol):
    """Whose bytes they are. `complete`: all of it has come, cleanly."""

    status: int
    headers: Headers
    content_length: int | None
    complete: bool
    bodyless: bool
    started: bool

    def put(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def wake(self) -> None: ...


class Framing:
    """The responses of one connection. One is awaited at a time; `response` is None between them."""

    __slots__ = ("_by_eof", "_clean", "_header_bytes", "_headers", "_interim", "_parser", "_quiet", "response", "usable")

    def __init__(self, header_bytes: int) -> None:
        self._header_bytes = header_bytes
        self._parser = HttpResponseParser(self)
        self._headers: Headers = []
        self._interim = self._by_eof = self._clean = False
        self._quiet = 0  # bytes since the last body byte: headers, chunk extensions, trailers
        self.usable = True
        self.response: Response | None = None

    def await_response(self, response: Response) -> None:
        self.response = response
        self._quiet = 0
        self._clean = False

    def feed(self, response: Response, data: bytes) -> Garbled | None:
        """What came, to its response; what is wrong with it."""
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return Garbled("protocol", "the provider switched protocols unasked")
        except HttpParserCallbackError as wrapped:
            found = wrapped.__context__
            if not isinstance(found, Garbled):
                raise (found or wrapped) from None  # our own bug, not the provider's
            return found
        except HttpParserError as error:
            return Garbled("protocol", f"not a well-formed HTTP/1.1 response: {error}")
        if self._quiet > self._header_bytes and not response.complete:
            return Garbled("too_large", f"more than {self._header_bytes} bytes of headers, chunk extensions or trailers")
        return None

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
            raise Garbled("too_large", f"the response's headers are over {self._header_bytes} bytes")
        length = index.get(b"content-length")
        coding = index.get(b"transfer-encoding")
        if coding is not None and (
            length is not None
            or coding.lower() != b"chunked"
            or parser.get_http_version() != "1.1"
            or (len(index) != len(headers) and sum(name == b"transfer-encoding" for name, _ in headers) > 1)
        ):
            raise Garbled("protocol", "the response's length is ambiguous")
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
