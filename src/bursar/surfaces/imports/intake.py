"""The driver of an import: batches of rows into the ledger, everything counted, interrupted ones gone on with."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ...domain.entry import Entry, Settlement
from ...domain.policy import PriceOverride
from ...stores.schema import Place
from ...stores.writer import Ledger
from . import reading
from .files import Unreadable
from .known import Known
from .reading import Batch, Part, Task, count
from .record import AGGREGATE, Bad, Repeat
from .reports import Reported, sources
from .state import Aside, Mark

MARK_S = 2.0
MODELS_MAX = 400
COMPACT_ROWS = 1_000_000  # rows in the tail after which they are moved to segments, beside us: some 0.7 GB
COMPACT_LAST = 50_000  # … and at the end: a reader of a longer tail waits for more than a second

HERE = "already in the ledger"
ELSEWHERE = "the same call is in the ledger from another source"


class WrongFormat(ValueError):
    """The file is not what it was said to be. The message says what it may be instead."""


class Money(NamedTuple):
    """Rows of one model for which both know an amount, and the two sums in pico-dollars."""

    rows: int = 0
    ours: int = 0
    stated: int = 0


class Tally:
    """What became of the records that this run read, and what the new rows come to. Money in pico-dollars."""

    def __init__(self) -> None:
        self.rows = 0
        self.repeats: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.cost = 0
        self.by_status: Counter[str] = Counter()
        self.by_source: dict[str, tuple[int, int]] = {}  # rows, cost
        self.compared: dict[str, Money] = {}
        self.first: int | None = None
        self.last: int | None = None

    @property
    def duplicates(self) -> int:
        return self.repeats.total()

    @property
    def records(self) -> int:
        """Every record that was read is exactly one of these."""
        return self.rows + self.duplicates + self.passed.total() + self.refused.total()

    def add(self, row: Entry) -> None:
        """A new row in the ledger."""
        self.rows += 1
        ts, cost = row.ts, row.cost or 0
        if self.first is None or ts < self.first:
            self.first = ts
        if self.last is None or ts > self.last:
            self.last = ts
        self.by_status[row.price_status] += 1
        self.cost += cost
        rows, sum = self.by_source.get(row.source, (0, 0))
        self.by_source[row.source] = (rows + 1, sum + cost)
        if row.flags and (stated := stated_in(row.flags)) is not None:
            model = row.model_served if row.model_served in self.compared or len(self.compared) < MODELS_MAX else "other models"
            known = self.compared.get(model, Money())
            self.compared[model] = Money(known.rows + 1, known.ours + cost, known.stated + stated)


class Resumed(NamedTuple):
    """An import that was interrupted and gone on with."""

    file: str
    offset: int
    records: int  # before it, in the ledger or put aside


class Book(NamedTuple):
    """Where the compiled price book lies, and the operator's own prices on it."""

    path: Path
    overrides: Sequence[PriceOverride] = ()


