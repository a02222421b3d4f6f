"""The OpenAI family's usage object (chat, responses, embeddings and the many vendors that copy them) as disjoint buckets."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..domain.usage import Estimated, Known, Tokens, Unknown, Usage, made_tokens
from .usage import COUNT_MAX, Object, Unreadable, count, dollars, part

# xAI states the price in ticks of 1e-10 dollars; recorded answers of grok-4.3 price to the tick that way.
PICO_PER_TICK = 100

_UNITS = (
    ("server_tool_use_details", "web_search_requests", "web_search"),  # OpenRouter
    ("server_tool_use", "web_search_requests", "web_search"),
    ("server_side_tool_usage_details", "web_search_calls", "web_search"),  # xAI, these and the next
    ("server_side_tool_usage_details", "x_search_calls", "x_search"),
    ("server_side_tool_usage_details", "file_search_calls", "file_search"),
    ("server_side_tool_usage_details", "document_search_calls", "document_search"),
    ("server_side_tool_usage_details", "code_interpreter_calls", "code_session"),
)
_FLAT_UNITS = (
    ("num_search_queries", "search_query"), ("citation_tokens", "citation_token"),  # Perplexity
    ("num_sources_used", "search_source"),  # xAI's live search
)  # fmt: skip


_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_None = Annotated[int, Meta(ge=0, le=0)]


class _Inside(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Count = 0
    audio_tokens: _None = 0


class _Outside(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count = 0
    audio_tokens: _None = 0
    accepted_prediction_tokens: Any = 0  # inside completion_tokens, and billed like the rest of it
    rejected_prediction_tokens: Any = 0


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """What OpenAI itself writes."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _Inside | None = None
    completion_tokens_details: _Outside | None = None


_plain = msgspec.json.Decoder(_Plain)
_NOTHING_INSIDE, _NOTHING_OUTSIDE = _Inside(), _Outside()


def plain(raw: bytes) -> Known | None:
    """The buckets of a chat usage object that is nothing but OpenAI's own words and adds up without a question: one typed
    decode instead of thirty look-ups, on every call. None for any other: `tally` knows what it means."""
    try:
        usage = _plain.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    into, outof = usage.prompt_tokens, usage.completion_tokens
    cached = (usage.prompt_tokens_details or _NOTHING_INSIDE).cached_tokens
    reasoning = (usage.completion_tokens_details or _NOTHING_OUTSIDE).reasoning_tokens
    if usage.total_tokens != into + outof or cached > into or reasoning > outof:
        return None
    return Known(made_tokens((into - cached, cached, 0, 0, outof - reasoning, reasoning, 0, 0, 0, 0, 0, ())), raw)


def tally(usage: Object, raw: bytes, *, embedding: bool = False, final: bool = True, tools: tuple[tuple[str, int], ...] = ()) -> Usage:
    """The buckets of one usage object. `final` False: a running count of a stream that was cut. `tools`: billed units the
    answer shows outside its usage."""
    try:
        return _tally(usage, raw, embedding, final, tools)
    except Unreadable as why:
        return Unknown(str(why))


