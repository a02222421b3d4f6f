"""Conversations that grow: each dialect's requests are ones its provider would take, and send again what was said."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from random import Random
from typing import Any

import pytest

from bursar.testing import variants
from bursar.testing.planned import FALLBACK, REASK, SDK_RETRY, Planned
from bursar.testing.prose import PAGE, prose
from bursar.testing.talk import ANTHROPIC, CHAT, DIALECTS, GEMINI, NOTE, RESPONSES, Result, Setup, Talk, Tool, Use
from bursar.testing.traffic import calls

SETUP = Setup("You help.", (Tool("look", "Look up.", ("id",)), Tool("pay", "Pay.", ("id", "amount"))), json_demanded=True)
ANSWERED_AGAIN = (SDK_RETRY, REASK, FALLBACK)  # the same turn once more: what was said before it is not kept


def talk() -> Talk:
    """Three turns with tools, one of them with two at once and one of those failed."""
    made = Talk(SETUP)
    made.human("Where is A-1?")
    made.acts("i1", [Use("look", {"id": "A-1"})], [Result('{"state": "shipped"}')])
    made.says("It is on its way.")
    made.human('And "A-2"?\nZürich')
    made.acts("i2", [Use("look", {"id": "A-2"}), Use("pay", {"id": "A-2", "amount": "4"})], [Result("down", True), Result("paid")])
    made.says("Paid.")
    made.human("Thanks")
    return made


def messages(dialect: str, body: dict[str, Any]) -> list[Any]:
    return body["input" if dialect == RESPONSES else "contents" if dialect == GEMINI else "messages"]


def faults(dialect: str, body: dict[str, Any]) -> list[str]:
    """Why a provider would refuse these messages: results without their calls, calls without their results, a wrong beginning."""
    found: list[str] = []
    open_: list[str] = []
    answered: list[str] = []
    told = messages(dialect, body)
    for at, message in enumerate(told):
        asked: list[str] = []
        results: list[str] = []
        if dialect == CHAT:
            asked = [call["id"] for call in message.get("tool_calls", ())]
            results = [message["tool_call_id"]] if message["role"] == "tool" else []
        elif dialect == RESPONSES:
            asked = [message["call_id"]] if message.get("type") == "function_call" else []
            results = [message["call_id"]] if message.get("type") == "function_call_output" else []
        elif dialect == ANTHROPIC and isinstance(message["content"], list):
            asked = [part["id"] for part in message["content"] if part["type"] == "tool_use"]
            results = [part["tool_use_id"] for part in message["content"] if part["type"] == "tool_result"]
        elif dialect == GEMINI:
            asked = [part["functionCall"]["name"] for part in message["parts"] if "functionCall" in part]
            results = [part["functionResponse"]["name"] for part in message["parts"] if "functionResponse" in part]
        if asked:
            open_ = open_ + asked if dialect == RESPONSES else asked
        for result in results:
            if result not in open_ and "previous_response_id" not in body:
                found.append(f"message {at}: a result of nothing")
            answered.append(result)
            if result in open_:
                open_.remove(result)
        human = message.get("role") == "user" and not results
        if human and open_:
            found.append(f"message {at}: {open_} were never answered")
    first = told[1] if dialect == CHAT else told[0]
    if first.get("role") not in ("user", "assistant") and "previous_response_id" not in body:
        found.append(f"begins with {first}")
    if open_:
        found.append(f"{open_} were never answered")
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("history", ["whole", "sliding", "pinned", "summary"])
def test_every_way_to_cut_a_history_leaves_a_request_that_is_valid(dialect: str, history: str) -> None:
    """No result without its call, and the beginning is a person's or the summary's."""
    made = talk()
    for keep in (2, 3, 4):
        body = made.body(dialect, "m", history=history, keep=keep)
        assert faults(dialect, body.decoded()) == []
        assert body.size == len(body.encode())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_made_earlier_stays_what_it_was(dialect: str) -> None:
    """And the later one begins with it: that is what a prompt cache, and a thread, are known by."""
    made = talk()
    before = made.body(dialect, "m")
    told = messages(dialect, before.decoded())
    made.says("You are welcome.")
    made.human("One more")
    after = messages(dialect, made.body(dialect, "m").decoded())
    assert before.decoded() and messages(dialect, before.decoded()) == told == after[: len(told)] and len(after) > len(told)


def test_the_dialects_say_each_in_its_own_way_that_a_tool_failed() -> None:
    """Anthropic by a flag, Gemini by the member's name, the others inside the text."""
    made = talk()
    sent = {dialect: made.body(dialect, "m").encode().decode() for dialect in DIALECTS}
    assert '"is_error":true' in sent[ANTHROPIC] and '"response":{"error":"down"}' in sent[GEMINI]
    assert '\\"isError\\":true' in sent[CHAT] and '\\"exit_code\\":1' in sent[RESPONSES]
    assert all(text.count("down") == 1 for text in sent.values())


