"""Byte estimates learn, stay bounded, and the strict bound holds on recorded traffic."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bursar.rules import estimate

sizes = st.integers(-5, 10**9)
ratios = st.builds(estimate.Ratio, *[st.integers(1, 10**7)] * 4)
# Words in a request that say its input is not its bytes: media, references, tools and models that act by themselves.
UNBOUNDED = ("image", "inlineData", "inline_data", "file", "url", "document", "audio", "previous_response_id", "web_",
             "code_", "google", "computer", "mcp", "container", "conversation", "cachedContent", '"prompt"', "advisor",
             "compound")  # fmt: skip


@given(sizes, ratios)
def test_an_estimate_is_rounded_up_and_nothing_is_nothing(size: int, ratio: estimate.Ratio) -> None:
    """A byte that passed is at least one token; no bytes are none."""
    for tokens in (estimate.input_tokens(size, ratio), estimate.output_tokens(size, ratio)):
        assert (tokens >= 1) if size > 0 else (tokens == 0)
    assert estimate.input_tokens(size + 1, ratio) >= estimate.input_tokens(size, ratio)
    assert estimate.bound(size + 1) >= estimate.bound(size) >= max(size, 0)


@given(st.lists(st.tuples(sizes, sizes, sizes, sizes), max_size=30))
def test_whatever_is_taught_the_ratio_stays_whole_positive_and_plausible(lessons: list[tuple[int, int, int, int]]) -> None:
    """No order of absurd counts can make it divide by zero, overflow its memory, or leave 1 to 16 bytes a token."""
    ratio = estimate.START
    for lesson in lessons:
        ratio = estimate.learn(ratio, *lesson)
        assert min(ratio.input_bytes, ratio.input_tokens, ratio.output_bytes, ratio.output_tokens) >= 1
        assert max(ratio.input_tokens, ratio.output_tokens) <= estimate.MEMORY
        for size, tokens in ((ratio.input_bytes, ratio.input_tokens), (ratio.output_bytes, ratio.output_tokens)):
            assert 99 * tokens <= 100 * size
            assert size <= estimate.MOST * tokens


def test_a_model_s_own_ratio_is_learnt_and_a_new_one_replaces_it() -> None:
    """Fifty calls at five bytes a token, then fifty at two: each time the estimate follows to within a tenth."""
    ratio = estimate.START
    for size_of_token in (5, 2):
        for _ in range(50):
            ratio = estimate.learn(ratio, 20_000 * size_of_token, 20_000, 2_000 * size_of_token, 2_000)
        assert abs(estimate.input_tokens(100_000, ratio) - 100_000 // size_of_token) <= 10_000 // size_of_token
        assert abs(estimate.output_tokens(100_000, ratio) - 100_000 // size_of_token) <= 10_000 // size_of_token


def test_one_odd_giant_does_not_become_the_ratio() -> None:
    """A single huge call weighs an eighth of the memory."""
    ratio = estimate.START
    for _ in range(20):
        ratio = estimate.learn(ratio, 40_000, 10_000, 0, 0)
    after = estimate.learn(ratio, 10_000_000, 10_000_000, 0, 0)
    assert estimate.input_tokens(40_000, after) < 13_500


def test_an_image_in_base64_teaches_nothing() -> None:
    """Its bytes are not the text that was counted."""
    assert estimate.learn(estimate.START, 2_000_000, 1_500, 0, 0) == estimate.START
    assert estimate.learn(estimate.START, 0, 0, 0, 12) == estimate.START


def read_tokens(row: dict[str, Any]) -> int:
    usage = row["usage_raw_first"] or row["usage_raw_last"]
    if not isinstance(usage, dict) or row["status"] != 200:
        return 0
    match row["dialect"].split(".")[0]:
        case "anthropic":
            names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            return sum(usage.get(name) or 0 for name in names)
        case "gemini":
            return usage.get("promptTokenCount") or 0
        case _:
            return usage.get("prompt_tokens") or usage.get("input_tokens") or 0


def test_no_recorded_text_request_was_read_as_more_than_its_bound(data_dir: Path) -> None:
    """Thousands of real calls of five dialects: tokens read are at most bytes sent and the template."""
    seen = 0
    over: list[tuple[str, int, int]] = []
    with gzip.open(data_dir / "provider-http" / "exchanges.jsonl.gz", "rt", encoding="utf-8") as rows:
        for line in rows:
            row = json.loads(line)
            body = row.get("request_body") or ""
            if any(word in body for word in UNBOUNDED):
                continue
            tokens = read_tokens(row)
            size = row.get("request_body_len") or len(body.encode())
            seen += tokens > 0
            if tokens > estimate.bound(size):
                over.append((row["id"], tokens, size))
    assert seen > 3000
    assert over == []
