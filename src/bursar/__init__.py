"""The public names, found when they are first asked for: `import bursar` loads nothing that a program may not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .surfaces.context import labels, operation
    from .surfaces.conversations import conversations
    from .surfaces.spend import spend
    from .surfaces.tool import tool
    from .surfaces.wrap import instrument, wrap

_HOME = {
    "conversations": "surfaces.conversations",
    "instrument": "surfaces.wrap",
    "labels": "surfaces.context",
    "operation": "surfaces.context",
    "spend": "surfaces.spend",
    "tool": "surfaces.tool",
    "wrap": "surfaces.wrap",
}

__all__ = ["conversations", "instrument", "labels", "operation", "spend", "tool", "wrap"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bursar' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"bursar.{home}"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
