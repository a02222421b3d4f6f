"""What questions three and six are answered from: conversations by flow, and what guards did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..domain.money import plain
from ..rules import audit_guard as rules
from ..rules import prospect
from ..rules.audit_guard import Drill, Flow, Stops, Talks
from ..stores import drills, incidents
from ..stores.query import Filter
from ..stores.reader import Reader
from .audit_asker import WHOLE, WITHIN, WRITTEN, Asker, pico

FLOWS = 8
RUNS = 2_000  # conversations of a flow that shortening is worked out on

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


# -- 6 -----------------------------------------------------------------------------------------------------------------


def stops(ask: Asker, loops: int, beyond: int) -> Stops:
    """What guards did in the period. `loops` and `beyond`: dollars, as the other questions found them."""
    rows = ask.reader.sqlite.execute(
        "SELECT act, count(*) FROM incidents WHERE last_ts >= ? AND ts < ? GROUP BY act", (ask.since, ask.until)
    ).fetchall()
    acts = {str(act): int(number) for act, number in rows}
    for day in incidents.summed(ask.reader.sqlite, ask.since, ask.until):
        acts[day.act] = acts.get(day.act, 0) + day.incidents
    stopped = acts.pop("stopped", 0) + acts.pop("refused", 0)
    return Stops(stopped, sum(acts.values()), loops, beyond)


def last_drill(reader: Reader) -> Drill | None:
    """The newest drill that the ledger knows of."""
    return next((Drill(kept.ts, kept.policy, kept.passed) for kept in drills.newest(reader.sqlite)), None)
