"""That the benchmark's scoring is its own: who says everything right has 100, who says nothing 0; early is better than late."""

from __future__ import annotations

import pytest

from .nab import PROFILES, Line, early, score

LINE = Line("made", list(range(1000)), [0.0] * 1000, [(300, 399), (700, 799)])


def said(*at: int) -> list[tuple[Line, list[float]]]:
    return [(LINE, [1.0 if n in at else 0.0 for n in range(1000)])]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_scale_is_the_published_one(profile: tuple[float, float, float]) -> None:
    assert score(said(300, 700), profile)[0] == pytest.approx(100)
    assert score(said(), profile)[0] == 0
    half, _ = score(said(300), profile)
    assert half == pytest.approx(50)
    assert score(said(399, 799), profile)[0] < score(said(350, 750), profile)[0] < 100
    assert score(said(300, 700, 500), profile)[0] < 100


def test_the_first_of_a_window_counts_and_probation_does_not() -> None:
    profile = PROFILES["standard"]
    assert score(said(300, 310, 320, 700), profile) == score(said(300, 700), profile)
    assert score(said(10, 100, 300, 700), profile)[0] == pytest.approx(100)
    assert early(-1.0) == pytest.approx(0.98661, abs=1e-5) and early(0) == 0 and early(4) == -1
