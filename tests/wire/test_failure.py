"""Which answers of tools are failures, and which only talk about them."""

from __future__ import annotations

import json
import time

import pytest

from bursar.domain.history import Result, long_lines
from bursar.wire import canon, failure
from bursar.wire.history import Signs
from wire.talks import NAMES, Human, Says, asked, body, history, messages


def answer(text: str, flagged: bool = False, signs: tuple[failure.Sign, ...] = ()) -> Result:
    return canon.result("id", "tool", text, flagged, len(text), signs)[0]


FAILED = [
    ("Error: lookup_order timed out after 10 s", "timeout"),
    ("Error: no such order A-17", "error"),
    ("ERROR - the index is locked", "error"),
    ("error 500: internal", "error"),
    ("<error>path does not exist</error>", "error"),
    ("[ERROR] cannot reach the warehouse", "error"),
    ("Tool error: invalid arguments", "error"),
    ("Tool `search` failed: quota", "error"),
    ("Function lookup not found", "error"),
    ("Unknown tool: serch", "error"),
    ("Failed to fetch https://x: connection refused", "error"),
    ("Command timed out after 120 seconds", "timeout"),
    ("Traceback (most recent call last):\n  File \"x.py\", line 3\nKeyError: 'a'", "exception"),
    ("ValueError: not a date", "exception"),
    ("requests.exceptions.ReadTimeout: HTTPSConnectionPool: Read timed out.", "timeout"),
    ("java.lang.NullPointerException: null", "exception"),
    ("panic: runtime error: index out of range", "exception"),
    ("HTTP 503 Service Unavailable", "http"),
    ("404 Not Found", "http"),
    ("Error: 429 Too Many Requests", "http"),
    ("status code: 401, Unauthorized", "http"),
    ("upstream request timed out", "timeout"),
    ("connect ECONNREFUSED 10.0.0.1:5432", "error"),
    ("rate limit exceeded, try again in 20s", "error"),
    ('{"error": "not found"}', "error"),
    ('{"error": {"code": 404, "message": "no such user"}, "request_id": "r-1"}', "error"),
    ('{"status": "error", "message": "the order service is down"}', "error"),
    ('{"success": false, "message": "no stock"}', "error"),
    ('{"ok": false, "error": "channel_not_found", "data": null}', "error"),
    ('{"statusCode": 502, "message": "bad gateway"}', "http"),
    ('{"error": "request timed out"}', "timeout"),
    ('{"isError": true, "content": [{"type": "text", "text": "boom"}]}', "flag"),
]  # fmt: skip

FINE = [
    "The error log has 12 entries.", "Errors: 0", "Failed: none", "failed: 0, passed: 12", "Error handling in Go\n\nGo has no exceptions.",
    "No results found.", "no results", "[]", "{}", "null", "", "ok", "0", "pending",
    '{"status": "failed", "id": "pay_1", "amount": 5}', '{"order": "A-1", "status": "error", "eta": null}',
    '{"id": 7, "error": null, "rows": [1]}', '{"errors": [], "data": {"x": 1}}', '{"level": "error", "line": 4, "text": "disk"}',
    '{"results": [{"title": "HTTP 500 explained"}], "count": 1}', '{"code": 200, "message": "done"}', '{"success": true, "message": "error rate is 0"}',
    '{"build": "b1", "error": "exit 2", "log": "gcc: ..."}',
    "============ test session starts ============\n3 failed, 12 passed in 0.52s\nE   ValueError: x",
    "def f():\n    raise ValueError('Error: no')", "grep: Error: 3 matches in app.py", "There was a timeout in 2019. " * 20,
    "The deadline is Monday.", "Exceptional results were seen.", "404 parcels were shipped.", "500", "Error-free since May.",
    "[File: /src/error/handler.py (120 lines total)]\n1:import os", "User said: 'Error: it broke'", "Failure rate by month\nJan 2%",
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), FAILED, ids=lambda v: v[:30])
def test_a_failure_says_so_at_once(text: str, why: str) -> None:
    found = answer(text)
    assert found.failed == why and found.error


@pytest.mark.parametrize("text", FINE, ids=lambda v: v[:30])
def test_an_answer_that_talks_about_errors_is_an_answer(text: str) -> None:
    """Logs, records with a status of their own, test reports, code, titles, empty lists."""
    assert answer(text).failed == ""


