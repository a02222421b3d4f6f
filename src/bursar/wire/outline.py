"""The outline of a request in any dialect: whose each message is, and which old text in it a line may stand for."""

from __future__ import annotations

from collections.abc import Callable

from ..domain.outline import Outline
from . import outline_anthropic, outline_gemini, outline_openai

_READERS: dict[str, Callable[[bytes, bool], Outline]] = {
    "openai_chat": outline_openai.chat,
    "openai_responses": outline_openai.responses,
    "anthropic_messages": outline_anthropic.messages,
    "gemini_generate": outline_gemini.contents,
}


def outline(dialect: str, body: bytes, keyed: bool = False) -> Outline:
    """Of a body that its dialect has read without complaint. `keyed`: messages get their keys, which only summaries need."""
    read = _READERS.get(dialect)
    return read(body, keyed) if read else Outline((), (), "a dialect without messages")
