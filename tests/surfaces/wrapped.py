"""What the tests of the wrapper share: a scripted provider behind three names, a policy that names them, and the rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import drive
from bursar.domain.entry import Entry
from bursar.surfaces import books as keeping
from bursar.surfaces.price_sync import book_path, ensure_book
from bursar.testing.provider import Provider
from bursar.testing.script import Say, Seen, by_header

QUESTION: Any = [{"role": "user", "content": "hello"}]


class Bench:
    """A provider, a policy and a ledger. `rows()` waits until as many rows are there as the provider was asked, or `count`."""

    def __init__(self, provider: Provider, folder: Path, prices: Path) -> None:
        self.provider, self.folder = provider, folder
        self.ledger = folder / "ledger"
        self.ledger.mkdir()
        shutil.copy(ensure_book(prices), book_path(self.ledger))  # compiled once, not in every test
        self.config = folder / "bursar.toml"
        self.policy("")

    def policy(self, more: str) -> None:
        """Write the policy: the three providers, and `more`."""
        self.config.write_text(
            "\n".join(f'[providers.{name}]\nbase_url = "{self.provider.url}/{name}"\nkey = "client"'
                      for name in ("openai", "anthropic", "gemini")) + "\n" + more
        )  # fmt: skip

    def url(self, name: str) -> str:
        return f"{self.provider.url}/{name}" + ("/v1" if name == "openai" else "")

    def wrapping(self) -> dict[str, Any]:
        return {"config": self.config, "ledger": self.ledger}

    def rows(self, count: int | None = None) -> list[Entry]:
        books = keeping.books(self.config, self.ledger)
        books.settle()
        shop = books.shop()
        assert shop is not None
        due = time.monotonic() + 10
        while True:
            found = shop.ledger.rows()
            wanted = len(self.provider.seen) if count is None else count
            if len(found) >= wanted or time.monotonic() > due:
                return found
            time.sleep(0.01)


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prices")


@pytest.fixture
def bench(tmp_path: Path, prices: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Our own faults are raised: a wrapper that silently steps aside would pass any test."""
    monkeypatch.setattr(drive, "raise_faults", True)
    with Provider() as provider:
        yield Bench(provider, tmp_path, prices)


def once(first: Say, then: Say | None = None) -> Callable[[Seen], Say]:
    """A script that says one thing to the first request and another to all others."""
    return lambda seen: first if seen.number == 1 else (then or by_header(seen))
