"""Which budgets a call must be held against, and what is said when one is short. No clock, no store: both arrive as values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from operator import itemgetter

from ..domain.entry import Charge, Short
from ..domain.labels import PLACES
from ..domain.money import nano_up, show, usd
from ..domain.policy import SCALE, SCOPES, UNITS, Budget, Fallback, Ladder
from ..domain.shape import Shape, replace
from ..domain.usage import Tokens
from ..domain.verdict import Refusal, refuse

FOREVER_US = 2**62


class Limit(Shape, frozen=True, gc=False):
    """A limit in the counter's own grain: nano-dollars, tokens, calls or tool calls."""

    unit: str
    amount: int


def parse_limit(text: str) -> Limit:
    """`"$50"`, `"2M tokens"`, `"500 calls"`, `"15 tool_calls"`. ValueError says what was expected."""
    text = text.strip()
    if text.startswith("$"):
        return Limit("usd", usd(text) // 1000)
    found = re.fullmatch(r"([0-9][0-9_,.]*)\s*([kKMB]?)\s*(\w+)", text)
    if not found or found[3] not in UNITS:
        raise ValueError(f'{text!r} is not a limit: write "$50", "2M tokens", "500 calls" or "15 tool_calls"')
    try:
        amount = Decimal(found[1].replace("_", "").replace(",", "")) * SCALE[found[2]]
    except InvalidOperation:
        raise ValueError(f"{text!r}: {found[1]!r} is not a number") from None
    if amount != int(amount):
        raise ValueError(f"{text!r} is not a whole number of {found[3]}")
    return Limit(UNITS[found[3]], int(amount))


class Window:
    """Start and end of the window a moment falls in. Calendar windows are local midnights in a zone, half-open; a midnight
    that does not exist starts at the first instant after the gap, one that comes twice at its first."""

    def __init__(self, text: str, zone: tzinfo) -> None:
        self.text, self.zone = text, zone
        rolling = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
        if rolling:
            self.length_us = int(rolling[1]) * (3_600_000_000 if rolling[2] == "h" else 86_400_000_000)
        elif text in ("day", "week", "month", "conversation", "forever"):
            self.length_us = 0
        else:
            raise ValueError(f"{text!r} is not a window: day, week, month, 6h, 30d, conversation or forever")
        self._now = (1, 0)  # memo of the current bounds: nearly every call falls into the same window as the last

    def bounds(self, ts_us: int) -> tuple[int, int]:
        """Microseconds [start, end) around `ts_us`; fixed-length windows are aligned to the epoch."""
        if self._now[0] <= ts_us < self._now[1]:
            return self._now
        if self.text in ("conversation", "forever"):
            bounds = (0, FOREVER_US)
        elif self.length_us:
            start = ts_us // self.length_us * self.length_us
            bounds = (start, start + self.length_us)
        else:
            bounds = self._calendar(ts_us)
        self._now = bounds
        return bounds

    def _calendar(self, ts_us: int) -> tuple[int, int]:
        local = datetime.fromtimestamp(ts_us // 1_000_000, self.zone).replace(
            hour=0, minute=0, second=0, microsecond=0, tzinfo=None
        )
        if self.text == "week":
            local -= timedelta(days=local.weekday())
        elif self.text == "month":
            local = local.replace(day=1)

        def following(day: datetime) -> datetime:
            if self.text == "month":
                return (day + timedelta(days=32)).replace(day=1)
            return day + timedelta(days=7 if self.text == "week" else 1)

        start, end = self._midnight(local), self._midnight(following(local))
        if ts_us >= end:  # a fold: the wall clock repeated the evening before
            start, end = end, self._midnight(following(following(local)))
        return start, end

    def _midnight(self, day: datetime) -> int:
        at = day.replace(tzinfo=self.zone, fold=0)
        back = at.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None)
        seconds = int(at.timestamp())
        if back != day:  # a gap: fold=0 reads it with the offset before, which lands after the gap's end by its length
            before = day - timedelta(hours=3)
            low, high = int(before.replace(tzinfo=self.zone).timestamp()), seconds
            while low + 1 < high:
                middle = (low + high) // 2
                if datetime.fromtimestamp(middle, self.zone).replace(tzinfo=None) >= day:
                    high = middle
                else:
                    low = middle
            seconds = high
        return seconds * 1_000_000


