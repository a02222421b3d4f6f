"""Agents' histories in every dialect, generated and recorded, and what a provider would refuse in one: written without our code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st


class Call(NamedTuple):
    tool: str
    arguments: dict[str, Any]
    result: str
    failed: bool = False


class Turn(NamedTuple):
    """A human message and the rounds of model calls that follow it; each round's calls get their results."""

    said: str
    image: bool
    rounds: list[tuple[str, bool, list[Call]]]  # (text, thinking, calls)
    answer: str


class History(NamedTuple):
    system: str
    turns: list[Turn]
    open: bool  # the newest turn has no answer yet: the request comes from inside its loop


# --- generated ---

_ODD = ['"', "\\", "\n", "é", "\U0001f600", '{"a": "b"}', "\\n", '\\"', "[]", "\u2028", "</result>", "\x00", "/", "W123", " ", "Ω", "}", "],"]


def text(chance: Random, most: int = 30) -> str:
    return "".join(chance.choice(_ODD) if chance.random() < 0.3 else chance.choice("abc xyz-7") for _ in range(chance.randint(0, most)))


def long_text(chance: Random, most: int = 1_500) -> str:
    """Some text, repeated until it is worth eliding (or not)."""
    unit = text(chance) + "."
    return unit * (chance.randint(0, most) // len(unit) + 1)


def result(chance: Random) -> str:
    if chance.random() < 0.5:
        return long_text(chance)
    value = {"id": text(chance), "status": "ok", "items": [{"name": text(chance), "n": n} for n in range(chance.randint(0, 40))]}
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)


def call(chance: Random) -> Call:
    values: list[Callable[[], Any]] = [
        lambda: chance.randint(0, 9), lambda: text(chance), lambda: long_text(chance, 900), lambda: [text(chance)], lambda: None,
    ]  # fmt: skip
    names = chance.sample(["path", "content", "old", "new", "n", 'odd"key', "back\\slash"], chance.randint(0, 4))
    arguments = {name: chance.choice(values)() for name in names}
    return Call(chance.choice(["lookup", "read_file", "bash"]), arguments, result(chance), chance.random() < 0.2)


@st.composite
def _histories(draw: st.DrawFn) -> History:
    """Hypothesis chooses the shape (turns, rounds, calls in each); the texts come from a seed of its choice."""
    shape = draw(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1, max_size=5))
    chance = Random(draw(st.integers(0, 2**32)))
    turns = [
        Turn(
            text(chance) + "?", chance.random() < 0.3,
            [(text(chance), chance.random() < 0.3, [call(chance) for _ in range(calls)]) for calls in rounds], text(chance) + "!",
        )
        for rounds in shape
    ]  # fmt: skip
    return History(text(chance), turns, draw(st.booleans()))


HISTORIES = _histories()
# How clients write JSON: compact, with spaces, indented, all ASCII or not.
WRITERS: list[Callable[[Any], str]] = [
    lambda v: json.dumps(v, separators=(",", ":"), ensure_ascii=False), json.dumps, lambda v: json.dumps(v, indent=1, ensure_ascii=False),
]  # fmt: skip


# --- rendered ---


