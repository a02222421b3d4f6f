"""Providers' bills and usage reports as files: OpenAI and Anthropic (admin API pages, CSV exports), FOCUS, any CSV. Reading only."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..rules.reconcile import Bill, Usage

BYTES_MAX = 512 << 20
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PROVIDERS = {
    "amazon web services, inc.": "bedrock", "amazon web services": "bedrock", "aws": "bedrock", "microsoft": "azure",
    "microsoft azure": "azure", "google": "gemini", "google cloud": "vertex",
}  # fmt: skip
STANDARD = frozenset(("", "default", "standard", "auto", "on_demand", "none", "null"))
NOTHING = frozenset(("", "null", "none", "nan", "-"))

# What a generic CSV may call its columns, in lower case with everything but letters and digits as one space.
COLUMNS = {
    "since": ("date", "day", "start", "start time", "start date", "usage date", "charge period start", "timestamp", "time"),
    "until": ("end", "end time", "end date", "charge period end"),
    "amount": (
        "cost",
        "amount",
        "amount value",
        "billed cost",
        "total",
        "total cost",
        "spend",
        "charge",
        "price",
        "cost usd",
        "usd",
        "amount usd",
    ),
    "currency": ("currency", "amount currency", "billing currency"),
    "model": ("model", "model name", "sku", "resource"),
    "unit": ("token type", "class", "type", "meter", "line item", "description", "usage type"),
    "tokens": ("tokens", "quantity", "usage quantity", "consumed quantity"),
    "project": ("project", "project id", "workspace", "workspace id", "account", "sub account id"),
    "provider": ("provider", "provider name", "service", "vendor"),
    "tier": ("tier", "service tier"),
}


class BadBill(ValueError):
    """A file that cannot be read as a bill. The message has file, line and what would be right."""

    code = "bad_bill"


class File(NamedTuple):
    """What a file had. `left_out`: rows of other services, and what they came to (in pico of their currencies)."""

    name: str
    format: str
    bills: list[Bill]
    usages: list[Usage]
    left_out: tuple[int, int] = (0, 0)


class Wanted(NamedTuple):
    """What the operator says of files that do not say it: provider, the zone of plain dates (None: unknown), column names."""

    provider: str = ""
    zone: tzinfo | None = None
    columns: Mapping[str, str] = {}


PLAIN = Wanted()
CENT = 10**10


def read(path: Path, wanted: Wanted = PLAIN) -> File:
    """A bill or usage report, whatever its format. BadBill says what was expected."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise BadBill(f"{path}: more than {BYTES_MAX >> 20} MiB; give it month by month")
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError) as bad:
        raise BadBill(f"{path}: cannot be read: {bad}") from None
    start = text.lstrip()[:1]
    if not start:
        raise BadBill(f"{path}: empty")
    try:
        found = _json(path, text) if start in "{[" else _csv(path, text, wanted)
    except csv.Error as bad:
        raise BadBill(f"{path}: not CSV: {bad}") from None
    # How finely a file counts is what its finest line shows; no line of money is rounded to more than a cent.
    grain = min([CENT, *[one.grain for one in found.bills if one.amount]])
    return found._replace(bills=[one._replace(grain=grain) for one in found.bills])


# -- parts of a line -------------------------------------------------------------------------------------------------------


def unit_of(text: str) -> str:
    """The token class that a meter, line item or token type names; empty when it names none."""
    text = re.sub(r"[^a-z0-9]+", " ", text.lower())
    if re.search(r"\bcache\b.*\b(creation|write)\b|\bephemeral\b|\bcache writes?\b", text):
        return "cache_write"
    if re.search(r"\buncached\b", text):
        return "input"
    if re.search(r"\bcached?\b|\bcache (read|hits?)\b", text):
        return "cache_read"
    if re.search(r"\b(input|prompt)\b", text):
        return "input"
    if re.search(r"\b(output|completions?|generated|reasoning)\b", text):
        return "output"
    return "other" if re.search(r"\b(search|session|sessions|storage|code execution|image|images|request|requests)\b", text) else ""


def tier_of(text: object) -> str:
    word = str(text or "").strip().lower()
    return "" if word in STANDARD else word


def _provider(name: str, wanted: Wanted) -> str:
    name = name.strip().lower()
    return wanted.provider or PROVIDERS.get(name, name)


def _pico(value: Decimal) -> int:
    """To the nearest pico: providers send floats, whose seventeenth digit is nobody's money."""
    return int(value.scaleb(12).to_integral_value(ROUND_HALF_EVEN))


def _grain(value: Decimal) -> int:
    """The last printed digit, in pico; trailing zeros that a program wrote are none."""
    exponent = value.normalize().as_tuple().exponent
    return max(1, 10 ** (12 + min(0, int(exponent)))) if isinstance(exponent, int) else 1


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


