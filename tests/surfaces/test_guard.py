"""Guards through a real gateway: what a client sees when it is stopped, in every dialect, and what stands in the ledger after."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from bell_rig import Receiver
from click.testing import CliRunner
from google import genai
from google.genai import types as genai_types

from bursar.domain.money import plain
from bursar.stores import incidents as incidents_of
from bursar.stores.schema import connect
from bursar.surfaces import gateway, settings
from bursar.surfaces.cli import main
from bursar.surfaces.watch import Watch
from bursar.testing.provider import Provider

TEXT = "A person goes on from here."


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as scripted:
        yield scripted


Serve = Callable[[str], gateway.Handle]


@pytest.fixture
def serve(provider: Provider, tmp_path: Path) -> Iterator[Serve]:
    """A gateway under a policy's text, on one ledger for the test."""
    handles: list[gateway.Handle] = []

    def start(text: str) -> gateway.Handle:
        places = "".join(f'\n[providers.{n}]\nbase_url = "{provider.url}"\nkey = "sk-x"\n' for n in ("openai", "anthropic", "gemini"))
        policy = settings.parse(text + places + "\n[ledger]\ncompact_every_s = 0\n", "the test's policy")
        handles.append(gateway.serve_in_thread(ledger=tmp_path / "ledger", policy=policy))
        return handles[-1]

    yield start
    for handle in handles:
        handle.stop()


def ask(handle: gateway.Handle, body: dict[str, Any], **headers: str) -> tuple[int, str, Any]:
    """Status, verdict and body."""
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.getheader("x-bursar-verdict") or "", json.loads(data)


def script(**say: Any) -> str:
    """What the provider is told to say, as a header."""
    return json.dumps(say)


class Loop:
    """An agent without headers that calls one tool again and again and always gets the same result."""

    def __init__(self, handle: gateway.Handle, say: str = "find my order", **more: Any) -> None:
        self.handle, self.more = handle, more
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": say}]
        self.steps = 0

    def step(self, result: str = "not ready", arguments: str = '{"id":1}', **headers: str) -> tuple[int, str, Any]:
        tools = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]
        found = ask(self.handle, {"model": "gpt-5-mini", "messages": self.messages, "tools": tools, **self.more}, **headers)
        self.steps += 1
        call = {"id": f"c{self.steps}", "type": "function", "function": {"name": "lookup", "arguments": arguments}}
        self.messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{self.steps}", "content": result},
        ]
        return found

    def run(self, steps: int) -> list[str]:
        return [f"{status} {verdict}".strip() for status, verdict, _ in (self.step() for _ in range(steps))]


def incidents(handle: gateway.Handle) -> list[dict[str, Any]]:
    found = CliRunner().invoke(main, ["guard", "incidents", "--json", "--ledger", str(handle.gateway.shop.folder)])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)["rows"]


def order(handle: gateway.Handle, *words: str) -> str:
    """A `bursar guard` command, and a second in which it acts."""
    found = CliRunner().invoke(main, ["guard", *words, "--ledger", str(handle.gateway.shop.folder)])
    assert found.exit_code == 0, found.output
    time.sleep(1.0)
    return found.stdout


def rows(handle: gateway.Handle) -> list[Any]:
    return handle.gateway.shop.ledger.rows()


def test_a_loop_without_headers_is_wound_down_then_stopped_in_a_reply_then_with_an_error(serve: Serve) -> None:
    """The agent gets one turn to end in; a client that ignores replies gets the error that SDKs do not retry."""
    handle = serve(f'[guard]\nrepeats_max = 4\nwind_down = true\nreply = "{TEXT}"\n')
    agent = Loop(handle)
    assert agent.run(8) == [
        "200", "200", "200", "200", "200 wind_down", "200 stopped:runaway_loop", "200 stopped:runaway_loop", "402 refused:runaway_loop",
    ]  # fmt: skip
    (one,) = incidents(handle)
    assert (one["act"], one["code"], one["state"], one["calls"]) == ("refused", "runaway_loop", "open", 4)
    assert one["evidence"]["tools"] == ["lookup"] and one["evidence"]["rule"] == "same"
    stopped = [row for row in rows(handle) if row.status == "refused"]
    assert [(row.http_status, row.cost, row.flags) for row in stopped] == [(200, 0, "reply"), (200, 0, "reply"), (402, 0, "")]
    assert len({row.conversation for row in rows(handle)}) == 1
    assert sum(row.cost or 0 for row in rows(handle)) > 0


