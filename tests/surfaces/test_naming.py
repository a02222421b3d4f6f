"""`bursar label`: totals stay to the digit, the new names carry calls and dollars, twice is once, and nonsense is refused."""

from __future__ import annotations

import json
import shlex
from decimal import Decimal
from pathlib import Path

import pytest

import ledger_rows
from bursar.domain.entry import Charge, Entry, Hold, Settlement
from bursar.domain.usage import Tokens
from bursar.stores import segments
from bursar.stores.check import check, rebuild
from bursar.stores.query import Filter, Query
from bursar.stores.reader import Reader
from bursar.stores.schema import opened
from bursar.stores.writer import Ledger
from bursar.surfaces import naming
from bursar.surfaces.periods import Period
from commands import Run

MEASURES = ("cost", "tokens", "calls", "tries", "unpriced", "estimated", "saved", "billed", "cost_history", "reasoning")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Half in segments, half in the tail."""
    rows = ledger_rows.month(count=1000)[-160:]
    ledger_rows.write(tmp_path / "ledger", rows[:100])
    segments.compact(tmp_path / "ledger", everything=True)
    ledger_rows.write(tmp_path / "ledger", rows[100:])
    return tmp_path / "ledger"


@pytest.fixture(autouse=True)
def small_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "LOT", 37)


def ask(book: Path, *by: str, where: tuple[Filter, ...] = (), grain: str = "") -> list[dict]:
    with Reader(book) as reader:
        return reader.query(Query(MEASURES, by, where, grain=grain))


def totals(book: Path) -> list[list[dict]]:
    """The whole, and the bill cut by what a name does not change."""
    with Reader(book) as reader:
        cuts: list[tuple[str, ...]] = [(), ("cause",), ("price_status",)]
        return [*[reader.query(Query(MEASURES, by)) for by in cuts], reader.query(Query(MEASURES, grain="day"))]


def test_a_name_moves_everything_and_changes_no_total(run: Run, book: Path) -> None:
    before, mine = totals(book), ask(book, where=(Filter("tenant", ("",)),))
    assert "would be tenant=nova" in run("label", "--ledger", book, "--where", "tenant=", "tenant=nova", "--dry-run").stdout
    assert totals(book) == before and not ask(book, where=(Filter("tenant", ("nova",)),))[0]["tries"]
    run("label", "--ledger", book, "--where", "tenant=", "tenant=nova")
    assert totals(book) == before
    assert ask(book, where=(Filter("tenant", ("nova",)),)) == mine
    nobody = ask(book, where=(Filter("tenant", ("",)),))[0]
    assert not any(nobody[name] for name in MEASURES)
    assert check(book).findings == ()
    segments.compact(book, everything=True)
    assert totals(book) == before and check(book).findings == ()


def test_twice_is_once_and_a_name_can_be_taken_back(run: Run, book: Path) -> None:
    before = ask(book, "tenant")
    for _ in range(2):
        ran = run("label", "--ledger", book, "--where", "tenant=acme", "tenant=zeta", "--json")
    assert json.loads(ran.stdout)["named"] == 0
    with Reader(book) as reader:
        rows = reader.sql("SELECT count(*) AS n FROM calls")[0]["n"]
    for old, new in (("zeta", "acme"), ("acme", "zeta"), ("zeta", "acme")):
        run("label", "--ledger", book, "--where", f"tenant={old}", f"tenant={new}")
    sums = {row["tenant"]: row for row in ask(book, "tenant") if row["tries"]}
    assert sums == {row["tenant"]: row for row in before}
    with Reader(book) as reader:
        assert reader.sql("SELECT count(*) AS n FROM calls")[0]["n"] > rows
    assert check(book).findings == ()


def test_an_interrupted_naming_is_mended_by_doing_it_again(run: Run, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a row's two corrections: the sum is then too large, and right again after the second run."""
    before = totals(book)
    booked = Ledger.book_all

    def killed(self: Ledger, settlements: list) -> None:
        booked(self, settlements[:21])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "book_all", killed)
        with pytest.raises(KeyboardInterrupt):
            naming.book(
                book, (reader := Reader(book)), naming.rows(reader, (Filter("tenant", ("",)),), Period()), {"tenant": "nova"}, print
            )
        reader.close()
    assert totals(book) != before
    run("label", "--ledger", book, "--where", "tenant=", "tenant=nova")
    assert totals(book) == before
    assert check(book).findings == ()


