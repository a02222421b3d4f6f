"""Who pays for this call: labels from the virtual key, headers, the request's own fields, the process, defaults, in that order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import unquote

from ..domain.call import Asked, Headers
from ..domain.labels import CHARGEABLE, FREE_LABELS_MAX, NAME_CHARS_MAX, OPERATIONS, Labels, clean

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
    said: dict[str, tuple[str, str]] = {}
    for name, value in bound.items():
        said[name] = (value, "key")

    structured: list[tuple[bytes, bytes]] = []
    aliases: list[tuple[str, str, bytes]] = []
    for key, value in headers:
        direct = DIRECT.get(key)
        if direct is not None:
            name, source = direct
            if source == "header":
                _say(said, name, value.decode("utf-8", "replace"), "header")
            else:
                aliases.append((name, source, value))
        elif key in STRUCTURED or key.startswith(HELICONE_PROPERTY):
            structured.append((key, value))
    if structured:
        for name, value, source in _structured(structured):
            _say(said, name, value, source)
    for name, source, value in aliases:
        _say(said, name, value.decode("utf-8", "replace"), source)

    if asked.conversation:
        _say(said, "conversation", asked.conversation, "body")
    if asked.metadata:
        for name, value in asked.metadata:
            _say(said, ALIASES.get(name, name), value, "metadata")
    if asked.user:
        _say(said, "user", asked.user, "body")
    for name, value in context.items():
        _say(said, name, value, "context")
    for name, value in defaults.items():
        _say(said, name, value, "default")

    operation = said.get("operation", ("", ""))
    if operation[0] not in OPERATIONS:
        # A word outside the closed vocabulary is kept as a free label: a bill by operation must stay comparable.
        if operation[0]:
            said["operation_said"] = operation
        said.pop("operation", None)
        operation = ("embedding", "inferred") if asked.embedding else ("", "")
    if not said:
        return Labels(operation=operation[0])
    extra: list[tuple[str, str]] = []
    if not _CHARGEABLE.issuperset(said):
        extra = [(name, value) for name, (value, _) in said.items() if name not in _CHARGEABLE]
        extra = sorted(extra)[:FREE_LABELS_MAX]
    get = said.get
    none = ("", "")
    return Labels(
        get("tenant", none)[0], get("feature", none)[0], get("flow", none)[0], operation[0], get("conversation", none)[0],
        get("user", none)[0], tuple(extra), tuple([(name, source) for name, (_, source) in said.items()]),
    )  # fmt: skip


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
