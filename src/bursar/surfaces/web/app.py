"""The dashboard's routes: who may see what, which page answers, and the headers that keep labels from being anything but text."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...stores.fault import LedgerFault
from ...stores.query import DIMENSIONS, LABEL, Filter, Query, compile_query
from ...stores.reader import Reader
from .. import links, settings
from . import (
    asks,
    blocks,
    page_alarms,
    page_audit,
    page_bill,
    page_calls,
    page_guards,
    page_savings,
    page_settings,
    page_talks,
    page_tools,
    page_why,
)
from .accounts import NOBODY, AccountFault, Accounts, Log, Sessions, Throttle, Viewer
from .actions import ACTS, Actions, LedgerActions, Refused
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
    "savings": ("Savings", page_savings.page),
    "alarms": ("Alarms", page_alarms.page),
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
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
KEEP_S = 2.0  # an answer serves everybody who asks the same within this time: ten viewers are one
KEPT_MAX = 64
VALUES_MAX = 50
FORM_BYTES_MAX = 16 << 10
COOKIE = "bursar"  # with __Host- before it wherever the connection is encrypted


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

    def forget(self) -> None:
        """Something was changed: nobody is shown what was before."""
        with self._lock:
            self._kept.clear()


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
        self.accounts, self.sessions, self.throttle, self.log = Accounts(folder), Sessions(), Throttle(), Log(folder)
        self.actions = actions or LedgerActions(shelf)
        # What the first view would have to wait for: templates and the query builder's tables.
        for name in ("page.html", "blocks.html", "filters.html"):
            self.jinja.get_template(name)
        compile_query(Query(where=(Filter("tenant", ("",)),), grain="day"))

    def routes(self) -> list[Any]:
        made: list[Any] = [
            Route("/", self.front),
            Route("/values.json", self.values),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/act/{name:str}", self.act, methods=["POST"]),
            Route(f"{links.PATH}{{action:str}}", self.do, methods=["GET", "POST"]),
        ]
        for name in [*PAGES, *INNER]:
            made += [Route(f"/{name}", self.page), Route(f"/{name}.{{ending:str}}", self.page)]
        made.append(Mount("/static", StaticFiles(directory=str(files("bursar.surfaces.web") / "static"))))
        return made

    def front(self, request: Request) -> Response:
        return RedirectResponse(f"{_root(request)}/bill")

    # -- who asks ------------------------------------------------------------------------------------------------------

    def viewer(self, request: Request) -> Viewer | None:
        """Who asks; None where one must log in first. Without accounts everybody on this machine may look."""
        known = self.accounts.all()
        if not known:
            return NOBODY
        found = self.sessions.find(_token(request), known)
        if found is None:
            return None
        session, account = found
        return Viewer(account.name, account.role == "operator", account.bound(), session)

    async def login(self, request: Request) -> Response:
        then = safe_path(request.query_params.get("then", ""))
        if request.method == "GET":
            return self._login_page(request, then, "")
        form = await _form(request)
        if form is None or not _own(request):
            return self._login_page(request, then, "That did not come from this page.", 403)
        then = safe_path(form.get("then", ""))
        if not self.throttle.allows(_address(request)):
            return self._login_page(request, then, "Too many tries. Wait a minute.", 429)
        name, password = form.get("name", ""), form.get("password", "")
        account = await run_in_threadpool(self.accounts.check, name, password)
        self._write(request, name if account else "", "login", {} if account else {"name": name[:64]}, "in" if account else "refused")
        if account is None:
            return self._login_page(request, then, "No account has that name and password.", 403)
        token, _ = self.sessions.begin(account)
        answer = RedirectResponse(_root(request) + then, 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(_cookie(request), token, httponly=True, secure=secure, samesite="strict", path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        viewer, form = self.viewer(request), await _form(request)
        if (
            viewer is None
            or viewer.session is None
            or form is None
            or not _own(request)
            or not _same(form.get("csrf", ""), viewer.session.csrf)
        ):
            return self._fault(request, "html", 403, "Not done", "That did not come from this page.")
        self.sessions.end(_token(request))
        self._write(request, viewer.name, "logout", {}, "out")
        answer = RedirectResponse(f"{_root(request)}/login", 303)
        answer.delete_cookie(_cookie(request), path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")
        return answer

    async def act(self, request: Request) -> Response:
        """A button. Only for an operator, from our own page, with the session's token; written to the log whatever comes of it."""
        viewer, form = self.viewer(request), await _form(request)
        name = request.path_params["name"]
        if viewer is None or viewer.session is None:
            return self._fault(
                request, "html", 403, "Not done", "Only an account may act: `bursar dashboard accounts add NAME --role operator`."
            )
        if form is None or not _own(request) or not _same(form.get("csrf", ""), viewer.session.csrf):
            self._write(request, viewer.name, name, {}, "refused: not from our page")
            return self._fault(request, "html", 403, "Not done", "That did not come from this page. Load it again and try once more.")
        if not viewer.operator:
            self._write(request, viewer.name, name, {}, "refused: a viewer")
            return self._fault(request, "html", 403, "Not done", "This account may look. One with the role operator may act.")
        if name not in ACTS:
            return self._fault(request, "html", 404, "Not there", "There is no such action.")
        fields = {key: value for key, value in form.items() if key not in ("csrf", "then")}
        try:
            told = await run_in_threadpool(ACTS[name](self.actions), viewer.name, viewer.bound, fields)
        except (Refused, ValueError, LedgerFault) as bad:
            self._write(request, viewer.name, name, fields, f"refused: {bad}")
            return self._fault(request, "html", 409, "Not done", str(bad), viewer)
        self._write(request, viewer.name, name, fields, "done")
        self.desk.forget()
        viewer.session.told = told
        return RedirectResponse(_root(request) + safe_path(form.get("then", "")), 303)

    async def do(self, request: Request) -> Response:
        """A message's link: it asks, and its button acts, once. Who has the link may: it is signed, and runs out."""
        action = request.path_params["action"]
        try:
            policy, _ = self.shelf.policy()
            key = links.key(policy.watch, self.shelf.place.file.parent)
            link = links.read(key, action, request.url.query, self.shelf.clock_us())
        except (links.BadLink, settings.BadPolicy) as bad:
            return self._do_page(request, "Not done", told=str(bad), status=403)
        what = f"alarm {link.about}"
        if action == "stop":
            what = ", ".join(f"{name}={value}" for name, value in links.labels(link).items())
        title, question, button = DO[action]
        if request.method == "GET":
            here = f"{_path(request)}?{request.url.query}"
            return self._do_page(request, title, question=question.format(what), button=button, action=here)
        if not _own(request):
            return self._do_page(request, "Not done", told="That did not come from this page. Open the link again.", status=403)
        who = viewer.name if (viewer := self.viewer(request)) is not None and viewer.name else "a link"
        try:
            told = await run_in_threadpool(links.perform, self.shelf.folder, link, who, self.shelf.clock_us())
        except (links.BadLink, LedgerFault, ValueError) as bad:
            self._write(request, who, f"link {action}", {"about": link.about}, f"refused: {bad}")
            return self._do_page(request, "Not done", told=str(bad), status=409)
        self._write(request, who, f"link {action}", {"about": link.about}, "done")
        self.desk.forget()
        return self._do_page(request, "Done", told=told[:1].upper() + told[1:] + ".")

    def _do_page(
        self, request: Request, title: str, *, told: str = "", question: str = "", button: str = "", action: str = "",
        status: int = 200,
    ) -> Response:  # fmt: skip
        text = self.jinja.get_template("do.html").render(
            page=None, ask=None, nav=[], zone="UTC", theme=_theme(request), root=_root(request), version=self.version, viewer="",
            ledger="", title=title, told=told, question=question, button=button, action=action,
        )  # fmt: skip
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _write(self, request: Request, who: str, what: str, fields: Mapping[str, str], result: str) -> None:
        self.log.write(asks.periods.iso(self.shelf.clock_us()), who, _address(request), what, fields, result)

    def _login_page(self, request: Request, then: str, told: str, status: int = 200) -> Response:
        text = self.jinja.get_template("login.html").render(
            page=None,
            ask=None,
            nav=[],
            zone="UTC",
            theme=_theme(request),
            root=_root(request),
            version=self.version,
            viewer="",
            then=then,
            told=told,
            ledger="",
        )
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _to_login(self, request: Request, ending: str) -> Response:
        if ending == "html":
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(_root(request) + asks.link("login", [("then", _path(request) + query)]), 303)
        return _json({"error": {"title": "Log in first", "text": "This dashboard has accounts."}}, 401)

    # -- pages ---------------------------------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        name, _, _ = _path(request).strip("/").partition(".")
        ending = request.path_params.get("ending", "html")
        viewer = self.viewer(request)
        if viewer is None:
            return self._to_login(request, ending)
        pairs = request.query_params.multi_items()
        moved = _said_by_form(name, pairs)
        if moved is not None:
            return RedirectResponse(_root(request) + moved, 303)
        make = PAGES[name][1] if name in PAGES else INNER[name]
        zone = _zone(request.cookies.get("zone", ""))
        if not self.shelf.exists():
            return (
                self._html(request, _no_ledger(name, self.shelf), None, (), 200, viewer)
                if ending == "html"
                else _json({"rows": []}, 200)
            )
        try:
            kept = self.desk.answer(name, make, pairs, zone, viewer.bound)
        except BadAsk as bad:
            return self._fault(request, ending, 400, "That cannot be asked", str(bad), viewer)
        except (LedgerFault, settings.BadPolicy, ArithmeticError) as bad:
            return self._fault(request, ending, 500, "The ledger gives no answer", str(bad), viewer)
        if kept is None:
            return self._fault(
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
            return _json(blocks.document(kept.page, _root(request), **(about if kept.page.timed else {})), 200)
        if ending == "csv":
            wanted = kept.ask.word("table", kept.page.main)
            table = next((t for t in blocks.every_table(kept.page) if t.id == wanted or not wanted), None)
            if table is None:
                return self._fault(request, "html", 404, "Not there", "This page has no table of that name.", viewer)
            lines = {"content-disposition": f'attachment; filename="bursar-{name}-{table.id}.csv"'}
            return Response(blocks.as_csv(table), media_type="text/csv; charset=utf-8", headers=lines)
        if ending != "html":
            return self._fault(request, "html", 404, "Not there", "Pages end with .json or .csv, or with nothing.", viewer)
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
            theme=_theme(request),
            root=_root(request),
            version=self.version,
            viewer=viewer.name,
            operator=viewer.operator,
            csrf=viewer.session.csrf if viewer.session else "",
            here=_path(request) + (f"?{request.url.query}" if request.url.query else ""),
            ledger="" if viewer.bound else f"Ledger {self.shelf.folder}",
            custom=custom,
            period_words=words,
            period_now=given.get("since") or (ask.said if ask else ""),
            filter_names=FILTER_NAMES,
            kept=_kept(page, ask) if ask else [],
        )
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _fault(self, request: Request, ending: str, status: int, title: str, text: str, viewer: Viewer = NOBODY) -> Response:
        if ending == "json":
            return _json({"error": {"title": title, "text": text}}, status)
        page = Page("", title, [Note("fault", title, [text])], timed=False)
        return self._html(request, page, None, (), status, viewer)


