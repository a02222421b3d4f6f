"""The compactor: rows leave the tail for immutable Parquet files, one UTC day each. Runs beside the gateway, never inside it:
`python -m bursar.stores.segments LEDGER`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import apsw
import duckdb
import msgspec

from . import engine, sums
from .columns import ALL, LABELS_MAX, LABELS_TOLD, label_column, literal, load, money_of, of_map, shape
from .fault import OF_DISK, LedgerFault, from_error
from .owner import LEASE_US, Owner, ticks_us
from .schema import IN_TAIL, Place, checkpoint, connect, restart_log, transaction
from .standing import TAKEN, forget

DAY_US = 86_400_000_000
OLDER_S = 60.0  # a quiet tail is emptied once a minute
TAIL_MAX = 50_000  # a busy one at this many rows: above, reading it costs a reader more than a second
PIECE = 20_000  # rows read, written and handed over at once
LOT = 500  # rows removed from the tail in one transaction: the gateway waits for the write lock meanwhile, some 5 ms
REST_S = 0.002
SMALL_MAX = 16  # files of an open day before they are merged
CLOSED_US = 3_600_000_000  # how long after its end a day still waits for late rows before it becomes one file
GRACE_US = 600_000_000  # replaced files stay this long for readers that have an older list
LANDED_KEEP_US = 3_600_000_000
LAPSED_KEEP_US = 7 * DAY_US
COUNTER_KEEP_US = 40 * DAY_US
ROW_GROUP = 122_880
SUMS_MAX = 20  # files made in one run, of a tenth of a second each


class Compacted(NamedTuple):
    """What one run did. `busy`: another compactor is at work, and this one did nothing."""

    rows: int = 0
    files: int = 0
    merged: int = 0
    swept: int = 0
    busy: bool = False


class _Lost(Exception):
    """The lease went to another compactor."""


def wall_us() -> int:
    return time.time_ns() // 1000


def compact(
    path: str | Path,
    *,
    older_s: float = OLDER_S,
    clock_us: Callable[[], int] = wall_us,
    everything: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> Compacted:
    """Empty the tail into segments and tidy up. `everything`: also rows younger than `older_s`. `step` is told what was just
    done (tests stop there). Whatever moment this process dies at, every row is in exactly one place for every reader."""
    place = Place.at(path)
    if not place.file.exists():
        raise LedgerFault(
            "cannot_open", f"there is no ledger at {place.file}", "give the folder that `bursar serve --ledger` was given"
        )
    connection = connect(place, busy_ms=30_000)
    try:
        with _lease(connection) as still_ours:
            work = _Work(place, connection, clock_us(), still_ours, step)
            swept = work.sweep()
            rows, files = work.empty_tail(0 if everything else round(older_s * 1_000_000), everything)
            merged = work.merge()
            work.sum_up()
            work.tidy()
            return Compacted(rows, files, merged, swept)
    except _Lost:
        return Compacted(busy=True)
    except duckdb.Error as error:
        raise LedgerFault(
            "io_error", f"{place.segments}: {error}", "check the disk and `bursar check`; the tail keeps the rows"
        ) from error
    except OF_DISK as error:
        raise from_error(error, place.file) from error
    finally:
        connection.close(True)


@contextmanager
def _lease(connection: apsw.Connection) -> Iterator[Callable[[], None]]:
    """One compactor at a time. Gives a check to call inside each handing-over transaction, which renews the lease too."""
    me = Owner.here("compactor", "")
    mine = msgspec.json.encode(me).decode()
    with transaction(connection):
        row = connection.execute("SELECT owner, until FROM compactor").fetchall()
        if row and not me.gone(msgspec.json.decode(row[0][0], type=Owner), row[0][1], ticks_us()):
            raise _Lost
        connection.execute("INSERT OR REPLACE INTO compactor (one, owner, until) VALUES (1, ?, ?)", (mine, ticks_us() + LEASE_US))

    def still_ours() -> None:
        connection.execute("UPDATE compactor SET until = ? WHERE owner = ?", (ticks_us() + LEASE_US, mine))
        if not connection.changes():
            raise _Lost

    try:
        yield still_ours
    finally:
        with transaction(connection):
            connection.execute("DELETE FROM compactor WHERE owner = ?", (mine,))


class _File(NamedTuple):
    name: str
    day: int
    min_ts: int
    max_ts: int
    rows: int
    bytes: int
    sha256: str


class _Work:
    def __init__(
        self, place: Place, connection: apsw.Connection, now: int, still_ours: Callable[[], None], step: Callable[[str], None]
    ) -> None:
        self._place, self._connection, self._now, self._still_ours, self._step = place, connection, now, still_ours, step

    def sweep(self) -> int:
        """Remove files that no list knows (left by a compactor that died), and replaced ones whose grace is over."""
        connection, folder = self._connection, self._place.segments
        old = [name for (name,) in connection.execute("SELECT name FROM retired WHERE at < ?", (self._now - GRACE_US,)).fetchall()]
        for name in old:
            (folder / name).unlink(missing_ok=True)
            sums.beside(folder / name).unlink(missing_ok=True)
        known = {name for (name,) in connection.execute("SELECT name FROM segments UNION ALL SELECT name FROM retired")}
        ours = (".parquet", ".tmp", sums.SUFFIX)
        orphans = [path for path in folder.iterdir() if path.name.removesuffix(sums.SUFFIX) not in known and path.suffix in ours]
        with transaction(connection):
            self._still_ours()  # before anything is removed: only the holder of the lease writes files here
            for name in old:
                connection.execute("DELETE FROM retired WHERE name = ?", (name,))
        for path in orphans:
            path.unlink(missing_ok=True)
        self._step("swept")
        return len(old) + len(orphans)

    def empty_tail(self, older_us: int, everything: bool) -> tuple[int, int]:
        """Rows go in the order they came, so that a reader of the tail always has the newest."""
        rows = files = 0
        self._remove()  # what a compactor that died has left
        last, count, oldest = self._connection.execute(f"SELECT max(seq), count(*), min(ts) FROM tail WHERE {IN_TAIL}").fetchall()[0]
        if not count or not (everything or count > TAIL_MAX or oldest <= self._now - older_us):
            return 0, 0
        while count > 0:
            until = self._connection.execute(
                f"SELECT max(seq) FROM (SELECT seq FROM tail WHERE {IN_TAIL} AND seq <= ? ORDER BY seq LIMIT ?)", (last, PIECE)
            ).get
            if until is None:
                break
            moved, written = self._hand_over(until)
            rows, files, count = rows + moved, files + written, count - moved
        return rows, files

    def _hand_over(self, until: int) -> tuple[int, int]:
        with engine.connect("1GB", 2) as work:
            work.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            loaded = load(self._connection, work, "raw", ALL, until)
            self._step("loaded")
            days = [day for (day,) in work.execute(f"SELECT DISTINCT ts // {DAY_US} AS day FROM raw ORDER BY day").fetchall()]
            money = money_of(work, "raw", ALL)
            shaped = ", ".join(shape(c, money) for c in ALL)
            files = [self._write(work, f"SELECT {shaped} FROM raw WHERE ts // {DAY_US} = {day} ORDER BY raw.ts", day) for day in days]
        if sum(file.rows for file in files) != loaded:
            raise LedgerFault(
                "io_error", f"{loaded} rows read, {sum(f.rows for f in files)} written", "the tail keeps them; try again"
            )
        taken = self._connection.execute(TAKEN, (until,)).fetchall()
        self._step("written")
        with transaction(self._connection):  # short, whatever the piece: the gateway waits for the write lock meanwhile
            self._still_ours()
            self._list(files)
            self._connection.executemany(
                "INSERT INTO charged VALUES (?1, ?2) ON CONFLICT (counter) DO UPDATE SET spent = spent + ?2", taken
            )
            self._connection.execute("UPDATE handed SET seq = ?", (until,))
            self._step("inside")
        self._step("handed over")
        self._remove()
        return loaded, len(files)

    def _remove(self) -> None:
        """Rows that stand in segments leave the tail, a lot at a time; their ids are remembered for a while."""
        while True:
            with transaction(self._connection):
                self._still_ours()
                until = self._connection.execute(
                    "SELECT max(seq) FROM (SELECT seq FROM tail WHERE seq < (SELECT seq FROM handed) ORDER BY seq LIMIT ?)", (LOT,)
                ).get
                if until is None:
                    return
                self._connection.execute(
                    "INSERT OR REPLACE INTO landed (id, at) SELECT id, ? FROM tail WHERE seq <= ?", (self._now, until)
                )
                self._connection.execute("DELETE FROM tail WHERE seq <= ?", (until,))
            self._step("removed")
            time.sleep(REST_S)  # others get their turn at the lock

    def merge(self) -> int:
        """A closed day becomes one file; an open one is merged when it has many."""
        merged = 0
        days: dict[int, list[tuple[str, int]]] = {}
        for day, name, rows in self._connection.execute("SELECT day, name, rows FROM segments ORDER BY day, min_ts, name"):
            days.setdefault(day, []).append((name, rows))
        for day, files in days.items():
            closed = (day + 1) * DAY_US + CLOSED_US < self._now
            if len(files) > 1 and (closed or len(files) > SMALL_MAX):
                self._merge_day(day, [name for name, _ in files], sum(rows for _, rows in files))
                merged += len(files)
        return merged

    def sum_up(self) -> None:
        """The segment of a closed day gets its sums; where there are many to make, the oldest later."""
        made = 0
        listed = "SELECT name, rows FROM segments WHERE rows >= ? AND (day + 1) * ? + ? < ? ORDER BY day DESC, name"
        for name, rows in self._connection.execute(listed, (sums.ROWS_MIN, DAY_US, CLOSED_US, self._now)).fetchall():
            path = self._place.segments / name
            if not sums.beside(path).exists():
                with transaction(self._connection):
                    self._still_ours()
                sums.make(path, rows)
                self._step("summed up")
                made += 1
                if made == SUMS_MAX:
                    return

    def _merge_day(self, day: int, names: list[str], rows: int) -> None:
        folder = self._place.segments
        listed = ", ".join(literal(str(folder / name)) for name in names)
        spill = folder / "spill.tmp"
        with engine.connect("1GB", 2, str(spill)) as work:
            work.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            ledgers = "COLUMNS(lambda c: NOT regexp_full_match(c, 'label_[0-9a-f]{16}'))"  # the labels' own are made anew
            file = self._write(work, f"SELECT {ledgers} FROM read_parquet([{listed}], union_by_name = true) ORDER BY ts", day)
        if file.rows != rows:
            raise LedgerFault("segment_corrupt", f"day {day}: {rows} rows listed, {file.rows} read", "run `bursar check`")
        self._step("merged")
        with transaction(self._connection):
            self._still_ours()
            self._list([file])
            for name in names:
                self._connection.execute("DELETE FROM segments WHERE name = ?", (name,))
                self._connection.execute("INSERT INTO retired (name, at) VALUES (?, ?)", (name, self._now))
            self._step("inside merge")
        self._step("merge handed over")

    def _write(self, work: duckdb.DuckDBPyConnection, select: str, day: int) -> _File:
        """Under another name, synced, renamed, the folder synced: a listed file is whole, on the disk, and never changes."""
        folder = self._place.segments
        date = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date()
        name = f"{date}-{uuid.uuid4().hex}.parquet"
        temporary = folder / f"{name}.tmp"
        copy(work, select, temporary)
        self._step("copied")
        digest = hashlib.sha256()
        with temporary.open("rb+") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            os.fsync(file.fileno())
        first, last, rows = work.execute(
            f"SELECT epoch_us(min(ts)), epoch_us(max(ts)), count(*) FROM read_parquet({literal(str(temporary))})"
        ).fetchall()[0]
        temporary.rename(folder / name)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self._step("renamed")
        return _File(name, day, first, last, rows, (folder / name).stat().st_size, digest.hexdigest())

    def _list(self, files: list[_File]) -> None:
        self._connection.executemany(
            "INSERT INTO segments (name, day, min_ts, max_ts, rows, bytes, sha256, at) VALUES (?,?,?,?,?,?,?,?)",
            [(*file, self._now) for file in files],
        )

    def tidy(self) -> None:
        """Forget what is only needed for a while, and bring SQLite's log into its file."""
        with transaction(self._connection):
            self._still_ours()
            self._connection.execute("DELETE FROM landed WHERE at < ?", (self._now - LANDED_KEEP_US,))
            self._connection.execute("DELETE FROM lapsed WHERE at < ?", (self._now - LAPSED_KEEP_US,))
            forget(self._connection, self._now - COUNTER_KEEP_US)
        self._connection.set_busy_handler(None)  # it would wait for readers with the write lock in its hand
        try:
            checkpoint(self._place)
            restart_log(self._connection, self._place)
        except apsw.BusyError:
            pass  # a reader is at it; the next run will


