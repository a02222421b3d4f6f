"""Reuse: whose replies one may see, which requests and replies are meant for it, and what it would have saved."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.domain.call import Asked, Reading
from bursar.domain.labels import Labels
from bursar.domain.reply import Question
from bursar.rules import reuse
from bursar.rules.flight import FOLLOWERS_MAX, Alone, Flights, Follow, Lead, Next
from bursar.rules.reuse import Past, Setting

ON = Setting(exact=True, embeddings=True)
ZERO = Question(b"q", 0.0)


def test_a_reply_is_seen_by_its_own_tenant_alone_unless_something_is_declared() -> None:
    """No tenant and no key: nobody said whose it is, so there is nothing to share."""
    acme, globex = Labels(tenant="acme"), Labels(tenant="globex")
    assert reuse.wall(acme, "k", ON) != reuse.wall(globex, "k", ON)
    assert reuse.wall(acme, "k", ON) == reuse.wall(acme, "other key", ON)
    assert reuse.wall(Labels(), "", ON) is None
    assert reuse.wall(Labels(), "k1", ON) != reuse.wall(Labels(), "k2", ON)
    assert reuse.wall(acme, "k1", ON._replace(per="key")) != reuse.wall(acme, "k2", ON._replace(per="key"))
    assert reuse.wall(acme, "", ON._replace(per="all")) == reuse.wall(globex, "", ON._replace(per="all"))
    shared = ON._replace(shared=("faq",))
    assert reuse.wall(acme._replace(feature="faq"), "", shared) == reuse.wall(globex._replace(feature="faq"), "", shared)
    assert reuse.wall(acme._replace(feature="mail"), "", shared) != reuse.wall(globex._replace(feature="mail"), "", shared)


def test_walls_of_different_kinds_never_meet() -> None:
    """A tenant that calls itself like a feature, a key or everybody."""
    setting = ON._replace(shared=("x",), suites={"x": 1})
    walls = [
        reuse.wall(Labels(tenant="x"), "", setting), reuse.wall(Labels(), "x", setting), reuse.wall(Labels(feature="x"), "", setting),
        reuse.wall(Labels(tenant="x", feature="x", operation="eval"), "", setting), reuse.wall(Labels(), "", setting._replace(per="all")),
        reuse.wall(Labels(tenant="all"), "", setting), reuse.wall(Labels(tenant="x", feature="y", operation="eval", extra=(("suite", "x"),)), "", setting),
    ]  # fmt: skip
    assert len(set(walls)) == len(walls), walls


@given(st.lists(st.tuples(*[st.text(max_size=6)] * 2, st.binary(max_size=6), st.binary(max_size=6)), min_size=2, max_size=30, unique=True))
def test_two_lists_of_parts_never_make_one_key(parts: list) -> None:
    """However the parts run together."""
    keys = {reuse.key(wall, model, "d", "m", counted, canon) for wall, model, counted, canon in parts}
    assert len(keys) == len(parts)
    assert len({reuse.key("ab", "c", "d", "m", b"", b""), reuse.key("a", "bc", "d", "m", b"", b""), reuse.key("ab", "cd", "", "m", b"", b"")}) == 3


def test_no_tenant_is_ever_answered_with_anothers_reply_in_100_000_tries() -> None:
    """Each asks what the others have asked, with names made to run into each other."""
    names = [f"{a}{sep}{b}" for a, sep, b in product(("a", "ab", "tenant", ""), ("", "\x1f", "/", "|", "::", " "), ("b", "ba", "x", "")) if a or b][:90]
    kept = {reuse.key(reuse.wall(Labels(tenant=name), "", ON) or "", "openai", "d", "m", b"", b"question %d" % n): name
            for name in dict.fromkeys(names) for n in range(13)}  # fmt: skip
    tries = foreign = 0
    for name in dict.fromkeys(names):
        for n in range(13):
            for other in range(90):
                wall = reuse.wall(Labels(tenant=name), f"k{other}", ON) or ""
                found = kept.get(reuse.key(wall, "openai", "d", "m", b"", b"question %d" % n))
                tries += 1
                foreign += found != name
    assert tries >= 100_000 and foreign == 0


@pytest.mark.parametrize(
    ("question", "setting", "why"),
    [
        (ZERO, Setting(), "off"), (ZERO, ON, ""), (Question(b"q", 0.3), ON, "temperature 0.3"), (Question(b"q"), ON, "provider's default"),
        (Question(b"q", 0.3), ON._replace(temperature_max=0.3), ""), (Question(b"q"), ON._replace(temperature_max=1.0), ""),
        (Question(b"q", 1.9, True), ON, ""), (ZERO, ON._replace(body_max=10), "too long"),
    ],
)  # fmt: skip
def test_a_request_that_asks_for_variety_gets_a_fresh_answer(question: Question, setting: Setting, why: str) -> None:
    """Never above the request's own temperature, unless it names a seed."""
    said = reuse.refuses(Asked(), question, Labels(tenant="a"), setting, 100)
    assert (why in said) if why else said == ""


def test_what_rests_on_more_than_the_request_is_not_reused() -> None:
    """Hosted tools, a response to go on from, a picture by URL: the bytes do not say it all."""
    said = reuse.refuses(Asked(unbounded_input="an image by URL"), ZERO, Labels(), ON, 1)
    assert "an image by URL" in said
    assert reuse.refuses(Asked(embedding=True), Question(b"q"), Labels(), ON, 1) == ""
    assert reuse.refuses(Asked(embedding=True), Question(b"q"), Labels(), Setting(exact=True), 1) == "off"


