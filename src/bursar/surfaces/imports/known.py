"""What the ledger already has: rows of the same id, and calls that another source has told of, by the provider's response id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import duckdb
import msgspec

from ...domain.entry import Entry
from ...stores import engine
from ...stores.columns import literal
from ...stores.fault import LedgerFault
from ...stores.schema import Place, connect
from .record import APART_US, RESPONSE_ID_MIN


def told(paths: Sequence[str], answers: Mapping[str, int], source: str) -> set[str]:
    """Which of these provider's response ids (each with its time) a row in these segments has that is of another source."""
    first, last = min(answers.values()) - APART_US, max(answers.values()) + APART_US
    files = ", ".join(map(literal, paths))
    text = f"""SELECT response_id FROM read_parquet([{files}], union_by_name = true) WHERE epoch_us(ts) BETWEEN ? AND ?
               AND response_id IN (SELECT unnest(?)) AND source NOT IN (?, 'correction')"""
    with engine.connect("128MB", 1) as duck:
        duck.execute("SET TimeZone = 'UTC'")
        try:
            return {id for (id,) in duck.execute(text, [first, last, list(answers), source]).fetchall()}
        except duckdb.Error as error:
            raise LedgerFault("query", str(error).splitlines()[0], "come again; if it stays, run `bursar check`") from error


class Known:
    """Asks tail and segments, a batch at a time, only about the time the batch is of. Never holds the ledger's file open for long."""

    def __init__(self, place: Place, source: str) -> None:
        self._place, self._source = place, source
        self._sqlite = connect(place, busy_ms=5_000, read_only=True)
        self._duck = engine.connect("256MB", 1)
        self._duck.execute("SET TimeZone = 'UTC'")
        self._foreign_tail = {
            id: ts for id, ts in self._sqlite.execute(
                "SELECT response_id, ts FROM tail WHERE length(response_id) >= ? AND source NOT IN (?, 'correction')",
                (RESPONSE_ID_MIN, source)
            )
        }  # fmt: skip
        self._foreign_segments = self._any_foreign()

    def close(self) -> None:
        self._duck.close()
        self._sqlite.close(True)

    def ids(self, rows: Sequence[Entry]) -> set[str]:
        """Ids of these that have a row."""
        ids = [row.id for row in rows]
        asked = msgspec.json.encode(ids).decode()
        found = {id for (id,) in self._sqlite.execute("SELECT id FROM tail WHERE id IN (SELECT value FROM json_each(?))", (asked,))}
        times = [row.ts for row in rows]
        files = self._files(min(times), max(times))
        if files:
            found.update(self._ask(f"SELECT id FROM {files} WHERE epoch_us(ts) BETWEEN ? AND ? AND id IN (SELECT unnest(?))",
                                   min(times), max(times), ids))  # fmt: skip
        return found

    def elsewhere(self, rows: Iterable[Entry]) -> set[str]:
        """Ids of rows whose call another source has told of already."""
        asked = {row.response_id: row for row in rows if len(row.response_id) >= RESPONSE_ID_MIN}
        if not asked or not (self._foreign_tail or self._foreign_segments):
            return set()
        found = {
            row.id for id, row in asked.items()
            if (ts := self._foreign_tail.get(id)) is not None and abs(ts - row.ts) <= APART_US
        }  # fmt: skip
        first, last = min(r.ts for r in asked.values()) - APART_US, max(r.ts for r in asked.values()) + APART_US
        files = self._files(first, last) if self._foreign_segments else ""
        if files:
            text = f"""SELECT response_id, epoch_us(ts) FROM {files} WHERE epoch_us(ts) BETWEEN ? AND ?
                       AND response_id IN (SELECT unnest(?)) AND source NOT IN (?, 'correction')"""
            for id, ts in self._duck.execute(text, [first, last, list(asked), self._source]).fetchall():
                if abs(ts - asked[id].ts) <= APART_US:
                    found.add(asked[id].id)
        return found

    def reported(self, sources: Iterable[str]) -> list[tuple[str, str]]:
        """(id, digest of its figures) of every bucket of these sources."""
        asked = list(sources)
        found: list[tuple[str, str]] = self._sqlite.execute(
            "SELECT id, request_hash FROM tail WHERE attempt_kind = 'aggregate' AND source IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(asked).decode(),),
        ).fetchall()
        files = self._files(None, None)
        if files:
            text = f"SELECT id, request_hash FROM {files} WHERE attempt_kind = 'aggregate' AND source IN (SELECT unnest(?))"
            found += self._duck.execute(text, [asked]).fetchall()
        return found

    def _any_foreign(self) -> bool:
        files = self._files(None, None)
        if not files:
            return False
        text = f"SELECT EXISTS (FROM {files} WHERE source NOT IN (?, 'correction') AND length(response_id) >= ?)"
        return bool(self._duck.execute(text, [self._source, RESPONSE_ID_MIN]).fetchall()[0][0])

    def _files(self, first: int | None, last: int | None) -> str:
        """The segments that can have rows of this time, as a table of DuckDB; empty when there is none."""
        found = self._sqlite.execute(
            "SELECT name FROM segments WHERE (?1 IS NULL OR max_ts >= ?1) AND (?2 IS NULL OR min_ts <= ?2) AND rows > 0", (first, last)
        ).fetchall()
        paths = ", ".join(literal(str(self._place.segments / name)) for (name,) in found)
        return f"read_parquet([{paths}], union_by_name = true)" if paths else ""

    def _ask(self, text: str, *values: object) -> list[str]:
        return [id for (id,) in self._duck.execute(text, list(values)).fetchall()]
