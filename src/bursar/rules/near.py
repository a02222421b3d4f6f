"""Near-duplicates by their words: a kept question that asks the same as a new one, or nothing. No model, no weights.

Likeness is the cosine of tf-idf vectors, half of it from words and pairs of words, half from runs of three to five letters. It
cannot tell "best" from "worst", so likeness alone never serves: what must be equal is looked at (`differs`), the best match must
be better than the second best by a margin, and whether all of that is good enough is for shadow answers to say (`certify`)."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from itertools import pairwise
from math import log, sqrt
from typing import NamedTuple
from zlib import crc32

TEXTS_MAX = 5_000  # kept questions in one index; the one used longest ago makes room
TEXT_MAX = 1_000  # characters; a longer text is a document, and two documents are never asked the same by chance
HEAD = 16  # characters that a question counts for beside its own: what an index takes for each
CANDIDATES = 48  # kept questions that are compared in full
RARE = 24  # features of the new question, rarest first, by which candidates are found

_WORD = re.compile(r"\w+(?:'\w+)?")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_QUOTED = re.compile(r"[\"“”«»‘`]([^\"“”«»’`]+)[\"“”«»’`]")
_NEGATIONS = frozenset((
    "not", "no", "never", "none", "nothing", "neither", "nor", "without", "cannot", "except", "unless", "nobody", "nowhere",
))  # fmt: skip
# Words that turn an answer round. A pair must not face each other across the two texts.
_OPPOSITES = (
    "up down", "rise fall", "rises falls", "rose fell", "rising falling", "gain lose", "gains loses", "gained lost", "gain loss",
    "gains losses", "higher lower", "high low", "increase decrease", "increases decreases", "increased decreased",
    "increasing decreasing", "climb slip", "climbs slips", "jump drop", "jumps drops", "best worst", "better worse", "most least",
    "more less", "more fewer", "before after", "first last", "maximum minimum", "max min", "buy sell", "on off", "open close",
    "open closed", "start stop", "add remove", "enable disable", "enabled disabled", "above below", "over under", "inside outside",
    "in out", "from to", "import export", "encode decode", "upload download", "send receive", "sent received", "true false",
    "always never", "with without", "positive negative", "left right", "old new", "advantages disadvantages", "pros cons",
    "legal illegal", "accept decline", "accepted declined", "deposit withdraw", "debit credit", "activate deactivate",
    "cheapest dearest", "cheap expensive",
)  # fmt: skip
_OTHER: dict[str, set[str]] = {}
for _pair in _OPPOSITES:
    _one, _two = _pair.split()
    _OTHER.setdefault(_one, set()).add(_two)
    _OTHER.setdefault(_two, set()).add(_one)


class Match(NamedTuple):
    """The best kept question and by how much it is better than the second. `differs` says what must be equal and is not."""

    name: bytes
    likeness: float
    margin: float
    differs: str = ""


class Setting(NamedTuple):
    """When a match is good enough to be judged. `delta`: the rate of wrong answers that shadow answers must have certified before any
    is served."""

    least: float = 0.5
    margin: float = 0.15
    delta: float = 0.01


def fits(match: Match | None, setting: Setting) -> bool:
    """Whether the match is one that may serve where its feature is certified, and one that a shadow answer should judge."""
    return match is not None and not match.differs and match.likeness >= setting.least and match.margin >= setting.margin


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def features(text: str) -> tuple[Counter[int], Counter[int]]:
    """(words and pairs of words, runs of letters), hashed to 32 bits."""
    plain = words(text)
    by_word = Counter(crc32(word.encode()) for word in plain)
    by_word.update(crc32(f"{a} {b}".encode()) for a, b in pairwise(plain))
    letters = f" {' '.join(plain)} "
    by_letter = Counter(crc32(letters[at : at + n].encode()) for n in (3, 4, 5) for at in range(len(letters) - n + 1))
    return by_word, by_letter


class _Held:
    """A kept question. Its vectors' lengths change with every other question; they are worked out anew when these have become
    a tenth more or fewer."""

    __slots__ = ("among", "length", "letters", "text", "words")

    def __init__(self, text: str) -> None:
        self.text = text
        self.words, self.letters = features(text)
        self.length = (0.0, 0.0)
        self.among = 0


class Index:
    """Questions that were answered behind one wall and in one frame (same model, system prompt, tools, earlier turns)."""

    def __init__(self, most: int = TEXTS_MAX) -> None:
        self._most = most
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._in: dict[int, set[bytes]] = {}  # feature -> who has it
        self._seen: Counter[int] = Counter()  # letter runs: in how many texts
        self.chars = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, name: bytes, text: str) -> None:
        """Keep a question under its reply's name. Texts too long to be asked twice by chance are not kept."""
        if name in self._held:
            self.drop(name)
        if not text or len(text) > TEXT_MAX:
            return
        while len(self._held) >= self._most:
            self.drop(next(iter(self._held)))
        held = self._held[name] = _Held(text)
        self.chars += len(text) + HEAD
        for feature in held.words:
            self._in.setdefault(feature, set()).add(name)
        self._seen.update(held.letters.keys())

    def drop(self, name: bytes) -> None:
        """Its reply has expired or was purged."""
        held = self._held.pop(name, None)
        if held is None:
            return
        self.chars -= len(held.text) + HEAD
        for feature in held.words:
            its = self._in[feature]
            its.discard(name)
            if not its:
                del self._in[feature]
        for feature in held.letters:
            self._seen[feature] -= 1
            if self._seen[feature] <= 0:
                del self._seen[feature]

    def oldest(self) -> bytes | None:
        """The one that was used longest ago."""
        return next(iter(self._held), None)

    def find(self, text: str) -> Match | None:
        """The kept question most like this text; None when nothing shares a word with it."""
        if not self._held or not text or len(text) > TEXT_MAX:
            return None
        by_word, by_letter = features(text)
        weights = self._weights(by_word, True), self._weights(by_letter, False)
        length = _length(weights[0]), _length(weights[1])
        scored: list[tuple[float, bytes]] = []
        for name in self._candidates(by_word):
            held = self._held[name]
            if abs(len(self._held) - held.among) * 10 > held.among:
                held.among = len(self._held)
                held.length = _length(self._weights(held.words, True)), _length(self._weights(held.letters, False))
            likeness = 0.0
            for its, mine, ours, theirs in zip((held.words, held.letters), weights, length, held.length, strict=True):
                dot = sum(weight * weight / count * its[f] for f, (count, weight) in mine.items() if f in its)
                likeness += dot / (2 * ours * theirs) if ours and theirs else 0.0
            scored.append((likeness, name))
        if not scored:
            return None
        scored.sort(reverse=True)
        best, name = scored[0]
        second = scored[1][0] if len(scored) > 1 else 0.0
        self._held.move_to_end(name)
        return Match(name, best, best - second, differs(text, self._held[name].text))

    def _candidates(self, by_word: Counter[int]) -> list[bytes]:
        known = sorted((len(self._in[f]), f) for f in by_word if f in self._in)[:RARE]
        votes: Counter[bytes] = Counter()
        for size, feature in known:
            if size > 20 * CANDIDATES and votes:
                break  # a word that everybody uses finds nobody in particular
            weight = 1 + int(1_000 / size)
            for name in self._in[feature]:
                votes[name] += weight
        return [name for name, _ in votes.most_common(CANDIDATES)]

    def _weights(self, counted: Counter[int], word: bool) -> dict[int, tuple[int, float]]:
        """Feature -> (how often, times its rarity)."""
        held = len(self._held)
        found: dict[int, tuple[int, float]] = {}
        rarity: dict[int, float] = {}  # by how many texts have it: few different numbers, so few logarithms
        for feature, count in counted.items():
            among = len(self._in.get(feature, ())) if word else self._seen.get(feature, 0)
            its = rarity.get(among)
            if its is None:
                its = rarity[among] = log((1 + held) / (1 + among)) + 1
            found[feature] = (count, count * its)
        return found


