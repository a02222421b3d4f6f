"""Tiers: who decides, when a conversation stays where it is, and when routing does not pay."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules import route
from bursar.rules.route import CALLS_LEAST, Card, Choice, Rule, Tally, choose
from bursar.rules.shape import Work, shape, tiers

TIERS = {"cheap": "nano", "standard": "mini", "premium": "max"}


def said(**labels: str):
    return lambda name: labels.get(name, "")


TRIAGE = Rule((("feature", "triage"),), "cheap", "on")


def test_a_tier_that_the_client_names_is_what_it_gets() -> None:
    for asked, model in (("bursar/cheap", "nano"), ("premium", "max"), ("bursar/standard", "mini")):
        assert choose(asked, said(feature="triage"), [TRIAGE], TIERS) == Choice(asked.removeprefix("bursar/"), model, "asked")
    assert route.tier_asked("bursar/other") == "" and route.tier_asked("gpt-5") == "" and route.tier_asked("bursar/auto") == "auto"


def test_rules_decide_by_label_and_the_first_that_is_on_wins() -> None:
    rules = [Rule((("feature", "triage"), ("tenant", "acme")), "premium", "on"), TRIAGE, Rule((), "standard", "on")]
    assert choose("gpt-5", said(feature="triage", tenant="acme"), rules, TIERS).model == "max"
    assert choose("gpt-5", said(feature="triage"), rules, TIERS) == Choice("cheap", "nano", "rule:feature=triage")
    assert choose("gpt-5", said(), rules, TIERS).why == "rule:all"
    assert choose("gpt-5", said(), [TRIAGE], TIERS) == Choice("", "", ""), "a client that named a model keeps it"


def test_a_rule_in_shadow_is_only_counted() -> None:
    shadow = TRIAGE._replace(mode="shadow")
    assert choose("gpt-5", said(feature="triage"), [shadow], TIERS) == Choice("", "", "", "cheap")
    both = choose("gpt-5", said(feature="triage"), [shadow, Rule((), "premium", "on")], TIERS)
    assert both == Choice("premium", "max", "rule:all", "cheap")


def test_what_is_left_to_us_goes_to_the_router_and_without_one_to_standard() -> None:
    assert choose("bursar/auto", said(), [], TIERS) == Choice("standard", "mini", "default")
    assert choose("bursar/auto", said(), [], TIERS, lambda: ("cheap", "score -0.2")) == Choice("cheap", "nano", "score -0.2")
    assert choose("bursar/auto", said(feature="triage"), [TRIAGE], TIERS, lambda: ("premium", "score")).model == "nano", "rules first"
    auto = Rule((("feature", "triage"),), "auto", "on")
    assert choose("gpt-5", said(feature="triage"), [auto], TIERS, lambda: ("premium", "score 0.4")).why == "score 0.4"
    assert choose("gpt-5", said(feature="triage"), [auto], TIERS) == Choice("", "", ""), "no router: the client's model"
    odd = choose("bursar/auto", said(), [], {"standard": "mini"}, lambda: ("cheap", "score"))
    assert odd.model == "mini" and "no model" in odd.why or "has no model" in odd.why


# --- staying ---


@pytest.mark.parametrize(("ratio", "calls"), [(3, 6), (5, 3), (20, 1)])
def test_a_switch_has_paid_for_the_cold_cache_after_so_many_calls(ratio: int, calls: int) -> None:
    """Anthropic's cache prices: .1 to read, 1.25 to write, of an input price `ratio` times as high before as after."""
    now, then = Card(10 * ratio, 125 * ratio, 500 * ratio), Card(10, 125, 500)
    assert math.ceil(route.switch_pays_after(now, then)) == calls
    assert route.switch_saves(now, then, 10_000, calls) > 0 or ratio == 20
    assert route.switch_saves(now, then, 10_000, calls - 1) <= 0
    assert route.stays(now, then, 10_000, calls - 1) and route.stays(now, then, 10_000, None)
    assert route.switch_pays_after(then, now) == math.inf and route.stays(then, now, 10_000, 1_000)


