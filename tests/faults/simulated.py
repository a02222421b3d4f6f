"""A process and its calls in a world where every step may fail, by seed: the gateway's own drive, stepped by chance, no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any, NamedTuple

from bursar.desk import Desk
from bursar.domain.call import Answer, Ended, Fault, Head, Incoming
from bursar.domain.entry import Settlement
from bursar.effects import Book, Gather, Relay, Send
from bursar.effects import Hold as HoldEffect
from bursar.ports import PENDING
from bursar.stores.memory import MemoryLedger
from bursar.surfaces import wiring
from bursar.testing import player
from bursar.testing.answering import Answering
from bursar.testing.player import Player, Playing
from bursar.testing.script import HALF, Say
from bursar.testing.talk import ANTHROPIC, CHAT, GEMINI, RESPONSES, Setup, Talk, Tool, path_of

from .audit import Books, Budget

START_US = 1_791_000_000_000_000  # 2026-10-03
FLIGHT = 5  # calls under way at once
TENANTS = ("acme", "globex")
MODELS = {CHAT: "gpt-5-mini", RESPONSES: "gpt-5", ANTHROPIC: "claude-haiku-4-5", GEMINI: "gemini-2.5-flash"}
FAULTS = ("reset", "cut", "error_event", "unfinished", "stall", "silence", "not_json", "malformed", "garbage")
STATUSES = (400, 429, 500, 503, 529)
SETUP = Setup("You answer.", (Tool("look", "Look it up.", ("id",)),), json_demanded=True)

# Tight budgets, so that calls are refused; one that stays open when the ledger is in trouble, and two that do not.
POLICY = """
[[budget]]
name = "tenants"
scope = "tenant"
limit = "{dollars}"
hard = true
on_fault = "{on_fault}"

[[budget]]
name = "conversations"
scope = "conversation"
limit = "4 calls"
window = "conversation"
hard = true
on_fault = "{on_fault}"

[[budget]]
name = "features"
scope = "feature"
limit = "$0.01"
hard = false

[[fallback]]
from = "gpt-5-mini"
to = ["gpt-5", "gpt-5.5"]
on = ["5xx", "429", "timeout", "connect", "reset", "malformed"]

