"""Identical calls in flight are made once: one leads, the others wait for its reply. A state machine; waiting is drive's business."""

from __future__ import annotations

from typing import NamedTuple

FOLLOWERS_MAX = 10_000  # of one call; whoever comes after makes his own
FLIGHTS_MAX = 100_000


class Lead(NamedTuple):
    """Make the call, then say `landed` or `failed`."""


class Follow(NamedTuple):
    """Wait: `landed` gives the reply, `failed` may make this one the leader."""

    leader: str


class Alone(NamedTuple):
    """Too many wait already: make the call, tell nobody."""


class Next(NamedTuple):
    """After a leader failed: who leads now (empty: nobody is left)."""

    leader: str
    followers: int


class Flights:
    """Calls in flight by key. Every `join` must be followed by exactly one of `landed`, `failed` or `left` by the same call.

    A leader whose call brought nothing to keep does not set the crowd loose on the provider: the first follower makes the
    next attempt, the others go on waiting."""

    def __init__(self) -> None:
        self._flights: dict[bytes, dict[str, None]] = {}  # the first is the leader; order is arrival

    def join(self, key: bytes, call: str) -> Lead | Follow | Alone:
        crew = self._flights.get(key)
        if crew is None:
            if len(self._flights) >= FLIGHTS_MAX:
                return Alone()
            self._flights[key] = {call: None}
            return Lead()
        assert call not in crew, "a call joins once"
        if len(crew) > FOLLOWERS_MAX:
            return Alone()
        crew[call] = None
        return Follow(next(iter(crew)))

    def landed(self, key: bytes, call: str) -> tuple[str, ...]:
        """The leader's reply is there: these followers take it."""
        crew = self._flights.pop(key)
        assert next(iter(crew)) == call, "only the leader lands"
        return tuple(crew)[1:]

    def failed(self, key: bytes, call: str) -> Next:
        """The leader brought nothing that others could take, or its client left."""
        crew = self._flights[key]
        assert next(iter(crew)) == call, "only the leader fails"
        return self._without(key, crew, call)

    def left(self, key: bytes, call: str) -> Next:
        """A client that waited is gone; the leader too may leave so."""
        return self._without(key, self._flights[key], call)

    def _without(self, key: bytes, crew: dict[str, None], call: str) -> Next:
        del crew[call]
        if not crew:
            del self._flights[key]
            return Next("", 0)
        return Next(next(iter(crew)), len(crew) - 1)

    def __len__(self) -> int:
        return len(self._flights)
