"""The dashboard's outermost layer: which names it answers to, and the headers that keep labels from being anything but text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

# Nothing may run or load but our own two files; nothing may frame us, and no form goes elsewhere.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guarded:
    """The outermost layer: only names of ours as Host, and the headers on every answer."""

    def __init__(self, app: Any, hosts: Callable[[str], bool]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                had = {name for name, _ in message["headers"]}
                lines = [
                    (k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in had or k == "content-security-policy"
                ]
                message = {**message, "headers": [*message["headers"], *lines]}
            await send(message)

        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not self.hosts(given[0]):
            refused = Response("This name is not one the dashboard answers to; see --host.\n", 421, media_type="text/plain")
            await refused(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def names(allowed: Sequence[str]) -> Callable[[str], bool]:
    """Whether a Host header names one of these, with any port. Other names are another site's, led here by its DNS."""
    known = frozenset(name.lower() for name in allowed)

    def one(host: str) -> bool:
        try:
            return (urlsplit(f"//{host}").hostname or "") in known
        except ValueError:
            return False

    return one
