"""The driver of an import: files in, rows into the ledger by batches, everything counted, interrupted ones gone on with."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...domain.entry import Entry, Settlement
from ...stores.schema import Place
from ...stores.writer import Ledger
from . import FORMS, mapper
from .entries import Maker
from .files import Source, Unreadable
from .known import Known
from .record import AGGREGATE, DAY_US, Bad, Mapper, NotMine, Outcome, Passed, Piece, Record, Repeat
from .reports import Reported, sources
from .state import Aside, Mark

BATCH = 8_192  # rows on their way at once: some 10 MB
MARK_S = 2.0
GROWING_US = 3_600_000_000  # a file touched within the hour may still be written to
TRIAL = 200  # records of which not one was right: the wrong format, or the wrong file
REASONS_MAX = 40  # different reasons told apart; texts in them come from strangers
MODELS_MAX = 400
COMPACT_ROWS = 400_000  # rows in the tail after which they are moved to segments, beside us: some 0.5 GB
COMPACT_LAST = 50_000  # … and at the end: a reader of a longer tail waits for more than a second

HERE = "already in the ledger"
ELSEWHERE = "the same call is in the ledger from another source"
AGAIN = "told twice in this import"


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


def _count(counter: Counter[str], reason: str, times: int = 1) -> None:
    """One more, without letting strangers' texts fill the memory."""
    counter[reason if reason in counter or len(counter) < REASONS_MAX else "other reasons"] += times


class Resumed(NamedTuple):
    """An import that was interrupted and gone on with."""

    file: str
    offset: int
    records: int  # before it, in the ledger or put aside


class Intake:
    """One import into one ledger. `step` is told the bytes read of the current file and how many records were read of all."""

    def __init__(
        self, form: str, ledger: Ledger, maker: Maker, *, clock_us: Callable[[], int], aside: Path | None = None,
        step: Callable[[int, int], None] = lambda _position, _records: None,
    ) -> None:  # fmt: skip
        self.form, self._ledger, self._maker, self._clock, self._step = form, ledger, maker, clock_us, step
        self._place: Place = ledger.place
        self._folder = self._place.file.parent
        self._given_aside = aside
        self.tally = Tally()
        self.aside_path: Path | None = None
        self.resumed: list[Resumed] = []
        self._first_bad: Bad | None = None
        self.seconds = 0.0  # until every row was in the ledger
        self._child: subprocess.Popen[bytes] | None = None
        self._since = 0
        self._read = 0

    def run(self, files: Sequence[Path]) -> Tally:
        """Import all files. Unreadable or WrongFormat names the one that cannot be; what came before it is in the ledger."""
        known = Known(self._place, f"imported:{self.form}")
        marks = [Mark(self._folder, self.form, file) for file in files]
        found = [mark.load() for mark in marks]
        aside = Aside(self._folder, self.form, self._given_aside, resumed=any(found))
        began = time.monotonic()
        collecting = gc.isenabled()
        gc.disable()  # millions of tuples and not one circle: looking for circles among them is a tenth of the time
        # While one batch is written, and the disk waited for, the next is read.
        with ThreadPoolExecutor(1, "bursar-import") as writer:
            try:
                for file, mark, resume in zip(files, marks, found, strict=True):
                    self._file(file, mark, resume, _Desk(self.form, writer, known, aside))
            finally:
                known.close()
                aside.close()
                self.aside_path = aside.path if aside.count else None
                if collecting:
                    gc.enable()
                self.seconds = time.monotonic() - began
                self._compact(last=True)
        return self.tally

    # -- one file ----------------------------------------------------------------------------------------------------

    def _file(self, path: Path, mark: Mark, resume: dict[str, Any], desk: _Desk) -> None:
        total, offset, line = self.tally, 0, 0
        source = Source(path, FORMS[self.form].shape)
        if resume:
            offset, line = resume["offset"], resume["line"]
            self.resumed.append(Resumed(str(path), offset, resume["records"]))
        earlier = resume.get("records", 0) - total.records
        reading = mapper(self.form)
        batch: dict[str, Entry] = {}
        due = time.monotonic() + MARK_S
        latest = self._clock() + DAY_US
        growing = self._clock() - path.stat().st_mtime_ns // 1000 < GROWING_US
        refused = 0
        try:
            for outcome, piece in self._outcomes(source, reading, offset, line, growing):
                self._read += 1
                if outcome.__class__ is Record or outcome.__class__ is Entry:
                    row = self._maker.row(outcome) if outcome.__class__ is Record else outcome
                    if row.ts > latest:
                        outcome = Bad("its time is in the future", piece)
                    elif row.id in batch:
                        outcome = Repeat(AGAIN)
                    elif row.attempt_kind == AGGREGATE and (why := desk.judge(row, latest - DAY_US)) is not None:
                        outcome = Bad(why, piece) if isinstance(why, str) else why
                    else:
                        batch[row.id], outcome = row, None
                if outcome is not None:
                    self._told(outcome, path, desk.aside)
                    if outcome.__class__ is Bad:
                        refused += 1
                        self._first_bad = self._first_bad or outcome
                        if refused == TRIAL and refused == total.records + earlier and not batch:
                            raise WrongFormat(f"{path}: the first {TRIAL} records are no {self.form}: {outcome.reason}; {self.hint()}")
                elif len(batch) >= BATCH:
                    self._collect(desk)
                    desk.submit(self._book, batch)
                    batch = {}
                    if time.monotonic() >= due:
                        self._collect(desk)
                        desk.aside.flush()
                        first = reading.waiting or piece
                        offset = first.offset if reading.waiting else piece.end
                        mark.save(offset, first.line - 1 if reading.waiting else piece.line, total.records + earlier)
                        due = time.monotonic() + MARK_S
                    self._step(source.position, self._read)
            self._collect(desk)
            if batch:
                desk.submit(self._book, batch)
                self._collect(desk)
            self._step(source.size, self._read)
            mark.remove()
        finally:
            source.close()

    def _outcomes(self, source: Source, reading: Mapper, offset: int, line: int, growing: bool) -> Iterator[tuple[Any, Any]]:
        """(outcome, the piece that was being read)."""
        take, containers = reading.take, FORMS[self.form].shape.containers
        piece = _NOWHERE
        for found in source.pieces(offset, line):
            if found.__class__ is Bad:
                yield found, found.piece
                continue
            piece = found
            try:
                for outcome in take(piece):
                    yield outcome, piece
            except NotMine as why:
                for outcome in _unwrapped(reading, piece, containers, str(why)):
                    yield outcome, piece
        for outcome in reading.finish(growing):
            yield outcome, piece

    def _told(self, outcome: Outcome, path: Path, aside: Aside) -> None:
        match outcome:
            case Repeat(reason):
                _count(self.tally.repeats, reason)
            case Passed(reason):
                _count(self.tally.passed, reason)
            case Bad(reason):
                _count(self.tally.refused, reason)
                aside.put(path, outcome)
            case _:
                raise AssertionError("a record is a row, not a remark")

    def hint(self) -> str:
        """What the first refused record may be instead."""
        others = recognised(self._first_bad.piece, self.form) if self._first_bad else []
        return f"it looks like {' or '.join(others)}" if others else "docs/reference/imports.md says what each format holds"

    # -- the ledger --------------------------------------------------------------------------------------------------

    def _book(self, batch: dict[str, Entry], known: Known) -> _Booked:
        """On the writer's thread: what is new of a batch goes into the ledger, on the disk when this returns."""
        here = known.ids(batch)
        fresh = [row for id, row in batch.items() if id not in here]
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
                _count(self.tally.repeats, reason, times)
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

    def __init__(self, form: str, writer: ThreadPoolExecutor, known: Known, aside: Aside) -> None:
        self._form, self._writer, self._known, self.aside = form, writer, known, aside
        self._under_way: Future[_Booked] | None = None
        self._reported: Reported | None = None

    def judge(self, row: Entry, now_us: int) -> str | Repeat | None:
        """Whether a bucket of a provider's report may be booked: see reports.py."""
        if self._reported is None:
            self._reported = Reported(self._known.reported(sources(self._form).values()))
        return self._reported.judge(row, now_us)

    def submit(self, book: Callable[[dict[str, Entry], Known], _Booked], batch: dict[str, Entry]) -> None:
        assert self._under_way is None
        self._under_way = self._writer.submit(book, batch, self._known)

    def result(self) -> _Booked | None:
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else under_way.result()


