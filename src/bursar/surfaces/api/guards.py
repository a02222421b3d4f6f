"""What the own API answers about guards (budgets, incidents, hand-offs), and the orders it takes: those of `bursar guard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...domain.money import plain
from ...rules.budget import BudgetRule
from ...stores import incidents
from ...stores.incidents import COLUMNS, Logged
from ...stores.query import LABEL
from .. import bounds, cli_guard, orders, wiring
from ..periods import iso
from ..reached import reached
from ..web.actions import Refused
from .asked import TIMES, Asked, Turned, bad, missing, refuse
from .reads import Answer

LISTED_MAX = 1_000
STATES = ("open", "taken", "resumed", "ended")
REASON = {"reason": "is shown with the order and the refusal"}
FOR = {"for": "only so long: 30m, 2h, 7d"}
MATCH = {"where": 'labels that calls must have: {"feature": "x"}', "conversation": "an id"}


def budgets(asked: Asked) -> Answer:
    """Budgets with their standing, what is held at this moment, and the orders in force: as `bursar guard --json`."""
    policy, _ = asked.shelf.policy()
    bound, now = asked.caller.bound, asked.now_us
    rules = {rule.name: rule for rule in wiring.budget_rules(policy) if bounds.of_budget(rule, bound)}
    with asked.shelf.open() as reader:
        standing = [
            one for one in cli_guard.standings(reader.sqlite)
            if one.budget in rules and bounds.of_standing(rules[one.budget], one.counter, bound)
        ]  # fmt: skip
        given = incidents.in_force(reader.sqlite, now)
        held = [(hold, alive) for hold, alive in reader.holds() if bounds.mine(bound, hold.entry)]
        day = [] if bound else reached(reader, list(rules.values()), now)
    raised = {one.budget: one.limit for one in given if one.kind == "raise"}
    return {
        "rows": cli_guard.budget_rows(list(rules.values()), standing, raised, now),
        "holds": [
            {"ts": iso(hold.ts), "call": hold.entry.call, "tenant": hold.entry.tenant, "feature": hold.entry.feature,
             "model": hold.entry.model_requested, "held": plain(hold.amount), "alive": alive} for hold, alive in held
        ],
        "orders": [cli_guard.ordered(one) for one in given if bounds.within(dict(one.match), bound)],
        **({} if bound else {"last_day": [{**one._asdict(), "cost": plain(one.cost)} for one in day]}),
    }  # fmt: skip


RAISE = {"limit": 'the new limit, "$80" or "3M tokens"; empty: the policy\'s own again', **FOR}


def raise_(asked: Asked) -> Answer:
    """Gives a budget another limit until the order is over, or another is given."""
    if asked.caller.bound:
        raise Turned(refuse("not_allowed", "budgets are everybody's, and this key is bounded by labels", "ask an operator who is not"))
    rules: Sequence[BudgetRule] = wiring.budget_rules(asked.shelf.policy()[0])
    names = [rule.name for rule in rules]
    if asked.path["name"] not in names:
        raise missing(f"budget {asked.path['name'][:200]!r}")
    if "limit" not in asked.given:
        raise bad("no limit", 'write "limit": "$80", or "" for the policy\'s own')
    until = orders.until(asked.text("for"), asked.now_us)
    by, limit = asked.caller.name, asked.text("limit").strip()
    return _done(orders.raise_(asked.shelf.place, names, asked.path["name"], limit, by, asked.now_us, until))


INCIDENTS = {"state": f"one of {', '.join(STATES)}; without it, all", "limit": f"at most so many: 100, up to {LISTED_MAX:,}",
             "since": TIMES["since"], "where": "column=value of an incident; repeat to narrow"}  # fmt: skip


def listed(asked: Asked) -> Answer:
    """What guards did, newest first: the rows of `bursar guard incidents --json`."""
    state = asked.text("state")
    if state and state not in STATES:
        raise bad(f"state={state!r}", f"one of {', '.join(STATES)}")
    since = (asked.period().since if asked.text("since") else 0) or 0
    answer = _incidents(asked, (state,) if state else (), asked.pairs(), since)
    days: Sequence[incidents.Day] = []
    if not (state or asked.pairs() or asked.caller.bound):
        with asked.shelf.open() as reader:
            days = incidents.summed(reader.sqlite, since)
    return {**answer, "summed": cli_guard.day_records(days)}


HANDOFFS = {"limit": f"at most so many: 100, up to {LISTED_MAX:,}"}


def handoffs(asked: Asked) -> Answer:
    """What waits for a person, and who has taken it; with its last messages, where they are kept."""
    return _incidents(asked, ("open", "taken"), (), 0, messages=True)


def _incidents(
    asked: Asked, states: Sequence[str], where: Sequence[tuple[str, str]], since_us: int, *, messages: bool = False
) -> Answer:
    bound = [(f.name.removeprefix(LABEL), str(f.values[0])) for f in asked.caller.bound]
    if any(name not in COLUMNS for name, _ in bound):
        return {"rows": []}  # of such labels an incident says nothing
    most = asked.number("limit", 100, 1, LISTED_MAX)
    with asked.shelf.open() as reader:
        found = incidents.listed(reader.sqlite, since_us=since_us, states=states, where=[*where, *bound], most=most)
        said = {one.n: incidents.said(reader.sqlite, one, asked.now_us) for one in found} if messages else {}
    return {"rows": [{**cli_guard.incident_record(one), **({"messages": said[one.n]} if said.get(one.n) else {})} for one in found]}


def take(asked: Asked) -> Answer:
    """Takes a hand-off: others see that somebody is on it."""
    return _moved(asked, "taken")


def end(asked: Asked) -> Answer:
    """Ends a hand-off. The conversation stays stopped."""
    return _moved(asked, "ended")


def go_on(asked: Asked) -> Answer:
    """Lets a stopped conversation go on with its limits once more."""
    one = _one(asked)
    if not one.conversation:
        return _moved(asked, "resumed")
    return _order(orders.resume, asked, (("conversation", one.conversation),))


def _moved(asked: Asked, state: str) -> Answer:
    moved = orders.move(asked.shelf.place, _one(asked).n, state, asked.caller.name, asked.text("reason"))
    return {"rows": [cli_guard.incident_record(moved)]}


def _one(asked: Asked) -> Logged:
    with asked.shelf.open() as reader:
        found = incidents.listed(reader.sqlite, where=(("n", str(int(asked.path["n"]))),), most=1)
    if not found or not bounds.within(found[0]._asdict(), asked.caller.bound):
        raise missing(f"incident {asked.path['n']}")
    return found[0]


def stop(asked: Asked) -> Answer:
    """No call that fits goes out any more, and running streams end; of a bounded key, only its own calls."""
    until = orders.until(asked.text("for"), asked.now_us)
    made = orders.stop(
        asked.shelf.place, asked.match(), asked.caller.name, asked.now_us, reason=asked.text("reason"), until_us=until
    )  # fmt: skip
    return _done(made)


def resume(asked: Asked) -> Answer:
    """Withdraws stops of exactly this; a conversation has its limits once more."""
    return _order(orders.resume, asked, asked.match())


def _order(give: Callable[..., orders.Done], asked: Asked, match: orders.Pairs) -> Answer:
    try:
        return _done(give(asked.shelf.place, match, asked.caller.name, asked.now_us, reason=asked.text("reason")))
    except ValueError as none:
        raise Refused(str(none)) from None


def _done(done: orders.Done) -> Answer:
    return {"rows": [], "done": done.text, "orders": list(done.orders)}
