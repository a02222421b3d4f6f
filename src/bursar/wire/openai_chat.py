"""OpenAI chat completions, as OpenAI speaks it and as the vendors that copy it do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel
from ..domain.usage import Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import body as gate
from . import error, openai_usage, splice, usage
from .dialect import EVENTS, JSON, encode, event, session, text_of, texts
from .openai_answer import as_usage, edge_reading, generated_bytes, refuse, whole
from .stream import HIDE, KEEP, PASS, Relay

# --- asked ---


class _Model(gate.Text):
    __slots__ = ()
    member = "model"


class _Stream(gate.Flag):
    __slots__ = ()
    member = "stream"


class _MaxTokens(gate.Count):
    __slots__ = ()
    member = "max_tokens"


class _MaxCompletion(gate.Count):
    __slots__ = ()
    member = "max_completion_tokens"


class _N(gate.Count):
    __slots__ = ()
    member = "n"


class _StreamOptions(gate.Object):
    __slots__ = ()
    member = "stream_options"


class _Tier(gate.Text):
    __slots__ = ()
    member = "service_tier"


class _Message(msgspec.Struct):
    role: str = ""
    content: Raw = Raw(b"")


class _Tool(msgspec.Struct):
    type: str = "function"


class _Format(msgspec.Struct):
    type: str = ""


class _Body(msgspec.Struct):
    model: _Model = _Model(None)
    stream: _Stream = _Stream(None)
    max_tokens: _MaxTokens = _MaxTokens(None)
    max_completion_tokens: _MaxCompletion = _MaxCompletion(None)
    n: _N = _N(None)
    stream_options: _StreamOptions = _StreamOptions(None)
    service_tier: _Tier = _Tier(None)
    messages: list[_Message] | None = None
    tools: list[_Tool] | None = None
    functions: list[Raw] | None = None
    response_format: _Format | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    web_search_options: Raw | UnsetType = UNSET
    plugins: Raw | UnsetType = UNSET


DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_OWN_TOOLS = frozenset(("function", "custom"))
_RESULTS = frozenset(("tool", "function"))
# Names that want max_completion_tokens (OpenAI refuses max_tokens for its reasoning models); vendors that copy the API
# know max_tokens only.
_CAPS = ("max_completion_tokens", "max_tokens")
_OPENAI_NAMES = re.compile(r"(?:openai/)?(?:gpt-(?!oss)|o\d|chatgpt)")


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
_remote = remote({
    "image_url": "an image by URL", "file": "a file", "video_url": "a video by URL", "document_url": "a document by URL",
})  # fmt: skip


class _Chat:
    name = "openai_chat"

    def read(self, path: str, body: bytes) -> Asked | Malformed:
        found = gate.read(body, _Body)
        if isinstance(found, Malformed):
            return found
        found, members = found
        human = depth = 0
        why = ""
        for message in found.messages or ():
            if message.role == "user":
                human += 1
                depth = 0
            elif message.role in _RESULTS:
                depth += 1
            if not why:
                content = memoryview(message.content)
                if len(content) and content[0] == 0x5B:
                    why = _remote(bytes(content))
        cap, newer = found.max_tokens.value, found.max_completion_tokens.value
        if newer is not None:
            cap = newer if cap is None else max(cap, newer)
        model: str = found.model.value or ""
        if not model:
            deployment = DEPLOYMENT.search(path)
            model = deployment[1] if deployment else ""
        options = cast("dict[str, Any]", found.stream_options.value or {})
        pairs = texts(found.metadata) if found.metadata else ()
        if (
            found.web_search_options is not UNSET
            or found.plugins is not UNSET
            or (found.tools and any(tool.type not in _OWN_TOOLS for tool in found.tools))
        ):
            why = why or "tools that the provider runs"
        return Asked(
            model=model, stream=found.stream.value is True, output_cap=cap,
            choices=max(found.n.value or 1, 1), usage_asked=options.get("include_usage") is True, unbounded_input=why,
            service_tier=found.service_tier.value or "", conversation=session(pairs) if pairs else "",
            user=found.user or found.safety_identifier or "", metadata=pairs, messages=len(found.messages or ()),
            human_turns=human, tool_depth=depth, tools=len(found.tools or ()) + len(found.functions or ()),
            json_demanded=found.response_format is not None and found.response_format.type.startswith("json"),
            members=members,
        )  # fmt: skip

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    path = DEPLOYMENT.sub(lambda _, to=model: f"/deployments/{to}/", path, count=1)
                    body = splice.put(body, "model", encode(model), asked.members)
                case CapOutput(tokens):
                    named = [key for key in _CAPS if (splice.find(body, key) if asked.members is None else key in asked.members)]
                    for key in named or _CAPS[:1] if _OPENAI_NAMES.match(asked.model) else named or _CAPS[1:]:
                        body = splice.put(body, key, b"%d" % tokens, named)
                case AskUsage():
                    body = splice.put_inside(body, "stream_options", "include_usage", b"true", asked.members)
        return path, body

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        if body.startswith((b"data:", b"event:", b":")):  # asked whole, answered as a stream
            reader = _Reader(Asked(), False)
            reader.feed(body)
            reader.finish()
            return reader.reading()
        return whole(status, body, json_demanded, embedding=False)

    def edges(self, head: bytes, tail: bytes) -> Reading:
        return edge_reading(head, tail, embedding=False)

    def reader(self, asked: Asked, hide_usage: bool) -> _Reader:
        return _Reader(asked, hide_usage)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        return refuse(refusal)

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        base = {"id": f"chatcmpl-{call_id}", "created": 0, "model": model}
        spent = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        if not asked.stream:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            return [JSON], encode({**base, "object": "chat.completion", "choices": [choice], "usage": spent})
        chunk = {**base, "object": "chat.completion.chunk"}
        out = event({**chunk, "choices": [_choice({"role": "assistant", "content": text}, None)]})
        out += event({**chunk, "choices": [_choice({}, "stop")]})
        if asked.usage_asked:
            out += event({**chunk, "choices": [], "usage": spent})
        return [EVENTS], out + b"data: [DONE]\n\n"


def _choice(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


# --- answered as a stream ---


class _Groq(msgspec.Struct):
    usage: Raw = Raw(b"")


class _Delta(msgspec.Struct):
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    created: Any = 0
    service_tier: Any = ""
    choices: list[_Delta] | None = None
    usage: Raw = Raw(b"")
    x_groq: _Groq | None = None
    error: Raw = Raw(b"")


_chunk = msgspec.json.Decoder(_Chunk)
_LEARNING = 8  # events looked into for id and model: Azure's first one names neither


class _Reader(Relay):
    """`data: [DONE]` is the end. The usage event has empty choices; some vendors put usage into the last content chunk or
    into every chunk as a running count."""

    def __init__(self, asked: Asked, hide_usage: bool) -> None:
        super().__init__()
        self._asked, self._hide = asked, hide_usage
        self._id = self._model = self._tier = self._finish = self._error = self._message = ""
        self._created = 0
        self._bytes = 0
        self._learn = _LEARNING
        self._final = False
        self._shown = False  # the client saw a finish_reason

    def _dull(self, chunk: bytes) -> bool:
        if self._learn:
            return False
        found = chunk.count(b'"usage"')
        if found and found != chunk.count(b'"usage":null'):
            return False
        found = chunk.count(b'"finish_reason"')
        if found and found != chunk.count(b'"finish_reason":null'):
            return False
        if b"[DONE]" in chunk or b'"error"' in chunk:
            return False
        self._bytes += generated_bytes(chunk)
        return True

    def _event(self, name: bytes, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            return KEEP
        if not data:
            return PASS
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return PASS  # nothing we know: the client may know more
        self._bytes += generated_bytes(data)
        if self._learn:
            self._learn -= 1
            self._id = self._id or text_of(chunk.id)
            self._created = self._created or (chunk.created if isinstance(chunk.created, int) else 0)
            self._model = self._model or text_of(chunk.model)
            if self._id and self._model:
                self._learn = 0
        self._tier = text_of(chunk.service_tier) or self._tier
        for choice in chunk.choices or ():
            if isinstance(choice.finish_reason, str) and choice.finish_reason:
                self._finish, self._final = choice.finish_reason, True
        raw = bytes(chunk.usage)
        if raw in (b"", b"null") and chunk.x_groq is not None:
            raw = bytes(chunk.x_groq.usage)
        try:
            stated = usage.read(raw)
        except usage.Unreadable as why:
            self._unreadable(why)
            stated = None
        if bytes(chunk.error) not in (b"", b"null"):
            self._error, self._message = error.read(data)
        elif name == b"error":
            self._error, self._message = error.read(data)
        if stated is None:
            return PASS
        self._add_usage(stated, raw)
        if not chunk.choices:
            self._final = True
            if self._hide and not self._error:
                return HIDE
        return PASS

    def _huge(self, head: bytes, tail: bytes) -> int:
        self._trouble = self._trouble or "an event was too large to read"
        return PASS

    def reading(self) -> Reading:
        known: Usage = Unknown(self._trouble or "no usage in the stream")
        if self._usage and not self._trouble:
            known = openai_usage.tally(self._usage, self._usage_bytes, final=self._final or self._done)
        return Reading(
            usage=known, model_served=self._model,
            service_tier=self._tier or openai_usage.tier(self._usage), response_id=self._id, finish=self._finish,
            complete=self._done, error=self._error, error_message=self._message, output_bytes=self._bytes,
            provider_cost_pico=openai_usage.cost(self._usage),
        )  # fmt: skip

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        """`finish_reason: length`, the usage chunk if the client asked for it and it is known, `[DONE]`: every client tried
        takes that as a normal end."""
        chunk = {
            "id": self._id or "chatcmpl-bursar", "object": "chat.completion.chunk", "created": self._created,
            "model": self._model or self._asked.model,
        }  # fmt: skip
        out = event({**chunk, "choices": [_choice({}, "length")], "bursar_verdict": reason})
        if tokens is not None and self._asked.usage_asked:
            out += event({**chunk, "choices": [], "usage": as_usage(tokens)})
        return out + b"data: [DONE]\n\n"


openai_chat = _Chat()
