"""Everything an operator may say, as typed data, and the source of the JSON schema. Unknown keys are refused by the decoder."""

from __future__ import annotations

from typing import Literal

import msgspec

from .labels import CHARGEABLE


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the policy file."""


class Provider(Record, frozen=True):
    """`[providers.NAME]`: where calls below `/NAME/…` go. `base_url` is an origin: /NAME/v1/x goes to base_url + /v1/x."""

    base_url: str = ""
    key: str = ""  # env:NAME, file:PATH, a literal, or "client" to forward the caller's own; empty: NAME's usual variable, else client
    dialect: Literal["", "openai", "anthropic", "gemini"] = ""
    prices: str = ""  # which provider's prices apply, when the name does not say
    timeout_s: float = 600.0  # to the response head
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0  # between two pieces of a body
    retries: int = 0  # our own, before the first relayed byte; SDKs retry by themselves
    on_disconnect: Literal["abort", "drain"] = (
        "abort"  # a stream whose client left: cancel it, or read on for the exact usage
    )
    drain_s: float = 60.0


class Ladder(Record, frozen=True):
    """`[budget.ladder]`: what happens on the way to the limit, each from a share of it on, such as "80%"."""

    warn: str = ""  # an incident
    cheaper: str = ""  # the next cheaper model of [tiers]
    compact: str = ""  # old tool results leave the messages
    wind_down: str = ""  # the agent is told to end, once; after that the call is stopped


class Budget(Record, frozen=True):
    """`[[budget]]`: a limit on a scope in a window. `scope` is a label name (each of its values has the limit), or a table of
    label = value; `"*"` in a table means each value of that label; "call" is each call alone."""

    scope: str | dict[str, str]
    limit: str  # "$50", "2M tokens", "500 calls", "15 tool_calls"
    name: str = ""
    window: str = "month"  # day | week | month | Nh | Nd | conversation | forever
    zone: str = "UTC"
    hard: bool = True
    on_fault: Literal["", "closed", "open"] = ""  # empty: closed when hard, open when soft
    ladder: Ladder = Ladder()
    stop: Literal["", "reply", "error"] = ""  # how a call that does not fit is answered; empty: reply for conversations, else error


class Fallback(Record, frozen=True):
    """`[[fallback]]`: what to ask when a try fails before its first relayed byte."""

    from_: str = msgspec.field(name="from")
    to: str | list[str]  # a model of the same dialect, or provider/model
    on: list[Literal["5xx", "429", "timeout", "connect", "reset", "malformed"]] = msgspec.field(
        default_factory=lambda: ["5xx", "connect"]
    )
    ceiling: str = ""  # "$20": most that its tries may cost in a day (UTC); beyond that the client gets the failure


class PriceOverride(Record, frozen=True):
    """`[[price]]`: your own price, in dollars per million tokens as strings or whole numbers; later lines win. Of a tool: dollars a
    call."""

    model: str = ""  # exact, or with * as a wildcard
    tool: str = ""  # in place of a model, its name as the messages have it; with * as a wildcard
    call: str | int | None = None  # dollars that one call of the tool costs
    provider: str = ""
    input: str | int | None = None
    output: str | int | None = None
    cache_read: str | int | None = None
    cache_write: str | int | None = None
    cache_write_1h: str | int | None = None
    reasoning: str | int | None = None
    multiplier: str | int | None = None  # "0.85": the listed price less fifteen per cent
    units: dict[str, str] = {}  # web_search = "0.01": dollars each
    from_: str = msgspec.field(name="from", default="")  # ISO date or time, UTC; inclusive
    until: str = ""  # exclusive


class Key(Record, frozen=True):
    """`[[key]]`: a virtual key declared in the file rather than by `bursar keys create`. `hash` as that command prints it."""

    name: str
    hash: str
    tenant: str = ""
    labels: dict[str, str] = {}
    models: list[str] = []  # empty: all
    role: Literal["", "viewer", "operator"] = ""  # what it may do below /bursar/v1/ beside sending spans


class Tool(Record, frozen=True):
    """`[[tool]]`: what is known of a tool that agents use. `name = "*"` is any."""

    name: str
    failed: list[str] = []  # regular expressions: an answer whose first 400 characters match has failed
    polls: int = 0  # how often it may answer the same in a row: it is polled, and that is no loop


class Server(Record, frozen=True):
    """`[server]`: the gateway's edge."""

    host: str = "127.0.0.1"
    port: int = 8787
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxy: bool = False  # a proxy in front terminates TLS and may be reached without ours
    body_max: int = 20 << 20  # bytes of one request
    gather_max: int = 32 << 20  # bytes of a reply held back until its row is written; longer ones stream through
    connections_max: int = 10_000
    dashboard: bool = False  # the pages too, below /bursar/
    names: list[str] = []  # beside loopback's: names that browsers know the gateway by
    drain_s: float = 30.0  # after SIGTERM


class LedgerPolicy(Record, frozen=True):
    """`[ledger]`."""

    path: str = ""
    compact_every_s: float = 60.0


