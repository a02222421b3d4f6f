"""The composition root: policy, price book and ledger become a desk and a shop. Gateway, wrapper and tests all start here."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from .. import wire
from ..desk import Desk, ProviderRule
from ..domain.policy import Policy, Provider
from ..domain.price import Price
from ..domain.thread import Ask, Heard, Landmark, Placed
from ..effects import Sample
from ..rules import estimate, guard, reach, reuse, thread
from ..rules.alarm_policy import length
from ..rules.budget import BudgetRule, Budgets, ceilings, compile_budgets, parse_limit
from ..rules.order import Orders
from ..rules.tools import ToolPrices
from ..stores import incidents
from ..stores.glance import Glance
from ..stores.price_override import compile_tool
from ..stores.pricebook import PriceBook
from ..stores.schema import Place
from ..stores.threads import TTL_US, Shelf, Threads
from ..stores.writer import Ledger
from ..wire import failure
from ..wire.history import Signs
from . import context, price_sync, settings

if TYPE_CHECKING:
    from ..controls import Controls
    from .controls import Savings

# What a provider is when nobody configured it: address, family, and the variable its key is usually in.
BUILT_IN: dict[str, tuple[str, str, str]] = {
    "openai": ("https://api.openai.com", "openai", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com", "anthropic", "ANTHROPIC_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com", "gemini", "GEMINI_API_KEY"),
    "openrouter": ("https://openrouter.ai", "openai", "OPENROUTER_API_KEY"),
    "groq": ("https://api.groq.com", "openai", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai", "openai", "MISTRAL_API_KEY"),
    "deepseek": ("https://api.deepseek.com", "openai", "DEEPSEEK_API_KEY"),
    "xai": ("https://api.x.ai", "openai", "XAI_API_KEY"),
}
RATIOS_MAX = 4096


def now_us() -> int:
    """Wall clock, microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def node() -> str:
    """This machine, as it stands in rows."""
    return os.environ.get("BURSAR_NODE") or socket.gethostname()


def data_home() -> Path:
    """Where a ledger lies when nobody says: BURSAR_HOME, else the user's data folder."""
    home = os.environ.get("BURSAR_HOME")
    if home:
        return Path(home)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "bursar"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "bursar"


def ledger_folder(policy: Policy, explicit: str | os.PathLike[str] | None = None) -> Path:
    """The ledger in force: the one given, BURSAR_LEDGER, the policy's, or the user's own."""
    return Path(explicit or os.environ.get("BURSAR_LEDGER") or policy.ledger.path or data_home() / "ledger")


class Address(NamedTuple):
    """Where a provider is and what opens it. The secret is bound to this scheme, host and port and goes nowhere else."""

    name: str
    base_url: str
    family: str
    key: str  # the operator's secret; empty: the caller's own goes through
    table: Provider

    def __repr__(self) -> str:
        return f"Address({self.name!r}, {self.base_url!r})"


class Ratios:
    """Bytes per token as learnt per provider and model: bounded, oldest forgotten first; forgetting costs only accuracy."""

    def __init__(self, most: int = RATIOS_MAX) -> None:
        self._known: OrderedDict[tuple[str, str], estimate.Ratio] = OrderedDict()
        self._most = most

    def recall(self, provider: str, model: str) -> estimate.Ratio:
        return self._known.get((provider, model), estimate.START)

    def learn(self, sample: Sample) -> None:
        key = (sample.provider, sample.model)
        self._known[key] = estimate.learn(
            self._known.get(key, estimate.START),
            sample.input_bytes,
            sample.input_tokens,
            sample.output_bytes,
            sample.output_tokens,
        )
        if len(self._known) > self._most:
            self._known.popitem(last=False)


# Of a process that has not kept anything yet, and loads nothing for it.
NOTHING_KEPT = dict.fromkeys(("replies", "bytes", "evicted", "troubles", "unwritten", "near_questions", "near_evicted"), 0)


