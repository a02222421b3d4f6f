"""What reaches the terminal: figures that read well, hostile text made harmless, statements that foot or are not printed."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bursar.surfaces import tables
from bursar.surfaces.statement import DoesNotFoot, Sum, state

HOSTILE = ["\x1b[31mred", "a\rb", "a\nb", "\x07", "\x9b31m", "\u202etxt.exe", "a\u200bb", "\ud800", "\x00", "\u2028"]


@pytest.mark.parametrize("text", HOSTILE)
def test_control_and_direction_characters_are_shown_not_sent(text: str) -> None:
    made = tables.safe(text)
    assert made.isprintable()
    assert "\\" in made


@given(st.text())
def test_any_text_becomes_printable_and_printable_text_stays_as_it_is(text: str) -> None:
    assert tables.safe(text).isprintable()
    if text.isprintable():
        assert tables.safe(text) == text


def test_markup_in_a_label_is_text() -> None:
    out = Console(file=StringIO(), width=80, markup=False, highlight=False, emoji=False)
    out.print(tables.table([tables.Column("tenant")], [["[bold red]x[/] :smile:"]]))
    file = out.file
    assert isinstance(file, StringIO)
    assert "[bold red]x[/] :smile:" in file.getvalue()


def test_nobodys_spend_is_named_and_a_label_that_imitates_our_lines_stands_in_quotes() -> None:
    assert tables.label("") == tables.label(None) == "(unattributed)"
    assert tables.label("(unattributed)") == '"(unattributed)"'
    assert tables.label("TOTAL") == '"TOTAL"'
    assert tables.label("acme") == "acme"


def test_what_is_unknown_is_a_question_mark_never_zero() -> None:
    assert (tables.money(None), tables.count(None), tables.brief(None)) == ("?", "?", "?")
    assert (tables.money(0), tables.count(0), tables.brief(0)) == ("$0.00", "0", "0")


@pytest.mark.parametrize(("value", "text"), [
    (999, "999"), (1000, "1.00k"), (12_345, "12.3k"), (123_456, "123k"), (999_999, "999k"), (1_234_567, "1.23M"),
    (3_000_000_000_000, "3000G"), (20_500, "20.5k"), (10_000_000, "10.0M"),
])  # fmt: skip
def test_large_counts_have_three_digits(value: int, text: str) -> None:
    assert tables.brief(value) == text


@pytest.mark.parametrize(("part", "whole", "text"), [
    (1, 3, "33.3%"), (2, 3, "66.7%"), (1, 1, "100.0%"), (0, 5, "0.0%"), (5, 0, ""), (-1, 10, "-10.0%"), (1, 10**30, "0.0%"),
])  # fmt: skip
def test_shares_have_one_decimal_and_no_total_has_none(part: int, whole: int, text: str) -> None:
    assert tables.share(part, whole) == text


@pytest.mark.parametrize(("part", "whole", "text"), [(1, 3, "0.333333"), (5, 5, "1.000000"), (-1, 8, "-0.125000"), (0, 0, None)])
def test_shares_for_programs_are_decimal_strings(part: int, whole: int, text: str | None) -> None:
    assert tables.fraction(part, whole) == text


@pytest.mark.parametrize(("now", "before", "text"), [
    (110, 100, "+10%"), (50, 100, "-50%"), (100, 100, "="), (5, 0, "new"), (0, 0, "="), (5200, 400, "x13"), (0, 100, "-100%"),
])  # fmt: skip
def test_change_is_told_in_the_unit_that_reads(now: int, before: int, text: str) -> None:
    assert tables.change(now, before) == text


def test_a_document_is_one_json_value_with_escapes_kept_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    tables.document([{"tenant": "\x1b[31m\u202e\x9b"}], total={"cost": "1"})
    text = capsys.readouterr().out
    assert text.isascii() and "\x1b" not in text
    assert json.loads(text) == {"rows": [{"tenant": "\x1b[31m\u202e\x9b"}], "total": {"cost": "1"}}


# -- statements --------------------------------------------------------------------------------------------------------

sums = st.builds(Sum, *[st.integers(-(10**30), 10**30)] + [st.integers(0, 10**12)] * 6)
keys = st.tuples(st.one_of(st.none(), st.text(max_size=3)), st.one_of(st.none(), st.text(max_size=3)))


def added(parts: list[Sum]) -> Sum:
    whole = Sum()
    for part in parts:
        whole = whole.plus(part)
    return whole


@given(st.dictionaries(keys, sums, max_size=12), st.dictionaries(keys, sums, max_size=12), st.none() | st.integers(1, 14))
def test_lines_add_up_to_the_total_whatever_is_folded(now: dict, was: dict, top: int | None) -> None:
    made = state(
        ("a", "b"), now.items(), added(list(now.values())), top=top, earlier=was.items(), earlier_total=added(list(was.values()))
    )
    assert sum(line.now.cost for line in made.lines) == made.total.cost
    assert sum(line.before.cost for line in made.lines if line.before) == (made.before or Sum()).cost
    assert sum(line.other for line in made.lines) == (top is not None and len(set(now) | set(was)) > top)
    shown = [line.now.cost for line in made.lines if not line.other]
    assert shown == sorted(shown, reverse=True)


@given(st.dictionaries(keys, sums, min_size=1, max_size=5), st.sampled_from(["cost", "tries", "tokens", "unpriced"]))
def test_lines_that_do_not_add_up_are_no_statement(now: dict, name: str) -> None:
    total = added(list(now.values()))
    with pytest.raises(DoesNotFoot, match=name):
        state(("a", "b"), now.items(), total._replace(**{name: getattr(total, name) + 1}))


def test_a_line_that_was_only_there_before_is_shown_because_what_stopped_costing_is_news() -> None:
    made = state(("a",), [], Sum(), earlier=[(("x",), Sum(5))], earlier_total=Sum(5))
    assert made.lines[0].now == Sum() and made.lines[0].before == Sum(5)
