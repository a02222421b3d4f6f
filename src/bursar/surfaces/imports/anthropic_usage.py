"""Anthropic's usage and cost reports: the Admin API's pages and buckets, the Console's CSV exports. Sums over calls. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from ...domain.usage import Tokens
from .record import DAY_US, Bad, NotMine, Outcome, Passed, Piece, Stateless, dollars, inside, moment, text, whole
from .reports import COSTS, USAGE, Buckets

DIMENSIONS = {"workspace_id": "workspace", "workspace": "workspace", "api_key_id": "api_key", "api_key": "api_key",
              "service_tier": "service_tier",
              "usage_type": "usage_type", "context_window": "context_window", "inference_geo": "inference_geo", "speed": "speed",
              "description": "line_item",
              "cost_type": "cost_type", "token_type": "token_type", "session_id": "conversation", "agent_id": "agent"}  # fmt: skip
_json = msgspec.json.Decoder(float_hook=Decimal)


class Reading(Stateless):
    """Every bucket by itself; a page is its buckets."""

    def __init__(self) -> None:
        self._buckets = Buckets("anthropic-usage")

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            found = _json.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError, InvalidOperation) as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if not isinstance(found, dict):
            raise NotMine("neither a bucket nor a row of Anthropic's reports")
        if "data" in found and "starting_at" not in found:
            return self._page(found, piece)
        if isinstance(found.get("results"), list):
            return self._results(found, found["results"], piece)
        if "starting_at" in found or "usage_date_utc" in found:
            return self._results(found, [found], piece)
        raise NotMine("neither starting_at nor usage_date_utc: no bucket or row of Anthropic's reports")

    def _page(self, page: dict[str, Any], piece: Piece) -> Iterator[Outcome]:
        buckets = page.get("data")
        for found in buckets if isinstance(buckets, list) else ():
            if isinstance(found, dict):
                yield from self._results(found, found.get("results") or [], piece)
        if not buckets:
            yield Passed("an empty page")

    def _results(self, around: dict[str, Any], results: list[Any], piece: Piece) -> Iterator[Outcome]:
        if not results:
            yield Passed("a bucket without usage")
        for result in results:
            try:
                yield reported(self._buckets, around, result if isinstance(result, dict) else {})
            except NotMine as bad:
                yield Bad(str(bad), piece)


def reported(buckets: Buckets, around: dict[str, Any], result: dict[str, Any]) -> Outcome:
    """One result of a bucket, or one row of a CSV. NotMine says what it lacks."""
    start = moment(around.get("starting_at") or around.get("usage_date_utc"))
    end = moment(around["ending_at"]) if around.get("ending_at") else start + DAY_US if "usage_date_utc" in around else None
    model = text(result.get("model") or result.get("model_version"))
    dimensions = {
        ours: text(result.get(name)) for name, ours in DIMENSIONS.items() if result.get(name) not in (None, "", "not_available")
    }
    dimensions["of"] = model
    key = text(result.get("api_key") or result.get("api_key_id"))
    if "amount" in result or "cost_usd" in result:
        # The API counts cents, as a text with decimals; the Console's export counts dollars.
        cents = "amount" in result
        if cents and text(result.get("currency") or "USD").upper() != "USD":
            raise NotMine(f"an amount in {result.get('currency')!r}: only dollars can be booked")
        said = result.get("amount", result.get("cost_usd"))
        if said in (None, ""):
            return Passed("a bucket without costs")
        pico = dollars(said)
        assert pico is not None
        return buckets.record(COSTS, start, end, dimensions, {"amount": said}, provider="anthropic", model=_plain(model),
                      stated=-(-pico // 100) if cents else pico, key=key)  # fmt: skip
    counted = _tokens(result)
    if counted is None:
        raise NotMine("neither token counts nor an amount")
    if not counted.total and not counted.other:
        return Passed("a bucket without usage")
    tier = text(result.get("service_tier") or result.get("usage_type"))
    return buckets.record(
        USAGE, start, end, dimensions, counted._asdict(), provider="anthropic", model=model, tokens=counted, key=key,
        service_tier="fast" if result.get("speed") == "fast" else "" if tier in ("batch", "message") else tier, batch=tier == "batch",
    )  # fmt: skip


def _tokens(result: dict[str, Any]) -> Tokens | None:
    written = inside(result.get("cache_creation"))
    names = {
        "input": ("uncached_input_tokens", "usage_input_tokens_no_cache"),
        "cache_read": ("cache_read_input_tokens", "usage_input_tokens_cache_read"),
        "output": ("output_tokens", "usage_output_tokens"),
        "cache_write": ("usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write"),
        "cache_write_1h": ("usage_input_tokens_cache_write_1h",),
    }
    found = {
        ours: next((whole(result[name]) or 0 for name in said if result.get(name) not in (None, "")), None)
        for ours, said in names.items()
    }
    if written:
        found["cache_write"], found["cache_write_1h"] = (
            whole(written.get("ephemeral_5m_input_tokens")),
            whole(written.get("ephemeral_1h_input_tokens")),
        )
    if all(count is None for count in found.values()):
        return None
    searches = whole(inside(result.get("server_tool_use")).get("web_search_requests")) or whole(result.get("web_search_count")) or 0
    return Tokens(**{name: count or 0 for name, count in found.items()}, other=(("web_search", searches),) if searches else ())


def _plain(name: str) -> str:
    """A model's name from the one for people that cost exports show: `Claude Haiku 4.5` is claude-haiku-4-5."""
    return name.strip().lower().replace(" ", "-").replace(".", "-") if " " in name else name
