"""The dashboard's routes: who may see what, and which page answers, as HTML, JSON or CSV."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...stores.fault import LedgerFault
from ...stores.query import DIMENSIONS, LABEL, Filter, Query, compile_query
from .. import links, settings
from . import asks, blocks, sent
from .accounts import NOBODY, AccountFault, Accounts, Log, Sessions, Viewer
from .actions import Actions, LedgerActions
from .asks import Ask, BadAsk
from .blocks import Note, Page
from .forms import Forms
from .hosts import LOOPBACK, Guarded, names
from .pages import INNER, PAGES, Desk, no_ledger
from .shelf import Shelf

VALUES_MAX = 50


def environment() -> Environment:
    def shown(value: object) -> object:
        # A browser drops this character without a trace.
        return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value

    return Environment(
        loader=PackageLoader("bursar.surfaces.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )


class Web:
    """The pages as HTTP."""

    def __init__(self, shelf: Shelf, actions: Actions | None = None) -> None:
        self.shelf = shelf
        self.desk = Desk(shelf)
        self.jinja = environment()
        self.version = secrets.token_hex(4)
        folder = shelf.place.file.parent
        self.accounts, self.sessions = Accounts(folder), Sessions()
        self.forms = Forms(self, Log(folder), actions or LedgerActions(shelf))
        # What the first view would have to wait for: templates and the query builder's tables.
        for name in ("page.html", "blocks.html", "filters.html"):
            self.jinja.get_template(name)
        compile_query(Query(where=(Filter("tenant", ("",)),), grain="day"))

    def routes(self) -> list[Any]:
        made: list[Any] = [
            Route("/", self.front),
            Route("/values.json", self.values),
            Route("/login", self.forms.login, methods=["GET", "POST"]),
            Route("/logout", self.forms.logout, methods=["POST"]),
            Route("/act/{name:str}", self.forms.act, methods=["POST"]),
            Route(f"{links.PATH}{{action:str}}", self.forms.do, methods=["GET", "POST"]),
        ]
        for name in [*PAGES, *INNER]:
            made += [Route(f"/{name}", self.page), Route(f"/{name}.{{ending:str}}", self.page)]
        made.append(Mount("/static", StaticFiles(directory=str(files("bursar.surfaces.web") / "static"))))
        return made

    def front(self, request: Request) -> Response:
        return RedirectResponse(f"{sent.root(request)}/bill")

    # -- who asks ------------------------------------------------------------------------------------------------------

    def viewer(self, request: Request) -> Viewer | None:
        """Who asks; None where one must log in first. Without accounts everybody on this machine may look."""
        known = self.accounts.all()
        if not known:
            return NOBODY
        found = self.sessions.find(sent.token(request), known)
        if found is None:
            return None
        session, account = found
        return Viewer(account.name, account.role == "operator", account.bound(), session)

    def _to_login(self, request: Request, ending: str) -> Response:
        if ending == "html":
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(sent.root(request) + asks.link("login", [("then", sent.path(request) + query)]), 303)
        return _json({"error": {"title": "Log in first", "text": "This dashboard has accounts."}}, 401)

    # -- pages ---------------------------------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        name, _, _ = sent.path(request).strip("/").partition(".")
        ending = request.path_params.get("ending", "html")
        viewer = self.viewer(request)
        if viewer is None:
            return self._to_login(request, ending)
        pairs = request.query_params.multi_items()
        moved = _said_by_form(name, pairs)
        if moved is not None:
            return RedirectResponse(sent.root(request) + moved, 303)
        make = PAGES[name][1] if name in PAGES else INNER[name]
        zone = sent.zone(request.cookies.get("zone", ""))
        if not self.shelf.exists():
            return (
                self._html(request, no_ledger(name, self.shelf), None, (), 200, viewer)
                if ending == "html"
                else _json({"rows": []}, 200)
            )
        try:
            kept = self.desk.answer(name, make, pairs, zone, viewer.bound)
        except BadAsk as bad:
            return self.fault(request, ending, 400, "That cannot be asked", str(bad), viewer)
        except (LedgerFault, settings.BadPolicy, ArithmeticError) as bad:
            return self.fault(request, ending, 500, "The ledger gives no answer", str(bad), viewer)
        if kept is None:
            return self.fault(
                request, ending, 404, "Not there", "Nothing in the ledger has that name, or it is not yours to see.", viewer
            )
        if ending == "json":
            period = kept.ask.period
            about = {
                "since": None if period.since is None else asks.periods.iso(period.since),
                "until": None if period.until is None else asks.periods.iso(period.until),
                "zone": kept.ask.zone,
                "currency": "USD",
                "skipped_segments": list(kept.skipped),
            }
            return _json(blocks.document(kept.page, sent.root(request), **(about if kept.page.timed else {})), 200)
        if ending == "csv":
            wanted = kept.ask.word("table", kept.page.main)
            table = next((t for t in blocks.every_table(kept.page) if t.id == wanted or not wanted), None)
            if table is None:
                return self.fault(request, "html", 404, "Not there", "This page has no table of that name.", viewer)
            lines = {"content-disposition": f'attachment; filename="bursar-{name}-{table.id}.csv"'}
            return Response(blocks.as_csv(table), media_type="text/csv; charset=utf-8", headers=lines)
        if ending != "html":
            return self.fault(request, "html", 404, "Not there", "Pages end with .json or .csv, or with nothing.", viewer)
        return self._html(request, kept.page, kept.ask, kept.skipped, 200, viewer)

    def values(self, request: Request) -> Response:
        """Values of a column or label that begin with what was typed, dearest first."""
        viewer = self.viewer(request)
        if viewer is None:
            return self._to_login(request, "json")
        name, typed = request.query_params.get("name", ""), request.query_params.get("q", "")
        name = name if name in DIMENSIONS or name.startswith(LABEL) else f"{LABEL}{name}"
        if not self.shelf.exists() or name == LABEL or len(name) > asks.TEXT_MAX:
            return _json({"rows": []}, 200)
        try:
            with self.shelf.open() as reader:
                found = reader.query(Query(("cost",), (name,), viewer.bound, top=2_000))
        except LedgerFault as bad:
            return _json({"rows": [], "error": str(bad)}, 500)
        fits = [str(row[name]) for row in found if row[name] not in (None, "") and str(row[name]).lower().startswith(typed.lower())]
        return _json({"rows": [{"value": value} for value in fits[:VALUES_MAX]]}, 200)

    # -- HTML ----------------------------------------------------------------------------------------------------------

    def _html(self, request: Request, page: Page, ask: Ask | None, skipped: tuple[str, ...], status: int, viewer: Viewer) -> Response:
        notices = [f"Without segment {name}, which is missing or damaged; run `bursar check`." for name in skipped]
        if viewer.session is not None and viewer.session.told:
            notices.insert(0, viewer.session.told)
            viewer.session.told = ""
        if viewer.bound:
            notices.append("You see " + ", ".join(f"{f.name.removeprefix(LABEL)} {f.values[0]}" for f in viewer.bound) + " alone.")
        given = {} if ask is None else dict(ask.given)
        named = ("", *[word for word, _ in asks.words()])
        custom = bool(ask and (given.get("until") or (given.get("since", "") not in named and asks.period_name(ask.said) == ask.said)))
        words = list(asks.words())
        if ask and ask.said and ask.said not in dict(words) and not custom:
            words.insert(0, (ask.said, asks.period_name(ask.said)))
        if custom:
            words.insert(0, (given.get("since", ""), "as given"))
        text = self.jinja.get_template("page.html").render(
            page=page,
            ask=ask,
            notices=notices,
            nav=[(n, title) for n, (title, _) in PAGES.items()],
            nav_link=lambda name: ask.again(name) if ask else f"/{name}",
            zone=ask.zone if ask else "UTC",
            zone_given=bool(given.get("zone")),
            live=ask.twin("json") if ask else "",
            theme=sent.theme(request),
            root=sent.root(request),
            version=self.version,
            viewer=viewer.name,
            operator=viewer.operator,
            csrf=viewer.session.csrf if viewer.session else "",
            here=sent.path(request) + (f"?{request.url.query}" if request.url.query else ""),
            ledger="" if viewer.bound else f"Ledger {self.shelf.folder}",
            custom=custom,
            period_words=words,
            period_now=given.get("since") or (ask.said if ask else ""),
            filter_names=FILTER_NAMES,
            kept=_kept(page, ask) if ask else [],
        )
        return Response(text, status, media_type="text/html; charset=utf-8")

    def fault(self, request: Request, ending: str, status: int, title: str, text: str, viewer: Viewer = NOBODY) -> Response:
        if ending == "json":
            return _json({"error": {"title": title, "text": text}}, status)
        page = Page("", title, [Note("fault", title, [text])], timed=False)
        return self._html(request, page, None, (), status, viewer)


FILTER_NAMES = (
    "feature",
    "tenant",
    "flow",
    "operation",
    "cause",
    "model",
    "user",
    "conversation",
    "key",
    "provider",
    "tier",
    "status",
    "price_status",
    "label:",
)


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


def _json(document: Mapping[str, Any], status: int) -> Response:
    return Response(json.dumps(document, indent=1), status, media_type="application/json")


def pages(shelf: Shelf, actions: Actions | None = None) -> Any:
    """The pages as an ASGI application, for whatever name they are asked by."""
    web = Web(shelf, actions)
    return Starlette(routes=web.routes(), exception_handlers={AccountFault: _unreadable, 404: _lost})


def make(shelf: Shelf, hosts: Sequence[str] = (), actions: Actions | None = None) -> Any:
    """The ASGI application. `hosts`: names it answers to beside loopback's."""
    return Guarded(pages(shelf, actions), names((*LOOPBACK, *hosts)))


def _unreadable(_: Request, bad: Exception) -> Response:
    return Response(f"{bad}\n", 500, media_type="text/plain")


def _lost(_: Request, __: Exception) -> Response:
    return Response("There is no such page. The first is bill.\n", 404, media_type="text/plain")
