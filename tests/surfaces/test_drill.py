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
from bursar.stores.schema import Place, connect
from bursar.surfaces import cli_drill, drill, settings
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
    assert line(report, "depth").call == 28
    assert line(report, "ignoring").shown.startswith("402: ")
    for name in ("each tenant's day", "company"):
        assert line(report, "spending", name).verdict == "tripped" and line(report, "spending", name).over == "$0.00"
    assert "a hold 5" in line(report, "fallback").note and "ceiling $20" in line(report, "fallback").note
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
    connection = connect(Place.at(tmp_path / "ledger"), busy_ms=1_000)
    connection.execute("UPDATE drills SET report = replace(report, '\"over\":\"$0.00\"', '\"over\":\"$0.01\"')")
    connection.close()
    changed = run("--last")
    assert changed.exit_code == 1 and "CHANGED" in changed.stdout


def test_with_send_the_policys_own_channel_hears_it() -> None:
    """Otherwise a stand-in does, and nobody is woken."""
    with Receiver() as bell:
        policy = GUARDED.replace("https://hooks.example.com/x", bell.url)
        policy = policy.replace('kind = "webhook"', 'kind = "webhook"\nprivate = true')
        assert held(policy).passed and not bell.got
        report = held(policy, send=True)
        assert report.passed and {got.json["kind"] for got in bell.got} == {"test", "handoff"}
