"""What each budget reached in the last day: tries and dollars in its scope, asked of the ledger's rows. Nothing reached is a hint
that it watches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..rules.budget import BudgetRule
from ..stores.query import DIMENSIONS, LABEL, Filter, Query
from ..stores.reader import Reader
from .cli_common import pico

DAY_US = 86_400_000_000


class Reached(NamedTuple):
    """Of one budget: tries and pico-dollars of its scope, and of how many values (one where it is not each-of)."""

    budget: str
    tries: int
    cost: int
    scopes: int


def reached(reader: Reader, rules: Sequence[BudgetRule], now_us: int) -> list[Reached]:
    """In the order of the rules."""
    return [_reached(reader, rule, now_us) for rule in rules]


def _reached(reader: Reader, rule: BudgetRule, now_us: int) -> Reached:
    by: list[str] = []
    where: list[Filter] = []
    for name, value in rule.wants:
        if name == "call":
            continue
        column = {"model": "model_served"}.get(name, name)
        column = column if column in DIMENSIONS else f"{LABEL}{column}"
        where.append(Filter(column, ("",), True) if value is None else Filter(column, (value,)))
        if value is None:
            by.append(column)
    if rule.flows_not:
        where.append(Filter("flow", rule.flows_not, True))
    rows = reader.query(Query(("tries", "cost"), tuple(by), tuple(where), now_us - DAY_US, now_us + 1))
    found = [row for row in rows if row["tries"]]
    return Reached(rule.name, sum(row["tries"] for row in found), sum(pico(row["cost"] or 0) for row in found), len(found))
