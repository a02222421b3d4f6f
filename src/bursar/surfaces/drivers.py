"""What cost us that, in a few lines that do not overlap, asked of a ledger: records for the terminal, JSON and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..rules.drivers import LEAST, MOST, ORDER, Cell, Driver, phrase, told
from ..stores.query import LABEL, TOP_MAX, Filter, Query, compile_filter
from ..stores.reader import Reader
from . import periods
from .cli_common import pico
from .statement import Sum, foot

REST = "everything else"
PARTS = 2  # of everything else that are named
COMBINATIONS = 2_000  # that are looked at whole
DEAR = 20  # a conversation is dear with a twentieth of the bill
TALKS = 3  # so many of them are looked at
BARE = tuple(name for name in ORDER if name != "conversation" and not name.startswith(LABEL))
# Free labels that say more of one purpose's rows.
OF_PURPOSE = {"label:suite": "eval", "label:corpus": "embedding"}
NOTHING = Sum()
SEEN = (
    "conversation", "cost", "try_no", "attempt_kind", "flags", "status", "price_status", "source",
    "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning",
)  # fmt: skip
MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated", "estimated_cost")

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

    def __init__(self, reader: Reader, name: str, ask: Query) -> None:
        self._reader, self._name = reader, name
        reader.gather(ask, name)
        self.dims = tuple([one for one in ask.by if one not in OF_PURPOSE or self._said(one)])
        (row,) = reader.ask(Query(MEASURES), name)
        self.total = _sum(row)

    def _said(self, label: str) -> bool:
        """Whether rows of its purpose carry the label: who has one of that name for something else does not mean this."""
        only = Filter("purpose", (OF_PURPOSE[label],)), Filter(label, ("",), True)
        return bool(self._reader.ask(Query(("rows",), (label,), only, top=1), self._name))

    def cells(self, most: int | None) -> list[Cell]:
        """What each combination cost. Where they are too many, only those values of a dimension are told apart that can be a line,
        or come next."""
        keep: list[tuple[str, tuple[str, ...]]] = []
        ((sums,),) = self._reader.duck.execute(f"SELECT count(*) FROM {self._name}").fetchall()
        if sums > COMBINATIONS:
            least, first = LEAST[1] // LEAST[0], (most or MOST) + PARTS
            for name in self.dims[1:]:
                tops = self._reader.ask(Query(("cost",), (name,), top=max(first, least) + 1), self._name)
                if len(tops) > first:
                    dear = [row[name] for n, row in enumerate(tops) if n < first or _pico(row["cost"]) * least >= self.total.cost]
                    keep.append((name, tuple(dear)))
        rows = self._reader.ask(Query(("cost",), self.dims, top=TOP_MAX, keep=tuple(keep)), self._name)
        return [Cell(tuple([row[name] for name in self.dims]), _pico(row["cost"])) for row in rows]

    def by(self, name: str) -> list[tuple[tuple[str | None], Sum]]:
        """Per value of one dimension but the conversation; None: nobody said."""
        rows = self._reader.ask(Query(MEASURES, (name,)), self._name)
        return [((row[name] or None,), _sum(row)) for row in rows]

    def lines(self, found: Sequence[Driver]) -> list[Sum]:
        """What each line came to, everything else last. They are the total, or DoesNotFoot."""
        values: dict[str, tuple[str, ...]] = {}
        for one in found:
            values[one.name] = (*values.get(one.name, ()), one.value)
        sums = [NOTHING for _ in (*found, REST)]
        for row in self._reader.ask(Query(MEASURES, tuple(values), keep=tuple(values.items())), self._name):
            n = next((n for n, one in enumerate(found) if row[one.name] == one.value), -1)
            sums[n] = sums[n].plus(_sum(row))
        foot(sums, self.total)
        return sums


def look(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> tuple[Looked, Looked | None]:
    """The period, and the one before it where there is one: all dimensions at once, of conversations the dearest alone. Good as long
    as the reader is open."""
    span = (period.since, period.until)
    columns = (*BARE, *OF_PURPOSE, *SEEN)
    reader.totals((*columns, *compile_filter(Query(where=where)).columns), *span)  # all that is asked for below, made ready once
    threaded = (*where, Filter("conversation", ("",), True))
    talks = reader.query(Query(("cost",), ("conversation",), threaded, *span, top=TALKS, whole=True))
    whole = _pico(talks[0]["cost"])
    dear = tuple(row["conversation"] for row in talks[1:] if _pico(row["cost"]) * DEAR >= whole)
    ask = Query(MEASURES, ("conversation", *BARE, *OF_PURPOSE), where, *span, keep=(("conversation", dear),))
    now = Looked(reader, "spent", ask)
    if period.before is None:
        return now, None
    return now, Looked(reader, "spent_before", ask._replace(since_us=period.before[0], until_us=period.before[1]))


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


def _sum(row: Mapping[str, Any]) -> Sum:
    return Sum(
        _pico(row["cost"]), row["calls"], row["tries"], int(row["tokens"] or 0), row["unpriced"], row["estimated"],
        _pico(row["estimated_cost"]),
    )  # fmt: skip


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)
