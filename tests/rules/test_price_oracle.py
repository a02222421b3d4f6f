"""Two second opinions on every bill: the library the book is compiled from, and recorded usages priced by somebody else.

Where we disagree, the disagreement is listed here with who is right; docs/explanation/price-disagreements.md is for people."""

from __future__ import annotations

import gzip
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import data as library
from genai_prices.types import ClauseEquals, ClauseStartsWith, ModelInfo, Provider, TieredPrices, Usage

from bursar.domain.price import Price, Priced
from bursar.domain.shape import replace
from bursar.domain.usage import Tokens
from bursar.rules.price import SAME_AS, bill
from bursar.stores.pricebook import PriceBook
from bursar.surfaces import price_sync

MOMENTS = [datetime(*when, tzinfo=UTC) for when in (
    (2023, 1, 1), (2024, 7, 1, 12), (2025, 2, 8, 0, 29, 59), (2025, 8, 1, 16, 30), (2026, 1, 5), (2026, 8, 17, 3),
    (2026, 9, 10, 9, 59, 59), (2026, 10, 14), (2026, 11, 24, 9))]  # fmt: skip
# What a caller may say of tier and batch, and as which of the library's context keys that can arrive.
CONTEXTS: list[tuple[str, bool, dict[str, str]]] = [
    ("", False, {}),
    ("default", False, {"service_tier": "default"}),
    ("flex", False, {"service_tier": "flex"}),
    ("priority", False, {"service_tier": "priority"}),
    ("fast", False, {"service_tier": "fast", "speed": "fast", "search_type": "fast"}),
    ("", True, {"processing": "batch"}),
    ("flex", True, {"service_tier": "flex", "processing": "batch"}),
]
# Groq bills whisper for ten seconds at least; the library does it in code, we bill what is reported.
MINIMUM_BILLED = {("groq", "whisper-large-v3"), ("groq", "whisper-large-v3-turbo")}
UNITS = {ours: theirs for theirs, ours in (
    ("web_searches", "web_search"), ("storage_searches", "file_search"), ("audio_seconds", "audio_second"),
    ("input_audio_seconds", "input_audio_second"), ("input_characters", "input_character"),
    ("input_document_pages", "input_page"), ("input_annotated_document_pages", "input_page_annotated"),
    ("input_text_messages", "input_message"))}  # fmt: skip


def microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    return PriceBook.load(price_sync.ensure_book(tmp_path_factory.mktemp("prices")))


def every_model() -> Iterator[tuple[Provider, ModelInfo]]:
    for provider in library.providers:
        for model in provider.models:
            yield provider, model


def spellings(model: ModelInfo) -> Iterator[str]:
    """The model's id and every name its clauses spell out."""
    yield model.id
    clauses: list[Any] = [model.match]
    while clauses:
        clause = clauses.pop()
        if isinstance(clause, ClauseEquals):
            yield clause.equals
        elif isinstance(clause, ClauseStartsWith):
            yield clause.starts_with
            yield clause.starts_with + "-20260101"
        clauses += [*getattr(clause, "or_", ()), *getattr(clause, "and_", ())]


def test_every_name_in_the_library_means_the_same_model_in_the_book(book: PriceBook) -> None:
    """Ids, aliases, prefixes and dated forms of all providers; a name it does not know is at best a near relative here."""
    seen = 0
    for provider, model in every_model():
        for name in spellings(model):
            theirs = provider.find_model(name, all_providers=library.providers)
            ours = book.resolve(provider.id, name)
            seen += 1
            if theirs is None:
                assert ours is None or ours.near, f"{provider.id}/{name}"
            else:
                assert ours is not None, f"{provider.id}/{name}"
                assert ours.model.id == theirs.id, f"{provider.id}/{name}"
                assert not ours.near
    assert seen > 5000


