"""The books of a process that calls providers itself: opened once, shared by its clients, and which provider a URL belongs to."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from .. import drive, wire
from ..desk import Desk, ProviderRule
from ..domain.call import Answer, Ended, Fault, Headers
from ..domain.entry import Entry, Settlement
from ..domain.entry import Hold as HoldRecord
from ..domain.shape import replace
from ..domain.verdict import refuse
from ..rules import record
from ..rules.budget import compile_budgets
from ..stores.pricebook import BrokenBook, provider_of_host
from ..stores.writer import LedgerFault
from . import price_sync, settings, wiring

if TYPE_CHECKING:
    from ..drive import Journey

log = logging.getLogger("bursar")

# Variable that SDKs and frameworks read -> provider, and what they expect below its origin.
BASE_URLS: tuple[tuple[str, str, str], ...] = (
    ("OPENAI_BASE_URL", "openai", "/v1"),
    ("OPENAI_API_BASE", "openai", "/v1"),  # LangChain, LiteLLM
    ("ANTHROPIC_BASE_URL", "anthropic", ""),
    ("ANTHROPIC_API_URL", "anthropic", ""),  # LangChain
    ("GOOGLE_GEMINI_BASE_URL", "gemini", ""),
    ("GROQ_BASE_URL", "groq", ""),
)
AGAIN_S = 10.0  # between two attempts to open books that could not be opened
ORIGINS_MAX = 1024
LEAVE_S = 5.0  # how long an exiting process waits for the rows of streams that nobody read to their end


class Place(NamedTuple):
    """Who serves a URL, for the pipeline."""

    desk: Desk
    provider: str
    prefix: str  # path of the configured base_url: what is in front of the provider's own path


class Books:
    """One policy and one ledger for all wrapped clients of this process. The policy is read at once (BadPolicy), the ledger
    opened at the first call."""

    def __init__(self, path: Path | None, policy: Any, folder: Path) -> None:
        self.policy, self.folder = policy, folder
        self._path = path
        self._places = wiring.addresses(policy, keys_from_environment=False)
        self._closed = next((rule.name for rule in compile_budgets(policy.budget, ZoneInfo) if rule.closed), "")
        # Two providers may share a host below different paths: for those the whole URL decides, each time.
        self._by_path = {_origin(a.base_url) for a in self._places.values() if urlsplit(a.base_url).path}
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._again = 0.0
        self._why = ""
        self._known: dict[str, bool] = {}
        self._desks: dict[str, Place] = {}
        self._left: queue.SimpleQueue[tuple[Journey, Fault | Ended] | None] = queue.SimpleQueue()
        self._leaver: threading.Thread | None = None
        self._streams: set[Journey] = set()
        self._shop: wiring.Shop | None = getattr(self, "_shop", None)  # the ledger itself opens again after a fork

    # -- opening -----------------------------------------------------------------------------------------------------

    def shop(self) -> wiring.Shop | None:
        """Policy, prices and ledger; None while they cannot be opened (logged, tried again every ten seconds)."""
        return self._shop or self._open()

    @property
    def opened(self) -> bool:
        """Whether `shop()` answers at once. Opening takes some 30 ms, and a second where the prices are still to be compiled."""
        return self._shop is not None

    def _open(self) -> wiring.Shop | None:
        with self._lock:
            if self._shop is not None or time.monotonic() < self._again:
                return self._shop
            try:
                self._shop = wiring.open_shop(self._path, self.folder)
            except (LedgerFault, settings.BadPolicy, BrokenBook, price_sync.SyncFailed, OSError) as fault:
                self._again = time.monotonic() + AGAIN_S
                self._why = str(fault)
                log.error("the books cannot be opened, calls are not recorded: %s", fault)
                return None
            # After the ledger's own: exit handlers run last in, first out, and the ledger must still be open.
            atexit.register(self._at_exit)
            return self._shop

    def closed(self, method: str, path: str) -> Answer | None:
        """While the books cannot be opened: a refusal when a budget is to be kept even then, else None."""
        if not self._closed:
            return None
        refusal = refuse(
            "budget_unverifiable", f"the ledger cannot say whether budget {self._closed!r} has room: {self._why}",
            'repair it (`bursar doctor`); on_fault = "open" on the budget lets calls through meanwhile', 5,
        )  # fmt: skip
        headers, body = plain_resolve(method, path).dialect.refuse(refusal)
        return Answer(refusal.status, [*headers, (b"x-bursar-verdict", b"refused:budget_unverifiable")], body)

    # -- whose URL it is ---------------------------------------------------------------------------------------------

    def known(self, origin: str, url: object) -> bool:
        """Whether a URL is a provider's: an address in the policy or in the SDKs' own variables, or a host everybody knows."""
        found = self._known.get(origin)
        if found is None or origin in self._by_path:
            found = bool(
                wiring.provider_for(self._places, str(url))
                or provider_of_host(urlsplit(origin).netloc)
                or origin in (_origin(os.environ.get(variable, "")) for variable, _, _ in BASE_URLS)
            )
            if len(self._known) >= ORIGINS_MAX:
                self._known = {}
            self._known[origin] = found
        return found

    def place(self, shop: wiring.Shop, origin: str, url: object, method: str, path: str) -> Place:
        """The desk that knows this URL's provider. A host nobody has named is a provider by its own name."""
        found = self._desks.get(origin)
        if found is not None and origin not in self._by_path:
            return found
        name = wiring.provider_for(shop.addresses, str(url))
        prefix = urlsplit(shop.addresses[name].base_url).path if name else ""
        name = name or provider_of_host(urlsplit(origin).netloc) or urlsplit(origin).netloc
        desk = replace(shop.desk, resolve=plain_resolve)
        if name not in desk.providers:
            rule = ProviderRule(name, plain_resolve(method, path).family, name)
            desk = replace(desk, providers={**desk.providers, name: rule})
        if len(self._desks) >= ORIGINS_MAX:
            self._desks = {}
        found = self._desks[origin] = Place(desk, name, prefix)
        return found

    # -- calls that were left ----------------------------------------------------------------------------------------

    def stream(self, journey: Journey) -> None:
        """A stream goes out to its reader, who may leave it. Kept here, because a stream that is collected as garbage
        would find its own journey finalised before it could be booked. The thread that would book it is started here,
        not when it is left: see `leave`."""
        self._streams.add(journey)
        if self._leaver is None:
            with self._lock:
                if self._leaver is None:
                    self._leaver = threading.Thread(target=self._book_left, name="bursar-left", daemon=True)
                    self._leaver.start()

    def streamed(self, journey: Journey) -> None:
        """Its reader drove it to its end."""
        self._streams.discard(journey)

    def leave(self, journey: Journey, value: Fault | Ended) -> None:
        """Book a call whose caller is gone, from another thread: this may run inside a garbage collection that began in
        the middle of the ledger's own work, where waiting for its lock would be waiting for ourselves. A stream that a
        forked child inherited is its parent's to book."""
        if journey in self._streams:
            self._left.put((journey, value))

    def _book_left(self) -> None:
        while (item := self._left.get()) is not None:
            drive.shielded(self._book_one, *item)

    def _book_one(self, journey: Journey, value: Fault | Ended) -> None:
        self._streams.discard(journey)
        book = journey.leave(value)
        if book is None or self._shop is None:
            return
        try:
            self._shop.ledger.book(book.settlement)
        except LedgerFault as fault:
            log.error("the row of an abandoned call is late: %s", fault)

    def settle(self) -> None:
        """Wait until every call left so far has its row; for tests and for the end."""
        leaver = self._leaver
        if leaver is None:
            return
        self._left.put(None)
        leaver.join(LEAVE_S)
        self._leaver = None

    def _at_exit(self) -> None:
        for journey in list(self._streams):
            self.leave(journey, Ended("client_gone"))
        self.settle()

    # -- calls that went on without us ---------------------------------------------------------------------------------

    def trace(self, shop: wiring.Shop, call_id: str, ts_us: int, provider: str, held: HoldRecord | None, status: int | None) -> None:
        """A row for a call that a fault of ours has let pass: what it cost is unknown, and said to be."""
        if held is not None:
            settlement = record.no_answer(held, Fault("internal_fault", "a fault of Bursar's own", True))
            settlement = replace(settlement, entry=settlement.entry._replace(http_status=status, flags="own_fault"))
        else:
            entry = Entry(
                f"{call_id}.1", ts_us, call_id, 1, provider=provider, status="unknown", http_status=status,
                error="internal_fault", flags="own_fault", node=shop.desk.node, policy_hash=shop.desk.policy_hash,
            )  # fmt: skip
            settlement = Settlement(entry.id, entry, ())
        try:
            shop.ledger.book(settlement)
        except LedgerFault as fault:
            log.error("the row of a call is late: %s", fault)

    def credentials(self, provider: str) -> tuple[str, Headers] | None:
        """Base URL and auth header of another configured provider, for a fallback; None when it has no key of its own:
        the caller's key was given for another address and goes nowhere else."""
        address = self._places.get(provider)
        if address is None or not address.key:
            return None
        name = {"anthropic": b"x-api-key", "gemini": b"x-goog-api-key"}.get(address.family, b"authorization")
        secret = address.key.encode()
        return address.base_url, [(name, b"Bearer " + secret if name == b"authorization" else secret)]


plain_resolve = wire.resolver({})  # a wrapped client's path has no provider's name in front: /openai/… is Azure's own
_all: dict[tuple[str, str], Books] = {}
_all_lock = threading.Lock()


def books(config: str | os.PathLike[str] | None = None, ledger: str | os.PathLike[str] | None = None) -> Books:
    """The process's books for this policy and ledger, made when first asked for. BadPolicy when the policy cannot be used."""
    path = settings.find(config)
    policy, policy_hash = settings.load(path)
    folder = wiring.ledger_folder(policy, ledger).absolute()
    key = (f"{path.absolute()}#{policy_hash}" if path else "", str(folder))
    with _all_lock:
        if key not in _all:
            _all[key] = Books(path, policy, folder)
        return _all[key]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _after_fork() -> None:
    """In the child: threads and locks of the parent are gone or stuck."""
    global _all_lock
    _all_lock = threading.Lock()
    for one in _all.values():
        one._fresh()


os.register_at_fork(after_in_child=_after_fork)
