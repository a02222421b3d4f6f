"""The closed question: measures by dimensions under filters. Becomes SQL as a syntax tree; what a stranger chose is bound."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlglot import exp

from . import grain as pieces
from .columns import LABEL, label_column
from .fault import LedgerFault
from .grain import GRAINS, Span

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

TOKEN_SUMS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
MONEY_SUMS = (
    "cost", "cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other", "cost_new", "cost_history",
    "cost_tools", "cost_system", "hold", "saved",
)  # fmt: skip
_TIMES = ("latency_ms", "ttft_ms", "overhead_us")


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


def _refuse(reason: str, remedy: str) -> LedgerFault:
    return LedgerFault("query", reason, remedy)


# Words in the flags of rows that name past ones: booked again under new labels, and taken back under the old ones. What was a
# try counts with the new ones; a refused one is a call, and no try.
_NAMED, _UNNAMED, _NAMED_REFUSED, _UNNAMED_REFUSED = "named", "unnamed", "named-refused", "unnamed-refused"
_UNNAMED_ELSE = "unnamed…"  # whatever else begins so

# The values that counts look at; all others of a column are one to them.
CODES: dict[str, tuple[str | int, ...]] = {
    "attempt_kind": ("correction", "tool", "retry", "fallback"), "status": ("ok", "error", "unknown", "refused"),
    "price_status": ("unpriced", "estimated"), "flags": (_NAMED, _NAMED_REFUSED, _UNNAMED, _UNNAMED_REFUSED, _UNNAMED_ELSE),
    "try_no": (1,), "conversation": ("",),
}  # fmt: skip
BITS = 3  # of the number for each of them
_PLACES = {column: n for n, column in enumerate(CODES)}


def _literal(value: str | int) -> exp.Expression:
    return exp.Literal.string(value) if isinstance(value, str) else exp.Literal.number(value)


class _Compiler:
    def __init__(
        self, query: Query, within: Span | None = None, gathered: str = "", ordered: bool = True, summed: bool = False
    ) -> None:  # fmt: skip
        self._query, self._within, self._gathered, self._ordered, self._of_sums = query, within, gathered, ordered, summed
        self._values: dict[str, Any] = {}
        self._columns: dict[str, None] = {}
        self._apart = False  # measures are made for the second of two steps
        self._coded = False  # … and what counts look at is one number there

    def plan(self, dialect: str) -> Plan:
        query = self._query
        if not query.measures:
            raise _refuse("no measure is asked for", "ask for cost or calls")
        names = [*query.by, *query.measures]
        plain = [name.casefold() for name in names]  # the engine's names have no capitals
        twice = sorted({n for n in names if plain.count(n.casefold()) > 1})
        if twice:
            raise _refuse(f"{', '.join(map(repr, twice))} asked for twice", "ask once")
        if self._gathered and (query.grain or not ADDITIVE.issuperset(query.measures)):
            raise _refuse("sums that were gathered answer no such question", "ask the rows")
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
                raise _refuse(f"top is {query.top}", f"ask for 1 to {TOP_MAX}")
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
        self._summed: dict[str, exp.Expression] = {}
        self._looked_at: dict[str, exp.Expression] = {}
        self._apart = True
        self._told_apart: set[tuple[str, str | int]] = set()
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
            raise _refuse(
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

    def _measure(self, name: str) -> exp.Expression:
        if name == "cost" or name in MONEY_SUMS or name in TOKEN_SUMS:
            return self._sum(self._column(name), name)
        share, colon, column = name.partition(":")
        if colon and column in (*_TIMES, "turn", "tool_depth") and share in ("p50", "p95", "p99", "max"):
            if share == "max":
                return exp.Max(this=self._column(column))
            at = exp.Literal.number(f"0.{share[1:]}")
            return exp.Anonymous(this="quantile_disc", expressions=[self._column(column), at])
        made = getattr(self, f"_m_{name}", None) if name.isidentifier() else None
        if made is None:
            raise _refuse(f"{name!r} is not a measure", f"use cost, calls, {', '.join(sorted(MEASURES - {'cost', 'calls'}))}")
        return made()

    def _look(self, column: str) -> exp.Expression:
        """A column that a count looks at."""
        found = self._column(column)
        if not self._apart:
            return found
        self._looked_at[column] = found
        return exp.column(f"of {column}", quoted=True)

    def _is(self, column: str, *values: str | int) -> exp.Expression:
        looked = self._look(column)
        if not self._coded:
            return looked.isin(*[_literal(value) for value in values])
        return self._code(column, values)

    def _taken_back(self) -> exp.Expression:
        looked = self._look("flags")
        if not self._coded:
            return looked.like(exp.Literal.string(f"{_UNNAMED}%"))
        return self._code("flags", [word for word in CODES["flags"] if str(word).startswith(_UNNAMED)])

    def _code(self, column: str, values: Sequence[str | int]) -> exp.Expression:
        """Whether a column had one of these values, from the number of all that is told apart."""
        self._told_apart |= {(column, value) for value in values}
        at = BITS * _PLACES[column]
        part = exp.BitwiseAnd(this=exp.column("kinds", quoted=True), expression=exp.Literal.number((2**BITS - 1) << at))
        return exp.Paren(this=part).isin(*[exp.Literal.number((CODES[column].index(value) + 1) << at) for value in values])

    def _kinds(self) -> exp.Expression:
        """What counts look at as one number: it is grouped by in half the time that its columns would take."""
        number: exp.Expression | None = None
        for name, column in self._looked_at.items():
            case = exp.Case(default=exp.Literal.number(0))
            for code, value in enumerate(CODES[name], 1):
                if (name, value) not in self._told_apart:
                    continue
                found: exp.Expression = exp.EQ(this=column.copy(), expression=_literal(value))
                if value == _UNNAMED_ELSE:
                    found = column.copy().like(exp.Literal.string(f"{_UNNAMED}%"))
                case = case.when(found, exp.Literal.number(code << BITS * _PLACES[name]))
            number = case if number is None else exp.Add(this=number, expression=case)
        assert number is not None
        return number

    def _count(self, condition: exp.Expression) -> exp.Expression:
        if not self._apart:
            return exp.Filter(this=exp.Count(this=exp.Star()), expression=exp.Where(this=condition))
        number = exp.Filter(this=exp.Sum(this=exp.column("number", quoted=True)), expression=exp.Where(this=condition))
        return exp.cast(exp.Coalesce(this=number, expressions=[exp.Literal.number(0)]), "bigint")

    def _sum(self, column: exp.Expression, name: str) -> exp.Expression:
        if not self._apart:
            return exp.Sum(this=column)
        self._summed[name] = exp.Sum(this=column)
        return exp.Sum(this=exp.column(f"sum {name}", quoted=True))

    def _flag(self, column: str, *values: str) -> exp.Expression:
        return self._count(self._is(column, *values))

    def _renamed(self, its: exp.Expression, only: exp.Expression | None = None, more: str = "", less: str = "") -> exp.Expression:
        """A count of tries with those that were named afterwards counted under their new labels."""
        for words, sign in (([_NAMED, more], exp.Add), ([_UNNAMED, less], exp.Sub)):
            condition = self._is("flags", *filter(None, words))
            its = sign(this=its, expression=self._count(condition if only is None else exp.and_(only.copy(), condition)))
        return exp.Paren(this=its)

    def _priced(self, word: str) -> exp.Expression:
        """Rows with that price status, those that take a named one back taken off: an unpriced try is one before and after."""
        back = self._taken_back()
        twice = exp.Mul(this=exp.Literal.number(2), expression=self._count(exp.and_(self._is("price_status", word), back)))
        return exp.Paren(this=exp.Sub(this=self._count(self._is("price_status", word)), expression=twice))

    def _m_calls(self) -> exp.Expression:
        # Every call has exactly one first try, and a retry's dollars are not another call: so calls foot over any partition.
        first = self._is("try_no", 1)
        its = self._count(exp.and_(first, exp.not_(self._is("attempt_kind", "correction"))))
        return self._renamed(its, first, _NAMED_REFUSED, _UNNAMED_REFUSED)

    def _try(self) -> exp.Expression:
        """What went out to a provider."""
        return exp.not_(exp.or_(self._is("attempt_kind", "correction", "tool"), self._is("status", "refused")))

    def _m_tries(self) -> exp.Expression:
        return self._renamed(self._count(self._try()))

    def _m_billed(self) -> exp.Expression:
        charged = exp.GT(this=self._column("cost"), expression=exp.Literal.number(0))
        answered = exp.or_(self._is("status", "ok", "unknown"), charged)
        its = self._count(exp.and_(answered, self._try()))
        return self._renamed(its)

    def _m_first(self) -> exp.Expression:
        return exp.Anonymous(this="epoch_us", expressions=[exp.Min(this=self._column("ts"))])

    def _m_last(self) -> exp.Expression:
        return exp.Anonymous(this="epoch_us", expressions=[exp.Max(this=self._column("ts"))])

    def _m_rows(self) -> exp.Expression:
        return self._count(exp.true()) if self._apart else exp.Count(this=exp.Star())

    def _m_estimated_cost(self) -> exp.Expression:
        estimated = exp.Where(this=self._is("price_status", "estimated"))
        return exp.Filter(this=self._sum(self._column("cost"), "cost"), expression=estimated)

    def _m_conversations(self) -> exp.Expression:
        return self._distinct("conversation")

    def _m_unthreaded(self) -> exp.Expression:
        return self._flag("conversation", "")

    def _m_users(self) -> exp.Expression:
        return self._distinct("user")

    def _distinct(self, column: str) -> exp.Expression:
        said = exp.Nullif(this=self._column(column), expression=exp.Literal.string(""))
        return exp.Count(this=exp.Distinct(expressions=[said]))

    def _m_tokens(self) -> exp.Expression:
        total: exp.Expression | None = None
        for name in TOKEN_SUMS:
            part = exp.Coalesce(this=self._column(name), expressions=[exp.Literal.number(0)])
            total = part if total is None else exp.Add(this=total, expression=part)
        assert total is not None
        return self._sum(total, "tokens")

    def _m_errors(self) -> exp.Expression:
        return self._flag("status", "error", "unknown")

    def _m_refused(self) -> exp.Expression:
        return self._flag("status", "refused")

    def _m_unknown(self) -> exp.Expression:
        return self._flag("status", "unknown")

    def _m_corrections(self) -> exp.Expression:
        return self._flag("attempt_kind", "correction")

    def _m_retries(self) -> exp.Expression:
        return self._flag("attempt_kind", "retry")

    def _m_fallbacks(self) -> exp.Expression:
        return self._flag("attempt_kind", "fallback")

    def _m_unpriced(self) -> exp.Expression:
        return self._priced("unpriced")

    def _m_estimated(self) -> exp.Expression:
        return self._priced("estimated")

    def _checked_zone(self) -> str:
        zone = self._query.zone
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise _refuse(f"{zone!r} is not a time zone", "use an IANA name, such as Europe/Berlin") from None
        return zone

    def _period(self) -> tuple[exp.Expression, bool]:
        """The piece of time that a row is in, and whether that is its number."""
        grain = self._query.grain
        if grain not in GRAINS:
            raise _refuse(f"{grain!r} is not a grain", f"use {', '.join(GRAINS)}")
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
            raise _refuse(f"order {query.order!r} is not among the measures", f"order by one of {', '.join(query.measures)}")
        terms: list[exp.Expression] = []
        if query.order or not query.grain:
            at = keys + query.measures.index(query.order or query.measures[0]) + 1
            terms.append(exp.Ordered(this=exp.Literal.number(at), desc=True, nulls_first=False))
        # Then by every key, so that the same question always has the same answer.
        return terms + [exp.Ordered(this=exp.Literal.number(n), nulls_first=False) for n in range(1, keys + 1)]


MEASURES: frozenset[str] = (
    frozenset(n.removeprefix("_m_") for n in vars(_Compiler) if n.startswith("_m_")) | frozenset(TOKEN_SUMS) | frozenset(MONEY_SUMS)
)

# Measures that are sums and counts over rows: they can be added up in two steps.
ADDITIVE: frozenset[str] = frozenset(TOKEN_SUMS) | frozenset(MONEY_SUMS) | {
    "tokens", "calls", "tries", "errors", "refused", "unknown", "corrections", "retries", "fallbacks", "unpriced", "estimated",
    "estimated_cost", "rows",
}  # fmt: skip
