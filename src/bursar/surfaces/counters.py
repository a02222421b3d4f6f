"""What a gateway counts for /metrics, as plain integers: the hot path adds, the page formats."""

from __future__ import annotations

from typing import Any

from ..domain.entry import Entry

SERIES_MAX = 512  # label combinations per metric; the rest is counted as `other`


class Counters:
    """What /metrics shows. Plain integers: the hot path adds, the page formats."""

    def __init__(self) -> None:
        self.tries: dict[tuple[str, str, str, str], int] = {}
        self.cost_pico: dict[tuple[str, str, str], int] = {}
        self.tokens: dict[tuple[str, str, str], int] = {}
        self.unpriced = 0
        self.refused: dict[str, int] = {}
        self.ledger_faults = 0
        self.faults = 0
        self.log_lines_dropped = 0
        self.overhead_us = 0

    def count(self, entry: Entry) -> None:
        self._add(self.tries, (entry.provider, entry.dialect, entry.operation, entry.status), 1)
        if entry.status == "refused":
            self._add(self.refused, entry.error, 1)
            return
        model = (entry.provider, entry.model_served, entry.operation)
        if entry.cost is None:
            self.unpriced += 1
        elif entry.cost:
            self._add(self.cost_pico, model, entry.cost)
        if entry.input is not None:
            self._add(
                self.tokens,
                (entry.provider, entry.model_served, "input"),
                entry.input + (entry.cache_read or 0) + (entry.cache_write or 0) + (entry.cache_write_1h or 0),
            )
            self._add(
                self.tokens,
                (entry.provider, entry.model_served, "output"),
                (entry.output or 0) + (entry.reasoning or 0),
            )
        self.overhead_us += entry.overhead_us or 0

    @staticmethod
    def _add(series: dict[Any, int], key: Any, amount: int) -> None:
        if key in series:
            series[key] += amount
        elif len(series) < SERIES_MAX:
            series[key] = amount
        else:
            other = tuple("other" for _ in key) if isinstance(key, tuple) else "other"
            series[other] = series.get(other, 0) + amount
