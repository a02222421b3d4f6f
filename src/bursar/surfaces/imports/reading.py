"""Files in, priced rows out, a batch at a time, with what became of every other record: the half of an import that knows no ledger.
For large files it is a process of its own (`python -m bursar.surfaces.imports.reading`): one reads while the other writes."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ...domain.entry import Entry
from ...domain.policy import PriceOverride
from ...domain.shape import replace
from ...stores.pricebook import PriceBook
from . import FORMS, mapper
from .entries import Given, Maker
from .files import Source, Unreadable
from .record import AGGREGATE, DAY_US, Bad, Mapper, NotMine, Passed, Piece, Record, Repeat

BATCH = 8_192  # rows on their way at once: some 10 MB
LEAST_S = 0.5  # … or what came together in this time: a slow file is seen to move
OWN_PROCESS = 4 << 20  # bytes of files from which another process pays: it takes a third of a second to begin
GROWING_US = 3_600_000_000  # a file touched within the hour may still be written to
TRIAL = 200  # records of which not one was right: the wrong format, or the wrong file
REASONS_MAX = 40  # different reasons told apart; texts in them come from strangers
AGAIN = "told twice in this import"
FUTURE = "its time is in the future"


class Part(msgspec.Struct, array_like=True):
    """A file to read, from where a piece ended at `offset` with `line` before it."""

    path: str
    offset: int = 0
    line: int = 0


class Task(msgspec.Struct):
    """What is to be read and how its rows are made."""

    form: str
    files: list[Part]
    book: str  # the compiled price book
    overrides: list[PriceOverride]
    labels: dict[str, str]
    renames: dict[str, str]
    now_us: int


class Batch(msgspec.Struct, array_like=True):
    """Rows, and what became of the records between them. `offset` and `line`: everything before is in this batch or an earlier one.
    `places`: where the rows stand that may still be refused. `wrong`: the file is not of the format, nothing more comes."""

    file: int
    rows: list[Entry]
    repeats: dict[str, int]
    passed: dict[str, int]
    bad: list[Bad]
    places: dict[str, Piece]
    records: int
    offset: int
    line: int
    position: int
    last: bool = False
    wrong: bool = False
    unreadable: str = ""


def count(counter: Counter[str], reason: str, times: int = 1) -> None:
    """One more, without letting strangers' texts fill the memory."""
    counter[reason if reason in counter or len(counter) < REASONS_MAX else "other reasons"] += times


def batches(task: Task) -> Iterator[Batch]:
    """Everything in the files, in order. The last batch of each says so."""
    prices = PriceBook.load(task.book, task.overrides)
    maker = Maker(task.form, prices, Given(task.labels, task.renames))
    for number, part in enumerate(task.files):
        reading = _File(task, number, part, maker)
        try:
            yield from reading.batches()
        except Unreadable as bad:
            yield reading.close(unreadable=str(bad))
            return
        if reading.wrong:
            return


