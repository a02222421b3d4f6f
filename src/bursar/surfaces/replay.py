"""Recorded calls through policies: rows out of the ledger, policies made ready, outcomes as plain records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..controls import compiled, reach
from ..domain.policy import Policy
from ..domain.price import Price
from ..domain.usage import Tokens
from ..rules import guard, replay, route
from ..rules.budget import Budgets
from ..stores.pricebook import PriceBook
from ..stores.query import Filter, Query, compile_filter
from ..stores.reader import Reader
from . import periods, price_sync, settings, wiring

COLUMNS = (
    "ts", "tenant", "feature", "flow", "operation", "purpose", "conversation", "user", "key", "provider", "model_requested",
    "model_served", "turn", "tool_depth", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "cost",
    "saved", "request_hash", "finish", "status", "evidence", "attempt_kind", "labels", "id",
)  # fmt: skip
DAY_US = 86_400_000_000
AT_ONCE = 20_000


def prepared(policy: Policy, folder: Path) -> replay.Setting:
    """A policy as a replay judges by it. Routers have no text to go by: what they would decide goes to the standard tier."""
    book = PriceBook.load(price_sync.ensure_book(folder), policy.price)
    desk = wiring.desk_of(policy, "replayed", wiring.addresses(policy, keys_from_environment=False), book, "replay")
    prices: dict[tuple[str, str, int], Price | None] = {}

    def price(provider: str, model: str, ts_us: int) -> Price | None:
        at = (provider, model, ts_us // DAY_US)
        if at not in prices:
            its = desk.providers.get(provider)
            prices[at] = book.find(its.prices if its is not None else provider, model, ts_us)
        return prices[at]

    controls = compiled(policy)
    to: Callable[[replay.Row], tuple[str, Price | None] | None] | None = None
    modes, mode = ({}, "off") if controls is None else (controls.flows, controls.mode)
    if controls is not None and controls.tiers:
        tiers, lines = controls.tiers, [rule._replace(mode="on") for rule in controls.rules]
        reached: dict[tuple[str, int], dict[str, str]] = {}

        def routed(row: replay.Row) -> tuple[str, Price | None] | None:
            facts = row.facts
            its = desk.providers.get(facts["provider"])
            if its is None:
                return None
            at = (its.name, row.ts_us // DAY_US)
            models = reached.get(at)
            if models is None:
                found = {t: reach(names, desk.providers, its, lambda p, m: price(p, m, row.ts_us)) for t, names in tiers.items()}
                models = reached[at] = {tier: place[1] for tier, place in found.items() if place is not None}
            choice = route.choose(facts["model"], lambda name: facts.get(name, ""), lines, models)
            return (choice.model, price(its.name, choice.model, row.ts_us)) if choice.model else None

        to = routed
    rules = wiring.budget_rules(policy)
    return replay.Setting(
        Budgets(rules), guard.Guards(policy.guard), controls.cache if controls is not None else None, to,
        lambda flow: modes.get(flow, mode) != "off", price,
    )  # fmt: skip


def read(paths: Sequence[Path], folder: Path) -> dict[str, replay.Setting]:
    """By name: the file's, or its path's where two are called the same. BadPolicy says what is wrong in one."""
    names = [path.name for path in paths]
    found: dict[str, replay.Setting] = {}
    for path in paths:
        policy, _ = settings.load(path)
        found[path.name if names.count(path.name) == 1 else str(path)] = prepared(policy, folder)
    return found


def count(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> int:
    """How many rows there are to play."""
    condition = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    reader.totals(dict.fromkeys((*COLUMNS, *condition.columns)), period.since, period.until)
    one = reader.duck.execute(f"SELECT count(*) FROM calls WHERE {_played(condition.sql)}", condition.values).fetchone()
    return int(one[0]) if one else 0


def _played(condition: str) -> str:
    """Calls as their clients made them: not what controls did for themselves, nor corrections, nor what was refused."""
    return f"({condition}) AND attempt_kind <> 'correction' AND operation <> 'control' AND status <> 'refused'"


def rows(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> Iterator[replay.Row]:
    """In order of time. `cost` is without what controls saved then."""
    condition = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    pico = "CAST(coalesce({}, 0) * 1000000000000 AS BIGINT)"
    result = reader.duck.execute(
        f"""SELECT epoch_us(ts), tenant, feature, flow, purpose, conversation, "user", key, provider, model_requested,
                   model_served, turn, tool_depth, input, cache_read, cache_write, cache_write_1h, output, reasoning,
                   {pico.format("cost")} + {pico.format("saved")}, request_hash, finish, status,
                   CASE WHEN contains(evidence, '"stop":true') THEN evidence END, attempt_kind,
                   map_extract_value(labels, 'suite')
            FROM calls WHERE {_played(condition.sql)} ORDER BY ts, id""",
        condition.values,
    )
    tools = frozenset(("tool_calls", "tool_use", "function_call"))
    row, usage = replay.Row, Tokens
    while some := result.fetchmany(AT_ONCE):
        for (ts, tenant, feature, flow, purpose, conversation, user, key, provider, asked, served, turn, depth, i, r, w, h, o, z, cost,
             question, finish, status, evidence, kind, suite) in some:  # fmt: skip
            facts = {
                "tenant": tenant or "", "feature": feature or "", "flow": flow or "", "operation": purpose or "",
                "conversation": conversation or "", "user": user or "", "key": key or "", "provider": provider or "",
                "model": asked or served or "", "suite": suite or "",
            }  # fmt: skip
            loop = evidence is not None and json.loads(evidence).get("loop", {}).get("stop") is True
            yield row(
                ts, facts, turn or 0, depth or 0, usage(i or 0, r or 0, w or 0, h or 0, o or 0, z or 0), cost, question or "",
                finish in tools, status == "ok", loop, kind == "first",
            )  # fmt: skip


def play(
    reader: Reader, policies: dict[str, replay.Setting], where: tuple[Filter, ...], period: periods.Period,
    step: Callable[[int], None] = lambda done: None,
) -> dict[str, replay.Outcome]:  # fmt: skip
    """Every policy on the same rows. `step` is told how many rows are done, now and then."""
    played = {name: replay.Replay(setting) for name, setting in policies.items()}
    takes = [one.take for one in played.values()]
    for number, row in enumerate(rows(reader, where, period), 1):
        for take in takes:
            take(row)
        if number % 5_000 == 0:
            step(number)
    return {name: one.outcome() for name, one in played.items()}
