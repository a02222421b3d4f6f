"""What the input was spent on: four classes that sum to the input's legs to the last digit, the cached prefix where it lies."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.history import ASSISTANT, HUMAN, SYSTEM, TOOL, History
from bursar.domain.price import Price, Rate
from bursar.domain.usage import Tokens
from bursar.rules.price import COLUMN, INPUT_SIDE, bill, spread
from bursar.rules.share import shares
from wire.talks import Human, Says, history

PRICE = Price("p", "x", "m", {"input": Rate(3_000_000_007), "output": Rate(15_000_000_000), "cache_read": Rate(300_000_001), "cache_write": Rate(3_750_000_003), "cache_write_1h": Rate(6_000_000_001), "input_audio": Rate(9_000_000_000), "input_image": Rate(4_000_000_009)})  # fmt: skip


def told(*runs: tuple[int, int], system: int = 0, before: tuple[int, int, int] = (0, 0, 0)) -> History:
    """A history of (kind, bytes), with `before` bytes of talk, results and system that are further back."""
    base = history("openai_chat", (Human("x"),))
    newest = len(runs) - next((n for n, (kind, _) in enumerate(reversed(runs)) if kind == ASSISTANT), len(runs))
    new = sum(size for kind, size in runs[newest:] if kind == HUMAN)
    talk = sum(size for kind, size in runs if kind in (HUMAN, ASSISTANT)) - new + before[0]
    tools = sum(size for kind, size in runs if kind == TOOL) + before[1]
    fixed = sum(size for kind, size in runs if kind == SYSTEM) + before[2] + system
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    return History(**{**fields, "weights": (new, talk, tools, fixed), "runs": array("Q", [size << 2 | kind for kind, size in runs])})


def input_of(tokens: Tokens) -> int:
    return sum(leg.pico for leg in bill(tokens, PRICE).legs if COLUMN.get(leg.unit) in INPUT_SIDE)


def paid(tokens: Tokens) -> tuple[int, int, int]:
    return bill(tokens, PRICE).parts[:3]


counts = st.integers(0, 200_000)
sizes = st.integers(1, 90_000)
runs = st.lists(st.tuples(st.sampled_from([SYSTEM, HUMAN, ASSISTANT, TOOL]), sizes), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    runs=runs, system=st.integers(0, 50_000), before=st.tuples(st.integers(0, 900_000), st.integers(0, 900_000), st.integers(0, 9_000)),
    tokens=st.builds(Tokens, input=counts, cache_read=counts, cache_write=counts, cache_write_1h=counts, output=counts, input_audio=counts, input_image=counts,
                     reasoning=st.just(0), cache_read_audio=st.just(0), output_audio=st.just(0), output_image=st.just(0), other=st.just(())),
    seen=st.integers(0, 300_000),
)  # fmt: skip
def test_the_four_sum_to_the_inputs_legs_exactly(runs: list, system: int, before: tuple[int, int, int], tokens: Tokens, seen: int) -> None:
    """Whatever was cached, written, sent in other media or kept by the provider."""
    found = shares(told(*runs, system=system, before=before), tokens, paid(tokens), seen)
    assert sum(found.cost) == input_of(tokens)
    assert sum(found.tokens) == tokens.input_total
    assert min(found.cost) >= 0 and min(found.tokens) >= 0


few = st.integers(0, 60)


@settings(max_examples=200, deadline=None)
@given(
    runs=st.lists(st.tuples(st.sampled_from([SYSTEM, HUMAN, ASSISTANT, TOOL]), st.integers(1, 40)), max_size=6), system=few,
    counted=st.tuples(few, few, few, few), bill=st.tuples(few, few, few), seen=st.integers(0, 80),
)  # fmt: skip
def test_each_byte_pays_for_what_was_done_with_it(
    runs: list[tuple[int, int]], system: int, counted: tuple[int, int, int, int], bill: tuple[int, int, int], seen: int
) -> None:
    """The prompt laid out byte by byte: what was read from the cache is its beginning, what was written follows, the rest is afresh."""
    fresh, cached, written, hour = counted
    tokens = Tokens(fresh, cached, written, hour)
    total, (afresh, from_cache, to_cache) = sum(counted), bill
    last = max((n for n, (kind, _) in enumerate(runs) if kind == ASSISTANT), default=-1)
    classes = {SYSTEM: 3, ASSISTANT: 1, TOOL: 2}
    said = [classes.get(kind, int(n < last)) for n, (kind, size) in enumerate(runs) for _ in range(size)]
    unseen = (system + len(said)) * (total - seen) // seen if 0 < seen < total else 0
    laid = [3] * system + [1] * unseen + said

    def split(pico: int, of: list[int]) -> list[int]:
        return spread(pico, [(of or laid).count(kind) for kind in range(4)])

    reads, writes = (len(laid) * n // total if total else 0 for n in (counted[1], sum(counted[1:])))
    want = [split(from_cache, laid[:reads]), split(to_cache, laid[reads:writes]), split(afresh, laid[writes:])]
    if not total:
        want = [[sum(bill), 0, 0, 0]]
    elif not sum(counted[1:]):
        want = [split(sum(bill), laid)]
    found = shares(told(*runs, system=system), tokens, bill, seen)
    assert found.cost == tuple(map(sum, zip(*want, strict=True)))
    assert found.tokens == tuple(split(total, laid))


TALK = told((SYSTEM, 4000), (HUMAN, 1000), (ASSISTANT, 500), (TOOL, 2500), (ASSISTANT, 1000), (HUMAN, 1000))


def test_without_a_cache_each_class_has_its_part_of_the_bytes() -> None:
    """Ten thousand bytes, a thousand tokens: new 100, history 250, results 250, system 400."""
    found = shares(TALK, Tokens(input=1000, output=50), paid(Tokens(input=1000, output=50)))
    assert found.tokens == (100, 250, 250, 400)
    assert [round(part / 3_000_000.007, 3) for part in found.cost] == [100, 250, 250, 400]


def test_cache_reads_cover_the_beginning_and_what_is_new_pays_the_full_price() -> None:
    """Nine tenths of the prompt were read from the cache: all but the newest message."""
    tokens = Tokens(cache_read=900, input=100)
    found = shares(TALK, tokens, paid(tokens))
    read, fresh = 300_000.001, 3_000_000.007
    assert found.cost == pytest.approx([100 * fresh, 250 * read, 250 * read, 400 * read], abs=2)


def test_cache_writes_come_after_the_reads() -> None:
    """System prompt read, the rest of the history written, the new message read afresh."""
    tokens = Tokens(cache_read=400, cache_write=500, input=100)
    found = shares(TALK, tokens, paid(tokens))
    write = 3_750_000.003
    assert found.cost == pytest.approx([100 * 3_000_000.007, 250 * write, 250 * write, 400 * 300_000.001], abs=2)


def test_far_back_only_sums_are_known_and_those_lie_evenly() -> None:
    """A cache that covers half of what is far back: half of its talk, half of its results."""
    far = told((ASSISTANT, 1000), (HUMAN, 1000), system=2000, before=(2000, 4000, 0))
    tokens = Tokens(cache_read=500, input=500)  # 5,000 of 10,000 bytes: system, and half of the six thousand behind it
    found = shares(far, tokens, paid(tokens))
    assert found.cost[3] == 200 * 300_000 or abs(found.cost[3] - 200 * 300_000.001) < 2
    assert abs(found.cost[2] - (200 * 300_000.001 + 200 * 3_000_000.007)) < 3
    assert abs(found.cost[1] - (100 * 300_000.001 + 200 * 3_000_000.007)) < 3


def test_what_the_provider_kept_is_history() -> None:
    """A request of 100 tokens behind a response id, billed for 1,000."""
    tokens = Tokens(input=1000)
    found = shares(told((HUMAN, 400)), tokens, paid(tokens), seen_tokens=100)
    assert found.tokens == (100, 900, 0, 0)


def test_an_embedding_is_all_new() -> None:
    tokens = Tokens(input=1000)
    assert shares(None, tokens, paid(tokens)).cost == (input_of(tokens), 0, 0, 0)


def test_new_are_the_words_of_people_since_the_last_reply() -> None:
    """Results stay results, also new ones: what a tool costs is read in one column."""
    h = history("openai_chat", (Human("a" * 400), Says("b" * 300, (("f", {}, "c" * 800, False),))))
    assert h.weights[0] == 0 and h.weights[2] > 800 and h.weights[1] > 700
    h = history("openai_chat", (Human("a" * 400), Says("b" * 300), Human("d" * 200)))
    assert 200 < h.weights[0] < 260 and h.weights[1] > 700


@pytest.mark.parametrize("number", [1, 33, 200])
def test_runs_far_back_become_sums(number: int) -> None:
    """However long the conversation: the classes of a telling are those of its messages."""
    talk = (Human("go" * 50), *[Says("step", (("f", {"n": n}, "r" * 90, False),)) for n in range(number)])
    h = history("openai_chat", talk, system="s" * 500)
    assert h.weights[2] > number * 90 and len(h.runs) <= 32 and sum(h.weights) > number * 150
