"""The six questions judged: verdicts at their thresholds, months, and lines that a policy file takes."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.domain.labels import clean
from bursar.domain.policy import AuditPolicy, Budget, Cache, FlowGuard, Guard, Policy
from bursar.rules import audit, audit_control, audit_guard, audit_money
from bursar.rules.audit import ACT, DAY_US, GOOD, WATCH, Line, Scale
from bursar.rules.audit_control import Cached, Move, Used
from bursar.rules.audit_guard import Bounds, Drill, Flow, Stops, Talks
from bursar.rules.audit_money import Fall, Program, Spent
from bursar.surfaces import settings

USD = 10**12
LIMITS = audit.limits(AuditPolicy())
MONTH = Scale(30_000, 1, 1)
NOTHING = Bounds(frozenset(), frozenset(), frozenset(), (), 0, False)
STRANGE = st.text(min_size=1, max_size=30)


def spent(cost: int = 100, *lines: Line, **more: object) -> Spent:
    without = dict.fromkeys(("feature", "tenant", "flow", "conversation"), 0)
    return Spent(cost * USD, without, lines, 0, 0, ())._replace(**more)  # type: ignore[arg-type]


def flow(name: str = "chat", **more: object) -> Flow:
    return Flow(name, "support", 200, 90 * USD, 2 * USD, 20, 10, 3 * USD, 2, 5 * USD)._replace(**more)  # type: ignore[arg-type]


def talks(*flows: Flow, tail: int = 10, history: int = 10) -> Talks:
    return Talks(200, (3, 9, 40), (900, 5_000, 90_000), (USD, 2 * USD, 9 * USD), 100 * USD, tail * USD, 2, history * USD, 100 * USD, flows)


# -- what they share ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "verdict"), [(0, GOOD), (50_000, GOOD), (50_001, WATCH), (100_000, WATCH), (100_001, ACT)])
def test_above_its_threshold_a_share_is_to_act_on_and_from_half_of_it_to_watch(value: int, verdict: str) -> None:
    assert audit.against(value, 100_000) == verdict


@pytest.mark.parametrize("text", ["5", "101%", "-1%", "5.12345%", "", "five per cent"])
def test_a_threshold_that_is_no_share_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(ValueError, match="fallback is"):
        audit.limits(AuditPolicy(fallback=text))
    with pytest.raises(settings.BadPolicy, match=r"bursar.toml:2: \[audit\]: fallback is"):
        settings.parse(f'\n[audit]\nfallback = "{text}"\n')


def test_a_month_is_taken_as_it_was_and_anything_else_as_thirty_days_of_it() -> None:
    for days in (28, 30, 31):
        assert audit.scale(0, days * DAY_US).month(7 * USD) == 7 * USD
    assert audit.scale(0, 10 * DAY_US).month(7 * USD) == 21 * USD
    assert audit.scale(0, 360 * DAY_US).month(120 * USD) == 10 * USD
    # A minute is no basis for a month: it counts as the hour it was in.
    assert audit.scale(0, 60_000_000).month(USD) == audit.scale(0, 3_600_000_000).month(USD) == 720 * USD


@given(STRANGE)
def test_names_of_strangers_survive_the_policy_file(name: str) -> None:
    """Quotes, line breaks, control characters, right-to-left marks."""
    assert tomllib.loads(f"{audit.quote(name)} = {audit.quote(name)}") == {name: name}


def test_a_proposed_limit_is_a_round_number_that_is_not_below_what_it_is_made_from() -> None:
    assert [audit.round_up(n) for n in (0, 9, 99, 101, 1234, 99_950)] == [0, 9, 99, 110, 1300, 100_000]
    assert audit_guard.limit_of(2 * USD) == 3 * USD
    assert audit.dollars(audit_guard.limit_of(0)) == "$0.01"  # never a limit that stops the first call


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_dollars_that_no_feature_names_are_asked_for_by_program() -> None:
    without = {"feature": 40 * USD, "tenant": 0, "flow": 0, "conversation": 0}
    told = audit_money.attribution(spent(without=without, programs=(Program("ab12", "m", 9, 30 * USD),)), LIMITS, MONTH)
    assert told.verdict == ACT and told.stake == 40 * USD
    assert told.commands == ("bursar label --where prefix_hash=ab12 feature=NAME",)
    bare = audit_money.attribution(spent(without=without), LIMITS, MONTH)
    assert settings.parse(bare.paste).labels["feature"]


def test_waste_is_what_nobody_wants_and_not_what_somebody_chose() -> None:
    lines = (Line("eval", "nightly", 50 * USD, 5), Line("tool", "lookup", 4 * USD, 9), Line("loop", "", 3 * USD, 9))
    told = audit_money.attribution(spent(100, *lines, history=20 * USD), LIMITS, MONTH)
    assert told.verdict == WATCH and told.stake == 7 * USD and "7.0% went into" in told.sentence
    assert told.lines == (*lines, Line("history", "", 20 * USD, 0)) and "cause=tool:lookup" in told.commands[0]
    assert audit_money.attribution(spent(200, *lines), LIMITS, MONTH).verdict == GOOD
    assert audit_money.attribution(spent(200, unpriced=1), LIMITS, MONTH).verdict == WATCH


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "verdict"), [(0, GOOD), (25, GOOD), (26, WATCH), (50, WATCH), (51, ACT)])
def test_a_fallback_is_the_bill_above_one_in_twenty_of_a_models_calls(calls: int, verdict: str) -> None:
    falls = [Fall("cheap", 'dear"', "bursar", "5xx", calls, 1000, 15 * USD, USD)] if calls else []
    told = audit_money.fallback(falls, 10_000 * USD, 9_000, LIMITS, MONTH)
    assert told.verdict == verdict and (told.stake == 14 * USD if calls else told.stake == 0)
    if verdict != GOOD:
        assert "15x the price" in told.sentence
        (alarm,) = settings.parse(told.paste).alarm
        assert (alarm.metric, alarm.threshold) == ("fallback_rate", "5%")
        watched = audit_money.fallback(falls, 10_000 * USD, 9_000, LIMITS, MONTH, alarmed=True)
        assert watched.verdict == WATCH and watched.paste == ""


def test_a_fallback_to_a_cheaper_model_is_nothing_to_act_on() -> None:
    told = audit_money.fallback([Fall("dear", "cheap", "bursar", "5xx", 90, 100, USD, 15 * USD)], 20 * USD, 100, LIMITS, MONTH)
    assert told.verdict == GOOD and told.stake == 0
    unknown = audit_money.fallback([Fall("dear", "other", "bursar", "5xx", 90, 100, USD, None)], 20 * USD, 100, LIMITS, MONTH)
    assert unknown.verdict == ACT  # what nobody can price may be dearer


# -- 3 and 6 -----------------------------------------------------------------------------------------------------------


def test_conversations_without_a_limit_get_one_from_their_own_p99() -> None:
    told = audit_guard.growth(talks(flow(), flow("", feature="rare", conversations=3)), NOTHING, LIMITS, MONTH)
    assert told.verdict == WATCH and told.stake == 10 * USD
    (budget,) = settings.parse(told.paste).budget
    assert (budget.scope, budget.window, budget.limit) == ({"flow": "chat", "conversation": "*"}, "conversation", "$3.00")
    assert audit_guard.growth(talks(flow(), tail=21), NOTHING, LIMITS, MONTH).verdict == ACT
    assert audit_guard.growth(talks(flow(), history=41), NOTHING, LIMITS, MONTH).verdict == ACT


def test_what_is_pasted_counts_as_a_limit_once_it_stops() -> None:
    told = audit_guard.growth(talks(flow()), NOTHING, LIMITS, MONTH)
    warns = audit_guard.bounds(settings.parse(told.paste))
    stops = audit_guard.bounds(settings.parse(told.paste.replace("hard = false", "hard = true")))
    assert audit_guard.growth(talks(flow()), warns, LIMITS, MONTH).verdict == WATCH
    bounded = audit_guard.growth(talks(flow()), stops, LIMITS, MONTH)
    assert bounded.verdict == GOOD and bounded.paste == "" and bounded.stake == 0


@pytest.mark.parametrize(
    ("policy", "dollars", "depth"),
    [
        (Policy(), set(), set()),
        (Policy(guard=Guard(cost_max="$5", tool_calls_max=15)), {""}, {""}),
        (Policy(guard=Guard(cost_max="$5", tool_calls_max=15, mode="warn")), set(), set()),
        (Policy(guard=Guard(mode="warn", flow={"chat": FlowGuard(mode="on", tokens_max="2M")})), {"chat"}, {"chat"}),
        (Policy(budget=[Budget(scope="conversation", limit="$5", window="conversation")]), {""}, set()),
        (Policy(budget=[Budget(scope={"flow": "chat", "conversation": "*"}, limit="$5")]), {"chat"}, set()),
        (Policy(budget=[Budget(scope={"tenant": "acme"}, limit="$5", window="conversation")]), {"\0other"}, set()),
        (Policy(budget=[Budget(scope="conversation", limit="$5", window="conversation", hard=False)]), set(), set()),
    ],
)
def test_a_limit_is_one_that_stops(policy: Policy, dollars: set[str], depth: set[str]) -> None:
    held = audit_guard.bounds(policy)
    assert (held.dollars, held.depth) == (dollars, depth)


@given(st.lists(STRANGE, min_size=1, max_size=6, unique=True))
def test_every_line_to_paste_is_one_that_the_policy_takes(names: list[str]) -> None:
    """All answers' lines together, whatever flows and models are called."""
    names = sorted({clean(name) for name in names})  # as a ledger has them
    flows = tuple(flow(name) for name in names)
    pasted = [
        audit_money.attribution(spent(without={"feature": 90 * USD, "tenant": 0}), LIMITS, MONTH).paste,
        audit_money.fallback([Fall("a", names[0], "bursar", "5xx", 90, 100, USD, 1)], USD, 100, LIMITS, MONTH).paste,
        audit_guard.growth(talks(*flows), NOTHING, LIMITS, MONTH).paste,
        audit_guard.guard(NOTHING, Stops(0, 0, 0, 0), None, talks(*flows), 0, LIMITS, MONTH, Guard()).paste,
    ]
    assert all(pasted)
    taken = settings.parse("\n\n".join(pasted))
    assert set(taken.guard.flow) == set(names[:4]) and len(taken.budget) == len(names[:4]) and len(taken.alarm) == 1


