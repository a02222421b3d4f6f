"""Whether shortening a conversation pays: what may go, what keeping it costs, what breaking the prompt cache costs. No text here.

With r, w and o the prices of a cached, a written and an output token, E what would go, F what stays behind it and lies in the
provider's cache, s the line or summary in its place, H the messages that a summary would stand for, and n the calls left:

    elide      pays when  n r (E - s)  >  (w - r)(F + s)
    summarise  pays when  n r (H - s)  >  (w - r)(F + s) + what the summariser takes for reading H and writing s

Where nobody knows n, what keeping has cost so far stands in for it: act when it has reached the price of acting, which never
costs more than twice what knowing n would have (the ski-rental rule). A cold cache makes the right side of the first zero.
Either way the flow's purse must hold the price: what compaction saved there so far, and four thousandths of what the flow cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import inf, isqrt
from typing import NamedTuple

from ..domain.outline import Outline, Piece
from ..domain.price import Price
from .price import femto_at, rate_of
from .stub import line


class Setting(NamedTuple):
    """`[compact]`. Old is what `keep_turns` human turns or `keep_calls` model calls came after. Sizes are bytes."""

    keep_turns: int = 3
    keep_calls: int = 10
    keep_failed: int = 5  # an error stays for so many calls at the least: the agent may be about to act on it
    record_least: int = 800  # shorter results stay
    record_line: int = 240  # longest line for a result that is JSON: its fields are what later calls are made of
    text_least: int = 400
    text_line: int = 120  # and for any other: what matters in a log or a file is mostly said again
    arguments: bool = True
    summarise_every: int = 0  # model calls; 0: never
    summary: int = 1_000  # how long one is expected to be
    summary_keep: int = 1  # turns, or calls in a loop, that stay word for word behind one
    drop: bool = False  # turns older than `keep_turns` may go without a summary, where nobody would write one


AGGRESSIVE = Setting(keep_turns=2, keep_calls=2)  # a rung of a budget's ladder


class Rates(NamedTuple):
    """Prices of one token in one unit (femto-dollars): read from the prompt cache, written to it (or fresh), and output."""

    read: int
    write: int
    output: int


def rates(price: Price, input_total: int, hour: bool = False) -> Rates:
    """A model's cache prices from the book. `hour`: the request asks for one-hour writes. A model without a price for reading a
    cache has none, and one without a price for writing writes at the price of fresh input."""

    def of(unit: str) -> int | None:
        found = rate_of(price, unit)
        return femto_at(found[0], input_total) if found is not None and not found[1] else None

    fresh = of("input") or 0
    read = of("cache_read")
    if read is None or read >= fresh:
        return Rates(fresh, fresh, of("output") or 0)
    write = of("cache_write_1h") if hour else of("cache_write")
    return Rates(read, fresh if write is None else write, of("output") or 0)


class Standing(NamedTuple):
    """A summary that stands for `span` messages from number `first` on. `was` is what those messages were; `fresh`: it was
    not sent yet."""

    first: int
    span: int
    was: str
    text: str
    fresh: bool = True


class State(NamedTuple):
    """What one conversation must remember between calls: some kilobytes. Losing it costs one broken cache, no more."""

    lines: Mapping[str, str] = {}  # piece -> the line that stands for it: once gone it stays gone, in the same words
    standing: Standing | None = None
    rent: int = 0  # rate x size: paid so far for what could have been elided
    owed: int = 0  # and for what could have been summarised
    calls: int = 0
    asked: int = 0  # `calls` when a summary was last asked for
    cached: int = 0  # of the messages as last sent, from their start: what the provider has in its cache
    warm_until_us: int = 0


class Cut(NamedTuple):
    """`span` messages from number `first` on should become one. `price`: what its summary is expected to cost."""

    first: int
    span: int
    price: int


class Decision(NamedTuple):
    """`gone`: indices of the pieces to replace in this request, `fresh` of them for the first time. `standing`: the summary to
    put in. `ask`: one to have made, for the calls to come. `removed`: what is not sent; `broken`: what has to be written to
    the cache again because of a change made in this call; `warm`: what was left out would have been read from the cache."""

    gone: tuple[int, ...]
    fresh: int
    standing: Standing | None
    ask: Cut | None
    state: State
    why: str  # fixed | nothing | kept | cold | waits | rent | pays
    sent: int = 0  # the messages' size as they will be sent
    removed: int = 0
    broken: int = 0
    warm: bool = False


LINES_MAX = 1_000  # pieces that lines may stand for in one conversation; further ones stay as they are
# An expected saving must be twice the price of the break: what is broken today cannot be broken in a larger batch tomorrow.
MARGIN = 2


def decide(
    outline: Outline, setting: Setting, rates: Rates, state: State, now_us: int, purse: int, left: float | None = None,
    summariser: Rates | None = None,
) -> Decision:  # fmt: skip
    """What to send instead of the full history. `purse`: the most that a change may cost now, rate x size. `left`: calls
    expected to come, this one included (`Horizon.left`), None when nobody knows. `summariser`: what the model takes that
    would summarise; None: there is none."""
    if outline.fixed or not outline.messages:
        return Decision((), 0, None, None, state, "fixed" if outline.fixed else "nothing")
    turns, calls = ages(outline)
    standing = _fitting(outline, state.standing)
    hidden = range(standing.first, standing.first + standing.span) if standing else range(0)
    kept: list[int] = []
    new: list[int] = []
    for at in old(outline, setting, turns, calls):
        piece = outline.pieces[at]
        if piece.message not in hidden:
            (kept if piece.key in state.lines else new).append(at)
    new = new[: max(LINES_MAX - len(kept), 0)]
    sent = _Sent(outline, setting, state.lines, kept, standing)
    warm = now_us < state.warm_until_us and rates.read < rates.write
    cached = state.cached if warm else 0
    broken = 0
    if standing and standing.fresh:  # what lies behind it is written again in any case, so that further changes there are free
        broken = sent.behind(standing, cached)
        cached = min(cached, sent.at(outline.messages[standing.first].start))
    cached = min(cached, sent.at(outline.messages[-1].end))  # a client may have gone back to an earlier point
    ask, owed = _ask(outline, setting, rates, state, sent, purse, left, summariser, turns, calls)
    fresh: list[int] = []
    rent, why = 0, "kept" if kept or standing else "nothing"
    if new:
        fresh, more, rent, why = _elide(outline, setting, rates, state.rent, sent, cached, purse, left, new, bool(ask))
        broken += more
    state = state._replace(
        standing=standing._replace(fresh=False) if standing else None, rent=rent, owed=owed, calls=state.calls + 1,
        asked=state.calls if ask else state.asked,
    )  # fmt: skip
    shorter = sum(_shorter(outline.pieces[at], setting) for at in fresh)
    whole = outline.messages[-1].end - outline.messages[0].start
    size = sent.at(outline.messages[-1].end) - shorter
    return Decision(tuple(sorted(kept + fresh)), len(fresh), standing, ask, state, why, size, whole - size, broken, warm)


def ages(outline: Outline) -> tuple[list[int], list[int]]:
    """Human turns, and model calls, that came after each message."""
    turns: list[int] = []
    calls: list[int] = []
    human = call = 0
    messages = outline.messages
    for at in range(len(messages) - 1, -1, -1):
        turns.append(human)
        calls.append(call)
        role = messages[at].role
        if role == "human":
            human += 1
        elif begins(outline, at):
            call += 1
    return turns[::-1], calls[::-1]


def begins(outline: Outline, at: int) -> bool:
    """Whether a model's turn begins here; one turn may be several items."""
    return outline.messages[at].role == "model" and (at == 0 or outline.messages[at - 1].role != "model")


