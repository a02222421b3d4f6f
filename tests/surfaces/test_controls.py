"""The controls through a real gateway: replies that answer again, tiers, shorter histories, each with its row and its header."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from control_rig import acme, post, provider, rows, served

from bursar.surfaces import settings
from bursar.testing.provider import Provider as Scripted
from bursar.testing.script import Say, Seen

__all__ = ["provider"]

ASKS = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
EXACT = "[cache]\nexact = true\n"


def test_the_same_question_is_answered_again_for_nothing(tmp_path: Path, provider: Scripted) -> None:
    """A row that cost nothing, says what was saved and by what; the provider is asked once."""
    with served(tmp_path, provider, EXACT) as handle:
        first, body = post(handle, ASKS, **acme())
        again, same = post(handle, {**ASKS, "user": "somebody else"}, **acme())
    assert first.headers["x-bursar-cache"] == "miss" and again.headers["x-bursar-cache"] == "hit"
    assert len(provider.seen) == 1
    said, repeated = json.loads(body), json.loads(same)
    assert said["choices"] == repeated["choices"] and said["id"] != repeated["id"]
    paid, saved = rows(tmp_path)
    assert saved["cost"] == 0 and saved["saved"] == paid["cost"] > 0 and saved["saved_by"] == "cache"
    assert (saved["status"], saved["ended"], saved["model_served"]) == ("ok", "complete", paid["model_served"])
    assert again.headers["x-bursar-cost"] == "0"


def test_no_tenant_gets_anothers_reply(tmp_path: Path, provider: Scripted) -> None:
    """And a call of which nobody says whose it is neither gets one nor leaves one."""
    with served(tmp_path, provider, EXACT) as handle:
        for headers in ({}, {}, acme(), {"x_bursar_tenant": "rival"}):
            answer, _ = post(handle, ASKS, **headers)
            assert answer.headers["x-bursar-cache"] == ("miss" if headers else "off")
    assert len(provider.seen) == 4


def test_without_cache_in_the_policy_every_call_is_made(tmp_path: Path, provider: Scripted) -> None:
    """Off is the default."""
    with served(tmp_path, provider, "") as handle:
        for _ in range(2):
            answer, _ = post(handle, ASKS, **acme())
            assert answer.headers["x-bursar-cache"] == "off"
    assert len(provider.seen) == 2


def test_what_wants_variety_or_calls_tools_or_failed_is_not_kept(tmp_path: Path, provider: Scripted) -> None:
    """Temperature above the policy's; a reply that calls a tool; an error."""
    tools = json.dumps({"tools": [["look", "{}"]]})
    with served(tmp_path, provider, EXACT) as handle:
        for body, script in (
            ({**ASKS, "temperature": 1}, "{}"),
            ({**ASKS, "seed": None, "top_p": 0.1}, tools),
            ({**ASKS, "top_p": 0.2}, '{"status": 500}'),
        ):
            for _ in range(2):
                answer, _ = post(handle, body, **acme(x_script=script))
                assert answer.headers["x-bursar-cache"] != "hit"
        warm, _ = post(handle, {**ASKS, "temperature": 1, "seed": 7}, **acme())
        assert warm.headers["x-bursar-cache"] == "miss"
    assert len(provider.seen) == 7


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", ASKS),
        ("/v1/responses", {"model": "gpt-5-mini", "input": "hello", "temperature": 0}),
        (
            "/v1/messages",
            {"model": "claude-haiku-4-5", "max_tokens": 50, "temperature": 0, "messages": [{"role": "user", "content": "hi"}]},
        ),
    ],
)
def test_a_stream_answers_a_whole_request_and_the_other_way_round(tmp_path: Path, provider: Scripted, path: str, body: Any) -> None:
    """What was streamed is put together and kept; a hit comes in the form that is asked for."""
    with served(tmp_path, provider, EXACT) as handle:
        streamed, _ = post(handle, {**body, "stream": True}, path, **acme())
        whole, text = post(handle, body, path, **acme())
        replayed, events = post(handle, {**body, "stream": True}, path, **acme())
    assert [a.headers["x-bursar-cache"] for a in (streamed, whole, replayed)] == ["miss", "hit", "hit"]
    assert b"Done." in text and json.loads(text) and events.startswith((b"data:", b"event:"))
    assert replayed.headers["content-type"].startswith("text/event-stream") and len(provider.seen) == 1
    paid, *saved = rows(tmp_path)
    assert [row["saved"] for row in saved] == [paid["cost"]] * 2


