"""Requests that Bursar makes for itself, in the dialect of the call they are made for."""

from __future__ import annotations

from typing import Any

from ..domain.call import Asked, CapOutput
from .dialect import encode
from .openai_chat import openai_chat


def request(dialect: str, model: str, instruction: str, said: str, cap: int) -> bytes:
    """The body that has `model` do with `said` what the instruction says, in at most `cap` tokens. (Gemini's model is in the path.)"""
    match dialect:
        case "anthropic_messages":
            value: dict[str, Any] = {
                "model": model, "max_tokens": cap, "system": instruction, "messages": [{"role": "user", "content": said}],
            }  # fmt: skip
        case "openai_responses":
            value = {"model": model, "max_output_tokens": cap, "instructions": instruction, "input": said, "store": False}
        case "gemini_generate":
            value = {
                "systemInstruction": {"parts": [{"text": instruction}]},
                "contents": [{"role": "user", "parts": [{"text": said}]}],
                "generationConfig": {"maxOutputTokens": cap},
            }
        case _:
            messages = [{"role": "system", "content": instruction}, {"role": "user", "content": said}]
            body = encode({"model": model, "messages": messages})
            return openai_chat.edit("", body, Asked(model=model), (CapOutput(cap),))[1]  # which of two names the cap has
    return encode(value)
