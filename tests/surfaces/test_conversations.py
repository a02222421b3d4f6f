"""Conversations as they are told: every figure is what the rows say, the timeline adds up, and one glance is enough."""

from __future__ import annotations

import json
import tempfile
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bursar
import demo_rows
import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.money import PICO, plain
from bursar.domain.usage import Tokens
from bursar.stores.reader import Reader
from bursar.surfaces import conversations
from bursar.surfaces.periods import Period
from commands import Run
from ledger_rows import DAY, END, HOUR, entry

RESOLVED = {True: "resolved", False: "gave up"}


def past() -> list[Entry]:
    """Sixty conversations of one to fifteen turns that grow; long ones seldom end well. Two calls a turn, some cost outside."""
    chance = Random(7)
    rows: list[Entry] = []
    for talk in range(60):
        turns = 1 + talk % 15
        for turn in range(1, turns + 1):
            for step in range(2):
                read = 1000 + 1500 * turn + chance.randrange(200)
                said = {"team": "red", **({"outcome": RESOLVED[turns < 9]} if turn == turns and step and talk % 4 else {})}
                row = entry(
                    len(rows), END - DAY + talk * 60_000_000 + turn * 1_000_000 + step, Tokens(input=read, output=100), "gpt-5",
                    conversation=f"talk-{talk:02d}", turn=turn, tool_depth=step, tenant="acme", labels=json.dumps(said),
                )  # fmt: skip
                part = row.cost_input or 0
                rows.append(
                    row._replace(cost_new=part // 4, cost_history=part - part // 4 - part // 8, cost_tools=0, cost_system=part // 8)
                )
    rows.append(entry(9000, END - HOUR, Tokens(input=5000), "gpt-5-mini"))
    return rows


@pytest.fixture(scope="module")
def rows() -> list[Entry]:
    return past()


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, rows: list[Entry]) -> Path:
    folder = tmp_path_factory.mktemp("talks") / "ledger"
    ledger_rows.write(folder, rows)
    return folder


def told(run: Run, book: Path, *words: object) -> dict:
    return json.loads(run("conversations", "--json", "--ledger", book, *words).stdout)


