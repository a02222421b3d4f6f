"""What each format's records say, told by records made by hand: tokens as disjoint buckets, amounts exact, labels in our names."""

from __future__ import annotations

import json

import pytest

from bursar.surfaces.imports.record import Bad, Passed, Record, Repeat

from . import samples
from .rig import counts, one, outcomes

SECOND = 1_000_000


# -- LiteLLM ---------------------------------------------------------------------------------------------------------------


def test_a_spend_log_is_one_call_with_its_labels_tokens_and_stated_cost() -> None:
    found = one("litellm", samples.litellm())
    assert counts(found) == {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}
    assert (found.provider, found.model, found.requested) == ("openai", "gpt-5-mini", "fast")
    assert found.stated == 880_000_000  # $0.00088, as the decimal that was written
    assert dict(found.labels) == {"tenant": "acme", "user": "jane", "conversation": "s-7", "team": "Search", "feature": "triage", "pr": "17",
                                  "env": "prod", "tag.nightly": "true"}  # fmt: skip
    assert (found.ts, found.latency_ms, found.ttft_ms) == (1_793_613_600_250_000, 2500, 650)
    assert found.key == "backend" and found.id == found.response_id


def test_anthropics_cache_counts_in_a_spend_log_are_parts_of_the_prompt_with_their_lifetimes() -> None:
    usage = {"prompt_tokens": 10_500, "completion_tokens": 50, "total_tokens": 10_550, "cache_read_input_tokens": 8000, "cache_creation_input_tokens": 2000,
             "prompt_tokens_details": {"cached_tokens": 8000, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 1500}}}  # fmt: skip
    found = one(
        "litellm", samples.litellm(metadata={"usage_object": usage}, custom_llm_provider="anthropic", model="claude-haiku-4-5")
    )
    assert counts(found) == {"input": 500, "cache_read": 8000, "cache_write": 500, "cache_write_1h": 1500, "output": 50}


def test_the_defaults_of_litellms_database_are_not_a_count_of_zero() -> None:
    found = one("litellm", samples.litellm(prompt_tokens=0, completion_tokens=0, total_tokens=0, spend=0.0, metadata={}))
    assert found.tokens is None


def test_a_reply_from_litellms_cache_used_no_tokens_of_a_provider() -> None:
    found = one("litellm", samples.litellm(cache_hit="True", spend=0.0))
    assert found.tokens is None and found.flags == "cache_hit"


def test_a_failed_call_says_so_with_its_code() -> None:
    failed = samples.litellm(status="failure", spend=0, metadata={"error_information": {"error_code": "429", "error_class": "RateLimitError"}},
                             prompt_tokens=0, completion_tokens=0, total_tokens=0)  # fmt: skip
    found = one("litellm", failed)
    assert (found.status, found.http_status, found.error) == ("error", 429, "RateLimitError")


@pytest.mark.parametrize("shape", [
    {"metadata": json.dumps({"user_api_key_alias": "backend"})}, {"metadata": "not json"}, {"metadata": []}, {"request_tags": '["a:b"]'},
    {"request_tags": {"x": 1}}, {"usage": {"weird": []}}, {"user": {"id": 3}}, {"stream": "yes"},
])  # fmt: skip
def test_what_people_put_into_metadata_never_refuses_a_record(shape: dict) -> None:
    assert counts(one("litellm", samples.litellm(**shape)))["output"] > 0


def test_a_logged_payload_and_a_dynamodb_row_are_read_too() -> None:
    payload = {"id": "chatcmpl-1", "call_type": "completion", "startTime": 1793613600.25, "endTime": 1793613602.25, "model": "claude-haiku-4-5",
               "custom_llm_provider": "anthropic", "response_cost": 1.5e-05, "prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11,
               "metadata": {"user_api_key_end_user_id": "acme"}, "request_tags": [], "status": "success", "stream": True}  # fmt: skip
    found = one("litellm", payload)
    assert (found.stated, found.latency_ms, found.labels["tenant"], found.stream) == (15_000_000, 2000, "acme", True)
    dynamo = {"id": {"S": "chatcmpl-2"}, "startTime": {"S": "2026-11-02 10:00:00.5"}, "endTime": {"S": "2026-11-02 10:00:01.5"}, "model": {"S": "gpt-5"},
              "usage": {"S": "Usage(completion_tokens=9, prompt_tokens=11, total_tokens=20)"}, "user": {"S": "jane"}}  # fmt: skip
    assert counts(one("litellm", dynamo)) == {"input": 11, "output": 9}


