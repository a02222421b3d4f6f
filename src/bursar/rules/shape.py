"""Work that is cheap by its shape: which tier a feature's calls look like, without any grade, and what they cost today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# What the trade reports of tiered traffic: six calls in ten need no more than the cheap tier, and tiers save 40 to 60 per
# cent of the dollars. Published routers, measured, save 14 where the best possible saves 60.
USUAL_CALLS = 0.60
USUAL_SAVED = (0.40, 0.60)

SHORT = 80  # output tokens that nine in ten answers stay below: a class, a score, a name, a yes or no
EXTRACT = 8  # input tokens for one of output: an extraction or a summary
LONG_CONTEXT = 60_000  # input tokens: cheap models are known to lose things there
DEPTH = 4  # tool results in one turn, at the ninetieth percentile


class Work(NamedTuple):
    """One feature's calls on one model, over some time. Shares are of calls, percentiles of tokens or counts."""

    feature: str
    model: str
    calls: int
    pico: int
    latency_ms: int  # median
    input_p50: int
    output_p50: int
    output_p90: int
    tools_share: float  # calls that offer tools
    depth_p90: int
    malformed_share: float
    purpose: str = "primary"


class Shape(NamedTuple):
    tier: str  # cheap | standard | premium
    why: str


class Line(NamedTuple):
    """A tier: what would belong to it by shape, as it is today."""

    tier: str
    calls: int
    pico: int
    latency_ms: int  # mean of the features' medians, by calls
    features: tuple[str, ...]


def shape(work: Work) -> Shape:
    """The tier that this work looks like. A guess to start from, never a reason to switch without looking: a short answer can be
    a hard one."""
    if work.malformed_share > 0.02:
        return Shape("premium", f"{work.malformed_share:.0%} of its answers are malformed already")
    if work.purpose == "eval":
        return Shape("premium", "an eval must run on what it measures")
    if work.tools_share > 0.2 and work.depth_p90 > DEPTH:
        return Shape("premium", f"an agent: {work.depth_p90} tool results in a turn")
    if work.input_p50 > LONG_CONTEXT:
        return Shape("premium", f"{work.input_p50:,} tokens of context")
    if work.tools_share <= 0.2 and work.output_p90 <= SHORT:
        return Shape("cheap", f"nine in ten answers have at most {work.output_p90} tokens, and no tools: classifying, scoring, naming")
    if work.tools_share <= 0.2 and work.output_p50 * EXTRACT <= work.input_p50:
        return Shape("cheap", f"{work.input_p50:,} tokens in, {work.output_p50:,} out, no tools: extracting, summarising")
    return Shape("standard", "text or a few tool calls")


def tiers(works: Sequence[Work]) -> tuple[Line, ...]:
    """Today's calls, dollars and latency by the tier they look like, dearest work first in each."""
    found: list[Line] = []
    for tier in ("cheap", "standard", "premium"):
        its = sorted((work for work in works if shape(work).tier == tier), key=lambda work: -work.pico)
        calls = sum(work.calls for work in its)
        latency = sum(work.latency_ms * work.calls for work in its) // calls if calls else 0
        names = tuple(dict.fromkeys(work.feature for work in its))
        found.append(Line(tier, calls, sum(work.pico for work in its), latency, names))
    return tuple(found)