def test_guards_are_good_when_they_stop_and_were_seen_to_lately() -> None:
    held = Bounds(frozenset(("",)), frozenset(("",)), frozenset(), ("tenants",), 0, True)

    def judged(bounds: Bounds, drill: Drill | None) -> str:
        return audit_guard.guard(bounds, Stops(0, 0, 0, 0), drill, talks(flow()), 40 * DAY_US, LIMITS, MONTH, Guard()).verdict

    assert judged(held, Drill(39 * DAY_US, "p", True)) == GOOD
    for stale in (None, Drill(39 * DAY_US, "p", False), Drill(9 * DAY_US, "p", True)):
        assert judged(held, stale) == WATCH
    assert judged(held._replace(dollars=frozenset()), Drill(39 * DAY_US, "p", True)) == WATCH
    assert judged(NOTHING, Drill(39 * DAY_US, "p", True)) == ACT


# -- 4 and 5 -----------------------------------------------------------------------------------------------------------


def test_tiers_are_judged_by_what_the_same_tokens_would_have_cost() -> None:
    models = (Line("model", "dear", 95 * USD, 9), Line("model", "cheap", 5 * USD, 9))
    one = audit_control.tiers(Used(models, 100 * USD, ()), LIMITS, MONTH)
    assert one.verdict == WATCH and one.stake == 0  # one model does nearly everything, and nothing looks cheaper
    moved = audit_control.tiers(Used(models, 100 * USD, (Move("a", "dear", "cheap", "cheap", 9, 20 * USD, 2 * USD, "short"),)), LIMITS, MONTH)
    assert moved.verdict == ACT and moved.stake == 18 * USD and "a" in moved.action


def test_caches_are_judged_by_what_they_would_have_kept() -> None:
    line = Line("prompt", "chat", 11 * USD, 9)
    told = audit_control.cache(Cached(100, 0, 0, 0, (), (), 0, (line,), 0), 100 * USD, LIMITS, MONTH, Cache())
    assert told.verdict == ACT and told.stake == 11 * USD and "chat" in told.action
    assert audit_control.cache(Cached(100, 20, USD, 900_000, (), (), 0, (), 0), 100 * USD, LIMITS, MONTH, Cache()).verdict == GOOD
