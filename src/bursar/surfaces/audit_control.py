"""What questions three to six are answered from: conversations, the shape of work, what repeats, and what guards did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..domain.money import plain
from ..rules import audit_control as rules
from ..rules import prospect, shape
from ..rules.audit import Line, share
from ..rules.audit_control import Cached, Flow, Move, Stops, Talks, Used
from ..stores.query import Filter
from .audit_asker import LATELY, TOKENS, WHOLE, WITHIN, WRITTEN, Asker, pico

FLOWS = 8
RUNS = 2_000  # conversations of a flow that shortening is worked out on
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

# -- 3 -----------------------------------------------------------------------------------------------------------------


def talks(ask: Asker) -> Talks:
    ask.sql(f"""
        CREATE OR REPLACE TEMP TABLE audited AS
        SELECT hash(conversation) AS id, any_value(flow) AS flow, any_value(feature) AS feature, sum(cost) AS cost, max(turn) AS turns,
               max(tool_depth) AS depth, sum({WHOLE}) AS prompt, sum({WRITTEN}) AS completion,
               count(*) FILTER (attempt_kind <> 'correction') AS calls
        FROM calls WHERE {WITHIN} AND conversation <> '' AND purpose = 'primary'
        GROUP BY hash(conversation) HAVING sum(cost) IS NOT NULL""")  # fmt: skip
    (whole,) = ask.sql("""
        SELECT count(*) AS n, sum(cost) AS cost, quantile_disc(coalesce(turns, 0), [0.5, 0.95, 1.0]) AS turns,
               quantile_disc(prompt + completion, [0.5, 0.95, 1.0]) AS tokens, quantile_disc(cost, [0.5, 0.95, 1.0]) AS costs
        FROM audited""")  # fmt: skip
    history, number = pico(ask.total["history"]), whole["n"]
    if not number:
        return Talks(0, (0, 0, 0), (0, 0, 0), (0, 0, 0), 0, 0, 0, history, ask.cost, ())
    hundredth = -(-number // 100)
    (tail,) = ask.sql(
        "SELECT sum(cost) AS cost FROM (SELECT cost FROM audited ORDER BY cost DESC LIMIT $number)", {"number": hundredth}
    )
    flows = ask.sql(
        """SELECT flow, CASE WHEN flow = '' THEN feature ELSE '' END AS feature, count(*) AS n, sum(cost) AS cost,
                  quantile_disc(cost, 0.99) AS p99_cost, quantile_disc(coalesce(turns, 0), 0.99) AS p99_turns,
                  quantile_disc(coalesce(depth, 0), 0.99) AS p99_depth
           FROM audited GROUP BY ALL ORDER BY sum(cost) DESC, flow LIMIT $most""",
        {"most": FLOWS},
    )
    mains: dict[tuple[str, str], tuple[str, str]] = {}  # the model that most of a flow's dollars went to, and who sells it
    for row in ask.query(("cost",), ("flow", "feature", "provider", "model_served"), Filter("purpose", ("primary",))):
        mains.setdefault((row["flow"], "" if row["flow"] else row["feature"]), (row["provider"], row["model_served"]))
    turns, tokens, costs = (tuple(map(int, whole["turns"])), tuple(map(int, whole["tokens"])), tuple(map(pico, whole["costs"])))
    return Talks(
        number, (turns[0], turns[1], turns[2]), (tokens[0], tokens[1], tokens[2]), (costs[0], costs[1], costs[2]), pico(whole["cost"]),
        pico(tail["cost"]), hundredth, history, ask.cost,
        tuple(_flow(ask, row, mains.get((row["flow"], row["feature"]))) for row in flows),
    )  # fmt: skip


def _flow(ask: Asker, row: Mapping[str, Any], main: tuple[str, str] | None) -> Flow:
    p99 = pico(row["p99_cost"])
    limit = rules.limit_of(p99)
    mine = "flow = $flow" if row["flow"] else "flow = '' AND feature = $feature"
    its = {"flow": row["flow"], "feature": row["feature"], "limit": plain(limit), "most": RUNS}
    (over,) = ask.sql(
        f"""SELECT count(*) AS n, sum(cost - CAST($limit AS DECIMAL(38,12))) AS beyond
            FROM audited WHERE {mine} AND cost > CAST($limit AS DECIMAL(38,12))""",
        its,
    )
    made = Flow(
        row["flow"], row["feature"], row["n"], pico(row["cost"]), p99, row["p99_turns"], row["p99_depth"], limit, over["n"],
        pico(over["beyond"]),
    )  # fmt: skip
    rates = [ask.rate(*main, unit) for unit in ("input", "output")] if main is not None else [0]
    if not all(rates):
        return made
    runs = [
        prospect.Run(one["calls"], int(one["prompt"]), int(one["completion"]), pico(one["cost"]))
        for one in ask.sql(f"SELECT calls, prompt, completion, cost FROM audited WHERE {mine} ORDER BY id LIMIT $most", its)
    ]
    found = prospect.look_ahead(runs, rates[0], rates[1], prospect.Strategy("mask"))
    if not found.gain:
        return made
    return made._replace(shorter=made.cost * int(found.net * 1000) // 1000, why=f"masking old tool results keeps {found.net:.0%}")


# -- 4 -----------------------------------------------------------------------------------------------------------------


WORK = """{when} AND purpose <> 'embedding' AND operation NOT IN ('retry', 'fallback') AND cause <> 'loop'
           AND attempt_kind = 'first' AND status IN ('ok', 'error')"""


def used(ask: Asker) -> Used:
    """Dollars by model, and what could move. How calls look is read from the latest ones, what they cost from all."""
    by = "feature, provider, model_served AS model, purpose"
    looks = ask.sql(f"""
        SELECT {by}, count(*) AS calls, approx_quantile(latency_ms, 0.5) AS latency, approx_quantile({WHOLE}, 0.5) AS input_p50,
               approx_quantile({WRITTEN}, 0.5) AS output_p50, approx_quantile({WRITTEN}, 0.9) AS output_p90,
               approx_quantile(coalesce(tool_depth, 0), 0.9) AS depth,
               count(*) FILTER (tool_depth > 0 OR finish IN ('tool_use', 'tool_calls')) AS tools,
               count(*) FILTER (error = 'malformed_output') AS malformed
        FROM calls WHERE {WORK.format(when=LATELY)} GROUP BY ALL""")  # fmt: skip
    known = {(row["feature"], row["provider"], row["model"], row["purpose"]): row for row in looks}
    rows = ask.sql(f"""
        SELECT {by}, count(*) AS calls, sum(cost) AS cost, {", ".join(f"sum({n}) AS {n}" for n in TOKENS)}
        FROM calls WHERE {WORK.format(when=WITHIN)}
        GROUP BY ALL HAVING sum(cost) > 0 ORDER BY sum(cost) DESC LIMIT 200""")  # fmt: skip
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
    return Used(models, ask.cost, tuple(moves[:MOVES]))


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
    to = TIERS.get(row["provider"], {}).get(looks.tier)
    then = None if to is None or row["model"].startswith(to) else ask.bill(row["provider"], to, row, calls)
    if to is None or then is None or then * 10 > cost * 9:
        return None
    return Move(row["feature"], row["model"], to, looks.tier, calls, cost, then, looks.why)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def cached(ask: Asker) -> Cached:
    rows = ask.sql(f"""
        SELECT feature, model, sum(n - 1) AS n, sum(cost - first) AS cost FROM (
            SELECT max(feature) AS feature, max(model_served) AS model, count(*) AS n, sum(cost) AS cost, arg_min(cost, ts) AS first
            FROM calls WHERE {LATELY} AND status = 'ok' AND cost > 0 AND request_hash <> '' AND operation NOT IN ('retry', 'fallback')
            GROUP BY hash(tenant, request_hash, model_served, date_trunc('day', ts)) HAVING count(*) > 1)
        GROUP BY feature, model ORDER BY sum(cost - first) DESC, feature, model LIMIT {REPEATS}""")  # fmt: skip
    repeats = tuple(
        Line("repeat", row["feature"] or "(unnamed)", ask.all(pico(row["cost"])), ask.all(int(row["n"])), f"on {row['model']}")
        for row in rows
    )
    read = share(int(ask.total["read"] or 0), int(ask.total["whole"] or 0))
    latest = (ask.until - ask.latest) // 1_000_000 if ask.latest > ask.since else 0
    return Cached(ask.calls, ask.total["answered"], pico(ask.total["kept"]), read, repeats, _prompts(ask), latest)


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


# -- 6 -----------------------------------------------------------------------------------------------------------------


def stops(ask: Asker, loops: int, beyond: int) -> Stops:
    """What guards did in the period. `loops` and `beyond`: dollars, as the other questions found them."""
    rows = ask.reader.sqlite.execute(
        "SELECT act, count(*) FROM incidents WHERE last_ts >= ? AND ts < ? GROUP BY act", (ask.since, ask.until)
    ).fetchall()
    acts = {str(act): int(number) for act, number in rows}
    stopped = acts.pop("stopped", 0) + acts.pop("refused", 0)
    return Stops(stopped, sum(acts.values()), loops, beyond)
