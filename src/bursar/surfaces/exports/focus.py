"""FOCUS: FinOps' open table of cost and usage. One line per hour or day, price, and set of labels; columns of 1.2, the providers
of 1.3, and ours behind them with x_ in front. What each column holds is in docs/reference/exports.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import IO, Any

import msgspec

from ...stores.query import compile_filter, table
from ...stores.reader import Reader
from ..cli_common import EXACT
from .rows import CHUNK, Asked, Written
from .sheet import safe

MILLION = 10**6
FEMTO = 10**15
PICO = 10**12

# bucket or unit -> (the meter's name, the unit it is consumed in, how many of them the price is for)
METERS: dict[str, tuple[str, str, int]] = {
    "input": ("Input Tokens", "Tokens", MILLION),
    "cache_read": ("Cache Read Tokens", "Tokens", MILLION),
    "cache_write": ("Cache Write Tokens", "Tokens", MILLION),
    "cache_write_1h": ("Cache Write Tokens 1 Hour", "Tokens", MILLION),
    "output": ("Output Tokens", "Tokens", MILLION),
    "reasoning": ("Reasoning Tokens", "Tokens", MILLION),
    "input_audio": ("Audio Input Tokens", "Tokens", MILLION),
    "cache_read_audio": ("Audio Cache Read Tokens", "Tokens", MILLION),
    "output_audio": ("Audio Output Tokens", "Tokens", MILLION),
    "input_image": ("Image Input Tokens", "Tokens", MILLION),
    "output_image": ("Image Output Tokens", "Tokens", MILLION),
    "web_search": ("Web Searches", "Requests", 1),
    "request": ("Requests", "Requests", 1),
    # No price by unit stands behind these: an amount that a source stated, or what was held for a call nobody answered.
    "stated": ("Stated Cost", "Requests", 1),
    "hold": ("Held Cost", "Requests", 1),
}
UNITLESS = ("stated", "hold")
NAMES = {"openai": "OpenAI", "anthropic": "Anthropic", "gemini": "Google", "vertex": "Google", "azure": "Microsoft", "bedrock": "AWS",
         "openrouter": "OpenRouter", "groq": "Groq", "mistral": "Mistral AI", "deepseek": "DeepSeek", "xai": "xAI"}  # fmt: skip
SERVICES = {"openai": "OpenAI API", "anthropic": "Anthropic API", "gemini": "Gemini API", "vertex": "Vertex AI",
            "azure": "Azure OpenAI",
            "bedrock": "Amazon Bedrock"}  # fmt: skip

COLUMNS = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart", "CapacityReservationId", "CapacityReservationStatus", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory", "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity",
    "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost",
    "ListUnitPrice",
    "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName",
    "ResourceType",
    "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId",
    "SubAccountName", "SubAccountType", "Tags",
    # 1.3
    "HostProviderName", "ServiceProviderName",
    # ours
    "x_Cause", "x_Feature", "x_Flow", "x_Operation", "x_PriceId", "x_PriceStatus", "x_Source", "x_Tries", "x_VirtualKey",
)  # fmt: skip

KEYS = ("provider", "model_served", "service_tier", "tenant", "feature", "flow", "operation", "cause", "key", "price_status",
        "price_id",
        "source", "attempt_kind")  # fmt: skip
LEGS = """
WITH rows AS (
    SELECT {period} AS period, {keys}, {tags} AS tags, legs FROM {view} WHERE ({condition}) AND cost IS NOT NULL AND legs <> '[]'
), parts AS (
    SELECT * EXCLUDE (legs), unnest(CAST(legs AS JSON[])) AS leg FROM rows
), read AS (
    SELECT * EXCLUDE (leg), leg->>0 AS unit, CAST(leg->>1 AS HUGEINT) AS count, CAST(leg->>2 AS HUGEINT) AS femto,
           CAST(leg->>3 AS HUGEINT) AS pico
    FROM parts
)
SELECT period, {keys}, tags, unit, CASE WHEN unit IN ('stated', 'hold') THEN NULL ELSE femto END AS femto, sum(count), sum(pico),
       count(*)
