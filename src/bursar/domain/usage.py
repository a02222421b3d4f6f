"""Token usage as disjoint buckets, and how sure we are of it: Known, Estimated or Unknown."""

from __future__ import annotations

from typing import NamedTuple

from .shape import Shape, maker


class Tokens(NamedTuple):
    """Disjoint counts: no token is in two buckets, whatever the provider's own counters overlap. `other` holds billed
    units that are not tokens, as (unit, count): `web_search`, `file_search`, `code_session`, `request`, …"""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0  # five-minute (or provider default) lifetime
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    input_audio: int = 0
    cache_read_audio: int = 0
    output_audio: int = 0
    input_image: int = 0
    output_image: int = 0
    other: tuple[tuple[str, int], ...] = ()

    @property
    def input_total(self) -> int:
        """Everything the provider read, cached or not: what long-context price tiers are judged on."""
        # Unpacked: reading a field of a named tuple by its name takes four times as long as adding it, and every call asks.
        read, cached, written, hour, _, _, audio, audio_cached, _, image, _, _ = self
        return read + cached + written + hour + audio + audio_cached + image

    @property
    def output_total(self) -> int:
        _, _, _, _, wrote, reasoning, _, _, audio, _, image, _ = self
        return wrote + reasoning + audio + image

    @property
    def total(self) -> int:
        """Everything read and written."""
        return sum(self[:-1])


made_tokens = maker(Tokens)
TOKEN_BUCKETS: tuple[str, ...] = Tokens._fields[:-1]
TEXT = 6  # so many buckets are of text, and stand in front
ALL_TEXT = (0, 0, 0, 0, 0, ())  # what stands behind them where there was nothing else


class Known(Shape, frozen=True, gc=False):
    """The provider said so. `contradiction` names what did not add up in `raw` (then the raw usage is kept and flagged)."""

    tokens: Tokens
    raw: bytes = b""
    contradiction: str = ""


class Estimated(Shape, frozen=True, gc=False):
    """Counted from the bytes that passed; `why` says what cut the provider's own count short."""

    tokens: Tokens
    why: str
    raw: bytes = b""


class Unknown(Shape, frozen=True, gc=False):
    """Nobody can say: never zero. Charged at the hold."""

    why: str


Usage = Known | Estimated | Unknown
