"""The fire drill: passes where guards trip, fails where they do not, and cannot be forged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bell_rig import Receiver
from click.testing import CliRunner, Result

from bursar import admission
from bursar.rules import budget, guard
from bursar.stores import drills
from bursar.stores.reader import Reader
from bursar.stores.schema import opened
from bursar.surfaces import audit_guard, cli_drill, drill, settings
from bursar.surfaces.cli import main

GUARDED = """
[guard]
repeats_max = 6
tool_calls_max = 25
wind_down = true
reply = "A colleague goes on from here."
handoff = "desk"

[channels.desk]
url = "https://hooks.example.com/x"
kind = "webhook"

[[budget]]
name = "each tenant's day"
scope = "tenant"
limit = "$50"
window = "day"

[[budget]]
name = "company"
scope = "all"
limit = "$2500"
window = "month"

[[fallback]]
from = "claude-haiku-4-5"
to = "claude-opus-4-5"
on = ["5xx"]
ceiling = "$20"
"""


def held(policy: str, **more: Any) -> drill.Report:
    return drill.Drill(settings.parse(policy), "abc", **more).run(1_790_000_000_000_000)


def line(report: drill.Report, what: str, name: str = "") -> drill.Line:
    return next(line for line in report.lines if line.what == what and (not name or line.name == name))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def go(*words: str, policy: str | None = None) -> Result:
        if policy is not None:
            Path("bursar.toml").write_text(policy)
        return CliRunner().invoke(main, ["drill", *words, "--ledger", str(tmp_path / "ledger")])

    return go


def test_every_guard_of_a_good_policy_trips_where_it_should() -> None:
    """The loop at its limit and one turn to end in; budgets of any size without overshoot, sixteen callers at once."""
    report = held(GUARDED)
    assert report.passed, report
    assert (line(report, "runaway").verdict, line(report, "runaway").call) == ("tripped", 8)
    assert line(report, "runaway").shown == "A colleague goes on from here."
    assert line(report, "runaway").note == "repeats_max"
    assert line(report, "depth").call == 28
    assert line(report, "ignoring").shown.startswith("402: ")
    for name in ("each tenant's day", "company"):
        assert line(report, "spending", name).verdict == "tripped" and line(report, "spending", name).over == "$0.00"
    assert "a hold 5" in line(report, "fallback").note and "ceiling $20 held" in line(report, "fallback").note
    assert line(report, "flaky tool").verdict == "tripped"
    assert line(report, "hand-off").verdict == "tripped" and line(report, "hand-off").seconds < 5
    assert line(report, "channel", "desk").verdict == "tripped"
    assert report.seconds < 30


def test_an_empty_policy_fails_and_what_to_paste_makes_it_pass(run: Any) -> None:
    """The lines are those of the report."""
    first = run("--json", policy="")
    found = json.loads(first.stdout)
    assert first.exit_code == 1 and not found["passed"]
    shown = run().stdout
    assert max(map(len, shown.splitlines())) <= 80 and "repeats_max = 6" in shown
    report = drill.Report(0, "", False, tuple(drill.Line(**one) for one in found["rows"]), 0)
    again = run(policy=cli_drill.pasted(report))
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("planted", ["no loop is judged", "no budget is held"])
def test_a_broken_guard_fails_the_drill(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the drill would prove nothing."""
    if planted == "no loop is judged":
        monkeypatch.setattr(guard, "judge", lambda *_: (None, None, False))
    else:
        monkeypatch.setattr(admission.budget, "charges", lambda *_: ())
        assert admission.budget is budget
    report = held(GUARDED)
    assert not report.passed and any(one.verdict == "failed" for one in report.lines)


def test_a_drill_is_kept_signed_and_a_changed_report_is_told(run: Any, tmp_path: Path) -> None:
    """With the policy's hash and the time; the secret is its owner's alone."""
    assert run("--last", policy=GUARDED).exit_code == 1
    assert run().exit_code == 0
    kept = json.loads(run("--last", "--json").stdout)
    assert kept["passed"] and kept["signature_good"] and kept["policy_in_force"]
    assert os.stat(tmp_path / "ledger" / "drill.key").st_mode & 0o777 == 0o600
    assert run("--last", policy=GUARDED + "\n# changed\n").exit_code == 1, "the policy in force is another one"
    Path("bursar.toml").write_text(GUARDED)
    path = tmp_path / "ledger"
    for change in ("report = replace(report, '\"over\":\"$0.00\"', '\"over\":\"$0.01\"')", "ts = ts + 1", "policy = 'other'"):
        with opened(path) as connection:
            connection.execute("BEGIN")
            connection.execute(f"UPDATE drills SET {change}")
            assert [(kept.good, kept.passed) for kept in drills.newest(connection)] == [(False, False)], change
            assert drills.last_passed(connection) is None
            connection.execute("ROLLBACK")
    with opened(path) as connection:
        connection.execute("UPDATE drills SET ts = ts + 1")
    changed = run("--last")
    assert changed.exit_code == 1 and "CHANGED" in changed.stdout
    (path / "drill.key").unlink()
    assert run("--last").exit_code == 1 and not (path / "drill.key").exists(), "asking makes no new secret"