WARN, CHEAPER, COMPACT, WIND_DOWN = "warn", "cheaper", "compact", "wind_down"
RUNGS = (WARN, CHEAPER, COMPACT, WIND_DOWN)  # in their order


class BudgetRule(Shape, frozen=True, gc=False):
    """A budget made ready: labels it wants (value, or None for each-of) and what it counts."""

    name: str
    wants: tuple[tuple[str, str | None], ...]
    limit: Limit
    window: Window
    hard: bool
    closed: bool
    ladder: tuple[tuple[str, int], ...] = ()  # rung, and the per cent of the limit from which on it is taken; ascending
    reply: bool = False  # a call that does not fit is answered in the client's own dialect
    code: str = "budget_exceeded"
    flows_not: tuple[str, ...] = ()  # flows that have a limit of their own

    @property
    def conversations(self) -> bool:
        """Whether it is counted per conversation: such a budget stops nobody whose conversation is not known for sure."""
        return any(name == "conversation" for name, _ in self.wants)


def parse_ladder(ladder: Ladder, hard: bool) -> tuple[tuple[str, int], ...]:
    """Rungs in their order; ValueError where one can never be reached. A soft budget warns at its limit, if it says nothing else."""
    rungs: list[tuple[str, int]] = []
    for rung in RUNGS:
        text: str = getattr(ladder, rung)
        if not text:
            continue
        found = re.fullmatch(r"([0-9]{1,3})\s*%", text.strip())
        if not found or not 1 <= int(found[1]) <= 100:
            raise ValueError(f'ladder.{rung} is {text!r}: write a share of the limit between "1%" and "100%"')
        share = int(found[1])
        if rungs and share < rungs[-1][1]:
            before, earlier = rungs[-1]
            raise ValueError(f"ladder.{rung} at {share}% comes before ladder.{before} at {earlier}%: let shares grow along the ladder")
        rungs.append((rung, share))
    if not hard and ladder.wind_down:
        raise ValueError("ladder.wind_down on a soft budget: it never stops, so there is nothing to wind down for; hard = true")
    if not hard and not rungs:
        rungs.append((WARN, 100))
    return tuple(rungs)


def compile_budgets(budgets: Sequence[Budget], zone: Callable[[str], tzinfo]) -> list[BudgetRule]:
    """All of them, no two with one name. What has no name is called by what it counts, so that its counter stays the same when lines
    are put in, taken out or moved; of several that count alike it does not matter which has which number."""
    taken = {budget.name for budget in budgets if budget.name}
    rules: list[BudgetRule] = []
    for budget in budgets:
        rule = compile_budget(budget, zone)
        if not budget.name:
            number, name = 1, rule.name
            while name in taken:
                number += 1
                name = f"{rule.name}#{number}"
            taken.add(name)
            rule = replace(rule, name=name)
        rules.append(rule)
    return rules


def compile_budget(budget: Budget, zone: Callable[[str], tzinfo]) -> BudgetRule:
    """ValueError with the key and the remedy when the budget cannot mean anything. `zone` looks up an IANA name."""
    if isinstance(budget.scope, str):
        scope: dict[str, str | None] = {} if budget.scope == "all" else {budget.scope: None}
    else:
        scope = {name: None if value == "*" else value for name, value in budget.scope.items()}
        if not scope:
            raise ValueError('scope is empty: name a label, or write scope = "all"')
    if isinstance(budget.scope, str) and budget.scope not in SCOPES and budget.scope != "all":
        raise ValueError(
            f"scope {budget.scope!r} is not one of {', '.join(sorted(SCOPES))} or all; for a free label write "
            f'scope = {{"{budget.scope}" = "*"}}'
        )
    if budget.window == "conversation":
        scope.setdefault("conversation", None)
    try:
        where = zone(budget.zone)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"zone {budget.zone!r} is not an IANA time zone, such as Europe/Berlin") from None
    limit = parse_limit(budget.limit)
    if limit.amount < 0:
        raise ValueError(f"limit {budget.limit!r} is below zero")
    closed = budget.hard if not budget.on_fault else budget.on_fault == "closed"
    shown = budget.scope if isinstance(budget.scope, str) else ",".join(f"{k}={v}" for k, v in budget.scope.items())
    name = budget.name or f"{shown}/{budget.window}" + ("" if limit.unit == "usd" else f"/{limit.unit}")
    wants = tuple(sorted((k, v) for k, v in scope.items()))
    own = "conversation" in scope
    return BudgetRule(
        name, wants, limit, Window(budget.window, where), budget.hard, closed, parse_ladder(budget.ladder, budget.hard),
        budget.stop == "reply" if budget.stop else own, "conversation_budget_exceeded" if own else "budget_exceeded",
    )  # fmt: skip


