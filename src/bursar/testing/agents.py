"""The simulated company's agents: each writes the requests of one conversation or one job, with what will be answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

from .invoice import NOTHING, PRICES, Buckets, cost
from .shapes import GROWTH, PARALLEL, PROMPT, REPLY, TOOL_TURNS, TURNS, contexts, draw

SECOND = 1_000_000  # all times are microseconds since the epoch, UTC

# Recorded prompts have 4,400 tokens at the median. These agents carry handbooks, order histories and filings: thirty times
# that, which is also how some nine thousand calls come to a bill of thousands of dollars. Bodies stay small all the same:
# the scripted provider reports the tokens it is told to.
SCALE = 30.0
CONTEXT_MAX = 185_000  # where the agents' framework starts to cut: below Anthropic's window of 200,000

MALFORMED_ONE_IN = 10  # of the support agent's replies, after the provider's update
FALLBACK_FROM, FALLBACK_TO = "claude-haiku-4-5", "claude-opus-4-1"  # $1/$5 against $15/$75: fifteen times, in every bucket
FLAKY = "lookup_order"
ASKS_AGAIN = ((1, 5), (2, 10), (3, 15), (4, 20), (5, 50))  # times after a failed lookup, and how often out of a hundred

SCHEMA = {
    "type": "object",
    "properties": {"reply": {"type": "string"}},
    "required": ["reply"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One request to the gateway, what the provider will answer, and what it costs by the provider's prices."""

    ts_us: int
    tenant: str  # labels as they should end up in the ledger; empty: nobody says it
    feature: str
    flow: str
    purpose: str  # primary | eval | embedding | background
    conversation: str
    user: str
    family: str  # openai | anthropic | gemini
    path: str  # of the provider's own API
    model: str
    body: dict[str, Any]
    headers: dict[str, str]  # labels, the script, an SDK's retry count: everything but the credential
    stream: bool
    expected: Buckets  # of the first try
    outcome: str  # ok | malformed | tool_error (the request brings a failed tool result) | 429 | 500
    cause: str  # the truth about why this money is spent: empty, or tool:NAME, loop, sdk_retry
    dollars: Decimal  # of the first try
    fallback: Buckets | None = None  # what the dearer model uses when the gateway falls back to it
    fallback_dollars: Decimal = Decimal(0)

    @property
    def operation(self) -> str:
        """What the first try should be booked as."""
        return "retry" if self.cause.startswith("tool:") or self.cause == "sdk_retry" else self.purpose


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a conversation is for, and when it starts."""

    ts_us: int
    tenant: str
    user: str
    conversation: str


def request(
    who: Who,
    ts_us: int,
    feature: str,
    flow: str,
    purpose: str,
    family: str,
    path: str,
    model: str,
    body: dict[str, Any],
    used: Buckets,
    *,
    text: str = "",
    tools: tuple[tuple[str, str], ...] = (),
    outcome: str = "ok",
    cause: str = "",
    retry: int = 0,
    fallback: Buckets | None = None,
) -> Planned:
    """Labels and script put into headers, dollars worked out."""
    stream = bool(body.get("stream")) or "stream" in path
    script: dict[str, Any] = {"at_us": ts_us, "pieces": 3}
    if outcome in ("429", "500"):
        script["status"], used = int(outcome), NOTHING
    else:
        script["usage"] = {name: count for name in Buckets.__slots__ if (count := getattr(used, name))}
        if text:
            script["text"] = text
        if outcome == "malformed":
            script["fault"] = "malformed"  # of the text that was demanded as JSON; the tool call is the second model's
        elif tools:
            script["tools"] = tools
        if fallback is not None:
            second: dict[str, Any] = {"fault": "", "usage": {"input": fallback.input, "output": fallback.output}}
            script["models"] = {FALLBACK_TO: second | ({"tools": tools} if tools else {})}
    labels = {"tenant": who.tenant, "feature": feature, "flow": flow, "user": who.user, "conversation": who.conversation}
    headers = {f"x-bursar-{name}": value for name, value in labels.items() if value}
    if purpose in ("eval", "background"):
        headers["x-bursar-operation"] = purpose
    headers["x-script"] = json.dumps(script, separators=(",", ":"))
    if retry:
        headers["x-stainless-retry-count"] = str(retry)
    return Planned(
        ts_us, who.tenant, feature, flow, purpose, who.conversation, who.user, family, path, model, body, headers, stream,
        used, outcome, cause, _dollars(model, used), fallback,
        _dollars(FALLBACK_TO, fallback) if fallback is not None else Decimal(0),
    )  # fmt: skip


def _dollars(model: str, used: Buckets) -> Decimal:
    owed = cost(PRICES, model, used)
    assert owed is not None, model
    return owed


def tool(name: str, *fields: str) -> dict[str, Any]:
    """A tool as Anthropic's API takes it."""
    properties = {field: {"type": "string"} for field in fields}
    return {"name": name, "input_schema": {"type": "object", "properties": properties, "required": list(fields)}}


