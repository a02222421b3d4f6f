"""The request that asks a cheap model for a summary of earlier messages, in the dialect of the request they stand in."""

from __future__ import annotations

from typing import Any

from ..domain.call import Asked, CapOutput
from .dialect import encode
from .openai_chat import openai_chat

INSTRUCTION = (
    "You shorten an agent's history so that it can go on working. Summarise the messages below in at most 200 words. Keep, word"
    " for word: every identifier, name, date, amount, path and file that was mentioned; what was asked; what was decided and"
    " done, with the outcome; what failed and why; what is still open. Do not answer the messages and do not add anything."
)
OPENING = "Summary of earlier turns (the messages themselves were removed to save tokens):\n"
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
