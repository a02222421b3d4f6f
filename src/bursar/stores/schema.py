"""The ledger's file: where it lies, its tables by numbered migrations, and how a connection to it is set up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from ..domain.alarm import Standing
from ..domain.entry import BLANK, COLUMNS, DRAFT, MONEY_COLUMNS, Charge, Entry, Hold
from .fault import OF_DISK, LedgerFault, from_error

# The WAL-reset bug (3.7.0 to 3.51.2) can corrupt a file that several processes write to.
SQLITE_MIN = (3, 51, 3)

INT_COLUMNS = frozenset(MONEY_COLUMNS) | {
    "ts", "try_no", "turn", "tool_depth", "http_status", "stream", "latency_ms", "ttft_ms", "overhead_us",
    "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
}  # fmt: skip
NOT_NULL = frozenset(COLUMNS) - {
    "turn", "tool_depth", "http_status", "latency_ms", "ttft_ms", "overhead_us", "saved",
    "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
} - {c for c in MONEY_COLUMNS if c.startswith("cost")}  # fmt: skip

# What is stored of a row: the entry, and what it took from which counter ([counter, unit, actual] each), so that counters
# can be derived from rows at any time.
STORED = (*COLUMNS, "charges")

HOLDS_EACH = 1 << 38  # a year at 8,000 calls a second, and 33 million owners

# A row of the tail that no segment has yet.
IN_TAIL = "seq > (SELECT seq FROM handed)"

CHECKPOINT_PAGES = 2000  # 8 MB of log
LOG_KEEP_BYTES = 64 << 20


def quoted(name: str) -> str:
    """An identifier of ours as SQL. Never given what a stranger chose."""
    return f'"{name}"'


def _column(name: str) -> str:
    kind = "INTEGER" if name in INT_COLUMNS else "TEXT"
    return f"{quoted(name)} {kind}{' NOT NULL' if name in NOT_NULL or name == 'charges' else ''}"


def _first() -> list[str]:
    rows = ", ".join(_column(c) for c in STORED)
    return [
        f"CREATE TABLE tail (seq INTEGER PRIMARY KEY, {rows}) STRICT",
        "CREATE UNIQUE INDEX tail_id ON tail (id)",
        # One per opened ledger with holds to settle. A number is never given twice.
        """CREATE TABLE owners (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "where" TEXT NOT NULL,
           boot TEXT NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL, mode TEXT NOT NULL, node TEXT NOT NULL,
           lease_until INTEGER NOT NULL) STRICT""",
        # One per try under way: a Hold as JSON, which has the row it becomes if nobody settles it. `n` is the owner's number
        # times HOLDS_EACH plus the owner's own count: no search by text on the way of a call, and no number comes again.
        "CREATE TABLE holds (n INTEGER PRIMARY KEY, id TEXT NOT NULL, hold TEXT NOT NULL) STRICT",
        """CREATE TABLE counters (n INTEGER PRIMARY KEY, counter TEXT NOT NULL UNIQUE, budget TEXT NOT NULL,
           unit TEXT NOT NULL, spent INTEGER NOT NULL, held INTEGER NOT NULL, resets INTEGER NOT NULL) STRICT""",
        # Holds given up, kept for a week: a settle that still comes becomes a correction.
        """CREATE TABLE lapsed (id TEXT PRIMARY KEY, at INTEGER NOT NULL, amount INTEGER, charges TEXT NOT NULL,
           settled INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        # Ids that left the tail in the last hour, so that a row booked again is still known.
        "CREATE TABLE landed (id TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        # Where conversations stood, for processes that did not see it (stores/threads.py): a cache, the oldest lines go first. Empty
        # conversation: more than one has been here.
        """CREATE TABLE threads (n INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, conversation TEXT NOT NULL, turns INTEGER NOT NULL,
           depth INTEGER NOT NULL, calls INTEGER NOT NULL, at INTEGER NOT NULL) STRICT""",
        # Parquet files, each within one UTC day (days since the epoch). Their list is the truth: a file not in it does not count.
        """CREATE TABLE segments (name TEXT PRIMARY KEY, day INTEGER NOT NULL, min_ts INTEGER NOT NULL, max_ts INTEGER NOT NULL,
           rows INTEGER NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, at INTEGER NOT NULL) STRICT""",
        # How far the tail's rows stand in segments: no reader looks at those any more, and they are removed in small lots. The last
        # of them stays, or SQLite would give its number again.
        "CREATE TABLE handed (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL) STRICT",
        "INSERT INTO handed VALUES (1, 0)",
        # What the rows in segments took from each counter: with the tail's rows, all that a counter must say.
        "CREATE TABLE charged (counter TEXT PRIMARY KEY, spent INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        # Files that were replaced: readers with an older snapshot may still be at them.
        "CREATE TABLE retired (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT",
        # What people put on the time line.
        """CREATE TABLE marks (n INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, text TEXT NOT NULL,
           at INTEGER NOT NULL) STRICT""",
        # What guards did, and what people ordered (stores/incidents.py).
        """CREATE TABLE incidents (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, ts INTEGER NOT NULL,
           last_ts INTEGER NOT NULL, calls INTEGER NOT NULL, act TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL,
           budget TEXT NOT NULL, tenant TEXT NOT NULL, feature TEXT NOT NULL, flow TEXT NOT NULL, user TEXT NOT NULL,
           conversation TEXT NOT NULL, call TEXT NOT NULL, model TEXT NOT NULL, spent INTEGER NOT NULL, "limit" INTEGER NOT NULL,
           unit TEXT NOT NULL, kept INTEGER NOT NULL, evidence TEXT NOT NULL, state TEXT NOT NULL, by TEXT NOT NULL,
           note TEXT NOT NULL, told INTEGER NOT NULL) STRICT""",
        "CREATE INDEX incidents_ts ON incidents (last_ts)",
        # Incidents whose time is over, as sums of a day; `kept` is a whole number that may pass 64 bits.
        """CREATE TABLE incident_days (day INTEGER NOT NULL, act TEXT NOT NULL, code TEXT NOT NULL, budget TEXT NOT NULL,
           incidents INTEGER NOT NULL, calls INTEGER NOT NULL, kept TEXT NOT NULL,
           PRIMARY KEY (day, act, code, budget)) STRICT, WITHOUT ROWID""",
        # What was said last in a conversation that was stopped: only where the policy keeps it, and until then.
        "CREATE TABLE said (key TEXT PRIMARY KEY, until INTEGER NOT NULL, messages TEXT NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE orders (n INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, by TEXT NOT NULL, kind TEXT NOT NULL,
           match TEXT NOT NULL, budget TEXT NOT NULL, "limit" TEXT NOT NULL, reason TEXT NOT NULL, until INTEGER NOT NULL,
           withdrawn INTEGER NOT NULL) STRICT""",
        """CREATE TABLE drills (n INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, policy TEXT NOT NULL,
           passed INTEGER NOT NULL, report TEXT NOT NULL, signature TEXT NOT NULL) STRICT""",
        # Months as they were closed (stores/closed.py): JSON, written once.
        "CREATE TABLE closed (month TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT, WITHOUT ROWID",
        *_alarms(),
        "CREATE TABLE compactor (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, until INTEGER NOT NULL) STRICT",
    ]


def _alarms() -> list[str]:
    """Alarms, what is told of them, and who leads (stores/alarms.py)."""
    kinds = {"score": "REAL"} | dict.fromkeys(
        ("id", "rule", "scope", "metric", "unit", "state", "level", "owner", "by", "judged", "judged_by"), "TEXT"
    )
    rows = ", ".join(f"{quoted(c)} {kinds.get(c, 'INTEGER')} NOT NULL" for c in Standing._fields)
    return [
        f"CREATE TABLE alarms (n INTEGER PRIMARY KEY AUTOINCREMENT, {rows}, UNIQUE (id)) STRICT",
        "CREATE INDEX alarms_state ON alarms (state)",
        """CREATE TABLE notices (id TEXT PRIMARY KEY, alarm TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL,
           message TEXT NOT NULL) STRICT, WITHOUT ROWID""",
        """CREATE TABLE deliveries (notice TEXT NOT NULL, channel TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
           created INTEGER NOT NULL, next_at INTEGER NOT NULL, at INTEGER NOT NULL, detail TEXT NOT NULL, digest TEXT NOT NULL,
           PRIMARY KEY (notice, channel)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX deliveries_state ON deliveries (state)",
        """CREATE TABLE silences (n INTEGER PRIMARY KEY AUTOINCREMENT, match TEXT NOT NULL, since INTEGER NOT NULL,
           until INTEGER NOT NULL, by TEXT NOT NULL, note TEXT NOT NULL) STRICT""",
        # Links that were used: each acts once.
        "CREATE TABLE links (id TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        # The clockwork that leads, until its lease ends (ticks), and how far alarms were judged (wall clock).
        """CREATE TABLE watch (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, until INTEGER NOT NULL,
           judged INTEGER NOT NULL, beat INTEGER NOT NULL) STRICT""",
        "INSERT INTO watch VALUES (1, '', 0, 0, 0)",
    ]


