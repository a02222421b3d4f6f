"""What cost us that, in a few lines that do not overlap, asked of a ledger: records for the terminal, JSON and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..rules.drivers import LEAST, MOST, ORDER, Cell, Driver, phrase, told
from ..stores.query import LABEL, Filter, Query
from ..stores.reader import Reader
from ..stores.schema import quoted
from . import periods
from .cli_common import pico
from .statement import Sum, foot

REST = "everything else"
PARTS = 2  # of everything else that are named
COMBINATIONS = 2_000  # that are looked at whole
DEAR = 20  # a conversation is dear with a twentieth of the bill
TALKS = 3  # so many of them are looked at
MANY = "tenant"  # of which there may be thousands …
FEW = 50  # … and so many are told apart in combinations
BARE = tuple(name for name in ORDER if name != "conversation" and not name.startswith(LABEL))
# Free labels that say more of one purpose's rows.
OF_PURPOSE = {"label:suite": "eval", "label:corpus": "embedding"}
NOTHING = Sum()
MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "estimated_cost")
SUMS = ", ".join(f"sum({name})" for name in MEASURES)

Span = tuple[int | None, int | None]


class Row(NamedTuple):
    """One line. `where` are the conditions that select its rows, as `--where` takes them (`tenant=x`, `purpose!=eval`); of
    everything else they are the negations alone."""

    told: str  # in words; a stranger's text may be in it
    name: str  # the column or label, empty for everything else
    value: str
    where: tuple[str, ...]
    now: Sum
    before: Sum | None = None
    parts: tuple[tuple[str, int], ...] = ()  # of everything else: its largest parts, told and pico-dollars


class Answer(NamedTuple):
    """Lines, dearest first, everything else last; they add up to the total to the digit."""

    rows: tuple[Row, ...]
    total: Sum
    before: Sum | None = None


class Looked:
    """One look at a period: what each combination of `dims` cost, and all of it. What is kept of it in the reader answers more."""

    def __init__(self, reader: Reader, name: str, ask: Query, most: int | None, earlier: Looked | None = None) -> None:
        """`most`: so many lines may be asked for. `earlier`: a look whose lines are wanted of this period too."""
        self._reader, self._name = reader, name
        self._by: dict[str, list[tuple[tuple[str | None], Sum]]] = {}
        # Customers are many: the others are told apart only in the sums of each.
        reader.keep(ask._replace(by=(MANY,), keep=()), f"{name}_each", (MANY, *ask.measures))
        self._by[MANY] = self._each(f"{name}_each", MANY)
        self.few = earlier.few if earlier is not None else self._dearest(max(FEW, (most or MOST) + PARTS))
        if self.few is not None:
            ask = ask._replace(keep=(*ask.keep, (MANY, self.few)))
        reader.keep(ask, name, (*ask.by, *ask.measures))
        # Whether rows of its purpose carry the label: who has one of that name for something else does not mean this.
        said = ", ".join(f"coalesce(bool_or(purpose = '{of}' AND {quoted(label)} <> ''), false)" for label, of in OF_PURPOSE.items())
        *amounts, self._combinations = reader.duck.execute(f"SELECT {said}, {SUMS}, count(*) FROM {name}").fetchall()[0]
        silent = {label for label, heard in zip(OF_PURPOSE, amounts) if not heard}
        self.dims = tuple([one for one in ask.by if one not in silent])
        self.total = _sum(amounts[len(OF_PURPOSE) :])

    def cells(self, most: int | None) -> list[Cell]:
        """What each combination cost. Where they are too many, only those values of a dimension are told apart that can be a line,
        or come next."""
        keep: dict[str, Sequence[str]] = {}
        if self._combinations > COMBINATIONS:
            least, first = LEAST[1] // LEAST[0], (most or MOST) + PARTS
            for name in [one for one in self.dims if one != "conversation"]:
                tops = self._ranked(name)
                if len(tops) > first:
                    some = enumerate(tops[: max(first, least) + 1])
                    keep[name] = [value for n, (value, cost) in some if n < first or cost * least >= self.total.cost]
        return [Cell(tuple(values), _pico(cost)) for *values, cost in self._added(self.dims, "sum(cost)", keep)]

    def by(self, name: str) -> list[tuple[tuple[str | None], Sum]]:
        """Per value of one dimension but the conversation; None: nobody said."""
        if name not in self._by:
            self._by[name] = self._each(self._name, name)
        return self._by[name]

    def _each(self, table: str, name: str) -> list[tuple[tuple[str | None], Sum]]:
        rows = self._reader.duck.execute(f"SELECT {quoted(name)}, {SUMS} FROM {table} GROUP BY 1").fetchall()
        return [((value or None,), _sum(amounts)) for value, *amounts in rows]

    def _ranked(self, name: str) -> list[tuple[str, int]]:
        """The values of a dimension with what they cost, dearest first."""
        return sorted(((value or "", its.cost) for (value,), its in self.by(name)), key=lambda one: (-one[1], one[0]))

    def _dearest(self, most: int) -> tuple[str, ...] | None:
        """So many customers; None: there are no more."""
        ranked = self._ranked(MANY)
        return tuple([value for value, _ in ranked[:most]]) if len(ranked) > most else None

    def lines(self, found: Sequence[Driver]) -> list[Sum]:
        """What each line came to, everything else last. They are the total, or DoesNotFoot."""
        values: dict[str, tuple[str, ...]] = {}
        for one in found:
            values[one.name] = (*values.get(one.name, ()), one.value)
        sums = [NOTHING for _ in (*found, REST)]
        for row in self._added(tuple(values), SUMS, values):
            of = dict(zip(values, row))
            n = next((n for n, one in enumerate(found) if of[one.name] == one.value), -1)
            sums[n] = sums[n].plus(_sum(row[len(values) :]))
        foot(sums, self.total)
        return sums

    def _added(self, names: Sequence[str], sums: str, keep: Mapping[str, Sequence[str]]) -> list[tuple[Any, ...]]:
        """Sums per value of these dimensions. `keep`: of such a one only these values are told apart, all others are None."""
        bound: list[object] = []
        keys: list[str] = []
        for name in names:
            keys.append(f"CASE WHEN list_contains(?, {quoted(name)}) THEN {quoted(name)} END" if name in keep else quoted(name))
            bound += [list(keep[name])] if name in keep else []
        grouped = " GROUP BY ALL" if keys else ""
        return self._reader.duck.execute(f"SELECT {', '.join([*keys, sums])} FROM {self._name}{grouped}", bound).fetchall()


def look(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, most: int | None = None
) -> tuple[Looked, Looked | None]:  # fmt: skip
    """The period, and the one before it where there is one: all dimensions at once, of conversations the dearest alone. Good for
    `most` lines, as long as the reader is open."""
    span = (period.since, period.until)
    threaded = (*where, Filter("conversation", ("",), True))
    talks = reader.query(Query(("cost",), ("conversation",), threaded, *span, top=TALKS, whole=True))
    whole = _pico(talks[0]["cost"])
    dear = tuple(row["conversation"] for row in talks[1:] if _pico(row["cost"]) * DEAR >= whole)
    apart = ("conversation",) if dear else ()  # without it, no row need be read
    ask = Query(MEASURES, (*apart, *BARE, *OF_PURPOSE), where, *span, keep=(("conversation", dear),) if dear else ())
    now = Looked(reader, "spent", ask, most)
    if period.before is None:
        return now, None
    return now, Looked(reader, "spent_before", ask._replace(since_us=period.before[0], until_us=period.before[1]), most, now)


def tell(now: Looked, before: Looked | None, most: int | None = None) -> Answer:
    """The lines of a period that was looked at. `most`: so many beside everything else."""
    found, more = told(now.dims, now.cells(most), most, PARTS)
    lines = now.lines(found)
    earlier = None if before is None else before.lines(found)
    filters = [(Filter(one.name, (one.value,)), *[Filter(n, (v,), True) for n, v in one.without]) for one in found]
    rows = [
        Row(phrase(one.name, one.value), one.name, one.value, _shown(its), sums, None if earlier is None else earlier[n])
        for n, (one, its, sums) in enumerate(zip(found, filters, lines))
    ]
    rows.sort(key=lambda row: (-row.now.cost, row.told))
    rest = _shown([Filter(one.name, (one.value,), True) for one in found])
    parts = tuple((phrase(one.name, one.value), one.cost) for one in sorted(more, key=lambda one: -one.cost))
    rows.append(Row(REST, "", "", rest, lines[-1], None if earlier is None else earlier[-1], parts))
    return Answer(tuple(rows), now.total, None if before is None else before.total)


def _shown(filters: Sequence[Filter]) -> tuple[str, ...]:
    return tuple(f"{one.name}{'!=' if one.negate else '='}{one.values[0]}" for one in filters)


def _sum(amounts: Sequence[Any]) -> Sum:
    cost, *counts, estimated_cost = amounts
    return Sum(_pico(cost), *[int(count or 0) for count in counts], _pico(estimated_cost))


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)
