"""The office's routes: who may ask what, one table of what there is, refusals in one shape; and which requests are for the pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import anyio
import click
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...domain.policy import Policy
from ...domain.verdict import Refusal, refuse
from ...rules.naming import NoName
from ...stores.fault import LedgerFault
from ...stores.writer import Ledger
from .. import bounds, periods, price_sync, settings, wiring
from ..imports.live import BODY_MAX as SPANS_BYTES_MAX
from ..imports.live import Ingest
from ..office import API, FROM, TRACES, Asker, error
from ..statement import DoesNotFoot
from ..web.accounts import AccountFault, Accounts, Log
from ..web.actions import Refused
from ..web.app import pages
from ..web.asks import BadAsk
from ..web.hosts import LOOPBACK, Guarded, names
from ..web.shelf import Shelf
from . import guards, reads
from .asked import BODY_MAX, Asked, Caller, Turned, from_body, from_query

TAKERS = 4  # requests with spans at once: they wait for the disk, and for nobody's question
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
ROOT = API.removesuffix("/")
PAGES_ROOT = "/bursar"


class Way(NamedTuple):
    """One thing that can be asked. `need`: to read, or to act."""

    method: Literal["GET", "POST"]
    path: str
    need: Literal["read", "act"]
    takes: Mapping[str, str]
    answer: Callable[[Asked], reads.Answer]


WAYS = (
    Way("GET", "/spend", "read", reads.SPEND, reads.spend),
    Way("GET", "/calls", "read", reads.CALLS, reads.calls),
    Way("GET", "/conversations", "read", reads.CONVERSATIONS, reads.conversations),
    Way("GET", "/conversations/{id:path}", "read", {}, reads.conversation),
    Way("GET", "/labels", "read", reads.LABELS, reads.labels),
    Way("POST", "/labels", "act", reads.NAMING, reads.name_rows),
    Way("GET", "/budgets", "read", {}, guards.budgets),
    Way("POST", "/budgets/{name:path}/raise", "act", guards.RAISE, guards.raise_),
    Way("GET", "/incidents", "read", guards.INCIDENTS, guards.listed),
    Way("GET", "/handoff", "read", guards.HANDOFFS, guards.handoffs),
    Way("POST", "/handoff/{n:int}/take", "act", guards.REASON, guards.take),
    Way("POST", "/handoff/{n:int}/resume", "act", guards.REASON, guards.go_on),
    Way("POST", "/handoff/{n:int}/end", "act", guards.REASON, guards.end),
    Way("POST", "/stop", "act", {**guards.MATCH, **guards.FOR, **guards.REASON}, guards.stop),
    Way("POST", "/resume", "act", {**guards.MATCH, **guards.REASON}, guards.resume),
)


class Api:
    """The own API as HTTP."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        folder = shelf.place.file.parent
        self.accounts, self.log = Accounts(folder), Log(folder)
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._ingest: Ingest | None = None
        self._policy_hash = ""  # whose prices the intake has
        self._takers = anyio.CapacityLimiter(TAKERS)

    def app(self) -> Starlette:
        made: dict[str, dict[str, Way]] = {}
        for way in WAYS:
            made.setdefault(way.path, {})[way.method] = way
        routes = [Route(ROOT + path, partial(self.ask, ways), methods=list(ways)) for path, ways in made.items()]
        routes += [Route(TRACES, self.take, methods=["POST"]), Route(f"{ROOT}/openapi.json", self.openapi)]
        told = {404: _no_path, 405: _no_method, 500: _fault}
        return Starlette(routes=routes, exception_handlers=told)

    def caller(self, request: Request) -> Caller:
        """Who asks. Turned where one must say so first."""
        asker: Asker = request.scope["asker"]
        if asker.key:
            reads_ = asker.role in ("viewer", "operator")
            return Caller(asker.key, reads_, asker.role == "operator", bounds.filters(asker.bound), asker.address)
        # A gateway that takes anybody's calls shows anybody its books, unless somebody made accounts for that.
        return Caller("", asker.open and not self.accounts.all(), False, (), asker.address)

    async def ask(self, ways: Mapping[str, Way], request: Request) -> Response:
        way = ways["GET" if request.method == "HEAD" else request.method]
        try:
            caller = self.caller(request)
            _allowed(way, caller)
            if way.method == "GET":
                given = from_query(parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=1_000), way.takes)
            else:
                given = from_body(await _body(request, BODY_MAX), way.takes)
            asked = Asked(caller, given, self.shelf, {name: str(value) for name, value in request.path_params.items()})
            if not self.shelf.exists():
                raise Turned(refuse("not_found", "there is no ledger yet", "it appears with the first call"))
            answer = await run_in_threadpool(way.answer, asked)
        except (Turned, click.UsageError, BadAsk, NoName, Refused, ValueError, LedgerFault, DoesNotFoot, settings.BadPolicy,
                AccountFault) as wrong:  # fmt: skip
            refusal = _refusal(wrong)
            if way.need == "act" and request.scope["asker"].key:
                self._write(request, f"refused: {refusal.code}: {refusal.reason}", {})
            return _told(refusal)
        if way.need == "act":
            self._write(request, "done", given)
        return _json(answer)

    def _write(self, request: Request, result: str, given: Mapping[str, Sequence[Any]]) -> None:
        asker: Asker = request.scope["asker"]
        fields = {name: ", ".join(map(str, values)) for name, values in given.items()}
        at, what = periods.iso(self.shelf.clock_us()), f"api {request.url.path.removeprefix(ROOT)[:200]}"
        self.log.write(at, asker.key, asker.address, what, fields, result)

    # -- spans ---------------------------------------------------------------------------------------------------------

    async def take(self, request: Request) -> Response:
        """OTLP/HTTP: whoever may make calls here may tell of some."""
        asker: Asker = request.scope["asker"]
        kind, coding = request.headers.get("content-type", ""), request.headers.get("content-encoding", "")
        try:
            if not (asker.key or asker.open):  # the gateway looks at paths as they were written, which may be in another spelling
                raise Turned(refuse("invalid_key", "this gateway takes virtual keys only, and the request has none", "send one"))
            body = await _body(request, SPANS_BYTES_MAX)
            report = await anyio.to_thread.run_sync(self._take, asker, kind, coding, body, limiter=self._takers)
        except (Turned, LedgerFault, settings.BadPolicy, price_sync.SyncFailed, OSError) as wrong:
            return _told(_refusal(wrong))
        headers = {**HEADERS, **({"retry-after": str(report.retry_after_s)} if report.retry_after_s else {})}
        return Response(report.body, report.status, headers, report.content_type)

    def _take(self, asker: Asker, kind: str, coding: str, body: bytes) -> Any:
        return self._intake().take(kind, coding, body, asker.bound, asker.key)

    def _intake(self) -> Ingest:
        """The one intake, with the prices of the policy in force."""
        policy, hash = self.shelf.policy()
        with self._lock:
            if self._ingest is None or self._policy_hash != hash:
                file, clock = self.shelf.place.file, self.shelf.clock_us
                book = wiring.PriceBook.load(price_sync.ensure_book(file.parent), [line for line in policy.price if line.model])
                if self._ingest is None:
                    self._ledger = Ledger.open(file, node=wiring.node(), clock_us=clock, mode="office")
                    self._ingest = Ingest(self._ledger, book, clock)
                self._ingest.prices, self._policy_hash = book, hash
            return self._ingest

    def close(self) -> None:
        if self._ingest is not None and self._ledger is not None:
            self._ingest.close()
            self._ledger.close()

    def openapi(self, _: Request) -> Response:
        """What there is, for programs that read such documents."""
        from .openapi import document

        return _json(document(WAYS))