def by_talk(rows: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for row in rows:
        if row.conversation:
            found.setdefault(row.conversation, []).append(row)
    return found


def cost(rows: list[Entry]) -> int:
    return sum(row.cost or 0 for row in rows)


def at(values: list[int], share: float) -> int:
    """The discrete quantile: the smallest value that so large a share is not above."""
    values = sorted(values)
    return values[max(0, -(-int(len(values) * share * 100) // 100) - 1)]


def test_the_figures_are_what_the_rows_say(run: Run, book: Path, rows: list[Entry]) -> None:
    made, talks = told(run, book, "--top", "100"), by_talk(rows)
    assert (made["conversations"], made["calls"]) == (60, len(rows) - 1)
    assert made["cost"] == plain(sum(map(cost, talks.values())))
    assert made["outside"] == {"calls": 1, "cost": plain(rows[-1].cost or 0)}
    turns = [max(row.turn or 0 for row in talk) for talk in talks.values()]
    assert (made["turns"]["p50"], made["turns"]["max"]) == (at(turns, 0.5), 15)
    costs = sorted((cost(talk) for talk in talks.values()), reverse=True)
    assert made["cost_each"]["max"] == plain(costs[0])
    assert [(tail["conversations"], tail["cost"]) for tail in made["tails"]] == [(1, plain(costs[0])), (3, plain(sum(costs[:3])))]
    assert [row["cost"] for row in made["rows"]] == [plain(one) for one in costs]


def test_the_curve_has_each_turn_and_adds_up(run: Run, book: Path, rows: list[Entry]) -> None:
    made, talks = told(run, book), by_talk(rows)
    for one in made["curve"]:
        there = [talk for talk in talks.values() if any(row.turn == one["turn"] for row in talk)]
        mine = [row for talk in there for row in talk if row.turn == one["turn"]]
        assert (one["reached"], one["calls"]) == (len(there), len(mine))
        assert one["cost"] == plain(cost(mine))
        assert one["first"] == plain(cost([row for talk in there for row in talk if row.turn == 1]))
        assert one["so_far"] == plain(cost([row for talk in there for row in talk if row.turn <= one["turn"]]))
        assert sum(Decimal(one[name]) for name in ("new", "history", "tools", "system", "output")) == Decimal(one["cost"])
    assert sum(Decimal(one["cost"]) for one in made["curve"]) == Decimal(made["cost"])
    first = {one["turn"]: Decimal(one["cost"]) / Decimal(one["first"]) for one in made["curve"]}
    assert made["knee"] == next(turn for turn, times in first.items() if times >= 2)


def test_a_resolved_conversation_pays_for_the_failed_ones(run: Run, book: Path, rows: list[Entry]) -> None:
    """Twelve turns cost more than a person: those conversations never ended well. What nobody judged is in no rate."""
    made, talks = told(run, book, "--human-cost", "$1"), by_talk(rows)
    ends = {name: json.loads(talk[-1].labels).get("outcome", "") for name, talk in talks.items()}
    known = [cost(talk) for name, talk in talks.items() if ends[name]]
    solved = sum(end == "resolved" for end in ends.values())
    assert made["cost_per_resolved"] == plain(sum(known) // solved)
    assert sorted(one["conversations"] for one in made["outcomes"]) == sorted(
        sum(end == name for end in ends.values()) for name in ("", "resolved", "gave up")
    )
    last_resolved = max(len(talks[name]) // 2 for name, end in ends.items() if end == "resolved")
    assert made["not_worth_from_turn"] is not None and 1 < made["not_worth_from_turn"] <= last_resolved + 1
    assert told(run, book, "--human-cost", "500")["not_worth_from_turn"] == last_resolved + 1
    assert told(run, book)["not_worth_from_turn"] is None
    assert told(run, book, "--resolved", "gave up", "--resolved", "resolved")["cost_per_resolved"] == plain(sum(known) // len(known))


def test_the_policy_says_what_a_person_costs(run: Run, book: Path) -> None:
    Path("bursar.toml").write_text('[spend]\nhuman_cost = "$0.05"\nresolved = ["gave up"]\n', "utf-8")
    made = told(run, book)
    assert made["human_cost"] == "0.05"
    assert {one["name"]: one["resolved"] for one in made["outcomes"]} == {"gave up": True, "resolved": False, "": False}
    assert "--human-cost" in run("conversations", "--ledger", book, "--human-cost", "a lot", code=2).stderr


def test_a_conversation_is_told_call_by_call_and_adds_up(run: Run, book: Path, rows: list[Entry]) -> None:
    mine = by_talk(rows)["talk-14"]
    made = json.loads(run("conversation", "talk-14", "--json", "--ledger", book).stdout)
    assert [row["call"] for row in made["rows"]] == [row.call for row in mine]
    assert (made["cost"], made["calls"], made["turns"]) == (plain(cost(mine)), len(mine), 15)
    assert made["rows"][-1]["so_far"] == made["cost"]
    assert sum(Decimal(row["cost"]) for row in made["rows"]) == Decimal(made["cost"])


def test_the_beginning_of_an_id_is_enough_where_it_names_one(run: Run, book: Path) -> None:
    assert "talk-59: " in run("conversation", "talk-59", "--ledger", book).stdout
    assert "talk-50, talk-51" in run("conversation", "talk-5", "--ledger", book, code=2).stderr
    assert "no conversation 'nobody'" in run("conversation", "nobody", "--ledger", book, code=2).stderr
    assert "no conversation ''" in run("conversation", "", "--ledger", book, code=2).stderr


def test_without_conversations_it_says_so(run: Run, book: Path) -> None:
    assert "No call is part of a conversation there." in run("conversations", "--ledger", book, "--where", "tenant=nobody").stdout
    assert told(run, book, "--where", "tenant=nobody")["rows"] == []


def test_a_notebook_gets_rows(run: Run, book: Path, rows: list[Entry]) -> None:
    found = bursar.conversations(ledger=book, top=3, where={"team": "red"})
    dearest = max(by_talk(rows).items(), key=lambda one: cost(one[1]))
    assert (found[0]["conversation"], found[0]["cost"]) == (dearest[0], Decimal(cost(dearest[1])) / PICO)
    assert len(found) == 3 and found[0]["last"] > found[0]["first"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "ledger"
    demo_rows.write(folder)
    return folder


def test_calls_that_are_alike_are_one_line(run: Run, demo: Path) -> None:
    """The demo's runaway is 240 calls, and three lines to read."""
    text = run("conversation", "runaway", "--ledger", demo).stdout
    assert "236 calls" in text and "agents going" in text
    assert len(text.splitlines()) < 24
    everything = run("conversation", "runaway", "--all", "--ledger", demo).stdout
    assert everything.count("1 call") == 240


@pytest.mark.parametrize("words", [("conversations",), ("conversation", "runaway"), ("conversation", "research-2610-00346")])
def test_people_read_it_at_eighty_columns(run: Run, demo: Path, words: tuple[str, ...]) -> None:
    assert max(map(len, run(*words, "--ledger", demo).stdout.splitlines())) <= 84


@st.composite
def odd_rows(draw: st.DrawFn) -> list[Entry]:
    """Conversations with gaps, hundreds of turns, second tries without a first, credits, corrections, and ends."""
    rows: list[Entry] = []
    for n in range(draw(st.integers(1, 16))):
        kind = draw(st.sampled_from(["first", "first", "retry", "correction"]))
        cost = draw(st.sampled_from([None, 0, 0, 3, 500, 10**12, -500 if kind == "correction" or draw(st.booleans()) else 7]))
        said = draw(st.sampled_from(["", "", "", "resolved", "gave up"]))
        row = entry(n, END - HOUR + n, Tokens(input=1), "gpt-5", conversation=draw(st.sampled_from(["", "a", "b", "c", "d", "e"])))
        rows.append(row._replace(
            turn=draw(st.sampled_from([None, 1, 1, 1, 2, 2, 2, 60, 61, 499, 700])), try_no={"first": 1, "retry": 2}.get(kind) or draw(st.integers(1, 2)), attempt_kind=kind,
            flags=draw(st.sampled_from(["named", "unnamed", "", "named-refused"])) if kind == "correction" else "", cost=cost,
            cost_input=cost, cost_new=cost, labels=json.dumps({"outcome": said} if said else {}),
        ))  # fmt: skip
    for row in draw(st.lists(st.sampled_from(rows), max_size=4)):  # named away, perhaps to nothing
        less = None if row.cost is None else -row.cost
        rows.append(row._replace(id=f"{row.id}-{len(rows)}", attempt_kind="correction", flags="unnamed", cost=less, cost_input=less, cost_new=less))
    return rows


@settings(max_examples=120, deadline=None)
@given(odd_rows())
def test_a_curve_is_what_reading_every_conversation_comes_to(rows: list[Entry]) -> None:
    """However odd the turns are: conversations that are added up together come to the same as one by one."""
    with tempfile.TemporaryDirectory() as folder:
        ledger_rows.write(Path(folder) / "ledger", rows)
        with Reader(Path(folder) / "ledger") as reader:
            made = conversations.overview(reader, (), Period())
    talks: dict[str, dict[int, tuple[int, int]]] = {}
    for name, talk in by_talk(rows).items():
        steps: dict[int, tuple[int, int]] = {}
        for row in talk:
            named = row.flags in ("named", "named-refused")
            calls = (row.try_no == 1) * ((row.attempt_kind != "correction" or named) - (row.flags == "unnamed"))
            at = min(1 if row.turn is None else row.turn, 500)
            had = steps.get(at, (0, 0))
            steps[at] = (had[0] + calls, had[1] + (row.cost or 0))
        if any(map(sum, zip(*steps.values()))):
            talks[name] = {at: step for at, step in steps.items() if any(step)}
    if made is None:
        assert not talks
        return
    assert (made.conversations, made.cost) == (len(talks), sum(m for steps in talks.values() for _, m in steps.values()))
    wanted = []
    for at in sorted({at for steps in talks.values() for at in steps}):
        there = [steps for steps in talks.values() if at in steps]
        so_far = sum(m for steps in there for turn, (_, m) in steps.items() if turn <= at)
        wanted.append((at, len(there), sum(steps[at][0] for steps in there), sum(steps[at][1] for steps in there),
                       sum(steps[min(steps)][1] for steps in there), so_far))  # fmt: skip
    assert [(one.turn, one.reached, one.calls, one.cost, one.first, one.so_far) for one in made.curve] == wanted
