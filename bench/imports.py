"""Imports and exports by themselves: lines a second, CPU and peak memory, of a million spend logs and of our own rows.

`python -m bench.imports [LINES] [FOLDER]` prints a table. Each step is a process of its own, as the command is. CPU is that process's and,
behind it, the one's that reads the files for it; `moved` is what moving rows from the tail to segments took afterwards."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

LINES = 1_000_000
MODELS = (
    ("openai", "gpt-5-mini", 0.25, 2),
    ("openai", "gpt-4o-mini", 0.15, 0.6),
    ("anthropic", "claude-sonnet-4-5", 3, 15),
    ("openai", "gpt-5", 1.25, 10),
)

CHILD = """
import json, resource, sys, time
from bursar.surfaces.cli import main
from bursar.surfaces.imports import intake
taken = {}
compact = intake.Intake._compact
def timed(self, last=False):
    if last:
        of = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.update(seconds=self.seconds, cpu=time.process_time(), other=of.ru_utime + of.ru_stime)
    compact(self, last)
intake.Intake._compact = timed
began = time.monotonic()
try:
    main(sys.argv[1:])
finally:
    for name, value in (('seconds', time.monotonic() - began), ('cpu', time.process_time()), ('other', 0)):
        taken.setdefault(name, value)
    taken.update(all=time.monotonic() - began, rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(json.dumps(taken), file=sys.stderr)
"""


def spend_logs(path: Path, lines: int) -> None:
    """A month of LiteLLM's rows, oldest first, some 1.4 KB each."""
    chance = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for n in range(lines):
            provider, model, read, write = chance.choice(MODELS)
            into, out, cached = chance.randrange(50, 9000), chance.randrange(5, 900), chance.choice((0, 0, 1024))
            begin = datetime(2026, 10, 1) + timedelta(seconds=n * 30 * 86400 / lines)
            usage = {
                "prompt_tokens": into,
                "completion_tokens": out,
                "total_tokens": into + out,
                "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": min(cached, into)},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }
            file.write(
                json.dumps(
                    {
                        "request_id": f"chatcmpl-{chance.getrandbits(96):024x}",
                        "call_type": "acompletion",
                        "api_key": f"{chance.getrandbits(256):064x}",
                        "spend": (into * read + out * write) / 1e6,
                        "total_tokens": into + out,
                        "prompt_tokens": into,
                        "completion_tokens": out,
                        "startTime": begin.isoformat() + "+00:00",
                        "endTime": (begin + timedelta(seconds=2.345)).isoformat() + "+00:00",
                        "completionStartTime": (begin + timedelta(seconds=0.4)).isoformat() + "+00:00",
                        "model": model,
                        "model_id": f"{n % 7:032x}",
                        "model_group": model,
                        "custom_llm_provider": provider,
                        "api_base": "https://api.openai.com/v1/",
                        "user": f"user-{n % 97}",
                        "metadata": {
                            "user_api_key_alias": f"key-{n % 12}",
                            "user_api_key_team_id": f"team-{n % 9}",
                            "user_api_key_team_alias": f"Team {n % 9}",
                            "spend_logs_metadata": {"feature": f"feature-{n % 12}", "pr": str(n % 50)},
                            "requester_ip_address": "10.0.0.1",
                            "applied_guardrails": [],
                            "status": "success",
                            "usage_object": usage,
                        },
                        "cache_hit": "False",
                        "cache_key": "Cache OFF",
                        "request_tags": ["env:prod", f"team:{n % 9}"],
                        "team_id": f"team-{n % 9}",
                        "end_user": f"tenant-{int(chance.paretovariate(1.1)) % 200}",
                        "requester_ip_address": "10.0.0.1",
                        "messages": {},
                        "response": {},
                        "session_id": f"conv-{n // 12}",
                        "status": "success",
                    }
                )
                + "\n"
            )


def run(*words: object) -> dict[str, float]:
    """One command in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", CHILD, *map(str, words)], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{words}: {ran.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ran.stderr.splitlines()[-1])
    return found


def main(arguments: list[str]) -> int:
    lines = int(arguments[0]) if arguments else LINES
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-", dir=arguments[1] if len(arguments) > 1 else None))
    try:
        logs, rows, ledger = folder / "logs.jsonl", folder / "rows.jsonl", folder / "ledger"
        spend_logs(logs, lines)
        print(f"{'':<26}{'lines/s':>10}{'CPU µs':>8}{'reader':>8}{'MB':>6}{'moved s':>9}")
        steps = (
            ("import litellm", ("import", "litellm", logs, "--ledger", ledger)), ("again: nothing is new", ("import", "litellm", logs, "--ledger", ledger)),
            ("export jsonl", ("export", "jsonl", "--ledger", ledger, "--out", rows)), ("import jsonl", ("import", "jsonl", rows, "--ledger", folder / "other")),
            ("export csv", ("export", "csv", "--ledger", ledger, "--out", folder / "x.csv")), ("export focus", ("export", "focus", "--ledger", ledger, "--tags",
             "team", "--out", folder / "f.csv")), ("export parquet", ("export", "parquet", "--ledger", ledger, "--out", folder / "x.parquet")),
        )  # fmt: skip
        for name, words in steps:
            began = time.monotonic()
            took = run(*words)
            moved = time.monotonic() - began - took["seconds"] if words[0] == "import" else 0
            cpu, other = (took[which] / lines * 1e6 for which in ("cpu", "other"))
            print(
                f"{name:<26}{lines / took['seconds']:>10,.0f}{cpu:>8.1f}{other:>8.1f}{took['rss'] / 1024:>6.0f}{moved:>9.1f}",
                flush=True,
            )
        print(f"largest helper process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MB")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
