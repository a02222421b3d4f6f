"""What a rule says of a call: pass, or refuse with code, reason and remedy."""

from __future__ import annotations

from .shape import Shape


class Refusal(Shape, frozen=True, gc=False):
    """Refused. `status` is what HTTP says; `reason` gives the numbers, `remedy` says what now.

    `code` is one of CODES. `retry_after_s` only for rate limits: a budget stop carries none, and says
    `x-should-retry: false`, or clients wait for it (some for an hour)."""

    code: str
    status: int
    reason: str
    remedy: str
    retry_after_s: int = 0


# code -> HTTP status. Every code has a line in docs/reference/refusals.md (a test looks).
CODES: dict[str, int] = {
    "budget_exceeded": 402,
    "conversation_budget_exceeded": 402,
    "fallback_ceiling": 402,
    "tool_depth_exceeded": 402,
    "runaway_loop": 402,
    "stopped_by_order": 402,
    "model_not_allowed": 403,
    "unpriced_model": 402,
    "budget_unverifiable": 503,
    "ledger_unavailable": 503,
    "invalid_key": 401,
    "key_revoked": 401,
    "bad_request": 400,
    "malformed_json": 400,
    "unknown_tier": 400,
    "unknown_provider": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "uri_too_long": 414,
    "headers_too_large": 431,
    "rate_limited": 429,
    "too_busy": 503,
    "provider_unreachable": 502,
    "provider_broken": 502,
    "provider_timeout": 504,
    "internal_fault": 500,
    # Below /bursar/v1/ only.
    "not_allowed": 403,
    "not_done": 409,
    "bad_policy": 500,
    "office_unavailable": 503,
    "office_late": 504,
}


def refuse(code: str, reason: str, remedy: str, retry_after_s: int = 0) -> Refusal:
    """A refusal by its code; KeyError on a code nobody declared is a bug."""
    return Refusal(code, CODES[code], reason, remedy, retry_after_s)
