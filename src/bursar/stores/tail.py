"""The SQLite tail: one connection, and what happens in one transaction on it. Called by one thread at a time, but for `sync`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from ..domain.entry import Charge, Entry, Held, Hold, Settlement, Short
from . import incidents
from .fault import LedgerFault
from .lapse import charged, late
from .owner import LEASE_US, Owner
from .schema import CHECKPOINT_PAGES, HOLDS_EACH, IN_TAIL, STORED, Place, connect, quoted, read_hold, restart_log, waiter, written_hold
from .threads import mark_all

HOLD, BOOK, RELEASE = range(3)

# Every step lets go of the interpreter's lock and has to win it back from a busy event loop, so a batch is written in few
# steps: many rows a statement. Powers of two: any number of rows is few steps, and the prepared statements stay few.
SIZES = (64, 32, 16, 8, 4, 2, 1)
COUNTERS_KEPT = 200_000  # counters remembered in memory, some 300 bytes each; forgetting costs one look-up
LAPSE_BATCH = 500
# The log is kept at this length, filled with zeros: a sync that has to lengthen the file takes twice the CPU and the time
# (72 and 37 us, 0.3 and 0.13 ms). Filled in pieces, for writers wait meanwhile.
LOG_BYTES = CHECKPOINT_PAGES * 4120 + 32
LOG_PIECE = 2 << 20

_to_disk = getattr(os, "fdatasync", os.fsync)  # macOS has the longer word only

_encode = msgspec.json.Encoder().encode  # a fifth faster than `msgspec.json.encode`
_charges = msgspec.json.Decoder(tuple[Charge, ...])


class _Many(NamedTuple):
    """The statement that inserts many rows, for each of SIZES."""

    columns: int
    sized: dict[int, str]


def _many(head: str, columns: int) -> _Many:
    one = f"({','.join('?' * columns)})"
    return _Many(columns, {n: f"{head} VALUES {','.join([one] * n)}" for n in SIZES})


ROWS = _many(f"INSERT INTO tail ({','.join(quoted(c) for c in STORED)})", len(STORED))
HOLDS = _many("INSERT INTO holds (n, id, hold)", 3)
NEW_COUNTERS = _many("INSERT INTO counters (n, counter, budget, unit, spent, held, resets)", 7)
# Run for each counter of a batch: up to some fifty that takes less than one statement with all of them, and for three a fifth.
COUNTER = "UPDATE counters SET spent = ?2, held = ?3 WHERE n = ?1"
DROP = "DELETE FROM holds WHERE n IN (SELECT value FROM json_each(?))"
DROP_ONE = "DELETE FROM holds WHERE n = ?"  # without the list it takes a third of the time
ORPHANS = f"SELECT n, hold FROM holds WHERE n / {HOLDS_EACH} <> ? AND n / {HOLDS_EACH} NOT IN (SELECT n FROM owners)"
SEEN = """
    SELECT id, 'lapsed', amount, charges, settled FROM lapsed WHERE id IN (SELECT value FROM json_each(?1))
    UNION ALL SELECT id, 'booked', 0, '', 0 FROM tail WHERE id IN (SELECT value FROM json_each(?1))
    UNION ALL SELECT id, 'booked', 0, '', 0 FROM landed WHERE id IN (SELECT value FROM json_each(?1))"""


class Op(msgspec.Struct, eq=False):
    """One thing asked of the ledger, and what came of it. Who waits for it: a thread by the event `waiter`, an event loop by
    the future `waiter`, or by having `tell` called on it."""

    kind: int
    id: str
    item: Any
    loop: Any = None
    waiter: Any = None
    tell: Callable[[Op], None] | None = None
    result: Short | Held | None = None
    fault: LedgerFault | None = None
    done: bool = False
    deadline: float = 0.0


def parted(ops: Iterable[Op]) -> tuple[list[Op], list[Op], list[Op]]:
    """By their kinds: HOLD, BOOK, RELEASE."""
    parts: tuple[list[Op], list[Op], list[Op]] = ([], [], [])
    for op in ops:
        parts[op.kind].append(op)
    return parts


class Standing(NamedTuple):
    """A counter as it stands, in the unit's own grain. `resets_us`: when its window ends, 0 for never."""

    counter: str
    budget: str
    unit: str
    spent: int
    held: int
    resets_us: int


