"""Reading a request body once: msgspec partial decode, with what must not be ambiguous read through a gate."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ..domain.call import Malformed

T = TypeVar("T")


class Field:
    """A top-level member that decides about money; one class per name. msgspec hands every occurrence of it to `read`'s
    gate, so a body that names one twice is refused: we and the provider might each believe another one."""

    __slots__ = ("value",)
    member = ""  # its name in the body
    accepts: type = object
    expected = ""

    def __init__(self, value: Any) -> None:
        self.value = value


class Text(Field):
    __slots__ = ()
    accepts, expected = str, "a string"


class Flag(Field):
    __slots__ = ()
    accepts, expected = bool, "true or false"


class Count(Field):
    __slots__ = ()
    accepts, expected = int, "a whole number from 0 up"


class Object(Field):
    __slots__ = ()
    accepts, expected = dict, "an object"


def read(body: bytes, shape: type[T]) -> tuple[T, tuple[str, ...]] | Malformed:
    """The body as `shape` with the names of its fields in order of appearance; or where and why it is not."""
    seen: list[str] = []

    def gate(kind: type[Field], value: Any) -> Field:
        if kind.member in seen:
            raise ValueError("named twice")
        seen.append(kind.member)
        if value is not None and (
            not isinstance(value, kind.accepts) or (kind.accepts is int and (value is True or value is False or value < 0))
        ):
            raise ValueError(f"expected {kind.expected}")
        return kind(value)

    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at the bytes of what it skips
        return msgspec.json.decode(body, type=shape, dec_hook=gate), tuple(seen)
    except UnicodeDecodeError as bad:
        return Malformed(f"the body is not UTF-8: byte {bad.start}")
    except RecursionError:
        return Malformed("the body is nested too deeply")
    except msgspec.DecodeError as bad:
        return Malformed(f"the body is not the JSON this path takes: {bad}")


def malformed(where: str, bad: Exception) -> Malformed:
    """Why a member that is read apart from the rest is not what the path takes."""
    if isinstance(bad, RecursionError):
        return Malformed("the body is nested too deeply")
    return Malformed(f"the body is not the JSON this path takes: {bad}, in `{where}`")