def test_evals_reuse_by_suite_and_only_where_it_is_declared() -> None:
    """Whatever the temperature: that suite said so. Its replies lie apart and live as long as it says."""
    eval_ = Labels(tenant="a", feature="bot", operation="eval")
    assert "unless their suite" in reuse.refuses(Asked(), ZERO, eval_, ON, 1)
    nightly = Setting(suites={"bot": 30})
    assert reuse.refuses(Asked(), Question(b"q", 1.0), eval_, nightly, 1) == ""
    assert reuse.ttl_us(eval_, nightly) == 30 and reuse.ttl_us(Labels(), nightly) == reuse.HOUR_US
    assert reuse.wall(eval_, "", nightly) != reuse.wall(eval_._replace(operation=""), "", nightly)
    named = eval_._replace(extra=(("suite", "smoke"),))
    assert reuse.suite(named) == "smoke" and reuse.refuses(Asked(), ZERO, named, nightly, 1)


@pytest.mark.parametrize(
    ("status", "reading", "tools", "size", "why"),
    [
        (200, Reading(finish="stop"), False, 10, ""), (200, Reading(finish="end_turn"), False, 10, ""), (200, Reading(finish="STOP"), False, 10, ""),
        (200, Reading(), False, 10, ""), (429, Reading(), False, 10, "error"), (200, Reading(error="overloaded"), False, 10, "error"),
        (200, Reading(complete=False, finish="stop"), False, 10, "not whole"), (200, Reading(malformed="no JSON"), False, 10, "not whole"),
        (200, Reading(finish="length"), False, 10, "length"), (200, Reading(finish="content_filter"), False, 10, "content_filter"),
        (200, Reading(finish="tool_calls"), False, 10, "tools"), (200, Reading(finish="stop"), True, 10, "tools"), (200, Reading(finish="stop"), False, 2 << 20, "long"),
    ],
)  # fmt: skip
def test_only_whole_good_answers_are_kept(status: int, reading: Reading, tools: bool, size: int, why: str) -> None:
    said = reuse.refuses_reply(status, reading, tools, size, ON)
    assert (why in said) if why else said == ""
    if "tools" in why:
        assert reuse.refuses_reply(status, reading, tools, size, ON._replace(tools=True)) == ""


def test_what_a_cache_would_have_done_is_counted_from_hashes() -> None:
    """Behind walls, until the reply is too old; what its policy forbids is neither kept nor answered."""
    calls = [Past(0, "a", "q", 5), Past(10, "a", "q", 5), Past(10, "b", "q", 7), Past(99, "a", "q", 5), Past(100, "a", "q", 5),
             Past(150, "a", "z", 1, False), Past(151, "a", "z", 1, False)]  # fmt: skip
    assert reuse.would_have(calls, 100) == (7, 2, 10)


# --- flights ---


def test_a_thousand_identical_calls_are_made_once() -> None:
    flights = Flights()
    assert flights.join(b"k", "0") == Lead()
    assert all(flights.join(b"k", str(n)) == Follow("0") for n in range(1, 1_000))
    assert flights.join(b"other", "x") == Lead()
    assert flights.landed(b"k", "0") == tuple(map(str, range(1, 1_000)))
    assert flights.join(b"k", "again") == Lead(), "what comes later is a flight of its own"
    assert len(flights) == 2


def test_a_leader_that_fails_hands_over_and_the_crowd_goes_on_waiting() -> None:
    flights = Flights()
    for call in "abcd":
        flights.join(b"k", call)
    assert flights.failed(b"k", "a") == Next("b", 2)
    assert flights.left(b"k", "c") == Next("b", 1), "a follower's client has gone"
    assert flights.join(b"k", "e") == Follow("b")
    assert flights.left(b"k", "b") == Next("d", 1), "a leader's client has gone"
    assert flights.landed(b"k", "d") == ("e",)
    flights.join(b"k", "f")
    assert flights.failed(b"k", "f") == Next("", 0) and len(flights) == 0


def test_a_crowd_has_a_limit() -> None:
    flights = Flights()
    for n in range(FOLLOWERS_MAX + 1):
        flights.join(b"k", str(n))
    assert flights.join(b"k", "one too many") == Alone()
    assert len(flights.landed(b"k", "0")) == FOLLOWERS_MAX


@given(st.lists(st.tuples(st.sampled_from(["join", "land", "fail", "leave"]), st.integers(0, 2), st.integers(0, 5)), max_size=80))
def test_there_is_one_leader_and_nobody_is_forgotten(steps: list) -> None:
    """Whatever happens in whatever order: every call that joined is leader or follower until it is told."""
    flights, crews, number = Flights(), {}, 0
    for what, key_, pick in steps:
        key, crew = bytes([key_]), crews.setdefault(key_, [])
        if what == "join":
            number += 1
            call = str(number)
            assert flights.join(key, call) == (Follow(crew[0]) if crew else Lead())
            crew.append(call)
        elif crew and what == "land":
            assert flights.landed(key, crew[0]) == tuple(crew[1:])
            crew.clear()
        elif crew:
            call = crew[0] if what == "fail" else crew[pick % len(crew)]
            then = flights.failed(key, call) if what == "fail" else flights.left(key, call)
            crew.remove(call)
            assert then == (Next(crew[0], len(crew) - 1) if crew else Next("", 0))
    assert len(flights) == sum(bool(crew) for crew in crews.values())
