"""`bursar export`: the ledger's rows for other tools, to a file or a pipe."""

from __future__ import annotations

import gzip
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from ..domain.money import plain
from . import periods, tables
from .cli_common import Common, common, filters
from .exports import FORMS


@click.command("export")
@click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMS)))
@click.option("--out", metavar="FILE", help="the file to write, .gz for gzip (default: standard output)")
@click.option(
    "--grain", type=click.Choice(["day", "hour"]), help="a line per day or per hour (focus: day; otlp-metrics: hour)"
)
@click.option("--tags", metavar="A,B", help="focus: only these free labels as tags (default: all)")
@click.option("--account", metavar="ID", help="focus: the billing account's id (default: the provider's name)")
@click.option(
    "--endpoint", metavar="URL", help="send to this address instead of writing, such as http://localhost:4318/v1/traces"
)
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="a header for the endpoint; repeat for more")
@common("as_json", "ledger", "since", "until", "where")
def export(
    common: Common,
    form: str,
    out: str | None,
    grain: str | None,
    tags: str | None,
    account: str | None,
    endpoint: str | None,
    headers: tuple[str, ...],
) -> None:
    """The ledger's rows for other tools. Formats: jsonl, csv, parquet, focus, otlp, otlp-metrics. Money is exact; a file appears
    when it is whole."""
    from ..stores.query import Query
    from ..stores.reader import Reader
    from .exports.rows import Asked, Written

    if endpoint and not form.startswith("otlp"):
        raise click.UsageError(f"--endpoint is for otlp and otlp-metrics; {form} is written to a file")
    if not FORMS[form].pipe and not out:
        raise click.UsageError(f"{form} cannot go to a pipe; name a file: --out ledger.{form}")
    if common.json and not (out or endpoint):
        raise click.UsageError("--json tells of the export on standard output, where its rows would go; name a file: --out FILE")
    period = common.period()
    query = Query(("rows",), (), filters(common.where), period.since, period.until)
    writer = importlib.import_module(f".exports.{FORMS[form].module}", __package__)
    with Reader(common.existing()) as reader:
        total = reader.query(query)[0]["rows"]
        with _progress(total, quiet=not (out or endpoint)) as step:
            grain = grain or ("hour" if form == "otlp-metrics" else "day")
            asked = Asked(query, grain, tuple(t.strip() for t in tags.split(",") if t.strip()) if tags else (), account or "", step)
            if endpoint:
                written: Written = writer.send(reader, asked, endpoint, _headers(headers))
            elif not FORMS[form].pipe:
                assert out is not None
                written = _whole(Path(out), lambda path: writer.write(reader, asked, path))
            elif out:
                written = _whole(Path(out), lambda path: _through(path, out, lambda file: writer.write(reader, asked, file)))
            else:
                written = _piped(lambda file: writer.write(reader, asked, file))
    about = {"format": form, "file": out or endpoint or "", "records": written.rows, "cost": plain(written.cost),
             "left_out": written.left_out,
             "why_left_out": written.why}  # fmt: skip
    if common.json:
        tables.document(
            [about], since=period.since and periods.iso(period.since), until=period.until and periods.iso(period.until), currency="USD"
        )
        return
    left = f"; {written.left_out:,} left out: {written.why}" if written.left_out else ""
    where = f" to {tables.safe(out or endpoint)}" if out or endpoint else ""
    click.echo(f"{written.rows:,} rows, {tables.money(written.cost)}{where}{left}", err=True)


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--header {pair!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def _whole(path: Path, write: Callable[[Path], Any]) -> Any:
    """The file appears when it is complete, in place of an older one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        made = write(temporary)
        temporary.replace(path)
        return made
    except OSError as bad:
        told = click.ClickException(f"{path}: cannot be written: {bad.strerror or bad}")
        told.exit_code = 2
        raise told from None
    finally:
        temporary.unlink(missing_ok=True)


def _through(path: Path, name: str, write: Callable[[IO[bytes]], Any]) -> Any:
    # Rows may hold names of customers: for their owner's eyes, like the ledger.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=1 << 20) as file:
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
                return write(cast("IO[bytes]", packed))
        return write(file)


def _piped(write: Callable[[IO[bytes]], Any]) -> Any:
    try:
        made = write(sys.stdout.buffer)
        sys.stdout.flush()
        return made
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.get_current_context().exit(0)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while somebody watches it and the rows do not go to the same terminal."""
    if not sys.stderr.isatty() or not total or (quiet and sys.stdout.isatty()):
        yield lambda _rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.completed:>11,.0f} rows"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)
        yield lambda rows: bar.update(task, completed=rows)
