"""Alarms in the ledger's file: standings, the outbox of notices with a delivery per channel, judgements, silences, and who leads.

What was seen, what is to be told of it and how far was judged are one transaction: whenever the process dies, nothing that was
due is lost, and what is told again has the same id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import apsw
import msgspec

from ..domain.alarm import ACKNOWLEDGED, FIRING, OPEN, Delivery, Notice, Silence, Standing
from .fault import LedgerFault
from .owner import LEASE_US, Owner, ticks_us
from .schema import quoted, transaction

COLUMNS = Standing._fields
PEOPLES = ("by", "acknowledged", "judged", "judged_at", "judged_by")
OURS = tuple(c for c in COLUMNS if c not in ("id", *PEOPLES))  # what the clockwork writes
BACKOFF_US = (5_000_000, 15_000_000, 60_000_000, 300_000_000, 900_000_000)
GIVE_UP_US = 86_400_000_000  # a notice that a channel has not taken for a day is told by nobody any more
TOLD_KEEP_US = 90 * 86_400_000_000  # notices, and how they were delivered
DUE_MAX = 200  # of one channel, in one round
OVER_MAX = 100_000  # alarms that are over, the newest
LISTED_MAX = 1000
JUDGED_MAX = 2000  # judgements of a rule that its thresholds learn from

_names = ", ".join(map(quoted, COLUMNS))
_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...])


class Lost(Exception):
    """Another clockwork leads now."""


# -- who leads -------------------------------------------------------------------------------------------------------------


class Lead:
    """The right to judge and send. Taken and kept by `hold`, and asserted in each of its transactions."""

    def __init__(self, connection: apsw.Connection, ticks: Callable[[], int] = ticks_us, mine: str = "") -> None:
        """`mine`: the same leader's on another connection."""
        self._connection, self._ticks = connection, ticks
        self._me = msgspec.json.decode(mine, type=Owner) if mine else Owner.here("watch", "")
        self.mine = mine or msgspec.json.encode(self._me).decode()

    def hold(self, now_us: int) -> bool:
        """Whether this process leads, now and for the next half minute."""
        with transaction(self._connection):
            ((owner, until),) = self._connection.execute("SELECT owner, until FROM watch").fetchall()
            if owner and owner != self.mine and not self._me.gone(msgspec.json.decode(owner, type=Owner), until, self._ticks()):
                return False
            self._connection.execute("UPDATE watch SET owner = ?, until = ?, beat = ?", (self.mine, self._ticks() + LEASE_US, now_us))
        return True

    def check(self) -> None:
        """Within a transaction: Lost when another has taken over meanwhile."""
        self._connection.execute("UPDATE watch SET until = ? WHERE owner = ?", (self._ticks() + LEASE_US, self.mine))
        if not self._connection.changes():
            raise Lost

    def leave(self) -> None:
        with transaction(self._connection):
            self._connection.execute("UPDATE watch SET owner = '', until = 0 WHERE owner = ?", (self.mine,))


class Beat(NamedTuple):
    """Of the clockwork: when it last came round, and up to when alarms were judged; 0: never."""

    beat: int
    judged: int


def beat(connection: apsw.Connection) -> Beat:
    return Beat(*connection.execute("SELECT beat, judged FROM watch").fetchall()[0])


# -- standings and notices -------------------------------------------------------------------------------------------------


def open_ones(connection: apsw.Connection) -> list[Standing]:
    """Alarms that are not over, in the order they began."""
    marks = ",".join("?" * len(OPEN))
    return [Standing(*row) for row in connection.execute(f"SELECT {_names} FROM alarms WHERE state IN ({marks}) ORDER BY n", OPEN)]


def commit(
    connection: apsw.Connection, lead: Lead, changed: Iterable[Standing], gone: Iterable[str], notices: Iterable[Notice],
    judged: int, now_us: int,
) -> None:  # fmt: skip
    """One step of the clockwork, whole or not at all. What people did meanwhile stays: an alarm that was acknowledged is not
    firing again because we had not seen it."""
    sets = ", ".join(f"{quoted(c)} = excluded.{quoted(c)}" for c in OURS if c != "state")
    with transaction(connection):
        lead.check()
        for one in changed:
            connection.execute(
                f"""INSERT INTO alarms ({_names}) VALUES ({",".join("?" * len(COLUMNS))}) ON CONFLICT (id) DO UPDATE SET {sets},
                    state = CASE WHEN state = '{ACKNOWLEDGED}' AND excluded.state = '{FIRING}' THEN state ELSE excluded.state END""",
                one,
            )
        connection.executemany("DELETE FROM alarms WHERE id = ? AND state = 'pending'", [(id,) for id in gone])
        for notice in notices:
            put(connection, notice, now_us)
        connection.execute("UPDATE watch SET judged = ?", (judged,))


def put(connection: apsw.Connection, notice: Notice, now_us: int) -> None:
    """A notice into the outbox, in the transaction that is open; one that is there already changes nothing."""
    connection.execute(
        "INSERT OR IGNORE INTO notices (id, alarm, kind, at, message) VALUES (?,?,?,?,?)",
        (notice.id, notice.alarm, notice.kind, notice.at, notice.message),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO deliveries VALUES (?, ?, 'waiting', 0, ?, 0, 0, '', '')",
        [(notice.id, channel, now_us) for channel in notice.channels],
    )


