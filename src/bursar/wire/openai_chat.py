"""OpenAI chat completions, as OpenAI speaks it and as the vendors that copy it do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.history import Reply
from ..domain.shape import replace
from ..domain.usage import Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import body as gate
from . import error, frame, generated, openai_usage, splice, sse, usage, wind_down
from .dialect import EVENTS, JSON, encode, event, session, text_of, texts
from .history import BUILT_IN, NO_PREFACE, Preface, Signs, printed
from .openai_answer import as_usage, edge_reading, generated_texts, refuse, whole
from .openai_history import Function, Words, chat_message, reply, tools
from .opening import counted
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
    messages: list[Raw] | None = None
    tools: Raw = Raw(b"")
    functions: list[Raw] | None = None
    response_format: _Format | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    web_search_options: Raw | UnsetType = UNSET
    plugins: Raw | UnsetType = UNSET


_messages, _PLACE = attrgetter("messages"), b'"messages"'
DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_tools = tools(frozenset(("function", "custom")))
# Names that want max_completion_tokens (OpenAI refuses max_tokens for its reasoning models); vendors that copy the API
# know max_tokens only.
_CAPS = ("max_completion_tokens", "max_tokens")
_OPENAI_NAMES = re.compile(r"(?:openai/)?(?:gpt-(?!oss)|o\d|chatgpt)")


def _around(found: _Body, members: tuple[str, ...], signs: Signs) -> tuple[Asked, Preface] | Malformed:
    """What a body says but for its messages."""
    try:
        offered = signs.preface(bytes(found.tools), _tools) if len(memoryview(found.tools)) else NO_PREFACE
    except (msgspec.DecodeError, RecursionError) as bad:
        return gate.malformed("tools", bad)
    cap, newer = found.max_tokens.value, found.max_completion_tokens.value
    if newer is not None:
        cap = newer if cap is None else max(cap, newer)
    options = cast("dict[str, Any]", found.stream_options.value or {})
    pairs = texts(found.metadata) if found.metadata else ()
    hosted = found.web_search_options is not UNSET or found.plugins is not UNSET or offered.hosted
    return Asked(
        model=found.model.value or "", stream=found.stream.value is True, output_cap=cap,
        choices=max(found.n.value or 1, 1), usage_asked=options.get("include_usage") is True,
        unbounded_input="tools that the provider runs" if hosted else "", service_tier=found.service_tier.value or "",
        conversation=session(pairs) if pairs else "", user=found.user or found.safety_identifier or "", metadata=pairs,
        tools=offered.tools + len(found.functions or ()),
        json_demanded=found.response_format is not None and found.response_format.type.startswith("json"), members=members,
    ), offered  # fmt: skip


def _deployed(path: str) -> str:
    """Azure names the model in the path."""
    deployment = DEPLOYMENT.search(path)
    return deployment[1] if deployment else ""


class _Chat:
    name = "openai_chat"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        teller = signs.teller(self.name, chat_message)
        found = frame.read(
            body, _Body, _PLACE, _messages, teller.openings, teller.frames, lambda given, members: _around(given, members, signs)
        )
        if isinstance(found, Malformed):
            return found
        (asked, offered), raws, begun = found
        try:
            told = teller.tell(raws, offered, begun, _PLACE)
        except (msgspec.DecodeError, RecursionError) as bad:
            return gate.malformed("messages", bad)
        end = told.end
        return replace(
            asked, model=asked.model or _deployed(path), unbounded_input=told.remote or asked.unbounded_input,
            messages=counted(raws, begun), human_turns=end.turns, tool_depth=end.depth, history=told,
            print=printed(told.print, offered.print), hash=begun.hash() if begun is not None else "",
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
                case WindDown(text):
                    body = wind_down.wind_down(self.name, body, text)
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


class _Piece(msgspec.Struct):
    index: Any = 0
    id: Any = ""
    function: Function | None = None
    custom: Function | None = None


class _Said(msgspec.Struct):
    tool_calls: list[_Piece] | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None


class _Called(msgspec.Struct):
    choices: list[_Choice] | None = None


_chunk, _called = msgspec.json.Decoder(_Chunk), msgspec.json.Decoder(_Called)
_CONTENT = generated.pattern("content", "refusal")
_ARGUMENTS = generated.pattern("arguments")
_INDEX = re.compile(rb'"tool_calls"[ ]?:[ ]?\[\{"index"[ ]?:[ ]?(\d{1,4})')
CALLS_MAX = 256


class _Calling:
    """A call as it comes."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments = Words()


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
        self._words, self._calls = Words(), dict[int, _Calling]()
        self._only = 0  # the number of the newest call
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
        self._heard(chunk)
        return True

    def _heard(self, data: bytes) -> None:
        """Count what was generated, and keep what will come again."""
        found = generated_texts(data)
        self._bytes += generated.measure(found)
        if b'"tool_calls"' in data:
            if len(self._calls) == 1 and b'"name"' not in data and b'"content"' not in data and b'"reasoning' not in data:
                self._calls[self._only].arguments.add(found)  # as nearly all pieces are
                return
            spoke = b'"content":"' in data or b'"reasoning' in data or b'"content": "' in data
            self._pieces(data, _ARGUMENTS.findall(data) if spoke else found)
            found = _CONTENT.findall(data) if spoke else ()
        elif b'"reasoning' in data:
            found = _CONTENT.findall(data)
        if found:
            self._words.add(found)

    def _pieces(self, data: bytes, arguments: Sequence[bytes]) -> None:
        """Calls come in pieces: the first names id and function, the others carry arguments on."""
        named = data.count(b'"name"')
        if self._calls and (not named or named == data.count(b'"name":null')):
            at = list(self._calls) if len(self._calls) == 1 else [int(n) for n in set(_INDEX.findall(data))]
            if len(at) == 1 and (call := self._calls.get(at[0])) is not None:
                call.arguments.add(arguments)
                return
        for piece in sse.BLANK.split(data) if data.startswith(b"data:") else (data,):
            try:
                chunk = _called.decode(sse.parse(piece)[1] if piece is not data else data)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue
            for choice in chunk.choices or ():
                for part in (choice.delta.tool_calls if choice.delta else None) or ():
                    number = part.index if isinstance(part.index, int) else 0
                    if number not in self._calls and len(self._calls) >= CALLS_MAX:
                        continue
                    call = self._calls.setdefault(number, _Calling())
                    self._only = number
                    said = part.function or part.custom
                    call.id = call.id or text_of(part.id)
                    if said is not None:
                        call.name += text_of(said.name)
                        call.arguments.add([encode(text_of(said.arguments) or text_of(said.input))[1:-1]])

    def _reply(self) -> Reply | None:
        text = self._words.text()
        called = [(call.id, call.name, call.arguments.text()) for call in self._calls.values()]
        if text is None or self._asked.choices > 1 or any(arguments is None for _, _, arguments in called):
            return None
        return reply(text, called)

    def _event(self, name: bytes, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            return KEEP
        if not data:
            return PASS
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return PASS  # nothing we know: the client may know more
        self._heard(data)
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
            provider_cost_pico=openai_usage.cost(self._usage), reply=self._reply() if self._done and not self._error else None,
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
