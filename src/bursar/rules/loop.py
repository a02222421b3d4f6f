"""Whether an agent goes round in circles: from its last calls and what came of them, never from how long it has worked.

A pair is one tool call that a paid reply asked for, with its result (moments, durations and long ids masked); of an agent without
tools, its text and what it was told next. A person who says something new begins anew. The rules, on the last 24 pairs:

- same: one pair `same` times in a row;
- cycle: two to six pairs, repeated `cycle` times in a row (A-B-A-B-A-B);
- error: the same tool failing with the same words `error` times in a row, whatever it was asked;
- stale: of the last `window` pairs, each counts two points if the pair, or the failure, had been there before, one point if only
  the result had; `stale` points are a loop.

Paging, batches and searches that find nothing bring new arguments each time: at most a point a pair, which never suffices. A
tool that is polled is declared; it may repeat itself up to its own limit and does not count otherwise.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from ..domain.history import Pairs
from ..domain.shape import Shape


class Limits(Shape, frozen=True, gc=False):
    """How much is too much. The defaults stop no solved run of 527 recorded ones (docs/explanation/loops.md)."""

    same: int = 6
    cycle: int = 3
    error: int = 8
    window: int = 8
    stale: int = 12

    def scaled(self, per_cent: int) -> Limits:
        """More patient (over 100) or less; the window stays."""
        same, cycle, error, stale = (max(-(-n * per_cent // 100), 2) for n in (self.same, self.cycle, self.error, self.stale))
        return Limits(same, cycle, error, self.window, min(stale, 2 * self.window))


STOP = Limits()
WARN = Limits(same=4, cycle=2, error=4, stale=9)
CYCLE_MAX = 6


class Finding(Shape, frozen=True, gc=False):
    """A loop, with what an incident must say of it."""

    rule: str  # same | cycle | error | stale | poll
    tools: tuple[str, ...]  # in the order of the cycle; an empty name is a text
    times: int  # how often it has come, or of how many pairs the stale points are
    points: int = 0  # of rule stale

    def words(self) -> str:
        """One line for people."""
        names = ", ".join(f"`{tool}`" if tool else "the same text" for tool in self.tools)
        match self.rule:
            case "same":
                return f"{names} called {self.times} times in a row with the same arguments and the same result"
            case "cycle":
                return f"the calls of {names} repeated {self.times} times with the same results"
            case "error":
                return f"{names} failed {self.times} times in a row in the same words"
            case "poll":
                return f"{names} polled {self.times} times without any change"
            case _:
                return f"no progress: {self.points} of {2 * self.times} points for calls and results seen before, last of {names}"


def look(pairs: Pairs, fresh: int, limits: Limits = STOP, polls: Mapping[str, int] | None = None) -> Finding | None:
    """The loop that the newest pairs complete, or None. `fresh` pairs are new; `polls` says how often a tool may say the same."""
    names, calls, results, errors, run = pairs.names, pairs.calls, pairs.results, pairs.errors, pairs.run
    if not fresh or not names:
        return None
    if polls:
        most = polls.get(names[-1])
        if most is not None:
            return Finding("poll", names[-1:], run) if run > most else None
        if any([name in polls for name in names]):
            keep = [at for at, name in enumerate(names) if name not in polls]
            names = tuple([names[at] for at in keep])
            calls, results, errors = (array("Q", [column[at] for at in keep]) for column in (calls, results, errors))
    if not _known(calls, results, errors, min(fresh, len(names))):
        return None
    if run >= limits.same:
        return Finding("same", names[-1:], run)
    for length in range(1, CYCLE_MAX + 1):
        times = limits.same if length == 1 else limits.cycle
        whole = times * length
        if whole > len(names):
            continue
        if calls[-whole + length :] == calls[-whole:-length] and results[-whole + length :] == results[-whole:-length]:
            return Finding("same" if length == 1 else "cycle", names[-length:], times)
    failed = errors[-limits.error :]
    if len(failed) == limits.error and failed[-1] and failed.count(failed[-1]) == len(failed):
        if names[-limits.error :].count(names[-1]) == limits.error:
            return Finding("error", names[-1:], limits.error)
    points = _stale(names, calls, results, errors, limits.window)
    return Finding("stale", names[-1:], limits.window, points) if points >= limits.stale else None


def _known(calls: array[int], results: array[int], errors: array[int], fresh: int) -> bool:
    """Whether any of the new pairs had a result, or a failure, that was there before: else something has happened."""
    for at in range(len(calls) - fresh, len(calls)):
        if results[at] in results[:at] or (errors[at] and errors[at] in errors[:at]):
            return True
    return False


def _stale(names: tuple[str, ...], calls: array[int], results: array[int], errors: array[int], window: int) -> int:
    """Points of the last `window` pairs; none while there are fewer."""
    start = len(names) - window
    if start < 0:
        return 0
    points = 0
    whole: set[tuple[int, int]] = set()
    said: set[tuple[str, int]] = set()
    for at, pair in enumerate(zip(names, calls, results, errors)):
        name, call, result, error = pair
        if at >= start:
            if (call, result) in whole or (error and (name, ~error) in said):
                points += 2
            elif (name, result) in said:
                points += 1
        whole.add((call, result))
        said.add((name, result))
        if error:
            said.add((name, ~error))
    return points
