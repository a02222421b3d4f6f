"""An import into a real ledger: everything accounted for, nothing twice, interrupted ones gone on with, and never mixed in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger_rows
from bursar.domain.entry import Entry, Settlement
from bursar.domain.money import plain
from bursar.domain.usage import Tokens
from bursar.stores import check
from bursar.stores.query import Filter, Query
from bursar.stores.reader import Reader
from bursar.stores.segments import compact
from bursar.stores.writer import Ledger
from bursar.surfaces.imports import intake as driver
from bursar.surfaces.imports import reading
from bursar.surfaces.imports.files import Unreadable
from bursar.surfaces.imports.intake import ELSEWHERE, HERE, Tally, WrongFormat
from bursar.surfaces.imports.reading import AGAIN

from . import samples
from .rig import NOW, bring, entries, lines, rows


def accounted(tally: Tally, records: int) -> None:
    assert tally.records == records == tally.rows + tally.duplicates + tally.passed.total() + tally.refused.total()


# -- nothing twice ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_a_second_import_adds_nothing_wherever_the_rows_are_by_then(tmp_path: Path, book: Path, compacted: bool) -> None:
    """In the tail, or in segments, also long after the tail has forgotten them."""
    file = lines(tmp_path / "logs.jsonl.gz", [samples.litellm(n) for n in range(500)])
    first = bring(tmp_path / "ledger", "litellm", [file], book).tally
    accounted(first, 500)
    if compacted:
        compact(tmp_path / "ledger", everything=True, clock_us=lambda: NOW)
        compact(tmp_path / "ledger", everything=True, clock_us=lambda: NOW + 3 * 3_600_000_000)  # what landed is forgotten
    before = rows(tmp_path / "ledger")
    second = bring(tmp_path / "ledger", "litellm", [file, file], book).tally
    accounted(second, 1000)
    assert second.rows == 0 and second.repeats == {HERE: 1000}
    assert rows(tmp_path / "ledger") == before
    assert check.check(tmp_path / "ledger", lambda: NOW).findings == ()


def test_the_same_record_twice_in_one_file_is_one_row(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.litellm(1), samples.litellm(2), samples.litellm(1)])
    tally = bring(tmp_path / "ledger", "litellm", [file], book).tally
    accounted(tally, 3)
    assert tally.repeats == {AGAIN: 1} and tally.rows == 2


def test_a_call_the_gateway_measured_is_known_again_by_the_providers_id(tmp_path: Path, book: Path) -> None:
    """Long ids, near in time; a small server's chatcmpl-881 is another call each time."""
    ts = 1_793_613_600_000_000
    long, short = f"chatcmpl-{1:024d}", "chatcmpl-881"
    measured = [
        ledger_rows.entry(n, at, Tokens(input=1000, output=200))._replace(response_id=id)
        for n, (id, at) in enumerate([(long, ts), (short, ts), (f"chatcmpl-{3:024d}", ts - 3_600_000_000)])
    ]  # fmt: skip
    ledger_rows.write(tmp_path / "ledger", measured)
    file = lines(tmp_path / "x.jsonl", [samples.litellm(1), samples.litellm(1, request_id=short), samples.litellm(3),
                                        samples.litellm(4, startTime="2026-11-02T08:00:00Z")])  # fmt: skip
    for _ in range(2):
        tally = bring(tmp_path / "ledger", "litellm", [file], book).tally
        accounted(tally, 4)
        assert tally.repeats[ELSEWHERE] == 1
        compact(tmp_path / "ledger", everything=True, clock_us=lambda: NOW)  # and again when the measured row is in a segment
    assert len(rows(tmp_path / "ledger")) == 6


def test_a_reused_id_hours_apart_is_another_call_also_where_the_measured_one_is_in_a_segment(tmp_path: Path, book: Path) -> None:
    row = ledger_rows.entry(1, 1_793_613_600_000_000 - 3_600_000_000, Tokens(input=5))._replace(response_id=f"chatcmpl-{3:024d}")
    ledger_rows.write(tmp_path / "ledger", [row])
    compact(tmp_path / "ledger", everything=True, clock_us=lambda: NOW)
    file = lines(tmp_path / "x.jsonl", [samples.litellm(3), samples.litellm(4, startTime="2026-11-02T08:00:00Z")])
    assert bring(tmp_path / "ledger", "litellm", [file], book).tally.rows == 2


# -- everything accounted for ------------------------------------------------------------------------------------------------


