"""Policy fragments: a team's own file adds limits and alarms within its scope, and can loosen nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.domain.policy import Policy
from bursar.surfaces import settings, wiring

MAIN = """include = ["teams/*.toml"]

[guard.flow.refund]
tool_calls_max = 15
cost_max = "$2"

[[budget]]
scope = "all"
limit = "$900"

[channels.desk]
url = "https://desk.example/hook"

[[alarm]]
metric = "cost"
threshold = "$100"
"""
SUPPORT = """scope = {feature = "support"}

[[budget]]
scope = "tenant"
limit = "$20"
window = "day"

[[budget]]
scope = {feature = "*", user = "*"}
limit = "100 calls"

[[alarm]]
metric = "cost"
name = "support"
per = "tenant"
threshold = "$5"
channels = ["desk"]
"""


def written(folder: Path, main: str = MAIN, **parts: str) -> Path:
    (folder / "teams").mkdir(exist_ok=True)
    for name, text in parts.items():
        (folder / "teams" / f"{name}.toml").write_text(text)
    path = folder / "bursar.toml"
    path.write_text(main)
    return path


def load(folder: Path, main: str = MAIN, **parts: str) -> Policy:
    return settings.load(written(folder, main, **parts))[0]


def test_what_a_fragment_says_holds_within_its_scope(tmp_path):
    """A budget of each tenant there becomes one of each tenant in that feature; the policy's own stays as it was."""
    policy = load(tmp_path, support=SUPPORT)
    assert [budget.scope for budget in policy.budget] == [
        "all", {"tenant": "*", "feature": "support"}, {"feature": "support", "user": "*"},
    ]  # fmt: skip
    assert [alarm.per for alarm in policy.alarm] == ["", {"tenant": "*", "feature": "support"}]
    assert [rule.name for rule in wiring.budget_rules(policy)][:2] == ["all/month", "tenant=*,feature=support/day"]


def test_a_fragment_lowers_the_limits_of_its_flow(tmp_path):
    """What it does not say stays."""
    policy = load(tmp_path, refund='scope = {flow = "refund"}\n[guard]\ntool_calls_max = 8\nturns_max = 30\n')
    flow = policy.guard.flow["refund"]
    assert (flow.tool_calls_max, flow.turns_max, flow.cost_max) == (8, 30, "$2")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[budget]]\nscope = \"tenant\"\nlimit = \"$5\"\n", 1, ["scope"]),
        ("scope = {}\n", 1, ["scope is empty"]),
        ('scope = {feature = "*"}\n', 1, ["one value"]),
        ('scope = {feature = "a"}\n\n[[budget]]\nscope = {feature = "b"}\nlimit = "$5"\n', 3, ["feature = 'b'", "outside"]),
        ('scope = {feature = "a"}\n[[alarm]]\nmetric = "cost"\nper = {feature = "b"}\nthreshold = "$5"\n', 2, ["outside"]),
        ('scope = {feature = "a"}\n[[route]]\ntier = "cheap"\n', 2, ["route", "scope, budget, alarm, guard"]),
        ('scope = {feature = "a"}\n[providers.openai]\nkey = "sk"\n', 2, ["providers"]),
        ('scope = {feature = "a"}\n[guard]\nturns_max = 5\n', 2, ["flow"]),
        ('scope = {flow = "refund"}\n[guard]\ntool_calls_max = 16\n', 3, ["16", "15", "lower"]),
        ('scope = {flow = "refund"}\n[guard]\ncost_max = "$2.01"\n', 3, ["$2.01", "$2"]),
        ('scope = {flow = "refund"}\n[guard]\nmode = "warn"\n', 3, ["warn"]),
        ('scope = {flow = "refund"}\n[guard]\nturns_max = -1\n', 3, ["turns_max"]),
        ('scope = {feature = "a"}\n\n\n[[budget]]\nscope = "tennant"\nlimit = "$5"\n', 4, ["tennant", "tenant"]),
        ('scope = {tenant = "a"}\n[[budget]]\nname = "x"\nscope = "all"\nlimit = "$5"\n[[budget]]\nname = "x"\nscope = "all"\nwindow = "day"\nlimit = "$6"\n',
         6, ["two budgets"]),
        ('scope = {feature = "a"}\n[[alarm]]\nmetric = "cost"\nthreshold = "$5"\nchannels = ["pager"]\n', 2, ["pager"]),
    ],
)  # fmt: skip
def test_a_fragment_that_reaches_further_is_refused_with_its_own_file_and_line(tmp_path, text, line, words):
    """Nothing of it is used, nor of the policy that includes it."""
    path = written(tmp_path, bad=text)
    with pytest.raises(settings.BadPolicy) as refused:
        settings.load(path)
    assert f"teams/bad.toml:{line}:" in str(refused.value), refused.value
    for word in words:
        assert word in str(refused.value), refused.value


def test_a_file_that_is_named_must_be_there_and_a_pattern_may_match_none(tmp_path):
    assert load(tmp_path).budget[0].limit == "$900"
    with pytest.raises(settings.BadPolicy, match=r"bursar.toml:1: include: there is no file 'support.toml'"):
        load(tmp_path, 'include = ["support.toml"]\n')


def test_a_changed_fragment_changes_the_policys_hash_and_stamp(tmp_path):
    """Rows say under which policy they were made, and the clockwork sees that it is another."""
    path = written(tmp_path, support=SUPPORT)
    before = settings.load(path)[1], settings.stamp(path)
    (tmp_path / "teams" / "support.toml").write_text(SUPPORT.replace("$20", "$19.5"))
    after = settings.load(path)[1], settings.stamp(path)
    assert before[0] != after[0] and before[1] != after[1]
    (tmp_path / "teams" / "other.toml").write_text('scope = {feature = "other"}\n')
    assert settings.load(path)[1] != after[0] and settings.stamp(path) != after[1]
