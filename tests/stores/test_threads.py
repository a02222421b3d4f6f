"""Conversations in bounded memory, and shared by processes on one ledger: forgotten whole, found again, never across tenants."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

import recorded_agents
import threading_replay as replays
from bursar.domain.entry import Entry, Settlement
from bursar.domain.history import History
from bursar.domain.thread import GOOD, Ask, Found, Heard, Landmark, Placed
from bursar.rules.thread import follow, heard
from bursar.stores import threads
from bursar.stores.schema import Place
from bursar.stores.threads import Shelf, Threads
from bursar.stores.writer import Ledger
from bursar.wire.openai_history import reply
from wire.talks import Human, Says, Talk, history

NOW = 1_795_000_000_000_000
DAY = 24 * 3_600_000_000


def told(talk: Talk) -> History:
    return history("openai_chat", talk)


def once(index: Threads, talk: Talk, said: Says, call: str = "c", tenant: str = "acme", at: int = NOW) -> tuple[Placed, tuple[Landmark, ...]]:
    placed = follow(index, Ask(tenant, call, at, told(talk), model="m", body=hash(str(talk)) & 0xFFFF))
    answer = reply(said.text, [(f"call_{n}", tool, given) for n, (tool, given, _, _) in enumerate(said.calls)])
    return placed, heard(index, Heard(placed, GOOD, "", answer, "", False, at))


def step(n: int) -> Says:
    return Says("", (("f", {"n": n}, f"result number {n}", False),))


# --- memory ---


def test_what_a_conversation_takes_is_what_it_is_said_to_take() -> None:
    """Within a third, by what Python has taken for two thousand of them; whatever their length."""
    stories = [[told((Human(f"go {t}"), *[step(t * 100 + s) for s in range(n)])) for n in range(4)] for t in range(500)]
    answers = [[reply("", [("call_0", "f", {"n": t * 100 + n})]) for n in range(4)] for t in range(500)]
    index = Threads()
    gc.collect()
    tracemalloc.start()
    for t, story in enumerate(stories):
        for n, h in enumerate(story):
            placed = follow(index, Ask("acme", f"call-{t}-{n}", NOW + n, h, model="m", body=n))
            heard(index, Heard(placed, GOOD, "", answers[t][n], "", False, NOW + n))
    del placed
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index) == 500
    assert index.bytes * 0.66 < taken < index.bytes * 1.34, (taken / 500, index.bytes / 500)
    assert index.bytes / 500 < 3_500, "bytes a live conversation, as the documentation says"


def test_the_index_is_bounded_and_forgets_whole_conversations_the_idle_first() -> None:
    index = Threads(bytes_max=60_000)
    once(index, (Human("kept"),), step(0), "kept")
    for n in range(200):
        once(index, (Human(f"go {n}"),), step(n), f"c{n}")
        once(index, (Human("kept"), *[step(i) for i in range(n % 3 + 1)]), step(n % 3 + 1), "x")
    assert index.bytes <= 60_000 and index.forgotten > 150
    assert once(index, (Human("kept"), step(0)), step(1))[0].conversation == "kept"
    assert once(index, (Human("go 3"), step(3)), step(4))[0].by == "new"
    assert len(index._heads) < 150, "no key of a forgotten conversation is left"


def test_a_thousand_twins_cost_no_search() -> None:
    """Each claim, each put and each forgetting is a step or two, however many conversations stand at one key."""
    spent = []
    for number in (50, 2_000):
        index = Threads()
        h, answer = told((Human("hello"),)), reply("hi", ())
        for n in range(number):
            heard(index, Heard(follow(index, Ask("acme", f"c{n}", NOW, h, body=n)), GOOD, "", answer, "", False, NOW))
        after = [told((Human("hello"), Says("hi"), Human(f"I am {n}"))) for n in range(50)]
        each = []
        for n, second in enumerate(after):
            start = time.perf_counter_ns()
            follow(index, Ask("acme", f"d{n}", NOW, second, body=n))
            each.append(time.perf_counter_ns() - start)
        spent.append(sorted(each)[len(each) // 4])
    assert spent[1] < 4 * spent[0]


def test_a_conversation_of_the_day_before_yesterday_is_over() -> None:
    index = Threads()
    once(index, (Human("go"),), step(0), "old")
    for n in range(3):
        once(index, (Human(f"other {n}"),), step(0), f"n{n}", at=NOW + 3 * DAY)
    assert once(index, (Human("go"), step(0)), step(1), "again", at=NOW + 3 * DAY)[0].conversation == "again"


# --- shared ---


class Worker:
    """A process on a ledger, as far as conversations go."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(folder, clock_us=lambda: NOW)
        self.shelf = Shelf(self.ledger.place, DAY, lambda: NOW)
        self.threads = Threads(shelf=self.shelf.find)
        self.rows = 0

    def says(self, talk: Talk, said: Says, call: str, tenant: str = "acme") -> Placed:
        placed, landmarks = once(self.threads, talk, said, call, tenant)
        self.rows += len(landmarks)
        row = Entry(f"{call}.1", NOW, call, 1, tenant=tenant, conversation=placed.conversation)
        self.ledger.book(Settlement(f"{call}.1", row, (), (), landmarks))
        return placed

    def close(self) -> None:
        self.shelf.close()
        self.ledger.close()


@pytest.fixture
def workers(tmp_path: Path):
    made = [Worker(tmp_path), Worker(tmp_path)]
    yield made
    for worker in made:
        worker.close()


