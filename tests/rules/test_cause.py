"""Why a call was made: what nobody said, inferred with its evidence; what somebody said stands."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from bursar.domain.call import Asked
from bursar.domain.history import Pairs, Reply, Use
from bursar.domain.labels import Labels
from bursar.domain.thread import CUT, FAILED, GOOD, MALFORMED, Again, Failing, Placed
from bursar.rules.cause import Cause, infer, looped, settled
from bursar.rules.loop import Finding
from wire.talks import Human, Says, Talk, history

HI = Human("Where is it?")
BAD = Says("", (("lookup_order", {"n": 1}, "Error: timed out after 10 s", False),))


def asked(talk: Talk = (HI,), **more: Any) -> Asked:
    return Asked(model="m", history=history("openai_chat", talk), **more)


def placed(
    again: Again | None = None, after: Again | None = None, failing: tuple[Failing, ...] = (), of: Asked | None = None
) -> Placed:  # fmt: skip
    """Only what causes are read from. `of`: the request whose failed tools it has."""
    failed = of.history.failed if of is not None and of.history is not None else ()
    return Placed("c1", "chain", 1, 0, 0, False, "", None, 0, again, after, failed, failing, 0, None, None, "c1", 0, 0, 0)  # type: ignore[arg-type]


def before(outcome: int, model: str = "m", why: str = "", body: bool = True, gap_s: int = 2) -> Again:
    return Again("call-1", outcome, why, model, body, gap_s * 1_000_000)


def calls(*tools: str) -> Reply:
    return Reply(uses=tuple(Use(f"u{n}", tool, n) for n, tool in enumerate(tools)))


def short(cause: Cause) -> tuple[str, str, str, str]:
    return cause.kind, cause.operation, cause.purpose, cause.cause


def test_a_call_like_any_other_has_no_cause() -> None:
    assert short(infer(b"0", asked(), Labels(), placed())) == ("first", "primary", "primary", "")
    assert infer(b"0", asked(), Labels(), None).confidence == 100


def test_an_sdk_numbers_its_own_retries() -> None:
    cause = infer(b"2", asked(), Labels(), placed(before(FAILED)))
    assert short(cause) == ("retry", "retry", "primary", "sdk_retry") and cause.confidence == 100
    assert dict(cause.evidence) == {"retry_count": 2, "of": "call-1"}
    assert infer(b"0", asked(), Labels(), None).kind == "first"


@pytest.mark.parametrize("outcome", [FAILED, CUT])
def test_the_same_request_after_it_failed_is_a_re_ask(outcome: int) -> None:
    """Within ten minutes; the same bytes are surer than the same messages. After a good answer it is none."""
    cause = infer(b"0", asked(), Labels(), placed(before(outcome, why="timeout")))
    assert short(cause) == ("retry", "retry", "primary", "reask") and cause.confidence == 95
    assert dict(cause.evidence) == {"of": "call-1", "after": "timeout", "gap_ms": 2000, "same_bytes": 1}
    assert infer(b"0", asked(), Labels(), placed(before(outcome, body=False))).confidence == 85
    assert infer(b"0", asked(), Labels(), placed(before(outcome, gap_s=601))).cause == ""
    assert infer(b"0", asked(), Labels(), placed(before(GOOD))).cause == ""


def test_another_model_after_a_failure_is_the_clients_own_fallback() -> None:
    """By the messages, which are the same in every API; also after a reply that would not parse."""
    cause = infer(b"0", asked(), Labels(), placed(before(FAILED, model="cheap", why="5xx", body=False)))
    assert short(cause) == ("fallback", "fallback", "primary", "5xx:cheap") and cause.confidence == 90
    assert dict(cause.evidence)["by"] == "client"
    cause = infer(b"0", asked(), Labels(), placed(before(MALFORMED, model="cheap", body=False)))
    assert short(cause)[:2] == ("fallback", "fallback") and cause.cause == "malformed:cheap"


def test_asking_again_for_output_that_parses_is_a_repair() -> None:
    """The same messages again, or words about it; by what we saw of the reply, else by the reply in the history."""
    assert short(infer(b"0", asked(), Labels(), placed(before(MALFORMED)))) == ("retry", "retry", "primary", "repair")
    broken: Talk = (HI, Says('{"a": 1'), Human("That is not valid JSON. Again, please."))
    seen = infer(b"0", asked(broken), Labels(), placed(after=before(MALFORMED)))
    assert seen.cause == "repair" and seen.confidence == 95 and dict(seen.evidence)["of"] == "call-1"
    anew: Talk = (HI, Says("Sure."), Human("Thanks, and tomorrow?"))  # whatever is said, if that could not be used
    assert infer(b"0", asked(anew), Labels(), placed(after=before(MALFORMED))).cause == "repair"
    assert infer(b"0", asked(anew), Labels(), placed(after=before(GOOD))).cause == ""
    demanded: Talk = (HI, Says("Sure! Here it is."), Human("Return JSON that matches the schema."))
    assert infer(b"0", asked(demanded, json_demanded=True), Labels(), placed()).confidence == 85
    assert infer(b"0", asked(broken), Labels(), placed()).confidence == 75
    for talk in ((HI, Says('{"a": 1}'), Human("That is not valid JSON.")), (HI, Says('{"a": 1'), Human("Thanks, and tomorrow?")), (HI, Says("Sure."), Human("What is valid?"))):  # fmt: skip
        assert infer(b"0", asked(talk), Labels(), placed()).cause == "", talk


def test_a_tool_that_failed_and_is_called_again_is_retried() -> None:
    """Known when the reply is; until then it is likely."""
    first = infer(b"0", asked((HI, BAD)), Labels(), placed(of=asked((HI, BAD))))
    assert short(first) == ("first", "retry", "primary", "tool:lookup_order") and first.confidence == 60
    again = settled(first, placed(), calls("lookup_order"))
    assert short(again) == ("first", "retry", "primary", "tool:lookup_order") and again.confidence == 90
    assert dict(again.evidence) == {"class": "retry", "why": "timeout", "bytes": first.failed[0].weight}
    assert settled(first, placed(), None) == first


def test_another_tool_or_a_word_to_the_person_is_a_switch() -> None:
    """The tool caused it, and it is no retry: the bill's retries are what the same tool was asked again."""
    first = infer(b"0", asked((HI, BAD)), Labels(), placed(of=asked((HI, BAD))))
    for reply in (calls("search"), calls()):
        cause = settled(first, placed(), reply)
        assert short(cause) == ("first", "primary", "primary", "switch:lookup_order")
        assert dict(cause.evidence)["class"] == "switch"


