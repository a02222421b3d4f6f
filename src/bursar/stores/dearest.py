"""The dearest lines of a question, and what all others come to: picked and added up by the engine, however many lines there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .query import Query
from .reader import Reader

Amounts = tuple[Any, ...]  # a value per measure


class Line(NamedTuple):
    """A name per dimension, after the period with a grain, and empty where nobody said; and what it came to, and had come to."""

    key: tuple[str, ...]
    now: Amounts
    before: Amounts = ()


class Dearest(NamedTuple):
    """The lines, dearest first. `others` are so many further ones, which come to `rest`; `total` was added up apart."""

    lines: list[Line]
    rest: Line
    others: int
    total: Line


def dearest(reader: Reader, query: Query, top: int, before: tuple[int | None, int | None] | None = None) -> Dearest:
    """The `top` lines by the first measure of the question, then its third, then their names. A line of the period before that is
    not in this one is one too: what stopped costing is news. All measures are sums and counts."""
    keys = [f"k{n}" for n in range(len(query.by) + bool(query.grain))]
    sums = [f"m{n}" for n in range(len(query.measures))]
    ask = query._replace(top=0, whole=True)
    reader.keep(ask, "lines", (*keys, *sums, "whole"))
    names = [f"coalesce(CAST({key} AS VARCHAR), '')" for key in keys]
    named = ", ".join(f"{name} AS {key}" for name, key in zip(names, keys))
    every, table = list(sums), "lines"
    if before is not None:
        reader.keep(ask._replace(since_us=before[0], until_us=before[1]), "lines_before", (*keys, *sums, "whole"))
        was = [f"w{one}" for one in sums]
        both = f"""SELECT {named}, whole, {", ".join(sums)} FROM lines UNION ALL BY NAME
                   SELECT {named}, whole, {", ".join(map(" AS ".join, zip(sums, was)))} FROM lines_before"""
        every, table = [*sums, *was], "lines_both"
        added = ", ".join(f"sum({one}) AS {one}" for one in every)
        told = ", ".join([*keys, "whole", added])
        reader.duck.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {told} FROM ({both}) GROUP BY ALL")
    order = ", ".join([*[f"coalesce({sums[n]}, 0) DESC" for n in (0, 2)[: len(sums)]], *names])
    picked = f"SELECT rowid AS n FROM {table} WHERE whole = 0 ORDER BY {order} LIMIT {int(top)}"
    reader.duck.execute(f"CREATE OR REPLACE TEMP TABLE lines_shown AS {picked}")
    told = ", ".join([*names, *every])

    def made(values: Sequence[Any]) -> Line:
        at = len(keys), len(keys) + len(sums)
        return Line(tuple(values[: at[0]]), tuple(values[at[0] : at[1]]), tuple(values[at[1] :]))

    shown = reader.duck.execute(f"SELECT {told} FROM {table} JOIN lines_shown ON {table}.rowid = n ORDER BY {order}").fetchall()
    empty, added = ", ".join("''" for _ in keys), ", ".join(f"sum({one})" for one in every)
    others, *rest = reader.duck.execute(
        f"SELECT count(*), {empty}, {added} FROM {table} WHERE whole = 0 AND rowid NOT IN (SELECT n FROM lines_shown)"
    ).fetchall()[0]
    (total,) = reader.duck.execute(f"SELECT {empty}, {', '.join(every)} FROM {table} WHERE whole = 1").fetchall()
    return Dearest([made(row) for row in shown], made(rest), others, made(total))
