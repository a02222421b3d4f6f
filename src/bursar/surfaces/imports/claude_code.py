"""Claude Code's transcripts: sessions, their sub-agents, one call on several lines of which the last has the whole count. Pure.

The same call stands on 2 to 5 lines, one for each part of its answer, and each repeats its usage: adding lines up gives 2.7 times
what was read from the cache. A call is told by (message id, request id)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from ...domain.usage import Estimated, Unknown
from ...wire import anthropic_usage
from .record import Bad, NotMine, Outcome, Passed, Piece, Record, Repeat, dollars, moment

WAITING_MAX = 10_000  # calls whose lines may still come: tool results stand between them, a session never that many calls
UNFINISHED = "an answer that is still being written: import the file again later"
SAME = "another line of the same call"


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


class _Line(msgspec.Struct):
    """What we look at of a line; the conversation itself stays unread."""

    type: str = ""
    sessionId: str = ""
    session_id: str = ""
    timestamp: str | None = None
    requestId: str | None = None
    uuid: str | None = None
    message: _Message | None = None
    isSidechain: bool | None = None
    agentId: str | None = None
    cwd: str | None = None
    gitBranch: str | None = None
    isApiErrorMessage: bool | None = None
    costUSD: Any = None


class _Waiting:
    __slots__ = ("first", "last", "piece", "raw")

    def __init__(self, line: _Line, piece: Piece) -> None:
        self.first, self.last, self.piece, self.raw = line, line, piece, b""


_line = msgspec.json.Decoder(_Line, float_hook=Decimal)
_type = msgspec.json.Decoder(dict[str, Any])


class Reading:
    """Calls are settled when the file ends, or when so many wait that no line of theirs can still come."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()

    @property
    def waiting(self) -> Piece | None:
        return next(iter(self._waiting.values())).piece if self._waiting else None

    def take(self, piece: Piece) -> Iterable[Outcome]:
        try:
            line = _line.decode(piece.raw)
        except (msgspec.ValidationError, RecursionError) as bad:
            return (self._other(piece, bad),)
        except msgspec.DecodeError as bad:
            raise NotMine(f"not JSON: {bad}") from None
        if line.type != "assistant":
            if not line.type:
                raise NotMine("no type: not a line of a transcript")
            return (Passed(f"no model call: {line.type[:40]}"),)
        message = line.message
        if message is None or message.usage is None:
            return (Passed("an answer without usage"),)
        if line.isApiErrorMessage or message.model == "<synthetic>":
            return (Passed("a message of Claude Code's own"),)
        if not message.id:
            raise NotMine("an answer without message.id")
        return self._assistant((message.id, line.requestId or ""), line, piece)

    def _assistant(self, key: tuple[str, str], line: _Line, piece: Piece) -> Iterator[Outcome]:
        known = self._waiting.get(key)
        if known is not None:
            known.last = line
            yield Repeat(SAME)
            return
        self._waiting[key] = _Waiting(line, piece)
        if len(self._waiting) > WAITING_MAX:
            yield self._settle(*self._waiting.popitem(last=False))

    def finish(self, growing: bool) -> Iterator[Outcome]:
        while self._waiting:
            key, call = self._waiting.popitem(last=False)
            if growing and not self._waiting and call.last.message is not None and call.last.message.stop_reason is None:
                yield Passed(UNFINISHED)
            else:
                yield self._settle(key, call)

    def _settle(self, key: tuple[str, str], call: _Waiting) -> Outcome:
        try:
            return _record(key, call.first, call.last)
        except NotMine as bad:
            return Bad(str(bad), call.piece)

    def _other(self, piece: Piece, bad: Exception) -> Outcome:
        """A line with a shape of its own: whoever is no answer may have any."""
        try:
            kind = _type.decode(piece.raw).get("type")
        except (msgspec.DecodeError, RecursionError):
            kind = None
        if isinstance(kind, str) and kind and kind != "assistant":
            return Passed(f"no model call: {kind[:40]}")
        return Bad(f"not a line of a transcript: {bad}", piece)


def _record(key: tuple[str, str], first: _Line, last: _Line) -> Record:
    message = last.message
    assert message is not None and message.usage is not None
    if first.timestamp is None:
        raise NotMine("an answer without a timestamp")
    ts = moment(first.timestamp)
    usage = anthropic_usage.tally(message.usage, b"")
    if isinstance(usage, Unknown):
        raise NotMine(usage.why)
    labels = {"conversation": first.sessionId or first.session_id, "feature": "claude-code"}
    if first.cwd:
        labels["project"] = first.cwd.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if first.gitBranch:
        labels["branch"] = first.gitBranch
    if first.isSidechain:
        labels["flow"] = "subagent"
    if first.agentId:
        labels["agent"] = first.agentId
    return Record(
        "/".join(part for part in key if part), ts, "anthropic", message.model or "", tokens=usage.tokens,
        estimated=isinstance(usage, Estimated), contradiction="" if isinstance(usage, Estimated) else usage.contradiction,
        stated=dollars(last.costUSD), labels=labels, finish=message.stop_reason or "", dialect="anthropic_messages", stream=True,
        service_tier=anthropic_usage.tier(message.usage), response_id=key[0],
    )  # fmt: skip
