"""The command as people and programs meet it: one message for what is wrong, exact figures, tables that stay as they are."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import types
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger_rows
from bursar.domain.entry import COLUMNS, Entry
from bursar.domain.money import PICO, plain
from bursar.domain.usage import Tokens
from bursar.surfaces import cli_spend, keys
from bursar.surfaces.cli import COMMANDS, main
from bursar.surfaces.periods import iso
from commands import Run

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
NOW = ledger_rows.END


@pytest.fixture(scope="module")
def past() -> list[Entry]:
    return ledger_rows.month()


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, past: list[Entry]) -> Path:
    """Two thousand tries: several tenants, retries, refused, unpriced, corrected, and a sum beyond 64 bits of pico-dollars."""
    folder = tmp_path_factory.mktemp("book") / "ledger"
    ledger_rows.write(folder, past)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "ledger"
    ledger_rows.write(folder, ledger_rows.month(count=300, huge=False))
    return folder


def told(ran: Result) -> dict:
    return json.loads(ran.stdout)


def cost(rows: list[Entry]) -> int:
    return sum(row.cost or 0 for row in rows)


def sums(document: dict) -> int:
    return int(sum(Decimal(row["cost"]) for row in document["rows"]) * PICO)


# -- the shell's side --------------------------------------------------------------------------------------------------


def test_help_lists_what_there_is_and_loads_nothing_heavy() -> None:
    """A help text that takes a second is not read: no query engine, no table printer, no ledger is imported for it."""
    code = (
        "import sys; from bursar.surfaces.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'duckdb', 'sqlglot', 'rich', 'apsw', 'msgspec', 'genai_prices', 'bursar.pipeline', 'asyncio'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=_env(), capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert all(re.search(rf"^  {name} ", ran.stdout, re.MULTILINE) for name in COMMANDS)


def test_the_gateways_process_carries_no_query_engine_and_no_table_printer() -> None:
    """`bursar serve` stays up for months: what only other commands need must not sit in its memory."""
    code = (
        "import sys; import bursar.surfaces.cli_serve, bursar.surfaces.gateway;"
        "heavy = {'duckdb', 'sqlglot', 'rich', 'genai_prices'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=_env(), capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_listed_exists_and_explains_itself(run: Run, name: str) -> None:
    assert f"bursar {name}" in run(name, "--help").stdout


@pytest.mark.parametrize("name", ["ledger", "nonsense"])
def test_commands_that_do_not_exist_are_not_listed_and_end_with_2(run: Run, name: str) -> None:
    assert "No such command" in run(name, code=2).stderr
    assert name not in COMMANDS


def test_the_version_is_the_packages(run: Run) -> None:
    assert re.fullmatch(r"bursar \d+\.\d+\.\d+\S*\n", run("--version").stdout)


def test_it_runs_as_a_module_too(small: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bursar", "spend", "--json", "--ledger", str(small)],
        env=_env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["total"]["cost"] == plain(cost(ledger_rows.month(count=300, huge=False)))


def _env(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "BURSAR_LEDGER", "BURSAR_CONFIG")}
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": paths, "TERM": "xterm-256color", **more}


def _in_terminal(words: list[str], **more: str) -> bytes:
    """What a terminal gets to see of a command."""
    mine, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-m", "bursar", *words], stdout=theirs, stderr=theirs, env=_env(**more))
    os.close(theirs)
    seen = b""
    while select.select([mine], [], [], 60)[0]:
        try:
            piece = os.read(mine, 65536)
        except OSError:  # Linux says EIO where others say end of file
            break
        if not piece:
            break
        seen += piece
    os.close(mine)
    assert child.wait(60) == 0, seen
    return seen


def test_colours_are_for_terminals_and_not_where_they_are_unwelcome(small: Path) -> None:
    words = ["spend", "--by", "tenant", "--ledger", str(small)]
    assert b"\x1b[" in _in_terminal(words)
    # Bold is no colour: what NO_COLOR forbids are the codes 30 to 49 and 90 to 107.
    assert not re.search(rb"\x1b\[(?:\d+;)*(?:[34]\d|9[0-7]|10[0-7])(?:;\d+)*m", _in_terminal(words, NO_COLOR="1"))


def test_piped_output_has_no_escapes_and_eighty_columns(run: Run, small: Path) -> None:
    for words in (["spend"], ["calls"], ["spend", "--by", "tenant,feature,model", "--since", "7d"]):
        text = run(*words, "--ledger", small).stdout
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_the_width_can_be_said(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert re.search(r"time \(UTC\) +status +operation +cause +tenant", run("calls", "--ledger", small).stdout)


# -- golden files: rewritten with BURSAR_GOLDEN=write ------------------------------------------------------------------

SHOWN = {
    "spend": ["spend"],
    "spend-by-two": ["spend", "--by", "tenant,operation", "--top", "5"],
    "spend-before": ["spend", "--by", "feature", "--since", "last week"],
    "spend-days": ["spend", "--grain", "day", "--since", "7d"],
    "spend-label": ["spend", "--by", "team"],
    "spend-json": ["spend", "--by", "tenant", "--since", "7d", "--top", "2", "--json"],
    "calls": ["calls", "--limit", "6"],
    "calls-json": ["calls", "--limit", "1", "--json"],
    "check": ["check"],
    "spend-help": ["spend", "--help"],
}


@pytest.mark.parametrize("name", list(SHOWN))
def test_output_is_as_it_was(run: Run, small: Path, name: str) -> None:
    """`BURSAR_GOLDEN=write pytest tests/surfaces/test_cli.py` rewrites the files; the diff is then for a person to read."""
    words = SHOWN[name]
    text = run(*words, *([] if "--help" in words else ["--ledger", small])).stdout.replace(str(small), "LEDGER")
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


# -- spend -------------------------------------------------------------------------------------------------------------


def test_the_total_is_exact_beyond_sixty_four_bits(run: Run, book: Path, past: list[Entry]) -> None:
    assert cost(past) > 2**63
    assert told(run("spend", "--json", "--ledger", book))["total"]["cost"] == plain(cost(past))


@pytest.mark.parametrize("by", ["tenant", "feature", "operation", "cause", "model_served", "conversation", "status", "price_status"])
def test_spend_by_a_column_is_what_the_rows_say(run: Run, book: Path, past: list[Entry], by: str) -> None:
    document = told(run("spend", "--by", by, "--json", "--ledger", book))
    for row in document["rows"]:
        mine = [e for e in past if getattr(e, by) == (row[by] or "")]
        assert row["cost"] == plain(cost(mine))
        assert row["unpriced"] == sum(e.price_status == "unpriced" for e in mine)
        assert row["estimated_cost"] == plain(cost([e for e in mine if e.price_status == "estimated"]))
        assert row["tokens"] == sum(
            sum(getattr(e, b) or 0 for b in ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"))
            for e in mine
        )
    assert len(document["rows"]) == len({getattr(e, by) for e in past})
    assert sums(document) == cost(past)


def test_spend_by_a_free_label_with_or_without_its_prefix(run: Run, book: Path, past: list[Entry]) -> None:
    wanted: dict[str | None, int] = {}
    for e in past:
        team = json.loads(e.labels).get("team")
        wanted[team] = wanted.get(team, 0) + (e.cost or 0)
    for name in ("team", "label:team"):
        document = told(run("spend", "--by", name, "--json", "--ledger", book))
        assert {row[name]: row["cost"] for row in document["rows"]} == {k: plain(v) for k, v in wanted.items()}


def test_hostile_label_text_never_reaches_the_terminal_as_it_is(run: Run, book: Path) -> None:
    for words in (
        ["spend", "--by", "team"],
        ["calls", "--where", f"team={ledger_rows.HOSTILE}"],
        ["spend", "--where", "a\x1b[1m=b\r"],
    ):
        text = run(*words, "--ledger", book).stdout
        assert not set("\x1b\r\u202e") & set(text)
    assert "\\x1b[31mred" in run("spend", "--by", "team", "--ledger", book).stdout


def test_nobodys_spend_has_a_line_of_its_own(run: Run, book: Path, past: list[Entry]) -> None:
    nobody = [e for e in past if not e.tenant]
    row = next(r for r in told(run("spend", "--by", "tenant", "--json", "--ledger", book))["rows"] if r["tenant"] is None)
    assert (row["cost"], row["other"]) == (plain(cost(nobody)), False)
    assert "(unattributed)" in run("spend", "--by", "tenant", "--ledger", book).stdout
    only = told(run("spend", "--where", "tenant=", "--json", "--ledger", book))
    assert only["total"]["cost"] == plain(cost(nobody))


def test_top_sums_the_rest_in_a_line_that_no_label_can_imitate(run: Run, book: Path, past: list[Entry]) -> None:
    document = told(run("spend", "--by", "conversation", "--top", "3", "--json", "--ledger", book))
    assert [row["other"] for row in document["rows"]] == [False, False, False, True]
    assert sums(document) == cost(past)
    assert document["total"]["cost"] == plain(cost(past))


def test_a_table_has_so_many_lines_that_it_can_be_read_and_json_has_all(
    run: Run, book: Path, past: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_spend, "LINES", 4)
    every = told(run("spend", "--by", "conversation", "--json", "--ledger", book))["rows"]
    shown = run("spend", "--by", "conversation", "--ledger", book).stdout
    assert len(every) == len({e.conversation for e in past}) and f"the dearest 4 of {len(every)} lines" in shown and "(other)" in shown
    assert "the dearest" not in run("spend", "--by", "operation", "--top", "2", "--ledger", book).stdout


def test_unpriced_calls_stand_beside_the_total_and_estimated_ones_are_told(run: Run, book: Path, past: list[Entry]) -> None:
    unpriced = sum(e.price_status == "unpriced" for e in past)
    estimated = sum(e.price_status == "estimated" for e in past)
    first = run("spend", "--ledger", book).stdout.splitlines()[0]
    assert f"+ {unpriced} unpriced calls" in first
    assert f"estimated ({estimated} calls)" in first


def test_filters_narrow_and_go_together(run: Run, book: Path, past: list[Entry]) -> None:
    words = ["spend", "--json", "--ledger", book, "--where", "tenant=acme", "--where", "label:team=red", "--where", "try=1"]
    mine = [e for e in past if e.tenant == "acme" and json.loads(e.labels).get("team") == "red" and e.try_no == 1]
    assert mine and told(run(*words))["total"]["cost"] == plain(cost(mine))


@pytest.mark.parametrize("name", ["x' OR 1=1 --", 'x"); DROP VIEW calls; --', "label:a'b", "$v0", "tenant\x00", "?"])
def test_hostile_names_and_values_are_only_names_and_values(run: Run, book: Path, name: str) -> None:
    for command in ("spend", "calls"):
        document = told(run(command, "--json", "--ledger", book, "--where", f"{name}={name}"))
        assert [r for r in document["rows"] if r.get("call")] == []
    assert told(run("spend", "--by", name.replace(",", ""), "--json", "--ledger", book))["total"]["tries"] > 0


def test_a_period_is_half_open_and_compared_with_the_one_before(run: Run, book: Path, past: list[Entry]) -> None:
    week = 7 * ledger_rows.DAY
    document = told(run("spend", "--by", "tenant", "--since", "7d", "--json", "--ledger", book))
    now, before = ([e for e in past if NOW - n * week <= e.ts < NOW - (n - 1) * week] for n in (1, 2))
    assert document["total"]["cost"] == plain(cost(now))
    assert document["before"]["cost"] == plain(cost(before))
    assert document["before"]["since"] == iso(NOW - 2 * week)
    assert sum(Decimal(r["before"]["cost"]) for r in document["rows"]) * PICO == cost(before)
    exact = past[100]
    edge = told(run("calls", "--since", iso(exact.ts), "--until", iso(exact.ts + 1), "--json", "--ledger", book))
    assert [row["id"] for row in edge["rows"]] == [exact.id]
    assert told(run("calls", "--until", iso(exact.ts), "--limit", "1", "--json", "--ledger", book))["rows"][0]["id"] == past[99].id


def test_a_filter_narrows_the_period_before_as_well(run: Run, book: Path, past: list[Entry]) -> None:
    week = 7 * ledger_rows.DAY
    document = told(run("spend", "--by", "feature", "--since", "7d", "--where", "tenant=globex", "--json", "--ledger", book))
    before = [e for e in past if e.tenant == "globex" and NOW - 2 * week <= e.ts < NOW - week]
    assert document["before"]["cost"] == plain(cost(before))


def test_a_grain_gives_a_line_per_period_in_the_order_of_time(run: Run, book: Path, past: list[Entry]) -> None:
    document = told(run("spend", "--grain", "day", "--by", "operation", "--json", "--ledger", book))
    days = [row["period"] for row in document["rows"]]
    assert days == sorted(days)
    assert sums(document) == cost(past)


labels = st.fixed_dictionaries({
    "tenant": st.sampled_from(["", "a", "TOTAL", "(other)", "x'y"]),
    "feature": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4),
    "extra": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=3),
                             st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=3), max_size=2),
    "tokens": st.integers(0, 10**12),
    "model": st.sampled_from(["gpt-5", "gpt-5-mini", None]),
})  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(labels, min_size=1, max_size=8), st.sampled_from(["tenant", "feature", "tenant,feature", "label:k"]), st.integers(1, 5)
)
def test_whatever_the_labels_the_lines_foot_to_the_total(
    run: Run, tmp_path_factory: pytest.TempPathFactory, calls: list[dict], by: str, top: int
) -> None:
    folder = tmp_path_factory.mktemp("any") / "ledger"
    rows = [
        ledger_rows.entry(
            n, NOW - n, Tokens(input=c["tokens"]), c["model"], tenant=c["tenant"], feature=c["feature"], labels=json.dumps(c["extra"])
        )
        for n, c in enumerate(calls)
    ]
    ledger_rows.write(folder, rows)
    document = told(run("spend", "--by", by, "--top", top, "--json", "--ledger", folder))
    assert sums(document) == cost(rows)
    assert sum(row["tries"] for row in document["rows"]) == len(rows)
    run("spend", "--by", by, "--ledger", folder)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_calls_are_newest_first_with_every_column(run: Run, book: Path, past: list[Entry]) -> None:
    rows = told(run("calls", "--limit", "50", "--json", "--ledger", book))["rows"]
    newest = sorted(past, key=lambda e: (e.ts, e.id), reverse=True)[:50]
    assert [row["id"] for row in rows] == [e.id for e in newest]
    assert set(rows[0]) == {"try" if c == "try_no" else c for c in COLUMNS}
    for row, e in zip(rows, newest, strict=True):
        assert row["cost"] == (None if e.cost is None else plain(e.cost))
        assert row["ts"] == iso(e.ts)
        assert row["labels"] == json.loads(e.labels)


def test_what_a_try_did_not_cost_and_what_nobody_knows_look_different(run: Run, book: Path, past: list[Entry]) -> None:
    unpriced = next(e for e in past if e.price_status == "unpriced")
    refused = next(e for e in past if e.status == "refused")
    assert "unpriced" in run("calls", "--where", f"call={unpriced.call}", "--ledger", book).stdout
    text = run("calls", "--where", f"call={refused.call}", "--ledger", book).stdout
    assert "$0.0000" in text and "budget_exceeded" in text


# -- check, and what is wrong ------------------------------------------------------------------------------------------


def test_check_ends_with_1_on_a_finding_and_says_what_now(run: Run, tmp_path: Path) -> None:
    rows = ledger_rows.month(count=20, huge=False)
    wrong = rows[3]._replace(cost=(rows[3].cost or 0) + 1)
    ledger_rows.write(tmp_path / "ledger", [*rows[:3], wrong, *rows[4:]])
    document = told(run("check", "--json", "--ledger", tmp_path / "ledger", code=1))
    assert document["findings"] == len(document["rows"]) >= 1
    assert all(row["code"] and row["reason"] and row["remedy"] for row in document["rows"])
    assert "→" in run("check", "--ledger", tmp_path / "ledger", code=1).stdout


def test_check_finds_a_policy_that_cannot_be_used(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "bursar.toml").write_text("[[budget]]\nscope = 'tenant'\nlimit = 'plenty'\n")
    assert "plenty" in run("check", "--ledger", small, code=1).stdout
    (tmp_path / "bursar.toml").write_text("[providers.openai]\nkey = 'env:NOT_SET_ANYWHERE'\n")
    assert "NOT_SET_ANYWHERE" in run("check", "--ledger", small, code=1).stdout


@pytest.mark.parametrize(("words", "says"), [
    (["spend", "--since", "soon"], "is not a time"),
    (["spend", "--since", "2026-11-08", "--until", "2026-11-01"], "swap them"),
    (["spend", "--where", "acme"], "not label=value"),
    (["spend", "--where", "http_status=x"], "whole numbers"),
    (["spend", "--by", ","], "names nothing"),
    (["spend", "--by", "tenant,tenant"], "each once"),
    (["spend", "--by", "a,b,c,d,e,f,g"], "at most 6"),
    (["spend", "--top", "0"], "0 is not in the range"),
    (["spend", "--grain", "fortnight"], "fortnight"),
    (["calls", "--limit", "no"], "no"),
    (["spend", "--ledger", "nowhere"], "no ledger at nowhere"),
    (["calls"], "no ledger at"),
    (["keys", "revoke", "nobody"], "no key is named"),
    (["serve", "--port", "99999"], "99999"),
    (["run"], "Missing argument"),
])  # fmt: skip
def test_bad_input_is_one_message_and_exit_code_2(run: Run, small: Path, words: list[str], says: str) -> None:
    more = ["--ledger", small] if words[0] == "spend" and "--ledger" not in words else []
    ran = run(*words, *more, code=2)
    assert says in ran.stderr
    assert ran.stdout == "" and "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["spend", "calls", "check", "keys"])
def test_a_bad_policy_is_one_message_and_exit_code_2_or_a_finding(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "bursar.toml").write_text("[serverr]\n")
    ran = run(command, *(["list"] if command == "keys" else []), code=1 if command == "check" else 2)
    assert "bursar.toml:1" in ran.output and "Traceback" not in ran.output


@pytest.mark.parametrize("command", ["spend", "calls", "check"])
def test_a_file_that_is_no_ledger_is_one_message_and_exit_code_2(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "ledger.db").write_bytes(b"this is not a database, whatever its name says" * 50)
    ran = run(command, "--ledger", tmp_path / "ledger", code=2)
    assert "ledger.db" in ran.stderr and "restore" in ran.stderr
    assert ran.stderr.count("\n") <= 2


def test_a_missing_segment_is_told_and_can_be_read_around(run: Run, tmp_path: Path) -> None:
    from bursar.stores.segments import compact

    folder = tmp_path / "ledger"
    ledger_rows.write(folder, ledger_rows.month(count=60, huge=False))
    compact(folder)
    parquet = sorted((folder / "segments").glob("*.parquet"))
    assert parquet, "the compactor moved nothing: this test is about segments"
    before = told(run("spend", "--json", "--ledger", folder))["total"]
    parquet[0].unlink()
    ran = run("spend", "--ledger", folder, code=2)
    assert parquet[0].name in ran.stderr and "--skip-damaged" in ran.stderr
    after = told(run("spend", "--skip-damaged", "--json", "--ledger", folder))
    assert after["skipped_segments"] == [parquet[0].name]
    assert after["total"]["tries"] < before["tries"]
    assert parquet[0].name in run("calls", "--skip-damaged", "--ledger", folder).stdout
    run("check", "--ledger", folder, code=1)


def test_an_option_that_does_nothing_here_is_told_rather_than_obeyed(run: Run, small: Path) -> None:
    ran = run("check", "--since", "7d", "--where", "tenant=acme", "--ledger", small)
    assert "--since, --where have no effect here" in ran.stderr


def test_a_ledger_is_found_by_option_environment_policy_and_home_in_that_order(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = told(run("spend", "--json", "--ledger", small))["total"]
    (tmp_path / "bursar.toml").write_text(f'[ledger]\npath = "{small}"\n')
    assert told(run("spend", "--json"))["total"] == total
    monkeypatch.setenv("BURSAR_LEDGER", str(tmp_path / "other"))
    run("spend", code=2)
    assert told(run("spend", "--json", "--ledger", small / "ledger.db"))["total"] == total


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_alone_so_that_a_script_can_take_it(run: Run, tmp_path: Path) -> None:
    ran = run("keys", "create", "bot", "--tenant", "acme", "--label", "feature=support", "--model", "gpt-5-mini")
    token = ran.stdout.strip()
    assert re.fullmatch(r"bsr_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert token not in ran.stderr and "only time" in ran.stderr
    ring = keys.KeyRing.load(tmp_path / "home" / "ledger")
    assert ring.find(token.encode()) == keys.Owner("bot", {"feature": "support", "tenant": "acme"}, ("gpt-5-mini",))
    for ran in (run("keys", "list"), run("keys", "list", "--json")):
        assert "bot" in ran.stdout and "acme" in ran.stdout
        assert token.rpartition("_")[2] not in ran.output
    run("keys", "revoke", "bot")
    assert "revoked" in run("keys", "list").stdout
    assert ring.refresh_if_changed() and ring.find(token.encode()) is keys.REVOKED


def test_keys_for_programs_and_their_filters(run: Run) -> None:
    made = told(run("keys", "create", "a", "--tenant", "acme", "--json"))["rows"][0]
    assert made["key"].startswith("bsr_") and made["hash"].startswith(made["id"])
    run("keys", "create", "b", "--tenant", "globex")
    assert [r["name"] for r in told(run("keys", "list", "--where", "tenant=globex", "--json"))["rows"]] == ["b"]
    assert told(run("keys", "revoke", "b", "--json"))["rows"][0]["revoked"]


def test_a_key_that_cannot_be_made_is_told(run: Run) -> None:
    run("keys", "create", "a")
    assert "another name" in run("keys", "create", "a", code=2).stderr
    assert "not label=value" in run("keys", "create", "c", "--label", "x", code=2).stderr
    assert "given twice" in run("keys", "create", "c", "--label", "x=1", "--label", "x=2", code=2).stderr


# -- commands whose work is elsewhere ----------------------------------------------------------------------------------


def test_serve_run_and_demo_hand_over_what_was_asked_and_end_as_their_work_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def stand_in(module: str, name: str, code: int) -> None:
        def work(*args: object, **named: object) -> int:
            seen.append((module, *args, named))
            return code

        made = types.ModuleType(f"bursar.surfaces.{module}")
        made.__dict__.update({"UNUSABLE": 2, "CannotListen": OSError, name: work})
        monkeypatch.setitem(sys.modules, f"bursar.surfaces.{module}", made)

    stand_in("gateway", "serve", 0)
    stand_in("run", "run", 7)
    stand_in("demo", "run", 0)
    run("serve", "--config", "p.toml", "--host", "::1", "--port", "0", "--workers", "3", "--ledger", "L")
    run("run", "--ledger", "L", "--", "python", "-c", "pass", "--json", code=7)
    run("demo", "--seed", "5", "--ledger", "L")
    assert seen == [
        ("gateway", "p.toml", "L", "::1", 0, 3, {}),
        ("run", ["python", "-c", "pass", "--json"], {"config": None, "ledger": "L"}),
        ("demo", "L", {"seed": 5}),
    ]


def test_a_price_of_a_tool_stands_in_nobodys_way(tmp_path):
    """It is in the same list as the prices of models: every command that loads those must know it."""
    from bursar.stores.writer import Ledger

    config, ledger = tmp_path / "bursar.toml", tmp_path / "ledger"
    config.write_text('[[price]]\ntool = "search_*"\ncall = "0.01"\n[[budget]]\nscope = "tenant"\nlimit = "$5"\n')
    Ledger.open(ledger, clock_us=lambda: 1_790_000_000_000_000).close()
    for command in (["check"], ["audit"], ["prices", "gpt-5"], ["replay", str(config)]):
        config_of = [] if command[0] in ("replay", "prices") else ["--config", str(config)]
        result = CliRunner().invoke(main, [*command, *config_of, "--ledger", str(ledger)], env={"BURSAR_CONFIG": str(config)})
        assert result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit)), result.output


def test_check_rebuild_sets_counters_right_from_the_rows(tmp_path):
    """A counter is a cache of the rows: spoil one, and the rows win."""
    import apsw

    from bursar.domain.entry import Charge, Entry, Hold, Settlement
    from bursar.stores.writer import Ledger

    charge = Charge("b@0", "b", "usd", 5_000, 10**9, True)
    row = Entry("c.1", 1_790_000_000_000_000, "c", 1, status="ok", cost=2_000_000, cost_input=2_000_000, cost_cache_read=0,
                cost_cache_write=0, cost_output=0, cost_other=0, legs='[["input",2,1000000000,2000000]]', price_status="priced")  # fmt: skip
    with Ledger.open(tmp_path / "ledger", clock_us=lambda: 1_790_000_000_000_000) as ledger:
        ledger.hold(Hold("c.1", row.ts, 5_000_000, (charge,), row))
        ledger.book(Settlement("c.1", row, (2_000,), (charge,)))
    apsw.Connection(str(tmp_path / "ledger" / "ledger.db")).execute("UPDATE counters SET spent = spent + 7")
    runner = CliRunner()
    broken = runner.invoke(main, ["check", "--ledger", str(tmp_path / "ledger")])
    assert broken.exit_code == 1 and "counter_drift" in broken.output
    mended = runner.invoke(main, ["check", "--rebuild", "--ledger", str(tmp_path / "ledger")])
    assert mended.exit_code == 0 and "1 counters" in mended.output, mended.output
