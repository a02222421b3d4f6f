"""What questions four and five are answered from: the shape of work, and what comes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..domain.policy import Tiers
from ..rules import shape
from ..rules.audit import Line, share
from ..rules.audit_control import Cached, Move, Used
from .audit_asker import JUDGED, LATELY, TOKENS, WHOLE, WRITTEN, Asker, pico
from .audit_money import Embedded

MOVES = 5
MOVE_LEAST = 1_000  # millionths of the bill that work must have cost to be looked at
MODELS = 40
REPEATS = 5
CACHE_US = 300_000_000  # a provider's prompt cache holds so long
CACHE_LEAST = 1_024  # tokens that are cached at all
# What is taken for a cheap and a standard tier where the policy has none: models of the price book.
TIERS = {
    "openai": {"cheap": "gpt-5-nano", "standard": "gpt-5-mini"},
    "anthropic": {"cheap": "claude-haiku-4-5", "standard": "claude-sonnet-4-5"},
    "gemini": {"cheap": "gemini-2.5-flash-lite", "standard": "gemini-2.5-flash"},
}

# -- 4 -----------------------------------------------------------------------------------------------------------------


WORK = """{when} AND purpose <> 'embedding' AND operation NOT IN ('retry', 'fallback') AND cause <> 'loop'
           AND {kind} = 'first' AND {status} IN ('ok', 'error')"""


def used(ask: Asker) -> Used:
    """Dollars by model, and what could move. How calls look is read from the latest ones, what they cost from all."""
    by = "feature, provider, model_served AS model, purpose"
    looks = ask.sql(f"""
        SELECT {by}, count(*) AS calls, approx_quantile(latency_ms, 0.5) AS latency, approx_quantile({WHOLE}, 0.5) AS input_p50,
               approx_quantile({WRITTEN}, 0.5) AS output_p50, approx_quantile({WRITTEN}, 0.9) AS output_p90,
               approx_quantile(coalesce(tool_depth, 0), 0.9) AS depth,
               count(*) FILTER (tool_depth > 0 OR finish IN ('tool_use', 'tool_calls')) AS tools,
               count(*) FILTER (error = 'malformed_output') AS malformed
        FROM calls WHERE {WORK.format(when=LATELY, kind="attempt_kind", status="status")} GROUP BY ALL""")  # fmt: skip
    known = {(row["feature"], row["provider"], row["model"], row["purpose"]): row for row in looks}
    sums = ", ".join(f'sum("sum {n}") AS {n}' for n in TOKENS)
    kind, status = '"of attempt_kind"', '"of status"'
    rows = ask.sql(f"""
        SELECT {by}, CAST(sum(number) AS BIGINT) AS calls, sum("sum cost") AS cost, {sums}
        FROM {JUDGED} WHERE {WORK.format(when="true", kind=kind, status=status)}
        GROUP BY ALL HAVING sum("sum cost") > 0 ORDER BY sum("sum cost") DESC LIMIT 200""")
    moves: list[Move] = []
    for row in rows:
        look = known.get((row["feature"], row["provider"], row["model"], row["purpose"]))
        move = _move(ask, row, look) if look is not None else None
        if move is not None:
            moves.append(move)
    moves.sort(key=lambda one: one.then - one.cost)
    models = tuple(
        Line("model", row["model_served"] or "(unknown)", pico(row["cost"]), row["tries"])
        for row in ask.query(("cost", "tries"), ("model_served",), top=MODELS)
        if row["cost"]
    )
    return Used(models, ask.cost, tuple(moves[:MOVES]), ask.policy.tiers, tuple(ask.policy.route))


def _model(ask: Asker, provider: str, tier: str) -> str | None:
    """The model that a tier is at this provider: the policy's, or what is usual where it says nothing."""
    said: str | list[str] = getattr(ask.policy.tiers, tier)
    for name in [said] if isinstance(said, str) else said:
        whose, slash, model = name.partition("/")
        if slash and whose == provider:
            return model
        price = ask.price(provider, name) if name and not slash else None
        if price is not None and not price.estimated:  # estimated: it is not this provider's
            return name
    return TIERS.get(provider, {}).get(tier) if ask.policy.tiers == Tiers() else None


