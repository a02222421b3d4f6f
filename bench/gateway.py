"""CPU and latency of the gateway against nginx proxy_pass in the same run: `make bench`. Everything on loopback, everything on.

One process is the provider and the load (core 0); the gateway, then nginx, has core 1 to itself. CPU is user + system time of the
process tree over the calls made: the least noisy figure on a shared machine. Ratios to nginx are what counts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

REPLY = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": "gpt-5-mini-2025-08-07",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 1300}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 300, "total_tokens": 500, "prompt_tokens_details": {"cached_tokens": 100},
              "completion_tokens_details": {"reasoning_tokens": 20}}}).encode()  # fmt: skip
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY) + REPLY
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"' + b"y" * 100 + b'"}}]}\n\n'  # fmt: skip
LAST = (b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-5-mini","choices":[],"usage":{"prompt_tokens":200,'
        b'"completion_tokens":200,"total_tokens":400}}\n\n')  # fmt: skip
EVENTS = 200


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


class Mock(asyncio.Protocol):
    """The provider: answers every whole request, streams where the body asks for it, at `gap` seconds an event."""

    gap = 0.01

    def connection_made(self, transport):
        self.transport, self.buffer, self.need = transport, b"", 0

    def data_received(self, data):
        self.buffer = self.buffer + data if self.buffer else data
        while self.buffer:
            if not self.need:
                end = self.buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = self.buffer[:end].lower()
                at = head.find(b"content-length:")
                self.need = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < self.need:
                return
            request, self.buffer, self.need = self.buffer[: self.need], self.buffer[self.need :], 0
            if b'"stream":true' in request:
                asyncio.get_running_loop().create_task(self.stream())
            else:
                self.transport.write(WHOLE)

    async def stream(self):
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(EVENTS):
            self.transport.write(chunk(EVENT))
            await asyncio.sleep(self.gap)
        self.transport.write(chunk(LAST))
        self.transport.write(chunk(b"data: [DONE]\n\n"))
        self.transport.write(b"0\r\n\r\n")


class Client(asyncio.Protocol):
    """One keep-alive connection; `ask` is done when the whole answer is in."""

    def connection_made(self, transport):
        self.transport, self.buffer, self.waiter = transport, b"", None

    def data_received(self, data):
        self.buffer = self.buffer + data if self.buffer else data
        if not self.first:
            self.first = time.perf_counter()
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            done = len(self.buffer) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        else:
            done = self.buffer.endswith(b"0\r\n\r\n")
        if done and self.waiter is not None:
            if not self.buffer.startswith(b"HTTP/1.1 200"):
                self.waiter.set_exception(RuntimeError(self.buffer[:300].decode()))
            else:
                self.waiter.set_result(None)
            self.waiter = None
            self.buffer = b""

    def connection_lost(self, exc):
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(ConnectionError("closed"))

    def ask(self, request: bytes) -> asyncio.Future:
        self.first = 0.0
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiter


def request(kind: str) -> bytes:
    messages = [{"role": "user", "content": "Summarise ticket 0000000000 in one line. " * 15}]
    more: dict = {"max_tokens": 400}
    if kind == "large":
        messages = []
        for number in range(30):
            messages += [{"role": "user", "content": f"step {number} of 0000000000: " + "the state of the repository is as follows; " * 75},
                         {"role": "assistant", "content": "I looked at the files and found the following lines; " * 62}]  # fmt: skip
        more["tools"] = [{"type": "function", "function": {"name": f"tool_{n}", "description": "does a thing " * 20,
                          "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}} for n in range(12)]  # fmt: skip
    if kind == "stream":
        more["stream"] = True
    body = json.dumps({"model": "gpt-5-mini", "messages": messages, **more}, separators=(",", ":")).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer sk-x\r\n"
        b"user-agent: OpenAI/Python 3.57.0\r\naccept: application/json\r\nx-stainless-lang: python\r\nx-stainless-retry-count: 0\r\n"
        b"x-bursar-tenant: acme\r\nx-bursar-feature: support\r\nx-bursar-flow: refund\r\nx-bursar-conversation: c-0000000000\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )


CALLS_EACH = 100  # of one conversation: what goes on for longer is an agent that runs away, and costs a warning each
conversations = itertools.count(1)


def conversation(data: bytes) -> bytes:
    """The same request in a conversation of its own, about a ticket of its own."""
    return data.replace(b"0000000000", b"%010d" % next(conversations))


async def load(port: int, kind: str, connections: int, seconds: float) -> int:
    """Closed loop; the number of calls made."""
    loop = asyncio.get_running_loop()
    asked = request(kind)
    stop = time.perf_counter() + seconds
    done = 0

    async def one():
        nonlocal done
        _, client = await loop.create_connection(Client, "127.0.0.1", port)
        mine = 0
        while time.perf_counter() < stop:
            if mine % CALLS_EACH == 0:
                data = conversation(asked)
            await client.ask(data)
            mine += 1
        done += mine
        client.transport.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return done


async def paced(port: int, rate: float, seconds: float) -> list[float]:
    """Open loop at a fixed rate on 8 connections; seconds from the scheduled send, so waiting in line counts."""
    loop = asyncio.get_running_loop()
    asked = request("small")
    idle = [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(8)]
    taken: list[float] = []

    async def one(client, due, data):
        await client.ask(data)
        taken.append(time.perf_counter() - due)
        idle.append(client)

    start = time.perf_counter() + 0.05
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if number % CALLS_EACH == 0:
            data = conversation(asked)
        if idle:
            tasks.append(asyncio.create_task(one(idle.pop(), due, data)))
    await asyncio.gather(*tasks)
    return sorted(taken)


def tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def cpu(pid: int) -> float:
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def pin(pid: int, core: int) -> None:
    with contextlib.suppress(AttributeError, psutil.Error):
        for process in tree(pid):
            process.cpu_affinity([core])


class Subject:
    """A proxy under measurement: started, pinned, measured, stopped."""

    def __init__(self, name: str, folder: Path, upstream: int) -> None:
        self.name, self.folder, self.upstream = name, folder, upstream

    def start(self) -> None:
        began = time.perf_counter()
        if self.name == "nginx":
            self.port = 18080
            (self.folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy; fastcgi_temp_path {self.folder}/f;
 uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s; client_body_buffer_size 1m; client_max_body_size 20m;
 upstream provider {{ server 127.0.0.1:{self.upstream}; keepalive 64; }}
 server {{ listen 127.0.0.1:{self.port}; keepalive_requests 1000000; location / {{ proxy_pass http://provider; proxy_http_version 1.1;
 proxy_set_header Connection ""; proxy_buffering off; }} }} }}""")
            self.process = subprocess.Popen(["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")])
        else:
            self.port = 18081
            (self.folder / "bursar.toml").write_text(
                f'[providers.openai]\nbase_url = "http://127.0.0.1:{self.upstream}"\nkey = "sk-x"\n'
                '[[budget]]\nscope = "tenant"\nlimit = "$1000000"\nwindow = "day"\n'
                '[[budget]]\nscope = "feature"\nlimit = "$1000000"\nwindow = "month"\n'
                '[[budget]]\nscope = "all"\nlimit = "$1000000"\nwindow = "month"\n'
                '[watch]\nevery_s = 0\n')  # the clockwork's chores are so much a minute, not a call  # fmt: skip
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bursar", "serve", "--config", str(self.folder / "bursar.toml"), "--ledger",
                 str(self.folder / "ledger"), "--port", str(self.port)], stderr=subprocess.DEVNULL)  # fmt: skip
        import socket

        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            if time.perf_counter() - began > 20:
                raise SystemExit(f"{self.name} did not start")
            time.sleep(0.005)
        self.started_s = time.perf_counter() - began
        pin(self.process.pid, 1)
        time.sleep(1.0)
        self.idle_mb = sum(p.memory_info().rss for p in tree(self.process.pid)) / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


