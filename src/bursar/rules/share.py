"""What the input of a call was spent on: what is new this turn, history sent again, tool results, system prompt and schemas.

Only bytes are seen, so tokens follow bytes: each class has the share of the input tokens that it has of the bytes (an image counts
as what it may cost, not as its base64). Prompt cache reads cover the beginning of the prompt, writes come after them, the rest was
read afresh; so the dollars of each are spread over what lay there. Whole numbers throughout: the four sum to the input's legs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.history import ASSISTANT, HUMAN, SYSTEM, TOOL, History
from ..domain.price import Leg
from ..domain.shape import Shape
from ..domain.usage import Tokens
from .price import COLUMN, INPUT_SIDE, spread

Four = tuple[int, int, int, int]  # new, history, tool results, system


class Shares(Shape, frozen=True, gc=False):
    """Pico-dollars and tokens by class."""

    cost: Four
    tokens: Four


def shares(history: History | None, tokens: Tokens, legs: Sequence[Leg], seen_tokens: int = 0) -> Shares:
    """The input side of a bill by class. `seen_tokens`: about what the bytes of the request are, where the provider keeps the
    history and reads more than was sent; what is beyond is history. Without messages (an embedding) all is new."""
    paid = dict.fromkeys(INPUT_SIDE, 0)
    for leg in legs:
        column = COLUMN.get(leg.unit)
        if column in paid:
            paid[column] += leg.pico
    total = tokens.input_total
    if history is None or not total:
        return Shares((sum(paid.values()), 0, 0, 0), (total, 0, 0, 0))
    new, talk, tools, system = history.weights
    unseen = 0
    if 0 < seen_tokens < total:
        unseen = (new + talk + tools + system) * (total - seen_tokens) // seen_tokens
    everything = (new, talk + unseen, tools, system)
    whole = sum(everything)
    counted: Four = _four(spread(total, everything))
    read, written = tokens.cache_read + tokens.cache_read_audio, tokens.cache_write + tokens.cache_write_1h
    if not read and not written:
        return Shares(_four(spread(paid["cost_input"] + paid["cost_cache_read"] + paid["cost_cache_write"], everything)), counted)
    first = _before(history, everything, unseen, whole * read // total)
    second = _before(history, everything, unseen, whole * (read + written) // total) if written else first
    bands = (
        (paid["cost_cache_read"], first),
        (paid["cost_cache_write"], _less(second, first)),
        (paid["cost_input"], _less(everything, second)),
    )
    cost = (0, 0, 0, 0)
    for pico, weights in bands:
        if pico:
            cost = _four([a + b for a, b in zip(cost, spread(pico, weights if any(weights) else everything))])
    return Shares(cost, counted)


def _before(history: History, everything: Four, unseen: int, end: int) -> Four:
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
    return _less(everything, _four(beyond))


_CLASS = {SYSTEM: 3, HUMAN: 0, ASSISTANT: 1, TOOL: 2}


def _less(whole: Four, part: Four) -> Four:
    return _four([max(a - b, 0) for a, b in zip(whole, part)])


def _four(parts: Sequence[int]) -> Four:
    new, history, tools, system = parts
    return new, history, tools, system
