"""The short way past the SDK's own look at a request: what it gives is what the SDK would have given, or it is not taken."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from types import ModuleType
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai import NOT_GIVEN, omit
from openai.types import embedding_create_params
from openai.types.chat import ChatCompletionMessage, completion_create_params
from openai.types.responses import response_create_params
from typing_extensions import TypedDict

from bursar.surfaces import sdk_fast, sdk_headers

KINDS = [
    completion_create_params.CompletionCreateParamsNonStreaming, completion_create_params.CompletionCreateParamsStreaming,
    response_create_params.ResponseCreateParamsNonStreaming, embedding_create_params.EmbeddingCreateParams,
]  # fmt: skip


class Word(StrEnum):
    HIGH = "high"


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The SDK's module as it came, and as it was when the test is over."""
    module = importlib.import_module(sdk_fast.MODULE)
    before = module.transform, module.async_transform
    monkeypatch.setattr(sdk_fast, "_done", set())
    monkeypatch.delenv(sdk_fast.OFF, raising=False)
    yield module
    module.transform, module.async_transform = before


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False), st.text(max_size=20),
        st.just(omit), st.just(NOT_GIVEN), st.just(Word.HIGH), st.just((1, "two")), st.just(b"raw"), st.just({1: 2}),
        st.just(datetime.date(2026, 1, 2)), st.just(ChatCompletionMessage(role="assistant", content="hi")), st.just(iter(())),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "name", "arguments"]), inner, max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip
names = st.sampled_from([
    "model", "messages", "input", "tools", "stop", "metadata", "response_format", "tool_choice", "n", "seed", "dimensions", "made_up",
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@example({"model": omit, "seed": NOT_GIVEN, "n": 1}, KINDS[0])
@given(st.dictionaries(names, values, max_size=6), st.sampled_from(KINDS))
def test_the_short_way_gives_what_the_sdk_gives(data: dict[str, Any], kind: Any) -> None:
    """Whatever is in it: not given, tuples, bytes, dates, models of its own, iterators, enums."""
    module = importlib.import_module(sdk_fast.MODULE)
    untouched = lambda t: sdk_fast._untouched(module.is_typeddict, module.PropertyInfo, t)  # noqa: E731
    assert untouched(kind)
    absent = frozenset((type(omit), type(NOT_GIVEN)))
    quick = sdk_fast._quick(data, kind, untouched, module.is_given, absent)
    assert quick == sdk_fast._quick(data, kind, untouched, module.is_given)
    if quick is not None:
        assert quick == module._transform_recursive(data, annotation=kind)
        assert "omit" not in repr(quick).lower()


def test_it_is_taken_for_an_ordinary_conversation_and_gives_a_new_outermost_dict(sdk: ModuleType) -> None:
    """What was not given is left out; the messages are the caller's own, which the SDK only writes out."""
    asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], "stop": omit, "n": NOT_GIVEN, "seed": None}
    untouched = lambda t: sdk_fast._untouched(sdk.is_typeddict, sdk.PropertyInfo, t)  # noqa: E731
    quick = sdk_fast._quick(asked, KINDS[0], untouched, sdk.is_given)
    assert quick == {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], "seed": None}
    assert quick is not asked and quick["messages"] is asked["messages"]


def test_a_type_that_renames_or_reformats_anything_goes_the_sdks_own_way(sdk: ModuleType) -> None:
    """At any depth, also through lists and unions; and a type that cannot be resolved."""

    class Inner(TypedDict):
        card_id: Annotated[str, sdk.PropertyInfo(alias="cardID")]

    class Outer(TypedDict, total=False):
        cards: list[Inner | None]
        day: Annotated[str, sdk.PropertyInfo(format="iso8601")]

    class Plain(TypedDict, total=False):
        shape: Annotated[str, sdk.PropertyInfo(discriminator="type")]

    look = lambda t: sdk_fast._untouched(sdk.is_typeddict, sdk.PropertyInfo, t)  # noqa: E731
    Inner.__annotations__ = {"card_id": Annotated[str, sdk.PropertyInfo(alias="cardID")]}
    Outer.__annotations__ = {"cards": list[Inner | None]}
    Plain.__annotations__ = {"shape": Annotated[str, sdk.PropertyInfo(discriminator="type")]}
    assert not look(Inner) and not look(Outer) and look(Plain)
    Plain.__annotations__ = {"shape": "NotAnywhere"}
    assert not look(Plain) and not look(dict) and not look(int)


def test_once_installed_both_faces_of_the_sdk_take_it(sdk: ModuleType) -> None:
    assert sdk_fast.install() and sdk_fast.install()
    asked = {"model": "m", "messages": ({"role": "user", "content": "hi"},), "stop": omit}
    long = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for data in (asked, long):
        assert sdk.maybe_transform(data, KINDS[0]) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert asyncio.run(sdk.async_maybe_transform(data, KINDS[0])) == sdk.maybe_transform(data, KINDS[0])