def test_the_last_turn_is_told_to_end_and_may_call_no_tool(serve: Serve, provider: Provider) -> None:
    """What the provider saw: all that was said before, byte for byte, then a note, and tools forbidden."""
    handle = serve("[guard]\ntool_calls_max = 2\nwind_down = true\n")
    agent = Loop(handle)
    agent.run(3)
    before = len(provider.seen[-1].body["messages"])
    assert agent.step()[1] == "wind_down"
    said = provider.seen[-1].body
    assert said["tool_choice"] == "none" and said["messages"][-1]["role"] == "user" and "limit" in said["messages"][-1]["content"]
    assert len(said["messages"]) == before + 3
    assert rows(handle)[-1].flags == "wind_down"


def test_nothing_written_warns_and_stops_nobody(serve: Serve) -> None:
    """Without a policy everything is recorded, and nothing blocked."""
    handle = serve("")
    agent = Loop(handle)
    found = agent.run(9)
    assert all(line.startswith("200") for line in found) and found[-1] == "200 warned:runaway_loop"
    (one,) = incidents(handle)
    assert (one["act"], one["state"]) == ("warned", "")


def test_off_says_nothing_and_warn_stops_nothing(serve: Serve) -> None:
    """The two ways to look before anything is switched on."""
    for table, last in (('mode = "off"', "200"), ('mode = "warn"\nrepeats_max = 4', "200 warned:runaway_loop")):
        assert Loop(serve(f"[guard]\n{table}\n"), say=table).run(8)[-1] == last


def test_a_flow_has_limits_of_its_own(serve: Serve) -> None:
    """Fifteen tool calls are right for customer service and stop nearly every coding run."""
    handle = serve('[guard]\ntool_calls_max = 2\n[guard.flow.coding]\ntool_calls_max = 50\n')
    plain, coding = Loop(handle), Loop(handle, say="mend it")
    results = [f"line {n}" for n in range(6)]
    assert [plain.step(r, json.dumps({"n": r}))[1] for r in results][2:] == ["", *["stopped:tool_depth_exceeded"] * 2, "refused:tool_depth_exceeded"]
    found = [coding.step(r, json.dumps({"n": r}), **{"x-bursar-flow": "coding"}) for r in results]
    assert all(verdict == "" for _, verdict, _ in found)


def test_a_demand_for_json_or_a_tool_call_gets_the_error(serve: Serve) -> None:
    """A reply in its place would break the client, or feed the loop."""
    handle = serve("[guard]\nrepeats_max = 4\n")
    for more in ({"response_format": {"type": "json_object"}}, {"tool_choice": "required"}):
        assert Loop(handle, say=str(more), **more).run(5)[-1] == "402 refused:runaway_loop"


def test_a_conversations_dollars_are_a_budget_and_its_tenant_is_part_of_it(serve: Serve) -> None:
    """Two tenants that name a conversation alike do not pay for each other."""
    handle = serve('[guard]\ncost_max = "$0.05"\nstop = "error"\n')
    say = script(usage={"input": 10_000, "output": 1_500})
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2_000}

    def go(tenant: str) -> int:
        return ask(handle, body, **{"x-bursar-tenant": tenant, "x-bursar-conversation": "c1", "x-script": say})[0]

    found = [go("acme") for _ in range(12)]
    assert found[0] == 200 and found[-1] == 402 and go("rival") == 200
    spent = sum(row.cost or 0 for row in rows(handle) if row.tenant == "acme")
    assert spent <= 50_000_000_000
    assert {row.error for row in rows(handle) if row.status == "refused"} == {"conversation_budget_exceeded"}


