"""Budgets: what a limit means, which window a moment falls in, whom a scope takes in."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.domain.entry import Short
from bursar.domain.labels import Labels
from bursar.domain.policy import Budget
from bursar.domain.usage import Tokens
from bursar.rules import budget

UTC = UTC


def us(*moment: int, zone=UTC) -> int:
    return int(datetime(*moment, tzinfo=zone).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [("$50", "usd", 50 * 10**9), ("$0.25", "usd", 250_000_000), ("2M tokens", "tokens", 2_000_000),
     ("500 calls", "calls", 500), ("1.5k calls", "calls", 1500), ("15 tool_calls", "tool_calls", 15)],
)  # fmt: skip
def test_limits_are_read_exactly(text, unit, amount):
    """Money in nano-dollars, everything else in whole things."""
    assert budget.parse_limit(text) == budget.Limit(unit, amount)


@pytest.mark.parametrize("text", ["50", "fifty dollars", "$", "2.5 calls", "3 apples", "-5 calls", ""])
def test_a_limit_that_means_nothing_is_refused_with_examples(text):
    """The message shows how to write it."""
    with pytest.raises(ValueError):
        budget.parse_limit(text)


# Zones whose midnights are missing or come twice (measured in the design's research), beside ordinary ones.
ODD = ["Africa/Cairo", "Asia/Beirut", "Atlantic/Azores", "America/Havana", "America/Santiago", "Australia/Lord_Howe",
       "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "UTC"]  # fmt: skip


@pytest.mark.parametrize("zone", ODD)
@pytest.mark.parametrize("text", ["day", "week", "month"])
def test_windows_neither_overlap_nor_leave_a_gap(zone, text):
    """Walk 730 days: each window begins where the last ended, and every moment asks for the one it is in."""
    window = budget.Window(text, ZoneInfo(zone))
    at, stop = us(2026, 1, 1), us(2028, 1, 1)
    start, end = window.bounds(at)
    while end < stop:
        assert start <= at < end
        fresh = budget.Window(text, ZoneInfo(zone))
        assert fresh.bounds(end - 1) == (start, end), "the last microsecond is still inside"
        assert fresh.bounds((start + end) // 2) == (start, end)
        at = end
        following = window.bounds(at)
        assert following[0] == end, "the next window begins where this one ends"
        start, end = following


@pytest.mark.soak
@pytest.mark.parametrize("part", range(8))
def test_in_no_zone_of_the_world_windows_overlap_or_leave_a_gap(part):
    """All of IANA's zones, 730 days; and a clock that steps back asks for the window it was in, never for a new one."""
    for zone in sorted(available_timezones())[part::8]:
        for text in ("day", "week", "month"):
            window, at, stop = budget.Window(text, ZoneInfo(zone)), us(2026, 1, 1), us(2028, 1, 1)
            before = start, end = window.bounds(at)
            while end < stop:
                assert start <= at < end, (zone, text)
                following = window.bounds(end)
                assert following[0] == end < following[1], (zone, text, start, end)
                assert window.bounds(end - 3_600_000_000) == (start, end) or end - start < 3_600_000_000, (zone, text, "a step back")
                before, at = (start, end), end
                start, end = window.bounds(at)
                assert start == before[1], (zone, text)


def test_a_berlin_day_has_23_and_25_hours_when_the_clock_changes():
    """Calendar windows are local midnights, not 24 hours."""
    window = budget.Window("day", ZoneInfo("Europe/Berlin"))
    hours = [
        (b - a) // 3_600_000_000 for a, b in (window.bounds(us(2026, 3, 29, 12)), window.bounds(us(2026, 10, 25, 12)))
    ]
    assert hours == [23, 25]


def scopes(rule, **said) -> budget.Scopes:
    """The budgets that a call which says this is in."""
    budgets = budget.Budgets([rule])
    found = budgets.of(tuple(said.get(name, "") for name in budgets.names))
    assert budgets.of(tuple(said.get(name, "") for name in budgets.names)) == found
    return found


