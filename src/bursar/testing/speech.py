"""What a Say looks like on the wire, per dialect: whole bodies, stream events, error bodies. Written against the
providers' documentation and their SDKs, not against Bursar's readers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from . import speech_openai as openai
from .invoice import Buckets
from .script import Say, Seen
from .spoken import Piece, Speech, as_json, cut, data, event, spread

SPOILT = '{"decision": "refund", "amount": 12.5, "reason": "the parcel '  # what a malformed reply says instead of its text

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
        "openai.chat": openai.chat, "openai.responses": openai.responses, "openai.embeddings": openai.embeddings,
        "models": openai.models, "anthropic.messages": _messages, "anthropic.count": _count, "gemini": _gemini,
    }.get(seen.dialect)  # fmt: skip
    if dialect is None:
        return Speech(200, "application/json", [Piece(as_json({"ok": True, "path": seen.path}), 0)], Buckets())
    return dialect(seen, say, used, ident)


def refuse(dialect: str, say: Say) -> bytes:
    """An error body."""
    kind, code, anthropic, google = ERRORS.get(say.status, ERRORS[500 if say.status >= 500 else 400])
    message = say.message or f"scripted {say.status}"
    if dialect.startswith("anthropic"):
        return as_json(
            {
                "type": "error",
                "error": {"type": say.error or anthropic, "message": message},
                "request_id": "req_scripted",
            }
        )
    if dialect == "gemini":
        return as_json({"error": {"code": say.status, "message": message, "status": say.error or google}})
    return as_json({"error": {"message": message, "type": kind, "param": None, "code": say.error or code}})


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
        return Speech(say.status, "application/json", [Piece(as_json(message), used.output + used.reasoning)], used)

    # Input counters come first with a token of output, the cumulative output count comes last.
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 1} if say.tell_usage else {},
    }
    events = [event({"type": "message_start", "message": start})]
    for i, block in enumerate(blocks):
        if block["type"] == "text":
            opened, parts, delta, key = {"type": "text", "text": ""}, cut(say.text, say.pieces), "text_delta", "text"
        else:
            arguments = say.tools[i][1]
            opened, parts, delta, key = (
                {**block, "input": {}},
                cut(arguments, say.pieces),
                "input_json_delta",
                "partial_json",
            )
        events.append(event({"type": "content_block_start", "index": i, "content_block": opened}))
        if i == 0:
            events.append(event({"type": "ping"}))
        events += [
            event({"type": "content_block_delta", "index": i, "delta": {"type": delta, key: part}}) for part in parts
        ]
        events.append(event({"type": "content_block_stop", "index": i}))
    last: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": finish, "stop_sequence": None}}
    last["usage"] = {"output_tokens": used.output + used.reasoning} if say.tell_usage else {}
    events.append(event(last))
    events.append(event({"type": "message_stop"}))
    failed = event(
        {"type": "error", "error": {"type": say.error or "overloaded_error", "message": say.message or "Overloaded"}}
    )
    return Speech(say.status, "text/event-stream", spread(events, used), used, failed)


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # what a broken update would put there: a string where an object belongs


def _count(seen: Seen, say: Say, used: Buckets, ident: str) -> Speech:
    tokens = used.input + used.cache_read + used.cache_write + used.cache_write_1h
    return Speech(200, "application/json", [Piece(as_json({"input_tokens": tokens}), 0)], Buckets())


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
        return Speech(say.status, "application/json", [Piece(as_json(body), used.output + used.reasoning)], used)
    parts = [[call] for call in calls] or [[{"text": part}] for part in cut(say.text, say.pieces)]
    values = [chunk(part, finish if i == len(parts) - 1 else "") for i, part in enumerate(parts)]
    failed = {
        "error": {
            "code": 503,
            "message": say.message or "The model is overloaded.",
            "status": say.error or "UNAVAILABLE",
        }
    }
    if "alt=sse" in seen.query:
        return Speech(say.status, "text/event-stream", spread([data(v) for v in values], used), used, data(failed))
    events = [(b"[" if i == 0 else b",\r\n") + as_json(value) for i, value in enumerate(values)]
    events[-1] += b"]"
    return Speech(say.status, "application/json", spread(events, used), used, b"," + as_json(failed) + b"]")
