"""Chargeable labels and the free ones beside them: bounded, printable, each with the source it came from."""

from __future__ import annotations

from typing import NamedTuple

CHARGEABLE = ("tenant", "feature", "flow", "operation", "conversation", "user")

OPERATIONS = ("primary", "retry", "fallback", "eval", "embedding", "background", "control")
PURPOSES = ("primary", "eval", "embedding", "background", "control")

FREE_LABELS_MAX = 16
NAME_CHARS_MAX = 64
VALUE_CHARS_MAX = 256


class Labels(NamedTuple):  # a tuple, because `bursar.labels` must load nothing
    """Empty string means nobody said. `extra` is sorted (name, value) pairs; `sources` says who said what."""

    tenant: str = ""
    feature: str = ""
    flow: str = ""
    operation: str = ""  # the purpose as given: eval, background, …; retry and fallback are added per try
    conversation: str = ""
    user: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    sources: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """The value of a chargeable or free label, empty when absent."""
        at = PLACES.get(name)
        if at is not None:
            return self[at]  # pyright: ignore[reportReturnType]
        for key, value in self.extra:
            if key == name:
                return value
        return ""

    def inferred(self, conversation: str) -> Labels:
        """The same in a conversation that nobody named."""
        tenant, feature, flow, operation, _, user, extra, sources = self
        said = (*sources, ("conversation", "inferred"))
        return Labels(tenant, feature, flow, operation, conversation, user, extra, said)


PLACES = {name: Labels._fields.index(name) for name in CHARGEABLE}


def clean(text: str, limit: int = VALUE_CHARS_MAX) -> str:
    """A label value as it may be stored: printable, one line, at most `limit` characters. Never an error: labels come from
    strangers, and a call must not fail because of one."""
    if len(text) > limit:
        text = text[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
