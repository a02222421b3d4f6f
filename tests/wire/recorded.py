"""The recorded exchanges, and what their usage must come to, worked out here without any code of ours."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SPOKEN = {
    "openai.chat": "openai_chat",
    "openai.responses": "openai_responses",
    "embeddings": "openai_embeddings",
    "anthropic.messages": "anthropic_messages",
    "gemini.generate": "gemini_generate",
}


class Totals(NamedTuple):
    """What a provider's usage comes to. `odd`: it contradicts itself. `partial`: one side was never stated."""

    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int
    odd: bool = False
    partial: bool = False


def exchanges(data: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(data / "provider-http" / "exchanges.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["dialect"] in SPOKEN and row.get("response_body"):
                yield row


def whole_number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def expected(dialect: str, first: dict[str, Any] | None, last: dict[str, Any] | None) -> Totals | None:
    """The totals by the data set's README: OpenAI's cache is inside, Anthropic's outside, Gemini's thoughts outside. None
    when neither object counts anything."""
    first, last = first or {}, last or {}

    def of(*names: str) -> int | None:
        for side in (last, first):
            for name in names:
                if isinstance(side.get(name), int):
                    return side[name]
        return None

    def inner(outer: tuple[str, ...], name: str) -> int:
        for side in (last, first):
            for o in outer:
                if isinstance(side.get(o), dict) and isinstance(side[o].get(name), int):
                    return side[o][name]
        return 0

    if dialect == "anthropic.messages":
        fresh, out = of("input_tokens"), of("output_tokens")
        if fresh is None and out is None:
            return None
        write = of("cache_creation_input_tokens") or 0
        hour = inner(("cache_creation",), "ephemeral_1h_input_tokens")
        five = inner(("cache_creation",), "ephemeral_5m_input_tokens")
        read, thinking = of("cache_read_input_tokens") or 0, inner(("output_tokens_details",), "thinking_tokens")
        teller = last if "cache_creation_input_tokens" in last else first
        split = isinstance(teller.get("cache_creation"), dict)  # a total that grew without its split is no contradiction
        side = [i for i in (last.get("iterations") or []) if i["type"] in ("compaction", "advisor_message")]
        around = [i for i in (last.get("iterations") or []) if i not in side]
        more = {k: sum(i.get(k) or 0 for i in side) for k in ("input_tokens", "output_tokens", "cache_read_input_tokens")}
        read += more["cache_read_input_tokens"]
        total = (fresh or 0) + more["input_tokens"] + read + write
        return Totals(total, read, write - hour, hour, (out or 0) + more["output_tokens"], thinking,
                      odd=(split and write != five + hour) or any("model" in i for i in side)
                      or bool(around) and sum(i["input_tokens"] for i in around) != fresh, partial=fresh is None or out is None)  # fmt: skip
    if dialect == "gemini.generate":
        prompt, said = of("promptTokenCount"), of("candidatesTokenCount")
        tools, thoughts, total = of("toolUsePromptTokenCount") or 0, of("thoughtsTokenCount") or 0, of("totalTokenCount")
        if prompt is None and said is None:
            return None
        if said is None and total is not None:
            said = total - (prompt or 0) - tools - thoughts
        odd = total is not None and prompt is not None and total != prompt + (said or 0) + tools + thoughts
        return Totals((prompt or 0) + tools, of("cachedContentTokenCount") or 0, 0, 0, (said or 0) + thoughts, thoughts,
                      odd=odd, partial=prompt is None or said is None)  # fmt: skip
    prompt, completion, total = of("prompt_tokens", "input_tokens"), of("completion_tokens", "output_tokens"), of("total_tokens")
    if dialect == "embeddings":
        prompt, completion = total if prompt is None else prompt, 0
    if prompt is None:
        return None
    completion = completion or 0
    into, outof = ("prompt_tokens_details", "input_tokens_details"), ("completion_tokens_details", "output_tokens_details")
    cached = inner(into, "cached_tokens") or of("prompt_cache_hit_tokens", "num_cached_tokens") or 0
    write, reasoning = inner(into, "cache_write_tokens"), inner(outof, "reasoning_tokens")
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # xAI's chat API: reasoning beside completion_tokens
    odd = cached + write > prompt or reasoning + inner(outof, "audio_tokens") > completion
    if total is not None and total != prompt + completion:
        if total == prompt + completion + inner(into, "audio_tokens"):
            prompt = total - completion  # the one Voxtral row: audio beside the prompt
        elif total > prompt + completion:
            odd, reasoning, completion = True, total - prompt - completion, total - prompt  # Google's hidden thoughts
    cached = min(cached, prompt)
    return Totals(prompt, cached, min(write, prompt - cached), 0, completion, min(reasoning, completion), odd=odd)
