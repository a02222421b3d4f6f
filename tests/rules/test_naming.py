"""Names for past rows: what is taken back and booked again cancels to the digit, whatever the row holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.labels import FREE_LABELS_MAX
from bursar.rules.naming import AMOUNTS, COUNTS, NoName, readable, rename, value
from bursar.rules.price import recompute

ROWS = ledger_rows.month(count=300)
texts = st.text(st.characters(categories=["L", "N"]), max_size=5)
said = st.dictionaries(st.sampled_from(["tenant", "feature", "flow", "user", "team", "pr"]), texts, min_size=1)


@given(st.sampled_from(ROWS), said)
def test_every_amount_cancels_and_every_leg_recomputes(row: Entry, names: dict[str, str]) -> None:
    made = rename(row, names)
    if made is None:
        assert all(value(row, name) == new for name, new in names.items())
        return
    again, back = made
    for name in (*COUNTS, *AMOUNTS):
        mine = getattr(row, name)
        assert getattr(again, name) == mine
        assert getattr(back, name) == (None if mine is None else -mine)
    assert recompute(back.legs) == -recompute(row.legs)
    assert all(value(again, name) == new for name, new in names.items())
    assert all(getattr(back, name) == getattr(row, name) for name in ("tenant", "feature", "flow", "user", "labels", "purpose", "ts"))
    assert (again.attempt_kind, back.attempt_kind, again.ts) == ("correction", "correction", row.ts)
    assert back.corrects == row.id and again.corrects == row.id


@given(st.sampled_from(ROWS), said, said)
def test_a_named_row_can_be_named_again_and_doing_it_twice_is_doing_it_once(
    row: Entry, one: dict[str, str], two: dict[str, str]
) -> None:
    made = rename(row, one)
    if made is None:
        return
    assert rename(row, one) == made
    assert rename(made[0], one) is None
    again = rename(made[0], two)
    if again is not None:
        assert again[1].corrects == made[0].id
        assert again[0].corrects == row.id
        assert again[0].flags == made[0].flags
        assert len({row.id, *(each.id for each in (*made, *again))}) == 5


def test_what_it_was_is_kept_for_the_counts() -> None:
    """A try counts as one under its new name, a refused one as a call only, a correction as neither."""
    row = ROWS[0]
    kinds = {
        "named": row,
        "named-refused": row._replace(status="refused"),
        "named-correction": row._replace(attempt_kind="correction", status="correction", flags="late"),
    }
    for flags, one in kinds.items():
        made = rename(one, {"team": "new"})
        assert made is not None
        assert (made[0].flags, made[1].flags) == (flags, f"un{flags}")


def test_the_purpose_can_be_named_and_a_retry_stays_one() -> None:
    row = ROWS[0]._replace(operation="primary", purpose="primary")
    made = rename(row, {"operation": "eval"})
    assert made is not None and (made[0].operation, made[0].purpose) == ("eval", "eval")
    again = rename(row._replace(operation="retry"), {"operation": "eval"})
    assert again is not None and (again[0].operation, again[0].purpose) == ("retry", "eval")


def test_an_empty_value_takes_a_name_away_and_says_who_did() -> None:
    row = ROWS[0]._replace(labels=json.dumps({"team": "red", "pr": "1"}), tenant="acme")
    made = rename(row, {"team": "", "tenant": ""})
    assert made is not None
    assert (made[0].tenant, json.loads(made[0].labels)) == ("", {"pr": "1"})
    assert json.loads(made[0].label_sources)["team"] == "named"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"cost": "0"}, "cost is no label"),
        ({"conversation": "x"}, "conversation is no label"),
        ({"operation": "retry"}, "one of primary, eval"),
        ({"team": "a\x1b"}, "printable"),
        ({"n" * 65: "a"}, "up to 64 characters"),
    ],
)
def test_what_can_be_no_name_is_refused_with_what_can(names: dict[str, str], told: str) -> None:
    with pytest.raises(NoName, match=told):
        readable(names)


def test_a_row_has_so_many_labels_and_no_more() -> None:
    row = ROWS[0]._replace(labels=json.dumps({f"n{n}": "x" for n in range(FREE_LABELS_MAX)}))
    with pytest.raises(NoName, match="take one away"):
        rename(row, {"another": "x"})
    assert rename(row, {"another": "x", "n0": ""}) is not None