def test_a_history_that_the_provider_keeps_is_not_sent_again() -> None:
    """Only the results that it waits for, or the person's next words."""
    made = talk()
    words = made.body(RESPONSES, "m", previous="resp_1").decoded()
    assert words["previous_response_id"] == "resp_1" and words["input"] == [{"role": "user", "content": "Thanks"}]
    made.acts("i3", [Use("look", {"id": "A-3"})], [Result("found")])
    results = made.body(RESPONSES, "m", previous="resp_2").decoded()["input"]
    assert results == [{"type": "function_call_output", "call_id": "call_i3_0", "output": "found"}]


def test_a_note_stands_in_the_system_prompt_and_nowhere_else() -> None:
    """Whatever it says, quotes included."""
    for dialect in DIALECTS:
        body = talk().body(dialect, "m", note='It is "now".').encode().decode()
        assert 'It is \\"now\\".' in body and NOTE not in body and json.loads(body)


def test_any_amount_of_prose_comes_from_one_page() -> None:
    """As long as asked, the same for the same source of chance."""
    for size in (0, 1, 500, PAGE // 2, PAGE, 3 * PAGE + 7):
        assert len(prose(Random(1), size)) == size
    assert prose(Random(5), 200) == prose(Random(5), 200) != prose(Random(6), 200)


@pytest.fixture(scope="module")
def threads() -> dict[str, list[Planned]]:
    """Small companies of several seeds: every dialect, history and trouble is in them."""
    found: dict[str, list[Planned]] = defaultdict(list)
    for seed in range(8):
        for call in calls(variants.variant(seed, scale=0.2, weeks=3)):
            found[f"{seed}/{call.first.thread or call.ref}"].append(call)
    return found


def dialect_of(call: Planned) -> str:
    return {"completions": CHAT, "responses": RESPONSES, "messages": ANTHROPIC}.get(call.path.rpartition("/")[2], GEMINI)


def test_every_request_of_a_company_is_one_its_provider_would_take(threads: dict[str, list[Planned]]) -> None:
    """In every dialect, with every way to cut a history."""
    seen: Counter[str] = Counter()
    for thread in threads.values():
        for call in thread:
            if "embeddings" in call.path:
                continue
            assert faults(dialect_of(call), call.body.decoded()) == [], call.ref
            seen[dialect_of(call)] += 1
    assert set(seen) == set(DIALECTS) and min(seen.values()) > 100


def test_what_a_provider_said_is_in_the_next_request(threads: dict[str, list[Planned]]) -> None:
    """Words as they were said, tool calls with the ids they came with: a gateway knows its own replies again."""
    compared = 0
    for thread in threads.values():
        for call, following in zip(thread, thread[1:]):
            kind = following.first.keys[0][0] if following.first.keys else ""
            if kind in ANSWERED_AGAIN or "embeddings" in call.path or call.say.status != 200:
                continue
            said = list(call.others.values())[-1] if call.others else call.say
            sent = following.body.encode().decode()
            if said.fault == "malformed":
                said_text = "the parcel "
            elif said.tools:
                ids = said.ident if dialect_of(following) != GEMINI else f'"name":"{said.tools[-1][0]}"'
                assert ids in sent, following.ref
                compared += 1
                continue
            else:
                said_text = said.text
            if "previous_response_id" not in sent:
                assert json.dumps(said_text, ensure_ascii=False)[1:-1] in sent, following.ref
                compared += 1
    assert compared > 1_000
