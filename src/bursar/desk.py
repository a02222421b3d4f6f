"""What lies ready when a call comes in, and the shapes of one try: who asks, whom to ask, under which price and limits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .domain.call import (
    Answer,
    Edit,
)
from .domain.entry import Charge
from .domain.incident import Incident
from .domain.policy import Fallback
from .domain.price import Price
from .domain.shape import Shape
from .effects import Effect
from .rules import budget, estimate, tools
from .rules.budget import Budgets
from .rules.guard import Guards
from .rules.order import Orders
from .rules.tools import ToolPrices
from .wire import Route
from .wire.history import BUILT_IN, Signs

if TYPE_CHECKING:
    from .controls import Controls  # some 35 ms that a process without controls does not pay


class Prices(Protocol):
    """What the pipeline needs of a price book."""

    def find(self, provider: str, model: str, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None: ...
    def dearest(self, provider: str, model: str = "") -> Price | None: ...


class ProviderRule(Shape, frozen=True, gc=False):
    """A provider as the pipeline sees it: no address and no secret, those stay at the edge."""

    name: str
    family: str  # openai | anthropic | gemini | ""
    prices: str  # whose prices apply
    retries: int = 0
    own_key: bool = False  # the edge puts the operator's key on; the caller's is not sent


class Caller(Shape, frozen=True, gc=False):
    """Who asks, as the edge has established it."""

    key: str = ""
    bound: Mapping[str, str] = {}
    models: tuple[str, ...] = ()
    context: Mapping[str, str] = {}
    ci: str = ""  # the build service whose environment the caller's process runs in
    tools: Mapping[str, int] = {}  # what its own tools cost, pico-dollars a call
    failed: tuple[str, ...] = ()  # … those that have failed since its last call
    kept: tuple[str, ...] = ()  # … and one for each result it had kept
    proxy: bool = True  # a gateway drops cookies and forwarding headers; inside the caller's process nothing is foreign


class Desk(Shape, frozen=True, gc=False):
    """What lies ready when a call comes in: an immutable snapshot, swapped whole on reload."""

    providers: Mapping[str, ProviderRule]
    defaults: Mapping[str, str]  # family -> provider for paths that name none
    budgets: Budgets
    fallbacks: tuple[Fallback, ...]
    labels: Mapping[str, str]
    prices: Prices
    resolve: Callable[[str, str], Route]
    output_cap: int
    output_assumed: int
    gather_max: int
    policy_hash: str
    node: str
    signs: Signs = BUILT_IN  # of failures, the operator's own among them
    tiers: tuple[str, ...] = ()  # models of [tiers]
    controls: Controls | None = None  # reply cache, tiers, compaction
    polls: Mapping[str, int] = {}  # tools that are polled -> how often one may say the same in a row
    tools: ToolPrices = tools.NONE
    guards: Guards = Guards()
    orders: Orders = Orders()  # changed in place, when somebody orders something
    content_us: int = 0  # how long the last messages of a stopped conversation are kept; 0: not at all


Way = Generator[Effect, Any, None]
Left = tuple[int, int] | None  # of the hard limit with the least share left: (which charge, what is left)

# Tokens assumed for input that bytes cannot bound, where the book does not know the model's window.
CONTEXT_WINDOW = 200_000


class Trial(Shape, frozen=True, gc=False):
    """The next try: whom to ask for which model, and why it is not the first."""

    provider: ProviderRule
    model: str
    kind: str = "first"
    cause: str = ""
    retries: int = 0
    seen: tuple[tuple[str, str], ...] = ()
    line: str = ""  # the model that this is the fallback from
    failed: Answer | None = None  # what the client gets when this try would pass its ceiling


class Plan(Shape, frozen=True, gc=False):
    worst: int  # pico-dollars
    charges: tuple[Charge, ...]
    price: Price | None
    edits: tuple[Edit, ...]
    ratio: estimate.Ratio
    scopes: budget.Scopes  # in the order of the charges
    tool_calls: int = 0  # new results of tools
    wound: int = 0  # 1: the agent is told to end
    most: int = 0  # bytes of text after which a stream has outgrown its hold for sure; 0: no hard budget asks
    compact: bool = False  # a ladder asks for a shorter history
    incidents: tuple[Incident, ...] = ()
