"""Looks into the ledger's file beside its writer: by a read-only connection, opened when needed and never carried across a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

import apsw

from .fault import OF_DISK, LedgerFault
from .schema import Place, connect

T = TypeVar("T")


class Glance:
    """Safe for many threads. What cannot be read is answered with what the asker holds ready."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        _live.add(self)

    def ask(self, what: Callable[[apsw.Connection], T], otherwise: T) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = connect(self._place, busy_ms=200, read_only=True)
                return what(self._connection)
            except (*OF_DISK, LedgerFault):
                self._connection = None
                return otherwise

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close(True)
        self._connection = None

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._drop()

    def _after_fork(self) -> None:
        self._lock.release()


_live: weakref.WeakSet[Glance] = weakref.WeakSet()
_forking: list[Glance] = []


def _before_fork() -> None:
    _forking[:] = list(_live)
    for glance in _forking:
        glance._before_fork()


def _after_fork() -> None:
    for glance in _forking:
        glance._after_fork()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
