"""What a change comes to in words: findings by driver, and the few label slices it is in. Both lists add up to the change.

A sentence says what was counted, before and now, and where. It never says that one thing made another: the ledger has no such
column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log
from typing import NamedTuple

from ..domain.money import show
from .why import AGAIN, NOTHING, Explained, Leaf, Side, Sums
from .why_slices import Slice, ripple, scan

Where = tuple[tuple[str, str], ...]
Values = tuple[str, ...]

FIXED = ("cause", "operation", "model")  # dimensions every leaf has behind its labels
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
    told: str  # what was counted, where, before and now
    sentence: str  # … and its dollars


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
    told = _Teller((*labels, *FIXED), before, now, found)
    findings = [told.finding(driver) for driver, change in found.drivers.items() if change]
    findings.sort(key=lambda one: -abs(one.change))
    return Told(findings, told.places())


class _Teller:
    """Leaves by number: their values, and their pico-dollars in both periods."""

    def __init__(self, dims: Sequence[str], before: Side, now: Side, found: Explained) -> None:
        self.dims, self.before, self.now, self.found = dims, before, now, found
        self.leaves = list({**before.leaves, **now.leaves})
        self.values: list[Values] = [(*leaf.labels, leaf.cause, leaf.operation, leaf.model) for leaf in self.leaves]
        self.was = [before.leaves.get(leaf, NOTHING).cost for leaf in self.leaves]
        self.is_ = [now.leaves.get(leaf, NOTHING).cost for leaf in self.leaves]
        self.cells = [found.cells.get(leaf, {}) for leaf in self.leaves]
        self.change = found.now - found.before
        self.moved = sum(abs(b - a) for a, b in zip(self.was, self.is_))

    # -- drivers -----------------------------------------------------------------------------------------------------------

    def finding(self, driver: str) -> Finding:
        change = self.found.drivers[driver]
        # What moved a thousandth of the dollars is not worth a search.
        small = abs(change) * 1000 < sum(map(abs, self.found.drivers.values()))
        where, covered = ((), 0) if small else self._narrow(driver, change)
        at = [(self.dims.index(name), value) for name, value in where]
        scope = [leaf for leaf, values in zip(self.leaves, self.values) if all(values[d] == value for d, value in at)]
        figure = self._figure(driver, scope)
        told = figure.name + phrase(where)
        told += "" if driver == "corrections" else f": {_moved(figure)}"
        part = _of(change, self.change) + _there(covered, change, bool(where))
        return Finding(driver, change, where, covered, figure, told, f"{told}. {signed(change)}{part}.")

    def _narrow(self, driver: str, change: int) -> tuple[Where, int]:
        """The values that hold most of a driver's dollars, and more of them than of the spend: one dimension after another."""
        skip = {"operation"} if driver in SUBJECT or driver in ("volume", "depth") else set[str]()
        skip |= {"model"} if driver == "model_mix" else set()
        skip |= {"cause"} if driver not in (*AGAIN, "depth") else set()
        parts = [(n, cell[driver]) for n, cell in enumerate(self.cells) if driver in cell]
        scope: Iterable[int] = range(len(self.leaves))
        where: list[tuple[str, str]] = []
        covered, fell = change, change < 0
        while len(where) < WHERE_MOST:
            # The smaller of the two periods: what surged is itself most of what was spent then.
            spend = [(n, self.was[n] + 10 * self.is_[n] if fell else 10 * self.was[n] + self.is_[n]) for n in scope]
            whole = sum(amount for _, amount in spend)
            best, chosen = 0.0, (-1, "", 0)
            for d, name in enumerate(self.dims):
                inside = {} if name in skip else self._by(d, parts)
                said = {v: amount for v, amount in inside.items() if v != OTHERS and (v or name not in FIXED)}
                likely = {v: amount for v, amount in said.items() if WHERE_LEAST <= amount / change <= 1.5}
                share = self._by(d, spend) if likely else {}
                for value, amount in likely.items():
                    if share.get(value, 0) <= 0 or whole <= 0:
                        continue
                    lift = (amount / covered) / (share[value] / whole)
                    score = min(amount / change, 1.0) * log(lift) if lift >= WHERE_LIFT else 0.0
                    if score > best:
                        best, chosen = score, (d, value, amount)
            d, value, covered_there = chosen
            if d < 0:
                break
            where.append((self.dims[d], value))
            skip.add(self.dims[d])
            covered = covered_there
            parts = [(n, amount) for n, amount in parts if self.values[n][d] == value]
            scope = [n for n in scope if self.values[n][d] == value]
        return tuple(where), covered if where else 0

    def _by(self, dim: int, amounts: Iterable[tuple[int, int]]) -> dict[str, int]:
        found: dict[str, int] = {}
        for n, amount in amounts:
            value = self.values[n][dim]
            found[value] = found.get(value, 0) + amount
        return found

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
                tries = _total(again, self.before).tries, _total(again, self.now).tries
                groups = {(leaf.labels, leaf.purpose) for leaf in again}
                firsts = self._firsts([leaf for leaf in self.leaves if (leaf.labels, leaf.purpose) in groups])
                if not all(tries) or not all(firsts):
                    return Figure(SUBJECT[driver], "count", *tries)
                return Figure(f"{SUBJECT[driver]} in a hundred calls", "ratio", 100 * tries[0] / firsts[0], 100 * tries[1] / firsts[1])
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

    def _firsts(self, scope: Iterable[Leaf], purpose: str = "") -> tuple[int, int]:
        mine = [leaf for leaf in scope if leaf.operation not in AGAIN and purpose in ("", leaf.purpose)]
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

    # -- slices ------------------------------------------------------------------------------------------------------------

    def places(self) -> list[Place]:
        """Slices that hold 2% of the change or more, by size; what nobody labelled apart; the rest last. They do not overlap."""
        labels = len(self.dims) - len(FIXED)
        nobody = [n for n, values in enumerate(self.values) if labels and not any(values[:labels])]
        apart = set(nobody)
        rest = [n for n in range(len(self.leaves)) if n not in apart]
        made: list[Place] = []
        least = SLICE_LEAST * self.moved
        for how, search in (("alike", self._alike), ("amount", self._amounts)):
            taken: set[int] = set()
            for one in search(rest, least, SLICES_MOST - len(made)):
                mine = [rest[m] for m in one.leaves]
                made.append(self._place(one.element, how, mine, one.gain))
                taken.update(mine)
            rest = [n for n in rest if n not in taken]
        made.sort(key=lambda place: -abs(place.now - place.before))
        if nobody:
            made.append(self._place(tuple((name, "") for name in self.dims[:labels]), "unattributed", nobody, 0.0))
        if rest or not made:
            made.append(self._place((), "rest", rest, 0.0))
        return made

    def _pairs(self, leaves: Sequence[int]) -> list[tuple[float, float]]:
        return [(float(self.was[n]), float(self.is_[n])) for n in leaves]

    def _alike(self, leaves: Sequence[int], least: float, most: int) -> list[Slice]:
        pairs = self._pairs(leaves)
        found = ripple(self.dims, [self.values[n] for n in leaves], pairs)
        big = [(abs(sum(pairs[m][1] - pairs[m][0] for m in one.leaves)), one) for one in found if _named(one)]
        return [one for size, one in sorted(big, key=lambda pair: -pair[0]) if size >= least][:most]

    def _amounts(self, leaves: Sequence[int], least: float, most: int) -> list[Slice]:
        """What went the way of the total, then what went against it."""
        values, pairs = [self.values[n] for n in leaves], self._pairs(leaves)
        tries = sum(side.leaves.get(self.leaves[n], NOTHING).tries for n in leaves for side in (self.before, self.now))
        unit = max(sum(map(sum, pairs)) / max(tries, 1), 1.0)
        ways = (1, -1) if self.change >= 0 else (-1, 1)
        found = scan(self.dims, values, pairs, unit, ways=ways, most=most, least=least)
        return [one for one in found if _named(one)]

    def _place(self, where: Where, how: str, leaves: Sequence[int], gain: float) -> Place:
        was, is_ = sum(self.was[n] for n in leaves), sum(self.is_[n] for n in leaves)
        drivers: dict[str, int] = {}
        for n in leaves:
            for driver, pico in self.cells[n].items():
                drivers[driver] = drivers.get(driver, 0) + pico
        drivers = dict(sorted(drivers.items(), key=lambda item: -abs(item[1])))
        name = {"unattributed": "What nobody labelled", "rest": "Everything else"}.get(how) or words(where)
        sentence = f"{name}: {_dollars(was, is_)}. {signed(is_ - was)}{_of(is_ - was, self.change)}."
        return Place(where, how, was, is_, gain, drivers, sentence)


def _named(one: Slice) -> bool:
    """Not a slice of what was folded together: nobody could look for it."""
    return all(value != OTHERS for _, value in one.element)


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


def phrase(where: Where) -> str:
    """The same behind what was counted there: ` in feature evals`, ` with cause tool:search`."""
    said = {"cause": " with", "model": " on"}
    made, last = "", ""
    for name, value in where:
        before = said.get(name, " in")
        made += f"{',' if before == last else before} {words(((name, value),))}"
        last = before
    return made


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


def _there(covered: int, change: int, named: bool) -> str:
    """How much of a driver is where its figure was counted, unless it is all of it."""
    share = covered / change
    if not named or 0.995 <= share <= 1.005:
        return ""
    return f", {share:.0%} of it there" if share < 1 else ", more than all of it there"
