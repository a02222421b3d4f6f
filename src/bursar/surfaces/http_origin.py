"""Who is spoken to over HTTP, and how long it may take. Values only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..domain.shape import Shape


class Origin(Shape, frozen=True, gc=False):
    """Who is spoken to. Equal origins share connections. With the scheme `unix` the host is a socket's path."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def parse(url: str) -> tuple[Origin, str]:
        """`https://host[:port]/base` to the origin and the base path without its last slash."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s/\\]", parts.hostname):
            raise ValueError(f"not an http(s) address: {url!r}")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("an address holds no credentials, query or fragment")
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Origin(parts.scheme, host, port), parts.path.rstrip("/")

    @property
    def authority(self) -> str:
        if self.scheme == "unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


@dataclass(slots=True, frozen=True)
class Timeouts:
    """Seconds. They fire up to a second late (one sweep over all connections, no timer each) and never early."""

    connect_s: float = 10
    headers_s: float = 600
    idle_s: float = 300  # between two reads of the body, while we want to read
    total_s: float = 3600
    write_s: float = 60  # without the provider taking a byte of the request
