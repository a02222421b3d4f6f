"""Why the bill changed, asked of a ledger: both periods' sums, the explanation, and what else happened at the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from ..rules.why import AGAIN, NOTHING, Explained, Leaf, Side, Sums, Talk, explain
from ..rules.why_findings import OTHERS, Told, tell
from ..stores.fault import LedgerFault
from ..stores.query import LABEL, TOP_MAX, Filter, Query
from ..stores.reader import Reader
from .cli_common import pico
from .statement import DoesNotFoot

LABELS = ("tenant", "feature", "flow")
COMBINATIONS_MAX = 400  # of label values told apart; beyond them the smallest values of the largest label are one
LOOKED_AT_MAX = 20_000  # combinations; beyond them each label is looked at by itself, and …
VALUES_MAX = 1000  # … so many values of one label that are looked at
FIRSTS_MAX = 3  # values first seen that are named one by one; more are counted
RELEASE = f"{LABEL}release"
DEAREST_LEAST = 0.02  # of the period's cost in one conversation, and …
DEAREST_TIMES = 10  # … so many times the mean one: then it is named

MEASURES = (
    "billed", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
    "cost", "cost_input", "cost_cache_read", "cost_cache_write", "cost_output",
)  # fmt: skip
WHAT = ("purpose", "operation", "cause", "model_served")
PRICED = Filter("price_status", ("unpriced",), True)
UNPRICED = Filter("price_status", ("unpriced",))
FIRSTS = (PRICED, Filter("purpose", ("primary",)), Filter("operation", AGAIN, True), Filter("status", ("ok", "unknown")))

Span = tuple[int, int]  # microseconds [since, until)
Keep = tuple[tuple[str, tuple[str, ...]], ...]  # as in Query


class Event(NamedTuple):
    """Something that happened in the ledger at a time; nobody says what came of it. `kind`: mark, policy, price, model, label,
    release, conversation."""

    ts: int
    kind: str
    text: str


class Report(NamedTuple):
    """The explanation of one change, with what is beside it. `unsure`: tries without a price (not in the dollars) and estimated
    ones (in them), before and now."""

    labels: tuple[str, ...]
    versus: Span
    this: Span
    explained: Explained
    told: Told
    events: list[Event]
    unpriced: tuple[int, int]
    estimated: tuple[int, int]
    folded: tuple[str, ...]  # labels whose smaller values were put together


def report(reader: Reader, labels: Sequence[str], where: Sequence[Filter], this: Span, versus: Span) -> Report:
    """Why `this` period cost what it did against `versus`. DoesNotFoot when the sums are not the totals asked for apart."""
    ask = _Asker(reader, tuple(labels), tuple(where))
    keep = ask.keep(versus, this)
    before, now = ask.side(versus, keep), ask.side(this, keep)
    totals = ask.total(versus), ask.total(this)
    found = explain(before, now)
    for name, booked, explained in (("before", totals[0]["cost"], found.before), ("now", totals[1]["cost"], found.now)):
        if (pico(booked) if booked is not None else 0) != explained:
            raise DoesNotFoot(f"the slices of the period {name} come to {explained} pico-dollars, its total is {booked} dollars; "
                              "run `bursar check` and report this")  # fmt: skip
    return Report(
        tuple(labels), versus, this, found, tell([name.removeprefix(LABEL) for name in labels], before, now, found),
        ask.events(versus, this, found), _both(totals, "unpriced"), _both(totals, "estimated"),
        tuple(name.removeprefix(LABEL) for name, _ in keep),
    )  # fmt: skip


class _Asker:
    def __init__(self, reader: Reader, labels: tuple[str, ...], where: tuple[Filter, ...]) -> None:
        self.reader, self.labels, self.where = reader, labels, where
        self.many = False  # too many combinations of the labels to look at
        self.firsts: dict[tuple[str, int], dict[str, int]] = {}  # when a value was first seen, before (-1) and now (1)

    def keep(self, versus: Span, this: Span) -> Keep:
        """Which values of the labels are told apart, where all of them would be too many: those that changed most."""
        combinations = {sign: self._combinations(span) for span, sign in ((versus, -1), (this, 1))}
        self.many = any(found is None for found in combinations.values())
        values: dict[str, list[str]] = {}
        more: set[str] = set()
        for n, label in enumerate(self.labels):
            sums: dict[str, int] = {}
            for span, sign in ((versus, -1), (this, 1)):
                firsts = self.firsts[label, sign] = {}
                rows = combinations[sign]
                parts = [(key[n], cost, first) for key, cost, first in rows] if rows is not None else self._values(label, span)
                more |= {label} if rows is None and len(parts) == VALUES_MAX else set()
                for value, cost, first in parts:
                    sums[value] = sums.get(value, 0) + sign * cost
                    firsts[value] = min(first, firsts.get(value, first))
            values[label] = sorted(sums, key=lambda value: (-abs(sums[value]), value))
        most = {label: len(found) for label, found in values.items()}
        there = None if self.many else {key for found in combinations.values() for key, _, _ in found or ()}
        while self._told_apart(values, most, there) > COMBINATIONS_MAX:
            largest = max(most, key=lambda label: most[label])
            most[largest] = most[largest] * 9 // 10
        return tuple(
            (label, tuple(found[: most[label]])) for label, found in values.items() if label in more or most[label] < len(found)
        )

    def _combinations(self, span: Span) -> list[tuple[tuple[str, ...], int, int]] | None:
        """(values, pico-dollars, first seen) of every combination of the labels; None when they are too many to look at."""
        rows = self.reader.query(Query(("cost", "first"), self.labels, self.where, *span, top=LOOKED_AT_MAX))
        if len(rows) == LOOKED_AT_MAX:
            return None
        return [(tuple(row[label] for label in self.labels), _pico(row["cost"]), row["first"]) for row in rows]

    def _values(self, label: str, span: Span) -> list[tuple[str, int, int]]:
        rows = self.reader.query(Query(("cost", "first"), (label,), self.where, *span, top=VALUES_MAX))
        return [(row[label], _pico(row["cost"]), row["first"]) for row in rows]

    def _told_apart(self, values: Mapping[str, list[str]], most: Mapping[str, int], there: set[tuple[str, ...]] | None) -> int:
        """How many combinations are left when of each label so many values are told apart: those there are, else those that
        could be."""
        if there is None:
            return prod(max(1, number) for number in most.values())
        kept = [set(values[label][: most[label]]) for label in self.labels]
        return len({tuple(value if value in own else None for value, own in zip(key, kept, strict=True)) for key in there})

    def side(self, span: Span, keep: Keep) -> Side:
        leaves: dict[Leaf, Sums] = {}
        ask = Query(MEASURES, (*self.labels, *WHAT), self.where, *span, top=TOP_MAX, keep=keep)
        rows = self.reader.query(ask)
        if len(rows) == TOP_MAX:
            raise LedgerFault("query", f"that makes {TOP_MAX:,} groups or more", "name fewer labels (--by), or narrow it (--where)")
        for row in rows:
            leaf = self._leaf(row)
            leaves[leaf] = leaves.get(leaf, NOTHING).plus(_sums(row))
        # A call whose price is not known has tokens without dollars, which would make every price seem lower: what is known of
        # it stays in the bill, as a charge without tokens.
        for row in self.reader.query(ask._replace(where=(*self.where, UNPRICED))):
            leaf, found = self._leaf(row), _sums(row)
            bare = Sums(*[-n for n in found])._replace(cost_other=found.cost - found.cost_other)
            leaves[leaf] = leaves[leaf].plus(bare)
        talks: dict[tuple[str, ...], Talk] = {}
        # Folding is cheaper here than there, where all combinations can be looked at.
        ask = Query(("conversations", "unthreaded"), self.labels, (*self.where, *FIRSTS), *span, keep=keep if self.many else ())
        kept = {label: set(values) for label, values in keep}
        for row in self.reader.query(ask):
            key = tuple(
                [value if label not in kept or value in kept[label] else OTHERS for label, value in zip(self.labels, self._key(row))]
            )
            had = talks.get(key, Talk())
            talks[key] = Talk(had.conversations + row["conversations"], had.alone + row["unthreaded"])
        return Side(leaves, talks)

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple([OTHERS if row[label] is None else row[label] for label in self.labels])

    def _leaf(self, row: Mapping[str, Any]) -> Leaf:
        return Leaf(self._key(row), row["purpose"], row["operation"], row["cause"], row["model_served"])

    def total(self, span: Span) -> dict[str, Any]:
        (row,) = self.reader.query(Query(("cost", "unpriced", "estimated"), (), self.where, *span))
        return row

    # -- beside it ---------------------------------------------------------------------------------------------------------

    def events(self, versus: Span, this: Span, found: Explained) -> list[Event]:
        """What was new between the start of the earlier period and the end of the later, in the order of time."""
        made = [Event(mark.ts, "mark", mark.text) for mark in self.reader.marks(versus[0], this[1])]
        made += self._changes(versus[0], this[1])
        for label in self.labels:
            made += self._new(label, versus)
        if RELEASE not in self.labels:
            made += self._releases(versus[0], this[1])
        made += self._dearest(this, found.now, sum(found.talks[1].values()))
        return sorted(made)

    def _changes(self, since: int, until: int) -> list[Event]:
        """Policies, prices and served models that were not the first of their kind."""
        made: list[Event] = []
        policies = self.reader.query(Query(("first",), ("policy_hash",), (), None, until))
        seen = sorted((row["first"], row["policy_hash"]) for row in policies if row["policy_hash"])
        made += [Event(ts, "policy", f"policy {name[:12]} first seen") for ts, name in seen[1:]]
        prices: dict[tuple[str, str], dict[str, int]] = {}
        served: dict[str, dict[str, int]] = {}
        by = ("provider", "model_requested", "model_served", "price_id")
        answered = (*self.where, Filter("status", ("ok",)), Filter("attempt_kind", ("fallback", "correction"), True))
        for row in self.reader.query(Query(("first",), by, answered, None, until)):
            provider, asked, model, price = (row[name] for name in by)
            _earliest(prices.setdefault((provider, model), {}), price, row["first"])
            _earliest(served.setdefault(asked, {}), model, row["first"])
        for (_, model), found in prices.items():
            made += [Event(ts, "price", f"{model} first billed at {price}") for ts, price in _later(found)]
        for asked, found in served.items():
            made += [Event(ts, "model", f"{asked} first answered by {model}") for ts, model in _later(found)]
        return [event for event in made if since <= event.ts < until]

    def _new(self, label: str, versus: Span) -> list[Event]:
        """Values of a label that were never seen before this period. Nothing in a ledger's first period is news."""
        now, before = self.firsts[label, 1], self.firsts[label, -1]
        fresh = [value for value in now if value and value not in before]
        if not fresh or (self.many and len(now) == VALUES_MAX) or not (before or self._seen(label, (), versus[0])):
            return []
        known = self._seen(label, tuple(fresh), versus[1])
        return _named(label.removeprefix(LABEL), "label", [(now[value], value) for value in fresh if value not in known])

    def _seen(self, label: str, values: tuple[str, ...], until: int) -> set[str]:
        """Which of these values (of all, when none are named) have rows before then."""
        only = (Filter(label, values),) if values else ()
        return {row[label] for row in self.reader.query(Query(("rows",), (label,), (*self.where, *only), None, until, top=VALUES_MAX))}

    def _releases(self, since: int, until: int) -> list[Event]:
        """The `release` label's values in the order they came; the ledger's first is no change."""
        rows = self.reader.query(Query(("first",), (RELEASE,), self.where, None, until))
        seen = sorted((row["first"], row[RELEASE]) for row in rows if row[RELEASE])
        started = min((row["first"] for row in rows), default=until)
        return _named("release", "release", [one for one in seen if one[0] >= since and one[0] > started])

    def _dearest(self, this: Span, total: int, talks: int) -> list[Event]:
        """The conversation that cost most, where it stands out of `talks` conversations and `total` pico-dollars."""
        named = (*self.where, Filter("conversation", ("",), True))
        rows = self.reader.query(Query(("cost", "tries", "first", "last"), ("conversation",), named, *this, top=1))
        cost = _pico(rows[0]["cost"]) if rows else 0
        if cost <= 0 or cost < DEAREST_LEAST * total or cost * talks < DEAREST_TIMES * total:
            return []
        row = rows[0]
        from .tables import money, share

        hours = max(1, round((row["last"] - row["first"]) / 3_600_000_000))
        text = (
            f"the dearest conversation, {row['conversation']}: {money(cost)} in {hours} hour{'s' if hours > 1 else ''} and "
            f"{row['tries']:,} tries, {share(cost, total)} of the period"
        )
        return [Event(row["first"], "conversation", text)]


