"""`bursar serve`, `run` and `demo`: their options. What they do is in gateway, run and demo."""

from __future__ import annotations

from typing import Any

import click

from .cli_common import Common, common


@click.command()
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--host", help="address to listen on (default 127.0.0.1)")
@click.option("--port", type=click.IntRange(0, 65535), help="port to listen on (default 8787; 0: any free one)")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="processes on that port")
@common("ledger")
def serve(common: Common, config: str | None, host: str | None, port: int | None, workers: int) -> None:
    """The gateway: point an SDK's base URL at it. Runs until SIGTERM; SIGHUP reads the policy again."""
    from .gateway import UNUSABLE, CannotListen
    from .gateway import serve as gateway

    try:
        code = gateway(config, common.ledger, host, port, workers)
    except CannotListen as bad:
        told = click.ClickException(str(bad))
        told.exit_code = UNUSABLE
        raise told from None
    click.get_current_context().exit(code)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
@common("ledger")
def run(common: Common, config: str | None, command: tuple[str, ...]) -> None:
    """Runs COMMAND with a loopback gateway under it: base URLs set, its own keys forwarded. Exits as it does."""
    from .run import run as under

    click.get_current_context().exit(under(list(command), config=config, ledger=common.ledger))


@click.command()
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="other traffic of the same company")
@common("ledger")
def demo(common: Common, seed: int | None) -> None:
    """A simulated company's traffic through the real gateway, and where its money went. Needs no key and no network."""
    from .demo import run as play

    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    click.get_current_context().exit(play(common.ledger, **given))