def test_a_thousand_identical_calls_at_once_make_one_provider_call(tmp_path: Path, provider: Scripted) -> None:
    """All get the answer, one pays; each has its row."""
    provider.script = lambda seen: Say(text="Paris", wait_s=1.5)

    async def one(port: int, gate: asyncio.Semaphore) -> bytes:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(ASKS).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-bursar-tenant: acme\r\n"
                     b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
        answer = await reader.read()
        writer.close()
        return answer

    async def crowd(port: int) -> list[bytes]:
        gate = asyncio.Semaphore(100)
        return await asyncio.gather(*[one(port, gate) for _ in range(1_000)])

    with served(tmp_path, provider, EXACT) as handle:
        answers = asyncio.run(crowd(handle.port))
    assert len(provider.seen) == 1 and all(b"Paris" in answer for answer in answers)
    assert sum(b"x-bursar-cache: hit" in answer for answer in answers) == 999
    made = rows(tmp_path)
    assert len(made) == 1_000 and sum(row["cost"] for row in made) == sum(line.dollars for line in provider.invoice.lines)
    assert sum(row["saved"] or 0 for row in made) == 999 * provider.invoice.lines[0].dollars


def test_when_the_first_of_several_fails_the_next_makes_the_call(tmp_path: Path, provider: Scripted) -> None:
    """A failure is given to who made the call; the others go on waiting for the next in line."""
    provider.script = lambda seen: Say(status=500, wait_s=0.5) if seen.number == 1 else Say(wait_s=0.5)

    async def one(handle: Any, after: float) -> str:
        await asyncio.sleep(after)
        answer, _ = await asyncio.to_thread(post, handle, ASKS, **acme())
        return f"{answer.status} {answer.headers['x-bursar-cache']}"

    async def three(handle: Any) -> list[str]:
        return await asyncio.gather(one(handle, 0), one(handle, 0.1), one(handle, 0.2))

    with served(tmp_path, provider, EXACT) as handle:
        assert asyncio.run(three(handle)) == ["500 miss", "200 miss", "200 hit"]
    assert len(provider.seen) == 2


def test_a_reply_outlives_the_gateway(tmp_path: Path, provider: Scripted) -> None:
    """It lies in a file behind memory, for other workers and after a restart."""
    with served(tmp_path, provider, EXACT) as handle:
        post(handle, ASKS, **acme())
    with served(tmp_path, provider, EXACT) as handle:
        answer, _ = post(handle, ASKS, **acme())
    assert answer.headers["x-bursar-cache"] == "hit" and len(provider.seen) == 1


def test_a_nightly_embedding_pays_for_what_changed(tmp_path: Path, provider: Scripted) -> None:
    """2,000 documents in batches of 100, three in a hundred changed: vectors in order, at most 3.5% of the first night's cost."""
    texts = [f"document {n}: " + f"word{n} " * (20 + n % 17) for n in range(2_000)]

    def night(handle: Any) -> list[Any]:
        found: list[Any] = []
        for at in range(0, len(texts), 100):
            _, data = post(handle, {"model": "text-embedding-3-small", "input": texts[at : at + 100]}, "/v1/embeddings", **acme())
            answer = json.loads(data)
            assert [row["index"] for row in answer["data"]] == list(range(100))
            found += [row["embedding"] for row in answer["data"]]
        return found

    with served(tmp_path, provider, "[cache]\nembeddings = true\n") as handle:
        before = night(handle)
        first = sum(line.dollars for line in provider.invoice.lines)
        for n in range(7, 2_000, 34):
            texts[n] = f"changed {texts[n]}"
        after = night(handle)
    second = sum(line.dollars for line in provider.invoice.lines) - first
    assert second <= first * 35 / 1000
    changed = {n for n in range(2_000) if before[n] != after[n]}
    assert changed == set(range(7, 2_000, 34))
    made = rows(tmp_path)
    assert sum(row["cost"] for row in made) == first + second
    assert all(row["saved_by"] == "embeddings" for row in made[20:])
    saved = sum(row["saved"] for row in made[20:])
    assert abs(saved + second - first) <= first / 50, "what was saved and what was paid is what it would have cost"


TIERS = """
[tiers]
cheap = ["gpt-5-nano", "claude-haiku-4-5"]
standard = ["gpt-5-mini", "claude-sonnet-4-5"]
premium = ["gpt-5", "claude-opus-4-5"]
"""


