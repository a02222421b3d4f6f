"""The simulated company: its story holds for every seed, and its shapes are those that were recorded."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

import httpx
import pytest

from bursar.testing.agents import FALLBACK_FROM, FALLBACK_TO
from bursar.testing.company import CUSTOMER_X, plan, truth
from bursar.testing.invoice import PRICES
from bursar.testing.planned import TOOL, Planned
from bursar.testing.provider import Provider

SEEDS = range(20)

# What issue and design tell, in dollars, and how far a seed may be from it.
STORY = {
    "quiet_month": (400, 0.05),
    "dear_month": (5200, 0.03),
    "evals_share": (0.40, 0.03),
    "embedding_last_night": (30, 0.03),
    "fallback_share_of_replies": (0.10, 0.03),
    "week_total": (1200, 0.04),
    "week_customer_x": (400, 0.05),  # off by half a conversation, and these are the dearest
    "week_evals": (300, 0.03),
    "week_tool_retries": (200, 0.05),
}


def within(value: Any, target: float, share: float) -> bool:
    return abs(float(value) - target) <= target * share


@pytest.fixture(scope="module")
def calls() -> list[Planned]:
    return plan(0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_story_holds_for_every_seed(seed: int) -> None:
    """A $400 month, a $5,200 month, and in it each of the planted causes at its price."""
    planned = plan(seed)
    found = truth(calls=planned)
    off = {name: found[name] for name, (target, share) in STORY.items() if not within(found[name], target, share)}
    assert off == {}
    assert 6000 <= found["calls"] <= 9300
    assert list(found["by_feature"])[:3] == ["evals", "research", "search"]  # the re-embedding is third on the bill
    assert list(found["by_operation"])[:3] == ["eval", "primary", "embedding"]
    assert 150 <= found["fallback"] <= 350 and found["fallback"] > found["fallback_first_tries"] * 14
    assert 100 <= found["runaway"] <= 200
    assert max(call.body.size for call in planned) < 16_384


def test_a_body_is_as_long_as_it_says_it_is(calls: list[Planned]) -> None:
    """Sizes are known before anything is written out; tokens are counted from them."""
    assert [call.body.size for call in calls[::37]] == [len(call.body.encode()) for call in calls[::37]]


def test_the_same_seed_plans_the_same_calls(calls: list[Planned]) -> None:
    """Every figure and every byte of them; and another seed plans others."""
    again, other = plan(0), plan(1)
    assert [call.facts for call in again] == [call.facts for call in calls] != [call.facts for call in other]
    assert [sent(call) for call in again[::11]] == [sent(call) for call in calls[::11]] != [sent(call) for call in other[::11]]


def sent(call: Planned) -> tuple[object, ...]:
    return call.path, call.body.encode(), call.headers()


def test_the_parts_of_the_bill_add_up_to_the_whole(calls: list[Planned]) -> None:
    """By feature, tenant, operation, cause and model: to the last digit."""
    found = truth(calls=calls)
    for name in ("by_feature", "by_tenant", "by_operation", "by_cause", "by_model"):
        assert sum(found[name].values()) == found["dear_month"]
    assert found["quiet_month"] + found["dear_month"] == found["total"]


def test_the_fallback_is_to_a_model_at_fifteen_times_the_price() -> None:
    """In every bucket that the two have."""
    cheap, dear = PRICES[FALLBACK_FROM], PRICES[FALLBACK_TO]
    assert {Decimal(dear[bucket]) / Decimal(cheap[bucket]) for bucket in cheap} == {Decimal(15)}


def test_the_prices_written_down_are_those_of_the_price_data() -> None:
    """The auditor's literals against genai-prices, so that a changed list price is noticed here first."""
    from genai_prices import Usage, calc_price

    for model, buckets in PRICES.items():
        provider = "openai" if model.startswith(("gpt", "text")) else "google" if model.startswith("gemini") else "anthropic"
        for bucket, fields in {
            "input": {"input_tokens": 1000},
            "cache_read": {"input_tokens": 1000, "cache_read_tokens": 1000},
            "cache_write": {"input_tokens": 1000, "cache_write_tokens": 1000},
            "output": {"output_tokens": 1000},
        }.items():
            if bucket in buckets:
                priced = calc_price(Usage(**fields), model, provider_id=provider)
                assert priced.total_price * 1000 == Decimal(buckets[bucket]), (model, bucket)


