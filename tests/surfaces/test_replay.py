"""`bursar replay` on a real ledger: what it says is what then happens, policies side by side, and how it reads."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from bursar.surfaces.cli import main
from bursar.testing import company, player

ROUTES = """
[cache]
exact = true
ttl = "7d"
temperature_max = 1.0
[cache.suites]
pr = "7d"
nightly = "7d"
weekly = "7d"

[tiers]
cheap = ["gpt-5-nano", "claude-haiku-4-5"]
standard = ["gpt-5-mini", "claude-sonnet-4-5"]

[[route]]
when = {feature = "evals"}
tier = "cheap"
mode = "on"
"""
LIMITS = """
[guard]
tool_calls_max = 8

[[budget]]
scope = {feature = "support"}
limit = "$1"
window = "day"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dear month's first half, and two policies."""
    place = tmp_path_factory.mktemp("replay")
    player.simulate(plan(), place / "ledger", policy=company.POLICY)
    (place / "routes.toml").write_text(ROUTES, "utf-8")
    (place / "limits.toml").write_text(LIMITS, "utf-8")
    return place


def plan() -> list[player.Planned]:
    calls = company.plan(0)
    return [call for call in calls if 1_790_812_800_000_000 <= call.ts_us < 1_792_108_800_000_000]


def run(folder: Path, *words: str) -> str:
    return CliRunner().invoke(main, ["replay", *words, "--ledger", str(folder / "ledger")], catch_exceptions=False).stdout


def test_what_a_replay_says_of_cache_and_tiers_comes_true(folder: Path, tmp_path: Path) -> None:
    """The same calls played under the policy cost what the replay said, within a hundredth, and within its interval."""
    (said,) = json.loads(run(folder, str(folder / "routes.toml"), "--json"))["rows"]
    real = player.simulate(plan(), tmp_path / "on", policy=company.POLICY + ROUTES).invoice.total()
    assert Decimal(said["low"]) <= real <= Decimal(said["high"])
    assert abs(Decimal(said["spent"]) - real) <= real / 100
    assert {part["name"] for part in said["parts"]} == {"cache", "tiers"} and Decimal(said["recorded"]) > real


def test_policies_stand_side_by_side_as_people_read_them(folder: Path) -> None:
    """With who is stopped and what each figure rests on."""
    told = run(folder, str(folder / "limits.toml"), str(folder / "routes.toml"))
    golden = Path(__file__).parent.parent / "golden" / "replay.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        golden.write_text(told, "utf-8")
    assert told == golden.read_text("utf-8"), "look at it, then update tests/golden/replay.txt"
    assert max(map(len, told.splitlines())) <= 80


def test_a_policy_that_is_none_is_a_usage_error(folder: Path) -> None:
    """With file and line."""
    bad = folder / "bad.toml"
    bad.write_text('[[route]]\ntier = "cheap"\n', "utf-8")
    ran = CliRunner().invoke(main, ["replay", str(bad), "--ledger", str(folder / "ledger")])
    assert ran.exit_code == 2 and 'write [tiers] cheap = "MODEL"' in ran.output
