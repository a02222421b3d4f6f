"""Cutting files into records: lines, JSON arrays and documents, CSV, Parquet, length-prefixed protobuf; plain, gzip or zstd; in
flat memory. Knows nothing of what the records mean."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

import msgspec

from .record import Bad, Piece

RECORD_MAX = 64 << 20  # bytes of one record: a long trace with its prompts is a few; more is no record
CHUNK = 1 << 20
SPACE = b" \t\r\n"

# What reading a compressed file can meet: cut short, or not what its first bytes said.
OF_COMPRESSION = (EOFError, gzip.BadGzipFile, zlib.error)


class Unreadable(ValueError):
    """The file cannot be read at all. The message says why and what would do."""


class Shape(NamedTuple):
    """How a format's files may look beside JSON: `containers` are the names of lists of records in a document."""

    containers: tuple[str, ...] = ()
    csv: bool = False
    protobuf: bool = False


class Source:
    """One file being read. `position` is how many bytes of it, as they lie on the disk, have been read."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path, self._shape = path, shape
        try:
            self._file: IO[bytes] = path.open("rb", buffering=CHUNK)
            self.size = path.stat().st_size
        except OSError as bad:
            raise Unreadable(f"{path}: cannot be read: {bad.strerror}") from None

    @property
    def position(self) -> int:
        return 0 if self._file.closed else self._file.tell()

    def close(self) -> None:
        self._file.close()

    def pieces(self, start: int = 0, line: int = 0) -> Iterator[Piece | Bad]:
        """Its records in order, from where a piece ended at `start` with `line` before it. What is damaged is a Bad with its place."""
        head = self._file.read(4)
        self._file.seek(0)
        if head == b"PAR1":
            yield from _parquet(self.path, start)
            return
        plain = _plain(self._file, head)
        if start and self._lines_by_themselves(plain):
            yield from _lines(plain, start, line)
            return
        kind = self._kind(plain)
        if kind == "lines":
            yield from _lines(plain, 0, 0)
            return
        pieces = {
            "array": lambda: _array(_Text(plain)),
            "document": lambda: _document(plain, self._shape.containers),
            "csv": lambda: _rows(plain),
            "protobuf": lambda: _messages(plain),
        }[kind]()
        for piece in pieces:
            if isinstance(piece, Bad) or piece.end > start:
                yield piece

    def _lines_by_themselves(self, plain: IO[bytes]) -> bool:
        """Whether the file is lines, of which some may be skipped unread."""
        return self._kind(plain) == "lines"

    def _kind(self, plain: IO[bytes]) -> str:
        """lines | array | document | csv | protobuf, from its first bytes; nothing is consumed."""
        try:
            head = plain.peek(4096)[:4096]  # type: ignore[attr-defined]
        except OF_COMPRESSION as bad:
            raise Unreadable(f"{self.path}: not the compressed file it begins as: {bad}") from None
        text = head.removeprefix(codecs.BOM_UTF8).lstrip(SPACE)
        if self._shape.protobuf and text[:1] not in (b"{", b"[", b""):
            return "protobuf"
        if text[:1] == b"[":
            return "array"
        if text[:1] == b"{":
            first = text.partition(b"\n")[0].rstrip(SPACE)
            # A document that is written over many lines begins with a line that is none by itself.
            return "document" if first == b"{" or first[-1:] in b"{[,:" else "lines"
        return "csv" if self._shape.csv and b"," in text.partition(b"\n")[0] else "lines"


def _plain(file: IO[bytes], head: bytes) -> IO[bytes]:
    """The file's plain bytes, whatever it is compressed with; with `peek`."""
    if head[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))  # another buffer around it would lose what stands before a break
    if head == b"\x28\xb5\x2f\xfd":
        import zstandard

        return io.BufferedReader(
            zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True), CHUNK
        )
    return file