def test_each_of_a_label_has_its_own_counter_and_a_call_without_it_is_outside():
    """scope = "tenant" means each tenant."""
    rule = budget.compile_budget(Budget(scope="tenant", limit="$5", window="day"), ZoneInfo)
    now = us(2026, 11, 24, 10)
    (acme,), (rival,) = scopes(rule, tenant="acme").all, scopes(rule, tenant="rival").all
    assert acme.at(now).counter != rival.at(now).counter
    assert acme.at(now).counter != acme.at(now + 86_400_000_000).counter
    assert scopes(rule, feature="x") == budget.NO_SCOPES


@pytest.mark.parametrize("scopes", [("tenant", "feature"), ("feature", "user", "all"), ("flow", "operation", "tenant"), ("tenant",)])
def test_the_short_way_to_a_calls_labels_finds_the_budgets_that_the_long_way_finds(scopes):
    """Each label's value for that label, in whichever order the policy has them; one label, or a fact that is none, goes the long way."""
    budgets = budget.Budgets([budget.compile_budget(Budget(scope=scope, limit="$1", window="day"), ZoneInfo) for scope in scopes])
    labels = Labels("acme", "support", "refund", "eval", "c-1", "ann")
    assert (budgets.of_labels is None) == (len(scopes) == 1)
    found = budgets.of(budgets.of_labels(labels) if budgets.of_labels else (labels.tenant,))
    assert found is budgets.of(tuple([labels.get(name) for name in budgets.names]))
    said = {scope.rule.name: scope.at(0).counter for scope in found.all}
    assert all(scope == "all" or f"|{labels.get(scope)}@" in counter for scope, counter in zip(scopes, said.values(), strict=True))


def test_a_budget_by_a_fact_that_is_no_label_goes_the_long_way():
    """The model, the key, the provider and the conversation are known elsewhere; a free label may stand anywhere."""
    for scope in ("model", "key", "provider", "conversation", {"team": "*"}):
        both = [budget.compile_budget(Budget(scope=one, limit="$1", window="day"), ZoneInfo) for one in ("tenant", scope)]
        assert budget.Budgets(both).of_labels is None


def test_no_two_scopes_share_a_counter_whatever_their_labels_hold():
    """A tenant chooses its own labels: none may be chosen so that another's budget pays."""
    rule = budget.compile_budget(Budget(scope={"feature": "*", "tenant": "*"}, limit="$5"), ZoneInfo)
    odd = ("a", "a|b", "b", "|", "%7C", "a@1", "@", "%", "a%7Cb", "b|")
    counters = [scope.at(0).counter for f in odd for t in odd for scope in scopes(rule, feature=f, tenant=t).all]
    assert len(set(counters)) == len(odd) ** 2


def test_a_table_scope_wants_every_label_it_names():
    """Fixed values must be equal; a star means each value of that label."""
    rule = budget.compile_budget(Budget(scope={"feature": "eval", "tenant": "*"}, limit="10 calls"), ZoneInfo)
    assert scopes(rule, feature="eval", tenant="a").all
    assert not scopes(rule, feature="chat", tenant="a").all
    assert not scopes(rule, feature="eval").all


@pytest.mark.parametrize(
    "table",
    [dict(scope="tennant", limit="$5"), dict(scope={}, limit="$5"), dict(scope="tenant", limit="5"),
     dict(scope="tenant", limit="$5", window="fortnight"), dict(scope="tenant", limit="$5", zone="Mars/Base")],
)  # fmt: skip
def test_a_budget_that_cannot_mean_anything_is_refused_at_load(table):
    """Better no gateway than one whose budget silently never trips."""
    with pytest.raises(ValueError):
        budget.compile_budget(Budget(**table), ZoneInfo)


LINES = [
    Budget(scope="tenant", limit="$50", window="day"), Budget(scope="tenant", limit="$40", window="day", hard=False),
    Budget(scope="tenant", limit="500 calls", window="day"), Budget(scope="all", limit="$900"), Budget(scope="feature", limit="$9", name="f"),
]  # fmt: skip