def due(connection: apsw.Connection, now_us: int, most: int = DUE_MAX) -> dict[str, list[Delivery]]:
    """What is to be sent now, by channel, oldest first, so many of each. A moment further away than any wait can be was set by a
    clock that has gone back."""
    rows = connection.execute(
        """SELECT notice, kind, channel, message, attempts, created FROM (
               SELECT *, row_number() OVER (PARTITION BY channel ORDER BY n.at, d.notice) AS place
               FROM deliveries d JOIN notices n ON n.id = d.notice
               WHERE d.state = 'waiting' AND (d.next_at <= ?1 OR d.next_at > ?2))
           WHERE place <= ?3 ORDER BY place""",
        (now_us, now_us + 2 * BACKOFF_US[-1], most),
    )
    found: dict[str, list[Delivery]] = {}
    for row in rows:
        delivery = Delivery(*row)
        found.setdefault(delivery.channel, []).append(delivery)
    return found


def told_since(connection: apsw.Connection, since_us: int, kinds: Sequence[str]) -> dict[str, int]:
    """How many messages of these kinds each channel was sent since then, delivered or not."""
    marks = ",".join("?" * len(kinds))
    return dict(connection.execute(
        f"""SELECT d.channel, count(*) FROM deliveries d JOIN notices n ON n.id = d.notice
            WHERE d.at >= ? AND d.attempts > 0 AND d.digest = '' AND n.kind IN ({marks}) GROUP BY 1""",
        (since_us, *kinds),
    ).fetchall())  # fmt: skip


class Gathered(NamedTuple):
    """Notices that one channel gets as one message. `digest`: that message, already composed."""

    digest: Notice
    deliveries: tuple[Delivery, ...]


def trying(
    connection: apsw.Connection, lead: Lead, deliveries: Sequence[Delivery], now_us: int, gathered: Sequence[Gathered] = ()
) -> None:
    """They go out now: should this process die, they come again after a wait, and not at once. What is gathered into a digest
    stays in that one, so that nothing is told under two ids."""
    with transaction(connection):
        lead.check()
        for one in gathered:
            put(connection, one.digest, now_us)
            connection.executemany(
                "UPDATE deliveries SET state = 'gathered', digest = ?, detail = ? WHERE notice = ? AND channel = ?",
                [(one.digest.id, f"in digest {one.digest.id}", d.notice, d.channel) for d in one.deliveries],
            )
        connection.executemany(
            "UPDATE deliveries SET attempts = attempts + 1, at = ?, next_at = ? WHERE notice = ? AND channel = ?",
            [(now_us, now_us + wait_us(d.attempts), d.notice, d.channel) for d in deliveries],
        )


def wait_us(attempts: int) -> int:
    return BACKOFF_US[min(attempts, len(BACKOFF_US) - 1)]


def ended(
    connection: apsw.Connection, delivery: Delivery, detail: str, now_us: int, *, delivered: bool, retry_after_us: int = 0
) -> None:
    """What came of an attempt. Not delivered for a day: given up, and listed as such."""
    state = "delivered" if delivered else "given_up" if now_us - delivery.created >= GIVE_UP_US else "waiting"
    again = now_us + max(wait_us(delivery.attempts), min(retry_after_us, BACKOFF_US[-1]))
    with transaction(connection):
        connection.execute(
            "UPDATE deliveries SET state = ?, at = ?, next_at = ?, detail = ? WHERE notice = ? AND channel = ?",
            (state, now_us, again, detail[:500], delivery.notice, delivery.channel),
        )
        if state != "waiting":
            connection.execute(
                "UPDATE deliveries SET state = ?, at = ? WHERE digest = ? AND channel = ?",
                (state, now_us, delivery.notice, delivery.channel),
            )


class Sent(NamedTuple):
    """A delivery as the record has it."""

    notice: str
    kind: str
    channel: str
    state: str
    attempts: int
    created: int
    at: int
    detail: str


def sent(connection: apsw.Connection, alarm: str = "", most: int = LISTED_MAX) -> list[Sent]:
    """Deliveries, newest notice first: of one alarm, or of all."""
    rows = connection.execute(
        """SELECT d.notice, n.kind, d.channel, d.state, d.attempts, d.created, d.at, d.detail
           FROM notices n JOIN deliveries d ON n.id = d.notice WHERE ?1 = '' OR n.alarm = ?1
           ORDER BY n.at DESC, d.notice DESC LIMIT ?2""",
        (alarm, most),
    )
    return [Sent(*row) for row in rows]


def heard(connection: apsw.Connection) -> dict[str, int]:
    """When each alarm was first delivered anywhere."""
    return dict(connection.execute(
        """SELECT n.alarm, min(d.at) FROM deliveries d JOIN notices n ON n.id = d.notice
           WHERE d.state = 'delivered' AND n.kind = 'firing' GROUP BY 1"""
    ).fetchall())  # fmt: skip


