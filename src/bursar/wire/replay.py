"""A kept reply in the form in which the next client asks for it, and what of a reply decides whether it may be kept."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from ..domain.call import Asked, Headers
from ..domain.reply import Kept
from . import places, splice
from .dialect import EVENTS, JSON, encode
from .fold import fold
from .unfold import unfold

# A client may take two replies with one id for one reply said twice. A response's id may be gone on from, so it stays.
_FRESH = {"openai_chat": ("id", "chatcmpl-"), "anthropic_messages": ("id", "msg_"), "gemini_generate": ("responseId", "")}


def whole(dialect: str, body: bytes, stream: bool) -> bytes | None:
    """The reply as one JSON object, however it came; None where its stream cannot be put together."""
    return fold(dialect, body) if stream else body


def replay(dialect: str, kept: Kept, asked: Asked, call_id: str, array: bool = False) -> tuple[Headers, bytes] | None:
    """Headers and body for a client that asked whole or as a stream. `kept` holds the whole reply. `array`: a Gemini client
    that takes its stream as a JSON array. None where the form cannot be made: then the call is made."""
    body = kept.body
    fresh = _FRESH.get(dialect)
    if fresh is not None and fresh[0].encode() in places.top(body):
        body = splice.put(body, fresh[0], encode(fresh[1] + call_id))
    if not asked.stream:
        return [JSON], body
    events = unfold(dialect, body, asked.usage_asked, array)
    if events is None:
        return None
    return [JSON if array and dialect == "gemini_generate" else EVENTS], events


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: list[Raw] | None = None
    function_call: Raw | None = None


class _Text(msgspec.Struct):
    text: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None


class _Part(msgspec.Struct):
    type: Any = ""
    text: Any = None
    thought: Any = None
    content: Raw = Raw(b"")  # a message's texts in responses; of other parts, whatever they hold
    functionCall: Raw | None = None


class _Parts(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    content: _Parts | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] | None = None  # OpenAI chat
    output: list[_Part] | None = None  # OpenAI responses
    content: list[_Part] | None = None  # Anthropic
    candidates: list[_Candidate] | None = None  # Gemini


# Items that ask the client to run something; the rest (web_search_call …) the provider ran itself.
_ASKS = frozenset((
    "function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call",
    "mcp_approval_request", "tool_use",
))  # fmt: skip
_reply = msgspec.json.Decoder(_Reply)


def calls_tools(body: bytes) -> bool:
    """Whether a whole reply, of any dialect, asks the client to do something; also when nobody can say."""
    try:
        reply = _reply.decode(body)
    except msgspec.DecodeError:
        return True
    if any(choice.message and (choice.message.tool_calls or choice.message.function_call) for choice in reply.choices or ()):
        return True
    if any(part.type in _ASKS for part in (*(reply.output or ()), *(reply.content or ()))):
        return True
    said = [candidate.content.parts or [] for candidate in reply.candidates or () if candidate.content]
    return any(part.functionCall is not None for parts in said for part in parts)


def said(body: bytes) -> str:
    """The text of a whole reply, of any dialect: what the model told the user, without what it thought."""
    try:
        reply = _reply.decode(body)
    except msgspec.DecodeError:
        return ""
    texts: list[Any] = [choice.message.content for choice in (reply.choices or ())[:1] if choice.message]
    texts += [part.text for part in reply.content or () if part.type == "text"]
    for item in reply.output or ():
        if item.type == "message":
            texts += [part.text for part in msgspec.json.decode(item.content, type=list[_Text])]
    for candidate in (reply.candidates or ())[:1]:
        texts += [part.text for part in (candidate.content.parts or [] if candidate.content else []) if not part.thought]
    return "".join(text for text in texts if isinstance(text, str))
