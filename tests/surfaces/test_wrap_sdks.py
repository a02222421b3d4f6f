"""The official SDKs, unchanged, with `bursar.wrap` and against the gateway by base URL: same answers, same rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types
from wrapped import QUESTION, Bench, bench, once, prices

import bursar
from bursar.domain.entry import Entry
from bursar.domain.money import PICO
from bursar.surfaces.gateway import serve_in_thread
from bursar.testing.invoice import Buckets
from bursar.testing.script import Say

__all__ = ["bench", "prices"]
pytestmark = pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
USED = Buckets(input=900, cache_read=100, output=40)
PLAIN = Buckets(input=700, output=30)
TOOL: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
PRICED = """
[[price]]
model = "gpt-5-mini"
input = "0.25"
cache_read = "0.025"
output = "2"
[[price]]
model = "claude-sonnet-4-5"
input = "3"
cache_read = "0.30"
cache_write = "3.75"
output = "15"
[[price]]
model = "gemini-2.5-flash"
input = "0.30"
cache_read = "0.03"
output = "2.50"
"""


class Through:
    """SDK clients whose calls go through us, one way or the other."""

    def __init__(self, bench: Bench, way: str) -> None:
        self.bench, self.way = bench, way
        bench.policy(PRICED)
        self.gateway = serve_in_thread(str(bench.config), bench.ledger) if way == "gateway" else None

    def _base(self, name: str) -> str:
        below = "/v1" if name == "openai" else ""
        return f"{self.gateway.url}/{name}{below}" if self.gateway else self.bench.url(name)

    def _wrapped(self, client: Any) -> Any:
        return client if self.gateway else bursar.wrap(client, **self.bench.wrapping())

    def openai(self, kind: Callable[..., Any] = openai.OpenAI, **more: Any) -> Any:
        return self._wrapped(kind(api_key="sk-theirs", base_url=self._base("openai"), **more))

    def anthropic(self, kind: Callable[..., Any] = anthropic.Anthropic, **more: Any) -> Any:
        return self._wrapped(kind(api_key="sk-theirs", base_url=self._base("anthropic"), **more))

    def gemini(self) -> genai.Client:
        options = types.HttpOptions(base_url=self._base("gemini"))
        return self._wrapped(genai.Client(api_key="sk-theirs", http_options=options))

    def rows(self, count: int | None = None) -> list[Entry]:
        if self.gateway is None:
            return self.bench.rows(count)
        return self.gateway.gateway.shop.ledger.rows()


@pytest.fixture(params=["wrap", "gateway"])
def through(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Through]:
    made = Through(bench, request.param)
    yield made
    if made.gateway is not None:
        made.gateway.stop()


def dollars(rows: list[Entry]) -> Decimal:
    assert all(row.cost is not None and row.price_status == "priced" for row in rows), rows
    return Decimal(sum(row.cost or 0 for row in rows)) / PICO


def test_openai_chat_is_one_priced_row(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED)
    answer = through.openai().chat.completions.create(
        model="gpt-5-mini", messages=QUESTION, extra_headers={"x-bursar-tenant": "acme", "x-bursar-feature": "support"}
    )
    assert answer.choices[0].message.content == "hello there"
    (row,) = through.rows()
    assert (row.tenant, row.feature, row.provider, row.dialect) == ("acme", "support", "openai", "openai_chat")
    assert (row.input, row.cache_read, row.output, row.usage_source) == (900, 100, 40, "provider")
    assert (row.status, row.ended, row.operation) == ("ok", "complete", "primary")
    assert dollars([row]) == through.bench.provider.invoice.total()
    headers = through.bench.provider.seen[0].headers
    assert not [name for name in headers if name.startswith("x-bursar-")]
    assert headers["authorization"] == "Bearer sk-theirs"


@pytest.mark.parametrize("asked", [False, True])
def test_openai_chat_streamed_has_the_providers_usage_and_nothing_extra(through: Through, asked: bool) -> None:
    """The usage event is asked for upstream, and shown only to a client that asked for it itself."""
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED, pieces=3)
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(through.openai().chat.completions.create(model="gpt-5-mini", messages=QUESTION, stream=True, **more))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello there"
    assert any(c.usage for c in chunks) is asked
    assert all(c.choices for c in chunks) is not asked
    (row,) = through.rows()
    assert (row.stream, row.input, row.cache_read, row.output, row.ended) == (1, 900, 100, 40, "complete")
    assert dollars([row]) == through.bench.provider.invoice.total()


def test_openai_tool_calls_and_responses_and_embeddings(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(tools=(("look_up", '{"id": 7}'),), usage=PLAIN)
    client = through.openai()
    answer = client.chat.completions.create(model="gpt-5-mini", messages=QUESTION, tools=TOOL)
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"id": 7}'
    through.bench.provider.script = lambda seen: Say(text="fine", usage=PLAIN)
    assert client.responses.create(model="gpt-5-mini", input="hello").output_text == "fine"
    with client.responses.stream(model="gpt-5-mini", input="hello") as stream:
        assert stream.get_final_response().output_text == "fine"
    through.bench.provider.script = lambda seen: Say(usage=Buckets(input=12))
    assert client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).data
    rows = through.rows()
    assert [row.dialect for row in rows] == ["openai_chat", "openai_responses", "openai_responses", "openai_embeddings"]
    assert [row.operation for row in rows] == ["primary", "primary", "primary", "embedding"]
    assert [(row.input, row.output) for row in rows] == [(700, 30), (700, 30), (700, 30), (12, 0)]


def test_async_openai_whole_and_streamed_many_at_once(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED)

    async def work() -> None:
        client = through.openai(openai.AsyncOpenAI)
        whole = [client.chat.completions.create(model="gpt-5-mini", messages=QUESTION) for _ in range(8)]
        assert {a.choices[0].message.content for a in await asyncio.gather(*whole)} == {"hello there"}
        stream = await client.chat.completions.create(model="gpt-5-mini", messages=QUESTION, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "hello there"
        await client.close()

    asyncio.run(work())
    rows = through.rows()
    assert len(rows) == 9
    assert len({row.call for row in rows}) == 9
    assert dollars(rows) == through.bench.provider.invoice.total()


def test_anthropic_whole_streamed_and_with_tools(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED)
    client = through.anthropic()
    asked: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": QUESTION}
    assert client.messages.create(**asked).content[0].text == "hello there"
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "hello there"
    through.bench.provider.script = lambda seen: Say(tools=(("look_up", '{"id": 7}'),), usage=USED)
    with client.messages.stream(**asked, tools=[{"name": "look_up", "input_schema": {"type": "object"}}]) as stream:
        assert [b.input for b in stream.get_final_message().content if b.type == "tool_use"] == [{"id": 7}]
    rows = through.rows()
    assert [(r.provider, r.dialect, r.input, r.cache_read, r.output) for r in rows] == [
        ("anthropic", "anthropic_messages", 900, 100, 40)] * 3  # fmt: skip
    assert dollars(rows) == through.bench.provider.invoice.total()


def test_async_anthropic_whole_and_streamed(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED)
    asked: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": QUESTION}

    async def work() -> None:
        client = through.anthropic(anthropic.AsyncAnthropic)
        assert (await client.messages.create(**asked)).content[0].text == "hello there"
        async with client.messages.stream(**asked) as stream:
            assert "".join([text async for text in stream.text_stream]) == "hello there"
        await client.close()

    asyncio.run(work())
    assert dollars(through.rows()) == through.bench.provider.invoice.total()


def test_gemini_whole_and_streamed_sync_and_async(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED)
    client = through.gemini()
    asked: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hello"}
    assert client.models.generate_content(**asked).text == "hello there"
    assert "".join(c.text or "" for c in client.models.generate_content_stream(**asked)) == "hello there"

    async def work() -> None:
        assert (await client.aio.models.generate_content(**asked)).text == "hello there"
        stream = await client.aio.models.generate_content_stream(**asked)
        assert "".join([c.text or "" async for c in stream]) == "hello there"

    asyncio.run(work())
    asyncio.run(work())  # another loop: the SDK makes another HTTP client for it
    rows = through.rows()
    assert [(r.provider, r.dialect, r.input, r.cache_read, r.output) for r in rows] == [
        ("gemini", "gemini_generate", 900, 100, 40)] * 6  # fmt: skip
    assert dollars(rows) == through.bench.provider.invoice.total()


def test_an_sdks_hidden_retries_are_rows_of_their_own(through: Through) -> None:
    """One create() that fails twice is three tries; the caller never sees the first two."""
    soon = (("retry-after-ms", "1"),)
    through.bench.provider.script = lambda seen: (
        Say(status=500, headers=soon) if seen.number < 3 else Say(text="at last", usage=PLAIN)
    )
    answer = through.openai().chat.completions.create(model="gpt-5-mini", messages=QUESTION)
    assert answer.choices[0].message.content == "at last"
    rows = through.rows()
    assert [(r.operation, r.attempt_kind, r.cause, r.http_status) for r in rows] == [
        ("primary", "first", "", 500), ("retry", "retry", "sdk_retry", 500), ("retry", "retry", "sdk_retry", 200),
    ]  # fmt: skip
    assert [r.cost == 0 for r in rows] == [True, True, False]
    assert dollars(rows) == through.bench.provider.invoice.total()


def test_a_hard_budget_stops_the_call_before_the_provider_sees_it(through: Through) -> None:
    """As the SDK's own status error, once: no retry."""
    through.bench.policy(PRICED + '[[budget]]\nscope = "tenant"\nlimit = "$0.000001"\n')
    if through.gateway is not None:
        assert "in force" in through.gateway.gateway.reload()
    extra = {"x-bursar-tenant": "acme"}
    with pytest.raises(openai.APIStatusError, match="budget") as stopped:
        through.openai().chat.completions.create(model="gpt-5-mini", messages=QUESTION, extra_headers=extra)
    assert stopped.value.status_code == 402
    assert stopped.value.response.headers["x-should-retry"] == "false"
    assert stopped.value.response.headers["x-bursar-verdict"] == "refused:budget_exceeded"
    with pytest.raises(anthropic.APIStatusError) as refused:
        through.anthropic().messages.create(
            model="claude-sonnet-4-5", max_tokens=9, messages=QUESTION, extra_headers=extra
        )
    assert refused.value.status_code == 402
    assert len(through.bench.provider.seen) == 0
    rows = through.rows(2)
    assert [(r.status, r.error, r.cost) for r in rows] == [("refused", "budget_exceeded", 0)] * 2


