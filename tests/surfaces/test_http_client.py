"""The client against scripted providers: one request per send, every fault named, no connection reused in doubt."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tracemalloc
from collections.abc import Callable

import pytest
import trustme
from http_rig import LOOPS, QUICK, pooled, read_request, run, serving, upstream, wire

from bursar.surfaces.http_client import Origin, Pool, Timeouts, UpstreamFault, UpstreamResponse
from bursar.surfaces.http_common import BadHeader
from bursar.surfaces.http_server import Incoming, Responder

pytestmark = pytest.mark.parametrize("loop", LOOPS)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok"


async def ask(pool: Pool, origin: Origin, timeouts: Timeouts = QUICK, method: str = "POST") -> UpstreamResponse:
    return await pool.send(origin, method, "/v1", [(b"x-a", b"1")], b"{}" if method == "POST" else b"", timeouts)


def test_a_request_goes_out_as_given_with_our_own_framing(loop: str) -> None:
    """Host, length and connection are ours; whatever the caller says about them is dropped."""

    async def work() -> None:
        async with upstream(OK) as far, pooled() as pool:
            headers = [
                (b"host", b"other"), (b"x-a", b"1"), (b"content-length", b"99"), (b"transfer-encoding", b"chunked"),
                (b"connection", b"close"), (b"x-a", b"2"), (b"expect", b"100-continue"),
            ]  # fmt: skip
            response = await pool.send(far.origin, "POST", "/v1/x?y=%20", headers, b"hello", QUICK)
            assert response.status == 200 and response.headers == [(b"content-length", b"2"), (b"x-a", b"1")]
            assert response.content_length == 2
            assert await response.read(10) == b"ok" and response.complete
            head, body = far.requests[0]
            assert head == (
                b"POST /v1/x?y=%%20 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\n\r\n"
                % far.origin.port
            )
            assert body == b"hello"

    run(loop, work)


def test_large_bodies_go_both_ways(loop: str) -> None:
    """20 MB up, 20 MB down, byte for byte."""
    big = bytes(range(256)) * (80 << 10)

    async def work() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, body = await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()

        async with upstream(answer) as far, pooled() as pool:
            response = await pool.send(far.origin, "POST", "/", [], big, QUICK)
            assert await response.read(len(big)) == big

    run(loop, work)


def test_a_connection_is_reused_after_a_clean_message_only(loop: str) -> None:
    """Sequential calls share one; parallel ones do not; `Connection: close` and leftovers end it."""

    async def work() -> None:
        async with upstream(OK) as far, pooled() as pool:
            for _ in range(5):
                assert await (await ask(pool, far.origin)).read(10) == b"ok"
            assert far.connections == 1 and pool.connections == 1 and pool.idle == 1
            responses = await asyncio.gather(*(ask(pool, far.origin) for _ in range(5)))
            assert [await r.read(10) for r in responses] == [b"ok"] * 5
            assert far.connections == 5
        for unclean in (
            OK.replace(b"X-A: 1", b"Connection: close"),
            OK.replace(b"1.1", b"1.0"),
            OK + b"H",
            OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            OK + b"rubbish",
        ):
            async with upstream(unclean) as far, pooled() as pool:
                for _ in range(3):
                    assert await (await ask(pool, far.origin)).read(10) == b"ok"
                await asyncio.sleep(0.01)
                assert far.connections == 3 and pool.connections == 0 and len(far.requests) == 3

    run(loop, work)


def test_what_comes_unasked_ends_a_waiting_connection(loop: str) -> None:
    """It would be taken for the next request's response."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await asyncio.sleep(0.05)
            writer.write(OK.replace(b"ok", b"no"))
            await reader.read()

        async with upstream(script) as far, pooled() as pool:
            assert await (await ask(pool, far.origin)).read(10) == b"ok"
            while pool.connections:
                await asyncio.sleep(0.005)
            assert await (await ask(pool, far.origin)).read(10) == b"ok"
            assert far.connections == 2

    run(loop, work)