class FlowGuard(Record, frozen=True):
    """`[guard.flow.NAME]`: what holds in that flow in place of `[guard]`'s own."""

    mode: Literal["", "off", "warn", "on"] = ""
    tool_calls_max: int = 0  # tool results since the last human message
    turns_max: int = 0  # human messages in a conversation
    tokens_max: str = ""  # "2M" tokens in a conversation, sub-agents' included
    cost_max: str = ""  # "$5" in a conversation, sub-agents' included
    repeats_max: int = 0  # the same tool call with the same result in a row


class Guard(Record, frozen=True):
    """`[guard]`: when a conversation is stopped, and how; and what bounds a call whose client set no bound."""

    # Empty: what is written here stops, what is not has measured defaults that warn. warn: nothing stops. off: nothing is judged.
    mode: Literal["", "off", "warn", "on"] = ""
    tool_calls_max: int = 0  # tool results since the last human message
    turns_max: int = 0  # human messages in a conversation
    tokens_max: str = ""  # "2M" tokens in a conversation, sub-agents' included
    cost_max: str = ""  # "$5" in a conversation, sub-agents' included
    repeats_max: int = 0  # the same tool call with the same result in a row
    wind_down: bool = False  # before a stop, one turn in which the agent is told to end
    stop: Literal["reply", "error"] = "reply"
    reply: str = "I have to stop here and cannot finish this on my own. A person has been told and will go on from here."
    handoff: str = ""  # a channel of [channels], or a URL that incidents are posted to
    flow: dict[str, FlowGuard] = {}
    # Sent upstream under a hard budget of dollars or tokens. Every chat model still sold takes 4,096; a cap above a model's own is an
    # error.
    output_cap: int = 4_096
    output_assumed: int = 32_000  # tokens a hold counts on where nobody caps the output


class Retention(Record, frozen=True):
    """`[retention]`: what is kept beyond the books, and how long."""

    content: str = ""  # "7d": the last messages of stopped conversations, for whoever takes over; empty: no words are kept
    incidents: str = "400d"  # one by one; after that as sums by day
    alarms: str = "400d"  # that are over, with what people made of them


class SpendPolicy(Record, frozen=True):
    """`[spend]`: how reports count."""

    shared_by: Literal["cost", "calls", "tokens"] = "cost"  # how cost that is nobody's is divided among customers
    overhead: list[str] = []  # tenants that are no customers: their cost is divided too
    human_cost: str = ""  # dollars that a person costs who handles one conversation: "$6.50"
    resolved: list[str] = msgspec.field(default_factory=lambda: ["resolved"])  # values of the label `outcome` that count as resolved


class Alarm(Record, frozen=True):
    """`[[alarm]]`: what somebody wants to hear of, in time."""

    metric: str  # cost, calls, fallback_rate, tool_calls …: docs/reference/alarms.md
    name: str = ""
    per: str | dict[str, str] = ""  # as a budget's scope: a label whose every value is judged alone, or a table; empty: all together
    threshold: str | int = ""  # "$50", "5%", "2M", "500": what the window may come to
    learned: bool = False  # what is not normal for that value, at that hour and weekday
    level: Literal["page", "ticket"] = "page"  # of a learned alarm: a ticket is raised sooner
    window: str = ""  # 1h, 24h, 7d …; empty: the metric's own
    floor: str | int = ""  # the least that matters: dollars, tokens or calls above normal, or in the window
    after: str = ""  # how long it must last before it is said: 10m
    repeat: str = "4h"  # said again while nobody acknowledges it; each time twice as long, at most a day
    channels: list[str] = []  # names of [channels]; empty: the owners', else all
    owner: str = ""  # a name of [owners]


class Channel(Record, frozen=True):
    """`[channels.NAME]`: where alarms, hand-offs and tests are sent."""

    url: str  # a Slack incoming webhook, any https address, smtp://user@host:587 or smtps://…, or what apprise speaks; may be env:NAME
    kind: Literal["", "slack", "webhook", "email", "apprise"] = ""  # empty: the channel's name, else by the url
    secret: str = ""  # signs a webhook's requests; an e-mail server's password
    to: list[str] = []  # e-mail addresses
    sender: str = ""  # … and whose name the mail has
    private: bool = False  # the address may be inside your network, and without TLS
    timeout_s: float = 10.0  # for one delivery, whole
    digest: int | None = None  # alarms it is told one by one in five minutes, more come as one message; 0: all one by one


class Owner(Record, frozen=True):
    """`[owners.NAME]`: who hears of what. Alarms about `scope` go to these channels."""

    channels: list[str]
    scope: dict[str, str] = {}  # label = value; empty: only alarms that name this owner


class Watch(Record, frozen=True):
    """`[watch]`: the clockwork."""

    every_s: float = 15.0  # between two looks; 0: the gateway starts no clockwork
    url: str = ""  # where people reach Bursar's pages: alarms then carry signed links
    secret: str = ""  # signs those links; empty: one made beside the ledger
    link_ttl: str = "24h"


