"""What a record becomes in the ledger: priced by our book, the source's amount kept beside, unknown never zero."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.entry import Entry
from bursar.domain.labels import FREE_LABELS_MAX
from bursar.domain.usage import Tokens
from bursar.rules import price as pricing
from bursar.stores.pricebook import PriceBook
from bursar.surfaces.imports.entries import CACHE_HIT, Given, Maker
from bursar.surfaces.imports.intake import stated_in
from bursar.surfaces.imports.record import Record

TS = 1_793_613_600_000_000


def row(prices: PriceBook, record: Record, given: Given | None = None) -> Entry:
    made = Maker("litellm", prices, given or Given()).row(record)
    assert pricing.recompute(made.legs) == (made.cost or 0)  # every row recomputes from its legs
    return made


def test_tokens_are_priced_by_our_book_and_the_sources_amount_is_kept_beside(prices: PriceBook) -> None:
    made = row(prices, Record("1", TS, "openai", "gpt-5-mini", tokens=Tokens(input=1_000_000), stated=777))
    assert (made.cost, made.price_status) == (250_000_000_000, "priced")
    assert stated_in(made.flags) == 777 and made.source == "imported:litellm"


def test_a_source_with_a_cost_only_is_kept_as_stated_and_says_so(prices: PriceBook) -> None:
    for record in (
        Record("1", TS, "openai", "gpt-5-mini", stated=5),
        Record("2", TS, "nobody", "mystery-9", tokens=Tokens(input=3), stated=5),
    ):
        made = row(prices, record)
        assert (made.cost, made.cost_other, made.price_status, made.price_id) == (5, 5, "estimated", "stated:litellm")


def test_a_providers_own_bill_is_no_estimate(prices: PriceBook) -> None:
    made = row(prices, Record("1", TS, "openai", "", stated=5, billed=True))
    assert (made.cost, made.price_status, made.price_id) == (5, "priced", "billed:openai")


def test_what_nobody_can_price_has_no_cost_also_where_a_tool_wrote_zero(prices: PriceBook) -> None:
    made = row(prices, Record("1", TS, "nobody", "mystery-9", tokens=Tokens(input=3), stated=0))
    assert (made.cost, made.price_status, made.input) == (None, "unpriced", 3)
    made = row(prices, Record("2", TS, "openai", "gpt-5-mini"))
    assert (made.cost, made.price_status, made.usage_source, made.input) == (None, "unpriced", "unknown", None)


def test_an_error_without_usage_was_not_billed_and_a_cached_reply_neither(prices: PriceBook) -> None:
    made = row(prices, Record("1", TS, "openai", "gpt-5-mini", status="error", stated=0))
    assert (made.cost, made.price_status, made.ended) == (0, "priced", "failed")
    made = row(prices, Record("2", TS, "openai", "gpt-5-mini", flags="cache_hit"))
    assert (made.cost, made.price_id) == (0, CACHE_HIT)


def test_a_model_alone_suggests_its_provider_and_the_row_says_it_was_guessed(prices: PriceBook) -> None:
    made = row(prices, Record("1", TS, "", "gpt-5-mini", tokens=Tokens(input=10)))
    assert (made.provider, made.price_status) == ("openai", "priced") and "guessed:provider" in made.flags


def test_the_tokens_of_many_calls_are_no_long_context(prices: PriceBook) -> None:
    """A day's 900,000 tokens in one bucket cost what 900 calls of 1,000 cost; where the price has tiers and the report does not
    say which, the bill is an estimate."""
    many, few = Tokens(input=900_000), Tokens(input=1_000)
    tiered = next(m for m in ("claude-sonnet-4-5", "gemini-2.5-pro") if any(
        r.tiers for p in [prices.find("anthropic" if "claude" in m else "gemini", m, TS)] if p for r in p.rates.values()))  # fmt: skip
    provider = "anthropic" if "claude" in tiered else "gemini"
    one = row(prices, Record("1", TS, provider, tiered, tokens=few))
    bucket = row(prices, Record("2", TS, provider, tiered, tokens=many, attempt_kind="aggregate"))
    assert bucket.cost == 900 * (one.cost or 0) and bucket.price_status == "estimated"
    told = row(prices, Record("3", TS, provider, tiered, tokens=many, attempt_kind="aggregate", labels={"context_window": "0-200k"}))
    assert told.cost == bucket.cost and told.price_status == "priced"
    long = row(prices, Record("4", TS, provider, tiered, tokens=many, attempt_kind="aggregate", labels={"context_window": "200k-1M"}))
    assert (long.cost or 0) > (told.cost or 0)


def test_labels_are_ours_by_name_bounded_and_the_operators_word_stands(prices: PriceBook) -> None:
    labels = {
        "customer_id": "acme",
        "team": "red",
        "operation": "weird",
        "session_id": "s",
        "x\x1b": "a\nb" * 200,
        **{f"n{i}": "v" for i in range(40)},
    }
    given = Given({"feature": "search"}, {"team": "flow"})
    made = row(prices, Record("1", TS, "openai", "gpt-5-mini", labels=labels), given)
    assert (made.tenant, made.flow, made.feature, made.conversation, made.operation) == ("acme", "red", "search", "s", "primary")
    free = __import__("json").loads(made.labels)
    assert len(free) <= FREE_LABELS_MAX and all(
        name.isprintable() and value.isprintable() and len(value) <= 256 for name, value in free.items()
    )
    assert made.label_sources.count("import:litellm") == 4


def test_long_and_strange_ids_become_short_ones_that_stay_the_same(prices: PriceBook) -> None:
    for id in ("x" * 5000, "a\x00b", "ümlaut\ud800"):
        first, second = row(prices, Record(id, TS)), row(prices, Record(id, TS))
        assert first.id == second.id and len(first.id) < 100 and first.id.isprintable()


TOKENS = st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10), st.sampled_from([(), (("web_search", 2),)])).map(
    lambda t: Tokens(input=t[0], cache_read=t[1], output=t[2], input_audio=t[3], other=t[4])
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({
    "id": st.text(min_size=1, max_size=30), "ts": st.just(TS), "provider": st.sampled_from(["openai", "anthropic", "", "nobody"]),
    "model": st.sampled_from(["gpt-5-mini", "claude-haiku-4-5", "mystery", ""]), "requested": st.sampled_from(["", "gpt-5"]), "tokens": st.none() | TOKENS,
    "estimated": st.booleans(), "stated": st.none() | st.integers(0, 10**12), "billed": st.booleans(), "status": st.sampled_from(["ok", "error"]),
    "service_tier": st.sampled_from(["", "default", "priority"]), "batch": st.booleans(),
}).map(lambda said: Record(**said)))  # fmt: skip
def test_whatever_a_source_says_the_row_adds_up_and_is_never_zero_for_not_knowing(prices: PriceBook, record: Record) -> None:
    made = row(prices, record)
    parts = [made.cost_input, made.cost_cache_read, made.cost_cache_write, made.cost_output, made.cost_other]
    if made.cost is None:
        assert made.price_status == "unpriced" and made.legs == "[]"
    else:
        assert sum(part or 0 for part in parts) == made.cost
        assert not (made.price_status == "unpriced" and made.cost == 0)
    if made.cost == 0 and record.tokens is not None and record.tokens.total and record.model in ("gpt-5-mini", "claude-haiku-4-5"):
        assert record.billed and record.stated == 0  # only a bill says that used tokens cost nothing
