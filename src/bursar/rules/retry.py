"""After a failed try: again, another model, or give up. Only ever before the first relayed byte."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from ..domain.call import Headers, Reading
from ..domain.shape import Shape

RETRY_AFTER_MAX_S = 30.0  # longer, and the client should decide: it may have better things to do than hold a socket
BACKOFF_S = (0.5, 1.0, 2.0, 4.0)

# 429 that will not go away by waiting (seen in provider-errors-observed): quota, billing, a request over the limit by itself.
TERMINAL = (
    "insufficient_quota",
    "billing",
    "quota_exceeded",
    "daily",
    "per_day",
    "PerDay",
    "request too large",
    "credit balance",
)


class Failure(Shape, frozen=True, gc=False):
    """Why a try brought nothing usable. `kind`: 5xx | 429 | timeout | connect | reset | malformed | client (4xx: ours to fix)."""

    kind: str
    status: int = 0
    sent: bool = True
    retry_after_s: float | None = None
    terminal: bool = False


def classify(status: int, headers: Headers, reading: Reading, now_s: float) -> Failure | None:
    """None for an answer the client can use, else why not."""
    if status < 400:
        return Failure("malformed", status) if reading.malformed else None
    if status == 429 or status >= 500:
        words = f"{reading.error} {reading.error_message}"
        terminal = status == 429 and any(word in words for word in TERMINAL)
        return Failure("429" if status in (429, 529) else "5xx", status, True, retry_after(headers, now_s), terminal)
    return Failure("client", status, terminal=True)


def fault_failure(kind: str, sent: bool) -> Failure:
    """A transport fault in the words of the policy file."""
    if kind.endswith("timeout") and sent:
        return Failure("timeout", sent=sent)
    if not sent:
        return Failure("connect", sent=False)
    return Failure("reset", sent=sent)


def retry_after(headers: Headers, now_s: float) -> float | None:
    """Seconds the provider asks us to wait: retry-after-ms, seconds, or an HTTP date; None when it does not say."""
    for name, value in headers:
        if name == b"retry-after-ms" and value.isdigit():
            return int(value) / 1000
        if name == b"retry-after":
            text = value.decode("ascii", "replace").strip()
            if text.isdigit():
                return float(text)
            try:
                return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
            except (ValueError, TypeError, OverflowError):
                return None
    return None


def wait_before_retry(failure: Failure, retries_done: int, retries_max: int) -> float | None:
    """Seconds to wait before the same request goes again; None when it must not.

    A timeout or reset after the request was sent may have been billed: sending again would pay twice for one answer, so
    those are left to the client, who knows whether it still wants the answer."""
    if retries_done >= retries_max or failure.terminal or failure.kind not in ("5xx", "429", "connect"):
        return None
    if failure.retry_after_s is not None:
        return failure.retry_after_s if failure.retry_after_s <= RETRY_AFTER_MAX_S else None
    return BACKOFF_S[min(retries_done, len(BACKOFF_S) - 1)]


def falls_back(failure: Failure, on: tuple[str, ...]) -> bool:
    """Whether a fallback line with these reasons applies."""
    return failure.kind in on
