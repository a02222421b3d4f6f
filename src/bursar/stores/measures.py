"""What can be measured, as syntax: each sum and count of a question, over rows, or over sums of rows in a second step."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .fault import LedgerFault

TOKEN_SUMS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
MONEY_SUMS = (
    "cost", "cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other", "cost_new", "cost_history",
    "cost_tools", "cost_system", "hold", "saved",
)  # fmt: skip
_TIMES = ("latency_ms", "ttft_ms", "overhead_us")


def refuse(reason: str, remedy: str) -> LedgerFault:
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


class Measures:
    """The measures of one question. `_apart`: they are made for the second of two steps; `_coded`: and what counts look at is one
    number there. Made along the way: the sums of the first step, the columns that counts look at, and
    their values that are told apart."""

    def __init__(self) -> None:
        self._apart = self._coded = False
        self._summed: dict[str, exp.Expression] = {}
        self._looked_at: dict[str, exp.Expression] = {}
        self._told_apart: set[tuple[str, str | int]] = set()

    def _column(self, stored: str) -> exp.Expression:
        raise NotImplementedError

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
            raise refuse(f"{name!r} is not a measure", f"use cost, calls, {', '.join(sorted(MEASURES - {'cost', 'calls'}))}")
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


MEASURES: frozenset[str] = (
    frozenset(n.removeprefix("_m_") for n in vars(Measures) if n.startswith("_m_")) | frozenset(TOKEN_SUMS) | frozenset(MONEY_SUMS)
)

# Measures that are sums and counts over rows: they can be added up in two steps.
ADDITIVE: frozenset[str] = frozenset(TOKEN_SUMS) | frozenset(MONEY_SUMS) | {
    "tokens", "calls", "tries", "errors", "refused", "unknown", "corrections", "retries", "fallbacks", "unpriced", "estimated",
    "estimated_cost", "rows",
}  # fmt: skip
