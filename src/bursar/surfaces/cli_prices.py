"""`bursar prices`: the price book looked up, compared with another list, and compiled anew."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec

from ..domain.money import femto_per_unit, plain
from ..domain.policy import PriceOverride
from ..domain.price import Price
from ..domain.usage import TOKEN_BUCKETS
from ..stores.price_override import MILLION, compile_override
from ..stores.pricebook import BrokenBook, PriceBook
from . import keys, price_sync, settings, tables, wiring
from .cli_common import Common, common

ROWS_MAX = 5_000
FILE_MAX = 64 * 1024 * 1024  # bytes; LiteLLM's whole map is under two megabytes
LEAP = 10  # times: a price that moves further than this is more often a misplaced point than a new price

# LiteLLM's keys (dollars a token, or a call) -> our units.
LITELLM = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "input_cost_per_request": "request",
}
LITELLM_PROVIDERS = {"vertex_ai": "vertex", "bedrock_converse": "bedrock", "azure_ai": "azure", "together_ai": "together"}


def rows(book: PriceBook, model: str | None, now_us: int, provider: str = "") -> list[dict[str, Any]]:
    """What models cost now: those whose name has `model` in it, else what that name is understood as, per provider. Token
    rates are decimal strings in dollars per million, other units dollars each; `price_status` as a row would have it."""
    found = [
        _row(cid, entry.id, book.price_of(cid, entry, now_us))
        for cid, entry in book.models(provider)
        if model is None or model.lower() in entry.id.lower()
    ]
    if not found and model is not None:
        for cid in [provider] if provider else book.providers():
            price = book.find(cid, model, now_us)
            if price is not None and not price.estimated:
                found.append(_row(cid, model, price))
    return sorted(found, key=lambda row: (row["provider"], row["model"]))[:ROWS_MAX]


def _row(provider: str, model: str, price: Price | None) -> dict[str, Any]:
    if price is None:
        return {"provider": provider, "model": model, "price_status": "unpriced", "rates": {}, "tiers": {}, "price_id": ""}
    rates = {unit: shown(unit, rate.base) for unit, rate in price.rates.items()}
    tiers: dict[str, dict[str, str]] = {}
    for unit, rate in price.rates.items():
        for above, femto in rate.tiers:
            tiers.setdefault(str(above), {})[unit] = shown(unit, femto)
    status = "free" if price.free else "estimated" if price.estimated else "priced"
    return {
        "provider": provider,
        "model": model,
        "price_status": status,
        "rates": rates,
        "tiers": tiers,
        "context_window": price.context_window or None,
        "price_id": price.id,
    }


def shown(unit: str, femto: int) -> str:
    """A rate as people quote it: dollars per million tokens, else dollars each. Exact."""
    per = MILLION if unit in TOKEN_BUCKETS or unit.endswith(("_image", "_video", "_citation", "_character")) else 1
    whole, rest = divmod(femto * per, 1000)
    return plain(whole) if not rest else f"{Decimal(femto * per).scaleb(-15):f}"


def diff(book: PriceBook, path: Path, now_us: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(rows, counts): each model and unit where a LiteLLM-format JSON, or a TOML file of `[[price]]`, has another price than
    the book, and each model that the book does not price. UsageError where the file is neither."""
    found: list[dict[str, Any]] = []
    counts = {"models": 0, "agree": 0, "differ": 0, "not_in_book": 0}
    for provider, model, theirs in _listed(path):
        counts["models"] += 1
        price = book.find(provider, model, now_us)
        if price is None or price.estimated:
            counts["not_in_book"] += 1
            found.append({"provider": provider, "model": model, "unit": "", "book": None, "file": None, "is": "not_in_book"})
            continue
        unlike = []
        for unit, femto in theirs.items():
            ours = price.rates.get(unit)
            if ours is None or ours.base != femto:
                unlike.append(
                    {
                        "provider": provider,
                        "model": model,
                        "unit": unit,
                        "book": None if ours is None else shown(unit, ours.base),
                        "file": shown(unit, femto),
                        "is": "differs",
                    }
                )
        counts["differ" if unlike else "agree"] += 1
        found += unlike
    return found, counts


