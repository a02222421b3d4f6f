"""Compaction: what may go, when it pays, what it can cost at the worst, and what a conversation must remember."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recorded_histories as recorded
from bursar.domain.outline import Message, Outline, Piece
from bursar.rules import compact
from bursar.rules.compact import AGGRESSIVE, Rates, Setting, State
from bursar.rules.horizon import LEAST, Horizon
from bursar.rules.stub import line

ANTHROPIC = Rates(10, 125, 500)
RICH = 10**18


def history(roles: str, size: int = 1_000, **marks: set[int]) -> Outline:
    """`s` system, `h` human, `m` model, `r` result (each with a piece), all of one size."""
    names = {"s": "system", "h": "human", "m": "model", "r": "result"}
    signed, failed = marks.get("signed", set()), marks.get("failed", set())
    messages = tuple(Message(names[role], n * size, (n + 1) * size, str(n), n in signed) for n, role in enumerate(roles))
    pieces = tuple(
        Piece("record" if n in marks.get("records", set()) else "text", f"p{n}", n, "tool", n in failed, n * size, (n + 1) * size)
        for n, role in enumerate(roles) if role == "r"
    )  # fmt: skip
    return Outline(messages, pieces)


def gone(outline: Outline, setting: Setting) -> list[int]:
    return [outline.pieces[at].message for at in compact.old(outline, setting, *compact.ages(outline))]


def warm(cached: int, **more) -> State:
    return State(cached=cached, warm_until_us=10, **more)


def test_a_result_is_old_after_turns_or_calls() -> None:
    """Three human turns later, or ten model calls later in a loop that no human interrupts."""
    talk = history("shmrmhmrmhmrmhm")
    assert gone(talk, Setting()) == [3], "three humans have spoken since"
    loop = history("sh" + "mr" * 13)
    assert gone(loop, Setting()) == [3, 5, 7], "ten calls and more have been made since"
    assert gone(loop, AGGRESSIVE) == [3 + 2 * n for n in range(11)]


def test_an_error_stays_while_the_agent_may_be_acting_on_it() -> None:
    loop = history("sh" + "mr" * 6, failed={3, 11})
    assert gone(loop, AGGRESSIVE) == [3, 5, 7, 9], "the old error may go, the one three calls ago may not"


def test_short_pieces_stay_and_records_have_a_higher_bar() -> None:
    assert gone(history("sh" + "mr" * 5, 399), AGGRESSIVE) == []
    assert gone(history("sh" + "mr" * 5, 700, records={3}), AGGRESSIVE) == [5, 7]


def test_arguments_may_be_spared() -> None:
    outline = history("sh" + "mr" * 5)
    wrote = Piece("argument", "a", 2, "write", False, 2_000, 3_000)
    outline = outline._replace(pieces=(wrote, *outline.pieces))
    assert 2 in gone(outline, AGGRESSIVE) and 2 not in gone(outline, AGGRESSIVE._replace(arguments=False))
    signed = outline._replace(messages=tuple(m._replace(signed=n == 2) for n, m in enumerate(outline.messages)))
    assert 2 not in gone(signed, AGGRESSIVE), "what was signed in this turn stays"


@pytest.mark.parametrize(
    ("removed", "stays", "calls"),
    [
        (500, 1_000, (2.1, 6.4, 19, 24, 40)), (500, 10_000, (21, 63, 188, 240, 397)), (2_000, 3_000, (1.5, 4.6, 14, 18, 29)),
        (5_000, 3_000, (0.6, 1.8, 5.5, 7.0, 12)), (20_000, 10_000, (0.5, 1.5, 4.5, 5.8, 9.5)),
    ],
)  # fmt: skip
def test_break_even_is_that_of_the_published_table(removed: int, stays: int, calls: tuple[float, ...]) -> None:
    """gpt-4o, gpt-4.1, gpt-5, Anthropic for five minutes and for an hour; a line of 20 tokens."""
    for rates, want in zip((Rates(50, 100, 400), Rates(25, 100, 400), Rates(10, 100, 800), ANTHROPIC, Rates(10, 200, 500)), calls, strict=True):
        got = compact.elision_pays_after(rates, removed, stays, 20)
        assert got == pytest.approx(want, rel=0.05)
    assert compact.elision_pays_after(Rates(100, 100, 500), removed, stays, 20) == 0, "without a prompt cache it pays at once"
    assert compact.elision_pays_after(ANTHROPIC, 20, stays, 20) == math.inf
    assert compact.summary_pays_after(ANTHROPIC, 5_000, 1_000, 300, Rates(10, 10, 500)) == pytest.approx(7.4, rel=0.01)
    assert [compact.batch(rates, 3_000, 500) for rates in (Rates(50, 100, 400), ANTHROPIC, Rates(100, 100, 1))] == [3, 11, 1]


def test_a_cold_cache_is_broken_for_nothing() -> None:
    """What must be written again anyway is written shorter."""
    outline = history("sh" + "mr" * 6)
    for state in (State(), State(cached=14_000, warm_until_us=5)):
        decision = compact.decide(outline, AGGRESSIVE, ANTHROPIC, state, 5, 0)
        assert (decision.why, decision.fresh, decision.broken, decision.warm) == ("cold", 4, 0, False)
    uncached = compact.decide(outline, AGGRESSIVE, Rates(100, 100, 500), warm(14_000), 5, 0)
    assert uncached.why == "cold" and uncached.fresh == 4, "a model without a cache price has nothing to break"


def test_without_a_forecast_it_waits_until_the_rent_has_reached_the_price() -> None:
    """Each call adds r(E-s); it acts in the first call in which the sum is (w-r)(F+s), neither earlier nor later."""
    outline = history("sh" + "mr" * 4)  # two pieces are old, three messages stay behind them
    lines, pieces = 2 * Setting().text_line, 2
    rent, price = 10 * (pieces * 1_000 - lines), 115 * (5 * 1_000 + lines)
    state, calls = warm(10_000), 0
    while True:
        calls += 1
        decision = compact.decide(outline, AGGRESSIVE, ANTHROPIC, state, 5, RICH)
        state = decision.state
        if decision.fresh:
            break
        assert decision.why == "waits" and decision.gone == ()
    assert decision.why == "rent" and calls == math.ceil(price / rent)
    assert decision.broken == 5_000 and state.rent == 0


def test_with_a_forecast_it_acts_when_the_saving_is_twice_the_price() -> None:
    """What was paid so far does not matter then."""
    outline = history("sh" + "mr" * 4)
    price, saved = 115 * 2 * (5_000 + 240), 10 * (2_000 - 240)
    for left, acts in ((0.9 * price / saved, False), (1.1 * price / saved, True)):
        decision = compact.decide(outline, AGGRESSIVE, ANTHROPIC, warm(10_000, rent=10**12), 5, RICH, left)
        assert decision.fresh == 2 * acts, (left, decision)
    small = history("sh" + "mr" * 4)
    small = small._replace(pieces=tuple(p._replace(end=p.start + 400) if p.message == 3 else p for p in small.pieces))
    decision = compact.decide(small, AGGRESSIVE, ANTHROPIC, warm(10_000), 5, RICH, 120.0)
    assert decision.gone == (1,), "the small old one is not worth the messages behind it, the large later one is"


def test_an_empty_purse_forbids_what_costs_and_allows_what_is_free() -> None:
    outline = history("sh" + "mr" * 4)
    assert compact.decide(outline, AGGRESSIVE, ANTHROPIC, warm(10_000, rent=10**12), 5, 1_000).fresh == 0
    assert compact.decide(outline, AGGRESSIVE, ANTHROPIC, warm(10_000), 5, 1_000, 10_000.0).fresh == 0
    assert compact.decide(outline, AGGRESSIVE, ANTHROPIC, warm(0), 5, 0).fresh == 2
    assert compact.purse(1_000_000, 900_000) == 104_000


def test_what_is_gone_stays_gone_in_the_same_words() -> None:
    """Whatever the prices say now: bringing it back would break the cache again. And a text that changed is another piece."""
    outline = history("sh" + "mr" * 4)
    first = compact.decide(outline, AGGRESSIVE, ANTHROPIC, State(), 5, 0)
    made, state = compact.lines(first, outline, AGGRESSIVE, lambda piece: "order W123 " * 90)
    state = compact.remember(state, first, 5, 100)
    grown = history("sh" + "mr" * 5)
    again = compact.decide(grown, AGGRESSIVE, ANTHROPIC, state, 6, 0, 1.0)
    asked: list[Piece] = []
    kept, _ = compact.lines(again, grown, AGGRESSIVE, lambda piece: asked.append(piece) or "other words")
    assert kept == made and not asked and again.why == "waits" and again.fresh == 0 and len(again.gone) == 2
    other = grown._replace(pieces=tuple(p._replace(key=p.key + "'") for p in grown.pieces))
    assert compact.decide(other, AGGRESSIVE, ANTHROPIC, state, 6, 0, 1.0).gone == ()


def test_lines_are_bounded_and_never_longer_than_what_they_stand_for() -> None:
    outline = history("sh" + "mr" * 1_500, 401)
    decision = compact.decide(outline, AGGRESSIVE, ANTHROPIC, State(), 5, 0)
    assert len(decision.gone) == compact.LINES_MAX
    tiny = Outline(history("sh" + "mr" * 3).messages, (Piece("text", "p", 3, "t" * 60, False, 3_000, 3_000 + 61),))
    decision = compact.Decision((0,), 1, None, None, State(), "cold")
    made, state = compact.lines(decision, tiny, Setting(text_line=30), lambda piece: "x" * 59)
    assert made == {} and state.lines == {}


# --- summaries ---


def summing(**more) -> Setting:
    return Setting(summarise_every=4, summary=500, **more)


CHEAP = Rates(3, 3, 17)


def ask(outline: Outline, setting: Setting = summing(), **more) -> compact.Cut | None:
    state = State(calls=4, **more)
    return compact.decide(outline, setting, Rates(100, 100, 500), state, 5, RICH, 50.0, CHEAP).ask


def test_a_summary_is_asked_for_at_a_boundary_and_keeps_what_is_current() -> None:
    """Before a human message, or inside the newest turn before a model's answer; never before a result."""
    assert ask(history("sh" + "mr" * 6)) == (2, 10, 3 * 10_000 + 17 * 500), "up to the newest call and its result"
    assert ask(history("shmrmrmhmrmhmr"))[:2] == (2, 9), "up to the newest human message, which stays with its turn"
    assert ask(history("sh")) is None and ask(history("shm")) is None
    assert ask(history("shmrmrmhmrmh"), summing(summary_keep=2))[:2] == (2, 5)
    assert ask(history("shmrmrmhmrmh"), summing()._replace(summarise_every=5)) is None, "not so soon"


