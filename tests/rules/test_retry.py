"""After a failed try: which failures are worth another request, and how long to wait."""

from __future__ import annotations

import pytest

from bursar.domain.call import Reading
from bursar.rules import retry

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("status", "error", "message", "kind", "terminal"),
    [
        (429, "rate_limit_exceeded", "slow down", "429", False),
        (429, "insufficient_quota", "you exceeded your current quota", "429", True),
        (429, "RESOURCE_EXHAUSTED", "GenerateRequestsPerDayPerProject", "429", True),
        (529, "overloaded_error", "", "429", False),
        (500, "", "", "5xx", False),
        (503, "", "", "5xx", False),
        (400, "invalid_request_error", "", "client", True),
    ],
)
def test_failures_are_named_in_the_words_of_the_policy(status, error, message, kind, terminal):
    """Three kinds of 429 never go away by waiting; retrying them only delays the bad news."""
    failure = retry.classify(status, [], Reading(error=error, error_message=message), NOW)
    assert failure is not None and (failure.kind, failure.terminal) == (kind, terminal)


def test_a_good_answer_is_no_failure_and_a_malformed_one_is():
    """A 200 that cannot be used is a failure of its own kind: a fallback may catch it."""
    assert retry.classify(200, [], Reading(), NOW) is None
    failure = retry.classify(200, [], Reading(malformed="tool arguments are not JSON"), NOW)
    assert failure is not None and failure.kind == "malformed"


def test_a_request_that_may_have_been_billed_is_not_sent_again():
    """A timeout after sending may be billed: a second request would pay twice for one answer."""
    assert retry.wait_before_retry(retry.fault_failure("headers_timeout", True), 0, 3) is None
    assert retry.wait_before_retry(retry.fault_failure("reset", True), 0, 3) is None
    assert retry.wait_before_retry(retry.fault_failure("connect_timeout", False), 0, 3) is not None


def test_retry_after_is_honoured_up_to_a_bound():
    """Seconds, milliseconds or a date; an hour is the client's decision, not ours."""

    def failure(value):
        return retry.classify(503, [(b"retry-after", value)], Reading(), NOW)

    assert retry.wait_before_retry(failure(b"7"), 0, 1) == 7.0
    assert retry.wait_before_retry(failure(b"Mon, 21 Sep 2026 14:13:30 GMT"), 0, 1) == 10.0
    assert retry.wait_before_retry(failure(b"3600"), 0, 1) is None
    assert retry.wait_before_retry(failure(b"soon"), 0, 1) == retry.BACKOFF_S[0]
    assert retry.wait_before_retry(failure(b"1"), 1, 1) is None
