"""Other tools' records: which formats there are. Each is a module of this package with a class `Reading`, loaded when asked for."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from .files import Shape
from .record import Mapper


class Form(NamedTuple):
    """A format: where its reading is, what its files may look like, and how it is told to people."""

    module: str
    about: str
    shape: Shape


FORMS: dict[str, Form] = {
    "otlp": Form("otlp", "OpenTelemetry spans, JSON or protobuf", Shape(("resourceSpans", "spans", "data"), protobuf=True)),
    "litellm": Form("litellm", "LiteLLM's spend logs or logged payloads", Shape(("data", "results", "logs"), csv=True)),
    "langfuse": Form("langfuse", "Langfuse traces or observations", Shape(("data",), csv=True)),
    "helicone": Form("helicone", "Helicone's exported requests", Shape(("data",), csv=True)),
    "langsmith": Form("langsmith", "LangSmith runs", Shape(("runs", "data"), csv=True)),
    "openai-usage": Form("openai_usage", "OpenAI's usage and costs, by day or hour", Shape(("data",), csv=True)),
    "anthropic-usage": Form("anthropic_usage", "Anthropic's usage and cost reports", Shape(("data",), csv=True)),
    "claude-code": Form("claude_code", "Claude Code's transcripts", Shape()),
    "jsonl": Form("jsonl", "rows of a ledger, one JSON object a line", Shape()),
}  # fmt: skip


def mapper(form: str) -> Mapper:
    """A fresh reading of one file in this format."""
    made: Mapper = importlib.import_module(f".{FORMS[form].module}", __package__).Reading()
    return made
