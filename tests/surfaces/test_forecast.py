"""`bursar forecast`: a month on a real ledger, its budgets, what is assumed, tenants fully loaded, and plans before a launch."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.money import PICO, plain
from bursar.domain.usage import Tokens
from bursar.surfaces.forecast import PLAN, assumed, launch, planned
from commands import Run

DAY = ledger_rows.DAY
NOW = ledger_rows.END - 3 * DAY + 16 * ledger_rows.HOUR  # Friday 2026-11-20 16:00: ten days and eight hours are left
MONTH = 1_793_491_200_000_000  # 2026-11-01
GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def rows() -> list[Entry]:
    """Seventy days of three tenants and a job, more on weekdays."""
    chance = Random(5)
    made: list[Entry] = []
    start = MONTH + 19 * DAY - 70 * DAY + 5 * ledger_rows.HOUR  # the first day is not whole
    number = 0
    for day in range(72):
        midnight = start // DAY * DAY + day * DAY
        busy = 1.0 if (midnight // DAY + 3) % 7 < 5 else 0.3
        for tenant, calls in (("acme", 12), ("globex", 6), ("initech", 2), ("", 1)):
            for n in range(max(1, round(calls * busy * chance.uniform(0.8, 1.2)))):
                ts = max(start, midnight + n * ledger_rows.HOUR + 1)
                made.append(ledger_rows.entry(number, ts, Tokens(input=40_000, output=3000), "gpt-5", tenant=tenant,
                                              conversation=f"{tenant}-{day}-{n // 2}"))  # fmt: skip
                number += 1
        made.append(ledger_rows.entry(number, midnight + 12 * ledger_rows.HOUR, Tokens(input=90_000, output=500), "gpt-5",
                                      operation="eval", purpose="eval", tenant="internal"))  # fmt: skip
        number += 1
    return [row for row in made if row.ts < NOW]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast") / "ledger"
    ledger_rows.write(folder, rows())
    return folder


def pico(dollars: str) -> int:
    return int(Decimal(dollars) * PICO)


def budgets(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text(text, "utf-8")
    return path


def test_what_there_is_is_exact_and_lines_add_up_in_every_column(run: Run, book: Path) -> None:
    made = json.loads(run("forecast", "--ledger", book, "--json").stdout)
    month = [row for row in rows() if row.ts >= MONTH]
    assert made["total"]["spent"] == plain(sum(row.cost or 0 for row in month))
    before = [row for row in rows() if MONTH - 31 * DAY <= row.ts < MONTH]
    assert made["total"]["before"] == plain(sum(row.cost or 0 for row in before))
    for column in ("spent", "expected", "before"):
        assert sum(pico(row[column]) for row in made["rows"]) == pico(made["total"][column])
    for row in made["rows"]:
        mine = [r for r in month if (r.tenant or None) == row["tenant"]]
        assert row["spent"] == plain(sum(r.cost or 0 for r in mine))


def test_the_month_is_forecast_near_what_a_steady_company_spends(run: Run, book: Path) -> None:
    """Two thirds of November are over: the month comes to about its twenty days times a half more."""
    made = json.loads(run("forecast", "--ledger", book, "--json").stdout)["total"]
    low, high = (pico(made["intervals"][0][side]) for side in ("low", "high"))
    assert low < pico(made["expected"]) < high
    assert 1.35 * pico(made["spent"]) < pico(made["expected"]) < 1.65 * pico(made["spent"])
    assert high - low < pico(made["spent"])
    assert all(0 <= one["held"] <= one["of"] for one in made["intervals"])


def test_the_tables_are_as_they_were(run: Run, book: Path, tmp_path: Path) -> None:
    config = budgets(tmp_path, LIMITS)
    shown = run("forecast", "--ledger", book, "--config", config, "--assume", "volume=+10%").stdout
    assert shown == (GOLDEN / "forecast.txt").read_text("utf-8"), "look at it, then update tests/golden/forecast.txt"


LIMITS = """
[[budget]]
name = "company"
scope = "all"
limit = "$90"
[[budget]]
name = "tenants"
scope = "tenant"
limit = "$40"
hard = false
[[budget]]
name = "acme's week"
scope = {tenant = "acme"}
limit = "5M tokens"
window = "week"
zone = "Europe/Zurich"
[[budget]]
name = "calls for ever"
scope = "all"
limit = "100000 calls"
window = "forever"
[[budget]]
name = "one conversation"
scope = "conversation"
limit = "$1"
window = "conversation"
[[budget]]
name = "tools"
scope = "all"
limit = "15 tool_calls"
"""


def test_budgets_have_a_chance_and_a_day(run: Run, book: Path, tmp_path: Path) -> None:
    made = json.loads(run("forecast", "--ledger", book, "--config", budgets(tmp_path, LIMITS), "--json").stdout)
    found = {(one["budget"], one["scope"].get("tenant")): one for one in made["budgets"]}
    spent = sum(row.cost or 0 for row in rows() if row.ts >= MONTH)
    company = found["company", None]
    assert company["spent"] == plain(spent) == made["total"]["spent"]
    assert company["chance"] == pytest.approx(1.0 if spent > 90 * PICO else company["chance"])
    assert set(found) == {("company", None), ("tenants", "acme"), ("tenants", "globex"), ("tenants", "initech"), ("tenants", "internal"),
                          ("acme's week", "acme"), ("calls for ever", None)}  # fmt: skip
    assert found["tenants", "acme"]["chance"] >= found["tenants", "initech"]["chance"]
    assert found["calls for ever", None]["unit"] == "calls" and found["calls for ever", None]["chance"] < 0.05
    week = found["acme's week", "acme"]
    assert week["ends"] == "2026-11-22T23:00:00Z"  # Sunday midnight in Zurich
    monday = ledger_rows.END - 7 * DAY - ledger_rows.HOUR
    assert week["spent"] == sum(43_000 for row in rows() if row.tenant == "acme" and row.ts >= monday)
    assert len(made["notes"]) == 2
    for one in made["budgets"]:
        assert one["likely_passed"] is None or one["chance"] >= 0.4


def test_a_budget_that_will_be_passed_says_when(run: Run, book: Path, tmp_path: Path) -> None:
    spent = sum(row.cost or 0 for row in rows() if row.ts >= MONTH)
    limit = spent + spent // 8
    config = budgets(tmp_path, f'[[budget]]\nname = "tight"\nscope = "all"\nlimit = "${plain(limit // 10**6 * 10**6)}"\n')
    (one,) = json.loads(run("forecast", "--ledger", book, "--config", config, "--json").stdout)["budgets"]
    assert one["chance"] > 0.95
    assert "2026-11-21" <= one["likely_passed"][:10] <= "2026-11-26"
    gone = budgets(tmp_path, '[[budget]]\nname = "gone"\nscope = "all"\nlimit = "$1"\n')
    (one,) = json.loads(run("forecast", "--ledger", book, "--config", gone, "--json").stdout)["budgets"]
    assert one["chance"] == 1.0 and one["likely_passed"] is None
    assert "passed" in run("forecast", "--ledger", book, "--config", gone).stdout


def test_what_is_assumed_counts_from_now_on(run: Run, book: Path) -> None:
    plain_, twice = (json.loads(run("forecast", "--ledger", book, "--json", *more).stdout)["total"]
                     for more in ((), ("--assume", "volume=4x", "--assume", "price=0.5x")))  # fmt: skip
    assert twice["spent"] == plain_["spent"]
    left = [pico(one["expected"]) - pico(one["spent"]) for one in (plain_, twice)]
    assert left[1] == pytest.approx(2 * left[0], rel=1e-9)


def test_fully_loaded_tenants_carry_what_nobody_is_charged_for(run: Run, book: Path) -> None:
    """Evals and unattributed calls, each day in the proportion of that day's own calls; the total stays."""
    bare, loaded = (json.loads(run("forecast", "--ledger", book, "--json", *more).stdout) for more in ((), ("--loaded",)))
    assert loaded["total"]["spent"] == bare["total"]["spent"]
    own = {row["tenant"]: pico(row["spent"]) for row in bare["rows"]}
    full = {row["tenant"]: pico(row["spent"]) for row in loaded["rows"]}
    assert set(full) == {"acme", "globex", "initech"}
    assert sum(full.values()) == pico(bare["total"]["spent"])
    assert all(full[tenant] > own[tenant] for tenant in full)
    assert full["acme"] / own["acme"] == pytest.approx(full["globex"] / own["globex"], rel=0.1)