def test_gemini_is_stopped_in_its_own_shape(through: Through) -> None:
    through.bench.policy(PRICED + '[[budget]]\nscope = "provider"\nlimit = "$0.000001"\n')
    if through.gateway is not None:
        through.gateway.gateway.reload()
    client = through.gemini()
    with pytest.raises(genai_errors.ClientError) as stopped:
        client.models.generate_content(model="gemini-2.5-flash", contents="hello")
    assert stopped.value.code == 402
    assert len(through.bench.provider.seen) == 0


def test_an_abandoned_stream_is_booked_as_abandoned_and_not_at_zero(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="x" * 4000, usage=USED, pieces=200, pause_s=0.01)
    client = through.openai()
    stream = client.chat.completions.create(model="gpt-5-mini", messages=QUESTION, stream=True)
    for _ in range(5):
        next(iter(stream))
    stream.close()
    if through.gateway is not None:
        through.gateway.stop(5)
        through.gateway, ledger = None, through.gateway.gateway.shop
        from bursar.stores.reader import Reader

        with Reader(ledger.folder) as reader:
            (found,) = reader.sql("select ended, cost, usage_source, price_status from calls")
        assert found["ended"] == "abandoned"
        assert found["cost"] > 0
        assert (found["usage_source"], found["price_status"]) == ("estimated", "estimated")
        return
    (row,) = through.rows()
    assert (row.status, row.ended, row.usage_source, row.price_status) == ("ok", "abandoned", "estimated", "estimated")
    assert row.cost and row.input and row.output


