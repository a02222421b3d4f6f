"""What a change comes to in words: findings by driver, and the few label slices it is in. Both lists add up to the change.

A sentence says what was counted, before and now, and where. It never says that one thing made another: the ledger has no such
column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import NamedTuple

from ..domain.money import show
from .why import AGAIN, NOTHING, Explained, Leaf, Side, Sums
from .why_slices import Slice, ripple, scan

Where = tuple[tuple[str, str], ...]
Values = tuple[str, ...]

FIXED = ("operation", "cause", "model")  # dimensions every leaf has behind its labels
OTHERS = "\x00others"  # a value that stands for all that were folded together: no label can be it, none is printable
SLICES_MOST = 6
SLICE_LEAST = 0.02  # of all change, up and down: below it a slice is not worth a line
WHERE_MOST = 2
WHERE_LEAST = 0.5  # of a driver's dollars must be in a value that is named
WHERE_LIFT = 1.2  # … and that much more than its share of the spend

SUBJECT = {
    "eval": "Eval calls", "embedding": "Embedding calls", "background": "Background calls", "control": "Bursar's own calls",
    "retry": "Retries", "fallback": "Fallbacks",
}  # fmt: skip


class Figure(NamedTuple):
    """What a finding counts, in both periods. `unit`: count, tokens, share, usd_per_million or usd; None: not defined then."""

    name: str
    unit: str
    before: float | None
    now: float | None


class Finding(NamedTuple):
    """One driver. `where` is what most of it is in (`covered` pico-dollars of `change`); empty: spread."""

    driver: str
    change: int
    where: Where
    covered: int
    figure: Figure
    sentence: str


class Place(NamedTuple):
    """A slice of the labels with what it came to. `how`: alike (its parts moved together, beyond the noise of the others), amount
    (its dollars moved unlike the rest), unattributed (nobody labelled it), rest. `gain` is the evidence in nats."""

    where: Where
    how: str
    before: int
    now: int
    gain: float
    drivers: dict[str, int]
    sentence: str


class Told(NamedTuple):
    """The whole explanation. `findings` and `places` each sum to the change."""

    findings: list[Finding]
    places: list[Place]


def tell(labels: Sequence[str], before: Side, now: Side, found: Explained) -> Told:
    """Findings by size, then slices by size with the rest last. `labels` names the leaves' labels."""
    dims = (*labels, *FIXED)
    leaves = list({**before.leaves, **now.leaves})
    values = {leaf: (*leaf.labels, leaf.operation, leaf.cause, leaf.model) for leaf in leaves}
    told = _Teller(dims, values, before, now, found)
    findings = [told.finding(driver) for driver, change in found.drivers.items() if change]
    findings.sort(key=lambda one: -abs(one.change))
    return Told(findings, told.places())


