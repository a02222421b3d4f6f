"""Replies that may answer again, behind their walls, bounded by bytes: in memory, or in an SQLite file that processes share.

A cache must never be the reason why a call fails: a store in trouble finds nothing and keeps nothing, and counts it. What is
lost was paid for, but it is not in any book: nothing here is synced."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import apsw

from ..domain.reply import Kept
from .fault import OF_DISK

BYTES_MAX = 256 << 20
OVERHEAD = 512  # bytes that a reply takes beside its body: key, columns, index entries
TOUCH_US = 60_000_000  # when a reply was last used is known to the minute: a hit must not cost a write
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, wall TEXT NOT NULL, body BLOB NOT NULL, stream INTEGER NOT NULL,
       model TEXT NOT NULL, made INTEGER NOT NULL, expires INTEGER NOT NULL, pico INTEGER NOT NULL, call TEXT NOT NULL,
       less INTEGER NOT NULL, used INTEGER NOT NULL, size INTEGER NOT NULL) STRICT""",
    "CREATE INDEX IF NOT EXISTS replies_used ON replies (used)",
    "CREATE INDEX IF NOT EXISTS replies_expires ON replies (expires)",
    "CREATE TABLE IF NOT EXISTS room (one INTEGER PRIMARY KEY CHECK (one = 1), bytes INTEGER NOT NULL) STRICT",
    "INSERT OR IGNORE INTO room VALUES (1, 0)",
    """CREATE TRIGGER IF NOT EXISTS replies_in AFTER INSERT ON replies BEGIN
       UPDATE room SET bytes = bytes + new.size; END""",
    """CREATE TRIGGER IF NOT EXISTS replies_out AFTER DELETE ON replies BEGIN
       UPDATE room SET bytes = bytes - old.size; END""",
)


class Replies(Protocol):
    """Both stores. Safe for many threads; times in microseconds since the epoch."""

    def get(self, wall: str, key: bytes, now_us: int) -> Kept | None:
        """What is kept under this key behind this wall, if it has not expired."""
        ...

    def put(self, wall: str, key: bytes, kept: Kept, now_us: int) -> None:
        """Keep it; what was used longest ago makes room. A reply that would not fit at all is not kept."""
        ...

    def hold(self, bytes_max: int) -> None:
        """At most so many from now on; the next reply that comes makes the room."""
        ...

    def purge(self, wall: str | None = None) -> int:
        """Forget what is behind a wall, or everything: how many replies that were."""
        ...

    def stats(self) -> dict[str, int]: ...

    def close(self) -> None: ...


