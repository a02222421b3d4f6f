"""The transport under plain httpx and httpx2 clients: bytes, connections, faults, forks, exits, processes."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from wrapped import QUESTION, Bench, bench, prices

import bursar
from bursar import drive
from bursar.stores.reader import Reader
from bursar.surfaces import books as keeping
from bursar.surfaces import transport
from bursar.testing.invoice import Buckets
from bursar.testing.script import Say

__all__ = ["bench", "prices"]
ASKED = {"model": "gpt-5-mini", "messages": QUESTION}
ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-5-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}).encode()  # fmt: skip
EVENTS = [
    b'data: {"id":"1","object":"chat.completion.chunk","model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n',
    b'data: {"id":"1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"total_tokens":11}}\n\n',
    b"data: [DONE]\n\n",
]


class Raw(BaseHTTPRequestHandler):
    """A provider of bytes: what is sent for a path, and what came in."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    connections = 0
    uploads: list[int] = []
    headers_seen: list[dict[str, str]] = []

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_GET(self) -> None:
        self._send(b"x" * (3 << 20) + b"end", "application/octet-stream")

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            size = 0
            while line := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(line))
                self.rfile.readline()
            self.rfile.readline()
        else:
            size = len(self.rfile.read(int(self.headers.get("content-length", "0"))))
        self.uploads.append(size)
        self.headers_seen.append({k.lower(): v for k, v in self.headers.items()})
        how = self.headers.get("x-how", "")
        if how == "events":
            self._stream(EVENTS)
        elif how == "gzip-events":
            self._stream([gzip.compress(b"".join(EVENTS))], "gzip")
        elif how == "gzip":
            self._send(gzip.compress(ANSWER), "application/json", "gzip")
        else:
            self._send(ANSWER, "application/json")

    def _send(self, body: bytes, kind: str, coding: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Their-Own", "kept")
        if coding:
            self.send_header("Content-Encoding", coding)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, pieces: list[bytes], coding: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        if coding:
            self.send_header("Content-Encoding", coding)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def raw(bench: Bench) -> Iterator[str]:
    """A provider of bytes, in place of the scripted one."""
    Raw.connections, Raw.uploads, Raw.headers_seen = 0, [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Raw)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    bench.provider.url, was = f"http://127.0.0.1:{server.server_port}", bench.provider.url
    bench.policy("[server]\ngather_max = 1048576\n")
    yield bench.url("openai")
    bench.provider.url = was
    server.shutdown()
    server.server_close()


library = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


@library
def test_a_plain_client_is_booked_and_gets_its_answer_as_it_came(bench: Bench, raw: str, library: ModuleType) -> None:
    client = bursar.wrap(library.Client(), **bench.wrapping())
    answer = client.post(f"{raw}/chat/completions", json=ASKED, headers={"X-Bursar-Tenant": "acme"})
    assert answer.content == ANSWER
    assert answer.headers["x-their-own"] == "kept"
    assert answer.headers["content-length"] == str(len(ANSWER))
    assert answer.request.headers["x-bursar-tenant"] == "acme"  # the caller's own request is not changed
    assert answer.elapsed.total_seconds() > 0
    (row,) = bench.rows(1)
    assert (row.tenant, row.input, row.output, row.ended) == ("acme", 9, 2, "complete")
    assert "x-bursar-tenant" not in Raw.headers_seen[0]


@library
def test_an_untouched_request_goes_out_as_it_was_made(bench: Bench, raw: str, library: ModuleType) -> None:
    """Without labels and edits the inner transport gets the caller's own request object."""
    sent: list[Any] = []

    class Spy(library.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            sent.append(request)
            return super().handle_request(request)

    client = bursar.wrap(library.Client(transport=Spy()), **bench.wrapping())
    request = client.build_request("POST", f"{raw}/chat/completions", json=ASKED)
    client.send(request)
    assert sent == [request]


@library
def test_a_compressed_answer_is_read_and_handed_on_compressed(bench: Bench, raw: str, library: ModuleType) -> None:
    client = bursar.wrap(library.Client(), **bench.wrapping())
    answer = client.post(f"{raw}/chat/completions", json=ASKED, headers={"x-how": "gzip"})
    assert answer.content == ANSWER
    assert answer.headers["content-encoding"] == "gzip"
    (row,) = bench.rows(1)
    assert (row.input, row.usage_source) == (9, "provider")


@library
@pytest.mark.parametrize("how", ["events", "gzip-events"])
def test_a_stream_is_the_same_bytes_and_booked_before_its_last_event(
    bench: Bench, raw: str, library: ModuleType, how: str
) -> None:
    """Also from a provider that compresses a stream although it was asked not to."""
    client = bursar.wrap(library.Client(), **bench.wrapping())
    asked = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", f"{raw}/chat/completions", json=asked, headers={"x-how": how}) as answer:
        got = b""
        for piece in answer.iter_bytes():
            if b"[DONE]" in piece:
                (row,) = keeping.books(**bench.wrapping()).shop().ledger.rows()  # type: ignore[union-attr]
                assert (row.ended, row.input) == ("complete", 9)
            got += piece
    assert got == b"".join(EVENTS)
    assert Raw.headers_seen[0]["accept-encoding"] == "identity"


@library
def test_connections_are_reused_after_streams(bench: Bench, raw: str, library: ModuleType) -> None:
    """We stop reading at the terminal event to book; what is left of the framing must still be read."""
    client = bursar.wrap(library.Client(), **bench.wrapping())
    for _ in range(4):
        asked = {**ASKED, "stream": True}
        with client.stream("POST", f"{raw}/chat/completions", json=asked, headers={"x-how": "events"}) as answer:
            answer.read()
        client.post(f"{raw}/chat/completions", json=ASKED)
    assert Raw.connections == 1
    assert len(bench.rows(8)) == 8


@library
def test_a_body_too_large_to_hold_back_streams_through_and_is_booked_at_its_end(
    bench: Bench, raw: str, library: ModuleType
) -> None:
    bench.policy('[server]\ngather_max = 1048576\n[[budget]]\nscope = "all"\nlimit = "3 calls"\n')
    client = bursar.wrap(library.Client(), **bench.wrapping())
    with client.stream("GET", f"{raw}/files/1/content") as answer:
        assert answer.headers["x-bursar-remaining"] == "2 calls"
        pieces = answer.iter_bytes()
        size = len(next(pieces))
        assert bench.rows(0) == []
        size += sum(len(piece) for piece in pieces)
    assert size == (3 << 20) + 3
    (row,) = bench.rows(1)
    assert (row.dialect, row.ended, row.cost) == ("passthrough", "complete", 0)


@library
def test_a_large_body_half_read_is_abandoned(bench: Bench, raw: str, library: ModuleType) -> None:
    client = bursar.wrap(library.Client(), **bench.wrapping())
    with client.stream("GET", f"{raw}/files/1/content") as answer:
        next(answer.iter_bytes())
    (row,) = bench.rows(1)
    assert row.ended == "abandoned"


@library
def test_async_clients_get_large_bodies_and_streams_too(bench: Bench, raw: str, library: ModuleType) -> None:
    async def work() -> None:
        async with bursar.wrap(library.AsyncClient(), **bench.wrapping()) as client:
            answer = await client.get(f"{raw}/files/1/content")
            assert len(answer.content) == (3 << 20) + 3
            asked = {**ASKED, "stream": True}
            how = {"x-how": "events"}
            async with client.stream("POST", f"{raw}/chat/completions", json=asked, headers=how) as stream:
                got = b"".join([piece async for piece in stream.aiter_raw()])
            assert got == EVENTS[0] + EVENTS[2]  # the usage event was ours to ask for, and ours to keep
            async with client.stream("GET", f"{raw}/files/1/content") as stream:
                async for _ in stream.aiter_raw():
                    break

    asyncio.run(work())
    rows = bench.rows(3)
    assert sorted(r.ended for r in rows) == ["abandoned", "complete", "complete"]


@library
def test_uploads_pass_whole_whether_their_size_is_known_or_not(
    bench: Bench, raw: str, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one is read, a larger or endless one goes through as it comes."""
    monkeypatch.setattr(transport, "BODY_MAX", 100_000)
    client = bursar.wrap(library.Client(), **bench.wrapping())
    client.post(f"{raw}/files", files={"file": b"y" * 50_000})
    client.post(f"{raw}/files", content=iter([b"z" * 1000] * 300))
    client.post(f"{raw}/chat/completions", content=iter([json.dumps(ASKED).encode()]))
    assert Raw.uploads[0] > 50_000
    assert Raw.uploads[1:] == [300_000, len(json.dumps(ASKED))]
    assert [r.dialect for r in bench.rows(3)] == ["passthrough", "passthrough", "openai_chat"]


@library
def test_an_async_upload_passes_whole(bench: Bench, raw: str, library: ModuleType) -> None:
    async def pieces() -> Any:
        for _ in range(3):
            yield b"z" * 1000

    async def work() -> None:
        async with bursar.wrap(library.AsyncClient(), **bench.wrapping()) as client:
            await client.post(f"{raw}/files", content=pieces())

    asyncio.run(work())
    assert Raw.uploads == [3000]
    assert len(bench.rows(1)) == 1


@library
def test_wrapping_twice_books_once(bench: Bench, library: ModuleType) -> None:
    client = library.Client()
    assert bursar.wrap(bursar.wrap(client, **bench.wrapping()), **bench.wrapping()) is client
    with bursar.instrument(**bench.wrapping()):
        client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert len(bench.rows(1)) == 1


def test_what_has_no_http_client_in_it_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no httpx or httpx2 client found in builtins\.dict"):
        bursar.wrap({})


def test_a_bad_policy_is_told_when_wrapping(tmp_path: Path) -> None:
    """Not at the first call, when nobody is looking."""
    (tmp_path / "bursar.toml").write_text("[budgets]\n")
    with pytest.raises(ValueError, match=r"bursar\.toml:1: unknown key 'budgets'"):
        bursar.wrap(httpx.Client(), config=tmp_path / "bursar.toml")


@library
def test_instrument_takes_calls_to_providers_and_leaves_the_rest_alone(bench: Bench, library: ModuleType) -> None:
    before = library.Client()
    with bursar.instrument(**bench.wrapping()):
        after = library.Client()
        for client in (before, after):
            client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
            client.get(f"{bench.provider.url}/_script/seen")
    after.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert len(bench.rows(2)) == 2
    assert not isinstance(after._transport, transport.Wrapped)


def test_the_newer_instrument_is_in_force_until_it_is_undone(bench: Bench, tmp_path: Path) -> None:
    other = bench.folder / "other"
    first = bursar.instrument(**bench.wrapping())
    second = bursar.instrument(config=bench.config, ledger=other)
    httpx.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    first.undo()
    httpx.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    second.undo()
    httpx.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert bench.rows(0) == []
    assert len(keeping.books(bench.config, other).shop().ledger.rows()) == 2  # type: ignore[union-attr]


def test_a_wrapper_under_our_own_gateway_stays_out_of_its_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bursar run` on a program that wraps: the gateway books it, once."""
    monkeypatch.setenv("BURSAR_GATEWAY", bench.provider.url)
    bursar.wrap(httpx.Client(), **bench.wrapping()).post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert bench.rows(0) == []


def test_a_host_nobody_has_named_is_a_provider_by_its_own_name(bench: Bench) -> None:
    url = f"{bench.provider.url}/v1/chat/completions"
    bursar.wrap(httpx.Client(), **bench.wrapping()).post(url, json=ASKED)
    (row,) = bench.rows(1)
    assert row.provider == bench.provider.url.removeprefix("http://")
    assert row.price_status == "estimated"


def test_many_threads_share_the_books(bench: Bench) -> None:
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())

    def one(number: int) -> None:
        with bursar.labels(tenant=f"t{number % 4}"):
            client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(80)))
    rows = bench.rows(80)
    assert len({row.id for row in rows}) == 80
    assert [sum(row.tenant == f"t{n}" for row in rows) for n in range(4)] == [20] * 4


