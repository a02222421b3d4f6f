"""What a scripted provider is apart from how it is reached: it looks at a request, is told what to say, and bills it."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from .invoice import NOTHING, PRICES, Buckets, Change, Invoice
from .script import Always, Say, Script, Seen, by_header
from .speech import speak
from .spoken import Speech

SEEN_MAX = 10_000  # requests kept for the tests to look at; the invoice keeps a line for each

GEMINI = re.compile(
    r"/(?:v1|v1beta|v1beta1)/(?:.*/)?models/([^/:]+):(generateContent|streamGenerateContent|countTokens)$"
)
# A body that begins with its model and whether it streams, as this package writes them, need not be decoded to know both.
_BEGINS = re.compile(rb'\{"model":"([^"\\]*)","stream":(true|false)[,}]')


def dialect_of(path: str) -> str:
    """Which protocol a path speaks; also below a provider's name, as in /openai/v1/chat/completions."""
    for ending, dialect in (
        ("/chat/completions", "openai.chat"),
        ("/responses", "openai.responses"),
        ("/embeddings", "openai.embeddings"),
        ("/messages/count_tokens", "anthropic.count"),
        ("/messages", "anthropic.messages"),
        ("/v1/models", "models"),
    ):
        if path.endswith(ending):
            return dialect
    return "gemini" if GEMINI.search(path) else ""


class Answering:
    """The provider's judgement. `script` decides each answer; `prices` are dollars per million tokens by model and bucket, and
    `changes` what becomes of them later; `clock` dates the invoice; `seed` goes into ids; the last `keep` requests are in `seen`."""

    def __init__(
        self,
        script: Script | Say = by_header,
        *,
        prices: Mapping[str, Mapping[str, str]] = PRICES,
        changes: Sequence[Change] = (),
        clock: Callable[[], int] = lambda: 0,
        seed: int = 0,
        keep: int = SEEN_MAX,
    ) -> None:
        self.script: Script = Always(script) if isinstance(script, Say) else script
        self.invoice = Invoice(prices, changes)
        self.seen: deque[Seen] = deque(maxlen=keep)
        self.clock, self.seed = clock, seed
        self.count = 0

    def look(self, method: str, path: str, query: str, headers: dict[str, str], raw: bytes) -> Seen:
        """A request as the provider sees it. Header names in lower case."""
        self.count += 1
        dialect = dialect_of(path)
        if dialect == "gemini" and (named := GEMINI.search(path)):
            model, stream = named[1], named[2].startswith("stream")
            dialect = "" if named[2] == "countTokens" else dialect
            seen = Seen(self.count, self.clock(), method, path, query, headers, raw, dialect, model, stream)
        elif begins := _BEGINS.match(raw):
            seen = Seen(
                self.count, self.clock(), method, path, query, headers, raw, dialect, begins[1].decode(), begins[2] == b"true"
            )
        else:
            seen = Seen(self.count, self.clock(), method, path, query, headers, raw, dialect, "", False)
            if seen.body is not None:
                seen = Seen(
                    self.count, seen.at_us, method, path, query, headers, raw, dialect, str(seen.body.get("model", "")),
                    bool(seen.body.get("stream")),
                )  # fmt: skip
        self.seen.append(seen)
        return seen

    def speak(self, seen: Seen, say: Say) -> Speech:
        """The answer on the wire. Ids in it come from `say.ident`, else from the seed and the request's number."""
        ident = say.ident or hashlib.blake2s(f"{self.seed}/{seen.number}".encode(), digest_size=8).hexdigest()
        return speak(seen, say, ident)

    def bill(self, seen: Seen, say: Say, used: Buckets, why: str) -> None:
        """A line on the invoice: served | abandoned | cut | refused | reset. An error answer is not billed."""
        self.invoice.add(
            seen.number,
            say.at_us or seen.at_us,
            say.model or seen.model,
            NOTHING if why in ("refused", "reset") else used,
            why,
            say.ref,
        )
