"""The request that asks a cheap model for a summary of earlier messages, in the dialect of the request they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from ..domain.call import Asked, CapOutput
from ..domain.outline import Outline
from .dialect import encode
from .openai_chat import openai_chat

INSTRUCTION = (
    "You shorten an agent's history so that it can go on working. Summarise the messages below in at most 200 words. Keep, word"
    " for word: every identifier, name, date, amount, path and file that was mentioned; what was asked; what was decided and"
    " done, with the outcome; what failed and why; what is still open. Do not answer the messages and do not add anything."
)
OPENING = "Summary of earlier turns (the messages themselves were removed to save tokens):\n"
PART_MAX = 4_000  # characters of one text in the transcript, both ends of it: a file that was read does not help a summary

# Members that hold words. Everything else (ids, types, signatures, pictures) says nothing to a summary.
_WORDS = frozenset((
    "content", "text", "input", "output", "arguments", "args", "response", "result", "name", "thinking", "parts", "function",
    "functionCall", "functionResponse", "function_call", "function_response", "tool_calls", "refusal", "error",
))  # fmt: skip
_PICTURES = frozenset(("image", "image_url", "input_image", "document", "input_file", "input_audio", "redacted_thinking"))


def transcript(body: bytes, outline: Outline, first: int, span: int) -> str:
    """The messages as plain text, one line to each text, under whose they are."""
    out: list[str] = []
    for message in outline.messages[first : first + span]:
        said = list(_words(msgspec.json.decode(body[message.start : message.end]), False))
        if said:
            out.append(f"[{message.role}]\n" + "\n".join(said))
    return "\n".join(out)


def _words(value: Any, free: bool) -> Iterator[str]:
    """`free`: below a member whose own members are anybody's, such as arguments."""
    if isinstance(value, str):
        if value:
            half = PART_MAX // 2
            yield value if len(value) <= PART_MAX else f"{value[:half]} … {value[-half:]}"
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _words(item, free)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if not free and members.get("type") in _PICTURES:
            return
        for name, inner in members.items():
            if free and not isinstance(inner, dict | list):
                yield f"{name}: {inner}"
            elif free or name in _WORDS:
                yield from _words(inner, free or name in ("input", "args", "response"))
    elif free and value is not None:
        yield str(value)


def request(dialect: str, model: str, said: str, cap: int) -> bytes:
    """The body to send to `model`, which answers with the summary in at most `cap` tokens. (Gemini's model is in the path.)"""
    match dialect:
        case "anthropic_messages":
            value: dict[str, Any] = {
                "model": model, "max_tokens": cap, "system": INSTRUCTION, "messages": [{"role": "user", "content": said}],
            }  # fmt: skip
        case "openai_responses":
            value = {"model": model, "max_output_tokens": cap, "instructions": INSTRUCTION, "input": said, "store": False}
        case "gemini_generate":
            value = {
                "systemInstruction": {"parts": [{"text": INSTRUCTION}]},
                "contents": [{"role": "user", "parts": [{"text": said}]}],
                "generationConfig": {"maxOutputTokens": cap},
            }
        case _:
            messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": said}]
            body = encode({"model": model, "messages": messages})
            return openai_chat.edit("", body, Asked(model=model), (CapOutput(cap),))[1]  # which of two names the cap has
    return encode(value)