def copy(work: duckdb.DuckDBPyConnection, select: str, path: Path) -> None:
    """These rows as a segment's file. Its frequent free labels stand in columns of their own as well: a map is dear to read."""
    names, every = _labels(work, select)
    apart = "".join(f", {of_map(name)} AS {label_column(name)}" for name in names)
    told = literal(json.dumps({"names": names, "all": every}))
    how = f"FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION V2, ROW_GROUP_SIZE {ROW_GROUP}, KV_METADATA {{{LABELS_TOLD}: {told}}}"
    work.execute(f"COPY (SELECT *{apart} FROM ({select})) TO {literal(str(path))} ({how})")


def _labels(work: duckdb.DuckDBPyConnection, select: str) -> tuple[list[str], bool]:
    """The most frequent free labels of these rows, and whether there are no others."""
    text = f"SELECT name FROM (SELECT unnest(map_keys(labels)) AS name FROM ({select})) GROUP BY name ORDER BY count(*) DESC, name"
    found = [name for (name,) in work.execute(f"{text} LIMIT {LABELS_MAX + 1}").fetchall()]
    names = sorted(name for name in found[:LABELS_MAX] if name.isprintable())
    return names, len(names) == len(found)


def main(arguments: list[str]) -> int:
    """`python -m bursar.stores.segments LEDGER [--all]`: one run; exit code 1 with a reason when it could not be done."""
    paths = [a for a in arguments if a != "--all"]
    if len(paths) != 1:
        print("usage: python -m bursar.stores.segments LEDGER [--all]", file=sys.stderr)
        return 2
    try:
        done = compact(paths[0], everything="--all" in arguments)
    except LedgerFault as fault:
        print(fault, file=sys.stderr)
        return 1
    print("another compactor is at work" if done.busy else f"{done.rows} rows into {done.files} files; {done.merged} files merged")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
