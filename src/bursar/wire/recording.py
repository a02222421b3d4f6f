"""A stream's reader that also remembers what passed, so that the reply may answer again."""

from __future__ import annotations

from ..domain.call import Reading
from ..domain.usage import Tokens
from .dialect import Reader


class Recording:
    """Around another reader. What is longer than `limit` bytes is not remembered."""

    def __init__(self, reader: Reader, limit: int) -> None:
        self._reader, self._limit = reader, limit
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size <= self._limit:
            self._chunks.append(chunk)
        return self._reader.feed(chunk)

    def finish(self) -> None:
        self._reader.finish()

    def reading(self) -> Reading:
        return self._reader.reading()

    @property
    def kept(self) -> bytes:
        return self._reader.kept

    @property
    def done(self) -> bool:
        return self._reader.done

    def close_early(self, reason: str, tokens: Tokens | None = None) -> bytes:
        return self._reader.close_early(reason, tokens)

    def recorded(self) -> bytes | None:
        """All bytes of the stream; None where there were too many."""
        return b"".join(self._chunks) if self._size <= self._limit else None
