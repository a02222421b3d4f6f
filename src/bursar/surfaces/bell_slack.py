"""A message as Slack's Block Kit: strangers' words as plain text, and within the limits that Slack documents, whatever they hold."""

from __future__ import annotations

from ..domain.message import Item, Message
from .tables import safe

# https://docs.slack.dev/reference/block-kit: characters and items above which Slack refuses the whole message.
HEADER_MAX = 150
SECTION_MAX = 3000
FIELDS_MAX = 10
FIELD_MAX = 2000
BUTTON_MAX = 75
BUTTONS_MAX = 25
URL_MAX = 3000
TEXT_MAX = 4000
BLOCKS_MAX = 50
COLOUR = {
    "firing": "#d92d20", "worse": "#d92d20", "digest": "#d92d20", "reminder": "#dc6803", "handoff": "#dc6803", "resolved": "#12b76a",
}  # fmt: skip

Block = dict[str, object]


def payload(message: Message) -> Block:
    """What an incoming webhook takes. `text` is what notifications show, and clients without blocks."""
    blocks: list[Block] = [{"type": "header", "text": words(message.title, HEADER_MAX)}]
    blocks += [{"type": "section", "text": words(text, SECTION_MAX)} for text in message.text[: BLOCKS_MAX - 5]]
    if message.facts:
        shown = [words(f"{name}\n{value}", FIELD_MAX) for name, value in message.facts[:FIELDS_MAX]]
        blocks.append({"type": "section", "fields": shown})
    blocks += [_line(item, n) for n, item in enumerate(message.items[: BLOCKS_MAX - len(blocks) - 3])]
    if message.command:
        code = escaped(message.command, SECTION_MAX - 6).replace("```", "'''")
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"```{code}```", "verbatim": True}})
    buttons = [
        {"type": "button", "text": words(link.text, BUTTON_MAX), "url": link.url, "action_id": f"open{n}"}
        | ({"style": link.style} if link.style else {})
        for n, link in enumerate(message.links[:BUTTONS_MAX])
        if len(link.url) <= URL_MAX
    ]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    blocks.append({"type": "context", "elements": [words(f"Bursar · {message.kind} · {message.id}", SECTION_MAX)]})
    plain = escaped(f"{message.title}. {' '.join(message.text)}" if message.text else message.title, TEXT_MAX)
    return {"text": plain, "mrkdwn": False, "attachments": [{"color": COLOUR.get(message.kind, "#667085"), "blocks": blocks}]}


def _line(item: Item, n: int) -> Block:
    made: Block = {"type": "section", "text": words(item.text, SECTION_MAX)}
    if item.link is not None and len(item.link.url) <= URL_MAX:
        made["accessory"] = {
            "type": "button", "text": words(item.link.text, BUTTON_MAX), "url": item.link.url, "action_id": f"item{n}"
        }  # fmt: skip
    return made


def words(text: str, most: int) -> Block:
    """A label is a stranger's: in plain text nothing is a link, a mention, formatting or an emoji."""
    text = "\n".join(safe(line) for line in text.split("\n")) or " "
    return {"type": "plain_text", "text": text if len(text) <= most else text[: most - 1] + "…", "emoji": False}


def escaped(text: str, most: int) -> str:
    """Where Slack reads control sequences: `<!channel>` is four words then. Cut so that no escape is halved."""
    made = safe(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(made) <= most:
        return made
    made = made[: most - 1]
    at = made.rfind("&", len(made) - 4)
    return (made[:at] if at >= 0 and ";" not in made[at:] else made) + "…"
