"""How the audit asks a ledger: one period's rows, SQL over the view `calls`, and what tokens cost at another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..domain.policy import Policy
from ..domain.price import Price
from ..domain.usage import Tokens
from ..rules import price as pricing
from ..stores.pricebook import PriceBook
from ..stores.query import LABEL, TOP_MAX, Filter, Query
from ..stores.reader import Reader
from . import price_sync
from .cli_common import pico as exact

LOOKED_AT = 1_000_000  # rows; of a longer period, the latest are looked at where each must be seen by itself, and stand for all
LATEST_US = 3_600_000_000  # … of an hour at least

TOKENS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
WHOLE = "(coalesce(input, 0) + coalesce(cache_read, 0) + coalesce(cache_write, 0) + coalesce(cache_write_1h, 0))"
WRITTEN = "(coalesce(output, 0) + coalesce(reasoning, 0))"
WITHIN = "ts >= make_timestamptz($since) AND ts < make_timestamptz($until)"
LATELY = "ts >= make_timestamptz($latest) AND ts < make_timestamptz($until)"
KEPT = "list_has_any(string_split(saved_by, '+'), ['cache', 'near'])"  # a kept reply answered
LABELS = ("feature", "tenant", "flow", "conversation")
JUDGED = "judged"  # the table of all that is only added up, read once
BY = ("purpose", "operation", "cause", "provider", "model_requested", "model_served", "feature", "flow", "saved_by", f"{LABEL}suite",
      f"{LABEL}corpus", "tenant", "conversation")  # fmt: skip
NOBODY = (("tenant", ("",)), ("conversation", ("",)))  # of these only whether somebody said it
COLUMNS = (
    "operation", "purpose", "cause", "tenant", "feature", "flow", "conversation", "turn", "tool_depth", "try_no", "status", "error",
    "finish", "provider", "model_requested", "model_served", "request_hash", "prefix_hash", "latency_ms", "cost", "cost_history",
    "saved", "saved_by", "flags", *TOKENS,
)  # fmt: skip


class Asker:
    """One period of a ledger. `total` has its sums; `latest`, from when on rows are looked at one by one; `stands`: how many rows
    of the period there are for those (times, over)."""

    def __init__(self, reader: Reader, policy: Policy, since: int, until: int) -> None:
        self.reader, self.policy, self.since, self.until = reader, policy, since, until
        self._book: PriceBook | None = None
        measures = ("cost", "calls", "tries", "unpriced", "cost_history", "saved", *TOKENS)
        reader.gather(Query(measures, BY, (), since, until, keep=NOBODY), JUDGED)
        unsaid = ", ".join(f"""sum("sum cost") FILTER ({name} = '') AS without_{name}""" for name in LABELS)
        whole = " + ".join(f'coalesce(sum("sum {name}"), 0)' for name in TOKENS[:4])
        (self.total,) = self.sql(f"""
            SELECT sum(number) AS rows, sum("sum cost") AS cost, sum("sum cost_history") AS history, {unsaid}, {whole} AS whole,
                   sum("sum cache_read") AS read, sum("sum saved") FILTER ({KEPT}) AS kept,
                   coalesce(sum(number) FILTER ({KEPT}), 0) AS answered
            FROM {JUDGED}""")  # fmt: skip
        (counted,) = self.query(("calls", "unpriced"), ())
        self.calls, self.unpriced, self.cost = counted["calls"], counted["unpriced"], pico(self.total["cost"])
        self.rows = int(self.total["rows"] or 0)
        self.latest, self.stands = since, (1, 1)
        if self.rows > LOOKED_AT:
            self.latest = max(since, until - max((until - since) * LOOKED_AT // self.rows, LATEST_US))
            (seen,) = self.sql(f"SELECT count(*) AS rows FROM calls WHERE {LATELY}")
            self.stands = (self.rows, seen["rows"]) if seen["rows"] else (1, 1)

    def sql(self, text: str, more: Mapping[str, object] | None = None, *, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Rows of a statement of ours; `$since` and `$until` are the period's."""
        self.reader.totals((*COLUMNS, *columns), self.since, self.until)
        values = {"since": self.since, "until": self.until, **(more or {})}
        if "$latest" in text:
            values["latest"] = self.latest
        result = self.reader.duck.execute(text, {name: value for name, value in values.items() if f"${name}" in text})
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def query(self, measures: Sequence[str], by: Sequence[str], *where: Filter, top: int = TOP_MAX) -> list[dict[str, Any]]:
        """What is added up, by dimensions of BY."""
        return self.reader.ask(Query(tuple(measures), tuple(by), where, top=top), JUDGED)

    def search(self, measures: Sequence[str], by: Sequence[str], *where: Filter, top: int) -> list[dict[str, Any]]:
        """The same by anything, with a look at all rows."""
        return self.reader.query(Query(tuple(measures), tuple(by), where, self.since, self.until, top=top))

    def all(self, part: int) -> int:
        """What was counted in the latest rows, for the whole period."""
        return part * self.stands[0] // self.stands[1]

    def price(self, provider: str, model: str) -> Price | None:
        """The price in force at the period's end, with the operator's own."""
        if self._book is None:
            self._book = PriceBook.load(price_sync.ensure_book(self.reader.place.file.parent), self.policy.price)
        table = self.policy.providers.get(provider)
        return self._book.find((table.prices if table else "") or provider, model, self.until)

    def rate(self, provider: str, model: str, unit: str) -> int:
        """Femto-dollars of one; 0 where nobody knows."""
        price = self.price(provider, model)
        found = pricing.rate_of(price, unit) if price is not None else None
        return found[0].base if found is not None else 0

    def bill(self, provider: str, model: str, sums: Mapping[str, Any], calls: int) -> int | None:
        """What sums of tokens cost at this model, each call as the mean one; None where no price is known."""
        price = self.price(provider, model)
        if price is None or not calls:
            return None
        each = pricing.bill(Tokens(**{name: int(sums[name] or 0) // calls for name in TOKENS}), price).pico
        return None if each is None else each * calls


def pico(dollars: Any) -> int:
    """Pico-dollars of a sum; of nothing, none."""
    return 0 if dollars is None else exact(dollars)