_NOWHERE = Piece(b"", 0, 0, 0)


def stated_in(flags: str) -> int | None:
    """Pico-dollars that the source stated, from a row's flags; None where it stated none."""
    for word in flags.split():
        if word.startswith("stated:"):
            whole, _, part = word[7:].partition(".")
            return int(whole + part.ljust(12, "0"))
    return None


def _unwrapped(reading: Mapper, piece: Piece, containers: Sequence[str], why: str) -> Iterator[Outcome]:
    """The records inside a piece that is none itself: a page of an API, a wrapper around one record."""
    try:
        found = _raw.decode(piece.raw)
        inner = next((found[name] for name in containers if name in found), None) if isinstance(found, dict) else None
        if isinstance(inner, msgspec.Raw):
            inner = _list.decode(inner)
    except (msgspec.DecodeError, RecursionError) as bad:
        yield Bad(f"not JSON: {bad}" if not isinstance(bad, RecursionError) else "nested too deeply", piece)
        return
    if inner is None:
        yield Bad(why, piece)
        return
    for raw in inner:
        part = piece._replace(raw=bytes(raw))
        try:
            yield from reading.take(part)
        except NotMine as bad:
            yield Bad(str(bad), part)


_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])


def recognised(piece: Piece, but: str) -> list[str]:
    """Formats that this piece is a record of."""
    found: list[str] = []
    for form in FORMS:
        if form == but:
            continue
        reading = mapper(form)
        try:
            outcomes = [*reading.take(piece), *reading.finish(False)]
        except NotMine as why:
            outcomes = list(_unwrapped(reading, piece, FORMS[form].shape.containers, str(why)))
        if any(isinstance(outcome, Record | Entry) for outcome in outcomes):
            found.append(form)
    return found


__all__ = ["Intake", "Tally", "Unreadable", "WrongFormat"]
