"""What is told of a change: the planted cause first, two lists that add up, sentences that claim no more than the ledger has."""

from __future__ import annotations

import re
from random import Random

import pytest

from bursar.rules.why import Leaf, Side, Sums, Talk, explain
from bursar.rules.why_findings import OTHERS, Told, phrase, quantity, tell, words

from .why_made import CAUSES, Planted, all_planted, planted, random_side

CAUSAL = re.compile(r"\b(because|cause[sd]|due to|led to|result\w*|reason|thanks|drove|driven|made|since|therefore|explains?)\b", re.IGNORECASE)
ACME = ("acme", "support")


def told(case: Planted) -> Told:
    return tell(("tenant", "feature"), case.before, case.now, explain(case.before, case.now))


def names_it(case: Planted) -> bool:
    top = told(case).findings[0]
    return top.driver == case.driver and case.where in top.where


def test_the_first_finding_names_what_was_planted_and_where() -> None:
    """Three seeds of each of twelve causes; all else is five per cent off."""
    assert all(names_it(case) for case in all_planted(3))


@pytest.mark.fuzz
def test_the_first_finding_names_what_was_planted_in_98_of_100() -> None:
    """Two hundred and four ledgers."""
    found = [names_it(case) for case in all_planted(17)]
    assert len(found) >= 200
    assert sum(found) >= 0.98 * len(found)


def test_findings_and_slices_add_up_to_the_change_whatever_the_ledger() -> None:
    chance = Random(3)
    for _ in range(300):
        before, now = random_side(chance), random_side(chance)
        found = explain(before, now)
        made = tell(("tenant", "feature"), before, now, found)
        change = found.now - found.before
        assert sum(one.change for one in made.findings) == change
        assert sum(place.now - place.before for place in made.places) == change
        assert sum(place.now for place in made.places) == found.now
        for place in made.places:
            assert sum(place.drivers.values()) == place.now - place.before


def test_no_sentence_says_that_one_thing_made_another() -> None:
    """The ledger knows what was, not why: `cause` stands only as the name of its column."""
    chance = Random(4)
    for case in [*all_planted(1), *[Planted(random_side(chance), random_side(chance), "", ("", "")) for _ in range(60)]]:
        made = told(case)
        for sentence in [one.sentence for one in made.findings] + [place.sentence for place in made.places]:
            assert not CAUSAL.search(sentence.replace("with cause ", "with ").replace("cause tool:", "").replace("no cause", ""))
            assert "\x00" not in sentence


def test_what_nobody_labelled_is_a_slice_of_its_own() -> None:
    bare, named = ("", ""), ACME
    leaves = [Leaf(labels, "primary", "primary", "", "m") for labels in (bare, named)]
    before = Side({leaf: Sums(100, 100, 0, 0, 0, 10**12) for leaf in leaves}, {})
    now = Side({leaf: Sums(400, 400, 0, 0, 0, 4 * 10**12) for leaf in leaves}, {})
    places = tell(("tenant", "feature"), before, now, explain(before, now)).places
    (nobody,) = [place for place in places if place.how == "unattributed"]
    assert (nobody.before, nobody.now) == (10**12, 4 * 10**12)
    assert nobody.sentence == "What nobody labelled: $4.00, up from $1.00. +$3.00, 50.0% of the change."


def test_values_that_were_folded_together_are_never_named() -> None:
    leaves = {labels: Leaf(labels, "primary", "primary", "", "m") for labels in ((OTHERS, "x"), ("acme", "x"), ("globex", "x"))}
    before = Side({leaf: Sums(100, 100, 0, 0, 0, 10**12) for leaf in leaves.values()}, {})
    now = Side({leaf: Sums(100 * (9 if labels[0] == OTHERS else 1), 100, 0, 0, 0, 10**12 * (9 if labels[0] == OTHERS else 1))
                for labels, leaf in leaves.items()}, {})  # fmt: skip
    made = tell(("tenant", "feature"), before, now, explain(before, now))
    assert all(OTHERS not in dict(one.where).values() for one in made.findings)
    assert all(OTHERS not in dict(place.where).values() for place in made.places)


SENTENCES = {
    "volume": r"Conversations in tenant \w+, feature \w+: [\d,]+, up from [\d,]+\. \+\$[\d,.]+, \d+\.\d% of the change",
    "depth": r"Calls a conversation in tenant \w+, feature \w+: \d+\.\d\d, up from \d+\.\d\d\.",
    "retry": r"Retries in a hundred calls with cause tool:\w+: \d+\.\d\d, up from \d\.\d\d\.",
    "fallback": r"Fallbacks in a hundred calls with cause 5xx in feature \w+: ",
    "eval": r"Eval calls in feature evals: [\d,]+, up from \d+\.",
    "embedding": r"Embedding calls in feature index: ",
    "background": r"Background calls in feature digest: ",
    "model_mix": r"Share of calls on gpt-5 in feature \w+, operation primary: \d+\.\d%, up from \d+\.\d%\.",
    "context": r"Tokens read a call in feature \w+: [\d,]+, up from [\d,]+\.",
    "cache": r"Share of the input read from the prompt cache in feature \w+: none, 90\.0% before\.",
    "output": r"Tokens written a call in feature \w+: [\d,]+, up from \d+\.",
    "price": r"Dollars a million tokens of gpt-5[\w-]* \w+ in feature \w+: \$[\d.]+, up from \$[\d.]+\.",
}


@pytest.mark.parametrize("driver", list(CAUSES))
def test_a_finding_is_one_plain_sentence(driver: str) -> None:
    assert re.match(SENTENCES[driver], told(planted(1, driver)).findings[0].sentence)


def test_drivers_that_cancel_have_no_share_of_what_is_left() -> None:
    leaf = Leaf(ACME, "primary", "primary", "", "m")
    before = Side({leaf: Sums(100, 10_000, 0, 0, 0, 10**12)}, {ACME: Talk(100)})
    now = Side({leaf: Sums(200, 10_000, 0, 0, 0, 10**12 + 1)}, {ACME: Talk(200)})
    big = [one for one in tell(("tenant", "feature"), before, now, explain(before, now)).findings if abs(one.change) > 1]
    assert len(big) == 2 and all("of the change" not in one.sentence for one in big)


def test_figures_and_places_read_as_people_say_them() -> None:
    assert [quantity(*one) for one in ((1234.0, "count"), (0.125, "share"), (3_000_000.0, "usd_per_million"), (2.5e9, "usd"),
                                       (12.0, "tokens"), (3.14159, "ratio"), (None, "count"))] == [
        "1,234", "12.5%", "$3.00", "$0.0025", "12", "3.14", "none"]  # fmt: skip
    assert words((("feature", "evals"), ("tenant", ""))) == "feature evals, no tenant"
    assert phrase((("tenant", "a"), ("feature", "b"), ("cause", "5xx"), ("model", "m"))) == " in tenant a, feature b with cause 5xx on model m"
