"""`bursar alarms`: what fires, what fired, how good it was; test, ack, silence, judge, replay. `bursar watch`: the clockwork."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from ..domain.alarm import NOISE, RESOLVED, USEFUL, Silence, Standing
from ..domain.message import Message
from ..domain.policy import Policy
from ..rules.alarm_policy import AlarmRule, compile_alarms, length
from ..stores import alarms as store
from ..stores.schema import opened
from . import bell, periods, settings, tables, wiring
from .cli_common import Common, common
from .watch_words import against, amount, headline, message_of, minute, plain, scope_of, span, subject

SHOWN_MAX = 20
SILENCE_MOST_US = 90 * 86_400_000_000


def _policy() -> Policy:
    policy, _ = settings.load(settings.find())
    return policy


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


@click.group(invoke_without_command=True)
@click.option("--id", "id", metavar="ID", help="one alarm: its figures, and who was told when")
@click.option("--rules", is_flag=True, help="the alarms there are, with what each was worth")
@common("as_json", "ledger", "since", "until")
@click.pass_context
def alarms(context: click.Context, common: Common, id: str | None, rules: bool) -> None:
    """What fires and what fired, newest first. Exit code 1 while one fires that nobody has acknowledged."""
    if context.invoked_subcommand is not None:
        return
    if id is not None:
        _one(common, id)
    elif rules:
        _rules(common)
    else:
        _list(common)


def _list(common: Common) -> None:
    period = common.period()
    with opened(common.existing(), read_only=True) as connection:
        found = store.history(connection, period.since or 0, period.until or 2**62)
        heard, quiet = store.heard(connection), store.silences(connection, wiring.now_us())
        beat = store.beat(connection)
        waiting = [one for one in store.sent(connection) if one.state != "delivered"]
    firing = [one for one in found if one.state == "firing"]
    if common.json:
        tables.document(
            [_row(one, heard.get(one.id, 0)) for one in found], silences=[_silence_row(one) for one in quiet],
            undelivered=[one._asdict() for one in waiting], judged=periods.iso(beat.judged) if beat.judged else None,
        )  # fmt: skip
    else:
        _show(found, heard, quiet, beat, len(waiting))
    click.get_current_context().exit(1 if firing else 0)


def _show(found: Sequence[Standing], heard: dict[str, int], quiet: Sequence[Silence], beat: store.Beat, waiting: int) -> None:
    out = tables.console()
    if not beat.beat:
        tables.line(out, "No clockwork has run on this ledger: start `bursar serve`, or `bursar watch` beside it.", "yellow")
    elif wiring.now_us() - beat.beat > 300_000_000:
        tables.line(out, f"The clockwork last ran at {minute(beat.beat)} UTC: start `bursar serve` or `bursar watch`.", "yellow")
    rows = [
        [_state(one), minute(one.fired), f"{headline_of(one)}\n{one.id} · {tables.safe(one.rule)}{_after(one, heard)}"]
        for one in found
    ]
    if rows:
        columns = [tables.Column("", keep=True), tables.Column("fired, UTC", keep=True), tables.Column("what")]
        out.print(tables.table(columns, rows[:SHOWN_MAX]))
        if len(rows) > SHOWN_MAX:
            tables.line(out, f"and {len(rows) - SHOWN_MAX} before: --json shows all", "dim")
    else:
        tables.line(out, "No alarm has fired.")
    for one in quiet:
        match = ", ".join(f"{tables.safe(k)}={tables.safe(v)}" for k, v in one.match) or "everything"
        note = f": {tables.safe(one.note)}" if one.note else ""
        tables.line(out, f"silence {one.n}: {match} until {minute(one.until)} UTC, by {tables.safe(one.by)}{note}", "dim")
    if waiting:
        tables.line(out, f"{waiting} notices were not delivered yet: bursar alarms --id ID says why", "yellow")
    if any(one.state == "firing" for one in found):
        tables.line(out, "\nbursar alarms ack ID: you have it · bursar alarms judge ID useful|noise: what it was worth", "dim")


def headline_of(one: Standing) -> str:
    """As it stood at its worst."""
    return headline(one._replace(value=one.peak, state="firing"))


def _state(one: Standing) -> str:
    return {"firing": "FIRING", "acknowledged": "taken"}.get(one.state, one.state)


def _after(one: Standing, heard: dict[str, int]) -> str:
    parts = []
    if heard.get(one.id) and one.metric != "creep":  # which began weeks ago by its nature
        parts.append(f"told after {_took(heard[one.id] - one.since)}")
    if one.state == RESOLVED:
        parts.append(f"over {minute(one.resolved)[5:]}")
    if one.by and one.state != RESOLVED:
        parts.append(f"{tables.safe(one.by)} has it")
    if one.judged:
        parts.append(one.judged)
    return "".join(f" · {part}" for part in parts)


def _took(us: int) -> str:
    minutes = max(0, us) // 60_000_000
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def _row(one: Standing, heard: int) -> dict[str, Any]:
    def time(us: int) -> str | None:
        return periods.iso(us) if us else None

    return {
        "id": one.id, "alarm": one.rule, "scope": scope_of(one), "metric": one.metric, "unit": one.unit, "state": one.state,
        "level": one.level, "value": plain(one.unit, one.value), "peak": plain(one.unit, one.peak),
        "normal": plain(one.unit, one.normal) if one.normal >= 0 else None,
        "threshold": plain(one.unit, one.threshold) if one.threshold else None, "since": time(one.since), "fired": time(one.fired),
        "heard": time(heard), "resolved": time(one.resolved), "owner": one.owner, "notices": one.notices, "acknowledged_by": one.by,
        "judged": one.judged, "judged_by": one.judged_by,
    }  # fmt: skip


def _silence_row(one: Silence) -> dict[str, Any]:
    return {
        "n": one.n,
        "match": dict(one.match),
        "since": periods.iso(one.since),
        "until": periods.iso(one.until),
        "by": one.by,
        "note": one.note,
    }


def _one(common: Common, id: str) -> None:
    with opened(common.existing(), read_only=True) as connection:
        one = store.find(connection, id)
        heard, sent = store.heard(connection).get(one.id, 0), store.sent(connection, one.id)
        (messages,) = [connection.execute("SELECT message FROM notices WHERE alarm = ? ORDER BY at LIMIT 1", (one.id,)).get]
    if common.json:
        tables.document([_row(one, heard)], deliveries=[s._asdict() for s in sent])
        return
    out = tables.console()
    tables.line(out, headline_of(one), "bold")
    after = _after(one, {one.id: heard} if heard else {})
    tables.line(out, f"{one.id} · {tables.safe(one.rule)} · {one.state}, since {minute(one.since)} UTC{after}")
    if messages:
        told = message_of(messages)
        for sentence in told.text:
            tables.line(out, tables.safe(sentence))
        if not told.command.startswith("bursar alarms"):
            tables.line(out, f"$ {tables.safe(told.command)}", "dim")
    columns = [tables.Column("notice", keep=True), tables.Column("channel"), tables.Column("state"), tables.number("tries")]
    columns += [tables.Column("last, UTC", keep=True), tables.Column("what came of it")]
    rows = [
        [one.kind, tables.safe(one.channel), one.state.replace("_", " "), str(one.attempts), minute(one.at) if one.at else "",
         tables.safe(one.detail)]
        for one in sent
    ]  # fmt: skip
    if rows:
        out.print(tables.table(columns, rows))
    else:
        tables.line(out, "It goes to no channel: write [channels.…] in the policy.", "yellow")


def _rules(common: Common) -> None:
    policy = _policy()
    rules = compile_alarms(policy.alarm)
    with opened(common.existing(), read_only=True) as connection:
        heard = store.heard(connection)
        fired: dict[str, list[Standing]] = {}
        for one in store.history(connection):
            fired.setdefault(one.rule, []).append(one)
    rows = [_worth(rule, fired.get(rule.name, []), heard) for rule in rules]
    if common.json:
        tables.document(rows, defaults=not policy.alarm)
        return
    out = tables.console()
    columns = [tables.Column("alarm"), tables.number("fired"), tables.number("useful"), tables.number("noise")]
    columns += [tables.number("precision"), tables.number("told in")]
    figures = ("fired", "useful", "noise", "precision_shown", "told_in")
    shown = [[f"{tables.safe(row['alarm'])}\n{row['when']}", *(str(row[name]) for name in figures)] for row in rows]
    out.print(tables.table(columns, shown))
    if not policy.alarm:
        tables.line(out, "These are the defaults: the policy has no [[alarm]].", "dim")
    if not policy.channels:
        tables.line(out, "Nobody is told: the policy has no [channels.…].", "yellow")


def when(rule: AlarmRule) -> str:
    """A rule's condition, for people."""
    about, unit = rule.metric.about, rule.metric.unit
    each = f", each {' and '.join(rule.keys)}" if rule.keys else ""
    only = "".join(f" of {k}={v}" for k, v in rule.fixed)
    if rule.metric.kind == "creep":
        return f"a week of dollars{each}{only}: 1.5 times that of 4 weeks ago, or twice that of 12"
    if rule.learned:
        line = f", or {amount(unit, rule.threshold)} an hour" if rule.threshold else ""
        return f"{about}{each}{only}: not normal for that hour{line}"
    over = f" in {span(rule.window_us)}" if rule.window_us else ""
    return f"{about}{each}{only}{over}: {'under' if rule.metric.below else 'from'} {amount(unit, rule.threshold)}"


