"""What LangGraph and LangChain know of the call under way: the thread becomes its conversation, the node its flow."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

# Looked for, never imported: a program without LangChain must not pay for it.
CONFIG = "langchain_core.runnables.config"
FIELDS = (("thread_id", "conversation"), ("langgraph_node", "flow"))


def labels() -> Mapping[str, str]:
    """Conversation and flow of the run this code is in; empty outside of one."""
    module = sys.modules.get(CONFIG)
    variable = getattr(module, "var_child_runnable_config", None)
    if variable is None:
        return {}
    config: Any = variable.get()
    if not config:
        return {}
    metadata = config.get("metadata") or {}
    configurable = config.get("configurable") or {}
    found: dict[str, str] = {}
    for theirs, ours in FIELDS:
        value = metadata.get(theirs) or configurable.get(theirs)
        if isinstance(value, str | int) and value != "":
            found[ours] = str(value)
    return found
