"""Whole answers: four cases of a count, vendors' own words, what is malformed, what is too large to gather, other paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, Reading
from bursar.domain.usage import Estimated, Known, Tokens, Unknown

from .streams import feed


def whole(name: str, body: Any, status: int = 200) -> Reading:
    return wire.DIALECTS[name].whole(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def chat(usage: Any, **more: Any) -> Reading:
    return whole("openai_chat", {"id": "c", "model": "m", "choices": [], "usage": usage, **more})


@pytest.mark.parametrize(
    ("usage", "kind"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Known),
        ({"prompt_tokens": 5, "completion_tokens": None}, Estimated),
        ({"prompt_tokens": 5}, Estimated),
        ({"completion_tokens": 5}, Estimated),
        ({"prompt_tokens": 5, "total_tokens": 5}, Known),
        ({}, Unknown),
        (None, Unknown),
        ({"prompt_tokens": None, "completion_tokens": None}, Unknown),
        ({"prompt_tokens": -1, "completion_tokens": 5}, Unknown),
        ({"prompt_tokens": "5", "completion_tokens": 5}, Unknown),
        ({"prompt_tokens": True, "completion_tokens": 5}, Unknown),
        ({"prompt_tokens": 5.5, "completion_tokens": 5}, Unknown),
        ({"prompt_tokens": 5.0, "completion_tokens": 5}, Known),
        ({"prompt_tokens": 10**40, "completion_tokens": 5}, Unknown),
        ({"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": "none"}, Unknown),
        ("many", Unknown),
        ([], Unknown),
    ],
)
def test_absent_null_zero_and_n_are_four_cases(usage: Any, kind: type) -> None:
    """Zero that was said is known; what was not said is not zero."""
    assert type(chat(usage).usage) is kind


def test_an_answer_without_usage_is_unknown_in_every_dialect() -> None:
    for name in wire.DIALECTS:
        assert isinstance(whole(name, {"id": "x", "model": "m"}).usage, Unknown), name
        assert isinstance(whole(name, b"<html>busy</html>").usage, Unknown), name
        assert isinstance(whole(name, b"").usage, Unknown), name
        assert isinstance(whole(name, b'{"usage":').usage, Unknown), name


@pytest.mark.parametrize(
    ("usage", "tokens", "odd"),
    [
        # OpenAI: cached, reasoning and audio inside
        ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
          "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10, "cache_write_tokens": 20},
          "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5}},
         Tokens(input=10, cache_read=60, cache_write=20, input_audio=10, output=15, reasoning=30, output_audio=5), False),
        # DeepSeek's own word for cached
        ({"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11, "prompt_cache_hit_tokens": 4}, Tokens(input=6, cache_read=4, output=1), False),
        # xAI: reasoning beside the completion, the total says so
        ({"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 5}},
         Tokens(input=10, output=1, reasoning=5), False),
        # Azure's Grok: more cached than prompt; nothing negative, the prompt's total stands
        ({"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 161}},
         Tokens(cache_read=10, output=1), True),
        # Google's OpenAI endpoint: thoughts only in the total
        ({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}, Tokens(input=35, output=12, reasoning=62), True),
        # xAI's server tools and OpenRouter's searches
        ({"prompt_tokens": 1, "completion_tokens": 1, "server_side_tool_usage_details": {"web_search_calls": 2, "mcp_calls": 3}},
         Tokens(input=1, output=1, other=(("web_search", 2),)), False),
        ({"prompt_tokens": 1, "completion_tokens": 1, "server_tool_use_details": {"web_search_requests": 3}},
         Tokens(input=1, output=1, other=(("web_search", 3),)), False),
    ],
)  # fmt: skip
def test_vendors_of_the_openai_family_come_out_in_disjoint_buckets(usage: dict, tokens: Tokens, odd: bool) -> None:
    got = chat(usage).usage
    assert isinstance(got, Known) and got.tokens == tokens and bool(got.contradiction) is odd
    assert json.loads(got.raw) == usage


@pytest.mark.parametrize(
    ("usage", "pico"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":1.4e-07}', 140_000),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":0.1}', 100_000_000_000),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":0.0004970133333333333}', 497_013_333),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":0.00417}}', 4_170_000_000),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":{"total_cost":0.006}}', 6_000_000_000),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost_in_usd_ticks":6306000}', 630_600_000),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":0}', 0),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":null}', None),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":-1}', None),
        (b'{"prompt_tokens":1,"completion_tokens":1,"cost":"1"}', None),
        (b'{"prompt_tokens":1,"completion_tokens":1}', None),
    ],
)  # fmt: skip
def test_a_price_that_the_vendor_states_is_read_to_the_last_digit(usage: bytes, pico: int | None) -> None:
    """As the decimal that was written, not as a float."""
    assert whole("openai_chat", b'{"choices":[],"usage":' + usage + b"}").provider_cost_pico == pico


def test_anthropic_cache_counts_stand_beside_the_input() -> None:
    usage = {
        "input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30, "output_tokens": 40,
        "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 18}, "speed": "fast",
        "output_tokens_details": {"thinking_tokens": 15}, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
    }  # fmt: skip
    reading = whole("anthropic_messages", {"id": "a", "model": "m", "type": "message", "stop_reason": "end_turn", "usage": usage})
    assert reading.usage.tokens == Tokens(10, 20, 12, 18, 25, 15, other=(("web_search", 2),))  # type: ignore[union-attr]
    assert (reading.service_tier, reading.finish, reading.response_id, reading.model_served) == ("fast", "end_turn", "a", "m")


def test_gemini_modalities_thoughts_and_tool_prompts() -> None:
    usage = {
        "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 30, "thoughtsTokenCount": 7,
        "toolUsePromptTokenCount": 5, "totalTokenCount": 142,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 60}, {"modality": "AUDIO", "tokenCount": 30}, {"modality": 2, "tokenCount": 10}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}, {"modality": "TEXT", "tokenCount": 30}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 20}],
    }  # fmt: skip
    got = whole("gemini_generate", {"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage, "modelVersion": "g"})
    assert got.usage.tokens == Tokens(  # type: ignore[union-attr]
        input=35, cache_read=30, output=10, reasoning=7, input_audio=20, cache_read_audio=10, input_image=10, output_image=20
    )
    assert not got.usage.contradiction and got.finish == "STOP"  # type: ignore[union-attr]


def test_what_openai_bills_beside_tokens_is_counted_from_the_items() -> None:
    """Searches, not the pages they open; a code session once per container."""
    output = [
        {"type": "web_search_call", "action": {"type": "search"}}, {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "web_search_call"}, {"type": "file_search_call"},
        {"type": "code_interpreter_call", "container_id": "a"}, {"type": "code_interpreter_call", "container_id": "a"},
    ]  # fmt: skip
    reading = whole("openai_responses", {"status": "completed", "output": output, "usage": {"input_tokens": 1, "output_tokens": 1}})
    assert reading.usage.tokens.other == (("code_session", 1), ("file_search", 1), ("web_search", 2))  # type: ignore[union-attr]


@given(counts=st.fixed_dictionaries({}, optional={
    "prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99), "total_tokens": st.integers(0, 300),
    "cached": st.integers(0, 120), "written": st.integers(0, 120), "audio": st.integers(0, 50), "image": st.integers(0, 50),
    "reasoning": st.integers(0, 120), "audio_out": st.integers(0, 50),
}))  # fmt: skip
def test_whatever_the_counts_no_bucket_is_negative_and_the_stated_totals_stand(counts: dict[str, int]) -> None:
    """Clean usage sums to what was said; usage that cannot be right is flagged, and the prompt is never made smaller."""
    usage: dict[str, Any] = {k: counts[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens") if k in counts}
    usage["prompt_tokens_details"] = {
        name: counts[k] for k, name in (("cached", "cached_tokens"), ("written", "cache_write_tokens"), ("audio", "audio_tokens"), ("image", "image_tokens")) if k in counts
    }  # fmt: skip
    usage["completion_tokens_details"] = {
        name: counts[k] for k, name in (("reasoning", "reasoning_tokens"), ("audio_out", "audio_tokens")) if k in counts
    }
    got = chat(usage).usage
    if isinstance(got, Unknown):
        assert "prompt_tokens" not in counts and "completion_tokens" not in counts
        return
    assert all(n >= 0 for n in got.tokens[:-1])
    if "prompt_tokens" in counts:
        assert got.tokens.input_total in (counts["prompt_tokens"], counts["prompt_tokens"] + counts.get("audio", 0))
    if "completion_tokens" in counts:
        assert got.tokens.output_total >= counts["completion_tokens"]
    if isinstance(got, Known) and not got.contradiction and "total_tokens" in counts:
        assert got.tokens.total == counts["total_tokens"]


@pytest.mark.parametrize(
    ("name", "body", "demanded", "malformed"),
    [
        ("openai_chat", {"choices": [{"finish_reason": "tool_calls", "message": {"tool_calls": [{"function": {"arguments": '{"a":'}}]}}]}, False, True),
        ("openai_chat", {"choices": [{"finish_reason": "length", "message": {"tool_calls": [{"function": {"arguments": '{"a":'}}]}}]}, False, False),
        ("openai_chat", {"choices": [{"finish_reason": "tool_calls", "message": {"tool_calls": [{"function": {"arguments": ""}}]}}]}, False, False),
        ("openai_chat", {"choices": [{"finish_reason": "stop", "message": {"content": "{no"}}]}, True, True),
        ("openai_chat", {"choices": [{"finish_reason": "stop", "message": {"content": "{no"}}]}, False, False),
        ("openai_chat", b"<html>", False, True),
        ("openai_responses", {"status": "completed", "output": [{"type": "function_call", "arguments": "{"}]}, False, True),
        ("openai_responses", {"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "no \" json"}]}]}, True, True),
        ("openai_responses", {"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": '{"a":1}'}]}]}, True, False),
        ("anthropic_messages", {"stop_reason": "end_turn", "content": [{"type": "text", "text": "no json"}]}, True, True),
        ("anthropic_messages", b"oops", False, True),
        ("gemini_generate", b"oops", False, True),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_used_says_why(name: str, body: Any, demanded: bool, malformed: bool) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert bool(wire.DIALECTS[name].whole(200, raw, demanded).malformed) is malformed


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}}, "insufficient_quota", "no"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "overloaded_error", "busy"),
        ({"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}, "RESOURCE_EXHAUSTED", "slow"),
        ([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}], "RESOURCE_EXHAUSTED", "slow"),
        ({"object": "error", "message": "bad model", "type": "invalid_model", "code": "1500"}, "1500", "bad model"),
        ({"error": "model not found"}, "error", "model not found"),
        ({"detail": "Unauthorized"}, "error", "Unauthorized"),
    ],
)
def test_errors_are_read_in_every_providers_words(body: Any, code: str, message: str) -> None:
    for name in wire.DIALECTS:
        reading = whole(name, body, 429)
        assert (reading.error, reading.error_message) == (code, message), name
        assert isinstance(reading.usage, Unknown)


@pytest.mark.parametrize(
    ("name", "body", "usage"),
    [
        ("openai_embeddings", {"data": ["x" * 300_000, {"usage": {"prompt_tokens": 666}}], "model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}}, 9),
        ("openai_embeddings", {"model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}, "data": ["x" * 300_000, {"usage": {"prompt_tokens": 666}}]}, 9),
        ("openai_chat", {"model": "m", "choices": ["x" * 300_000], "usage": {"prompt_tokens": 4, "completion_tokens": 5}, "note": '"usage":{"prompt_tokens":1}'}, 9),
        ("openai_responses", {"model": "m", "output": ["x" * 300_000], "usage": {"input_tokens": 4, "output_tokens": 5}, "store": True}, 9),
        ("anthropic_messages", {"model": "m", "content": ["x" * 300_000], "usage": {"input_tokens": 4, "output_tokens": 5}}, 9),
        ("gemini_generate", {"candidates": ["x" * 300_000], "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 5, "totalTokenCount": 9}}, 9),
        ("openai_chat", {"model": "m", "choices": ["x" * 300_000, {"usage": {"prompt_tokens": 4, "completion_tokens": 5}}]}, None),
        ("openai_chat", {"a": "x" * 100_000, "usage": {"prompt_tokens": 4, "completion_tokens": 5}, "b": "x" * 100_000}, None),
    ],
)  # fmt: skip
def test_usage_is_found_at_the_edges_of_an_answer_too_large_to_gather(name: str, body: dict, usage: int | None) -> None:
    """Only the top-level member, never a namesake in the content; in the middle it is unknown."""
    raw = json.dumps(body, indent=1).encode()
    reading = wire.DIALECTS[name].edges(raw[:65536], raw[-65536:])
    if usage is None:
        assert isinstance(reading.usage, Unknown)
    else:
        assert isinstance(reading.usage, Known) and reading.usage.tokens.total == usage
        assert name == "gemini_generate" or reading.model_served == "m"


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"object": "text_completion", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, Tokens(input=3, output=4)),
        ({"model": "m", "prompt_eval_count": 3, "eval_count": 4}, Tokens(input=3, output=4)),
        ({"meta": {"billed_units": {"input_tokens": 3, "output_tokens": 4}}}, Tokens(input=3, output=4)),
        ({"meta": {"billed_units": {"search_units": 2}}}, Tokens(other=(("search_unit", 2),))),
        ({"usage": {"inputTokens": 3, "outputTokens": 4, "cacheReadInputTokens": 5, "cacheWriteInputTokens": 6}}, Tokens(input=3, cache_read=5, cache_write=6, output=4)),
        ({"type": "message", "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 5}}, Tokens(input=3, cache_read=5, output=4)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 7}}, Tokens(other=(("second", 7),))),
        ({"input_tokens": 31}, Tokens()),
        ({"totalTokens": 31}, Tokens()),
        ({"usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3}}, Tokens(input=3)),
        ({"object": "list", "data": []}, None),
        (b"RIFF....WAVE", None),
    ],
)  # fmt: skip
def test_other_paths_are_read_where_their_usage_is_known(body: Any, tokens: Tokens | None) -> None:
    usage = whole("passthrough", body).usage
    assert isinstance(usage, Unknown) if tokens is None else isinstance(usage, Known) and usage.tokens == tokens


def test_streams_on_other_paths_are_read_if_they_speak_a_dialect_and_pass_through_if_not() -> None:
    legacy = (
        b'data: {"id":"c","object":"text_completion","model":"m","choices":[{"text":"a"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    )
    fed = feed("passthrough", [legacy[:50], legacy[50:]])
    assert fed.out + fed.kept == legacy and fed.done and fed.reading.usage.tokens.total == 2  # type: ignore[union-attr]
    lines = b'{"response":"a"}\n{"response":"b"}\n{"done":true,"prompt_eval_count":2,"eval_count":3}\n'
    for at in range(len(lines)):
        fed = feed("passthrough", [lines[:at], lines[at:]])
        assert fed.out == lines and fed.reading.complete and fed.reading.usage.tokens.total == 5, at  # type: ignore[union-attr]
    audio = bytes(range(256)) * 100
    fed = feed("passthrough", [audio])
    assert fed.out == audio and isinstance(fed.reading.usage, Unknown)
    assert wire.DIALECTS["passthrough"].read("/v1/audio", audio) == Asked()
    assert wire.DIALECTS["passthrough"].read("/v1/messages/count_tokens", b'{"model":"m"}').model == ""


@pytest.mark.parametrize(
    ("parts", "finish", "malformed"),
    [
        ([{"text": '{"a": 1}'}], "STOP", False),
        ([{"text": '{"a": '}], "STOP", True),
        ([{"text": '{"a"'}, {"text": ": 1}"}], "STOP", False),
        ([{"text": "let me think", "thought": True}, {"text": "[]"}], "STOP", False),
        ([{"text": "Sure."}, {"functionCall": {"name": "f", "args": {}}}], "STOP", False),
        ([{"text": '{"a": '}], "MAX_TOKENS", False),
        ([], "STOP", False),
    ],
)
def test_gemini_s_reply_is_malformed_where_json_was_demanded_and_is_none(parts: list[Any], finish: str, malformed: bool) -> None:
    body = json.dumps({"candidates": [{"content": {"parts": parts}, "finishReason": finish}]}).encode()
    assert bool(wire.DIALECTS["gemini_generate"].whole(200, body, True).malformed) is malformed
    assert wire.DIALECTS["gemini_generate"].whole(200, body, False).malformed == ""