def _lines(file: IO[bytes], start: int, line: int) -> Iterator[Piece | Bad]:
    offset = 0
    try:
        if start:
            offset = _skip(file, start)
        while raw := file.readline(RECORD_MAX + 1):
            line += 1
            begin, offset = offset, offset + len(raw)
            if len(raw) > RECORD_MAX:
                while more := file.readline(CHUNK):
                    offset += len(more)
                    if more[-1:] == b"\n":
                        break
                yield Bad(f"one record of {offset - begin:,} bytes; at most {RECORD_MAX:,}", Piece(raw[:200], line, begin, offset))
                continue
            if begin == 0:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.strip():
                yield Piece(raw, line, begin, offset)
    except OF_COMPRESSION as bad:
        yield Bad(f"the compressed file ends or breaks here: {bad}", Piece(b"", line + 1, offset, offset))


def _skip(file: IO[bytes], start: int) -> int:
    if isinstance(getattr(file, "raw", None), io.FileIO):
        return file.seek(start)
    left = start
    while left and (chunk := file.read(min(left, CHUNK))):
        left -= len(chunk)
    return start - left


class _Text:
    """A stream of UTF-8 as text to look ahead in, with the byte offset of where it stands."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder("utf-8-sig")("replace")
        self.text, self.at, self.offset, self.ended = "", 0, 0, False
        self.broken = ""

    def more(self) -> bool:
        """Read on; what lies before the current place is dropped. False at the end."""
        if self.ended:
            return False
        parts: list[bytes] = []
        left = max(CHUNK, len(self.text) - self.at)  # a long record is read in ever larger steps, or its parsing would be too
        try:
            while left > 0 and (part := self._file.read1(left)):  # type: ignore[attr-defined]
                parts.append(part)
                left -= len(part)
        except OF_COMPRESSION as bad:
            self.broken = f": {bad}"
        self.ended = left > 0
        self.text = self.text[self.at :] + self._decode.decode(b"".join(parts), self.ended)
        self.at = 0
        return bool(parts)

    def peek(self) -> str:
        """The next character that is no space, empty at the end; stands on it."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at, self.offset = self.at + 1, self.offset + 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def step(self) -> None:
        """Past one ASCII character."""
        self.at, self.offset = self.at + 1, self.offset + 1

    def value(self) -> str | None:
        """The JSON value that stands here as text, and past it; None when there is none, or none that ends."""
        while True:
            try:
                _, end = _decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.text[end - 1] in '}]"' or self.ended:
                    break
            except (ValueError, RecursionError) as bad:
                hopeless = isinstance(bad, RecursionError) or len(self.text) - self.at > RECORD_MAX
                if self.ended or hopeless:
                    return None
            if not self.more() and self.ended and self.at >= len(self.text):
                return None
        found = self.text[self.at : end]
        self.at, self.offset = end, self.offset + len(found.encode())
        return found


_decoder = json.JSONDecoder()


def _array(text: _Text, number: int = 0, upto: str = "") -> Iterator[Piece | Bad]:
    """The elements of the array that stands here. `upto`: what may follow its end."""
    text.peek()
    text.step()
    while (next := text.peek()) not in ("]", ""):
        if next == ",":
            text.step()
            continue
        number += 1
        begin = text.offset
        found = text.value()
        if found is None:
            yield _rest(text, number, begin)
            return
        yield Piece(found.encode(), number, begin, text.offset)
    if next == "":
        yield Bad(f"the file ends inside its list{text.broken}", Piece(b"", number + 1, text.offset, text.offset))
        return
    text.step()
    if not upto and text.peek():
        yield _rest(text, number + 1, text.offset)


def _rest(text: _Text, number: int, begin: int) -> Bad:
    excerpt = text.text[text.at : text.at + 2000]
    return Bad("not JSON from here on; the rest of the file is not read", Piece(excerpt.encode(), number, begin, begin))


