"""One number per customer: what it cost itself and its share of what is nobody's, footing to the bill. Pure, whole numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from .price import spread

Key = Literal["cost", "calls", "tokens"]
KEYS: tuple[Key, ...] = ("cost", "calls", "tokens")


class Own(NamedTuple):
    """What one tenant's rows came to; an empty tenant: nobody said. `primary`: of its cost, that of answering its users."""

    tenant: str
    cost: int  # pico-dollars
    primary: int
    calls: int
    tokens: int


class Loaded(NamedTuple):
    """A customer's line. `full` is what it is to be held to."""

    tenant: str
    direct: int
    shared: int
    calls: int
    tokens: int

    @property
    def full(self) -> int:
        return self.direct + self.shared


def load(owns: Sequence[Own], key: Key, overhead: Collection[str] = ()) -> tuple[list[Loaded], list[Own]]:
    """The customers' lines by full cost, and the lines that were divided among them. A customer is a tenant with calls that
    answer its users, unless it is named as `overhead`; all other cost (what nobody labelled, a tenant that only runs evals or
    embeddings) is divided in proportion to the customers' own cost, calls or tokens, to the last digit. Without a customer
    nothing can be divided, and no line is made."""
    mine = sorted([one for one in owns if one.tenant and one.primary > 0 and one.tenant not in overhead], key=lambda one: one.tenant)
    shared = [one for one in owns if one not in mine]
    if not mine:
        return [], shared
    weights = [max(0, getattr(one, key)) for one in mine]
    parts = spread(sum(one.cost for one in shared), weights if any(weights) else [1] * len(mine))
    lines = [Loaded(one.tenant, one.cost, part, one.calls, one.tokens) for one, part in zip(mine, parts, strict=True)]
    return sorted(lines, key=lambda line: (-line.full, line.tenant)), shared
