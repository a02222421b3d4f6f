"""What a process remembers so that the next call is cheaper: kept replies, calls in flight, conversations' courses, routers."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path

from ..domain.reply import Kept, Likely
from ..effects import Consult, Keep, Liken, Note, Sampled, Seek, Sorted, Turn
from ..ports import PENDING
from ..rules import flight, near, near_vectors, route, router
from ..rules.certify import Certificate
from ..rules.course import Course, Courses
from ..rules.familiar import Watch
from ..rules.near_walls import Walls
from ..stores.judgements import Judged, Judgements
from ..stores.replies import BYTES_MAX, FileReplies, MemoryReplies

UNWRITTEN_MAX = 10_000  # replies on their way to the file; further ones are in memory only
ROUTERS_MAX = 200
FAILED_MOST, RESTS_US = 3, 60_000_000  # a classifier that failed so often in a row is left alone for a minute
DELTA = near.Setting().delta
AUDITED = 13  # of 256 near-duplicates that could be served so many are asked all the same: or nothing would ever be found wrong
HOPELESS_US = 30 * 86_400_000_000  # what had too many wrong answers is looked at again after so long

Wake = Callable[[object], None]


class Savings:
    """All of them. Memory is asked first and the file behind it; what is kept is written by a thread of its own."""

    def __init__(self, folder: Path | None = None, bytes_max: int = BYTES_MAX, on_disk: bool = False) -> None:
        self._folder = folder
        self._memory = MemoryReplies(bytes_max)
        self._file: FileReplies | None = None
        self._walls = Walls()
        self._judgements = Judgements(folder / "near.db" if folder is not None else None)
        self.reloaded(bytes_max, on_disk)
        self._routers = Routers(folder / "routers" if folder is not None else None)
        self._classifiers = Classifiers()
        self._courses = Courses()
        self._doubted: set[bytes] = set()  # scopes with a wrong answer that is not written yet
        self._flights = flight.Flights()
        self._waiting: dict[tuple[bytes, str], tuple[Wake, Turn]] = {}
        # Reentrant: a turn is dropped wherever the collector finds it.
        self._lock = threading.RLock()
        self._unwritten: queue.SimpleQueue[Keep | Sampled | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def reloaded(self, bytes_max: int, on_disk: bool) -> None:
        """As the policy in force has it. A file that is open stays so: another policy may want it again."""
        self._memory.hold(bytes_max)
        if self._file is not None:
            self._file.hold(bytes_max)
        elif on_disk and self._folder is not None:
            self._file = FileReplies(self._folder / "replies.db", bytes_max)

    # -- replies ---------------------------------------------------------------------------------------------------------

    def seek(self, effect: Seek, wake: Wake | None) -> object:
        found = tuple([self._find(effect.wall, key, effect.now_us) for key in effect.keys])
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

    def _find(self, wall: str, key: bytes, now_us: int) -> Kept | None:
        kept = self._memory.get(wall, key, now_us)
        if kept is None and self._file is not None:
            kept = self._file.get(wall, key, now_us)
            if kept is not None:
                self._memory.put(wall, key, kept, now_us)
        return kept

    def keep(self, effect: Keep) -> None:
        for key, kept in effect.kept:
            self._memory.put(effect.wall, key, kept, effect.now_us)
        if self._file is not None and self._unwritten.qsize() < UNWRITTEN_MAX:
            self._put(effect)
        framed = effect.framed
        if framed is not None:
            with self._lock:
                self._walls.add(effect.wall, framed.frame, effect.kept[0][0], framed.text, framed.vector)
        turn = effect.turn
        if turn is not None and turn.over is not None:
            key, kept = effect.kept[0]
            self._land(key, kept.call, kept, turn)

    def _put(self, effect: Keep | Sampled) -> None:
        if self._writer is None or not self._writer.is_alive():  # also after a fork
            self._writer = threading.Thread(target=self._write, name="bursar-replies", daemon=True)
            self._writer.start()
        self._unwritten.put(effect)

    def _write(self) -> None:
        while (effect := self._unwritten.get()) is not None:
            if isinstance(effect, Sampled):
                self._judge(effect)
                continue
            for key, kept in effect.kept:
                if self._file is not None:
                    self._file.put(effect.wall, key, kept, effect.now_us)

    # -- near-duplicates -------------------------------------------------------------------------------------------------

    def liken(self, effect: Liken) -> Likely:
        setting = near.Setting() if effect.framed.vector is None else near_vectors.SETTING
        judged = self._judgements.get(effect.scope)
        certificate = Certificate(judged.n, judged.wrong)
        if certificate.hopeless(setting.delta) and effect.now_us < judged.at_us + HOPELESS_US:
            return Likely(looks=False)
        if effect.ask:
            return Likely()
        frame, text, vector = effect.framed
        with self._lock:
            match = self._walls.find(effect.wall, frame, text, vector)
        if match is None or not near.fits(match, setting):
            return Likely()
        kept = self._find(effect.wall, match.name, effect.now_us)
        if kept is None:
            with self._lock:
                self._walls.drop(effect.wall, frame, match.name)
            return Likely()
        spared = blake2b(effect.call.encode(), digest_size=1).digest()[0] >= AUDITED
        return Likely(kept, effect.on and spared and effect.scope not in self._doubted and certificate.holds(setting.delta))

    def sampled(self, effect: Sampled) -> None:
        """Written by the writer's thread; a wrong one counts from now on."""
        if not effect.same:
            self._doubted.add(effect.scope)
        if self._unwritten.qsize() < UNWRITTEN_MAX:
            self._put(effect)

    def _judge(self, effect: Sampled) -> None:
        def after(judged: Judged) -> Judged:
            its = Certificate(judged.n, judged.wrong)
            if its.hopeless(DELTA) and effect.now_us >= judged.at_us + HOPELESS_US:
                its = Certificate()
            return Judged(*its.judged(effect.same, DELTA), effect.now_us)

        self._judgements.change(effect.scope, after)
        self._doubted.discard(effect.scope)

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
        self._judgements.close()

    def stats(self) -> dict[str, int]:
        near, troubles = self._walls, self._judgements.troubles
        found = {**self._memory.stats(), "unwritten": self._unwritten.qsize()}
        if self._file is not None:
            found["troubles"] = self._file.troubles
        return {**found, "troubles": found["troubles"] + troubles, "near_questions": len(near), "near_evicted": near.evicted}

    # -- conversations ---------------------------------------------------------------------------------------------------

    def consult(self, effect: Consult) -> Course:
        with self._lock:
            course = self._courses.of(effect.conversation, effect.flow, effect.now_us) if effect.conversation else Course()
        if not effect.text:
            return course
        return course._replace(
            judged=self._routers.judge(effect.feature, effect.text), quiet=self._classifiers.quiet(effect.feature, effect.now_us)
        )

    def sorted(self, effect: Sorted) -> None:
        self._classifiers.count(effect)

    def note(self, effect: Note) -> None:
        if effect.tally is not None:
            self._routers.count(effect.feature, *effect.tally)
        if not effect.conversation:
            return
        with self._lock:
            self._courses.note(effect.conversation, effect.flow, effect.course, effect.full, effect.paid)