def test_a_sub_agent_counts_against_the_conversation_that_started_it(serve: Serve) -> None:
    """The task it was given stands in the caller's tool call."""
    handle = serve('[guard]\ncost_max = "$5"\n')
    task = "Read all of the forty-two reports in the folder and tell me which of them mention the delivery of the sixth of May."
    first = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "which reports?"}]}
    ask(handle, first, **{"x-script": script(tools=[("delegate", json.dumps({"prompt": task}))])})
    ask(handle, {"model": "gpt-5-mini", "messages": [{"role": "user", "content": task}]})
    counters = [c for c in handle.gateway.shop.ledger.counters() if c.startswith("guard.cost_max")]
    assert len(counters) == 1, counters


def test_a_ladder_warns_then_takes_the_cheaper_model_then_stops(serve: Serve, provider: Provider) -> None:
    """Each rung is taken from its share on; the budget is never passed."""
    handle = serve(
        '[tiers]\ncheap = "gpt-5-nano"\nstandard = "gpt-5-mini"\npremium = "gpt-5"\n'
        '[[budget]]\nname = "day"\nscope = "all"\nlimit = "$1"\nwindow = "day"\nladder = {warn = "20%", cheaper = "40%"}\n'
    )
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10_000}
    served: list[tuple[str, str]] = []
    for n in range(40):
        status, verdict, _ = ask(handle, {**body, "messages": [{"role": "user", "content": f"hi {n}"}]},
                                 **{"x-script": script(usage={"input": 1_000, "output": 8_000})})  # fmt: skip
        served.append((provider.seen[-1].model if status == 200 else "none", verdict))
    models = [model for model, _ in served]
    assert models[0] == "gpt-5" and "gpt-5-mini" in models
    assert models == sorted(models, key=["gpt-5", "gpt-5-mini", "none"].index), "a rung is never left again"
    assert sum(row.cost or 0 for row in rows(handle)) <= 10**12
    acts = {one["act"] for one in incidents(handle)}
    assert acts <= {"warned", "cheaper", "refused"} and acts


def test_the_cheaper_rung_takes_no_model_that_has_a_budget_of_its_own(serve: Serve, provider: Provider) -> None:
    """That budget held nothing for it: two calls are two calls, whoever chose the model; and nothing is said that was not done."""
    text = '[tiers]\ncheap = "gpt-5-nano"\n'
    text += '[[budget]]\nname = "day"\nscope = "all"\nlimit = "$1"\nwindow = "forever"\nladder = {cheaper = "1%"}\n'
    handle = serve(text + '[[budget]]\nname = "nano"\nscope = {model = "gpt-5-nano"}\nlimit = "2 calls"\nwindow = "forever"\n')
    for n in range(6):
        body = {"model": "gpt-5", "messages": [{"role": "user", "content": f"hi {n}"}], "max_tokens": 3_000}
        ask(handle, body, **{"x-script": script(usage={"input": 10, "output": 2_500})})
        assert provider.seen[-1].model == "gpt-5"
    assert {one["act"] for one in incidents(handle)} == {"warned"}


def test_one_call_alone_may_be_too_large(serve: Serve) -> None:
    """scope = "call" is a limit of each call by itself; no counter remembers it."""
    handle = serve('[[budget]]\nname = "each call"\nscope = "call"\nlimit = "$0.01"\n')
    small = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
    assert ask(handle, small)[0] == 200
    status, _, body = ask(handle, {**small, "max_tokens": 100_000})
    assert status == 402 and "'each call' allows one call" in body["error"]["message"]
    assert handle.gateway.shop.ledger.counters() == {}
    (one,) = incidents(handle)
    assert (one["act"], one["limit"], one["code"]) == ("refused", "each call", "budget_exceeded")


