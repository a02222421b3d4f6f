"""What a bill was spent on, in a few lines: they never overlap, say most, and name the sharpest thing there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bursar.rules import drivers as rules
from bursar.rules.drivers import MOST, ORDER, Cell, choose, phrase

DIMS = ("conversation", "cause", "purpose", "operation", "tenant", "feature", "model_served")


def cell(cost: int, **said: str) -> Cell:
    """A cell of ordinary work of nobody in particular, but for what is said."""
    ordinary = {"purpose": "primary", "operation": "primary", "tenant": "", "feature": "", "model_served": "m"}
    return Cell(tuple({**dict.fromkeys(DIMS, ""), **ordinary, **said}[name] for name in DIMS), cost)


def told(cells: list[Cell], most: int | None = None) -> list[tuple[str, int]]:
    """The lines as people get them, the dearest first."""
    return sorted([(phrase(one.name, one.value), one.cost) for one in choose(DIMS, cells, most)], key=lambda line: -line[1])


WEEK = [
    cell(400, tenant="x", feature="research"),
    cell(300, tenant="internal", feature="evals", purpose="eval", operation="eval"),
    cell(170, tenant="internal", feature="search", purpose="embedding", operation="embedding"),
    cell(130, tenant="a", feature="orders", operation="retry", cause="tool:lookup_order"),
    cell(70, tenant="b", feature="orders", operation="retry", cause="tool:lookup_order"),
    *[cell(18, tenant=t, feature=f) for t in "abc" for f in ("orders", "chat")],
]


def test_a_bill_is_told_by_what_and_for_whom_and_why() -> None:
    """The tenant `internal` and the feature `orders` are larger than what is told instead of them: most of either is one
    sharper thing."""
    assert told(WEEK) == [("customer x", 400), ("evals", 300), ("asking again after lookup_order failed", 200)]


def test_so_many_lines_as_are_asked_for() -> None:
    assert told(WEEK, 1) == [("evals", 300)]
    assert told(WEEK, 4) == [*told(WEEK), ("embeddings", 170)]
    assert sum(cost for _, cost in told(WEEK, 50)) == sum(one.cost for one in WEEK)
    many = [cell(10, tenant=f"t{n}") for n in range(20)]
    assert (len(told(many)), len(told(many, 50))) == (MOST, 20)


def test_a_part_of_a_line_is_not_told_again() -> None:
    """Evals that belong to a customer who is told already are not in the line of evals."""
    cells = [
        cell(500, tenant="x"),
        cell(100, tenant="x", purpose="eval"),
        cell(300, tenant="y", purpose="eval"),
        cell(100, tenant="z"),
    ]
    found = choose(DIMS, cells)
    assert [(one.value, one.cost, one.without) for one in found] == [("x", 600, ()), ("eval", 300, (("tenant", "x"),))]


def test_what_everything_has_in_common_is_no_driver() -> None:
    """One tenant, one feature, ordinary calls: all that is left to say is which model."""
    same = {"tenant": "acme", "feature": "chat"}
    assert told([cell(60, **same, model_served="dear"), cell(40, **same, model_served="cheap")], 5) == [
        ("model dear", 60),
        ("model cheap", 40),
    ]


def test_unlabelled_and_ordinary_money_is_everything_else() -> None:
    assert told([cell(900), cell(80, tenant="a")]) == [("customer a", 80)]
    assert told([]) == told([cell(0, tenant="a"), cell(0)]) == []


def test_one_dear_conversation_is_told_rather_than_its_customer() -> None:
    cells = [cell(90, tenant="a", conversation="c1"), cell(10, tenant="a"), cell(60, tenant="b"), cell(40, tenant="c")]
    assert told(cells)[0] == ("conversation c1", 90)


def test_money_given_back_is_never_a_line() -> None:
    """Corrections can make a slice negative."""
    assert [name for name, _ in told([cell(-50, tenant="a"), cell(100, tenant="b"), cell(30, tenant="c")], 9)] == [
        "customer b",
        "customer c",
    ]


values = st.sampled_from(["", "a", "b", "c", "primary"])
cells = st.lists(
    st.builds(lambda v, c: Cell(tuple(v), c), st.lists(values, min_size=7, max_size=7), st.integers(-50, 1000)), max_size=40
)


def test_a_slice_that_corrections_took_below_zero_names_no_other() -> None:
    """Tenant b cost 5 in feature f, and was given back 9 elsewhere: f is not told as b."""
    cells = [cell(5, feature="f", tenant="b"), cell(-9, feature="g", tenant="b"), cell(20, feature="g", tenant="a")]
    assert told(cells) == [("customer a", 20)]
    assert [one.name for one in choose(DIMS, [cell(5, feature="f", tenant="b"), cell(-6, tenant="b"), cell(9)])] == ["feature"]


@given(cells, st.none() | st.integers(1, 9), st.randoms())
def test_lines_claim_every_cell_once_at_most_and_in_any_order_of_the_cells(made: list[Cell], most: int | None, chance) -> None:  # type: ignore[no-untyped-def]
    found = choose(DIMS, made, most)
    claimed: set[int] = set()
    for one in found:
        at = DIMS.index(one.name)
        mine = {
            n
            for n, each in enumerate(made)
            if each.values[at] == one.value and all(each.values[DIMS.index(name)] != value for name, value in one.without)
        }
        assert not mine & claimed
        assert sum(made[n].cost for n in mine) == one.cost > 0
        claimed |= mine
    shuffled = list(made)
    chance.shuffle(shuffled)
    assert choose(DIMS, shuffled, most) == found


@given(cells, st.none() | st.integers(1, 9))
def test_lines_are_those_of_a_look_at_all_that_is_left_each_time(made: list[Cell], most: int | None) -> None:
    """What a claim leaves is worked out by subtraction; looking at all of the rest anew gives the same lines, and the same that come
    next."""
    telling = [at for at in range(len(DIMS)) if len({each.values[at] for each in made if each.cost}) > 1]
    rest, total, said, plain = [each for each in made if each.cost], sum(each.cost for each in made), 0, []
    while total > 0 and len(plain) < (most or MOST) + 2:
        sums = rules._sums(telling, rest)
        best = rules._next(DIMS, telling, rest, sums)
        if best is None:
            break
        plain.append((DIMS[best[0]], best[1], sums[best]))
        rest = [each for each in rest if each.values[best[0]] != best[1]]
    chosen, following = rules.told(DIMS, made, most, 2)
    assert [(one.name, one.value, one.cost) for one in (*chosen, *following)] == plain[: len(chosen) + 2]
    enough = len(chosen) in (len(plain), most or MOST)
    for _, _, cost in plain[: len(chosen)]:
        assert most or (said * 10 < total * 7 and cost * 20 >= total)
        said += cost
    assert enough or (not most and (said * 10 >= total * 7 or plain[len(chosen)][2] * 20 < total))


def test_every_kind_of_slice_has_words() -> None:
    assert all(phrase(name, "x") and phrase(name, "x") != "x" for name in ORDER)
    assert phrase("cause", "malformed:haiku") == "falling back from haiku (malformed)"
    assert phrase("cause", "5xx") == "retries after 5xx"
