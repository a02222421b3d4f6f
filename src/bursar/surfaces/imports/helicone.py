"""Helicone's exported requests: its export tool and API (JSON, JSONL, CSV), the page's table, its ClickHouse rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from . import providers, tokens
from .record import NotMine, Outcome, Passed, Piece, Record, Stateless, dollars, flat, inside, moment, text, whole

PROPERTY = ("request_properties", "properties", "customProperties")
# Custom properties that Helicone itself names, and what they are here.
NAMED = {"helicone-session-id": "conversation", "helicone-session-name": "session_name", "helicone-session-path": "session_path"}
TOOLS = ("tool", "vector_db", "vectordb", "data")
_json = msgspec.json.Decoder(float_hook=Decimal)


class Reading(Stateless):
    """Every request by itself."""

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            row = _json.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if not isinstance(row, dict):
            raise NotMine("not a request of Helicone's")
        return (request(row),)


def request(row: dict[str, Any]) -> Outcome:
    """One request. NotMine says what it lacks."""
    id = text(_of(row, "request_id", "requestId", "heliconeId"))
    created = _of(row, "request_created_at", "createdAt", "requestCreatedAt")
    if not id or created is None:
        raise NotMine("no request_id and request_created_at: not a request of Helicone's")
    ts = moment(created)
    answer = inside(row.get("response_body"))
    asked = inside(row.get("request_body"))
    if text(asked.get("_type")).lower() in TOOLS:
        return Passed(f"no model call: {text(asked['_type'])}")
    counted = _counted(row, answer)
    provider = providers.provider(text(row.get("provider")))
    named = text(_of(row, "response_model", "model_override", "request_model", "model"))
    model = providers.model(named, provider)
    if not provider:
        provider, model = providers.split(model)
    status = (
        whole(_of(row, "response_status", "status"))
        if str(_of(row, "response_status", "status") or "").lstrip("-").isdigit()
        else None
    )
    labels: dict[str, str] = {}
    for source in PROPERTY:
        for name, value in flat(inside(row.get(source))).items():
            labels[NAMED.get(name.lower(), name)] = value
    user = text(_of(row, "request_user_id", "helicone_user", "user_id", "user"))
    if user:
        labels["user"] = user
    failed = status is not None and not 200 <= status < 400
    cached = text(row.get("cache_reference_id")).strip("0-") != "" and row.get("cache_reference_id") != id
    requested = text(_of(row, "request_model"))
    return Record(
        id, ts, provider, model, requested if requested != named else "", None if cached else counted.tokens, counted.estimated,
        counted.contradiction, _stated(row), False, labels, "error" if failed else "ok", http_status=status,
        error=text(inside(answer.get("error")).get("code") or inside(answer.get("error")).get("type"))[:80] if failed else "",
        stream=asked.get("stream") is True, latency_ms=whole_part(_of(row, "delay_ms", "latency")),
        ttft_ms=whole_part(_of(row, "time_to_first_token", "timeToFirstToken")),
        embedding="embedding" in text(row.get("request_path")),
        response_id=text(answer.get("id")), flags="cache_hit" if cached else "",
    )  # fmt: skip


def _counted(row: dict[str, Any], answer: dict[str, Any]) -> tokens.Counted:
    """The provider's own usage where the body was exported, else Helicone's columns: disjoint, the cache beside the prompt."""
    if isinstance(answer.get("usage"), dict) and answer["usage"]:
        return tokens.provider_usage(answer["usage"])
    if isinstance(answer.get("usageMetadata"), dict):
        return tokens.provider_usage(answer["usageMetadata"])
    read, written = (
        whole(_of(row, "prompt_tokens", "promptTokens")),
        whole(_of(row, "completion_tokens", "completionTokens")),
    )
    hit, made = (
        whole(_of(row, "prompt_cache_read_tokens", "promptCacheReadTokens")) or 0,
        whole(_of(row, "prompt_cache_write_tokens", "promptCacheWriteTokens")) or 0,
    )
    reasoning = whole(_of(row, "reasoning_tokens", "reasoningTokens")) or 0
    heard, spoken = whole(row.get("prompt_audio_tokens")) or 0, whole(row.get("completion_audio_tokens")) or 0
    if not (read or written or hit or made):
        return tokens.NOTHING
    return tokens.inclusive(
        (read or 0) + hit + made + heard, (written or 0) + spoken, None, cache_read=hit, cache_write=made,
        reasoning=min(reasoning, written or 0), audio_in=heard, audio_out=spoken,
    )  # fmt: skip


def _stated(row: dict[str, Any]) -> int | None:
    cost = _of(row, "costUSD", "cost_usd", "cost")
    if isinstance(cost, int | Decimal) and not isinstance(cost, bool) and cost >= 1000 and "organization_id" in row:
        cost = Decimal(cost) / 10**9  # ClickHouse's own rows count billionths
    return dollars(text(cost).removeprefix("$") if isinstance(cost, str) else cost)


def whole_part(value: object) -> int | None:
    """Milliseconds that may come with a fraction, or below zero where nobody measured."""
    try:
        number = Decimal(str(value)) if value not in (None, "") else None
    except InvalidOperation:
        return None
    return int(number) if number is not None and number.is_finite() and 0 <= number < 10**10 else None


def _of(row: dict[str, Any], *names: str) -> Any:
    for name in names:
        value = row.get(name)
        if value not in (None, ""):
            return value
    return None
