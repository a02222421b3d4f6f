"""Plays a company's calls without a socket: real pipeline, real drive, real dialect readers, a real ledger file; scripted
provider and clock. Two months in some seconds.

What is not as in a gateway: one call after another, and rows reach the disk in batches. Holds and counters live in the ledger
in memory, whose promises are tested to be those of the file's; each settled row goes on to the file, which gets the same
counters out of it. A sync for each row would take ten times as long, and what is lost at a crash is tested elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .. import drive
from ..desk import Caller, Desk
from ..domain.call import Answer, Ended, Fault, Head, Headers, Incoming
from ..domain.entry import Held, Hold, Settlement, Short
from ..effects import Book, Consult, Finish, Follow, Gather, Keep, Liken, Note, Recall, Relay, Reply, Sampled, Seek, Send, Sorted, Wait
from ..effects import Hold as HoldEffect
from ..pipeline import way
from ..stores.fault import LedgerFault
from ..stores.memory import MemoryLedger
from ..stores.pricebook import PriceBook
from ..stores.writer import Ledger
from ..surfaces import price_sync, settings, wiring
from .answering import Answering
from .invoice import NOTHING, Change, Invoice
from .planned import DAY_US, Fact, Midnights, Planned
from .script import HALF, Say
from .spoken import Speech
from .truth import Truth

BATCH = 512  # rows handed to the file at once
ANYONE = Caller()
SENT_US, HEAD_US, FIRST_US, END_US = 150, 400_000, 420_000, 2_000_000  # how long things take in a world without waiting


class Books(Protocol):
    """What a call needs of a ledger."""

    def hold(self, hold: Hold) -> Short | Held | None: ...
    def book(self, settlement: Settlement) -> None: ...


class Batched:
    """A ledger in memory in front of one on disk."""

    def __init__(self, file: Ledger) -> None:
        self.memory, self._file = MemoryLedger(), file
        self._rows: list[Settlement] = []

    def hold(self, hold: Hold) -> Short | Held | None:
        return self.memory.hold(hold)

    def book(self, settlement: Settlement) -> None:
        self.memory.book(settlement)
        self._rows.append(settlement)
        if len(self._rows) >= BATCH:
            self.flush()

    def flush(self) -> None:
        self._file.book_all(self._rows)
        self._rows.clear()


class Playing(drive.Run):
    """One call through the gateway's drive, in a world in which nothing has to be waited for. What the provider does with it is
    told by `told`, when it is asked for a model."""

    acts: Mapping[type, Callable[[Any, Any], object]] = {
        Recall: lambda world, effect: world.player.memory.recall(effect.provider, effect.model),
        Follow: lambda world, effect: world.player.memory.follow(effect.ask),
        HoldEffect: lambda world, effect: world.hold(effect),
        Send: lambda world, effect: world.send(effect),
        Gather: lambda world, effect: world.gather(effect),
        Relay: lambda world, effect: world.relay(effect),
        Book: lambda world, effect: world.book(drive.remembered(effect, world.player.memory)),
        Wait: lambda world, effect: world.wait(effect.seconds),
        Finish: lambda world, effect: world.finish(effect.kept, effect.complete),
        Reply: lambda world, effect: world.reply(effect.answer),
        Seek: lambda world, effect: world.player.memory.controls.seek(effect, None),
        Keep: lambda world, effect: world.player.memory.controls.keep(effect),
        Liken: lambda world, effect: world.player.memory.controls.liken(effect),
        Sampled: lambda world, effect: world.player.memory.controls.sampled(effect),
        Consult: lambda world, effect: world.player.memory.controls.consult(effect),
        Note: lambda world, effect: world.player.memory.controls.note(effect),
        Sorted: lambda world, effect: world.player.memory.controls.sorted(effect),
    }

    def __init__(self, player: Player, call: Incoming, told: Callable[[str], Say], leaves_after: int = 0) -> None:
        super().__init__(way(call, ANYONE, player.desk))
        self.player, self.call, self.told, self.leaves_after = player, call, told, leaves_after
        self.answer: Answer | None = None
        self.relayed = bytearray()
        self.complete = False  # the client has a whole answer
        self.over = False  # the call is at its end
        self._say = Say()
        self._speech = Speech(200, "", [], NOTHING)

    def at_end(self) -> None:
        self.over = True

    def at_fault(self, bug: BaseException) -> None:
        """In a simulation a bug must stop the run, not become an answer."""
        raise bug

    def hold(self, effect: HoldEffect) -> object:
        try:
            return self.player.ledger.hold(effect.hold)
        except LedgerFault as fault:
            return Fault(fault.code, fault.reason, False)

    def send(self, effect: Send) -> object:
        provider = self.player.provider
        path, _, query = effect.target.partition("?")
        # The header lines are not looked at by an answer that was planned: what it says is told by the model alone.
        seen = self._seen = provider.look(effect.method, path, query, {}, effect.body)
        say = self._say = self.told(seen.model)
        if say.fault in ("reset", "garbage"):
            provider.bill(seen, say, NOTHING, "reset")
            return Fault("reset" if say.fault == "reset" else "protocol", "scripted", True, SENT_US, HEAD_US)
        speech = self._speech = provider.speak(seen, say)
        if say.fault == "silence":
            provider.bill(seen, say, speech.used.part(0), "abandoned")
            return Fault("headers_timeout", "scripted", True, SENT_US, HEAD_US)
        headers: Headers = [(b"content-type", speech.content_type.encode())]
        headers += [(name.encode(), value.encode()) for name, value in say.headers]
        return Head(speech.status, headers, SENT_US, HEAD_US)

    def gather(self, effect: Gather) -> object:
        provider, speech = self.player.provider, self._speech
        if self._say.fault in ("cut", "stall"):
            provider.bill(self._seen, self._say, speech.used, "cut")
            kind = "reset" if self._say.fault == "cut" else "idle_timeout"
            return Ended("fault", fault=Fault(kind, "scripted", True), first_byte_us=FIRST_US, elapsed_us=END_US)
        provider.bill(self._seen, self._say, speech.used, "refused" if speech.status >= 400 else "served")
        body = b"".join([piece.data for piece in speech.pieces])
        if len(body) > effect.limit:
            self.relayed += body
            return Ended("complete", b"", False, None, FIRST_US, END_US, len(body), (body[: 64 << 10], body[-(64 << 10) :]))
        return Ended("complete", body, True, None, FIRST_US, END_US)

    def relay(self, effect: Relay) -> object:
        steps = self.relaying(effect)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def relaying(self, effect: Relay) -> Generator[None, None, Ended]:
        """Feed the pieces through the reader as an edge would, until one side has had enough; pauses after each."""
        provider, say, speech, reader = self.player.provider, self._say, self._speech, effect.reader
        pieces = speech.pieces[: max(1, len(speech.pieces) // 2)] if say.fault in HALF else speech.pieces
        made = 0
        leaves = min(self.leaves_after, len(pieces) - 1) if self.leaves_after else len(pieces)  # before the end, if at all
        for number, piece in enumerate(pieces):
            if number >= leaves:
                provider.bill(self._seen, say, speech.used.part(made), "abandoned")
                reader.finish()
                return Ended("client_gone", b"", False, None, FIRST_US, END_US, len(self.relayed))
            made = piece.made
            self.relayed += reader.feed(piece.data)
            yield
        fault = None
        if say.fault in HALF:
            provider.bill(self._seen, say, speech.used.part(made), "cut")
            if say.fault == "error_event":
                self.relayed += reader.feed(speech.error_event)
            elif say.fault != "unfinished":
                fault = Fault("reset" if say.fault == "cut" else "idle_timeout", "scripted", True)
        else:
            provider.bill(self._seen, say, speech.used, "served")
        if not reader.done:
            reader.finish()
        return Ended("fault" if fault else "complete", b"", False, fault, FIRST_US, END_US, len(self.relayed))

    def book(self, effect: Book) -> object:
        if effect.sample is not None:
            self.player.memory.ratios.learn(effect.sample)
        try:
            self.player.ledger.book(effect.settlement)
        except LedgerFault as fault:
            return Fault(fault.code, fault.reason, False)
        return None

    def wait(self, seconds: float) -> object:
        return True

    def finish(self, kept: bytes, complete: bool) -> object:
        self.relayed += kept
        self.complete = complete

    def reply(self, answer: Answer) -> object:
        self.answer, self.complete = answer, True


class Player:
    """A desk, a ledger, a provider, and calls played against them."""

    def __init__(self, desk: Desk, ledger: Books, provider: Answering) -> None:
        self.desk, self.ledger, self.provider = desk, ledger, provider
        self.memory = wiring.Memory()

    def play(self, planned: Planned) -> Playing:
        """One call, from its bytes to its rows. Its id is its ref, so that the ledger can be compared with the truth."""
        playing = Playing(self, self.incoming(planned), planned.told, planned.leaves_after)
        playing.go()
        assert playing.over, "a played call waits for nobody"
        return playing

    def incoming(self, planned: Planned) -> Incoming:
        path, _, query = planned.path.partition("?")
        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode(), value.encode()) for name, value in planned.headers(script=False).items()]
        return Incoming(planned.ref, planned.ts_us, "POST", path, query, headers, planned.body.encode())


class Simulated(NamedTuple):
    """What came of it: the truth, the provider's bill, and where the ledger lies."""

    truth: Truth
    invoice: Invoice
    ledger: Path
    calls: int