def test_a_connection_the_provider_closed_is_not_used_again(loop: str) -> None:
    """Noticed when it happens, not with the next request."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)

        async with upstream(script) as far, pooled() as pool:
            for _ in range(3):
                assert await (await ask(pool, far.origin)).read(10) == b"ok"
                while pool.connections:
                    await asyncio.sleep(0.002)
            assert far.connections == 3

    run(loop, work)


def test_a_reused_connection_that_dies_under_a_request_is_a_fault_and_not_a_second_request(loop: str) -> None:
    """The provider may have billed the first. Whether to ask again is not the client's decision."""

    async def work() -> None:
        requests = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            await read_request(reader)
            requests += 1
            writer.write(OK)
            await read_request(reader)
            requests += 1

        async with upstream(script) as far, pooled() as pool:
            await (await ask(pool, far.origin)).read(10)
            with pytest.raises(UpstreamFault) as caught:
                await ask(pool, far.origin)
            assert (caught.value.kind, caught.value.sent) == ("reset", True)
            assert requests == 2 and far.connections == 1

    run(loop, work)


def test_idle_connections_are_closed(loop: str) -> None:
    """Before the provider closes them under a request."""

    async def work() -> None:
        async with upstream(OK) as far, pooled(idle_s=0.1) as pool:
            await (await ask(pool, far.origin)).read(10)
            assert pool.idle == 1
            async with asyncio.timeout(5):
                while pool.connections:
                    await asyncio.sleep(0.01)

    run(loop, work)


def test_over_the_limit_a_send_fails_at_once(loop: str) -> None:
    """And works again as soon as one is through."""

    async def work() -> None:
        async with upstream(OK) as far, pooled(per_origin=2) as pool:
            async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await read_request(reader)
                await release.wait()
                writer.write(OK)

            release = asyncio.Event()
            async with upstream(busy) as slow:
                tasks = [asyncio.create_task(ask(pool, slow.origin)) for _ in range(2)]
                await asyncio.sleep(0.05)
                with pytest.raises(UpstreamFault) as caught:
                    await ask(pool, slow.origin)
                assert (caught.value.kind, caught.value.sent) == ("pool_full", False)
                assert await (await ask(pool, far.origin)).read(10) == b"ok"
                release.set()
                for response in await asyncio.gather(*tasks):
                    assert await response.read(10) == b"ok"
                while pool.connections > 1:
                    await asyncio.sleep(0.005)
                await (await ask(pool, slow.origin)).read(10)

    run(loop, work)


