"""One alarm's judge: fed with the ledger's sums by the minute, it says of each minute which scopes are over. Pure, and the same
whether the minutes come one by one or a month at once.

Memory is bounded: so many scopes are told apart, and the one that was silent longest is forgotten for a new one."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from math import ceil, log
from typing import NamedTuple, Protocol

from ..domain.alarm import USEFUL, Standing
from .alarm import TICK_US, Judged, Rule, Series, Signal, lift_of
from .alarm_policy import AlarmRule
from .alarm_rate import Calls, Pace, Surge
from .alarm_state import Look

MINUTE_US = 60_000_000
TICK = TICK_US // MINUTE_US
KEYS_MAX = 2000
ENTRIES_MAX = 1440  # of one scope's window: longer windows move on by more than a minute
TALKS_MAX = 20_000  # entries of one scope's conversations
LEARNED_REACH_US = 35 * 86_400_000_000  # a week until a normal is known, and four in which it may not fire too often
SURGE_REACH_US = 9 * 86_400_000_000
BASE = Rule(floor=0)
NEVER = 1e9

Key = tuple[str, ...]


class Fed(NamedTuple):
    """What happened to a scope in one minute (since the epoch; of a learned alarm in the ten that begin with it). `part` and
    `whole` for shares; `talk` is the conversation, where those are told apart."""

    minute: int
    key: Key
    part: int
    whole: int = 0
    talk: str = ""


class Judge(Protocol):
    """`reach_us`: how far back rows are needed before the first look; `grain`: minutes that rows may be summed over."""

    reach_us: int
    grain: int

    def feed(self, rows: Iterable[Fed]) -> None: ...
    def hear(self, judged: Sequence[Standing]) -> None: ...
    def run(self, until: int) -> Iterator[tuple[int, Key, Look]]: ...


def judge_of(rule: AlarmRule) -> Judge:
    """The judge of a rule whose metric adds up from rows."""
    if not rule.learned:
        return Windows(rule)
    return Surges(rule) if rule.metric.name == "tool_calls" else Learned(rule)


class _Minutes:
    """What all judges share: rows wait by minute until it is closed."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Fed]] = defaultdict(list)
        self._now = -1  # the last closed minute
        self.missed = 0  # rows that came after their minute was closed

    def feed(self, rows: Iterable[Fed]) -> None:
        for row in rows:
            if row.minute <= self._now:
                self.missed += 1
            else:
                self._waiting[row.minute].append(row)

    def hear(self, judged: Sequence[Standing]) -> None:
        """Fixed thresholds learn nothing."""

    def _closing(self, until: int) -> Iterator[tuple[int, list[Fed]]]:
        """Minutes to close up to and with `until`, and their rows."""
        if self._now < 0:
            self._now = min(self._waiting, default=until + 1) - 1
        while self._now < until:
            self._now += 1
            yield self._now, self._waiting.pop(self._now, [])


def _room(known: OrderedDict[Key, object], over: set[Key]) -> None:
    """Forget the scope that was silent longest, but none that is over."""
    if len(known) > KEYS_MAX:
        oldest = next((key for key in known if key not in over), None)
        if oldest is not None:
            del known[oldest]


class _Window:
    __slots__ = ("entries", "part", "whole")

    def __init__(self) -> None:
        self.entries: deque[tuple[int, int, int, str]] = deque()  # slot, part, whole, conversation
        self.part = self.whole = 0