def old(outline: Outline, setting: Setting, turns: Sequence[int], calls: Sequence[int]) -> list[int]:
    """Indices of the pieces that may go. Arguments of a signed message stay while its turn lasts: thinking is bound to what it
    led to."""
    found: list[int] = []
    for at, piece in enumerate(outline.pieces):
        after, since = turns[piece.message], calls[piece.message]
        if after < setting.keep_turns and since < setting.keep_calls:
            continue
        if piece.failed and since < setting.keep_failed:
            continue
        if piece.kind == "argument" and (not setting.arguments or (not after and outline.messages[piece.message].signed)):
            continue
        if piece.end - piece.start >= (setting.record_least if piece.kind == "record" else setting.text_least):
            found.append(at)
    return found


def _elide(
    outline: Outline, setting: Setting, rates: Rates, rent: int, sent: _Sent, cached: int, purse: int, left: float | None,
    new: list[int], asked: bool,
) -> tuple[list[int], int, int, str]:  # fmt: skip
    """(what goes now, what of the cache that breaks, rent, why). Every suffix of what could go is looked at: leaving the oldest
    piece where it is may keep more of the cache than it costs."""
    if not cached:
        return new, 0, 0, "cold"
    gone = lines = 0
    best: tuple[int, int] | None = None  # (index into new, broken)
    gain = 0.0
    pays = breaks = 0
    for at in range(len(new) - 1, -1, -1):
        piece = outline.pieces[new[at]]
        size, its_line = piece.end - piece.start, _limit(piece, setting)
        gone, lines = gone + size, lines + its_line
        stays = max(cached - sent.at(piece.start) - gone, 0)
        pays, breaks = rates.read * (gone - lines), (rates.write - rates.read) * (stays + lines)
        if left is not None and breaks <= purse and left * pays - MARGIN * breaks > gain:
            gain, best = left * pays - MARGIN * breaks, (at, stays)
    rent += pays
    if asked:  # a summary is on its way and will take most of it along
        return [], 0, rent, "waits"
    if left is None and purse >= breaks <= rent:
        return new, max(cached - sent.at(outline.pieces[new[0]].start) - gone, 0), 0, "rent"
    if best is None:
        return [], 0, rent, "waits"
    return new[best[0] :], best[1], 0, "pays"


