"""Which header lines go on to a provider and which come back to a client. Names are lower-case bytes."""

from __future__ import annotations

from ..domain.call import Headers

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


def upstream(headers: Headers, proxy: bool, own_key: bool, stream: bool) -> Headers:
    """Lines for the provider. `own_key`: the operator's key goes on at the edge, so the caller's credentials stay here."""
    unwanted = NEVER | (ABROAD if proxy else 0) | (CREDENTIAL if proxy and own_key else 0) | (CODING if stream else 0)
    out: Headers = []
    named = b""
    for line in headers:
        name = line[0]
        kind = _kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if not kind:
            out.append(line)
        elif not kind & unwanted:
            out.append(line)
        elif name == b"connection" and line[1] not in (b"keep-alive", b"close"):
            named = line[1].lower()
    if named:
        listed = {n.strip() for n in named.split(b",")}
        out = [line for line in out if line[0] not in listed]
    if stream:
        # A compressed stream could not be relayed event by event with its last one kept back until the row is written.
        out.append((b"accept-encoding", b"identity"))
    return out


NEVER, ABROAD, CREDENTIAL, CODING = 1, 2, 4, 8
KINDS_MAX = 4096  # names remembered; strangers choose names, so the memory is bounded
_kinds: dict[bytes, int] = {}


def _kind(name: bytes) -> int:
    """What a name is, remembered: the same dozen names come with every call."""
    kind = NEVER if name in HOP_BY_HOP or name.startswith(LABELS) else 0
    kind |= ABROAD if name in FOREIGN else 0
    kind |= CREDENTIAL if name in AUTH or name in ACCOUNT else 0
    kind |= CODING if name == b"accept-encoding" else 0
    if len(_kinds) < KINDS_MAX:
        _kinds[name] = kind
    return kind


def downstream(headers: Headers, proxy: bool) -> Headers:
    """Lines for the client: the provider's, without framing and without cookies that are not the client's."""
    named = get(headers, b"connection").lower()
    return [
        line
        for line in headers
        if line[0] not in HOP_BY_HOP
        and not (proxy and line[0] == b"set-cookie")
        and not line[0].startswith(b"x-bursar-")
        and not (named and line[0] in named and line[0] in [n.strip() for n in named.split(b",")])
    ]


def streams(headers: Headers, asked_stream: bool, dialect: str) -> bool:
    """Whether this answer is to be relayed as it comes. Gemini streams a JSON array when SSE was not asked for."""
    kind = get(headers, b"content-type").lower()
    if kind.startswith((b"text/event-stream", b"application/x-ndjson", b"application/stream+json")):
        return True
    return asked_stream and dialect == "gemini_generate" and kind.startswith(b"application/json")
