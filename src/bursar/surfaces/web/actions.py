"""What an operator can do from a page: the command line's own orders and moves, within what his account is bounded to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

from ...stores import alarms, incidents
from ...stores.incidents import Logged
from ...stores.schema import opened
from .. import bounds, orders, wiring
from ..bounds import Bound
from .shelf import Shelf

TEXT_MAX = 300

Fields = Mapping[str, str]


class Refused(Exception):
    """The action is not this account's, or cannot be meant. The message says why."""


class Actions(Protocol):
    """One method per button. Each gives one sentence that says what was done; Refused, ValueError or LedgerFault what was not."""

    def stop(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def resume(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def raise_(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def take(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def end(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def withdraw(self, by: str, bound: Bound, fields: Fields) -> str: ...
    def acknowledge(self, by: str, bound: Bound, fields: Fields) -> str: ...


class LedgerActions:
    """Actions on the ledger's own file; gateways heed them within a second."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._place, self._clock = shelf.place, shelf.clock_us

    def stop(self, by: str, bound: Bound, fields: Fields) -> str:
        """No call with that label and value goes out any more; of a bounded account, only its own calls."""
        name, value = fields.get("name", "").strip(), fields.get("value", "").strip()
        if len(name) > TEXT_MAX or len(value) > TEXT_MAX:
            raise Refused("a label or value is too long")
        return orders.stop(self._place, bounds.narrowed([(name, value)], bound), by, self._clock(), reason=_reason(fields)).text

    def resume(self, by: str, bound: Bound, fields: Fields) -> str:
        """A conversation that was stopped has its limits once more."""
        one = self._incident(bound, fields)
        if not one.conversation:
            orders.move(self._place, one.n, "resumed", by, _reason(fields))
            return f"Incident {one.n} is closed: resumed."
        return orders.resume(self._place, (("conversation", one.conversation),), by, self._clock(), reason=_reason(fields)).text

    def raise_(self, by: str, bound: Bound, fields: Fields) -> str:
        """A budget has another limit until the order is withdrawn."""
        if bound:
            raise Refused("budgets are everybody's: an account bounded by labels cannot raise one")
        policy, _ = self._shelf.policy()
        rules = wiring.budget_rules(policy)
        names = [rule.name for rule in rules]
        return orders.raise_(self._place, names, fields.get("budget", ""), fields.get("limit", "").strip(), by, self._clock()).text

    def take(self, by: str, bound: Bound, fields: Fields) -> str:
        one = self._incident(bound, fields)
        orders.move(self._place, one.n, "taken", by)
        return f"You have taken {one.conversation or one.reason}."

    def end(self, by: str, bound: Bound, fields: Fields) -> str:
        one = self._incident(bound, fields)
        orders.move(self._place, one.n, "ended", by)
        return f"{one.conversation or one.reason} has ended."

    def withdraw(self, by: str, bound: Bound, fields: Fields) -> str:
        now = self._clock()
        with orders.writing(self._place) as connection:
            found = [one for one in incidents.in_force(connection, now) if str(one.n) == fields.get("n")]
            if not found or not bounds.within(dict(found[0].match), bound):
                raise Refused("there is no such order in force")
            incidents.withdraw(connection, [found[0].n], now)
        return f"Order {found[0].n} is withdrawn."

    def acknowledge(self, by: str, bound: Bound, fields: Fields) -> str:
        with opened(self._place.file) as connection:
            found = alarms.find(connection, fields.get("id", ""))
            if not bounds.within(json.loads(found.scope), bound):
                raise Refused("there is no such alarm")
            alarms.acknowledge(connection, found.id, by, self._clock())
        return "Acknowledged: no more reminders of it."

    def _incident(self, bound: Bound, fields: Fields) -> Logged:
        text = fields.get("n", "")
        found: list[Logged] = []
        if text.isascii() and text.isdigit():
            with orders.writing(self._place) as connection:
                found = incidents.listed(connection, where=(("n", text),), most=1)
        if not found or not bounds.within(found[0]._asdict(), bound):
            raise Refused("there is no such incident")
        return found[0]


def _reason(fields: Fields) -> str:
    return " ".join(fields.get("reason", "").split())[:TEXT_MAX]


ACTS: Mapping[str, Callable[[Actions], Callable[[str, Bound, Fields], str]]] = {
    "stop": lambda a: a.stop,
    "resume": lambda a: a.resume,
    "raise": lambda a: a.raise_,
    "take": lambda a: a.take,
    "end": lambda a: a.end,
    "withdraw": lambda a: a.withdraw,
    "acknowledge": lambda a: a.acknowledge,
}
