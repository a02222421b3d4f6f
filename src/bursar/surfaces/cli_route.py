"""`bursar route`: trains a feature's tier classifier on its own graded traffic, and tests one. Files in, a file out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..domain.money import plain, usd
from .cli_common import Common, common

if TYPE_CHECKING:
    from ..rules.router import Example, Point, Router

LINES_MAX = 200_000
SHAPE = '{"text": "…", "cheap": 0…1, "dear": 0…1, "cheap_cost": "0.001", "dear_cost": "0.02"}'
KEEPS = (0.90, 0.95, 0.97, 0.99)


class Graded(msgspec.Struct, forbid_unknown_fields=True):
    """One line of graded traffic. Grades from 0 to 1, costs in dollars as strings."""

    text: str
    cheap: float
    dear: float
    cheap_cost: str = "0"
    dear_cost: str = "0"


def read(file: Path) -> list[Example]:
    """The graded requests of a JSONL file. A usage error names the line that cannot be read and why."""
    from ..rules.router import Example

    found: list[Example] = []
    decoder = msgspec.json.Decoder(Graded)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if number > LINES_MAX:
                raise click.UsageError(f"{file}: more than {LINES_MAX:,} lines; a sample of some thousands says as much")
            try:
                one = decoder.decode(line)
                if not (0 <= one.cheap <= 1 and 0 <= one.dear <= 1):
                    raise ValueError("grades are from 0 to 1")
                found.append(Example(one.text, one.cheap, one.dear, usd(one.cheap_cost), usd(one.dear_cost)))
            except (msgspec.DecodeError, ValueError) as bad:
                raise click.UsageError(f"{file}:{number}: {bad}; a line is {SHAPE}") from None
    return found


def place(folder: Path, feature: str) -> Path:
    """Where a feature's router lies beside the ledger."""
    if not re.fullmatch(r"[\w.-]{1,64}", feature):
        raise click.UsageError(f"feature {feature!r}: letters, digits, dots, dashes and underscores, at most 64")
    return folder / "routers" / f"{feature}.router"


@click.group()
def route() -> None:
    """Tiers from your own graded traffic: which requests need the dearer model. No model is asked, no weights are downloaded."""


@route.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--feature", required=True, help="whose traffic this is; the router serves no other")
@click.option("--cheap", required=True, metavar="MODEL", help="the cheaper model that was graded")
@click.option("--dear", required=True, metavar="MODEL", help="the dearer one")
@click.option(
    "--keep", default=0.97, type=click.FloatRange(0.5, 1.0), help="the part of the dearer model's grade to keep (default 0.97)"
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="where to put it (default: beside the ledger)")
@common("as_json", "ledger")
def train(common: Common, file: Path, feature: str, cheap: str, dear: str, keep: float, out: Path | None) -> None:
    """Makes a router from FILE, one graded request a line, and says what it would save."""
    from ..rules import router as rules

    examples = read(file)
    target = out or place(common.folder(), feature)
    made = rules.fit(feature, cheap, dear, examples, keep, progress=lambda step: click.echo(f"training, {step}", err=True))
    if isinstance(made, rules.Unfit):
        if common.json:
            from . import tables

            tables.document([], trained=False, reason=made.reason, remedy=made.remedy)
        else:
            click.echo(f"no router: {made.reason}\n{made.remedy}")
        raise click.exceptions.Exit(1)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".new")
    beside.write_bytes(rules.dump(made))
    os.replace(beside, target)
    told = _told(made, made.report.curve, made.report.chosen, len(examples), common.json)
    if common.json:
        from . import tables

        tables.document(told, trained=True, file=str(target), feature=feature, cheap=cheap, dear=dear, keep=str(keep),
                        apgr=f"{made.report.apgr:.3f}")  # fmt: skip
    else:
        click.echo(f"\nIt lies in {target}. It serves {feature} once it has seen 50 requests like these, and nothing else.")


@route.command()
@click.argument("router", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common("as_json")
def test(common: Common, router: Path, file: Path) -> None:
    """How ROUTER does on FILE, graded requests it has not seen; 1 when it would not serve, or keeps less than it promised."""
    from ..rules import router as rules

    try:
        made = rules.load(router.read_bytes())
    except ValueError as bad:
        raise click.UsageError(f"{router}: {bad}") from None
    examples = read(file)
    if not examples:
        raise click.UsageError(f"{file}: no graded requests in it")
    held = rules.hold(made, examples)
    told = _told(made, held.curve, held.chosen, len(examples), common.json)
    if common.json:
        from . import tables

        tables.document(told, refused=held.refused or None, keeps_its_promise=not held.short, apgr=f"{rules.apgr(held.curve):.3f}")
    elif held.refused:
        click.echo(f"\nIt would not serve these: {held.refused}. The tier without a router would.")
    elif held.short:
        click.echo(f"\nIt keeps less than the {made.kept:.0%} that it promised: grade newer traffic and train again.")
    if held.refused or held.short:
        raise click.exceptions.Exit(1)


def _told(made: Router, curve: tuple[Point, ...], chosen: Point, count: int, as_json: bool) -> list[dict[str, Any]]:
    """The table: all cheap, what it does, other thresholds, all dear; printed, or as rows for programs."""
    from ..domain.money import show
    from ..rules import router as rules
    from . import tables

    dear = curve[-1]
    lines: list[tuple[str, Point]] = [(f"all {made.cheap}", curve[0]), (f"this router ({made.kept:.0%})", chosen)]
    for part in KEEPS:
        point = rules.choose(curve, part * dear.grade, 0.0)
        if point is not None:
            lines.append((f"at best, keeping {part:.0%}", point))
    lines.append((f"all {made.dear}", dear))
    if as_json:
        return [
            {"what": what, "dear_share": f"{p.dear_share:.4f}", "grade": f"{p.grade:.4f}", "cost": plain(p.pico)} for what, p in lines
        ]  # fmt: skip
    out = tables.console()
    cells = [
        [tables.safe(what), f"{p.dear_share:.0%}", f"{p.grade:.3f}", f"{p.grade / dear.grade:.1%}" if dear.grade else "", show(p.pico),
         tables.share(dear.pico - p.pico, dear.pico)] for what, p in lines
    ]  # fmt: skip
    columns = [tables.Column("what"), tables.number("dear"), tables.number("grade"), tables.number("kept"), tables.number("cost"),
               tables.number("saved")]  # fmt: skip
    tables.line(out, f"{made.feature}: {count:,} graded requests, {made.cheap} or {made.dear}")
    out.print(tables.table(columns, cells))
    tables.line(
        out, f"Of the gap between the two it wins {rules.apgr(curve):.0%} on average over all shares; by chance it would be 50%."
    )
    return []
