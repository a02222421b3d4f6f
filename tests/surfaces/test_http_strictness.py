"""The server against raw sockets: what is ambiguous, oversized or slow is refused and its connection closed.

The rows are those of research/reliability.md 7a and 7b, in which each of five servers fails some.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme
from http_rig import LOOPS, request, run, serving, wire

from bursar.surfaces.http_server import Incoming, Responder, Server, ServerLimits

HOST = b"Host: bursar.test\r\n"
POST = b"POST /v1 HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /second HTTP/1.1\r\n" + HOST + b"\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and chunks": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "length 5, 5": (400, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "two equal lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "two lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "length +5": (400, POST + b"Content-Length: +5\r\n\r\nhello"),
    "length -5": (400, POST + b"Content-Length: -5\r\n\r\nhello"),
    "length 0x5": (400, POST + b"Content-Length: 0x5\r\n\r\nhello"),
    "length 5 5": (400, POST + b"Content-Length: 5 5\r\n\r\nhello"),
    "length empty": (400, POST + b"Content-Length:\r\n\r\nhello"),
    "length past 64 bits": (400, POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello"),
    "chunks in HTTP/1.0": (400, b"POST /v1 HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two headers": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked, identity": (400, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "gzip, chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\nhello"),
    "chunked behind a vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "chunk lines by bare LF": (400, CHUNKED + b"5\nhello\n0\n\n"),
    "chunk line by bare LF after an extension": (400, CHUNKED + b"5;a=b\nhello\r\n0\r\n\r\n"),
    "chunk size 0x3": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size -3": (400, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a space": (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size past 64 bits": (400, CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    "chunk data without CRLF": (400, CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n"),
    "chunk data longer than its size": (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    "last chunk by bare LF": (400, CHUNKED + b"3\r\nabc\r\n0\r\n\n"),
    "a length in the trailers": (400, CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 4\r\n\r\n"),
    "64 KiB chunk extension": (400, CHUNKED + b"3;" + b"x" * 65536 + b"\r\nabc\r\n0\r\n\r\n"),
    "32 KiB of trailers": (400, CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"x" * 32768 + b"\r\n\r\n"),
    "an extension on every chunk": (400, CHUNKED + b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n" * 1000),
    "folded header": (400, POST + b"X-A: a\r\n b\r\n\r\n"),
    "folded first header": (400, b"GET /v1 HTTP/1.1\r\n Host: bursar.test\r\n\r\n"),
    "LF only": (400, b"GET /v1 HTTP/1.1\nHost: bursar.test\n\n"),
    "one LF in the headers": (400, b"GET /v1 HTTP/1.1\r\nX-A: a\nHost: bursar.test\r\n\r\n"),
    "bare CR in a value": (400, POST + b"X-A: a\rb\r\n\r\n"),
    "bare CR after the version": (400, b"GET /v1 HTTP/1.1\rHost: bursar.test\r\n\r\n"),
    "NUL in a value": (400, POST + b"X-A: a\0b\r\n\r\n"),
    "NUL in a name": (400, POST + b"X\0A: a\r\n\r\n"),
    "control in a value": (400, POST + b"X-A: a\x01b\r\n\r\n"),
    "space before the colon": (400, POST + b"X-A : a\r\n\r\n"),
    "no name": (400, POST + b": a\r\n\r\n"),
    "no colon": (400, POST + b"nonsense\r\n\r\n"),
    "no Host": (400, b"GET /v1 HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, POST + b"Host: other.test\r\n\r\n"),
    "two equal Hosts": (400, POST + HOST + b"\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET /v1 HTTP/1.0\r\n" + HOST + HOST + b"\r\n"),
    "empty Host": (400, b"GET /v1 HTTP/1.1\r\nHost:\r\n\r\n"),
    "Host with a slash": (400, b"GET /v1 HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host with a fragment": (400, b"GET /v1 HTTP/1.1\r\nHost: a#b\r\n\r\n"),
    "Host with a space": (400, b"GET /v1 HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "Host with credentials": (400, b"GET /v1 HTTP/1.1\r\nHost: me@a\r\n\r\n"),
    "Host of two, merged": (400, b"GET /v1 HTTP/1.1\r\nHost: a,b\r\n\r\n"),
    "Host with a wordy port": (400, b"GET /v1 HTTP/1.1\r\nHost: a:http\r\n\r\n"),
    "Host beyond ASCII": (400, b"GET /v1 HTTP/1.1\r\nHost: b\xc3\xbcrsar\r\n\r\n"),
    "1 MiB header": (431, POST + b"X-A: " + b"a" * (1 << 20) + b"\r\n\r\n"),
    "40 KiB of headers, each small": (431, POST + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 1000) for i in range(40)) + b"\r\n"),
    "40 KiB in one header": (431, POST + b"X-A: " + b"a" * 40960 + b"\r\n\r\n"),
    "10,000 headers": (431, POST + b"a: b\r\n" * 10_000 + b"\r\n"),
    "101 headers": (431, POST + b"a: b\r\n" * 100 + b"\r\n"),
    "9 KiB target": (414, b"GET /" + b"a" * 9216 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "1 MiB target": (414, b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "1 MiB method": (400, b"A" * (1 << 20)),
    "1 MiB of empty lines": (400, b"\r\n" * (1 << 19)),
    "body too large by its header": (413, POST + b"Content-Length: 100001\r\n\r\n"),
    "body too large by count": (413, CHUNKED + b"10000\r\n" + b"x" * 65536 + b"\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "CONNECT": (501, b"CONNECT provider.test:443 HTTP/1.1\r\nHost: provider.test:443\r\n\r\nhello"),
    "TRACE": (501, b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a method of WebDAV": (501, b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a method of nobody": (400, b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a method in lower case": (400, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "absolute target": (400, b"GET http://other.test/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target without a slash": (400, b"GET v1 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "asterisk for a GET": (400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "fragment in the target": (400, b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "control in the target": (400, b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target beyond ASCII": (400, b"GET /\xc3\xbc HTTP/1.1\r\n" + HOST + b"\r\n"),
    "tab for a space": (400, b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "space after the version": (400, b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\n" + HOST + b"\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS on a plain port": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100),
    "an expectation we do not know": (417, POST + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"),
}  # fmt: skip

LIMITS = ServerLimits(body_bytes=100_000)




@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_or_oversized_is_refused_and_the_connection_closed(loop: str, case: str) -> None:
    """One refusal, no call, and nothing behind it is taken for a second request."""
    status, sent = REFUSED[case]

    async def work() -> None:
        calls: list[str] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            calls.append(incoming.path)
            responder.respond(200, [], b"")

        async with serving(handler, LIMITS) as server, wire(server.port) as client:
            client.send(sent + NEXT)
            got = await client.rest()
            assert got.startswith(b"HTTP/1.1 %d " % status), got[:200]
            assert got.count(b"HTTP/1.1 ") == 1
            assert b"connection: close" in got and b'"code"' in got
            assert calls == []

    run(loop, work)


ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "no body": (request("GET"), b""),
    "a body with a length": (request(body=b"hello"), b"hello"),
    "blanks around a length": (POST + b"Content-Length: \t5 \t\r\n\r\nhello", b"hello"),
    "zeros before a length": (POST + b"Content-Length: 005\r\n\r\nhello", b"hello"),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    "chunks with an extension": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
    "chunks with a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    "Chunked, spelt large": (POST + b"TRANSFER-ENCODING: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "zeros before a chunk size": (CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "an empty line before": (b"\r\n" + request("GET"), b""),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b""),
    "an empty value": (b"GET / HTTP/1.1\r\nX-A:\r\n" + HOST + b"\r\n", b""),
    "bytes beyond ASCII in a value": (b"GET / HTTP/1.1\r\nX-A: \xfc\r\n" + HOST + b"\r\n", b""),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "100 headers": (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 99 + b"\r\n", b""),
    "31 KiB of headers": (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * (31 << 10) + b"\r\n\r\n", b""),
    "8 KiB target": (b"GET /" + b"a" * 8191 + b" HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "a body of the limit": (POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000, b"x" * 100_000),
    "a body of one-byte chunks": (CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", b"x" * 20_000),
    "upgrade asked with a body, as Java does": (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Upgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", b"hello",
    ),
    "upgrade asked with chunks": (
        POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "upgrade not asked by Connection": (POST + b"Upgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_unusual_but_plain_is_served_and_the_connection_kept(loop: str, case: str) -> None:
    """Strictness must not cost a client: each of these is well-formed, and the request behind it is the next one."""
    sent, body = ACCEPTED[case]

    async def work() -> None:
        calls: list[Incoming] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            calls.append(incoming)
            responder.respond(200, [], b"ok")

        async with serving(handler, LIMITS) as server, wire(server.port) as client:
            client.send(sent + NEXT)
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 200
            assert calls[0].body == body
            assert calls[1].path == "/second" and calls[1].body == b""

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_upgrade_is_ignored_and_none_of_its_headers_remain(loop: str) -> None:
    """What asked for another protocol is not told to the handler, who might pass it on."""

    async def work() -> None:
        seen: list[Incoming] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            seen.append(incoming)
            responder.respond(200, [], b"")

        async with serving(handler) as server, wire(server.port) as client:
            client.send(POST + b"X-A: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello")
            got = await client.rest()
            assert got.count(b"HTTP/1.1 200") == 1 and b"connection: close" in got
            assert seen[0].header(b"upgrade") is None and seen[0].header(b"x-a") == b"a"

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_body_shorter_than_declared_is_no_request(loop: str) -> None:
    """Granian hands a cut body to the application as a whole one; here nobody sees it."""

    async def work() -> None:
        calls: list[Incoming] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            calls.append(incoming)
            responder.respond(200, [], b"")

        for cut in (POST + b"Content-Length: 10\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n", POST[:-4]):
            async with serving(handler) as server, wire(server.port) as client:
                client.send(cut)
                client.writer.write_eof()
                assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
                assert calls == []

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refusal_waits_for_the_answers_before_it(loop: str) -> None:
    """A good request, then rubbish: first its answer, then the refusal, then the end."""

    async def work() -> None:
        async def slow(incoming: Incoming, responder: Responder) -> None:
            await asyncio.sleep(0.05)
            responder.respond(200, [], b"good")

        async with serving(slow) as server, wire(server.port) as client:
            client.send(request("GET") + b"rubbish\r\n\r\n")
            got = await client.rest()
            assert got.index(b"200 OK") < got.index(b"good") < got.index(b"400 Bad Request")

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_bodies_together_are_bounded_and_the_room_comes_back(loop: str) -> None:
    """Many half-sent bodies may not take the machine's memory: 503, and normal service when they are gone."""

    async def work() -> None:
        limits = ServerLimits(body_total_bytes=100_000)
        async with serving(limits=limits) as server:
            async with wire(server.port) as hog:
                hog.send(POST + b"Content-Length: 90000\r\n\r\n" + b"x" * 80_000)
                while server.memory.used < 80_000:
                    await asyncio.sleep(0.005)
                async with wire(server.port) as client:
                    client.send(request(body=b"x" * 30_000))
                    assert (await client.answer())[0] == 503
            while server.memory.used:
                await asyncio.sleep(0.005)
            async with wire(server.port) as client:
                client.send(request(body=b"x" * 30_000))
                assert (await client.answer())[0] == 200

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_are_bounded(loop: str) -> None:
    """One more than the limit is told so at once."""

    async def work() -> None:
        async with serving(limits=ServerLimits(connections=2)) as server:
            async with wire(server.port) as one, wire(server.port) as two:
                one.send(request("GET"))
                two.send(request("GET"))
                assert (await one.answer())[0] == (await two.answer())[0] == 200
                async with wire(server.port) as three:
                    assert (await three.rest()).startswith(b"HTTP/1.1 503 ")
                one.send(request("GET"))
                assert (await one.answer())[0] == 200

    run(loop, work)


