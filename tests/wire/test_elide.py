"""Elision on the wire: what a provider would refuse is never made, what must stay stays, and no other byte moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.outline import Outline
from bursar.rules import compact
from bursar.wire import elide, outlining
from bursar.wire.outline import outline

from . import histories
from .recorded import SPOKEN, exchanges

RATES = compact.Rates(10, 125, 500)
ALL = compact.Setting(keep_turns=1, keep_calls=1, keep_failed=1, record_least=400, text_least=400)
RICH = 10**18  # a purse that is never empty
NAMES = list(histories.RENDERED)


def send(
    name: str, body: bytes, setting: compact.Setting, state: compact.State, left: float | None = None, now_us: int = 0
) -> tuple[bytes, compact.Decision, compact.State, Outline]:
    """One request on its way: outline, decision, lines, splice."""
    found = outline(name, body, keyed=True)
    decision = compact.decide(found, setting, RATES, state, now_us, RICH, left, RATES)
    lines, state = compact.lines(decision, found, setting, lambda piece: elide.text(body, piece))
    summary = elide.Summary(*decision.standing[:2], decision.standing.text) if decision.standing else None
    return elide.elide(name, body, found, lines, summary), decision, state, found


def kept_out(name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What changed though it must not: everything but the text of results and long values in arguments."""
    key = histories.RENDERED[name][1]
    wrong: list[str] = []
    for path, old, new in histories.changes(before, after):
        message = before[key][path[1]] if path[0] == key and len(path) > 1 else {}
        if name == "gemini_generate":
            place = tuple(str(step).replace("_r", "R").replace("_c", "C") for step in path[4:6])
            allowed = place in (("functionResponse", "response"), ("functionCall", "args"))
            allowed = allowed and "thoughtSignature" not in message["parts"][path[3]]
        elif name == "anthropic_messages":
            part = message["content"][path[3]] if len(path) > 3 else {}
            allowed = (part.get("type") == "tool_result" and (path[4:] == ("content",) or path[-1] == "text")) or (part.get("type") == "tool_use" and path[4] == "input")
        elif name == "openai_chat":
            allowed = (message.get("role") == "tool" and path[2] == "content" and (len(path) == 3 or path[-1] == "text")) or path[-1] == "arguments"
        else:
            allowed = (message.get("type", "").endswith("_output") and path[2] == "output") or path[-1] == "arguments"
        if not allowed:
            wrong.append(f"{path}: {str(old)[:60]!r} became {str(new)[:60]!r}")
    return wrong


def arguments(body: Any) -> Iterator[Any]:
    """Every arguments object, decoded."""
    if isinstance(body, dict):
        if isinstance(body.get("arguments"), str):
            yield json.loads(body["arguments"] or "{}")
        for value in body.values():
            yield from arguments(value)
    elif isinstance(body, list):
        for value in body:
            yield from arguments(value)


@pytest.mark.parametrize("name", NAMES)
@given(history=histories.HISTORIES, writer=st.sampled_from(histories.WRITERS))
@settings(max_examples=60, deadline=None)
def test_an_elided_history_is_one_that_the_provider_takes(name: str, history: histories.History, writer: Any) -> None:
    """Pairs, roles and order hold; thinking, signatures, system prompt, images, human words and ids are as they were; the
    newest round is whole; keys of arguments stay."""
    render, key = histories.RENDERED[name]
    value = render(history)
    assert histories.faults(name, value) == [], "the generator makes what providers take"
    body = writer(value).encode("utf-8", "surrogatepass")
    out, decision, _, found = send(name, body, ALL, compact.State())
    after = json.loads(out)
    assert histories.faults(name, after) == []
    assert kept_out(name, value, after) == []
    for old, new in zip(arguments(value), arguments(after), strict=True):
        assert old.keys() == new.keys() and [type(v) for v in old.values()] == [type(v) for v in new.values()]
    if not decision.gone:
        assert out is body, "no edit, the same object"
    newest = max((at for at in range(len(found.messages)) if compact.begins(found, at)), default=0)
    assert value[key][newest:] == after[key][newest:], "the newest call and its results are whole"


