"""One number per customer: whatever the tenants and the key, the lines are the bill to the last digit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.full import KEYS, Key, Own, load

names = st.sampled_from(["", "a", "b", "c", "d", "internal"])
own = st.builds(
    lambda tenant, cost, primary, calls, tokens: Own(tenant, cost, min(cost, primary), calls, tokens),
    names, st.integers(-10, 10**15), st.integers(0, 10**15), st.integers(0, 99), st.integers(0, 10**9),
)  # fmt: skip
owns = st.lists(own, max_size=6, unique_by=lambda one: one.tenant)


@given(owns, st.sampled_from(KEYS), st.sets(names, max_size=2))
def test_the_lines_are_the_bill(made: list[Own], key: Key, overhead: set[str]) -> None:
    lines, shared = load(made, key, overhead)
    total = sum(one.cost for one in made)
    if not lines:
        assert sum(one.cost for one in shared) == total
        return
    assert sum(line.full for line in lines) == total
    assert sum(line.shared for line in lines) == sum(one.cost for one in shared)
    for line in lines:
        assert line.tenant and line.tenant not in overhead
        assert line.direct == next(one.cost for one in made if one.tenant == line.tenant)


A = Own("a", 300, 300, 10, 1000)
B = Own("b", 100, 80, 30, 1000)
REST = [Own("", 50, 50, 5, 5), Own("internal", 350, 0, 99, 9)]


@pytest.mark.parametrize(("key", "shares"), [("cost", (300, 100)), ("calls", (100, 300)), ("tokens", (200, 200))])
def test_shared_cost_follows_the_stated_key(key: Key, shares: tuple[int, int]) -> None:
    lines, shared = load([A, B, *REST], key)
    assert {line.tenant: line.shared for line in lines} == {"a": shares[0], "b": shares[1]}
    assert shared == REST


def test_a_tenant_that_answers_nobody_is_no_customer_and_neither_is_one_named_as_overhead() -> None:
    assert [line.tenant for line in load([A, B, *REST], "cost")[0]] == ["a", "b"]
    lines, _ = load([A, B, *REST], "cost", ["a"])
    assert [(line.tenant, line.full) for line in lines] == [("b", 800)]


def test_customers_without_any_of_the_key_share_alike() -> None:
    lines, _ = load([Own("a", 10, 10, 0, 0), Own("b", 10, 10, 0, 0), *REST], "tokens")
    assert [line.shared for line in lines] == [200, 200]
