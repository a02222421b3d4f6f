"""The dashboard's routes: who may see what, which page answers, and the headers that keep labels from being anything but text."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...stores.fault import LedgerFault
from ...stores.query import DIMENSIONS, LABEL, Filter, Query
from ...stores.reader import Reader
from .. import settings
from . import asks, blocks, page_audit, page_bill, page_calls, page_guards, page_settings, page_talks, page_tools, page_why
from .asks import Ask, BadAsk
from .blocks import Note, Page
from .shelf import Shelf, newest_us

Maker = Callable[[Ask, Reader, Shelf], Page | None]
PAGES: dict[str, tuple[str, Maker]] = {
    "bill": ("Bill", page_bill.page),
    "why": ("Why", page_why.page),
    "conversations": ("Conversations", page_talks.page),
    "tools": ("Tools and models", page_tools.page),
    "calls": ("Calls", page_calls.page),
    "guards": ("Guards", page_guards.page),
    "audit": ("Audit", page_audit.page),
    "settings": ("Settings", page_settings.page),
}
INNER: dict[str, Maker] = {"call": page_calls.one, "conversation": page_talks.one}

# Nothing may run or load but our own two files; nothing may frame us, and no form goes elsewhere.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CSP, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin", "cache-control": "no-store",
}  # fmt: skip
KEEP_S = 2.0  # an answer serves everybody who asks the same within this time: ten viewers are one
KEPT_MAX = 64
VALUES_MAX = 50
PERIODS_KEPT = ("zone", "sort", "of", "versus", "this", "id")


class Kept(NamedTuple):
    until: float
    page: Page
    ask: Ask
    skipped: tuple[str, ...]


class Desk:
    """Answers, and for how long each is good."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._kept: OrderedDict[object, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, name: str, make: Maker, pairs: asks.Pairs, zone: str, bound: tuple[Filter, ...]) -> Kept | None:
        key = (name, tuple(pairs), zone, bound)
        with self._lock:  # whoever asks the same meanwhile waits for this answer rather than for his own
            kept = self._kept.get(key)
            if kept is not None and time.monotonic() < kept.until:
                return kept
            with self.shelf.open() as reader:
                ask = asks.read(name, pairs, self.shelf.clock_us(), newest_us=newest_us(reader), zone=zone, bound=bound)
                page = make(ask, reader, self.shelf)
                if page is None:
                    return None
                kept = Kept(time.monotonic() + KEEP_S, page, ask, tuple(reader.skipped))
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return kept