def test_a_stream_dropped_without_closing_is_booked_when_it_is_collected(bench: Bench) -> None:
    bench.provider.script = lambda seen: Say(text="x" * 500, pieces=50, pause_s=0.01)
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())

    def begin() -> None:
        request = client.build_request("POST", f"{bench.url('openai')}/chat/completions", json={**ASKED, "stream": True})
        pieces = client.send(request, stream=True).iter_bytes()
        next(pieces)
        loop: list[Any] = [pieces]
        loop.append(loop)  # only the collector finds it

    begin()
    gc.collect()
    (row,) = bench.rows(1)
    assert row.ended == "abandoned"


def test_a_collection_in_the_middle_of_the_ledgers_work_does_not_wait_for_itself(bench: Bench) -> None:
    """The collector may run inside the ledger's lock, in the thread that holds it."""
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())
    bench.provider.script = lambda seen: Say(text="x" * 500, pieces=50, pause_s=0.01)
    request = client.build_request("POST", f"{bench.url('openai')}/chat/completions", json={**ASKED, "stream": True})
    answer = client.send(request, stream=True)
    next(answer.iter_bytes())
    ledger = keeping.books(**bench.wrapping()).shop().ledger  # type: ignore[union-attr]
    with ledger._lock:
        answer.close()
        del answer
        gc.collect()
    (row,) = bench.rows(1)
    assert row.ended == "abandoned"


