"""Anthropic messages, streamed and whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.history import Reply
from ..domain.shape import replace
from ..domain.usage import Known, Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import anthropic_usage, canon, edges, error, frame, generated, splice, usage, wind_down
from . import body as gate
from .anthropic_history import anthropic_message, system, tools
from .dialect import EVENTS, JSON, broken, encode, event, is_json, refusal_headers, refusal_message, text_of, texts
from .history import BUILT_IN, NO_PREFACE, Preface, Signs, printed
from .openai_history import Called, Words, reply
from .opening import counted
from .stream import KEEP, PASS, Relay

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


class _Tier(gate.Text):
    __slots__ = ()
    member = "service_tier"


class _Speed(gate.Text):
    __slots__ = ()
    member = "speed"


class _Cache(msgspec.Struct):
    ttl: Any = ""


class _Body(msgspec.Struct):
    model: _Model = _Model(None)
    stream: _Stream = _Stream(None)
    max_tokens: _MaxTokens = _MaxTokens(None)
    service_tier: _Tier = _Tier(None)
    speed: _Speed = _Speed(None)
    system: Raw = Raw(b"")
    messages: list[Raw] | None = None
    tools: Raw = Raw(b"")
    cache_control: _Cache | None = None
    metadata: dict[str, Any] | None = None
    mcp_servers: list[Raw] | None = None
    output_format: Raw = Raw(b"")
    output_config: Raw = Raw(b"")


_SESSION = re.compile(r"session_([0-9a-fA-F-]{36})")


def _session(pairs: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """(conversation, user) from metadata.user_id: Claude Code packs its session into it, as JSON or as a suffix."""
    packed = dict(pairs).get("user_id", "")
    if packed.startswith("{"):
        try:
            inner = msgspec.json.decode(packed, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return "", packed
        return text_of(inner.get("session_id")), text_of(inner.get("account_uuid")) or text_of(inner.get("device_id"))
    found = _SESSION.search(packed)
    return (found[1], packed[: found.start()].rstrip("_")) if found else ("", packed)


_messages, _PLACE = attrgetter("messages"), b'"messages"'


def _around(found: _Body, members: tuple[str, ...], signs: Signs) -> tuple[Asked, Preface, int, int] | Malformed:
    """What a body says but for its messages; what tools and system prompt weigh, and their fingerprints."""
    where = "tools"
    try:
        offered = signs.preface(bytes(found.tools), tools) if len(memoryview(found.tools)) else NO_PREFACE
        where = "system"
        ordered = signs.preface(bytes(found.system), system) if len(memoryview(found.system)) else NO_PREFACE
    except (msgspec.DecodeError, RecursionError) as bad:
        return gate.malformed(where, bad)
    pairs = texts(found.metadata)
    conversation, user = _session(pairs)
    asked = Asked(
        model=found.model.value or "", stream=found.stream.value is True, output_cap=found.max_tokens.value, usage_asked=True,
        unbounded_input="tools that the provider runs" if found.mcp_servers or offered.hosted else "",
        service_tier="fast" if found.speed.value == "fast" else found.service_tier.value or "",
        conversation=conversation, user=user, metadata=pairs, tools=offered.tools,
        cache_1h=offered.hour or ordered.hour or _hour(found.cache_control),
        json_demanded=b'"json_schema"' in bytes(found.output_format) + bytes(found.output_config), members=members,
    )  # fmt: skip
    before = replace(offered, weight=offered.weight + ordered.weight) if ordered.weight else offered
    return asked, before, offered.print, ordered.print


class _Messages:
    name = "anthropic_messages"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        teller = signs.teller(self.name, anthropic_message)
        found = frame.read(
            body, _Body, _PLACE, _messages, teller.openings, teller.frames, lambda given, members: _around(given, members, signs)
        )
        if isinstance(found, Malformed):
            return found
        (asked, before, offered, ordered), raws, begun = found
        try:
            told = teller.tell(raws, before, begun, _PLACE)
        except (msgspec.DecodeError, RecursionError) as bad:
            return gate.malformed("messages", bad)
        end = told.end
        return replace(
            asked, unbounded_input=told.remote or asked.unbounded_input, messages=counted(raws, begun), human_turns=end.turns,
            tool_depth=end.depth, history=told, print=printed(told.print or ordered, offered), cache_1h=told.hour or asked.cache_1h,
            hash=begun.hash() if begun is not None else "",
        )  # fmt: skip

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    body = splice.put(body, "model", encode(model), asked.members)
                case CapOutput(tokens):
                    body = splice.put(body, "max_tokens", b"%d" % tokens, asked.members)
                case AskUsage():
                    pass  # Anthropic always says
                case WindDown(text):
                    body = wind_down.wind_down(self.name, body, text)
        return path, body

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        if body.startswith((b"event:", b"data:", b":")):
            reader = _Reader(Asked())
            reader.feed(body)
            reader.finish()
            return reader.reading()
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as bad:
            return broken(status, f"the answer is not a message: {bad}", body)
        known, tier = _counted(bytes(answer.usage))
        code = message = ""
        if status >= 400 or bytes(answer.error) not in (b"", b"null"):
            code, message = error.read(body)
            code = code or str(status)
        malformed = ""
        if json_demanded and answer.stop_reason == "end_turn":
            said = [part.text for part in answer.content or () if part.type == "text" and isinstance(part.text, str)]
            if said and not is_json("".join(said)):
                malformed = "JSON was demanded, the reply is not JSON"
        return Reading(
            usage=known, model_served=text_of(answer.model), service_tier=tier, response_id=text_of(answer.id),
            finish=text_of(answer.stop_reason), error=code, error_message=message,
            output_bytes=0 if code else _whole_bytes(answer), malformed=malformed, reply=None if code else _reply(answer),
        )  # fmt: skip

    def edges(self, head: bytes, tail: bytes) -> Reading:
        known, tier = _counted(edges.member(head, tail, b"usage"))
        return Reading(
            usage=known, model_served=edges.text(head, tail, b"model"), service_tier=tier, response_id=edges.text(head, tail, b"id")
        )

    def reader(self, asked: Asked, hide_usage: bool) -> _Reader:
        return _Reader(asked)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        kind = _TYPES.get(refusal.status) or ("api_error" if refusal.status >= 500 else "invalid_request_error")
        body = {
            "type": "error",
            "error": {"type": kind, "message": refusal_message(refusal), "code": refusal.code},
            "request_id": None,
        }
        return refusal_headers(refusal), encode(body)

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        message = _empty_message(f"msg_{call_id}", model)
        if not asked.stream:
            message.update(content=[{"type": "text", "text": text}], stop_reason="end_turn")
            return [JSON], encode(message)
        out = event({"type": "message_start", "message": message}, "message_start")
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        out += event(block, "content_block_start")
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        out += event(delta, "content_block_delta")
        out += event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        return [EVENTS], out + _ending("end_turn", 0)


_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
}  # fmt: skip


def _hour(control: _Cache | None) -> bool:
    return control is not None and control.ttl == "1h"


def _empty_message(ident: str, model: str) -> dict[str, Any]:
    return {
        "id": ident, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip


def _ending(stop_reason: str, output_tokens: int) -> bytes:
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None},
        "usage": {"output_tokens": output_tokens},
    }
    return event(delta, "message_delta") + event({"type": "message_stop"}, "message_stop")


# --- answered whole ---


class _Said(msgspec.Struct):
    type: Any = ""
    id: Any = ""
    name: Any = ""
    text: Any = ""
    thinking: Any = ""
    input: Raw = Raw(b"")


class _Answer(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    stop_reason: Any = ""
    content: list[_Said] | None = None
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


_answer = msgspec.json.Decoder(_Answer)


def _whole_bytes(answer: _Answer) -> int:
    total = 0
    for part in answer.content or ():
        if part.type in ("tool_use", "server_tool_use"):
            total += len(bytes(part.input))
        else:
            total += len(text_of(part.text).encode("utf-8", "replace"))
            total += len(text_of(part.thinking).encode("utf-8", "replace"))
    return total


def _reply(answer: _Answer) -> Reply:
    parts = answer.content or []
    used = [part for part in parts if part.type in _USES and bytes(part.input)]
    called: list[Called] = [(text_of(part.id), text_of(part.name), canon.decode_any(part.input)) for part in used]
    return reply("".join([text_of(part.text) for part in parts if part.type == "text"]), called)


_USES = ("tool_use", "mcp_tool_use")


def _counted(raw: bytes) -> tuple[Usage, str]:
    try:
        stated = usage.read(raw)
    except usage.Unreadable as why:
        return Unknown(str(why)), ""
    if stated is None:
        return Unknown("no usage in the answer"), ""
    return anthropic_usage.tally(stated, raw), anthropic_usage.tier(stated)


# --- answered as a stream ---


class _Start(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    usage: Raw = Raw(b"")


class _Delta(msgspec.Struct):
    stop_reason: Any = None


class _Block(msgspec.Struct):
    type: Any = ""
    id: Any = ""
    name: Any = ""
    text: Any = ""
    input: Raw = Raw(b"")


class _Event(msgspec.Struct):
    type: Any = ""
    message: _Start | UnsetType | str | None = UNSET
    delta: _Delta | None = None
    content_block: _Block | None = None
    index: Any = 0
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


_event = msgspec.json.Decoder(_Event)
BLOCKS_MAX = 1024
_GENERATED = generated.pattern("text", "partial_json", "thinking")


class _Reader(Relay):
    """message_start says input and cache counts, message_delta the running total of output; message_stop is the end."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked
        self._id = self._model = self._finish = self._error = self._message = ""
        self._blocks: list[tuple[_Block, Words]] = []
        self._open = -1  # the content block that has begun and not ended
        self._started = self._counted = False
        self._bytes = 0

    def _dull(self, chunk: bytes) -> bool:
        if b'"message_' in chunk or b'"content_block_s' in chunk or b'"usage"' in chunk or b"error" in chunk:
            return False
        self._heard(chunk)
        return True

    def _heard(self, data: bytes) -> None:
        found = _GENERATED.findall(data)
        self._bytes += generated.measure(found)
        if self._blocks:
            self._blocks[-1][1].add(found)

    def _reply(self) -> Reply | None:
        said: list[str] = []
        called: list[Called] = []
        for block, words in self._blocks:
            text = words.text()
            if text is None:
                return None
            if block.type == "text":
                said.append(text_of(block.text) + text)
            elif block.type in _USES:
                called.append((text_of(block.id), text_of(block.name), text or canon.decode_any(bytes(block.input) or b"{}")))
        return reply("".join(said), called)

    def _event(self, name: bytes, data: bytes) -> int:
        if not data:
            return PASS
        try:
            found = _event.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return PASS
        kind = found.type
        if kind == "message_stop":
            return KEEP
        if kind == "error":
            self._error, self._message = error.read(data)
            return KEEP
        if kind == "content_block_delta":
            self._heard(data)
        elif kind == "content_block_start":
            self._open = found.index if isinstance(found.index, int) else -1
            if found.content_block is not None and len(self._blocks) < BLOCKS_MAX:
                self._blocks.append((found.content_block, Words()))
            self._bytes += generated.size(_GENERATED, data)
        elif kind == "content_block_stop":
            self._open = -1
        elif kind == "message_start":
            self._started = True
            if isinstance(found.message, _Start):
                self._id, self._model = text_of(found.message.id), text_of(found.message.model)
                self._state(bytes(found.message.usage))
        elif kind == "message_delta":
            if found.delta is not None and isinstance(found.delta.stop_reason, str):
                self._finish = found.delta.stop_reason
            stated = self._state(bytes(found.usage))
            if stated and stated.get("output_tokens") is not None:
                self._counted = True
        return PASS

    def _state(self, raw: bytes) -> usage.Object | None:
        try:
            stated = usage.read(raw)
        except usage.Unreadable as why:
            self._unreadable(why)
            return None
        # With its list of iterations a usage object is complete: what moved from the totals into the list is zero above.
        self._add_usage(stated, raw, zeros=bool(stated and stated.get("iterations")))
        if stated and stated.get("cache_creation_input_tokens") and "cache_creation" not in stated:
            self._usage = anthropic_usage.with_grown_cache(self._usage)
        return stated

    def _huge(self, head: bytes, tail: bytes) -> int:
        return PASS  # only content is ever that large

    def reading(self) -> Reading:
        known: Usage = Unknown(self._trouble or "no usage in the stream")
        if self._usage and not self._trouble:
            known = anthropic_usage.tally(self._usage, self._usage_bytes, final=self._counted)
        return Reading(
            usage=known, model_served=self._model, service_tier=anthropic_usage.tier(self._usage), response_id=self._id,
            finish=self._finish, complete=self._done, error=self._error, error_message=self._message,
            output_bytes=self._bytes, reply=self._reply() if self._done and not self._error else None,
        )  # fmt: skip

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        """stop_reason max_tokens and message_stop: a normal end. (An error event makes Claude Code pay for the call twice.)"""
        out = b""
        if not self._started:
            message = _empty_message("msg_bursar", self._model or self._asked.model)
            out += event({"type": "message_start", "message": message}, "message_start")
        if self._open >= 0:
            out += event({"type": "content_block_stop", "index": self._open}, "content_block_stop")
        if tokens is None:
            known = self.reading().usage
            tokens = known.tokens if isinstance(known, Known) else Tokens()
        return out + _ending("max_tokens", tokens.output_total)


anthropic_messages = _Messages()