def test_a_tool_call_that_cost_nothing_is_no_model_call() -> None:
    (found,) = outcomes(
        "litellm",
        samples.litellm(call_type="call_mcp_tool", spend=0, metadata={}, prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )
    assert isinstance(found, Passed)


# -- OpenTelemetry ---------------------------------------------------------------------------------------------------------


def test_a_genai_span_is_one_call() -> None:
    (found,) = outcomes(
        "otlp", samples.request(samples.span(samples.GENAI), resource={"service.name": "shop", "deployment.environment": "prod"})
    )
    assert isinstance(found, Record)
    assert counts(found) == {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}
    assert (found.provider, found.model, found.requested, found.finish) == ("openai", "gpt-5-mini-2025-08-07", "gpt-5-mini", "stop")
    assert dict(found.labels) == {"conversation": "conv-1", "user": "jane", "service": "shop", "environment": "prod"}
    assert found.latency_ms == 1500 and found.response_id == "chatcmpl-abcdefghijkl"


OLDER = {
    "GenAI before provider.name": {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-5-mini", "gen_ai.usage.prompt_tokens": 1000,
                                   "gen_ai.usage.completion_tokens": 200, "gen_ai.usage.cache_read_input_tokens": 400, "gen_ai.usage.reasoning_tokens": 64},
    "OpenInference": {"openinference.span.kind": "LLM", "llm.system": "openai", "llm.model_name": "gpt-5-mini", "llm.token_count.prompt": 1000,
                      "llm.token_count.completion": 200, "llm.token_count.total": 1200, "llm.token_count.prompt_details.cache_read": 400,
                      "llm.token_count.completion_details.reasoning": 64},
    "OpenLLMetry": {"llm.request.type": "chat", "gen_ai.system": "OpenAI", "gen_ai.request.model": "gpt-5-mini", "gen_ai.usage.prompt_tokens": 1000,
                    "gen_ai.usage.completion_tokens": 200, "llm.usage.total_tokens": 1200, "gen_ai.usage.cache_read_input_tokens": 400,
                    "llm.usage.reasoning_tokens": 64},
    "Vercel": {"ai.operationId": "ai.generateText.doGenerate", "ai.model.provider": "openai.responses", "ai.model.id": "gpt-5-mini",
               "ai.usage.inputTokens": 1000, "ai.usage.outputTokens": 200, "ai.usage.cachedInputTokens": 400, "ai.usage.reasoningTokens": 64},
    "LangSmith": {"langsmith.span.kind": "llm", "langsmith.metadata.ls_provider": "openai", "langsmith.metadata.ls_model_name": "gpt-5-mini",
                  "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 200, "gen_ai.usage.details.cache_read_tokens": 400,
                  "gen_ai.usage.details.reasoning_tokens": 64},
    "Langfuse": {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-5-mini", "gen_ai.system": "openai",
                 "langfuse.observation.usage_details": json.dumps({"input": 600, "input_cached_tokens": 400, "output": 136, "output_reasoning_tokens": 64,
                                                                   "total": 1200})},
}  # fmt: skip


@pytest.mark.parametrize("attributes", OLDER.values(), ids=OLDER.keys())
def test_every_dialect_of_attributes_says_the_same_call(attributes: dict) -> None:
    (found,) = outcomes("otlp", samples.request(samples.span(attributes)))
    assert isinstance(found, Record), found
    assert counts(found) == {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}
    assert (found.provider, found.model) == ("openai", "gpt-5-mini")


def test_anthropics_cache_beside_the_input_is_told_from_one_inside_it() -> None:
    """By the total, or because more is cached than was read; two instrumentations of the same call then say the same."""
    beside = {"gen_ai.operation.name": "chat", "gen_ai.system": "anthropic", "gen_ai.response.model": "claude-haiku-4-5", "gen_ai.usage.input_tokens": 5,
              "gen_ai.usage.output_tokens": 50, "gen_ai.usage.cache_read_input_tokens": 8000, "gen_ai.usage.cache_creation_input_tokens": 100}  # fmt: skip
    inside = beside | {"gen_ai.usage.input_tokens": 8105}
    for attributes in (beside, inside, beside | {"llm.usage.total_tokens": 8155}):
        (found,) = outcomes("otlp", samples.request(samples.span(attributes)))
        assert isinstance(found, Record)
        assert counts(found) == {"input": 5, "cache_read": 8000, "cache_write": 100, "output": 50}


def test_a_cost_in_another_currency_is_not_taken_for_dollars() -> None:
    euro = samples.GENAI | {"gen_ai.usage.cost.amount": 0.5, "gen_ai.usage.cost.currency": "EUR"}
    dollar = samples.GENAI | {"gen_ai.usage.cost.amount": 0.5, "gen_ai.usage.cost.currency": "USD"}
    (none,), (half,) = outcomes("otlp", samples.request(samples.span(euro))), outcomes("otlp", samples.request(samples.span(dollar)))
    assert isinstance(none, Record) and isinstance(half, Record)
    assert (none.stated, half.stated) == (None, 500_000_000_000)


@pytest.mark.parametrize("attributes", [
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "lookup"}, {"openinference.span.kind": "CHAIN"}, {"traceloop.span.kind": "workflow"},
    {"langsmith.span.kind": "tool"}, {"http.method": "GET"}, {"ai.operationId": "ai.toolCall"},
])  # fmt: skip
def test_a_span_that_is_no_model_call_is_passed_over_with_its_word(attributes: dict) -> None:
    (found,) = outcomes("otlp", samples.request(samples.span(attributes)))
    assert isinstance(found, Passed) and found.reason.startswith("no model call")


