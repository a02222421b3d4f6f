"""Reading the ledger from any process: segments and tail under one snapshot, in DuckDB's own memory. Never in the gateway."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ..domain.entry import COLUMNS, MONEY_COLUMNS, Hold
from . import closed, marks
from .columns import ALL, MONEY, append, literal, load, shape, shown
from .fault import OF_DISK, LedgerFault, from_error
from .owner import Owner, ticks_us
from .query import Query, compile_query
from .schema import HOLDS_EACH, INT_COLUMNS, Place, connect, quoted, read_hold

Row = dict[str, Any]


class Segment(NamedTuple):
    """A file of the list. Times in microseconds, both inclusive."""

    name: str
    min_ts: int
    max_ts: int
    rows: int
    bytes: int
    sha256: str


class Reader:
    """The ledger as it is at the moment of opening: every answer of one reader is about the same rows, so they all foot.

    Short-lived by design (one page, one command): while it is open, SQLite's log cannot shrink. Damaged segments raise
    LedgerFault with the file's name; `skip_damaged` leaves them out instead, and `skipped` names them."""

    def __init__(self, path: str | Path, *, skip_damaged: bool = False, memory: str = "1GB", threads: int = 2) -> None:
        self.place = Place.at(path)
        self._skip = skip_damaged
        self.skipped: list[str] = []
        self._loaded: frozenset[str] = frozenset()
        self._shown: tuple[str, ...] = ()
        self._side_views = False
        self.sqlite = connect(self.place, busy_ms=5_000, read_only=True)
        try:
            self.duck = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory})
            self.duck.execute("SET TimeZone = 'UTC'")
            self.sqlite.execute("BEGIN")
            rows = self.sqlite.execute("SELECT name, min_ts, max_ts, rows, bytes, sha256 FROM segments ORDER BY min_ts, name")
            self.segments = self._present([Segment(*row) for row in rows])
        except OF_DISK as error:
            self.close()
            raise from_error(error, self.place.file) from error
        except LedgerFault:
            self.close()
            raise

    def _present(self, segments: list[Segment]) -> list[Segment]:
        good: list[Segment] = []
        for segment in segments:
            path = self.place.segments / segment.name
            size = path.stat().st_size if path.exists() else -1
            if size == segment.bytes:
                good.append(segment)
            elif self._skip:
                self.skipped.append(segment.name)
            else:
                raise _damaged(path, segment, "missing" if size < 0 else f"{size} bytes long instead of {segment.bytes}")
        return good

    # -- questions ---------------------------------------------------------------------------------------------------

    def query(self, query: Query) -> list[Row]:
        """Answer a closed question. Money is Decimal, counts are int, periods ISO text; LedgerFault(code="query") says which
        name is not known."""
        plan = compile_query(query)
        self._view(plan.columns, query.since_us, query.until_us)
        return self._run(plan.sql, plan.values)

    def sql(self, text: str, values: Mapping[str, object] | Sequence[object] | None = None) -> list[Row]:
        """Any DuckDB SELECT over the views `calls`, `entries`, `holds`, `incidents` and `marks`. Values are bound (`$name` or `?`)."""
        self._view(ALL, None, None)
        self._side()
        return self._run(text, values)

    def totals(self, columns: Iterable[str], since_us: int | None = None, until_us: int | None = None) -> None:
        """Make `calls` and `entries` ready with these columns, for statements of our own on `duck`. Segments outside of the time are
        not looked at; rows outside of it may still come."""
        self._view(tuple(columns), since_us, until_us)

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids have a row: what an import asks before it books the same file again."""
        self._view(("id",), None, None)
        self.duck.execute("CREATE OR REPLACE TABLE wanted (id VARCHAR)")
        append(self.duck, "wanted", [(id,) for id in ids])
        return {row["id"] for row in self._run("SELECT DISTINCT id FROM entries SEMI JOIN wanted USING (id)", None)}

    def holds(self) -> list[tuple[Hold, bool]]:
        """Tries under way at this moment, each with whether the process that would settle it still lives."""
        me, now = Owner.here("reader", ""), ticks_us()
        columns = 'n, id, "where", boot, pid, start, mode, node, lease_until'
        owners = self.sqlite.execute(f"SELECT {columns} FROM owners").fetchall()
        alive = {n for n, *fields, until in owners if not me.gone(Owner(*fields), until, now)}
        rows = self.sqlite.execute(f"SELECT hold, n / {HOLDS_EACH} FROM holds ORDER BY n").fetchall()
        return [(read_hold(hold), owner in alive) for hold, owner in rows]

    def marks(self, since_us: int | None = None, until_us: int | None = None) -> list[marks.Mark]:
        """What people put on the time line in [since, until), oldest first."""
        return marks.between(self.sqlite, since_us, until_us)

    def closed(self) -> list[closed.Closed]:
        """Months as they were closed, oldest first."""
        return closed.every(self.sqlite)

    def _run(self, text: str, values: Mapping[str, object] | Sequence[object] | None) -> list[Row]:
        try:
            result = self.duck.execute(text, values)
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        except (duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException) as error:
            self._blame(error)
            raise _unanswerable(error) from error
        except duckdb.Error as error:
            raise _unanswerable(error) from error

    def _blame(self, error: duckdb.Error) -> None:
        """DuckDB does not always say which file it stumbled over: read each one alone."""
        for segment in self.segments:
            path = self.place.segments / segment.name
            try:
                columns = "*" if segment.rows else "count(*)"
                self.duck.execute(f"SELECT count(COLUMNS({columns})) FROM read_parquet({literal(str(path))})").fetchall()
            except duckdb.Error:
                raise _damaged(path, segment, str(error).splitlines()[0]) from error

    # -- views -------------------------------------------------------------------------------------------------------

    def _view(self, columns: Sequence[str], since_us: int | None, until_us: int | None) -> None:
        """`entries`, with at least these columns, over the segments that can have rows of this time, and the tail; and `calls`, which
        is all of them but the buckets of providers' reports: those are sums, and may be over the same calls."""
        wanted = frozenset(columns) | {"ts", "attempt_kind"}
        try:
            if not wanted <= self._loaded:
                self._loaded |= wanted
                self._shown = tuple(c for c in ALL if c in self._loaded)
                load(self.sqlite, self.duck, "raw_tail", self._shown)
        except OF_DISK as error:
            raise from_error(error, self.place.file) from error
        files = [s for s in self.segments if (until_us is None or s.min_ts < until_us) and (since_us is None or s.max_ts >= since_us)]
        tail = f"SELECT {', '.join(shape(c) for c in self._shown)} FROM raw_tail"
        if files:
            paths = ", ".join(literal(str(self.place.segments / s.name)) for s in files)
            names = ", ".join(quoted(shown(c)) for c in self._shown)
            tail = f"SELECT {names} FROM read_parquet([{paths}], union_by_name = true) UNION ALL {tail}"
        try:
            self.duck.execute(f"CREATE OR REPLACE VIEW entries AS {tail}")
            self.duck.execute("CREATE OR REPLACE VIEW calls AS SELECT * FROM entries WHERE attempt_kind IS DISTINCT FROM 'aggregate'")
        except duckdb.Error as error:
            self._blame(error)
            raise _unanswerable(error) from error

    def _side(self) -> None:
        """The small views: holds as rows that could still be, incidents, and marks."""
        if self._side_views:
            return
        kinds = {c: MONEY if c in MONEY_COLUMNS else "BIGINT" if c in INT_COLUMNS else "VARCHAR" for c in COLUMNS}
        raw = ", ".join(f"{quoted(c)} {'BIGINT' if c in INT_COLUMNS else 'VARCHAR'}" for c in kinds)
        self.duck.execute(f"CREATE TABLE raw_holds ({raw})")
        append(self.duck, "raw_holds", [tuple(h.entry) for h, _ in self.holds()])
        self.duck.execute(f"CREATE VIEW holds AS SELECT {', '.join(shape(c) for c in COLUMNS)} FROM raw_holds")
        self.duck.execute("CREATE TABLE incidents (ts TIMESTAMPTZ, code VARCHAR, scope VARCHAR, reason VARCHAR, conversation VARCHAR)")
        self.duck.execute("CREATE TABLE raw_marks (ts BIGINT, text VARCHAR)")
        append(self.duck, "raw_marks", self.marks())
        self.duck.execute("CREATE VIEW marks AS SELECT make_timestamptz(ts) AS ts, text FROM raw_marks")
        self._side_views = True

    def close(self) -> None:
        if hasattr(self, "duck"):
            self.duck.close()
        self.sqlite.close(True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(path: Path, segment: Segment, what: str) -> LedgerFault:
    code = "segment_missing" if what == "missing" else "segment_corrupt"
    remedy = "put it back from a backup (its bytes never change), or read without it: --skip-damaged"
    return LedgerFault(code, f"{path}: {what}; {segment.rows} rows are in it", remedy)


def _unanswerable(error: duckdb.Error) -> LedgerFault:
    text = re.sub(r"\s+", " ", str(error))[:500]
    return LedgerFault("query", text, "see docs/reference/ledger-columns.md for the views and their columns")


__all__ = ["LedgerFault", "Query", "Reader", "Segment"]