class _Counter:
    __slots__ = ("budget", "held", "n", "name", "resets", "spent", "unit")

    def __init__(self, n: int, name: str, budget: str, unit: str, resets: int) -> None:
        self.n, self.name, self.budget, self.unit, self.resets = n, name, budget, unit, resets
        self.spent = self.held = 0


def _store(values: list[object], entry: Entry, taken: list[tuple[str, str, int]]) -> None:
    """Add the row as stored: the entry, and what it takes from which counter (its unit)."""
    values += entry
    values.append(_encode(taken).decode() if taken else "[]")


def _take(
    values: list[object], entry: Entry, charges: Sequence[Charge], actual: Sequence[int], moves: list[tuple[Charge, int, int]]
) -> None:
    """Add the row; what it takes is added to `moves`. ValueError when there are not as many amounts as charges."""
    both = list(zip(charges, actual, strict=True))
    moves += [(c, spent, 0) for c, spent in both]
    _store(values, entry, [(c.counter, c.unit, spent) for c, spent in both])


class _Log:
    """SQLite's log as a file of our own. Closed when nobody has it any more: a sync that is under way must not find its number
    given to another file."""

    __slots__ = ("_number",)

    def __init__(self, place: Place) -> None:
        self._number = os.open(f"{place.file}-wal", os.O_RDWR | os.O_CLOEXEC)
        folder = os.open(place.file.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the file's own name
        finally:
            os.close(folder)

    def __del__(self) -> None:
        os.close(self._number)

    def sync(self) -> None:
        _to_disk(self._number)

    def lengthen(self) -> None:
        size = os.fstat(self._number).st_size
        os.pwrite(self._number, bytes(max(0, min(LOG_PIECE, LOG_BYTES - size))), size)

    @property
    def short(self) -> bool:
        return os.fstat(self._number).st_size < LOG_BYTES


class _Gone(Exception):
    """A hold of ours was given up by a sibling: this batch must look before it settles."""


class Tail:
    """One opened ledger file. Errors of SQLite leave as they are, with nothing of the batch kept.

    A commit is written and not yet on the disk (`synchronous = NORMAL`): it survives a killed process. What must survive a
    power cut waits for `sync`, which holds no lock of the file: other processes commit meanwhile, and one sync serves
    every commit before it."""

    def __init__(self, place: Place, owner: Owner, clock_us: Callable[[], int], busy_ms: int) -> None:
        self.place, self.owner, self._clock_us = place, owner, clock_us
        self._busy_ms = busy_ms
        self.connection = connect(place, busy_ms=busy_ms)
        self.connection.execute("PRAGMA synchronous = NORMAL", can_cache=False)
        wait = waiter(busy_ms)
        # An event loop never waits for another process's lock: it leaves the batch to the ledger's own thread.
        self.patient = True
        self.connection.set_busy_handler(lambda tries: self.patient and wait(tries))
        self.log_pages = 0  # in SQLite's log after the last commit
        self.connection.set_wal_hook(self._logged)  # takes the place of SQLite's own checkpoints, which would hold up a commit
        self._log: _Log | None = None
        self._number = 0  # the owner's
        self._count = 0  # of holds so far
        self._open: dict[str, tuple[int, tuple[Charge, ...]]] = {}  # our own holds, which need not be read back
        self._known: dict[str, _Counter] = {}
        self._dirty: set[_Counter] = set()
        self._seen_version = -1
        self.duplicates = self.corrections = 0

    # -- one batch ---------------------------------------------------------------------------------------------------

    def commit(self, ops: Sequence[Op]) -> tuple[list[Op], list[Op], list[Op]]:
        """All of `ops` in one transaction, written on return; gives them parted (HOLD, BOOK, RELEASE)."""
        parts = holds, books, releases = parted(ops)
        if releases:
            given_back = {op.id for op in releases}
            holds = [op for op in holds if op.id not in given_back]
        try:
            self._commit(books, holds, releases, careful=False)
        except _Gone:
            self._commit(books, holds, releases, careful=True)
        return parts

    def commit_alone(self, op: Op) -> None:
        """One op, looking first whether its id is known: for what a batch could not take."""
        holds, books, releases = parted((op,))
        self._commit(books, holds, releases, careful=True)

    def _commit(self, books: list[Op], holds: list[Op], releases: list[Op], careful: bool) -> None:
        self._begin()
        opened: dict[str, tuple[int, tuple[Charge, ...]]] = {}
        duplicates, corrections = self.duplicates, self.corrections
        try:
            if books:
                self._book(books, careful)
                landmarks = [mark for op in books for mark in op.item.landmarks]
                if landmarks:
                    mark_all(self.connection, landmarks)
                logged = [incident for op in books for incident in op.item.incidents]
                if logged:
                    incidents.write(self.connection, logged)
            if releases:
                self._release(releases)
            if holds:
                opened = self._hold(holds, careful)
            self._end()
        except BaseException:
            self.duplicates, self.corrections = duplicates, corrections
            self._undo()
            raise
        for op in books:
            self._open.pop(op.id, None)
        for op in releases:
            self._open.pop(op.id, None)
        self._open.update(opened)

    def _begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        if self.connection.data_version() != self._seen_version or len(self._known) > COUNTERS_KEPT:
            self._known.clear()  # another process wrote, or this connection is new

    def _end(self) -> None:
        if self._dirty:
            touched = [(c.n, c.spent, c.held) for c in self._dirty if c.n]
            if touched:
                self.connection.executemany(COUNTER, touched)
            new = [c for c in self._dirty if not c.n]
            if new:
                last = self.connection.execute("SELECT coalesce(max(n), 0) FROM counters").get
                for c in new:
                    c.n = last = last + 1
                values = [value for c in new for value in (c.n, c.name, c.budget, c.unit, c.spent, c.held, c.resets)]
                self._insert(NEW_COUNTERS, values)
        self.connection.execute("COMMIT")
        self._dirty.clear()
        self._seen_version = self.connection.data_version()

    def _undo(self) -> None:
        self._known.clear()
        self._dirty.clear()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _insert(self, many: _Many, values: Sequence[Any]) -> None:
        """`values`: those of all rows, one after another."""
        columns, sized = many
        left = len(values) // columns
        if left in sized:
            self.connection.execute(sized[left], values)
            return
        at = 0
        for size in SIZES:
            while left >= size:
                end = at + size * columns
                self.connection.execute(sized[size], values[at:end])
                at, left = end, left - size

    # -- the disk ----------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """All that was committed before is on the disk on return. OSError when it may not be. May run beside a commit."""
        log = self._log
        if log is None:
            log = self._log = _Log(self.place)
        log.sync()

    def _logged(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def lengthen_log(self) -> bool:
        """Fill up the log by a piece where it is short; whether it still is. Under the write lock, or another's frames would be
        lost."""
        if self._log is None or not self._log.short:
            return False
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self._log.lengthen()
        finally:
            self.connection.execute("ROLLBACK")
        return self._log.short

    def restart_log(self) -> None:
        """Bring the rest of the log into the file, so that it is written from its start again. BusyError: another time."""
        patient, self.patient = self.patient, False
        try:
            restart_log(self.connection, self.place)
        finally:
            self.patient = patient
        self.log_pages = 0

    # -- counters ----------------------------------------------------------------------------------------------------

    def _load(self, charges: Iterable[Charge]) -> None:
        """Bring what the batch touches into memory; a counter nobody touched before starts at zero."""
        known = self._known
        missing = {c.counter: c for c in charges if c.counter not in known}
        if not missing:
            return
        for name, c in missing.items():
            known[name] = _Counter(0, name, c.budget, c.unit, c.resets_us)
        for name, n, spent, held in self.connection.execute(
            "SELECT counter, n, spent, held FROM counters WHERE counter IN (SELECT value FROM json_each(?))",
            (_encode(list(missing)).decode(),),
        ):
            counter = known[name]
            counter.n, counter.spent, counter.held = n, spent, held

    # -- rows --------------------------------------------------------------------------------------------------------

    def _book(self, books: list[Op], careful: bool) -> None:
        own = {} if careful else self._open
        ours = [(op, own[op.id]) for op in books if op.id in own]
        if ours:
            if len(ours) == 1:
                self.connection.execute(DROP_ONE, (ours[0][1][0],))
            else:
                self.connection.execute(DROP, (_encode([n for _, (n, _) in ours]).decode(),))
            if self.connection.changes() != len(ours):
                raise _Gone
        values: list[object] = []  # of the rows, one after another
        moves: list[tuple[Charge, int, int]] = []  # counter, added to spent, added to held
        if len(ours) < len(books):
            self._book_strangers([op for op in books if op.id not in own], values, moves)
        known, dirty = self._known, self._dirty
        for op, (_, held) in ours:
            settlement: Settlement = op.item
            actual = settlement.actual
            if (settlement.charges and settlement.charges is not held) or len(held) != len(actual):
                moves += [(c, 0, -c.amount) for c in held]
                _take(values, settlement.entry, settlement.charges or held, actual, moves)
                continue
            taken: list[tuple[str, str, int]] = []
            for c, spent in zip(held, actual):  # as nearly always: what was held is given back, what was used is spent
                name = c.counter
                try:
                    counter = known[name]
                except KeyError:
                    self._load([c for _, (_, held) in ours for c in held])
                    counter = known[name]
                counter.spent += spent
                counter.held -= c.amount
                dirty.add(counter)
                taken.append((name, c.unit, spent))
            _store(values, settlement.entry, taken)
        if moves:
            self._move(moves)
        self._insert(ROWS, values)

    def _book_strangers(self, books: list[Op], values: list[object], moves: list[tuple[Charge, int, int]]) -> None:
        """Rows whose hold this connection did not make: without a hold, after a hold was given up, or booked before."""
        asked = (_encode([op.id for op in books]).decode(),)
        held: dict[str, tuple[Charge, ...]] = {}
        drop: list[int] = []
        for n, id, hold in self.connection.execute(
            "SELECT n, id, hold FROM holds WHERE id IN (SELECT value FROM json_each(?))", asked
        ).fetchall():
            held[id] = read_hold(hold).charges
            drop.append(n)
        if drop:
            self.connection.execute(DROP, (_encode(drop).decode(),))
        seen: dict[str, tuple[str, int | None, str, int]] = {}
        for id, kind, amount, charges, settled in self.connection.execute(SEEN, asked).fetchall():
            seen.setdefault(id, (kind, amount, charges, settled))
        for op in books:
            settlement: Settlement = op.item
            charges = held.pop(op.id, None)
            if charges is not None:
                moves += [(c, 0, -c.amount) for c in charges]
            kind, amount, text, settled = seen.get(op.id, ("", 0, "", 0))
            if kind == "booked" or settled:
                self.duplicates += 1
                continue
            seen[op.id] = ("booked", 0, "", 0)  # the same id again in this batch
            if not kind:
                _take(values, settlement.entry, settlement.charges or charges or (), settlement.actual, moves)
                continue
            lapsed = _charges.decode(text)
            already = {c.counter: c.amount for c in lapsed}
            charges = settlement.charges or lapsed
            actual = [spent - already.get(c.counter, 0) for c, spent in zip(charges, settlement.actual, strict=True)]
            _take(values, late(settlement, amount or 0), charges, actual, moves)
            self.connection.execute("UPDATE lapsed SET settled = 1 WHERE id = ?", (op.id,))
            self.corrections += 1

    def _move(self, moves: list[tuple[Charge, int, int]]) -> None:
        self._load([c for c, _, _ in moves])
        known, dirty = self._known, self._dirty
        for c, spent, held in moves:
            counter = known[c.counter]
            counter.spent += spent
            counter.held += held
            dirty.add(counter)

    # -- holds -------------------------------------------------------------------------------------------------------

    def _hold(self, holds: list[Op], careful: bool) -> dict[str, tuple[int, tuple[Charge, ...]]]:
        opened: dict[str, tuple[int, tuple[Charge, ...]]] = {}
        values: list[object] = []
        written = self._written(holds) if careful else frozenset[str]()
        for op in holds:
            hold: Hold = op.item
            id, charges = op.id, hold.charges
            if id in opened or id in self._open or id in written:
                op.result = None
                continue
            op.result = result = self._reserve(charges, holds)
            if not isinstance(result, Short):
                self._count += 1
                n = self._number * HOLDS_EACH + self._count
                opened[id] = (n, charges)
                values += (n, id, written_hold(hold))
        self._insert(HOLDS, values)
        return opened

    def _written(self, holds: list[Op]) -> frozenset[str]:
        """Which of these a commit that seemed to fail wrote after all."""
        rows = self.connection.execute(
            f"SELECT id FROM holds WHERE n / {HOLDS_EACH} = ? AND id IN (SELECT value FROM json_each(?))",
            (self._number, _encode([op.id for op in holds]).decode()),
        )
        return frozenset(id for (id,) in rows)

    def _reserve(self, charges: tuple[Charge, ...], holds: list[Op]) -> Short | Held | None:
        """`holds`: of this batch, whose counters are looked up together where one is not known."""
        known = self._known
        passed: list[tuple[int, int]] | None = None
        taken: list[_Counter] = []
        left: tuple[int, int] | None = None
        share, of = 1, 1
        for c in charges:
            try:
                counter = known[c.counter]
            except KeyError:
                self._load([c for op in holds for c in op.item.charges])
                counter = known[c.counter]
            held, amount, limit = counter.held, c.amount, c.limit
            standing = counter.spent + held
            if c.steps and standing >= c.steps[0]:
                passed = [*(passed or ()), (len(taken), standing)]
            # With nothing to add any standing fits: a free model is not stopped by a money budget that is used up.
            if c.hard and limit is not None:
                rest = limit - standing - amount
                if rest < 0 and amount > 0:
                    for back, charge in zip(taken, charges):
                        back.held -= charge.amount
                    return Short(c, counter.spent, counter.held)
                if left is None or rest * of < share * limit:
                    left, share, of = (len(taken), rest), rest, limit
            counter.held = held + amount
            taken.append(counter)
        self._dirty.update(taken)
        return None if passed is None and left is None else Held(tuple(passed or ()), left)

    def _release(self, releases: list[Op]) -> None:
        """Give back holds that nobody was told of: their calls never went out."""
        asked = (_encode([op.id for op in releases]).decode(),)
        found = self.connection.execute(
            "DELETE FROM holds WHERE id IN (SELECT value FROM json_each(?)) RETURNING hold", asked
        ).fetchall()
        self._move([(c, 0, -c.amount) for (hold,) in found for c in read_hold(hold).charges])

    # -- owners ------------------------------------------------------------------------------------------------------

    def renew(self, now: int) -> None:
        """Take or renew this process's lease, at `now` ticks."""
        o = self.owner
        self._begin()
        try:
            self.connection.execute("UPDATE owners SET lease_until = ? WHERE id = ?", (now + LEASE_US, o.id))
            if not self.connection.changes():  # new, or given up while this process slept
                self.connection.execute(
                    """INSERT INTO owners (n, id, "where", boot, pid, start, mode, node, lease_until)
                       VALUES (?,?,?,?,?,?,?,?,?)""",
                    (self._number or None, o.id, o.where, o.boot, o.pid, o.start, o.mode, o.node, now + LEASE_US),
                )
            if not self._number:  # a connection opened again has holds from before
                self._number = self.connection.execute("SELECT n FROM owners WHERE id = ?", (o.id,)).get
                self._count = (
                    self.connection.execute(
                        "SELECT coalesce(max(n), 0) FROM holds WHERE n BETWEEN ?1 AND ?1 + ?2",
                        (self._number * HOLDS_EACH, HOLDS_EACH - 1),
                    ).get
                    % HOLDS_EACH
                )
            self._end()
        except BaseException:
            self._undo()
            raise

    def leave(self) -> None:
        """This process is done: what it still holds, nobody will settle."""
        self.connection.execute("DELETE FROM owners WHERE n = ?", (self._number,))

    def recover(self, now: int) -> list[Entry]:
        """Turn the holds of dead owners into rows, charged at the hold. Several processes may do this at once."""
        found: list[Entry] = []
        while self._dead(now) or self._orphans():
            self._begin()
            try:
                rows = self._lapse(self._dead(now))  # judged again: the owner may have renewed meanwhile
                self._end()
            except BaseException:
                self._undo()
                raise
            found += rows
            if len(rows) < LAPSE_BATCH:
                break
        return found

    def _dead(self, now: int) -> list[str]:
        rows = self.connection.execute('SELECT id, "where", boot, pid, start, mode, node, lease_until FROM owners').fetchall()
        owners = [(Owner(*fields), until) for *fields, until in rows]
        return [o.id for o, until in owners if o.id != self.owner.id and self.owner.gone(o, until, now)]

    def _orphans(self) -> bool:
        return bool(self.connection.execute(f"SELECT EXISTS ({ORPHANS})", (self._number,)).get)

    def _lapse(self, dead: list[str]) -> list[Entry]:
        gone = _encode(dead).decode()
        self.connection.execute("DELETE FROM owners WHERE id IN (SELECT value FROM json_each(?))", (gone,))
        found = self.connection.execute(f"{ORPHANS} ORDER BY n LIMIT {LAPSE_BATCH}", (self._number,)).fetchall()
        rows: list[Entry] = []
        stored: list[object] = []
        moves: list[tuple[Charge, int, int]] = []
        for _, text in found:
            hold = read_hold(text)
            row = charged(hold.entry, hold.amount)
            rows.append(row)
            moves += [(c, 0, -c.amount) for c in hold.charges]
            _take(stored, row, hold.charges, [c.amount for c in hold.charges], moves)
            self.connection.execute(
                "INSERT INTO lapsed (id, at, amount, charges, settled) VALUES (?,?,?,?,0)",
                (hold.id, self._clock_us(), row.cost, _encode(hold.charges).decode()),
            )
        self.connection.execute(DROP, (_encode([n for n, _ in found]).decode(),))
        self._move(moves)
        self._insert(ROWS, stored)
        return rows

    # -- reading -----------------------------------------------------------------------------------------------------

    def standings(self) -> dict[str, Standing]:
        """Every counter as the file has it."""
        rows = self.connection.execute("SELECT counter, budget, unit, spent, held, resets FROM counters").fetchall()
        return {row[0]: Standing(*row) for row in rows}

    def rows(self) -> list[Entry]:
        """Every row of the tail, oldest first: for tests and recovery reports, not for questions (those are the reader's)."""
        columns = ",".join(quoted(c) for c in Entry._fields)
        return [Entry(*row) for row in self.connection.execute(f"SELECT {columns} FROM tail WHERE {IN_TAIL} ORDER BY seq")]

    def checkpoint(self) -> None:
        """Bring the log into the file and sync it, without waiting for anybody."""
        patient, self.patient = self.patient, False
        try:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            pass  # somebody is at the file, so the log was not read back from the disk: what failed to commit is not in it
        finally:
            self.patient = patient

    def close(self, checkpoint: bool) -> None:
        """Close the file; the last to close it may bring the log in, which takes a moment."""
        if not checkpoint:
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.connection.close(True)