class Talk:
    """An Anthropic conversation as it grows; each request sends all of it again."""

    def __init__(self, rng: Random, model: str, system: str, tools: list[dict[str, Any]], **more: Any) -> None:
        self.rng, self.model, self.messages = rng, model, list[dict[str, Any]]()
        self.fixed = {"model": model, "max_tokens": 4096, "system": system, "tools": tools, **more}
        self.calls = 0

    def human(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def body(self, window: int = 0) -> dict[str, Any]:
        """`window`: only so many messages from the end, as frameworks do that keep a loop running."""
        kept = self.messages[-window:] if window else self.messages
        return {**self.fixed, "messages": [*kept]}

    def says(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})

    def uses(self, calls: list[tuple[str, dict[str, str]]], results: list[tuple[str, bool]]) -> None:
        """Tool calls of a reply, and what the tools answered: (text, failed)."""
        asked: list[dict[str, Any]] = []
        answered: list[dict[str, Any]] = []
        for (name, arguments), (result, failed) in zip(calls, results, strict=True):
            self.calls += 1
            ident = f"toolu_{self.calls:04d}"
            asked.append({"type": "tool_use", "id": ident, "name": name, "input": arguments})
            block: dict[str, Any] = {"type": "tool_result", "tool_use_id": ident, "content": result}
            answered.append({**block, "is_error": True} if failed else block)
        self.messages.append({"role": "assistant", "content": asked})
        self.messages.append({"role": "user", "content": answered})


def script_of(calls: list[tuple[str, dict[str, str]]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(arguments)) for name, arguments in calls)


def _pause(rng: Random, human: bool) -> int:
    return rng.randint(20 * SECOND, 180 * SECOND) if human else rng.randint(2 * SECOND, 15 * SECOND)


QUESTIONS = ("Where is my parcel?", "I was charged twice.", "Please change my address.", "How do I return this?",
             "My code does not work.", "Can I have an invoice?", "It arrived broken.")  # fmt: skip


def malformed(rng: Random) -> Iterator[bool]:
    """After the update: one reply in each ten, at a random place among them."""
    while True:
        at = rng.randrange(MALFORMED_ONE_IN)
        yield from (i == at for i in range(MALFORMED_ONE_IN))


