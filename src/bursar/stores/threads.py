"""Conversations of this process in bounded memory, and the lines about them that the processes on one ledger share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import apsw

from ..domain.thread import Found, Head, Landmark, Thread
from .glance import Glance
from .schema import Place

# As measured with tracemalloc (tests/stores/test_threads.py): what a conversation takes, and each key that leads to it.
THREAD_BYTES = 700
HEAD_BYTES = 330
KEYS = 5  # of a conversation, beside its root: of the last request (itself, its reply, their window) and of the reply before
BYTES_MAX = 96 << 20
CARRIED_MAX = 16_384  # texts given to sub-agents and lines of summaries
TTL_US = 24 * 3_600_000_000  # a conversation that nobody carried on for a day is over

TWINS_MAX = 4_096  # conversations at one key: openings that nothing tells apart
CLAIMED_MAX = 64  # of them, those that have gone on and are still remembered there
ALL_MAX = 32

Finder = Callable[[Sequence[bytes]], Mapping[bytes, Found]]  # what other processes have written, by key


# A line is written with the row of the call that it is about. Where another conversation has been at the same place, nobody is.
MARK = """INSERT INTO threads (key, conversation, turns, depth, calls, at) VALUES (?,?,?,?,?,?)
    ON CONFLICT (key) DO UPDATE SET conversation = CASE WHEN conversation = excluded.conversation THEN conversation ELSE '' END,
        turns = excluded.turns, depth = excluded.depth, calls = excluded.calls, at = excluded.at"""
KEPT = 1_000_000  # lines, some 150 bytes each
SWEEP = 4096  # the oldest are deleted in pieces of so many
FIND = """SELECT key, conversation, turns, depth, calls FROM threads WHERE key IN ({}) AND at > ?"""


def mark_all(connection: apsw.Connection, landmarks: Sequence[Landmark]) -> None:
    """Within the transaction of their rows."""
    connection.executemany(MARK, [(m.key, m.conversation, m.turns, m.depth, m.calls, m.at_us) for m in landmarks])
    last = connection.last_insert_rowid()
    if last % SWEEP < len(landmarks) and last > KEPT:
        connection.execute("DELETE FROM threads WHERE n IN (SELECT n FROM threads ORDER BY n LIMIT ?)", (SWEEP,))


class Shelf(Glance):
    """Looks up what other processes have written. Of no consequence when the file cannot be read: a conversation is then taken
    for a new one."""

    def __init__(self, place: Place, ttl_us: int, clock_us: Callable[[], int]) -> None:
        super().__init__(place)
        self._ttl_us, self._clock_us = ttl_us, clock_us

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, Found]:
        query = FIND.format(",".join("?" * len(keys)))
        values = (*keys, self._clock_us() - self._ttl_us)
        rows = self.ask(lambda connection: connection.execute(query, values).fetchall(), [])
        return {row[0]: Found(*row[1:]) for row in rows}


class _Twins:
    """Heads of several conversations at one key, in the order in which they came."""

    __slots__ = ("claimed", "fresh", "newest")

    def __init__(self, first: Head) -> None:
        self.fresh: OrderedDict[Thread, Head] = OrderedDict()
        self.claimed: OrderedDict[Thread, Head] = OrderedDict()
        self.newest: Head | None = first
        (self.claimed if first.claimed else self.fresh)[first.thread] = first


class Threads:
    """The index of one process: least used conversations go first, and with them all their keys."""

    def __init__(self, bytes_max: int = BYTES_MAX, ttl_us: int = TTL_US, shelf: Finder | None = None) -> None:
        self._most, self._ttl_us, self._shelf = bytes_max, ttl_us, shelf
        self._heads: dict[int, Head | _Twins] = {}
        self._threads: OrderedDict[Thread, None] = OrderedDict()  # least used first
        self._carried: OrderedDict[int, Thread] = OrderedDict()
        self.bytes = 0
        self.forgotten = self.looked_up = 0

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def shared(self) -> bool:
        return self._shelf is not None

    def latest(self, key: int) -> Head | None:
        found = self._heads.get(key)
        return found.newest if isinstance(found, _Twins) else found

    def waiting(self, key: int) -> Head | None:
        found = self._heads.get(key)
        if not isinstance(found, _Twins):
            return found
        if found.fresh:
            return next(iter(found.fresh.values()))
        return next(reversed(found.claimed.values()), None)

    def all(self, key: int) -> Sequence[Head]:
        found = self._heads.get(key)
        if isinstance(found, _Twins):
            return [*islice(reversed(found.fresh.values()), ALL_MAX), *islice(reversed(found.claimed.values()), ALL_MAX)]
        return () if found is None else (found,)

    def of(self, key: int, thread: Thread) -> Head | None:
        found = self._heads.get(key)
        if isinstance(found, _Twins):
            return found.fresh.get(thread) or found.claimed.get(thread)
        return found if found is not None and found.thread is thread else None

    def several(self, key: int) -> bool:
        found = self._heads.get(key)
        return isinstance(found, _Twins) and len(found.fresh) + len(found.claimed) > 1

    def claim(self, key: int, head: Head) -> None:
        head.claimed = True
        found = self._heads.get(key)
        if isinstance(found, _Twins):
            found.fresh.pop(head.thread, None)
            found.claimed[head.thread] = head
            found.claimed.move_to_end(head.thread)
            if len(found.claimed) > CLAIMED_MAX:
                found.claimed.popitem(last=False)
                self.bytes -= HEAD_BYTES

    def put(self, key: int, head: Head, root: bool = False) -> None:
        heads, thread = self._heads, head.thread
        found = heads.get(key)
        if found is None:
            heads[key] = head
            self.bytes += HEAD_BYTES
        elif found.__class__ is Head and found.thread is thread:
            heads[key] = head
        else:
            self._beside(key, found, head)
        if root and not thread.root:
            thread.root = key
        elif key != thread.root:
            keys = thread.keys
            if found is not None and key in keys:
                keys.remove(key)
            keys.append(key)
            if len(keys) > KEYS:
                self._drop(keys.pop(0), thread)

    def _beside(self, key: int, found: Head | _Twins, head: Head) -> None:
        """Put a head where another conversation has been too."""
        thread = head.thread
        if isinstance(found, Head):
            found = self._heads[key] = _Twins(found)
        if thread in found.claimed:
            del found.claimed[thread]
            self.bytes -= HEAD_BYTES
        if thread not in found.fresh:
            self.bytes += HEAD_BYTES
        found.fresh[thread] = found.newest = head
        if len(found.fresh) > TWINS_MAX:
            found.fresh.popitem(last=False)
            self.bytes -= HEAD_BYTES

    def _drop(self, key: int, thread: Thread) -> None:
        """Forget a thread's head at a key."""
        found = self._heads.get(key)
        if found.__class__ is Head and found.thread is thread:
            del self._heads[key]
            self.bytes -= HEAD_BYTES
        elif isinstance(found, _Twins):
            gone = found.fresh.pop(thread, None) or found.claimed.pop(thread, None)
            if gone is None:
                return
            self.bytes -= HEAD_BYTES
            if found.newest is gone:
                found.newest = next(reversed(found.fresh.values()), None) or next(reversed(found.claimed.values()), None)
            if found.newest is None:
                del self._heads[key]

    def use(self, thread: Thread) -> None:
        if thread in self._threads:
            self._threads.move_to_end(thread)
        else:
            self._threads[thread] = None
            self.bytes += THREAD_BYTES
        while self.bytes > self._most and len(self._threads) > 1:
            self._forget(next(iter(self._threads)))
        for oldest in self._threads:
            if thread.seen_us - oldest.seen_us > self._ttl_us:
                self._forget(oldest)
            break

    def _forget(self, thread: Thread) -> None:
        del self._threads[thread]
        self.bytes -= THREAD_BYTES
        self.forgotten += 1
        for key in {*thread.keys, thread.root}:
            self._drop(key, thread)

    def carry(self, key: int, thread: Thread) -> None:
        self._carried[key] = thread
        self._carried.move_to_end(key)
        if len(self._carried) > CARRIED_MAX:
            self._carried.popitem(last=False)

    def carrier(self, key: int) -> Thread | None:
        return self._carried.get(key)

    def look_up(self, keys: Sequence[int]) -> Mapping[int, Found]:
        if self._shelf is None or not keys:
            return {}
        self.looked_up += 1
        names = {key.to_bytes(33, "big"): key for key in keys}
        return {names[name]: found for name, found in self._shelf(list(names)).items()}
