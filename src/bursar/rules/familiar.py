"""Whether requests are like those a router was trained on: routers fail on what they have not seen, so there they must not serve."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import log
from typing import NamedTuple

BINS = 10
TRAITS = ("scores", "words", "lengths", "word lengths")
LEAST = 50  # requests before anything is said: until then nobody knows, and the static tier serves
WINDOW = 400  # requests after which the older half is forgotten
# A population stability index above 0.2 is a shift by common use. That of a sample from the same population is about
# (BINS - 1) / n by chance, which is taken off.
SHIFT = 0.2


class Measure(NamedTuple):
    """How a quantity was spread in training: nine cuts into ten bins of equal share."""

    cuts: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        ordered = sorted(values)
        return cls(tuple(ordered[len(ordered) * n // BINS] for n in range(1, BINS)))

    def bin(self, value: float) -> int:
        return bisect_right(self.cuts, value)


def shift(trained: Sequence[float], seen: Sequence[float]) -> float:
    """The population stability index between two histograms, less what chance alone makes of it."""
    all_trained, all_seen = sum(trained), sum(seen)
    if not all_seen or not all_trained:
        return 0.0
    index = 0.0
    for a, b in zip(trained, seen, strict=True):
        p, q = (a + 0.5) / (all_trained + 0.5 * len(trained)), (b + 0.5) / (all_seen + 0.5 * len(seen))
        index += (q - p) * log(q / p)
    return max(index - (len(trained) - 1) * (1 / all_seen + 1 / all_trained), 0.0)


class Watch:
    """What has been asked lately, in the bins of training: one histogram for each of TRAITS."""

    def __init__(self, trained: Sequence[Sequence[float]]) -> None:
        self._trained = trained
        self._seen = [[0.0] * BINS for _ in trained]
        self._n = 0.0

    def see(self, bins: Sequence[int]) -> None:
        """One request's bins, in the order of the measures."""
        if self._n >= WINDOW:
            self._seen = [[count / 2 for count in counts] for counts in self._seen]
            self._n /= 2
        for counts, at in zip(self._seen, bins, strict=True):
            counts[at] += 1
        self._n += 1

    def strange(self) -> str:
        """Why the router must not serve now; empty when what is asked is like what it was trained on."""
        if self._n < LEAST:
            return f"{int(self._n)} of {LEAST} requests seen: not known yet whether they are like the training's"
        for name, trained, seen in zip(TRAITS, self._trained, self._seen, strict=True):
            its = shift(trained, seen)
            if its > SHIFT:
                return f"the requests' {name} are not those of the training (stability index {its:.2f}, at most {SHIFT} is normal)"
        return ""
