"""`bursar` as tests run it: in their own process, so that a fault of ours is theirs."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import CliRunner, Result

from bursar.surfaces.cli import main

Run = Callable[..., Result]


def go(*words: object, code: int = 0) -> Result:
    """The command with these words; `code` is what it must end with."""
    ran = CliRunner().invoke(main, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == code, ran.output
    return ran
