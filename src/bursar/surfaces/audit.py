"""The six questions asked of a ledger: sums and percentiles by DuckDB, verdicts by rules/audit.py. `take` is the whole of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..domain.policy import Policy
from ..domain.usage import Tokens
from ..rules import audit as rules
from ..rules import audit_control, audit_money, prospect, shape
from ..rules import price as pricing
from ..rules.audit import Answer, Audit, Line, Scale
from ..rules.audit_control import Cached, Drill, Flow, Move, Stops, Talks, Used
from ..rules.audit_money import Fall, Program, Spent
from ..stores.pricebook import PriceBook
from ..stores.query import LABEL, TOP_MAX, Filter, Query
from ..stores.reader import Reader
from . import periods, price_sync
from .cli_common import pico

USUAL_US = 30 * rules.DAY_US  # without a period: so much, up to the last row
SLACK = 10  # a period is whole when its first and last row are within a tenth of it from its ends
MEMORY = "350MB"
LOOKED_AT = 1_000_000  # rows; of more, one in so many conversations and requests is looked at where each must be seen by itself
FLOWS = 8
RUNS = 2_000  # conversations of a flow that shortening is worked out on
PROGRAMS = 3
MULTIPLIERS = 24
MOVES = 5
CACHE_US = 300_000_000  # a provider's prompt cache holds so long
CACHE_LEAST = 1_024  # tokens that are cached at all

TOKENS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
WHOLE = "coalesce(input, 0) + coalesce(cache_read, 0) + coalesce(cache_write, 0) + coalesce(cache_write_1h, 0)"
WRITTEN = "coalesce(output, 0) + coalesce(reasoning, 0)"
WITHIN = "ts >= make_timestamptz($since) AND ts < make_timestamptz($until)"
COLUMNS = (
    "operation", "purpose", "cause", "tenant", "feature", "flow", "conversation", "turn", "tool_depth", "try_no", "status", "error",
    "finish", "provider", "model_requested", "model_served", "request_hash", "prefix_hash", "latency_ms", "cost", "cost_history",
    "saved", "saved_by", *TOKENS,
)  # fmt: skip
# What the usual products call cheap, standard and premium, where the policy does not say: models of the price book.
TIERS = {
    "openai": {"cheap": "gpt-5-nano", "standard": "gpt-5-mini"},
    "anthropic": {"cheap": "claude-haiku-4-5", "standard": "claude-sonnet-4-5"},
    "gemini": {"cheap": "gemini-2.5-flash-lite", "standard": "gemini-2.5-flash"},
}


def open_reader(folder: str | os.PathLike[str], *, skip_damaged: bool = False) -> Reader:
    """A reader with no more memory than an audit needs: 10 M rows in well under 600 MB."""
    return Reader(os.fspath(folder), skip_damaged=skip_damaged, memory=MEMORY)


def take(reader: Reader, policy: Policy, period: periods.Period, now: int) -> Audit:
    """The audit of a period; without one, of the thirty days up to the ledger's last row. `now` in microseconds."""
    limits = rules.limits(policy.audit)
    span = _span(reader, period)
    held = audit_control.bounds(policy)
    drill = last_drill(reader)
    ask = _Asker(reader, policy, span) if span is not None else None
    if ask is None or not ask.rows:
        per = rules.scale(0, 0)
        stops = ask.stops(0, 0) if ask is not None else Stops(0, 0, 0, 0)
        nothing = Talks(0, (0, 0, 0), (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, 0, ())
        calls = [rules.empty(key, n) for n, key in enumerate(list(rules.QUESTIONS)[:5], 1)]
        sixth = audit_control.guard(held, stops, drill, nothing, now, limits, per, policy.guard)
        return Audit(period.since, period.until, 0, 0, 0, 0, False, 0, (*calls, sixth))
    per = ask.scale()
    spent, falls, talks, used, cached = ask.spent(), ask.falls(), ask.talks(), ask.used(), ask.cached()
    loops = sum(line.cost for line in spent.multipliers if line.kind == "loop")
    stops = ask.stops(loops, sum(flow.beyond for flow in talks.flows))
    answers: tuple[Answer, ...] = (
        audit_money.attribution(spent, limits, per),
        audit_money.fallback(falls, ask.cost, ask.calls, limits, per, False),
        audit_control.growth(talks, held, limits, per),
        audit_control.tiers(used, limits, per),
        audit_control.cache(cached, ask.cost, limits, per, False),
        audit_control.guard(held, stops, drill, talks, now, limits, per, policy.guard),
    )
    return Audit(
        ask.since, ask.until, per.days, ask.calls, ask.cost, per.month(ask.cost), per.times != per.over, spent.unpriced, answers
    )


def last_drill(reader: Reader) -> Drill | None:
    """The newest drill that the ledger knows of."""
    row = reader.sqlite.execute("SELECT ts, policy, passed FROM drills ORDER BY ts DESC, n DESC LIMIT 1").fetchone()
    return None if row is None else Drill(row[0], row[1], bool(row[2]))


def _span(reader: Reader, period: periods.Period) -> tuple[int, int, bool] | None:
    """(since, until, whole) of the rows to look at, or None where there is none. `whole`: the period has traffic to both its ends,
    so that its length counts, and not only the time between its first and last row."""
    since, until = period.since, period.until
    (seen,) = reader.query(Query(("rows", "first", "last"), (), (), since, until))
    if not seen["rows"]:
        return None
    first, last = seen["first"], seen["last"]
    if since is None:
        since = first if until is not None else max(first, last - USUAL_US)
    end = last + 1 if until is None else until
    slack = max(end - since, 0) // SLACK
    return since if first - since <= slack else first, end if end - last <= slack else last + 1, True


class _Asker:
    def __init__(self, reader: Reader, policy: Policy, span: tuple[int, int, bool]) -> None:
        self.reader, self.policy = reader, policy
        self.since, self.until, _ = span
        self.values = {"since": self.since, "until": self.until}
        reader.totals(COLUMNS, self.since, self.until)
        (row,) = self._ask(f"""
            SELECT count(*) AS rows, sum(cost) AS cost, sum(cost_history) AS history,
                   count(*) FILTER (try = 1 AND attempt_kind <> 'correction') AS calls,
                   {", ".join(f"sum(cost) FILTER ({n} = '') AS without_{n}" for n in ("tenant", "feature", "flow", "conversation"))},
                   sum({WHOLE}) AS whole, sum(cache_read) AS read, sum(saved) FILTER (saved_by IN ('cache', 'near')) AS kept,
                   count(*) FILTER (saved_by IN ('cache', 'near')) AS answered
            FROM calls WHERE {WITHIN}""")  # fmt: skip
        self.total = row
        self.rows, self.calls, self.cost = int(row["rows"]), int(row["calls"]), _pico(row["cost"])
        self.sample = 1
        while self.rows // self.sample > LOOKED_AT:
            self.sample *= 2
        self._book: PriceBook | None = None

    def scale(self) -> Scale:
        return rules.scale(self.since, self.until)

    def _ask(self, text: str, more: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        wanted = {**self.values, **(more or {})}
        result = self.reader.duck.execute(text, {name: value for name, value in wanted.items() if f"${name}" in text})
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def _query(self, measures: Sequence[str], by: Sequence[str], *where: Filter, top: int = 0) -> list[dict[str, Any]]:
        found = self.reader.query(Query(tuple(measures), tuple(by), where, self.since, self.until, top=top or TOP_MAX))
        self.reader.totals(COLUMNS, self.since, self.until)
        return found

    # -- prices --------------------------------------------------------------------------------------------------------

    @property
    def book(self) -> PriceBook:
        if self._book is None:
            self._book = PriceBook.load(price_sync.ensure_book(self.reader.place.file.parent), self.policy.price)
        return self._book

    def _price(self, provider: str, model: str):
        table = self.policy.providers.get(provider)
        return self.book.find((table.prices if table else "") or provider, model, self.until)

    def _bill(self, provider: str, model: str, row: Mapping[str, Any], calls: int) -> int | None:
        """What the row's sums of tokens cost at this model, each call as the mean one; None where no price is known."""
        price = self._price(provider, model)
        if price is None or not calls:
            return None
        each = Tokens(**{name: int(row[name] or 0) // calls for name in TOKENS})
        pico = pricing.bill(each, price).pico
        return None if pico is None else pico * calls

    # -- 1 and 2 -------------------------------------------------------------------------------------------------------

    def spent(self) -> Spent:
        found: dict[tuple[str, str], list[int]] = {}
        for row in self._query(("cost", "tries"), ("purpose", "operation", "cause", "model_requested", "model_served")):
            _add(found, _multiplier(row), row)
        for purpose, label in (("eval", "suite"), ("embedding", "corpus"), ("background", "")):
            names = (f"{LABEL}{label}", "flow") if label else ("feature", "flow")
            same = (Filter("purpose", (purpose,)), Filter("operation", (purpose,)), Filter("cause", ("loop",), True))
            for row in self._query(("cost", "tries"), names, *same):
                _add(found, (purpose, row[names[0]] or row["flow"]), row)
        again = self._embedded_again()
        lines = [Line(kind, name, cost, calls, again.get(name, "") if kind == "embedding" else "") for (kind, name), (cost, calls) in found.items()]
        lines.sort(key=lambda line: (-line.cost, line.kind, line.name))
        (unpriced,) = self._query(("unpriced",), ())
        without = {name: _pico(self.total[f"without_{name}"]) for name in ("feature", "tenant", "flow", "conversation")}
        return Spent(self.cost, without, tuple(lines[:MULTIPLIERS]), _pico(self.total["history"]), unpriced["unpriced"], self._programs())

    def _programs(self) -> tuple[Program, ...]:
        if not self.total["without_feature"]:
            return ()
        unsaid = (Filter("feature", ("",)), Filter("prefix_hash", ("",), True))
        made: list[Program] = []
        for row in self._query(("cost", "calls"), ("prefix_hash",), *unsaid, top=PROGRAMS):
            models = self._query(("cost",), ("model_served",), unsaid[0], Filter("prefix_hash", (row["prefix_hash"],)), top=2)
            names = ", ".join(one["model_served"] for one in models)
            made.append(Program(row["prefix_hash"], names, row["calls"], _pico(row["cost"])))
        return tuple(made)

    def _embedded_again(self) -> dict[str, str]:
        """By corpus, how much of it was embedded before: batches sent again byte for byte, else days that are like the day before."""
        made: dict[str, str] = {}
        days: dict[str, list[int]] = {}
        corpus = "coalesce(nullif(map_extract_value(labels, 'corpus'), ''), flow)"
        self.reader.totals((*COLUMNS, "labels"), self.since, self.until)
        for row in self._ask(f"""
            SELECT {corpus} AS corpus, date_trunc('day', ts) AS day, sum({WHOLE}) AS tokens, sum({WHOLE}) FILTER (before > 0) AS again
            FROM (SELECT *, row_number() OVER (PARTITION BY tenant, request_hash, model_served ORDER BY ts) - 1 AS before
                  FROM calls WHERE {WITHIN} AND purpose = 'embedding' AND operation = 'embedding' AND status = 'ok')
            GROUP BY ALL ORDER BY day""" if self.rows <= LOOKED_AT else f"""
            SELECT {corpus} AS corpus, date_trunc('day', ts) AS day, sum({WHOLE}) AS tokens, 0 AS again
            FROM calls WHERE {WITHIN} AND purpose = 'embedding' AND operation = 'embedding' GROUP BY ALL ORDER BY day"""):
            name = row["corpus"]
            days.setdefault(name, []).append(int(row["tokens"] or 0))
            if row["again"]:
                made[name] = str(int(made.get(name, "0")) + int(row["again"]))
        for name, each in days.items():
            whole = sum(each)
            told: list[str] = []
            if name in made and whole:
                told.append(f"{rules.per_cent(rules.share(int(made[name]), whole))} sent before, byte for byte")
            steady = sum(min(a, b) for a, b in zip(each, each[1:], strict=False))
            if len(each) >= 5 and steady * 10 >= whole * 7:
                told.append(f"{rules.per_cent(rules.share(steady, whole))} is as much as the day before: done again, or new?")
            made[name] = "; ".join(told)
        return made

    def falls(self) -> list[Fall]:
        rows = self._query(("cost", "tries", *TOKENS), ("provider", "model_requested", "model_served", "cause"), Filter("operation", ("fallback",)))
        if not rows:
            return []
        asked = {row["model_requested"]: row["calls"] for row in self._query(("calls",), ("model_requested",))}
        sold = {row["model_requested"]: row["provider"] for row in self._query(("calls",), ("model_requested", "provider"))[::-1]}
        found: dict[tuple[str, str, str, str], Fall] = {}
        for row in rows:
            why, _, model = row["cause"].partition(":")
            model = model or row["model_requested"]
            by = "bursar" if model == row["model_requested"] else "client"
            key = (model, row["model_served"], by, why or "a label")
            instead = self._bill(sold.get(model, row["provider"]), model, row, row["tries"])
            had = found.get(key, Fall(*key, 0, asked.get(model, 0), 0, 0))
            found[key] = had._replace(
                calls=had.calls + row["tries"], cost=had.cost + _pico(row["cost"]),
                instead=None if instead is None or had.instead is None else had.instead + instead,
            )  # fmt: skip
        return list(found.values())

    # -- 3 -------------------------------------------------------------------------------------------------------------

    def talks(self) -> Talks:
        self._ask(f"""
            CREATE OR REPLACE TEMP TABLE audited AS
            SELECT hash(conversation) AS id, any_value(flow) AS flow, any_value(feature) AS feature, sum(cost) AS cost, max(turn) AS turns,
                   max(tool_depth) AS depth, sum({WHOLE}) AS prompt, sum({WRITTEN}) AS completion, count(*) AS calls
            FROM calls WHERE {WITHIN} AND conversation <> '' AND purpose = 'primary' GROUP BY conversation""")  # fmt: skip
        (all_,) = self._ask("""
            SELECT count(*) AS n, sum(cost) AS cost, quantile_disc(turns, [0.5, 0.95]) AS turns, max(turns) AS turns_most,
                   quantile_disc(prompt + completion, [0.5, 0.95]) AS tokens, max(prompt + completion) AS tokens_most,
                   quantile_disc(cost, [0.5, 0.95]) AS costs, max(cost) AS cost_most FROM audited""")  # fmt: skip
        n = all_["n"]
        if not n:
            return Talks(0, (0, 0, 0), (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, self.cost, ())
        (tail,) = self._ask("SELECT sum(cost) AS cost FROM (SELECT cost FROM audited ORDER BY cost DESC LIMIT $most)", {"most": -(-n // 100)})
        flows = [self._flow(row) for row in self._ask("""
            SELECT flow, CASE WHEN flow = '' THEN feature ELSE any_value(feature) END AS feature, count(*) AS n, sum(cost) AS cost,
                   quantile_disc(cost, 0.99) AS p99_cost, quantile_disc(turns, 0.99) AS p99_turns, quantile_disc(depth, 0.99) AS p99_depth
            FROM audited GROUP BY flow, CASE WHEN flow = '' THEN feature ELSE '' END ORDER BY sum(cost) DESC, flow LIMIT $flows""".replace(
            "any_value(feature)", "mode(feature)").replace("CASE WHEN flow = '' THEN feature ELSE mode(feature) END", "mode(feature)"),
            {"flows": FLOWS})]  # fmt: skip
        turns, tokens, costs = all_["turns"] or [0, 0], all_["tokens"] or [0, 0], all_["costs"] or [0, 0]
        return Talks(
            n, (turns[0] or 0, turns[1] or 0, all_["turns_most"] or 0), (int(tokens[0]), int(tokens[1]), int(all_["tokens_most"])),
            (_pico(costs[0]), _pico(costs[1]), _pico(all_["cost_most"])), _pico(all_["cost"]), _pico(tail["cost"]), -(-n // 100),
            _pico(self.total["history"]), self.cost, tuple(flows),
        )  # fmt: skip

    def _flow(self, row: Mapping[str, Any]) -> Flow:
        p99 = _pico(row["p99_cost"])
        limit = audit_control.limit_of(p99)
        its = {"flow": row["flow"], "feature": row["feature"]}
        mine = "flow = $flow" + ("" if row["flow"] else " AND feature = $feature")
        (over,) = self._ask(
            f"SELECT count(*) AS n, sum(cost - $limit::DECIMAL(38,12)) AS beyond FROM audited WHERE {mine} AND cost > $limit::DECIMAL(38,12)",
            {**its, "limit": _decimal(limit)},
        )
        made = Flow(
            row["flow"], row["feature"], row["n"], _pico(row["cost"]), p99, row["p99_turns"] or 0, row["p99_depth"] or 0, limit,
            over["n"], _pico(over["beyond"]),
        )  # fmt: skip
        runs = [
            prospect.Run(one["calls"], int(one["prompt"]), int(one["completion"]), _pico(one["cost"]))
            for one in self._ask(f"SELECT calls, prompt, completion, cost FROM audited WHERE {mine} ORDER BY id LIMIT {RUNS}", its)
        ]
        return self._shorter(made, runs, its)

    def _shorter(self, flow: Flow, runs: list[prospect.Run], its: Mapping[str, str]) -> Flow:
        only = [Filter("purpose", ("primary",)), Filter("flow", (its["flow"],))]
        if not its["flow"]:
            only.append(Filter("feature", (its["feature"],)))
        main = self._query(("cost",), ("provider", "model_served"), *only, top=1)
        price = self._price(main[0]["provider"], main[0]["model_served"]) if main else None
        rates = [pricing.rate_of(price, unit) for unit in ("input", "output")] if price is not None else []
        if len(rates) < 2 or rates[0] is None or rates[1] is None:
            return flow
        found = prospect.look_ahead(runs, rates[0][0].base, rates[1][0].base, prospect.Strategy("mask"))
        if not found.gain:
            return flow
        kept = flow.cost * int(found.net * 1000) // 1000
        return flow._replace(shorter=kept, why=f"masking old tool results keeps {found.net:.0%}")

    # -- 4 -------------------------------------------------------------------------------------------------------------

    def used(self) -> Used:
        rows = self._ask(f"""
            SELECT feature, provider, model_served AS model, purpose, count(*) AS calls, sum(cost) AS cost,
                   approx_quantile(latency_ms, 0.5) AS latency, approx_quantile({WHOLE}, 0.5) AS input_p50,
                   approx_quantile({WRITTEN}, [0.5, 0.9]) AS written, approx_quantile(coalesce(tool_depth, 0), 0.9) AS depth,
                   count(*) FILTER (tool_depth > 0 OR finish IN ('tool_use', 'tool_calls')) AS tools,
                   count(*) FILTER (error = 'malformed_output') AS malformed, {", ".join(f"sum({n}) AS {n}" for n in TOKENS)}
            FROM calls WHERE {WITHIN} AND purpose <> 'embedding' AND operation NOT IN ('retry', 'fallback') AND cause <> 'loop'
                 AND attempt_kind = 'first' AND status IN ('ok', 'error')
            GROUP BY ALL HAVING sum(cost) > 0 ORDER BY sum(cost) DESC LIMIT 200""")  # fmt: skip
        moves: list[Move] = []
        for row in rows:
            move = self._move(row)
            if move is not None:
                moves.append(move)
        moves.sort(key=lambda one: one.then - one.cost)
        models = [
            Line("model", row["model_served"] or "(unknown)", _pico(row["cost"]), row["tries"])
            for row in self._query(("cost", "tries"), ("model_served",), top=40)
            if row["cost"]
        ]
        return Used(tuple(models), self.cost, tuple(moves[:MOVES]), False)

    def _move(self, row: Mapping[str, Any]) -> Move | None:
        calls, cost = row["calls"], _pico(row["cost"])
        if rules.share(cost, self.cost) < 1_000:
            return None  # under a thousandth of the bill
        written = row["written"] or [0, 0]
        work = shape.Work(
            row["feature"], row["model"], calls, cost, row["latency"] or 0, row["input_p50"] or 0, written[0] or 0, written[1] or 0,
            row["tools"] / calls, row["depth"] or 0, row["malformed"] / calls, row["purpose"],
        )  # fmt: skip
        looks = shape.shape(work)
        to = TIERS.get(row["provider"], {}).get(looks.tier)
        if to is None or row["model"].startswith(to):
            return None
        then = self._bill(row["provider"], to, row, calls)
        if then is None or then * 10 > cost * 9:
            return None
        return Move(row["feature"], row["model"], to, looks.tier, calls, cost, then, looks.why)

    # -- 5 -------------------------------------------------------------------------------------------------------------

    def cached(self) -> Cached:
        some = {"sample": self.sample}
        repeats = [
            Line("repeat", row["feature"] or "(unnamed)", _pico(row["cost"]) * self.sample, int(row["n"]) * self.sample, row["model"])
            for row in self._ask(f"""
                SELECT feature, model, sum(n - 1) AS n, sum(cost - first) AS cost FROM (
                    SELECT any_value(feature) AS feature, any_value(model_served) AS model, count(*) AS n, sum(cost) AS cost,
                           arg_min(cost, ts) AS first
                    FROM calls WHERE {WITHIN} AND status = 'ok' AND cost > 0 AND request_hash <> '' AND operation NOT IN ('retry', 'fallback')
                         AND hash(request_hash) % $sample = 0
                    GROUP BY hash(tenant, request_hash, model_served, date_trunc('day', ts)) HAVING count(*) > 1)
                GROUP BY feature, model ORDER BY sum(cost - first) DESC LIMIT 5""", some)
        ]  # fmt: skip
        total = self.total
        read = rules.share(int(total["read"] or 0), int(total["whole"] or 0))
        return Cached(self.calls, total["answered"], _pico(total["kept"]), read, tuple(repeats), self._prompts(), self.sample)

    def _prompts(self) -> tuple[Line, ...]:
        """What the beginnings of prompts would have cost less, read from the provider's cache. A history that became shorter was
        cut, and then only the part before the cut could have been read: nobody knows how much, so it counts as none."""
        found: dict[str, list[int]] = {}
        for row in self._ask(f"""
            SELECT feature, provider, model, count(*) AS calls, sum(greatest(again - read, 0)) AS unread,
                   sum(CASE WHEN written = 0 THEN whole - greatest(again, read) ELSE 0 END) AS fresh
            FROM (SELECT feature, provider, model_served AS model, {WHOLE} AS whole, coalesce(cache_read, 0) AS read,
                         coalesce(cache_write, 0) + coalesce(cache_write_1h, 0) AS written,
                         CASE WHEN epoch_us(ts) - epoch_us(lag(ts) OVER talk) <= {CACHE_US} AND lag(prefix_hash) OVER talk = prefix_hash
                                   AND lag(model_served) OVER talk = model_served AND lag({WHOLE}) OVER talk <= {WHOLE}
                                   AND lag({WHOLE}) OVER talk >= {CACHE_LEAST}
                              THEN lag({WHOLE}) OVER talk ELSE 0 END AS again
                  FROM calls WHERE {WITHIN} AND conversation <> '' AND status = 'ok' AND purpose <> 'embedding' AND operation <> 'fallback'
                       AND hash(conversation) % $sample = 0
                  WINDOW talk AS (PARTITION BY conversation ORDER BY ts, try))
            GROUP BY ALL""", {"sample": self.sample}):  # fmt: skip
            price = self._price(row["provider"], row["model"])
            if price is None:
                continue
            rates = [pricing.rate_of(price, unit) for unit in ("input", "cache_read", "cache_write")]
            fresh, read, write = (rate[0].base if rate is not None else 0 for rate in rates)
            if not fresh or not 0 < read < fresh:
                continue
            pico = (int(row["unread"]) * (fresh - read) - int(row["fresh"]) * max(write - fresh, 0)) // 1000
            if pico > 0:
                had = found.setdefault(row["feature"] or "(unnamed)", [0, 0])
                had[0] += pico * self.sample
                had[1] += row["calls"] * self.sample
        lines = [Line("prompt", name, cost, calls) for name, (cost, calls) in found.items()]
        return tuple(sorted(lines, key=lambda line: -line.cost)[:5])

    # -- 6 -------------------------------------------------------------------------------------------------------------

    def stops(self, loops: int, beyond: int) -> Stops:
        rows = self.reader.sqlite.execute(
            "SELECT act, count(*) FROM incidents WHERE last_ts >= ? AND last_ts < ? GROUP BY act", (self.since, self.until)
        ).fetchall()
        acts = {str(act): int(n) for act, n in rows}
        stopped = acts.pop("stopped", 0) + acts.pop("refused", 0)
        return Stops(stopped, sum(acts.values()), loops, beyond)


def _add(found: dict[tuple[str, str], list[int]], key: tuple[str, str] | None, row: Mapping[str, Any]) -> None:
    if key is not None and (row["cost"] or row["tries"]):
        had = found.setdefault(key, [0, 0])
        had[0] += _pico(row["cost"])
        had[1] += row["tries"]


RETRIES = {"sdk_retry": "sdk retry", "reask": "re-ask", "repair": "repair"}


def _multiplier(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """What multiplied the bill by these rows; None for plain work, and for what a suite or a corpus is asked for apart."""
    operation, cause = row["operation"], row["cause"]
    kind, _, name = cause.partition(":")
    if cause == "loop":
        return ("loop", "")
    if operation == "fallback":
        return ("fallback", f"{name or row['model_requested']} -> {row['model_served']}")
    if operation == "retry":
        return ("tool", name) if kind == "tool" else (RETRIES.get(kind, "retry"), "")
    if kind == "switch" and operation == "primary":
        return ("switch", name)
    return ("control", "") if row["purpose"] == "control" else None


def _pico(value: Any) -> int:
    return 0 if value is None else pico(value)


def _decimal(value: int) -> str:
    from ..domain.money import plain

    return plain(value)
