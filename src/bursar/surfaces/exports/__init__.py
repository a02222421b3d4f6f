"""The ledger's rows for other tools: which formats there are. Each is a module of this package with a `write` function."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """A format: where its writing is, how it is told to people, and whether it can go to a pipe."""

    module: str
    about: str
    pipe: bool = True


FORMS: dict[str, Form] = {
    "jsonl": Form("jsonl", "every row and column, one JSON object a line; `bursar import jsonl` gives the same rows"),
    "csv": Form("sheet", "every column of the calls, safe to open in a spreadsheet"),
    "parquet": Form("parquet", "the calls with their types, for DuckDB, pandas, Spark", pipe=False),
    "focus": Form("focus", "FinOps' cost and usage table (FOCUS 1.2 with the provider columns of 1.3), by day or hour"),
    "otlp": Form("otlp", "OpenTelemetry GenAI spans, OTLP as JSON; to a file or an endpoint"),
    "otlp-metrics": Form("otlp_metrics", "OpenTelemetry GenAI metrics (tokens, durations, cost) an hour, OTLP as JSON; the same"),
}