FROM read GROUP BY ALL ORDER BY period, {keys}, tags, unit, femto"""


def write(reader: Reader, asked: Asked, out: IO[bytes]) -> Written:
    """The table as CSV. Rows that nobody can price have no cost, and FOCUS has no way to say so: they are left out, and told."""
    text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)
    sheet = csv.writer(text, lineterminator="\r\n")
    sheet.writerow(COLUMNS)
    count = cost = 0
    for line, pico in lines(reader, asked):
        sheet.writerow([line.get(column) for column in COLUMNS])
        count, cost = count + 1, cost + pico
    text.detach()
    condition = compile_filter(asked.query)
    unpriced = reader.duck.execute(
        f"SELECT count(*) FROM {table(asked.query.where)} WHERE ({condition.sql}) AND cost IS NULL", condition.values
    ).fetchall()[0][0]
    return Written(count, cost, unpriced, "nobody knows their price, and FOCUS has no unknown cost")


def lines(reader: Reader, asked: Asked) -> Iterator[tuple[dict[str, Any], int]]:
    """(a line by column, its pico-dollars)."""
    condition = compile_filter(asked.query)
    needed = dict.fromkeys(("ts", "labels", "legs", "cost", *KEYS, *condition.columns))
    reader.totals(needed, asked.query.since_us, asked.query.until_us)
    values: dict[str, Any] = dict(condition.values)
    tags = "CAST(to_json(labels) AS VARCHAR)"
    if asked.tags:
        picked = []
        for n, name in enumerate(asked.tags):
            values[f"t{n}"] = name
            picked.append(f"{{'k': $t{n}, 'v': coalesce(map_extract_value(labels, $t{n}), '')}}")
        tags = f"CAST(to_json(map_from_entries(list_filter([{', '.join(picked)}], lambda e: e.v <> ''))) AS VARCHAR)"
    period = f"strftime(date_trunc('{asked.grain}', ts AT TIME ZONE 'UTC'), '%Y-%m-%dT%H:%M:%SZ')"
    keys = ", ".join(f'"{key}"' for key in KEYS)
    sql = LEGS.format(period=period, keys=keys, tags=tags, view=table(asked.query.where), condition=condition.sql)
    found = reader.duck.execute(sql, values)
    done = 0
    while chunk := found.fetchmany(CHUNK):
        for row in chunk:
            yield _line(row, asked), int(row[-2])
        done += len(chunk)
        asked.step(done)


def _line(row: tuple[Any, ...], asked: Asked) -> dict[str, Any]:
    period, *keys, tags, unit, femto, count, pico, tries = row
    of = dict(zip(KEYS, keys, strict=True))
    provider, model = of["provider"] or "unknown", of["model_served"] or "unknown"
    name = NAMES.get(provider, provider)
    start = datetime.fromisoformat(period)
    month = start.replace(day=1, hour=0)
    meter, consumed, per = METERS.get(unit, (f"{unit.replace('_', ' ').title()}s", "Requests", 1))
    tier = of["service_tier"] if of["service_tier"] not in ("", "default", "auto", "standard_only") else "standard"
    dollars, quantity = _decimal(pico, PICO), count
    price = None if unit in UNITLESS or femto is None else _decimal(femto * per, FEMTO)
    priced = _decimal(quantity, per)
    correction = of["attempt_kind"] == "correction"
    labels = {k: of[k] for k in ("feature", "flow", "operation", "cause") if of[k]} | msgspec.json.decode(tags)
    details = {"x_TokenType": unit, "x_ServiceTier": tier, "ModelVersion": model}
    sku = None if price is None else f"{provider}/{model}/{unit}/{tier}"
    return {
        "BilledCost": dollars, "BillingAccountId": safe(asked.account or provider), "BillingAccountName": name,
        "BillingAccountType": "Organization",
        "BillingCurrency": "USD", "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time((month + timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage", "ChargeClass": "Correction" if correction else None,
        "ChargeDescription": safe(f"{model} {meter.lower()}"),
        "ChargeFrequency": "Usage-Based", "ChargePeriodStart": _time(start),
        "ChargePeriodEnd": _time(start + (timedelta(hours=1) if asked.grain == "hour" else timedelta(days=1))),
        "ConsumedQuantity": _decimal(quantity, 1), "ConsumedUnit": consumed, "ContractedCost": dollars, "ContractedUnitPrice": price,
        "EffectiveCost": dollars, "InvoiceIssuerName": safe(name), "ListCost": dollars,
        "ListUnitPrice": price, "PricingCategory": "Standard", "PricingCurrency": "USD", "PricingCurrencyContractedUnitPrice": price,
        "PricingCurrencyEffectiveCost": dollars, "PricingCurrencyListUnitPrice": price, "PricingQuantity": priced,
        "PricingUnit": f"{per} {consumed}" if per > 1 else consumed, "ProviderName": safe(name), "PublisherName": safe(name),
        "ServiceCategory": "AI and Machine Learning", "ServiceName": safe(SERVICES.get(provider, f"{name} API")),
        "ServiceSubcategory": "Generative AI", "SkuId": safe(f"{provider}/{model}"), "SkuMeter": meter,
        "SkuPriceDetails": msgspec.json.encode(details).decode() if sku else None, "SkuPriceId": safe(sku) if sku else None,
        "SubAccountId": safe(of["tenant"]) if of["tenant"] else None, "SubAccountName": safe(of["tenant"]) if of["tenant"] else None,
        "SubAccountType": "Tenant" if of["tenant"] else None, "Tags": msgspec.json.encode(labels).decode(),
        "HostProviderName": safe(name),
        "ServiceProviderName": safe(name), "x_Cause": safe(of["cause"]), "x_Feature": safe(of["feature"]), "x_Flow": safe(of["flow"]),
        "x_Operation": of["operation"], "x_PriceId": safe(of["price_id"]), "x_PriceStatus": of["price_status"],
        "x_Source": safe(of["source"]),
        "x_Tries": tries, "x_VirtualKey": safe(of["key"]),
    }  # fmt: skip


def _decimal(number: int, by: int) -> str:
    """number / by, a power of ten, as exact decimal text. Always with a point: a reader that guesses types must not take a column
    of amounts for one of whole numbers."""
    text = f"{Decimal(int(number)).scaleb(-(len(str(by)) - 1), EXACT):f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
