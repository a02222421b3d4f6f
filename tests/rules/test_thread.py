"""Which conversation a request belongs to: said outright, by its messages, by parts of them; and never across tenants."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recorded_agents
import threading_replay as replays
from bursar.domain.call import Asked
from bursar.domain.thread import CUT, FAILED, GOOD, MALFORMED, Ask, Heard, Placed
from bursar.rules.thread import follow, heard
from bursar.stores.threads import Threads
from bursar.wire.history import Signs
from bursar.wire.openai_history import reply
from wire.talks import Human, Says, Talk, asked, body, messages

SECOND = 1_000_000
HI = Human("Where is my parcel?")
LOOK = Says("", (("lookup", {"order": "A-1"}, "shipped", False),))
SHIPPED = Says("It was shipped.")


class Client:
    """A stateless client: sends a conversation's messages, and is answered."""

    def __init__(self, index: Threads | None = None, tenant: str = "acme", name: str = "openai_chat") -> None:
        self.index = Threads() if index is None else index
        self.tenant, self.name, self.now, self.calls = tenant, name, 0, 0
        self.signs = Signs()

    def asks(self, talk: Talk, **more: Any) -> Placed:
        self.now += more.pop("after", 1) * SECOND
        self.calls += 1
        name = more.pop("name", self.name)
        data = more.pop("data", None) or body(name, more.pop("sent", None) or messages(name, talk), system=more.pop("system", ""))
        history = asked(name, data, self.signs).history
        assert history is not None
        call = f"{self.tenant}-{self.calls}"
        return follow(self.index, Ask(more.pop("tenant", self.tenant), call, self.now, history, body=more.pop("body", hash(data) & 0xFFFF), model=more.pop("model", "m"), **more))

    def answered(self, placed: Placed, said: Says | None, outcome: int = GOOD, why: str = "", response: str = "") -> None:
        told = None
        if said is not None:
            told = reply(said.text, [(f"call_{n}", tool, arguments) for n, (tool, arguments, _, _) in enumerate(said.calls)], apart=self.name == "openai_responses")
        heard(self.index, Heard(placed, outcome, why, told, response, bool(response), self.now))

    def says(self, talk: Talk, said: Says, **more: Any) -> Placed:
        placed = self.asks(talk, **more)
        self.answered(placed, said)
        return placed


# --- one client ---


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages", "gemini_generate"])
def test_a_request_that_extends_an_earlier_one_belongs_to_its_conversation(name: str) -> None:
    """With turns, depth since the last human message and tool results in all."""
    client = Client(name=name)
    first = client.says((HI,), LOOK)
    second = client.says((HI, LOOK), SHIPPED)
    third = client.says((HI, LOOK, SHIPPED, Human("And the other?")), LOOK)
    fourth = client.asks((HI, LOOK, SHIPPED, Human("And the other?"), LOOK))
    assert (first.by, second.by, third.by, fourth.by) == ("new", "chain", "chain", "chain")
    assert len({p.conversation for p in (first, second, third, fourth)}) == 1 and first.conversation == "acme-1"
    assert [(p.turns, p.depth, p.calls) for p in (first, second, third, fourth)] == [(1, 0, 0), (1, 1, 1), (2, 0, 1), (2, 1, 2)]
    assert not fourth.ambiguous and third.after is not None and third.after.call == "acme-2"


def test_only_a_conversation_that_nobody_names_is_marked_for_other_processes() -> None:
    """Its first reply, so that its next request is known anywhere; one that the client names is known by that name."""
    for explicit, marks in (("", 1), ("mine", 0)):
        client = Client(Threads(shelf=lambda keys: {}))
        placed = client.asks((HI,), explicit=explicit)
        left = heard(client.index, Heard(placed, GOOD, "", reply("", [("call_0", "lookup", {"order": "A-1"})]), "", False, client.now))
        assert [mark.conversation for mark in left] == [placed.conversation] * marks
        assert client.asks((HI, LOOK), explicit=explicit).conversation == placed.conversation
        assert client.asks((HI, LOOK)).conversation == placed.conversation, "in the same process also without its name"


