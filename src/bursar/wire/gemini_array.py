"""The relay of a JSON array that comes in pieces: elements go on when they are whole, the last one waits."""

from __future__ import annotations

import re

from .stream import EVENT_MAX

_QUOTE = re.compile(rb'["\\]')
_MARK = re.compile(rb'["\[\]{}]')


class ArrayRelay:
    """A StreamReader for `[{…},{…}]`. `_element` says of each element whether it may be the last; `]` ends the stream."""

    def __init__(self) -> None:
        self._held = bytearray()  # the unfinished element, with the comma and space before it
        self._scan = 0
        self._depth = 0
        self._text = False  # inside a string
        self._start = -1  # where in `_held` the unfinished element begins
        self._maybe = b""
        self._kept = b""
        self._done = False
        self._any = False
        self._blind = False  # an element was too large to gather: the rest goes on unread

    def _element(self, data: bytes) -> bool:
        raise NotImplementedError

    def feed(self, chunk: bytes) -> bytes:
        if self._done:
            self._kept += chunk
            return b""
        if self._blind:
            return chunk
        held = self._held
        held += chunk
        out: list[bytes] = []
        sent = 0
        while not self._done:
            end = self._next()
            if end < 0:
                break
            if self._depth == 0:  # the array's own bracket
                self._done = True
                self._kept = self._maybe + bytes(held[sent:])
                self._maybe = b""
                held.clear()
            else:
                if self._maybe:
                    out.append(self._maybe)
                piece = bytes(held[sent:end])
                last = self._element(bytes(held[self._start : end]))
                self._maybe = piece if last else b""
                if not last:
                    out.append(piece)
                self._any = True
                self._start, sent = -1, end
        if not self._done:
            del held[:sent]
            self._scan -= sent
            if self._start >= 0:
                self._start -= sent
            if len(held) > EVENT_MAX:
                out += [self._maybe, bytes(held)]
                held.clear()
                self._maybe, self._blind = b"", True
        return b"".join(out)

    def _next(self) -> int:
        """The offset behind the next whole element or behind the array's end; -1 when more bytes are needed."""
        held = self._held
        while True:
            found = (_QUOTE if self._text else _MARK).search(held, self._scan)
            if found is None:
                self._scan = len(held)
                return -1
            mark = held[found.start()]
            if mark == 0x5C:
                if found.end() == len(held):
                    self._scan = found.start()
                    return -1
                self._scan = found.end() + 1
                continue
            self._scan = found.end()
            if mark == 0x22:
                self._text = not self._text
            elif mark in b"[{":
                self._depth += 1
                if self._depth == 2:
                    self._start = found.start()
            else:
                self._depth -= 1
                if self._depth <= 1:
                    return found.end()

    def finish(self) -> None:
        self._kept = self._maybe + bytes(self._held) + self._kept
        self._maybe = b""
        self._held.clear()

    @property
    def kept(self) -> bytes:
        return self._kept

    @property
    def done(self) -> bool:
        return self._done

    def separator(self) -> bytes:
        """What must stand before one more element."""
        return b",\n" if self._any else b"["
