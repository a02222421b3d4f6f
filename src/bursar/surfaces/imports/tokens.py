"""Token counts in the words of other tools as the ledger's disjoint buckets. Contradictions are named, never repaired in silence."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...domain.usage import Estimated, Known, Tokens, Unknown, Usage
from ...wire import anthropic_usage, gemini_usage, openai_usage


class Counted(NamedTuple):
    """The buckets; None when nothing was counted. `estimated`: one side is missing. `contradiction`: what does not add up."""

    tokens: Tokens | None
    estimated: bool = False
    contradiction: str = ""


NOTHING = Counted(None)


def inclusive(
    read: int | None, written: int | None, total: int | None = None, *, cache_read: int = 0, cache_write: int = 0, hour: int = 0,
    reasoning: int = 0, audio_in: int = 0, audio_out: int = 0, image_in: int = 0, image_out: int = 0, embedding: bool = False,
) -> Counted:  # fmt: skip
    """Counts whose details are parts of the two sums, as OpenTelemetry and OpenAI have it. Where the cache cannot be a part of
    what was read, or the total says that it is not, it is beside it (Anthropic's own way, which several tools pass on).
    `hour`: of `cache_write`, what lives an hour."""
    cached = cache_read + cache_write
    if read is not None and cached and (cached > read or (total is not None and total == read + cached + (written or 0))):
        read += cached
    if total is not None and (read is None or written is None or total < read + (written or 0)):
        total = total or None  # a zero that is only a default says nothing
    if read is not None and not (audio_in or audio_out or image_in or image_out):
        if written is None and embedding:
            written = 0
        if written is not None and total in (None, read + written) and reasoning <= written and hour <= cache_write:
            # Nearly every record there is: nothing to be asked.
            return Counted(Tokens(read - cached, cache_read, cache_write - hour, hour, written - reasoning, reasoning))
    usage: dict[str, Any] = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": total,
        "prompt_tokens_details": {
            "cached_tokens": cache_read,
            "cache_write_tokens": cache_write,
            "audio_tokens": audio_in,
            "image_tokens": image_in,
        },
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": audio_out, "image_tokens": image_out},
    }
    counted = of(openai_usage.tally(usage, b"", embedding=embedding))
    if hour and counted.tokens is not None:
        hour = min(hour, counted.tokens.cache_write)
        counted = counted._replace(tokens=counted.tokens._replace(cache_write=counted.tokens.cache_write - hour, cache_write_1h=hour))
    return counted


def provider_usage(usage: dict[str, Any], *, embedding: bool = False) -> Counted:
    """A provider's own usage object, told apart by its words."""
    if "promptTokenCount" in usage or "candidatesTokenCount" in usage:
        return of(gemini_usage.tally(usage, b""))
    anthropic = "cache_creation_input_tokens" in usage or "cache_read_input_tokens" in usage or "cache_creation" in usage
    if anthropic and "input_tokens" in usage and "prompt_tokens" not in usage:
        return of(anthropic_usage.tally(usage, b""))
    return of(openai_usage.tally(usage, b"", embedding=embedding))


def of(usage: Usage) -> Counted:
    match usage:
        case Known(tokens, _, contradiction):
            return Counted(tokens, False, contradiction)
        case Estimated(tokens, why, _):
            return Counted(tokens, True, why)
        case Unknown():
            return NOTHING
