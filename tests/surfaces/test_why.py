"""`bursar why` and `bursar mark`: on a real ledger, to the cent where people read and to the last digit where programs do."""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.money import PICO, plain
from bursar.domain.usage import Tokens
from bursar.stores.reader import Reader
from bursar.surfaces import why as asking
from commands import Run

NOW = ledger_rows.END
DAY = ledger_rows.DAY
GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def two_weeks() -> list[Entry]:
    """A calm week, then one with evals, a new customer, a flaky tool, an alias that moved and a new price; sums beyond 64 bits
    stay out."""
    rows: list[Entry] = []
    number = 0

    def add(ts: int, model: str = "gpt-5-mini", tokens: Tokens | None = None, **more: object) -> None:
        nonlocal number
        rows.append(ledger_rows.entry(number, ts, tokens or Tokens(input=4000, cache_read=2048, output=300), model, **more))
        number += 1

    for week in (2, 1):
        for n in range(140):
            ts = NOW - week * 7 * DAY + n * (7 * DAY // 140)
            who = {"tenant": ("acme", "globex", "")[n % 3], "feature": ("support", "search", "")[n % 3], "policy_hash": "aaaa"}
            add(ts, conversation=f"w{week}-{n // 7}", **who)
            if week == 1 and n % 2:
                add(ts + 1, "gpt-5", operation="eval", purpose="eval", tenant="internal", feature="evals", policy_hash="bbbb")
            if week == 1 and n % 3 == 0:
                add(ts + 2, operation="retry", cause="tool:lookup_order", conversation=f"w{week}-{n // 7}", **who)
            if week == 1 and n > 100:
                add(ts + 3, tenant="initech", feature="support", conversation=f"i-{n // 4}", labels='{"release": "r2"}')
        add(NOW - week * 7 * DAY + 5, None, tenant="acme", feature="support")
        add(NOW - week * 7 * DAY + 6, tenant="acme", price_status="estimated", usage_source="estimated")
    rows.append(rows[-1]._replace(id="late", model_requested="latest", model_served="gpt-5-mini-a", ts=NOW - 13 * DAY))
    rows.append(rows[-1]._replace(id="later", model_served="gpt-5-mini-b", price_id="test/openai/gpt-5-mini@new", ts=NOW - DAY))
    rows.append(rows[-1]._replace(id="latest", model_served="gpt-5-mini-b", price_id="test/openai/gpt-5-mini@newer", ts=NOW - DAY + 9))
    first = rows[0]
    rows.append(first._replace(id="fix", attempt_kind="correction", status="correction", source="correction", corrects=first.id,
                               cost=-1000, cost_input=-1000, cost_cache_read=0, cost_output=0, input=None, cache_read=None, cache_write=None,
                               cache_write_1h=None, output=None, reasoning=None, legs=json.dumps([["input", -4, 250_000_000, -1000]])))  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weeks") / "ledger"
    ledger_rows.write(folder, two_weeks())
    return folder


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("month") / "ledger"
    ledger_rows.write(folder, ledger_rows.month(count=1500))
    return folder


def spent(rows: list[Entry], since: int, until: int) -> int:
    return sum(row.cost or 0 for row in rows if since <= row.ts < until)


def pico(dollars: str) -> int:
    return int(Decimal(dollars) * PICO)


def test_drivers_slices_and_cells_add_up_to_what_the_rows_say(run: Run, book: Path) -> None:
    made = json.loads(run("why", "--ledger", book, "--json").stdout)
    rows = two_weeks()
    was, is_ = spent(rows, NOW - 14 * DAY, NOW - 7 * DAY), spent(rows, NOW - 7 * DAY, NOW)
    assert (made["before"]["cost"], made["now"]["cost"], made["change"]) == (plain(was), plain(is_), plain(is_ - was))
    assert sum(pico(row["change"]) for row in made["rows"]) == is_ - was
    assert sum(pico(row["change"]) for row in made["slices"]) == is_ - was
    assert sum(pico(row["before"]) for row in made["slices"]) == was
    assert sum(pico(row["change"]) for row in made["cells"]) == is_ - was


def test_sums_beyond_64_bits_and_every_kind_of_trouble_add_up_too(run: Run, month: Path) -> None:
    made = json.loads(run("why", "--this", "7d", "--by", "tenant,feature,label:team", "--json", "--ledger", month).stdout)
    assert sum(pico(row["change"]) for row in made["rows"]) == pico(made["change"]) > 2**63
    assert sum(pico(row["change"]) for row in made["slices"]) == pico(made["change"])


def test_the_tables_are_as_they_were(run: Run, book: Path) -> None:
    run("mark", "support: prompt v14", "--at", "2026-11-20T09:30Z", "--ledger", book)
    shown = run("why", "--ledger", book).stdout
    assert shown == (GOLDEN / "why.txt").read_text("utf-8"), "look at it, then update tests/golden/why.txt"


def test_the_cents_that_are_shown_add_up(run: Run, book: Path) -> None:
    """A reader with a pencil comes to the total: in the list of drivers, and down and across the list of slices."""
    shown = run("why", "--ledger", book).stdout
    drivers, _, slices = shown.partition("where")
    changes = [Decimal(text.replace("$", "").replace(",", "")) for text in re.findall(r"^ *([+-]?\$[\d,.]+) ", drivers, re.MULTILINE)]
    assert sum(changes[1:-1]) == changes[-1]
    figures = [[Decimal(f.replace("$", "").replace(",", "")) for f in re.findall(r"[+-]?\$[\d,.]+", line)][:3]
               for line in slices.splitlines() if re.search(r"\$.*\$.*\$", line)]  # fmt: skip
    assert [sum(column) for column in zip(*figures[:-1], strict=True)] == figures[-1]
    assert all(now - before == change for before, now, change in figures)


def test_what_happened_at_the_same_time_stands_beside_it(run: Run, book: Path) -> None:
    events = json.loads(run("why", "--ledger", book, "--json").stdout)["events"]
    texts = [event["text"] for event in events if event["kind"] != "mark"]
    assert [event["ts"] for event in events] == sorted((event["ts"] for event in events), key=datetime.fromisoformat)
    assert set(texts) >= {
        "policy bbbb first seen", "tenant internal first seen", "tenant initech first seen", "feature evals first seen",
        "latest first answered by gpt-5-mini-b", "gpt-5-mini-b first billed at test/openai/gpt-5-mini@newer", "release r2 first seen",
    }  # fmt: skip
    assert not any("acme" in text or "aaaa" in text or "gpt-5-mini-a" in text for text in texts)  # nothing of a ledger's start is news


def test_a_narrowed_question_is_answered_about_what_it_asks(run: Run, book: Path) -> None:
    made = json.loads(run("why", "--ledger", book, "--json", "--where", "tenant=internal").stdout)
    rows = [row for row in two_weeks() if row.tenant == "internal"]
    assert made["now"]["cost"] == plain(spent(rows, NOW - 7 * DAY, NOW)) and made["before"]["cost"] == "0"
    assert [row["driver"] for row in made["rows"]] == ["eval"]


def test_labels_of_ones_own_are_looked_in(run: Run, book: Path) -> None:
    made = json.loads(run("why", "--ledger", book, "--json", "--by", "release").stdout)
    assert made["by"] == ["release"]
    assert any(row["where"].get("release") == "r2" for row in made["slices"])


def test_periods_are_named_in_several_ways_and_are_the_same(run: Run, book: Path) -> None:
    ways = (("--this", "7d"), ("--since", "7d"), ("--this", "2026-11-16..2026-11-23", "--versus", "2026-11-09..2026-11-16"),
            ("--since", "2026-11-16", "--until", "2026-11-23"), ())  # fmt: skip
    answers = [run("why", *way, "--ledger", book, "--json").stdout for way in ways]
    assert len(set(answers)) == 1


@pytest.mark.parametrize("words", [("--this", "nonsense"), ("--this", "7d", "--since", "3d"), ("--by", ""), ("--by", "a,b,c,d,e,f"),
                                   ("--by", "tenant,tenant"), ("--this", "2027-01-01..2027-01-02", "--versus", "..2020-01-01"), ("--this", "2027-03-01")])  # fmt: skip
def test_what_cannot_be_asked_is_a_usage_error(run: Run, book: Path, words: tuple[str, ...]) -> None:
    assert "Traceback" not in run("why", *words, "--ledger", book, code=2).output


def test_a_period_without_anything_says_so(run: Run, book: Path) -> None:
    """And says when there was something."""
    told = run("why", "--this", "2025-01", "--ledger", book).stdout
    assert told.startswith("Nothing was spent in either period\n") and "The ledger has rows of 2026-" in told
    assert "Nothing was spent" not in run("why", *told.split()[-2:], "--ledger", book).stdout


@pytest.mark.parametrize("too_many", [False, True], ids=["many", "too many to look at"])
def test_many_values_are_folded_and_said_to_be(run: Run, book: Path, monkeypatch: pytest.MonkeyPatch, too_many: bool) -> None:
    monkeypatch.setattr(asking, "COMBINATIONS_MAX", 3)
    if too_many:
        monkeypatch.setattr(asking, "LOOKED_AT_MAX", 2)
        monkeypatch.setattr(asking, "VALUES_MAX", 3)
    made = json.loads(run("why", "--ledger", book, "--json").stdout)
    assert made["folded"]
    assert sum(pico(row["change"]) for row in made["slices"]) == pico(made["change"]) == sum(pico(row["change"]) for row in made["rows"])
    assert any(None in (cell.get("tenant"), cell.get("feature")) for cell in made["cells"])
    assert "only the values that changed most are told apart" in run("why", "--ledger", book).stdout


def test_markdown_carries_no_markup_of_strangers(run: Run, month: Path) -> None:
    """A label goes into somebody's chat: no link, no mention, no escape sequence."""
    run("mark", "see [here](http://evil) @channel <!here> *now*", "--at", "2026-11-20", "--ledger", month)
    shown = run("why", "--ledger", month, "--markdown", "--by", "label:team").stdout
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "\\[here\\](http://evil) \\@channel \\<\\!here\\> \\*now\\*" in shown
    assert shown.startswith("**$")


def test_a_bug_in_the_sums_is_told_and_not_printed(run: Run, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The totals are asked for apart from the slices: what does not add up ends with 2."""
    honest = asking._sums
    monkeypatch.setattr(asking, "_sums", lambda row: honest(row)._replace(cost_other=1))
    assert "report this" in run("why", "--ledger", book, code=2).output


# -- marks -----------------------------------------------------------------------------------------------------------------


def test_a_mark_is_on_the_time_line_at_its_time(run: Run, tmp_path: Path) -> None:
    ledger = tmp_path / "new"
    run("mark", "  prompt   v2 is out ", "--at", "2026-11-20T09:30Z", "--ledger", ledger)
    run("mark", "now", "--ledger", ledger)
    made = json.loads(run("mark", "--json", "--ledger", ledger).stdout)
    assert made["rows"] == [{"ts": "2026-11-20T09:30:00Z", "text": "prompt v2 is out"}, {"ts": "2026-11-23T00:00:00Z", "text": "now"}]
    assert json.loads(run("mark", "--json", "--since", "1h", "--ledger", ledger).stdout)["rows"] == made["rows"][1:]
    assert run("mark", "--ledger", ledger).stdout.splitlines()[0] == "2026-11-20 09:30  prompt v2 is out"
    with Reader(ledger) as reader:
        assert [row["text"] for row in reader.sql("SELECT text FROM marks ORDER BY ts")] == ["prompt v2 is out", "now"]


@pytest.mark.parametrize("words", [("",), ("x" * 501,), ("text", "--at", "whenever"), ("--at", "2h")])
def test_what_is_no_mark_is_refused(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    run("mark", *words, "--ledger", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()


def test_marks_of_an_empty_ledger_are_none(run: Run, book: Path) -> None:
    assert run("mark", "--since", "2020-01-01", "--until", "2020-01-02", "--ledger", book).stdout == "no marks\n"
