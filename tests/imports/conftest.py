"""The price book that all imports here are priced by, compiled once."""

from __future__ import annotations

import pytest

from bursar.stores.pricebook import PriceBook
from bursar.surfaces import price_sync


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    return PriceBook.load(price_sync.ensure_book(tmp_path_factory.mktemp("prices")))
