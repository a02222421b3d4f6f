"""The provider's bill against the ledger: per day, model and token class, with every dollar between them in one residual class.

For each stretch of time that the bill names: billed = booked + sum of residuals, in whole pico-dollars, always. What the
provider counted is compared with what was booked, at the ledger's own rates, so that calls that never came by are told from
other prices; then what was billed is compared with what that usage should cost. Nothing is left out: what fits no class is
`unexplained`, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

CLASSES = {
    "bypassed": "calls that did not go through Bursar",
    "dropped": "streams that were cut and tries that nobody answered: booked by estimate or at their hold",
    "not_billed": "booked, and the provider does not ask for it",
    "price": "the same usage at other prices than the ledger's",
    "tier": "batch, flex or priority rates",
    "no_usage": "billed, and the usage that was given shows nothing for it",
    "currency": "the rate between the bill's currency and dollars",
    "time_zone": "days that begin at another hour than the ledger's",
    "rounding": "less than the bill's last digit",
    "unexplained": "none of these: ask the provider, or add its usage export",
}
HARMLESS = frozenset(("rounding", "time_zone"))
UNITS = ("input", "cache_read", "cache_write", "output", "other")
HALF = (0.495, 0.505)  # billed over expected: half price is what batch and flex cost, said or not
TIER_RANGE = (0.2, 3.0)  # … and where a tier is named, what it may come to
SAME_RATE = 0.005  # of each other: factors that are one exchange rate
ZONES = range(-14, 15)
ZONE_GAIN = 0.5  # of the distance between bill and ledger must go for another zone to be believed


class Bill(NamedTuple):
    """One line of money. Empty: the bill does not say. `amount` in pico of `currency`; `grain` is the line's last digit in
    pico; `tokens` where the line counts them; `naive`: its day was named without a zone."""

    since: int
    until: int
    provider: str
    amount: int
    model: str = ""
    unit: str = ""  # one of UNITS
    project: str = ""
    currency: str = "USD"
    tokens: int | None = None
    tier: str = ""
    grain: int = 1
    naive: bool = False


class Usage(NamedTuple):
    """What the provider says was used. Without a model and tokens: the export covers this time, and has nothing in it."""

    since: int
    until: int
    provider: str
    model: str = ""
    tokens: tuple[tuple[str, int], ...] = ()
    project: str = ""
    tier: str = ""
    naive: bool = False


class Booked(NamedTuple):
    """The ledger's sums of one hour, model and token class. `guessed`: by estimate or at the hold."""

    hour: int
    provider: str
    model: str
    unit: str
    tokens: int
    cost: int
    guessed: bool = False
    project: str = ""


Rate = Callable[[str, str, str, int], "int | None"]  # provider, model, unit, moment -> femto-dollars a token at list price


class Cell(NamedTuple):
    """One comparison. `billed` None: the bill names no amount for this alone. `tokens` as the provider counted them, None where
    it did not. Pico-dollars."""

    since: int
    until: int
    provider: str
    project: str
    model: str  # empty: the bill's own total for the time
    unit: str  # empty: all classes of the model
    billed: int | None
    booked: int
    tokens: int | None
    tokens_booked: int
    residual: tuple[tuple[str, int], ...]


class Reconciled(NamedTuple):
    """billed - booked = the sum of all residuals. `offset_hours`: by how much the bill's days seem to begin earlier than UTC's.
    `foreign`: (currency, amount in pico of it, ledger dollars beside it) that could not be compared without a rate."""

    cells: list[Cell]
    billed: int
    booked: int
    offset_hours: int
    foreign: list[tuple[str, int, int]]

    def residuals(self) -> dict[str, int]:
        found = dict.fromkeys(CLASSES, 0)
        for cell in self.cells:
            for name, pico in cell.residual:
                found[name] += pico
        return found

    def gap(self) -> int:
        """Pico-dollars that somebody should look at, ups and downs both counted."""
        return sum(abs(pico) for cell in self.cells for name, pico in cell.residual if name not in HARMLESS)


