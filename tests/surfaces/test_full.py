"""`spend --full` and closed months: customers and adjustments foot to the bill, before and after it changes."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.usage import Tokens
from commands import Run

OCTOBER = 1_790_812_800_000_000  # 2026-10-01
NOW = OCTOBER + 40 * ledger_rows.DAY


def past() -> list[Entry]:
    rows = [
        ledger_rows.entry(
            n, OCTOBER + n * ledger_rows.HOUR * 3, Tokens(input=1000 + n, output=50), "gpt-5", tenant=("acme", "globex", "")[n % 3]
        )
        for n in range(60)
    ]
    evals = {"tenant": "internal", "purpose": "eval", "operation": "eval"}
    return [
        *rows,
        *[ledger_rows.entry(100 + n, OCTOBER + n * ledger_rows.DAY, Tokens(input=9000), "gpt-5", **evals) for n in range(20)],
    ]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    ledger_rows.write(tmp_path / "ledger", past())
    return tmp_path / "ledger"


def spend(run: Run, book: Path, *words: object) -> dict:
    return json.loads(run("spend", "--json", "--ledger", book, *words).stdout)


def summed(made: dict, name: str = "cost") -> Decimal:
    return sum((Decimal(row[name]) for row in made["rows"]), Decimal(0))


@pytest.mark.parametrize("key", ["cost", "calls", "tokens"])
def test_customers_in_full_are_the_bill(run: Run, book: Path, key: str) -> None:
    made, whole = spend(run, book, "--by", "tenant", "--full", "--key", key), spend(run, book)["total"]["cost"]
    assert {row["tenant"] for row in made["rows"]} == {"acme", "globex"}
    assert summed(made) == summed(made, "direct") + summed(made, "shared") == Decimal(whole) == Decimal(made["total"])
    assert {row["tenant"] for row in made["divided"]} == {None, "internal"}


def test_the_policy_says_how_and_who_is_no_customer(run: Run, book: Path) -> None:
    by_cost = spend(run, book, "--full")
    Path("bursar.toml").write_text('[spend]\nshared_by = "calls"\noverhead = ["globex"]\n', "utf-8")
    made = spend(run, book, "--full")
    assert (made["key"], by_cost["key"]) == ("calls", "cost")
    assert [row["tenant"] for row in made["rows"]] == ["acme"]
    assert made["rows"][0]["cost"] == made["total"] == by_cost["total"]


def test_a_closed_month_stays_what_it_was_and_changes_are_adjustments(run: Run, book: Path) -> None:
    before = {row["tenant"]: row["cost"] for row in spend(run, book, "--full", "--since", "2026-10")["rows"]}
    run("spend", "--close", "2026-10", "--ledger", book)
    late = ledger_rows.entry(999, OCTOBER + ledger_rows.DAY, Tokens(input=400_000), "gpt-5", tenant="acme")
    ledger_rows.write(book, [late])
    run("label", "--ledger", book, "--where", "tenant=", "--until", "2026-10-03", "tenant=newco")
    made = spend(run, book, "--full", "--since", "2026-10")
    assert {row["tenant"]: row["closed"] for row in made["rows"]} == {**before, "newco": "0"}
    assert Decimal(made["adjustment"]) == Decimal(late.cost or 0).scaleb(-12)
    for row in [*made["rows"], {"closed": made["closed"], "adjustment": made["adjustment"], "cost": made["total"]}]:
        assert Decimal(row["closed"]) + Decimal(row["adjustment"]) == Decimal(row["cost"])
    assert (summed(made, "closed"), summed(made, "adjustment"), summed(made)) == tuple(
        Decimal(made[name]) for name in ("closed", "adjustment", "total")
    )
    assert made["total"] == spend(run, book, "--since", "2026-10")["total"]["cost"]
    assert spend(run, book, "--closed")["rows"][0]["adjustment"] == made["adjustment"]


def test_it_is_divided_as_it_was_when_it_was_closed(run: Run, book: Path) -> None:
    run("spend", "--close", "2026-10", "--key", "tokens", "--ledger", book)
    Path("bursar.toml").write_text('[spend]\nshared_by = "calls"\noverhead = ["globex"]\n', "utf-8")
    made = spend(run, book, "--full", "--since", "2026-10")
    assert made["key"] == "tokens"
    assert {row["adjustment"] for row in made["rows"]} == {"0"}
    assert "leave --key out" in run("spend", "--full", "--key", "cost", "--since", "2026-10", "--ledger", book, code=2).stderr


def test_what_cannot_be_closed_says_why(run: Run, book: Path) -> None:
    assert "is not over" in run("spend", "--close", "2026-11", "--ledger", book, code=2).stderr
    assert "no month" in run("spend", "--close", "last", "--ledger", book, code=2).stderr
    run("spend", "--close", "2026-10", "--ledger", book)
    assert "is closed already" in run("spend", "--close", "2026-10", "--ledger", book, code=2).stderr
    assert "closes the whole month" in run("spend", "--close", "2026-09", "--where", "tenant=acme", "--ledger", book, code=2).stderr


@pytest.mark.parametrize(
    "words", [["--full", "--by", "feature"], ["--full", "--grain", "day"], ["--key", "cost"], ["--full", "--closed"]]
)
def test_what_does_not_go_together_is_refused(run: Run, book: Path, words: list[str]) -> None:
    assert "each by itself" in run("spend", *words, "--ledger", book, code=2).stderr


def test_without_customers_it_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    ledger_rows.write(tmp_path / "bare", [ledger_rows.entry(1, OCTOBER, Tokens(input=1000))])
    assert "Label calls with a tenant" in run("spend", "--full", "--ledger", tmp_path / "bare").stdout
    run("spend", "--close", "2026-10", "--ledger", tmp_path / "bare")
    made = spend(run, tmp_path / "bare", "--full", "--since", "2026-10")
    assert [(row["tenant"], row["adjustment"]) for row in made["rows"]] == [(None, "0")]
