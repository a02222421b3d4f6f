"""The short way of reading OpenAI's own usage object says what the general one says, or nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.wire import openai_usage, usage

# Mostly what passes for plain, so that the examples are spent on what adds up or just does not.
counts = st.sampled_from([0, 1, 2, 3, 50, 51, 100, 200, 300, None, 1.0, 2.5, -1, "3", True, 2**50])
rarely = st.sampled_from([0, 0, 0, 7, None])


def details(name: str, other: str) -> st.SearchStrategy[dict[str, Any] | None]:
    return st.one_of(
        st.fixed_dictionaries({name: counts}, optional={"audio_tokens": rarely}),
        st.fixed_dictionaries({}, optional={name: counts, other: counts}),
        st.none(),
    )


inside = details("cached_tokens", "image_tokens")
outside = details("reasoning_tokens", "accepted_prediction_tokens")


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    prompt, completion = draw(counts), draw(counts)
    summed = prompt + completion if isinstance(prompt, int) and isinstance(completion, int) else 0
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": draw(st.sampled_from([summed, summed, summed, 100]))}
    if draw(st.booleans()):
        found["prompt_tokens_details"] = draw(inside)
    if draw(st.booleans()):
        found["completion_tokens_details"] = draw(outside)
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.sampled_from(["reasoning_tokens", "cost", "service_tier", "num_search_queries"]))] = draw(counts)
    return found


OPENAI = {
    "prompt_tokens": 200, "completion_tokens": 300, "total_tokens": 500, "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
}  # fmt: skip


@settings(max_examples=500)
@given(usages())
@example(OPENAI)
@example({**OPENAI, "prompt_tokens_details": {"cached_tokens": 201}})
@example({**OPENAI, "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 50}})
@example({**OPENAI, "completion_tokens_details": {"reasoning_tokens": 301}})
@example({**OPENAI, "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 50}})
@example({**OPENAI, "total_tokens": 520})
def test_the_short_way_and_the_general_one_agree(stated: dict[str, Any]) -> None:
    raw = json.dumps(stated).encode()
    short = openai_usage.plain(raw)
    if short is None:
        return
    general = usage.read(raw)
    assert general is not None
    assert short == openai_usage.tally(general, raw)
    assert openai_usage.cost(general) is None and openai_usage.tier(general) == ""


def test_what_openai_itself_writes_takes_the_short_way() -> None:
    assert openai_usage.plain(json.dumps(OPENAI).encode()) is not None
    assert openai_usage.plain(json.dumps({**OPENAI, "cost": "0.1"}).encode()) is None
