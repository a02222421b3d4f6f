"""Shortened histories against whole ones: when so few solved are no chance any more."""

from __future__ import annotations

from math import comb
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.gate import LEAST, Arm, chance, worse


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_chance_is_fishers(n: int, m: int, data: st.DataObject) -> None:
    """Against the sum of binomials in whole numbers."""
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    true = sum(comb(n, k) * comb(m, a + b - k) for k in range(max(0, a + b - m), a + 1)) / comb(n + m, a + b)
    assert chance(Arm(n, a), Arm(m, b)) == pytest.approx(true, rel=1e-9)


def test_only_the_worse_is_worse_and_not_before_both_are_known() -> None:
    assert worse(Arm(100, 40), Arm(100, 70)) and not worse(Arm(100, 70), Arm(100, 40)) and not worse(Arm(100, 65), Arm(100, 70))
    assert not worse(Arm(LEAST - 1, 0), Arm(1_000, 1_000)) and worse(Arm(LEAST, 0), Arm(LEAST, LEAST))
    assert Arm(0, 0).share == 0.0


def stopped(drop: float, runs: int = 60) -> float:
    """The share of flows stopped within a thousand conversations, looked at after every twenty."""
    dice, found = Random(3), 0
    for _ in range(runs):
        arms = [Arm(0, 0), Arm(0, 0)]
        for n in range(1_000):
            arm = arms[n % 2]
            arms[n % 2] = Arm(arm.n + 1, arm.solved + (dice.random() < (0.7 if n % 2 else 0.7 - drop)))
            if n % 20 == 19 and worse(*arms):
                found += 1
                break
    return found / runs


def test_looking_again_and_again_stops_few_that_do_no_harm_and_all_that_do() -> None:
    assert stopped(0.0) <= 0.07 and stopped(0.2) == 1.0
