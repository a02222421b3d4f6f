"""Error bodies: every provider's own shape, read into a code and a message."""

from __future__ import annotations

from typing import Any, cast

import msgspec

MESSAGE_MAX = 500  # of a message that goes to the log and the ledger


def read(body: bytes | msgspec.Raw) -> tuple[str, str]:
    """(code or type, message) of an error body or of an error member. Both are empty when the bytes hold no error."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return "", ""
    if isinstance(value, list) and value:  # Gemini's streaming form wraps its error in an array
        value = cast(list[Any], value)[0]
    return _of(value)


def _of(value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return "error", value[:MESSAGE_MAX]
    if not isinstance(value, dict):
        return "", ""
    item = cast(dict[str, Any], value)
    inner = item.get("error")
    if isinstance(inner, dict):
        return _of(cast(Any, inner))
    message = item.get("message") or item.get("detail") or inner or ""
    # Gemini's `code` repeats the HTTP status, its `status` is the word; OpenAI and Anthropic differ in which of the two
    # they fill. A word that names the case (insufficient_quota) is worth more than the family it belongs to.
    words = [item.get(name) for name in ("code", "status", "type")]
    word = next((w for w in words if isinstance(w, str) and w and w not in ("error", "failed")), "")
    word = word or next((str(w) for w in words if isinstance(w, int) and not isinstance(w, bool)), "")
    if not word and message:
        word = "error"
    return word, (message if isinstance(message, str) else str(message))[:MESSAGE_MAX]
