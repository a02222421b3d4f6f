"""What the HTTP tests share: both event loops, a server with a handler, raw sockets, scripted upstreams."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from bursar.surfaces.http_client import Origin, Pool, Timeouts
from bursar.surfaces.http_server import Incoming, Responder, Server, ServerLimits

LOOPS = ("asyncio", "uvloop")
QUICK = Timeouts(connect_s=5, headers_s=5, idle_s=5, total_s=10, write_s=5)


def run(loop: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """On that loop, in debug mode for asyncio; whatever a protocol callback let escape is an error of the test."""
    escaped: list[dict[str, Any]] = []

    async def main() -> Any:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: escaped.append(context))
        result = await asyncio.wait_for(work(), 60)
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop) as runner:
        result = runner.run(main())
    assert escaped == []
    return result


async def echo(incoming: Incoming, responder: Responder) -> None:
    """Says what it got."""
    told = {
        "method": incoming.method,
        "path": incoming.path,
        "query": incoming.query,
        "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in incoming.headers],
        "body": incoming.body.decode("latin-1"),
        "minor": incoming.http_minor,
    }
    responder.respond(200, [(b"content-type", b"application/json")], json.dumps(told).encode())


@asynccontextmanager
async def serving(
    handler: Callable[[Incoming, Responder], Awaitable[None]] = echo,
    limits: ServerLimits | None = None,
    *,
    faults: list[BaseException] | None = None,
    **more: Any,
) -> AsyncIterator[Server]:
    """A server on a free port. A handler's fault fails the test unless it asked for the list of them."""
    caught: list[BaseException] = [] if faults is None else faults
    server = Server(handler, limits, on_fault=caught.append, **more)
    await server.listen("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.shutdown(0.2)
    assert server.connections == 0 and server.in_flight == 0 and server.memory.used == 0
    if faults is None:
        assert caught == []


class Wire:
    """A client's raw socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One whole answer with a length or chunks."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            assert head.startswith("HTTP/1.1 "), "bytes before the answer"
            status = int(head.split(" ", 2)[1])
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            if head_only or status < 200:
                return status, headers, b""
            if "chunked" in headers.get("transfer-encoding", ""):
                body = b""
                while size := int((await self.reader.readuntil(b"\r\n")), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
                return status, headers, body
            if "content-length" in headers:
                return status, headers, await self.reader.readexactly(int(headers["content-length"]))
            return status, headers, await self.reader.read()

    async def rest(self, seconds: float = 10) -> bytes:
        """All until the server closes; a reset counts as closed."""
        got = b""
        async with asyncio.timeout(seconds):
            try:
                while data := await self.reader.read(1 << 16):
                    got += data
            except ConnectionError:
                pass
        return got

    async def close(self) -> None:
        if self.writer.transport.get_write_buffer_size():
            self.reset()
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def reset(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def wire(port: int, ssl: Any = None, limit: int = 1 << 16) -> AsyncIterator[Wire]:
    made = Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=ssl, limit=limit))
    try:
        yield made
    finally:
        await made.close()


def request(
    method: str = "POST", target: str = "/v1", headers: tuple[str, ...] = (), body: bytes = b"", version: str = "HTTP/1.1"
) -> bytes:
    lines = [f"{method} {target} {version}", "Host: bursar.test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request, as a provider sees it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


class Upstream:
    """A provider made of a script per connection. Counts what reaches it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []


@asynccontextmanager
async def upstream(script: Script | bytes, *, ssl: Any = None, host: str = "127.0.0.1") -> AsyncIterator[Upstream]:
    """Bytes: answered to every request on a connection, which stays open. A script: does as it likes, then it is closed."""
    open_now: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            if isinstance(script, bytes):
                while True:
                    made.requests.append(await read_request(reader))
                    writer.write(script)
            else:
                await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            open_now.discard(task)
            writer.close()
            try:
                await writer.wait_closed()
            except (OSError, asyncio.CancelledError):
                pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    port = server.sockets[0].getsockname()[1]
    made = Upstream(Origin("https" if ssl else "http", host, port))
    try:
        yield made
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def pooled(**options: Any) -> AsyncIterator[Pool]:
    pool = Pool(**options)
    try:
        yield pool
    finally:
        await pool.close()
        assert pool.connections == 0
