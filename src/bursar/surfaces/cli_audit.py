"""`bursar audit`: the six questions for people, as Markdown and as a document; and `--ready`, the gate before go-live."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..domain.money import plain, show
from ..rules.audit import ACT, GOOD, MILLION, WATCH, Answer, Audit, Figure, Line, per_cent, share, times
from ..rules.audit_money import told
from . import audit as asking
from . import audit_guard, audit_ready, periods, settings, tables, wiring
from .cli_common import Common, common

STYLE = {GOOD: "green", WATCH: "yellow", ACT: "bold red"}
INDENT = "   "
SMALL = 2_000  # of a bill, one part in so many is not worth a line to people, except among what multiplies it
NOTE = 50  # characters of an aside that stand in one line
COUNTED = {3: "conversations"}  # what a question's lines count, where it is not calls


@click.command()
@click.option("--ready", is_flag=True, help="the gate before go-live: labels, tiers, budgets, drill; each with its remedy")
@click.option("--brief", is_flag=True, help="verdicts, dollars and next actions alone")
@click.option("--markdown", is_flag=True, help="as Markdown, for a report")
@click.option("--config", metavar="FILE", help="the policy file (default: the one in force)")
@click.option("--skip-damaged", is_flag=True, help="read on without segments that are missing or damaged, and name them")
@common("as_json", "ledger", "since", "until")
def audit(common: Common, ready: bool, brief: bool, markdown: bool, config: str | None, skip_damaged: bool) -> None:
    """Six questions about the money of agents, each with a verdict, the dollars a month at stake, and what to do next. Without
    --since the thirty days up to the last row. Exit code 1 when a question says act."""
    policy, _ = settings.load(settings.find(config))
    now = wiring.now_us()
    with asking.open_reader(common.existing(config), skip_damaged=skip_damaged) as reader:
        made = asking.take(reader, policy, common.period(), now)
        checks = audit_ready.checks(made, policy, audit_guard.last_drill(reader), now) if ready else ()
        skipped = list(reader.skipped)
    for name in skipped:
        click.echo(f"without segment {name}, which is missing or damaged", err=True)
    if ready:
        _ready(common, checks, markdown)
        raise SystemExit(0 if all(check.passed for check in checks) else 1)
    if common.json:
        document(made, skipped)
    elif markdown:
        click.echo(as_markdown(made))
    else:
        as_tables(tables.console(), made, brief=brief)
    raise SystemExit(1 if made.verdict == ACT else 0)


# -- for people ------------------------------------------------------------------------------------------------------------


def headline(made: Audit) -> str:
    counts = [(word, sum(one.verdict == word for one in made.answers)) for word in (ACT, WATCH, GOOD)]
    words = {ACT: "to act on", WATCH: "to watch", GOOD: "good"}
    return f"{tables.money(made.cost)}: " + ", ".join(f"{n} {words[word]}" for word, n in counts if n)


def scope(made: Audit) -> str:
    if made.since is None or made.until is None:
        return f"{made.calls:,} calls"
    until = made.until if made.until % 60_000_000 == 0 else made.until + 60_000_000 - made.until % 60_000_000
    text = f"{periods.shown(made.since - made.since % 60_000_000)} to {periods.shown(until)} (UTC), {made.calls:,} calls"
    if made.scaled:
        text += f"; as a month of 30 days {tables.money(made.month)}"
        if made.days < 1000:
            text += ", from less than a day: a rough guess"
    return text


def stake(one: Answer) -> str:
    return "" if one.stake is None else tables.money(one.stake)


def as_tables(out: Console, made: Audit, *, brief: bool = False) -> None:
    """The audit for a terminal. `brief` leaves out figures, how they were counted, and lines to paste."""
    tables.line(out, headline(made), "bold")
    tables.line(out, scope(made), "dim")
    for one in made.answers:
        tables.line(out)
        _question(out, one, made, brief)
    if not brief:
        tables.line(out)
        tables.line(out, "Amounts at stake are a month's, and overlap: do not add them up.", "dim")


def _question(out: Console, one: Answer, made: Audit, brief: bool) -> None:
    head = Text(f"{one.number}  ", style="bold")
    head.append(one.verdict.upper(), style=STYLE[one.verdict])
    head.append(f"{'':{6 - len(one.verdict)}}{one.question}", style="bold")
    if one.stake:
        head.append(f"  {stake(one)} a month", style=STYLE[one.verdict])
    if head.cell_len <= (out.width or tables.WIDTH_UNKNOWN):
        out.print(head, soft_wrap=True)
    else:
        out.print(head[: head.plain.rindex("  ")], soft_wrap=True)
        _say(out, f"{stake(one)} a month at stake", STYLE[one.verdict])
    _say(out, one.sentence)
    if not brief:
        # What the sentence has said already, or what is nothing, stands in the document and not here.
        new = [each for each in one.figures if each.value and figure(each).lower() not in one.sentence.lower()]
        if new:
            _say(out, "; ".join(f"{figure(each)} {each.told}" for each in new) + ".", "dim")
    if one.lines and not (brief and one.number != 1):
        tables.line(out)
        _lines(out, one, made)
        tables.line(out)
    if not brief:
        _say(out, f"Counted: {one.how}.", "dim")
    _say(out, f"Next: {one.action}.")
    if brief:
        return
    for command in one.commands:
        tables.line(out, f"{INDENT}  {command}")
    if one.paste:
        _say(out, "Lines for bursar.toml:", "dim")
        for line in one.paste.splitlines():
            tables.line(out, f"{INDENT}  {line}".rstrip())


def _say(out: Console, text: str, style: str = "") -> None:
    width = min(out.width or tables.WIDTH_UNKNOWN, 100)
    for row in textwrap.wrap(tables.safe(text), width - len(INDENT), break_long_words=False, break_on_hyphens=False):
        tables.line(out, INDENT + row, style)


def _lines(out: Console, one: Answer, made: Audit) -> None:
    columns = [tables.Column(INDENT + "what"), *map(tables.number, ("cost", "share", COUNTED.get(one.number, "calls")))]
    rows = [
        [
            INDENT + tables.safe(told(line)) + "".join(f"\n{INDENT}  {tables.safe(note)}" for note in _notes(line.note)),
            tables.money(line.cost),
            tables.share(line.cost, made.cost), tables.count(line.calls) if line.calls else "",
        ]
        for line in one.lines
        if one.number == 1 or line.cost * SMALL >= made.cost
    ]  # fmt: skip
    if rows:
        out.print(tables.table(columns, rows))


def _notes(note: str) -> list[str]:
    """An aside as lines that a terminal does not break."""
    return [note] if 0 < len(note) <= NOTE else [part for part in note.split("; ") if part]


def figure(one: Figure) -> str:
    """A figure for people."""
    if one.value is None:
        return "?"
    match one.unit:
        case "usd":
            return show(one.value)
        case "share":
            return per_cent(one.value)
        case "ratio":
            return times(one.value)
        case "tokens":
            return tables.brief(one.value)
        case _:
            return f"{one.value:,}"


def as_markdown(made: Audit) -> str:
    lines = [f"# Audit: {headline(made)}", "", scope(made), "", "| | question | verdict | a month |", "|---|---|---|---:|"]
    lines += [f"| {one.number} | {one.question} | **{one.verdict}** | {stake(one)} |" for one in made.answers]
    lines += ["", "Amounts at stake overlap: do not add them up."]
    for one in made.answers:
        lines += ["", f"## {one.number}. {one.question}", "", f"**{one.verdict}**: {_escaped(one.sentence)}", ""]
        if one.lines:
            lines += ["| what | cost | share | calls | |", "|---|---:|---:|---:|---|"]
            lines += [
                f"| {_escaped(told(line))} | {tables.money(line.cost)} | {tables.share(line.cost, made.cost)} "
                f"| {line.calls or ''} | {_escaped(line.note)} |"
                for line in one.lines
            ] + [""]  # fmt: skip
        lines += [f"- {figure(each)} {_escaped(each.told)}" for each in one.figures]
        lines += ["", f"Counted: {one.how}.", "", f"**Next**: {_escaped(one.action)}."]
        for language, text in (("", "\n".join(one.commands)), ("toml", one.paste)):
            lines += ["", f"```{language}", text, "```"] if text else []
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Labels come from strangers: no markup, no link, no mention in somebody's chat."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|~@&!" else c for c in tables.safe(text))


# -- for programs ----------------------------------------------------------------------------------------------------------


def record(made: Audit) -> dict[str, Any]:
    """The audit as plain data, one of `rows` per question: money as decimal strings in dollars, shares as fractions."""
    return {
        "rows": [_row(one, made) for one in made.answers],
        "verdict": made.verdict,
        "since": None if made.since is None else periods.iso(made.since),
        "until": None if made.until is None else periods.iso(made.until),
        "days": f"{made.days // 1000}.{made.days % 1000:03d}",
        "calls": made.calls, "cost": plain(made.cost), "month": plain(made.month), "unpriced": made.unpriced, "currency": "USD",
    }  # fmt: skip


def document(made: Audit, skipped: Sequence[str] = ()) -> None:
    found = record(made)
    tables.document(found.pop("rows"), **found, skipped_segments=list(skipped))


def _row(one: Answer, made: Audit) -> dict[str, Any]:
    return {
        "number": one.number, "key": one.key, "question": one.question, "verdict": one.verdict, "sentence": one.sentence,
        "stake": None if one.stake is None else plain(one.stake),
        "figures": [{"name": each.name, "value": _value(each), "unit": each.unit, "told": each.told} for each in one.figures],
        "lines": [_line(line, made) for line in one.lines],
        "how": one.how, "action": one.action, "paste": one.paste, "commands": list(one.commands),
    }  # fmt: skip


def _value(one: Figure) -> str | int | None:
    if one.value is None:
        return None
    if one.unit == "usd":
        return plain(one.value)
    return f"{one.value // MILLION}.{one.value % MILLION:06d}" if one.unit in ("share", "ratio") else one.value


def _line(line: Line, made: Audit) -> dict[str, Any]:
    portion = share(line.cost, made.cost)
    return {
        "kind": line.kind, "name": line.name, "told": told(line), "cost": plain(line.cost),
        "share": f"{portion // MILLION}.{portion % MILLION:06d}", "calls": line.calls, "note": line.note,
    }  # fmt: skip


# -- the gate --------------------------------------------------------------------------------------------------------------


def _ready(common: Common, checks: Sequence[audit_ready.Check], markdown: bool) -> None:
    if common.json:
        tables.document([one._asdict() for one in checks], ready=all(one.passed for one in checks))
        return
    failed = sum(not one.passed for one in checks)
    told = "Ready to go live." if not failed else f"Not ready: {failed} of {len(checks)} to do."
    if markdown:
        click.echo(f"**{told}**\n")
        for one in checks:
            remedy = "" if one.passed else f". {_escaped(one.remedy)}"
            click.echo(f"- [{'x' if one.passed else ' '}] {one.what}: {_escaped(one.found)}{remedy}")
        return
    out = tables.console()
    tables.line(out, told, "bold")
    for one in checks:
        row = Text(f"{'ok' if one.passed else 'TO DO':<7}", style="green" if one.passed else "bold red")
        row.append(f"{one.what}: {tables.safe(one.found)}")
        out.print(row, soft_wrap=True)
        if not one.passed:
            for text in textwrap.wrap(tables.safe(one.remedy), 80 - 9, break_long_words=False, break_on_hyphens=False):
                tables.line(out, f"{'':9}{text}", "dim")
