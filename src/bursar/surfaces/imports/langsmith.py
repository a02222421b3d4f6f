"""LangSmith's runs: the SDK's and API's JSON, bulk exports (Parquet), CSV. Chains repeat the tokens of the runs below them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from . import providers, tokens
from .genai import OF_THE_TOOL
from .record import Bad, NotMine, Outcome, Passed, Piece, Record, between_ms, dollars, flat, inside, moment, tags, text, whole
from .traces import Traces

CALLS = ("llm", "embedding")
THREAD = ("session_id", "thread_id", "conversation_id")
_json = msgspec.json.Decoder(float_hook=Decimal)


class Reading:
    """Runs settle with their trace."""

    def __init__(self) -> None:
        self._traces = Traces()

    @property
    def waiting(self) -> Piece | None:
        return self._traces.waiting

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            run = _json.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if not isinstance(run, dict) or not run.get("id") or "run_type" not in run:
            raise NotMine("no id and run_type: not a run of LangSmith's")
        return self._run(run, piece)

    def _run(self, run: dict[str, Any], piece: Piece) -> Iterator[Outcome]:
        kind = text(run["run_type"]).lower()
        record = None
        if kind not in CALLS:
            yield Passed(f"no model call: run_type {kind[:40]}")
        else:
            try:
                record = call(run, kind)
            except NotMine as bad:
                yield Bad(f"run {text(run['id'])[:60]!r}: {bad}", piece)
        yield from self._traces.add(
            text(run.get("trace_id")) or text(run["id"]), text(run["id"]), text(run.get("parent_run_id")), record, piece
        )
        for child in run.get("child_runs") or ():
            if isinstance(child, dict) and child.get("id") and "run_type" in child:
                yield from self._run(child, piece)

    def finish(self, growing: bool) -> Iterable[Outcome]:
        return self._traces.rest()


def call(run: dict[str, Any], kind: str) -> Record:
    """A run of a model. NotMine says what it lacks."""
    ts = moment(run.get("start_time"))
    extra, outputs = inside(run.get("extra")), inside(run.get("outputs"))
    metadata, asked = inside(extra.get("metadata")), inside(extra.get("invocation_params"))
    counted = _counted(run, outputs, kind)
    provider = providers.provider(text(metadata.get("ls_provider")))
    named = text(metadata.get("ls_model_name")) or text(asked.get("model")) or text(asked.get("model_name"))
    served = text(inside(outputs.get("llm_output")).get("model_name")) or text(
        _message(outputs).get("response_metadata", {}).get("model_name")
    )
    model = providers.model(served or named, provider)
    if not provider:
        provider, model = providers.split(model)
    labels = {name: value for name, value in flat(metadata).items() if not name.startswith(OF_THE_TOOL)}
    labels |= tags(run.get("tags"))
    thread = next((text(metadata[name]) for name in THREAD if metadata.get(name)), "") or text(run.get("trace_id"))
    for name in THREAD:
        labels.pop(name, None)
    labels["conversation"] = thread
    for name, value in (("project", text(run.get("session_name"))), ("flow", text(metadata.get("langgraph_node")))):
        if value:
            labels.setdefault(name, value)
    if run.get("reference_example_id"):
        labels["operation"] = "eval"  # a run on an example of a data set
    failed = bool(run.get("error")) or text(run.get("status")).lower() == "error"
    first = run.get("first_token_time")
    return Record(
        text(run["id"]), ts, provider, model, named if served and named != served else "", counted.tokens, counted.estimated,
        counted.contradiction, dollars(run.get("total_cost")), False, labels, "error" if failed else "ok",
        error=text(run.get("error")).partition("(")[0].strip()[:80] if failed else "", latency_ms=between_ms(ts, run.get("end_time")),
        ttft_ms=between_ms(ts, first), stream=bool(first) or asked.get("stream") is True, embedding=kind == "embedding",
        service_tier=text(asked.get("service_tier")), response_id=text(_message(outputs).get("response_metadata", {}).get("id")),
    )  # fmt: skip


def _counted(run: dict[str, Any], outputs: dict[str, Any], kind: str) -> tokens.Counted:
    """LangChain's usage_metadata where the outputs have it; else the run's own sums, with their details."""
    said = inside(outputs.get("usage_metadata")) or inside(_message(outputs).get("usage_metadata"))
    if said:
        into, outof = inside(said.get("input_token_details")), inside(said.get("output_token_details"))
        read, written, total = (whole(said.get(name)) for name in ("input_tokens", "output_tokens", "total_tokens"))
    else:
        into, outof = inside(run.get("prompt_token_details")), inside(run.get("completion_token_details"))
        read, written, total = (whole(run.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if not (read or written or total):
        return tokens.NOTHING
    hour = whole(into.get("ephemeral_1h_input_tokens")) or 0
    short = whole(into.get("ephemeral_5m_input_tokens")) or 0
    return tokens.inclusive(
        read, written, total, cache_read=whole(into.get("cache_read")) or 0,
        cache_write=max(whole(into.get("cache_creation")) or 0, hour + short),
        hour=hour, reasoning=whole(outof.get("reasoning")) or 0, audio_in=whole(into.get("audio")) or 0,
        audio_out=whole(outof.get("audio")) or 0,
        embedding=kind == "embedding",
    )  # fmt: skip


def _message(outputs: dict[str, Any]) -> dict[str, Any]:
    """The message in LangChain's printed result: generations[0][0].message.kwargs."""
    found: Any = outputs.get("generations")
    for _ in range(2):
        found = found[0] if isinstance(found, list) and found else found
    message = inside(found.get("message")) if isinstance(found, dict) else {}
    kwargs = inside(message.get("kwargs")) or message
    return kwargs if isinstance(kwargs.get("response_metadata", {}), dict) else {}
