"""Why a bill changed: two periods' sums become drivers by Shapley, for every slice, in whole pico-dollars that add up.

What a slice costs is a product of things that can change: conversations x calls each x retries per call x share of a model x
tokens read x share read from the cache x price, summed over models, kinds of call and token classes. The Shapley value of such a
sum is the mean, over every order in which the things could have changed one after another, of what each change added. It needs no
orders here: for products it is the integral of a polynomial along the straight way from one period to the other (Owen 1972), and
four Gauss points integrate a polynomial of degree seven exactly. Floats weigh; the dollars are whole, and closed term by term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Every kind of call has a rate of its own rather than a share of all calls: with shares, a surge of retries would show as
# primary calls falling.
DRIVERS: tuple[str, ...] = (
    "volume", "depth", "eval", "embedding", "background", "control", "retry", "fallback",
    "model_mix", "context", "cache", "output", "price", "fees", "corrections",
)  # fmt: skip
VOLUMES = {"eval": "eval", "embedding": "embedding", "background": "background", "control": "control"}
AGAIN: tuple[str, ...] = ("retry", "fallback")
PLACE = 5  # where in `Sums` the dollars begin, in the order of the tokens


class Leaf(NamedTuple):
    """What tells one group of tries from another. Empty: nobody said, or there is none."""

    labels: tuple[str, ...]
    purpose: str
    operation: str
    cause: str
    model: str


class Sums(NamedTuple):
    """What a leaf's tries came to in one period: tokens, and pico-dollars in five places. `tries` are those that were billed
    or could have been: neither refused ones nor corrections, nor errors that cost nothing."""

    tries: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    cost_input: int = 0
    cost_cache_read: int = 0
    cost_cache_write: int = 0
    cost_output: int = 0
    cost_other: int = 0

    @property
    def read(self) -> int:
        return self.input + self.cache_read + self.cache_write

    @property
    def cost(self) -> int:
        return self.cost_input + self.cost_cache_read + self.cost_cache_write + self.cost_output + self.cost_other

    def plus(self, other: Sums) -> Sums:
        return Sums(*[a + b for a, b in zip(self, other)])


NOTHING = Sums()
Period = Mapping[Leaf, Sums]


class Talk(NamedTuple):
    """Primary first tries of one combination of labels: conversations they are in, and how many are in none that is known."""

    conversations: int = 0
    alone: int = 0


class Side(NamedTuple):
    """One period: its leaves, and how many conversations each combination of labels had."""

    leaves: Period
    talks: Mapping[tuple[str, ...], Talk]


Counted = dict[tuple[str, ...], int]


class Explained(NamedTuple):
    """The change, in pico-dollars. `drivers` add up to now - before; so do `cells`, per leaf to its own change."""

    before: int
    now: int
    drivers: dict[str, int]
    cells: dict[Leaf, dict[str, int]]
    talks: tuple[Counted, Counted]  # conversations as counted, by labels; a call without one is its own


def explain(before: Side, now: Side) -> Explained:
    """Drivers of the change from one period to the other. Residual 0, to the pico-dollar, in total, per driver and per leaf."""
    groups: dict[tuple[tuple[str, ...], str], list[Leaf]] = {}
    for leaf in {**before.leaves, **now.leaves}:
        groups.setdefault((leaf.labels, leaf.purpose), []).append(leaf)
    cells: dict[Leaf, dict[str, int]] = {}
    talks: tuple[Counted, Counted] = ({}, {})
    for (labels, purpose), leaves in groups.items():
        own = [leaf for leaf in leaves if leaf.operation not in AGAIN]
        firsts = _tries(before, own), _tries(now, own)
        base = _base(labels, purpose, firsts, before, now, talks)
        kinds: dict[tuple[str, str], list[Leaf]] = {}
        for leaf in leaves:
            kinds.setdefault((leaf.operation if leaf.operation in AGAIN else "", leaf.cause), []).append(leaf)
        for (operation, _), of_kind in kinds.items():
            both = [(leaf, before.leaves.get(leaf, NOTHING), now.leaves.get(leaf, NOTHING)) for leaf in of_kind]
            tries = _tries(before, of_kind), _tries(now, of_kind)
            counts = _counts(operation, base, firsts, tries)
            for leaf, was, is_ in both:
                found = _leaf(was, is_, tries, counts)
                if found:
                    cells[leaf] = found
    drivers = dict.fromkeys(DRIVERS, 0)
    for cell in cells.values():
        for driver, pico in cell.items():
            drivers[driver] += pico
    was_total, is_total = (sum(s.cost for s in side.leaves.values()) for side in (before, now))
    assert sum(drivers.values()) == is_total - was_total, "drivers do not add up to the change"
    return Explained(was_total, is_total, drivers, cells, talks)


def _tries(side: Side, leaves: Sequence[Leaf]) -> int:
    return sum(side.leaves.get(leaf, NOTHING).tries for leaf in leaves)


Factor = tuple[str, float, float]  # driver, value before, value now


def _base(
    labels: tuple[str, ...], purpose: str, firsts: tuple[int, int], before: Side, now: Side, counted: tuple[Counted, Counted]
) -> list[Factor]:
    """How many first tries there were, as factors."""
    if purpose != "primary":
        return [(VOLUMES.get(purpose, "volume"), *firsts)]
    talks = _conversations(firsts, before.talks.get(labels, Talk()), now.talks.get(labels, Talk()))
    for side, number in zip(counted, talks, strict=True):
        side[labels] = number
    return [("volume", *talks), ("depth", *_ratios(firsts, talks))]


def _conversations(firsts: tuple[int, int], was: Talk, is_: Talk) -> tuple[int, int]:
    """Conversations in each period; a call in none counts as one. Only calls are counted where most of them have a
    conversation in one period and not in the other: ids that were switched on in between are no change of depth."""
    sides = tuple(zip(firsts, (was, is_), strict=True))
    known = [2 * talk.alone < calls and talk.conversations > 0 for calls, talk in sides if calls]
    if True not in known or False in known:
        return firsts
    return min(firsts[0], was.conversations + was.alone), min(firsts[1], is_.conversations + is_.alone)


def _ratios(over: tuple[int, int], under: tuple[int, int]) -> tuple[float, float]:
    """over/under in both periods. Undefined in one: as in the other, so that what is new or gone is all volume."""
    was = over[0] / under[0] if under[0] else None
    is_ = over[1] / under[1] if under[1] else None
    return (was if was is not None else is_ if is_ is not None else 0.0), (is_ if is_ is not None else was or 0.0)


def _counts(operation: str, base: list[Factor], firsts: tuple[int, int], tries: tuple[int, int]) -> list[Factor]:
    """How many tries of one kind and cause there were, as factors: first tries in proportion to conversations or by their own
    number, so that a loop is more calls a conversation and not fewer of another cause; others as a rate of all first tries."""
    if not operation:
        volume = base[0]
        if len(base) == 1:
            return [(volume[0], *tries)]
        return [volume, ("depth", *_ratios(tries, (int(volume[1]), int(volume[2]))))]
    if (tries[0] and not firsts[0]) or (tries[1] and not firsts[1]):  # nothing to have a rate of
        return [(operation, *tries)]
    return [*base, (operation, *_ratios(tries, firsts))]


def _leaf(was: Sums, is_: Sums, tries: tuple[int, int], counts: list[Factor]) -> dict[str, int]:
    """One leaf's change by driver: its sum is the leaf's change exactly."""
    found: dict[str, int] = {}
    if was.tries == 0 == is_.tries:
        return {"corrections": is_.cost - was.cost} if is_.cost != was.cost else {}
    # A period without tries may still have corrections' dollars; they are no product of anything.
    was, lost = _billable(was)
    is_, gained = _billable(is_)
    if gained != lost:
        found["corrections"] = gained - lost
    own = (was.tries, is_.tries)
    common = [*counts, ("model_mix", *_ratios(own, tries))]
    read = (was.read, is_.read)
    if read != (0, 0):
        reading = [*common, ("context", *_ratios(read, own))]
        for at in (0, 1, 2):  # input, cache read, cache write
            tokens = (was[1 + at], is_[1 + at])
            dollars = (was[PLACE + at], is_[PLACE + at])
            if dollars != (0, 0):
                _add(found, [*reading, ("cache", *_ratios(tokens, read)), ("price", *_ratios(dollars, tokens))], dollars)
    dollars = (was.cost_output, is_.cost_output)
    if dollars != (0, 0):
        tokens = (was.output, is_.output)
        _add(found, [*common, ("output", *_ratios(tokens, own)), ("price", *_ratios(dollars, tokens))], dollars)
    dollars = (was.cost_other, is_.cost_other)
    if dollars != (0, 0):
        _add(found, [*common, ("fees", *_ratios(dollars, own))], dollars)
    return found


def _billable(one: Sums) -> tuple[Sums, int]:
    """The sums with every dollar in a place that its count explains, and the dollars that no try explains. What was charged
    for a token class without a token of it (an unanswered try at its hold, a row with only a total) stands in `cost_other`."""
    if not one.tries:
        return NOTHING, one.cost
    stray = 0
    kept: list[int] = []
    for at in range(4):
        tokens, dollars = one[1 + at], one[PLACE + at]
        if dollars and not tokens:
            stray += dollars
            dollars = 0
        kept.append(dollars)
    if not stray:
        return one, 0
    return Sums(*one[:PLACE], *kept, cost_other=one.cost_other + stray), 0


# -- Shapley ---------------------------------------------------------------------------------------------------------------

# Gauss-Legendre on [0, 1] with four points: exact for polynomials up to degree 7; our products have at most seven factors.
_NODES = (
    (0.06943184420297371, 0.17392742256872692),
    (0.33000947820757187, 0.32607257743127307),
    (0.6699905217924281, 0.32607257743127307),
    (0.9305681557970263, 0.17392742256872692),
)


def shapley(factors: Sequence[Factor]) -> list[float]:
    """What each factor's change adds to the product's, in the factors' order. Sums to the product's change."""
    moved = [n for n, (_, was, is_) in enumerate(factors) if was != is_]
    parts = [0.0] * len(factors)
    still = 1.0
    for _, was, is_ in factors:
        if was == is_:
            still *= was
    if len(moved) == 1:
        _, was, is_ = factors[moved[0]]
        parts[moved[0]] = still * (is_ - was)
        return parts
    steps = [factors[n][2] - factors[n][1] for n in moved]
    for at, weight in _NODES:
        values = [factors[n][1] + at * step for n, step in zip(moved, steps)]
        after = [1.0] * (len(values) + 1)
        for n in range(len(values) - 1, -1, -1):
            after[n] = after[n + 1] * values[n]
        run = weight * still
        for n, value in enumerate(values):
            parts[moved[n]] += run * after[n + 1] * steps[n]
            run *= value
    return parts


def _add(found: dict[str, int], factors: list[Factor], dollars: tuple[int, int]) -> None:
    """Add one product's change to its drivers, in whole pico-dollars that sum to it."""
    change = dollars[1] - dollars[0]
    parts = shapley(factors)
    whole = [round(part) for part in parts]
    rest = change - sum(whole)
    assert abs(rest) <= len(parts) + max(map(abs, (*dollars, *parts))) / 1e9, "the factors are not what the ledger says"
    if rest:
        # Rounding, and what a float cannot say of a sum beyond 2^53 pico-dollars: one part in 10^15, on the largest driver.
        # On a tie the last: the price.
        whole[max(range(len(parts)), key=lambda n: (abs(parts[n]), n))] += rest
    for (driver, _, _), pico in zip(factors, whole):
        if pico:
            found[driver] = found.get(driver, 0) + pico
