"""The `bursar` command: which commands there are, and how their faults end. Bodies are imported when called."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click


class Place(NamedTuple):
    """Where a command's body is, and its line in the help."""

    module: str
    name: str
    help: str


COMMANDS: dict[str, Place] = {
    "serve": Place("cli_serve", "serve", "The gateway: point an SDK's base URL at it."),
    "run": Place("cli_serve", "run", "A command with a loopback gateway under it."),
    "dashboard": Place("cli_dashboard", "dashboard", "The pages: where the money goes, in a browser."),
    "demo": Place("cli_serve", "demo", "A simulated company's traffic, and where its money went."),
    "spend": Place("cli_spend", "spend", "What cost us that: by feature, tenant, operation, cause or any label."),
    "calls": Place("cli_calls", "calls", "The tries themselves, newest first."),
    "conversations": Place("cli_conversations", "conversations", "How long conversations are, and what a turn costs."),
    "conversation": Place("cli_conversations", "conversation", "One conversation, call by call."),
    "import": Place("cli_import", "import_", "Other tools' records: traces, spend logs, transcripts, usage reports."),
    "export": Place("cli_export", "export", "The ledger's rows for other tools: JSONL, CSV, Parquet, FOCUS, OTLP."),
    "why": Place("cli_why", "why", "Why the bill changed: what, and where, adding up to the cent."),
    "forecast": Place("cli_forecast", "forecast", "What the month will cost, and which budgets it passes."),
    "audit": Place("cli_audit", "audit", "The six questions: verdicts, dollars a month, what to do next."),
    "label": Place("cli_label", "label", "Names past rows; totals stay as they were."),
    "mark": Place("cli_why", "mark", "Puts an event on the time line, to read changes beside."),
    "alarms": Place("cli_alarms", "alarms", "What fires and what fired; test, ack, silence, judge, replay."),
    "watch": Place("cli_alarms", "watch", "The clockwork beside an embedded ledger: alarms, compaction, expiry."),
    "reconcile": Place("cli_reconcile", "command", "The provider's bill against the ledger, the gap explained."),
    "guard": Place("cli_guard", "guard", "Budgets, incidents, and orders: stop, resume, raise, take, end."),
    "drill": Place("cli_drill", "drill", "A fire drill: proves that guards trip, at no cost."),
    "check": Place("cli_check", "check", "Proves that the ledger adds up and the policy can be used."),
    "doctor": Place("cli_doctor", "doctor", "Set-up problems and what to do about each."),
    "keys": Place("cli_keys", "keys", "Virtual keys: create, list, revoke."),
    "savings": Place("cli_savings", "savings", "What the controls saved, net of what they took themselves."),
    "replay": Place("cli_replay", "replay", "Policies on recorded calls: what they save, whom they stop."),
    "route": Place("cli_route", "route", "Tiers: train and test a feature's router on its graded traffic."),
    "prices": Place("cli_prices", "prices", "The price book: look up, compare, update."),
}


class Desk(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        found = getattr(importlib.import_module(f".{place.module}", __package__), place.name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """What is wrong with a policy, a ledger or a key is one message and exit code 2, never a traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except _operator_errors() as bad:
            told = click.ClickException(str(bad))
            told.exit_code = 2
            raise told from None


def _operator_errors() -> tuple[type[Exception], ...]:
    from .cli_common import operator_errors

    return operator_errors()


def _version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        import importlib.metadata  # 30 ms that only this needs

        click.echo(f"bursar {importlib.metadata.version('bursar')}")
        context.exit()


@click.command("bursar", cls=Desk, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Keeps the books for AI agents: every model call labelled, held against its budgets, priced, and in a ledger."""
