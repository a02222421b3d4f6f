"""What a process remembers so that the next call is cheaper: kept replies, calls in flight, conversations' courses, routers."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..domain.reply import Kept
from ..effects import Consult, Keep, Note, Seek, Turn
from ..ports import PENDING
from ..rules import flight, route, router
from ..rules.course import Course, Courses
from ..rules.familiar import Watch
from ..stores.replies import BYTES_MAX, FileReplies, MemoryReplies

UNWRITTEN_MAX = 10_000  # replies on their way to the file; further ones are in memory only
ROUTERS_MAX = 200

Wake = Callable[[object], None]


class Savings:
    """All of them. Memory is asked first and the file behind it; what is kept is written by a thread of its own."""

    def __init__(self, folder: Path | None = None, bytes_max: int = BYTES_MAX, on_disk: bool = False) -> None:
        self._memory = MemoryReplies(bytes_max)
        self._file = FileReplies(folder / "replies.db", bytes_max) if folder is not None and on_disk else None
        self._routers = Routers(folder / "routers" if folder is not None else None)
        self._courses = Courses()
        self._flights = flight.Flights()
        self._waiting: dict[tuple[bytes, str], tuple[Wake, Turn]] = {}
        # Reentrant: a turn is dropped wherever the collector finds it.
        self._lock = threading.RLock()
        self._unwritten: queue.SimpleQueue[Keep | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    # -- replies ---------------------------------------------------------------------------------------------------------

    def seek(self, effect: Seek, wake: Wake | None) -> object:
        found = tuple([self._find(effect, key) for key in effect.keys])
        turn = effect.turn
        if turn is None or found[0] is not None:
            return found
        key = effect.keys[0]
        with self._lock:
            joined = self._flights.join(key, effect.call)
            if isinstance(joined, flight.Alone):
                return found
            turn.over = partial(self._left, key, effect.call)
            if isinstance(joined, flight.Follow):
                if wake is None:
                    turn.leave()
                    return found
                self._waiting[(key, effect.call)] = (wake, turn)
                return PENDING
            landed = self._memory.get(effect.wall, key, effect.now_us)  # by one that was in flight a moment ago
        if landed is not None:
            self._land(key, effect.call, landed, turn)
        return (landed,)

    def _find(self, effect: Seek, key: bytes) -> Kept | None:
        kept = self._memory.get(effect.wall, key, effect.now_us)
        if kept is None and self._file is not None:
            kept = self._file.get(effect.wall, key, effect.now_us)
            if kept is not None:
                self._memory.put(effect.wall, key, kept, effect.now_us)
        return kept

    def keep(self, effect: Keep) -> None:
        for key, kept in effect.kept:
            self._memory.put(effect.wall, key, kept, effect.now_us)
        if self._file is not None and self._unwritten.qsize() < UNWRITTEN_MAX:
            if self._writer is None or not self._writer.is_alive():  # also after a fork
                self._writer = threading.Thread(target=self._write, name="bursar-replies", daemon=True)
                self._writer.start()
            self._unwritten.put(effect)
        turn = effect.turn
        if turn is not None and turn.over is not None:
            key, kept = effect.kept[0]
            self._land(key, kept.call, kept, turn)

    def _write(self) -> None:
        file = self._file
        assert file is not None
        while (effect := self._unwritten.get()) is not None:
            for key, kept in effect.kept:
                file.put(effect.wall, key, kept, effect.now_us)

    def _land(self, key: bytes, call: str, kept: Kept, turn: Turn) -> None:
        turn.over = None
        with self._lock:
            told = [self._waiting.pop((key, one)) for one in self._flights.landed(key, call)]
        for wake, its in told:
            its.over = None
            wake((kept,))

    def _left(self, key: bytes, call: str) -> None:
        """A call that led or waited is over without a reply for others."""
        with self._lock:
            waited = self._waiting.pop((key, call), None) is not None
            then = self._flights.left(key, call)
            following = None if waited else self._waiting.pop((key, then.leader), None)
        if following is not None:
            following[0]((None,))

    def close(self) -> None:
        """What is on its way is written first."""
        if self._writer is not None and self._writer.is_alive():
            self._unwritten.put(None)
            self._writer.join(5)
        if self._file is not None:
            self._file.close()

    def stats(self) -> dict[str, int]:
        return self._memory.stats()

    # -- conversations ---------------------------------------------------------------------------------------------------

    def consult(self, effect: Consult) -> Course:
        with self._lock:
            course = self._courses.of(effect.conversation, effect.flow, effect.now_us) if effect.conversation else Course()
        return course._replace(judged=self._routers.judge(effect.feature, effect.text)) if effect.text else course

    def note(self, effect: Note) -> None:
        if effect.tally is not None:
            self._routers.count(effect.feature, *effect.tally)
        if not effect.conversation:
            return
        with self._lock:
            self._courses.note(effect.conversation, effect.flow, effect.course, effect.full, effect.paid)


class Routers:
    """The trained routers beside the ledger, read when their feature first asks. Bounded; used longest ago goes first."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._loaded: OrderedDict[str, tuple[router.Router, Watch] | None] = OrderedDict()
        self._tallies: dict[str, route.Tally] = {}  # of the features above
        self._lock = threading.Lock()

    def count(self, feature: str, gross: int, own: int) -> None:
        """A call that went where the router sent it. One that loses turns itself off until the process starts anew."""
        with self._lock:
            if feature in self._loaded:
                tally = self._tallies.get(feature, route.Tally())
                self._tallies[feature] = tally.add(gross, wasted=own, escalated=own > 0 and not gross)

    def judge(self, feature: str, text: str) -> tuple[str, str]:
        """(tier, why) for this text; both empty where the feature has no router."""
        if self._folder is None or not feature or "/" in feature or feature.startswith("."):
            return "", ""
        with self._lock:
            if feature not in self._loaded:
                self._loaded[feature] = self._load(self._folder / f"{feature}.router")
                if len(self._loaded) > ROUTERS_MAX:
                    gone, _ = self._loaded.popitem(last=False)
                    self._tallies.pop(gone, None)
            loaded = self._loaded[feature]
            if loaded is None:
                return "", ""
            verdict = router.judge(*loaded, text)
            why = route.losing(self._tallies.get(feature, route.Tally()))
        if why:
            return "standard", "router:off, it loses"
        if verdict.refused:
            return "standard", "router:stands back"
        return ("premium" if verdict.dear else "cheap"), f"router:{verdict.score:.3f}"

    def _load(self, path: Path) -> tuple[router.Router, Watch] | None:
        try:
            made = router.load(path.read_bytes())
        except (OSError, ValueError):  # none was trained, or one for another version: the tier without a router serves
            return None
        return made, Watch(made.trained)
