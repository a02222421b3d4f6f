"""The scripted provider speaks to the official SDKs directly, breaks when told to, and bills what it served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai

from bursar.testing.invoice import Buckets
from bursar.testing.provider import Provider
from bursar.testing.script import Say

USED = Buckets(input=900, cache_read=100, output=40, reasoning=10)
TOOL = (("lookup_order", '{"id": "A-17", "fields": ["state", "total"]}'),)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def script(**fields: Any) -> dict[str, str]:
    return {"x-script": json.dumps(fields)}


def used(**buckets: int) -> dict[str, int]:
    return buckets


def chat(provider: Provider, **fields: Any) -> httpx.Response:
    body = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": fields.pop("stream", False),
    }
    return httpx.post(provider.url + "/v1/chat/completions", json=body, headers=script(**fields), timeout=5)


def openai_client(provider: Provider) -> openai.OpenAI:
    return openai.OpenAI(base_url=provider.url + "/v1", api_key="any", max_retries=0)


def anthropic_client(provider: Provider) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=provider.url, api_key="any", max_retries=0)


def gemini_client(provider: Provider) -> genai.Client:
    return genai.Client(api_key="any", http_options=genai.types.HttpOptions(base_url=provider.url))


USAGE = {"input": 900, "cache_read": 100, "output": 40, "reasoning": 10}


def test_openai_chat_is_understood_by_its_sdk_whole_and_streamed(provider: Provider) -> None:
    """The same usage reaches the SDK both ways, cached and reasoning tokens inside OpenAI's own totals."""
    with openai_client(provider) as client:
        ask: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
        headers = script(text="It is on its way.", usage=USAGE)
        whole = client.chat.completions.create(**ask, extra_headers=headers)
        assert whole.choices[0].message.content == "It is on its way."
        assert whole.usage and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1000, 50)
        assert whole.usage.prompt_tokens_details and whole.usage.prompt_tokens_details.cached_tokens == 100
        chunks = list(
            client.chat.completions.create(**ask, extra_headers=headers, stream=True, stream_options={"include_usage": True})
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It is on its way."
        assert chunks[-1].usage == whole.usage
        called = client.chat.completions.create(**ask, extra_headers=script(tools=TOOL))
        assert called.choices[0].message.tool_calls
        assert called.choices[0].message.tool_calls[0].function.arguments == TOOL[0][1]


def test_openai_responses_are_understood_by_the_sdk_whole_and_streamed(provider: Provider) -> None:
    """The stream helper assembles the same response that the whole body has."""
    with openai_client(provider) as client:
        for fields in ({"text": "Forty-two.", "usage": USAGE}, {"tools": TOOL, "usage": USAGE}):
            whole = client.responses.create(model="gpt-5", input="hi", extra_headers=script(**fields))
            assert whole.usage and (whole.usage.input_tokens, whole.usage.output_tokens) == (1000, 50)
            with client.responses.stream(model="gpt-5", input="hi", extra_headers=script(**fields)) as stream:
                streamed = stream.get_final_response()
            assert streamed.output_text == whole.output_text
            assert streamed.usage == whole.usage
            assert [item.type for item in streamed.output] == [item.type for item in whole.output]


def test_openai_embeddings_and_models_are_understood_by_the_sdk(provider: Provider) -> None:
    """A vector per input, also in the base64 that the SDK asks for by itself."""
    with openai_client(provider) as client:
        reply = client.embeddings.create(
            model="text-embedding-3-small", input=["a", "b"], extra_headers=script(usage=used(input=5000))
        )
        plain = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
        assert [item.embedding for item in reply.data] == [item.embedding for item in plain.data]
        assert [len(item.embedding) for item in reply.data] == [4, 4] and reply.data[0].embedding != reply.data[1].embedding
        assert reply.usage.prompt_tokens == 5000
        assert client.models.list().data


def test_anthropic_messages_are_understood_by_the_sdk_whole_and_streamed(provider: Provider) -> None:
    """Cache counters stand outside input_tokens; the stream's last cumulative output count wins."""
    with anthropic_client(provider) as client:
        ask: dict[str, Any] = {
            "model": "claude-haiku-4-5",
            "max_tokens": 99,
            "messages": [{"role": "user", "content": "hi"}],
        }
        for fields in ({"text": "Refunded.", "usage": USAGE}, {"tools": TOOL, "usage": USAGE}):
            whole = client.messages.create(**ask, extra_headers=script(**fields))
            counted = whole.usage
            assert (counted.input_tokens, counted.cache_read_input_tokens, counted.output_tokens) == (900, 100, 50)
            with client.messages.stream(**ask, extra_headers=script(**fields)) as stream:
                final = stream.get_final_message()
            assert [{**block.to_dict(), "id": ""} for block in final.content] == [
                {**block.to_dict(), "id": ""} for block in whole.content
            ]
            assert (final.usage.input_tokens, final.usage.output_tokens) == (900, 50)
        assert (
            client.messages.count_tokens(
                model="claude-haiku-4-5", messages=ask["messages"], extra_headers=script(usage=USAGE)
            ).input_tokens
            == 1000
        )


def test_gemini_is_understood_by_the_sdk_whole_and_streamed(provider: Provider) -> None:
    """Thoughts stand outside the candidates' count."""
    client = gemini_client(provider)
    config = genai.types.GenerateContentConfig(http_options=genai.types.HttpOptions(headers=script(text="A digest.", usage=USAGE)))
    whole = client.models.generate_content(model="gemini-2.5-flash", contents="hi", config=config)
    assert whole.text == "A digest." and whole.usage_metadata
    assert whole.usage_metadata.prompt_token_count == 1000
    assert (whole.usage_metadata.candidates_token_count, whole.usage_metadata.thoughts_token_count) == (40, 10)
    chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi", config=config))
    assert "".join(chunk.text or "" for chunk in chunks) == "A digest."
    assert chunks[-1].usage_metadata == whole.usage_metadata
    client.close()


def test_errors_reach_each_sdk_as_its_own_exception(provider: Provider) -> None:
    """Status, code and headers are what the script says."""
    headers = script(status=429, headers=[["retry-after", "7"]], message="slow down")
    with openai_client(provider) as client, pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="gpt-5", messages=[], extra_headers=headers)
    assert limited.value.code == "rate_limit_exceeded" and limited.value.response.headers["retry-after"] == "7"
    with anthropic_client(provider) as claude, pytest.raises(anthropic.RateLimitError, match="slow down"):
        claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=[], extra_headers=headers)
    assert provider.invoice.total() == 0


