"""The way of a call as transcripts: the order of the stages, and one row per try whatever happens."""

from __future__ import annotations

import json
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from bursar import wire
from bursar.admission import heard
from bursar.desk import Caller, Desk, ProviderRule
from bursar.domain.call import Fault, Incoming
from bursar.domain.entry import Entry, Settlement, Short
from bursar.domain.history import NO_PAIRS
from bursar.domain.policy import Budget, Fallback
from bursar.domain.price import Price, Rate
from bursar.domain.shape import replace
from bursar.domain.thread import Placed
from bursar.rules.budget import Budgets, compile_budgets
from bursar.rules.record import Story
from bursar.testing import Served, World, play, respond, stream

MTOK = 10**9  # femto-dollars per token at one dollar per million


class Book:
    """Two models, $1/$2 and $15/$30 per million tokens."""

    def find(self, provider, model, ts_us, service_tier="", batch=False):
        rates = {"small": (1, 2), "large": (15, 30), "claude-small": (1, 5), "claude-large": (15, 75)}.get(model)
        if rates is None:
            return None
        a, b = rates
        return Price(f"test/{model}", provider, model, {
            "input": Rate(a * MTOK), "cache_read": Rate(a * MTOK // 10), "cache_write": Rate(a * MTOK * 5 // 4),
            "cache_write_1h": Rate(a * MTOK * 2), "output": Rate(b * MTOK)}, output_max=1000)  # fmt: skip

    def dearest(self, provider, model=""):
        return replace(self.find(provider, "large", 0), estimated=True)


def desk(budgets=(), fallbacks=(), retries=0, **more) -> Desk:
    families = {"openai": "openai", "anthropic": "anthropic"}
    return Desk(
        providers={n: ProviderRule(n, f, n, retries) for n, f in families.items()}, defaults=families | {"openai": "openai"},
        budgets=Budgets(compile_budgets(budgets, ZoneInfo)), fallbacks=tuple(fallbacks), labels={},
        prices=Book(), resolve=wire.resolver(families), output_cap=500, output_assumed=500, gather_max=1 << 20, policy_hash="p", node="n", **more,
    )  # fmt: skip


def call(model="small", path="/v1/chat/completions", headers=(), **body) -> Incoming:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **body}
    return Incoming("c1", 1_790_000_000_000_000, "POST", path, "", [(b"content-type", b"application/json"), *headers],
                    json.dumps(body).encode())  # fmt: skip