def test_a_failed_drill_cannot_be_turned_into_a_passed_one(run: Any, tmp_path: Path) -> None:
    """By a column that audit, the page and the alarm would read."""
    assert run(policy="").exit_code == 1
    with opened(tmp_path / "ledger") as connection:
        connection.execute("UPDATE drills SET passed = 1")
    with Reader(tmp_path / "ledger") as reader:
        found = audit_guard.last_drill(reader)
        assert reader.sql("SELECT passed, signed FROM drills") == [{"passed": False, "signed": False}]
    assert found is not None and not found.passed
    assert run("--last").exit_code == 1


GUARD = '[guard]\nmode = "on"\n'
KEY = '[[key]]\nname = "acme"\nhash = "000000000000:' + "0" * 64 + '"\ntenant = "acme"\n'

# policy -> (whether it passes, what each budget's line must be)
BUDGETS: dict[str, tuple[str, bool, dict[str, str]]] = {
    "one inside another": ('[[budget]]\nname = "t"\nscope = "tenant"\nlimit = "$50"\n[[budget]]\nname = "a"\nscope = "all"\nlimit = "$20"\n',
                           True, {"t": "tripped", "a": "tripped"}),
    "ten thousand calls": ('[[budget]]\nname = "c"\nscope = "tenant"\nlimit = "10000 calls"\n', True, {"c": "tripped"}),
    "a thousand tool calls": ('[[budget]]\nname = "c"\nscope = "tenant"\nlimit = "1000 tool_calls"\n', True, {"c": "tripped"}),
    "a declared key's": (KEY + '[[budget]]\nname = "k"\nscope = {key = "acme"}\nlimit = "$5"\n', True, {"k": "tripped"}),
    "each call alone bounds nobody": ('[[budget]]\nname = "x"\nscope = "call"\nlimit = "$1"\n', False, {"x": "tripped", "budgets": "missing"}),
    "one that winds down": ('[[budget]]\nname = "w"\nscope = "tenant"\nlimit = "$50"\nladder = {wind_down = "95%"}\n', True, {"w": "tripped"}),
    "another provider's model": ('[[budget]]\nname = "m"\nscope = {model = "claude-opus-4-5"}\nlimit = "$5"\n', True, {"m": "tripped"}),
    "a soft one is no bound": ('[[budget]]\nname = "s"\nscope = "tenant"\nlimit = "$5"\nhard = false\n', False,
                               {"s": "not tried", "budgets": "missing"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_budget_has_tripped_where_its_own_incident_says_so(kind: str) -> None:
    """Of any size, and whatever else is in the policy."""
    text, passes, wanted = BUDGETS[kind]
    report = held(GUARD + text)
    assert report.passed is passes, report.lines
    assert {one.name: one.verdict for one in report.lines if one.what == "spending"} == wanted
    assert all(one.over in ("", "$0.00", "0 calls", "0 tool calls") for one in report.lines)


def test_dollars_of_a_conversation_end_a_runaway_that_no_limit_of_calls_does() -> None:
    """And its own budget is tried too."""
    report = held('[guard]\ncost_max = "$2"\n[[budget]]\nname = "t"\nscope = "tenant"\nlimit = "$50"\n')
    assert report.passed and line(report, "runaway").note == "guard.cost_max"
    assert line(report, "spending", "guard.cost_max").verdict == "tripped" and line(report, "spending", "t").verdict == "tripped"


def test_each_flow_has_lines_of_its_own_and_warnings_are_no_stop() -> None:
    """Limits above the drill's patience are said not to be tried."""
    tenant = '[[budget]]\nscope = "tenant"\nlimit = "$5"\n'
    report = held('[guard]\nrepeats_max = 6\n[guard.flow.support]\ntool_calls_max = 10\nturns_max = 3\n' + tenant)
    assert (line(report, "depth", "support").call, line(report, "turns", "support").call) == (12, 4)
    assert line(held("[guard]\nrepeats_max = 6\ntool_calls_max = 1000\n" + tenant), "depth").verdict == "not tried"
    warned = held('[guard]\nmode = "warn"\nrepeats_max = 6\n' + tenant)
    assert not warned.passed and line(warned, "runaway").verdict == "missing" and 'mode = "on"' in line(warned, "runaway").paste


def test_with_send_the_policys_own_channel_hears_it() -> None:
    """Otherwise a stand-in does, and nobody is woken."""
    with Receiver() as bell:
        policy = GUARDED.replace("https://hooks.example.com/x", bell.url)
        policy = policy.replace('kind = "webhook"', 'kind = "webhook"\nprivate = true')
        assert held(policy).passed and not bell.got
        report = held(policy, send=True)
        assert report.passed and {got.json["kind"] for got in bell.got} == {"test", "handoff"}
        told = next(got.json for got in bell.got if got.json["kind"] == "handoff")
        assert told["title"].startswith("Drill. ") and told["drill"] is True and not told["command"]
    dead = held(policy, send=True)
    assert not dead.passed and line(dead, "hand-off").verdict == "failed" and "refused" in line(dead, "hand-off").note