def _worth(rule: AlarmRule, fired: Sequence[Standing], heard: dict[str, int]) -> dict[str, Any]:
    useful, noise = (sum(one.judged == word for one in fired) for word in (USEFUL, NOISE))
    took = sorted(heard[one.id] - one.since for one in fired if heard.get(one.id) and one.metric != "creep")
    return {
        "alarm": rule.name, "metric": rule.metric.name, "when": when(rule), "fired": len(fired),
        "open": sum(one.state != RESOLVED for one in fired), "useful": useful, "noise": noise,
        "precision": tables.fraction(useful, useful + noise), "precision_shown": tables.share(useful, useful + noise),
        "time_to_detect_s": round(median(took) / 1e6) if took else None, "told_in": _took(int(median(took))) if took else "",
        "channels": list(rule.channels), "owner": rule.owner,
    }  # fmt: skip


@alarms.command()
@click.argument("channel", required=False)
@common("as_json")
def test(common: Common, channel: str | None) -> None:
    """Sends a test to CHANNEL, or to every channel of the policy, and says what came of it. Exit code 1 when one failed."""
    policy = _policy()
    if channel is not None and channel not in policy.channels:
        raise click.UsageError(f"there is no channel {channel!r}; the policy has {', '.join(policy.channels) or 'none'}")
    names = [channel] if channel else list(policy.channels)
    if not names:
        raise click.UsageError("the policy has no [channels.…]; docs/how-to/alarms.md shows one")
    now = wiring.now_us()
    message = Message(
        f"test.{now // 1_000_000}", "test", now, "Test: alarms arrive here", ("Sent by `bursar alarms test`. Nothing is wrong.",),
        (("Sent", f"{minute(now)} UTC"), ("By", _who())), "bursar alarms --rules", (), {"alarm": None},
    )  # fmt: skip
    rows = []
    for name in names:
        try:
            found = bell.deliver(bell.address(name, policy.channels[name]), message)
        except settings.BadPolicy as bad:
            found = bell.Failed("bad_channel", str(bad), "")
        good = isinstance(found, bell.Delivered)
        what = found.detail if isinstance(found, bell.Delivered) else f"{found.reason}; {found.remedy}".rstrip("; ")
        rows.append(
            {"channel": name, "kind": bell.kind_of(name, policy.channels[name]), "delivered": good, "ms": found.took_ms, "what": what}
        )
    if common.json:
        tables.document(rows)
    else:
        out = tables.console()
        for row in rows:
            mark = "arrived" if row["delivered"] else "FAILED"
            tables.line(out, f"{tables.safe(row['channel'])} ({row['kind']}): {mark} after {row['ms']} ms, {tables.safe(row['what'])}")
    click.get_current_context().exit(0 if all(row["delivered"] for row in rows) else 1)


