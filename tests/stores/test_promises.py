"""What any ledger promises: the same tests on the SQLite one and on the one in memory, and chance to compare the two."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bursar.domain.entry import Held, Short
from bursar.domain.shape import replace
from bursar.stores.check import check
from bursar.stores.memory import MemoryLedger
from bursar.stores.segments import compact
from bursar.stores.writer import Ledger

from .books import NANO, Clocks, charge, die, entry, hold, opened, settle


class World:
    """A ledger under test, and how its process dies."""

    def __init__(self, kind: str, path: Path) -> None:
        self.clocks, self.path = Clocks(), path
        self.ledger: Ledger | MemoryLedger = MemoryLedger(self.clocks.wall) if kind == "memory" else opened(path, self.clocks)

    def crash(self) -> None:
        """The process that holds is killed; another one opens the ledger later."""
        if isinstance(self.ledger, MemoryLedger):
            self.ledger.abandon()
            self.ledger.recover()
            return
        die(self.ledger)
        self.clocks.lapse()
        self.ledger = opened(self.path, self.clocks)

    def standing(self, counter: str) -> tuple[int, int]:
        found = self.ledger.counters().get(counter)
        return (found.spent, found.held) if found else (0, 0)


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    yield made
    made.ledger.close()


def test_a_hold_sets_money_aside_on_every_counter(world):
    assert world.ledger.hold(hold("a.1", [charge("day", 40, 100), charge("tenant|x", 40, 50)])) == Held(left=(1, 10))
    assert (world.standing("day"), world.standing("tenant|x")) == ((0, 40), (0, 40))


def test_a_hold_that_fits_exactly_fits_and_one_more_does_not(world):
    assert world.ledger.hold(hold("a.1", [charge("day", 100, 100)])) == Held(left=(0, 0))
    short = world.ledger.hold(hold("b.1", [charge("day", 1, 100)]))
    assert isinstance(short, Short)
    assert (short.charge.counter, short.spent, short.held) == ("day", 0, 100)


def test_a_short_hold_holds_nothing_anywhere(world):
    """All charges fit or none is held: the first counter must not keep what the second refused."""
    short = world.ledger.hold(hold("a.1", [charge("wide", 10, 100), charge("tight", 10, 9)]))
    assert short == Short(charge("tight", 10, 9), 0, 0)
    assert (world.standing("wide"), world.standing("tight")) == ((0, 0), (0, 0))


def test_soft_and_limitless_charges_only_count(world):
    charges = [charge("soft", 10, 5, hard=False), charge("open", 10, None)]
    assert world.ledger.hold(hold("a.1", charges)) is None
    assert (world.standing("soft"), world.standing("open")) == ((0, 10), (0, 10))


def test_a_charge_of_nothing_fits_a_budget_that_is_used_up(world):
    world.ledger.hold(hold("a.1", [charge("day", 100, 100)]))
    assert world.ledger.hold(hold("b.1", [charge("day", 0, 100)])) == Held(left=(0, 0))


def test_the_same_counter_twice_in_one_hold_counts_twice(world):
    assert world.ledger.hold(hold("a.1", [charge("day", 60, 100), charge("day", 60, 100)])) is not None
    assert world.standing("day") == (0, 0)


def test_booking_writes_the_row_and_settles_the_hold(world):
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.ledger.book(settle(held, [25]))
    assert world.standing("day") == (25, 0)
    assert world.ledger.rows() == [entry("a.1")]


def test_a_settlement_without_charges_uses_those_of_its_hold(world):
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.ledger.book(replace(settle(held, [25]), charges=()))
    assert world.standing("day") == (25, 0)


def test_a_row_dearer_than_its_hold_is_booked_as_it_was(world):
    """Never a row denied because the estimate was low: the overrun shows, and the next hold is refused."""
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.ledger.book(settle(held, [250]))
    assert world.standing("day") == (250, 0)
    assert world.ledger.hold(hold("b.1", [charge("day", 1, 100)])) is not None


def test_a_row_booked_twice_is_there_once(world):
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.ledger.book(settle(held, [25]))
    world.ledger.book(settle(held, [25]))
    assert world.standing("day") == (25, 0)
    assert len(world.ledger.rows()) == 1


def test_holding_again_what_is_held_changes_nothing(world):
    held = hold("a.1", [charge("day", 40, 100)])
    assert world.ledger.hold(held) == Held(left=(0, 60))
    assert world.ledger.hold(held) is None
    assert world.standing("day") == (0, 40)


def test_a_row_without_a_hold_counts_too(world):
    """An import, a call let through while the ledger could not hold, a correction."""
    world.ledger.book(settle(hold("a.1", [charge("day", 40)]), [25]))
    world.ledger.book(settle(hold("b.1")))
    assert world.standing("day") == (25, 0)
    assert [row.id for row in world.ledger.rows()] == ["a.1", "b.1"]


def test_releasing_gives_back_and_leaves_no_row(world):
    world.ledger.hold(hold("a.1", [charge("day", 40, 100)]))
    world.ledger.release("a.1")
    world.ledger.release("a.1")
    assert world.standing("day") == (0, 0)
    assert world.ledger.rows() == []


def test_the_holds_of_a_dead_process_become_unknown_rows_at_their_hold(world):
    world.ledger.hold(hold("a.1", [charge("day", 40, 100)], tenant="acme"))
    world.crash()
    assert world.standing("day") == (40, 0)
    (row,) = world.ledger.rows()
    assert (row.status, row.ended, row.cost, row.cost_other, row.price_status, row.usage_source, row.tenant) == (
        "unknown", "failed", 9_000 * NANO, 9_000 * NANO, "estimated", "unknown", "acme",
    )  # fmt: skip


def test_a_hold_without_a_price_becomes_a_row_without_a_cost_not_a_free_one(world):
    world.ledger.hold(hold("a.1", amount=0))
    world.crash()
    (row,) = world.ledger.rows()
    assert (row.cost, row.price_status, row.status) == (None, "unpriced", "unknown")


def test_a_late_settle_becomes_a_correction_and_only_one(world):
    """Unknown at the hold plus the correction is what the try really cost, in the rows and on the counter."""
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.crash()
    world.ledger.book(settle(held, [25]))
    world.ledger.book(settle(held, [25]))
    assert world.standing("day") == (25, 0)
    first, second = world.ledger.rows()
    assert (second.corrects, second.attempt_kind, second.status) == ("a.1", "correction", "correction")
    assert first.cost + second.cost == entry("a.1").cost
    assert first.cost_other + second.cost_other == 0
    assert (second.input, second.output) == (10, 4)


def test_a_late_settle_whose_cost_nobody_knows_leaves_the_charge_standing(world):
    held = hold("a.1", [charge("day", 40, 100)])
    world.ledger.hold(held)
    world.crash()
    world.ledger.book(settle(held, [40], cost=None))
    assert world.standing("day") == (40, 0)
    assert sum(row.cost or 0 for row in world.ledger.rows()) == 9_000 * NANO


NAMES = ("day", "tenant|a", "tenant|b", "conversation|x")


class Machine(RuleBasedStateMachine):
    """Chance: hold, book, book again, die, reopen, compact. The ledger must stand where the one in memory stands."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="bursar-promises-"))
        self.model = MemoryLedger()
        self.clocks = Clocks()
        self.real = opened(self.folder, self.clocks)
        self.made: list = []
        self.booked: list = []

    def teardown(self) -> None:
        self.reopen()  # what is still held becomes rows
        self.real.close()
        compact(self.folder, everything=True, clock_us=self.clocks.wall)
        findings = check(self.folder, self.clocks.wall).findings
        shutil.rmtree(self.folder)
        assert findings == ()

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=3), amount=st.integers(0, 60))
    def take(self, names, amount):
        held = hold(f"h{len(self.made)}.1", [charge(n, amount, 200) for n in names], amount=amount * NANO)
        result = self.real.hold(held)
        assert result == self.model.hold(held)
        if not isinstance(result, Short):
            self.made.append(held)

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 99), used=st.integers(0, 80))
    def finish(self, which, used):
        held = self.made[which % len(self.made)]
        settlement = settle(held, [used] * len(held.charges), cost=used * NANO)
        if held.id not in {s.id for s in self.booked}:
            self.booked.append(settlement)
        self.real.book(settlement)
        self.model.book(settlement)

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 99))
    def let_go(self, which):
        held = self.made[which % len(self.made)]
        self.real.release(held.id)
        self.model.release(held.id)

    @rule()
    def crash(self):
        die(self.real)
        self.clocks.lapse()
        self.real = opened(self.folder, self.clocks)
        self.model.abandon()
        self.model.recover()

    @rule()
    def reopen(self):
        self.real.close()
        self.real = opened(self.folder, self.clocks)
        self.model.abandon()
        self.model.recover()

    @invariant()
    def stands_where_the_model_stands(self):
        ours = {name: (s.spent, s.held) for name, s in self.real.counters().items()}
        theirs = {name: (s.spent, s.held) for name, s in self.model.counters().items()}
        for name in ours.keys() | theirs.keys():
            assert ours.get(name, (0, 0)) == theirs.get(name, (0, 0)), name
        assert sorted(self.real.rows()) == sorted(self.model.rows())


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, phases=(Phase.generate,))
TestMachine = Machine.TestCase
