"""The auditor: judges the books by the provider's invoice and by arithmetic of its own. It imports nothing of Bursar's, and takes
rows, holds and counters as plain data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

PICO = 10**12


class Budget(NamedTuple):
    """A budget as the auditor understands the policy: whose rows it counts, in which unit, and what must never be passed."""

    name: str
    label: str  # the column whose values each have the limit
    unit: str  # usd | calls
    limit: int | None  # in nano-dollars or calls, where it is a hard one


class Books(NamedTuple):
    """What is laid before the auditor."""

    lines: list[Any]  # of the invoice, `ref` naming the try
    rows: list[Any]
    open_holds: list[str]
    counters: Mapping[str, tuple[int, int]]  # name -> (spent, held)
    peaks: Mapping[str, int]  # counter -> the most that was ever spent and held at once
    answered: Iterable[str]  # tries whose client got the end of its answer while the ledger was well
    excused: frozenset[str]  # let out without a hold because the operator said so, and then the process died
    budgets: tuple[Budget, ...]


def findings(books: Books) -> Iterator[str]:
    """What is not as it must be, in words; nothing: the books are good."""
    rows = {row.id: row for row in books.rows if row.attempt_kind != "correction"}
    corrections = defaultdict(list)
    for row in books.rows:
        if row.attempt_kind == "correction":
            corrections[row.corrects].append(row)
    yield from _every_try_has_one_row(books, rows, corrections)
    yield from _rows_foot(books.rows)
    yield from _bill(books, rows, corrections)
    yield from _counters(books, rows, corrections)
    for answered in books.answered:
        if answered not in rows:
            yield f"{answered}: the client had its answer, and there is no row"


def _every_try_has_one_row(books: Books, rows: dict[str, Any], corrections: Mapping[str, list[Any]]) -> Iterator[str]:
    for name, n in Counter(row.id for row in books.rows).items():
        if n > 1:
            yield f"{name}: {n} rows of one id"
    for ref, n in Counter(line.ref for line in books.lines).items():
        if n > 1:
            yield f"{ref}: sent {n} times under one hold"
        if ref not in rows and ref in books.excused:
            continue
        if ref not in rows:
            yield f"{ref}: the provider saw it, and it has no row"
        elif rows[ref].status == "refused":
            yield f"{ref}: refused, and sent all the same"
    for corrected, found in corrections.items():
        if len(found) > 1 or corrected not in rows:
            yield f"{corrected}: {len(found)} corrections of {'one row' if corrected in rows else 'no row'}"
    for name in books.open_holds:
        yield f"{name}: its hold is open at rest"
    sent = {line.ref for line in books.lines}
    for row in rows.values():
        if row.id not in sent and row.status not in ("refused", "unknown") and row.cost:
            yield f"{row.id}: costs {row.cost}, and the provider never saw it"


def _rows_foot(rows: Iterable[Any]) -> Iterator[str]:
    for row in rows:
        if row.cost is None:
            yield f"{row.id}: has no price, though every model here has one"
            continue
        legs = json.loads(row.legs)
        if sum(leg[3] for leg in legs) != row.cost:
            yield f"{row.id}: its legs come to {sum(leg[3] for leg in legs)}, its cost is {row.cost}"
        parts = (row.cost_input, row.cost_cache_read, row.cost_cache_write, row.cost_output, row.cost_other)
        if any(part is not None for part in parts) and sum(part or 0 for part in parts) != row.cost:
            yield f"{row.id}: its parts come to {sum(part or 0 for part in parts)}, its cost is {row.cost}"
        for _, count, femto, pico in legs:
            if (abs(count) * femto + 500) // 1000 != abs(pico):
                yield f"{row.id}: {count} units at {femto} are not {pico}"


def _bill(books: Books, rows: dict[str, Any], corrections: Mapping[str, list[Any]]) -> Iterator[str]:
    """Rows that say they know agree with the invoice to the last digit; those that do not know say so, and are not free."""
    known = unsure = Decimal(0)
    for line in books.lines:
        row = rows.get(line.ref)
        if row is None:
            continue
        final = corrections[line.ref][0] if corrections.get(line.ref) else row
        booked = Decimal(row.cost or 0) + sum(Decimal(c.cost or 0) for c in corrections.get(line.ref, ()))
        owed = line.dollars * PICO
        if final.price_status == "priced" and final.usage_source == "provider":
            known += booked - owed
            if booked != owed:
                yield f"{line.ref}: booked as known at {booked}, billed {owed}"
        else:
            unsure += booked - owed
            if final.status == "unknown" and final.price_status == "priced":
                yield f"{line.ref}: nobody knows what it cost, and it is booked as priced"
            if owed and not booked:
                yield f"{line.ref}: billed {owed}, booked at nothing"
    total = sum(Decimal(row.cost or 0) for row in books.rows)
    billed = sum((line.dollars * PICO for line in books.lines if line.ref in rows), Decimal(0))
    sent = {line.ref for line in books.lines}
    unsent = sum(Decimal(row.cost or 0) for row in books.rows if (row.corrects or row.id) not in sent)
    if total != billed + known + unsure + unsent:
        yield f"the books come to {total}: invoice {billed}, known {known}, unsure {unsure}, never sent {unsent}"


def _counters(books: Books, rows: dict[str, Any], corrections: Mapping[str, list[Any]]) -> Iterator[str]:
    for budget in books.budgets:
        expected: Counter[str] = Counter()
        for row in rows.values():
            value = getattr(row, budget.label)
            if value and budget.label == "conversation":
                value = f"{row.tenant}|{value}"  # what two tenants call the same is not the same
            if not value or row.status == "refused":
                continue
            cost = (row.cost or 0) + sum(c.cost or 0 for c in corrections.get(row.id, ()))
            unsent = (corrections.get(row.id) or [row])[0].price_id == "rule:not-sent"
            expected[value] += (0 if unsent else 1) if budget.unit == "calls" else -(-cost // 1000)
        found = {name.partition("|")[2].partition("@")[0]: both for name, both in books.counters.items() if name.startswith(budget.name + "|")}
        for value in {*expected, *found}:
            spent, held = found.get(value, (0, 0))
            if spent != expected[value] or held:
                yield f"counter {budget.name} of {value}: spent {spent}, held {held}; the rows say {expected[value]} and nothing"
        for name, peak in books.peaks.items():
            if name.startswith(budget.name + "|") and budget.limit is not None and peak > budget.limit:
                yield f"counter {name}: {peak} of {budget.limit}"
