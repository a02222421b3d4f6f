"""Recorded agent runs as steps and as chat messages: what threading and loop detection are measured on.

Where a text was not kept, its hash or length stands for it, so that what was equal stays equal. Nothing here is of the product.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A tool call that the model asked for, with what came of it (None: the run ended before)."""

    tool: str
    arguments: str
    result: str | None
    failed: bool = False


class Step(NamedTuple):
    """One paid call: what the model said, which calls it asked for, and about what it cost in dollars."""

    said: str
    calls: tuple[Call, ...]
    dollars: float
    human: str = ""  # what a person says after it


class Run(NamedTuple):
    name: str
    group: str
    solved: bool
    opening: str
    steps: tuple[Step, ...]
    greeting: str = ""


def lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as rows:
        for row in rows:
            yield json.loads(row)


# List prices of the models when they ran, dollars per million tokens read and written. The recorded costs of the Java runs are
# wrong for four of five models (see the set's README), so they are not used.
SWE_PRICES = {
    "gpt-4-0125-preview": (10, 30), "gpt-4o-2024-05-13": (5, 15), "gpt-4o-mini-2024-07-18": (0.15, 0.6),
    "doubao-pro-128k": (0.7, 1.25), "deepseek-chat-v2": (0.14, 0.28), "deepseek-coder-v2": (0.14, 0.28),
}  # fmt: skip
SHOWN = 5  # observations that SWE-agent shows whole; an older one is a line of some 40 characters
OLD = 40


def swe(data: Path) -> list[Run]:
    """SWE-agent. A step's share of the run's recorded tokens follows the characters it sent: opening, all replies before it,
    the last five observations whole, older ones as a line."""
    runs: list[Run] = []
    for row in lines(data / "agent-swe" / "trajectories.jsonl.gz"):
        steps = row["steps"]
        if not steps:
            continue
        opening = max(row["history_chars"] - sum(s["response_chars"] + s["obs_chars"] for s in steps), 2000)
        weights, replies = [], 0
        for n in range(len(steps)):
            shown = sum(s["obs_chars"] for s in steps[max(0, n - SHOWN) : n]) + OLD * max(0, n - SHOWN)
            weights.append(opening + replies + shown)
            replies += steps[n]["response_chars"]
        reads, writes = SWE_PRICES[row["model"]]
        made: list[Step] = []
        for step, weight in zip(steps, weights):
            dollars = (
                row["tokens_sent"] * weight / sum(weights) * reads
                + row["tokens_received"] * step["response_chars"] / max(replies, 1) * writes
            )
            command = step["cmd"] or "?"
            call = Call(
                (command.split() or ["?"])[0][:40], json.dumps({"command": command[:60], "sha": step["action_sha"]}),
                f"{step['obs_head']}\n{step['obs_sha']}" if step["obs_chars"] else "",
            )  # fmt: skip
            made.append(Step(f"thought of {step['thought_chars']} characters, {step['action_sha']}", (call,), dollars / 1e6))
        runs.append(Run(row["conv"], row["source"], bool(row["resolved"]), f"Solve {row['instance']}", tuple(made)))
    return runs


VORFLUX_PRICES = (5, 25)  # Opus 4.6
SAME = {"read": ("read_text_file", "read_multiple_files")}  # the span of a call has another name than the call
# What the harness runs by itself, with no model call that asked for it.
HARNESS = ("test -w /memory", "ls -d /memory", "mkdir -p /memory", "find /memory", "cat /tmp/_flush")


