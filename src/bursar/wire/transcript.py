"""A request's messages as plain text, for a summary and for the person who takes a conversation over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from ..domain.outline import Outline
from .outline import outline

PART_MAX = 4_000  # characters of one text in the transcript, both ends of it: a file that was read does not help a summary

# Members that hold words. Everything else (ids, types, signatures, pictures) says nothing to a summary.
_WORDS = frozenset((
    "content", "text", "input", "output", "arguments", "args", "response", "result", "name", "thinking", "parts", "function",
    "functionCall", "functionResponse", "function_call", "function_response", "tool_calls", "refusal", "error",
))  # fmt: skip
_PICTURES = frozenset(("image", "image_url", "input_image", "document", "input_file", "input_audio", "redacted_thinking"))


def of(body: bytes, outline: Outline, first: int, span: int) -> str:
    """The messages as plain text, one line to each text, under whose they are."""
    out: list[str] = []
    for message in outline.messages[first : first + span]:
        said = list(_words(msgspec.json.decode(body[message.start : message.end]), False))
        if said:
            out.append(f"[{message.role}]\n" + "\n".join(said))
    return "\n".join(out)


def _words(value: Any, free: bool) -> Iterator[str]:
    """`free`: below a member whose own members are anybody's, such as arguments."""
    if isinstance(value, str):
        if value:
            half = PART_MAX // 2
            yield value if len(value) <= PART_MAX else f"{value[:half]} … {value[-half:]}"
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _words(item, free)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if not free and members.get("type") in _PICTURES:
            return
        for name, inner in members.items():
            if free and not isinstance(inner, dict | list):
                yield f"{name}: {inner}"
            elif free or name in _WORDS:
                yield from _words(inner, free or name in ("input", "args", "response"))
    elif free and value is not None:
        yield str(value)


LAST = 6  # messages a person reads before answering
LAST_CHARS = 1_000  # of each, both ends of it


def last(dialect: str, body: bytes, most: int = LAST, chars: int = LAST_CHARS) -> list[dict[str, str]]:
    """The newest messages that say something, oldest first, as `{"role": human | model | result, "text": …}`. Nothing of a history
    that the provider keeps."""
    found: list[dict[str, str]] = []
    for message in reversed(outline(dialect, body).messages):
        if len(found) == most:
            break
        text = "\n".join(_words(msgspec.json.decode(body[message.start : message.end]), False)) if message.role != "system" else ""
        if text:
            half = chars // 2
            found.append({"role": message.role, "text": text if len(text) <= chars else f"{text[:half]} … {text[-half:]}"})
    return found[::-1]
