"""What a Gemini content says, in both spellings, and what stands before the contents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import Raw

from ..domain.history import ASSISTANT, HUMAN, TOOL, Message, Reply, Result, Use
from . import canon, failure
from .dialect import text_of
from .history import Preface
from .openai_history import Called, Content, reply, spoken


class _Part(msgspec.Struct):
    text: Any = None
    thought: Any = None
    functionCall: Any = None
    function_call: Any = None
    functionResponse: Any = None
    function_response: Any = None
    fileData: Any = None
    file_data: Any = None
    inlineData: Any = None
    inline_data: Any = None


class _Content(msgspec.Struct):
    role: str | None = None
    parts: list[_Part] | None = None


_content = msgspec.json.Decoder(_Content)
_UNBOUNDED_TYPES = re.compile(r"(?:application/|video/)")  # pages and frames are compressed: bytes do not bound them


def remote(part: _Part) -> str:
    """Why this part's bytes do not bound its tokens."""
    if part.fileData is not None or part.file_data is not None:
        return "a file by URI"
    inline = _object(part.inlineData or part.inline_data)
    if _UNBOUNDED_TYPES.match(text_of(inline.get("mimeType")) or text_of(inline.get("mime_type"))):
        return "a document or video: its pages or frames are compressed"
    return ""


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def gemini_content(raw: bytes, signs: Sequence[failure.Sign]) -> Message:
    """One of `contents`."""
    found = _content.decode(raw)
    texts: list[str] = []
    media: list[int] = []
    uses: list[tuple[Use, int]] = []
    results: list[Result] = []
    answered: list[int] = []
    far = ""
    spared = 0
    for part in found.parts or ():
        far = far or remote(part)
        called, response = _object(part.functionCall or part.function_call), _object(part.functionResponse or part.function_response)
        if called:
            uses.append(canon.use(text_of(called.get("id")), text_of(called.get("name")), called.get("args")))
        elif response:
            said, flagged = _response(response.get("response"))
            ident, name = text_of(response.get("id")), text_of(response.get("name"))
            result, whole = canon.result(ident, name, said, flagged, len(said) + 60, signs)
            results.append(result)
            answered.append(whole)
        elif isinstance(part.text, str):
            if part.thought is not True:
                texts.append(part.text)
        elif part.thought is not True:
            sent = _object(part.inlineData or part.inline_data or part.fileData or part.file_data)
            data = text_of(sent.get("data")) or text_of(sent.get("fileUri")) or text_of(sent.get("file_uri"))
            if data:
                media.append(canon.digest(b"media\0", canon.utf8(data)))
                spared += max(len(data) - canon.IMAGE_WEIGHT, 0)
    text = canon.joined(texts).strip() if texts else ""
    if results:
        chain, power = canon.add(0, 1, [*answered, *media])
        return Message(TOOL, chain, power, max(len(raw) - spared, 1), results=tuple(results), remote=far)
    return spoken(HUMAN if found.role in (None, "", "user") else ASSISTANT, Content(text, media, spared), len(raw), far, uses)


def _response(value: Any) -> tuple[str, bool]:
    """What a function answered, as text. Google's SDKs wrap a text into {"result": …} and an exception into {"error": …}."""
    body = _object(value)
    if len(body) == 1:
        (name, inner), *_ = body.items()
        if name in ("result", "output", "content") and isinstance(inner, str):
            return inner, False
        if name in ("result", "output"):
            return canon.canonical(inner).decode("utf-8", "replace"), False
        if name == "error":
            return inner if isinstance(inner, str) else canon.canonical(inner).decode("utf-8", "replace"), True
    if not body:
        return value if isinstance(value, str) else "", False
    return canon.canonical(body).decode("utf-8", "replace"), False


# --- answered ---

_parts = msgspec.json.Decoder(list[_Part])


def answered(pieces: Sequence[bytes]) -> Reply | None:
    """What the `parts` of an answer, or of its events, said."""
    words: list[str] = []
    called: list[Called] = []
    try:
        for piece in pieces:
            for part in _parts.decode(piece):
                call = _object(part.functionCall or part.function_call)
                if call:
                    called.append((text_of(call.get("id")), text_of(call.get("name")), call.get("args")))
                elif isinstance(part.text, str) and part.thought is not True:
                    words.append(part.text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return reply("".join(words), called)


# --- before the contents ---

_OWN_TOOLS = frozenset(("functionDeclarations", "function_declarations", "computerUse", "computer_use"))


class _Declared(msgspec.Struct):
    name: Any = ""


_tool = msgspec.json.Decoder(dict[str, Raw])
_tools = msgspec.json.Decoder(list[dict[str, Raw]])
_declared = msgspec.json.Decoder(list[_Declared])


def tools(raw: bytes) -> Preface:
    """Functions declared, plus one for each tool of Google's. One tool may stand without its list."""
    given = [_tool.decode(raw)] if raw[:1] == b"{" else [] if raw == b"null" else _tools.decode(raw)
    names: list[str] = []
    hosted = False
    for tool in given:
        for name, inner in tool.items():
            hosted = hosted or name not in _OWN_TOOLS
            if name in ("functionDeclarations", "function_declarations"):
                try:
                    names += [text_of(one.name) for one in _declared.decode(inner)]
                    continue
                except (msgspec.DecodeError, RecursionError):
                    pass  # not a list of functions: it counts as one tool
            names.append(name)
    return Preface(len(raw), canon.short(canon.utf8("\0".join(sorted(names)))) if names else 0, len(names), hosted)


def system(raw: bytes) -> Preface:
    """systemInstruction: a content, or a text."""
    found = canon.decode_any(raw)
    if isinstance(found, dict):
        parts: Any = cast("dict[str, Any]", found).get("parts")
        listed = cast("list[Any]", parts) if isinstance(parts, list) else [parts]
        found = "\n".join([text_of(_object(part).get("text")) for part in listed])
    return Preface(len(raw), canon.fingerprint(text_of(found)))