def test_of_several_failures_the_one_that_is_called_again_counts() -> None:
    two = Says("", (("a", {}, "Error: x", False), ("b", {}, "Error: y", False)))
    first = infer(b"0", asked((HI, two)), Labels(), placed(of=asked((HI, two))))
    assert settled(first, placed(), calls("b")).cause == "tool:b"
    assert settled(first, placed(), calls("c")).cause == "switch:a"


def test_a_result_in_doubt_is_a_failure_when_the_same_is_asked_again() -> None:
    """Nothing found: the same tool with other arguments, or a word to the person, is how work goes on."""
    nothing = Says("", (("search", {"q": "a"}, "", False),))
    found = asked((HI, nothing))
    assert found.history is not None
    (failed,) = found.history.failed
    cause = infer(b"0", found, Labels(), placed(of=found))
    assert short(cause) == ("first", "primary", "primary", "")
    again = settled(cause, placed(), Reply(uses=(Use("u", "search", failed.doubt),)))
    assert short(again) == ("first", "retry", "primary", "tool:search") and again.confidence == 55
    for other in (Reply(uses=(Use("u", "search", 1),)), calls("another"), Reply()):
        assert short(settled(cause, placed(), other)) == ("first", "primary", "primary", "")


def test_a_loop_is_the_cause_where_there_is_no_other_and_no_tool_that_fails() -> None:
    """A tool that failed again and again and then answered leaves a window full of the same: the call after it is plain work."""
    stuck, failed = (Pairs(("t",) * 8, array("Q", range(8)), array("Q", range(8)), array("Q", errors)) for errors in ([0] * 8, [7] * 5 + [0] * 3))
    stale, same = Finding("stale", ("t",), 8, 14), Finding("same", ("t",), 6)
    assert looped(Cause(), stale, stuck, True).cause == "loop" and looped(Cause(), stale, failed, True).cause == ""
    assert looped(Cause(), same, failed, True).cause == "loop"
    assert looped(Cause(cause="tool:t"), stale, stuck, True).cause == "tool:t"