def test_a_stream_that_breaks_off_is_booked_and_the_caller_told(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(text="hello there", usage=USED, fault="cut")
    stream = through.anthropic().messages.create(
        model="claude-sonnet-4-5", max_tokens=9, messages=QUESTION, stream=True
    )
    with pytest.raises((httpx2.RemoteProtocolError, anthropic.APIError)):
        list(stream)
    (row,) = through.rows()
    assert (row.status, row.ended) == ("error", "failed")
    assert row.cost
    assert row.usage_source != "provider"


def test_a_raw_response_shows_the_call_and_its_cost(through: Through) -> None:
    through.bench.provider.script = lambda seen: Say(usage=PLAIN)
    raw = through.openai().chat.completions.with_raw_response.create(model="gpt-5-mini", messages=QUESTION)
    (row,) = through.rows()
    assert raw.headers["x-bursar-call"] == row.call
    assert Decimal(raw.headers["x-bursar-cost"]) == dollars([row])
    assert raw.headers["x-bursar-cost-source"] == "provider"
    assert raw.parse().usage.prompt_tokens == 700


def test_an_unreachable_provider_is_the_sdks_own_connection_error(bench: Bench) -> None:
    """The original exception, so that the SDK retries as ever; nothing was sent, so nothing is billed."""
    bench.policy("")
    bench.config.write_text('[providers.openai]\nbase_url = "http://127.0.0.1:9"\n')
    client = bursar.wrap(
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=1), config=bench.config, ledger=bench.ledger
    )
    with pytest.raises(openai.APIConnectionError) as failed:
        client.chat.completions.create(model="gpt-5-mini", messages=QUESTION)
    assert type(failed.value.__cause__).__name__ == "ConnectError"
    rows = bench.rows(2)
    assert [(r.operation, r.status, r.error, r.cost) for r in rows] == [
        ("primary", "error", "connect", 0), ("retry", "error", "connect", 0)]  # fmt: skip