def chat(history: History) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": history.system}]
    number = 0
    for turn in history.turns:
        content: Any = turn.said
        if turn.image:
            content = [{"type": "text", "text": turn.said}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        messages.append({"role": "user", "content": content})
        for text, thinking, calls in turn.rounds:
            made: list[dict[str, Any]] = []
            results: list[dict[str, Any]] = []
            for call in calls:
                number += 1
                made.append({"id": f"call_{number}", "type": "function", "function": {"name": call.tool, "arguments": json.dumps(call.arguments, ensure_ascii=number % 2 == 0)}})
                said: Any = ("Error: " if call.failed else "") + call.result
                results.append({"role": "tool", "tool_call_id": f"call_{number}", "content": [{"type": "text", "text": said}] if number % 3 == 0 else said})
            message: dict[str, Any] = {"role": "assistant", "content": text or None, "tool_calls": made}
            if thinking:
                message["reasoning_content"] = "hm " * 200
            messages += [message, *results]
        messages.append({"role": "assistant", "content": turn.answer})
    if history.open:
        messages.pop()
    return {"model": "gpt-5", "temperature": 0, "messages": messages, "tools": [{"type": "function", "function": {"name": "lookup"}}]}


def anthropic(history: History) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    number = 0
    for turn in history.turns:
        content: Any = turn.said
        if turn.image:
            content = [{"type": "text", "text": turn.said, "cache_control": {"type": "ephemeral"}}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]
        messages.append({"role": "user", "content": content})
        for text, thinking, calls in turn.rounds:
            made: list[dict[str, Any]] = [{"type": "thinking", "thinking": "hm " * 200, "signature": "c2ln" * 120}] if thinking else []
            made += [{"type": "text", "text": text}] if text else []
            results: list[dict[str, Any]] = []
            for call in calls:
                number += 1
                made.append({"type": "tool_use", "id": f"toolu_{number}", "name": call.tool, "input": call.arguments})
                said: Any = call.result
                if number % 3 == 0:
                    said = [{"type": "text", "text": call.result, "cache_control": {"type": "ephemeral"}}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "B" * 900}}]
                results.append({"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": said, **({"is_error": True} if call.failed else {})})
            if number % 4 == 0:
                results.append({"type": "text", "text": "<system-reminder>be careful</system-reminder>"})
            messages += [{"role": "assistant", "content": made}, {"role": "user", "content": results}]
        messages.append({"role": "assistant", "content": turn.answer})
    if history.open:
        messages.pop()
    return {"model": "claude-x", "max_tokens": 100, "system": history.system, "messages": messages}


