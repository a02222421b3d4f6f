"""What a page consists of: figures, tables, pictures and notes as records, and their JSON and CSV twins. No HTML, no query."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...domain.money import plain
from .. import tables


class Cell(NamedTuple):
    """One cell. `raw` is what programs get (money as a decimal string; left out, the text); `bar` is a share of the largest,
    0 to 1, drawn behind."""

    text: str
    raw: Any = ...
    href: str = ""
    bar: float | None = None
    note: str = ""
    tone: str = ""  # good | bad | dim | mono
    live: str = ""  # the name under which its text is renewed
    colour: int | None = None  # of its series in the picture above


class Column(NamedTuple):
    """A heading. `key` names the field in JSON and CSV."""

    name: str
    key: str
    right: bool = False
    href: str = ""  # sorts by it
    sorted: str = ""  # ascending | descending


class Table(NamedTuple):
    id: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] | None = None
    note: str = ""
    empty: str = ""  # what is said, and what to do, where there are no rows
    folded: bool = False  # below its picture, opened on demand
    more: str = ""  # where the next rows are
    kind: str = "table"


class Tile(NamedTuple):
    id: str
    label: str
    text: str
    raw: Any = None
    href: str = ""
    note: str = ""
    tone: str = ""


class Tiles(NamedTuple):
    id: str
    tiles: Sequence[Tile]
    kind: str = "tiles"


class Mark(NamedTuple):
    """A shape in a picture, in its own units; `tip` is said on hover and to a screen reader."""

    x: float
    y: float
    w: float
    h: float
    colour: int
    tip: str
    href: str = ""
    hatched: bool = False


class Strip(NamedTuple):
    """Layers as bars on one scale (0 to 1000), each with a heading."""

    id: str
    title: str
    lanes: Sequence[Lane]
    table: Table
    note: str = ""
    kind: str = "strip"


class Lane(NamedTuple):
    name: str
    figure: str
    share: str
    marks: Sequence[Mark]
    note: str = ""
    href: str = ""


class Plot(NamedTuple):
    """Columns (marks) and lines (points as `x,y x,y`) over time or rank, 1000 x 300 units, y downwards."""

    id: str
    title: str
    marks: Sequence[Mark]
    lines: Sequence[tuple[str, int]]
    up: Sequence[tuple[float, str]]  # (y, text), the scale
    along: Sequence[tuple[float, str]]  # (x, text)
    legend: Sequence[tuple[str, int, str]]  # (name, colour, href)
    table: Table
    note: str = ""
    kind: str = "plot"


class Meter(NamedTuple):
    """How far something is towards its limit."""

    name: str
    text: str
    share: float  # of the limit, 0 to 1 and beyond
    note: str = ""
    tone: str = ""
    href: str = ""
    held: float = 0
    live: str = ""
    acts: Sequence[Act] = ()


class Meters(NamedTuple):
    id: str
    title: str
    meters: Sequence[Meter]
    empty: str = ""
    note: str = ""
    kind: str = "meters"


class Act(NamedTuple):
    """A button. `fields` go with it; one that is asked for is a text box with this label."""

    name: str
    path: str
    fields: tuple[tuple[str, str], ...] = ()
    asks: tuple[tuple[str, str], ...] = ()


class Card(NamedTuple):
    """A finding: heading, sentences, figures, what to do."""

    title: str
    text: Sequence[str] = ()
    verdict: str = ""
    tone: str = ""  # good | bad | warn | dim
    figure: str = ""
    facts: Sequence[tuple[str, str]] = ()
    todo: str = ""
    href: str = ""
    raw: Mapping[str, Any] = {}
    acts: Sequence[Act] = ()


class Cards(NamedTuple):
    id: str
    title: str
    cards: Sequence[Card]
    empty: str = ""
    kind: str = "cards"


class Note(NamedTuple):
    """A paragraph. `code`: lines that are meant to be copied."""

    id: str
    title: str
    text: Sequence[str] = ()
    code: str = ""
    tone: str = ""
    acts: Sequence[Act] = ()
    kind: str = "note"


class Facts(NamedTuple):
    id: str
    title: str
    facts: Sequence[tuple[str, Cell]]
    kind: str = "facts"


class Choice(NamedTuple):
    """One word of the URL, chosen from a list."""

    word: str
    label: str
    options: Sequence[tuple[str, str]]
    now: str
    free: bool = False  # other values are fine too


Block = Tiles | Table | Strip | Plot | Meters | Cards | Note | Facts


class Page(NamedTuple):
    """`blocks` in their order; `lead` is the page's answer in one sentence."""

    name: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    choices: Sequence[Choice] = ()
    live: bool = False
    timed: bool = True  # has a period and filters
    main: str = ""  # the table whose rows are the document's
    raw: Mapping[str, Any] = {}