def test_tool_calls_are_counted_once_though_the_history_is_sent_again(serve: Serve) -> None:
    """Each result counts when it is new."""
    handle = serve('[[budget]]\nname = "tools"\nscope = "all"\nlimit = "1000 tool_calls"\nwindow = "forever"\n')
    agent = Loop(handle)
    agent.run(5)
    (standing,) = handle.gateway.shop.ledger.counters().values()
    assert (standing.spent, standing.held) == (4, 0)


def test_a_slow_loop_over_two_workers_is_stopped_by_the_conversations_budget(provider: Provider, tmp_path: Path) -> None:
    """One call a minute for six hours, no header, every other call to the other worker; the clock is the test's."""
    now = [1_790_000_000_000_000]
    text = '[guard]\ncost_max = "$0.05"\n' + f'[providers.openai]\nbase_url = "{provider.url}"\nkey = "sk-x"\n[ledger]\ncompact_every_s = 0\n'
    policy = settings.parse(text, "the test's policy")
    workers = [gateway.serve_in_thread(ledger=tmp_path / "ledger", policy=policy, clock_us=lambda: now[0]) for _ in range(2)]
    agent = Loop(workers[0])
    stopped = 0
    try:
        for minute in range(360):
            now[0] += 60_000_000
            agent.handle = workers[minute % 2]
            page = json.dumps({"page": minute})
            said = script(text="", tools=[("lookup", page)], usage={"input": 1_000 + 300 * minute, "output": 200})
            status, verdict, _ = agent.step(result=f"page {minute}", arguments=page, **{"x-script": said})
            if status == 402 or verdict.startswith("stopped"):
                stopped = minute
                break
        assert 10 < stopped < 300
        found = rows(workers[0])
        assert len({row.conversation for row in found}) == 1, "both workers know whose calls these are"
        assert sum(row.cost or 0 for row in found) <= 50_000_000_000
        assert found[-1].error == "conversation_budget_exceeded"
    finally:
        for worker in workers:
            worker.stop()


def test_a_thousand_conversations_that_open_alike_are_nobodys_loop(serve: Serve) -> None:
    """What nothing tells apart is not stopped by what the others did."""
    handle = serve('[guard]\nmode = "on"\ntool_calls_max = 3\nturns_max = 3\nrepeats_max = 3\ncost_max = "$1"\n')
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=30)
    opening = {"role": "user", "content": "hello, I need help with my order"}
    verdicts: list[str] = []

    def send(messages: list[dict[str, Any]]) -> None:
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "gpt-5-mini", "messages": messages}))
        answer = connection.getresponse()
        answer.read()
        verdicts.append(f"{answer.status} {answer.getheader('x-bursar-verdict') or ''}".strip())

    for _ in range(1_000):
        send([opening])
    for n in range(1_000):
        send([opening, {"role": "assistant", "content": "Done."}, {"role": "user", "content": f"it is order {n % 10}"}])
    connection.close()
    assert set(verdicts) == {"200"}, {v: verdicts.count(v) for v in set(verdicts)}


# -- orders ----------------------------------------------------------------------------------------------------------------


def test_an_order_stops_within_a_second_and_resume_takes_it_back(serve: Serve) -> None:
    """By label, by conversation, and by the number of an incident."""
    handle = serve("")
    agent = Loop(handle)
    one = {"x-bursar-feature": "search"}
    assert agent.step(**one)[0] == 200
    order(handle, "stop", "--where", "feature=search", "--reason", "too dear")
    status, verdict, body = agent.step(**one)
    assert (status, verdict) == (200, "stopped:stopped_by_order")
    assert Loop(handle, say="other").step()[1] == ""
    assert "too dear" in incidents(handle)[0]["reason"]
    order(handle, "resume", "--where", "feature=search")
    assert agent.step(**one)[1] == ""
    conversation = rows(handle)[0].conversation
    order(handle, "stop", conversation)
    assert agent.step(**one)[1].endswith("stopped_by_order")
    order(handle, "resume", conversation)
    assert agent.step(**one)[1] == ""


