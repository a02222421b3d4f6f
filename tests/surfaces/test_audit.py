"""`bursar audit` on real ledgers: the demo's story found with its dollars, an empty ledger, an hour, and sums done by hand."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import Result

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.policy import AuditPolicy, Policy
from bursar.domain.usage import Tokens
from bursar.rules.audit import ACT, GOOD, WATCH, Answer, Audit
from bursar.stores import drills, segments
from bursar.stores.query import Filter, Query
from bursar.stores.reader import Reader
from bursar.stores.writer import Ledger
from bursar.surfaces import audit as asking
from bursar.surfaces import audit_asker, periods, settings
from bursar.testing import company
from bursar.testing.player import Simulated, simulate
from commands import Run

NOW = ledger_rows.END
MINUTE = 60_000_000
GOLDEN = Path(__file__).resolve().parent.parent / "golden"
OCTOBER = ("--since", "2026-10-01", "--until", "2026-11-01")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """The demo's two months, and the truth about them."""
    made = simulate(company.plan(0), tmp_path_factory.mktemp("audit") / "demo", policy=company.POLICY)
    segments.compact(made.ledger, everything=True)
    return made


@pytest.fixture
def run(run: Run) -> Run:
    """The audit of a ledger; most find something."""

    def audit(ledger: Path, *words: str, code: int = 1) -> Result:
        return run("audit", "--ledger", ledger, *words, code=code)

    return audit


def golden(name: str, text: str) -> None:
    """Rewritten with BURSAR_GOLDEN=write."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
    assert max(map(len, text.splitlines())) <= 80


def taken(folder: Path, rows: list[Entry], policy: Policy | None = None, **period: int) -> Audit:
    ledger_rows.write(folder, rows)
    with asking.open_reader(folder) as reader:
        return asking.take(reader, policy or Policy(), periods.Period(**period), NOW)


def answer(made: Audit, key: str) -> Answer:
    return next(one for one in made.answers if one.key == key)


def figure(one: Answer, name: str) -> int | None:
    return next(each.value for each in one.figures if each.name == name)


# -- the demo's story --------------------------------------------------------------------------------------------------

KINDS = {"suite": "eval", "corpus": "embedding", "sdk_retry": "sdk retry"}


def test_every_multiplier_of_the_story_is_found_with_its_dollars(story: Simulated) -> None:
    """Within 2% of the provider's invoice, and nothing is named that was not planted."""
    with asking.open_reader(story.ledger) as reader:
        made = asking.take(reader, Policy(), periods.Period(until=NOW), NOW)
    lines = {(line.kind, line.name): line.cost for line in answer(made, "attribution").lines if line.kind not in ("history", "background")}
    truth = story.truth.multipliers()
    assert set(lines) == {(KINDS.get(kind, kind), name) for kind, name in truth}
    for (kind, name), dollars in truth.items():
        assert lines[KINDS.get(kind, kind), name] == pytest.approx(int(dollars * 10**12), rel=0.02), (kind, name)
    assert made.cost == int(story.truth.total * 10**12)


def test_the_story_reads_well_at_eighty_columns(story: Simulated, run: Run) -> None:
    golden("audit", run(story.ledger, *OCTOBER).stdout)
    golden("audit-brief", run(story.ledger, *OCTOBER, "--brief").stdout)
    golden("audit-ready", run(story.ledger, *OCTOBER, "--ready").stdout)


def test_what_the_audit_says_to_paste_is_taken_and_changes_its_mind(story: Simulated, run: Run, tmp_path: Path) -> None:
    """The lines of all six answers make a policy; once they stop, nothing is left to paste."""
    found = json.loads(run(story.ledger, *OCTOBER, "--json").stdout)
    pasted = "\n\n".join(row["paste"] for row in found["rows"] if row["paste"])
    assert pasted
    (tmp_path / "bursar.toml").write_text(pasted, "utf-8")
    again = json.loads(run(story.ledger, *OCTOBER, "--json").stdout)
    assert [row["paste"] for row in again["rows"]] == [""] * 6
    assert "hard = true" in again["rows"][2]["action"]
    (tmp_path / "bursar.toml").write_text(pasted.replace("hard = false", "hard = true").replace('mode = "warn"', 'mode = "on"'), "utf-8")
    stopped = json.loads(run(story.ledger, *OCTOBER, "--json").stdout)
    assert [row["verdict"] for row in stopped["rows"]][5] == WATCH  # it stops, and no drill was held


