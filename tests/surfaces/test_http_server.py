"""The server's ordinary work: answers of every shape, order, back-pressure, disconnects, faults, shutdown."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from http_rig import LOOPS, request, run, serving, wire

from bursar.surfaces.http_common import BadHeader, end_to_end, header_block
from bursar.surfaces.http_server import Incoming, Responder, Server, ServerLimits

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def test_a_handler_gets_the_request_as_it_was_sent(loop: str) -> None:
    """Path and query raw, header names in lower case, order and duplicates kept, the body whole."""

    async def work() -> None:
        async with serving() as server, wire(server.port) as client:
            client.send(
                request(target="/v1/a%20b//c?x=1&y=%2F", headers=("X-A: One ", "x-b: 2", "X-A: three"), body=b"hello")
            )
            status, headers, body = await client.answer()
            told = json.loads(body)
            assert status == 200 and "connection" not in headers
            assert (told["method"], told["path"], told["query"]) == ("POST", "/v1/a%20b//c", "x=1&y=%2F")
            assert told["headers"] == [
                ["host", "bursar.test"], ["x-a", "One"], ["x-b", "2"], ["x-a", "three"],
            ]  # fmt: skip
            assert told["body"] == "hello" and told["minor"] == 1

    run(loop, work)


def test_header_gives_the_first_of_that_name(loop: str) -> None:
    """And None for one that is not there."""
    headers = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    incoming = Incoming("GET", "/", "", headers, b"", None, 1, 0, False, dict(headers))
    assert incoming.header(b"a") == b"1" and incoming.header(b"c") is None


def test_a_connection_serves_many_requests(loop: str) -> None:
    """Kept alive, one connection in the books, none in flight between."""

    async def work() -> None:
        async with serving() as server, wire(server.port) as client:
            for size in (0, 1, 1000, 100_000, 1 << 20):
                client.send(request(body=b"x" * size))
                status, _, body = await client.answer()
                assert status == 200 and len(json.loads(body)["body"]) == size
            assert server.connections == 1

    run(loop, work)


def test_requests_sent_ahead_are_answered_in_order(loop: str) -> None:
    """The next one's handler starts when the one before has ended its answer, never earlier."""

    async def work() -> None:
        at_once = 0

        async def handler(incoming: Incoming, responder: Responder) -> None:
            nonlocal at_once
            at_once += 1
            assert at_once == 1
            await asyncio.sleep(0.002 if incoming.path.endswith("0") else 0)
            at_once -= 1
            responder.respond(200, [], incoming.path.encode() + b"|" + incoming.body)

        async with serving(handler) as server, wire(server.port) as client:
            for start in (0, 60):
                for i in range(start, start + 60):
                    client.send(request(target=f"/{i}", body=b"b" * (i * 100)))
                for i in range(start, start + 60):
                    assert (await client.answer())[2] == b"/%d|%b" % (i, b"b" * (i * 100))

    run(loop, work)


def test_what_is_sent_far_ahead_is_not_read(loop: str) -> None:
    """While one request is answered, the client's socket is read no further than a small buffer."""

    async def work() -> None:
        go_on = asyncio.Event()

        async def handler(incoming: Incoming, responder: Responder) -> None:
            await go_on.wait()
            responder.respond(200, [], b"")

        async with serving(handler) as server, wire(server.port) as client:
            client.send(request("GET"))
            many = 40
            for _ in range(many):
                client.send(request(body=b"x" * (1 << 20)))
            await asyncio.sleep(0.2)
            (connection,) = server.open
            assert connection._held_size < 1 << 20
            assert server.memory.used <= 16 << 10  # what came with the first request's own bytes
            go_on.set()
            for _ in range(many + 1):
                assert (await client.answer())[0] == 200

    run(loop, work)


