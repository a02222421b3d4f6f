"""Compiles the price book from genai-prices, in a process of its own: `python -m bursar.surfaces.price_sync OUT`.

Importing genai-prices takes half a second and 105 MB, so nothing here imports it before `compile_book` runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

from ..domain.money import femto_per_unit
from ..stores.pricebook import SHAPE, BrokenBook, Catalogue, Clause, Index, Line, Model, read, write

SOURCE = "genai-prices"
COMPILE_S = 120  # a cold import on a slow disk took 11 s; beyond two minutes something is stuck
KEPT = 3  # books of earlier versions kept beside the newest, so that an old price_id can still be looked up

# genai-prices' price key -> our bucket or unit. Its `storage_searches` are searches of uploaded files.
UNITS = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_citation_mtok": "output_citation",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "output_audio_mtok": "output_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cache_read_image",
    "output_image_mtok": "output_image",
    "input_video_mtok": "input_video",
    "output_video_mtok": "output_video",
    "web_searches_kcount": "web_search",
    "social_searches_kcount": "social_search",
    "storage_searches_kcount": "file_search",
    "rerank_searches_kcount": "rerank_search",
    "code_executions_kcount": "code_session",
    "requests_kcount": "request",
    "input_mchars": "input_character",
    "input_text_messages_kcount": "input_message",
    "audio_hours": "audio_second",
    "input_audio_hours": "input_audio_second",
    "output_audio_hours": "output_audio_second",
    "input_document_kpages": "input_page",
    "input_annotated_document_kpages": "input_page_annotated",
}


class SyncFailed(RuntimeError):
    """The book could not be compiled. The message has the cause and what to do."""


def book_path(folder: str | Path) -> Path:
    """Where the book of the installed genai-prices lies in a data folder. SyncFailed when it is not installed."""
    try:
        version = metadata.version(SOURCE)
    except metadata.PackageNotFoundError as bad:
        raise SyncFailed(f"{SOURCE} is not installed, so there are no prices: pip install {SOURCE}") from bad
    return Path(folder) / f"prices-{version}-{SHAPE}.bin"


def ensure_book(folder: str | Path) -> Path:
    """The compiled book in this folder, compiled first where it is missing or damaged. Needs no network."""
    path = book_path(folder)
    if path.is_file():
        try:
            read(path)
        except BrokenBook:
            pass
        else:
            return path
    return sync(path)


def sync(path: Path) -> Path:
    """Compiles the book into `path` in a subprocess, whether it exists or not. SyncFailed says why it could not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise SyncFailed(f"{path.parent} cannot be made a folder for the price book: {bad.strerror}") from bad
    source = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "bursar.surfaces.price_sync", str(path)]
    try:
        ran = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMPILE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as bad:
        raise SyncFailed(f"compiling the price book took over {COMPILE_S} s; try `{' '.join(command)}`") from bad
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise SyncFailed(f"the price book could not be compiled into {path}: {last}; try `{' '.join(command)}`")
    for old in sorted(path.parent.glob("prices-*.bin"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def main(arguments: list[str]) -> int:
    """Writes the book to the path given: to a temporary file beside it, synced, then renamed over it."""
    if len(arguments) != 1:
        print("usage: python -m bursar.surfaces.price_sync OUT", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    data = write(compile_book())
    try:
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=".prices-", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, out)
    except OSError as bad:
        print(f"{out}: {bad.strerror}", file=sys.stderr)
        return 1
    return 0


def compile_book() -> Index:
    """All of the installed genai-prices in our shape. ValueError on a unit or constraint that this version does not
    know: a price that is left out silently would be billed as missing for months."""
    from genai_prices import data as book
    from genai_prices.data_units import unit_data

    per = {unit["price_key"]: int(unit["per"]) for unit in unit_data.values()}
    index = Index(f"{SOURCE}@{metadata.version(SOURCE)}", {}, [])
    for provider in book.providers:
        models = [(clause(model.match), _raw(_model(model, per))) for model in provider.models]
        index.providers[provider.id] = _raw(Catalogue(list(provider.fallback_model_providers or ()), models))
        if provider.model_match is not None:
            index.families.append((clause(provider.model_match), provider.id))
    return index


def _raw(record: Catalogue | Model) -> Any:
    import msgspec

    return msgspec.Raw(msgspec.msgpack.encode(record))


def clause(match: Any) -> Clause:
    """A match clause in our shape, lower-cased except for regular expressions, which see lower-cased names."""
    match type(match).__name__:
        case "ClauseEquals":
            return Clause("=", match.equals.lower())
        case "ClauseStartsWith":
            return Clause("^", match.starts_with.lower())
        case "ClauseEndsWith":
            return Clause("$", match.ends_with.lower())
        case "ClauseContains":
            return Clause("has", match.contains.lower())
        case "ClauseRegex":
            return Clause("re", match.regex)
        case "ClauseOr":
            return Clause("or", "", tuple(clause(part) for part in match.or_))
        case "ClauseAnd":
            return Clause("and", "", tuple(clause(part) for part in match.and_))
        case other:
            raise ValueError(f"genai-prices has a match clause that this Bursar does not know: {other}")


def _model(model: Any, per: dict[str, int]) -> Model:
    if isinstance(model.prices, list):
        lines = [_line(c.constraint, c.prices, per) for c in model.prices]
    else:
        lines = [_line(None, model.prices, per)]
    tiers = [_line(v.constraint, v.prices, per, sorted(v.when.values())) for v in model.price_variants or ()]
    return Model(model.id, model.context_window or 0, bool(model.deprecated), lines, tiers)


def _line(constraint: Any, prices: Any, per: dict[str, int], words: list[str] | None = None) -> Line:
    rates: dict[str, list[int]] = {}
    for key, value in prices.__dict__.items():
        if value is not None:
            if key not in UNITS:
                raise ValueError(f"genai-prices has a price key that this Bursar does not know: {key}")
            rates[UNITS[key]] = _rate(value, per[key])
    start_us, day_from, day_until = 0, -1, -1
    match type(constraint).__name__:
        case "NoneType":
            pass
        case "StartDateConstraint":
            start_us = _midnight_us(constraint.start_date)
        case "TimeOfDateConstraint":
            day_from, day_until = _second_of_day(constraint.start_time), _second_of_day(constraint.end_time)
        case other:
            raise ValueError(f"genai-prices has a constraint that this Bursar does not know: {other}")
    return Line(start_us, day_from, day_until, rates, words or [])


def _rate(value: Any, per: int) -> list[int]:
    if isinstance(value, Decimal):
        return [femto_per_unit(value, per)]
    flat = [femto_per_unit(value.base, per)]
    for tier in value.tiers:
        flat += [int(tier.start), femto_per_unit(tier.price, per)]
    return flat


def _midnight_us(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000_000


def _second_of_day(moment: time) -> int:
    if moment.tzinfo is not None:
        moment = datetime.combine(date(2000, 1, 2), moment).astimezone(UTC).time()
    return moment.hour * 3600 + moment.minute * 60 + moment.second


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
