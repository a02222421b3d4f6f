"""Which spans of a trace count: usage told by a span and again by the spans below it is one usage. Bounded memory, any order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from .record import Outcome, Piece, Record, Repeat

SPANS_MAX = 50_000  # waiting spans: some 60 MB with their records
REMEMBERED_MAX = 200_000  # spans whose trace was settled, for those of it that come late
DEPTH_MAX = 1_000  # a chain of parents longer than this is a circle, or a machine's
BELOW = "an aggregate: the calls below it are counted"
ABOVE = "part of a call that is counted already"


class _Span(NamedTuple):
    parent: str
    record: Record | None
    piece: Piece


class Traces:
    """Spans come in, and a trace is settled when it is asked for, when the file ends, or, the longest untouched one, when too many
    wait. The lowest span that has usage counts; one above it repeats it. A span that comes after its trace was settled is judged
    by what was counted then, so nothing is ever counted twice."""

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._open: OrderedDict[str, dict[str, _Span]] = OrderedDict()
        self._waiting = 0
        self._max = spans_max
        # (trace, span) of settled traces -> its parent; and which of them are counted, or stand above one that is.
        self._parents: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._counted: set[tuple[str, str]] = set()
        self._above: set[tuple[str, str]] = set()

    @property
    def waiting(self) -> Piece | None:
        for spans in self._open.values():
            for span in spans.values():
                return span.piece
        return None

    def add(self, trace: str, span: str, parent: str, record: Record | None, piece: Piece) -> Iterator[Outcome]:
        """A span, with its record where it has usage of a model call. Gives what became certain."""
        spans = self._open.get(trace)
        if spans is None:
            spans = self._open[trace] = {}
        else:
            self._open.move_to_end(trace)
        known = spans.get(span)
        if known is not None and known.record is not None:
            if record is not None:
                yield Repeat("the same span again")
            return
        if known is None:
            self._waiting += 1
        spans[span] = _Span(parent, record, piece)
        while self._waiting > self._max:
            yield from self.settle(next(iter(self._open)))

    def settle(self, trace: str) -> Iterator[Outcome]:
        """Everything known of this trace is decided."""
        spans = self._open.pop(trace, {})
        self._waiting -= len(spans)
        for id, span in spans.items():
            self._parents[trace, id] = span.parent
        with_usage = {id: span for id, span in spans.items() if span.record is not None and _bears(span.record)}
        for span in with_usage.values():
            self._above.update([(trace, above) for above in self._line(trace, span.parent)])
        # Then calls that tell of no usage: alone they are unpriced, but beside one that does they are the same call.
        for id, span in (
            *with_usage.items(),
            *((id, span) for id, span in spans.items() if span.record is not None and id not in with_usage),
        ):
            assert span.record is not None
            if (trace, id) in self._above:
                yield Repeat(BELOW)
            elif any((trace, above) in self._counted for above in self._line(trace, span.parent)):
                yield Repeat(ABOVE)
            else:
                if id in with_usage:
                    self._counted.add((trace, id))
                yield span.record
        self._forget()

    def rest(self) -> Iterator[Outcome]:
        """The file has ended."""
        while self._open:
            yield from self.settle(next(iter(self._open)))

    def _line(self, trace: str, span: str) -> Iterator[str]:
        """The spans above, from the next on."""
        for _ in range(DEPTH_MAX):
            if not span:
                return
            yield span
            span = self._parents.get((trace, span), "")

    def _forget(self) -> None:
        while len(self._parents) > REMEMBERED_MAX:
            key, _ = self._parents.popitem(last=False)
            self._counted.discard(key)
            self._above.discard(key)


def _bears(record: Record) -> bool:
    return record.tokens is not None or bool(record.stated)