def test_a_tiers_name_is_answered_by_its_model(tmp_path: Path, provider: Scripted) -> None:
    """In the dialect of the call. A client that asks for a tier got what it asked for, and that saves nothing."""
    with served(tmp_path, provider, TIERS) as handle:
        answer, _ = post(handle, {**ASKS, "model": "bursar/cheap"}, **acme())
        post(handle, {"model": "premium", "max_tokens": 20, "messages": ASKS["messages"]}, "/v1/messages", **acme())
    assert answer.headers["x-bursar-tier"] == "cheap" and answer.headers["x-bursar-model"] == "gpt-5-nano"
    assert [seen.model for seen in provider.seen] == ["gpt-5-nano", "claude-opus-4-5"]
    one, other = rows(tmp_path)
    assert (one["model_requested"], one["model_served"], one["tier"], one["route_reason"]) == (
        "bursar/cheap",
        "gpt-5-nano",
        "cheap",
        "asked",
    )
    assert one["saved"] is None and other["tier"] == "premium"


def test_a_rule_that_is_on_saves_what_the_dearer_model_would_have_taken(tmp_path: Path, provider: Scripted) -> None:
    """The same tokens at the price of the model that was asked for, less what was paid."""
    script = json.dumps({"usage": {"input": 1_000_000, "output": 100_000}})
    rule = '[[route]]\nwhen = {feature = "triage"}\ntier = "cheap"\nmode = "on"\n'
    with served(tmp_path, provider, TIERS + rule) as handle:
        answer, _ = post(handle, {**ASKS, "model": "gpt-5"}, **acme(x_bursar_feature="triage", x_script=script))
        post(handle, {**ASKS, "model": "gpt-5"}, **acme(x_bursar_feature="other", x_script=script))
    cheap, dear = rows(tmp_path)
    assert (cheap["model_served"], cheap["tier"], cheap["route_reason"]) == ("gpt-5-nano", "cheap", "rule:feature=triage")
    assert cheap["saved"] == dear["cost"] - cheap["cost"] and cheap["saved_by"] == "tiers"
    assert (dear["model_served"], dear["tier"], dear["saved"]) == ("gpt-5", "", None)
    assert answer.headers["x-bursar-tier"] == "cheap"


def test_a_rule_in_shadow_changes_nothing_and_says_what_it_would_have_saved(tmp_path: Path, provider: Scripted) -> None:
    """The model asked for answers; the row has the figure."""
    script = json.dumps({"usage": {"input": 1_000_000, "output": 0}})
    with served(tmp_path, provider, TIERS + '[[route]]\ntier = "cheap"\n') as handle:
        post(handle, {**ASKS, "model": "gpt-5"}, **acme(x_script=script))
    (row,) = rows(tmp_path)
    assert provider.seen[0].model == "gpt-5" and (row["tier"], row["route_reason"], row["saved"]) == ("", "shadow:cheap", None)
    assert json.loads(row["evidence"])["would"]["tiers"][0] == 1_200_000_000_000, "1.25 dollars less 0.05"


def agent(turns: int, text: str = "row ") -> Any:
    """An agent's history: one task, a call and a long result each turn."""
    messages: list[Any] = [{"role": "user", "content": "Find the order that is late."}]
    for turn in range(turns):
        messages.append({"role": "assistant", "content": None, "tool_calls": [
            {"id": f"call_{turn}", "type": "function", "function": {"name": "read", "arguments": json.dumps({"page": turn})}}]})  # fmt: skip
        messages.append(
            {"role": "tool", "tool_call_id": f"call_{turn}", "content": f"page {turn} order #W{turn:07d}: " + text * 2_000}
        )
    return {"model": "gpt-5", "messages": messages}


def test_compaction_puts_lines_for_old_results_where_nothing_is_cached(tmp_path: Path, provider: Scripted) -> None:
    """The names stay, the row says what was not sent, and what was elided once stays so."""
    with served(tmp_path, provider, '[compact]\nmode = "on"\nkeep_calls = 2\n') as handle:
        for turns in (3, 4, 5):
            post(
                handle,
                agent(turns),
                **acme(x_bursar_conversation="c1", x_bursar_flow="audit", x_script='{"usage": {"input": 900, "output": 9}}'),
            )
    sent = [json.loads(seen.raw)["messages"] for seen in provider.seen]
    results = [[m["content"] for m in messages if m["role"] == "tool"] for messages in sent]
    assert ["elided" in text for text in results[2]] == [True, True, True, False, False]
    assert "#W0000000" in results[0][0] and len(results[0][0]) < 300
    assert results[0][0] == results[1][0] == results[2][0]
    made = rows(tmp_path)
    assert all(row["saved"] > 0 and row["saved_by"] == "compaction" for row in made)


