"""How the tests of imports read: a text through a format, files into a ledger, and what came of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bursar.domain.entry import Entry
from bursar.stores.reader import Reader
from bursar.stores.writer import Ledger
from bursar.surfaces.imports import FORMS, mapper
from bursar.surfaces.imports.files import Source
from bursar.surfaces.imports.intake import Book, Intake
from bursar.surfaces.imports.reading import unwrapped
from bursar.surfaces.imports.record import Bad, NotMine, Outcome, Piece, Record

NOW = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z


def outcomes(form: str, *records: object, growing: bool = False) -> list[Outcome]:
    """What these records, each a piece of one file, turn out to be."""
    reading = mapper(form)
    found: list[Outcome] = []
    for number, record in enumerate(records, 1):
        raw = record if isinstance(record, bytes) else json.dumps(record).encode()
        _take(form, reading, Piece(raw, number, 0, 0), found)
    return [*found, *reading.finish(growing)]


def outcomes_of(form: str, path: Path) -> list[Outcome]:
    """The same for a whole file."""
    reading = mapper(form)
    found: list[Outcome] = []
    for piece in Source(path, FORMS[form].shape).pieces():
        if isinstance(piece, Bad):
            found.append(piece)
        else:
            _take(form, reading, piece, found)
    return [*found, *reading.finish(False)]


def _take(form: str, reading: Any, piece: Piece, found: list[Outcome]) -> None:
    try:
        found.extend(reading.take(piece))
    except NotMine as why:
        found.extend(unwrapped(reading, piece, FORMS[form].shape.containers, str(why)))


def one(form: str, record: object) -> Record:
    """The single record that this is."""
    (found,) = outcomes(form, record)
    assert isinstance(found, Record), found
    return found


def counts(record: Record) -> dict[str, Any]:
    """The buckets that are not empty."""
    assert record.tokens is not None
    return {name: n for name, n in record.tokens._asdict().items() if n}


def bring(ledger: Path, form: str, files: Sequence[Path], book: Path, *, now: int = NOW, **more: Any) -> Intake:
    """Import the files; the intake has the tally."""
    with Ledger.open(ledger, clock_us=lambda: now, mode="import") as opened:
        intake = Intake(form, opened, Book(book), clock_us=lambda: now, **more)
        intake.run(files)
    return intake


def rows(ledger: Path) -> list[dict[str, Any]]:
    """Every row, by id."""
    with Reader(ledger) as reader:
        return reader.sql("SELECT * FROM entries ORDER BY id")


def entries(ledger: Path) -> list[Entry]:
    with Ledger.open(ledger, clock_us=lambda: NOW) as opened:
        return sorted(opened.rows(), key=lambda row: row.id)


def lines(path: Path, records: Iterable[object]) -> Path:
    """A file of JSON lines; gzip where its name says so."""
    text = "".join((r.decode() if isinstance(r, bytes) else json.dumps(r)) + "\n" for r in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
