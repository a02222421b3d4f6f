"""Text for simulated people, tools and models: any amount of it, out of one fixed page, so that planning costs no memory."""

from __future__ import annotations

from functools import cache
from random import Random

_WORDS = (
    "the order the parcel a customer our warehouse this invoice next week please the refund delivery address carrier and or but "
    "with for from to at in on of is was has been will may should not yet already early late again policy section returns item "
    "stock price shipping label tracking number account user status update window quarter revenue margin risk exposure filing "
    "report table figure growth cost budget forecast supplier contract term clause review note draft summary page line row "
    "Zürich Málaga naïve €40 5% 0 errors \"as is\" resolved: pending; checked, confirmed. done. Thanks! why? O'Neill a/b x\\y"
).split(" ")

PAGE = 1 << 16  # characters


@cache
def page() -> str:
    """The page: words by chance, sentences and paragraphs of plausible length. Always the same."""
    rng = Random("bursar/prose")
    parts: list[str] = []
    size = words = 0
    while size <= PAGE:
        word = rng.choice(_WORDS)
        words += 1
        end = "" if words % rng.randint(7, 14) else ".\n" if rng.random() < 0.2 else "."
        parts.append(word + end)
        size += len(word) + len(end) + 1
    return " ".join(parts)[:PAGE]


def prose(rng: Random, size: int) -> str:
    """Some text of `size` characters. No line of it is in any other text: people do not write the same line twice, and who looks
    for texts that turn up again must not find these."""
    text = page()
    start = rng.randrange(PAGE // 2)
    pages = 1 + (start + size) // PAGE
    whole = (text * pages)[start : start + size]
    mark = f"{rng.getrandbits(40):x}"
    marked = f"{mark} {whole}".replace("\n", f" {mark}\n")
    return f"{marked[: size - len(mark) - 1]} {mark}" if size > 40 else marked[:size]
