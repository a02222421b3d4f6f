"""Requests: what is read, what is refused as ambiguous, and edits that change nothing but what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, AskUsage, CapOutput, Malformed, UseModel
from bursar.domain.shape import replace
from bursar.wire import splice

CHAT = "/v1/chat/completions"
GEMINI = "/v1beta/models/gemini-3-flash:generateContent"


def read(name: str, body: Any, path: str = CHAT) -> Asked:
    asked = wire.DIALECTS[name].read(path, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert isinstance(asked, Asked), asked
    return asked


def failed(asked: Asked) -> list[str]:
    assert asked.history is not None
    return [one.tool for one in asked.history.failed]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"model":"a","model":null}',
        b'{"stream":false,"messages":[],"stream":true}',
        b'{"max_tokens":1,"max_tokens":100000}',
        b'{"model":7}',
        b'{"stream":"yes"}',
        b'{"max_tokens":-1}',
        b'{"max_tokens":true}',
        b'{"max_tokens":1.5}',
        b'{"max_tokens":NaN}',
        b'{"n":"3"}',
        b'{"x":Infinity}',
        b'{"messages":"hi"}',
        b"[]",
        b"",
        b"{",
        b'{"a":1} {}',
        b'{"text":"\xff"}',
        b'{"text":"\xed\xa0\x80"}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b'{"a":' * 100_000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_a_body_that_two_readers_could_read_differently_is_malformed(body: bytes) -> None:
    """Named twice (also by an escape), of the wrong type, no number, too deep, not UTF-8, not JSON."""
    for name in ("openai_chat", "anthropic_messages"):
        if b'"n"' not in body or name == "openai_chat":
            found = wire.DIALECTS[name].read(CHAT, body)
            assert isinstance(found, Malformed) and found.reason, name


def test_chat_requests_are_read() -> None:
    asked = read("openai_chat", {
        "model": "gpt-5", "stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 77, "n": 3,
        "service_tier": "flex", "user": "u1", "metadata": {"session_id": "s1", "k": 5},
        "tools": [{"type": "function", "function": {"name": "f"}}], "response_format": {"type": "json_object"},
        "messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"},
        ],
    })  # fmt: skip
    assert (asked.model, asked.stream, asked.output_cap, asked.choices, asked.usage_asked) == ("gpt-5", True, 77, 3, True)
    assert (asked.service_tier, asked.user, asked.conversation, asked.metadata) == ("flex", "u1", "s1", (("session_id", "s1"),))
    assert (asked.messages, asked.human_turns, asked.tool_depth, asked.tools, asked.json_demanded) == (5, 1, 2, 1, True)
    assert asked.unbounded_input == ""
    assert read("openai_chat", b"{}", "/openai/deployments/my-gpt/chat/completions").model == "my-gpt"


@pytest.mark.parametrize(
    ("name", "body", "unbounded"),
    [
        ("openai_chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]}, True),
        ("openai_chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}, False),
        ("openai_chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": '{"image_url": {"url": "https://x"}}'}]}]}, False),
        ("openai_chat", {"messages": [], "web_search_options": {}}, True),
        ("openai_responses", {"previous_response_id": "resp_1"}, True),
        ("openai_responses", {"conversation": {"id": "conv_1"}}, True),
        ("openai_responses", {"tools": [{"type": "web_search"}], "input": "hi"}, True),
        ("openai_responses", {"tools": [{"type": "function", "name": "f"}], "input": "hi"}, False),
        ("openai_responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, True),
        ("openai_responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]}]}, False),
        ("anthropic_messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]}, True),
        ("anthropic_messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]}, False),
        ("anthropic_messages", {"messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, True),
        ("anthropic_messages", {"messages": [], "tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "own"}]}, False),
        ("gemini_generate", {"contents": [{"parts": [{"fileData": {"fileUri": "gs://x"}}]}]}, True),
        ("gemini_generate", {"contents": [], "tools": [{"googleSearch": {}}]}, True),
        ("gemini_generate", {"contents": [], "cachedContent": "cachedContents/x"}, True),
        ("gemini_generate", {"contents": [{"parts": [{"text": "hi"}]}], "tools": [{"functionDeclarations": [{"name": "f"}]}]}, False),
    ],
)  # fmt: skip
def test_input_that_its_bytes_do_not_bound_is_named(name: str, body: dict, unbounded: bool) -> None:
    """What the provider fetches or remembers costs tokens that are not in the body; text that looks like it does not."""
    assert bool(read(name, body, GEMINI).unbounded_input) is unbounded


def test_responses_requests_are_read() -> None:
    asked = read("openai_responses", {
        "model": "gpt-5", "stream": True, "max_output_tokens": 9, "conversation": "conv_9", "safety_identifier": "u2",
        "input": [
            {"role": "user", "content": "hi"}, {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "output": "1"},
        ],
    })  # fmt: skip
    assert (asked.model, asked.stream, asked.output_cap, asked.conversation, asked.user) == ("gpt-5", True, 9, "conv_9", "u2")
    assert (asked.messages, asked.human_turns, asked.tool_depth) == (3, 1, 1)


def test_anthropic_requests_are_read() -> None:
    """Claude Code's session, one-hour cache writes, and the tool whose newest result is an error."""
    body = {
        "model": "claude-x", "max_tokens": 5, "stream": True,
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "acc", "session_id": "sess"})},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "lookup", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "boom"},
                                         {"type": "text", "text": "<system-reminder>"}]},
        ],
    }  # fmt: skip
    asked = read("anthropic_messages", body)
    assert (asked.conversation, asked.user, asked.cache_1h, failed(asked)) == ("sess", "acc", True, ["lookup"])
    assert (asked.human_turns, asked.tool_depth, asked.output_cap) == (1, 1, 5)
    body["messages"] += [{"role": "assistant", "content": "sorry"}, {"role": "user", "content": "go on"}]
    asked = read("anthropic_messages", body)
    assert (asked.human_turns, asked.tool_depth, failed(asked)) == (2, 0, [])


