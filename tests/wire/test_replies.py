"""What we write ourselves: replies, refusals and early ends, read by the official SDKs as they read their provider."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from bursar import wire
from bursar.domain.call import Asked
from bursar.domain.usage import Tokens
from bursar.domain.verdict import refuse

from .streams import CHAT, GEMINI, RESPONSES

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]


def transport(reply: Reply, calls: list[httpx2.Request] | None = None) -> httpx2.Client:
    status, headers, body = reply

    def handle(request: httpx2.Request) -> httpx2.Response:
        if calls is not None:
            calls.append(request)
        return httpx2.Response(status, headers=headers, content=body)

    return httpx2.Client(transport=httpx2.MockTransport(handle))


def ask_openai(reply: Reply, calls: list[Any] | None = None) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", http_client=transport(reply, calls), base_url="http://bursar.test/v1")


def ask_anthropic(reply: Reply, calls: list[Any] | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", http_client=transport(reply, calls), base_url="http://bursar.test")


def ask_gemini(reply: Reply, calls: list[Any] | None = None) -> genai.Client:
    options = genai_types.HttpOptions(base_url="http://bursar.test", httpx_client=transport(reply, calls))
    return genai.Client(api_key="k", http_options=options)


MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


def chat(reply: Reply, stream: bool, calls: list[Any] | None = None) -> tuple[str, str | None]:
    client = ask_openai(reply, calls).chat.completions
    if not stream:
        answer = client.create(model="m", messages=MESSAGES)
        assert answer.usage is not None and answer.usage.total_tokens == 0
        return answer.choices[0].message.content or "", answer.choices[0].finish_reason
    chunks = [c for c in client.create(model="m", messages=MESSAGES, stream=True) if c.choices]
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    return text, chunks[-1].choices[0].finish_reason


def responses(reply: Reply, stream: bool, calls: list[Any] | None = None) -> tuple[str, str | None]:
    client = ask_openai(reply, calls).responses
    if not stream:
        answer = client.create(model="m", input="hi")
        return answer.output_text, answer.status
    events = list(client.create(model="m", input="hi", stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    return text, events[-1].response.status  # type: ignore[union-attr]


def messages(reply: Reply, stream: bool, calls: list[Any] | None = None) -> tuple[str, str | None]:
    client = ask_anthropic(reply, calls).messages
    if not stream:
        answer = client.create(model="m", max_tokens=9, messages=MESSAGES)
        return answer.content[0].text, answer.stop_reason  # type: ignore[union-attr]
    with client.stream(model="m", max_tokens=9, messages=MESSAGES) as told:
        final = told.get_final_message()
    return "".join(b.text for b in final.content if b.type == "text"), final.stop_reason


def gemini(reply: Reply, stream: bool, calls: list[Any] | None = None) -> tuple[str, str | None]:
    client = ask_gemini(reply, calls).models
    if not stream:
        answer = client.generate_content(model="m", contents="hi")
        return answer.text or "", answer.candidates[0].finish_reason.name  # type: ignore[index,union-attr]
    parts = list(client.generate_content_stream(model="m", contents="hi"))
    text = "".join(p.text or "" for p in parts)
    return text, parts[-1].candidates[0].finish_reason.name  # type: ignore[index,union-attr]


SDKS: dict[str, Callable[..., tuple[str, str | None]]] = {
    "openai_chat": chat,
    "openai_responses": responses,
    "anthropic_messages": messages,
    "gemini_generate": gemini,
}
NORMAL = {"openai_chat": "stop", "openai_responses": "completed", "anthropic_messages": "end_turn", "gemini_generate": "STOP"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", SDKS)
def test_a_reply_of_ours_is_a_normal_answer_to_the_sdk(name: str, stream: bool) -> None:
    text = 'This conversation is over its budget.\n"Ask" a person: ф.'
    headers, body = wire.DIALECTS[name].say(text, Asked(stream=stream, usage_asked=True), "m", "01890a5d")
    assert SDKS[name]((200, headers, body), stream) == (text, NORMAL[name])


@pytest.mark.parametrize("name", SDKS)
def test_a_reply_of_ours_reads_as_zero_tokens_in_our_own_reader(name: str) -> None:
    """Zero was said, so zero is known."""
    for stream in (False, True):
        _, body = wire.DIALECTS[name].say("x", Asked(stream=stream, usage_asked=True), "m", "1")
        reading = wire.DIALECTS[name].whole(200, body)
        assert reading.usage.tokens == Tokens() and reading.complete and not reading.error, (stream, reading)  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", SDKS)
def test_a_budget_stop_raises_once_and_says_code_reason_and_remedy(name: str, stream: bool) -> None:
    """402, one call at the wire: no SDK asks again."""
    refusal = refuse("budget_exceeded", "budget 'team' is spent: $50 of $50", "raise it or wait until Monday")
    headers, body = wire.DIALECTS[name].refuse(refusal)
    calls: list[Any] = []
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, genai_errors.ClientError)) as raised:
        SDKS[name]((refusal.status, headers, body), stream, calls)
    assert len(calls) == 1
    assert "budget 'team' is spent" in str(raised.value) and "until Monday" in str(raised.value)
    assert b"budget_exceeded" in body and dict(headers)[b"x-should-retry"] == b"false" and b"retry-after" not in dict(headers)
    if name.startswith("openai"):
        assert raised.value.code == "budget_exceeded"  # type: ignore[union-attr]
    if name == "anthropic_messages":
        assert json.loads(body)["error"]["type"] == "billing_error"


@pytest.mark.parametrize("name", wire.DIALECTS)
def test_a_rate_limit_says_when_and_every_refusal_is_read_back_by_us(name: str) -> None:
    refusal = refuse("rate_limited", "too many calls", "slow down", 7)
    headers, body = wire.DIALECTS[name].refuse(refusal)
    assert dict(headers)[b"retry-after"] == b"7" and b"x-should-retry" not in dict(headers)
    reading = wire.DIALECTS[name].whole(429, body)
    assert reading.error and "too many calls" in reading.error_message


EARLY = {
    "openai_chat": "length",
    "openai_responses": "incomplete",
    "anthropic_messages": "max_tokens",
    "gemini_generate": "MAX_TOKENS",
}
RUNNING = {
    "openai_chat": CHAT[: CHAT.index(b"data:", 9) + 30],
    "openai_responses": RESPONSES[: RESPONSES.index(b"event: response.completed") + 9],
    "anthropic_messages": (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"a","type":"message","role":"assistant","model":"m",'
        b'"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":1}}}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"mess'
    ),
    "gemini_generate": GEMINI[: GEMINI.index(b"data:", 9) + 9],
}  # fmt: skip


@pytest.mark.parametrize("name", SDKS)
def test_a_running_stream_is_ended_so_that_the_sdk_sees_a_normal_end(name: str) -> None:
    """Cut in the middle of an event: what was relayed plus our ending is a whole stream that stopped at its cap."""
    reader = wire.DIALECTS[name].reader(Asked(stream=True, usage_asked=True, model="m"), False)
    relayed = reader.feed(RUNNING[name])
    assert relayed and relayed != RUNNING[name]
    ending = reader.close_early("budget_exceeded", Tokens(input=7, output=3))
    _, finish = SDKS[name]((200, [(b"content-type", b"text/event-stream")], relayed + ending), True)
    assert finish == EARLY[name]
    again = wire.DIALECTS[name].reader(Asked(), False)
    again.feed(relayed + ending)
    again.finish()
    assert again.done and again.reading().usage.tokens.output_total == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SDKS)
def test_a_stream_that_has_not_begun_can_be_ended_too(name: str) -> None:
    reader = wire.DIALECTS[name].reader(Asked(stream=True, model="m"), False)
    ending = reader.close_early("budget_exceeded")
    assert SDKS[name]((200, [(b"content-type", b"text/event-stream")], ending), True)[1] == EARLY[name]


def test_an_array_stream_is_ended_as_an_array() -> None:
    for begun in (b"", b'[{"candidates":[]}', b'[{"candidates":[]}\n,\n{"candi'):
        reader = wire.DIALECTS["gemini_generate"].reader(Asked(stream=True, model="m"), False)
        out = reader.feed(begun or b"[") + reader.close_early("x")
        told = json.loads(out if begun else b"[" + out.removeprefix(b"["))
        assert told[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
