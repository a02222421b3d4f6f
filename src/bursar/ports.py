"""Shapes the world must have: what drive calls to perform an effect. Sync, async and called-back faces of the same acts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from .domain.call import Ended, Fault, Head
from .domain.entry import Held, Short
from .effects import Book, Gather, Hold, Send

if TYPE_CHECKING:
    import asyncio


class SyncWorld(Protocol):
    """What an edge without an event loop offers. Faults come back as values; only bugs raise. `gather` gives None when the
    body is more than its limit and the caller must stream it on (only where the caller drives: see `drive.Journey`)."""

    def hold(self, effect: Hold) -> Short | Held | Fault | None: ...
    def send(self, effect: Send) -> Head | Fault: ...
    def gather(self, effect: Gather) -> Ended | None: ...
    def book(self, effect: Book) -> Fault | None: ...
    def wait(self, seconds: float) -> bool: ...


class AsyncWorld(Protocol):
    """The same with an event loop, inside the caller's own process."""

    async def hold(self, effect: Hold) -> Short | Held | Fault | None: ...
    async def send(self, effect: Send) -> Head | Fault: ...
    async def gather(self, effect: Gather) -> Ended | None: ...
    async def book(self, effect: Book) -> Fault | None: ...
    async def wait(self, seconds: float) -> bool: ...


PENDING: Final = object()  # the result comes later, by a call of `go`


class EdgeWorld(Protocol):
    """The edge that owns the client: relays, replies and finishes are its acts too. An act (by the effect's type) is called with
    the world and the effect, and gives the result, or PENDING: then the edge calls `go` with it when it is there, or lets drive
    `follow` a coroutine to it."""

    acts: Mapping[type, Callable[[Any, Any], Any]]
    go: Callable[[Any], None]
    follow: Callable[[Coroutine[Any, Any, Any]], object]
    loop: asyncio.AbstractEventLoop
