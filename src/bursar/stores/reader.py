"""Reading the ledger from any process: segments and tail under one snapshot, in DuckDB's own memory. Never in the gateway."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import duckdb

from ..domain.alarm import SCALE, WHOLE, Standing
from ..domain.entry import COLUMNS, MONEY_COLUMNS, Hold
from . import alarms, closed, drills, engine, incidents, marks, sums
from .columns import ALL, LABEL, LABELS_TOLD, MONEY, append, label_column, literal, load, money_of, of_map, shape, shown
from .fault import OF_DISK, LedgerFault, from_error
from .grain import DAY, Span
from .owner import Owner, ticks_us
from .query import Plan, Query, compile_gather, compile_lines, compile_query
from .schema import HOLDS_EACH, INT_COLUMNS, Place, connect, quoted, read_hold

Row = dict[str, Any]

AMOUNTS = ("value", "peak", "normal", "threshold", "said_value")
MOMENTS = ("since", "fired", "seen", "resolved", "said", "acknowledged", "judged_at", "heard")
TEXTS = ("id", "rule", "scope", "metric", "unit", "state", "level", "owner", "by", "judged", "judged_by")


CALLS = " WHERE attempt_kind IS DISTINCT FROM 'aggregate'"


class Segment(NamedTuple):
    """A file of the list. Times in microseconds, both inclusive."""

    name: str
    min_ts: int
    max_ts: int
    rows: int
    bytes: int
    sha256: str


class _Engine:
    """DuckDB in this process's memory, one for all readers of the same bounds: to make one takes as long as a question. Views and
    tables of a reader are its connection's own. What files have beside the columns of the ledger is remembered: they never change."""

    FILES_MAX = 10_000

    def __init__(self, memory: str, threads: int) -> None:
        self._duck = engine.connect(memory, threads)
        self._told: dict[str, tuple[frozenset[str], bool]] = {}
        self._sums: dict[str, tuple[int, frozenset[str]]] = {}

    def connection(self) -> duckdb.DuckDBPyConnection:
        made = self._duck.cursor()
        made.execute("SET TimeZone = 'UTC'; SET parquet_metadata_cache = true; SET enable_progress_bar = false")
        return made

    def labels(self, duck: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> Mapping[str, tuple[frozenset[str], bool]]:
        """Of each file, the free labels that have a column of their own there, and whether there are no others."""
        new = [path for path in paths if path not in self._told]
        if new:
            if len(self._told) + len(new) > self.FILES_MAX:
                self._told.clear()
                new = list(paths)
            listed = ", ".join(map(literal, new))
            text = f"SELECT file_name, value FROM parquet_kv_metadata([{listed}]) WHERE key = '{LABELS_TOLD}'::BLOB"
            found = {name: json.loads(value) for name, value in duck.execute(text).fetchall()}
            for path in new:
                told = found.get(path, {"names": [], "all": False})
                self._told[path] = (frozenset(told["names"]), told["all"])
        return self._told

    def sums(self, duck: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> Mapping[str, tuple[int, frozenset[str]]]:
        """What each of these files says of itself: see stores/sums.py."""
        new = [path for path in paths if path not in self._sums]
        if new:
            if len(self._sums) + len(new) > self.FILES_MAX:
                self._sums.clear()
                new = list(paths)
            self._sums |= sums.told(duck, new)
        return self._sums


_engines: dict[tuple[str, int], _Engine] = {}
_making = threading.Lock()


def _before_fork() -> None:
    """A child has not the engine's threads, and would wait for them when it ends."""
    _making.acquire()
    _engines.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_making.release, after_in_child=_making.release)


def _engine(memory: str, threads: int) -> _Engine:
    with _making:
        found = _engines.get((memory, threads))
        if found is None:
            found = _engines[memory, threads] = _Engine(memory, threads)
        return found


DRILLS_MAX = 1_000
INCIDENTS_MAX = 10_000  # asked for at once, the newest
INCIDENT_NUMBERS = frozenset(("n", "ts", "last_ts", "calls", "spent", "limit", "kept"))


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
        self._money = MONEY
        self._made: object = None  # columns and files that the views are made of
        self._made_sums: object = None
        self._side_views = False
        self.sqlite = connect(self.place, busy_ms=5_000, read_only=True)
        try:
            self._engine = _engine(memory, threads)
            self.duck = self._engine.connection()
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
        plan = self._plan(query, compile_query)
        return self._run(plan.sql, plan.values)

    def keep(self, query: Query, name: str, columns: Sequence[str]) -> None:
        """Keep the answer of a question as a table with these columns, in no order: who asks for many lines need not read them all."""
        plan = self._plan(query, compile_lines)
        self._run(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} ({', '.join(map(quoted, columns))}) AS {plan.sql}", plan.values)

    def _plan(self, query: Query, made: Callable[..., Plan]) -> Plan:
        """The plan, with the views ready for it."""
        span = (query.since_us, query.until_us)
        asked = query if None not in span and span[0] >= span[1] else query._replace(since_us=None, until_us=None)  # type: ignore[operator]
        plan = made(asked)
        if sums.fits(asked, plan.columns) and self._view_sums(plan.columns, *span):
            return made(asked, summed=True)
        self._view(plan.columns, *span)
        return made(asked, within=self._ends(*span)) if query.grain else plan

    def gather(self, query: Query, name: str) -> None:
        """Keep the first step of a question as a table, for several questions about some of its dimensions: see `ask`."""
        asked = query._replace(since_us=None, until_us=None)
        plan = compile_gather(asked)
        if sums.fits(asked, plan.columns) and self._view_sums(plan.columns, query.since_us, query.until_us):
            plan = compile_gather(asked, summed=True)
        else:
            self._view(plan.columns, query.since_us, query.until_us)
        self.duck.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} AS {plan.sql}", plan.values)

    def ask(self, query: Query, name: str) -> list[Row]:
        """Answer a question from what was gathered under that name."""
        plan = compile_query(query, gathered=name)
        return self._run(plan.sql, plan.values)

    def _ends(self, since_us: int | None, until_us: int | None) -> Span | None:
        """The time that rows within these bounds can have; None where there is no row."""
        low, high = self.duck.execute("SELECT min(ts), max(ts) FROM raw_tail").fetchall()[0]
        firsts = [s.min_ts for s in self.segments if s.rows] + ([low] if low is not None else [])
        lasts = [s.max_ts for s in self.segments if s.rows] + ([high] if high is not None else [])
        if not firsts:
            return None
        since, until = max(min(firsts), since_us or 0), max(lasts) + 1
        until = until if until_us is None else min(until, until_us)
        return (since // DAY * DAY, -(-until // DAY) * DAY) if since < until else None  # whole days: the same plan all day

    def sql(
        self, text: str, values: Mapping[str, object] | Sequence[object] | None = None, columns: Iterable[str] = ()
    ) -> list[Row]:
        """Any DuckDB SELECT over the views `calls`, `entries`, `holds`, `incidents`, `alarms` and `marks`. Values are bound
        (`$name` or `?`). `columns`: those of a condition of ours, which may be labels."""
        self._view((*ALL, *columns), None, None)
        self._side()
        return self._run(text, values)

    def fetch(self, columns: Iterable[str]) -> None:
        """Have these columns of the tail's rows at hand. Who asks many questions says beforehand what all of them look at: with each
        column that is new all the rows are fetched once more."""
        self._load(tuple(columns))

    def totals(self, columns: Iterable[str], since_us: int | None = None, until_us: int | None = None) -> None:
        """Make `calls` and `entries` ready with these columns and the rows of this time, for statements of our own on `duck`."""
        self._view(tuple(columns), since_us, until_us)

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids have a row: what an import asks before it books the same file again."""
        self._view(("id",), None, None)
        self.duck.execute("CREATE OR REPLACE TEMP TABLE wanted (id VARCHAR)")
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
            beside = sums.beside(path)
            try:
                if beside.exists():
                    self.duck.execute(f"SELECT count(COLUMNS(*)) FROM read_parquet({literal(str(beside))})").fetchall()
            except duckdb.Error:
                raise LedgerFault("sums_wrong", f"{beside}: {str(error).splitlines()[0]}", sums.REMEDY) from error

    # -- views -------------------------------------------------------------------------------------------------------

    def _view(self, columns: Sequence[str], since_us: int | None, until_us: int | None) -> None:
        """`entries`, with at least these columns, the rows of this time in segments and tail; and `calls`, all of them but the
        buckets of providers' reports: those are sums, and may be over the same calls. Most segments lie within the time as they are,
        and then nobody has to look at the times of their rows."""
        self._load(columns)
        files, whole, within = self._within(since_us, until_us)
        made = (self._shown, tuple([s.name for s in files]), tuple([s.name for s in whole]), within)
        if made == self._made:
            return  # DuckDB opens every file to make a view of them
        parts: list[str] = []
        tail = f"SELECT * FROM (SELECT {', '.join(shape(c, self._money) for c in self._shown)} FROM raw_tail){within}"
        try:
            for some, only in ((whole, ""), ([s for s in files if s not in whole], within)):
                parts += [f"SELECT {names} FROM {read}{only}" for names, read in self._reads(some)]
            self.duck.execute(f"CREATE OR REPLACE TEMP VIEW entries AS {' UNION ALL '.join([*parts, tail])}")
            self.duck.execute(f"CREATE OR REPLACE TEMP VIEW calls AS SELECT * FROM entries{CALLS}")
            self._made = made
        except duckdb.Error as error:
            self._blame(error)
            raise _unanswerable(error) from error

    def _load(self, columns: Sequence[str]) -> None:
        """The tail's rows with at least these columns."""
        wanted = frozenset(columns) | {"ts", "attempt_kind"}
        try:
            if not wanted <= self._loaded:
                self._loaded |= wanted
                free = tuple(sorted(c for c in self._loaded if c.startswith(LABEL)))
                stored = tuple(c for c in ALL if c in self._loaded or (c == "labels" and free))
                if stored != self._shown[: len(stored)]:
                    load(self.sqlite, self.duck, "raw_tail", stored)
                    self._money = money_of(self.duck, "raw_tail", stored)
                self._shown = (*stored, *free)
        except OF_DISK as error:
            raise from_error(error, self.place.file) from error

    def _within(self, since_us: int | None, until_us: int | None) -> tuple[list[Segment], list[Segment], str]:
        """Segments with rows of this time, those that lie within it whole, and the condition for rows of the others."""
        files = [s for s in self.segments if (until_us is None or s.min_ts < until_us) and (since_us is None or s.max_ts >= since_us)]
        whole = [s for s in files if (since_us is None or s.min_ts >= since_us) and (until_us is None or s.max_ts < until_us)]
        bounds = [f"ts {sign} make_timestamptz({us})" for sign, us in ((">=", since_us), ("<", until_us)) if us is not None]
        return files, whole, f" WHERE {' AND '.join(bounds)}" if bounds else ""

    def _view_sums(self, columns: Sequence[str], since_us: int | None, until_us: int | None) -> bool:
        """`sums`, with these columns, for the calls of this time: segments that lie within it and have sums of them by these, and the
        others row by row. False where those are most."""
        files, whole, within = self._within(since_us, until_us)
        told = self._engine.sums(self.duck, [str(path) for s in whole if (path := sums.beside(self.place.segments / s.name)).exists()])
        kept = {c for c in columns if c in sums.KEPT}
        have: list[tuple[Segment, str]] = []
        for segment in whole:
            path = str(sums.beside(self.place.segments / segment.name))
            rows, known = told.get(path, (0, frozenset[str]()))
            if rows == segment.rows and known and kept <= known:
                have.append((segment, path))
        if sum(s.rows for s, _ in have) * 2 <= sum(s.rows for s in files):
            return False
        self._load(columns)
        names = {segment.name for segment, _ in have}
        made = (self._shown, tuple(columns), tuple(sorted(names)), tuple([s.name for s in files]), within)
        if made == self._made_sums:
            return True
        listed, rows = ", ".join(literal(path) for _, path in have), sums.of_rows(columns)
        parts = [f"SELECT {sums.of_sums(columns)} FROM read_parquet([{listed}], union_by_name = true)"]
        try:
            for some, only in (([s for s in whole if s.name not in names], ""), ([s for s in files if s not in whole], within)):
                parts += [f"SELECT {rows} FROM (SELECT {columns_} FROM {read}{only}){CALLS}" for columns_, read in self._reads(some)]
            tail = f"SELECT * FROM (SELECT {', '.join(shape(c, self._money) for c in self._shown)} FROM raw_tail){within}"
            parts.append(f"SELECT {rows} FROM ({tail}){CALLS}")
            self.duck.execute(f"CREATE OR REPLACE TEMP VIEW sums AS {' UNION ALL '.join(parts)}")
            self._made_sums = made
        except duckdb.Error as error:
            self._blame(error)
            raise _unanswerable(error) from error
        return True

    def _reads(self, segments: Sequence[Segment]) -> Iterable[tuple[str, str]]:
        """(what to select, from where) for all rows of these files. A free label that has its own column is read from there, which
        takes a tenth of the time; one that a file has only in its map, from the map."""
        if not segments:
            return
        plain = [quoted(shown(c)) for c in self._shown if not c.startswith(LABEL)]
        free = [c.removeprefix(LABEL) for c in self._shown if c.startswith(LABEL)]
        paths = [str(self.place.segments / s.name) for s in segments]
        alike: dict[tuple[str, ...], list[str]] = {}
        told = self._engine.labels(self.duck, paths) if free else {}
        for path in paths:
            found: list[str] = []
            for name in free:
                own, every = told[path]
                value = "''" if every else of_map(name)
                found.append(label_column(name) if name in own else f"{value} AS {label_column(name)}")
            alike.setdefault(tuple(found), []).append(path)
        for found, some in alike.items():
            yield ", ".join([*plain, *found]), f"read_parquet([{', '.join(map(literal, some))}], union_by_name = true)"

    def _side(self) -> None:
        """The small views: holds as rows that could still be, incidents, and marks."""
        if self._side_views:
            return
        kinds = {c: MONEY if c in MONEY_COLUMNS else "BIGINT" if c in INT_COLUMNS else "VARCHAR" for c in COLUMNS}
        raw = ", ".join(f"{quoted(c)} {'BIGINT' if c in INT_COLUMNS else 'VARCHAR'}" for c in kinds)
        self.duck.execute(f"CREATE TEMP TABLE raw_holds ({raw})")
        append(self.duck, "raw_holds", [tuple(h.entry) for h, _ in self.holds()])
        self.duck.execute(f"CREATE TEMP VIEW holds AS SELECT {', '.join(shape(c) for c in COLUMNS)} FROM raw_holds")
        columns = ", ".join(f"{quoted(c)} {'BIGINT' if c in INCIDENT_NUMBERS else 'VARCHAR'}" for c in incidents.COLUMNS)
        self.duck.execute(f"CREATE TEMP TABLE raw_incidents ({columns})")
        append(self.duck, "raw_incidents", incidents.listed(self.sqlite, most=INCIDENTS_MAX))
        self.duck.execute(
            """CREATE TEMP VIEW incidents AS SELECT * REPLACE (make_timestamptz(ts) AS ts, make_timestamptz(last_ts) AS last_ts,
               CAST(CAST(kept AS DECIMAL(19,0)) * 0.000000000001::DECIMAL(12,12) AS DECIMAL(38,12)) AS kept) FROM raw_incidents"""
        )
        names = "day BIGINT, act VARCHAR, code VARCHAR, budget VARCHAR, incidents BIGINT, calls BIGINT, kept HUGEINT"
        self.duck.execute(f"CREATE TEMP TABLE raw_days ({names})")
        append(self.duck, "raw_days", incidents.summed(self.sqlite))
        self.duck.execute(
            """CREATE TEMP VIEW incident_days AS SELECT * REPLACE (make_date(CAST(day AS INTEGER)) AS day,
               CAST(CAST(kept AS DECIMAL(38,0)) * 0.000000000001::DECIMAL(12,12) AS DECIMAL(38,12)) AS kept) FROM raw_days"""
        )
        self.duck.execute("CREATE TEMP TABLE raw_drills (ts BIGINT, policy VARCHAR, passed BOOLEAN, signed BOOLEAN)")
        append(self.duck, "raw_drills", [(one.ts, one.policy, one.passed, one.good) for one in drills.newest(self.sqlite, DRILLS_MAX)])
        self.duck.execute("CREATE TEMP VIEW drills AS SELECT make_timestamptz(ts) AS ts, policy, passed, signed FROM raw_drills")
        self.duck.execute("CREATE TEMP TABLE raw_marks (ts BIGINT, text VARCHAR)")
        append(self.duck, "raw_marks", self.marks())
        self.duck.execute("CREATE TEMP VIEW marks AS SELECT make_timestamptz(ts) AS ts, text FROM raw_marks")
        self._alarms()
        self._side_views = True

    def _alarms(self) -> None:
        """`alarms`: each with its amounts as decimals (dollars, a share, a count) and when somebody first heard of it."""
        names = (*Standing._fields, "heard")
        kinds = {c: "DOUBLE" if c == "score" else "VARCHAR" if c in TEXTS else "BIGINT" for c in names}
        self.duck.execute(f"CREATE TEMP TABLE raw_alarms ({', '.join(f'{quoted(c)} {kind}' for c, kind in kinds.items())})")
        heard = alarms.heard(self.sqlite)
        every = self.sqlite.execute(f"SELECT {', '.join(map(quoted, Standing._fields))} FROM alarms ORDER BY n")
        append(self.duck, "raw_alarms", [(*row, heard.get(row[0], 0)) for row in every])
        scale = f"CASE unit {' '.join(f'WHEN {literal(u)} THEN {n}' for u, n in SCALE.items())} ELSE {WHOLE} END"

        def amount(column: str) -> str:
            exact = f"CAST({column} AS DECIMAL(19,0)) * CAST({scale} AS DECIMAL(13,0)) * 0.000000000001::DECIMAL(12,12)"
            return f"CASE WHEN {column} < 0 THEN NULL ELSE CAST({exact} AS {MONEY}) END AS {column}"

        def moment(column: str) -> str:
            return f"CASE WHEN {column} = 0 THEN NULL ELSE make_timestamptz({column}) END AS {column}"

        shown = [amount(c) if c in AMOUNTS else moment(c) if c in MOMENTS else quoted(c) for c in names if c != "scope"]
        scope = "CAST(CAST(scope AS JSON) AS MAP(VARCHAR, VARCHAR)) AS scope"
        self.duck.execute(f"CREATE TEMP VIEW alarms AS SELECT {', '.join([*shown, scope])} FROM raw_alarms")

    def close(self) -> None:
        if hasattr(self, "duck"):
            self.duck.close()
        self.__dict__.pop("_engine", None)  # who only kept the reader would take the engine through a fork
        self.sqlite.close(True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if isinstance(error, duckdb.Error):  # of a statement of ours on `duck`
            raise _unanswerable(error) from error


def _damaged(path: Path, segment: Segment, what: str) -> LedgerFault:
    code = "segment_missing" if what == "missing" else "segment_corrupt"
    remedy = "put it back from a backup (its bytes never change), or read without it: --skip-damaged"
    return LedgerFault(code, f"{path}: {what}; {segment.rows} rows are in it", remedy)


def _unanswerable(error: duckdb.Error) -> LedgerFault:
    text = re.sub(r"\s+", " ", str(error))[:500]
    if isinstance(error, duckdb.OutOfMemoryException):
        what = f"the answer needs more memory than it may take: {text.partition(' Possible solutions:')[0]}"
        return LedgerFault("query", what, "ask about a shorter time, or with a filter")
    return LedgerFault("query", text, "see docs/reference/ledger-columns.md for the views and their columns")


__all__ = ["LedgerFault", "Query", "Reader", "Segment"]
