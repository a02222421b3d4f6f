"""What a conversation says, read out of a request: the same in every API, however it was written, from memory or afresh."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, Malformed
from bursar.domain.history import BASE, BROKEN, HUMAN, JSON, MODULUS, TAIL, TOOL
from bursar.domain.shape import replace
from bursar.wire import history as memory
from bursar.wire import opening
from bursar.wire.history import Kept, Signs
from bursar.wire.openai_history import chat_message
from wire.talks import NAMES, PATHS, Human, Says, Talk, asked, body, history, messages

ORDER: Talk = (
    Human("Where is order A-1?"),
    Says("I will look.", (("lookup", {"order": "A-1", "deep": True}, "shipped on monday", False),)),
    Says("", (("lookup", {"order": "A-2"}, "Error: no such order", False), ("track", {"parcel": 7}, '{"state": "lost"}', False))),
    Says("One is lost."),
    Human("And now?"),
)


def test_one_conversation_is_the_same_in_every_api() -> None:
    """A client that falls back to another provider sends the same messages: its conversation, counts and pairs are the same."""
    found = [history(name, ORDER) for name in NAMES]
    assert len({h.end.chain for h in found}) == 1
    assert len({h.root for h in found}) == 1
    for h in found:
        assert (h.end.turns, h.end.depth, h.end.calls) == (2, 0, 3)
        assert (h.replied, h.fresh_human, h.fresh_results, h.failed) == (True, 1, 0, ())
    inside = [history(name, ORDER[:3]) for name in NAMES]
    for h in inside:
        assert (h.end.turns, h.end.depth, h.end.calls, h.fresh_results) == (1, 3, 3, 2)
        assert [f.tool for f in h.failed] == ["lookup"] and h.failed[0].why == "error"
        assert h.pairs.names == ("lookup", "lookup", "track") and h.fresh_pairs == 2
        assert h.preview == '{"parcel":7}'
    assert len({(h.pairs.calls.tobytes(), h.pairs.results.tobytes(), h.pairs.errors.tobytes()) for h in inside}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_marks_are_where_earlier_requests_and_replies_ended(name: str) -> None:
    """A request that extends another has that one's end among its marks, with the counts of then."""
    ends = {}
    for upto in range(1, len(ORDER) + 1):
        h = history(name, ORDER[:upto])
        for before in ends.values():
            assert before in h.marks
        ends[upto] = h.end
    assert [m.messages for m in h.marks] == sorted((m.messages for m in h.marks), reverse=True)


