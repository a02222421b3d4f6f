"""`bursar reconcile`: the provider's bill against the ledger, the gap in classes that add up to it, for people and nightly jobs."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from ..domain.entry import Settlement
from ..domain.money import PICO, plain, usd
from ..rules.price import femto_at, rate_of
from ..rules.reconcile import CLASSES, HOUR_US, Bill, Booked, Cell, Rate, Reconciled, Usage, reconcile
from ..rules.reconcile_book import CORRECTABLE, corrections
from ..stores.pricebook import PriceBook
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from ..stores.writer import Ledger
from . import bills, periods, price_sync, settings, tables, wiring
from .cli_common import Common, common, dimension, filters, pico

DAY_US = 24 * HOUR_US
ZONE_HOURS = 15  # of the ledger beside the bill's days, for days that begin at another hour
CELLS_SHOWN = 25
CLASS_COLUMNS = {
    "input": (("input",), "cost_input"), "cache_read": (("cache_read",), "cost_cache_read"),
    "cache_write": (("cache_write", "cache_write_1h"), "cost_cache_write"), "output": (("output", "reasoning"), "cost_output"),
}  # fmt: skip


def _named(texts: Sequence[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise click.UsageError(f"{what} {text!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


@click.command("reconcile")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", default="", help="whose bill it is, where the file does not say")
@click.option("--zone", metavar="ZONE", help="where plain dates begin: Europe/Berlin (default: UTC, and other hours are tried)")
@click.option(
    "--column", "columns", multiple=True, metavar="WHAT=HEADER", help="a column of a CSV of your own: since=Day, amount=Total …"
)
@click.option("--rate", "rates", multiple=True, metavar="CURRENCY=DOLLARS", help="what one unit of the bill's currency is: EUR=1.0842")
@click.option("--project", metavar="LABEL", help="the label that holds the provider's project, to compare project by project")
@click.option("--tolerance", default="0.1%", show_default=True, metavar="SHARE", help="of the bill; a larger gap is exit code 1")
@click.option("--correct", "correct", multiple=True, type=click.Choice((*CORRECTABLE, "all")),
              help="book the gap of this class as correction rows; repeat for more")  # fmt: skip
@click.option("--config", metavar="FILE", help="the policy file whose prices are used for what the ledger never saw")
@common("as_json", "ledger", "where")
def command(
    common: Common, files: tuple[Path, ...], provider: str, zone: str | None, columns: tuple[str, ...], rates: tuple[str, ...],
    project: str | None, tolerance: str, correct: tuple[str, ...], config: str | None,
) -> None:  # fmt: skip
    """The provider's bill against the ledger, per day, model and token class. Every dollar of a gap has one class. Exit code 1
    when there is a gap."""
    wanted = bills.Wanted(provider, _zone(zone), _named(columns, "--column"))
    unknown = set(wanted.columns) - set(bills.COLUMNS)
    if unknown:
        raise click.UsageError(f"--column {', '.join(sorted(unknown))}: known are {', '.join(bills.COLUMNS)}")
    exchange = _rates(rates)
    share = _share(tolerance)
    folder = common.existing()
    read = _read(files, wanted)
    lines, usages = _hours([one for file in read for one in file.bills]), _hours([one for file in read for one in file.usages])
    if project is None:
        lines, usages = [one._replace(project="") for one in lines], [one._replace(project="") for one in usages]
    elif not all(one.project for one in (*lines, *usages)):
        raise click.UsageError("--project: some lines of these files name no project; leave it out, or export by project")
    label = None if project is None else dimension(project)
    policy, _ = settings.load(settings.find(config))
    book = PriceBook.load(price_sync.ensure_book(folder if folder.suffix != ".db" else folder.parent), policy.price)
    with Reader(folder) as reader:
        made = reconcile(lines, usages, booked(reader, [*lines, *usages], filters(common.where), label), _list_price(book), exchange)
    rows = corrections(made.cells, CORRECTABLE if "all" in correct else correct, os.environ.get("BURSAR_NODE") or socket.gethostname())
    if rows:
        with Ledger.open(folder, node=rows[0].node, clock_us=wiring.now_us) as ledger:
            ledger.book_all([Settlement(row.id, row, ()) for row in rows])
    left = made.gap() - sum(abs(row.cost or 0) for row in rows)
    gap = left * 10**6 > share * abs(made.billed) or bool(made.foreign)
    if common.json:
        _as_document(made, read, rows=len(rows), gap=gap)
    else:
        _as_tables(tables.console(), made, read, len(rows), gap)
    click.get_current_context().exit(1 if gap else 0)


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise click.UsageError(f"--zone {name!r} is not a time zone, such as Europe/Berlin") from None


def _rates(texts: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in _named(texts, "--rate").items():
        try:
            found[name.upper()] = usd(value)
        except ValueError as bad:
            raise click.UsageError(f"--rate {name}: {bad}") from None
        if found[name.upper()] <= 0:
            raise click.UsageError(f"--rate {name}={value}: a rate is above zero")
    return found


def _share(text: str) -> int:
    """Millionths."""
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?%?", text.strip()):
            number = Decimal(text.strip().rstrip("%")) * (10_000 if text.strip().endswith("%") else 1_000_000)
            return int(number)
    except InvalidOperation:
        pass
    raise click.UsageError(f"--tolerance {text!r} is no share: write 0.1% or 0.001")


def _read(files: Sequence[Path], wanted: bills.Wanted) -> list[bills.File]:
    seen: set[bytes] = set()
    read: list[bills.File] = []
    for path in files:
        content = path.read_bytes()
        if content in seen:
            raise click.UsageError(f"{path} is given twice; its lines would count twice")
        seen.add(content)
        read.append(bills.read(path, wanted))
    return read


def _hours(lines: Sequence[Any]) -> list[Any]:
    """Buckets of minutes become the hours they are in: the ledger is compared by the hour."""
    return [one._replace(since=one.since // HOUR_US * HOUR_US, until=-(-one.until // HOUR_US) * HOUR_US) for one in lines]


def booked(reader: Reader, lines: Sequence[Bill | Usage], where: Sequence[Filter], project: str | None) -> list[Booked]:
    """The ledger's sums around the time of these lines: by the day where they all name whole days in UTC, else by the hour."""
    since, until = min(one.since for one in lines), max(one.until for one in lines)
    days = all(not one.naive and one.since % DAY_US == 0 == one.until % DAY_US for one in lines)
    margin = 0 if days else ZONE_HOURS * HOUR_US
    measures = tuple(dict.fromkeys(["cost", *(name for tokens, cost in CLASS_COLUMNS.values() for name in (*tokens, cost))]))
    by = ("provider", "model_served", "usage_source", *((project,) if project else ()))
    ask = Query(measures, by, tuple(where), since - margin, until + margin, "day" if days else "hour")
    made: list[Booked] = []
    for row in reader.query(ask):
        moment = (datetime.fromisoformat(row["period"] + ("T00:00:00+00:00" if days else "")) - bills.EPOCH).total_seconds()
        at = (int(moment) * 1_000_000, row["provider"], row["model_served"])
        more = (row["usage_source"] in ("estimated", "unknown"), row[project] if project else "")
        rest = _pico(row["cost"])
        for unit, (tokens, cost) in CLASS_COLUMNS.items():
            count, dollars = sum(int(row[name] or 0) for name in tokens), _pico(row[cost])
            rest -= dollars
            if count or dollars:
                made.append(Booked(*at, unit, count, dollars, *more))
        if rest:
            made.append(Booked(*at, "other", 0, rest, *more))
    return made


