"""Companies as data: seeded, in order of time, and what is planted in them changes what it should and nothing else."""

from __future__ import annotations

import re
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest

from bursar.testing import variants
from bursar.testing.causes import (
    BackgroundGrowth,
    CacheDrop,
    ClientFallback,
    ContextGrowth,
    CorpusGrowth,
    CustomerGrowth,
    DeeperAgents,
    EvalGrowth,
    FlakyTool,
    GatewayFallback,
    ModelSwitch,
    OutputGrowth,
    PriceChange,
    Reasks,
    Repairs,
    Runaway,
    SdkRetries,
)
from bursar.testing.failures import SHAPES
from bursar.testing.invoice import PRICES
from bursar.testing.planned import FALLBACK, LOOP, REASK, REPAIR, SDK_RETRY, TOOL, Planned
from bursar.testing.scenario import NEWCOMER, USUAL, Cause, Planted, Scenario, base
from bursar.testing.talk import ANTHROPIC, DIALECTS
from bursar.testing.traffic import calls

Json = dict[str, Any]


def company(seed: int = 0, **dialects: str) -> Any:
    """A base company whose agents speak the dialects that are said."""
    made = base(seed)
    for feature, dialect in dialects.items():
        made = made.with_agent(feature, dialect=dialect, model=USUAL[dialect])
    return made


def scene(cause: Cause | None = None, since: int = 3, seed: int = 0, weeks: int = 2, scale: float = 0.25, **dialects: str) -> Scenario:
    planted = () if cause is None else (Planted(cause, since),)
    return Scenario(seed, company(seed, **dialects), planted, scale=scale, weeks=weeks)


def dollars(planned: list[Planned]) -> Decimal:
    return sum((call.dollars for call in planned), Decimal(0))


def of(planned: list[Planned], kind: str) -> list[Planned]:
    return [call for call in planned if any(fact.keys and fact.keys[0][0] == kind for fact in call.facts)]


def test_the_same_seed_plans_the_same_calls_and_another_others() -> None:
    """Every byte, header and figure."""

    def whole(seed: int) -> list[Any]:
        return [(c.path, c.body.encode(), c.headers(), c.facts) for c in calls(variants.variant(seed, scale=0.1, weeks=2))]

    assert whole(3) == whole(3) != whole(4)


def test_calls_come_in_the_order_of_time_and_have_names_of_their_own() -> None:
    """Also where sub-agents work side by side."""
    planned = list(calls(variants.variant(1, scale=0.3, weeks=2)))
    assert [c.ts_us for c in planned] == sorted(c.ts_us for c in planned)
    assert len({c.ref for c in planned}) == len(planned)
    helpers = [c for c in planned if c.first.thread != c.first.conversation and c.first.conversation]
    assert helpers and {c.first.conversation for c in helpers} <= {c.first.conversation for c in planned if c not in helpers}


