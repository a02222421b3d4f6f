"""The price book: a compiled file of published prices, looked up by provider, model, moment and tier.

The file is one line `bursar-prices SHAPE DIGEST` and a msgpack body. A provider is decoded when first asked for, a
model when first matched, so an idle gateway keeps a few hundred kilobytes. Which of many entries a name means, which
dated line holds and what a tier changes follow genai-prices, from which `surfaces/price_sync.py` compiles the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..domain.policy import PriceOverride
from ..domain.price import Price, Rate
from ..domain.usage import TOKEN_BUCKETS
from .price_override import Override, compile_override, overlay

SHAPE = 1
DAY_US = 86_400_000_000
EVER = 1 << 62  # microseconds; far beyond any date
HOT_MAX = 4096  # names come from strangers: a full cache is dropped, and refilled in a fraction of a millisecond a name

# Our provider names -> the book's. A name that is in the book itself needs no line here.
IN_THE_BOOK = {
    "gemini": "google",
    "vertex": "google",
    "google-vertex": "google",
    "bedrock": "aws",
    "xai": "x-ai",
    "moonshot": "moonshotai",
    "zhipu": "zhipuai",
    "together-ai": "together",
    "together_ai": "together",
    "fireworks-ai": "fireworks",
    "fireworks_ai": "fireworks",
    "copilot": "github-copilot",
}
# Hosts end with one of these, and the label before it is whole: `api.openai.com.evil.example` is nobody's.
HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "vertex",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "azure-api.net": "azure",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.cerebras.ai": "cerebras",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.z.ai": "zai",
    "api.voyageai.com": "voyageai",
    "api.githubcopilot.com": "github-copilot",
}
_BEDROCK = re.compile(r"bedrock-runtime(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")
_VERTEX = re.compile(r"[a-z0-9-]+-aiplatform\.googleapis\.com")

STANDARD = frozenset(("", "default", "standard", "auto", "on_demand", "standard_only"))
# Tiers that cost more than standard where the provider sells them. A model whose rate for one is not published is
# charged the steepest published ratio (2.5, gpt-5.2's priority tier; the median is 2), and the bill says estimated.
# Anthropic's "priority" is not here: it is capacity paid for beforehand, not a dearer rate.
PREMIUM = {"openai": ("priority", "fast"), "google": ("priority",), "anthropic": ("fast",)}
PREMIUM_TIMES = (5, 2)

# Whose dearest prices stand in where not even the provider is known.
LARGE = ("openai", "anthropic", "google")

# An unknown dated snapshot or version of a known model; prices of snapshots do differ, so such a price is estimated.
_SNAPSHOT = re.compile(r"[-@:](20\d\d-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])|latest|v\d+(:\d+)?)$")
_COMPACT_DATE = re.compile(r"(?<=-)(20\d\d)(0[1-9]|1[0-2])([0-2]\d|3[01])(?=-|:|$)")


class BrokenBook(ValueError):
    """The file is not a price book this version can read. The message says which file and what to do."""


class Clause(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One condition on a lower-case model or provider name. `op`: = ^ $ has re or and."""

    op: str
    text: str = ""
    parts: tuple[Clause, ...] = ()

    def fits(self, name: str) -> bool:
        match self.op:
            case "=":
                return name == self.text
            case "^":
                return name.startswith(self.text)
            case "$":
                return name.endswith(self.text)
            case "has":
                return self.text in name
            case "re":
                return re.search(self.text, name) is not None
            case "or":
                return any(part.fits(name) for part in self.parts)
            case _:
                return all(part.fits(name) for part in self.parts)


class Line(msgspec.Struct, array_like=True, frozen=True):
    """Rates from a moment on, or in a daily window (seconds of the UTC day; -1: all day). `words`: the tiers it is for.
    A rate is [base, above, femto, above, femto, …]."""

    start_us: int
    day_from: int
    day_until: int
    rates: dict[str, list[int]]
    words: list[str] = []

    def holds(self, ts_us: int) -> bool:
        if self.day_from < 0:
            return ts_us >= self.start_us
        second = ts_us % DAY_US // 1_000_000
        if self.day_until < self.day_from:
            return second >= self.day_from or second < self.day_until
        return self.day_from <= second < self.day_until


