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
    said: dict[str, tuple[str, str]] = {name: (value, "key") for name, value in bound.items()} if bound else {}
    structured: list[tuple[bytes, bytes]] = []
    aliases: list[tuple[str, str, bytes]] = []
    for line in headers:
        kind = _KINDS.get(line[0], UNSEEN)
        if kind is UNSEEN:
            kind = _kind(line[0])
        if kind is None:
            continue
        name, source = kind
        if source == "header":
            if name not in said and line[1]:  # the commonest label by far: `_say` for a name that is known
                said[name] = (clean(line[1].decode("utf-8", "replace")), "header")
        elif name:
            aliases.append((name, source, line[1]))
        else:
            structured.append(line)
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
    if context:
        for name, value in context.items():
            _say(said, name, value, "context")
    if defaults:
        for name, value in defaults.items():
            _say(said, name, value, "default")

    operation = said.get("operation", NOBODY)[0]
    if operation not in OPERATIONS:
        # A word outside the closed vocabulary is kept as a free label: a bill by operation must stay comparable.
        if operation:
            said["operation_said"] = said.pop("operation")
        operation = "embedding" if asked.embedding else ""
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
Kind = tuple[str, str] | None  # label (empty: the header carries several) and source; None: the header is no label
UNSEEN: Kind = ("", "unseen")
KINDS_MAX = 4096  # names remembered; strangers choose names, so the memory is bounded
_KINDS: dict[bytes, Kind] = {}


def _kind(name: bytes) -> Kind:
    """What a header's name is, remembered: the same dozen names come with every call."""
    kind: Kind = DIRECT.get(name)
    if kind is None and (name in STRUCTURED or name.startswith(HELICONE_PROPERTY)):
        kind = ("", "several")
    if len(_KINDS) < KINDS_MAX:
        _KINDS[name] = kind
    return kind


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
