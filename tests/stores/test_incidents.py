"""Incidents in the ledger's file: bounded, and nothing that was told of their money is lost with them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.incident import Incident
from bursar.stores import incidents
from bursar.stores.incidents import DAY_US
from bursar.stores.reader import Reader
from bursar.stores.schema import opened, transaction

from .books import T0

MADE = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["stopped", "refused"]), st.sampled_from(["", "", "open"]), st.sampled_from(["", "team"]),
        st.integers(0, 9 * 10**18),
    ),
    min_size=20, max_size=60,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(MADE, st.integers(-1, 4), st.integers(0, 65), st.integers(1, 9))
def test_whatever_is_summed_up_the_calls_and_dollars_stay_to_the_digit(
    tmp_path_factory: object, made: list[tuple[int, str, str, str, int]], days: int, most: int, lot: int
) -> None:
    """Also where a day's dollars pass 64 bits. Those that wait for a person stay, the others go by age and by number."""
    folder = tmp_path_factory.mktemp("ledger")  # type: ignore[attr-defined]
    start = T0 // DAY_US * DAY_US
    with opened(folder) as connection:
        with transaction(connection):
            incidents.write(connection, [
                Incident(f"k{n}", start + day * DAY_US + n, act, "budget_exceeded", "why", budget, state=state, kept=kept)
                for n, (day, act, state, budget, kept) in enumerate(made)
            ])  # fmt: skip
        before = start + days * DAY_US
        done = lot
        while done == lot:
            with transaction(connection):
                done = incidents.sum_up(connection, before, most, lot)
        left = incidents.listed(connection, most=100)
        sums = incidents.summed(connection)
        assert sum(one.calls for one in left) + sum(day.calls for day in sums) == len(made)
        assert len(left) + sum(day.incidents for day in sums) == len(made)
        assert incidents.total(connection) == (len(made), len(made), sum(one[-1] for one in made), False)
        stopped = [one for one in made if one[1] == "stopped"]
        assert incidents.total(connection, ["stopped"]) == (len(stopped), len(stopped), sum(one[-1] for one in stopped), False)
        of_team = [one for one in left if one.budget == "team"]
        wanted = (len(of_team), len(of_team), sum(one.kept for one in of_team), bool(sums))
        assert incidents.total(connection, where=[("budget", ["team"], False)]) == wanted
        assert incidents.total(connection, where=[("budget", ["", "other"], True)]) == wanted
        assert incidents.total(connection, where=[("", ["x"], False)]).incidents == 0  # of a free label they hold nothing
        assert incidents.total(connection, where=[("", [""], False), ("latency", ["x"], True)]).incidents == len(left)
        assert sum(one.kept for one in left) + sum(day.kept for day in sums) == sum(one[-1] for one in made)
        assert sum(one.state == "open" for one in left) == sum(state == "open" for _, _, state, _, _ in made)
        assert all(one.last_ts >= before or one.state == "open" for one in left)
        assert len(left) <= max(most, sum(one.state == "open" for one in left))
    with Reader(folder) as reader:
        rows = reader.sql("SELECT sum(kept) AS kept, min(day) AS day FROM incident_days")
    assert rows[0]["kept"] == (Decimal(sum(day.kept for day in sums)).scaleb(-12) if sums else None)
    first = datetime.fromtimestamp(min(day.day for day in sums) * 86_400, UTC).date() if sums else None
    assert rows[0]["day"] == first


def test_an_incident_that_goes_on_after_it_was_summed_up_begins_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        for at, cut in ((T0, T0 + 1), (T0 + 400 * DAY_US, T0)):
            with transaction(connection):
                incidents.write(connection, [Incident("k", at, "stopped", "x", "why", kept=7)])
                incidents.sum_up(connection, cut)
        (one,) = incidents.listed(connection)
        assert (one.calls, one.kept, one.ts) == (1, 7, T0 + 400 * DAY_US)
        assert [(day.incidents, day.kept) for day in incidents.summed(connection)] == [(1, 7)]
        assert incidents.summed(connection, T0 + DAY_US) == [] == incidents.summed(connection, 0, T0 // DAY_US * DAY_US)