class LastGood(Shelf):
    """As the gateway has it: a policy file that cannot be used leaves the last good one in force."""

    _good: tuple[Policy, str] | None = None

    def policy(self) -> tuple[Policy, str]:
        try:
            self._good = super().policy()
        except settings.BadPolicy:
            if self._good is None:
                raise
        return self._good


class Front:
    """The outermost layer: takes the gateway's word for who asks, and nobody else's."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.api = Api(shelf)
        self._api = self.api.app()
        self._pages: Any = None

    def close(self) -> None:
        self.api.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"nothing is answered but HTTP, and not {scope['type']}")
        said = [value for name, value in scope["headers"] if name == FROM]
        try:
            asker = msgspec.json.decode(said[0] if len(said) == 1 else b"", type=Asker)
        except msgspec.DecodeError:
            await _told(refuse("not_allowed", "this socket is the gateway's", "ask the gateway"))(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in (FROM, b"host")]
        scope = {
            **scope, "headers": [*kept, (b"host", asker.host.encode("latin-1", "replace"))], "scheme": asker.scheme,
            "client": (asker.address, 0), "asker": asker,
        }  # fmt: skip
        try:
            answering = self._whose(scope["path"], asker)
        except (settings.BadPolicy, AccountFault, Turned) as wrong:
            answering = _told(_refusal(wrong))
        if answering is self._pages:
            scope["root_path"] = PAGES_ROOT
        await answering(scope, receive, send)

    def _whose(self, path: str, asker: Asker) -> Any:
        """The API, or the pages. Turned where neither is for this."""
        if path.startswith(API):
            if not asker.key and not self._known(asker.host):
                told = f"{asker.host[:200]!r} is not a name of this gateway"
                raise Turned(refuse("not_allowed", told, "name it in server.names, or send a key"))
            return self._api
        policy, _ = self.shelf.policy()
        if not policy.server.dashboard:
            raise Turned(refuse("not_found", "this gateway has no pages", "server.dashboard = true, or run `bursar dashboard`"))
        if not self.api.accounts.all() and not asker.open:
            told = "this gateway asks everybody who they are, and the pages have no accounts"
            raise Turned(refuse("not_allowed", told, "bursar dashboard accounts add NAME"))
        if self._pages is None:
            self._pages = Guarded(pages(self.shelf), self._known)
        return self._pages

    def _known(self, host: str) -> bool:
        """Whether that is a name of this gateway; another site's DNS may lead here too."""
        policy, _ = self.shelf.policy()
        url = urlsplit(policy.watch.url).hostname
        return names((*LOOPBACK, *policy.server.names, *([url] if url else [])))(host)