def completion(model="small", prompt=10, output=5, **more) -> bytes:
    return json.dumps({
        "id": "r1", "object": "chat.completion", "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}, **more}).encode()  # fmt: skip


CHUNK = b'data: {"id":"r1","object":"chat.completion.chunk","model":"small","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
USAGE = (b'data: {"id":"r1","object":"chat.completion.chunk","model":"small","choices":[],"usage":{"prompt_tokens":10,'
         b'"completion_tokens":5,"total_tokens":15}}\n\n')  # fmt: skip
DONE = b"data: [DONE]\n\n"


def test_a_call_is_held_sent_booked_and_only_then_answered():
    """The row is written before the client has the answer."""
    body = completion()
    played = play(call(), desk(), World(lambda send: respond(body)))
    assert played.steps == ["hold small held", "send openai 200", "gather", "book primary ok complete", "reply 200"]
    assert played.answer is not None and played.answer.body == body
    (entry,) = played.entries
    assert (entry.input, entry.output, entry.cost) == (10, 5, 10 * 10**6 + 5 * 2 * 10**6)
    assert entry.usage_source == "provider" and entry.price_status == "priced"
    assert played.sent[0].body == call().body, "no edit, same bytes out"
    assert dict(played.answer.headers)[b"x-bursar-cost"] == b"0.00002"


def test_the_hold_is_the_worst_the_call_can_cost():
    """Input bound plus the whole output cap, at the price of the model that will be billed."""
    played = play(call(max_tokens=100), desk(), World(lambda send: respond(completion())))
    assert played.holds[0].amount >= 100 * 2 * 10**6 + 10 * 10**6
    assert played.entries[0].hold == played.holds[0].amount


def test_a_stream_is_relayed_as_it_comes_and_its_end_waits_for_the_row():
    """Usage is asked for on the client's behalf, and the extra event kept from a client that did not ask."""
    played = play(call(stream=True), desk(), World(lambda send: stream([CHUNK, CHUNK + USAGE, DONE])))
    assert played.steps == ["hold small held", "send openai 200", "relay", "book primary ok complete", "finish"]
    assert played.relayed == CHUNK + CHUNK + DONE
    assert json.loads(played.sent[0].body)["stream_options"] == {"include_usage": True}
    assert (played.entries[0].input, played.entries[0].output) == (10, 5)


def test_a_client_that_asked_for_usage_gets_it_and_its_bytes_go_out_unchanged():
    """The edit is ours only when the client did not ask itself."""
    asked = call(stream=True, stream_options={"include_usage": True})
    played = play(asked, desk(), World(lambda send: stream([CHUNK, USAGE, DONE])))
    assert played.relayed == CHUNK + USAGE + DONE
    assert played.sent[0].body == asked.body


def test_an_abandoned_stream_is_priced_from_what_passed_and_never_zero():
    """Closing the connection before the usage event is no way to a free answer."""
    world = World(lambda send: stream([CHUNK] * 50 + [USAGE, DONE]), client_leaves_after=40)
    (entry,) = play(call(stream=True), desk(), world).entries
    assert entry.ended == "abandoned" and entry.usage_source == "estimated" and entry.price_status == "estimated"
    assert entry.output and entry.input and entry.cost and entry.cost > 0


def test_a_stream_without_its_terminal_event_is_incomplete():
    """A 200 that broke off is not a success."""
    (entry,) = play(call(stream=True), desk(), World(lambda send: stream([CHUNK, CHUNK]))).entries
    assert entry.ended == "incomplete" and entry.usage_source == "estimated" and entry.cost


def test_a_good_answer_without_usage_is_estimated():
    """Absent is not zero."""
    body = json.dumps(
        {"model": "small", "choices": [{"message": {"role": "assistant", "content": "four words of text"}}]}
    ).encode()
    (entry,) = play(call(), desk(), World(lambda send: respond(body))).entries
    assert entry.usage_source == "estimated" and entry.input and entry.output and entry.cost


def test_an_explicit_zero_from_the_provider_stands():
    """Zero said is a fact."""
    (entry,) = play(call(), desk(), World(lambda send: respond(completion(prompt=0, output=0)))).entries
    assert (entry.input, entry.output, entry.cost, entry.usage_source) == (0, 0, 0, "provider")


def test_own_retries_are_tries_with_a_hold_and_a_row_each():
    """Two rows, or nobody could see what retries cost."""
    answers = iter([respond(b'{"error":{"message":"down"}}', 500), respond(completion())])
    played = play(call(), desk(retries=1), World(lambda send: next(answers)))
    assert played.steps == [
        "hold small held", "send openai 500", "gather", "book primary error failed", "wait 0.5",
        "hold small held", "send openai 200", "gather", "book retry ok complete", "reply 200",
    ]  # fmt: skip
    assert [e.id for e in played.entries] == ["c1.1", "c1.2"]
    assert played.entries[0].cost == 0, "no provider bills a 500"
    assert played.entries[1].cause == "5xx"


def test_a_fallback_is_booked_apart_from_the_try_it_replaced():
    """Otherwise a fallback rate above 5% cannot be seen."""
    answers = iter([respond(b"oops", 503), respond(completion("large"))])
    lines = [Fallback(from_="small", to="large", on=["5xx"])]
    played = play(call(), desk(fallbacks=lines), World(lambda send: next(answers)))
    assert [s for s in played.steps if s.startswith(("hold", "book"))] == [
        "hold small held", "book primary error failed", "hold large held", "book fallback ok complete",
    ]  # fmt: skip
    assert json.loads(played.sent[1].body)["model"] == "large"
    assert played.entries[1].cost == 10 * 15 * 10**6 + 5 * 30 * 10**6
    assert played.entries[1].purpose == "primary" and played.entries[1].cause == "5xx:small"


def test_a_fallback_is_judged_on_the_model_that_will_be_billed():
    """A budget with room for the small model has none for the large one: refused at the hop, before a provider sees it."""
    budget = Budget(scope="all", limit="$0.01", window="forever")

    def says(hold):
        (charge,) = hold.charges
        return Short(charge, 0, 0) if charge.amount > charge.limit else None

    world = World(lambda send: respond(b"oops", 503), hold_says=says)
    played = play(call(max_tokens=500), desk([budget], [Fallback(from_="small", to="large", on=["5xx"])]), world)
    assert played.steps[-3:] == ["hold large short", "book fallback refused refused", "reply 402"]
    assert len(played.sent) == 1


def test_an_sdks_hidden_retry_is_counted_from_its_header():
    """Nobody labelled anything: both SDKs number their retries on the wire."""
    headers = [(b"x-stainless-retry-count", b"2")]
    (entry,) = play(call(headers=headers), desk(), World(lambda send: respond(completion()))).entries
    assert (entry.operation, entry.attempt_kind, entry.cause, entry.purpose) == (
        "retry",
        "retry",
        "sdk_retry",
        "primary",
    )


HUMAN = {"role": "user", "content": "where is it?"}
USE = {"type": "tool_use", "id": "t1", "name": "lookup_order", "input": {}}
FAILED = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "timed out", "is_error": True}]}
SORRY = {"type": "text", "text": "sorry"}


