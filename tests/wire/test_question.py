"""What of a request decides its answer: which bodies ask the same, and which must never be taken for each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from bursar.wire.question import LEFT_OUT, counted, framed, question

from . import histories
from .recorded import SPOKEN, exchanges

NAMES = list(histories.RENDERED)


def ask(name: str, body: Any) -> bytes:
    found = question(name, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert found is not None
    return found.canon


BASE: dict[str, dict[str, Any]] = {
    "openai_chat": {"model": "gpt-5", "messages": [{"role": "user", "content": "hi  there"}]},
    "openai_responses": {"model": "gpt-5", "input": "hi  there"},
    "openai_embeddings": {"model": "e", "input": ["a", "b"]},
    "anthropic_messages": {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": "hi  there"}]},
    "gemini_generate": {"contents": [{"parts": [{"text": "hi  there"}]}], "generationConfig": {"temperature": 0, "seed": 4}},
}


@pytest.mark.parametrize("name", list(BASE))
def test_what_does_not_decide_the_answer_does_not_count(name: str) -> None:
    """Every member that the reference says is left out, and how the JSON is written."""
    base = ask(name, BASE[name])
    for member in LEFT_OUT[name]:
        assert ask(name, {**BASE[name], member: {"x": 1}}) == base, member
    assert ask(name, json.dumps(BASE[name], indent=3).encode()) == base
    assert ask(name, dict(reversed(BASE[name].items()))) == base
    assert ask(name, {**BASE[name], "brand_new_parameter": 1}) != base, "a parameter nobody has heard of counts"


@pytest.mark.parametrize("name", [n for n in BASE if n != "openai_embeddings"])
def test_every_space_and_letter_of_content_counts(name: str) -> None:
    text = json.dumps(BASE[name])
    for other in ("hi there", "hi  there ", "Hi  there", "hi  th\u00e9re"):
        assert ask(name, text.replace("hi  there", other).encode()) != ask(name, BASE[name])
    assert ask(name, text.replace("hi", "\\u0068i").encode()) == ask(name, BASE[name]), "an escape is the letter it stands for"


def test_parameters_count_one_by_one() -> None:
    """Two requests that differ in any of these are two questions."""
    variants: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"temperature": 0.1}, {"top_p": 0.9}, {"seed": 1}, {"stop": ["x"]}, {"max_tokens": 5}, {"n": 2},
        {"reasoning_effort": "low"}, {"response_format": {"type": "json_object"}}, {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "none"}, {"logit_bias": {"1": 2}}, {"model": "gpt-5-mini"}, {"logprobs": True},
    ]  # fmt: skip
    asked = [ask("openai_chat", {**BASE["openai_chat"], **more}) for more in variants]
    assert len(set(asked)) == len(asked)
    assert ask("openai_responses", {**BASE["openai_responses"], "store": False}) != ask("openai_responses", BASE["openai_responses"]), (
        "a stored reply can be gone on from, one that was not stored cannot")  # fmt: skip


def test_ids_are_their_order_and_cache_marks_are_nothing() -> None:
    """The pairing of calls and results counts, what it is called does not; arguments are nobody's ids."""

    def messages(one: str, two: str, swap: bool = False, mark: bool = False, inner: str = "x") -> dict[str, Any]:
        text: dict[str, Any] = {"type": "text", "text": "hi", **({"cache_control": {"type": "ephemeral"}} if mark else {})}
        calls = [{"type": "tool_use", "id": i, "name": "f", "input": {"id": inner}} for i in (one, two)]
        results = [{"type": "tool_result", "tool_use_id": i, "content": c} for i, c in (((two, "1"), (one, "2")) if swap else ((one, "1"), (two, "2")))]
        return {"messages": [{"role": "user", "content": [text]}, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]}

    base = ask("anthropic_messages", messages("toolu_a", "toolu_b"))
    assert ask("anthropic_messages", messages("toolu_x", "toolu_y", mark=True)) == base
    assert ask("anthropic_messages", messages("toolu_a", "toolu_b", swap=True)) != base
    assert ask("anthropic_messages", messages("toolu_a", "toolu_b", inner="y")) != base
    items = [{"type": "function_call", "id": "fc_1", "call_id": "c1", "status": "completed", "name": "f", "arguments": "{}"}]
    other = [{"type": "function_call", "id": "fc_2", "call_id": "c9", "name": "f", "arguments": "{}"}]
    assert ask("openai_responses", {"input": items}) == ask("openai_responses", {"input": other})


