"""Compaction over recorded agent runs, at Anthropic's cache prices: never dearer, cheaper where runs are long, little forgotten.
The whole table with all price rows is `bench/savings.py`; here is what fits into the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

import recorded_histories as recorded
from bursar.rules.compact import AGGRESSIVE, Setting
from recorded_histories import ANTHROPIC, CHEAP, OPENAI_25, UNCACHED, Run


@pytest.fixture(scope="module")
def short(data_dir: Path) -> list[Run]:
    return [*recorded.swe(data_dir), *recorded.tau(data_dir), *recorded.claude_code(data_dir)]


@pytest.fixture(scope="module")
def long(data_dir: Path) -> list[Run]:
    runs = recorded.vorflux(data_dir)
    return [run for run in runs if 30 <= sum(said.call for said in run.said) <= 110][:60]


@pytest.mark.parametrize("setting", [Setting(), AGGRESSIVE, Setting(summarise_every=8)], ids=["default", "aggressive", "summaries"])
def test_no_flow_becomes_dearer_by_more_than_half_a_percent(short: list[Run], setting: Setting) -> None:
    """Nineteen flows, most of them of some ten calls, in which there is next to nothing to save: masking old results in every
    call anew makes sixteen of them dearer, by up to 58 %."""
    flows = recorded.by_flow(short, setting, ANTHROPIC, CHEAP)
    for flow, done in flows.items():
        print(f"{flow:60} {done.change:+.2f} %")
        assert done.change <= 0.5, flow


def test_long_runs_become_cheaper(short: list[Run], long: list[Run]) -> None:
    """Java runs of 21 calls whose prompt is mostly fixed, and runs of 30 to 110 calls; with a prompt cache and without."""
    java = recorded.by_flow([run for run in short if run.flow.startswith("multi-swe")], AGGRESSIVE, ANTHROPIC)
    assert recorded.total(java).change < -5
    for setting, rates, summariser, most in (
        (Setting(), ANTHROPIC, None, -10), (AGGRESSIVE, ANTHROPIC, None, -20), (Setting(), OPENAI_25, None, -20),
        (AGGRESSIVE, UNCACHED, None, -50), (Setting(summarise_every=8), ANTHROPIC, CHEAP, -25),
    ):  # fmt: skip
        done = recorded.total(recorded.by_flow(long, setting, rates, summariser))
        print(f"{setting.keep_calls:3} {rates.read:4} {setting.summarise_every:2} {done.change:+.1f} %")
        assert done.change < most


def test_what_later_calls_refer_to_is_still_there(data_dir: Path) -> None:
    """Of the values in later calls' arguments that the full history shows, plain placeholders lose 9 to 13 per cent."""
    runs = [run for run in recorded.tau(data_dir) if any(said.role == "result" and len(said.text) > 1 for said in run.said)]
    shown, gone = recorded.lost(runs, Setting())
    hard, forgotten = recorded.lost(runs[::3], AGGRESSIVE)
    print(f"default: {gone} of {shown}; aggressive: {forgotten} of {hard}")
    assert shown > 3_000 and gone < 0.01 * shown and forgotten < 0.03 * hard
