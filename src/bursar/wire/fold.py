"""A reply that came as a stream, put together to the whole that the same provider would have sent. What cannot be put together
is None, and such a reply is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from . import sse
from .dialect import encode

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))


def events(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, data) of each event."""
    at = 0
    while at < len(stream):
        end = sse.BLANK.search(stream, at)
        piece = stream[at : end.end()] if end else stream[at:]
        at = end.end() if end else len(stream)
        if piece.strip():
            yield sse.parse(piece)


def fold(dialect: str, stream: bytes) -> bytes | None:
    """The whole answer as JSON; None where the stream is broken, an error, or of a shape nobody knows."""
    try:
        match dialect:
            case "openai_chat":
                whole = _chat(stream)
            case "openai_responses":
                whole = _responses(stream)
            case "anthropic_messages":
                whole = _anthropic(stream)
            case "gemini_generate":
                whole = _gemini(stream)
            case _:
                whole = None
    except (msgspec.DecodeError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return None  # strangers' bytes: whatever does not fit is not put together
    return encode(whole) if whole is not None else None


# Texts that come in pieces. Everything else in a delta is said once, or again in full.
_GROWS = frozenset(("content", "refusal", "reasoning_content", "reasoning", "arguments", "input"))


def _chat(stream: bytes) -> dict[str, Any] | None:
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    done = False
    for _, data in events(stream):
        if data.strip() == b"[DONE]":
            done = True
            continue
        if not data:
            continue
        chunk = _decode(data)
        if chunk.get("error"):
            return None
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                whole[name] = value
        for part in chunk.get("choices") or ():
            choice = choices.setdefault(part.get("index") or 0, {"index": part.get("index") or 0, "message": {"role": "assistant"}})
            _merge(choice["message"], part.get("delta") or {})
            for name, value in part.items():
                if name == "logprobs" and value is not None:
                    known = choice.setdefault("logprobs", {})
                    for kind, entries in value.items():
                        if entries is not None or kind not in known:
                            known[kind] = [*(known.get(kind) or []), *entries] if isinstance(entries, list) else entries
                elif name not in ("index", "delta") and (value is not None or name not in choice):
                    choice[name] = value
    if not done or not choices or any(not choice.get("finish_reason") for choice in choices.values()):
        return None
    for choice in choices.values():
        message = choice["message"]
        if "content" not in message:
            message["content"] = None
        if "tool_calls" in message:
            message["tool_calls"] = [_without_index(call) for call in message["tool_calls"]]
        choice.setdefault("logprobs", None)
    whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        known = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif name in _GROWS and isinstance(value, str) and isinstance(known, str):
            into[name] = known + value
        elif (
            isinstance(value, list) and value and all(isinstance(item, dict) and "index" in item for item in cast("list[Any]", value))
        ):
            calls = cast("list[dict[str, Any]]", into.setdefault(name, []))
            for item in cast("list[dict[str, Any]]", value):
                call = next((c for c in calls if c["index"] == item["index"]), None)
                if call is None:
                    call = {"index": item["index"]}
                    calls.append(call)
                _merge(call, {k: v for k, v in item.items() if k != "index"})
        elif isinstance(value, list) and isinstance(known, list):
            into[name] = [*cast("list[Any]", known), *cast("list[Any]", value)]
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge(cast("dict[str, Any]", known), cast("dict[str, Any]", value))
        else:
            into[name] = value


def _without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "index"}


def _responses(stream: bytes) -> dict[str, Any] | None:
    """The terminal event repeats the whole answer."""
    for name, data in events(stream):
        if not data or data.strip() == b"[DONE]":
            continue
        event = _decode(data)
        kind = event.get("type") or name.decode()
        if kind == "error":
            return None
        if kind in _TERMINAL:
            return event["response"]
    return None


def _anthropic(stream: bytes) -> dict[str, Any] | None:
    message: dict[str, Any] = {}  # nothing in it before message_start: then an event has nothing to go into
    arguments: dict[int, str] = {}
    done = False
    for _, data in events(stream):
        if not data:
            continue
        event = _decode(data)
        match event.get("type"):
            case "error":
                return None
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                _block(message["content"][event["index"]], event["delta"], arguments, event["index"])
            case "message_delta":
                message.update(event["delta"])
                stated: dict[str, Any] = event.get("usage") or {}
                message["usage"] = {**message["usage"], **{name: count for name, count in stated.items() if count is not None}}
                message.update({name: event[name] for name in ("context_management",) if name in event})
            case "message_stop":
                done = True
            case _:
                pass
    if not message or not done:
        return None
    for index, text in arguments.items():
        message["content"][index]["input"] = msgspec.json.decode(text.encode()) if text else {}
    return message


def _block(block: dict[str, Any], delta: dict[str, Any], arguments: dict[int, str], index: int) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        case "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "input_json_delta":
            arguments[index] = arguments.get(index, "") + delta["partial_json"]
        case _:
            raise KeyError("a delta nobody knows")


def _gemini(stream: bytes) -> dict[str, Any] | None:
    """Both forms: events, and a JSON array of the same."""
    if stream.lstrip()[:1] == b"[":
        pieces: list[dict[str, Any]] = msgspec.json.decode(stream, type=list[dict[str, Any]])
    else:
        pieces = [_decode(data) for _, data in events(stream) if data]
    whole: dict[str, Any] = {}
    candidates: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.get("error"):
            return None
        whole.update({name: value for name, value in piece.items() if name != "candidates"})
        for said in piece.get("candidates") or ():
            candidate = candidates.setdefault(said.get("index") or 0, {})
            for name, value in said.items():
                if name == "content":
                    content = candidate.setdefault("content", {"parts": [], "role": value.get("role", "model")})
                    for part in value.get("parts") or ():
                        _part(content["parts"], part)
                else:
                    candidate[name] = value
    if not candidates or any(not candidate.get("finishReason") for candidate in candidates.values()):
        return None
    return {"candidates": [candidates[index] for index in sorted(candidates)], **whole}


def _part(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Text goes on where text stands; whatever carries more than text, or is another kind of thought, is a part of its own."""
    plain = part.keys() <= {"text", "thought"} and isinstance(part.get("text"), str)
    last = parts[-1] if parts else {}
    if plain and last.keys() <= {"text", "thought"} and "text" in last and bool(last.get("thought")) is bool(part.get("thought")):
        last["text"] += part["text"]
    else:
        parts.append(dict(part))