def test_as_it_stood_then(run: Run, book: Path) -> None:
    made = json.loads(run("forecast", "--ledger", book, "--json", "--until", "2026-11-05").stdout)
    assert made["now"] == "2026-11-05T00:00:00Z"
    assert made["total"]["spent"] == plain(sum(row.cost or 0 for row in rows() if MONTH <= row.ts < MONTH + 4 * DAY))


def test_many_values_are_summed_in_one_line(run: Run, book: Path) -> None:
    made = json.loads(run("forecast", "--ledger", book, "--json", "--top", 2).stdout)
    assert [row["other"] for row in made["rows"]] == [False, False, True]
    assert sum(pico(row["expected"]) for row in made["rows"]) == pico(made["total"]["expected"])


def test_an_empty_ledger_and_a_young_one_say_so(run: Run, tmp_path: Path) -> None:
    ledger_rows.write(tmp_path / "young", [ledger_rows.entry(1, NOW - DAY, Tokens(input=5), "gpt-5")])
    young = run("forecast", "--ledger", tmp_path / "young").stdout
    assert "no interval" in young and "--until" not in young
    ledger_rows.write(tmp_path / "old", [ledger_rows.entry(n, NOW - (200 + n) * DAY, Tokens(input=5), "gpt-5") for n in range(3)])
    told = run("forecast", "--ledger", tmp_path / "old").stdout
    assert ": bursar forecast --until 20" in told and "--until" not in run(*told.split()[-3:], "--ledger", tmp_path / "old").stdout
    ledger_rows.write(tmp_path / "none", [])
    assert "Nothing to go by" in run("forecast", "--ledger", tmp_path / "none").stdout


