"""The controls inside a wrapped SDK: kept replies, tiers and shorter histories as the official clients see them, and no deadlock."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest
from wrapped import Bench, bench, prices

import bursar
from bursar.testing.invoice import Buckets
from bursar.testing.script import Say

__all__ = ["bench", "prices"]
ASKS: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


@pytest.fixture
def caching(bench: Bench) -> Bench:
    bench.policy('[cache]\nexact = true\nembeddings = true\n[labels]\ntenant = "acme"\n')
    return bench


def client(bench: Bench, kind: Any = openai.OpenAI) -> Any:
    return bursar.wrap(kind(api_key="sk-theirs", base_url=bench.url("openai")), **bench.wrapping())


def test_a_kept_reply_is_what_the_sdk_gets_whole_and_streamed(caching: Bench) -> None:
    """The same objects and types, at no cost, from one request."""
    with client(caching) as sdk:
        first = sdk.chat.completions.create(**ASKS)
        again = sdk.chat.completions.with_raw_response.create(**ASKS)
        said = "".join(
            chunk.choices[0].delta.content or "" for chunk in sdk.chat.completions.create(**ASKS, stream=True) if chunk.choices
        )
    assert again.headers["x-bursar-cache"] == "hit" and again.parse().choices == first.choices
    assert said == first.choices[0].message.content and len(caching.provider.seen) == 1
    paid, *saved = caching.rows(3)
    assert [(row.cost, row.saved, row.saved_by) for row in saved] == [(0, paid.cost, "cache")] * 2


def test_threads_that_ask_the_same_at_once_make_one_call(caching: Bench) -> None:
    """All but one wait for it."""
    caching.provider.script = lambda seen: Say(text="Paris", wait_s=0.7)
    with client(caching) as sdk, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: sdk.chat.completions.create(**ASKS).choices[0].message.content, range(12)))
    assert answers == ["Paris"] * 12 and len(caching.provider.seen) == 1


def test_tasks_that_ask_the_same_at_once_make_one_call_also_when_the_first_is_cancelled(caching: Bench) -> None:
    """Who was next makes the call; nobody waits for one that is gone."""
    caching.provider.script = lambda seen: Say(text="Paris", wait_s=0.7)

    async def crowd() -> list[str]:
        async with client(caching, openai.AsyncOpenAI) as sdk:
            first = asyncio.create_task(sdk.chat.completions.create(**ASKS))
            await asyncio.sleep(0.3)
            others = [asyncio.create_task(sdk.chat.completions.create(**ASKS)) for _ in range(8)]
            await asyncio.sleep(0.1)
            others[3].cancel()
            first.cancel()
            done = await asyncio.gather(*others, return_exceptions=True)
            return [one.choices[0].message.content if not isinstance(one, BaseException) else "cancelled" for one in done]

    answers = asyncio.run(asyncio.wait_for(crowd(), 20))
    assert sorted(answers) == ["Paris"] * 7 + ["cancelled"] and len(caching.provider.seen) == 2


def test_a_stream_that_is_read_slowly_holds_nobody_up(caching: Bench) -> None:
    """Not even the very thread that reads it and asks the same in between."""
    answers: list[str] = []

    def work() -> None:
        with client(caching) as sdk, sdk.chat.completions.create(**ASKS, stream=True) as stream:
            next(iter(stream))
            answers.append(sdk.chat.completions.create(**ASKS).choices[0].message.content)
            answers.extend("" for _ in stream)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(15)
    assert not thread.is_alive() and answers[0] == "Done." and len(caching.provider.seen) == 2


def test_embeddings_come_back_in_order_and_only_what_is_new_is_asked_for(caching: Bench) -> None:
    """In the base64 that the SDK asks for by itself."""
    with client(caching) as sdk:
        one = sdk.embeddings.create(model="text-embedding-3-small", input=["a", "b", "c"])
        two = sdk.embeddings.create(model="text-embedding-3-small", input=["c", "new", "a"])
        three = sdk.embeddings.create(model="text-embedding-3-small", input=["b", "new"])
    vectors = {text: item.embedding for text, item in zip("abc", one.data, strict=True)}
    assert [item.embedding for item in two.data][::2] == [vectors["c"], vectors["a"]] and [item.index for item in two.data] == [
        0,
        1,
        2,
    ]
    assert [item.embedding for item in three.data] == [vectors["b"], two.data[1].embedding]
    assert [seen.body["input"] for seen in caching.provider.seen] == [["a", "b", "c"], ["new"]]
    assert [row.saved_by for row in caching.rows(3)] == ["", "embeddings", "embeddings"]


def test_a_wrapped_client_may_ask_for_a_tier(bench: Bench) -> None:
    """In its own dialect; the model that answers is the tier's."""
    bench.policy('[tiers]\ncheap = ["gpt-5-nano", "claude-haiku-4-5"]\nstandard = "gpt-5-mini"\n')
    with client(bench) as sdk:
        assert sdk.chat.completions.create(**{**ASKS, "model": "bursar/cheap"}).model == "gpt-5-nano"
    other = bursar.wrap(anthropic.Anthropic(api_key="sk-theirs", base_url=bench.url("anthropic")), **bench.wrapping())
    assert other.messages.create(model="bursar/cheap", max_tokens=9, messages=ASKS["messages"]).model == "claude-haiku-4-5"
    assert [(row.model_requested, row.tier) for row in bench.rows(2)] == [("bursar/cheap", "cheap")] * 2


