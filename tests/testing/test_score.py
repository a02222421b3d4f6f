"""The scorer: right where the ledger is right, and it sees what is missed, misnamed, doubled and invented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bursar.domain.entry import Entry, Settlement
from bursar.stores.writer import Ledger
from bursar.testing import company, score, variants
from bursar.testing.causes import FlakyTool, GatewayFallback, Runaway, SdkRetries
from bursar.testing.planned import SWITCH, TOOL
from bursar.testing.player import Simulated, simulate
from bursar.testing.scenario import Planted, Scenario, base
from bursar.testing.talk import ANTHROPIC
from bursar.testing.traffic import calls
from bursar.testing.truth import CORPUS, SUITE, Truth


def planted() -> Scenario:
    """What the ledger attributes without looking at conversations: a flagged tool, a gateway's fallback, an SDK's retries."""
    made = base(2)
    for feature in ("support", "orders", "research"):
        made = made.with_agent(feature, dialect=ANTHROPIC, model="claude-haiku-4-5")
    causes = (
        FlakyTool("support", "lookup_order", "flag", 0.5), GatewayFallback("orders", "claude-opus-4-1", 0.2), SdkRetries("research", 0.3, True),
        Runaway("engineering", "same", 12),
    )  # fmt: skip
    return Scenario(2, made, tuple(Planted(cause, 1) for cause in causes), weeks=2, scale=0.3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    scene = planted()
    return simulate(calls(scene), tmp_path_factory.mktemp("score") / "ledger", policy=scene.policy())


def rewritten(made: Simulated, path: Path, change: Callable[[Entry], list[Entry]]) -> Path:
    """The same ledger with its rows changed."""
    with Ledger.open(made.ledger, clock_us=lambda: 0) as ledger:
        rows = [changed for row in ledger.rows() for changed in change(row)]
    with Ledger.open(path, clock_us=lambda: 0) as ledger:
        ledger.book_all([Settlement(row.id, row, ()) for row in rows])
    return path


def test_what_the_ledger_attributes_rightly_scores_without_an_error(made: Simulated) -> None:
    """To the digit, each multiplier by itself; what it does not know yet is missed, and nothing is invented."""
    scored = score.score(made.ledger, made.truth)
    found = {m.key: m for m in scored.multipliers}
    assert {key[0] for key in found} - {"switch"} == {"tool", "fallback", "sdk_retry", "loop", "suite", "corpus"}
    for key, multiplier in found.items():
        if key[0] != "loop":
            assert multiplier.error == 0 and multiplier.right == multiplier.attributed == multiplier.truth > 0, key
    assert scored.strays == () and scored.missing == scored.surplus == 0
    assert scored.ledger == scored.invoice == made.invoice.total() and scored.unsure == 0
    told = {key: m.truth for key, m in found.items()}
    given_up = sum((told.pop(key) for key in list(told) if key[0] == SWITCH), Decimal(0))  # which are the tool's as well
    told[TOOL, "lookup_order"] += given_up
    assert told == made.truth.multipliers()


def test_the_conversations_of_a_labelled_company_are_all_right(made: Simulated) -> None:
    """Whole ones; a sub-agent's thread has the label of the conversation it works for."""
    threading = score.score(made.ledger, made.truth).threading
    assert threading.right_whole == threading.calls > 500 and threading.merged == 0
    assert threading.right < threading.calls and threading.alike > 0


def test_a_call_that_is_missed_is_missed_and_one_that_is_misnamed_is_a_stray(made: Simulated, tmp_path: Path) -> None:
    """Half of the tool's calls lose their cause, or get another tool's."""

    def lose(row: Entry) -> list[Entry]:
        return [row._replace(cause="", operation="primary") if row.cause.startswith("tool:") and row.ts % 2 else row]

    def misname(row: Entry) -> list[Entry]:
        return [row._replace(cause="tool:other") if row.cause.startswith("tool:") and row.ts % 2 else row]

    for change, invented in ((lose, False), (misname, True)):
        scored = score.score(rewritten(made, tmp_path / change.__name__, change), made.truth)
        (tool,) = [m for m in scored.multipliers if m.key[0] == TOOL]
        lost = tool.truth - tool.attributed
        assert Decimal("0.2") < tool.error < Decimal("0.8") and tool.right == tool.attributed
        assert [(s.key, s.truly, s.dollars) for s in scored.strays] == ([((TOOL, "other"), tool.key, lost)] if invented else [])