class _File:
    """One file being read."""

    def __init__(self, task: Task, number: int, part: Part, maker: Maker) -> None:
        self._form, self._number, self._part, self._maker, self._now = task.form, number, part, maker, task.now_us
        self._source: Source | None = None
        self._reading: Mapper = mapper(task.form)
        self._piece = Piece(b"", part.line, part.offset, part.offset)
        self.wrong = False
        self._right = False
        self._fresh()

    def _fresh(self) -> None:
        self._rows: dict[str, Entry] = {}
        self._repeats: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()
        self._bad: list[Bad] = []
        self._places: dict[str, Piece] = {}
        self._records = 0
        self._due = time.monotonic() + LEAST_S

    def close(self, last: bool = True, unreadable: str = "") -> Batch:
        """What has come together."""
        waiting, piece = self._reading.waiting, self._piece
        offset, line = (waiting.offset, waiting.line - 1) if waiting is not None else (piece.end, piece.line)
        source = self._source
        position = (source.size if last else source.position) if source is not None else 0
        made = Batch(
            self._number, list(self._rows.values()), self._repeats, self._passed, self._bad, self._places, self._records, offset, line,
            position, last, self.wrong, unreadable,
        )  # fmt: skip
        self._fresh()
        return made

    def batches(self) -> Iterator[Batch]:
        path = Path(self._part.path)
        source = self._source = Source(path, FORMS[self._form].shape)
        growing = self._now - path.stat().st_mtime_ns // 1000 < GROWING_US
        latest = self._now + DAY_US
        row_of = self._maker.row
        try:
            for outcome in self._outcomes(source, growing):
                self._records += 1
                kind = outcome.__class__
                if kind is Record or kind is Entry:
                    row = row_of(outcome) if kind is Record else outcome
                    rows = self._rows
                    if row.ts > latest:
                        self._bad.append(Bad(FUTURE, self._piece))
                    elif row.id in rows:
                        count(self._repeats, AGAIN)
                    else:
                        rows[row.id] = row
                        self._right = True
                        if row.attempt_kind == AGGREGATE:
                            self._places[row.id] = self._piece
                        if len(rows) >= BATCH:
                            yield self.close(last=False)
                    continue
                if kind is Repeat:
                    count(self._repeats, outcome.reason)
                elif kind is Passed:
                    count(self._passed, outcome.reason)
                else:
                    self._bad.append(outcome)
                    if len(self._bad) == TRIAL == self._records and not self._right and not self._part.offset:
                        self.wrong = True
                        break
                if not self._records & 1023 and time.monotonic() >= self._due:
                    yield self.close(last=False)
            yield self.close()
        finally:
            source.close()

    def _outcomes(self, source: Source, growing: bool) -> Iterator[Any]:
        take, containers = self._reading.take, FORMS[self._form].shape.containers
        for found in source.pieces(self._part.offset, self._part.line):
            if found.__class__ is Bad:
                yield found
                continue
            self._piece = found  # type: ignore[assignment]
            try:
                yield from take(found)  # type: ignore[arg-type]
            except NotMine as why:
                yield from unwrapped(self._reading, found, containers, str(why))  # type: ignore[arg-type]
        yield from self._reading.finish(growing)


def unwrapped(reading: Mapper, piece: Piece, containers: Sequence[str], why: str) -> Iterator[Any]:
    """The records inside a piece that is none itself: a page of an API, a wrapper around one record."""
    try:
        found = _raw.decode(piece.raw)
        inner = next((found[name] for name in containers if name in found), None)
        parts = None if inner is None else _list.decode(inner)
    except (msgspec.DecodeError, RecursionError):
        parts = None
    if parts is None:
        yield Bad(why, piece)
        return
    for raw in parts:
        part = replace(piece, raw=bytes(raw))
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
            outcomes = list(unwrapped(reading, piece, FORMS[form].shape.containers, str(why)))
        if any(isinstance(outcome, Record | Entry) for outcome in outcomes):
            found.append(form)
    return found


# -- as a process of its own -------------------------------------------------------------------------------------------------

_encode = msgspec.msgpack.Encoder().encode
_batch = msgspec.msgpack.Decoder(Batch)


def elsewhere(task: Task) -> Iterator[Batch]:
    """`batches`, read by another process. Leaving this iterator ends that one."""
    words = [sys.executable, "-m", __name__]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(task))
            child.stdin.close()
            while head := child.stdout.read(8):
                yield _batch.decode(child.stdout.read(int.from_bytes(head, "big")))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        raise Unreadable(f"the process that read the files ended with {how}; the same command goes on where it stopped")


def main(into: BinaryIO, out: BinaryIO) -> None:
    """A Task as JSON comes in, batches go out, each after its length in eight bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is told to both: the one that writes decides
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    gc.disable()  # millions of tuples and not one circle: looking for circles among them is a tenth of the time
    for batch in batches(msgspec.json.decode(into.read(), type=Task)):
        raw = _encode(batch)
        out.write(len(raw).to_bytes(8, "big") + raw)
        out.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