def reconcile(
    bills: Sequence[Bill], usages: Sequence[Usage], booked: Sequence[Booked], rate: Rate, rates: Mapping[str, int] | None = None
) -> Reconciled:
    """Compare. `rates`: pico-dollars for one unit of a currency, where the bill is not in dollars. ValueError on no lines."""
    if not bills and not usages:
        raise ValueError("no bill and no usage to compare with")
    rates = rates or {}
    groups = _groups([*bills, *usages])
    shift = _zone(groups, bills, usages, booked, rates)
    cells: list[Cell] = []
    foreign: list[tuple[str, int, int]] = []
    for group in groups:
        lines = [one for one in bills if group.holds(one)]
        used = [one for one in usages if group.holds(one)]
        naive = any(one.naive for one in (*lines, *used))
        there = [one for one in booked if group.takes(one, 0)]
        unknown = [one for one in lines if one.currency != "USD" and one.currency not in rates]
        if unknown:
            foreign.append((unknown[0].currency, sum(one.amount for one in unknown), sum(one.cost for one in there)))
            continue
        moved = [one for one in booked if group.takes(one, shift)] if naive and shift else there
        cells += _Group(group, _dollars(lines, rates), used, moved, rate, priced=not bills).cells()
        away = sum(one.cost for one in moved) - sum(one.cost for one in there)
        if away:
            # The cells compare the hours that the bill's day has; the ledger's own day is booked, and the zone is in between.
            cells.append(Cell(*group, "", "", None, -away, None, 0, (("time_zone", away),)))
    cells = _one_exchange_rate(cells, bills)
    made = Reconciled(cells, sum(cell.billed or 0 for cell in cells), sum(cell.booked for cell in cells), shift, foreign)
    assert made.billed - made.booked == sum(made.residuals().values()), "residuals do not add up to the gap"
    return made


# -- which time belongs together -------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """A stretch of time of one provider and project, as the lines name it; lines that overlap are one stretch."""

    since: int
    until: int
    provider: str
    project: str

    def holds(self, one: Bill | Usage) -> bool:
        mine = one.provider == self.provider and one.project == self.project
        return mine and self.since <= one.since and one.until <= self.until

    def takes(self, one: Booked, shift: int) -> bool:
        """Whether an hour of the ledger lies in it, when the bill's days begin `shift` hours before UTC's."""
        if (self.provider and one.provider != self.provider) or (self.project and one.project != self.project):
            return False
        return self.since <= one.hour + shift * HOUR_US < self.until


