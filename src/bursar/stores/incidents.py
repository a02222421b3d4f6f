"""Incidents and orders in the ledger's file: written with the rows they belong to, read by every process within a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import apsw
import msgspec

from ..domain.incident import KEEP, RAISE, RESUME, STOP, Incident, Order
from .fault import LedgerFault

COLUMNS = (
    "n", "key", "ts", "last_ts", "calls", "act", "code", "reason", "budget", "tenant", "feature", "flow", "user", "conversation",
    "call", "model", "spent", "limit", "unit", "kept", "evidence", "state", "by", "note",
)  # fmt: skip
ROWS_MAX = 200_000  # incidents that are kept one by one
LOT = 5_000  # that are summed up in one transaction
DAY_US = 86_400_000_000
PICO = 10**12  # of a dollar
_NAMES = ", ".join(f'"{c}"' for c in COLUMNS)
_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...])
_messages = msgspec.json.Decoder(list[dict[str, str]])


class Logged(NamedTuple):
    """An incident as it stands in the ledger: `calls` it acted on, first and last time, and what a person did with it."""

    n: int
    key: str
    ts: int
    last_ts: int
    calls: int
    act: str
    code: str
    reason: str
    budget: str
    tenant: str
    feature: str
    flow: str
    user: str
    conversation: str
    call: str
    model: str
    spent: int
    limit: int
    unit: str
    kept: int
    evidence: str
    state: str
    by: str
    note: str


def write(connection: apsw.Connection, incidents: Iterable[Incident]) -> None:
    """In the transaction that is open. An incident that goes on counts up; one that a person closed opens again, because it
    happens again."""
    for i in incidents:
        connection.execute(
            """INSERT INTO incidents (key, ts, last_ts, calls, act, code, reason, budget, tenant, feature, flow, user, conversation,
                                      call, model, spent, "limit", unit, kept, evidence, state, by, note, told)
               VALUES (?1, ?2, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, '', '', 0)
               ON CONFLICT (key) DO UPDATE SET
                   last_ts = max(last_ts, ?2), calls = calls + 1, act = ?3, reason = ?5, call = ?12, spent = ?14, "limit" = ?15,
                   kept = kept + ?17, evidence = ?18,
                   state = CASE WHEN ?19 <> '' AND state IN ('', 'resumed', 'ended') THEN ?19 ELSE state END,
                   told = CASE WHEN ?19 <> '' AND state IN ('', 'resumed', 'ended') THEN 0 ELSE told END""",
            (
                i.key, i.ts, i.act, i.code, i.reason, i.budget, i.tenant, i.feature, i.flow, i.user, i.conversation, i.call, i.model,
                i.spent, i.limit, i.unit, i.kept, i.evidence, i.state,
            ),
        )  # fmt: skip
        if i.said:
            connection.execute("INSERT OR REPLACE INTO said (key, until, messages) VALUES (?, ?, ?)", (i.key, i.said_until, i.said))
            forget(connection, i.ts)


def forget(connection: apsw.Connection, now_us: int) -> None:
    """Drop the words whose time is over."""
    connection.execute("DELETE FROM said WHERE until <= ?", (now_us,))


def said(connection: apsw.Connection, one: Logged, now_us: int) -> list[dict[str, str]]:
    """The last messages before the stop, oldest first, where they are kept and still may be read: role and text."""
    found = connection.execute("SELECT messages FROM said WHERE key = ? AND until > ?", (one.key, now_us)).get
    return _messages.decode(found) if found else []


class Day(NamedTuple):
    """What incidents of one kind came to on one day (since the epoch), by the day of their last call."""

    day: int
    act: str
    code: str
    budget: str
    incidents: int
    calls: int
    kept: int


def sum_up(connection: apsw.Connection, before_us: int, most: int = ROWS_MAX, lot: int = LOT) -> int:
    """In the transaction that is open: incidents that ask for nobody and had their last call before then, and the oldest beyond
    `most`, become sums, so that what they kept is still told. How many; fewer than a lot: those were all."""
    beyond = int(connection.execute("SELECT count(*) FROM incidents").get) - most
    rows = connection.execute(
        """SELECT n, last_ts, act, code, budget, calls, kept FROM incidents WHERE state NOT IN ('open', 'taken')
           ORDER BY last_ts, n LIMIT ?""",
        (lot,),
    ).fetchall()
    gone = [row for place, row in enumerate(rows) if row[1] < before_us or place < beyond]
    days: dict[tuple[int, str, str, str], tuple[int, int, int]] = {}
    for _, last, act, code, budget, calls, kept in gone:
        key = (last // DAY_US, act, code, budget)
        had = days.get(key, (0, 0, 0))
        days[key] = (had[0] + 1, had[1] + calls, had[2] + kept)
    for key, (number, calls, kept) in days.items():
        known = connection.execute(
            "SELECT incidents, calls, kept FROM incident_days WHERE day = ? AND act = ? AND code = ? AND budget = ?", key
        ).fetchall()
        was = known[0] if known else (0, 0, "0")
        connection.execute(
            "INSERT OR REPLACE INTO incident_days VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, was[0] + number, was[1] + calls, str(int(was[2]) + kept)),
        )
    connection.executemany("DELETE FROM incidents WHERE n = ?", [(row[0],) for row in gone])
    return len(gone)


def summed(connection: apsw.Connection, since_us: int = 0, until_us: int = 2**62) -> list[Day]:
    """The days that begin in [since, until), oldest first."""
    rows = connection.execute(
        """SELECT day, act, code, budget, incidents, calls, kept FROM incident_days WHERE day >= ? AND day < ?
           ORDER BY day, act, code, budget""",
        (-(-since_us // DAY_US), -(-until_us // DAY_US)),
    )
    return [Day(*row[:-1], int(row[-1])) for row in rows]


class Total(NamedTuple):
    """What all incidents of some kind came to. `blind`: older ones, of which only a day's sum is left, could not be told by what was
    asked for, and are not in it."""

    incidents: int
    calls: int
    kept: int
    blind: bool


def total(
    connection: apsw.Connection, acts: Sequence[str] = (), *, since_us: int = 0, until_us: int = 2**62,
    where: Sequence[tuple[str, Sequence[str], bool]] = (),
) -> Total:  # fmt: skip
    """Of all that were seen in [since, until), however many. `where`: column, values, and whether it must be none of them. A column
    without a name holds nothing ('') in every incident, and one that incidents do not have is like no value."""
    conditions, given = ["last_ts >= ?", "ts < ?"], [since_us, until_us]
    words: list[str] = []
    for name, values, negate in (*([("act", acts, False)] if acts else ()), *where):
        column = f'"{name}"' if name in COLUMNS else "x''" if name else "''"
        conditions.append(f"{column} {'NOT ' * negate}IN ({','.join('?' * len(values))})")
        words += values
    # Dollars in two parts: their sum may pass 64 bits.
    row = connection.execute(
        f"""SELECT count(*), coalesce(sum(calls), 0), coalesce(sum(kept / {PICO}), 0), coalesce(sum(kept % {PICO}), 0)
            FROM incidents WHERE {" AND ".join(conditions)}""",
        (*given, *words),
    ).fetchall()[0]
    number, calls, kept = int(row[0]), int(row[1]), int(row[2]) * PICO + int(row[3])
    older = [day for day in summed(connection, since_us, until_us) if not acts or day.act in acts]
    if where:
        return Total(number, calls, kept, bool(older))
    for day in older:
        number, calls, kept = number + day.incidents, calls + day.calls, kept + day.kept
    return Total(number, calls, kept, False)


def listed(
    connection: apsw.Connection, *, since_us: int = 0, states: Sequence[str] = (), where: Sequence[tuple[str, str]] = (),
    most: int = 100,
) -> list[Logged]:
    """Incidents whose last call was since then, newest first. `where`: column and value; LedgerFault for a column that is none."""
    unknown = [name for name, _ in where if name not in COLUMNS]
    if unknown:
        raise LedgerFault("query", f"incidents have no {unknown[0]!r}", f"they have {', '.join(COLUMNS)}")
    condition = "".join(f' AND "{name}" = ?' for name, _ in where)
    if states:
        condition += f" AND state IN ({','.join('?' * len(states))})"
    rows = connection.execute(
        f"SELECT {_NAMES} FROM incidents WHERE last_ts >= ?{condition} ORDER BY last_ts DESC, n DESC LIMIT ?",
        (since_us, *[value for _, value in where], *states, most),
    )
    return [Logged(*row) for row in rows]


def untold(connection: apsw.Connection, most: int = 100) -> list[Logged]:
    """Incidents that ask for a person and that nobody was told of yet, oldest first."""
    rows = connection.execute(f"SELECT {_NAMES} FROM incidents WHERE told = 0 AND state = 'open' ORDER BY n LIMIT ?", (most,))
    return [Logged(*row) for row in rows]


def told(connection: apsw.Connection, n: int, at_us: int) -> None:
    connection.execute("UPDATE incidents SET told = ? WHERE n = ?", (at_us, n))


def move(connection: apsw.Connection, n: int, state: str, by: str, note: str = "") -> Logged:
    """An incident taken, resumed or ended by a person. LedgerFault when there is none with that number."""
    connection.execute("UPDATE incidents SET state = ?, by = ?, note = ? WHERE n = ?", (state, by, note, n))
    found = [Logged(*row) for row in connection.execute(f"SELECT {_NAMES} FROM incidents WHERE n = ?", (n,))]
    if not found:
        raise LedgerFault("query", f"there is no incident {n}", "see `bursar guard incidents`")
    return found[0]


# -- orders ----------------------------------------------------------------------------------------------------------------


def give(connection: apsw.Connection, order: Order) -> int:
    """The number it is known by. A raise takes the place of the budget's last one; a stop that is in force already stays one."""
    match = msgspec.json.encode(sorted(order.match)).decode()
    if order.kind == RAISE:
        connection.execute(
            "UPDATE orders SET withdrawn = ? WHERE kind = ? AND budget = ? AND withdrawn = 0", (order.at, RAISE, order.budget)
        )
    if order.kind in (STOP, KEEP):
        known = connection.execute("SELECT n FROM orders WHERE kind = ? AND match = ? AND withdrawn = 0", (order.kind, match)).get
        if known is not None:
            return int(known)
    connection.execute(
        'INSERT INTO orders (at, by, kind, match, budget, "limit", reason, until, withdrawn) VALUES (?,?,?,?,?,?,?,?,0)',
        (order.at, order.by, order.kind, match, order.budget, order.limit, order.reason, order.until),
    )
    return connection.last_insert_rowid()


