"""Names for past rows, asked of a ledger and booked in it: which rows a condition means, what they cost, and what could be named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ..domain.entry import COLUMNS, MONEY_COLUMNS, Entry, Settlement
from ..domain.money import plain
from ..rules.naming import NAMED, rename, value
from ..stores.columns import shown
from ..stores.query import LABEL, Filter, Query, compile_filter
from ..stores.reader import Reader
from ..stores.writer import Ledger
from . import periods, tables, wiring
from .cli_common import pico

LOT = 5_000  # rows read and booked at a time
PROMPTS = 10  # programs that are proposed for a name


class Had(NamedTuple):
    """Rows that have one value now of a name they are to get."""

    name: str
    value: str
    rows: int
    cost: int


class Preview(NamedTuple):
    """What naming would do. `rows` are tries and corrections that do not say all of it yet; `already`: those that do."""

    rows: int
    tries: int
    cost: int  # pico-dollars
    already: int
    had: tuple[Had, ...]


class Program(NamedTuple):
    """Calls that nobody labelled and that begin with the same system prompt and tools: one program, most likely."""

    prefix_hash: str
    models: str
    tenants: int
    calls: int
    cost: int
    first_us: int
    last_us: int


def rows(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> Iterator[list[Entry]]:
    """The rows meant, as they are named now, in lots: those that were named before under their newest name."""
    only = compile_filter(Query(where=where, since_us=period.since, until_us=period.until))
    reader.totals(dict.fromkeys((*COLUMNS, *only.columns)), period.since, period.until)
    columns = ", ".join(f'epoch_us(ts) AS "{c}"' if c == "ts" else f'"{shown(c)}"' for c in COLUMNS)
    reader.duck.execute(
        f"""CREATE OR REPLACE TEMP TABLE meant AS
            SELECT {columns} FROM calls WHERE ({only.sql}) AND NOT starts_with(flags, 'un{NAMED}')
            AND id NOT IN (SELECT corrects FROM calls WHERE starts_with(flags, 'un{NAMED}'))
            ORDER BY ts, id""",
        only.values,
    )
    at = 0  # by number: other questions are asked between two lots
    while lot := reader.duck.execute("SELECT * FROM meant WHERE rowid >= ? AND rowid < ? ORDER BY rowid", [at, at + LOT]).fetchall():
        yield [_entry(values) for values in lot]
        at += LOT


def preview(found: Iterator[list[Entry]], said: Mapping[str, str]) -> Preview:
    """Counts and dollars, by what the rows say now. NoName where a row cannot take the name."""
    total = tries = cost = already = 0
    had: dict[tuple[str, str], tuple[int, int]] = {}
    for lot in found:
        for row in lot:
            if rename(row, said) is None:
                already += 1
                continue
            total += 1
            cost += row.cost or 0
            tries += row.attempt_kind != "correction" or row.flags == NAMED
            for name in said:
                key = name, value(row, name)
                n, sum_ = had.get(key, (0, 0))
                had[key] = n + 1, sum_ + (row.cost or 0)
    parts = [Had(name, now, *sums) for (name, now), sums in had.items()]
    return Preview(total, tries, cost, already, tuple(sorted(parts, key=lambda one: (one.name, -one.cost, one.value))))


def overlap(found: Preview, pinned: set[str]) -> str:
    """Why these rows are not to be named by the way: some say something else under that name already, and the condition does not name
    it. Empty where none does."""
    for name in {had.name for had in found.had} - pinned:
        others = [had for had in found.had if had.name == name and had.value and not (name == "operation" and had.value == "primary")]
        if others:
            rows, cost = sum(had.rows for had in others), sum(had.cost for had in others)
            values = ", ".join(tables.safe(had.value) for had in others[:3])
            said = f"{rows:,} of those rows ({tables.money(cost)}) already say {name}={values}{' and more' if len(others) > 3 else ''}"
            return f"{said}; leave them out with --where {name}= "
    return ""


def pinned(where: Sequence[tuple[str, str]]) -> set[str]:
    """The names that a condition says the value of."""
    return {name.removesuffix("!").removeprefix("label:") for name, _ in where if not name.endswith("!")}


def record(found: Preview, said: Mapping[str, str], dry_run: bool, done: int) -> dict[str, Any]:
    """What was named, for programs."""
    return dict(
        rows=[{**had._asdict(), "cost": plain(had.cost)} for had in found.had], names=dict(said), tries=found.tries,
        corrected=found.rows, cost=plain(found.cost), already=found.already, dry_run=dry_run, named=done, currency="USD",
    )  # fmt: skip


def book(folder: Path, reader: Reader, found: Iterator[list[Entry]], said: Mapping[str, str], step: Callable[[int], None]) -> int:
    """Book every row under its new name and take it back under the old one; how many there were. Doing it again after an
    interruption ends where it would have ended. `step` is told how far it is."""
    done = 0
    with Ledger.open(folder, node="label", clock_us=wiring.now_us) as ledger:
        for lot in found:
            pairs = [made for row in lot if (made := rename(row, said)) is not None]
            fresh = [one for pair in pairs for one in pair]
            known = reader.known_ids([one.id for one in fresh]) if fresh else set[str]()
            ledger.book_all([Settlement(one.id, one, ()) for one in fresh if one.id not in known])
            done += len(pairs)
            step(len(lot))
    return done


def shapeless(reader: Reader, where: tuple[Filter, ...], period: periods.Period) -> list[tuple[str, int, int]]:
    """(operation, calls, cost) of what has no feature and begins with no system prompt or tool to tell it by: embeddings above all."""
    only = (*where, Filter("feature", ("",)), Filter("prefix_hash", ("",)))
    rows = reader.query(Query(("cost", "calls"), ("operation",), only, period.since, period.until))
    return [(row["operation"], row["calls"], _pico(row["cost"])) for row in rows if row["cost"]]


def programs(reader: Reader, where: tuple[Filter, ...], period: periods.Period, name: str = "feature") -> tuple[list[Program], int]:
    """The dearest programs among the calls without that label, and what all those calls cost: what is worth a name."""
    unsaid = (*where, Filter(name if name in ("feature", "tenant", "flow", "user") else LABEL + name, ("",)))
    span = (period.since, period.until)
    (whole,) = reader.query(Query(("cost",), (), unsaid, *span))
    ask = Query(
        ("cost", "calls", "first", "last"), ("prefix_hash",), (*unsaid, Filter("prefix_hash", ("",), True)), *span, top=PROMPTS
    )
    made: list[Program] = []
    for row in reader.query(ask):
        if not row["cost"] and not row["calls"]:
            continue  # named by now: what was taken back stands against it
        mine = (*unsaid, Filter("prefix_hash", (row["prefix_hash"],)))
        models = [one["model_served"] for one in reader.query(Query(("cost",), ("model_served",), mine, *span, top=3))]
        tenants = len(reader.query(Query(("rows",), ("tenant",), mine, *span, top=1000)))
        made.append(
            Program(row["prefix_hash"], ", ".join(models), tenants, row["calls"], _pico(row["cost"]), row["first"], row["last"])
        )
    return made, _pico(whole["cost"])


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)


def _entry(values: Sequence[Any]) -> Entry:
    """A row of the reader as the entry it was."""
    made: dict[str, Any] = {}
    for name, given in zip(COLUMNS, values, strict=True):
        match given:
            case Decimal() if name in MONEY_COLUMNS:
                made[name] = pico(given)
            case dict():
                made[name] = json.dumps(given)
            case datetime():
                made[name] = int(given.astimezone(UTC).timestamp())
            case _:
                made[name] = given
    return Entry(**made)
