"""What every counter must say, from rows and holds alone, by SQLite: cheap enough for each minute beside a running gateway."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from .schema import IN_TAIL, read_hold

# What the tail's rows up to a number took from each counter. Those in segments are added up in `charged` as they go there.
TAKEN = f"""
    SELECT json_extract(j.value, '$[0]') AS counter, sum(json_extract(j.value, '$[2]'))
    FROM tail, json_each(tail.charges) j WHERE {IN_TAIL} AND seq <= coalesce(?, seq) AND tail.charges <> '[]' GROUP BY 1"""


CONVERSATION_US = 30 * 24 * 3_600_000_000  # after its beginning, a conversation that is not in the tail is over


class Drift(NamedTuple):
    """A counter that is not what the rows and open holds say, in the counter's grain."""

    counter: str
    spent: int
    held: int
    spent_by_rows: int
    held_by_holds: int


def drift(connection: apsw.Connection) -> list[Drift]:
    """Counters that differ from what rows and holds say, within the transaction that is open (or one of its own)."""
    outside = not connection.in_transaction
    if outside:
        connection.execute("BEGIN")
    try:
        spent: dict[str, int] = dict(connection.execute("SELECT counter, spent FROM charged").fetchall())
        for counter, taken in connection.execute(TAKEN, (None,)):
            spent[counter] = spent.get(counter, 0) + taken
        held: dict[str, int] = {}
        for (text,) in connection.execute("SELECT hold FROM holds"):
            for c in read_hold(text).charges:
                held[c.counter] = held.get(c.counter, 0) + c.amount
        stored = {name: (s, h) for name, s, h in connection.execute("SELECT counter, spent, held FROM counters")}
    finally:
        if outside:
            connection.execute("ROLLBACK")
    found: list[Drift] = []
    for name in sorted(stored.keys() | held.keys() | spent.keys()):
        should = spent.get(name, 0), held.get(name, 0)
        s, h = stored.get(name, (0, 0))
        if (s, h) != should:
            found.append(Drift(name, s, h, *should))
    return found


def repair(connection: apsw.Connection, found: list[Drift]) -> None:
    """Set these counters right, in the transaction that is open: by the difference, so that what was booked meanwhile stays."""
    for d in found:
        connection.execute(
            """INSERT INTO counters (n, counter, budget, unit, spent, held, resets)
               VALUES ((SELECT coalesce(max(n), 0) + 1 FROM counters), ?1, ?2, '', ?3, ?4, 0)
               ON CONFLICT (counter) DO UPDATE SET spent = spent + ?3, held = held + ?4""",
            (d.counter, d.counter.partition("@")[0].partition("|")[0], d.spent_by_rows - d.spent, d.held_by_holds - d.held),
        )


def forget(connection: apsw.Connection, before_us: int) -> None:
    """Drop the counters whose window ended before this moment, or whose conversation began long before it, and that no row of the
    tail and no hold has, in the transaction that is open. What their rows in segments took is forgotten with them."""
    over = connection.execute(
        "SELECT counter FROM counters WHERE held = 0 AND (0 < resets AND resets < ?1 OR resets < 0 AND -resets < ?1 - ?2)",
        (before_us, CONVERSATION_US),
    )
    old = {name for (name,) in over}
    if old:
        old -= {name for name, _ in connection.execute(TAKEN, (None,))}
        connection.executemany("DELETE FROM counters WHERE counter = ?", [(name,) for name in old])
        connection.executemany("DELETE FROM charged WHERE counter = ?", [(name,) for name in old])


__all__ = ["TAKEN", "Drift", "drift", "forget", "repair"]
