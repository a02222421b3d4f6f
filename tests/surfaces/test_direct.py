"""A wrapped client's own connections, against servers of bytes: whose transport they stand in for, what they send and read, what they
refuse, and that they keep to what the client was given."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import trustme
import uvloop
from wrapped import QUESTION, Bench, bench, prices

import bursar
from bursar.surfaces import direct, transport
from bursar.surfaces.calls import origin_of
from bursar.surfaces.direct import Arrived, Came, Told, head
from bursar.surfaces.http_framing import Garbled

__all__ = ["bench", "prices"]
faces = pytest.mark.parametrize("face", ["sync", "async", "uvloop"])
library = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
WHOLE = b"HTTP/1.1 200 Fine\r\nX-Their-Own: kept\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = {
    "a length": WHOLE,
    "chunks": CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    "chunks and trailers": CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n",
    "an interim answer before it": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
}
BY_EOF = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
BAD = {
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length 5, 5": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length +5": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size 0x3": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk lines by bare LF": CHUNKED + b"5\nhello\n0\n\n",
    "chunk data without CRLF": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "chunk size past 64 bits": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a header of 200 KiB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (200 << 10) + b"\r\nContent-Length: 0\r\n\r\n",
    "a chunk extension of 1 MiB": CHUNKED + b"3;" + b"x" * (1 << 20) + b"\r\nabc\r\n0\r\n\r\n",
    "protocols switched": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9\r\n",
}


class Server:
    """Runs `script` for each connection in a thread of its own, and closes it then. Counts connections and requests."""

    def __init__(self, script: Callable[[Server, socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self.script, self.context = script, context
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended = threading.Semaphore(0)  # connections whose client has closed them
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                self.script(self, connection)
            except OSError:
                self.ended.release()

    def read(self, connection: socket.socket) -> bytes:
        """One request; empty where the client has closed."""
        got = b""
        while b"\r\n\r\n" not in got:
            piece = connection.recv(65536)
            if not piece:
                self.ended.release()
                return b""
            got += piece
        start, _, body = got.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in start.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += connection.recv(1 << 20)
        self.requests.append(start + b"\r\n\r\n" + body)
        return start

    def close(self) -> None:
        self._listener.close()


def says(answer: bytes) -> Callable[[Server, socket.socket], None]:
    """Answers each request so."""

    def script(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            connection.sendall(answer)

    return script


def closing(answer: bytes) -> Callable[[Server, socket.socket], None]:
    """Answers one request so and closes."""

    def script(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(answer)

    return script


@contextlib.contextmanager
def serving(script: Callable[[Server, socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(script, context)
    try:
        yield server
    finally:
        server.close()


def client(face: str, library: ModuleType, inner: Any = None, **options: Any) -> Any:
    """A client whose every request goes over connections of our own, or fails."""
    kit = transport.kit_of(library.Client)
    assert kit is not None
    if face == "sync":
        inner = inner or library.HTTPTransport(**options)
        lines = kit.lines(inner)

        class Only(library.BaseTransport):  # type: ignore[name-defined]
            def handle_request(self, request: Any) -> Any:
                url = request.url
                came = lines.send(origin_of(url), request, request.method, url.raw_path, request.headers.raw, request.read())
                assert came is not None, "it went the library's way"
                return given(library, came)

            def close(self) -> None:
                lines.close()

        return library.Client(transport=Only(), trust_env=False)
    inner = inner or library.AsyncHTTPTransport(**options)
    lines = kit.async_lines(inner)

    class OnlyAsync(library.AsyncBaseTransport):  # type: ignore[name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            url = request.url
            came = await lines.send(origin_of(url), request, request.method, url.raw_path, request.headers.raw, request.read())
            assert came is not None, "it went the library's way"
            return given(library, came)

        async def aclose(self) -> None:
            lines.close()

    return library.AsyncClient(transport=OnlyAsync(), trust_env=False)


def given(library: ModuleType, came: Came) -> Any:
    return library.Response(came.status_code, headers=came.raw, stream=came.stream, extensions=came.extensions)


def run(face: str, work: Any) -> Any:
    """On a loop of that kind; whatever a callback let escape is an error of the test."""
    escaped: list[Any] = []

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if face == "uvloop" else asyncio.new_event_loop) as runner:
        result = runner.run(main())
    assert escaped == []
    return result


def ask(
    face: str, server: Server, library: ModuleType = httpx2, times: int = 1, *, body: bytes = b"{}", timeout: Any = 20, **options: Any
) -> Any:
    """The last of so many answers, read whole."""
    if face == "sync":
        with client(face, library, **options) as plain:
            return [plain.post(server.url, content=body, timeout=timeout) for _ in range(times)][-1]

    async def work() -> Any:
        async with client(face, library, **options) as plain:
            return [await plain.post(server.url, content=body, timeout=timeout) for _ in range(times)][-1]

    return run(face, work())


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_an_answer_is_the_same_at_every_cut(answer: bytes) -> None:
    """Twice on one connection; and it may be kept, for nothing is left over."""
    for cut in range(1, len(answer)):
        line = Told()
        for _ in range(2):
            response = Arrived()
            line.await_response(response)
            assert not response.complete
            for piece in (answer[:cut], answer[cut:]):
                assert line.feed(response, piece) is None
            assert response.complete and response.taken() == b"hello" and line._clean
            assert response.status == 200 and all(name != b"link" for name, _ in response.headers)


@faces
@library
@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_every_framing_arrives_and_the_connection_is_used_again(face: str, library: ModuleType, answer: bytes) -> None:
    with serving(says(answer)) as server:
        got = ask(face, server, library, times=3)
        assert got.content == b"hello" and got.status_code == 200
        assert server.connections == 1 and len(server.requests) == 3


@faces
def test_an_answer_ended_by_the_connections_end_is_whole(face: str) -> None:
    with serving(closing(BY_EOF)) as server:
        assert ask(face, server, times=2).content == b"hello"
        assert server.connections == 2


@faces
@library
def test_the_answer_says_what_the_librarys_own_would(face: str, library: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Version, reason, headers as they were spelled, addresses, and the library's line in the log."""
    with serving(says(WHOLE)) as server, caplog.at_level(logging.INFO):
        got = ask(face, server, library)
        assert (got.http_version, got.reason_phrase) == ("HTTP/1.1", "Fine")
        assert (b"X-Their-Own", b"kept") in got.headers.raw and got.headers["x-their-own"] == "kept"
        assert f'HTTP Request: POST {server.url} "HTTP/1.1 200 Fine"' in caplog.text
        assert {"network_stream", "http_version", "reason_phrase"} == got.extensions.keys()