def make(ledger: Path, config: Path | None, clock_us: Callable[[], int] = wiring.now_us) -> Front:
    """The ASGI application of one ledger."""
    return Front(LastGood(ledger, config, clock_us))


def _allowed(way: Way, caller: Caller) -> None:
    """Turned where this is not the caller's to ask."""
    if way.need == "act" and not caller.acts:
        what = f"key {caller.name!r}" if caller.name else "a request without a key"
        raise Turned(refuse("not_allowed", f"{what} may not act", "bursar keys create NAME --role operator"))
    if not caller.reads:
        if caller.name:
            told = f"key {caller.name!r} may make calls and send spans, and read nothing"
            raise Turned(refuse("not_allowed", told, "bursar keys create NAME --role viewer"))
        told = "this ledger has accounts, and the request has no key"
        raise Turned(refuse("invalid_key", told, "bursar keys create NAME --role viewer"))


async def _body(request: Request, most: int) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Turned(refuse("body_too_large", f"more than {most:,} bytes", "send less at once"))
    return body


def _refusal(wrong: Exception) -> Refusal:
    """What was wrong, as everybody is told it here."""
    match wrong:
        case Turned():
            return wrong.refusal
        case LedgerFault():
            code = "bad_request" if wrong.code == "query" else "ledger_unavailable"
            return refuse(code, wrong.reason, wrong.remedy, 0 if code == "bad_request" else 5)
        case settings.BadPolicy():
            return refuse("bad_policy", str(wrong), "mend the policy file; calls go on by the last good one")
        case AccountFault():
            return refuse("internal_fault", wrong.reason, wrong.remedy)
        case DoesNotFoot():
            return refuse("internal_fault", str(wrong), "run `bursar check`, and report this")
        case Refused():
            return refuse("not_done", str(wrong), "see what is in force: /bursar/v1/budgets and /bursar/v1/handoff")
        case price_sync.SyncFailed() | OSError():
            return refuse("ledger_unavailable", str(wrong), "the gateway's standard error says more", 5)
        case click.UsageError():
            return refuse("bad_request", wrong.message.replace("--", ""), "see docs/reference/api.md, or /bursar/v1/openapi.json")
        case _:
            return refuse("bad_request", str(wrong).replace("--", ""), "see docs/reference/api.md, or /bursar/v1/openapi.json")


def _told(refusal: Refusal) -> Response:
    headers = dict(HEADERS)
    if refusal.retry_after_s:
        headers["retry-after"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error(refusal.code, refusal.reason, refusal.remedy), refusal.status, headers, "application/json")


def _json(document: Mapping[str, Any]) -> Response:
    return Response(json.dumps(document, indent=2), 200, HEADERS, "application/json")


def _no_path(request: Request, _: Exception) -> Response:
    what = request.url.path[:200]
    return _told(refuse("not_found", f"there is no {what!r}", f"what there is: {ROOT}/openapi.json"))


def _no_method(request: Request, _: Exception) -> Response:
    return _told(refuse("method_not_allowed", f"{request.method} is not for {request.url.path[:200]!r}", f"see {ROOT}/openapi.json"))


def _fault(_: Request, __: Exception) -> Response:
    return _told(refuse("internal_fault", "a fault of Bursar's own", "the gateway's standard error has the details; report it"))


__all__ = ["WAYS", "Api", "Front", "Way", "make"]
