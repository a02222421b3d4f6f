"""A request's messages in order, and the old text in them that a line may stand for. Sizes and places, no text."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One message, or one item where a dialect lists items. `role`: system | human | model | result. Offsets are bytes of the
    body (any other unit will do, the same throughout)."""

    role: str
    start: int
    end: int
    key: str = ""  # the same in every request that brings this message again unchanged
    signed: bool = False  # holds thinking, reasoning or a signature that must go back exactly as it came


class Piece(NamedTuple):
    """One JSON string that a shorter one may replace. `kind`: record (a result that is JSON), text (any other result) or
    argument (a long value in a call's arguments). `start` and `end` are the string with its quotes."""

    kind: str
    key: str  # the same in every request that brings this piece again
    message: int  # index into `messages`
    tool: str
    failed: bool
    start: int
    end: int


class Outline(NamedTuple):
    """`fixed` says why nothing in it may be changed: the history is kept by the provider, or compacted there."""

    messages: tuple[Message, ...]
    pieces: tuple[Piece, ...]  # by `start`
    fixed: str = ""