@faces
@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_what_is_ambiguous_or_too_large_is_refused_and_its_connection_closed(face: str, answer: bytes) -> None:
    with serving(says(answer)) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            ask(face, server)
        assert server.ended.acquire(timeout=20)


@faces
@pytest.mark.parametrize("answer", [WHOLE[:-2], CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n", WHOLE[:30], b""], ids=range(5))
def test_an_answer_that_breaks_off_is_told(face: str, answer: bytes) -> None:
    with serving(closing(answer)) as server, pytest.raises(httpx2.RemoteProtocolError):
        ask(face, server)


@faces
@pytest.mark.parametrize("before", [0, 1], ids=["new", "used before"])
@pytest.mark.parametrize("answer", [b"", WHOLE[:30], WHOLE[:-2], b"SSH-2.0-OpenSSH_9\r\n"], ids=range(4))
def test_a_request_that_was_sent_is_never_sent_again_by_itself(face: str, before: int, answer: bytes) -> None:
    """One hold, one request: whoever had no answer may have been billed all the same, also where the connection was an old one."""
    def script(server: Server, connection: socket.socket) -> None:
        for _ in range(before):
            server.read(connection)
            connection.sendall(WHOLE)
        server.read(connection)
        connection.sendall(answer)

    with serving(script) as server:
        with pytest.raises(httpx2.TransportError):
            ask(face, server, times=before + 1)
        assert len(server.requests) == before + 1


@faces
def test_what_comes_behind_an_answer_costs_the_connection(face: str) -> None:
    """The next request's answer would begin with it."""
    with serving(says(WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as server:
        assert ask(face, server, times=2).content == b"hello"
        assert server.connections == 2


def test_a_second_part_that_is_wrong_is_found_at_every_cut() -> None:
    """However it comes, no part of what is refused is taken for an end."""
    for name, answer in BAD.items():
        if len(answer) > 1000:
            continue
        for cut in range(1, len(answer)):
            line, response = Told(), Arrived()
            line.await_response(response)
            found = line.feed(response, answer[:cut]) or line.feed(response, answer[cut:])
            assert isinstance(found, Garbled) and not response.complete, (name, cut)


# -- what is sent ------------------------------------------------------------------------------------------------------


@faces
def test_a_request_goes_out_as_it_was_made(face: str) -> None:
    with serving(says(WHOLE)) as server:
        ask(face, server, body=b"x" * 300_000)
        start, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert start.startswith(b"POST /v1 HTTP/1.1\r\nHost: 127.0.0.1") and body == b"x" * 300_000
        assert b"Content-Length: 300000" in start and b"transfer-encoding" not in start.lower()


PLAIN = [(b"Host", b"h"), (b"Connection", b"keep-alive"), (b"Content-Length", b"2")]


@pytest.mark.parametrize("headers", [
    [*PLAIN, (b"X", b"a\r\nY: b")], [*PLAIN, (b"X", b"a\0")], [*PLAIN, (b"X Y", b"a")], [*PLAIN, (b"X:", b"a")], [*PLAIN, (b"", b"a")],
    [*PLAIN, (b"X", b" a")], [*PLAIN, (b"X", b"a ")], [*PLAIN, (b"X", b"\ta")], [(b"X", b"a\t"), *PLAIN], PLAIN[1:], [*PLAIN, PLAIN[0]],
    [*PLAIN, PLAIN[2]], PLAIN[:2], [*PLAIN[:2], (b"Content-Length", b"3")], [*PLAIN, (b"Transfer-Encoding", b"chunked")],
    [*PLAIN, (b"Expect", b"100-continue")], [*PLAIN, (b"Upgrade", b"x")], [PLAIN[0], (b"Connection", b"close"), PLAIN[2]],
    [*PLAIN, (b"TE", b"trailers")],
])  # fmt: skip
def test_what_could_be_read_in_two_ways_or_wants_more_is_left_to_the_library(headers: list[tuple[bytes, bytes]]) -> None:
    for _ in range(2):  # also when it was seen before
        assert head("POST", b"/v1", headers, 2) is None
    assert head("POST", b"/v1", [*PLAIN, (b"X", b""), (b"Y", b"a  b")], 2) is not None
    assert head("PUT", b"/v1", PLAIN, 2) is None and head("POST", b"/v 1", PLAIN, 2) is None and head("POST", b"*", PLAIN, 2) is None


def test_the_memory_of_header_names_is_bounded() -> None:
    for number in range(2 * direct.SHAPES_MAX):
        assert head("POST", b"/v1", [*PLAIN, (b"X-%d" % number, b"a")], 2)
    assert len(direct._shapes) <= direct.SHAPES_MAX


@faces
def test_an_answer_to_a_request_that_was_not_read_is_heard(face: str) -> None:
    """A server may refuse a large body at its head, and close when its answer is out."""

    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with serving(script) as server:
        got = ask(face, server, body=b"x" * (8 << 20))
        assert (got.status_code, got.content) == (413, b"no")


# -- deadlines -----------------------------------------------------------------------------------------------------------

SOON = 0.2


def deaf(server: Server, connection: socket.socket) -> None:
    """Never reads, never answers; ends with its test."""
    threading.Event().wait(20)


@faces
@library
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", WHOLE[:-2], CHUNKED + b"5\r\nhe"], ids=range(4))
def test_an_answer_that_does_not_come_is_a_read_timeout(face: str, library: ModuleType, answer: bytes) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(answer)
        server.read(connection)  # until the client closes

    with serving(script) as server:
        with pytest.raises(library.ReadTimeout):
            ask(face, server, library, timeout=library.Timeout(20, read=SOON))
        assert server.ended.acquire(timeout=20)


@faces
@library
def test_a_request_that_is_not_taken_is_a_write_timeout(face: str, library: ModuleType) -> None:
    with serving(deaf) as server, pytest.raises(library.WriteTimeout):
        ask(face, server, library, body=b"x" * (32 << 20), timeout=library.Timeout(20, write=SOON))


@faces
@library
def test_a_handshake_that_nobody_answers_is_a_connect_timeout(face: str, library: ModuleType) -> None:
    with serving(deaf) as server, pytest.raises(library.ConnectTimeout):
        server.url = server.url.replace("http:", "https:")
        ask(face, server, library, timeout=library.Timeout(20, connect=SOON))


@faces
@library
def test_nobody_there_is_a_connect_error(face: str, library: ModuleType) -> None:
    with serving(deaf) as server, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        server.url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with pytest.raises(library.ConnectError):
            ask(face, server, library)
        server.url = "http://nowhere.invalid/v1"
        with pytest.raises(library.ConnectError):
            ask(face, server, library)


@library
def test_no_room_in_the_pool_is_a_pool_timeout_and_room_is_waited_for(library: ModuleType) -> None:
    """One connection at most: it is under way, then it is free."""
    limits, timeout = library.Limits(max_connections=1), library.Timeout(20, pool=SOON)
    with serving(half) as server, client("sync", library, limits=limits) as plain:
        held = plain.send(plain.build_request("POST", server.url, content=b"{}"), stream=True)
        with pytest.raises(library.PoolTimeout):
            plain.post(server.url, content=b"{}", timeout=timeout)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(plain.post, server.url, content=b"{}", timeout=20)
            held.close()
            assert other.result(20).content == b"hello"

    async def work(server: Server) -> None:
        async with client("async", library, limits=limits) as plain:
            request = plain.build_request("POST", server.url, content=b"{}")
            held = await plain.send(request, stream=True)
            with pytest.raises(library.PoolTimeout):
                await plain.post(server.url, content=b"{}", timeout=timeout)
            other = asyncio.ensure_future(plain.post(server.url, content=b"{}", timeout=20))
            await asyncio.sleep(0)
            await held.aclose()
            assert (await other).content == b"hello"

    with serving(half) as server:
        run("async", work(server))


def half(server: Server, connection: socket.socket) -> None:
    """The first answer of all never ends, the others do."""
    while server.read(connection):
        connection.sendall(CHUNKED + b"5\r\nhello\r\n" + (b"0\r\n\r\n" if len(server.requests) > 1 else b""))


# -- TLS -----------------------------------------------------------------------------------------------------------------


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and one that trusts it."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    return theirs, ours


@faces
@library
def test_tls_is_verified_with_the_clients_own_context(face: str, library: ModuleType) -> None:
    theirs, ours = certified()
    with serving(says(WHOLE), theirs) as server:
        assert ask(face, server, library, times=2, verify=ours).content == b"hello"
        assert server.connections == 1
        with pytest.raises(library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(face, server, library)
        server.url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(face, server, library, verify=ours)


# -- the pool ------------------------------------------------------------------------------------------------------------


@faces
def test_a_connection_that_was_closed_meanwhile_is_noticed_before_anything_is_sent(face: str) -> None:
    with serving(closing(WHOLE)) as server:

        def again() -> None:
            assert server.connections == 1

        if face == "sync":
            with client(face, httpx2) as plain:
                assert plain.post(server.url, content=b"{}").content == b"hello"
                again()
                wait_for_eof(plain)
                assert plain.post(server.url, content=b"{}").content == b"hello"
        else:

            async def work() -> None:
                async with client(face, httpx2) as plain:
                    assert (await plain.post(server.url, content=b"{}")).content == b"hello"
                    again()
                    wait_for_eof(plain)  # the loop has no turn in which it could see the end
                    assert (await plain.post(server.url, content=b"{}")).content == b"hello"

            run(face, work())
        assert server.connections == 2 and len(server.requests) == 2


def wait_for_eof(plain: Any) -> None:
    """Until the server's end of the idle connection has arrived here."""
    handle = getattr(plain._transport, "handle_request", None) or plain._transport.handle_async_request
    lines = next(cell.cell_contents for cell in handle.__closure__ if hasattr(cell.cell_contents, "_idle"))
    (line,) = [line for idle in lines._idle.values() for line in idle]
    number = line.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(number)) as copy:
        copy.settimeout(20)
        assert copy.recv(1, socket.MSG_PEEK) == b""


@faces
@pytest.mark.parametrize("limits", [httpx2.Limits(max_keepalive_connections=0), httpx2.Limits(keepalive_expiry=0.0)], ids=["none", "0 s"])
def test_connections_lie_idle_as_long_as_the_client_says(face: str, limits: Any) -> None:
    with serving(says(WHOLE)) as server:
        ask(face, server, times=3, limits=limits)
        assert server.connections == 3


@faces
def test_closing_the_client_closes_its_connections(face: str) -> None:
    with serving(says(WHOLE)) as server:
        ask(face, server)
        assert server.ended.acquire(timeout=20)


@faces
def test_an_answer_left_half_way_takes_its_connection_along(face: str) -> None:
    """Closed, or only let go of."""
    with serving(half) as server:
        if face == "sync":
            with client(face, httpx2) as plain:
                with plain.stream("POST", server.url, content=b"{}") as answer:
                    assert next(answer.iter_bytes()) == b"hello"
                assert server.ended.acquire(timeout=20)
                server.requests.clear()
                dropped = plain.send(plain.build_request("POST", server.url, content=b"{}"), stream=True)
                del dropped
                gc.collect()
                assert server.ended.acquire(timeout=20)
                assert plain.post(server.url, content=b"{}").content == b"hello"
        else:

            async def work() -> None:
                async with client(face, httpx2) as plain:
                    async with plain.stream("POST", server.url, content=b"{}") as answer:
                        assert await anext(answer.aiter_bytes()) == b"hello"
                    assert await asyncio.to_thread(server.ended.acquire, timeout=20)
                    server.requests.clear()
                    dropped = await plain.send(plain.build_request("POST", server.url, content=b"{}"), stream=True)
                    del dropped
                    gc.collect()
                    assert await asyncio.to_thread(server.ended.acquire, timeout=20)
                    assert (await plain.post(server.url, content=b"{}")).content == b"hello"

            run(face, work())
        assert server.connections == 3


@pytest.mark.parametrize("face", ["async", "uvloop"])
def test_a_cancelled_call_takes_its_connection_along(face: str) -> None:
    asked = threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            asked.set()
            if len(server.requests) > 1:
                connection.sendall(WHOLE)

    async def work() -> None:
        async with client("async", httpx2) as plain:
            call = asyncio.ensure_future(plain.post(server.url, content=b"{}"))
            await asyncio.to_thread(asked.wait, 20)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(server.ended.acquire, timeout=20)
            assert (await plain.post(server.url, content=b"{}")).content == b"hello"

    with serving(script) as server:
        run(face, work())
        assert server.connections == 2


def test_a_client_that_outlives_its_loop_goes_on_with_the_next() -> None:
    with serving(says(WHOLE)) as server:
        plain = client("async", httpx2)
        for _ in range(2):
            assert asyncio.run(plain.post(server.url, content=b"{}")).content == b"hello"
        assert server.connections == 2


def test_many_threads_share_the_connections_and_keep_to_their_number() -> None:
    most, busy, lock = [0], [0], threading.Lock()

    def script(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            with lock:
                busy[0] += 1
                most[0] = max(most[0], busy[0])
            with lock:
                busy[0] -= 1
            connection.sendall(WHOLE)

    with serving(script) as server, client("sync", httpx2, limits=httpx2.Limits(max_connections=3)) as plain:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: plain.post(server.url, content=b"{}", timeout=20).content, range(160)))
        assert answers == [b"hello"] * 160 and len(server.requests) == 160
        assert server.connections <= 3 and most[0] <= 3


def test_a_forked_child_makes_connections_of_its_own() -> None:
    with serving(says(WHOLE)) as server, client("sync", httpx2) as plain:
        plain.post(server.url, content=b"{}")
        child = os.fork()
        if not child:  # pragma: no cover
            code = 1
            try:
                code = 0 if plain.post(server.url, content=b"{}").content == b"hello" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert plain.post(server.url, content=b"{}").content == b"hello"
        assert server.connections == 2 and len(server.requests) == 3


# -- whose transport they stand in for -----------------------------------------------------------------------------------


class Their(httpx2.HTTPTransport):
    """A transport of the caller's own."""


@pytest.mark.parametrize("made", [
    lambda: httpx2.HTTPTransport(proxy="http://127.0.0.1:1"), lambda: httpx2.HTTPTransport(retries=1), Their,
    lambda: httpx2.HTTPTransport(uds="/nowhere"), lambda: httpx2.HTTPTransport(local_address="127.0.0.1"),
    lambda: httpx2.MockTransport(lambda _: httpx2.Response(200)),
], ids=["proxy", "retries", "subclass", "socket file", "local address", "stand-in"])  # fmt: skip
def test_a_transport_with_wishes_of_its_own_keeps_the_calls(made: Callable[[], Any]) -> None:
    kit = transport.kit_of(httpx2.Client)
    assert kit is not None and kit.lines(made()) is None
    assert kit.lines(httpx2.HTTPTransport()) is not None and kit.async_lines(httpx2.AsyncHTTPTransport()) is not None


def test_http2_and_the_switch_keep_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = transport.kit_of(httpx2.Client)
    assert kit is not None
    asks_for_two = httpx2.HTTPTransport()
    asks_for_two._pool._http2 = True
    assert kit.lines(asks_for_two) is None
    monkeypatch.setenv("BURSAR_SDK_FAST", "0")
    assert kit.lines(httpx2.HTTPTransport()) is None and kit.async_lines(httpx2.AsyncHTTPTransport()) is None


def test_socket_options_are_set() -> None:
    """As the Anthropic SDK asks for them; and the connection tells of itself."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]

    def look(answer: Any) -> None:
        stream = answer.extensions["network_stream"]
        assert stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port) and stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1" and stream.get_extra_info("no such thing") is None

    async def work() -> None:
        async with client("async", httpx2, socket_options=options) as plain, plain.stream("POST", server.url, content=b"{}") as answer:
            look(answer)

    with serving(half) as server:
        with client("sync", httpx2, socket_options=options) as plain, plain.stream("POST", server.url, content=b"{}") as answer:
            look(answer)
        run("async", work())


def test_who_puts_himself_into_the_library_has_the_calls(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer or a test's stand-in, also one that comes later; and a reader of httpcore's own log."""
    seen: list[str] = []
    plain = bursar.wrap(httpx2.Client(), **bench.wrapping())
    url = f"{bench.url('openai')}/chat/completions"

    def ours() -> bool:
        before = len(bench.provider.seen)
        plain.post(url, json={"model": "gpt-5-mini", "messages": QUESTION})
        assert len(bench.provider.seen) == before + 1
        return not plain._transport._inner._pool.connections

    assert ours()
    original = httpx2.HTTPTransport.handle_request

    def watched(self: Any, request: Any) -> Any:
        seen.append(request.method)
        return original(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(httpx2.HTTPTransport, "handle_request", watched)
        assert not ours() and seen == ["POST"]
    with monkeypatch.context() as patch:
        patch.setattr(plain._transport._inner, "handle_request", lambda request: watched(plain._transport._inner, request), raising=False)
        assert not ours() and seen == ["POST", "POST"]
    plain._transport._inner.close()
    assert ours()
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger("httpcore2.http11"), "level", logging.DEBUG)
        logging.getLogger("httpcore2.http11").manager._clear_cache()
        assert not ours()
    logging.getLogger("httpcore2.http11").manager._clear_cache()
    plain._transport._inner.close()
    plain.post(url, json={"model": "m", "messages": QUESTION}, extensions={"trace": lambda *_: None, "timeout": {}})
    assert plain._transport._inner._pool.connections
    assert len(bench.rows()) == len(bench.provider.seen) and all(row.status == "ok" for row in bench.rows())


def test_a_body_that_was_changed_goes_out_with_its_own_length(bench: Bench) -> None:
    """A hard budget caps what is written: the request is longer than its client made it, and still needs no transport of httpx."""
    bench.policy('[[budget]]\nscope = "all"\nlimit = "$5"\n')
    plain = bursar.wrap(httpx2.Client(), **bench.wrapping())
    for words, said in (("hi", "a"), ("hi there", "b"), ("hi", ""), ("hi there", ""), ("hi", "a")):
        asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": words}]}
        plain.post(f"{bench.url('openai')}/chat/completions", json=asked, headers={"x-bursar-feature": said} if said else {}).raise_for_status()
        assert b"max_completion_tokens" in bench.provider.seen[-1].raw and "x-bursar-feature" not in bench.provider.seen[-1].headers
    assert not plain._transport._inner._pool.connections
    assert [row.feature for row in bench.rows(5)] == ["a", "b", "", "", "a"]


@faces
def test_what_goes_the_librarys_own_way_is_booked_alike(face: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and streamed, both ways: the same rows but for their ids and times."""
    rows: list[Any] = []
    asked = {"model": "gpt-5-mini", "messages": QUESTION}

    async def awaited(url: str) -> None:
        async with bursar.wrap(httpx2.AsyncClient(), **bench.wrapping()) as plain:
            await plain.post(url, json=asked)
            async with plain.stream("POST", url, json={**asked, "stream": True}) as answer:
                assert [piece async for piece in answer.aiter_bytes()]

    for switch in ("1", "0"):
        monkeypatch.setenv("BURSAR_SDK_FAST", switch)
        url = f"{bench.url('openai')}/chat/completions"
        if face != "sync":
            run(face, awaited(url))
        else:
            with bursar.wrap(httpx2.Client(), **bench.wrapping()) as plain:
                plain.post(url, json=asked)
                with plain.stream("POST", url, json={**asked, "stream": True}) as answer:
                    assert list(answer.iter_bytes())
    rows = [(r.status, r.ended, r.input, r.output, r.cost, r.stream, r.http_status, r.usage_source) for r in bench.rows()]
    assert len(rows) == 4 and rows[:2] == rows[2:]
