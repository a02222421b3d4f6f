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
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from .invoice import NOTHING, PRICES, Buckets, Invoice
from .script import Always, Say, Script, Seen, by_header, said
from .speech import Speech, speak

BODY_MAX = 64 << 20
HEAD_MAX = 256 << 10
SEEN_MAX = 10_000  # requests kept for the tests to look at; the invoice keeps a line for each
STALL_S = 3600.0

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 413: "Too Large",
           429: "Too Many Requests", 500: "Internal Server Error", 503: "Unavailable", 529: "Overloaded"}  # fmt: skip

GEMINI = re.compile(
    r"/(?:v1|v1beta|v1beta1)/(?:.*/)?models/([^/:]+):(generateContent|streamGenerateContent|countTokens)$"
)


def dialect_of(path: str) -> str:
    """Which protocol a path speaks; also below a provider's name, as in /openai/v1/chat/completions."""
    for ending, dialect in (
        ("/chat/completions", "openai.chat"),
        ("/responses", "openai.responses"),
        ("/embeddings", "openai.embeddings"),
        ("/messages/count_tokens", "anthropic.count"),
        ("/messages", "anthropic.messages"),
        ("/v1/models", "models"),
    ):
        if path.endswith(ending):
            return dialect
    return "gemini" if GEMINI.search(path) else ""


def wall_us() -> int:
    return time.time_ns() // 1000


class Provider:
    """The provider. As `with`: in a thread of its own. As `async with`: in the running loop. `url` is its origin.

    `script` decides each answer; `prices` are dollars per million tokens by model and bucket; `clock` dates the
    invoice; `seed` goes into ids. `invoice` and `seen` may be read at any time, and are complete once a client has its answer.
    A try is billed in full when it is served, its input and the output made so far when the client or a scripted fault
    cuts it short, and nothing when it is answered with an error."""

    def __init__(
        self,
        script: Script | Say = by_header,
        *,
        prices: Mapping[str, Mapping[str, str]] = PRICES,
        clock: Callable[[], int] = wall_us,
        seed: int = 0,
    ) -> None:
        self.script: Script = Always(script) if isinstance(script, Say) else script
        self.invoice = Invoice(prices)
        self.seen: deque[Seen] = deque(maxlen=SEEN_MAX)
        self.clock, self.seed, self.url = clock, seed, ""
        self._count = 0
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
        seen = self._look(method, unquote(path), query, headers, raw)
        self.seen.append(seen)
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

    def _look(self, method: str, path: str, query: str, headers: dict[str, str], raw: bytes) -> Seen:
        self._count += 1
        try:
            body: Any = json.loads(raw) if raw else None
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = None
        dialect = dialect_of(path)
        model, stream = str((body or {}).get("model", "")), bool((body or {}).get("stream"))
        if dialect == "gemini" and (named := GEMINI.search(path)):
            model, stream = named[1], named[2].startswith("stream")
            if named[2] == "countTokens":
                dialect = ""
        return Seen(self._count, self.clock(), method, path, query, headers, raw, body, dialect, model, stream)

    def _own(self, writer: asyncio.StreamWriter, path: str) -> bool:
        """For the provider in another process: its invoice over HTTP."""
        try:
            value = self.invoice.as_json() if path == "/_script/invoice" else {"tries": self._count}
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
                self._bill(seen, say, speak(seen, say, self._ident(seen)).used.part(0), "abandoned")
                return False
        if say.fault == "reset":
            self._reset(writer)
            return False
        if say.fault == "garbage":
            writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            return False
        speech = speak(seen, say, self._ident(seen))
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
            self._bill(seen, say, speech.used, "cut")
            return False
        # On the bill before the first byte is out: a client that has its answer finds the line.
        self._bill(seen, say, speech.used, "refused" if speech.status >= 400 else "served")
        writer.write(head + body)
        await writer.drain()
        return True

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, say: Say, speech: Speech
    ) -> bool:
        pieces = list(speech.pieces)
        broken = say.fault in ("cut", "stall", "error_event", "unfinished")
        if broken:
            pieces = pieces[: max(1, len(pieces) // 2)]
        writer.write(self._head(say, speech, "transfer-encoding: chunked"))
        made, why = 0, "cut"
        try:
            for number, piece in enumerate(pieces):
                if (say.pause_s and await self._gone(reader, say.pause_s)) or writer.is_closing():
                    why = "abandoned"
                    return False
                made = piece.made
                last = number == len(pieces) - 1
                if last and not broken:
                    why = "served"
                    self._bill(seen, say, speech.used, why)
                writer.write(b"%x\r\n%s\r\n" % (len(piece.data), piece.data))
                if last and not broken:
                    writer.write(b"0\r\n\r\n")
                await writer.drain()
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
            why = why if why == "served" else "abandoned"
            raise
        finally:
            if why != "served":
                self._bill(seen, say, speech.used.part(made), why)

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

    def _ident(self, seen: Seen) -> str:
        return hashlib.blake2s(f"{self.seed}/{seen.number}".encode(), digest_size=8).hexdigest()

    def _bill(self, seen: Seen, say: Say, used: Buckets, why: str) -> None:
        self.invoice.add(
            seen.number,
            say.at_us or seen.at_us,
            say.model or seen.model,
            NOTHING if why == "refused" else used,
            why,
            say.ref,
        )


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
