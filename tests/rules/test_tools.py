"""Tools with a price: what is new is charged once, whoever sends it again; the line that says most of a name holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from bursar.desk import Caller
from bursar.domain.call import Incoming
from bursar.domain.entry import Entry
from bursar.domain.policy import Budget, PriceOverride
from bursar.domain.shape import replace
from bursar.rules.tools import ToolPrices
from bursar.stores.price_override import EVER, compile_override, compile_tool
from bursar.testing import World, play, respond
from test_pipeline import call, completion, desk

CENT = 10**10


def prices(*lines: tuple[str, str], **more: Any) -> ToolPrices:
    return ToolPrices(tuple(compile_tool(PriceOverride(tool=name, call=cost, **more), n) for n, (name, cost) in enumerate(lines)))


SEARCH = prices(("web_search_api", "0.01"), ("mcp__*", "0.002"), ("mcp__stripe__refund", "0.50"))


def step(*uses: tuple[str, str, str]) -> list[dict[str, Any]]:
    """What an agent's step adds to the messages: the calls of the reply, and what came of them."""
    calls = [{"id": i, "type": "function", "function": {"name": name, "arguments": args}} for i, name, args in uses]
    results = [{"role": "tool", "tool_call_id": i, "content": f"found for {i}"} for i, _, _ in uses]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


ASK: list[dict[str, Any]] = [{"role": "user", "content": "what is new about the order of last week?"}]
ONE = [*ASK, *step(("a", "web_search_api", '{"q":"x"}'))]


class Agent:
    """A world that remembers its conversations, asked time and again."""

    def __init__(self, **more: Any) -> None:
        self.desk = desk(tools=more.pop("tools", SEARCH), **more)
        self.world = World(lambda send: respond(completion()))
        self.asked = 0
        self.entries: list[Entry] = []

    def ask(self, messages: Sequence[dict[str, Any]], caller: Caller = Caller(), **more: Any) -> list[Entry]:
        """The rows of tools that one request makes, those booked before left out, as the ledger does."""
        self.asked += 1
        one: Incoming = replace(
            call(messages=list(messages), **more), call_id=f"c{self.asked}", ts_us=call().ts_us + self.asked * 1_000_000
        )
        before = {entry.id for entry in self.entries}
        self.entries = play(one, self.desk, self.world, caller).entries
        return [entry for entry in self.entries if entry.attempt_kind == "tool" and entry.id not in before]


def test_a_new_result_is_charged_beside_the_call_it_is_sent_with() -> None:
    agent = Agent()
    assert agent.ask(ASK) == []
    (row,) = agent.ask(ONE)
    assert (row.model_served, row.cost, row.cost_other, row.try_no) == ("web_search_api", CENT, CENT, 0)
    assert json.loads(row.legs) == [["tool:web_search_api", 1, CENT * 1000, CENT]]
    assert (row.price_status, row.input, row.conversation) == ("priced", None, agent.entries[-1].conversation)
    assert row.price_id.startswith("tool/policy:")


def test_history_sent_again_is_charged_no_more() -> None:
    agent = Agent()
    agent.ask(ASK)
    assert len(agent.ask(ONE)) == 1
    assert agent.ask(ONE) == [], "the client asks the same again"
    assert agent.ask(ONE, headers=[(b"x-stainless-retry-count", b"1")]) == []
    assert sum(entry.attempt_kind == "tool" for entry in agent.entries) == 1, "and no commit is spent on it"
    later = [*ONE, {"role": "assistant", "content": "It was shipped."}, {"role": "user", "content": "and when will it arrive?"}]
    assert agent.ask(later) == []
    assert [row.cost for row in agent.ask([*later, *step(("b", "web_search_api", "{}"))])] == [CENT]


def test_the_same_messages_book_the_same_row_after_a_restart() -> None:
    """The ledger takes an id once: who has forgotten the conversation makes the same row again."""
    told = {"headers": [(b"x-bursar-conversation", b"talk-1")]}
    assert [row.id for row in Agent().ask(ONE, **told)] == [row.id for row in Agent().ask(ONE, **told)]
    other = {"headers": [(b"x-bursar-conversation", b"talk-2")]}
    assert [row.id for row in Agent().ask(ONE, **told)] != [row.id for row in Agent().ask(ONE, **other)]