def test_the_document_says_money_exactly_and_shares_as_fractions(story: Simulated, run: Run) -> None:
    found = json.loads(run(story.ledger, *OCTOBER, "--json").stdout)
    with Reader(story.ledger) as reader:
        (row,) = reader.sql("SELECT sum(cost) AS cost FROM calls WHERE ts >= '2026-10-01' AND ts < '2026-11-01'")
    assert Decimal(found["cost"]) == Decimal(found["month"]) == row["cost"]
    assert [row["key"] for row in found["rows"]] == ["attribution", "fallback", "growth", "tiers", "cache", "guard"]
    rate = next(each for each in found["rows"][1]["figures"] if each["name"] == "rate")
    assert Decimal("0.06") < Decimal(rate["value"]) < Decimal("0.07")
    assert (found["since"], found["until"], found["verdict"]) == ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z", ACT)


def test_a_report_carries_no_markup_of_strangers(run: Run, tmp_path: Path) -> None:
    rows = [ledger_rows.entry(n, NOW - n * MINUTE, Tokens(input=9000), operation="retry", cause="tool:[x](http://evil) @all")
            for n in range(9)]  # fmt: skip
    ledger_rows.write(tmp_path / "ledger", rows)
    report = run(tmp_path / "ledger", "--markdown").stdout
    assert "(http" not in report.replace("\\(", "") or "\\[x\\]" in report
    assert "| asking again after \\[x\\](http://evil) \\@all failed |" in report and report.startswith("# Audit: $")


def test_years_of_rows_are_asked_for_a_month_of_them(story: Simulated, run: Run) -> None:
    """Two months as one of thirty days; without a period the thirty days up to the last row."""
    whole = json.loads(run(story.ledger, "--since", "2026-09-01", "--until", "2026-11-01", "--json").stdout)
    assert Decimal(whole["month"]) == pytest.approx(Decimal(whole["cost"]) * 30 / 61, rel=Decimal("0.001"))
    last = json.loads(run(story.ledger, "--json").stdout)
    assert last["days"] == "30.000" and last["until"].startswith("2026-10-31T23:")


# -- little ledgers ----------------------------------------------------------------------------------------------------


