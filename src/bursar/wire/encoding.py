"""Content codings, undone with a bound: gzip, deflate, br, zstd; whole bodies and streams."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, cast

import brotli  # pyright: ignore[reportMissingTypeStubs]
import zstandard

from ..domain.call import Reading
from ..domain.shape import replace
from ..domain.usage import Tokens, Unknown
from .dialect import Reader

# A provider's JSON compresses 3 to 20 times; a body of nothing but zeros about 1000 times.
RATIO_MAX = 200
RATIO_FREE = 1 << 20  # no ratio is judged on less output than this: a small body of spaces harms nobody
_STEP = 64 * 1024
_BROTLI_ERROR: type[Exception] = brotli.error  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class Bad(ValueError):
    """Why a body cannot be decoded, as its text."""


class _Bound:
    """Counts what goes in and comes out of a decoder."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken, self.given = limit, 0, 0

    def room(self) -> int:
        return max(self.limit - self.given, 0)

    def passed(self, piece: bytes) -> bytes:
        self.given += len(piece)
        if self.given > self.limit:
            raise Bad(f"the decoded body is larger than {self.limit} bytes")
        if self.given > RATIO_FREE and self.given > self.taken * RATIO_MAX:
            raise Bad(f"{self.taken} bytes decode to more than {self.given}: over {RATIO_MAX} times")
        return piece


class Decoder:
    """One content coding, incrementally. `feed` gives what is decoded so far; Bad when it is broken or over the bound."""

    def __init__(self, coding: str, limit: int) -> None:
        self._bound = _Bound(limit)
        self._step = _STEPS[coding]()
        self.coding = coding

    def feed(self, chunk: bytes) -> bytes:
        self._bound.taken += len(chunk)
        out: list[bytes] = []
        try:
            while True:
                piece, chunk, more = self._step(chunk)
                out.append(self._bound.passed(piece))
                if not more:
                    return b"".join(out)
        except (zlib.error, _BROTLI_ERROR, zstandard.ZstdError) as broken:
            raise Bad(f"the body is not {self.coding}: {broken}") from broken


_Step = Callable[[bytes], "tuple[bytes, bytes, bool]"]  # bytes in -> (decoded, not yet taken, call again)


def _gzip() -> _Step:
    state = zlib.decompressobj(31)

    def step(chunk: bytes) -> tuple[bytes, bytes, bool]:
        nonlocal state
        if state.eof:
            chunk = state.unused_data + chunk
            if not chunk.strip(b"\0"):
                return b"", b"", False
            state = zlib.decompressobj(31)  # a second member: gzip files may be concatenated
        piece = state.decompress(chunk, _STEP)
        return piece, state.unconsumed_tail, bool(state.unconsumed_tail) or bool(state.unused_data) or len(piece) == _STEP

    return step


def _deflate() -> _Step:
    state: list[zlib._Decompress] = []  # pyright: ignore[reportPrivateUsage]

    def step(chunk: bytes) -> tuple[bytes, bytes, bool]:
        if not state:
            if not chunk:
                return b"", b"", False
            # RFC 9110 means the zlib format; some servers send the bare one. A zlib header's low nibble is always 8.
            state.append(zlib.decompressobj(15 if chunk[0] & 0x0F == 8 else -15))
        piece = state[0].decompress(chunk, _STEP)
        tail = state[0].unconsumed_tail
        return piece, tail, bool(tail) or len(piece) == _STEP

    return step


def _brotli() -> _Step:
    state = cast(Any, brotli.Decompressor())  # pyright: ignore[reportUnknownMemberType]

    def step(chunk: bytes) -> tuple[bytes, bytes, bool]:
        if state.is_finished():
            return b"", b"", False
        piece: bytes = state.process(chunk, output_buffer_limit=_STEP)
        return piece, b"", not state.can_accept_more_data()

    return step


def _zstd() -> _Step:
    # 8 MiB is what RFC 9659 lets a content coding ask for.
    context = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
    state = context.decompressobj()

    def step(chunk: bytes) -> tuple[bytes, bytes, bool]:
        nonlocal state
        if state.eof:
            if not chunk:
                return b"", b"", False
            state = context.decompressobj()
        piece = state.decompress(chunk[:_FRAME_STEP])
        rest = state.unused_data + chunk[_FRAME_STEP:]
        return piece, rest, bool(rest)

    return step


# zstandard gives all it can from what it is fed, with no limit of its own; fed 256 bytes it can give at most 8 MiB (128 KiB for
# a block of 4 bytes).
_FRAME_STEP = 256
_STEPS: dict[str, Callable[[], _Step]] = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}


def known(coding: str) -> bool:
    return all(part in _STEPS for part in _parts(coding))


def _parts(coding: str) -> list[str]:
    """The codings in the order they are to be undone."""
    return [part for part in reversed([p.strip().lower() for p in coding.split(",")]) if part and part != "identity"]


def decode(body: bytes, coding: str, limit: int) -> bytes | Bad:
    """The plain body; Bad when a coding is unknown or broken, or the result passes `limit` bytes or RATIO_MAX."""
    parts = _parts(coding)
    if len(parts) > 2:
        return Bad(f"content coded {len(parts)} times")
    for part in parts:
        if part not in _STEPS:
            return Bad(f"content coding {part!r} is not known")
        try:
            body = Decoder(part, limit).feed(body)
        except Bad as bad:
            return bad
    return body


class Decoding:
    """A reader behind a decoder: what the client is given is plain, so its content-encoding line must go.

    When the stream cannot be decoded, nothing more is relayed and the reading is incomplete."""

    def __init__(self, reader: Reader, coding: str, limit: int) -> None:
        self._reader = reader
        parts = _parts(coding)
        self._bad = "" if len(parts) == 1 and parts[0] in _STEPS else f"content coding {coding!r} of a stream is not known"
        self._decoder = None if self._bad else Decoder(parts[0], limit)

    def feed(self, chunk: bytes) -> bytes:
        if self._bad or self._decoder is None:
            return b""
        try:
            return self._reader.feed(self._decoder.feed(chunk))
        except Bad as bad:
            self._bad = str(bad)
            return b""

    def finish(self) -> None:
        self._reader.finish()

    @property
    def kept(self) -> bytes:
        return self._reader.kept

    @property
    def done(self) -> bool:
        return self._reader.done

    def reading(self) -> Reading:
        reading = self._reader.reading()
        if not self._bad:
            return reading
        usage = reading.usage if not isinstance(reading.usage, Unknown) else Unknown(self._bad)
        return replace(reading, usage=usage, complete=False, error_message=reading.error_message or self._bad)

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        return self._reader.close_early(reason, tokens)
