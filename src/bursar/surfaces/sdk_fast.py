"""A wrapped OpenAI client costs less CPU than a bare one: its SDK looks at every value of a request for fields to rename or reformat,
ten milliseconds for a long conversation. Where a request's type has none of those and its values are plain JSON already, the
answer is known beforehand: the request itself. And httpx takes the same URL apart three times for each request: that is remembered."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

MODULE = "openai._utils._transform"
OFF = "BURSAR_SDK_FAST"  # set to 0: the SDK's own way, always
_PLAIN = frozenset((str, int, float, bool, type(None)))
_done: set[int] = set()  # modules that were seen to, by identity


def install() -> bool:
    """Take the short way in the SDK, if it is loaded and is the one we know; whether it is taken now. Never raises for what a
    newer SDK may look like: then its own way stays."""
    module = sys.modules.get(MODULE)
    if module is None or os.environ.get(OFF) == "0":
        return False
    if id(module) in _done:
        return True
    parts = [getattr(module, name, None) for name in ("transform", "async_transform", "is_given", "is_typeddict", "PropertyInfo")]
    if any(part is None for part in parts):
        return False
    whole, whole_async, is_given, is_typeddict, info = parts
    untouched = functools.lru_cache(maxsize=1024)(functools.partial(_untouched, is_typeddict, info))
    words = [getattr(sys.modules.get("openai._types"), name, None) for name in ("omit", "not_given")]
    absent = frozenset([type(word) for word in words if not is_given(word)])  # what stands for each of some forty arguments

    def transform(data: Any, expected_type: Any) -> Any:
        quick = _quick(data, expected_type, untouched, is_given, absent)
        return whole(data, expected_type) if quick is None else quick

    async def async_transform(data: Any, expected_type: Any) -> Any:
        quick = _quick(data, expected_type, untouched, is_given, absent)
        return await whole_async(data, expected_type) if quick is None else quick

    module.transform, module.async_transform = transform, async_transform  # pyright: ignore[reportAttributeAccessIssue]
    _done.add(id(module))
    return True


URL_MAX = 512  # characters of a URL that is remembered
URLS = 128


def remember_urls(library: str) -> bool:
    """Let httpx or httpx2 remember what it found in a URL: the same few come with every call, and what is found cannot be changed."""
    parser, urls = sys.modules.get(f"{library}._urlparse"), sys.modules.get(f"{library}._urls")
    if parser is None or urls is None or os.environ.get(OFF) == "0":
        return False
    whole: Any = getattr(parser, "urlparse", None)
    if hasattr(whole, "__wrapped__"):
        return True
    found = getattr(parser, "ParseResult", object)
    if whole is None or getattr(urls, "urlparse", None) is not whole or not issubclass(found, tuple):
        return False
    kept = functools.lru_cache(maxsize=URLS, typed=True)(whole)

    @functools.wraps(whole)
    def urlparse(url: str = "", **parts: Any) -> Any:
        query = parts.get("query")
        if len(url) > URL_MAX or (type(query) is str and len(query) > URL_MAX):
            return whole(url, **parts)
        return kept(url, **parts)

    parser.urlparse = urls.urlparse = urlparse  # pyright: ignore[reportAttributeAccessIssue]
    return True


def _quick(
    data: Any, expected_type: Any, untouched: Callable[[Any], bool], is_given: Callable[[Any], bool],
    absent: frozenset[type] = frozenset(),
) -> dict[str, Any] | None:  # fmt: skip
    """What the SDK would make of this, or None where only the SDK can say. It leaves out what was not given, in a new dict."""
    try:
        if type(data) is not dict or not untouched(expected_type):
            return None
    except TypeError:  # a type that has no hash
        return None
    given = {
        name: value for name, value in data.items() if (kind := type(value)) not in absent and (kind in _PLAIN or is_given(value))
    }
    return given if all([_is_json(value) for value in given.values()]) else None


def _is_json(value: Any) -> bool:
    """Exactly JSON's own types: no subclass, no tuple, nothing that an encoder would have to be asked about."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or (type(inner) not in _PLAIN and not _is_json(inner)):
                return False
        return True
    if kind is list:
        for inner in value:
            if type(inner) not in _PLAIN and not _is_json(inner):
                return False
        return True
    return False


def _untouched(is_typeddict: Callable[[Any], bool], info: type, expected_type: Any) -> bool:
    """Whether nothing in this type is renamed or reformatted, at any depth."""
    return is_typeddict(expected_type) and not _touches(is_typeddict, info, expected_type, set())


def _touches(is_typeddict: Callable[[Any], bool], info: type, kind: Any, seen: set[Any]) -> bool:
    try:
        if kind in seen:
            return False
        seen.add(kind)
        if is_typeddict(kind):
            hints = get_type_hints(kind, include_extras=True)
            return any(_touches(is_typeddict, info, hint, seen) for hint in hints.values())
    except (NameError, TypeError, AttributeError):  # a name that cannot be resolved, a type that has no hash
        return True
    for extra in getattr(kind, "__metadata__", ()):
        if isinstance(extra, info) and (extra.alias is not None or extra.format is not None):  # pyright: ignore[reportAttributeAccessIssue]
            return True
    return any(_touches(is_typeddict, info, part, seen) for part in get_args(kind))
