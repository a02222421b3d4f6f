"""The recorded exports of others: every record accounted for, transcripts to the token and to the cent, the second import empty."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from bursar.domain.money import PICO
from bursar.stores import check
from bursar.stores.query import Filter, Query
from bursar.stores.reader import Reader

from .rig import NOW, bring, rows

SPANS = {"otlp": ("envoy_openinference_spans", "vercel_ai_spans", "otlp_json_open_agent_traces"), "langfuse": ("langfuse_traces",)}


def read(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.fixture(scope="module")
def transcripts(data_dir: Path, book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ledger = tmp_path_factory.mktemp("transcripts") / "ledger"
    file = data_dir / "agent-claude-code-tau2" / "transcript_lines.jsonl.gz"
    tally = bring(ledger, "claude-code", [file], book).tally
    assert tally.records == sum(1 for _ in read(file)) and not tally.refused
    assert bring(ledger, "claude-code", [file], book).tally.rows == 0
    return ledger


def test_each_sessions_tokens_are_those_of_its_calls_each_counted_once(transcripts: Path, data_dir: Path) -> None:
    """The totals were deduplicated by others; adding the lines up gives 2.7 times what was read from the cache."""
    folder = data_dir / "agent-claude-code-tau2"
    session_of = {line["conv"]: line["sessionId"] for line in read(folder / "transcript_lines.jsonl.gz") if line.get("sessionId")}
    booked: dict[str, dict] = defaultdict(
        lambda: {"calls": 0, "input": 0, "output": 0, "cache_read": 0, "cache_write": 0, "cache_write_1h": 0}
    )
    for row in rows(transcripts):
        sums = booked[row["conversation"]]
        sums["calls"] += 1
        for name in ("input", "output", "cache_read", "cache_write", "cache_write_1h"):
            sums[name] += row[name]
    sessions = list(read(folder / "sessions.jsonl.gz"))
    assert len(sessions) == 195
    for session in sessions:
        sums = booked[session_of[session["conv"]]]
        assert (sums["input"], sums["output"], sums["cache_read"], sums["cache_write"] + sums["cache_write_1h"], sums["cache_write_1h"]) == (
            session["input_tokens"], session["output_tokens"], session["cache_read_tokens"], session["cache_write_tokens"], session["cache_write_1h"],
        ), session["conv"]  # fmt: skip
    naive = sum(
        (line.get("message") or {}).get("usage", {}).get("cache_read_input_tokens") or 0
        for line in read(folder / "transcript_lines.jsonl.gz")
    )
    once = sum(sums["cache_read"] for sums in booked.values())
    assert 2.6 < naive / once < 2.9


def test_the_three_groups_cost_their_list_price_to_the_cent(transcripts: Path, data_dir: Path) -> None:
    folder = data_dir / "agent-claude-code-tau2"
    run_of = {s["conv"]: s["run"] for s in read(folder / "sessions.jsonl.gz")}
    group = {line["sessionId"]: run_of[line["conv"]] for line in read(folder / "transcript_lines.jsonl.gz") if line.get("sessionId")}
    cost: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows(transcripts):
        cost[group[row["conversation"]]] += row["cost"]
    assert {name: f"{dollars:.2f}" for name, dollars in cost.items()} == {"haiku": "2.48", "haiku_base": "2.73", "sonnet": "6.12"}


@pytest.mark.parametrize("form", SPANS)
def test_spans_exports_import_without_loss(form: str, data_dir: Path, book: Path, tmp_path: Path) -> None:
    """Counted here by the files' own structure: every span, every observation is one thing or the other."""
    files = [data_dir / "spans-exports" / f"{name}.jsonl.gz" for name in SPANS[form]]
    wanted = 0
    for file in files:
        for line in read(file):
            if form == "langfuse":
                trace = line["trace"]
                wanted += len(trace.get("observations") or trace["trace"]["observations"])
            elif "otlp" in line:
                wanted += sum(len(s["spans"]) for r in line["otlp"]["resourceSpans"] for s in r["scopeSpans"])
            else:
                wanted += len(line.get("spans") or [line["span"]])
    tally = bring(tmp_path / "ledger", form, files, book).tally
    assert tally.records == wanted == tally.rows + tally.duplicates + tally.passed.total() + tally.refused.total()
    before = rows(tmp_path / "ledger")
    again = bring(tmp_path / "ledger", form, files, book).tally
    assert again.rows == 0 and rows(tmp_path / "ledger") == before
    assert check.check(tmp_path / "ledger", lambda: NOW).findings == ()