@alarms.command()
@click.argument("id")
@common("as_json", "ledger")
def ack(common: Common, id: str) -> None:
    """Says that you have alarm ID in hand: no more reminders, unless it doubles."""
    with opened(common.existing()) as connection:
        one = store.acknowledge(connection, id, _who(), wiring.now_us())
    _done(common, one, f"{one.id} is {one.state}{f' by {one.by}' if one.by else ''}: {headline_of(one)}")


@alarms.command()
@click.argument("id")
@click.argument("worth", type=click.Choice([USEFUL, NOISE]))
@common("as_json", "ledger")
def judge(common: Common, id: str, worth: str) -> None:
    """Says what alarm ID was worth. The next threshold learns from it."""
    with opened(common.existing()) as connection:
        one = store.judge(connection, id, worth, _who(), wiring.now_us())
    _done(common, one, f"{one.id} is judged {one.judged}: {headline_of(one)}")


def _done(common: Common, one: Standing, text: str) -> None:
    if common.json:
        tables.document([_row(one, 0)])
    else:
        tables.line(tables.console(), text)


@alarms.command()
@click.argument("match", nargs=-1, metavar="[alarm=NAME] [LABEL=VALUE]...")
@click.option("--for", "lasting", metavar="TIME", default="4h", show_default=True, help="how long: 30m, 4h, 7d")
@click.option("--note", default="", help="why, for whoever finds it")
@click.option("--end", type=int, metavar="N", help="ends silence N instead")
@common("as_json", "ledger")
def silence(common: Common, match: Sequence[str], lasting: str, note: str, end: int | None) -> None:
    """Tells nobody of alarms that match, for a while: bursar silence tenant=acme --for 2h. They are recorded all the same."""
    now = wiring.now_us()
    if end is not None:
        with opened(common.existing()) as connection:
            if not store.end_silence(connection, end, now):
                raise click.UsageError(f"there is no silence {end} in force; see `bursar alarms`")
        tables.line(tables.console(), f"silence {end} has ended")
        return
    pairs = [text.partition("=")[::2] for text in match]
    bad = next((text for text, (name, _) in zip(match, pairs, strict=True) if "=" not in text or not name), None)
    if bad is not None:
        raise click.UsageError(f"{bad!r} is not label=value")
    try:
        lasts = length(lasting, "--for")
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    if lasts > SILENCE_MOST_US:
        raise click.UsageError("a silence lasts at most 90d")
    with opened(common.existing()) as connection:
        made = store.silence(
            connection, [(name, value) for name, value in pairs], now, now + lasts, _who(), " ".join(note.split())[:500]
        )
    if common.json:
        tables.document([_silence_row(made)])
    else:
        what = ", ".join(f"{tables.safe(k)}={tables.safe(v)}" for k, v in made.match) or "everything"
        tables.line(tables.console(), f"silence {made.n}: {what} until {minute(made.until)} UTC")


