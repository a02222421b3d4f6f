"""The request for a summary: everything said is in it, nothing that only a machine reads, and the provider takes it."""

from __future__ import annotations

import json

import pytest

from bursar import wire
from bursar.domain.call import Asked
from bursar.wire import own, summarise


@pytest.mark.parametrize(("name", "model"), [("openai_chat", "gpt-5-nano"), ("openai_chat", "mistral-small"), ("anthropic_messages", "claude-haiku-4-5"),
                                             ("openai_responses", "gpt-5-nano"), ("gemini_generate", "gemini-3-flash")])  # fmt: skip
def test_the_request_is_one_that_its_dialect_reads(name: str, model: str) -> None:
    """With the model, the cap under the name that this model wants, and the transcript as a user's words."""
    body = own.request(name, model, summarise.INSTRUCTION, "the \"transcript\" é", 300)
    asked = wire.DIALECTS[name].read(f"/v1beta/models/{model}:generateContent", body)
    assert isinstance(asked, Asked) and (asked.model, asked.output_cap, asked.stream, asked.tools) == (model, 300, False, 0)
    assert asked.human_turns == 1
    value = json.loads(body)
    if name == "openai_chat":
        assert ("max_completion_tokens" in value) == model.startswith("gpt-") and ("max_tokens" in value) != model.startswith("gpt-")
    assert 'the \\"transcript\\" é' in body.decode() and summarise.INSTRUCTION[:40] in body.decode()