def test_no_summary_cuts_through_signed_thinking_or_the_systems_words() -> None:
    """Inside the newest turn nothing signed goes; what a system message says stays wherever it stands."""
    loop = history("sh" + "mr" * 6, signed={2})
    assert ask(loop) is None
    later = history("sh" + "mr" * 6, signed={6})
    assert ask(later)[:2] == (2, 4), "up to the signed message, and not beyond"
    past = history("shmrmhmr", signed={2})
    assert ask(past)[:2] == (2, 3), "a turn that is over goes with its thinking"
    assert ask(history("shmrmhshmrmrmh"))[:2] == (2, 3), "up to the system's message, and not beyond"
    assert ask(history("shmrmshmrmrmh")) is None


def test_a_summary_that_does_not_pay_is_not_asked_for() -> None:
    outline = history("sh" + "mr" * 6)
    dear = Rates(1_000, 1_000, 5_000)
    state = State(calls=4, cached=14_000, warm_until_us=10)
    assert compact.decide(outline, summing(), ANTHROPIC, state, 5, RICH, 3.0, dear).ask is None
    assert compact.decide(outline, summing(), ANTHROPIC, state, 5, RICH, 3_000.0, dear).ask is not None
    assert compact.decide(outline, summing(), ANTHROPIC, state, 5, 100, 3_000.0, dear).ask is None, "the purse is too small"
    assert compact.decide(outline, summing(), ANTHROPIC, state, 5, RICH, 3_000.0, None).ask is None, "there is nobody to write it"