class Model(msgspec.Struct, array_like=True, frozen=True):
    """One model of one provider: standard lines (the last that holds wins, else the first), then lines for tiers."""

    id: str
    context_window: int
    deprecated: bool
    lines: list[Line]
    tiers: list[Line]


class Catalogue(msgspec.Struct, array_like=True, frozen=True):
    """A provider's models, in the order in which they are matched. `fallback`: whose models it also offers."""

    fallback: list[str]
    models: list[tuple[Clause, msgspec.Raw]]


class Index(msgspec.Struct):
    """The body of the file."""

    source: str  # name and version of what it was compiled from
    providers: dict[str, msgspec.Raw]
    families: list[tuple[Clause, str]]  # model name -> provider, for providers nobody knows


_catalogue = msgspec.msgpack.Decoder(Catalogue)
_model = msgspec.msgpack.Decoder(Model)


class Found(msgspec.Struct, frozen=True):
    """What a name means. `near`: not this very model at this very provider, so its price is an estimate."""

    provider: str  # the book's name
    model: Model
    near: bool
    own: bool  # in the provider's own catalogue; a fallback's tiers do not apply


class PriceBook:
    """Prices by provider, model, moment and tier. Reads no clock and no file after loading."""

    def __init__(self, index: Index, overrides: Sequence[Override] = ()) -> None:
        self.source = index.source
        self._index = index
        self._overrides = tuple(sorted(overrides, key=lambda o: o.rank))
        self._catalogues: dict[str, Catalogue] = {}
        self._hot: dict[tuple[str, str, str, bool], tuple[int, int, Price | None]] = {}
        self._names: dict[tuple[str, str], Found | None] = {}
        self._dearest: dict[str, dict[str, Price]] = {}

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[PriceOverride] = ()) -> PriceBook:
        """The book in a compiled file under the operator's own prices of models. BrokenBook when the file is not whole,
        ValueError when an override cannot be meant (the message names its number and key)."""
        return cls(read(Path(path)), [compile_override(o, n) for n, o in enumerate(overrides) if o.model or not o.tool])

    def find(self, provider: str, model: str, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None:
        """The price in force, or None when nobody knows one. `estimated` is set where it is a sibling's, a family's or
        another tier's. Times are microseconds since the epoch, UTC."""
        key = (provider, model, service_tier, batch)
        hit = self._hot.get(key)
        if hit is not None and hit[0] <= ts_us < hit[1]:
            return hit[2]
        since, until, price = self._price(self.resolve(provider, model), provider, model, ts_us, service_tier, batch)
        if len(self._hot) >= HOT_MAX:
            self._hot = {}  # threads may be reading the old one
        self._hot[key] = (since, until, price)
        return price

    def dearest(self, provider: str, model: str = "") -> Price | None:
        """The dearest rate of each unit that this provider (any large one, when it is unknown) charges for a model
        still sold, tiers and dates folded in. With a model name, among its family (`gpt`, `claude`, …), if any."""
        cid = self.book_name(provider)
        families = self._dearest.get(cid)
        if families is None:
            families = self._dearest[cid] = self._dear(cid)
        return families.get(_stem(model)) or families.get("")

    def book_name(self, provider: str) -> str:
        """The book's name for a provider of ours; empty when it has none."""
        name = provider.lower()
        name = IN_THE_BOOK.get(name, name)
        return name if name in self._index.providers else ""

    def providers(self) -> list[str]:
        """The book's provider names."""
        return list(self._index.providers)

    def models(self, provider: str = "") -> Iterator[tuple[str, Model]]:
        """(the book's provider name, model) of one or all providers, in the book's order."""
        for cid in [self.book_name(provider)] if provider else self._index.providers:
            if cid:
                for _, raw in self._read(cid).models:
                    yield cid, _model.decode(raw)

    def price_of(self, provider: str, model: Model, ts_us: int, service_tier: str = "", batch: bool = False) -> Price | None:
        """The price of an entry that `models` gave. Its id need not be a name anybody sends, so `find` may not know it."""
        return self._price(Found(provider, model, False, True), provider, model.id, ts_us, service_tier, batch)[2]

    # -- how a name is understood

    def resolve(self, provider: str, model: str) -> Found | None:
        """What a model name means at a provider, or None. Case does not matter."""
        key = (provider, model)
        if key in self._names:
            return self._names[key]
        found = self._resolve(self.book_name(provider), model.lower())
        if len(self._names) >= HOT_MAX:
            self._names = {}
        self._names[key] = found
        return found

    def _resolve(self, cid: str, model: str) -> Found | None:
        for ref, near in _spellings(model):
            if cid:
                found = self._match(cid, ref, near)
                if found is not None:
                    return found
        for ref, _ in _spellings(model):
            family = next((name for clause, name in self._index.families if clause.fits(ref)), "")
            if family and family != cid:
                found = self._match(family, ref, near=True)
                if found is not None:
                    return found
        return None

    def _match(self, cid: str, ref: str, near: bool) -> Found | None:
        catalogue = self._read(cid)
        for name in [cid, *catalogue.fallback]:
            for clause, raw in self._read(name).models:
                if clause.fits(ref):
                    return Found(name, _model.decode(raw), near, name == cid)
        return None

    def _read(self, cid: str) -> Catalogue:
        catalogue = self._catalogues.get(cid)
        if catalogue is None:
            catalogue = self._catalogues[cid] = _catalogue.decode(self._index.providers[cid])
        return catalogue

    # -- what it costs then

    def _price(
        self, found: Found | None, provider: str, model: str, ts_us: int, service_tier: str, batch: bool
    ) -> tuple[int, int, Price | None]:
        """(since, until, price): what holds now, and for how long."""
        words = {service_tier.lower()} - STANDARD | ({"batch"} if batch else set())
        base, since, until = None, 0, EVER
        cid, name = "", ""
        if found is not None:
            cid, name = found.provider, found.model.id
            since, until = _interval(found.model, ts_us)
            base = self._at(found, ts_us, words)
        price, since_2, until_2 = overlay(self._overrides, base, provider, cid, model, name, ts_us, bool(words))
        return max(since, since_2), min(until, until_2), price

    def _at(self, found: Found, ts_us: int, words: set[str]) -> Price | None:
        model = found.model
        if not model.lines:
            return None
        line = next((line for line in reversed(model.lines) if line.holds(ts_us)), model.lines[0])
        rates = dict(line.rates)
        known: set[str] = set()
        changed: dict[str, list[int]] = {}
        for tier in model.tiers if words and found.own else ():
            if tier.holds(ts_us) and words.issuperset(tier.words):
                known.update(tier.words)
                for unit, rate in tier.rates.items():
                    changed.setdefault(unit, rate)
        rates.update(changed)
        if not rates:
            return None
        unknown = words - known
        times, by = PREMIUM_TIMES if unknown.intersection(PREMIUM.get(found.provider, ())) else (1, 1)
        context = "".join(f"+{word}" for word in sorted(known)) + "".join(f"+{word}?" for word in sorted(unknown))
        return Price(
            id=f"{self.source}/{found.provider}/{model.id}{_since(line)}{context}{'~' if found.near else ''}",
            provider=found.provider,
            model=model.id,
            rates={u: _rate(flat, times, by) if u in TOKEN_BUCKETS else _rate(flat, 1, 1) for u, flat in rates.items()},
            context_window=model.context_window,
            estimated=found.near or bool(unknown),
        )

    def _dear(self, cid: str) -> dict[str, Price]:
        """Family stem -> its dearest price; the empty stem is all of the provider."""
        most: dict[str, dict[str, int]] = {}
        windows: dict[str, int] = {}
        for name in [cid] if cid else [name for name in LARGE if name in self._index.providers]:
            for _, model in self.models(name):
                for stem in ("", _stem(model.id)) if not model.deprecated else ():
                    rates = most.setdefault(stem, {})
                    windows[stem] = max(windows.get(stem, 0), model.context_window)
                    for line in model.lines:
                        for unit, flat in line.rates.items():
                            rates[unit] = max(rates.get(unit, 0), flat[0], *flat[2::2])
        return {
            stem: Price(
                id=f"{self.source}/{cid or 'any'}/{stem or '*'}@dearest",
                provider=cid,
                model=stem,
                rates={unit: Rate(femto) for unit, femto in rates.items() if unit != "request"},
                context_window=windows[stem],
                estimated=True,
            )
            for stem, rates in most.items()
            if rates
        }


def provider_of_host(host: str) -> str:
    """Our name for the provider behind a host (port allowed), empty when it is nobody's we know."""
    name = host.lower().rsplit("@", 1)[-1].split(":")[0].rstrip(".")
    if _BEDROCK.fullmatch(name):
        return "bedrock"
    if _VERTEX.fullmatch(name):
        return "vertex"
    while name:
        if name in HOSTS:
            return HOSTS[name]
        name = name.partition(".")[2]
    return ""


def write(index: Index) -> bytes:
    """The file's bytes: the same index gives the same bytes."""
    body = msgspec.msgpack.encode(index)
    return f"bursar-prices {SHAPE} {blake2b(body, digest_size=16).hexdigest()}\n".encode() + body


def read(path: Path) -> Index:
    """The index of a compiled file. BrokenBook when it is missing, of another shape, or not what was written."""
    remedy = "delete it; it is compiled anew at the next start, or by `bursar prices update`"
    try:
        data = path.read_bytes()
    except OSError as bad:
        raise BrokenBook(f"{path}: the price book cannot be read: {bad.strerror}; {remedy}") from bad
    head, _, body = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != b"bursar-prices" or words[1] != str(SHAPE).encode():
        raise BrokenBook(f"{path}: not a price book of shape {SHAPE}; {remedy}")
    if words[2].decode("ascii", "replace") != blake2b(body, digest_size=16).hexdigest():
        raise BrokenBook(f"{path}: the price book is damaged (its digest does not fit its {len(body)} bytes); {remedy}")
    return msgspec.msgpack.decode(body, type=Index)


def _spellings(model: str) -> Iterator[tuple[str, bool]]:
    """(name, near) for the ways one model is written: as given, with a dashed date, without a path before it, then
    without its snapshot. Near ones are related models, not the same."""
    seen: set[str] = set()
    for ref in (model, model.rpartition("/models/")[2].removeprefix("models/"), _tail_of_arn(model)):
        for spelling in (ref, _COMPACT_DATE.sub(r"\1-\2-\3", ref)):
            if spelling and spelling not in seen:
                seen.add(spelling)
                yield spelling, False
    plain = model.rpartition("/models/")[2].removeprefix("models/")
    for ref in (_SNAPSHOT.sub("", plain), plain.rpartition("/")[2], _SNAPSHOT.sub("", plain.rpartition("/")[2])):
        if ref and ref not in seen:
            seen.add(ref)
            yield ref, True


def _tail_of_arn(model: str) -> str:
    return model.rpartition("/")[2] if model.startswith("arn:") else model


def _interval(model: Model, ts_us: int) -> tuple[int, int]:
    """From when until when the same lines hold as at this moment."""
    day = ts_us - ts_us % DAY_US
    edges = {0, EVER}
    for line in (*model.lines, *model.tiers):
        edges.add(line.start_us)
        if line.day_from >= 0:
            for second in (line.day_from, line.day_until):
                edges.update(day + shift + second * 1_000_000 for shift in (-DAY_US, 0, DAY_US))
    return max((e for e in edges if e <= ts_us), default=0), min(e for e in edges if e > ts_us)


def _rate(flat: list[int], times: int, by: int) -> Rate:
    if times != by:
        flat = [flat[0] * times // by, *[n * times // by if i % 2 else n for i, n in enumerate(flat[1:])]]
    return Rate(flat[0], tuple(zip(flat[1::2], flat[2::2], strict=True)))


def _since(line: Line) -> str:
    """`@2026-08-17` or `@01:00-04:00` in a price's id; nothing for a line that always held."""
    if line.day_from >= 0:
        day = "-".join(f"{second // 3600:02d}:{second % 3600 // 60:02d}" for second in (line.day_from, line.day_until))
        return f"@{day}"
    return f"@{datetime.fromtimestamp(line.start_us // 1_000_000, UTC).date()}" if line.start_us else ""


def _stem(model: str) -> str:
    """The family word of a model name: `gpt` of gpt-5-mini, `o` of o3-pro, `claude` of anthropic/claude-opus-5."""
    found = re.match(r"[a-z]+", model.lower().rpartition("/")[2])
    return found.group() if found else ""