def every_table(page: Page) -> Iterable[Table]:
    for block in page.blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Strip | Plot):
            yield block.table


def document(page: Page, root: str = "", **about: Any) -> dict[str, Any]:
    """The page for programs: `rows` of its main table, every table by name, the figures, and the texts that are renewed."""
    found = {table.id: table for table in every_table(page)}
    main = page.main or next(iter(found), "")
    figures: dict[str, Any] = {}
    live: dict[str, str] = {}
    cards: dict[str, list[Any]] = {}
    for block in page.blocks:
        if isinstance(block, Tiles):
            for tile in block.tiles:
                figures[tile.id] = tile.raw
                live[f"tile/{tile.id}"] = tile.text
                live[f"note/{tile.id}"] = tile.note
        elif isinstance(block, Meters):
            cards[block.id] = [{"name": m.name, "text": m.text, "share": f"{m.share:.6f}", "note": m.note} for m in block.meters]
            for m in block.meters:
                live[f"meter/{m.live or m.name}"] = m.text
                live[f"share/{m.live or m.name}"] = f"{min(1.0, m.share):.6f}"
        elif isinstance(block, Cards):
            cards[block.id] = [
                {"title": c.title, "text": list(c.text), "verdict": c.verdict, "figure": c.figure, "todo": c.todo, **c.raw}
                for c in block.cards
            ]
        elif isinstance(block, Facts):
            cards[block.id] = [{"name": name, "value": _raw(cell)} for name, cell in block.facts]
    for table in found.values():
        for row in [*table.rows, *([table.total] if table.total else [])]:
            live.update({f"cell/{cell.live}": cell.text for cell in row if cell.live})
    return {
        "page": page.name,
        "rows": _rows(found[main], root) if main in found else cards.get(main) or next(iter(cards.values()), []),
        "figures": figures,
        "tables": {
            name: {"title": t.title, "rows": _rows(t, root), "total": _row(t.columns, t.total, root) if t.total else None}
            for name, t in found.items()
        },
        "cards": cards,
        "lead": page.lead,
        **page.raw,
        **about,
        "live": live,
    }


def _row(columns: Sequence[Column], cells: Sequence[Cell], root: str) -> dict[str, Any]:
    made = {column.key: _raw(cell) for column, cell in zip(columns, cells)}
    href = next((cell.href for cell in cells if cell.href), "")
    return {**made, "link": root + href} if href else made


def _rows(table: Table, root: str) -> list[dict[str, Any]]:
    return [_row(table.columns, row, root) for row in table.rows]


def as_csv(table: Table) -> str:
    """RFC 4180, CRLF, a text that a spreadsheet would read as a formula behind an apostrophe; numbers stay numbers."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\r\n")
    write.writerow([harmless(column.key) for column in table.columns])
    for row in table.rows:
        write.writerow([_csv(cell) for cell in row[: len(table.columns)]])
    return out.getvalue()


def _raw(cell: Cell) -> Any:
    return cell.text if cell.raw is ... else cell.raw


def _csv(cell: Cell) -> str:
    raw = _raw(cell)
    if isinstance(raw, bool | int):
        return str(raw)
    text = "" if raw is None else str(raw)
    return text if _numeric(text) else harmless(text)


def _numeric(text: str) -> bool:
    return bool(text) and text.removeprefix("-").replace(".", "", 1).isdigit() and text.isascii()


def harmless(text: str) -> str:
    text = text.replace("\0", "\ufffd")
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


# -- cells that are made everywhere ----------------------------------------------------------------------------------------


def text(value: object, href: str = "", **more: Any) -> Cell:
    return Cell("" if value is None else str(value), value if value is None else str(value), href, **more)


def label(value: str | None, href: str = "", nobody: str = tables.UNATTRIBUTED, **more: Any) -> Cell:
    """A label's value; what nobody said is told as such, in another face than a value that imitates it."""
    if not value:
        return Cell(nobody, "", href, tone="dim", **more)
    return Cell(value, value, href, **more)


def money(pico: int | None, href: str = "", places: int = 2, **more: Any) -> Cell:
    if pico is None:
        return Cell("?", None, href, **more)
    return Cell(tables.money(pico, places), plain(pico), href, **more)


def count(value: int | None, href: str = "", **more: Any) -> Cell:
    return Cell(tables.count(value), value, href, **more)


def share(part: int, whole: int, **more: Any) -> Cell:
    return Cell(tables.share(part, whole), tables.fraction(part, whole), **more)


def change(now: int, before: int, **more: Any) -> Cell:
    told = tables.change(now, before)
    return Cell(told, plain(now - before), tone="bad" if now > before else "good" if now < before else "dim", **more)


def ratio(part: int, whole: int) -> float:
    return max(0.0, min(1.0, part / whole)) if whole > 0 else 0.0
