"""Recorded calls through another policy: the same rules as on the way of a call, and intervals that hold what they rest on."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from bursar.domain.policy import Budget, Guard
from bursar.domain.price import Price, Rate
from bursar.domain.usage import Tokens
from bursar.rules import reuse
from bursar.rules.budget import Budgets, compile_budgets
from bursar.rules.guard import Guards
from bursar.rules.replay import Outcome, Replay, Row, Setting

DOLLAR = 10**12
HOUR = 3_600_000_000
NOW = 1_790_000_000_000_000
FACTS = {
    "tenant": "acme", "feature": "support", "flow": "chat", "operation": "primary", "conversation": "c1", "user": "", "key": "",
    "provider": "openai", "model": "large", "suite": "",
}  # fmt: skip
CHEAP = Price("cheap", "openai", "small", {"input": Rate(10**9), "output": Rate(2 * 10**9)})


def row(at: int = 0, cost: int = DOLLAR, *, turn: int = 1, depth: int = 0, question: str = "", loop: bool = False, tools: bool = False,
        good: bool = True, tokens: Tokens = Tokens(input=100_000, output=10_000), **facts: str) -> Row:  # fmt: skip
    return Row(NOW + at, FACTS | facts, turn, depth, tokens, cost, question, tools, good, loop)


def budgets(*lines: Budget) -> Budgets:
    return Budgets(compile_budgets(lines, ZoneInfo))


def played(setting: Setting, *rows: Row) -> Outcome:
    replay = Replay(setting)
    for one in rows:
        replay.take(one)
    return replay.outcome()


def setting(**more: Any) -> Setting:
    return Setting(**{"budgets": Budgets(), "guards": Guards(), **more})


def test_without_anything_in_it_a_policy_changes_nothing() -> None:
    """The bill is the recorded one, and nobody is stopped."""
    done = played(setting(), row(), row(1))
    assert (done.calls, done.recorded, done.spent, done.low, done.high) == (2, 2 * DOLLAR, 2 * DOLLAR, 2 * DOLLAR, 2 * DOLLAR)
    assert done.parts == () and done.stopped == ()


def test_a_hard_budget_stops_what_does_not_fit_and_a_soft_one_counts() -> None:
    """Per tenant and month: three dollars go through, the fourth does not; the other tenant has its own."""
    limit = budgets(Budget(scope="tenant", limit="$3", name="cap"), Budget(scope="feature", limit="$1", hard=False))
    done = played(setting(budgets=limit), *(row(n) for n in range(5)), row(9, tenant="other"))
    (part,) = done.parts
    assert (part.name, part.calls, part.pico) == ("budgets", 2, 2 * DOLLAR)
    (stopped,) = done.stopped
    assert (stopped.limit, stopped.whose, stopped.since_us, stopped.calls, stopped.pico) == ("cap", "acme", NOW + 3, 2, 2 * DOLLAR)


def test_a_new_window_is_a_new_budget() -> None:
    """A day's limit holds for a day."""
    done = played(setting(budgets=budgets(Budget(scope="tenant", limit="$1", window="day"))), row(), row(1), row(24 * HOUR))
    assert done.parts[0].calls == 1


def test_guards_stop_by_depth_turns_and_loops_only_where_they_are_written() -> None:
    """What nobody wrote warns, and a replay that only warns changes nothing."""
    rows = (row(depth=9), row(1, turn=7), row(2, loop=True), row(3))
    assert played(setting(), *rows).parts == ()
    done = played(setting(guards=Guards(Guard(tool_calls_max=8, turns_max=6, repeats_max=5))), *rows)
    assert [(s.limit, s.calls) for s in done.stopped] == [("repeats_max", 1), ("tool_calls_max", 1), ("turns_max", 1)]
    assert played(setting(guards=Guards(Guard(tool_calls_max=8))), *rows).parts[0].calls == 1


def test_a_cache_answers_within_its_time_behind_its_wall_and_never_what_failed() -> None:
    """Same tenant, same question, an hour; a reply that calls tools is not given again."""
    cache = reuse.Setting(exact=True, ttl_us=HOUR, temperature_max=1.0)
    rows = (
        row(0, question="q"), row(1, question="q"), row(2, question="q", tenant="other"), row(HOUR, question="q"),
        row(HOUR + 1, question="q"), row(3, question="t", tools=True), row(4, question="t", tools=True),
        row(5, question="f", good=False), row(6, question="f"), row(7, question="e", operation="eval"), row(8, question="e", operation="eval"),
    )  # fmt: skip
    (part,) = played(setting(cache=cache), *rows).parts
    assert (part.name, part.calls, part.pico, part.low) == ("cache", 2, 2 * DOLLAR, 2 * DOLLAR)
    suites = cache._replace(suites={"support": HOUR})
    assert played(setting(cache=suites), *rows).parts[0].calls == 3
    unsure = played(setting(cache=cache._replace(temperature_max=0.0)), *rows)
    assert unsure.parts[0].low == 0 and unsure.high == unsure.recorded, "the ledger does not know temperatures"


def test_a_tier_is_priced_with_the_same_tokens_and_an_interval() -> None:
    """100,000 in and 10,000 out at 1 and 2 dollars a million: 12 cents in place of a dollar."""
    done = played(setting(route=lambda one: ("small", CHEAP) if one.facts["feature"] == "support" else None), row(), row(feature="x"))
    (part,) = done.parts
    paid = 120_000_000_000
    assert (part.calls, part.pico) == (1, DOLLAR - paid) and (part.low, part.high) == (
        DOLLAR - paid - paid // 5,
        DOLLAR - paid + paid // 5,
    )
    assert done.low < done.spent == 2 * DOLLAR - part.pico < done.high


def test_budgets_count_what_the_tier_costs() -> None:
    """As on the way of a call: judged for the model that will be billed."""
    limit = budgets(Budget(scope="tenant", limit="$1"))
    assert played(setting(budgets=limit), row(), row(1), row(2)).stopped[0].calls == 2
    assert played(setting(budgets=limit, route=lambda one: ("small", CHEAP)), row(), row(1), row(2)).stopped == ()


def test_histories_are_judged_by_flow_and_only_where_it_is_sure_to_pay() -> None:
    """Forty long runs whose prompts grow; short ones of another flow have nothing to gain."""
    price = Price("large", "openai", "large", {"input": Rate(10 * 10**9), "cache_read": Rate(10**9), "output": Rate(30 * 10**9)})

    def runs(flow: str, calls: int) -> list[Row]:
        made: list[Row] = []
        for run in range(40):
            for call in range(calls + run % 12):
                sent = 2_000 + 3_000 * call
                made.append(
                    row(len(made), sent * 10**7, flow=flow, conversation=f"{flow}{run}", tokens=Tokens(input=sent, output=100))
                )
        return made

    done = played(setting(compacts=lambda flow: True, price=lambda *of: price), *runs("long", 60), *runs("short", 4))
    (part,) = done.parts
    assert part.name == "compaction" and part.calls > 40 * 60 and 0 < part.low < part.pico < part.high
    assert played(setting(price=lambda *of: price), *runs("long", 60)).parts == ()
