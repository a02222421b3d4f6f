"""Agent frameworks, unchanged, under `bursar.instrument()`: every model call they make is a row, with what they know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from wrapped import Bench, bench, prices

import bursar
from bursar.testing.invoice import Buckets
from bursar.testing.script import Say, Seen

__all__ = ["bench", "prices"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
USED = Buckets(input=300, output=20)


@pytest.fixture(autouse=True)
def instrumented(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As an agent finds its providers: by variables."""
    for variable, value in {
        "OPENAI_API_KEY": "sk-theirs", "ANTHROPIC_API_KEY": "sk-theirs", "OPENAI_BASE_URL": bench.url("openai"),
        "ANTHROPIC_BASE_URL": bench.url("anthropic"), "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    bench.provider.script = tool_then_answer
    with bursar.instrument(**bench.wrapping()):
        yield


def tool_then_answer(seen: Seen) -> Say:
    """An agent's model: asks for the tool once, then answers."""
    told = seen.raw.decode()
    if "tool" in told and "ORDER-7" not in told:
        return Say(tools=(("look_up", '{"order": "7"}'),), usage=USED)
    return Say(text="It is on its way.", usage=USED)


def look_up(order: str) -> str:
    """Find an order."""
    return f"ORDER-{order} shipped"


def test_a_langgraph_agent_on_two_providers_has_its_thread_and_its_nodes_on_the_rows(bench: Bench) -> None:
    """Thread becomes conversation, node becomes flow, with no change in the graph."""
    from langchain_anthropic import ChatAnthropic
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    tools = [tool(look_up)]
    triage = ChatOpenAI(model="gpt-5-mini")
    agent = ChatAnthropic(model_name="claude-sonnet-4-5", timeout=None, stop=None).bind_tools(tools)

    def sort(state: MessagesState) -> dict[str, Any]:
        triage.invoke(state["messages"])
        return {}

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [agent.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("triage", sort)
    graph.add_node("agent", answer)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "triage")
    graph.add_edge("triage", "agent")
    graph.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "agent")
    app = graph.compile()
    with bursar.labels(tenant="acme", feature="support"):
        done = app.invoke({"messages": [("user", "Where is order 7?")]}, {"configurable": {"thread_id": "thread-1"}})
    assert done["messages"][-1].content == "It is on its way."
    rows = bench.rows()
    assert [(r.provider, r.flow, r.conversation, r.tenant, r.feature) for r in rows] == [
        ("openai", "triage", "thread-1", "acme", "support"),
        ("anthropic", "agent", "thread-1", "acme", "support"),
        ("anthropic", "agent", "thread-1", "acme", "support"),
    ]
    assert all(r.cost for r in rows)


def test_an_async_langgraph_agent_streams_with_its_labels(bench: Bench) -> None:
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, MessagesState, StateGraph

    model = ChatOpenAI(model="gpt-5-mini", streaming=True)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", answer)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    app = graph.compile()

    async def one(thread: str) -> list[Any]:
        config: Any = {"configurable": {"thread_id": thread}}
        return [event async for event in app.astream({"messages": [("user", "hello")]}, config, stream_mode="messages")]

    async def many() -> list[list[Any]]:
        return await asyncio.gather(*(one(f"thread-{n}") for n in range(4)))

    assert all(asyncio.run(many()))
    rows = bench.rows()
    assert sorted(r.conversation for r in rows) == [f"thread-{n}" for n in range(4)]
    assert {(r.flow, r.stream, r.ended, r.usage_source) for r in rows} == {("agent", 1, "complete", "provider")}


def test_a_label_set_in_the_program_outranks_what_the_framework_knows(bench: Bench) -> None:
    from langchain_core.runnables import RunnableLambda
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="gpt-5-mini")

    def step(text: str) -> str:
        with bursar.labels(conversation="ticket-9"):
            return str(model.invoke(text).content)

    RunnableLambda(step).invoke("hello", {"metadata": {"thread_id": "thread-1"}})
    (row,) = bench.rows()
    assert row.conversation == "ticket-9"


@pytest.mark.parametrize("streamed", [False, True])
def test_pydantic_ai_with_a_tool(bench: Bench, streamed: bool) -> None:
    from pydantic_ai import Agent

    agent = Agent("openai-chat:gpt-5-mini", tools=[look_up])

    async def work() -> str:
        with bursar.operation("eval"):
            if not streamed:
                return str((await agent.run("Where is order 7?")).output)
            async with agent.run_stream("Where is order 7?") as result:
                return str(await result.get_output())

    assert asyncio.run(work()) == "It is on its way."
    rows = bench.rows()
    assert [(r.operation, r.input, r.output, r.ended) for r in rows] == [("eval", 300, 20, "complete")] * 2
    assert [r.tool_depth for r in rows] == [0, 1]


def test_openai_agents_with_a_tool_whole_and_streamed(bench: Bench) -> None:
    """In one loop: the framework keeps one client for the process, whose connections belong to the loop that made them."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)
    agent = Agent(name="support", model="gpt-5-mini", tools=[function_tool(look_up)])

    async def work() -> list[str]:
        with bursar.labels(feature="support"):
            whole = await Runner.run(agent, "Where is order 7?")
            result = Runner.run_streamed(agent, "Where is order 7?")
            async for _ in result.stream_events():
                pass
            return [str(whole.final_output), str(result.final_output)]

    assert asyncio.run(work()) == ["It is on its way."] * 2
    rows = bench.rows()
    assert [(r.dialect, r.feature, r.input, r.output) for r in rows] == [("openai_responses", "support", 300, 20)] * 4
    assert [r.stream for r in rows] == [0, 0, 1, 1]