# What a message's link asks: title, question, button.
DO = {
    "stop": ("Stop it?", "No call of {} goes out any more, and running streams end, until somebody resumes it.", "Stop"),
    "ack": ("Seen?", "No more reminders of {}.", "I have seen it"),
    "useful": ("Was it useful?", "{} was worth the message.", "It was useful"),
    "noise": ("Was it noise?", "{} was not worth the message; the next of its kind must say more.", "It was noise"),
}

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


def _zone(text: str) -> str:
    try:
        return asks.checked_zone(unquote(text)) if text else ""
    except BadAsk:
        return ""


def _theme(request: Request) -> str:
    found = request.cookies.get("theme", "")
    return found if found in ("light", "dark") else ""


def _root(request: Request) -> str:
    """What stands before every path of ours: nothing, or /bursar on a gateway."""
    return request.scope.get("root_path", "")


def _path(request: Request) -> str:
    return request.url.path.removeprefix(_root(request))


def _cookie(request: Request) -> str:
    # Cookies know no ports: a dashboard beside the gateway has sessions of its own.
    name = f"{COOKIE}-gateway" if _root(request) else COOKIE
    return f"__Host-{name}" if request.url.scheme == "https" else name


def _token(request: Request) -> str:
    return request.cookies.get(_cookie(request), "")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _own(request: Request) -> bool:
    """Whether a browser says that this came from a page of ours."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    return origin is None or origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


async def _form(request: Request) -> dict[str, str] | None:
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


def safe_path(text: str) -> str:
    """A path of ours to go on to, whatever was asked for: never another host, in none of its spellings."""
    if not text.startswith("/") or text[1:2] in ("/", "\\") or not text.isprintable() or "\\" in text:
        return "/bill"
    parts = urlsplit(text)
    name = parts.path.strip("/").partition(".")[0]
    return text if not parts.scheme and not parts.netloc and (name in PAGES or name in INNER) else "/bill"


def _no_ledger(name: str, shelf: Shelf) -> Page:
    return Page(
        name,
        PAGES[name][0] if name in PAGES else "Nothing yet",
        [
            Note(
                "empty",
                "There is no ledger here yet",
                [f"{shelf.folder} has none. It appears with the first call:"],
                "bursar serve\nexport OPENAI_BASE_URL=http://127.0.0.1:8787/v1\nexport ANTHROPIC_BASE_URL=http://127.0.0.1:8787\n\n"
                "# or look around in a simulated company's ledger\nbursar demo\nbursar dashboard --ledger demo-ledger",
            )
        ],
        timed=False,
    )


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
