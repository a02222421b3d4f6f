"""A record of another tool as a row of ours: labels bounded, tokens priced by our own book, the source's amount kept beside. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, Protocol

from ...domain.entry import Entry
from ...domain.labels import CHARGEABLE, FREE_LABELS_MAX, NAME_CHARS_MAX, OPERATIONS, PURPOSES, clean
from ...domain.money import plain
from ...domain.price import Leg, Price, Priced, Rate
from ...domain.shape import replace
from ...rules.attribute import ALIASES
from ...rules.price import bill, columns
from ...rules.record import NOT_BILLED, add_usage
from . import providers
from .record import AGGREGATE, Record

ID_MAX = 400  # characters of a source's id as it stands; longer ones are hashed
CACHE_HIT = "rule:reply-cache-no-bill"


# A label's name, also as other tools have it -> ours, where it is one of the chargeable ones.
OURS: dict[str, str] = {**{name: name for name in CHARGEABLE}, **ALIASES}
known = lru_cache(maxsize=4096)(clean)  # for what comes again and again: models, keys, names of labels


class Prices(providers.Names, Protocol):
    """What is needed of a price book."""

    def find(self, provider: str, model: str, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None: ...


class Given(NamedTuple):
    """What the operator says of all records: labels that hold for each, and names of theirs that are names of ours."""

    labels: Mapping[str, str] = {}
    renames: Mapping[str, str] = {}


class Maker:
    """Makes the rows of one source. `form`: the format's name, which every row carries."""

    def __init__(self, form: str, prices: Prices, given: Given) -> None:
        self._form, self._prices, self._given = form, prices, given
        self._source = f"imported:{form}"
        self._said_by = f"import:{form}"

    def row(self, record: Record) -> Entry:
        """The row of one record. Same record, same row, whenever it is imported; only the price book may have moved on."""
        said, free = self._labels(record.labels)
        of = said.get
        operation, conversation = of("operation", ""), of("conversation", "")
        purpose = operation if operation in PURPOSES else "embedding" if record.embedding else "primary"
        kind = operation if operation in ("retry", "fallback") else record.attempt_kind
        provider, model = record.provider, record.model or record.requested
        flags = [record.flags] if record.flags else []
        if not provider and model:
            provider = providers.guess(self._prices, model)
            if provider:
                flags.append("guessed:provider")
        priced = self._price(record, provider, model, flags)
        found = columns(priced)
        if record.tokens is not None:
            add_usage(found, record.tokens)
        model, id = known(model), source_id(self._form, record.id)
        return Entry(
            id, record.ts, source_id(self._form, record.call) if record.call else id, record.try_no, known(record.key), kind,
            kind if kind in ("retry", "fallback") else operation or purpose, purpose, record.cause,
            of("tenant", ""), of("feature", ""), of("flow", ""), of("user", ""), conversation,
            labels=_json(tuple(sorted(free.items())[:FREE_LABELS_MAX])) if free else "{}",
            label_sources=_words(self._said_by, tuple(said)) if said else "{}", provider=known(provider), dialect=record.dialect,
            model_requested=known(record.requested) if record.requested else model, model_served=model,
            service_tier=known(record.service_tier), status=record.status, http_status=record.http_status,
            error=clean(record.error, 200) if record.error else "", finish=known(record.finish), stream=1 if record.stream else 0,
            ended="complete" if record.status == "ok" else "failed",
            usage_source=_usage_source(record, priced),
            usage_raw=record.contradiction[:500], latency_ms=record.latency_ms, ttft_ms=record.ttft_ms,
            response_id=clean(record.response_id), request_hash=record.digest, source=record.source or self._source,
            flags=" ".join(flags), **found,
        )  # fmt: skip

    def _labels(self, labels: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """(the chargeable labels, the free ones): in our names, bounded, printable. What the operator gave stands above all."""
        given = self._given
        if given.labels or given.renames:
            labels = {given.renames.get(name, name): value for name, value in labels.items()} | dict(given.labels)
        said: dict[str, str] = {}
        free: dict[str, str] = {}
        for name, value in labels.items():
            if value:
                ours = OURS.get(name)
                if ours is None or (ours == "operation" and value not in OPERATIONS):
                    free.setdefault("operation_said" if ours else known(name)[:NAME_CHARS_MAX], clean(value))
                elif ours not in said:
                    said[ours] = clean(value)
        return said, free

    def _price(self, record: Record, provider: str, model: str, flags: list[str]) -> Priced:
        """Ours where the tokens can be priced; else what the source says, named as such; else nobody knows. Never zero for not
        knowing: tools write 0 for a model they have no price of."""
        tokens, stated = record.tokens, record.stated
        if record.billed and stated is not None:
            return _stated(stated, f"billed:{provider}", "priced")
        if record.flags == "cache_hit":
            return Priced("priced", 0, (), CACHE_HIT)
        ours = None
        if tokens is not None and model:
            price = self._prices.find(provider, model, record.ts, record.service_tier, record.batch)
            if price is not None and record.attempt_kind == AGGREGATE:
                price = _flat(price, record.labels.get("context_window", ""))
            if price is None and record.requested:  # some name a snapshot that no list knows
                price = self._prices.find(provider, record.requested, record.ts, record.service_tier, record.batch)
            ours = bill(tokens, price)
            if record.estimated and ours.status == "priced":
                ours = replace(ours, status="estimated")
        if ours is not None and ours.status != "unpriced":
            if stated is not None:
                flags.append(f"stated:{plain(stated)}")
            if ours.missing:
                flags.append("missing:" + ",".join(ours.missing))
            if record.contradiction:
                flags.append("contradiction")
            return ours
        if stated:
            return _stated(stated, f"stated:{self._form}", "estimated")
        if record.status == "error" and not (tokens is not None and tokens.total):
            return Priced("priced", 0, (), NOT_BILLED)
        if ours is not None:
            if ours.missing:
                flags.append("missing:" + ",".join(ours.missing))
            return ours
        return Priced("unpriced", None, (), "")


def _usage_source(record: Record, priced: Priced) -> str:
    if record.estimated:
        return "estimated"
    return "unknown" if record.tokens is None and priced.status != "priced" else "provider"


def _flat(price: Price, context: str) -> Price:
    """The price for a sum over calls: the tokens of a thousand calls are no long context. Which tier they are billed at the report may
    say (Anthropic's does); where it does not and there is one, the bill is an estimate at the lowest."""
    if not any(rate.tiers for rate in price.rates.values()):
        return price
    long = "1M" in context or context.startswith(">")
    known = long or bool(context)
    rates = {unit: Rate(rate.tiers[-1][1] if long and rate.tiers else rate.base) for unit, rate in price.rates.items()}
    return replace(price, rates=rates, estimated=price.estimated or not known)


def _stated(pico: int, price_id: str, status: str) -> Priced:
    """An amount that somebody else worked out, as one leg: the row still recomputes."""
    return Priced(status, pico, (Leg("stated", 1, pico * 1000, pico),) if pico else (), price_id, (0, 0, 0, 0, pico))


def source_id(form: str, id: str) -> str:
    """A row's id from its source's: readable where it can be, hashed where it is long or strange."""
    if len(id) <= ID_MAX and id.isprintable():
        return f"{form}:{id}"
    return f"{form}:{blake2b(id.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


@lru_cache(maxsize=4096)
def _json(pairs: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(pairs))


@lru_cache(maxsize=256)
def _words(by: str, names: tuple[str, ...]) -> str:
    return json.dumps(dict.fromkeys(names, by))