def test_spans_as_sdks_print_them_are_read() -> None:
    """Node: ids in a context, time as [seconds, nanoseconds], attributes as an object. Python: hex with 0x, ISO times."""
    node = {"name": "chat", "spanContext": {"traceId": "a" * 32, "spanId": "b" * 16}, "startTime": [1793000000, 5000], "endTime": [1793000001, 5000],
            "attributes": samples.GENAI, "status": {"code": 0}}  # fmt: skip
    python = {"name": "chat", "context": {"trace_id": "0x" + "a" * 32, "span_id": "0x" + "b" * 16}, "parent_id": None,
              "start_time": "2026-10-26T07:33:20.000005Z", "end_time": "2026-10-26T07:33:21.000005Z", "attributes": samples.GENAI,
              "status": {"status_code": "OK"}, "resource": {"attributes": {"service.name": "shop"}}}  # fmt: skip
    first, second = one("otlp", node), one("otlp", python)
    assert first.id == second.id == "a" * 32 + "b" * 16
    assert first.ts == second.ts == 1793000000 * SECOND + 5 and first.latency_ms == 1000


def test_a_call_without_usage_or_with_an_error_is_still_a_call() -> None:
    silent = {k: v for k, v in samples.GENAI.items() if "usage" not in k}
    (found,) = outcomes("otlp", samples.request(samples.span(silent)))
    assert isinstance(found, Record) and found.tokens is None
    (found,) = outcomes("otlp", samples.request(samples.span(silent | {"error.type": "timeout"}, error=True)))
    assert isinstance(found, Record) and (found.status, found.error) == ("error", "timeout")


def test_a_span_without_a_time_is_refused_and_says_so() -> None:
    (found,) = outcomes("otlp", samples.request(samples.span(samples.GENAI, start=0, ms=0)))
    assert isinstance(found, Bad) and "no time" in found.reason


# -- Langfuse, Helicone, LangSmith -----------------------------------------------------------------------------------------


def trace(*observations: dict, **of: object) -> dict:
    return {"trace": {"id": "trace-1", "name": "agent", "userId": "jane", "sessionId": "s-1", "tags": ["prod"], "metadata": '{"plan": "pro"}', **of},
            "observations": list(observations)}  # fmt: skip


