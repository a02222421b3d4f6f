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
from ..domain.policy import Policy
from ..stores import alarms, segments
from ..stores.query import Filter, Query
from ..stores.reader import Reader
from ..stores.schema import opened
from ..testing import company
from ..testing.planned import DAY_US, Midnights, Planned
from ..testing.provider import Provider
from . import audit, cli_alarms, cli_audit, cli_spend, gateway, settings, tables
from .periods import Period
from .watch import Watch

FOLDER = "demo-ledger"
ALARMS_SHOWN = 5
MARK = "made-by-bursar-demo"
ASK = (
    "audit", "why --this 2026-10", "alarms", "spend --by feature,operation", "calls --where cause=tool:lookup_order --limit 5",
    "dashboard",
)  # fmt: skip


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
        clockwork = Watch(folder, policy=policy, clock_us=clock)
        try:
            _play(served.url, calls, clock, clockwork)
        finally:
            served.stop()
            clockwork.close()
        invoice = provider.invoice
        # The ledger's tail becomes Parquet, as it does beside every running gateway.
        segments.compact(folder, clock_us=clock, everything=True)
        truth = company.truth(seed, calls=calls)
        _report(out, folder, policy, truth)
        with Reader(folder) as reader:
            agrees = _foot(out, reader, invoice.total(), invoice.by_day(), invoice.by_model())
    tables.line(out)
    tables.line(out, f"{len(calls):,} calls in {time.monotonic() - began:.0f} s. The ledger lies in {folder}. Ask it yourself:")
    for command in ASK:
        tables.line(out, f"  bursar {command} --ledger {folder}")
    return 0 if agrees else 1


def _play(url: str, calls: list[Planned], clock: Clock, clockwork: Watch) -> None:
    """Send every call, one after another in the company's time, as its clients would. The clockwork goes round at each midnight and
    judges every minute of the day that ended, as it does every few seconds of a real one."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("two months of calls", total=len(calls))
        midnights = Midnights(calls[0].ts_us)
        for number, call in enumerate(calls):
            for clock.at_us in midnights.until(call.ts_us):
                clockwork.cycle(send=False)
            clock.at_us = call.ts_us
            connection.request("POST", call.path, call.body.encode(), {**call.headers(), "content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if number % 50 == 0:
                moment = datetime.fromtimestamp(call.ts_us / 1e6, UTC)
                bar.update(task, completed=number, description=f"{moment:%d %b %Y}")
        bar.update(task, completed=len(calls))
        for clock.at_us in midnights.until(calls[-1].ts_us + DAY_US):
            clockwork.cycle(send=False)
    connection.close()


def _report(out: Console, folder: Path, policy: Policy, truth: dict[str, object]) -> None:
    quiet, dear = _date(truth["first_day"]), _date(truth["second_month"])
    after = (dear + timedelta(days=32)).replace(day=1)
    with Reader(folder) as reader:
        tables.line(out, "\nThe bill went up, and nobody can say why", "bold")
        cli_spend._table(out, cli_spend.statement(reader, (), (), Period(_us(quiet), _us(after)), grain="month"))  # pyright: ignore[reportPrivateUsage]
        first, last = truth["week"]  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        tables.line(out, f"\nThe dear week, {first:%d} to {last:%d %B}: what cost us that", "bold")
        _week(out, reader, Period(_us(_date(first)), _us(_date(last) + timedelta(days=1))))
    _heard(out, folder, _us(dear))
    with audit.open_reader(folder) as reader:
        made = audit.take(reader, policy, Period(_us(dear), _us(after)), _us(after))
    tables.line(out, f"\nThe audit of {dear:%B}: six questions", "bold")
    cli_audit.as_tables(out, made, brief=True)


def _heard(out: Console, folder: Path, since: int) -> None:
    """The alarms of the dear month with the most dollars above what was usual."""
    with opened(folder, read_only=True) as connection:
        rang = [one for one in alarms.history(connection) if one.fired >= since]
    dollars = {(one.fired, one.peak): one for one in rang if one.unit == "usd"}  # a feature of one tenant alone rings for both
    dearest = sorted(dollars.values(), key=lambda one: max(one.normal, 0) - one.peak)[:ALARMS_SHOWN]
    tables.line(out, f"\nWho would have heard, and when: the dearest of {len(rang)} alarms", "bold")
    rows = [[cli_alarms.minute(one.fired), cli_alarms.headline_of(one)] for one in sorted(dearest, key=lambda one: one.fired)]
    out.print(tables.table([tables.Column("fired, UTC", keep=True), tables.Column("what")], rows))


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


def _us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _date(value: object) -> date:
    assert isinstance(value, date)
    return value
