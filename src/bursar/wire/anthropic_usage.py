"""Anthropic's usage object as disjoint buckets: cache counts stand beside input_tokens, thinking inside output_tokens."""

from __future__ import annotations

from ..domain.usage import Estimated, Known, Tokens, Unknown, Usage
from .usage import Object, Unreadable, count, part, parts

_ASIDE = ("compaction", "advisor_message")


def tally(usage: Object, raw: bytes, *, final: bool = True) -> Usage:
    """The buckets. `final` False: only message_start was seen, whose output count is a placeholder."""
    try:
        return _tally(usage, raw, final)
    except Unreadable as why:
        return Unknown(str(why))


def _tally(usage: Object, raw: bytes, final: bool) -> Usage:
    fresh, out = count(usage, "input_tokens"), count(usage, "output_tokens")
    if fresh is None and out is None:
        return Unknown("the usage object has no token counts")
    odd: list[str] = []
    tokens = _buckets(usage, odd)
    # Work on the side is billed but left out of the totals above; the iterations list has it.
    within = 0
    iterations = parts(usage, "iterations")
    for one in iterations:
        if one.get("type") not in _ASIDE:
            within += count(one, "input_tokens") or 0
        else:
            tokens = _plus(tokens, _buckets(one, odd))
            if one.get("model"):  # an advisor is another model at another price: counted, and flagged to be looked at
                odd.append(f"{one['model']} worked on the side; its tokens are counted here")
    if within != (fresh or 0) and iterations:
        # A fallback to another model inside one call: the totals are the last model's, what the first one read is only here.
        odd.append(f"the iterations read {within} tokens, input_tokens says {fresh}")
    server = part(usage, "server_tool_use")
    searches = count(server, "web_search_requests")
    if searches:
        tokens = tokens._replace(other=(("web_search", searches),))
    if not final:
        return Estimated(tokens._replace(output=0, reasoning=0), "the stream ended before the output was counted", raw)
    if fresh is None or out is None:
        missing = "input" if fresh is None else "output"
        return Estimated(tokens, f"the provider stated no {missing} count", raw)
    return Known(tokens, raw, "; ".join(odd))


def _buckets(usage: Object, odd: list[str]) -> Tokens:
    detail = part(usage, "cache_creation")
    short, hour = count(detail, "ephemeral_5m_input_tokens"), count(detail, "ephemeral_1h_input_tokens")
    split = (short or 0) + (hour or 0)
    written = count(usage, "cache_creation_input_tokens")
    if written is None:
        written = split
    elif (short is not None or hour is not None) and split != written:
        odd.append(f"cache_creation_input_tokens {written} is not 5m {short or 0} + 1h {hour or 0}")
    hour = min(hour or 0, written)
    out = count(usage, "output_tokens") or 0
    thinking = count(part(usage, "output_tokens_details"), "thinking_tokens") or 0
    if thinking > out:
        odd.append(f"thinking {thinking} is more than output {out}")
        thinking = out
    return Tokens(
        input=count(usage, "input_tokens") or 0, cache_read=count(usage, "cache_read_input_tokens") or 0,
        cache_write=written - hour, cache_write_1h=hour, output=out - thinking, reasoning=thinking,
    )  # fmt: skip


def with_grown_cache(usage: Object) -> Object:
    """A merged stream usage whose last event states more cache writes but not their lifetimes (a server tool ran and its
    result was cached): what grew since message_start has the default lifetime."""
    split = part(usage, "cache_creation") if isinstance(usage.get("cache_creation"), dict) else {}
    hour, total = split.get("ephemeral_1h_input_tokens") or 0, usage.get("cache_creation_input_tokens")
    if not split or not isinstance(hour, int) or not isinstance(total, int) or total < hour:
        return usage
    return {**usage, "cache_creation": {"ephemeral_1h_input_tokens": hour, "ephemeral_5m_input_tokens": total - hour}}


def _plus(a: Tokens, b: Tokens) -> Tokens:
    return a._replace(
        input=a.input + b.input, cache_read=a.cache_read + b.cache_read, cache_write=a.cache_write + b.cache_write,
        cache_write_1h=a.cache_write_1h + b.cache_write_1h, output=a.output + b.output, reasoning=a.reasoning + b.reasoning,
    )  # fmt: skip


def tier(usage: Object) -> str:
    """standard, priority, batch; or fast, which is a speed with a price of its own."""
    if usage.get("speed") == "fast":
        return "fast"
    value = usage.get("service_tier")
    return value if isinstance(value, str) else ""
