"""`bursar dashboard`: the pages in a process of their own."""

from __future__ import annotations

import click

from . import settings
from .cli_common import Common, common


@click.command()
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=8788, show_default=True, help="port to listen on")
@common("ledger")
def dashboard(common: Common, config: str | None, host: str, port: int) -> None:
    """The pages: where the money goes, in a browser. Reads the ledger while the gateway writes."""
    import uvicorn

    from .web.app import make
    from .web.shelf import Shelf

    shelf = Shelf(common.folder(config), settings.find(config))
    click.echo(f"http://{host}:{port}/  (Ctrl-C ends it)")
    uvicorn.run(make(shelf), host=host, port=port, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2)
