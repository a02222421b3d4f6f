"""What reading a conversation out of a request costs: `python bench/history.py`. Microseconds a call.

For each API, a body of 1 KB and agent contexts of some 200 KB: seen for the first time, and sent again with two messages more, as
agents do. `without` is the same reading of the same bytes with the messages under a name that no API knows; the difference is what
the history costs."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bursar import wire
from bursar.domain.call import Malformed
from bursar.wire.history import Signs

LIMITS = {"1 KB": 10.0, "200 KB": 100.0}  # of a call sent again, over the same without history
WORDS = "the order was shipped on monday and the customer asked about it again before noon with a note".split()


def prose(chance: random.Random, size: int) -> str:
    return " ".join(chance.choices(WORDS, k=size // 5))


def steps(chance: random.Random, number: int, size: int) -> Iterator[tuple[str, dict[str, str], str]]:
    """(thought, arguments, result) of each step."""
    for n in range(number):
        yield prose(chance, size // 6), {"path": f"src/module_{n}.py", "query": prose(chance, 60)}, prose(chance, size)


def chat(seed: int, number: int, size: int, first: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": prose(random.Random(1), first)},
        {"role": "user", "content": prose(chance, first)},
    ]
    for n, (thought, arguments, result) in enumerate(steps(chance, number, size)):
        call = {"id": f"call_{n}", "type": "function", "function": {"name": "read_file", "arguments": json.dumps(arguments)}}
        messages += [
            {"role": "assistant", "content": thought, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{n}", "content": result},
        ]
    return messages


def anthropic(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for m in messages[1:]:
        if m["role"] == "assistant":
            use = [
                {"type": "tool_use", "id": c["id"], "name": c["function"]["name"], "input": json.loads(c["function"]["arguments"])}
                for c in m["tool_calls"]
            ]
            out.append({"role": "assistant", "content": [{"type": "text", "text": m["content"]}, *use]})
        elif m["role"] == "tool":
            out.append(
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": m["tool_call_id"], "content": [{"type": "text", "text": m["content"]}]}
                    ],
                }
            )
        else:
            out.append({"role": "user", "content": [{"type": "text", "text": m["content"]}]})
    return out


def responses(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for m in messages[1:]:
        if m["role"] == "assistant":
            out.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": m["content"]}]})
            out += [
                {"type": "function_call", "call_id": c["id"], "name": c["function"]["name"], "arguments": c["function"]["arguments"]}
                for c in m["tool_calls"]
            ]
        elif m["role"] == "tool":
            out.append({"type": "function_call_output", "call_id": m["tool_call_id"], "output": m["content"]})
        else:
            out.append({"role": "user", "content": m["content"]})
    return out


def gemini(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for m in messages[1:]:
        if m["role"] == "assistant":
            use = [
                {"functionCall": {"name": c["function"]["name"], "args": json.loads(c["function"]["arguments"])}}
                for c in m["tool_calls"]
            ]
            out.append({"role": "model", "parts": [{"text": m["content"]}, *use]})
        elif m["role"] == "tool":
            out.append({"role": "user", "parts": [{"functionResponse": {"name": "read_file", "response": {"result": m["content"]}}}]})
        else:
            out.append({"role": "user", "parts": [{"text": m["content"]}]})
    return out


TOOLS = [{"name": f"tool_{n}", "description": prose(random.Random(n), 300)} for n in range(12)]


def body(name: str, messages: list[dict[str, Any]], large: bool) -> bytes:
    system = messages[0]["content"]
    tools = TOOLS if large else TOOLS[:1]
    if name == "openai_chat":
        given = {"model": "m", "messages": messages, "tools": [{"type": "function", "function": t} for t in tools]}
    elif name == "openai_responses":
        given = {
            "model": "m",
            "instructions": system,
            "input": responses(messages),
            "tools": [{"type": "function", **t} for t in tools],
        }
    elif name == "anthropic_messages":
        given = {"model": "m", "max_tokens": 9, "system": system, "messages": anthropic(messages), "tools": tools}
    else:
        given = {
            "systemInstruction": {"parts": [{"text": system}]},
            "contents": gemini(messages),
            "tools": [{"functionDeclarations": tools}],
        }
    return json.dumps(given, separators=(",", ":")).encode()


ROUNDS = 7
MEMBER = {
    "openai_chat": b'"messages"',
    "openai_responses": b'"input"',
    "anthropic_messages": b'"messages"',
    "gemini_generate": b'"contents"',
}


def timed(read: Callable[[bytes, Signs], Any], pairs: list[tuple[bytes, bytes]]) -> tuple[float, float]:
    """Microseconds (first, again): for the first body of each pair with nothing known, and for the second after it. The best
    of several rounds for each pair, and the mean over the pairs."""
    first, again = [1e9] * len(pairs), [1e9] * len(pairs)
    for _ in range(ROUNDS):
        signs = Signs()
        for n, (before, after) in enumerate(pairs):
            start = time.perf_counter_ns()
            read(before, signs)
            middle = time.perf_counter_ns()
            read(after, signs)
            first[n] = min(first[n], middle - start)
            again[n] = min(again[n], time.perf_counter_ns() - middle)
    return sum(first) / len(first) / 1000, sum(again) / len(again) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--talks", type=int, default=20, help="conversations of each kind")
    given = parser.parse_args()
    failed = 0
    print(f"{'API':20} {'body':>8} {'messages':>8} {'without':>7} {'first':>8} {'again':>8} {'history':>8}")
    for name in ("openai_chat", "openai_responses", "anthropic_messages", "gemini_generate"):
        dialect = wire.DIALECTS[name]
        path = "/v1beta/models/m:generateContent" if name == "gemini_generate" else "/v1/x"

        def read(data: bytes, signs: Signs, dialect: wire.Dialect = dialect, path: str = path) -> None:
            assert not isinstance(dialect.read(path, data, signs), Malformed)

        for label, number, size, first in (("1 KB", 0, 0, 300), ("200 KB", 60, 2500, 2000), ("200 KB", 30, 5200, 2000)):
            talks = [chat(seed, number, size, first) for seed in range(given.talks)]
            if number:
                pairs = [(body(name, talk[:-2], True), body(name, talk, True)) for talk in talks]
            else:  # a new conversation under a system prompt and tools that are known
                pairs = [(body(name, chat(99, 0, 0, first), False), body(name, talk, False)) for talk in talks]
            once, again = timed(read, pairs)
            unread = [after.replace(MEMBER[name], MEMBER[name][:-2] + b'_"', 1) for _, after in pairs]
            base, _ = timed(read, [(one, one) for one in unread])
            late = again - base > LIMITS[label]
            failed |= late
            print(
                f"{name:20} {len(pairs[0][1]) / 1000:5.0f} KB {len(talks[0]):8} {base:7.1f} {once:8.1f} {again:8.1f}"
                f" {again - base:8.1f}{' over the limit of ' + str(LIMITS[label]) if late else ''}"
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
