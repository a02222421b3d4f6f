"""How pages get at the ledger: few readers at a time with bounded memory, and the bar of what a page has to look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...domain.policy import Policy
from ...stores.fault import LedgerFault
from ...stores.query import Filter, Query, compile_filter
from ...stores.reader import Reader
from ...stores.schema import Place
from .. import settings, wiring
from ..cli_common import pico

MEMORY = "240MB"  # of one question, beside some 150 MB that the process is by itself


class Shelf:
    """The ledger and the policy as pages read them. One question at a time, by one thread: ten viewers make no more work at once than
    one, and what a question needs of its memory is not left to chance."""

    def __init__(self, ledger: Path, config: Path | None, clock_us: Callable[[], int] = wiring.now_us) -> None:
        self.place = Place.at(ledger)
        self.folder = ledger
        self.config = config
        self.clock_us = clock_us
        self._gate = threading.Lock()
        self._read: tuple[tuple[object, ...], tuple[Policy, str]] | None = None

    def exists(self) -> bool:
        return self.place.file.exists()

    @contextmanager
    def open(self) -> Iterator[Reader]:
        """A reader of the ledger as it is now. LedgerFault says what is wrong with it."""
        with self._gate, Reader(self.place.file, skip_damaged=True, memory=MEMORY, threads=1) as reader:
            yield reader

    def policy(self) -> tuple[Policy, str]:
        """The policy file as it is now. BadPolicy when it cannot be used."""
        try:
            stamp = settings.stamp(self.config) if self.config else ()
        except OSError:
            self._read = None  # what is wrong with it is told by who reads it
            return settings.load(self.config)
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, settings.load(self.config)
        return self._read[1]


def newest_us(reader: Reader) -> int | None:
    """The time of the newest row, near enough to name its month; None in an empty ledger."""
    last = reader.sqlite.execute("SELECT ts FROM tail ORDER BY seq DESC LIMIT 1").get
    ends = [segment.max_ts for segment in reader.segments if segment.rows]
    found = [*ends, *([int(last)] if last is not None else [])]
    return max(found, default=None)


def dollars(value: Any) -> int:
    """Pico-dollars of a sum; a sum over nothing is nothing."""
    return 0 if value is None else pico(value)


def ask(
    reader: Reader,
    columns: Sequence[str],
    sql: str,
    where: tuple[Filter, ...],
    since: int | None,
    until: int | None,
    values: Mapping[str, object] | None = None,
) -> list[dict[str, Any]]:
    """A statement of ours over the rows of a question: `{rows}` in it is `calls WHERE …`."""
    only = compile_filter(Query(where=where, since_us=since, until_us=until))
    reader.totals(dict.fromkeys((*columns, *only.columns)), since, until)
    result = reader.duck.execute(sql.format(rows=f"calls WHERE ({only.sql})"), {**only.values, **(values or {})})
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def percentiles(
    reader: Reader, by: str, column: str, shares: Sequence[int], where: tuple[Filter, ...], since: int | None, until: int | None
) -> dict[str, tuple[int | None, ...]]:
    """Per value of `by` what so many percent of the rows' `column`, whole numbers, are at most: each a number that occurs. Exact, and
    in little memory: told from how often each number occurs, where an engine's own percentile keeps the number of every row."""
    first = ", ".join(f"min(number) FILTER (upto * 100 >= {share} * whole)" for share in shares)
    found = ask(
        reader,
        (by, column),
        f"""SELECT value, {first} FROM (
              SELECT value, number, sum(n) OVER (PARTITION BY value ORDER BY number) AS upto, sum(n) OVER (PARTITION BY value) AS whole
              FROM (SELECT "{by}" AS value, "{column}" AS number, count(*) AS n FROM {{rows}}
                    AND "{column}" IS NOT NULL GROUP BY 1, 2)) GROUP BY 1""",
        where,
        since,
        until,
    )
    return {row.pop("value"): tuple(row.values()) for row in found}


__all__ = ["LedgerFault", "Shelf", "ask", "dollars", "newest_us", "percentiles"]
