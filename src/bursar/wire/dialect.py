"""What a dialect is: six verbs over one provider API, and the answers' parts that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ..domain.call import Asked, Edit, Headers, Malformed, Reading
from ..domain.shape import Shape
from ..domain.usage import Tokens, Unknown
from ..domain.verdict import Refusal
from . import error
from .history import BUILT_IN, Signs


class Reader(Protocol):
    """effects.StreamReader, and how to end the stream before the provider does."""

    def feed(self, chunk: bytes) -> bytes:
        """What the client may have now: the chunk itself when nothing is kept back or hidden."""
        ...

    def finish(self) -> None:
        """The provider's stream ended, cleanly or not: what was kept in the buffer is now in `kept`."""
        ...

    @property
    def kept(self) -> bytes: ...
    @property
    def done(self) -> bool:
        """The terminal event passed."""
        ...

    def reading(self) -> Reading: ...

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        """Bytes that end the client's stream properly where it stands, as if the output cap was reached. `reason` is the
        refusal's code; `tokens` is the usage to state, where the pipeline knows better than this reader."""
        ...


class Dialect(Protocol):
    """One provider API. All pure; bytes in, nouns out, and back."""

    @property
    def name(self) -> str: ...

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed: ...

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        """Path and body with the edits applied; no edits: the same objects."""
        ...

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        """A whole answer, decoded (no content coding). `json_demanded`: a reply that is no JSON is malformed."""
        ...

    def edges(self, head: bytes, tail: bytes) -> Reading:
        """An answer too large to gather, from its two ends."""
        ...

    def reader(self, asked: Asked, hide_usage: bool) -> Reader:
        """For a streamed answer. `hide_usage`: our AskUsage added the usage event; the client must not see it."""
        ...

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]: ...

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        """A well-formed 200 reply with this text, stream or not as asked, usage zeros: no provider was asked."""
        ...


class Route(Shape, frozen=True, gc=False):
    """Where a path leads. `provider` is empty where the path names none; `path` is what goes below the provider's base."""

    provider: str
    dialect: Dialect
    path: str
    family: str  # openai | anthropic | gemini | ""


JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def event(value: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _encoder.encode(value) + b"\n\n"


def refusal_headers(refusal: Refusal) -> Headers:
    """A budget stop must not be tried again; a rate limit says when. anthropic-python sleeps through any Retry-After, so
    only refusals that mean it carry one."""
    if refusal.retry_after_s:
        return [JSON, (b"retry-after", str(refusal.retry_after_s).encode())]
    return [JSON, (b"x-should-retry", b"false")]


def refusal_message(refusal: Refusal) -> str:
    return f"{refusal.reason}. {refusal.remedy}" if refusal.remedy else refusal.reason


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def texts(metadata: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """A request's metadata as text pairs; what is not text is nobody's label."""
    if not metadata:
        return ()
    return tuple((k, v) for k, v in list(metadata.items())[:64] if isinstance(v, str))


def session(pairs: tuple[tuple[str, str], ...]) -> str:
    for key, text in pairs:
        if key in ("conversation_id", "session_id", "thread_id"):
            return text
    return ""


def broken(status: int, why: str, body: bytes) -> Reading:
    """An answer that is not what the path promises: an error in some other shape, or nothing we can read."""
    code, message = error.read(body)
    if code or status >= 400:
        return Reading(usage=Unknown(f"HTTP {status}"), error=code or str(status), error_message=message)
    return Reading(usage=Unknown(why), malformed=why)