def test_it_goes_on_in_another_api_under_another_model_and_system_prompt() -> None:
    """The client's own fallback sends the same messages in another dialect."""
    client = Client()
    one = client.says((HI,), LOOK, system="Be brief. It is Monday.")
    two = client.asks((HI, LOOK), name="anthropic_messages", model="other", system="Be kind.")
    assert two.conversation == one.conversation and two.by == "chain"


def test_an_explicit_id_wins_and_its_counts_are_kept() -> None:
    """Two agents under one session are one conversation; a history that was dropped is counted on from what was booked."""
    client = Client()
    one = client.says((HI,), LOOK, explicit="s-1")
    two = client.says((HI, LOOK), SHIPPED, explicit="s-1")
    other = client.says((Human("Summarise the report."),), Says("Done."), explicit="s-1")
    again = client.asks((Human("Summarise the report."), Says("Done."), Human("Shorter.")), explicit="s-1")
    assert {p.conversation for p in (one, two, other, again)} == {"s-1"}
    assert {p.by for p in (one, two, other, again)} == {"explicit"}
    assert two.calls == 1 and again.calls == 1 and again.turns >= 3
    assert client.asks((HI,), explicit="s-2").conversation == "s-2"


def test_what_is_new_is_counted_on_where_nothing_says_how_far_it_had_come() -> None:
    """A person's word after a tool's answer begins depth anew; an opening that is sent once more says nothing new."""
    client = Client()
    client.says((HI,), LOOK, explicit="s-1", body=1)
    deep = client.says((Human("Do it."), LOOK), SHIPPED, explicit="s-1")
    told = client.says((Human("Another."), LOOK, Human("Stop, please.")), SHIPPED, explicit="s-1")
    assert [(p.turns, p.depth, p.calls) for p in (deep, told)] == [(1, 1, 1), (2, 0, 2)]
    client.says((HI,), LOOK, explicit="s-2", body=1)
    assert client.asks((HI,), explicit="s-2", body=2).turns == 1


def test_the_same_again_carries_nothing_on() -> None:
    """The request before it in its conversation is not what it answers to: it is that request once more."""
    client = Client()
    client.says((HI,), LOOK, explicit="s-1")
    first = client.says((HI, LOOK), SHIPPED, explicit="s-1")
    again = client.asks((HI, LOOK), explicit="s-1")
    assert first.after is not None and first.again is None
    assert again.again is not None and again.again.call == "acme-2" and again.after is None


def test_a_response_is_carried_on_by_its_id() -> None:
    """The provider keeps the history: turns, results and the pairs that loops are looked for in come from what was booked."""
    client = Client(name="openai_responses")
    one = client.asks((HI,))
    client.answered(one, LOOK, response="resp_1")
    ident = "resp_1"
    for n in range(2, 9):
        said = [{"type": "function_call_output", "call_id": "call_0", "output": "shipped"}]
        placed = client.asks((), sent=said, previous=ident)
        assert placed.conversation == one.conversation and placed.by == "response"
        assert (placed.turns, placed.depth, placed.calls) == (1, n - 1, n - 1)
        ident = f"resp_{n}"
        client.answered(placed, LOOK, response=ident)
    assert placed.pairs.run == 7 and set(placed.pairs.names) == {"lookup"}
    assert client.asks((), sent=[{"role": "user", "content": "hi"}], previous="resp_of_somebody").by == "new"