class Memory:
    """What one process remembers between calls: bytes per token, the conversations, and what makes the next call cheaper."""

    def __init__(self, threads: Threads | None = None, folder: Path | None = None) -> None:
        self.ratios = Ratios()
        self._folder = folder
        self._kept: tuple[int, bool] | None = None  # most bytes of replies, and whether they are to lie on disk
        self._controls: Savings | None = None
        self.threads = Threads() if threads is None else threads
        self.recall = self.ratios.recall
        # Calls come from many threads in a wrapper; a conversation is changed by one of them at a time.
        self._lock = threading.Lock()

    @property
    def controls(self) -> Savings:
        """Made at the first call that wants it."""
        if self._controls is None:
            with self._lock:
                if self._controls is None:
                    from .controls import Savings

                    self._controls = Savings(self._folder) if self._kept is None else Savings(self._folder, *self._kept)
        return self._controls

    def kept(self) -> Mapping[str, int]:
        """What the reply cache holds."""
        return self._controls.stats() if self._controls is not None else NOTHING_KEPT

    def reloaded(self, policy: Policy) -> None:
        """The policy that is in force from now on."""
        with self._lock:
            self._kept = reuse.size(policy.cache.bytes), reuse.compiled(policy.cache) is not None
            if self._controls is not None:
                self._controls.reloaded(*self._kept)

    def close(self) -> None:
        if self._controls is not None:
            self._controls.close()

    def follow(self, ask: Ask) -> Placed:
        with self._lock:
            return thread.follow(self.threads, ask)

    def heard(self, heard: Heard) -> tuple[Landmark, ...]:
        with self._lock:
            return thread.heard(self.threads, heard)


ORDERS_S = 0.4  # between two looks at what people ordered: it must act within a second


class OrderWatch:
    """Brings what people ordered to the desk in force: stops, resumed conversations, raised budgets."""

    def __init__(self, place: Place, clock_us: Callable[[], int]) -> None:
        self._glance, self._clock_us = Glance(place), clock_us
        self._seen: tuple[int, int, int] | None = None
        self._budgets: object = None  # those of the last desk that was told
        self._tried: object = None
        self._due = 0.0

    def look(self, desk: Desk) -> bool:
        """Whether there was anything new. Cheap enough for each call: looks twice a second, and at once at a new desk."""
        if time.monotonic() < self._due and desk.budgets is self._tried:
            return False
        self._tried = desk.budgets
        self._due = time.monotonic() + ORDERS_S
        now = self._clock_us()
        found = self._glance.ask(lambda c: (incidents.version(c, now), incidents.in_force(c, now)), None)
        if found is None or (found[0] == self._seen and desk.budgets is self._budgets):
            return False
        self._seen, self._budgets = found[0], desk.budgets
        desk.orders.take(found[1])
        raised: dict[str, int] = {}
        for name, text in desk.orders.raises.items():
            with contextlib.suppress(ValueError):  # was checked when it was ordered
                raised[name] = parse_limit(text).amount
        desk.budgets.ordered(raised, desk.orders.lives)
        return True


class Shop(NamedTuple):
    """Everything one process works with. `policy_path` is what a reload reads again."""

    desk: Desk
    ledger: Ledger
    addresses: Mapping[str, Address]
    memory: Memory
    policy: Policy
    policy_path: Path | None
    folder: Path
    clock_us: Callable[[], int]
    watch: OrderWatch
    ci: str = ""  # the build service that a wrapped client's process runs in
    built: Mapping[str, str] = {}  # … and what calls say there where nobody says it


def addresses(policy: Policy, *, keys_from_environment: bool) -> dict[str, Address]:
    """Every provider that can be reached: the built-in ones as the policy changes them, and the policy's own."""
    found: dict[str, Address] = {}
    for name in [*BUILT_IN, *(n for n in policy.providers if n not in BUILT_IN)]:
        table = policy.providers.get(name, Provider())
        base, family, variable = BUILT_IN.get(name, ("", "openai", ""))
        base = (table.base_url or base).rstrip("/")
        if not base:
            raise settings.BadPolicy(f'providers.{name}: no base_url; write base_url = "https://host"')
        if table.key == "client":
            key = ""
        elif table.key:
            try:
                key = settings.secret(table.key, f"providers.{name}.key")
            except settings.BadPolicy:
                # Inside the caller's process its client has a key of its own; a gateway without the operator's could do nothing.
                if keys_from_environment:
                    raise
                key = ""
        else:
            # A key from the environment belongs to the provider's own address: a changed base_url does not inherit it.
            key = os.environ.get(variable, "") if keys_from_environment and variable and not table.base_url else ""
        found[name] = Address(name, base, table.dialect or family, key, table)
    return found


def _controls(policy: Policy) -> Controls | None:
    if not policy.controlled:
        return None
    from ..controls import compiled  # loaded where it is wanted

    return compiled(policy)


