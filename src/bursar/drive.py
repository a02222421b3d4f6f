"""Performs what the pipeline asks for, once for sync and once for async. One of the three places that may catch everything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from .desk import Way
from .domain.call import Ended, Fault
from .domain.shape import replace
from .domain.thread import Ask, Heard, Landmark, Placed
from .effects import (
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
    Turn,
    Wait,
)  # fmt: skip
from .ports import PENDING, AsyncWorld, SyncWorld
from .rules.estimate import Ratio

if TYPE_CHECKING:
    import asyncio  # for its names only: a wrapper without a loop should not pay for loading it

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


class Savings(Protocol):
    """What a process remembers so that the next call is cheaper."""

    def seek(self, effect: Seek, wake: Callable[[object], None] | None) -> object:
        """Kept replies; PENDING where an identical call is in flight: then `wake` is called with them, from any thread. Without
        `wake` nothing is waited for."""
        ...

    def keep(self, effect: Keep) -> None: ...
    def liken(self, effect: Liken) -> object: ...
    def sampled(self, effect: Sampled) -> None: ...
    def sorted(self, effect: Sorted) -> None: ...
    def consult(self, effect: Consult) -> object: ...
    def note(self, effect: Note) -> None: ...


class Memory(Protocol):
    """What a process remembers between calls."""

    @property
    def controls(self) -> Savings: ...

    def recall(self, provider: str, model: str) -> Ratio:
        """What was learnt of a model's bytes per token."""
        ...

    def follow(self, ask: Ask) -> Placed:
        """Which conversation a request belongs to; it is under way from now on."""
        ...

    def heard(self, heard: Heard) -> tuple[Landmark, ...]:
        """What became of it; gives what other processes must know of the conversation, to be written with the row."""
        ...


def remembered(book: Book, memory: Memory) -> Book:
    """The row with what other processes must know of its conversation."""
    landmarks = memory.heard(book.heard) if book.heard is not None else ()
    return replace(book, settlement=replace(book.settlement, landmarks=landmarks)) if landmarks else book


class Journey:
    """A call under way inside the caller's process: runs until there is something to hand to the caller, then waits for it.

    `advance()` gives Reply or Relay; after a Relay the caller's own iteration drives the bytes, and `advance(Ended)` books and
    gives Finish. A Gather that the world does not finish (None: the body is too large to hold back) is the caller's to
    drive in the same way. Leaving it undriven loses nothing: the hold stands and becomes an `unknown` row."""

    __slots__ = ("_memory", "_turn", "_way", "over")

    def __init__(self, way: Way, memory: Memory) -> None:
        self._way, self._memory, self.over = way, memory, False
        self._turn: Turn | None = None

    def advance(self, world: SyncWorld, value: Any = None) -> Relay | Gather | Reply | Finish | None:
        """Perform effects until one is the caller's to perform; None when the way is at its end."""
        send = self._way.send
        try:
            while True:
                effect = send(value)
                kind = type(effect)
                if kind is Recall:
                    value = self._memory.recall(effect.provider, effect.model)
                elif kind is Follow:
                    value = self._memory.follow(effect.ask)
                elif kind is Hold:
                    value = world.hold(effect)
                elif kind is Send:
                    value = world.send(effect)
                elif kind is Gather:
                    value = world.gather(effect)
                    if value is None:
                        return self._handed(effect)
                elif kind is Book:
                    value = world.book(remembered(effect, self._memory))
                elif kind is Reply:
                    return self._handed(effect)
                elif kind is Wait:
                    value = world.wait(effect.seconds)
                elif isinstance(effect, Seek):
                    value = self._waited(effect)
                elif isinstance(effect, Keep | Liken | Sampled | Consult | Note | Sorted):
                    value = self._remembered(effect)
                else:
                    return self._handed(effect)
        except StopIteration:
            self.over = True
            return None
        except BaseException:
            self._give_way()
            raise

    async def advance_async(self, world: AsyncWorld, value: Any = None) -> Relay | Gather | Reply | Finish | None:
        """The same, awaiting."""
        send = self._way.send
        try:
            while True:
                effect = send(value)
                kind = type(effect)
                if kind is Recall:
                    value = self._memory.recall(effect.provider, effect.model)
                elif kind is Follow:
                    value = self._memory.follow(effect.ask)
                elif kind is Hold:
                    value = await world.hold(effect)
                elif kind is Send:
                    value = await world.send(effect)
                elif kind is Gather:
                    value = await world.gather(effect)
                    if value is None:
                        return self._handed(effect)
                elif kind is Book:
                    value = await world.book(remembered(effect, self._memory))
                elif kind is Wait:
                    value = await world.wait(effect.seconds)
                elif isinstance(effect, Seek):
                    value = await self._awaited(effect)
                elif isinstance(effect, Keep | Liken | Sampled | Consult | Note | Sorted):
                    value = self._remembered(effect)
                else:
                    return self._handed(effect)
        except StopIteration:
            self.over = True
            return None
        except BaseException:
            self._give_way()
            raise

    def _give_way(self) -> None:
        """Nobody is to wait for this call any more."""
        if self._turn is not None:
            self._turn.leave()

    def _handed(self, effect: Any) -> Any:
        """The caller drives from here, as slowly as it likes and perhaps in the thread of somebody who waits for this call: nobody
        may wait for it any more."""
        self._give_way()
        return effect

    def _remembered(self, effect: Keep | Liken | Sampled | Consult | Note | Sorted) -> object:
        its = self._memory.controls
        if isinstance(effect, Keep):
            return its.keep(effect)
        if isinstance(effect, Liken):
            return its.liken(effect)
        if isinstance(effect, Sampled):
            return its.sampled(effect)
        if isinstance(effect, Sorted):
            return its.sorted(effect)
        return its.consult(effect) if isinstance(effect, Consult) else its.note(effect)

    def _waited(self, effect: Seek) -> object:
        self._turn = effect.turn
        came: list[object] = []
        there = threading.Event()

        def wake(value: object) -> None:
            came.append(value)
            there.set()

        value = self._memory.controls.seek(effect, wake)
        if value is PENDING:
            there.wait()
            value = came[0]
        return value

    async def _awaited(self, effect: Seek) -> object:
        import asyncio

        self._turn = effect.turn
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another kind of loop: nothing is waited for there
            return self._memory.controls.seek(effect, None)
        future: asyncio.Future[object] = loop.create_future()

        def told(value: object) -> None:
            if not future.done():
                future.set_result(value)
            elif effect.turn is not None:
                effect.turn.leave()  # it was cancelled meanwhile, and may have been told to lead

        value = self._memory.controls.seek(effect, lambda value: loop.call_soon_threadsafe(told, value))
        return await future if value is PENDING else value

    def leave(self, value: Fault | Ended) -> Book | None:
        """The caller is gone: what is still to be written, and nothing further is tried."""
        self.over = True
        self._give_way()
        try:
            effect = self._way.send(value)
        except StopIteration:
            return None
        self._way.close()
        return remembered(effect, self._memory) if isinstance(effect, Book) else None


