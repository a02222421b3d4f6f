"""`@bursar.tool`: a program's own tools counted, timed, priced and cached, and their failures told to its next call. Nothing heavy."""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from functools import update_wrapper
from threading import Lock
from typing import Any, NamedTuple, TypeVar, overload

from ..domain.money import usd

Function = TypeVar("Function", bound=Callable[..., Any])
KEPT_MAX = 1024  # results of a tool that are kept
NOTES_MAX = 64  # failures and kept results, remembered until the next call

# What each tool costs, by its name: the wrapped clients of this process charge it when its result is sent to a model.
costs: dict[str, int] = {}
class Notes:
    """What tools have to say to the next model call of a context: which failed, and which were answered from kept results."""

    __slots__ = ("failed", "kept")

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.kept: list[str] = []


# One object that is shared with the tasks and threads that tools run in, where those were given a copy of the context.
_notes: ContextVar[Notes | None] = ContextVar("bursar_tools", default=None)


class Stats(NamedTuple):
    """What a tool did in this process: calls that ran, how many of them failed, seconds they took in all, and how many more were
    answered from kept results."""

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    kept: int = 0


def told() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(failed, kept): the tools that have failed in this context since this was asked last, and a name for each result that was
    kept and not paid for. From here on tools have a place to say so."""
    notes = _notes.get()
    if notes is None:
        _notes.set(Notes())
        return (), ()
    if not notes.failed and not notes.kept:
        return (), ()
    found = tuple(dict.fromkeys(notes.failed)), tuple(notes.kept)
    notes.failed, notes.kept = [], []
    return found


def _place() -> Notes:
    notes = _notes.get()
    if notes is None:
        notes = Notes()
        _notes.set(notes)
    return notes


class _Desk:
    """One tool's books."""

    def __init__(self, name: str, ttl: float | None) -> None:
        self.name, self.ttl = name, ttl
        self.stats = Stats()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._lock = Lock()

    def ran(self, started: float, failed: bool) -> None:
        took = time.monotonic() - started
        with self._lock:
            s = self.stats
            self.stats = Stats(s.calls + 1, s.failures + failed, s.seconds + took, s.kept)
        if failed and len(noted := _place().failed) < NOTES_MAX:
            noted.append(self.name)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """What a kept result is found by; None where nothing is kept, or an argument cannot be looked up. Types count: 1 is not
        True."""
        if self.ttl is None:
            return None
        parts = (*args, *[part for pair in sorted(kwargs.items()) for part in pair])
        key = (len(args), parts, tuple([type(part) for part in parts]))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def recall(self, key: Hashable | None) -> tuple[Any] | None:
        if key is None:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is None or found[0] <= time.monotonic():
                return None
            self._kept.move_to_end(key)
            self.stats = self.stats._replace(kept=self.stats.kept + 1)
        if len(noted := _place().kept) < NOTES_MAX:
            noted.append(self.name)
        return (found[1],)

    def keep(self, key: Hashable | None, result: Any) -> None:
        if key is None or self.ttl is None:
            return
        with self._lock:
            self._kept[key] = time.monotonic() + self.ttl, result
            self._kept.move_to_end(key)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)


@overload
def tool(function: Function, /) -> Function: ...
@overload
def tool(
    *, name: str = "", cost: str | int | Decimal | None = None, ttl: float | None = None
) -> Callable[[Function], Function]: ...
def tool(
    function: Callable[..., Any] | None = None, /, *, name: str = "", cost: str | int | Decimal | None = None, ttl: float | None = None
) -> Any:
    """A tool that agents call: `@bursar.tool`, or with arguments. Plain and async functions, generators too.

    `name`: what the model calls it, where that is not the function's own name. `cost`: dollars a call (text or Decimal, never a
    float), charged in the ledger beside the model call that its result is sent with; a `[[price]] tool` of the policy comes
    before it. `ttl`: seconds in which the same arguments get the same result again, at most 1024 results; failures are never kept,
    and neither is what has arguments that cannot be looked up.

    An exception goes through as it is, and the next model call of this context knows that the tool failed. `function.stats()`
    gives counts and seconds. ValueError for a cost that is none, TypeError for a `ttl` on a generator, whose items can be had once."""
    if cost is not None:
        pico = usd(cost)
        if pico < 0:
            raise ValueError(f"a tool that costs {cost}: a cost is 0 or more dollars")
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl={ttl}: seconds, more than none")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        desk = _Desk(name or function.__name__, ttl)
        if cost is not None:
            costs[desk.name] = usd(cost)
        made = _wrapped(function, desk)
        update_wrapper(made, function)
        made.stats = lambda: desk.stats  # type: ignore[attr-defined]
        return made

    return decorate if function is None else decorate(function)


def _wrapped(function: Callable[..., Any], desk: _Desk) -> Callable[..., Any]:
    """The function with its books kept. Cancelled, or a generator that nobody reads to its end, is no failure of the tool."""
    if inspect.isasyncgenfunction(function):
        _no_ttl(function, desk)

        async def items_soon(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            started, failed = time.monotonic(), False
            found = function(*args, **kwargs)
            try:
                async for item in found:
                    yield item
            except Exception:
                failed = True
                raise
            finally:
                await found.aclose()
                desk.ran(started, failed)

        return items_soon
    if inspect.isgeneratorfunction(function):
        _no_ttl(function, desk)

        def items(*args: Any, **kwargs: Any) -> Iterator[Any]:
            started, failed = time.monotonic(), False
            try:
                return (yield from function(*args, **kwargs))
            except Exception:
                failed = True
                raise
            finally:
                desk.ran(started, failed)

        return items
    if inspect.iscoroutinefunction(function):

        async def run_soon(*args: Any, **kwargs: Any) -> Any:
            key = desk.key(args, kwargs)
            kept = desk.recall(key)
            if kept is not None:
                return kept[0]
            started, failed = time.monotonic(), False
            try:
                result = await function(*args, **kwargs)
            except Exception:
                failed = True
                raise
            finally:
                desk.ran(started, failed)
            desk.keep(key, result)
            return result

        return run_soon

    def run(*args: Any, **kwargs: Any) -> Any:
        key = desk.key(args, kwargs)
        kept = desk.recall(key)
        if kept is not None:
            return kept[0]
        started, failed = time.monotonic(), False
        try:
            result = function(*args, **kwargs)
        except Exception:
            failed = True
            raise
        finally:
            desk.ran(started, failed)
        desk.keep(key, result)
        return result

    return run


def _no_ttl(function: Callable[..., Any], desk: _Desk) -> None:
    if desk.ttl is not None:
        raise TypeError(f"{function.__qualname__} is a generator: its items can be had once, and nothing can be kept; leave ttl out")