def history(connection: apsw.Connection, since_us: int = 0, until_us: int = 2**62, most: int = LISTED_MAX) -> list[Standing]:
    """Alarms that fired (also those still open) in [since, until), newest first."""
    rows = connection.execute(
        f"SELECT {_names} FROM alarms WHERE fired > 0 AND fired >= ? AND fired < ? ORDER BY fired DESC, n DESC LIMIT ?",
        (since_us, until_us, most),
    )
    return [Standing(*row) for row in rows]


def tidy(connection: apsw.Connection, lead: Lead, now_us: int, keep_us: int, most: int = OVER_MAX) -> None:
    """Forget what is old."""
    with transaction(connection):
        lead.check()
        connection.execute("DELETE FROM alarms WHERE state = 'resolved' AND resolved < ?", (now_us - keep_us,))
        connection.execute(
            """DELETE FROM alarms WHERE n IN (SELECT n FROM alarms WHERE state = 'resolved' ORDER BY resolved DESC, n DESC
               LIMIT -1 OFFSET ?)""",
            (most,),
        )
        connection.execute("DELETE FROM deliveries WHERE state <> 'waiting' AND created < ?", (now_us - TOLD_KEEP_US,))
        connection.execute("DELETE FROM notices WHERE at < ? AND id NOT IN (SELECT notice FROM deliveries)", (now_us - TOLD_KEEP_US,))
        connection.execute("DELETE FROM silences WHERE until < ?", (now_us - keep_us,))
        connection.execute("DELETE FROM links WHERE at < ?", (now_us - TOLD_KEEP_US,))


# -- people ----------------------------------------------------------------------------------------------------------------


def find(connection: apsw.Connection, id: str) -> Standing:
    """The alarm with this id, or the only one whose id begins so. LedgerFault when there is none."""
    rows = connection.execute(
        f"SELECT {_names} FROM alarms WHERE id = ?1 OR (length(?1) >= 4 AND substr(id, 1, length(?1)) = ?1)", (id,)
    )
    found = [Standing(*row) for row in rows]
    if len(found) != 1:
        raise LedgerFault("query", f"{'no' if not found else 'more than one'} alarm has the id {id!r}", "see `bursar alarms`")
    return found[0]


def acknowledge(connection: apsw.Connection, id: str, by: str, now_us: int) -> Standing:
    """Somebody has it in hand: no more reminders. One that is over, or acknowledged already, stays as it is."""
    with transaction(connection):
        one = find(connection, id)
        if one.state == FIRING:
            connection.execute(
                "UPDATE alarms SET state = ?, by = ?, acknowledged = ? WHERE id = ?", (ACKNOWLEDGED, by, now_us, one.id)
            )
        return find(connection, one.id)


def judge(connection: apsw.Connection, id: str, judged: str, by: str, now_us: int) -> Standing:
    """What the alarm was worth, useful or noise; the last word counts. LedgerFault for one that never fired."""
    with transaction(connection):
        one = find(connection, id)
        if not one.fired:
            raise LedgerFault("query", f"alarm {one.id} has not fired", "judge it when it has")
        connection.execute("UPDATE alarms SET judged = ?, judged_at = ?, judged_by = ? WHERE id = ?", (judged, now_us, by, one.id))
        return find(connection, one.id)


def judgements(connection: apsw.Connection, rule: str) -> list[Standing]:
    """Judged alarms of a rule, those that were judged last, oldest first."""
    rows = connection.execute(
        f"SELECT {_names} FROM alarms WHERE rule = ? AND judged <> '' ORDER BY judged_at DESC, n DESC LIMIT ?", (rule, JUDGED_MAX)
    )
    return [Standing(*row) for row in rows][::-1]


def silence(connection: apsw.Connection, match: Sequence[tuple[str, str]], since: int, until: int, by: str, note: str) -> Silence:
    with transaction(connection):
        connection.execute(
            "INSERT INTO silences (match, since, until, by, note) VALUES (?,?,?,?,?)",
            (msgspec.json.encode(sorted(match)).decode(), since, until, by, note),
        )
        return Silence(connection.last_insert_rowid(), tuple(sorted(match)), since, until, by, note)


def end_silence(connection: apsw.Connection, n: int, now_us: int) -> bool:
    """Whether there was one in force with that number."""
    with transaction(connection):
        connection.execute("UPDATE silences SET until = ? WHERE n = ? AND until > ?", (now_us, n, now_us))
        return bool(connection.changes())


def silences(connection: apsw.Connection, now_us: int) -> list[Silence]:
    """Those in force or still to come."""
    rows = connection.execute("SELECT n, match, since, until, by, note FROM silences WHERE until > ? ORDER BY n", (now_us,))
    return [Silence(n, _pairs.decode(match), *more) for n, match, *more in rows]


def use_link(connection: apsw.Connection, id: str, now_us: int) -> bool:
    """Whether this link acts for the first time; it does so once."""
    with transaction(connection):
        connection.execute("INSERT OR IGNORE INTO links VALUES (?, ?)", (id, now_us))
        return bool(connection.changes())
