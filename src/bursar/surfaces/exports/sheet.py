"""Rows as CSV by RFC 4180, safe to open in a spreadsheet: no cell that a stranger chose begins a formula; numbers stay numbers."""

from __future__ import annotations

import csv
import io
from typing import IO

from ...domain.entry import MONEY_COLUMNS
from ...stores.columns import shown
from ...stores.reader import Reader
from ...stores.schema import INT_COLUMNS
from . import rows
from .rows import COLUMNS, Asked, Written

# What spreadsheets take for the begin of a formula or a cell of another kind, also in full width (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBERS = frozenset(shown(column) for column in (*INT_COLUMNS, *MONEY_COLUMNS))


def safe(text: str) -> str:
    """The text with a quote in front where a spreadsheet would do something with it."""
    return f"'{text}" if text.startswith(FORMULA) else text


def write(reader: Reader, asked: Asked, out: IO[bytes]) -> Written:
    """The calls, every column; labels and legs as JSON."""
    select = ", ".join(rows.texts(column) for column in COLUMNS)
    words = [n for n, column in enumerate(COLUMNS) if column not in NUMBERS]
    at = COLUMNS.index("cost")
    text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)
    sheet = csv.writer(text, lineterminator="\r\n")
    sheet.writerow(COLUMNS)
    count = cost = 0
    for chunk in rows.chunks(reader, asked, select):
        made = [list(row) for row in chunk]
        for row in made:
            for n in words:
                cell = row[n]
                if cell and cell[0] in FORMULA:
                    row[n] = safe(cell)
        sheet.writerows(made)
        count += len(chunk)
        cost += rows.money([row[at] for row in chunk])
    text.detach()
    return Written(count, cost)