def vorflux(data: Path) -> list[Run]:
    """Multi-agent coding runs. A result belongs to the oldest call of its tool that has none yet; spans that no call asked for
    are the harness's. Tokens are characters / 4: a call reads the prompt and all that was said and answered in the run."""
    runs: list[Run] = []
    reads, writes = VORFLUX_PRICES
    for row in lines(data / "agent-vorflux" / "trajectories_compact.jsonl.gz"):
        names_kept = any(entry.get("calls") for entry in row["entries"])
        waiting: deque[tuple[str, int]] = deque()
        said: list[tuple[str, float]] = []
        calls: list[list[Call]] = []
        context = 0
        for entry in row["entries"]:
            if entry["t"] == "llm_call":
                if not said:
                    context = entry.get("prompt_chars", 0)
                out = entry["chars"] + entry["args_chars"]
                said.append((f"text of {entry['chars']} characters at {entry['ts']}", (context * reads + out * writes) / 4 / 1e6))
                context += out
                calls.append([])
                if names_kept:
                    waiting += [(name, len(calls) - 1) for name in entry["calls"]]
                else:
                    waiting = deque([("", len(calls) - 1)])  # the first span after a call is what it asked for
            elif entry["t"] == "tool_call" and not entry["arg"].startswith(HARNESS):
                asked = next((w for w in waiting if not w[0] or w[0] == entry["tool"] or entry["tool"] in SAME.get(w[0], ())), None)
                if asked is None:
                    continue
                waiting.remove(asked)
                context += entry["res_chars"]
                arguments = json.dumps({"arg": entry["arg"][:60], "sha": entry["args_sha"]})
                failed = entry.get("exit") not in (None, 0)
                calls[asked[1]].append(Call(entry["tool"], arguments, f"{entry['res_chars']} characters {entry['res_sha']}", failed))
        steps = tuple(Step(text, tuple(made), dollars) for (text, dollars), made in zip(said, calls))
        runs.append(Run(row["conv"], "vorflux", bool(row["resolved"]), f"Fix {row['conv']}", steps))
    return runs


TAU_PRICES = (2.5, 10)  # gpt-4o: only some runs state their own


def tau(data: Path) -> list[Run]:
    """Customer service, with people. Tokens are characters / 4."""
    runs: list[Run] = []
    reads, writes = TAU_PRICES
    for row in lines(data / "agent-tau" / "conversations.jsonl.gz"):
        opening = greeting = ""
        steps: list[Step] = []
        calls: dict[str, tuple[int, int]] = {}
        context = 0
        newest = (0, 0)
        for message in row["messages"]:
            text = message.get("content")
            text = (
                text if isinstance(text, str) else json.dumps(text) if text else f"sha {message['sha']}" if message.get("sha") else ""
            )
            if message["role"] == "assistant":
                if not opening:
                    greeting += text
                    continue
                made: list[Call] = []
                for call in message.get("tool_calls") or ():
                    newest = calls[call["id"]] = (len(steps), len(made))
                    made.append(Call(call["name"], json.dumps(call["arguments"]), None))
                dollars = (context / 4 * reads + message["chars"] / 4 * writes) / 1e6
                steps.append(Step(text, tuple(made), dollars))
            elif message["role"] == "tool" and steps:
                at, n = calls.get(message.get("tool_call_id") or "", newest)
                made = list(steps[at].calls)
                if n < len(made):
                    made[n] = made[n]._replace(result=text)
                    steps[at] = steps[at]._replace(calls=tuple(made))
            elif message["role"] == "user":
                if steps:
                    steps[-1] = steps[-1]._replace(human=steps[-1].human + text)
                else:
                    opening += text
            context += message["chars"]
        if steps and opening:
            runs.append(Run(f"{row['source']}/{row['conv']}", "tau", row["reward"] == 1, opening, tuple(steps), greeting))
    return runs


class Turn(NamedTuple):
    """A request of a run as chat messages, and the reply to it."""

    before: int  # how many of the run's messages it sends
    reply: dict[str, Any]


def messages(run: Run, system: str = "You are an agent.") -> tuple[list[dict[str, Any]], list[Turn]]:
    """A run as the messages that a stateless client would have at the end, and where each of its requests stood."""
    out: list[dict[str, Any]] = [{"role": "system", "content": system}]
    if run.greeting:
        out.append({"role": "assistant", "content": run.greeting})
    out.append({"role": "user", "content": run.opening})
    turns: list[Turn] = []
    for n, step in enumerate(run.steps):
        reply: dict[str, Any] = {"role": "assistant", "content": step.said or None}
        answered = [call for call in step.calls if call.result is not None]
        if answered:
            reply["tool_calls"] = [
                {"id": f"call_{n}_{at}", "type": "function", "function": {"name": call.tool, "arguments": call.arguments}}
                for at, call in enumerate(answered)
            ]  # fmt: skip
        turns.append(Turn(len(out), reply))
        out.append(reply)
        out += [{"role": "tool", "tool_call_id": f"call_{n}_{at}", "content": call.result} for at, call in enumerate(answered)]
        if step.human:
            out.append({"role": "user", "content": step.human})
    return out, turns


NUMBER = re.compile(r"\d+")