REWRITTEN = {
    "openai_chat": (
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x":1,"y":[2]}'}}]}, {"role": "tool", "tool_call_id": "1", "content": "r"}],
        [{"content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i", "cache_control": {"type": "ephemeral"}}], "role": "user"}, {"role": "assistant", "refusal": None, "annotations": [], "content": "a b ", "tool_calls": [{"function": {"arguments": ' { "y" : [2], "x" : 1 } ', "name": "f"}, "id": "other", "type": "function"}]}, {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "other"}],
    ),
    "openai_responses": (
        [{"role": "user", "content": "hi"}, {"type": "message", "role": "assistant", "content": "a b"}, {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"x":1,"y":[2]}'}, {"type": "function_call_output", "call_id": "1", "output": "r"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"}, {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "a b", "annotations": [{"type": "url_citation"}]}]}, {"type": "function_call", "id": "fc_1", "call_id": "2", "name": "f", "arguments": '{"y": [2], "x": 1}', "status": "completed"}, {"type": "function_call_output", "id": "o", "call_id": "2", "output": [{"type": "input_text", "text": "r"}]}],
    ),
    "anthropic_messages": (
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "a b"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1, "y": [2]}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "r"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a "}, {"type": "text", "text": "b"}, {"type": "tool_use", "id": "2", "name": "f", "input": {"y": [2], "x": 1}, "cache_control": {"type": "ephemeral"}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "r"}], "cache_control": {"type": "ephemeral"}}]}],
    ),
    "gemini_generate": (
        [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "a b"}, {"functionCall": {"name": "f", "args": {"x": 1, "y": [2]}}}]}, {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"result": "r"}}}]}],
        [{"parts": [{"text": "h"}, {"text": "i"}]}, {"role": "model", "parts": [{"text": "I think", "thought": True}, {"text": "a b", "thoughtSignature": "zz"}, {"function_call": {"id": "9", "name": "f", "args": {"y": [2], "x": 1}}}]}, {"role": "function", "parts": [{"function_response": {"id": "9", "name": "f", "response": {"output": "r"}}}]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_how_a_message_is_written_does_not_count(name: str) -> None:
    """Order of keys, blanks, ids, cache markers, annotations, reasoning and how parts are split."""
    one, other = (asked(name, body(name, said)).history for said in REWRITTEN[name])
    assert one is not None and other is not None
    assert one.end.chain == other.end.chain and one.end.calls == other.end.calls == 1
    assert one.pairs.calls == other.pairs.calls and one.pairs.results == other.pairs.results


@pytest.mark.parametrize("name", NAMES)
def test_what_a_message_says_does_count(name: str) -> None:
    """Text, who says it, a tool's name, one argument, one result."""
    base = (Human("hi"), Says("yes", (("f", {"x": 1}, "r", False),)))
    changed: list[Talk] = [
        (Human("hi!"), base[1]), (base[0], Says("no", base[1].calls)), (base[0], Says("yes", (("g", {"x": 1}, "r", False),))),
        (base[0], Says("yes", (("f", {"x": 2}, "r", False),))), (base[0], Says("yes", (("f", {"x": 1}, "s", False),))),
        (base[0], Says("yes")), (Says("hi"), base[1]), (*base, Human("hi")),
    ]  # fmt: skip
    chains = {history(name, talk).end.chain for talk in (base, *changed)}
    assert len(chains) == 1 + len(changed)


def test_the_system_prompt_is_not_in_the_chain_but_in_the_fingerprint() -> None:
    """Editing a system prompt does not begin a new conversation; it is another program, unless only a date or an id moved."""
    for name in NAMES:
        found = [
            asked(name, body(name, messages(name, ORDER), system=system, tools=tools))
            for system, tools in (
                ("You are Ann. Today is Monday, March 3 2026, 10:01. User 4711.", ("a", "b")),
                ("You are Ann. Today is Friday, April 17 2027, 9:59. User 12.", ("b", "a")),
                ("You are Bob. Today is Monday, March 3 2026, 10:01. User 4711.", ("a", "b")),
                ("You are Ann. Today is Monday, March 3 2026, 10:01. User 4711.", ("a", "b", "c")),
                ("", ()),
            )
        ]  # fmt: skip
        assert len({a.history.end.chain for a in found if a.history}) == 1
        prints = [a.print for a in found]
        assert prints[0] == prints[1] and len(prints[0]) == 16
        assert len(set(prints)) == 4 and prints[4] == ""


words = st.sampled_from(["yes", "no", "look it up", "{\"a\": 1}", "Error: it broke", "", "ünïcode 漢字", "x" * 300])
calls = st.lists(st.tuples(st.sampled_from(["lookup", "track"]), st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2), words, st.booleans()), max_size=3).map(tuple)  # fmt: skip
talks = st.lists(st.one_of(words.filter(bool).map(Human), st.builds(Says, words, calls).filter(lambda s: bool(s.text or s.calls))), min_size=1, max_size=14).map(tuple)  # fmt: skip


@patch.object(opening, "LARGE", 100)
@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), talk=talks, others=st.lists(talks, max_size=2))
def test_what_is_remembered_changes_only_the_speed(name: str, talk: Talk, others: list[Talk]) -> None:
    """Every prefix of a growing conversation, read with a memory that has seen the others, is what a fresh reading gives."""
    warm = Signs()
    for other in others:
        for upto in range(1, len(other) + 1):
            history(name, other[:upto], warm)
    for upto in range(1, len(talk) + 1):
        known, fresh = history(name, talk[:upto], warm), history(name, talk[:upto])
        assert known.marks == fresh.marks[: len(known.marks)] and known.end == fresh.end
        assert len(known.marks) >= min(len(fresh.marks), memory.MARKS - 1)
        for field in fresh.__struct_fields__:
            if field != "marks":
                assert getattr(known, field) == getattr(fresh, field), field