@pytest.mark.parametrize("name", NAMES)
@given(history=histories.HISTORIES, writer=st.sampled_from(histories.WRITERS))
@settings(max_examples=30, deadline=None)
def test_bytes_outside_the_pieces_stay_as_they_came(name: str, history: histories.History, writer: Any) -> None:
    """Put the old strings back where the lines are, and the body is the client's again, to the byte."""
    body = writer(histories.RENDERED[name][0](history)).encode("utf-8", "surrogatepass")
    out, decision, _, found = send(name, body, ALL, compact.State())
    back, at, moved = b"", 0, 0
    for index in decision.gone:
        piece = found.pieces[index]
        line = elide.line(body, piece, compact.line(elide.text(body, piece), f"{piece.tool} {'argument' if piece.kind == 'argument' else 'result'}", ALL.record_line if piece.kind == "record" else ALL.text_line))
        start = piece.start + moved
        assert out[start : start + len(line)] == line
        back += out[at:start] + body[piece.start : piece.end]
        at = start + len(line)
        moved += len(line) - (piece.end - piece.start)
    assert back + out[at:] == body


@pytest.mark.parametrize("name", NAMES)
@given(history=histories.HISTORIES, left=st.one_of(st.none(), st.floats(1, 100)), every=st.sampled_from([0, 2, 3]))
@settings(max_examples=40, deadline=None)
def test_what_was_sent_once_is_sent_again_until_a_change_pays(name: str, history: histories.History, left: float | None, every: int) -> None:
    """Call by call: without a new elision or summary, everything that was sent before is sent again as the beginning, so that
    the provider's cache holds; with one, the history is still one that the provider takes."""
    render, key = histories.RENDERED[name]
    setting = ALL._replace(summarise_every=every, summary=100, keep_turns=2)
    state, sent = compact.State(), []
    for step, moment in enumerate(histories.requests(history)):
        value = render(moment)
        body = json.dumps(value).encode()
        out, decision, state, found = send(name, body, setting, state, left, now_us=step)
        after = json.loads(out)
        assert histories.faults(name, after) == []
        if not decision.fresh and not (decision.standing and decision.standing.fresh):
            assert after[key][: len(sent)] == sent, decision
        if decision.standing:
            assert after[key][decision.standing.first] == json.loads(elide.message(name, decision.standing.text))
            # Nothing before the summary has changed, and the humans behind it speak for themselves.
            assert after[key][: decision.standing.first] == value[key][: decision.standing.first]
        else:
            assert kept_out(name, value, after) == []
        sent = after[key]
        if decision.ask:
            state = compact.summarised(found, state, decision.ask, "Summary of earlier turns: " + "x" * 80)
        state = compact.remember(state, decision, step, 300_000_000)


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("openai_responses", {"previous_response_id": "resp_1", "input": [{"role": "user", "content": "go on"}]}, "previous_response_id"),
        ("openai_responses", {"conversation": {"id": "conv_1"}, "input": []}, "kept by the provider"),
        ("openai_responses", {"context_management": [{"type": "compaction"}], "input": []}, "compaction by the provider"),
        ("openai_responses", {"input": [{"type": "compaction", "encrypted_content": "x"}]}, "compacted by the provider"),
        ("openai_responses", {"input": [{"type": "item_reference", "id": "x"}]}, "kept or compacted"),
        ("openai_responses", {"input": "just text"}, "no list"),
        ("anthropic_messages", {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}, "messages": []}, "compaction by the provider"),
        ("anthropic_messages", {"messages": [{"role": "assistant", "content": [{"type": "compaction", "content": "s"}]}]}, "compacted by the provider"),
        ("gemini_generate", {"cachedContent": "cachedContents/1", "contents": []}, "kept by the provider"),
        ("openai_embeddings", {"input": ["a"]}, "a dialect without messages"),
    ],
)  # fmt: skip
def test_what_the_provider_keeps_or_compacts_itself_is_left_alone(name: str, body: dict, why: str) -> None:
    raw = json.dumps(body).encode()
    out, decision, _, found = send(name, raw, ALL, compact.State())
    assert why in found.fixed and out is raw and decision.why == "fixed"


