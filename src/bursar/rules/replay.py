"""Recorded calls through another policy: who would have been stopped, what a cache, tiers and shorter histories would have saved.

In the order in which a call goes: guard, budget, reply cache, tier; histories are judged by flow at the end. What a figure rests on
is said beside it. Rules in shadow are played as if they were on: that is what one asks a replay for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..domain.price import Price
from ..domain.usage import Tokens
from . import budget, prospect, reuse
from .budget import Budgets
from .guard import Guards
from .price import bill, femto_at, rate_of

SPREAD = 5  # an answer of another model may be a fifth longer or shorter
STOPPED_MAX = 10_000  # counters and conversations of which it is remembered who was stopped
KEPT_MAX = 2_000_000  # questions that a replayed cache remembers
RUNS_MAX = 500_000  # conversations whose length is added up


class Row(NamedTuple):
    """A first try, or a retry or fallback, as the ledger has it. `cost`: without what controls saved on it then, pico-dollars."""

    ts_us: int
    facts: Mapping[str, str]  # tenant, feature, flow, operation, conversation, user, key, provider, model, suite
    turn: int
    depth: int
    tokens: Tokens
    cost: int
    question: str  # request hash
    tools: bool  # the reply calls tools
    good: bool  # it was answered, and well
    loop: bool  # one that should be stopped was seen in it
    first: bool = True


class Setting(NamedTuple):
    """A policy, made ready. `route`: (tier's model, its price) where another model than the one asked for would answer;
    `compacts`: whether histories are shortened in a flow."""

    budgets: Budgets
    guards: Guards
    cache: reuse.Setting | None = None
    route: Callable[[Row], tuple[str, Price | None] | None] | None = None
    compacts: Callable[[str], bool] = lambda flow: False
    price: Callable[[str, str, int], Price | None] = lambda provider, model, ts_us: None


class Part(NamedTuple):
    """What one means saved: calls, dollars (between `low` and `high`, pico), and what the figure rests on."""

    name: str  # budgets | guard | cache | tiers | compaction
    calls: int
    pico: int
    low: int
    high: int
    rests: str


class Stopped(NamedTuple):
    """Who would have been stopped: by which limit, first when, in how many calls worth how much."""

    limit: str
    whose: str
    since_us: int
    calls: int
    pico: int


class Outcome(NamedTuple):
    calls: int
    recorded: int  # pico-dollars without any control
    parts: tuple[Part, ...]
    stopped: tuple[Stopped, ...]  # the dearest first
    kept_back: int = 0  # of those, beyond what is listed

    @property
    def spent(self) -> int:
        return self.recorded - sum(part.pico for part in self.parts)

    @property
    def low(self) -> int:
        return self.recorded - sum(part.high for part in self.parts)

    @property
    def high(self) -> int:
        return self.recorded - sum(part.low for part in self.parts)


RESTS = {
    "budgets": "the calls' own costs; a hold is larger than its call, so the last ones before a limit may go too",
    "guard": "turns, tool calls and loops as recorded; nothing is sent in place of what is stopped",
    "cache": "identical requests of one caller; the ledger does not know their temperature, so perhaps none",
    "cache, any temperature": "identical requests of one caller, whatever their temperature",
    "tiers": "the same tokens at the tier's price; an answer may be a fifth longer or shorter",
    "compaction": "turns and tokens of each flow, no text; runs with less in sight become longer",
}


class Replay:
    """One policy. `take` each row in order of time, then ask for the `outcome`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._names = setting.budgets.names
        self._spent: dict[str, int] = {}
        self._made: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._sums: dict[str, list[int]] = {}  # name -> calls, pico, low, high
        self._stopped: dict[tuple[str, str], list[int]] = {}  # -> since, calls, pico
        self._runs: dict[tuple[str, str], list[int]] = {}  # (flow, conversation) -> calls, prompt, completion, pico
        self._flow_prices: dict[str, Price] = {}
        self._calls = self._recorded = self._back = 0

    def take(self, row: Row) -> None:
        self._calls += row.first
        self._recorded += row.cost
        facts = row.facts
        limit = self._guard(row)
        if limit:
            self._stop("guard", limit, facts["conversation"] or facts["tenant"], row, row.cost)
            return
        cost = row.cost
        if self._setting.cache is not None and row.first and self._kept(row, self._setting.cache):
            free = self._setting.cache.temperature_max >= 1
            self._add("cache", cost, cost if free else 0, cost)
            return
        routed = (0, 0)  # saved, and how sure that is
        if self._setting.route is not None and row.first and cost:
            to = self._setting.route(row)
            if to is not None and to[1] is not None:
                model, price = to
                then = bill(row.tokens, price).pico
                if then is not None and model != facts["model"]:
                    spread = then // SPREAD
                    routed = (cost - then, spread)
                    facts = {**facts, "model": model}
        paid = cost - routed[0]
        over = self._budget(row, facts, paid)
        if over is not None:
            # What would have been paid under this policy is what the stop keeps; the tier has saved the rest.
            self._stop("budgets", over[0], over[1], row, cost)
            return
        if routed[1]:
            self._add("tiers", routed[0], routed[0] - routed[1], routed[0] + routed[1])
        flow = facts["flow"]
        if facts["conversation"] and self._setting.compacts(flow) and row.tokens.input_total:
            self._run(row, flow, facts, paid)

    def _guard(self, row: Row) -> str:
        bounds = self._setting.guards.of(row.facts["flow"])
        if not bounds.judged or not bounds.stops:
            return ""
        if row.depth > bounds.tool_calls and "tool_calls_max" in bounds.stops:
            return "tool_calls_max"
        if row.turn > bounds.turns and "turns_max" in bounds.stops:
            return "turns_max"
        return "repeats_max" if row.loop and "repeats_max" in bounds.stops else ""

    def _budget(self, row: Row, facts: Mapping[str, str], paid: int) -> tuple[str, str] | None:
        if not self._names and not self._setting.budgets.rules:
            return None
        own = budget.whose(facts["tenant"], facts["key"], facts["conversation"])
        scopes = self._setting.budgets.of(tuple([own if name == "conversation" else facts.get(name, "") for name in self._names]))
        tokens = row.tokens.total
        fresh = 1 if row.depth and row.first else 0
        large = budget.too_large(scopes, paid, tokens, fresh)
        if large is not None:
            return large[0].name, facts["tenant"] or facts["key"]
        charges = budget.charges(scopes, row.ts_us, paid, tokens, fresh)
        spent = self._spent
        for charge in charges:
            stands = spent.get(charge.counter, 0) + charge.amount
            if charge.hard and charge.limit is not None and charge.amount and stands > charge.limit:
                return charge.budget, charge.counter.rpartition("@")[0].partition("|")[2] or "all"
        for charge in charges:
            spent[charge.counter] = spent.get(charge.counter, 0) + charge.amount
        return None

    def _kept(self, row: Row, setting: reuse.Setting) -> bool:
        """Whether a kept reply would have answered; if not, whether this one is kept."""
        facts = row.facts
        its = (facts["suite"] or facts["feature"]) if facts["operation"] == "eval" else ""
        if its:
            ttl = setting.suites.get(its)
            if ttl is None:
                return False
        elif not (setting.embeddings if facts["operation"] == "embedding" else setting.exact):
            return False
        else:
            ttl = setting.ttl_us
        wall = "all" if setting.per == "all" else facts["tenant"] if setting.per == "tenant" else ""
        wall = wall or facts["key"]
        if not wall or not row.question or (row.tools and not setting.tools):
            return False
        place = (wall, row.question)
        since = self._made.get(place)
        if since is not None and row.ts_us < since + ttl:
            return True
        if row.good:
            self._made[place] = row.ts_us
            self._made.move_to_end(place)
            if len(self._made) > KEPT_MAX:
                self._made.popitem(last=False)
        return False

    def _run(self, row: Row, flow: str, facts: Mapping[str, str], paid: int) -> None:
        place = (flow, f"{facts['tenant']}\0{facts['conversation']}")
        run = self._runs.get(place)
        if run is None:
            if len(self._runs) >= RUNS_MAX:
                return
            run = self._runs[place] = [0, 0, 0, 0]
        run[0] += 1
        run[1] += row.tokens.input_total
        run[2] += row.tokens.output + row.tokens.reasoning
        run[3] += paid
        if flow not in self._flow_prices:
            price = self._setting.price(facts["provider"], facts["model"], row.ts_us)
            if price is not None:
                self._flow_prices[flow] = price

    def _add(self, name: str, pico: int, low: int, high: int) -> None:
        sums = self._sums.setdefault(name, [0, 0, 0, 0])
        for at, amount in enumerate((1, pico, low, high)):
            sums[at] += amount

    def _stop(self, name: str, limit: str, whose: str, row: Row, cost: int) -> None:
        self._add(name, cost, cost, cost)
        its = self._stopped.get((limit, whose))
        if its is None:
            if len(self._stopped) >= STOPPED_MAX:
                self._back += 1
                return
            its = self._stopped[(limit, whose)] = [row.ts_us, 0, 0]
        its[1] += 1
        its[2] += cost

    def outcome(self) -> Outcome:
        parts: list[Part] = []
        for name in ("guard", "budgets", "cache", "tiers"):
            if name in self._sums:
                calls, pico, low, high = self._sums[name]
                any_heat = name == "cache" and low == high
                parts.append(Part(name, calls, pico, low, high, RESTS["cache, any temperature" if any_heat else name]))
        shorter = self._shorter()
        if shorter is not None:
            parts.append(shorter)
        stopped = [Stopped(*place, *its) for place, its in self._stopped.items()]
        stopped.sort(key=lambda one: (-one.pico, -one.calls, one.limit, one.whose))
        return Outcome(self._calls, self._recorded, tuple(parts), tuple(stopped), self._back)

    def _shorter(self) -> Part | None:
        """What masking old results would save, flow by flow; nothing where that is not sure to be a gain."""
        flows: dict[str, list[prospect.Run]] = {}
        for (flow, _), run in self._runs.items():
            flows.setdefault(flow, []).append(prospect.Run(*run))
        calls = pico = low = high = 0
        for flow, runs in flows.items():
            price = self._flow_prices.get(flow)
            if price is None:
                continue
            input_femto, output_femto = (_femto(price, unit) for unit in ("input", "output"))
            if not input_femto:
                continue
            seen = prospect.look_ahead(runs, input_femto, output_femto, prospect.Strategy("mask"))
            if seen.gain:
                cost = sum(run.pico for run in runs)
                calls += sum(run.calls for run in runs)
                net, less = round(cost * seen.net), round(cost * seen.low)
                pico, low, high = pico + net, low + less, high + 2 * net - less
        return Part("compaction", calls, pico, low, high, RESTS["compaction"]) if calls else None


def _femto(price: Price, unit: str) -> int:
    found = rate_of(price, unit)
    return femto_at(found[0], 0) if found is not None else 0