def test_a_summary_stands_as_long_as_its_messages_do() -> None:
    outline = history("sh" + "mr" * 6)
    cut = ask(outline)
    assert cut
    state = compact.summarised(outline, State(), cut, "what happened")
    grown = history("sh" + "mr" * 7)
    decision = compact.decide(grown, summing(), ANTHROPIC, state._replace(cached=14_000, warm_until_us=9), 5, 0)
    assert decision.standing and decision.standing.fresh and decision.sent == 16_000 - 10_000 + len("what happened")
    assert decision.broken == 2_000, "of the cache, only the newest call and its result lay behind it"
    assert decision.state.standing and not decision.state.standing.fresh
    edited = grown._replace(messages=tuple(m._replace(key="other") if n == 4 else m for n, m in enumerate(grown.messages)))
    decision = compact.decide(edited, summing(), ANTHROPIC, state, 5, 0)
    assert decision.standing is None and decision.state.standing is None, "the client changed its history by itself"
    assert compact.decide(history("shmr"), summing(), ANTHROPIC, state, 5, 0).standing is None


def test_old_turns_are_dropped_only_where_nobody_writes_summaries_and_only_whole() -> None:
    outline = history("shmrmhmrmhmrmhmrm")
    setting = Setting(drop=True, summary=500)
    state = State(calls=10)
    cut = compact.decide(outline, setting, Rates(100, 100, 500), state, 5, RICH, 50.0).ask
    assert cut == (2, 3, 0), "three turns stay, their humans' words included"
    assert compact.decide(outline, setting._replace(drop=False), Rates(100, 100, 500), state, 5, RICH, 50.0).ask is None
    assert compact.decide(history("sh" + "mr" * 12), setting, Rates(100, 100, 500), state, 5, RICH, 50.0).ask is None


