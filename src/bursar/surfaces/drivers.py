"""What cost us that, in a few lines that do not overlap, asked of a ledger: records for the terminal, JSON and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..rules.drivers import ORDER, Cell, Driver, Values, choose, phrase
from ..stores.query import LABEL, TOP_MAX, Filter, Query, compile_filter, table
from ..stores.reader import Reader
from . import periods
from .cli_common import pico
from .statement import Sum, foot

REST = "everything else"
PARTS = 2  # of everything else that are named
VALUES = 60  # of a dimension that are looked at together where there are too many combinations
COMBINATIONS = 20_000
DEAR = 20  # a conversation is dear with a twentieth of the bill
TALKS = 3  # so many of them are looked at
BARE = tuple(name for name in ORDER if name != "conversation" and not name.startswith(LABEL))
# Free labels that say more of one purpose's rows. Only those rows are asked for them: a map is dear to read.
OF_PURPOSE = {"label:suite": "eval", "label:corpus": "embedding"}
NOTHING = Sum()
SAMPLE = 1_000  # rows that are looked at for a label
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


class Looked(NamedTuple):
    """One look at a period: what each combination of `dims` came to, and all of them. `folded`: values were put together, as None."""

    dims: tuple[str, ...]
    cells: list[tuple[Values, Sum]]
    total: Sum
    folded: bool

    def by(self, name: str) -> list[tuple[tuple[str | None], Sum]]:
        """Per value of one dimension that was not folded; None: nobody said."""
        at, sums = self.dims.index(name), dict[tuple[str | None], Sum]()
        for values, part in self.cells:
            key = (values[at] or None,)
            sums[key] = sums.get(key, NOTHING).plus(part)
        return list(sums.items())


def answer(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, *, most: int | None = None, compared: bool = True
) -> Answer:  # fmt: skip
    """What the period's cost is made of. `most`: so many lines beside everything else. With a period before (and `compared`)
    each line has what the same rows came to then. DoesNotFoot when the lines are not the total."""
    now, before = look(reader, where, period, compared=compared)
    return tell(now, before, most)


def look(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, *, compared: bool = True
) -> tuple[Looked, Looked | None]:
    """The period, and the one before it where there is one. All dimensions at once; of a conversation's only the dearest are
    told apart, of the others' all values unless that makes too many combinations."""
    span = (period.since, period.until)
    threaded = (*where, Filter("conversation", ("",), True))
    talks = reader.query(Query(("cost",), ("conversation",), threaded, *span, top=TALKS, whole=True))
    whole = _pico(talks[0]["cost"])
    dear = tuple(row["conversation"] for row in talks[1:] if _pico(row["cost"]) * DEAR >= whole)
    dims = ("conversation", *BARE, *[name for name in OF_PURPOSE if _said(reader, name, where, span)])
    ask = Query(MEASURES, dims, where, *span, top=COMBINATIONS, keep=(("conversation", dear),), whole=True)
    rows = reader.query(ask)
    folded = len(rows) > COMBINATIONS
    if folded:
        tops = [(name, reader.query(Query(("cost",), (name,), where, *span, top=VALUES))) for name in dims[1:]]
        ask = ask._replace(keep=(*ask.keep, *[(name, tuple(row[name] for row in found)) for name, found in tops]), top=TOP_MAX)
        rows = reader.query(ask)
    before = None
    if compared and period.before is not None:
        rows_before = reader.query(ask._replace(since_us=period.before[0], until_us=period.before[1], top=TOP_MAX))
        before = _looked(dims, rows_before, folded)
    return _looked(dims, rows, folded), before


def _looked(dims: tuple[str, ...], rows: Sequence[Mapping[str, Any]], folded: bool) -> Looked:
    total, *cells = rows
    return Looked(dims, [(tuple([row[name] for name in dims]), _sum(row)) for row in cells], _sum(total), folded)


def tell(now: Looked, before: Looked | None, most: int | None = None) -> Answer:
    """The lines of a period that was looked at."""
    cells = [Cell(values, part.cost) for values, part in now.cells]
    found = choose(now.dims, cells, most)
    more = choose(now.dims, cells, len(found) + PARTS)[len(found) :]
    lines = _lines(now, found)
    earlier = None if before is None else _lines(before, found)
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


def _lines(looked: Looked, found: Sequence[Driver]) -> list[Sum]:
    """What each line came to, everything else last. They are the total, or DoesNotFoot."""
    sums = [NOTHING for _ in (*found, REST)]
    claims = [(looked.dims.index(one.name), one.value) for one in found]
    for values, part in looked.cells:
        n = next((n for n, (at, value) in enumerate(claims) if values[at] == value), -1)
        sums[n] = sums[n].plus(part)
    foot(sums, looked.total)
    return sums


def _said(reader: Reader, name: str, where: tuple[Filter, ...], span: Span) -> bool:
    """Whether rows of that purpose carry the label: the first thousand are looked at."""
    only = compile_filter(Query(where=(*where, Filter("purpose", (OF_PURPOSE[name],))), since_us=span[0], until_us=span[1]))
    reader.totals(("labels", *only.columns), *span)
    text = f"SELECT labels FROM {table(where)} WHERE {only.sql} LIMIT {SAMPLE}"
    label = name.removeprefix(LABEL)
    return any(labels and labels.get(label) for (labels,) in reader.duck.execute(text, only.values).fetchall())


def _shown(filters: Sequence[Filter]) -> tuple[str, ...]:
    return tuple(f"{one.name}{'!=' if one.negate else '='}{one.values[0]}" for one in filters)


def _sum(row: Mapping[str, Any]) -> Sum:
    return Sum(
        _pico(row["cost"]), row["calls"], row["tries"], int(row["tokens"] or 0), row["unpriced"], row["estimated"],
        _pico(row["estimated_cost"]),
    )  # fmt: skip


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)
