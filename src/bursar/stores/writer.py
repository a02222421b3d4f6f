"""The ledger as a process sees it: queue, group commit, spool, lease, fork and exit. Sync, async and called-back faces."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from ..domain.entry import Entry, Held, Hold, Settlement, Short
from .fault import OF_DATA, OF_DISK, LedgerFault, from_error
from .keeper import GATHER_S, RETRY_S, Keeper
from .owner import RENEW_US, Owner, ticks_us
from .schema import Place
from .tail import BOOK, HOLD, RELEASE, Op, Standing, Tail, parted

if TYPE_CHECKING:
    import asyncio  # for its names only: a wrapper without a loop should not pay for loading it

BATCH_MAX = 512  # ops in one transaction: beyond this a row gets no cheaper, and the first waits for the last
QUEUE_MAX = 20_000  # calls waiting; more than that are told so at once
SPOOL_MAX = 10_000  # rows in memory while the disk does not take them, some 3 KB each; over it no call is let out
BUSY_MS = 5_000  # how long another process may keep the write lock
ACK_S = 5.0  # how long a row's caller waits for a ledger in trouble; the row stays in hand after that

T = TypeVar("T")


class Ledger:
    """One ledger on one host's local disk. Safe for many threads and event loops; several processes may open one file.

    `hold` and `book` raise LedgerFault (their `_soon` forms set it on the future) when the ledger cannot do it: nothing is
    acknowledged that is not in the file, and a row is on the disk when it is acknowledged. A row that could not be written
    stays in hand and lands when the ledger is well again, also after its caller was told of the fault."""

    def __init__(
        self,
        place: Place,
        node: str,
        clock_us: Callable[[], int],
        mode: str,
        busy_ms: int,
        ack_s: float,
        ticks: Callable[[], int],
    ) -> None:
        self.place, self._node, self._clock_us, self._mode = place, node, clock_us, mode
        self._busy_ms, self._ack_s, self._ticks = busy_ms, ack_s, ticks
        self._fresh()

    def _fresh(self) -> None:
        """What belongs to one process. A forked child starts from here: the pending work stays its parent's."""
        self._lock = threading.Lock()  # held while a transaction runs
        self._disk = threading.Lock()  # held while the disk is waited for; taken before the other where both are
        self._pending: deque[Op] = deque()
        self._written: deque[Op] = deque()  # rows that are committed, and wait for the disk
        self._spool: deque[Op] = deque()
        self._due: asyncio.AbstractEventLoop | None = None  # the loop that will write what is pending
        self._syncing = False
        self._gather_by = 0.0  # until then a loop gathers rows for the next sync
        self._tail: Tail | None = None
        self._keeper = Keeper(self)
        self._closed = False
        self._fault: LedgerFault | None = None
        self._owner = Owner.here(self._mode, self._node)
        self._lease_due = 0
        self._batches = self._rows = self._holds = self._short = 0
        self._refused = self._recovered = self._released = 0
        self._duplicates = self._corrections = 0

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        node: str = "",
        clock_us: Callable[[], int],
        mode: str = "gateway",
        busy_ms: int = BUSY_MS,
        ack_s: float = ACK_S,
        ticks: Callable[[], int] = ticks_us,
    ) -> Ledger:
        """Open or create the ledger at `path` (a folder, or a `.db` file), take a lease, and turn the holds of dead
        processes into rows. `clock_us` is the wall clock, `ticks` the monotonic one of leases, both in microseconds;
        `mode` is gateway or wrapper and only recorded."""
        ledger = cls(Place.at(path), node, clock_us, mode, busy_ms, ack_s, ticks)
        with ledger._lock:
            try:
                ledger._opened()
                ledger._recover()
                if mode == "gateway":
                    ledger._keeper.compare(mend=True)
            except OF_DISK as error:
                raise from_error(error, ledger.place.file) from error
        _live.add(ledger)
        atexit.register(ledger._at_exit)
        return ledger

    # -- sync face ---------------------------------------------------------------------------------------------------

    def hold(self, hold: Hold) -> Short | Held | None:
        """Set money aside. None or Held when held, else the first charge that did not fit, and then nothing is held anywhere."""
        op = Op(HOLD, hold.id, hold)
        self._admit()
        try:
            self._run(op)
        except BaseException:  # interrupted: whoever writes next must not hold it for nobody
            self._pending.append(Op(RELEASE, hold.id, None))
            raise
        if op.fault is not None:
            raise op.fault
        return op.result

    def book(self, settlement: Settlement) -> None:
        """Write the row and settle its hold, in one transaction; on the disk when this returns. An id that was booked
        before changes nothing."""
        op = Op(BOOK, settlement.id, settlement)
        self._take_in()
        self._run(op)
        self._sync()
        self._landed(op)

    def book_all(self, settlements: Sequence[Settlement]) -> None:
        """`book` for many, in few transactions: imports and corrections. A fault of one batch is raised
        before the next; booking all again is safe."""
        for at in range(0, len(settlements), BATCH_MAX):
            self._take_in()
            ops = [Op(BOOK, s.id, s) for s in settlements[at : at + BATCH_MAX]]
            self._pending.extend(ops[:-1])
            self._run(ops[-1])
            self._sync()
            for op in ops:
                self._landed(op)

    def _landed(self, op: Op) -> None:
        if not op.done:
            op.waiter.wait(max(0.0, op.deadline - time.monotonic()))
        if not op.done:
            raise self._late(op)
        if op.fault is not None:
            raise op.fault

    def release(self, hold_id: str) -> None:
        """Give back a hold whose call never went out. Leaves no row."""
        self._take_in()
        self._run(Op(RELEASE, hold_id, None))

    def _run(self, op: Op) -> None:
        """The thread that comes first writes for all that wait: nothing is handed to another thread, and commits group by
        themselves. Not done afterwards means: committed and waiting for the disk, or in the spool, with an event to wait on."""
        self._pending.append(op)
        with self._lock:
            while not op.done and self._pending:
                self._drain()
        self._keeper.start()

    # -- async face --------------------------------------------------------------------------------------------------

    def hold_soon(self, hold: Hold, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Short | Held | None]:
        """`hold`, answered on `loop`. Cancelled before the answer: the hold is given back."""
        future: asyncio.Future[Short | Held | None] = loop.create_future()
        try:
            self._admit()
        except LedgerFault as fault:
            future.set_exception(fault)
            return future
        self._submit(Op(HOLD, hold.id, hold, loop, future))
        return future

    def book_soon(self, settlement: Settlement, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """`book`, answered on `loop`. Cancelling the future does not unbook the row."""
        future: asyncio.Future[None] = loop.create_future()
        try:
            self._take_in()
        except LedgerFault as fault:
            future.set_exception(fault)
            return future
        self._submit(Op(BOOK, settlement.id, settlement, loop, future))
        return future

    def hold_then(self, hold: Hold, loop: asyncio.AbstractEventLoop, tell: Callable[[Op], None]) -> None:
        """`hold`, answered by a call of `tell` on `loop`: `op.fault`, or `op.result`. Never before this returns."""
        op = Op(HOLD, hold.id, hold, loop, None, tell)
        fault = self.fault()
        if fault is not None:
            self._refused += 1
            op.fault = fault
            loop.call_soon(tell, op)
            return
        self._pending.append(op)
        if self._due is not loop:
            self._write_soon(loop)

    def book_then(self, settlement: Settlement, loop: asyncio.AbstractEventLoop, tell: Callable[[Op], None]) -> None:
        """`book`, answered in the same way."""
        op = Op(BOOK, settlement.id, settlement, loop, None, tell)
        try:
            self._take_in()
        except LedgerFault as fault:
            op.fault = fault
            loop.call_soon(tell, op)
            return
        self._pending.append(op)
        if self._due is not loop:
            self._write_soon(loop)

    def _submit(self, op: Op) -> None:
        self._pending.append(op)
        if op.loop is None:
            self._keeper.hand_over()
        elif self._due is not op.loop:
            self._write_soon(op.loop)

    def _write_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """When the loop has been through all that is ready now: that makes the batch."""
        self._due = loop
        loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop: write what is pending, if that can be done without waiting for anybody."""
        self._due = None
        pending = self._pending
        if not pending:
            return
        if self._syncing and not any([op.kind == HOLD for op in pending]):
            return  # these rows could not be acknowledged before the next sync anyway, and it will call again
        tail = self._tail
        if tail is None or self._fault is not None or self._spool or not self._lock.acquire(blocking=False):
            self._keeper.hand_over()
            return
        try:
            tail.patient = False
            while pending and self._drain(loop):
                pass
        finally:
            tail.patient = True
            self._lock.release()
        if pending:
            self._keeper.hand_over()
        elif self._written and time.monotonic() >= self._gather_by:
            self._gather_by = time.monotonic() + GATHER_S
            loop.call_soon(self._gathered, loop, self._batches)

    def _gathered(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        """Ring for the disk when a turn of the loop has brought nothing more: what is under way then waits for somebody else, and
        until then more rows may come to share the sync. A tenth of a busy gateway's CPU was syncs."""
        if (self._batches == seen and not self._pending) or time.monotonic() >= self._gather_by:
            self._gather_by = 0.0
            self._keeper.ring()
        else:
            loop.call_soon(self._gathered, loop, self._batches)

    def _admit(self) -> None:
        """LedgerFault when no new call may go out: the ledger is in trouble, or too much is in hand already."""
        fault = self.fault()
        if fault is not None:
            self._refused += 1
            raise fault

    def _take_in(self) -> None:
        """LedgerFault when not even a row is taken: only what is a bug or a flood gets here."""
        if self._closed:
            raise self._shut()
        waiting = len(self._pending) + len(self._written)
        if waiting >= 2 * QUEUE_MAX:
            raise LedgerFault("busy", f"{waiting} rows wait for the ledger", "wait for rows before booking more")

    # -- the state of things -----------------------------------------------------------------------------------------

    def fault(self) -> LedgerFault | None:
        """Why a hold would be refused now; None when the ledger is well."""
        if self._closed:
            return self._shut()
        if len(self._spool) >= SPOOL_MAX:
            waiting = f"{len(self._spool)} rows wait in memory for the ledger's disk"
            return LedgerFault("spool_full", waiting, "repair the disk; they land then")
        if self._fault is not None:
            return self._fault
        if len(self._pending) >= QUEUE_MAX:
            waiting = f"{len(self._pending)} calls wait for the ledger"
            return LedgerFault("busy", waiting, "send less, or give it a faster disk")
        return None

    def _shut(self) -> LedgerFault:
        return LedgerFault("closed", f"{self.place.file} was closed by this process", "open it again")

    def stats(self) -> dict[str, int]:
        """Whole numbers since this process opened the ledger; the first two as of now."""
        tail = self._tail
        return {
            "queue_depth": len(self._pending) + len(self._written), "spooled": len(self._spool), "batches": self._batches,
            "rows": self._rows,
            "holds": self._holds, "short": self._short, "refused": self._refused, "released": self._released,
            "recovered": self._recovered, "duplicates": tail.duplicates if tail else 0,
            "corrections": tail.corrections if tail else 0, "drift": self._keeper.drift,
            "incidents": self._keeper.incidents, "incidents_summed": self._keeper.summed,
        }  # fmt: skip

    def counters(self) -> dict[str, Standing]:
        """Every counter as the file has it, by name."""
        return self._look(lambda tail: tail.standings())

    def rows(self) -> list[Entry]:
        """Every row that is still in the tail, oldest first: for small ledgers. Questions are the reader's business."""
        return self._look(lambda tail: tail.rows())

    def recover(self) -> list[Entry]:
        """Turn the holds of dead processes into rows, charged at the hold; gives those rows. The keeper does it too,
        every five seconds."""
        return self._look(lambda _: self._recover())

    def _look(self, what: Callable[[Tail], T]) -> T:
        with self._lock:
            try:
                return what(self._opened())
            except OF_DISK as error:
                raise from_error(error, self.place.file) from error

    def _opened(self) -> Tail:
        """The tail, opened where it is not (first use, after a fork, after the disk failed). Needs the lock."""
        if self._closed:
            raise self._shut()
        if self._tail is None:
            tail = Tail(self.place, self._owner, self._clock_us, self._busy_ms)
            tail.duplicates, tail.corrections = self._duplicates, self._corrections
            if self._fault is not None:
                # A sync that failed may have left rows in the log that look committed and are not on the disk.
                tail.checkpoint()
            self._tail = tail
            self._lease_due = 0
        now = self._ticks()
        if now >= self._lease_due:
            self._tail.renew(now)
            self._lease_due = now + RENEW_US
        return self._tail

    def _recover(self) -> list[Entry]:
        tail = self._opened()
        found = tail.recover(self._ticks())
        if found:
            tail.sync()
        self._recovered += len(found)
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def _drain(self, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """Write the next batch of what is pending; False when that would have to wait for another process (only asked by a
        loop, which is then `loop`). Needs the lock; never raises for what the disk or a row does."""
        pending = self._pending
        ops = [pending.popleft() for _ in range(min(len(pending), BATCH_MAX))]
        if self._fault is not None or self._spool:
            self._put_off(ops, self._fault)  # rows keep their order behind those that wait; the keeper tries again
            return True
        return self._write(ops, loop)

    def _write(self, ops: list[Op], loop: asyncio.AbstractEventLoop | None = None) -> bool:
        failed: list[Op] = []
        try:
            holds, books, releases = self._opened().commit(ops)
        except OF_DATA:
            ops = self._write_alone(ops)
            failed = [op for op in ops if op.fault is not None]
            holds, books, releases = parted([op for op in ops if op.fault is None])
        except (*OF_DISK, LedgerFault) as error:
            if loop is not None and isinstance(error, apsw.BusyError):
                self._pending.extendleft(reversed(ops))
                return False
            self._in_trouble(error)
            self._put_off(ops, self._fault)
            return True
        except BaseException:  # interrupted: the next to come writes them, and those written already are known by their ids
            self._pending.extendleft(reversed(ops))
            raise
        self._batches += 1
        if self._tail is not None:
            self._keeper.mind_log(self._tail.log_pages, self._batches)
        self._written.extend(books)
        self._holds += len(holds)
        self._short += sum([isinstance(op.result, Short) for op in holds])
        holds += releases + failed
        if holds:
            self._finish(holds, loop)
        return True

    def _sync(self) -> None:
        """Wait for the disk with all that is written, and tell those who wait for it. The lock makes groups: who comes while
        the disk is busy finds his row on it already, or takes all that came meanwhile along."""
        with self._disk:
            ops = list(self._written)
            if not ops:
                return
            self._syncing = True
            try:
                with self._lock:
                    tail = self._opened()
                tail.sync()
            except (*OF_DISK, LedgerFault) as error:
                with self._lock:
                    self._in_trouble(error)
                    self._taken(ops)
                    self._put_off(ops, self._fault)
                return
            finally:
                self._syncing = False
            self._taken(ops)
            self._rows += len(ops)
            self._finish(ops)

    def _taken(self, ops: list[Op]) -> None:
        for _ in ops:
            self._written.popleft()

    def _write_alone(self, ops: list[Op]) -> list[Op]:
        """One transaction each, so that only the op that cannot be stored fails. Gives those that came to an end."""
        for at, op in enumerate(ops):
            try:
                self._opened().commit_alone(op)
            except OF_DATA as error:
                op.fault = from_error(error, self.place.file)
                if op.fault.code != "unstorable":
                    op.fault = LedgerFault("unstorable", f"{op.id}: {error}", "report this: a row must fit its columns")
            except (*OF_DISK, LedgerFault) as error:
                self._in_trouble(error)
                self._put_off(ops[at:], self._fault)
                return ops[:at]
        return ops

    def _in_trouble(self, error: Exception) -> None:
        self._fault = from_error(error, self.place.file)
        if not isinstance(error, apsw.BusyError | apsw.FullError):
            self._drop_tail()  # after an I/O error what the connection believes of the file is not to be trusted

    def _drop_tail(self, checkpoint: bool = False) -> None:
        if self._tail is not None:
            self._duplicates, self._corrections = self._tail.duplicates, self._tail.corrections
            try:
                self._tail.close(checkpoint)
            except OF_DISK:
                pass  # the reason is the fault that brought us here, and that one is told
            self._tail = None

    def _put_off(self, ops: list[Op], fault: LedgerFault | None) -> None:
        """Holds fail at once, rows stay in hand."""
        failed: list[Op] = []
        for op in ops:
            if op.kind != HOLD:
                if op.loop is None and op.waiter is None:
                    op.waiter = threading.Event()
                op.deadline = time.monotonic() + self._ack_s
                if len(self._spool) < 2 * SPOOL_MAX:
                    self._spool.append(op)
                    continue
            op.fault = fault or self.fault() or LedgerFault("busy", "rows wait for the ledger's disk", "try again")
            self._refused += 1
            failed.append(op)
        self._finish(failed)
        self._keeper.ring()

    def _finish(self, ops: list[Op], here: asyncio.AbstractEventLoop | None = None) -> None:
        """Tell those who wait: threads by their event, each loop in one go (`here`: the one that runs this)."""
        loops: dict[asyncio.AbstractEventLoop, list[Op]] = {}
        for op in ops:
            loop = op.loop
            if loop in loops:
                loops[loop].append(op)
            elif loop is not None:
                loops[loop] = [op]
            else:
                op.done = True
                if op.waiter is not None:
                    op.waiter.set()
        for loop, told in loops.items():
            if loop is here:
                self._tell(told, loop)
                continue
            try:
                loop.call_soon_threadsafe(self._tell, told, loop)
            except RuntimeError:
                self._give_back(told)  # the loop is closed: nobody waits any more

    def _tell(self, ops: list[Op], loop: asyncio.AbstractEventLoop) -> None:
        """On the loop: set the futures, and write what waited for the sync that has just ended."""
        abandoned: list[Op] = []
        for op in ops:
            if op.tell is not None:
                op.tell(op)
                continue
            future: asyncio.Future[Any] = op.waiter
            if future.done():
                abandoned.append(op)
            elif op.fault is not None:
                future.set_exception(op.fault)
            else:
                future.set_result(op.result)
        if abandoned:
            self._give_back(abandoned)
        if self._pending and self._due is None:
            self._write_soon(loop)

    def _give_back(self, ops: list[Op]) -> None:
        """Holds that were granted after their caller had left: the provider never saw a byte of them."""
        for op in ops:
            if op.kind == HOLD and op.fault is None and not isinstance(op.result, Short):
                self._released += 1
                self._submit(Op(RELEASE, op.id, None))

    def _late(self, op: Op) -> LedgerFault:
        because = f" ({self._fault.code}: {self._fault.reason})" if self._fault else ""
        return LedgerFault(
            "late", f"the row of {op.id} is not on the disk after {self._ack_s:g} s{because}",
            "it is kept in hand and lands when the ledger is well; do not book it again",
        )  # fmt: skip

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is pending, give up the lease, close the file. LedgerFault when rows in hand could not be written:
        their holds are in the file and become rows, charged at the hold, when the ledger is next opened."""
        with self._lock:
            if self._closed:
                return
            while self._pending:
                self._drain()
        self._sync()
        with self._lock:
            if self._fault is not None or self._spool:
                self._keeper.retry()
        self._sync()
        with self._lock:
            lost, fault = len(self._spool), self._fault
            try:
                if self._tail is not None:
                    self._tail.leave()
            except OF_DISK as error:
                fault = fault or from_error(error, self.place.file)
            self._drop_tail(checkpoint=True)
            self._closed = True
        _live.discard(self)
        atexit.unregister(self._at_exit)
        self._keeper.end(RETRY_S + self._busy_ms / 1000)
        if lost and fault is not None:
            raise LedgerFault(fault.code, f"{lost} rows could not be written at the end: {fault.reason}", fault.remedy)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _at_exit(self) -> None:
        self.close()

    # -- fork --------------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """No connection is carried across a fork: SQLite keeps the locks of a process in memory, and a child that inherits
        them believes in locks it does not have. Both sides open again when they next need it."""
        self._disk.acquire()
        self._lock.acquire()
        self._drop_tail()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()
        self._disk.release()

    def _after_fork_in_child(self) -> None:
        closed = self._closed
        self._fresh()
        self._closed = closed


_live: weakref.WeakSet[Ledger] = weakref.WeakSet()
_forking: list[Ledger] = []


def _before_fork() -> None:
    _forking[:] = sorted(_live, key=id)
    for ledger in _forking:
        ledger._before_fork()


def _after_fork_in_parent() -> None:
    for ledger in _forking:
        ledger._after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for ledger in _forking:
        ledger._after_fork_in_child()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

__all__ = ["Ledger", "LedgerFault"]
