"""Bytes <-> nouns, pure: which dialect a path speaks, and the dialects. One file per dialect, one for framing, one for codings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .anthropic_messages import anthropic_messages
from .dialect import Dialect, Reader, Route
from .gemini_generate import gemini_generate
from .openai_chat import openai_chat
from .openai_embeddings import openai_embeddings
from .openai_responses import openai_responses
from .passthrough import passthrough

DIALECTS: dict[str, Dialect] = {
    d.name: d
    for d in (
        openai_chat, openai_responses, openai_embeddings, anthropic_messages, gemini_generate, passthrough,
    )
}  # fmt: skip

# Path suffixes, so that Azure's /openai/deployments/X/…, OpenRouter's /api/v1/… and Vertex's long paths are known too.
_POSTED: tuple[tuple[str, Dialect, str], ...] = (
    ("/chat/completions", openai_chat, "openai"),
    ("/responses", openai_responses, "openai"),
    ("/embeddings", openai_embeddings, "openai"),
    ("/messages", anthropic_messages, "anthropic"),
    (":generateContent", gemini_generate, "gemini"),
    (":streamGenerateContent", gemini_generate, "gemini"),
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
        for suffix, dialect, family in _POSTED:
            if path.endswith(suffix):
                return dialect, family
    return passthrough, ""


def resolve(method: str, path: str) -> Route:
    """Where a path leads when only the three built-in provider names are known."""
    return _BUILT_IN(method, path)


_BUILT_IN = resolver({"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"})

__all__ = [
    "DIALECTS", "Dialect", "Reader", "Route", "anthropic_messages", "gemini_generate", "openai_chat",
    "openai_embeddings", "openai_responses", "passthrough", "resolve", "resolver",
]  # fmt: skip