class Cache(Record, frozen=True):
    """`[cache]`: whether a reply may answer again. Nothing is kept for a call of which nobody says whose it is."""

    exact: bool = False  # replies to the very same question
    embeddings: bool = False  # vectors, per input: of a batch only what is missing is asked for
    ttl: str = "1h"  # "90s", "15m", "1h", "7d"
    temperature_max: float = 0.0  # a request that asks for more variety is answered afresh, unless it names a seed
    tools: bool = False  # also replies that call tools: whoever gets one again acts again
    per: Literal["tenant", "key", "all"] = "tenant"  # whose replies a caller may get
    shared: list[str] = []  # features whose replies all tenants may share
    suites: dict[str, str] = {}  # eval suite = how long the replies of unchanged cases answer again
    bytes: str = "256MB"  # most that is kept, in memory and in the file each
    near: Literal["off", "shadow", "on"] = "off"  # replies to nearly the same question. shadow: judged only; on: served once certified
    near_model: str = ""  # the embedding model that says what is alike, of a provider that speaks OpenAI; empty: words do


class Tiers(Record, frozen=True):
    """`[tiers]`: a model each, or one per dialect in a list; a name or provider/name."""

    cheap: str | list[str] = ""
    standard: str | list[str] = ""
    premium: str | list[str] = ""
    classifier: str | list[str] = ""  # a cheap model that says which tier, where that is left open and no trained router serves
    classifier_within_s: float = 2.0  # how long it may take; after that the rules go on


class Route(Record, frozen=True):
    """`[[route]]`: calls whose labels are these go to that tier; earlier lines win."""

    tier: Literal["cheap", "standard", "premium", "auto"]  # auto: what the feature's trained router says
    when: dict[str, str] = {}  # a label, or model or key; nothing: every call
    mode: Literal["shadow", "on"] = "shadow"  # shadow: sent as it is, and what it would have saved is counted


class Compact(Record, frozen=True):
    """`[compact]`: whether old tool results leave the messages where that pays."""

    mode: Literal["off", "shadow", "on"] = "off"
    flow: dict[str, Literal["off", "shadow", "on"]] = {}  # in place of `mode` in that flow
    keep_turns: int = 3  # old is what so many human turns
    keep_calls: int = 10  # or so many model calls came after
    summarise_every: int = 0  # model calls between two summaries by `model`; 0: none are made
    model: str = ""  # that writes summaries: of the same dialect as the call; a name or provider/name
    holdout: str = "0%"  # of the conversations of a flow that is on, how many are sent whole: what outcomes are compared with


class AuditPolicy(Record, frozen=True):
    """`[audit]`: from what share on a finding is one. Above it the verdict is `act`, from half of it on `watch`."""

    unattributed: str = "10%"  # of the dollars that no feature names
    waste: str = "5%"  # … that went into retries, repairs and loops
    fallback: str = "5%"  # of the calls to one model that a dearer one answered, or of the dollars
    tail: str = "20%"  # of the dollars of all conversations in the dearest hundredth of them
    history: str = "40%"  # of the dollars that are history sent again
    tiers: str = "10%"  # … that the same tokens would cost less at the tier that the work looks like
    cache: str = "10%"  # … that caches would have kept
    drill_days: int = 30  # how old the last drill may be


class Policy(Record, frozen=True):
    """The whole file."""

    providers: dict[str, Provider] = {}
    budget: list[Budget] = []
    fallback: list[Fallback] = []
    price: list[PriceOverride] = []
    key: list[Key] = []
    tool: list[Tool] = []
    alarm: list[Alarm] = []
    channels: dict[str, Channel] = {}
    owners: dict[str, Owner] = {}
    labels: dict[str, str] = {}  # defaults for calls that say nothing
    watch: Watch = Watch()
    server: Server = Server()
    ledger: LedgerPolicy = LedgerPolicy()
    spend: SpendPolicy = SpendPolicy()
    guard: Guard = Guard()
    cache: Cache = Cache()
    tiers: Tiers = Tiers()
    route: list[Route] = []
    compact: Compact = Compact()
    audit: AuditPolicy = AuditPolicy()
    retention: Retention = Retention()
    include: list[str] = []  # fragments: "teams/*.toml", as seen from this file

    @property
    def controlled(self) -> bool:
        """Whether anything is to make calls cheaper: most policies want nothing, and load nothing for it."""
        said = self.cache != Cache() or self.tiers != Tiers() or bool(self.route) or self.compact != Compact()
        return said or any(budget.ladder.compact for budget in self.budget)


class Fragment(Record, frozen=True):
    """A file that `include` names: limits and alarms of a team's own. It can only tighten, and only within its scope."""

    scope: dict[str, str]  # label = value: what it may speak of
    budget: list[Budget] = []  # scope: within the fragment's; `scope = "all"` is all of that
    alarm: list[Alarm] = []  # per: likewise
    guard: FlowGuard = FlowGuard()  # of the flow that `scope` names


UNITS = {"tokens": "tokens", "token": "tokens", "calls": "calls", "call": "calls", "tool_calls": "tool_calls"}
SCALE = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
SCOPES = frozenset(CHARGEABLE) | {"key", "model", "provider", "call"}
