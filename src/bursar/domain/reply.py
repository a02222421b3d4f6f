"""A request as far as it decides its answer, and a reply that may answer it again."""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """`canon` is the same for two requests that ask the same. `temperature` None: the provider's own default."""

    canon: bytes
    temperature: float | None = None
    seeded: bool = False


class Kept(NamedTuple):
    """A reply as the provider gave it. `stream`: the body is a stream's bytes. `pico` is what it cost to make, `less` what
    other controls had taken off that; `call` whose call it was, for the ledger of those that it answers."""

    body: bytes
    stream: bool
    model: str
    made_us: int
    expires_us: int
    pico: int = 0
    call: str = ""
    less: int = 0
