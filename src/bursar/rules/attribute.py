"""Who pays for this call: labels from the virtual key, headers, the request's own fields, the process, defaults, in that order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import unquote

from ..domain.call import Asked, Headers, Lines
from ..domain.labels import CHARGEABLE, FREE_LABELS_MAX, NAME_CHARS_MAX, OPERATIONS, VALUE_CHARS_MAX, Labels, clean

# header -> (label, source). Sources are stored with the row, so that a wrong label can be traced to who said it.
DIRECT: dict[bytes, tuple[str, str]] = {
    **{b"x-bursar-" + name.encode(): (name, "header") for name in CHARGEABLE},
    b"helicone-user-id": ("user", "helicone"),
    b"helicone-session-id": ("conversation", "helicone"),
    b"x-litellm-customer-id": ("tenant", "litellm"),
    b"x-litellm-end-user-id": ("tenant", "litellm"),
    b"x-litellm-session-id": ("conversation", "litellm"),
    b"x-litellm-trace-id": ("conversation", "litellm"),
    b"x-portkey-trace-id": ("conversation", "portkey"),
    b"x-claude-code-session-id": ("conversation", "claude-code"),
    b"thread-id": ("conversation", "codex"),
    b"session-id": ("conversation", "codex"),
    b"x-session-id": ("conversation", "opencode"),
}
_CHARGEABLE = frozenset(CHARGEABLE)
STRUCTURED = frozenset((b"x-bursar-labels", b"x-litellm-tags", b"x-portkey-metadata", b"baggage"))
HELICONE_PROPERTY = b"helicone-property-"

ALIASES = {
    "tenant_id": "tenant",
    "customer": "tenant",
    "customer_id": "tenant",
    "session_id": "conversation",
    "thread_id": "conversation",
    "conversation_id": "conversation",
    "user_id": "user",
    "gen_ai.conversation.id": "conversation",
    "langgraph_node": "flow",
}


def attribute(
    headers: Headers,
    asked: Asked,
    bound: Mapping[str, str],
    context: Mapping[str, str],
    defaults: Mapping[str, str],
) -> Labels:
    """The labels of one call. `bound` is what the virtual key binds (no one may overrule it), `context` what the process set."""
    if isinstance(headers, Lines):
        saying = headers.made.get("labels")
        if saying is None:
            saying = headers.made["labels"] = _saying(headers)
    else:
        saying = _saying(headers)
    return _attribute(
        saying, asked.conversation, asked.metadata, asked.user, asked.embedding,
        tuple(bound.items()) if bound else (), tuple(context.items()) if context else (), tuple(defaults.items()) if defaults else (),
    )  # fmt: skip


def _saying(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """The lines that carry labels."""
    present = dict(headers)
    if not _SEEN.issuperset(present):
        _look_at(present)
    return () if _LABELS.keys().isdisjoint(present.keys()) else tuple([line for line in headers if line[0] in _LABELS])


@lru_cache(maxsize=2048)
def _attribute(
    headers: tuple[tuple[bytes, bytes], ...], conversation: str, metadata: tuple[tuple[str, str], ...], user: str, embedding: bool,
    bound: tuple[tuple[str, str], ...], context: tuple[tuple[str, str], ...], defaults: tuple[tuple[str, str], ...],
) -> Labels:  # fmt: skip
    """Remembered: the calls of one conversation say the same."""
    said: dict[str, tuple[str, str]] = {name: (value, "key") for name, value in bound} if bound else {}
    structured: list[tuple[bytes, bytes]] = []
    aliases: list[tuple[str, str, bytes]] = []
    for line in headers:
        key, raw = line
        name, source = _LABELS.get(key) or _kind(key) or NOBODY
        if source == "header":  # says a chargeable label: `_say` in place
            if name not in said and (value := raw.decode("utf-8", "replace")):
                said[name] = (value if len(value) <= VALUE_CHARS_MAX and value.isprintable() else clean(value), source)
        elif name:
            aliases.append((name, source, raw))
        else:
            structured.append(line)
    if structured:
        for name, value, source in _structured(structured):
            _say(said, name, value, source)
    for name, source, value in aliases:
        _say(said, name, value.decode("utf-8", "replace"), source)

    if conversation:
        _say(said, "conversation", conversation, "body")
    for name, value in metadata:
        _say(said, ALIASES.get(name, name), value, "metadata")
    if user:
        _say(said, "user", user, "body")
    for name, value in context:
        _say(said, name, value, "context")
    for name, value in defaults:
        _say(said, name, value, "default")

    operation = said.get("operation", NOBODY)[0]
    if operation not in OPERATIONS:
        # A word outside the closed vocabulary is kept as a free label: a bill by operation must stay comparable.
        if operation:
            said["operation_said"] = said.pop("operation")
        operation = "embedding" if embedding else ""
    if not said:
        return Labels(operation=operation)
    extra: tuple[tuple[str, str], ...] = ()
    if not _CHARGEABLE.issuperset(said):
        extra = tuple(sorted([(name, value) for name, (value, _) in said.items() if name not in _CHARGEABLE])[:FREE_LABELS_MAX])
    get = said.get
    return Labels(
        get("tenant", NOBODY)[0], get("feature", NOBODY)[0], get("flow", NOBODY)[0], operation, get("conversation", NOBODY)[0],
        get("user", NOBODY)[0], extra, tuple([(name, source) for name, (_, source) in said.items()]),
    )  # fmt: skip


NOBODY = ("", "")
# Header names that were looked at, and what those of them say that carry labels. The same dozen names come with every call. Strangers
# choose names, so the memory is bounded.
NAMES_MAX = 4096
_SEEN: set[bytes] = set()
_LABELS: dict[bytes, tuple[str, str]] = {}


def _look_at(names: Iterable[bytes]) -> None:
    if len(_SEEN) > NAMES_MAX:
        _SEEN.clear()
        _LABELS.clear()
    for name in names:
        _SEEN.add(name)
        kind = _kind(name)
        if kind is not None:
            _LABELS[name] = kind


def _kind(name: bytes) -> tuple[str, str] | None:
    """(label, source) of a header that says one, with the label empty where it carries several; None for any other."""
    several = name in STRUCTURED or name.startswith(HELICONE_PROPERTY)
    return DIRECT.get(name) or (("", "several") if several else None)


def _say(said: dict[str, tuple[str, str]], name: str, value: str, source: str) -> None:
    if not value or name in said:
        return
    if name not in _CHARGEABLE:
        if len(said) >= FREE_LABELS_MAX + len(CHARGEABLE):
            return
        name = clean(name, NAME_CHARS_MAX)
        if not name or name in said:
            return
    said[name] = (clean(value), source)


def _structured(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str, str]]:
    """(name, value, source) from headers that carry several labels. What does not parse is dropped: a label is never an error."""
    found: list[tuple[str, str, str]] = []
    # Ours first: it may say what an alias says otherwise.
    for key, raw in sorted(headers, key=lambda h: h[0] != b"x-bursar-labels"):
        text = raw.decode("utf-8", "replace")
        if key in (b"x-bursar-labels", b"x-portkey-metadata"):
            source = "header" if key == b"x-bursar-labels" else "portkey"
            try:
                pairs = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(pairs, dict):
                for name, value in pairs.items():  # pyright: ignore[reportUnknownVariableType]
                    if isinstance(name, str) and isinstance(value, (str, int, bool)):
                        found.append((ALIASES.get(name, name), str(value), source))
        elif key == b"x-litellm-tags":
            for tag in text.split(","):
                name, colon, value = tag.strip().partition(":")
                found.append((name, value.strip(), "litellm") if colon else (f"tag.{name}", "true", "litellm"))
        elif key == b"baggage":
            for member in text.split(","):
                name, equals, value = member.split(";", 1)[0].partition("=")
                name = unquote(name.strip())
                name = name.removeprefix("bursar.") if name.startswith("bursar.") else ALIASES.get(name, "")
                if equals and name:
                    found.append((name, unquote(value.strip()), "baggage"))
        else:
            name = key[len(HELICONE_PROPERTY) :].decode("ascii", "replace")
            found.append((ALIASES.get(name, name), text, "helicone"))
    return found