# -- well-formed answers -----------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE: dict[str, tuple[str, bytes, int, bytes, bool]] = {  # method, bytes, status, body, reusable
    "length": ("POST", OK, 200, b"ok", True),
    "chunks": ("POST", CHUNKS + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", 200, b"ok", True),
    "trailers": ("POST", CHUNKS + b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-B: 2\r\n\r\n", 200, b"ok", True),
    "until the end": ("POST", HEAD + b"X: 1\r\n\r\nok", 200, b"ok", False),
    "until the end, HTTP/1.0": ("POST", b"HTTP/1.0 200 OK\r\n\r\nok", 200, b"ok", False),
    "100 first": ("POST", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok", True),
    "102 and 103 first": ("POST", b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" + OK, 200, b"ok", True),
    "no reason": ("POST", OK.replace(b" OK", b""), 200, b"ok", True),
    "204": ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, b"", True),
    "304 with a length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", False),
    "HEAD": ("HEAD", HEAD + b"Content-Length: 5\r\n\r\n", 200, b"", False),
    "HEAD without a length": ("HEAD", HEAD + b"X: 1\r\n\r\n", 200, b"", False),
    "HEAD with chunks": ("HEAD", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 200, b"", False),
    "empty": ("POST", HEAD + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "redirect": ("POST", b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 302, b"", True),
    "error": ("POST", OK.replace(b"200 OK", b"529 Overloaded"), 529, b"ok", True),
    "60 KiB of headers": ("POST", OK.replace(b"X-A: 1", b"X-A: " + b"a" * 60_000), 200, b"ok", True),
}  # fmt: skip


@pytest.mark.parametrize("cut", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", WHOLE)
def test_a_well_formed_answer_is_understood_however_it_is_cut(loop: str, case: str, cut: str) -> None:
    """One request, no redirect followed, no 1xx and no trailer shown."""
    method, sent, status, body, reusable = WHOLE[case]

    async def work() -> None:
        requests = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            while True:
                await read_request(reader)
                requests += 1
                if cut == "at once":
                    writer.write(sent)
                else:
                    for i in range(len(sent) if len(sent) < 1000 else 0):
                        writer.write(sent[i : i + 1])
                        await asyncio.sleep(0)
                    if len(sent) >= 1000:
                        for i in range(0, len(sent), 7000):
                            writer.write(sent[i : i + 7000])
                            await asyncio.sleep(0.001)
                if b"until the end" in case.encode():
                    return

        async with upstream(script) as far, pooled() as pool:
            response = await ask(pool, far.origin, method=method)
            assert response.status == status
            got = b""
            while data := await response.chunk():
                got += data
            assert got == body and response.complete
            assert await response.chunk() == b"" and response.chunk_nowait() == b""
            response.abandon()  # nothing left to abandon
            await asyncio.sleep(0.01)
            assert pool.idle == (1 if reusable else 0)
            assert requests == 1

    run(loop, work)


# -- faults ------------------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, str]] = {  # what the provider sends before it closes, and the fault
    "nothing": (b"", "reset"),
    "half a status line": (b"HTTP/1.1 2", "reset"),
    "half the headers": (HEAD + b"Content-Le", "reset"),
    "only a 100": (b"HTTP/1.1 100 Continue\r\n\r\n", "reset"),
    "body too short": (HEAD + b"Content-Length: 10\r\n\r\nhello", "reset"),
    "no body": (HEAD + b"Content-Length: 10\r\n\r\n", "reset"),
    "chunk cut": (CHUNKS + b"a\r\nhello", "reset"),
    "last chunk missing": (CHUNKS + b"5\r\nhello\r\n", "reset"),
    "end of the last chunk missing": (CHUNKS + b"5\r\nhello\r\n0\r\n", "reset"),
    "length and chunks": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "protocol"),
    "chunks and length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "protocol"),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "protocol"),
    "length 5, 5": (HEAD + b"Content-Length: 5, 5\r\n\r\nhello", "protocol"),
    "length -1": (HEAD + b"Content-Length: -1\r\n\r\n", "protocol"),
    "chunks in HTTP/1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "protocol"),
    "gzip, chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol"),
    "gzip": (HEAD + b"Transfer-Encoding: gzip\r\n\r\nxyz", "protocol"),
    "bad chunk size": (CHUNKS + b"xyz\r\nhello\r\n", "protocol"),
    "chunk without CRLF": (CHUNKS + b"5\r\nhelloworld\r\n", "protocol"),
    "LF only": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "protocol"),
    "folded header": (HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", "protocol"),
    "not HTTP": (b"220 smtp.test ESMTP\r\n", "protocol"),
    "HTML without headers": (b"<html>gateway error</html>", "protocol"),
    "switching protocols": (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxyz", "protocol"),
    "gigantic header": (HEAD + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", "too_large"),
    "gigantic headers, each small": (HEAD + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 5000 + b"\r\n", "too_large"),
    "gigantic reason": (b"HTTP/1.1 200 " + b"a" * (1 << 20), "too_large"),
    "1xx without end": (b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000, "too_large"),
    "gigantic trailer": (CHUNKS + b"2\r\nok\r\n0\r\nX: " + b"a" * (1 << 20), "too_large"),
    "gigantic chunk extension": (CHUNKS + b"2;" + b"a" * (1 << 20), "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_answer_is_a_fault_of_the_right_kind(loop: str, case: str) -> None:
    """Never a shorter body taken for a whole one; the connection goes, and `sent` is true."""
    sent, kind = BROKEN[case]

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(sent)
            await writer.drain()

        async with upstream(script) as far, pooled() as pool:
            with pytest.raises(UpstreamFault) as caught:
                response = await ask(pool, far.origin)
                while await response.chunk():
                    pass
            assert (caught.value.kind, caught.value.sent) == (kind, True), str(caught.value)
            with pytest.raises(UpstreamFault):
                response = await ask(pool, far.origin)
                await response.read(1 << 20)
            await asyncio.sleep(0.01)
            assert pool.connections == 0 and far.connections == 2

    run(loop, work)


@pytest.mark.parametrize("sent", [b"", HEAD + b"Content-Length: 10\r\n\r\nhello", HEAD + b"X: 1\r\n\r\nhello"])
def test_a_reset_is_never_a_clean_end(loop: str, sent: bytes) -> None:
    """Also where the end of the connection is the end of the body."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.05)
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

        async with upstream(script) as far, pooled() as pool:
            with pytest.raises(UpstreamFault) as caught:
                response = await ask(pool, far.origin)
                assert await response.chunk() == b"hello"
                await response.chunk()
            assert (caught.value.kind, caught.value.sent) == ("reset", True)

    run(loop, work)


STALLS: dict[str, tuple[list[bytes], Timeouts, str]] = {
    "no headers": ([], Timeouts(headers_s=0.2), "headers_timeout"),
    "headers by the byte": ([HEAD, *[b"x"] * 200], Timeouts(headers_s=0.2), "headers_timeout"),
    "1xx now and then": ([b"HTTP/1.1 102 P\r\n\r\n"] * 200, Timeouts(headers_s=0.2), "headers_timeout"),
    "no body": ([HEAD + b"Content-Length: 5\r\n\r\n"], Timeouts(idle_s=0.2), "idle_timeout"),
    "body stalls": ([CHUNKS + b"5\r\nhello\r\n"], Timeouts(idle_s=0.2), "idle_timeout"),
    "body until the end stalls": ([HEAD + b"X: 1\r\n\r\nhello"], Timeouts(idle_s=0.2), "idle_timeout"),
    "body by the byte": ([CHUNKS, *[b"1\r\nx\r\n"] * 200], Timeouts(idle_s=0.2, total_s=0.6), "total_timeout"),
}  # fmt: skip


@pytest.mark.parametrize("case", STALLS)
def test_a_stalled_provider_is_given_up_on_time(loop: str, case: str) -> None:
    """Each wait has its own deadline and its own name."""
    pieces, timeouts, kind = STALLS[case]

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.04)
            await reader.read()

        async with upstream(script) as far, pooled() as pool:
            began = asyncio.get_running_loop().time()
            with pytest.raises(UpstreamFault) as caught:
                response = await ask(pool, far.origin, timeouts)
                while await response.chunk():
                    pass
            assert (caught.value.kind, caught.value.sent) == (kind, True)
            assert 0.2 <= asyncio.get_running_loop().time() - began < 5

    run(loop, work)


def test_a_provider_that_does_not_take_the_request_is_given_up(loop: str) -> None:
    """A body in the pipe for ever is `write_timeout`, long before the headers' deadline."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(5)

        async with upstream(script) as far, pooled() as pool:
            with pytest.raises(UpstreamFault) as caught:
                await pool.send(far.origin, "POST", "/", [], b"x" * (30 << 20), Timeouts(write_s=0.2))
            assert (caught.value.kind, caught.value.sent) == ("write_timeout", True)

    run(loop, work)


def test_an_early_answer_to_a_long_request_is_heard(loop: str) -> None:
    """A provider may refuse before it has read all; that connection is not used again."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(OK.replace(b"200 OK", b"413 Too Large"))
            await asyncio.sleep(0.2)

        async with upstream(script) as far, pooled() as pool:
            response = await pool.send(far.origin, "POST", "/", [], b"x" * (30 << 20), QUICK)
            assert (response.status, await response.read(10)) == (413, b"ok")
            await asyncio.sleep(0.01)
            assert pool.connections == 0

    run(loop, work)


def test_a_refused_connection_and_an_unknown_host_are_told_apart(loop: str) -> None:
    """Nothing was sent in either case, and neither leaves a connection counted."""

    async def work() -> None:
        made = socket.create_server(("127.0.0.1", 0))
        closed = Origin("http", "127.0.0.1", made.getsockname()[1])
        made.close()
        async with pooled(per_origin=1) as pool:
            for origin, kind in (
                (closed, "connect"), (closed, "connect"), (Origin("http", "no-such-host.invalid", 80), "dns"),
                (Origin("http", "a" * 64 + ".test", 80), "dns"),
            ):  # fmt: skip
                with pytest.raises(UpstreamFault) as caught:
                    await ask(pool, origin)
                assert (caught.value.kind, caught.value.sent) == (kind, False), str(caught.value)

    run(loop, work)


def test_a_connection_that_is_never_made_times_out(loop: str) -> None:
    """A listener whose queue is full drops the handshake, as a dead address does."""

    async def work() -> None:
        made = socket.socket()
        made.bind(("127.0.0.1", 0))
        made.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(made.getsockname())
            fillers.append(filler)
        await asyncio.sleep(0.05)
        try:
            async with pooled() as pool:
                with pytest.raises(UpstreamFault) as caught:
                    await ask(pool, Origin("http", "127.0.0.1", made.getsockname()[1]), Timeouts(connect_s=0.3))
                assert (caught.value.kind, caught.value.sent) == ("connect_timeout", False)
        finally:
            for filler in fillers:
                filler.close()
            made.close()

    run(loop, work)


# -- TLS ---------------------------------------------------------------------------------------------------------------


def contexts(name: str) -> tuple[ssl.SSLContext, Callable[[], ssl.SSLContext]]:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(theirs)

    def ours() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return context

    return theirs, ours


def test_tls_is_spoken_and_kept_alive(loop: str) -> None:
    """With a certificate for the host by an authority we trust."""
    theirs, ours = contexts("localhost")

    async def work() -> None:
        async with upstream(OK, ssl=theirs, host="localhost") as far, pooled(ssl_context=ours()) as pool:
            for _ in range(3):
                assert await (await ask(pool, far.origin)).read(10) == b"ok"
            assert far.connections == 1

    run(loop, work)


def test_a_certificate_for_another_host_or_by_a_stranger_is_a_fault(loop: str) -> None:
    """`tls`, and not a byte of the request was sent; also with the system's own trust."""
    theirs, ours = contexts("other.test")

    async def work() -> None:
        async with upstream(OK, ssl=theirs, host="localhost") as far:
            for context, about in ((ours(), "other.test"), (None, "certificate"), (contexts("localhost")[1](), "certificate")):
                async with pooled(ssl_context=context) as pool:
                    with pytest.raises(UpstreamFault) as caught:
                        await ask(pool, far.origin)
                    assert (caught.value.kind, caught.value.sent) == ("tls", False)
                    assert about in caught.value.detail or "ostname" in caught.value.detail, caught.value.detail
            assert far.requests == []

    run(loop, work)


def test_tls_to_a_plain_or_hanging_port_fails_as_what_it_is(loop: str) -> None:
    """A plain answer is `tls`; silence is `connect_timeout`; a hang-up is `tls`."""

    async def work() -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read(10)

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3)

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)

        for script, kind in ((plain, "tls"), (silent, "connect_timeout"), (hang_up, "tls")):
            async with upstream(script) as far, pooled() as pool:
                origin = Origin("https", "localhost", far.origin.port)
                with pytest.raises(UpstreamFault) as caught:
                    await ask(pool, origin, Timeouts(connect_s=0.4))
                assert (caught.value.kind, caught.value.sent) == (kind, False), str(caught.value)

    run(loop, work)


def test_an_unverified_context_is_not_taken(loop: str) -> None:
    """There is no way to switch verification off; plain http can be forbidden."""
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lax.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        Pool(ssl_context=lax)

    async def work() -> None:
        async with upstream(OK) as far, pooled(allow_http=False) as pool:
            with pytest.raises(UpstreamFault) as caught:
                await ask(pool, far.origin)
            assert not caught.value.sent and far.connections == 0

    run(loop, work)


# -- the caller's side -------------------------------------------------------------------------------------------------


def test_a_body_is_taken_whole_only_when_all_of_it_has_come_and_it_is_not_too_long(loop: str) -> None:
    """What cannot be taken so is still there to be read."""

    async def work() -> None:
        more = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(CHUNKS + b"5\r\nhello\r\n")
            await more.wait()
            writer.write(b"6\r\n world\r\n0\r\n\r\n")

        async with upstream(script) as far, pooled() as pool:
            response = await ask(pool, far.origin)
            await asyncio.sleep(0.05)
            assert response.whole(100) is None
            more.set()
            while not response.complete:
                await asyncio.sleep(0.01)
            assert response.whole(10) is None and response.whole(11) == b"hello world"
            assert response.whole(0) == b"" and response.chunk_nowait() == b""

    run(loop, work)


def test_abandoning_closes_the_connection_and_wakes_the_reader(loop: str) -> None:
    """The provider sees it at once and can stop generating."""

    async def work() -> None:
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(CHUNKS + b"5\r\nhello\r\n")
            assert await reader.read() == b""
            closed.set()

        async with upstream(script) as far, pooled() as pool:
            response = await ask(pool, far.origin)
            assert await response.chunk() == b"hello"
            assert response.chunk_nowait() is None
            waiting = asyncio.create_task(response.chunk())
            await asyncio.sleep(0)
            response.abandon()
            with pytest.raises(UpstreamFault) as caught:
                await waiting
            assert caught.value.kind == "reset" and not response.complete
            await asyncio.wait_for(closed.wait(), 2)

    run(loop, work)


def test_a_cancelled_send_closes_its_connection(loop: str) -> None:
    """While connecting, and while waiting for the headers. A cancelled chunk() only stops waiting."""

    async def work() -> None:
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            assert await reader.read() == b""
            closed.set()

        async with upstream(script) as far, pooled() as pool:
            for pause in (0, 0.05):
                task = asyncio.create_task(ask(pool, far.origin))
                await asyncio.sleep(pause)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.wait_for(closed.wait(), 2)
            while pool.connections:
                await asyncio.sleep(0.002)

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(CHUNKS)
            await asyncio.sleep(0.1)
            writer.write(b"5\r\nhello\r\n0\r\n\r\n")

        async with upstream(late) as far, pooled() as pool:
            response = await ask(pool, far.origin)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.chunk(), 0.02)
            assert await response.chunk() == b"hello"
            assert await response.chunk() == b""

    run(loop, work)


def test_a_body_over_the_callers_limit_is_cut_off(loop: str) -> None:
    """By its length before a byte is read, or by count."""

    async def work() -> None:
        for sent in (HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000, CHUNKS + b"fffff\r\n" + b"x" * 300_000):
            async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes = sent) -> None:
                await read_request(reader)
                writer.write(sent)
                await reader.read()

            async with upstream(script) as far, pooled() as pool:
                response = await ask(pool, far.origin)
                with pytest.raises(UpstreamFault) as caught:
                    await response.read(1000)
                assert caught.value.kind == "too_large"
                await asyncio.sleep(0.01)
                assert pool.connections == 0

    run(loop, work)


