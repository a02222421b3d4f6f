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


def shares(history: History | None, tokens: Tokens, paid: tuple[int, ...], seen_tokens: int = 0) -> Shares:
    """The input side of a bill by class. `paid` is pico-dollars for input, cache reads and cache writes. `seen_tokens`: about
    what the bytes of the request are, where the provider keeps the history and reads more than was sent; what is beyond is
    history. Without messages (an embedding) all is new."""
    afresh, from_cache, to_cache = paid
    plain, cached, written, hour, _, _, audio, audio_cached, _, image, _, _ = tokens
    read, written = cached + audio_cached, written + hour
    total = plain + audio + image + read + written
    if history is None or not total:
        return Shares((afresh + from_cache + to_cache, 0, 0, 0), (total, 0, 0, 0))
    new, talk, tools, system = everything = history.weights
    whole = new + talk + tools + system
    if 0 < seen_tokens < total:
        unseen = whole * (total - seen_tokens) // seen_tokens
        talk, whole = talk + unseen, whole + unseen
        everything = (new, talk, tools, system)
    counted = _spread(total, everything)
    if not read and not written:
        return Shares(_spread(afresh + from_cache + to_cache, everything), counted)
    after = _after(history, everything, whole, whole * read // total)
    if from_cache:
        its_new, its_talk, its_tools, its_system = after
        cost = _spread(from_cache, (new - its_new, talk - its_talk, tools - its_tools, system - its_system), everything)
    else:
        cost = NOTHING
    if written:
        rest = _after(history, everything, whole, whole * (read + written) // total)
        cost = _plus(cost, _spread(to_cache, _less(after, rest), everything))
        after = rest
    elif to_cache:
        cost = _plus(cost, _spread(to_cache, everything))
    return Shares(_plus(cost, _spread(afresh, after, everything)) if afresh else cost, counted)


NOTHING: Four = (0, 0, 0, 0)


def _spread(total: int, weights: Four, otherwise: Four = NOTHING) -> Four:
    """`price.spread` over four, on the way of every call. `otherwise`: where there are no weights."""
    new, talk, tools, system = weights
    whole = new + talk + tools + system
    if not whole:
        return _spread(total, otherwise) if otherwise is not NOTHING else (total, 0, 0, 0)
    if not talk and not tools:  # as a conversation begins, and many calls are
        one = total * new // whole
        return one, 0, 0, total - one
    one = total * new // whole
    two = total * (new + talk) // whole
    three = total * (new + talk + tools) // whole
    return one, two - one, three - two, total - three


def _after(history: History, everything: Four, whole: int, end: int) -> Four:
    """Bytes by class of what lies behind the first `end` bytes of the prompt: system and schemas, then what the provider kept, then
    the messages. Of messages far back only the sums are known; those are taken to lie evenly. Found from the end: what is not cached
    lies there."""
    left = whole - end
    behind = [0, 0, 0, 0]
    newest = 0  # the class of what people said: new, until the last reply begins
    for run in reversed(history.runs):
        if left <= 0:
            break
        kind, weight = run & 3, run >> 2
        if kind == ASSISTANT:
            newest = 1
        behind[newest if kind == HUMAN else _CLASS[kind]] += weight if weight < left else left
        left -= weight
    new, talk, tools, system = everything
    if left > 0:
        inside = [0, 0, 0, 0]
        for run in history.runs:
            inside[run & 3] += run >> 2
        far = max(new + talk - inside[HUMAN] - inside[ASSISTANT], 0), max(tools - inside[TOOL], 0)
        block = sum(far)
        cut = min(left, block)
        if cut:
            behind[1] += cut * far[0] // block
            behind[2] += cut - cut * far[0] // block
        behind[3] += min(left - cut, max(system - inside[SYSTEM], 0))
    a, b, c, d = behind
    return a if a < new else new, b if b < talk else talk, c if c < tools else tools, d if d < system else system


_CLASS = {SYSTEM: 3, HUMAN: 0, ASSISTANT: 1, TOOL: 2}


def _less(whole: Four, part: Four) -> Four:
    a, b, c, d = whole
    e, f, g, h = part
    return a - e if a > e else 0, b - f if b > f else 0, c - g if c > g else 0, d - h if d > h else 0


def _plus(one: Four, other: Four) -> Four:
    a, b, c, d = one
    e, f, g, h = other
    return a + e, b + f, c + g, d + h
