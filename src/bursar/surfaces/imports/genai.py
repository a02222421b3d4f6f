"""What a span's attributes say of a model call: the GenAI conventions, current and older, OpenInference, OpenLLMetry, Vercel's SDK,
LangSmith's and Langfuse's names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from . import providers, tokens
from .record import Record, dollars, flat, inside, moment, tags, text, whole

Attributes = Mapping[str, Any]

CALLS = {"chat", "text_completion", "completion", "completions", "generate_content", "embeddings", "embedding", "response",
         "responses",
         "image_generation", "speech", "transcription", "rerank", "message", "messages"}  # fmt: skip
NO_CALLS = {"invoke_agent", "create_agent", "invoke_workflow", "execute_tool", "plan", "retrieval", "agent_workflow", "tool_call"}

# For each fact the names it goes by, the first that is there wins: today's conventions, then what came before and beside them.
REQUESTED = ("gen_ai.request.model", "llm.request.model", "ai.model.id", "embedding.model_name", "langsmith.metadata.ls_model_name")
SERVED = ("gen_ai.response.model", "ai.response.model", "llm.model_name", "llm.response.model", "embedding.model_name",
          "reranker.model_name",
          "langfuse.observation.model.name")  # fmt: skip
PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "llm.vendor", "ai.model.provider",
            "langsmith.metadata.ls_provider", "embedding.provider")  # fmt: skip
READ = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt",
        "ai.usage.inputTokens",
        "ai.usage.promptTokens", "ai.usage.tokens")  # fmt: skip
WRITTEN = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens", "llm.token_count.completion",
           "ai.usage.outputTokens", "ai.usage.completionTokens")  # fmt: skip
TOTAL = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total", "ai.usage.totalTokens")
CACHE_READ = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.input_tokens.cached",
              "gen_ai.usage.details.cache_read_tokens", "llm.token_count.prompt_details.cache_read", "ai.usage.cachedInputTokens",
              "llm.usage.cache_read_input_tokens", "gen_ai.usage.prompt_tokens_details.cached_tokens",
              "ai.usage.inputTokenDetails.cacheReadTokens")  # fmt: skip
CACHE_WRITE = ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens",
               "gen_ai.usage.cache_creation_input_tokens",
               "gen_ai.usage.details.cache_write_tokens", "llm.token_count.prompt_details.cache_write",
               "llm.usage.cache_creation_input_tokens", "ai.usage.inputTokenDetails.cacheWriteTokens")  # fmt: skip
REASONING = ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens", "gen_ai.usage.output_tokens.reasoning",
             "gen_ai.usage.details.reasoning_tokens", "llm.token_count.completion_details.reasoning", "ai.usage.reasoningTokens",
             "ai.usage.outputTokenDetails.reasoningTokens", "llm.usage.reasoning_tokens")  # fmt: skip
AUDIO_IN = ("gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio", "gen_ai.usage.details.input_audio_tokens")
AUDIO_OUT = (
    "gen_ai.usage.audio.output_tokens",
    "llm.token_count.completion_details.audio",
    "gen_ai.usage.details.output_audio_tokens",
)
IMAGE_IN, IMAGE_OUT = ("gen_ai.usage.image.input_tokens",), ("gen_ai.usage.image.output_tokens",)
COST = (
    "gen_ai.usage.cost.amount",
    "gen_ai.usage.cost",
    "gen_ai.usage.total_cost",
    "llm.cost.total",
    "operation.cost",
    "gen_ai.cost.total_cost",
)
RESPONSE = ("gen_ai.response.id", "ai.response.id", "llm.response.id")
FINISH = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "ai.response.finishReason", "llm.response.finish_reason",
          "llm.finish_reason")  # fmt: skip
STREAM = ("gen_ai.request.stream", "llm.is_streaming", "llm.request.stream")
FIRST = ("gen_ai.response.time_to_first_chunk", "ai.response.msToFirstChunk", "gen_ai.server.time_to_first_token")
TIER = ("gen_ai.openai.response.service_tier", "openai.response.service_tier", "gen_ai.response.service_tier",
        "gen_ai.openai.request.service_tier", "openai.request.service_tier")  # fmt: skip
ERROR = ("error.type", "exception.type")
# What is a body and only read where nothing else has the fact.
BODIES = ("llm.invocation_parameters", "embedding.invocation_parameters", "output.value", "langfuse.observation.usage_details",
          "langfuse.observation.cost_details", "langfuse.observation.model.parameters", "metadata", "langfuse.trace.metadata",
          "langfuse.observation.metadata", "ai.response.providerMetadata")  # fmt: skip
KINDS = ("gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind", "langsmith.span.kind", "langfuse.observation.type",
         "llm.request.type", "ai.operationId", "operation.name")  # fmt: skip
LABELS: dict[str, str] = {
    "gen_ai.conversation.id": "conversation",
    "session.id": "conversation",
    "langfuse.session.id": "conversation",
    "langsmith.metadata.session_id": "conversation",
    "langsmith.metadata.thread_id": "conversation",
    "langsmith.metadata.conversation_id": "conversation",
    "traceloop.association.properties.session_id": "conversation",
    "traceloop.association.properties.thread_id": "conversation",
    "ai.telemetry.metadata.sessionId": "conversation",
    "user.id": "user",
    "langfuse.user.id": "user",
    "enduser.id": "user",
    "llm.user": "user",
    "ai.telemetry.metadata.userId": "user",
    "traceloop.association.properties.user_id": "user",
    "langsmith.metadata.user_id": "user",
    "gen_ai.agent.name": "agent",
    "agent.name": "agent",
    "gen_ai.workflow.name": "flow",
    "traceloop.workflow.name": "flow",
    "traceloop.entity.name": "entity",
    "ai.telemetry.functionId": "flow",
    "langfuse.trace.name": "flow",
    "langsmith.trace.name": "flow",
    "langsmith.metadata.langgraph_node": "flow",
    "langfuse.environment": "environment",
}  # fmt: skip
FREE = ("bursar.", "traceloop.association.properties.", "langsmith.metadata.", "langfuse.trace.metadata.",
        "langfuse.observation.metadata.",
        "ai.telemetry.metadata.", "tag.tags", "langfuse.trace.tags", "langsmith.span.tags")  # fmt: skip
OF_THE_TOOL = (
    "ls_",
    "lc_",
    "langgraph_",
    "__pregel",
    "revision_id",
    "LANGSMITH",
    "checkpoint_ns",
    "runtime",
    "sdk",
)  # LangChain's own, in LangSmith's metadata
RESOURCE = {"service.name": "service", "deployment.environment": "environment", "deployment.environment.name": "environment"}
# What we look at, so that a decoder need not read the prompts.
WANTED = frozenset((
    *REQUESTED, *SERVED, *PROVIDER, *READ, *WRITTEN, *TOTAL, *CACHE_READ, *CACHE_WRITE, *REASONING, *AUDIO_IN, *AUDIO_OUT, *IMAGE_IN,
    *IMAGE_OUT, *COST, *RESPONSE, *FINISH, *STREAM, *FIRST, *TIER, *ERROR, *BODIES, *KINDS, *LABELS, *RESOURCE,
    "gen_ai.usage.cost.currency",
    "gen_ai.usage.cost.source", "http.response.status_code", "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens",
))  # fmt: skip


class Span(NamedTuple):
    """A span with its attributes as plain values. Times in nanoseconds since the epoch; 0: not said."""

    trace: str
    span: str
    parent: str
    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    resource: Attributes
    error: bool = False
    message: str = ""


def wanted(name: str) -> bool:
    """Whether an attribute can tell us something."""
    return name in WANTED or name.startswith(FREE)


def reading(span: Span) -> tuple[Record | None, str]:
    """(the record, "") of a span that tells of a model call's usage, or that is one; else (None, why not). NotMine where it is one but
    lacks what a row must have. Whether another span of its trace tells of the same usage is not known here."""
    of = span.attributes
    kind = is_call(span)
    counted = _counted(of)
    cost = _first(of, COST)
    if kind is False and counted.tokens is None and not cost:
        return None, f"no model call: {_told(span)}"
    if kind is None and counted.tokens is None and not cost:
        return None, "no model call: no GenAI attributes"
    body: dict[str, Any] | None = None
    requested, served = text(_first(of, REQUESTED)), text(_first(of, SERVED))
    embedding = _embeds(of)
    if not requested:
        for name in ("llm.invocation_parameters", "embedding.invocation_parameters"):
            requested = requested or text(inside(of.get(name)).get("model"))
    if counted.tokens is None or not span.start_ns:
        body = inside(of.get("output.value"))
        if counted.tokens is None and isinstance(body.get("usage"), dict):
            counted = tokens.provider_usage(body["usage"], embedding=embedding)
        served = served or text(body.get("model"))
    ts = span.start_ns // 1000
    if not ts:
        ts = moment((body or {}).get("created") or (body or {}).get("created_at") or None)
    moment(ts)
    provider = providers.provider(text(_first(of, PROVIDER)))
    model = providers.model(served or requested, provider)
    if not provider:
        provider, model = providers.split(model)
    if not model and counted.tokens is None and not cost:
        return None, "a model call that names no model and counts nothing"
    stated = dollars(cost if not isinstance(cost, float) else repr(cost)) if _dollars(of) else None
    first = _first(of, FIRST)
    took = (span.end_ns - span.start_ns) // 1_000_000 if span.end_ns >= span.start_ns > 0 else None
    finish = _first(of, FINISH)
    return Record(
        f"{span.trace}{span.span}", ts, provider, model, requested if requested != model else "", counted.tokens, counted.estimated,
        counted.contradiction, stated, False, _labels(span), "error" if span.error else "ok",
        http_status=whole(of.get("http.response.status_code")),
        error=(text(_first(of, ERROR)) or span.message.partition(":")[0])[:80] if span.error else "",
        finish=text(finish[0] if isinstance(finish, list | tuple) and finish else finish),
        stream=_first(of, STREAM) is True or first is not None,
        latency_ms=took, ttft_ms=_first_ms(of, first), service_tier=text(_first(of, TIER)), embedding=embedding,
        response_id=text(_first(of, RESPONSE)) or text((body or {}).get("id")),
    ), ""  # fmt: skip


def is_call(span: Span) -> bool | None:
    """True: a model call; False: something else that is named; None: nobody says."""
    of = span.attributes
    operation = text(of.get("gen_ai.operation.name")).lower()
    if operation in CALLS:
        return True
    if operation in NO_CALLS:
        return False
    for name in ("openinference.span.kind", "langsmith.span.kind", "langfuse.observation.type"):
        kind = text(of.get(name)).lower()
        if kind:
            return kind in ("llm", "generation", "embedding")
    vercel = text(of.get("ai.operationId"))
    if vercel:
        return vercel.endswith((".doGenerate", ".doStream", ".doEmbed"))
    if text(of.get("llm.request.type")).lower() in CALLS:
        return True
    if of.get("traceloop.span.kind"):
        return False
    return True if _first(of, REQUESTED) is not None and _first(of, PROVIDER) is not None else None


def _told(span: Span) -> str:
    """The word by which a span says that it is no model call."""
    for name in KINDS:
        said = text(span.attributes.get(name))
        if said:
            return f"{name}={said[:40]}"
    return "not said"


def _embeds(of: Attributes) -> bool:
    said = (text(of.get("gen_ai.operation.name")), text(of.get("openinference.span.kind")), text(of.get("ai.operationId")),
            text(of.get("llm.request.type")), text(of.get("langsmith.span.kind")),
            text(of.get("langfuse.observation.type")))  # fmt: skip
    return any("embed" in word.lower() for word in said)


def _counted(of: Attributes) -> tokens.Counted:
    read, written, total = (whole(_first(of, names)) for names in (READ, WRITTEN, TOTAL))
    if read is None and written is None and total is None:
        details = inside(of.get("langfuse.observation.usage_details"))
        return langfuse(details) if details else tokens.NOTHING
    return tokens.inclusive(
        read, written, total, cache_read=_n(of, CACHE_READ), cache_write=_n(of, CACHE_WRITE),
        hour=whole(of.get("gen_ai.usage.cache_creation.ephemeral_1h_input_tokens")) or 0, reasoning=_n(of, REASONING),
        audio_in=_n(of, AUDIO_IN), audio_out=_n(of, AUDIO_OUT), image_in=_n(of, IMAGE_IN), image_out=_n(of, IMAGE_OUT),
        embedding=_embeds(of),
    )  # fmt: skip


def langfuse(details: Mapping[str, Any]) -> tokens.Counted:
    """Langfuse's usage details. Its own convention is disjoint counts; what comes by way of OpenInference or a provider's own object
    is parts of two sums. Which it is, the total says; where there is none, the names do."""
    counts = {name: n for name, value in details.items() if (n := whole(value)) is not None}
    total = counts.pop("total", counts.pop("total_tokens", None))
    read = _any_of(counts, ("input", "input_tokens", "prompt_tokens", "promptTokens"))
    written = _any_of(counts, ("output", "output_tokens", "completion_tokens", "completionTokens"))
    if read is None and written is None:
        return tokens.inclusive(total, None, total) if total else tokens.NOTHING
    parts = {
        "cache_read": 0,
        "cache_write": 0,
        "hour": 0,
        "reasoning": 0,
        "audio_in": 0,
        "audio_out": 0,
        "image_in": 0,
        "image_out": 0,
    }
    for name, n in counts.items():
        said = name.lower().replace(".", "_")
        side = "out" if said.startswith(("output", "completion")) else "in"
        if "cache" in said and ("creat" in said or "write" in said):
            parts["cache_write"] = max(parts["cache_write"], n) if "5m" not in said and "1h" not in said else parts["cache_write"] + n
            parts["hour"] += n if "1h" in said else 0
        elif "cache" in said:
            parts["cache_read"] = max(parts["cache_read"], n)
        elif "reasoning" in said or "thinking" in said:
            parts["reasoning"] = max(parts["reasoning"], n)
        elif "audio" in said:
            parts[f"audio_{side}"] = n
        elif "image" in said:
            parts[f"image_{side}"] = n
    into = parts["cache_read"] + parts["cache_write"] + parts["audio_in"] + parts["image_in"]
    outof = parts["reasoning"] + parts["audio_out"] + parts["image_out"]
    within = any("details" in name for name in counts)
    disjoint = total == (read or 0) + (written or 0) + into + outof if total is not None else not within
    if disjoint:
        read, written = (read or 0) + into, (written or 0) + outof
    return tokens.inclusive(read, written, total, **parts)


def _any_of(counts: dict[str, int], names: tuple[str, ...]) -> int | None:
    found = [counts.pop(name) for name in names if name in counts]
    return found[0] if found else None


def _first(of: Attributes, names: tuple[str, ...]) -> Any:
    for name in names:
        value = of.get(name)
        if value is not None:
            return value
    return None


def _n(of: Attributes, names: tuple[str, ...]) -> int:
    return whole(_first(of, names)) or 0


def _dollars(of: Attributes) -> bool:
    """Amounts in another currency are not kept: there is no rate here that would be right."""
    return text(of.get("gen_ai.usage.cost.currency")).upper() in ("", "USD")


def _first_ms(of: Attributes, said: Any) -> int | None:
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0 <= said < 10**9:
        return None
    return int(said) if "ai.response.msToFirstChunk" in of else int(said * 1000)  # the conventions count seconds


def _labels(span: Span) -> dict[str, str]:
    labels: dict[str, str] = {}
    of = span.attributes
    for name, ours in LABELS.items():
        if name in of and ours not in labels and (value := text(of[name])):
            labels[ours] = value
    for name in ("metadata", "langfuse.trace.metadata", "langfuse.observation.metadata"):
        if name in of:
            for free, value in flat(inside(of[name])).items():
                labels.setdefault(free, value)
    for name, value in of.items():
        if not name.startswith(FREE) or name in LABELS:
            continue
        if name.endswith(("tags",)):
            for tag, said in tags(list(value) if isinstance(value, list | tuple) else text(value).split(",")).items():
                labels.setdefault(tag, said)
            continue
        free = name.rpartition(".")[2] if not name.startswith("bursar.") else name.removeprefix("bursar.")
        if (said := text(value)) and not free.startswith(OF_THE_TOOL):
            labels.setdefault(free, said)
    for name, ours in RESOURCE.items():
        if name in span.resource and (value := text(span.resource[name])):
            labels.setdefault(ours, value)
    if span.trace:
        labels.setdefault("conversation", span.trace)  # one run of an agent: the closest to a conversation that it tells
    return labels


__all__ = ["Span", "is_call", "langfuse", "reading", "wanted"]
