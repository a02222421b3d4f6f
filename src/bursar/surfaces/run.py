"""`bursar run -- COMMAND`: a loopback gateway for as long as the command runs, its base URLs set, its own keys forwarded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from ..domain.money import show
from ..domain.policy import Policy, Provider
from . import settings, wiring
from .books import BASE_URLS
from .gateway import Counters, serve_in_thread

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as a shell says it


def run(command: Sequence[str], *, config: str | None = None, ledger: str | os.PathLike[str] | None = None) -> int:
    """Run `command` with its calls to providers through a gateway of its own; gives its exit code (128 + n when signal n
    ended it). Without a policy everything is recorded and nothing is blocked. BadPolicy and LedgerFault come out."""
    policy, _ = settings.load(settings.find(config))
    folder = wiring.ledger_folder(policy, ledger)
    gateway = serve_in_thread(ledger=folder, policy=forwarding(policy, os.environ))
    try:
        code = _wait(command, environment(gateway.url, os.environ))
    finally:
        gateway.stop()
    print(f"bursar: {summary(gateway.gateway.counters)} · ledger {folder}", file=sys.stderr)
    return code


def forwarding(policy: Policy, variables: Mapping[str, str]) -> Policy:
    """The policy with every key that it does not name left to the caller, and providers where the command's own base URLs
    had them."""
    tables = dict(policy.providers)
    for name in wiring.BUILT_IN:
        table = tables.get(name, Provider())
        if not table.key:
            table = msgspec.structs.replace(table, key="client")
        if not table.base_url:
            table = msgspec.structs.replace(table, base_url=_redirected(name, variables))
        tables[name] = table
    return msgspec.structs.replace(policy, providers=tables)


def _redirected(name: str, variables: Mapping[str, str]) -> str:
    for variable, provider, below in BASE_URLS:
        if provider == name and variables.get(variable):
            return variables[variable].rstrip("/").removesuffix(below)
    return ""


def environment(url: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The command's variables: base URLs at the gateway, which no proxy stands before; BURSAR_GATEWAY tells a wrapper in
    the command that these calls are booked already."""
    found = dict(variables)
    for variable, provider, below in BASE_URLS:
        found[variable] = f"{url}/{provider}{below}"
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = ",".join(filter(None, [variables.get(name, ""), "127.0.0.1"]))
    found["BURSAR_GATEWAY"] = url
    return found


def summary(counters: Counters) -> str:
    """What the calls came to, in a line."""
    tries = counters.tries
    refused = sum(counters.refused.values())
    told = f"{tries} {'call' if tries == 1 else 'calls'}, {show(counters.cost_pico, 4)}"
    if counters.unpriced:
        told += f" + {counters.unpriced} unpriced"
    return told + (f", {refused} refused" if refused else "")


def _wait(command: Sequence[str], variables: dict[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env=variables)
    except FileNotFoundError:
        print(f"bursar run: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except PermissionError:
        print(f"bursar run: {command[0]}: not executable", file=sys.stderr)
        return NOT_EXECUTABLE
    with _signals_to(child):
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM goes to the command; Ctrl-C reaches it from the terminal by itself, and must not end the gateway before it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number)),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: None),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
