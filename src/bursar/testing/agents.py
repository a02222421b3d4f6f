"""The agents of the demo's story: each plans the requests of one conversation or one job, with what will be answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from random import Random

from .invoice import PRICES, Buckets
from .planned import LOOP, SDK_RETRY, Planned, Thread, Who, failed
from .shapes import GROWTH, PARALLEL, PROMPT, REPLY, TOOL_TURNS, TURNS, contexts, draw
from .talk import ANTHROPIC, CHAT, EMBEDDINGS, GEMINI, RESPONSES, Body, Result, Setup, Talk, Tool, Use

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

QUESTIONS = ("Where is my parcel?", "I was charged twice.", "Please change my address.", "How do I return this?",
             "My code does not work.", "Can I have an invoice?", "It arrived broken.")  # fmt: skip


def labels(who: Who, operation: str = "", **free: str) -> dict[str, str]:
    """The headers of a client that says who pays."""
    said = {
        "tenant": who.tenant, "feature": who.feature, "flow": who.flow, "user": who.user, "conversation": who.conversation,
        "operation": operation, "labels": json.dumps(free) if free else "",
    }  # fmt: skip
    return {f"x-bursar-{name}": value for name, value in said.items() if value}


def pause(rng: Random, human: bool) -> int:
    """Microseconds until the next call: a person reads and types, a tool answers."""
    return rng.randint(20 * SECOND, 180 * SECOND) if human else rng.randint(2 * SECOND, 15 * SECOND)


def malformed(rng: Random) -> Iterator[bool]:
    """After the update: one reply in each ten, at a random place among them."""
    while True:
        at = rng.randrange(MALFORMED_ONE_IN)
        yield from (i == at for i in range(MALFORMED_ONE_IN))


SUPPORT = Setup(
    "You help customers of the shop. Follow the handbook.",
    (
        Tool("search_handbook", "Search the handbook.", ("query",)),
        Tool("issue_refund", "Pay money back.", ("order", "amount")),
    ),
    json_demanded=True,
)


def support(rng: Random, who: Who, spoils: Iterator[bool]) -> Iterator[Planned]:
    """The support agent on Haiku. It demands JSON; a reply that `spoils` is none, and the gateway asks Opus instead, with the
    whole context, at fifteen times the price."""
    talk, thread = Talk(SUPPORT), Thread(who, labels=labels(who))
    talk.human(rng.choice(QUESTIONS))
    ts = who.ts_us
    turns = draw(rng, TURNS)
    for turn, tokens in enumerate(contexts(rng, turns, SCALE, CONTEXT_MAX)):
        used = Buckets(input=tokens, output=draw(rng, REPLY))
        acts = rng.random() < TOOL_TURNS and turn < turns - 1
        uses = [Use("search_handbook", {"query": f"{rng.choice(QUESTIONS)} {turn}"})] if acts else []
        if acts and rng.random() < PARALLEL:
            uses.append(Use("issue_refund", {"order": f"A-{rng.randrange(1000, 9999)}", "amount": str(rng.randint(5, 90))}))
        reply = json.dumps({"reply": f"I have looked into it ({turn})."})
        spoilt, ident = next(spoils), thread.ident
        yield thread.plan(
            ts, ANTHROPIC, FALLBACK_FROM, talk.body(ANTHROPIC, FALLBACK_FROM), used, turn=talk.humans, text=reply, uses=uses,
            say={"fault": "malformed"} if spoilt else None, second=(FALLBACK_TO, used) if spoilt else None,
        )  # fmt: skip
        if uses:
            talk.acts(ident, uses, [Result(f"section {turn}: see the returns policy") for _ in uses])
        else:
            talk.says(reply)
            talk.human(rng.choice(QUESTIONS))
        ts += pause(rng, human=not uses)


ORDERS = Setup(
    "You look after orders. Look up before you answer.",
    (Tool(FLAKY, "Look an order up.", ("order",)), Tool("track_parcel", "Where a parcel is.", ("parcel",))),
)


def orders(rng: Random, who: Who, flaky: bool) -> Iterator[Planned]:
    """The order agent on Sonnet, streamed. When `lookup_order` is flaky, each failed result makes it ask again, up to five
    times, and each time the whole context is paid again."""
    model = "claude-sonnet-4-5"
    talk, thread = Talk(ORDERS), Thread(who, labels=labels(who))
    order = f"A-{rng.randrange(1000, 9999)}"
    talk.human(f"What about order {order}?")
    ts = who.ts_us
    # With the tool down a conversation gets nowhere: two lookups, and an apology.
    turns = 3 if flaky else max(3, draw(rng, TURNS) // 2)
    sizes = iter(contexts(rng, turns + 12, SCALE, CONTEXT_MAX))
    text = f"Order {order} is on its way."

    def ask(uses: list[Use], failing: bool) -> Planned:
        return thread.plan(
            ts, ANTHROPIC, model, talk.body(ANTHROPIC, model, stream=True), Buckets(input=next(sizes), output=draw(rng, REPLY)),
            turn=talk.humans, text=text, uses=uses, keys=failed(FLAKY, again=True) if failing else (), stream=True,
        )  # fmt: skip

    lookups = 0
    for turn in range(turns):
        looks_up = turn < turns - 1 and lookups < 2 and (flaky or turn % 2 == 0)
        uses = [Use(FLAKY, {"order": order})] if looks_up else []
        if not uses and turn < turns - 1 and rng.random() < TOOL_TURNS:
            uses = [Use("track_parcel", {"parcel": f"P-{turn}"})]
        ident = thread.ident
        yield ask(uses, failing=False)
        lookups += looks_up
        if looks_up and flaky:
            times, weights = zip(*ASKS_AGAIN, strict=True)
            again = rng.choices(times, weights)[0]
            for _ in range(again):
                talk.acts(ident, uses, [Result("Error: lookup_order timed out after 10 s", flagged=True)])
                ts += pause(rng, human=False)
                ident = thread.ident
                yield ask(uses, failing=True)  # the last time it works, and what has been paid until then is the tool's
        if uses:
            talk.acts(ident, uses, [Result('{"state": "shipped"}')])
        else:
            talk.says(text)
            talk.human(f"And the next one, number {turn + 2}?")
        ts += pause(rng, human=not uses)


RESEARCH = Setup(
    "You research companies and cite filings.",
    (Tool("search_filings", "Search all filings.", ("query",)), Tool("read_page", "Read a page.", ("url",))),
)


def research(rng: Random, who: Who) -> Iterator[Planned]:
    """The research agent on Opus 4.5: long contexts from the first turn."""
    model = "claude-opus-4-5"
    talk, thread = Talk(RESEARCH), Thread(who, labels=labels(who))
    talk.human(f"Summarise the risks of customer {rng.randrange(100, 999)}.")
    ts = who.ts_us
    turns = draw(rng, TURNS)
    for turn, tokens in enumerate(contexts(rng, turns, SCALE * 1.25, CONTEXT_MAX)):
        uses = [Use("search_filings", {"query": f"risk {turn}"})] if rng.random() < TOOL_TURNS and turn < turns - 1 else []
        text = f"Finding {turn}: exposure is moderate."
        ident = thread.ident
        yield thread.plan(
            ts, ANTHROPIC, model, talk.body(ANTHROPIC, model), Buckets(input=tokens, output=draw(rng, REPLY)), turn=talk.humans,
            text=text, uses=uses,
        )  # fmt: skip
        if uses:
            talk.acts(ident, uses, [Result(f"filing {turn}: see item 1A")])
        else:
            talk.says(text)
            talk.human(f"Go deeper into finding {turn}.")
        ts += pause(rng, human=not uses)


def runaway(rng: Random, who: Who) -> Iterator[Planned]:
    """Six hours at night: the same search, the same result, every ninety seconds, and nobody looks."""
    model = "claude-opus-4-5"
    talk, thread = Talk(RESEARCH), Thread(who, labels=labels(who))
    talk.human("Find the 2019 annual report.")
    uses = [Use("search_filings", {"query": "annual report 2019"})]
    for step in range(240):
        ident = thread.ident
        yield thread.plan(
            who.ts_us + step * 90 * SECOND, ANTHROPIC, model, talk.body(ANTHROPIC, model, history="pinned", keep=10),
            Buckets(input=min(CONTEXT_MAX, 60_000 + step * 520), output=90), turn=1, uses=uses, keys=((LOOP, ""),) if step else (),
        )  # fmt: skip
        talk.acts(ident, uses, [Result("no results")])


def judge(rng: Random, who: Who) -> Iterator[Planned]:
    """One eval case: Opus 4.5 reads a transcript and grades it."""
    tokens = round(draw(rng, PROMPT) * SCALE * 1.2 + draw(rng, GROWTH) * SCALE * 11)
    case = rng.randrange(10_000)
    body = Body.of({
        "model": "claude-opus-4-5",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": f"Grade this transcript (case {case}): ..."}],
    })  # fmt: skip
    used = Buckets(input=min(CONTEXT_MAX, tokens), output=1500 + draw(rng, REPLY))
    suite = {"suite": who.flow, "trigger": who.flow}
    yield Thread(who, purpose="eval", labels=labels(who, "eval", **suite)).plan(
        who.ts_us, ANTHROPIC, "claude-opus-4-5", body, used, turn=1, text=f"Grade: {rng.randint(1, 5)}", **suite
    )


def reindex(rng: Random, who: Who, dollars: Decimal) -> Iterator[Planned]:
    """A batch of the nightly re-embedding, as large as the money says: the corpus grows, and all of it is done again."""
    tokens = int(dollars * 1_000_000 / Decimal(PRICES["text-embedding-3-large"]["input"]))
    body = Body.of({
        "model": "text-embedding-3-large",
        "input": [f"chunk {rng.randrange(100_000)} of the catalogue" for _ in range(3)],
        "encoding_format": "base64",
    })  # fmt: skip
    thread = Thread(who, purpose="embedding", name=f"reindex-{who.ts_us // SECOND}", labels=labels(who, corpus="catalogue"))
    yield thread.plan(who.ts_us, EMBEDDINGS, "text-embedding-3-large", body, Buckets(input=tokens), corpus="catalogue")


ASSISTANT = Setup("You help the staff.")


def assistant(rng: Random, who: Who) -> Iterator[Planned]:
    """The staff assistant on GPT-5 through the Responses API, streamed: a cached prefix, some reasoning, and now and then a
    429 or a 500 that the SDK retries by itself."""
    talk, thread = Talk(ASSISTANT), Thread(who, labels=labels(who))
    ts = who.ts_us
    for turn, tokens in enumerate(contexts(rng, max(2, draw(rng, TURNS) // 3), SCALE * 1.25, CONTEXT_MAX)):
        talk.human(f"Question {turn} on the quarter's figures")
        cached = tokens * 3 // 4 // 128 * 128 if turn else 0
        used = Buckets(tokens - cached, cached, output=draw(rng, REPLY), reasoning=draw(rng, REPLY) * 2)
        where = (RESPONSES, "gpt-5", talk.body(RESPONSES, "gpt-5", stream=True), used)
        retry = None
        if rng.random() < 0.03:
            yield thread.plan(ts, *where, turn=talk.humans, stream=True, say={"status": int(rng.choice(("429", "500")))})
            ts += 2 * SECOND
            retry = 1
        text = f"Answer {turn}: up by {rng.randint(1, 9)} per cent."
        yield thread.plan(
            ts, *where, turn=talk.humans, text=text, stream=True, retry=retry, keys=((SDK_RETRY, ""),) if retry else ()
        )
        talk.says(text)
        ts += pause(rng, human=True)


def triage(rng: Random, who: Who) -> Iterator[Planned]:
    """Ticket triage on GPT-5 nano through chat completions, streamed: many calls, next to no money."""
    talk = Talk(TRIAGE)
    talk.human(rng.choice(QUESTIONS))
    # A third of the callers never learned to say who they are: the share that nobody can attribute.
    who = replace(who, feature=who.feature if rng.random() < 0.67 else "")
    yield Thread(who, labels=labels(who)).plan(
        who.ts_us, CHAT, "gpt-5-nano", talk.body(CHAT, "gpt-5-nano", stream=True),
        Buckets(input=draw(rng, PROMPT), output=4, reasoning=draw(rng, REPLY)), turn=1, text="shipping", stream=True,
    )  # fmt: skip


TRIAGE = Setup("Answer with one word: billing, shipping, other.")


def digest(rng: Random, who: Who) -> Iterator[Planned]:
    """A background digest on Gemini 2.5 Flash: everything of the day in one prompt."""
    body = Body.of({"contents": [{"role": "user", "parts": [{"text": f"Digest of the day, part {rng.randrange(100)}: ..."}]}]})
    yield Thread(who, purpose="background", labels=labels(who, "background")).plan(
        who.ts_us, GEMINI, "gemini-2.5-flash", body,
        Buckets(input=rng.randint(500_000, 800_000), output=draw(rng, REPLY) * 4, reasoning=800), turn=1, text="All quiet.",
    )  # fmt: skip