class Run:
    """A call through a gateway, whole: relays, replies and finishes are its acts too. Our own faults end here.

    The edge that owns the client is a kind of this. An act (by the effect's type) is called with the run and the effect, and gives
    the result, or PENDING. No task and no future: what an effect waits for (the disk, the provider) calls `go` with its
    result. A task is made only for what is a conversation in itself, by `follow`."""

    __slots__ = ("_next", "_task", "_way")

    acts: Mapping[type, Callable[[Any, Any], Any]]
    loop: asyncio.AbstractEventLoop

    def __init__(self, way: Way) -> None:
        self._way, self._next = way, way.send
        self._task: asyncio.Task[Any] | None = None

    def at_end(self) -> None:
        """The call is over; told once, and not after a fault."""
        raise NotImplementedError

    def at_fault(self, bug: BaseException) -> None:
        """The call cannot go on: a fault of our own."""
        raise NotImplementedError

    def go(self, value: Any = None) -> None:
        """Perform effects until one has to be waited for, or the call is over."""
        send, acts = self._next, self.acts
        try:
            while value is not PENDING:
                effect = send(value)
                value = acts[type(effect)](self, effect)
        except StopIteration:
            self._end()
        except Exception as bug:
            self._failed(bug)

    def _end(self) -> None:
        if self._next is not _nothing:
            self._next = _nothing
            self.at_end()

    def follow(self, work: Coroutine[Any, Any, Any]) -> object:
        """Go on with what this comes to."""
        self._task = task = self.loop.create_task(work)
        task.add_done_callback(self._followed)
        return PENDING

    def _followed(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled():
            self.stop()
        elif (bug := task.exception()) is not None:
            self._failed(bug)
        else:
            self.go(task.result())

    def _failed(self, bug: BaseException) -> None:
        self._way.close()
        log.error("a fault of our own in a call under way; its hold stands and becomes a row", exc_info=bug)
        self._next = _nothing
        self.at_fault(bug)
        if raise_faults:
            raise bug

    def stop(self) -> None:
        """The process ends: nothing further is done for this call. Its hold stands and becomes a row."""
        if self._task is not None:
            self._task.cancel()
            return
        self._way.close()
        self._end()


def _nothing(_value: Any) -> Any:
    """Takes a result that comes when nobody waits for it any more."""
    raise StopIteration


def guarded(act: Callable[..., None], *args: Any, on_fault: Callable[..., None]) -> None:
    """`act`, whose faults (our own) are logged, and told with what it was given."""
    try:
        act(*args)
    except Exception as bug:
        log.exception("a fault of our own at the edge")
        on_fault(*args, bug)
        if raise_faults:
            raise


__all__ = ["BROKEN", "Ended", "Journey", "Run", "guarded", "shielded", "shielded_async"]
