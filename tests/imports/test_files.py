"""Records come out of any file whole, in order and with their places, however the file is cut, packed or broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import duckdb
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.surfaces.imports import files
from bursar.surfaces.imports.files import Shape, Source
from bursar.surfaces.imports.record import Bad, Piece

SHAPE = Shape(("data",), csv=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12,
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=5), max_size=8)


def pieces(path: Path, start: int = 0, line: int = 0, shape: Shape = SHAPE) -> list[Piece | Bad]:
    source = Source(path, shape)
    try:
        return list(source.pieces(start, line))
    finally:
        source.close()


def values(found: list[Piece | Bad]) -> list[object]:
    assert all(isinstance(p, Piece) for p in found), found
    return [json.loads(p.raw) for p in found if isinstance(p, Piece)]


def packed(data: bytes, how: str) -> bytes:
    return {"plain": lambda d: d, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[how](data)


@settings(max_examples=80, deadline=None)
@given(
    records=RECORDS,
    how=st.sampled_from(["plain", "gzip", "zstd"]),
    chunk=st.sampled_from([2, 7, 64, 1 << 20]),
    indent=st.sampled_from([None, 1]),
)
def test_a_list_gives_its_elements_whatever_it_looks_like(tmp_path_factory, records, how, chunk, indent) -> None:
    """Lines, an array in one line or over many; in steps of two bytes or a megabyte."""
    folder = tmp_path_factory.mktemp("cut")
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    array = json.dumps(records, ensure_ascii=False, indent=indent).encode()
    was, files.CHUNK = files.CHUNK, chunk
    try:
        for name, data in (("lines", lines), ("array", array)):
            path = folder / name
            path.write_bytes(packed(data, how))
            found = pieces(path)
            assert values(found) == records
            ends = [p.end for p in found if isinstance(p, Piece)]
            assert ends == sorted(ends)
            for stop in range(len(found)):  # from wherever a piece ended, the rest comes, and nothing twice
                at = found[stop]
                assert isinstance(at, Piece)
                assert values(pieces(path, at.end, at.line)) == records[stop + 1 :]
    finally:
        files.CHUNK = was


def test_places_are_those_of_the_plain_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"a":"é"}\n\n{"b":2}\n'.encode())
    first, second = pieces(path)
    assert isinstance(first, Piece) and isinstance(second, Piece)
    assert (first.line, first.offset, first.end) == (1, 0, 11) and (second.line, second.offset, second.end) == (3, 12, 20)


def test_a_document_over_many_lines_is_one_piece_and_a_huge_one_is_its_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.json"
    path.write_text(
        json.dumps({"object": "page", "data": [{"n": n} for n in range(50)], "more": {"data": [1]}, "tail": "x"}, indent=2)
    )
    (whole,) = pieces(path)
    assert isinstance(whole, Piece) and json.loads(whole.raw)["tail"] == "x"
    monkeypatch.setattr(files, "RECORD_MAX", 300)
    monkeypatch.setattr(files, "CHUNK", 64)
    assert values(pieces(path)) == [{"n": n} for n in range(50)]


def test_csv_rows_are_objects_of_texts_by_their_headings(tmp_path: Path) -> None:
    text = io.StringIO()
    sheet = csv.writer(text)
    sheet.writerows([["a", "b"], ["1", 'x, "y"\nz'], ["", ""], ["2", "é"]])
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeff".encode() + text.getvalue().encode())
    assert values(pieces(path)) == [{"a": "1", "b": 'x, "y"\nz'}, {"a": "2", "b": "é"}]
    assert values(pieces(path, start=1)) == [{"a": "2", "b": "é"}]


def test_parquet_rows_are_objects_too(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.sql(f"COPY (SELECT i AS n, 'x' || i AS s FROM range(3) r(i)) TO '{path}'")
    assert values(pieces(path)) == [{"n": n, "s": f"x{n}"} for n in range(3)]
    assert values(pieces(path, start=2)) == [{"n": 2, "s": "x2"}]


def test_length_prefixed_messages_and_a_single_one(tmp_path: Path) -> None:
    shape = Shape((), protobuf=True)
    messages = [b"\x0a\x00", b"\x0a\x02\x12\x00"]
    path = tmp_path / "m.pb"
    path.write_bytes(b"".join(len(m).to_bytes(4, "big") + m for m in messages))
    assert [p.raw for p in pieces(path, shape=shape) if isinstance(p, Piece)] == messages
    path.write_bytes(messages[1])
    assert [p.raw for p in pieces(path, shape=shape) if isinstance(p, Piece)] == messages[1:]
    path.write_bytes((10**6).to_bytes(4, "big") + b"\x0a\x00")
    (bad,) = pieces(path, shape=shape)
    assert isinstance(bad, Bad) and "1,000,000" in bad.reason


@pytest.mark.parametrize(("data", "good"), [
    (b'[{"a":1},{"a":2},{"a"', 2), (b'[{"a":1}{"a":2}]x', 2), (b'[{"a":1},', 1), (b'{\n "data": [1,', 0),
    (gzip.compress(b"".join(b'{"a":%d}\n' % (n * n % 99991) for n in range(5000)))[:-2000], None),
])  # fmt: skip
def test_what_is_cut_or_broken_is_told_with_its_place_after_what_was_whole(tmp_path: Path, data: bytes, good: int | None) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    found = pieces(path)
    assert isinstance(found[-1], Bad) and all(isinstance(p, Piece) for p in found[:-1])
    assert len(found) - 1 == good if good is not None else len(found) > 1000


def test_a_line_without_end_is_one_refused_record_and_not_all_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RECORD_MAX", 1000)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":"' + b"x" * 5000 + b'"}\n{"b":1}\n')
    bad, good = pieces(path)
    assert isinstance(bad, Bad) and len(bad.piece.raw) <= 200 and isinstance(good, Piece) and good.line == 2


def test_what_cannot_be_read_at_all_says_why(tmp_path: Path) -> None:
    with pytest.raises(files.Unreadable, match="cannot be read"):
        Source(tmp_path / "nothing", SHAPE)
    broken = tmp_path / "x.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(files.Unreadable, match="Parquet"):
        pieces(broken)
