"""What apprise speaks, told in a process of its own: its library can be neither hurried nor kept from an address from outside.

As a program it reads one message from standard input and says in one line of JSON what came of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import msgspec

from .post import is_public

MODULE = "bursar.surfaces.bell_apprise"
CALLING = re.compile(r"@(?=(?:everyone|here|channel|all)\b)|<(?=[!@#])", re.IGNORECASE)


class Ask(NamedTuple):
    url: str
    title: str
    body: str
    private: bool


class Said(NamedTuple):
    """`code` is empty where the channel took it."""

    code: str
    reason: str = ""
    remedy: str = ""


def tell(url: str, title: str, body: str, *, private: bool, timeout_s: float) -> Said:
    """Give it to apprise; the process is ended when its time is over."""
    if importlib.util.find_spec("apprise") is None:
        return Said("no_apprise", "apprise is not installed", "pip install 'bursar[apprise]'")
    # By way of a proxy the address that is judged would be the proxy's.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ask = msgspec.json.encode(Ask(url, quiet(title), quiet(body), private))
    try:
        ran = subprocess.run([sys.executable, "-m", MODULE], input=ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             timeout=timeout_s, env=environment, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return Said("timeout", f"no answer within {timeout_s:g} s", "it is tried again")
    try:
        return msgspec.json.decode(ran.stdout, type=Said)
    except msgspec.DecodeError:
        return Said("fault", f"apprise ended with {ran.returncode}", "test the channel: bursar alarms test NAME")


def quiet(text: str) -> str:
    """Labels are strangers' words: in whatever service it comes to, nobody is called by them."""
    return CALLING.sub(lambda found: found[0] + "\u200b", text)


# -- in that process -------------------------------------------------------------------------------------------------------


class _Kept(OSError):
    """Not there: taken for a failed connection by whatever asked for it."""


def _guard(refused: list[Said]) -> None:
    """From here on, no connection of this process leads into a private network, whatever was looked up or redirected; and no
    HTTP goes without TLS."""
    import requests

    def judge(event: str, given: tuple[Any, ...]) -> None:
        if event not in ("socket.connect", "socket.sendto"):
            return
        place = given[1]
        host = str(place[0]) if isinstance(place, tuple) and place else "a socket of this machine"
        try:
            good = is_public(host)
        except ValueError:  # a path, or a name that nobody has looked up
            good = False
        if not good:
            refused.append(Said("private_address", "it is inside a private network", "write private = true if it is meant to be"))
            raise _Kept(host)

    send = requests.Session.send

    def sent(self: Any, request: Any, **more: Any) -> Any:
        if not request.url.lower().startswith("https://"):
            refused.append(Said("bad_url", "it would be asked without TLS", "write its secure form, or private = true"))
            raise requests.RequestException("without TLS")
        return send(self, request, **more)

    requests.Session.send = sent
    sys.addaudithook(judge)


def _told(ask: Ask) -> Said:
    import apprise  # pyright: ignore[reportMissingImports]

    refused: list[Said] = []
    bell = apprise.Apprise()
    if not bell.add(ask.url):
        return Said("bad_url", "the channel's url is none that apprise knows", "see apprise's list of services")
    if not ask.private:
        _guard(refused)
    if bell.notify(title=ask.title, body=ask.body, body_format=apprise.NotifyFormat.TEXT):
        return Said("")
    return refused[0] if refused else Said("refused", "it did not take the message", "look at the channel's url; apprise says no more")


def main() -> None:
    """Nothing but the answer goes to standard output, whatever a service's module prints."""
    answer, sys.stdout = sys.stdout, sys.stderr
    said = _told(msgspec.json.decode(sys.stdin.buffer.read(), type=Ask))
    answer.buffer.write(msgspec.json.encode(said))
    answer.flush()


if __name__ == "__main__":
    main()
