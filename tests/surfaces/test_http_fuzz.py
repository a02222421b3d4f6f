"""The request reader under random cuts and random bytes: no hang, no stray exception, never more requests than were sent."""

from __future__ import annotations

import asyncio
import random

import pytest
from http_rig import request, run, serving, wire
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bursar.surfaces.http_heads import Heads
from bursar.surfaces.http_requests import BodyMemory, Incoming, Refused, RequestReader
from bursar.surfaces.http_server import Responder, ServerLimits

LIMITS = ServerLimits(body_bytes=50_000, header_bytes=4096, target_bytes=512, header_count=20)

VALID = [
    request("GET", "/a?b=c"),
    request(body=b"hello", headers=("X-A:  1 ", "X-B:")),
    request(body=b"x" * 20_000),
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;e=1\r\nhello\r\n006\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"\r\nPUT /d HTTP/1.0\r\nHost: a:80\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /e HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
]


def read(pieces: list[bytes], heads: Heads | None = None) -> tuple[list[Incoming], Refused | None]:
    """As the connection does it: what comes back unread is fed again once the queue was served."""
    memory = BodyMemory(1 << 30)
    reader = RequestReader(LIMITS, memory, heads or Heads())
    got: list[Incoming] = []
    refusal: Refused | None = None
    for piece in pieces:
        while piece and refusal is None:
            try:
                piece = reader.feed(piece)
            except Refused as refused:
                refusal = refused
            got += reader.queue
            if got and not got[-1].keep_alive:
                return got, None
            memory.used -= sum(len(i.body) for i in reader.queue)
            reader.queue.clear()
    reader.forget()
    assert memory.used == 0
    return got, refusal


def seen(incoming: Incoming) -> tuple[object, ...]:
    return (
        incoming.method, incoming.path, incoming.query, tuple(incoming.headers), incoming.body, incoming.http_minor,
        incoming.keep_alive,
    )  # fmt: skip


WHOLE = [seen(read([message])[0][0]) for message in VALID]


@pytest.mark.parametrize("number", range(len(VALID)))
def test_every_single_cut_gives_the_same_request(number: int) -> None:
    """At each byte of a short message, and at 200 places of a long one."""
    message = VALID[number]
    for at in range(1, len(message), max(1, len(message) // 200)):
        got, refusal = read([message[:at], message[at:]])
        assert refusal is None and [seen(i) for i in got] == [WHOLE[number]]
    got, refusal = read([message[i : i + 1] for i in range(len(message))])
    assert refusal is None and [seen(i) for i in got] == [WHOLE[number]]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(VALID) - 1), min_size=1, max_size=6), st.data())
def test_any_cut_of_any_sequence_gives_the_same_requests(order: list[int], data: st.DataObject) -> None:
    """Pipelined or not, whatever the network makes of it."""
    sent = b"".join(VALID[i] for i in order)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=12)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    got, refusal = read(pieces)
    assert refusal is None
    assert [seen(i) for i in got] == [WHOLE[i] for i in order]