class _Row:
    """One row with its place, for messages."""

    def __init__(self, path: Path, line: int, row: Mapping[str, Any]) -> None:
        self.path, self.line, self.row = path, line, row

    def bad(self, what: str) -> BadBill:
        return BadBill(f"{self.path}:{self.line}: {what}")

    def text(self, name: str) -> str:
        value = self.row.get(name)
        text = "" if value is None else str(value).strip()
        return "" if text.lower() in NOTHING else text

    def decimal(self, name: str) -> Decimal | None:
        text = self.text(name).replace(",", "").removeprefix("$").replace("_", "")
        if not text:
            return None
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise self.bad(f"{name} is {text!r}, which is no number") from None
        if not value.is_finite() or abs(value) >= 10**18:
            raise self.bad(f"{name} is {text!r}, which is no plausible number")
        return value

    def whole(self, name: str) -> int:
        value = self.decimal(name)
        if value is None:
            return 0
        if value != int(value):
            raise self.bad(f"{name} is {value}, not a whole number")
        return int(value)

    def moment(self, name: str, zone: tzinfo | None) -> tuple[datetime, bool] | None:
        """(the instant, whether the file left the zone open)."""
        text = self.text(name)
        if not text:
            return None
        try:
            if re.fullmatch(r"\d{9,11}(\.0+)?", text):
                return EPOCH + timedelta(seconds=int(float(text))), False
            made = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            raise self.bad(f"{name} is {text!r}, which is no date or time (2026-10-05, 2026-10-05T00:00:00Z, unix seconds)") from None
        if made.tzinfo is None:
            return made.replace(tzinfo=zone or UTC).astimezone(UTC), zone is None
        return made.astimezone(UTC), False


# -- JSON: pages of the admin APIs -----------------------------------------------------------------------------------------


def _json(path: Path, text: str) -> File:
    """One page, a list of pages, or a page a line. Numbers are decimals: a float would be a guess at what was sent."""
    try:
        try:
            pages: list[Any] = [json.loads(text, parse_float=Decimal)]
        except json.JSONDecodeError:
            pages = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as bad:
        raise BadBill(f"{path}:{bad.lineno}: not JSON: {bad.msg}") from None
    bills: list[Bill] = []
    usages: list[Usage] = []
    named: set[str] = set()
    empty: list[tuple[int, int, str]] = []
    for bucket in _buckets(pages):
        since, until, own = _bounds(path, bucket)
        results = cast("list[Mapping[str, Any]]", bucket["results"])
        for result in results:
            row = _Row(path, 1, result)
            if "uncached_input_tokens" in result:
                named.add("anthropic usage")
                usages.append(_anthropic_usage(row, since, until))
            elif own == "anthropic" and "amount" in result:
                named.add("anthropic cost")
                bills.append(_anthropic_cost(row, since, until))
            elif isinstance(result.get("amount"), dict):
                named.add("openai costs")
                amount = _Row(path, 1, cast("Mapping[str, Any]", result["amount"]))
                bills.append(_openai_cost(row, amount.decimal("value"), amount.text("currency"), since, until))
            elif "input_tokens" in result:
                named.add("openai usage")
                usages.append(_openai_usage(row, since, until))
            else:
                named.add("openai usage without tokens")
        if not results:
            empty.append((since, until, own))
    if not bills and not usages:
        raise BadBill(f"{path}: no cost and no token usage in it; a page of /organization/costs, /organization/usage/completions, "
                      "cost_report or usage_report/messages has a list `data` of buckets")  # fmt: skip
    # An empty bucket is a statement too: nothing was billed then, or used.
    if not usages:
        bills += [Bill(since, until, own, 0) for since, until, own in empty]
    elif not bills:
        usages += [Usage(since, until, own) for since, until, own in empty]
    return File(path.name, ", ".join(sorted(named)), bills, usages)


