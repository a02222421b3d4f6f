"""Gemini generateContent and streamGenerateContent (AI Studio and Vertex): the model is in the path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, cast

import msgspec
from msgspec import Raw

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.shape import replace
from ..domain.usage import Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import body as gate
from . import edges, error, gemini_usage, generated, opening, splice, usage, wind_down
from .dialect import EVENTS, JSON, Reader, broken, encode, event, is_json, refusal_headers, refusal_message, session, text_of, texts
from .gemini_array import ArrayRelay
from .gemini_history import answered, gemini_content, system, tools
from .history import BUILT_IN, NO_PREFACE, Signs, printed
from .openai_history import SAID_MAX
from .opening import counted
from .stream import HOLD, PASS, Relay

_MODEL = re.compile(r"/(?:models|tunedModels|endpoints)/([^/:]+):")

# --- asked ---


class _Config(gate.Object):
    __slots__ = ()
    member = "generationConfig"


class _SnakeConfig(gate.Object):
    __slots__ = ()
    member = "generation_config"


class _Body(msgspec.Struct):
    """The protocol's JSON takes every name in camel and in snake case."""

    generationConfig: _Config = _Config(None)
    generation_config: _SnakeConfig = _SnakeConfig(None)
    contents: list[Raw] | dict[str, Raw] | None = None  # one may stand without its list
    tools: Raw = Raw(b"")
    systemInstruction: Raw = Raw(b"")
    system_instruction: Raw = Raw(b"")
    cachedContent: str | None = None
    cached_content: str | None = None
    labels: dict[str, Any] | None = None


def _number(config: dict[str, Any], *names: str) -> int | Malformed | None:
    """A count of generationConfig; the protocol's JSON takes 100, 100.0 and "100"."""
    given = [config[name] for name in names if config.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        return Malformed(f"generationConfig names {names[0]} twice")
    raw = given[0]
    if isinstance(raw, str) and raw.isdigit():
        raw = int(raw)
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 0:
        return Malformed(f"generationConfig.{names[0]} is not a whole number from 0 up")
    return raw


_contents = attrgetter("contents")


class _Generate:
    name = "gemini_generate"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        teller = signs.teller(self.name, gemini_content)
        found = opening.read(body, _Body, _contents, opening.look(body, teller.openings, len(body)))
        if isinstance(found, Malformed):
            return found
        found, _, begun = found  # the edits look for themselves: both spellings are allowed, one level down
        camel, snake = found.generationConfig.value, found.generation_config.value
        if camel is not None and snake is not None:
            return Malformed("the body names generationConfig twice, in camel and in snake case")
        config = cast("dict[str, Any]", camel or snake or {})
        cap = _number(config, "maxOutputTokens", "max_output_tokens")
        choices = _number(config, "candidateCount", "candidate_count")
        if isinstance(cap, Malformed):
            return cap
        if isinstance(choices, Malformed):
            return choices
        where = "tools"
        try:
            offered = signs.preface(bytes(found.tools), tools) if len(memoryview(found.tools)) else NO_PREFACE
            where = "systemInstruction"
            raw = bytes(found.systemInstruction) or bytes(found.system_instruction)
            ordered = signs.preface(raw, system) if raw else NO_PREFACE
            where = "contents"
            contents = [Raw(encode(found.contents))] if isinstance(found.contents, dict) else found.contents or ()
            told = teller.tell(contents, replace(offered, weight=offered.weight + ordered.weight), begun, b'"contents"')
        except (msgspec.DecodeError, RecursionError) as bad:
            return gate.malformed(where, bad)
        why = told.remote
        if found.cachedContent or found.cached_content:
            why = "cached content kept by the provider"
        elif not why and offered.hosted:
            why = "tools that the provider runs"
        model = _MODEL.search(path)
        pairs = texts(found.labels)
        kind = config.get("responseMimeType") or config.get("response_mime_type")
        return Asked(
            model=model[1] if model else "", stream=path.endswith(":streamGenerateContent"), output_cap=cap,
            choices=max(choices or 1, 1), usage_asked=True, unbounded_input=why, conversation=session(pairs),
            metadata=pairs, messages=counted(contents, begun), human_turns=told.end.turns, tool_depth=told.end.depth,
            tools=offered.tools, history=told, print=printed(ordered.print, offered.print),
            json_demanded=kind == "application/json", hash=begun.hash() if begun is not None else "",
        )  # fmt: skip

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    path = _MODEL.sub(lambda found, to=model: found[0].replace(found[1] + ":", to + ":"), path, count=1)
                case CapOutput(tokens):
                    body = _cap(body, b"%d" % tokens)
                case AskUsage():
                    pass  # every event says
                case WindDown(text):
                    body = wind_down.wind_down(self.name, body, text)
        return path, body

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        if (status < 400 and body.lstrip()[:1] == b"[") or body.startswith((b"data:", b"event:", b":")):
            reader = _Reader(Asked())
            reader.feed(body)
            reader.finish()
            return reader.reading()
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as bad:
            return broken(status, f"the answer is not a generateContent response: {bad}", body)
        tally = _Tally()
        tally.take(answer, body)
        reading = tally.reading(True)
        if status >= 400 or bytes(answer.error) not in (b"", b"null"):
            code, message = error.read(body)
            reading = replace(reading, error=code or str(status), error_message=message, output_bytes=0)
        elif json_demanded and reading.finish == "STOP" and not _parses(tally.parts):
            reading = replace(reading, malformed="JSON was demanded, the reply is not JSON")
        return reading

    def edges(self, head: bytes, tail: bytes) -> Reading:
        raw = edges.member(head, tail, b"usageMetadata")
        model = edges.text(head, tail, b"modelVersion")
        tally = _Tally()
        tally.take(_Answer(usageMetadata=Raw(raw), modelVersion=model), b"")
        return tally.reading(True)

    def reader(self, asked: Asked, hide_usage: bool) -> Reader:
        return _Reader(asked)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        info: dict[str, Any] = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": refusal.code.upper(), "domain": "bursar",
            "metadata": {"code": refusal.code},
        }  # fmt: skip
        details = [info]
        if refusal.retry_after_s:
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refusal.retry_after_s}s"})
        word = _STATUS.get(refusal.status) or ("INTERNAL" if refusal.status >= 500 else "INVALID_ARGUMENT")
        inner = {"code": refusal.status, "message": refusal_message(refusal), "status": word, "details": details}
        return refusal_headers(refusal), encode({"error": inner})

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        answer = {
            "candidates": [_candidate([{"text": text}], "STOP")],
            "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
            "modelVersion": model, "responseId": call_id,
        }  # fmt: skip
        return ([EVENTS], event(answer)) if asked.stream else ([JSON], encode(answer))


