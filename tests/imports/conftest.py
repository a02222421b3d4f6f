"""The price book that all imports here are priced by, compiled once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.stores.pricebook import PriceBook
from bursar.surfaces import price_sync


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return price_sync.ensure_book(tmp_path_factory.mktemp("prices"))


@pytest.fixture(scope="session")
def prices(book: Path) -> PriceBook:
    return PriceBook.load(book)
