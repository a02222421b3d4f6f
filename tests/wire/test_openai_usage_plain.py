"""The short way of reading OpenAI's own usage object says what the general one says, or nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from bursar.wire import openai_usage, usage

small = st.integers(0, 300)
odd = st.sampled_from([0, None, 1.0, 2.5, -1, "3", True, 2**50])
counts = st.one_of(small, small, small, odd)
inside = st.one_of(st.none(), st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens"]), counts))
outside = st.one_of(
    st.none(), st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens", "accepted_prediction_tokens"]), counts)
)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    prompt, completion = draw(counts), draw(counts)
    summed = prompt + completion if isinstance(prompt, int) and isinstance(completion, int) else 0
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": draw(st.one_of(st.just(summed), counts))}
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


@given(usages())
@example(OPENAI)
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
