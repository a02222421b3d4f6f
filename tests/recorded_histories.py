"""Recorded agent runs as histories of sizes (and text, where it was kept), and the replay of a compaction setting over them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bursar.domain.outline import Message, Outline, Piece
from bursar.rules import compact
from bursar.rules.horizon import Horizon

CHARS_A_TOKEN = 4
ANTHROPIC = compact.Rates(10, 125, 500)  # hundredths of the input price: read .1, five-minute write 1.25, output 5
HOUR = compact.Rates(10, 200, 500)
OPENAI_25 = compact.Rates(25, 100, 400)  # gpt-4.1
OPENAI_10 = compact.Rates(10, 100, 800)  # gpt-5
UNCACHED = compact.Rates(100, 100, 500)
CHEAP = compact.Rates(33, 33, 167)  # a summariser at a third of the price, reading without a cache (haiku beside sonnet)


class Said(NamedTuple):
    """One message. `size` in characters; `call`: a model call wrote it; `ts` in seconds, 0 where nobody recorded it."""

    role: str
    size: int
    text: str = ""
    tool: str = ""
    failed: bool = False
    argument: int = 0  # characters of it that are a call's arguments
    values: tuple[str, ...] = ()  # what later calls' arguments refer to
    call: bool = False
    ts: float = 0.0


class Run(NamedTuple):
    flow: str
    name: str
    said: list[Said]


def rows(data: Path, name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(data / name, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def swe(data: Path, base: bool = True) -> Iterator[Run]:
    """SWE-agent. `base`: with the system prompt and demonstration as recorded, else the run's own history alone."""
    for row in rows(data, "agent-swe/trajectories.jsonl.gz"):
        steps = row["steps"]
        own = sum(step["response_chars"] + step["obs_chars"] for step in steps)
        said = [Said("human", max(row["history_chars"] - own, 0) if base else 0)]
        for step in steps:
            head = step["obs_head"]
            argument = min(step["action_chars"], step["response_chars"])
            said.append(Said("model", max(step["response_chars"], 4), argument=argument, call=True))
            said.append(Said("result", max(step["obs_chars"], 4), tool=step["cmd"].split(" ")[0][:20], failed="rror" in head or "not found" in head))
        yield Run(f"{row['source']}/{row['run']}", row["conv"], said)


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif value is not None and not isinstance(value, bool) and len(str(value)) >= 3:
        yield str(value)


def tau(data: Path) -> Iterator[Run]:
    """Customer service: full text from two sources, lengths alone from the third."""
    for row in rows(data, "agent-tau/conversations.jsonl.gz"):
        said: list[Said] = []
        names: dict[str, str] = {}
        for message in row["messages"]:
            text = message.get("content") or ""
            size = message.get("chars") or len(text)
            match message["role"]:
                case "system":
                    said.append(Said("system", size, text))
                case "user":
                    said.append(Said("human", max(size, 4), text))
                case "assistant":
                    calls = message.get("tool_calls") or []
                    names |= {call["id"]: call["name"] for call in calls if call.get("id")}
                    arguments = json.dumps([call["arguments"] for call in calls]) if calls else ""
                    values = tuple(value for call in calls for value in leaves(call["arguments"]))
                    said.append(Said("model", max(size + len(arguments), 4), text + arguments, argument=len(arguments), values=values, call=True))
                case _:
                    tool = message.get("name") or names.get(message.get("tool_call_id"), "")
                    said.append(Said("result", max(size, 4), text, tool, text.startswith("Error")))
        if said[0].role != "system":
            said.insert(0, Said("system", 6_000))  # the policy, which these sources leave out
        said[0] = said[0]._replace(size=said[0].size + 10_000)  # fourteen tools' schemas, which none of them records
        yield Run(f"{row['source']}/{row['domain']}", row["conv"], said)


