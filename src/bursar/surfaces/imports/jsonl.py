"""Our own rows as JSON lines: what `bursar export jsonl` wrote, whole and proved; and rows written by hand. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from ...domain.entry import COLUMNS, MONEY_COLUMNS, Entry
from ...domain.money import amount
from ...domain.usage import TOKEN_BUCKETS, Tokens
from .record import NotMine, Outcome, Piece, Record, Stateless, dollars, flat, moment, text, whole

ABSENT = msgspec.Raw()
PARTS = ("cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other")
SHARES = ("cost_new", "cost_history", "cost_tools", "cost_system")
# A row of an export has all of these; one written by hand has not, and is priced here.
WHOLE = ("id", "call", "legs", "source", "price_status")
ATTEMPTS = ("first", "retry", "fallback", "correction", "aggregate", "tool")
STATUSES = ("ok", "error", "refused", "unknown", "correction")
PRICED = ("priced", "free", "estimated", "unpriced")
COUNTS = frozenset(("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"))


def _field(name: str) -> tuple[str, Any, Any]:
    kind = Entry.__annotations__[name]
    if name == "ts" or name in MONEY_COLUMNS:
        return name, str | int | None, None
    if name in ("legs", "other_units", "label_sources"):
        return name, msgspec.Raw, ABSENT
    if name == "labels":
        return name, dict[str, Any] | None, None
    if "int" in str(kind):
        return name, int | None, None
    return name, str | None, None


_Row = msgspec.defstruct("_Row", [_field(name) for name in COLUMNS], rename={"try_no": "try"}, gc=False)
_row = msgspec.json.Decoder(_Row)
_object = msgspec.json.Decoder(dict[str, Any])
_legs = msgspec.json.Decoder(list[tuple[str, int, int, int]])
_encode = msgspec.json.encode


class Reading(Stateless):
    """Every line by itself."""

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            row: Any = _row.decode(piece.raw)
        except (msgspec.DecodeError, RecursionError) as bad:
            raise NotMine(f"not a row: {bad}") from None
        if all([getattr(row, name) not in (None, "", ABSENT) for name in WHOLE]) and row.ts is not None:
            return (_whole(row),)
        return (_by_hand(piece.raw),)


def _whole(row: Any) -> Entry:
    """A row as it was, after the proofs that `bursar check` makes: a row that does not add up stays outside."""
    values = {name: getattr(row, name) for name in COLUMNS}
    values["ts"] = moment(row.ts) if isinstance(row.ts, str) else row.ts
    for name in MONEY_COLUMNS:
        values[name] = _money(values[name], name)
    for name in ("legs", "other_units", "label_sources"):
        raw = bytes(values[name])
        values[name] = raw.decode() if raw else "[]" if name == "legs" else "{}"
    values["labels"] = _encode(row.labels).decode() if row.labels else "{}"
    made = Entry(**{name: value for name, value in values.items() if value is not None or name in NULLABLE})
    _prove(made)
    return made


NULLABLE = frozenset(name for name, default in Entry._field_defaults.items() if default is None)


def _money(said: object, name: str) -> int | None:
    if said is None:
        return None
    if isinstance(said, str):
        minus = said[:1] == "-"
        pico = dollars(said[1:] if minus else said)
        return -pico if minus and pico is not None else pico
    raise NotMine(f"{name} is {said!r:.40}: money is written as a decimal text")


def _prove(row: Entry) -> None:
    if row.attempt_kind not in ATTEMPTS or row.status not in STATUSES or row.price_status not in PRICED:
        raise NotMine(
            f"attempt_kind {row.attempt_kind!r:.20}, status {row.status!r:.20} or price_status {row.price_status!r:.20} is not ours"
        )
    try:
        legs = _legs.decode(row.legs)
    except msgspec.DecodeError as bad:
        raise NotMine(f"legs: {bad}") from None
    if any([pico != amount(count, femto) for _, count, femto, pico in legs]):
        raise NotMine("a leg is not count x unit price: the row was changed")
    if row.cost is None:
        if legs:
            raise NotMine("legs without a cost: the row was changed")
        return
    if (legs or not row.source.startswith("imported")) and sum([leg[3] for leg in legs]) != row.cost:
        raise NotMine(f"its legs come to {sum(leg[3] for leg in legs)} pico-dollars, its cost to {row.cost}: the row was changed")
    if row.price_status == "unpriced" and row.cost == 0:
        raise NotMine("unpriced and a cost of 0: what nobody knows is not zero")
    parts = [getattr(row, name) for name in PARTS]
    if any(part is not None for part in parts) and sum(part or 0 for part in parts) != row.cost:
        raise NotMine("its parts do not add up to its cost: the row was changed")
    shares = [getattr(row, name) for name in SHARES]
    if any(share is not None for share in shares) and sum(s or 0 for s in shares) != sum(p or 0 for p in parts[:3]):
        raise NotMine("its context shares do not add up to its input: the row was changed")


# -- by hand ---------------------------------------------------------------------------------------------------------------


def _by_hand(raw: bytes) -> Record:
    """A row with only what somebody's own log has: a time, a model, tokens or a cost; labels by their columns' names."""
    row = _object.decode(raw)
    model = text(row.get("model_served") or row.get("model") or row.get("model_requested"))
    if "ts" not in row:
        raise NotMine("no ts: a row has at least ts, model and tokens or a cost")
    ts = moment(row["ts"])
    counts = {name: whole(row[name]) or 0 for name in TOKEN_BUCKETS if row.get(name) is not None}
    stated = dollars(row.get("cost"))
    if not model and stated is None:
        raise NotMine("neither a model nor a cost: a row has at least ts, model and tokens or a cost")
    labels = flat(row.get("labels"))
    for name in ("tenant", "feature", "flow", "operation", "conversation", "user"):
        if said := text(row.get(name)):
            labels[name] = said
    known = COUNTS & counts.keys()
    return Record(
        text(row.get("id")) or blake2b(raw.strip(), digest_size=16).hexdigest(), ts, text(row.get("provider")), model,
        text(row.get("model_requested")) if row.get("model_requested") != model else "", Tokens(**counts) if known else None,
        estimated=row.get("usage_source") == "estimated", stated=stated, labels=labels,
        status="error" if row.get("status") == "error" else "ok",
        http_status=whole(row.get("http_status")), error=text(row.get("error")), finish=text(row.get("finish")),
        dialect=text(row.get("dialect")),
        stream=row.get("stream") in (1, True), latency_ms=whole(row.get("latency_ms")), ttft_ms=whole(row.get("ttft_ms")),
        service_tier=text(row.get("service_tier")), embedding=row.get("operation") == "embedding", key=text(row.get("key")),
        response_id=text(row.get("response_id")),
    )  # fmt: skip