def test_what_comes_again_to_the_letter_is_charged_before_it_must_be_stopped() -> None:
    """With less confidence: four times may still be patience. Little progress is not enough."""
    pairs = Pairs(("t",) * 4, array("Q", [1] * 4), array("Q", [1] * 4), array("Q", [0] * 4))
    for rule in ("same", "cycle"):
        early, late = (looped(Cause(), Finding(rule, ("t",), 4), pairs, stop) for stop in (False, True))
        assert early.cause == late.cause == "loop" and early.confidence < late.confidence
    for rule in ("stale", "error"):
        assert looped(Cause(), Finding(rule, ("t",), 8, 9), pairs, False).cause == ""
    flaky = Pairs(("t",) * 4, array("Q", [1] * 4), array("Q", [1, 2] * 2), array("Q", [7, 0] * 2))  # failed, answered, failed, answered
    assert looped(Cause(), Finding("cycle", ("t", "t"), 2), flaky, False).cause == ""


def test_a_failed_tool_is_retried_also_a_few_calls_later() -> None:
    """It looked elsewhere first."""
    state = placed(failing=(Failing("flaky", "error", 2),))
    cause = settled(infer(b"0", asked(), Labels(), state), state, calls("other", "flaky"))
    assert short(cause) == ("first", "retry", "primary", "tool:flaky") and dict(cause.evidence)["calls_since"] == 2
    assert settled(infer(b"0", asked(), Labels(), state), state, calls("other")).cause == ""
    assert settled(infer(b"0", asked(), Labels(), state), state, None).cause == ""


@pytest.mark.parametrize("word", ["eval", "background", "control"])
def test_the_purpose_is_kept_beside_the_attempt(word: str) -> None:
    """So that both partitions of the bill foot: an eval's tool retry is an eval and a retry."""
    labels = Labels(operation=word, sources=(("operation", "header"),))
    cause = infer(b"0", asked(), labels, placed())
    assert short(cause) == ("first", word, word, "") and dict(cause.evidence) == {"by": "header"}
    first = infer(b"0", asked((HI, BAD)), labels, placed(of=asked((HI, BAD))))
    assert short(settled(first, placed(), calls("lookup_order"))) == ("first", "retry", word, "tool:lookup_order")
    assert short(settled(first, placed(), calls())) == ("first", word, word, "switch:lookup_order")


def test_evals_are_known_by_label_key_or_build_service() -> None:
    assert infer(b"0", asked(), Labels(operation="eval", sources=(("operation", "key"),)), None).confidence == 100
    by_key = infer(b"0", asked(), Labels(), None, key="nightly-evals")
    assert by_key.purpose == by_key.operation == "eval" and by_key.confidence == 70 and dict(by_key.evidence)["by"] == "key"
    by_ci = infer(b"0", asked(), Labels(), None, ci="github")
    assert by_ci.purpose == "eval" and by_ci.confidence == 60 and dict(by_ci.evidence) == {"by": "ci", "ci": "github"}
    assert infer(b"0", asked(), Labels(), None, key="medieval").purpose == "primary"
    assert infer(b"0", asked(), Labels(operation="background"), None, key="evals", ci="github").purpose == "background"


def test_an_embedding_says_so_itself() -> None:
    assert short(infer(b"0", Asked(embedding=True), Labels(operation="embedding"), None)) == ("first", "embedding", "embedding", "")
    assert infer(b"0", Asked(embedding=True), Labels(operation="eval"), None).purpose == "eval"


def test_a_label_overrules_what_would_be_inferred() -> None:
    """`primary` says that this is no retry, whatever it looks like."""
    state = placed(before(FAILED))
    assert infer(b"0", asked((HI, BAD)), Labels(operation="primary"), state).cause == ""
    cause = infer(b"0", asked((HI, BAD)), Labels(operation="fallback"), state)
    assert short(cause) == ("fallback", "fallback", "primary", "label")
