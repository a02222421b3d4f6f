"""For tests, users' too: play a call through the real pipeline against a scripted provider, and read what happened as a transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..desk import Caller, Desk
from ..domain.call import Answer, Ended, Fault, Head, Headers, Incoming
from ..domain.entry import Entry, Hold, Settlement, Short
from ..domain.thread import Ask, Heard, Landmark, Placed
from ..drive import Journey
from ..effects import Book, Finish, Gather, Relay, Reply, Send
from ..effects import Hold as HoldEffect
from ..pipeline import way
from ..rules import estimate, thread
from ..stores.threads import Threads
from ..surfaces.controls import Savings


class Served(NamedTuple):
    """What the scripted provider does with one request: a status, headers and the pieces of its body; or a fault, before the
    head or after `pieces`."""

    status: int = 200
    headers: Headers = [(b"content-type", b"application/json")]
    pieces: Sequence[bytes] = ()
    fault: Fault | None = None


class Played(NamedTuple):
    """What came of it. `steps` is the transcript: one short line per effect, in order."""

    steps: list[str]
    answer: Answer | None
    relayed: bytes
    entries: list[Entry]
    holds: list[Hold]
    sent: list[Send]


class World:
    """A world of values: no clock, no socket, no file. `budget_short` and `fail` let a test break any step."""

    def __init__(
        self,
        provider: Callable[[Send], Served],
        *,
        hold_says: Callable[[Hold], Short | Fault | None] = lambda hold: None,
        client_leaves_after: int | None = None,
    ) -> None:
        self.provider, self.hold_says, self.client_leaves_after = provider, hold_says, client_leaves_after
        self.steps: list[str] = []
        self.holds: list[Hold] = []
        self.settled: list[Settlement] = []
        self.sent: list[Send] = []
        self.samples: list[Any] = []
        self.open: dict[str, Hold] = {}
        self.threads = Threads()
        self.controls = Savings()
        self._now: Served = Served()

    # what a process remembers

    def recall(self, provider: str, model: str) -> estimate.Ratio:
        return estimate.START

    def follow(self, ask: Ask) -> Placed:
        return thread.follow(self.threads, ask)

    def heard(self, heard: Heard) -> tuple[Landmark, ...]:
        return thread.heard(self.threads, heard)

    # effects

    def hold(self, effect: HoldEffect) -> Short | Fault | None:
        said = self.hold_says(effect.hold)
        self.steps.append(
            f"hold {effect.hold.entry.model_served or '-'} {'held' if said is None else type(said).__name__.lower()}"
        )
        if said is None:
            self.holds.append(effect.hold)
            self.open[effect.hold.id] = effect.hold
        return said

    def send(self, effect: Send) -> Head | Fault:
        self.sent.append(effect)
        self._now = served = self.provider(effect)
        if served.fault is not None and not served.pieces:
            self.steps.append(f"send {effect.provider} {served.fault.kind}")
            return served.fault
        self.steps.append(f"send {effect.provider} {served.status}")
        return Head(served.status, served.headers, 100, 1000)

    def gather(self, effect: Gather) -> Ended:
        body = b"".join(self._now.pieces)
        self.steps.append("gather")
        if self._now.fault is not None:
            return Ended("fault", fault=self._now.fault, elapsed_us=2000)
        if len(body) > effect.limit:
            return Ended("complete", relayed=len(body), edges=(body[: 64 << 10], body[-(64 << 10) :]), elapsed_us=2000)
        return Ended("complete", body, True, None, 1500, 2000)

    def book(self, effect: Book) -> Fault | None:
        entry = effect.settlement.entry
        self.steps.append(f"book {entry.operation} {entry.status} {entry.ended}")
        self.settled.append(effect.settlement)
        self.open.pop(effect.settlement.id, None)
        if effect.sample is not None:
            self.samples.append(effect.sample)
        return None

    def wait(self, seconds: float) -> bool:
        self.steps.append(f"wait {seconds:g}")
        return True

    def relay(self, effect: Relay, out: bytearray) -> Ended:
        """Feed the pieces through the reader as an edge would."""
        self.steps.append("relay")
        for number, piece in enumerate(self._now.pieces):
            if self.client_leaves_after is not None and number >= self.client_leaves_after:
                effect.reader.finish()
                return Ended("client_gone", first_byte_us=1500, elapsed_us=2000, relayed=len(out))
            out += effect.reader.feed(piece)
            if effect.reader.done:
                return Ended("complete", first_byte_us=1500, elapsed_us=2000, relayed=len(out))
        effect.reader.finish()
        if self._now.fault is not None:
            return Ended("fault", fault=self._now.fault, first_byte_us=1500, elapsed_us=2000, relayed=len(out))
        return Ended("complete", first_byte_us=1500, elapsed_us=2000, relayed=len(out))


def play(call: Incoming, desk: Desk, world: World, caller: Caller = Caller()) -> Played:  # noqa: B008 (frozen)
    """One call, whole, through the real pipeline and the real drive."""
    journey = Journey(way(call, caller, desk), world)
    relayed = bytearray()
    answer: Answer | None = None
    value: Any = None
    while (effect := journey.advance(world, value)) is not None:
        value = None
        match effect:
            case Relay():
                value = world.relay(effect, relayed)
            case Reply(said):
                world.steps.append(f"reply {said.status}")
                answer = said
            case Finish(kept, complete):
                world.steps.append("finish" if complete else "cut")
                relayed += kept
    return Played(world.steps, answer, bytes(relayed), [s.entry for s in world.settled], world.holds, world.sent)


def respond(
    body: bytes, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),)
) -> Served:
    """A whole JSON answer."""
    return Served(status, list(headers), (body,))


def stream(pieces: Sequence[bytes]) -> Served:
    """A streamed answer."""
    return Served(200, [(b"content-type", b"text/event-stream")], pieces)


__all__ = ["Played", "Served", "World", "play", "respond", "stream"]
