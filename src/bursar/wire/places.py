"""Where things stand in a JSON body: elements of arrays, members of objects, strings inside of strings. Offsets, no values."""

from __future__ import annotations

import re

import msgspec

from . import splice

_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_BETWEEN = re.compile(rb"[ \t\r\n,]*+")
_PLAIN_KEY = re.compile(rb'[ \t\r\n,]*+"([^"\\]*+)"[ \t\r\n]*+:[ \t\r\n]*+')

# A string inside an argument text that is itself JSON in a JSON string: its quotes are written \", and what is escaped in it
# twice. Where one is spelled \u0022 or \u005c instead, nothing is offered.
_INNER = re.compile(rb'\\"(?:[^"\\]|\\\\(?:\\["\\]|[^"\\])|\\[/bfnrtu])*+\\"', re.DOTALL)
_SPELLED = re.compile(rb"(?<!\\)(?:\\\\)*\\u00(?:22|5[cC])")


def elements(body: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of each element of the array that `body[start:end]` is. Empty where it is none."""
    if body[start : start + 1] != b"[":
        return []
    found: list[tuple[int, int]] = []
    at = start + 1
    for raw in _array.decode(memoryview(body)[start:end]):
        between = _BETWEEN.match(body, at)
        assert between is not None, "it matches the empty string"
        at = between.end()
        found.append((at, at + len(memoryview(raw))))
        at = found[-1][1]
    return found


def top(body: bytes) -> dict[bytes, tuple[int, int]]:
    """Member -> (start, end) of its value, for the whole body. Empty when it names one twice: we and the provider might each
    take another."""
    start = body.find(b"{")
    end = body.rfind(b"}") + 1
    found = _fast(body, start, end)
    if found is None:
        walked = list(splice.members(body))
        found = {member.key: (member.value, member.end) for member in walked}
        if len(found) < len(walked):
            return {}
    return found


def named(body: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The same for the object that `body[start:end]` is; of a member named twice the last. Empty where it is no object."""
    if body[start : start + 1] != b"{":
        return {}
    found = _fast(body, start, end)
    return {m.key: (m.value, m.end) for m in splice.members(body, start)} if found is None else found


def _fast(body: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]] | None:
    """The decoder knows how long each value is, ten times faster than walking it. None where it may have changed a key or
    seen one twice: then the lengths do not add up to the object's end."""
    found: dict[bytes, tuple[int, int]] = {}
    at = start + 1
    for name, raw in _object.decode(memoryview(body)[start:end]).items():
        key = _PLAIN_KEY.match(body, at)
        if key is None or key[1] != name.encode():
            return None
        at = key.end() + len(memoryview(raw))
        found[key[1]] = (key.end(), at)
    rest = _BETWEEN.match(body, at)
    return found if rest is not None and rest.end() == end - 1 else None


def strings(body: bytes, start: int, end: int, least: int) -> list[tuple[int, int]]:
    """(start, end) of the string values of at least `least` bytes in the JSON value there, at any depth; never a key."""
    found: list[tuple[int, int]] = []
    for token in splice.TOKEN.finditer(body, start, end):
        if token.end() - token.start() >= least and body[token.start()] == 0x22 and not _is_key(body, token.end()):
            found.append(token.span())
    return found


def inner_strings(body: bytes, start: int, end: int, least: int) -> list[tuple[int, int]]:
    """The same inside a string that holds JSON: places with their escaped quotes."""
    found: list[tuple[int, int]] = []
    raw = body[start:end]
    if _SPELLED.search(raw):
        return found
    try:
        _object.decode(_string.decode(raw))
    except msgspec.DecodeError:
        return found
    for token in _INNER.finditer(body, start, end):
        if token.end() - token.start() >= least and not _is_key(body, token.end()):
            found.append(token.span())
    return found


def _is_key(body: bytes, at: int) -> bool:
    while body[at : at + 1] and body[at] in b" \t\r\n":
        at += 1
    return body[at : at + 1] == b":"
