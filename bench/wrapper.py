"""CPU of a wrapped SDK call over the bare one, and what `import bursar` costs: `python bench/wrapper.py`. Labels, three budgets, a
hold and a synced row for every call. CPU is this process's user + system time, all threads; the provider is another process."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

EVENTS = 200
REPLY = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": "gpt-5-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 700}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 300, "total_tokens": 500}}).encode()  # fmt: skip
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"some words"},"finish_reason":null}]}\n\n'  # fmt: skip
LAST = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5-mini","choices":[],"usage":{"prompt_tokens":200,"completion_tokens":200,"total_tokens":400}}\n\ndata: [DONE]\n\n'  # fmt: skip
BUDGETS = "".join(f'[[budget]]\nscope = "{scope}"\nlimit = "$1000000"\n' for scope in ("tenant", "feature", "model"))
# us of CPU over the bare call, and ms of import
TARGETS = {"1 KB": 60, "208 KB": 150, f"stream of {EVENTS}": 500}
IMPORT_MS = 80


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY) + REPLY
# Eight events to a write: about what a provider's network brings at a time when it is not paced.
STREAM = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
          *[chunk(EVENT) * 8] * (EVENTS // 8), chunk(LAST) + b"0\r\n\r\n"]  # fmt: skip


class Provider(asyncio.Protocol):
    """Answers each request whole, or as a stream where the body asks for one."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        size = int(self.buffer[:head].lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.buffer) < head + 4 + size:
            return
        streamed = b'"stream":true' in self.buffer[head + 4 :].replace(b" ", b"")
        self.buffer = b""
        if streamed:
            for piece in STREAM:
                self.transport.write(piece)
        else:
            self.transport.write(WHOLE)


def provide(pipe: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def cpu_us(work: Callable[[int], None], calls: int) -> float:
    start = time.process_time_ns()
    work(calls)
    return (time.process_time_ns() - start) / 1000 / calls


def compare(bare: Callable[[int], None], wrapped: Callable[[int], None], calls: int, rounds: int) -> tuple[float, float]:
    """Medians of rounds that take turns, so that a slow minute of the machine falls on both."""
    bare(20), wrapped(20)
    found = [(cpu_us(bare, calls), cpu_us(wrapped, calls)) for _ in range(rounds)]
    return statistics.median(f[0] for f in found), statistics.median(f[1] - f[0] for f in found)


def import_ms(code: str, rounds: int = 7) -> float:
    """Median CPU of a Python that runs `code`, less that of one that does nothing."""
    clock = "import time; start = time.process_time_ns()\n{}\nprint((time.process_time_ns() - start) / 1e6)"
    runs = [subprocess.run([sys.executable, "-c", clock.format(code)], capture_output=True, text=True, check=True)
            for _ in range(rounds)]  # fmt: skip
    return statistics.median(float(run.stdout) for run in runs)


def measure(calls: int, rounds: int) -> list[tuple[str, float, float, float]]:
    """(what, bare us, added us, target us)"""
    import openai

    import bursar

    ours, theirs = multiprocessing.Pipe()
    provider = multiprocessing.get_context("spawn").Process(target=provide, args=(theirs,), daemon=True)
    provider.start()
    port = ours.recv()
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    config = folder / "bursar.toml"
    config.write_text(f'[providers.openai]\nbase_url = "http://127.0.0.1:{port}"\nkey = "client"\n{BUDGETS}')

    def client(kind: Any, wrap: bool) -> Any:
        made = kind(api_key="k", base_url=f"http://127.0.0.1:{port}/v1")
        return bursar.wrap(made, config=config, ledger=folder / "ledger") if wrap else made

    small: Any = [{"role": "user", "content": "x" * 900}]
    large: Any = [{"role": "user" if n % 2 else "assistant", "content": "y" * 2000} for n in range(104)]
    found: list[tuple[str, float, float, float]] = []

    def whole(client: Any, messages: Any) -> Callable[[int], None]:
        def work(count: int) -> None:
            with bursar.labels(tenant="acme", feature="support"):
                for _ in range(count):
                    client.chat.completions.create(model="gpt-5-mini", messages=messages)

        return work

    def streamed(client: Any) -> Callable[[int], None]:
        def work(count: int) -> None:
            with bursar.labels(tenant="acme", feature="support"):
                for _ in range(count):
                    for _ in client.chat.completions.create(model="gpt-5-mini", messages=small, stream=True,
                                                            stream_options={"include_usage": True}):  # fmt: skip
                        pass

        return work

    bare, wrapped = client(openai.OpenAI, False), client(openai.OpenAI, True)
    for name, work, share in (
        ("1 KB", lambda c: whole(c, small), 1.0),
        ("208 KB", lambda c: whole(c, large), 0.5),
        (f"stream of {EVENTS}", streamed, 0.1),
    ):
        found.append((name, *compare(work(bare), work(wrapped), max(10, int(calls * share)), rounds), TARGETS[name]))

    loop = asyncio.new_event_loop()

    def awaited(client: Any) -> Callable[[int], None]:
        async def many(count: int) -> None:
            with bursar.labels(tenant="acme", feature="support"):
                for _ in range(count):
                    await client.chat.completions.create(model="gpt-5-mini", messages=small)

        return lambda count: loop.run_until_complete(many(count))

    bare, wrapped = client(openai.AsyncOpenAI, False), client(openai.AsyncOpenAI, True)
    found.append(("1 KB async", *compare(awaited(bare), awaited(wrapped), calls, rounds), TARGETS["1 KB"]))
    provider.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=400, help="per round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{'':>16} {'bare SDK':>10} {'added':>10} {'target':>10}")
    for name, bare, added, target in measure(options.calls, options.rounds):
        print(f"{name:>16} {bare:>7.0f} us {added:>7.0f} us {target:>7.0f} us  {'ok' if added <= target else 'OVER'}")
    light = import_ms("import bursar")
    labels = import_ms("import bursar; bursar.labels")
    whole = import_ms("import httpx2, openai") - import_ms("pass")
    wrap = import_ms("import httpx2, openai, bursar; bursar.wrap") - whole
    print(f"import bursar {light:.1f} ms, with labels {labels:.1f} ms, with wrap (SDK loaded before) {wrap:.0f} ms; "
          f"target {IMPORT_MS} ms")  # fmt: skip


if __name__ == "__main__":
    main()
