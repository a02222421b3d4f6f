"""Whether a reply may answer again: under which key, behind which wall, for how long. What is kept lies in `stores/replies`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from ..domain.call import Asked, Reading
from ..domain.labels import Labels
from ..domain.policy import Cache
from ..domain.reply import Question

HOUR_US = 3_600_000_000


class Setting(NamedTuple):
    """`[cache]`. Nothing is kept for a call whose wall is not known: see `wall`."""

    exact: bool = False
    embeddings: bool = False
    ttl_us: int = HOUR_US
    temperature_max: float = 0.0  # a request that asks for more variety than this gets a fresh answer, unless it names a seed
    tools: bool = False  # replies that call tools: whoever gets one again will act again
    per: str = "tenant"  # tenant | key | all
    shared: tuple[str, ...] = ()  # features whose replies all tenants may share
    suites: Mapping[str, int] = {}  # eval suite -> how long its cases' replies answer again, microseconds
    near: str = "off"  # off | shadow | on
    near_model: tuple[str, str] = ("", "")  # provider and model that say what is alike; empty: words do
    body_max: int = 256 * 1024  # a longer request is a conversation's, and not asked twice
    reply_max: int = 1 << 20


_SPAN = {"s": 1_000_000, "m": 60_000_000, "h": HOUR_US, "d": 24 * HOUR_US}
_SIZE = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def span_us(text: str) -> int:
    """Microseconds of "90s", "15m", "1h" or "7d". ValueError says what was expected."""
    found = re.fullmatch(r"([1-9]\d{0,5})\s*([smhd])", text.strip())
    if found is None:
        raise ValueError(f'{text!r} is no time; write "90s", "15m", "1h" or "7d"')
    return int(found[1]) * _SPAN[found[2]]


def size(text: str) -> int:
    """Bytes of "256MB". ValueError says what was expected."""
    found = re.fullmatch(r"([1-9]\d{0,11})\s*(KB|MB|GB|)", text.strip())
    if found is None:
        raise ValueError(f'{text!r} is no size; write "64MB" or "1GB"')
    return int(found[1]) * _SIZE[found[2]]


def compiled(policy: Cache) -> Setting | None:
    """The setting of a policy; None where nothing is kept. ValueError says what is wrong with it."""
    size(policy.bytes)
    if not 0 <= policy.temperature_max <= 2:
        raise ValueError(f"temperature_max is {policy.temperature_max:g}; write 0 to 2")
    if policy.near != "off" and not policy.exact:
        raise ValueError("near gives the replies that exact keeps; write exact = true")
    if policy.near_model and policy.near == "off":
        raise ValueError('near_model finds near-duplicates, and near is off; write near = "shadow"')
    provider, slash, model = policy.near_model.partition("/")
    suites = {name: span_us(text) for name, text in policy.suites.items()}
    setting = Setting(
        policy.exact, policy.embeddings, span_us(policy.ttl), policy.temperature_max, policy.tools, policy.per, tuple(policy.shared),
        suites, policy.near, (provider, model) if slash else ("", policy.near_model),
    )  # fmt: skip
    return setting if policy.exact or policy.embeddings or suites else None


def suite(labels: Labels) -> str:
    """The eval suite a call belongs to: the free label `suite`, else its feature; empty when it is no eval."""
    return labels.get("suite") or labels.feature if labels.operation == "eval" else ""


def wall(labels: Labels, key: str, setting: Setting) -> str | None:
    """What separates those who may see each other's replies. None: nobody said whose call it is, so nothing is shared with it.

    The kinds are marked, so that no tenant can be called what a feature is called."""
    its = suite(labels)
    mark = f"suite\0{its}\0" if its in setting.suites else ""
    if setting.per == "all":
        return mark + "all"
    if labels.feature and labels.feature in setting.shared:
        return f"{mark}feature\0{labels.feature}"
    if setting.per == "tenant" and labels.tenant:
        return f"{mark}tenant\0{labels.tenant}"
    return f"{mark}key\0{key}" if key else None


def refuses(asked: Asked, question: Question, labels: Labels, setting: Setting, size: int) -> str:
    """Why this request is not to be answered from what is kept; empty when it may be."""
    its = suite(labels)
    if its:
        if its not in setting.suites:
            return "evals ask anew unless their suite may reuse"
    elif not (setting.embeddings if asked.embedding else setting.exact):
        return "off"
    if size > setting.body_max:
        return "too long"
    if asked.unbounded_input:
        return f"its answer rests on more than the request: {asked.unbounded_input}"
    if asked.embedding or its or question.seeded:
        return ""
    heat = 1.0 if question.temperature is None else question.temperature
    if heat > setting.temperature_max:
        said = "the provider's default" if question.temperature is None else f"{question.temperature:g}"
        return f"it asks for variety: temperature {said}, kept up to {setting.temperature_max:g}"
    return ""


def ttl_us(labels: Labels, setting: Setting) -> int:
    return setting.suites.get(suite(labels), setting.ttl_us)


_WHOLE = frozenset(("stop", "end_turn", "stop_sequence", "completed", "STOP"))
_TOOLS = frozenset(("tool_calls", "function_call", "tool_use"))


def refuses_reply(status: int, reading: Reading, calls_tools: bool, size: int, setting: Setting) -> str:
    """Why this reply is not kept; empty when it is. `calls_tools`: it asks the client to do something."""
    if status != 200 or reading.error:
        return "an error"
    if not reading.complete or reading.malformed:
        return "not whole"
    if size > setting.reply_max:
        return "too long"
    if calls_tools or reading.finish in _TOOLS:
        return "" if setting.tools else "it calls tools"
    if reading.finish and reading.finish not in _WHOLE:
        return f"it ended by {reading.finish}"
    return ""


_VERSION = b"bursar reply 1"  # another way of making keys is another number: old replies are then not found, never misread


def key(wall: str, provider: str, dialect: str, model: str, counted: bytes, canon: bytes) -> bytes:
    """32 bytes. Every part has its length before it, so that no two lists of parts run together to the same bytes."""
    found = blake2b(digest_size=32, person=_VERSION)
    for part in (wall.encode(), provider.encode(), dialect.encode(), model.encode(), counted, canon):
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


class Past(NamedTuple):
    """A past call as the ledger knows it, in order of time: enough to say what a cache would have done."""

    ts_us: int
    wall: str
    question: str | int  # its request hash, or a number for wall and hash
    pico: int
    reusable: bool = True  # it was answered well, and its policy would allow it


class WouldHave(NamedTuple):
    calls: int
    hits: int
    pico: int  # what the hits cost then


def would_have(calls: Iterable[Past], ttl_us: int) -> WouldHave:
    """What keeping replies for `ttl_us` would have saved. A reply answers from when it was made; identical calls that were in
    flight together count as hits, because they are made once."""
    made: dict[tuple[str, str | int], int] = {}
    total = hits = pico = 0
    for call in calls:
        total += 1
        place = (call.wall, call.question)
        since = made.get(place)
        if call.reusable and since is not None and call.ts_us < since + ttl_us:
            hits += 1
            pico += call.pico
        elif call.reusable:
            made[place] = call.ts_us
    return WouldHave(total, hits, pico)