def _listed(path: Path) -> Iterator[tuple[str, str, dict[str, int]]]:
    try:
        if path.stat().st_size > FILE_MAX:
            raise click.UsageError(f"{path} has over {FILE_MAX // MILLION} MB; a price list has one or two")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise click.UsageError(f"{path}: cannot be read: {bad}") from bad
    if path.suffix == ".toml":
        yield from _own(path, text)
        return
    try:
        listed = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as bad:
        raise click.UsageError(f"{path}: neither TOML by its name nor JSON: {bad}") from bad
    if not isinstance(listed, dict):
        raise click.UsageError(f"{path}: not a LiteLLM price map: a JSON object of model -> prices")
    for name, prices in listed.items():
        if name == "sample_spec" or not isinstance(prices, dict):
            continue
        provider = str(prices.get("litellm_provider", ""))
        provider = next((ours for theirs, ours in LITELLM_PROVIDERS.items() if provider.startswith(theirs)), provider)
        rates = {
            unit: femto_per_unit(Decimal(prices[key]), 1)
            for key, unit in LITELLM.items()
            if isinstance(prices.get(key), int | Decimal) and not isinstance(prices[key], bool)
        }
        if rates:
            yield provider, name.removeprefix(f"{prices.get('litellm_provider')}/"), rates


