"""Every recorded exchange whose dialect we speak, through the real gateway from a provider that replays it."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import random
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bursar.domain.policy import LedgerPolicy, Policy, Provider
from bursar.stores.reader import Reader
from bursar.surfaces.gateway import serve_in_thread
from wire.recorded import SPOKEN, Totals, expected
from wire.test_recorded import BY_HAND


class Replay:
    """A provider that answers each request with what was recorded for its `x-exchange`, streams cut at random places."""

    def __init__(self, exchanges: dict[str, dict], seed: int) -> None:
        self.exchanges, self.chance = exchanges, random.Random(seed)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.serve, "127.0.0.1", 0), self.loop
        ).result()
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(h.lower().split(": ", 1) for h in head.split("\r\n")[1:] if ": " in h)
                await reader.readexactly(int(headers.get("content-length", "0")))
                exchange = self.exchanges[headers["x-exchange"]]
                body = exchange["response_body"].encode()
                kind = exchange["response_headers"].get("content-type") or (
                    "text/event-stream" if exchange["stream"] else "application/json"
                )
                start = f"HTTP/1.1 {exchange['status']} X\r\ncontent-type: {kind}\r\n".encode()
                if exchange["stream"]:
                    writer.write(start + b"transfer-encoding: chunked\r\n\r\n")
                    at = 0
                    while at < len(body):
                        size = self.chance.choice((1, 3, 17, 120, 1000, 9000))
                        piece = body[at : at + size]
                        writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                        at += size
                        if self.chance.random() < 0.2:
                            await writer.drain()
                            await asyncio.sleep(0)
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(start + f"content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def stop(self):
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def name_of(exchange) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", exchange["provider"].lower())


@pytest.fixture(scope="module")
def replayed(data_dir, tmp_path_factory):
    """(exchanges by id, what each client got, ledger row of each)."""
    exchanges: dict[str, dict] = {}
    missing: list[str] = []
    with gzip.open(data_dir / "provider-http" / "exchanges.jsonl.gz", "rt") as lines:
        for line in lines:
            exchange = json.loads(line)
            if exchange["dialect"] not in SPOKEN or exchange["method"] != "POST":
                continue
            cut = exchange.get("request_truncated") or exchange.get("response_truncated")
            if cut or not exchange.get("request_body") or exchange.get("response_body") is None:
                missing.append(exchange["id"])
            else:
                exchanges[exchange["id"]] = exchange
    print(f"{len(missing)} exchanges whose bodies are cut or missing are not counted: {missing}")
    provider = Replay(exchanges, seed=20261124)
    families = {"anthropic.messages": "anthropic", "gemini.generate": "gemini"}
    tables = {name_of(e): Provider(base_url=provider.url, key="client", dialect=families.get(e["dialect"], "openai"))
              for e in exchanges.values()}  # fmt: skip
    folder = tmp_path_factory.mktemp("replay")
    gateway = serve_in_thread(ledger=folder, policy=Policy(providers=tables, ledger=LedgerPolicy(compact_every_s=0)))
    got: dict[str, tuple[int, bytes]] = {}
    local = threading.local()

    def one(exchange):
        for _ in range(2):
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
            path = (
                "/" + name_of(exchange) + exchange["url_path"] + ("?" + exchange["query"] if exchange["query"] else "")
            )
            try:
                local.connection.request("POST", path, exchange["request_body"].encode(), {
                    "content-type": "application/json", "x-exchange": exchange["id"], "x-bursar-feature": exchange["id"]})  # fmt: skip
                answer = local.connection.getresponse()
                got[exchange["id"]] = (answer.status, answer.read())
                return
            except http.client.HTTPException as cut:
                # A stream that the recording itself cut short is passed on as a message cut short.
                del local.connection
                got[exchange["id"]] = (0, getattr(cut, "partial", b"") or b"")
                return

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(one, exchanges.values()))
    gateway.stop()
    provider.stop()
    with Reader(folder) as reader:
        rows = {row["feature"]: row for row in reader.sql("select * from calls")}
        doubled = [r for r in reader.sql("select feature, count(*) as n from calls group by feature having n > 1")]
    assert not doubled
    return exchanges, got, rows


def usage_event(body: bytes) -> list[bytes]:
    """Events of a chat stream that carry usage and no choice: ours to hide when we asked for them."""
    return [
        e
        for e in re.split(rb"(?<=\n\n)", body)
        if b'"choices":[]' in e.replace(b" ", b"") and b'"usage":{' in e.replace(b" ", b"")
    ]


def test_every_client_gets_the_recorded_body(replayed):
    """Bytes for streams, and for the rest bytes too: nothing is decoded and made again."""
    exchanges, got, _ = replayed
    wrong, hidden = [], 0
    for key, exchange in exchanges.items():
        expected = exchange["response_body"].encode()
        status, body = got[key]
        if (status, body) == (exchange["status"], expected):
            continue
        request = json.loads(exchange["request_body"])
        asked = (request.get("stream_options") or {}).get("include_usage")
        if exchange["dialect"] == "openai.chat" and request.get("stream") and not asked:
            for event in usage_event(expected):
                expected = expected.replace(event, b"")
            if body == expected:
                hidden += 1
                continue
        wrong.append((key, exchange["provider"], exchange["dialect"], exchange["status"], status, body[:120]))
    print(
        f"{len(exchanges)} exchanges, {len(wrong)} differ, {hidden} with our usage event kept back"
    )
    assert not wrong, f"{len(wrong)} of {len(exchanges)}: {wrong[:8]}"


def test_every_exchange_has_one_row_and_no_success_without_usage_is_booked_as_zero(replayed):
    """Unknown is never zero: a 2xx that states no usage is estimated, and says so."""
    exchanges, _, rows = replayed
    missing = [k for k in exchanges if k not in rows]
    assert not missing, missing[:5]
    zero = []
    for key, exchange in exchanges.items():
        row = rows[key]
        if exchange["status"] < 300 and exchange["usage_raw_last"] is None and exchange["usage_raw_first"] is None:
            if row["usage_source"] == "provider" and row["price_status"] != "free":
                zero.append((key, exchange["provider"], exchange["dialect"], row["input"], row["output"]))
    assert not zero, zero[:8]


def test_the_ledgers_tokens_equal_the_recorded_usage(replayed):
    """In all exchanges that have one; where a provider contradicts itself the raw usage is kept, the row flagged and listed."""
    exchanges, _, rows = replayed
    differ, flagged, partial, counted = [], [], 0, 0
    for key, exchange in exchanges.items():
        want = BY_HAND.get(key) or expected(exchange["dialect"], exchange["usage_raw_first"], exchange["usage_raw_last"])
        if want is None or exchange["status"] >= 300:
            continue
        row = rows[key]
        other = json.loads(row["other_units"])
        got = Totals(
            input=sum(row[c] or 0 for c in ("input", "cache_read", "cache_write", "cache_write_1h"))
            + sum(other.get(c, 0) for c in ("input_audio", "cache_read_audio", "input_image")),
            cache_read=(row["cache_read"] or 0) + other.get("cache_read_audio", 0),
            cache_write=row["cache_write"] or 0,
            cache_write_1h=row["cache_write_1h"] or 0,
            output=sum(row[c] or 0 for c in ("output", "reasoning")) + sum(other.get(c, 0) for c in ("output_audio", "output_image")),
            reasoning=row["reasoning"] or 0,
            odd="contradiction" in row["flags"],
            partial=row["usage_source"] == "estimated",
        )
        counted += 1
        if got.odd:
            assert row["usage_raw"]
            flagged.append((key, exchange["provider"]))
        if want.partial:  # one side was never stated: what was stated stands, the rest is estimated from bytes, not zero
            partial += 1
            stated = [(g, w) for g, w in zip(got[:6], want[:6], strict=True) if w]
            if not got.partial or any(g != w for g, w in stated) or not got.input:
                differ.append((key, exchange["provider"], got, want))
        elif got != want:
            differ.append((key, exchange["provider"], got, want))
    print(f"{counted} exchanges with usage, {len(differ)} differ, {partial} state one side only, {len(flagged)} contradict "
          f"themselves: {Counter(p for _, p in flagged)}")  # fmt: skip
    assert not differ, f"{len(differ)} of {counted}: {differ[:6]}"