def test_a_repeated_request_after_a_failure_is_the_same_wish() -> None:
    """Also of an opening, and by another model; after a good answer an opening is somebody else's."""
    client = Client()
    one = client.asks((HI,), body=7)
    client.answered(one, None, FAILED, "5xx")
    two = client.asks((HI,), body=7)
    assert two.conversation == one.conversation and two.by == "again"
    assert two.again is not None and (two.again.call, two.again.outcome, two.again.why, two.again.body) == ("acme-1", FAILED, "5xx", True)
    client.answered(two, None, CUT)
    three = client.asks((HI,), body=8, model="other", name="anthropic_messages")
    assert three.by == "again" and three.again is not None and not three.again.body and three.again.model == "m"
    client.answered(three, SHIPPED)
    assert client.asks((HI,), body=7).by == "new"
    assert client.asks((HI,), body=7, retried=True).by == "again"


@pytest.mark.parametrize("explicit", ["", "c-9"])
def test_a_repeated_request_is_the_same_wish_also_where_the_provider_keeps_the_history(explicit: str) -> None:
    """The same message after the same response; after another response it is a new one. Also of a response that nobody knows."""
    client = Client(name="openai_responses")
    first = client.asks((HI,), explicit=explicit)
    client.answered(first, SHIPPED, response="resp_1")
    for known in ("resp_1", "resp_of_yesterday"):
        cut = client.asks((Human("When?"),), previous=known, explicit=explicit)
        client.answered(cut, None, CUT)
        once_more = client.asks((Human("When?"),), previous=known, explicit=explicit)
        assert cut.again is None and once_more.again is not None and once_more.again.outcome == CUT
        assert once_more.conversation == cut.conversation and once_more.turns == cut.turns
        client.answered(once_more, Says("On Monday."), response=f"{known}_2")
        later = client.asks((Human("When?"),), previous=f"{known}_2", explicit=explicit)
        assert later.again is None and later.conversation == cut.conversation and later.turns == cut.turns + 1


def test_an_opening_that_was_never_answered_counts_as_failed_after_a_while() -> None:
    """Its process may be gone, or its client: nobody booked it."""
    client = Client()
    one = client.asks((HI,))
    assert client.asks((HI,)).conversation != one.conversation
    assert client.asks((HI,), after=3600).by == "again"


def test_sending_a_history_once_more_changes_no_counts() -> None:
    client = Client()
    client.says((HI,), LOOK)
    two = client.says((HI, LOOK), SHIPPED, body=5)
    again = client.asks((HI, LOOK), body=5)
    assert (again.conversation, again.by, again.calls, again.turns) == (two.conversation, "again", 1, 1)


# --- many clients ---


def test_openings_that_are_the_same_part_at_their_second_turn() -> None:
    """A thousand, in one tenant; answered each in other words. None is ambiguous."""
    score = replays.replay(replays.opening(1000, ["I am agent #, hello."]), Threads())
    assert (score.share, score.wrong, score.twins, score.unsure, score.conversations) == (1.0, 0, 0, 0, 1000)


def test_openings_and_answers_that_are_the_same_are_given_out_one_by_one() -> None:
    """Nobody can tell which is which, so each is claimed once: counts stay right, and all are flagged."""
    score = replays.replay(replays.opening(1000, ["Hello."]), Threads())
    assert score.conversations == 1000 and score.wrong == 0 and score.off == 0
    assert score.unsure == 2000 and score.twins < 1000


def test_nothing_is_ever_found_across_tenants() -> None:
    """The same messages, ids, replies, response ids and long texts, to the letter."""
    index = Threads()
    task = "Find out why the parcel A-1 was not delivered on Monday."
    one, other = Client(index, "acme", "openai_responses"), Client(index, "other", "openai_responses")
    hand = Says("", (("delegate", {"task": task}, "r", False),))
    for client in (one, other):
        first = client.asks((HI,), explicit="")
        client.answered(first, hand, response="resp_1")
        assert first.conversation == f"{client.tenant}-1" and first.by == "new"
    assert other.asks((HI, hand)).conversation == "other-1"
    assert other.asks((), sent=[{"role": "user", "content": "x"}], previous="resp_1").conversation == "other-1"
    assert other.asks((Human(task),)).parent == "other-1"
    third = Client(index, "third", "openai_responses")
    assert third.asks((Human(task),)).parent == ""
    assert third.asks((), sent=[{"role": "user", "content": "x"}], previous="resp_1").by == "new"
    assert third.asks((HI, hand)).by == "new" and Client(index, "fourth").asks((HI, hand, SHIPPED, HI)).by == "new"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), tenants=st.integers(2, 4), trim=st.sampled_from([replays.whole, replays.last(6), replays.middle(5)]))