def _buckets(found: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(found, list):
        for one in cast("list[Any]", found):
            yield from _buckets(one)
    elif isinstance(found, dict):
        page = cast("dict[str, Any]", found)
        if isinstance(page.get("results"), list):
            yield page
        elif isinstance(page.get("data"), list):
            yield from _buckets(page["data"])


def _bounds(path: Path, bucket: Mapping[str, Any]) -> tuple[int, int, str]:
    row = _Row(path, 1, bucket)
    own = "anthropic" if "starting_at" in bucket else "openai"
    since = row.moment("starting_at" if own == "anthropic" else "start_time", UTC)
    until = row.moment("ending_at" if own == "anthropic" else "end_time", UTC)
    if since is None:
        raise row.bad("a bucket without a start")
    end = until[0] if until else since[0] + DAY
    if end <= since[0]:
        raise row.bad(f"a bucket that ends ({end}) before it starts ({since[0]})")
    return _us(since[0]), _us(end), own


def _openai_cost(row: _Row, amount: Decimal | None, currency: str, since: int, until: int) -> Bill:
    value = amount or Decimal(0)
    item = row.text("line_item")
    model, comma, meter = item.rpartition(", ")
    tokens = row.decimal("quantity") if "token" in row.text("quantity_unit").lower() else None
    tier = "batch" if "batch" in item.lower() else ""
    return Bill(
        since, until, "openai", _pico(value), model if comma else "", (unit_of(meter) or "other") if comma else "",
        row.text("project_id"), (currency or "usd").upper(), int(tokens) if tokens is not None else None, tier, _grain(value),
    )  # fmt: skip


def _openai_usage(row: _Row, since: int, until: int) -> Usage:
    cached, written = row.whole("input_cached_tokens"), row.whole("input_cache_write_tokens")
    fresh = row.whole("input_uncached_tokens") if row.text("input_uncached_tokens") else row.whole("input_tokens") - cached - written
    if fresh < 0:
        raise row.bad("more cached tokens than input tokens")
    tokens = (("input", fresh), ("cache_read", cached), ("cache_write", written), ("output", row.whole("output_tokens")))
    tier = "batch" if row.text("batch").lower() == "true" else tier_of(row.text("service_tier"))
    return Usage(since, until, "openai", row.text("model"), tuple(one for one in tokens if one[1]), row.text("project_id"), tier)


def _anthropic_cost(row: _Row, since: int, until: int) -> Bill:
    """Amounts are decimal strings in cents."""
    cents = row.decimal("amount") or Decimal(0)
    value = cents / 100
    kind = row.text("token_type") or row.text("cost_type") or row.text("description")
    unit = unit_of(kind) or ("other" if row.text("model") else "")
    return Bill(
        since, until, "anthropic", _pico(value), row.text("model"), unit, row.text("workspace_id"),
        (row.text("currency") or "usd").upper(), None, tier_of(row.text("service_tier")), max(1, _grain(cents) // 100),
    )  # fmt: skip


def _anthropic_usage(row: _Row, since: int, until: int) -> Usage:
    created = row.row.get("cache_creation")
    written = 0
    if isinstance(created, dict):
        inner = _Row(row.path, row.line, cast("Mapping[str, Any]", created))
        written = inner.whole("ephemeral_5m_input_tokens") + inner.whole("ephemeral_1h_input_tokens")
    tokens = (
        ("input", row.whole("uncached_input_tokens")), ("cache_read", row.whole("cache_read_input_tokens")),
        ("cache_write", written + row.whole("cache_creation_input_tokens")), ("output", row.whole("output_tokens")),
    )  # fmt: skip
    named = tuple(one for one in tokens if one[1])
    return Usage(since, until, "anthropic", row.text("model"), named, row.text("workspace_id"), tier_of(row.text("service_tier")))


# -- CSV -------------------------------------------------------------------------------------------------------------------


def _csv(path: Path, text: str, wanted: Wanted) -> File:
    try:
        dialect = csv.Sniffer().sniff(text[:20_000], ",;\t")
    except csv.Error:
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text), dialect=dialect)
    names = [name or "" for name in reader.fieldnames or ()]
    rows = (_Row(path, reader.line_num, {k or "": v for k, v in row.items()}) for row in reader)
    if {"amount_value", "amount_currency"} <= set(names):
        return _rows(path, "openai costs", rows, lambda row: _openai_cost_row(row))
    if {"input_tokens", "output_tokens"} <= set(names) and "start_time" in names:
        return _rows(path, "openai usage", rows, lambda row: _openai_usage_row(row))
    if {"BilledCost", "BillingCurrency", "ChargePeriodStart"} <= set(names):
        return _focus(path, rows, wanted)
    return _any(path, names, rows, wanted)


def _rows(path: Path, kind: str, rows: Iterator[_Row], make: Callable[[_Row], Bill | Usage]) -> File:
    made = [make(row) for row in rows]
    return File(path.name, kind, [one for one in made if isinstance(one, Bill)], [one for one in made if isinstance(one, Usage)])


def _openai_times(row: _Row) -> tuple[int, int]:
    since = row.moment("start_time", UTC)
    if since is None:
        raise row.bad("no start_time")
    until = row.moment("end_time", UTC)
    return _us(since[0]), _us(until[0] if until else since[0] + DAY)


def _openai_cost_row(row: _Row) -> Bill:
    return _openai_cost(row, row.decimal("amount_value"), row.text("amount_currency"), *_openai_times(row))


