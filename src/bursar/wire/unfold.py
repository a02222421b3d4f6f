"""A whole reply as the stream that the same provider would have sent: fewer and larger pieces, the same events in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from .dialect import encode, event

_decode = msgspec.json.Decoder(dict[str, Any]).decode
Object = dict[str, Any]


def unfold(dialect: str, whole: bytes, usage_asked: bool = False, array: bool = False) -> bytes | None:
    """The stream's bytes. `usage_asked`: a chat client wants the usage event; `array`: a Gemini client takes no events. None
    where the reply is of a shape nobody knows."""
    try:
        answer = _decode(whole)
        match dialect:
            case "openai_chat":
                return b"".join(_chat(answer, usage_asked))
            case "openai_responses":
                return b"".join(event({**e, "sequence_number": n}, e["type"]) for n, e in enumerate(_responses(answer)))
            case "anthropic_messages":
                return b"".join(event(e, e["type"]) for e in _anthropic(answer))
            case "gemini_generate":
                return b"[" + encode(answer) + b"]" if array else event(answer)
            case _:
                return None
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _chat(answer: Object, usage_asked: bool) -> Iterator[bytes]:
    base = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    base["object"] = "chat.completion.chunk"
    none: Object = {"usage": None} if usage_asked else {}
    for choice in cast("list[Object]", answer["choices"]):
        index = choice["index"]
        message = dict(choice["message"])
        calls = message.pop("tool_calls", None)
        # The role comes alone, as OpenAI sends it: clients that wait for it before text do.
        yield event(
            {
                **base,
                "choices": [
                    _piece(index, {"role": message.pop("role", "assistant"), "content": "" if message.get("content") else None})
                ],
                **none,
            }
        )
        said = {name: value for name, value in message.items() if value is not None and value != []}
        if said:
            yield event({**base, "choices": [{**_piece(index, said), "logprobs": choice.get("logprobs")}], **none})
        for number, call in enumerate(calls or ()):
            yield event({**base, "choices": [_piece(index, {"tool_calls": [{"index": number, **call}]})], **none})
        rest = {n: v for n, v in choice.items() if n not in ("index", "message", "logprobs")}
        yield event({**base, "choices": [{**_piece(index, {}), **rest}], **none})
    if usage_asked:
        yield event({**base, "choices": [], "usage": answer.get("usage")})
    yield b"data: [DONE]\n\n"


def _piece(index: int, delta: Object) -> Object:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _anthropic(answer: Object) -> Iterator[Object]:
    spent: Object = dict(answer.get("usage") or {})
    begun: Object = {**answer, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**spent, "output_tokens": 0}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(cast("list[Object]", answer["content"])):
        empty, deltas = _block(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    delta.update({name: answer[name] for name in ("container", "stop_details") if name in answer})
    more = {"context_management": answer["context_management"]} if "context_management" in answer else {}
    yield {"type": "message_delta", "delta": delta, "usage": spent, **more}
    yield {"type": "message_stop"}


def _block(block: Object) -> tuple[Object, list[Object]]:
    """How a block begins, and what is told of it afterwards. Blocks of other kinds come whole in their start."""
    match block["type"]:
        case "text":
            cited = [{"type": "citations_delta", "citation": citation} for citation in block.get("citations") or ()]
            empty: Object = {**block, "text": "", **({"citations": []} if cited else {})}
            return empty, [{"type": "text_delta", "text": block["text"]}, *cited]
        case "thinking":
            signed = [{"type": "signature_delta", "signature": block["signature"]}] if block.get("signature") else []
            return {**block, "thinking": "", "signature": ""}, [{"type": "thinking_delta", "thinking": block["thinking"]}, *signed]
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": encode(block["input"]).decode()}]
        case _:
            return block, []


def _responses(answer: Object) -> Iterator[Object]:
    begun: Object = {**answer, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    if "completed_at" not in answer:
        del begun["completed_at"]
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(cast("list[Object]", answer["output"])):
        at: Object = {"output_index": index, "item_id": item.get("id")}
        match item["type"]:
            case "message":
                yield {
                    "type": "response.output_item.added",
                    "output_index": index,
                    "item": {**item, "status": "in_progress", "content": []},
                }
                for number, part in enumerate(cast("list[Object]", item["content"])):
                    yield from _text(part, {**at, "content_index": number})
            case "function_call":
                yield {
                    "type": "response.output_item.added",
                    "output_index": index,
                    "item": {**item, "status": "in_progress", "arguments": ""},
                }
                yield {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]}
                yield {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"], "name": item["name"]}
            case "custom_tool_call":
                yield {
                    "type": "response.output_item.added",
                    "output_index": index,
                    "item": {**item, "status": "in_progress", "input": ""},
                }
                yield {"type": "response.custom_tool_call_input.delta", **at, "delta": item["input"]}
                yield {"type": "response.custom_tool_call_input.done", **at, "input": item["input"]}
            case "reasoning":
                yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "summary": []}}
                for number, part in enumerate(cast("list[Object]", item.get("summary") or [])):
                    yield from _thought(part, {**at, "summary_index": number})
            case _:
                yield {"type": "response.output_item.added", "output_index": index, "item": item}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    ended = "completed" if answer.get("status") == "completed" else "incomplete"
    yield {"type": f"response.{ended}", "response": answer}


def _text(part: Object, at: Object) -> Iterator[Object]:
    if part["type"] == "refusal":
        yield {"type": "response.content_part.added", **at, "part": {**part, "refusal": ""}}
        yield {"type": "response.refusal.delta", **at, "delta": part["refusal"]}
        yield {"type": "response.refusal.done", **at, "refusal": part["refusal"]}
    else:
        yield {"type": "response.content_part.added", **at, "part": {**part, "text": "", "annotations": []}}
        yield {"type": "response.output_text.delta", **at, "delta": part["text"], "logprobs": part.get("logprobs") or []}
        for number, annotation in enumerate(part.get("annotations") or ()):
            yield {"type": "response.output_text.annotation.added", **at, "annotation_index": number, "annotation": annotation}
        yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": part.get("logprobs") or []}
    yield {"type": "response.content_part.done", **at, "part": part}


def _thought(part: Object, at: Object) -> Iterator[Object]:
    yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
    yield {"type": "response.reasoning_summary_text.delta", **at, "delta": part["text"]}
    yield {"type": "response.reasoning_summary_text.done", **at, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
