"""What a cheap model is asked for that summarises earlier messages (`transcript` has their text, `own` the request)."""

from __future__ import annotations

INSTRUCTION = (
    "You shorten an agent's history so that it can go on working. Summarise the messages below in at most 200 words. Keep, word"
    " for word: every identifier, name, date, amount, path and file that was mentioned; what was asked; what was decided and"
    " done, with the outcome; what failed and why; what is still open. Do not answer the messages and do not add anything."
)
OPENING = "Summary of earlier turns (the messages themselves were removed to save tokens):\n"