def test_a_wrapped_agents_history_is_shortened(bench: Bench) -> None:
    """What goes out has lines in place of old results; the program's own messages stay as they are."""
    bench.policy('[compact]\nmode = "on"\nkeep_calls = 2\n')
    bench.provider.script = lambda seen: Say(usage=Buckets(input=900, output=9))  # too short a prompt for a provider to keep
    messages: list[Any] = [{"role": "user", "content": "Find the order that is late."}]
    with client(bench) as sdk:
        for turn in range(6):
            call = {"id": f"call_{turn}", "type": "function", "function": {"name": "read", "arguments": f'{{"page": {turn}}}'}}
            messages += [{"role": "assistant", "content": None, "tool_calls": [call]},
                         {"role": "tool", "tool_call_id": f"call_{turn}", "content": f"order #W{turn:07d}: " + "row " * 2_000}]  # fmt: skip
            sdk.chat.completions.create(model="gpt-5-mini", messages=messages)
    assert bench.provider.seen[-1].raw.count(b"elided") == 4 and "elided" not in str(messages)
    assert all(row.saved_by == "compaction" for row in bench.rows(6)[-3:])


SORTED = '[tiers]\ncheap = "gpt-5-mini"\npremium = "gpt-5"\nclassifier = "gpt-5-nano"\nclassifier_within_s = 1.0\n'
ALIKE = '[cache]\nexact = true\nnear = "shadow"\nnear_model = "openai/text-embedding-3-small"\n[labels]\ntenant = "acme"\n'


def test_what_a_control_asks_for_itself_never_reaches_the_program(bench: Bench) -> None:
    """A classifier and an embedding in front of the call: whole and streamed, the program has its own answer; both are booked."""
    bench.policy(SORTED + ALIKE)
    bench.provider.script = lambda seen: Say() if "embeddings" in seen.path else Say(text="premium" if seen.model == "gpt-5-nano" else "Paris")
    with client(bench) as sdk:
        whole = sdk.chat.completions.create(**{**ASKS, "model": "bursar/auto"})
        events = sdk.chat.completions.create(**{**ASKS, "model": "bursar/auto", "top_p": 0.5}, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in events if chunk.choices)
    assert (whole.model, whole.choices[0].message.content, said) == ("gpt-5", "Paris", "Paris")
    rows = bench.rows(6)
    assert sorted(row.saved_by for row in rows if row.operation == "control") == ["near", "near", "tiers", "tiers"]
    assert sum(row.cost or 0 for row in rows) == sum(int(line.dollars.scaleb(12)) for line in bench.provider.invoice.lines)


@pytest.mark.parametrize("says", [Say(status=500, message="theirs"), Say(fault="reset"), Say(wait_s=20)], ids=["500", "reset", "hangs"])
def test_a_control_that_fails_is_nothing_to_the_program(bench: Bench, says: Say) -> None:
    """Neither its error nor its exception, sync and async; after the limit the call is made."""
    bench.provider.script = lambda seen: says if seen.model == "gpt-5-nano" else Say(text="Paris")
    asked = {**ASKS, "model": "bursar/auto"}
    bench.policy(SORTED.replace('premium = "gpt-5"', 'standard = "gpt-5"'))
    with client(bench) as sdk:
        assert sdk.chat.completions.create(**asked).choices[0].message.content == "Paris"

    async def once() -> str:
        async with client(bench, openai.AsyncOpenAI) as sdk:
            return (await sdk.chat.completions.create(**asked)).choices[0].message.content

    assert asyncio.run(once()) == "Paris"


@pytest.mark.parametrize("says", [Say(text="cheap"), Say(fault="reset")], ids=["answered", "reset"])
def test_a_fault_of_ours_after_a_controls_own_call_gives_the_program_its_own_answer(
    bench: Bench, says: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the classifier's word, and not the classifier's exception."""
    from bursar import drive, pipeline

    admit = pipeline.admit

    def broken(call: Any, *more: Any) -> Any:
        if call.call_id.endswith("-tier"):
            return admit(call, *more)
        raise RuntimeError("planted")

    monkeypatch.setattr(drive, "raise_faults", False)
    monkeypatch.setattr(pipeline, "admit", broken)
    bench.policy(SORTED.replace("premium", "standard"))
    bench.provider.script = lambda seen: says if seen.model == "gpt-5-nano" else Say(text="Paris")
    with client(bench) as sdk:
        assert sdk.chat.completions.create(**{**ASKS, "model": "bursar/auto"}).choices[0].message.content == "Paris"
