"""What another turn costs: where a conversation's turns become dear, and from where on it was not worth going on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

REACHED_LEAST = 10  # conversations that got to a turn, before anything is said of it
KNEE_TIMES = 2  # so many times the first turn


class Turn(NamedTuple):
    """All conversations that got to turn `n`, added up. Money in pico-dollars. `first`: what their first turns cost; `after`: this
    turn and all later ones, which are `turns_after`. Of those with a known outcome: how many there are, how many were resolved,
    and what this turn and all later ones cost them."""

    n: int
    reached: int
    cost: int
    first: int
    after: int
    turns_after: int
    known: int = 0
    resolved: int = 0
    known_after: int = 0


def knee(turns: Sequence[Turn]) -> int | None:
    """The first turn that costs twice what the first one did, in the conversations that got there, where the turns from it on do
    too. Compared within the same conversations: that only dear agents talk for long is no growth."""
    for turn in turns:
        if turn.reached < REACHED_LEAST or turn.first <= 0:
            continue
        itself = turn.cost >= KNEE_TIMES * turn.first
        later = turn.after * turn.reached >= KNEE_TIMES * turn.first * turn.turns_after
        if itself and later:
            return turn.n
    return None


def not_worth(turns: Sequence[Turn], human_cost: int) -> int | None:
    """The turn from which going on cost more than it saved: from there on, at every turn that enough conversations got to, the
    rest of them cost more than a person (`human_cost` pico-dollars each) for those that were then resolved."""
    found = None
    for turn in reversed([turn for turn in turns if turn.known >= REACHED_LEAST]):
        if turn.known_after <= turn.resolved * human_cost:
            break
        found = turn.n
    return found
