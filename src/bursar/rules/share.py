"""What the input of a call was spent on: what is new this turn, history sent again, tool results, system prompt and schemas.

Only bytes are seen, so tokens follow bytes: each class has the share of the input tokens that it has of the bytes (an image counts
as what it may cost, not as its base64). Prompt cache reads cover the beginning of the prompt, writes come after them, the rest was
read afresh; so the dollars of each are spread over what lay there. Whole numbers throughout: the four sum to the input's legs.
"""

from __future__ import annotations

from ..domain.history import ASSISTANT, HUMAN, SYSTEM, TOOL, History
from ..domain.shape import Shape
from ..domain.usage import Tokens

Four = tuple[int, int, int, int]  # new, history, tool results, system


class Shares(Shape, frozen=True, gc=False):
    """Pico-dollars and tokens by class."""

    cost: Four
    tokens: Four


def shares(history: History | None, tokens: Tokens, paid: tuple[int, int, int], seen_tokens: int = 0) -> Shares:
    """The input side of a bill by class. `paid` is pico-dollars for input, cache reads and cache writes. `seen_tokens`: about
    what the bytes of the request are, where the provider keeps the history and reads more than was sent; what is beyond is
    history. Without messages (an embedding) all is new."""
    afresh, from_cache, to_cache = paid
    total = tokens.input_total
    if history is None or not total:
        return Shares((afresh + from_cache + to_cache, 0, 0, 0), (total, 0, 0, 0))
    everything = history.weights
    unseen = 0
    if 0 < seen_tokens < total:
        new, talk, tools, system = everything
        unseen = (new + talk + tools + system) * (total - seen_tokens) // seen_tokens
        everything = (new, talk + unseen, tools, system)
    counted = _spread(total, everything)
    read, written = tokens.cache_read + tokens.cache_read_audio, tokens.cache_write + tokens.cache_write_1h
    if not read and not written:
        return Shares(_spread(afresh + from_cache + to_cache, everything), counted)
    whole = sum(everything)
    first = _before(history, everything, whole * read // total)
    second = _before(history, everything, whole * (read + written) // total) if written else first
    cost = (0, 0, 0, 0)
    for pico, weights in ((from_cache, first), (to_cache, _less(second, first)), (afresh, _less(everything, second))):
        if pico:
            a, b, c, d = _spread(pico, weights if any(weights) else everything)
            cost = (cost[0] + a, cost[1] + b, cost[2] + c, cost[3] + d)
    return Shares(cost, counted)


def _spread(total: int, weights: Four) -> Four:
    """`price.spread` over four, on the way of every call."""
    new, talk, tools, system = weights
    whole = new + talk + tools + system
    if not whole:
        return total, 0, 0, 0
    one = total * new // whole
    two = total * (new + talk) // whole
    three = total * (new + talk + tools) // whole
    return one, two - one, three - two, total - three


def _before(history: History, everything: Four, end: int) -> Four:
    """Bytes by class of the first `end` bytes of the prompt: system and schemas, then what the provider kept, then the messages.
    Of messages far back only the sums are known; those are taken to lie evenly. Found from the end: what is not cached lies there."""
    at = sum(everything)
    beyond = [0, 0, 0, 0]
    fresh = True
    inside = [0, 0, 0, 0]
    for run in history.runs:
        inside[run & 3] += run >> 2
    for run in reversed(history.runs):
        if at <= end:
            break
        kind, weight = run & 3, run >> 2
        if kind == ASSISTANT:
            fresh = False
        part = min(weight, at - end)
        beyond[_CLASS[kind] if kind != HUMAN or fresh else 1] += part
        at -= weight
    if at > end:
        new, talk, tools, system = everything
        far = max(new + talk - inside[HUMAN] - inside[ASSISTANT], 0), max(tools - inside[TOOL], 0)
        block = sum(far)
        cut = min(at - end, block)
        if cut:
            beyond[1] += cut * far[0] // block
            beyond[2] += cut - cut * far[0] // block
        beyond[3] += min(at - end - cut, max(system - inside[SYSTEM], 0))
    return _less(everything, (beyond[0], beyond[1], beyond[2], beyond[3]))


_CLASS = {SYSTEM: 3, HUMAN: 0, ASSISTANT: 1, TOOL: 2}


def _less(whole: Four, part: Four) -> Four:
    return max(whole[0] - part[0], 0), max(whole[1] - part[1], 0), max(whole[2] - part[2], 0), max(whole[3] - part[3], 0)