def _openai_usage_row(row: _Row) -> Usage:
    """A day without usage has empty fields, which says so; they are not zeros of some model."""
    since, until = _openai_times(row)
    if not row.text("model") and not row.text("input_tokens"):
        return Usage(since, until, "openai")
    return _openai_usage(row, since, until)


def _focus(path: Path, rows: Iterator[_Row], wanted: Wanted) -> File:
    """Rows of language models; times are UTC by the specification. Other services' rows are counted and left out."""
    bills: list[Bill] = []
    count = left_out = 0
    for row in rows:
        value = row.decimal("BilledCost") or Decimal(0)
        details = row.text("SkuPriceDetails")
        try:
            sku: dict[str, Any] = json.loads(details) if details.startswith("{") else {}
        except json.JSONDecodeError:
            sku = {}
        model = row.text("x_Model") or str(sku.get("x_Model") or sku.get("ModelVersion") or sku.get("ModelFamily") or "")
        meter = " ".join(
            (row.text("SkuMeter"), str(sku.get("x_TokenType") or ""), row.text("ChargeDescription"), row.text("SkuPriceId"))
        )
        tokens = "token" in (row.text("ConsumedUnit") + row.text("PricingUnit")).lower()
        if not (model or tokens or row.text("ServiceSubcategory") == "Generative AI"):
            count, left_out = count + 1, left_out + _pico(value)
            continue
        since, until = row.moment("ChargePeriodStart", UTC), row.moment("ChargePeriodEnd", UTC)
        if since is None or until is None or until[0] <= since[0]:
            raise row.bad("no charge period")
        model = model or row.text("SkuId")
        provider = row.text("ServiceProviderName") or row.text("ProviderName") or row.text("PublisherName")
        quantity = row.decimal("ConsumedQuantity") if tokens else None
        unit = (unit_of(meter) or "other") if model else ""
        bills.append(Bill(
            _us(since[0]), _us(until[0]), _provider(provider, wanted), _pico(value), model, unit, row.text("SubAccountId"),
            (row.text("BillingCurrency") or "USD").upper(), None if quantity is None else int(quantity),
            "batch" if "batch" in meter.lower() else "", _grain(value),
        ))  # fmt: skip
    if not bills:
        raise BadBill(f"{path}: FOCUS, but none of its {count:,} rows is of a language model (a model in SkuPriceDetails, or tokens)")
    return File(path.name, "focus", bills, [], (count, left_out))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _any(path: Path, names: Sequence[str], rows: Iterator[_Row], wanted: Wanted) -> File:
    """Any CSV with a date and an amount a line. Columns are found by their usual names, or named by the operator."""
    there = {_plain(name): name for name in names}
    found: dict[str, str] = {}
    for what, usual in COLUMNS.items():
        if what in wanted.columns:
            if wanted.columns[what] not in names:
                raise BadBill(f"{path}: no column {wanted.columns[what]!r}; there are {', '.join(names)}")
            found[what] = wanted.columns[what]
        else:
            match = next((there[name] for name in usual if name in there), None)
            if match is not None and match not in found.values():
                found[what] = match
    if "since" not in found or "amount" not in found:
        raise BadBill(f"{path}: no column for the {'date' if 'since' not in found else 'amount'} among {', '.join(names)}; "
                      "name them: --column since=HEADER --column amount=HEADER")  # fmt: skip
    bills: list[Bill] = []
    for row in rows:
        value = row.decimal(found["amount"])
        if value is None:
            continue
        begun = row.moment(found["since"], wanted.zone)
        if begun is None:
            raise row.bad(f"no {found['since']}")
        ended = row.moment(found["until"], wanted.zone) if "until" in found else None
        until = ended[0] if ended is not None and ended[0] > begun[0] else _next_day(begun[0], wanted.zone)

        def text(what: str, row: _Row = row) -> str:
            return row.text(found[what]) if what in found else ""

        model, meter = text("model"), text("unit")
        if not model and ", " in meter:
            model, _, meter = meter.rpartition(", ")
        tokens = row.decimal(found["tokens"]) if "tokens" in found else None
        bills.append(Bill(
            _us(begun[0]), _us(until), _provider(text("provider"), wanted), _pico(value), model, unit_of(meter) if model else "",
            text("project"), (text("currency") or "USD").upper(), int(tokens) if tokens is not None and unit_of(meter) else None,
            tier_of(text("tier")), _grain(value), begun[1],
        ))  # fmt: skip
    if not bills:
        raise BadBill(f"{path}: no line has an amount in column {found['amount']!r}")
    return File(path.name, "csv", bills, [])


def _next_day(moment: datetime, zone: tzinfo | None) -> datetime:
    """A day later by the clock on the wall, which twice a year is not 24 hours."""
    local = moment.astimezone(zone or UTC).replace(tzinfo=None) + DAY
    return local.replace(tzinfo=zone or UTC).astimezone(UTC)
