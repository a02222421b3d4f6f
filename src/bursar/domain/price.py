"""A price as data: dated, per bucket, in tiers, with where it came from. Femto-dollars per unit."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from .shape import Shape, maker


class Rate(Shape, frozen=True, gc=False):
    """Femto-dollars per unit: `base`, or the last tier whose start the whole input exceeds (a cliff, not a slope)."""

    base: int
    tiers: tuple[tuple[int, int], ...] = ()  # (input tokens above which, femto-dollars), rising


class Price(Shape, frozen=True, gc=False):
    """What one model costs from one moment on, in one context (service tier, batch). Unit missing: unpriced, not 0."""

    id: str  # source/provider/model@from+context: enough to find it again
    provider: str
    model: str
    rates: dict[str, Rate]  # bucket or unit name -> rate
    free: bool = False  # only where somebody said so
    context_window: int = 0  # tokens, 0 when not known
    output_max: int = 0
    estimated: bool = False  # borrowed from a family, a sibling or another tier: whatever is billed with it says so


class Leg(NamedTuple):
    """count x femto = pico, frozen in the row. In a correction counts may be negative."""

    unit: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    femto: int
    pico: int


made_leg = maker(Leg)


class Priced(Shape, frozen=True, gc=False):
    """A bill for one try. `status`: priced | free | estimated | unpriced. `pico` is always the sum of the legs; where
    the bill is unpriced it is the part that is known, a floor, or None when no part is."""

    status: str
    pico: int | None
    legs: tuple[Leg, ...]
    price_id: str
    parts: tuple[int, ...] = (0, 0, 0, 0, 0)  # pico-dollars: input, cache read, cache write, output, other; they sum to `pico`
    missing: tuple[str, ...] = ()  # units used that the price does not know, whether estimated or left out


class ToolPrice(Shape, frozen=True, gc=False):
    """What one call of a tool costs, in pico-dollars. `pattern` is its name, with * as a wildcard and nothing else."""

    id: str
    pattern: str
    pico: int
    since_us: int
    until_us: int

    @property
    def rank(self) -> tuple[bool, int]:
        """How much it says of a name."""
        return "*" not in self.pattern, len(self.pattern.replace("*", ""))

    def fits(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern.replace("[", "[[]").replace("?", "[?]"))