LINE = st.sampled_from(["good", "good", "again", "broken", "foreign", "empty time", "tool"])


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(LINE, max_size=40))
def test_every_record_is_a_row_a_duplicate_no_call_or_refused_with_its_place(tmp_path_factory, book: Path, kinds: list[str]) -> None:
    folder = tmp_path_factory.mktemp("mix")
    made: list[Any] = []
    for number, kind in enumerate(kinds):
        made.append({
            "good": samples.litellm(number), "again": samples.litellm(0), "broken": b'{"request_id": "x"', "foreign": {"hello": "world"},
            "empty time": samples.litellm(number, startTime=""), "tool": samples.litellm(number, call_type="call_mcp_tool", spend=0, metadata={},
                                                                                          prompt_tokens=0, completion_tokens=0, total_tokens=0),
        }[kind])  # fmt: skip
    file = lines(folder / "x.jsonl", made)
    if not made:
        file.write_text("")
    intake = bring(folder / "ledger", "litellm", [file], book)
    accounted(intake.tally, len(kinds))
    bad = [n for n, kind in enumerate(kinds) if kind in ("broken", "foreign", "empty time")]
    assert intake.tally.refused.total() == len(bad)
    kept = [json.loads(line) for line in intake.aside_path.read_text().splitlines()] if intake.aside_path else []
    assert [(k["line"], k["record"]) for k in kept] == [
        (n + 1, made[n].decode() if isinstance(made[n], bytes) else json.dumps(made[n])) for n in bad
    ]
    assert all(k["reason"] and k["file"] == str(file) for k in kept)


def test_refused_records_are_for_their_owners_eyes(tmp_path: Path, book: Path) -> None:
    intake = bring(tmp_path / "ledger", "litellm", [lines(tmp_path / "x.jsonl", [samples.litellm(1), {"prompt": "secret"}])], book)
    assert intake.aside_path is not None and intake.aside_path.stat().st_mode & 0o077 == 0


def test_a_file_of_another_format_is_told_as_such(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.request(samples.span(samples.GENAI))] * 300)
    with pytest.raises(WrongFormat, match="it looks like otlp"):
        bring(tmp_path / "ledger", "litellm", [file], book)
    assert rows(tmp_path / "ledger") == []


def test_a_time_to_come_is_refused(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.litellm(1, startTime="2027-01-01T00:00:00Z")])
    assert bring(tmp_path / "ledger", "litellm", [file], book).tally.refused == {"its time is in the future": 1}


def test_pages_and_wrappers_are_their_records(tmp_path: Path, book: Path) -> None:
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"data": [samples.litellm(1), samples.litellm(2)], "total": 2}, indent=2))
    accounted(bring(tmp_path / "ledger", "litellm", [file], book).tally, 2)


def test_the_sources_amounts_are_compared_with_ours_model_by_model(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.litellm(n, spend=0.001) for n in range(3)])
    tally = bring(tmp_path / "ledger", "litellm", [file], book).tally
    (sums,) = tally.compared.values()
    each = (600 * 250_000_000 + 400 * 25_000_000 + 200 * 2_000_000_000) // 1000
    assert sums == (3, 3 * each, 3_000_000_000) and tally.cost == 3 * each
    assert "stated:0.001" in entries(tmp_path / "ledger")[0].flags


# -- interrupted -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_was_stopped_goes_on_and_ends_as_if_nothing_had_been(tmp_path: Path, how: signal.Signals) -> None:
    """kill -9 or Ctrl-C in the middle: what was acknowledged stays, nothing doubles, the second run begins where the mark is."""
    file = lines(tmp_path / "x.jsonl", [samples.litellm(n, spend=n / 1000) for n in range(12_000)])
    ledger = tmp_path / "ledger"
    code = (
        "import sys; from bursar.surfaces.imports import intake, reading;"
        "intake.MARK_S = 0.02; reading.BATCH = 256; reading.OWN_PROCESS = 1 << 40;"
        "from bursar.surfaces.cli import main; main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", code, "import", "litellm", str(file), "--ledger", str(ledger), "--json"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not ((ledger / "imports").exists() and list((ledger / "imports").glob("*.mark"))):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.005)
    child.send_signal(how)
    said, _ = child.communicate(timeout=60)
    if how == signal.SIGINT:
        assert child.returncode == 1 and json.loads(said)["interrupted"] is True
    ran = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    told = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    (resumed,) = told["resumed"]
    assert 0 < resumed["records"] < 12_000
    assert resumed["records"] + told["records"] == 12_000
    assert len(rows(ledger)) == 12_000
    assert not list((ledger / "imports").glob("*.mark"))


