"""What shortening a flow's conversations would save, from their turns and tokens alone: before anything is switched on.

Each conversation's prompt grows by a steady amount each call. Of that, what the model wrote stays and what tools said may go; so
the tokens of any masking or summarising can be added up. Prices, and how much of the input was read from the prompt cache, come
from what the runs did cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple


class Run(NamedTuple):
    """One conversation as the ledger has it: calls, prompt and completion tokens of all of them, and what they cost."""

    calls: int
    prompt: int
    completion: int
    pico: int


class Strategy(NamedTuple):
    """`mask`: results older than `keep` calls become a line of `line` tokens, in every call anew. `summarise`: every `every` calls,
    all but the last `keep` become `summary` tokens (its reasoning counts), written by the same model."""

    kind: str  # mask | summarise
    keep: int = 10
    every: int = 21
    line: int = 15
    summary: int = 2_800


class Prospect(NamedTuple):
    """Shares of what the runs did cost. `low`: the net if runs become a seventh longer than expected; `gain`: it survives that."""

    gross: float
    own: float
    net: float
    low: float
    gain: bool
    why: str


# Recorded pairs of runs with and without (six agents, 500 tasks each): fewer tokens in sight make runs longer, by a fifth to a
# third of the share that is removed; and the same agent's runs differ in length by a seventh from one set to the next.
LONGER = 0.3
UNSURE = 0.15
KEPT_OF_ANSWER = 100  # tokens of a completion that are sent again at most; the rest is thinking, which is not
RUNS_LEAST = 30


def look_ahead(runs: Sequence[Run], input_femto: int, output_femto: int, strategy: Strategy) -> Prospect:
    """What the strategy would have saved on these runs. Prices of a token, fresh input and output."""
    runs = [run for run in runs if run.calls > 0 and run.prompt > 0]
    if len(runs) < RUNS_LEAST:
        return Prospect(0.0, 0.0, 0.0, 0.0, False, f"{len(runs)} conversations, at least {RUNS_LEAST} are needed")
    cost = sum(run.pico for run in runs) * 1_000
    prompt, output = sum(run.prompt for run in runs), sum(run.completion for run in runs) * output_femto
    paid = cost - output  # for input, as far as the price list explains it: what is beyond is thinking, or fees
    if paid > prompt * input_femto * 3 // 2:
        paid = prompt * input_femto
    if cost <= 0 or paid <= 0:
        return Prospect(0.0, 0.0, 0.0, 0.0, False, "these runs cost nothing for input")
    first = _first(runs)
    fresh = sent = written = own = 0.0
    for run in runs:
        grown = max(2 * (run.prompt / run.calls - first) / (run.calls - 1), 0.0) if run.calls > 1 else 0.0
        kept = min(grown, run.completion / run.calls, KEPT_OF_ANSWER)
        fresh += first + grown * (run.calls - 1)
        tokens, new, summaries = _replay(run.calls, first, grown, kept, strategy)
        longer = 1 + LONGER * max(1 - tokens / run.prompt, 0.0)
        sent, written = sent + tokens * longer, written + new * longer
        own += summaries * longer * ((grown * strategy.every + strategy.summary) * input_femto + strategy.summary * output_femto)
    # How dear a token read again was: from what the runs cost, the fresh ones taken off.
    again = min(max((paid / input_femto - fresh) / max(prompt - fresh, 1.0), 0.0), 1.0)
    price = max(paid / (prompt * input_femto), 1.0)  # above 1: the list says less than was paid
    bill = (written + max(sent - written, 0.0) * again) * input_femto * price
    gross, share = (paid - bill) / cost, own / cost
    net = gross - share
    low = net - UNSURE * (1 - net)
    if low > 0:
        return Prospect(gross, share, net, low, True, "it pays even if runs become a seventh longer")
    return Prospect(gross, share, net, low, False, "nothing to gain: runs a seventh longer would eat it up")


def _first(runs: Sequence[Run]) -> float:
    """The size of a conversation's first prompt: where a line through the shorter half of the runs meets the axis, and never
    more than the smallest prompt there was."""
    ordered = sorted(runs)
    half = ordered[: max(len(ordered) // 2, 2)]
    points = [((run.calls - 1) / 2, run.prompt / run.calls) for run in half]
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return min(max(mean_y - slope * mean_x, 0.0), min(run.prompt / run.calls for run in runs))


def _replay(calls: int, first: float, grown: float, kept: float, strategy: Strategy) -> tuple[float, float, int]:
    """(tokens sent, of those written fresh, summaries made) over one conversation."""
    sent = written = 0.0
    summaries = 0
    results = grown - kept
    line = min(strategy.line, results)
    for call in range(calls):
        new = grown if call else first
        if strategy.kind == "mask":
            hidden = max(call - strategy.keep, 0)
            prompt = first + kept * call + results * min(call, strategy.keep) + line * hidden
            if hidden:  # the newest line breaks the cache where it stands, in every call
                new = prompt - first - (kept + line) * hidden
        else:
            gone = (call - strategy.keep) // strategy.every * strategy.every if call >= strategy.every + strategy.keep else 0
            prompt = first + grown * (call - gone) + (strategy.summary if gone else 0)
            if gone and (call - strategy.keep) % strategy.every == 0:
                summaries += 1
                new = prompt - first
        sent, written = sent + prompt, written + new
    return sent, written, summaries
