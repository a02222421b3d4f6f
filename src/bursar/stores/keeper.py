"""The ledger's own thread: waits for the disk and for other processes' locks on behalf of the event loops, and does the chores."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

import apsw

from . import standing
from .fault import OF_DISK, LedgerFault
from .owner import RENEW_US
from .schema import CHECKPOINT_PAGES, checkpoint, connect
from .tail import Op

if TYPE_CHECKING:
    from .writer import Ledger

log = logging.getLogger("bursar")

RETRY_S = 0.2
GATHER_S = 0.003  # how long rows that are written may wait for others to share their sync, where a loop has ever more to do
BATCH_MAX = 512  # rows in hand that are tried in one transaction
COMPARE_US = 60_000_000  # between two looks at whether the counters say what the rows say
NAMED_MAX = 5  # counters named in the log where many differ
BUSY_BATCHES = 100  # after so many transactions a process is at serious work, and the log is worth its room


class Keeper:
    """One for each opened ledger of a process. Its thread starts with the first call that is made."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = False
        self._rung = False  # while it was awake
        self._handed = False  # a loop could not write what is pending
        self._log_at = 0.0
        self.drift = 0  # counters that differed at the last look
        self.incidents = self.summed = 0  # that stand one by one, and as sums of a day, then

    def start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None and not self._ledger._closed:
                    self._thread = threading.Thread(target=self._keep, name="bursar-ledger", daemon=True)
                    self._thread.start()

    def ring(self) -> None:
        """There is something to do."""
        if self._asleep:
            self._asleep = False
            self._bell.put(None)
        else:
            self._rung = True
            self.start()

    def hand_over(self) -> None:
        """Write what is pending: this thread may wait."""
        self._handed = True
        self.ring()

    def mind_log(self, pages: int, batches: int) -> None:
        """SQLite's log after a commit."""
        if pages >= CHECKPOINT_PAGES or batches == BUSY_BATCHES:
            self.ring()

    def end(self, seconds: float) -> None:
        """The ledger is closed: wait for the thread."""
        self._bell.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=seconds)

    def _keep(self) -> None:
        ledger = self._ledger
        due, compare = ledger._ticks() + RENEW_US, ledger._ticks() + COMPARE_US
        while not ledger._closed:
            self._asleep = True
            if not self._handed and not self._rung:
                troubled = ledger._fault is not None or bool(ledger._spool)
                gathering = bool(ledger._written)  # by a loop, which will ring
                try:
                    self._bell.get(timeout=RETRY_S if troubled else GATHER_S if gathering else RENEW_US / 1e6)
                except queue.Empty:
                    # Nobody rang: time for the chores, and for what nobody came to write.
                    self._handed = bool(ledger._pending) and not gathering
            self._asleep = self._rung = False
            with ledger._lock:
                if ledger._closed:
                    return
                if self._handed:
                    self._handed = False
                    ledger._drain()
                    self._handed = bool(ledger._pending)
                if ledger._fault is not None or ledger._spool:
                    self.retry()
                elif ledger._ticks() >= due:
                    due = ledger._ticks() + RENEW_US
                    self._chores()
            ledger._sync()
            self._tend_log()
            if ledger._mode == "gateway" and ledger._ticks() >= compare:
                compare = ledger._ticks() + COMPARE_US
                self._compare()

    def _chores(self) -> None:
        ledger = self._ledger
        try:
            ledger._recover()
        except (*OF_DISK, LedgerFault) as error:
            ledger._in_trouble(error)

    # -- SQLite's log --------------------------------------------------------------------------------------------------

    def _tend_log(self) -> None:
        """Brought into its file when it is long, beside the commits: most of it without any lock, the rest while ours are held
        up for a moment."""
        ledger = self._ledger
        tail = ledger._tail
        if tail is None or ledger._fault is not None:
            return
        try:
            if tail.log_pages >= CHECKPOINT_PAGES and time.monotonic() >= self._log_at:
                self._log_at = time.monotonic() + RETRY_S  # a reader with an old snapshot may be in the way for a while
                checkpoint(ledger.place)
                with ledger._lock:
                    ledger._opened().restart_log()
            elif ledger._batches >= BUSY_BATCHES:
                short = True
                while short:
                    with ledger._lock:
                        short = ledger._opened().lengthen_log()
        except apsw.BusyError:
            pass  # another time
        except (*OF_DISK, LedgerFault) as error:
            with ledger._lock:
                ledger._in_trouble(error)

    # -- trouble -------------------------------------------------------------------------------------------------------

    def retry(self) -> None:
        """Try to write what is in hand. The first that lands ends the trouble. Needs the ledger's lock."""
        ledger = self._ledger
        if ledger._fault is not None:
            try:
                ledger._lease_due = 0
                ledger._opened()  # a lease is a row too: when it lands, others will
            except (*OF_DISK, LedgerFault) as error:
                ledger._in_trouble(error)
                self._overdue()
                return
            ledger._fault = None
        while ledger._spool and ledger._fault is None:
            ledger._write([ledger._spool.popleft() for _ in range(min(BATCH_MAX, len(ledger._spool)))])
        self._overdue()

    def _overdue(self) -> None:
        """Tell loops whose row is late; the row stays in the spool and its op is told nothing more."""
        ledger, now = self._ledger, time.monotonic()
        for op in ledger._spool:
            if op.deadline <= now and op.loop is not None:
                told = Op(op.kind, op.id, op.item, op.loop, op.waiter, op.tell)
                told.fault, op.loop, op.waiter, op.tell = ledger._late(op), None, None, None
                ledger._finish([told])

    # -- counters ------------------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        ledger = self._ledger
        try:
            self.compare(mend=False)
        except (*OF_DISK, LedgerFault) as error:
            with ledger._lock:
                ledger._in_trouble(error)

    def compare(self, mend: bool) -> None:
        """Whether the counters still say what rows and holds say. At the start they are set right, and later only told of: by then
        a difference is a bug, and evidence."""
        ledger = self._ledger
        connection = connect(ledger.place, busy_ms=ledger._busy_ms, read_only=not mend)
        try:
            if mend:
                connection.execute("BEGIN IMMEDIATE")
            found = standing.drift(connection)
            if mend:
                standing.repair(connection, found)
                connection.execute("COMMIT")
            self.incidents = connection.execute("SELECT count(*) FROM incidents").get
            self.summed = connection.execute("SELECT coalesce(sum(incidents), 0) FROM incident_days").get
        finally:
            connection.close(True)
        self.drift = 0 if mend else len(found)
        for d in found[:NAMED_MAX]:
            log.warning(
                "counter %s says %d spent and %d held where rows and holds say %d and %d%s", d.counter, d.spent, d.held,
                d.spent_by_rows, d.held_by_holds, "; set right" if mend else "; see `bursar check`",
            )  # fmt: skip