def test_two_mistakes_that_cancel_in_the_sum_are_seen_in_the_strays(made: Simulated, tmp_path: Path) -> None:
    """As much as is missed is attributed to the tool by mistake: the sum is nearly right, the score is not."""
    with Ledger.open(made.ledger, clock_us=lambda: 0) as ledger:
        rows = ledger.rows()
    tools = [row for row in rows if row.cause == "tool:lookup_order"]
    lost = {row.id for row in tools[::2]}
    owed = sum(row.cost or 0 for row in rows if row.id in lost)
    taken: set[str] = set()
    for row in rows:
        if not row.cause and row.purpose == "primary" and owed > 0:
            taken.add(row.id)
            owed -= row.cost or 0

    def swap(row: Entry) -> list[Entry]:
        if row.id in lost:
            return [row._replace(cause="", operation="primary")]
        return [row._replace(cause="tool:lookup_order", operation="retry") if row.id in taken else row]

    scored = score.score(rewritten(made, tmp_path / "swapped", swap), made.truth)
    (tool,) = [m for m in scored.multipliers if m.key[0] == TOOL]
    assert tool.error < Decimal("0.06") and tool.right is not None and tool.right < tool.truth * 3 / 4
    (stray,) = scored.strays
    assert stray.key == tool.key and stray.truly is None and stray.rows == len(taken)


def test_rows_that_are_lost_doubled_or_invented_are_counted(made: Simulated, tmp_path: Path) -> None:
    """A total that is off says so beside the invoice."""

    def change(row: Entry) -> list[Entry]:
        if row.ts % 10 == 0:
            return []
        return [row, row._replace(id="x" + row.id, call="x" + row.call)] if row.ts % 10 == 1 else [row]

    scored = score.score(rewritten(made, tmp_path / "changed", change), made.truth)
    assert scored.missing > 0 and scored.surplus > 0 and scored.ledger != scored.invoice


def test_a_wrong_suite_is_a_stray_and_an_unsaid_one_is_left_out_where_nobody_says_them(made: Simulated, tmp_path: Path) -> None:
    """Suites and corpora are what somebody says: in a company without labels they are not asked for."""

    def change(row: Entry) -> list[Entry]:
        return [row._replace(labels="{}") if row.purpose == "eval" else row]

    path = rewritten(made, tmp_path / "unsaid", change)
    scored = score.score(path, made.truth)
    assert {s.key for s in scored.strays} == {(SUITE, "")} and {s.truly for s in scored.strays} == {
        m.key for m in scored.multipliers if m.key[0] == SUITE
    }
    assert not {m.key[0] for m in score.score(path, made.truth, said=False).multipliers} & {SUITE, CORPUS}


def test_a_call_with_two_true_causes_counts_for_the_one_that_is_named(made: Simulated, tmp_path: Path) -> None:
    """A loop of failing calls is a loop and the tool's failures: saying either is right."""
    loops = {row.fact.ref for row in made.truth.rows if row.fact.keys and row.fact.keys[0][0] == "loop"}
    facts = [
        replace(row.fact, keys=(("loop", ""), (TOOL, "run_tests"))) if row.fact.ref in loops else row.fact for row in made.truth.rows
    ]
    truth = Truth(facts, made.invoice.lines)
    for cause, key in (("tool:run_tests", (TOOL, "run_tests")), ("loop", ("loop", ""))):

        def change(row: Entry, cause: str = cause) -> list[Entry]:
            return [row._replace(cause=cause) if row.call in loops else row]

        scored = score.score(rewritten(made, tmp_path / cause.replace(":", "-"), change), truth)
        (named,) = [m for m in scored.multipliers if m.key == key]
        assert named.error == 0 and scored.strays == ()


