"""A wrapped client's headers, made in fewer steps: httpx looks for each header of a request in all others, and decodes each anew. What
comes out is the same, or httpx's own way is taken."""

from __future__ import annotations

import functools
import os
import sys
from itertools import chain
from types import FunctionType
from typing import Any

from .sdk_fast import OFF

# What a class must make of these as we do, or it is not the one we know. Latin-1, UTF-8, twice, spelled in several ways, nothing.
SAMPLES: tuple[Any, ...] = (
    None, {}, [], {"A": "b"}, [("Accept", "x"), (b"accept", b"y"), ("User-Agent", "z")], {"User-Agent": "n", "aCCept": "m"},
    [("a", "\u00e9")], [(b"a", b"\xe9"), (b"X", b"1")], [(b"\xc3\xa9", b"\xc3\xa9")], (("a", "b"),), [("a", 1)], [("a",)], [(1, "a")],
)  # fmt: skip

ASCII_IN_THEM = frozenset(("ascii", "utf-8", "iso-8859-1", "latin-1"))  # encodings in which a name's bytes are its ASCII


def install(library: str) -> bool:
    """Take the short way in httpx or httpx2, if it is loaded and is the one we know; whether it is taken now."""
    module = sys.modules.get(f"{library}._models")
    kind: Any = getattr(module, "Headers", None)
    if kind is None or os.environ.get(OFF) == "0":
        return False
    own = vars(kind).copy()
    methods = [own.get(name) for name in ("__init__", "update", "multi_items")]
    if all([hasattr(method, "__wrapped__") for method in methods]):
        return True
    if not all([type(method) is FunctionType and method.__globals__ is vars(module) for method in methods]):
        return False  # somebody was here before
    quick = _quick(kind, own)
    same = _tried(type(kind)(kind.__name__, (kind,), _quick(None, own))) == _tried(kind)
    if same:
        for name, method in quick.items():
            setattr(kind, name, method)
    return same


def tell_ascii(library: str) -> bool:
    """Let a set of httpx's or httpx2's headers find out by its bytes whether they are ASCII, as nearly all are."""
    kind: Any = getattr(sys.modules.get(f"{library}._models"), "Headers", None)
    if kind is None or os.environ.get(OFF) == "0":
        return False
    whole = getattr(kind, "encoding", None)
    if not isinstance(whole, property) or whole.fget is None:
        return False
    slow = whole.fget
    if hasattr(slow, "__wrapped__"):
        return True
    try:
        known = kind([("A", "b")])
        if (known._list, known._encoding) != ([(b"A", b"a", b"b")], None) or (known.encoding, known._encoding) != ("ascii", "ascii"):
            return False
    except (AttributeError, TypeError, ValueError):
        return False

    @functools.wraps(slow)
    def encoding(self: Any) -> str:
        found = self._encoding
        if found is None:
            if not b"".join(chain.from_iterable(self._list)).isascii():
                return slow(self)
            found = self._encoding = "ascii"
        return found

    kind.encoding = property(encoding, whole.fset, whole.fdel, whole.__doc__)
    return True


def _quick(kind: Any, own: Any) -> dict[str, Any]:
    """The methods in their short form, for headers that are exactly of this `kind` (None: of whichever they are made)."""
    whole_init, whole_update, whole_items = own["__init__"], own["update"], own["multi_items"]
    known: dict[str, tuple[bytes, bytes]] = {}

    @functools.wraps(whole_init)
    def __init__(self: Any, headers: Any = None, encoding: str | None = None) -> None:
        came = type(headers)
        if came is dict or came is list:
            word = encoding or "ascii"
            made: list[tuple[bytes, bytes, bytes]] = []
            for name, value in headers.items() if came is dict else headers:
                if type(name) is str and encoding is None:
                    raw, low = known.get(name) or _remembered(known, name)
                elif type(name) is bytes:
                    raw, low = name, name.lower()
                else:
                    break
                if type(value) is str:
                    value = value.encode(word)
                elif type(value) is not bytes:
                    break
                made.append((raw, low, value))
            else:
                self._list, self._encoding = made, encoding
                return
        whole_init(self, headers, encoding)

    @functools.wraps(whole_update)
    def update(self: Any, headers: Any = None) -> None:
        if type(self) is not (kind or type(self)):
            whole_update(self, headers)
            return
        more = type(self)(headers)
        named = {name for _, name, _ in more._list}
        if not named:
            return
        encoding, mine = self.encoding, self._list  # found out before the others come in, as it always was
        gone = [value for _, name, value in mine if name in named]
        if encoding not in ASCII_IN_THEM or not b"".join([*named, *gone]).isascii():
            whole_update(self, more)  # what cannot be read cannot be taken out
            return
        if gone:
            mine[:] = [line for line in mine if line[1] not in named]
        mine.extend(more._list)

    @functools.wraps(whole_items)
    def multi_items(self: Any) -> list[tuple[str, str]]:
        if not self._list:
            return []  # what comes in later says what the encoding is
        found = self.encoding
        return [(name.decode(found), value.decode(found)) for _, name, value in self._list]

    return {"__init__": __init__, "update": update, "multi_items": multi_items}


NAMES_MAX = 512  # names of headers that are remembered, in bytes and in small letters: programs send the same few


def _remembered(known: dict[str, tuple[bytes, bytes]], name: str) -> tuple[bytes, bytes]:
    raw = name.encode("ascii")
    if len(known) >= NAMES_MAX:
        known.clear()
    known[name] = made = raw, raw.lower()
    return made


def _tried(kind: Any) -> list[object]:
    """What a class makes of the samples, each followed by two others."""
    return [_outcome(kind, one, SAMPLES[n - step]) for n, one in enumerate(SAMPLES) for step in (2, 5)]


def _outcome(kind: Any, one: Any, other: Any) -> tuple[object, ...]:
    try:
        made = kind(one)
        begun = list(made._list), made._encoding, made.multi_items(), made._encoding
        made.update(other)
        return *begun, list(made._list), made._encoding, made.multi_items(), made.encoding, made.raw
    except (AttributeError, LookupError, TypeError, ValueError) as bad:
        return type(bad), str(bad)
