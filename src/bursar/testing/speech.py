"""What a Say looks like on the wire, per dialect: whole bodies, stream events, error bodies. Written against the
providers' documentation and their SDKs, not against Bursar's readers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from .invoice import Buckets
from .script import Say, Seen


class Piece(NamedTuple):
    """Some bytes of a body, and how many output tokens have been made once they are out."""

    data: bytes
    made: int


class Speech(NamedTuple):
    """An answer ready to be sent: one piece for a whole body, many for a stream, the last its terminal event."""

    status: int
    content_type: str
    pieces: list[Piece]
    used: Buckets
    error_event: bytes = b""  # what this dialect sends in a stream that fails


SPOILT = '{"decision": "refund", "amount": 12.5, "reason": "the parcel '  # what a malformed reply says instead of its text
CREATED = 1_790_000_000  # a fixed date in bodies: the same script gives the same bytes

ERRORS = {  # status -> (OpenAI type, code; Anthropic type; Gemini status)
    400: ("invalid_request_error", "invalid_value", "invalid_request_error", "INVALID_ARGUMENT"),
    401: ("invalid_request_error", "invalid_api_key", "authentication_error", "UNAUTHENTICATED"),
    403: ("invalid_request_error", "permission_denied", "permission_error", "PERMISSION_DENIED"),
    404: ("invalid_request_error", "model_not_found", "not_found_error", "NOT_FOUND"),
    413: ("invalid_request_error", "request_too_large", "request_too_large", "INVALID_ARGUMENT"),
    429: ("rate_limit_error", "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"),
    500: ("server_error", "server_error", "api_error", "INTERNAL"),
    503: ("server_error", "overloaded", "overloaded_error", "UNAVAILABLE"),
    529: ("server_error", "overloaded", "overloaded_error", "UNAVAILABLE"),
}


def speak(seen: Seen, say: Say, ident: str) -> Speech:
    """The answer in the dialect that was asked. `ident` makes ids unique and repeatable."""
    if say.status >= 400:
        return Speech(say.status, "application/json", [Piece(refuse(seen.dialect, say), 0)], Buckets())
    if say.fault == "not_json":
        page = b"<html><body><h1>Service temporarily unavailable</h1></body></html>"
        return Speech(say.status, "text/html", [Piece(page, 0)], Buckets())
    if say.fault == "malformed":
        say = _spoiled(say)
    used = say.usage if say.usage is not None else _counted(seen, say)
    dialect = {
        "openai.chat": _chat, "openai.responses": _responses, "openai.embeddings": _embeddings,
        "anthropic.messages": _messages, "anthropic.count": _count, "gemini": _gemini, "models": _models,
    }.get(seen.dialect)  # fmt: skip
    if dialect is None:
        return Speech(200, "application/json", [Piece(_json({"ok": True, "path": seen.path}), 0)], Buckets())
    return dialect(seen, say, used, ident)


def refuse(dialect: str, say: Say) -> bytes:
    """An error body."""
    kind, code, anthropic, google = ERRORS.get(say.status, ERRORS[500 if say.status >= 500 else 400])
    message = say.message or f"scripted {say.status}"
    if dialect.startswith("anthropic"):
        return _json(
            {
                "type": "error",
                "error": {"type": say.error or anthropic, "message": message},
                "request_id": "req_scripted",
            }
        )
    if dialect == "gemini":
        return _json({"error": {"code": say.status, "message": message, "status": say.error or google}})
    return _json({"error": {"message": message, "type": kind, "param": None, "code": say.error or code}})


def _spoiled(say: Say) -> Say:
    if say.tools:
        name, arguments = say.tools[-1]
        return replace(say, tools=(*say.tools[:-1], (name, arguments.rstrip("}") + ', "note": "unterm')))
    return replace(say, text=SPOILT)


def _counted(seen: Seen, say: Say) -> Buckets:
    if seen.dialect == "openai.embeddings":
        return Buckets(input=len(seen.raw) // 4 + 1)
    return Buckets(
        input=len(seen.raw) // 4 + 1,
        output=(len(say.text.encode()) + sum(len(arguments) for _, arguments in say.tools)) // 4 + 1,
    )


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _json(value: Any) -> bytes:
    return _encoder.encode(value).encode()


def _cut(text: str, count: int) -> list[str]:
    """`count` parts of nearly the same length, none empty (fewer when the text is shorter)."""
    count = max(1, min(count, len(text)))
    edges = [len(text) * i // count for i in range(count + 1)]
    return [text[a:b] for a, b in pairwise(edges) if b > a]


def _spread(events: list[bytes], used: Buckets) -> list[Piece]:
    """Output tokens come evenly with the events; the last one has them all."""
    total = used.output + used.reasoning
    return [Piece(event, total * (i + 1) // len(events)) for i, event in enumerate(events)]


def _data(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"event: " + value["type"].encode() + b"\n" + _data(value)


# OpenAI


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


def _chat(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
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
        return Speech(say.status, "application/json", [Piece(_json(body), used.output + used.reasoning)], used)

    asked = bool(((seen.body or {}).get("stream_options") or {}).get("include_usage"))

    def chunk(delta: dict[str, Any], done: str | None = None) -> bytes:
        value: dict[str, Any] = {
            **common,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": done}],
        }
        if asked:
            value["usage"] = None
        return _data(value)

    events = [chunk({"role": "assistant", "content": None if calls else "", "refusal": None})]
    if calls:
        for i, call in enumerate(calls):
            function = {"name": call["function"]["name"], "arguments": ""}
            events.append(chunk({"tool_calls": [{"index": i, **call, "function": function}]}))
            for part in _cut(call["function"]["arguments"], say.pieces):
                events.append(chunk({"tool_calls": [{"index": i, "function": {"arguments": part}}]}))
    else:
        events += [chunk({"content": part}) for part in _cut(say.text, say.pieces)]
    events.append(chunk({}, finish))
    if asked and say.tell_usage:
        events.append(_data({**common, "object": "chat.completion.chunk", "choices": [], "usage": _chat_usage(used)}))
    events.append(b"data: [DONE]\n\n")
    failed = _data(
        {
            "error": {
                "message": say.message or "The server had an error",
                "type": "server_error",
                "code": say.error or None,
            }
        }
    )
    return Speech(say.status, "text/event-stream", _spread(events, used), used, failed)


def _responses(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
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
        return Speech(say.status, "application/json", [Piece(_json(done), used.output + used.reasoning)], used)

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
                {"type": f"{kind}.delta", **place, "delta": part} for part in _cut(item["arguments"], say.pieces)
            ]
            values.append({"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]})
        else:
            place["content_index"] = 0
            empty = {**item["content"][0], "text": ""}
            values.append({"type": "response.content_part.added", **place, "part": empty})
            values += [
                {"type": "response.output_text.delta", **place, "delta": part, "logprobs": []}
                for part in _cut(say.text, say.pieces)
            ]
            values.append({"type": "response.output_text.done", **place, "text": say.text, "logprobs": []})
            values.append({"type": "response.content_part.done", **place, "part": item["content"][0]})
        values.append({"type": "response.output_item.done", "output_index": at, "item": item})
    values.append({"type": "response.incomplete" if incomplete else "response.completed", "response": done})
    events = [_event({**value, "sequence_number": number}) for number, value in enumerate(values)]
    failed = _event({
        "type": "error", "code": say.error or "server_error", "message": say.message or "The server had an error",
        "param": None, "sequence_number": 99,
    })  # fmt: skip
    return Speech(say.status, "text/event-stream", _spread(events, used), used, failed)


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


def _embeddings(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    asked = (seen.body or {}).get("input", "")
    count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
    # Four dimensions are enough to be a vector; base64, which the OpenAI SDK asks for, is four little-endian floats.
    vector: Any = [0.5, -0.5, 0.5, -0.5]
    if (seen.body or {}).get("encoding_format") == "base64":
        vector = "AAAAPwAAAL8AAAA/AAAAvw=="
    body: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i in range(count)],
        "model": say.model or seen.model,
    }
    if say.tell_usage:
        body["usage"] = {"prompt_tokens": used.input, "total_tokens": used.input}
    return Speech(say.status, "application/json", [Piece(_json(body), 0)], used)


def _models(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    listed = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"} for name in ("gpt-5-mini", "gpt-5")
    ]
    return Speech(200, "application/json", [Piece(_json({"object": "list", "data": listed}), 0)], Buckets())


# Anthropic


def _messages(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    finish = say.finish or ("tool_use" if say.tools else "end_turn")
    written = used.cache_write + used.cache_write_1h
    usage: dict[str, Any] = {
        "input_tokens": used.input,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write,
            "ephemeral_1h_input_tokens": used.cache_write_1h,
        },
        "output_tokens": used.output + used.reasoning,
        "service_tier": "standard",
    }
    blocks: list[dict[str, Any]] = [{"type": "text", "text": say.text}] if not say.tools else []
    for i, (name, arguments) in enumerate(say.tools):
        blocks.append({"type": "tool_use", "id": f"toolu_{ident}_{i}", "name": name, "input": _object(arguments)})
    message: dict[str, Any] = {
        "id": f"msg_{ident}", "type": "message", "role": "assistant", "model": say.model or seen.model,
        "content": blocks, "stop_reason": finish, "stop_sequence": None,
    }  # fmt: skip
    if not seen.stream:
        if say.tell_usage:
            message["usage"] = usage
        return Speech(say.status, "application/json", [Piece(_json(message), used.output + used.reasoning)], used)

    # Input counters come first with a token of output, the cumulative output count comes last.
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 1} if say.tell_usage else {},
    }
    events = [_event({"type": "message_start", "message": start})]
    for i, block in enumerate(blocks):
        if block["type"] == "text":
            opened, parts, delta, key = {"type": "text", "text": ""}, _cut(say.text, say.pieces), "text_delta", "text"
        else:
            arguments = say.tools[i][1]
            opened, parts, delta, key = (
                {**block, "input": {}},
                _cut(arguments, say.pieces),
                "input_json_delta",
                "partial_json",
            )
        events.append(_event({"type": "content_block_start", "index": i, "content_block": opened}))
        if i == 0:
            events.append(_event({"type": "ping"}))
        events += [
            _event({"type": "content_block_delta", "index": i, "delta": {"type": delta, key: part}}) for part in parts
        ]
        events.append(_event({"type": "content_block_stop", "index": i}))
    last: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": finish, "stop_sequence": None}}
    last["usage"] = {"output_tokens": used.output + used.reasoning} if say.tell_usage else {}
    events.append(_event(last))
    events.append(_event({"type": "message_stop"}))
    failed = _event(
        {"type": "error", "error": {"type": say.error or "overloaded_error", "message": say.message or "Overloaded"}}
    )
    return Speech(say.status, "text/event-stream", _spread(events, used), used, failed)


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # what a broken update would put there: a string where an object belongs


def _count(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    tokens = used.input + used.cache_read + used.cache_write + used.cache_write_1h
    return Speech(200, "application/json", [Piece(_json({"input_tokens": tokens}), 0)], Buckets())


# Gemini


def _gemini(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    usage: dict[str, Any] = {
        "promptTokenCount": used.input + used.cache_read,
        "candidatesTokenCount": used.output,
        "totalTokenCount": used.input + used.cache_read + used.output + used.reasoning,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": used.input + used.cache_read}],
    }
    if used.cache_read:
        usage["cachedContentTokenCount"] = used.cache_read
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": used.cache_read}]
    if used.reasoning:
        usage["thoughtsTokenCount"] = used.reasoning

    def chunk(parts: list[dict[str, Any]], finish: str = "") -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        value: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": say.model or seen.model,
            "responseId": ident,
        }
        if say.tell_usage:
            value["usageMetadata"] = usage if finish else {"promptTokenCount": usage["promptTokenCount"]}
        return value

    finish = say.finish or "STOP"
    calls = [{"functionCall": {"name": name, "args": _object(arguments)}} for name, arguments in say.tools]
    if not seen.stream:
        body = chunk(calls or [{"text": say.text}], finish)
        return Speech(say.status, "application/json", [Piece(_json(body), used.output + used.reasoning)], used)
    parts = [[call] for call in calls] or [[{"text": part}] for part in _cut(say.text, say.pieces)]
    values = [chunk(part, finish if i == len(parts) - 1 else "") for i, part in enumerate(parts)]
    failed = {
        "error": {
            "code": 503,
            "message": say.message or "The model is overloaded.",
            "status": say.error or "UNAVAILABLE",
        }
    }
    if "alt=sse" in seen.query:
        return Speech(say.status, "text/event-stream", _spread([_data(v) for v in values], used), used, _data(failed))
    events = [(b"[" if i == 0 else b",\r\n") + _json(value) for i, value in enumerate(values)]
    events[-1] += b"]"
    return Speech(say.status, "application/json", _spread(events, used), used, b"," + _json(failed) + b"]")
