"""Closed months: what a month came to for each customer on the day it was closed. Written once, never changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from .fault import OF_DISK, LedgerFault, from_error
from .schema import Place, connect


class Line(NamedTuple):
    """A customer's line as it was closed, in pico-dollars."""

    tenant: str
    direct: int
    shared: int


class Closed(NamedTuple):
    """A month as it was closed. `key`: how shared cost was divided; `unpriced`: tries without a price, which are not in it."""

    month: str  # 2026-10
    at: int  # microseconds since the epoch
    total: int
    key: str
    unpriced: int
    lines: tuple[Line, ...]
    overhead: tuple[str, ...] = ()  # tenants that were no customers


_document = msgspec.json.Decoder(Closed)


def add(path: str | Path, closed: Closed) -> None:
    """Close a month, on the disk when this returns. LedgerFault(code="closed") when it is closed already."""
    place = Place.at(path)
    connection = connect(place, busy_ms=5_000)
    try:
        connection.execute("INSERT INTO closed (month, document) VALUES (?, ?)", (closed.month, msgspec.json.encode(closed).decode()))
    except apsw.ConstraintError:
        raise LedgerFault(
            "closed", f"{closed.month} is closed already", "what changed since is shown as its adjustment: bursar spend --closed"
        ) from None
    except OF_DISK as error:
        raise from_error(error, place.file) from error
    finally:
        connection.close(True)


def every(connection: apsw.Connection) -> list[Closed]:
    """All closed months, oldest first."""
    return [_document.decode(text) for (text,) in connection.execute("SELECT document FROM closed ORDER BY month").fetchall()]
