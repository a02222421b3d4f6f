"""The short way of reading a usual answer says what the general one says."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.wire import openai_answer
from bursar.wire.openai_answer import whole

texts = st.sampled_from(["", " ", "yes", " [1] ", '{"a": 1}', "{", "ü" * 9, "x" * 300, None, 5, [{"type": "text", "text": "a"}]])
arguments = st.sampled_from([
    "", "{}", '{"b": 1, "a": "é"}', ' {"a": ["' + "y" * 50 + '"]}\u00a0', '"{}"', "[1]", "null", "{", "7", None, {"a": 1}, '{"a":1} ' + "[" * 3000,
])  # fmt: skip
words = st.sampled_from(["a", "", "é", None, 3])


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    called: dict[str, Any] = {"name": draw(words), "arguments": draw(arguments)}
    if draw(st.integers(0, 9)) == 0:
        called["input"] = "free text"
    return {"id": draw(words), "type": "function", draw(st.sampled_from(["function"] * 5 + ["custom"])): called}


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
    if draw(st.booleans()):
        message["tool_calls"] = draw(st.one_of(st.none(), st.lists(calls(), max_size=3)))
    if draw(st.integers(0, 4)) == 0:
        message[draw(st.sampled_from(["reasoning", "reasoning_content"]))] = draw(texts)
    made: dict[str, Any] = {
        "finish_reason": draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter", None, 4])),
        "message": message,
    }
    if draw(st.integers(0, 9)) == 0:
        made[draw(st.sampled_from(["text", "message"]))] = draw(texts)
    return made


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"id": draw(words), "model": draw(words), "choices": draw(st.lists(choices(), min_size=1, max_size=1))}
    if draw(st.integers(0, 9)) == 0:
        made["choices"] = draw(st.one_of(st.none(), st.lists(choices(), max_size=2)))
    if draw(st.booleans()):
        made["service_tier"] = draw(words)
    if draw(st.booleans()):
        made["usage"] = draw(
            st.sampled_from(
                [None, {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 1, "service_tier": "on_demand"}]
            )
        )
    if draw(st.integers(0, 4)) == 0:
        made["error"] = draw(st.sampled_from([None, "no", {"message": "m", "code": "c"}]))
    return made


class _Never:
    """A decoder for which nothing is usual."""

    def decode(self, body: bytes) -> Any:
        raise msgspec.ValidationError


USUAL = {
    "id": "r", "model": "m", "service_tier": "default", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "choices": [{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": '{"b": 1, "a": "' + "é" * 50 + '"}'}},
    ]}}],
}  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(answers(), st.sampled_from([200, 200, 429]), st.booleans())
@example(USUAL, 200, True)
@example({**USUAL, "choices": [{"finish_reason": "length", "message": {"content": "{"}}]}, 200, True)
@example({**USUAL, "choices": [{"finish_reason": "stop", "message": {"content": "{"}}]}, 200, True)
@example({**USUAL, "choices": [{"finish_reason": "stop", "message": {"content": "", "tool_calls": []}}]}, 200, True)
@example(
    {**USUAL, "choices": [{"finish_reason": "length", "message": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}}]},
    200,
    True,
)
@example({**USUAL, "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '"{\\"a\\": 1}"'}}]}}]}, 200, True)
@example({**USUAL, "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "input": "free"}}]}}]}, 200, True)
def test_the_short_way_and_the_general_one_agree(answer: dict[str, Any], status: int, json_demanded: bool) -> None:
    body = json.dumps(answer).encode()
    short = whole(status, body, json_demanded, False)
    with patch.object(openai_answer, "_usual", _Never()):
        assert whole(status, body, json_demanded, False) == short


def test_what_openai_writes_is_usual() -> None:
    """Else every answer would take the long way, and nobody would notice."""
    with patch.object(openai_answer, "_answer", _Never()), patch.object(openai_answer, "_bare", _Never()):
        assert whole(200, json.dumps(USUAL).encode(), False, False).response_id == "r"
