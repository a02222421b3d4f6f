"""The text of a policy file: TOML to typed records, and where in it something stands. Nothing of what the policy means."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

Where = Callable[[list[str | int]], str]  # the path of a table or key -> "file:line"
T = TypeVar("T")


class BadPolicy(ValueError):
    """A policy that cannot be used. The message has file, line, what is wrong and what would be right."""

    code = "bad_policy"


class Source(NamedTuple):
    """One file as it was read. `name` stands in messages."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """BadPolicy when there is no reading it."""
        try:
            return cls(str(path), path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as bad:
            raise BadPolicy(f"{path}: cannot be read: {bad}; make it a readable UTF-8 file") from bad

    def at(self, path: list[str | int]) -> str:
        """The place of a table or key, as `file:line`."""
        return f"{self.name}:{_line(self.text, path)}"


def decode(source: Source, kind: type[T]) -> T:
    """The file as that record. BadPolicy for what is not TOML, not of its type, or not known."""
    name, text = source
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise BadPolicy(f"{name}: not TOML: {bad}") from None
    _no_floats(raw, "", text, name)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as bad:
        raise BadPolicy(_explain(str(bad), text, name, kind)) from None


def _no_floats(value: object, where: str, text: str, name: str) -> None:
    """Amounts written as TOML floats would already have lost digits before anyone could see them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, float) and where.startswith("price"):
                raise BadPolicy(
                    f'{name}:{_line_of_key(text, key)}: {where}.{key} = {inner} is a float; write it as a string: {key} = "{inner}"'
                )
            _no_floats(inner, f"{where}.{key}" if where else key, text, name)
    elif isinstance(value, list):
        for inner in value:
            _no_floats(inner, where, text, name)


def _explain(message: str, text: str, name: str, kind: type) -> str:
    """msgspec's message with a line, and for an unknown key the keys that are known there."""
    told, _, at = message.partition(" - at `$")
    path = [
        int(p[1:-1]) if p.startswith("[") else p.lstrip(".")
        for p in re.findall(r"\[\d+\]|\.?[^.\[\]]+", at.rstrip("`"))
    ]
    path = [p for p in path if p != "..."]
    unknown = re.search(r"unknown field `([^`]+)`", told)
    if not unknown:
        return f"{name}:{_line(text, path)}: {'.'.join(str(p) for p in path) or 'the file'}: {told}"
    record: object = kind
    for step in path:
        if isinstance(step, str) and isinstance(record, type) and issubclass(record, msgspec.Struct):
            field = next((f for f in msgspec.structs.fields(record) if f.encode_name == step), None)
            record = _inner(field.type) if field else None
    known = ""
    if isinstance(record, type) and issubclass(record, msgspec.Struct):
        known = "; known here: " + ", ".join(f.encode_name for f in msgspec.structs.fields(record))
    where = ".".join(str(p) for p in path) or "the top level"
    return f"{name}:{_line_of_key(text, unknown[1])}: unknown key {unknown[1]!r} at {where}{known}"


def _inner(kind: object) -> object:
    for inner in getattr(kind, "__args__", ()):
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return inner
    return kind


def _line(text: str, path: list[str | int]) -> int:
    """The line of a table or key. A scan for headers, good enough to point at: TOML parsers here keep no positions."""
    if not path:
        return 1
    lines = text.splitlines()
    head = str(path[0])
    wanted = path[1] if len(path) > 1 and isinstance(path[1], int) else 0
    seen = -1
    for number, line in enumerate(lines, 1):
        if re.match(rf"\s*\[\[\s*{re.escape(head)}\s*\]\]", line):
            seen += 1
            if seen == wanted:
                keys = [p for p in path[2:] if isinstance(p, str)]
                return _line_of_key(text, keys[0], number) if keys else number
        elif re.match(rf"\s*\[\s*{re.escape(head)}(\.|\s*\])", line) and (
            len(path) < 2
            or not isinstance(path[1], str)
            or path[1] in line
            or re.match(rf"\s*\[\s*{re.escape(head)}\s*\]", line)
        ):
            return _line_of_key(text, str(path[-1]), number) if len(path) > 1 else number
        elif re.match(rf"\s*{re.escape(head)}\s*=", line):
            return number
    return 1


def _line_of_key(text: str, key: str, start: int = 1) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if number >= start and re.match(rf'\s*(\[+\s*[\w.-]*\.?)?"?{re.escape(key)}"?\s*[=\].]', line):
            return number
    return start
