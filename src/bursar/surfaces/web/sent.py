"""What a request to the dashboard says of itself: where it is, who sends it and from which page, what its form holds."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request

from . import asks
from .asks import BadAsk

FORM_BYTES_MAX = 16 << 10
COOKIE = "bursar"  # with __Host- before it wherever the connection is encrypted


def zone(text: str) -> str:
    try:
        return asks.checked_zone(unquote(text)) if text else ""
    except BadAsk:
        return ""


def theme(request: Request) -> str:
    found = request.cookies.get("theme", "")
    return found if found in ("light", "dark") else ""


def root(request: Request) -> str:
    """What stands before every path of ours: nothing, or /bursar on a gateway."""
    return request.scope.get("root_path", "")


def path(request: Request) -> str:
    return request.url.path.removeprefix(root(request))


def cookie(request: Request) -> str:
    # Cookies know no ports: a dashboard beside the gateway has sessions of its own.
    name = f"{COOKIE}-gateway" if root(request) else COOKIE
    return f"__Host-{name}" if request.url.scheme == "https" else name


def token(request: Request) -> str:
    return request.cookies.get(cookie(request), "")


def address(request: Request) -> str:
    return request.client.host if request.client else ""


def same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def own(request: Request) -> bool:
    """Whether a browser says that this came from a page of ours."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    return origin is None or origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


async def form(request: Request) -> dict[str, str] | None:
    """The fields of a form; None for anything else, and for one that is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        return None