class MemoryReplies:
    """One process's own."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._max = bytes_max
        self._kept: OrderedDict[bytes, tuple[str, Kept]] = OrderedDict()  # used longest ago first
        self._bytes = self._evicted = 0
        self._lock = threading.Lock()

    def get(self, wall: str, key: bytes, now_us: int) -> Kept | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None or found[0] != wall:  # the wall is in the key too: this is the second look at it
                return None
            if found[1].expires_us <= now_us:
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return found[1]

    def put(self, wall: str, key: bytes, kept: Kept, now_us: int) -> None:
        size = len(kept.body) + OVERHEAD
        if size > self._max or kept.expires_us <= now_us:
            return
        with self._lock:
            if key in self._kept:
                self._drop(key)
            while self._bytes + size > self._max:
                self._drop(next(iter(self._kept)))
                self._evicted += 1
            self._kept[key] = (wall, kept)
            self._bytes += size

    def _drop(self, key: bytes) -> None:
        self._bytes -= len(self._kept.pop(key)[1].body) + OVERHEAD

    def hold(self, bytes_max: int) -> None:
        self._max = bytes_max

    def purge(self, wall: str | None = None) -> int:
        with self._lock:
            gone = [key for key, (its, _) in self._kept.items() if wall is None or its == wall]
            for key in gone:
                self._drop(key)
            return len(gone)

    def stats(self) -> dict[str, int]:
        return {"replies": len(self._kept), "bytes": self._bytes, "evicted": self._evicted, "troubles": 0}

    def close(self) -> None: ...


class FileReplies:
    """One SQLite file for all processes on a host. A file that cannot be read is left alone and nothing is found in it."""

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX, busy_ms: int = 50) -> None:
        self.path, self._max, self._busy_ms = path, bytes_max, busy_ms
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._pid = 0
        self._evicted = self._troubles = 0

    @property
    def troubles(self) -> int:
        """Questions and replies that the file could not take."""
        return self._troubles

    def _open(self) -> apsw.Connection:
        """The connection of this process: one that a fork inherited must not be used."""
        if self._connection is None or self._pid != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = apsw.Connection(str(self.path))
            connection.set_busy_timeout(self._busy_ms)
            for pragma in ("journal_mode = WAL", "synchronous = OFF", "secure_delete = OFF", "journal_size_limit = 16777216"):
                connection.execute(f"PRAGMA {pragma}")
            for statement in SCHEMA:
                connection.execute(statement)
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def get(self, wall: str, key: bytes, now_us: int) -> Kept | None:
        with self._lock:
            try:
                row = self._open().execute(
                    "SELECT body, stream, model, made, expires, pico, call, less, used FROM replies"
                    " WHERE key = ? AND wall = ? AND expires > ?",
                    (key, wall, now_us),
                ).fetchone()  # fmt: skip
                if row is None:
                    return None
                body, stream, model, made, expires, pico, call, less, used = row
                if used < now_us - TOUCH_US:
                    self._open().execute("UPDATE replies SET used = ? WHERE key = ?", (now_us, key))
                return Kept(body, bool(stream), model, made, expires, pico, call, less)
            except OF_DISK:
                self._troubles += 1
                return None

    def put(self, wall: str, key: bytes, kept: Kept, now_us: int) -> None:
        size = len(kept.body) + OVERHEAD
        if size > self._max or kept.expires_us <= now_us:
            return
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    connection.execute("DELETE FROM replies WHERE key = ?", (key,))  # REPLACE would not fire the trigger
                    connection.execute(
                        "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (key, wall, kept.body, int(kept.stream), kept.model, kept.made_us, kept.expires_us, kept.pico, kept.call,
                         kept.less, now_us, size),
                    )  # fmt: skip
                    if self._held(connection) > self._max:
                        self._make_room(connection, key, now_us)
            except OF_DISK:
                self._troubles += 1

    def _held(self, connection: apsw.Connection) -> int:
        row = connection.execute("SELECT bytes FROM room").fetchone()
        assert row is not None, "the schema put one there"
        return int(row[0])

    def _make_room(self, connection: apsw.Connection, key: bytes, now_us: int) -> None:
        """What has expired goes first, then what was used longest ago, down to nine tenths: not at every reply again. The one
        that has just come stays."""
        connection.execute("DELETE FROM replies WHERE expires <= ?", (now_us,))
        over = self._held(connection) - (self._max - self._max // 10)
        before = connection.total_changes()
        connection.execute(
            "DELETE FROM replies WHERE key IN (SELECT key FROM (SELECT key, size, sum(size) OVER (ORDER BY used, made, key) AS upto"
            " FROM replies WHERE key <> ?) WHERE upto - size < ?)",
            (key, over),
        )
        self._evicted += (connection.total_changes() - before) // 2  # the trigger's change of `room` counts too

    def hold(self, bytes_max: int) -> None:
        self._max = bytes_max

    def purge(self, wall: str | None = None) -> int:
        with self._lock:
            try:
                connection = self._open()
                where = "" if wall is None else " WHERE wall = ?"
                row = connection.execute(f"SELECT count(*) FROM replies{where}", () if wall is None else (wall,)).fetchone()
                connection.execute(f"DELETE FROM replies{where}", () if wall is None else (wall,))
                return int(row[0]) if row else 0
            except OF_DISK:
                self._troubles += 1
                return 0

    def stats(self) -> dict[str, int]:
        with self._lock:
            try:
                row = self._open().execute("SELECT (SELECT count(*) FROM replies), (SELECT bytes FROM room)").fetchone()
            except OF_DISK:
                self._troubles += 1
                row = None
        replies, size = row if row else (0, 0)
        return {"replies": int(replies), "bytes": int(size), "evicted": self._evicted, "troubles": self._troubles}

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