# One list of statements per version; additive only, and never changed once released.
MIGRATIONS: tuple[list[str], ...] = (_first(),)


_encode = msgspec.json.Encoder().encode
_hold = msgspec.json.Decoder(tuple[str, int, int, tuple[Charge, ...], list[Any]])


def written_hold(hold: Hold) -> str:
    """A hold as it stands in the file: of its row only what is known before the outcome."""
    return _encode((hold.id, hold.ts, hold.amount, hold.charges, hold.entry[:DRAFT])).decode()


def read_hold(text: str) -> Hold:
    id, ts, amount, charges, draft = _hold.decode(text)
    return Hold(id, ts, amount, charges, Entry._make((*draft, *BLANK)))


class Place(NamedTuple):
    """A ledger on disk: a folder with `ledger.db` and `segments/`, or a `.db` file with `segments/` beside it."""

    file: Path
    segments: Path

    @classmethod
    def at(cls, path: str | Path) -> Place:
        path = Path(path)
        file = path if path.suffix == ".db" else path / "ledger.db"
        return cls(file, file.parent / "segments")


def waiter(busy_ms: int) -> Callable[[int], bool]:
    """SQLite's own waits grow to 100 ms, which starves a writer among several; these stay near one commit's length."""
    until = [0.0]

    def wait(tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            until[0] = now + busy_ms / 1000
        if now >= until[0]:
            return False
        time.sleep(random.uniform(0.0002, 0.002))
        return True

    return wait


def connect(place: Place, *, busy_ms: int, read_only: bool = False) -> apsw.Connection:
    """A connection with the ledger's settings, its tables brought up to date. LedgerFault when that cannot be had."""
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if found < SQLITE_MIN:
        raise LedgerFault(
            "old_sqlite", f"apsw brings SQLite {apsw.sqlite_lib_version()}, which can corrupt a file with several writers",
            "install apsw 3.51.3 or newer",
        )  # fmt: skip
    connection = None
    try:
        if read_only and not place.file.exists():
            raise FileNotFoundError(2, "there is no ledger here", str(place.file))
        if not read_only:
            place.segments.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(str(place.file), flags=flags, statementcachesize=200)
        connection.set_busy_handler(waiter(busy_ms))
        if read_only:
            connection.execute("PRAGMA query_only = 1")
        else:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL", can_cache=False)
            connection.wal_autocheckpoint(CHECKPOINT_PAGES)
        connection.execute("PRAGMA temp_store = MEMORY")
        _migrate(connection, place, read_only)
    except OF_DISK as error:
        if connection is not None:
            connection.close(True)
        raise from_error(error, place.file) from error
    except LedgerFault:
        if connection is not None:
            connection.close(True)
        raise
    return connection


@contextmanager
def opened(path: str | Path, *, read_only: bool = False) -> Iterator[apsw.Connection]:
    """A connection to the ledger's file; LedgerFault for what the disk does."""
    place = Place.at(path)
    connection = connect(place, busy_ms=5_000, read_only=read_only)
    try:
        yield connection
    except OF_DISK as error:
        raise from_error(error, place.file) from error
    finally:
        connection.close(True)


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All of it or nothing, before any other writer."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def checkpoint(place: Place) -> None:
    """Bring SQLite's log into its file as far as that goes without holding anybody up. By a connection of its own: one that
    commits meanwhile is not waited for."""
    connection = apsw.Connection(str(place.file), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    finally:
        connection.close(True)


def restart_log(connection: apsw.Connection, place: Place) -> None:
    """Bring the rest of the log into the file, so that it is written from its start again; one that has grown out of
    proportion is cut. BusyError: somebody is at it, another time."""
    grown = Path(f"{place.file}-wal").stat().st_size > LOG_KEEP_BYTES
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE if grown else apsw.SQLITE_CHECKPOINT_RESTART)


def version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))


def _migrate(connection: apsw.Connection, place: Place, read_only: bool) -> None:
    have = version(connection)
    if have > len(MIGRATIONS):
        raise LedgerFault(
            "newer_schema", f"{place.file} has version {have}, this bursar knows up to {len(MIGRATIONS)}", "upgrade bursar"
        )
    if have == len(MIGRATIONS):
        return
    if read_only:
        raise LedgerFault(
            "cannot_open", f"{place.file} has version {have} of {len(MIGRATIONS)}",
            "start the gateway once, or run `bursar check`: a reader changes nothing",
        )  # fmt: skip
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version(connection), len(MIGRATIONS)):  # again: another process may have been first
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    except OF_DISK:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
