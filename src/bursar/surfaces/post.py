"""One HTTP POST to an address that somebody wrote into a policy: whole deadline, no redirect, nothing inside our own network."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

REPLY_MAX = 16_384  # bytes of an answer that are read; its status is all that matters
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Answer(NamedTuple):
    """`retry_after_s`: 0 where the answer does not say."""

    status: int
    retry_after_s: float
    start: str  # of its body, for an operator to read


class PostFailed(Exception):
    """No answer: `code` (bad_url, private_address, no_name, connect, tls, timeout, broken), what happened, what now."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also behind the tunnels that carry another inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not inner.is_global:
            return False
    return ip.is_global and not ip.is_multicast


def post(url: str, headers: dict[str, str], body: bytes, *, private: bool = False, timeout_s: float = 10.0) -> Answer:
    """Send and read the answer's status. PostFailed when there is none within `timeout_s`, from the first to the last step.

    A name is looked up once and the address that was judged is the one that is connected to: a second answer of the name
    server changes nothing. Without `private` only https to public addresses."""
    until = time.monotonic() + timeout_s
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    if parts.scheme not in ("https", "http") or not host or parts.username or re.search(r"[\x00-\x20\x7f]", url):
        raise PostFailed("bad_url", "the address is not an http(s) URL", "write https://host/path, without credentials in it")
    if parts.scheme == "http" and not private:
        raise PostFailed("bad_url", f"{host} would be asked without TLS", "write https://, or private = true for one of your own")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    named = f"[{host}]" if ":" in host else host
    lines = {"Host": named if parts.port is None else f"{named}:{port}", **headers}
    lines |= {"Content-Length": str(len(body)), "Connection": "close"}
    if any("\r" in value or "\n" in value for value in lines.values()):
        raise PostFailed("bad_url", "a header would hold a line break", "look at the channel's secret and url")
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    try:
        with _connect(host, port, private, until) as raw:
            if parts.scheme == "https":
                with ssl.create_default_context().wrap_socket(raw, server_hostname=host) as wrapped:
                    return _exchange(wrapped, head.encode("latin-1", "replace") + body, until)
            return _exchange(raw, head.encode("latin-1", "replace") + body, until)
    except TimeoutError:
        raise PostFailed("timeout", f"{host} did not answer within {timeout_s:g} s", "it is tried again") from None
    except ssl.SSLError as bad:
        raise PostFailed("tls", f"{host}: {bad.reason or bad}", "look at its certificate") from None
    except OSError as bad:
        raise PostFailed("broken", f"{host}: {bad.strerror or bad}", "it is tried again") from None


def _connect(host: str, port: int, private: bool, until: float) -> socket.socket:
    try:
        found = [entry[4] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise PostFailed("no_name", f"{host} is not known to the name server", "look at the url") from None
    allowed = [place for place in found if private or is_public(str(place[0]))]
    if not allowed:
        raise PostFailed("private_address", f"{host} is inside a private network", "write private = true if it is meant to be")
    last: OSError = OSError("no address")
    for place in allowed[:4]:
        try:
            return socket.create_connection((place[0], port), timeout=_left(until))
        except TimeoutError:
            raise
        except OSError as bad:
            last = bad
    raise PostFailed("connect", f"{host}: {last.strerror or last}", "it is tried again") from None


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _exchange(connection: socket.socket, request: bytes, until: float) -> Answer:
    connection.settimeout(_left(until))
    connection.sendall(request)
    got = b""
    while len(got) < REPLY_MAX:
        connection.settimeout(_left(until))
        piece = connection.recv(4096)
        if not piece:
            break
        got += piece
        head, end, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length:\s*(\d{1,9})\s*$", head) if end else None
        if end and ((length and len(body) >= int(length[1])) or len(body) >= 500):
            break
    head, _, body = got.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})[ \r\n]", head + b"\r\n")
    if status is None:
        raise PostFailed("broken", "the answer is not HTTP", "look at the url")
    later = re.search(rb"(?im)^retry-after:\s*(\d{1,6})\s*$", head)
    return Answer(int(status[1]), float(later[1]) if later else 0.0, body[:200].decode("utf-8", "replace"))