def withdraw(connection: apsw.Connection, numbers: Sequence[int], at_us: int) -> None:
    connection.executemany("UPDATE orders SET withdrawn = ? WHERE n = ? AND withdrawn = 0", [(at_us, n) for n in numbers])


def in_force(connection: apsw.Connection, now_us: int) -> list[Order]:
    """Oldest first."""
    rows = connection.execute(
        '''SELECT n, at, by, kind, match, budget, "limit", reason, until FROM orders
           WHERE withdrawn = 0 AND (until = 0 OR until > ?) ORDER BY n''',
        (now_us,),
    )
    return [Order(n, at, by, kind, _pairs.decode(match), *more) for n, at, by, kind, match, *more in rows]


def lifted(connection: apsw.Connection, kind: str) -> dict[tuple[tuple[str, str], ...], int]:
    """What orders of a kind matched -> when the last of them was withdrawn."""
    rows = connection.execute("SELECT match, max(withdrawn) FROM orders WHERE kind = ? AND withdrawn > 0 GROUP BY match", (kind,))
    return {_pairs.decode(match): at for match, at in rows}


def version(connection: apsw.Connection, now_us: int) -> tuple[int, int, int]:
    """Another value when orders were given, withdrawn, or are over."""
    question = "SELECT coalesce(max(n), 0), coalesce(max(withdrawn), 0), count(*) FILTER (WHERE until > 0 AND until <= ?) FROM orders"
    ((last, withdrawn, over),) = connection.execute(question, (now_us,)).fetchall()
    return last, withdrawn, over


__all__ = [
    "COLUMNS", "LOT", "RESUME", "Day", "Logged", "forget", "give", "in_force", "lifted", "listed", "move", "said", "sum_up", "summed",
    "told", "untold", "version", "withdraw", "write",
]  # fmt: skip
