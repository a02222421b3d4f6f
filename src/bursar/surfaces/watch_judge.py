"""The alarms of a policy, judged from a ledger's rows up to a minute: live a minute at a time, or a month replayed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import apsw

from ..domain.alarm import PENDING, RESOLVED, Silence, Standing
from ..domain.policy import Policy
from ..rules.alarm_judge import MINUTE_US, Judge, judge_of
from ..rules.alarm_policy import AlarmRule, compile_alarms, owner_of
from ..rules.alarm_state import Look, calm, scope_text, silenced, step
from ..stores.reader import Reader
from .watch_rows import DAY, creeping, needed, rows, standing_looks

AT_ONCE = 5 * DAY // MINUTE_US  # minutes of history that are asked for together: bounds memory

Seen = dict[tuple[str, str], tuple[dict[str, str], Look]]  # by rule and scope
Scopes = Callable[[int], Iterable[tuple[AlarmRule, dict[str, str], Look]]]


class Told(NamedTuple):
    """Something to be told: the alarm as it stood then."""

    kind: str
    standing: Standing
    rule: AlarmRule
    scope: dict[str, str]


class Step(NamedTuple):
    """What judging came to: alarms that changed, pending ones that went away, and what is to be told, in order."""

    changed: list[Standing]
    gone: list[str]
    told: list[Told]


class Bench:
    """The judges of one policy. `minute`: up to which (exclusive) they have seen rows; they have seen none before `warm`."""

    def __init__(self, policy: Policy, minute: int, judgements: Callable[[str], Sequence[Standing]]) -> None:
        self.rules = compile_alarms(policy.alarm)
        self.minute = minute
        self._policy = policy
        self._judgements = judgements
        self._judges: dict[str, Judge] = {r.name: judge_of(r) for r in self.rules if r.metric.kind in ("sum", "share", "talks")}
        self._crept = -1  # the last day that was looked at for slow growth

    def _fetch(self, reader: Reader) -> None:
        """What all rules look at, at once."""
        reader.fetch({column for rule in self.rules if rule.name in self._judges for column in needed(rule)})

    def warm(self, reader: Reader) -> None:
        """Feed the past that a first look needs: nothing comes of it."""
        self._fetch(reader)
        for rule in self.rules:
            judge = self._judges.get(rule.name)
            if judge is None:
                continue
            judge.hear(self._judgements(rule.name))
            since = (self.minute - judge.reach_us // MINUTE_US) // judge.grain * judge.grain
            for start in range(max(0, since), self.minute, AT_ONCE):
                stop = min(start + AT_ONCE, self.minute)
                judge.feed(rows(reader, rule, 1 if stop == self.minute else judge.grain, start, stop))
                for _ in judge.run(stop - 1):
                    pass

    def looks(self, reader: Reader, until: int) -> Iterator[tuple[int, AlarmRule, dict[str, str], Look]]:
        """Every scope that is over in minutes up to `until` (exclusive), in the order of time."""
        self._fetch(reader)
        found: list[tuple[int, int, AlarmRule, dict[str, str], Look]] = []
        for n, rule in enumerate(self.rules):
            judge = self._judges.get(rule.name)
            if judge is None:
                continue
            judge.hear(self._judgements(rule.name))
            for start in range(self.minute, until, AT_ONCE):
                stop = min(start + AT_ONCE, until)
                judge.feed(rows(reader, rule, 1, start, stop))
                found += [(minute, n, rule, rule.scope(key), look) for minute, key, look in judge.run(stop - 1)]
        found.sort(key=lambda one: (one[0], one[1], scope_text(one[3])))
        self.minute = until
        for minute, _, rule, scope, look in found:
            yield minute, rule, scope, look

    def now(self, reader: Reader, connection: apsw.Connection, at_us: int) -> Iterator[tuple[AlarmRule, dict[str, str], Look]]:
        """What stands at this moment: budgets, counters, drills; and once a day what grows slowly."""
        day = at_us // DAY
        for rule in self.rules:
            if rule.metric.kind == "state":
                for scope, look in standing_looks(connection, rule, self._policy.budget, at_us):
                    yield rule, scope, look
            elif rule.metric.kind == "creep" and day != self._crept:
                for key, found in creeping(reader, rule, at_us):
                    since = (day - 7 * found.weeks) * DAY
                    yield rule, rule.scope(key), Look(at_us, True, True, found.now, found.then, 0, found.times, "ticket", since)
        self._crept = day

    def owner(self, rule: AlarmRule, scope: dict[str, str]) -> str:
        return owner_of(rule, scope, dict(self._policy.owners))


def advance(
    bench: Bench, reader: Reader, until: int, standings: Sequence[Standing], silences: Sequence[Silence],
    connection: apsw.Connection | None,
) -> Step:  # fmt: skip
    """Judge the minutes up to `until` (exclusive). With a connection also what stands now; that has no past to be replayed."""
    states: dict[tuple[str, str], Standing] = {(one.rule, one.scope): one for one in standings}
    before = dict(states)
    scopes: dict[tuple[str, str], dict[str, str]] = {}
    rules: Mapping[str, AlarmRule] = {rule.name: rule for rule in bench.rules}
    ended: list[Standing] = []
    told: list[Told] = []

    def one(rule: AlarmRule, scope: dict[str, str], look: Look) -> None:
        key = (rule.name, scope_text(scope))
        quiet = silenced(silences, rule.name, scope, look.at_us)
        after, kind = step(states.get(key), look, rule.about, key[1], rule.manner, quiet)
        if after is not None and not after.owner:
            after = after._replace(owner=bench.owner(rule, scope))
        scopes[key] = scope
        if kind and after is not None:
            told.append(Told(kind, after, rule, scope))
        if after is None or after.state == RESOLVED:
            states.pop(key, None)
            if after is not None:
                ended.append(after)
        else:
            states[key] = after

    for key in [key for key in states if key[0] not in rules]:
        last = states.pop(key)  # its alarm is no longer in the policy: it ends without a word
        ended.append(last._replace(state=RESOLVED, resolved=max(last.seen, until * MINUTE_US)))

    def rest(minute: int, seen: set[tuple[str, str]]) -> None:
        for key in [key for key in states if key not in seen]:
            scope = scopes.get(key) or scope_read(key[1])
            one(rules[key[0]], scope, calm((minute + 1) * MINUTE_US))

    first = bench.minute
    at, seen = first, set[tuple[str, str]]()
    for minute, rule, scope, look in bench.looks(reader, until):
        while at < minute:
            rest(at, seen)
            at, seen = at + 1, set()
            if not states:  # nothing to become calm
                at = minute
        one(rule, scope, look)
        seen.add((rule.name, scope_text(scope)))
    while at < until - 1:
        rest(at, seen)
        at, seen = at + 1, set()
        if not states:
            at = until - 1
    if first < until:
        if connection is not None:
            for rule, scope, look in bench.now(reader, connection, until * MINUTE_US):
                one(rule, scope, look)
                seen.add((rule.name, scope_text(scope)))
        rest(until - 1, seen)
    changed = ended + [now for key, now in states.items() if before.get(key) != now]
    over = {one.id for one in ended}
    gone = [was.id for key, was in before.items() if was.state == PENDING and key not in states and was.id not in over]
    return Step(changed, gone, told)


def scope_read(text: str) -> dict[str, str]:
    import json

    return json.loads(text)
