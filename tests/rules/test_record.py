"""The row of a try: what is known before stands in front, the outcome behind."""

from __future__ import annotations

import json

import pytest

from bursar.domain.call import Ended, Fault, Head, Reading
from bursar.domain.entry import Entry, Hold
from bursar.domain.price import Price, Priced, Rate
from bursar.domain.usage import Tokens, Unknown
from bursar.rules import price as pricing
from bursar.rules import record
from bursar.rules.cause import PRIMARY, Cause

DRAFT = Entry("c.1", 1, "c", 1, tenant="acme", flags="fault_open", model_served="asked", service_tier="")
PLAIN = Price("book/x/y", "x", "y", {"input": Rate(2 * 10**9), "output": Rate(8 * 10**9)})


def row(
    tokens: Tokens | None, price: Price | None = PLAIN, *, status: int = 200, how: str = "complete", complete: bool = True, error: str = "",
    cause: Cause = PRIMARY, flag: str = "",
) -> Entry:  # fmt: skip
    """The row of a try that had this outcome."""
    priced = pricing.bill(tokens, price) if tokens is not None else Priced("priced", 0, (), record.NOT_BILLED)
    return record.complete(
        Hold("c.1", 1, 10**9, (), DRAFT), Head(status, [], 7, 5_000), Ended(how, fault=Fault("reset", "", True) if how == "fault" else None),
        Reading(usage=Unknown(""), complete=complete, error=error), record.Weighed(tokens, "provider", priced, "", flag),
        record.Story(None, PRIMARY), cause, None,
    ).entry  # fmt: skip


def test_what_a_row_does_not_know_for_sure_it_says_in_words() -> None:
    """Beside the words it had: a contradiction of the provider's, and units without a rate of their own."""
    known = row(Tokens(10, output=5))
    assert known.flags == "fault_open"
    odd = row(Tokens(10, cache_read=3, output_audio=4), flag="contradiction")
    assert odd.flags == "fault_open contradiction missing:cache_read,output_audio"
    assert json.loads(odd.other_units) == {"output_audio": 4}


def test_a_row_says_why_its_call_was_made_as_it_is_known_in_the_end() -> None:
    """The reply may tell: a tool that failed and is called again."""
    assert row(Tokens(1))[:33] == DRAFT[:33]
    known = row(Tokens(1), cause=Cause("first", "retry", "primary", "tool:search"))
    assert known[:33] == DRAFT._replace(operation="retry", cause="tool:search")[:33]


@pytest.mark.parametrize(
    ("what", "want"),
    [({}, ("ok", "complete", "")), ({"complete": False}, ("error", "incomplete", "")), ({"how": "client_gone"}, ("ok", "abandoned", "")),
     ({"how": "client_gone", "error": "overloaded"}, ("error", "abandoned", "overloaded")), ({"status": 500}, ("error", "failed", "")),
     ({"how": "fault"}, ("error", "failed", "reset")), ({"how": "fault", "error": "overloaded"}, ("error", "failed", "overloaded")),
     ({"error": "overloaded"}, ("error", "failed", "overloaded")), ({"how": "stopped", "complete": False}, ("error", "incomplete", ""))],
    ids=str,
)  # fmt: skip
def test_how_a_try_ended(what: dict, want: tuple[str, str, str]) -> None:
    found = row(Tokens(1), **what)
    assert (found.status, found.ended, found.error) == want


def test_what_has_no_price_has_no_parts() -> None:
    """Unknown is never zero: neither the sum nor any part or class of it."""
    found = row(Tokens(100, output=5), None)
    assert found.price_status == "unpriced" and found.input == 100
    assert {found.cost, found.cost_input, found.cost_output, found.cost_other, found.cost_new, found.cost_system} == {None}
    assert row(None).input is None and row(None).cost == 0
