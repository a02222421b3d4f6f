"""What a person can order of a running system: stop, resume, raise a budget, take and end a hand-off. Gateways and wrapped clients on
the ledger act on it within a second. The command line and the pages use these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import apsw

from ..domain.incident import KEEP, RAISE, RESUME, STOP, Order
from ..rules.budget import parse_limit
from ..rules.order import MATCHED
from ..stores import incidents
from ..stores.fault import LedgerFault
from ..stores.incidents import Logged
from ..stores.schema import Place, opened, transaction

Pairs = Sequence[tuple[str, str]]


SPANS = {"m": 60, "h": 3_600, "d": 86_400}


def until(span: str, now_us: int) -> int:
    """When an order `for` so long is over; 0: when it is withdrawn. ValueError for what is no length."""
    if not span:
        return 0
    number = span[:-1]
    if span[-1:] not in SPANS or not (number.isascii() and number.isdigit() and len(number) < 7):
        raise ValueError(f"{span[:40]!r} is no length; write 30m, 2h or 7d")
    return now_us + int(number) * SPANS[span[-1]] * 1_000_000


class Done(NamedTuple):
    """What was done, in a sentence, and the orders' numbers."""

    text: str
    orders: tuple[int, ...] = ()


@contextmanager
def writing(place: Place) -> Iterator[apsw.Connection]:
    """One transaction on the ledger's file. LedgerFault when it cannot be had."""
    if not place.file.exists():
        raise LedgerFault("cannot_open", f"there is no ledger at {place.file}", "name the one that the gateway writes: --ledger PATH")
    with opened(place.file) as connection, transaction(connection):
        yield connection


def checked(match: Pairs) -> tuple[tuple[str, str], ...]:
    """ValueError where a call can never be matched by that."""
    for name, value in match:
        if not name or not value:
            raise ValueError("a stop needs a label and a value, such as tenant=acme")
        if name in ("purpose", "cause", "status", "turn"):
            raise ValueError(f"{name} is known only after a call; stop by {', '.join(MATCHED)} or a free label")
    if not match:
        raise ValueError("a stop needs something to match: a conversation, or --where tenant=acme")
    return tuple(sorted(match))


def stop(place: Place, match: Pairs, by: str, now_us: int, *, reason: str = "", until_us: int = 0) -> Done:
    """No call that fits goes out any more, and running streams end. ValueError says what cannot be matched."""
    match = checked(match)
    with writing(place) as connection:
        n = incidents.give(connection, Order(0, now_us, by, STOP, match, reason=reason, until=until_us))
    return Done(f"Stopped: {said(match)}. Running streams end, new calls are refused, within a second.", (n,))


def resume(place: Place, match: Pairs, by: str, now_us: int, *, reason: str = "") -> Done:
    """Stops of exactly this are withdrawn, and the order to send a flow's histories whole; a conversation has its limits once more."""
    match = checked(match)
    with writing(place) as connection:
        mine = [order for order in incidents.in_force(connection, now_us) if set(order.match) == set(match)]
        kept = [order.n for order in mine if order.kind == KEEP]
        stops = [order.n for order in mine if order.kind == STOP]
        incidents.withdraw(connection, kept, now_us)
        incidents.withdraw(connection, stops, now_us)
        names = dict(match)
        what: list[str] = []
        if stops:
            what.append(f"{len(stops)} stop{'s' if len(stops) > 1 else ''} withdrawn")
        if kept:
            what.append("its histories may be shortened again")
        if set(names) == {"conversation"}:
            open_ = incidents.listed(connection, states=("open", "taken"), where=[("conversation", names["conversation"])])
            for one in open_:
                incidents.move(connection, one.n, "resumed", by, reason)
            if open_ or not stops:
                incidents.give(connection, Order(0, now_us, by, RESUME, match, reason=reason))
                what.append("the conversation has its limits once more")
        elif not stops and not kept:
            raise ValueError(f"nothing stops {said(match)}; see what is in force: bursar guard")
    return Done(f"Resumed: {said(match)}: {', '.join(what)}.", tuple(stops + kept))


def raise_(place: Place, rules: Sequence[str], budget: str, limit: str, by: str, now_us: int, until_us: int = 0) -> Done:
    """A budget has another limit, until the order is over or another is given; an empty limit takes the order back."""
    if budget not in rules:
        raise ValueError(f"no budget is called {budget!r}; there are: {', '.join(rules) or 'none'}")
    with writing(place) as connection:
        if not limit:
            old = [order.n for order in incidents.in_force(connection, now_us) if order.kind == RAISE and order.budget == budget]
            incidents.withdraw(connection, old, now_us)
            return Done(f"Budget {budget!r} has the limit of the policy file again.", tuple(old))
        parse_limit(limit)
        n = incidents.give(connection, Order(0, now_us, by, RAISE, (), budget, limit, "", until_us))
    return Done(f"Budget {budget!r} has the limit {limit} now. What was spent stays spent.", (n,))


def move(place: Place, number: int, state: str, by: str, note: str = "") -> Logged:
    """A hand-off taken or ended. LedgerFault when there is none with that number."""
    with writing(place) as connection:
        return incidents.move(connection, number, state, by, note)


def said(match: Pairs) -> str:
    return ", ".join(f"{name}={value}" for name, value in match)
