"""The price book: names, dates, tiers, the operator's own prices, and a file that is whole or refused."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bursar.domain.policy import PriceOverride
from bursar.domain.price import Price
from bursar.domain.usage import Tokens
from bursar.rules.price import bill
from bursar.stores import pricebook
from bursar.stores.pricebook import BrokenBook, PriceBook, provider_of_host
from bursar.surfaces import price_sync


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOW = at("2026-11-24T09:00")
MTOK = 10**9  # femto-dollars a token in a dollar per million


@pytest.fixture(scope="session")
def book_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return price_sync.ensure_book(tmp_path_factory.mktemp("prices"))


@pytest.fixture
def book(book_file: Path) -> PriceBook:
    return PriceBook.load(book_file)


def found(book: PriceBook, provider: str, model: str, when: str = "2026-11-24T09:00", tier: str = "", batch: bool = False) -> Price:
    price = book.find(provider, model, at(when), tier, batch)
    assert price is not None, f"{provider}/{model}"
    return price


@pytest.mark.parametrize(
    ("provider", "model", "means", "dollars_in"),
    [
        ("openai", "gpt-5-2025-08-07", "openai/gpt-5", "1.25"),
        ("openai", "GPT-5-Mini", "openai/gpt-5-mini", "0.25"),
        ("openai", "gpt-5-20250807", "openai/gpt-5", "1.25"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::x1", "openai/ft:gpt-4o-mini", "0.3"),
        ("anthropic", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5", "3"),
        ("gemini", "models/gemini-2.5-pro", "google/gemini-2.5-pro", "1.25"),
        ("gemini", "gemini-2.5-pro", "google/gemini-2.5-pro", "1.25"),
        ("vertex", "publishers/google/models/gemini-2.5-pro", "google/gemini-2.5-pro", "1.25"),
        ("vertex", "claude-opus-4-5@20251101", "google/claude-opus-4-5", "5"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
         "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("bedrock", "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0",
         "aws/regional.anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "openrouter/anthropic/claude-sonnet-4.5", "3"),
        ("azure", "gpt-4o-2024-08-06", "openai/gpt-4o", "2.5"),
        ("groq", "llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile", "0.59"),
        ("xai", "grok-4.5", "x-ai/grok-4.5", "2"),
    ],
)  # fmt: skip
def test_a_model_is_found_however_its_provider_writes_it(
    book: PriceBook, provider: str, model: str, means: str, dollars_in: str
) -> None:
    """Dated, prefixed, regional and path-like names mean the same model; its price is the model's own, not an estimate."""
    price = found(book, provider, model)
    assert f"{price.provider}/{price.model}" == means
    assert price.rates["input"].base == int(float(dollars_in) * 1000) * MTOK // 1000
    assert not price.estimated
    assert not price.free
    assert price.id.startswith("genai-prices@")


@pytest.mark.parametrize(
    ("provider", "model", "means"),
    [
        ("openai", "gpt-5-2027-03-01", "gpt-5"),
        ("our-proxy", "gpt-5-mini", "gpt-5-mini"),
        ("our-proxy", "openai/gpt-5-mini", "gpt-5-mini"),
        ("openai", "claude-sonnet-4-5", "claude-sonnet-4-5"),
    ],
)
def test_a_relative_s_price_is_an_estimate_and_says_so(book: PriceBook, provider: str, model: str, means: str) -> None:
    """An unknown snapshot, or a known model at a provider nobody knows: the family's price, flagged."""
    price = found(book, provider, model)
    assert price.model == means
    assert price.estimated
    assert bill(Tokens(input=5), price).status == "estimated"


@pytest.mark.parametrize("name", ["gpt-9", "", "nonsense", "our-llama", "x" * 5000, "gpt-5-minibus", "\x00"])
def test_an_unknown_model_has_no_price_and_never_a_zero(book: PriceBook, name: str) -> None:
    """None, so that a hard budget can refuse it; the dearest plausible price is there for the others, and is dear."""
    assert book.find("openai", name, NOW) is None
    dearest = book.dearest("openai", name)
    assert dearest is not None
    assert dearest.estimated
    assert bill(Tokens(input=1, output=1), dearest).pico


def test_models_that_the_library_lists_without_a_price_are_unpriced_here(book: PriceBook) -> None:
    """There are over a hundred, and it bills each at $0: free and unknown look alike there."""
    bare = [(cid, model.id) for cid, model in book.models() if not any(line.rates for line in (*model.lines, *model.tiers))]
    assert len(bare) > 100
    resolved = [(cid, name) for cid, name in bare if (hit := book.resolve(cid, name)) and hit.model.id == name]
    assert len(resolved) > 100
    for cid, name in resolved:
        assert book.find(cid, name, NOW) is None


