"""Usage told by a span and again by the spans below it is one usage: in any order, over several requests, in bounded memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.usage import Tokens
from bursar.surfaces.imports import traces as module
from bursar.surfaces.imports.record import Piece, Record, Repeat
from bursar.surfaces.imports.traces import REMEMBERED_MAX, Traces

NOWHERE = Piece(b"", 0, 0, 0)


def call(id: str, used: int | None) -> Record:
    return Record(id, 1_793_000_000_000_000, "openai", "gpt-5", tokens=None if used is None else Tokens(input=used))


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str, int | None]]:
    """(span, parent, own usage at a leaf) of one trace: a tree whose inner spans may repeat the sum of what is below."""
    size = draw(st.integers(1, 25))
    parents = [""] + [f"s{draw(st.integers(0, n - 1))}" for n in range(1, size)]
    inner = set(parents)
    return [
        (f"s{n}", parents[n], draw(st.integers(1, 1000)) if f"s{n}" not in inner and draw(st.booleans()) else None)
        for n in range(size)
    ]


def below(tree: list[tuple[str, str, int | None]], span: str) -> int:
    own = next(used for id, _, used in tree if id == span) or 0
    return own + sum(below(tree, id) for id, parent, _ in tree if parent == span)


@settings(max_examples=150, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32), repeat=st.floats(0, 1))
def test_what_is_counted_is_the_usage_of_the_leaves_in_any_order(
    tree: list[tuple[str, str, int | None]], seed: int, repeat: float
) -> None:
    """Whatever inner spans repeat it, and wherever a leaf stands in the order, the sum is what the provider was really asked for."""
    chance = random.Random(seed)
    spans = []
    for id, parent, used in tree:
        sums = below(tree, id)
        if used is None and sums and chance.random() < repeat:
            used = sums  # an aggregate
        spans.append((id, parent, None if used is None else call(id, used)))
    chance.shuffle(spans)
    traces = Traces()
    found = [outcome for id, parent, record in spans for outcome in traces.add("t", id, parent, record, NOWHERE)] + list(traces.rest())
    counted = sum(r.tokens.input for r in found if isinstance(r, Record) and r.tokens)
    assert counted == sum(used or 0 for _, _, used in tree)
    assert len(found) == sum(record is not None for _, _, record in spans)  # each of them became exactly one thing


@settings(max_examples=100, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32), cuts=st.integers(1, 5))
def test_a_trace_told_in_several_requests_never_counts_twice(tree: list[tuple[str, str, int | None]], seed: int, cuts: int) -> None:
    """Children come before their parents, as exporters send them; a request is settled before the next."""
    chance = random.Random(seed)
    spans = [(id, parent, call(id, used if used is not None else max(below(tree, id), 1))) for id, parent, used in tree]
    spans.reverse()
    traces = Traces()
    counted = 0
    while spans:
        size = chance.randint(1, max(1, len(tree) // cuts))
        part, spans = spans[:size], spans[size:]
        for id, parent, record in part:
            list(traces.add("t", id, parent, record, NOWHERE))
        counted += sum(r.tokens.input for r in traces.settle("t") if isinstance(r, Record) and r.tokens)
    leaves = [id for id, _, _ in tree if not any(parent == id for _, parent, _ in tree)]
    wanted = sum((next(u for i, _, u in tree if i == leaf) or 1) for leaf in leaves)
    assert counted == wanted


def test_a_parent_that_was_counted_first_covers_the_calls_that_come_later() -> None:
    traces = Traces()
    list(traces.add("t", "outer", "", call("outer", 10), NOWHERE))
    assert [type(o) for o in traces.settle("t")] == [Record]
    list(traces.add("t", "inner", "outer", call("inner", 10), NOWHERE))
    assert [type(o) for o in traces.settle("t")] == [Repeat]


def test_a_call_that_tells_no_usage_is_the_same_call_as_one_that_does() -> None:
    """Two instrumentations of one call, of which one counts nothing: not an unpriced second call."""
    for silent, counting in (("outer", "inner"), ("inner", "outer")):
        traces = Traces()
        for id, parent in (("outer", ""), ("inner", "outer")):
            list(traces.add("t", id, parent, call(id, None if id == silent else 10), NOWHERE))
        found = list(traces.rest())
        assert [o.id for o in found if isinstance(o, Record)] == [counting]
        assert len(found) == 2
    alone = Traces()
    list(alone.add("t", "only", "", call("only", None), NOWHERE))
    assert [type(o) for o in alone.rest()] == [Record]


def test_what_is_remembered_of_settled_traces_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_MAX", 50)
    traces = Traces()
    for number in range(300):
        list(traces.add(f"t{number}", "leaf", "top", call("leaf", 1), NOWHERE))
        list(traces.add(f"t{number}", "top", "", None, NOWHERE))
        list(traces.settle(f"t{number}"))
    assert len(traces._parents) <= 50 and len(traces._counted) <= 50 and len(traces._above) <= 50


def test_memory_is_bounded_and_a_trace_that_was_let_go_is_still_counted_once() -> None:
    traces = Traces(spans_max=100)
    counted = 0
    for number in range(400):
        outcomes = traces.add(f"t{number}", "leaf", "top", call("leaf", 1), NOWHERE)
        counted += sum(isinstance(o, Record) for o in outcomes)
        assert traces._waiting <= 100
    for number in range(400):  # the tops come when nearly all traces are gone
        outcomes = traces.add(f"t{number}", "top", "", call("top", 1), NOWHERE)
        counted += sum(isinstance(o, Record) for o in outcomes)
    counted += sum(isinstance(o, Record) for o in traces.rest())
    assert counted == 400
    assert len(traces._parents) <= REMEMBERED_MAX and traces.waiting is None


def test_a_circle_of_parents_ends() -> None:
    traces = Traces()
    list(traces.add("t", "a", "b", call("a", 1), NOWHERE))
    list(traces.add("t", "b", "a", call("b", 1), NOWHERE))
    assert len(list(traces.rest())) == 2