CEILING = "fallback_ceiling"


def ceilings(lines: Sequence[Fallback], zone: tzinfo) -> list[BudgetRule]:
    """The ceilings of fallbacks as budgets. ValueError where one is no amount."""
    found: list[BudgetRule] = []
    for line in lines:
        if line.ceiling:
            limit = parse_limit(line.ceiling)
            if limit.unit != "usd":
                raise ValueError(f'ceiling is {line.ceiling!r}: write dollars a day, such as "$20"')
            name = f"fallback from {line.from_}"
            found.append(BudgetRule(name, (("fallback", line.from_),), limit, Window("day", zone), True, False, code=CEILING))
    return found


class Scope:
    """A budget on one value of its scope: which counter it is just now. The counter's name has budget, values and window in it."""

    __slots__ = ("_key", "counter", "end", "hard", "limit", "name", "resets_us", "rule", "start", "steps", "unit")

    def __init__(self, rule: BudgetRule, values: Iterable[str], limit: int) -> None:
        self.rule, self.limit = rule, limit
        self._key = "|".join([rule.name, *map(_escaped, values)])
        self.start, self.end = 1, 0
        self.counter, self.resets_us = "", 0
        self.name, self.unit, self.hard = rule.name, rule.limit.unit, rule.hard
        self.steps = tuple([-(-limit * share // 100) for _, share in rule.ladder])

    def soft(self) -> Scope:
        """The same counter, that stops nobody."""
        other = Scope(replace(self.rule, hard=False, closed=False, ladder=((WARN, 100),)), (), self.limit)
        other._key = self._key
        return other

    def rungs(self, standing: int) -> tuple[str, ...]:
        """Those that a standing has reached."""
        return tuple([rung for (rung, _), step in zip(self.rule.ladder, self.steps, strict=True) if standing >= step])

    def at(self, ts_us: int) -> Scope:
        """Itself, in the window of this moment."""
        if not self.start <= ts_us < self.end:
            self.start, self.end = self.rule.window.bounds(ts_us)
            self.counter = f"{self._key}@{self.start // 1_000_000}"
            self.resets_us = self.end
            if self.end == FOREVER_US:
                # Below zero: since when a conversation is counted; the ledger forgets it long after (stores/standing.py).
                self.resets_us = -ts_us if self.rule.window.text == "conversation" else 0
        return self


def _escaped(value: str) -> str:
    """A label's value as part of a counter's name: two values must never make the name that two others make."""
    return value.replace("%", "%25").replace("|", "%7C").replace("@", "%40").replace(OF, "|")


class Scopes(Shape, frozen=True, gc=False):
    """The budgets that a call is in. `closed`: the first that must not be passed while the ledger cannot say; `hard_money`:
    the first hard one in dollars; `alone`: limits of each call by itself, which no counter has; `winds_down`: one of them
    lets an agent end before it stops it; `capped`: a hard one counts what is written, so that must have a bound."""

    all: tuple[Scope, ...]
    hard: bool = False
    closed: str = ""
    hard_money: str = ""
    alone: tuple[BudgetRule, ...] = ()
    winds_down: bool = False
    capped: bool = False


NO_SCOPES = Scopes(())
SCOPES_MAX = 8192  # combinations of label values remembered, some 500 bytes each; forgetting one costs 5 µs


class Budgets:
    """The budgets of a policy, ready to be asked which of them a call is in."""

    def __init__(self, rules: Sequence[BudgetRule] = ()) -> None:
        self.rules = tuple(rules)
        facts = {name for rule in rules for name, _ in rule.wants if name != "call"}
        facts |= {"flow" for rule in rules if rule.flows_not}
        self.names = tuple(sorted(facts))  # the facts that decide
        # Nearly all policies count by two labels or more and by nothing else: their values in one step.
        plain = len(facts) > 1 and facts <= PLACES.keys() - {"conversation"}
        self.of_labels = itemgetter(*[PLACES[name] for name in self.names]) if plain else None
        self._known: dict[tuple[str, ...], Scopes] = {}
        self._raised: Mapping[str, int] = {}
        self._lives: Mapping[str, int] = {}

    def ordered(self, raised: Mapping[str, int], lives: Mapping[str, int]) -> None:
        """What people ordered: limits of budgets by name, in their grain, and how many times a conversation has its limits."""
        self._raised, self._lives = raised, lives
        self._known = {}

    def limit(self, rule: BudgetRule, conversation: str = "") -> int:
        """A budget's limit as it is now, in its grain."""
        amount = self._raised.get(rule.name, rule.limit.amount)
        return amount * self._lives.get(conversation, 1) if conversation and rule.window.text == "conversation" else amount

    def of(self, facts: tuple[str, ...]) -> Scopes:
        """The budgets of a call with these `facts`, one per name in `names` (empty: nobody said). A call without the label that
        an each-of budget counts by is outside it: the audit's unattributed share is where that shows."""
        found = self._known.get(facts)
        if found is None:
            if len(self._known) >= SCOPES_MAX:
                self._known.clear()
            found = self._known[facts] = self._of(dict(zip(self.names, facts, strict=True)))
        return found

    def _of(self, facts: Mapping[str, str]) -> Scopes:
        scopes: list[Scope] = []
        alone: list[BudgetRule] = []
        for rule in self.rules:
            wants = [(name, wanted) for name, wanted in rule.wants if name != "call"]
            if rule.flows_not and facts["flow"] in rule.flows_not:
                continue
            if not all(facts[name] and wanted in (None, facts[name].rpartition(OF)[2]) for name, wanted in wants):
                continue
            if len(wants) < len(rule.wants):
                alone.append(rule)
            else:
                conversation = facts.get("conversation", "").rpartition(OF)[2]
                scopes.append(Scope(rule, [facts[name] for name, _ in wants], self.limit(rule, conversation)))
        return _together(scopes, tuple(alone))


def _together(scopes: Sequence[Scope], alone: tuple[BudgetRule, ...]) -> Scopes:
    hard = [scope.rule for scope in scopes if scope.rule.hard] + [rule for rule in alone if rule.hard]
    return Scopes(
        tuple(scopes), bool(hard), next((s.rule.name for s in scopes if s.rule.closed), ""),
        next((rule.name for rule in hard if rule.limit.unit == "usd"), ""), alone,
        any(rung == WIND_DOWN for scope in scopes for rung, _ in scope.rule.ladder),
        any(rule.limit.unit in ("usd", "tokens") for rule in hard),
    )  # fmt: skip


OF = "\x1f"


def whose(tenant: str, key: str, conversation: str) -> str:
    """A conversation as budgets count it: what two tenants call the same is not the same."""
    return f"{tenant or key}{OF}{conversation}" if conversation else ""


def unsure(scopes: Scopes) -> Scopes:
    """The same where nobody can tell whose conversation it is: its budgets then count and warn, and stop nobody."""
    return _together([s.soft() if s.rule.conversations else s for s in scopes.all], scopes.alone)


def charges(scopes: Scopes, ts_us: int, worst_pico: int, worst_tokens: int, tool_calls: int) -> tuple[Charge, ...]:
    """What a try must fit under. A limit of money never stops a try that can cost nothing: with nothing to add, any standing fits."""
    if not scopes.all:
        return ()
    nano = nano_up(worst_pico)
    made: list[Charge] = []
    for its in scopes.all:
        if not its.start <= ts_us < its.end:
            its.at(ts_us)
        unit = its.unit
        amount = nano if unit == "usd" else _amounts(worst_pico, worst_tokens, tool_calls)[unit]
        made.append(Charge(its.counter, its.name, unit, amount, its.limit, its.hard, its.resets_us, its.steps))
    return tuple(made)


def wound_down(whose: str, lives: int, ts_us: int) -> Charge:
    """Whether a conversation has had the turn in which it was told to end: counted like money, so that all processes know."""
    return Charge(f"wind_down|{_escaped(whose)}|{lives}", "wind_down", "wind_down", 0, None, False, -ts_us, (1,))


def too_large(scopes: Scopes, worst_pico: int, worst_tokens: int, tool_calls: int) -> tuple[BudgetRule, int] | None:
    """The limit of each call by itself that this one may pass, and what it may take of it."""
    if scopes.alone:
        amounts = _amounts(worst_pico, worst_tokens, tool_calls)
        for rule in scopes.alone:
            if rule.hard and amounts[rule.limit.unit] > rule.limit.amount:
                return rule, amounts[rule.limit.unit]
    return None


def actual(held: Sequence[Charge], cost_pico: int, tokens: Tokens | None, tool_calls: int, wound: int = 0) -> tuple[int, ...]:
    """What the try really used, in the order and grain of its charges. `wound`: 1 when it was told to end."""
    units = [charge.unit for charge in held]
    if units.count("usd") == len(units):
        return (nano_up(cost_pico),) * len(units)
    amounts = _amounts(cost_pico, tokens.total if tokens is not None else 0, tool_calls, wound)
    return tuple([amounts[unit] for unit in units])


def _amounts(pico: int, tokens: int, tool_calls: int, wound: int = 0) -> dict[str, int]:
    """One try in each unit a budget may count."""
    return {"usd": nano_up(pico), "tokens": tokens, "calls": 1, "tool_calls": tool_calls, "wind_down": wound}


def told(unit: str, amount: int) -> str:
    """An amount in a unit's own grain, for people."""
    return show(amount * 1000) if unit == "usd" else f"{amount:,} {unit.replace('_', ' ')}"


def alone(rule: BudgetRule, amount: int) -> Refusal:
    """A call that is too large by itself, in words."""
    unit = rule.limit.unit
    return refuse(
        rule.code, f"this call may take up to {told(unit, amount)}, and {rule.name!r} allows one call {told(unit, rule.limit.amount)}",
        "send less, or with a smaller max_tokens; or raise the limit in the policy file",
    )  # fmt: skip


def passed(scope: Scope, standing: int) -> Refusal:
    """A budget whose last turn has been given, in words."""
    rule = scope.rule
    unit = rule.limit.unit
    return refuse(
        rule.code,
        f"budget {rule.name!r} stands at {told(unit, standing)} of {told(unit, scope.limit)}, and the turn to end in was had",
        "let it go on with `bursar guard resume` or raise it with `bursar guard raise`",
    )  # fmt: skip


def short(shortage: Short, code: str) -> Refusal:
    """A hold that did not fit, in words. Only the scope's own standing is told, never another tenant's."""
    charge = shortage.charge
    standing = shortage.spent + shortage.held
    limit, spent, held, want = (told(charge.unit, n or 0) for n in (charge.limit, shortage.spent, shortage.held, charge.amount))
    when = ""
    if charge.resets_us > 0:
        when = f"it resets at {datetime.fromtimestamp(charge.resets_us // 1_000_000, UTC):%Y-%m-%d %H:%M} UTC, or "
    room = f", {held} of it held for calls in flight" if shortage.held else ""
    left = max(0, (charge.limit or 0) - standing)
    shown = show(left * 1000) if charge.unit == "usd" else f"{left:,}"
    return refuse(
        code,
        f"budget {charge.budget!r} has {spent} spent of {limit}{room}; this call may take up to {want} and {shown} is left",
        f"{when}raise it with `bursar guard raise` or in the policy file; a smaller max_tokens makes a smaller hold",
    )