def test_nothing_in_the_book_is_free(book: PriceBook) -> None:
    """Free is what an operator says; no published price here has every rate at zero."""
    for cid, model in book.models():
        price = book.find(cid, model.id, NOW)
        assert price is None or not price.free
        assert price is None or any(rate.base for rate in price.rates.values())


def test_the_dearest_is_at_least_every_rate_of_its_family_and_larger_without_one(book: PriceBook) -> None:
    """R14: an unknown model of a family costs no more than the family's dearest, by assumption stated in the row."""
    family, any_model = book.dearest("anthropic", "claude-next"), book.dearest("anthropic")
    assert family is not None
    assert any_model is not None
    for _, model in book.models("anthropic"):
        if not model.deprecated and model.id.startswith("claude"):
            for line in model.lines:
                for unit, flat in line.rates.items():
                    assert family.rates[unit].base >= flat[0]
    assert all(any_model.rates[unit].base >= rate.base for unit, rate in family.rates.items())
    assert book.dearest("nobody-knows") is not None


def test_a_price_holds_from_its_day_and_until_the_next(book: PriceBook) -> None:
    """o3 fell from $10/$40 to $2/$8 on 2025-06-10: the row of the day before keeps the old one."""
    before, after = found(book, "openai", "o3", "2025-06-09T23:59:59"), found(book, "openai", "o3", "2025-06-10")
    assert (before.rates["input"].base, after.rates["input"].base) == (10 * MTOK, 2 * MTOK)
    assert before.id != after.id
    assert after.id.endswith("@2025-06-10")