def claude(*content, model="claude-small"):
    """A whole answer of Anthropic's."""
    return respond(json.dumps({"type": "message", "role": "assistant", "model": model, "content": list(content), "stop_reason": "end_turn",
                               "usage": {"input_tokens": 10, "output_tokens": 5}}).encode())  # fmt: skip


def asking(messages, number=1, ts_us=1, model="claude-small", **more):
    asked = call(model, "/v1/messages", max_tokens=50, **more)
    body = json.loads(asked.body) | {"messages": messages}
    return replace(asked, body=json.dumps(body).encode(), call_id=f"c{number}", ts_us=ts_us * 1_000_000)


def test_a_call_made_because_a_tool_failed_is_charged_to_that_tool():
    """The newest result is a failure and the same tool is called again; another answer is a switch, which is no retry. An older
    failure in the history is no reason for this call."""

    def booked(messages, *content):
        (entry,) = play(asking(messages), desk(), World(lambda send: claude(*content))).entries
        return entry.operation, entry.cause, entry.purpose

    asked = [HUMAN, {"role": "assistant", "content": [USE]}, FAILED]
    assert booked(asked, USE) == ("retry", "tool:lookup_order", "primary")
    assert booked(asked, SORRY) == ("primary", "switch:lookup_order", "primary")
    assert booked([*asked, {"role": "assistant", "content": [SORRY]}, HUMAN], SORRY) == ("primary", "", "primary")


def test_a_conversations_tokens_are_all_that_its_calls_read_and_wrote():
    """From the cache and into it, for an hour too, and the reasoning: by these a conversation that grows too dear is known."""
    columns = {"input": 1, "cache_read": 20, "cache_write": 300, "cache_write_1h": 4_000, "output": 50_000, "reasoning": 600_000}
    story = Story(Placed("c1", "new", 1, 0, 0, False, "", NO_PAIRS, 0, None, None, (), (), 0, None, None, "c1", 0, 0, 0, False), None)  # type: ignore[arg-type]
    entry = Entry(**{**dict.fromkeys(Entry._fields, ""), **columns, "cost": 5_000, "ts": 1})  # type: ignore[arg-type]
    told = heard(story, Settlement("c1.1", entry, (), ()), None)
    assert told is not None and (told.tokens, told.cost) == (654_321, 5)
    assert heard(story, Settlement("c1.1", entry._replace(cache_write=None, reasoning=None), (), ()), None).tokens == 54_021  # type: ignore[union-attr]


