"""Rows as JSON lines: every row, every column, exact. What `bursar import jsonl` reads back as the same rows."""

from __future__ import annotations

from typing import IO

import msgspec

from ...stores.reader import Reader
from . import rows
from .rows import COLUMNS, Asked, Written

RAW = ("labels", "legs", "other_units", "label_sources")


def write(reader: Reader, asked: Asked, out: IO[bytes]) -> Written:
    """All rows, also buckets of providers' reports: a copy of the ledger leaves nothing out."""
    select = ", ".join(rows.texts(column) for column in COLUMNS)
    raw = [COLUMNS.index(name) for name in RAW]
    at = COLUMNS.index("cost")
    encode = msgspec.json.Encoder().encode
    count = cost = 0
    for chunk in rows.chunks(reader, asked, select, view="entries"):
        lines: list[bytes] = []
        for row in chunk:
            values = list(row)
            for n in raw:
                values[n] = msgspec.Raw(values[n].encode())
            lines.append(encode(dict(zip(COLUMNS, values, strict=True))))
        out.write(b"\n".join(lines) + b"\n")
        count += len(chunk)
        cost += rows.money([row[at] for row in chunk])
    return Written(count, cost)
