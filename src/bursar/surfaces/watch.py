"""The clockwork: expires holds, compacts, judges alarms, sends what is due. Beside a gateway as its child, or by itself.

One of several leads, by a lease in the ledger's file. What it was about to do when it died, the next one does."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from .. import drive
from ..domain.alarm import Delivery, Notice
from ..domain.policy import Policy
from ..rules.alarm_judge import MINUTE_US
from ..rules.alarm_policy import channels_of, length
from ..stores import alarms, incidents, segments
from ..stores.fault import OF_DISK, LedgerFault
from ..stores.query import Query, compile_filter
from ..stores.reader import Reader
from ..stores.schema import Place, connect, opened, transaction
from ..stores.writer import Ledger
from . import bell, gate, handoff, links, settings, wiring
from .watch_judge import Bench, Step, Told, advance
from .watch_words import KINDS, Reason, compose, digest, message_of, reason

log = logging.getLogger("bursar.watch")

LAG_US = 5_000_000  # a row is in the ledger so soon after its try ended
BACK_US = 120_000_000  # a clock that went back by more makes the judges begin anew
TIDY_S = 3600.0
OUTCOMES_S = 900.0  # between two looks at what shorter histories do to outcomes
AT_ONCE = 10  # deliveries that one channel gets in a row
REASONED = 50  # notices of one round whose reason is looked for: of more, hearing in time matters more
BURST_US = 300_000_000  # in which a channel for people is told so many alarms one by one, and more as one message
SEND_S = 0.5  # between two looks into the outbox

T = TypeVar("T")


class Watch:
    """One clockwork. `cycle` is one round of everything; `run` goes round until told to stop. `step` is told what was just done
    (tests stop there)."""

    def __init__(
        self, path: str | Path, config: str | Path | None = None, *, policy: Policy | None = None,
        clock_us: Callable[[], int] = wiring.now_us, step: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.path, self._clock_us, self._step = Path(path), clock_us, step
        self._config = Path(config) if config else None
        self._stamp: tuple[object, ...] | None = None
        self.policy = Policy() if policy is None else policy
        if policy is None:
            self._reload()
        Place.at(path).file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ledger = Ledger.open(path, node="watch", clock_us=clock_us, mode="watch")
        self._connection = connect(Place.at(path), busy_ms=5_000)
        self.lead = alarms.Lead(self._connection)
        self.leads = False
        self._bench: Bench | None = None
        self._compact_at = time.monotonic() + self.policy.ledger.compact_every_s
        self._tidy_at = self._outcomes_at = 0.0
        self._compacting: threading.Thread | None = None
        self.bell = Bell(self)

    # -- one round ---------------------------------------------------------------------------------------------------------

    def cycle(self, *, send: bool = True) -> None:
        """Whatever is due. A chore that fails is logged and comes again; it does not stop the others."""
        self._chore("policy", self._reload)
        self.leads = self._chore("lease", self._hold_lease) or False
        if not self.leads:
            self._bench = None  # whoever led meanwhile has judged on
            return
        self._chore("holds", lambda: self._ledger.recover())
        self._chore("alarms", self.judge)
        if send:
            self._chore("outbox", self.bell.send_due)
        self._chore("compact", self._compact)
        self._chore("outcomes", self._outcomes)
        self._chore("tidy", self._tidy)

    def _chore(self, name: str, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except alarms.Lost:
            self.leads, self._bench = False, None
        except (LedgerFault, settings.BadPolicy, *OF_DISK) as fault:
            log.warning("%s: %s", name, fault)
        except Exception:
            if drive.raise_faults:
                raise
            log.exception("%s: a fault of our own; it comes again", name)
        return None

    def _reload(self) -> None:
        """A changed policy counts from the next round on; a bad one leaves the last good one in force."""
        if self._config is None:
            return
        first = self._stamp is None
        try:
            stamp = settings.stamp(self._config)
        except OSError:
            stamp = ()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.policy, _ = settings.load(self._config)
        except settings.BadPolicy as bad:
            if first:
                raise
            log.warning("policy not reloaded, the last good one stays: %s", bad)
            return
        self._bench = None

    def _hold_lease(self) -> bool:
        return self.lead.hold(self._clock_us())

    def judge(self) -> Step | None:
        """Every minute that has ended since the last time, and what is to be told of it, in one transaction."""
        now = self._clock_us()
        until = (now - LAG_US) // MINUTE_US
        judged = alarms.beat(self._connection).judged // MINUTE_US
        if not judged or judged * MINUTE_US > now + BACK_US:
            # The first time: no alarm is about what was before. A clock that went back: what it said then was wrong.
            self._bench = None
            alarms.commit(self._connection, self.lead, (), (), (), until * MINUTE_US, now)
            return None
        if until <= judged:
            return None
        with Reader(self.path, skip_damaged=True) as reader:
            bench = self._bench
            if bench is None or bench.minute != judged:
                bench = Bench(self.policy, judged, lambda rule: alarms.judgements(self._connection, rule))
                bench.warm(reader)
            self._bench = None  # a fault leaves it half-way: the next round begins from the rows
            self._step("warm")
            silences = alarms.silences(self._connection, judged * MINUTE_US)
            done = advance(bench, reader, until, alarms.open_ones(self._connection), silences, self._connection)
            self._step("judged")
            notices = [self._notice(told, reader, place < REASONED) for place, told in enumerate(done.told)]
        self._step("worded")
        alarms.commit(self._connection, self.lead, done.changed, done.gone, notices, until * MINUTE_US, now)
        self._step("committed")
        self._bench = bench
        return done

    def _notice(self, told: Told, reader: Reader, explained: bool) -> Notice:
        standing, at = told.standing, told.standing.said
        why = self._chore("why", lambda: reason(reader, standing, at)) if explained and told.kind != "resolved" else None
        watch = self.policy.watch
        key = links.key(watch, self.path) if watch.url else b""
        message = compose(standing, told.kind, at, why or Reason(), watch.url, key, length(watch.link_ttl, "link_ttl"))
        channels = channels_of(told.rule, told.scope, dict(self.policy.owners), tuple(self.policy.channels))
        return Notice(message.id, standing.id, told.kind, at, msgspec.json.encode(message).decode(), channels)

    def _compact(self) -> None:
        every = self.policy.ledger.compact_every_s
        if every <= 0 or time.monotonic() < self._compact_at or (self._compacting and self._compacting.is_alive()):
            return
        self._compact_at = time.monotonic() + every
        self._compacting = threading.Thread(target=self._chore, args=("compact", self.compact), name="bursar-compact", daemon=True)
        self._compacting.start()

    def compact(self) -> None:
        """The tail into segments."""
        segments.compact(self.path, clock_us=self._clock_us)

    def _outcomes(self) -> None:
        """Flows that solve fewer with shorter histories are sent whole from now on."""
        if not gate.on(self.policy.compact) or time.monotonic() < self._outcomes_at:
            return
        self._outcomes_at = time.monotonic() + OUTCOMES_S
        now = self._clock_us()
        condition = compile_filter(Query(since_us=now - gate.LOOKS_BACK_US))
        with Reader(self.path, skip_damaged=True) as reader:
            found = gate.gates(reader, condition, self.policy.spend.resolved, gate.lifts(self._connection))
        for one in gate.shut(self._connection, found, now):
            log.warning("compaction is off for flow %s: %s", one.flow, one.told)

    def _tidy(self) -> None:
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_S
            now, keep = self._clock_us(), self.policy.retention
            alarms.tidy(self._connection, self.lead, now, length(keep.alarms, "alarms"))
            incidents.forget(self._connection, now)
            done = incidents.LOT
            while done == incidents.LOT:
                with transaction(self._connection):
                    self.lead.check()
                    done = incidents.sum_up(self._connection, now - length(keep.incidents, "incidents"))

    # -- for ever ----------------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Round and round. Sending has a thread of its own: a channel that hangs does not hold up the judging."""
        sender = threading.Thread(target=self.bell.run, args=(stop,), name="bursar-bell", daemon=True)
        sender.start()
        while not stop.is_set():
            self.cycle(send=False)
            stop.wait(max(0.2, self.policy.watch.every_s))
        sender.join(self.bell.longest_s + 2)
        if self._compacting is not None:
            self._compacting.join(30)
        self.close()

    def close(self) -> None:
        """Give the lease back; another may lead at once."""
        with contextlib.suppress(apsw.Error, LedgerFault):
            self.lead.leave()
        self._connection.close(True)
        self._ledger.close()


