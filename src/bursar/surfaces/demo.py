"""`bursar demo`: a simulated company's two months through a real gateway and real sockets, and what they cost, beside the invoice.

The clock is injected, so two months take a minute; the gateway, the ledger, the prices and the HTTP are the ones `bursar serve` runs.
The provider's invoice is the judge: it shares no code and no prices with the books it is compared with."""

from __future__ import annotations

import http.client
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..domain.money import plain, usd
from ..stores import segments
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from ..testing import company
from ..testing.planned import Planned
from ..testing.provider import Provider
from . import cli_spend, gateway, settings, tables
from .periods import Period

FOLDER = "demo-ledger"
MARK = "made-by-bursar-demo"


class Clock:
    """The company's wall clock, microseconds since the epoch: it stands where the next call puts it."""

    def __init__(self) -> None:
        self.at_us = 0

    def __call__(self) -> int:
        return self.at_us


def run(ledger: str | None = None, seed: int = 0) -> int:
    """Play, report, compare; the exit code is 0 when ledger and invoice agree to the last digit, else 1."""
    folder = Path(ledger or FOLDER)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            print(f"bursar demo: {folder} is not empty and no demo made it; name another place with --ledger", file=sys.stderr)
            return 2
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("bursar demo makes this folder anew each time it runs\n", encoding="utf-8")

    out = tables.console()
    began = time.monotonic()
    calls = company.plan(seed)
    clock = Clock()
    with Provider(clock=clock, seed=seed) as provider:
        policy = settings.parse(
            company.POLICY
            + "".join(f'\n[providers.{n}]\nbase_url = "{provider.url}"\nkey = "sk-demo"\n' for n in ("openai", "anthropic", "gemini"))
            + "\n[ledger]\ncompact_every_s = 0\n",
            "the demo's policy",
        )
        served = gateway.serve_in_thread(ledger=folder, policy=policy, clock_us=clock)
        try:
            _play(served.url, calls, clock)
        finally:
            served.stop()
        invoice = provider.invoice
        # The ledger's tail becomes Parquet, as it does beside every running gateway.
        segments.compact(folder, clock_us=clock, everything=True)
        truth = company.truth(seed, calls=calls)
        with Reader(folder) as reader:
            _report(out, reader, truth)
            agrees = _foot(out, reader, invoice.total(), invoice.by_day(), invoice.by_model())
    tables.line(out)
    tables.line(out, f"{len(calls):,} calls in {time.monotonic() - began:.0f} s. The ledger lies in {folder}. Ask it yourself:")
    for command in ("spend --by feature,operation", "spend --by cause --since 2026-10-12 --until 2026-10-19",
                    "calls --where cause=tool:lookup_order --limit 5", "check"):  # fmt: skip
        tables.line(out, f"  bursar {command} --ledger {folder}")
    return 0 if agrees else 1


def _play(url: str, calls: list[Planned], clock: Clock) -> None:
    """Send every call, one after another in the company's time, as its clients would."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("two months of calls", total=len(calls))
        for number, call in enumerate(calls):
            clock.at_us = call.ts_us
            connection.request("POST", call.path, call.body.encode(), {**call.headers(), "content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if number % 50 == 0:
                moment = datetime.fromtimestamp(call.ts_us / 1e6, UTC)
                bar.update(task, completed=number, description=f"{moment:%d %b %Y}")
        bar.update(task, completed=len(calls))
    connection.close()


def _report(out: Console, reader: Reader, truth: dict[str, object]) -> None:
    quiet, dear = _date(truth["first_day"]), _date(truth["second_month"])
    after = (dear + timedelta(days=32)).replace(day=1)
    month = Period(_us(dear), _us(after), (_us(quiet), _us(dear)))

    tables.line(out, "\nThe bill went up, and nobody can say why", "bold")
    _table(out, "by month", cli_spend.statement(reader, (), (), Period(_us(quiet), _us(after)), grain="month"))
    tables.line(out, f"\nWhat cost us that in {dear:%B}, beside {quiet:%B}", "bold")
    for name in ("feature", "tenant", "operation", "cause"):
        _table(out, f"by {name}", cli_spend.statement(reader, (name,), (), month, top=8))

    first, last = truth["week"]  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    week = Period(_us(_date(first)), _us(_date(last) + timedelta(days=1)))
    tables.line(out, f"\nThe dear week, {first:%d} to {last:%d %B}: what cost us that", "bold")
    _week(out, reader, week)

    tables.line(out, f"\nWhat hides behind it in {dear:%B}", "bold")
    _hidden(out, reader, month, dear, after)


def _week(out: Console, reader: Reader, week: Period) -> None:
    """Four lines that do not overlap and add up: who, what for, and which tool's failures."""
    customer = Filter("tenant", (company.CUSTOMER_X,))
    evals, retried = Filter("purpose", ("eval",)), Filter("cause", ("tool:lookup_order",))
    others, real, calm = (Filter(f.name, f.values, True) for f in (customer, evals, retried))
    parts = [
        (f"customer {company.CUSTOMER_X}", (customer, real, calm)),
        ("evals", (evals, others, calm)),
        ("asking again after lookup_order failed", (retried, others, real)),
        ("everything else", (others, real, calm)),
    ]
    total = _sum(reader, week, ())
    rows, found = [], 0
    for what, where in parts:
        pico = _sum(reader, week, where)
        found += pico
        rows.append([what, tables.money(pico), tables.share(pico, total)])
    if found != total:
        overlap = total - found
        rows.append(["in more than one of these", tables.money(overlap), tables.share(overlap, total)])
    out.print(tables.table([tables.Column("driver"), tables.number("cost"), tables.number("share")], rows,
                           total=[tables.TOTAL, tables.money(total), "100.0%"]))  # fmt: skip


