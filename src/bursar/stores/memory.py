"""The ledger's promises in plain dictionaries: for tests, play and the simulator. Same faces, nothing durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from ..domain.entry import Charge, Entry, Held, Hold, Settlement, Short
from ..domain.incident import Incident
from .fault import LedgerFault
from .lapse import charged, late
from .tail import Standing

T = TypeVar("T")


class MemoryLedger:
    """What `writer.Ledger` promises, by the shortest way. `abandon()` plays the death of the process that holds."""

    def __init__(self, clock_us: Callable[[], int] = lambda: 0) -> None:
        self.clock_us = clock_us
        self.trouble: LedgerFault | None = None  # set it, and holds and rows fail
        self._rows: dict[str, Entry] = {}
        self._holds: dict[str, Hold] = {}
        self._abandoned: set[str] = set()
        self._lapsed: dict[str, tuple[Entry, tuple[Charge, ...]]] = {}
        self._counters: dict[str, Standing] = {}
        self.incidents: dict[str, list[Incident]] = {}  # by key, the newest last

    def hold(self, hold: Hold) -> Short | Held | None:
        if self.trouble is not None:
            raise self.trouble
        if hold.id in self._holds:
            return None
        passed: list[tuple[int, int]] = []
        left: list[tuple[Fraction, int, int]] = []
        for at, c in enumerate(hold.charges):
            standing = self._standing(c)
            if c.steps and standing.spent + standing.held >= c.steps[0]:
                passed.append((at, standing.spent + standing.held))
            if c.hard and c.limit is not None and c.amount > 0 and standing.spent + standing.held + c.amount > c.limit:
                for back in hold.charges[:at]:
                    self._add(back, 0, -back.amount)
                standing = self._standing(c)
                return Short(c, standing.spent, standing.held)
            if c.hard and c.limit is not None:
                rest = c.limit - standing.spent - standing.held - c.amount
                left.append((Fraction(rest, c.limit or 1), at, rest))
            self._add(c, 0, c.amount)
        self._holds[hold.id] = hold
        return Held(tuple(passed), min(left)[1:] if left else None) if passed or left else None

    def book(self, settlement: Settlement) -> None:
        if self.trouble is not None:
            raise self.trouble
        hold = self._holds.pop(settlement.id, None)
        for c in hold.charges if hold else ():
            self._add(c, 0, -c.amount)
        entry, charges = settlement.entry, settlement.charges or (hold.charges if hold else ())
        taken: dict[str, int] = {}
        if settlement.id in self._lapsed:
            row, lapsed = self._lapsed.pop(settlement.id)
            entry, charges = late(settlement, row.cost or 0), settlement.charges or lapsed
            taken = {c.counter: c.amount for c in lapsed}
        elif settlement.id in self._rows:
            return
        for c, actual in zip(charges, settlement.actual, strict=True):
            self._add(c, actual - taken.get(c.counter, 0), 0)
        self._rows[entry.id] = entry
        for incident in settlement.incidents:
            self.incidents.setdefault(incident.key, []).append(incident)

    def release(self, hold_id: str) -> None:
        hold = self._holds.pop(hold_id, None)
        for c in hold.charges if hold else ():
            self._add(c, 0, -c.amount)

    def hold_soon(self, hold: Hold, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Short | Held | None]:
        return _soon(loop, lambda: self.hold(hold))

    def book_soon(self, settlement: Settlement, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        return _soon(loop, lambda: self.book(settlement))

    def abandon(self) -> None:
        """From here on nobody settles what is held now."""
        self._abandoned |= set(self._holds)

    def recover(self) -> list[Entry]:
        rows: list[Entry] = []
        for id in sorted(self._abandoned & self._holds.keys()):
            hold = self._holds.pop(id)
            row = charged(hold.entry, hold.amount)
            for c in hold.charges:
                self._add(c, c.amount, -c.amount)
            self._rows[id] = row
            self._lapsed[id] = (row, hold.charges)
            rows.append(row)
        self._abandoned.clear()
        return rows

    def rows(self) -> list[Entry]:
        return list(self._rows.values())

    def counters(self) -> dict[str, Standing]:
        return dict(self._counters)

    def fault(self) -> LedgerFault | None:
        return self.trouble

    def stats(self) -> dict[str, int]:
        return {"rows": len(self._rows), "holds": len(self._holds)}

    def close(self) -> None: ...

    def _standing(self, c: Charge) -> Standing:
        return self._counters.get(c.counter, Standing(c.counter, c.budget, c.unit, 0, 0, c.resets_us))

    def _add(self, c: Charge, spent: int, held: int) -> None:
        standing = self._standing(c)
        self._counters[c.counter] = standing._replace(spent=standing.spent + spent, held=standing.held + held)


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> asyncio.Future[T]:
    future: asyncio.Future[T] = loop.create_future()
    try:
        future.set_result(act())
    except LedgerFault as fault:
        future.set_exception(fault)
    return future