class Classifiers:
    """How the cheap model does that is asked for tiers, feature by feature. One that loses turns itself off until the process starts
    anew; while it fails, nobody waits for it."""

    def __init__(self) -> None:
        self._tallies: OrderedDict[str, route.Tally] = OrderedDict()
        self._failed = self._rests_until_us = 0
        self._lock = threading.Lock()

    def quiet(self, feature: str, now_us: int) -> str:
        """Why it is not to be asked; empty when it is."""
        if now_us < self._rests_until_us:
            return "classifier rests, it failed"
        return f"classifier:{route.OFF}" if route.losing(self._tallies.get(feature, route.Tally())) else ""

    def count(self, effect: Sorted) -> None:
        with self._lock:
            self._failed = 0 if effect.answered else self._failed + 1
            if self._failed >= FAILED_MOST:
                self._failed, self._rests_until_us = 0, effect.now_us + RESTS_US
            tally = self._tallies.pop(effect.feature, route.Tally())
            self._tallies[effect.feature] = tally.add(
                effect.gross, effect.pico, effect.wasted, escalated=effect.wasted > 0 and not effect.gross
            )
            if len(self._tallies) > ROUTERS_MAX:
                self._tallies.popitem(last=False)


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
            return "standard", f"router:{route.OFF}"
        if verdict.refused:
            return "standard", route.STANDS_BACK
        return ("premium" if verdict.dear else "cheap"), f"router:{verdict.score:.3f}"

    def _load(self, path: Path) -> tuple[router.Router, Watch] | None:
        try:
            made = router.load(path.read_bytes())
        except (OSError, ValueError):  # none was trained, or one for another version: the tier without a router serves
            return None
        return made, Watch(made.trained)