SNIPPETS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"0", b"5", b"+", b"0x", b";", b",", b"chunked", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Host: b\r\n",
    b"Connection: close\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\n", b"HTTP/1.0", b"\xff", b"\x0b", b"CONNECT ", b"ffffffffffffffff",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with a few bytes changed, dropped, doubled or put in."""
    message = bytearray(draw(st.sampled_from([v for v in VALID if len(v) < 1000])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(message) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if message:
                message[at] = draw(st.integers(0, 255))
            case 1:
                del message[at : at + draw(st.integers(1, 8))]
            case 2:
                message[at:at] = message[at : at + draw(st.integers(1, 30))]
            case _:
                message[at:at] = draw(st.sampled_from(SNIPPETS))
    return bytes(message)


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.integers(1, 64))
def test_no_mutation_makes_two_answers_differ_by_how_it_was_cut(message: bytes, step: int) -> None:
    """Only `Refused` may come out, and the same requests are seen whole, in steps, and byte by byte.

    A reader that depended on the cut is how one side of a proxy comes to see a request that the other did not.
    """
    whole = read([message])
    stepped = read([message[i : i + step] for i in range(0, len(message), step)])
    single = read([message[i : i + 1] for i in range(len(message))])
    assert [seen(i) for i in whole[0]] == [seen(i) for i in stepped[0]] == [seen(i) for i in single[0]]
    assert (whole[1] is None) == (stepped[1] is None) == (single[1] is None)


WARM = Heads()
for message in VALID:
    read([message], WARM)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.integers(1, 64))
@example(b"\r\n\r\nGET /a?b=c HTTP/1.1\r\nHost: bursar.test\r\n\r\n", 1)
def test_a_head_that_came_before_is_read_as_it_was_the_first_time(message: bytes, step: int) -> None:
    """However it is cut, whatever else was read before it: remembering heads may change nothing but the time it takes."""
    cold = read([message])
    for heads in (WARM, Heads()):
        again = [read([message], heads), read([message], heads), read([message[i : i + step] for i in range(0, len(message), step)], heads)]
        for warm in again:
            assert [seen(i) for i in warm[0]] == [seen(i) for i in cold[0]]
            assert (warm[1] is None) == (cold[1] is None)


HEAD = b"POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX-A: 1\r\n\r\n"
BARE = b"GET /n HTTP/1.1\r\nHost: a\r\n\r\n"
LENGTHS = [b"5", b"0", b"05", b"", b"+5", b" 5", b"5 ", b"5x", b"x", b"5,5", b"4294967296", b"1234567890", b"5\r\nContent-Length: 6"]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([HEAD % b"5", BARE]), mutated() | st.sampled_from(LENGTHS).map(HEAD.__mod__) | st.just(BARE), st.integers(1, 64))
@example(BARE, BARE, 1)
def test_what_follows_on_a_connection_is_read_as_if_it_came_first(first: bytes, message: bytes, step: int) -> None:
    """Whether or not its head begins like the one before, and whatever stands behind it."""
    before = first + b"hello" * (first is not BARE)
    for behind in (b"", b"hello", b"hello" + message, b"5\r\n\r\nhello"):
        sent = message + behind
        alone = read([sent])
        for pieces in ([before, sent], [before + sent], [before, *cut(sent, step)]):
            got, refusal = read(pieces)
            assert [seen(i) for i in got[1:]] == [seen(i) for i in alone[0]]
            assert (refusal is None) == (alone[1] is None)


@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_bodies_behind_a_head_that_came_before_are_bounded_too(step: int) -> None:
    """One alone, and all together."""
    small = HEAD % b"5" + b"hello"
    got, refusal = read([small, *cut(HEAD % b"50001" + b"x" * 50_001, step)])
    assert len(got) == 1 and refusal is not None and refusal.code == "body_too_large"
    memory = BodyMemory(10_000)
    reader = RequestReader(LIMITS, memory, Heads())
    assert reader.feed(small) == b"" and memory.used == 5
    with pytest.raises(Refused) as full:
        for piece in cut(HEAD % b"9996" + b"x" * 9_996, step):
            reader.feed(piece)
    assert full.value.code == "body_memory"
    reader.forget()
    assert memory.used == 0


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[i : i + step] for i in range(0, len(data), step)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=2, max_size=6), st.integers(1, 400))
def test_bodies_of_any_length_behind_one_head_are_told_apart(bodies: list[bytes], step: int) -> None:
    """Kept alive, sent ahead, cut anywhere: only the digits of the length differ, and they decide."""
    sent = b"".join(request(body=body, headers=("X-A: 1",)) for body in bodies)
    got, refusal = read([sent[i : i + step] for i in range(0, len(sent), step)], WARM)
    assert refusal is None and [i.body for i in got] == bodies
    for (before, behind), head in WARM._known.items():
        (cold,), _ = read([before + b"0" * bool(behind) + behind])
        assert (cold.method, cold.path, cold.query, cold.headers) == (head.method, head.path, head.query, head.headers)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_make_no_request(noise: bytes) -> None:
    """And no exception but a refusal."""
    assert read([noise])[0] == []


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_a_request_is_never_made_of_another_ones_body(message: bytes) -> None:
    """The marker stands in a body of declared length; as a request it would have been smuggled in.

    Only messages whose framing headers are untouched: else the mutation itself has moved the border.
    """
    inner = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    head = message.partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")[1:]
    if any(b"length" in line.lower() or b"encoding" in line.lower() for line in lines):
        return
    got, _ = read([head + b"\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner])
    assert "/smuggled" not in [i.path for i in got]
    assert len(got) <= 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_under_mutations_neither_hangs_nor_breaks(loop: str) -> None:
    """Seeded, over real sockets: the connection always ends or answers, and a good client is served meanwhile."""

    async def work() -> None:
        seed = random.Random(7)
        answered: list[Incoming] = []

        async def handler(incoming: Incoming, responder: Responder) -> None:
            answered.append(incoming)
            responder.respond(200, [], b"ok")

        async def attack(port: int) -> None:
            message = bytearray(seed.choice([v for v in VALID if len(v) < 1000]))
            for _ in range(seed.randint(1, 4)):
                at = seed.randrange(len(message))
                message[at:at] = seed.choice(SNIPPETS)
            async with wire(port) as bad:
                cut = seed.randrange(len(message))
                try:
                    bad.send(bytes(message[:cut]))
                    await asyncio.sleep(0)
                    bad.send(bytes(message[cut:]))
                    bad.writer.write_eof()
                except OSError:
                    pass
                await bad.rest()

        async with serving(handler, LIMITS) as server, wire(server.port) as good:
            for _ in range(40):
                await asyncio.gather(*(attack(server.port) for _ in range(10)))
                good.send(request("GET", "/good"))
                assert (await good.answer())[0] == 200
            assert server.connections < 50

    run(loop, work)


@pytest.mark.fuzz
@settings(max_examples=200_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(), st.integers(1, 64))
def test_for_hours_no_mutation_depends_on_the_cut(message: bytes, step: int) -> None:
    """The same as above, as long as `make fuzz` likes."""
    whole, stepped = read([message]), read([message[i : i + step] for i in range(0, len(message), step)])
    assert [seen(i) for i in whole[0]] == [seen(i) for i in stepped[0]]
    assert (whole[1] is None) == (stepped[1] is None)
