"""A second source of recorded answers (prism, Vercel's AI SDK), mostly newer features: the same tokens by the same rules."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bursar import wire

from .recorded import SPOKEN, expected
from .streams import feed
from .test_recorded import totals

# Files whose provider (or editor) contradicts itself.
CONTRADICTORY = [
    "generate-text-with-a-prompt-with-no-thinking-budget-1.json",  # edited: the total is another answer's
    "generate-text-with-a-prompt-with-thinking-budget-1.json",
    "media-detection-2.json",
    "stream-reasoning-model-1-1.sse",  # Mistral: 64 cached of 10 prompt tokens
    "anthropic-advisor-20250301.1.chunks.txt",  # another model's tokens in the same usage
    "anthropic-advisor-20260301.1.json",
    "anthropic-fallback.chunks.txt",  # what the first model read is in the iterations, not in the totals
    "anthropic-fallback.json",
]
NOT_OURS = (
    "gemini/stream-basic-text-1.sse",  # the recorder lost the blank lines between events: one event that is no JSON
    "google-live-speech",  # the Live API's counts have other names
)
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "message_stop")


def spoken(events: list[dict[str, Any]]) -> str:
    """The dialect an answer is in, by the members only that dialect has; empty for speech, images, Bedrock, Ollama's own."""
    first = next((e for e in events if e), {})
    kinds = {str(e.get("type", "")) for e in events}
    if first.get("type") == "message" or "message_start" in kinds:
        return "anthropic.messages"
    if any(k.startswith("response.") for k in kinds) or first.get("object") == "response":
        return "openai.responses"
    if any("candidates" in e or "usageMetadata" in e for e in events):
        return "gemini.generate"
    if any(str(e.get("object", "")).startswith("chat.completion") for e in events):
        return "openai.chat"
    return "embeddings" if first.get("object") == "list" and "usage" in first else ""


def usages(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for e in events:
        for place in (e, e.get("response"), e.get("message"), e.get("x_groq")):
            if isinstance(place, dict):
                found += [place[k] for k in ("usage", "usageMetadata") if isinstance(place.get(k), dict)]
    return found


def test_tokens_equal_the_usage_in_every_body_whose_dialect_we_speak(data_dir: Path) -> None:
    equal, wrong, odd, skipped = Counter(), [], [], Counter()
    with gzip.open(data_dir / "provider-response-fixtures" / "bodies.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            text = row["body"]
            if row["kind"] == "chunks":
                text = "".join(f"data: {line}\n\n" for line in text.splitlines() if line.strip())
            whole = row["kind"] == "json"
            parts = [text] if whole else [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]
            try:
                events = [json.loads(p) for p in parts if p and p != "[DONE]"]
            except json.JSONDecodeError:
                events = []
            events = [e for e in events if isinstance(e, dict)]
            dialect = spoken(events)
            # Some files hold several answers in a row; a reader is for one.
            end = next((i for i, e in enumerate(events) if e.get("type") in TERMINAL), len(events))
            events = events[: end + 1]
            if not dialect or events[0].get("error") or any(name in row["path"] for name in NOT_OURS):
                skipped[row["provider"]] += 1
                continue
            name = SPOKEN[dialect]
            reading = wire.DIALECTS[name].whole(200, text.encode()) if whole else feed(name, [text.encode()]).reading
            said = usages(events)
            want = expected(dialect, said[0] if said else None, said[-1] if said else None)
            got = totals(reading)
            if got == want:
                equal[dialect] += 1
            else:
                wrong.append((row["path"], got, want))
            if got and got.odd:
                odd.append(row["path"].rpartition("/")[2])
    print("equal", dict(equal), "not ours", dict(skipped))
    assert not wrong, wrong[:10]
    assert sorted(odd) == sorted(CONTRADICTORY)
