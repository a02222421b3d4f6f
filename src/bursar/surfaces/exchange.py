"""One call through the gateway: performs the pipeline's effects on the client's socket, the provider's and the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import drive
from ..desk import Way
from ..domain.call import Ended, Fault, Head, Headers, Lines
from ..domain.reply import Likely
from ..domain.thread import Placed
from ..effects import (
    Book,
    Consult,
    Finish,
    Follow,
    Gather,
    Hold,
    Keep,
    Liken,
    Note,
    Recall,
    Relay,
    Reply,
    Sampled,
    Seek,
    Send,
    Sorted,
    Wait,
)
from ..ports import PENDING
from ..rules.course import Course
from ..rules.estimate import Ratio
from ..stores.tail import Op
from ..stores.writer import Ledger
from .counters import Counters
from .http_client import Origin, Pool, Timeouts, Unsent, UpstreamFault, UpstreamResponse
from .http_server import Incoming as Received
from .http_server import Responder
from .try_log import TryLog
from .wiring import Address, Memory

EDGE = 64 << 10  # bytes kept from both ends of a reply too large to gather: usage stands near one of them


class Door:
    """A provider's address made ready for sending: origin, base path, credentials, deadlines."""

    __slots__ = ("_within", "address", "auth", "origin", "path", "timeouts")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.origin, self.path = Origin.parse(address.base_url)
        table = address.table
        self.timeouts = Timeouts(connect_s=table.connect_timeout_s, headers_s=table.timeout_s, idle_s=table.idle_timeout_s)
        self._within: dict[float, Timeouts] = {}
        secret = address.key.encode()
        self.auth: Headers = []
        if secret:
            name = {"anthropic": b"x-api-key", "gemini": b"x-goog-api-key"}.get(address.family, b"authorization")
            self.auth = [(name, b"Bearer " + secret if name == b"authorization" else secret)]

    def within(self, seconds: float) -> Timeouts:
        """The deadlines of a call of our own that a client waits for. The pool remembers them by what they are: one for each time."""
        found = self._within.get(seconds)
        if found is None:
            found = self._within[seconds] = Timeouts(min(seconds, self.timeouts.connect_s), seconds, seconds, seconds, seconds)
        return found

    def signed(self, headers: Headers) -> Headers:
        """With the operator's credentials."""
        if not isinstance(headers, Lines):
            return headers + self.auth
        known = headers.made.get(self)
        if known is None:
            known = headers.made[self] = Lines(headers + self.auth)
        return known


@dataclass(slots=True, frozen=True, eq=False)
class Edge:
    """What the calls of one gateway share, under the policy that they began under."""

    ledger: Ledger
    pool: Pool
    doors: Mapping[str, Door]
    memory: Memory
    counters: Counters
    log: TryLog | None
    loop: asyncio.AbstractEventLoop
    streams: set[Exchange]  # under way
    done: Callable[[Responder], None]
    fault: Callable[[Received, Responder, BaseException, str], None]


