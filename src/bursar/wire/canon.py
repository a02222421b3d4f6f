"""What was said, apart from how it was written: texts, arguments and results as digests that every API agrees on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, cast

import msgspec

from ..domain.history import BASE, BROKEN, EMPTY, JSON, MODULUS, TEXT, Result, Use
from . import failure

IMAGE_WEIGHT = 6_000  # bytes that an image or document sent in base64 counts as: about 1,500 tokens, as providers publish
MASKED = 4_096  # characters of a result in which moments and ids are masked; further ones count as they are
PREVIEW = 80
NOTHING = ("null", "None", "undefined")  # how programs write that a tool gave nothing
LONG = 40  # characters of a text, or of a line, that is not likely to come twice by chance
TEXT_LONG = 6 * LONG  # of a text whose lines are worth looking up, and of a reply that may be a summary
SUMMARY_LONG = 5 * LONG

_sorted = msgspec.json.Encoder(order="deterministic")
_any = msgspec.json.Decoder()
_texts = msgspec.json.Decoder(str)


def digest(kind: bytes, data: bytes) -> int:
    """128 bits of what was said. `kind` keeps a person's "yes" and the model's apart."""
    return int.from_bytes(blake2b(kind + data, digest_size=16).digest(), "little") % MODULUS


def short(data: bytes) -> int:
    """64 bits, for what is only compared within one conversation."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def add(chain: int, power: int, said: Iterable[int]) -> tuple[int, int]:
    """The sum so far and its power of BASE, carried on over what more was said."""
    for one in said:
        chain = (chain * BASE + one) % MODULUS
        power = power * BASE % MODULUS
    return chain, power


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def shape(text: str) -> int:
    """What a text is; `text` without blanks around it. Fenced JSON is JSON."""
    if not text:
        return EMPTY
    body = text
    if text.startswith("```"):
        body = text[3:].removeprefix("json").removesuffix("```").strip()
    if body[:1] not in ("{", "["):
        return TEXT
    try:
        _any.decode(body)
    except (msgspec.DecodeError, RecursionError):
        # A note in brackets and a Markdown link begin like JSON and are none.
        return BROKEN if body[:1] == "{" or body[1:2] in ('"', "{", "[", "]") else TEXT
    return JSON


def canonical(arguments: Any) -> bytes:
    """Arguments as bytes in which the order of keys and blanks do not count. Text is JSON if it parses as JSON."""
    if isinstance(arguments, str):
        stripped = arguments.strip()
        try:
            arguments = _any.decode(stripped) if stripped else {}
        except (msgspec.DecodeError, RecursionError):
            return utf8(stripped)
    elif arguments is None:
        arguments = {}
    try:
        return _sorted.encode(arguments)
    except (msgspec.EncodeError, RecursionError):
        return b"nested too deeply"


def use(ident: str, name: str, arguments: Any) -> tuple[Use, int]:
    """A tool call, and what it adds to the chain."""
    plain = canonical(arguments)
    data = utf8(name) + b"\0" + plain
    whole = digest(b"call\0", data)
    return Use(ident, name, whole & 0xFFFFFFFFFFFFFFFF, plain[:PREVIEW].decode("utf-8", "replace")), whole


def result(ident: str, name: str, text: str, flagged: bool, weight: int, signs: Sequence[failure.Sign]) -> tuple[Result, int]:
    """A tool's answer, and what it adds to the chain."""
    text = text.strip()
    data = utf8(text)
    whole = digest(b"result\0", data)
    form, why, code = EMPTY, "", False
    if text in NOTHING:
        text, data = "", b""
    if text:
        form = TEXT
        if text[0] in "{[":
            try:
                value = _any.decode(text)
                why, code = failure.of_json(value), failure.code(value)
                form = JSON
            except (msgspec.DecodeError, RecursionError):
                form = TEXT if failure.cut(text) else shape(text)
        if form != JSON:
            why = failure.of_text(text)
    if flagged:
        why = "timeout" if why == "timeout" else "flag"
    own = tuple([(s.tool, s.name) for s in signs if s.pattern.search(text[: failure.LOOK])]) if signs else ()
    masked = mask(text, data)
    known = whole & 0xFFFFFFFFFFFFFFFF if masked is text else short(utf8(masked))
    error = short(utf8(masked.partition("\n")[0][:120])) if why or own or failure.complains(text) else 0
    return Result(ident, name, known, why, error, weight, form, own, code), whole


