"""A kept reply answers in the form the next client asks for: SDKs read the same from it as from the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from google import genai

from bursar import wire
from bursar.domain.call import Asked
from bursar.domain.reply import Kept
from bursar.domain.usage import Known
from bursar.wire.fold import fold
from bursar.wire.replay import calls_tools, replay, whole
from bursar.wire.unfold import unfold

from .recorded import SPOKEN, exchanges
from .streams import ANTHROPIC, CHAT, RESPONSES

NAMES = ("openai_chat", "openai_responses", "anthropic_messages", "gemini_generate")

CHAT_WHOLE = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5", "system_fingerprint": "fp",
    "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": {
        "role": "assistant", "content": "Let me \"look\" é", "refusal": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"a\": 1}"}},
            {"id": "call_2", "type": "function", "function": {"name": "up", "arguments": "{}"}}]}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [
        {"type": "thinking", "thinking": "hm, so …", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "xx"},
        {"type": "text", "text": "Found \"it\".", "citations": None}, {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": [1, "é"]}}],
    "usage": {"input_tokens": 7, "output_tokens": 4, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0},
}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5", "error": None, "incomplete_details": None,
    "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
    "output": [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "thinking"}]},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "Hi é", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "no"}]},
        {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{\"a\":1}", "status": "completed"},
    ],
    "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 1}},
}  # fmt: skip
GEMINI = {
    "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
        {"text": "so", "thought": True}, {"text": "Hi é"}, {"functionCall": {"name": "look", "args": {"a": 1}}, "thoughtSignature": "c2ln"}]}}],
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}, "modelVersion": "gemini-3", "responseId": "r",
}  # fmt: skip
WHOLES = {"openai_chat": CHAT_WHOLE, "anthropic_messages": MESSAGE, "openai_responses": RESPONSE, "gemini_generate": GEMINI}


def served(body: bytes, kind: str, of: Any = httpx) -> Any:
    return of.Client(transport=of.MockTransport(lambda request: of.Response(200, headers={"content-type": kind}, content=body)))


def by_sdk(name: str, body: bytes, stream: bool) -> Any:
    """What the provider's own SDK makes of these bytes: its final object, streamed or whole."""
    kind = "text/event-stream" if stream else "application/json"
    hi: Any = [{"role": "user", "content": "hi"}]
    match name:
        case "openai_chat":
            client = openai.OpenAI(api_key="k", http_client=served(body, kind))
            if not stream:
                return client.chat.completions.create(model="m", messages=hi).model_dump()
            with client.chat.completions.stream(model="m", messages=hi, stream_options={"include_usage": True}) as events:
                return events.get_final_completion().model_dump()
        case "openai_responses":
            client = openai.OpenAI(api_key="k", http_client=served(body, kind))
            if not stream:
                return client.responses.create(model="m", input="hi").model_dump()
            with client.responses.stream(model="m", input="hi") as events:
                return events.get_final_response().model_dump()
        case "anthropic_messages":
            client = anthropic.Anthropic(api_key="k", http_client=served(body, kind, httpx2))
            if not stream:
                return client.messages.create(model="m", max_tokens=9, messages=hi).model_dump()
            with client.messages.stream(model="m", max_tokens=9, messages=hi) as events:
                return events.get_final_message().model_dump()
        case _:
            client = genai.Client(api_key="k", http_options={"httpx_client": served(body, kind)})
            if not stream:
                return client.models.generate_content(model="m", contents="hi").model_dump(exclude={"sdk_http_response", "parsed", "automatic_function_calling_history"})
            answers = list(client.models.generate_content_stream(model="m", contents="hi"))
            assert len(answers) == 1
            return answers[0].model_dump(exclude={"sdk_http_response", "parsed", "automatic_function_calling_history"})