@pytest.mark.parametrize("name", NAMES)
@given(history=histories.HISTORIES)
@settings(max_examples=25, deadline=None)
def test_a_history_asks_the_same_however_it_is_written(name: str, history: histories.History) -> None:
    value = histories.RENDERED[name][0](history)
    asked = {ask(name, writer(value).encode("utf-8", "surrogatepass")) for writer in histories.WRITERS}
    assert len(asked) == 1
    assert len(framed(name, json.dumps(value).encode()) or (b"", "")) == 2


def test_a_body_that_names_something_twice_asks_nothing() -> None:
    """Two readers could take it for two questions."""
    for body in (b'{"messages":[1],"messages":[]}', b'{"temperature":0,"messages":[],"temperature":1}', b'{"tools":[],"messages":[],"tools":[1]}'):
        assert question("openai_chat", body) is None
    assert question("passthrough", b"{}") is None
    nested = {"messages": [{"role": "user", "content": '"messages"'}], "tools": [{"type": "function", "function": {"parameters": {"messages": 1}}}]}
    assert question("openai_chat", json.dumps(nested).encode()) is not None


def test_temperature_and_seed_are_read_where_each_dialect_has_them() -> None:
    assert question("openai_chat", b'{"temperature": 0.7, "seed": 0}')[1:] == (0.7, True)
    assert question("anthropic_messages", b'{"temperature": 0}')[1:] == (0.0, False)
    assert question("gemini_generate", json.dumps(BASE["gemini_generate"]).encode())[1:] == (0.0, True)
    assert question("openai_chat", b'{"temperature": null}')[1:] == (None, False)


def test_headers_that_change_the_answer_count_and_keys_do_not() -> None:
    one = counted([(b"anthropic-beta", b"x"), (b"authorization", b"secret"), (b"user-agent", b"z")], "key=secret&api-version=1&alt=sse")
    assert one == b"anthropic-beta:x\napi-version=1"


def test_a_frame_is_everything_but_the_newest_words() -> None:
    """The same frame, other words; anything but plain words of a human at the end has no frame."""
    for name in NAMES:
        text = json.dumps(BASE[name])
        one, two = framed(name, text.encode()), framed(name, text.replace("hi  there", "what is up").encode())
        assert one and two and one[0] == two[0] and (one[1], two[1]) == ("hi  there", "what is up")
        assert framed(name, text.replace('"model"', '"modell"').replace("contents", "contents2").encode()) != one
    picture = [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "source": {}}]}]
    assert framed("anthropic_messages", json.dumps({"messages": picture}).encode()) is None
    assert framed("openai_chat", b'{"messages":[{"role":"tool","content":"x"}]}') is None
    assert framed("openai_chat", b'{"messages":[]}') is None


def test_recorded_requests_have_a_question_and_repeat_themselves_exactly(data_dir: Path) -> None:
    """No recorded body breaks it; two recordings with equal bytes are equal, and every change of a message is seen."""
    seen = 0
    for row in exchanges(data_dir):
        name, body = SPOKEN[row["dialect"]], row.get("request_body")
        if name not in NAMES or not body or row["status"] >= 400 or row.get("request_truncated"):
            continue
        found = question(name, body.encode())
        assert found is not None, row["id"]
        seen += 1
        if '"text": "' in body or '"content": "' in body:
            changed = body.replace('"text": "', '"text": "~').replace('"content": "', '"content": "~')
            assert question(name, changed.encode()).canon != found.canon, row["id"]
    assert seen > 5_000