def test_a_conversation_nobody_named_is_followed_through_the_pipeline():
    """Its id in row and header, turn and depth, what the input was spent on, and how it is known."""
    world = World(lambda send: claude(USE))
    first = play(asking([HUMAN], 1, 1), desk(), world)
    world.provider = lambda send: claude(SORRY)
    good = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "shipped"}]}
    second = play(asking([HUMAN, {"role": "assistant", "content": [USE]}, good], 2, 9), desk(), world)
    rows = [s.entry for s in world.settled]
    assert [(r.conversation, r.turn, r.tool_depth) for r in rows] == [("c1", 1, 0), ("c1", 1, 1)]
    assert first.answer is not None and dict(first.answer.headers)[b"x-bursar-conversation"] == b"c1"
    assert json.loads(rows[0].label_sources)["conversation"] == "inferred"
    evidence = [json.loads(r.evidence) for r in rows]
    assert [e["by"] for e in evidence] == ["new", "chain"] and sum(evidence[1]["tokens"]) == 10
    for row in rows:
        assert (row.cost_new or 0) + (row.cost_history or 0) + (row.cost_tools or 0) + (row.cost_system or 0) == row.cost_input
    assert rows[1].cost_tools and rows[1].cost_history and second.answer is not None


def test_a_clients_own_retries_and_fallbacks_are_told_apart():
    """The same messages after a 500: by the same model a re-ask, by another a fallback, with how much dearer that one is."""
    world = World(lambda send: respond(b'{"error":{"message":"down"}}', 500))
    play(asking([HUMAN], 1, 1), desk(), world)
    world.provider = lambda send: claude(SORRY, model="large")
    play(asking([HUMAN], 2, 3), desk(), world)
    world.provider = lambda send: respond(b'{"error":{"message":"down"}}', 500)
    play(asking([{"role": "user", "content": "other"}], 3, 4), desk(), world)
    world.provider = lambda send: claude(SORRY, model="claude-large")
    play(asking([{"role": "user", "content": "other"}], 4, 6, model="claude-large"), desk(), world)
    again, fallback = world.settled[1].entry, world.settled[3].entry
    assert (again.attempt_kind, again.operation, again.cause, again.conversation) == ("retry", "retry", "reask", "c1")
    assert (fallback.attempt_kind, fallback.operation, fallback.cause) == ("fallback", "fallback", "5xx:claude-small")
    assert json.loads(fallback.evidence)["cause"]["ratio_per_cent"] == 1500