def environment() -> Environment:
    return Environment(loader=PackageLoader("bursar.surfaces.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True)


class Web:
    """The pages as HTTP."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.desk = Desk(shelf)
        self.jinja = environment()
        self.version = secrets.token_hex(4)

    def routes(self) -> list[Any]:
        made: list[Any] = [Route("/", self.front), Route("/values.json", self.values)]
        for name in [*PAGES, *INNER]:
            made += [Route(f"/{name}", self.page), Route(f"/{name}.{{ending:str}}", self.page)]
        made.append(Mount("/static", StaticFiles(directory=str(files("bursar.surfaces.web") / "static"))))
        return made

    def front(self, request: Request) -> Response:
        return RedirectResponse("/bill")

    def page(self, request: Request) -> Response:
        name, _, _ = request.url.path.strip("/").partition(".")
        ending = request.path_params.get("ending", "html")
        pairs = request.query_params.multi_items()
        moved = _said_by_form(name, pairs)
        if moved is not None:
            return RedirectResponse(moved, 303)
        make = PAGES[name][1] if name in PAGES else INNER[name]
        zone = _zone(request.cookies.get("zone", ""))
        if not self.shelf.exists():
            return self._html(request, _no_ledger(name, self.shelf), None, (), 200) if ending == "html" else _json({"rows": []}, 200)
        try:
            kept = self.desk.answer(name, make, pairs, zone, ())
        except BadAsk as bad:
            return self._fault(request, ending, 400, "That cannot be asked", str(bad))
        except (LedgerFault, settings.BadPolicy, ArithmeticError) as bad:
            return self._fault(request, ending, 500, "The ledger gives no answer", str(bad))
        if kept is None:
            return self._fault(request, ending, 404, "Not there", "Nothing in the ledger has that name, or it is not yours to see.")
        if ending == "json":
            period = kept.ask.period
            about = {
                "since": None if period.since is None else asks.periods.iso(period.since),
                "until": None if period.until is None else asks.periods.iso(period.until),
                "zone": kept.ask.zone, "currency": "USD", "skipped_segments": list(kept.skipped),
            }  # fmt: skip
            return _json(blocks.document(kept.page, **(about if kept.page.timed else {})), 200)
        if ending == "csv":
            wanted = kept.ask.word("table", kept.page.main)
            table = next((t for t in blocks.every_table(kept.page) if t.id == wanted or not wanted), None)
            if table is None:
                return self._fault(request, "html", 404, "Not there", "This page has no table of that name.")
            lines = {"content-disposition": f'attachment; filename="bursar-{name}-{table.id}.csv"'}
            return Response(blocks.as_csv(table), media_type="text/csv; charset=utf-8", headers=lines)
        if ending != "html":
            return self._fault(request, "html", 404, "Not there", "Pages end with .json or .csv, or with nothing.")
        return self._html(request, kept.page, kept.ask, kept.skipped, 200)

    def values(self, request: Request) -> Response:
        """Values of a column or label that begin with what was typed, dearest first."""
        name, typed = request.query_params.get("name", ""), request.query_params.get("q", "")
        name = name if name in DIMENSIONS or name.startswith(LABEL) else f"{LABEL}{name}"
        if not self.shelf.exists() or name == LABEL or len(name) > asks.TEXT_MAX:
            return _json({"rows": []}, 200)
        try:
            with self.shelf.open() as reader:
                found = reader.query(Query(("cost",), (name,), (), top=2_000))
        except LedgerFault as bad:
            return _json({"rows": [], "error": str(bad)}, 500)
        fits = [str(row[name]) for row in found if row[name] not in (None, "") and str(row[name]).lower().startswith(typed.lower())]
        return _json({"rows": [{"value": value} for value in fits[:VALUES_MAX]]}, 200)

    # -- HTML ----------------------------------------------------------------------------------------------------------

    def _html(self, request: Request, page: Page, ask: Ask | None, skipped: tuple[str, ...], status: int) -> Response:
        notices = [f"Without segment {name}, which is missing or damaged; run `bursar check`." for name in skipped]
        given = {} if ask is None else dict(ask.given)
        named = ("", *[word for word, _ in asks.words()])
        custom = bool(ask and (given.get("until") or (given.get("since", "") not in named and asks.period_name(ask.said) == ask.said)))
        words = list(asks.words())
        if ask and ask.said and ask.said not in dict(words) and not custom:
            words.insert(0, (ask.said, asks.period_name(ask.said)))
        if custom:
            words.insert(0, (given.get("since", ""), "as given"))
        text = self.jinja.get_template("page.html").render(
            page=page, ask=ask, notices=notices, nav=[(n, title) for n, (title, _) in PAGES.items()],
            nav_link=lambda name: ask.again(name) if ask else f"/{name}",
            zone=ask.zone if ask else "UTC", zone_given=bool(given.get("zone")), live=ask.twin("json") if ask else "",
            theme=request.cookies.get("theme", "") if request.cookies.get("theme") in ("light", "dark") else "",
            version=self.version, viewer="", operator=False, csrf="", here=str(request.url.path),
            ledger=f"Ledger {self.shelf.folder}", custom=custom, period_words=words,
            period_now=given.get("since") or (ask.said if ask else ""), filter_names=FILTER_NAMES,
            kept=_kept(page, ask) if ask else [],
        )  # fmt: skip
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _fault(self, request: Request, ending: str, status: int, title: str, text: str) -> Response:
        if ending == "json":
            return _json({"error": {"title": title, "text": text}}, status)
        page = Page("", title, [Note("fault", title, [text])], timed=False)
        return self._html(request, page, None, (), status)


FILTER_NAMES = ("feature", "tenant", "flow", "operation", "cause", "model", "user", "conversation", "key", "provider", "tier", "status",
                "price_status", "label:")  # fmt: skip


def _kept(page: Page, ask: Ask) -> list[tuple[str, str]]:
    """What the filter form carries along: the filters in force, and words that it has no field for."""
    chosen = {choice.word for choice in page.choices}
    pairs = [(("!" if f.negate else "") + f.name, str(value)) for f in ask.where for value in f.values]
    return pairs + [(k, v) for k, v in ask.given if k in ("sort", "of", "versus", "id") and k not in chosen]


def _said_by_form(name: str, pairs: asks.Pairs) -> str | None:
    """The clean URL of what the filter form sent: a label and its value become one pair, empty fields go."""
    said = dict(pairs)
    if not {"name", "value", "from"} & said.keys():
        return None
    label, value = said.get("name", "").strip(), said.get("value", "")
    first = said.get("from", "").strip()
    made = [(k, v) for k, v in pairs if k not in ("name", "value", "from") and v != "" and not (k == "since" and first)]
    made += [(k, v) for k, v in pairs if v == "" and k not in asks.WORDS and k not in ("from",)]
    if first:
        made.append(("since", first))
    if label:
        plain = label.removeprefix("!")
        made.append((label if plain in DIMENSIONS or plain.startswith(LABEL) else label.replace(plain, LABEL + plain), value))
    return asks.link(name, made)


def _zone(text: str) -> str:
    from urllib.parse import unquote

    try:
        return asks.checked_zone(unquote(text)) if text else ""
    except BadAsk:
        return ""


def _no_ledger(name: str, shelf: Shelf) -> Page:
    return Page(
        name, PAGES[name][0] if name in PAGES else "Nothing yet",
        [Note("empty", "There is no ledger here yet", [f"{shelf.folder} has none. It appears with the first call:"],
              "bursar serve\nexport OPENAI_BASE_URL=http://127.0.0.1:8787/v1\nexport ANTHROPIC_BASE_URL=http://127.0.0.1:8787\n\n"
              "# or look around in a simulated company's ledger\nbursar demo\nbursar dashboard --ledger demo-ledger")],
        timed=False,
    )  # fmt: skip


def _json(document: Mapping[str, Any], status: int) -> Response:
    return Response(json.dumps(document, indent=1), status, media_type="application/json")


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
                lines = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in had or k == "content-security-policy"]
                message = {**message, "headers": [*message["headers"], *lines]}
            await send(message)

        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not self.hosts(given[0]):
            refused = Response("This name is not one the dashboard answers to; see --host.\n", 421, media_type="text/plain")
            await refused(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine to itself."""
    try:
        return (urlsplit(f"//{host}").hostname or "") in LOOPBACK
    except ValueError:
        return False


def make(shelf: Shelf) -> Any:
    """The ASGI application."""
    web = Web(shelf)
    return Guarded(Starlette(routes=web.routes()), is_loopback)
