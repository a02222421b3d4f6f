"""`bursar prices`: what a model costs, where another list differs, and a new book that may not leap unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bursar.domain.money import FEMTO
from bursar.stores.pricebook import Catalogue, Clause, Index, Line, Model, PriceBook, write
from bursar.surfaces import cli_prices, price_sync, wiring

NOW = 1_795_500_000_000_000
MTOK = FEMTO // 10**6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger")
    price_sync.ensure_book(path)
    return path


@pytest.fixture
def book(folder: Path) -> PriceBook:
    return PriceBook.load(price_sync.book_path(folder))


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> Result:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)
    monkeypatch.setattr(wiring, "now_us", lambda: NOW)
    return CliRunner().invoke(cli_prices.prices, list(arguments))


def test_a_model_is_shown_with_every_rate_at_every_provider_that_has_it(book: PriceBook) -> None:
    """Dollars per million tokens, fees each, long-context tiers apart; entries whose id nobody sends are priced too."""
    rows = cli_prices.rows(book, "claude-sonnet-4-5", NOW)
    by_provider = {row["provider"]: row for row in rows}
    assert by_provider["anthropic"]["rates"]["cache_write_1h"] == "6"
    assert by_provider["anthropic"]["rates"]["web_search"] == "0.01"
    assert by_provider["anthropic"]["tiers"]["200000"]["output"] == "22.5"
    assert all(row["price_status"] == "priced" for row in rows if row["provider"] == "aws")
    assert len(cli_prices.rows(book, None, NOW)) > 2000
    assert cli_prices.rows(book, "no-such-model", NOW) == []


def test_a_dated_name_is_understood_as_the_gateway_would(book: PriceBook) -> None:
    """No entry has that id, so the name is resolved."""
    assert [row["rates"]["input"] for row in cli_prices.rows(book, "gpt-5-2025-08-07", NOW, "openai")] == ["1.25"]


def test_the_command_prints_a_table_or_one_document(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bursar prices MODEL`, with the operator's own prices laid over; an unknown model ends with a remedy."""
    (tmp_path / "bursar.toml").write_text('[[price]]\nmodel = "gpt-5-mini"\ninput = "0.20"\noutput = "1.5"\n')
    shown = run(monkeypatch, tmp_path, "gpt-5-mini", "--provider", "openai", "--ledger", str(folder))
    assert shown.exit_code == 0, shown.output
    assert "0.2 " in shown.output
    document = json.loads(run(monkeypatch, tmp_path, "gpt-5-mini", "--json", "--ledger", str(folder)).stdout)
    ours = next(row for row in document["rows"] if row["provider"] == "openai")
    assert (ours["rates"]["input"], ours["rates"]["output"]) == ("0.2", "1.5")
    assert ours["price_id"].startswith("policy:")
    unknown = run(monkeypatch, tmp_path, "no-such-model", "--ledger", str(folder))
    assert unknown.exit_code == 1
    assert "[[price]]" in unknown.output


def test_a_litellm_list_is_compared_digit_by_digit(
    folder: Path, tmp_path: Path, book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.25e-06 a token is $1.25 a million; what differs, and what the book does not have, is listed. Exit code 1."""
    listed = {
        "sample_spec": {"input_cost_per_token": 1},
        "gpt-5": {"litellm_provider": "openai", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05},
        "xai/grok-4.5": {"litellm_provider": "xai", "input_cost_per_token": 3e-06, "output_cost_per_token": 6e-06},
        "gemini-2.5-pro": {"litellm_provider": "vertex_ai-language-models", "input_cost_per_token": 1.25e-06},
        "gpt-99": {"litellm_provider": "openai", "input_cost_per_token": 1},
    }
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(listed))
    found, counts = cli_prices.diff(book, path, NOW)
    assert counts == {"models": 4, "agree": 2, "differ": 1, "not_in_book": 1}
    assert found[0] == {"provider": "xai", "model": "grok-4.5", "unit": "input", "book": "2", "file": "3", "is": "differs"}
    assert run(monkeypatch, tmp_path, "diff", str(path), "--ledger", str(folder)).exit_code == 1
    own = tmp_path / "own.toml"
    own.write_text('[[price]]\nmodel = "gpt-5"\nprovider = "openai"\ninput = "1.25"\noutput = "10"\n')
    assert cli_prices.diff(book, own, NOW)[1]["agree"] == 1
    assert run(monkeypatch, tmp_path, "diff", str(own), "--ledger", str(folder)).exit_code == 0


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", "{"), ("x.json", "[]"), ("x.toml", "="), ("x.toml", '[[price]]\nmodel = "m"\n')]
)
def test_a_file_that_is_no_price_list_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """Exit code 2 and the file's name, never a traceback."""
    (tmp_path / name).write_text(text)
    ran = run(monkeypatch, tmp_path, "diff", str(tmp_path / name), "--ledger", str(folder))
    assert ran.exit_code == 2
    assert name in ran.output


def tiny(dollars: int) -> bytes:
    """A book of one model, whose input costs so many dollars a million."""
    import msgspec

    model = Model("gpt-5", 0, False, [Line(0, -1, -1, {"input": [dollars * MTOK], "output": [10 * MTOK]})], [])
    catalogue = Catalogue([], [(Clause("=", "gpt-5"), msgspec.Raw(msgspec.msgpack.encode(model)))])
    return write(Index("test@1", {"openai": msgspec.Raw(msgspec.msgpack.encode(catalogue))}, []))


def test_a_price_that_leaps_is_not_taken_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenfold, or to or from zero: the old book stays, the exit code is 1, and --accept takes it."""
    old = tmp_path / "prices-0.0.1-1.bin"
    old.write_bytes(tiny(100))
    path, leaps, done = cli_prices.update(tmp_path, NOW)
    assert (leaps, done) == ([{"provider": "openai", "model": "gpt-5", "unit": "input", "old": "100", "new": "1.25"}], False)
    assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    refused = run(monkeypatch, tmp_path, "update", "--ledger", str(tmp_path))
    assert refused.exit_code == 1
    assert "--accept" in refused.output
    assert run(monkeypatch, tmp_path, "update", "--accept", "--ledger", str(tmp_path)).exit_code == 0
    assert PriceBook.load(path).find("openai", "gpt-5", NOW)


def test_small_moves_are_taken(tmp_path: Path) -> None:
    """Prices do change."""
    (tmp_path / "prices-0.0.1-1.bin").write_bytes(tiny(2))
    assert cli_prices.update(tmp_path, NOW)[1:] == ([], True)


def test_a_damaged_book_is_replaced(tmp_path: Path) -> None:
    """It is what `update` is there for."""
    price_sync.book_path(tmp_path).write_bytes(b"rubbish")
    assert cli_prices.update(tmp_path, NOW)[2]