def test_a_flag_is_somebodys_word() -> None:
    assert answer("all is well", flagged=True).failed == "flag"
    assert answer("gave up: request timed out", flagged=True).failed == "timeout"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_where_a_tool_otherwise_answers_json_is_a_failure(name: str) -> None:
    """Empty or broken JSON, once the tool has shown what it answers; text that was cut on the way is not the tool's doing."""
    good = Says("", (("lookup", {"n": 1}, '{"state": "shipped"}', False),))

    def newest(result: str, *before: Says) -> list[str]:
        found = history(name, (Human("go"), *before, Says("", (("lookup", {"n": 2}, result, False),)))).failed
        return [f.why for f in found if not f.doubt]

    assert newest("", good) == ["empty"] and newest("") == []
    assert newest('{"state": "shi', good) == ["malformed"] and newest('{"state": "shi') == []
    assert newest('{"state": "a", "log": "' + "x" * 200 + "... [truncated]", good) == []
    assert newest("it is shipped", good) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("result", "why"),
    [("", "empty"), ("null", "empty"), ('{"state": "shi', "malformed"), ('{"output": "1 failed", "metadata": {"exit_code": 1}}', "exit_code")],
)
def test_a_result_that_may_be_meant_so_is_in_doubt_until_the_same_is_asked_again(name: str, result: str, why: str) -> None:
    """Nothing found, a text that only looks like JSON, a test that fails: answers, unless the agent asks once more in the same words."""
    again, other = (Says("", (("lookup", {"n": n}, result, False),)) for n in (2, 3))
    (first,) = history(name, (Human("go"), again)).failed
    assert first.why == why and first.doubt
    (second,) = history(name, (Human("go"), again, again)).failed
    assert second.why == why and not second.doubt
    (elsewhere,) = history(name, (Human("go"), again, other)).failed
    assert elsewhere.doubt and elsewhere.doubt != first.doubt


def test_a_program_that_ended_well_has_not_failed() -> None:
    for text in ('{"output": "ok", "metadata": {"exit_code": 0}}', '{"exit_code": false}', '{"metadata": "exit_code 1"}', '{"exit_code": "1"}'):
        assert history("openai_responses", (Human("go"), Says("", (("shell", {}, text, False),)))).failed == ()


def test_the_operators_own_patterns_count_for_their_tool() -> None:
    """`edit` of a coding agent reports its failures in words of its own."""
    signs = (failure.sign("bad_edit", "edit", r"^Your proposed edit has introduced"), failure.sign("gone", "", r"^gone$"))
    assert {name for _, name in answer("Your proposed edit has introduced new syntax error(s).", signs=signs).own} == {"bad_edit"}
    talk = (Human("go"), Says("", (("edit", {}, "Your proposed edit has introduced errors", False), ("view", {}, "Your proposed edit has introduced errors", False), ("view", {}, "gone", False))))
    found = history("openai_chat", talk, Signs(signs))
    assert [(f.tool, f.why) for f in found.failed] == [("edit", "bad_edit"), ("view", "gone")]
    with pytest.raises(ValueError, match="not a regular expression"):
        failure.sign("x", "", "(")


def test_googles_wrapper_of_an_exception_is_a_failure() -> None:
    said = messages("gemini_generate", (Human("go"), Says("", (("f", {}, "x", False),))))
    said[-1]["parts"][0]["functionResponse"]["response"] = {"error": "KeyError: 'a'"}
    found = asked("gemini_generate", body("gemini_generate", said)).history
    assert found is not None and [f.why for f in found.failed] == ["flag"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("done at 2026-03-03T10:00:01Z", "done at 2026-03-03T10:00:09.123+01:00", True),
        ("12:00:01 polled", "12:00:31 polled", True),
        ("took 0.52s", "took 0.61s", True),
        ("trace 0af7651916cd43dd8448eb211c80319c", "trace 4bf92f3577b34da6a3ce929d0e0e4736", True),
        ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "id 9b2504e0-4f89-11d3-9a0c-0305e82c3302", True),
        ("at 0x7f3a1c02 pending", "at 0x7f3a1c99 pending", True),
        ("epoch 1767225600", "epoch 1767225661", True),
        ("page 1: A-1, A-2", "page 2: A-3, A-4", False),
        ("price 12.50", "price 12.75", False),
        ("flight on 2026-03-03", "flight on 2026-03-04", False),
        ("order 20318", "order 20319", False),
        ("x" * 5000 + " tail 1", "x" * 5000 + " tail 2", False),
    ],
)  # fmt: skip
def test_the_same_result_at_another_moment_is_the_same(one: str, other: str, same: bool) -> None:
    """Moments, durations and long ids are masked; numbers that mean something are not."""
    assert (answer(one).digest == answer(other).digest) is same


def test_masking_leaves_the_chain_alone() -> None:
    """Identity is by what was said to the letter."""
    ends = {history("openai_chat", (Human("go"), Says("", (("f", {}, f"at 12:00:0{n}", False),)))).end.chain for n in range(3)}
    assert len(ends) == 3


@pytest.mark.parametrize("text", ["a" * 200_000, "error " * 40_000, "Failed to x " * 20_000, "0123456789abcdef" * 20_000, "12:00:00" * 30_000,
                                  "a.b." * 50_000 + "Error:", json.dumps({"error": "x" * 200_000})], ids=lambda v: v[:12])  # fmt: skip
def test_no_text_makes_a_pattern_run_away(text: str) -> None:
    """Strangers write what tools answer: a megabyte takes milliseconds."""
    start = time.perf_counter()
    answer(text)
    failure.of_text(text)
    canon.fingerprint(text)
    long_lines(text)
    assert time.perf_counter() - start < 0.25
