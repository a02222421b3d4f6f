"""Loops: what goes round in circles is found, what only works for long is not; and what a stop is worth on recorded runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import loop_replay as replays
import recorded_agents
from bursar.domain.history import NO_PAIRS, TAIL, Pairs, paired
from bursar.rules.loop import STOP, WARN, Finding, Limits, look
from wire.talks import Human, Says, history


def run(steps: list[tuple[str, object, object]] | list[tuple[str, object, object, object]], limits: Limits = STOP, **more: object) -> list[Finding | None]:
    """(tool, arguments, result[, error]) one after another; what is found at each."""
    pairs: Pairs = NO_PAIRS
    found = []
    for tool, arguments, result, *error in steps:
        pairs = paired(pairs, tool, hash((tool, arguments)) & (1 << 63) - 1, hash((tool, result)) & (1 << 63) - 1, hash(error[0]) & (1 << 63) - 1 if error else 0)
        found.append(look(pairs, 1, limits, **more))  # type: ignore[arg-type]
    return found


def first(found: list[Finding | None]) -> tuple[int, str]:
    """(step that stops, counted from 1; rule)."""
    return next(((n, f.rule) for n, f in enumerate(found, 1) if f), (0, ""))


@pytest.mark.parametrize(
    ("cycle", "stops"),
    [
        ([("f", 1, "r")], (6, "same")),
        ([("f", 1, "r"), ("g", 1, "r")], (6, "cycle")),
        ([("f", 1, "r"), ("f", 2, "r2")], (6, "cycle")),
        ([("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], (9, "cycle")),
        ([("a", 1, 1), ("b", 1, 1), ("c", 1, 1), ("d", 1, 1)], (10, "stale")),
        ([("a", n, n) for n in range(6)], (12, "stale")),
    ],
)  # fmt: skip
def test_one_to_six_calls_that_repeat_with_their_results_are_a_loop(cycle: list, stops: tuple[int, str]) -> None:
    """A-A-A, A-B-A-B, A-B-C-A-B-C, …"""
    assert first(run(cycle * 8)) == stops


def test_a_long_cycle_is_found_as_one_when_staleness_is_not_looked_for() -> None:
    """Six calls three times over: eighteen of the twenty-four pairs that are kept."""
    assert first(run([("a", n, n) for n in range(6)] * 4, Limits(stale=99))) == (18, "cycle")


def test_the_same_failure_again_is_a_loop_whatever_was_asked() -> None:
    """"edit 3:8", "edit 4:9", "edit 5:7": always the same usage error. Other results in between are not."""
    assert first(run([("edit", n, f"usage error, line {n}", "usage error") for n in range(12)])) == (8, "error")
    mixed = [("edit", n, n, f"error {n % 5}") if n % 2 else ("view", n, f"page {n}") for n in range(40)]
    assert first(run(mixed)) == (0, "")
    assert first(run([("edit", n, n, f"error {n}") for n in range(40)])) == (0, "")


def test_no_progress_is_a_loop_also_without_a_pattern() -> None:
    """Calls and results that were all seen before, in any order."""
    order = [0, 1, 2, 3, 2, 0, 3, 1, 1, 2, 0, 3, 2, 1]
    assert first(run([("f", n, n) for n in order])) == (10, "stale")


@pytest.mark.parametrize(
    "steps",
    [
        [("page", n, f"items {n}") for n in range(30)],
        [("update", n, "ok") for n in range(30)],
        [("search", f"words {n}", "no results") for n in range(30)],
        [("read", n, f"file {n}") if n % 2 else ("edit", n, "done") for n in range(40)],
        [("read", n // 2, f"file {n // 2}") for n in range(40)],
        [("test", "all", f"{n} failed") for n in range(20, 0, -1)],
        [("poll", "job", "pending")] * 3 + [("poll", "job", "done")],
    ],
    ids=["paging", "batch", "empty searches", "edits", "each read twice", "tests getting better", "a short poll"],
)  # fmt: skip
def test_what_brings_something_new_is_no_loop(steps: list) -> None:
    assert first(run(steps)) == (0, "")


def test_a_polled_tool_may_repeat_itself_up_to_its_limit() -> None:
    """Declared by the operator; what happens around it is judged without it."""
    polls = {"status": 20}
    assert first(run([("status", 1, "pending")] * 20, polls=polls)) == (0, "")
    assert first(run([("status", 1, "pending")] * 30, polls=polls)) == (21, "poll")
    around = [step for n in range(20) for step in (("status", 1, "pending"), ("f", 1, "r"))]
    assert first(run(around, polls=polls))[1] == "same"
    assert first(run([step for n in range(12) for step in (("status", 1, "pending"), ("f", n, n))], polls=polls)) == (0, "")


def test_a_run_longer_than_what_is_kept_is_counted_to_its_end() -> None:
    found = run([("f", 1, "r")] * 100)
    assert found[-1] == Finding("same", ("f",), 100)
    assert "100 times" in found[-1].words()


def test_the_warning_comes_before_the_stop() -> None:
    """The same rules at two thirds, so that a person may look."""
    for cycle in ([("f", 1, "r")], [("f", 1, "r"), ("g", 1, "r")], [("edit", n, n, "usage") for n in range(20)]):
        assert 0 < first(run(cycle * 8, WARN))[0] < first(run(cycle * 8))[0]


def test_nothing_is_found_where_nothing_is_new() -> None:
    """A request without results since the last one is not judged again."""
    pairs = NO_PAIRS
    for _ in range(9):
        pairs = paired(pairs, "f", 1, 1, 0)
    assert look(pairs, 0) is None and look(pairs, 1) is not None and look(NO_PAIRS, 1) is None
    assert len(pairs.names) <= TAIL


def test_a_loop_is_found_in_a_real_request_with_what_an_incident_must_say() -> None:
    step = Says("", (("search_filings", {"query": "annual report 2019"}, "no results", False),))
    told = history("anthropic_messages", (Human("Find the report."), *[step] * 7))
    found = look(told.pairs, told.fresh_pairs)
    assert found == Finding("same", ("search_filings",), 7)
    assert found.words() == "`search_filings` called 7 times in a row with the same arguments and the same result"
    assert told.preview == '{"query":"annual report 2019"}'


def test_words_say_every_rule() -> None:
    said = [Finding(rule, ("f", "g"), 8, 13).words() for rule in ("same", "cycle", "error", "poll", "stale")]
    assert len(set(said)) == 5 and all("`f`, `g`" in words for words in said)


# --- recorded runs ---


@pytest.fixture(scope="module")
def swe(data_dir: Path) -> list[replays.Told]:
    return replays.told(recorded_agents.swe(data_dir))


def test_the_rules_beat_five_identical_pairs_on_recorded_coding_runs(swe: list[replays.Told]) -> None:
    """More dollars saved on runs that failed, fewer solved runs stopped: none. Dollars are those spent after the stop."""
    ours, plain = replays.measure(swe, replays.ours()), replays.measure(swe, replays.plain(5))
    assert plain.solved == 1
    assert ours.solved == 0 and ours.saved >= plain.saved and ours.doomed > plain.doomed, (ours, plain)


def test_no_solved_customer_service_conversation_is_stopped(data_dir: Path) -> None:
    """145 of them; nor is any warned about twice as early as a stop would come."""
    tau = replays.told(recorded_agents.tau(data_dir))
    assert replays.measure(tau, replays.ours()).solved == 0
    assert replays.measure(tau, replays.ours(STOP.scaled(70))).solved == 0


@pytest.mark.fuzz
def test_no_solved_multi_agent_run_is_stopped(data_dir: Path) -> None:
    """301 of them, of up to 735 calls; five identical pairs stop nine."""
    vorflux = replays.told(recorded_agents.vorflux(data_dir))
    assert replays.measure(vorflux, replays.ours()).solved == 0
    assert replays.measure(vorflux, replays.plain(5)).solved == 9
