"""`@bursar.tool`: a function stays what it is, is counted and timed, kept within bounds, and its failures reach the next call."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from wrapped import Bench, bench, prices

import bursar
from bursar.domain.policy import Alarm
from bursar.rules.alarm_policy import compile_alarm
from bursar.stores.check import check
from bursar.stores.reader import Reader
from bursar.surfaces import tool as tools
from bursar.surfaces import watch_rows
from bursar.testing.script import Say

__all__ = ["bench", "prices"]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "costs", {})
    tools.told()


def test_a_function_stays_what_it_is() -> None:
    @bursar.tool
    def look_up(order: str, *, deep: bool = False) -> str:
        """Finds an order."""
        return order

    assert (look_up.__name__, look_up.__doc__) == ("look_up", "Finds an order.")
    assert list(inspect.signature(look_up).parameters) == ["order", "deep"]
    assert look_up("a", deep=True) == "a"
    assert look_up.stats().calls == 1 and look_up.stats().failures == 0  # type: ignore[attr-defined]


def test_async_functions_and_generators_stay_what_they_are() -> None:
    @bursar.tool
    async def soon(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @bursar.tool
    def items(n: int) -> Iterator[int]:
        got = yield from range(n)
        return got

    @bursar.tool
    async def items_soon(n: int) -> AsyncIterator[int]:
        for each in range(n):
            yield each

    async def all_of() -> list[int]:
        return [each async for each in items_soon(3)]

    assert inspect.iscoroutinefunction(soon) and inspect.isgeneratorfunction(items) and inspect.isasyncgenfunction(items_soon)
    assert (asyncio.run(soon(2)), list(items(3)), asyncio.run(all_of())) == (2, [0, 1, 2], [0, 1, 2])
    assert [each.stats().calls for each in (soon, items, items_soon)] == [1, 1, 1]  # type: ignore[attr-defined]


def test_a_generator_that_nobody_reads_to_its_end_is_no_failure() -> None:
    closed: list[bool] = []

    @bursar.tool
    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    found = items()
    assert next(found) == 0
    found.close()
    assert closed == [True]
    assert items.stats()[:2] == (1, 0)  # type: ignore[attr-defined]
    assert tools.told() == ((), ())


def test_an_exception_goes_through_and_is_told_once() -> None:
    @bursar.tool(name="order.find")
    def find() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        find()
    with pytest.raises(KeyError):
        find()
    assert tools.told() == (("order.find",), ())
    assert tools.told() == ((), ())
    assert find.stats()[:2] == (2, 2)  # type: ignore[attr-defined]


def test_a_cancelled_tool_has_not_failed() -> None:
    @bursar.tool
    async def slow() -> None:
        await asyncio.sleep(60)

    async def work() -> tuple[tuple[str, ...], tuple[str, ...]]:
        tools.told()
        task = asyncio.create_task(slow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return tools.told()

    assert asyncio.run(work()) == ((), ())


def test_failures_in_tasks_and_threads_reach_the_context_they_came_from_and_no_other() -> None:
    @bursar.tool
    def broken() -> None:
        raise OSError

    async def agent(fails: bool) -> tuple[str, ...]:
        tools.told()  # a model was asked
        if fails:
            await asyncio.gather(asyncio.to_thread(broken), return_exceptions=True)
        await asyncio.sleep(0.01)
        return tools.told()[0]

    async def both() -> list[tuple[str, ...]]:
        return await asyncio.gather(agent(True), agent(False))

    assert contextvars.Context().run(lambda: asyncio.run(both())) == [("broken",), ()]


def test_the_same_arguments_get_a_kept_result_until_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(tools.time, "monotonic", lambda: now[0])
    ran: list[Any] = []

    @bursar.tool(ttl=60)
    def look_up(*args: Any, **kwargs: Any) -> int:
        ran.append(args)
        return len(ran)

    assert [look_up(1), look_up(1), look_up(True), look_up(1.0), look_up(n=1), look_up(1)] == [1, 1, 2, 3, 4, 1]
    assert look_up([1]) != look_up([1]), "what cannot be looked up is asked anew"
    now[0] = 61.0
    assert look_up(1) == len(ran)
    assert look_up.stats().kept == 2  # type: ignore[attr-defined]
    assert tools.told() == ((), ("look_up", "look_up"))


def test_kept_results_are_bounded_and_failures_are_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "KEPT_MAX", 3)
    ran: list[int] = []

    @bursar.tool(ttl=60)
    def look_up(n: int) -> int:
        ran.append(n)
        if n < 0:
            raise ValueError(n)
        return n

    for n in (1, 2, 3, 1, 4, 1, 2):
        look_up(n)
    assert ran == [1, 2, 3, 4, 2], "1 was used and stayed, 2 was the oldest"
    for _ in range(2):
        with pytest.raises(ValueError, match="-1"):
            look_up(-1)
    assert ran[-2:] == [-1, -1]


def test_many_threads_count_right() -> None:
    @bursar.tool(ttl=60)
    def look_up(n: int) -> int:
        return n

    def work() -> None:
        for n in range(500):
            look_up(n % 50)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = look_up.stats()  # type: ignore[attr-defined]
    assert stats.calls + stats.kept == 2000


@pytest.mark.parametrize(("said", "error", "told"), [
    ({"cost": 0.01}, ValueError, "not an amount"), ({"cost": "-1"}, ValueError, "0 or more"), ({"ttl": 0}, ValueError, "more than none"),
])  # fmt: skip
def test_what_is_no_cost_and_no_time_is_refused(said: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        bursar.tool(**said)


def test_a_generator_cannot_be_kept() -> None:
    with pytest.raises(TypeError, match="leave ttl out"):

        @bursar.tool(ttl=60)
        def items() -> Iterator[int]:
            yield 1


def test_an_agents_tools_are_in_the_ledger_with_their_cost_and_their_failures(bench: Bench) -> None:
    """A real SDK's loop: the search is paid once, its failure is why the model is asked again, a kept result is free."""
    bench.provider.script = lambda seen: Say(tools=(("search", '{"q":"x"}'),)) if seen.number < 4 else Say()
    client = bursar.wrap(openai.OpenAI(api_key="k", base_url=bench.url("openai")), **bench.wrapping())
    broken = iter([True, False])

    @bursar.tool(cost="0.02", ttl=60)
    def search(q: str) -> str:
        if next(broken, False):
            raise LookupError("try later")
        return "nothing found"

    messages: list[Any] = [{"role": "user", "content": "find it"}]
    for _ in range(4):
        reply = client.chat.completions.create(model="gpt-5-mini", messages=messages).choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        for use in reply.tool_calls or ():
            try:
                result = search(**json.loads(use.function.arguments))
            except LookupError:
                result = "come back tomorrow"  # nothing in the text says that it failed
            messages.append({"role": "tool", "tool_call_id": use.id, "content": result})
    rows = bench.rows(6)
    paid = [row for row in rows if row.attempt_kind == "tool"]
    assert [(row.model_served, row.cost) for row in paid] == [("search", 20_000_000_000)] * 2, "failed, found, kept"
    tries = [row for row in rows if row.attempt_kind != "tool"]
    assert [row.cause for row in tries] == ["", "tool:search", "", ""]
    assert json.loads(tries[0].evidence)["called"] == ["search"]
    minute = tries[0].ts // 60_000_000
    with Reader(bench.ledger) as reader:  # and what an alarm on the tool's calls sees is what came back
        seen = list(watch_rows.rows(reader, compile_alarm(Alarm(metric="tool_calls", threshold=1), 0), 1, minute, minute + 60))
    assert sum(one.part for one in seen) == 3 and {one.key for one in seen} == {("search",)}
    assert search.stats()[:2] == (2, 1)  # type: ignore[attr-defined]
    assert check(bench.ledger).findings == ()