def test_answers_of_every_shape(loop: str) -> None:
    """Length, chunks, no body, HEAD, HTTP/1.0 with and without keep-alive."""

    async def handler(incoming: Incoming, responder: Responder) -> None:
        headers = [(b"x-a", b"1"), (b"content-length", b"999"), (b"Transfer-Encoding", b"x"), (b"connection", b"x")]
        match incoming.path:
            case "/chunks":
                responder.start(200, headers, None)
                for piece in (b"a", b"", b"b" * 100_000):
                    responder.write(piece)
                responder.end()
            case "/length":
                responder.start(200, headers, 3)
                responder.write(b"ab")
                responder.write(b"c")
                responder.end()
            case "/whole":
                responder.respond(200, headers, b"abc")
            case _:
                responder.respond(529, headers, b"x" * 50_000)

    async def work() -> None:
        async with serving(handler) as server, wire(server.port) as client:
            client.send(request("GET", "/chunks"))
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"a" + b"b" * 100_000)
            assert headers == {"x-a": "1", "transfer-encoding": "chunked"}
            for path in ("/length", "/whole"):
                client.send(request("GET", path))
                assert await client.answer() == (200, {"x-a": "1", "content-length": "3"}, b"abc")
            client.send(request("GET", "/529"))
            status, headers, body = await client.answer()
            assert (status, len(body)) == (529, 50_000)
            for path in ("/chunks", "/length", "/whole", "/529"):
                client.send(request("HEAD", path))
                assert (await client.answer(head_only=True))[0] in (200, 529)
            for path in ("/length", "/whole"):
                client.send(request("GET", path, ("Connection: keep-alive",), version="HTTP/1.0"))
                status, headers, body = await client.answer()
                assert (body, headers["connection"]) == (b"abc", "keep-alive")
            client.send(request("GET", "/chunks", ("Connection: keep-alive",), version="HTTP/1.0"))
            got = await client.rest()
            assert got.endswith(b"\r\n\r\na" + b"b" * 100_000) and b"connection: close" in got

    run(loop, work)


def test_an_answer_without_body_is_only_its_head(loop: str) -> None:
    """A 204 has no length, whatever the handler gave as its body."""

    async def handler(incoming: Incoming, responder: Responder) -> None:
        responder.respond(204, [], b"dropped")

    async def work() -> None:
        async with serving(handler) as server, wire(server.port) as client:
            client.send(request("GET", headers=("Connection: close",)))
            assert await client.rest() == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"

    run(loop, work)


def test_connection_close_is_honoured(loop: str) -> None:
    """Said in the answer, and done; what the client sends behind it is nobody's business."""

    async def work() -> None:
        async with serving() as server, wire(server.port) as client:
            client.send(request("GET", headers=("Connection: close",)) + b"rubbish" * 10)
            got = await client.rest()
            assert got.count(b"HTTP/1.1 ") == 1 and got.startswith(b"HTTP/1.1 200") and b"connection: close" in got

    run(loop, work)


def test_an_expectation_is_met_before_the_body(loop: str) -> None:
    """`Expect: 100-continue` gets its word; when the body came along anyway, none."""

    async def work() -> None:
        async with serving() as server, wire(server.port) as client:
            head = request("POST", headers=("Expect: 100-continue", "Content-Length: 5"))
            client.send(head)
            assert (await client.answer())[0] == 100
            client.send(b"hello")
            assert (await client.answer())[0] == 200
            client.send(head + b"hello")
            assert (await client.answer())[0] == 200

    run(loop, work)


def test_an_expectation_for_a_body_too_large_is_refused_instead(loop: str) -> None:
    """The client is spared the sending."""

    async def work() -> None:
        async with serving(limits=ServerLimits(body_bytes=4)) as server, wire(server.port) as client:
            client.send(request("POST", headers=("Expect: 100-continue", "Content-Length: 5")))
            assert (await client.rest()).startswith(b"HTTP/1.1 413 ")

    run(loop, work)


def test_a_client_that_leaves_is_noticed_at_once(loop: str) -> None:
    """By close, by reset, or by closing its side; once; and writing on is no error."""

    async def work() -> None:
        calls: list[int] = []
        gone = asyncio.Event()

        async def handler(incoming: Incoming, responder: Responder) -> None:
            responder.on_gone = lambda: (calls.append(1), gone.set())
            if incoming.path == "/stream":
                responder.start(200, [], None)
                responder.write(b"first")
            await asyncio.wait_for(gone.wait(), 5)
            assert responder.gone
            if incoming.path == "/stream":
                for _ in range(20):
                    responder.write(b"x" * 100_000)
                    await responder.drain()
                responder.end()
                responder.abort()
            else:
                responder.respond(200, [], b"nobody")
            assert responder.on_gone is not None

        async with serving(handler) as server:
            for path in ("/plain", "/stream"):
                for way in ("close", "reset", "eof"):
                    calls.clear()
                    gone.clear()
                    async with wire(server.port) as client:
                        client.send(request("GET", path))
                        while not server.in_flight:
                            await asyncio.sleep(0.001)
                        if path == "/stream":
                            await client.reader.readuntil(b"first")
                        match way:
                            case "close":
                                client.writer.close()
                            case "reset":
                                client.reset()
                            case _:
                                client.writer.write_eof()
                        await asyncio.wait_for(gone.wait(), 2)
                        while server.connections or server.in_flight:
                            await asyncio.sleep(0.001)
                        assert calls == [1]

    run(loop, work)


