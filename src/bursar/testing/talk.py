"""A conversation as it grows, and the requests that send it again, in four dialects. Bodies are written out when they are
sent: the calls of a conversation share its messages, so that planning one of two hundred kilobytes costs what is new in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

BYTES_A_TOKEN = 4  # of the scripted providers' tokenizer; what real ones average on English

CHAT, RESPONSES, ANTHROPIC, GEMINI = DIALECTS = ("openai.chat", "openai.responses", "anthropic.messages", "gemini")
EMBEDDINGS = "openai.embeddings"  # no conversation, but it has a path
NOTE = "<<note>>"
FAMILIES = {CHAT: "openai", RESPONSES: "openai", ANTHROPIC: "anthropic", GEMINI: "gemini"}


class Tool(NamedTuple):
    """A tool as an agent offers it: text fields, all required."""

    name: str
    description: str
    fields: tuple[str, ...]


class Use(NamedTuple):
    """A tool call of a reply."""

    name: str
    arguments: dict[str, str]


class Result(NamedTuple):
    """What a tool answered. `flagged`: the dialect's own way of saying that it failed is used."""

    text: str
    flagged: bool = False


class Human(NamedTuple):
    text: str


class Says(NamedTuple):
    """A reply in words."""

    text: str


class Acts(NamedTuple):
    """A reply that calls tools, and their results. `ident` is what the provider made the ids of its reply from."""

    ident: str
    uses: tuple[Use, ...]
    results: tuple[Result, ...]


Entry = Human | Says | Acts


@dataclass(frozen=True)
class Setup:
    """What each request of an agent begins with."""

    system: str
    tools: tuple[Tool, ...] = ()
    json_demanded: bool = False
    marks_cache: bool = False  # Anthropic's cache_control on the system prompt
    max_tokens: int = 4096


class Body:
    """A request body that is yet to be written: some bytes, a conversation's messages of certain numbers, some bytes."""

    __slots__ = ("_head", "_items", "_spans", "_tail", "size")

    def __init__(
        self, head: bytes, items: Sequence[bytes] = (), spans: tuple[tuple[int, int], ...] = (), tail: bytes = b"", size: int = 0
    ) -> None:
        self._head, self._items, self._spans, self._tail = head, items, spans, tail
        self.size = size or len(head)  # bytes

    @classmethod
    def of(cls, value: Any) -> Body:
        """A body that is no conversation's."""
        return cls(_json(value))

    def encode(self) -> bytes:
        parts = [item for a, b in self._spans for item in self._items[a:b]]
        return self._head + b",".join(parts) + self._tail

    def decoded(self) -> Any:
        return json.loads(self.encode())