_STATUS = {
    401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def _cap(body: bytes, tokens: bytes) -> bytes:
    for outer in ("generation_config", "generationConfig"):
        member = splice.find(body, outer)
        if member is not None and body[member.value : member.value + 1] == b"{":
            named = splice.find(body[member.value : member.end], "max_output_tokens")
            return splice.put_inside(body, outer, "max_output_tokens" if named else "maxOutputTokens", tokens)
    return splice.put(body, "generationConfig", b'{"maxOutputTokens":' + tokens + b"}")


def _candidate(parts: list[dict[str, str]], finish: str) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}


# --- answered ---


class _Grounding(msgspec.Struct):
    webSearchQueries: list[Any] | None = None


class _Said(msgspec.Struct):
    parts: Raw = Raw(b"")


class _Candidate(msgspec.Struct):
    finishReason: Any = None
    content: _Said | None = None
    groundingMetadata: _Grounding | None = None


class _Feedback(msgspec.Struct):
    blockReason: Any = ""


class _Answer(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    usageMetadata: Raw = Raw(b"")
    modelVersion: Any = ""
    responseId: Any = ""
    promptFeedback: _Feedback | None = None
    error: Raw = Raw(b"")


_answer = msgspec.json.Decoder(_Answer)
_TEXT = generated.pattern("text")
_ARGS = re.compile(rb'"args"[ \t\r\n]*:[ \t\r\n]*(?=\{)')


def _bytes(parts: bytes) -> int:
    total = generated.size(_TEXT, parts)
    for found in _ARGS.finditer(parts):
        total += max(splice.value_end(parts, found.end()) - found.end(), 0)
    return total


class _Piece(msgspec.Struct):
    text: Any = None
    thought: Any = False
    functionCall: Raw = Raw(b"")


_pieces = msgspec.json.Decoder(list[_Piece])


def _parses(parts: list[bytes]) -> bool:
    """Whether a reply's text is JSON; one that calls a function, or says nothing, has none to be."""
    try:
        pieces = [piece for part in parts for piece in _pieces.decode(part)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return True
    said = [piece.text for piece in pieces if isinstance(piece.text, str) and not piece.thought]
    return not said or any(bytes(piece.functionCall) for piece in pieces) or is_json("".join(said))


class _Tally:
    """What the events of one answer said so far; a whole answer is one event."""

    def __init__(self) -> None:
        self.usage: usage.Object = {}
        self.raw: list[bytes] = []
        self.model = self.ident = self.finish = self.error = self.message = self.trouble = ""
        self.searches = self.bytes = self.size = 0
        self.parts: list[bytes] = []

    def take(self, answer: _Answer, data: bytes) -> bool:
        """Whether this event may be the last: it names a finishReason, or why the prompt was blocked."""
        ends = False
        self.model = text_of(answer.modelVersion) or self.model
        self.ident = text_of(answer.responseId) or self.ident
        for candidate in answer.candidates or ():
            finish = candidate.finishReason
            if finish and finish != "FINISH_REASON_UNSPECIFIED":
                self.finish, ends = str(finish), True
            if candidate.content is not None:
                parts = bytes(candidate.content.parts)
                self.bytes += _bytes(parts)
                self.size += len(parts)
                if self.size <= SAID_MAX and parts:
                    self.parts.append(parts)
            if candidate.groundingMetadata is not None:
                self.searches = max(self.searches, len(candidate.groundingMetadata.webSearchQueries or ()))
        if answer.promptFeedback is not None and text_of(answer.promptFeedback.blockReason):
            self.finish, ends = text_of(answer.promptFeedback.blockReason), True
        if bytes(answer.error) not in (b"", b"null"):
            self.error, self.message = error.read(data)
        raw = bytes(answer.usageMetadata)
        try:
            stated = usage.read(raw)
        except usage.Unreadable as why:
            self.trouble = str(why)
            stated = None
        if stated:
            self.usage = usage.merge(self.usage, stated)
            self.raw = [*self.raw[:1], raw]
        return ends

    def reading(self, complete: bool) -> Reading:
        known: Usage = Unknown(self.trouble or "no usage in the answer")
        if self.usage and not self.trouble:
            raw = b"\n".join(self.raw)
            known = gemini_usage.tally(self.usage, raw, final=bool(complete or self.finish), searches=self.searches)
        return Reading(
            usage=known, model_served=self.model, service_tier=gemini_usage.tier(self.usage), response_id=self.ident,
            finish=self.finish, complete=complete, error=self.error, error_message=self.message, output_bytes=self.bytes,
            reply=answered(self.parts) if complete and self.size <= SAID_MAX and not self.error else None,
        )  # fmt: skip


# --- answered as a stream ---


class _Events(Relay):
    """The SSE form. There is no terminal event: one with a finishReason is the last if nothing follows."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self._tally = tally

    def _dull(self, chunk: bytes) -> bool:
        return False  # every event carries usage

    def _event(self, name: bytes, data: bytes) -> int:
        try:
            answer = _answer.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return PASS
        return HOLD if self._tally.take(answer, data) else PASS

    def _huge(self, head: bytes, tail: bytes) -> int:
        raw = edges.member(b"", tail.rstrip(b"\r\n"), b"usageMetadata")
        self._tally.take(_Answer(usageMetadata=Raw(raw)), b"")
        return HOLD if b'"finishReason"' in tail or b'"finishReason"' in head else PASS


class _Array(ArrayRelay):
    """The JSON-array form, which a client gets that does not ask for alt=sse."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self._tally = tally

    def _element(self, data: bytes) -> bool:
        try:
            answer = _answer.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        return self._tally.take(answer, data)


class _Reader:
    """Which of the two forms it is, the first byte says."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._tally = _Tally()
        self._form: _Events | _Array | None = None

    def feed(self, chunk: bytes) -> bytes:
        if self._form is None:
            first = chunk.lstrip(b"\xef\xbb\xbf \t\r\n")
            if not first:
                return chunk
            self._form = _Array(self._tally) if first[:1] == b"[" else _Events(self._tally)
        return self._form.feed(chunk)

    def finish(self) -> None:
        if self._form is not None:
            self._form.finish()

    @property
    def kept(self) -> bytes:
        return self._form.kept if self._form is not None else b""

    @property
    def done(self) -> bool:
        return self._form is not None and self._form.done

    def reading(self) -> Reading:
        return self._tally.reading(self.done)

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        """A last candidate with finishReason MAX_TOKENS, in the form the stream has."""
        answer: dict[str, Any] = {"candidates": [_candidate([], "MAX_TOKENS")]}
        if tokens is not None:
            answer["usageMetadata"] = {
                "promptTokenCount": tokens.input_total, "cachedContentTokenCount": tokens.cache_read,
                "candidatesTokenCount": tokens.output_total - tokens.reasoning, "thoughtsTokenCount": tokens.reasoning,
                "totalTokenCount": tokens.total,
            }  # fmt: skip
        answer["modelVersion"] = self._tally.model or self._asked.model
        if isinstance(self._form, _Array):
            return self._form.separator() + encode(answer) + b"]"
        return event(answer)


gemini_generate = _Generate()
