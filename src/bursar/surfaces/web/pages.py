"""The pages there are: each one's name, title and maker, and for how long an answer is good."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from ...stores.query import Filter
from ...stores.reader import Reader
from . import (
    asks,
    page_alarms,
    page_audit,
    page_bill,
    page_calls,
    page_guards,
    page_savings,
    page_settings,
    page_talks,
    page_tools,
    page_why,
)
from .asks import Ask
from .blocks import Note, Page
from .shelf import Shelf, newest_us

Maker = Callable[[Ask, Reader, Shelf], Page | None]
PAGES: dict[str, tuple[str, Maker]] = {
    "bill": ("Bill", page_bill.page),
    "why": ("Why", page_why.page),
    "conversations": ("Conversations", page_talks.page),
    "tools": ("Tools and models", page_tools.page),
    "calls": ("Calls", page_calls.page),
    "guards": ("Guards", page_guards.page),
    "savings": ("Savings", page_savings.page),
    "alarms": ("Alarms", page_alarms.page),
    "audit": ("Audit", page_audit.page),
    "settings": ("Settings", page_settings.page),
}
INNER: dict[str, Maker] = {"call": page_calls.one, "conversation": page_talks.one}

KEEP_S = 2.0  # an answer serves everybody who asks the same within this time: ten viewers are one
KEPT_MAX = 64


class Kept(NamedTuple):
    until: float
    page: Page
    ask: Ask
    skipped: tuple[str, ...]


class Desk:
    """Answers, and for how long each is good."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._kept: OrderedDict[object, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, name: str, make: Maker, pairs: asks.Pairs, zone: str, bound: tuple[Filter, ...]) -> Kept | None:
        key = (name, tuple(pairs), zone, bound)
        with self._lock:  # whoever asks the same meanwhile waits for this answer rather than for his own
            kept = self._kept.get(key)
            if kept is not None and time.monotonic() < kept.until:
                return kept
            with self.shelf.open() as reader:
                ask = asks.read(name, pairs, self.shelf.clock_us(), newest_us=newest_us(reader), zone=zone, bound=bound)
                page = make(ask, reader, self.shelf)
                if page is None:
                    return None
                kept = Kept(time.monotonic() + KEEP_S, page, ask, tuple(reader.skipped))
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return kept

    def forget(self) -> None:
        """Something was changed: nobody is shown what was before."""
        with self._lock:
            self._kept.clear()


def safe_path(text: str) -> str:
    """A path of ours to go on to, whatever was asked for: never another host, in none of its spellings."""
    if not text.startswith("/") or text[1:2] in ("/", "\\") or not text.isprintable() or "\\" in text:
        return "/bill"
    parts = urlsplit(text)
    name = parts.path.strip("/").partition(".")[0]
    return text if not parts.scheme and not parts.netloc and (name in PAGES or name in INNER) else "/bill"


def no_ledger(name: str, shelf: Shelf) -> Page:
    return Page(
        name,
        PAGES[name][0] if name in PAGES else "Nothing yet",
        [
            Note(
                "empty",
                "There is no ledger here yet",
                [f"{shelf.folder} has none. It appears with the first call:"],
                "bursar serve\nexport OPENAI_BASE_URL=http://127.0.0.1:8787/v1\nexport ANTHROPIC_BASE_URL=http://127.0.0.1:8787\n\n"
                "# or look around in a simulated company's ledger\nbursar demo\nbursar dashboard --ledger demo-ledger",
            )
        ],
        timed=False,
    )