def _move(ask: Asker, row: Mapping[str, Any], look: Mapping[str, Any]) -> Move | None:
    """Where the work would go by its shape, when that is a tenth cheaper at least."""
    calls, cost = row["calls"], pico(row["cost"])
    if share(cost, ask.cost) < MOVE_LEAST:
        return None
    looks = shape.shape(
        shape.Work(
            row["feature"], row["model"], calls, cost, look["latency"] or 0, look["input_p50"] or 0, look["output_p50"] or 0,
            look["output_p90"] or 0, look["tools"] / look["calls"], look["depth"] or 0, look["malformed"] / look["calls"],
            row["purpose"],
        )
    )  # fmt: skip
    to = _model(ask, row["provider"], looks.tier)
    then = None if to is None or row["model"].startswith(to) else ask.bill(row["provider"], to, row, calls)
    if to is None or then is None or then * 10 > cost * 9:
        return None
    return Move(row["feature"], row["model"], to, looks.tier, calls, cost, then, looks.why)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def cached(ask: Asker, again: Mapping[str, Embedded]) -> Cached:
    rows = ask.sql(f"""
        SELECT feature, model, sum(n - 1) AS n, sum(cost - first) AS cost FROM (
            SELECT max(feature) AS feature, max(model_served) AS model, count(*) AS n, sum(cost) AS cost, arg_min(cost, ts) AS first
            FROM calls WHERE {LATELY} AND status = 'ok' AND cost > 0 AND request_hash <> '' AND purpose <> 'embedding'
                 AND operation NOT IN ('retry', 'fallback')
            GROUP BY hash(tenant, request_hash, model_served, date_trunc('day', ts)) HAVING count(*) > 1)
        GROUP BY feature, model ORDER BY sum(cost - first) DESC, feature, model LIMIT {REPEATS}""")  # fmt: skip
    repeats = tuple(
        Line("repeat", row["feature"] or "(unnamed)", ask.all(pico(row["cost"])), ask.all(int(row["n"])), f"on {row['model']}")
        for row in rows
    )
    read = share(int(ask.total["read"] or 0), int(ask.total["whole"] or 0))
    vectors = tuple(Line("vector", name or "(unnamed)", one.cost, one.calls, one.note) for name, one in again.items() if one.cost)
    latest = (ask.until - ask.latest) // 1_000_000 if ask.latest > ask.since else 0
    steady = sum(one.steady for one in again.values())
    answered, kept = ask.total["answered"], pico(ask.total["kept"])
    return Cached(ask.calls, answered, kept, read, repeats, vectors, steady, _prompts(ask), latest)


def _prompts(ask: Asker) -> tuple[Line, ...]:
    """What the beginnings of prompts would have cost less, read from the provider's cache. A history that became shorter was cut:
    nobody knows how much before the cut could have been read, so it counts as none."""
    rows = ask.sql(f"""
        SELECT feature, provider, model, count(*) AS calls, sum(greatest(again - read, 0)) AS unread,
               sum(CASE WHEN written = 0 THEN whole - greatest(again, read) ELSE 0 END) AS fresh
        FROM (SELECT feature, provider, model, whole, read, written,
                     CASE WHEN us - lag(us) OVER talk <= {CACHE_US} AND lag(prefix_hash) OVER talk = prefix_hash
                               AND lag(model) OVER talk = model AND lag(whole) OVER talk BETWEEN {CACHE_LEAST} AND whole
                          THEN lag(whole) OVER talk ELSE 0 END AS again
              FROM (SELECT feature, provider, model_served AS model, prefix_hash, hash(conversation) AS talk, epoch_us(ts) AS us, try,
                           {WHOLE} AS whole, coalesce(cache_read, 0) AS read,
                           coalesce(cache_write, 0) + coalesce(cache_write_1h, 0) AS written
                    FROM calls WHERE {LATELY} AND conversation <> '' AND status = 'ok' AND purpose <> 'embedding'
                         AND operation <> 'fallback')
              WINDOW talk AS (PARTITION BY talk ORDER BY us, try))
        GROUP BY ALL""")  # fmt: skip
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        fresh, read, write = (ask.rate(row["provider"], row["model"], unit) for unit in ("input", "cache_read", "cache_write"))
        kept = (int(row["unread"]) * (fresh - read) - int(row["fresh"]) * max(write - fresh, 0)) // 1000
        if 0 < read < fresh and kept > 0:
            cost, calls = found.get(row["feature"], (0, 0))
            found[row["feature"]] = cost + ask.all(kept), calls + ask.all(row["calls"])
    lines = [Line("prompt", name or "(unnamed)", cost, calls) for name, (cost, calls) in found.items()]
    return tuple(sorted(lines, key=lambda line: (-line.cost, line.name))[:REPEATS])