def test_tenants_with_the_same_conversations_are_never_merged(seed: int, tenants: int, trim: replays.Trim) -> None:
    """Whatever is dropped of their histories, and whatever the tenants are called."""
    chance = random.Random(seed)
    runs = [
        recorded_agents.Run(f"r{n}", "x", True, f"task {n % 2}", tuple(
            recorded_agents.Step(f"step {s}", (recorded_agents.Call("f", f'{{"n": {s % 3}}}', f"r{s % 2}"),), 0.0) for s in range(chance.randint(3, 9))
        )) for n in range(4) for _ in range(tenants)
    ]  # fmt: skip
    score = replays.replay([replays.ready(run) for run in runs], Threads(), seed=seed, tenants=tenants, trim=trim)
    assert score.across == 0


def test_a_tenants_name_is_part_of_the_key_to_the_letter() -> None:
    index = Threads()
    names = ["", "a", "A", "a ", "a\0", "ä", "\ud800", "a" * 300, "a" * 301]
    for name in names:
        assert Client(index, name).says((HI,), LOOK).by == "new"
        assert Client(index, name).asks((HI, LOOK)).by == "chain"
    assert len(index) == len(names)


# --- histories that were changed ---


def dropped(talk: Sequence[Any], number: int) -> list[dict[str, Any]]:
    said = messages("openai_chat", tuple(talk))[-number:]
    while said[0]["role"] == "tool":
        said = said[1:]
    return said


def test_a_history_whose_front_was_dropped_is_counted_on() -> None:
    """An agent that keeps its last eight messages works for thirty steps: depth and turns are what was booked."""
    client = Client()
    talk: list[Any] = [HI]
    first = client.says(tuple(talk), Says("", (("f", {"n": 0}, "r0", False),)))
    for n in range(30):
        talk.append(Says("", (("f", {"n": n}, f"r{n}", False),)))
        placed = client.says(tuple(talk), Says("", (("f", {"n": n + 1}, f"r{n + 1}", False),)), sent=dropped(talk, 8), body=n)
        assert placed.conversation == first.conversation, (n, placed.by)
        assert (placed.turns, placed.depth, placed.calls) == (1, n + 1, n + 1)
    assert placed.by == "window" and len(placed.pairs.names) > 4


def test_a_loop_whose_front_was_dropped_is_still_counted() -> None:
    """The same call and result for ever, in a window of six: every request shows the same messages, only the ids differ."""
    client = Client()
    step = Says("", (("f", {}, "nothing", False),))
    talk: list[Any] = [HI]
    client.says((HI,), step)
    for n in range(40):
        talk.append(step)
        placed = client.says(tuple(talk), step, sent=dropped(talk, 6), body=n)
        assert placed.conversation == "acme-1" and placed.calls == n + 1
    assert placed.pairs.run >= 30


def test_a_history_whose_middle_was_dropped_or_masked_is_known() -> None:
    """First two and last six messages; old results replaced by a stub."""
    client = Client()
    talk: list[Any] = [HI]
    for n in range(12):
        step = Says("", (("f", {"n": n}, f"result {n}", False),))
        said = messages("openai_chat", tuple(talk))
        masked = [m | {"content": "[elided]"} if m["role"] == "tool" and at < len(said) - 3 else m for at, m in enumerate(said)]
        placed = client.says(tuple(talk), step, sent=masked, body=n)
        assert placed.conversation == "acme-1", (n, placed.by)
        talk.append(step)
    cut = messages("openai_chat", tuple(talk))
    assert client.asks(tuple(talk), sent=[*cut[:3], *cut[-6:]]).conversation == "acme-1"


