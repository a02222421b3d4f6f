"""`bursar.wrap` and `bursar.instrument`: finding the HTTP transports of SDK clients and putting ours around them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

from . import sdk_fast, sdk_headers
from .books import Books, books
from .transport import AsyncTransport, Kit, Transport, Wrapped, kit_of

Client = TypeVar("Client")
Path = str | os.PathLike[str]

# Where SDKs keep their HTTP client: openai, anthropic, groq and others (_client), google-genai (_api_client and below),
# LangChain's chat models (root_client …, _client, _async_client), cohere (_client_wrapper and below).
PLACES = (
    "_client", "_async_client", "_api_client", "_httpx_client", "_async_httpx_client", "root_client", "root_async_client",
    "_client_wrapper", "httpx_client", "http_client",
)  # fmt: skip
DEPTH = 4


def wrap(client: Client, *, config: Path | None = None, ledger: Path | None = None) -> Client:
    """The same client, whose calls are labelled, held against the budgets, priced and written to the ledger from now on.

    Takes SDK clients (OpenAI, Anthropic, google-genai, sync and async, and others built on httpx or httpx2) and plain
    `httpx` / `httpx2` clients. Timeouts, pools, TLS and proxies stay the client's own. `config` is a policy file and
    `ledger` a folder; without them those of the environment, as for the gateway. Wrapping twice changes nothing.

    TypeError when there is no such HTTP client in it, BadPolicy when the policy cannot be used. A ledger that cannot be
    opened breaks no call: it is logged, and tried again."""
    found = list(_http_clients(client, DEPTH))
    if not found:
        raise TypeError(
            f"bursar.wrap: no httpx or httpx2 client found in {type(client).__module__}.{type(client).__qualname__}; "
            "wrap the SDK client itself, or give it http_client=bursar.wrap(httpx.Client())"
        )
    kept = books(config, ledger)
    for http in found:
        _take(http, kept)
    sdk_fast.install()
    for library in ("httpx", "httpx2"):
        sdk_fast.remember_urls(library)
        sdk_headers.tell_ascii(library)
        sdk_headers.install(library)
    return client


def _http_clients(client: Any, depth: int) -> Iterator[Any]:
    kit = kit_of(type(client))
    if kit is not None and isinstance(client, kit.Client | kit.AsyncClient):
        yield client
        return
    if depth == 0:
        return
    for name in PLACES:
        inner = getattr(client, name, None)
        if inner is not None and inner is not client:
            yield from _http_clients(inner, depth - 1)


def _take(http: Any, kept: Books) -> None:
    kit = kit_of(type(http))
    assert kit is not None
    http._transport = _around(http, http._transport, kept, kit)
    http._mounts = {pattern: inner and _around(http, inner, kept, kit) for pattern, inner in http._mounts.items()}
    made = getattr(http, "_inner_client_cls", None)
    if made is not None and not isinstance(made, partial):
        # google-genai sends async calls through a client per event loop, made when that loop first calls.
        http._inner_client_cls = partial(_made, made, kept)
        for inner in list(getattr(http, "_loop_clients", {}).values()):
            _take(inner, kept)


def _made(client_class: Any, kept: Books, **arguments: Any) -> Any:
    http = client_class(**arguments)
    _take(http, kept)
    return http


def _around(http: Any, inner: Any, kept: Books, kit: Kit, only_known: bool = False) -> Any:
    if isinstance(inner, Wrapped):
        return inner
    if isinstance(http, kit.AsyncClient):
        return AsyncTransport(inner, kept, kit, only_known, None if only_known else kit.async_lines(inner))
    return Transport(inner, kept, kit, only_known, None if only_known else kit.lines(inner))


class Instrumented:
    """What `instrument()` gives back: `undo()` ends it, and so does leaving it as a `with` block."""

    def __init__(self, kept: Books) -> None:
        self.kept = kept

    def undo(self) -> None:
        """Calls from now on go straight to their providers again. Streams under way are still booked."""
        if self in _active:
            _active.remove(self)
        if not _active:
            _unpatch()

    def __enter__(self) -> Instrumented:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


_active: list[Instrumented] = []
_originals: dict[type, Any] = {}


def instrument(*, config: Path | None = None, ledger: Path | None = None) -> Instrumented:
    """Keep the books of every httpx and httpx2 client in this process, also of those a framework makes for itself, for
    calls to providers (known hosts, and the base URLs in the policy); all other traffic goes straight through, untouched.
    Instrumenting again puts the newer policy and ledger in force.

    RuntimeError when neither library is installed, or it no longer has the seam this needs; BadPolicy as for `wrap`."""
    handle = Instrumented(books(config, ledger))
    _patch()
    _active.append(handle)
    return handle


def _patch() -> None:
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name) is not None]
    if not names:
        raise RuntimeError("bursar.instrument: neither httpx nor httpx2 is installed; there is nothing to instrument")
    for name in names:
        module = importlib.import_module(name)
        for client_class in (module.Client, module.AsyncClient):
            original = getattr(client_class, "_transport_for_url", None)
            if original is None:
                raise RuntimeError(
                    f"bursar.instrument: {name} {module.__version__} has no Client._transport_for_url; "
                    "use bursar.wrap(client), and report this version"
                )
            if client_class not in _originals:
                _originals[client_class] = original
                client_class._transport_for_url = _seam(original)


def _seam(original: Any) -> Any:
    def transport_for_url(self: Any, url: Any) -> Any:
        inner = original(self, url)
        kit = kit_of(type(self))
        if kit is None or not _active:
            return inner
        return _around(self, inner, _active[-1].kept, kit, only_known=True)

    return transport_for_url


def _unpatch() -> None:
    for client_class, original in _originals.items():
        client_class._transport_for_url = original
    _originals.clear()