def draw(rng: random.Random, price: Price, all_units: bool) -> Tokens:
    """A usage of units that the price has a rate for (or inherits one by a published rule), or of any units."""

    def count(unit: str) -> int:
        if not all_units and unit not in price.rates and SAME_AS.get(unit) not in price.rates:
            return 0
        return rng.choice((0, rng.randrange(1, 3000), rng.randrange(1, 400_000)))

    # Cached images are not a bucket of ours, cached audio is; a cached kind without its parent's rate is no usage.
    media = {unit: count(unit) for unit in ("input_audio", "output_audio", "input_image", "output_image")}
    if media["input_audio"] and "cache_read_audio" in price.rates:
        media["cache_read_audio"] = count("cache_read_audio")
    for unit in ("output_audio", "output_image"):
        if unit not in price.rates:
            media[unit] = 0  # text, where the library has no rate: covered by the test on unknown units
    other = tuple((unit, rng.randrange(1, 50)) for unit in UNITS if unit in price.rates and rng.random() < 0.5)
    text = {unit: count(unit) for unit in ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")}
    return Tokens(**text, **media, other=other)


def as_usage(tokens: Tokens) -> Usage:
    """The same in the library's inclusive counts, zeros left out: a count it has no rate for must not be mentioned."""
    counts = {
        "input_tokens": tokens.input_total,
        "cache_read_tokens": tokens.cache_read + tokens.cache_read_audio,
        "cache_write_tokens": tokens.cache_write + tokens.cache_write_1h,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "input_audio_tokens": tokens.input_audio + tokens.cache_read_audio,
        "cache_audio_read_tokens": tokens.cache_read_audio,
        "input_image_tokens": tokens.input_image,
        "output_tokens": tokens.output_total,
        "output_reasoning_tokens": tokens.reasoning,
        "output_audio_tokens": tokens.output_audio,
        "output_image_tokens": tokens.output_image,
        **{UNITS[unit]: count for unit, count in tokens.other},
    }
    always = ("input_tokens", "output_tokens")
    for part, whole in (("input_annotated_document_pages", "input_document_pages"), ("input_audio_seconds", "audio_seconds")):
        if part in counts:
            counts[whole] = counts.get(whole, 0) + counts[part]
    parents = {"cache_audio_read_tokens": 0, "cache_read_tokens": 0, "input_audio_tokens": 0, "cache_image_read_tokens": 0}
    return Usage(**{**parents, **{name: count for name, count in counts.items() if count or name in always}})


def exact(model: ModelInfo) -> bool:
    """Whether every price of the model is a whole number of femto-dollars a unit. Twenty-eight carry a float's tail
    (0.18000000000000002 a million) and the hourly ones are thirds of a femto-dollar."""
    lines = model.prices if isinstance(model.prices, list) else None
    prices = [line.prices for line in lines] if lines is not None else [model.prices]
    prices += [variant.prices for variant in model.price_variants or ()]
    for price in prices:
        for key, value in price.__dict__.items():
            if value is None:
                continue
            if key.endswith("hours"):
                return False
            for amount in [value.base, *[t.price for t in value.tiers]] if isinstance(value, TieredPrices) else [value]:
                if amount != round(amount, 9):
                    return False
    return True


def slack(priced: Priced, whole: bool) -> Decimal:
    """Pico-dollars by which a bill of rounded legs may differ: half of one a leg that is not whole, and half a
    femto-dollar a unit where the published price itself is finer."""
    if not whole:
        return sum((Decimal(leg.count + 1000) / 2000 for leg in priced.legs), Decimal(0))
    return Decimal(sum(1 for leg in priced.legs if leg.count * leg.femto % 1000)) / 2


def test_every_model_in_every_tier_at_many_moments_costs_what_the_library_says(book: PriceBook) -> None:
    """All priced models x contexts x moments x a random usage of units the model has rates for: the difference is zero,
    or the rounding of a price that is finer than a pico-dollar."""
    rng = random.Random(20261124)
    seen, rounded = Counter[str](), 0
    entries = {(cid, entry.id): entry for cid, entry in book.models()}
    assert len(entries) == len(list(every_model()))
    for provider, model in every_model():
        if (provider.id, model.id) in MINIMUM_BILLED:
            continue
        whole = exact(model)
        entry = entries[provider.id, model.id]
        contexts = CONTEXTS if model.price_variants else CONTEXTS[:1]
        for moment in MOMENTS:
            for tier, batch, context in contexts:
                price = book.price_of(provider.id, entry, microseconds(moment), tier, batch)
                if provider.find_model(model.id) is model:
                    assert book.find(provider.id, model.id, microseconds(moment), tier, batch) == price
                if price is None:
                    assert not model.get_prices(moment, context).__dict__, f"{provider.id}/{model.id}"
                    seen["unpriced"] += 1
                    continue
                if price.estimated:
                    seen["estimated"] += 1  # a tier without a published rate: see the next test
                    continue
                tokens = draw(rng, price, all_units=False)
                priced = bill(tokens, price)
                theirs = model.calc_price(as_usage(tokens), provider, genai_request_timestamp=moment, price_context=context or None)
                assert priced.status == "priced"
                difference = abs((priced.pico or 0) - theirs.total_price * 10**12)
                assert difference <= slack(priced, whole), f"{provider.id}/{model.id} {moment} {context} {tokens}"
                seen["equal" if not difference else "rounded"] += 1
                rounded += bool(difference) and whole
    assert seen["equal"] > 20_000
    assert seen["unpriced"] > 1000
    assert seen["rounded"] < seen["equal"] // 100
    assert not rounded, "a price of whole femto-dollars came out different"


def test_a_tier_without_a_published_rate_is_flagged_here_and_standard_there(book: PriceBook) -> None:
    """The library falls back to standard in silence; here the bill is at least that and says estimated."""
    seen = 0
    for provider, model in every_model():
        if not model.price_variants or provider.find_model(model.id) is not model:
            continue
        for moment in MOMENTS:
            for tier, batch, context in CONTEXTS[1:]:
                price = book.find(provider.id, model.id, microseconds(moment), tier, batch)
                standard = book.find(provider.id, model.id, microseconds(moment))
                if price is None or standard is None or not price.estimated:
                    continue
                seen += 1
                known = [v for v in model.price_variants if (v.constraint is None or v.constraint.active(moment))
                         and set(v.when.values()) <= set(context.values())]  # fmt: skip
                told = {word for v in known for word in v.when.values()}
                assert ({tier} - {"", "default"} | ({"batch"} if batch else set())) - told
                if not told:
                    assert all(price.rates[unit].base >= rate.base for unit, rate in standard.rates.items())
    assert seen > 1000


def test_units_that_the_library_prices_at_nothing_are_named_here(book: PriceBook) -> None:
    """Any usage on any model: what has no rate is in `missing` and the bill is not called priced. The library bills such
    units at 0, or as the plainest kind of token, and says nothing."""
    rng = random.Random(7)
    flagged = silent = 0
    for provider, model in every_model():
        price = book.find(provider.id, model.id, microseconds(MOMENTS[-1]))
        if price is None or price.estimated or provider.find_model(model.id) is not model:
            continue
        tokens = draw(rng, price, all_units=True)._replace(other=(("web_search", 3),))
        priced = bill(tokens, price)
        lacking = {unit for unit in ("cache_read", "cache_write", "cache_write_1h", "input_audio")
                   if getattr(tokens, unit) and unit not in price.rates}  # fmt: skip
        lacking |= {"web_search"} - price.rates.keys()
        assert lacking <= set(priced.missing)
        if lacking:
            flagged += 1
            assert priced.status in ("estimated", "unpriced")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # it would have warned
                try:
                    model.calc_price(as_usage(tokens), provider, genai_request_timestamp=MOMENTS[-1])
                except ValueError:
                    continue  # it refuses some combinations of kinds, rightly
                silent += 1
    assert flagged > 1500
    assert silent > 1000


# (provider, model) -> (rows, who is right and why). The recorded prices are the library's of August 2026.
DISAGREE: dict[tuple[str, str], tuple[int, str]] = {
    ("mistral", "mistral-medium-latest"): (30, "ours: the alias moved to Medium 3.5 ($1.50/$7.50) on 2026-06-16"),
    ("mistral", "mistral-small-latest"): (3, "ours: the alias moved to Small 4 ($0.15/$0.60) on 2026-03-16"),
    ("mistral", "ministral-8b-latest"): (1, "ours: the alias moved to Ministral 3 8B ($0.15/$0.15) on 2025-12-02"),
    ("google", "claude-sonnet-4-5-20250929"): (2, "ours: Vertex has the long-context rates above 200,000 tokens"),
    ("aws", "openai.gpt-5.6-luna"): (1, "ours: AWS cut Luna by 80% on 2026-07-30"),
    ("openai", "gpt-4o-audio-preview-2024-12-17"): (2, "ours: audio is not text; without an audio rate it is unpriced"),
    ("azure", "gpt-4o-audio-preview-2024-12-17"): (2, "ours: the same model, the same missing audio rate"),
}


def oracle_tokens(usage: dict[str, int]) -> Tokens:
    """The recorded, inclusive counts as disjoint buckets. Cached images are cached tokens (no bucket of their own)."""
    get = usage.get
    cached_audio, cached_image = get("cache_audio_read_tokens", 0), get("cache_image_read_tokens", 0)
    audio, image = get("input_audio_tokens", 0) - cached_audio, get("input_image_tokens", 0) - cached_image
    read, write, hour = get("cache_read_tokens", 0), get("cache_write_tokens", 0), get("cache_write_1h_tokens", 0)
    said, drawn, thought = get("output_audio_tokens", 0), get("output_image_tokens", 0), get("output_reasoning_tokens", 0)
    return Tokens(
        input=get("input_tokens", 0) - read - write - audio - image, cache_read=read - cached_audio, cache_write=write - hour,
        cache_write_1h=hour, output=get("output_tokens", 0) - said - drawn - thought, reasoning=thought, input_audio=audio,
        cache_read_audio=cached_audio, output_audio=said, input_image=image, output_image=drawn,
    )  # fmt: skip


def test_recorded_usages_cost_what_somebody_else_computed_or_the_reason_is_listed(book: PriceBook, data_dir: Path) -> None:
    """2,500 prices of 1,182 recorded usages, wherever both know one; each disagreement is in DISAGREE, none is left over."""
    moment = microseconds(datetime(2026, 8, 15, 12, tzinfo=UTC))
    agree, differ, unknown, flagged = 0, Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    with gzip.open(data_dir / "usage-price-oracle" / "usages.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        for reading in row["extracted"]:
            tokens = oracle_tokens(reading["usage"])
            assert min(tokens[:-1]) >= 0
            for theirs in reading["extractors"]:
                if "input_price" not in theirs:
                    continue
                key = (theirs["provider_id"], row["model"])
                price = book.find(*key, moment)
                if price is None:
                    unknown[key] += 1
                    continue
                # Their two halves leave fees out; so does this comparison.
                rates = {unit: rate for unit, rate in price.rates.items() if unit != "request"}
                priced = bill(tokens, replace(price, rates=rates))
                flagged[priced.status] += 1
                if priced.pico == (Decimal(theirs["input_price"]) + Decimal(theirs["output_price"])) * 10**12:
                    agree += 1
                else:
                    differ[key] += 1
    assert len(rows) == 1182
    assert differ == {key: count for key, (count, _) in DISAGREE.items()}
    assert unknown == {("cerebras", "qwen-3-coder-480b"): 2}  # withdrawn, and gone from the library since
    assert agree == 2534
    assert flagged == {"priced": 2560, "estimated": 11, "unpriced": 4}
