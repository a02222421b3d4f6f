"""How well a ledger explains its money: what its columns attribute, beside the truth. Reads the ledger as anybody would."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ..stores.query import Query
from ..stores.reader import Reader
from .planned import FALLBACK, LOOP, REASK, REPAIR, SDK_RETRY, SWITCH, TOOL, Fact, Key
from .truth import CORPUS, SUITE, Billed, Truth

COLUMNS = (
    "call", "try", "attempt_kind", "operation", "purpose", "cause", "model_requested", "model_served", "conversation", "tenant",
    "request_hash", "price_status", "label:suite", "label:corpus",
)  # fmt: skip

# The words of the column `cause` for what is not a tool's or a fallback's, and what each means here.
WORDS = {
    "sdk_retry": SDK_RETRY, "reask": REASK, "re-ask": REASK, "repair": REPAIR, "malformed": REPAIR, "malformed_output": REPAIR,
    "loop": LOOP,
}  # fmt: skip

NOTHING = Decimal(0)


class Scored(NamedTuple):
    """One multiplier, in dollars: what it truly cost by the provider's invoice, what the ledger attributes to it, and how much of
    that is attributed rightly (row by row; None where ledger and truth cannot be matched by row)."""

    key: Key
    truth: Decimal
    attributed: Decimal
    right: Decimal | None

    @property
    def error(self) -> Decimal:
        """How far the attributed sum is from the truth, as a share of it."""
        return abs(self.attributed - self.truth) / self.truth if self.truth else Decimal(int(self.attributed != 0))


class Stray(NamedTuple):
    """Dollars the ledger attributes to what they are not."""

    key: Key  # what the ledger says
    truly: Key | None  # what it is; None: nothing that multiplies
    dollars: Decimal
    rows: int
    example: str  # a call


class Threading(NamedTuple):
    """Whether calls are in the right conversation. `alike`: calls that nobody could tell from another conversation's, since
    they ask the same with no history; they are not counted in the others."""

    calls: int
    right: int  # by message history: a sub-agent's is one of its own
    right_whole: int  # by whole conversations, sub-agents with whom they work for
    merged: int  # calls that share a conversation with another tenant's
    alike: int


class Score(NamedTuple):
    """A ledger beside the truth."""

    multipliers: tuple[Scored, ...]  # the dearest first
    strays: tuple[Stray, ...]
    threading: Threading
    ledger: Decimal
    invoice: Decimal
    unsure: Decimal  # of the difference, on rows the ledger itself says are estimated or unpriced
    missing: int  # tries on the invoice without a row
    surplus: int  # rows with dollars that the invoice has no try for

    def worst(self) -> Decimal:
        return max((m.error for m in self.multipliers), default=NOTHING)


Row = dict[str, Any]


def score(ledger: str | Path, truth: Truth, *, said: bool = True) -> Score:
    """Score the ledger at this path. `said`: calls carry their suite and corpus as labels; where nobody says them nobody can
    know them, and they are left out. Rows are matched by `call` and `try`, as the player writes them; in a ledger where no call
    is known only the sums can be compared."""
    with Reader(ledger) as reader:
        rows = reader.query(Query(("cost",), COLUMNS, order="cost"))
    billed = {(row.fact.ref, row.try_no): row for row in truth.rows}
    matched = any((row["call"], row["try"]) in billed for row in rows)
    multipliers: list[Scored] = []
    strays: list[Stray] = []
    for aspect in (_cause, _suite, _corpus) if said else (_cause,):
        found = _compare(rows, billed, aspect) if matched else _compare_sums(rows, truth, aspect)
        multipliers += found[0]
        strays += found[1]
    costs: dict[tuple[str, int], Decimal] = defaultdict(Decimal)
    unsure = NOTHING
    for row in rows:
        key = (row["call"], row["try"])
        costs[key] += row["cost"] or NOTHING
        if row["price_status"] != "priced" and key in billed:
            unsure += (row["cost"] or NOTHING) - billed[key].dollars
    return Score(
        tuple(sorted(multipliers, key=lambda m: -m.truth)), tuple(sorted(strays, key=lambda s: -s.dollars)), _threading(rows, billed),
        sum(costs.values(), NOTHING), truth.total, unsure, sum(1 for key in billed if key not in costs) if matched else 0,
        sum(1 for key, cost in costs.items() if cost and key not in billed) if matched else 0,
    )  # fmt: skip


# What a row or a fact is, in one respect: the ledger's word for it, and the true ones (the foremost first).


def _cause(row: Row | None, fact: Fact | None) -> tuple[Key, ...]:
    if fact is not None:
        return fact.keys
    assert row is not None
    cause: str = row["cause"]
    kind, _, name = cause.partition(":")
    if row["operation"] == "fallback":
        dear_from = name or row["model_requested"]
        return ((FALLBACK, f"{dear_from} -> {row['model_served']}"),)
    if kind in (TOOL, SWITCH):
        return ((kind, name),)
    if kind in WORDS:
        return ((WORDS[kind], ""),)
    return ((row["operation"], cause),) if cause or row["operation"] == "retry" else ()


def _suite(row: Row | None, fact: Fact | None) -> tuple[Key, ...]:
    if fact is not None:
        return ((SUITE, fact.suite),) if fact.suite else ()
    assert row is not None
    return ((SUITE, row["label:suite"]),) if row["purpose"] == "eval" else ()


def _corpus(row: Row | None, fact: Fact | None) -> tuple[Key, ...]:
    if fact is not None:
        return ((CORPUS, fact.corpus),) if fact.corpus else ()
    assert row is not None
    return ((CORPUS, row["label:corpus"]),) if row["purpose"] == "embedding" else ()


def _compare(rows: list[Row], billed: dict[tuple[str, int], Billed], aspect: Any) -> tuple[list[Scored], list[Stray]]:
    truth: dict[Key, Decimal] = defaultdict(Decimal)
    attributed: dict[Key, Decimal] = defaultdict(Decimal)
    right: dict[Key, Decimal] = defaultdict(Decimal)
    wrong: dict[tuple[Key, Key | None], list[Row]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for row in rows:
        at = (row["call"], row["try"])
        one = billed.get(at)
        true = aspect(None, one.fact) if one is not None else ()
        said = next(iter(aspect(row, None)), None)
        # A try with two true causes (a loop of failing calls, a tool given up) counts for the one that the ledger names.
        meant = said if said in true else next(iter(true), None)
        if one is not None and meant is not None and at not in seen:
            truth[meant] += one.dollars
            seen.add(at)
        cost = row["cost"] or NOTHING
        if said is not None:
            attributed[said] += cost
            if said == meant:
                right[said] += cost
            elif cost:
                wrong[said, meant].append(row)
    for at, one in billed.items():
        if at not in seen and (true := aspect(None, one.fact)):
            truth[true[0]] += one.dollars
    strays = [
        Stray(said, meant, sum((row["cost"] for row in found), NOTHING), len(found), found[0]["call"])
        for (said, meant), found in wrong.items()
    ]
    return [Scored(key, dollars, attributed[key], right[key]) for key, dollars in truth.items() if dollars], strays


def _compare_sums(rows: list[Row], truth: Truth, aspect: Any) -> tuple[list[Scored], list[Stray]]:
    true = truth.by(lambda fact: next(iter(aspect(None, fact)), None))
    attributed: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        for kind, name in aspect(row, None):
            # A tool given up may be said either way, and without its row nobody knows which calls could.
            attributed[TOOL if kind == SWITCH else kind, name].append(row)
    sums = {key: sum((row["cost"] or NOTHING for row in found), NOTHING) for key, found in attributed.items()}
    strange = {key: found for key, found in attributed.items() if key not in true and sums[key]}
    strays = [Stray(key, None, sums[key], len(found), found[0]["call"]) for key, found in strange.items()]
    return [Scored(key, dollars, sums.get(key, NOTHING), None) for key, dollars in true.items() if dollars], strays


def _threading(rows: list[Row], billed: dict[tuple[str, int], Billed]) -> Threading:
    firsts: dict[str, set[str]] = defaultdict(set)  # what is asked without a history -> who asks it
    calls: list[tuple[Row, Fact]] = []
    for row in rows:
        one = billed.get((row["call"], row["try"]))
        if one is None or one.fact.purpose == "embedding" or row["attempt_kind"] == "correction":
            continue
        calls.append((row, one.fact))
        firsts[row["request_hash"]].add(one.fact.thread)
    told = [(row, fact) for row, fact in calls if len(firsts[row["request_hash"]]) == 1]
    tenants: dict[str, set[str]] = defaultdict(set)
    for row, fact in told:
        tenants[row["conversation"]].add(fact.tenant)
    merged = sum(1 for row, _ in told if row["conversation"] and len(tenants[row["conversation"]]) > 1)
    by_thread = _agree([(row["conversation"], fact.thread) for row, fact in told])
    by_whole = _agree([(row["conversation"], fact.conversation) for row, fact in told])
    return Threading(len(told), by_thread, by_whole, merged, len(calls) - len(told))


def _agree(pairs: list[tuple[str, str]]) -> int:
    """How many calls are where most of their own are, and where most are their own."""
    counted = Counter(pairs)
    ours: dict[str, tuple[int, str]] = {}
    theirs: dict[str, tuple[int, str]] = {}
    for (here, there), n in counted.items():
        ours[here] = max(ours.get(here, (0, "")), (n, there))
        theirs[there] = max(theirs.get(there, (0, "")), (n, here))
    return sum(n for (here, there), n in counted.items() if here and ours[here][1] == there and theirs[there][1] == here)


def lines(scored: Score) -> Iterator[str]:
    """The score for people, at most 80 columns."""
    yield f"{'multiplier':<46}{'truth':>11}{'attributed':>12}{'error':>9}"
    for m in scored.multipliers:
        yield f"{words(m.key, 45):<46}{m.truth:>11.4f}{m.attributed:>12.4f}{m.error:>9.1%}"
    if scored.strays:
        yield "attributed to what was not planted there"
    for stray in scored.strays:
        truly = "nothing" if stray.truly is None else words(stray.truly, 30)
        yield f"  {words(stray.key, 36):<37}{stray.dollars:>10.4f}  {stray.rows} rows, truly {truly}"[:80]
    t = scored.threading
    if t.calls:
        yield f"{t.right / t.calls:.2%} of {t.calls} calls in the right thread, {t.merged} merged across tenants, {t.alike} alike"
    yield f"ledger ${scored.ledger}, invoice ${scored.invoice}; {scored.unsure:+f} of it estimated"
    if scored.missing or scored.surplus:
        yield f"{scored.missing} tries of the invoice without a row, {scored.surplus} rows without a try"


def words(key: Key, most: int = 80) -> str:
    """A key as people read it."""
    text = " ".join(filter(None, (key[0].replace("_", " "), key[1] or ("(nobody says)" if key[0] in (SUITE, CORPUS) else ""))))
    return text if len(text) <= most else text[: most - 1] + "…"
