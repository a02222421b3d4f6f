"""The request for a summary: everything said is in it, nothing that only a machine reads, and the provider takes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from bursar import wire
from bursar.domain.call import Asked
from bursar.wire import summarise
from bursar.wire.outline import outline

from . import histories

CALL = histories.Call("get_order", {"order_id": "#W123", "when": {"day": "2026-11-02"}, "n": 5}, '{"status": "delivered", "total": 12.5}')
TALK = histories.History("be brief", [histories.Turn("where is my order", True, [("I will look.", True, [CALL])], "It was delivered.")], False)


@pytest.mark.parametrize("name", list(histories.RENDERED))
def test_a_transcript_has_what_was_said_and_nothing_that_only_a_machine_reads(name: str) -> None:
    """Words, names, arguments and results; no ids of calls, signatures or pictures."""
    body = json.dumps(histories.RENDERED[name][0](TALK)).encode()
    found = outline(name, body)
    said = summarise.transcript(body, found, 0, len(found.messages))
    for words in ("[human]\nwhere is my order", "I will look.", "get_order", "#W123", "2026-11-02", "delivered", "12.5", "[model]\n", "It was delivered."):
        assert words in said, (words, said)
    for noise in ("AAAA", "c2ln", "ZW5j", "call_1", "toolu_1", "rs_0", "image/png"):
        assert noise not in said, (noise, said)
    assert summarise.transcript(body, found, 0, 0) == ""


def test_a_long_text_is_shown_by_its_two_ends() -> None:
    turn = histories.Turn("x" * 3_000 + "middle" + "y" * 3_000, False, [], "ok")
    body = json.dumps(histories.chat(histories.History("", [turn], False))).encode()
    found = outline("openai_chat", body)
    said = summarise.transcript(body, found, 1, 1)
    assert len(said) < summarise.PART_MAX + 30 and "middle" not in said and said.endswith("y") and "xxx" in said


@pytest.mark.parametrize(("name", "model"), [("openai_chat", "gpt-5-nano"), ("openai_chat", "mistral-small"), ("anthropic_messages", "claude-haiku-4-5"),
                                             ("openai_responses", "gpt-5-nano"), ("gemini_generate", "gemini-3-flash")])  # fmt: skip
def test_the_request_is_one_that_its_dialect_reads(name: str, model: str) -> None:
    """With the model, the cap under the name that this model wants, and the transcript as a user's words."""
    body = summarise.request(name, model, "the \"transcript\" é", 300)
    asked = wire.DIALECTS[name].read(f"/v1beta/models/{model}:generateContent", body)
    assert isinstance(asked, Asked) and (asked.model, asked.output_cap, asked.stream, asked.tools) == (model, 300, False, 0)
    assert asked.human_turns == 1
    value = json.loads(body)
    if name == "openai_chat":
        assert ("max_completion_tokens" in value) == model.startswith("gpt-") and ("max_tokens" in value) != model.startswith("gpt-")
    assert 'the \\"transcript\\" é' in body.decode() and summarise.INSTRUCTION[:40] in body.decode()


@pytest.mark.parametrize("name", list(histories.RENDERED))
@given(history=histories.HISTORIES)
@settings(max_examples=20, deadline=None)
def test_any_history_has_a_transcript(name: str, history: histories.History) -> None:
    body = json.dumps(histories.RENDERED[name][0](history)).encode()
    found = outline(name, body)
    said = summarise.transcript(body, found, 0, len(found.messages))
    for turn in history.turns:
        assert turn.said in said
    assert json.loads(summarise.request(name, "m", said, 100))
