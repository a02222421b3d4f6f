"""CPU of a wrapped SDK call over the bare one, and what `import bursar` costs: `python bench/wrapper.py`. Labels, three budgets, a
hold and a synced row for every call. CPU is a process's user + system time, all threads; bare calls, wrapped calls and the provider
are three processes. BURSAR_SDK_FAST=0 leaves the SDK's own work as it is in both."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
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


SMALL: Any = [{"role": "user", "content": "x" * 900}]
LARGE: Any = [{"role": "user" if n % 2 else "assistant", "content": "y" * 2000} for n in range(104)]


def caller(pipe: Connection, port: int, folder: Path | None) -> None:
    """A process with clients of its own, wrapped where there is a folder for a ledger: runs what it is told, says what CPU that
    took. Bare and wrapped are two processes, for wrapping changes the SDK in the process it happens in."""
    import openai

    import bursar

    def client(kind: Any) -> Any:
        made = kind(api_key="k", base_url=f"http://127.0.0.1:{port}/v1")
        return bursar.wrap(made, config=folder / "bursar.toml", ledger=folder / "ledger") if folder else made

    def whole(messages: Any, count: int) -> None:
        for _ in range(count):
            sync.chat.completions.create(model="gpt-5-mini", messages=messages)

    def streamed(count: int) -> None:
        for _ in range(count):
            for _ in sync.chat.completions.create(
                model="gpt-5-mini", messages=SMALL, stream=True, stream_options={"include_usage": True}
            ):
                pass

    async def awaited(count: int) -> None:
        for _ in range(count):
            await other.chat.completions.create(model="gpt-5-mini", messages=SMALL)

    sync, other, loop = client(openai.OpenAI), client(openai.AsyncOpenAI), asyncio.new_event_loop()
    works: dict[str, Callable[[int], None]] = {
        "1 KB": lambda count: whole(SMALL, count),
        "208 KB": lambda count: whole(LARGE, count),
        f"stream of {EVENTS}": streamed,
        "1 KB async": lambda count: loop.run_until_complete(awaited(count)),
    }
    with bursar.labels(tenant="acme", feature="support"):
        while True:
            name, count = pipe.recv()
            pipe.send(cpu_us(works[name], count))


def import_ms(code: str, rounds: int = 7) -> float:
    """Median CPU of a Python that runs `code`. Compiled before, as an installed package is."""
    clock = "import time; start = time.process_time_ns()\n{}\nprint((time.process_time_ns() - start) / 1e6)"
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as compiled:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        runs = [subprocess.run([sys.executable, "-c", clock.format(code)], capture_output=True, text=True, check=True,
                               env={**kept, "PYTHONPYCACHEPREFIX": compiled})
                for _ in range(rounds + 1)]  # fmt: skip
    return statistics.median(float(run.stdout) for run in runs[1:])


def measure(calls: int, rounds: int) -> list[tuple[str, float, float, float]]:
    """(what, bare us, added us, target us): medians of rounds that take turns, so that a slow minute of the machine falls on both."""
    spawn = multiprocessing.get_context("spawn")

    def start(work: Callable[..., None], *more: Any) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        spawn.Process(target=work, args=(theirs, *more), daemon=True).start()
        return ours

    port = start(provide).recv()
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    (folder / "bursar.toml").write_text(f'[providers.openai]\nbase_url = "http://127.0.0.1:{port}"\nkey = "client"\n{BUDGETS}')
    pair = start(caller, port, None), start(caller, port, folder)

    def both(name: str, count: int) -> list[float]:
        found: list[float] = []
        for pipe in pair:
            pipe.send((name, count))
            found.append(pipe.recv())
        return found

    found: list[tuple[str, float, float, float]] = []
    for name, share in (("1 KB", 1.0), ("208 KB", 0.5), (f"stream of {EVENTS}", 0.1), ("1 KB async", 1.0)):
        both(name, 50)
        runs = [both(name, max(10, int(calls * share))) for _ in range(rounds)]
        added = statistics.median(wrapped - bare for bare, wrapped in runs)
        found.append((name, statistics.median(run[0] for run in runs), added, TARGETS[name.removesuffix(" async")]))
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