def claude_code(data: Path) -> Iterator[Run]:
    """Claude Code on retail tasks: lengths, and the first call's real input as the base."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    for row in rows(data, "agent-claude-code-tau2/transcript_lines.jsonl.gz"):
        sessions.setdefault(row["conv"], []).append(row)
    for name, lines in sessions.items():
        said: list[Said] = []
        last, base = "", 0
        for line in lines:
            message = line.get("message") or {}
            parts = message.get("content")
            if not isinstance(parts, list):
                continue
            if message["role"] == "assistant":
                usage = message.get("usage") or {}
                if message["id"] != last:
                    base = base or CHARS_A_TOKEN * sum(
                        usage.get(k, 0) for k in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"))  # fmt: skip
                    said.append(Said("model", 0, call=True))
                    last = message["id"]
                size = sum(
                    len(json.dumps(p.get("input", {}))) + 60 if p["type"] == "tool_use" else p.get("chars", 0) + p.get("signature_chars", 0)
                    for p in parts)  # fmt: skip
                said[-1] = said[-1]._replace(size=max(said[-1].size + size, 4))
            else:
                for part in parts:
                    if part["type"] == "tool_result":
                        said.append(Said("result", max(part["chars"], 4), text="{", failed=bool(part.get("is_error"))))
                    else:
                        said.append(Said("human", max(part.get("chars", 0), 4)))
        if base:
            yield Run(f"claude-code-tau2/{name.split('-')[0]}", name, [Said("system", base), *said])


def vorflux(data: Path) -> Iterator[Run]:
    """Long coding runs with times: lengths."""
    for row in rows(data, "agent-vorflux/trajectories_compact.jsonl.gz"):
        said = [Said("system", 12_000)]
        for entry in row["entries"]:
            ts = datetime.fromisoformat(entry["ts"]).timestamp()
            if entry["t"] == "llm_call":
                if len(said) == 1:
                    said.append(Said("human", entry.get("prompt_chars", 4_000)))
                argument = entry.get("args_chars") or 0
                said.append(Said("model", max(entry["chars"] + argument, 4), argument=argument, call=True, ts=ts))
            elif entry["t"] == "tool_call":
                said.append(Said("result", max(entry.get("res_chars") or 0, 4), tool=entry["tool"], failed=entry.get("exit") not in (0, None), ts=ts))
        yield Run("vorflux", row["conv"], said)


WORD = re.compile(r"[A-Za-z0-9_][\w./-]{3,}")


def vorflux_text(data: Path, longest: int) -> Iterator[Run]:
    """The quarter of them with full text, up to so many model calls. What a command refers to are its words."""
    for row in rows(data, "agent-vorflux/trajectories_full_sample.jsonl.gz"):
        said = [Said("system", 12_000)]
        for entry in row["trajectory"]:
            if entry["type"] == "llm_call":
                if entry.get("task_prompt") and len(said) == 1:
                    text = json.dumps(entry["task_prompt"])
                    said.append(Said("human", len(text), text))
                out = entry.get("output") or {}
                calls = [call["function"]["arguments"] for call in out.get("tool_calls") or []]
                text = (out.get("content") or "") + "".join(calls)
                words = dict.fromkeys(word.strip("./-") for call in calls for word in WORD.findall(call))
                said.append(Said("model", max(len(text), 4), text, argument=sum(map(len, calls)), values=tuple(w for w in words if len(w) >= 4), call=True))
            elif entry["type"] == "tool_call":
                result = entry["result"]
                if isinstance(result, dict) and "stdout" in result:
                    text, failed = (result["stdout"] or "") + (result["stderr"] or ""), result.get("exitCode") not in (0, None)
                else:
                    text, failed = result if isinstance(result, str) else json.dumps(result), False
                said.append(Said("result", max(len(text), 4), text, entry["tool"], failed))
        if sum(s.call for s in said) <= longest:
            yield Run("vorflux", row["instance_id"], said)


# --- replay ---


class Replayed(NamedTuple):
    """Costs in input-token prices: of the full history, of what was sent, and of the summaries in it."""

    full: float
    sent: float
    control: float
    calls: int

    def __add__(self, other: Replayed) -> Replayed:  # type: ignore[override]
        return Replayed(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def change(self) -> float:
        return 100 * (self.sent / self.full - 1) if self.full else 0.0


def outlines(said: list[Said]) -> Iterator[tuple[Outline, int]]:
    """The outline of each model call's request, and where its answer stands. An argument is a piece of its own."""
    messages: list[Message] = []
    pieces: list[Piece] = []
    at = 0
    for n, one in enumerate(said):
        if one.call:
            yield Outline(tuple(messages), tuple(pieces)), n
        messages.append(Message(one.role, at, at + one.size, key=str(n)))
        if one.role == "result":
            kind = "record" if one.text[:1] in "{[" and one.text else "text"
            pieces.append(Piece(kind, f"r{n}", n, one.tool, one.failed, at, at + one.size))
        elif one.argument:
            pieces.append(Piece("argument", f"a{n}", n, "", False, at + one.size - one.argument, at + one.size))
        at += one.size


def text_for(said: list[Said]) -> Callable[[Piece], str]:
    """A piece's text; where only its length was recorded, one that fills the longest line allowed."""

    def text(piece: Piece) -> str:
        known = said[piece.message].text
        return known if len(known) > 1 and piece.kind != "argument" else " ".join(f"id{n}x" for n in range(60))

    return text


class Flow:
    """What a flow's conversations share: how long they were, and what they have cost."""

    def __init__(self) -> None:
        self.horizon = Horizon()
        self.full = self.sent = 0


