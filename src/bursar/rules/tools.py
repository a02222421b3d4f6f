"""Tools with a price of their own: what the tool results that are new in a request cost, as rows beside the call they serve. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from ..domain.entry import Entry
from ..domain.price import Leg, ToolPrice
from ..domain.shape import Shape
from ..domain.thread import Placed
from .price import legs_json

KIND = "tool"  # the attempt_kind of such a row: no try, and no call
NAME_MAX = 64  # characters of a tool's name that stand in a row


class ToolPrices:
    """The policy's prices of tools. The line that says most of a name holds, of equals the later one."""

    __slots__ = ("_lines",)

    def __init__(self, lines: tuple[ToolPrice, ...] = ()) -> None:
        self._lines = tuple(sorted(enumerate(lines), key=lambda one: (one[1].rank, one[0]), reverse=True))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def find(self, name: str, ts_us: int) -> ToolPrice | None:
        return next((line for _, line in self._lines if line.since_us <= ts_us < line.until_us and line.fits(name)), None)


NONE = ToolPrices()


class Used(Shape, frozen=True, gc=False):
    """A tool whose results are new in a request."""

    name: str
    times: int
    pico: int  # of one call
    price_id: str


def used(
    prices: ToolPrices, own: Mapping[str, int], placed: Placed | None, ts_us: int, kept: Sequence[str] = ()
) -> tuple[Used, ...]:
    """The priced tools that have answered since the last reply. The same messages sent again are no new answers. `own`: prices
    that the calling program states for its tools (pico-dollars); the policy's come before them. `kept`: a name for each result that
    it had kept and did not pay for."""
    if placed is None or placed.again is not None or not placed.fresh_pairs or not (prices or own):
        return ()
    found = Counter(name for name in placed.pairs.names[-placed.fresh_pairs :] if name)
    # The same call with the same answer twice in one step is one pair, and was paid twice.
    more = placed.ask.history.fresh_results - sum(found.values())
    if len(found) == 1 and more > 0:
        found[next(iter(found))] += more
    found.subtract(kept)
    made: list[Used] = []
    for name, times in found.items():
        if times <= 0:
            continue
        price = prices.find(name, ts_us)
        if price is not None:
            made.append(Used(name, times, price.pico, price.id))
        elif name in own:
            made.append(Used(name, times, own[name], "program"))
    return tuple(made)


def row(entry: Entry, one: Used, placed: Placed) -> Entry:
    """The row of a tool's calls, beside the try `entry` that they serve. Its id follows from the conversation and what was said
    in it: the same messages, sent again by whom and when ever, book it once."""
    told = f"{entry.key}\0{entry.tenant}\0{placed.conversation}\0{placed.ask.history.end.chain}\0{one.name}"
    cost = one.times * one.pico
    leg = Leg(f"tool:{one.name[:NAME_MAX]}", one.times, one.pico * 1000, cost)
    return entry._replace(
        id=f"tool-{blake2b(told.encode(), digest_size=12).hexdigest()}", try_no=0, attempt_kind=KIND, operation=entry.purpose,
        cause="", provider=KIND, dialect=KIND, model_requested=one.name[:NAME_MAX], model_served=one.name[:NAME_MAX],
        service_tier="", stream=0,
        hold=0, status="ok", ended="complete", usage_source="provider", cost=cost, cost_input=0, cost_cache_read=0, cost_cache_write=0,
        cost_output=0, cost_other=cost, legs=legs_json((leg,)), price_id=f"tool/{one.price_id}",
        price_status="priced" if one.pico else "free", evidence="{}",
    )  # fmt: skip
