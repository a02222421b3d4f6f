"""Langfuse: a trace with its observations (the page's download, the API), observations by themselves (API, blob storage in JSON,
CSV or Parquet), the page's table exports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from . import providers, tokens
from .genai import OF_THE_TOOL
from .genai import langfuse as usage_details
from .record import Bad, NotMine, Outcome, Passed, Piece, Record, between_ms, dollars, flat, inside, moment, tags, text, whole
from .traces import Traces

CALLS = ("GENERATION", "EMBEDDING")
# Where an observation names itself by camel case, snake case (blob storage) or the table's headings.
NAMES: dict[str, tuple[str, ...]] = {
    "trace": ("traceId", "trace_id"),
    "parent": ("parentObservationId", "parent_observation_id"),
    "start": ("startTime", "start_time"),
    "end": ("endTime", "end_time"),
    "first": ("completionStartTime", "completion_start_time"),
    "model": ("model", "providedModelName", "provided_model_name", "internalModel"),
    "usage": ("usageDetails", "usage_details"),
    "cost": ("totalCost", "total_cost", "calculatedTotalCost", "calculated_total_cost"),
    "costs": ("costDetails", "cost_details", "providedCostDetails", "provided_cost_details"),
    "message": ("statusMessage", "status_message"),
    "parameters": ("modelParameters", "model_parameters"),
    "user": ("userId", "user_id"),
    "session": ("sessionId", "session_id"),
    "trace_name": ("traceName", "trace_name"),
    "tags": ("tags", "traceTags", "trace_tags"),
}
_json = msgspec.json.Decoder(float_hook=Decimal)


class Reading:
    """Traces settle with their document, loose observations with their trace."""

    def __init__(self) -> None:
        self._traces = Traces()

    @property
    def waiting(self) -> Piece | None:
        return self._traces.waiting

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            found = _json.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if not isinstance(found, dict):
            raise NotMine("neither a trace nor an observation")
        while "observations" not in found and isinstance(found.get("trace"), dict):
            found = found["trace"]
        if isinstance(found.get("observations"), list):
            trace = found["trace"] if isinstance(found.get("trace"), dict) else found
            return self._document(trace, found["observations"], piece)
        if "type" not in found and _of(found, "start") is None:
            if "timestamp" in found and "id" in found:  # a row of the traces' table: what it holds is in its observations
                return (Passed("a trace without its observations: export the observations"),)
            raise NotMine("neither a trace nor an observation")
        return self._one(found, {}, piece)

    def _document(self, trace: dict[str, Any], observations: list[Any], piece: Piece) -> Iterator[Outcome]:
        for one in observations:
            if isinstance(one, dict):
                yield from self._one(one, trace, piece)
            elif isinstance(one, str):
                yield Passed("an observation's id without the observation")
        yield from self._traces.settle(text(trace.get("id")))

    def _one(self, one: dict[str, Any], trace: dict[str, Any], piece: Piece) -> Iterator[Outcome]:
        record = None
        try:
            record = observation(one, trace)
            if record is None:
                yield Passed(f"no model call: type {text(one.get('type'))[:40] or 'unknown'}")
        except NotMine as bad:
            yield Bad(f"observation {text(one.get('id'))[:60]!r}: {bad}", piece)
        yield from self._traces.add(
            text(_of(one, "trace")) or text(trace.get("id")), text(one.get("id")), text(_of(one, "parent")), record, piece
        )

    def finish(self, growing: bool) -> Iterable[Outcome]:
        return self._traces.rest()


def observation(one: dict[str, Any], trace: dict[str, Any]) -> Record | None:
    """One observation as a record, None when it is no model call. NotMine says what it lacks."""
    id = text(one.get("id"))
    if not id:
        raise NotMine("no id")
    counted = _counted(one)
    costs = inside(_of(one, "costs"))
    cost = _of(one, "cost")
    stated = dollars(cost if cost not in (None, "") else costs.get("total"))
    kind = text(one.get("type")).upper()
    if kind not in CALLS and not (counted.tokens is not None and counted.tokens.total) and not stated:
        return None
    ts = moment(_of(one, "start"))
    provider, model = providers.split(text(_of(one, "model")))
    level = text(one.get("level")).upper()
    if not model and counted.tokens is None and not stated:
        return None if kind not in CALLS else _record(id, ts, provider, model, counted, None, one, trace, level, kind)
    return _record(id, ts, provider, model, counted, stated, one, trace, level, kind)


def _record(
    id: str, ts: int, provider: str, model: str, counted: tokens.Counted, stated: int | None, one: dict[str, Any],
    trace: dict[str, Any],
    level: str, kind: str,
) -> Record:  # fmt: skip
    first = _of(one, "first")
    parameters = inside(_of(one, "parameters"))
    labels: dict[str, str] = {}
    metadata = one.get("metadata")
    attributes = inside(inside(trace.get("metadata")).get("attributes")) or inside(inside(metadata).get("attributes"))
    said = flat(inside(trace.get("metadata"))) | flat(inside(metadata))
    provider = provider or providers.provider(said.get("ls_provider", ""))
    labels |= {name: value for name, value in said.items() if not name.startswith(OF_THE_TOOL)}
    labels |= tags(_list(trace.get("tags")) or _list(_of(one, "tags")))
    for name, value in (
        ("user", text(trace.get("userId")) or text(_of(one, "user"))),
        ("conversation", text(trace.get("sessionId")) or text(_of(one, "session")) or text(trace.get("id")) or text(_of(one,
        "trace"))),
        ("flow", text(trace.get("name")) or text(_of(one, "trace_name"))),
        ("environment", text(one.get("environment")) or text(trace.get("environment"))),
        ("tenant", text(attributes.get("tenant"))), ("feature", text(attributes.get("feature"))),
    ):  # fmt: skip
        if value and (name not in labels or name == "conversation"):
            labels[name] = value
    failed = level == "ERROR"
    within = text(_of(one, "trace")) or text(trace.get("id"))
    return Record(
        f"{within}:{id}" if within else id, ts, provider, model, "", counted.tokens, counted.estimated, counted.contradiction,
        stated, False, labels,
        "error" if failed else "ok", error=text(_of(one, "message"))[:80] if failed else "",
        latency_ms=between_ms(ts, _of(one, "end")),
        ttft_ms=between_ms(ts, first), stream=first is not None and first != "", embedding=kind == "EMBEDDING",
        service_tier=text(parameters.get("service_tier")),
    )  # fmt: skip


def _counted(one: dict[str, Any]) -> tokens.Counted:
    details = inside(_of(one, "usage"))
    if any(details.values()):
        return usage_details(details)
    old = inside(one.get("usage"))
    read = whole(old.get("input", one.get("promptTokens", one.get("prompt_tokens", one.get("inputTokens")))))
    written = whole(old.get("output", one.get("completionTokens", one.get("completion_tokens", one.get("outputTokens")))))
    total = whole(old.get("total", one.get("totalTokens", one.get("total_tokens"))))
    if text(old.get("unit")).upper() not in ("", "TOKENS") or not (read or written or total):
        return tokens.NOTHING
    return tokens.inclusive(read, written, total)


def _of(one: dict[str, Any], fact: str) -> Any:
    for name in NAMES[fact]:
        value = one.get(name)
        if value is not None:
            return value
    return None


def _list(value: object) -> list[Any]:
    if isinstance(value, str) and value[:1] == "[":
        try:
            value = _json.decode(value)
        except (msgspec.DecodeError, RecursionError, InvalidOperation):
            return []
    return value if isinstance(value, list) else []