# --- at the worst ---

STEPS = st.lists(st.tuples(st.sampled_from(["h", "mr", "mr", "mrr"]), st.integers(10, 6_000), st.sampled_from([1, 1, 1, 400])), min_size=1, max_size=40)


@given(runs=st.lists(STEPS, min_size=1, max_size=6), aggressive=st.booleans(), every=st.sampled_from([0, 5]), known=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_flow_is_never_dearer_by_more_than_half_a_percent(runs: list, aggressive: bool, every: int, known: bool) -> None:
    """Whatever the conversations are like and whatever the forecast was worth."""
    flow = recorded.Flow()
    if known:  # it believes in long conversations, and gets others
        for _ in range(LEAST):
            flow.horizon.learn(300)
    setting = (AGGRESSIVE if aggressive else Setting())._replace(summarise_every=every)
    for steps in runs:
        said, ts = [recorded.Said("human", 500)], 1.0
        for roles, size, pause in steps:
            ts += pause
            for role in roles:
                said.append(recorded.Said({"h": "human", "m": "model", "r": "result"}[role], size, call=role == "m", ts=ts))
        for rates in (ANTHROPIC,):
            recorded.replay(recorded.Run("f", "r", said), setting, rates, flow, recorded.CHEAP)
    assert flow.sent <= flow.full * 1.005


@given(calls=st.integers(1, 200), size=st.integers(500, 9_000), tail=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_waiting_by_the_rent_costs_at_most_twice_what_knowing_the_end_would(calls: int, size: int, tail: int) -> None:
    """One large old result, a tail behind it that does not grow, an end that nobody knows."""
    outline = history("sh" + "mr" * 3)
    ends = [0, 100, 200, 300, 300 + size, 300 + size + tail * 50, 300 + size + tail * 100, 300 + size + tail * 150]
    messages = tuple(Message(m.role, ends[n], ends[n + 1] if n < 7 else ends[7] + 50, m.key) for n, m in enumerate(outline.messages))
    outline = Outline(messages, (Piece("text", "p", 3, "t", False, 300, 300 + size),))
    state, paid = warm(10**6), 0
    for _ in range(calls):
        decision = compact.decide(outline, AGGRESSIVE._replace(text_least=400), ANTHROPIC, state, 5, RICH)
        paid += 115 * (decision.broken + 120) if decision.fresh else 0 if decision.gone else 10 * (size - 120)
        if decision.fresh:
            _, made = compact.lines(decision, outline, AGGRESSIVE, lambda piece: "x" * size)
            state = compact.remember(made, decision, 5, 100)
        else:
            state = decision.state
    best = min(calls * 10 * (size - 120), 115 * (messages[-1].end - 300 - size + 120))
    assert paid <= 2 * best + 10 * (size - 120), "one call's rent may be paid twice: rents come in whole calls"


# --- horizons and lines ---


def test_the_calls_left_are_the_mean_of_those_who_came_as_far() -> None:
    horizon = Horizon()
    assert horizon.left(1) is None
    for _ in range(LEAST):
        horizon.learn(10)
        horizon.learn(30)
    assert horizon.left(1) == 20.0 and horizon.left(10) == (1 + 21) / 2 and horizon.left(11) == 20.0
    assert horizon.left(31) is None, "nobody came as far"
    horizon.learn(0)
    horizon.learn(10**9)
    assert horizon.left(1) is not None
    for _ in range(5_000):
        horizon.learn(2)
    assert horizon.left(1) < 3, "old lengths fade"


@given(text=st.text(max_size=5_000), what=st.text(max_size=80), limit=st.integers(100, 400))
def test_a_line_is_short_and_made_of_nothing_but_the_text(text: str, what: str, limit: int) -> None:
    made = line(text, what, limit)
    assert len(made) <= limit and made == line(text, what, limit)
    head = f"[elided: {what[:48]}, {len(text):,} characters"
    assert made.startswith(head) and made.endswith("]")
    for token in made[len(head) + 2 : -1].split("; "):
        assert token in text or "\ufffd" in token or "?" in token


def test_a_line_keeps_what_later_calls_need() -> None:
    record = '{"order_id": "#W2378156", "user_id": "yusuf_rossi_9620", "address": {"city": "Philadelphia", "zip": "19122"}, "status": "pending", "total": 12.5}'
    assert line(record, "get_order result", 240) == (
        "[elided: get_order result, 145 characters: #W2378156; yusuf_rossi_9620; 19122; Philadelphia; pending; order_id; user_id; 12.5]")  # fmt: skip
    assert line("", "x result", 100) == "[elided: x result, 0 characters]"
