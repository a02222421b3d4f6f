"""What shadow answers have said of near-duplicates, scope by scope: in memory, or in an SQLite file that processes share.

Losing it costs the certificates, which then have to be earned again. A wrong answer that could not be written counts in this process
at once: whoever cannot remember must not serve."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw

from .fault import OF_DISK

SCOPES_MAX = 10_000  # the one judged longest ago is forgotten, and has to earn its certificate again
SCHEMA = """CREATE TABLE IF NOT EXISTS judged (scope BLOB PRIMARY KEY, n INTEGER NOT NULL, wrong INTEGER NOT NULL,
            at INTEGER NOT NULL) STRICT"""


class Judged(NamedTuple):
    """`n` answers, `wrong` of which said another thing; the last at `at_us`."""

    n: int = 0
    wrong: int = 0
    at_us: int = 0


Change = Callable[[Judged], Judged]


class Judgements:
    """Safe for many threads. `path` None: this process's own."""

    def __init__(self, path: Path | None = None, scopes_max: int = SCOPES_MAX, busy_ms: int = 50) -> None:
        self._path, self._max, self._busy_ms = path, scopes_max, busy_ms
        self._own: OrderedDict[bytes, Judged] = OrderedDict()  # without a file, and what a file could not take
        self._connection: apsw.Connection | None = None
        self._pid = self.troubles = 0
        self._lock = threading.Lock()

    def get(self, scope: bytes) -> Judged:
        with self._lock:
            own = self._own.get(scope)
            if own is not None or self._path is None:
                return own or Judged()
            try:
                return self._read(self._open(self._path), scope)
            except OF_DISK:
                self.troubles += 1
                return Judged()

    def change(self, scope: bytes, act: Change) -> None:
        """What was said becomes what `act` makes of it, whatever other processes add meanwhile."""
        with self._lock:
            own = self._own.pop(scope, None)
            if self._path is not None:
                try:
                    connection = self._open(self._path)
                    with connection:
                        self._write(connection, scope, act(own or self._read(connection, scope)))
                    return
                except OF_DISK:
                    self.troubles += 1
            self._own[scope] = act(own or Judged())
            while len(self._own) > self._max:
                self._own.popitem(last=False)

    def _read(self, connection: apsw.Connection, scope: bytes) -> Judged:
        row = connection.execute("SELECT n, wrong, at FROM judged WHERE scope = ?", (scope,)).fetchone()
        return Judged(*row) if row is not None else Judged()

    def _write(self, connection: apsw.Connection, scope: bytes, judged: Judged) -> None:
        connection.execute("INSERT OR REPLACE INTO judged VALUES (?, ?, ?, ?)", (scope, *judged))
        connection.execute(
            "DELETE FROM judged WHERE scope IN (SELECT scope FROM judged ORDER BY at LIMIT max((SELECT count(*) FROM judged) - ?, 0))",
            (self._max,),
        )

    def _open(self, path: Path) -> apsw.Connection:
        """The connection of this process: one that a fork inherited must not be used."""
        if self._connection is None or self._pid != os.getpid():
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = apsw.Connection(str(path))
            connection.set_busy_timeout(self._busy_ms)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.transaction_mode = "IMMEDIATE"
            connection.execute(SCHEMA)
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