def _named(name: str, kind: str, fresh: list[tuple[int, str]]) -> list[Event]:
    """The first few by name, the others as a number."""
    fresh.sort()
    made = [Event(ts, kind, f"{name} {value} first seen") for ts, value in fresh[:FIRSTS_MAX]]
    if len(fresh) > FIRSTS_MAX:
        made.append(Event(fresh[FIRSTS_MAX][0], kind, f"{name}: {len(fresh) - FIRSTS_MAX} more values first seen from here on"))
    return made


def _both(totals: Sequence[Mapping[str, Any]], name: str) -> tuple[int, int]:
    return totals[0][name], totals[1][name]


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)


def _sums(row: Mapping[str, Any]) -> Sums:
    def of(name: str) -> int:
        return int(row[name] or 0)

    parts = [_pico(row[name]) for name in ("cost_input", "cost_cache_read", "cost_cache_write", "cost_output")]
    return Sums(
        row["billed"], of("input"), of("cache_read"), of("cache_write") + of("cache_write_1h"), of("output") + of("reasoning"),
        *parts, cost_other=_pico(row["cost"]) - sum(parts),
    )  # fmt: skip


def _earliest(found: dict[str, int], name: str, ts: int) -> None:
    found[name] = min(ts, found.get(name, ts))


def _later(found: Mapping[str, int]) -> list[tuple[int, str]]:
    """All but the first of a kind, in time: the first is no change."""
    return sorted((ts, name) for name, ts in found.items() if name)[1:]
