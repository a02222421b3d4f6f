"""`bursar import`: other tools' records into the ledger, and what became of each of them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..domain.labels import OPERATIONS
from ..domain.money import plain
from ..stores.schema import Place
from ..stores.writer import Ledger
from . import periods, price_sync, settings, tables, wiring
from .cli_common import Common, common
from .imports import FORMS, reports

if TYPE_CHECKING:
    from .imports.intake import Intake, Tally

ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".pb", ".proto", ".log", ".gz", ".zst")
FILES_MAX = 100_000
DAY_US = 86_400_000_000
IMPORTED = "imported:"
COMPARED_MAX = 8  # models listed where the source's amounts are not ours


def _pairs(_context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise click.BadParameter(f"{pair!r} is not {option.make_metavar(_context)}")
        found[name.strip()] = value.strip()
    if option.name == "labels" and found.get("operation", "primary") not in OPERATIONS:
        raise click.BadParameter(f"operation is one of {', '.join(OPERATIONS)}")
    return found


def _files(given: Sequence[str]) -> list[Path]:
    """The files meant; of a folder all that look like records, in the order of their names."""
    found: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
            if not inside:
                raise click.UsageError(f"{path} has no file that ends with {', '.join(ENDINGS)}")
            found += inside
        elif not path.is_file():
            raise click.UsageError(f"{path}: no such file")
        else:
            found.append(path)
    if len(found) > FILES_MAX:
        raise click.UsageError(f"{len(found):,} files; at most {FILES_MAX:,} at once")
    return list(dict.fromkeys(found))


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMS)))
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_pairs,
    help="a label for every row, such as tenant=acme; repeat for more",
)
@click.option(
    "--rename",
    "renames",
    metavar="THEIRS=OURS",
    multiple=True,
    callback=_pairs,
    help="a label of theirs is one of ours, such as team=tenant",
)
@click.option("--aside", metavar="FILE", help="where refused records are kept (default: in the ledger's folder)")
@click.option("--config", metavar="FILE", help="the policy file, for your own prices (default: bursar.toml here, if there is one)")
@common("as_json", "ledger")
def import_(
    common: Common,
    form: str,
    files: tuple[str, ...],
    labels: dict[str, str],
    renames: dict[str, str],
    aside: str | None,
    config: str | None,
) -> None:
    """Other tools' records into the ledger. Formats: otlp, litellm, langfuse, helicone, langsmith, openai-usage, anthropic-usage,
    claude-code, jsonl. A second import of the same records adds nothing; an interrupted one goes on where it stopped. Exit code 1 when
    a record was refused."""
    from .imports.files import Unreadable
    from .imports.intake import Book, Intake, WrongFormat

    paths = _files(files)
    policy, _ = settings.load(settings.find(config))
    folder = Path(common.ledger) if common.ledger else wiring.ledger_folder(policy)
    place = Place.at(folder)
    place.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    book = Book(price_sync.ensure_book(place.file.parent), [line for line in policy.price if line.model])
    interrupted = False
    with Ledger.open(
        folder, node=os.environ.get("BURSAR_NODE") or socket.gethostname(), clock_us=wiring.now_us, mode="import"
    ) as ledger:
        with _progress(paths) as step:
            intake = Intake(
                form,
                ledger,
                book,
                labels=labels,
                renames=renames,
                clock_us=wiring.now_us,
                aside=Path(aside) if aside else None,
                step=step,
            )
            try:
                intake.run(paths)
            except (Unreadable, WrongFormat) as bad:
                told = click.ClickException(str(bad))
                told.exit_code = 2
                raise told from None
            except KeyboardInterrupt:
                interrupted = True
    tally = intake.tally
    beside = _beside(folder, tally) if form not in reports.FORMS else []
    if common.json:
        _document(intake, paths, labels, beside, interrupted)
    else:
        _tell(tables.console(), intake, paths, beside, interrupted)
    click.get_current_context().exit(1 if tally.refused or interrupted else 0)


def _beside(folder: Path, tally: Tally) -> list[tuple[str, int]]:
    """(source, rows) of what else the ledger has of the days that were imported."""
    from ..stores.query import Query
    from ..stores.reader import Reader

    if tally.first is None or tally.last is None:
        return []
    with Reader(folder) as reader:
        first, last = tally.first - tally.first % DAY_US, tally.last - tally.last % DAY_US + DAY_US
        found = reader.query(Query(("rows",), ("source",), since_us=first, until_us=last))
    return [(row["source"], row["rows"]) for row in found if row["source"] not in tally.by_source and row["source"] != "correction"]


@contextmanager
def _progress(paths: Sequence[Path]) -> Iterator[Callable[[int, int, int], None]]:
    """A bar on stderr while somebody watches it."""
    if not sys.stderr.isatty():
        yield lambda _file, _position, _records: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    sizes = [path.stat().st_size for path in paths]
    with Progress(
        TextColumn("{task.fields[records]:>11,} records{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=max(sum(sizes), 1), records=0)

        def step(file: int, position: int, records: int) -> None:
            doing = ", moving them to segments" if file == len(sizes) else ""
            bar.update(task, completed=sum(sizes[:file]) + position, records=records, description=doing)

        yield step


def _outcomes(tally: Tally) -> list[tuple[str, str, int]]:
    """(what became of them, why, how many), which add up to the records."""
    made = [("row", "", tally.rows)]
    for outcome, counter in (("duplicate", tally.repeats), ("no call", tally.passed), ("refused", tally.refused)):
        made += [(outcome, reason, count) for reason, count in counter.most_common()]
    return made


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _tell(out: Console, intake: Intake, paths: Sequence[Path], beside: list[tuple[str, int]], interrupted: bool) -> None:
    tally, seconds = intake.tally, intake.seconds
    for found in intake.resumed:
        tables.line(out, f"{tables.safe(found.file)}: gone on with after {found.records:,} records of an interrupted import", "dim")
    named = _many(len(paths), "file") if len(paths) > 1 else tables.safe(paths[0].name)
    speed = f", {tally.records / seconds:,.0f} a second" if seconds >= 1 else ""
    tables.line(out, f"{intake.form}: {_many(tally.records, 'record')} of {named} in {max(seconds, 0.1):,.1f} s{speed}", "bold")
    rows = [[outcome if outcome != "row" else "new row", tables.safe(why), f"{n:,}"] for outcome, why, n in _outcomes(tally)]
    columns = [tables.Column("became", keep=True), tables.Column("because"), tables.number("records")]
    out.print()
    out.print(tables.table(columns, rows, total=["records", "", f"{tally.records:,}"]))
    if tally.rows:
        _money(out, intake)
    if intake.aside_path is not None:
        out.print()
        if tally.refused.total() == tally.records:
            tables.line(out, f"None of them is {intake.form}: {intake.hint()}", "bold")
        tables.line(out, "The refused records, each with its place and reason, are in")
        tables.line(out, f"  {tables.safe(intake.aside_path)}")
    if interrupted:
        tables.line(out, "Interrupted. The same command goes on where this one stopped.", "bold yellow")
    elif tally.rows:
        _next(out, intake, beside)


def _next(out: Console, intake: Intake, beside: list[tuple[str, int]]) -> None:
    tally = intake.tally
    out.print()
    for source, rows in beside:
        what = "measured here" if source == "measured" else f"of {tables.safe(source.removeprefix(IMPORTED))}"
        tables.line(out, f"The same days have {_many(rows, 'row')} {what}. Where those are the same calls, they now", "yellow")
        tables.line(out, "count twice: only a provider's response id tells, and not all sources keep it.", "yellow")
    only = next(iter(tally.by_source)) if len(tally.by_source) == 1 else f"{IMPORTED}{intake.form}"
    told = "These are sums over calls, in no total but their own:" if intake.form in reports.FORMS else "To see them:"
    tables.line(out, told, "dim")
    tables.line(out, f"  bursar spend --where source={only}", "dim")


STATUS = {"priced": "priced", "free": "free", "estimated": "estimated, or as the source states them",
          "unpriced": "without a known price, and in no sum"}  # fmt: skip


def _money(out: Console, intake: Intake) -> None:
    tally = intake.tally
    assert tally.first is not None and tally.last is not None
    out.print()
    first, last = periods.shown(tally.first), periods.shown(tally.last)
    when = f"{first} (UTC)" if first == last else f"{first} to {last} (UTC)"
    if len(tally.by_source) == 1:
        tables.line(out, f"{when}: {tables.money(tally.cost)}", "bold")
    else:  # a provider's usage and its costs are two sums over the same calls
        each = [f"{tables.money(cost)} {source.removeprefix(IMPORTED)}" for source, (_, cost) in sorted(tally.by_source.items())]
        tables.line(out, f"{when}: {', '.join(each)}", "bold")
    told = [f"{_many(tally.by_status[name], 'row')} {what}" for name, what in STATUS.items() if tally.by_status[name]]
    tables.line(out, ", ".join(told), "dim")
    if not tally.compared:
        return
    ours, theirs = (sum(getattr(sums, name) for sums in tally.compared.values()) for name in ("ours", "stated"))
    rows = sum(sums.rows for sums in tally.compared.values())
    if abs(ours - theirs) * 1000 <= max(ours, theirs):
        tables.line(out, f"{intake.form} says the same for {_many(rows, 'row')}: {tables.money(theirs)}")
        return
    many = _many(rows, "row")
    tables.line(out, f"{intake.form} says {tables.money(theirs)} for {many} that cost {tables.money(ours)} at our prices:")
    largest = sorted(tally.compared.items(), key=lambda pair: (-abs(pair[1].ours - pair[1].stated), pair[0]))[:COMPARED_MAX]
    columns = [tables.Column("model"), *(tables.number(name) for name in ("rows", "ours", "theirs", "difference"))]
    lines = [
        [tables.safe(model), f"{sums.rows:,}", *(tables.money(n) for n in (sums.ours, sums.stated, sums.stated - sums.ours))]
        for model, sums in largest
        if abs(sums.ours - sums.stated) * 10_000 > sums.ours
    ]
    out.print()
    out.print(tables.table(columns, lines))


def _document(intake: Intake, paths: Sequence[Path], labels: dict[str, str], beside: list[tuple[str, int]], interrupted: bool) -> None:
    tally = intake.tally
    tables.document(
        [{"outcome": outcome, "reason": reason, "records": count} for outcome, reason, count in _outcomes(tally)],
        format=intake.form,
        source=f"imported:{intake.form}",
        files=[str(path) for path in paths],
        records=tally.records,
        refused=tally.refused.total(),
        refused_file=None if intake.aside_path is None else str(intake.aside_path),
        resumed=[found._asdict() for found in intake.resumed],
        interrupted=interrupted,
        seconds=f"{intake.seconds:.3f}",
        since=None if tally.first is None else periods.iso(tally.first),
        until=None if tally.last is None else periods.iso(tally.last),
        sources={source: {"rows": rows, "cost": plain(cost)} for source, (rows, cost) in sorted(tally.by_source.items())},
        price_status=dict(tally.by_status),
        compared=[
            {"model": model, "rows": sums.rows, "ours": plain(sums.ours), "stated": plain(sums.stated)}
            for model, sums in sorted(tally.compared.items())
        ],
        labels=labels,
        beside=[{"source": source, "rows": rows} for source, rows in beside],
        currency="USD",
    )
