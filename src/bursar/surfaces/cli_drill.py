"""`bursar drill`: a fire drill of the live policy, and the last one that was held."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..stores import drills
from ..stores.schema import Place, opened
from . import settings, tables, wiring
from .cli_common import Common, common
from .drill import FAILED, MISSING, Drill, Report, read
from .periods import shown

COLOURS = {"tripped": "green", FAILED: "bold red", MISSING: "yellow", "not tried": "dim"}


@click.command("drill")
@click.option("--config", type=click.Path(path_type=Path), help="the policy file (default: the one in force)")
@click.option("--send", is_flag=True, help="try the policy's own channels and hand-off; else a stand-in hears")
@click.option("--last", "show_last", is_flag=True, help="the last drill of this ledger, and whether its signature is good")
@click.option("--markdown", is_flag=True, help="for a report")
@common("as_json", "ledger")
def drill(common: Common, config: Path | None, send: bool, show_last: bool, markdown: bool) -> None:
    """Synthetic trouble through the live policy, with a scripted provider: a runaway, an overspending tenant with many callers at
    once, a flaky tool, a dear fallback. Costs nothing. Exit 1 when a guard fails, or nothing stops a runaway or bounds spending."""
    policy, policy_hash = settings.load(settings.find(config))
    path = Path(common.ledger) if common.ledger else wiring.ledger_folder(policy)
    place = Place.at(path)
    if show_last:
        found: list[drills.Kept] = []
        if place.file.exists():
            with opened(place.file, read_only=True) as connection:
                found = drills.newest(connection)
        if not found:
            click.echo("No drill was held on this ledger.")
            raise click.exceptions.Exit(1)
        (kept,) = found
        same = kept.policy == policy_hash
        _show(read(kept.report), common.json, markdown, signature=kept.signature, good=kept.good, in_force=same)
        raise click.exceptions.Exit(0 if kept.passed and same else 1)
    from rich.console import Console

    with Console(file=sys.stderr).status("drill") as status:
        told = Drill(policy, policy_hash, folder=place.file.parent, send=send, step=lambda what: status.update(f"drill: {what}"))
        report = told.run(wiring.now_us())
    signed = drills.keep(path, report.document())
    _show(report, common.json, markdown, signature=signed, good=True, in_force=True)
    raise click.exceptions.Exit(0 if report.passed else 1)


def pasted(report: Report) -> str:
    """What the policy lacks, as lines of it: one [guard], and what else there is."""
    wanted = [line.paste for line in report.lines if line.paste and line.verdict == MISSING]
    guard: dict[str, None] = {}
    for text in wanted:
        if text.startswith("[guard]"):
            guard |= dict.fromkeys(text.splitlines()[1:])
    others = [text.rstrip() for text in wanted if text.startswith("[[")]
    return "\n".join([*(["[guard]", *guard] if guard else []), *others])


def _show(report: Report, as_json: bool, markdown: bool, *, signature: str, good: bool, in_force: bool) -> None:
    if as_json:
        rows = [line._asdict() for line in report.lines]
        tables.document(rows, passed=report.passed, policy=report.policy, ts=report.ts, signature=signature, signature_good=good,
                        policy_in_force=in_force, signed=report.document())  # fmt: skip
        return
    head = f"{'Passed' if report.passed else 'Failed'}: {shown(report.ts)} UTC, policy {report.policy}, {report.seconds:g} s"
    if markdown:
        columns = "| guard | | result | at call | spent of limit | over | note |\n|---|---|---|---|---|---|---|"
        click.echo(f"## Drill\n\n{head}\n\n{columns}")
        for line in report.lines:
            spent = f"{line.spent} of {line.limit}" if line.limit else ""
            click.echo(f"| {line.what} | {line.name} | {line.verdict} | {line.call or ''} | {spent} | {line.over} | {line.note} |")
        click.echo(f"\nSigned `{signature[:16]}…`{'' if good else ' (BAD)'}")
        return
    out = tables.console()
    tables.line(out, head, "bold green" if report.passed else "bold red")
    cells: list[list[str]] = []
    for line in report.lines:
        spent = f"{line.spent} of {line.limit}" if line.limit and line.spent else line.limit
        facts = [f"at call {line.call}" if line.call else "", spent]
        facts += [f"{line.over} over" if line.over else "", f"{line.seconds:g} s" if line.seconds else "", line.note]
        cells.append([line.what, tables.safe(line.name), line.verdict, ", ".join(fact for fact in facts if fact)])
    columns = [tables.Column("guard"), tables.Column("of"), tables.Column("result", keep=True), tables.Column("what happened")]
    out.print(tables.table(columns, cells))
    seen = next((line.shown for line in report.lines if line.shown), "")
    if seen:
        tables.line(out, f"\nThe user would see: {tables.safe(seen)}")
    wanted = pasted(report)
    if wanted:
        tables.line(out, "\nIn the policy file:", "bold")
        for text in wanted.splitlines():
            tables.line(out, "  " + text)
    state = "" if good else " — the report was CHANGED"
    tables.line(out, f"\nsigned {signature[:16]}…{state}{'' if in_force else ' · the policy in force is another one'}", "dim")
