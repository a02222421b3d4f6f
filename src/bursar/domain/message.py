"""What people are told: one message, however many channels it goes to and however often it is sent."""

from __future__ import annotations

from typing import NamedTuple


class Link(NamedTuple):
    """A button of a message. `style`: empty, primary or danger."""

    text: str
    url: str
    style: str = ""


class Item(NamedTuple):
    """A line of a message about several things."""

    text: str
    link: Link | None = None


class Message(NamedTuple):
    """`id` stays the same on every delivery and every channel, so that a receiver can drop what it has. `kind`: firing, worse,
    reminder, resolved, digest, test, handoff. Texts are plain: each channel escapes them for itself. `data` is the same for
    programs."""

    id: str
    kind: str
    at_us: int
    title: str
    text: tuple[str, ...] = ()  # sentences, each a paragraph
    facts: tuple[tuple[str, str], ...] = ()  # name and value
    command: str = ""  # what to run to see more
    links: tuple[Link, ...] = ()
    data: dict[str, object] = {}
    items: tuple[Item, ...] = ()  # of a digest: what it lists, the dearest first
