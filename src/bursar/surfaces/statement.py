"""A statement: lines of spend that add up to their total to the digit, or none at all. Pure arithmetic on sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Key = tuple[str | None, ...]


class Sum(NamedTuple):
    """What a set of tries came to. Pico-dollars; `cost` has no part for unpriced tries beyond what is known of them."""

    cost: int = 0
    calls: int = 0  # a call whose tries fall into several lines counts in each of them, and once in the total
    tries: int = 0
    tokens: int = 0
    unpriced: int = 0  # tries
    estimated: int = 0  # tries
    estimated_cost: int = 0  # of `cost`

    def plus(self, other: Sum) -> Sum:
        return Sum(*(a + b for a, b in zip(self, other, strict=True)))


class Line(NamedTuple):
    """One line. `key` has a value per dimension, None where nobody said; `other`: the lines beyond the dearest."""

    key: Key
    now: Sum
    before: Sum | None = None
    other: bool = False


class Statement(NamedTuple):
    """Lines, dearest first (or in time), and what they add up to."""

    by: tuple[str, ...]
    lines: tuple[Line, ...]
    total: Sum
    before: Sum | None = None
    others: int = 0  # lines that are one: the last


class DoesNotFoot(ArithmeticError):
    """The lines do not add up to the total that was queried apart from them."""


def state(
    by: Sequence[str], groups: Iterable[tuple[Key, Sum]], total: Sum, *, top: int | None = None,
    earlier: Iterable[tuple[Key, Sum]] | None = None, earlier_total: Sum | None = None, in_time: bool = False,
) -> Statement:  # fmt: skip
    """The statement of `groups`. `top` keeps the dearest and sums the rest in a line of its own. `earlier` is the period
    before: a line that was only there then is shown too, because what stopped costing is news. `in_time`: lines keep the order
    of their first key, the period. DoesNotFoot when the sums of the lines are not the totals."""
    now = dict(groups)
    was = dict(earlier) if earlier is not None else None
    keys = list(now) + [k for k in was or () if k not in now]
    lines = [Line(k, now.get(k, Sum()), None if was is None else was.get(k, Sum())) for k in keys]
    lines.sort(key=lambda line: (-line.now.cost, -line.now.tries, tuple(part or "" for part in line.key)))
    others = 0
    if top is not None and len(lines) > top:
        rest, others = lines[top:], len(lines) - top
        folded = Sum()
        before = None if was is None else Sum()
        for line in rest:
            folded = folded.plus(line.now)
            if before is not None and line.before is not None:
                before = before.plus(line.before)
        lines = [*lines[:top], Line((None,) * len(by), folded, before, other=True)]
    return footed(by, lines, total, earlier_total, others=others, in_time=in_time)


def footed(
    by: Sequence[str], lines: list[Line], total: Sum, earlier_total: Sum | None = None, *, others: int = 0, in_time: bool = False
) -> Statement:
    """The statement of these lines, the sum of `others` among them. DoesNotFoot when they are not the totals."""
    if in_time:
        lines.sort(key=lambda line: (line.other, line.key[0] or ""))
    foot([line.now for line in lines], total)
    if earlier_total is not None:
        foot([line.before for line in lines if line.before is not None], earlier_total, "the lines of the period before")
    return Statement(tuple(by), tuple(lines), total, earlier_total, others)


def foot(parts: Sequence[Sum], total: Sum, what: str = "the lines") -> None:
    """DoesNotFoot unless the parts are the total, to the digit. Calls are not looked at: one may count in several lines."""
    for name in ("cost", "tries", "tokens", "unpriced", "estimated", "estimated_cost"):
        found, wanted = sum(getattr(p, name) for p in parts), getattr(total, name)
        if found != wanted:
            raise DoesNotFoot(f"{what} have {name} {found}, the total has {wanted}; run `bursar check` and report this")