def test_compaction_in_shadow_sends_everything(tmp_path: Path, provider: Scripted) -> None:
    """And says what it would have saved."""
    with served(tmp_path, provider, '[compact]\nkeep_calls = 2\n[compact.flow]\naudit = "shadow"\n') as handle:
        for flow in ("audit", "other"):
            post(handle, agent(4), **acme(x_bursar_conversation=flow, x_bursar_flow=flow))
    assert all("elided" not in seen.raw.decode() for seen in provider.seen)
    shadow, off = rows(tmp_path)
    assert json.loads(shadow["evidence"])["would"]["compaction"][0] > 0 and shadow["saved"] is None
    assert "would" not in json.loads(off["evidence"])


def test_a_summary_is_a_call_of_its_own(tmp_path: Path, provider: Scripted) -> None:
    """Asked for after the client has its answer, held and booked as control, and put into the next call."""

    def script(seen: Seen) -> Say:
        return Say(text="Order #W0000000 is late." if seen.model == "gpt-5-nano" else "Going on.")

    provider.script = script
    policy = '[compact]\nmode = "on"\nkeep_calls = 100\nkeep_turns = 100\nsummarise_every = 2\nmodel = "gpt-5-nano"\n'
    with served(tmp_path, provider, policy) as handle:
        for turns in range(3, 30):
            post(handle, agent(turns), **acme(x_bursar_conversation="c1", x_bursar_flow="audit"))
            time.sleep(0.05)
            if any(b"Summary of earlier turns" in seen.raw for seen in provider.seen):
                break
    with_it = next(seen.raw.decode() for seen in provider.seen if b"Summary of earlier turns" in seen.raw)
    assert "#W0000000 is late" in with_it
    control = [row for row in rows(tmp_path) if row["operation"] == "control"]
    assert len(control) >= 1 and control[0]["saved_by"] == "compaction" and control[0]["cost"] > 0 and control[0]["hold"] > 0
    assert (control[0]["tenant"], control[0]["conversation"]) == ("acme", "c1")
    assert sum(row["cost"] for row in rows(tmp_path)) == sum(line.dollars for line in provider.invoice.lines)


FALLBACK = '[[fallback]]\nfrom = "gpt-5-mini"\nto = "gpt-5"\non = ["5xx", "malformed"]\nceiling = "$0.005"\n'


def test_a_fallback_ends_at_its_ceiling_and_the_client_gets_the_failure(tmp_path: Path, provider: Scripted) -> None:
    """The first falls back; the second would pass the day's ceiling: its row says so, and the client has the 500 as it came. The
    first choice is asked first each time, so that it is in use again with its first good answer."""
    broken = {"models": {"gpt-5-mini": {"status": 500, "message": "down"}, "gpt-5": {"usage": {"input": 1000, "output": 30}}}}
    body = {**ASKS, "max_tokens": 30}
    with served(tmp_path, provider, FALLBACK) as handle:
        first, _ = post(handle, body, **acme(x_script=json.dumps(broken)))
        second, failure = post(handle, body, **acme(x_script=json.dumps(broken)))
        third, _ = post(handle, body, **acme())
    assert (first.status, second.status, third.status) == (200, 500, 200) and b"down" in failure
    assert [seen.model for seen in provider.seen] == ["gpt-5-mini", "gpt-5", "gpt-5-mini", "gpt-5-mini"]
    made = [(row["attempt_kind"], row["status"], row["error"], row["cause"]) for row in rows(tmp_path)]
    assert made[1] == ("fallback", "ok", "", "5xx:gpt-5-mini") and made[3] == (
        "fallback",
        "refused",
        "fallback_ceiling",
        "5xx:gpt-5-mini",
    )


def test_a_ceiling_is_an_amount_of_dollars() -> None:
    """And says so."""
    with pytest.raises(settings.BadPolicy, match="dollars a day"):
        settings.parse('[[fallback]]\nfrom = "a"\nto = "b"\nceiling = "5 calls"\n')


def test_a_malformed_answer_after_a_cheaper_try_is_own_cost(tmp_path: Path, provider: Scripted) -> None:
    """Nothing was saved and the try was for nothing: it counts against the tier."""
    script = {"models": {"gpt-5-nano": {"text": "no JSON", "usage": {"input": 1000, "output": 10}}}, "text": "{}"}
    rule = '[[route]]\ntier = "cheap"\nmode = "on"\n[[fallback]]\nfrom = "gpt-5-nano"\nto = "gpt-5"\non = ["malformed"]\n'
    body = {**ASKS, "model": "gpt-5", "response_format": {"type": "json_object"}}
    with served(tmp_path, provider, TIERS + rule) as handle:
        answer, _ = post(handle, body, **acme(x_script=json.dumps(script)))
    wasted, good = rows(tmp_path)
    assert answer.status == 200 and (wasted["error"], wasted["model_served"]) == ("malformed_output", "gpt-5-nano")
    assert wasted["saved"] == -wasted["cost"] < 0 and wasted["saved_by"] == "tiers"
    assert (good["attempt_kind"], good["model_served"], good["saved"]) == ("fallback", "gpt-5", None)


