"""What questions one and two are answered from: labels, everything that multiplies the bill, and fallbacks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ..rules.audit import Line, per_cent, share
from ..rules.audit_money import Fall, Program, Spent
from ..stores.columns import label_column
from ..stores.query import LABEL, Filter
from .audit_asker import LABELS, LOOKED_AT, TOKENS, WHOLE, WITHIN, Asker, pico

PROGRAMS = 3
MULTIPLIERS = 24
DAYS_LEAST = 5  # of embedding, before one is compared with the next
STEADY = 700_000  # millionths of each day's tokens that the day before had too: then somebody should look
RETRIES = {"sdk_retry": "sdk retry", "reask": "re-ask", "repair": "repair"}
# What work was for, and who names it; where nobody does, the flow or the feature stands in.
NAMED = (("eval", f"{LABEL}suite", "flow"), ("embedding", f"{LABEL}corpus", "flow"), ("background", "feature", "flow"))


class Embedded(NamedTuple):
    """Of one corpus, what was embedded before: requests that came again byte for byte (`cost`, `calls`), and dollars for as much as
    the day before had too (`steady`; of a corpus that is done once, none). `note` says both in words."""

    cost: int
    calls: int
    steady: int
    note: str


def embedded(ask: Asker) -> dict[str, Embedded]:
    seen = "row_number() OVER (PARTITION BY tenant, request_hash, model_served ORDER BY ts) > 1"
    rows = ask.sql(
        f"""SELECT corpus, day, sum(whole) AS tokens, sum(cost) AS whole_cost, sum(whole) FILTER (again) AS again,
                   sum(cost) FILTER (again) AS cost, count(*) FILTER (again) AS calls
            FROM (SELECT coalesce(nullif({label_column("corpus")}, ''), flow) AS corpus, date_trunc('day', ts) AS day, cost,
                         {WHOLE} AS whole, {seen if ask.rows <= LOOKED_AT else "false"} AS again
                  FROM calls WHERE {WITHIN} AND purpose = 'embedding' AND operation = 'embedding' AND status = 'ok')
            GROUP BY ALL ORDER BY corpus, day""",
        columns=(f"{LABEL}corpus",),
    )
    made: dict[str, Embedded] = {}
    for corpus in {row["corpus"] for row in rows}:
        mine = [row for row in rows if row["corpus"] == corpus]
        days = [int(row["tokens"] or 0) for row in mine]
        again, steady = sum(int(row["again"] or 0) for row in mine), sum(min(pair) for pair in pairwise(days))
        told = [f"{per_cent(share(again, sum(days)))} sent before, to the byte"] if again else []
        if len(days) >= DAYS_LEAST and share(steady, sum(days)) >= STEADY:
            told.append(f"{per_cent(share(steady, sum(days)))} as on the day before: done again?")
        else:
            steady = 0
        common = sum(pico(row["whole_cost"]) for row in mine) * steady // max(sum(days), 1)
        made[corpus] = Embedded(sum(pico(row["cost"]) for row in mine), sum(row["calls"] for row in mine), common, "; ".join(told))
    return made


def spent(ask: Asker, again: Mapping[str, Embedded]) -> Spent:
    found: dict[tuple[str, str], tuple[int, int]] = {}

    def add(key: tuple[str, str] | None, row: Mapping[str, Any]) -> None:
        if key is not None and (row["cost"] or row["tries"]):
            cost, tries = found.get(key, (0, 0))
            found[key] = cost + pico(row["cost"]), tries + row["tries"]

    purposes: set[str] = set()
    for row in ask.query(("cost", "tries"), ("purpose", "operation", "cause", "model_requested", "model_served")):
        add(_multiplier(row), row)
        purposes.add(row["purpose"])
    for purpose, first, second in (one for one in NAMED if one[0] in purposes):
        only = (Filter("purpose", (purpose,)), Filter("operation", (purpose,)), Filter("cause", ("loop",), True))
        for row in ask.query(("cost", "tries"), (first, second), *only):
            add((purpose, row[first] or row[second]), row)
    notes = {name: corpus.note for name, corpus in again.items()}
    lines = [
        Line(kind, name, cost, tries, notes.get(name, "") if kind == "embedding" else "")
        for (kind, name), (cost, tries) in found.items()
    ]
    lines.sort(key=lambda line: (-line.cost, line.kind, line.name))
    without = {name: pico(ask.total[f"without_{name}"]) for name in LABELS}
    history = pico(ask.total["history"])
    return Spent(ask.cost, without, tuple(lines[:MULTIPLIERS]), history, ask.unpriced, _programs(ask) if without["feature"] else ())


def _multiplier(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """What multiplied the bill by these rows; None for plain work, and for what is asked for by name apart."""
    operation, cause = row["operation"], row["cause"]
    kind, _, name = cause.partition(":")
    if cause == "loop":
        return "loop", ""
    if operation == "fallback":
        return "fallback", f"{name or row['model_requested']} -> {row['model_served']}"
    if operation == "retry":
        return ("tool", name) if kind == "tool" else (RETRIES.get(kind, "retry"), "")
    if kind == "switch" and operation == "primary":
        return "switch", name
    return ("control", "") if row["purpose"] == "control" else None


def _programs(ask: Asker) -> tuple[Program, ...]:
    """The dearest programs among the calls that no feature names."""
    unsaid = Filter("feature", ("",))
    made: list[Program] = []
    for row in ask.search(("cost", "calls"), ("prefix_hash",), unsaid, Filter("prefix_hash", ("",), True), top=PROGRAMS):
        if not row["cost"] and not row["calls"]:
            continue  # named by now
        mine = Filter("prefix_hash", (row["prefix_hash"],))
        models = ", ".join(one["model_served"] for one in ask.search(("cost",), ("model_served",), unsaid, mine, top=2))
        made.append(Program(row["prefix_hash"], models, row["calls"], pico(row["cost"])))
    return tuple(made)


def falls(ask: Asker) -> list[Fall]:
    by = ("provider", "model_requested", "model_served", "cause")
    rows = ask.query(("cost", "tries", *TOKENS), by, Filter("operation", ("fallback",)))
    if not rows:
        return []
    asked: dict[str, int] = {}
    seller: dict[str, str] = {}
    for row in ask.query(("calls", "tries"), ("model_requested", "provider")):
        asked[row["model_requested"]] = asked.get(row["model_requested"], 0) + row["calls"]
        seller.setdefault(row["model_requested"], row["provider"])  # who sells most of it
    found: dict[tuple[str, str, str, str], Fall] = {}
    for row in rows:
        why, _, model = row["cause"].partition(":")
        model = model or row["model_requested"]
        key = (model, row["model_served"], "bursar" if model == row["model_requested"] else "the client", why or "a label")
        instead = ask.bill(seller.get(model, row["provider"]), model, row, row["tries"])
        had = found.get(key, Fall(*key, 0, asked.get(model, 0), 0, 0))
        found[key] = had._replace(
            calls=had.calls + row["tries"], cost=had.cost + pico(row["cost"]),
            instead=None if instead is None or had.instead is None else had.instead + instead,
        )  # fmt: skip
    return list(found.values())