[[fallback]]
from = "claude-haiku-4-5"
to = "claude-opus-4-1"
on = ["malformed", "reset"]
"""
LIMITS = ("$0.40", "$2", "$50")


class Rates(NamedTuple):
    """How often things go wrong in this world, each a share of its occasions."""

    provider: float
    connect: float
    ledger: float
    leaves: float
    crash: float
    hang: float
    silent: float  # answers that do not tell their usage

    @classmethod
    def by(cls, rng: Random) -> Rates:
        often = [rng.choice((0.0, 0.05, 0.3)) for _ in range(4)]
        return cls(*often, rng.choice((0.0, 0.003, 0.01)), rng.choice((0.0, 0.003, 0.01)), 0.1)


@cache
def desk_for(dollars: str, on_fault: str, retries: int) -> Desk:
    return player.desk(POLICY.format(dollars=dollars, on_fault=on_fault), retries=retries)


class Troubled(Playing):
    """The world of one call, in which its steps fail."""

    def __init__(self, world: World, call: Incoming) -> None:
        self.world = world
        self.act: Callable[[], object] = lambda: None
        self.tries: list[str] = []  # that went to the provider
        self.said, self.spoke = b"", False  # what the provider said to the last try, where it said all of it
        self.unheld: set[str] = set()  # let out though the ledger could not say: by the operator's wish
        super().__init__(world.player, call, self._told, world.rng.choice((1, 2)) if world.hits("leaves") else 0)

    def _told(self, model: str) -> Say:
        world, rng = self.world, self.world.rng
        text = json.dumps({"reply": "word " * rng.randrange(1, 60)})
        say = Say(text=text, pieces=rng.randrange(1, 5), ref=self.tries[-1])
        if rng.random() < 0.3:
            say = replace(say, tools=(("look", json.dumps({"id": rng.randrange(9)})),))
        if rng.random() < world.rates.silent:
            say = replace(say, tell_usage=False)
        if world.hits("provider"):
            if rng.random() < 0.4:
                return replace(say, status=rng.choice(STATUSES), headers=(("retry-after", "1"),) if rng.random() < 0.5 else ())
            return replace(say, fault=rng.choice(FAULTS))
        return say

    # Each act ends in `_later`: the call waits, and goes on when chance has chosen it.

    def _later(self, act: Callable[[], object]) -> object:
        self.act = act
        return PENDING

    def step(self) -> None:
        """Do what this call waits for, and go on with what comes of it."""
        value = self.act()
        if value is not PENDING:
            self.go(value)

    def hold(self, effect: HoldEffect) -> object:
        return self._later(lambda: self._hold(effect))

    def _hold(self, effect: HoldEffect) -> object:
        self.spoke = False  # the next word is ours, or another try's
        if self.world.hits("ledger"):
            self.unheld.add(effect.hold.id)
            return Fault("io_error", "scripted", False)
        answer = super().hold(effect)
        if answer is None:
            self.world.weigh(effect)
        return answer

    def send(self, effect: Send) -> object:
        return self._later(lambda: self._send(effect))

    def _send(self, effect: Send) -> object:
        self.tries.append(effect.hold_id)
        if self.world.hits("connect"):
            return Fault("connect", "scripted", False)
        head = super().send(effect)
        if isinstance(head, Head):
            self.said = b"".join(piece.data for piece in self._speech.pieces)
            self.spoke = self._say.fault not in HALF
        return self._later(lambda: head)  # the provider is at it: time for a crash

    def gather(self, effect: Gather) -> object:
        return self._later(lambda: super(Troubled, self).gather(effect))

    def relay(self, effect: Relay) -> object:
        steps = self.relaying(effect)
        return self._later(lambda: self._relay(steps))

    def _relay(self, steps: Generator[None, None, Ended]) -> object:
        try:
            next(steps)
        except StopIteration as end:
            ended = end.value
            return self._later(lambda: ended)
        return self._later(lambda: self._relay(steps))

    def book(self, effect: Book) -> object:
        return self._later(lambda: self._book(effect))

    def _book(self, effect: Book) -> object:
        if effect.sample is not None:
            self.player.memory.ratios.learn(effect.sample)
        fault = self.world.book(effect.settlement)
        if fault is None:
            self.unheld.discard(effect.settlement.id)
        return fault

    def wait(self, seconds: float) -> object:
        return self._later(lambda: not self.world.hits("leaves"))

    def finish(self, kept: bytes, complete: bool) -> object:
        return self._later(lambda: self._finish(kept, complete))

    def _finish(self, kept: bytes, complete: bool) -> None:
        super().finish(kept, complete)
        self.world.answers(self)

    def reply(self, answer: Answer) -> object:
        super().reply(answer)
        self.world.answers(self)
        return None


class World:
    """One ledger, the process at work on it, and what its clients and its provider saw. `face`: a ledger on disk instead of
    the one in memory, with its ways to die (see test_simulated)."""

    def __init__(self, seed: int, face: Any = None) -> None:
        self.rng = Random(f"bursar/soak/{seed}")
        rng = self.rng
        self.rates = Rates.by(rng)
        self.dollars = rng.choice(LIMITS)
        self.on_fault = rng.choice(("closed", "open"))
        self.face = face
        self.ledger: Any = face.ledger if face else MemoryLedger()
        self.provider = Answering(clock=lambda: self.now_us, keep=0)
        self.player = Player(desk_for(self.dollars, self.on_fault, rng.choice((0, 0, 2))), self.ledger, self.provider)
        self.now_us = START_US
        self.excused: set[str] = set()
        self.peaks: dict[str, int] = {}
        self.answered: list[str] = []
        self.garbled: list[str] = []  # tries whose client was told something else than the provider said
        self.in_hand: list[Settlement] = []  # rows that the ledger could not take; they land when it is well
        self.crashes = self.hangs = 0

    def hits(self, what: str) -> bool:
        return self.rng.random() < getattr(self.rates, what)

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def book(self, settlement: Settlement) -> Fault | None:
        """A row, or into the hand with it: as the ledger's own spool does, which a crash loses and the hold survives."""
        if self.in_hand or self.hits("ledger"):
            self.in_hand.append(settlement)
            return Fault("late", "scripted", False)
        self.ledger.book(settlement)
        return None

    def land(self) -> None:
        for settlement in self.in_hand:
            self.ledger.book(settlement)
        self.in_hand.clear()

    def weigh(self, effect: HoldEffect) -> None:
        for charge in effect.hold.charges:
            if charge.hard and self.on_fault == "closed":
                standing = self.ledger.counters()[charge.counter]
                self.peaks[charge.counter] = max(self.peaks.get(charge.counter, 0), standing.spent + standing.held)

    def answers(self, playing: Troubled) -> None:
        if not playing.complete or not playing.tries:
            return
        if not self.in_hand:
            self.answered.append(playing.tries[-1])
        said = playing.said
        # The usage event that we ask of OpenAI's chat, and nobody else did, is the one thing that may be kept from a client.
        hidden = b"".join(event + b"\n\n" for event in said.split(b"\n\n") if event and b'"choices":[]' not in event)
        answer = playing.answer.body if playing.answer else bytes(playing.relayed)
        if playing.spoke and answer not in (said, hidden):
            self.garbled.append(playing.tries[-1])

    # -- the process ---------------------------------------------------------------------------------------------------

    def run(self, calls: int) -> None:
        """Let calls come, and step those under way in an order that chance chooses; crash now and then; come to rest."""
        running: list[Troubled] = []
        begun = 0
        while begun < calls or running:
            if begun < calls and (len(running) < FLIGHT and self.rng.random() < 0.4 or not running):
                begun += 1
                self.now_us += self.rng.randrange(1, 30_000_000)
                playing = Troubled(self, self._call(begun))
                running.append(playing)
                playing.go()
                running = [one for one in running if not one.over]
            elif self.hits("crash"):
                self._crash(running)
            elif self.hits("hang"):
                self._hang()
            elif self.in_hand and self.rng.random() < 0.2:
                self.land()
            else:
                at = self.rng.randrange(len(running))
                running[at].step()
                if running[at].over:
                    del running[at]
        self.land()

    def _crash(self, running: list[Troubled]) -> None:
        """The process is killed: nothing under way goes on, what was in hand is lost, and another process finds the holds."""
        self.crashes += 1
        for playing in running:
            playing.stop()
            self.excused |= playing.unheld
        self.excused |= {settlement.id for settlement in self.in_hand if "fault_open" in settlement.entry.flags}
        running.clear()
        self.in_hand.clear()
        self.player.memory = wiring.Memory()
        if self.face:
            self.face.crash()
            self.ledger = self.player.ledger = self.face.ledger
        else:
            self.ledger.abandon()
            self.ledger.recover()

    def _hang(self) -> None:
        """The process stands still for longer than its lease: a sibling gives up its holds, and its rows come late."""
        self.hangs += 1
        if self.face:
            self.face.hang()
        else:
            self.ledger.abandon()
            self.ledger.recover()

    def _call(self, number: int) -> Incoming:
        rng = self.rng
        dialect = rng.choice(tuple(MODELS))
        stream = rng.random() < 0.5
        talk = Talk(SETUP)
        for turn in range(rng.randrange(1, 4)):
            if turn:
                talk.says('{"reply": "so"}')
            talk.human(f"question {rng.randrange(100)} " + "x" * rng.randrange(200))
        path, _, query = path_of(dialect, MODELS[dialect], stream).partition("?")
        labels = {"tenant": rng.choice(TENANTS), "feature": rng.choice(("a", "b", "")), "conversation": f"c{rng.randrange(6)}"}
        headers = [(f"x-bursar-{name}".encode(), value.encode()) for name, value in labels.items() if value]
        body = talk.body(dialect, MODELS[dialect], stream).encode()
        return Incoming(f"call{number}", self.now_us, "POST", path, query, [(b"content-type", b"application/json"), *headers], body)

    # -- the audit -----------------------------------------------------------------------------------------------------

    def books(self) -> Books:
        """Everything, for the auditor."""
        counters = {name: (s.spent, s.held) for name, s in self.ledger.counters().items()}
        limit = {"$0.40": 400_000_000, "$2": 2_000_000_000, "$50": 50_000_000_000}[self.dollars]
        hard = self.on_fault == "closed"
        return Books(
            self.provider.invoice.lines, self.ledger.rows(), self.open_holds(), counters, self.peaks, self.answered,
            frozenset(self.excused),
            (
                Budget("tenants", "tenant", "usd", limit if hard else None),
                Budget("conversations", "conversation", "calls", 4 if hard else None),
                Budget("features", "feature", "usd", None),
            ),
        )  # fmt: skip

    def open_holds(self) -> list[str]:
        return self.face.holds() if self.face else list(self.ledger._holds)


def simulate(seed: int, calls: int = 40, face: Any = None) -> World:
    """A world from its seed to its rest."""
    world = World(seed, face)
    world.run(calls)
    return world

