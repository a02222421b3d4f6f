"""A call as asked, a try as sent, and how it ended: the shapes that travel between wire, rules and pipeline."""

from __future__ import annotations

from typing import Any

from .history import History, Reply
from .shape import Shape
from .usage import Unknown, Usage

Headers = list[tuple[bytes, bytes]]  # lower-case names, order and duplicates kept


class Lines(Headers):
    """Headers that many requests share, because a client says the same head again and again, with what was made of them:
    whoever derives something from headers alone may keep it in `made` under a key of its own. Not to be changed."""

    __slots__ = ("made",)

    def __init__(self, lines: Headers) -> None:
        super().__init__(lines)
        self.made: dict[Any, Any] = {}


class Incoming(Shape, frozen=True, gc=False):
    """One HTTP request as it reached an edge. `path` is raw and without query. `provider` is set where the edge already
    knows it (the SDK wrapper knows the host); empty where the path must say."""

    call_id: str
    ts_us: int  # wall clock, microseconds since the epoch, UTC
    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    provider: str = ""
    peer: str = ""

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Asked(Shape, frozen=True, gc=False):
    """What a dialect read from a request body. Token counts are tokens, sizes bytes. Absent is None or empty, never a guess."""

    model: str = ""
    stream: bool = False
    output_cap: int | None = None  # the client's own max tokens
    choices: int = 1  # n: each choice may use the whole cap
    usage_asked: bool = False  # the client asked for stream usage itself
    unbounded_input: str = ""  # why bytes do not bound the input: previous_response_id, hosted tools, an image by URL …
    service_tier: str = ""
    conversation: str = ""  # explicit id in the body (conversation, session metadata)
    previous: str = ""  # previous_response_id
    user: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    messages: int = 0
    human_turns: int = 0
    tool_depth: int = 0  # tool results since the last human message
    tools: int = 0  # tools offered
    history: History | None = None  # what the messages say; None where the API has none
    print: str = ""  # fingerprint of system prompt and tools, 16 hex digits; empty: there is neither
    embedding: bool = False
    batch: bool = False
    json_demanded: bool = False  # response_format / schema: the reply must parse
    cache_1h: bool = False  # the request asks the provider for one-hour cache writes
    hash: str = ""  # of the whole body, where reading it gave that too
    members: tuple[str, ...] | None = None  # which of the members that edits touch the body has; None: nobody looked


class Malformed(Shape, frozen=True, gc=False):
    """The body is not what the path promises: `reason` says where."""

    reason: str


# Edits: what the core wants changed, as data. The dialect applies them; no edit, same bytes out.
class UseModel(Shape, frozen=True, gc=False):
    model: str


class CapOutput(Shape, frozen=True, gc=False):
    tokens: int


class AskUsage(Shape, frozen=True, gc=False):
    """Ask the provider for stream usage; the extra event is kept from the client."""


class WindDown(Shape, frozen=True, gc=False):
    """Tell the agent, behind all that was said, to end; and let it call no tool."""

    text: str


Edit = UseModel | CapOutput | AskUsage | WindDown


class Reading(Shape, frozen=True, gc=False):
    """What a dialect read from an answer, whole or streamed. `complete` is whether the terminal event (or whole body) passed."""

    usage: Usage = Unknown("no usage in the answer")
    model_served: str = ""
    service_tier: str = ""
    response_id: str = ""
    finish: str = ""  # the provider's own word: stop, length, tool_calls, end_turn, …
    complete: bool = True
    error: str = ""  # provider's error code or type, also when it came inside a 200 stream
    error_message: str = ""
    output_bytes: int = 0  # bytes of generated text, arguments and reasoning seen: what estimates start from
    malformed: str = ""  # why a 2xx is unusable: not JSON, tool arguments or demanded JSON that do not parse
    provider_cost_pico: int | None = None  # where the provider states a price (OpenRouter)
    reply: Reply | None = None  # what was said, as it will stand in the next request; None: not all of it was seen


class Head(Shape, frozen=True, gc=False):
    """The provider's status line and headers. `sent_us`: from the call's arrival to this try's first byte out; `elapsed_us`:
    from there to the head."""

    status: int
    headers: Headers
    sent_us: int = 0
    elapsed_us: int = 0


class Fault(Shape, frozen=True, gc=False):
    """A try that brought no usable answer. `sent`: whether the provider may have seen (and will bill) the request."""

    kind: str  # connect, connect_timeout, tls, dns, reset, headers_timeout, idle_timeout, total_timeout, protocol, …
    detail: str
    sent: bool
    sent_us: int = 0
    elapsed_us: int = 0


class Ended(Shape, frozen=True, gc=False):
    """How a relay ended. `how`: complete | client_gone | fault | stopped. Body only where it was gathered whole."""

    how: str
    body: bytes = b""
    gathered: bool = False
    fault: Fault | None = None
    first_byte_us: int = 0  # from send to first body byte
    elapsed_us: int = 0  # from send to the end
    relayed: int = 0  # bytes the client was given
    edges: tuple[bytes, bytes] = (b"", b"")  # first and last 64 KiB of a body too large to gather


class Answer(Shape, frozen=True, gc=False):
    """What the client gets when nothing was relayed yet."""

    status: int
    headers: Headers
    body: bytes
