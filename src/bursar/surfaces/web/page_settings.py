"""Settings: the policy in force, the prices that rows were billed at, whose labels keys bind, and whether the ledger is well."""

from __future__ import annotations

from typing import Any

import msgspec

from ...domain.policy import Policy
from ...stores.query import Query
from ...stores.reader import Reader
from .. import keys, periods
from . import blocks
from .asks import Ask
from .blocks import Block, Cell, Column, Facts, Note, Page, Table
from .shelf import Shelf, dollars, newest_us

TOP = 60


def page(ask: Ask, reader: Reader, shelf: Shelf) -> Page:
    if ask.bound:
        return Page(
            "settings",
            "Settings",
            [
                Note(
                    "bound",
                    "Settings are of the whole ledger",
                    ["Your account is bounded by labels. Ask somebody whose account is not."],
                )
            ],
            timed=False,
        )
    policy, policy_hash = shelf.policy()
    made: list[Block] = [_health(ask, reader, shelf, policy_hash), *_policy(policy, shelf), _prices(reader), _keys(policy, shelf)]
    return Page("settings", "Settings", made, timed=False, main="prices")


def _health(ask: Ask, reader: Reader, shelf: Shelf, policy_hash: str) -> Facts:
    (tail,) = reader.sqlite.execute("SELECT count(*) FROM tail WHERE seq > (SELECT seq FROM handed)").fetchone() or (0,)
    held = reader.holds()
    dead = sum(not alive for _, alive in held)
    newest = newest_us(reader)
    rows = sum(segment.rows for segment in reader.segments) + tail
    size = sum(segment.bytes for segment in reader.segments)
    file = shelf.place.file.stat().st_size
    return Facts(
        "health",
        "Ledger",
        (
            ("folder", Cell(str(shelf.folder), str(shelf.folder))),
            ("rows", blocks.count(rows, note=f"{tail:,} not yet in a segment")),
            (
                "newest row",
                Cell(
                    "none" if newest is None else f"{ask.shown(newest)} ({ask.zone})", None if newest is None else periods.iso(newest)
                ),
            ),
            ("segments", blocks.count(len(reader.segments), note=f"{size / 2**20:,.1f} MB, and {file / 2**20:,.1f} MB in SQLite")),
            ("damaged segments", blocks.count(len(reader.skipped), tone="bad" if reader.skipped else "")),
            ("tries under way", blocks.count(len(held), note=f"{dead} of a process that is gone" if dead else "")),
            (
                "policy file",
                Cell(
                    str(shelf.config) if shelf.config else "none: defaults, nothing is stopped",
                    str(shelf.config or ""),
                    note=f"hash {policy_hash}",
                ),
            ),
        ),
    )


def _policy(policy: Policy, shelf: Shelf) -> list[Block]:
    """The file as it is understood, without anything secret."""
    raw: dict[str, Any] = msgspec.to_builtins(policy)
    default: dict[str, Any] = msgspec.to_builtins(Policy())
    for table in raw.get("providers", {}).values():
        if table.get("key") and not str(table["key"]).startswith("env:") and table["key"] != "client":
            table["key"] = "(set)"
    for one in raw.get("key", []):
        one["hash"] = "(set)"
    for one in raw.get("channels", {}).values():
        for name, value in one.items():
            if isinstance(value, str) and value and not value.startswith("env:") and name not in ("kind", "name"):
                one[name] = "(set)"
    said = {name: value for name, value in raw.items() if value != default.get(name)}
    if not said:
        return [
            Note(
                "policy",
                "Policy in force",
                [
                    "There is no policy file, or it says nothing: calls are recorded and watched, and nothing is stopped. "
                    "`bursar audit` says what to switch on first."
                ],
            )
        ]
    lines: list[str] = []
    for name, value in said.items():
        lines += _lines(name, value, default.get(name))
    return [Note("policy", "Policy in force", ["What it says beyond the defaults; secrets are not shown."], "\n".join(lines))]


def _lines(name: str, value: Any, default: Any) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [
            line
            for one in value
            for line in (f"[[{name}]]", *[f"{k} = {_toml(v)}" for k, v in one.items() if v not in ("", {}, [], 0, None)], "")
        ]
    if isinstance(value, dict):
        known = default if isinstance(default, dict) else {}
        plain = [f"{k} = {_toml(v)}" for k, v in value.items() if not isinstance(v, dict) and v != known.get(k, "")]
        inner = [
            line
            for k, v in value.items()
            if isinstance(v, dict) and v != known.get(k)
            for line in _lines(f"{name}.{k}", v, known.get(k))
        ]
        return [f"[{name}]", *plain, "", *inner] if plain else inner
    return [f"{name} = {_toml(value)}"]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v not in ("", {}, [])) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _prices(reader: Reader) -> Table:
    found = reader.query(Query(("cost", "tries", "last"), ("provider", "model_served", "price_status", "price_id"), (), top=TOP))
    rows = [
        [
            Cell(row["model_served"] or "(no model)", row["model_served"]),
            Cell(row["provider"], row["provider"]),
            Cell(row["price_status"], row["price_status"], tone="bad" if row["price_status"] == "unpriced" else ""),
            Cell(row["price_id"], row["price_id"]),
            blocks.count(row["tries"]),
            blocks.money(dollars(row["cost"])),
        ]
        for row in found
    ]
    heads = (
        Column("Model", "model"),
        Column("Provider", "provider"),
        Column("Priced", "price_status"),
        Column("Price used", "price_id"),
        Column("Tries", "tries", True),
        Column("Cost", "cost", True),
    )
    return Table(
        "prices",
        "Prices that rows were billed at",
        heads,
        rows,
        empty="No row yet.",
        note="Your own prices stand in [[price]] of the policy; `bursar prices MODEL` looks one up.",
    )


def _keys(policy: Policy, shelf: Shelf) -> Table:
    rows = [
        [
            Cell(k.name, k.name),
            blocks.label(k.tenant, nobody="any"),
            Cell(", ".join(f"{n}={v}" for n, v in k.labels.items()), dict(k.labels)),
            Cell(", ".join(k.models) or "all", list(k.models)),
            Cell("revoked" if k.revoked else "in force", k.revoked or None, tone="bad" if k.revoked else "good"),
            Cell(k.created[:10], k.created),
        ]
        for k in keys.listed(shelf.place.file.parent)
    ]
    rows += [
        [
            Cell(k.name, k.name),
            blocks.label(k.tenant, nobody="any"),
            Cell(", ".join(f"{n}={v}" for n, v in k.labels.items()), dict(k.labels)),
            Cell(", ".join(k.models) or "all", list(k.models)),
            Cell("in force", None, tone="good"),
            Cell("policy file", "policy"),
        ]
        for k in policy.key
    ]
    heads = (
        Column("Key", "name"),
        Column("Tenant", "tenant"),
        Column("Labels it binds", "labels"),
        Column("Models", "models"),
        Column("State", "revoked"),
        Column("Made", "created"),
    )
    return Table(
        "keys",
        "Virtual keys",
        heads,
        rows,
        empty="No virtual key: clients come with their provider's own. `bursar keys create` makes one that binds a tenant.",
    )