def _document(file: IO[bytes], containers: tuple[str, ...]) -> Iterator[Piece | Bad]:
    """One JSON document, or several after one another. A small one is one piece; of a large one the lists of records."""
    text = _Text(file)
    number = 0
    while text.peek():
        number += 1
        begin = text.offset
        while len(text.text) - text.at < RECORD_MAX and text.more():
            pass
        if text.ended:
            found = text.value()
            if found is None:
                yield _rest(text, number, begin)
                return
            yield Piece(found.encode(), number, begin, text.offset)
            continue
        text.step()  # past the brace
        while text.peek() == '"':
            name = text.value()
            if name is None or text.peek() != ":":
                yield _rest(text, number, text.offset)
                return
            text.step()
            if text.peek() == "[" and json.loads(name) in containers:
                for piece in _array(text, number, upto=",}"):
                    number = piece.line if isinstance(piece, Piece) else number
                    yield piece
            elif text.value() is None:
                yield _rest(text, number, text.offset)
                return
            if text.peek() == ",":
                text.step()
        if text.peek() == "}":
            text.step()
        else:
            yield _rest(text, number, text.offset)
            return


def _rows(file: IO[bytes]) -> Iterator[Piece | Bad]:
    """The rows of a CSV file, each as a JSON object of texts. Its position is the row's number, from 1."""
    csv.field_size_limit(RECORD_MAX)
    reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", "replace", newline=""))
    names: list[str] = []
    number = 0
    try:
        for row in reader:
            if not names:
                names = [name.strip() for name in row]
                continue
            if not any(row):
                continue
            number += 1
            raw = msgspec.json.encode(dict(zip(names, row)))
            if len(row) > len(names):
                yield Bad(f"{len(row)} cells under {len(names)} headings", Piece(raw, reader.line_num, number - 1, number))
            else:
                yield Piece(raw, reader.line_num, number - 1, number)
    except (csv.Error, *OF_COMPRESSION) as bad:
        yield Bad(f"not CSV from here on: {bad}", Piece(b"", reader.line_num, number, number))


def _parquet(path: Path, start: int) -> Iterator[Piece | Bad]:
    """The rows of a Parquet file, each as JSON text. Its position is the row's number, from 1."""
    import duckdb

    from ...stores import engine

    with engine.connect("256MB", 1) as work:
        try:
            rows = work.execute("SELECT CAST(to_json(t) AS VARCHAR) FROM read_parquet(?) t", [str(path)])
            number = 0
            while chunk := rows.fetchmany(1000):
                for (row,) in chunk:
                    number += 1
                    if number > start:
                        yield Piece(row.encode(), number, number - 1, number)
        except duckdb.Error as bad:
            raise Unreadable(f"{path}: not a Parquet file that can be read: {str(bad).splitlines()[0]}") from None


def _messages(file: IO[bytes]) -> Iterator[Piece | Bad]:
    """Protobuf messages, each after its length in four bytes, big-endian (the collector's file exporter), or a single one."""
    head = file.peek(4)[:4]  # type: ignore[attr-defined]
    offset = number = 0
    try:
        if head[:1] == b"\x0a":  # the tag of a first field: one message by itself. As a length it would be 160 MB
            raw = file.read(RECORD_MAX + 1)
            if len(raw) > RECORD_MAX:
                yield Bad(f"one message of more than {RECORD_MAX:,} bytes", Piece(b"", 1, 0, len(raw)))
            else:
                yield Piece(raw, 1, 0, len(raw))
            return
        while prefix := file.read(4):
            number += 1
            length = int.from_bytes(prefix, "big")
            raw = file.read(length) if len(prefix) == 4 and length <= RECORD_MAX else b""
            if len(raw) != length or len(prefix) != 4:
                yield Bad(
                    f"no message of {length:,} bytes stands here; the rest of the file is not read",
                    Piece(raw[:200], number, offset, offset),
                )
                return
            yield Piece(raw, number, offset, offset + 4 + length)
            offset += 4 + length
    except OF_COMPRESSION as bad:
        yield Bad(f"the compressed file ends or breaks here: {bad}", Piece(b"", number + 1, offset, offset))
