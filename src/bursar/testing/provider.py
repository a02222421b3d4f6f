"""A scripted provider on loopback: real sockets, all dialects, faults on demand, and its own invoice. It shares no code
with Bursar's server, readers or prices, so that it can be the judge of them.

    with Provider(lambda seen: Say(text="hello", usage=Buckets(input=900, output=40))) as provider:
        client = OpenAI(base_url=provider.url + "/v1", api_key="any")
        ...
    assert provider.invoice.total() == Decimal("0.000305")

`python -m bursar.testing.provider --port 9000` runs the default script (header `x-script`) in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from .answering import Answering
from .invoice import NOTHING
from .script import HALF, Say, Script, Seen, by_header, said
from .spoken import Speech

BODY_MAX = 64 << 20
HEAD_MAX = 256 << 10
STALL_S = 3600.0

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 413: "Too Large",
           429: "Too Many Requests", 500: "Internal Server Error", 503: "Unavailable", 529: "Overloaded"}  # fmt: skip


def wall_us() -> int:
    return time.time_ns() // 1000


class Provider(Answering):
    """The provider. As `with`: in a thread of its own. As `async with`: in the running loop. `url` is its origin.

    Its arguments are those of Answering. `invoice` and `seen` may be read at any time, and are complete once a client has its answer.
    A try is billed in full when it is served, its input and the output made so far when the client or a scripted fault
    cuts it short, and nothing when it is answered with an error."""

    def __init__(self, script: Script | Say = by_header, *, clock: Callable[[], int] = wall_us, **more: Any) -> None:
        super().__init__(script, clock=clock, **more)
        self.url = ""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=HEAD_MAX, backlog=1024)
        address, taken = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{address}:{taken}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._server = None

    async def __aenter__(self) -> Provider:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> Provider:
        ready = threading.Event()
        loop = self._loop = asyncio.new_event_loop()

        def run() -> None:
            loop.run_until_complete(self.start())
            ready.set()
            loop.run_forever()

        self._thread = threading.Thread(target=run, name="scripted-provider", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise OSError("the scripted provider could not listen on loopback")
        return self

    def __exit__(self, *_: object) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

    # One connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client left, or speaks no HTTP: a provider closes
        finally:
            self._open.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])
        }
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw = await self._body(reader, headers)
        path, _, query = target.partition("?")
        if path.startswith("/_script/"):
            return self._own(writer, path)
        seen = self.look(method, unquote(path), query, headers, raw)
        try:
            say = self.script(seen)
        except (ValueError, TypeError, KeyError) as wrong:
            say = Say(status=400, error="bad_script", message=f"the script could not answer: {wrong!r}")
        if seen.body is None and method == "POST" and seen.dialect and say.status < 400:
            say = Say(status=400, message="the body is not a JSON object")
        return await self._answer(reader, writer, seen, say) and headers.get("connection", "").lower() != "close"

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            length = int(headers.get("content-length", "0"))
            if not 0 <= length <= BODY_MAX:
                raise ValueError(f"a body of {length} bytes")
            return await reader.readexactly(length)
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(body) + size > BODY_MAX:
                raise ValueError("a body over the limit")
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return bytes(body)

    def _own(self, writer: asyncio.StreamWriter, path: str) -> bool:
        """For the provider in another process: its invoice over HTTP."""
        try:
            value = self.invoice.as_json() if path == "/_script/invoice" else {"tries": self.count}
            body, status = json.dumps(value).encode(), "200 OK"
        except LookupError as unpriced:
            body, status = json.dumps({"error": str(unpriced)}).encode(), "409 Conflict"
        writer.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (status.encode(), len(body))
        )
        writer.write(body)
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, say: Say) -> bool:
        if say.wait_s or say.fault == "silence":
            gone = await self._gone(reader, STALL_S if say.fault == "silence" else say.wait_s)
            if gone:
                # Nothing had been made yet, but the input had been read: providers bill that.
                self.bill(seen, say, self.speak(seen, say).used.part(0), "abandoned")
                return False
        if say.fault == "reset":
            self.bill(seen, say, NOTHING, "reset")
            self._reset(writer)
            return False
        if say.fault == "garbage":
            self.bill(seen, say, NOTHING, "reset")
            writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            return False
        speech = self.speak(seen, say)
        if speech.content_type == "text/event-stream" or len(speech.pieces) > 1:
            return await self._stream(reader, writer, seen, say, speech)
        return await self._whole(reader, writer, seen, say, speech)

    async def _whole(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, say: Say, speech: Speech
    ) -> bool:
        body = speech.pieces[0].data
        head = self._head(say, speech, f"content-length: {len(body)}")
        if say.fault in ("cut", "stall"):
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            if say.fault == "stall":
                await self._gone(reader, STALL_S)
            self.bill(seen, say, speech.used, "cut")
            return False
        # On the bill before the first byte is out: a client that has its answer finds the line.
        self.bill(seen, say, speech.used, "refused" if speech.status >= 400 else "served")
        writer.write(head + body)
        await writer.drain()
        return True

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, say: Say, speech: Speech
    ) -> bool:
        pieces = list(speech.pieces)
        broken = say.fault in HALF
        if broken:
            pieces = pieces[: max(1, len(pieces) // 2)]
        writer.write(self._head(say, speech, "transfer-encoding: chunked"))
        made, why, billed = 0, "cut", False
        try:
            for number, piece in enumerate(pieces):
                if (say.pause_s and await self._gone(reader, say.pause_s)) or writer.is_closing():
                    why = "abandoned"
                    return False
                made = piece.made
                last = number == len(pieces) - 1
                if last and not broken:
                    self.bill(seen, say, speech.used, "served")
                    billed = True
                writer.write(b"%x\r\n%s\r\n" % (len(piece.data), piece.data))
                if last and not broken:
                    writer.write(b"0\r\n\r\n")
                await writer.drain()
            if say.fault in ("error_event", "unfinished"):  # whose last byte is a client's answer, too
                self.bill(seen, say, speech.used.part(made), why)
                billed = True
            match say.fault:
                case "error_event":
                    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(speech.error_event), speech.error_event))
                case "unfinished":
                    writer.write(b"0\r\n\r\n")
                case "stall":
                    await self._gone(reader, STALL_S)
                    return False
                case "cut":
                    return False
            await writer.drain()
            return True
        except OSError:
            why = "abandoned"
            raise
        finally:
            if not billed:
                self.bill(seen, say, speech.used.part(made), why)

    def _head(self, say: Say, speech: Speech, framing: str) -> bytes:
        lines = [
            f"HTTP/1.1 {speech.status} {REASONS.get(speech.status, 'Scripted')}",
            f"content-type: {speech.content_type}",
            framing,
        ]
        lines += [f"{name}: {value}" for name, value in say.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _gone(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        """Wait; whether the client left meanwhile. Polls: a stream reader tells nobody of an EOF until it is read."""
        until = time.monotonic() + seconds
        while not reader.at_eof() and reader.exception() is None:
            left = until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.02))
        return True

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """An RST rather than a FIN: linger of zero."""
        raw: socket.socket | None = writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def main(arguments: list[str] | None = None) -> int:
    """The provider in a process of its own. Prints its URL on the first line; ends on a signal, or (--with-parent) when
    its standard input closes. `GET /_script/invoice` gives the bill."""
    parser = argparse.ArgumentParser(prog="python -m bursar.testing.provider", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--say", default="", help="fields of a Say as JSON, for every request without an x-script header"
    )
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    asked = parser.parse_args(arguments)
    fixed = said(json.loads(asked.say)) if asked.say else None

    def script(seen: Seen) -> Say:
        return fixed if fixed is not None and "x-script" not in seen.headers else by_header(seen)

    async def serve() -> None:
        provider = Provider(script, seed=asked.seed)
        await provider.start(asked.host, asked.port)
        print(provider.url, flush=True)
        if asked.with_parent:
            await asyncio.to_thread(sys.stdin.read)
        else:
            await asyncio.Event().wait()
        await provider.stop()

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