def test_a_client_that_leaves_after_the_answer_is_no_event(loop: str) -> None:
    """The handler may still be at work; the answer was given."""

    async def work() -> None:
        calls: list[int] = []
        done = asyncio.Event()

        async def handler(incoming: Incoming, responder: Responder) -> None:
            responder.on_gone = lambda: calls.append(1)
            responder.respond(200, [], b"")
            await done.wait()

        async with serving(handler) as server:
            async with wire(server.port) as client:
                client.send(request("GET"))
                await client.answer()
            while server.connections:
                await asyncio.sleep(0.001)
            assert calls == [] and server.in_flight == 1
            done.set()

    run(loop, work)


def test_a_slow_reader_slows_the_handler_and_gets_everything(loop: str) -> None:
    """`writable` falls, drain() waits, and nothing is lost or piled up."""

    async def work() -> None:
        waits = 0

        async def handler(incoming: Incoming, responder: Responder) -> None:
            nonlocal waits
            responder.start(200, [], None)
            for i in range(200):
                responder.write(bytes([i % 256]) * 50_000)
                if not responder.writable:
                    waits += 1
                    assert responder._transport.get_write_buffer_size() < 1 << 20
                    await responder.drain()
                    assert responder.writable
            responder.end()

        async with serving(handler) as server, wire(server.port, limit=4096) as client:
            client.send(request("GET"))
            await asyncio.sleep(0.1)
            _, _, body = await client.answer()
            assert body == b"".join(bytes([i % 256]) * 50_000 for i in range(200))
            assert waits > 0

    run(loop, work)


def test_a_handlers_fault_is_a_500_or_a_broken_message(loop: str) -> None:
    """Never a whole-looking answer; the hook is told; the server goes on."""

    async def work() -> None:
        async def handler(incoming: Incoming, responder: Responder) -> None:
            match incoming.path:
                case "/early":
                    raise LookupError("a bug")
                case "/chunks":
                    responder.start(200, [], None)
                    responder.write(b"part")
                    raise LookupError("a bug")
                case "/length":
                    responder.start(200, [], 10)
                    responder.write(b"part")
                    responder.end()
                case "/long":
                    responder.start(200, [], 2)
                    responder.write(b"part")
                case "/forgot":
                    pass
                case "/left":
                    responder.start(200, [], None)
                    responder.write(b"part")
                case "/header":
                    responder.respond(200, [(b"x-a", b"1\r\nset-cookie: x")], b"")
                case "/twice":
                    responder.respond(200, [], b"")
                    responder.respond(200, [], b"")
                case "/late":
                    responder.respond(200, [], b"")
                    raise LookupError("after the answer")

        faults: list[BaseException] = []
        async with serving(handler, faults=faults) as server:
            for path, status, whole in (
                ("/early", 500, True), ("/forgot", 500, True), ("/header", 500, True), ("/chunks", 200, False),
                ("/length", 200, False), ("/long", 200, False), ("/left", 200, False), ("/twice", 200, True), ("/late", 200, True),
            ):  # fmt: skip
                faults.clear()
                async with wire(server.port) as client:
                    client.send(request("GET", path))
                    if whole:
                        assert (await client.answer())[0] == status
                        await asyncio.sleep(0.01)
                    else:
                        got = await client.rest()
                        assert got.startswith(b"HTTP/1.1 200") and not got.endswith(b"0\r\n\r\n") and b"set-cookie" not in got
                    assert len(faults) == 1, path

    run(loop, work)


def test_an_abort_delivers_what_was_written_and_shows_the_break(loop: str) -> None:
    """With chunks the last chunk is missing; to HTTP/1.0 without a length, a reset tells."""

    async def work() -> None:
        async def handler(incoming: Incoming, responder: Responder) -> None:
            responder.start(200, [], None)
            responder.write(b"part")
            await asyncio.sleep(0.05)
            responder.abort()

        async with serving(handler) as server:
            async with wire(server.port) as client:
                client.send(request("GET"))
                assert (await client.rest()).endswith(b"4\r\npart\r\n")
            async with wire(server.port) as client:
                client.send(request("GET", version="HTTP/1.0"))
                await client.reader.readuntil(b"part")
                try:
                    await asyncio.wait_for(client.reader.read(), 5)
                    broken = False
                except ConnectionResetError:
                    broken = True
                assert broken

    run(loop, work)


