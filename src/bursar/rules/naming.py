"""Names for past rows: each is taken back under its old labels and booked again under the new ones, so every total stays. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

from ..domain.entry import MONEY_COLUMNS, Entry
from ..domain.labels import CHARGEABLE, FREE_LABELS_MAX, NAME_CHARS_MAX, PURPOSES, VALUE_CHARS_MAX
from .tools import KIND

# Words in `flags`. What was a try counts as one under its new labels and no longer under its old ones; a refused try counts as
# a call only, and a correction (`…-correction`) as neither.
NAMED, UNNAMED = "named", "unnamed"
COUNTS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
AMOUNTS = tuple(name for name in MONEY_COLUMNS if name != "hold")
COLUMNS = ("tenant", "feature", "flow", "user")
FIXED = ("conversation", "key")  # a fact and a credential, no names


class NoName(ValueError):
    """What is asked for cannot be a name; says why and what to write instead."""


def readable(said: Mapping[str, str]) -> dict[str, str]:
    """The names as they can be stored, `label:` left off. NoName for one that no row may carry."""
    made: dict[str, str] = {}
    for given, value in said.items():
        name = given.removeprefix("label:")
        if name in FIXED or (name in Entry._fields and name not in CHARGEABLE):
            raise NoName(f"{name} is no label that can be given afterwards; use {', '.join(COLUMNS)}, operation or a name of your own")
        if name == "operation" and value not in PURPOSES:
            raise NoName(f"operation={value}: what calls were for is one of {', '.join(PURPOSES)}")
        if not name.isprintable() or len(name) > NAME_CHARS_MAX or not value.isprintable() or len(value) > VALUE_CHARS_MAX:
            raise NoName(
                f"{name[:NAME_CHARS_MAX]!r}: a name has up to {NAME_CHARS_MAX} characters, its value {VALUE_CHARS_MAX}, all printable"
            )
        made[name] = value
    return made


def value(row: Entry, name: str) -> str:
    """What a row says under a name; empty where nobody said."""
    if name == "operation":
        return row.purpose
    return getattr(row, name) if name in COLUMNS else _labels(row).get(name, "")


def rename(row: Entry, said: Mapping[str, str]) -> tuple[Entry, Entry] | None:
    """The row booked again under `said` (names as `readable` gives them; an empty value takes a name away), and the row that
    takes it back under its old labels; None where it says all that already. Book the first before the second: an
    interruption between them is mended by doing it again, for both ids follow from what is done. NoName when the row would
    have too many labels."""
    if all([value(row, name) == new for name, new in said.items()]):
        return None
    known = row.flags.startswith(NAMED)
    if known:
        word = row.flags.removeprefix(NAMED)
    else:
        word = "-correction" if row.attempt_kind in ("correction", KIND) else "-refused" if row.status == "refused" else ""
    first = row.id.partition("~n")[0] if known else row.id
    digest = blake2b(json.dumps([row.id, sorted(said.items())]).encode(), digest_size=8).hexdigest()
    plain = row._replace(
        attempt_kind="correction", status="correction", latency_ms=None, ttft_ms=None, overhead_us=None, hold=0, response_id="",
        usage_raw="", http_status=None, error="", finish="",
    )  # fmt: skip
    again = plain._replace(
        id=f"{first}~n{digest}", corrects=first, flags=NAMED + word, label_sources=_sources(row, said), **_columns(row, said)
    )
    back = plain._replace(id=f"{row.id}~u", corrects=row.id, flags=UNNAMED + word, evidence="{}", **_negative(row))
    return again, back


def _columns(row: Entry, said: Mapping[str, str]) -> dict[str, str]:
    made: dict[str, str] = {name: new for name, new in said.items() if name in COLUMNS}
    if "operation" in said:
        made["purpose"] = said["operation"]
        if row.operation == row.purpose:  # a retry stays one, whatever it was for
            made["operation"] = said["operation"]
    free = {**_labels(row), **{name: new for name, new in said.items() if name not in COLUMNS and name != "operation"}}
    kept = {name: new for name, new in free.items() if new}
    if len(kept) > FREE_LABELS_MAX:
        raise NoName(f"row {row.id} has {len(kept) - 1} free labels, and may have {FREE_LABELS_MAX}: take one away, NAME=")
    made["labels"] = json.dumps(kept)
    return made


def _negative(row: Entry) -> dict[str, Any]:
    """All that counts or costs, taken back. Unknown stays unknown."""
    made: dict[str, Any] = {name: None if getattr(row, name) is None else -getattr(row, name) for name in (*COUNTS, *AMOUNTS)}
    made["legs"] = json.dumps([[unit, -count, femto, -pico] for unit, count, femto, pico in json.loads(row.legs)])
    extra = cast("dict[str, int]", json.loads(row.other_units or "{}"))
    made["other_units"] = json.dumps({unit: -count for unit, count in extra.items()})
    return made


def _labels(row: Entry) -> dict[str, str]:
    return json.loads(row.labels or "{}")


def _sources(row: Entry, said: Mapping[str, str]) -> str:
    return json.dumps({**json.loads(row.label_sources or "{}"), **dict.fromkeys(said, NAMED)})
