"""Small streams of every dialect, written out, and how they are fed in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bursar import wire
from bursar.domain.call import Asked, Reading


class Fed(NamedTuple):
    """What came of a stream: bytes to the client at once, bytes kept for after the booking, and what was read."""

    out: bytes
    kept: bytes
    done: bool
    reading: Reading


def feed(name: str, pieces: Sequence[bytes], hide: bool = False, asked: Asked = Asked()) -> Fed:
    reader = wire.DIALECTS[name].reader(asked, hide)
    out = b"".join([reader.feed(piece) for piece in pieces])
    reader.finish()
    return Fed(out, reader.kept, reader.done, reader.reading())


def cut(body: bytes, *at: int) -> list[bytes]:
    edges = [0, *sorted(at), len(body)]
    return [body[a:b] for a, b in zip(edges, edges[1:])]


CHAT_USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
CHAT = (
    (
        b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"Hi \\"usage\\":{ [DONE] \xd1\x84"}}],"usage":null}\n\n'
        b": ping\n\n"
        b'data: {"id":"c","model":"m","choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
    )
    + CHAT_USAGE
    + b"data: [DONE]\n\n"
)
CHAT_CRLF = CHAT.replace(b"\n", b"\r\n")
CHAT_CR = b"\xef\xbb\xbf" + CHAT.replace(b"\n", b"\r")
# Data in several lines, no space after the colon, an id field, no blank line at the end.
CHAT_ODD = (
    b'id: 1\ndata:{"id":"c","model":"m",\ndata:"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n\n'
    b'data:{"choices":[],\ndata: "usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\ndata:[DONE]'
)
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"a","model":"m","usage":{"input_tokens":7,'
    b'"cache_read_input_tokens":5,"output_tokens":1}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"message_stop"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","model":"m","usage":null}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"response.completed"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","model":"m","status":"completed",'
    b'"usage":{"input_tokens":9,"output_tokens":3,"total_tokens":12}}}\n\n'
)
GEMINI = (
    b'data: {"candidates":[{"content":{"parts":[{"text":"a}]"}]}}],"usageMetadata":{"promptTokenCount":9}}\r\n\r\n'
    b'data: {"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,'
    b'"thoughtsTokenCount":1,"totalTokenCount":12},"modelVersion":"m"}\r\n\r\n'
)
GEMINI_ARRAY = (
    b'[{"candidates":[{"content":{"parts":[{"text":"a}],\\"{\\\\"}]}}],"usageMetadata":{"promptTokenCount":9}}\n,\r\n'
    b'{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,'
    b'"thoughtsTokenCount":1,"totalTokenCount":12},"modelVersion":"m"}\n]\n'
)

SMALL: dict[str, tuple[str, bytes]] = {
    "chat": ("openai_chat", CHAT),
    "chat in CRLF": ("openai_chat", CHAT_CRLF),
    "chat in CR with a BOM": ("openai_chat", CHAT_CR),
    "chat in odd lines": ("openai_chat", CHAT_ODD),
    "anthropic": ("anthropic_messages", ANTHROPIC),
    "responses": ("openai_responses", RESPONSES),
    "gemini": ("gemini_generate", GEMINI),
    "gemini as an array": ("gemini_generate", GEMINI_ARRAY),
}
