"""What every command shares: the common options, the ledger and policy they name, and how a fault is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, Inexact
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ..stores.fault import LedgerFault
from ..stores.pricebook import BrokenBook
from ..stores.schema import INT_COLUMNS, Place
from . import periods, price_sync, settings, wiring
from .keys import KeyFault
from .statement import DoesNotFoot

if TYPE_CHECKING:
    from ..stores.query import Filter  # brings the SQL builder, half a second, which `keys` and `serve` have no use for
    from ..stores.reader import Reader

Command = TypeVar("Command", bound=Callable[..., Any])
FILTERS_MAX = 32
EXACT = Context(prec=60, traps=[Inexact])  # sums have 38 digits, and none of them may be lost


class Common(NamedTuple):
    """The common options as given."""

    json: bool = False
    ledger: str | None = None
    since: str | None = None
    until: str | None = None
    where: tuple[tuple[str, str], ...] = ()

    def period(self) -> periods.Period:
        """What --since and --until mean now. A usage error says what was expected."""
        return self.period_at(wiring.now_us())

    def period_at(self, now_us: int) -> periods.Period:
        try:
            return periods.period(self.since, self.until, now_us)
        except ValueError as bad:
            raise click.UsageError(str(bad)) from None

    def folder(self, config: str | None = None) -> Path:
        """The ledger in force. BadPolicy when the policy that names it cannot be read."""
        if self.ledger:
            return Path(self.ledger)
        policy, _ = settings.load(settings.find(config))
        return wiring.ledger_folder(policy)

    def existing(self, config: str | None = None) -> Path:
        """The ledger in force, which must be there: a command that reads must not make an empty one."""
        folder = self.folder(config)
        if not Place.at(folder).file.exists():
            raise click.UsageError(
                f"no ledger at {folder}; make calls through `bursar serve` or bursar.wrap, "
                "try `bursar demo`, or name one: --ledger PATH"
            )
        return folder


def pairs(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Each `label=value`, or `label!=value`. A usage error for what is none, and for too many."""
    found: list[tuple[str, str]] = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().removesuffix("!"):
            raise click.BadParameter(f"{text!r} is not label=value")
        found.append((name.strip(), value))
    if len(found) > FILTERS_MAX:
        raise click.BadParameter(f"{len(found)} filters; at most {FILTERS_MAX}")
    return tuple(found)


OPTIONS: tuple[tuple[str, str], ...] = (
    ("as_json", "--json"),
    ("ledger", "--ledger"),
    ("since", "--since"),
    ("until", "--until"),
    ("where", "--where"),
)


def common(*used: str) -> Callable[[Command], Command]:
    """The common options for a command that heeds `used` of them; the others are taken, and said to do nothing here."""

    def decorate(command: Command) -> Command:
        def run(
            *args: Any,
            as_json: bool,
            ledger: str | None,
            since: str | None,
            until: str | None,
            where: tuple[tuple[str, str], ...],
            **rest: Any,
        ) -> Any:
            given = {"as_json": as_json, "ledger": ledger, "since": since, "until": until, "where": where}
            idle = [flag for name, flag in OPTIONS if given[name] and name not in used]
            if idle:
                path = click.get_current_context().command_path
                click.echo(f"{path}: {', '.join(idle)} {'have' if len(idle) > 1 else 'has'} no effect here", err=True)
            return command(Common(as_json, ledger, since, until, where), *args, **rest)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        if hasattr(command, "__click_params__"):
            run.__click_params__ = command.__click_params__  # type: ignore[attr-defined]

        def option(name: str, flag: str, text: str, **more: Any) -> Callable[[Command], Command]:
            return click.option(flag, name, help=text, hidden=name not in used, **more)

        for add in (
            option("where", "--where", "only rows with that label or column (!= without); repeat to narrow", metavar="LABEL=VALUE",
                   multiple=True, callback=lambda _context, _option, given: pairs(given)),
            option("until", "--until", "before then, exclusive; same forms", metavar="TIME"),
            option("since", "--since", "from then on: 24h, 7d, 'last month', 2026-11-01", metavar="TIME"),
            option("ledger", "--ledger", "the ledger folder (default: the policy's)", metavar="PATH"),
            option("as_json", "--json", 'one document: {"rows": [...], ...}', is_flag=True),
        ):  # fmt: skip
            run = add(run)
        return run  # type: ignore[return-value]

    return decorate


def dimension(name: str) -> str:
    """A column of the ledger by its name, and any other word as a free label's."""
    from ..stores.query import DIMENSIONS, LABEL

    return name if name in DIMENSIONS or name.startswith(LABEL) else f"{LABEL}{name}"


def filters(where: Sequence[tuple[str, str]]) -> tuple[Filter, ...]:
    """What --where asks for; `name!=value` all others, also those that nobody named. A usage error where a column holds numbers
    and the value is none."""
    from ..stores.query import DIMENSIONS, Filter

    made: list[Filter] = []
    for name, value in where:
        negate = name.endswith("!")
        found = dimension(name.removesuffix("!"))
        if DIMENSIONS.get(found) in INT_COLUMNS:
            if not re.fullmatch(r"-?[0-9]{1,18}", value):
                raise click.UsageError(f"--where {name}={value!r}: that column holds whole numbers")
            made.append(Filter(found, (int(value),), negate))
        else:
            made.append(Filter(found, (value,), negate))
    return tuple(made)


def pico(dollars: Decimal) -> int:
    """Pico-dollars of an exact amount of dollars, as the reader gives it."""
    return int(dollars.scaleb(12, context=EXACT))


def operator_errors() -> tuple[type[Exception], ...]:
    """The errors that are messages to the operator rather than bugs of ours."""
    from .bills import BadBill
    from .web.accounts import AccountFault

    return (settings.BadPolicy, BadBill, AccountFault, LedgerFault, KeyFault, BrokenBook, price_sync.SyncFailed, DoesNotFoot)


def rows_are(reader: Reader) -> tuple[str, str, str]:
    """When a ledger's rows are of, for whoever asks about another time: a sentence, the last month, and the day after."""
    from ..stores.query import Query

    (found,) = reader.query(Query(("first", "last")))
    if found["first"] is None:
        return "", "", ""
    first, last, after = (periods.iso(us)[:10] for us in (found["first"], found["last"], found["last"] + 86_400_000_000))
    return f"The ledger has rows of {first} to {last}", last[:7], after