def _ask(
    outline: Outline, setting: Setting, rates: Rates, state: State, sent: _Sent, purse: int, left: float | None,
    summariser: Rates | None, turns: Sequence[int], calls: Sequence[int],
) -> tuple[Cut | None, int]:  # fmt: skip
    """(a summary worth having, what was paid so far for not having it)."""
    wanted = bool(setting.summarise_every and summariser)
    if not (wanted or setting.drop) or state.calls - state.asked < (setting.summarise_every or setting.keep_calls):
        return None, state.owed
    messages = outline.messages
    first = next((at + 1 for at, message in enumerate(messages) if message.role == "human"), len(messages))
    last = _boundary(outline, setting, first, wanted, turns, calls)
    if last <= first:
        return None, state.owed
    gone = sent.at(messages[last].start) - sent.at(messages[first].start)
    less = gone - setting.summary
    if less < setting.summary:
        return None, state.owed
    # It takes effect in the next call: by then everything that is sent now lies in the cache, also after a pause.
    stays = sent.at(messages[-1].end) - sent.at(messages[last].start)
    own = summariser.read * gone + summariser.output * setting.summary if wanted and summariser else 0
    price = own + (rates.write - rates.read) * (stays + setting.summary)
    owed = state.owed + rates.read * less
    if price <= purse and (left * rates.read * less > price if left is not None else owed >= price):
        return Cut(first, last - first, own), 0
    return None, owed


def _boundary(outline: Outline, setting: Setting, first: int, wanted: bool, turns: Sequence[int], calls: Sequence[int]) -> int:
    """The last message before which everything from `first` on may become one message: a human's, or, where no human has
    spoken since the first, the beginning of a model's answer while nothing signed would go. So no result loses its call, no
    human is cut off from what he asked for, and what a system message says stays wherever it stands."""
    best = -1
    messages = outline.messages
    loop = wanted and not any(message.role == "human" for message in messages[first:])
    keep = setting.summary_keep if wanted else setting.keep_turns
    for at in range(first, len(messages)):
        message = messages[at]
        if message.role == "system":
            break
        asks = message.role == "human" and turns[at] >= keep - 1
        goes_on = loop and begins(outline, at) and calls[at] >= keep - 1
        if at > first and (asks or goes_on):
            best = at
        if loop and message.signed:
            break
    return best


def digest(outline: Outline, first: int, span: int) -> str:
    """What the messages were that a summary stands for."""
    text = "\n".join(message.key for message in outline.messages[first : first + span])
    return blake2b(text.encode(), digest_size=16).hexdigest()


def summarised(outline: Outline, state: State, cut: Cut, text: str) -> State:
    """The state once the summary has been made; `outline` is the one that it was asked for with."""
    return state._replace(standing=Standing(cut.first, cut.span, digest(outline, cut.first, cut.span), text))


