"""The shapes of agents' traffic, as measured on recorded conversations: how long, how many tools, how many tokens."""

from __future__ import annotations

from bisect import bisect_right
from random import Random

Quantiles = tuple[tuple[float, float], ...]  # (share of conversations at or below, value), rising

# 279 recorded customer-service conversations (tau-bench and tau2-bench): model calls and tool calls in a conversation.
TURNS: Quantiles = ((0.0, 3), (0.1, 5), (0.25, 7), (0.5, 10), (0.75, 14), (0.95, 21), (1.0, 30))
TOOL_TURNS = 0.57  # share of replies that call a tool: 6 of 10 at the median …
PARALLEL = 0.13  # … some of them two at once, which makes 15 of 21 at the 95th percentile

# The same set's calls with recorded usage (gemini-2.5-flash): tokens of the first prompt, added per turn, of a reply.
PROMPT: Quantiles = ((0.0, 3300), (0.25, 3421), (0.75, 3743), (1.0, 4200))
GROWTH: Quantiles = ((0.0, 20), (0.05, 40), (0.25, 73), (0.5, 173), (0.75, 355), (0.95, 483), (1.0, 700))
REPLY: Quantiles = ((0.0, 12), (0.05, 21), (0.25, 46), (0.5, 121), (0.75, 252), (0.95, 723), (1.0, 1400))


GOLDEN = 0.6180339887498949  # whose multiples fill the unit evenly


def draw(rng: Random, quantiles: Quantiles) -> int:
    """A value from a distribution given by its quantiles."""
    return value(quantiles, rng.random())


def value(quantiles: Quantiles, at: float) -> int:
    """The value that a share `at` of all is at or below: straight lines between the quantiles."""
    i = min(bisect_right(quantiles, (at, float("inf"))), len(quantiles) - 1)
    (x0, y0), (x1, y1) = quantiles[i - 1], quantiles[i]
    return round(y0 + (y1 - y0) * (at - x0) / (x1 - x0))


def contexts(rng: Random, turns: int, scale: float, cap: int) -> list[int]:
    """Prompt tokens of each call of a conversation: everything said before is sent again, so they only grow. `scale`
    multiplies the recorded sizes, `cap` is where the agent's framework starts to cut."""
    tokens = draw(rng, PROMPT) * scale
    sizes: list[int] = []
    for _ in range(turns):
        sizes.append(min(cap, round(tokens)))
        tokens += draw(rng, GROWTH) * scale
    return sizes