def test_openinference_spans_have_the_usage_that_the_provider_answered(data_dir: Path, book: Path, tmp_path: Path) -> None:
    """Each span carries the answer's body too: its usage, read here without our mapping, is what the row says."""
    file = data_dir / "spans-exports" / "envoy_openinference_spans.jsonl.gz"
    bring(tmp_path / "ledger", "otlp", [file], book)
    booked = {row["response_id"]: row for row in rows(tmp_path / "ledger") if row["response_id"]}
    compared = 0
    for line in read(file):
        attributes = {a["key"]: next(iter(a["value"].values())) for a in line["span"]["attributes"]}
        try:
            body = json.loads(attributes.get("output.value", "{}"))
        except ValueError:
            continue
        usage = body.get("usage") or {}
        if "prompt_tokens" not in usage or body.get("id") not in booked:
            continue
        row = booked[body["id"]]
        other = json.loads(row["other_units"])
        assert row["input"] + row["cache_read"] + other.get("input_audio", 0) == usage["prompt_tokens"]
        assert row["output"] + row["reasoning"] + other.get("output_audio", 0) == usage.get("completion_tokens", 0)
        compared += 1
    assert compared >= 14


def test_langfuse_counts_each_call_of_nested_generations_once_and_its_prices_are_known(
    data_dir: Path, book: Path, tmp_path: Path
) -> None:
    file = data_dir / "spans-exports" / "langfuse_traces.jsonl.gz"
    tally = bring(tmp_path / "ledger", "langfuse", [file], book).tally
    assert tally.repeats["an aggregate: the calls below it are counted"] == 3
    assert sum(sums.rows for sums in tally.compared.values()) == 28


def test_openais_bill_and_our_price_of_its_usage_stand_beside_each_other(data_dir: Path, book: Path, tmp_path: Path) -> None:
    """7 October prices to the cent; 5 and 6 October do not, and the ledger shows both sides instead of one."""
    folder = data_dir / "billing-exports"
    files = [
        folder / "openai_costs_export.csv.gz",
        folder / "openai_usage_export.csv.gz",
        folder / "openai_usage_costs_api_examples.jsonl.gz",
    ]
    tally = bring(tmp_path / "ledger", "openai-usage", files, book).tally
    assert (tally.records, tally.rows, tally.refused.total()) == (20, 18, 0)
    with Reader(tmp_path / "ledger") as reader:

        def by_day(source: str) -> dict[str, str]:
            ask = Query(("cost",), (), (Filter("source", (source,)),), since_us=1759622400 * 10**6, grain="day")
            return {row["period"]: f"{row['cost']:.3f}" for row in reader.query(ask)}

        billed, priced = by_day("imported:openai-costs"), by_day("imported:openai-usage")
        assert billed == {"2025-10-05": "0.896", "2025-10-06": "0.562", "2025-10-07": "0.570", "2025-10-08": "0.546"}
        assert priced == {"2025-10-05": "0.247", "2025-10-06": "0.816", "2025-10-07": "0.570"}
        assert reader.query(Query(("rows",))) == [{"rows": 0}]
    assert bring(tmp_path / "ledger", "openai-usage", files, book).tally.rows == 0
    assert sum(row["cost"] or 0 for row in rows(tmp_path / "ledger")) * PICO > 0


def test_what_is_no_report_and_no_spend_log_is_refused_with_its_reason(data_dir: Path, book: Path, tmp_path: Path) -> None:
    """The notebook's printed lines, and LiteLLM's documentation: one real log among seventeen blocks, most of them with comments in."""
    notebook = data_dir / "billing-exports" / "anthropic_usage_cost_notebook_outputs.jsonl.gz"
    tally = bring(tmp_path / "ledger", "anthropic-usage", [notebook], book).tally
    assert tally.records == tally.refused.total() == 6
    files = []
    for number, line in enumerate(read(data_dir / "billing-exports" / "litellm_doc_records.jsonl.gz")):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(line["block"]) if line["valid_json"] else line["block"], "utf-8")
        files.append(file)
    tally = bring(tmp_path / "ledger", "litellm", files, book).tally
    assert len(files) == 17 and tally.rows == 1 and tally.records == tally.rows + tally.refused.total() >= 17
