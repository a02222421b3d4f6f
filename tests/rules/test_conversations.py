"""Where turns become dear, and from where on going on was not worth it: judged within the same conversations."""

from __future__ import annotations

from bursar.domain.money import PICO
from bursar.rules.conversations import Turn, knee, not_worth


def growing(first: int, more: int, turns: int, reached: int = 50) -> list[Turn]:
    """Conversations that are all alike: each turn costs `more` than the one before."""
    costs = [first + more * n for n in range(turns)]
    return [
        Turn(n + 1, reached, costs[n] * reached, first * reached, sum(costs[n:]) * reached, (turns - n) * reached)
        for n in range(turns)
    ]


def test_the_knee_is_where_a_turn_costs_twice_the_first() -> None:
    assert knee(growing(100, 10, 20)) == 11
    assert knee(growing(100, 10, 10)) is None
    assert knee(growing(100, 0, 50)) is None
    assert knee([]) is None


def test_few_conversations_say_nothing() -> None:
    assert knee(growing(100, 10, 20, reached=9)) is None
    assert knee(growing(100, 10, 20, reached=10)) == 11


def test_one_dear_turn_is_no_knee_when_the_later_ones_are_cheap_again() -> None:
    turns = growing(100, 0, 12)
    dear = turns[3]._replace(cost=turns[3].cost * 2)
    assert knee([*turns[:3], dear, *turns[4:]]) is None


def test_dear_agents_that_talk_for_long_are_no_growth() -> None:
    """Everybody talks for two turns at 1, the dear agent for nine at 10: the mean turn grows tenfold, no conversation does."""
    both = [Turn(n, 100, 50 * 1 + 50 * 10, 550, 0, 1) for n in (1, 2)]
    assert knee([*both, *[Turn(n, 50, 500, 500, 500 * (10 - n), 50 * (10 - n)) for n in range(3, 10)]]) is None


def known(n: int, known: int, resolved: int, dollars: int) -> Turn:
    return Turn(n, known, 0, 0, 0, 0, known, resolved, dollars * PICO)


def test_going_on_stops_being_worth_it_where_the_rest_costs_more_than_people_would() -> None:
    turns = [known(1, 100, 90, 200), known(2, 40, 30, 150), known(3, 20, 5, 60), known(4, 15, 2, 40)]
    assert not_worth(turns, 6 * PICO) == 3  # 60 for what people do for 30
    assert not_worth(turns, 100 * PICO) is None
    assert not_worth(turns, 1 * PICO) == 1


def test_a_turn_that_pays_again_later_was_worth_going_through() -> None:
    turns = [known(1, 100, 10, 200), known(2, 40, 30, 150), known(3, 20, 5, 60)]
    assert not_worth(turns, 6 * PICO) == 3


def test_of_a_handful_nothing_is_said() -> None:
    assert not_worth([known(1, 9, 0, 500)], PICO) is None