def replay(
    run: Run, setting: compact.Setting, rates: compact.Rates, flow: Flow, summariser: compact.Rates | None = None,
    ttl_s: float = 300.0,
) -> Replayed:  # fmt: skip
    """One run, with the recorded continuation held fixed: prices are exact, changes of behaviour are not seen. The flow knows
    the runs before this one, and learns this one's warm stretches."""
    horizon = flow.horizon
    state = compact.State()
    text = text_for(run.said)
    began = flow.full, flow.sent
    control = before = before_sent = calls = stretch = 0
    now = last = 0.0
    for outline, at in outlines(run.said):
        calls += 1
        now = run.said[at].ts or now + 10.0
        cold = now - last > ttl_s and calls > 1
        if cold:
            horizon.learn(stretch)
            stretch = 0
        stretch += 1
        total = outline.messages[-1].end
        cached = 0 if cold or rates.read >= rates.write else before
        output = rates.output * run.said[at].size
        purse = compact.purse(flow.full, flow.sent)
        flow.full += rates.read * cached + rates.write * (total - cached) + output
        decision = compact.decide(outline, setting, rates, state, int(now * 1e6), purse, horizon.left(stretch), summariser)
        made, state = compact.lines(decision, outline, setting, text)
        size = decision.sent
        cached = 0 if cold or rates.read >= rates.write else max(before_sent - decision.broken, 0)
        if decision.fresh or (decision.standing and decision.standing.fresh):
            cached = min(cached, unchanged(outline, decision, state))
        flow.sent += rates.read * min(cached, size) + rates.write * max(size - cached, 0) + output
        if decision.ask is not None:
            paid = decision.ask.price
            flow.sent, control = flow.sent + paid, control + paid
            state = compact.summarised(outline, state, decision.ask, "s" * setting.summary)
        state = compact.remember(state, decision, int(now * 1e6), int(ttl_s * 1e6), 1.0 if rates.read < rates.write else 0.0)
        before, before_sent, last = total, size, now
    horizon.learn(stretch)
    scale = 100 * CHARS_A_TOKEN
    return Replayed((flow.full - began[0]) / scale, (flow.sent - began[1]) / scale, control / scale, calls)


def unchanged(outline: Outline, decision: compact.Decision, state: compact.State) -> int:
    """How much of what is sent is, from its start, what was sent before: up to the first change made in this call."""
    removed = 0
    if decision.standing and decision.standing.fresh:
        return outline.messages[decision.standing.first].start
    hidden = range(0)
    if decision.standing:
        first = decision.standing.first
        hidden = range(first, first + decision.standing.span)
    fresh = set(decision.gone[:]) - set(known_before(decision, outline))
    at = min(outline.pieces[i].start for i in fresh)
    for i in decision.gone:
        piece = outline.pieces[i]
        if i not in fresh and piece.start < at:
            removed += piece.end - piece.start - len(decision.state.lines[piece.key]) - 2
    if decision.standing and outline.messages[hidden.start].start < at:
        removed += outline.messages[hidden.stop].start - outline.messages[hidden.start].start - len(decision.standing.text)
    return at - removed


def known_before(decision: compact.Decision, outline: Outline) -> Iterator[int]:
    return (i for i in decision.gone if outline.pieces[i].key in decision.state.lines)


def lost(runs: list[Run], setting: compact.Setting) -> tuple[int, int]:
    """(values of later calls' arguments that the full history shows, those of them that it no longer shows once everything old
    is elided). Arguments themselves are left whole: what is asked is what the lines keep of the results."""
    shown = gone = 0
    for run in runs:
        lines: dict[int, str] = {}
        for outline, at in outlines(run.said):
            if not run.said[at].values:
                continue
            old = {
                outline.pieces[i].message for i in compact.old(outline, setting, *compact.ages(outline))
                if outline.pieces[i].kind != "argument"
            }  # fmt: skip
            for n in old - lines.keys():
                one = run.said[n]
                limit = setting.record_line if one.text[:1] in "{[" else setting.text_line
                lines[n] = compact.line(one.text, f"{one.tool} result", limit)
            full = "\n".join(said.text for said in run.said[:at])
            cut = "\n".join(lines[n] if n in old else said.text for n, said in enumerate(run.said[:at]))
            for value in run.said[at].values:
                if value in full:
                    shown += 1
                    gone += value not in cut
    return shown, gone


def by_flow(
    runs: list[Run], setting: compact.Setting, rates: compact.Rates, summariser: compact.Rates | None = None, ttl_s: float = 300.0
) -> dict[str, Replayed]:
    """Runs in their recorded order; each flow learns from its own."""
    flows: dict[str, Flow] = {}
    found: dict[str, Replayed] = {}
    for run in runs:
        done = replay(run, setting, rates, flows.setdefault(run.flow, Flow()), summariser, ttl_s)
        found[run.flow] = found.get(run.flow, Replayed(0, 0, 0, 0)) + done
    return found


def total(flows: dict[str, Replayed], prefix: str = "") -> Replayed:
    done = Replayed(0, 0, 0, 0)
    for flow, its in flows.items():
        if flow.startswith(prefix):
            done += its
    return done
