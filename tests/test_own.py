"""Calls that a control makes for itself: what of their answers is believed, and whom their rows are charged to."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from bursar.controls.own import Own, perform
from bursar.domain.call import Answer
from bursar.domain.entry import Entry, Settlement
from bursar.effects import Book, Effect, Reply

OWN = Own("sort", "tiers", "openai", "/v1/chat/completions", b"{}")


def inner(*statuses: str) -> Generator[Effect, Any, None]:
    """The effects of a call with so many tries, whose last answer says what a good one would."""
    for n, status in enumerate(statuses):
        row = Entry(id=f"c.{n}", ts=1, call="c", try_no=n + 1, status=status, cost=700 if status == "ok" else 30)
        yield Book(Settlement(row.id, row, (), ()))
    yield Reply(Answer(200 if statuses[-1] == "ok" else 500, [], b"cheap"))


@pytest.mark.parametrize(
    ("statuses", "body", "paid"),
    [(("ok",), b"cheap", 700), (("error",), None, 30), (("unknown",), None, 30), (("refused",), None, 30), (("error", "ok"), b"cheap", 730), (("ok", "error"), None, 730)],
)
def test_only_an_answer_that_was_booked_as_good_is_believed_and_every_try_is_paid(statuses: tuple[str, ...], body: bytes | None, paid: int) -> None:
    """An error's body may read like an answer. Its dollars are the control's all the same."""
    performed, rows = perform(inner(*statuses), OWN), []
    with pytest.raises(StopIteration) as ended:
        while True:
            effect = performed.send(None)
            assert isinstance(effect, Book), "what it would give its client stays here"
            rows.append(effect.settlement.entry)
    assert ended.value.value == (body, paid)
    assert [row.saved_by for row in rows] == ["tiers"] * len(statuses)
