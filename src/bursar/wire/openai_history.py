"""What an OpenAI message says: of chat completions, and of responses, where a message is several items."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec import Raw

from ..domain.history import ASSISTANT, BASE, EMPTY, HUMAN, SYSTEM, TOOL, Message, Reply, Use, long_lines
from ..domain.shape import Shape
from . import canon, failure
from .dialect import text_of
from .history import Preface

KINDS = {"system": SYSTEM, "developer": SYSTEM, "user": HUMAN, "tool": TOOL, "function": TOOL}


def _repairs(head: str) -> bool:
    """Whether this is what somebody writes whose program could not use the model's last answer. One pattern for all of these
    takes twenty times as long."""
    return (
        "json" in head or "valid" in head or "schema" in head or " pars" in head or " format" in head or "malformed" in head
        or "syntax" in head
    )  # fmt: skip


def remote(names: dict[str, str]) -> Callable[[bytes], str]:
    """A look for why bytes do not bound some content: a member of it (name -> why) names what the provider fetches. Text
    cannot fake one (its quotes are escaped); what is sent in place (`data:`) counts as bytes."""
    keys = "|".join(names).encode()
    found = re.compile(rb'"(' + keys + rb')"\s*+:\s*+(?!"data:|null|\{\s*"url"\s*:\s*"data:)')

    def look(content: bytes) -> str:
        if not any(mark in content for mark in _MARKS):
            return ""
        hit = found.search(content)
        return names[hit[1].decode()] if hit else ""

    return look


_MARKS = (b'_url"', b'"file"', b'"file_', b'"input_file"')  # one of them is in any content that such a search could hit
_fetched = remote({
    "image_url": "an image by URL", "file": "a file", "video_url": "a video by URL", "document_url": "a document by URL",
})  # fmt: skip
_fetched_item = remote({
    "image_url": "an image by URL", "file_id": "a file by id", "file_url": "a file by URL", "file_data": "a file",
})  # fmt: skip


class _Message(msgspec.Struct):
    role: str = ""
    content: Raw = Raw(b"")
    tool_calls: Raw = Raw(b"")
    function_call: Raw = Raw(b"")
    tool_call_id: Any = ""
    name: Any = ""


class Function(msgspec.Struct):
    name: Any = ""
    arguments: Any = ""
    input: Any = ""


class _Call(msgspec.Struct):
    id: Any = ""
    function: Function | None = None
    custom: Function | None = None


_message = msgspec.json.Decoder(_Message)
_calls = msgspec.json.Decoder(list[_Call])
_called = msgspec.json.Decoder(Function)


class Content(Shape, frozen=True, gc=False):
    """A message's content: its text, digests of what else is in it, and the bytes by which that weighs less than it is long."""

    text: str = ""
    media: Sequence[int] = ()
    spared: int = 0


NO_CONTENT = Content()


def _listed(raw: Raw) -> bool:
    view = memoryview(raw)
    return len(view) > 0 and view[0] == 0x5B


def content(raw: Raw) -> Content:
    """Of a string, or of parts in whatever shape: texts are joined, anything else counts as it stands."""
    view = memoryview(raw)
    first = view[0] if len(view) else 0
    if first == 0x22:
        return Content(canon.decode_text(view).strip())
    if first != 0x5B:
        return NO_CONTENT
    texts: list[str] = []
    media: list[int] = []
    spared = 0
    for part in cast("list[Any]", canon.decode_any(bytes(view))):
        if not isinstance(part, dict):
            continue
        body = cast("dict[str, Any]", part)
        kind = body.get("type")
        if kind in ("thinking", "reasoning", "redacted_thinking"):
            continue
        said = body.get("text")
        if said is None:
            said = body.get("refusal")
        if isinstance(said, str):
            texts.append(said)
            continue
        data = _media(body)
        media.append(canon.digest(b"media\0", canon.utf8(canon.payload(data)) if data else canon.canonical(body)))
        if len(data) > canon.IMAGE_WEIGHT:
            spared += len(data) - canon.IMAGE_WEIGHT
    return Content(canon.joined(texts).strip() if texts else "", media, spared)


