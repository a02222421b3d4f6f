"""How many bytes a model generated, measured without decoding: what estimates start from when usage is missing."""

from __future__ import annotations

import re


def pattern(*keys: str) -> re.Pattern[bytes]:
    """Finds the string values of these keys. Inside a text its quotes are escaped, so text that looks like a key is not
    taken for one."""
    names = "|".join(keys).encode()
    return re.compile(rb'"(?:' + names + rb')"[ ]?:[ ]?"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


def size(found: re.Pattern[bytes], data: bytes) -> int:
    """Bytes of the strings found, escapes counted as what they stand for (a \\uXXXX as three bytes of UTF-8, which is
    right for most scripts that need it)."""
    return measure(found.findall(data))


def measure(texts: list[bytes]) -> int:
    """The same for strings that were found."""
    total = 0
    for text in texts:
        total += len(text)
        if b"\\" in text:
            unicode = text.count(b"\\u")
            total -= 3 * unicode + text.count(b"\\n")
    return max(total, 0)