def test_what_somebody_said_is_not_overruled_by_the_way(run: Run, book: Path) -> None:
    refused = run("label", "--ledger", book, "--where", "feature=search", "tenant=nova", code=2).stderr
    assert "already say tenant=" in refused and "--where tenant=" in refused
    run("label", "--ledger", book, "--where", "feature=search", "--where", "tenant=", "tenant=nova")
    run("label", "--ledger", book, "--where", "feature=search", "--replace", "tenant=nova")
    assert {row["tenant"] for row in ask(book, "tenant", where=(Filter("feature", ("search",)),)) if row["tries"]} == {"nova"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["team=red"], "every row of the ledger"),
        (["--all", "team"], "is not NAME=VALUE"),
        (["--all", "team=a", "team=b"], "named twice"),
        (["--all", "cost=1"], "cost is no label"),
        (["--dry-run"], "nothing to name"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(run: Run, book: Path, words: list[str], told: str) -> None:
    assert told in run("label", "--ledger", book, *words, code=2).stderr


def test_programs_without_a_feature_are_proposed_by_their_prompt(run: Run, tmp_path: Path) -> None:
    """From nothing labelled to all of it in three commands: embeddings have no prompt, and are named by what they are."""
    vector = {"operation": "embedding", "purpose": "embedding", "prefix_hash": ""}
    rows: list[Entry] = [
        row._replace(feature="", **({"prefix_hash": "aaaa" if n % 3 else "bbbb"} if n % 4 else vector))
        for n, row in enumerate(ledger_rows.month(count=60, huge=False))
    ]
    ledger_rows.write(tmp_path / "bare", rows)
    text = run("label", "--ledger", tmp_path / "bare").stdout
    assert "feature=NAME" in text and text.index("aaaa") < text.index("bbbb")
    for found in json.loads(run("label", "--ledger", tmp_path / "bare", "--json").stdout)["rows"]:
        where = ("--where", f"prefix_hash={found['prefix_hash']}", "--where", "feature=")
        run("label", "--ledger", tmp_path / "bare", *where, f"feature=f-{found['prefix_hash']}")
    text = run("label", "--ledger", tmp_path / "bare").stdout
    assert text.startswith("No program without a feature; $") and "aaaa" not in text
    *words, name = shlex.split(text.splitlines()[-1])[1:]
    assert name == "feature=NAME"
    run(*words, "--ledger", tmp_path / "bare", "feature=search")
    assert run("label", "--ledger", tmp_path / "bare").stdout.startswith("No program without a feature.")
    sums = {row["feature"]: row["cost"] for row in ask(tmp_path / "bare", "feature") if row["tries"]}
    assert set(sums) == {"f-aaaa", "f-bbbb", "search"}
    assert sum(sums.values()) == sum((Decimal(row.cost or 0) for row in rows), Decimal(0)).scaleb(-12)


def test_a_conversation_is_told_once_with_its_newest_name(run: Run, book: Path) -> None:
    talk = ledger_rows.month(count=160)[0].conversation
    before = json.loads(run("conversation", talk, "--json", "--ledger", book).stdout)
    run("label", "--ledger", book, "--where", f"conversation={talk}", "--replace", "tenant=nova", "outcome=resolved")
    after = json.loads(run("conversation", talk, "--json", "--ledger", book).stdout)
    assert after["rows"] == before["rows"]
    assert (after["tenant"], after["outcome"], after["cost"]) == ("nova", "resolved", before["cost"])
    found = json.loads(run("conversations", "--where", "tenant=nova", "--json", "--ledger", book).stdout)
    assert [(row["conversation"], row["cost"], row["calls"]) for row in found["rows"]] == [(talk, before["cost"], before["calls"])]


def test_what_a_budget_has_counted_stays_counted_where_it_was_and_is_no_drift(run: Run, tmp_path: Path) -> None:
    """A budget judged these calls under the labels they came with. A name that somebody gives them later changes no counter, in
    the tail and in segments, and counters that are built anew from the rows come out the same."""
    place = tmp_path / "judged"
    rows = [ledger_rows.entry(n, ledger_rows.START + n, Tokens(input=100), feature="search") for n in range(6)]
    charge = Charge("team|feature=search", "team", "usd", 9_000, 10**9, True)
    with Ledger.open(place, clock_us=lambda: ledger_rows.END) as ledger:
        for row in rows:
            ledger.hold(Hold(row.id, row.ts, 9_000, (charge,), row))
            ledger.book(Settlement(row.id, row, (4_000,), (charge,)))
    segments.compact(place, everything=True)

    def counters() -> dict[str, int]:
        with opened(place, read_only=True) as connection:
            return dict(connection.execute("SELECT counter, spent FROM counters").fetchall())

    before = counters()
    assert before == {"team|feature=search": 24_000}
    run("label", "--ledger", place, "--where", "feature=search", "feature=find")
    for _ in range(2):
        assert check(place).findings == () and rebuild(place) == [] and counters() == before
        segments.compact(place, everything=True)
    assert ask(place, where=(Filter("feature", ("find",)),))[0]["calls"] == 6
