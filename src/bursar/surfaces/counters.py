"""What a gateway counts for /metrics, as plain integers: the hot path adds, the page formats."""

from __future__ import annotations

from operator import itemgetter

from ..domain.entry import COLUMNS, Entry

_at = COLUMNS.index
# By place: reading a row's fields by their names takes four times as long.
_SERIES = itemgetter(*map(_at, ("provider", "dialect", "operation", "status", "model_served")))
_AMOUNTS = itemgetter(*map(_at, (
    "status", "cost", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "overhead_us",
)))  # fmt: skip

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
        key = _SERIES(entry)
        sums = self.series.get(key)
        if sums is None:
            if len(self.series) >= SERIES_MAX:
                key = OTHER
            sums = self.series.setdefault(key, [0, 0, 0, 0])
        sums[0] += 1
        status, cost, read, cached, written, hour, wrote, reasoning, overhead_us = _AMOUNTS(entry)
        if status == "refused":
            self.refused[entry.error] = self.refused.get(entry.error, 0) + 1  # the codes are ours, and few
            return
        if cost is None:
            self.unpriced += 1
        else:
            sums[1] += cost
        if read is not None:
            sums[2] += read + (cached or 0) + (written or 0) + (hour or 0)
            sums[3] += (wrote or 0) + (reasoning or 0)
        self.overhead_us += overhead_us or 0

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
