"""What the commands print: tables for people, one JSON document for programs. No query, no clock, no decision."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..domain.money import show

WIDTH_UNKNOWN = 80  # columns, where no terminal says
WIDTH_MAX = 400
UNATTRIBUTED = "(unattributed)"
OTHER = "(other)"
TOTAL = "TOTAL"
RESERVED = frozenset((UNATTRIBUTED, OTHER, TOTAL))


class Column(NamedTuple):
    """A heading and how its cells lie. `keep`: never folded (money, counts, times)."""

    name: str
    right: bool = False
    keep: bool = False


def number(name: str) -> Column:
    """A column of figures."""
    return Column(name, right=True, keep=True)


def safe(text: object) -> str:
    """Text from strangers as it may reach a terminal: control, format and direction characters are shown, not sent."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


def label(value: object) -> str:
    """A label's value, nobody's spend named as such; a value that imitates a line of ours stands in quotes."""
    if value is None or value == "":
        return UNATTRIBUTED
    text = safe(value)
    return f'"{text}"' if text in RESERVED else text


def money(pico: int | None, places: int = 2) -> str:
    """Dollars for people; what nobody knows is a question mark, never zero."""
    return "?" if pico is None else show(pico, places)


def count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def brief(value: int | None) -> str:
    """A large count in three digits: 999, 12.3k, 4.56M."""
    if value is None:
        return "?"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            whole = value * 100 // size
            digits = 2 if whole < 1000 else 1 if whole < 10_000 else 0
            return f"{whole // 100}" + (f".{whole % 100:02d}"[: 1 + digits] if digits else "") + unit
    return str(value)


def share(part: int, whole: int) -> str:
    """Per cent of a total with one decimal; empty when there is no total to have a share of."""
    if not whole:
        return ""
    tenths = (abs(part) * 2000 + abs(whole)) // (2 * abs(whole))
    sign = "-" if (part < 0) != (whole < 0) and part else ""
    return f"{sign}{tenths // 10}.{tenths % 10}%"


def fraction(part: int, whole: int) -> str | None:
    """A share for programs, six places; None when there is no total to have a share of."""
    if not whole:
        return None
    millionths = (abs(part) * 2_000_000 + abs(whole)) // (2 * abs(whole))
    sign = "-" if (part < 0) != (whole < 0) and millionths else ""
    return f"{sign}{millionths // 10**6}.{millionths % 10**6:06d}"


def change(now: int, before: int) -> str:
    """Growth against the period before: `+12%`, `new`, and `x14` where a per cent would be unreadable."""
    if before == now:
        return "="
    if before <= 0:
        return "new"
    if now >= 10 * before:
        return f"x{now // before}"
    per_cent = (abs(now - before) * 200 + before) // (2 * before)
    return ("+" if now > before else "-") + (f"{per_cent}%" if per_cent else "0%")


def console() -> Console:
    """Standard output as wide as its terminal, 80 columns where there is none; colours only where they are welcome."""
    known = os.environ.get("COLUMNS", "")
    width = None
    if not sys.stdout.isatty():
        width = min(int(known), WIDTH_MAX) if known.isdigit() and int(known) >= 20 else WIDTH_UNKNOWN
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = "", total: Sequence[str] | None = None) -> Table:
    """A table ready to print. Cells arrive as text that is safe to send (`safe`, `label`, `money` …)."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=False, title_justify="left")
    if title:
        made.title = Text(title, style="bold")
    for column in columns:
        made.add_column(Text(column.name), justify="right" if column.right else "left", no_wrap=column.keep, overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    if total is not None:
        made.add_section()
        made.add_row(*(Text(cell, style="bold") for cell in total))
    return made


def _cell(text: str) -> Text:
    """A second line is an aside. Only we put line breaks in: `safe` shows those of strangers."""
    first, _, second = text.partition("\n")
    made = Text(first, style="yellow" if first in RESERVED else "")
    return made.append(f"\n{second}", style="dim") if second else made


def line(out: Console, text: str = "", style: str = "") -> None:
    """One line of prose. The terminal wraps it: a path that is cut in two cannot be copied."""
    out.print(Text(text, style=style), soft_wrap=True)


def document(rows: Sequence[Mapping[str, Any]], **about: Any) -> None:
    """The one JSON document of a command. ASCII only: an escape sequence in a label stays an escape."""
    click.echo(json.dumps({"rows": list(rows), **about}, indent=2))