def responses(history: History) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    number = 0
    for turn in history.turns:
        content: Any = turn.said
        if turn.image:
            content = [{"type": "input_text", "text": turn.said}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
        items.append({"role": "user", "content": content})
        for text, thinking, calls in turn.rounds:
            if thinking:
                items.append({"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "ZW5j" * 150})
            if text:
                items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
            first = number
            for call in calls:
                number += 1
                items.append({"type": "function_call", "call_id": f"call_{number}", "name": call.tool, "arguments": json.dumps(call.arguments)})
            for n, call in enumerate(calls, first + 1):
                items.append({"type": "function_call_output", "call_id": f"call_{n}", "output": [{"type": "input_text", "text": call.result}] if n % 3 == 0 else call.result})
        items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": turn.answer}]})
    if history.open:
        items.pop()
    return {"model": "gpt-5", "instructions": history.system, "store": False, "input": items}


def gemini(history: History) -> dict[str, Any]:
    contents: list[dict[str, Any]] = []
    number = 0
    for turn in history.turns:
        parts: list[dict[str, Any]] = [{"text": turn.said}]
        if turn.image:
            parts.append({"inlineData": {"mimeType": "image/png", "data": "AAAA"}})
        contents.append({"role": "user", "parts": parts})
        for text, thinking, calls in turn.rounds:
            made: list[dict[str, Any]] = [{"text": text}] if text else []
            results: list[dict[str, Any]] = []
            for call in calls:
                number += 1
                part: dict[str, Any] = {"functionCall": {"name": call.tool, "args": call.arguments}}
                if thinking and len(made) < 2:
                    part["thoughtSignature"] = "c2ln" * 150
                made.append(part)
                response: dict[str, Any] = {"result": call.result}
                if number % 2 and call.result[:1] == "{":
                    try:
                        response = json.loads(call.result)
                    except ValueError:
                        pass
                results.append({"functionResponse": {"name": call.tool, "response": response}})
            contents += [{"role": "model", "parts": made}, {"role": "user", "parts": results}]
        contents.append({"role": "model", "parts": [{"text": turn.answer}]})
    if history.open:
        contents.pop()
    return {"systemInstruction": {"parts": [{"text": history.system}]}, "contents": contents, "generationConfig": {"temperature": 0}}


RENDERED: dict[str, tuple[Callable[[History], dict[str, Any]], str]] = {
    "openai_chat": (chat, "messages"),
    "anthropic_messages": (anthropic, "messages"),
    "openai_responses": (responses, "input"),
    "gemini_generate": (gemini, "contents"),
}


def requests(history: History) -> Iterator[History]:
    """The history as it was at each of its model calls: what a client that sends everything would have sent."""
    for n, turn in enumerate(history.turns):
        for m in range(len(turn.rounds) + 1):
            yield History(history.system, [*history.turns[:n], turn._replace(rounds=turn.rounds[:m])], True)


# --- what a provider refuses ---


def faults(name: str, body: dict[str, Any]) -> list[str]:
    """Why the provider would not take this history; empty when it would."""
    return {"openai_chat": _chat, "anthropic_messages": _anthropic, "openai_responses": _responses, "gemini_generate": _gemini}[name](body)


def _chat(body: dict[str, Any]) -> list[str]:
    found: list[str] = []
    waiting: set[str] = set()
    for n, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                found.append(f"{n}: a result without its call")
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            found.append(f"{n}: calls {waiting} have no result")
        waiting = {call["id"] for call in message.get("tool_calls") or ()}
        for call in message.get("tool_calls") or ():
            if not isinstance(json.loads(call["function"]["arguments"] or "{}"), dict):
                found.append(f"{n}: arguments are no object")
    return found


def _anthropic(body: dict[str, Any]) -> list[str]:
    found: list[str] = []
    waiting: list[str] = []
    for n, message in enumerate(body["messages"]):
        parts = message["content"] if isinstance(message["content"], list) else []
        if n == 0 and message["role"] != "user":
            found.append("the first message is not the user's")
        answered = [p["tool_use_id"] for p in parts if p["type"] == "tool_result"]
        if sorted(answered) != sorted(waiting):
            found.append(f"{n}: calls {waiting} are answered by {answered}")
        if message["content"] in ("", []):
            found.append(f"{n}: empty")
        if any(p["type"] == "text" and not p["text"] for p in parts):
            found.append(f"{n}: an empty text")
        waiting = [p["id"] for p in parts if p["type"] == "tool_use"] if message["role"] == "assistant" else []
    return found


def _responses(body: dict[str, Any]) -> list[str]:
    found: list[str] = []
    items = body["input"] if isinstance(body["input"], list) else []
    open_: set[str] = set()
    for n, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "function_call":
            open_.add(item["call_id"])
            json.loads(item["arguments"] or "{}")
        elif kind == "function_call_output":
            if item["call_id"] not in open_:
                found.append(f"{n}: an output without its call")
            open_.discard(item["call_id"])
        elif kind == "reasoning" and (n + 1 == len(items) or items[n + 1].get("type") not in ("message", "function_call", "reasoning", None)):
            found.append(f"{n}: reasoning without what it led to")
        elif kind == "reasoning" and items[n + 1].get("role") == "user":
            found.append(f"{n}: reasoning before a user's message")
    return found + [f"call {call} has no output" for call in open_]


def _gemini(body: dict[str, Any]) -> list[str]:
    found: list[str] = []
    waiting: list[str] = []
    for n, content in enumerate(body["contents"]):
        parts = content["parts"]
        if n == 0 and content["role"] != "user":
            found.append("the first content is not the user's")
        answered = [p["functionResponse"]["name"] for p in parts if "functionResponse" in p]
        if answered != waiting:
            found.append(f"{n}: calls {waiting} are answered by {answered}")
        if any("functionResponse" in p and not isinstance(p["functionResponse"]["response"], dict) for p in parts):
            found.append(f"{n}: a response that is no object")
        waiting = [p["functionCall"]["name"] for p in parts if "functionCall" in p]
    return found


# --- what changed ---


def changes(before: Any, after: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """(path, before, after) of every value that differs, as deep down as it can be said."""
    if type(before) is type(after) and isinstance(before, dict) and before.keys() == after.keys():
        for key in before:
            yield from changes(before[key], after[key], (*path, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for n, (a, b) in enumerate(zip(before, after)):
            yield from changes(a, b, (*path, n))
    elif before != after or type(before) is not type(after):
        yield path, before, after
