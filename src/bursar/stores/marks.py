"""Marks: events that people put on the ledger's time line, so that a change can be read beside them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw

from .fault import OF_DISK, from_error
from .schema import Place, connect

MARKS_MAX = 10_000  # asked for at once


class Mark(NamedTuple):
    """`ts` is when it happened, microseconds since the epoch, UTC."""

    ts: int
    text: str


def add(path: str | Path, mark: Mark, now_us: int) -> None:
    """Put a mark on the time line, on the disk when this returns. LedgerFault when the ledger cannot take it."""
    place = Place.at(path)
    connection = connect(place, busy_ms=5_000)
    try:
        connection.execute("INSERT INTO marks (ts, text, at) VALUES (?, ?, ?)", (mark.ts, mark.text, now_us))
    except OF_DISK as error:
        raise from_error(error, place.file) from error
    finally:
        connection.close(True)


def between(connection: apsw.Connection, since_us: int | None, until_us: int | None) -> list[Mark]:
    """Marks in [since, until), oldest first; of too many the newest."""
    low, high = since_us or 0, 2**62 if until_us is None else until_us
    rows = connection.execute(
        "SELECT ts, text FROM marks WHERE ts >= ? AND ts < ? ORDER BY ts DESC, n DESC LIMIT ?", (low, high, MARKS_MAX)
    ).fetchall()
    return [Mark(*row) for row in reversed(rows)]