# What changes from answer to answer without anything having happened. Whether there may be any is asked first, of the bytes
# with every hex digit turned into one letter: that runs at memory speed, the patterns do not.
_HEX = bytes([0x68 if chr(byte) in "0123456789abcdefABCDEF" else byte if byte != 0x68 else 0x20 for byte in range(256)])
_SIGNS = (b"hhhhhhhhhh", b":hh:hh", b"hxhhhhhh")
_RUN = re.compile(r"[0-9a-fA-FxTZ:.+-]{8,}")
_VARYING = re.compile(
    r"(?:\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[.:]?"  # a moment
    r"|1[4-9]\d{8}(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?"  # seconds, milli-, micro- or nanoseconds since the epoch
    r"|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=[a-fA-F-]*\d)[0-9a-fA-F]{16,}"
    r"|0x[0-9a-fA-F]{6,}"
)
_LASTED = re.compile(r"\.\d+(?= ?(?:ms|s|sec|seconds)\b)")  # "in 0.52s": the fraction


def mask(text: str, data: bytes) -> str:
    """A result without the moments, durations and long ids in it, so that the same result again is the same; the same
    object where there are none. `data` is the text in UTF-8."""
    known = data[:MASKED].translate(_HEX)
    if any(sign in known for sign in _SIGNS):
        text = _RUN.sub(_judged, text[:MASKED]) + text[MASKED:]
    if b"." in known and (found := _LASTED.search(text, 0, MASKED)):
        text = text[: found.start()] + _LASTED.sub("", text[found.start() : MASKED]) + text[MASKED:]
    return text


def _judged(run: re.Match[str]) -> str:
    found = run[0]
    return "~" if _VARYING.fullmatch(found) else found


def long_texts(arguments: Any) -> tuple[int, ...]:
    """Hashes of the long texts given to a tool, one list or object deep: one of them may be how a sub-agent begins."""
    if isinstance(arguments, str):
        try:
            arguments = _any.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            return ()
    found: list[int] = []
    for value in _values(arguments):
        for one in (value,) if isinstance(value, str) else _values(value):
            if isinstance(one, str) and len(one) >= LONG:
                found.append(hash(one.strip()))
            elif isinstance(value, list):
                found += [hash(text.strip()) for text in _values(one) if isinstance(text, str) and len(text) >= LONG]
    return tuple(found[:8])


def _values(part: Any) -> list[Any]:
    if isinstance(part, dict):
        part = list(cast("dict[str, Any]", part).values())
    return cast("list[Any]", part)[:16] if isinstance(part, list) else []


def payload(text: str) -> str:
    """The data of an image, without what says how it is packed."""
    head, comma, _ = text[:100].partition(",")
    return text[len(head) + 1 :] if comma and head.startswith("data:") else text


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else "".join(parts)


def decode_text(raw: bytes | memoryview) -> str:
    """A JSON string's value."""
    return _texts.decode(raw)


def decode_any(raw: bytes | str) -> Any:
    return _any.decode(raw)


# Words and numbers that a program puts into a system prompt anew each time.
_FILLED = re.compile(
    r"\d+|[0-9a-f]{8,}|\b(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august"
    r"|september|october|november|december|[ap]m)\b|\S+@\S+|\s+",
    re.IGNORECASE,
)
PRINTED = 600  # characters of a system prompt that tell one program from another


def fingerprint(text: str) -> int:
    """64 bits of how a system prompt begins, dates, numbers, ids and addresses left out."""
    return short(utf8(_FILLED.sub(" ", text.strip()[:PRINTED]).lower())) if text else 0