def test_a_loop_is_named_in_the_rows_that_it_costs():
    """From four times the same call with the same result on; of more than six the row has what an incident needs."""
    world = World(lambda send: claude(USE))
    talk = [HUMAN]
    for n in range(8):
        play(asking(talk, n + 1, n + 1), desk(), world)
        talk += [{"role": "assistant", "content": [{**USE, "id": f"t{n}"}]},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{n}", "content": "nothing found"}]}]  # fmt: skip
    causes = [s.entry.cause for s in world.settled]
    assert causes == [""] * 4 + ["loop"] * 4
    told = json.loads(world.settled[-1].entry.evidence)["loop"]
    assert told == {"rule": "same", "tools": ["lookup_order"], "times": 7, "stop": True, "last": "{}"}
    assert json.loads(world.settled[4].entry.evidence)["loop"]["stop"] is False
    polled = desk()
    polled = replace(polled, polls={"lookup_order": 50})
    play(asking(talk, 20, 20), polled, world)
    assert world.settled[-1].entry.cause == ""


def test_an_ambiguous_conversation_stops_nobody():
    """Two openings, two answers, all the same: whose turn comes next nobody can say, so a hard budget of the conversation is soft."""
    budget = Budget(scope="conversation", limit="$0.000001", window="conversation")
    holds = []
    world = World(lambda send: claude(SORRY), hold_says=lambda hold: holds.append(hold.charges))
    for n in range(2):
        play(asking([HUMAN], n + 1, n + 1), desk([budget]), world)
    play(asking([HUMAN, {"role": "assistant", "content": [SORRY]}, {"role": "user", "content": "go on"}], 3, 3), desk([budget]), world)
    assert [charges[0].hard for charges in holds] == [True, True, False]
    assert json.loads(world.settled[-1].entry.evidence)["ambiguous"] is True


def test_a_try_that_timed_out_after_sending_stays_at_its_hold():
    """The provider may bill it; unknown is never zero."""
    fault = Fault("headers_timeout", "no head in 600 s", True)
    played = play(call(), desk(), World(lambda send: Served(fault=fault)))
    (entry,) = played.entries
    assert entry.status == "unknown" and entry.cost == played.holds[0].amount > 0 and entry.price_status == "estimated"
    assert played.answer is not None and played.answer.status == 504


def test_a_connection_that_was_never_made_costs_nothing():
    """Nothing was sent, so nothing can be billed: that zero is known."""
    played = play(call(), desk(), World(lambda send: Served(fault=Fault("connect", "refused", False))))
    assert (played.entries[0].cost, played.entries[0].status) == (0, "error")
    assert played.answer is not None and played.answer.status == 502


def test_a_short_budget_refuses_with_the_providers_own_shape_and_leaves_a_row():
    """402, x-should-retry: false, no Retry-After: seventeen clients give up at once on this and only this."""
    budget = Budget(scope="tenant", limit="$1", window="day")
    world = World(lambda send: respond(completion()), hold_says=lambda hold: Short(hold.charges[0], 10**9, 0))
    played = play(call(headers=[(b"x-bursar-tenant", b"acme")]), desk([budget]), world)
    assert played.answer is not None and played.answer.status == 402 and not played.sent
    headers = dict(played.answer.headers)
    assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers
    assert json.loads(played.answer.body)["error"]["code"] == "budget_exceeded"
    assert [e.status for e in played.entries] == ["refused"] and played.entries[0].cost == 0


def test_an_unpriced_model_is_refused_under_a_hard_budget_of_money_and_guessed_without_one():
    """Unknown price: refuse, or the dearest plausible price, flagged. Never zero."""
    refused = play(
        call("mystery"), desk([Budget(scope="all", limit="$5")]), World(lambda send: respond(completion("mystery")))
    )
    assert refused.answer is not None and json.loads(refused.answer.body)["error"]["code"] == "unpriced_model"
    (entry,) = play(call("mystery"), desk(), World(lambda send: respond(completion("mystery")))).entries
    assert entry.price_status == "estimated" and entry.cost == 10 * 15 * 10**6 + 5 * 30 * 10**6


@pytest.mark.parametrize(("text", "known"), [(6, 6 * 10**6), (0, None)])
def test_a_budget_counts_what_has_no_price_as_it_was_held(text, known):
    """Audio, for which this book has no rate: the row says what the rest cost, or nothing; the budget must not take that for all."""
    body = completion(prompt=10, output=0, usage={
        "prompt_tokens": 4 + text, "completion_tokens": 0, "total_tokens": 4 + text, "prompt_tokens_details": {"audio_tokens": 4}})  # fmt: skip
    world = World(lambda send: respond(body))
    play(call(), desk([Budget(scope="all", limit="$5")]), world)
    (settled,), (hold,) = world.settled, world.holds
    assert (settled.entry.price_status, settled.entry.cost) == ("unpriced", known)
    assert settled.actual[0] * 1000 == hold.charges[0].amount * 1000 == hold.amount > (known or 0)


def test_a_cap_is_sent_upstream_only_under_a_hard_budget():
    """Without one the client's request goes out as it came."""
    hard = play(call(), desk([Budget(scope="all", limit="$5")]), World(lambda send: respond(completion())))
    sent = json.loads(hard.sent[0].body)
    assert 1000 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    free = play(call(), desk(), World(lambda send: respond(completion())))
    assert free.sent[0].body == call().body


def test_when_the_ledger_cannot_say_hard_budgets_close_and_others_stay_open():
    """Our fault never breaks the caller's call unless the operator chose so, and the row tells."""
    broken = dict(hold_says=lambda hold: Fault("disk_full", "no space left", False))
    closed = play(call(), desk([Budget(scope="all", limit="$5")]), World(lambda send: respond(completion()), **broken))
    assert closed.answer is not None and closed.answer.status == 503 and not closed.sent
    assert json.loads(closed.answer.body)["error"]["code"] == "budget_unverifiable"
    opened = play(
        call(),
        desk([Budget(scope="all", limit="$5", on_fault="open")]),
        World(lambda send: respond(completion()), **broken),
    )
    assert opened.answer is not None and opened.answer.status == 200
    assert opened.entries[0].flags == "fault_open"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"model": 5}', b'{"model": "a", "model": "b"}', b"\xff\xfe{}"])
