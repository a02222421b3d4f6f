"""What somebody bounded by labels may see of what is no row of the ledger: incidents, holds, budgets, orders. Rows are narrowed by the
same filters in the question itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..domain.labels import CHARGEABLE
from ..rules.budget import BudgetRule
from ..stores.query import LABEL, Filter

Bound = tuple[Filter, ...]


def filters(labels: Mapping[str, str]) -> Bound:
    """The labels that an account or a key binds, as conditions on rows."""
    return tuple(Filter(name if name in CHARGEABLE else LABEL + name, (value,)) for name, value in sorted(labels.items()))


def within(labels: Mapping[str, object], bound: Bound) -> bool:
    """Whether these labels are all that is asked for."""
    return all(str(labels.get(f.name.removeprefix(LABEL), "")) in f.values for f in bound)


def mine(filters: Sequence[Filter], one: Any) -> bool:
    """Whether an incident, or a row that is to be, is within what account and filters allow."""
    labels: dict[str, str] | None = None
    for f in filters:
        name = f.name
        if name.startswith(LABEL):
            if labels is None:
                labels = json.loads(getattr(one, "labels", "{}"))
            value = labels.get(name.removeprefix(LABEL), "")
        else:
            value = getattr(one, "model" if name in ("model", "model_served") and hasattr(one, "model") else name, None)
        if (value in f.values) == f.negate:
            return False
    return True


def columns(filters: Sequence[Filter]) -> list[tuple[str, tuple[str, ...], bool]]:
    """The same for a question about all incidents: column, values, whether none of them. Of a free label an incident holds nothing."""
    return [
        ("" if f.name.startswith(LABEL) else "model" if f.name == "model_served" else f.name, tuple(map(str, f.values)), f.negate)
        for f in filters
    ]


def values(counter: str) -> list[str]:
    """The labels' values that a budget's counter stands for."""
    return [v.replace("%7C", "|").replace("%40", "@").replace("%25", "%") for v in counter.rpartition("@")[0].split("|")[1:]]


def of_budget(rule: BudgetRule, bound: Bound) -> bool:
    """Whether a budget can be of these labels alone: it is told apart by each of them, and is not another value's."""
    wants = dict(rule.wants)
    return all((name := f.name.removeprefix(LABEL)) in wants and (wants[name] is None or wants[name] in f.values) for f in bound)


def of_standing(rule: BudgetRule, counter: str, bound: Bound) -> bool:
    """Whether a standing is of these labels alone."""
    if not bound:
        return True
    open_ = iter(values(counter))
    said = {name: value if value is not None else next(open_, "") for name, value in rule.wants}
    return all(said.get(f.name.removeprefix(LABEL)) in f.values for f in bound)


def narrowed(match: Iterable[tuple[str, str]], bound: Bound) -> tuple[tuple[str, str], ...]:
    """What an order of somebody bounded matches: also all of his labels. ValueError where it says another value of one."""
    made = tuple(sorted({*match, *[(f.name.removeprefix(LABEL), str(f.values[0])) for f in bound]}))
    if len({name for name, _ in made}) < len(made):
        raise ValueError(f"{', '.join(f'{n}={v}' for n, v in match)} is not within what this account or key is bounded to")
    return made
