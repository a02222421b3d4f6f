"""Embeddings by their inputs: only what is missing is asked for, and the client cannot tell."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.domain.usage import Tokens
from bursar.wire import batch

from .test_replay import served

OPENAI = "/v1/embeddings"
GEMINI = "/v1beta/models/e:batchEmbedContents"


def answer(inputs: list[Any], gemini: bool = False, encoded: bool = False) -> bytes:
    """A provider's: a vector that says which input it is for."""
    vectors = ["QUJD" + str(i) if encoded else [hash(str(i)) % 97 / 97, 0.5] for i in inputs]
    if gemini:
        return json.dumps({"embeddings": [{"values": vector} for vector in vectors]}).encode()
    rows = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": rows, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 7, "total_tokens": 7}}).encode()


@pytest.mark.parametrize("gemini", [False, True])
@given(st.lists(st.text(max_size=20), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_batch_of_which_some_is_known_comes_to_the_same_answer(gemini: bool, texts: list[str], seed: int) -> None:
    """Split, ask for the misses, merge: the vectors stand where they would have stood."""
    if gemini:
        body = json.dumps({"requests": [{"model": "models/e", "content": {"parts": [{"text": text}]}} for text in texts]}).encode()
    else:
        body = json.dumps({"input": texts, "model": "text-embedding-3-small", "user": "u"}, indent=seed % 3).encode()
    found = batch.split(GEMINI if gemini else OPENAI, body)
    assert found is not None and len(found.inputs) == len(texts)
    assert len(set(found.inputs)) == len(set(texts))
    chance = Random(seed)
    missing = [at for at in range(len(texts)) if chance.random() < 0.5]
    if not missing:
        return
    asked = json.loads(batch.only(body, found, missing))
    wanted = [r["content"]["parts"][0]["text"] for r in asked["requests"]] if gemini else asked["input"]
    assert wanted == [texts[at] for at in missing]
    if not gemini:
        assert {k: v for k, v in asked.items() if k != "input"} == {"model": "text-embedding-3-small", "user": "u"}
    fresh = batch.vectors(found, answer(wanted, gemini), len(missing))
    known = batch.vectors(found, answer(texts, gemini), len(texts))
    assert fresh is not None and known is not None
    whole = [fresh[missing.index(at)] if at in missing else known[at] for at in range(len(texts))]
    merged = json.loads(batch.merged(found, whole, "e", Tokens(input=7), answer(wanted, gemini)))
    want = json.loads(answer(texts, gemini))
    assert merged == want


def test_all_missing_is_the_same_body_and_all_known_costs_nothing() -> None:
    body = b'{"input":["a","b"],"model":"e"}'
    found = batch.split(OPENAI, body)
    assert found and batch.only(body, found, [0, 1]) is body
    made = batch.merged(found, [b"[0.1]", b'"QUJD"'], "e", Tokens())
    assert json.loads(made) == {
        "object": "list", "model": "e", "usage": {"prompt_tokens": 0, "total_tokens": 0},
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}, {"object": "embedding", "index": 1, "embedding": "QUJD"}]}  # fmt: skip


def test_the_sdk_takes_a_merged_answer() -> None:
    """The OpenAI SDK asks for base64 and decodes it itself."""
    import base64
    import struct

    vector = base64.b64encode(struct.pack("<2f", 0.25, -1.0)).decode()
    found = batch.split(OPENAI, b'{"input":["a","b"],"model":"e","encoding_format":"base64"}')
    assert found
    body = batch.merged(found, [json.dumps(vector).encode()] * 2, "e", Tokens())
    client = openai.OpenAI(api_key="k", http_client=served(body, "application/json"))
    assert [row.embedding for row in client.embeddings.create(model="e", input=["a", "b"]).data] == [[0.25, -1.0]] * 2


@pytest.mark.parametrize(
    ("input_", "count"),
    [("one text", 1), (["a", "b", "a"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], None), ([["a"], "b"], None), ({"x": 1}, None), (None, None)],
)
def test_texts_and_tokens_are_told_apart(input_: Any, count: int | None) -> None:
    """A list of numbers is one text in tokens, a list of lists is several."""
    found = batch.split(OPENAI, json.dumps({"input": input_, "model": "e"}).encode())
    assert (found and len(found.inputs)) == count


def test_what_changes_a_vector_is_in_its_name() -> None:
    def name(**more: Any) -> bytes:
        found = batch.split(OPENAI, json.dumps({"input": ["a"], "model": "e", **more}).encode())
        assert found
        return found.inputs[0]

    assert name() == name(user="u") != name(dimensions=256) != name(encoding_format="base64") != name(model="f")
    assert batch.split(OPENAI, b'{"input":["a"],"input":["b"]}') is None
    assert batch.split(OPENAI, b'{"model":"e"}') is None and batch.split(GEMINI, b'{"requests":[]}') is None


@pytest.mark.parametrize("broken", [b"{}", b"[", answer(["a"]), answer(["a", "b"]).replace(b'"index": 1', b'"index": 0'), answer(["a", "b"]).replace(b'"index": 1', b'"index": 5')])
def test_an_answer_that_does_not_match_is_not_taken_apart(broken: bytes) -> None:
    """Another number of vectors, or places that are not those asked for: nothing is kept of it."""
    found = batch.split(OPENAI, b'{"input":["a","b"],"model":"e"}')
    assert found and batch.vectors(found, broken, 2) is None
    shuffled = json.loads(answer(["a", "b"]))
    shuffled["data"].reverse()
    assert batch.vectors(found, json.dumps(shuffled).encode(), 2) == batch.vectors(found, answer(["a", "b"]), 2)