@settings(max_examples=60, deadline=None)
@given(talk=talks)
def test_the_chain_is_the_sum_it_is_said_to_be(talk: Talk) -> None:
    """Each message adds its digest to the chain times its power: nothing else, so that a reply can be added without its request."""
    chain = 0
    for raw in (json.dumps(m).encode() for m in messages("openai_chat", talk)):
        message = chat_message(raw, ())
        chain = (chain * message.power + message.digest) % MODULUS
    assert history("openai_chat", talk).end.chain == chain
    assert BASE % MODULUS > 1 << 120


def test_a_moving_cache_marker_does_not_cost_the_memory() -> None:
    """Claude Code marks its last message; in the next request that message comes without the mark. What lies before is known."""
    signs = Signs()
    said: list[dict[str, Any]] = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"say {n} {'so ' * 99}"} for n in range(51)]

    def marked(upto: int) -> bytes:
        last = {"role": "user", "content": [{"type": "text", "text": said[upto - 1]["content"], "cache_control": {"type": "ephemeral"}}]}
        return body("anthropic_messages", [*said[: upto - 1], last])

    for upto in range(1, 52, 2):
        data = marked(upto)
        if len(data) > 2 * opening.LARGE:
            begun = opening.look(data, signs.tellers["anthropic_messages"].openings, len(data))
            assert begun.known is not None and begun.known.count == upto - 3
        told = asked("anthropic_messages", data, signs)
        assert told == replace(asked("anthropic_messages", data), history=told.history)
        assert told.history is not None and told.history.end.turns == (upto + 1) // 2


def test_a_long_known_opening_is_not_looked_into_again() -> None:
    """Only what is new is decoded: counted by a reader that is told of each message it is given."""
    seen: list[bytes] = []

    def reading(raw: bytes, signs: Any) -> Any:
        seen.append(raw)
        return chat_message(raw, signs)

    signs = Signs()
    teller = signs.tellers["openai_chat"] = memory.Teller(reading)
    said = messages("openai_chat", (Human("go"), *[Says(f"step {n}", (("f", {"n": n}, f"r{n}" * 20, False),)) for n in range(40)]))
    asked("openai_chat", body("openai_chat", said[:-2]), signs)
    seen.clear()
    teller.said = Kept(1 << 20)  # the messages are forgotten, the opening is not
    found = asked("openai_chat", body("openai_chat", said), signs)
    told = found.history
    assert told is not None and len(seen) == 2 and told.end.calls == 40 and len(told.pairs.names) == TAIL and found.messages == 81


def test_the_memory_is_bounded_and_its_sizes_are_what_they_are_said_to_be() -> None:
    """Bytes as counted are within a third of what Python takes for them, and never above the limit."""
    signs = Signs()
    teller = signs.teller("openai_chat", chat_message)
    teller.said, teller.openings = Kept(1 << 20), Kept(1 << 20)
    talk = [messages("openai_chat", (Human(f"go {t} {'on ' * 999}"), *[Says(f"step {t} {n}", (("f", {"n": n}, f"r{t} {n}" * 99, False),)) for n in range(8)])) for t in range(120)]  # fmt: skip
    raws = [[body("openai_chat", said[:upto]) for upto in range(8, len(said), 2)] for said in talk]
    gc.collect()
    tracemalloc.start()
    for sent in raws:
        for data in sent:
            asked("openai_chat", data, signs)
        assert teller.said.bytes <= 1 << 20 and teller.openings.bytes <= 1 << 20
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    counted = teller.said.bytes + teller.openings.bytes
    assert len(teller.openings) > 100
    assert counted * 0.66 < taken < counted * 1.34, (taken, counted, len(teller.said), len(teller.openings))