# -- slow clients (7b) -------------------------------------------------------------------------------------------------

HASTY = ServerLimits(header_s=0.3, body_idle_s=0.3, idle_s=0.3, write_stall_s=0.3)


async def drip(client: object, head: bytes, step: bytes, times: int = 100) -> None:
    for piece in [head, *[step] * times]:
        client.send(piece)  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)


SLOW: dict[str, tuple[bytes, bytes, bytes]] = {
    "nothing sent": (b"", b"", b""),
    "half a request line": (b"GET /v1 HT", b"", b"408"),
    "half the headers": (POST[:-6], b"", b"408"),
    "a header now and then": (POST, b"X-A: a\r\n", b"408"),
    "empty lines now and then": (b"", b"\r\n", b""),
    "no body": (POST + b"Content-Length: 5\r\n\r\n", b"", b"408"),
    "a body that stalls": (POST + b"Content-Length: 5\r\n\r\nhel", b"", b"408"),
    "a body by the byte": (POST + b"Content-Length: 5000\r\n\r\n", b"x", b"408"),
    "chunks by the byte": (CHUNKED, b"1\r\nx\r\n", b"408"),
    "an expectation never met": (POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"", b"408"),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", SLOW)
def test_a_slow_client_is_closed_on_time(loop: str, case: str) -> None:
    """All five servers of 7b keep most of these open for ever. The bound here is generous: the machine may be busy."""
    head, step, told = SLOW[case]

    async def work() -> None:
        async with serving(limits=HASTY) as server, wire(server.port) as client:
            began = asyncio.get_running_loop().time()
            dripping = asyncio.create_task(drip(client, head, step))
            try:
                got = await client.rest(8)
            finally:
                dripping.cancel()
                await asyncio.gather(dripping, return_exceptions=True)
            assert told in got
            assert asyncio.get_running_loop().time() - began >= 0.25

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_body_that_makes_progress_is_not_cut(loop: str) -> None:
    """Longer than the deadline in all, but at more than 1 KiB/s."""

    async def work() -> None:
        async with serving(limits=HASTY) as server, wire(server.port) as client:
            client.send(POST + b"Content-Length: 24000\r\n\r\n")
            for _ in range(24):
                await asyncio.sleep(0.04)
                client.send(b"x" * 1000)
            assert (await client.answer())[0] == 200

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_idle_connection_is_closed_without_a_word_and_a_busy_one_is_not(loop: str) -> None:
    """A word would be taken for the answer to the next request. A handler may take as long as it likes."""

    async def work() -> None:
        async def slow(incoming: Incoming, responder: Responder) -> None:
            await asyncio.sleep(1.0)
            responder.respond(200, [], b"late")

        async with serving(slow, HASTY) as server, wire(server.port) as client:
            client.send(request("GET"))
            assert (await client.answer())[2] == b"late"
            assert await client.rest(8) == b""

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_is_cut_off_and_costs_no_memory(loop: str) -> None:
    """The handler waits in drain(); the stall closes the connection, and the handler is told by `gone`."""

    async def work() -> None:
        written = 0
        told = asyncio.Event()

        async def pour(incoming: Incoming, responder: Responder) -> None:
            nonlocal written
            responder.on_gone = told.set
            responder.start(200, [], None)
            while not responder.gone:
                responder.write(b"x" * 65536)
                written += 65536
                if not responder.writable:
                    await responder.drain()

        async with serving(pour, HASTY) as server, wire(server.port, limit=1024) as client:
            client.send(request("GET"))
            async with asyncio.timeout(8):
                await told.wait()
            assert written < 30 << 20  # what the system's socket buffers on both ends take, and one buffer of ours

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_finished_answer_that_nobody_reads_is_cut_off_too(loop: str) -> None:
    """The handler is long done; the bytes wait in the transport, and not for ever."""

    async def work() -> None:
        async def big(incoming: Incoming, responder: Responder) -> None:
            responder.respond(200, [(b"connection", b"close")], b"x" * (30 << 20))

        async with serving(big, HASTY) as server, wire(server.port, limit=1024) as client:
            client.send(request("GET", headers=("Connection: close",)))
            async with asyncio.timeout(8):
                while server.connections or not client.reader._buffer:  # type: ignore[attr-defined]
                    await asyncio.sleep(0.02)

    run(loop, work)


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_and_broken_clients_behind_tls_are_treated_the_same(loop: str) -> None:
    """The refusal arrives through TLS, and the deadline closes."""
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    theirs = ssl.create_default_context()
    theirs.check_hostname = False
    authority.configure_trust(theirs)

    async def work() -> None:
        server = Server(echo_tls, HASTY)
        await server.listen("127.0.0.1", 0, ssl=ours)
        try:
            for sent, status in ((request("GET"), 200), (b"rubbish\r\n\r\n", 400), (POST, 408)):
                async with wire(server.port, ssl=theirs) as client:
                    client.send(sent)
                    assert (await client.answer())[0] == status
        finally:
            await server.shutdown(0.2)

    run(loop, work)


async def echo_tls(incoming: Incoming, responder: Responder) -> None:
    assert incoming.tls
    responder.respond(200, [], b"")