def _fitting(outline: Outline, standing: Standing | None) -> Standing | None:
    """The summary, when the messages that it stands for are still there: a client may compact or branch by itself."""
    if standing is None or standing.first + standing.span >= len(outline.messages):
        return None
    return standing if digest(outline, standing.first, standing.span) == standing.was else None


def lines(decision: Decision, outline: Outline, setting: Setting, text: Callable[[Piece], str]) -> tuple[dict[int, str], State]:
    """Piece -> its line, and the state that remembers them. `text` gives a piece's text; it is asked for new pieces only. A
    line that would not be shorter is not made."""
    known = decision.state.lines
    found: dict[int, str] = {}
    for at in decision.gone:
        piece = outline.pieces[at]
        its = known.get(piece.key)
        if its is None:
            what = f"{piece.tool or 'tool'} {'argument' if piece.kind == 'argument' else 'result'}"
            its = line(text(piece), what, _limit(piece, setting))
        if len(its) < piece.end - piece.start:
            found[at] = its
    return found, decision.state._replace(lines={outline.pieces[at].key: its for at, its in found.items()})


def remember(state: State, decision: Decision, now_us: int, ttl_us: int, cached: float = 1.0) -> State:
    """The state after the call was answered. `cached`: the share of its input that the provider says it has in the cache now
    (read or written); 0 where it caches nothing."""
    return state._replace(cached=int(decision.sent * cached), warm_until_us=now_us + ttl_us if cached else 0)


def elision_pays_after(rates: Rates, gone: int, stays: int, lines: int) -> float:
    """The calls (this one included) after which an elision has paid for the cache that it breaks; infinite when it never does."""
    saved = rates.read * (gone - lines)
    return (rates.write - rates.read) * (stays + lines) / saved if saved > 0 else inf


def summary_pays_after(rates: Rates, gone: int, stays: int, summary: int, summariser: Rates) -> float:
    """The same for a summary in place of `gone`, whose own price is that of reading it and writing `summary`."""
    saved = rates.read * (gone - summary)
    own = summariser.read * gone + summariser.output * summary
    return ((rates.write - rates.read) * (stays + summary) + own) / saved if saved > 0 else inf


def purse(full: int, sent: int) -> int:
    """What may be risked on a flow that would have cost `full` and did cost `sent`, summaries included: so it can never be
    dearer by more than four thousandths, whatever the forecast was worth."""
    return full - sent + full * 4 // 1000


def batch(rates: Rates, stays: int, per_call: int) -> int:
    """Calls between two elisions that cost least when `per_call` becomes old in each and `stays` lies behind the break: the
    order-quantity rule, sqrt(2 (w - r) F / (r e)). The ski-rental rule above comes to the same."""
    if rates.read >= rates.write or per_call <= 0:
        return 1
    return max(isqrt(2 * (rates.write - rates.read) * stays // max(rates.read * per_call, 1)), 1)


def _limit(piece: Piece, setting: Setting) -> int:
    return setting.record_line if piece.kind == "record" else setting.text_line


def _shorter(piece: Piece, setting: Setting) -> int:
    return piece.end - piece.start - _limit(piece, setting)


class _Sent:
    """Where things lie in what is sent, counted from the first message's start, given what already stands for others."""

    def __init__(
        self, outline: Outline, setting: Setting, known: Mapping[str, str], kept: Sequence[int], standing: Standing | None
    ) -> None:
        self._outline = outline
        self._origin = outline.messages[0].start
        changes = [(piece.start, piece.end - piece.start - len(known[piece.key]) - 2) for piece in (outline.pieces[at] for at in kept)]
        if standing is not None:
            last = outline.messages[standing.first + standing.span]
            begin = outline.messages[standing.first].start
            changes.append((begin, last.start - begin - len(standing.text)))
            changes.sort()
        self._places = [place for place, _ in changes]
        self._removed = [0]
        for _, shorter in changes:
            self._removed.append(self._removed[-1] + shorter)

    def at(self, offset: int) -> int:
        return offset - self._origin - self._removed[bisect_left(self._places, offset)]

    def behind(self, standing: Standing, cached: int) -> int:
        """Of the cache, what lies behind the messages that a summary stands for from now on."""
        messages = self._outline.messages
        first, last = messages[standing.first], messages[standing.first + standing.span]
        return max(cached - self.at(first.start) - (last.start - first.start), 0)