class Bell:
    """Takes what is due from the outbox to its channels: each channel in turn, all at the same time."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._busy: set[str] = set()
        self._ended: queue.SimpleQueue[tuple[Delivery, bell.Delivered | bell.Failed] | str] = queue.SimpleQueue()

    @property
    def longest_s(self) -> float:
        return max((c.timeout_s for c in self._watch.policy.channels.values()), default=0.0) + bell.GRACE_S

    def run(self, stop: threading.Event) -> None:
        with opened(self._watch.path) as connection:
            lead = alarms.Lead(connection, mine=self._watch.lead.mine)
            while not stop.is_set():
                if self._watch.leads:
                    self._watch._chore("hand-off", lambda: self._hand_off(connection))
                    self._watch._chore("outbox", lambda: self._round(connection, lead))
                stop.wait(SEND_S)
            self._watch._chore("outbox", lambda: self._collect(connection, self.longest_s))

    def _hand_off(self, connection: apsw.Connection) -> None:
        watch = self._watch
        handoff.hand_off(connection, watch.policy, watch._clock_us(), lambda: Reader(watch.path, skip_damaged=True))

    def send_due(self) -> None:
        """What is due now, and waits for what comes of it: a round by hand."""
        self._hand_off(self._watch._connection)
        while self._round(self._watch._connection, self._watch.lead):
            self._collect(self._watch._connection, self.longest_s)

    def _round(self, connection: apsw.Connection, lead: alarms.Lead) -> int:
        self._collect(connection, 0.0)
        now = self._watch._clock_us()
        told = alarms.told_since(connection, now - BURST_US, (*KINDS, "digest"))
        found: dict[str, list[Delivery]] = {}
        gathered: list[alarms.Gathered] = []
        for channel, due in alarms.due(connection, now).items():
            if channel in self._busy:
                continue
            going, together = self._share_out(channel, due, told.get(channel, 0))
            if together:
                made = digest([message_of(one.message) for one in together], channel, now)
                notice = Notice(made.id, "", made.kind, now, msgspec.json.encode(made).decode(), (channel,))
                gathered.append(alarms.Gathered(notice, tuple(together)))
                going = [Delivery(notice.id, notice.kind, channel, notice.message, 0, now), *going]
            if going:
                found[channel] = going[:AT_ONCE]
        if not found:
            return 0
        going = [delivery for each in found.values() for delivery in each]
        alarms.trying(connection, lead, going, now, gathered)
        self._watch._step("trying")
        for channel, each in found.items():
            self._busy.add(channel)
            threading.Thread(target=self._take, args=(channel, each), name=f"bursar-bell-{channel}", daemon=True).start()
        return len(going)

    def _share_out(self, channel: str, due: list[Delivery], told: int) -> tuple[list[Delivery], list[Delivery]]:
        """What goes by itself and what goes as one message. Alarms that fit neither wait until the burst is over. What was tried
        before goes as it did then: it may have arrived."""
        known = handoff.channel(self._watch.policy, channel)
        alone = bell.alone(channel, known) if known is not None else 0
        if not alone:
            return due, []
        fresh = [one for one in due if not one.attempts and one.kind in KINDS]
        others = [one for one in due if one.attempts or one.kind not in KINDS]
        room = alone - told
        if len(fresh) <= room:
            return due, []
        return (others, fresh) if room > 0 else (others, [])

    def _take(self, name: str, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            found = self._watch._chore("send", lambda delivery=delivery: self._deliver(name, delivery))
            failed = bell.Failed("fault", "a fault of our own", "the log has the details")
            self._ended.put((delivery, found or failed))
        self._ended.put(name)

    def _deliver(self, name: str, delivery: Delivery) -> bell.Delivered | bell.Failed:
        channel = handoff.channel(self._watch.policy, name)
        if channel is None:
            return bell.Failed("no_channel", f"there is no channel {name!r} in the policy", "write [channels.…], or name another")
        try:
            address = bell.address(name, channel)
        except settings.BadPolicy as bad:
            return bell.Failed("bad_channel", str(bad), "mend the channel")
        return bell.deliver(address, message_of(delivery.message))

    def _collect(self, connection: apsw.Connection, wait_s: float) -> None:
        """What came of the deliveries that have ended; with `wait_s`, of those under way too."""
        until = time.monotonic() + wait_s * (AT_ONCE if wait_s else 1)
        while self._busy or not self._ended.empty():
            try:
                got = self._ended.get(timeout=max(0.0, until - time.monotonic())) if wait_s else self._ended.get_nowait()
            except queue.Empty:
                return
            if isinstance(got, str):
                self._busy.discard(got)
                continue
            delivery, found = got
            self._watch._step("sent")
            now = self._watch._clock_us()
            good = isinstance(found, bell.Delivered)
            detail = found.detail if isinstance(found, bell.Delivered) else f"{found.code}: {found.reason}"
            later = 0 if isinstance(found, bell.Delivered) else round(found.retry_after_s * 1e6)
            alarms.ended(connection, delivery, detail, now, delivered=good, retry_after_us=later)
            if not good:
                log.warning("%s was not told of %s: %s", delivery.channel, delivery.notice, detail)


def watch(path: str | Path, config: str | Path | None, *, under_gateway: bool = False, every_s: float | None = None) -> int:
    """Go round until SIGTERM or SIGINT, or until the process that started this one is gone; the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if under_gateway:

        def mind_parent() -> None:
            while sys.stdin.buffer.read(1):
                pass
            stop.set()

        threading.Thread(target=mind_parent, daemon=True).start()
    made = Watch(path, config)
    if every_s is not None:
        made.policy = msgspec.structs.replace(made.policy, watch=msgspec.structs.replace(made.policy.watch, every_s=every_s))
    made.run(stop)
    return 0


def main(arguments: list[str]) -> int:
    """`python -m bursar.surfaces.watch LEDGER [CONFIG]`: the gateway's child."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        return watch(arguments[0], arguments[1] if len(arguments) > 1 else None, under_gateway=True)
    except (settings.BadPolicy, LedgerFault) as fault:
        print(f"bursar watch: {fault}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
