"""Outlines of OpenAI's two dialects: chat completions, and responses with their items."""

from __future__ import annotations

from ..domain.outline import Outline
from . import places
from .outlining import Builder, Place, name, text

_ROLES = {b"user": "human", b"assistant": "model", b"tool": "result", b"function": "result"}
# What vendors put beside a message that must come back unchanged: reasoning_content, reasoning_details, thought_signature.
_SIGNED = (b'"reasoning', b'ignature"')


def _signed(raw: bytes) -> bool:
    return any(mark in raw for mark in _SIGNED)


def chat(body: bytes, keyed: bool) -> Outline:
    """Chat completions. An unknown role counts as the system's: it is never touched, and nothing is cut across it."""
    listed = places.top(body).get(b"messages")
    if listed is None:
        return Outline((), (), "no single list of messages")
    found = Builder(body, keyed)
    for place in places.elements(body, *listed):
        members = places.named(body, *place)
        role = _ROLES.get(text(body, members.get(b"role")), "system")
        content = members.get(b"content")
        if role == "result" and content is not None:
            tool = found.tools.get(text(body, members.get(b"tool_call_id"))) or name(body, members.get(b"name"))
            found.result(tool, False, content)
        elif role == "model" and b"tool_calls" in members:
            for call in places.elements(body, *members[b"tool_calls"]):
                _chat_call(found, places.named(body, *call))
        found.message(role, place, role == "model" and _signed(body[place[0] : place[1]]))
    return found.done()


def _chat_call(found: Builder, call: dict[bytes, Place]) -> None:
    function = call.get(b"function")
    if function is None:
        return
    inside = places.named(found.body, *function)
    tool = name(found.body, inside.get(b"name"))
    found.tools[text(found.body, call.get(b"id"))] = tool
    if b"arguments" in inside:
        found.argument_text(tool, inside[b"arguments"])


# Item types by whose turn they belong to. A type that is not here is a barrier, like the system's messages.
_MODEL = frozenset((
    b"reasoning", b"function_call", b"custom_tool_call", b"local_shell_call", b"shell_call", b"apply_patch_call", b"computer_call",
    b"web_search_call", b"file_search_call", b"code_interpreter_call", b"image_generation_call", b"mcp_call",
    b"mcp_approval_request",
))  # fmt: skip
_TEXT_RESULTS = frozenset((b"function_call_output", b"custom_tool_call_output", b"apply_patch_call_output"))
_STATE = {
    b"previous_response_id": "previous_response_id",
    b"conversation": "a conversation kept by the provider",
    b"context_management": "compaction by the provider",
}


def responses(body: bytes, keyed: bool) -> Outline:
    """Responses. What the provider keeps or compacts itself is its own business."""
    top = places.top(body)
    for member, why in _STATE.items():
        place = top.get(member)
        if place is not None and body[place[0] : place[1]] != b"null":
            return Outline((), (), why)
    listed = top.get(b"input")
    if listed is None or body[listed[0] : listed[0] + 1] != b"[":
        return Outline((), (), "no list of items")
    found = Builder(body, keyed)
    for place in places.elements(body, *listed):
        members = places.named(body, *place)
        kind = text(body, members.get(b"type")) or b"message"
        if kind in (b"item_reference", b"compaction", b"compaction_summary"):
            return Outline((), (), "items kept or compacted by the provider")
        if kind == b"message":
            found.message(_ROLES.get(text(body, members.get(b"role")), "system"), place)
        elif kind in _TEXT_RESULTS or kind.endswith((b"_output", b"_response")):
            if kind in _TEXT_RESULTS and b"output" in members:
                found.result(found.tools.get(text(body, members.get(b"call_id")), ""), False, members[b"output"])
            found.message("result", place)
        elif kind in _MODEL:
            if kind == b"function_call":
                tool = name(body, members.get(b"name"))
                found.tools[text(body, members.get(b"call_id"))] = tool
                if b"arguments" in members:
                    found.argument_text(tool, members[b"arguments"])
            found.message("model", place, kind == b"reasoning")
        else:
            found.message("system", place)
    return found.done()
