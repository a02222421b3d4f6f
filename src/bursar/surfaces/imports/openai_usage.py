"""OpenAI's usage and costs: pages and buckets of the organisation's API, and CSV exports. Sums over calls, by day or hour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from ...domain.usage import Tokens
from .record import Bad, NotMine, Outcome, Passed, Piece, Stateless, dollars, inside, moment, text, whole
from .reports import COSTS, USAGE, Buckets

# Dimensions a report may be grouped by -> the label they become.
DIMENSIONS = {"project_id": "project", "project_name": "project_name", "user_id": "user", "api_key_id": "api_key", "batch": "batch",
              "service_tier": "service_tier", "line_item": "line_item", "size": "size", "source": "image_source",
              "vector_store_id": "vector_store",
              "context_level": "context_level", "api_source": "api_source"}  # fmt: skip
# What a result counts that is not tokens -> the unit it is in the ledger.
UNITS = {"web_searches": ("num_requests", "web_search"), "file_searches": ("num_requests", "file_search"),
         "code_interpreter_sessions": ("num_sessions", "code_session"), "images": ("images", "image"),
         "audio_speeches": ("characters", "character"), "audio_transcriptions": ("seconds", "audio_second")}  # fmt: skip
_json = msgspec.json.Decoder(float_hook=Decimal)


class Reading(Stateless):
    """Every bucket by itself; a page is its buckets."""

    def __init__(self) -> None:
        self._buckets = Buckets("openai-usage")

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            found = _json.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if not isinstance(found, dict):
            raise NotMine("neither a bucket nor a row of OpenAI's reports")
        if isinstance(found.get("example_response"), dict):  # as the API's description shows them
            found = found["example_response"]
        if found.get("object") == "page" or ("data" in found and "start_time" not in found):
            return self._page(found, piece)
        if isinstance(found.get("results"), list):
            return self._bucket(found, piece)
        if "start_time" in found:
            return self._results(found, [found], piece)
        raise NotMine("no start_time: neither a bucket nor a row of OpenAI's reports")

    def _page(self, page: dict[str, Any], piece: Piece) -> Iterator[Outcome]:
        buckets = page.get("data")
        for found in buckets if isinstance(buckets, list) else ():
            if isinstance(found, dict):
                yield from self._bucket(found, piece)
        if not buckets:
            yield Passed("an empty page")

    def _bucket(self, found: dict[str, Any], piece: Piece) -> Iterator[Outcome]:
        results = [result for result in found.get("results", found.get("result")) or () if isinstance(result, dict)]
        if not results:
            yield Passed("a bucket without usage")
        yield from self._results(found, results, piece)

    def _results(self, around: dict[str, Any], results: list[dict[str, Any]], piece: Piece) -> Iterator[Outcome]:
        for result in results:
            try:
                yield reported(self._buckets, around, result)
            except NotMine as bad:
                yield Bad(str(bad), piece)


def reported(buckets: Buckets, around: dict[str, Any], result: dict[str, Any]) -> Outcome:
    """One result of a bucket. NotMine says what it lacks."""
    start = moment(_number(around.get("start_time")))
    end = moment(_number(around["end_time"])) if around.get("end_time") not in (None, "") else None
    dimensions = {ours: _said(result.get(name)) for name, ours in DIMENSIONS.items()}
    costs = "amount" in result or "amount_value" in result or "organization.costs" in text(result.get("object"))
    if costs:
        return _costs(buckets, start, end, dimensions, result)
    counted = _tokens(result)
    model = text(result.get("model"))
    requests = whole(result.get("num_model_requests"))
    if counted is None and not model and not requests:
        return Passed("a bucket without usage")
    kind = text(result.get("object")).removeprefix("organization.usage.").removesuffix(".result")
    if kind not in ("", "completions"):
        dimensions["kind"] = kind
    return buckets.record(
        USAGE, start, end, dimensions | {"of": model}, _figures(result), provider="openai", model=model, tokens=counted,
        requests=requests, service_tier=text(result.get("service_tier")), batch=_said(result.get("batch")) == "true",
        key=text(result.get("api_key_id")), embedding=kind == "embeddings",
    )  # fmt: skip


def _costs(buckets: Buckets, start: int, end: int | None, dimensions: dict[str, str], result: dict[str, Any]) -> Outcome:
    amount = inside(result.get("amount"))
    value = amount.get("value") if amount else result.get("amount_value", result.get("amount"))
    currency = text(amount.get("currency") or result.get("amount_currency") or result.get("currency") or "usd").lower()
    if value in (None, ""):
        return Passed("a bucket without costs")
    if currency != "usd":
        raise NotMine(f"an amount in {currency!r}: only dollars can be booked")
    return buckets.record(
        COSTS, start, end, dimensions, {"amount": value}, provider="openai", stated=dollars(value), key=text(result.get("api_key_id"))
    )


def _tokens(result: dict[str, Any]) -> Tokens | None:
    """The counts as disjoint buckets. What is cached, written to a cache, sound or picture is inside the two sums."""

    def of(*names: str) -> int:
        return next((whole(result[name]) or 0 for name in names if result.get(name) not in (None, "")), 0)

    kind = text(result.get("object")).removeprefix("organization.usage.").removesuffix(".result")
    if kind in UNITS:
        name, unit = UNITS[kind]
        count = of(name)
        return Tokens(other=((unit, count),)) if count else None
    if kind == "vector_stores":
        return None
    if result.get("input_tokens") in (None, "") and result.get("output_tokens") in (None, ""):
        return None
    read, written = of("input_tokens"), of("output_tokens")
    cached = min(of("input_cached_tokens"), read)
    made = min(sum(of(name) for name in result if name.startswith("input_cache_write")), read - cached)
    heard, cached_heard = of("input_audio_tokens"), of("input_cached_audio_tokens")
    seen, cached_seen = of("input_image_tokens"), of("input_cached_image_tokens")
    fresh = read - cached - made
    heard = min(max(heard - cached_heard, 0), fresh)
    seen = min(max(seen - cached_seen, 0), fresh - heard)
    spoken = min(of("output_audio_tokens"), written)
    drawn = min(of("output_image_tokens"), written - spoken)
    cached_heard = min(cached_heard, cached)
    return Tokens(
        input=fresh - heard - seen, cache_read=cached - cached_heard, cache_write=made, output=written - spoken - drawn,
        input_audio=heard,
        cache_read_audio=cached_heard, output_audio=spoken, input_image=seen, output_image=drawn,
    )  # fmt: skip


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sorted(result.items()) if name not in DIMENSIONS and value not in (None, "")}


def _said(value: object) -> str:
    return text(value).lower() if isinstance(value, bool) or text(value) in ("TRUE", "FALSE") else text(value)


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdigit() else value
