"""A recorded terminal session: real commands on the demo's ledger, as an asciinema cast and as an SVG that moves; typing is drawn.

`python docs/session.py demo-ledger` records anew; tests/docs/test_docs.py does the same, and compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from bursar.surfaces.cli import main

HERE = Path(__file__).resolve().parent
TITLE = "What cost us $1,200 last week?"
WIDTH = 80
COMMANDS = (
    "bursar spend --since 2026-10-12 --until 2026-10-19",
    "bursar calls --where cause=tool:lookup_order --since 2026-10-12 --until 2026-10-19 --limit 4",
    "bursar conversation orders-2610-00300",
    "bursar audit --brief --since 2026-10",
)
ENVIRONMENT = {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color", "NO_COLOR": None}
KEY_S, READ_S = 0.03, 6.0  # between two keys; until the next command


def record(ledger: Path) -> list[tuple[str, str]]:
    """Each command with what it printed, colours and all."""
    made: list[tuple[str, str]] = []
    for command in COMMANDS:
        ran = CliRunner().invoke(main, command.split()[1:], env={**ENVIRONMENT, "BURSAR_LEDGER": str(ledger)}, color=True)
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code in (0, 1), ran.output
        made.append((command, ran.stdout))
    return made


def cast(session: list[tuple[str, str]]) -> str:
    """As `asciinema play` reads it: one event a line."""
    return "\n".join(json.dumps(part) for part in _events(session)) + "\n"


def _events(session: list[tuple[str, str]]) -> Iterator[object]:
    yield {"version": 2, "width": WIDTH, "height": 40, "title": TITLE, "env": {"TERM": "xterm-256color"}}
    now = 0.5
    for command, printed in [("export BURSAR_LEDGER=demo-ledger", ""), *session]:
        yield [round(now, 2), "o", "$ "]
        for key in command:
            now += KEY_S
            yield [round(now, 2), "o", key]
        now += 0.3
        yield [round(now, 2), "o", "\r\n" + printed.replace("\n", "\r\n")]
        now += READ_S if printed else 0.5


def picture(session: list[tuple[str, str]]) -> str:
    """One screen after the other, each for as long as it takes to read. Where nothing may move, the first one stands still."""
    frames: list[str] = []
    sizes: list[tuple[float, float]] = []
    for number, (command, printed) in enumerate(session):
        console = Console(record=True, width=WIDTH + 2, file=open("/dev/null", "w"), force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(f"$ {command}\n{printed.rstrip()}"))
        svg = console.export_svg(title=TITLE, unique_id=f"screen{number}")
        svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S).replace("Fira Code", "monospace")  # no font is fetched
        wide, high = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
        sizes.append((float(wide), float(high)))
        svg = svg.replace("<svg ", f'<svg width="{wide}" height="{high}" ', 1)
        frames.append(f'<g class="screen" style="animation-delay: {number * READ_S:g}s">\n{svg}\n</g>')
    whole, share = READ_S * len(frames), 100 / len(frames)
    style = f"""
.screen {{ opacity: 0; animation: show {whole:g}s step-end infinite }}
.screen:first-of-type {{ opacity: 1 }}
@keyframes show {{ 0% {{ opacity: 1 }} {share:g}% {{ opacity: 0 }} }}
@media (prefers-reduced-motion: reduce) {{ .screen {{ animation: none }} }}
"""
    wide, high = max(w for w, _ in sizes), max(h for _, h in sizes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}">\n<style>{style}</style>\n'
    made = head + "\n".join(frames) + "\n</svg>\n"
    return re.sub(r"[ \t]+$", "", made, flags=re.M)


FILES = {"session.cast": cast, "session.svg": picture}

if __name__ == "__main__":
    told = record(Path(sys.argv[1]))
    for file, draw in FILES.items():
        (HERE / "images" / file).write_text(draw(told), "utf-8")
