"""`bursar import` as people meet it: what became of each record, what it cost, and what to do next; golden output at 80 columns."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import Run

from . import samples
from .rig import lines

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture
def run(run: Run, tmp_path: Path, book: Path) -> Run:
    """The command with the sample files in its folder, and a price book in its home."""
    samples.write(tmp_path)
    (tmp_path / "home" / "ledger").mkdir(parents=True)
    (tmp_path / "home" / "ledger" / book.name).write_bytes(book.read_bytes())  # compiled once, not in each test
    return run


def shown(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"in [\d.,]+ s(, [\d,]+ a second)?$", "in 0.1 s", text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in re.sub(r"\S*/home/ledger", "LEDGER", text).splitlines()) + "\n"


def golden(name: str, text: str) -> None:
    """`BURSAR_GOLDEN=write` rewrites the files; the diff is then for a person to read."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")
    assert max(map(len, text.splitlines())) <= 80


def test_what_became_of_each_record_and_what_it_cost(run: Run, tmp_path: Path) -> None:
    mixed = [samples.litellm(n, spend=0.002) for n in range(40)] + [samples.litellm(3), {"hello": 1}, b"{"]
    mixed += [
        samples.litellm(90, call_type="call_mcp_tool", spend=0, metadata={}, prompt_tokens=0, completion_tokens=0, total_tokens=0)
    ]
    mixed += [samples.litellm(91, model="house-model", custom_llm_provider="", model_group="", spend=0.5)]
    lines(tmp_path / "logs.jsonl", mixed)
    golden("import", shown(run("import", "litellm", "logs.jsonl", code=1).stdout))
    golden("import-again", shown(run("import", "litellm", "logs.jsonl", "spend-logs.json", code=1).stdout))
    golden("import-spend", shown(run("spend", "--by", "tenant").stdout))


def test_reports_say_that_they_are_in_no_total(run: Run) -> None:
    golden("import-report", shown(run("import", "openai-usage", "openai-usage.csv").stdout))
    spent = json.loads(run("spend", "--json").stdout)
    assert spent["total"]["cost"] == "0" and [part["counted"] for part in spent["imported"]] == [False]
    only = json.loads(run("spend", "--json", "--where", "source=imported:openai-usage").stdout)
    assert only["total"]["cost"] == spent["imported"][0]["cost"] != "0"
    assert json.loads(run("calls", "--json").stdout)["rows"] == []
    assert len(json.loads(run("calls", "--json", "--where", "source=imported:openai-usage").stdout)["rows"]) == 1


def test_rows_of_the_same_time_from_elsewhere_are_pointed_at(run: Run) -> None:
    run("import", "litellm", "spend-logs.json")
    assert "3 rows of litellm" in run("import", "jsonl", "own.jsonl").stdout


def test_a_folder_is_all_its_files_and_labels_can_be_given(run: Run) -> None:
    document = json.loads(
        run("import", "claude-code", "projects", "--label", "tenant=acme", "--rename", "project=flow", "--json").stdout
    )
    assert {row["outcome"]: row["records"] for row in document["rows"]} == {"row": 2, "duplicate": 4, "no call": 1}
    assert (document["records"], document["source"], document["labels"]) == (7, "imported:claude-code", {"tenant": "acme"})
    (line,) = json.loads(run("spend", "--by", "tenant,flow", "--json").stdout)["rows"]
    assert (line["tenant"], line["flow"]) == ("acme", "shop")


def test_a_bar_moves_on_stderr_while_somebody_watches(tmp_path: Path, book: Path) -> None:
    lines(tmp_path / "x.jsonl", [samples.litellm(n) for n in range(2000)])
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / book.name).write_bytes(book.read_bytes())
    mine, theirs = pty.openpty()
    words = [sys.executable, "-m", "bursar", "import", "litellm", "x.jsonl", "--ledger", "ledger", "--json"]
    child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(mine, 65536):
            seen += piece
    except OSError:  # Linux says EIO where others say end of file
        pass
    os.close(mine)
    assert child.stdout is not None and json.loads(child.stdout.read())["records"] == 2000
    assert child.wait(60) == 0 and re.search(rb"records.*%", seen)


@pytest.mark.parametrize(("words", "told"), [
    (["litellm", "nothing.json"], "no such file"), (["nonsense", "spans.jsonl"], "is not one of"), (["litellm"], "Missing argument"),
    (["otlp", "empty"], "has no file that ends with"), (["jsonl", "own.jsonl", "--label", "tenant"], "is not"),
    (["jsonl", "own.jsonl", "--label", "operation=weird"], "operation is one of"),
])  # fmt: skip
def test_what_is_wrong_is_one_message_and_exit_code_2(run: Run, tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    assert told in run("import", *words, code=2).stderr


def test_every_sample_imports_and_the_ledger_adds_up(run: Run) -> None:
    for form, file in (("litellm", "spend-logs.json"), ("otlp", "spans.jsonl"), ("langfuse", "trace.json"), ("claude-code", "projects"),
                       ("openai-usage", "openai-usage.csv"), ("jsonl", "own.jsonl")):  # fmt: skip
        assert json.loads(run("import", form, file, "--json").stdout)["rows"][0]["records"] > 0
    assert "all proofs hold" in run("check").stdout
    listed = {row["source"] for row in json.loads(run("spend", "--by", "source", "--json").stdout)["rows"]}
    assert listed == {"imported:litellm", "imported:otlp", "imported:langfuse", "imported:claude-code", "imported:jsonl"}
