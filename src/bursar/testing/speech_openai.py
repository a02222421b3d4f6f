"""OpenAI's answers: chat completions, responses, embeddings and the list of models, whole and streamed."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from functools import lru_cache
from typing import Any

from .invoice import Buckets
from .script import Say, Seen
from .spoken import CREATED, Piece, Speech, as_json, cut, data, event, spread


def _chat_usage(used: Buckets) -> dict[str, Any]:
    prompt, completion = used.input + used.cache_read, used.output + used.reasoning
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": used.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": used.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def chat(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    model = say.model or seen.model
    finish = say.finish or ("tool_calls" if say.tools else "stop")
    calls = [
        {"id": f"call_{ident}_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(say.tools)
    ]
    common = {"id": f"chatcmpl-{ident}", "created": CREATED, "model": model, "service_tier": "default"}
    if not seen.stream:
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else say.text, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        body = {
            **common,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        }
        if say.tell_usage:
            body["usage"] = _chat_usage(used)
        return Speech(say.status, "application/json", [Piece(as_json(body), used.output + used.reasoning)], used)

    asked = bool(((seen.body or {}).get("stream_options") or {}).get("include_usage"))

    def chunk(delta: dict[str, Any], done: str | None = None) -> bytes:
        value: dict[str, Any] = {
            **common,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": done}],
        }
        if asked:
            value["usage"] = None
        return data(value)

    events = [chunk({"role": "assistant", "content": None if calls else "", "refusal": None})]
    if calls:
        for i, call in enumerate(calls):
            function = {"name": call["function"]["name"], "arguments": ""}
            events.append(chunk({"tool_calls": [{"index": i, **call, "function": function}]}))
            for part in cut(call["function"]["arguments"], say.pieces):
                events.append(chunk({"tool_calls": [{"index": i, "function": {"arguments": part}}]}))
    else:
        events += [chunk({"content": part}) for part in cut(say.text, say.pieces)]
    events.append(chunk({}, finish))
    if asked and say.tell_usage:
        events.append(data({**common, "object": "chat.completion.chunk", "choices": [], "usage": _chat_usage(used)}))
    events.append(b"data: [DONE]\n\n")
    failed = data(
        {
            "error": {
                "message": say.message or "The server had an error",
                "type": "server_error",
                "code": say.error or None,
            }
        }
    )
    return Speech(say.status, "text/event-stream", spread(events, used), used, failed)


def responses(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    model = say.model or seen.model
    if say.tools:
        items: list[dict[str, Any]] = [
            {
                "id": f"fc_{ident}_{i}", "type": "function_call", "status": "completed",
                "call_id": f"call_{ident}_{i}", "name": name, "arguments": arguments,
            }
            for i, (name, arguments) in enumerate(say.tools)
        ]  # fmt: skip
    else:
        part = {"type": "output_text", "text": say.text, "annotations": [], "logprobs": []}
        items = [
            {"id": f"msg_{ident}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        ]
    usage = {
        "input_tokens": used.input + used.cache_read,
        "input_tokens_details": {"cached_tokens": used.cache_read},
        "output_tokens": used.output + used.reasoning,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.cache_read + used.output + used.reasoning,
    }
    body = _before_input(seen)
    incomplete = {"reason": "max_output_tokens"} if say.finish == "length" else None
    base: dict[str, Any] = {
        "id": f"resp_{ident}", "object": "response", "created_at": CREATED, "status": "in_progress",
        "background": False,
        "error": None, "incomplete_details": None, "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"), "model": model, "output": [], "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"), "reasoning": {"effort": None, "summary": None},
        "service_tier": "default", "store": True, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": body.get("tools", []), "top_p": 1.0, "truncation": "disabled", "usage": None,
        "user": None, "metadata": body.get("metadata") or {},
    }  # fmt: skip
    done = {
        **base,
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": incomplete,
        "output": items,
        "usage": usage if say.tell_usage else None,
    }
    if not seen.stream:
        return Speech(say.status, "application/json", [Piece(as_json(done), used.output + used.reasoning)], used)

    values: list[dict[str, Any]] = [
        {"type": "response.created", "response": base},
        {"type": "response.in_progress", "response": base},
    ]
    for at, item in enumerate(items):
        if item["type"] == "function_call":
            opened: dict[str, Any] = {**item, "status": "in_progress", "arguments": ""}
        else:
            opened = {**item, "status": "in_progress", "content": []}
        place: dict[str, Any] = {"item_id": item["id"], "output_index": at}
        values.append({"type": "response.output_item.added", "output_index": at, "item": opened})
        if item["type"] == "function_call":
            kind = "response.function_call_arguments"
            values += [
                {"type": f"{kind}.delta", **place, "delta": part} for part in cut(item["arguments"], say.pieces)
            ]
            values.append({"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]})
        else:
            place["content_index"] = 0
            empty = {**item["content"][0], "text": ""}
            values.append({"type": "response.content_part.added", **place, "part": empty})
            values += [
                {"type": "response.output_text.delta", **place, "delta": part, "logprobs": []}
                for part in cut(say.text, say.pieces)
            ]
            values.append({"type": "response.output_text.done", **place, "text": say.text, "logprobs": []})
            values.append({"type": "response.content_part.done", **place, "part": item["content"][0]})
        values.append({"type": "response.output_item.done", "output_index": at, "item": item})
    values.append({"type": "response.incomplete" if incomplete else "response.completed", "response": done})
    events = [event({**value, "sequence_number": number}) for number, value in enumerate(values)]
    failed = event({
        "type": "error", "code": say.error or "server_error", "message": say.message or "The server had an error",
        "param": None, "sequence_number": 99,
    })  # fmt: skip
    return Speech(say.status, "text/event-stream", spread(events, used), used, failed)


def _before_input(seen: Seen) -> dict[str, Any]:
    """What an answer repeats of its request. An agent's requests begin alike, so that a beginning is decoded once: the rest is
    its history, and grows."""
    at = seen.raw.find(b',"input":[')
    found = _members(seen.raw[:at] + b"}") if at > 0 else None
    return found or seen.body or {}


@lru_cache(maxsize=64)
def _members(raw: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(raw)
    except ValueError:
        return None  # that input was not the request's own


def embeddings(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    asked = (seen.body or {}).get("input", "")
    several = isinstance(asked, list) and asked and not isinstance(asked[0], int)
    plain = (seen.body or {}).get("encoding_format") != "base64"
    vectors = [_vector(one, plain) for one in (asked if several else [asked])]
    body: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
        "model": say.model or seen.model,
    }
    if say.tell_usage:
        body["usage"] = {"prompt_tokens": used.input, "total_tokens": used.input}
    return Speech(say.status, "application/json", [Piece(as_json(body), 0)], used)


def _vector(text: object, plain: bool) -> Any:
    """Four dimensions are enough to be a vector, another one for another text; base64, which the OpenAI SDK asks for, is four
    little-endian floats."""
    digest = hashlib.blake2s(as_json(text), digest_size=8).digest()
    numbers = [(digest[n] * 256 + digest[n + 1] - 32_768) / 65_536 for n in range(0, 8, 2)]
    return numbers if plain else base64.b64encode(struct.pack("<4f", *numbers)).decode()


def models(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    listed = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"} for name in ("gpt-5-mini", "gpt-5")
    ]
    return Speech(200, "application/json", [Piece(as_json({"object": "list", "data": listed}), 0)], Buckets())