@pytest.mark.parametrize(("usage", "wanted"), [
    ({"input": 600, "input_cache_read": 400, "output": 136, "output_reasoning": 64, "total": 1200},
     {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}),  # Langfuse's own: disjoint
    ({"input": 1000, "prompt_details.cache_read": 400, "output": 200, "completion_details.reasoning": 64, "total": 1200},
     {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}),  # OpenInference's: parts of the sums
    ({"input": 5, "cache_read_input_tokens": 8000, "cache_creation_input_tokens": 100, "output": 50},
     {"input": 5, "cache_read": 8000, "cache_write": 100, "output": 50}),  # Anthropic's, no total
    ({"input": 5, "input_cache_creation_5m": 40, "input_cache_creation_1h": 60, "output": 50, "total": 155},
     {"input": 5, "cache_write": 40, "cache_write_1h": 60, "output": 50}),
    ({"input": 100, "input_audio_tokens": 20, "output": 10, "total": 130}, {"input": 100, "input_audio": 20, "output": 10}),
])  # fmt: skip
def test_langfuses_usage_is_disjoint_or_parts_as_its_total_says(usage: dict, wanted: dict) -> None:
    (found,) = outcomes("langfuse", trace(samples.observation(1, usage=usage)))
    assert isinstance(found, Record)
    assert counts(found) == wanted


def test_thinking_that_only_the_total_has_is_counted_and_flagged() -> None:
    (found,) = outcomes(
        "langfuse", trace(samples.observation(1, usage={"input": 5, "output": 845, "total": 2023}, model="gemini-2.5-flash"))
    )
    assert isinstance(found, Record)
    assert counts(found) == {"input": 5, "output": 845, "reasoning": 1173} and "2023" in found.contradiction


def test_an_observation_carries_its_traces_labels() -> None:
    (found,) = outcomes("langfuse", trace(samples.observation(1, usage={"input": 10, "output": 1, "total": 11}, totalCost="0.5")))
    assert isinstance(found, Record)
    assert dict(found.labels) == {
        "plan": "pro",
        "tag.prod": "true",
        "user": "jane",
        "conversation": "s-1",
        "flow": "agent",
        "environment": "default",
    }
    assert found.stated == 500_000_000_000 and found.id == "trace-1:obs-1"


def test_loose_observations_in_snake_case_are_read_too() -> None:
    row = {"id": "o1", "trace_id": "t1", "type": "GENERATION", "start_time": "2026-11-02 10:00:00.000000", "end_time": "2026-11-02 10:00:01.000000",
           "provided_model_name": "gpt-5-mini", "usage_details": '{"input":10,"output":2,"total":12}', "total_cost": "0.000006", "user_id": "jane",
           "session_id": "s", "parent_observation_id": None}  # fmt: skip
    found = one("langfuse", row)
    assert counts(found) == {"input": 10, "output": 2} and found.labels["conversation"] == "s" and found.stated == 6_000_000


def test_helicones_columns_are_disjoint_and_a_body_with_usage_is_better() -> None:
    row = {"request_id": "7d0c", "request_created_at": "2026-11-02T10:00:00Z", "response_status": 200, "provider": "ANTHROPIC",
           "response_model": "claude-haiku-4-5", "request_model": "claude-haiku-4-5", "prompt_tokens": 5, "completion_tokens": 50,
           "prompt_cache_read_tokens": 8000, "prompt_cache_write_tokens": 100, "costUSD": 0.00118, "delay_ms": 900, "request_user_id": "jane",
           "request_properties": {"Helicone-Session-Id": "s-1", "tenant": "acme"}}  # fmt: skip
    found = one("helicone", row)
    assert counts(found) == {"input": 5, "cache_read": 8000, "cache_write": 100, "output": 50}
    assert (found.provider, found.stated, found.latency_ms) == ("anthropic", 1_180_000_000, 900)
    assert dict(found.labels) == {"conversation": "s-1", "tenant": "acme", "user": "jane"}
    body = {
        "id": "msg_1",
        "usage": {"input_tokens": 6, "cache_read_input_tokens": 7000, "cache_creation_input_tokens": 0, "output_tokens": 40},
    }
    assert counts(one("helicone", row | {"response_body": body})) == {"input": 6, "cache_read": 7000, "output": 40}
    failed = one("helicone", row | {"response_status": 529, "prompt_tokens": 0, "completion_tokens": 0, "prompt_cache_read_tokens": 0,
                                    "prompt_cache_write_tokens": 0})  # fmt: skip
    assert (failed.status, failed.http_status, failed.tokens) == ("error", 529, None)


def run_of(id: str, kind: str, parent: str | None = None, **more: object) -> dict:
    return {"id": id, "trace_id": "t", "parent_run_id": parent, "run_type": kind, "name": kind, "start_time": "2026-11-02T10:00:00", "end_time":
            "2026-11-02T10:00:02", "tags": ["team:red"], "extra": {"metadata": {"thread_id": "th-1", "ls_provider": "openai", "ls_model_name": "gpt-5-mini"}},
            **more}  # fmt: skip