def test_a_ledger_with_ids_of_its_own_is_scored_by_its_sums(made: Simulated, tmp_path: Path) -> None:
    """As the demo's is, whose calls a gateway has named."""

    def change(row: Entry) -> list[Entry]:
        return [row._replace(id="g" + row.id, call="g" + row.call, cause="tool:ghost" if row.cause == "sdk_retry" else row.cause)]

    scored = score.score(rewritten(made, tmp_path / "gateway", change), made.truth)
    found = {m.key: m for m in scored.multipliers}
    assert found[TOOL, "lookup_order"].error == 0 and found[TOOL, "lookup_order"].right is None
    assert [(s.key, s.truly) for s in scored.strays] == [((TOOL, "ghost"), None)]
    assert scored.missing == scored.surplus == 0


def test_the_demos_story_is_attributed(tmp_path: Path) -> None:
    """Its tool, its fallback, its evals and its re-embedding to the digit; of its loop all but the steps before it is one. Nothing
    is attributed to what is not there."""
    story = simulate(company.plan(0), tmp_path / "ledger", policy=company.POLICY)
    scored = score.score(story.ledger, story.truth)
    errors = {m.key[0]: m.error for m in scored.multipliers}
    assert errors.pop("loop") < Decimal("0.02")
    assert errors == dict.fromkeys(("suite", "corpus", "tool", "fallback", "sdk_retry"), 0)
    assert scored.strays == () and scored.ledger == scored.invoice


def test_the_score_reads_well_at_eighty_columns(made: Simulated) -> None:
    """No line is longer; every multiplier has one."""
    scored = score.score(made.ledger, made.truth)
    told = list(score.lines(scored))
    assert max(map(len, told)) <= 80
    assert sum(line.endswith("%") for line in told) == len(scored.multipliers)
    assert "tool lookup_order" in "\n".join(told) and "fallback claude-haiku-4-5 -> claude-opus-4-1" in "\n".join(told)


def test_the_bench_scores_companies_by_the_seed(tmp_path: Path) -> None:
    """A line for each kind of multiplier; exit code 1 as long as something is missed."""
    root = Path(__file__).resolve().parent.parent.parent
    ran = subprocess.run(
        [sys.executable, "-m", "bench.attribution", "--variants", "2", "--scale", "0.03"],
        cwd=root, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode in (0, 1), ran.stderr
    assert re.search(r"^corpus +4 +[\d.]+ +4 +0.0% +0.0%", ran.stdout, re.M), ran.stdout
    assert "0 tries without a row, 0 rows without a try" in ran.stdout
    assert max(len(line) for line in ran.stdout.splitlines()) <= 80


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_two_hundred_companies_are_attributed(first: int, tmp_path: Path) -> None:
    """Each multiplier within 2% of the truth, and nothing attributed to what was not planted."""
    for seed in range(first, first + 25):
        scene = variants.variant(seed, scale=0.35)
        made = simulate(calls(scene), tmp_path / str(seed), policy=scene.policy(), changes=scene.changes)
        scored = score.score(made.ledger, made.truth, said=scene.labels != "none")
        assert scored.strays == (), seed
        assert [(one.key, one.error) for one in scored.multipliers if one.error > Decimal("0.02")] == [], seed


@pytest.mark.parametrize("seed", [9, 22, 102, 1003])
def test_some_companies_are_attributed(seed: int, tmp_path: Path) -> None:
    """An error in a body that came with a 200; a framework's words around an exception, in a streamed and summarised history; answers
    that break off; and a client that asks again where the provider keeps the history."""
    scene = variants.variant(seed, scale=0.1)
    made = simulate(calls(scene), tmp_path / "ledger", policy=scene.policy(), changes=scene.changes)
    scored = score.score(made.ledger, made.truth)
    assert scored.strays == ()
    assert {one.key: one.error for one in scored.multipliers if one.error > Decimal("0.02")} == {}