def test_a_resumed_conversation_has_its_limits_once_more(serve: Serve) -> None:
    """And what it did before is no loop for a while."""
    handle = serve("[guard]\nrepeats_max = 4\n")
    agent = Loop(handle)
    assert agent.run(5)[-1] == "200 stopped:runaway_loop"
    order(handle, "resume", "1")
    assert agent.run(3) == ["200", "200", "200"]
    assert incidents(handle)[0]["state"] == "resumed"


def test_a_raised_budget_lets_calls_through_and_forgets_nothing(serve: Serve) -> None:
    """What was spent stays spent."""
    text = '[[budget]]\nname = "day"\nscope = "all"\nlimit = "2 calls"\nwindow = "forever"\n'
    handle = serve(text)
    policy = handle.gateway.shop.folder.parent / "bursar.toml"
    policy.write_text(text)
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    assert [ask(handle, body)[0] for _ in range(3)] == [200, 200, 402]
    order(handle, "raise", "day", "4 calls", "--config", str(policy))
    assert [ask(handle, body)[0] for _ in range(3)] == [200, 200, 402]
    order(handle, "raise", "day", "--config", str(policy))
    assert ask(handle, body)[0] == 402
    (standing,) = handle.gateway.shop.ledger.counters().values()
    assert standing.spent == 4


def test_a_running_stream_ends_properly_when_it_is_ordered_to(serve: Serve, provider: Provider) -> None:
    """With length, as if a cap was reached: SDKs give what came, and the row says why."""
    handle = serve("")
    client = openai.OpenAI(base_url=handle.url + "/v1", api_key="x", max_retries=0)
    say = script(text="word " * 400, pieces=200, pause_s=0.05)
    stream = client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "go"}], stream=True,
        extra_headers={"x-script": say, "x-bursar-feature": "slow"},
    )  # fmt: skip
    threading.Timer(0.5, lambda: order(handle, "stop", "--where", "feature=slow")).start()
    began = time.monotonic()
    finishes = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
    assert finishes[-1] == "length" and time.monotonic() - began < 8
    due = time.monotonic() + 5
    while not rows(handle) and time.monotonic() < due:
        time.sleep(0.02)
    (row,) = rows(handle)
    assert row.ended == "incomplete" and "stopped_by_order" in row.flags and row.cost
    assert all(c.held == 0 for c in handle.gateway.shop.ledger.counters().values())


def test_a_new_policy_keeps_what_people_ordered(provider: Provider, tmp_path: Path) -> None:
    """A stop is in force in the very next call after a reload, a raised budget too; a stream that began before hears of later stops."""
    config = tmp_path / "bursar.toml"
    text = f'[providers.openai]\nbase_url = "{provider.url}"\nkey = "sk-x"\n[ledger]\ncompact_every_s = 0\n'
    budget = '[[budget]]\nname = "two"\nscope = {feature = "few"}\nlimit = "2 calls"\n'
    config.write_text(text + budget)
    handle = gateway.serve_in_thread(ledger=tmp_path / "ledger", config=config)
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    try:
        for words in (["stop", "--where", "feature=bad"], ["raise", "two", "3 calls", "--config", str(config)]):
            order(handle, *words)
        assert "stopped_by_order" in ask(handle, body, **{"x-bursar-feature": "bad"})[1]
        client = openai.OpenAI(base_url=handle.url + "/v1", api_key="x", max_retries=0)
        stream = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "go"}], stream=True,
            extra_headers={"x-script": script(text="word " * 400, pieces=200, pause_s=0.05), "x-bursar-feature": "slow"},
        )  # fmt: skip
        chunks = iter(stream)
        next(chunks)
        config.write_text(text + "# changed\n" + budget)
        assert "in force" in handle.gateway.reload()
        assert "stopped_by_order" in ask(handle, body, **{"x-bursar-feature": "bad"})[1]
        assert [ask(handle, body, **{"x-bursar-feature": "few"})[0] for _ in range(4)] == [200, 200, 200, 402]
        threading.Timer(0.1, lambda: order(handle, "stop", "--where", "feature=slow")).start()
        finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert finishes[-1] == "length"
    finally:
        handle.stop()


