"""The controls over the simulated company's months: what they save net, and that books, statement and the provider's invoice agree."""

from __future__ import annotations

import os
import random
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

import ledger_rows
from bursar.domain.usage import Tokens
from bursar.rules import reuse
from bursar.stores.reader import Reader
from bursar.surfaces import periods
from bursar.surfaces import savings as books
from bursar.surfaces.cli import main
from bursar.testing import company, player

CONTROLS = """
[cache]
exact = true
ttl = "7d"
temperature_max = 1.0
[cache.suites]
pr = "7d"
nightly = "7d"
weekly = "7d"

[tiers]
cheap = ["gpt-5-nano", "claude-haiku-4-5", "gemini-2.5-flash-lite"]
standard = ["gpt-5-mini", "claude-sonnet-4-5", "gemini-2.5-flash"]
premium = ["gpt-5", "claude-opus-4-5", "gemini-2.5-pro"]

[[route]]
when = {feature = "evals"}
tier = "cheap"
mode = "on"

[[route]]
when = {feature = "research"}
tier = "standard"
mode = "on"

[compact]
mode = "on"
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[player.Simulated, Path]:
    ledger = tmp_path_factory.mktemp("company") / "ledger"
    return player.simulate(company.plan(0), ledger, policy=company.POLICY + CONTROLS), ledger


def test_three_controls_lower_the_months_bill_by_forty_per_cent_and_the_invoice_agrees(played: tuple[player.Simulated, Path]) -> None:
    """The provider's bill is the ledger's, to the last digit; so is what the statement says it would have been, row by row: the
    same tokens at the dearer model's price, and for a kept reply the bill of the call that it was made for."""
    simulated, ledger = played
    with Reader(ledger) as reader:
        october = periods.Period(1_790_812_800_000_000, 1_793_491_200_000_000)
        month, whole = books.savings(reader, (), october), books.savings(reader, (), periods.Period())
        rows = reader.sql("SELECT call, try, saved, saved_by, cost, evidence, model_requested FROM calls")
    assert month.net >= month.without * 40 // 100
    assert Decimal(whole.spent).scaleb(-12) == simulated.invoice.total()
    assert whole.without == whole.spent + sum(one.gross - one.own for one in whole.controls)
    assert (
        sum(day.net for day in whole.days)
        == whole.net
        == sum(int(row["saved"].scaleb(12)) for row in rows if row["saved"] is not None)
    )
    planned = {fact.ref: fact.dollars for call in company.plan(0) for fact in call.facts[:1]}
    routed = [row for row in rows if row["saved_by"] == "tiers" and row["try"] == 1]
    assert len(routed) > 3_000
    assert all(row["cost"] + row["saved"] == planned[row["call"]] for row in routed), "the plan's own price of the dearer model"
    kept = [row for row in rows if (row["saved_by"] or "").startswith("cache")]
    bills = {line.dollars for line in simulated.invoice.lines}
    assert len(kept) > 200 and all(row["cost"] == 0 for row in kept)
    assert all(row["saved"] in bills for row in kept if row["saved_by"] == "cache")


def test_what_a_cache_would_have_had_is_what_a_loop_over_the_rows_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each tenant's wall, within the hour, only what was asked first and answered well, and not what calls tools or was kept;
    of very many, the first whole hours."""
    chance = random.Random(5)
    odd: list[dict[str, object]] = [
        {"status": "error"}, {"finish": "tool_calls"}, {"operation": "control"}, {"attempt_kind": "retry"}, {"saved_by": "cache"},
        {"saved_by": "near"}, {"tenant": ""}, {"request_hash": ""},
    ]  # fmt: skip
    rows = []
    for n in range(600):
        said: dict[str, object] = {"tenant": chance.choice(("acme", "globex")), "request_hash": f"{chance.randrange(60):032x}"}
        said |= chance.choice(odd) if chance.random() < 0.4 else {}
        rows.append(ledger_rows.entry(n, ledger_rows.START + n * 2 * ledger_rows.HOUR // 60, Tokens(input=100 + n), **said))
    ledger_rows.write(tmp_path / "ledger", rows)
    good = [row for row in rows if row.status == "ok" and row.finish != "tool_calls" and row.operation != "control" and not row.saved_by]
    good = [row for row in good if row.attempt_kind == "first" and row.tenant and row.request_hash]

    def wanted(until: int) -> books.Repeats:
        seen = [row for row in good if row.ts < until]
        have = reuse.would_have((reuse.Past(row.ts, row.tenant, row.request_hash, row.cost or 0) for row in seen), reuse.HOUR_US)
        return books.Repeats(reuse.HOUR_US, len(seen), have.hits, have.pico)

    def found() -> books.Repeats | None:
        with Reader(tmp_path / "ledger") as reader:
            return books.savings(reader, (), periods.Period()).repeats

    assert found() == wanted(ledger_rows.END) and wanted(ledger_rows.END).hits > 30
    monkeypatch.setattr(books, "REPEATS_MAX", 100)
    some = found()
    assert some in [wanted(ledger_rows.START // reuse.HOUR_US * reuse.HOUR_US + n * reuse.HOUR_US) for n in range(2, 21)]
    assert some is not None and some.calls <= 120


def test_the_statement_of_a_month_adds_up_as_it_is_printed(played: tuple[player.Simulated, Path]) -> None:
    """What it would have been, less each control, is the bill."""
    _, ledger = played
    told = CliRunner().invoke(main, ["savings", "--ledger", str(ledger), "--since", "2026-10"], catch_exceptions=False).output
    golden = Path(__file__).parent.parent / "golden" / "savings.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        golden.write_text(told, "utf-8")
    assert told == golden.read_text("utf-8"), "look at it, then update tests/golden/savings.txt"
    lines = [line.split() for line in told.splitlines() if "$" in line]

    def cents(text: str) -> int:
        return int(text.replace("$", "").replace(",", "").replace(".", ""))

    without = next(cents(words[-2]) for words in lines if words[0] == "without")
    less = [cents(words[-2]) for words in lines if words[-2].startswith("-$")]
    bill = next(cents(words[-2]) for words in lines if words[:2] == ["the", "bill"])
    assert abs(without + sum(less) - bill) <= len(less)


def test_a_ledger_without_controls_says_what_was_asked_twice(tmp_path: Path) -> None:
    """From the hashes of the requests, with nothing switched on."""
    calls = [call for call in company.plan(0) if call.first.feature == "triage"]
    player.simulate(calls, tmp_path / "ledger")
    with Reader(tmp_path / "ledger") as reader:
        found = books.savings(reader, (), periods.Period(), 30 * 86_400_000_000)
    asked: set[tuple[str, str]] = set()
    again = 0
    for call in calls:
        question = (call.first.tenant, str(call.body.encode()))
        again, _ = again + (question in asked), asked.add(question)
    assert found.net == 0 and found.repeats is not None and 0 < found.repeats.hits <= again