def _media(part: dict[str, Any]) -> str:
    """The data or address of an image, sound or file; empty where the part is something else."""
    for key in ("image_url", "input_audio", "file", "file_data", "video_url", "data"):
        found: Any = part.get(key)
        if isinstance(found, dict):
            inner = cast("dict[str, Any]", found)
            found = inner.get("url") or inner.get("data") or inner.get("file_data")
        if isinstance(found, str):
            return found
    return ""


def spoken(kind: int, found: Content, size: int, far: str, uses: Sequence[tuple[Use, int]] = ()) -> Message:
    """A message of words, media and calls, in this order."""
    text = found.text
    chain, power = 0, 1
    if text:
        chain, power = canon.digest(b"human\0" if kind == HUMAN else b"said\0", canon.utf8(text)), BASE
    if uses or found.media:
        chain, power = canon.add(chain, power, [*found.media, *[whole for _, whole in uses]])
    weight = max(size - found.spared, 1)
    if kind == HUMAN:
        lines = long_lines(text) if len(text) >= canon.TEXT_LONG else ()
        return Message(kind, chain, power, weight, (), (), EMPTY, hash(text), lines, _repairs(text[:200].lower()), False, False, far)
    return Message(kind, chain, power, weight, tuple([use for use, _ in uses]), (), canon.shape(text), remote=far)


def instruction(text: str, weight: int, far: str = "") -> Message:
    return Message(SYSTEM, weight=weight, print=canon.fingerprint(text), remote=far)


def chat_message(raw: bytes, signs: Sequence[failure.Sign]) -> Message:
    """One of `messages`."""
    found = _message.decode(raw)
    kind = KINDS.get(found.role, ASSISTANT)
    far = _fetched(bytes(found.content)) if _listed(found.content) else ""
    said = content(found.content)
    if kind == SYSTEM:
        return instruction(said.text, len(raw), far)
    if kind == TOOL:
        ident, name = text_of(found.tool_call_id), text_of(found.name)
        weight = max(len(raw) - said.spared, 1)
        result, whole = canon.result(ident, name, said.text, False, weight, signs)
        chain, power = canon.add(whole, BASE, said.media)
        return Message(TOOL, chain, power, weight, results=(result,), remote=far)
    uses = calls(found.tool_calls, found.function_call) if kind == ASSISTANT else ()
    return spoken(kind, said, len(raw), far, uses)


def calls(raw: Raw, legacy: Raw) -> list[tuple[Use, int]]:
    """tool_calls, and function_call of old. What is none of the two is no call."""
    uses: list[tuple[Use, int]] = []
    if bytes(raw) not in (b"", b"null", b"[]"):
        try:
            for call in _calls.decode(raw):
                called = call.function or call.custom
                if called is not None:
                    uses.append(canon.use(text_of(call.id), text_of(called.name), called.arguments or called.input))
        except (msgspec.DecodeError, RecursionError):
            return uses
    if bytes(legacy) not in (b"", b"null"):
        try:
            called = _called.decode(legacy)
            uses.append(canon.use("", text_of(called.name), called.arguments))
        except (msgspec.DecodeError, RecursionError):
            return uses
    return uses


# --- responses ---


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: Raw = Raw(b"")
    output: Raw = Raw(b"")
    name: Any = ""
    arguments: Any = ""
    input: Any = ""
    action: Any = None
    call_id: Any = ""
    error: Any = None


_item = msgspec.json.Decoder(_Item)
_BY_PROVIDER = re.compile(r"web_search|file_search|code_interpreter|image_generation|mcp_list|mcp_approval|tool_search")