def test_another_worker_knows_a_conversation_by_its_opening(workers: list[Worker]) -> None:
    """Its next request goes there: same conversation, same counts, one look at the file."""
    one, other = workers
    first = one.says((Human("go"),), step(0), "a1")
    one.says((Human("go"), step(0)), step(1), "a2")
    third = other.says((Human("go"), step(0), step(1)), step(2), "b1")
    assert third.conversation == first.conversation == "a1" and third.by == "shared"
    assert (third.turns, third.calls) == (1, 2)
    looked = other.threads.looked_up
    assert other.says((Human("go"), step(0), step(1), step(2)), step(3), "b2").by == "chain"
    assert other.threads.looked_up == looked, "no second look"
    assert one.says((Human("go"), *[step(n) for n in range(4)]), step(4), "a3").conversation == "a1"


def test_a_restarted_process_goes_on_where_it_was(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    one.says((Human("go"),), step(0), "a1")
    one.close()
    again = Worker(tmp_path)
    assert again.says((Human("go"), step(0)), step(1), "b1").conversation == "a1"
    again.close()


def test_a_first_request_looks_nothing_up(workers: list[Worker]) -> None:
    """Only a history that nobody here knows is worth a look at the file."""
    for n in range(5):
        workers[0].says((Human(f"go {n}"),), step(n), f"a{n}")
    assert workers[0].threads.looked_up == 0


def test_other_tenants_lines_are_not_found(workers: list[Worker]) -> None:
    one, other = workers
    one.says((Human("go"),), step(0), "a1", tenant="acme")
    assert other.says((Human("go"), step(0)), step(1), "b1", tenant="else").by == "new"
    assert other.says((Human("go"), step(0)), step(1), "b2", tenant="acme").conversation == "a1"


def test_a_dropped_front_is_found_by_another_worker_with_its_counts(workers: list[Worker]) -> None:
    """Windows chosen by their digests on both sides: some among the last dozen messages are always marked."""
    one, other = workers
    talk: list[Human | Says] = [Human("go")]
    for n in range(20):
        one.says(tuple(talk[-7:] if n > 8 else talk), step(n), f"a{n}")
        talk.append(step(n))
    found = other.says(tuple(talk[-14:]), step(20), "b")
    assert found.conversation == "a0" and found.by == "shared" and found.calls == 20


def test_openings_that_two_conversations_have_are_nobodys(workers: list[Worker]) -> None:
    """Known to be several, so a third worker does not guess: a conversation of its own, flagged as ambiguous."""
    one, other = workers
    one.says((Human("hello"),), Says("hi"), "a1")
    other.says((Human("hello"),), Says("hi"), "b1")
    third = Worker(one.ledger.place.file.parent)
    found = third.says((Human("hello"), Says("hi"), Human("I am new")), step(0), "c1")
    assert found.by == "new" and found.ambiguous
    third.close()


def test_an_index_that_cannot_be_read_makes_new_conversations_and_no_noise(tmp_path: Path) -> None:
    missing = Threads(shelf=Shelf(Place.at(tmp_path / "nowhere"), DAY, lambda: NOW).find)
    assert once(missing, (Human("go"), step(0)), step(1), "x")[0].by == "new"


def test_lines_are_few_and_the_oldest_go(workers: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one a call, whatever the length of the conversation; the table is bounded."""
    monkeypatch.setattr(threads, "KEPT", 40)
    monkeypatch.setattr(threads, "SWEEP", 16)
    one = workers[0]
    calls = 0
    for t in range(20):
        talk: list[Human | Says] = [Human(f"go {t}")]
        for n in range(10):
            one.says(tuple(talk), step(t * 50 + n), f"a{t}-{n}")
            talk.append(step(t * 50 + n))
            calls += 1
    assert one.rows < calls
    kept = one.shelf.ask(lambda c: c.execute("SELECT count(*), min(n) FROM threads").fetchall(), [])
    assert kept[0][0] < 40 + 2 * 16 and kept[0][1] > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_a_file_of_its_own(workers: list[Worker]) -> None:
    one = workers[0]
    one.says((Human("go"),), step(0), "a1")
    fresh = Threads(shelf=one.shelf.find)
    assert once(fresh, (Human("go"), step(0)), step(1), "x")[0].conversation == "a1"
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = once(Threads(shelf=one.shelf.find), (Human("go"), step(0)), step(1), "y")[0].conversation == "a1"
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert one.shelf._connection is None, "closed before the fork"
    assert once(Threads(shelf=one.shelf.find), (Human("go"), step(0)), step(1), "z")[0].conversation == "a1"


class Together:
    """Recorded runs over several workers: each request goes to one of them by chance, marks are seen by all at once."""

    def __init__(self, number: int) -> None:
        self.lines: dict[bytes, Landmark] = {}
        self.workers = [Threads(shelf=self.find) for _ in range(number)]

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Found]:
        return {key: Found(m.conversation, m.turns, m.depth, m.calls) for key in keys if (m := self.lines.get(key))}

    def keep(self, landmarks: tuple[Landmark, ...]) -> None:
        for mark in landmarks:
            before = self.lines.get(mark.key)
            if before is not None and before.conversation != mark.conversation:
                mark = Landmark(mark.key, "", mark.turns, mark.depth, mark.calls, mark.at_us)
            self.lines[mark.key] = mark


@pytest.mark.parametrize("trim", [replays.whole, replays.last(16)], ids=["whole", "front dropped"])
def test_recorded_runs_over_three_workers_stay_whole(data_dir: Path, trim: replays.Trim) -> None:
    """Coding runs, one of each task (several of one task begin alike, and only one worker could tell those apart)."""
    seen: set[str] = set()
    runs = [run for run in recorded_agents.swe(data_dir) if run.opening not in seen and not seen.add(run.opening)]
    together = Together(3)
    score = replays.replay([replays.ready(run) for run in runs[:150]], together.workers[0], trim=trim, indexes=together.workers, keep=together.keep)
    assert score.share >= 0.99 and score.across == 0, score