def test_an_empty_ledger_is_asked_too(run: Run, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", node="test", clock_us=lambda: NOW):
        pass
    found = json.loads(run(tmp_path / "ledger", "--json").stdout)
    assert [row["verdict"] for row in found["rows"]] == [WATCH] * 5 + [ACT]
    assert "nothing to judge yet" in run(tmp_path / "ledger").stdout
    assert "no call was seen yet" in run(tmp_path / "ledger", "--ready").stdout
    settings.parse("\n".join(row["paste"] for row in found["rows"]))
    (tmp_path / "bursar.toml").write_text('[[budget]]\nscope = "tenant"\nlimit = "$5"\n', "utf-8")
    run(tmp_path / "ledger", code=0)


def test_an_hour_of_calls_is_a_rough_guess_at_a_month(run: Run, tmp_path: Path) -> None:
    rows = [ledger_rows.entry(n, NOW - 60 * MINUTE + n * MINUTE, Tokens(input=1000), "gpt-5") for n in range(60)]
    ledger_rows.write(tmp_path / "ledger", rows)
    out = run(tmp_path / "ledger").stdout
    assert "a rough guess" in out and "100.0% of the dollars name no feature" in out.replace("\n  ", "")


def test_nobody_labelled_anything_and_the_programs_are_proposed(tmp_path: Path) -> None:
    rows = [
        ledger_rows.entry(n, NOW - n * MINUTE, Tokens(input=1000 * (1 + n % 3)), prefix_hash="abc"[n % 3] * 16, feature="")
        for n in range(30)
    ]
    found = answer(taken(tmp_path / "ledger", rows), "attribution")
    assert found.verdict == ACT and figure(found, "without_feature") == 1_000_000
    assert found.commands == tuple(f"bursar label --where prefix_hash={c * 16} feature=NAME" for c in "cba")


def test_suites_and_corpora_that_nobody_names_go_by_their_flow(tmp_path: Path) -> None:
    rows = [
        ledger_rows.entry(1, NOW - 3, Tokens(input=1000), purpose="eval", operation="eval", flow="nightly"),
        ledger_rows.entry(2, NOW - 2, Tokens(input=1000), purpose="eval", operation="eval", flow="x", labels='{"suite": "tone"}'),
        ledger_rows.entry(3, NOW - 1, Tokens(input=1000), purpose="embedding", operation="embedding", labels='{"corpus": "docs"}'),
        ledger_rows.entry(4, NOW - 1, Tokens(input=1000), purpose="eval", operation="retry", cause="tool:t", flow="nightly"),
    ]
    lines = {(line.kind, line.name): line.calls for line in answer(taken(tmp_path / "ledger", rows), "attribution").lines}
    assert lines == {("eval", "nightly"): 1, ("eval", "tone"): 1, ("embedding", "docs"): 1, ("tool", "t"): 1}


def test_a_corpus_that_is_embedded_again_each_night_is_told(tmp_path: Path) -> None:
    """To the byte where the requests are the same, and by what each night has in common with the one before."""
    rows = [
        ledger_rows.entry(n, NOW - (10 - n // 3) * ledger_rows.DAY + n % 3, Tokens(input=5000), purpose="embedding", operation="embedding",
                          flow="reindex", request_hash=f"{n % 3 if n % 3 else n + 100:032x}")
        for n in range(30)
    ]  # fmt: skip
    made = taken(tmp_path / "ledger", rows)
    (line,) = answer(made, "attribution").lines
    assert line.note == "60.0% sent before, to the byte; 90.0% as on the day before: done again?"
    (twice,) = answer(made, "cache").lines
    assert (twice.kind, twice.name, twice.calls) == ("vector", "reindex", 18) and twice.cost * 5 == made.cost * 3
    assert figure(answer(made, "cache"), "embedded") == made.cost * 9 // 10
    assert settings.parse(answer(made, "cache").paste).cache.embeddings


def test_a_fallback_is_held_against_the_price_of_what_was_asked_for(tmp_path: Path) -> None:
    """At the price book's own prices, the policy's where it has any."""
    policy = settings.parse("".join(
        f'[[price]]\nmodel = "{model}"\ninput = "{dollars}"\noutput = "{dollars}"\n' for model, dollars in (("cheap", 1), ("dear", 15))
    ))  # fmt: skip
    rows: list[Entry] = []
    for n in range(20):
        rows.append(ledger_rows.entry(n, NOW - n * MINUTE, Tokens(input=1_000_000), None, model_requested="cheap", model_served="cheap",
                                      cost=10**12, price_status="priced"))  # fmt: skip
        if n < 2:
            rows.append(rows[-1]._replace(id=f"f{n}", call=rows[-1].call, try_no=2, attempt_kind="fallback", operation="fallback",
                                          cause="malformed:cheap", model_served="dear", cost=15 * 10**12))  # fmt: skip
    found = answer(taken(tmp_path / "ledger", rows, policy), "fallback")
    assert found.verdict == ACT and figure(found, "rate") == 100_000 and figure(found, "price_ratio") == 15_000_000
    assert figure(found, "extra") == 28 * 10**12 and found.lines[0].name == "cheap -> dear"


def talk(n: int, *sizes: int, gap_s: int = 60, **more: object) -> list[Entry]:
    """A conversation on claude-sonnet-4-5, $3 a million tokens, of calls with so many tokens of input."""
    return [
        ledger_rows.entry(100 * n + at, NOW - ledger_rows.HOUR + at * gap_s * 1_000_000, Tokens(input=size), "claude-sonnet-4-5",
                          conversation=f"c{n}", feature="chat", prefix_hash="p", turn=at + 1, request_hash=f"{100 * n + at:032x}", **more)
        for at, size in enumerate(sizes)
    ]  # fmt: skip


def test_prompts_read_anew_are_counted_at_the_caches_price_less_what_writing_takes(tmp_path: Path) -> None:
    """Anthropic: a token read from the cache is a tenth, one written to it a quarter more."""
    (line,) = [one for one in answer(taken(tmp_path / "ledger", talk(1, 10_000, 12_000, 15_000)), "cache").lines if one.kind == "prompt"]
    reads, writes = 10_000 + 12_000, 10_000 + 2_000 + 3_000
    assert line.cost == (reads * 27 - writes * 75 // 10) * 10**5 and line.name == "chat"


@pytest.mark.parametrize(
    "rows",
    [
        talk(1, 10_000, 12_000, gap_s=301),  # the cache is cold
        talk(1, 10_000, 9_000, 8_000),  # the history was cut
        talk(1, 1_000, 1_001),  # too short to be cached at all
        [row._replace(prefix_hash=row.id) for row in talk(1, 10_000, 12_000)],  # another system prompt each time
        [*talk(1, 10_000), *talk(2, 12_000)],  # another conversation
    ],
)
def test_what_no_cache_could_have_read_is_not_promised(tmp_path: Path, rows: list[Entry]) -> None:
    assert answer(taken(tmp_path / "ledger", rows), "cache").stake == 0


def test_the_same_request_again_on_one_day_is_counted_once_less(tmp_path: Path) -> None:
    """By tenant, model and day; retries are not repeats."""
    rows = [
        ledger_rows.entry(n, NOW - ledger_rows.DAY + n, Tokens(input=1_000_000), "gpt-5", feature="faq", tenant=tenant, request_hash="h" * 32,
                          operation=operation)
        for n, (tenant, operation) in enumerate([("a", "primary")] * 3 + [("b", "primary"), ("a", "retry")])
    ]  # fmt: skip
    rows.append(ledger_rows.entry(9, NOW - 1, Tokens(input=1_000_000), "gpt-5", feature="faq", tenant="a", request_hash="h" * 32))
    rows.append(rows[-1]._replace(id="x", ts=NOW - 2 * ledger_rows.DAY))
    (line,) = answer(taken(tmp_path / "ledger", rows), "cache").lines
    assert (line.kind, line.name, line.calls, line.cost) == ("repeat", "faq", 3, 3 * 1_250_000_000_000)


def test_of_many_rows_the_latest_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each row must be seen by itself; sums are of all of them."""
    rows = [row for n in range(40) for row in talk(n, 10_000, 12_000)]
    rows = [row._replace(ts=NOW - 40 * ledger_rows.HOUR + n // 2 * ledger_rows.HOUR + n % 2 * MINUTE) for n, row in enumerate(rows)]
    whole = taken(tmp_path / "all", rows)
    monkeypatch.setattr(audit_asker, "LOOKED_AT", 20)
    part = taken(tmp_path / "part", rows)
    assert part.cost == whole.cost and "stand for the whole period" in answer(part, "cache").how
    assert answer(part, "cache").stake == pytest.approx(answer(whole, "cache").stake, rel=0.15)


def test_what_is_added_up_once_is_what_a_look_at_the_rows_says(story: Simulated) -> None:
    """Each sum that the questions ask for, by each of the dimensions, against the rows themselves; and the audit's totals."""
    with asking.open_reader(story.ledger) as reader:
        (ends,) = reader.query(Query(("first", "last")))
        span = ends["first"] + 3 * MINUTE, ends["last"] - 7 * MINUTE
        ask = audit_asker.Asker(reader, Policy(), *span)
        for by in (*audit_asker.BY[:-2], ("purpose", "operation", "cause", "model_requested", "model_served"), ("flow", "provider")):
            names = (by,) if isinstance(by, str) else by
            only = (Filter("purpose", ("eval", "embedding")), Filter("cause", ("loop",), True))
            for where in ((), only):
                found = ask.query(("cost", "calls", "tries", "unpriced", "input"), names, *where)
                assert found == ask.search(("cost", "calls", "tries", "unpriced", "input"), names, *where, top=100_000)
        (plain,) = ask.sql(f"""
            SELECT count(*) AS rows, sum(cost) AS cost, sum(cost_history) AS history,
                   {", ".join(f"sum(cost) FILTER ({n} = '') AS without_{n}" for n in audit_asker.LABELS)},
                   sum({audit_asker.WHOLE}) AS whole, sum(cache_read) AS read, sum(saved) FILTER ({audit_asker.KEPT}) AS kept,
                   count(*) FILTER ({audit_asker.KEPT}) AS answered
            FROM calls WHERE {audit_asker.WITHIN}""")
        assert ask.total == plain
        assert plain["rows"] > 1000


def test_work_that_looks_cheap_is_priced_at_the_cheap_tier(tmp_path: Path) -> None:
    """Long in, short out, no tools: on gpt-5 at $1.25, as cheap work at gpt-5-nano's $0.05."""
    rows = [ledger_rows.entry(n, NOW - n * MINUTE, Tokens(input=10_000, output=20), "gpt-5", feature="triage") for n in range(50)]
    found = answer(taken(tmp_path / "ledger", rows), "tiers")
    (move,) = [line for line in found.lines if line.kind == "move"]
    assert found.verdict == ACT and move.name == "triage: gpt-5 -> gpt-5-nano" and move.calls == 50
    routed = settings.parse(found.paste)
    assert routed.tiers.cheap == ["gpt-5-nano"] and [(route.when, route.tier, route.mode) for route in routed.route] == [
        ({"feature": "triage"}, "cheap", "shadow")
    ]
    again = answer(taken(tmp_path / "again", rows, routed), "tiers")
    assert again.paste == "" and "shadow" in again.action
    own = answer(taken(tmp_path / "own", rows, settings.parse('[tiers]\ncheap = ["claude-haiku-4-5", "gpt-5-mini"]\n')), "tiers")
    assert [line.name for line in own.lines if line.kind == "move"] == ["triage: gpt-5 -> gpt-5-mini"]
    assert figure(found, "saved") == 50 * ((10_000 * 1_250 + 20 * 10_000) - (10_000 * 50 + 20 * 400)) * 1000


def test_the_newest_drill_counts(tmp_path: Path) -> None:
    policy = settings.parse('[guard]\ncost_max = "$5"\ntool_calls_max = 15\n')
    ledger_rows.write(tmp_path / "ledger", talk(1, 1_000))
    verdicts: list[str] = []
    for days, passed in ((40, 1), (3, 1), (2, 0)):
        drills.keep(tmp_path / "ledger", json.dumps({"ts": NOW - days * ledger_rows.DAY, "policy": "p", "passed": bool(passed)}))
        with asking.open_reader(tmp_path / "ledger") as reader:
            verdicts.append(answer(asking.take(reader, policy, periods.Period(), NOW), "guard").verdict)
    assert verdicts == [WATCH, GOOD, WATCH]


def test_thresholds_are_the_policys(tmp_path: Path) -> None:
    rows = [ledger_rows.entry(n, NOW - n * MINUTE, Tokens(input=1000), feature="" if n < 3 else "a") for n in range(100)]
    strict = Policy(audit=AuditPolicy(unattributed="1%"))
    assert answer(taken(tmp_path / "a", rows), "attribution").verdict == GOOD
    assert answer(taken(tmp_path / "b", rows, strict), "attribution").verdict == ACT
