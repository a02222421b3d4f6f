"""Which header lines go on to a provider and which come back to a client. Names are lower-case bytes."""

from __future__ import annotations

from collections.abc import Iterable

from ..domain.call import Headers, Lines

HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
))  # fmt: skip

# Ours, or another gateway's labels: never sent on. `traceparent` and `baggage` go through.
LABELS = (b"x-bursar-", b"helicone-", b"x-litellm-", b"x-portkey-")

# What a gateway must not hand from a stranger to a provider. Inside the caller's own process nothing is foreign.
FOREIGN = frozenset(
    (b"cookie", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
)
AUTH = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))
ACCOUNT = frozenset((b"openai-organization", b"openai-project"))


def get(headers: Headers, name: bytes) -> bytes:
    """The first value of a header, empty when absent."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def index(headers: Headers) -> dict[bytes, bytes]:
    """The headers by name, the last of each; not to be changed."""
    if not isinstance(headers, Lines):
        return dict(headers)
    known = headers.made.get("index")
    if known is None:
        known = headers.made["index"] = dict(headers)
    return known


def upstream(headers: Headers, proxy: bool, own_key: bool, stream: bool) -> Headers:
    """Lines for the provider. `own_key`: the operator's key goes on at the edge, so the caller's credentials stay here."""
    how = (proxy, proxy and own_key, stream)
    if isinstance(headers, Lines):
        known = headers.made.get(how)
        if known is None:
            known = headers.made[how] = Lines(_upstream(headers, how))
        return known
    return _upstream(headers, how)


def _upstream(headers: Headers, how: tuple[bool, bool, bool]) -> Headers:
    present = dict(headers)
    if not _seen.issuperset(present):
        _look_at(present)
    unwanted = _unwanted[how]
    out = [line for line in headers if line[0] not in unwanted]
    named = present.get(b"connection", b"close")
    if named not in (b"keep-alive", b"close"):
        listed = {n.strip() for n in named.lower().split(b",")}
        out = [line for line in out if line[0] not in listed]
    if how[2]:
        # A compressed stream could not be relayed event by event with its last one kept back until the row is written.
        out.append((b"accept-encoding", b"identity"))
    return out


# Names that were looked at, and which of them do not go on: to anybody; abroad (a gateway's calls); where the operator's key is
# used; in a stream's request. The same dozen names come with every call. Strangers choose names: the memory is bounded.
NAMES_MAX = 4096
_seen: set[bytes] = set()
_unwanted: dict[tuple[bool, bool, bool], set[bytes]] = {
    (proxy, own_key, stream): set() for proxy in (False, True) for own_key in (False, True) for stream in (False, True)
}


def _look_at(names: Iterable[bytes]) -> None:
    if len(_seen) > NAMES_MAX:
        _seen.clear()
        for kept_back in _unwanted.values():
            kept_back.clear()
    for name in names:
        _seen.add(name)
        for (proxy, own_key, stream), kept_back in _unwanted.items():
            if (
                name in HOP_BY_HOP
                or name.startswith(LABELS)
                or (proxy and name in FOREIGN)
                or (own_key and (name in AUTH or name in ACCOUNT))
                or (stream and name == b"accept-encoding")
            ):
                kept_back.add(name)


def downstream(headers: Headers, proxy: bool) -> Headers:
    """Lines for the client: the provider's, without framing and without cookies that are not the client's."""
    present = dict(headers)
    if not _heard.issuperset(present):
        _listen(present)
    kept_back = _kept_back[proxy]
    out = [line for line in headers if line[0] not in kept_back]
    if b"connection" in present:
        named = present[b"connection"].lower()
        if len(present) != len(headers):  # the first line that says anything
            named = next((value.lower() for name, value in headers if name == b"connection" and value), b"")
        if named and named not in (b"keep-alive", b"close"):
            listed = {n.strip() for n in named.split(b",")}
            out = [line for line in out if line[0] not in listed]
    return out


# The same of what providers answer.
_heard: set[bytes] = set()
_kept_back: dict[bool, set[bytes]] = {False: set(), True: set()}


def _listen(names: Iterable[bytes]) -> None:
    if len(_heard) > NAMES_MAX:
        _heard.clear()
        for kept_back in _kept_back.values():
            kept_back.clear()
    for name in names:
        _heard.add(name)
        for proxy, kept_back in _kept_back.items():
            if name in HOP_BY_HOP or name.startswith(b"x-bursar-") or (proxy and name == b"set-cookie"):
                kept_back.add(name)


def streams(headers: Headers, asked_stream: bool, dialect: str) -> bool:
    """Whether this answer is to be relayed as it comes. Gemini streams a JSON array when SSE was not asked for."""
    kind = get(headers, b"content-type").lower()
    if kind.startswith((b"text/event-stream", b"application/x-ndjson", b"application/stream+json")):
        return True
    return asked_stream and dialect == "gemini_generate" and kind.startswith(b"application/json")
