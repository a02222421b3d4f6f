"""The closed question: measures by dimensions under filters. Becomes SQL as a syntax tree; what a stranger chose is bound."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlglot import exp

from . import grain as pieces
from .columns import LABEL, label_column
from .grain import GRAINS, Span
from .measures import ADDITIVE, Measures, refuse

TOP_MAX = 100_000

# Dimension -> stored column. Free labels are asked for as `label:NAME`.
DIMENSIONS = {
    name: name
    for name in (
        "key", "attempt_kind", "operation", "purpose", "cause", "tenant", "feature", "flow", "user", "conversation", "turn",
        "tool_depth", "provider", "dialect", "model_requested", "model_served", "tier", "route_reason", "service_tier", "status",
        "http_status", "error", "finish", "stream", "ended", "usage_source", "price_id", "price_status", "saved_by", "policy_hash",
        "prefix_hash", "request_hash", "source", "node", "call", "id", "corrects",
    )
} | {"try": "try_no", "model": "model_served"}  # fmt: skip

class Filter(NamedTuple):
    """`name` (a dimension or `label:NAME`) is one of `values`; `negate`: none of them, and then rows without it pass too."""

    name: str
    values: tuple[str | int, ...]
    negate: bool = False


class Query(NamedTuple):
    """What is asked. Times in microseconds since the epoch, [since, until). With a grain, rows carry `period`: the hour's
    start in UTC, or the local date in `zone` that a day, week (Monday) or month begins with.

    Measures: `calls`, `tries`, `billed` (tries that were charged or could have been: no error that cost nothing), `rows`,
    `conversations`, `unthreaded` (rows in no known one), `users`, `errors`, `refused`, `retries`, `fallbacks`, `unpriced`,
    `unknown`, `estimated`, `estimated_cost` (of `cost`), `corrections`; `first` and `last`, microseconds of the first and last
    row; the sums `tokens`, `input` … `reasoning`, `cost` and every `cost_…`, `hold`, `saved`;
    and `p50:`, `p95:`, `p99:` or `max:` before `latency_ms`, `ttft_ms`, `overhead_us`, `turn`, `tool_depth`."""

    measures: tuple[str, ...] = ("cost", "calls")
    by: tuple[str, ...] = ()
    where: tuple[Filter, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    grain: str = ""
    zone: str = "UTC"
    order: str = ""  # a measure, largest first; empty: by period, else by the first measure
    top: int = 0  # 0: all
    keep: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of such a dimension only these values; all others are one, None
    whole: bool = False  # a first row with the measures over all groups, in which `whole` is 1


class Plan(NamedTuple):
    """SQL with named parameters, their values, and the stored columns it needs."""

    sql: str
    values: dict[str, Any]
    columns: tuple[str, ...]


def table(where: tuple[Filter, ...]) -> str:
    """The view that a question is about. Buckets of a provider's report are sums over calls that may be rows themselves, so no
    question is answered from both: they are seen only by who asks for their source."""
    return "entries" if any(one.name == "source" and not one.negate for one in where) else "calls"


def compile_filter(query: Query, dialect: str = "duckdb") -> Plan:
    """The condition of a question (its filters and times) by itself, for statements of our own; `TRUE` where it has none."""
    return _Compiler(query).condition(dialect)


def compile_query(query: Query, dialect: str = "duckdb", within: Span | None = None, gathered: str = "", summed: bool = False) -> Plan:
    """The plan of a question. LedgerFault(code="query") names what is not known and what is. `within`: no row is from another time,
    so that hours and days can be told by a division. `gathered`: the answer is in that table, which was made by `compile_gather`.
    `summed`: it is about the view `sums` (stores/sums.py)."""
    return _compiled("plan", query, dialect, within, gathered, summed)


def compile_lines(query: Query, dialect: str = "duckdb", within: Span | None = None, summed: bool = False) -> Plan:
    """The plan of a question whose answer is kept as a table: in no order, and all of it."""
    return _compiled("lines", query, dialect, within, "", summed)


def compile_gather(query: Query, dialect: str = "duckdb", summed: bool = False) -> Plan:
    """The first step of a question whose measures are additive: rows added up per combination of its dimensions and of what its
    counts look at (as `of COLUMN`, with `number` and `sum MEASURE`). Questions about some of its dimensions are answered from that."""
    return _compiled("gather", query, dialect, None, "", summed)


@lru_cache(maxsize=256)
def _made(what: str, query: Query, dialect: str, within: Span | None, gathered: str, summed: bool) -> Plan:
    compiler = _Compiler(query, within, gathered, ordered=what != "lines", summed=summed)
    return compiler.gather(dialect) if what == "gather" else compiler.plan(dialect)


def _compiled(what: str, query: Query, dialect: str, within: Span | None, gathered: str, summed: bool) -> Plan:
    plan = _made(what, query, dialect, within, gathered, summed)
    return plan._replace(values=dict(plan.values))


class _Compiler(Measures):
    def __init__(
        self, query: Query, within: Span | None = None, gathered: str = "", ordered: bool = True, summed: bool = False
    ) -> None:  # fmt: skip
        Measures.__init__(self)
        self._query, self._within, self._gathered, self._ordered, self._of_sums = query, within, gathered, ordered, summed
        self._values: dict[str, Any] = {}
        self._columns: dict[str, None] = {}

    def plan(self, dialect: str) -> Plan:
        query = self._query
        if not query.measures:
            raise refuse("no measure is asked for", "ask for cost or calls")
        names = [*query.by, *query.measures]
        plain = [name.casefold() for name in names]  # the engine's names have no capitals
        twice = sorted({n for n in names if plain.count(n.casefold()) > 1})
        if twice:
            raise refuse(f"{', '.join(map(repr, twice))} asked for twice", "ask once")
        if self._gathered and (query.grain or not ADDITIVE.issuperset(query.measures)):
            raise refuse("sums that were gathered answer no such question", "ask the rows")
        kept = dict(query.keep)
        keys = [exp.alias_(self._kept(name, kept.get(name)), self._alias(name)) for name in query.by]
        if query.grain:
            period, numbered = self._period()
            keys.insert(0, exp.alias_(period, exp.to_identifier("period", quoted=True)))
        source = exp.select(*keys, copy=False).from_(exp.to_table(self._gathered or self._table()), copy=False)
        for condition in self._conditions():
            source = source.where(condition, copy=False)
        if ADDITIVE.issuperset(query.measures):
            # What is only added up is added up per combination of the columns that counts look at, which are few: the
            # conditions of the counts are then judged on those and not on every row.
            self._coded = not self._gathered
            select, keys = self._twice(source, keys, grouped=self._coded)
        else:
            measures = [exp.alias_(self._measure(name), exp.to_identifier(name, quoted=True)) for name in query.measures]
            select = source.select(*measures, copy=False)
        numbers = [exp.Literal.number(number) for number in range(1, len(keys) + 1)]
        if query.whole:
            whole = exp.Anonymous(this="grouping", expressions=[exp.column(key.alias, quoted=True) for key in keys[:1]])
            told = exp.alias_(whole if keys else exp.Literal.number(1), exp.to_identifier("whole", quoted=True))
            select = select.select(told, copy=False)
            sets = [exp.Tuple(expressions=numbers), exp.Tuple(expressions=[])] if keys else []
            if sets:
                select.set("group", exp.Group(grouping_sets=[exp.GroupingSets(expressions=sets)]))
        else:
            for number in numbers:
                select = select.group_by(number, copy=False)
        if query.whole and keys and self._ordered:
            at = exp.Literal.number(len(keys) + len(query.measures) + 1)
            select = select.order_by(exp.Ordered(this=at, desc=True, nulls_first=False), copy=False)
        for term in self._order(len(keys)) if self._ordered else ():
            select = select.order_by(term, copy=False)
        if query.top:
            if not 0 < query.top <= TOP_MAX:
                raise refuse(f"top is {query.top}", f"ask for 1 to {TOP_MAX}")
            select = select.limit(query.top + query.whole, copy=False)
        if query.grain and numbered:
            select = self._named(select)
        return Plan(select.sql(dialect=dialect), self._values, tuple(self._columns))

    def gather(self, dialect: str) -> Plan:
        kept = dict(self._query.keep)
        keys = [exp.alias_(self._kept(name, kept.get(name)), self._alias(name)) for name in self._query.by]
        source = exp.select(*keys, copy=False).from_(exp.to_table(self._table()), copy=False)
        for condition in self._conditions():
            source = source.where(condition, copy=False)
        self._twice(source, keys, grouped=True)
        return Plan(source.sql(dialect=dialect), self._values, tuple(self._columns))

    def _table(self) -> str:
        return "sums" if self._of_sums else table(self._query.where)

    def _twice(self, source: exp.Select, keys: list[exp.Expression], grouped: bool) -> tuple[exp.Select, list[exp.Expression]]:
        """The question in two steps; gives the second and its keys."""
        names = self._query.measures
        self._summed, self._looked_at, self._told_apart = {}, {}, set()
        self._apart = True
        measures = [exp.alias_(self._measure(name), exp.to_identifier(name, quoted=True)) for name in names]
        columns = {f"of {name}": column for name, column in self._looked_at.items()} | {"number": exp.Count(this=exp.Star())}
        columns |= {f"sum {name}": summed for name, summed in self._summed.items()}
        if self._coded:
            kinds = {"kinds": self._kinds()} if self._looked_at else {}
            columns = kinds | {name: column for name, column in columns.items() if not name.startswith("of ")}
        for name, column in columns.items():
            given = exp.column(name, quoted=True) if self._gathered else column
            if self._of_sums and name != "kinds" and not name.startswith("of "):
                given = exp.Sum(this=exp.column(name, quoted=True))
            source = source.select(exp.alias_(given, exp.to_identifier(name, quoted=True)), copy=False)
        looked_at = min(len(self._looked_at), 1) if self._coded else len(self._looked_at)
        for number in range(1, len(keys) + looked_at + 1 if grouped else 0):
            source = source.group_by(exp.Literal.number(number), copy=False)
        outer = [exp.column(key.alias, quoted=True) for key in keys]
        select = exp.select(*[exp.alias_(one, exp.to_identifier(one.name, quoted=True)) for one in outer], *measures, copy=False)
        return select.from_(source.subquery("parts", copy=False), copy=False), [exp.alias_(one, one.name) for one in outer]

    def _named(self, select: exp.Select) -> exp.Select:
        """The answer with its periods' numbers told as what people call them, in the same order."""
        first, *others = [exp.column(name, quoted=True) for name in select.named_selects]
        period = exp.alias_(pieces.name(first, self._query.grain), exp.to_identifier("period", quoted=True))
        named = exp.select(period, *[exp.alias_(one, exp.to_identifier(one.name, quoted=True)) for one in others], copy=False)
        order = select.args.get("order")
        named = named.from_(select.subquery("numbered", copy=False), copy=False)
        return named.order_by(*[term.copy() for term in order.expressions], copy=False) if order else named

    def condition(self, dialect: str) -> Plan:
        conditions = self._conditions()
        sql = exp.and_(*conditions).sql(dialect=dialect) if conditions else "TRUE"
        return Plan(sql, self._values, tuple(self._columns))

    def _bind(self, value: str | int) -> exp.Expression:
        name = f"v{len(self._values)}"
        self._values[name] = value
        return exp.Placeholder(this=name)

    def _column(self, stored: str) -> exp.Expression:
        self._columns[stored] = None
        return exp.column("try" if stored == "try_no" else stored, quoted=True)

    def _alias(self, name: str) -> exp.Identifier:
        # A label's name is a stranger's: as a quoted identifier, with its own quotes doubled by the generator.
        return exp.to_identifier(name, quoted=True)

    def _dimension(self, name: str) -> exp.Expression:
        if self._gathered:
            return exp.column(name, quoted=True)
        if name.startswith(LABEL) and len(name) > len(LABEL):
            if name.isprintable():
                self._columns[name] = None
                return exp.column(label_column(name[len(LABEL) :]), quoted=True)
            value = exp.Anonymous(this="map_extract_value", expressions=[self._column("labels"), self._bind(name[len(LABEL) :])])
            return exp.Coalesce(this=value, expressions=[exp.Literal.string("")])  # no text for a statement
        if name not in DIMENSIONS:
            raise refuse(
                f"{name!r} is not a dimension", f"use label:NAME for a free label, or one of {', '.join(sorted(DIMENSIONS))}"
            )
        return self._column(DIMENSIONS[name])

    def _kept(self, name: str, values: tuple[str, ...] | None) -> exp.Expression:
        dimension = self._dimension(name)
        if values is None:
            return dimension
        if not values:
            return exp.cast(exp.null(), "text")
        inside = exp.In(this=dimension, expressions=[self._bind(value) for value in values])
        return exp.Case().when(inside, dimension.copy())

    def _checked_zone(self) -> str:
        zone = self._query.zone
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise refuse(f"{zone!r} is not a time zone", "use an IANA name, such as Europe/Berlin") from None
        return zone

    def _period(self) -> tuple[exp.Expression, bool]:
        """The piece of time that a row is in, and whether that is its number."""
        grain = self._query.grain
        if grain not in GRAINS:
            raise refuse(f"{grain!r} is not a grain", f"use {', '.join(GRAINS)}")
        zone = self._checked_zone()
        if self._within is not None:
            found = pieces.number(self._column("ts"), grain, zone, self._within)
            if found is not None:
                return found, True
        local = exp.AtTimeZone(this=self._column("ts"), zone=self._bind(zone))
        start = exp.Anonymous(this="date_trunc", expressions=[exp.Literal.string(grain), local])
        if grain != "hour":
            return exp.Anonymous(this="strftime", expressions=[start, exp.Literal.string("%Y-%m-%d")]), False
        # An hour is told as its instant: the one that comes twice in autumn is then two rows, as it was.
        into = exp.Paren(this=exp.Sub(this=local.copy(), expression=start))
        instant = exp.Sub(this=exp.AtTimeZone(this=self._column("ts"), zone=exp.Literal.string("UTC")), expression=into)
        return exp.Anonymous(this="strftime", expressions=[instant, exp.Literal.string("%Y-%m-%dT%H:%M:%SZ")]), False

    def _conditions(self) -> list[exp.Expression]:
        found: list[exp.Expression] = []
        for bound, kind in ((self._query.since_us, exp.GTE), (self._query.until_us, exp.LT)):
            if bound is not None:
                moment = exp.Anonymous(this="make_timestamptz", expressions=[self._bind(bound)])
                found.append(kind(this=self._column("ts"), expression=moment))
        for one in self._query.where:
            # An empty IN is a trap (it is no condition at all in some engines): nothing is in no values.
            inside = (
                exp.In(this=self._dimension(one.name), expressions=[self._bind(v) for v in one.values]) if one.values else exp.false()
            )
            if one.negate:
                found.append(exp.not_(exp.Coalesce(this=inside, expressions=[exp.false()])))
            else:
                found.append(inside)
        return found

    def _order(self, keys: int) -> list[exp.Expression]:
        query = self._query
        if query.order and query.order not in query.measures:
            raise refuse(f"order {query.order!r} is not among the measures", f"order by one of {', '.join(query.measures)}")
        terms: list[exp.Expression] = []
        if query.order or not query.grain:
            at = keys + query.measures.index(query.order or query.measures[0]) + 1
            terms.append(exp.Ordered(this=exp.Literal.number(at), desc=True, nulls_first=False))
        # Then by every key, so that the same question always has the same answer.
        return terms + [exp.Ordered(this=exp.Literal.number(n), nulls_first=False) for n in range(1, keys + 1)]