@alarms.command()
@common("as_json", "ledger", "since", "until")
def replay(common: Common) -> None:
    """What the policy's alarms would have said of past rows, by default of the last 30 days. Tells nobody, keeps nothing."""
    from ..stores.reader import Reader
    from .watch_judge import Bench, advance

    period, now = common.period(), wiring.now_us()
    until = min(now, period.until or now) // 60_000_000
    since = (period.since or now - 30 * 86_400_000_000) // 60_000_000
    with Reader(common.existing(), skip_damaged=True) as reader:
        bench = Bench(_policy(), since, lambda _: [])
        bench.warm(reader)
        done = advance(bench, reader, until, [], [], None)
    found = {one.id: one for one in [*[told.standing for told in done.told], *done.changed] if one.fired}
    rows = sorted(found.values(), key=lambda one: -one.fired)
    if common.json:
        tables.document([_row(one, 0) for one in rows], since=periods.iso(since * 60_000_000), until=periods.iso(until * 60_000_000))
        return
    out = tables.console()
    tables.line(
        out, f"{minute(since * 60_000_000)} to {minute(until * 60_000_000)} UTC: {len(rows)} alarms, {len(done.told)} notices", "bold"
    )
    if rows:
        columns = [tables.Column("would have fired", keep=True), tables.Column("what")]
        out.print(
            tables.table(columns, [[minute(one.fired), f"{headline_of(one)}"] for one in rows[:SHOWN_MAX]])
        )
        if len(rows) > SHOWN_MAX:
            tables.line(out, f"and {len(rows) - SHOWN_MAX} before: --json shows all", "dim")
    tables.line(out, "Budgets, counters, drills and slow growth are judged as they stand, and are not replayed.", "dim")


@click.command()
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--once", is_flag=True, help="one round of everything that is due, then end")
@common("ledger")
def watch(common: Common, config: str | None, once: bool) -> None:
    """The clockwork beside an embedded ledger: expires holds, compacts, judges alarms, sends. Of several, one leads."""
    from .watch import Watch
    from .watch import watch as for_ever

    path = settings.find(config)
    folder = Path(common.ledger) if common.ledger else wiring.ledger_folder(settings.load(path)[0])
    if not once:
        click.echo(f"bursar: watching {folder} · policy {path or 'none (default alarms, nobody is told)'}", err=True)
        click.get_current_context().exit(for_ever(folder, path))
    made = Watch(folder, path)
    try:
        made.cycle()
        if not made.leads:
            click.echo("another clockwork leads on this ledger", err=True)
        elif made.policy.ledger.compact_every_s > 0:
            made.compact()
    finally:
        made.close()


__all__ = ["against", "alarms", "subject", "watch"]