class Windows(_Minutes):
    """A fixed threshold on what the last so many minutes come to."""

    def __init__(self, rule: AlarmRule) -> None:
        super().__init__()
        self._rule = rule
        minutes = rule.window_us // MINUTE_US
        self.reach_us, self.grain = rule.window_us, 1
        self._slot = max(1, minutes // ENTRIES_MAX)
        self._slots = minutes // self._slot
        self._known: OrderedDict[Key, object] = OrderedDict()
        self._over: set[Key] = set()

    def run(self, until: int) -> Iterator[tuple[int, Key, Look]]:
        for minute, rows in self._closing(until):
            for row in rows:
                self._add(row)
            for key in sorted({row.key for row in rows} | self._over):
                look = self._look(key, minute)
                if look is None:
                    self._over.discard(key)
                else:
                    self._over.add(key)
                    yield minute, key, look

    def _add(self, row: Fed) -> None:
        window = self._known.get(row.key)
        if window is None:
            window = self._known[row.key] = _Window()
            _room(self._known, self._over | {row.key})
        else:
            self._known.move_to_end(row.key)
        assert isinstance(window, _Window)
        slot, entries = row.minute // self._slot, window.entries
        if entries and entries[-1][0] == slot and entries[-1][3] == row.talk and self._rule.metric.kind != "talks":
            _, part, whole, _ = entries.pop()
            entries.append((slot, part + row.part, whole + row.whole, ""))
        else:
            entries.append((slot, row.part, row.whole, row.talk))
            if len(entries) > TALKS_MAX:
                self._drop(window)
        window.part += row.part
        window.whole += row.whole

    def _drop(self, window: _Window) -> None:
        _, part, whole, _ = window.entries.popleft()
        window.part -= part
        window.whole -= whole

    def _look(self, key: Key, minute: int) -> Look | None:
        window = self._known.get(key)
        if not isinstance(window, _Window):
            return None
        first = minute // self._slot - self._slots + 1
        while window.entries and window.entries[0][0] < first:
            self._drop(window)
        value = self._value(window)
        threshold = self._rule.threshold
        if value is None or not (value < threshold if self._rule.metric.below else value >= threshold):
            return None
        score = value / threshold if threshold else 1.0
        return Look((minute + 1) * MINUTE_US, True, True, value, -1, threshold, score)

    def _value(self, window: _Window) -> int | None:
        """None: too little happened for it to mean anything."""
        rule = self._rule
        if rule.metric.kind == "share":
            return window.part * 1_000_000 // window.whole if window.whole and window.whole >= rule.floor else None
        if rule.metric.kind != "talks":
            return window.part if window.entries else None
        talks: dict[str, int] = {}
        for _, part, _, talk in window.entries:
            talks[talk] = max(talks.get(talk, 0), part) if rule.metric.unit == "turns" else talks.get(talk, 0) + part
        if len(talks) < max(1, rule.floor):
            return None
        return sorted(talks.values())[ceil(0.95 * len(talks)) - 1]


class _Taught(_Minutes):
    """A judge that judgements reach: each counts from the minute on in which it was made, also when all is replayed."""

    def __init__(self, rule: AlarmRule) -> None:
        super().__init__()
        self._rule = rule
        self._known: OrderedDict[Key, object] = OrderedDict()
        self._over: set[Key] = set()
        self._unheard: list[Standing] = []  # the latest first
        self._heard: dict[str, Standing] = {}

    def hear(self, judged: Sequence[Standing]) -> None:
        """Judgements, whether they are known already or not."""
        news = [one for one in judged if self._heard.get(one.id, one).judged_at != one.judged_at or one.id not in self._heard]
        known = {one.id: one for one in self._unheard} | {one.id: one for one in news}
        self._unheard = sorted(known.values(), key=lambda one: (-one.judged_at, one.id))

    def _learn(self, minute: int) -> None:
        while self._unheard and self._unheard[-1].judged_at < (minute + 1) * MINUTE_US:
            one = self._unheard.pop()
            self._heard.pop(one.id, None)  # judged anew: it is the latest then
            self._heard[one.id] = one
            self._taught(one)

    def _taught(self, one: Standing) -> None: ...

    def _series(self, key: Key) -> object:
        series = self._known.get(key)
        if series is None:
            series = self._known[key] = self._made()
            _room(self._known, self._over | {key})
        else:
            self._known.move_to_end(key)
        return series

    def _made(self) -> object:
        raise NotImplementedError


class Learned(_Taught):
    """What is not normal for that scope at that hour and weekday: every ten minutes, by rules/alarm."""

    def __init__(self, rule: AlarmRule) -> None:
        super().__init__(rule)
        self.reach_us, self.grain = LEARNED_REACH_US, TICK
        least = rule.floor if rule.metric.unit == "usd" else 0
        # A ticket is one alarm: no page on top of it.
        page = BASE.page if rule.level == "page" else NEVER
        self._base = Rule(floor=rule.floor, least=least, line=rule.threshold, page=page)
        self._now_rule = self._base
        self._then: dict[str, Rule] = {}  # by judgement: the rule as that one had left it

    def _made(self) -> Series:
        return Series(self._now_rule)

    def _series(self, key: Key) -> object:
        """A series that was not known hears what was said of it before: a restart looks back no further than it must."""
        fresh = key not in self._known
        series = super()._series(key)
        if fresh:
            for one in self._heard.values():  # in the order they were made
                self._said(key, one)
        return series

    def _taught(self, one: Standing) -> None:
        """The series that was judged, and the thresholds of all."""
        lift = lift_of([Judged(heard.score / self._level(heard.level), heard.judged == USEFUL) for heard in self._heard.values()])
        self._now_rule = self._base._replace(page=self._base.page * lift, ticket=self._base.ticket * lift)
        self._then[one.id] = self._now_rule
        for series in self._known.values():
            assert isinstance(series, Series)
            series.rule = self._now_rule
        self._said(scope_key(self._rule, one.scope), one)

    def _said(self, key: Key, one: Standing) -> None:
        series = self._known.get(key)
        if scope_key(self._rule, one.scope) == key and isinstance(series, Series):
            signal = Signal(one.fired, one.level, one.value, one.normal, one.score, self._level(one.level))
            series.judge(signal, one.judged == USEFUL, one.judged_at, self._then[one.id])

    def _level(self, level: str) -> float:
        return self._base.ticket if level == "ticket" else self._base.page

    def run(self, until: int) -> Iterator[tuple[int, Key, Look]]:
        """Only whole ticks are closed: minutes of one that is open wait."""
        fed: set[Key] = set()
        for minute, rows in self._closing((until + 1) // TICK * TICK - 1):
            for row in rows:
                series = self._series(row.key)
                assert isinstance(series, Series)
                series.add(row.minute * MINUTE_US, row.part)
                fed.add(row.key)
            if minute % TICK != TICK - 1:
                continue
            for key in sorted(fed | self._over):
                look = self._look(key, (minute + 1) * MINUTE_US)
                if look is not None:
                    yield minute, key, look
            fed.clear()
            self._learn(minute)

    def _look(self, key: Key, at_us: int) -> Look | None:
        series = self._known[key]
        assert isinstance(series, Series)
        signals, over = series.advance(at_us), series.over
        if over is None or (over.level == "ticket" and self._rule.level == "page"):
            self._over.discard(key)
            return None
        self._over.add(key)
        threshold = self._rule.threshold if over.level == "line" else 0
        return Look(at_us, True, bool(signals), over.value, over.normal, threshold, over.score, over.level, series.began_us())


class Surges(_Taught):
    """Calls of a tool, minute by minute, by rules/alarm_rate."""

    def __init__(self, rule: AlarmRule) -> None:
        super().__init__(rule)
        self.reach_us, self.grain = SURGE_REACH_US, 1
        self._pace = Pace(least=max(1, rule.floor), line=rule.threshold)

    def _made(self) -> Calls:
        return Calls(self._pace)

    def _taught(self, one: Standing) -> None:
        """Noise: surges of this rule must be that much further above the week's record, of whichever tool. It is forgotten by
        itself, for the record then holds the surge that was none."""
        noise = sum(heard.judged != USEFUL for heard in self._heard.values())
        useful = len(self._heard) - noise
        self._pace = self._pace._replace(times=min(4.0, Pace().times * (1 + 0.25 * max(0, noise - 2 * useful))))
        for calls in self._known.values():
            assert isinstance(calls, Calls)
            calls.pace = self._pace

    def run(self, until: int) -> Iterator[tuple[int, Key, Look]]:
        for minute, rows in self._closing(until):
            for row in rows:
                calls = self._series(row.key)
                assert isinstance(calls, Calls)
                calls.add(row.minute * MINUTE_US, row.part)
            for key in sorted({row.key for row in rows} | self._over):
                look = self._look(key, (minute + 1) * MINUTE_US)
                if look is not None:
                    yield minute, key, look
            self._learn(minute)

    def _look(self, key: Key, at_us: int) -> Look | None:
        calls = self._known[key]
        assert isinstance(calls, Calls)
        surges = calls.advance(at_us)
        over: Surge | None = calls.over
        if over is None:
            self._over.discard(key)
            return None
        self._over.add(key)
        hourly = over.calls * 60 // over.minutes
        normal = ceil(over.expected * 60 / over.minutes) if over.expected else -1
        score = over.tail / log(self._pace.tail) if over.tail else hourly / max(1, self._pace.line)
        level = "page" if over.expected else "line"
        return Look(at_us, True, bool(surges), hourly, normal, self._pace.line, score, level, calls.began_us())


def scope_key(rule: AlarmRule, scope: str) -> Key:
    """The key of a scope as a standing has it."""
    import json

    known: dict[str, str] = json.loads(scope)
    return tuple(known.get(label, "") for label in rule.keys)
