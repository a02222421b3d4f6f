"""The demo's two months as a ledger, played without its gateway: what the documentation's examples are asked of."""

from __future__ import annotations

from pathlib import Path

from bursar.stores import segments
from bursar.testing import company, player


def write(path: Path, seed: int = 0) -> None:
    """Labels, operations, causes, tokens and dollars are those that `bursar demo` ends up with."""
    player.simulate(company.plan(seed), path, policy=company.POLICY)
    segments.compact(path, everything=True)