def test_kept_keeps_what_is_used_and_forgets_the_rest() -> None:
    kept: Kept[int] = Kept(1000)
    for n in range(100):
        kept.put(n, n, 50)
        kept.get(3)
    assert kept.get(3) == 3 and kept.get(4) is None and len(kept) <= 20


@pytest.mark.parametrize("name", NAMES)
def test_a_message_of_the_wrong_shape_is_malformed_also_when_others_are_known(name: str) -> None:
    """Told with the member it is in; nothing of it is remembered."""
    member = {"openai_responses": "input", "gemini_generate": "contents"}.get(name, "messages")
    signs = Signs()
    asked(name, body(name, messages(name, ORDER)), signs)
    for bad in ([5], ["x"], [{"role": 7}], [{"role": "user", "content": {}}, None]):
        if name == "gemini_generate":
            bad = [{"parts": 5} if isinstance(b, dict) else b for b in bad]
        data = json.dumps({"model": "m", "max_tokens": 5, member: bad}).encode()
        found = wire.DIALECTS[name].read(PATHS[name], data, signs)
        assert isinstance(found, Malformed) and member in found.reason, (bad, found)
    deep = b'{"model":"m","max_tokens":5,"%s":[%s]}' % (member.encode(), b'{"a":' * 90_000 + b"1" + b"}" * 90_000)
    assert isinstance(wire.DIALECTS[name].read(PATHS[name], deep, signs), Malformed)


def test_a_text_alone_is_a_human_message() -> None:
    """Responses take a string for a list, Gemini one content for a list of them."""
    one = asked("openai_responses", b'{"model":"m","input":"hi there"}').history
    other = asked("openai_chat", b'{"model":"m","messages":[{"role":"user","content":"hi there"}]}').history
    third = asked("gemini_generate", b'{"contents":{"parts":[{"text":"hi there"}]}}').history
    assert one is not None and other is not None and third is not None
    assert one.end == other.end == third.end and one.end.turns == 1


