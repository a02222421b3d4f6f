"""The demo's two months as a ledger, played without its gateway: what the documentation's examples are asked of."""

from __future__ import annotations

from pathlib import Path

from bursar.stores import segments
from bursar.surfaces import settings
from bursar.surfaces.watch import Watch
from bursar.testing import company, player


def write(path: Path, seed: int = 0, watched: bool = False) -> None:
    """Labels, operations, causes, tokens and dollars are those that `bursar demo` ends up with; `watched`, its alarms too."""
    plan = company.plan(seed)
    if not watched:
        player.simulate(plan, path, policy=company.POLICY)
    else:
        now = plan[0].ts_us
        clockwork = Watch(path, policy=settings.parse(company.POLICY, "the demo's policy"), clock_us=lambda: now)

        def round(at_us: int) -> None:
            nonlocal now
            now = at_us
            clockwork.cycle(send=False)

        player.simulate(plan, path, policy=company.POLICY, on_day=round)
        clockwork.close()
    segments.compact(path, everything=True)
