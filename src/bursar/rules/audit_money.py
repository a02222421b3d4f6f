"""Where the money goes: questions one and two of the audit, answered from sums. Pure; units as in rules/audit.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..domain.money import show
from .audit import (
    ACT,
    GOOD,
    MILLION,
    QUESTIONS,
    WATCH,
    Answer,
    Figure,
    Limits,
    Line,
    Scale,
    against,
    per_cent,
    share,
    times,
    worst,
)  # fmt: skip

# -- 1: attribution ----------------------------------------------------------------------------------------------------


class Program(NamedTuple):
    """Calls that no feature names and that begin with the same system prompt and tools."""

    prefix_hash: str
    models: str
    calls: int
    cost: int


class Spent(NamedTuple):
    """What question 1 is answered from. `without`: dollars that no such label names. `multipliers`: what is no plain first try of
    work, the dearest first; `agents`: one part of them, the retries, repairs and loops that nobody wants."""

    cost: int
    without: dict[str, int]
    multipliers: tuple[Line, ...]
    history: int
    unpriced: int
    programs: tuple[Program, ...]


WASTE = ("tool", "sdk retry", "re-ask", "repair", "retry", "loop")
TOLD = {
    "tool": "asking again after {} failed", "switch": "something else after {} failed", "loop": "calls in a loop",
    "sdk retry": "the SDK's own retries", "re-ask": "the same asked again", "repair": "repairing replies that do not parse",
    "fallback": "falling back, {}", "eval": "eval suite {}", "embedding": "embedding {}", "background": "background work, {}",
    "control": "bursar's own calls", "history": "history sent again, in all calls", "flow": "{}", "model": "{}", "move": "{}",
    "repeat": "asked twice: {}", "vector": "embedded twice: {}", "prompt": "read anew: {}",
}  # fmt: skip


def told(line: Line) -> str:
    """A line for people."""
    words = TOLD.get(line.kind, line.kind + (" {}" if line.name else ""))
    return words.format(line.name or "(unnamed)")


def attribution(spent: Spent, rules: Limits, per: Scale, defaults: bool = False) -> Answer:
    """`defaults`: the policy has labels for calls that say nothing."""
    cost, nobody = spent.cost, spent.without["feature"]
    waste = [line for line in spent.multipliers if line.kind in WASTE]
    wasted = sum(line.cost for line in waste)
    named = against(share(nobody, cost), rules.unattributed)
    verdict = worst((named, WATCH if share(wasted, cost) > rules.waste else GOOD, WATCH if spent.unpriced else GOOD))
    said = "All of it names its feature" if not nobody else f"{per_cent(share(nobody, cost))} of the dollars name no feature"
    sentence = f"{said[:1].upper()}{said[1:]}; {per_cent(share(wasted, cost))} went into retries, repairs and loops."
    if spent.unpriced:
        sentence += f" {spent.unpriced:,} tries have no price and are not in it."
    figures = [
        Figure(f"without_{name}", share(part, cost), "share", f"of the dollars name no {name}") for name, part in spent.without.items()
    ]
    figures += [Figure("waste", share(wasted, cost), "share", "went into retries, repairs and loops"),
                Figure("unpriced", spent.unpriced, "count", "tries without a price")]  # fmt: skip
    dearest = max(waste, key=lambda line: line.cost, default=None)
    action, paste, commands = "nothing to do: look again next month", "", ()
    if nobody and (named != GOOD or not dearest):
        action = "say which program each of these is, once; and send x-bursar-feature from now on"
        commands = tuple(f"bursar label --where prefix_hash={one.prefix_hash} feature=NAME" for one in spent.programs)
        if not commands:
            action = "send x-bursar-feature with each call, or give what says nothing a default in [labels]"
            paste = "" if defaults else '[labels]\nfeature = "unnamed-agent"'
    elif dearest is not None and dearest.cost:
        action = ACTION.get(dearest.kind, "see these calls, and what came before them").format(dearest.name)
        action += f": {show(per.month(dearest.cost))} a month"
        where = f"cause=tool:{dearest.name}" if dearest.kind == "tool" else f"cause={CAUSE.get(dearest.kind, dearest.kind)}"
        commands = (f"bursar calls --where {where}",)
    elif spent.unpriced:
        action, commands = "give what has no price a [[price]]", ("bursar spend --by model --where price_status=unpriced",)
    how = ("sums of the ledger's rows by label, operation and cause. History is counted in the calls that carried it, "
           "whatever they were for; the other lines do not overlap")  # fmt: skip
    lines = spent.multipliers
    if spent.history:
        lines = (*lines, Line("history", "", spent.history, 0))
    return Answer(1, "attribution", QUESTIONS["attribution"], verdict, sentence, tuple(figures), lines,
                  per.month(nobody + wasted), how, action, paste, commands)  # fmt: skip


CAUSE = {"sdk retry": "sdk_retry", "re-ask": "reask", "retry": "label"}
ACTION = {
    "tool": "mend {}, or tell the agent to stop after two failures",
    "loop": "limit repeats, see question 6",
    "repair": "ask for structured output, so that replies parse",
}


# -- 2: fallbacks ------------------------------------------------------------------------------------------------------


class Fall(NamedTuple):
    """Fallbacks from one model to another. `asked`: calls that wanted `model`; `instead`: what the same tokens cost there."""

    model: str
    to: str
    by: str  # bursar | client
    why: str
    calls: int
    asked: int
    cost: int
    instead: int | None


def fallback(falls: Sequence[Fall], cost: int, calls: int, rules: Limits, per: Scale, alarmed: bool = False) -> Answer:
    """`alarmed`: somebody is told of fallbacks when they happen, and then they do not go unnoticed."""
    question = QUESTIONS["fallback"]
    how = "tries that another model answered, over the calls that had asked for the first; extra is against the first model's price"
    if not falls:
        return Answer(2, "fallback", question, GOOD, "Never in this period.", (Figure("calls", 0, "count", "calls fell back"),), (), 0,
                      how, "nothing to do")  # fmt: skip
    spent = sum(one.cost for one in falls)
    extra = sum(max(one.cost - one.instead, 0) for one in falls if one.instead is not None)
    fell = sum(one.calls for one in falls)
    dear = [one for one in falls if one.instead is None or one.cost > one.instead]
    rate = max((share(one.calls, one.asked) for one in dear), default=0)
    verdict = against(max(rate, share(spent, cost)) if dear else 0, rules.fallback)
    top = max(falls, key=lambda one: one.cost)
    factor = share(top.cost, top.instead) if top.instead else None
    dearer = f", at {times(factor)} the price" if factor and factor > MILLION else ""
    how_often = f"{per_cent(share(top.calls, top.asked))} of its calls{dearer}"
    sentence = f"{top.model} fell back to {top.to} on {how_often}: {show(top.cost)}, {per_cent(share(top.cost, cost))} of the bill."
    lines = tuple(
        Line(
            "fallback", f"{one.model} -> {one.to}", one.cost, one.calls,
            f"by {one.by}, after {one.why}, {per_cent(share(one.calls, one.asked))} of its calls",
        )
        for one in sorted(falls, key=lambda one: -one.cost)
    )  # fmt: skip
    figures = (
        Figure("calls", fell, "count", "calls fell back"), Figure("of_calls", share(fell, calls), "share", "of all calls"),
        Figure("rate", share(top.calls, top.asked), "share", f"of the calls to {top.model}"),
        Figure("cost", spent, "usd", "spent on fallbacks"),
        Figure("extra", extra, "usd", "more than the first model would have cost"),
        Figure("price_ratio", factor, "ratio", "the first model's price"),
    )  # fmt: skip
    whose = f"the client itself asks {top.to}" if top.by != "bursar" else f"{top.to} is asked instead"
    action, paste = f"mend why {top.model} fails ({top.why}) and {whose}, or name a cheaper one", ""
    if not alarmed:
        action += "; and be told in time"
        paste = f'[[alarm]]\nmetric = "fallback_rate"\nper = "feature"\nthreshold = "{max(rules.fallback // 10_000, 1)}%"'
    elif verdict == ACT:
        verdict = WATCH
    if verdict == GOOD:
        action, paste = "nothing to do: look again when the rate moves", ""
    return Answer(2, "fallback", question, verdict, sentence, figures, lines, per.month(extra), how, action, paste,
                  ("bursar calls --where operation=fallback",))  # fmt: skip
