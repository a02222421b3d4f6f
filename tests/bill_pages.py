"""Pages of OpenAI's admin API for a ledger's rows: the bill and the usage of a provider that saw what the ledger saw, and more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

from bursar.domain.entry import Entry
from bursar.domain.money import PICO

DAY = 86_400_000_000
ITEMS = (("input", "input", ("input",)), ("cache_read", "cached input", ("cache_read",)), ("output", "output", ("output", "reasoning")))


def pages(rows: Sequence[Entry], since: int, days: int, more: int = 0) -> tuple[str, str]:
    """(costs, usage) by day, model and class, of rows of OpenAI whose usage the provider told. `more` fresh input tokens of the
    first day's first model never came by the ledger."""
    costs, usage = [], []
    for day in range(days):
        start = since + day * DAY
        mine = [row for row in rows if start <= row.ts < start + DAY and row.provider == "openai" and row.usage_source == "provider"]
        bucket = {"start_time": start // 10**6, "end_time": (start + DAY) // 10**6}
        costs.append({**bucket, "results": []})
        usage.append({**bucket, "results": []})
        for model in sorted({row.model_served for row in mine if row.cost is not None}):
            own = [row for row in mine if row.model_served == model and row.cost is not None]
            counts = {name: sum(getattr(row, column) or 0 for row in own for column in columns) for name, _, columns in ITEMS}
            for name, item, _ in ITEMS:
                amount = sum(getattr(row, f"cost_{name}") or 0 for row in own)
                if name == "input" and more:
                    amount += amount * more // counts[name]
                    counts[name], more = counts[name] + more, 0
                value = float(Decimal(amount) / PICO)
                costs[-1]["results"].append({"amount": {"value": value, "currency": "usd"}, "line_item": f"{model}, {item}", "project_id": "p1"})
            usage[-1]["results"].append({
                "input_tokens": counts["input"] + counts["cache_read"], "input_cached_tokens": counts["cache_read"],
                "output_tokens": counts["output"], "model": model, "project_id": "p1",
            })  # fmt: skip
    return json.dumps({"object": "page", "data": costs}), json.dumps({"object": "page", "data": usage})