def test_read_in_another_process_or_in_this_one_the_rows_are_the_same(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lines(tmp_path / "x.jsonl", [*(samples.litellm(n) for n in range(300)), {"hello": 1}, samples.litellm(5)])
    tallies = []
    for number, size in enumerate((0, 1 << 40)):
        monkeypatch.setattr(reading, "OWN_PROCESS", size)
        tallies.append(vars(bring(tmp_path / str(number), "litellm", [file], book).tally))
    assert tallies[0] == tallies[1] and tallies[0]["rows"] == 300
    assert rows(tmp_path / "0") == rows(tmp_path / "1")


def test_a_reading_process_that_is_killed_leaves_an_import_to_go_on_with(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "OWN_PROCESS", 0)
    file = lines(tmp_path / "x.jsonl", [samples.litellm(n) for n in range(20_000)])
    seen: list[int] = []

    def step(_file: int, _position: int, read: int) -> None:
        if not seen:
            (child,) = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "imports.reading"], capture_output=True, text=True, check=True
            ).stdout.split()
            os.kill(int(child), signal.SIGKILL)
        seen.append(read)

    with pytest.raises(Unreadable, match="signal 9"):
        bring(tmp_path / "ledger", "litellm", [file], book, step=step)
    assert bring(tmp_path / "ledger", "litellm", [file], book).tally.records == 20_000
    assert len(rows(tmp_path / "ledger")) == 20_000