def _pico(dollars: Any) -> int:
    return 0 if dollars is None else pico(dollars)


def _list_price(book: PriceBook) -> Rate:
    def rate(provider: str, model: str, unit: str, moment: int) -> int | None:
        price = book.find(provider, model, moment) if unit in CLASS_COLUMNS else None
        found = None if price is None else rate_of(price, unit)
        return None if found is None else femto_at(found[0], 0)

    return rate


# -- for people ------------------------------------------------------------------------------------------------------------


def _day(cell: Cell) -> str:
    if cell.until - cell.since == DAY_US and cell.since % DAY_US == 0:
        return periods.shown(cell.since)
    return f"{periods.shown(cell.since)} to {periods.shown(cell.until)}"


def _as_tables(out: Console, made: Reconciled, read: Sequence[bills.File], corrected: int, gap: bool) -> None:
    apart, places = made.billed - made.booked, _places(made)
    between = f"{_dollars(abs(apart), places)} {'more' if apart > 0 else 'less'} billed" if apart else "nothing between them"
    tables.line(out, f"{_dollars(made.billed, places)} billed, {_dollars(made.booked, places)} booked: {between}", "bold")
    tables.line(out, " · ".join(f"{tables.safe(file.name)} ({file.format})" for file in read), "dim")
    for text in _remarks(made, read):
        tables.line(out, text, "yellow")
    if made.cells:
        out.print()
        out.print(_days(made))
    names = {name for cell in made.cells for name, _ in cell.residual}
    if names:
        residuals = {name: amount for name, amount in made.residuals().items() if name in names}
        out.print()
        rows = [
            [f"{name.replace('_', ' ')}\n{CLASSES[name]}", _dollars(amount, places, True), tables.share(amount, made.billed)]
            for name, amount in sorted(residuals.items(), key=lambda one: -abs(one[1]))
        ]
        columns = [tables.Column("what lies between"), tables.number("dollars"), tables.number("of the bill")]
        out.print(tables.table(columns, rows, total=[tables.TOTAL, _dollars(apart, places, True), tables.share(apart, made.billed)]))
        out.print()
        out.print(_where(made))
    if corrected:
        tables.line(out, f"\n{corrected} correction rows booked; run it again to see what is left", "bold")
    tables.line(out, "\nthere is a gap" if gap else "\nthe ledger agrees with the bill", "bold")


