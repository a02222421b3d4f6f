"""What stands around the messages is read once, and a body is still read as if it were the first, whatever it does."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, Malformed
from bursar.wire import frame, opening
from bursar.wire.history import Kept, Signs

PATH = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["a"]}}}]


def read(body: bytes, signs: Signs | None = None) -> Asked | Malformed:
    return wire.DIALECTS["openai_chat"].read(PATH, body, signs or Signs())


def known(body: bytes) -> Signs:
    """Who has read this body before."""
    signs = Signs()
    for _ in range(3):
        read(body, signs)
    return signs


def kept(signs: Signs) -> int:
    return sum(len(found) for found in signs.tellers["openai_chat"].frames.known.values())


def say(*texts: str) -> bytes:
    return json.dumps([{"role": "user", "content": text} for text in texts], separators=(",", ":")).encode()


HEADS = (
    b'{"messages":%s,"model":"m","max_tokens":40}',
    b'{"model":"m","max_tokens":40,"messages":%s}',
    b'{"model":"m", "messages" : %s , "tools":' + json.dumps(TOOLS).encode() + b', "stop":["]","}"]}',
    b'{"user":"u","tools":' + json.dumps(TOOLS * 9).encode() + b',"model":"m","messages":%s}',
)


@pytest.mark.parametrize("around", HEADS)
def test_the_rest_of_a_body_that_came_before_is_not_read_again(around: bytes) -> None:
    signs = known(around % say("a"))
    assert kept(signs) == 1
    with patch.object(opening, "read", lambda *_: pytest.fail("it is known")):
        for texts in (("b",), ("a", "b", "c]", '"messages":[]'), ("ü" * 9000,), ()):
            assert read(around % say(*texts), signs) == read_fresh(around % say(*texts))


def read_fresh(body: bytes) -> Asked | Malformed:
    """As by a process that has seen nothing, `opening.read` being what it is."""
    with patch.object(opening, "read", READ):
        return read(body)


READ = opening.read
M, N = say("a"), say("b", "c")
LEARNT = (
    *[around % M for around in HEADS],
    b'{"metadata":{"messages":%s},"messages":%s,"model":"m"}' % (M, M),
    b'{"messages":%s,"metadata":{"messages":%s},"model":"m"}' % (M, M),
    b'{"metadata":{"messages":%s},"\\u006dessages":%s,"model":"m"}' % (M, M),
    b'{"messages":%s,"\\u006dessages":%s,"model":"m"}' % (M, M),
    b'{"messages":%s,"messages":%s,"model":"m"}' % (M, M),
    b'{"metadata":{"messages":%s},"model":"m"}' % M,
    b'{"x":"messages","y":%s,"messages":%s}' % (M, M),
    b'{"messages":null,"y":%s}' % M,
    b'{"messages":[],"model":"m"}',
)  # fmt: skip


def strange(body: bytes) -> list[bytes]:
    """Bodies that are nearly like this one."""
    at = body.find(b"[")
    found = [
        body.replace(M, N), body.replace(M, N, 1), N.join(body.rsplit(M, 1)), body.replace(M, M[:-1]), body.replace(M, M[1:]),
        body.replace(M, M + M, 1), body.replace(M, b"[]"), body.replace(M, b"[1]"), body.replace(M, b'["a"]'), body.replace(M, b"7"),
        body.replace(M, b'"]"'), body.replace(M, b"[,]"), body.replace(M, M[:-1] + b",]"), body.replace(M, say("\xff").replace(b"\\u00ff", b"\xff")),
        body.replace(M, M + b',"messages":' + N), body.replace(M, M + b',"model":"other"'), body.replace(M, M + b',"max_tokens":9,"n":3'),
        body.replace(M, N + b',"\\u006dodel":"other","z":[1]'), body.replace(M, b'[],"messages":' + N + b',"y":' + M),
        body.replace(b'"m"', b'"n"'), body.replace(b'"u"', b'"v"'), body.replace(b"40", b"41"), body[:-1], body + b"}", body + b" ", b" " + body, body[:at], body[at:],
        body.replace(M, b"[" * 3000 + b"]" * 3000), body.replace(M, b'[{"role":"user","content":"\\ud800"}]'),
    ]  # fmt: skip
    return [*found, *[one.replace(b'"a"', b'"%s"' % (b"a" * 5000)) for one in found]]


@pytest.mark.parametrize("learnt", LEARNT)
def test_a_body_like_a_known_one_is_read_as_if_it_were_the_first(learnt: bytes) -> None:
    for number, body in enumerate([learnt, *strange(learnt)]):
        signs = known(learnt)
        for _ in range(3):  # it becomes known itself
            assert read(body, signs) == read(body), (number, body)
        assert read(learnt, signs) == read(learnt)


@pytest.mark.parametrize("hour", [{}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}])
@pytest.mark.parametrize("where", ["system", "tools", "messages", "top"])
@pytest.mark.parametrize("hosted", [False, True])
def test_what_anthropic_says_around_the_messages_holds_for_the_next_ones(hour: dict[str, Any], where: str, hosted: bool) -> None:
    """System prompt and tools, the session, one-hour cache writes: whether the frame or a message says so."""

    def body(text: str, marked: bool) -> bytes:
        put = {place: hour if place == where else {} for place in ("system", "tools", "messages", "top")}
        content = [{"type": "text", "text": text, **(put["messages"] if marked else {})}]
        return json.dumps({
            "max_tokens": 9, "messages": [{"role": "user", "content": content}], "model": "m", **put["top"],
            "system": [{"type": "text", "text": "You are Ann.", **put["system"]}], "metadata": {"user_id": json.dumps({"session_id": "2"})},
            "tools": [{"name": "f", "input_schema": {}, **put["tools"]}, *([{"type": "web_search_20250305", "name": "w"}] if hosted else [])],
        }).encode()  # fmt: skip

    dialect, signs = wire.DIALECTS["anthropic_messages"], Signs()
    bodies = [body(text, text == "b") for text in ("a", "b", "c", "b", "d " * 4000)]
    for number, one in enumerate(bodies):
        found = dialect.read("/v1/messages", one, signs)
        assert found == dialect.read("/v1/messages", one, Signs()), number
        assert isinstance(found, Asked) and (found.conversation, found.tools, bool(found.unbounded_input)) == ("2", 1 + hosted, hosted)
        assert found.cache_1h == bool(hour and (where != "messages" or number in (1, 3)))
        assert found.print != dialect.read("/v1/messages", one.replace(b"Ann", b"Bob"), Signs()).print  # type: ignore[union-attr]
    assert sum(len(kept) for kept in signs.tellers["anthropic_messages"].frames.known.values()) == 1


pieces = st.sampled_from([
    b'"messages":[]', b'"messages":[{"role":"user","content":"q"}]', b'"messages":null', b'"model":"m"', b'"model":"n"', b'"n":2', b'"stream":true',
    b'"user":"u"', b'"metadata":{"messages":[{"role":"user","content":"x"}]}', b'"stop":["]"]', b'"x":"messages"', b'"\\u006dessages":[1]', b'"tools":[]',
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(bodies=st.lists(st.lists(pieces, min_size=1, max_size=4), min_size=1, max_size=8))
def test_bodies_put_together_by_chance_are_read_as_if_each_were_the_first(bodies: list[list[bytes]]) -> None:
    signs = Signs()
    made = [b"{" + b",".join(one) + b"}" for one in bodies]
    for body in [*made, *made, *made, *[body.replace(b"q", b"other") for body in made]]:
        assert read(body, signs) == read(body)


def test_a_beginning_is_known_also_where_long_tools_stand_behind_a_short_talk() -> None:
    """As the Python SDK writes them: the end of the messages is far from the body's."""
    signs = Signs()
    said = [{"role": "user", "content": f"{n} {'go ' * 999}"} for n in range(6)]

    def body(upto: int) -> bytes:
        return json.dumps({"messages": said[:upto], "model": "m", "tools": TOOLS * 400}, separators=(",", ":")).encode()

    for upto in range(1, 6):
        read(body(upto), signs)
    with patch.object(signs.tellers["openai_chat"], "_read", lambda *_: pytest.fail("it is known")):
        signs.tellers["openai_chat"].said = Kept(1 << 20)
        assert isinstance(read(body(5), signs), Asked)


def test_what_differs_with_every_call_fills_no_memory() -> None:
    signs = Signs()
    for n in range(3 * frame.TRIED_MAX):
        read(b'{"messages":[],"model":"m","seed":%d}' % n, signs)  # behind the array: its key differs
    assert kept(signs) == 0
    for n in range(300):
        read(b'{"messages":[],"seed":%d,"stop":["a"]}' % n, signs)  # its key is the same
    frames = signs.tellers["openai_chat"].frames
    assert kept(signs) == frame.FRAMES and len(frames._tries) <= frame.TRIED_MAX
    for n in range(300):
        for _ in range(2):
            read(b'{"x":"%s","messages":[],"seed":%d}' % (b"y" * 30_000, n), signs)
    assert frames.bytes <= frame.BYTES_MAX and kept(signs) <= frame.BYTES_MAX // 30_000