def test_gemini_requests_are_read_in_both_spellings() -> None:
    for body in (
        {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"maxOutputTokens": 5, "candidateCount": 2}},
        {"contents": [{"parts": [{"text": "x"}]}], "generation_config": {"max_output_tokens": "5", "candidate_count": 2.0}},
    ):
        asked = read("gemini_generate", body, GEMINI)
        assert (asked.model, asked.stream, asked.output_cap, asked.choices) == ("gemini-3-flash", False, 5, 2)
    both = b'{"generationConfig":{},"generation_config":{"maxOutputTokens":9}}'
    assert isinstance(wire.DIALECTS["gemini_generate"].read(GEMINI, both), Malformed)
    twice = b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}'
    assert isinstance(wire.DIALECTS["gemini_generate"].read(GEMINI, twice), Malformed)


# --- edits ---

EDITED: list[tuple[str, str, bytes, list, str, bytes]] = [
    ("openai_chat", CHAT, b'{"messages":[{"model":1}], "model" : "a" ,"x":1e400}', [UseModel("b")], CHAT,
     b'{"messages":[{"model":1}], "model" : "b" ,"x":1e400}'),
    ("openai_chat", CHAT, b'{"mod\\u0065l":"a"}', [UseModel("b")], CHAT, b'{"mod\\u0065l":"b"}'),
    ("openai_chat", CHAT, b'{ "model":"gpt-5" }', [CapOutput(7)], CHAT, b'{"max_completion_tokens":7, "model":"gpt-5" }'),
    ("openai_chat", CHAT, b'{"model":"mistral-x"}', [CapOutput(7)], CHAT, b'{"max_tokens":7,"model":"mistral-x"}'),
    ("openai_chat", CHAT, b'{"max_tokens":null,"model":"gpt-5"}', [CapOutput(7)], CHAT, b'{"max_tokens":7,"model":"gpt-5"}'),
    ("openai_chat", CHAT, b'{"stream":true}', [AskUsage()], CHAT, b'{"stream_options":{"include_usage":true},"stream":true}'),
    ("openai_chat", CHAT, b'{"stream_options": {"a":[1]} }', [AskUsage()], CHAT, b'{"stream_options": {"include_usage":true,"a":[1]} }'),
    ("openai_chat", CHAT, b'{"stream_options":{"include_usage": false}}', [AskUsage()], CHAT, b'{"stream_options":{"include_usage": true}}'),
    ("openai_chat", CHAT, b'{"stream_options":null}', [AskUsage()], CHAT, b'{"stream_options":{"include_usage":true}}'),
    ("openai_chat", CHAT, b"{}", [AskUsage(), UseModel("m")], CHAT, b'{"model":"m","stream_options":{"include_usage":true}}'),
    ("openai_chat", "/openai/deployments/a/chat/completions", b"{}", [UseModel("b")], "/openai/deployments/b/chat/completions", b'{"model":"b"}'),
    ("openai_responses", "/v1/responses", b'{"max_output_tokens":9}', [CapOutput(3)], "/v1/responses", b'{"max_output_tokens":3}'),
    ("anthropic_messages", "/v1/messages", b'{"max_tokens":9,"model":"a"}', [CapOutput(3), UseModel("b")], "/v1/messages", b'{"max_tokens":3,"model":"b"}'),
    ("openai_embeddings", "/v1/embeddings", b'{"input":["model"],"model":"a"}', [UseModel("b")], "/v1/embeddings", b'{"input":["model"],"model":"b"}'),
    ("gemini_generate", GEMINI, b'{"contents":[]}', [CapOutput(3), UseModel("g2")], "/v1beta/models/g2:generateContent", b'{"generationConfig":{"maxOutputTokens":3},"contents":[]}'),
    ("gemini_generate", GEMINI, b'{"generation_config":{"max_output_tokens":9}}', [CapOutput(3)], GEMINI, b'{"generation_config":{"max_output_tokens":3}}'),
    ("gemini_generate", GEMINI, b'{"generationConfig":{"temperature":0}}', [CapOutput(3)], GEMINI, b'{"generationConfig":{"maxOutputTokens":3,"temperature":0}}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "body", "edits", "new_path", "new_body"), EDITED)
def test_an_edit_changes_what_it_says_and_no_other_byte(name, path, body, edits, new_path, new_body) -> None:
    """With what `read` found, and without."""
    dialect = wire.DIALECTS[name]
    asked = dialect.read(path, body)
    for known in (asked, replace(asked, members=None)):
        assert dialect.edit(path, body, known, edits) == (new_path, new_body)


def test_no_edit_gives_the_same_objects() -> None:
    path, body = CHAT, b'{"model":"a"}'
    for dialect in wire.DIALECTS.values():
        out = dialect.edit(path, body, Asked(), [])
        assert out[0] is path and out[1] is body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", 'q"', "\\", "ф"]), inner, max_size=3),
    max_leaves=12,
)


@given(
    before=st.dictionaries(st.text(max_size=5).filter(lambda k: k != "model"), JSON, max_size=4),
    after=st.dictionaries(st.text(max_size=5).filter(lambda k: k != "model"), JSON, max_size=4),
    old=JSON, indent=st.sampled_from([None, 1]), ascii_=st.booleans(), large=st.booleans(), there=st.booleans(),
)  # fmt: skip
def test_a_member_is_set_wherever_it_stands_and_the_rest_stays(before, after, old, indent, ascii_, large, there) -> None:
    """The other members decode to what they were, at any size, spacing and spelling, also with namesakes deeper down."""
    doc = {**before, **({"model": old} if there else {}), **{k: v for k, v in after.items() if k not in before}}
    if large:
        doc["padding"] = [{"model": "x" * 20_000}]
    body = json.dumps(doc, indent=indent, ensure_ascii=ascii_).encode()
    out = json.loads(splice.put(body, "model", b'"new"'))
    assert out.pop("model") == "new"
    doc.pop("model", None)
    assert out == doc


@pytest.mark.parametrize(
    ("method", "path", "provider", "dialect", "below", "family"),
    [
        ("POST", "/v1/chat/completions", "", "openai_chat", "/v1/chat/completions", "openai"),
        ("POST", "/openai/v1/chat/completions", "openai", "openai_chat", "/v1/chat/completions", "openai"),
        ("POST", "/groq/openai/v1/chat/completions", "groq", "openai_chat", "/openai/v1/chat/completions", "openai"),
        ("POST", "/openai/deployments/X/chat/completions", "openai", "openai_chat", "/deployments/X/chat/completions", "openai"),
        ("POST", "/api/v1/chat/completions", "", "openai_chat", "/api/v1/chat/completions", "openai"),
        ("POST", "/v1/responses", "", "openai_responses", "/v1/responses", "openai"),
        ("GET", "/v1/responses/resp_1", "", "passthrough", "/v1/responses/resp_1", "openai"),
        ("POST", "/v1/embeddings", "", "openai_embeddings", "/v1/embeddings", "openai"),
        ("GET", "/v1/models", "", "passthrough", "/v1/models", "openai"),
        ("POST", "/v1/messages", "", "anthropic_messages", "/v1/messages", "anthropic"),
        ("POST", "/v1/messages/count_tokens", "", "passthrough", "/v1/messages/count_tokens", "anthropic"),
        ("POST", "/anthropic/v1/messages", "anthropic", "anthropic_messages", "/v1/messages", "anthropic"),
        ("POST", "/v1beta/models/g:generateContent", "", "gemini_generate", "/v1beta/models/g:generateContent", "gemini"),
        ("POST", "/v1beta/models/g:streamGenerateContent", "", "gemini_generate", "/v1beta/models/g:streamGenerateContent", "gemini"),
        ("POST", "/v1beta/models/g:countTokens", "", "passthrough", "/v1beta/models/g:countTokens", "gemini"),
        ("POST", "/unheard/of", "", "passthrough", "/unheard/of", ""),
    ],
)  # fmt: skip
def test_paths_lead_where_they_say(method, path, provider, dialect, below, family) -> None:
    resolve = wire.resolver({"openai": "openai", "groq": "openai", "anthropic": "anthropic"})
    route = resolve(method, path)
    assert (route.provider, route.dialect.name, route.path, route.family) == (provider, dialect, below, family)
