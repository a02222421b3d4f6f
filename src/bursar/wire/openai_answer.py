"""What the OpenAI family answers when it does not stream: chat, legacy completions and embeddings; and its refusals."""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Raw

from ..domain.call import Headers, Reading
from ..domain.history import Reply
from ..domain.usage import Tokens, Unknown, Usage
from ..domain.verdict import Refusal
from . import canon, edges, error, generated, openai_usage, usage
from .dialect import broken, encode, is_json, refusal_headers, refusal_message, text_of
from .openai_history import Called, reply

# --- refused ---

_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def refuse(refusal: Refusal) -> tuple[Headers, bytes]:
    """The OpenAI family's error body."""
    kind = _TYPES.get(refusal.status) or ("server_error" if refusal.status >= 500 else "invalid_request_error")
    body = {"error": {"message": refusal_message(refusal), "type": kind, "param": None, "code": refusal.code}}
    return refusal_headers(refusal), encode(body)


# --- answered ---


class _Function(msgspec.Struct):
    name: Any = ""
    arguments: Any = ""
    input: Any = ""


class _ToolCall(msgspec.Struct):
    id: Any = ""
    function: _Function | None = None
    custom: _Function | None = None


class _Said(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    finish_reason: Any = None
    message: _Said | None = None
    text: Any = None  # legacy completions


class _Answer(msgspec.Struct):
    id: Any = ""
    model: Any = ""
    service_tier: Any = ""
    choices: list[_Choice] | None = None
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


class _Bare(msgspec.Struct):
    """The same where the rest has an unexpected shape: usage is still usage."""

    id: Any = ""
    model: Any = ""
    service_tier: Any = ""
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


class _UsualFunction(msgspec.Struct):
    name: str = ""
    arguments: str = ""
    input: None = None


class _UsualCall(msgspec.Struct):
    function: _UsualFunction
    id: str = ""


class _UsualMessage(msgspec.Struct):
    content: str | None = None
    reasoning_content: None = None
    reasoning: None = None
    tool_calls: list[_UsualCall] | None = None


class _UsualChoice(msgspec.Struct):
    message: _UsualMessage
    finish_reason: str | None = None
    text: None = None


class _Usual(msgspec.Struct):
    """What nearly every answer is: one choice of text and calls of functions. One typed decode tells; any other is an `_Answer`."""

    choices: Annotated[list[_UsualChoice], Meta(min_length=1, max_length=1)]
    id: str = ""
    model: str = ""
    service_tier: str | None = None
    usage: Raw = Raw(b"")
    error: None = None


_answer, _bare, _usual = msgspec.json.Decoder(_Answer), msgspec.json.Decoder(_Bare), msgspec.json.Decoder(_Usual)
GENERATED = generated.pattern("content", "reasoning_content", "reasoning", "refusal", "arguments", "text")
_ONCE = generated.pattern("content", "reasoning_content", "reasoning", "refusal", "arguments")


def counted(raw: bytes, embedding: bool) -> tuple[Usage, int | None, str]:
    """(usage, provider's cost, tier) of a whole answer's usage member."""
    if not embedding:
        known = openai_usage.plain(raw)
        if known is not None:
            return known, None, ""
    try:
        stated = usage.read(raw)
    except usage.Unreadable as why:
        return Unknown(str(why)), None, ""
    if stated is None:
        return Unknown("no usage in the answer"), None, ""
    return openai_usage.tally(stated, raw, embedding=embedding), openai_usage.cost(stated), openai_usage.tier(stated)


def whole(status: int, body: bytes, json_demanded: bool, embedding: bool) -> Reading:
    """A chat completion, legacy completion or embedding that came whole."""
    if status < 400 and not embedding:
        try:
            usual = _usual.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass
        else:
            return _reading(usual, json_demanded)
    choices: list[_Choice] = []
    try:
        answer: _Answer | _Bare = _answer.decode(body)
        choices = answer.choices or []
    except msgspec.ValidationError:
        try:
            answer = _bare.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return broken(status, "the answer is not an object", body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as bad:
        return broken(status, f"the answer is not JSON: {bad}", body)
    raw = bytes(answer.usage)
    known, cost, tier = counted(raw, embedding)
    code = message = ""
    if status >= 400 or bytes(answer.error) not in (b"", b"null"):
        code, message = error.read(body)
        code = code or str(status)
    finish = ""
    for choice in choices:
        if isinstance(choice.finish_reason, str):
            finish = choice.finish_reason
            break
    return Reading(
        usage=known, model_served=text_of(answer.model), service_tier=text_of(answer.service_tier) or tier,
        response_id=text_of(answer.id), finish=finish, error=code, error_message=message,
        output_bytes=_said_bytes(choices),
        malformed="" if status >= 400 or code else _malformed(choices, json_demanded), provider_cost_pico=cost,
        reply=_reply(choices[0]) if len(choices) == 1 and not code else None,
    )  # fmt: skip


def _reading(answer: _Usual, json_demanded: bool) -> Reading:
    """The same of a usual answer that is no error. Arguments are decoded once, for the check and for the reply."""
    (choice,) = answer.choices
    message, finish = choice.message, choice.finish_reason or ""
    text, calls = message.content or "", message.tool_calls
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    malformed = ""
    uses: list[Called] = []
    if calls:
        for call in calls:
            function = call.function
            given: Any = function.arguments
            size += len(given) if given.isascii() else len(given.encode("utf-8", "replace"))
            try:
                value = canon.decode_any(given) if given else None
                if value.__class__ is dict:
                    given = value
            except (msgspec.DecodeError, RecursionError):
                malformed = "tool arguments are not JSON"
            uses.append((call.id, function.name, given))
    elif json_demanded and message.content is not None and not is_json(text):
        malformed = "JSON was demanded, the reply is not JSON"
    if malformed and finish in ("length", "content_filter"):
        malformed = ""
    raw = bytes(answer.usage)
    known, cost, tier = openai_usage.plain(raw), None, ""
    if known is None:
        known, cost, tier = counted(raw, False)
    return Reading(
        known, answer.model, answer.service_tier or tier, answer.id, finish, True, "", "", size, malformed, cost, reply(text, uses),
    )  # fmt: skip


def _reply(choice: _Choice) -> Reply | None:
    """What will stand in the next request, where there was one choice."""
    message = choice.message
    if message is None:
        return None
    said: Any = message.content
    if isinstance(said, list):
        parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", said) if isinstance(part, dict)]
        said = "".join([text_of(part.get("text")) for part in parts])
    uses: list[Called] = []
    for call in message.tool_calls or ():
        called = call.function or call.custom
        if called is not None:
            uses.append((text_of(call.id), text_of(called.name), called.arguments or called.input))
    return reply(text_of(said), uses)


def _said_bytes(choices: list[_Choice]) -> int:
    """The bytes of text, reasoning and arguments that a whole answer holds."""
    total = 0
    for choice in choices:
        said: list[Any] = [choice.text]
        if choice.message is not None:
            said += (choice.message.content, choice.message.reasoning_content, choice.message.reasoning)
            said += (call.function.arguments for call in choice.message.tool_calls or () if call.function)
        for text in said:
            if isinstance(text, str):
                total += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            elif text is not None:
                total += generated.size(GENERATED, encode(text))
    return total


def _malformed(choices: list[_Choice], json_demanded: bool) -> str:
    """Why a model's output is unusable. Cut by the cap it is not malformed but cut; an empty argument text means none."""
    for choice in choices:
        if choice.message is None or choice.finish_reason in ("length", "content_filter"):
            continue
        for call in choice.message.tool_calls or ():
            arguments = call.function.arguments if call.function else ""
            if isinstance(arguments, str) and arguments and not is_json(arguments):
                return "tool arguments are not JSON"
        content = choice.message.content
        if json_demanded and isinstance(content, str) and not choice.message.tool_calls and not is_json(content):
            return "JSON was demanded, the reply is not JSON"
    return ""


def generated_texts(data: bytes) -> list[bytes]:
    """Reasoning that is told twice (OpenRouter's reasoning_details) counts once."""
    return (_ONCE if b'"reasoning_details"' in data else GENERATED).findall(data)


def edge_reading(head: bytes, tail: bytes, embedding: bool) -> Reading:
    known, cost, tier = counted(edges.member(head, tail, b"usage"), embedding)
    return Reading(
        usage=known, model_served=edges.text(head, tail, b"model"), service_tier=edges.text(head, tail, b"service_tier") or tier,
        response_id=edges.text(head, tail, b"id"), provider_cost_pico=cost,
    )  # fmt: skip


def as_usage(tokens: Tokens) -> dict[str, Any]:
    """Our buckets in OpenAI's words."""
    return {
        "prompt_tokens": tokens.input_total, "completion_tokens": tokens.output_total, "total_tokens": tokens.total,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read + tokens.cache_read_audio},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }  # fmt: skip
