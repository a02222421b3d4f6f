"""A beginning that is known is decoded no more, and what is read is what a fresh reading gives, whatever the body does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar import wire
from bursar.domain.call import Asked, Malformed
from bursar.domain.shape import replace
from bursar.wire import opening
from bursar.wire.history import Signs
from wire.talks import NAMES, PATHS, Human, Says, body, messages

PLACES = {"openai_responses": "input", "gemini_generate": "contents"}
TALK = (Human("Where is order A-1? " * 9), *[Says(f"step {n}", (("f", {"n": n}, f"r{n}" * 200, False),)) for n in range(12)])


def told(name: str, data: bytes, signs: Signs) -> Asked | Malformed:
    """What is read, but for the marks that nobody looks at, and with the hash."""
    found = wire.DIALECTS[name].read(PATHS[name], data, signs)
    if isinstance(found, Malformed):
        return found
    assert found.history is not None and found.hash in ("", opening.request_hash(data))
    return replace(found, history=replace(found.history, marks=found.history.marks[:32]), hash="")


def variants(name: str, said: list[dict[str, Any]]) -> Iterator[bytes]:
    """Bodies that begin like one that is known, and go on in another way."""
    place = PLACES.get(name, "messages")
    whole = body(name, said)
    known = body(name, said[:-2])
    array = whole.find(b'"%s":[' % place.encode()) + len(place) + 4
    end = known.rfind(b"]")
    yield whole
    yield known
    yield known[: end - 1]  # cut
    yield known[:end] + b",5]" + known[end + 1 :]  # no message
    yield known[:end] + b",]" + known[end + 1 :]
    yield known[:end] + b" , " + json.dumps(said[-2]).encode() + b" ] " + known[end + 1 :]
    yield known[:array] + b"  " + known[array:]  # the same, moved
    yield whole.replace(b"step 3", b"step 4")
    yield whole.replace(b"A-1", b"A-2", 1)
    more = json.dumps({place: said[:3]})[1:-1].encode()
    yield known[:-1] + b"," + more + b"}"  # the array is given twice
    yield known[:-1] + b',"%s":[%s]}' % (place.encode(), opening.MARK)
    yield known[:-1] + b',"%s":[%s,%s]}' % (place.encode(), opening.MARK, json.dumps(said[-1]).encode())
    yield known[:-1] + b',"\\u%04x%s":[]}' % (ord(place[0]), place[1:].encode())
    yield b'{"metadata":{"%s":' % place.encode() + json.dumps(said).encode() + b"}," + whole[1:]
    yield known[:end] + b"]" + known[end + 1 : -1] + b',"user":"\xff"}'  # not UTF-8
    yield known[:-1] + b',"model":7}'


@pytest.mark.parametrize("name", NAMES)
def test_a_body_that_begins_as_a_known_one_is_read_as_if_it_were_the_first(name: str) -> None:
    said = messages(name, TALK)
    for number, data in enumerate(variants(name, said)):
        signs = Signs()
        for upto in (len(said) - 4, len(said) - 2):
            told(name, body(name, said[:upto]), signs)
        teller = next(iter(signs.tellers.values()))
        assert len(teller.openings) > 0
        for _ in range(2):  # the second time it is known itself
            assert told(name, data, signs) == told(name, data, Signs()), number
        whole = body(name, said)
        assert told(name, whole, signs) == told(name, whole, Signs())


@patch.object(opening, "LARGE", 60)
@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), sizes=st.lists(st.integers(0, 400), min_size=1, max_size=9), cut=st.integers(0, 9), data=st.data())
def test_the_hash_of_a_body_is_the_same_however_it_was_read(name: str, sizes: list[int], cut: int, data: st.DataObject) -> None:
    """Grown, dropped from the middle, changed in one byte: hash and reading are those of the body alone."""
    said = messages(name, (Human("go"), *[Says("x" * size, (("f", {"n": n}, "y" * size, False),)) for n, size in enumerate(sizes)]))
    signs = Signs()
    bodies = [body(name, said[:upto]) for upto in range(1, len(said) + 1)] + [body(name, said[:1] + said[cut:])]
    at = data.draw(st.integers(0, len(bodies[-2]) - 1))
    bodies += [bodies[-2][:at] + b"z" + bodies[-2][at + 1 :], bodies[-2]]
    for one in bodies:
        assert told(name, one, signs) == told(name, one, Signs())
    found = wire.DIALECTS[name].read(PATHS[name], bodies[-1], signs)
    assert isinstance(found, Asked) and found.hash == (opening.request_hash(bodies[-1]) if len(bodies[-1]) >= 60 else "")


def test_a_beginning_is_only_ever_trusted_for_its_hash() -> None:
    """Same samples, same end, another byte between them: not known."""
    signs, said = Signs(), messages("openai_chat", (Human("q" * 40_000), Says("yes"), Human("w" * 9_000)))
    first = body("openai_chat", said)
    told("openai_chat", first, signs)
    shelf = signs.tellers["openai_chat"].openings
    assert opening.look(first, shelf, len(first)).known is not None
    base, _ = opening._base(opening.look(first, shelf, len(first)).known.end)  # type: ignore[union-attr]
    spots = base // opening.SPOTS
    for at in range(spots + 1, base - opening.WIDE, 16 * spots):
        other = first[:at] + b"Q" + first[at + 1 :]
        assert opening.look(other, shelf, len(other)).known is None
        assert told("openai_chat", other, signs) == told("openai_chat", other, Signs())


@pytest.mark.parametrize(("talks", "lengths"), [(64, 1), (opening.ENDS, opening.ENDS)])
def test_beginnings_that_the_samples_do_not_tell_apart_are_each_known_again(talks: int, lengths: int) -> None:
    """Agents with one long prompt and other ids in it, of one length or of several, come alternately: none drives out the others."""
    signs = Signs()

    def of(number: int, turns: int) -> bytes:
        said = [Human("q" * 60_000), Says("yes"), Human(f"ticket {number:03}" + "w" * (40 * (number % lengths)))]
        return body("openai_chat", messages("openai_chat", (*said, *[Says("on it"), Human("go on")] * turns)))

    assert len({opening._key(of(number, turns), 57_344) for number in range(talks) for turns in range(4)}) == 1
    for turns in range(4):
        for number in range(talks):
            request = of(number, turns)
            if turns:
                shelf = signs.tellers["openai_chat"].openings
                begun = opening.look(request, shelf, len(request))
                assert begun is not None and begun.known is not None and begun.known.end > 60_000 + 20 * turns
            assert told("openai_chat", request, signs) == told("openai_chat", request, Signs())


def test_a_beginning_that_has_the_key_of_another_one_is_not_taken_for_it() -> None:
    """Keys are 64 bits of the hash; what is trusted is all of it."""
    signs, said = Signs(), messages("openai_chat", (Human("q" * 40_000), Says("yes"), Human("w" * 9_000)))
    first = body("openai_chat", said)
    told("openai_chat", first, signs)
    shelf = signs.tellers["openai_chat"].openings
    assert opening.look(first, shelf, len(first)).known is not None  # type: ignore[union-attr]
    for key, kept in list(shelf._young.items()):
        if isinstance(kept, opening.Opening):
            shelf.put(key, replace(kept, digest=bytes(32)), 1)
    assert opening.look(first, shelf, len(first)).known is None  # type: ignore[union-attr]
    assert told("openai_chat", first, signs) == told("openai_chat", first, Signs())
