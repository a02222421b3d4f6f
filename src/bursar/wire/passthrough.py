"""Everything else below a provider: passed on as it is, read only for usage in a shape we know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.shape import replace
from ..domain.usage import Known, Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import anthropic_usage, edges, error, gemini_usage, openai_usage, splice
from . import usage as counts
from .anthropic_messages import anthropic_messages
from .dialect import JSON, Reader, encode, text_of
from .gemini_generate import gemini_generate
from .history import BUILT_IN, Signs
from .openai_answer import refuse
from .openai_chat import openai_chat
from .openai_responses import openai_responses
from .usage import Object, Unreadable, count, part, parts


class _Body(msgspec.Struct):
    model: Any = ""
    stream: Any = False


class _Passthrough:
    name = "passthrough"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        """Never Malformed: a body that is not JSON (a file, a form) is none of our business."""
        if body[:1] != b"{" or path.endswith(_FREE):
            return Asked()
        try:
            found = msgspec.json.decode(body, type=_Body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return Asked()
        return Asked(model=text_of(found.model), stream=found.stream is True)

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    body = splice.put(body, "model", encode(model), asked.members)
                case CapOutput() | AskUsage() | WindDown():
                    pass  # what this path calls its cap, nobody told us
        return path, body

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        if body.startswith((b"data:", b"event:", b":")):
            reader = _Reader(Asked())
            reader.feed(body)
            reader.finish()
            return reader.reading()
        code, message = error.read(body) if status >= 400 else ("", "")
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return Reading(usage=Unknown("nothing in the answer that we know as usage"), error=code, error_message=message)
        known, cost = _usage(answer)
        return Reading(
            usage=known, model_served=text_of(answer.model) or text_of(answer.modelVersion), response_id=text_of(answer.id),
            service_tier=text_of(answer.service_tier), error=code or (str(status) if status >= 400 else ""),
            error_message=message, provider_cost_pico=cost,
        )  # fmt: skip

    def edges(self, head: bytes, tail: bytes) -> Reading:
        raw = edges.member(head, tail, b"usage")
        meta = edges.member(head, tail, b"usageMetadata")
        known, cost = _usage(_Answer(usage=Raw(raw), usageMetadata=Raw(meta)))
        return Reading(usage=known, model_served=edges.text(head, tail, b"model"), provider_cost_pico=cost)

    def reader(self, asked: Asked, hide_usage: bool) -> Reader:
        return _Reader(asked)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        return refuse(refusal)

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        """No shape to say it in: the plainest one."""
        return [JSON], encode({"message": text})


# Counting tokens costs nothing; with no model named, nothing is held for it.
_FREE = ("/count_tokens", ":countTokens", "/input_tokens", "/tokenize")


class _Answer(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    modelVersion: Any = ""
    type: Any = ""
    service_tier: Any = ""
    usage: Raw = Raw(b"")
    usageMetadata: Raw = Raw(b"")
    meta: Raw = Raw(b"")
    # Ollama's own API
    prompt_eval_count: Any = None
    eval_count: Any = None
    # answers of token counters
    input_tokens: Any = None
    totalTokens: Any = None


_answer = msgspec.json.Decoder(_Answer)


def _usage(answer: _Answer) -> tuple[Usage, int | None]:
    raw = bytes(answer.usage)
    try:
        stated = counts.read(raw)
        if stated:
            return _shaped(answer, stated, raw)
        google = bytes(answer.usageMetadata)
        stated = counts.read(google)
        if stated:
            return gemini_usage.tally(stated, google), None
        cohere = counts.read(bytes(answer.meta))
        if cohere and cohere.get("billed_units") is not None:
            return _billed(part(cohere, "billed_units"), bytes(answer.meta)), None
    except Unreadable as why:
        return Unknown(str(why)), None
    if isinstance(answer.prompt_eval_count, int) or isinstance(answer.eval_count, int):
        own: Object = {"prompt_tokens": answer.prompt_eval_count, "completion_tokens": answer.eval_count or 0}
        return openai_usage.tally(own, encode(own)), None
    if isinstance(answer.input_tokens, int) or isinstance(answer.totalTokens, int):
        return Known(Tokens()), None  # tokens were counted, none were bought
    return Unknown("nothing in the answer that we know as usage"), None


def _shaped(answer: _Answer, stated: Object, raw: bytes) -> tuple[Usage, int | None]:
    if "billed_units" in stated:
        return _billed(part(stated, "billed_units"), raw), None
    if "inputTokens" in stated or "outputTokens" in stated:
        return _bedrock(stated, raw), None
    anthropic = answer.type == "message" or "cache_creation_input_tokens" in stated or "cache_read_input_tokens" in stated
    if anthropic and "total_tokens" not in stated and "prompt_tokens" not in stated:
        return anthropic_usage.tally(stated, raw), None
    if stated.get("type") == "duration":
        seconds = count(stated, "seconds")
        return (Known(Tokens(other=(("second", seconds),)), raw) if seconds is not None else Unknown("no seconds")), None
    return openai_usage.tally(stated, raw), openai_usage.cost(stated)


def _billed(units: Object, raw: bytes) -> Usage:
    """Cohere bills its own units, which differ from the tokens it also reports."""
    into, outof = count(units, "input_tokens"), count(units, "output_tokens")
    others = tuple((unit, n) for name, unit in _COHERE if (n := count(units, name)))
    if into is None and outof is None and not others:
        return Unknown("billed_units has no count we know")
    return Known(Tokens(input=into or 0, output=outof or 0, other=others), raw)


_COHERE = (("classifications", "classification"), ("images", "image"), ("search_units", "search_unit"))


def _bedrock(stated: Object, raw: bytes) -> Usage:
    """Converse: cache counts stand beside inputTokens."""
    into, outof = count(stated, "inputTokens"), count(stated, "outputTokens")
    if into is None or outof is None:
        return Unknown("the usage object lacks inputTokens or outputTokens")
    read, written = count(stated, "cacheReadInputTokens") or 0, count(stated, "cacheWriteInputTokens") or 0
    hour = sum(count(item, "inputTokens") or 0 for item in parts(stated, "cacheDetails") if item.get("ttl") == "1h")
    hour = min(hour, written)
    return Known(Tokens(input=into, cache_read=read, cache_write=written - hour, cache_write_1h=hour, output=outof), raw)


class _Plain:
    """Bytes through. Its last line may be an object with usage in it (Ollama's own API streams lines)."""

    def __init__(self) -> None:
        self._line = b""
        self._done = False

    def feed(self, chunk: bytes) -> bytes:
        data = self._line + chunk
        line = data[data.rstrip().rfind(b"\n") + 1 :]
        self._line = line if len(line) <= _LINE_MAX else b""
        return chunk

    def finish(self) -> None:
        self._done = True  # no terminal event is known, so an end is an end

    @property
    def kept(self) -> bytes:
        return b""

    @property
    def done(self) -> bool:
        return False

    def reading(self) -> Reading:
        line = self._line.strip()
        reading = passthrough.whole(200, line) if line[:1] == b"{" else Reading(usage=Unknown("nothing in the stream that we know"))
        return replace(reading, complete=self._done)

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        return b""  # how such a stream ends, nobody told us


_LINE_MAX = 64 * 1024


class _Reader:
    """A stream on a path we do not know may still speak a dialect that we do: its first bytes say."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._inner: Reader | None = None
        self._kept = b""
        self._begun = b""  # the first event, until it is whole enough to say what is spoken

    def feed(self, chunk: bytes) -> bytes:
        if self._inner is None:
            self._begun += chunk
            start = self._begun.lstrip(b"\xef\xbb\xbf\r\n")
            if _sse_so_far(start) and not _EVENT.search(start) and len(start) < _LINE_MAX:
                return b""
            self._inner = self._pick(start)
            chunk, self._begun = self._begun, b""
        return self._inner.feed(chunk)

    def _pick(self, start: bytes) -> Reader:
        for mark, dialect in _SPOKEN if _sse_so_far(start) else ():
            if mark in start:
                return dialect.reader(self._asked, False)
        return _Plain()

    def finish(self) -> None:
        if self._inner is None and self._begun:
            self._inner = self._pick(self._begun)
            self._kept = self._inner.feed(self._begun)
        if self._inner is not None:
            self._inner.finish()

    @property
    def kept(self) -> bytes:
        return self._kept + self._inner.kept if self._inner is not None else b""

    @property
    def done(self) -> bool:
        return self._inner is not None and self._inner.done

    def reading(self) -> Reading:
        return self._inner.reading() if self._inner is not None else Reading(usage=Unknown("an empty stream"), complete=False)

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        return self._inner.close_early(reason, tokens) if self._inner is not None else b""


# An event with data; comments and pings before it say nothing.
_EVENT = re.compile(rb"(?:^|[\r\n])data[^\r\n]*+(?>\r\n|\n|\r)(?:[^\r\n]++(?>\r\n|\n|\r))*+(?>\r\n|\n|\r)")
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def _sse_so_far(start: bytes) -> bool:
    """Whether a stream that begins so may be server-sent events."""
    return any(start.startswith(field) or field.startswith(start) for field in _FIELDS)


_SPOKEN = (
    (b"message_start", anthropic_messages), (b'"response.created"', openai_responses),
    (b'"usageMetadata"', gemini_generate), (b'"choices"', openai_chat), (b'"thread.', openai_chat),
)  # fmt: skip

passthrough = _Passthrough()