class Talk:
    """One message history. Only ever appended to: bodies made earlier stay what they were."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.entries: list[Entry] = []
        self.humans = 0
        self._written: dict[str, tuple[list[bytes], list[int]]] = {}  # dialect -> messages, and bytes up to each one's end

    def human(self, text: str) -> None:
        self.humans += 1
        self.entries.append(Human(text))

    def says(self, text: str) -> None:
        self.entries.append(Says(text))

    def acts(self, ident: str, uses: Sequence[Use], results: Sequence[Result]) -> None:
        self.entries.append(Acts(ident, tuple(uses), tuple(results)))

    def body(
        self, dialect: str, model: str, stream: bool = False, *, history: str = "whole", keep: int = 0, note: str = "",
        previous: str = "",
    ) -> Body:  # fmt: skip
        """The next request. `history`: whole; or with `keep` entries of it sliding (from a human message on), pinned (the
        first one stays) or summary (what is older is retold in a first message). `note` is put into the system prompt.
        `previous` is the id of a response whose history the provider keeps (openai.responses): only what is new is sent."""
        head, tail = heads(self.setup, dialect, model, stream, bool(note))
        if note:
            head = head.replace(NOTE.encode(), _text(note)[1:-1].encode(), 1)
        if previous:
            kept = b',"previous_response_id":"%s","instructions":' % previous.encode()
            return Body(head.replace(b',"instructions":', kept, 1) + _news(self.entries[-1]) + tail)
        items, ends = self._write(dialect)
        count = len(items)
        spans = ((0, count),)
        if history == "sliding" and count > keep:
            spans = ((self._human_from(count - keep), count),)
        elif history == "pinned" and count > keep + 1:
            spans = ((0, 1), (count - keep, count))
        elif history == "summary" and count > 2 * keep:
            start = (count // keep - 1) * keep
            head += _write(Human(self._summary(start)), dialect) + b","
            spans = ((start, count),)
        size = len(head) + len(tail) - 1 + sum(ends[b - 1] - (ends[a - 1] if a else 0) + b - a for a, b in spans)  # commas too
        return Body(head, items, spans, tail, size)

    def _write(self, dialect: str) -> tuple[list[bytes], list[int]]:
        items, ends = self._written.setdefault(dialect, ([], []))
        for entry in self.entries[len(items) :]:
            items.append(_write(entry, dialect))
            ends.append((ends[-1] if ends else 0) + len(items[-1]))
        return items, ends

    def _human_from(self, start: int) -> int:
        """Where a person speaks first from `start` on, but for the newest words; else where they did last before it."""
        for number in (*range(start, len(self.entries) - 2), *range(start - 1, -1, -1)):
            if isinstance(self.entries[number], Human):
                return number
        return 0

    def _summary(self, until: int) -> str:
        told = [entry.text for entry in self.entries[:until] if isinstance(entry, Human | Says)]
        return "Summary of the conversation so far: " + " ".join(text[:60] for text in told[-12:])


@lru_cache(maxsize=512)
def heads(setup: Setup, dialect: str, model: str, stream: bool, noted: bool) -> tuple[bytes, bytes]:
    """What stands before and after the messages; `noted`: NOTE stands in the system prompt, to be written over."""
    system = f"{setup.system}\n\n{NOTE}" if noted else setup.system
    begin = f'{{"model":{_text(model)},"stream":{"true" if stream else "false"}'
    offered = [_schema(tool, dialect) for tool in setup.tools]
    more: dict[str, Any] = {}
    match dialect:
        case "openai.chat":
            if setup.json_demanded:
                more["response_format"] = {"type": "json_object"}
            if offered:
                more["tools"] = offered
            first = _json({"role": "system", "content": system})
            return begin.encode() + _members(more) + b',"messages":[' + first + b",", b"]}"
        case "openai.responses":
            more["instructions"] = system
            if setup.json_demanded:
                more["text"] = {"format": {"type": "json_object"}}
            if offered:
                more["tools"] = offered
            return begin.encode() + _members(more) + b',"input":[', b"]}"
        case "anthropic.messages":
            more["max_tokens"] = setup.max_tokens
            block: dict[str, Any] = {"type": "text", "text": system}
            more["system"] = [{**block, "cache_control": {"type": "ephemeral"}}] if setup.marks_cache else system
            if setup.json_demanded:
                more["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
            if offered:
                more["tools"] = offered
            return begin.encode() + _members(more) + b',"messages":[', b"]}"
        case _:
            parts: dict[str, Any] = {"systemInstruction": {"parts": [{"text": system}]}}
            if setup.json_demanded:
                parts["generationConfig"] = {"responseMimeType": "application/json"}
            if offered:
                parts["tools"] = [{"functionDeclarations": offered}]
            return b"{" + _members(parts)[1:] + b',"contents":[', b"]}"


SCHEMA = {
    "type": "object",
    "properties": {"reply": {"type": "string"}},
    "required": ["reply"],
    "additionalProperties": False,
}


def _schema(tool: Tool, dialect: str) -> dict[str, Any]:
    shape = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in tool.fields},
        "required": list(tool.fields),
    }
    told: dict[str, Any] = {"name": tool.name, "description": tool.description}
    match dialect:
        case "openai.chat":
            return {"type": "function", "function": {**told, "parameters": shape}}
        case "openai.responses":
            return {"type": "function", **told, "parameters": shape}
        case "anthropic.messages":
            return {**told, "input_schema": shape}
        case _:
            return {**told, "parameters": shape}


def _write(entry: Entry, dialect: str) -> bytes:
    """An entry as this dialect's messages, commas between them."""
    match dialect:
        case "openai.chat":
            return _chat(entry)
        case "openai.responses":
            return _responses(entry)
        case "anthropic.messages":
            return _anthropic(entry)
        case _:
            return _gemini(entry)


