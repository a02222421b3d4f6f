"""How many calls a conversation has left: the mean of what those before it had left at the same length. Bounded, learns as it goes."""

from __future__ import annotations

LENGTH_MAX = 512  # calls; longer conversations count as this long, which errs towards too few left
FORGET = 1_024  # conversations after which the old ones weigh half
LEAST = 20  # conversations that came as far, before their mean is worth anything


class Horizon:
    """Lengths, in calls, of one flow's finished conversations. What is to be learnt depends on what is asked: for the prompt
    cache a conversation ends where it goes cold, so feed it stretches between two pauses longer than the cache lives."""

    def __init__(self) -> None:
        self._ended = [0.0] * (LENGTH_MAX + 1)  # by length
        self._total = 0.0
        self._left: list[float | None] = []  # by call; empty: to be worked out anew

    def learn(self, calls: int) -> None:
        """A conversation, or a warm stretch of one, ended after so many calls."""
        if calls <= 0:
            return
        if self._total >= FORGET:
            self._ended = [n / 2 for n in self._ended]
            self._total /= 2
        self._left = []
        self._ended[min(calls, LENGTH_MAX)] += 1
        self._total += 1

    def left(self, call: int) -> float | None:
        """Expected calls from number `call` (the first is 1, it counts itself) to the end; None when too few came as far."""
        if self._total < LEAST:
            return None
        if not self._left:
            came = calls = 0.0
            found: list[float | None] = []
            for length in range(LENGTH_MAX, 0, -1):  # whoever comes to one length later has one call more left
                n = self._ended[length]
                came, calls = came + n, calls + came + n
                found.append(calls / came if came >= LEAST else None)
            self._left = found[::-1]
        return self._left[max(call, 1) - 1] if call <= LENGTH_MAX else None