def test_each_result_of_a_step_is_charged_at_its_own_price() -> None:
    agent = Agent()
    agent.ask(ASK)
    uses = [
        ("a", "mcp__files__read", "{}"),
        ("b", "mcp__stripe__refund", "{}"),
        ("c", "mcp__files__read", '{"n":1}'),
        ("d", "free", "{}"),
    ]
    found = {row.model_served: (row.cost, json.loads(row.legs)[0][1]) for row in agent.ask([*ASK, *step(*uses)])}
    assert found == {"mcp__files__read": (CENT * 4 // 10, 2), "mcp__stripe__refund": (50 * CENT, 1)}


def test_the_same_call_twice_in_a_step_is_paid_twice() -> None:
    agent = Agent()
    agent.ask(ASK)
    twice = step(("a", "web_search_api", "{}"), ("b", "web_search_api", "{}"))
    for message in twice[1:]:
        message["content"] = "nothing"
    assert [row.cost for row in agent.ask([*ASK, *twice])] == [2 * CENT]


def test_it_is_charged_whatever_becomes_of_the_call_and_budgets_see_it() -> None:
    budget = Budget(scope="tenant", limit="$0.000001", hard=True, window="day", name="small")
    agent = Agent(budgets=[budget])
    (row,) = agent.ask(ONE, headers=[(b"x-bursar-tenant", b"acme")])
    settled = next(one for one in agent.world.settled if one.id == row.id)
    assert [(c.budget, c.unit) for c in settled.charges] == [("small", "usd")]
    assert settled.actual == (row.cost // 1000,)


def test_a_programs_own_price_comes_after_the_policys_and_kept_results_are_free() -> None:
    mine = Caller(tools={"web_search_api": 5, "look_up": 7})
    both = [*ASK, *step(("a", "web_search_api", "{}"), ("b", "look_up", "{}"))]
    assert {row.model_served: row.cost for row in Agent().ask(both, mine)} == {"web_search_api": CENT, "look_up": 7}
    assert [row.model_served for row in Agent().ask(both, replace(mine, kept=("look_up",)))] == ["web_search_api"]


def test_without_prices_nothing_is_booked() -> None:
    assert Agent(tools=ToolPrices()).ask(ONE) == []


def test_a_tool_that_raised_is_why_the_next_call_is_made() -> None:
    """The program's own tool said so; the message alone reads like a result."""
    said = ASK, [*ASK, *step(("a", "look_up", "{}"))]
    for raised, cause in (((), ""), (("look_up",), "tool:look_up"), (("another",), "")):
        agent = Agent()
        agent.ask(said[0])
        agent.ask(said[1], Caller(failed=raised))
        assert agent.entries[-1].cause.replace("switch:", "tool:") == cause


def test_prices_hold_from_and_until_and_the_later_line_wins() -> None:
    found = ToolPrices((*(compile_tool(PriceOverride(tool="t", call=cost, from_=since, until=until), n) for n, (cost, since, until) in enumerate(
        [("1", "", ""), ("2", "2026-10-01", "2026-11-01"), ("3", "2026-10-15", "")])),))  # fmt: skip
    day = 86_400_000_000
    october = 1_790_812_800_000_000
    at = {when: (found.find("t", october + when * day) or pytest.fail("no price")).pico // 10**12 for when in (-1, 0, 14, 15, 40)}
    assert at == {-1: 1, 0: 2, 14: 3, 15: 3, 40: 3}
    assert found.find("u", october) is None and found.find("T", october) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"tool": "t"}, 'call = "0.01"'),
        ({"tool": "t", "call": "much"}, "not a number"),
        ({"tool": "t", "call": "-1"}, "not between"),
        ({"tool": "t", "call": "0.0000000000001"}, "finer than"),
        ({"tool": "t", "call": "1", "input": "2"}, "a tool has no input"),
        ({"tool": "t", "call": "1", "from_": "2026-02-01", "until": "2026-01-01"}, "never holds"),
    ],
)
def test_a_line_that_is_no_price_says_what_would_be(line: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        compile_tool(PriceOverride(**line), 0)


def test_a_line_of_a_model_is_none_of_a_tool() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        compile_override(PriceOverride(input="1"), 0)
    with pytest.raises(ValueError, match="of their own"):
        compile_override(PriceOverride(model="m", input="1", call="1"), 0)
    assert compile_tool(PriceOverride(tool="t", call="0"), 0).until_us == EVER
