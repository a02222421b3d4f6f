"""`bursar why`: why the bill changed, as tables, one document or Markdown. `bursar mark`: an event on the time line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from ..domain.money import PICO, plain
from ..rules.why_findings import OTHERS, Figure, Finding, Place, Where, signed, words
from ..stores import marks
from ..stores.query import LABEL
from ..stores.reader import Reader
from . import periods, tables, wiring
from .cli_common import Common, common, dimension, filters, rows_are
from .why import LABELS, Event, Report, Span, report

LABELS_MAX = 5
LEAST = 1000  # one part in so many of all that moved: smaller drivers are one line
EVENTS_MAX = 12
CELLS_MAX = 50
TEXT_MAX = 500  # characters of a mark
DAY = 86_400_000_000

DRIVER = {
    "volume": "conversations", "depth": "calls a conversation", "eval": "eval calls", "embedding": "embedding calls",
    "background": "background calls", "control": "Bursar's own calls", "retry": "retries", "fallback": "fallbacks",
    "model_mix": "other models", "context": "longer inputs", "cache": "prompt cache", "output": "longer outputs",
    "price": "prices", "fees": "fees", "corrections": "corrections",
}  # fmt: skip


def _spans(common: Common, this: str | None, versus: str | None) -> tuple[Span, Span]:
    """The two periods. Plain: the last seven days and the seven before them."""
    now = wiring.now_us()
    if this is not None and (common.since or common.until):
        raise click.UsageError("--this and --since/--until both name the period; give one")
    if this is None and (common.since or common.until):
        this = f"{common.since or ''}..{common.until or ''}" if common.until else common.since
    try:
        here, before = periods.span(this or "7d", now)
        return here, periods.span(versus, now)[0] if versus else before
    except ValueError as bad:
        raise click.UsageError(str(bad)) from None


@click.command()
@click.option("--this", "this", metavar="PERIOD", help="what to explain: 7d, month, 2026-10, 2026-10-12..2026-10-19 (default 7d)")
@click.option("--versus", metavar="PERIOD", help="what to compare it with (default: the one before it)")
@click.option("--by", metavar="A,B", help="the labels to look in (default: tenant,feature,flow)")
@click.option("--markdown", is_flag=True, help="as Markdown, for a ticket or a chat")
@click.option("--skip-damaged", is_flag=True, help="read on without segments that are missing or damaged, and name them")
@common("as_json", "ledger", "since", "until", "where")
def why(common: Common, this: str | None, versus: str | None, by: str | None, markdown: bool, skip_damaged: bool) -> None:
    """Why the bill changed: by what (volume, retries, context, price …) and where (label slices). Both add up to the change."""
    here, before = _spans(common, this, versus)
    names = LABELS if by is None else tuple(name.strip() for name in by.split(",") if name.strip())
    labels = tuple(dimension(name) for name in names)
    if not labels or len(labels) > LABELS_MAX or len(set(labels)) < len(labels):
        raise click.UsageError(f"--by {by}: one to {LABELS_MAX} labels, each once")
    with Reader(common.existing(), skip_damaged=skip_damaged) as reader:
        made = report(reader, labels, filters(common.where), here, before)
        skipped = list(reader.skipped)
        nothing = not made.told.findings and not made.explained.now and not made.explained.before
        hint, month, _ = rows_are(reader) if nothing else ("", "", "")
    if common.json:
        _as_document(made, skipped)
        return
    for name in skipped:
        click.echo(f"without segment {name}, which is missing or damaged", err=True)
    if markdown:
        click.echo(_as_markdown(made))
        return
    _as_tables(tables.console(), made, common.where)
    if hint:
        tables.line(tables.console(), f"{hint}: bursar why --this {month}", "yellow")


# -- for people ------------------------------------------------------------------------------------------------------------


class _Rounding:
    """Dollars as they are shown. Parts are rounded so that the rounded ones add up too: a reader with a pencil gets the total.
    Where there is less than a dollar to explain, six places instead of two."""

    def __init__(self, made: Report) -> None:
        found = made.explained
        most = max(abs(found.before), abs(found.now))
        self.places = 2 if most >= PICO or not most else 6
        self.grain = 10 ** (12 - self.places)
        self.before, self.now = self.one(found.before), self.one(found.now)
        self.change = self.now - self.before

    def one(self, pico: int) -> int:
        return (pico + self.grain // 2) // self.grain * self.grain

    def parts(self, parts: Sequence[int], total: int) -> list[int]:
        """Each part rounded down or up, by the largest remainders, to add up to `total`."""
        down = [part // self.grain * self.grain for part in parts]
        missing = (total - sum(down)) // self.grain
        order = sorted(range(len(parts)), key=lambda n: down[n] - parts[n])
        for n in range(missing):
            down[order[n % len(order)]] += self.grain
        for n in range(-missing):
            down[order[-1 - n % len(order)]] -= self.grain
        return down

    def show(self, pico: int, *, plus: bool = False) -> str:
        # `show` gives small amounts more digits, and nothing here is smaller than the grain.
        whole, rest = divmod(abs(pico), PICO)
        sign = "-" if pico < 0 else "+" if plus and pico > 0 else ""
        return f"{sign}${whole:,}.{rest // self.grain:0{self.places}d}"


def _headline(made: Report) -> str:
    """Both totals and the difference between them, as rounded."""
    to = _Rounding(made)
    if not made.explained.now and not made.explained.before:
        return "Nothing was spent in either period"
    if made.explained.now == made.explained.before:
        return f"{to.show(to.now)}, as before"
    way = "more" if to.change > 0 else "less"
    return f"{to.show(to.now)}, {to.show(abs(to.change))} {way} than the {to.show(to.before)} before"


def _scope(made: Report, where: Sequence[tuple[str, str]] = ()) -> str:
    def told(span: Span) -> str:
        return f"{periods.shown(span[0])} to {periods.shown(span[1])}"

    only = "".join(f" · {tables.safe(name)}={tables.safe(value) or tables.UNATTRIBUTED}" for name, value in where)
    return f"{told(made.this)}, against {told(made.versus)} (UTC){only}"


def _notes(made: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    notes: list[str] = []
    lengths = [span[1] - span[0] for span in (made.versus, made.this)]
    if lengths[0] != lengths[1]:
        days = [f"{length / DAY:.3g}" for length in lengths]
        notes.append(f"the periods differ in length: {days[1]} days against {days[0]}")
    if any(made.estimated):
        notes.append(f"estimated calls are in it: {made.estimated[1]:,} now, {made.estimated[0]:,} before")
    if any(made.unpriced):
        notes.append(f"unpriced calls are not in it: {made.unpriced[1]:,} now, {made.unpriced[0]:,} before")
    if made.folded:
        notes.append(f"of {', '.join(made.folded)} only the values that changed most are told apart")
    return notes


def _shown(made: Report) -> tuple[list[Finding], int]:
    """The findings worth a line, and what the others come to."""
    moved = sum(abs(one.change) for one in made.told.findings)
    big = [one for one in made.told.findings if abs(one.change) * LEAST >= moved]
    return big, sum(one.change for one in made.told.findings) - sum(one.change for one in big)


def _as_tables(out: Console, made: Report, where: Sequence[tuple[str, str]]) -> None:
    change, to = made.explained.now - made.explained.before, _Rounding(made)
    tables.line(out, _headline(made), "bold")
    tables.line(out, _scope(made, where), "dim")
    for note in _notes(made):
        tables.line(out, note, "yellow")
    if not made.told.findings:
        if made.explained.now:
            tables.line(out, "Nothing changed.")
    else:
        big, rest = _shown(made)
        texts, exact = [tables.safe(one.told + _part(one)) for one in big], [one.change for one in big]
        if to.one(rest):
            texts.append(tables.OTHER)
            exact.append(rest)
        rows = [
            [to.show(dollars, plus=True), _share(pico, change), text]
            for dollars, pico, text in zip(to.parts(exact, to.change), exact, texts, strict=True)
        ]
        total = [to.show(to.change, plus=True), _share(change, change), tables.TOTAL]
        columns = [tables.number("change"), tables.number("share"), tables.Column("what changed")]
        out.print()
        out.print(tables.table(columns, rows, total=total))
        _places(out, made.told.places, to)
    _events(out, made.events)


def _places(out: Console, places: Sequence[Place], to: _Rounding) -> None:
    rows: list[list[str]] = []
    befores = to.parts([place.before for place in places], to.before)
    nows = to.parts([place.now for place in places], to.now)
    for place, before, now in zip(places, befores, nows, strict=True):
        name = _name(place)
        leading = next(iter(place.drivers.items()), None)
        if leading is not None:
            more = f"mostly {DRIVER[leading[0]]}, {signed(leading[1])}" if len(place.drivers) > 1 else DRIVER[leading[0]]
            name += f"\n{more}"
        change = to.show(now - before, plus=True)
        rows.append([name, to.show(before), to.show(now), change, _share(place.now - place.before, sum(nows) - sum(befores))])
    total = [tables.TOTAL, to.show(to.before), to.show(to.now), to.show(to.change, plus=True), _share(to.change, to.change)]
    columns = [tables.Column("where"), *map(tables.number, ("before", "now", "change", "share"))]
    out.print()
    out.print(tables.table(columns, rows, total=total))


def _name(place: Place) -> str:
    if place.how == "unattributed":
        return tables.UNATTRIBUTED
    if place.how == "rest":
        return "everything else"
    return tables.safe(words(place.where))


def _part(one: Finding) -> str:
    share = one.covered / one.change
    if not one.where or 0.995 <= share <= 1.005:
        return ""
    return f" ({share:.0%} of it there)" if share < 1 else " (more than all of it there)"


def _share(part: int, change: int) -> str:
    """Shares of a change whose parts cancel are no shares."""
    return tables.share(part, change).removeprefix("-0.0%") if abs(part) <= 2 * abs(change) else ""


def _minute(ts: int) -> str:
    return periods.shown(ts - ts % 60_000_000)


def _events(out: Console, events: Sequence[Event]) -> None:
    if not events:
        return
    tables.line(out, "\nAt the same time", "bold")
    for event in events[-EVENTS_MAX:]:
        mark = "* " if event.kind == "mark" else "  "
        tables.line(out, f"{mark}{_minute(event.ts):<16}  {tables.safe(event.text)}")
    if len(events) > EVENTS_MAX:
        tables.line(out, f"  and {len(events) - EVENTS_MAX} earlier ones (--json has all)", "dim")


# -- for programs ----------------------------------------------------------------------------------------------------------


def _as_document(made: Report, skipped: list[str]) -> None:
    found = made.explained
    tables.document(
        [
            {"driver": one.driver, "change": plain(one.change), "share": tables.fraction(one.change, found.now - found.before),
             "where": _where(one.where), "covered": plain(one.covered), "figure": _figure(one.figure), "sentence": one.sentence}
            for one in made.told.findings
        ],
        slices=[
            {"where": _where(place.where), "how": place.how, "before": plain(place.before), "now": plain(place.now),
             "change": plain(place.now - place.before), "gain": round(place.gain, 1),
             "drivers": {driver: plain(pico) for driver, pico in place.drivers.items()}, "sentence": place.sentence}
            for place in made.told.places
        ],
        cells=_cells(made),
        events=[{"ts": periods.iso(event.ts), "kind": event.kind, "text": event.text} for event in made.events],
        before={"cost": plain(found.before), "since": periods.iso(made.versus[0]), "until": periods.iso(made.versus[1]),
                "unpriced": made.unpriced[0], "estimated": made.estimated[0]},
        now={"cost": plain(found.now), "since": periods.iso(made.this[0]), "until": periods.iso(made.this[1]),
             "unpriced": made.unpriced[1], "estimated": made.estimated[1]},
        change=plain(found.now - found.before),
        by=[name.removeprefix(LABEL) for name in made.labels],
        folded=list(made.folded),
        currency="USD",
        skipped_segments=skipped,
    )  # fmt: skip


def _where(where: Where) -> dict[str, str]:
    return dict(where)


def _figure(figure: Figure) -> dict[str, Any]:
    """Figures are for reading, not for adding up: six digits. Rates and fees are in dollars."""
    scale = 1e-6 if figure.unit == "usd_per_million" else 1e-12 if figure.unit == "usd" else 1

    def told(value: float | None) -> str | None:
        return None if value is None else f"{value * scale:.6g}"

    return {"name": figure.name, "unit": figure.unit, "before": told(figure.before), "now": told(figure.now)}


def _cells(made: Report) -> list[dict[str, Any]]:
    """The largest parts of the change by leaf and driver, and what all others come to: they add up to it too."""
    names = [name.removeprefix(LABEL) for name in made.labels]
    flat = [(pico, leaf, driver) for leaf, cell in made.explained.cells.items() for driver, pico in cell.items()]
    flat.sort(key=lambda one: (-abs(one[0]), one[1], one[2]))
    rows: list[dict[str, Any]] = [
        {
            **{name: None if value == OTHERS else value for name, value in zip(names, leaf.labels, strict=True)},
            "operation": leaf.operation, "purpose": leaf.purpose, "cause": leaf.cause, "model": leaf.model,
            "driver": driver, "change": plain(pico), "other": False,
        }
        for pico, leaf, driver in flat[:CELLS_MAX]
    ]  # fmt: skip
    rest = sum(pico for pico, _, _ in flat[CELLS_MAX:])
    if len(flat) > CELLS_MAX:
        rows.append({"change": plain(rest), "other": True})
    return rows


def _as_markdown(made: Report) -> str:
    big, rest = _shown(made)
    lines = [f"**{_headline(made)}**", "", _scope(made), ""]
    lines += [f"> {note}" for note in _notes(made)] + ([""] if _notes(made) else [])
    lines += ["What changed:", ""] + [f"- {_escaped(one.sentence)}" for one in big]
    lines += [f"- All else: {signed(rest)}."] if rest else []
    lines += ["", "Where:", ""] + [f"- {_escaped(place.sentence)}" for place in made.told.places]
    if made.events:
        lines += ["", "At the same time:", ""]
        lines += [f"- {_minute(event.ts)}: {_escaped(event.text)}" for event in made.events[-EVENTS_MAX:]]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Labels and marks come from strangers: no markup, no link, no mention in somebody's chat."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|~@&!" else c for c in tables.safe(text))


# -- marks -----------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("text", required=False)
@click.option("--at", metavar="TIME", help="when it happened: 2026-10-12T09:30Z, 2h (default: now)")
@common("as_json", "ledger", "since", "until")
def mark(common: Common, text: str | None, at: str | None) -> None:
    """Puts TEXT on the time line, beside which `why` shows a change. Without TEXT: the marks there are."""
    now = wiring.now_us()
    if text is None:
        if at is not None:
            raise click.UsageError("--at says when something happened; say what: bursar mark TEXT")
        period = common.period()
        with Reader(common.existing()) as reader:
            found = reader.marks(period.since, period.until)
        if common.json:
            tables.document([{"ts": periods.iso(one.ts), "text": one.text} for one in found])
            return
        out = tables.console()
        for one in found:
            tables.line(out, f"{_minute(one.ts):<16}  {tables.safe(one.text)}")
        if not found:
            tables.line(out, "no marks", "dim")
        return
    text = " ".join(text.split())
    if not text or len(text) > TEXT_MAX:
        raise click.UsageError(f"a mark is 1 to {TEXT_MAX} characters of text")
    try:
        ts = periods.period(at, None, now).since if at else now
    except ValueError as bad:
        raise click.UsageError(f"--at: {bad}") from None
    assert ts is not None
    marks.add(common.folder(), marks.Mark(ts, text), now)
    if common.json:
        tables.document([{"ts": periods.iso(ts), "text": text}])
    else:
        tables.line(tables.console(), f"{_minute(ts)}  {tables.safe(text)}")