async def measure(subjects: list[Subject], seconds: float, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Both are up all the time and take turns, a few seconds each, so that a noisy neighbour troubles both alike."""
    found: dict[str, dict[str, list[float]]] = {s.name: {} for s in subjects}

    def note(subject: Subject, what: str, value: float) -> None:
        found[subject.name].setdefault(what, []).append(value)

    for subject in subjects:
        await load(subject.port, "small", 8, 0.5)
    for _ in range(repeats):
        for kind, connections, per in (("small", 32, 1), ("large", 8, 1), ("stream", 20, EVENTS)):
            for subject in subjects:
                before = cpu(subject.process.pid)
                calls = await load(subject.port, kind, connections, seconds)
                note(subject, kind, (cpu(subject.process.pid) - before) / calls / per * 1e6)
                if kind == "small":
                    note(subject, "calls_per_s", calls / seconds)
        for subject in subjects:
            taken = await paced(subject.port, 100, seconds)
            note(subject, "p50_ms", statistics.median(taken) * 1000)
            note(subject, "p99_ms", taken[int(len(taken) * 0.99)] * 1000)
    return found


ROWS = [
    ("small", "1 KB call, CPU us", 8, 5),
    ("large", "208 KB context, CPU us", 6, 4),
    ("stream", "paced stream, CPU us per event", 3, 2),
]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not shutil.which("nginx"):
        print("nginx is not installed: apt-get install nginx-light", file=sys.stderr)
        return 2
    with contextlib.suppress(AttributeError):
        os.sched_setaffinity(0, {0})
    mock = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", 0, backlog=512)
    upstream = mock.sockets[0].getsockname()[1]
    with contextlib.ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name in ("bursar", "nginx"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-bench-"))
            subject = subjects[name] = Subject(name, Path(folder), upstream)
            if name == "bursar":  # compiled prices and bytecode: the second start is what operators see
                subject.start()
                subject.stop()
            subject.start()
            stack.callback(subject.stop)
        results = await measure(list(subjects.values()), options.seconds, options.repeats)
    ours, theirs = ({k: statistics.median(v) for k, v in results[n].items()} for n in ("bursar", "nginx"))
    if options.json:
        print(json.dumps({"rows": [{"what": k, "bursar": ours[k], "nginx": theirs[k]} for k in ours],
                          "start_s": subjects["bursar"].started_s, "idle_mb": subjects["bursar"].idle_mb}))  # fmt: skip
        return 0
    print(f"{'':34}{'bursar':>10}{'nginx':>10}{'ratio':>8}{'wanted':>9}{'stretch':>9}")
    for key, what, most, stretch in ROWS:
        print(f"{what:34}{ours[key]:10.1f}{theirs[key]:10.1f}{ours[key] / theirs[key]:7.1f}x{most:8}x{stretch:8}x")
    print(f"{'calls/s on one core, 1 KB':34}{ours['calls_per_s']:10,.0f}{theirs['calls_per_s']:10,.0f}")
    print(
        f"{'p50 at 100 calls/s, ms':34}{ours['p50_ms']:10.2f}{theirs['p50_ms']:10.2f}   +{ours['p50_ms'] - theirs['p50_ms']:.2f} ms (wanted at most +1.2)"
    )
    print(f"{'p99 at 100 calls/s, ms':34}{ours['p99_ms']:10.2f}{theirs['p99_ms']:10.2f}")
    print(
        f"{'start-up, s':34}{subjects['bursar'].started_s:10.2f}{subjects['nginx'].started_s:10.2f}   (wanted under 0.4)"
    )
    print(
        f"{'idle memory, MB':34}{subjects['bursar'].idle_mb:10.0f}{subjects['nginx'].idle_mb:10.0f}   (wanted under 60)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
