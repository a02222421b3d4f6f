"""What a gateway counts for /metrics, as plain integers: the hot path adds, the page formats."""

from __future__ import annotations

from ..domain.entry import Entry

SERIES_MAX = 512  # label combinations; the rest is counted as `other`
OTHER = ("other",) * 5


class Counters:
    """What /metrics shows. Plain integers: the hot path adds, the page formats."""

    def __init__(self) -> None:
        # (provider, dialect, operation, status, model) -> [tries, pico-dollars, tokens read, tokens written]
        self.series: dict[tuple[str, str, str, str, str], list[int]] = {}
        self.unpriced = 0
        self.refused: dict[str, int] = {}
        self.ledger_faults = 0
        self.faults = 0
        self.log_lines_dropped = 0
        self.overhead_us = 0

    def count(self, entry: Entry) -> None:
        key = (entry.provider, entry.dialect, entry.operation, entry.status, entry.model_served)
        sums = self.series.get(key)
        if sums is None:
            if len(self.series) >= SERIES_MAX:
                key = OTHER
            sums = self.series.setdefault(key, [0, 0, 0, 0])
        sums[0] += 1
        if entry.status == "refused":
            self.refused[entry.error] = self.refused.get(entry.error, 0) + 1  # the codes are ours, and few
            return
        if entry.cost is None:
            self.unpriced += 1
        else:
            sums[1] += entry.cost
        if entry.input is not None:
            sums[2] += entry.input + (entry.cache_read or 0) + (entry.cache_write or 0) + (entry.cache_write_1h or 0)
            sums[3] += (entry.output or 0) + (entry.reasoning or 0)
        self.overhead_us += entry.overhead_us or 0

    @property
    def tries(self) -> int:
        return sum(sums[0] for sums in self.series.values())

    @property
    def cost_pico(self) -> int:
        return sum(sums[1] for sums in self.series.values())

    def by(self, *places: int, of: int) -> dict[tuple[str, ...], int]:
        """The sums at `of` in a series' list, by those parts of its key."""
        found: dict[tuple[str, ...], int] = {}
        for key, sums in self.series.items():
            name = tuple(key[place] for place in places)
            found[name] = found.get(name, 0) + sums[of]
        return found
