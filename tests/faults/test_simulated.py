"""The core in a seeded world where every step may fail, judged by the provider's invoice: nothing lost, nothing doubled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bursar.stores.check import check
from bursar.stores.reader import Reader
from stores.books import Clocks, die, opened

from .audit import findings
from .simulated import World, simulate

BLOCK = 50


class OnDisk:
    """A real ledger file, and how its process dies or stands still."""

    def __init__(self, path: Path) -> None:
        self.path, self.clocks = path, Clocks()
        self.ledger = opened(path, self.clocks)

    def crash(self) -> None:
        die(self.ledger)
        self.clocks.lapse()
        self.ledger = opened(self.path, self.clocks)

    def hang(self) -> None:
        """Another process opens the file after this one's lease, and gives up what it holds."""
        self.clocks.lapse()
        opened(self.path, self.clocks).close()

    def holds(self) -> list[str]:
        with Reader(self.path) as reader:
            return [hold.id for hold, _ in reader.holds()]


def audited(world: World) -> list[str]:
    """What the auditor finds; and what clients were told that the provider had not said."""
    return [*findings(world.books()), *[f"{name}: garbled" for name in world.garbled]]


@pytest.mark.parametrize("block", range(500 // BLOCK))
def test_whatever_fails_every_try_has_one_row_and_the_books_foot(block: int) -> None:
    """Holds refused, the ledger in trouble, connections that fail, answers that break off, clients that leave, processes that
    are killed or stand still: 500 worlds of forty calls, five at once."""
    bad = {seed: found for seed in range(block * BLOCK, (block + 1) * BLOCK) if (found := audited(simulate(seed)))}
    assert bad == {}


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_the_same_in_ten_thousand_worlds(block: int) -> None:
    """Longer ones too: each hundredth has four hundred calls."""
    for seed in range(10_000 + block * 500, 10_000 + (block + 1) * 500):
        assert (seed, audited(simulate(seed, 400 if seed % 100 == 0 else 40))) == (seed, [])


@pytest.mark.parametrize("seed", [1, 7, 10, 29])
def test_the_same_on_a_ledger_file(seed: int, tmp_path: Path) -> None:
    """With real transactions, leases and recoveries; and the ledger's own proofs find nothing either."""
    face = OnDisk(tmp_path)
    world = simulate(seed, face=face)
    assert audited(world) == []
    now = face.clocks.wall_us
    face.ledger.close()
    assert check(tmp_path, lambda: now).findings == ()


def test_the_worlds_meet_every_fault_there_is() -> None:
    """Or they would prove nothing."""
    met: set[str] = set()
    for seed in range(60):
        world = simulate(seed)
        met |= {f"line {line.why}" for line in world.provider.invoice.lines}
        met |= {f"{row.attempt_kind} {row.status} {row.ended}" for row in world.ledger.rows()}
        met |= {word for row in world.ledger.rows() for word in row.flags.split()}
        met |= {row.error for row in world.ledger.rows()}
        met |= {f"crash {world.crashes > 0}", f"hang {world.hangs > 0}", f"usage {any(r.usage_source == 'estimated' for r in world.ledger.rows())}"}
    wanted = {
        "line served", "line abandoned", "line cut", "line refused", "line reset", "first ok complete", "first ok abandoned",
        "first refused refused", "first unknown failed", "first error incomplete", "retry ok complete", "fallback ok complete",
        "correction correction complete", "correction correction failed", "fault_open", "lapsed", "late", "connect", "reset",
        "headers_timeout", "idle_timeout", "protocol", "malformed_output", "budget_exceeded", "conversation_budget_exceeded",
        "crash True", "hang True", "usage True",
    }  # fmt: skip
    assert wanted - met == set()


def test_the_same_seed_makes_the_same_world() -> None:
    """Or a failing one could not be looked at."""
    first, again = simulate(3), simulate(3)
    assert first.ledger.rows() == again.ledger.rows() and first.provider.invoice.lines == again.provider.invoice.lines


def spoilt(world: World, change: str) -> None:
    """One thing in the books put wrong, as a bug would."""
    books = world.ledger
    row = next(r for r in books.rows() if r.status == "ok" and r.usage_source == "provider")
    match change:
        case "a row lost":
            del books._rows[row.id]
        case "a cost off by one":
            books._rows[row.id] = row._replace(cost=row.cost + 1, cost_output=row.cost_output + 1)
        case "legs and cost off by one":
            legs = json.dumps([["output", 1, (row.cost + 1) * 1000, row.cost + 1]])
            books._rows[row.id] = row._replace(cost=row.cost + 1, cost_input=0, cost_cache_read=0, cost_cache_write=0, cost_other=0,
                                               cost_output=row.cost + 1, legs=legs)  # fmt: skip
        case "a hold left":
            books._holds["call0.1"] = SimpleNamespace(id="call0.1")
        case "a counter off by one":
            name, standing = next(iter(books._counters.items()))
            books._counters[name] = standing._replace(spent=standing.spent + 1)
        case "a counter with money held":
            name, standing = next(iter(books._counters.items()))
            books._counters[name] = standing._replace(held=1)
        case "a row too many":
            books._rows["call0.1"] = row._replace(id="call0.1")
        case "unknown booked as nothing":
            unknown = next(r for r in books.rows() if r.status == "unknown" and r.id in {line.ref for line in world.provider.invoice.lines})
            books._rows[unknown.id] = unknown._replace(cost=0, cost_other=0, legs="[]")
        case "a call sent though it was refused":
            refused = next(r for r in books.rows() if r.status == "refused")
            world.provider.invoice.lines.append(replace(world.provider.invoice.lines[0], ref=refused.id))


@pytest.mark.parametrize(
    "change",
    ["a row lost", "a cost off by one", "legs and cost off by one", "a hold left", "a counter off by one", "a counter with money held",
     "a row too many", "unknown booked as nothing", "a call sent though it was refused"],
)  # fmt: skip
def test_the_auditor_sees_what_is_put_wrong(change: str) -> None:
    """An auditor that finds nothing must be able to find something."""
    seeds = (seed for seed in range(200) if {"refused", "unknown"} <= {row.status for row in simulate(seed).ledger.rows()})
    world = simulate(next(seeds))
    assert audited(world) == []
    spoilt(world, change)
    assert audited(world) != []