NOWHERE = """
[providers.{name}]
base_url = "http://127.0.0.1:9"
key = "sk-simulated"
retries = {retries}
"""


def desk(policy: str, prices: str | Path | None = None, retries: int = 0) -> Desk:
    """The desk that a gateway under this policy text would judge by; the text says nothing of providers. `prices` is a folder
    to keep the compiled price book in (compiling takes two seconds, once); `retries` are the gateway's own."""
    places = [NOWHERE.format(name=name, retries=retries) for name in ("openai", "anthropic", "gemini")]
    parsed = settings.parse("\n".join([policy, *places]), "the simulation's policy")
    book = PriceBook.load(price_sync.ensure_book(prices or _own_folder()), parsed.price)
    return wiring.desk_of(parsed, "simulated", wiring.addresses(parsed, keys_from_environment=False), book, "simulated")


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / "bursar-simulated-prices"
    folder.mkdir(exist_ok=True)
    return folder


def simulate(
    calls: Iterable[Planned], ledger: str | Path, *, policy: str = "", changes: Sequence[Change] = (),
    prices: str | Path | None = None, on_call: Callable[[Planned], None] = lambda planned: None,
    on_day: Callable[[int], None] | None = None,
) -> Simulated:  # fmt: skip
    """Play the calls into a new ledger at this path. `policy` is the text of a policy file, `changes` what becomes of the
    provider's prices; `on_call` is told of each call before it is played (a progress bar), `on_day` of ten minutes past each
    midnight, when all rows before it are written (a clockwork)."""
    now, midnights = 0, None
    provider = Answering(clock=lambda: now, changes=changes, keep=0)
    facts: list[Fact] = []
    played = 0
    with Ledger.open(ledger, node="simulated", clock_us=lambda: now) as file:
        books = Batched(file)
        player = Player(desk(policy, prices), books, provider)
        for planned in calls:
            if on_day is not None:
                midnights = midnights or Midnights(planned.ts_us)
                for now in midnights.until(planned.ts_us):
                    books.flush()
                    on_day(now)
            now = planned.ts_us
            on_call(planned)
            player.play(planned)
            facts.extend(planned.facts)
            played += 1
        books.flush()
        if on_day is not None and midnights is not None:
            last = now
            for now in midnights.until(last + DAY_US):
                on_day(now)
    return Simulated(Truth(facts, provider.invoice.lines), provider.invoice, Path(ledger), played)
