"""`bursar keys`: create (shown once), list (never a secret), revoke."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..domain.policy import Key
from . import keys as ring
from . import settings, wiring
from .cli_common import Common, common


def _place(given: Common) -> tuple[Path, Sequence[Key]]:
    """The ledger folder, and the keys that the policy declares beside those in it."""
    policy, _ = settings.load(settings.find())
    return given.folder(), policy.key


def _row(record: ring.Record) -> dict[str, object]:
    return {
        "name": record.name,
        "id": record.id,
        "tenant": record.tenant,
        "labels": record.labels,
        "models": record.models,
        "role": record.role,
        "created": record.created,
        "revoked": record.revoked or None,
        "declared_in": "ledger",
    }


@click.group()
def keys() -> None:
    """Virtual keys: shown to the gateway instead of a provider's key; each binds the labels it is charged to."""


@keys.command()
@click.argument("name")
@click.option("--tenant", default="", help="charge everything to this tenant, whatever the client says")
@click.option("--label", "labels", multiple=True, metavar="LABEL=VALUE", help="bind another label; repeat for more")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="only this model; repeat for more (default: all)")
@click.option("--role", type=click.Choice(["viewer", "operator"]), help="it may also ask the gateway's own API; an operator acts too")
@common("as_json", "ledger")
def create(
    common: Common, name: str, tenant: str, labels: tuple[str, ...], models: tuple[str, ...], role: str | None
) -> None:  # fmt: skip
    """Makes a key and shows it, once: only a hash is kept."""
    folder, declared = _place(common)
    bound: dict[str, str] = {}
    for text in labels:
        label, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not label=value", param_hint="--label")
        if label in bound:
            raise click.BadParameter(f"label {label!r} is given twice", param_hint="--label")
        bound[label] = value
    token, record = ring.create(
        folder, name, tenant=tenant, labels=bound, models=models, role=role or "", declared=declared, now_us=wiring.now_us()
    )
    if common.json:
        from . import tables

        tables.document([{**_row(record), "key": token, "hash": record.hash}])
        return
    click.echo(token)
    click.echo(
        f"This is the only time the key is shown. Use it as the SDK's api_key, or in the header x-bursar-key.\n"
        f'For a policy file instead: [[key]] name = "{record.name}", hash = "{record.hash}"',
        err=True,
    )


@keys.command("list")
@common("as_json", "ledger", "where")
def listed(common: Common) -> None:
    """Names, what they bind, since when; revoked ones too. Never a secret."""
    from . import tables

    folder, declared = _place(common)
    rows = [_row(r) for r in ring.listed(folder)]
    rows += [
        {
            "name": k.name,
            "id": k.hash.partition(":")[0],
            "tenant": k.tenant,
            "labels": k.labels,
            "models": k.models,
            "role": k.role,
            "created": None,
            "revoked": None,
            "declared_in": "policy",
        }
        for k in declared
    ]

    def bound(row: dict[str, object]) -> dict[str, object]:
        labels = row["labels"]
        assert isinstance(labels, dict)
        return {**labels, "tenant": row["tenant"], "name": row["name"]}

    rows = [r for r in rows if all(bound(r).get(label) == value for label, value in common.where)]
    if common.json:
        tables.document(rows)
        return
    out = tables.console()
    if not rows:
        tables.line(out, "No keys. On loopback the gateway needs none; make one with: bursar keys create NAME")
        return
    columns = [
        tables.Column("name"),
        tables.Column("id", keep=True),
        tables.Column("binds"),
        tables.Column("models"),
        tables.Column("role"),
        tables.Column("created", keep=True),
        tables.Column("state"),
    ]
    cells: list[list[str]] = []
    for row in rows:
        binds = {k: v for k, v in bound(row).items() if k != "name" and v}
        models = row["models"]
        assert isinstance(models, list)
        state = "in the policy" if row["declared_in"] == "policy" else "revoked" if row["revoked"] else "in force"
        cells.append(
            [
                tables.safe(row["name"]),
                tables.safe(row["id"]),
                ", ".join(tables.safe(f"{k}={v}") for k, v in binds.items()),
                ", ".join(tables.safe(m) for m in models) or "all",
                str(row["role"]),
                str(row["created"] or "")[:10],
                state,
            ]
        )
    out.print(tables.table(columns, cells))


@keys.command()
@click.argument("name")
@common("as_json", "ledger")
def revoke(common: Common, name: str) -> None:
    """Ends a key: every gateway on this ledger refuses it within a second."""
    folder, declared = _place(common)
    record = ring.revoke(folder, name, declared=declared, now_us=wiring.now_us())
    if common.json:
        from . import tables

        tables.document([_row(record)])
        return
    click.echo(f"{record.name} is revoked; gateways on this ledger refuse it within a second")
