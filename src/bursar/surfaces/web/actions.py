"""What an operator can do from a page: the same orders and moves that the command line gives, within what his account is bounded to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import apsw

from ...domain.incident import RAISE, RESUME, STOP, Order
from ...rules.budget import parse_limit
from ...stores import incidents
from ...stores.fault import OF_DISK, from_error
from ...stores.incidents import Logged
from ...stores.query import LABEL, Filter
from ...stores.schema import Place, connect

TEXT_MAX = 300


class Refused(Exception):
    """The action is not this account's, or cannot be meant. The message says why."""


class Actions(Protocol):
    """One method per button. Each gives one sentence that says what was done; Refused or LedgerFault what was not."""

    def stop(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def resume(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def raise_(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def take(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def end(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def withdraw(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...
    def acknowledge(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str: ...


class LedgerActions:
    """Actions on the ledger's own file; gateways act on them within a second."""

    def __init__(self, place: Place, clock_us: Callable[[], int]) -> None:
        self._place, self._clock = place, clock_us

    @contextmanager
    def _write(self) -> Iterator[apsw.Connection]:
        if not self._place.file.exists():
            raise Refused("there is no ledger yet")
        connection = connect(self._place, busy_ms=5_000)
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except OF_DISK as error:
            raise from_error(error, self._place.file) from error
        finally:
            connection.close(True)

    def stop(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        """No call with that label and value goes out any more."""
        name, value = fields.get("name", "").strip(), fields.get("value", "").strip()
        if not name or not value or len(name) > TEXT_MAX or len(value) > TEXT_MAX:
            raise Refused("a stop needs a label and a value, such as tenant and acme")
        match = tuple(sorted({(name, value), *[(f.name.removeprefix(LABEL), str(f.values[0])) for f in bound]}))
        if len({label for label, _ in match}) < len(match):
            raise Refused(f"{name}={value} is not within what this account is bounded to")
        with self._write() as connection:
            n = incidents.give(connection, Order(0, self._clock(), by, STOP, match, reason=_reason(fields)))
        return f"Stopped: {', '.join(f'{a}={b}' for a, b in match)} (order {n}). Running streams end, new calls are refused."

    def resume(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        """A conversation that was stopped has its limits once more."""
        with self._write() as connection:
            one = self._incident(connection, bound, fields)
            incidents.move(connection, one.n, "resumed", by, _reason(fields))
            if one.conversation:
                incidents.give(
                    connection, Order(0, self._clock(), by, RESUME, (("conversation", one.conversation),), reason=_reason(fields))
                )
        return f"{one.conversation or 'It'} goes on, with its limits once more."

    def raise_(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        """A budget has another limit until the order is withdrawn."""
        if bound:
            raise Refused("budgets are everybody's: an account bounded by labels cannot raise one")
        budget, limit = fields.get("budget", ""), fields.get("limit", "").strip()
        try:
            parse_limit(limit)
        except ValueError as bad:
            raise Refused(str(bad)) from None
        with self._write() as connection:
            incidents.give(connection, Order(0, self._clock(), by, RAISE, (), budget, limit, _reason(fields)))
        return f"{budget} has {limit} now."

    def take(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        with self._write() as connection:
            one = self._incident(connection, bound, fields)
            incidents.move(connection, one.n, "taken", by)
        return f"You have taken {one.conversation or one.reason}."

    def end(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        with self._write() as connection:
            one = self._incident(connection, bound, fields)
            incidents.move(connection, one.n, "ended", by)
        return f"{one.conversation or 'It'} has ended."

    def withdraw(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        with self._write() as connection:
            now = self._clock()
            found = [one for one in incidents.in_force(connection, now) if str(one.n) == fields.get("n")]
            if not found or not _within(dict(found[0].match), bound):
                raise Refused("there is no such order in force")
            incidents.withdraw(connection, [found[0].n], now)
        return f"Order {found[0].n} is withdrawn."

    def acknowledge(self, by: str, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> str:
        id = fields.get("id", "")
        with self._write() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alarms'").fetchall():
                raise Refused("this ledger has no alarms yet")
            rows = connection.execute("SELECT scope, state FROM alarms WHERE id = ?", (id,)).fetchall()
            if not rows or not _within(json.loads(rows[0][0]), bound):
                raise Refused("there is no such alarm")
            if rows[0][1] == "firing":
                connection.execute(
                    "UPDATE alarms SET state = 'acknowledged', by = ?, acknowledged = ? WHERE id = ?", (by, self._clock(), id)
                )
        return "Acknowledged: no more reminders of it."

    def _incident(self, connection: apsw.Connection, bound: tuple[Filter, ...], fields: Mapping[str, str]) -> Logged:
        text = fields.get("n", "")
        found = incidents.listed(connection, where=(("n", text),), most=1) if text.isascii() and text.isdigit() else []
        if not found or not _within(found[0]._asdict(), bound):
            raise Refused("there is no such incident")
        return found[0]


def _within(labels: Mapping[str, object], bound: tuple[Filter, ...]) -> bool:
    return all(str(labels.get(f.name.removeprefix(LABEL), "")) in f.values for f in bound)


def _reason(fields: Mapping[str, str]) -> str:
    return " ".join(fields.get("reason", "").split())[:TEXT_MAX]


ACTS: Mapping[str, Callable[[Actions], Callable[[str, tuple[Filter, ...], Mapping[str, str]], str]]] = {
    "stop": lambda a: a.stop,
    "resume": lambda a: a.resume,
    "raise": lambda a: a.raise_,
    "take": lambda a: a.take,
    "end": lambda a: a.end,
    "withdraw": lambda a: a.withdraw,
    "acknowledge": lambda a: a.acknowledge,
}