def test_refused_requests_are_told_in_the_callers_words(loop: str) -> None:
    """`on_error_reply` writes the body."""

    def say(status: int, code: str, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
        return [(b"x-code", code.encode())], b"own words %d" % status

    async def work() -> None:
        async with serving(on_error_reply=say) as server, wire(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            status, headers, body = await client.answer()
            assert (status, headers["x-code"], body) == (400, "no_host", b"own words 400")

    run(loop, work)


def test_shutdown_lets_what_is_in_flight_finish(loop: str) -> None:
    """Idle connections close, answers under way say `connection: close`, nobody new is taken."""

    async def work() -> None:
        async def handler(incoming: Incoming, responder: Responder) -> None:
            await asyncio.sleep(0.2)
            if incoming.path == "/stream":
                responder.start(200, [], None)
                for _ in range(5):
                    responder.write(b"x")
                    await asyncio.sleep(0.02)
                responder.end()
            else:
                responder.respond(200, [], b"done")

        server = Server(handler)
        await server.listen("127.0.0.1", 0)
        async with wire(server.port) as idle, wire(server.port) as plain, wire(server.port) as stream:
            plain.send(request("GET"))
            stream.send(request("GET", "/stream"))
            while server.in_flight < 2:
                await asyncio.sleep(0.005)
            assert server.connections == 3
            port = server.port
            stopping = asyncio.create_task(server.shutdown(5))
            assert await idle.rest() == b""
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            status, headers, body = await plain.answer()
            assert (status, headers["connection"], body) == (200, "close", b"done")
            status, headers, body = await stream.answer()
            assert (status, headers["connection"], body) == (200, "close", b"xxxxx")
            await stopping
            assert server.connections == server.in_flight == 0

    run(loop, work)


def test_after_the_grace_shutdown_breaks_off(loop: str) -> None:
    """Handlers are told, get a moment, and are cancelled only if they do not end."""

    async def work() -> None:
        ended: list[str] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            gone = asyncio.Event()
            responder.on_gone = gone.set
            responder.start(200, [], None)
            responder.write(b"part")
            try:
                if incoming.path == "/stubborn":
                    await asyncio.sleep(60)
                await gone.wait()
                ended.append("told")
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        server = Server(handler)
        await server.listen("127.0.0.1", 0)
        async with wire(server.port) as one, wire(server.port) as two:
            one.send(request("GET"))
            two.send(request("GET", "/stubborn"))
            while server.in_flight < 2:
                await asyncio.sleep(0.005)
            await server.shutdown(0.1)
            assert ended == ["told", "cancelled"]
            for client in (one, two):
                got = await client.rest()
                assert not got.endswith(b"0\r\n\r\n")

    run(loop, work)


def test_it_listens_on_a_socket_given_to_it(loop: str) -> None:
    """For a listener that was made, and bound, by somebody else."""

    async def work() -> None:
        async def handler(incoming: Incoming, responder: Responder) -> None:
            responder.respond(200, [], repr(incoming.peer).encode())

        made = socket.create_server(("127.0.0.1", 0))
        server = Server(handler)
        await server.listen(sock=made)
        async with wire(server.port) as client:
            client.send(request("GET"))
            assert b"127.0.0.1" in (await client.answer())[2]
        await server.shutdown(1)

    run(loop, work)


def test_what_belongs_to_one_connection_is_not_forwarded(loop: str) -> None:
    """The hop-by-hop headers, and those that Connection names, however often."""
    kept = [(b"x-a", b"1"), (b"accept", b"*/*")]
    hop = [(b"connection", b"close"), (b"keep-alive", b"5"), (b"te", b"trailers"), (b"upgrade", b"h2c"), (b"trailer", b"x")]
    assert end_to_end(kept) == kept
    assert end_to_end([*kept, *hop]) == kept
    assert end_to_end([*kept, (b"connection", b"Keep-Alive")]) == kept
    assert end_to_end([*kept, (b"connection", b"close, X-A")]) == [(b"accept", b"*/*")]
    assert end_to_end([*kept, (b"connection", b"x-a"), (b"connection", b"close")]) == [(b"accept", b"*/*")]


@pytest.mark.parametrize("bad", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b", b"\n", b"a\r\n"])
def test_no_header_of_ours_can_hold_a_line_break(loop: str, bad: bytes) -> None:
    """Whoever could write one could write a second message."""
    for headers in ([(b"x", bad)], [(bad, b"x")], [(b"a", b"b"), (b"x", bad), (b"c", b"d")]):
        with pytest.raises(BadHeader):
            header_block(b"HTTP/1.1 200 OK\r\n", headers, b"")
    assert header_block(b"A\r\n", [], b"B\r\n") == b"A\r\nB\r\n\r\n"
    assert header_block(b"A\r\n", [(b"x", b"")], b"") == b"A\r\nx: \r\n\r\n"