def test_a_trained_router_chooses_where_it_is_at_home_and_stands_back_elsewhere(tmp_path: Path, provider: Scripted) -> None:
    """`bursar/auto`: standard until it has seen fifty requests like those that it was trained on, then cheap or premium."""
    from bursar.rules import router

    easy, hard = "What time is it in {}?", "Prove for {} that the sum of the series converges and explain why"
    examples = [router.Example((hard if n % 2 else easy).format(f"place {n % 60}"), 1.0 - n % 2, 1.0, 1, 100) for n in range(600)]
    made = router.fit("quiz", "gpt-5-nano", "gpt-5", examples)
    assert isinstance(made, router.Router), made
    (tmp_path / "ledger" / "routers").mkdir(parents=True)
    (tmp_path / "ledger" / "routers" / "quiz.router").write_bytes(router.dump(made))

    def ask(text: str, feature: str) -> tuple[str, str]:
        body = {"model": "bursar/auto", "messages": [{"role": "user", "content": text}]}
        answer, _ = post(handle, body, **acme(x_bursar_feature=feature))
        return answer.headers["x-bursar-tier"], answer.headers["x-bursar-model"]

    with served(tmp_path, provider, TIERS) as handle:
        for n in range(60):
            first = ask((hard if n % 2 else easy).format(f"place {n}"), "quiz")
            if n < 10:
                assert first == ("standard", "gpt-5-mini")
        assert ask(easy.format("place 7"), "quiz") == ("cheap", "gpt-5-nano")
        assert ask(hard.format("place 7"), "quiz") == ("premium", "gpt-5")
        assert ask(easy.format("place 7"), "other") == ("standard", "gpt-5-mini")
    made_rows = rows(tmp_path)
    assert made_rows[-3]["route_reason"].startswith("router:") and made_rows[-3]["saved"] > 0
    assert made_rows[-2]["saved"] is None, "premium is what it is compared with"
    assert made_rows[-1]["route_reason"] == "default"


def test_a_conversation_stays_where_its_prompt_is_warm(tmp_path: Path, provider: Scripted) -> None:
    """A rule that is switched on in the middle of one does not move it while nobody knows how long it goes on."""
    usage = json.dumps({"usage": {"input": 100, "cache_write": 50_000, "output": 10}})
    said = [{"role": "user", "content": "one"}]
    rule = '[[route]]\nwhen = {"step" = "late"}\ntier = "cheap"\nmode = "on"\n'
    with served(tmp_path, provider, TIERS + rule + '[compact]\nmode = "shadow"\n') as handle:
        for step in ("early", "late"):
            body = {"model": "claude-opus-4-5", "max_tokens": 10, "messages": said, "system": "x" * 5_000}
            post(
                handle,
                body,
                "/v1/messages",
                **acme(x_bursar_conversation="c1", x_script=usage, x_bursar_labels=json.dumps({"step": step})),
            )
        post(handle, body, "/v1/messages", **acme(x_bursar_conversation="c2", x_script=usage, x_bursar_labels='{"step": "late"}'))
    assert [seen.model for seen in provider.seen] == ["claude-opus-4-5", "claude-opus-4-5", "claude-haiku-4-5"]
    assert [row["route_reason"] for row in rows(tmp_path)] == ["", "stays; rule:step=late", "rule:step=late"]


def test_a_ladders_rung_shortens_what_the_policy_leaves_alone(tmp_path: Path, provider: Scripted) -> None:
    """`compact` on the way to a budget's limit: aggressive, and at once where nothing is cached."""
    budget = '[[budget]]\nname = "b"\nscope = "tenant"\nlimit = "$1"\n[budget.ladder]\ncompact = "1%"\n'
    usage = json.dumps({"usage": {"input": 100_000, "output": 10}})
    with served(tmp_path, provider, budget) as handle:
        for turns in (4, 5):
            post(handle, {**agent(turns), "max_tokens": 50}, **acme(x_bursar_conversation="c1", x_script=usage))
    first, second = (seen.raw.decode() for seen in provider.seen)
    assert "elided" not in first and second.count("elided") == 3
    assert rows(tmp_path)[1]["saved_by"] == "compaction"
