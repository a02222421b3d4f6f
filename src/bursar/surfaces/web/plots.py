"""Pictures from sums: where columns and lines lie, what is said on hover, and the table that says the same. No query, no HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...domain.money import plain
from .. import tables
from . import blocks
from .blocks import Cell, Column, Mark, Plot, Table

WIDTH, HEIGHT = 1000.0, 300.0
GAP = 0.22  # of a column's place
REST = 9  # the colour of everything else
NAMES_MAX = 8  # along the axis


def scale(most: int) -> tuple[int, list[int]]:
    """A round top for an axis and its steps, in the unit of `most`; at least one."""
    if most <= 0:
        return 1, [0]
    size = 1
    while size * 10 <= most:
        size *= 10
    step = next(s for s in (size // 5, size // 2, size, 2 * size, 5 * size) if s and s * 5 >= most)
    top = -(-most // step) * step
    return top, list(range(0, top + 1, step))


def along(names: Sequence[str], width: float = WIDTH) -> list[tuple[float, str]]:
    """A few names under the columns they belong to."""
    each = -(-len(names) // NAMES_MAX) if names else 1
    return [(width * (n + 0.5) / len(names), name) for n, name in enumerate(names) if n % each == 0]


def stacked(
    id: str,
    title: str,
    periods: Sequence[str],
    series: Sequence[str | None],
    cost: Mapping[tuple[str, str | None], int],
    href: Callable[[str, str | None], str],
    told: Callable[[str | None], str],
    named: Callable[[str], str],
    grain: str,
    whole: Callable[[str | None], str],
) -> Plot:
    """Columns of dollars over time, one colour per series; None is everything else."""
    columns = {period: sum(max(0, cost.get((period, one), 0)) for one in series) for period in periods}
    top, steps = scale(max(columns.values(), default=0))
    place = WIDTH / max(1, len(periods))
    marks: list[Mark] = []
    for n, period in enumerate(periods):
        y = HEIGHT
        for colour, one in enumerate(series):
            pico = cost.get((period, one), 0)
            if pico <= 0:
                continue
            height = HEIGHT * pico / top
            y -= height
            tip = f"{named(period)}, {told(one)}: {tables.money(pico)} of {tables.money(columns[period])}"
            marks.append(
                Mark(
                    n * place + GAP * place / 2, y, place * (1 - GAP), height, REST if one is None else colour, tip, href(period, one)
                )
            )
    rows = [
        [
            Cell(named(period), period),
            *[blocks.money(cost.get((period, one), 0), href(period, one) if cost.get((period, one)) else "") for one in series],
            blocks.money(sum(cost.get((period, one), 0) for one in series)),
        ]
        for period in periods
    ]
    sums = [sum(cost.get((period, one), 0) for period in periods) for one in series]
    heads = (Column(grain, "period"), *[Column(told(one), told(one), True) for one in series], Column("All", "all", True))
    total = [Cell("Total", None), *[blocks.money(s, whole(one)) for s, one in zip(sums, series)], blocks.money(sum(sums))]
    legend = [(told(one), REST if one is None else n, whole(one)) for n, one in enumerate(series)]
    table = Table(id, title, heads, rows, total, folded=True)
    return Plot(id, title, marks, (), axis(top, steps), along([named(p) for p in periods]), legend, table)


def axis(top: int, steps: Sequence[int]) -> list[tuple[float, str]]:
    return [(HEIGHT - HEIGHT * step / top, short(step)) for step in steps]


def short(pico: int) -> str:
    """Dollars on an axis: no more places than the step needs."""
    if pico >= 10**15:
        return f"${pico / 1e15:g}k"  # drawn, never added
    return "$" + plain(pico) if pico else "0"
