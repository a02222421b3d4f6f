"""`bursar reconcile`: real bills and made ones against real ledgers; exit codes for a nightly job; corrections on request only."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.money import PICO, plain
from bursar.domain.price import Price, Rate
from bursar.domain.usage import Tokens
from bursar.rules import price as pricing
from bursar.rules.reconcile import CLASSES
from bursar.rules.record import add_usage
from bursar.stores.check import check
from commands import Run

DAY = ledger_rows.DAY
NOW = ledger_rows.END
BILLED = NOW - 3 * DAY  # 2026-11-20
GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "reconcile")


def pico(dollars: str) -> int:
    return int(Decimal(dollars) * PICO)


def told(ran: Result) -> dict[str, int]:
    made = json.loads(ran.stdout)
    found = {name: pico(dollars) for name, dollars in made["residual"].items() if pico(dollars)}
    assert pico(made["billed"]) - pico(made["booked"]) == pico(made["between"]) == sum(found.values())
    assert sum(pico(dollars) for row in made["rows"] for dollars in row["residual"].values()) == pico(made["between"])
    return found


# -- the real bill of four days ----------------------------------------------------------------------------------------------

LIST = {
    "gpt-4o-2024-08-06": (2_500_000_000, 1_250_000_000, 10_000_000_000),
    "gpt-5-2025-08-07": (1_250_000_000, 125_000_000, 10_000_000_000),
    "gpt-5-mini-2025-08-07": (250_000_000, 25_000_000, 2_000_000_000),
}  # femto-dollars a token, as published then: input, cache read, output


def as_booked(data: Path) -> list[Entry]:
    """What a ledger has that saw every call of that export: its usage, at list price."""
    made: list[Entry] = []
    with gzip.open(data / "billing-exports" / "openai_usage_export.csv.gz", "rt", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            if not row["model"]:
                continue
            fresh, cached, out = LIST[row["model"]]
            price = Price("list", "openai", row["model"], {"input": Rate(fresh), "cache_read": Rate(cached), "output": Rate(out)})
            tokens = Tokens(
                input=int(row["input_uncached_tokens"]), cache_read=int(row["input_cached_tokens"]), output=int(row["output_tokens"])
            )
            usage: dict[str, object] = {}
            add_usage(usage, tokens)
            base = ledger_rows.entry(number, int(row["start_time"]) * 1_000_000 + 1, Tokens(), "gpt-5-mini")
            bill = pricing.columns(pricing.bill(tokens, price))
            made.append(base._replace(model_requested=row["model"], model_served=row["model"], **usage, **bill))  # type: ignore[arg-type]
    return made


def by_day(ran: Result) -> dict[str, dict[tuple[str | None, str | None, str], int]]:
    days: dict[str, dict[tuple[str | None, str | None, str], int]] = {}
    for row in json.loads(ran.stdout)["rows"]:
        for name, dollars in row["residual"].items():
            days.setdefault(row["since"][:10], {})[row["model"], row["class"], name] = pico(dollars)
    return days


@pytest.mark.parametrize("seen", [True, False], ids=["the ledger saw every call", "the ledger saw none"])
def test_the_real_bill_of_four_days(run: Run, data_dir: Path, tmp_path: Path, seen: bool) -> None:
    """One day prices exactly, two show their gap by model and class, one was billed without usage and says so. Nothing else is
    between bill and ledger, whether the calls were booked or bypassed it."""
    ledger_rows.write(tmp_path / "ledger", as_booked(data_dir) if seen else [])
    files = [data_dir / "billing-exports" / f"openai_{kind}_export.csv.gz" for kind in ("costs", "usage")]
    ran = run(*files, "--ledger", tmp_path / "ledger", "--json", code=1)
    told(ran)
    days = by_day(ran)
    bypassed = {day: {key: days[day].pop(key) for key in list(days.get(day, {})) if key[2] == "bypassed"} for day in list(days)}
    if seen:
        assert not any(bypassed.values())
        assert "2025-10-07" not in days  # exact, and so without a residual
    else:
        assert bypassed["2025-10-07"] == {("gpt-5-mini-2025-08-07", "input", "bypassed"): 20_248_000_000,
                                          ("gpt-5-mini-2025-08-07", "output", "bypassed"): 549_540_000_000}  # fmt: skip
        assert sum(bypassed["2025-10-07"].values()) == pico("0.569788")
        assert set(bypassed["2025-10-05"]) == {("gpt-4o-2024-08-06", unit, "bypassed") for unit in ("input", "cache_read", "output")}
        assert days.pop("2025-10-07") == {}
    assert days == {
        "2025-10-05": {("gpt-4o-2024-08-06", None, "unexplained"): pico("0.895874") - pico("0.24726")},
        "2025-10-06": {("gpt-5-2025-08-07", None, "unexplained"): pico("0.56177125") - pico("0.81584275")},
        "2025-10-08": {(None, None, "no_usage"): pico("0.5455665")},
    }
    shown = run(*files, "--ledger", tmp_path / "ledger", code=1).stdout
    assert "there is a gap" in shown and ("2025-10-07   openai     $0.5698   $0.5698    $0.0000   exact" in shown) is seen


# -- made bills ----------------------------------------------------------------------------------------------------------------


def book() -> list[Entry]:
    """Three days of two models, one cut stream, one unanswered try at its hold."""
    rows: list[Entry] = []
    for number in range(60):
        ts = BILLED + number * (3 * DAY // 60)
        model = ("gpt-5-mini", "gpt-5")[number % 2]
        rows.append(
            ledger_rows.entry(
                number, ts, Tokens(input=4000, cache_read=1000, output=500), model, tenant="acme", labels='{"proj": "p1"}'
            )
        )
    rows.append(
        ledger_rows.entry(90, BILLED + 5, Tokens(input=100, output=900), "gpt-5", usage_source="estimated", price_status="estimated")
    )
    hold = PICO // 100
    none = dict.fromkeys(("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"))
    rows.append(ledger_rows.entry(91, BILLED + 6, Tokens(), "gpt-5", usage_source="unknown", price_status="estimated", status="unknown", cost=hold,
                                  cost_other=hold, legs=json.dumps([["hold", 1, hold * 1000, hold]]), **none))  # fmt: skip
    return rows


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    ledger_rows.write(tmp_path / "book", book())
    return tmp_path / "book"


def daily(rows: list[Entry], day: int) -> list[Entry]:
    return [row for row in rows if BILLED + day * DAY <= row.ts < BILLED + (day + 1) * DAY]


def page(days: list[list[dict[str, object]]]) -> str:
    return json.dumps({"object": "page", "data": [
        {"start_time": (BILLED + n * DAY) // 10**6, "end_time": (BILLED + (n + 1) * DAY) // 10**6, "results": results}
        for n, results in enumerate(days)]})  # fmt: skip


def costs(tmp_path: Path, change: Callable[[str, str, int], int] = lambda model, unit, amount: amount, more: int = 0) -> Path:
    """The bill of a provider that counted and charged as the ledger did, but for `change` and `more` input of gpt-5 on the second
    day; without what was only guessed."""
    days: list[list[dict[str, object]]] = []
    for day in range(3):
        results: list[dict[str, object]] = []
        for model in ("gpt-5", "gpt-5-mini"):
            mine = [row for row in daily(book(), day) if row.model_served == model and row.usage_source == "provider"]
            for unit, item in (("input", "input"), ("cache_read", "cached input"), ("output", "output")):
                amount = change(model, unit, sum(getattr(row, f"cost_{unit}") or 0 for row in mine))
                amount += more * 1_250_000 if (model, unit, day) == ("gpt-5", "input", 1) else 0
                results.append(
                    {
                        "amount": {"value": float(Decimal(amount) / PICO), "currency": "usd"},
                        "line_item": f"{model}, {item}",
                        "project_id": "p1",
                    }
                )
        days.append(results)
    path = tmp_path / "costs.json"
    path.write_text(page(days), "utf-8")
    return path


def usage(tmp_path: Path, more: int = 0) -> Path:
    days: list[list[dict[str, object]]] = []
    for day in range(3):
        results: list[dict[str, object]] = []
        for model in ("gpt-5", "gpt-5-mini"):
            mine = [row for row in daily(book(), day) if row.model_served == model and row.usage_source == "provider"]
            fresh, cached, out = (sum(getattr(row, name) or 0 for row in mine) for name in ("input", "cache_read", "output"))
            fresh += more if (model, day) == ("gpt-5", 1) else 0
            results.append(
                {
                    "input_tokens": fresh + cached,
                    "input_cached_tokens": cached,
                    "output_tokens": out,
                    "model": model,
                    "project_id": "p1",
                }
            )
        days.append(results)
    path = tmp_path / "usage.json"
    path.write_text(page(days), "utf-8")
    return path


def test_a_bill_that_agrees_ends_with_0_but_for_what_was_guessed(run: Run, ledger: Path, tmp_path: Path) -> None:
    """The estimate of the cut stream and the hold of the unanswered try are in the ledger and not on the bill."""
    guessed = sum(row.cost or 0 for row in book() if row.usage_source != "provider")
    ran = run(costs(tmp_path), usage(tmp_path), "--ledger", ledger, "--json", code=1)
    assert told(ran) == {"dropped": -guessed}
    ran = run(costs(tmp_path), usage(tmp_path), "--ledger", ledger, "--tolerance", "30%")
    assert "the ledger agrees with the bill" in ran.stdout and "dropped" in ran.stdout  # and is not hidden all the same


def test_calls_that_bypassed_and_a_price_that_differs_are_told_apart(run: Run, ledger: Path, tmp_path: Path) -> None:
    extra = 1_000_000 * 1_250_000  # a million tokens of gpt-5 that never came by

    def change(model: str, unit: str, amount: int) -> int:
        return amount * 11 // 10 if (model, unit) == ("gpt-5-mini", "output") else amount

    dearer = sum((row.cost_output or 0) for row in book() if row.model_served == "gpt-5-mini") // 10
    guessed = sum(row.cost or 0 for row in book() if row.usage_source != "provider")
    ran = run(costs(tmp_path, change, 1_000_000), usage(tmp_path, 1_000_000), "--ledger", ledger, "--json", code=1)
    assert told(ran) == {"bypassed": extra, "price": dearer, "dropped": -guessed}


def test_the_tables_are_as_they_were(run: Run, ledger: Path, tmp_path: Path) -> None:
    shown = run(
        costs(tmp_path, lambda m, u, a: a * 2 if (m, u) == ("gpt-5", "output") else a, 5000),
        usage(tmp_path, 5000),
        "--ledger",
        ledger,
        code=1,
    ).stdout
    assert shown == (GOLDEN / "reconcile.txt").read_text("utf-8"), "look at it, then update tests/golden/reconcile.txt"


def test_corrections_are_booked_on_request_only_and_settle_the_gap(run: Run, ledger: Path, tmp_path: Path) -> None:
    files = (costs(tmp_path, lambda m, u, a: a * 2 if (m, u) == ("gpt-5", "output") else a, 5000), usage(tmp_path, 5000))
    before = check(ledger).rows
    gap = told(run(*files, "--ledger", ledger, "--json", code=1))
    assert check(ledger).rows == before
    made = json.loads(run(*files, "--ledger", ledger, "--json", "--correct", "price", code=1).stdout)
    assert made["corrections"] == 3 and check(ledger).rows == before + 3
    left = told(run(*files, "--ledger", ledger, "--json", code=1))
    assert sum(left.values()) == sum(gap.values()) - gap["price"]
    assert left["bypassed"] == gap["bypassed"]
    # The ledger's output tokens of that day are dearer now, also those of the cut stream, which the bill does not have.
    assert 0 <= left["price"] < gap["price"] // 10
    run(*files, "--ledger", ledger, "--correct", "all")
    settled = run(*files, "--ledger", ledger, "--json")
    assert told(settled) == {} and json.loads(settled.stdout)["corrections"] == 0
    proved = check(ledger)
    assert proved.findings == ()
    assert proved.cost is not None and pico(str(proved.cost)) == pico(json.loads(settled.stdout)["billed"])


def test_projects_are_matched_with_a_label(run: Run, ledger: Path, tmp_path: Path) -> None:
    rows = json.loads(run(costs(tmp_path), usage(tmp_path), "--ledger", ledger, "--json", "--project", "label:proj").stdout)["rows"]
    assert {row["project"] for row in rows} == {"p1"}
    (tmp_path / "plain.csv").write_text("date,cost,provider\n2026-11-20,1,openai\n", "utf-8")
    assert "name no project" in run(tmp_path / "plain.csv", "--ledger", ledger, "--project", "label:proj", code=2).output


def test_a_csv_of_ones_own_with_a_zone_a_currency_and_named_columns(run: Run, ledger: Path, tmp_path: Path) -> None:
    day = sum(row.cost or 0 for row in book() if BILLED - 3600 * 10**6 <= row.ts < BILLED + 23 * 3600 * 10**6)
    euros = Decimal(day) / PICO / Decimal("1.25")
    (tmp_path / "own.csv").write_text(f"When,Sum,Currency,Who\n2026-11-20,{euros},EUR,openai\n", "utf-8")
    words = (tmp_path / "own.csv", "--ledger", ledger, "--zone", "Europe/Berlin", "--column", "since=When", "--column", "amount=Sum",
             "--column", "provider=Who", "--column", "currency=Currency")  # fmt: skip
    shown = run(*words, code=1).stdout
    assert "not compared" in shown and "--rate EUR=DOLLARS" in shown
    assert set(told(run(*words, "--rate", "EUR=1.25", "--json"))) <= {"rounding"}


def test_minutes_are_compared_by_the_hour(run: Run, ledger: Path, tmp_path: Path) -> None:
    first = book()[0]
    at = first.ts // 10**6
    (tmp_path / "m.json").write_text(json.dumps({"data": [{"start_time": at, "end_time": at + 60, "results": [
        {"input_tokens": 5000, "input_cached_tokens": 1000, "output_tokens": 500, "model": "gpt-5-mini"}]}]}), "utf-8")  # fmt: skip
    rows = json.loads(run(tmp_path / "m.json", "--ledger", ledger, "--json", code=1).stdout)["rows"]
    assert {row["until"] for row in rows} == {"2026-11-20T01:00:00Z"}
    assert all(not row["residual"] for row in rows if row["model"] == "gpt-5-mini")


@pytest.mark.parametrize("words", [("--zone", "Mars/Base"), ("--rate", "EUR"), ("--rate", "EUR=-1"), ("--rate", "EUR=x"), ("--tolerance", "much"),
                                   ("--column", "colour=Red"), ("--column", "amount"), ("--correct", "time_zone")])  # fmt: skip
def test_what_cannot_be_asked_is_a_usage_error(run: Run, ledger: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    run(costs(tmp_path), *words, "--ledger", ledger, code=2)


def test_the_same_file_twice_is_refused_and_a_broken_one_told(run: Run, ledger: Path, tmp_path: Path) -> None:
    path = costs(tmp_path)
    assert "given twice" in run(path, path, "--ledger", ledger, code=2).output
    (tmp_path / "broken.csv").write_text("date,cost\n2026-11-20,abc\n", "utf-8")
    assert "broken.csv:2" in run(tmp_path / "broken.csv", "--ledger", ledger, code=2).output


def test_every_class_has_a_line_of_explanation() -> None:
    assert all(text and not text.endswith(".") for text in CLASSES.values())
    assert plain(0) == "0"