def test_a_budget_without_a_name_is_called_by_what_it_counts():
    """No two are called the same, also where somebody's own name looks like one of ours."""
    names = [rule.name for rule in budget.compile_budgets([*LINES, Budget(scope="all", limit="$1", name="all/month#2"), LINES[3]], ZoneInfo)]
    assert names == ["tenant/day", "tenant/day#2", "tenant/day/calls", "all/month", "f", "all/month#2", "all/month#3"]


@given(st.permutations(LINES), st.integers(0, 5))
def test_what_was_spent_stays_with_a_budget_when_lines_are_moved_put_in_or_taken_out(lines, taken):
    """Counters have the name: what counts the same in both files is called the same."""
    kinds = {(str(one.scope), one.window, one.limit.endswith("calls")): [] for one in LINES}
    for one, rule in zip(lines[taken:], budget.compile_budgets(lines[taken:], ZoneInfo), strict=True):
        kinds[str(one.scope), one.window, one.limit.endswith("calls")].append(rule.name)
    whole = {"tenant/day", "tenant/day#2"}, {"tenant/day/calls"}, {"all/month"}, {"f"}
    for found in kinds.values():
        assert found == [] or any(set(found) <= names for names in whole)


@given(st.integers(0, 10**15), st.integers(0, 10**12))
def test_money_counters_round_up(pico, tokens):
    """A counter may overstate a call by under a nano-dollar, never understate it."""
    rule = budget.compile_budget(Budget(scope="all", limit="$5"), ZoneInfo)
    (charge,) = budget.charges(scopes(rule), 0, pico, tokens, 0)
    assert 0 <= charge.amount * 1000 - pico < 1000


GRAINS = {"$5": "usd", "9k tokens": "tokens", "7 calls": "calls", "3 tool_calls": "tool_calls"}


@given(
    st.lists(st.sampled_from(sorted(GRAINS)), min_size=1, max_size=4), st.integers(0, 10**15), st.integers(0, 10**9), st.integers(0, 40), st.integers(0, 1),
    st.integers(0, 10**9),
)  # fmt: skip
def test_each_budget_counts_in_its_own_grain(limits, pico, tokens, results, wound, wrote):
    """Held and really used: dollars, tokens, calls and tool calls, in whatever company, and whether an agent was told to end."""
    rules = budget.compile_budgets([Budget(scope="all", limit=limit) for limit in limits], ZoneInfo)
    want = {"usd": budget.nano_up(pico), "tokens": tokens, "calls": 1, "tool_calls": results, "wind_down": wound}
    held = budget.charges(budget.Budgets(rules).of(()), 5, pico, tokens, results)
    assert [(c.counter.partition("@")[0], c.amount) for c in held] == [(rule.name, want[rule.limit.unit]) for rule in rules]
    held = (*held, budget.wound_down("w", 1, 5)) if wound else held
    want["tokens"] = tokens + wrote
    assert budget.actual(held, pico, Tokens(tokens, output=wrote), results, wound) == tuple(want[c.unit] for c in held)


def test_a_budget_follows_the_clock_both_ways():
    """Tries of one second may come out of their order at midnight: each is held in the window of its own moment."""
    rule = budget.compile_budget(Budget(scope="all", limit="$5", window="day"), ZoneInfo)
    asked = scopes(rule)
    day, before = us(2026, 11, 24), us(2026, 11, 24) - 1
    ends = [budget.charges(asked, ts, 1, 0, 0)[0].resets_us for ts in (day, before, day)]
    assert ends == [us(2026, 11, 25), day, us(2026, 11, 25)]


def test_the_refusal_says_which_numbers_and_what_now():
    """Limit, spent, held, wanted, left, when it resets: nobody should have to look them up."""
    rule = budget.compile_budget(Budget(scope="tenant", limit="$2", window="day"), ZoneInfo)
    (charge,) = budget.charges(scopes(rule, tenant="acme"), us(2026, 11, 24), 10**12, 100, 0)
    refusal = budget.short(Short(charge, 1_500_000_000, 100_000_000), "budget_exceeded")
    assert refusal.code == "budget_exceeded" and refusal.status == 402
    for piece in ("$2.00", "$1.50", "$0.10", "$1.00", "$0.40"):
        assert piece in refusal.reason
    assert "2026-11-25 00:00 UTC" in refusal.remedy
