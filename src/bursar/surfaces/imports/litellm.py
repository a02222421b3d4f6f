"""LiteLLM's spend logs (the database's rows, `/spend/logs`, the page's CSV) and the payloads its callbacks write. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from . import providers, tokens
from .record import NotMine, Outcome, Passed, Piece, Record, Stateless, between_ms, dollars, flat, inside, moment, tags, text, whole

TOOLS = ("call_mcp_tool", "list_mcp_tools")
_USAGE_REPR = re.compile(r"(completion|prompt|total)_tokens=(\d+)")  # what DynamoDB logs hold is Python's print of the object


ABSENT = msgspec.Raw()


class _Inside(msgspec.Struct, gc=False):
    audio_tokens: int | None = None
    image_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_token_details: dict[str, Any] | None = None


class _Outside(msgspec.Struct, gc=False):
    audio_tokens: int | None = None
    image_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Inside | None = None
    completion_tokens_details: _Outside | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Meta(msgspec.Struct, gc=False):
    """Of the metadata only what is a label or a count; prompts may be in the rest."""

    usage_object: _Usage | None = None
    user_api_key_alias: str | None = None
    user_api_key_team_id: str | None = None
    user_api_key_team_alias: str | None = None
    user_api_key_user_id: str | None = None
    user_api_key_end_user_id: str | None = None
    user_api_key_org_id: str | None = None
    spend_logs_metadata: dict[str, Any] | None = None
    requester_metadata: dict[str, Any] | None = None
    status: str | None = None
    error_information: dict[str, Any] | None = None


class _Row(msgspec.Struct, gc=False):
    """Both shapes: where one has a name the other has not, both are looked at. Amounts stay as they were written."""

    request_id: str = ""
    id: str = ""
    call_type: str = ""
    startTime: str | float | int | None = None
    endTime: str | float | int | None = None
    completionStartTime: str | float | int | None = None
    model: str | None = None
    model_group: str | None = None
    custom_llm_provider: str | None = None
    spend: msgspec.Raw = ABSENT
    response_cost: msgspec.Raw = ABSENT
    prompt_tokens: int | str | float | None = None
    completion_tokens: int | str | float | None = None
    total_tokens: int | str | float | None = None
    metadata: _Meta | str | None = None
    usage: _Usage | str | None = None
    request_tags: list[str] | str | None = None
    cache_hit: bool | str | None = None
    status: str | None = None
    api_key: str | None = None
    user: str | None = None
    end_user: str | None = None
    team_id: str | None = None
    organization_id: str | None = None
    session_id: str | None = None
    trace_id: str | None = None
    agent_id: str | None = None
    stream: bool | str | None = None
    error_str: str | None = None


_row = msgspec.json.Decoder(_Row)
_meta = msgspec.json.Decoder(_Meta)
_tags = msgspec.json.Decoder(list[str])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()
_NO_META, _NO_USAGE, _NO_INSIDE, _NO_OUTSIDE = _Meta(), _Usage(), _Inside(), _Outside()
# What people put into these may have any shape; nothing in them is worth refusing a record for.
_LOOSE = ("metadata", "usage", "request_tags", "error_str", "user", "cache_hit", "stream")


class Reading(Stateless):
    """Every line or element by itself."""

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            row = _row.decode(piece.raw)
        except msgspec.ValidationError as bad:
            row = _from_dynamo(piece.raw) or _loosely(piece.raw)
            if row is None:
                raise NotMine(str(bad)) from None
        except (msgspec.DecodeError, RecursionError) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        made = record(row)
        if made.tokens is None and not made.stated and row.call_type in TOOLS:
            return (Passed(f"a tool call ({row.call_type}) without a price"),)
        return (made,)


def record(row: _Row) -> Record:
    """One spend log or one logged payload. NotMine names what it lacks."""
    id = row.request_id or row.id
    if not id:
        raise NotMine("no request_id or id: not a spend log")
    if row.startTime is None:
        raise NotMine("no startTime: not a spend log")
    ts = moment(row.startTime)
    meta = row.metadata if row.metadata.__class__ is _Meta else _metadata(row.metadata)
    usage = meta.usage_object or _usage(row.usage) or _NO_USAGE
    counted = _count(row, usage)
    named = row.model or row.model_group or ""
    provider = providers.provider(row.custom_llm_provider) if row.custom_llm_provider else ""
    model = providers.model(named, provider) if provider else named
    if not provider:
        provider, model = providers.split(named)
    status = row.status or meta.status or ""
    failed = status.lower() in ("failure", "error", "failed") or bool(row.error_str)
    hit = row.cache_hit is True or (isinstance(row.cache_hit, str) and row.cache_hit.lower() == "true")
    labels = flat(meta.requester_metadata) if meta.requester_metadata else {}
    if meta.spend_logs_metadata:
        labels |= flat(meta.spend_logs_metadata)
    if row.request_tags:
        labels |= tags(row.request_tags if isinstance(row.request_tags, list) else _tag_text(row.request_tags))
    for name, value in (
        ("tenant", row.end_user or meta.user_api_key_end_user_id), ("user", row.user or meta.user_api_key_user_id),
        ("conversation", row.session_id or row.trace_id),
        ("team", meta.user_api_key_team_alias or row.team_id or meta.user_api_key_team_id),
        ("organization", row.organization_id or meta.user_api_key_org_id), ("agent", row.agent_id),
    ):  # fmt: skip
        if value and name not in labels:
            labels[name] = value
    stated = dollars(_amount(row.spend) or _amount(row.response_cost))
    error = meta.error_information or {}
    return Record(
        id, ts, provider, model, row.model_group or "" if row.model_group != model else "", None if hit else counted.tokens,
        counted.estimated, counted.contradiction, stated, False, labels, "error" if failed else "ok",
        http_status=whole(error.get("error_code")) if str(error.get("error_code", "")).isdigit() else None,
        error=text(error.get("error_class")) or (row.error_str or "")[:80] if failed else "",
        stream=row.stream is True or row.stream == "true", latency_ms=between_ms(ts, row.endTime),
        ttft_ms=between_ms(ts, row.completionStartTime) if row.completionStartTime != row.endTime else None,
        embedding="embedding" in row.call_type, batch="batch" in row.call_type,
        key=meta.user_api_key_alias or (row.api_key or "")[:16],
        response_id=id, flags="cache_hit" if hit else "",
    )  # fmt: skip


def _metadata(said: object) -> _Meta:
    """Metadata that came as JSON text (in CSV, and in older rows) or not at all."""
    if not isinstance(said, str) or said[:1] != "{":
        return _NO_META
    try:
        return _meta.decode(said)
    except (msgspec.DecodeError, RecursionError):
        kept = {name: value for name, value in inside(said).items() if name.startswith("user_api_key") and isinstance(value, str)}
        return msgspec.convert(kept, _Meta)


def _tag_text(said: str) -> list[str]:
    try:
        return _tags.decode(said)
    except (msgspec.DecodeError, RecursionError):
        return [word.strip() for word in said.split(",")]


def _usage(said: object) -> _Usage | None:
    if isinstance(said, str):
        return _Usage(**{f"{name}_tokens": int(count) for name, count in _USAGE_REPR.findall(said)})
    return said if isinstance(said, _Usage) else None


def _count(row: _Row, usage: _Usage) -> tokens.Counted:
    read = usage.prompt_tokens if usage.prompt_tokens is not None else whole(row.prompt_tokens)
    written = usage.completion_tokens if usage.completion_tokens is not None else whole(row.completion_tokens)
    total = usage.total_tokens if usage.total_tokens is not None else whole(row.total_tokens)
    if not read and not written and not total:
        return tokens.NOTHING  # the database's defaults: nobody counted
    into, outof = usage.prompt_tokens_details or _NO_INSIDE, usage.completion_tokens_details or _NO_OUTSIDE
    lives = into.cache_creation_token_details or {}
    return tokens.inclusive(
        read, written, total, cache_read=usage.cache_read_input_tokens or into.cached_tokens or 0,
        cache_write=usage.cache_creation_input_tokens or into.cache_creation_tokens or 0,
        hour=whole(lives.get("ephemeral_1h_input_tokens")) or 0,
        reasoning=outof.reasoning_tokens or 0, audio_in=into.audio_tokens or 0, audio_out=outof.audio_tokens or 0,
        image_in=into.image_tokens or 0, image_out=outof.image_tokens or 0, embedding="embedding" in row.call_type,
    )  # fmt: skip


def _amount(raw: msgspec.Raw) -> str | None:
    """The digits as they were written, so that no float comes near them."""
    said = bytes(raw).decode("utf-8", "replace").strip('"')
    return said if said and said != "null" else None


def _loosely(raw: bytes) -> _Row | None:
    """A row in which something beside the counts has a shape of its own: read without that."""
    try:
        found = {name: value for name, value in _object.decode(raw).items() if name not in _LOOSE}
        return _row.decode(msgspec.json.encode(found))
    except (msgspec.DecodeError, RecursionError):
        return None


def _from_dynamo(raw: bytes) -> _Row | None:
    """A row as DynamoDB exports it: each value in an object that names its type."""
    try:
        found = _any.decode(raw)
        plain = {name: next(iter(value.values())) for name, value in found.items() if isinstance(value, dict) and len(value) == 1}
        return msgspec.convert(plain, _Row, strict=False) if "id" in plain and "startTime" in plain else None
    except (msgspec.DecodeError, RecursionError, AttributeError):
        return None