def test_conversations_are_as_long_as_the_recorded_ones(calls: list[Planned]) -> None:
    """Support conversations against agent-tau: turns p50 10 / p95 21, tool calls p50 6 / p95 15, contexts that only grow."""
    talks: dict[str, list[Planned]] = defaultdict(list)
    for seed in range(3):
        for call in calls if seed == 0 else plan(seed):
            if call.first.feature == "support":
                talks[f"{seed}/{call.first.conversation}"].append(call)
    turns = sorted(len(talk) for talk in talks.values())
    tools = sorted(tool_calls(talk[-1]) for talk in talks.values())
    assert 9 <= at(turns, 0.5) <= 11 and 19 <= at(turns, 0.95) <= 25
    assert 5 <= at(tools, 0.5) <= 7 and 12 <= at(tools, 0.95) <= 17
    for talk in talks.values():
        sizes = [call.first.used.input for call in talk]
        assert sizes == sorted(sizes)
        for earlier, later in pairwise(talk):
            before = earlier.body.decoded()["messages"]
            assert later.body.decoded()["messages"][: len(before)] == before  # history is sent again, whole


def tool_calls(call: Planned) -> int:
    return sum(
        block["type"] == "tool_use"
        for message in call.body.decoded()["messages"] if isinstance(message["content"], list)
        for block in message["content"]
    )  # fmt: skip


def at(values: list[int], share: float) -> int:
    return values[min(len(values) - 1, int(len(values) * share))]


def test_a_flaky_tool_is_asked_again_up_to_five_times(calls: list[Planned]) -> None:
    """Each time with an error result as the newest message, and never more than five in a row."""
    runs: Counter[int] = Counter()
    state: dict[str, int] = defaultdict(int)
    for call in calls:
        if call.first.feature != "orders":
            continue
        newest = call.body.decoded()["messages"][-1]["content"]
        failed = isinstance(newest, list) and any(block.get("is_error") for block in newest)
        assert failed == ((TOOL, "lookup_order") in call.first.keys)
        if failed:
            state[call.first.conversation] += 1
        elif state[call.first.conversation]:
            runs[state.pop(call.first.conversation)] += 1
    assert set(runs) <= set(range(1, 11))
    assert sum(n * k for n, k in runs.items()) / sum(runs.values()) > 3


def test_the_runaway_loop_lasts_six_hours_at_night(calls: list[Planned]) -> None:
    """The same call with the same result, every ninety seconds."""
    loop = [call for call in calls if call.first.conversation.startswith("runaway")]
    assert loop[-1].ts_us - loop[0].ts_us == pytest.approx(6 * 3600 * 1e6, rel=0.01)
    assert len({call.say.tools for call in loop}) == 1


def test_customer_x_has_no_part_in_the_evals_or_in_the_flaky_tool(calls: list[Planned]) -> None:
    """So that the three parts of the dear week are disjoint, and can be added."""
    theirs = [call.first for call in calls if call.first.tenant == CUSTOMER_X]
    assert {fact.feature for fact in theirs} == {"research"}


def test_the_provider_bills_the_plan_to_the_last_digit(calls: list[Planned]) -> None:
    """A slice of the plan sent straight to the provider, fallbacks by hand: its invoice is the plan's own sum. All dialects,
    faults and retries are in the slice."""
    chosen = [*calls[::97], *[c for c in calls if c.say.status != 200], *[c for c in calls if len(c.facts) > 1][:20]]
    owed = Decimal(0)
    with Provider() as provider, httpx.Client() as client:
        for call in chosen:
            answer = client.post(provider.url + call.path, content=call.body.encode(), headers=call.headers())
            assert answer.status_code == call.say.status, answer.text
            if len(call.facts) > 1:
                assert not is_json(answer.json()["content"][0]["text"])
                again = {**call.body.decoded(), "model": FALLBACK_TO}
                client.post(provider.url + call.path, json=again, headers=call.headers())
            owed += call.dollars
        assert provider.invoice.total() == owed > 0
        assert [line.ref for line in provider.invoice.lines] == [fact.ref for call in chosen for fact in call.facts]
    assert {call.path.split("/")[1] for call in chosen} == {"v1", "v1beta"}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