def test_a_stream_that_outgrows_its_hold_is_ended(serve: Serve) -> None:
    """A provider that heeds no cap would pass the budget; a client sees the end of an answer."""
    handle = serve('[[budget]]\nname = "day"\nscope = "all"\nlimit = "$100"\nwindow = "day"\n')
    client = openai.OpenAI(base_url=handle.url + "/v1", api_key="x", max_retries=0)
    said = script(text="word " * 4_000, pieces=2_000)
    stream = client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "go"}], stream=True, max_tokens=100, extra_headers={"x-script": said},
    )  # fmt: skip
    chunks = [chunk for chunk in stream if chunk.choices]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert sum(len(chunk.choices[0].delta.content or "") for chunk in chunks) < 15_000
    due = time.monotonic() + 5
    while not rows(handle) and time.monotonic() < due:
        time.sleep(0.02)
    (row,) = rows(handle)
    assert row.flags == "outgrew_hold" and row.ended == "incomplete" and (row.cost or 0) > 0


# -- what SDKs make of it --------------------------------------------------------------------------------------------------


def openai_chat(url: str, stream: bool) -> str:
    client = openai.OpenAI(base_url=url + "/v1", api_key="x")
    messages: Any = [{"role": "user", "content": "hi"}]
    if stream:
        chunks = list(client.chat.completions.create(model="gpt-5-mini", messages=messages, stream=True))
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return client.chat.completions.create(model="gpt-5-mini", messages=messages).choices[0].message.content or ""


def openai_responses(url: str, stream: bool) -> str:
    client = openai.OpenAI(base_url=url + "/v1", api_key="x")
    if stream:
        events = list(client.responses.create(model="gpt-5-mini", input="hi", stream=True))
        return "".join(e.delta for e in events if e.type == "response.output_text.delta")
    return client.responses.create(model="gpt-5-mini", input="hi").output_text


def anthropic_messages(url: str, stream: bool) -> str:
    client = anthropic.Anthropic(base_url=url, api_key="x")
    messages: Any = [{"role": "user", "content": "hi"}]
    if stream:
        with client.messages.stream(model="claude-haiku-4-5", max_tokens=50, messages=messages) as events:
            return events.get_final_text()
    return client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=messages).content[0].text  # type: ignore[union-attr]


