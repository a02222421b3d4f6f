"""Usage out of the two ends of an answer too large to gather."""

from __future__ import annotations

import re

import msgspec

from . import splice


def member(head: bytes, tail: bytes, key: bytes, level: int = 1) -> bytes:
    """The bytes of member `key` (an object) at that nesting level, when the tail (or, for level 1, the head) holds it
    whole; empty otherwise. Head and tail may overlap. A namesake at another level is not taken for it."""
    opening = re.compile(rb'"' + key + rb'"[ \t\r\n]*:[ \t\r\n]*(?=\{)')
    for found in reversed(list(opening.finditer(tail))):
        end = splice.value_end(tail, found.end())
        if end > 0 and _closes_document(tail, end, level):
            return tail[found.end() : end]
    for found in splice.members(head) if level == 1 else ():
        if found.key == key and head[found.value : found.value + 1] == b"{":
            return head[found.value : found.end]
    return b""


def text(head: bytes, tail: bytes, key: bytes) -> str:
    """The string value of top-level member `key`, when one end holds it; empty otherwise."""
    raw = b""
    for found in splice.members(head):
        if found.key == key:
            raw = head[found.value : found.end]
            break
    opening = re.compile(rb'"' + key + rb'"[ \t\r\n]*:[ \t\r\n]*(?=")')
    for found in reversed(list(opening.finditer(tail))) if not raw else ():
        end = splice.value_end(tail, found.end())
        if end > 0 and _closes_document(tail, end, 1):
            raw = tail[found.end() : end]
            break
    try:
        return msgspec.json.decode(raw, type=str) if raw else ""
    except msgspec.DecodeError:
        return ""


def _closes_document(tail: bytes, end: int, level: int) -> bool:
    """Whether what follows closes exactly `level` levels, the last at the very end: then the member stood there."""
    depth = level
    for token in splice.TOKEN.finditer(tail, end):
        if depth == 0:
            return False
        mark = tail[token.start()]
        depth += 1 if mark in b"[{" else -1 if mark in b"]}" else 0
    return depth == 0
