"""What OpenAI's and Anthropic's usage and cost reports have in common: buckets of time, each a sum over calls, told once. Pure.

A bucket is no call: its row has `attempt_kind` aggregate, and no sum over calls counts it (see the ledger's view `calls`). Usage
(tokens, priced here) and costs (the provider's own bill) are two sources, because each is a sum over the same calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from ...domain.entry import Entry
from ...domain.usage import Tokens
from .record import AGGREGATE, DAY_US, Record, Repeat

USAGE, COSTS = "usage", "costs"
IN_COLUMNS = ("of", "api_key", "service_tier", "batch")  # dimensions that have a column of their own
KEPT_MAX = 200_000
AGAIN = "the same bucket again"


def sources(form: str) -> dict[str, str]:
    """Kind of report -> the source its rows get."""
    return {USAGE: f"imported:{form}", COSTS: f"imported:{form.removesuffix('-usage')}-costs"}


FORMS = ("openai-usage", "anthropic-usage")


class Buckets:
    """The buckets of one file, by what tells them apart. Where two have all of that in common and differ in figures (two keys of one
    name, ids blacked out), they are told apart by their order; where nothing differs, one is a copy."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._seen: dict[str, list[str]] = {}

    def record(
        self, kind: str, start: int, end: int | None, dimensions: Mapping[str, str], figures: Mapping[str, Any], *, provider: str,
        model: str = "", tokens: Tokens | None = None, requests: int | None = None, stated: int | None = None, service_tier: str = "",
        batch: bool = False, key: str = "", embedding: bool = False,
    ) -> Record | Repeat:  # fmt: skip
        """One bucket for one combination of the report's dimensions. Times in microseconds, `stated` in pico-dollars."""
        named = {name: value for name, value in sorted(dimensions.items()) if value}
        id = "/".join(
            [
                kind,
                str(start // 1_000_000),
                str(end // 1_000_000) if end else "",
                *[f"{n}={quote(v, safe='')}" for n, v in named.items()],
            ]
        )
        digest = blake2b(msgspec.json.encode([str(value) for value in figures.values()]), digest_size=16).hexdigest()
        if len(self._seen) > KEPT_MAX:
            self._seen.clear()
        seen = self._seen.setdefault(id, [])
        if digest in seen:
            return Repeat(AGAIN)
        seen.append(digest)
        labels = {name: value for name, value in named.items() if name not in IN_COLUMNS}
        if requests is not None:
            labels["requests"] = str(requests)
        return Record(
            id if len(seen) == 1 else f"{id}/#{len(seen)}", start, provider, model, tokens=tokens, stated=stated, billed=kind == COSTS,
            labels=labels, service_tier=service_tier, batch=batch, key=key, embedding=embedding, attempt_kind=AGGREGATE, digest=digest,
            source=sources(self._form)[kind],
        )  # fmt: skip


class _Reach(NamedTuple):
    """What a bucket's id says: which calls it is a sum over."""

    kind: str
    start: int  # seconds
    end: int
    dimensions: dict[str, str]


def _reach(id: str) -> _Reach | None:
    """None for an id so long that it was hashed: then only the same bucket again is known."""
    kind, *rest = id.partition(":")[2].split("/")
    if len(rest) < 2:
        return None
    start, end, *named = rest
    pairs = (part.partition("=") for part in named if "=" in part)
    return _Reach(kind, int(start), int(end or start), {name: value for name, _, value in pairs})


class Reported:
    """Every bucket that the ledger has from this form, to judge the next by. `rows` are (id, digest)."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self._digests = dict(rows)
        self._days: dict[int, list[_Reach]] = {}
        for id in self._digests:
            reach = _reach(id)
            if reach is None:
                continue
            for day in range(reach.start // 86_400, max(reach.end - 1, reach.start) // 86_400 + 1):
                self._days.setdefault(day, []).append(reach)
        self._own: dict[str, str] = {}

    def judge(self, row: Entry, now_us: int) -> str | Repeat | None:
        """None when it is new; Repeat when it is known; else why it must not be booked."""
        digest = self._digests.get(row.id, self._own.get(row.id))
        if digest is not None:
            if digest == row.request_hash:
                return Repeat("already in the ledger")
            return "this bucket was imported before with other figures, which stand: a report of an unfinished day, or an amended one"
        reach = _reach(row.id)
        if (reach.end * 1_000_000 if reach else row.ts) > now_us:
            return "its time is not over: import it when the report is complete"
        for other in self._days.get(row.ts // DAY_US, ()) if reach else ():
            assert reach is not None
            if (
                other.kind == reach.kind
                and other.start < max(reach.end, reach.start + 1)
                and reach.start < max(other.end, other.start + 1)
            ):
                common = other.dimensions.keys() & reach.dimensions.keys()
                if all(other.dimensions[name] == reach.dimensions[name] for name in common) and _differ(other, reach):
                    by = ", ".join(sorted(other.dimensions)) or "nothing"
                    long = other.end - other.start
                    return f"its calls are in the ledger already, in buckets of {long} s by {by}: they would count twice"
        self._own[row.id] = row.request_hash
        return None


def _differ(a: _Reach, b: _Reach) -> bool:
    """One sum may contain the other: other lengths of time, or one is cut by what the other is not."""
    return (
        (a.start, a.end) != (b.start, b.end) or a.dimensions.keys() < b.dimensions.keys() or b.dimensions.keys() < a.dimensions.keys()
    )