def test_it_can_be_switched_off_and_an_sdk_that_looks_different_is_left_alone(sdk: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sdk.transform
    monkeypatch.setenv(sdk_fast.OFF, "0")
    assert not sdk_fast.install() and sdk.transform is before
    monkeypatch.delenv(sdk_fast.OFF)
    monkeypatch.delattr(sdk, "PropertyInfo")
    assert not sdk_fast.install() and sdk.transform is before


parts = st.dictionaries(
    st.sampled_from(["scheme", "host", "port", "path", "query", "fragment", "netloc", "raw_path", "username", "authority"]),
    st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["http", "/v1/chat", "::1", "a.b:81", "x=1&y=é", "80", 80, True, 1])),
    max_size=2,
)
addresses = st.one_of(
    st.text(max_size=30), st.sampled_from(["", "http://a.b:80/c?d#e", "https://ü.example/é?q=%zz", "/v1/../x", "http://[::1]:8/", "http://a\nb"])
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(addresses, parts)
def test_a_url_that_is_remembered_is_what_the_library_finds_in_it(url: str, more: dict[str, Any]) -> None:
    """The first time and again, and the same faults."""
    parser: Any = importlib.import_module("httpx2._urlparse")
    urls: Any = importlib.import_module("httpx2._urls")
    before = parser.urlparse, urls.urlparse
    whole = getattr(before[0], "__wrapped__", before[0])
    parser.urlparse = urls.urlparse = whole
    try:
        expected = _outcome(whole, url, more)
        assert sdk_fast.remember_urls("httpx2") and parser.urlparse is urls.urlparse is not whole
        assert sdk_fast.remember_urls("httpx2")  # once is enough
        for _ in range(2):
            found = _outcome(parser.urlparse, url, more)
            assert found == expected and [type(one) for one in found] == [type(one) for one in expected]
    finally:
        parser.urlparse, urls.urlparse = before


def _outcome(parse: Any, url: str, more: dict[str, Any]) -> tuple[Any, ...]:
    try:
        return tuple(parse(url, **dict(more)))
    except Exception as bad:
        return type(bad), str(bad)


def test_urls_are_left_alone_where_they_are_not_as_we_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, not loaded, or put together in another way."""
    parser: Any = importlib.import_module("httpx2._urlparse")
    urls: Any = importlib.import_module("httpx2._urls")
    whole = getattr(parser.urlparse, "__wrapped__", parser.urlparse)
    monkeypatch.setattr(parser, "urlparse", whole)
    monkeypatch.setattr(urls, "urlparse", whole)
    monkeypatch.setenv(sdk_fast.OFF, "0")
    assert not sdk_fast.remember_urls("httpx2")
    monkeypatch.delenv(sdk_fast.OFF)
    assert not sdk_fast.remember_urls("no_such_library")
    monkeypatch.setattr(urls, "urlparse", lambda url: whole(url))
    assert not sdk_fast.remember_urls("httpx2") and parser.urlparse is whole


names_of_lines = st.one_of(st.sampled_from([b"Accept", b"x-id", b"\xc3\xbc"]), st.binary(max_size=6))
lines = st.lists(st.tuples(names_of_lines, st.one_of(st.just(b"text"), st.binary(max_size=8))), max_size=4)


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's headers as they came."""
    kind: Any = importlib.import_module("httpx2._models").Headers
    own = getattr(kind.encoding.fget, "__wrapped__", None)
    monkeypatch.setattr(kind, "encoding", kind.encoding if own is None else property(own, kind.encoding.fset))
    monkeypatch.delenv(sdk_fast.OFF, raising=False)
    return kind


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, st.sampled_from([None, "ascii", "utf-8", "iso-8859-1"]))
def test_an_encoding_that_is_told_by_the_bytes_is_what_the_library_finds(headers: Any, raw: list[tuple[bytes, bytes]], set_to: str | None) -> None:
    """Also where somebody has set one, and for lines that are UTF-8 or neither."""
    slow = headers.encoding
    expected = headers(raw, set_to).encoding
    assert sdk_headers.tell_ascii("httpx2") and headers.encoding is not slow
    assert sdk_headers.tell_ascii("httpx2")  # once is enough
    found = headers(raw, set_to)
    assert found.encoding == expected and found.encoding == expected and found.raw == raw
    found.encoding = "utf-8"
    assert found.encoding == "utf-8"
    headers.encoding = slow


def test_headers_are_left_alone_where_they_are_not_as_we_know_them(headers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, not loaded, kept in another way, or told by something that is no property."""
    slow = headers.encoding
    monkeypatch.setenv(sdk_fast.OFF, "0")
    assert not sdk_headers.tell_ascii("httpx2")
    monkeypatch.delenv(sdk_fast.OFF)
    assert not sdk_headers.tell_ascii("no_such_library")
    monkeypatch.setattr(headers, "encoding", "ascii")
    assert not sdk_headers.tell_ascii("httpx2")
    monkeypatch.setattr(headers, "encoding", slow)
    before = headers.__init__

    def otherwise(self: Any, given: Any = None, encoding: str | None = None) -> None:
        before(self, given, encoding)
        self._list = {}

    monkeypatch.setattr(headers, "__init__", otherwise)
    assert not sdk_headers.tell_ascii("httpx2") and headers.encoding is slow


def test_without_the_sdk_nothing_is_loaded() -> None:
    code = "import sys; from bursar.surfaces import sdk_fast; assert not sdk_fast.install(); assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
