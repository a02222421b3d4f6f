"""What a control saved: against which other course of events, less what it took itself, and how sure that is. Never gross alone.

A saving is the difference of two bills. The one that was paid is in the ledger; the other is worked out with the same price and
the same arithmetic, from what would have been asked. What the difference rests on is said with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..domain.entry import Entry
from ..domain.price import Price
from ..domain.usage import Tokens
from .price import bill

CONTROLS = ("cache", "near", "embeddings", "tiers", "compaction")

# What is compared with, per control. A statement prints these.
COUNTERFACTUAL: dict[str, str] = {
    "cache": "the same call made again, at the price of the call whose reply was used",
    "near": "the call made, at the price of the call whose reply was used",
    "embeddings": "every input of the batch embedded again, at this price and the same tokens",
    "tiers": "the same tokens at the dearer model's price",
    "compaction": "the full history sent, read from the prompt cache where it was warm",
}
ALIKE = ("cache", "near")  # whose net is exact and has no cost of its own: two columns say all
# How sure: exact (both bills are known), computed (tokens of the other course are counted, not billed), estimated.
SURE: dict[str, str] = {"cache": "exact", "near": "exact", "embeddings": "computed", "tiers": "estimated", "compaction": "computed"}


class Saving(NamedTuple):
    """Of one call, or of many added up, in pico-dollars. `low` and `high` bound the net."""

    control: str
    gross: int
    own: int  # what the control took: classifiers, summaries, broken and cold prompt caches, answers made twice
    low: int
    high: int
    calls: int = 1

    @property
    def net(self) -> int:
        return self.gross - self.own


def answered(kept_pico: int, control: str = "cache", lookup_pico: int = 0) -> Saving:
    """A call that a kept reply answered. `lookup_pico`: what finding it took, such as an embedding of one's own."""
    net = kept_pico - lookup_pico
    return Saving(control, kept_pico, lookup_pico, net, net)


def embedded(asked: Tokens, price: Price, known_bytes: int, asked_bytes: int) -> Saving | None:
    """A batch of which only a part was asked for. The tokens of the rest are taken from the batch's own bytes a token; five per
    cent either way. None where the price cannot say."""
    if asked_bytes <= 0:
        return None
    tokens = asked.input_total * known_bytes // asked_bytes
    saved = bill(Tokens(input=tokens), price).pico
    if saved is None:
        return None
    return Saving("embeddings", saved, 0, saved - saved // 20, saved + saved // 20)


def routed(used: Tokens, paid: int, dear: Price, own: int = 0, longer: float = 1.0, spread: float = 0.2) -> Saving | None:
    """A call that a cheaper model answered. `longer`: output of the dearer model to the cheaper one's, as graded traffic or a
    shadow sample has it; `spread`: how far that may be off. `own`: classifier, cold prompt cache, answers thrown away."""

    def at(factor: float) -> int | None:
        output, reasoning = round(used.output * factor), round(used.reasoning * factor)
        return bill(used._replace(output=output, reasoning=reasoning), dear).pico

    middle, low, high = at(longer), at(longer * (1 - spread)), at(longer * (1 + spread))
    if middle is None or low is None or high is None:
        return None
    return Saving("tiers", middle - paid, own, low - paid - own, high - paid - own)


def compacted(used: Tokens, price: Price, removed: int, broken: int, warm: bool, summary_pico: int = 0) -> Saving | None:
    """A call whose history was shortened. `removed`: tokens not sent; `broken`: tokens written to the cache again because of a
    change made in this call; `warm`: the full history would have been read from the cache. Two bills with the same price, so
    that long-context tiers count too; token counts of the removed text within ten per cent."""
    write = "cache_write_1h" if used.cache_write_1h else "cache_write" if used.cache_write else "input"
    broken = min(broken, getattr(used, write)) if warm else 0

    def full(more: int) -> int | None:
        tokens = used._replace(**{write: getattr(used, write) - broken + (0 if warm else more)})
        return bill(tokens._replace(cache_read=tokens.cache_read + broken + (more if warm else 0)), price).pico

    paid = bill(used, price).pico
    other, less, more = full(removed), full(removed - removed // 10), full(removed + removed // 10)
    unbroken = full(0)
    if paid is None or other is None or less is None or more is None or unbroken is None:
        return None
    own = max(paid - unbroken, 0) + summary_pico
    return Saving(
        "compaction", other - unbroken + max(unbroken - paid, 0), own, less - paid - summary_pico, more - paid - summary_pico
    )


def added(savings: Iterable[Saving]) -> dict[str, Saving]:
    """By control, in the order of CONTROLS. Bounds are added as if all erred in one direction: a sum is never surer than its
    parts."""
    found: dict[str, Saving] = {}
    for one in savings:
        its = found.get(one.control)
        if its is not None:
            one = Saving(
                one.control, its.gross + one.gross, its.own + one.own, its.low + one.low, its.high + one.high,
                its.calls + one.calls,
            )  # fmt: skip
        found[one.control] = one
    return {control: found[control] for control in CONTROLS if control in found}


# --- in a row: `saved` is the net of this row's own controls, `saved_by` names them, `evidence` has the parts ---


def into(entry: Entry, told: Mapping[str, Saving], would: Saving | None = None, judged: bool | None = None) -> Entry:
    """The row with what was saved in it, and what a control in shadow would have saved. `judged`: whether the reply to a
    near-duplicate says the same as this one."""
    if len(told) == 1 and would is None and (one := next(iter(told.values()))).control in ALIKE and not one.own:
        return entry._replace(saved=one.gross, saved_by=one.control)
    evidence: dict[str, Any] = json.loads(entry.evidence)
    if told:
        evidence["saved"] = {name: [one.gross, one.own, one.low, one.high] for name, one in told.items()}
    if would is not None:
        evidence["would"] = {would.control: [would.gross, would.own, would.low, would.high]}
    if judged is not None:
        evidence["judged"] = int(judged)
    text = json.dumps(evidence, separators=(",", ":"))
    if not told:
        return entry._replace(evidence=text)
    return entry._replace(saved=sum(one.net for one in told.values()), saved_by="+".join(told), evidence=text)


def of(entry: Entry) -> dict[str, Saving]:
    """What a row says it saved, by control."""
    return read(entry.saved, entry.saved_by, entry.evidence)


def read(saved: int | None, saved_by: str, evidence: str, member: str = "saved") -> dict[str, Saving]:
    """The same from its columns; `member` would: what controls in shadow would have saved."""
    parts: dict[str, list[int]] = json.loads(evidence).get(member, {}) if f'"{member}"' in evidence else {}
    found = {name: Saving(name, *four) for name, four in parts.items()}
    if member == "saved" and not found and saved_by and saved is not None:
        found[saved_by] = Saving(saved_by, saved, 0, saved, saved)
    return found
