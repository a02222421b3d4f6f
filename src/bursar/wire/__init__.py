"""Bytes <-> nouns, pure: which dialect a path speaks, and the dialects. One file per dialect, one for framing, one for codings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

from .dialect import Dialect, Reader, Route


class _Dialects(Mapping[str, Dialect]):
    """Each is in the module of its name, loaded when it is first spoken: a wrapped client speaks one."""

    def __init__(self, *names: str) -> None:
        self._known: dict[str, Dialect | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> Dialect:
        found = self._known[name]
        if found is None:
            found = self._known[name] = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


DIALECTS: Mapping[str, Dialect] = _Dialects(
    "openai_chat", "openai_responses", "openai_embeddings", "anthropic_messages", "gemini_generate", "passthrough",
)  # fmt: skip


def load() -> None:
    """All of them, now: where many clients' calls would wait for one's first."""
    tuple(DIALECTS.values())


# Path suffixes, so that Azure's /openai/deployments/X/…, OpenRouter's /api/v1/… and Vertex's long paths are known too.
_POSTED: tuple[tuple[str, str, str], ...] = (
    ("/chat/completions", "openai_chat", "openai"),
    ("/responses", "openai_responses", "openai"),
    ("/embeddings", "openai_embeddings", "openai"),
    ("/messages", "anthropic_messages", "anthropic"),
    (":generateContent", "gemini_generate", "gemini"),
    (":streamGenerateContent", "gemini_generate", "gemini"),
)
# Which family's default provider serves a path that names no provider.
_FAMILIES: tuple[tuple[str, str], ...] = (("/v1/messages", "anthropic"), ("/v1beta/", "gemini"), ("/v1/", "openai"))
_VERSIONS = frozenset(("v1", "v1beta", "v1beta1", "v1alpha", "v2"))


KNOWN_MAX = 1024


def resolver(families: Mapping[str, str]) -> Callable[[str, str], Route]:
    """`resolve` for a set of providers by name, each with its family (openai | anthropic | gemini | "")."""

    known: dict[tuple[str, str], Route] = {}  # strangers choose paths

    def resolve(method: str, path: str) -> Route:
        found = known.get((method, path))
        if found is None:
            if len(known) >= KNOWN_MAX:
                known.clear()
            found = known[method, path] = look(method, path)
        return found

    def look(method: str, path: str) -> Route:
        first, _, rest = path[1:].partition("/")
        if first in families and first not in _VERSIONS:
            dialect, family = _spoken(method, "/" + rest)
            return Route(first, dialect, "/" + rest, families[first] or family)
        dialect, family = _spoken(method, path)
        if not family:
            family = next((f for prefix, f in _FAMILIES if path.startswith(prefix)), "")
        return Route("", dialect, path, family)

    return resolve


def _spoken(method: str, path: str) -> tuple[Dialect, str]:
    if method == "POST":
        for suffix, name, family in _POSTED:
            if path.endswith(suffix):
                return DIALECTS[name], family
    return DIALECTS["passthrough"], ""


def resolve(method: str, path: str) -> Route:
    """Where a path leads when only the three built-in provider names are known."""
    return _BUILT_IN(method, path)


_BUILT_IN = resolver({"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"})

__all__ = ["DIALECTS", "Dialect", "Reader", "Route", "load", "resolve", "resolver"]