def test_a_body_that_names_its_messages_twice_is_left_alone() -> None:
    """The provider might take the other list."""
    body = b'{"messages":[{"role":"tool","content":"' + b"x" * 900 + b'"}],"messages":[]}'
    assert outline("openai_chat", body).fixed and outline("anthropic_messages", body).fixed


def test_arguments_under_a_signature_stay_while_their_turn_lasts() -> None:
    """Thinking is bound to the call that it led to; once a human has spoken it is not looked at any more."""
    call = histories.Call("write", {"content": "x" * 900}, "y" * 900)
    loop = histories.Turn("go", False, [("", True, [call]), ("", True, [call]), ("", True, [call])], "done")
    for turns, elided in (([loop], False), ([loop, histories.Turn("more", False, [], "")], True)):
        body = json.dumps(histories.anthropic(histories.History("", turns, True))).encode()
        out, _, _, _ = send("anthropic_messages", body, ALL, compact.State())
        first = json.loads(out)["messages"][1]["content"]
        assert first[0] == json.loads(body)["messages"][1]["content"][0]
        assert first[1]["input"]["content"].startswith("[elided") is elided


@pytest.mark.parametrize("spelled", ['{"content": "%s"}', '{"a\\u0022": 1, "content": "%s"}', '{"content": "%s', '["%s"]', '"%s"'])
def test_arguments_written_as_text_stay_json(spelled: str) -> None:
    """Odd spellings of quotes, and text that is no object, offer nothing."""
    inner = spelled % ("line\\n\\t\\u00e9\\\\ \\\"quoted\\\" " * 40)
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "w", "arguments": inner}} for n in range(2)]
    messages = [{"role": "user", "content": "hi"}]
    for call in calls:
        messages += [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": call["id"], "content": "ok"}]
    body = json.dumps({"messages": messages}).encode()
    out, decision, _, _ = send("openai_chat", body, ALL, compact.State())
    after = json.loads(out)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    if spelled.endswith("}"):
        assert json.loads(after)["content"].startswith("[elided: w argument") and decision.gone
    else:
        assert out is body


def test_quotes_spelled_in_another_way_offer_nothing() -> None:
    """An argument text whose own quotes are written \\u0022 in the body: where its strings begin cannot be told by looking for \\"."""
    inner = json.dumps(json.dumps({"path": "a", "content": "x" * 900})).replace('\\"', "\\u0022").encode()
    call = b'{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"w","arguments":' + inner + b"}}]}"
    body = b'{"messages":[{"role":"user","content":"hi"},' + call + b',{"role":"tool","tool_call_id":"c","content":"ok"}]}'
    assert json.loads(json.loads(body)["messages"][1]["tool_calls"][0]["function"]["arguments"])["path"] == "a"
    assert outline("openai_chat", body).pieces == ()
    assert len(outline("openai_chat", body.replace(b"\\u0022", b'\\"')).pieces) == 1
    numbers = json.dumps(json.dumps({"a": list(range(300)), "b": "x"})).replace('\\"', "\\u0022", 1).encode()
    assert outline("openai_chat", body.replace(inner, numbers)).pieces == (), "what lies between two strings is no string"


def test_a_long_key_is_no_value() -> None:
    """Keys of arguments stay, however long: the tool's schema knows them."""
    call = histories.Call("w", {"k" * 500: "v", "n": {"k" * 600: "y" * 700}}, "ok")
    body = json.dumps(histories.anthropic(histories.History("", [histories.Turn("go", False, [("", False, [call])], "")], True))).encode()
    found = outline("anthropic_messages", body)
    assert [body[piece.start : piece.end] for piece in found.pieces] == [b'"' + b"y" * 700 + b'"']


def test_what_a_summary_stands_for_needs_no_lines() -> None:
    call = histories.Call("w", {}, "y" * 900)
    body = json.dumps(histories.chat(histories.History("", [histories.Turn("go", False, [("", False, [call])] * 2, "")], True))).encode()
    found = outline("openai_chat", body)
    out = json.loads(elide.elide("openai_chat", body, found, {0: "a line", 1: "another"}, elide.Summary(2, 2, "so far")))
    assert [m.get("content") for m in out["messages"]] == ["", "go", "so far", None, "another"]


def test_thinking_reasoning_and_signatures_are_seen_in_every_dialect() -> None:
    call = histories.Call("w", {"a": 1}, "ok")
    for name, (render, _) in histories.RENDERED.items():
        for thinking in (True, False):
            body = json.dumps(render(histories.History("", [histories.Turn("go", False, [("", thinking, [call])], "")], True))).encode()
            assert any(message.signed for message in outline(name, body).messages) is thinking, name


def test_a_message_keeps_its_key_when_the_cache_mark_moves_on() -> None:
    """Clients mark their newest message; the summary of older ones must still know them."""
    text = {"type": "text", "text": 'say "cache_control": {"x": 1}'}
    marked = {**text, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    plain, moved, other = (
        outline("anthropic_messages", json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode(), keyed=True).messages[0].key
        for part in (text, marked, {**text, "text": "else"})
    )
    assert plain == moved != other


def test_a_text_that_an_sdk_wrapped_is_read_as_the_text() -> None:
    """Gemini's results are objects: {"result": "…"} is a text, several members are a record."""
    for response, said in (({"result": 'a "b"\n' * 90}, 'a "b"\n' * 90), ({"id": "W123", "items": "x" * 500}, None), ({"n": [7] * 300}, None)):
        call = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
        parts = [{"functionResponse": {"name": "f", "response": response}}]
        body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}, call, {"role": "user", "parts": parts}]}).encode()
        (piece,) = outline("gemini_generate", body).pieces
        assert elide.text(body, piece) == (said or json.dumps(response)) and piece.kind == ("text" if said else "record")
        assert json.loads(elide.line(body, piece, "short")) == {"elided": "short"}