def _own(path: Path, text: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    try:
        lines = msgspec.convert(tomllib.loads(text).get("price", []), list[PriceOverride])
        overrides = [compile_override(line, number) for number, line in enumerate(lines)]
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as bad:
        raise click.UsageError(f"{path}: {bad}") from bad
    for line, override in zip(lines, overrides, strict=True):
        if "*" not in line.model and override.rates:
            yield line.provider, line.model, {unit: rate.base for unit, rate in override.rates.items()}


def leaps(old: PriceBook, new: PriceBook, now_us: int) -> list[dict[str, Any]]:
    """Rates of models in both books that move more than tenfold, or to or from zero."""
    found: list[dict[str, Any]] = []
    known = {(cid, entry.id): entry for cid, entry in old.models()}
    for cid, entry in new.models():
        if (cid, entry.id) not in known:
            continue
        before, after = old.price_of(cid, known[cid, entry.id], now_us), new.price_of(cid, entry, now_us)
        if before is None or after is None:
            continue
        for unit in before.rates.keys() & after.rates.keys():
            a, b = before.rates[unit].base, after.rates[unit].base
            if a != b and (not a or not b or max(a, b) > LEAP * min(a, b)):
                found.append({"provider": cid, "model": entry.id, "unit": unit, "old": shown(unit, a), "new": shown(unit, b)})
    return sorted(found, key=lambda row: (row["provider"], row["model"], row["unit"]))


def update(folder: Path, now_us: int, accept: bool = False) -> tuple[Path, list[dict[str, Any]], bool]:
    """(path, leaps, done): compiles the installed genai-prices anew. Where prices leap against the newest book in the folder,
    the old one stays unless `accept`. SyncFailed says why there is no new one."""
    path = price_sync.book_path(folder)
    fresh = price_sync.sync(path.with_suffix(".new"))
    new = PriceBook.load(fresh)
    found: list[dict[str, Any]] = []
    for old in sorted(folder.glob("prices-*.bin"), key=lambda p: p.stat().st_mtime_ns, reverse=True)[:1]:
        try:
            found = leaps(PriceBook.load(old), new, now_us)
        except BrokenBook:
            pass  # a damaged book is what `update` is there to replace
    if found and not accept:
        fresh.unlink()
        return path, found, False
    os.replace(fresh, path)
    return path, found, True


def _book(common: Common) -> PriceBook:
    policy, _ = settings.load(settings.find(None))
    folder = keys.home(common.folder())
    try:
        return PriceBook.load(price_sync.ensure_book(folder), policy.price)
    except (BrokenBook, price_sync.SyncFailed) as bad:
        raise click.ClickException(str(bad)) from bad
    except ValueError as bad:
        raise click.UsageError(str(bad)) from bad


class Named(click.Group):
    """A group whose default command takes a model: `bursar prices gpt-5` is `bursar prices show gpt-5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Named)
def prices() -> None:
    """The price book: `bursar prices [MODEL]`, `prices diff FILE`, `prices update`."""


@prices.command("show")
@click.argument("model", required=False)
@click.option("--provider", default="", help="only this provider's")
@common("as_json", "ledger")
def show_prices(common: Common, model: str | None, provider: str) -> None:
    """What models cost now, your own prices included. Dollars per million tokens; fees in dollars each."""
    book = _book(common)
    found = rows(book, model, wiring.now_us(), provider)
    if common.json:
        tables.document(found, source=book.source)
    else:
        out = tables.console()
        columns = [tables.Column("provider"), tables.Column("model"), *map(tables.number, ("in", "cached", "write", "out"))]
        cells = [
            [
                tables.safe(row["provider"]),
                tables.safe(row["model"]) + {"estimated": " ~", "unpriced": " ?"}.get(row["price_status"], ""),
                *(row["rates"].get(unit, "") for unit in ("input", "cache_read", "cache_write", "output")),
            ]
            for row in found
        ]
        out.print(tables.table([*columns, tables.Column("and")], [[*c, _rest(r)] for c, r in zip(cells, found, strict=True)]))
        tables.line(out, f"{len(found)} of {book.source}; dollars per million tokens, fees each; ? is unpriced", "dim")
    if not found:
        named = f" {model!r}" if model else ""
        raise click.ClickException(f'no price for{named}: add [[price]] to the policy with its rates, or free ones of "0"')


def _rest(row: dict[str, Any]) -> str:
    main = ("input", "cache_read", "cache_write", "output")
    parts = [f"{unit} {rate}" for unit, rate in row["rates"].items() if unit not in main]
    parts += [f"above {above}: in {tier.get('input', '')} out {tier.get('output', '')}" for above, tier in row["tiers"].items()]
    return ", ".join(parts)


@prices.command("diff")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@common("as_json", "ledger")
def diff_prices(common: Common, file: Path) -> None:
    """Another price list against the book: LiteLLM's JSON format, or TOML with [[price]]. Exit code 1 where they differ."""
    found, counts = diff(_book(common), file, wiring.now_us())
    if common.json:
        tables.document(found, counts=counts)
    else:
        out = tables.console()
        columns = [tables.Column(name) for name in ("provider", "model", "unit")]
        cells = [
            [tables.safe(r["provider"]), tables.safe(r["model"]), r["unit"], r["book"] or "none", r["file"] or ""]
            for r in found
            if r["is"] == "differs"
        ]
        out.print(tables.table([*columns, tables.number("book"), tables.number("file")], cells))
        tables.line(
            out,
            f"{counts['models']} models in the file: {counts['agree']} agree, {counts['differ']} differ, "
            f"{counts['not_in_book']} are not in the book (listed with --json)",
        )
    if counts["differ"]:
        click.get_current_context().exit(1)


@prices.command("update")
@click.option("--accept", is_flag=True, help=f"also take prices that move more than {LEAP} times, or to or from zero")
@common("as_json", "ledger")
def update_prices(common: Common, accept: bool) -> None:
    """Compiles the book of the installed genai-prices again (upgrade that package first). No row changes its price."""
    folder = keys.home(common.folder())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path, found, done = update(folder, wiring.now_us(), accept)
    except price_sync.SyncFailed as bad:
        raise click.ClickException(str(bad)) from bad
    if common.json:
        tables.document(found, path=str(path), updated=done)
    else:
        out = tables.console()
        for row in found:
            tables.line(out, f"{row['provider']}/{tables.safe(row['model'])} {row['unit']}: {row['old']} -> {row['new']}")
        tables.line(out, f"compiled {path}" if done else f"not taken: {len(found)} prices leap; look at them, then --accept")
    if not done:
        click.get_current_context().exit(1)
