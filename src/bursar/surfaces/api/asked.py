"""What a request asks of the own API: who asks, and its parameters, read and checked. Unknown ones are refused, as the policy's keys
are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ...domain.verdict import Refusal, refuse
from ...stores.query import Filter
from .. import bounds, cli_common, periods
from ..bounds import Bound
from ..cli_common import Common
from ..web.shelf import Shelf

TEXT_MAX = 1_000  # characters of one parameter
GIVEN_MAX = 64
BODY_MAX = 64 << 10
TIMES = {
    "since": "from then on: 24h, 7d, 'last month', 2026-11-01, as on the command line",
    "until": "before then, exclusive; same forms",
    "where": "label=value, or label!=value for all others; repeat to narrow",
}


class Turned(Exception):
    """The request is refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def bad(reason: str, remedy: str = "see docs/reference/api.md, or /bursar/v1/openapi.json") -> Turned:
    return Turned(refuse("bad_request", reason, remedy))


def missing(what: str) -> Turned:
    return Turned(refuse("not_found", f"there is no {what}, or it is not yours to see", "what there is, the list above it says"))


class Caller(NamedTuple):
    """Who asks: a key's name with what its role allows and what its labels bound, or nobody on this machine."""

    name: str = ""
    reads: bool = False
    acts: bool = False
    bound: Bound = ()
    address: str = ""


class Asked(NamedTuple):
    """One question or order. `given`: what its query or its JSON body says, values as texts."""

    caller: Caller
    given: Mapping[str, Sequence[Any]]
    shelf: Shelf
    path: Mapping[str, str] = {}

    @property
    def now_us(self) -> int:
        return self.shelf.clock_us()

    def text(self, name: str, other: str = "") -> str:
        values = self.given.get(name, ())
        if len(values) > 1:
            raise bad(f"{name} is given {len(values)} times; it has one value")
        if not values:
            return other
        if not isinstance(values[0], str):
            raise bad(f"{name} is {values[0]!r}; it is a text")
        return values[0]

    def texts(self, name: str) -> tuple[str, ...]:
        found = tuple(self.given.get(name, ()))
        if not all(isinstance(value, str) for value in found):
            raise bad(f"{name} holds what is no text")
        return found

    def number(self, name: str, other: int, least: int, most: int) -> int:
        text = str(self.given[name][0]) if self.given.get(name) else str(other)
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise bad(f"{name}={text[:40]!r}: write a whole number from {least:,} to {most:,}")
        return int(text)

    def flag(self, name: str) -> bool:
        value = self.given[name][0] if self.given.get(name) else False
        found = {"1": True, "true": True, "": True, "0": False, "false": False}.get(value) if isinstance(value, str) else value
        if not isinstance(found, bool):
            raise bad(f"{name}={value!r}: write 1 or 0")
        return found

    def period(self) -> periods.Period:
        """UsageError says what was expected."""
        return Common(since=self.text("since") or None, until=self.text("until") or None).period_at(self.now_us)

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What `where` says."""
        return cli_common.pairs(self.texts("where"))

    def filters(self) -> tuple[Filter, ...]:
        """What `where` says, and what the caller is bounded to: both hold."""
        return (*cli_common.filters(self.pairs()), *self.caller.bound)

    def match(self) -> tuple[tuple[str, str], ...]:
        """What an order is about, within what the caller is bounded to."""
        made = [(name, value) for name, value in self.pairs() if not name.endswith("!")]
        if len(made) < len(self.pairs()):
            raise bad("an order matches what is, not what is not", "write label=value")
        if self.text("conversation"):
            made.append(("conversation", self.text("conversation")))
        if not made:
            raise bad("nothing to match", "write where (label=value) or conversation")
        return bounds.narrowed(made, self.caller.bound)


def from_query(pairs: Sequence[tuple[str, str]], takes: Mapping[str, str]) -> dict[str, list[Any]]:
    """The parameters of a URL."""
    if len(pairs) > GIVEN_MAX:
        raise bad(f"{len(pairs)} parameters; at most {GIVEN_MAX}")
    made: dict[str, list[Any]] = {}
    for name, value in pairs:
        made.setdefault(name, []).append(value)
    return _checked(made, takes)


def from_body(body: bytes, takes: Mapping[str, str]) -> dict[str, list[Any]]:
    """The members of a JSON object; of one that is an object itself (`where`), its pairs as `name=value`."""
    try:
        said = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise Turned(refuse("malformed_json", f"not JSON: {str(wrong)[:200]}", "send one JSON object")) from None
    if not isinstance(said, dict) or len(said) > GIVEN_MAX:
        raise bad("the body is no JSON object of a few members")
    made: dict[str, list[Any]] = {}
    for name, value in said.items():
        match value:
            case dict():
                if not all(isinstance(one, str) for one in value.values()):
                    raise bad(f"{name[:40]} holds what is no text")
                made[name] = [f"{key}={one}" for key, one in value.items()]
            case list():
                made[name] = value
            case None:
                pass
            case _:
                made[name] = [value]
    return _checked(made, takes)


def _checked(made: dict[str, list[Any]], takes: Mapping[str, str]) -> dict[str, list[Any]]:
    for name, values in made.items():
        if name not in takes:
            raise bad(f"unknown parameter {name[:80]!r}", f"known here: {', '.join(takes) or 'none'}")
        if len(values) > GIVEN_MAX or any(isinstance(value, str) and len(value) > TEXT_MAX for value in values):
            raise bad(f"{name} is too long", f"at most {GIVEN_MAX} values of {TEXT_MAX} characters")
    return made