def test_a_timeout_stays_at_its_hold(bench: Bench) -> None:
    """The provider has seen the request and will bill it; nobody can say how much."""
    bench.policy(PRICED)
    bench.provider.script = once(Say(fault="silence"))
    client = bursar.wrap(
        openai.OpenAI(api_key="k", base_url=bench.url("openai"), max_retries=0, timeout=0.3), **bench.wrapping()
    )
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="gpt-5-mini", messages=QUESTION)
    (row,) = bench.rows(1)
    assert (row.status, row.error, row.usage_source, row.flags) == ("unknown", "read_timeout", "unknown", "")
    assert row.cost == row.hold > 0


def test_a_cancelled_call_stays_at_its_hold(bench: Bench) -> None:
    bench.policy(PRICED)
    bench.provider.script = once(Say(fault="silence"))

    async def work() -> None:
        client = bursar.wrap(openai.AsyncOpenAI(api_key="k", base_url=bench.url("openai")), **bench.wrapping())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.chat.completions.create(model="gpt-5-mini", messages=QUESTION)
        await client.close()

    asyncio.run(work())
    (row,) = bench.rows(1)
    assert (row.status, row.error) == ("unknown", "cancelled")
    assert len(bench.provider.seen) == 1
    assert row.cost == row.hold > 0


def test_the_labels_of_the_program_are_on_the_row(bench: Bench) -> None:
    client = bursar.wrap(openai.OpenAI(api_key="k", base_url=bench.url("openai")), **bench.wrapping())
    with bursar.labels(tenant="acme", feature="support", flow="refund", team="blue"), bursar.operation("eval"):
        client.chat.completions.create(model="gpt-5-mini", messages=QUESTION)
        client.chat.completions.create(model="gpt-5-mini", messages=QUESTION, extra_headers={"x-bursar-tenant": "globex"})
    first, second = bench.rows()
    assert (first.tenant, first.feature, first.flow, first.operation) == ("acme", "support", "refund", "eval")
    assert first.labels == '{"team": "blue"}'
    assert second.tenant == "globex"


def test_clients_made_from_a_wrapped_one_are_wrapped(bench: Bench) -> None:
    client = bursar.wrap(openai.OpenAI(api_key="k", base_url=bench.url("openai")), **bench.wrapping())
    client.with_options(timeout=5).chat.completions.create(model="gpt-5-mini", messages=QUESTION)
    assert len(bench.rows()) == 1
