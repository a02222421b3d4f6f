"""Content codings: undone whole and in pieces, bounded in size and in ratio."""

from __future__ import annotations

import gzip
import random
import zlib

import brotli
import pytest
import zstandard

from bursar import wire
from bursar.domain.call import Asked
from bursar.domain.usage import Known, Unknown
from bursar.wire import encoding

from .streams import CHAT, cut

TEXT = CHAT * 50


def bare(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


CODED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without header": bare,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", CODED)
def test_what_was_coded_comes_back_whole_and_in_pieces(kind: str) -> None:
    coding, coded = kind.split()[0], CODED[kind](TEXT)
    assert encoding.decode(coded, coding, 1 << 20) == TEXT
    assert encoding.decode(coded, coding.upper() + ", identity", 1 << 20) == TEXT
    rng = random.Random(1)
    for pieces in ([coded[i : i + 1] for i in range(len(coded))], cut(coded, *(rng.randrange(len(coded)) for _ in range(9)))):
        decoder = encoding.Decoder(coding, 1 << 20)
        assert b"".join(decoder.feed(piece) for piece in pieces) == TEXT


@pytest.mark.parametrize("kind", CODED)
def test_a_bomb_is_cut_at_the_bound(kind: str) -> None:
    """64 MB of zeros: refused for its size or its ratio, and never held whole."""
    coding, coded = kind.split()[0], CODED[kind](b"\0" * (64 << 20))
    for limit in (1 << 20, 256 << 20):
        bad = encoding.decode(coded, coding, limit)
        assert isinstance(bad, encoding.Bad) and ("larger than" in str(bad) or "times" in str(bad))


def test_two_members_are_one_body_and_rubbish_is_named() -> None:
    assert encoding.decode(gzip.compress(b"ab") + gzip.compress(b"cd"), "gzip", 100) == b"abcd"
    frame = zstandard.ZstdCompressor().compress
    assert encoding.decode(frame(b"ab") + frame(b"cd"), "zstd", 100) == b"abcd"
    assert encoding.decode(gzip.compress(brotli.compress(b"x")), "br, gzip", 100) == b"x"
    for coding in ("gzip", "deflate", "br", "zstd"):
        assert isinstance(encoding.decode(b"\x08no such thing", coding, 100), encoding.Bad)
    assert "not known" in str(encoding.decode(b"", "snappy", 100))
    assert isinstance(encoding.decode(b"", "gzip, gzip, gzip", 100), encoding.Bad)


@pytest.mark.parametrize("kind", CODED)
def test_a_coded_stream_is_read_and_relayed_plain(kind: str) -> None:
    coding, coded = kind.split()[0], CODED[kind](CHAT)
    reader = encoding.Decoding(wire.DIALECTS["openai_chat"].reader(Asked(), False), coding, 1 << 20)
    out = b"".join(reader.feed(coded[i : i + 7]) for i in range(0, len(coded), 7))
    reader.finish()
    assert out + reader.kept == CHAT and reader.done
    assert isinstance(reader.reading().usage, Known)


def test_a_stream_that_cannot_be_decoded_is_incomplete_and_says_why() -> None:
    reader = encoding.Decoding(wire.DIALECTS["openai_chat"].reader(Asked(), False), "gzip", 1 << 20)
    assert reader.feed(b"plain text") == b""
    reader.finish()
    reading = reader.reading()
    assert not reading.complete and isinstance(reading.usage, Unknown) and "gzip" in reading.error_message