@given(st.integers(1, 50), st.integers(0, 100_000), st.integers(0, 5_000), st.integers(0, 2_000), st.integers(2, 30))
def test_what_a_switch_saves_is_the_difference_of_two_bills(left: int, context: int, new: int, output: int, ratio: int) -> None:
    """Written out call by call."""
    now, then = Card(10 * ratio, 125 * ratio, 500 * ratio), Card(10, 125, 500)
    stay = sum(context * now.read + new * now.write + output * now.output for _ in range(left))
    go = sum(context * (then.write if n == 0 else then.read) + new * then.write + output * then.output for n in range(left))
    assert route.switch_saves(now, then, context, left, new, output) == stay - go


# --- worth it? ---


def test_an_answer_that_had_to_be_made_again_counts_against_the_router() -> None:
    tally = Tally().add(900, classifier=10).add(0, classifier=10, wasted=70, escalated=True).add(0, classifier=10, routed=False)
    assert (tally.calls, tally.routed, tally.escalated, tally.gross, tally.own, tally.net) == (3, 2, 1, 900, 100, 800)
    with pytest.raises(AssertionError):
        Tally().add(5, escalated=True)


def test_a_router_is_called_a_loser_when_chance_cannot_explain_it() -> None:
    """Not before 200 calls, not for a loss within its own noise; the field's "80 % saved" turn among them."""
    fields = Tally()
    for _ in range(CALLS_LEAST - 1):
        fields = fields.add(316_000_000, classifier=2_135_000_000)  # $0.000316 saved, $0.002135 paid for saying so
    assert route.losing(fields) == ""
    assert "negative" in route.losing(fields.add(316_000_000, classifier=2_135_000_000))
    noisy = Tally()
    for n in range(400):
        noisy = noisy.add(1_000 if n % 2 else 0, wasted=0 if n % 2 else 1_010, escalated=not n % 2)
    assert noisy.net < 0 and "made again" in route.losing(noisy)
    even = Tally()
    for n in range(400):
        even = even.add(1_000 if n % 20 else 0, classifier=935, wasted=0 if n % 20 else 900, escalated=not n % 20)
    assert even.net < 0 and "negative" not in route.losing(even), "a loss that chance explains"
    earning = Tally()
    for _ in range(400):
        earning = earning.add(1_000, classifier=10)
    assert route.losing(earning) == ""


def test_break_evens_of_cascades_and_classifiers() -> None:
    """GSM8K at 10/30 against .6/.6 dollars: a premium classifier at a strong share of 80 % costs more than no routing at all."""
    assert route.cascade_pays(10, 100, 0.89) and not route.cascade_pays(10, 100, 0.91) and not route.cascade_pays(1, 0, 0)
    assert route.classifier_pays(10, 100, 0.80, 17) and not route.classifier_pays(10, 100, 0.82, 17) and not route.classifier_pays(5, 5, 0, 1)


# --- a start without grades ---

WORK = Work("f", "m", 100, 10**12, 900, 500, 20, 40, 0.0, 0, 0.0)


@pytest.mark.parametrize(
    ("work", "tier"),
    [
        (WORK, "cheap"), (WORK._replace(output_p50=100, output_p90=300, input_p50=4_000), "cheap"), (WORK._replace(output_p50=300, output_p90=900), "standard"),
        (WORK._replace(tools_share=0.9, depth_p90=12), "premium"), (WORK._replace(tools_share=0.9, depth_p90=2), "standard"),
        (WORK._replace(malformed_share=0.1), "premium"), (WORK._replace(purpose="eval"), "premium"), (WORK._replace(input_p50=90_000), "premium"),
    ],
)  # fmt: skip
def test_work_has_a_tier_by_its_shape(work: Work, tier: str) -> None:
    assert shape(work).tier == tier and shape(work).why


def test_todays_bill_by_the_tiers_it_looks_like() -> None:
    works = [WORK, WORK._replace(feature="g", calls=300, pico=5 * 10**12, latency_ms=100), WORK._replace(feature="h", output_p90=900, output_p50=300)]
    cheap, standard, premium = tiers(works)
    assert cheap == ("cheap", 400, 6 * 10**12, 300, ("g", "f")) and standard.features == ("h",) and premium.calls == 0
    assert sum(line.pico for line in tiers(works)) == sum(work.pico for work in works)