def test_a_company_is_planned_as_it_is_needed() -> None:
    """Two months take no more memory than what is under way."""
    tracemalloc.start()
    count = sum(1 for _ in calls(Scenario(0, base(0), scale=0.2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 1_500 and peak < 12 << 20


def test_a_company_has_the_size_of_the_demos() -> None:
    """About nine thousand calls in two months, and two months alike."""
    whole = Scenario(1, base(1))
    months: list[list[Decimal]] = [[], []]
    for call in calls(whole):
        months[call.ts_us >= whole.months[1][0]].append(call.dollars)
    assert 8_000 < len(months[0]) + len(months[1]) < 10_000
    assert float(sum(months[1])) == pytest.approx(float(sum(months[0])), rel=0.08)


def test_where_nobody_labels_no_call_says_who_pays() -> None:
    """No header at all but those that SDKs send by themselves."""
    for call in calls(variants.variant(5, labels="none", scale=0.1, weeks=2)):
        assert set(call.headers(script=False)) <= {"x-stainless-retry-count"}


def test_where_some_label_no_call_says_its_conversation() -> None:
    """But tenant and feature, and what evals and embeddings are for."""
    said: set[str] = set()
    for call in calls(variants.variant(4, labels="some", scale=0.1, weeks=2)):
        assert not {"x-bursar-conversation", "x-bursar-user"} & set(call.headers())
        said |= set(call.headers())
    assert {"x-bursar-tenant", "x-bursar-feature", "x-bursar-operation", "x-bursar-labels"} <= said


# What adds calls, or tries, beside those that are there anyway: the rest of the plan must be the same to the last digit.
BESIDE: list[tuple[Cause, dict[str, str]]] = [
    (GatewayFallback("support", "claude-opus-4-1", 0.3), {"support": ANTHROPIC}),
    (EvalGrowth("?", 3.0), {}),
    (CorpusGrowth("catalogue", 2.0), {}),
    (BackgroundGrowth("digest", 3.0), {}),
    (CustomerGrowth(NEWCOMER, 0.5), {}),
    (Runaway("research", "two", 20), {}),
]


@pytest.mark.parametrize(("cause", "dialects"), BESIDE, ids=lambda value: type(value).__name__)
def test_what_is_planted_beside_the_traffic_leaves_the_rest_as_it_was(cause: Cause, dialects: dict[str, str]) -> None:
    """And its effect on the bill is the dollars of the tries it brought, by their facts. (A larger corpus also fills the batch
    that was the last one.)"""
    if isinstance(cause, EvalGrowth):
        cause = EvalGrowth(base(0).suites[0].name, cause.factor)
    with_it = scene(cause, **dialects)
    before = {call.ref: call for call in calls(with_it.without(cause.name))}
    after = {call.ref: call for call in calls(with_it)}
    assert before.keys() <= after.keys()
    changed = [ref for ref in before if before[ref].first != after[ref].first]
    assert {after[ref].first.corpus for ref in changed} <= ({cause.corpus} if isinstance(cause, CorpusGrowth) else set())
    brought = dollars([call for ref, call in after.items() if ref not in before or ref in changed])
    brought -= dollars([before[ref] for ref in changed])
    brought += sum((fact.dollars for ref in before for fact in after[ref].facts[1:]), Decimal(0))
    assert dollars(list(after.values())) - dollars(list(before.values())) == brought > 0
    if isinstance(cause, GatewayFallback):
        assert variants.effect(with_it, cause.name) == brought


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_flaky_tools_failures_are_what_its_calls_bring(dialect: str, shape: str) -> None:
    """Each call that is the tool's has a failed result as its newest message, and no other call has one; each costs something
    later too."""
    planted = scene(FlakyTool("support", "lookup_order", shape, 0.6), since=0, scale=0.3, weeks=1, support=dialect)
    planned = list(calls(planted))
    tools = of(planned, TOOL)
    assert len(tools) > 10 and {call.first.keys[0] for call in tools} == {(TOOL, "lookup_order")}
    failed = re.compile(FAILED[shape])
    for call in planned:
        if call.first.feature != "support" or call.first.purpose != "primary":
            continue
        sent = call.body.encode().decode()
        newest = sent[max(sent.rfind(mark) for mark in ('"role":"assistant"', '"role":"model"', '"type":"function_call","id"', ':[{"')) :]
        assert bool(failed.search(newest)) == bool(call.first.keys), (call.ref, newest[-300:])
        assert not call.first.keys or (len(call.first.keys) == 1) == any(name == "lookup_order" for name, _ in call.say.tools)
    if dialect == ANTHROPIC:
        assert variants.effect(planted, planted.planted[0].cause.name) > sum((c.first.dollars for c in tools), Decimal(0)) * 3 / 4


# How a failed result of each shape is told, as text inside a request's JSON.
FAILED = {
    "flag": r"The service did not answer|Order service is not available",
    "exception": r"TimeoutError|ConnectionError|503 Server Error|ToolException",
    "body": r"UPSTREAM_UNAVAILABLE|internal server error|Internal Server Error|rate limit exceeded",
    "empty": r'"(?:content|output|result)":"(?:null)?"',
    "malformed": r'\\"state\\": \\"shi"',
}  # fmt: skip


def test_a_failed_result_never_comes_from_a_company_without_flaky_tools() -> None:
    """Empty lists and `"error": null` are answers; nothing else there looks like a failure."""
    for call in calls(scene(scale=0.3)):
        assert not call.first.keys and all(not fact.keys for fact in call.facts)


def test_an_sdk_numbers_its_retries_and_sends_the_same_bytes() -> None:
    """And those of a timeout were billed the first time too."""
    for timeout in (False, True):
        planned = list(calls(scene(SdkRetries("support", 0.3, timeout), since=0, support=ANTHROPIC)))
        again = of(planned, SDK_RETRY)
        assert len(again) > 10
        bodies = {call.ref: call.body.encode() for call in planned}
        for call in again:
            first = f"{call.first.thread}-{call.first.step - 1}"
            assert call.retry == 1 and bodies[first] == bodies[call.ref]
        firsts = [c for c in planned if f"{c.first.thread}-{c.first.step + 1}" in {a.ref for a in again}]
        assert (dollars(firsts) > 0) == timeout


@pytest.mark.parametrize("how", ["cut", "leaves", "silence"])
def test_a_client_that_had_no_answer_asks_for_the_same_again(how: str) -> None:
    """Within minutes, byte for byte, without a number."""
    planned = list(calls(scene(Reasks("support", how, 0.3), since=0)))
    bodies = {call.ref: (call.body.encode(), call.ts_us) for call in planned}
    again = of(planned, REASK)
    assert len(again) > 10
    for call in again:
        body, ts_us = bodies[f"{call.first.thread}-{call.first.step - 1}"]
        assert call.body.encode() == body and 0 < call.ts_us - ts_us < 600_000_000 and not call.retry


def test_a_clients_own_fallback_says_the_same_to_another_model() -> None:
    """Also in another dialect; after an error, or after a reply that does not parse."""
    for dialect in DIALECTS:
        for after in ("error", "unparseable"):
            cause = ClientFallback("orders", after, USUAL[dialect], dialect, 0.4)
            planned = list(calls(scene(cause, since=0, weeks=1, orders=ANTHROPIC)))
            moved = of(planned, FALLBACK)
            assert len(moved) > 3
            talks = {call.ref: call for call in planned}
            for call in moved:
                first = talks[f"{call.first.thread}-{call.first.step - 1}"]
                assert (first.say.status >= 400) == (after == "error") and (first.say.fault == "malformed") == (after == "unparseable")
                assert call.first.keys == ((FALLBACK, f"claude-haiku-4-5 -> {USUAL[dialect]}"),) and call.first.model == USUAL[dialect]


def test_a_repair_brings_the_bad_reply_and_what_is_wrong_with_it() -> None:
    """To the same model."""
    for call in of(list(calls(scene(Repairs("orders", 0.4), since=0, weeks=1))), REPAIR):
        sent = call.body.encode().decode()
        assert "the parcel " in sent and "could not be parsed" in sent


@pytest.mark.parametrize("shape", ["same", "two", "error"])
def test_a_runaway_loop_does_the_same_again_and_again(shape: str) -> None:
    """One call, two in turn, or other calls with ever the same error: which are the tool's failures as well."""
    loop = of(list(calls(scene(Runaway("support", shape, 30), since=1))), LOOP)
    assert len(loop) == {"same": 29, "two": 28, "error": 29}[shape]
    assert all((len(call.first.keys) == 2) == (shape == "error") for call in loop)
    assert len({call.say.tools for call in loop}) == {"same": 1, "two": 2, "error": 29}[shape]


def test_what_changes_how_agents_work_shows_where_it_should() -> None:
    """The prompt cache misses, replies and contexts grow, conversations deepen, models and prices change: each in its own
    figures, from its day on."""

    def measured(cause: Cause, scale: float = 0.4, **dialects: str) -> tuple[dict[str, float], dict[str, float]]:
        planted = scene(cause, since=7, scale=scale, **dialects)
        found: list[dict[str, float]] = []
        for begin, end in planted.months:
            facts = [c.first for c in calls(planted) if begin <= c.ts_us < end and c.first.feature == "support"]
            n, threads = len(facts), len({f.thread for f in facts})
            found.append({
                "calls": n / threads, "input": sum(f.used.input + f.used.cache_read + f.used.cache_write for f in facts) / n,
                "cached": sum(f.used.cache_read for f in facts) / n, "output": sum(f.used.output for f in facts) / n,
                "dollars": float(sum(f.dollars for f in facts)) / n,
            })  # fmt: skip
        return found[0], found[1]

    for dialect in DIALECTS:
        before, after = measured(CacheDrop("support"), scale=0.2, support=dialect)
        assert before["cached"] > 500 and after["cached"] == 0 and after["dollars"] > before["dollars"]
    for cause, figure, factor in (
        (OutputGrowth("support", 3.0), "output", 2.0),
        (DeeperAgents("support", 2.0), "calls", 1.7),
        (ContextGrowth("support", 8.0), "input", 1.5),
        (ModelSwitch("support", "claude-opus-4-1"), "dollars", 8.0),
        (PriceChange("claude-haiku-4-5", "2"), "dollars", 1.8),
    ):
        before, after = measured(cause, support=ANTHROPIC)
        assert after[figure] > before[figure] * factor, cause.name
        if figure != "dollars":
            others = {"calls", "output"} - {figure}
            assert all(after[other] < before[other] * 1.3 for other in others), cause.name


def test_a_new_price_is_known_to_the_policy_from_the_same_moment() -> None:
    """The operator writes down what the provider announces."""
    planted = scene(PriceChange("gpt-5", "1.5"), since=4)
    assert '[[price]]\nmodel = "gpt-5"\nfrom = "2026-09-11T00:00:00Z"\ninput = "1.875"' in planted.policy()
    assert planted.prices_at(planted.at(4) - 1)["gpt-5"]["input"] == "1.25" and planted.prices_at(planted.at(4))["gpt-5"]["input"] == "1.875"


def test_every_kind_of_cause_is_planted_by_some_seed_and_none_clashes_with_another() -> None:
    """A try has one cause: no two plants touch the same part of an agent."""
    kinds = {type(p.cause) for seed in range(60) for p in variants.variant(seed).planted}
    assert len(kinds) == len(variants.KINDS)
    for seed in range(60):
        planted = variants.variant(seed).planted
        whole = variants.variant(seed)
        for day in range(0, whole.days, 7):
            for agent in whole.company_on(day).agents:
                assert not (agent.spoils and agent.spoils.then == "gateway" and agent.dialect == "gemini")
        assert len({p.cause.name for p in planted}) == len(planted)


@pytest.mark.parametrize("kind", variants.KINDS)
def test_a_single_cause_moves_its_months_bill(kind: str) -> None:
    """By at least a twentieth of it, so that it can be the first thing that is said."""
    planted = next(made for seed in range(20) if (made := try_single(seed, kind)))
    (cause,) = [p.cause for p in planted.planted]
    assert cause.drivers and planted.planted[0].since == planted.days // 2
    before = list(calls(planted.without(cause.name)))
    month = dollars([c for c in before if c.ts_us >= planted.months[1][0]])
    assert dollars(list(calls(planted))) - dollars(before) > month / 20


def test_a_client_falls_back_to_a_dearer_model() -> None:
    """Or its fallback would save money, and nobody would mind."""
    found = [(seed, p.cause) for seed in range(80) for p in variants.variant(seed).planted if isinstance(p.cause, ClientFallback)]
    assert len(found) > 10
    for seed, cause in found:
        before = base(seed).agent(cause.feature).model
        assert Decimal(PRICES[cause.to]["output"]) >= 2 * Decimal(PRICES[before]["output"])


def try_single(seed: int, kind: str) -> Scenario | None:
    try:
        return variants.single(seed, kind, scale=0.12)
    except AssertionError:
        return None


def test_a_corpus_says_how_much_of_it_was_embedded_before() -> None:
    """The first night nothing; later all but what is new or changed; the same batch is the same bytes."""
    nights = [c for c in calls(scene(weeks=1, scale=1.0)) if c.first.corpus == "catalogue"]
    by_night: dict[int, list[Planned]] = {}
    for call in nights:
        by_night.setdefault(call.ts_us // 86_400_000_000, []).append(call)
    shares = [sum(c.first.reembedded[0] for c in night) / sum(c.first.reembedded[1] for c in night) for night in by_night.values()]
    assert shares[0] == 0 and all(0.85 < share < 1 for share in shares[1:])
    same = [c for c in by_night[min(by_night) + 1] if c.first.reembedded[0] == c.first.reembedded[1]]
    assert same and all(c.body.encode() in [p.body.encode() for p in by_night[min(by_night)]] for c in same)
