"""`bursar check`: can the policy be used, and does the ledger add up. What is proved is in stores/check.py."""

from __future__ import annotations

from typing import NamedTuple

import click

from ..domain.money import plain
from ..stores.check import check as prove
from ..stores.check import rebuild as count_anew
from ..stores.schema import Place
from . import keys, price_sync, settings, tables, wiring
from .cli_common import Common, common, pico


class Flaw(NamedTuple):
    """Something that is not as it must be."""

    code: str
    reason: str
    remedy: str


def _policy(config: str | None, given: str | None) -> tuple[str, list[Flaw]]:
    """What was looked at, and what is wrong with it: settings, secrets, prices and providers together."""
    try:
        path = settings.find(config)
        policy, _ = settings.load(path)
        folder = keys.home(wiring.ledger_folder(policy, given))
        places = wiring.addresses(policy, keys_from_environment=True)
        if policy.budget and folder.is_dir():
            wiring.reachable(policy, path, wiring.PriceBook.load(price_sync.ensure_book(folder), policy.price), places, folder)
    except settings.BadPolicy as bad:
        return "policy", [Flaw(bad.code, str(bad), "the last good policy stays in force where a gateway runs")]
    return f"policy {path}" if path else "no policy file", []


@click.command()
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--rebuild", is_flag=True, help="first count the budgets' counters anew from the rows")
@common("as_json", "ledger")
def check(common: Common, config: str | None, rebuild: bool) -> None:
    """Proves that the policy can be used and that the ledger adds up. Exit code 1 when a proof fails."""
    looked_at, flaws = _policy(config, common.ledger)
    folder = common.folder() if common.ledger or not flaws else wiring.ledger_folder(settings.Policy())
    about: dict[str, object] = {"ledger": str(folder), "policy": looked_at}
    told = [looked_at]
    try:
        ring = keys.KeyRing.load(folder, [] if flaws else settings.load(settings.find(config))[0].key)
        told.append(f"{len(ring)} virtual keys")
    except (keys.KeyFault, settings.BadPolicy) as bad:
        flaws.append(Flaw(bad.code, str(bad), "virtual keys do not work until then"))
    if Place.at(folder).file.exists():
        if rebuild:
            told.append(f"{len(count_anew(folder))} counters that differed from the rows, and set them right")
        proved = prove(folder, wiring.now_us)
        flaws += [Flaw(*f) for f in proved.findings]
        cost = 0 if proved.cost is None else pico(proved.cost)
        about |= {"entries": proved.rows, "holds": proved.holds, "segments": proved.segments, "cost": plain(cost)}
        told.append(f"{folder}: {proved.rows:,} rows, {proved.holds:,} holds, {proved.segments:,} segments, {tables.money(cost)}")
    else:
        told.append(f"{folder}: no ledger yet")
    if common.json:
        tables.document([f._asdict() for f in flaws], findings=len(flaws), **about)
    else:
        out = tables.console()
        for text in told:
            tables.line(out, f"looked at {tables.safe(text)}")
        for flaw in flaws:
            tables.line(out, f"{flaw.code}: {tables.safe(flaw.reason)}", "bold red")
            tables.line(out, f"  → {tables.safe(flaw.remedy)}")
        tables.line(out, f"{len(flaws)} to look into" if flaws else "all proofs hold", "bold")
    click.get_current_context().exit(1 if flaws else 0)
