"""A reply, whole or streamed, is known again when it comes back in the next request."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, Reading
from bursar.domain.history import MODULUS, long_lines
from bursar.wire import canon
from bursar.wire.openai_history import SAID_MAX
from wire.talks import NAMES, Human, Says, history

texts = st.sampled_from(["", "Yes.", "a \"quoted\" \\ back\nnew line", "ünïcode 漢字 \U0001f600", "{\"a\": [1]}", "  spaces around \n", "x" * 700])
arguments = st.dictionaries(st.sampled_from(["a", "b\"c", "ключ"]), st.one_of(st.integers(-5, 5), st.sampled_from(["s", "\n\\\"", "漢"]), st.lists(st.booleans(), max_size=2)), max_size=3)  # fmt: skip
saying = st.builds(
    Says, texts, st.lists(st.tuples(st.sampled_from(["lookup", "track"]), arguments, st.just("r"), st.just(False)), max_size=3).map(tuple)
).filter(lambda s: bool(s.text.strip() or s.calls))  # fmt: skip


def pieces(text: str, chance: random.Random) -> list[str]:
    out = []
    while text:
        size = chance.choice((1, 2, 5, 40))
        out.append(text[:size])
        text = text[size:]
    return out


def dumps(value: Any, chance: random.Random) -> str:
    return json.dumps(value, ensure_ascii=chance.random() < 0.5, separators=(",", ":"))


def events(name: str, said: Says, chance: random.Random) -> bytes:
    """The stream in which a provider would say it."""
    out: list[str] = []

    def event(data: Any, kind: str = "") -> None:
        out.append((f"event: {kind}\n" if kind else "") + f"data: {dumps(data, chance)}\n\n")

    if name == "openai_chat":
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        if chance.random() < 0.3:
            event({**base, "choices": [{"index": 0, "delta": {"reasoning_content": "let me think"}, "finish_reason": None}]})
        for piece in pieces(said.text, chance):
            event({**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        for at, (tool, given, _, _) in enumerate(said.calls):
            event({**base, "choices": [{"index": 0, "delta": {"tool_calls": [{"index": at, "id": f"c{at}", "type": "function", "function": {"name": tool, "arguments": ""}}]}, "finish_reason": None}]})
            for piece in pieces(json.dumps(given), chance):
                event({**base, "choices": [{"index": 0, "delta": {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, "finish_reason": None}]})
        event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        out.append("data: [DONE]\n\n")
    elif name == "anthropic_messages":
        event({"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}}}, "message_start")
        index = 0
        if chance.random() < 0.3:
            event({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}, "content_block_start")
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}, "content_block_delta")
            event({"type": "content_block_stop", "index": 0}, "content_block_stop")
            index = 1
        if said.text:
            event({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}, "content_block_start")
            for piece in pieces(said.text, chance):
                event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}, "content_block_delta")
            event({"type": "content_block_stop", "index": index}, "content_block_stop")
        for at, (tool, given, _, _) in enumerate(said.calls, index + 1):
            event({"type": "content_block_start", "index": at, "content_block": {"type": "tool_use", "id": f"t{at}", "name": tool, "input": {}}}, "content_block_start")
            for piece in pieces(json.dumps(given), chance) if given else [""]:
                event({"type": "content_block_delta", "index": at, "delta": {"type": "input_json_delta", "partial_json": piece}}, "content_block_delta")
            event({"type": "content_block_stop", "index": at}, "content_block_stop")
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}, "message_delta")
        event({"type": "message_stop"}, "message_stop")
    elif name == "openai_responses":
        for piece in pieces(said.text, chance):
            event({"type": "response.output_text.delta", "delta": piece}, "response.output_text.delta")
        event({"type": "response.completed", "response": json.loads(whole(name, said))}, "response.completed")
    else:
        parts = [{"text": piece} for piece in pieces(said.text, chance)] + [{"functionCall": {"name": tool, "args": given}} for tool, given, _, _ in said.calls]
        if chance.random() < 0.3:
            parts.insert(0, {"text": "thinking", "thought": True})
        for part in parts:
            event({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}], "usageMetadata": {"promptTokenCount": 1}})
        event({"candidates": [{"content": {"parts": [], "role": "model"}, "finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}})
    return "".join(out).encode()


def whole(name: str, said: Says) -> bytes:
    """The same as one answer."""
    calls = [(f"c{n}", tool, given) for n, (tool, given, _, _) in enumerate(said.calls)]
    answer: dict[str, Any]
    if name == "openai_chat":
        message = {"role": "assistant", "content": said.text or None}
        if calls:
            message["tool_calls"] = [{"id": i, "type": "function", "function": {"name": tool, "arguments": json.dumps(given)}} for i, tool, given in calls]
        answer = {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    elif name == "openai_responses":
        output: list[dict[str, Any]] = [{"type": "reasoning", "id": "rs", "summary": []}]
        if said.text:
            output.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said.text, "annotations": []}]})
        output += [{"type": "function_call", "call_id": i, "name": tool, "arguments": json.dumps(given)} for i, tool, given in calls]
        answer = {"id": "r", "object": "response", "model": "m", "status": "completed", "output": output, "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
    elif name == "anthropic_messages":
        blocks: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        blocks += [{"type": "tool_use", "id": i, "name": tool, "input": given} for i, tool, given in calls]
        answer = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": blocks, "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}
    else:
        parts: list[dict[str, Any]] = [{"text": said.text}] if said.text else []
        parts += [{"functionCall": {"name": tool, "args": given}} for _, tool, given in calls]
        answer = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}}
    return json.dumps(answer).encode()


def known_again(name: str, said: Says, reading: Reading) -> None:
    """The request's chain, carried on by the reply, is where the next request says the reply ended."""
    asked = history(name, (Human("go"),))
    after = history(name, (Human("go"), said, Human("and?")))
    assert reading.reply is not None
    chain = (asked.end.chain * reading.reply.power + reading.reply.digest) % MODULUS
    assert chain in [mark.chain for mark in after.marks]
    asked_for = [canon.use("", tool, given)[0] for tool, given, _, _ in said.calls]
    assert [(use.name, use.digest) for use in reading.reply.uses] == [(use.name, use.digest) for use in asked_for]
    parts = [part & 0xFFFFFFFFFFFFFFFF for part in reading.reply.parts]
    with_results = history(name, (Human("go"), said))
    place = 1 if name != "openai_responses" else 1 + max(0, bool(said.text.strip()) + len(said.calls) - 3)
    assert list(with_results.digests[place : place + len(parts)]) == parts


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), said=saying, seed=st.integers(0, 1 << 30))
def test_a_streamed_reply_is_known_again(name: str, said: Says, seed: int) -> None:
    """In pieces of any size, with escapes or without, cut anywhere, calls side by side."""
    chance = random.Random(seed)
    data = events(name, said, chance)
    reader = wire.DIALECTS[name].reader(Asked(), False)
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 60, 900, 100_000))
        reader.feed(data[at : at + size])
        at += size
    reader.finish()
    known_again(name, said, reader.reading())


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), said=saying)
def test_a_whole_reply_is_known_again(name: str, said: Says) -> None:
    known_again(name, said, wire.DIALECTS[name].whole(200, whole(name, said)))


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_was_cut_is_not_taken_for_one(name: str) -> None:
    """The terminal event did not pass: nobody knows what the client has got."""
    data = events(name, Says("Half of a sentence"), random.Random(1))
    reader = wire.DIALECTS[name].reader(Asked(), False)
    reader.feed(data[: len(data) // 2])
    reader.finish()
    assert reader.reading().reply is None
    assert wire.DIALECTS[name].whole(500, b'{"error": {"message": "down"}}').reply is None


@pytest.mark.parametrize("name", ["openai_chat", "anthropic_messages", "gemini_generate"])
def test_a_streamed_reply_that_is_too_long_is_forgotten_not_kept(name: str) -> None:
    """A megabyte of text is the limit of what a stream is held for."""
    data = events(name, Says("y" * (SAID_MAX + 100)), random.Random(3))
    reader = wire.DIALECTS[name].reader(Asked(), False)
    for at in range(0, len(data), 1 << 16):
        reader.feed(data[at : at + (1 << 16)])
    reader.finish()
    assert reader.reading().reply is None and reader.reading().output_bytes > SAID_MAX


def test_one_of_several_choices_is_nobodys_reply() -> None:
    """Which of them the client takes, nobody knows."""
    answer = json.loads(whole("openai_chat", Says("a")))
    answer["choices"] *= 2
    assert wire.DIALECTS["openai_chat"].whole(200, json.dumps(answer).encode()).reply is None


def test_what_a_reply_hands_on_is_remembered_by_its_long_texts() -> None:
    """A task given to a sub-agent, a summary that the next history begins with."""
    task = "Find out why the parcel A-1 was not delivered on Monday."
    given = Says("", (("delegate", {"agent": "x", "tasks": [{"prompt": task}], "note": "short"}, "r", False),))
    reply = wire.DIALECTS["openai_chat"].whole(200, whole("openai_chat", given)).reply
    assert reply is not None and hash(task) in reply.prompts and len(reply.prompts) == 1
    summary = "The customer asked about two parcels.\n" + "\n".join(f"Line {n} says something that is long enough to be known again" for n in range(6))
    reply = wire.DIALECTS["openai_chat"].whole(200, whole("openai_chat", Says(summary))).reply
    carried = history("openai_chat", (Human(f"Here is a summary of what was said:\n<summary>\n{summary}\n</summary>\nGo on."),))
    assert reply is not None and set(long_lines(reply.text)) & set(carried.human_lines)