def support(rng: Random, who: Who, spoils: Iterator[bool]) -> Iterator[Planned]:
    """The support agent on Haiku. It demands JSON; a reply that `spoils` is none, and the gateway asks Opus instead, with the
    whole context, at fifteen times the price."""
    tools = [tool("search_handbook", "query"), tool("issue_refund", "order", "amount")]
    talk = Talk(
        rng, FALLBACK_FROM, "You help customers of the shop. Follow the handbook.", tools,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    talk.human(rng.choice(QUESTIONS))
    ts = who.ts_us
    turns = draw(rng, TURNS)
    for turn, tokens in enumerate(contexts(rng, turns, SCALE, CONTEXT_MAX)):
        used = Buckets(input=tokens, output=draw(rng, REPLY))
        acts = rng.random() < TOOL_TURNS and turn < turns - 1
        calls = [("search_handbook", {"query": f"{rng.choice(QUESTIONS)} {turn}"})] if acts else []
        if acts and rng.random() < PARALLEL:
            calls.append(("issue_refund", {"order": f"A-{rng.randrange(1000, 9999)}", "amount": str(rng.randint(5, 90))}))
        reply = json.dumps({"reply": f"I have looked into it ({turn})."})
        spoilt = next(spoils)
        yield request(
            who, ts, "support", "chat", "primary", "anthropic", "/v1/messages", FALLBACK_FROM, talk.body(), used,
            text=reply, tools=script_of(calls), outcome="malformed" if spoilt else "ok", fallback=used if spoilt else None,
        )  # fmt: skip
        if calls:
            talk.uses(calls, [(f"section {turn}: see the returns policy", False) for _ in calls])
        else:
            talk.says(reply)
            talk.human(rng.choice(QUESTIONS))
        ts += _pause(rng, human=not calls)


def orders(rng: Random, who: Who, flaky: bool) -> Iterator[Planned]:
    """The order agent on Sonnet, streamed. When `lookup_order` is flaky, each failed result makes it ask again, up to five
    times, and each time the whole context is paid again."""
    tools = [tool(FLAKY, "order"), tool("track_parcel", "parcel")]
    talk = Talk(rng, "claude-sonnet-4-5", "You look after orders. Look up before you answer.", tools, stream=True)
    order = f"A-{rng.randrange(1000, 9999)}"
    talk.human(f"What about order {order}?")
    ts = who.ts_us
    # With the tool down a conversation gets nowhere: two lookups, and an apology.
    turns = 3 if flaky else max(3, draw(rng, TURNS) // 2)
    sizes = iter(contexts(rng, turns + 12, SCALE, CONTEXT_MAX))

    def ask(calls: list[tuple[str, dict[str, str]]], failed: bool) -> Planned:
        return request(
            who, ts, "orders", "status", "primary", "anthropic", "/v1/messages", "claude-sonnet-4-5", talk.body(),
            Buckets(input=next(sizes), output=draw(rng, REPLY)), text=f"Order {order} is on its way.",
            tools=script_of(calls), outcome="tool_error" if failed else "ok", cause=f"tool:{FLAKY}" if failed else "",
        )  # fmt: skip

    lookups = 0
    for turn in range(turns):
        looks_up = turn < turns - 1 and lookups < 2 and (flaky or turn % 2 == 0)
        calls = [(FLAKY, {"order": order})] if looks_up else []
        if not calls and turn < turns - 1 and rng.random() < TOOL_TURNS:
            calls = [("track_parcel", {"parcel": f"P-{turn}"})]
        yield ask(calls, failed=False)
        lookups += looks_up
        if looks_up and flaky:
            times, weights = zip(*ASKS_AGAIN, strict=True)
            again = rng.choices(times, weights)[0]
            for _ in range(again):
                talk.uses(calls, [("Error: lookup_order timed out after 10 s", True)])
                ts += _pause(rng, human=False)
                yield ask(calls, failed=True)  # the last time it works, and what has been paid until then is the tool's
        if calls:
            talk.uses(calls, [('{"state": "shipped"}', False)])
        else:
            talk.says(f"Order {order} is on its way.")
            talk.human("And the next one?")
        ts += _pause(rng, human=not calls)


def research(rng: Random, who: Who) -> Iterator[Planned]:
    """The research agent on Opus 4.5: long contexts from the first turn."""
    tools = [tool("search_filings", "query"), tool("read_page", "url")]
    talk = Talk(rng, "claude-opus-4-5", "You research companies and cite filings.", tools)
    talk.human(f"Summarise the risks of customer {rng.randrange(100, 999)}.")
    ts = who.ts_us
    turns = draw(rng, TURNS)
    for turn, tokens in enumerate(contexts(rng, turns, SCALE * 1.25, CONTEXT_MAX)):
        calls = [("search_filings", {"query": f"risk {turn}"})] if rng.random() < TOOL_TURNS and turn < turns - 1 else []
        text = f"Finding {turn}: exposure is moderate."
        yield request(
            who, ts, "research", "report", "primary", "anthropic", "/v1/messages", "claude-opus-4-5", talk.body(),
            Buckets(input=tokens, output=draw(rng, REPLY)), text=text, tools=script_of(calls),
        )  # fmt: skip
        if calls:
            talk.uses(calls, [(f"filing {turn}: see item 1A", False)])
        else:
            talk.says(text)
            talk.human("Go deeper.")
        ts += _pause(rng, human=not calls)


def runaway(rng: Random, who: Who) -> Iterator[Planned]:
    """Six hours at night: the same search, the same result, every ninety seconds, and nobody looks."""
    talk = Talk(rng, "claude-opus-4-5", "You research companies and cite filings.", [tool("search_filings", "query")])
    talk.human("Find the 2019 annual report.")
    call = ("search_filings", {"query": "annual report 2019"})
    for step in range(240):
        yield request(
            who, who.ts_us + step * 90 * SECOND, "research", "report", "primary", "anthropic", "/v1/messages",
            "claude-opus-4-5", talk.body(window=21), Buckets(input=min(CONTEXT_MAX, 60_000 + step * 520), output=90),
            tools=script_of([call]), cause="loop" if step else "",
        )  # fmt: skip
        talk.uses([call], [("no results", False)])


def judge(rng: Random, who: Who, flow: str) -> Iterator[Planned]:
    """One eval case: Opus 4.5 reads a transcript and grades it."""
    tokens = round(draw(rng, PROMPT) * SCALE * 1.2 + draw(rng, GROWTH) * SCALE * 11)
    case = rng.randrange(10_000)
    body = {
        "model": "claude-opus-4-5",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": f"Grade this transcript (case {case}): ..."}],
    }
    yield request(
        who, who.ts_us, "evals", flow, "eval", "anthropic", "/v1/messages", "claude-opus-4-5", body,
        Buckets(input=min(CONTEXT_MAX, tokens), output=1500 + draw(rng, REPLY)), text=f"Grade: {rng.randint(1, 5)}",
    )  # fmt: skip


def reindex(rng: Random, who: Who, dollars: Decimal) -> Iterator[Planned]:
    """A batch of the nightly re-embedding, as large as the money says: the corpus grows, and all of it is done again."""
    tokens = int(dollars * 1_000_000 / Decimal(PRICES["text-embedding-3-large"]["input"]))
    body = {
        "model": "text-embedding-3-large",
        "input": [f"chunk {rng.randrange(100_000)} of the catalogue" for _ in range(3)],
        "encoding_format": "base64",
    }
    yield request(
        who, who.ts_us, "search", "reindex", "embedding", "openai", "/v1/embeddings", "text-embedding-3-large", body,
        Buckets(input=tokens),
    )  # fmt: skip


def assistant(rng: Random, who: Who) -> Iterator[Planned]:
    """The staff assistant on GPT-5 through the Responses API, streamed: a cached prefix, some reasoning, and now and then a
    429 or a 500 that the SDK retries by itself."""
    history: list[dict[str, Any]] = []
    ts = who.ts_us
    for turn, tokens in enumerate(contexts(rng, max(2, draw(rng, TURNS) // 3), SCALE * 1.25, CONTEXT_MAX)):
        history.append({"role": "user", "content": f"Question {turn} on the quarter's figures"})
        cached = tokens * 3 // 4 // 128 * 128 if turn else 0
        used = Buckets(tokens - cached, cached, output=draw(rng, REPLY), reasoning=draw(rng, REPLY) * 2)
        body: dict[str, Any] = {"model": "gpt-5", "instructions": "You help the staff.", "input": [*history], "stream": True}
        where = ("assistant", "ask", "primary", "openai", "/v1/responses", "gpt-5", body, used)
        retry = 0
        if rng.random() < 0.03:
            yield request(who, ts, *where, outcome=rng.choice(("429", "500")))
            ts += 2 * SECOND
            retry = 1
        text = f"Answer {turn}: up by {rng.randint(1, 9)} per cent."
        yield request(who, ts, *where, text=text, retry=retry, cause="sdk_retry" if retry else "")
        history.append({"role": "assistant", "content": text})
        ts += _pause(rng, human=True)


def triage(rng: Random, who: Who) -> Iterator[Planned]:
    """Ticket triage on GPT-5 nano through chat completions, streamed: many calls, next to no money."""
    body = {
        "model": "gpt-5-nano",
        "stream": True,
        "messages": [
            {"role": "system", "content": "Answer with one word: billing, shipping, other."},
            {"role": "user", "content": rng.choice(QUESTIONS)},
        ],
    }
    # A third of the callers never learned to say who they are: the share that nobody can attribute.
    feature = "triage" if rng.random() < 0.67 else ""
    yield request(
        who, who.ts_us, feature, "", "primary", "openai", "/v1/chat/completions", "gpt-5-nano", body,
        Buckets(input=draw(rng, PROMPT), output=4, reasoning=draw(rng, REPLY)), text="shipping",
    )  # fmt: skip


def digest(rng: Random, who: Who) -> Iterator[Planned]:
    """A background digest on Gemini 2.5 Flash: everything of the day in one prompt."""
    body = {"contents": [{"role": "user", "parts": [{"text": f"Digest of the day, part {rng.randrange(100)}: ..."}]}]}
    yield request(
        who, who.ts_us, "digest", "daily", "background", "gemini", "/v1beta/models/gemini-2.5-flash:generateContent",
        "gemini-2.5-flash", body, Buckets(input=rng.randint(500_000, 800_000), output=draw(rng, REPLY) * 4, reasoning=800),
        text="All quiet.",
    )  # fmt: skip
