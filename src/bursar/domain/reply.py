"""A request as far as it decides its answer, and a reply that may answer it again."""

from __future__ import annotations

from array import array
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


class Framed(NamedTuple):
    """A question as near-duplicates are found by: what of the request must be the same (a key), the human's words, and their vector
    where an embedding model says what is alike."""

    frame: bytes
    text: str
    vector: array[float] | None = None


class Likely(NamedTuple):
    """`kept`: the reply to a question that asks nearly the same. `served`: it may be given; else the call is made and judges it.
    `looks` false: too many were wrong, near-duplicates are not looked for."""

    kept: Kept | None = None
    served: bool = False
    looks: bool = True