class _Teller:
    def __init__(self, dims: Sequence[str], values: Mapping[Leaf, Values], before: Side, now: Side, found: Explained) -> None:
        self.dims, self.values, self.before, self.now, self.found = dims, values, before, now, found
        self.change = found.now - found.before
        self.moved = sum(abs(self._cost(leaf, now) - self._cost(leaf, before)) for leaf in values)

    @staticmethod
    def _cost(leaf: Leaf, side: Side) -> int:
        return side.leaves.get(leaf, NOTHING).cost

    # -- drivers -----------------------------------------------------------------------------------------------------------

    def finding(self, driver: str) -> Finding:
        change = self.found.drivers[driver]
        where, covered = self._narrow(driver, change)
        scope = [leaf for leaf in self.values if self._within(leaf, where)]
        figure = self._figure(driver, scope)
        return Finding(driver, change, where, covered, figure, self._sentence(driver, change, where, covered, figure))

    def _within(self, leaf: Leaf, where: Where) -> bool:
        values = self.values[leaf]
        return all(values[self.dims.index(name)] == value for name, value in where)

    def _narrow(self, driver: str, change: int) -> tuple[Where, int]:
        """The values that hold most of a driver's dollars, and more of them than of the spend: one dimension after another."""
        skip = {"operation"} if driver in SUBJECT or driver in ("volume", "depth") else set[str]()
        skip |= {"model"} if driver == "model_mix" else {"cause"} if driver not in AGAIN else set()
        parts = [(self.values[leaf], cell[driver]) for leaf, cell in self.found.cells.items() if driver in cell]
        spend = [(values, self._cost(leaf, self.before) + self._cost(leaf, self.now)) for leaf, values in self.values.items()]
        where: list[tuple[str, str]] = []
        covered = change
        while len(where) < WHERE_MOST:
            best, chosen = 0.0, (-1, "", 0)
            whole = sum(amount for _, amount in spend)
            for d, name in enumerate(self.dims):
                if name in skip:
                    continue
                inside = _sums(parts, d)
                share = _sums(spend, d)
                for value, amount in inside.items():
                    part = amount / change
                    if value == OTHERS or not WHERE_LEAST <= part <= 1.5 or share.get(value, 0) <= 0 or whole <= 0:
                        continue
                    lift = part / (share[value] / whole) / (covered / change)
                    score = min(part, 1.0) * log(lift) if lift >= WHERE_LIFT else 0.0
                    if score > best:
                        best, chosen = score, (d, value, amount)
            d, value, amount = chosen
            if d < 0:
                break
            where.append((self.dims[d], value))
            skip.add(self.dims[d])
            covered = amount
            parts = [one for one in parts if one[0][d] == value]
            spend = [one for one in spend if one[0][d] == value]
        return tuple(where), covered if where else 0

    def _figure(self, driver: str, scope: Sequence[Leaf]) -> Figure:
        was, is_ = _total(scope, self.before), _total(scope, self.now)
        match driver:
            case "volume":
                talks, calls = self._talks(scope), self._firsts(scope, "primary")
                return Figure("Calls" if talks == calls else "Conversations", "count", *talks)
            case "depth":
                talks, calls = self._talks(scope), self._firsts(scope, "primary")
                return Figure("Calls a conversation", "ratio", _over(calls[0], talks[0]), _over(calls[1], talks[1]))
            case "retry" | "fallback":
                again = [leaf for leaf in scope if leaf.operation == driver]
                return Figure(SUBJECT[driver], "count", _total(again, self.before).tries, _total(again, self.now).tries)
            case "eval" | "embedding" | "background" | "control":
                return Figure(SUBJECT[driver], "count", *self._firsts(scope, driver))
            case "model_mix":
                return self._mix(scope, was, is_)
            case "context":
                return Figure("Tokens read a call", "tokens", _over(was.read, was.tries), _over(is_.read, is_.tries))
            case "cache":
                return Figure("Share of the input read from the prompt cache", "share",
                              _over(was.cache_read, was.read), _over(is_.cache_read, is_.read))  # fmt: skip
            case "output":
                return Figure("Tokens written a call", "tokens", _over(was.output, was.tries), _over(is_.output, is_.tries))
            case "price":
                return self._price(scope)
            case "fees":
                each = _over(was.cost_other, was.tries), _over(is_.cost_other, is_.tries)
                return Figure("Fees and other charges a call", "usd", *each)
            case _:
                return Figure("Corrections, and calls priced in part", "usd", None, None)

    def _firsts(self, scope: Iterable[Leaf], purpose: str) -> tuple[int, int]:
        mine = [leaf for leaf in scope if leaf.operation not in AGAIN and leaf.purpose == purpose]
        return _total(mine, self.before).tries, _total(mine, self.now).tries

    def _talks(self, scope: Iterable[Leaf]) -> tuple[int, int]:
        labels = {leaf.labels for leaf in scope if leaf.purpose == "primary"}
        was, is_ = self.found.talks
        return sum(was.get(one, 0) for one in labels), sum(is_.get(one, 0) for one in labels)

    def _mix(self, scope: Sequence[Leaf], was: Sums, is_: Sums) -> Figure:
        """The model whose share of the tries moved most, in dollars."""
        best, told = -1.0, ("", 0.0, 0.0)
        change = self.found.drivers["model_mix"]
        by_model: dict[str, list[Leaf]] = {}
        for leaf in scope:
            by_model.setdefault(leaf.model, []).append(leaf)
        for model, leaves in by_model.items():
            a, b = _total(leaves, self.before), _total(leaves, self.now)
            shares = a.tries / was.tries if was.tries else 0.0, b.tries / is_.tries if is_.tries else 0.0
            each = (a.cost + b.cost) / (a.tries + b.tries) if a.tries + b.tries else 0.0
            weight = (shares[1] - shares[0]) * each * (1 if change > 0 else -1)
            if weight > best:
                best, told = weight, (model, *shares)
        return Figure(f"Share of calls on {told[0]}", "share", told[1], told[2])

    def _price(self, scope: Sequence[Leaf]) -> Figure:
        """The model and token class whose billed rate moved most, in dollars."""
        sums: dict[str, tuple[Sums, Sums]] = {}
        for leaf in scope:
            if leaf in self.before.leaves and leaf in self.now.leaves:
                a, b = sums.get(leaf.model, (NOTHING, NOTHING))
                sums[leaf.model] = a.plus(self.before.leaves[leaf]), b.plus(self.now.leaves[leaf])
        best, told = 0.0, Figure("Price a token", "usd_per_million", None, None)
        for model, (a, b) in sums.items():
            for name in ("input", "cache_read", "cache_write", "output"):
                tokens = getattr(a, name), getattr(b, name)
                if not all(tokens):
                    continue
                rates = getattr(a, f"cost_{name}") / tokens[0], getattr(b, f"cost_{name}") / tokens[1]
                weight = abs(rates[1] - rates[0]) * tokens[1]
                if weight > best:
                    best, told = weight, Figure(f"Dollars a million tokens of {model} {name}", "usd_per_million", *rates)
        return told

    def _sentence(self, driver: str, change: int, where: Where, covered: int, figure: Figure) -> str:
        counted = figure.name
        if driver != "corrections":
            counted += f": {_moved(figure)}"
        return f"{counted}. {signed(change)}{_of(change, self.change)}{_in(where, covered, change)}."

    # -- slices ------------------------------------------------------------------------------------------------------------

    def places(self) -> list[Place]:
        """Slices that hold 2% of the change or more, by size; what nobody labelled apart; the rest last. They do not overlap."""
        labels = len(self.dims) - len(FIXED)
        nobody = [leaf for leaf in self.values if labels and not any(leaf.labels)]
        apart = set(nobody)
        rest = [leaf for leaf in self.values if leaf not in apart]
        found: list[tuple[Where, str, list[Leaf], float]] = []
        least = SLICE_LEAST * self.moved
        for how, search in (("alike", self._alike), ("amount", self._amounts)):
            taken: set[Leaf] = set()
            for one in search(rest, least, SLICES_MOST - len(found)):
                mine = [rest[n] for n in one.leaves]
                found.append((one.element, how, mine, one.gain))
                taken.update(mine)
            rest = [leaf for leaf in rest if leaf not in taken]
        made = [self._place(*one) for one in found]
        made.sort(key=lambda place: -abs(place.now - place.before))
        if nobody:
            made.append(self._place(tuple((name, "") for name in self.dims[:labels]), "unattributed", nobody, 0.0))
        if rest or not made:
            made.append(self._place((), "rest", rest, 0.0))
        return made

    def _pairs(self, leaves: Sequence[Leaf]) -> list[tuple[float, float]]:
        return [(float(self._cost(leaf, self.before)), float(self._cost(leaf, self.now))) for leaf in leaves]

    def _alike(self, leaves: Sequence[Leaf], least: float, most: int) -> list[Slice]:
        pairs = self._pairs(leaves)
        found = ripple(self.dims, [self.values[leaf] for leaf in leaves], pairs)
        big = [(abs(sum(pairs[n][1] - pairs[n][0] for n in one.leaves)), one) for one in found if _named(one)]
        return [one for size, one in sorted(big, key=lambda pair: -pair[0]) if size >= least][:most]

    def _amounts(self, leaves: Sequence[Leaf], least: float, most: int) -> list[Slice]:
        """What the total did, then what went against it."""
        values, pairs = [self.values[leaf] for leaf in leaves], self._pairs(leaves)
        tries = sum(side.leaves.get(leaf, NOTHING).tries for leaf in leaves for side in (self.before, self.now))
        unit = max(sum(map(sum, pairs)) / max(tries, 1), 1.0)
        up = self.change >= 0
        free = list(range(len(leaves)))
        found: list[Slice] = []
        for way in (up, not up):
            more = scan(self.dims, values, pairs, unit, free, up=way, most=most - len(found), least=least)
            found += [one for one in more if _named(one)]
            taken = {n for one in found for n in one.leaves}
            free = [n for n in free if n not in taken]
        return found

    def _place(self, where: Where, how: str, leaves: Sequence[Leaf], gain: float) -> Place:
        was, is_ = (sum(self._cost(leaf, side) for leaf in leaves) for side in (self.before, self.now))
        drivers: dict[str, int] = {}
        for leaf in leaves:
            for driver, pico in self.found.cells.get(leaf, {}).items():
                drivers[driver] = drivers.get(driver, 0) + pico
        drivers = dict(sorted(drivers.items(), key=lambda item: -abs(item[1])))
        name = {"unattributed": "What nobody labelled", "rest": "Everything else"}.get(how) or words(where)
        sentence = f"{name}: {_dollars(was, is_)}. {signed(is_ - was)}{_of(is_ - was, self.change)}."
        return Place(where, how, was, is_, gain, drivers, sentence)


