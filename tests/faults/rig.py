"""A gateway process, a provider that counts what it really served, and clients on raw sockets: for tests that kill things."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO


class Provider:
    """OpenAI-shaped, on loopback, in the test's own loop. `served` is the truth: every request whose body arrived."""

    def __init__(self, *, delay_s: float = 0.0, stream_events: int = 5, event_gap_s: float = 0.0) -> None:
        self.served: list[str] = []
        self.delay_s, self.stream_events, self.event_gap_s = delay_s, stream_events, event_gap_s
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.served.append(headers.get("x-test-id", ""))
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if b'"stream": true' in body or b'"stream":true' in body:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    for number in range(self.stream_events):
                        self._chunk(
                            writer, b'data: {"choices":[{"index":0,"delta":{"content":"word %d "}}]}\n\n' % number
                        )
                        await writer.drain()
                        await asyncio.sleep(self.event_gap_s)
                    self._chunk(
                        writer,
                        b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n',
                    )
                    self._chunk(writer, b"data: [DONE]\n\n")
                    writer.write(b"0\r\n\r\n")
                else:
                    answer = json.dumps(
                        {
                            "model": "gpt-5-mini",
                            "choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}],
                            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
                        }
                    ).encode()
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                        + answer
                    )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n" % len(data) + data + b"\r\n")


class GatewayProcess:
    """`bursar serve` as a process of its own, on one ledger folder."""

    def __init__(self, folder: Path, provider_url: str, extra: str = "") -> None:
        self.folder = folder
        self.config = folder / "bursar.toml"
        self.ledger = folder / "ledger"
        self.config.write_text(
            f'[providers.openai]\nbase_url = "{provider_url}"\nkey = "sk-upstream"\n\n[ledger]\ncompact_every_s = 0\n\n{extra}'
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bursar", "serve", "--config", str(self.config), "--ledger", str(self.ledger), "--port", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)  # fmt: skip
        assert self.process.stderr is not None
        deadline = time.monotonic() + 30
        said = b""
        while time.monotonic() < deadline:
            line = self.process.stderr.readline()
            said += line
            if b"serving on" in line:
                self.port = int(line.split(b"127.0.0.1:")[1].split()[0])
                break
            if not line:
                break
        assert self.port, f"the gateway did not start: {said.decode()}"
        # The pipe must not fill up: a gateway whose log nobody takes would stand still.
        threading.Thread(target=self._drain, args=(self.process.stderr,), daemon=True).start()

    @staticmethod
    def _drain(pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while pipe.read(65_536):
                pass

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(60)
        return code


async def ask(port: int, test_id: str, stream: bool, more_headers: str = "") -> tuple[bool, str, bytes]:
    """(acknowledged whole, call id, body) of one call on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello " * 20}],
                           "max_tokens": 50, **({"stream": True} if stream else {})}).encode()  # fmt: skip
        writer.write(
            (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-test-id: {test_id}\r\n"
                f"x-bursar-feature: {test_id}\r\n{more_headers}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            ).encode()
            + body
        )
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        call = next(
            (
                v.strip().decode()
                for k, _, v in (h.partition(b":") for h in head.split(b"\r\n"))
                if k.lower() == b"x-bursar-call"
            ),
            "",
        )
        rest = await reader.read()
        whole = head.startswith(b"HTTP/1.1 200") and (
            rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if stream else rest.endswith(b"}")
        )
        return whole, call, rest
    except (ConnectionError, asyncio.IncompleteReadError):
        return False, "", b""
    finally:
        writer.close()