class Intake:
    """One import into one ledger. `labels` hold for every row, `renames` says which names of theirs are names of ours. `step` is told
    the number of the file, the bytes of it that are read, and how many records were read of all; the number after the last file's when
    all are in the ledger and rows are moved to segments."""

    def __init__(
        self, form: str, ledger: Ledger, book: Book, *, labels: Mapping[str, str] | None = None,
        renames: Mapping[str, str] | None = None,
        clock_us: Callable[[], int], aside: Path | None = None, step: Callable[[int, int, int], None] = lambda _file, _position,
        _read: None,
    ) -> None:  # fmt: skip
        self.form, self._ledger, self._prices, self._clock, self._step = form, ledger, book, clock_us, step
        self._labels, self._renames = dict(labels or {}), dict(renames or {})
        self._place: Place = ledger.place
        self._folder = self._place.file.parent
        self._given_aside = aside
        self.tally = Tally()
        self.aside_path: Path | None = None
        self.resumed: list[Resumed] = []
        self.seconds = 0.0  # until every row was in the ledger
        self._first_bad: Bad | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._since = self._files = 0

    def run(self, files: Sequence[Path]) -> Tally:
        """Import all files. Unreadable or WrongFormat names the one that cannot be; what came before it is in the ledger."""
        began = time.monotonic()
        self._files = len(files)
        marks = [Mark(self._folder, self.form, file) for file in files]
        found = [mark.load() for mark in marks]
        parts = [Part(str(file), mark.get("offset", 0), mark.get("line", 0)) for file, mark in zip(files, found, strict=True)]
        self.resumed = [Resumed(str(f), mark["offset"], mark["records"]) for f, mark in zip(files, found, strict=True) if mark]
        task = Task(self.form, parts, str(self._prices.path), list(self._prices.overrides), self._labels, self._renames, self._clock())
        large = sum(file.stat().st_size for file in files if file.exists()) >= reading.OWN_PROCESS
        read = reading.elsewhere(task) if large else reading.batches(task)
        known = Known(self._place, f"imported:{self.form}")
        aside = Aside(self._folder, self.form, self._given_aside, resumed=any(found))
        collecting = gc.isenabled()
        gc.disable()
        # While one batch is written, and the disk waited for, the next is taken.
        with ThreadPoolExecutor(1, "bursar-import") as writer:
            desk = _Desk(self.form, writer, known, aside, self._clock())
            try:
                before = [mark.get("records", 0) for mark in found]
                for batch in read:
                    self._take(batch, files[batch.file], marks[batch.file], before, desk)
                self._collect(desk)
            finally:
                read.close()
                known.close()
                aside.close()
                self.aside_path = aside.path if aside.count else None
                if collecting:
                    gc.enable()
                self.seconds = time.monotonic() - began
                self._compact(last=True)
        return self.tally

    def _take(self, batch: Batch, file: Path, mark: Mark, before: list[int], desk: _Desk) -> None:
        for bad in batch.bad:
            self._refuse(file, bad, desk.aside)
        if batch.unreadable:
            self._collect(desk)
            raise Unreadable(batch.unreadable)
        if batch.wrong:
            raise WrongFormat(f"{file}: its records are no {self.form}: {batch.bad[-1].reason}; {self.hint()}")
        for counter, told in ((self.tally.repeats, batch.repeats), (self.tally.passed, batch.passed)):
            for reason, times in told.items():
                count(counter, reason, times)
        rows = batch.rows
        if batch.places:
            rows = [row for row in rows if row.attempt_kind != AGGREGATE or self._judged(row, batch, file, desk)]
        self._collect(desk)
        before[batch.file] += batch.records
        if rows:
            desk.submit(self._book, rows)
        if batch.last:
            self._collect(desk)
            mark.remove()
        elif desk.due():
            self._collect(desk)
            desk.aside.flush()
            mark.save(batch.offset, batch.line, before[batch.file])
        self._step(batch.file, batch.position, sum(before))

    def _refuse(self, file: Path, bad: Bad, aside: Aside) -> None:
        self._first_bad = self._first_bad or bad
        count(self.tally.refused, bad.reason)
        aside.put(file, bad)

    def _judged(self, row: Entry, batch: Batch, file: Path, desk: _Desk) -> bool:
        """Whether a bucket of a provider's report may be booked; what it is instead is counted."""
        verdict = desk.judge(row)
        if isinstance(verdict, str):
            self._refuse(file, Bad(verdict, batch.places[row.id]), desk.aside)
        elif verdict is not None:
            count(self.tally.repeats, verdict.reason)
        return verdict is None

    def hint(self) -> str:
        """What the first refused record may be instead."""
        others = reading.recognised(self._first_bad.piece, self.form) if self._first_bad else []
        return f"it looks like {' or '.join(others)}" if others else "docs/reference/imports.md says what each format holds"

    # -- the ledger --------------------------------------------------------------------------------------------------

    def _book(self, rows: list[Entry], known: Known) -> _Booked:
        """On the writer's thread: what is new of a batch goes into the ledger, on the disk when this returns."""
        here = known.ids(rows)
        fresh = [row for row in rows if row.id not in here] if here else rows
        elsewhere = known.elsewhere(fresh)
        if elsewhere:
            fresh = [row for row in fresh if row.id not in elsewhere]
        before = self._ledger.stats()["duplicates"]
        self._ledger.book_all([Settlement(row.id, row, ()) for row in fresh])
        # Another import of the same records, since we looked: the ledger kept one of each.
        assert self._ledger.stats()["duplicates"] == before, "two imports of the same records at once: run the second again"
        return _Booked(fresh, len(here), len(elsewhere))

    def _collect(self, desk: _Desk) -> None:
        """Wait for the batch under way, and count it."""
        booked = desk.result()
        if booked is None:
            return
        for reason, times in ((HERE, booked.here), (ELSEWHERE, booked.elsewhere)):
            if times:
                count(self.tally.repeats, reason, times)
        for row in booked.fresh:
            self.tally.add(row)
        self._since += len(booked.fresh)
        if self._since >= COMPACT_ROWS:
            self._compact()

    def _compact(self, last: bool = False) -> None:
        """Move rows from the tail to segments in a process of its own: our memory stays flat, and readers stay fast."""
        if self._child is not None and (last or self._child.poll() is not None):
            self._child.wait()
            self._child = None
        if self._child is None and self._since >= (COMPACT_LAST if last else COMPACT_ROWS):
            if last:
                self._step(self._files, 0, self.tally.records)
            self._since = 0
            self._child = subprocess.Popen(
                [sys.executable, "-m", "bursar.stores.segments", str(self._place.file), "--all"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if last:
                self._child.wait()


class _Booked(NamedTuple):
    fresh: list[Entry]
    here: int
    elsewhere: int


class _Desk:
    """What one import works with: the writer's thread, with at most one batch under way, and where bad records go."""

    def __init__(self, form: str, writer: ThreadPoolExecutor, known: Known, aside: Aside, now_us: int) -> None:
        self._form, self._writer, self._known, self.aside, self._now = form, writer, known, aside, now_us
        self._under_way: Future[_Booked] | None = None
        self._reported: Reported | None = None
        self._due = time.monotonic() + MARK_S

    def judge(self, row: Entry) -> str | Repeat | None:
        """What reports.py says of a bucket. The ledger's are read when the first comes; no batch is under way then."""
        if self._reported is None:
            self._reported = Reported(self._known.reported(sources(self._form).values()))
        return self._reported.judge(row, self._now)

    def due(self) -> bool:
        """Whether it is time to mark how far we are."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + MARK_S
        return True

    def submit(self, book: Callable[[list[Entry], Known], _Booked], rows: list[Entry]) -> None:
        assert self._under_way is None
        self._under_way = self._writer.submit(book, rows, self._known)

    def result(self) -> _Booked | None:
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else under_way.result()


def stated_in(flags: str) -> int | None:
    """Pico-dollars that the source stated, from a row's flags; None where it stated none."""
    for word in flags.split():
        if word.startswith("stated:"):
            whole, _, part = word[7:].partition(".")
            return int(whole + part.ljust(12, "0"))
    return None


__all__ = ["Book", "Intake", "Tally", "Unreadable", "WrongFormat"]
