"""Fixtures: a folder, clocks, an open ledger that is closed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.stores.fault import LedgerFault
from bursar.stores.writer import Ledger

from .books import Clocks, opened


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def ledger(tmp_path: Path, clocks: Clocks) -> Iterator[Ledger]:
    made = opened(tmp_path, clocks)
    yield made
    try:
        made.close()
    except LedgerFault:
        pass  # the test made the trouble
