"""Records as other tools write them, made by hand from their published schemas: a few of each, with the fields that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def litellm(number: int = 1, **more: Any) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs."""
    return {
        "request_id": f"chatcmpl-{number:024d}", "call_type": "acompletion", "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.00088, "total_tokens": 1200, "prompt_tokens": 1000, "completion_tokens": 200, "startTime": "2026-11-02T10:00:00.250000+00:00",
        "endTime": "2026-11-02T10:00:02.750000+00:00", "completionStartTime": "2026-11-02T10:00:00.900000+00:00", "model": "gpt-5-mini",
        "model_group": "fast", "custom_llm_provider": "openai", "user": "jane", "end_user": "acme", "team_id": "t-1", "session_id": "s-7",
        "cache_hit": "False", "request_tags": ["env:prod", "nightly"], "status": "success",
        "metadata": {
            "user_api_key_alias": "backend", "user_api_key_team_alias": "Search", "spend_logs_metadata": {"feature": "triage", "pr": 17},
            "usage_object": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200,
                             "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 64}},
        },
        **more,
    }  # fmt: skip


def span(attributes: dict[str, Any], *, trace: str = "0af7651916cd43dd8448eb211c80319c", id: str = "b7ad6b7169203331", parent: str = "",
         name: str = "chat", start: int = 1_793_000_000_000_000_000, ms: int = 1500, error: bool = False) -> dict[str, Any]:  # fmt: skip
    """A span as OTLP's JSON has it."""
    return {
        "traceId": trace, "spanId": id, "parentSpanId": parent, "name": name, "kind": 3, "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + ms * 1_000_000), "attributes": [{"key": k, "value": value(v)} for k, v in attributes.items()],
        "status": {"code": 2, "message": "boom"} if error else {},
    }  # fmt: skip


def value(said: Any) -> dict[str, Any]:
    if isinstance(said, bool):
        return {"boolValue": said}
    if isinstance(said, int):
        return {"intValue": str(said)}
    if isinstance(said, float):
        return {"doubleValue": said}
    if isinstance(said, list):
        return {"arrayValue": {"values": [value(v) for v in said]}}
    return {"stringValue": said}


def request(*spans: dict[str, Any], resource: dict[str, Any] | None = None) -> dict[str, Any]:
    """An ExportTraceServiceRequest."""
    of = {"attributes": [{"key": k, "value": value(v)} for k, v in (resource or {"service.name": "shop"}).items()]}
    return {"resourceSpans": [{"resource": of, "scopeSpans": [{"scope": {"name": "t"}, "spans": list(spans)}]}]}


GENAI = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini",
         "gen_ai.response.model": "gpt-5-mini-2025-08-07", "gen_ai.response.id": "chatcmpl-abcdefghijkl", "gen_ai.usage.input_tokens": 1000,
         "gen_ai.usage.output_tokens": 200, "gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.reasoning.output_tokens": 64,
         "gen_ai.response.finish_reasons": ["stop"], "gen_ai.conversation.id": "conv-1", "user.id": "jane"}  # fmt: skip


def observation(
    number: int, *, parent: str | None = None, kind: str = "GENERATION", usage: dict[str, int] | None = None, **more: Any
) -> dict[str, Any]:
    """An observation of Langfuse's."""
    return {
        "id": f"obs-{number}", "traceId": "trace-1", "parentObservationId": parent, "type": kind, "name": f"step {number}",
        "startTime": f"2026-11-02T10:00:{number:02d}.000Z", "endTime": f"2026-11-02T10:00:{number + 2:02d}.000Z", "level": "DEFAULT",
        "model": "gpt-5-mini" if kind == "GENERATION" else None, "usageDetails": usage or {}, "costDetails": {}, "totalCost": 0,
        "environment": "default", "metadata": "{}", **more,
    }  # fmt: skip


def transcript(session: str = "5f0c", calls: int = 2) -> list[dict[str, Any]]:
    """Lines of Claude Code's: each call on three of them, the count complete on the last."""
    found: list[dict[str, Any]] = [{"type": "user", "sessionId": session, "timestamp": "2026-11-02T09:59:59.000Z", "uuid": "u0",
                                    "message": {"role": "user", "content": "hello"}}]  # fmt: skip
    for call in range(calls):
        for part, out in ((0, 1), (1, 1), (2, 200)):
            usage = {"input_tokens": 4, "cache_creation_input_tokens": 500, "cache_read_input_tokens": 9000, "output_tokens": out,
                     "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 500}, "service_tier": "standard"}  # fmt: skip
            found.append({
                "type": "assistant", "sessionId": session, "timestamp": f"2026-11-02T10:{call:02d}:0{part}.000Z", "requestId": f"req_{session}_{call}",
                "cwd": "/srv/shop", "gitBranch": "main", "isSidechain": False, "uuid": f"a{call}{part}",
                "message": {"id": f"msg_{session}_{call}", "model": "claude-haiku-4-5-20251001", "role": "assistant",
                            "stop_reason": "end_turn" if part == 2 else None, "usage": usage, "content": []},
            })  # fmt: skip
    return found


def write(folder: Path) -> None:
    """The files that the documentation's examples import."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spend-logs.json").write_text(json.dumps([litellm(n) for n in range(1, 4)]), "utf-8")
    (folder / "spans.jsonl").write_text(json.dumps(request(span(GENAI))) + "\n", "utf-8")
    (folder / "trace.json").write_text(json.dumps({"trace": {"id": "trace-1", "userId": "jane"}, "observations": [
        observation(1, kind="SPAN"), observation(2, parent="obs-1", usage={"input": 900, "output": 60, "total": 960})]}, indent=2), "utf-8")  # fmt: skip
    projects = folder / "projects" / "shop"
    projects.mkdir(parents=True, exist_ok=True)
    (projects / "5f0c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in transcript()), "utf-8")
    (folder / "openai-usage.csv").write_text(
        "start_time,end_time,project_id,num_model_requests,model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens\n"
        "1793577600,1793664000,proj_a,40,gpt-5-mini-2025-08-07,FALSE,default,90000,12000,30000\n", "utf-8")  # fmt: skip
    (folder / "own.jsonl").write_text(
        '{"ts": "2026-11-02T10:00:00Z", "model": "gpt-5-mini", "input": 1200, "output": 80, "tenant": "acme", "labels": {"team": "red"}}\n',
        "utf-8",
    )
