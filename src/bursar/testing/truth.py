"""What was really spent on what: the plan's facts with the dollars of the provider's invoice. No arithmetic of Bursar's in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from .invoice import Line
from .planned import Fact, Key

SUITE, CORPUS = "suite", "corpus"

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Billed:
    """One try: what it was, and what the provider wrote on the bill for it."""

    fact: Fact
    try_no: int  # of its call, from 1
    dollars: Decimal
    why: str  # the invoice's word: served | abandoned | cut | refused | reset


class Truth:
    """The bill, explained. Lines belong to facts by `ref`, in the order of a call's tries."""

    def __init__(self, facts: Iterable[Fact], lines: Iterable[Line]) -> None:
        """LookupError when a billed try has no price: the truth must have a total."""
        self.rows: list[Billed] = []
        self.unserved: list[Fact] = []  # planned, and never seen by the provider
        self.unplanned: list[Line] = []  # billed, and nobody planned it
        waiting: dict[str, list[Fact]] = defaultdict(list)
        for fact in facts:
            waiting[fact.ref].append(fact)
        tries: dict[str, int] = defaultdict(int)
        for line in lines:
            if line.dollars is None:
                raise LookupError(f"no price for {line.used} of {line.model!r}: put it on the provider's price list")
            expected = waiting[line.ref]
            if not expected:
                self.unplanned.append(line)
                continue
            tries[line.ref] += 1
            self.rows.append(Billed(expected.pop(0), tries[line.ref], line.dollars, line.why))
        self.unserved = [fact for left in waiting.values() for fact in left]

    @property
    def total(self) -> Decimal:
        """Of the whole bill, in dollars."""
        return sum([row.dollars for row in self.rows] + [line.dollars or Decimal(0) for line in self.unplanned], Decimal(0))

    def by(self, key: Callable[[Fact], K | None]) -> dict[K, Decimal]:
        """Dollars by anything a fact knows, the largest first; None is left out."""
        sums: dict[K, Decimal] = {}
        for row in self.rows:
            found = key(row.fact)
            if found is not None:
                sums[found] = sums.get(found, Decimal(0)) + row.dollars
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def multipliers(self) -> dict[Key, Decimal]:
        """Dollars of everything that multiplies a bill: by foremost cause (each tool, fallback pair, …), eval suite and corpus.
        Suites and corpora say what a call was for, causes why it was made: a call may count in both."""
        return {
            **self.by(lambda fact: fact.keys[0] if fact.keys else None),
            **self.by(lambda fact: (SUITE, fact.suite) if fact.suite else None),
            **self.by(lambda fact: (CORPUS, fact.corpus) if fact.corpus else None),
        }

    def reembedded(self) -> dict[str, Decimal]:
        """By corpus: dollars for documents that had been embedded before and had not changed."""
        sums: dict[str, Decimal] = {}
        for row in self.rows:
            again, of = row.fact.reembedded
            if of:
                sums[row.fact.corpus] = sums.get(row.fact.corpus, Decimal(0)) + row.dollars * again / of
        return sums
