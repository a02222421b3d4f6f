"""What an Anthropic message says, and what stands before the messages: system prompt and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import Raw

from ..domain.history import ASSISTANT, HUMAN, SYSTEM, TOOL, Message, Result, Use
from ..domain.shape import replace
from . import canon, failure
from .dialect import text_of
from .history import Preface
from .openai_history import Content, spoken


class _Source(msgspec.Struct):
    type: Any = ""
    data: Any = ""
    url: Any = ""
    file_id: Any = ""


class _Cache(msgspec.Struct):
    ttl: Any = ""


class _Part(msgspec.Struct):
    type: str = ""
    text: Any = ""
    source: _Source | str | None = None
    cache_control: _Cache | None = None
    id: Any = ""
    name: Any = ""
    input: Raw = Raw(b"")
    tool_use_id: Any = ""
    is_error: Any = None
    content: Raw = Raw(b"")


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


_message = msgspec.json.Decoder(_Message)
# A provider's own tools leave their calls and results in one message of the assistant; nobody sends them for a client's.
_RESULTS = frozenset(("tool_result", "mcp_tool_result"))


def anthropic_message(raw: bytes, signs: Sequence[failure.Sign]) -> Message:
    """One of `messages`."""
    found = _message.decode(raw)
    kind = HUMAN if found.role == "user" else SYSTEM if found.role == "system" else ASSISTANT
    parts = found.content
    if not isinstance(parts, list):
        return spoken(kind, Content((parts or "").strip()), len(raw), "")
    texts: list[str] = []
    media: list[int] = []
    uses: list[tuple[Use, int]] = []
    results: list[Result] = []
    answered: list[int] = []
    far = ""
    marked = hour = False
    spared = 0
    for part in parts:
        control = part.cache_control
        if control is not None:
            marked = True
            hour = hour or control.ttl == "1h"
        match part.type:
            case "text":
                texts.append(text_of(part.text))
            case "tool_use" | "mcp_tool_use":
                uses.append(canon.use(text_of(part.id), text_of(part.name), canon.decode_any(bytes(part.input) or b"{}")))
            case "tool_result" | "mcp_tool_result":
                inner, more, saved = _inside(part.content)
                size = max(len(bytes(part.content)) - saved, 1)
                result, whole = canon.result(text_of(part.tool_use_id), "", inner, part.is_error is True, size, signs)
                results.append(result)
                answered += [whole, *more]
                spared += saved
            case "image" | "document":
                far = far or remote(part)
                data = _data(part.source)
                media.append(canon.digest(b"media\0", canon.utf8(data)))
                spared += max(len(data) - canon.IMAGE_WEIGHT, 0)
            case _:
                pass  # thinking, and what the provider's own tools left: not everybody sends it again
    text = canon.joined(texts).strip() if texts else ""
    if not results:
        told = spoken(kind, Content(text, media, spared), len(raw), far, uses)
        return replace(told, marked=True, hour=hour) if marked else told
    # Claude Code appends reminders as text to tool results: it is still the tools' turn.
    if text:
        answered.append(canon.digest(b"human\0", canon.utf8(text)))
    chain, power = canon.add(0, 1, [*answered, *media])
    return Message(
        TOOL, chain, power, max(len(raw) - spared, 1), results=tuple(results), marked=marked, hour=hour, remote=far,
    )  # fmt: skip


def _inside(raw: Raw) -> tuple[str, list[int], int]:
    """A result's content: its text, digests of images in it, and the bytes by which those weigh less than they are."""
    view = memoryview(raw)
    if not len(view):
        return "", [], 0
    found = canon.decode_any(bytes(view))
    if isinstance(found, str):
        return found, [], 0
    texts: list[str] = []
    media: list[int] = []
    saved = 0
    for part in cast("list[Any]", found) if isinstance(found, list) else ():
        if not isinstance(part, dict):
            continue
        body = cast("dict[str, Any]", part)
        if isinstance(body.get("text"), str):
            texts.append(body["text"])
        elif isinstance(body.get("source"), dict):
            source = cast("dict[str, Any]", body["source"])
            data = text_of(source.get("data")) or text_of(source.get("url"))
            media.append(canon.digest(b"media\0", canon.utf8(data)))
            saved += max(len(data) - canon.IMAGE_WEIGHT, 0)
    return canon.joined(texts) if texts else "", media, saved


def _data(source: _Source | str | None) -> str:
    if isinstance(source, _Source):
        return text_of(source.data) or text_of(source.url) or text_of(source.file_id)
    return source or ""


def remote(part: _Part) -> str:
    """Why this part's bytes do not bound its tokens."""
    kind = part.source.type if isinstance(part.source, _Source) else ""
    if kind == "url":
        return f"{part.type} by URL"
    if kind == "file":
        return f"{part.type} by file id"
    if part.type == "document" and kind == "base64":
        return "a document: its pages are compressed"
    return ""


# --- before the messages ---


class _Tool(msgspec.Struct):
    type: str | None = None
    name: Any = ""
    cache_control: _Cache | None = None


_tools = msgspec.json.Decoder(list[_Tool])
_system = msgspec.json.Decoder(list[_Part])

# Tools that Anthropic runs itself, whose results come in as input nobody has counted. bash, text_editor, computer and
# memory are typed too, but the client runs them.
_HOSTED = ("web_", "code_execution", "mcp", "advisor", "tool_search")


def tools(raw: bytes) -> Preface:
    found = [] if raw == b"null" else _tools.decode(raw)
    names = sorted([text_of(tool.name) or tool.type or "" for tool in found])
    return Preface(
        len(raw), canon.short(canon.utf8("\0".join(names))) if names else 0, len(found),
        any(tool.type and tool.type.startswith(_HOSTED) for tool in found),
        any(tool.cache_control is not None and tool.cache_control.ttl == "1h" for tool in found),
    )  # fmt: skip


def system(raw: bytes) -> Preface:
    if raw[:1] != b"[":
        return Preface(len(raw), canon.fingerprint("" if raw == b"null" else canon.decode_text(raw)))
    found = _system.decode(raw)
    text = "\n".join([text_of(part.text) for part in found])
    return Preface(
        len(raw), canon.fingerprint(text),
        hour=any(part.cache_control is not None and part.cache_control.ttl == "1h" for part in found),
    )  # fmt: skip
