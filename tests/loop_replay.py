"""Recorded runs against the loop rules: what a stop would have saved on runs that failed, and which solved runs it would have hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bursar.domain.history import Pairs
from bursar.rules.loop import STOP, Limits, look
from bursar.wire.history import Signs
from bursar.wire.openai_history import chat_message
from recorded_agents import Run, messages
from threading_replay import Talk, ready

Rule = Callable[[Pairs, int], str]  # the newest pairs, and how many are new -> which rule stops, empty for none


class Outcome(NamedTuple):
    """A stop comes before the next paid call: dollars are what a run spent after it, by the recorded tokens or characters."""

    doomed: int  # runs that failed and are stopped
    saved: float  # dollars that those went on to spend
    solved: int  # runs that were solved, and are stopped
    lost: float  # dollars that those went on to spend
    rules: Counter[str]
    hit: tuple[str, ...]  # solved runs that are stopped


def ours(limits: Limits = STOP) -> Callable[[], Rule]:
    def rule(pairs: Pairs, fresh: int) -> str:
        found = look(pairs, fresh, limits)
        return found.rule if found else ""

    return lambda: rule


def plain(times: int) -> Callable[[], Rule]:
    """One call with one result so many times, at any time of the run."""

    def make() -> Rule:
        seen: Counter[tuple[int, int]] = Counter()

        def rule(pairs: Pairs, fresh: int) -> str:
            for at in range(len(pairs.names) - fresh, len(pairs.names)):
                if pairs.names[at]:
                    seen[pairs.calls[at], pairs.results[at]] += 1
                    if seen[pairs.calls[at], pairs.results[at]] >= times:
                        return f"{times} times"
            return ""

        return rule

    return make


class Told(NamedTuple):
    """A run as its requests show it: the pairs at each, with how many are new."""

    run: Run
    pairs: tuple[tuple[Pairs, int], ...]


def told(runs: Iterable[Run]) -> list[Told]:
    teller = Signs().teller("openai_chat", chat_message)
    out: list[Told] = []
    for run in runs:
        talk: Talk = ready(run)
        seen: list[tuple[Pairs, int]] = []
        for turn in talk.turns:
            history = teller.tell(talk.raws[: turn.before])
            seen.append((history.pairs, history.fresh_pairs))
        out.append(Told(run, tuple(seen)))
    return out


def measure(runs: Iterable[Told], make: Callable[[], Rule]) -> Outcome:
    doomed = solved = 0
    saved = lost = 0.0
    rules: Counter[str] = Counter()
    hit: list[str] = []
    for run, seen in runs:
        rule = make()
        for n, (pairs, fresh) in enumerate(seen):
            why = rule(pairs, fresh)
            if why:
                rest = sum(step.dollars for step in run.steps[n:])
                if run.solved:
                    solved, lost = solved + 1, lost + rest
                    hit.append(run.name)
                else:
                    doomed, saved = doomed + 1, saved + rest
                rules[why] += 1
                break
    return Outcome(doomed, saved, solved, lost, rules, tuple(hit))


__all__ = ["Outcome", "Told", "measure", "messages", "ours", "plain", "told"]