def test_a_slow_reader_pauses_the_provider(loop: str) -> None:
    """20 MB into a stalled client through both halves: memory stays flat, and then every byte arrives in order."""
    total = 20 << 20

    async def work() -> None:
        given = 0

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal given
            await read_request(reader)
            writer.write(CHUNKS)
            piece = bytes(range(256)) * 256
            for _ in range(total // len(piece)):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                given += len(piece)
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        async with upstream(pour) as far, pooled() as pool:
            async def relay(incoming: Incoming, responder: Responder) -> None:
                response = await ask(pool, far.origin)
                responder.start(response.status, [], None)
                while data := await response.chunk():
                    responder.write(data)
                    if not responder.writable:
                        await responder.drain()
                responder.end()

            async with serving(relay) as server, wire(server.port, limit=4096) as client:
                tracemalloc.start()
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.sleep(0.5)
                held = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                assert given < total
                assert held < 4 << 20  # buffers of ours, of uvloop's and of the scripted provider's
                _, _, body = await client.answer()
                assert body == bytes(range(256)) * (total // 256)

    run(loop, work)


def test_a_paused_reader_is_no_idle_provider(loop: str) -> None:
    """The idle deadline counts while we want to read; a slow client is not the provider's fault."""

    async def work() -> None:
        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % (30 << 20) + b"x" * (30 << 20))
            await writer.drain()

        async with upstream(pour) as far, pooled() as pool:
            response = await ask(pool, far.origin, Timeouts(idle_s=0.2))
            await asyncio.sleep(1.0)
            size = 0
            while data := await response.chunk():
                size += len(data)
            assert size == 30 << 20

    run(loop, work)


def test_closing_the_pool_ends_everything_and_takes_no_more(loop: str) -> None:
    """What is under way fails as reset."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await reader.read()

        async with upstream(script) as far:
            pool = Pool()
            task = asyncio.create_task(ask(pool, far.origin))
            await asyncio.sleep(0.05)
            await pool.close()
            with pytest.raises(UpstreamFault) as caught:
                await task
            assert caught.value.kind == "reset" and pool.connections == 0
            with pytest.raises(UpstreamFault) as caught:
                await ask(pool, far.origin)
            assert not caught.value.sent

    run(loop, work)


def test_a_request_cannot_smuggle_a_second_one(loop: str) -> None:
    """No line break in method, target, header or host; no space in a target."""

    async def work() -> None:
        async with upstream(OK) as far, pooled() as pool:
            for method, target in (
                ("GET", "/a b"), ("GET", "/a\r\nx: y"), ("GET", "/a\n"), ("GET", "a"), ("GET", "/\0"), ("GET", "/ü"),
                ("G ET", "/"), ("GET\r\n", "/"), ("", "/"), ("get", "/"),
            ):  # fmt: skip
                with pytest.raises(ValueError):
                    await pool.send(far.origin, method, target, [], b"", QUICK)
            for value in (b"a\r\nx: y", b"a\nb", b"a\rb", b"\0"):
                with pytest.raises(BadHeader):
                    await pool.send(far.origin, "GET", "/", [(b"x", value)], b"", QUICK)
            assert far.connections == 0

    run(loop, work)


def test_an_address_is_parsed_to_its_origin_and_base_path(loop: str) -> None:
    """And one that holds anything else is refused."""
    assert Origin.parse("https://api.openai.com") == (Origin("https", "api.openai.com", 443), "")
    assert Origin.parse("https://API.x.ai/v1/") == (Origin("https", "api.x.ai", 443), "/v1")
    assert Origin.parse("http://[::1]:8080/a/b") == (Origin("http", "::1", 8080), "/a/b")
    assert Origin("http", "::1", 8080).authority == "[::1]:8080"
    assert Origin("https", "a.b", 443).authority == "a.b"
    assert Origin.parse("https://bücher.test")[0].host == "xn--bcher-kva.test"
    for bad in ("ftp://a", "https://", "a.b", "https://user:pw@a", "https://a?x", "https://a#x", "https://a:99999", "https://a b"):
        with pytest.raises(ValueError):
            Origin.parse(bad)