def test_langsmiths_chains_repeat_their_runs_and_only_model_runs_count() -> None:
    meta = {"input_tokens": 1000, "output_tokens": 200, "total_tokens": 1200, "input_token_details": {"cache_read": 400},
            "output_token_details": {"reasoning": 64}}  # fmt: skip
    found = outcomes(
        "langsmith", run_of("r", "chain", prompt_tokens=1000, completion_tokens=200, total_tokens=1200),
        run_of("c", "llm", "r", outputs={"usage_metadata": meta}, total_cost="0.001"), run_of("x", "tool", "r"),
    )  # fmt: skip
    (call,) = [f for f in found if isinstance(f, Record)]
    assert counts(call) == {"input": 600, "cache_read": 400, "output": 136, "reasoning": 64}
    assert (call.provider, call.model, call.stated) == ("openai", "gpt-5-mini", 1_000_000_000)
    assert dict(call.labels) == {"team": "red", "conversation": "th-1"}
    assert len(found) == 3


def test_a_run_on_an_example_of_a_data_set_is_an_eval() -> None:
    found = one("langsmith", run_of("c", "llm", prompt_tokens=10, completion_tokens=2, total_tokens=12, reference_example_id="e1"))
    assert found.labels["operation"] == "eval"


# -- Claude Code -----------------------------------------------------------------------------------------------------------


def test_a_call_on_several_lines_counts_once_with_its_last_count() -> None:
    found = outcomes("claude-code", *samples.transcript())
    calls = [f for f in found if isinstance(f, Record)]
    assert [counts(c) for c in calls] == [{"input": 4, "cache_read": 9000, "cache_write_1h": 500, "output": 200}] * 2
    assert len([f for f in found if isinstance(f, Repeat)]) == 4 and len(found) == 7
    assert dict(calls[0].labels) == {"conversation": "5f0c", "feature": "claude-code", "project": "shop", "branch": "main"}
    assert calls[0].id == "msg_5f0c_0/req_5f0c_0"


def test_a_sub_agents_calls_are_of_its_session_and_say_whose_they_are() -> None:
    lines = [
        line | {"isSidechain": True, "agentId": "a-9"} if line["type"] == "assistant" else line for line in samples.transcript(calls=1)
    ]
    (call,) = [f for f in outcomes("claude-code", *lines) if isinstance(f, Record)]
    assert (call.labels["conversation"], call.labels["flow"], call.labels["agent"]) == ("5f0c", "subagent", "a-9")


def test_an_answer_still_being_written_waits_for_the_next_import() -> None:
    cut = samples.transcript()[:-1]
    assert len([f for f in outcomes("claude-code", *cut, growing=True) if isinstance(f, Record)]) == 1
    assert len([f for f in outcomes("claude-code", *cut, growing=False) if isinstance(f, Record)]) == 2


def test_claude_codes_own_messages_are_no_calls() -> None:
    own = {"type": "assistant", "sessionId": "s", "timestamp": "2026-11-02T10:00:00Z", "isApiErrorMessage": True,
           "message": {"id": "x", "model": "<synthetic>", "usage": {"input_tokens": 0, "output_tokens": 0}}}  # fmt: skip
    (found,) = outcomes("claude-code", own)
    assert isinstance(found, Passed)


# -- reports ---------------------------------------------------------------------------------------------------------------


def page(*results: dict, start: int = 1793577600) -> dict:
    return {
        "object": "page",
        "data": [{"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": list(results)}],
        "has_more": False,
    }


def test_openais_usage_and_costs_are_buckets_of_two_sources() -> None:
    usage = {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500, "input_cached_tokens": 400,
             "num_model_requests": 5, "model": "gpt-5-mini-2025-08-07", "project_id": "p", "service_tier": "default", "batch": True}  # fmt: skip
    (bucket,) = outcomes("openai-usage", page(usage))
    assert isinstance(bucket, Record) and counts(bucket) == {"input": 600, "cache_read": 400, "output": 500}
    assert (bucket.attempt_kind, bucket.source, bucket.batch, bucket.labels["requests"]) == (
        "aggregate",
        "imported:openai-usage",
        True,
        "5",
    )
    cost = {
        "object": "organization.costs.result",
        "amount": {"value": 0.06, "currency": "usd"},
        "line_item": "gpt-5-mini, input",
        "project_id": "p",
    }
    (bucket,) = outcomes("openai-usage", page(cost))
    assert isinstance(bucket, Record)
    assert (bucket.stated, bucket.billed, bucket.source, bucket.tokens) == (60_000_000_000, True, "imported:openai-costs", None)


