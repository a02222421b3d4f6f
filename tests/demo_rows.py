"""The demo's two months as ledger rows, without its gateway: what the documentation's examples are asked of."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import ledger_rows
from bursar.domain.entry import Entry, Settlement
from bursar.domain.price import Price, Rate
from bursar.domain.usage import Tokens
from bursar.rules import price as pricing
from bursar.rules.record import add_usage
from bursar.stores.writer import Ledger
from bursar.testing.agents import FALLBACK_FROM, FALLBACK_TO, Planned
from bursar.testing.company import plan
from bursar.testing.invoice import PRICES, Buckets

FEMTO_PER_MILLION = 10**9  # femto-dollars a token that one dollar per million is
CENTS = 10_000


def _price(model: str, family: str) -> Price:
    rates = {unit: Rate(round(float(dollars) * CENTS) * FEMTO_PER_MILLION // CENTS) for unit, dollars in PRICES[model].items()}
    return Price(f"genai-prices/{family}/{model}", family, model, rates)


def rows(seed: int = 0) -> list[Entry]:
    """In the order of time. Labels, operations, models, tokens and dollars are those that `bursar demo` ends up with, and causes
    but for what the gateway infers from messages."""
    families = {FALLBACK_TO: "anthropic", FALLBACK_FROM: "anthropic"}
    made: list[Entry] = []

    def row(number: int, call: Planned, model: str, used: Buckets, **more: object) -> Entry:
        tokens = Tokens(*astuple(used))
        columns: dict[str, object] = {}
        add_usage(columns, tokens)
        columns |= pricing.columns(pricing.bill(tokens, _price(model, families[model])))
        base = ledger_rows.entry(number, call.ts_us, Tokens(), "gpt-5-mini")
        return base._replace(
            provider=families[model], model_served=model, policy_hash="demo", tenant=call.tenant, feature=call.feature,
            flow=call.flow, purpose=call.purpose, conversation=call.conversation, user=call.user, **columns, **more,
        )  # fmt: skip

    for number, call in enumerate(plan(seed)):
        families.setdefault(call.model, call.family)
        cause = call.cause if call.cause.startswith("tool:") or call.cause == "sdk_retry" else ""
        kind = "retry" if call.cause == "sdk_retry" else "first"
        made.append(row(number, call, call.model, call.expected, operation=call.operation, cause=cause, attempt_kind=kind,
                        model_requested=call.model))  # fmt: skip
        if call.fallback is not None:
            second = row(number, call, FALLBACK_TO, call.fallback, operation="fallback", attempt_kind="fallback",
                         cause=f"malformed:{FALLBACK_FROM}", model_requested=call.model, try_no=2)  # fmt: skip
            made.append(second._replace(id=f"{second.call}.2"))
    return made


def write(path: Path, seed: int = 0) -> None:
    with Ledger.open(path, node="demo", clock_us=lambda: ledger_rows.END) as ledger:
        ledger.book_all([Settlement(row.id, row, ()) for row in rows(seed)])