class Exchange(drive.Run):
    """One call: its run, and the world that its effects are performed in. Holds the client's side and, per try, the provider's."""

    __slots__ = (
        "_call_id", "_chunks", "_door", "_edge", "_effect", "_first_us", "_halted", "_ordered", "_sent_ns", "_size", "client", "loop",
        "response",
    )  # fmt: skip

    def __init__(self, way: Way, edge: Edge, client: Responder, call_id: str) -> None:
        super().__init__(way)
        self._edge, self.client, self._call_id = edge, client, call_id
        self.loop = edge.loop
        self.response: UpstreamResponse | None = None
        self._door: Door | None = None
        self._sent_ns = client.incoming.received_ns
        self._halted = False

    def at_end(self) -> None:
        self._edge.done(self.client)

    def at_fault(self, bug: BaseException) -> None:
        self._edge.fault(self.client.incoming, self.client, bug, self._call_id)

    def recall(self, effect: Recall) -> Ratio:
        return self._edge.memory.recall(effect.provider, effect.model)

    def place(self, effect: Follow) -> Placed:
        return self._edge.memory.follow(effect.ask)

    def seek(self, effect: Seek) -> object:
        loop, go = self.loop, self.go
        return self._edge.memory.controls.seek(effect, lambda found: loop.call_soon_threadsafe(go, found))

    def keep(self, effect: Keep) -> None:
        self._edge.memory.controls.keep(effect)

    def liken(self, effect: Liken) -> Likely:
        return self._edge.memory.controls.liken(effect)

    def sampled(self, effect: Sampled) -> None:
        self._edge.memory.controls.sampled(effect)

    def sorted_(self, effect: Sorted) -> None:
        self._edge.memory.controls.sorted(effect)

    def consult(self, effect: Consult) -> Course:
        return self._edge.memory.controls.consult(effect)

    def note(self, effect: Note) -> None:
        self._edge.memory.controls.note(effect)

    # -- the ledger ------------------------------------------------------------------------------------------------------

    def hold(self, effect: Hold) -> object:
        self._edge.ledger.hold_then(effect.hold, self.loop, self._told)
        return PENDING

    def book(self, effect: Book) -> object:
        edge = self._edge
        settlement = drive.remembered(effect, edge.memory).settlement
        entry = settlement.entry
        edge.counters.count(entry)
        if edge.log is not None:
            edge.log.add(entry)
        if effect.sample is not None:
            edge.memory.ratios.learn(effect.sample)
        edge.ledger.book_then(settlement, self.loop, self._told)
        return PENDING

    def _told(self, op: Op) -> None:
        """By the ledger. A row that could not be written is in its spool, and its hold stands on disk: late, not lost."""
        fault = op.fault
        if fault is None:
            self.go(op.result)
            return
        self._edge.counters.ledger_faults += 1
        self.go(Fault(fault.code, f"{fault.reason}; {fault.remedy}", False))

    # -- the provider ----------------------------------------------------------------------------------------------------

    def send(self, effect: Send) -> object:
        self._door = door = self._edge.doors[effect.provider]
        self._sent_ns = time.monotonic_ns()
        headers = effect.headers
        if door.auth:
            headers = door.signed(headers)
        try:
            timeouts = door.within(effect.within_s) if effect.within_s else door.timeouts
            begun = self._edge.pool.begin(door.origin, effect.method, door.path + effect.target, headers, effect.body, timeouts)
        except UpstreamFault as fault:
            return self._fault(fault)
        if isinstance(begun, Unsent):
            return self.follow(self._send_new(begun))
        self.response = begun
        begun.on_news = self._headed
        return PENDING

    async def _send_new(self, unsent: Unsent) -> object:
        try:
            self.response = response = await self._edge.pool.begin_new(unsent)
            await response.headed()
        except UpstreamFault as fault:
            return self._fault(fault)
        return self._head(response)

    def _headed(self) -> None:
        response = self.response
        assert response is not None
        if response.started or response.fault is not None:
            response.on_news = None
            self.go(self._head(response))

    def _head(self, response: UpstreamResponse) -> Head | Fault:
        if not response.started and response.fault is not None:
            return self._fault(response.fault)
        sent = self._sent_ns
        return Head(response.status, response.headers, (sent - self.client.incoming.received_ns) // 1000, self._since(sent))

    def _fault(self, fault: UpstreamFault) -> Fault:
        sent = self._sent_ns
        return Fault(fault.kind, fault.detail, fault.sent, (sent - self.client.incoming.received_ns) // 1000, self._since(sent))

    # -- whole answers ---------------------------------------------------------------------------------------------------

    def gather(self, effect: Gather) -> object:
        """A client that leaves meanwhile does not stop this: the provider is at work already and will bill, and its answer
        has the usage."""
        response = self.response
        assert response is not None
        body = response.whole(effect.limit)
        if body is not None:  # it came with its head, as short ones do
            elapsed_us = (time.monotonic_ns() - self._sent_ns) // 1000
            return Ended("complete", body, True, None, elapsed_us, elapsed_us)
        self._effect = effect
        self._chunks: list[bytes] = []
        self._size = self._first_us = 0
        return self._more()

    def _news(self) -> None:
        assert self.response is not None
        self.response.on_news = None
        self.go(self._more())

    def _more(self) -> object:
        """Take what has come; Ended when that is all, or PENDING."""
        response, chunks = self.response, self._chunks
        assert response is not None
        try:
            while True:
                chunk = response.chunk_nowait()
                if chunk is None:
                    response.on_news = self._news
                    return PENDING
                if not self._first_us:
                    self._first_us = self._since(self._sent_ns)
                if not chunk:
                    break
                chunks.append(chunk)
                self._size += len(chunk)
                if self._size > self._effect.limit and self._effect.own:
                    response.abandon()
                    fault = Fault("protocol", f"more than {self._effect.limit:,} bytes", True)
                    return Ended("fault", fault=fault, first_byte_us=self._first_us, elapsed_us=self._since(self._sent_ns))
                if self._size > self._effect.limit:
                    return self.follow(self._too_large(self._effect, response, chunks, self._first_us))
        except UpstreamFault as fault:
            broken = Fault(fault.kind, fault.detail, True)
            return Ended("fault", fault=broken, first_byte_us=self._first_us, elapsed_us=self._since(self._sent_ns))
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Ended("complete", body, True, None, self._first_us, self._since(self._sent_ns))

    async def _too_large(self, effect: Gather, response: UpstreamResponse, chunks: list[bytes], first_us: int) -> Ended:
        """Stream on what cannot be held back, remembering both ends."""
        client = self.client
        client.start(effect.head.status, effect.out_headers, None)
        start = b"".join(chunks)
        head, tail, relayed = start[:EDGE], start[-EDGE:], 0
        how, fault = "complete", None
        client.write(start)
        relayed += len(start)
        try:
            while not client.gone:
                if not client.writable:
                    await client.drain()
                chunk = await response.chunk()
                if not chunk:
                    break
                tail = (tail + chunk)[-EDGE:]
                client.write(chunk)
                relayed += len(chunk)
            else:
                how = "client_gone"
                response.abandon()
        except UpstreamFault as broken:
            how, fault = "fault", Fault(broken.kind, broken.detail, True)
        return Ended(how, b"", False, fault, first_us, self._since(self._sent_ns), relayed, (head, tail))

    def reply(self, effect: Reply) -> None:
        answer = effect.answer
        self.client.respond(answer.status, answer.headers, answer.body)

    # -- streams ---------------------------------------------------------------------------------------------------------

    def relay(self, effect: Relay) -> object:
        return self.follow(self._relay(effect))

    async def _relay(self, effect: Relay) -> Ended:
        response, client, reader, sent = self.response, self.client, effect.reader, self._sent_ns
        assert response is not None
        client.start(effect.head.status, effect.out_headers, None)
        feed, write = reader.feed, client.write
        relayed = first_us = 0
        look = max(effect.most, EDGE) if effect.most else 1 << 62  # a stream is longer than the text in it
        how, fault = "complete", None
        self._ordered = effect.ordered
        self._edge.streams.add(self)
        if self._door is not None and self._door.address.table.on_disconnect == "abort":
            client.on_gone = response.abandon
        try:
            while True:
                chunk = response.chunk_nowait()
                if chunk is None:
                    await response.news()
                    continue
                if not first_us:
                    first_us = self._since(sent)
                if not chunk:
                    reader.finish()
                    break
                out = feed(chunk)
                if out and not client.gone:
                    relayed += len(out)
                    write(out)
                    if not client.writable:
                        await client.drain()
                if reader.done:
                    break
                if relayed > look:
                    look = relayed + EDGE
                    if reader.reading().output_bytes > effect.most:
                        how = "outgrown"
                        reader.finish()
                        response.abandon()
                        break
                if client.gone and client.on_gone is not None:
                    raise UpstreamFault("reset", "the client left", True)
        except UpstreamFault as broken:
            reader.finish()
            if client.gone:
                how = "client_gone"
            elif self._halted:
                how = "stopped"
            else:
                how, fault = "fault", Fault(broken.kind, broken.detail, True)
        finally:
            client.on_gone = None
            self._edge.streams.discard(self)
        if client.gone and how == "complete" and not reader.done:
            how = "client_gone"
        return Ended(how, b"", False, fault, first_us, self._since(sent), relayed)

    def obey(self) -> None:
        """Orders have changed: a stream that one of them stops ends here, properly, and the provider is told to stop."""
        if not self._halted and self.response is not None and not self.response.complete and self._ordered():
            self._halted = True
            self.response.abandon()

    def finish(self, effect: Finish) -> object:
        return self.follow(self._finish(effect.kept, effect.complete))

    async def _finish(self, kept: bytes, complete: bool) -> None:
        client, response = self.client, self.response
        if kept:
            client.write(kept)
        if response is not None and not response.complete:
            await self._tail(response)
        if complete:
            client.end()
        else:
            client.abort()

    async def _tail(self, response: UpstreamResponse) -> None:
        """After the terminal event a provider has at most the end of the body left to say, or one more marker (OpenRouter
        sends `[DONE]` after `response.completed`): passed on, within a second."""
        try:
            while not response.complete:
                chunk = response.chunk_nowait()
                if chunk is None:
                    chunk = await asyncio.wait_for(response.chunk(), 1.0)
                if not chunk:
                    break
                self.client.write(chunk)
        except (UpstreamFault, TimeoutError):
            pass
        if not response.complete:
            response.abandon()

    def wait(self, effect: Wait) -> object:
        return self.follow(self._wait(effect.seconds))

    async def _wait(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return not self.client.gone

    def _since(self, then_ns: int) -> int:
        return (time.monotonic_ns() - then_ns) // 1000

    acts: Mapping[type, Callable[[Any, Any], Any]] = {
        Recall: recall, Follow: place, Hold: hold, Send: send, Gather: gather, Relay: relay, Book: book, Finish: finish, Wait: wait,
        Reply: reply, Seek: seek, Keep: keep, Liken: liken, Sampled: sampled, Consult: consult, Note: note, Sorted: sorted_,
    }  # fmt: skip
