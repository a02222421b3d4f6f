"""OpenAI responses, as OpenAI speaks it and as xAI, OpenRouter, Azure, DeepSeek and Bedrock do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.history import Reply
from ..domain.shape import replace
from ..domain.usage import Known, Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import body as gate
from . import canon, edges, error, generated, openai_usage, opening, splice, usage, wind_down
from .dialect import EVENTS, JSON, broken, encode, event, is_json, session, text_of, texts
from .history import BUILT_IN, NO_PREFACE, Preface, Signs, printed
from .openai_answer import refuse
from .openai_history import Called, reply, responses_item, tools
from .openai_history import content as said
from .opening import counted
from .stream import KEEP, PASS, Relay

# --- asked ---


class _Model(gate.Text):
    __slots__ = ()
    member = "model"


class _Stream(gate.Flag):
    __slots__ = ()
    member = "stream"


class _MaxOutput(gate.Count):
    __slots__ = ()
    member = "max_output_tokens"


class _Tier(gate.Text):
    __slots__ = ()
    member = "service_tier"


class _Previous(gate.Text):
    __slots__ = ()
    member = "previous_response_id"


class _Conversation(gate.Field):
    __slots__ = ()
    member = "conversation"


class _Body(msgspec.Struct):
    model: _Model = _Model(None)
    stream: _Stream = _Stream(None)
    max_output_tokens: _MaxOutput = _MaxOutput(None)
    service_tier: _Tier = _Tier(None)
    previous_response_id: _Previous = _Previous(None)
    conversation: _Conversation = _Conversation(None)
    instructions: Raw = Raw(b"")
    input: str | list[Raw] | None = None
    tools: Raw = Raw(b"")
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    prompt: Raw = Raw(b"")
    text: Raw = Raw(b"")


# Tools that the client runs; every other type runs at the provider and brings in tokens that nobody has counted.
_offered = tools(
    frozenset(("function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview", "namespace"))
)


def _instructions(raw: bytes) -> Preface:
    return Preface(len(raw), canon.fingerprint(text_of(canon.decode_any(raw))))


_input = attrgetter("input")


class _Responses:
    name = "openai_responses"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        teller = signs.teller(self.name, responses_item)
        found = opening.read(body, _Body, _input, opening.look(body, teller.openings, len(body)))
        if isinstance(found, Malformed):
            return found
        found, members, begun = found
        where = "tools"
        try:
            offered = signs.preface(bytes(found.tools), _offered) if len(memoryview(found.tools)) else NO_PREFACE
            where = "instructions"
            ordered = signs.preface(bytes(found.instructions), _instructions) if len(memoryview(found.instructions)) else NO_PREFACE
            where = "input"
            items = found.input or ()
            if isinstance(items, str):
                items = [Raw(encode({"role": "user", "content": items}))]
            told = teller.tell(items, replace(offered, weight=offered.weight + ordered.weight), begun, b'"input"')
        except (msgspec.DecodeError, RecursionError) as bad:
            return gate.malformed(where, bad)
        why = told.remote
        previous: str = found.previous_response_id.value or ""
        conversation = found.conversation.value
        if isinstance(conversation, dict):
            conversation = conversation.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        conversation = text_of(conversation)
        if previous:
            why = "previous_response_id"
        elif conversation:
            why = "a conversation kept by the provider"
        elif bytes(found.prompt) not in (b"", b"null"):
            why = why or "a prompt kept by the provider"
        elif offered.hosted:
            why = why or "tools that the provider runs"
        pairs = texts(found.metadata)
        return Asked(
            model=found.model.value or "", stream=found.stream.value is True, output_cap=found.max_output_tokens.value,
            usage_asked=True, unbounded_input=why, service_tier=found.service_tier.value or "",
            conversation=conversation or session(pairs), previous=previous,
            user=found.user or found.safety_identifier or "", metadata=pairs, messages=counted(items, begun),
            human_turns=told.end.turns, tool_depth=told.end.depth, tools=offered.tools, history=told,
            print=printed(told.print or ordered.print, offered.print),
            json_demanded=b'"json_schema"' in bytes(found.text) or b'"json_object"' in bytes(found.text),
            members=members, hash=begun.hash() if begun is not None else "",
        )  # fmt: skip

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    body = splice.put(body, "model", encode(model), asked.members)
                case CapOutput(tokens):
                    body = splice.put(body, "max_output_tokens", b"%d" % tokens, asked.members)
                case AskUsage():
                    pass  # the terminal event always says
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
            return broken(status, f"the answer is not a response: {bad}", body)
        reading = _read(answer)
        if status >= 400 or bytes(answer.error) not in (b"", b"null"):
            code, message = error.read(body)
            return replace(reading, error=code or str(status), error_message=message)
        return replace(reading, output_bytes=_whole_bytes(answer), malformed=_malformed(answer, json_demanded))

    def edges(self, head: bytes, tail: bytes) -> Reading:
        raw = edges.member(head, tail, b"usage")
        return _read(_Answer(id=edges.text(head, tail, b"id"), model=edges.text(head, tail, b"model"), usage=Raw(raw)))

    def reader(self, asked: Asked, hide_usage: bool) -> _Reader:
        return _Reader(asked)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        return refuse(refusal)

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        answer = _shell(f"resp_{call_id}", model, 0, "completed", Tokens())
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item: dict[str, Any] = {
            "id": f"msg_{call_id}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        if not asked.stream:
            return [JSON], encode({**answer, "output": [item]})
        place: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        begun: dict[str, Any] = {**item, "status": "in_progress", "content": []}
        told: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**answer, "status": "in_progress", "usage": None}},
            {"type": "response.in_progress", "response": {**answer, "status": "in_progress", "usage": None}},
            {"type": "response.output_item.added", "output_index": 0, "item": begun},
            {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []},
            {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": part},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {**answer, "output": [item]}},
        ]
        return [EVENTS], b"".join(event({**e, "sequence_number": n}, e["type"]) for n, e in enumerate(told))


def _shell(ident: str, model: str, created: int, status: str, tokens: Tokens | None) -> dict[str, Any]:
    """A response object with all that SDKs expect to find."""
    spent = None
    if tokens is not None:
        spent = {
            "input_tokens": tokens.input_total, "input_tokens_details": {"cached_tokens": tokens.cache_read},
            "output_tokens": tokens.output_total, "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.total,
        }  # fmt: skip
    return {
        "id": ident, "object": "response", "created_at": created, "status": status, "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": model, "output": [],
        "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None,
        "usage": spent,
    }  # fmt: skip


# --- answered ---


class _Reason(msgspec.Struct):
    reason: Any = ""


class _Action(msgspec.Struct):
    type: Any = "search"


class _Said(msgspec.Struct):
    type: Any = ""
    name: Any = ""
    call_id: Any = ""
    arguments: Any = ""
    content: Raw = Raw(b"")
    summary: Raw = Raw(b"")
    input: Raw = Raw(b"")
    action: Raw = Raw(b"")
    container_id: Any = ""


class _Answer(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    created_at: Any = 0
    status: Any = ""
    service_tier: Any = ""
    incomplete_details: _Reason | None = None
    output: list[_Said] | None = None
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


_answer = msgspec.json.Decoder(_Answer)
_TEXT = generated.pattern("text", "refusal")


def _whole_bytes(answer: _Answer) -> int:
    total = 0
    for item in answer.output or ():
        total += generated.size(_TEXT, bytes(item.content)) + generated.size(_TEXT, bytes(item.summary))
        total += len(text_of(item.arguments)) + len(bytes(item.input))
    return total


def _malformed(answer: _Answer, json_demanded: bool) -> str:
    if answer.status != "completed":
        return ""
    said: list[_Said] = answer.output or []
    for item in said:
        if item.type == "function_call" and isinstance(item.arguments, str) and item.arguments and not is_json(item.arguments):
            return "tool arguments are not JSON"
    if json_demanded and not any(item.type in ("function_call", "custom_tool_call") for item in said):
        texts_ = [text for item in said if item.type == "message" for text in _TEXT.findall(bytes(item.content))]
        if texts_ and not is_json(msgspec.json.decode(b'"' + texts_[-1] + b'"', type=str)):
            return "JSON was demanded, the reply is not JSON"
    return ""


def _tools(answer: _Answer) -> tuple[tuple[str, int], ...]:
    """What OpenAI bills beside tokens, as the output items show it. Of a web search only the search is billed, not the
    opening of its pages; a code session is billed once per container."""
    searches = files = 0
    containers: set[str] = set()
    for item in answer.output or ():
        if item.type == "web_search_call":
            try:
                action = msgspec.json.decode(item.action, type=_Action).type if bytes(item.action) else "search"
            except msgspec.DecodeError:
                action = "search"
            searches += action == "search"
        elif item.type == "file_search_call":
            files += 1
        elif item.type == "code_interpreter_call":
            containers.add(text_of(item.container_id))
    found = (("code_session", len(containers)), ("file_search", files), ("web_search", searches))
    return tuple((unit, n) for unit, n in found if n)


def _read(answer: _Answer) -> Reading:
    raw = bytes(answer.usage)
    known: Usage = Unknown("no usage in the answer")
    cost = None
    try:
        stated = usage.read(raw)
        if stated is not None:
            known = openai_usage.tally(stated, raw, tools=_tools(answer))
            cost = openai_usage.cost(stated)
    except usage.Unreadable as why:
        known = Unknown(str(why))
    finish = text_of(answer.status)
    if answer.incomplete_details is not None:
        finish = text_of(answer.incomplete_details.reason) or finish
    return Reading(
        reply=_reply(answer) if answer.status == "completed" else None,
        usage=known, model_served=text_of(answer.model), service_tier=text_of(answer.service_tier),
        response_id=text_of(answer.id), finish=finish, provider_cost_pico=cost,
    )  # fmt: skip


def _reply(answer: _Answer) -> Reply:
    words: list[str] = []
    called: list[Called] = []
    for item in answer.output or ():
        if item.type == "message":
            words.append(said(item.content).text)
        elif item.type == "function_call":
            called.append((text_of(item.call_id), text_of(item.name), item.arguments))
        elif item.type == "custom_tool_call":
            called.append((text_of(item.call_id), text_of(item.name), canon.decode_any(item.input) if bytes(item.input) else ""))
    return reply("".join(words), called, apart=True)


# --- answered as a stream ---


class _Event(msgspec.Struct):
    type: Any = ""
    response: Raw = Raw(b"")


_event = msgspec.json.Decoder(_Event)
_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))
_GENERATED = generated.pattern("delta")
_SEQUENCE = re.compile(rb'"sequence_number"[ ]?:[ ]?(\d+)')


class _Reader(Relay):
    """response.completed, .incomplete or .failed is the end, and repeats the whole answer with its usage."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked
        self._reading = Reading(usage=Unknown("no usage in the stream"))
        self._created = 0
        self._error = self._message = ""
        self._bytes = 0
        self._latest = b""

    def _dull(self, chunk: bytes) -> bool:
        if b'"response"' in chunk or b'"error"' in chunk or b"[DONE]" in chunk:
            return False
        self._bytes += generated.size(_GENERATED, chunk)
        self._latest = chunk
        return True

    def _event(self, name: bytes, data: bytes) -> int:
        if not data:
            return PASS
        try:
            found = _event.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return PASS
        kind = found.type or name.decode("utf-8", "replace")
        self._latest = data[-4096:]
        if kind == "error":
            self._error, self._message = error.read(data)
            return KEEP
        if not bytes(found.response):
            self._bytes += generated.size(_GENERATED, data)
            return PASS
        try:
            answer = _answer.decode(found.response)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self._trouble = f"{kind} could not be read"
            return KEEP if kind in _TERMINAL else PASS
        self._created = answer.created_at if isinstance(answer.created_at, int) else self._created
        before = self._reading
        self._reading = _read(answer)
        if isinstance(self._reading.usage, Unknown) and not isinstance(before.usage, Unknown):
            self._reading = replace(self._reading, usage=before.usage)
        if bytes(answer.error) not in (b"", b"null"):
            self._error, self._message = error.read(bytes(answer.error))
        return KEEP if kind in _TERMINAL else PASS

    def _huge(self, head: bytes, tail: bytes) -> int:
        kind = next((k for k in _TERMINAL if f'"{k}"'.encode() in head[:4096] or b"event: " + k.encode() in head[:4096]), "")
        if not kind and not any(f'"{k}"'.encode() in tail[-4096:] for k in _TERMINAL):
            return PASS
        raw = edges.member(b"", tail.rstrip(b"\r\n"), b"usage", level=2)
        read = _read(_Answer(id=self._reading.response_id, model=self._reading.model_served, usage=Raw(raw)))
        self._reading = replace(read, finish=kind.removeprefix("response."))
        return KEEP

    def reading(self) -> Reading:
        read = self._reading
        if self._trouble and isinstance(read.usage, Unknown):
            read = replace(read, usage=Unknown(self._trouble))
        return replace(read, complete=self._done, error=self._error, error_message=self._message, output_bytes=self._bytes)

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        """response.incomplete: Codex goes on after it without another paid call (response.failed makes it try five times)."""
        numbers = _SEQUENCE.findall(self._latest)
        if tokens is None and isinstance(self._reading.usage, Known):
            tokens = self._reading.usage.tokens
        read = self._reading
        answer = _shell(read.response_id or "resp_bursar", read.model_served or self._asked.model, self._created, "incomplete", tokens)
        answer["incomplete_details"] = {"reason": "max_output_tokens"}
        number = int(numbers[-1]) + 1 if numbers else 0
        return event({"type": "response.incomplete", "sequence_number": number, "response": answer}, "response.incomplete")


openai_responses = _Responses()