def _hidden(out: Console, reader: Reader, month: Period, first: date, after: date) -> None:
    total = _sum(reader, month, ())
    last_night = Period(_us(after - timedelta(days=1)), _us(after))
    rows = []
    for what, where, period in (
        ("evals, per pull request, nightly and weekly", (Filter("purpose", ("eval",)),), month),
        ("the nightly re-embedding", (Filter("purpose", ("embedding",)),), month),
        ("… in the month's last night", (Filter("purpose", ("embedding",)),), last_night),
        ("falling back to a model 15 times the price", (Filter("operation", ("fallback",)),), month),
        ("asking again after lookup_order failed", (Filter("cause", ("tool:lookup_order",)),), month),
        ("one conversation in six hours", (Filter("conversation", (_dearest(reader, month),)),), month),
    ):
        pico = _sum(reader, period, where)
        rows.append([what, tables.money(pico), tables.share(pico, total)])
    out.print(tables.table([tables.Column("multiplier"), tables.number("cost"), tables.number("of the month")], rows))


def _dearest(reader: Reader, period: Period) -> str:
    """The conversation that cost most."""
    ask = Query(("cost",), ("conversation",), (Filter("conversation", ("",), True),), period.since, period.until, top=1)
    return str(reader.query(ask)[0]["conversation"])


def _sum(reader: Reader, period: Period, where: tuple[Filter, ...]) -> int:
    (row,) = reader.query(Query(("cost",), (), where, period.since, period.until))
    return 0 if row["cost"] is None else usd(row["cost"])


def _foot(out: Console, reader: Reader, owed: Decimal, by_day: dict[str, Decimal], by_model: dict[str, Decimal]) -> bool:
    """The ledger beside the provider's own invoice: total, every day, every model."""
    (row,) = reader.query(Query(("cost", "tries", "unpriced", "estimated")))
    booked = usd(row["cost"])
    days = {str(r["period"])[:10]: usd(r["cost"]) for r in reader.query(Query(("cost",), (), (), grain="day")) if r["cost"]}
    models = {str(r["model_served"]): usd(r["cost"]) for r in reader.query(Query(("cost",), ("model_served",))) if r["cost"]}
    differ: Callable[[dict[str, int], dict[str, Decimal]], list[str]] = lambda ours, theirs: [  # noqa: E731
        k for k in sorted({*ours, *theirs}) if ours.get(k, 0) != usd(theirs.get(k, Decimal(0)))
    ]
    odd = differ(days, by_day) + differ(models, by_model)
    agrees = booked == usd(owed) and not odd
    tables.line(out, "\nDoes it foot?", "bold")
    sure = f"{row['tries']:,} rows, {row['unpriced']} unpriced, {row['estimated']} estimated"
    tables.line(out, f"  the ledger            ${plain(booked)}   ({sure})")
    tables.line(out, f"  the provider's bill   ${plain(usd(owed))}")
    if agrees:
        tables.line(out, f"  difference            $0, on each of {len(days)} days and {len(models)} models", "green")
    else:
        where = ", ".join(odd) or "no single day or model"
        tables.line(out, f"  difference            ${plain(booked - usd(owed))}; on {where}", "bold red")
    return agrees


def _table(out: Console, title: str, made: object) -> None:
    tables.line(out)
    tables.line(out, title, "dim")
    cli_spend._table(out, made)  # type: ignore[arg-type]  # pyright: ignore[reportPrivateUsage, reportArgumentType]


def _us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _date(value: object) -> date:
    assert isinstance(value, date)
    return value
