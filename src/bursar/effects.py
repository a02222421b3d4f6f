"""All the pipeline may ask of the world. `drive` performs these; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .domain.call import Answer, Head, Headers, Reading
from .domain.entry import Hold as HoldRecord
from .domain.entry import Settlement
from .domain.reply import Framed, Kept
from .domain.shape import Shape
from .domain.thread import Ask, Heard


class StreamReader(Protocol):
    """Pure: fed what the provider sent, gives what the client may have now. The terminal event is kept back."""

    def feed(self, chunk: bytes) -> bytes: ...
    def finish(self) -> None:
        """The provider's stream ended (cleanly or not): what was kept in the buffer is now in `kept`."""

    @property
    def kept(self) -> bytes: ...
    @property
    def done(self) -> bool:
        """The terminal event passed: stop reading, book, then give `kept` to the client."""
        ...

    def reading(self) -> Reading: ...


class Recall(Shape, frozen=True, gc=False):
    """-> Ratio: what was learnt of this model's bytes per token."""

    provider: str
    model: str


class Sample(Shape, frozen=True, gc=False):
    """What a try with known usage teaches about bytes per token."""

    provider: str
    model: str
    input_bytes: int
    input_tokens: int
    output_bytes: int
    output_tokens: int


class Follow(Shape, frozen=True, gc=False):
    """-> Placed: which conversation the request belongs to. It is remembered as under way."""

    ask: Ask


class Hold(Shape, frozen=True, gc=False):
    """-> None when held, `Held` when there is something to tell of a budget's standing, `Short` when one is short, `Fault` when the
    ledger cannot say."""

    hold: HoldRecord


class Send(Shape, frozen=True, gc=False):
    """-> Head | Fault. One request to a provider; needs a hold's id, so that no way to a provider goes without one."""

    hold_id: str
    provider: str
    method: str
    target: str
    headers: Headers
    body: bytes
    within_s: float = 0.0  # above 0: the time that connecting and answering may take, in place of the provider's own


class Gather(Shape, frozen=True, gc=False):
    """-> Ended with the body when it is at most `limit` bytes. A longer one is streamed on under `head` as it comes, with
    `late_headers` too, which are made only then. `own`: the call is ours, not the client's, who gets nothing of it: a longer body is
    a fault."""

    head: Head
    limit: int
    headers: Headers
    late_headers: Callable[[], Headers] = list
    own: bool = False

    @property
    def out_headers(self) -> Headers:
        return self.headers + self.late_headers()


class Relay(Shape, frozen=True, gc=False):
    """-> Ended. The head goes to the client, chunks flow past the reader; what the reader keeps back waits for `Finish`.
    `ordered`: asked again when orders change, says whether the stream is to end (`Ended.how` is then `stopped`). `most`: bytes of
    text beyond which it must end (`outgrown`): a provider that heeds no cap would pass a hard budget; looked at now and then."""

    head: Head
    reader: StreamReader
    out_headers: Headers
    ordered: Callable[[], bool]
    most: int = 0


class Book(Shape, frozen=True, gc=False):
    """-> None | Fault. Row and settlement in one transaction, durable when it returns. `heard`: what became of a request whose
    conversation is followed."""

    settlement: Settlement
    sample: Sample | None = None
    heard: Heard | None = None


class Finish(Shape, frozen=True, gc=False):
    """-> None. After Book: give the client what was kept back, and end the message."""

    kept: bytes
    complete: bool


class Turn:
    """Whose turn it is to make a call that others wait for. Whoever drops it lets the next one make it."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over: Callable[[], None] | None = None

    def leave(self) -> None:
        over, self.over = self.over, None
        if over is not None:
            over()

    __del__ = leave


class Seek(Shape, frozen=True, gc=False):
    """-> tuple of Kept | None, one for each key. With a `turn` (and then one key) an identical call in flight is waited for; what
    comes back as None is then this call's to make."""

    wall: str
    keys: tuple[bytes, ...]
    now_us: int
    call: str
    turn: Turn | None = None


class Keep(Shape, frozen=True, gc=False):
    """-> None. What may answer again; who waits for it gets it. Nothing waits for it to be written. `framed`: the question, where
    near-duplicates may find it."""

    wall: str
    kept: tuple[tuple[bytes, Kept], ...]
    now_us: int
    turn: Turn | None = None
    framed: Framed | None = None


class Liken(Shape, frozen=True, gc=False):
    """-> domain.reply.Likely: the kept reply to a question that asks nearly the same. `scope`: whose certificate counts; `on`: it
    may serve where that holds. `ask`: only whether to look at all, before a vector is paid for."""

    wall: str
    scope: bytes
    framed: Framed
    now_us: int
    call: str
    on: bool
    ask: bool = False


class Sampled(Shape, frozen=True, gc=False):
    """-> None. Whether the reply that a near-duplicate would have got says the same as the true one."""

    scope: bytes
    same: bool
    now_us: int


class Consult(Shape, frozen=True, gc=False):
    """-> rules.course.Course: what is remembered of a conversation and of its flow, and, where `text` is given, what the feature's
    router says of it."""

    conversation: str
    flow: str
    now_us: int
    feature: str = ""
    text: str = ""


class Note(Shape, frozen=True, gc=False):
    """-> None. What to remember of the conversation (empty: of none) until its next call, and what the call cost its flow."""

    conversation: str
    flow: str
    now_us: int
    course: Any  # rules.course.Course
    full: int = 0  # pico-dollars that the call would have cost with its whole history
    paid: int = 0  # and did cost
    feature: str = ""
    tally: tuple[int, int] | None = None  # gross and own of a call that the feature's router has sent somewhere


class Sorted(Shape, frozen=True, gc=False):
    """-> None. A classifier was asked for this call's tier: what the tier saved and wasted, what the question took in pico-dollars,
    and whether it gave an answer."""

    feature: str
    now_us: int
    gross: int
    wasted: int
    pico: int
    answered: bool


class Wait(Shape, frozen=True, gc=False):
    """-> True, or False when the client left meanwhile."""

    seconds: float


class Reply(Shape, frozen=True, gc=False):
    """-> None. The whole answer, when nothing was relayed."""

    answer: Answer


Effect = (
    Recall | Follow | Hold | Send | Gather | Relay | Book | Finish | Wait | Reply
    | Seek | Keep | Liken | Sampled | Consult | Note | Sorted
)  # fmt: skip
