"""A stream cut anywhere reads the same and is relayed byte for byte; the terminal event waits, the hidden event is not shown."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bursar import wire
from bursar.domain.call import Asked
from bursar.domain.usage import Estimated, Known, Unknown

from .recorded import SPOKEN, exchanges
from .streams import ANTHROPIC, CHAT, CHAT_CRLF, CHAT_USAGE, GEMINI, GEMINI_ARRAY, RESPONSES, SMALL, cut, feed

CUTS = int(os.environ.get("BURSAR_CUTS", "100000"))  # nightly runs ask for more


@pytest.mark.parametrize("small", SMALL)
def test_every_single_and_double_cut_reads_and_relays_the_same(small: str) -> None:
    name, body = SMALL[small]
    whole = feed(name, [body])
    assert whole.out + whole.kept == body and whole.done and whole.kept
    usage = whole.reading.usage
    assert isinstance(usage, Known) and usage.tokens.total in (12, 16) and not usage.contradiction
    for first in range(len(body) + 1):
        assert feed(name, cut(body, first)) == whole

        for second in range(first + 1, len(body)):
            assert feed(name, cut(body, first, second)) == whole, (first, second)
    assert feed(name, [body[i : i + 1] for i in range(len(body))]) == whole


@pytest.mark.parametrize("body", [CHAT, CHAT_CRLF], ids=["LF", "CRLF"])
def test_the_usage_event_we_asked_for_is_read_and_not_shown(body: bytes) -> None:
    """Wherever it is cut: the client gets all but that one event."""
    extra = CHAT_USAGE if body is CHAT else CHAT_USAGE.replace(b"\n", b"\r\n")
    for at in range(len(body)):
        fed = feed("openai_chat", cut(body, at), hide=True)
        assert fed.out + fed.kept == body.replace(extra, b""), at
        assert isinstance(fed.reading.usage, Known) and fed.reading.usage.tokens.total == 12


def test_random_cuts_of_recorded_streams_read_and_relay_the_same(data_dir: Path) -> None:
    """100,000 cuts over the recorded streams of every dialect and vendor."""
    rng = random.Random(20261124)
    rows = [r for r in exchanges(data_dir) if r["stream"] and r["status"] < 300 and not r.get("response_truncated")]
    small = [r for r in rows if len(r["response_body"]) < 12_000]
    assert len(rows) > 800 and len(small) > 500
    wholes: dict[str, tuple[str, bytes, object]] = {}
    done = 0
    while done < CUTS:
        row = rng.choice(rows if done % 50 == 0 else small)
        if row["id"] not in wholes:
            body = row["response_body"].encode()
            wholes[row["id"]] = SPOKEN[row["dialect"]], body, feed(SPOKEN[row["dialect"]], [body])
        name, body, whole = wholes[row["id"]]
        at = [rng.randrange(len(body) + 1) for _ in range(min(rng.choice((3, 10, 30)), CUTS - done))]
        fed = feed(name, cut(body, *at))
        assert fed == whole and fed.out + fed.kept == body, (row["id"], sorted(at))
        done += len(at)
    print("streams", len(wholes), "of", len(rows), "cuts", done)


def test_a_chunk_of_whole_dull_events_is_handed_on_as_the_same_object() -> None:
    """Nothing kept, nothing hidden: no copy."""
    event = b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"x"}}]}\n\n'
    for name, first, chunk in (
        ("openai_chat", event, event * 3),
        ("anthropic_messages", b"", b'data: {"type":"content_block_delta","delta":{"text":"x"}}\n\n'),
        ("openai_responses", b"", b'data: {"type":"response.output_text.delta","delta":"x"}\r\n\r\n'),
    ):
        reader = wire.DIALECTS[name].reader(Asked(), True)
        reader.feed(first)
        assert reader.feed(chunk) is chunk


@pytest.mark.parametrize("small", SMALL)
def test_a_stream_cut_short_is_incomplete_and_never_known_to_be_zero(small: str) -> None:
    """Every prefix: what came is relayed, what the provider said is kept, what it did not say is not made up."""
    name, body = SMALL[small]
    for end in range(len(body)):
        fed = feed(name, [body[:end]])
        assert fed.out + fed.kept == body[:end]
        usage = fed.reading.usage
        assert fed.reading.complete == fed.done
        if isinstance(usage, Known):
            assert usage.tokens.total in (12, 16)


def test_anthropic_cut_after_message_start_states_the_input_and_leaves_the_output_to_be_estimated() -> None:
    """The output count of message_start is a placeholder and must not be priced."""
    fed = feed("anthropic_messages", [ANTHROPIC[: ANTHROPIC.index(b"event: message_delta")]])
    usage = fed.reading.usage
    assert isinstance(usage, Estimated) and not fed.reading.complete
    assert (usage.tokens.input, usage.tokens.cache_read, usage.tokens.output) == (7, 5, 0)
    assert fed.reading.output_bytes == len("message_stop")


def test_a_chat_stream_without_usage_is_unknown_with_its_bytes_counted() -> None:
    fed = feed("openai_chat", [CHAT.replace(CHAT_USAGE, b"")])
    assert isinstance(fed.reading.usage, Unknown) and fed.done
    assert fed.reading.output_bytes == len('Hi "usage":{ [DONE] ф'.encode()) + 2  # two escaped quotes count their backslash


def test_a_running_count_in_every_chunk_is_an_estimate_until_the_end() -> None:
    """Some vendors count along: the last count before a cut is a lower bound, not the bill."""
    chunk = (
        b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n'
    )
    fed = feed("openai_chat", [chunk % 1, chunk % 2, chunk % 3])
    assert isinstance(fed.reading.usage, Estimated) and fed.reading.usage.tokens.output == 3
    fed = feed("openai_chat", [chunk % 1, chunk % 2, chunk % 3, b"data: [DONE]\n\n"])
    assert isinstance(fed.reading.usage, Known) and fed.reading.usage.tokens.output == 3


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("openai_chat", b'data: {"error":{"message":"boom","type":"server_error","code":"overloaded"}}\n\n'),
        ("openai_responses", b'event: error\ndata: {"type":"error","code":"overloaded","message":"boom"}\n\n'),
        ("anthropic_messages", b'event: error\ndata: {"type":"error","error":{"type":"overloaded","message":"boom"}}\n\n'),
        ("gemini_generate", b'data: {"error":{"code":503,"message":"boom","status":"overloaded"}}\n\n'),
    ],
)
def test_an_error_inside_a_stream_is_recorded(name: str, event: bytes) -> None:
    before = {"openai_chat": CHAT, "openai_responses": RESPONSES, "anthropic_messages": ANTHROPIC, "gemini_generate": GEMINI}[name]
    body = before[: before.index(b"\n\n") + 2 if name != "gemini_generate" else before.index(b"\r\n\r\n") + 4] + event
    fed = feed(name, [body])
    assert (fed.reading.error, fed.reading.error_message) == ("overloaded", "boom")
    assert fed.out + fed.kept == body


def test_an_event_larger_than_the_bound_is_handed_on_and_its_usage_still_read() -> None:
    """response.completed repeats the answer; 9 MB of it are not gathered."""
    text = b"x" * (9 * 1024 * 1024)
    head, tail = RESPONSES.rsplit(b'"status"', 1)
    body = head + b'"output":[{"content":"' + text + b'"}],"status"' + tail
    pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    fed = feed("openai_responses", pieces)
    assert fed.out + fed.kept == body and fed.done and len(fed.kept) <= 2 * 65536
    assert isinstance(fed.reading.usage, Known) and fed.reading.usage.tokens.total == 12


def test_bytes_after_the_terminal_event_are_kept_with_it() -> None:
    """OpenRouter sends [DONE] after response.completed."""
    fed = feed("openai_responses", [RESPONSES, b"data: [DONE]\n\n"])
    assert fed.kept.endswith(b"data: [DONE]\n\n") and fed.out + fed.kept == RESPONSES + b"data: [DONE]\n\n"


def test_gemini_keeps_back_a_finish_only_until_something_follows() -> None:
    """There is no terminal event: what names a finishReason is the last one, if nothing comes after it."""
    reader = wire.DIALECTS["gemini_generate"].reader(Asked(), False)
    split = GEMINI.index(b"data:", 5)
    assert reader.feed(GEMINI[:split]) == GEMINI[:split]
    assert reader.feed(GEMINI[split:]) == b"" and not reader.done
    assert reader.feed(GEMINI[:split]) == GEMINI[split:] + GEMINI[:split]
    assert wire.DIALECTS["gemini_generate"].whole(200, GEMINI_ARRAY).usage == wire.DIALECTS["gemini_generate"].whole(200, GEMINI).usage


def test_usage_objects_of_a_stream_are_merged_and_never_added() -> None:
    """Absent and null take nothing back, zero takes nothing back, a later count stands."""
    later = ANTHROPIC.replace(
        b'"usage":{"output_tokens":4}', b'"usage":{"input_tokens":0,"cache_read_input_tokens":null,"output_tokens":4}'
    )
    assert feed("anthropic_messages", [later]).reading.usage.tokens == feed("anthropic_messages", [ANTHROPIC]).reading.usage.tokens
    twice = CHAT.replace(CHAT_USAGE, CHAT_USAGE * 2)
    assert feed("openai_chat", [twice]).reading.usage.tokens.total == 12
