"""A cheap model that says which tier: paid as control, asked no longer than it may take, turned off where it loses."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from control_rig import acme, post, provider, rows, served

from bursar.effects import Sorted
from bursar.surfaces import controls, settings
from bursar.testing.invoice import Buckets
from bursar.testing.provider import Provider as Scripted
from bursar.testing.script import Say, Seen

__all__ = ["provider"]

TIERS = '[tiers]\ncheap = "gpt-5-mini"\nstandard = "gpt-5.1"\npremium = "gpt-5"\nclassifier = "gpt-5-nano"\nclassifier_within_s = 1.0\n'
USED = Buckets(input=50_000, output=200)


def auto(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "bursar/auto", "messages": [{"role": "user", "content": text}], **more}


def sorts(seen: Seen) -> Say:
    """The classifier knows hard questions by their first word; the others answer."""
    if seen.model == "gpt-5-nano":
        return Say(text="Premium." if "prove" in seen.raw.decode() else "cheap")
    return Say(text="An answer.", usage=USED)


def test_the_cheap_model_says_which_tier_and_is_paid_as_control(tmp_path: Path, provider: Scripted) -> None:
    """A row of its own with a hold; books and invoice agree; what is saved is net of it in the statement."""
    provider.script = sorts
    with served(tmp_path, provider, TIERS) as handle:
        easy, body = post(handle, auto("what time is it"), **acme(x_bursar_feature="quiz"))
        hard, _ = post(handle, auto("prove that it converges"), **acme(x_bursar_feature="quiz"))
    assert easy.headers["x-bursar-tier"] == "cheap" and hard.headers["x-bursar-tier"] == "premium"
    assert b"An answer." in body and b"cheap" not in body
    made = rows(tmp_path)
    control = [row for row in made if row["operation"] == "control"]
    assert [(row["saved_by"], row["tenant"], row["feature"], row["status"]) for row in control] == [("tiers", "acme", "quiz", "ok")] * 2
    assert all(row["cost"] > 0 and row["hold"] >= row["cost"] for row in control)
    answers = [row for row in made if row["operation"] != "control"]
    assert [row["route_reason"] for row in answers] == ["classifier", "classifier"] and answers[0]["saved"] > 0
    assert sum(row["cost"] for row in made) == sum((line.dollars for line in provider.invoice.lines), Decimal(0))


@pytest.mark.parametrize(
    "says", [Say(status=500), Say(text="I think that premium would do"), Say(wait_s=300), Say(fault="reset")], ids=["500", "prose", "hangs", "reset"]
)
def test_where_it_gives_no_answer_the_rules_go_on(tmp_path: Path, provider: Scripted, says: Say) -> None:
    """After the limit at the latest; the row says so, and the client has its answer from the tier without a classifier."""
    provider.script = lambda seen: says if seen.model == "gpt-5-nano" else Say(text="An answer.")
    with served(tmp_path, provider, TIERS) as handle:
        answer, body = post(handle, auto("what time is it"), **acme())
    assert answer.status == 200 and b"An answer." in body and answer.headers["x-bursar-tier"] == "standard"
    last = next(row for row in rows(tmp_path) if row["operation"] != "control")
    assert last["route_reason"] == "classifier gave no answer; default"


def test_what_a_budget_says_in_its_place_is_no_answer(tmp_path: Path, provider: Scripted) -> None:
    """A stop in the form of a reply, whose words happen to name a tier."""
    provider.script = sorts
    stop = '[guard]\nreply = "premium"\n[[budget]]\nname = "own"\nscope = {operation = "control"}\nlimit = "1 calls"\nstop = "reply"\n'
    with served(tmp_path, provider, TIERS + stop) as handle:
        tiers = [post(handle, auto(f"what time is it {n}"), **acme())[0].headers["x-bursar-tier"] for n in range(2)]
    assert tiers == ["cheap", "standard"]


def test_it_is_asked_only_where_the_tier_is_left_open(tmp_path: Path, provider: Scripted) -> None:
    """Not for a named tier or model, not for a rule in shadow, not in a conversation that is under way, not after tools."""
    provider.script = sorts
    shadow = '[[route]]\nwhen = {feature = "f"}\ntier = "auto"\n'
    results = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "x", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]
    with served(tmp_path, provider, TIERS + shadow) as handle:
        post(handle, {**auto("hello"), "model": "bursar/cheap"}, **acme())
        post(handle, {**auto("hello"), "model": "gpt-5"}, **acme(x_bursar_feature="f"))
        post(handle, {**auto(""), "messages": results}, **acme())
        assert all(seen.model != "gpt-5-nano" for seen in provider.seen)
        for text in ("prove one", "and another thing"):
            post(handle, auto(text), **acme(x_bursar_conversation="c1"))
    assert sum(seen.model == "gpt-5-nano" for seen in provider.seen) == 1
    made = [row["route_reason"] for row in rows(tmp_path) if row["operation"] != "control"]
    assert made[-1] == "classifier:earlier"


def test_a_classifier_that_loses_turns_itself_off_and_one_that_fails_is_left_alone() -> None:
    """After 200 calls with net savings below zero; after three failures in a row for a minute."""
    its = controls.Classifiers()
    for n in range(200):
        assert not its.quiet("f", n)
        its.count(Sorted("f", n, 100, 0, 200 + n % 3, True))
    assert "off, it loses" in its.quiet("f", 200) and not its.quiet("g", 200)
    for n in range(3):
        assert not its.quiet("g", n)
        its.count(Sorted("g", n, 0, 0, 0, False))
    assert "failed" in its.quiet("g", 3) and not its.quiet("g", 3 + controls.RESTS_US)
    for n in range(300):
        its.count(Sorted("wins", n, 500, 0, 20, True))
    assert not its.quiet("wins", 10**9)


def test_a_classifier_needs_two_tiers_and_a_time() -> None:
    with pytest.raises(settings.BadPolicy, match="not two of them"):
        settings.parse('[tiers]\ncheap = "a"\nclassifier = "b"\n')
    with pytest.raises(settings.BadPolicy, match="at most 60"):
        settings.parse('[tiers]\ncheap = "a"\npremium = "c"\nclassifier = "b"\nclassifier_within_s = 0.0\n')


@pytest.mark.parametrize(("policy", "model"), [("", "bursar/auto"), ('[tiers]\ncheap = "gpt-5-nano"\n', "bursar/auto"), ("", "bursar/cheap"), ("", "bursar/best")])
def test_a_tiers_name_that_no_model_answers_to_is_refused_with_a_remedy(tmp_path: Path, provider: Scripted, policy: str, model: str) -> None:
    """It never reaches a provider; the row says why."""
    with served(tmp_path, provider, policy) as handle:
        answer, body = post(handle, {**auto("hello"), "model": model}, **acme())
    told = json.loads(body)["error"]
    assert answer.status == 400 and told["code"] == "unknown_tier" and "[tiers]" in json.dumps(told)
    assert not provider.seen
    (row,) = rows(tmp_path)
    assert (row["status"], row["error"], row["cost"]) == ("refused", "unknown_tier", 0)


def test_a_cache_that_a_reload_switches_on_outlives_the_gateway(tmp_path: Path, provider: Scripted) -> None:
    """As one that was on from the start."""
    policy = tmp_path / "bursar.toml"
    place = f'[providers.openai]\nbase_url = "{provider.url}"\nkey = "sk-own"\n[watch]\nevery_s = 0\n'
    body = {"model": "gpt-5-mini", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
    from bursar.surfaces import gateway

    found = []
    for text in (place, place + "[cache]\nexact = true\n"):
        policy.write_text(text)
        handle = gateway.serve_in_thread(ledger=tmp_path / "ledger", config=policy)
        try:
            policy.write_text(place + "[cache]\nexact = true\n")
            assert "in force" in handle.gateway.reload()
            found.append(post(handle, body, **acme())[0].headers["x-bursar-cache"])
        finally:
            handle.stop()
    assert found == ["miss", "hit"]
