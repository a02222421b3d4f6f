"""What of a request decides its answer, per dialect: two bodies with the same canonical bytes ask the same thing.

Everything counts but what is named here, so that a parameter we have never heard of can at worst cost a hit. What does not
count: how JSON is written (spaces between tokens, escapes, the order of members), who asks and why (user, metadata), how the
answer travels (stream), what it is billed at (service tier), prompt-cache hints, and the ids by which calls and their results
find each other, which become their order of appearance. Spaces inside of text count."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..domain.call import Headers
from ..domain.reply import Question
from . import places
from .dialect import encode

_CACHE = ("cache_control", "prompt_cache_key", "prompt_cache_retention")
_WHO = ("user", "safety_identifier", "metadata")
# `store` counts in responses: a stored reply can be gone on from, one that was not stored cannot.
LEFT_OUT: dict[str, frozenset[str]] = {
    "openai_chat": frozenset((*_WHO, *_CACHE, "stream", "stream_options", "service_tier", "store")),
    "openai_responses": frozenset((*_WHO, *_CACHE, "stream", "stream_options", "service_tier")),
    "openai_embeddings": frozenset(_WHO),
    "anthropic_messages": frozenset((*_WHO, *_CACHE, "stream", "service_tier")),
    "gemini_generate": frozenset(("labels",)),
}
# Request headers that change what a provider answers.
HEADERS = (b"anthropic-version", b"anthropic-beta", b"openai-beta", b"x-goog-api-version")

_IDS = frozenset(("id", "call_id", "tool_call_id", "tool_use_id"))
_LISTS = ("messages", "input", "contents", "system", "tools")

# Members that would make two questions of one body if it named them twice. The model is looked at by `body.read`.
_ONCE: dict[str, tuple[bytes, ...]] = {
    "openai_chat": (b'"messages"', b'"tools"', b'"temperature"', b'"response_format"'),
    "openai_responses": (b'"input"', b'"instructions"', b'"tools"', b'"temperature"'),
    "openai_embeddings": (b'"input"',),
    "anthropic_messages": (b'"messages"', b'"system"', b'"tools"', b'"temperature"'),
    "gemini_generate": (b'"contents"', b'"tools"', b'"systemInstruction"', b'"temperature"'),
}

_decoder = msgspec.json.Decoder(dict[str, Any])
_sorted = msgspec.json.Encoder(order="sorted")


def question(dialect: str, body: bytes) -> Question | None:
    """None for a dialect whose answers are not kept, and for a body that names something twice: two readers could take it for
    two questions. The body is one that its dialect has read without complaint."""
    left_out = LEFT_OUT.get(dialect)
    if left_out is None:
        return None
    for name in _ONCE[dialect]:
        if body.count(name) > 1 and not places.top(body):
            return None
    members = _decoder.decode(body)
    for name in left_out:
        members.pop(name, None)
    if b'id"' in body or b'"cache_control"' in body or b'"status"' in body:
        order: dict[str, int] = {}
        for name in _LISTS:
            if name in members:
                members[name] = _nested(members[name], order)
    tuned: Any = members
    if dialect == "gemini_generate":
        tuned = members.get("generationConfig") or members.get("generation_config") or {}
    temperature: Any = tuned.get("temperature")
    heat = float(temperature) if isinstance(temperature, int | float) else None
    return Question(_sorted.encode(members), heat, tuned.get("seed") is not None)


def _nested(value: Any, order: dict[str, int]) -> Any:
    """Without cache marks; ids of calls as numbers in order of appearance. Below arguments nothing is an id of ours."""
    if isinstance(value, list):
        return [_nested(item, order) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, inner in cast("dict[str, Any]", value).items():
        if name == "cache_control" or (name == "status" and "type" in value):
            continue
        if name in _IDS and isinstance(inner, str):
            found[name] = order.setdefault(inner, len(order))
        elif name in ("input", "arguments", "args", "response", "parameters", "input_schema"):
            found[name] = inner
        else:
            found[name] = _nested(inner, order)
    return found


def framed(dialect: str, body: bytes) -> tuple[bytes, str] | None:
    """(everything else that counts, the newest human text) of a request whose last message is plain words of a human; None for
    any other. Two requests with the same frame differ in these words alone."""
    members = _decoder.decode(body)
    text = _newest(dialect, members)
    if text is None:
        return None
    asked = question(dialect, encode(members))
    return (asked.canon, text) if asked is not None else None


def newest(dialect: str, body: bytes) -> str:
    """The newest human text, where the last message is plain words of a human; else empty."""
    return _newest(dialect, _decoder.decode(body)) or ""


def _newest(dialect: str, members: dict[str, Any]) -> str | None:
    """Takes the text out of the members, and gives it."""
    if dialect == "openai_responses" and isinstance(members.get("input"), str):
        text = members["input"]
        members["input"] = ""
        return text
    listed = members.get({"openai_responses": "input", "gemini_generate": "contents"}.get(dialect, "messages"))
    if not isinstance(listed, list) or not listed or not isinstance(listed[-1], dict):
        return None
    last = cast("dict[str, Any]", listed[-1])
    if last.get("role", "user" if dialect == "gemini_generate" else "") != "user":
        return None
    place, name = last, "parts" if dialect == "gemini_generate" else "content"
    if isinstance(last.get(name), list):
        parts = cast("list[Any]", last[name])
        if len(parts) != 1 or not isinstance(parts[0], dict):
            return None
        place, name = cast("dict[str, Any]", parts[0]), "text"
    text = place.get(name)
    if not isinstance(text, str):
        return None
    place[name] = ""
    return text


def counted(headers: Headers, query: str) -> bytes:
    """The headers and query parameters that decide an answer, in one line each. A key in the query is nobody's answer."""
    lines = [name + b":" + value for name, value in headers if name in HEADERS]
    lines += sorted(part.encode() for part in query.split("&") if part and not part.startswith(("key=", "alt=")))
    return b"\n".join(lines)