def gemini_generate(url: str, stream: bool) -> str:
    client = genai.Client(api_key="x", http_options=genai_types.HttpOptions(base_url=url))
    if stream:
        return "".join(part.text or "" for part in client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"))
    return client.models.generate_content(model="gemini-2.5-flash", contents="hi").text or ""


CLIENTS = (openai_chat, openai_responses, anthropic_messages, gemini_generate)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_an_sdk_shows_the_reply_or_gives_up_after_one_refused_call(serve: Serve, client: Callable[[str, bool], str], stream: bool) -> None:
    """Reply mode: the text. Error mode: one request, no retry."""
    talking = serve(f'[guard]\nreply = "{TEXT}"\n')
    order(talking, "stop", "--where", "provider=" + client.__name__.split("_")[0])
    assert client(talking.url, stream) == TEXT
    refusing = serve('[guard]\nstop = "error"\n')
    time.sleep(0.6)
    with pytest.raises(Exception) as caught:
        client(refusing.url, stream)
    assert "402" in str(caught.value) or "stopped_by_order" in str(caught.value)
    asked = [row for row in rows(refusing) if row.status == "refused" and row.http_status == 402]
    assert len(asked) == 1


def test_a_stopped_conversation_is_handed_to_a_person_once(serve: Serve) -> None:
    """By the clockwork, with what he must know; taken and ended from the command line; told again when it happens again."""
    with Receiver() as bell:
        text = f'[guard]\nrepeats_max = 4\nhandoff = "desk"\n[channels.desk]\nurl = "{bell.url}"\nkind = "webhook"\nprivate = true\n'
        handle = serve(text + "[watch]\nevery_s = 0\n")
        agent = Loop(handle)
        agent.run(7)
        watch = Watch(handle.gateway.shop.folder, policy=handle.gateway.shop.policy)
        try:
            watch.cycle()
            watch.cycle()
            (got,) = bell.got
            told = got.json
            assert told["kind"] == "handoff" and told["code"] == "runaway_loop"
            assert told["conversation"] == rows(handle)[0].conversation
            spent = sum(row.cost or 0 for row in rows(handle))
            assert told["cost"] == plain(spent) and told["command"] == "bursar guard take 1"
            assert "is taken" in order(handle, "take", "1", "--reason", "on it")
            assert incidents(handle)[0]["state"] == "taken"
            order(handle, "resume", "1")
            agent.run(14)
            watch.cycle()
            assert len(bell.got) == 2 and bell.got[1].json["id"] != told["id"]
        finally:
            watch.close()


def test_whoever_takes_over_reads_the_last_messages_where_the_policy_keeps_them(serve: Serve) -> None:
    """In the hand-off, in `guard incidents N`, and nowhere once their time is over; without the setting no word is kept."""
    with Receiver() as bell:
        text = f'[guard]\nrepeats_max = 4\nhandoff = "desk"\n[channels.desk]\nurl = "{bell.url}"\nkind = "webhook"\nprivate = true\n'
        handle = serve(text + '[watch]\nevery_s = 0\n[retention]\ncontent = "7d"\n')
        Loop(handle, "where is <b>my</b> order").run(7)
        watch = Watch(handle.gateway.shop.folder, policy=handle.gateway.shop.policy)
        try:
            watch.cycle()
            told = bell.got[0].json
            assert [one["role"] for one in told["messages"]][-2:] == ["model", "result"] and told["messages"][-1]["text"] == "not ready"
            assert "Last, a tool: “not ready”" in str(told)
            shown = order(handle, "incidents", "1")
            assert "a tool: “not ready”" in shown
            late = handle.gateway.shop.clock_us() + 8 * 86_400_000_000
            connection = connect(handle.gateway.shop.ledger.place, busy_ms=1_000)
            incidents_of.forget(connection, late)
            assert connection.execute("SELECT count(*) FROM said").get == 0
            connection.close()
            assert "not ready" not in order(handle, "incidents", "1")
        finally:
            watch.close()
    other = serve("[guard]\nrepeats_max = 4\n")
    Loop(other, "quite another opening").run(7)
    connection = connect(other.gateway.shop.ledger.place, busy_ms=1_000)
    assert connection.execute("SELECT count(*) FROM said").get == 0
    connection.close()


def test_budgets_and_orders_are_shown_on_one_page(serve: Serve) -> None:
    """`bursar guard` fits a terminal."""
    text = '[[budget]]\nname = "acme day"\nscope = {tenant = "acme"}\nlimit = "$1"\nwindow = "day"\n'
    handle = serve(text)
    policy = handle.gateway.shop.folder.parent / "bursar.toml"
    policy.write_text(text)
    Loop(handle).step(**{"x-bursar-tenant": "acme"})
    order(handle, "stop", "--where", "tool=lookup", "--for", "2h")
    out = order(handle, "--config", str(policy))
    assert "acme day" in out and "tool=lookup" in out and max(map(len, out.splitlines())) <= 80
