"""Finding and changing one member of a JSON object by its bytes; everything else stays as it came."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

# Strings first, so that brackets inside text are never taken for structure. Possessive, or a 20 MB string backtracks.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_SPACE = b" \t\r\n"
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR = re.compile(rb"[^,\]}\s]+")


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


def find(body: bytes, key: str, start: int = 0) -> Member | None:
    """The member called `key` of the object at `start`."""
    if start == 0 and len(body) > _LARGE:
        found = _probed(body, key.encode())
        if found is not None:
            return found
    name = key.encode()
    for member in members(body, start):
        if member.key == name:
            return member
    return None


# Walking 200 KB token by token takes a millisecond, asking the decoder where a name stands a tenth of it.
_LARGE = 16 * 1024
_PROBE = b"-7.62339e-201"


@lru_cache(maxsize=64)
def _shape(name: str) -> Any:
    return msgspec.defstruct("Probe", [("found", msgspec.Raw, msgspec.Raw(b""))], rename={"found": name})


def _probed(body: bytes, name: bytes) -> Member | None:
    """The member, if it is the first or the last place where its name is written out. Which of these is the top level the
    decoder says: a probe put there is then what it finds under that name."""
    if _PROBE in body:
        return None
    quoted = b'"' + name + b'"'
    shape = _shape(name.decode())
    for at in dict.fromkeys((body.rfind(quoted), body.find(quoted))):
        colon = _COLON.match(body, at + len(quoted)) if at >= 0 else None
        end = value_end(body, colon.end()) if colon else -1
        if colon is None or end < 0:
            continue
        try:
            probed = msgspec.json.decode(body[: colon.end()] + _PROBE + body[end:], type=shape)
        except msgspec.DecodeError:
            continue  # the name was a value, or stood in a place where a number may not
        if bytes(probed.found) == _PROBE:
            return Member(name, at, colon.end(), end)
    return None


def put(body: bytes, key: str, value: bytes, members: Sequence[str] | None = None) -> bytes:
    """The body with top-level member `key` set to `value` (JSON text): in place when it is there, else first in the object.
    `members`, where known, are the names that are there (of those that are ever put)."""
    member = find(body, key) if members is None or key in members else None
    return _put(body, body.find(b"{"), member, key, value)


def put_inside(body: bytes, outer: str, key: str, value: bytes, members: Sequence[str] | None = None) -> bytes:
    """The body with `outer.key` set to `value`; `outer` is made when it is absent or not an object."""
    place = find(body, outer) if members is None or outer in members else None
    if place is None or body[place.value : place.value + 1] != b"{":
        made = b'{"' + key.encode() + b'":' + value + b"}"
        return _put(body, body.find(b"{"), place, outer, made)
    inner = body[place.value : place.end]
    return body[: place.value] + _put(inner, 0, find(inner, key), key, value) + body[place.end :]


def _put(body: bytes, at: int, member: Member | None, key: str, value: bytes) -> bytes:
    if member is not None:
        return body[: member.value] + value + body[member.end :]
    rest = at + 1
    while body[rest : rest + 1] and body[rest] in _SPACE:
        rest += 1
    comma = b"" if body[rest : rest + 1] == b"}" else b","
    return body[: at + 1] + b'"' + key.encode() + b'":' + value + comma + body[at + 1 :]
