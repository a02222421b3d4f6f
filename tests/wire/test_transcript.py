"""A request's messages as plain text: everything said is in it, and nothing that only a machine reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from bursar.wire import transcript
from bursar.wire.outline import outline

from . import histories

CALL = histories.Call("get_order", {"order_id": "#W123", "when": {"day": "2026-11-02"}, "n": 5}, '{"status": "delivered", "total": 12.5}')
TALK = histories.History("be brief", [histories.Turn("where is my order", True, [("I will look.", True, [CALL])], "It was delivered.")], False)


@pytest.mark.parametrize("name", list(histories.RENDERED))
def test_a_transcript_has_what_was_said_and_nothing_that_only_a_machine_reads(name: str) -> None:
    """Words, names, arguments and results; no ids of calls, signatures or pictures."""
    body = json.dumps(histories.RENDERED[name][0](TALK)).encode()
    found = outline(name, body)
    said = transcript.of(body, found, 0, len(found.messages))
    for words in ("[human]\nwhere is my order", "I will look.", "get_order", "#W123", "2026-11-02", "delivered", "12.5", "[model]\n", "It was delivered."):
        assert words in said, (words, said)
    for noise in ("AAAA", "c2ln", "ZW5j", "call_1", "toolu_1", "rs_0", "image/png"):
        assert noise not in said, (noise, said)
    assert transcript.of(body, found, 0, 0) == ""


def test_a_long_text_is_shown_by_its_two_ends() -> None:
    turn = histories.Turn("x" * 3_000 + "middle" + "y" * 3_000, False, [], "ok")
    body = json.dumps(histories.chat(histories.History("", [turn], False))).encode()
    found = outline("openai_chat", body)
    said = transcript.of(body, found, 1, 1)
    assert len(said) < transcript.PART_MAX + 30 and "middle" not in said and said.endswith("y") and "xxx" in said


@pytest.mark.parametrize("name", list(histories.RENDERED))
@given(history=histories.HISTORIES)
@settings(max_examples=20, deadline=None)
def test_any_history_has_a_transcript(name: str, history: histories.History) -> None:
    body = json.dumps(histories.RENDERED[name][0](history)).encode()
    found = outline(name, body)
    said = transcript.of(body, found, 0, len(found.messages))
    for turn in history.turns:
        assert turn.said in said


@pytest.mark.parametrize("name", list(histories.RENDERED))
def test_the_last_messages_are_told_with_whose_they_are_and_the_systems_are_not(name: str) -> None:
    body = json.dumps(histories.RENDERED[name][0](TALK)).encode()
    found = transcript.last(name, body)
    assert found[0]["role"] == "human" and found[0]["text"].startswith("where is my order")
    assert found[-1] == {"role": "model", "text": "It was delivered."}
    assert any(one["role"] == "result" and "delivered" in one["text"] for one in found)
    assert not any("be brief" in one["text"] for one in found)
    assert transcript.last(name, body, most=1) == found[-1:] and len(transcript.last(name, body, chars=10)[0]["text"]) <= 13


@pytest.mark.parametrize("name", list(histories.RENDERED))
@given(history=histories.HISTORIES)
@settings(max_examples=20, deadline=None)
def test_of_any_history_there_are_few_last_messages_and_short_ones(name: str, history: histories.History) -> None:
    found = transcript.last(name, json.dumps(histories.RENDERED[name][0](history)).encode())
    assert len(found) <= transcript.LAST and all(0 < len(one["text"]) <= transcript.LAST_CHARS + 3 for one in found)
