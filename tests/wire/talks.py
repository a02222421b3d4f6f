"""One conversation written for each API, the way its own SDK would send it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bursar import wire
from bursar.domain.call import Asked
from bursar.domain.history import History
from bursar.wire.history import Signs

PATHS = {
    "openai_chat": "/v1/chat/completions", "openai_responses": "/v1/responses", "anthropic_messages": "/v1/messages",
    "gemini_generate": "/v1beta/models/m:generateContent",
}  # fmt: skip
NAMES = tuple(PATHS)


class Human(NamedTuple):
    text: str


class Says(NamedTuple):
    """The assistant: a text, and calls as (tool, arguments, result, failed)."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any], str, bool], ...] = ()


Talk = tuple[Human | Says, ...]


def messages(name: str, talk: Talk) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    number = 0
    for part in talk:
        if isinstance(part, Human):
            out.append({
                "openai_chat": {"role": "user", "content": part.text},
                "openai_responses": {"role": "user", "content": [{"type": "input_text", "text": part.text}]},
                "anthropic_messages": {"role": "user", "content": part.text},
                "gemini_generate": {"role": "user", "parts": [{"text": part.text}]},
            }[name])  # fmt: skip
            continue
        ids = [f"call_{number + n}" for n in range(len(part.calls))]
        number += len(part.calls)
        if name == "openai_chat":
            message: dict[str, Any] = {"role": "assistant", "content": part.text or None}
            if part.calls:
                message["tool_calls"] = [
                    {"id": i, "type": "function", "function": {"name": tool, "arguments": json.dumps(given)}}
                    for i, (tool, given, _, _) in zip(ids, part.calls)
                ]  # fmt: skip
            out.append(message)
            out += [{"role": "tool", "tool_call_id": i, "content": result} for i, (_, _, result, _) in zip(ids, part.calls)]
        elif name == "openai_responses":
            if part.text:
                out.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": part.text, "annotations": []}]})
            for i, (tool, given, _, _) in zip(ids, part.calls):
                out.append({"type": "function_call", "call_id": i, "name": tool, "arguments": json.dumps(given)})
            out += [{"type": "function_call_output", "call_id": i, "output": result} for i, (_, _, result, _) in zip(ids, part.calls)]
        elif name == "anthropic_messages":
            blocks: list[dict[str, Any]] = [{"type": "text", "text": part.text}] if part.text else []
            blocks += [{"type": "tool_use", "id": i, "name": tool, "input": given} for i, (tool, given, _, _) in zip(ids, part.calls)]
            out.append({"role": "assistant", "content": blocks})
            if part.calls:
                out.append({"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": i, "content": [{"type": "text", "text": result}], **({"is_error": True} if failed else {})}
                    for i, (_, _, result, failed) in zip(ids, part.calls)
                ]})  # fmt: skip
        else:
            parts: list[dict[str, Any]] = [{"text": part.text}] if part.text else []
            parts += [{"functionCall": {"name": tool, "args": given}} for tool, given, _, _ in part.calls]
            out.append({"role": "model", "parts": parts})
            if part.calls:
                out.append({"role": "user", "parts": [
                    {"functionResponse": {"name": tool, "response": {"result": result}}} for tool, _, result, _ in part.calls
                ]})  # fmt: skip
    return out


def body(name: str, said: list[dict[str, Any]], system: str = "", tools: tuple[str, ...] = (), **more: Any) -> bytes:
    """A request. Separators as the SDKs write them."""
    given: dict[str, Any]
    if name == "openai_chat":
        given = {"model": "m", "messages": [*([{"role": "system", "content": system}] if system else []), *said]}
        if tools:
            given["tools"] = [{"type": "function", "function": {"name": tool}} for tool in tools]
    elif name == "openai_responses":
        given = {"model": "m", "input": said} | ({"instructions": system} if system else {})
        if tools:
            given["tools"] = [{"type": "function", "name": tool} for tool in tools]
    elif name == "anthropic_messages":
        given = {"model": "m", "max_tokens": 100, "messages": said} | ({"system": system} if system else {})
        if tools:
            given["tools"] = [{"name": tool, "input_schema": {}} for tool in tools]
    else:
        given = {"contents": said} | ({"systemInstruction": {"parts": [{"text": system}]}} if system else {})
        if tools:
            given["tools"] = [{"functionDeclarations": [{"name": tool} for tool in tools]}]
    return json.dumps(given | more, separators=(",", ":")).encode()


def asked(name: str, data: bytes, signs: Signs | None = None) -> Asked:
    found = wire.DIALECTS[name].read(PATHS[name], data, signs or Signs())
    assert isinstance(found, Asked), found
    return found


def history(name: str, talk: Talk, signs: Signs | None = None, **more: Any) -> History:
    found = asked(name, body(name, messages(name, talk), **more), signs).history
    assert found is not None
    return found
