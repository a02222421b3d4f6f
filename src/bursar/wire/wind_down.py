"""The last turn of a conversation, in every dialect: the agent is told to end, without tools; and whether a client demands a tool."""

from __future__ import annotations

from typing import Any

import msgspec

from . import splice

# dialect -> (the array of what was said, what a note in it looks like, how tools are forbidden, the member with the tools)
_NO_TOOLS = {
    "openai_chat": b'"none"', "openai_responses": b'"none"', "anthropic_messages": b'{"type":"none"}',
    "gemini_generate": b'{"functionCallingConfig":{"mode":"NONE"}}',
}  # fmt: skip
DIALECTS = frozenset(_NO_TOOLS)


def wind_down(dialect: str, body: bytes, text: str) -> bytes:
    """The request with a note at its end, and tools forbidden where it offers some. What was sent before stays byte for byte, so
    the provider's prompt cache does too."""
    gemini = dialect == "gemini_generate"
    note: dict[str, Any] = {"role": "user", "parts": [{"text": text}]} if gemini else {"role": "user", "content": text}
    place = {"openai_responses": "input", "gemini_generate": "contents"}.get(dialect, "messages")
    said = splice.find(body, place)
    if said is None:
        return body
    value = body[said.value : said.end]
    told = msgspec.json.encode(note)
    if value[:1] == b"[":
        inner = value[1:-1].rstrip()
        value = b"[" + inner + (b"," if inner else b"") + told + b"]"
    elif gemini:  # one content may stand alone
        value = b"[" + value + b"," + told + b"]"
    else:  # a text for input
        value = b'[{"role":"user","content":' + value + b"}," + told + b"]"
    body = body[: said.value] + value + body[said.end :]
    if splice.find(body, "tools") is not None or splice.find(body, "functions") is not None:
        body = _choose(dialect, body, _NO_TOOLS[dialect])
    return body


def _choose(dialect: str, body: bytes, value: bytes) -> bytes:
    if dialect != "gemini_generate":
        return splice.put(body, "tool_choice", value)
    snake = splice.find(body, "tool_config") is not None
    return splice.put(body, "tool_config" if snake else "toolConfig", value)


def demands_tool(dialect: str, body: bytes) -> bool:
    """Whether the reply must be a tool call: a text in its place would break the client."""
    names = ("toolConfig", "tool_config") if dialect == "gemini_generate" else ("tool_choice",)
    for name in names:
        found = splice.find(body, name)
        if found is not None:
            text = body[found.value : found.end]
            if dialect == "gemini_generate":
                return b'"ANY"' in text
            if text[:1] == b'"':
                return text == b'"required"'
            kind = b'"auto"' in text or b'"none"' in text
            return text[:1] == b"{" and not kind
    return False