def test_an_error_event_in_a_stream_reaches_the_sdk_as_an_error(provider: Provider) -> None:
    """Half of the text, then the provider's own error event under a 200."""
    headers = script(fault="error_event")
    with openai_client(provider) as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="gpt-5", messages=[], extra_headers=headers, stream=True))
    with anthropic_client(provider) as claude, pytest.raises(anthropic.APIStatusError):
        list(claude.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=[], extra_headers=headers, stream=True
        ))  # fmt: skip


@pytest.mark.parametrize("fault", ["reset", "cut", "garbage"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_connection_is_a_transport_error(provider: Provider, fault: str, stream: bool) -> None:
    """Not an HTTP answer: the client's library says so."""
    with pytest.raises(httpx.TransportError):
        chat(provider, fault=fault, stream=stream)


@pytest.mark.parametrize("fault", ["stall", "silence"])
def test_a_stalled_answer_lasts_until_the_client_gives_up(provider: Provider, fault: str) -> None:
    """And its input is billed, because the provider had read it."""
    body = {"model": "gpt-5-mini", "messages": [], "stream": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            provider.url + "/v1/chat/completions", json=body, timeout=0.3,
            headers=script(fault=fault, usage=used(input=1_000_000, output=10)),
        )  # fmt: skip
    _until(lambda: len(provider.invoice.lines) == 1)
    assert provider.invoice.lines[0].used.input == 1_000_000
    assert provider.invoice.lines[0].used.output < 10


def test_malformed_replies_are_whole_http_and_billed(provider: Provider) -> None:
    """Tool arguments, or the JSON that was demanded, do not parse; the usage is there all the same."""
    tooled = chat(provider, fault="malformed", tools=TOOL, usage=USAGE).json()
    for text in (
        tooled["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        chat(provider, fault="malformed", usage=USAGE).json()["choices"][0]["message"]["content"],
    ):
        with pytest.raises(ValueError):
            json.loads(text)
    assert provider.invoice.total() == 2 * Decimal("0.0003275")


def test_an_unfinished_stream_lacks_its_terminal_event(provider: Provider) -> None:
    """The HTTP message is whole; the protocol above it is not."""
    answer = chat(provider, fault="unfinished", stream=True)
    assert answer.status_code == 200 and "[DONE]" not in answer.text
    assert provider.invoice.lines[0].why == "cut"


def test_a_stream_the_client_abandons_is_billed_for_its_input_and_what_was_made(provider: Provider) -> None:
    """As providers do: the client's leaving does not unmake tokens."""
    body = {"model": "gpt-5-mini", "messages": [], "stream": True}
    headers = script(text="word " * 100, pieces=100, pause_s=0.02, usage=used(input=1000, output=1000))
    with httpx.stream("POST", provider.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_bytes())
    _until(lambda: len(provider.invoice.lines) == 1)
    line = provider.invoice.lines[0]
    assert line.why == "abandoned" and line.used.input == 1000 and 0 < line.used.output < 1000


def test_the_invoice_prices_every_bucket_by_hand_arithmetic(provider: Provider) -> None:
    """One million of each bucket of Haiku 4.5: 1 + 0.10 + 1.25 + 2 + 5 dollars, reasoning as output."""
    for bucket in Buckets.__slots__:
        httpx.post(
            provider.url + "/v1/messages", json={"model": "claude-haiku-4-5", "messages": []},
            headers=script(usage={bucket: 1_000_000}, at_us=1_791_000_000_000_000),
        )  # fmt: skip
    amounts = [line.dollars for line in provider.invoice.lines]
    assert amounts == [Decimal(x) for x in ("1", "0.10", "1.25", "2", "5", "5")]
    assert provider.invoice.by_model() == {"claude-haiku-4-5": Decimal("14.35")}
    assert provider.invoice.by_day() == {"2026-10-03": Decimal("14.35")}


def test_a_model_without_a_price_has_no_total_rather_than_a_total_of_zero(provider: Provider) -> None:
    """Unknown is not zero, on this bill either."""
    httpx.post(provider.url + "/v1/messages", json={"model": "claude-unheard-of", "messages": []})
    with pytest.raises(LookupError, match="claude-unheard-of"):
        provider.invoice.total()


def test_a_script_is_any_function_of_what_was_seen() -> None:
    """It sees model, path, headers and the decoded body, and what it saw is kept for the test to look at."""
    with Provider(lambda seen: Say(text=f"{seen.number}: {seen.model} {len(seen.body['messages'])}")) as provider:
        said = [chat(provider).json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert said == ["1: gpt-5-mini 1", "2: gpt-5-mini 1"]
    assert [seen.dialect for seen in provider.seen] == ["openai.chat", "openai.chat"]


def test_the_default_script_may_tell_a_second_model_something_else(provider: Provider) -> None:
    """What a fallback needs: the first model's answer is broken, the dearer one's is not."""
    headers = script(fault="malformed", models={"gpt-5": {"fault": "", "text": "{}"}})
    with openai_client(provider) as client:
        texts = [
            client.chat.completions.create(model=model, messages=[], extra_headers=headers).choices[0].message.content
            for model in ("gpt-5-mini", "gpt-5")
        ]
    assert texts[0] != "{}" and texts[1] == "{}"


def test_a_script_with_an_unknown_field_is_answered_with_what_is_wrong(provider: Provider) -> None:
    """A typing error in a script must not look like a provider's answer."""
    answer = chat(provider, txt="hi")
    assert answer.status_code == 400 and "txt" in answer.text


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Ids and dates in bodies come from seed and number alone."""
    bodies: list[list[bytes]] = []
    for seed in (1, 1, 2):
        with Provider(seed=seed) as provider:
            bodies.append([chat(provider, stream=stream).content for stream in (False, True)])
    assert bodies[0] == bodies[1] != bodies[2]


def test_pieces_of_a_body_may_come_chunked_from_the_client(provider: Provider) -> None:
    """Some clients stream their request bodies."""
    body = json.dumps({"model": "gpt-5-mini", "messages": []}).encode()
    answer = httpx.post(provider.url + "/v1/chat/completions", content=iter([body[:10], body[10:]]))
    assert answer.status_code == 200 and provider.seen[0].raw == body


def test_a_client_that_speaks_no_http_is_hung_up_on(provider: Provider) -> None:
    """And the provider lives on."""
    host, _, port = provider.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as raw:
        raw.sendall(b"hello\r\n\r\n")
        assert raw.recv(1) == b""
    assert chat(provider).status_code == 200


def test_it_runs_in_a_process_of_its_own_and_tells_its_bill_over_http() -> None:
    """So that a gateway and its provider do not share an interpreter; it ends with its parent."""
    with subprocess.Popen(
        [sys.executable, "-m", "bursar.testing.provider", "--with-parent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout and process.stdin
        url = process.stdout.readline().strip()
        httpx.post(
            url + "/v1/chat/completions",
            json={"model": "gpt-5", "messages": []},
            headers=script(usage=used(input=1_000_000)),
        )
        bill = httpx.get(url + "/_script/invoice").json()
        process.stdin.close()
        assert process.wait(10) == 0
    assert (bill["total"], bill["tries"], bill["by_model"]) == ("1.25", 1, {"gpt-5": "1.25"})


def _until(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