# -- our own faults ----------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production: our faults are not raised."""
    monkeypatch.setattr(drive, "raise_faults", False)
    monkeypatch.setattr(drive, "faults", 0)


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug of ours")


@pytest.mark.parametrize("where", ["uuid_utils.uuid7", "bursar.pipeline.attribute", "bursar.pipeline.record.opened"])
def test_a_bug_before_the_call_lets_it_through_with_a_trace(
    bench: Bench, quiet: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())
    with monkeypatch.context() as planted, caplog.at_level(logging.ERROR, "bursar"):
        planted.setattr(where, broken)
        for _ in range(2):
            assert client.post(f"{bench.url('openai')}/chat/completions", json=ASKED).status_code == 200
    assert drive.faults >= 2
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    if where == "uuid_utils.uuid7":
        return  # without an id there can be no row
    rows = bench.rows(2)
    assert [(r.status, r.error, r.flags, r.cost, r.price_status) for r in rows] == [
        ("unknown", "internal_fault", "own_fault", None, "unpriced")] * 2  # fmt: skip


def test_a_bug_after_the_answer_gives_the_caller_the_answer(
    bench: Bench, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.pipeline.record.complete", broken)
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())
    assert client.post(f"{bench.url('openai')}/chat/completions", json=ASKED).json()["choices"]
    assert len(bench.provider.seen) == 1
    (row,) = bench.rows(1)
    assert (row.status, row.flags) == ("unknown", "own_fault")
    assert row.cost == row.hold > 0


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_bug_in_the_stream_reader_lets_the_stream_through(
    bench: Bench, quiet: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from bursar.wire.openai_chat import openai_chat

    class Broken:
        kept, done = b"", False
        feed = finish = reading = broken

    monkeypatch.setattr(type(openai_chat), "reader", lambda *_: Broken())
    asked = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
    url = f"{bench.url('openai')}/chat/completions"
    if kind == "sync":
        body = bursar.wrap(httpx2.Client(), **bench.wrapping()).post(url, json=asked).content
    else:

        async def work() -> bytes:
            async with bursar.wrap(httpx2.AsyncClient(), **bench.wrapping()) as client:
                return (await client.post(url, json=asked)).content

        body = asyncio.run(work())
    assert body.endswith(b"data: [DONE]\n\n")


def test_what_the_callers_own_transport_raises_is_the_callers(bench: Bench, quiet: None) -> None:
    """Not one of the library's errors, and not ours either: booked, and raised as it is."""

    class Odd(httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            raise LookupError("of the caller's own")

    client = bursar.wrap(httpx2.Client(transport=Odd()), **bench.wrapping())
    with pytest.raises(LookupError, match="of the caller's own"):
        client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert drive.faults == 0
    (row,) = bench.rows(1)
    assert (row.status, row.error) == ("unknown", "cancelled")


def test_a_ledger_that_cannot_be_opened_breaks_no_call(
    bench: Bench, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    client = bursar.wrap(httpx2.Client(), config=bench.config, ledger=tmp_path / "file" / "ledger")
    for _ in range(2):
        assert client.post(f"{bench.url('openai')}/chat/completions", json=ASKED).status_code == 200
    assert sum("cannot be opened" in r.message for r in caplog.records) == 1


def test_a_ledger_that_cannot_be_opened_stops_what_a_hard_budget_covers(bench: Bench, tmp_path: Path) -> None:
    bench.policy('[[budget]]\nscope = "tenant"\nlimit = "$5"\n')
    (tmp_path / "file").write_text("not a folder")
    client = bursar.wrap(httpx2.Client(), config=bench.config, ledger=tmp_path / "file" / "ledger")
    answer = client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "budget_unverifiable"
    assert len(bench.provider.seen) == 0


def test_a_fallback_never_carries_the_callers_key_to_another_provider(bench: Bench) -> None:
    """Without a key of its own the other provider is not asked; with one, only that key goes there."""
    fallback = '[[fallback]]\nfrom = "gpt-5-mini"\nto = "groq/gpt-5-nano"\non = ["5xx"]\n'
    bench.provider.script = lambda seen: Say(status=500) if "/openai/" in seen.path else Say(usage=Buckets(input=5, output=1))
    bench.policy(fallback + f'[providers.groq]\nbase_url = "{bench.provider.url}/groq"\n')
    caller = {"authorization": "Bearer theirs"}
    url = f"{bench.url('openai')}/chat/completions"
    assert bursar.wrap(httpx2.Client(), **bench.wrapping()).post(url, json=ASKED, headers=caller).status_code >= 500
    assert {seen.path.split("/")[1] for seen in bench.provider.seen} == {"openai"}
    bench.policy(fallback + f'[providers.groq]\nbase_url = "{bench.provider.url}/groq"\nkey = "ours"\n')
    answer = bursar.wrap(httpx2.Client(), **bench.wrapping()).post(url, json=ASKED, headers=caller)
    assert answer.status_code == 200
    assert bench.provider.seen[-1].path == "/groq/v1/chat/completions"
    assert bench.provider.seen[-1].headers["authorization"] == "Bearer ours"
    assert [r.operation for r in bench.rows(4)][-2:] == ["primary", "fallback"]


# -- processes -----------------------------------------------------------------------------------------------------------


def child(bench: Bench, code: str) -> subprocess.Popen[str]:
    """A Python process with `bench` spelled out in its variables."""
    start = f"""
        import httpx2, os, sys, bursar
        URL, ASKED = {bench.url("openai") + "/chat/completions"!r}, {ASKED!r}
        def wrapped(): return bursar.wrap(httpx2.Client(), config={str(bench.config)!r}, ledger={str(bench.ledger)!r})
    """
    source = textwrap.dedent(start) + textwrap.dedent(code)
    variables = {**os.environ, "PYTHONPATH": str(Path(bursar.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", source], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def stored(bench: Bench) -> list[dict[str, Any]]:
    with Reader(bench.ledger) as reader:
        return reader.sql("select * from calls order by ts")


def test_a_process_that_exits_at_once_leaves_its_row(bench: Bench) -> None:
    ended(child(bench, "wrapped().post(URL, json=ASKED)"))
    (row,) = stored(bench)
    assert row["ended"] == "complete"


def test_a_process_that_exits_with_a_stream_half_read_leaves_its_row(bench: Bench) -> None:
    """At exit, or when the ledger is next opened: never nothing, never zero."""
    bench.provider.script = lambda seen: Say(text="x" * 500, pieces=50, pause_s=0.01)
    ended(child(bench, """
        client = wrapped()
        answer = client.send(client.build_request("POST", URL, json={**ASKED, "stream": True}), stream=True)
        pieces = answer.iter_bytes()
        next(pieces)
    """))  # fmt: skip
    (row,) = bench.rows(1)
    assert row.ended in ("abandoned", "failed")
    assert row.cost


def test_parent_and_forked_children_all_book(bench: Bench) -> None:
    """A fork in the middle of work, with the ledger's writer and the leaver running in the parent."""
    ended(child(bench, """
        client = wrapped()
        client.post(URL, json=ASKED)
        with client.stream("POST", URL, json={**ASKED, "stream": True}): pass
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                with bursar.labels(tenant=f"child{number}"):
                    fresh = wrapped()
                    fresh.post(URL, json=ASKED)
                    with fresh.stream("POST", URL, json={**ASKED, "stream": True}): pass
                sys.exit(0)
            children.append(pid)
        with bursar.labels(tenant="parent"):
            client.post(URL, json=ASKED)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    """))  # fmt: skip
    rows = stored(bench)
    assert sorted(r["tenant"] for r in rows) == ["", "", "child0", "child0", "child1", "child1", "child2", "child2", "parent"]
    assert len({r["id"] for r in rows}) == 9
    assert {r["ended"] for r in rows} == {"complete", "abandoned"}


def test_a_stream_that_a_child_inherits_stays_its_parents(bench: Bench) -> None:
    """The child closes what it inherited; the call is still under way, and its parent books it once."""
    bench.provider.script = lambda seen: Say(text="x" * 200, pieces=20, pause_s=0.02, usage=Buckets(input=9, output=7))
    ended(child(bench, """
        client = wrapped()
        with client.stream("POST", URL, json={**ASKED, "stream": True}) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            pid = os.fork()
            if pid == 0:
                with wrapped().stream("POST", URL, json={**ASKED, "stream": True}): pass
                answer.close()
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            for _ in pieces: pass
    """))  # fmt: skip
    rows = stored(bench)
    assert sorted(row["ended"] for row in rows) == ["abandoned", "complete"]
    assert [row["output"] for row in rows if row["ended"] == "complete"] == [7]


def test_several_processes_share_one_ledger_and_one_budget(bench: Bench) -> None:
    """Exactly as many calls as the limit allows, whoever makes them."""
    bench.policy('[[budget]]\nscope = "tenant"\nlimit = "20 calls"\n')
    code = """
        client = wrapped()
        with bursar.labels(tenant="acme"):
            print(sum(client.post(URL, json=ASKED).status_code == 200 for _ in range(10)))
    """
    processes = [child(bench, code) for _ in range(4)]
    served = 0
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        served += int(out)
    assert served == len(bench.provider.seen) == 20
    rows = stored(bench)
    assert sum(r["status"] == "ok" for r in rows) == 20
    assert sum(r["status"] == "refused" for r in rows) == 20


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, bursar; bursar.labels; print(*sorted(m.split('.')[0] for m in sys.modules))"
    variables = {**os.environ, "PYTHONPATH": str(Path(bursar.__file__).parent.parent)}
    ran = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert not {"apsw", "duckdb", "httpx", "httpx2", "asyncio", "msgspec", "openai"} & set(ran.stdout.split())


def test_spend_gives_rows_that_foot(bench: Bench) -> None:
    client = bursar.wrap(httpx2.Client(), **bench.wrapping())
    for tenant, team in (("acme", "blue"), ("acme", "red"), ("globex", "blue")):
        with bursar.labels(tenant=tenant, team=team):
            client.post(f"{bench.url('openai')}/chat/completions", json=ASKED)
    rows = bench.rows(3)
    (total,) = bursar.spend(**bench.wrapping())
    by_team = bursar.spend(["team"], since="1h", **bench.wrapping())
    assert {row["team"]: row["calls"] for row in by_team} == {"blue": 2, "red": 1}
    assert sum(row["cost"] for row in by_team) == total["cost"] == Decimal(sum(r.cost or 0 for r in rows)).scaleb(-12)
    assert [r["calls"] for r in bursar.spend("tenant", where={"team": "red"}, **bench.wrapping())] == [1]


def test_instrument_takes_calls_to_the_base_urls_in_the_sdks_own_variables(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{bench.provider.url}/v1")
    with bursar.instrument(ledger=bench.ledger):
        httpx2.post(f"{bench.provider.url}/v1/chat/completions", json=ASKED)
    assert len(keeping.books(None, bench.ledger).shop().ledger.rows()) == 1  # type: ignore[union-attr]