def test_recorded_requests_stay_valid(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real requests of real clients, with their thinking, images and odd items: elided as far as it goes, nothing else moves.
    Their results are short, so everything over 60 bytes counts as long here."""
    monkeypatch.setattr(outlining, "LEAST", 60)
    short = ALL._replace(record_least=60, text_least=60, record_line=50, text_line=50)
    seen: dict[str, int] = dict.fromkeys(NAMES, 0)
    elided = dict(seen)
    for row in exchanges(data_dir):
        name, body = SPOKEN[row["dialect"]], row.get("request_body")
        if name not in NAMES or not body or row["status"] >= 400 or row.get("request_truncated"):
            continue
        value = json.loads(body)
        key = histories.RENDERED[name][1]
        if not isinstance(value.get(key), list):
            continue
        raw = body.encode()
        found = outline(name, raw, keyed=True)
        seen[name] += 1
        if found.fixed:
            continue
        assert [json.loads(raw[m.start : m.end]) for m in found.messages] == value[key], row["id"]
        for piece in found.pieces:
            assert raw[piece.start : piece.end].decode() in body
        out, decision, _, _ = send(name, raw, short, compact.State())
        after = json.loads(out)
        assert kept_out(name, value, after) == [], row["id"]
        elided[name] += bool(decision.gone)
    print("requests:", seen, "elided:", elided)
    assert all(seen.values()) and all(elided.values())