def _chat(entry: Entry) -> bytes:
    match entry:
        case Human(text):
            return _json({"role": "user", "content": text})
        case Says(text):
            return _json({"role": "assistant", "content": text})
        case Acts(ident, uses, results):
            calls = [
                {"id": f"call_{ident}_{i}", "type": "function", "function": {"name": use.name, "arguments": _text(use.arguments)}}
                for i, use in enumerate(uses)
            ]
            told: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": calls}]
            for i, result in enumerate(results):
                # This API has no flag; what a client passes on of an MCP server's result has one.
                said = {"content": [{"type": "text", "text": result.text}], "isError": True}
                told.append({
                    "role": "tool", "tool_call_id": f"call_{ident}_{i}", "content": _text(said) if result.flagged else result.text,
                })  # fmt: skip
            return b",".join(map(_json, told))


def _responses(entry: Entry) -> bytes:
    match entry:
        case Human(text):
            return _json({"role": "user", "content": text})
        case Says(text):
            return _json({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
        case Acts(ident, uses, results):
            told: list[dict[str, Any]] = [
                {
                    "type": "function_call", "id": f"fc_{ident}_{i}", "call_id": f"call_{ident}_{i}", "name": use.name,
                    "arguments": _text(use.arguments), "status": "completed",
                }
                for i, use in enumerate(uses)
            ]  # fmt: skip
            return b",".join(map(_json, told)) + b"," + _outputs(ident, results)


def _outputs(ident: str, results: Sequence[Result]) -> bytes:
    told: list[dict[str, Any]] = []
    for i, result in enumerate(results):
        # The shape of a shell's result in coding agents: their flag is the exit code.
        said = {"output": result.text, "metadata": {"exit_code": 1, "duration_seconds": 10}}
        told.append({
            "type": "function_call_output", "call_id": f"call_{ident}_{i}", "output": _text(said) if result.flagged else result.text,
        })  # fmt: skip
    return b",".join(map(_json, told))


def _news(entry: Entry) -> bytes:
    """What a provider that keeps the history has not seen: the human's message, or the results of the tools it called."""
    return _outputs(entry.ident, entry.results) if isinstance(entry, Acts) else _responses(entry)


def _anthropic(entry: Entry) -> bytes:
    match entry:
        case Human(text):
            return _json({"role": "user", "content": text})
        case Says(text):
            return _json({"role": "assistant", "content": [{"type": "text", "text": text}]})
        case Acts(ident, uses, results):
            asked = [
                {"type": "tool_use", "id": f"toolu_{ident}_{i}", "name": use.name, "input": use.arguments}
                for i, use in enumerate(uses)
            ]
            answered: list[dict[str, Any]] = []
            for i, result in enumerate(results):
                block: dict[str, Any] = {"type": "tool_result", "tool_use_id": f"toolu_{ident}_{i}", "content": result.text}
                answered.append({**block, "is_error": True} if result.flagged else block)
            return _json({"role": "assistant", "content": asked}) + b"," + _json({"role": "user", "content": answered})


def _gemini(entry: Entry) -> bytes:
    match entry:
        case Human(text):
            return _json({"role": "user", "parts": [{"text": text}]})
        case Says(text):
            return _json({"role": "model", "parts": [{"text": text}]})
        case Acts(_, uses, results):
            asked = [{"functionCall": {"name": use.name, "args": use.arguments}} for use in uses]
            answered = [
                {"functionResponse": {"name": use.name, "response": {"error" if result.flagged else "result": result.text}}}
                for use, result in zip(uses, results, strict=True)
            ]
            return _json({"role": "model", "parts": asked}) + b"," + _json({"role": "user", "parts": answered})


def path_of(dialect: str, model: str, stream: bool) -> str:
    """Where a request goes, with its query."""
    match dialect:
        case "openai.chat":
            return "/v1/chat/completions"
        case "openai.responses":
            return "/v1/responses"
        case "openai.embeddings":
            return "/v1/embeddings"
        case "anthropic.messages":
            return "/v1/messages"
        case _:
            return f"/v1beta/models/{model}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")


def _members(more: dict[str, Any]) -> bytes:
    return b"".join(b',"%s":%s' % (name.encode(), _json(value)) for name, value in more.items())


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _text(value: Any) -> str:
    return _encoder.encode(value)


def _json(value: Any) -> bytes:
    return _text(value).encode()
