"""Draws a Slack message as an SVG: `python docs/picture_alarm.py tests/golden/alarm-slack.txt docs/images/alarm.svg`."""

import json
import sys
import textwrap
from html import escape
from pathlib import Path

WIDTH, LEFT, LINE = 640, 24, 19
FONT = "font-family='Helvetica, Arial, sans-serif'"


def main(source: str, target: str) -> None:
    (attachment,) = json.loads(Path(source).read_text("utf-8"))["attachments"]
    made: list[str] = []
    y = 16

    def text(x: int, words: str, size: int = 14, weight: str = "normal", fill: str = "#1d1c1d", more: str = FONT) -> None:
        made.append(f"<text x='{x}' y='{y}' font-size='{size}' font-weight='{weight}' fill='{fill}' {more}>{escape(words)}</text>")

    for block in attachment["blocks"]:
        kind = block["type"]
        if kind == "header":
            for line in textwrap.wrap(block["text"]["text"], 62):
                y += 24
                text(LEFT, line, 17, "bold")
        elif kind == "section" and "fields" in block:
            for row in range(0, len(block["fields"]), 2):
                y += 10 + LINE
                for column, field in enumerate(block["fields"][row : row + 2]):
                    name, _, value = field["text"].partition("\n")
                    text(LEFT + column * 300, name, 12, fill="#616061")
                    y += LINE
                    text(LEFT + column * 300, value)
                    y -= LINE
                y += LINE
        elif kind == "section":
            code = block["text"]["type"] == "mrkdwn"
            y += 8
            lines = textwrap.wrap(block["text"]["text"].strip("`"), 68 if code else 80)
            if code:
                place = f"x='{LEFT}' y='{y + 4}' width='{WIDTH - 2 * LEFT}' height='{10 + LINE * len(lines)}'"
                made.append(f"<rect {place} rx='4' fill='#f8f8f8' stroke='#ddd'/>")
            for line in lines:
                y += LINE
                text(LEFT + 8 * code, line, 12 if code else 14, more="font-family='monospace'" if code else FONT)
            y += 8 * code
        elif kind == "actions":
            y += 16
            x, top = LEFT, y
            for button in block["elements"]:
                words = button["text"]["text"]
                width = 20 + round(7.2 * len(words))
                fill = {"danger": "#e01e5a", "primary": "#007a5a"}.get(button.get("style", ""), "#ffffff")
                ink = "#1d1c1d" if fill == "#ffffff" else "#ffffff"
                made.append(f"<rect x='{x}' y='{top}' width='{width}' height='30' rx='4' fill='{fill}' stroke='#bbb'/>")
                y = top + 20
                text(x + 10, words, 13, "bold", ink)
                x += width + 8
            y = top + 30
        else:
            y += 8 + LINE
            text(LEFT, block["elements"][0]["text"], 12, fill="#616061")
    height = y + 20
    bar = f"<rect x='8' y='8' width='4' height='{height - 16}' rx='2' fill='{attachment['color']}'/>"
    box = f"<rect width='{WIDTH}' height='{height}' fill='#ffffff' stroke='#e0e0e0'/>"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}'>{box}{bar}{''.join(made)}</svg>\n"
    Path(target).write_text(svg.replace("><", ">\n<"), "utf-8")


main(*sys.argv[1:3])