# -- before a launch -------------------------------------------------------------------------------------------------------


def test_a_plan_is_priced_without_any_ledger(run: Run) -> None:
    made = json.loads(run("forecast", PLAN, "--json").stdout)["rows"][0]
    assert (made["a_day"], made["a_month"], made["tokens_source"]) == ("60", "1800", "given")
    assert "$60.00 a day, $1,800.00 in thirty days" in run("forecast", PLAN).stdout


def test_a_plan_is_filled_with_what_the_ledger_measured(run: Run, book: Path) -> None:
    """Tokens a conversation over the last eight weeks, with the lightest and heaviest days as a range."""
    plan = "1,000 conversations a day at $3 per million tokens"
    made = json.loads(run("forecast", plan, "--ledger", book, "--json").stdout)["rows"][0]
    recent = [row for row in rows() if row.purpose == "primary" and row.ts >= NOW - 56 * DAY]
    talks = {(row.ts // DAY, row.conversation) for row in recent}
    assert made["tokens_each"] == -(-sum((row.input or 0) + (row.output or 0) for row in recent) // len(talks))
    assert made["tokens_source"] == "measured" and made["days_measured"] == 56
    assert pico(made["a_day"]) == 1000 * made["tokens_each"] * 3 * PICO // 10**6
    low, high = (pico(made["intervals"][0][side]) for side in ("low", "high"))
    assert low < pico(made["a_month"]) < high
    twice = json.loads(run("forecast", plan, "--assume", "volume=2x", "--ledger", book, "--json").stdout)["rows"][0]
    assert pico(twice["a_day"]) == 2 * pico(made["a_day"])
    assert "as measured on 56 days here" in run("forecast", plan, "--ledger", book).stdout


def test_few_measured_days_make_no_range_that_they_cannot_know() -> None:
    """Of nine days the lightest and the heaviest are an 80% range, and 95% is beyond what any of them says."""
    plan = planned("10 calls a day at $3 per million tokens")
    said = {}
    for days in (8, 9, 38, 39):
        made = launch(plan, [(1_000 + n, 1) for n in range(days)])
        assert made is not None
        said[days] = [level for level, _, _ in made.between]
        assert all(low <= made.a_month <= high for _, low, high in made.between)
    assert said == {8: [], 9: [0.8], 38: [0.8], 39: [0.8, 0.95]}


def test_an_end_of_all_calls_can_be_assumed(run: Run, book: Path, tmp_path: Path) -> None:
    """Nothing more comes, and no limit that still stands is passed."""
    made = json.loads(run("forecast", "--ledger", book, "--config", budgets(tmp_path, LIMITS), "--assume", "volume=0x", "--json").stdout)
    assert made["total"]["expected"] == made["total"]["spent"]
    assert {one["chance"] for one in made["budgets"]} <= {0.0, 1.0}


def test_a_plan_that_nothing_was_measured_for_asks_for_the_number(run: Run, tmp_path: Path) -> None:
    ledger_rows.write(tmp_path / "none", [])
    told = run("forecast", "5 calls an hour at $3 per million tokens", "--ledger", tmp_path / "none", code=2).output
    assert "20k tokens each" in told


@pytest.mark.parametrize(("text", "tokens", "count", "per"), [
    ("1,000 conversations a day at $3 per million tokens, 20k tokens each", 20_000, 1000, "day"),
    ("2k calls per week at $0.50 per million tokens with 1.5k tokens a call", 1500, 2000, "week"),
    ("1 call an hour at $3 a million tokens", None, 1, "hour"),
    ("3M calls a month at $0.002 per thousand tokens", None, 3_000_000, "month"),
])  # fmt: skip
def test_plans_are_read_as_people_write_them(text: str, tokens: int | None, count: int, per: str) -> None:
    made = planned(text)
    assert (made.tokens, made.count, made.per) == (tokens, count, per)


@pytest.mark.parametrize("text", ["", "lots", "1.5 calls a day at $3 per million tokens", "0 calls a day at $3 per million tokens",
                                  "1,000 conversations a day at 3 per million tokens"])  # fmt: skip
def test_what_is_no_plan_is_a_usage_error_with_one_that_is(run: Run, text: str) -> None:
    assert PLAN in run("forecast", text, code=2).output


def test_assumptions_are_factors_of_volume_and_price() -> None:
    assert assumed(["volume=2x", "price=-10%", "volume=1.5x"]) == {"volume": 3.0, "price": 0.9}
    for text in ("volume", "volume=2", "tenants=2x", "volume=-2x", "volume=9999x", "price=x"):
        with pytest.raises(ValueError, match=r"volume=2x|between 0x"):
            assumed([text])


@pytest.mark.parametrize("words", [("--loaded", "--by", "feature"), ("--assume", "x"), ("--since", "2027-01-01")])
def test_what_cannot_be_asked_is_a_usage_error(run: Run, book: Path, words: tuple[str, ...]) -> None:
    run("forecast", *words, "--ledger", book, code=2)
