"""Tokens from bytes where no provider's count came: a ratio that learns from counts that did. Pure, integers only."""

from __future__ import annotations

from ..domain.shape import Shape


class Ratio(Shape, frozen=True, gc=False):
    """Bytes and tokens seen lately, each way, fading with every new count; bytes/tokens is weighted by size."""

    input_bytes: int
    input_tokens: int
    output_bytes: int
    output_tokens: int


# Bytes per token before anything is learnt. Providers publish about four characters of English (OpenAI, Google) and
# three and a half (Anthropic); other scripts and code take fewer, the JSON around the text adds some. Recorded requests
# of over 4 KB had 3.2 at the least and 5 in the middle: three errs towards too many tokens, as a hold should.
START = Ratio(3_000, 1_000, 3_000, 1_000)

# The memory, in tokens: older calls fade once a model has seen this many. Some dozens of agent turns retrain it; what
# they write is about a tenth of what they read.
MEMORY = 200_000
MEMORY_OUT = 20_000
# A single count weighs at most this share of the memory, so that one odd giant does not become the model's ratio.
SHARE = 8
# Outside of these, bytes are not the text that was counted (an image in base64, an empty answer): nothing is learnt.
LEAST, MOST = 1, 16

# Tokens that a template may add and no byte of the request pays for: role marks are covered by the JSON around each
# message, preambles of tools are not. The most in 6,308 recorded calls was 1,349 (Anthropic's memory tool).
TEMPLATE = 2_048


def learn(ratio: Ratio, input_bytes: int, input_tokens: int, output_bytes: int, output_tokens: int) -> Ratio:
    """The ratio after a provider's own count. A direction that has no plausible figures is left as it was."""
    return Ratio(
        *_learn(ratio.input_bytes, ratio.input_tokens, input_bytes, input_tokens, MEMORY),
        *_learn(ratio.output_bytes, ratio.output_tokens, output_bytes, output_tokens, MEMORY_OUT),
    )


def _learn(bytes_seen: int, tokens_seen: int, size: int, tokens: int, memory: int) -> tuple[int, int]:
    if tokens <= 0 or not LEAST * tokens <= size <= MOST * tokens:
        return bytes_seen, tokens_seen
    heaviest = memory // SHARE
    if tokens > heaviest:
        size, tokens = size * heaviest // tokens, heaviest
    bytes_seen, tokens_seen = bytes_seen + size, tokens_seen + tokens
    if tokens_seen > memory:
        bytes_seen, tokens_seen = bytes_seen * memory // tokens_seen, memory
    return max(bytes_seen, 1), tokens_seen


def teaches(ratio: Ratio, ts_us: int) -> bool:
    """Whether a count is worth learning from: all of them while a model is new, then one in eight, by chance of the moment."""
    return ratio.input_tokens < MEMORY or ts_us & 7 == 0


def input_tokens(size: int, ratio: Ratio) -> int:
    """Tokens a request of `size` bytes is read as, rounded up: at least one where there is a byte."""
    return -(-size * ratio.input_tokens // ratio.input_bytes) if size > 0 else 0


def output_tokens(size: int, ratio: Ratio) -> int:
    """Tokens that `size` bytes of generated text, arguments and reasoning were, rounded up."""
    return -(-size * ratio.output_tokens // ratio.output_bytes) if size > 0 else 0


def bound(size: int) -> int:
    """Tokens that a request of `size` bytes cannot exceed: byte-level and byte-fallback tokenizers make at most one
    token of a byte, and the template adds at most TEMPLATE. Bytes do not bound images, PDFs, references, tools that the
    provider runs by itself, or a model that is itself an agent: for those, hold the context window."""
    return max(size, 0) + TEMPLATE
