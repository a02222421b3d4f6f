"""Finding and changing one member of a JSON object by its bytes; everything else stays as it came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

# Strings first, so that brackets inside text are never taken for structure. Possessive, or a 20 MB string backtracks.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_SPACE = b" \t\r\n"
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR = re.compile(rb"[^,\]}\s]+")


# A letter or underscore written as an escape: nobody's encoder does that, but a decoder reads it as the name it spells.
_ESCAPED_NAME = re.compile(rb"\\u00[567]")


class Member(NamedTuple):
    """A top-level member: its key, where the key starts, where its value starts and ends."""

    key: bytes
    start: int
    value: int
    end: int


def value_end(body: bytes, start: int) -> int:
    """The offset behind the JSON value that begins at `start`; -1 when the bytes end before it does."""
    first = body[start : start + 1]
    if first not in (b"{", b"[", b'"'):
        scalar = _SCALAR.match(body, start)
        return scalar.end() if scalar else -1
    depth = 0
    for token in TOKEN.finditer(body, start):
        mark = body[token.start()]
        if mark == 0x7B or mark == 0x5B:
            depth += 1
        elif mark == 0x7D or mark == 0x5D:
            depth -= 1
        if depth == 0:
            return token.end()
    return -1


def members(body: bytes, start: int = 0) -> Iterator[Member]:
    """The members of the object that begins at or after `start`. The body must be known to be well-formed JSON."""
    at = body.find(b"{", start) + 1
    while at > 0:
        while body[at : at + 1] and body[at] in b" \t\r\n,":
            at += 1
        key = TOKEN.match(body, at)
        colon = _COLON.match(body, key.end()) if key and body[at] == 0x22 else None
        if key is None or colon is None:
            return
        end = value_end(body, colon.end())
        if end < 0:
            return
        name = body[at + 1 : key.end() - 1]
        if b"\\" in name:
            name = msgspec.json.decode(body[at : key.end()], type=str).encode()
        yield Member(name, at, colon.end(), end)
        at = end


def find(body: bytes, key: bytes, start: int = 0) -> Member | None:
    """The member called `key` of the object at `start`, found without walking the whole body where that can be."""
    if body.find(b'"' + key + b'"', start) < 0 and not _ESCAPED_NAME.search(body, start):
        return None
    for member in members(body, start):
        if member.key == key:
            return member
    return None


def put(body: bytes, key: bytes, value: bytes) -> bytes:
    """The body with top-level member `key` set to `value` (JSON text): in place when it is there, else first in the object."""
    return _put(body, body.find(b"{"), key, value)


def put_inside(body: bytes, outer: bytes, key: bytes, value: bytes) -> bytes:
    """The body with `outer.key` set to `value`; `outer` is made when it is absent or not an object."""
    member = find(body, outer)
    if member is None or body[member.value : member.value + 1] != b"{":
        return put(body, outer, b'{"' + key + b'":' + value + b"}")
    return _put(body, member.value, key, value)


def _put(body: bytes, at: int, key: bytes, value: bytes) -> bytes:
    member = find(body, key, at)
    if member is not None:
        return body[: member.value] + value + body[member.end :]
    rest = at + 1
    while body[rest : rest + 1] and body[rest] in _SPACE:
        rest += 1
    comma = b"" if body[rest : rest + 1] == b"}" else b","
    return body[: at + 1] + b'"' + key + b'":' + value + comma + body[at + 1 :]
