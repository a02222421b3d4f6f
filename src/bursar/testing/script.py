"""What a scripted provider is told to say, and what it saw when it was asked: plain data, and the default script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from .invoice import Buckets

FAULTS = (
    "reset",  # the connection is reset before a head is sent
    "cut",  # … closed half-way through the body
    "error_event",  # a stream that turns into an error event
    "unfinished",  # a stream that ends cleanly without its terminal event
    "stall",  # half of the body, then silence until the client gives up
    "silence",  # not even a head
    "not_json",  # a 200 with an HTML page
    "malformed",  # a well-formed reply whose tool arguments, or demanded JSON, do not parse; billed like any other
    "garbage",  # not HTTP at all
)
HALF = ("cut", "error_event", "unfinished", "stall")  # those that end a stream half-way


@dataclass(frozen=True)
class Seen:
    """One request as the provider saw it. `body` is decoded when it is first asked for."""

    number: int  # of all requests, from 1
    at_us: int  # the provider's clock, microseconds since the epoch
    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names; the last of duplicates
    raw: bytes
    # openai.chat | openai.responses | openai.embeddings | anthropic.messages | anthropic.count | gemini | models | ""
    dialect: str
    model: str
    stream: bool

    @cached_property
    def body(self) -> Any:
        """The JSON object, None when there is none."""
        try:
            value: Any = json.loads(self.raw) if self.raw else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Say:
    """One answer. Everything has a default, so a test says only what it is about."""

    text: str = "Done."
    tools: tuple[tuple[str, str], ...] = ()  # (name, arguments as JSON text)
    usage: Buckets | None = None  # None: counted from the bytes of request and reply, four to a token
    tell_usage: bool = True  # False: bills, but does not say what
    status: int = 200
    error: str = ""  # the provider's error code; empty: the usual one for the status
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    fault: str = ""  # one of FAULTS
    finish: str = ""  # the provider's own word; empty: the usual one
    model: str = ""  # served under another name than asked for
    pieces: int = 4  # text deltas in a stream
    pause_s: float = 0.0  # before each piece
    wait_s: float = 0.0  # before the head
    at_us: int = 0  # bill it at this moment rather than now
    ref: str = ""  # put on the invoice line
    ident: str = ""  # what ids in the answer are made of, so that a plan can know them; empty: the provider's own count


Script = Callable[[Seen], Say]


@dataclass(frozen=True)
class Always:
    """A script that says the same to every request."""

    say: Say = field(default_factory=Say)

    def __call__(self, seen: Seen) -> Say:
        return self.say


def by_header(seen: Seen) -> Say:
    """The default script: header `x-script` holds the fields of a Say as JSON, `usage` as an object of buckets, and
    optionally `models`, {model: the fields that differ when it is asked}: so a fallback can be told something else.
    Without the header: `Say()`. ValueError on a field that does not exist."""
    told = json.loads(seen.headers.get("x-script") or "{}")
    return said({**told, **told.get("models", {}).get(seen.model, {})})


def said(told: dict[str, Any]) -> Say:
    """A Say from plain JSON data."""
    told = {name: value for name, value in told.items() if name != "models"}
    strange = set(told) - {f.name for f in fields(Say)}
    if strange or told.get("fault", "") not in ("", *FAULTS):
        raise ValueError(
            f"x-script: unknown {sorted(strange) or told['fault']}; fields are those of Say, faults {FAULTS}"
        )
    if isinstance(told.get("usage"), dict):
        told["usage"] = Buckets(**told["usage"])
    for name in ("tools", "headers"):
        if name in told:
            told[name] = tuple((str(a), str(b)) for a, b in told[name])
    return Say(**told)