def test_a_price_of_the_hour_changes_on_the_hour_also_through_the_cache(book: PriceBook) -> None:
    """DeepSeek is dear from 00:30 to 16:30 UTC; a hot lookup must not carry yesterday's hour along."""
    seen = [found(book, "deepseek", "deepseek-reasoner", f"2025-03-0{day}T{hour}").rates["output"].base
            for day in (1, 2) for hour in ("00:29:59", "00:30", "16:29:59", "16:30", "23:59")]  # fmt: skip
    assert [rate * 100 // MTOK for rate in seen] == [55, 219, 219, 55, 55] * 2


def test_a_service_tier_and_a_batch_have_their_own_rates(book: PriceBook) -> None:
    """Half for a batch, more for priority; what the tier does not name keeps the standard rate."""
    standard = found(book, "openai", "gpt-5")
    assert found(book, "openai", "gpt-5", tier="default") == standard
    assert found(book, "openai", "gpt-5", tier="auto") == standard
    batch, priority = found(book, "openai", "gpt-5", batch=True), found(book, "openai", "gpt-5", tier="Priority")
    assert batch.rates["output"].base * 2 == standard.rates["output"].base
    assert priority.rates["output"].base > standard.rates["output"].base
    assert batch.rates["web_search"] == standard.rates["web_search"]
    assert {batch.id, priority.id} == {standard.id + "+batch", standard.id + "+priority"}
    assert not batch.estimated


def test_a_tier_nobody_published_is_never_billed_as_standard_in_silence(book: PriceBook) -> None:
    """The library does that. Here: at least standard, dearer where the tier is a premium one, and flagged."""
    standard, scale = found(book, "openai", "gpt-5"), found(book, "openai", "gpt-5", tier="scale")
    assert scale.estimated
    assert scale.rates == standard.rates
    old = found(book, "openai", "gpt-5", "2025-09-01", tier="priority")
    assert old.estimated
    assert old.rates["input"].base * 2 == standard.rates["input"].base * 5
    assert old.rates["web_search"] == standard.rates["web_search"]
    commitment = found(book, "anthropic", "claude-sonnet-4-5", tier="priority")
    assert commitment.estimated
    assert commitment.rates == found(book, "anthropic", "claude-sonnet-4-5").rates


def mine(book_file: Path, *lines: PriceOverride) -> PriceBook:
    return PriceBook.load(book_file, lines)


def test_the_operator_s_own_model_has_the_operator_s_price(book_file: Path) -> None:
    """Whole rates of a model no list has: priced, not estimated, with an id that follows the words of the line."""
    line = PriceOverride(model="our-llama", input="0.20", output="0.60", units={"web_search": "0.01"})
    price = found(mine(book_file, line), "our-proxy", "Our-Llama")
    assert bill(Tokens(input=10**6, output=10**6, other=(("web_search", 1),)), price).pico == 81 * 10**10
    assert (price.estimated, price.free) == (False, False)
    other = PriceOverride(model="our-llama", input="0.21", output="0.60")
    assert found(mine(book_file, other), "our-proxy", "our-llama").id != price.id


def test_free_is_what_an_override_says_and_only_where_all_rates_are_zero(book_file: Path) -> None:
    """Two zeros make an own model free; the same two over a listed model leave its cache and search rates standing."""
    zero = PriceOverride(model="*", input="0", output=0)
    own = found(mine(book_file, zero), "our-proxy", "in-house")
    assert own.free
    assert bill(Tokens(input=5), own).status == "free"
    assert not found(mine(book_file, zero), "openai", "gpt-5").free
    assert not found(mine(book_file, PriceOverride(model="in-house", input="0")), "our-proxy", "in-house").free


def test_a_negotiated_multiplier_scales_every_rate_and_keeps_the_tiers(book_file: Path, book: PriceBook) -> None:
    """Fifteen per cent off a price in the book, exactly, long context included."""
    off = mine(book_file, PriceOverride(model="claude-*", provider="anthropic", multiplier="0.85"))
    listed, ours = found(book, "anthropic", "claude-sonnet-4-5"), found(off, "anthropic", "claude-sonnet-4-5")
    for unit, rate in listed.rates.items():
        assert ours.rates[unit].base * 100 == rate.base * 85
        assert [(above, femto * 100) for above, femto in ours.rates[unit].tiers] == [(a, f * 85) for a, f in rate.tiers]
    assert found(off, "bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0").id.startswith("genai-prices")
    assert mine(book_file, PriceOverride(model="x", multiplier="2")).find("p", "x", NOW) is None


def test_an_override_holds_in_its_half_open_interval(book_file: Path) -> None:
    """From is in, until is out, the list price stands on both sides; the cache follows."""
    book = mine(book_file, PriceOverride(model="gpt-5", input="1", output="9", from_="2026-01-01", until="2026-02-01T00:00:00Z"))
    seen = [found(book, "openai", "gpt-5", when).rates["input"].base * 100 // MTOK
            for when in ("2025-12-31T23:59:59", "2026-01-01", "2026-01-31T23:59:59", "2026-02-01", "2026-01-15")]  # fmt: skip
    assert seen == [125, 100, 100, 125, 100]


def test_the_more_specific_line_wins_and_among_equals_the_later(book_file: Path) -> None:
    """An exact name over a wildcard, a named provider over none, a longer wildcard over a shorter; order decides the rest."""
    lines = [
        PriceOverride(model="gpt-5-mini", input="1"),
        PriceOverride(model="gpt-5*", input="2"),
        PriceOverride(model="gpt-*", input="3"),
        PriceOverride(model="gpt-5*", provider="azure", input="4"),
        PriceOverride(model="gpt-4o", input="5"),
        PriceOverride(model="gpt-4o", input="6"),
    ]
    book = mine(book_file, *lines)

    def dollars(provider: str, model: str) -> int:
        return found(book, provider, model).rates["input"].base // MTOK

    assert dollars("openai", "gpt-5-mini") == 1
    assert dollars("openai", "gpt-5-mini-2025-08-07") == 1
    assert dollars("openai", "gpt-5-nano") == 2
    assert dollars("openai", "gpt-4.1") == 3
    assert dollars("azure", "gpt-5-nano") == 4
    assert dollars("openai", "gpt-4o") == 6


def test_only_the_star_is_a_wildcard(book_file: Path) -> None:
    """Names have brackets and question marks of their own."""
    book = mine(book_file, PriceOverride(model="m[ab]?", input="1", output="1"))
    assert book.find("p", "ma1", NOW) is None
    assert book.find("p", "m[ab]?", NOW) is not None


def test_an_override_cannot_name_a_tier_so_a_tiered_call_is_an_estimate(book_file: Path) -> None:
    """Its rate is standard's; whether the batch costs half of it nobody said."""
    book = mine(book_file, PriceOverride(model="gpt-5", input="1", output="9"))
    assert not found(book, "openai", "gpt-5").estimated
    assert found(book, "openai", "gpt-5", batch=True).estimated


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (PriceOverride(model="m"), "states no price"),
        (PriceOverride(model="m", input="cheap"), r"price\[0\] \('m'\).input = 'cheap' is not a number"),
        (PriceOverride(model="m", input="-1"), "not between 0"),
        (PriceOverride(model="m", input="nan"), "not between 0"),
        (PriceOverride(model="m", output="2000000"), "dollars per million"),
        (PriceOverride(model="m", multiplier="850"), "multiplier = '850' is not between"),
        (PriceOverride(model="m", input="1", from_="1 May"), r"from = '1 May' is not a date"),
        (PriceOverride(model="m", input="1", from_="2026-02-01", until="2026-02-01"), "never holds"),
        (PriceOverride(model="m", units={"web_search": "x"}), r"units.web_search = 'x'"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_by_number_and_key(book_file: Path, line: PriceOverride, says: str) -> None:
    """What happened, with which figure, and what to write instead."""
    with pytest.raises(ValueError, match=says):
        mine(book_file, line)


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"), ("eu.api.openai.com:443", "openai"), ("API.Anthropic.com.", "anthropic"),
        ("generativelanguage.googleapis.com", "gemini"), ("us-central1-aiplatform.googleapis.com", "vertex"),
        ("acme.openai.azure.com", "azure"), ("acme.services.ai.azure.com", "azure"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock"), ("openrouter.ai", "openrouter"), ("api.groq.com", "groq"),
        ("api.mistral.ai", "mistral"), ("api.deepseek.com", "deepseek"), ("api.x.ai", "xai"),
        ("api.openai.com.evil.example", ""), ("evil-api.openai.com.example", ""), ("notapi.openai.community", ""),
        ("myopenai.azure.com", ""), ("bedrock-runtime.us-east-1.amazonaws.com.evil.example", ""), ("localhost:8080", ""),
        ("", ""), ("storage.googleapis.com", ""),
    ],
)  # fmt: skip
def test_a_host_is_a_provider_only_when_it_is_that_provider_s(host: str, provider: str) -> None:
    """The library's patterns match a prefix: `api.openai.com.evil.example` is OpenAI to them."""
    assert provider_of_host(host) == provider


def test_a_hot_lookup_is_the_same_object_and_strangers_names_cannot_grow_the_caches(book: PriceBook) -> None:
    """Five thousand made-up models leave at most the bound behind."""
    assert book.find("openai", "gpt-5", NOW) is book.find("openai", "gpt-5", NOW + 1)
    for number in range(5_000):
        book.find("openai", f"made-up-{number}", NOW)
        book.dearest("openai", f"{chr(97 + number % 26)}{chr(97 + number // 26 % 26)}x")
    for cache in (book._hot, book._names):
        assert len(cache) <= pricebook.HOT_MAX
    assert len(book._dearest) == 1


def test_the_file_is_whole_or_refused_with_a_remedy(book_file: Path, tmp_path: Path) -> None:
    """A flipped bit must not become a price; ensure_book compiles a damaged file anew."""
    data = bytearray(book_file.read_bytes())
    path = price_sync.book_path(tmp_path)
    data[len(data) // 2] ^= 1
    for broken in (bytes(data), bytes(data[: len(data) // 2]), b"", b"bursar-prices 0 x\n", b"\xff" * 100):
        path.write_bytes(broken)
        with pytest.raises(BrokenBook, match="bursar prices update") as error:
            PriceBook.load(path)
        assert str(path) in str(error.value)
    assert PriceBook.load(price_sync.ensure_book(tmp_path)).find("openai", "gpt-5", NOW)
    with pytest.raises(BrokenBook, match="cannot be read"):
        PriceBook.load(tmp_path / "missing.bin")


def test_compiling_twice_gives_the_same_bytes_and_leaves_nothing_beside_it(book_file: Path, tmp_path: Path) -> None:
    """A book is a function of the library's version: workers on two hosts price alike."""
    again = price_sync.sync(price_sync.book_path(tmp_path))
    assert again.read_bytes() == book_file.read_bytes()
    assert again.name == book_file.name
    assert [p.name for p in tmp_path.iterdir()] == [again.name]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Which path, which command, and the system's own word for it."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(price_sync.SyncFailed, match="cannot be made a folder"):
        price_sync.ensure_book(blocked)
    ran = subprocess.run(
        [sys.executable, "-m", "bursar.surfaces.price_sync", str(tmp_path / "missing" / "x.bin")], capture_output=True,
        text=True, timeout=60, check=False, cwd=Path(pricebook.__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 1
    assert "No such file" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_loading_and_asking_never_import_the_library_and_stay_small(book_file: Path) -> None:
    """105 MB and half a second are the subprocess's; here under 5 MB for ten providers' models."""
    code = f"""
import resource, sys
import msgspec, decimal, datetime, fnmatch, hashlib, bursar.domain.policy
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
from bursar.stores.pricebook import PriceBook
from bursar.surfaces import price_sync
book = PriceBook.load({str(book_file)!r})
for provider, model in (("openai", "gpt-5"), ("anthropic", "claude-opus-4-5"), ("openrouter", "openai/gpt-5"), ("bedrock", "x")):
    book.find(provider, model, {NOW})
grown = peak() - before
print(grown if sys.platform != "darwin" else grown // 1024, "genai_prices" in sys.modules, "pydantic" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                         cwd=Path(pricebook.__file__).parents[2])  # fmt: skip
    grown, genai, pydantic = ran.stdout.split()
    assert int(grown) < 5000  # KiB
    assert (genai, pydantic) == ("False", "False")