def test_buckets_alike_in_all_but_their_figures_both_count_and_copies_do_not() -> None:
    """Ids that were blacked out make two keys look like one; a page exported twice is a copy."""
    usage = {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500, "model": "gpt-5"}
    found = outcomes("openai-usage", page(usage, usage | {"input_tokens": 7}), page(usage))
    assert [type(f) for f in found] == [Record, Record, Repeat]
    ids = [f.id for f in found if isinstance(f, Record)]
    assert ids[1] == f"{ids[0]}/#2"


def test_anthropics_reports_count_cents_in_the_api_and_dollars_in_the_console() -> None:
    around = {"starting_at": "2026-11-02T00:00:00Z", "ending_at": "2026-11-03T00:00:00Z"}
    usage = {"uncached_input_tokens": 1500, "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
             "cache_read_input_tokens": 200, "output_tokens": 500, "server_tool_use": {"web_search_requests": 10}, "model": "claude-haiku-4-5",
             "service_tier": "standard", "context_window": "0-200k"}  # fmt: skip
    (bucket,) = outcomes("anthropic-usage", {"data": [{**around, "results": [usage]}], "has_more": False})
    assert isinstance(bucket, Record)
    assert counts(bucket) == {
        "input": 1500,
        "cache_read": 200,
        "cache_write": 500,
        "cache_write_1h": 1000,
        "output": 500,
        "other": (("web_search", 10),),
    }
    (cost,) = outcomes(
        "anthropic-usage",
        {**around, "results": [{"currency": "USD", "amount": "123.78912", "description": "Tokens", "model": "claude"}]},
    )
    assert isinstance(cost, Record) and cost.stated == 1_237_891_200_000
    (cost,) = outcomes(
        "anthropic-usage", {"usage_date_utc": "2026-11-02", "model": "Claude Haiku 4.5", "token_type": "output", "cost_usd": "0.13"}
    )
    assert isinstance(cost, Record) and (cost.stated, cost.model) == (130_000_000_000, "claude-haiku-4-5")
    (row,) = outcomes("anthropic-usage", {"usage_date_utc": "2026-11-02", "model_version": "claude-haiku-4-5", "usage_input_tokens_no_cache": "46981",
                                          "usage_input_tokens_cache_write_5m": "15969", "usage_input_tokens_cache_write_1h": "0",
                                          "usage_input_tokens_cache_read": "0", "usage_output_tokens": "16932", "web_search_count": "0"})  # fmt: skip
    assert isinstance(row, Record) and counts(row) == {"input": 46981, "cache_write": 15969, "output": 16932}


# -- our own ---------------------------------------------------------------------------------------------------------------


def test_a_row_by_hand_needs_a_time_a_model_and_tokens_or_a_cost() -> None:
    found = one(
        "jsonl",
        {
            "ts": "2026-11-02T10:00:00Z",
            "model": "gpt-5-mini",
            "input": 1200,
            "output": 80,
            "tenant": "acme",
            "labels": {"team": "red"},
        },
    )
    assert counts(found) == {"input": 1200, "output": 80} and dict(found.labels) == {"tenant": "acme", "team": "red"}
    assert one("jsonl", {"ts": 1793613600, "cost": "0.25"}).stated == 250_000_000_000
    (bad,) = outcomes("jsonl", {"model": "gpt-5"})
    assert isinstance(bad, Bad) and "no ts" in bad.reason


@pytest.mark.parametrize(
    "form", ["otlp", "litellm", "langfuse", "helicone", "langsmith", "openai-usage", "anthropic-usage", "claude-code", "jsonl"]
)
@pytest.mark.parametrize("raw", [b"", b"null", b"7", b'"x"', b"[]", b"{}", b"{", b'{"a":' * 2000, b"\xff\xfe", b'{"id": {"S": 1}}'])
def test_what_is_no_record_is_refused_and_never_an_exception(form: str, raw: bytes) -> None:
    assert all(isinstance(found, Bad | Passed) for found in outcomes(form, raw))