def _places(made: Reconciled) -> int:
    """A reconciliation of cents needs more digits than one of thousands."""
    whole = max(abs(made.billed), abs(made.booked))
    return 2 if whole >= 1000 * PICO else 4 if whole >= PICO else 6


def _dollars(pico: int, places: int, plus: bool = False) -> str:
    return ("+" if plus and pico > 0 else "") + tables.money(pico, places)


def _remarks(made: Reconciled, read: Sequence[bills.File]) -> list[str]:
    """What was not compared, and what the operator should say."""
    found: list[str] = []
    for file in read:
        if file.left_out[0]:
            amount = tables.money(file.left_out[1])
            found.append(f"{tables.safe(file.name)}: {file.left_out[0]:,} rows of other services ({amount}) left out")
    if made.offset_hours:
        side = "before" if made.offset_hours > 0 else "after"
        found.append(f"the bill's days seem to begin {abs(made.offset_hours)} hours {side} UTC's; say where: --zone")
    for currency, amount, beside in made.foreign:
        name = tables.safe(currency)
        found.append(
            f"not compared: {plain(amount)} {name}, beside {tables.money(beside)} booked; give the rate: --rate {name}=DOLLARS"
        )
    return found


def _days(made: Reconciled) -> Any:
    days: dict[tuple[int, str, str], list[Cell]] = {}
    for cell in made.cells:
        days.setdefault((cell.since, cell.provider, cell.project), []).append(cell)
    projects, places = any(cell.project for cell in made.cells), _places(made)
    rows: list[list[str]] = []
    for (_, provider, project), cells in sorted(days.items()):
        billed, books = sum(cell.billed or 0 for cell in cells), sum(cell.booked for cell in cells)
        parts: dict[str, int] = {}
        for cell in cells:
            for name, amount in cell.residual:
                parts[name] = parts.get(name, 0) + amount
        said = ", ".join(name.replace("_", " ") for name in sorted(parts, key=lambda name: -abs(parts[name]))) or "exact"
        name = _day(cells[0])
        dollars = _dollars(billed, places), _dollars(books, places), _dollars(billed - books, places, True)
        rows.append([name, tables.safe(provider) or "any", *([tables.safe(project)] if projects else []), *dollars, said])
    columns = [tables.Column("time"), tables.Column("provider"), *([tables.Column("project")] if projects else []),
               tables.number("billed"), tables.number("booked"), tables.number("between"), tables.Column("what")]  # fmt: skip
    whole = _dollars(made.billed, places), _dollars(made.booked, places), _dollars(made.billed - made.booked, places, True)
    total = [tables.TOTAL, "", *([""] if projects else []), *whole, ""]
    return tables.table(columns, rows, total=total)


def _where(made: Reconciled) -> Any:
    flat = [(cell, name, amount) for cell in made.cells for name, amount in cell.residual]
    flat.sort(key=lambda one: (one[0].since, -abs(one[2])))
    places = _places(made)
    rows: list[list[str]] = []
    for cell, name, amount in flat[:CELLS_SHOWN]:
        model = tables.safe(cell.model) or "all of it"
        part = f"{model}\n{cell.unit.replace('_', ' ') or 'all classes'}" if cell.model else model
        counted = "" if cell.tokens is None else tables.brief(cell.tokens)
        mine = tables.brief(cell.tokens_booked) if cell.unit else ""
        rows.append([_day(cell), part, counted, mine, _dollars(amount, places, True), name.replace("_", " ")])
    if len(flat) > CELLS_SHOWN:
        rest = sum(amount for _, _, amount in flat[CELLS_SHOWN:])
        rows.append([tables.OTHER, f"{len(flat) - CELLS_SHOWN} more (--json has all)", "", "", _dollars(rest, places, True), ""])
    columns = [tables.Column("time"), tables.Column("model, class"), tables.number("counted"), tables.number("booked")]
    return tables.table([*columns, tables.number("dollars"), tables.Column("what")], rows)


# -- for programs ----------------------------------------------------------------------------------------------------------


def _as_document(made: Reconciled, read: Sequence[bills.File], rows: int, gap: bool) -> None:
    tables.document(
        [
            {"since": periods.iso(cell.since), "until": periods.iso(cell.until), "provider": cell.provider,
             "project": cell.project or None,
             "model": cell.model or None, "class": cell.unit or None, "billed": None if cell.billed is None else plain(cell.billed),
             "booked": plain(cell.booked), "tokens_counted": cell.tokens, "tokens_booked": cell.tokens_booked,
             "residual": {name: plain(amount) for name, amount in cell.residual}}
            for cell in made.cells
        ],
        billed=plain(made.billed), booked=plain(made.booked), between=plain(made.billed - made.booked),
        residual={name: plain(amount) for name, amount in made.residuals().items()},
        not_compared=[{"currency": name, "amount": plain(amount), "booked": plain(beside)} for name, amount, beside in made.foreign],
        offset_hours=made.offset_hours, gap=gap, corrections=rows, currency="USD",
        files=[{"name": file.name, "format": file.format, "left_out": file.left_out[0], "left_out_amount": plain(file.left_out[1])}
               for file in read],
    )  # fmt: skip