def test_a_mark_is_not_used_for_a_file_that_begins_otherwise(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.litellm(1)])
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    mark = driver.Mark(ledger, "litellm", file)
    mark.save(10_000, 50, 50)
    lines(file, [samples.litellm(2), samples.litellm(3)])
    intake = bring(ledger, "litellm", [file], book)
    assert intake.tally.rows == 2 and intake.resumed == []


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Six times the records, the same memory: what is kept is a batch, not the file."""
    peak = {}
    for count in (5_000, 30_000):
        file = lines(tmp_path / f"{count}.jsonl", [samples.litellm(n) for n in range(count)])
        code = (
            "import resource, sys; from bursar.surfaces.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(*[resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)], file=sys.stderr)"
        )
        ran = subprocess.run([sys.executable, "-c", code, "import", "litellm", str(file), "--ledger", str(tmp_path / str(count))],
                             capture_output=True, text=True, timeout=110, check=False)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        peak[count] = [int(kilobytes) for kilobytes in ran.stderr.split()[-2:]]
    for writer, reader in zip(peak[30_000], peak[5_000], strict=True):  # of the process that writes, and of the one that reads
        assert 0 < writer < reader * 1.25, peak


# -- never mixed in silence ----------------------------------------------------------------------------------------------------


def test_buckets_of_a_report_are_in_no_sum_over_calls_but_can_be_asked_for(tmp_path: Path, book: Path) -> None:
    ledger = tmp_path / "ledger"
    bring(ledger, "litellm", [lines(tmp_path / "x.jsonl", [samples.litellm(1)])], book)
    samples.write(tmp_path / "files")
    bring(ledger, "openai-usage", [tmp_path / "files" / "openai-usage.csv"], book)
    with Reader(ledger) as reader:
        ask = Query(("rows", "cost", "tokens"))
        (calls,), (all_of_it,) = reader.query(ask), reader.sql("SELECT count(*) AS rows, sum(cost) AS cost FROM entries")
        (bucket,) = reader.query(ask._replace(where=(Filter("source", ("imported:openai-usage",)),)))
        assert (calls["rows"], bucket["rows"], all_of_it["rows"]) == (1, 1, 2)
        assert calls["cost"] + bucket["cost"] == all_of_it["cost"] and bucket["tokens"] == 102_000
        (others,) = reader.query(ask._replace(where=(Filter("source", ("measured",), negate=True),)))
        assert others["rows"] == 1  # who leaves one source out has not asked for the buckets
        for by in ("source", "model", "operation"):
            assert sum(row["cost"] for row in reader.query(ask._replace(by=(by,)))) == calls["cost"]
    assert check.check(ledger, lambda: NOW).findings == ()


def report(days: list[int], width: int = 86_400, **dimensions: str) -> list[dict[str, Any]]:
    return [{"object": "bucket", "start_time": 1793577600 + day * width, "end_time": 1793577600 + (day + 1) * width, "results": [
        {"object": "organization.usage.completions.result", "input_tokens": 1000 + day, "output_tokens": 10, "model": "gpt-5-mini", **dimensions}]}
        for day in days]  # fmt: skip


def test_a_report_grouped_otherwise_or_by_the_hour_is_refused_where_it_would_count_twice(tmp_path: Path, book: Path) -> None:
    ledger = tmp_path / "ledger"
    assert bring(ledger, "openai-usage", [lines(tmp_path / "a.jsonl", report([0, 1]))], book).tally.rows == 2
    by_project = bring(ledger, "openai-usage", [lines(tmp_path / "b.jsonl", report([0, 1, 2], project_id="p"))], book).tally
    assert (by_project.rows, by_project.refused.total()) == (1, 2) and "count twice" in next(iter(by_project.refused))
    by_hour = bring(ledger, "openai-usage", [lines(tmp_path / "c.jsonl", report([5], 3600))], book).tally
    assert (by_hour.rows, by_hour.refused.total()) == (0, 1)
    other_model = [{**b, "results": [{**b["results"][0], "model": "gpt-5"}]} for b in report([0])]
    assert bring(ledger, "openai-usage", [lines(tmp_path / "d.jsonl", other_model)], book).tally.rows == 1


def test_a_bucket_that_is_amended_or_not_over_is_refused_and_the_first_stands(tmp_path: Path, book: Path) -> None:
    ledger = tmp_path / "ledger"
    bring(ledger, "openai-usage", [lines(tmp_path / "a.jsonl", report([0]))], book)
    amended = report([0])
    amended[0]["results"][0]["input_tokens"] = 5000
    tally = bring(ledger, "openai-usage", [lines(tmp_path / "b.jsonl", amended)], book).tally
    assert tally.rows == 0 and "other figures" in next(iter(tally.refused))
    tally = bring(
        ledger, "openai-usage", [lines(tmp_path / "c.jsonl", report([3]))], book, now=1793577600_000_000 + 3 * 86_400_000_000 + 5
    ).tally
    assert tally.rows == 0 and "not over" in next(iter(tally.refused))


def test_what_the_operator_says_of_all_records_stands_above_what_they_say(tmp_path: Path, book: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [samples.litellm(1)])
    bring(tmp_path / "ledger", "litellm", [file], book, labels={"tenant": "globex"}, renames={"team": "flow"})
    (row,) = rows(tmp_path / "ledger")
    assert (row["tenant"], row["flow"], row["feature"], row["source"]) == ("globex", "Search", "triage", "imported:litellm")


# -- our own rows ----------------------------------------------------------------------------------------------------------------


def settled(ledger: Path, made: list[Entry]) -> None:
    with Ledger.open(ledger, clock_us=lambda: NOW) as opened:
        opened.book_all([Settlement(row.id, row, ()) for row in made])


def test_a_row_of_ours_that_was_changed_is_refused(tmp_path: Path, book: Path) -> None:
    """A leg, the cost, a part: whatever no longer adds up stays outside."""
    made = ledger_rows.month(count=30, huge=False)
    settled(tmp_path / "ledger", made)
    from bursar.stores.query import Query as Ask
    from bursar.surfaces.exports import jsonl
    from bursar.surfaces.exports.rows import Asked

    file = tmp_path / "rows.jsonl"
    with Reader(tmp_path / "ledger") as reader, file.open("wb") as out:
        written = jsonl.write(reader, Asked(Ask(("rows",))), out)
    assert written.rows == len(made) and written.cost == sum(row.cost or 0 for row in made)
    good = [json.loads(line) for line in file.read_text().splitlines()]
    (row,) = [g for g in good if g["price_status"] == "priced" and g["cost_other"] == "0" and g["status"] == "ok"][:1]
    spoilt = [
        {**row, "cost": plain(int(Decimal(row["cost"]).scaleb(12)) + 1)}, {**row, "cost_output": "9"}, {**row, "cost": None}, {**row, "cost": 0.5},
        {**row, "legs": [[u, n + 1, f, p] for u, n, f, p in row["legs"]]}, {**row, "legs": row["legs"][1:]}, {**row, "price_status": "unpriced", "cost": "0"},
        {**row, "status": "great"}, {**row, "cost_new": "1"},
    ]  # fmt: skip
    tally = bring(tmp_path / "other", "jsonl", [lines(tmp_path / "spoilt.jsonl", spoilt)], book).tally
    assert tally.rows == 0 and tally.refused.total() == len(spoilt), dict(tally.refused)


def test_the_folder_has_nothing_left_but_what_was_put_aside(tmp_path: Path, book: Path) -> None:
    bring(tmp_path / "ledger", "litellm", [lines(tmp_path / "x.jsonl", [samples.litellm(1)])], book)
    assert os.listdir(tmp_path / "ledger" / "imports") == []
