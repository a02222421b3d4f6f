"""What a form sends to the dashboard: a log-in, a log-out, a button, a message's link that was opened. Each is written to the log,
whatever comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ...stores.fault import LedgerFault
from .. import links, settings
from . import asks, sent
from .accounts import Log, Throttle
from .actions import ACTS, Actions, Refused
from .pages import safe_path

if TYPE_CHECKING:
    from .app import Web

# What a message's link asks: title, question, button.
DO = {
    "stop": ("Stop it?", "No call of {} goes out any more, and running streams end, until somebody resumes it.", "Stop"),
    "ack": ("Seen?", "No more reminders of {}.", "I have seen it"),
    "useful": ("Was it useful?", "{} was worth the message.", "It was useful"),
    "noise": ("Was it noise?", "{} was not worth the message; the next of its kind must say more.", "It was noise"),
}


class Forms:
    """Who may do what; what is done is `actions`' and `links`' business."""

    def __init__(self, web: Web, log: Log, actions: Actions) -> None:
        self._web, self._log, self._actions = web, log, actions
        self._throttle = Throttle()

    async def login(self, request: Request) -> Response:
        then = safe_path(request.query_params.get("then", ""))
        if request.method == "GET":
            return self._login_page(request, then, "")
        form = await sent.form(request)
        if form is None or not sent.own(request):
            return self._login_page(request, then, "That did not come from this page.", 403)
        then = safe_path(form.get("then", ""))
        if not self._throttle.allows(sent.address(request)):
            return self._login_page(request, then, "Too many tries. Wait a minute.", 429)
        name, password = form.get("name", ""), form.get("password", "")
        account = await run_in_threadpool(self._web.accounts.check, name, password)
        self._write(request, name if account else "", "login", {} if account else {"name": name[:64]}, "in" if account else "refused")
        if account is None:
            return self._login_page(request, then, "No account has that name and password.", 403)
        token, _ = self._web.sessions.begin(account)
        answer = RedirectResponse(sent.root(request) + then, 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(sent.cookie(request), token, httponly=True, secure=secure, samesite="strict", path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        viewer, form = self._web.viewer(request), await sent.form(request)
        if (
            viewer is None
            or viewer.session is None
            or form is None
            or not sent.own(request)
            or not sent.same(form.get("csrf", ""), viewer.session.csrf)
        ):
            return self._web.fault(request, "html", 403, "Not done", "That did not come from this page.")
        self._web.sessions.end(sent.token(request))
        self._write(request, viewer.name, "logout", {}, "out")
        answer = RedirectResponse(f"{sent.root(request)}/login", 303)
        answer.delete_cookie(sent.cookie(request), path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")
        return answer

    async def act(self, request: Request) -> Response:
        """A button. Only for an operator, from our own page, with the session's token; written to the log whatever comes of it."""
        viewer, form = self._web.viewer(request), await sent.form(request)
        name = request.path_params["name"]
        if viewer is None or viewer.session is None:
            return self._web.fault(
                request, "html", 403, "Not done", "Only an account may act: `bursar dashboard accounts add NAME --role operator`."
            )
        if form is None or not sent.own(request) or not sent.same(form.get("csrf", ""), viewer.session.csrf):
            self._write(request, viewer.name, name, {}, "refused: not from our page")
            told = "That did not come from this page. Load it again and try once more."
            return self._web.fault(request, "html", 403, "Not done", told)
        if not viewer.operator:
            self._write(request, viewer.name, name, {}, "refused: a viewer")
            return self._web.fault(request, "html", 403, "Not done", "This account may look. One with the role operator may act.")
        if name not in ACTS:
            return self._web.fault(request, "html", 404, "Not there", "There is no such action.")
        fields = {key: value for key, value in form.items() if key not in ("csrf", "then")}
        try:
            told = await run_in_threadpool(ACTS[name](self._actions), viewer.name, viewer.bound, fields)
        except (Refused, ValueError, LedgerFault) as bad:
            self._write(request, viewer.name, name, fields, f"refused: {bad}")
            return self._web.fault(request, "html", 409, "Not done", str(bad), viewer)
        self._write(request, viewer.name, name, fields, "done")
        self._web.desk.forget()
        viewer.session.told = told
        return RedirectResponse(sent.root(request) + safe_path(form.get("then", "")), 303)

    async def do(self, request: Request) -> Response:
        """A message's link: it asks, and its button acts, once. Who has the link may: it is signed, and runs out."""
        action = request.path_params["action"]
        try:
            policy, _ = self._web.shelf.policy()
            key = links.key(policy.watch, self._web.shelf.place.file.parent)
            link = links.read(key, action, request.url.query, self._web.shelf.clock_us())
        except (links.BadLink, settings.BadPolicy) as bad:
            return self._do_page(request, "Not done", told=str(bad), status=403)
        what = f"alarm {link.about}"
        if action == "stop":
            what = ", ".join(f"{name}={value}" for name, value in links.labels(link).items())
        title, question, button = DO[action]
        if request.method == "GET":
            here = f"{sent.path(request)}?{request.url.query}"
            return self._do_page(request, title, question=question.format(what), button=button, action=here)
        if not sent.own(request):
            return self._do_page(request, "Not done", told="That did not come from this page. Open the link again.", status=403)
        who = viewer.name if (viewer := self._web.viewer(request)) is not None and viewer.name else "a link"
        try:
            told = await run_in_threadpool(links.perform, self._web.shelf.folder, link, who, self._web.shelf.clock_us())
        except (links.BadLink, LedgerFault, ValueError) as bad:
            self._write(request, who, f"link {action}", {"about": link.about}, f"refused: {bad}")
            return self._do_page(request, "Not done", told=str(bad), status=409)
        self._write(request, who, f"link {action}", {"about": link.about}, "done")
        self._web.desk.forget()
        return self._do_page(request, "Done", told=told[:1].upper() + told[1:] + ".")

    def _write(self, request: Request, who: str, what: str, fields: Mapping[str, str], result: str) -> None:
        self._log.write(asks.periods.iso(self._web.shelf.clock_us()), who, sent.address(request), what, fields, result)

    def _login_page(self, request: Request, then: str, told: str, status: int = 200) -> Response:
        return self._bare(request, "login.html", status, then=then, told=told)

    def _do_page(
        self, request: Request, title: str, *, told: str = "", question: str = "", button: str = "", action: str = "",
        status: int = 200,
    ) -> Response:  # fmt: skip
        return self._bare(request, "do.html", status, title=title, told=told, question=question, button=button, action=action)

    def _bare(self, request: Request, template: str, status: int, **more: str) -> Response:
        """A page that shows nothing of the ledger: for whoever has not said who he is."""
        text = self._web.jinja.get_template(template).render(
            page=None, ask=None, nav=[], zone="UTC", theme=sent.theme(request), root=sent.root(request), version=self._web.version,
            viewer="", ledger="", **more,
        )  # fmt: skip
        return Response(text, status, media_type="text/html; charset=utf-8")
