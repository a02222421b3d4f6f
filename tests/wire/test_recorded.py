"""Every recorded exchange in a dialect we speak: the tokens we read are the tokens the provider reported, the bytes we relay
are the bytes it sent, and nothing unknown becomes zero."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bursar import wire
from bursar.domain.call import Asked, Malformed, Reading
from bursar.domain.usage import Estimated, Known, Unknown

from .recorded import SPOKEN, Totals, exchanges, expected

# Exchanges whose provider contradicts itself, and why we say so. All other rows must come out clean.
CONTRADICTORY = {
    # two: cache_creation_input_tokens is not the sum of its lifetimes; four: an advisor of another model in the same usage
    ("anthropic.messages", "anthropic"): 6,
    ("gemini.generate", "gemini"): 1,  # see BY_HAND
    ("openai.chat", "gemini"): 2,  # Google's OpenAI endpoint: total_tokens has thoughts that completion_tokens lacks
    ("openai.chat", "openai"): 1,  # a hand-made mock with more reasoning and audio than completion
    ("openai.chat", "azure-ai"): 29,  # Grok on Azure: cached_tokens counts text that prompt_tokens leaves out
    ("openai.chat", "openrouter"): 2,  # the same tokens as cache write and cached; reasoning above completion
}

# Where the first and last usage object of a row do not tell what the answer comes to.
BY_HAND = {
    # Five events: the fourth counts 21 candidates, the last (after a web search) none, though its total is prompt + thoughts.
    "62b08e09d52e3316": Totals(87, 0, 0, 0, 21 + 78, 78, odd=True),
    # groq/compound: the answer's own usage comes first, the last object is one item of its breakdown by model.
    "661de1431a68e68e": Totals(14100, 0, 0, 0, 921, 0),
}


def read(row: dict) -> Reading:
    dialect = wire.DIALECTS[SPOKEN[row["dialect"]]]
    body = row["response_body"].encode()
    if not row["stream"] or row["status"] >= 400:
        return dialect.whole(row["status"], body)
    reader = dialect.reader(Asked(), False)
    out = reader.feed(body)
    reader.finish()
    assert out + reader.kept == body, row["id"]
    return reader.reading()


def totals(reading: Reading) -> Totals | None:
    usage = reading.usage
    if isinstance(usage, Unknown):
        return None
    t = usage.tokens
    return Totals(
        t.input_total, t.cache_read + t.cache_read_audio, t.cache_write, t.cache_write_1h, t.output_total, t.reasoning,
        odd=isinstance(usage, Known) and bool(usage.contradiction), partial=isinstance(usage, Estimated),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> list[dict]:
    return [row for row in exchanges(data_dir) if not row.get("response_truncated")]


def test_tokens_equal_the_recorded_usage_in_every_exchange_that_has_one(rows: list[dict]) -> None:
    """Streamed and whole, every vendor, all buckets."""
    wrong, odd, right = [], Counter(), Counter()
    for row in rows:
        want = BY_HAND.get(row["id"]) or expected(row["dialect"], row["usage_raw_first"], row["usage_raw_last"])
        if want is None:
            continue
        got = totals(read(row))
        right[row["dialect"]] += got == want
        if got != want:
            wrong.append((row["id"], row["provider"], row["dialect"], row["stream"], got, want))
        if got and got.odd:
            odd[row["dialect"], row["provider"]] += 1
    print("equal:", dict(right), "contradictory:", dict(odd))
    assert not wrong, f"{len(wrong)} of {sum(right.values()) + len(wrong)}: {wrong[:20]}"
    assert odd == CONTRADICTORY


def test_an_exchange_without_usage_is_unknown_and_never_zero(rows: list[dict]) -> None:
    checked = 0
    for row in rows:
        if expected(row["dialect"], row["usage_raw_first"], row["usage_raw_last"]) is None:
            usage = read(row).usage
            assert isinstance(usage, Unknown) or (isinstance(usage, Known) and usage.tokens.total > 0), (row["id"], usage)
            checked += 1
    print("without usage:", checked)
    assert checked > 150


def test_every_recorded_request_can_be_read(rows: list[dict]) -> None:
    """No recorded body that a provider accepted is malformed to us; model and stream are what was recorded."""
    for row in rows:
        body = row.get("request_body")
        if not body or row["status"] >= 400 or row["method"] != "POST" or row.get("request_truncated"):
            continue
        dialect = wire.DIALECTS[SPOKEN[row["dialect"]]]
        asked = dialect.read(row["url_path"], body.encode())
        assert not isinstance(asked, Malformed), (row["id"], asked)
        if row["request_model"] and "%" not in row["url_path"]:
            assert asked.model in (row["request_model"], row["request_model"].removeprefix("models/")), row["id"]


def test_errors_have_a_code_and_a_message(rows: list[dict]) -> None:
    silent = [row["id"] for row in rows if row["status"] >= 400 and not read(row).error]
    assert not silent


def test_paths_lead_to_the_dialect_they_were_recorded_with(rows: list[dict]) -> None:
    for row in rows:
        if row["method"] == "POST" and not row["url_path"].endswith("/embed"):
            route = wire.resolve("POST", row["url_path"])
            assert route.dialect.name == SPOKEN[row["dialect"]], row["url_path"]