def test_a_history_that_begins_with_a_summary_of_itself_is_the_same_conversation() -> None:
    """The summary was a reply in it; something was put around it."""
    client = Client()
    talk = (HI, LOOK, SHIPPED, Human("Summarise our conversation so far, please."))
    client.says((HI,), LOOK)
    client.says((HI, LOOK), SHIPPED)
    summary = "\n".join(["The customer asks where the parcel of order A-1 is.", "It was shipped, as the lookup tool has said, and is on its way."] * 2)
    four = client.says(talk, Says(summary))
    five = client.asks((Human(f"This session is continued. Summary:\n{summary}\nGo on from there."),))
    assert five.conversation == four.conversation and five.by == "summary" and five.turns == four.turns + 1


def test_a_sub_agent_has_a_conversation_of_its_own_and_a_parent() -> None:
    """It begins with a text that its parent's reply gave to a tool."""
    client = Client()
    tasks = [f"Look into parcel number {n} and report what happened to it." for n in range(3)]
    one = client.says((HI,), Says("", tuple(("delegate", {"prompt": task}, "r", False) for task in tasks)))
    subs = [client.asks((Human(task),)) for task in tasks]
    assert len({one.conversation, *(s.conversation for s in subs)}) == 4
    assert {s.parent for s in subs} == {one.conversation}
    assert client.asks((Human("Something else, that nobody was told to do."),)).parent == ""


def test_a_branch_from_an_earlier_turn_stays_in_its_conversation() -> None:
    """A person edits what she said, or an agent tries two ways at once."""
    client = Client()
    client.says((HI,), SHIPPED)
    one = client.says((HI, SHIPPED, Human("When?")), Says("On Monday."))
    other = client.asks((HI, SHIPPED, Human("By whom?")))
    assert other.conversation == one.conversation and not other.ambiguous


def test_tools_that_failed_lately_are_remembered_for_three_calls_of_the_turn() -> None:
    client = Client()
    bad = Says("", (("flaky", {}, "Error: down", False),))
    talk: list[Any] = [HI]
    client.says((HI,), bad)
    talk.append(bad)
    ages = []
    for n in range(5):
        placed = client.says(tuple(talk), Says("", (("other", {"n": n}, "ok", False),)))
        ages.append([(f.tool, f.calls) for f in placed.failing])
        talk.append(Says("", (("other", {"n": n}, "ok", False),)))
    assert ages == [[("flaky", 0)], [("flaky", 1)], [("flaky", 2)], [("flaky", 3)], []]
    talk.append(bad)
    assert client.says(tuple(talk), SHIPPED).failing
    assert client.asks((*talk, SHIPPED, Human("Never mind."))).failing == ()


def test_an_answer_that_made_somebody_ask_again_in_the_same_words_is_no_answer_next_time() -> None:
    """An empty or broken one by its kind, a program's exit code by what it said; of the same tool, for the same tenant."""
    client = Client()

    def doubts(tool: str, answer: str, tenant: str = "acme", order: str = "B") -> list[bool]:
        told = Says("", ((tool, {"order": order}, answer, False),))
        return [bool(one.doubt) for one in client.asks((Human(f"Order {order}?"), told), tenant=tenant).failed]

    def asks_again(tool: str, answer: str) -> None:
        told = Says("", ((tool, {"order": "A"}, answer, False),))
        client.says((HI, told), told)

    broken, down, red = '{"id": "A-1", "sta', *(f'{{"output": "{said}", "exit_code": 1}}' for said in ("down", "2 failed"))
    for tool, answer, alike, others in (("look", broken, '{"id": "B-22", "st', ("", down)), ("read", "", "null", (broken,)), ("run", down, down, (red, broken))):
        assert doubts(tool, alike) == [True], tool
        asks_again(tool, answer)
        assert doubts(tool, alike, order="C") == [False], tool
        assert doubts(tool, alike, "corvid") == doubts(tool + "_too", alike) == [True], tool
        assert [doubts(tool, other) for other in others] == [[True]] * len(others), tool


