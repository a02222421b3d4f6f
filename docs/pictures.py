"""Draws what a command printed as an SVG: `bursar demo 2>/dev/null | python docs/pictures.py docs/images/demo.svg 'make demo'`."""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

path, title = sys.argv[1:3]
console = Console(record=True, width=82, file=open("/dev/null", "w"))
console.print(Text(sys.stdin.read().rstrip()))
svg = console.export_svg(title=title)
# No font is fetched: the viewer's own monospace will do.
svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S).replace("Fira Code", "monospace")
Path(path).write_text(re.sub(r"[ \t]+$", "", svg, flags=re.M), encoding="utf-8")
