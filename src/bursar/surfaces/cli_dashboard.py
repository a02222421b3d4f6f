"""`bursar dashboard`: the pages in a process of their own, and the accounts that may log in to them."""

from __future__ import annotations

import ipaddress
import secrets
import sys
from pathlib import Path

import click

from . import periods, settings, tables, wiring
from .cli_common import Common, common

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def folder_of(path: Path) -> Path:
    """Where accounts and log lie: beside the ledger's file."""
    return path.parent if path.suffix == ".db" else path


def _folder(common: Common) -> Path:
    """The ledger named here, else the one that `bursar dashboard` was given."""
    if common.ledger:
        return folder_of(Path(common.ledger))
    return click.get_current_context().find_object(Path) or folder_of(common.folder())


@click.group(invoke_without_command=True)
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on; others than loopback need accounts")
@click.option("--port", type=click.IntRange(0, 65535), default=8788, show_default=True, help="port to listen on")
@click.option("--name", "names", multiple=True, metavar="HOST", help="a name that browsers know it by; repeat for more")
@click.option("--tls-cert", metavar="FILE", help="certificate chain, PEM")
@click.option("--tls-key", metavar="FILE", help="its key, PEM")
@click.option("--behind-proxy", is_flag=True, help="a proxy on this machine encrypts, and says X-Forwarded-Proto")
@click.pass_context
@common("ledger")
def dashboard(
    common: Common, context: click.Context, config: str | None, host: str, port: int, names: tuple[str, ...],
    tls_cert: str | None, tls_key: str | None, behind_proxy: bool,
) -> None:  # fmt: skip
    """The pages: where the money goes, in a browser. Reads the ledger while the gateway writes."""
    folder = common.folder(config)
    context.obj = folder_of(folder)
    if context.invoked_subcommand is not None:
        return
    import uvicorn

    from .web.accounts import Accounts
    from .web.app import make
    from .web.shelf import Shelf

    known = Accounts(folder_of(folder)).all()
    if host not in LOOPBACK:
        if not known:
            raise click.UsageError(
                f"--host {host} can be reached by others, and there are no accounts; make one: bursar dashboard accounts add NAME"
            )
        if not (tls_cert and tls_key) and not behind_proxy:
            raise click.UsageError(
                f"--host {host}: passwords would cross the network in the clear; give --tls-cert and --tls-key, or --behind-proxy"
            )
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    asked = [*names, *([host] if host not in LOOPBACK and not _any(host) else [])]
    if host not in LOOPBACK and not asked:
        raise click.UsageError(f"--host {host} is every address; say by which name browsers know it: --name bursar.example.com")
    shelf = Shelf(folder, settings.find(config))
    scheme = "https" if tls_cert else "http"
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"{scheme}://{shown}:{port}/  (Ctrl-C ends it)")
    if not known:
        click.echo("without accounts: only on this machine, and only to look; bursar dashboard accounts add NAME", err=True)
    uvicorn.run(
        make(shelf, asked), host=host, port=port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=2, ssl_certfile=tls_cert, ssl_keyfile=tls_key, proxy_headers=behind_proxy,
        limit_concurrency=200, h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip


def _any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@dashboard.group()
def accounts() -> None:
    """Who may log in: add, list, remove."""


@accounts.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator"]), default="viewer", show_default=True, help="an operator acts too")
@click.option("--label", "labels", multiple=True, metavar="LABEL=VALUE", help="it sees only rows with that label; repeat to narrow")
@click.option("--password-stdin", is_flag=True, help="the password is the first line of standard input (default: one is made)")
@common("as_json", "ledger")
def add(common: Common, name: str, role: str, labels: tuple[str, ...], password_stdin: bool) -> None:
    """Makes an account. Its password is shown once, or read from standard input."""
    from .web.accounts import Accounts

    bound: dict[str, str] = {}
    for text in labels:
        label, equals, value = text.partition("=")
        if not equals or label in bound:
            raise click.UsageError(f"--label {text}: write each label once, as label=value")
        bound[label.strip()] = value
    password = sys.stdin.readline().rstrip("\n") if password_stdin else secrets.token_urlsafe(18)
    Accounts(_folder(common)).add(name, role, bound, password, periods.iso(wiring.now_us() // 1_000_000 * 1_000_000))
    only = f", sees only {', '.join(f'{k}={v}' for k, v in bound.items())}" if bound else ""
    if common.json:
        tables.document([{"name": name, "role": role, "labels": bound, "password": None if password_stdin else password}])
        return
    click.echo(f"{name}: {role}{only}")
    if not password_stdin:
        click.echo(f"password (shown once): {password}")


@accounts.command("list")
@common("as_json", "ledger")
def list_(common: Common) -> None:
    """The accounts there are."""
    from .web.accounts import Accounts

    found = Accounts(_folder(common)).all().values()
    if common.json:
        tables.document([{"name": a.name, "role": a.role, "labels": a.labels, "created": a.created} for a in found])
        return
    if not found:
        click.echo("no accounts: the dashboard is read-only on loopback")
        return
    columns = [tables.Column("account"), tables.Column("role"), tables.Column("sees"), tables.Column("made", keep=True)]
    rows = [
        [a.name, a.role, ", ".join(f"{tables.safe(k)}={tables.safe(v)}" for k, v in a.labels.items()) or "everything", a.created[:10]]
        for a in found
    ]
    tables.console().print(tables.table(columns, rows))


@accounts.command()
@click.argument("name")
@common("as_json", "ledger")
def remove(common: Common, name: str) -> None:
    """Removes an account; whoever is logged in with it is out."""
    from .web.accounts import Accounts

    Accounts(_folder(common)).remove(name)
    if common.json:
        tables.document([{"name": name}])
    else:
        click.echo(f"{name} is removed")


@dashboard.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="at most so many lines")
@common("as_json", "ledger")
def log(common: Common, limit: int) -> None:
    """Who logged in and what was done through the pages, newest last."""
    from .web.accounts import Log

    found = Log(_folder(common)).last(limit)
    if common.json:
        tables.document(found)
        return
    for one in found:
        given = " ".join(f"{k}={v}" for k, v in dict(one.get("with") or {}).items())
        click.echo(tables.safe(f"{one['at'][:19]}  {one['by'] or '-'}  {one['did']}  {given}  {one['result']}"))
    if not found:
        click.echo("nobody logged in yet")
