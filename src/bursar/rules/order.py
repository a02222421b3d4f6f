"""What people have ordered, as calls meet it: stops, conversations that go on, budgets that were raised. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..domain.incident import KEEP, RAISE, RESUME, STOP, Order

MATCHED = ("tenant", "feature", "flow", "operation", "conversation", "user", "key", "model", "provider", "tool")


class Orders:
    """The orders in force, as a process knows them; `take` gives it those of a later moment. `number` then is another one."""

    def __init__(self, orders: Sequence[Order] = ()) -> None:
        self.number = 0
        self.stops: tuple[Order, ...] = ()
        self.raises: dict[str, str] = {}  # budget -> limit, as in the policy file
        self.lives: dict[str, int] = {}  # conversation -> how many times it has its limits
        self.whole: frozenset[str] = frozenset()  # flows whose histories are not shortened
        self.take(orders)

    def take(self, orders: Sequence[Order]) -> None:
        lives: dict[str, int] = {}
        for order in orders:
            if order.kind == RESUME:
                conversation = dict(order.match)["conversation"]
                lives[conversation] = lives.get(conversation, 1) + 1
        self.stops = tuple([order for order in orders if order.kind == STOP])
        self.raises = {order.budget: order.limit for order in orders if order.kind == RAISE}
        self.lives = lives
        self.whole = frozenset(value for order in orders if order.kind == KEEP for name, value in order.match if name == "flow")
        self.number += 1

    def stop(self, fact: Callable[[str], str], now_us: int) -> Order | None:
        """The order that stops a call with these facts; None when none does."""
        for order in self.stops:
            if (not order.until or now_us < order.until) and all(value in fact(name).split("\n") for name, value in order.match):
                return order
        return None
