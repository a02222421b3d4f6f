"""What every test may lean on: the recorded material, and the rule that CI skips nothing it can have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar.surfaces.context import SERVICES

IN_CI = bool(os.environ.get("CI"))
# A build service's variables would make evals of the calls that tests make through a wrapped client.
for variable in SERVICES:
    os.environ.pop(variable, None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The recorded traffic, prices and bills: BURSAR_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("BURSAR_DATA") or ROOT.parent / "shared" / "data")
    if folder.is_dir():
        return folder
    if IN_CI:
        pytest.fail(f"CI must have the recorded material; not found at {folder} (set BURSAR_DATA)")
    pytest.skip(f"recorded material not found at {folder}; set BURSAR_DATA to its folder")
