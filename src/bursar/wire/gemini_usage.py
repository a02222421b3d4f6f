"""Gemini's usageMetadata as disjoint buckets: cached inside the prompt count, thoughts beside the candidates."""

from __future__ import annotations

from typing import Any

from ..domain.usage import Estimated, Known, Tokens, Unknown, Usage
from .usage import Object, Unreadable, count, parts

# Old client libraries write the modality as its number in the protocol.
_MODALITIES: dict[Any, str] = {1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"}


def tally(usage: Object, raw: bytes, *, final: bool = True, searches: int = 0) -> Usage:
    """The buckets. `final` False: a running count, no finishReason was seen. `searches`: grounding queries in the answer."""
    try:
        return _tally(usage, raw, final, searches)
    except Unreadable as why:
        return Unknown(str(why))


def _modal(usage: Object, name: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for item in parts(usage, name):
        kind = item.get("modality", "")
        kind = _MODALITIES.get(kind, str(kind))
        out[kind] = out.get(kind, 0) + (count(item, "tokenCount") or 0)
    return out


def _tally(usage: Object, raw: bytes, final: bool, searches: int) -> Usage:
    prompt, said = count(usage, "promptTokenCount"), count(usage, "candidatesTokenCount")
    cached = count(usage, "cachedContentTokenCount") or 0
    thoughts, tools = count(usage, "thoughtsTokenCount") or 0, count(usage, "toolUsePromptTokenCount") or 0
    total = count(usage, "totalTokenCount")
    # The protocol leaves zeros out, so an absent count is what the total leaves for it.
    if said is None and prompt is not None and total is not None and total >= prompt + thoughts + tools:
        said = total - prompt - thoughts - tools
    if prompt is None and said is not None and total is not None and total >= said + thoughts + tools:
        prompt = total - said - thoughts - tools
    if prompt is None and said is None:
        return Unknown("usageMetadata has no token counts")
    into, outof = prompt or 0, said or 0
    odd: list[str] = []
    if total is not None and prompt is not None and said is not None and total != into + outof + thoughts + tools:
        if thoughts and total == into + outof + tools and thoughts <= outof:
            outof -= thoughts  # thoughts counted inside the candidates: the total says so
        else:
            odd.append(f"totalTokenCount {total} is not prompt {into} + candidates {outof} + thoughts {thoughts} + tools {tools}")
    if cached > into:
        odd.append(f"cached {cached} is more than prompt {into}")
        cached = into
    prompts, caches, spoken = (_modal(usage, n) for n in ("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails"))
    if sum(prompts.values()) > into:
        odd.append(f"prompt details {sum(prompts.values())} are more than prompt {into}")
    if sum(spoken.values()) > outof:
        odd.append(f"candidates details {sum(spoken.values())} are more than candidates {outof}")
    cached_audio = min(caches.get("AUDIO", 0), cached)
    fresh = into - cached
    audio = min(max(prompts.get("AUDIO", 0) - cached_audio, 0), fresh)
    image = min(max(prompts.get("IMAGE", 0) - caches.get("IMAGE", 0), 0), fresh - audio)
    audio_out = min(spoken.get("AUDIO", 0), outof)
    image_out = min(spoken.get("IMAGE", 0), outof - audio_out)
    tokens = Tokens(
        input=fresh - audio - image + tools, cache_read=cached - cached_audio, output=outof - audio_out - image_out,
        reasoning=thoughts, input_audio=audio, cache_read_audio=cached_audio, output_audio=audio_out, input_image=image,
        output_image=image_out, other=(("web_search", searches),) if searches else (),
    )  # fmt: skip
    if prompt is None or said is None:
        return Estimated(tokens, f"the provider stated no {'prompt' if prompt is None else 'candidates'} count", raw)
    if not final:
        return Estimated(tokens, "the stream ended before the provider's last count", raw)
    return Known(tokens, raw, "; ".join(odd))


def tier(usage: Object) -> str:
    value = usage.get("serviceTier")
    return value.lower() if isinstance(value, str) else ""
