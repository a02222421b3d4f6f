"""What cost us that, in a few lines that do not overlap, asked of a ledger: records for the terminal, JSON and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..rules.drivers import ORDER, Cell, Driver, choose, phrase
from ..stores.query import LABEL, TOP_MAX, Filter, Query
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
ESTIMATED = Filter("price_status", ("estimated",))
MEASURES = ("cost", "calls", "tries", "tokens", "unpriced", "estimated")

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


def answer(
    reader: Reader, where: tuple[Filter, ...], period: periods.Period, *, most: int | None = None, compared: bool = True
) -> Answer:  # fmt: skip
    """What the period's cost is made of. `most`: so many lines beside everything else. With a period before (and `compared`)
    each line has what the same rows came to then. DoesNotFoot when the lines are not the total that was asked for apart."""
    span = (period.since, period.until)
    total, purposes = _total(reader, where, span)
    names, cells = _cells(reader, where, span, total.cost, purposes)
    found = choose(names, cells, most)
    more = choose(names, cells, len(found) + PARTS)[len(found) :]
    now = _lines(reader, where, span, found, total)
    before, earlier = None, None
    if compared and period.before is not None:
        before, _ = _total(reader, where, period.before)
        earlier = _lines(reader, where, period.before, found, before)
    filters = [(Filter(one.name, (one.value,)), *[Filter(n, (v,), True) for n, v in one.without]) for one in found]
    rows = [
        Row(phrase(one.name, one.value), one.name, one.value, _shown(its), sums, None if earlier is None else earlier[n])
        for n, (one, its, sums) in enumerate(zip(found, filters, now))
    ]
    rows.sort(key=lambda row: (-row.now.cost, row.told))
    rest = _shown([Filter(one.name, (one.value,), True) for one in found])
    parts = tuple((phrase(one.name, one.value), one.cost) for one in sorted(more, key=lambda one: -one.cost))
    rows.append(Row(REST, "", "", rest, now[-1], None if earlier is None else earlier[-1], parts))
    return Answer(tuple(rows), total, before)


def _shown(filters: Sequence[Filter]) -> tuple[str, ...]:
    return tuple(f"{one.name}{'!=' if one.negate else '='}{one.values[0]}" for one in filters)


def _total(reader: Reader, where: tuple[Filter, ...], span: Span) -> tuple[Sum, dict[str, int]]:
    """What all came to, and the cost of each purpose."""
    rows = reader.query(Query(MEASURES, ("purpose",), where, *span))
    sums = {row["purpose"]: _sum(row) for row in rows}
    whole = Sum()
    for part in sums.values():
        whole = whole.plus(part)
    if whole.estimated:
        (row,) = reader.query(Query(("cost",), (), (*where, ESTIMATED), *span))
        whole = whole._replace(estimated_cost=_pico(row["cost"]))
    return whole, {purpose: part.cost for purpose, part in sums.items()}


def _cells(
    reader: Reader, where: tuple[Filter, ...], span: Span, whole: int, purposes: Mapping[str, int]
) -> tuple[tuple[str, ...], list[Cell]]:
    """Cost by all dimensions at once; of a conversation's only the dearest are told apart, of the others' all values unless
    that makes too many combinations."""
    talks = reader.query(Query(("cost",), ("conversation",), (*where, Filter("conversation", ("",), True)), *span, top=TALKS))
    dear = tuple(row["conversation"] for row in talks if _pico(row["cost"]) * DEAR >= whole)
    free = tuple(name for name, of in OF_PURPOSE.items() if purposes.get(of, 0) * DEAR >= whole and _said(reader, name, where, span))
    dims = ("conversation", *BARE, *free)
    keep: tuple[tuple[str, tuple[str, ...]], ...] = (("conversation", dear),)
    ask = Query(("cost",), dims, where, *span, top=COMBINATIONS, keep=keep)
    rows = reader.query(ask)
    if len(rows) == COMBINATIONS:
        tops = [(name, reader.query(Query(("cost",), (name,), where, *span, top=VALUES))) for name in dims[1:]]
        keep = (*keep, *[(name, tuple(row[name] for row in found)) for name, found in tops])
        rows = reader.query(ask._replace(keep=keep, top=TOP_MAX))
    return dims, [Cell(tuple([row[name] for name in dims]), _pico(row["cost"])) for row in rows]


def _said(reader: Reader, name: str, where: tuple[Filter, ...], span: Span) -> bool:
    """Whether rows of that purpose carry the label at all."""
    only = (*where, Filter("purpose", (OF_PURPOSE[name],)), Filter(name, ("",), True))
    return bool(reader.query(Query(("rows",), (), only, *span))[0]["rows"])


def _lines(reader: Reader, where: tuple[Filter, ...], span: Span, found: Sequence[Driver], total: Sum) -> list[Sum]:
    """What each line came to, everything else last. They are the total, or DoesNotFoot."""
    keep: dict[str, tuple[str, ...]] = {}
    for one in found:
        keep[one.name] = (*keep.get(one.name, ()), one.value)
    ask = Query(MEASURES, tuple(keep), where, *span, keep=tuple(keep.items()))
    sums = [Sum() for _ in (*found, REST)]

    def line(row: dict[str, Any]) -> int:
        return next((n for n, one in enumerate(found) if row[one.name] == one.value), -1)

    for row in reader.query(ask):
        sums[line(row)] = sums[line(row)].plus(_sum(row))
    if total.estimated:
        for row in reader.query(ask._replace(measures=("cost",), where=(*where, ESTIMATED))):
            sums[line(row)] = sums[line(row)].plus(Sum(estimated_cost=_pico(row["cost"])))
    foot(sums, total)
    return sums


def _sum(row: Mapping[str, Any]) -> Sum:
    return Sum(_pico(row["cost"]), row["calls"], row["tries"], int(row["tokens"] or 0), row["unpriced"], row["estimated"])


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)
