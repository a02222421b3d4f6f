"""Embeddings by their inputs: a batch taken apart, the inputs that are missing asked for, the answer put together in order."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Raw

from ..domain.usage import Tokens
from . import places
from .dialect import encode
from .question import LEFT_OUT

_decoder = msgspec.json.Decoder(dict[str, Any])
_sorted = msgspec.json.Encoder(order="sorted")
GEMINI_PATH = ":batchEmbedContents"


class Batch(NamedTuple):
    """A request for several embeddings. `inputs`: what decides each one's vector, canonical; `places`: where each stands in the
    body; `gemini`: which of the two dialects it is."""

    inputs: tuple[bytes, ...]
    places: tuple[tuple[int, int], ...]
    gemini: bool = False


class _Row(msgspec.Struct):
    index: int = -1
    embedding: Raw = Raw(b"")


class _OpenAI(msgspec.Struct):
    data: list[_Row]
    model: Any = ""


class _Gemini(msgspec.Struct):
    embeddings: list[Raw]


def split(path: str, body: bytes) -> Batch | None:
    """The inputs of a request, None where it is no batch of independent inputs. A single text counts as one; a list of numbers
    is one text in tokens; a list of lists is several."""
    if path.endswith(GEMINI_PATH):
        return _split_gemini(body)
    top = places.top(body)
    place = top.get(b"input")
    if place is None:
        return None
    members = _decoder.decode(body)
    given = members.pop("input")
    for name in LEFT_OUT["openai_embeddings"]:
        members.pop(name, None)
    around = _sorted.encode(members)
    if isinstance(given, str):
        return Batch((_input(around, given),), (place,))
    if not isinstance(given, list) or not given:
        return None
    items = cast("list[Any]", given)
    if all(isinstance(item, int) for item in items):
        return Batch((_input(around, items),), (place,))
    if all(isinstance(item, str) for item in items) or all(isinstance(item, list) for item in items):
        return Batch(tuple(_input(around, item) for item in items), tuple(places.elements(body, *place)))
    return None


def _input(around: bytes, item: Any) -> bytes:
    return around + b"\n" + _sorted.encode(item)


def _split_gemini(body: bytes) -> Batch | None:
    """Each request of a batch says everything itself: model, content, task, dimensions."""
    place = places.top(body).get(b"requests")
    if place is None:
        return None
    found = places.elements(body, *place)
    inputs = tuple(_sorted.encode(msgspec.json.decode(body[start:end])) for start, end in found)
    return Batch(inputs, tuple(found), gemini=True) if found else None


def only(body: bytes, batch: Batch, missing: Sequence[int]) -> bytes:
    """The body with these inputs alone, in their order; all of them: the same object."""
    if len(missing) == len(batch.inputs):
        return body
    start, end = batch.places[0][0], batch.places[-1][1]
    kept = b",".join(body[slice(*batch.places[at])] for at in missing)
    return body[:start] + kept + body[end:]


def vectors(batch: Batch, answer: bytes, count: int) -> list[bytes] | None:
    """The vectors of an answer as they came (a list, or base64 in a string), in the order of what was asked; None where it does
    not hold exactly `count` of them."""
    try:
        if batch.gemini:
            found = [bytes(raw) for raw in msgspec.json.decode(answer, type=_Gemini).embeddings]
        else:
            rows = msgspec.json.decode(answer, type=_OpenAI).data
            if sorted(row.index for row in rows) != list(range(len(rows))):
                return None
            found = [bytes(row.embedding) for row in sorted(rows, key=lambda row: row.index)]
    except msgspec.DecodeError:
        return None
    return found if len(found) == count and all(found) else None


def merged(batch: Batch, whole: Sequence[bytes], model: str, tokens: Tokens, answer: bytes = b"") -> bytes:
    """One answer for the whole batch, in the order it was asked in. `tokens` is what was really asked for and is billed; the
    provider's own `answer`, where there was one, gives the rest of the envelope."""
    envelope: dict[str, Any] = _decoder.decode(answer) if answer else {}
    if batch.gemini:
        return encode({**envelope, "embeddings": [Raw(vector) for vector in whole]})
    rows = [{"object": "embedding", "index": at, "embedding": Raw(vector)} for at, vector in enumerate(whole)]
    spent = {"prompt_tokens": tokens.input_total, "total_tokens": tokens.input_total}
    return encode({"object": "list", "model": model, "usage": spent, **envelope, "data": rows})


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]


def vector(body: bytes) -> array[float] | None:
    """The vector of an answer to one input; None where there is none."""
    try:
        found = msgspec.json.decode(body, type=_Vectors).data
    except msgspec.DecodeError:
        return None
    return array("f", found[0].embedding) if len(found) == 1 else None