def _length(weights: dict[int, tuple[int, float]]) -> float:
    return sqrt(sum(weight * weight for _, weight in weights.values()))


def differs(a: str, b: str) -> str:
    """What must be equal in two texts that ask the same, and is not; empty when nothing stands out."""
    if sorted(_NUMBER.findall(a)) != sorted(_NUMBER.findall(b)):
        return "numbers"
    if set(_QUOTED.findall(a)) != set(_QUOTED.findall(b)):
        return "quotations"
    if _names(a) != _names(b):
        return "names"
    ours, theirs = words(a), words(b)
    if _negations(ours) != _negations(theirs):
        return "negation"
    mine, its = set(ours), set(theirs)
    for word in mine - its:
        if _OTHER.get(word, set()) & (its - mine):
            return "opposites"
    return ""


ALIKE = 0.8


def agree(a: str, b: str) -> bool:
    """Whether two replies say the same, for a shadow answer to count as right: the same but for spacing, or nearly the same words
    with the same numbers, names and negations. What it cannot see as equal counts as wrong, so prose is rarely certified."""
    if a.split() == b.split():
        return True
    if len(a) > TEXT_MAX or len(b) > TEXT_MAX or differs(a, b):
        return False
    pair = Index()
    pair.add(b"a", a)
    found = pair.find(b)
    return found is not None and found.likeness >= ALIKE


def _negations(plain: list[str]) -> int:
    return sum(word in _NEGATIONS or word.endswith("n't") for word in plain)


def _names(text: str) -> set[str]:
    """Abbreviations: words in capitals. (Other capitals are a matter of style: people leave them out.)"""
    return {word for word in _WORD.findall(text) if len(word) > 1 and word.isupper()}
