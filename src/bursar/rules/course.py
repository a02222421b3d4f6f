"""What is remembered of a conversation between its calls, and of its flow, so that the next call can be made cheaper. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from .compact import State, purse
from .horizon import Horizon

CONVERSATIONS_MAX = 20_000  # the one used longest ago is forgotten: that breaks one prompt cache, no more
FLOWS_MAX = 1_000
BYTES_MAX = 64 << 20  # of lines and summaries, all conversations together
LINE_BYTES = 300  # a line with its key


class Course(NamedTuple):
    """`model` (empty: nothing is known) answered last, with `context` tokens that lie in its prompt cache until `warm_until_us`.
    `call`: calls so far since the cache was last cold. `purse`: pico-dollars that compaction may risk on the flow. `left`: calls
    expected to come. `judged`: tier and reason, where a router was asked; `quiet`: why the classifier is not to be."""

    state: State = State()
    provider: str = ""
    model: str = ""
    tier: str = ""
    context: int = 0
    warm_until_us: int = 0
    call: int = 0
    purse: int = 0
    left: float | None = None
    judged: tuple[str, str] = ("", "")
    quiet: str = ""


class _Flow:
    """Lengths of its conversations, and what its calls did cost and would have."""

    __slots__ = ("full", "horizon", "paid")

    def __init__(self) -> None:
        self.horizon = Horizon()
        self.full = self.paid = 0


class Courses:
    """All of a process, bounded. Not safe for threads: whoever shares it locks."""

    def __init__(self) -> None:
        self._courses: OrderedDict[str, Course] = OrderedDict()
        self._warm: OrderedDict[str, tuple[int, str]] = OrderedDict()  # conversation -> (until when, flow), coldest first
        self._flows: OrderedDict[str, _Flow] = OrderedDict()
        self._bytes = 0

    def of(self, conversation: str, flow: str, now_us: int) -> Course:
        """As it stands before a call."""
        self._cool(now_us)
        course = self._courses.get(conversation, Course())
        its = self._flow(flow)
        call = course.call + 1 if now_us < course.warm_until_us else 1
        return course._replace(call=call, purse=purse(its.full, its.paid), left=its.horizon.left(call), judged=("", ""), quiet="")

    def note(self, conversation: str, flow: str, course: Course, full: int, paid: int) -> None:
        """As it stands after one."""
        its = self._flow(flow)
        its.full, its.paid = its.full + full, its.paid + paid
        before = self._courses.get(conversation)
        self._bytes += _bytes(course) - (_bytes(before) if before is not None else 0)
        self._courses[conversation] = course
        self._courses.move_to_end(conversation)
        self._warm[conversation] = (course.warm_until_us, flow)
        self._warm.move_to_end(conversation)
        while len(self._courses) > CONVERSATIONS_MAX or (self._bytes > BYTES_MAX and len(self._courses) > 1):
            gone, its_course = self._courses.popitem(last=False)
            self._bytes -= _bytes(its_course)
            self._warm.pop(gone, None)

    def _cool(self, now_us: int) -> None:
        """A stretch of calls has ended where the provider's cache went cold: its length is what the flow learns from."""
        while self._warm:
            conversation, (until, flow) = next(iter(self._warm.items()))
            if until > now_us:
                return
            del self._warm[conversation]
            course = self._courses.get(conversation)
            if course is not None and course.call:
                self._flow(flow).horizon.learn(course.call)

    def _flow(self, name: str) -> _Flow:
        found = self._flows.get(name)
        if found is None:
            found = self._flows[name] = _Flow()
            if len(self._flows) > FLOWS_MAX:
                self._flows.popitem(last=False)
        self._flows.move_to_end(name)
        return found


def _bytes(course: Course) -> int:
    standing = course.state.standing
    return len(course.state.lines) * LINE_BYTES + (len(standing.text) if standing is not None else 0)