def responses_item(raw: bytes, signs: Sequence[failure.Sign]) -> Message:
    """One of `input`."""
    found = _item.decode(raw)
    kind = found.type
    if kind == "message":
        far = _fetched_item(bytes(found.content)) if _listed(found.content) else ""
        said = content(found.content)
        who = KINDS.get(found.role, ASSISTANT)
        return instruction(said.text, len(raw), far) if who == SYSTEM else spoken(who, said, len(raw), far)
    if kind.endswith("_output"):
        far = _fetched_item(bytes(found.output)) if _listed(found.output) else ""
        said = output(found.output)
        weight = max(len(raw) - said.spared, 1)
        result, whole = canon.result(text_of(found.call_id), text_of(found.name), said.text, False, weight, signs)
        chain, power = canon.add(whole, BASE, said.media)
        return Message(TOOL, chain, power, weight, results=(result,), remote=far)
    if kind == "item_reference":
        return Message(ASSISTANT, weight=len(raw), remote="an item by reference")
    if kind.endswith("_call") and not _BY_PROVIDER.match(kind):
        name = text_of(found.name) or kind.removesuffix("_call")
        if kind == "mcp_call":  # the provider has run it: the call and its answer are one item
            return spoken(ASSISTANT, NO_CONTENT, len(raw), "", [canon.use("", name, found.arguments)])
        use = canon.use(text_of(found.call_id), name, found.arguments or found.input or found.action)
        return spoken(ASSISTANT, NO_CONTENT, len(raw), "", [use])
    return Message(ASSISTANT, weight=len(raw))  # reasoning, and what the provider's own tools left


def output(raw: Raw) -> Content:
    """A tool's output: a text, parts, or an object (computer and shell tools)."""
    view = memoryview(raw)
    if len(view) and view[0] not in (0x22, 0x5B):
        return Content(bytes(view).decode("utf-8", "replace") if bytes(view) != b"null" else "")
    return content(raw)


# --- tools ---


class _Tool(msgspec.Struct):
    type: str = "function"
    name: Any = ""
    function: Function | None = None


_tools = msgspec.json.Decoder(list[_Tool])


def tools(own: frozenset[str]) -> Callable[[bytes], Preface]:
    """A reader of `tools`: `own` are the types that the client runs itself."""

    def read(raw: bytes) -> Preface:
        found = [] if raw == b"null" else _tools.decode(raw)
        names = sorted([text_of(tool.function.name if tool.function else tool.name) or tool.type for tool in found])
        hosted = any(tool.type not in own for tool in found)
        return Preface(len(raw), canon.short(canon.utf8("\0".join(names))) if names else 0, len(found), hosted)

    return read


Called = tuple[str, str, Any]  # id, name and arguments of a call in an answer


def reply(text: str, called: Sequence[Called], apart: bool = False) -> Reply:
    """What was answered, as it will come again. `apart`: text and calls will be items of their own."""
    text = text.strip()
    if not called:
        if not text:
            return Reply()
        only = canon.digest(b"said\0", canon.utf8(text))
        return Reply(only, BASE, (only,), (), (), text if len(text) >= canon.SUMMARY_LONG else "")
    said = [canon.digest(b"said\0", canon.utf8(text))] if text else []
    uses: list[Use] = []
    prompts: list[int] = []
    for ident, name, arguments in called:
        use, whole = canon.use(ident, name, arguments)
        uses.append(use)
        said.append(whole)
        prompts += canon.long_texts(arguments)
    chain, power = canon.add(0, 1, said)
    return Reply(chain, power, tuple(said[-3:]) if apart else (chain,), tuple(uses), tuple(prompts[:8]))


SAID_MAX = 1 << 20  # bytes of a streamed reply that are kept for knowing it again


class Words:
    """A streamed text as it comes: pieces of one JSON string, joined and read at the end. Some 0.2 us a piece."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: bytearray | None = bytearray()

    def add(self, pieces: Sequence[bytes]) -> None:
        held = self._pieces
        if held is not None:
            for piece in pieces:
                held += piece
            if len(held) > SAID_MAX:
                self._pieces = None

    def text(self) -> str | None:
        """None where it was too much, or the pieces are no text."""
        if self._pieces is None:
            return None
        try:
            return canon.decode_text(b'"' + bytes(self._pieces) + b'"') if self._pieces else ""
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


__all__ = [
    "SAID_MAX", "Called", "Content", "Function", "Words", "calls", "chat_message", "content", "instruction", "output",
    "remote", "reply", "responses_item", "spoken", "tools",
]  # fmt: skip