def bare(value: Any) -> Any:
    """Without what streams and wholes are known to say differently: absent against null, parsed forms."""
    if isinstance(value, dict):
        found = {k: bare(v) for k, v in value.items() if k not in ("parsed", "parsed_arguments", "index", "logprobs", "service_tier")}
        return {k: v for k, v in found.items() if v not in (None, [], {})}
    return [bare(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", NAMES)
def test_an_sdk_reads_the_same_from_a_stream_that_was_never_one(name: str) -> None:
    """Text, reasoning, tool calls, finish, usage: whole and unfolded come to the same object."""
    body = json.dumps(WHOLES[name]).encode()
    events = unfold(name, body, usage_asked=True)
    assert events is not None
    assert bare(by_sdk(name, events, True)) == bare(by_sdk(name, body, False))


@pytest.mark.parametrize("name", NAMES)
def test_unfolding_and_folding_give_the_whole_back(name: str) -> None:
    events = unfold(name, json.dumps(WHOLES[name]).encode(), usage_asked=True)
    back = fold(name, events or b"")
    assert back is not None and bare(json.loads(back)) == bare(WHOLES[name])
    if name == "gemini_generate":
        array = unfold(name, json.dumps(WHOLES[name]).encode(), array=True)
        assert json.loads(array or b"") == [GEMINI] and json.loads(fold(name, array or b"") or b"") == GEMINI


@pytest.mark.parametrize("name", NAMES)
def test_our_own_readers_read_the_same_from_both_forms(name: str) -> None:
    """Usage, model, finish and the end: what is booked does not depend on the form."""
    body = json.dumps(WHOLES[name]).encode()
    dialect = wire.DIALECTS[name]
    reader = dialect.reader(Asked(), False)
    reader.feed(unfold(name, body, usage_asked=True) or b"")
    reader.finish()
    got, want = reader.reading(), dialect.whole(200, body)
    assert reader.done and got.complete
    assert (got.model_served, got.finish, got.response_id, got.error) == (want.model_served, want.finish, want.response_id, "")
    assert isinstance(got.usage, Known) and isinstance(want.usage, Known) and got.usage.tokens == want.usage.tokens


@pytest.mark.parametrize(
    ("name", "stream"),
    [("openai_chat", CHAT), ("openai_chat", CHAT.replace(b"data: [DONE]\n\n", b"")), ("anthropic_messages", ANTHROPIC.replace(b"message_stop", b"ping")),
     ("openai_responses", RESPONSES.replace(b"response.completed", b"response.other")), ("openai_chat", b"data: {"), ("anthropic_messages", b"\xff"),
     ("anthropic_messages", b'data: {"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"x"}}\n\n'),
     ("gemini_generate", b'data: {"candidates":[{"content":{"parts":[]}}]}\n\n'), ("openai_chat", b'data: {"error":{"message":"x"}}\n\n'), ("passthrough", b"")],
)  # fmt: skip
def test_what_is_not_a_whole_stream_is_not_put_together(name: str, stream: bytes) -> None:
    """Cut, an error, or a shape that nobody knows: then nothing is kept. (The first one is whole.)"""
    folded = fold(name, stream)
    assert (folded is not None) == (stream is CHAT)


@pytest.mark.parametrize("name", ["openai_chat", "anthropic_messages", "openai_responses"])
def test_a_stream_without_its_last_event_is_not_whole(name: str) -> None:
    events = unfold(name, json.dumps(WHOLES[name]).encode()) or b""
    assert fold(name, events) is not None
    assert fold(name, events.rstrip(b"\n").rpartition(b"\n\n")[0] + b"\n\n") is None


def test_a_replay_has_an_id_of_its_own_unless_it_can_be_gone_on_from() -> None:
    """Clients take two replies with one id for one; a response's id leads to what the provider stored."""
    for name in NAMES:
        kept = Kept(json.dumps(WHOLES[name]).encode(), False, "m", 0, 1)
        headers, body = replay(name, kept, Asked(), "call9") or ([], b"")
        value = json.loads(body)
        assert dict(headers)[b"content-type"] == b"application/json"
        ident = value.get("responseId") or value["id"]
        assert ("call9" in ident) == (name != "openai_responses")
        assert {**value, "id": 0, "responseId": 0} == {**WHOLES[name], "id": 0, "responseId": 0}
        headers, body = replay(name, kept, Asked(stream=True), "call9") or ([], b"")
        assert b"event-stream" in dict(headers)[b"content-type"] and (b"call9" in body) == (name != "openai_responses")
    assert replay("openai_chat", Kept(b"{}", False, "m", 0, 1), Asked(stream=True), "c") is None
    headers, body = replay("gemini_generate", Kept(json.dumps(GEMINI).encode(), False, "m", 0, 1), Asked(stream=True), "c", array=True) or ([], b"")
    assert body[:1] == b"[" and dict(headers)[b"content-type"] == b"application/json"


def test_replies_that_ask_the_client_to_act_are_known() -> None:
    for name in NAMES:
        assert calls_tools(json.dumps(WHOLES[name], indent=2).encode())
    said = {"choices": [{"message": {"content": '"tool_calls":[{', "tool_calls": []}}]}
    assert not calls_tools(json.dumps(said).encode())
    assert not calls_tools(json.dumps({"output": [{"type": "web_search_call"}, {"type": "message"}]}).encode())
    assert not calls_tools(json.dumps({"content": [{"type": "text", "text": "x"}]}).encode())
    assert calls_tools(b"no JSON")


def test_recorded_streams_and_wholes_survive_the_change_of_form(data_dir: Path) -> None:
    """Every recorded good answer: folded or unfolded, our readers read the same tokens, model and finish from both."""
    forms: dict[tuple[str, bool], list[int]] = {}
    for row in exchanges(data_dir):
        name = SPOKEN[row["dialect"]]
        if name not in NAMES or row["status"] != 200 or row.get("response_truncated"):
            continue
        body = row["response_body"].encode()
        dialect = wire.DIALECTS[name]
        count = forms.setdefault((name, bool(row["stream"])), [0, 0])
        if row["stream"]:
            reader = dialect.reader(Asked(), False)
            reader.feed(body)
            reader.finish()
            was = reader.reading()
            if not (was.complete and reader.done and was.finish) or was.error:
                continue
            made = whole(name, body, True)
            if made is None:
                count[1] += 1
                continue
            now = dialect.whole(200, made)
        else:
            was = dialect.whole(200, body)
            if was.error or not was.finish:
                continue
            made = unfold(name, body, usage_asked=True)
            if made is None:
                count[1] += 1
                continue
            reader = dialect.reader(Asked(), False)
            reader.feed(made)
            reader.finish()
            now = reader.reading()
            assert reader.done, row["id"]
        count[0] += 1
        if isinstance(was.usage, Known) and not was.usage.contradiction and row["provider"] != "groq":
            assert isinstance(now.usage, Known) and now.usage.tokens == was.usage.tokens, (row["id"], was.usage, now.usage)
        assert (now.model_served, now.finish) == (was.model_served, was.finish), row["id"]
    print({f"{name} {'stream' if stream else 'whole'}": tuple(count) for (name, stream), count in forms.items()})
    assert sum(made for made, _ in forms.values()) > 3_500
    assert sum(not_ for _, not_ in forms.values()) < 60