def _groups(lines: Iterable[Bill | Usage]) -> list[_Span]:
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for one in lines:
        spans.setdefault((one.provider, one.project), []).append((one.since, one.until))
    made: list[_Span] = []
    for (provider, project), all_of_them in spans.items():
        run: list[tuple[int, int]] = []
        for since, until in sorted(all_of_them):
            if run and since < run[-1][1]:
                run[-1] = (run[-1][0], max(run[-1][1], until))
            else:
                run.append((since, until))
        made += [_Span(since, until, provider, project) for since, until in run]
        # A day that the bill has no line for, between days that it has: nothing was billed then.
        made += [
            _Span(a[1] + n * DAY_US, a[1] + (n + 1) * DAY_US, provider, project)
            for a, b in pairwise(run)
            if a[1] - a[0] == DAY_US == b[1] - b[0]
            for n in range((b[0] - a[1]) // DAY_US)
        ]
    return sorted(made)


def _dollars(lines: Iterable[Bill], rates: Mapping[str, int]) -> list[Bill]:
    made: list[Bill] = []
    for one in lines:
        if one.currency != "USD":
            rate = rates[one.currency]
            one = one._replace(amount=one.amount * rate // 10**12, grain=max(1, one.grain * rate // 10**12))
        made.append(one)
    return made


def _zone(
    groups: Sequence[_Span], bills: Sequence[Bill], usages: Sequence[Usage], booked: Sequence[Booked], rates: Mapping[str, int]
) -> int:
    """The hours by which the bill's days seem to begin before UTC's: those that bring bill and ledger nearest, if that is much
    nearer. Looked for only where days are named without a zone, and where there are at least two."""
    naive = [group for group in groups if any(one.naive and group.holds(one) for one in (*bills, *usages))]
    if len(naive) < 2:
        return 0
    distance: dict[int, int] = {}
    for shift in ZONES:
        run = 0
        for group in naive:
            mine = [one for one in booked if group.takes(one, shift)]
            used = [one for one in usages if group.holds(one)]
            if used:
                told = sum(n for one in used for _, n in one.tokens)
                run += abs(told - sum(one.tokens for one in mine))
            else:
                lines = [one for one in bills if group.holds(one) and (one.currency == "USD" or one.currency in rates)]
                run += abs(sum(one.amount for one in _dollars(lines, rates)) - sum(one.cost for one in mine))
        distance[shift] = run
    best = min(distance, key=lambda shift: (distance[shift], abs(shift)))
    return best if distance[best] <= (1 - ZONE_GAIN) * distance[0] else 0


# -- one stretch of time ---------------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    tokens: int = 0
    cost: int = 0
    guessed_tokens: int = 0
    guessed_cost: int = 0


Key = tuple[str, str]  # model, unit


class _Group:
    def __init__(
        self, span: _Span, bills: Sequence[Bill], usages: Sequence[Usage], booked: Sequence[Booked], rate: Rate, *, priced: bool
    ) -> None:
        """`priced`: there is no bill at all, and the provider's usage at our rates stands for one."""
        self.span, self.rate, self.priced = span, rate, priced
        # An export that does not tell models apart can only be compared with all of them together.
        blind = any(one.tokens and not one.model for one in usages)
        self.booked: dict[Key, _Sums] = {}
        for one in booked:
            key = ("" if blind else one.model, one.unit)
            had = self.booked.get(key, _Sums())
            guess = (one.tokens, one.cost) if one.guessed else (0, 0)
            self.booked[key] = _Sums(
                had.tokens + one.tokens, had.cost + one.cost, had.guessed_tokens + guess[0], had.guessed_cost + guess[1]
            )
        names = set[str]() if blind else {model for model, _ in self.booked}
        self.covered = bool(usages)
        self.used: dict[Key, int] = {}
        self.tiers: dict[str, set[str]] = {}
        for one in usages:
            model = "" if blind else _same_model(one.model, names)
            for unit, tokens in one.tokens:
                self.used[model, unit] = self.used.get((model, unit), 0) + tokens
            if one.tier:
                self.tiers.setdefault(model, set()).add(one.tier)
        self.lines: dict[Key, list[Bill]] = {}
        for one in bills:
            model = "" if blind else _same_model(one.model, names)
            self.lines.setdefault((model, one.unit if model else ""), []).append(one)
            if one.tier:
                self.tiers.setdefault(model, set()).add(one.tier)
            if one.tokens is not None and one.unit and not self.covered:
                self.used[model, one.unit] = self.used.get((model, one.unit), 0) + one.tokens

    def cells(self) -> list[Cell]:
        """Usage against the ledger for every model and class, then money against usage as finely as the bill goes."""
        expected: dict[Key, int] = {}
        found: dict[Key, dict[str, int]] = {}
        for key in sorted({*self.booked, *self.used}):
            found[key] = self._usage(key)
            expected[key] = self.booked.get(key, _Sums()).cost + sum(found[key].values())
        billed: dict[Key, int] = dict(expected) if self.priced else {}
        for scope, keys in ({} if self.priced else self._scopes(expected)).items():
            lines = self.lines.get(scope, [])
            amount = sum(one.amount for one in lines)
            models = {model for model, _ in keys}
            if scope == ("", "") and len(models) == 1:  # a bill for everything, when everything is one model
                scope = (next(iter(models)), "")
            billed[scope] = billed.get(scope, 0) + amount
            rest = amount - sum(expected[key] for key in keys)
            if rest:
                name = self._money(scope, keys, amount, sum(expected[key] for key in keys), sum(one.grain for one in lines))
                found.setdefault(scope, {})
                found[scope][name] = found[scope].get(name, 0) + rest
        return [self._cell(key, billed.get(key), found.get(key, {})) for key in sorted({*found, *billed})]

    def _cell(self, key: Key, billed: int | None, residual: Mapping[str, int]) -> Cell:
        sums = self.booked.get(key, _Sums())
        kept = tuple((name, pico) for name, pico in residual.items() if pico)
        return Cell(*self.span, *key, billed, sums.cost, self.used.get(key), sums.tokens, kept)

    def _usage(self, key: Key) -> dict[str, int]:
        """What the provider counted beyond the ledger, or the ledger beyond the provider, in dollars at the ledger's rate."""
        model, unit = key
        mine = self.booked.get(key, _Sums())
        if key not in self.used and not self._counted(model):
            return {}
        told = self.used.get(key, 0)
        if unit == "other" or (not told and not mine.tokens):
            # Fees and unanswered tries have no tokens to compare; what stands at its hold was booked by guess.
            return {"dropped": -mine.guessed_cost} if mine.guessed_cost else {}
        more = told - mine.tokens
        if not more:
            return {}
        if more > 0:
            dollars = self._value(key, more)
            return {"dropped" if 0 < more <= mine.guessed_tokens else "bypassed": dollars} if dollars else {}
        guessed = min(-more, mine.guessed_tokens)
        cut = -self._value(key, guessed)
        gone = -self._value(key, -more) - cut
        return {name: pico for name, pico in (("dropped", cut), ("not_billed", gone)) if pico}

    def _counted(self, model: str) -> bool:
        """Whether the provider's counts are complete for this model: its export covers the time, or a line counted others of its
        classes."""
        return self.covered or any(name == model for name, _ in self.used)

    def _value(self, key: Key, tokens: int) -> int:
        """Tokens at what the ledger paid for such tokens in that time, else at list price; nothing where nobody knows."""
        mine = self.booked.get(key, _Sums())
        if mine.tokens and mine.cost:
            return mine.cost * tokens // mine.tokens
        femto = self.rate(self.span.provider, key[0], key[1], self.span.since)
        return 0 if femto is None else femto * tokens // 1000

    def _scopes(self, expected: Mapping[Key, int]) -> dict[Key, list[Key]]:
        """What each line of the bill is to be compared with: a class of a model, a model, or all that no other line names."""
        scopes: dict[Key, list[Key]] = {scope: [] for scope in self.lines}
        whole = {model for model, unit in self.lines if model and not unit}
        for model in whole:  # a model with a line for all of it: its other lines are compared there too
            for scope in [one for one in self.lines if one[0] == model and one[1]]:
                self.lines[model, ""] = [*self.lines[model, ""], *self.lines.pop(scope)]
                del scopes[scope]
        by_class = {model for model, unit in self.lines if model and unit}
        for key in expected:
            model, _ = key
            if model in whole:
                scopes[model, ""].append(key)
            elif model in by_class or ("", "") not in scopes:
                scopes.setdefault(key, []).append(key)
            else:
                scopes["", ""].append(key)
        return scopes

    def _money(self, scope: Key, keys: Sequence[Key], billed: int, expected: int, grain: int) -> str:
        """The class of what was billed beyond what the usage should cost."""
        rest = billed - expected
        model, _ = scope
        used = any(self.used.get(key) for key in keys)
        mine = [self.booked.get(key, _Sums()) for key in keys]
        booked = any(sums.cost or sums.tokens for sums in mine)
        if abs(rest) <= grain:
            return "rounding"
        if not billed:
            return "dropped" if -rest <= sum(sums.guessed_cost for sums in mine) else "not_billed"
        if self.covered and not used:
            return "no_usage"
        if not booked and not (expected if used else self.covered):
            return "bypassed"  # nothing of it is in the ledger, and nobody knows what it should have cost
        ratio = billed / expected if expected > 0 else 0.0
        tiers = set[str]().union(*[self.tiers.get(name, set()) for name in {scope[0], *[name for name, _ in keys]}])
        if (tiers and TIER_RANGE[0] <= ratio <= TIER_RANGE[1]) or HALF[0] <= ratio <= HALF[1]:
            return "tier"
        if model and used and self.lines.get(scope):
            return "price"
        if not used and rest < 0 and -rest <= sum(sums.guessed_cost for sums in mine):
            return "dropped"
        return "unexplained"


def _same_model(name: str, known: set[str]) -> str:
    """The ledger's name for a model of the bill: the same, or the only one that differs by a date at its end."""
    if not name or name in known:
        return name
    alike = [one for one in known if one and _stem(one) == _stem(name)]
    return alike[0] if len(alike) == 1 else name


def _stem(name: str) -> str:
    name = name.lower().rpartition("/")[2]
    parts = name.replace("@", "-").split("-")
    while len(parts) > 1 and (parts[-1] == "latest" or (parts[-1].isdigit() and len(parts[-1]) in (2, 4, 8) and _is_date(parts))):
        parts.pop()
    return "-".join(parts)


def _is_date(parts: Sequence[str]) -> bool:
    """Whether a name ends in a date or in what is left of one: 20250807, 2025-08-07, 2025-08, 2025."""
    for size in (1, 2, 3):
        tail = parts[-size:]
        if len(tail) == size and tail[0].isdigit() and tail[0].startswith("20") and len(tail[0]) in (4, 8):
            return True
    return False


def _one_exchange_rate(cells: list[Cell], bills: Sequence[Bill]) -> list[Cell]:
    """Price residuals of a bill in another currency that are all one factor are the exchange rate's."""
    foreign = {(one.since, one.until, one.provider) for one in bills if one.currency != "USD"}
    wrong: list[int] = []
    factors: list[float] = []
    for n, cell in enumerate(cells):
        rest = dict(cell.residual).get("price", 0)
        if rest and (cell.since, cell.until, cell.provider) in foreign and cell.billed and cell.billed != rest:
            wrong.append(n)
            factors.append(cell.billed / (cell.billed - rest))
    if not wrong or max(factors) - min(factors) > SAME_RATE * abs(min(factors)):
        return cells
    made = list(cells)
    for n in wrong:
        kept = tuple(("currency" if name == "price" else name, pico) for name, pico in cells[n].residual)
        made[n] = cells[n]._replace(residual=kept)
    return made
