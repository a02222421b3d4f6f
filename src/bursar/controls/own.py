"""The calls that a control makes for itself: what to ask, and who asks it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from ..domain.call import Ended
from ..domain.shape import Shape, replace
from ..effects import Book, Effect, Finish, Gather, Hold, Relay, Reply, Send

ANSWER_MAX = 4 << 20  # bytes


class Own(Shape, frozen=True, gc=False):
    """A call of our own: held, priced and booked like any other, as `control`, and charged to the `control` that wants it.
    `within_s`: how long its answer may take, where the client waits for it; 0: as long as any."""

    name: str  # becomes part of its id
    control: str
    provider: str
    path: str
    body: bytes
    within_s: float = 0.0


# -> (its body where it was answered well, what it took in pico-dollars)
Ask = Callable[[Own], Generator[Effect, Any, tuple[bytes | None, int]]]


def perform(inner: Generator[Effect, Any, None], own: Own) -> Generator[Effect, Any, tuple[bytes | None, int]]:
    """The effects of a call of our own, whose rows say for which control it was. What it would give its client stays here."""
    body: bytes | None = None
    paid, value, good = 0, None, False
    while True:
        try:
            effect = inner.send(value)
        except StopIteration:
            return body if good else None, paid
        value = None
        if isinstance(effect, Reply):
            body = effect.answer.body
            continue
        if isinstance(effect, Finish):
            continue
        if isinstance(effect, Relay):  # a stream that nobody asked for
            ended: Ended = yield Gather(effect.head, ANSWER_MAX, [], own=True)
            effect.reader.feed(ended.body)
            effect.reader.finish()
            value = replace(ended, body=b"", gathered=False)
            continue
        if isinstance(effect, Hold):
            effect = replace(effect, hold=replace(effect.hold, entry=effect.hold.entry._replace(saved_by=own.control)))
        elif isinstance(effect, Send):
            effect = replace(effect, within_s=own.within_s)
        elif isinstance(effect, Gather):
            effect = replace(effect, limit=min(effect.limit, ANSWER_MAX), own=True)
        elif isinstance(effect, Book):
            row = effect.settlement.entry._replace(saved_by=own.control)
            effect = replace(effect, settlement=replace(effect.settlement, entry=row))
            paid += row.cost or 0
            good = row.status == "ok"
        value = yield effect
