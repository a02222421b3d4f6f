"""Which tier answers a call: what was asked for, rules on labels, a trained router, staying where the prompt cache is warm; and
whether all of that is worth it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt
from typing import NamedTuple

TIERS = ("cheap", "standard", "premium")
PREFIX = "bursar/"


class Rule(NamedTuple):
    """`[[route]]`: calls whose labels are these go to that tier. Earlier rules win. `mode` shadow: it is only counted."""

    when: tuple[tuple[str, str], ...]
    tier: str
    mode: str = "shadow"  # shadow | on


class Choice(NamedTuple):
    """`model` empty: send the call as it is. `would`: what shadow rules would have chosen; why: for `route_reason`."""

    tier: str
    model: str
    why: str
    would: str = ""


def tier_asked(model: str) -> str:
    """auto, a tier's name, or empty when the client named a model: `bursar/auto`, `bursar/cheap`, or the bare name of a tier."""
    if model.startswith(PREFIX):
        name = model[len(PREFIX) :]
        return name if name in (*TIERS, "auto") else ""
    return model if model in TIERS else ""


def choose(
    model: str, facts: Callable[[str], str], rules: Sequence[Rule], tiers: Mapping[str, str],
    judged: Callable[[], tuple[str, str]] | None = None,
) -> Choice:  # fmt: skip
    """The tier for one call. A tier that the client named is what it gets; a rule on labels comes next; then, where the client
    left it to us (`bursar/auto`) or a rule said auto, what the feature's router says (`judged`: tier and why). A client that
    named a model keeps it unless a rule that is on says otherwise."""
    asked = tier_asked(model)
    if asked in TIERS:
        return Choice(asked, tiers.get(asked, ""), "asked")
    would = ""
    for rule in rules:
        if any(facts(name) != value for name, value in rule.when):
            continue
        tier, why = rule.tier, "rule:" + (",".join(f"{name}={value}" for name, value in rule.when) or "all")
        if tier == "auto":
            tier, why = judged() if judged is not None else ("", "")
        if tier not in tiers:
            continue
        if rule.mode == "on":
            return Choice(tier, tiers[tier], why, would)
        would = would or tier
    if asked == "auto":
        tier, why = judged() if judged is not None else ("standard", "default")
        if tier not in tiers:
            tier, why = "standard", f"{why}; {tier or 'no tier'} has no model"
        return Choice(tier, tiers.get(tier, ""), why, would)
    return Choice("", "", "", would)


STANDS_BACK = "router:stands back"
OFF = "off, it loses"  # ends the reason of a router or classifier that has turned itself off


def left_open(model: str, facts: Callable[[str], str], rules: Sequence[Rule], tiers: Mapping[str, str]) -> bool:
    """Whether a rule that is on, or the client, leaves the tier to somebody who looks at the request. Rules in shadow are only
    counted: nobody is paid for them."""
    for rule in rules:
        serves = rule.mode == "on" and (rule.tier == "auto" or rule.tier in tiers)
        if serves and all(facts(name) == value for name, value in rule.when):
            return rule.tier == "auto"
    return tier_asked(model) == "auto"


# --- staying or switching within a conversation ---


class Card(NamedTuple):
    """Prices of one model, femto-dollars a token: read from the prompt cache, written to it (or fresh), output."""

    read: int
    write: int
    output: int


def switch_pays_after(now: Card, then: Card) -> float:
    """Calls (this one included) after which changing to `then` has paid for filling its cold prompt cache; infinite when it
    never does. With w and r of one model and a price ratio k it is (w - r) / (r (k - 1)): Anthropic at k = 3 six calls, at 5
    three, at 20 one."""
    saved = now.read - then.read
    return (then.write - then.read) / saved if saved > 0 else inf


def switch_saves(now: Card, then: Card, context: int, left: int, new: int = 0, output: int = 0) -> int:
    """Femto-dollars saved by answering the `left` calls to come (this one included) with `then` instead: `context` tokens lie in
    the cache of `now`; each call adds `new` tokens and answers with `output`. Negative: it costs that much more."""
    each_new = new * (now.write - then.write) + output * (now.output - then.output)
    kept = left * context * now.read
    moved = context * then.write + max(left - 1, 0) * context * then.read
    return kept - moved + left * each_new


def stays(now: Card, then: Card, context: int, left: float | None, new: int = 0, output: int = 0) -> bool:
    """Whether a conversation stays on its model though another tier was chosen. With nobody knowing how long it goes on, it
    stays: a switch is paid at once and earned later, and one that is taken back has been paid twice."""
    return left is None or switch_saves(now, then, context, int(left), new, output) <= 0


# --- whether it is worth it ---


class Tally(NamedTuple):
    """What routing did, or in shadow mode would have done, for one feature, in pico-dollars. `gross`: the price of the dearer
    model for every call that went to the cheaper one, less what that one took. `own`: classifiers asked, answers thrown away
    because the dearer model had to be asked after all, prompt caches filled anew. `squares`: of the net of each call."""

    calls: int = 0
    routed: int = 0
    escalated: int = 0
    gross: int = 0
    own: int = 0
    squares: float = 0.0

    @property
    def net(self) -> int:
        return self.gross - self.own

    def add(
        self, gross: int, classifier: int = 0, wasted: int = 0, cold: int = 0, routed: bool = True, escalated: bool = False
    ) -> Tally:
        """One call. `wasted`: what the cheaper try took when its answer was malformed or its tool call failed and the dearer
        model had to answer; then nothing was saved, and `gross` is 0."""
        assert not escalated or not gross, "a call that was answered twice saved nothing"
        net = gross - classifier - wasted - cold
        return Tally(
            self.calls + 1, self.routed + routed, self.escalated + escalated, self.gross + gross,
            self.own + classifier + wasted + cold, self.squares + float(net) ** 2,
        )  # fmt: skip


CALLS_LEAST = 200  # calls before a router may be called a loser
ESCALATED_MOST = 0.05  # of the calls sent to the cheaper tier: beyond this a cascade usually costs more than it saves


def losing(tally: Tally) -> str:
    """Why the router should be off; empty while it earns, or while nobody can say. Net savings must be below zero by more than
    chance explains, or far too many of its calls are made twice."""
    if tally.calls < CALLS_LEAST:
        return ""
    mean = tally.net / tally.calls
    error = sqrt(max(tally.squares / tally.calls - mean * mean, 0.0) / tally.calls)
    if mean + 1.645 * error < 0:
        return f"its net savings are negative: {tally.net / 1e12:.4f} dollars in {tally.calls:,} calls"
    if tally.routed >= CALLS_LEAST and tally.escalated > 3 * ESCALATED_MOST * tally.routed and tally.net <= 0:
        return f"{tally.escalated:,} of the {tally.routed:,} calls it sent to the cheaper tier had to be made again"
    return ""


def cascade_pays(cheap: int, dear: int, escalated: float, checks: int = 0) -> bool:
    """Whether asking the cheaper model first costs less when this share of its answers has to be made again: the share must be
    below 1 - (cheap + checks) / dear."""
    return dear > 0 and escalated < 1 - (cheap + checks) / dear


def classifier_pays(cheap: int, dear: int, dear_share: float, classifier: int) -> bool:
    """Whether a classifier that costs this much a call is worth asking: dear_share must be below 1 - classifier / (dear - cheap)."""
    return dear > cheap and dear_share < 1 - classifier / (dear - cheap)
