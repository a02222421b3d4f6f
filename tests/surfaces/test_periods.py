"""Periods as people write them: what each form means, and what is said of the forms that mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.surfaces.periods import Period, iso, period, shown

DAY = 86_400_000_000


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOW = us("2026-11-18T15:00:00")  # a Wednesday


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("7d", (us("2026-11-11T15:00:00"), None, (us("2026-11-04T15:00:00"), us("2026-11-11T15:00:00")))),
        ("last 7 days", (us("2026-11-11T15:00:00"), None, (us("2026-11-04T15:00:00"), us("2026-11-11T15:00:00")))),
        ("24h", (us("2026-11-17T15:00:00"), None, (us("2026-11-16T15:00:00"), us("2026-11-17T15:00:00")))),
        ("30m", (us("2026-11-18T14:30:00"), None, (us("2026-11-18T14:00:00"), us("2026-11-18T14:30:00")))),
        ("2w", (us("2026-11-04T15:00:00"), None, (us("2026-10-21T15:00:00"), us("2026-11-04T15:00:00")))),
        ("today", (us("2026-11-18"), None, (us("2026-11-17"), us("2026-11-17T15:00:00")))),
        ("yesterday", (us("2026-11-17"), us("2026-11-18"), (us("2026-11-16"), us("2026-11-17")))),
        ("week", (us("2026-11-16"), None, (us("2026-11-09"), us("2026-11-11T15:00:00")))),
        ("last week", (us("2026-11-09"), us("2026-11-16"), (us("2026-11-02"), us("2026-11-09")))),
        ("Last  Week", (us("2026-11-09"), us("2026-11-16"), (us("2026-11-02"), us("2026-11-09")))),
        ("month", (us("2026-11-01"), None, (us("2026-10-01"), us("2026-10-18T15:00:00")))),
        ("last month", (us("2026-10-01"), us("2026-11-01"), (us("2026-09-01"), us("2026-10-01")))),
        ("this year", (us("2026-01-01"), None, (us("2025-01-01"), us("2025-11-18T15:00:00")))),
        ("2026-11-01", (us("2026-11-01"), None, None)),
        ("2026-10", (us("2026-10-01"), us("2026-11-01"), None)),
        ("2026-12", (us("2026-12-01"), None, None)),
        ("2026-11-01T09:30Z", (us("2026-11-01T09:30:00"), None, None)),
        ("2026-11-01T09:30+02:00", (us("2026-11-01T07:30:00"), None, None)),
    ],
)
def test_since_alone_means_from_there_to_now_or_to_the_end_of_what_it_names(since: str, expected: tuple[object, ...]) -> None:
    assert period(since, None, NOW) == Period(*expected)  # type: ignore[arg-type]


def test_nothing_said_is_the_whole_ledger() -> None:
    assert period(None, None, NOW) == Period()


def test_until_is_the_start_of_what_it_names_so_that_periods_meet_without_overlap() -> None:
    assert period("2026-11-01", "2026-11-08", NOW) == Period(us("2026-11-01"), us("2026-11-08"))
    assert period(None, "today", NOW) == Period(None, us("2026-11-18"))
    assert period("7d", "24h", NOW).until == NOW - DAY


def test_a_relative_start_with_an_end_is_compared_with_the_same_length_before_it() -> None:
    assert period("7d", "1d", NOW).before == (NOW - 13 * DAY, NOW - 7 * DAY)


def test_a_month_to_date_is_never_compared_with_more_than_the_month_before_has() -> None:
    """The 31st of March is day 31; February has 28, so the comparison ends where March begins."""
    now = us("2026-03-31T12:00:00")
    assert period("month", None, now).before == (us("2026-02-01"), us("2026-03-01"))


@pytest.mark.parametrize(
    "text", ["", "  ", "soon", "7", "d7", "0d", "999999w", "2026-13", "2026-02-30", "0001-01-01", "9999-12-31",
             "1.5d", "-7d", "2026-11-01T25:00", "last", "last fortnight", "\x1b[31m", "2026-11-01; drop table"],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_the_forms_that_do(text: str) -> None:
    if not text:
        return
    with pytest.raises(ValueError, match="2026-11-01"):
        period(text, None, NOW)


def test_a_period_that_ends_before_it_starts_is_refused_with_both_ends() -> None:
    with pytest.raises(ValueError, match=r"2026-11-01T00:00:00Z.*2026-11-08T00:00:00Z.*swap"):
        period("2026-11-08", "2026-11-01", NOW)


@given(st.text(max_size=24), st.text(max_size=24))
def test_any_text_is_a_period_or_a_value_error(since: str, until: str) -> None:
    try:
        found = period(since, until, NOW)
    except ValueError:
        return
    if found.since is not None and found.until is not None:
        assert found.since < found.until


@given(st.sampled_from(["7d", "24h", "week", "last week", "month", "last month", "yesterday", "today", "year"]),
       st.integers(us("1980-01-01"), us("2200-01-01")))  # fmt: skip
def test_a_relative_period_and_the_one_before_it_never_overlap(text: str, now: int) -> None:
    found = period(text, None, now)
    assert found.since is not None and found.since <= now
    if found.before is not None:
        assert found.before[0] < found.before[1] <= found.since


def test_times_are_written_in_iso_8601_utc_and_short_for_people() -> None:
    assert iso(us("2026-11-01T09:30:00")) == "2026-11-01T09:30:00Z"
    assert iso(us("2026-11-01") + 250_000) == "2026-11-01T00:00:00.250000Z"
    assert shown(us("2026-11-01")) == "2026-11-01"
    assert shown(us("2026-11-01T09:30:00")) == "2026-11-01 09:30"
