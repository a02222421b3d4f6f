"""Server-sent events on bytes: where an event ends, and what its lines say. Never text, never `splitlines`."""

from __future__ import annotations

import re

# A blank line is two line ends in a row. Atomic groups: CRLF is one line end and must not be taken for CR and LF.
BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
BOM = b"\xef\xbb\xbf"


def parse(event: bytes) -> tuple[bytes, bytes]:
    """(event name, data) of one event's bytes; data lines joined by LF, both empty where there are none."""
    line = event.rstrip(b"\r\n")
    if line.startswith(b"data: ") and b"\n" not in line and b"\r" not in line:
        return b"", line[6:]
    name = b""
    data: list[bytes] = []
    if event.startswith(BOM):
        event = event[3:]
    for line in _LINE_END.split(event):
        if line.startswith(b"data"):
            if line == b"data":
                data.append(b"")
            elif line[4] == 0x3A:
                data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[7:] if line[6:7] == b" " else line[6:]
    return name, b"\n".join(data)
