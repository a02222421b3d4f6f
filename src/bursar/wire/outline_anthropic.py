"""The outline of an Anthropic messages request."""

from __future__ import annotations

from ..domain.outline import Outline
from . import places
from .outlining import Builder, name, text

_SIGNED = (b"thinking", b"redacted_thinking")
_SERVER = frozenset((b"compaction", b"context_management"))


def messages(body: bytes, keyed: bool) -> Outline:
    """A user message with tool results is the tools' turn, whatever reminders a client appends to it."""
    top = places.top(body)
    if b"context_management" in top:
        return Outline((), (), "compaction by the provider")
    listed = top.get(b"messages")
    if listed is None:
        return Outline((), (), "no single list of messages")
    found = Builder(body, keyed)
    for place in places.elements(body, *listed):
        members = places.named(body, *place)
        role = {b"user": "human", b"assistant": "model"}.get(text(body, members.get(b"role")), "system")
        signed = False
        content = members.get(b"content")
        for part in places.elements(body, *content) if content else ():
            inside = places.named(body, *part)
            kind = text(body, inside.get(b"type"))
            if kind == b"tool_result":
                role = "result"
                if b"content" in inside:
                    failed = inside.get(b"is_error")
                    tool = found.tools.get(text(body, inside.get(b"tool_use_id")), "")
                    found.result(tool, failed is not None and body[failed[0] : failed[1]] == b"true", inside[b"content"])
            elif kind == b"tool_use":
                tool = name(body, inside.get(b"name"))
                found.tools[text(body, inside.get(b"id"))] = tool
                if b"input" in inside:
                    found.argument(tool, inside[b"input"])
            elif kind in _SIGNED:
                signed = True
            elif kind in _SERVER:
                return Outline((), (), "compacted by the provider")
        found.message(role, place, signed)
    return found.done()