def desk_of(policy: Policy, policy_hash: str, places: Mapping[str, Address], book: PriceBook, node: str) -> Desk:
    """The snapshot that calls are judged by."""
    rules = {
        a.name: ProviderRule(a.name, a.family, a.table.prices or a.name, a.table.retries, bool(a.key))
        for a in places.values()
    }
    families = {name: a.family for name, a in places.items()}
    return Desk(
        providers=rules,
        defaults={"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"},
        budgets=Budgets([*budget_rules(policy), *ceilings(policy.fallback, UTC)]),
        fallbacks=tuple(policy.fallback),
        labels=policy.labels,
        prices=book,
        resolve=wire.resolver(families),
        output_cap=policy.guard.output_cap,
        output_assumed=policy.guard.output_assumed,
        gather_max=policy.server.gather_max,
        policy_hash=policy_hash,
        node=node,
        signs=Signs([failure.sign(t.name, "" if t.name == "*" else t.name, text) for t in policy.tool for text in t.failed]),
        polls={tool.name: tool.polls for tool in policy.tool if tool.polls},
        tools=ToolPrices(tuple(compile_tool(line, n) for n, line in enumerate(policy.price) if line.tool)),
        guards=guard.Guards(policy.guard),
        orders=Orders(),
        content_us=length(policy.retention.content, "content") if policy.retention.content else 0,
        controls=_controls(policy),
        tiers=tiers_of(policy),
    )


def tiers_of(policy: Policy) -> tuple[str, ...]:
    """The models of [tiers], for a budget's rung `cheaper`."""
    names = (policy.tiers.cheap, policy.tiers.standard, policy.tiers.premium)
    return tuple([name for one in names if one for name in ([one] if isinstance(one, str) else one) if "/" not in name])


def budget_rules(policy: Policy) -> list[BudgetRule]:
    """All budgets of a policy, in the order of its file; then those that `[guard]` makes."""
    return [*compile_budgets(policy.budget, ZoneInfo), *guard.budgets(policy.guard)]


def reachable(policy: Policy, path: Path | None, book: PriceBook, places: Mapping[str, Address], folder: Path) -> None:
    """BadPolicy where a budget can never trip, for what prices and created keys tell."""
    from . import keys  # which needs this module

    rules = compile_budgets(policy.budget, ZoneInfo)
    if not any(name in ("model", "key") for rule in rules for name, _ in rule.wants):
        return
    now = now_us()

    def find(provider: str, model: str) -> Price | None:
        asked = [places[provider]] if provider in places else list(places.values())
        names = [place.table.prices or place.name for place in asked]
        found = [price for name in names if (price := book.find(name, model, now)) is not None]
        return next((price for price in found if not price.estimated), None)

    made = frozenset((*[record.name for record in keys.listed(folder)], *[key.name for key in policy.key]))
    for number, why in reach.of_world(rules, find, lambda p, m: find(p, m) is not None, made, tiers_of(policy)):
        raise settings.BadPolicy(f"{settings.line_of(path, number)}: [[budget]]: {why}")


def open_shop(
    config: str | os.PathLike[str] | None = None,
    ledger: str | os.PathLike[str] | None = None,
    *,
    mode: str = "wrapper",
    clock_us: Callable[[], int] = now_us,
    policy: Policy | None = None,
) -> Shop:
    """Read the policy, load the prices, open the ledger. BadPolicy or LedgerFault says what is wrong and what to do."""
    path = None
    if policy is None:
        path = settings.find(config)
        policy, policy_hash = settings.load(path)
    else:
        policy_hash = "given"
    place = ledger_folder(policy, ledger)
    folder = place.parent if place.suffix == ".db" else place  # prices and keys lie beside the ledger's file
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    book = PriceBook.load(price_sync.ensure_book(folder), policy.price)
    places = addresses(policy, keys_from_environment=mode == "gateway")
    reachable(policy, path, book, places, folder)
    desk = desk_of(policy, policy_hash, places, book, node())
    opened = Ledger.open(place, node=node(), clock_us=clock_us, mode=mode)
    memory = Memory(Threads(shelf=Shelf(opened.place, TTL_US, clock_us).find), folder)
    memory.reloaded(policy)
    watch = OrderWatch(opened.place, clock_us)
    watch.look(desk)
    service, built = context.build_service(os.environ), context.build_labels(os.environ)
    return Shop(desk, opened, places, memory, policy, path, folder, clock_us, watch, service, built)


def provider_for(places: Mapping[str, Address], url: str) -> str:
    """Which provider a URL belongs to: by the configured addresses, else by well-known hosts, else the host itself."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    for address in places.values():
        if address.base_url == origin or url.startswith(address.base_url + "/"):
            return address.name
    return ""
