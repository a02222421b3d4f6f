"""What every test may lean on: the recorded material, and the rule that CI skips nothing it can have."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import commands
import ledger_rows
from bursar.surfaces import wiring
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


@pytest.fixture(autouse=True)
def _counters_need_no_repair(request: pytest.FixtureRequest) -> Iterator[None]:
    """A gateway that opens a ledger sets its counters right, which would hide that something counted wrongly."""
    told: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: told.append(record.getMessage())
    log = logging.getLogger("bursar")
    log.addHandler(listener)
    yield
    log.removeHandler(listener)
    if request.node.get_closest_marker("drift") is None:
        assert not [line for line in told if "set right" in line], "counters differed from rows and holds"


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> commands.Run:
    """`bursar` in an empty folder with a home of its own, at the test module's NOW."""
    for name in ("BURSAR_LEDGER", "BURSAR_CONFIG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BURSAR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    now: int = getattr(request.module, "NOW", ledger_rows.END)
    monkeypatch.setattr(wiring, "now_us", lambda: now)
    return commands.go