def _named(one: Slice) -> bool:
    """Not a slice of what was folded together: nobody could look for it."""
    return all(value != OTHERS for _, value in one.element)


def _sums(parts: Iterable[tuple[Values, int]], dim: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for values, amount in parts:
        found[values[dim]] = found.get(values[dim], 0) + amount
    return found


def _total(leaves: Iterable[Leaf], side: Side) -> Sums:
    mine = [side.leaves[leaf] for leaf in leaves if leaf in side.leaves]
    return Sums(*map(sum, zip(*mine))) if mine else NOTHING


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None


# -- words -----------------------------------------------------------------------------------------------------------------


def signed(pico: int) -> str:
    """`+$1.20`, `-$0.40`, `$0.00`."""
    return f"+{show(pico)}" if pico > 0 else show(pico)


def words(where: Where) -> str:
    """`feature evals, operation eval`; a label that nobody set is said so."""
    return ", ".join(f"{name} {value}" if value else f"no {name}" for name, value in where)


def quantity(value: float | None, unit: str) -> str:
    """A figure for people."""
    if value is None:
        return "none"
    match unit:
        case "count":
            return f"{value:,.0f}"
        case "share":
            return f"{value:.1%}"
        case "usd_per_million":
            return show(round(value * 1_000_000))
        case "usd":
            return show(round(value), 4)
        case "tokens":
            return f"{value:,.0f}"
        case _:
            return f"{value:,.2f}"


def _moved(figure: Figure) -> str:
    now = quantity(figure.now, figure.unit)
    if not figure.before:
        return f"{now}, none before"
    if not figure.now:
        return f"none, {quantity(figure.before, figure.unit)} before"
    before = quantity(figure.before, figure.unit)
    if before == now:
        return f"{now}, as before"
    return f"{now}, {'up' if figure.now > figure.before else 'down'} from {before}"


def _dollars(was: int, is_: int) -> str:
    if not was:
        return f"{show(is_)}, nothing before"
    return f"{show(is_)}, {'up' if is_ > was else 'down'} from {show(was)}" if is_ != was else f"{show(is_)}, as before"


def _of(part: int, change: int) -> str:
    """Its share of the change, where that is a share: drivers that cancel may each be many times their sum."""
    if not change or abs(part) > 2 * abs(change):
        return ""
    share = (abs(part) * 2000 + abs(change)) // (2 * abs(change))
    if not share:
        return ""
    sign = "-" if (part < 0) != (change < 0) else ""
    return f", {sign}{share // 10}.{share % 10}% of the change"


def _in(where: Where, covered: int, change: int) -> str:
    if not where:
        return ""
    share = covered / change
    much = "all of it" if 0.995 <= share <= 1.005 else f"{share:.0%} of it" if share < 1 else "more than all of it"
    return f", {much} in {words(where)}"
