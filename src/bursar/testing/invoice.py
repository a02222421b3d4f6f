"""The scripted provider's own bill: an auditor that shares no code and no arithmetic with Bursar's books."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

# Dollars per million tokens, read off the genai-prices data on 2026-11-24 and written down here, so that a changed or
# wrong price book shows as a bill that does not foot. Reasoning is billed as output by all three providers. The models
# are those without long-context tiers below the contexts used here.
PRICES: dict[str, dict[str, str]] = {
    "gpt-5-nano": {"input": "0.05", "cache_read": "0.005", "output": "0.40"},
    "gpt-5-mini": {"input": "0.25", "cache_read": "0.025", "output": "2"},
    "gpt-5": {"input": "1.25", "cache_read": "0.125", "output": "10"},
    "gpt-5.5": {"input": "5", "cache_read": "0.50", "output": "30"},
    "text-embedding-3-small": {"input": "0.02"},
    "text-embedding-3-large": {"input": "0.13"},
    "claude-haiku-4-5": {
        "input": "1", "cache_read": "0.10", "cache_write": "1.25", "cache_write_1h": "2", "output": "5",
    },
    "claude-sonnet-4-5": {
        "input": "3", "cache_read": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "15",
    },
    "claude-opus-4-5": {
        "input": "5", "cache_read": "0.50", "cache_write": "6.25", "cache_write_1h": "10", "output": "25",
    },
    "claude-opus-4-1": {
        "input": "15", "cache_read": "1.50", "cache_write": "18.75", "cache_write_1h": "30", "output": "75",
    },
    "gemini-2.5-flash-lite": {"input": "0.10", "cache_read": "0.01", "output": "0.40"},
    "gemini-2.5-flash": {"input": "0.30", "cache_read": "0.03", "output": "2.50"},
    "gemini-2.5-pro": {"input": "1.25", "cache_read": "0.125", "output": "10"},
}  # fmt: skip

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Tokens of one try, no token in two buckets; each dialect's overlapping counters are made from these."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0

    def part(self, done: int) -> Buckets:
        """What is billed when only `done` output tokens were made: the whole input, reasoning first, then text."""
        reasoning = min(self.reasoning, done)
        return Buckets(
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            min(self.output, done - reasoning),
            reasoning,
        )


NOTHING = Buckets()


def cost(prices: Mapping[str, Mapping[str, str]], model: str, used: Buckets) -> Decimal | None:
    """Dollars, exact; None where the model, or a bucket that was used, has no price. A dated model name such as
    `gpt-5-mini-2025-08-07` has the price of the longest listed name that it begins with."""
    per_million = prices.get(model)
    if per_million is None:
        name = max((listed for listed in prices if model.startswith(listed + "-2")), key=len, default="")
        if not name:
            return None
        per_million = prices[name]
    owed = Decimal(0)
    for bucket, count in (
        ("input", used.input),
        ("cache_read", used.cache_read),
        ("cache_write", used.cache_write),
        ("cache_write_1h", used.cache_write_1h),
        ("output", used.output + used.reasoning),
    ):
        if count:
            if bucket not in per_million:
                return None
            owed += Decimal(per_million[bucket]) * count / MILLION
    return owed


@dataclass(frozen=True, slots=True)
class Change:
    """From a moment on a model has other prices, dollars per million tokens by bucket."""

    from_us: int
    model: str
    prices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One try on the bill. `dollars` is None when nobody knows the price: unknown is not zero."""

    number: int
    at_us: int
    model: str
    used: Buckets
    dollars: Decimal | None
    why: str  # served | abandoned | cut | refused | reset
    ref: str = ""  # the script's own name for the call, for whoever wants to match row by row

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.at_us // 1_000_000, UTC).date().isoformat()


@dataclass
class Invoice:
    """Every request the provider got, as the provider bills it."""

    prices: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: PRICES)
    changes: Sequence[Change] = ()
    lines: list[Line] = field(default_factory=list)

    def add(self, number: int, at_us: int, model: str, used: Buckets, why: str, ref: str = "") -> None:
        self.lines.append(Line(number, at_us, model, used, cost(self.prices_at(at_us), model, used), why, ref))

    def prices_at(self, at_us: int) -> Mapping[str, Mapping[str, str]]:
        """The price list of a moment."""
        begun = [change for change in self.changes if change.from_us <= at_us] if self.changes else None
        if not begun:
            return self.prices
        return {**self.prices, **{change.model: change.prices for change in sorted(begun, key=lambda c: c.from_us)}}

    def total(self) -> Decimal:
        """Dollars. LookupError when a billed try has no price: such a bill has no total."""
        return sum((self._dollars(line) for line in self.lines), Decimal(0))

    def by_model(self) -> dict[str, Decimal]:
        return self._sums(lambda line: line.model)

    def by_day(self) -> dict[str, Decimal]:
        """Dollars by UTC day, `2026-10-14`."""
        return self._sums(lambda line: line.day)

    def tokens(self) -> dict[str, int]:
        """Tokens by bucket over the whole bill."""
        names = Buckets.__slots__
        return {name: sum(getattr(line.used, name) for line in self.lines) for name in names}

    def as_json(self) -> dict[str, object]:
        """What `GET /_script/invoice` answers: amounts as decimal strings."""
        return {
            "total": str(self.total()),
            "tries": len(self.lines),
            "billed_tries": sum(1 for line in self.lines if line.used != NOTHING),
            "by_model": {name: str(owed) for name, owed in self.by_model().items()},
            "by_day": {name: str(owed) for name, owed in self.by_day().items()},
            "tokens": self.tokens(),
        }

    def _sums(self, key: Callable[[Line], str]) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for line in sorted(self.lines, key=key):
            sums[key(line)] = sums.get(key(line), Decimal(0)) + self._dollars(line)
        return sums

    def _dollars(self, line: Line) -> Decimal:
        if line.dollars is None:
            raise LookupError(f"no price for {line.used} of {line.model!r}: pass prices= to the provider")
        return line.dollars
