"""Performs what the pipeline asks for, once for sync and once for async. One of the three places that may catch everything."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from .domain.call import Ended, Fault
from .effects import Book, Finish, Gather, Hold, Recall, Relay, Reply, Send, Wait
from .pipeline import Way
from .ports import AsyncWorld, SyncWorld
from .rules.estimate import Ratio

log = logging.getLogger("bursar")

# Set by tests: then our own faults are raised instead of being turned into an answer.
raise_faults = False

faults = 0  # of our own, in this process's wrapper
BROKEN: Final = object()


def shielded(act: Callable[..., Any], *args: Any, outside: Callable[[], bool] = bool) -> Any:
    """What `act` gives, or BROKEN when it fails by a fault of our own: inside the caller's process the call must go on
    without us. What fails while `outside()` is true failed in code that is not ours, and is raised on."""
    try:
        return act(*args)
    except Exception as bug:
        if raise_faults or outside():
            raise
        return _count(bug)


async def shielded_async(work: Awaitable[Any], outside: Callable[[], bool] = bool) -> Any:
    """The same, awaiting."""
    try:
        return await work
    except Exception as bug:
        if raise_faults or outside():
            raise
        return _count(bug)


def _count(bug: Exception) -> object:
    """The first is logged whole; the rest are counted, or a broken release would fill the disk as well."""
    global faults
    faults += 1
    if faults == 1:
        log.error("a fault of our own; calls go on without their books (later ones are only counted)", exc_info=bug)
    return BROKEN


class Journey:
    """A call under way inside the caller's process: runs until there is something to hand to the caller, then waits for it.

    `advance()` gives Reply or Relay; after a Relay the caller's own iteration drives the bytes, and `advance(Ended)` books and
    gives Finish. A Gather that the world does not finish (None: the body is too large to hold back) is the caller's to
    drive in the same way. Leaving it undriven loses nothing: the hold stands and becomes an `unknown` row."""

    __slots__ = ("_recall", "_way", "over")

    def __init__(self, way: Way, recall: Callable[[str, str], Ratio]) -> None:
        self._way, self._recall, self.over = way, recall, False

    def advance(self, world: SyncWorld, value: Any = None) -> Relay | Gather | Reply | Finish | None:
        """Perform effects until one is the caller's to perform; None when the way is at its end."""
        send = self._way.send
        try:
            while True:
                effect = send(value)
                match effect:
                    case Hold():
                        value = world.hold(effect)
                    case Send():
                        value = world.send(effect)
                    case Gather():
                        value = world.gather(effect)
                        if value is None:
                            return effect
                    case Book():
                        value = world.book(effect)
                    case Recall():
                        value = self._recall(effect.provider, effect.model)
                    case Wait():
                        value = world.wait(effect.seconds)
                    case _:
                        return effect
        except StopIteration:
            self.over = True
            return None

    async def advance_async(self, world: AsyncWorld, value: Any = None) -> Relay | Gather | Reply | Finish | None:
        """The same, awaiting."""
        send = self._way.send
        try:
            while True:
                effect = send(value)
                kind = type(effect)
                if kind is Recall:
                    value = self._recall(effect.provider, effect.model)
                elif kind is Hold:
                    value = await world.hold(effect)
                elif kind is Send:
                    value = await world.send(effect)
                elif kind is Gather:
                    value = await world.gather(effect)
                    if value is None:
                        return effect
                elif kind is Book:
                    value = await world.book(effect)
                elif kind is Wait:
                    value = await world.wait(effect.seconds)
                else:
                    return effect
        except StopIteration:
            self.over = True
            return None

    def leave(self, value: Fault | Ended) -> Book | None:
        """The caller is gone: what is still to be written, and nothing further is tried."""
        self.over = True
        try:
            effect = self._way.send(value)
        except StopIteration:
            return None
        self._way.close()
        return effect if isinstance(effect, Book) else None


async def run(
    way: Way, world: AsyncWorld, recall: Callable[[str, str], Ratio], on_fault: Callable[[BaseException], None]
) -> None:
    """A call through a gateway, whole: relays, replies and finishes are the world's too. Our own faults end here."""
    value: Any = None
    send = way.send
    try:
        # Not by way of a Journey: each await would pass through one frame more, on every call six times.
        while True:
            effect = send(value)
            kind = type(effect)
            if kind is Recall:
                value = recall(effect.provider, effect.model)
            elif kind is Hold:
                value = await world.hold(effect)
            elif kind is Send:
                value = await world.send(effect)
            elif kind is Gather:
                value = await world.gather(effect)
            elif kind is Book:
                value = await world.book(effect)
            elif kind is Reply:
                value = await world.reply(effect.answer)
            elif kind is Relay:
                value = await world.relay(effect)
            elif kind is Finish:
                value = await world.finish(effect.kept, effect.complete)
            else:
                value = await world.wait(effect.seconds)
    except StopIteration:
        return
    except Exception as bug:
        if raise_faults:
            raise
        log.exception("a fault of our own in a call under way; its hold stands and becomes a row")
        on_fault(bug)
    finally:
        way.close()


__all__ = ["BROKEN", "Ended", "Journey", "run", "shielded", "shielded_async"]
