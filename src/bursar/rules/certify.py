"""How sure a small number of wrong answers in a sample makes us: exact bounds, and when near-duplicates may serve."""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, log, log1p
from typing import NamedTuple

HOPELESS = 2  # wrong answers before anything is given up


@lru_cache(1_024)  # asked after each answer, in a call's way
def upper(wrong: int, n: int, alpha: float = 0.05) -> float:
    """The Clopper-Pearson upper bound: with probability 1 - alpha the true rate of what was wrong `wrong` times out of `n` is
    at most this."""
    if n <= 0 or wrong >= n:
        return 1.0
    low, high = wrong / n, 1.0
    for _ in range(60):  # bisection on the binomial tail: exact to 1e-18 of the interval
        middle = (low + high) / 2
        if _tail(wrong, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


@lru_cache(1_024)
def lower(wrong: int, n: int, alpha: float = 0.05) -> float:
    """The bound from below, by the same token."""
    if n <= 0 or wrong <= 0:
        return 0.0
    low, high = 0.0, wrong / n
    for _ in range(60):
        middle = (low + high) / 2
        if 1.0 - _tail(wrong - 1, n, middle) > alpha:
            high = middle
        else:
            low = middle
    return low


def _tail(wrong: int, n: int, p: float) -> float:
    """P(at most `wrong` of `n`) at rate p."""
    if p >= 1.0:
        return 0.0
    total = 0.0
    for k in range(wrong + 1):
        total += exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + (k * log(p) if k else 0.0) + (n - k) * log1p(-p))
    return total


class Certificate(NamedTuple):
    """What shadow answers have said of one feature: `n` times a near-duplicate was found while the call was made all the same,
    and `wrong` times its kept reply did not say the same."""

    n: int = 0
    wrong: int = 0

    def seen(self, same: bool) -> Certificate:
        return Certificate(self.n + 1, self.wrong + (not same))

    def judged(self, same: bool, delta: float) -> Certificate:
        """After one more shadow answer. A wrong one while it holds takes it away: what was right before speaks for traffic that has
        changed, so only the wrong ones go on counting."""
        if not same and self.holds(delta):
            return Certificate(self.wrong + 1, self.wrong + 1)
        return self.seen(same)

    def holds(self, delta: float, alpha: float = 0.05) -> bool:
        """Whether the rate of wrong answers is certified to be at most `delta`. 299 clean samples certify 1 % at 95 %.

        It is looked at after every sample, so each further wrong answer halves the chance that this look may be fooled: all
        looks together are fooled with at most 2 alpha."""
        return upper(self.wrong, self.n, alpha / 2**self.wrong) <= delta

    def hopeless(self, delta: float, alpha: float = 0.05) -> bool:
        """Whether it is as good as certain that the rate is above `delta`: then it stays off. A wrong answer at the very beginning is
        not: this is looked at after each."""
        return self.wrong >= HOPELESS and lower(self.wrong, self.n, alpha) > delta
