"""Proofs on a ledger: rows recompute from legs, parts foot to totals, counters equal the rows, files are what was listed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from ..domain.entry import MONEY_COLUMNS
from ..domain.money import amount, plain
from . import standing, sums
from .columns import literal
from .fault import OF_DISK, LedgerFault, from_error
from .reader import Reader
from .schema import Place, connect
from .segments import wall_us
from .standing import Drift

NAMED_MAX = 5  # examples in a finding
HOLD_OLD_US = 3_600_000_000  # a try under way longer than this is worth a look
COST_PARTS = ("cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other")
INPUT_PARTS = ("cost_new", "cost_history", "cost_tools", "cost_system")
PARTITIONS = (
    "operation",
    "purpose",
    "attempt_kind",
    "tenant",
    "feature",
    "flow",
    "provider",
    "model_served",
    "status",
    "price_status",
)

_legs = msgspec.json.Decoder(list[tuple[str, int, int, int]])


class Finding(NamedTuple):
    """Something that is not as it must be. `code` is a word, `reason` has the numbers, `remedy` says what now."""

    code: str
    reason: str
    remedy: str


class Checked(NamedTuple):
    """What was looked at, and what was found."""

    rows: int
    holds: int
    segments: int
    cost: Decimal | None
    findings: tuple[Finding, ...]


def check(path: str | Path, clock_us: Callable[[], int] = wall_us) -> Checked:
    """All proofs on the ledger at `path`, as of one moment. Changes nothing. LedgerFault when it cannot even be opened."""
    with Reader(path, skip_damaged=True) as reader:
        try:
            findings = [*_database(reader), *_files(reader), *_sums(reader), *_holds(reader, clock_us())]
            rows, of_rows = _rows(reader)
            findings += of_rows
            cost, of_totals = _totals(reader)
            findings += of_totals
            findings += _drifted(standing.drift(reader.sqlite))
            findings += _charged(reader)
        except OF_DISK as error:
            raise from_error(error, reader.place.file) from error
        return Checked(rows, len(reader.holds()), len(reader.segments) + len(reader.skipped), cost, tuple(findings))


def drift(path: str | Path) -> list[Drift]:
    """Counters that differ from what rows and holds say, as of one moment."""
    with Reader(path) as reader:
        return standing.drift(reader.sqlite)


def rebuild(path: str | Path) -> list[Drift]:
    """Set every counter to what rows and holds say, with what segments took counted anew from the files; gives what was changed.
    Safe beside running gateways: differences seen at one moment are added, and what is booked meanwhile is added on top."""
    with Reader(path) as reader:
        wrong = _miscounted(reader)
    place = Place.at(path)
    connection = connect(place, busy_ms=30_000)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO charged VALUES (?1, ?2) ON CONFLICT (counter) DO UPDATE SET spent = spent + ?2",
            [(counter, should - says) for counter, says, should in wrong],
        )
        found = standing.drift(connection)
        standing.repair(connection, found)
        connection.execute("COMMIT")
    except OF_DISK as error:
        raise from_error(error, place.file) from error
    finally:
        connection.close(True)
    return found


# -- the file and its segments ---------------------------------------------------------------------------------------------


def _database(reader: Reader) -> Iterator[Finding]:
    answers = [text for (text,) in reader.sqlite.execute("PRAGMA quick_check(5)").fetchall()]
    if answers != ["ok"]:
        yield Finding("corrupt", f"{reader.place.file}: {'; '.join(answers)}", "stop the gateway and restore ledger.db from a backup")


def _files(reader: Reader) -> Iterator[Finding]:
    for name in reader.skipped:
        yield Finding("segment_missing", f"{name} is missing or has another size than when it was written; its rows are not counted",
                      "put it back from a backup: its bytes never change")  # fmt: skip
    for segment in list(reader.segments):
        path = reader.place.segments / segment.name
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != segment.sha256:
            reader.segments.remove(segment)
            what = f"{path}: its bytes are not those that were written; its {segment.rows} rows are not counted"
            yield Finding("segment_corrupt", what, "put it back from a backup: its bytes never change")
            continue
        found = reader.duck.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchall()[0][0]
        if found != segment.rows:
            yield Finding("segment_corrupt", f"{path}: {found} rows, listed with {segment.rows}", "report this")


def _sums(reader: Reader) -> Iterator[Finding]:
    """What stands beside a segment is what its rows come to, line by line."""
    for segment in reader.segments:
        path = reader.place.segments / segment.name
        beside = sums.beside(path)
        if not beside.exists():
            continue
        rows, columns = sums.told(reader.duck, [str(beside)]).get(str(beside), (-1, frozenset[str]()))
        if rows != segment.rows:
            yield Finding("sums_wrong", f"{beside}: {rows} rows in it, {segment.rows} in the segment", sums.REMEDY)
        elif columns:
            kept, found = f"SELECT * FROM read_parquet({literal(str(beside))})", sums.select(path)
            text = f"SELECT count(*) FROM (({kept} EXCEPT ALL {found}) UNION ALL ({found} EXCEPT ALL {kept}))"
            try:
                (other,) = reader.duck.execute(text).fetchall()[0]
            except duckdb.Error as error:
                yield Finding("sums_wrong", f"{beside}: {str(error).splitlines()[0]}", sums.REMEDY)
                continue
            if other:
                yield Finding("sums_wrong", f"{beside}: {other} lines are not what the segment's rows come to", sums.REMEDY)


def _holds(reader: Reader, now: int) -> Iterator[Finding]:
    old = [(hold, alive) for hold, alive in reader.holds() if not alive or now - hold.ts > HOLD_OLD_US]
    for hold, alive in old[:NAMED_MAX]:
        age = max(0, now - hold.ts) // 1_000_000
        why = "its process is gone" if not alive else "its process still lives"
        yield Finding(
            "hold_open", f"{hold.id} has held {plain(hold.amount)} dollars for {age} s; {why}",
            "it becomes a row when a gateway next runs" if not alive else "see whether that call still runs; if not, report this",
        )  # fmt: skip
    if len(old) > NAMED_MAX:
        yield Finding(
            "hold_open",
            f"and {len(old) - NAMED_MAX} more open holds",
            "end the processes that own them, or wait for their leases to lapse",
        )


# -- rows ------------------------------------------------------------------------------------------------------------------


def _pico(value: Decimal | None) -> int | None:
    return None if value is None else int(value.scaleb(12))


def _rows(reader: Reader) -> tuple[int, list[Finding]]:
    """Each row for itself: legs recompute, legs and columns foot to the cost, ids are unique."""
    columns = ("id", "legs", "source", "price_status", *MONEY_COLUMNS)
    reader.totals(columns)
    cursor = reader.duck.execute(f"SELECT {', '.join(columns)} FROM entries")
    wrong: dict[str, list[str]] = {}
    rows = 0
    while chunk := cursor.fetchmany(10_000):
        rows += len(chunk)
        for values in chunk:
            row: dict[str, Any] = dict(zip(columns, values, strict=True))
            for code in _row(row):
                wrong.setdefault(code, []).append(row["id"])
    findings = [
        Finding(code, f"{len(ids)} rows, such as {', '.join(ids[:NAMED_MAX])}", ROW_CODES[code]) for code, ids in sorted(wrong.items())
    ]
    twice = reader.duck.execute("SELECT id, count(*) AS n FROM entries GROUP BY id HAVING n > 1 ORDER BY id").fetchall()
    if twice:
        examples = ", ".join(id for id, _ in twice[:NAMED_MAX])
        findings.append(Finding("row_doubled", f"{len(twice)} ids have several rows, such as {examples}", "report this"))
    return rows, findings


ROW_CODES = {
    "legs_wrong": "a leg is not count x unit price, rounded as every leg is: report this",
    "legs_do_not_foot": "the cost is not the sum of its legs: report this; a correction row can put it right",
    "columns_do_not_foot": "the cost is not the sum of its columns: report this",
    "context_does_not_foot": "the context share is not the sum of the input legs: report this",
    "unknown_as_zero": "a row without a price must have no cost rather than zero: report this",
}


def _row(row: dict[str, Any]) -> Iterator[str]:
    cost = _pico(row["cost"])
    if row["price_status"] == "unpriced" and cost == 0:
        yield "unknown_as_zero"
    if cost is None:
        return
    legs = _legs.decode(row["legs"])
    if any(pico != amount(count, femto) for _, count, femto, pico in legs):
        yield "legs_wrong"
    if (legs or not row["source"].startswith("imported")) and sum(leg[3] for leg in legs) != cost:
        yield "legs_do_not_foot"
    parts = [_pico(row[c]) for c in COST_PARTS]
    if any(p is not None for p in parts) and sum(p or 0 for p in parts) != cost:
        yield "columns_do_not_foot"
    context = [_pico(row[c]) for c in INPUT_PARTS]
    if any(p is not None for p in context) and sum(p or 0 for p in context) != sum(p or 0 for p in parts[:3]):
        yield "context_does_not_foot"


def _totals(reader: Reader) -> tuple[Decimal | None, list[Finding]]:
    """The bill cut in any way comes to the same sum."""
    reader.totals(("cost", *PARTITIONS))
    total, rows = reader.duck.execute("SELECT sum(cost), count(*) FROM entries").fetchall()[0]
    findings: list[Finding] = []
    for name in PARTITIONS:
        groups = reader.duck.execute(f"SELECT sum(cost), count(*) FROM entries GROUP BY {name}").fetchall()
        parts, counted = sum((g[0] or Decimal(0) for g in groups), Decimal(0)), sum(g[1] for g in groups)
        if parts != (total or 0) or counted != rows:
            findings.append(Finding("totals_do_not_foot", f"by {name}: {parts} of {total}, {counted} of {rows} rows", "report this"))
    return total, findings


# -- counters --------------------------------------------------------------------------------------------------------------


def _miscounted(reader: Reader) -> list[tuple[str, int, int]]:
    """(counter, what is noted of what its rows in segments took, what they took)."""
    says: dict[str, int] = dict(reader.sqlite.execute("SELECT counter, spent FROM charged").fetchall())
    files = ", ".join(literal(str(reader.place.segments / s.name)) for s in reader.segments)
    took: dict[str, int] = {}
    if files:
        sums = f"""
            SELECT j->>0 AS counter, sum(CAST(j->>2 AS HUGEINT))
            FROM (SELECT unnest(CAST(charges AS JSON[])) AS j FROM read_parquet([{files}], union_by_name = true) WHERE charges <> '[]')
            GROUP BY 1"""
        try:
            took = {name: int(total) for name, total in reader.duck.execute(sums).fetchall()}
        except duckdb.Error as error:
            raise LedgerFault(
                "query", f"charges cannot be summed: {error}", "run `bursar check` for the segment that is damaged"
            ) from error
    # What is not noted at all was forgotten with its counter, long after its window.
    return [(name, noted, took.get(name, 0)) for name, noted in sorted(says.items()) if noted != took.get(name, 0)]


def _charged(reader: Reader) -> Iterator[Finding]:
    if reader.skipped:
        return  # a file that is away was told already, and what its rows took is not gone with it
    for counter, says, should in _miscounted(reader)[:NAMED_MAX]:
        yield Finding(
            "counter_drift", f"{counter}: its rows in segments took {should}, noted are {says}",
            "run `bursar check --rebuild`: counters are caches of the rows",
        )  # fmt: skip


def _drifted(found: list[Drift]) -> Iterator[Finding]:
    for d in found[:NAMED_MAX]:
        yield Finding(
            "counter_drift",
            f"{d.counter}: spent {d.spent} where the rows say {d.spent_by_rows}, held {d.held} where the holds say {d.held_by_holds}",
            "run `bursar check --rebuild`: counters are caches of the rows",
        )
    if len(found) > NAMED_MAX:
        yield Finding("counter_drift", f"and {len(found) - NAMED_MAX} more counters", "run `bursar check --rebuild`")


__all__ = ["Checked", "Drift", "Finding", "check", "drift", "rebuild"]