def _tally(usage: Object, raw: bytes, embedding: bool, final: bool, tools: tuple[tuple[str, int], ...]) -> Usage:
    prompt, completion, total = (
        _first(usage, "prompt_tokens", "input_tokens"),
        _first(usage, "completion_tokens", "output_tokens"),
        count(usage, "total_tokens"),
    )
    if completion is None and embedding:
        completion = 0
    if prompt is None and completion is not None and total is not None and total >= completion:
        prompt = total - completion
    if completion is None and prompt is not None and total is not None and total >= prompt:
        completion = total - prompt  # three recorded completions with nothing generated name only prompt and total, equal
    if prompt is None and completion is None:
        return Unknown("the usage object has no token counts")
    into, outof = prompt or 0, completion or 0
    odd: list[str] = []

    # `…_token_details` without the s: transcription and realtime.
    inside = _part(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    outside = _part(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = _first(inside, "cached_tokens") or _first(usage, "prompt_cache_hit_tokens", "num_cached_tokens") or 0
    written = _first(inside, "cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens") or 0
    audio_in, image_in = count(inside, "audio_tokens") or 0, count(inside, "image_tokens") or 0
    cached_audio = count(part(inside, "cached_tokens_details"), "audio_tokens") or 0
    reasoning = count(outside, "reasoning_tokens") or 0
    audio_out, image_out = count(outside, "audio_tokens") or 0, count(outside, "image_tokens") or 0

    # Where two readings are possible, the provider's own total decides.
    if total is not None and prompt is not None and completion is not None and total != into + outof:
        if total == into + outof + reasoning:
            outof += reasoning  # xAI's chat API: reasoning beside completion_tokens
        elif total == into + outof + audio_in:
            into += audio_in  # Mistral's Voxtral: audio beside prompt_tokens
        elif total > into + outof and not reasoning:
            # Google's OpenAI endpoint leaves its thinking out of completion_tokens but bills it: the total has it.
            odd.append(f"total_tokens {total} is not prompt {into} + completion {outof}: the rest booked as reasoning")
            reasoning = total - into - outof
            outof += reasoning
        else:
            odd.append(f"total_tokens {total} is not prompt {into} + completion {outof}")
    perplexed = count(usage, "reasoning_tokens") or 0
    if perplexed and "num_search_queries" in usage:  # Perplexity's deep research: beside completion_tokens and the total
        reasoning, outof = perplexed, outof + perplexed

    if cached + written > into:
        odd.append(f"cached {cached} + cache write {written} is more than prompt {into}")
    if audio_in + image_in > into:
        odd.append(f"audio {audio_in} + image {image_in} is more than prompt {into}")
    if reasoning + audio_out + image_out > outof:
        odd.append(f"reasoning {reasoning} + audio {audio_out} + image {image_out} is more than completion {outof}")
    cached = min(cached, into)
    written = min(written, into - cached)
    fresh = into - cached - written
    # Nobody says which of the cached tokens were sound or picture: the fresh ones are taken to be, at most all of them.
    audio_fresh = min(max(audio_in - cached_audio, 0), fresh)
    image_fresh = min(image_in, fresh - audio_fresh)
    cached_audio = min(cached_audio, cached)
    reasoning = min(reasoning, outof)
    audio_out = min(audio_out, outof - reasoning)
    image_out = min(image_out, outof - reasoning - audio_out)
    tokens = Tokens(
        input=fresh - audio_fresh - image_fresh, cache_read=cached - cached_audio, cache_write=written,
        output=outof - reasoning - audio_out - image_out, reasoning=reasoning,
        input_audio=audio_fresh, cache_read_audio=cached_audio, output_audio=audio_out,
        input_image=image_fresh, output_image=image_out, other=_other(usage, tools),
    )  # fmt: skip
    if prompt is None or completion is None:
        return Estimated(tokens, "the provider stated " + ("no output count" if completion is None else "no input count"), raw)
    if not final:
        return Estimated(tokens, "the stream ended before the provider's last count", raw)
    return Known(tokens, raw, "; ".join(odd))


def cost(usage: Object) -> int | None:
    """Pico-dollars that the vendor says it charges for this call (OpenRouter, Perplexity, xAI), None where it says nothing."""
    stated = usage.get("cost")
    if isinstance(stated, dict):
        return dollars(stated.get("total_cost"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    pico = dollars(stated)
    if pico is not None and usage.get("is_byok") is True:
        # With the caller's own key `cost` is only OpenRouter's fee; the model's provider bills the rest to the same owner.
        details = usage.get("cost_details")
        upstream = dollars(details.get("upstream_inference_cost")) if isinstance(details, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        pico += upstream or 0
    ticks = usage.get("cost_in_usd_ticks")
    if pico is None and isinstance(ticks, int) and not isinstance(ticks, bool) and ticks >= 0:
        pico = ticks * PICO_PER_TICK
    return pico


def tier(usage: Object) -> str:
    """Mistral and Groq say the service tier inside the usage object."""
    value = usage.get("service_tier")
    return value if isinstance(value, str) else ""


def _first(usage: Object, *names: str) -> int | None:
    for name in names:
        if name in usage and (value := count(usage, name)) is not None:
            return value
    return None


def _part(usage: Object, *names: str) -> Object:
    for name in names:
        if name in usage and (found := part(usage, name)):
            return found
    return {}


def _other(usage: Object, tools: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Billed units that are not tokens, from the usage object and (`tools`) from the answer; told twice they count once."""
    found = dict(tools)
    for outer, name, unit in _UNITS:
        if outer in usage and (n := count(part(usage, outer), name)):
            found[unit] = max(n, found.get(unit, 0))
    for name, unit in _FLAT_UNITS:
        if name in usage and (n := count(usage, name)):
            found[unit] = n
    return tuple(sorted(found.items())) if found else ()
