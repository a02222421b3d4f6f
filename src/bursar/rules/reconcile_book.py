"""Corrections that bring the ledger to the bill: new rows, never changed ones, and only for the classes somebody asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b

from ..domain.entry import Entry
from ..domain.price import Leg
from .price import legs_json
from .reconcile import CLASSES, Cell

# Days that begin at another hour are no difference in money, and what nobody can explain needs an answer, not a row.
CORRECTABLE = tuple(name for name in CLASSES if name != "time_zone")
COUNTED = ("bypassed", "dropped", "not_billed")  # … whose tokens are missing too
COLUMN = {"input": "cost_input", "cache_read": "cost_cache_read", "cache_write": "cost_cache_write", "output": "cost_output"}


def corrections(cells: Sequence[Cell], classes: Collection[str], node: str = "") -> list[Entry]:
    """One row per cell and class, at the start of its time, labelled by nobody. Its id follows from what it corrects, so that
    booking it twice is one booking; with it in the ledger the next comparison finds nothing there."""
    made: list[Entry] = []
    for cell in cells:
        tokens = 0 if cell.tokens is None else cell.tokens - cell.tokens_booked
        for name, pico in cell.residual:
            if name not in classes:
                continue
            what = f"{cell.since} {cell.until} {cell.provider} {cell.project} {cell.model} {cell.unit} {name} {pico} {tokens}"
            id = f"reconcile~{blake2b(what.encode(), digest_size=10).hexdigest()}"
            column = COLUMN.get(cell.unit, "cost_other")
            row = Entry(
                id=id, ts=cell.since, call=id, try_no=1, attempt_kind="correction", cause=f"reconcile:{name}", provider=cell.provider,
                model_requested=cell.model, model_served=cell.model, status="correction", usage_source="provider", cost=pico,
                cost_input=0, cost_cache_read=0, cost_cache_write=0, cost_output=0, cost_other=0,
                legs=legs_json((Leg("adjustment", pico, 1000, pico),)), price_id="rule:reconcile", price_status="priced",
                flags="reconciled", source="correction", node=node,
            )._replace(**{column: pico})  # fmt: skip
            if name in COUNTED and cell.unit in COLUMN and tokens:
                row = row._replace(**{cell.unit: tokens})
                tokens = 0
            made.append(row)
    return made