def test_images_weigh_what_they_cost_and_are_the_same_in_every_api() -> None:
    """A megabyte of base64 is not a quarter of a million tokens."""
    data = "QUJD" * 50_000
    bodies = {
        "openai_chat": {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]}]},
        "openai_responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}]}]},
        "anthropic_messages": {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]}]},
        "gemini_generate": {"contents": [{"role": "user", "parts": [{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": data}}]}]},
    }  # fmt: skip
    found = [asked(name, json.dumps({"model": "m"} | given).encode()).history for name, given in bodies.items()]
    assert len({h.end.chain for h in found if h}) == 1
    assert all(h and 5_000 < h.weights[0] < 8_000 for h in found)


def test_weights_and_runs_account_for_every_byte_of_the_messages() -> None:
    """What is new, history, tool results and system, by class; the last messages one by one, in the order of the prompt."""
    data = body("openai_chat", messages("openai_chat", ORDER), system="You are Ann.", tools=("lookup",))
    found = asked("openai_chat", data).history
    assert found is not None
    raw = [json.dumps(m, separators=(",", ":")) for m in messages("openai_chat", ORDER)]
    new, talk, tools, system = found.weights
    assert new == len(raw[-1]) and tools == sum(len(r) for r in raw if '"role":"tool"' in r)
    assert new + talk + tools == sum(map(len, raw))
    assert system == len('{"role":"system","content":"You are Ann."}') + len('[{"type":"function","function":{"name":"lookup"}}]')
    assert [run & 3 for run in found.runs] == [0, HUMAN, 2, TOOL, 2, TOOL, TOOL, 2, HUMAN]


def test_a_person_who_says_something_new_begins_anew_and_one_who_repeats_does_not() -> None:
    """Loops are the agent's: what a tool said in the turn before is no repetition. A program that says the same is no person."""
    step = Says("", (("f", {}, "same", False),))
    h = history("openai_chat", (Human("go"), step, step, Says("done"), Human("again please"), step))
    assert h.pairs.names == ("", "f") and h.pairs.run == 1
    agent = (Human("task"), *[part for _ in range(5) for part in (Says("I run ls"), Human("nothing here"))])
    h = history("openai_chat", agent)
    assert h.pairs.names == ("",) * 5 and h.pairs.run == 5 and len(set(h.pairs.calls)) == 1
    answers = (Human("task"), *[part for n in range(5) for part in (Says("I run ls"), Human(f"file {n}"))])
    assert history("openai_chat", answers).pairs.run == 1


def test_the_same_call_twice_in_one_reply_is_one_step() -> None:
    """It was paid once."""
    twice = Says("", (("f", {"a": 1}, "r", False), ("f", {"a": 1}, "r", False), ("f", {"a": 2}, "r", False)))
    h = history("openai_chat", (Human("go"), twice))
    assert h.pairs.names == ("f", "f") and h.fresh_pairs == 2 and h.end.calls == 3


def test_what_is_new_is_never_more_than_what_is_kept() -> None:
    """Forty calls in one reply; results, and a person who says something before the model could answer."""
    h = history("openai_chat", (Human("go"), Says("", tuple(("f", {"n": n}, f"r{n}", False) for n in range(40)))))
    assert h.fresh_pairs == len(h.pairs.names) == TAIL and h.fresh_results == 40
    h = history("openai_chat", (Human("go"), Says("", (("f", {}, "r", False),)), Human("stop")))
    assert h.fresh_pairs == 0 and h.pairs.names == () and h.fresh_results == 1 and h.fresh_human == 1


def test_results_without_their_calls_are_kept_for_whoever_knows_them() -> None:
    """The provider keeps the calls of a response that is carried on by its id."""
    h = asked("openai_responses", b'{"previous_response_id":"r1","input":[{"type":"function_call_output","call_id":"c1","output":"ok"}]}').history
    assert h is not None and [r.id for r in h.loose] == ["c1"] and h.fresh_results == 1 and h.replied


def test_broken_json_and_asking_for_it_again_are_seen() -> None:
    h = history("openai_chat", (Human("give JSON"), Says('{"a": 1'), Human("That is not valid JSON, try again")))
    assert h.said_shape == BROKEN and h.repair
    h = history("openai_chat", (Human("give JSON"), Says('```json\n{"a": 1}\n```'), Human("thanks")))
    assert h.said_shape == JSON and not h.repair


@pytest.mark.parametrize("system", ["", "You are Ann."])
@pytest.mark.parametrize("name", NAMES)
def test_the_short_way_of_an_opening_gives_what_the_general_way_gives(name: str, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most calls of one turn are."""
    for talk in ((Human("hello"),), (Human("give me JSON " * 40),), (Human("a"), Human("b")), (Says("Hi, I am Ann."), Human("b"))):
        short = history(name, talk, system=system)
        with monkeypatch.context() as patch:
            patch.setattr(memory.Teller, "_opened", lambda *_: None)
            general = history(name, talk, system=system)
        for field in general.__struct_fields__:
            assert getattr(short, field) == getattr(general, field), field


def test_a_hostile_history_costs_time_in_proportion_to_its_size() -> None:
    """Ten thousand calls in one message, answered by ten thousand results: no search among them."""
    many = tuple((f"tool{n % 7}", {"n": n}, "r", False) for n in range(10_000))
    assert isinstance(asked("anthropic_messages", body("anthropic_messages", messages("anthropic_messages", (Human("go"), Says("", many))))), Asked)
    h = history("openai_chat", (Human("go"), Says("", many)))
    assert h.end.calls == 10_000 and len(h.pairs.names) == TAIL and len(h.failed) == 0
