"""The short way through httpx's headers: what comes out, what is kept, and what is raised is as it was, or it is not taken."""

from __future__ import annotations

import importlib
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.surfaces import sdk_headers

libraries = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
SHORT = ("__init__", "update", "multi_items")


def as_it_came(kind: Any) -> dict[str, Any]:
    """The class's own methods, whatever this process has done to them."""
    return {name: getattr(vars(kind)[name], "__wrapped__", vars(kind)[name]) for name in SHORT}


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries as they came, and as they were when the test is over."""
    monkeypatch.delenv(sdk_headers.OFF, raising=False)
    for library in (httpx, httpx2):
        for name, method in as_it_came(library.Headers).items():
            monkeypatch.setattr(library.Headers, name, method)


class Sub(str):
    __slots__ = ()


def both(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.one_of(text, text.map(lambda word: word.encode()), text.map(lambda word: word.encode("latin-1", "replace")), text.map(Sub))


names = both(st.sampled_from(["Accept", "accept", "ACCEPT", "X-A", "x-a", "User-Agent", "", "é", "İ"]))
values = st.one_of(both(st.sampled_from(["", "one", "two, three", "é", "€"])), st.sampled_from([None, 7]))
heads = st.one_of(
    st.none(), st.lists(st.tuples(names, values), max_size=5), st.dictionaries(names, values, max_size=5),
    st.lists(st.tuples(names, values), max_size=3).map(tuple), st.just([("a",)]), st.just("ab"), st.just(7),
)  # fmt: skip
steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), heads), st.tuples(st.just("merge"), heads), st.tuples(st.just("multi_items")), st.tuples(st.just("get"), names),
        st.tuples(st.just("set"), names, values), st.tuples(st.just("contains"), names), st.tuples(st.just("copy")), st.tuples(st.just("equal"), heads),
    ),
    max_size=6,
)  # fmt: skip


def told(kind: Any, start: Any, encoding: str | None, asked: list[tuple[Any, ...]]) -> list[Any]:
    """What a class says to all this."""
    found: list[Any] = []
    try:
        made = kind(start, encoding)
    except Exception as bad:
        return [type(bad), str(bad)]
    for name, *more in asked:
        try:
            match name:
                case "get":
                    found.append(made.get(*more))
                case "set":
                    made[more[0]] = more[1]
                case "contains":
                    found.append(more[0] in made)
                case "copy":
                    made = made.copy()
                case "equal":
                    found.append(made == more[0])
                case "merge":
                    made.update(kind(*more))
                case _:
                    found.append(getattr(made, name)(*more))
        except Exception as bad:
            found.append((type(bad), str(bad)))
        found.append((list(made._list), made._encoding))
    return [*found, made.raw, made.encoding]


@libraries
@settings(max_examples=300, deadline=None)
@given(start=heads, encoding=st.sampled_from([None, None, None, "ascii", "utf-8", "latin-1", "utf-16", "no-such"]), asked=steps)
def test_headers_are_what_the_library_makes_of_them(library: Any, start: Any, encoding: str | None, asked: list[tuple[Any, ...]]) -> None:
    """Names and values in any spelling and of any kind, one step after another; also how long an encoding stays open."""
    kind = library.Headers
    for name, method in as_it_came(kind).items():
        setattr(kind, name, method)
    expected = told(kind, start, encoding, asked)
    assert sdk_headers.install(library.__name__) and sdk_headers.install(library.__name__)
    assert told(kind, start, encoding, asked) == expected


@libraries
def test_a_class_of_somebody_elses_goes_the_librarys_own_way(library: Any) -> None:
    """One that is made of the library's and looks at each header that is taken out."""
    assert sdk_headers.install(library.__name__)
    gone: list[str] = []

    class Watched(library.Headers):
        def pop(self, key: str, *more: Any) -> Any:
            gone.append(key)
            return super().pop(key, *more)

    made = Watched({"a": "1", "b": "2"})
    made.update({"A": "3"})
    assert gone == ["a"] and made.multi_items() == [("b", "2"), ("a", "3")]


@libraries
def test_a_library_that_is_not_as_we_know_it_keeps_its_own_way(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, not loaded, changed by somebody, or with another mind about what comes out."""
    name, kind = library.__name__, library.Headers
    monkeypatch.setenv(sdk_headers.OFF, "0")
    assert not sdk_headers.install(name)
    monkeypatch.delenv(sdk_headers.OFF)
    assert not sdk_headers.install("no_such_library")
    own = kind.update
    monkeypatch.setattr(kind, "update", lambda self, headers=None: own(self, headers))
    assert not sdk_headers.install(name)
    monkeypatch.setattr(kind, "update", own)
    module = importlib.import_module(f"{name}._models")
    code = "def update(self, headers=None):\n    self._list.extend(Headers(headers)._list)\n"  # a later version might add and not replace
    made: dict[str, Any] = {}
    exec(compile(code, "later", "exec"), vars(module), made)
    monkeypatch.setattr(kind, "update", made["update"])
    assert not sdk_headers.install(name) and kind.update is made["update"]