def test_a_malformed_body_is_refused_before_anything_is_held(body):
    """A clear 400 in the dialect's shape; nothing held, nothing sent, nothing lost."""
    played = play(replace(call(), body=body), desk(), World(lambda send: respond(completion())))
    assert played.steps == ["reply 400"]
    assert played.answer is not None and json.loads(played.answer.body)["error"]["code"] == "malformed_json"


def test_an_unknown_provider_is_named_with_those_that_are_known():
    """The remedy is in the message."""
    played = play(call(path="/nowhere/v9/things"), desk(), World(lambda send: respond(completion())))
    assert played.answer is not None and played.answer.status == 404
    assert "openai" in json.loads(played.answer.body)["error"]["message"]


def test_a_path_we_do_not_speak_is_passed_through_and_said_to_be_unpriced():
    """Recorded, byte for byte, and never booked as zero."""
    files = replace(call(path="/openai/v1/audio/transcriptions"), body=b"--x\r\nbinary\x00\xff\r\n--x--")
    played = play(files, desk(), World(lambda send: respond(b'{"text":"hi"}')))
    (entry,) = played.entries
    assert entry.price_status == "unpriced" and entry.cost is None
    assert played.sent[0].body == files.body and played.answer is not None and played.answer.body == b'{"text":"hi"}'
    reads = play(
        replace(call(path="/v1/models"), method="GET", body=b""), desk(), World(lambda send: respond(b'{"data":[]}'))
    )
    assert (reads.entries[0].cost, reads.entries[0].price_status) == (0, "free")


def test_label_headers_never_reach_a_provider_and_trace_headers_do():
    """Ours and other gateways' labels are stripped; traceparent and baggage are the client's own."""
    headers = [(b"x-bursar-tenant", b"acme"), (b"helicone-auth", b"s"), (b"x-litellm-tags", b"a"), (b"x-portkey-metadata", b"{}"),
               (b"traceparent", b"00-1"), (b"baggage", b"a=b"), (b"cookie", b"c"), (b"x-forwarded-for", b"1.2.3.4"),
               (b"connection", b"x-secret"), (b"x-secret", b"s"), (b"authorization", b"Bearer k")]  # fmt: skip
    played = play(call(headers=headers), desk(), World(lambda send: respond(completion())))
    sent = {name for name, _ in played.sent[0].headers}
    assert sent == {b"content-type", b"traceparent", b"baggage", b"authorization"}


def test_a_key_with_a_list_of_models_may_use_no_other():
    """403, and a row that says so."""
    played = play(call("large"), desk(), World(lambda send: respond(completion())), Caller("k1", {}, ("small",)))
    assert played.answer is not None and played.answer.status == 403
    assert (played.entries[0].status, played.entries[0].error) == ("refused", "model_not_allowed")


def test_an_error_inside_a_200_stream_is_an_error():
    """The status line is not the outcome."""
    pieces = [CHUNK, b'data: {"error":{"message":"overloaded","type":"server_error","code":"overloaded"}}\n\n']
    (entry,) = play(call(stream=True), desk(), World(lambda send: stream(pieces))).entries
    assert entry.status == "error" and entry.error and entry.cost


def test_rows_recompute_from_their_legs():
    """count x price, to the last digit, for every row of every test above that has a bill."""
    (entry,) = play(call(), desk(), World(lambda send: respond(completion(prompt=123, output=457)))).entries
    legs = json.loads(entry.legs)
    assert sum(leg[3] for leg in legs) == entry.cost
    assert Decimal(entry.cost or 0) == sum(Decimal(leg[1]) * Decimal(leg[2]) / 1000 for leg in legs)
    parts = (entry.cost_input, entry.cost_cache_read, entry.cost_cache_write, entry.cost_output, entry.cost_other)
    assert sum(p or 0 for p in parts) == entry.cost