def test_an_answer_that_was_taken_for_one_stays_one() -> None:
    """Nothing found, and something else asked for."""
    client = Client()
    nothing = Says("", (("search", {"q": "a"}, "", False),))
    client.says((HI, nothing), Says("", (("search", {"q": "b"}, "", False),)))
    client.says((HI, nothing), SHIPPED)
    assert [bool(one.doubt) for one in client.asks((Human("And?"), nothing)).failed] == [True]


# --- recorded runs ---


@pytest.fixture(scope="module")
def tau(data_dir: Path) -> list[replays.Talk]:
    return [replays.ready(run) for run in recorded_agents.tau(data_dir)]


@pytest.fixture(scope="module")
def swe(data_dir: Path) -> list[replays.Talk]:
    return [replays.ready(run) for run in recorded_agents.swe(data_dir)]


@pytest.mark.parametrize("trim", [replays.whole, replays.last(12), replays.middle(8)], ids=["whole", "front dropped", "middle dropped"])
def test_recorded_customer_service_is_told_apart(tau: list[replays.Talk], trim: replays.Trim) -> None:
    """279 conversations at once in one tenant, several trials of each task: at least 99.5% of their calls, none across."""
    score = replays.replay(tau, Threads(), trim=trim)
    assert score.share >= 0.995 and score.twins < 0.04 * score.requests, score
    assert replays.replay(tau + tau, Threads(), trim=trim, tenants=2).across == 0


@pytest.mark.parametrize("trim", [replays.whole, replays.last(12)], ids=["whole", "front dropped"])
def test_recorded_coding_runs_are_told_apart(swe: list[replays.Talk], trim: replays.Trim) -> None:
    """838 runs at once, three and five of each task."""
    score = replays.replay(swe, Threads(), trim=trim)
    assert score.share >= 0.995 and score.twins < 10, score
    if trim is replays.whole:
        assert score.off == 0


@pytest.mark.fuzz
@pytest.mark.parametrize("trim", [replays.whole, replays.last(20), replays.middle(12)], ids=["whole", "front dropped", "middle dropped"])
def test_recorded_multi_agent_runs_are_told_apart(data_dir: Path, trim: replays.Trim) -> None:
    """341 runs of up to 735 calls."""
    talks = [replays.ready(run) for run in recorded_agents.vorflux(data_dir)]
    score = replays.replay(talks, Threads(), trim=trim)
    assert score.share >= 0.995, score


@pytest.mark.fuzz
def test_ten_thousand_at_once_are_told_apart(tau: list[replays.Talk], swe: list[replays.Talk]) -> None:
    score = replays.replay(((tau + swe) * 9)[:10_000], Threads(1 << 30), tenants=9)
    assert score.share >= 0.995 and score.across == 0 and score.conversations == 10_000, score


def test_two_workers_with_indexes_of_their_own_do_no_harm(tau: list[replays.Talk]) -> None:
    """Without a shared index each worker makes up conversations of its own; what it places is still placed rightly, and never
    across (the shared one is in tests/stores/test_threads.py)."""
    first = Threads()
    score = replays.replay(tau, first, indexes=[first, Threads()], tenants=3)
    assert score.across == 0


def test_malformed_is_an_outcome_that_the_next_request_may_repair() -> None:
    client = Client()
    one = client.asks((HI,))
    client.answered(one, Says("{broken"), MALFORMED)
    two = client.asks((HI, Says("{broken"), Human("That was not JSON.")))
    assert two.conversation == one.conversation and two.after is not None and two.after.outcome == MALFORMED
    assert isinstance(asked("openai_chat", body("openai_chat", messages("openai_chat", (HI,)))), Asked)
